//! Leaf values: for a quantile level the quantile of the residuals in the leaf, for the mean their mean.
//!
//! A quantile is not found by a gradient step but exactly, as in Friedman's LAD-TreeBoost (2001). Of n residuals it is
//! the one at place τ (n + 1), between two of them by linear interpolation (type 6 of Hyndman and Fan 1996, due to
//! Weibull): a new observation is below it with probability τ, whatever the distribution, while other definitions make
//! intervals too narrow in small leaves.

use std::ops::Range;

use rayon::prelude::*;

use super::params::Objective;

/// The quantile at `level` of `values`, which are put in another order. NaN without values.
pub(super) fn quantile(values: &mut [f32], level: f64) -> f32 {
    if values.is_empty() {
        return f32::NAN;
    }
    let last = values.len() - 1;
    let place = (level * (last + 2) as f64 - 1.0).clamp(0.0, last as f64);
    let below = place.floor() as usize;
    let share = place - below as f64;
    let (_, low, above) = values.select_nth_unstable_by(below, f32::total_cmp);
    let low = f64::from(*low);
    if share == 0.0 {
        return low as f32;
    }
    let high = above.iter().copied().min_by(f32::total_cmp).map_or(low, f64::from);
    (low + (high - low) * share) as f32
}

/// The same with a weight to each value: `values` are (value, weight) with weights of at least 0, and equal weights
/// give the same as [`quantile`]. A value's place is the weight up to and with it; the place sought is τ (W + W / n),
/// W the sum of the n weights above 0; of equal values the lightest comes first. NaN when there are none.
pub(super) fn weighted_quantile(values: &mut [(f32, f32)], level: f64) -> f32 {
    let total: f64 = values.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let count = values.iter().filter(|(_, weight)| *weight > 0.0).count();
    if count == 0 {
        return f32::NAN;
    }
    let target = (level * (total + total / count as f64)).min(total * (1.0 - 1e-12));
    // Halve the candidates until one is left: the first value whose place is not before the target.
    let (mut rest, mut before, mut previous) = (values, 0.0, None::<f32>);
    while rest.len() > 1 {
        let half = rest.len() / 2;
        rest.select_nth_unstable_by(half, |a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let (low, high) = rest.split_at_mut(half);
        let weight: f64 = low.iter().map(|(_, weight)| f64::from(*weight)).sum();
        if before + weight >= target {
            rest = low;
        } else {
            before += weight;
            let last = low.iter().filter(|(_, weight)| *weight > 0.0).map(|(value, _)| *value).max_by(f32::total_cmp);
            previous = last.or(previous);
            rest = high;
        }
    }
    let Some((value, weight)) = rest.first().copied() else { return f32::NAN };
    match previous {
        Some(previous) if weight > 0.0 => {
            let share = ((target - before) / f64::from(weight)).clamp(0.0, 1.0);
            (f64::from(previous) + (f64::from(value) - f64::from(previous)) * share) as f32
        }
        _ => value,
    }
}

/// Mean of (value, weight) with weights of at least 0; NaN when all are 0.
fn weighted_mean(values: impl Iterator<Item = (f32, f32)>) -> f32 {
    let (mut sum, mut weights) = (0.0, 0.0);
    for (value, weight) in values {
        sum += f64::from(value) * f64::from(weight);
        weights += f64::from(weight);
    }
    (sum / weights) as f32
}

/// Targets and weights, by row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Targets<'a> {
    pub y: &'a [f32],
    pub weights: Option<&'a [f32]>,
}

