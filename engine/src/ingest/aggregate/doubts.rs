//! Readings that do not fit the detected frequency of their series, and what follows from them.
//!
//! *Finer.* A reading that is further from the boundaries than the readings were from which the frequency was
//! detected (half as much again, and a sixty-fourth of an interval) is held: at the old frequency it would spoil an
//! interval that is right. The readings that are held, and the intervals of the present era among them, are looked at
//! as the first readings of the series were. If that gives a finer frequency, an era of it opens; if it gives the
//! same one (the meter's clock was set), or twelve intervals come undisturbed (it was a stray reading), they are
//! taken at the old one.
//!
//! *Coarser.* Intervals that are each more than one step after the one before are remembered; those that the
//! watermark has passed are looked at in the same way.

use jiff::tz::TimeZone;
use meterline_schemas::Micros;
use meterline_schemas::config::Label;
use meterline_schemas::reading::ValueKind;

use super::super::eras::{ERAS_MAX, Slot};
use super::super::frequency::{ANY_SPREAD, Found, detect, is_due};
use super::super::series::PendingReading;
use super::super::written::surely_unwritten;
use super::{Context, Known, Rules, Series};

/// Readings that are held at most, if they do not tell a frequency: then the readings of the series are irregular.
const HELD_MAX: usize = 64;
/// Stamps that are looked at together.
const STAMPS_MAX: usize = 8 * HELD_MAX;
/// Intervals after which a reading that is held was a stray one.
const UNDISTURBED: u8 = 12;
/// Intervals more than one step apart that are remembered.
const SPARSE_MAX: usize = 32;
/// The greatest spread that stray readings may give: at an eighth most finer frequencies can still be told.
const STRAY_MAX: u8 = 32;

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

/// A phase as a time.
fn shift(phase: i8, length: Micros) -> Micros {
    Micros::from(phase) * length / 256
}

impl Series {
    // Whether the frequency can still change.
    fn may_change(&self, rules: &Rules) -> bool {
        !self.state.declared && rules.frequency.is_none() && rules.kind == ValueKind::Interval
    }

    /// Whether a reading is to be held.
    pub(super) fn is_doubtful(&self, slot: &Slot, at: Micros, rules: &Rules) -> bool {
        let length = slot.end - slot.start;
        let distance = match self.state.phase {
            0 => at - if rules.label == Label::End { slot.end } else { slot.start },
            phase => {
                let at = at - shift(phase, length);
                at - slot.frequency.round(at, &rules.zone)
            }
        };
        let tolerance = 8 + 3 * Micros::from(self.state.spread);
        distance.abs().saturating_mul(512) > length.saturating_mul(tolerance)
            && slot.is_present
            && self.may_change(rules)
            && self.state.extra().eras.len() < ERAS_MAX
    }

