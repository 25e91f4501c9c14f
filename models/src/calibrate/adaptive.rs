//! Calibration that follows the actual values as they arrive, a batch (a day) at a time.
//!
//! Adaptive conformal inference (Gibbs and Candès 2021) moves the level of an interval after each miss; conformal PID
//! control (Angelopoulos, Candès and Tibshirani 2023) moves the quantile itself. This is the latter, for each level: after
//! a batch in which the share s of actual values was not above the corrected quantile of level τ, the quantile moves by
//! rate × (τ − s), in units of the forecast's spread (their "quantile tracking", the P part).
//!
//! Alone, that is slow on one side: a quantile near level 1 moves inwards by no more than rate × (1 − τ) a batch, and would
//! need a year to follow a series that has shrunk. So two things that all levels share are tracked first, the same way:
//! a shift of location, by the share below the median, and a stretch about the median, by the share within the central
//! interval nearest to one half. To the location, a leaky sum of past misses adds (the I part), and its steps grow with
//! the recent size of errors, so that a shift that stays is followed within days. While the location is being chased,
//! misses say little about stretch and levels; their steps are smaller then.
//!
//! How fast the location should follow depends on the forecast: one that repeats yesterday errs to and fro with the days
//! of the week, and following it does harm. So some rates are followed side by side, each with its own stretch and levels,
//! and the one with the least recent loss is applied, or none where that is better still (as Gibbs and Candès 2024 weigh
//! step sizes).
//!
//! The P part of one level alone has a long-run share that is wrong by at most (range of scores + rate) / (rate × batches),
//! whatever the data (their proposition 1). Levels that ride on location and stretch keep the mechanism but not that proof.

use serde::{Deserialize, Serialize};

use super::isotonic::Repair;
use super::{CalibrateError, spread};
use crate::metrics::{check_levels, index_of, pinball};

/// Share of the recent location's misses that is kept from one batch to the next: some days in a row on the same side are
/// a shift.
const MISS_MEMORY: f64 = 0.8;

/// How fast corrections follow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Step of each level's quantile a batch, in spreads of the stretched forecast.
    pub rate: f64,
    /// Step of the logarithm of the stretch a batch.
    pub stretch_rate: f64,
    /// Steps of the location a batch, as shares of the recent size of errors, that are followed side by side; 0 leaves
    /// the location as it is.
    pub location_rates: Vec<f64>,
    /// What the leaky sum adds to the location, as a share of its step; 0 switches the I part off.
    pub integral_rate: f64,
    /// Share of the leaky sum and of the size of errors that is kept from one batch to the next, from 0 to less than 1;
    /// 0.9 remembers about 10 batches.
    pub memory: f64,
    /// The same of the losses that decide what is applied.
    pub loss_memory: f64,
    /// Greatest shift of location, and of each level besides, in spreads, and greatest stretch, at least 1.
    pub limit: f64,
    /// First steps of the buckets of forecast steps that have corrections of their own, ascending. Empty: one bucket.
    pub buckets: Vec<u32>,
    /// Corrections are applied only while their recent pinball loss is at most that without them, by this factor.
    /// `None`: always.
    pub worst_ratio: Option<f64>,
    /// What is done to corrected quantiles.
    pub repair: Repair,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            rate: 0.03,
            stretch_rate: 0.1,
            location_rates: vec![0.0, 0.1, 0.3],
            integral_rate: 0.15,
            memory: 0.9,
            loss_memory: 0.95,
            limit: 10.0,
            buckets: Vec::new(),
            worst_ratio: Some(1.0),
            repair: Repair::default(),
        }
    }
}

