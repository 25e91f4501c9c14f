//! One series' readings → rows of its native intervals. Pure: the same readings give the same rows.
//!
//! * Kind `interval`: a reading is an interval. Its stamp is rounded to the nearest boundary; the feed's label says
//!   which end of the interval that is.
//! * Kind `gauge`: an interval is the mean of its samples. With the label `end` it holds the samples in
//!   `(start, end]`, with `begin` those in `[start, end)`.
//! * Kind `counter`: an interval is the difference of the registers at its two boundaries. A negative difference (the
//!   register was reset, rolled over or exchanged) gives no value; a correction that makes it negative takes the
//!   earlier value away.
//!
//! Of two readings for one thing (interval, sample, register) the one with the greater
//! [`Position`] wins, whatever the order of arrival. Rows follow the same rule: a
//! reader takes the row with the greatest position of an interval.
//!
//! Of kind `interval` each reading that is taken has a row of its own, also one that repeats a value or comes after one
//! with a greater position. So what was known at any instant can be told, and the rows are the same wherever epochs end
//! and in whatever order partitions are read. None of them can be left out: which reading is right before another one
//! is not known until the last of them has come, and a late value from between two that are equal would win from then
//! on. Gauges and counters are computed once an epoch: of them a row is what a commit saw.
//!
//! What a series remembers is a part of what the lake has. A reading that concerns more than that is parked: at the end
//! of the epoch what is missing is looked up, and the reading taken then. So memory decides how fast, never what.

mod derived;
mod doubts;
mod output;
mod reopen;
mod rules;
mod waiting;

use meterline_schemas::reading::{Position, ValueKind};
use meterline_schemas::time::format_micros;
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};

pub use self::doubts::{Opening, Reached};
use self::output::{Context, Known};
pub use self::output::{Output, Parked};
pub use self::reopen::Existing;
use self::rules::OFF_GRID;
pub use self::rules::{Rules, TIME_AHEAD};
use super::eras::{self, Slot};
use super::memory::{Memory, Remembered};
use super::outcome::Outcome;
use super::rows::{Content, Layer, Row};
use super::samples::Samples;
use super::series::{PendingReading, SeriesState};
use super::written::surely_unwritten;

/// Reason of a reading in a unit that cannot be stored with its series.
pub const UNIT_MISMATCH: &str = "unit_mismatch";

/// One series at work: its state, and what need not survive.
#[derive(Debug, Clone)]
#[repr(C)]
pub struct Series {
    /// What a commit remembers.
    pub state: SeriesState,
    memory: Memory,
    samples: Samples,
}

impl Series {
    /// A series that was never seen before.
    pub fn new(feed: &str, id: &str, unit: &Unit, rules: &Rules) -> Series {
        let mut state = SeriesState::new(feed, id, unit.stored());
        if let Some(frequency) = rules.frequency {
            state.declare(frequency);
        }
        Series { state, memory: Memory::default(), samples: Samples::none_yet() }
    }

    /// A series as a commit remembered it.
    pub fn restore(state: SeriesState) -> Series {
        let samples = match state.last_start {
            None if state.extra().last_register.is_none() => Samples::none_yet(),
            _ => Samples::after(state.extra().last_register.as_deref().copied()),
        };
        Series { state, memory: Memory::default(), samples }
    }

    /// Touches what a reading, and the end of an epoch, need of the series itself, so that the processor's caches have it
    /// by then. The result means nothing; it keeps the compiler from leaving this out.
    pub fn head(&self) -> u64 {
        let SeriesState { id, last_start, recent, partition, .. } = &self.state;
        let head = id.len() as u64 ^ last_start.unwrap_or(0) as u64 ^ *recent as u64 ^ *partition as u64;
        head ^ self.memory.count() as u64
    }

    /// Touches the last interval that is remembered, as [`Series::head`] does the series.
    pub fn last_remembered(&self) -> u64 {
        self.memory.last().unwrap_or(0) as u64
    }

