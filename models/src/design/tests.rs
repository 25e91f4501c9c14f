use jiff::tz::TimeZone;
use meterline_schemas::Frequency;
use meterline_schemas::location::Location;

use super::*;
use crate::data::{Column, Covariate, Series};

const HOURS: usize = 60 * 24;

// Temperature is known ahead, voltage is not.
fn panel() -> Panel {
    let values = (0..HOURS).map(|hour| (hour % 24) as f32 + (hour / 24) as f32 / 100.0).collect();
    let column = |factor: f32, count: usize| Column {
        offset: 0,
        values: (0..count).map(|hour| factor * (hour % 1000) as f32).collect(),
    };
    let mut series = Series::new("a", 0, values);
    series.covariates = vec![column(0.1, HOURS + 48), column(1.0, HOURS)];
    let covariate = |name: &str, known| Covariate { name: name.into(), known };
    Panel {
        covariates: vec![covariate("temperature", Known::Ahead), covariate("voltage", Known::Past)],
        ..Panel::new(Frequency::HOUR, TimeZone::UTC, vec![series])
    }
}

// With a place, so that each feature is there.
fn task() -> Task {
    Task { location: Location::new(52.1, 5.3).ok(), ..Task::new(48, 48, 1) }
}

fn row(panel: &Panel, origin: usize, step: usize) -> (Vec<f32>, Normal) {
    let design = Design::new(panel, &task());
    let mut out = vec![f32::MAX; design.width()];
    let normal = design.row(0, origin, step, &mut out).unwrap();
    (out, normal)
}

#[test]
fn every_feature_has_its_place_and_a_value() {
    let (row, _) = row(&panel(), 50 * 24, 47);
    let design = Design::new(&panel(), &task());
    for (name, value) in design.names().iter().zip(&row) {
        assert!(value.is_finite() && *value != f32::MAX, "{name}: {value}");
    }
}

#[test]
fn lags_are_the_newest_values_at_the_time_of_the_target() {
    let panel = panel();
    let design = Design::new(&panel, &task());
    for (step, hour) in [(0, 0), (23, 23), (24, 0), (40, 16)] {
        let origin = 50 * 24;
        let (row, normal) = row(&panel, origin, step);
        let lag = |name: &str| {
            let place = design.names().iter().position(|known| known == name).unwrap();
            f64::from(row[place]) * normal.spread + normal.level
        };
        for (name, day) in [("lag_1d", 49), ("lag_7d", 43)] {
            assert!((lag(name) - (hour as f64 + f64::from(day) / 100.0)).abs() < 1e-4, "{name} of step {step}");
        }
        // The same weekday a week before the target.
        let day = 50 + step / 24 - 7;
        assert!((lag("lag_1w") - (hour as f64 + day as f64 / 100.0)).abs() < 1e-4, "step {step}");
    }
}

#[test]
fn a_row_knows_nothing_of_what_comes_after_its_origin() {
    let plain = panel();
    let origin = 50 * 24 + 5;
    let mut poisoned = panel();
    poisoned.series[0].values[origin..].iter_mut().for_each(|value| *value = 1e9);
    let mut voltage = poisoned.series[0].covariates[1].values.to_vec();
    voltage[origin..].iter_mut().for_each(|value| *value = 1e9);
    poisoned.series[0].covariates[1].values = voltage.into();
    let mut temperature = poisoned.series[0].covariates[0].values.to_vec();
    temperature[origin + 48..].iter_mut().for_each(|value| *value = 1e9);
    poisoned.series[0].covariates[0].values = temperature.into();
    for step in [0, 1, 23, 24, 47] {
        let (before, normal) = row(&plain, origin, step);
        let (after, of_poisoned) = row(&poisoned, origin, step);
        assert_eq!(normal, of_poisoned);
        let design = Design::new(&plain, &task());
        for ((name, before), after) in design.names().iter().zip(before).zip(after) {
            assert_eq!(before, after, "{name} of step {step}");
        }
    }
}

#[test]
fn the_newest_values_are_enough_for_a_row() {
    let panel = panel();
    let origin = 59 * 24 + 5;
    let cut = panel.cut(origin as i64 * HOUR);
    let newest = cut.newest(lookback(Frequency::HOUR));
    assert!(newest.series[0].values.len() < origin);
    for step in [0, 1, 23, 24, 47] {
        let ((all, of_all), (some, of_some)) = (row(&cut, origin, step), row(&newest, 56 * 24, step));
        assert!((of_all.level - of_some.level).abs() < 1e-9 && (of_all.spread - of_some.spread).abs() < 1e-6);
        let design = Design::new(&cut, &task());
        for ((name, all), some) in design.names().iter().zip(all).zip(some) {
            assert!(
                (all - some).abs() < 1e-4 || (all.is_nan() && some.is_nan()),
                "{name} of step {step}: {all} {some}"
            );
        }
    }
}

