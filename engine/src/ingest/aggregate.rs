//! One series' readings → rows of its native intervals. Pure: the same readings give the same rows.
//!
//! * Kind `interval`: a reading is an interval. Its stamp is rounded to the nearest boundary; the feed's label says
//!   which end of the interval that is.
//! * Kind `gauge`: an interval is the mean of its samples. With the label `end` it holds the samples in
//!   `(start, end]`, with `begin` those in `[start, end)`.
//! * Kind `counter`: an interval is the difference of the registers at its two boundaries. A negative difference (the
//!   register was reset, rolled over or exchanged) gives no value; a correction that makes it negative leaves the
//!   earlier value in place.
//!
//! Of two readings for one thing (interval, sample, register) the one with the greater
//! [`Position`] wins, whatever the order of arrival. Rows follow the same rule: a
//! reader takes the row with the greatest position of an interval, so what this file remembers decides only *where* a
//! row goes and how it is counted, never what is true. That is also why a repeated value with a greater position is
//! written again where its interval is already committed: otherwise a value from between the two, late, would win.

use jiff::tz::TimeZone;
use meterline_schemas::config::{FeedConfig, Label};
use meterline_schemas::reading::{Position, ValueKind};
use meterline_schemas::time::{Span, format_micros};
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};

use super::frequency::settle;
use super::memory::{Memory, Remembered};
use super::outcome::{Dead, Outcome, Tally};
use super::rows::{Content, Layer, Row, Rows};
use super::series::{PendingReading, SeriesState};
use super::written::{mark, surely_unwritten};

/// Samples of a gauge that are kept at most.
const SAMPLES_MAX: usize = 4096;

/// Reason of a reading whose interval's parts are no longer kept.
pub const BEYOND_HORIZON: &str = "beyond_correction_horizon";
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
    /// Intervals a series that are remembered.
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
    /// Readings that cannot be used.
    pub dead: Vec<Dead>,
    /// Counts.
    pub tally: Tally,
}

/// One series at work: its state, and what need not survive.
#[derive(Debug, Clone)]
pub struct Series {
    /// What a commit remembers.
    pub state: SeriesState,
    memory: Memory,
}

/// A reading on its way, with what is the same for all of its series.
struct Context<'a> {
    rules: &'a Rules,
    number: u32,
    watermark: Micros,
    out: &'a mut Output,
}

impl Series {
    /// A series that was never seen before.
    pub fn new(feed: &str, id: &str, unit: &Unit, rules: &Rules) -> Series {
        let mut state = SeriesState::new(feed, id, unit.stored());
        state.frequency = rules.frequency;
        state.declared = rules.frequency.is_some();
        Series { state, memory: Memory::default() }
    }

    /// A series as a commit remembered it.
    pub fn restore(state: SeriesState) -> Series {
        Series { state, memory: Memory::default() }
    }

    /// Takes one reading. `number` is the number of the series in its shard, `watermark` the feed's (for counting late
    /// readings alone).
    pub fn apply(&mut self, rules: &Rules, number: u32, watermark: Micros, reading: PendingReading, out: &mut Output) {
        let mut context = Context { rules, number, watermark, out };
        if reading.position.partition != Position::BACKFILL_PARTITION {
            self.state.partition = reading.position.partition;
        }
        if reading.unit.stored() != self.state.unit {
            let detail = format!(
                "series `{}` is stored in {}, but its reading {} at {} is in {}; give it an identifier of its own, or mend \
                 the unit",
                self.state.id,
                self.state.unit,
                reading.value,
                format_micros(reading.at),
                reading.unit
            );
            return context.bury(&reading, UNIT_MISMATCH, detail);
        }
        match self.state.frequency {
            Some(frequency) => self.read(frequency, reading, &mut context),
            None => self.wait(reading, &mut context),
        }
    }

    // The native frequency is not known yet.
    fn wait(&mut self, reading: PendingReading, context: &mut Context<'_>) {
        let pending = &mut self.state.extra_mut().pending;
        match pending.binary_search_by_key(&reading.at, |known| known.at) {
            Ok(index) if pending[index].position >= reading.position => {
                context.out.tally.count(&reading, Outcome::Duplicate, false);
            }
            Ok(index) => {
                context.out.tally.count(&reading, Outcome::Waits, false);
                let older = std::mem::replace(&mut pending[index], reading);
                context.out.tally.released(&older);
                context.out.tally.count(&older, Outcome::Duplicate, false);
            }
            Err(index) => {
                context.out.tally.count(&reading, Outcome::Waits, false);
                pending.insert(index, reading);
                self.settle(context);
            }
        }
    }

