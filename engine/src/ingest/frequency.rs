//! Which native frequency a series has, told from the stamps of its readings. Pure.
//!
//! A frequency is a grid of boundaries, and readings of a meter lie near the boundaries of its grid, perhaps all of
//! them shifted by the same part of a step (the *phase*). The boundaries divide time into cells, one around each. A
//! cell that has readings *fits* if all of them lie within a tenth of a step of its middle; the phase is where most
//! cells have a reading. A grid fits if at least four fifths of the cells that have readings do. So
//!
//! * repeated stamps are one, and a burst of readings spoils one or two cells, however many readings it has;
//! * gaps are cells without readings, which say nothing;
//! * jitter of a few per cent of a step stays within the tenth;
//! * the order of arrival does not matter.
//!
//! Readings that fit a grid fit every finer grid that it is a part of, so the coarsest grid that fits is the one: it
//! wins only where the other places of the finer grids are empty nearly throughout. It is taken once there are enough
//! cells, and at least half of the steps from one cell with readings to the next are single ones: what is sparser may
//! still be anything. A series that never comes to that gets the best guess from [`PENDING_MAX`] stamps.

use jiff::tz::TimeZone;
use meterline_schemas::time::{DAY, Micros};
use meterline_schemas::{Frequency, frequency::STANDARD};

/// Distinct stamps that wait at most; then the best guess is taken.
pub const PENDING_MAX: usize = 200;

/// Distinct stamps, and cells that fit, that sub-daily data needs.
const SUB_DAILY: (usize, usize) = (READINGS_MIN, 8);
/// Readings that wait until the frequency of most series is found.
pub const READINGS_MIN: usize = 12;
/// The same for days and more, where twelve readings would take weeks.
const DAILY: (usize, usize) = (5, 5);
/// How far a reading may be from the middle of its cell, in steps.
const NEAR: f64 = 0.1;
/// Share of the cells that have to fit; all of them where there are fewer than twelve stamps.
const FIT_MIN: f64 = 0.8;
/// Share of the steps from cell to cell that have to be single ones: to be sure, and for a guess.
const DENSE_MIN: f64 = 0.5;
const GUESS_DENSE_MIN: f64 = 0.1;
/// Least product of both shares for a guess.
const GUESS_MIN: f64 = 0.4;
/// A [`Found::spread`] that no reading is beyond.
pub const ANY_SPREAD: u8 = 128;
/// Parts of a step in which the phase is sought, and how many of them it may spread over.
const BINS: usize = 40;
const WINDOW: usize = 8;

/// A frequency that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// The frequency.
    pub frequency: Frequency,
    /// How sure that is, in per cent: the probability that the readings of the next interval fit the grid, by the
    /// rule of succession: `(k + 1) / (n + 2)`, where k of the n intervals that had readings do.
    pub confidence: u8,
    /// The mean distance of the readings that fit from their boundaries, in 256ths of a step: negative for earlier
    /// ones.
    pub phase: i8,
    /// How far they are from that at most, in 256ths of a step.
    pub spread: u8,
}

/// The native frequency that distinct stamps in ascending order tell, if they tell it clearly; with [`PENDING_MAX`]
/// stamps in any case. `None`: wait for more.
///
/// Meant to be called with each stamp that is added, where these [may tell](may_settle): all calls for a series that is
/// never clear together cost a few thousand steps for each candidate.
pub fn settle(stamps: &[Micros], zone: &TimeZone) -> Option<Found> {
    let count = stamps.len();
    if !is_due(count) {
        return None;
    }
    match detect(stamps, zone) {
        None if count >= PENDING_MAX => guess(stamps, zone),
        clear => clear,
    }
}

/// Whether so many stamps, from the first to the last of which it is so long, may tell a frequency to [`settle`].
pub fn may_settle(count: usize, span: Micros) -> bool {
    is_due(count) && (count >= SUB_DAILY.0 || room(span, DAY) >= DAILY.1 as f64)
}

/// How many boundaries of a grid with so long a step a time may have. A tenth of a step more, because a month or a day
/// may be shorter than its nominal length.
fn room(span: Micros, step: Micros) -> f64 {
    span as f64 / step as f64 + 1.1
}

