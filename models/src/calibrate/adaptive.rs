//! Calibration that follows the actual values as they arrive, a batch (a day) at a time.
//!
//! Adaptive conformal inference (Gibbs and Candès 2021) moves the level of an interval after each miss; conformal PID
//! control (Angelopoulos, Candès and Tibshirani 2023) moves the quantile itself. This is the latter, for each level: after
//! a batch in which the share s of actual values was not above the corrected quantile of level τ, its shift moves by
//! rate × size × (τ − s), where `size` is the recent size of errors (their "quantile tracking", the P part). A leaky sum
//! of past (τ − s) adds to it (the I part), so that a bias that stays is answered faster than one bad day.
//!
//! Two things are ours. A shift of location, the same for all levels, is tracked first with the median's share: a level
//! near 0 moves upwards by no more than τ a batch, so that alone it would need months to follow a series that has grown.
//! And the loss with and without corrections is remembered, so that corrections that do harm can be left out.
//!
//! Shifts are in units of the forecast's own spread. Without location and with a constant step, the P part's long-run
//! share is wrong by at most (range of scores + step) / (step × batches), whatever the data (their proposition 1). A step
//! that follows the size of errors, and levels that ride on a location, keep the mechanism but not that proof.

use serde::{Deserialize, Serialize};

use super::isotonic::Repair;
use super::{CalibrateError, spread};
use crate::metrics::{check_levels, pinball};

/// How fast corrections follow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Step of each level's shift a batch, as a share of the recent size of errors.
    pub rate: f64,
    /// The same of the shift of location.
    pub location_rate: f64,
    /// What the leaky sum adds, as a share of the recent size of errors; 0 switches the I part off.
    pub integral_rate: f64,
    /// Share of the leaky sum, of the size of errors and of the losses that is kept from one batch to the next, from 0
    /// to less than 1; 0.9 remembers about 10 batches.
    pub memory: f64,
    /// Greatest shift of location, and of each level from it, in spreads of the forecast.
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
            rate: 0.1,
            location_rate: 0.3,
            integral_rate: 0.05,
            memory: 0.9,
            limit: 10.0,
            buckets: Vec::new(),
            worst_ratio: Some(1.01),
            repair: Repair::default(),
        }
    }
}

impl Options {
    fn check(&self) -> Result<(), CalibrateError> {
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        for (name, good) in [
            ("rate", not_negative(self.rate)),
            ("location_rate", not_negative(self.location_rate)),
            ("integral_rate", not_negative(self.integral_rate)),
            ("memory", (0.0..1.0).contains(&self.memory)),
            ("limit", not_negative(self.limit)),
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
    options: Options,
    buckets: Vec<Bucket>,
}

/// State of a bucket of forecast steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Bucket {
    batches: u64,
    /// Shift of all levels, and of each level from that.
    location: Tracker,
    levels: Vec<Tracker>,
    /// Recent mean |actual − corrected median|, in spreads.
    size: f64,
    /// Recent pinball losses, in spreads.
    loss_raw: f64,
    loss_corrected: f64,
}

/// One tracked shift, in spreads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Tracker {
    proportional: f64,
    /// Leaky sum of (level − share).
    integral: f64,
}

impl Tracker {
    fn shift(&self, size: f64, options: &Options) -> f64 {
        let shift = self.proportional + options.integral_rate * size * self.integral;
        shift.clamp(-options.limit, options.limit)
    }

