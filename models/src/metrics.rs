//! Figures of merit. Definitions follow Hyndman and Koehler (2006) for MASE and Salinas et al. (2020) for ND and the
//! weighted quantile loss.

use meterline_schemas::quantiles::{LEVELS, MEDIAN};

/// Quantile (pinball) loss of the forecast `quantile` at `level` for `actual`, in the unit of both.
pub fn pinball(actual: f64, quantile: f64, level: f64) -> f64 {
    let error = actual - quantile;
    if error >= 0.0 { level * error } else { (level - 1.0) * error }
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

/// Expected value of a distribution given by its deciles: the trapezoid rule over the levels, the two outer tenths
/// continued at half the slope of their neighbours.
pub fn mean_of_quantiles(quantiles: &[f64; LEVELS.len()]) -> f64 {
    let last = LEVELS.len() - 1;
    let inner: f64 = (0..last).map(|i| (LEVELS[i + 1] - LEVELS[i]) * (quantiles[i] + quantiles[i + 1]) / 2.0).sum();
    let low = quantiles[0] - (quantiles[1] - quantiles[0]) / 2.0;
    let high = quantiles[last] + (quantiles[last] - quantiles[last - 1]) / 2.0;
    inner + LEVELS[0] * low + (1.0 - LEVELS[last]) * high
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
    /// Points within the first and the last quantile, both included.
    pub covered: usize,
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
        if quantiles[0] <= actual && actual <= quantiles[LEVELS.len() - 1] {
            self.covered += 1;
        }
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
    }

    /// Normalised deviation of the median: Σ|y − ŷ| / Σ|y|. `None` when nothing was scored or all actuals are zero.
    pub fn nd(&self) -> Option<f64> {
        (self.absolute_actual > 0.0).then(|| self.absolute_error / self.absolute_actual)
    }

    /// Weighted quantile loss: the mean over [`LEVELS`] of 2 Σ pinball / Σ|y|. `None` as for [`Sums::nd`].
    pub fn wql(&self) -> Option<f64> {
        let mean = self.pinball.iter().sum::<f64>() / LEVELS.len() as f64;
        (self.absolute_actual > 0.0).then(|| 2.0 * mean / self.absolute_actual)
    }

    /// Share of the points within the first and the last quantile; 0.8 is right for deciles.
    pub fn coverage(&self) -> Option<f64> {
        (self.points > 0).then(|| self.covered as f64 / self.points as f64)
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
        sums.add(10.0, &[8.0; 9]);
        sums.add(-10.0, &[-10.0; 9]);
        assert_eq!(sums.nd(), Some(0.1));
        // Pinball of the first point is 2 × level; the mean level is 0.5.
        assert!((sums.wql().unwrap() - 2.0 * 1.0 / 20.0).abs() < 1e-12);
        assert_eq!(sums.coverage(), Some(0.5));
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
        let quantiles = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
        assert!((mean_of_quantiles(&quantiles) - 5.0).abs() < 1e-12);
        let constant = [3.0; 9];
        assert!((mean_of_quantiles(&constant) - 3.0).abs() < 1e-12);
    }

    #[test]
    fn empirical_quantiles_interpolate() {
        for (level, value) in [(0.0, 1.0), (0.5, 2.5), (1.0, 4.0), (0.1, 1.3)] {
            assert!((empirical_quantile(&[1.0, 2.0, 3.0, 4.0], level) - value).abs() < 1e-12, "{level}");
        }
    }
}