/// Whether so many stamps are worth a look: the more there are, the more have to come before the next one.
pub fn is_due(count: usize) -> bool {
    count >= DAILY.0 && (count >= PENDING_MAX || count.is_multiple_of((count / 8).next_power_of_two()))
}

/// The native frequency that distinct stamps in ascending order tell, if they tell it clearly.
pub fn detect(stamps: &[Micros], zone: &TimeZone) -> Option<Found> {
    let span = span(stamps)?;
    for frequency in STANDARD.into_iter().rev() {
        let (stamps_min, cells_min) = if frequency.nominal_micros() >= DAY { DAILY } else { SUB_DAILY };
        if stamps.len() < stamps_min || room(span, frequency.nominal_micros()) < cells_min as f64 {
            continue;
        }
        let fit = Fit::of(frequency, stamps, zone);
        // Of few cells each one counts.
        let share_min = if stamps.len() < SUB_DAILY.0 { 1.0 } else { FIT_MIN };
        if fit.fitting >= cells_min && fit.share() >= share_min {
            return (fit.density() >= DENSE_MIN).then(|| fit.found(frequency));
        }
    }
    None
}

/// The grid that fits, however sparse; else the one with the best product of fit and density; and where that says
/// nothing, the longest frequency that is not longer than the median gap, so that two readings seldom fall into one
/// interval.
fn guess(stamps: &[Micros], zone: &TimeZone) -> Option<Found> {
    let span = span(stamps)?;
    let mut best: Option<(f64, Found)> = None;
    for frequency in STANDARD.into_iter().rev() {
        if span < 4 * frequency.nominal_micros() {
            continue;
        }
        let fit = Fit::of(frequency, stamps, zone);
        if fit.density() < GUESS_DENSE_MIN {
            continue;
        }
        if fit.share() >= FIT_MIN {
            return Some(fit.found(frequency));
        }
        let score = fit.share() * fit.density();
        if score >= GUESS_MIN && best.is_none_or(|(known, _)| score > known) {
            best = Some((score, Found { spread: ANY_SPREAD, ..fit.found(frequency) }));
        }
    }
    if let Some((_, found)) = best {
        return Some(found);
    }
    let mut gaps: Vec<Micros> = stamps.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let middle = gaps.len() / 2;
    let (_, gap, _) = gaps.select_nth_unstable(middle);
    let frequency = STANDARD.into_iter().rev().find(|standard| standard.nominal_micros() <= *gap);
    let frequency = frequency.unwrap_or(STANDARD[0]);
    Some(Found { spread: ANY_SPREAD, ..Fit::of(frequency, stamps, zone).found(frequency) })
}

fn span(stamps: &[Micros]) -> Option<Micros> {
    Some(stamps.last()?.saturating_sub(*stamps.first()?))
}

/// How well stamps fit the grid of a frequency.
#[derive(Debug, Clone, Copy, Default)]
struct Fit {
    // Cells that have readings.
    cells: usize,
    // Those of them whose readings are all near the middle.
    fitting: usize,
    // Single steps from one cell with readings to the next.
    single: usize,
    // The readings near the middle of their cells: where the middle is, and how far from it they are, in steps.
    phase: f64,
    near: usize,
    sum: f64,
    least: f64,
    most: f64,
}

impl Fit {
    fn of(frequency: Frequency, stamps: &[Micros], zone: &TimeZone) -> Fit {
        let phase = phase(stamps.iter().map(|at| place(frequency, *at, zone)));
        let mut fit = Fit { phase, least: NEAR, most: -NEAR, ..Fit::default() };
        let (mut cell, mut fits) = (f64::NAN, false);
        for at in stamps {
            let at = place(frequency, *at, zone);
            let here = (at - phase).round();
            let distance = at - phase - here;
            let near = distance.abs() <= NEAR;
            if here != cell {
                fit.fitting += usize::from(fits);
                fit.cells += 1;
                fit.single += usize::from(here - cell == 1.0);
                (cell, fits) = (here, true);
            }
            fits &= near;
            if near {
                fit.near += 1;
                fit.sum += distance;
                (fit.least, fit.most) = (fit.least.min(distance), fit.most.max(distance));
            }
        }
        fit.fitting += usize::from(fits);
        fit
    }

