//! Meters that change their frequency, with restarts and crashes, against a batch recomputation of all readings.

use std::collections::{BTreeMap, VecDeque};

use jiff::tz::TimeZone;
use meterline_schemas::config::Label;
use meterline_schemas::reading::{Position, Quality, ValueKind};
use meterline_schemas::time::{DAY, HOUR, MINUTE};
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};
use proptest::prelude::*;

use super::aggregate::Rules;
use super::aggregate_run::{Event, Run, drive, event, reading, rules};
use super::series::{PendingReading, SeriesState};

const QUARTER: Frequency = Frequency::QUARTER_HOUR;
const HALF: Frequency = Frequency::Seconds(1800);
/// 2024-03-30T00:00:00Z, the day before the clocks change.
const MIDNIGHT: Micros = 1_711_756_800_000_000;

/// Epochs of a series, the oldest first: from when on, and the frequency.
type Epochs = Vec<(Micros, Frequency)>;

fn epochs(state: &SeriesState) -> Epochs {
    let mut from = Micros::MIN;
    let mut epochs = Epochs::new();
    for era in &state.extra().eras {
        epochs.push((from, era.frequency));
        from = era.to;
    }
    epochs.push((from, state.frequency.unwrap()));
    epochs.dedup_by_key(|(_, frequency)| *frequency);
    epochs
}

fn berlin() -> TimeZone {
    rules(ValueKind::Interval, Label::End, None).zone
}

/// The intervals of all readings, given the epochs.
fn recomputed(
    readings: &[PendingReading],
    epochs: &Epochs,
    label: Label,
    zone: &TimeZone,
) -> BTreeMap<(Micros, Micros), f64> {
    let mut newest: BTreeMap<(Micros, Micros), &PendingReading> = BTreeMap::new();
    for reading in readings {
        let interval_of = |frequency: Frequency| {
            let boundary = frequency.round(reading.at, zone);
            match label {
                Label::End => (frequency.advance(boundary, -1, zone), boundary),
                Label::Begin => (boundary, frequency.advance(boundary, 1, zone)),
            }
        };
        // The shorter intervals tell on which side of a change a reading is; what is across it in both is after it.
        let number = (1..epochs.len()).rev().find(|number| {
            let ((at, new), (_, old)) = (epochs[*number], epochs[number - 1]);
            let (start, end) = interval_of(old);
            (new < old && interval_of(new).0 >= at) || start + end > 2 * at
        });
        let (from, frequency) = epochs[number.unwrap_or(0)];
        let interval = match interval_of(frequency) {
            (start, _) if start < from => (from, frequency.advance(from, 1, zone)),
            interval => interval,
        };
        let known = newest.entry(interval).or_insert(reading);
        if reading.position > known.position {
            *known = reading;
        }
    }
    let value = |(start, end): (Micros, Micros), value: f64| value * ((end - start) as f64 / HOUR as f64);
    newest.into_iter().map(|(interval, reading)| (interval, value(interval, reading.value))).collect()
}

fn values(run: &Run) -> BTreeMap<(Micros, Micros), f64> {
    run.read_with_ends().into_iter().map(|(interval, (value, ..))| (interval, value)).collect()
}

fn run_of(label: Label, remembered: usize, zone: &TimeZone) -> Run {
    let rules = Rules { remembered, zone: zone.clone(), ..rules(ValueKind::Interval, label, None) };
    Run::new(rules, &Unit::KW)
}

/// Readings of one partition, one a stamp.
fn in_order(stamps: Vec<Micros>) -> Vec<PendingReading> {
    let numbered = (0..).zip(stamps);
    numbered.map(|(i, at)| reading(at, (i % 7) as f64, Quality::Measured, (i, 0, i))).collect()
}

/// Stamps of a meter that changes; the number of readings of each frequency.
fn stamps(parts: &[(Frequency, usize)], origin: Micros, label: Label, zone: &TimeZone) -> Vec<Micros> {
    let mut start = origin;
    let mut stamps = Vec::new();
    for (frequency, count) in parts {
        // It changes at a boundary of the coarser frequency.
        for _ in 0..*count {
            let end = frequency.advance(start, 1, zone);
            stamps.push(if label == Label::End { end } else { start });
            start = end;
        }
    }
    stamps
}

