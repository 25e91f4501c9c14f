//! One series' readings → rows of its native intervals. Pure: the same readings give the same rows.
//!
//! * Kind `interval`: a reading is an interval. Its stamp is rounded to the nearest boundary; the feed's label says
//!   which end of the interval that is.
//! * Kind `gauge`: an interval is the mean of its samples. With the label `end` it holds the samples in
//!   `(start, end]`, with `begin` those in `[start, end)`.
//! * Kind `counter`: an interval is the difference of the registers at its two boundaries. A negative difference (the
//!   register was reset, rolled over or exchanged) gives no value; a correction that makes it negative takes the earlier
//!   value away.
//!
//! Of two readings for one thing (interval, sample, register) the one with the greater
//! [`Position`] wins, whatever the order of arrival. Rows follow the same rule: a
//! reader takes the row with the greatest position of an interval. That is also why a repeated value with a greater position is
//! written again where its interval is already committed: otherwise a value from between the two, late, would win.
//!
//! What a series remembers is a part of what the lake has. A reading that concerns more than that is parked: at the end of the
//! epoch what is missing is looked up, and the reading taken then. So memory decides how fast, never what.

mod doubts;
mod reopen;
mod waiting;

use jiff::tz::TimeZone;
use meterline_schemas::config::{FeedConfig, Label};
use meterline_schemas::reading::{Position, Quality, ValueKind};
use meterline_schemas::time::{Span, format_micros};
use meterline_schemas::unit::{Scale, Unit};
use meterline_schemas::{Frequency, Micros};

pub use self::doubts::Opening;
pub use self::reopen::Existing;
use self::reopen::content_of;
use super::eras::{self, Slot};
use super::memory::{Memory, Remembered};
use super::outcome::{Dead, Outcome, Tally};
use super::rows::{Content, Layer, Row, Rows};
use super::samples::{Repeated, Samples, Taken};
use super::series::{PendingReading, SeriesState};
use super::written::surely_unwritten;

/// Samples of one interval of a gauge at most.
const SAMPLES_MAX: usize = 100_000;

/// Reason of a reading from a clock that runs far ahead. One such reading would close intervals for all other meters.
pub const TIME_AHEAD: &str = "time_ahead";
/// Reason of a reading in a unit that cannot be stored with its series.
pub const UNIT_MISMATCH: &str = "unit_mismatch";
/// Reason of a sample of an interval that has too many.
pub const TOO_MANY_SAMPLES: &str = "too_many_samples";

/// How the readings of a feed become intervals.
#[derive(Debug, Clone)]
pub struct Rules {
    /// What a value means.
    pub kind: ValueKind,
    /// Which end of its interval a stamp marks.
    pub label: Label,
    /// Zone of calendar days, weeks and months.
    pub zone: TimeZone,
    /// Declared native frequency.
    pub frequency: Option<Frequency>,
    /// How far a stamp may lie after its record's.
    pub max_ahead: Micros,
    /// Intervals a series that are remembered at most.
    pub remembered: usize,
}

impl Rules {
    /// The rules of a feed. Fails only if the feed's zone is unknown, which a checked configuration excludes.
    pub fn new(feed: &FeedConfig, remembered: usize) -> Result<Rules, jiff::Error> {
        let zone = TimeZone::get(&feed.zone)?;
        Ok(Rules {
            kind: feed.kind,
            label: feed.label,
            zone,
            frequency: feed.frequency,
            max_ahead: feed.max_ahead.micros(),
            remembered: remembered.max(2),
        })
    }

    /// What is wrong with a reading whose stamp is too far ahead of its record.
    pub fn ahead(&self, series: &str, reading: &PendingReading) -> Option<String> {
        let known_at = reading.position.known_at_ms()?.saturating_mul(1_000);
        let ahead = reading.at.saturating_sub(known_at);
        (ahead > self.max_ahead).then(|| {
            format!(
                "the reading of series `{series}` at {} is {} ahead of its record: the meter's clock is wrong, or \
                 `max_ahead` of the feed is too short",
                format_micros(reading.at),
                Span(ahead)
            )
        })
    }

