//! One series at work as a shard has it: readings in any order, with commits, restarts and crashes, for tests.

use std::collections::BTreeMap;

use meterline_schemas::reading::Quality;
use proptest::prelude::*;

use super::aggregate::{Existing, Output, Rules, Series};
use super::rows::{Layer, Row};
use super::segments::Frames;
use super::series::PendingReading;
use super::state::Counts;
use super::*;
use jiff::tz::TimeZone;
use meterline_schemas::config::Label;
use meterline_schemas::reading::{Position, ValueKind};
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};

pub(super) fn rules(kind: ValueKind, label: Label, frequency: Option<Frequency>) -> Rules {
    Rules {
        kind,
        label,
        zone: TimeZone::get("Europe/Berlin").unwrap(),
        frequency,
        max_ahead: Micros::MAX,
        remembered: 8,
    }
}

/// A run of the aggregate with commits, restarts and crashes.
pub(super) struct Run {
    pub(super) rules: Rules,
    pub(super) unit: Unit,
    pub(super) series: Series,
    pub(super) watermark: Micros,
    pub(super) lateness: Micros,
    // Partitions of which something must have been read before anything is closed.
    pub(super) partitions: usize,
    pub(super) seen: BTreeMap<i32, Micros>,
    pub(super) committed: (Series, Micros, BTreeMap<i32, Micros>),
    pub(super) out: Output,
    // What the lake has.
    pub(super) rows: Vec<Row>,
    pub(super) samples: Vec<PendingReading>,
    // Whether what was forgotten can be looked up.
    pub(super) declines: bool,
    pub(super) counts: BTreeMap<i32, Counts>,
    pub(super) dead: usize,
}

impl Run {
    pub(super) fn new(rules: Rules, unit: &Unit) -> Run {
        let series = Series::new("f", "s", unit, &rules);
        let committed = (series.clone(), Micros::MIN, BTreeMap::new());
        let out = Output::new(1, rules.remembered);
        Run {
            rules,
            unit: unit.clone(),
            series,
            watermark: Micros::MIN,
            lateness: 0,
            partitions: 1,
            seen: BTreeMap::new(),
            committed,
            out,
            rows: vec![],
            samples: vec![],
            declines: false,
            counts: BTreeMap::new(),
            dead: 0,
        }
    }

    /// The watermark follows the partition that is furthest behind.
    pub(super) fn advance(&mut self, reading: &PendingReading) {
        let seen = self.seen.entry(reading.position.partition).or_insert(reading.at);
        *seen = reading.at.max(*seen);
        if self.seen.len() >= self.partitions {
            let least = self.seen.values().copied().min().unwrap();
            self.watermark = self.watermark.max(least - self.lateness);
        }
    }

    pub(super) fn apply(&mut self, reading: &PendingReading) {
        self.apply_in(&self.unit.clone(), reading);
        self.advance(reading);
    }

    pub(super) fn apply_in(&mut self, unit: &Unit, reading: &PendingReading) {
        self.series.apply(&self.rules, 0, self.watermark, unit, *reading, &mut self.out);
    }

    // What a shard does at the end of an epoch.
    pub(super) fn end_epoch(&mut self) {
        self.take_parked();
        for (_, scale, reached) in self.out.take_openings() {
            let Some(opening) = self.series.opening(&self.rules, reached) else { continue };
            let existing = |row: &Row, number| {
                let Row { start, end, content, .. } = *row;
                Existing { start, end, content, row: number }
            };
            let mut rows: Vec<Existing> = self.newest().values().map(|row| existing(row, None)).collect();
            rows.extend((0..).zip(self.out.rows.iter()).map(|(number, row)| existing(row, Some(number))));
            rows.retain(|row| (opening.from..opening.to).contains(&row.start));
            self.series.reopen(&self.rules, 0, (&opening, scale, reached), rows, &mut self.out);
        }
        // What was held, and is of an earlier era.
        self.take_parked();
        for stale in self.out.take_stale() {
            self.series.refresh(&self.rules, stale, &mut self.out);
        }
        self.series.trim(&self.rules, self.out.remembered, self.out.remembered);
    }

    pub(super) fn take_parked(&mut self) {
        let parked = std::mem::take(&mut self.out.parked);
        for parked in parked.iter().filter(|_| !self.declines) {
            for row in self.newest().into_values().filter(|row| (parked.from..parked.to).contains(&row.start)) {
                self.series.recall_interval(&self.rules, (row.start, row.end), &row.content, None);
            }
            for sample in self.samples.iter().filter(|sample| (parked.from..=parked.to).contains(&sample.at)) {
                self.series.recall_sample(*sample);
            }
        }
        for (number, row) in (0..).zip(self.out.rows.iter()) {
            if parked.iter().any(|parked| parked.from == row.start) {
                let place = Some((self.out.epoch, number));
                self.series.recall_interval(&self.rules, (row.start, row.end), &row.content, place);
            }
        }
        for parked in &parked {
            self.series.apply_parked(&self.rules, *parked, !self.declines, &mut self.out);
        }
        for parked in &parked {
            self.series.forget_unsure(&self.rules, parked, !self.declines);
        }
    }