    fn settle(&mut self, context: &mut Context<'_>) {
        let declared = context.rules.frequency;
        let found = declared.or_else(|| {
            let stamps: Vec<Micros> = self.state.extra().pending.iter().map(|reading| reading.at).collect();
            settle(&stamps)
        });
        let Some(frequency) = found else { return };
        self.state.frequency = Some(frequency);
        self.state.declared = declared.is_some();
        for reading in std::mem::take(&mut self.state.extra_mut().pending) {
            context.out.tally.released(&reading);
            self.read(frequency, reading, context);
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
        let zone = &context.rules.zone;
        let boundary = frequency.round(reading.at, zone);
        let (start, end) = match context.rules.label {
            Label::End => (frequency.advance(boundary, -1, zone), boundary),
            Label::Begin => (boundary, frequency.advance(boundary, 1, zone)),
        };
        let content = Content {
            value: reading.unit.store(reading.value, end - start),
            count: 1,
            quality: reading.quality,
            position: reading.position,
        };
        let outcome = match self.memory.find(start) {
            Some(known) if known.position() >= content.position => Outcome::Duplicate,
            Some(known) => {
                let same = same_content(&known.content(), &content);
                revise(known, end, content, context);
                if same { Outcome::Duplicate } else { Outcome::Corrected }
            }
            None => self.write(frequency, start, end, content, context),
        };
        context.count(&reading, outcome, end);
    }

    fn read_sample(&mut self, frequency: Frequency, reading: PendingReading, context: &mut Context<'_>) {
        let rules = context.rules;
        let slot = |at: Micros| match rules.label {
            Label::End => frequency.floor(at - 1, &rules.zone),
            Label::Begin => frequency.floor(at, &rules.zone),
        };
        let start = slot(reading.at);
        let end = frequency.advance(start, 1, &rules.zone);
        let samples = &mut self.state.extra_mut().samples;
        let inside = |samples: &[PendingReading]| {
            samples.partition_point(|s| !rules.begins_by(s.at, start))
                ..samples.partition_point(|s| !rules.begins_by(s.at, end))
        };
        let mut outcome = Outcome::Accepted;
        match samples.binary_search_by_key(&reading.at, |sample| sample.at) {
            Ok(index) => match keep_greater(&mut samples[index], &reading) {
                Kept::Changed => outcome = Outcome::Corrected,
                Kept::Same => return context.count(&reading, Outcome::Duplicate, end),
            },
            Err(index) => {
                // The other samples of its interval, if they are still there.
                let others = inside(samples).len();
                if others == 0 && !surely_unwritten(&self.state, start, frequency, &rules.zone) {
                    return context.bury_old(&reading, &self.state.id);
                }
                if others >= SAMPLES_MAX {
                    let detail = format!("an interval of series `{}` has {SAMPLES_MAX} samples already", self.state.id);
                    return context.bury(&reading, TOO_MANY_SAMPLES, detail);
                }
                let samples = &mut self.state.extra_mut().samples;
                samples.insert(index, reading.clone());
                if others == 0 || samples.len() > SAMPLES_MAX {
                    let surplus = surplus(samples, rules, slot);
                    // An interval whose samples go at once would be the mean of this one alone.
                    if index < surplus {
                        samples.remove(index);
                        return context.bury_old(&reading, &self.state.id);
                    }
                    samples.drain(..surplus);
                }
            }
        }
        let samples = &self.state.extra().samples;
        if let Some(content) = mean(samples[inside(samples)].iter(), end - start) {
            self.derive(frequency, start, end, content, context);
        }
        context.count(&reading, outcome, end);
    }

    fn read_register(&mut self, frequency: Frequency, reading: PendingReading, context: &mut Context<'_>) {
        let zone = &context.rules.zone;
        let boundary = frequency.round(reading.at, zone);
        let register = PendingReading { at: boundary, ..reading.clone() };
        let kept_max = context.rules.remembered;
        let samples = &mut self.state.extra_mut().samples;
        let full = samples.len() >= kept_max;
        // The left neighbour of the oldest register may be gone: its interval could not be corrected any more.
        if full && samples.first().is_some_and(|oldest| boundary <= oldest.at) {
            return context.bury_old(&reading, &self.state.id);
        }
        let mut outcome = Outcome::Accepted;
        let index = match samples.binary_search_by_key(&boundary, |sample| sample.at) {
            Ok(index) => match keep_greater(&mut samples[index], &register) {
                Kept::Changed => {
                    outcome = Outcome::Corrected;
                    index
                }
                Kept::Same => return context.count(&reading, Outcome::Duplicate, boundary),
            },
            Err(index) => {
                samples.insert(index, register);
                index
            }
        };
        for right in [index, index + 1] {
            let Some(left) = right.checked_sub(1) else { continue };
            let (Some(from), Some(to)) = (self.state.extra().samples.get(left), self.state.extra().samples.get(right))
            else {
                continue;
            };
            if frequency.advance(from.at, 1, zone) != to.at {
                continue;
            }
            let (start, end) = (from.at, to.at);
            let length = end - start;
            let value = to.unit.store(to.value, length) - from.unit.store(from.value, length);
            let quality = from.quality.max(to.quality);
            let content = Content { value, count: 2, quality, position: from.position.max(to.position) };
            if value >= 0.0 {
                self.derive(frequency, start, end, content, context);
            }
        }
        let samples = &mut self.state.extra_mut().samples;
        let excess = samples.len().saturating_sub(kept_max);
        samples.drain(..excess);
        context.count(&reading, outcome, boundary);
    }

    // Writes an interval that is made of several readings, if it changed.
    fn derive(
        &mut self,
        frequency: Frequency,
        start: Micros,
        end: Micros,
        mut content: Content,
        context: &mut Context<'_>,
    ) {
        let known = self.memory.find(start);
        let same = |known: &Content| same_content(known, &content) && known.count == content.count;
        if known.as_ref().is_some_and(|known| same(&known.content())) {
            return;
        }
        // A part that arrives late has a smaller position than the others; its row must win all the same.
        if let Some(last) = self.state.extra().last_position.filter(|last| content.position <= *last) {
            content.position = Position { offset: last.offset + 1, ..last };
        }
        self.state.extra_mut().last_position = Some(content.position);
        match known {
            Some(known) => revise(known, end, content, context),
            None => {
                self.write(frequency, start, end, content, context);
            }
        }
    }

    // Writes an interval that is not remembered.
    fn write(
        &mut self,
        frequency: Frequency,
        start: Micros,
        end: Micros,
        content: Content,
        context: &mut Context<'_>,
    ) -> Outcome {
        let zone = &context.rules.zone;
        let new = surely_unwritten(&self.state, start, frequency, zone);
        let layer = if new { Layer::Base } else { Layer::Revision };
        let row = context.out.rows.push(Row { series: context.number, start, end, layer, content });
        if new {
            mark(&mut self.state, start, frequency, zone);
        }
        self.memory.insert(Remembered::new(start, &content, context.out.epoch, row), context.out.remembered);
        if new { Outcome::Accepted } else { Outcome::Corrected }
    }
}

impl Context<'_> {
    fn count(&mut self, reading: &PendingReading, outcome: Outcome, end: Micros) {
        self.out.tally.count(reading, outcome, end <= self.watermark);
    }