impl Options {
    fn check(&self) -> Result<(), CalibrateError> {
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        for (name, good) in [
            ("rate", not_negative(self.rate)),
            ("stretch_rate", not_negative(self.stretch_rate)),
            ("location_rates", self.location_rates.iter().all(|rate| not_negative(*rate))),
            ("location_rates", !self.location_rates.is_empty()),
            ("integral_rate", not_negative(self.integral_rate)),
            ("memory", (0.0..1.0).contains(&self.memory)),
            ("loss_memory", (0.0..1.0).contains(&self.loss_memory)),
            ("limit", self.limit.is_finite() && self.limit >= 1.0),
            ("buckets", self.buckets.is_sorted_by(|a, b| a < b)),
            ("worst_ratio", self.worst_ratio.is_none_or(not_negative)),
        ] {
            if !good {
                return Err(CalibrateError::Option(name));
            }
        }
        Ok(())
    }
}

/// Corrections of one series, or of a group of series, and what they are learned from. Plain data: it can be stored and
/// goes on where it stopped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adaptive {
    levels: Vec<f64>,
    median: usize,
    /// Lower and upper level that the stretch is tracked with, by index.
    inner: Option<(usize, usize)>,
    options: Options,
    buckets: Vec<Bucket>,
}

/// State of a bucket of forecast steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Bucket {
    batches: u64,
    /// Recent pinball loss without corrections, in spreads.
    loss_raw: f64,
    /// One for each rate of the location.
    trackers: Vec<Tracker>,
}

/// What is tracked with one rate of the location.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Tracker {
    location_rate: f64,
    /// P part of the location, in spreads, and leaky sum of its misses.
    location: f64,
    integral: f64,
    /// Recent mean of the location's misses.
    miss: f64,
    /// Recent mean |actual − located median|, in spreads.
    size: f64,
    log_stretch: f64,
    /// Shift of each level, in stretched spreads; of the median, 0.
    shifts: Vec<f64>,
    /// Recent pinball loss with these corrections, in spreads.
    loss: f64,
}

/// What is done to quantiles: q becomes m + location + stretch × (q − m + shift), m being their median, and location and
/// shift being in units of their spread.
#[derive(Debug, Clone, PartialEq)]
pub struct Correction {
    /// Shift of all levels, in spreads.
    pub location: f64,
    /// Factor of the distance from the median.
    pub stretch: f64,
    /// Shift of each level, in spreads, before it is stretched.
    pub shifts: Vec<f64>,
}

impl Correction {
    /// The corrected quantile of a level: where it was, and where it comes to be, both as the distance from the median in
    /// spreads.
    fn of(&self, level: usize, distance: f64) -> f64 {
        self.location + self.stretch * (distance + self.shifts[level])
    }
}

/// What a batch said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Batch {
    /// Rows that were learned from.
    pub rows: usize,
    /// Rows that were not: without an actual value, with a quantile that is not finite, or without spread.
    pub rows_left_out: usize,
}

impl Adaptive {
    /// Corrections of nothing yet, for quantiles at `levels`.
    pub fn new(levels: &[f64], options: Options) -> Result<Adaptive, CalibrateError> {
        let median = check_levels(levels)?;
        options.check()?;
        let tracker = |rate: &f64| Tracker {
            location_rate: *rate,
            location: 0.0,
            integral: 0.0,
            miss: 0.0,
            size: 0.0,
            log_stretch: 0.0,
            shifts: vec![0.0; levels.len()],
            loss: 0.0,
        };
        let trackers = options.location_rates.iter().map(tracker).collect();
        let bucket = Bucket { batches: 0, loss_raw: 0.0, trackers };
        let buckets = vec![bucket; options.buckets.len().max(1)];
        let off = |level: f64| (level - 0.25).abs();
        let inner = (0..median)
            .filter_map(|low| Some((low, index_of(levels, 1.0 - levels[low])?)))
            .min_by(|a, b| off(levels[a.0]).total_cmp(&off(levels[b.0])));
        Ok(Adaptive { levels: levels.to_vec(), median, inner, options, buckets })
    }