    fn update(&mut self, too_few: f64, step: f64, options: &Options) {
        self.proportional = (self.proportional + step * too_few).clamp(-options.limit, options.limit);
        self.integral = options.memory * self.integral + too_few;
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
        let bucket = Bucket {
            batches: 0,
            location: Tracker::default(),
            levels: vec![Tracker::default(); levels.len()],
            size: 0.0,
            loss_raw: 0.0,
            loss_corrected: 0.0,
        };
        let buckets = vec![bucket; options.buckets.len().max(1)];
        Ok(Adaptive { levels: levels.to_vec(), median, options, buckets })
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
            // An actual value that is this far out would make the state itself infinite.
            let near = |row: &Row| usable && row.score(self.median).abs() < 1e12;
            match spread(quantiles).map(|unit| Row { quantiles, actual: *actual, unit }).filter(near) {
                Some(row) => by_bucket[self.bucket(*step)].push(row),
                None => batch.rows_left_out += 1,
            }
        }
        for (bucket, rows) in self.buckets.iter_mut().zip(&by_bucket) {
            if !rows.is_empty() {
                batch.rows += rows.len();
                bucket.update(rows, &self.levels, self.median, &self.options);
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
        if let Some(unit) = spread(quantiles).filter(|_| self.is_applied(step)) {
            let shifts = self.shifts(step);
            if quantiles.iter().zip(&shifts).any(|(q, shift)| !(q + unit * shift).is_finite()) {
                return Err(CalibrateError::NotFinite);
            }
            quantiles.iter_mut().zip(shifts).for_each(|(q, shift)| *q += unit * shift);
        }
        self.options.repair.apply(quantiles).map(|_| ())
    }

    /// Shifts of each level at `step`, in units of a row's spread, whether or not they are applied.
    pub fn shifts(&self, step: u32) -> Vec<f64> {
        self.buckets[self.bucket(step)].shifts(&self.options)
    }

    /// Whether corrections at `step` have not done harm of late; see [`Options::worst_ratio`].
    pub fn is_applied(&self, step: u32) -> bool {
        let bucket = &self.buckets[self.bucket(step)];
        self.options.worst_ratio.is_none_or(|worst| bucket.loss_corrected <= worst * bucket.loss_raw)
    }

    /// Recent pinball loss at `step` without and with corrections, each in spreads. `None` before the first batch.
    pub fn losses(&self, step: u32) -> Option<(f64, f64)> {
        let bucket = &self.buckets[self.bucket(step)];
        (bucket.batches > 0).then_some((bucket.loss_raw, bucket.loss_corrected))
    }

    fn bucket(&self, step: u32) -> usize {
        self.options.buckets.partition_point(|first| *first <= step).saturating_sub(1)
    }
}

/// A row that can be learned from.
#[derive(Debug, Clone, Copy)]
struct Row<'a> {
    quantiles: &'a [f64],
    actual: f64,
    /// Spread of its quantiles.
    unit: f64,
}

impl Row<'_> {
    /// How far the actual value is above the quantile, in spreads.
    fn score(&self, level: usize) -> f64 {
        (self.actual - self.quantiles[level]) / self.unit
    }
}

impl Bucket {
    fn shifts(&self, options: &Options) -> Vec<f64> {
        let location = self.location.shift(self.size, options);
        self.levels.iter().map(|level| location + level.shift(self.size, options)).collect()
    }