    fn bury(&mut self, reading: &PendingReading, reason: &'static str, detail: String) {
        self.out.tally.dead(reading.position.partition);
        self.out.dead.push(Dead { position: reading.position, reason, detail });
    }

    fn bury_old(&mut self, reading: &PendingReading, id: &str) {
        let at = format_micros(reading.at);
        let detail = format!(
            "the reading of series `{id}` at {at} (value {}) is older than the {} intervals that are kept for \
             corrections (ingest.remembered_intervals)",
            reading.value, self.rules.remembered
        );
        self.bury(reading, BEYOND_HORIZON, detail);
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
            out.rows.push(Row { series: context.number, start, end, layer: Layer::Revision, content })
        }
    };
    known.set(&content, out.epoch, row);
}

fn same_content(a: &Content, b: &Content) -> bool {
    a.value == b.value && a.quality == b.quality
}

enum Kept {
    Changed,
    Same,
}

// Of two readings of one thing the one with the greater position stays.
fn keep_greater(known: &mut PendingReading, reading: &PendingReading) -> Kept {
    if reading.position <= known.position {
        return Kept::Same;
    }
    let same = known.value == reading.value && known.unit == reading.unit && known.quality == reading.quality;
    *known = reading.clone();
    if same { Kept::Same } else { Kept::Changed }
}

fn mean<'a>(samples: impl Iterator<Item = &'a PendingReading>, length: Micros) -> Option<Content> {
    let mut sum = 0.0;
    let mut found: Option<Content> = None;
    for sample in samples {
        sum += sample.unit.store(sample.value, length);
        let (count, quality, position) = match found {
            None => (1, sample.quality, sample.position),
            Some(so_far) => {
                (so_far.count + 1, so_far.quality.max(sample.quality), so_far.position.max(sample.position))
            }
        };
        found = Some(Content { value: sum / f64::from(count), count, quality, position });
    }
    found
}

// How many of the first samples are those of the oldest intervals, which are forgotten: as many as are not to be
// remembered, and more where there are too many samples. Those of the newest interval stay.
fn surplus(samples: &[PendingReading], rules: &Rules, slot: impl Fn(Micros) -> Micros) -> usize {
    if samples.len() <= rules.remembered {
        return 0;
    }
    let mut keep_from = samples.len();
    let mut slots = 0;
    while let Some(last) = keep_from.checked_sub(1) {
        let start = slot(samples[last].at);
        let first = samples[..keep_from].partition_point(|sample| !rules.begins_by(sample.at, start));
        if slots > 0 && (slots == rules.remembered || samples.len() - first > SAMPLES_MAX) {
            break;
        }
        slots += 1;
        keep_from = first;
    }
    keep_from
}
