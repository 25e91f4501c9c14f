//! What an epoch gives, and a reading on its way there.

use meterline_schemas::Micros;
use meterline_schemas::reading::Position;
use meterline_schemas::unit::Scale;

use super::super::outcome::{Dead, Outcome, Tally};
use super::super::rows::{Content, Rows};
use super::super::samples::{Repeated, Taken};
use super::super::series::PendingReading;
use super::derived::Stale;
use super::doubts::Reached;
use super::{Rules, Series};

/// What an epoch gives: rows, dead readings, and what became of every reading.
#[derive(Debug, Default)]
pub struct Output {
    /// Number of the epoch.
    pub epoch: u32,
    /// Intervals that a series may remember.
    pub remembered: usize,
    /// Rows.
    pub rows: Rows,
    /// Whether [`Output::before`] is kept: roll-ups need it.
    pub keeps_before: bool,
    /// By number of a row: what the interval was before the epoch, where there was something.
    pub before: Vec<(u32, Content)>,
    /// Rows that do not count, in the order in which that was found, each with the row that came in its place, where
    /// that is one of the epoch. Kept where [`Output::before`] is.
    pub overtaken: Vec<(u32, Option<u32>)>,
    /// Samples and registers, by the number of their series.
    pub samples: Vec<(u32, PendingReading)>,
    /// Readings that cannot be used.
    pub dead: Vec<Dead>,
    /// Counts.
    pub tally: Tally,
    /// Readings that concern more than is remembered.
    pub parked: Vec<Parked>,
    /// Series that open an era, once what it takes away is looked up; with the scale of a reading, and how far
    /// everything was read.
    pub openings: Vec<(u32, Scale, Reached)>,
    pub(super) stale: Vec<Stale>,
}

/// A reading that waits for what its series wrote earlier.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parked {
    /// Number of its series.
    pub series: u32,
    /// The intervals that it concerns start from here on …
    pub from: Micros,
    /// … and before this.
    pub to: Micros,
    /// The reading.
    pub reading: PendingReading,
    pub(super) watermark: Micros,
}

/// How much is known of what was written earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// What is remembered; the rest can be looked up.
    Remembered,
    /// Everything: it was looked up.
    Everything,
    /// What is remembered, and the rest cannot be looked up.
    NoMore,
}

/// A reading on its way, with what is the same for all of its series.
pub(super) struct Context<'a> {
    pub(super) rules: &'a Rules,
    pub(super) number: u32,
    pub(super) watermark: Micros,
    pub(super) known: Known,
    pub(super) out: &'a mut Output,
}

impl Output {
    /// An empty one.
    pub fn new(epoch: u32, remembered: usize) -> Output {
        Output { epoch, remembered, ..Output::default() }
    }

    /// With or without [`Output::before`] and [`Output::overtaken`].
    pub fn keeping_before(mut self, keeps: bool) -> Output {
        self.keeps_before = keeps;
        self
    }

    /// The series that open an era before this epoch ends; of each what was said last.
    pub fn take_openings(&mut self) -> Vec<(u32, Scale, Reached)> {
        let mut openings = std::mem::take(&mut self.openings);
        openings.reverse();
        openings.sort_by_key(|(series, ..)| *series);
        openings.dedup_by_key(|(series, ..)| *series);
        openings
    }
}

impl Series {
    // Counts a reading of an interval that ends at `end`: for its partition, and corrections for the series, too.
    pub(super) fn count(&mut self, reading: &PendingReading, outcome: Outcome, end: Micros, context: &mut Context<'_>) {
        if outcome == Outcome::Corrected {
            self.state.corrections = self.state.corrections.saturating_add(1);
        }
        let late = context.is_late(reading, end);
        context.out.tally.count(reading, outcome, late);
    }
}

impl Context<'_> {
    // Nothing of a backfill is late.
    fn is_late(&self, reading: &PendingReading, end: Micros) -> bool {
        end <= self.watermark && reading.position.partition != Position::BACKFILL_PARTITION
    }

    // How far everything was read, as far as a reading tells that may decide about the frequency: a backfill has no
    // watermark, and files are in order. But the stream may have written what comes after them already.
    pub(super) fn reached_by(&self, reading: &PendingReading) -> Reached {
        match reading.position.partition {
            Position::BACKFILL_PARTITION => Reached { watermark: self.watermark.max(reading.at), written: Micros::MAX },
            _ => Reached { watermark: self.watermark, written: self.watermark },
        }
    }

    pub(super) fn park(&mut self, reading: PendingReading, from: Micros, to: Micros) {
        let (series, watermark) = (self.number, self.watermark);
        self.out.parked.push(Parked { series, from, to, reading, watermark });
    }

    // A sample or register that was taken is written, unless it is older than what is there.
    pub(super) fn keep(&mut self, taken: Taken, reading: PendingReading) -> Outcome {
        if taken != Taken::Repeated(Repeated::Older) {
            self.out.samples.push((self.number, reading));
        }
        match taken {
            Taken::New => Outcome::Accepted,
            Taken::Changed => Outcome::Corrected,
            Taken::Repeated(_) => Outcome::Duplicate,
        }
    }

    pub(super) fn bury(&mut self, reading: &PendingReading, reason: &'static str, detail: String) {
        self.out.tally.dead(reading.position.partition);
        self.out.dead.push(Dead { position: reading.position, reason, detail });
    }
}