fn label() -> impl Strategy<Value = Label> {
    prop_oneof![Just(Label::Begin), Just(Label::End)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_meter_that_changes_has_an_epoch_for_each_frequency(
        (first, second) in prop_oneof![
            Just((Frequency::HOUR, QUARTER)), Just((QUARTER, Frequency::HOUR)), Just((Frequency::HOUR, HALF)),
            Just((HALF, QUARTER)), Just((Frequency::Day, Frequency::HOUR)), Just((Frequency::HOUR, Frequency::Day)),
            Just((QUARTER, Frequency::Day)), Just((Frequency::HOUR, Frequency::Seconds(60))),
        ],
        (label, remembered, late) in (label(), 2..40usize, 0..6i64),
        (days, more, wrong) in (1..4usize, 60..90usize, proptest::collection::vec((0..150usize, 0..9u8), 0..12)),
        events in proptest::collection::vec(event(), 1..40),
    ) {
        // Around the spring change of clocks; a change comes at midnight.
        let zone = berlin();
        let origin = Frequency::Day.advance(Frequency::Day.floor(1_711_800_000_000_000, &zone), -3, &zone);
        let change = Frequency::Day.advance(origin, if first == Frequency::Day { 8 } else { days as i64 }, &zone);
        let count = first.steps_between(origin, change, &zone);
        let stamps = stamps(&[(first, count as usize), (second, more)], origin, label, &zone);
        let mut readings: Vec<PendingReading> = Vec::new();
        for (i, at) in (0..).zip(stamps) {
            readings.push(reading(at, (i % 7) as f64, Quality::Measured, (i, 0, i)));
            // Repetitions and corrections of the last ones.
            for (_, back) in wrong.iter().filter(|(at, _)| *at as i64 == i) {
                let of = readings[readings.len().saturating_sub(1 + usize::from(*back))];
                readings.push(reading(of.at, of.value + 1.0, Quality::Measured, (i, 0, 1_000 + i)));
            }
        }
        let mut run = run_of(label, remembered, &zone);
        run.lateness = late * second.nominal_micros().min(HOUR);
        let run = drive(run, &readings, &events);
        let epochs = epochs(&run.series.state);
        prop_assert_eq!(&epochs, &vec![(Micros::MIN, first), (change, second)]);
        prop_assert_eq!(run.series.state.since(), Some(change));
        prop_assert_eq!(values(&run), recomputed(&readings, &epochs, label, &zone));
        prop_assert_eq!(run.series.state.intervals_ever(), run.read().len() as u64);
    }

    #[test]
    fn stray_readings_before_a_change_take_no_interval_away(
        (first, second) in prop_oneof![
            Just((Frequency::HOUR, QUARTER)), Just((Frequency::HOUR, HALF)), Just((HALF, QUARTER)),
        ],
        (label, remembered, late) in (label(), 2..40usize, 0..4i64),
        (days, more) in (1..4i64, 90..130usize),
        // Fewer than make a run.
        strays in proptest::collection::vec((0.0..1.0f64, 0.3..0.45f64), 0..5),
        events in proptest::collection::vec(event(), 1..40),
    ) {
        let zone = berlin();
        let (change, length) = (MIDNIGHT + days * DAY, first.nominal_micros());
        let count = days * DAY / length;
        let mut readings = in_order(stamps(&[(first, count as usize), (second, more)], MIDNIGHT, label, &zone));
        for (number, (place, part)) in (0..).zip(&strays) {
            // Some intervals after the first frequency was detected, and some before the change.
            let interval = 14 + (place * (count - 18) as f64) as i64;
            let at = MIDNIGHT + interval * length + (part * length as f64) as Micros;
            let index = readings.partition_point(|reading| reading.at <= at);
            let timestamp_ms = readings[index].position.timestamp_ms;
            readings.insert(index, reading(at, 99.0, Quality::Measured, (timestamp_ms, 0, 100_000 + number)));
        }
        let mut run = run_of(label, remembered, &zone);
        run.lateness = late * second.nominal_micros();
        let run = drive(run, &readings, &events);
        let epochs = epochs(&run.series.state);
        prop_assert_eq!(&epochs, &vec![(Micros::MIN, first), (change, second)]);
        prop_assert_eq!(values(&run), recomputed(&readings, &epochs, label, &zone));
    }

    #[test]
    fn a_change_is_the_same_however_its_readings_are_split_over_two_partitions(
        (first, second) in prop_oneof![
            Just((Frequency::HOUR, QUARTER)), Just((Frequency::HOUR, HALF)), Just((HALF, QUARTER)),
            Just((QUARTER, Frequency::HOUR)), Just((HALF, Frequency::HOUR)), Just((Frequency::Day, Frequency::HOUR)),
        ],
        (label, remembered, ahead) in (label(), 2..40usize, 1..13i64),
        (days, more) in (2..4i64, 80..150usize),
        (split, wrong) in (
            proptest::collection::vec(0..2i32, 97..98),
            proptest::collection::vec((0..200usize, 0..8usize, 0..2i32), 0..12),
        ),
        turns in proptest::collection::vec((0..2usize, 1..13usize), 31..32),
        events in proptest::collection::vec(event(), 1..40),
    ) {
        let zone = TimeZone::UTC;
        let days = if first == Frequency::Day { 20 } else { days };
        let (change, count) = (MIDNIGHT + days * DAY, days * DAY / first.nominal_micros());
        let stamps = stamps(&[(first, count as usize), (second, more)], MIDNIGHT, label, &zone);
        let mut readings: Vec<PendingReading> = Vec::new();
        for (i, at) in (0..).zip(stamps) {
            let partition = split[i as usize % split.len()];
            readings.push(reading(at, (i % 7) as f64, Quality::Measured, (i, partition, i)));
            for (_, back, partition) in wrong.iter().filter(|(at, ..)| *at as i64 == i) {
                let of = readings[readings.len().saturating_sub(1 + back)];
                readings.push(reading(of.at, of.value + 1.0, Quality::Measured, (i, *partition, 1_000 + i)));
            }
        }
        // One partition is read ahead of the other, but not by much.
        let mut queues: [VecDeque<PendingReading>; 2] = Default::default();
        for reading in &readings {
            queues[reading.position.partition as usize].push_back(*reading);
        }
        let mut order: Vec<PendingReading> = Vec::new();
        for (turn, most) in turns.iter().cycle() {
            if order.len() == readings.len() {
                break;
            }
            for partition in [*turn, 1 - *turn] {
                let other = queues[1 - partition].front().map_or(i64::MAX, |next| next.position.timestamp_ms + ahead);
                let before = order.len();
                let is_due = |next: &PendingReading| next.position.timestamp_ms <= other;
                while order.len() < before + most && queues[partition].front().is_some_and(is_due) {
                    order.extend(queues[partition].pop_front());
                }
                if order.len() > before {
                    break;
                }
            }
        }
        let mut run = run_of(label, remembered, &zone);
        run.partitions = 2;
        let run = drive(run, &order, &events);
        let epochs = epochs(&run.series.state);
        prop_assert_eq!(&epochs, &vec![(Micros::MIN, first), (change, second)]);
        prop_assert_eq!(values(&run), recomputed(&readings, &epochs, label, &zone));
    }

    #[test]
    fn days_end_where_the_clock_of_their_zone_says(
        (zone, first, second) in prop_oneof![
            Just(("Asia/Kathmandu", Frequency::Day, QUARTER)), Just(("Asia/Kathmandu", QUARTER, Frequency::Day)),
            Just(("Asia/Kathmandu", Frequency::HOUR, Frequency::Day)), Just(("Asia/Kathmandu", Frequency::Day, HALF)),
            Just(("Asia/Kolkata", Frequency::Day, QUARTER)), Just(("Asia/Kolkata", Frequency::Day, Frequency::HOUR)),
            Just(("Asia/Kolkata", HALF, Frequency::Day)), Just(("Europe/Berlin", Frequency::Day, QUARTER)),
        ],
        (label, remembered, late) in (label(), 2..40usize, 0..4i64),
        (days, more) in (2..5i64, 60..90usize),
        events in proptest::collection::vec(event(), 1..40),
    ) {
        let zone = TimeZone::get(zone).unwrap();
        let origin = Frequency::Day.floor(MIDNIGHT - 20 * DAY, &zone);
        let days = if first == Frequency::Day { 9 } else { days };
        let (change, length) = (origin + days * DAY, first.nominal_micros());
        // By the local clock: a meter's hours begin where its day begins.
        let local = |start: Micros, length: Micros, count: i64| {
            let of_label = if label == Label::End { length } else { 0 };
            (0..count).map(move |i| start + i * length + of_label)
        };
        let before = local(origin, length, days * DAY / length);
        let stamps: Vec<Micros> = before.chain(local(change, second.nominal_micros(), more as i64)).collect();
        let readings = in_order(stamps);
        let mut run = run_of(label, remembered, &zone);
        run.lateness = late * second.nominal_micros().min(HOUR);
        let run = drive(run, &readings, &events);
        let epochs = epochs(&run.series.state);
        let frequencies: Vec<Frequency> = epochs.iter().map(|(_, frequency)| *frequency).collect();
        prop_assert_eq!(frequencies, vec![first, second]);
        // Hours are those of UTC: the nearest one.
        prop_assert!((epochs[1].0 - change).abs() <= 30 * MINUTE, "{:?}", epochs);
        prop_assert_eq!(values(&run), recomputed(&readings, &epochs, label, &zone));
        prop_assert_eq!(run.read().len(), readings.len());
    }

    #[test]
    fn what_is_read_in_two_halves_becomes_what_it_is_read_at_once(
        frequency in prop_oneof![Just(QUARTER), Just(HALF), Just(Frequency::HOUR)],
        (label, remembered) in (label(), 2..20usize),
        (count, batch) in (60..400usize, 1..300usize),
        events in proptest::collection::vec(event(), 1..40),
    ) {
        let zone = berlin();
        let all = stamps(&[(frequency, count)], 1_711_800_000_000_000, label, &zone);
        let readings: Vec<PendingReading> = (0..)
            .zip(&all)
            .map(|(i, at)| reading(*at, (i % 5) as f64, Quality::Measured, (i, (i % 2) as i32, i / 2)))
            .collect();
        // Every other one lies in another partition, and what is read of one is more or less ahead of the other.
        let (even, odd): (Vec<PendingReading>, Vec<PendingReading>) =
            readings.iter().partition(|reading| reading.position.partition == 0);
        let mut order = Vec::new();
        let (mut even, mut odd) = (even.chunks(batch), odd.chunks(batch));
        loop {
            let next = [even.next(), odd.next()];
            order.extend(next.iter().flatten().flat_map(|chunk| chunk.iter().copied()));
            if next == [None, None] {
                break;
            }
        }
        let mut run = run_of(label, remembered, &zone);
        run.partitions = 2;
        let run = drive(run, &order, &events);
        prop_assert_eq!(run.series.state.frequency, Some(frequency));
        let epochs = epochs(&run.series.state);
        prop_assert_eq!(epochs.len(), 1, "{:?}", epochs);
        prop_assert_eq!(values(&run), recomputed(&readings, &epochs, label, &zone));
    }
}

#[test]
fn stray_readings_open_no_epoch_and_are_not_lost() {
    let mut run = run_of(Label::End, 8, &berlin());
    let mut readings: Vec<PendingReading> =
        (1..60).map(|hour| reading(hour * HOUR, 1.0, Quality::Measured, (hour, 0, hour))).collect();
    for (hour, minute) in [(20, 10), (31, 25), (32, 40)] {
        readings.insert(
            readings.iter().position(|reading| reading.at > hour * HOUR).unwrap(),
            reading(hour * HOUR + minute * MINUTE, 9.0, Quality::Measured, (hour, 0, 1_000 + hour)),
        );
    }
    let expected = recomputed(&readings, &vec![(Micros::MIN, Frequency::HOUR)], Label::End, &berlin());
    run = drive(run, &readings, &[Event::Commit]);
    assert_eq!(run.series.state.frequency, Some(Frequency::HOUR));
    assert_eq!(values(&run), expected);
    assert_eq!(run.counts[&0].pending, 0);
}

#[test]
fn a_clock_that_is_set_changes_no_frequency() {
    let mut run = run_of(Label::End, 8, &berlin());
    let at = |hour: i64| hour * HOUR + if hour > 40 { 9 * MINUTE } else { 0 };
    let readings: Vec<PendingReading> =
        (1..90).map(|hour| reading(at(hour), 1.0, Quality::Measured, (hour, 0, hour))).collect();
    run = drive(run, &readings, &[Event::Commit]);
    assert_eq!((run.series.state.frequency, run.counts[&0].pending), (Some(Frequency::HOUR), 0));
    assert_eq!(values(&run), recomputed(&readings, &vec![(Micros::MIN, Frequency::HOUR)], Label::End, &berlin()));
}

#[test]
fn history_that_is_finer_takes_no_later_interval_away() {
    let mut run = run_of(Label::End, 8, &berlin());
    let mut readings = in_order(stamps(&[(Frequency::HOUR, 60)], MIDNIGHT, Label::End, &TimeZone::UTC));
    readings.extend(in_order(stamps(&[(QUARTER, 150)], MIDNIGHT - 20 * DAY, Label::End, &TimeZone::UTC)));
    let later = stamps(&[(Frequency::HOUR, 60)], MIDNIGHT + 60 * HOUR, Label::End, &TimeZone::UTC);
    readings.extend(in_order(later));
    run = drive(run, &readings, &[Event::Commit]);
    assert_eq!((run.series.state.frequency, run.series.state.extra().eras.len()), (Some(Frequency::HOUR), 0));
    let hours = values(&run).into_keys().filter(|(start, _)| *start >= MIDNIGHT).collect::<Vec<_>>();
    assert_eq!(hours, (0..120).map(|i| (MIDNIGHT + i * HOUR, MIDNIGHT + (i + 1) * HOUR)).collect::<Vec<_>>());
}

#[test]
fn a_backfill_of_finer_history_takes_no_later_interval_away() {
    for label in [Label::End, Label::Begin] {
        let mut run = run_of(label, 8, &berlin());
        // A backfill knows of no watermark.
        run.partitions = usize::MAX;
        let mut readings = in_order(stamps(&[(Frequency::HOUR, 60)], MIDNIGHT, label, &TimeZone::UTC));
        let history = in_order(stamps(&[(QUARTER, 450)], MIDNIGHT - 20 * DAY, label, &TimeZone::UTC));
        readings.extend(
            (0..).zip(history).map(|(row, reading)| PendingReading { position: Position::backfill(0, row), ..reading }),
        );
        run = drive(run, &readings, &[Event::Commit]);
        assert_eq!((run.series.state.frequency, run.series.state.extra().eras.len()), (Some(Frequency::HOUR), 0));
        let hours = values(&run).into_keys().filter(|(start, _)| *start >= MIDNIGHT).collect::<Vec<_>>();
        assert_eq!(hours, (0..60).map(|i| (MIDNIGHT + i * HOUR, MIDNIGHT + (i + 1) * HOUR)).collect::<Vec<_>>());
    }
}

#[test]
fn a_backfill_whose_meter_changes_to_a_finer_frequency_has_an_epoch_for_each() {
    let mut run = run_of(Label::End, 8, &berlin());
    run.partitions = usize::MAX;
    let readings = in_order(stamps(&[(Frequency::HOUR, 60), (QUARTER, 150)], MIDNIGHT, Label::End, &TimeZone::UTC));
    let rows =
        (0..).zip(readings).map(|(row, reading)| PendingReading { position: Position::backfill(0, row), ..reading });
    let readings: Vec<PendingReading> = rows.collect();
    run = drive(run, &readings, &[Event::Commit]);
    let epochs = epochs(&run.series.state);
    assert_eq!(epochs, [(Micros::MIN, Frequency::HOUR), (MIDNIGHT + 60 * HOUR, QUARTER)]);
    assert_eq!(values(&run), recomputed(&readings, &epochs, Label::End, &berlin()));
}

#[test]
fn what_is_held_is_taken_once_the_frequency_is_declared() {
    let mut run = run_of(Label::End, 2, &berlin());
    let mut readings = in_order(stamps(&[(Frequency::HOUR, 20)], MIDNIGHT, Label::End, &TimeZone::UTC));
    readings.push(reading(MIDNIGHT + 20 * HOUR + 10 * MINUTE, 9.0, Quality::Measured, (20, 0, 20)));
    for reading in &readings {
        run.apply(reading);
    }
    run.commit();
    assert_eq!(run.counts[&0].pending, 1);
    run.rules.frequency = Some(Frequency::HOUR);
    run.restart();
    run.apply(&reading(MIDNIGHT + 21 * HOUR, 1.0, Quality::Measured, (21, 0, 21)));
    run.commit();
    assert_eq!((run.counts[&0].pending, run.counts[&0].accepted, run.counts[&0].corrected), (0, 21, 1));
    assert_eq!(values(&run)[&(MIDNIGHT + 19 * HOUR, MIDNIGHT + 20 * HOUR)], 9.0);
}

#[test]
fn an_hour_of_the_new_epoch_that_was_written_is_taken_away_with_the_quarter_hours() {
    let mut run = run_of(Label::End, 2, &berlin());
    let mut next = 0;
    let mut apply = |run: &mut Run, at: Micros| {
        next += 1;
        run.apply(&reading(at, 4.0, Quality::Measured, (next, 0, next)));
    };
    for hour in 1..=24 {
        apply(&mut run, hour * HOUR);
    }
    run.commit();
    for quarter in 97..=105 {
        apply(&mut run, quarter * 15 * MINUTE);
        run.commit();
    }
    // The readings at full hours were hours so far.
    assert_eq!(run.read_with_ends().keys().next_back(), Some(&(25 * HOUR, 26 * HOUR)));
    for quarter in 106..=120 {
        apply(&mut run, quarter * 15 * MINUTE);
        run.commit();
    }
    assert_eq!(run.series.state.since(), Some(24 * HOUR));
    let after: Vec<((Micros, Micros), f64)> = values(&run).into_iter().skip(24).collect();
    let quarters = (96..120).map(|i| ((i * 15 * MINUTE, (i + 1) * 15 * MINUTE), 1.0));
    assert_eq!(after, quarters.collect::<Vec<_>>());
    // Both in one commit: nothing is there twice, and no time is without a value.
    let total: f64 = values(&run).values().sum();
    assert_eq!(total, 24.0 * 4.0 + 24.0);
}