impl Targets<'_> {
    /// Value of the residuals of `rows` for one output: the level's quantile, or the mean. NaN when no row has weight.
    pub fn value(
        &self,
        objective: &Objective,
        output: usize,
        predictions: &[f32],
        rows: impl Iterator<Item = u32>,
    ) -> f32 {
        let outputs = objective.outputs();
        let residual = |row: usize| self.y[row] - predictions.get(row * outputs + output).copied().unwrap_or(0.0);
        match (objective, self.weights) {
            (Objective::Squared, weights) => weighted_mean(rows.map(|row| {
                let row = row as usize;
                (residual(row), weights.map_or(1.0, |w| w[row]))
            })),
            (Objective::Quantiles(levels), None) => {
                let mut residuals: Vec<f32> = rows.map(|row| residual(row as usize)).collect();
                quantile(&mut residuals, levels[output])
            }
            (Objective::Quantiles(levels), Some(weights)) => {
                let mut residuals: Vec<(f32, f32)> =
                    rows.map(|row| (residual(row as usize), weights[row as usize])).collect();
                weighted_quantile(&mut residuals, levels[output])
            }
        }
    }

    /// Values of all leaves (leaves × outputs), each shrunken by n / (n + `l2`), n being the leaf's rows. A leaf without
    /// rows of weight gets 0.
    pub fn leaf_values(
        &self,
        objective: &Objective,
        predictions: &[f32],
        rows: &[u32],
        leaves: &[Range<usize>],
        l2: f64,
    ) -> Vec<f32> {
        let outputs = objective.outputs();
        (0..leaves.len() * outputs)
            .into_par_iter()
            .map(|i| {
                let of_leaf = &rows[leaves[i / outputs].clone()];
                if !of_leaf.iter().any(|row| self.weights.is_none_or(|w| w[*row as usize] > 0.0)) {
                    return 0.0;
                }
                let value = self.value(objective, i % outputs, predictions, of_leaf.iter().copied());
                let count = of_leaf.len() as f64;
                (f64::from(value) * count / (count + l2)) as f32
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By sorting everything.
    fn by_sorting(values: &[(f32, f32)], level: f64) -> f64 {
        let mut values: Vec<(f64, f64)> =
            values.iter().filter(|(_, w)| *w > 0.0).map(|(v, w)| (f64::from(*v), f64::from(*w))).collect();
        values.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let total: f64 = values.iter().map(|v| v.1).sum();
        let target = level * total * (1.0 + 1.0 / values.len() as f64);
        let mut place = 0.0;
        for (i, (value, weight)) in values.iter().enumerate() {
            if place + weight >= target {
                let previous = if i == 0 { *value } else { values[i - 1].0 };
                return previous + (value - previous) * (target - place) / weight;
            }
            place += weight;
        }
        values.last().unwrap().0
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_a_sorted_list(
            values in prop::collection::vec(-50_i16..50, 1..60),
            weights in prop::collection::vec(0_u8..4, 60),
            level in 0.01_f64..0.99,
        ) {
            let values: Vec<f32> = values.into_iter().map(f32::from).collect();
            let equal: Vec<(f32, f32)> = values.iter().map(|v| (*v, 2.0)).collect();
            let expected = by_sorting(&equal, level);
            prop_assert!((f64::from(quantile(&mut values.clone(), level)) - expected).abs() < 1e-3);
            prop_assert!((f64::from(weighted_quantile(&mut equal.clone(), level)) - expected).abs() < 1e-3);
            let mut weighted: Vec<(f32, f32)> =
                values.iter().zip(&weights).map(|(v, w)| (*v, f32::from(*w))).collect();
            if weighted.iter().any(|(_, w)| *w > 0.0) {
                let expected = by_sorting(&weighted, level);
                let found = f64::from(weighted_quantile(&mut weighted, level));
                prop_assert!((found - expected).abs() < 1e-3, "{found} {expected}");
            }
        }
    }

    #[test]
    fn quantiles_by_hand() {
        for (values, level, expected) in [
            (vec![4.0], 0.9, 4.0),
            (vec![1.0, 2.0, 3.0], 0.5, 2.0),
            (vec![9.0, 1.0, 5.0], 0.01, 1.0),
            ((1..20).map(|i| i as f32).rev().collect(), 0.1, 2.0),
            ((1..20).map(|i| i as f32).collect(), 0.975, 19.0),
            (vec![1.0, 2.0], 0.5, 1.5),
        ] {
            let mut pairs: Vec<(f32, f32)> = values.iter().map(|v| (*v, 1.0)).collect();
            assert_eq!(quantile(&mut values.clone(), level), expected, "{values:?} {level}");
            assert!((weighted_quantile(&mut pairs, level) - expected).abs() < 1e-6, "{values:?} {level}");
        }
        assert!(quantile(&mut [], 0.5).is_nan() && weighted_quantile(&mut [(1.0, 0.0)], 0.5).is_nan());
    }

    #[test]
    fn leaves_shrink_with_few_rows() {
        let targets = Targets { y: &[1.0, 3.0, 10.0, 10.0], weights: None };
        let rows = [0, 1, 2, 3];
        let values = |objective: &Objective, l2| targets.leaf_values(objective, &[0.0; 4], &rows, &[0..2, 2..4], l2);
        assert_eq!(values(&Objective::Squared, 0.0), vec![2.0, 10.0]);
        assert_eq!(values(&Objective::Quantiles(vec![0.5]), 2.0), vec![1.0, 5.0]);
        let weightless = Targets { weights: Some(&[0.0, 0.0, 1.0, 1.0]), ..targets };
        assert_eq!(weightless.leaf_values(&Objective::Squared, &[0.0; 4], &rows, &[0..2, 2..4], 0.0), vec![0.0, 10.0]);
    }
}
