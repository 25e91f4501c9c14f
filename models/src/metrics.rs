//! Figures of merit: losses of one point, and running sums over [`LEVELS`]; [`scoreboard`] keeps every figure at any
//! levels, by series, step and group.
//!
//! Sources: Hyndman and Koehler (2006) for MASE; Salinas et al. (2020) for ND and the weighted quantile loss;
//! Makridakis, Spiliotis and Assimakopoulos (2020) for the M4 figures sMAPE, MSIS and OWA; Gneiting and Raftery (2007)
//! for the interval score; Laio and Tamea (2007) for CRPS as an integral of pinball losses.

pub mod scoreboard;

use meterline_schemas::quantiles::{CENTRAL_80, CENTRAL_90, LEVELS, MEDIAN};

/// Levels that differ by less than this are the same level.
const SAME_LEVEL: f64 = 1e-9;

/// Why a list of quantile levels cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum LevelsError {
    /// No level at all.
    #[error("the list of quantile levels is empty")]
    Empty,
    /// Not strictly between 0 and 1.
    #[error("quantile level {0} is not between 0 and 1")]
    OutOfRange(f64),
    /// Each level has to be greater than the one before.
    #[error("quantile level {0} does not come after the one before it; give levels in ascending order")]
    NotAscending(f64),
    /// The figures of a point forecast need the median.
    #[error("the list of quantile levels has no median (0.5)")]
    NoMedian,
}

/// Checks that `levels` ascend strictly between 0 and 1, and returns the index of the median.
pub fn check_levels(levels: &[f64]) -> Result<usize, LevelsError> {
    if levels.is_empty() {
        return Err(LevelsError::Empty);
    }
    let mut before = 0.0;
    for level in levels {
        if !(*level > 0.0 && *level < 1.0) {
            return Err(LevelsError::OutOfRange(*level));
        }
        if *level <= before {
            return Err(LevelsError::NotAscending(*level));
        }
        before = *level;
    }
    index_of(levels, 0.5).ok_or(LevelsError::NoMedian)
}

/// Index of `level` in `levels`, allowing for rounding.
pub fn index_of(levels: &[f64], level: f64) -> Option<usize> {
    levels.iter().position(|l| (l - level).abs() < SAME_LEVEL)
}

/// Whether published figures average over this level: 0.1, 0.2 … 0.9 (fev-bench, GIFT-Eval and GluonTS).
pub fn is_decile(level: f64) -> bool {
    let tenths = level * 10.0;
    (tenths - tenths.round()).abs() < 10.0 * SAME_LEVEL
}

/// Quantile (pinball) loss of the forecast `quantile` at `level` for `actual`, in the unit of both (Koenker and Bassett
/// 1978).
pub fn pinball(actual: f64, quantile: f64, level: f64) -> f64 {
    let error = actual - quantile;
    if error >= 0.0 { level * error } else { (level - 1.0) * error }
}

/// One point's term of sMAPE as in M4, in per cent: 200 |y − ŷ| / (|y| + |ŷ|), 0 when both are 0. Between 0 and 200.
pub fn smape_term(actual: f64, forecast: f64) -> f64 {
    // Each is divided by the greater before they are added, so that huge values don't overflow.
    let greater = actual.abs().max(forecast.abs());
    if greater == 0.0 {
        return 0.0;
    }
    let (a, f) = (actual / greater, forecast / greater);
    200.0 * (a - f).abs() / (a.abs() + f.abs())
}

/// Interval score of the central interval [`low`, `high`] that misses with probability `alpha` (Gneiting and Raftery
/// 2007, equation 43), in the unit of `actual`: its width, and 2/alpha times the distance by which it misses.
///
/// Its mean over points divided by the seasonal scale is MSIS; M4 used alpha = 0.05.
pub fn interval_score(actual: f64, low: f64, high: f64, alpha: f64) -> f64 {
    (high - low) + 2.0 / alpha * ((low - actual).max(0.0) + (actual - high).max(0.0))
}

/// Weights of the levels in the trapezoid rule for CRPS = 2 ∫ pinball(level) d level, the loss at levels 0 and 1 being
/// 0. For equally spaced levels all are equal.
pub fn crps_weights(levels: &[f64]) -> Vec<f64> {
    let at = |i: usize| levels.get(i).copied().unwrap_or(1.0);
    (0..levels.len()).map(|i| (at(i + 1) - i.checked_sub(1).map_or(0.0, at)) / 2.0).collect()
}