    fn share(&self) -> f64 {
        self.fitting as f64 / self.cells.max(1) as f64
    }

    fn density(&self) -> f64 {
        self.single as f64 / self.cells.saturating_sub(1).max(1) as f64
    }

    fn found(&self, frequency: Frequency) -> Found {
        let confidence = (self.fitting + 1) * 100 / (self.cells + 2);
        let mean = self.sum / self.near.max(1) as f64;
        // From half a step before a boundary to just before half a step after it, as stamps are rounded.
        let phase = (self.phase + mean + 0.5).rem_euclid(1.0) - 0.5;
        let spread = (self.most - mean).max(mean - self.least);
        let parts = |steps: f64| (steps * 256.0 * 1024.0).round() / 1024.0;
        Found {
            frequency,
            confidence: confidence as u8,
            phase: if phase >= 127.5 / 256.0 { i8::MIN } else { parts(phase).round() as i8 },
            spread: parts(spread).ceil().min(f64::from(ANY_SPREAD)) as u8,
        }
    }
}

/// Where a stamp is in a grid whose readings have this phase: the number of the boundary that it is nearest to, and how
/// far beside that it is, in steps. Days, weeks and months go by the clock of the zone.
pub fn beside(frequency: Frequency, phase: i8, at: Micros, zone: &TimeZone) -> (i64, f64) {
    let place = place(frequency, at, zone) - f64::from(phase) / 256.0;
    (place.round() as i64, place - place.round())
}

/// Where in the grid an instant is: whole numbers are boundaries. Days, weeks and months go by the clock of the zone.
fn place(frequency: Frequency, at: Micros, zone: &TimeZone) -> f64 {
    let local = || {
        let at = jiff::Timestamp::from_microsecond(at).unwrap_or_default();
        (at, zone.to_offset(at).seconds())
    };
    let days = || {
        let (_, seconds) = local();
        (at as f64 + f64::from(seconds) * 1e6) / DAY as f64
    };
    match frequency {
        Frequency::Seconds(_) => at as f64 / frequency.nominal_micros() as f64,
        Frequency::Day => days(),
        // The first of January 1970 was a Thursday.
        Frequency::Week => (days() + 3.0) / 7.0,
        Frequency::Month => {
            let (at, _) = local();
            let date = zone.to_datetime(at).date();
            let length = f64::from(date.days_in_month());
            f64::from(date.year()) * 12.0
                + f64::from(date.month() - 1)
                + (days().rem_euclid(1.0) + f64::from(date.day() - 1)) / length
        }
    }
}

/// The middle of the part of a step in which most cells have a reading; near a boundary if any other is not better.
fn phase(places: impl Iterator<Item = f64>) -> f64 {
    // Each cell counts once for each part of it.
    let (mut counts, mut last) = ([0u32; BINS], [f64::NAN; BINS]);
    for at in places {
        let cell = at.floor();
        let bin = ((at - cell) * BINS as f64) as usize % BINS;
        if last[bin] != cell {
            last[bin] = cell;
            counts[bin] += 1;
        }
    }
    let window = |first: usize| (0..WINDOW).map(move |i| (i, counts[(first + i) % BINS]));
    let sum = |first: usize| window(first).map(|(_, count)| count).sum::<u32>();
    // The first one is that around the boundary.
    let first = (0..BINS).map(|i| (i + BINS - WINDOW / 2) % BINS);
    let (mut best, mut most) = (0, 0);
    for first in first {
        if sum(first) > most {
            (best, most) = (first, sum(first));
        }
    }
    let weighted: f64 = window(best).map(|(i, count)| (i as f64 + 0.5) * f64::from(count)).sum();
    (best as f64 + weighted / f64::from(most.max(1))) / BINS as f64
}

#[cfg(test)]
#[path = "frequency_tests.rs"]
mod tests;