    /// Takes one reading in `unit`. `number` is the number of the series in its shard, `watermark` the feed's:
    /// by it late readings are counted, and what is held in doubt of the frequency is decided.
    pub fn apply(
        &mut self,
        rules: &Rules,
        number: u32,
        watermark: Micros,
        unit: &Unit,
        reading: PendingReading,
        out: &mut Output,
    ) {
        let mut context = Context { rules, number, watermark, known: Known::Remembered, out };
        if reading.position.partition != Position::BACKFILL_PARTITION {
            self.state.partition = reading.position.partition;
        }
        if !unit.is_stored_as(&self.state.unit) {
            let detail = format!(
                "series `{}` is stored in {}, but its reading {} at {} is in {unit}; give it an identifier of its own, or \
                 mend the unit",
                self.state.id,
                self.state.unit,
                reading.value,
                format_micros(reading.at),
            );
            return context.bury(&reading, UNIT_MISMATCH, detail);
        }
        match self.state.frequency {
            Some(frequency) => {
                let held = self.state.extra().pending.len();
                // What was held in doubt of a frequency that can no longer change, because the feed declares it now.
                if held > 0 && !self.may_change(rules) {
                    self.release(held, &mut context);
                }
                self.read(frequency, reading, &mut context);
            }
            None => self.wait(reading, &mut context),
        }
    }

    fn read(&mut self, frequency: Frequency, reading: PendingReading, context: &mut Context<'_>) {
        match context.rules.kind {
            ValueKind::Interval => self.read_interval(frequency, reading, context),
            ValueKind::Gauge => self.read_sample(frequency, reading, context),
            ValueKind::Counter => self.read_register(frequency, reading, context),
        }
    }

    fn read_interval(&mut self, frequency: Frequency, reading: PendingReading, context: &mut Context<'_>) {
        let rules = context.rules;
        let slot = Slot::at(&self.state, frequency, rules.label, &rules.zone, reading.at);
        if let Some(detail) = rules.off_grid(&self.state.id, &slot, reading.at) {
            return context.bury(&reading, OFF_GRID, detail);
        }
        if context.known == Known::Remembered && self.is_doubtful(&slot, reading.at, rules) {
            return self.hold(reading, context);
        }
        self.take_interval(&slot, reading, context);
    }

    fn take_interval(&mut self, slot: &Slot, reading: PendingReading, context: &mut Context<'_>) {
        let Slot { frequency, start, end, .. } = *slot;
        let mut content = content_of(&reading, slot);
        let last = self.state.last_start;
        // Most readings are newer than everything, which the state says without a look into memory; but nothing of
        // earlier eras, nor of what was taken away and is looked up.
        let newer = context.known == Known::Remembered && slot.is_present && last.is_none_or(|last| last < start);
        let outcome = match if newer { None } else { self.memory.find(start) } {
            // It was taken away, for another frequency: any reading brings it back.
            Some(known) if known.content().count == 0 => {
                content.position = content.position.max(above(known.position()));
                revise(known, end, content, context);
                Outcome::Accepted
            }
            Some(known) if known.position() == content.position => Outcome::Duplicate,
            Some(known) if known.position() > content.position => {
                // What counts stays; but at an instant between the two this reading was what was known.
                let row = push_revision(start, end, content, context);
                if context.out.keeps_before {
                    context.out.overtaken.push((row, None));
                }
                Outcome::Duplicate
            }
            Some(known) => {
                let same = same_content(&known.content(), &content);
                overtake(known, end, content, context);
                if same { Outcome::Duplicate } else { Outcome::Corrected }
            }
            None => {
                let new = surely_unwritten(&self.state, start, frequency, &context.rules.zone);
                match context.known {
                    Known::Remembered if !new => return context.park(reading, start, end),
                    Known::Remembered | Known::Everything => {
                        self.write(frequency, start, end, Layer::Base, content, context);
                        Outcome::Accepted
                    }
                    Known::NoMore => {
                        self.write(frequency, start, end, Layer::Revision, content, context);
                        Outcome::Corrected
                    }
                }
            }
        };
        self.count(&reading, outcome, end, context);
        if outcome == Outcome::Accepted && slot.is_present {
            self.notice(slot, last, &reading, context);
        }
    }

    /// Takes a reading that was parked, now that what it concerns was looked up; `found` is false where it could not
    /// be.
    pub fn apply_parked(&mut self, rules: &Rules, parked: Parked, found: bool, out: &mut Output) {
        let Some(frequency) = self.state.frequency else { return };
        let known = if found && self.was_wanted(rules, &parked).1 { Known::Everything } else { Known::NoMore };
        let mut context = Context { rules, number: parked.series, watermark: parked.watermark, known, out };
        self.read(frequency, parked.reading, &mut context);
    }