    /// Holds a reading, and looks at all of them.
    pub(super) fn hold(&mut self, reading: PendingReading, context: &mut Context<'_>) {
        if !self.put_aside(reading, context) {
            return;
        }
        self.state.extra_mut().undisturbed = 0;
        let held = self.state.extra().pending.len();
        if !is_due(held) {
            return;
        }
        match self.look(context.rules) {
            Some(found) if Some(found.frequency) == self.state.frequency => {
                (self.state.phase, self.state.spread) = (found.phase, found.spread);
                self.release(context);
            }
            Some(found) if self.is_finer(found) => self.open_or_ask(&reading, context),
            _ if held >= HELD_MAX => {
                self.state.spread = ANY_SPREAD;
                self.release(context);
            }
            _ => {}
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
        let nothing = extra.sparse.is_empty() && extra.pending.is_empty();
        if (follows && nothing) || !self.may_change(context.rules) {
            return;
        }
        if context.known != Known::Remembered {
            // At the end of an epoch nothing is decided any more.
            return self.note_sparse(slot, last, context.rules);
        }
        if !extra.pending.is_empty() {
            let extra = self.state.extra_mut();
            extra.undisturbed += 1;
            if extra.undisturbed >= UNDISTURBED {
                extra.undisturbed = 0;
                match self.look(context.rules).filter(|found| self.is_finer(*found)) {
                    // It opens at the end of the epoch.
                    Some(_) => self.open_or_ask(reading, context),
                    None => self.dismiss(context),
                }
            }
        }
        // Perhaps an era has just opened.
        if self.state.frequency != Some(slot.frequency) {
            return;
        }
        self.note_sparse(slot, last, context.rules);
        let sparse = &self.state.extra().sparse;
        if is_due(sparse.len()) && slot.start >= *sparse.last().unwrap_or(&Micros::MAX) {
            match self.opening(context.rules, context.watermark) {
                Some(_) => self.open_or_ask(reading, context),
                None if sparse.len() >= SPARSE_MAX => {
                    self.state.extra_mut().sparse.drain(..SPARSE_MAX / 2);
                }
                None => {}
            }
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
        } else if self.state.extra().sparse.first().is_some_and(|first| *first < slot.start) {
            let sparse = &mut self.state.extra_mut().sparse;
            if let Err(index) = sparse.binary_search(&slot.start) {
                sparse.insert(index, slot.start);
                // Two that follow each other: what was before says nothing any more.
                if sparse.get(index + 1).is_some_and(|after| *after == next(slot.start)) {
                    sparse.drain(..=index + 1);
                } else if next(sparse[index - 1]) == slot.start {
                    sparse.drain(..=index);
                }
            }
        }
        self.state.tidy();
    }

    // Where a reading of an interval is stamped, as far as the state tells.
    pub(super) fn stamp_of(&self, start: Micros, end: Micros, rules: &Rules) -> Micros {
        let boundary = if rules.label == Label::End { end } else { start };
        boundary + shift(self.state.phase, end - start)
    }

    fn fits(found: &Found, at: Micros, zone: &TimeZone) -> bool {
        let length = found.frequency.nominal_micros();
        let at = at - shift(found.phase, length);
        (at - found.frequency.round(at, zone)).abs() <= length / 16
    }

    fn is_finer(&self, found: Found) -> bool {
        self.state.frequency.is_some_and(|present| found.frequency < present)
    }

    // The frequency that the readings that are held and the intervals among them tell.
    fn look(&self, rules: &Rules) -> Option<Found> {
        let (held, frequency, zone) = (&self.state.extra().pending, self.state.frequency?, &rules.zone);
        let held = held.get(..held.len().min(HELD_MAX))?;
        let (first, last) = (held.first()?.at, held.last()?.at);
        let mut stamps: Vec<Micros> = held.iter().map(|reading| reading.at).collect();
        let (written_from, written_to) = (self.state.first_start?, self.state.last_start?);
        let mut start = frequency.advance(frequency.floor(first, zone), -2, zone).max(written_from);
        while start <= last.min(written_to) && stamps.len() < STAMPS_MAX {
            let end = frequency.advance(start, 1, zone);
            if !surely_unwritten(&self.state, start, frequency, zone) {
                stamps.push(self.stamp_of(start, end, rules));
            }
            start = end;
        }
        stamps.sort_unstable();
        stamps.dedup();
        detect(stamps.into_iter(), zone)
    }

    /// The era that is to open now, if the readings tell one.
    pub fn opening(&self, rules: &Rules, watermark: Micros) -> Option<Opening> {
        let (frequency, extra, zone) = (self.state.frequency?, self.state.extra(), &rules.zone);
        if !self.may_change(rules) || extra.eras.len() >= ERAS_MAX {
            return None;
        }
        let (found, first) = match self.look(rules).filter(|found| self.is_finer(*found)) {
            Some(found) => (found, extra.pending.first()?.at),
            None => {
                // Those that may still get a neighbour say nothing, but for as many as there is room for.
                let passed = extra.sparse.partition_point(|start| frequency.advance(*start, 1, zone) <= watermark);
                let passed = if extra.sparse.len() < SPARSE_MAX { passed } else { extra.sparse.len() };
                let stamp = |start: &Micros| self.stamp_of(*start, frequency.advance(*start, 1, zone), rules);
                let stamps: Vec<Micros> = extra.sparse.get(..passed)?.iter().map(stamp).collect();
                let found = detect(stamps.iter().copied(), zone).filter(|found| found.frequency > frequency)?;
                // What is beside the new grid still belongs to the old one.
                let fits = |at: &&Micros| Self::fits(&found, **at, zone);
                let first = stamps.iter().find(fits).copied()?;
                (found, first)
            }
        };
        // At a boundary of both frequencies if there is one nearby, else of the new one.
        let first = Slot::at(&self.state, found.frequency, rules.label, zone, first).start;
        let common = frequency.floor(first, zone);
        let on_grid = found.frequency.floor(common, zone);
        let start = if on_grid == common { common } else { found.frequency.advance(on_grid, 1, zone) };
        let start = extra.eras.last().map_or(start, |era| start.max(era.to));
        let to = self.state.last_start.map_or(start, |last| frequency.advance(last, 1, zone));
        let from = frequency.floor(start, zone);
        Some(Opening { found, start, from, to: to.max(from) })
    }

    // Twelve intervals without a doubt.
    fn dismiss(&mut self, context: &mut Context<'_>) {
        let Some(frequency) = self.state.frequency else { return };
        let zone = &context.rules.zone;
        let length = frequency.nominal_micros();
        let phase = shift(self.state.phase, length);
        let beyond = |held: &PendingReading| (held.at - phase - frequency.round(held.at - phase, zone)).abs();
        let beyond = self.state.extra().pending.iter().map(beyond);
        let spread = beyond.max().unwrap_or(0).saturating_mul(256) / length;
        if spread <= Micros::from(STRAY_MAX) {
            self.state.spread = self.state.spread.max(spread as u8);
        }
        self.release(context);
    }

    // The readings that are held are taken at the present frequency.
    fn release(&mut self, context: &mut Context<'_>) {
        let extra = self.state.extra_mut();
        extra.undisturbed = 0;
        let held = std::mem::take(&mut extra.pending);
        self.state.tidy();
        for reading in held {
            context.out.tally.released(&reading);
            let Some(frequency) = self.state.frequency else { continue };
            let slot = Slot::at(&self.state, frequency, context.rules.label, &context.rules.zone, reading.at);
            self.take_interval(&slot, reading, context);
        }
    }

    // Opens an era at once if all that it takes away is remembered; else at the end of the epoch.
    fn open_or_ask(&mut self, reading: &PendingReading, context: &mut Context<'_>) {
        let Some(opening) = self.opening(context.rules, context.watermark) else { return };
        match self.remembered_from(&opening, context.rules) {
            true => {
                let rows = self.remembered_rows(&opening, context);
                self.open(&opening, rows, reading.scale, context);
            }
            false => context.out.openings.push((context.number, reading.scale, context.watermark)),
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