/// Continuous ranked probability score from `quantiles` at `levels` (equally long), in the unit of `actual`; see
/// [`crps_weights`]. The few levels make it somewhat too small, by the same rule for every forecast.
pub fn crps(actual: f64, levels: &[f64], quantiles: &[f64]) -> f64 {
    let losses = levels.iter().zip(quantiles).map(|(level, quantile)| pinball(actual, *quantile, *level));
    2.0 * crps_weights(levels).iter().zip(losses).map(|(weight, loss)| weight * loss).sum::<f64>()
}

/// Overall weighted average of M4: the mean of the ratios of sMAPE and of MASE to those of the benchmark (Naive2).
///
/// `None` when a benchmark's figure is not positive.
pub fn owa(smape: f64, mase: f64, benchmark_smape: f64, benchmark_mase: f64) -> Option<f64> {
    let mean = (smape / benchmark_smape + mase / benchmark_mase) / 2.0;
    (benchmark_smape > 0.0 && benchmark_mase > 0.0 && mean.is_finite()).then_some(mean)
}

/// Mean absolute difference between values one season apart: the denominator of MASE.
///
/// Pairs with a missing value (NaN) are left out. `None` without any pair, or when the series repeats itself exactly
/// (then every error would be infinitely bad).
pub fn seasonal_scale(values: &[f32], season: usize) -> Option<f64> {
    let season = season.max(1);
    let (mut sum, mut pairs) = (0.0, 0_usize);
    for (past, now) in values.iter().zip(values.iter().skip(season)) {
        let difference = f64::from(*now) - f64::from(*past);
        if difference.is_finite() {
            sum += difference.abs();
            pairs += 1;
        }
    }
    (pairs > 0 && sum > 0.0).then(|| sum / pairs as f64)
}

/// Linear interpolation between order statistics (type 7 of Hyndman and Fan 1996). `sorted` ascending and not empty.
pub fn empirical_quantile(sorted: &[f64], level: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let position = level.clamp(0.0, 1.0) * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    match (sorted.get(below), sorted.get(above)) {
        (Some(low), Some(high)) => low + (high - low) * (position - below as f64),
        _ => f64::NAN,
    }
}

/// Expected value of a distribution given by its quantiles at [`LEVELS`]; see [`mean_at_levels`].
pub fn mean_of_quantiles(quantiles: &[f64; LEVELS.len()]) -> f64 {
    mean_at_levels(&LEVELS, quantiles)
}

/// Expected value of a distribution given by `quantiles` at ascending `levels` (equally long): the trapezoid rule over
/// the levels, each tail continued at the slope between its two outermost quantiles. NaN without any level.
pub fn mean_at_levels(levels: &[f64], quantiles: &[f64]) -> f64 {
    let n = levels.len().min(quantiles.len());
    let (levels, quantiles) = (&levels[..n], &quantiles[..n]);
    let (Some(first), Some(last)) = (quantiles.first(), quantiles.last()) else { return f64::NAN };
    if n == 1 {
        return *first;
    }
    let inner: f64 = (0..n - 1).map(|i| (levels[i + 1] - levels[i]) * (quantiles[i] + quantiles[i + 1]) / 2.0).sum();
    let (below, above) = (levels[0], 1.0 - levels[n - 1]);
    let low = first - (quantiles[1] - first) * (below / (levels[1] - levels[0])) / 2.0;
    let high = last + (last - quantiles[n - 2]) * (above / (levels[n - 1] - levels[n - 2])) / 2.0;
    inner + below * low + above * high
}

/// Running sums over scored points. One point is one (series, origin, step) with an actual value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sums {
    /// Points.
    pub points: usize,
    /// Σ |y|
    pub absolute_actual: f64,
    /// Σ |y − median|
    pub absolute_error: f64,
    /// Σ pinball at each of [`LEVELS`].
    pub pinball: [f64; LEVELS.len()],
    /// Points within the central 80 % interval, both ends included.
    pub covered: usize,
    /// Points within the central 90 % interval, both ends included.
    pub covered_90: usize,
}