    // Start of the interval that a parked reading is about, and whether that is what was to be looked up: meanwhile an
    // era may have opened, in which it is about another one.
    fn was_wanted(&self, rules: &Rules, parked: &Parked) -> (Micros, bool) {
        match self.state.frequency {
            Some(frequency) if rules.kind == ValueKind::Interval => {
                let start = Slot::at(&self.state, frequency, rules.label, &rules.zone, parked.reading.at).start;
                (start, (parked.from..parked.to).contains(&start))
            }
            _ => (parked.from, true),
        }
    }

    /// Forgets what a parked reading was about, once all of those with it were taken, if that could not be looked up:
    /// the table may have a row that wins over what was written now. What is not remembered is looked up the next time.
    pub fn forget_unsure(&mut self, rules: &Rules, parked: &Parked, found: bool) {
        let (start, was_wanted) = self.was_wanted(rules, parked);
        if rules.kind == ValueKind::Interval && !(found && was_wanted) {
            self.memory.forget(start);
        }
    }

    /// Takes an interval that was looked up, or, with the number of its row, one of the running epoch. One of another
    /// frequency than its era's was taken away.
    pub fn recall_interval(
        &mut self,
        rules: &Rules,
        (start, end): (Micros, Micros),
        content: &Content,
        row: Option<(u32, u32)>,
    ) {
        let frequency = self.state.frequency.map(|present| eras::frequency_at(&self.state, present, start));
        if frequency.is_some_and(|frequency| frequency.advance(start, 1, &rules.zone) == end) {
            let (epoch, number) = row.unwrap_or_default();
            self.memory.recall(Remembered::new(start, content, epoch, number), row.is_some());
        }
    }

    /// How many samples are in memory.
    #[cfg(test)]
    pub fn samples_kept(&self) -> usize {
        self.samples.len()
    }

    /// Forgets what is not to be remembered in the next epoch: all but so many intervals, and so many samples or
    /// registers.
    pub fn trim(&mut self, rules: &Rules, remembered: usize, samples: usize) {
        self.memory.trim(remembered);
        if rules.kind != ValueKind::Interval {
            self.trim_samples(rules, remembered, samples);
        }
    }

    // Writes an interval that is not remembered.
    fn write(
        &mut self,
        frequency: Frequency,
        start: Micros,
        end: Micros,
        layer: Layer,
        content: Content,
        context: &mut Context<'_>,
    ) {
        let row = context.out.rows.push(Row { series: context.number, start, end, layer, content });
        if layer == Layer::Base {
            eras::mark(&mut self.state, start, frequency, &context.rules.zone);
        }
        let written = Remembered::new(start, &content, context.out.epoch, row);
        match (context.rules.kind, context.known) {
            (ValueKind::Interval, Known::Remembered) => self.memory.insert(written, context.out.remembered),
            // At the end of an epoch what was looked up must not make room before all of it is used.
            _ => self.memory.recall(written, true),
        }
    }
}

fn push_revision(start: Micros, end: Micros, content: Content, context: &mut Context<'_>) -> u32 {
    context.out.rows.push(Row { series: context.number, start, end, layer: Layer::Revision, content })
}

// Changes a remembered interval: its row, while the epoch that wrote it runs; else by a row of its own.
fn revise(known: &mut Remembered, end: Micros, content: Content, context: &mut Context<'_>) {
    match known.row_in(context.out.epoch) {
        Some(row) => {
            context.out.rows.revise(row, content);
            known.set(&content, context.out.epoch, row);
        }
        None => overtake(known, end, content, context),
    }
}

// Changes a remembered interval by a row of its own, whichever epoch wrote what counted before.
fn overtake(known: &mut Remembered, end: Micros, content: Content, context: &mut Context<'_>) {
    let row = push_revision(known.start, end, content, context);
    let out = &mut *context.out;
    if out.keeps_before {
        match known.row_in(out.epoch) {
            Some(before) => out.overtaken.push((before, Some(row))),
            None => out.before.push((row, known.content())),
        }
    }
    known.set(&content, out.epoch, row);
}

/// What a reading says of its interval.
fn content_of(reading: &PendingReading, slot: &Slot) -> Content {
    Content {
        value: reading.scale.store(reading.value, slot.end - slot.start),
        count: 1,
        quality: reading.quality,
        position: reading.position,
    }
}

/// The next position: above this one, and below all that come later in its partition.
fn above(position: Position) -> Position {
    Position { offset: position.offset.saturating_add(1), ..position }
}

fn same_content(a: &Content, b: &Content) -> bool {
    a.value == b.value && a.quality == b.quality
}
