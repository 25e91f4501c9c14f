//! Rows as the network meets them: features of one size, nothing missing, nothing far from what was seen.

use serde::{Deserialize, Serialize};

/// Standard deviations from the mean beyond which a feature is no further away: networks lead anywhere out there.
const FAR: f32 = 4.0;
/// Part of the range of all targets by which a prediction may lie outside of it.
const BEYOND: f32 = 0.5;

/// Sizes of what was trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Scaled {
    // By feature: mean, and standard deviation.
    moments: Vec<(f32, f32)>,
    // That predictions do not leave.
    range: (f32, f32),
}

impl Scaled {
    /// Of rows of so many features, and their targets.
    pub fn of(features: &[f32], width: usize, targets: &[f32]) -> Scaled {
        let moments = |feature: usize| {
            let column = features.iter().skip(feature).step_by(width);
            let known = || column.clone().filter(|value| value.is_finite()).map(|value| f64::from(*value));
            let count = known().count().max(1) as f64;
            let mean = known().sum::<f64>() / count;
            let spread = (known().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
            // What never changes says nothing, and must not when it does.
            let varies = spread > 1e-6 * mean.abs().max(1e-3);
            (mean as f32, if varies { spread as f32 } else { f32::INFINITY })
        };
        let bounds =
            targets.iter().fold((f32::MAX, f32::MIN), |(low, high), value| (low.min(*value), high.max(*value)));
        let beyond = BEYOND * (bounds.1 - bounds.0);
        Scaled { moments: (0..width).map(moments).collect(), range: (bounds.0 - beyond, bounds.1 + beyond) }
    }

    /// Features of a row.
    pub fn width(&self) -> usize {
        self.moments.len()
    }

    /// Scales rows; what is missing becomes the mean.
    pub fn apply(&self, rows: &mut [f32]) {
        for row in rows.chunks_exact_mut(self.width().max(1)) {
            for (value, (mean, spread)) in row.iter_mut().zip(&self.moments) {
                let scaled = (*value - mean) / spread;
                *value = if scaled.is_nan() { 0.0 } else { scaled.clamp(-FAR, FAR) };
            }
        }
    }

    /// A prediction, not too far outside of all that was seen. What is not a number stays none.
    pub fn kept_in_reach(&self, quantile: f64) -> f64 {
        let (low, high) = self.range;
        if quantile < f64::from(low) {
            f64::from(low)
        } else if quantile > f64::from(high) {
            f64::from(high)
        } else {
            quantile
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_of_one_size_and_what_is_missing_or_new_says_nothing() {
        let mut rows = vec![1.0, 5.0, f32::NAN, 3.0, 5.0, 7.0, 2.0, f32::NAN, 9.0];
        let scaled = Scaled::of(&rows, 3, &[-1.0, 0.0, 1.0]);
        scaled.apply(&mut rows);
        let size = 1.5_f32.sqrt();
        let expected = [-size, 0.0, 0.0, size, 0.0, -1.0, 0.0, 0.0, 1.0];
        assert!(rows.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6), "{rows:?}");
        let mut other = [1e9, 6.0, f32::INFINITY];
        scaled.apply(&mut other);
        assert_eq!(other, [FAR, 0.0, FAR]);
        assert_eq!([-9.0, 0.3, 9.0].map(|quantile| scaled.kept_in_reach(quantile)), [-2.0, 0.3, 2.0]);
        assert!(scaled.kept_in_reach(f64::NAN).is_nan());
    }
}
