use std::ops::ControlFlow;
use std::sync::Arc;

use jiff::tz::TimeZone;
use meterline_schemas::Frequency;
use meterline_schemas::time::HOUR;

use super::*;
use crate::booster::Params;
use crate::data::Series;
use crate::forecasters::boosted_trees::{BoostedSpec, BoostedTrees};
use crate::forecasters::linear_quantile::LinearQuantile;
use crate::forecasters::seasonal_naive::Naive;

const HOURS: usize = 24;

fn truth(hour: usize) -> f32 {
    10.0 + (hour % HOURS) as f32 + 3.0 * ((hour / HOURS) % 7) as f32 + ((hour * 7919) % 11) as f32 / 100.0
}

fn panel(days: usize) -> Panel {
    let values: Vec<f32> = (0..days * HOURS).map(truth).collect();
    let twice = values.iter().map(|value| 2.0 * value).collect();
    let series = vec![Series::new("a", 0, values), Series::new("b", 0, twice)];
    Panel::new(Frequency::HOUR, TimeZone::UTC, series)
}

/// Value of a series, by its place in the panel, at a step.
type Value = dyn Fn(usize, &Series, usize) -> f64 + Send + Sync;

// What forecasts these values, whatever it was fitted to.
#[derive(Clone)]
struct Fake {
    name: &'static str,
    value: Arc<Value>,
}

impl Fake {
    fn of(name: &'static str, value: impl Fn(usize, &Series, usize) -> f64 + Send + Sync + 'static) -> Box<dyn Model> {
        Box::new(Fake { name, value: Arc::new(value) })
    }
}

impl Model for Fake {
    fn name(&self) -> &str {
        self.name
    }

    fn fit(&self, _: &Panel, _: &Task, _: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
        Ok(Box::new(self.clone()))
    }
}

impl Forecaster for Fake {
    fn name(&self) -> &str {
        self.name
    }

    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        let of = |(place, series): (usize, &Series)| {
            let value = |step: usize| (self.value)(place, series, step);
            let quantiles = |step| std::array::from_fn(|level| value(step) + (level as f64 - MEDIAN as f64) / 100.0);
            Ok(SeriesForecast {
                mean: (0..horizon).map(value).collect(),
                quantiles: (0..horizon).map(quantiles).collect(),
            })
        };
        panel.series.iter().enumerate().map(of).collect()
    }
}

// What is always right about `panel` within a twentieth, or as far beside that as is said of a place.
fn beside(name: &'static str, by: impl Fn(usize) -> f64 + Send + Sync + 'static) -> Box<dyn Model> {
    let right = |place: usize, hour: usize| (1.0 + place as f64) * f64::from(truth(hour));
    Fake::of(name, move |place, series, step| right(place, series.values.len() + step) + by(place))
}

fn fitted(auto: &Auto, days: usize) -> FittedAuto {
    fitted_to(auto, &panel(days))
}

