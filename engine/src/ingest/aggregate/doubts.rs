//! Readings that do not fit the detected frequency of their series, and what follows from them.
//!
//! *Finer.* A reading that is further from the boundaries than the readings were from which the frequency was
//! detected (half as much again, and a sixty-fourth of an interval, or of a day and more a two hundred and fifty-sixth)
//! is held: at the old frequency it would spoil an interval that is right. Readings that are held, with few intervals
//! between one and the next, are a *run*. A run and the intervals among it, as far as the watermark has passed them,
//! are looked at as the first readings of the series were. What that gives counts if four fifths of the run itself fit
//! it.
//!
//! * A finer frequency opens an era, at the first two readings of the run that are side by side in the new grid and
//!   after which it goes on: so a stray reading takes no intervals away, and those before the run stay.
//! * The same frequency means that the meter's clock was set. The readings are taken at it.
//! * Readings after which twelve intervals (five days, weeks or months) come undisturbed were stray ones. They are
//!   taken at the old frequency.
//!
//! All that is decided from what the watermark has passed, so that it does not depend on which partition was read
//! first. From 64 readings that are held on it is decided without, if they tell a change: memory is bounded. A backfill
//! has no watermark, and its history may be older than what is there: whatever was written after a run counts.
//!
//! *Coarser.* Intervals that are each more than one step after the one before are remembered; those that the
//! watermark has passed are looked at in the same way.

use jiff::tz::TimeZone;
use meterline_schemas::config::Label;
use meterline_schemas::reading::ValueKind;
use meterline_schemas::time::DAY;
use meterline_schemas::{Frequency, Micros};

use super::super::eras::{self, ERAS_MAX, Slot};
use super::super::frequency::{ANY_SPREAD, Found, PENDING_MAX, beside, detect, is_due};
use super::super::series::PendingReading;
use super::super::written;
use super::{Context, Known, Rules, Series};

/// Readings that are held at most, as many as may wait for the first frequency.
const HELD_MAX: usize = PENDING_MAX;
/// So many readings that are held may tell a change without the watermark. If so many that it has passed tell none, the
/// readings of the series are irregular.
const MANY: usize = 64;
/// Readings that a run has at least to tell anything.
const RUN_MIN: usize = 5;
/// Intervals between two readings that are held, above which these are of two runs.
const APART: usize = 3;
/// Intervals that are looked at together with a run.
const AMONG_MAX: usize = 512;
/// Intervals after a change of which half must have readings that are held.
const AFTER: usize = 4;
/// Intervals more than one step apart that are remembered.
const SPARSE_MAX: usize = 64;
/// The greatest spread that stray readings may give: at an eighth most finer frequencies can still be told.
const STRAY_MAX: u8 = 32;

/// Intervals after which a reading that is held was a stray one.
fn enough(frequency: Frequency) -> u8 {
    if frequency.nominal_micros() < DAY { 12 } else { 5 }
}

/// How far everything was read, as far as that may decide about a frequency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reached {
    /// What is looked at ends by then.
    pub watermark: Micros,
    /// Intervals that end by then and come after a run tell that only some time in the past had its frequency.
    pub written: Micros,
}

/// An era that is to open.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Opening {
    /// Its frequency.
    pub found: Found,
    /// Its start.
    pub start: Micros,
    /// Intervals of the present era that start from here on …
    pub from: Micros,
    /// … and before this are taken away.
    pub to: Micros,
}

/// What the readings that are held tell.
enum Told {
    /// A finer frequency.
    Finer(Opening),
    /// A finer frequency that is not to be believed yet, or that only some time in the past had.
    Elsewhere,
    /// The frequency that is known, in another phase.
    Same(Found),
    /// Nothing.
    Nothing,
}

/// A phase as a time.
fn shift(phase: i8, frequency: Frequency) -> Micros {
    Micros::from(phase) * frequency.nominal_micros() / 256
}

/// The cell of a grid in which a stamp is, if it is near the middle.
fn cell(found: &Found, at: Micros, zone: &TimeZone) -> Option<i64> {
    let (cell, beside) = beside(found.frequency, found.phase, at, zone);
    (beside.abs() * 256.0 <= f64::from(found.spread.max(16))).then_some(cell)
}

