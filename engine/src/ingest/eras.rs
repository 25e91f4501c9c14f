//! Eras: the stretches of time in which a series has one native frequency each. Pure.
//!
//! Elsewhere they are called the epochs of a series; here an epoch is the number of a commit. A series begins with
//! one era. When its readings come to another frequency, the next era opens at a boundary of both (of the new one at
//! least): the intervals before keep their length, and those after have the new one. So an interval follows from the
//! stamp of its reading and from the eras, whatever the order of the readings.

use jiff::tz::TimeZone;
use meterline_schemas::config::Label;
use meterline_schemas::{Frequency, Micros};
use serde::{Deserialize, Serialize};

use super::series::SeriesState;
use super::written;

/// Eras of one series at most; then its frequency stays.
pub const ERAS_MAX: usize = 12;

/// An era that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Era {
    /// Its frequency.
    pub frequency: Frequency,
    /// Start of the next one.
    pub to: Micros,
    /// Start of its first interval.
    pub first: Micros,
    /// Number of its intervals.
    pub intervals: u64,
}

/// An interval, as a stamp tells it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slot {
    /// Frequency of its era.
    pub frequency: Frequency,
    /// Start.
    pub start: Micros,
    /// End.
    pub end: Micros,
    /// Whether its era is the present one.
    pub is_present: bool,
}

impl Slot {
    fn of(frequency: Frequency, label: Label, zone: &TimeZone, at: Micros) -> Slot {
        let boundary = frequency.round(at, zone);
        let (start, end) = match label {
            Label::End => (frequency.advance(boundary, -1, zone), boundary),
            Label::Begin => (boundary, frequency.advance(boundary, 1, zone)),
        };
        Slot { frequency, start, end, is_present: true }
    }

    /// The interval that a reading stamped `at` is about; `present` is the frequency of the present era.
    pub fn at(state: &SeriesState, present: Frequency, label: Label, zone: &TimeZone, at: Micros) -> Slot {
        let mut slot = Slot::of(present, label, zone, at);
        for era in state.extra().eras.iter().rev() {
            let earlier = Slot { is_present: false, ..Slot::of(era.frequency, label, zone, at) };
            // The finer one of both decides: the other rounds across the boundary.
            let is_later = slot.frequency <= era.frequency && slot.start >= era.to;
            // What lies across the boundary in both is as good as the first interval of the later one.
            if is_later || lies_after((earlier.start, earlier.end), era.to) {
                return match slot.start >= era.to {
                    true => slot,
                    false => Slot { start: era.to, end: slot.frequency.advance(era.to, 1, zone), ..slot },
                };
            }
            slot = earlier;
        }
        slot
    }
}

/// Whether more of an interval lies after an instant than before it. Where eras meet, days of a zone whose clock is no
/// whole number of hours ahead and hours have no boundary in common; then this tells on which side an interval is.
pub fn lies_after((start, end): (Micros, Micros), at: Micros) -> bool {
    end - at > at - start
}

/// The frequency in which intervals that start at `start` are; `present` is that of the present era.
pub fn frequency_at(state: &SeriesState, present: Frequency, start: Micros) -> Frequency {
    let eras = &state.extra().eras;
    eras.get(eras.partition_point(|era| era.to <= start)).map_or(present, |era| era.frequency)
}

/// Records that the first row of the interval that starts at `start` was written.
pub fn mark(state: &mut SeriesState, start: Micros, frequency: Frequency, zone: &TimeZone) {
    let earlier = state.extra().eras.partition_point(|era| era.to <= start);
    if earlier == state.extra().eras.len() {
        return written::mark(state, start, frequency, zone);
    }
    let era = &mut state.extra_mut().eras[earlier];
    era.intervals += 1;
    era.first = era.first.min(start);
}

/// Ends the present era at `to`; `taken` of its intervals are taken away. Of the next one nothing is written yet.
pub fn end(state: &mut SeriesState, to: Micros, taken: u64) {
    let frequency = state.frequency;
    let (first, intervals) = (state.first_start.take(), std::mem::take(&mut state.intervals));
    (state.last_start, state.recent) = (None, 0);
    let extra = state.extra_mut();
    extra.unwritten.clear();
    extra.sparse.clear();
    let (Some(frequency), Some(first)) = (frequency, first.filter(|first| *first < to)) else { return };
    let intervals = u64::from(intervals).saturating_sub(taken);
    match extra.eras.last_mut() {
        Some(last) if last.frequency == frequency => {
            last.to = to;
            last.intervals += intervals;
        }
        _ => extra.eras.push(Era { frequency, to, first, intervals }),
    }
}

impl SeriesState {
    /// Start of the present epoch of the series: since when it has its frequency.
    pub fn since(&self) -> Option<Micros> {
        let eras = &self.extra().eras;
        // What was for another frequency in between may all have been taken away.
        let other = eras.iter().rev().find(|era| Some(era.frequency) != self.frequency);
        let own = eras.iter().rev().take_while(|era| Some(era.frequency) == self.frequency);
        other.map(|era| era.to).or_else(|| own.last().map(|era| era.first)).or(self.first_start)
    }

    /// Start of its first interval, of whatever frequency.
    pub fn first_ever(&self) -> Option<Micros> {
        self.extra().eras.first().map(|era| era.first).or(self.first_start)
    }

    /// Number of its intervals, of whatever frequency.
    pub fn intervals_ever(&self) -> u64 {
        u64::from(self.intervals) + self.extra().eras.iter().map(|era| era.intervals).sum::<u64>()
    }
}