    /// Learns from a batch: `quantiles` (rows × levels) as they were before any correction of this kind, at forecast
    /// steps `steps`, and what happened (NaN where that is not known). The order of rows within a batch doesn't matter
    /// but for rounding.
    pub fn update(&mut self, steps: &[u32], quantiles: &[f64], actuals: &[f64]) -> Result<Batch, CalibrateError> {
        let rows = actuals.len();
        for (what, found, expected) in
            [("steps", steps.len(), rows), ("quantiles", quantiles.len(), rows * self.levels.len())]
        {
            if found != expected {
                return Err(CalibrateError::Length { what, found, expected });
            }
        }
        let mut by_bucket: Vec<Vec<Row>> = vec![Vec::new(); self.buckets.len()];
        let mut batch = Batch::default();
        for ((quantiles, actual), step) in quantiles.chunks_exact(self.levels.len()).zip(actuals).zip(steps) {
            let usable = actual.is_finite() && quantiles.iter().all(|q| q.is_finite());
            // A value that is this far out (of quantiles that cross, also a quantile) would make the state infinite.
            let near = |row: &Row| usable && quantiles.iter().chain([actual]).all(|v| row.of(*v).abs() < 1e12);
            let row = |unit| Row { quantiles, actual: *actual, median: quantiles[self.median], unit };
            match spread(quantiles).map(row).filter(near) {
                Some(row) => by_bucket[self.bucket(*step)].push(row),
                None => batch.rows_left_out += 1,
            }
        }
        let Adaptive { levels, median, inner, options, buckets } = self;
        let scheme = Scheme { levels, median: *median, inner: *inner, options };
        for (bucket, rows) in buckets.iter_mut().zip(&by_bucket) {
            if !rows.is_empty() {
                batch.rows += rows.len();
                bucket.update(rows, &scheme);
            }
        }
        Ok(batch)
    }

    /// Corrects the quantiles of one row at forecast step `step`. Without spread they stay as they are. Fails for a
    /// quantile that is not finite, before or after; `quantiles` are as before then.
    pub fn apply(&self, step: u32, quantiles: &mut [f64]) -> Result<(), CalibrateError> {
        if quantiles.len() != self.levels.len() {
            let (found, expected) = (quantiles.len(), self.levels.len());
            return Err(CalibrateError::Length { what: "quantiles", found, expected });
        }
        if quantiles.iter().any(|q| !q.is_finite()) {
            return Err(CalibrateError::NotFinite);
        }
        if let Some((unit, correction)) = spread(quantiles).zip(self.correction(step)) {
            let median = quantiles[self.median];
            let corrected = |(level, q): (usize, &f64)| median + unit * correction.of(level, (q - median) / unit);
            let found: Vec<f64> = quantiles.iter().enumerate().map(corrected).collect();
            if found.iter().any(|q| !q.is_finite()) {
                return Err(CalibrateError::NotFinite);
            }
            quantiles.copy_from_slice(&found);
        }
        self.options.repair.apply(quantiles).map(|_| ())
    }

    /// What is applied at `step`; `None` where nothing is.
    pub fn correction(&self, step: u32) -> Option<Correction> {
        let bucket = &self.buckets[self.bucket(step)];
        let best = bucket.best()?;
        let good = self.options.worst_ratio.is_none_or(|worst| best.loss <= worst * bucket.loss_raw);
        (bucket.batches > 0 && good).then(|| best.correction(&self.options))
    }

    /// Recent pinball loss at `step` without corrections and with the best ones, each in spreads. `None` before the first
    /// batch.
    pub fn losses(&self, step: u32) -> Option<(f64, f64)> {
        let bucket = &self.buckets[self.bucket(step)];
        let best = bucket.best()?;
        (bucket.batches > 0).then_some((bucket.loss_raw, best.loss))
    }

    fn bucket(&self, step: u32) -> usize {
        self.options.buckets.partition_point(|first| *first <= step).saturating_sub(1)
    }
}

/// What all buckets have in common.
struct Scheme<'a> {
    levels: &'a [f64],
    median: usize,
    inner: Option<(usize, usize)>,
    options: &'a Options,
}

/// A row that can be learned from.
#[derive(Debug, Clone, Copy)]
struct Row<'a> {
    quantiles: &'a [f64],
    actual: f64,
    median: f64,
    /// Spread of its quantiles.
    unit: f64,
}

impl Row<'_> {
    /// Distance of a value from the median, in spreads.
    fn of(&self, value: f64) -> f64 {
        (value - self.median) / self.unit
    }
}

