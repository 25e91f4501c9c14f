//! How far quantiles have to move from the median so that as much lies below them as they say.
//!
//! What is corrected on some days is not right on later ones: models err more on days that are further from those they
//! learned from, and averaged quantiles are those of no average. What later days tell about the corrected quantiles of all
//! series together is taken into account last, level by level.

use meterline_schemas::quantiles::{LEVELS, MEDIAN};
use serde::{Deserialize, Serialize};

use crate::metrics::empirical_quantile;

/// Blocks of time that "no stretch" counts for.
const SHRINKAGE: f64 = 3.0;
/// Least and most that is believed.
const BOUNDS: (f64, f64) = (0.6, 3.0);

/// Factors of the distances from the median, by level.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Stretch([f64; LEVELS.len()]);

impl Stretch {
    /// From rows of quantiles and what happened, of so many blocks of time.
    pub fn learn(rows: &[([f64; LEVELS.len()], f64)], blocks: usize) -> Stretch {
        let believed = blocks as f64 / (blocks as f64 + SHRINKAGE);
        let of_level = |level: usize| {
            if level == MEDIAN || rows.is_empty() {
                return 1.0;
            }
            // Distances from the median in those of the quantile: it lies where the share of its level is below 1.
            let ratio = |(quantiles, actual): &([f64; LEVELS.len()], f64)| {
                let (distance, width) = (actual - quantiles[MEDIAN], quantiles[level] - quantiles[MEDIAN]);
                // Without a width no stretch helps; what lies beyond is beyond all.
                let ratio = if width == 0.0 { f64::INFINITY * distance } else { distance / width };
                if ratio.is_nan() { 0.0 } else { ratio.clamp(-1e6, 1e6) }
            };
            let mut ratios: Vec<f64> = rows.iter().map(ratio).collect();
            ratios.sort_unstable_by(f64::total_cmp);
            let needed = empirical_quantile(&ratios, LEVELS[level].max(1.0 - LEVELS[level]));
            // To narrow wrongly breaks a promise; so half of that is enough.
            let weight = if needed < 1.0 { believed / 2.0 } else { believed };
            (1.0 + weight * (needed - 1.0)).clamp(BOUNDS.0, BOUNDS.1)
        };
        Stretch(std::array::from_fn(of_level))
    }

    /// Moves the quantiles of a row.
    pub fn apply(&self, quantiles: &mut [f64; LEVELS.len()]) {
        let median = quantiles[MEDIAN];
        for (quantile, factor) in quantiles.iter_mut().zip(self.0) {
            *quantile = median + factor * (*quantile - median);
        }
        // Levels whose factors differ may have changed places.
        quantiles[MEDIAN..].sort_unstable_by(f64::total_cmp);
        quantiles[..=MEDIAN].sort_unstable_by(f64::total_cmp);
    }

    /// The factor of a level.
    pub fn of(&self, level: usize) -> f64 {
        self.0[level]
    }
}

#[cfg(test)]
mod tests {
    use meterline_schemas::quantiles::CENTRAL_80;

    use super::*;

    // What happens is evenly spread over 0 to 1, below and above the median as the quantiles have it but for a factor.
    fn rows(factor: f64) -> Vec<([f64; LEVELS.len()], f64)> {
        let quantiles = LEVELS.map(|level| 0.5 + factor * (level - 0.5));
        (0..1000).map(|i| (quantiles, (f64::from(i) + 0.5) / 1000.0)).collect()
    }

    #[test]
    fn what_was_too_narrow_is_stretched_to_where_it_should_be() {
        let stretch = Stretch::learn(&rows(0.5), 1000);
        let mut quantiles = rows(0.5)[0].0;
        stretch.apply(&mut quantiles);
        for (level, quantile) in LEVELS.iter().zip(quantiles) {
            assert!((level - quantile).abs() < 0.01, "{level} {quantile}");
        }
    }

    #[test]
    fn few_days_are_believed_less_and_narrowing_by_half() {
        let upper = |factor: f64, blocks: usize| Stretch::learn(&rows(factor), blocks).of(CENTRAL_80.1);
        assert!((upper(0.5, 3) - 1.5).abs() < 0.01);
        assert!((upper(1.25, 1_000_000) - 0.9).abs() < 0.01);
        assert_eq!(Stretch::learn(&[], 9), Stretch([1.0; LEVELS.len()]));
    }

    #[test]
    fn quantiles_stay_in_order() {
        let mut stretch = Stretch([1.0; LEVELS.len()]);
        stretch.0[MEDIAN + 1] = 3.0;
        let mut quantiles = LEVELS;
        stretch.apply(&mut quantiles);
        assert!(quantiles.is_sorted() && quantiles[MEDIAN] == 0.5, "{quantiles:?}");
    }
}