    /// `rows` are not empty.
    fn update(&mut self, rows: &[Row], levels: &[f64], median: usize, options: &Options) {
        let mean = |of: &dyn Fn(&Row) -> f64| rows.iter().map(of).sum::<f64>() / rows.len() as f64;
        let shifts = self.shifts(options);

        // The first batch is all that is known of the sizes; nothing was corrected then.
        let keep = if self.batches == 0 { 0.0 } else { options.memory };
        let remember = |old: f64, new: f64| keep * old + (1.0 - keep) * new;
        let loss = |shift: &dyn Fn(usize) -> f64| {
            mean(&|row| (0..levels.len()).map(|l| pinball(row.score(l), shift(l), levels[l])).sum::<f64>())
        };
        self.loss_raw = remember(self.loss_raw, loss(&|_| 0.0));
        self.loss_corrected = remember(self.loss_corrected, loss(&|l| shifts[l]));

        let share = |level: usize, shift: f64| mean(&|row| f64::from(u8::from(row.score(level) <= shift)));
        let location = self.location.shift(self.size, options);
        let located = share(median, location);
        let shares: Vec<f64> = (0..levels.len()).map(|l| share(l, shifts[l])).collect();
        self.size = remember(self.size, mean(&|row| (row.score(median) - location).abs()));
        self.location.update(0.5 - located, options.location_rate * self.size, options);
        for (l, (tracker, level)) in self.levels.iter_mut().zip(levels).enumerate() {
            // The median is the location; a second shift of it would only chase the first.
            if l != median {
                tracker.update(level - shares[l], options.rate * self.size, options);
            }
        }
        self.batches += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    const LEVELS: [f64; 5] = [0.1, 0.3, 0.5, 0.7, 0.9];

    /// Shares of actual values not above each quantile, over `days` days of 24 hours. Forecasts are uniform on [0, 1]
    /// every day, the truth is uniform on the interval that `truth` gives for the day. Learns all along.
    fn run(adaptive: &mut Adaptive, days: std::ops::Range<u32>, truth: impl Fn(u32) -> (f64, f64)) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(u64::from(days.start));
        let (mut counts, mut rows) = (vec![0.0; LEVELS.len()], 0.0);
        for day in days {
            let (low, high) = truth(day);
            let actuals: Vec<f64> = (0..24).map(|_| low + (high - low) * rng.random::<f64>()).collect();
            let mut corrected = LEVELS;
            adaptive.apply(0, &mut corrected).unwrap();
            for actual in &actuals {
                rows += 1.0;
                counts.iter_mut().zip(corrected).for_each(|(c, q)| *c += f64::from(u8::from(*actual <= q)));
            }
            adaptive.update(&[0; 24], &LEVELS.repeat(24), &actuals).unwrap();
        }
        counts.iter().map(|count| count / rows).collect()
    }

    fn near(shares: &[f64], tolerance: f64) -> bool {
        shares.iter().zip(LEVELS).all(|(share, level)| (share - level).abs() < tolerance)
    }

    #[test]
    fn a_good_forecast_is_left_nearly_alone() {
        let mut adaptive = Adaptive::new(&LEVELS, Options::default()).unwrap();
        let shares = run(&mut adaptive, 0..400, |_| (0.0, 1.0));
        assert!(near(&shares, 0.02), "{shares:?}");
        assert!(adaptive.shifts(0).iter().all(|s| s.abs() < 0.1), "{:?}", adaptive.shifts(0));
        let (raw, corrected) = adaptive.losses(0).unwrap();
        assert!(corrected < 1.02 * raw, "{raw} {corrected}");
    }

    #[test]
    fn a_shift_of_level_is_followed_within_a_month() {
        for shift in [5.0, -3.0] {
            let mut adaptive = Adaptive::new(&LEVELS, Options::default()).unwrap();
            run(&mut adaptive, 0..100, |_| (0.0, 1.0));
            let at_first = run(&mut adaptive, 100..103, |_| (shift, shift + 1.0));
            assert!(!near(&at_first, 0.2));
            run(&mut adaptive, 103..130, |_| (shift, shift + 1.0));
            let shares = run(&mut adaptive, 130..230, |_| (shift, shift + 1.0));
            assert!(near(&shares, 0.06), "{shift}: {shares:?}");
        }
    }

    #[test]
    fn wrong_spreads_are_corrected_both_ways() {
        for (low, high) in [(-1.0, 2.0), (0.4, 0.6)] {
            let mut adaptive = Adaptive::new(&LEVELS, Options::default()).unwrap();
            run(&mut adaptive, 0..200, |_| (low, high));
            let shares = run(&mut adaptive, 200..500, |_| (low, high));
            assert!(near(&shares, 0.04), "{low} {high}: {shares:?}");
        }
    }

    #[test]
    fn the_long_run_share_is_right_even_against_an_adversary() {
        let always = Options { worst_ratio: None, ..Options::default() };
        let mut adaptive = Adaptive::new(&LEVELS, always).unwrap();
        // The truth jumps to and fro every ten days.
        let shares = run(&mut adaptive, 0..2000, |day| if day / 10 % 2 == 0 { (0.0, 1.0) } else { (2.0, 3.5) });
        assert!(near(&shares, 0.05), "{shares:?}");
    }

