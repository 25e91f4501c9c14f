//! Random readings, in any order, with restarts and crashes, against a batch recomputation.

use std::collections::{BTreeMap, BTreeSet};

use meterline_schemas::reading::Quality;
use meterline_schemas::time::{DAY, HOUR, MINUTE, SECOND};
use proptest::prelude::*;

use super::aggregate::Rules;
use super::aggregate_run::{Run, drive, event, reading, readings, rules, run};
use super::oracle::{Content, Entry};
use super::outcome::{Change, Tally};
use super::rows::Layer;
use super::series::PendingReading;
use super::state::Counts;
use super::*;
use meterline_schemas::config::Label;
use meterline_schemas::reading::ValueKind;
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};

/// What a batch recomputation of these readings has, by start and end.
fn in_sql(
    readings: &[PendingReading],
    unit: &'static str,
    kind: ValueKind,
    label: Label,
    frequency: Frequency,
) -> BTreeMap<(Micros, Micros), Content> {
    let log: Vec<Entry> = readings
        .iter()
        .map(|PendingReading { at, value, quality, position, .. }| Entry {
            series: "s".into(),
            at: *at,
            value: *value,
            unit,
            quality: *quality,
            position: *position,
        })
        .collect();
    let zone = rules(kind, label, Some(frequency)).zone;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let found = runtime.block_on(oracle::intervals(&log, kind, label, frequency, &zone));
    found.into_iter().map(|((_, start, end), content)| ((start, end), content)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn intervals_equal_a_batch_recomputation(
        raw in readings(40),
        events in proptest::collection::vec(event(), 1..40),
        frequency in prop_oneof![
            Just(Frequency::QUARTER_HOUR), Just(Frequency::HOUR), Just(Frequency::Day), Just(Frequency::Week),
            Just(Frequency::Month),
        ],
        label in prop_oneof![Just(Label::Begin), Just(Label::End)],
        (wide, remembered, declines) in (any::<bool>(), 2..12usize, any::<bool>()),
    ) {
        let rules = Rules { remembered, ..rules(ValueKind::Interval, label, Some(frequency)) };
        let zone = rules.zone.clone();
        // Around the spring change of clocks; `wide` leaves holes longer than the state remembers.
        let origin = frequency.floor(1_711_000_000_000_000, &zone);
        let step = if wide { 11 } else { 1 };
        let readings: Vec<PendingReading> = raw
            .iter()
            .enumerate()
            .map(|(i, (slot, skew, value, quality, ts, partition))| {
                let boundary = frequency.advance(origin, slot * step, &zone);
                reading(boundary + skew * 30 * 1_000_000, f64::from(*value), *quality, (*ts, *partition, i as i64))
            })
            .collect();
        let mut run = Run::new(rules, &Unit::KW);
        run.declines = declines;
        let run = drive(run, &readings, &events);
        if !declines {
            // Every interval is accepted once, whatever was forgotten.
            prop_assert_eq!(run.counts.values().map(|c| c.accepted).sum::<u64>(), run.read().len() as u64);
        }

        let expected = in_sql(&readings, "kW", ValueKind::Interval, label, frequency);
        prop_assert_eq!(run.read_with_ends(), expected);
        prop_assert_eq!(run.dead, 0);
    }

    #[test]
    fn a_detected_frequency_loses_no_reading(
        raw in proptest::collection::vec((0..4i64, 0..3u8, 0..50i64, 0..3i32), 20..120),
        events in proptest::collection::vec(event(), 1..40),
        frequency in prop_oneof![
            Just(Frequency::QUARTER_HOUR), Just(Frequency::HOUR), Just(Frequency::Day), Just(Frequency::Week),
            Just(Frequency::Month),
        ],
    ) {
        let rules = rules(ValueKind::Interval, Label::Begin, None);
        let zone = rules.zone.clone();
        let origin = frequency.floor(1_700_000_000_000_000, &zone);
        // Mostly the next slot; sometimes one of the last ones again.
        let readings: Vec<PendingReading> = raw
            .iter()
            .enumerate()
            .map(|(i, (back, value, ts, partition))| {
                let slot = (i as i64 - if *back == 3 { 2 } else { 0 }).max(0);
                let at = frequency.advance(origin, slot, &zone);
                reading(at, f64::from(*value), Quality::Measured, (*ts, *partition, i as i64))
            })
            .collect();
        let run = run(rules, &Unit::KW, &readings, &events);
        let mut expected: BTreeMap<Micros, &PendingReading> = BTreeMap::new();
        for reading in &readings {
            let known = expected.entry(reading.at).or_insert(reading);
            if reading.position > known.position {
                *known = reading;
            }
        }
        match run.series.state.frequency {
            Some(found) => {
                prop_assert_eq!(found, frequency);
                let values: Vec<(Micros, f64)> = run.read().into_iter().map(|(at, row)| (at, row.0)).collect();
                let wanted: Vec<(Micros, f64)> = expected
                    .into_iter()
                    .map(|(at, r)| {
                        let hours = (frequency.advance(at, 1, &zone) - at) as f64 / HOUR as f64;
                        (at, r.value * hours)
                    })
                    .collect();
                prop_assert_eq!(values, wanted);
            }
            None => {
                let waiting: Vec<PendingReading> = run.series.state.extra().pending.iter().collect();
                let wanted: Vec<PendingReading> = expected.into_values().copied().collect();
                prop_assert_eq!(waiting, wanted);
            }
        }
    }

    #[test]
    fn counters_are_differences_of_adjacent_registers(
        raw in proptest::collection::vec((0..20i64, 0..14i64, 0..50i64, 0..3i32), 1..120),
        events in proptest::collection::vec(event(), 1..40),
        remembered in 2..9usize,
    ) {
        // A correction may make a difference negative, and another one positive again.
        let frequency = Frequency::HOUR;
        let rules = Rules { remembered, ..rules(ValueKind::Counter, Label::End, Some(frequency)) };
        let readings: Vec<PendingReading> = raw
            .iter()
            .enumerate()
            .map(|(i, (slot, wobble, ts, partition))| PendingReading {
                scale: Unit::KWH.scale(),
                ..reading(slot * HOUR, (slot * 10 + wobble) as f64, Quality::Measured, (*ts, *partition, i as i64))
            })
            .collect();
        let run = run(rules, &Unit::KWH, &readings, &events);
        let expected = in_sql(&readings, "kWh", ValueKind::Counter, Label::End, frequency);
        prop_assert_eq!(run.read_with_ends(), expected);
        prop_assert_eq!(run.dead, 0);
    }

    #[test]
    fn gauges_are_means_of_their_samples(
        mut raw in proptest::collection::vec((0..16 * 6i64, 0..8i64, 0..50i64, 0..3i32), 1..160),
        events in proptest::collection::vec(event(), 1..40),
        (remembered, label) in (2..9usize, prop_oneof![Just(Label::Begin), Just(Label::End)]),
        early in 0..40usize,
    ) {
        // Some in order, so that what is no longer remembered of the running hour goes on to be added to.
        let late = raw.len() * (early % 4) / 3;
        raw[late..].sort_by_key(|one| one.0);
        raw.rotate_left(if late > 0 { early % late } else { 0 });
        let frequency = Frequency::HOUR;
        let rules = Rules { remembered, ..rules(ValueKind::Gauge, label, Some(frequency)) };
        let readings: Vec<PendingReading> = raw
            .iter()
            .enumerate()
            .map(|(i, (slot, value, ts, partition))| {
                reading(slot * 10 * MINUTE, *value as f64, Quality::Measured, (*ts, *partition, i as i64))
            })
            .collect();
        let run = run(rules, &Unit::KW, &readings, &events);
        let expected = in_sql(&readings, "kW", ValueKind::Gauge, label, frequency);
        prop_assert_eq!(run.read_with_ends(), expected);
        prop_assert_eq!(run.dead, 0);
    }
}

#[test]
fn each_reading_of_an_interval_is_a_row_and_the_first_one_its_base() {
    let mut run = Run::new(rules(ValueKind::Interval, Label::End, Some(Frequency::HOUR)), &Unit::KW);
    run.apply(&reading(HOUR, 1.0, Quality::Estimated, (1, 0, 1)));
    run.apply(&reading(HOUR, 2.0, Quality::Measured, (2, 0, 2)));
    run.commit();
    run.apply(&reading(HOUR, 3.0, Quality::Measured, (3, 0, 3)));
    // Repeated, and from before all others.
    run.apply(&reading(HOUR, 3.0, Quality::Measured, (4, 0, 4)));
    run.apply(&reading(HOUR, 0.5, Quality::Measured, (1, 0, 0)));
    run.commit();
    let rows: Vec<(Layer, f64, i64)> =
        run.rows.iter().map(|row| (row.layer, row.content.value, row.content.position.offset)).collect();
    let revision = |value: f64, offset: i64| (Layer::Revision, value, offset);
    assert_eq!(rows, [(Layer::Base, 1.0, 1), revision(2.0, 2), revision(3.0, 3), revision(3.0, 4), revision(0.5, 0)]);
    assert_eq!(run.read()[&0].0, 3.0);
    let counts = run.counts[&0];
    assert_eq!((counts.accepted, counts.corrected, counts.duplicate), (1, 2, 2));
}

#[test]
fn of_the_rows_of_an_interval_one_is_a_change_for_roll_ups() {
    let mut run = Run::new(rules(ValueKind::Interval, Label::End, Some(Frequency::HOUR)), &Unit::KW);
    run.apply(&reading(HOUR, 1.0, Quality::Measured, (2, 0, 2)));
    run.commit();
    run.out.keeps_before = true;
    for (value, offset) in [(2.0, 3), (3.0, 4), (9.0, 1)] {
        run.apply(&reading(HOUR, value, Quality::Measured, (offset, 0, offset)));
    }
    let before: Vec<(u32, f64)> = run.out.before.iter().map(|(row, content)| (*row, content.value)).collect();
    assert_eq!(before, [(0, 1.0)]);
    assert_eq!(run.out.overtaken, [(0, Some(1)), (2, None)]);
}

#[test]
fn of_the_rows_of_an_epoch_that_were_forgotten_the_one_with_the_greatest_position_is_remembered() {
    let mut run =
        Run::new(Rules { remembered: 2, ..rules(ValueKind::Interval, Label::End, Some(Frequency::HOUR)) }, &Unit::KW);
    run.apply(&reading(HOUR, 1.0, Quality::Measured, (5, 0, 5)));
    run.apply(&reading(HOUR, 2.0, Quality::Measured, (3, 1, 3)));
    for hour in 2..=4 {
        run.apply(&reading(hour * HOUR, 1.0, Quality::Measured, (10 + hour, 0, 10 + hour)));
    }
    run.apply(&reading(HOUR, 3.0, Quality::Measured, (4, 1, 4)));
    assert_eq!(run.out.parked.len(), 1);
    run.commit();
    assert_eq!((run.rows.len(), run.read()[&0].0), (6, 1.0));
    let total = |count: fn(&Counts) -> u64| run.counts.values().map(count).sum::<u64>();
    assert_eq!((total(|c| c.accepted), total(|c| c.corrected), total(|c| c.duplicate)), (4, 0, 2));
}

#[test]
fn a_register_that_falls_gives_no_value() {
    let mut run = Run::new(rules(ValueKind::Counter, Label::End, Some(Frequency::HOUR)), &Unit::KWH);
    for (slot, value) in [(1, 99_990.0), (2, 99_995.0), (3, 3.0), (4, 10.0)] {
        let register = reading(slot * HOUR, value, Quality::Measured, (slot, 0, slot));
        run.apply(&PendingReading { scale: Unit::KWH.scale(), ..register });
    }
    run.commit();
    let values: Vec<(Micros, f64)> = run.read().into_iter().map(|(start, row)| (start / HOUR, row.0)).collect();
    assert_eq!(values, [(1, 5.0), (3, 7.0)]);
}

#[test]
fn what_was_forgotten_is_looked_up_and_little_is_kept() {
    for kind in [ValueKind::Counter, ValueKind::Gauge] {
        let mut run = Run::new(rules(kind, Label::End, Some(Frequency::HOUR)), &Unit::KWH);
        let mut offset = 0;
        let mut apply = |run: &mut Run, slot: i64, value: f64| {
            offset += 1;
            let register = reading(slot * HOUR, value, Quality::Measured, (offset, 0, offset));
            run.apply(&PendingReading { scale: Unit::KWH.scale(), ..register });
        };
        for slot in 0..30 {
            apply(&mut run, slot, (10 * slot) as f64);
        }
        run.commit();
        // Long ago, and after a restart.
        apply(&mut run, 3, 35.0);
        assert_eq!(run.out.parked.len(), 1, "{kind:?}");
        run.commit();
        run.restart();
        apply(&mut run, 4, 46.0);
        run.commit();
        let found: Vec<f64> = run.read().into_values().map(|row| row.0).skip(2).take(3).collect();
        match kind {
            ValueKind::Counter => assert_eq!(found, [15.0, 11.0, 4.0]),
            _ => assert_eq!(found, [20.0, 35.0, 46.0]),
        }
        assert_eq!((run.counts[&0].accepted, run.counts[&0].corrected, run.dead), (30, 2, 0));
    }
}

#[test]
fn what_was_written_without_looking_up_what_was_there_is_not_taken_for_the_truth() {
    let mut run = Run::new(rules(ValueKind::Interval, Label::End, Some(Frequency::HOUR)), &Unit::KW);
    for hour in 1..=10 {
        run.apply(&reading(hour * HOUR, 1.0, Quality::Measured, (100, 0, hour)));
    }
    run.commit();
    run.restart();
    run.declines = true;
    // Both about an interval that has a greater position.
    run.apply(&reading(9 * HOUR, 2.0, Quality::Measured, (1, 0, 11)));
    run.apply(&reading(9 * HOUR, 3.0, Quality::Measured, (2, 0, 12)));
    run.commit();
    assert_eq!((run.rows.len(), run.counts[&0].corrected), (12, 2));
    run.declines = false;
    run.apply(&reading(9 * HOUR, 4.0, Quality::Measured, (3, 0, 13)));
    assert_eq!(run.out.parked.len(), 1);
    run.commit();
    assert_eq!((run.rows.len(), run.counts[&0].duplicate), (13, 1));
    assert_eq!(run.read()[&(8 * HOUR)].0, 1.0);
}

#[test]
fn another_unit_than_the_series_has_is_a_dead_letter() {
    let mut run = Run::new(rules(ValueKind::Interval, Label::End, Some(Frequency::HOUR)), &Unit::KW);
    run.apply_in(&Unit::Other("degC".into()), &reading(HOUR, 1.0, Quality::Measured, (1, 0, 1)));
    assert_eq!(run.out.dead[0].reason, aggregate::UNIT_MISMATCH);
    assert!(run.out.dead[0].detail.contains("degC"), "{}", run.out.dead[0].detail);
}

#[test]
fn power_over_a_day_of_23_hours_is_23_hours_of_energy() {
    let mut run = Run::new(rules(ValueKind::Interval, Label::Begin, Some(Frequency::Day)), &Unit::KW);
    let spring: Micros = 1_711_839_600_000_000; // 2024-03-30T23:00:00Z, midnight in Berlin
    run.apply(&reading(spring, 1.0, Quality::Measured, (1, 0, 1)));
    run.apply(&reading(spring - DAY, 1.0, Quality::Measured, (2, 0, 2)));
    run.commit();
    let values: Vec<f64> = run.read().into_values().map(|row| row.0).collect();
    assert_eq!(values, [24.0, 23.0]);
}

#[test]
fn readings_that_waited_leave_the_pending_count() {
    let mut run = Run::new(rules(ValueKind::Interval, Label::End, None), &Unit::KW);
    for slot in 0..12 {
        assert_eq!(run.series.state.frequency, None);
        run.apply(&reading(slot * 15 * MINUTE, 1.0, Quality::Measured, (slot, 0, slot)));
        run.commit();
    }
    assert_eq!(run.series.state.frequency, Some(Frequency::QUARTER_HOUR));
    assert_eq!((run.counts[&0].pending, run.counts[&0].accepted), (0, 12));
    let mut tally = Tally::default();
    tally.dead(3);
    let changes: Vec<(i32, Change)> = tally.changes().collect();
    assert_eq!(changes.len(), 1);
}

#[test]
fn an_old_gauge_interval_is_made_of_all_of_its_samples() {
    let mut rules = rules(ValueKind::Gauge, Label::End, Some(Frequency::QUARTER_HOUR));
    rules.remembered = 4;
    let mut run = Run::new(rules, &Unit::KW);
    let mut offset = 0;
    let mut apply = |run: &mut Run, minute: i64| {
        offset += 1;
        run.apply(&reading(minute * MINUTE, minute as f64, Quality::Measured, (offset, 0, offset)));
    };
    // Ten quarter hours of samples, and then, newest first, those of the hours before.
    for minute in (601..=750).step_by(5) {
        apply(&mut run, minute);
    }
    for minute in (451..=600).rev().step_by(5) {
        apply(&mut run, minute);
    }
    run.commit();
    assert_eq!((run.dead, run.read().len()), (0, 20));
    for (start, interval) in run.read() {
        assert_eq!(interval.1, 3, "the interval at {start} lacks samples");
    }
}

#[test]
fn a_long_interval_of_a_gauge_is_exact_and_takes_little_memory() {
    for label in [Label::Begin, Label::End] {
        let mut rules = rules(ValueKind::Gauge, label, Some(Frequency::HOUR));
        rules.remembered = 4;
        let mut run = Run::new(rules, &Unit::KW);
        let value = |second: i64| (second * 7919 % 1_000) as f64 / 7.0;
        let mut sent = BTreeSet::new();
        for second in 1..=5_000 {
            let seconds: &[i64] = match second {
                // They come a quarter of an hour late, and another one comes twice.
                300 | 1_200 | 3_000 => &[],
                1_300 | 2_200 | 4_000 => &[second, second - 1_000, second - 2],
                // Two change places.
                _ if second % 7 == 0 => &[second + 1, second],
                _ if second % 7 == 1 => &[],
                _ => &[second],
            };
            for second in seconds {
                let position = (*second, 0, *second);
                run.apply(&reading(second * SECOND, value(*second), Quality::Measured, position));
                sent.insert(*second);
            }
            if second % 50 == 0 {
                run.commit();
                assert!(run.series.samples_kept() <= 4, "{} samples are kept", run.series.samples_kept());
            }
        }
        run.commit();
        let hours: Vec<(f64, i32)> = run.read().into_values().map(|(mean, count, _)| (mean, count)).collect();
        let inside = |second: &i64| *second + i64::from(label == Label::Begin) <= 3_600;
        let mean = |seconds: Vec<i64>| {
            let count = seconds.len() as i32;
            (seconds.into_iter().map(value).sum::<f64>() / f64::from(count), count)
        };
        let (first, second) = sent.into_iter().partition(inside);
        assert_eq!(hours, [mean(first), mean(second)]);
        assert_eq!(run.dead, 0);
    }
}