impl Bucket {
    /// The tracker with the least recent loss; the first of equals.
    fn best(&self) -> Option<&Tracker> {
        self.trackers.iter().min_by(|a, b| a.loss.total_cmp(&b.loss))
    }

    /// `rows` are not empty.
    fn update(&mut self, rows: &[Row], scheme: &Scheme) {
        // The first batch is all that is known of losses and sizes; nothing was corrected then.
        let keep = |memory: f64| if self.batches == 0 { 0.0 } else { memory };
        let (memory, loss_memory) = (keep(scheme.options.memory), keep(scheme.options.loss_memory));
        let loss = scheme.loss(rows, &|row, level| row.of(row.quantiles[level]));
        self.loss_raw = remember(loss_memory, self.loss_raw, loss);
        for tracker in &mut self.trackers {
            tracker.update(rows, scheme, memory, loss_memory);
        }
        self.batches += 1;
    }
}

/// `old` and `new`, of which `memory` says how much of the old is kept.
fn remember(memory: f64, old: f64, new: f64) -> f64 {
    memory * old + (1.0 - memory) * new
}

impl Scheme<'_> {
    /// Mean over rows of the pinball loss of `quantile` (of a row, at a level), summed over levels; in spreads.
    fn loss(&self, rows: &[Row], quantile: &dyn Fn(&Row, usize) -> f64) -> f64 {
        let of_row = |row: &Row| -> f64 {
            let actual = row.of(row.actual);
            self.levels.iter().enumerate().map(|(l, level)| pinball(actual, quantile(row, l), *level)).sum()
        };
        rows.iter().map(of_row).sum::<f64>() / rows.len() as f64
    }
}

impl Tracker {
    fn correction(&self, options: &Options) -> Correction {
        let location = self.location + options.integral_rate * self.location_rate * self.size * self.integral;
        Correction {
            location: location.clamp(-options.limit, options.limit),
            stretch: self.log_stretch.exp(),
            shifts: self.shifts.clone(),
        }
    }

    fn update(&mut self, rows: &[Row], scheme: &Scheme, memory: f64, loss_memory: f64) {
        let Scheme { levels, median, inner, options } = *scheme;
        let mean = |of: &dyn Fn(&Row) -> f64| rows.iter().map(of).sum::<f64>() / rows.len() as f64;
        let correction = self.correction(options);
        let corrected = |row: &Row, level: usize| correction.of(level, row.of(row.quantiles[level]));
        self.loss = remember(loss_memory, self.loss, scheme.loss(rows, &corrected));
        let share: Vec<f64> = (0..levels.len())
            .map(|l| mean(&|row| f64::from(u8::from(row.of(row.actual) <= corrected(row, l)))))
            .collect();

        // From earlier batches only: what this one says must not decide how much it counts.
        let chasing = if self.location_rate > 0.0 { 2.0 * self.miss.abs() } else { 0.0 };
        let trust = (1.0 - chasing).max(0.0).powi(2);
        if let Some((low, high)) = inner {
            let too_few = (levels[high] - levels[low]) - (share[high] - share[low]);
            let most = options.limit.ln();
            self.log_stretch = (self.log_stretch + trust * options.stretch_rate * too_few).clamp(-most, most);
        }
        for (l, shift) in self.shifts.iter_mut().enumerate() {
            // The median is the location; a second shift of it would only chase the first.
            if l != median {
                let step = trust * options.rate * (levels[l] - share[l]);
                *shift = (*shift + step).clamp(-options.limit, options.limit);
            }
        }

        let miss = levels[median] - share[median];
        self.size = remember(memory, self.size, mean(&|row| (row.of(row.actual) - correction.location).abs()));
        self.location += self.location_rate * self.size * miss;
        self.location = self.location.clamp(-options.limit, options.limit);
        self.integral = options.memory * self.integral + miss;
        self.miss = remember(MISS_MEMORY, self.miss, miss);
    }
}

#[cfg(test)]
#[path = "adaptive_tests.rs"]
mod tests;