    #[test]
    fn corrections_that_do_harm_are_left_out() {
        let mut adaptive = Adaptive::new(&LEVELS, Options::default()).unwrap();
        // Each day's error is the opposite of the last: whatever is learned is wrong.
        run(&mut adaptive, 0..101, |day| if day % 2 == 0 { (-3.0, -2.0) } else { (3.0, 4.0) });
        let (raw, corrected) = adaptive.losses(0).unwrap();
        assert_eq!(adaptive.is_applied(0), corrected <= 1.01 * raw);
        adaptive.buckets[0].loss_corrected = 2.0 * adaptive.buckets[0].loss_raw;
        let mut quantiles = LEVELS;
        adaptive.apply(0, &mut quantiles).unwrap();
        assert_eq!(quantiles, LEVELS);
    }

    #[test]
    fn buckets_of_steps_learn_apart() {
        let options = Options { buckets: vec![0, 24], ..Options::default() };
        let mut adaptive = Adaptive::new(&LEVELS, options).unwrap();
        for _ in 0..50 {
            adaptive.update(&[3, 30], &LEVELS.repeat(2), &[0.5, 2.5]).unwrap();
        }
        assert!(adaptive.shifts(23)[2].abs() < 0.1 && adaptive.shifts(24)[2] > 1.5);
        assert_eq!(adaptive.shifts(24), adaptive.shifts(1000));
    }

    #[test]
    fn what_cannot_be_learned_from_is_left_out_and_counted() {
        let mut adaptive = Adaptive::new(&[0.1, 0.5, 0.9], Options::default()).unwrap();
        let fresh = adaptive.clone();
        let quantiles = [[1.0, 2.0, 3.0], [1.0, f64::NAN, 3.0], [2.0; 3], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]].concat();
        let actuals = [f64::NAN, 1.0, 1.0, f64::INFINITY, 1e300];
        let found = adaptive.update(&[0; 5], &quantiles, &actuals).unwrap();
        assert_eq!((found, &adaptive), (Batch { rows: 0, rows_left_out: 5 }, &fresh));
        assert_eq!(adaptive.update(&[], &[], &[]), Ok(Batch::default()));
        let error = adaptive.update(&[0], &[1.0, 2.0], &[1.0]);
        assert_eq!(error, Err(CalibrateError::Length { what: "quantiles", found: 2, expected: 3 }));
        assert_eq!(adaptive, fresh);
        assert_eq!(adaptive.losses(0), None);
        let mut quantiles = [1.0, f64::INFINITY, 2.0];
        assert_eq!(adaptive.apply(0, &mut quantiles), Err(CalibrateError::NotFinite));
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        for (options, name) in [
            (Options { rate: -1.0, ..Options::default() }, "rate"),
            (Options { memory: 1.0, ..Options::default() }, "memory"),
            (Options { limit: f64::INFINITY, ..Options::default() }, "limit"),
            (Options { buckets: vec![3, 3], ..Options::default() }, "buckets"),
        ] {
            assert_eq!(Adaptive::new(&LEVELS, options), Err(CalibrateError::Option(name)));
        }
    }

    #[test]
    fn stored_state_goes_on_where_it_stopped() {
        let mut adaptive = Adaptive::new(&LEVELS, Options::default()).unwrap();
        run(&mut adaptive, 0..30, |_| (0.2, 1.7));
        let stored = serde_json::to_string(&adaptive).unwrap();
        let mut restored: Adaptive = serde_json::from_str(&stored).unwrap();
        let shares = run(&mut restored, 30..60, |_| (0.2, 1.7));
        assert_eq!(run(&mut adaptive, 30..60, |_| (0.2, 1.7)), shares);
        assert_eq!(adaptive, restored);
    }
}