#[test]
fn the_rows_of_a_part_are_those_of_the_whole() {
    let mut whole = panel();
    let series = |number: usize| {
        let mut series = whole.series[0].clone();
        series.id = format!("s{number}");
        series.values.iter_mut().for_each(|value| *value *= 1.0 + number as f32);
        series
    };
    whole.series = (0..5).map(series).collect();
    let (seen, task) = (Seen::of(&whole), task());
    let design = Design::new(&whole, &task);
    assert_eq!(seen.names(&whole, &task).names(), design.names());
    let wanted = Wanted { at_once: 2 * HOURS, ..Wanted::to_learn(&task) };
    let parts: Vec<DesignPart> = seen.parts(&whole, (0..9).step_by(2), wanted).collect();
    let numbers: Vec<&[usize]> = parts.iter().map(|part| &part.numbers[..]).collect();
    assert_eq!(numbers, [&[0, 2][..], &[4]]);
    let (mut all, mut some) = (vec![0.0; design.width()], vec![0.0; design.width()]);
    for part in &parts {
        for (place, number) in part.numbers.iter().enumerate() {
            assert_eq!(part.panel.series[place].id, whole.series[*number].id);
            let normal = design.row(*number, 50 * 24, 30, &mut all);
            assert_eq!((part.design.row(place, 50 * 24, 30, &mut some), &some), (normal, &all));
        }
    }
    let newest: Vec<DesignPart> = seen.parts(&whole, 0..5, Wanted { newest: 100, ..wanted }).collect();
    assert_eq!((newest.len(), newest[0].panel.longest(), newest[0].numbers.len()), (1, 100, 5));
}

#[test]
fn what_cannot_be_known_has_no_row_or_no_value() {
    let design = Design::new(&panel(), &task());
    let mut out = vec![0.0; design.width()];
    for (series, origin, step) in [(0, 0, 0), (0, HOURS + 1, 0), (0, 24, 48), (1, 24, 0)] {
        assert_eq!(design.row(series, origin, step, &mut out), None, "{series} {origin} {step}");
    }
    design.row(0, 24, 0, &mut out).unwrap();
    assert!(out[0].is_finite() && out[1].is_nan());
    let empty = Panel::new(Frequency::HOUR, TimeZone::UTC, vec![Series::new("b", 0, vec![f32::NAN; 9])]);
    let design = Design::new(&empty, &Task::new(24, 24, 1));
    assert_eq!(design.row(0, 5, 0, &mut out), None);
}

#[test]
fn rows_of_a_place_know_where_the_sun_stands() {
    let (panel, task) = (panel(), task());
    let without = Design::new(&panel, &Task::new(48, 48, 1));
    assert!(!without.names().iter().any(|name| name.starts_with("sun")));
    let design = Design::new(&panel, &task);
    assert_eq!(design.width(), without.width() + SUN.len() + SUN_SINCE.len());
    assert_eq!(design.condition_names().0.len(), without.condition_names().0.len() + SUN.len());
    // The panel begins with 1970, in Universal time: at noon of the 50th and at midnight of the 51st day.
    let of = |step: usize, name: &str| {
        let place = design.names().iter().position(|known| known == name).unwrap();
        row(&panel, 50 * 24, step).0[place]
    };
    let light = |hour: i64| crate::sun::sunlight(task.location.unwrap(), hour * HOUR, (hour + 1) * HOUR);
    let noon = light(50 * 24 + 12);
    assert_eq!((of(12, "sun"), of(12, "sun_elevation")), (noon.on_ground, noon.elevation));
    assert!(of(12, "sun") > 0.4 && of(24, "sun") == 0.0 && of(24, "sun_elevation") < -0.4);
    // Of the day and the week before the origin, as the lags are; days grow longer.
    for (step, name, back) in [(12, "sun_since_lag_1d", 1), (36, "sun_since_lag_1d", 2), (36, "sun_since_lag_1w", 7)] {
        let hour = 50 * 24 + step as i64;
        let expected = light(hour).on_ground - light(hour - 24 * back).on_ground;
        assert!((of(step, name) - expected).abs() < 1e-6 && expected > 0.0, "{name} of step {step}");
    }
    let week = (43 * 24..50 * 24).map(|hour| light(hour).on_ground / 168.0).sum::<f32>();
    assert!((of(0, "sun_last_week") - week).abs() < 1e-5);
}