    // Start of the interval that a sample at `at` is in.
    fn slot(&self, frequency: Frequency, at: Micros) -> Micros {
        match self.label {
            Label::End => frequency.floor(at - 1, &self.zone),
            Label::Begin => frequency.floor(at, &self.zone),
        }
    }

    // The first stamp of samples in the interval that starts at `start`.
    fn first_of(&self, start: Micros) -> Micros {
        match self.label {
            Label::End => start + 1,
            Label::Begin => start,
        }
    }

    /// Whether a sample at `at` is in an interval that starts at `start` or later.
    fn begins_by(&self, at: Micros, start: Micros) -> bool {
        match self.label {
            Label::End => at > start,
            Label::Begin => at >= start,
        }
    }
}

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
    /// Samples and registers, by the number of their series.
    pub samples: Vec<(u32, PendingReading)>,
    /// Readings that cannot be used.
    pub dead: Vec<Dead>,
    /// Counts.
    pub tally: Tally,
    /// Readings that concern more than is remembered.
    pub parked: Vec<Parked>,
    /// Series that open an era, once what it takes away is looked up; with the scale of a reading, and the feed's watermark.
    pub openings: Vec<(u32, Scale, Micros)>,
    // Intervals that are to be computed anew from their samples or registers: series, start, and whether everything of
    // it is known.
    stale: Vec<(u32, Micros, bool)>,
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
    watermark: Micros,
}

/// How much is known of what was written earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// What is remembered; the rest can be looked up.
    Remembered,
    /// Everything: it was looked up.
    Everything,
    /// What is remembered, and the rest cannot be looked up.
    NoMore,
}

/// One series at work: its state, and what need not survive.
#[derive(Debug, Clone)]
pub struct Series {
    /// What a commit remembers.
    pub state: SeriesState,
    memory: Memory,
    samples: Samples,
}