fn fitted_to(auto: &Auto, panel: &Panel) -> FittedAuto {
    auto.fit_all(panel, &Task::new(HOURS, 7 * HOURS, 1), &mut |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn what_was_right_before_is_what_counts() {
    let of = |name, by: f64| beside(name, move |_| by);
    let auto = Auto::of("some", vec![of("wrong", 9.0), of("right", 0.0), of("worse", -20.0)]);
    let fitted = fitted(&auto, 80);
    let report = fitted.report().unwrap();
    assert!(report.contains("right 1.00"), "{report}");
    let told = fitted.explain();
    let weight = |name: &str| told.iter().find(|row| row.part == Part::Weight && row.term == name).unwrap().value;
    assert_eq!((weight("right"), told[0].model.as_str()), (1.0, "some"));
    assert!(told.iter().any(|row| row.part == Part::Loss && row.term == "right" && row.value <= 1.0));
    let forecast = fitted.forecast(&panel(80), HOURS).remove(1).unwrap();
    let wanted = 2.0 * f64::from(truth(80 * HOURS + 5));
    assert!((forecast.quantiles[5][MEDIAN] - wanted).abs() < 0.1, "{forecast:?} {wanted}");
}

#[test]
fn series_are_forecast_by_the_models_that_were_right_of_them() {
    // Each is right about one series.
    let of = |name, right: usize| beside(name, move |place| if place == right { 0.0 } else { 4.0 });
    let auto = Auto::of("some", vec![of("first", 0), of("second", 1)]);
    let fitted = fitted(&auto, 80);
    assert!(fitted.report().unwrap().starts_with("weights by series"), "{}", fitted.report().unwrap());
    let told = fitted.explain();
    let weight = |series: &str, name: &str| {
        let is = |row: &&Explanation| row.series.as_deref() == Some(series) && row.term == name;
        told.iter().find(is).map_or(0.0, |row| row.value)
    };
    assert!(weight("a", "first") > 0.9 && weight("b", "first") < 0.1, "{told:?}");
    assert!((weight("a", "first") + weight("a", "second") - 1.0).abs() < 1e-9);
    for (number, forecast) in fitted.forecast(&panel(80), HOURS).into_iter().enumerate() {
        let wanted = (1.0 + number as f64) * f64::from(truth(80 * HOURS + 5));
        let found = forecast.unwrap().quantiles[5][MEDIAN];
        assert!((found - wanted).abs() < 0.5, "{number}: {found} {wanted}");
    }
    // One by another name is known to nobody.
    let mut other = panel(80);
    other.series[0].id = "c".to_owned();
    assert!(fitted.forecast(&other, HOURS).iter().all(Result::is_ok));
}

#[test]
fn with_a_short_history_all_count_alike() {
    let of = |name, by: f64| beside(name, move |_| by);
    let auto = Auto::of("some", vec![of("above", 2.0), of("below", -4.0)]);
    let fitted = fitted(&auto, 20);
    assert!(fitted.report().unwrap().contains("too short"));
    let forecast = fitted.forecast(&panel(20), HOURS).remove(0).unwrap();
    let wanted = f64::from(truth(20 * HOURS)) - 1.0;
    assert!((forecast.quantiles[0][MEDIAN] - wanted).abs() < 1e-6, "{forecast:?} {wanted}");
}

#[test]
fn out_of_time_no_further_candidate_is_tried() {
    let of = |name, by: f64| beside(name, move |_| by);
    // Before anything was compared, and once the first candidate was.
    for (end, compared) in [(0.0, false), (0.45, true)] {
        let auto = Auto::of("some", vec![of("first", 0.5), of("second", 0.0)]);
        let mut told = 0.0;
        let fitted = auto.fit_all(&panel(80), &Task::new(HOURS, 7 * HOURS, 1), &mut |done| {
            assert!(done.share >= told, "{} after {told}", done.share);
            told = done.share;
            if done.share >= end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let fitted = fitted.unwrap();
        let report = fitted.report().unwrap();
        assert!(report.contains("first 1.00") == compared && !report.contains("second"), "{report}");
        let forecast = fitted.forecast(&panel(80), HOURS).remove(0).unwrap();
        // What was compared was also corrected, and `second` never counts.
        let beside = forecast.quantiles[0][MEDIAN] - f64::from(truth(80 * HOURS));
        assert!(if compared { beside.abs() < 0.6 } else { (beside - 0.5).abs() < 1e-6 }, "{beside}");
    }
}

#[test]
fn what_is_kept_forecasts_the_same_and_the_same_seed_gives_the_same() {
    let params = Params { rounds: 20, ..Params::default() };
    let trees = |residuals_of| BoostedTrees {
        spec: BoostedSpec { params: params.clone(), residuals_of, ..BoostedSpec::default() },
    };
    let auto = || {
        let models: Vec<Box<dyn Model>> = vec![
            Box::new(Naive),
            Box::new(LinearQuantile::default()),
            Box::new(trees(None)),
            Box::new(trees(Some(Default::default()))),
        ];
        Auto::of("some", models)
    };
    let one = fitted(&auto(), 80);
    let told = one.explain();
    assert!(told.iter().any(|row| row.part == Part::Weight), "{told:?}");
    let bytes = one.artifact().unwrap();
    let kept = registry::load(&bytes, Device::Cpu).unwrap();
    assert_eq!((kept.name(), kept.report()), ("some", one.report()));
    let forecasts = one.forecast(&panel(80), HOURS);
    assert_eq!(kept.forecast(&panel(80), HOURS), forecasts);
    assert_eq!(fitted(&auto(), 80).artifact().unwrap(), bytes);
    for forecast in forecasts {
        let forecast = forecast.unwrap();
        assert!(forecast.quantiles.iter().all(|row| row.is_sorted()));
    }
    assert!(FittedAuto::from_bytes(&bytes[..bytes.len() - 1], Device::Cpu).is_err());
}

#[test]
fn series_that_have_just_begun_keep_nobody_from_a_model() {
    let mut panel = panel(80);
    // Six of eight are a week old.
    for number in 0..6 {
        let values = (73 * HOURS..80 * HOURS).map(truth).collect();
        panel.series.push(Series::new(format!("young {number}"), (73 * HOURS) as i64 * HOUR, values));
    }
    let models: Vec<Box<dyn Model>> = vec![Box::new(Naive), Box::new(LinearQuantile::default())];
    let task = Task::new(HOURS, 7 * HOURS, 1);
    let auto = Auto::of("some", models);
    let fitted = auto.fit(&panel, &task, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(fitted.forecast(&panel, HOURS).iter().all(Result::is_ok));
}

#[test]
fn of_hundreds_of_series_each_is_compared_with_its_own_values() {
    // The height of a series is in its identifier.
    let at = |name, by: f64| Fake::of(name, move |_, series, _| series.id.parse::<f64>().unwrap_or(f64::NAN) + by);
    let of = |number: usize| {
        let value = |hour: usize| number as f32 + ((hour * 7919) % 11) as f32 / 100.0 - 0.05;
        Series::new(number.to_string(), 0, (0..120 * HOURS).map(value).collect())
    };
    // Some of them are forecast from each origin.
    let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, (0..400).map(of).collect());
    let auto = Auto::of("some", vec![at("other", 1.0), at("own", 0.0)]);
    let fitted = fitted_to(&auto, &panel);
    let report = fitted.report().unwrap_or_default();
    assert!(report.contains("own 1.00") || report.starts_with("own alone"), "{report}");
    for (number, forecast) in fitted.forecast(&panel, HOURS).into_iter().enumerate() {
        let median = forecast.map(|forecast| forecast.quantiles[0][MEDIAN]);
        assert!(median.as_ref().is_ok_and(|median| (median - number as f64).abs() < 0.1), "{number}: {median:?}");
    }
}