/// The readings of a run that fit a grid, with their cells, if they are four fifths of it or more.
fn fitting(run: &[PendingReading], found: &Found, zone: &TimeZone) -> Option<Vec<(Micros, i64)>> {
    let fitting = run.iter().filter_map(|reading| Some((reading.at, cell(found, reading.at, zone)?)));
    let fitting: Vec<(Micros, i64)> = fitting.collect();
    (5 * fitting.len() >= 4 * run.len()).then_some(fitting)
}

impl Series {
    // Whether the frequency can still change.
    pub(super) fn may_change(&self, rules: &Rules) -> bool {
        !self.state.declared
            && rules.frequency.is_none()
            && rules.kind == ValueKind::Interval
            && self.state.extra().eras.len() < ERAS_MAX
    }

    /// Whether a reading is to be held.
    pub(super) fn is_doubtful(&self, slot: &Slot, at: Micros, rules: &Rules) -> bool {
        let phase = self.state.phase;
        // Most readings. Besides, where a day begins at one o'clock its boundary lies beside the clock's.
        if phase == 0 && at == (if rules.label == Label::End { slot.end } else { slot.start }) {
            return false;
        }
        if !slot.is_present || !self.may_change(rules) {
            return false;
        }
        let (_, distance) = beside(slot.frequency, phase, at, &rules.zone);
        // A quarter of an hour is not to pass for the beginning of a day.
        let least = if slot.frequency.nominal_micros() < DAY { 8.0 } else { 2.0 };
        distance.abs() * 512.0 > least + 3.0 * f64::from(self.state.spread)
    }

    /// Holds a reading, and looks at all of them.
    pub(super) fn hold(&mut self, reading: PendingReading, context: &mut Context<'_>) {
        if !self.put_aside(reading, context) {
            return;
        }
        self.state.extra_mut().undisturbed = 0;
        let held = self.state.extra().pending.len();
        // There are more only while an era waits for the end of the epoch to open.
        let due = if held <= HELD_MAX { is_due(held) } else { held.is_multiple_of(HELD_MAX) };
        if !due {
            return;
        }
        let reached = context.reached_by(&reading);
        match self.told(context.rules, reached) {
            Told::Finer(opening) => self.begin(&opening, &reading, context),
            Told::Same(found) => {
                (self.state.phase, self.state.spread) = (found.phase, found.spread);
                self.release(held, context);
            }
            Told::Elsewhere if held >= HELD_MAX => self.release(held, context),
            Told::Nothing if held >= HELD_MAX || self.held_by(reached.watermark) >= MANY => {
                self.state.spread = ANY_SPREAD;
                self.release(held, context);
            }
            Told::Elsewhere | Told::Nothing => {}
        }
    }

    /// A new interval was written; `last` was the last one before.
    pub(super) fn notice(
        &mut self,
        slot: &Slot,
        last: Option<Micros>,
        reading: &PendingReading,
        context: &mut Context<'_>,
    ) {
        let zone = &context.rules.zone;
        let follows = last.is_none_or(|last| slot.frequency.advance(last, 1, zone) == slot.start);
        let extra = self.state.extra();
        let holds = !extra.pending.is_empty();
        if (follows && !holds && extra.sparse.is_empty()) || !self.may_change(context.rules) {
            return;
        }
        if context.known != Known::Remembered {
            // At the end of an epoch nothing is decided any more.
            return self.note_sparse(slot, last, context.rules);
        }
        if holds {
            self.undisturbed(reading, context);
        }
        // Perhaps an era has just opened.
        if self.state.frequency != Some(slot.frequency) {
            return;
        }
        let before = self.state.extra().sparse.len();
        self.note_sparse(slot, last, context.rules);
        let count = self.state.extra().sparse.len();
        if count > before && is_due(count) {
            match self.coarser(context.rules, context.reached_by(reading).watermark) {
                Some(opening) => self.begin(&opening, reading, context),
                None if count >= SPARSE_MAX => {
                    self.state.extra_mut().sparse.drain(..SPARSE_MAX / 2);
                }
                None => {}
            }
        }
    }