/// A reading on its way, with what is the same for all of its series.
struct Context<'a> {
    rules: &'a Rules,
    number: u32,
    watermark: Micros,
    known: Known,
    out: &'a mut Output,
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
            _ => Samples::after(state.extra().last_register),
        };
        Series { state, memory: Memory::default(), samples }
    }

    /// Takes one reading in `unit`. `number` is the number of the series in its shard, `watermark` the feed's (for counting
    /// late readings alone).
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
            Some(frequency) => self.read(frequency, reading, &mut context),
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
        if context.known == Known::Remembered && self.is_doubtful(&slot, reading.at, rules) {
            return self.hold(reading, context);
        }
        self.take_interval(&slot, reading, context);
    }

    fn take_interval(&mut self, slot: &Slot, reading: PendingReading, context: &mut Context<'_>) {
        let Slot { frequency, start, end, .. } = *slot;
        let mut content = content_of(&reading, slot);
        let last = self.state.last_start;
        // Most readings are newer than everything, which the state says without a look into memory.
        let newer = last.is_none_or(|last| last < start);
        let outcome = match if newer { None } else { self.memory.find(start) } {
            // It was taken away, for another frequency: any reading brings it back.
            Some(known) if known.content().count == 0 => {
                content.position = content.position.max(above(known.position()));
                revise(known, end, content, context);
                Outcome::Accepted
            }
            Some(known) if known.position() >= content.position => Outcome::Duplicate,
            Some(known) => {
                let same = same_content(&known.content(), &content);
                revise(known, end, content, context);
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
        context.count(&reading, outcome, end);
        if outcome == Outcome::Accepted && slot.is_present {
            self.notice(slot, last, &reading, context);
        }
    }

    fn read_sample(&mut self, frequency: Frequency, reading: PendingReading, context: &mut Context<'_>) {
        let rules = context.rules;
        let start = rules.slot(frequency, reading.at);
        let end = frequency.advance(start, 1, &rules.zone);
        let new = surely_unwritten(&self.state, start, frequency, &rules.zone);
        let first = rules.first_of(start);
        let complete = new || context.known != Known::Remembered || self.samples.complete_from(first);
        if !complete {
            return context.park(reading, start, end);
        }
        let looked_up = context.known == Known::Everything;
        if (new || looked_up) && self.state.last_start.is_none_or(|last| last <= start) {
            self.samples.extend_to(first);
        }
        let others = self.samples.between(|at| rules.begins_by(at, start), |at| rules.begins_by(at, end)).len();
        if others >= SAMPLES_MAX && self.samples.at(reading.at).is_none() {
            let detail = format!("an interval of series `{}` has {SAMPLES_MAX} samples already", self.state.id);
            return context.bury(&reading, TOO_MANY_SAMPLES, detail);
        }
        let outcome = context.keep(self.samples.take(reading), reading);
        if matches!(outcome, Outcome::Accepted | Outcome::Corrected) {
            context.stale(start);
        }
        context.count(&reading, outcome, end);
    }

    fn read_register(&mut self, frequency: Frequency, reading: PendingReading, context: &mut Context<'_>) {
        let zone = &context.rules.zone;
        let boundary = frequency.round(reading.at, zone);
        let (left, right) = (frequency.advance(boundary, -1, zone), frequency.advance(boundary, 1, zone));
        let register = PendingReading { at: boundary, ..reading };
        if context.known == Known::Remembered && !self.samples.complete_from(left) {
            // A repetition of the last register, the most frequent one, needs no more than that.
            let repeated = self.samples.at(boundary).is_some_and(|known| known.position >= register.position);
            match repeated {
                true => context.count(&reading, Outcome::Duplicate, boundary),
                false => context.park(reading, left, right),
            }
            return;
        }
        let last = self.state.extra().last_register.map(|last| last.at);
        if context.known == Known::Everything && last.is_none_or(|last| last <= right) {
            self.samples.extend_to(left);
        }
        let outcome = context.keep(self.samples.take(register), register);
        if matches!(outcome, Outcome::Accepted | Outcome::Corrected) {
            context.stale(left);
            context.stale(boundary);
        }
        if outcome != Outcome::Duplicate || self.samples.last().is_some_and(|last| last.at == boundary) {
            self.state.extra_mut().last_register = self.samples.last().copied();
        }
        context.count(&reading, outcome, boundary);
    }

    /// Takes a reading that was parked, now that what it concerns was looked up; `found` is false where it could not be.
    pub fn apply_parked(&mut self, rules: &Rules, parked: Parked, found: bool, out: &mut Output) {
        let Some(frequency) = self.state.frequency else { return };
        let concerned = Slot::at(&self.state, frequency, rules.label, &rules.zone, parked.reading.at);
        // Meanwhile an era may have opened, in which it is about another interval.
        let is_known = rules.kind != ValueKind::Interval || (parked.from..parked.to).contains(&concerned.start);
        let known = if found && is_known { Known::Everything } else { Known::NoMore };
        let mut context = Context { rules, number: parked.series, watermark: parked.watermark, known, out };
        self.read(frequency, parked.reading, &mut context);
    }

    /// Takes an interval that was looked up, or, with the number of its row, one of the running epoch. One of another frequency
    /// than its era's was taken away.
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

    /// Takes a sample or register that was looked up.
    pub fn recall_sample(&mut self, sample: PendingReading) {
        self.samples.take(sample);
    }

    /// Forgets what is not to be remembered in the next epoch: all but so many intervals, and so many samples or registers.
    pub fn trim(&mut self, rules: &Rules, remembered: usize, samples: usize) {
        self.memory.trim(remembered);
        if rules.kind == ValueKind::Interval {
            return;
        }
        // The sample at an interval's start belongs to the one before; the register there to both.
        let first_of = |start: Micros| if rules.kind == ValueKind::Gauge { rules.first_of(start) } else { start };
        if let Some(oldest) = self.memory.oldest() {
            self.samples.forget_before(first_of(oldest));
        }
        // However many there are of an interval, and also where they make none.
        let most = if rules.kind == ValueKind::Gauge { samples } else { samples.min(remembered + 1) };
        let surplus = self.samples.len().saturating_sub(most);
        let (Some(first_kept), Some(last), Some(frequency)) =
            (self.samples.nth(surplus), self.samples.last(), self.state.frequency)
        else {
            return;
        };
        let from = match rules.kind {
            // Whole intervals, but never the running one.
            ValueKind::Gauge if surplus > 0 => {
                let next = frequency.advance(rules.slot(frequency, first_kept.at), 1, &rules.zone);
                rules.first_of(next.min(rules.slot(frequency, last.at)))
            }
            _ => first_kept.at,
        };
        if surplus > 0 {
            self.samples.forget_before(from);
        }
    }

    // Computes an interval that is made of several readings anew, and writes it if it changed.
    fn derive(&mut self, frequency: Frequency, start: Micros, context: &mut Context<'_>) {
        let rules = context.rules;
        let end = frequency.advance(start, 1, &rules.zone);
        let found = match rules.kind {
            ValueKind::Counter => match (self.samples.at(start), self.samples.at(end)) {
                (Some(from), Some(to)) => difference(from, to, end - start),
                _ => return,
            },
            _ => {
                let inside = self.samples.between(|at| rules.begins_by(at, start), |at| rules.begins_by(at, end));
                mean(inside, end - start)
            }
        };
        let known = self.memory.find(start);
        let new = known.is_none()
            && (context.known == Known::Everything || surely_unwritten(&self.state, start, frequency, &rules.zone));
        let mut content = match found {
            Some(content) => content,
            // Nothing was there, and nothing is to be taken away.
            None if new || known.as_ref().is_some_and(|known| known.content().count == 0) => return,
            None => Content { value: 0.0, count: 0, quality: Quality::Measured, position: Position::LEAST },
        };
        let same = |known: &Content| same_content(known, &content) && known.count == content.count;
        if known.as_ref().is_some_and(|known| same(&known.content())) {
            return;
        }
        // A part that arrives late has a smaller position than the others; its row must win all the same.
        if let Some(last) = self.state.extra().last_position.filter(|last| content.position <= *last) {
            content.position = above(last);
        }
        self.state.extra_mut().last_position = Some(content.position);
        match self.memory.find(start) {
            Some(known) => revise(known, end, content, context),
            None => {
                let layer = if new { Layer::Base } else { Layer::Revision };
                self.write(frequency, start, end, layer, content, context);
            }
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

impl Output {
    /// An empty one.
    pub fn new(epoch: u32, remembered: usize) -> Output {
        Output { epoch, remembered, ..Output::default() }
    }

    /// With or without [`Output::before`].
    pub fn keeping_before(mut self, keeps: bool) -> Output {
        self.keeps_before = keeps;
        self
    }

    /// The series that open an era before this epoch ends; of each what was said last.
    pub fn take_openings(&mut self) -> Vec<(u32, Scale, Micros)> {
        let mut openings = std::mem::take(&mut self.openings);
        openings.reverse();
        openings.sort_by_key(|(series, ..)| *series);
        openings.dedup_by_key(|(series, ..)| *series);
        openings
    }

    /// The series whose intervals are to be computed anew before the epoch ends, with the intervals and whether everything
    /// of them is known; in order.
    pub fn take_stale(&mut self) -> Vec<(u32, Micros, bool)> {
        self.take_stale_of(|_| true)
    }

    /// Those of some series.
    pub fn take_stale_of(&mut self, of: impl Fn(u32) -> bool) -> Vec<(u32, Micros, bool)> {
        let (mut stale, rest) = std::mem::take(&mut self.stale).into_iter().partition::<Vec<_>, _>(|one| of(one.0));
        self.stale = rest;
        stale.sort_unstable();
        // Of two about one interval the one that knows more comes last.
        stale.reverse();
        stale.dedup_by_key(|(series, start, _)| (*series, *start));
        stale.reverse();
        stale
    }
}

impl Series {
    /// Computes an interval of [`Output::take_stale`].
    pub fn refresh(&mut self, rules: &Rules, (number, start, everything): (u32, Micros, bool), out: &mut Output) {
        let known = if everything { Known::Everything } else { Known::Remembered };
        let mut context = Context { rules, number, watermark: Micros::MIN, known, out };
        if let Some(frequency) = self.state.frequency {
            self.derive(frequency, start, &mut context);
        }
    }
}

impl Context<'_> {
    fn count(&mut self, reading: &PendingReading, outcome: Outcome, end: Micros) {
        self.out.tally.count(reading, outcome, end <= self.watermark);
    }

    fn park(&mut self, reading: PendingReading, from: Micros, to: Micros) {
        let (series, watermark) = (self.number, self.watermark);
        self.out.parked.push(Parked { series, from, to, reading, watermark });
    }

    // A sample or register that was taken is written, unless it is older than what is there.
    fn keep(&mut self, taken: Taken, reading: PendingReading) -> Outcome {
        if taken != Taken::Repeated(Repeated::Older) {
            self.out.samples.push((self.number, reading));
        }
        match taken {
            Taken::New => Outcome::Accepted,
            Taken::Changed => Outcome::Corrected,
            Taken::Repeated(_) => Outcome::Duplicate,
        }
    }

    fn stale(&mut self, start: Micros) {
        let one = (self.number, start, self.known == Known::Everything);
        // Neighbours are often alike.
        if self.out.stale.last() != Some(&one) {
            self.out.stale.push(one);
        }
    }

    fn bury(&mut self, reading: &PendingReading, reason: &'static str, detail: String) {
        self.out.tally.dead(reading.position.partition);
        self.out.dead.push(Dead { position: reading.position, reason, detail });
    }
}

// Changes a remembered interval: its row, while the epoch that wrote it runs; else by a row of its own.
fn revise(known: &mut Remembered, end: Micros, content: Content, context: &mut Context<'_>) {
    let out = &mut *context.out;
    let row = match known.row_in(out.epoch) {
        Some(row) => {
            out.rows.revise(row, content);
            row
        }
        None => {
            let start = known.start;
            let row = out.rows.push(Row { series: context.number, start, end, layer: Layer::Revision, content });
            if out.keeps_before {
                out.before.push((row, known.content()));
            }
            row
        }
    };
    known.set(&content, out.epoch, row);
}

/// The next position: above this one, and below all that come later in its partition.
fn above(position: Position) -> Position {
    Position { offset: position.offset.saturating_add(1), ..position }
}

fn same_content(a: &Content, b: &Content) -> bool {
    a.value == b.value && a.quality == b.quality
}

// A negative difference is none.
fn difference(from: &PendingReading, to: &PendingReading, length: Micros) -> Option<Content> {
    let value = to.scale.store(to.value, length) - from.scale.store(from.value, length);
    let (quality, position) = (from.quality.max(to.quality), from.position.max(to.position));
    (value >= 0.0).then_some(Content { value, count: 2, quality, position })
}

fn mean<'s>(samples: impl ExactSizeIterator<Item = &'s PendingReading>, length: Micros) -> Option<Content> {
    let count = i32::try_from(samples.len()).unwrap_or(i32::MAX);
    let (mut sum, mut quality, mut position) = (0.0, Quality::Measured, Position::LEAST);
    for sample in samples {
        sum += sample.scale.store(sample.value, length);
        quality = quality.max(sample.quality);
        position = position.max(sample.position);
    }
    (count > 0).then(|| Content { value: sum / f64::from(count), count, quality, position })
}