impl Sums {
    /// Adds one point.
    pub fn add(&mut self, actual: f64, quantiles: &[f64; LEVELS.len()]) {
        self.points += 1;
        self.absolute_actual += actual.abs();
        self.absolute_error += (actual - quantiles[MEDIAN]).abs();
        for ((sum, level), quantile) in self.pinball.iter_mut().zip(LEVELS).zip(quantiles) {
            *sum += pinball(actual, *quantile, level);
        }
        let within = |(low, high): (usize, usize)| usize::from(quantiles[low] <= actual && actual <= quantiles[high]);
        self.covered += within(CENTRAL_80);
        self.covered_90 += within(CENTRAL_90);
    }

    /// Adds the points of `other`.
    pub fn merge(&mut self, other: &Sums) {
        self.points += other.points;
        self.absolute_actual += other.absolute_actual;
        self.absolute_error += other.absolute_error;
        for (sum, more) in self.pinball.iter_mut().zip(other.pinball) {
            *sum += more;
        }
        self.covered += other.covered;
        self.covered_90 += other.covered_90;
    }

    /// Normalised deviation of the median: Σ|y − ŷ| / Σ|y|. `None` when nothing was scored or all actuals are zero.
    pub fn nd(&self) -> Option<f64> {
        (self.absolute_actual > 0.0).then(|| self.absolute_error / self.absolute_actual)
    }

    /// Weighted quantile loss: the mean over the deciles 0.1 … 0.9 of 2 Σ pinball / Σ|y|. `None` as for [`Sums::nd`].
    pub fn wql(&self) -> Option<f64> {
        let deciles = LEVELS.iter().zip(&self.pinball).filter(|(level, _)| is_decile(**level));
        let (sum, count) = deciles.fold((0.0, 0), |(sum, count), (_, pinball)| (sum + pinball, count + 1));
        let mean = sum / f64::from(count);
        (self.absolute_actual > 0.0).then(|| 2.0 * mean / self.absolute_actual)
    }

    /// Share of the points within the central 80 % interval; 0.8 is right.
    pub fn coverage(&self) -> Option<f64> {
        (self.points > 0).then(|| self.covered as f64 / self.points as f64)
    }

    /// Share of the points within the central 90 % interval; 0.9 is right.
    pub fn coverage_90(&self) -> Option<f64> {
        (self.points > 0).then(|| self.covered_90 as f64 / self.points as f64)
    }