    // An interval came while readings are held.
    fn undisturbed(&mut self, reading: &PendingReading, context: &mut Context<'_>) {
        let Some(enough) = self.state.frequency.map(enough) else { return };
        let extra = self.state.extra_mut();
        extra.undisturbed = extra.undisturbed.saturating_add(1);
        if extra.undisturbed < enough {
            return;
        }
        // If the watermark has not passed them, it is asked again soon.
        extra.undisturbed = enough - enough / 4;
        let reached = context.reached_by(reading);
        if let Told::Finer(opening) = self.told(context.rules, reached) {
            self.state.extra_mut().undisturbed = 0;
            return self.begin(&opening, reading, context);
        }
        let strays = self.strays(context.rules, reached.watermark);
        if strays > 0 {
            self.dismiss(strays, context);
        }
    }

    // The last intervals that are more than one step apart each.
    fn note_sparse(&mut self, slot: &Slot, last: Option<Micros>, rules: &Rules) {
        let next = |start| slot.frequency.advance(start, 1, &rules.zone);
        let Some(last) = last else { return };
        if slot.start > last {
            match next(last) == slot.start {
                false => {
                    let sparse = &mut self.state.extra_mut().sparse;
                    // Where a stamp is the beginning, it is what came after the last one that is missing.
                    if sparse.is_empty() && rules.label == Label::Begin {
                        sparse.push(last);
                    }
                    sparse.push(slot.start);
                }
                true if self.state.extra().sparse.is_empty() => {}
                true => self.state.extra_mut().sparse.clear(),
            }
        } else if let Some(first) = self.state.extra().sparse.first().copied() {
            self.note_late(slot, first, rules);
        }
        self.state.tidy();
    }

    // An interval that came after later ones; `first` is the first of those that are more than one step apart.
    fn note_late(&mut self, slot: &Slot, first: Micros, rules: &Rules) {
        let (start, frequency, zone) = (slot.start, slot.frequency, &rules.zone);
        let next = |start| frequency.advance(start, 1, zone);
        // By its beginning, the last of those that follow each other is the first of those that do not.
        let kept = usize::from(rules.label == Label::Begin);
        if start > first {
            let sparse = &mut self.state.extra_mut().sparse;
            if let Err(index) = sparse.binary_search(&start) {
                sparse.insert(index, start);
                // Two that follow each other: what was before says nothing any more.
                if sparse.get(index + 1).is_some_and(|after| *after == next(start)) {
                    sparse.drain(..index + 2 - kept);
                } else if next(sparse[index - 1]) == start {
                    sparse.drain(..index + 1 - kept);
                }
            }
        } else if kept == 0 && next(start) == first {
            self.state.extra_mut().sparse.remove(0);
        } else if kept == 0 {
            let after = |from| written::starts(&self.state, from, frequency, zone).next();
            let is_next = after(next(start)) == Some(first);
            if is_next && after(frequency.advance(start, -1, zone)) == Some(start) {
                self.state.extra_mut().sparse.insert(0, start);
            }
        }
    }

    // Where a reading of an interval is stamped, as far as the state tells.
    pub(super) fn stamp_of(&self, start: Micros, end: Micros, rules: &Rules) -> Micros {
        let boundary = if rules.label == Label::End { end } else { start };
        boundary + Micros::from(self.state.phase) * (end - start) / 256
    }

    // How many of the readings that are held an instant has passed.
    fn held_by(&self, watermark: Micros) -> usize {
        self.state.extra().pending.iter().take_while(|reading| reading.at <= watermark).count()
    }

