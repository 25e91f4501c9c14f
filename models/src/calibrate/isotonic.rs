//! Quantiles that ascend and stay above what is possible.

use serde::{Deserialize, Serialize};

use super::CalibrateError;

/// How quantiles that cross are put in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ordering {
    /// Sorted (Chernozhukov, Fernández-Val and Galichon 2010): never farther from the true quantiles than before, and
    /// keeps every value. Prefer it unless one bad quantile should not spread to its neighbours' places.
    #[default]
    Rearrange,
    /// Neighbours that cross become their mean: the ascending quantiles nearest by squared distance, found by pooling
    /// adjacent violators (Ayer et al. 1955).
    Isotonic,
}

/// What is done to quantiles before they are published.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Repair {
    /// Order of quantiles that cross.
    pub ordering: Ordering,
    /// Least value that is possible, in the unit of the series: 0 for loads that cannot be negative.
    pub floor: Option<f64>,
}

impl Repair {
    /// Makes `quantiles` ascend, and lifts those below the floor to it. Returns whether anything changed.
    ///
    /// Fails for a quantile that is not finite; `quantiles` are as before then.
    pub fn apply(&self, quantiles: &mut [f64]) -> Result<bool, CalibrateError> {
        if quantiles.iter().any(|q| !q.is_finite()) {
            return Err(CalibrateError::NotFinite);
        }
        let crossed = quantiles.windows(2).any(|pair| pair[0] > pair[1]);
        if crossed {
            match self.ordering {
                Ordering::Rearrange => quantiles.sort_unstable_by(f64::total_cmp),
                Ordering::Isotonic => isotonic(quantiles),
            }
        }
        let mut changed = crossed;
        if let Some(floor) = self.floor.filter(|floor| floor.is_finite()) {
            for quantile in quantiles.iter_mut().filter(|q| **q < floor) {
                *quantile = floor;
                changed = true;
            }
        }
        Ok(changed)
    }
}

/// Replaces `values` by the ascending ones with the least sum of squared differences. Takes time linear in their number.
/// Values have to be finite.
pub fn isotonic(values: &mut [f64]) {
    // Blocks of values that have become one mean, as (mean, count). The mean is updated rather than the sum, which
    // could overflow.
    let mut blocks: Vec<(f64, usize)> = Vec::with_capacity(values.len());
    for value in values.iter() {
        let mut block = (*value, 1);
        while let Some((mean, count)) = blocks.pop_if(|before| before.0 > block.0) {
            let total = count + block.1;
            let share = block.1 as f64 / total as f64;
            block = (mean * (1.0 - share) + block.0 * share, total);
        }
        blocks.push(block);
    }
    let pooled = blocks.into_iter().flat_map(|(mean, count)| std::iter::repeat_n(mean, count));
    values.iter_mut().zip(pooled).for_each(|(value, mean)| *value = mean);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_that_cross_become_their_mean() {
        for (values, expected) in [
            (vec![], vec![]),
            (vec![1.0], vec![1.0]),
            (vec![1.0, 2.0, 2.0], vec![1.0, 2.0, 2.0]),
            (vec![3.0, 1.0], vec![2.0, 2.0]),
            (vec![1.0, 4.0, 2.0, 3.0, 9.0], vec![1.0, 3.0, 3.0, 3.0, 9.0]),
            (vec![5.0, 4.0, 3.0], vec![4.0; 3]),
            (vec![2.0, 1.0, 0.0, 10.0, 8.0], vec![1.0, 1.0, 1.0, 9.0, 9.0]),
        ] {
            let mut found = values.clone();
            isotonic(&mut found);
            assert!(
                found.iter().zip(&expected).all(|(a, b): (&f64, &f64)| (a - b).abs() < 1e-12),
                "{values:?}: {found:?}"
            );
        }
        let mut huge = [f64::MAX, -f64::MAX];
        isotonic(&mut huge);
        assert_eq!(huge, [0.0, 0.0]);
    }

    #[test]
    fn pooling_finds_the_nearest_ascending_values() {
        // The minimum over blocks of consecutive values: max over starts of min over ends of the mean (Barlow 1972).
        for seed in 0..200_u64 {
            let values: Vec<f64> = (0..7).map(|i| ((seed * 31 + i * 17 + seed * i * 13) % 23) as f64).collect();
            let mean = |a: usize, b: usize| values[a..=b].iter().sum::<f64>() / (b - a + 1) as f64;
            let mut found = values.clone();
            isotonic(&mut found);
            for (i, found) in found.iter().enumerate() {
                let lowest = |a: usize| (i..7).map(|b| mean(a, b)).fold(f64::INFINITY, f64::min);
                let expected = (0..=i).map(lowest).fold(f64::NEG_INFINITY, f64::max);
                assert!((found - expected).abs() < 1e-9, "{values:?} at {i}");
            }
        }
    }

    #[test]
    fn quantiles_are_put_in_order_and_lifted_to_the_floor() {
        let sorted = Repair::default();
        let pooled = Repair { ordering: Ordering::Isotonic, floor: None };
        let floored = Repair { floor: Some(0.0), ..sorted };
        for (repair, before, after, changed) in [
            (sorted, [1.0, 3.0, 2.0], [1.0, 2.0, 3.0], true),
            (sorted, [1.0, 1.0, 2.0], [1.0, 1.0, 2.0], false),
            (pooled, [1.0, 3.0, 2.0], [1.0, 2.5, 2.5], true),
            (floored, [-1.0, 0.5, 2.0], [0.0, 0.5, 2.0], true),
            (floored, [2.0, -1.0, -3.0], [0.0, 0.0, 2.0], true),
            (floored, [0.0, 0.5, 2.0], [0.0, 0.5, 2.0], false),
        ] {
            let mut found = before;
            assert_eq!(repair.apply(&mut found), Ok(changed), "{before:?}");
            assert_eq!(found, after);
        }
    }

    #[test]
    fn a_quantile_that_is_not_finite_is_an_error_and_changes_nothing() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut quantiles = [3.0, bad, 1.0];
            assert_eq!(Repair::default().apply(&mut quantiles), Err(CalibrateError::NotFinite));
            assert_eq!((quantiles[0], quantiles[2]), (3.0, 1.0));
        }
    }
}