    /// Mean absolute error of the median, in the series' unit.
    pub fn mae(&self) -> Option<f64> {
        (self.points > 0).then(|| self.absolute_error / self.points as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinball_weighs_both_sides_by_the_level() {
        for (actual, quantile, level, loss) in
            [(10.0, 8.0, 0.9, 1.8), (8.0, 10.0, 0.9, 0.2), (10.0, 8.0, 0.5, 1.0), (5.0, 5.0, 0.1, 0.0)]
        {
            assert!((pinball(actual, quantile, level) - loss).abs() < 1e-12);
        }
    }

    #[test]
    fn figures_agree_with_a_calculation_by_hand() {
        let mut sums = Sums::default();
        sums.add(10.0, &[8.0; LEVELS.len()]);
        sums.add(-10.0, &[-10.0; LEVELS.len()]);
        assert_eq!(sums.nd(), Some(0.1));
        // Pinball of the first point is 2 × level; the mean of the deciles is 0.5.
        assert!((sums.wql().unwrap() - 2.0 * 1.0 / 20.0).abs() < 1e-12);
        assert_eq!((sums.coverage(), sums.coverage_90()), (Some(0.5), Some(0.5)));
        assert_eq!(sums.mae(), Some(1.0));
        let mut twice = sums.clone();
        twice.merge(&sums);
        assert_eq!((twice.nd(), twice.points), (sums.nd(), 4));
    }

    #[test]
    fn nothing_scored_gives_no_figure() {
        let sums = Sums::default();
        assert_eq!((sums.nd(), sums.wql(), sums.coverage(), sums.mae()), (None, None, None, None));
    }

    #[test]
    fn seasonal_scale_skips_missing_values() {
        assert_eq!(seasonal_scale(&[1.0, 2.0, 3.0, 5.0, f32::NAN, 7.0], 2), Some((2.0 + 3.0 + 2.0) / 3.0));
        assert_eq!(seasonal_scale(&[1.0, 2.0, 1.0, 2.0], 2), None, "repeats itself");
        assert_eq!(seasonal_scale(&[1.0], 2), None);
    }

    #[test]
    fn the_mean_of_a_symmetric_distribution_is_its_median() {
        assert!((mean_of_quantiles(&LEVELS.map(|level| 10.0 * level)) - 5.0).abs() < 1e-12);
        assert!((mean_of_quantiles(&[3.0; LEVELS.len()]) - 3.0).abs() < 1e-12);
    }

    #[test]
    fn the_mean_of_a_uniform_distribution_is_found_at_any_levels() {
        for levels in [&[0.5][..], &[0.25, 0.5], &[0.025, 0.05, 0.1, 0.5, 0.95], &[0.1, 0.9]] {
            let quantiles: Vec<f64> = levels.iter().map(|l| 4.0 * l).collect();
            assert!((mean_at_levels(levels, &quantiles) - 2.0).abs() < 1e-12, "{levels:?}");
        }
        assert!(mean_at_levels(&[], &[]).is_nan());
    }

    #[test]
    fn levels_ascend_between_0_and_1_and_have_a_median() {
        for (levels, expected) in [
            (&[0.1, 0.5, 0.9][..], Ok(1)),
            (&[], Err(LevelsError::Empty)),
            (&[0.0, 0.5], Err(LevelsError::OutOfRange(0.0))),
            (&[0.5, 1.0], Err(LevelsError::OutOfRange(1.0))),
            (&[0.5, 0.5], Err(LevelsError::NotAscending(0.5))),
            (&[0.1, 0.9], Err(LevelsError::NoMedian)),
        ] {
            assert_eq!(check_levels(levels), expected, "{levels:?}");
        }
        assert!(matches!(check_levels(&[f64::NAN]), Err(LevelsError::OutOfRange(_))));
        assert!(check_levels(&LEVELS).is_ok());
        assert_eq!(LEVELS.iter().filter(|l| is_decile(**l)).count(), 9);
        assert!(!is_decile(0.05) && !is_decile(0.975) && is_decile(0.1 + 0.2));
    }

    #[test]
    fn losses_of_one_point_agree_with_a_calculation_by_hand() {
        for (actual, forecast, expected) in
            [(1.0, 3.0, 100.0), (0.0, 0.0, 0.0), (0.0, 5.0, 200.0), (-1.0, 1.0, 200.0), (1e308, 1e308, 0.0)]
        {
            assert!((smape_term(actual, forecast) - expected).abs() < 1e-9, "{actual} {forecast}");
        }
        for (actual, expected) in [(2.0, 2.0), (1.0, 2.0), (3.0, 2.0), (0.0, 22.0), (3.5, 12.0)] {
            assert!((interval_score(actual, 1.0, 3.0, 0.1) - expected).abs() < 1e-12, "{actual}");
        }
        assert_eq!(owa(8.0, 1.0, 16.0, 4.0), Some(0.375));
        assert_eq!(owa(8.0, 1.0, 0.0, 4.0), None);
    }

    #[test]
    fn crps_of_many_levels_is_that_of_the_distribution() {
        // Uniform on [0, 1] at y: the integral of (F(x) − 1{x ≥ y})² is y³/3 + (1 − y)³/3.
        let levels: Vec<f64> = (1..1000).map(|i| f64::from(i) / 1000.0).collect();
        for actual in [0.0, 0.3, 1.0_f64] {
            let expected = (actual.powi(3) + (1.0 - actual).powi(3)) / 3.0;
            assert!((crps(actual, &levels, &levels) - expected).abs() < 1e-5, "{actual}");
        }
        // A forecast without spread is scored by its absolute error, but for the tails that the levels leave out.
        assert!((crps(7.0, &levels, &vec![5.0; 999]) - 2.0 * 0.999).abs() < 1e-9);
        assert_eq!(crps_weights(&[0.2, 0.5]), [0.25, 0.4]);
    }

    #[test]
    fn empirical_quantiles_interpolate() {
        for (level, value) in [(0.0, 1.0), (0.5, 2.5), (1.0, 4.0), (0.1, 1.3)] {
            assert!((empirical_quantile(&[1.0, 2.0, 3.0, 4.0], level) - value).abs() < 1e-12, "{level}");
        }
    }
}