    // Readings that are held, by runs: with few intervals between one and the next.
    fn runs<'s>(
        &'s self,
        held: &'s [PendingReading],
        frequency: Frequency,
        zone: &'s TimeZone,
    ) -> impl Iterator<Item = &'s [PendingReading]> {
        let are_near = move |a: &PendingReading, b: &PendingReading| {
            self.passed(a.at, b.at, frequency, zone).take(APART + 1).count() <= APART
        };
        held.chunk_by(are_near)
    }

    // Intervals after the one in which a stamp is, that were written and end by another instant.
    fn passed<'s>(
        &'s self,
        after: Micros,
        by: Micros,
        frequency: Frequency,
        zone: &'s TimeZone,
    ) -> impl Iterator<Item = Micros> + 's {
        let from = frequency.advance(frequency.floor(after, zone), 1, zone);
        let starts = written::starts(&self.state, from, frequency, zone);
        starts.take_while(move |start| frequency.advance(*start, 1, zone) <= by)
    }

    // What a run and the intervals among it tell.
    fn look(&self, run: &[PendingReading], frequency: Frequency, rules: &Rules) -> Option<Found> {
        let zone = &rules.zone;
        let (first, last) = (run.first()?.at, run.last()?.at);
        let from = frequency.advance(frequency.floor(first, zone), -2, zone);
        let among = written::starts(&self.state, from, frequency, zone).take_while(|start| *start <= last);
        let stamp = |start: Micros| self.stamp_of(start, frequency.advance(start, 1, zone), rules);
        let mut stamps: Vec<Micros> = among.take(AMONG_MAX).map(stamp).collect();
        stamps.extend(run.iter().map(|reading| reading.at));
        stamps.sort_unstable();
        stamps.dedup();
        detect(&stamps, zone)
    }

    // What the readings that are held tell: those that the watermark has passed, else all of them if there are many.
    fn told(&self, rules: &Rules, reached: Reached) -> Told {
        match self.told_by(self.held_by(reached.watermark), rules, reached) {
            Told::Nothing if self.state.extra().pending.len() >= MANY => self.told_by(HELD_MAX, rules, reached),
            told => told,
        }
    }

    // What the first so many of them tell, by the first run that tells a finer frequency.
    fn told_by(&self, count: usize, rules: &Rules, reached: Reached) -> Told {
        let Some(frequency) = self.state.frequency else { return Told::Nothing };
        let mut told = Told::Nothing;
        let held: Vec<PendingReading> = self.state.extra().pending.iter().take(count).collect();
        for run in self.runs(&held, frequency, &rules.zone).filter(|run| run.len() >= RUN_MIN) {
            let Some(found) = self.look(run, frequency, rules) else { continue };
            let Some(fitting) = fitting(run, &found, &rules.zone) else { continue };
            if found.frequency < frequency {
                match self.finer(&fitting, found, rules, reached) {
                    Some(opening) => return Told::Finer(opening),
                    None => told = Told::Elsewhere,
                }
            } else if found.frequency == frequency && matches!(told, Told::Nothing) {
                told = Told::Same(found);
            }
        }
        told
    }

    // The era that the readings of a run open that fit it, if it is to open now.
    fn finer(&self, fitting: &[(Micros, i64)], found: Found, rules: &Rules, reached: Reached) -> Option<Opening> {
        let (frequency, zone) = (self.state.frequency?, &rules.zone);
        // An era has no end before the present: intervals that came after the run as before it would be taken away.
        let enough = usize::from(enough(frequency));
        if self.passed(fitting.last()?.0, reached.written, frequency, zone).take(enough).count() == enough {
            return None;
        }
        // What is held lies beside the old grid, of which no two boundaries are side by side in a finer one: so at most
        // one place between two of them is not among what is held.
        let mut pairs = fitting.windows(2).filter(|pair| (1..=2).contains(&(pair[1].1 - pair[0].1)));
        let first = pairs.find(|pair| self.goes_on(pair[0].0, fitting, frequency, zone))?[0].0;
        // The boundary of the old grid before it, where its readings are stamped. If that is one of the new grid (by
        // the clock of the zone: a day may begin at a quarter past an hour), the era starts there.
        let (old, new) = (shift(self.state.phase, frequency), shift(found.phase, found.frequency));
        let boundary = frequency.floor(first - old, zone);
        let floor = found.frequency.floor(boundary, zone);
        let start = if cell(&found, boundary + old, zone).is_some() {
            found.frequency.round(boundary + old - new, zone)
        } else if floor == boundary {
            boundary
        } else {
            found.frequency.advance(floor, 1, zone)
        };
        Some(self.opening_at(start, found, frequency, rules))
    }

    // Whether of the intervals after an instant at least half have readings of the new grid among them.
    fn goes_on(&self, at: Micros, fitting: &[(Micros, i64)], frequency: Frequency, zone: &TimeZone) -> bool {
        let Some((last, _)) = fitting.last() else { return false };
        let after: Vec<Micros> = self.passed(at, *last, frequency, zone).take(AFTER).collect();
        let has_some = |start: &&Micros| {
            let end = frequency.advance(**start, 1, zone);
            fitting.iter().any(|(at, _)| (**start..end).contains(at))
        };
        2 * after.iter().filter(has_some).count() >= after.len()
    }

    // The era that intervals more than one step apart open.
    fn coarser(&self, rules: &Rules, watermark: Micros) -> Option<Opening> {
        let (frequency, sparse, zone) = (self.state.frequency?, &self.state.extra().sparse, &rules.zone);
        // Those that may still get a neighbour say nothing, but for as many as there is room for.
        let passed = sparse.partition_point(|start| frequency.advance(*start, 1, zone) <= watermark);
        let passed = if sparse.len() < SPARSE_MAX { passed } else { sparse.len() };
        let stamp = |start: &Micros| self.stamp_of(*start, frequency.advance(*start, 1, zone), rules);
        let stamps: Vec<Micros> = sparse.get(..passed)?.iter().map(stamp).collect();
        let found = detect(&stamps, zone).filter(|found| found.frequency > frequency)?;
        // What is beside the new grid still belongs to the old one.
        let first = stamps.into_iter().find(|at| cell(&found, *at, zone).is_some())?;
        let start = Slot::at(&self.state, found.frequency, rules.label, zone, first).start;
        Some(self.opening_at(start, found, frequency, rules))
    }

    fn opening_at(&self, start: Micros, found: Found, frequency: Frequency, rules: &Rules) -> Opening {
        let zone = &rules.zone;
        let begun = self.state.extra().eras.last().map_or(Micros::MIN, |era| era.to);
        let mut written = written::starts(&self.state, Micros::MIN, frequency, zone);
        let start = match (written.next(), written.next()) {
            // A single interval before it is no era of its own.
            (Some(only), next) if next.is_none_or(|next| frequency.advance(next, 1, zone) > start) => {
                let at = self.stamp_of(only, frequency.advance(only, 1, zone), rules);
                start.min(Slot::at(&self.state, found.frequency, rules.label, zone, at).start)
            }
            _ => start,
        };
        let start = start.max(begun);
        let floor = frequency.floor(start, zone);
        // An interval across the start is where most of it is.
        let from = match eras::lies_after((floor, frequency.advance(floor, 1, zone)), start) {
            true => floor.max(begun),
            false => start,
        };
        let to = self.state.last_start.map_or(start, |last| frequency.advance(last, 1, zone));
        // What was taken away when the present era began is to be known, too, of intervals that nothing was written of
        // again.
        let to = self.state.extra().rewritten_to.map_or(to, |rewritten| to.max(rewritten));
        Opening { found, start, from, to: to.max(from) }
    }

    /// The era that is to open now, if the readings tell one.
    pub fn opening(&self, rules: &Rules, reached: Reached) -> Option<Opening> {
        if !self.may_change(rules) {
            return None;
        }
        match self.told(rules, reached) {
            Told::Finer(opening) => Some(opening),
            _ => self.coarser(rules, reached.watermark),
        }
    }

    // How many of the readings that are held, from the first on, were followed by enough intervals without a doubt.
    fn strays(&self, rules: &Rules, watermark: Micros) -> usize {
        let Some(frequency) = self.state.frequency else { return 0 };
        let held: Vec<PendingReading> = self.state.extra().pending.iter().collect();
        let enough = usize::from(enough(frequency));
        let is_followed = |index: &usize| {
            let next = held.get(index + 1).map_or(watermark, |next| next.at.min(watermark));
            self.passed(held[*index].at, next, frequency, &rules.zone).take(enough).count() == enough
        };
        (0..held.len()).rev().find(is_followed).map_or(0, |last| last + 1)
    }

    // The first so many of the readings that are held were stray ones.
    fn dismiss(&mut self, count: usize, context: &mut Context<'_>) {
        let Some(frequency) = self.state.frequency else { return };
        let strays = self.state.extra().pending.iter().take(count);
        let beyond = strays.map(|stray| beside(frequency, self.state.phase, stray.at, &context.rules.zone).1.abs());
        let mut beyond: Vec<f64> = beyond.collect();
        beyond.sort_by(f64::total_cmp);
        // Where some came together, half of them are to be held no more. One or two say nothing of the others.
        let middle = beyond.get(beyond.len() / 2).map_or(0.0, |beyond| beyond * 256.0);
        if beyond.len() > 2 && middle <= f64::from(STRAY_MAX) {
            self.state.spread = self.state.spread.max(middle as u8);
        }
        self.release(count, context);
    }

    /// The first so many of the readings that are held are taken at the present frequency.
    pub(super) fn release(&mut self, count: usize, context: &mut Context<'_>) {
        let extra = self.state.extra_mut();
        extra.undisturbed = 0;
        let held = extra.pending.take_first(count);
        self.state.tidy();
        for reading in held {
            context.out.tally.released(&reading);
            let Some(frequency) = self.state.frequency else { continue };
            let slot = Slot::at(&self.state, frequency, context.rules.label, &context.rules.zone, reading.at);
            self.take_interval(&slot, reading, context);
        }
    }

    // Opens an era at once if all that it takes away is remembered; else at the end of the epoch.
    fn begin(&mut self, opening: &Opening, reading: &PendingReading, context: &mut Context<'_>) {
        match self.remembered_from(opening, context.rules) {
            true => {
                let rows = self.remembered_rows(opening, context);
                self.open(opening, rows, reading.scale, context);
            }
            false => {
                let reached = context.reached_by(reading);
                context.out.openings.push((context.number, reading.scale, reached));
            }
        }
    }

    fn remembered_from(&self, opening: &Opening, rules: &Rules) -> bool {
        let (Some(frequency), Some(last)) = (self.state.frequency, self.state.last_start) else { return true };
        if last < opening.from && self.state.extra().rewritten_to.is_none_or(|to| to <= opening.from) {
            return true;
        }
        let steps = frequency.steps_between(opening.from, last, &rules.zone);
        let extra = self.state.extra();
        if !(0..128).contains(&steps) || extra.rewritten_to.is_some_and(|to| to > opening.from) {
            return false;
        }
        let written = self.state.recent & (u128::MAX >> (127 - steps));
        self.memory.from(opening.from).len() == written.count_ones() as usize
    }
}

#[cfg(test)]
mod tests {
    use meterline_schemas::time::HOUR;
    use meterline_schemas::unit::Unit;

    use super::super::super::aggregate_run::rules;
    use super::*;

    #[test]
    fn an_era_takes_in_all_that_was_taken_away_before_it() {
        let rules = rules(ValueKind::Interval, Label::End, None);
        let mut series = Series::new("f", "s", &Unit::KWH, &rules);
        let found = |frequency| Found { frequency, confidence: 90, phase: 0, spread: 0 };
        series.state.detected(found(Frequency::HOUR));
        (0..20).for_each(|hour| written::mark(&mut series.state, hour * HOUR, Frequency::HOUR, &rules.zone));
        let opening =
            |series: &Series| series.opening_at(10 * HOUR, found(Frequency::QUARTER_HOUR), Frequency::HOUR, &rules);
        assert_eq!((opening(&series).from, opening(&series).to), (10 * HOUR, 20 * HOUR));
        for (rewritten, to) in [(15 * HOUR, 20 * HOUR), (30 * HOUR, 30 * HOUR)] {
            series.state.extra_mut().rewritten_to = Some(rewritten);
            assert_eq!((opening(&series).from, opening(&series).to), (10 * HOUR, to));
        }
    }
}