    pub(super) fn commit(&mut self) {
        self.end_epoch();
        let next = Output::new(self.out.epoch + 1, self.out.remembered);
        let out = std::mem::replace(&mut self.out, next);
        self.rows.extend(out.rows.iter().copied());
        self.samples.extend(out.samples.iter().map(|(_, sample)| *sample));
        self.dead += out.dead.len();
        for (partition, change) in out.tally.changes() {
            change.apply(self.counts.entry(partition).or_default());
        }
        self.committed = (self.series.clone(), self.watermark, self.seen.clone());
    }

    /// The process ends and starts again: memory is lost, and what was not committed.
    pub(super) fn restart(&mut self) {
        (self.watermark, self.seen) = (self.committed.1, self.committed.2.clone());
        let frames = Frames::of([&self.committed.0.state].into_iter()).unwrap();
        segments::decode(&bytes::Bytes::from(frames.segment(segments::SERIES)), |state| {
            self.series = Series::restore(state)
        })
        .unwrap();
        self.out = Output::new(1, self.rules.remembered);
    }

    // By interval the row with the greatest position.
    pub(super) fn newest(&self) -> BTreeMap<(Micros, Micros), Row> {
        let mut found: BTreeMap<(Micros, Micros), Row> = BTreeMap::new();
        for row in &self.rows {
            let known = found.entry((row.start, row.end)).or_insert(*row);
            if row.content.position > known.content.position {
                *known = *row;
            }
        }
        found
    }

    /// What a reader of the table sees, with the end of each interval: none overlap.
    pub(super) fn read_with_ends(&self) -> BTreeMap<(Micros, Micros), (f64, i32, Quality)> {
        let rows = self.newest().into_iter().filter(|(_, row)| row.content.count > 0);
        let found: BTreeMap<(Micros, Micros), (f64, i32, Quality)> = rows
            .map(|(interval, Row { content, .. })| (interval, (content.value, content.count, content.quality)))
            .collect();
        let ends = found.keys().map(|(_, end)| *end);
        assert!(ends.zip(found.keys().skip(1)).all(|(end, (next, _))| end <= *next), "intervals overlap: {found:?}");
        found
    }

    pub(super) fn read(&self) -> BTreeMap<Micros, (f64, i32, Quality)> {
        self.read_with_ends().into_iter().map(|((start, _), row)| (start, row)).collect()
    }

    pub(super) fn check_layers(&self) {
        let base = self.rows.iter().filter(|row| row.layer == Layer::Base);
        let mut base: Vec<(Micros, Micros)> = base.map(|row| (row.start, row.end)).collect();
        base.sort_unstable();
        let all = base.len();
        base.dedup();
        assert_eq!(all, base.len(), "two base rows of one interval");
    }
}

/// What happens between two readings.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    Nothing,
    Commit,
    CommitAndRestart,
    Crash,
}

pub(super) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => Just(Event::Nothing),
        4 => Just(Event::Commit),
        1 => Just(Event::CommitAndRestart),
        1 => Just(Event::Crash),
    ]
}

/// Feeds the readings in the given order; after a crash those since the last commit come again.
pub(super) fn run(rules: Rules, unit: &Unit, readings: &[PendingReading], events: &[Event]) -> Run {
    drive(Run::new(rules, unit), readings, events)
}

pub(super) fn drive(mut run: Run, readings: &[PendingReading], events: &[Event]) -> Run {
    let mut committed = 0;
    let mut crashes = 0;
    let mut next = 0;
    while next < readings.len() {
        run.apply(&readings[next]);
        next += 1;
        match events[(next + crashes) % events.len()] {
            Event::Nothing => {}
            Event::Commit => {
                run.commit();
                committed = next;
            }
            Event::CommitAndRestart => {
                run.commit();
                committed = next;
                run.restart();
            }
            Event::Crash if crashes < 20 => {
                run.restart();
                next = committed;
                crashes += 1;
            }
            Event::Crash => {}
        }
    }
    run.commit();
    run.check_layers();
    let total = |count: fn(&Counts) -> u64| run.counts.values().map(count).sum::<u64>();
    let sum = total(|c| c.accepted + c.corrected + c.duplicate + c.dead + c.pending);
    assert_eq!(sum, readings.len() as u64, "the counts do not add up: {:?}", run.counts);
    assert_eq!(total(|c| c.pending), run.series.state.extra().pending.len() as u64);
    assert_eq!(total(|c| c.corrected), u64::from(run.series.state.corrections));
    run
}

pub(super) fn reading(at: Micros, value: f64, quality: Quality, position: (i64, i32, i64)) -> PendingReading {
    let (timestamp_ms, partition, offset) = position;
    let position = Position { timestamp_ms, partition, offset };
    PendingReading { at, value, scale: Unit::KW.scale(), quality, position }
}

pub(super) fn quality() -> impl Strategy<Value = Quality> {
    prop_oneof![4 => Just(Quality::Measured), 1 => Just(Quality::Estimated), 1 => Just(Quality::Substituted)]
}

/// Readings for some slots, with repetitions and corrections in random order of position and arrival.
pub(super) fn readings(slots: i64) -> impl Strategy<Value = Vec<(i64, i64, u8, Quality, i64, i32)>> {
    proptest::collection::vec((0..slots, -5..5i64, 0..3u8, quality(), 0..50i64, 0..3i32), 1..150)
}
