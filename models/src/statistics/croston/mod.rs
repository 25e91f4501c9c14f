//! Intermittent demand: most values are zero, some are not.
//!
//! * Croston (1972) smooths the size of a demand and the interval between two of them; its mean is their ratio.
//! * SBA (Syntetos and Boylan 2005) takes out that ratio's bias: times 1 − α/2.
//! * TSB (Teunter, Syntetos and Babai 2011) smooths the probability of a demand with every step, so that it fades when
//!   demand ends.
//!
//! Smoothing parameters are those of a small grid with the smallest squared one-step errors.
//!
//! The quantiles of a step are those of a compound Bernoulli distribution: no demand with probability 1 − π, else one
//! of the past sizes, scaled to their smoothed mean. They are exact (nothing is drawn) and the same at every step,
//! since none of the models expects a change.

mod demands;

use serde::{Deserialize, Serialize};

use super::quantiles::sample_quantile;
use super::{Predicted, Prepared, Request, StatisticsError};
use demands::Demands;

/// Mean interval between demands from which a series is intermittent (Syntetos, Boylan and Croston 2005).
const INTERVAL_MAX: f64 = 1.32;
/// Squared coefficient of variation of the sizes from which they are erratic (as above).
const VARIATION_MAX: f64 = 0.49;
/// Smoothing parameters that are tried.
const GRID: [f64; 6] = [0.02, 0.05, 0.1, 0.15, 0.2, 0.3];
/// Most recent demands whose sizes make the distribution.
const SIZES_MAX: usize = 1_000;

/// Kinds of demand by how often and how evenly it comes (Syntetos, Boylan and Croston 2005).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Demand {
    /// Often and even.
    Smooth,
    /// Often and uneven.
    Erratic,
    /// Seldom and even.
    Intermittent,
    /// Seldom and uneven.
    Lumpy,
}

/// Kind of the demand in `values` (missing ones are left out); `None` without any demand.
pub fn classify(values: &[f64]) -> Option<Demand> {
    let known: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    let largest = known.iter().fold(0.0_f64, |largest, v| largest.max(v.abs()));
    if largest == 0.0 {
        return None;
    }
    // Relative to the largest, so that squares stay finite.
    let sizes: Vec<f64> = known.iter().filter(|v| **v != 0.0).map(|v| v / largest).collect();
    let count = sizes.len() as f64;
    let interval = known.len() as f64 / count;
    let mean = sizes.iter().sum::<f64>() / count;
    let variance = sizes.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / count;
    let even = variance <= VARIATION_MAX * mean * mean;
    Some(match (interval <= INTERVAL_MAX, even) {
        (true, true) => Demand::Smooth,
        (true, false) => Demand::Erratic,
        (false, true) => Demand::Intermittent,
        (false, false) => Demand::Lumpy,
    })
}

/// Whether demand comes so seldom that these models are meant for it: intermittent or lumpy.
pub fn is_intermittent(values: &[f64]) -> bool {
    matches!(classify(values), Some(Demand::Intermittent | Demand::Lumpy))
}

/// The models of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// Croston's own.
    Croston,
    /// Syntetos and Boylan's approximation.
    Sba,
    /// Teunter's, Syntetos's and Babai's.
    Tsb,
}

/// Smoothed demand after the last value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Smoothed {
    /// Size of a demand, in the unit of the series.
    pub size: f64,
    /// Probability of a demand in a step.
    pub probability: f64,
}

impl Variant {
    /// Name in results and errors.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Croston => "croston",
            Variant::Sba => "sba",
            Variant::Tsb => "tsb",
        }
    }

    /// Forecast of one series.
    ///
    /// # Errors
    ///
    /// [`StatisticsError::NegativeDemand`]; [`StatisticsError::TooShort`] without a value. A series of zeros is
    /// forecast as zero.
    pub fn forecast(self, request: &Request) -> Result<Predicted, StatisticsError> {
        let prepared = Prepared::new(self.name(), request, 1)?;
        if let Some(step) = prepared.values.iter().position(|v| *v < 0.0) {
            let value = request.values[step];
            return Err(StatisticsError::NegativeDemand { model: self.name(), step, value });
        }
        let smoothed = self.best(&Demands::of(&prepared.values));
        let mut sizes: Vec<f64> = prepared.values.iter().rev().copied().filter(|v| *v > 0.0).take(SIZES_MAX).collect();
        let mean_size = sizes.iter().sum::<f64>() / sizes.len().max(1) as f64;
        let stretch = if mean_size > 0.0 { smoothed.size / mean_size } else { 0.0 };
        sizes.iter_mut().for_each(|s| *s *= stretch);
        sizes.sort_unstable_by(f64::total_cmp);
        let none = 1.0 - smoothed.probability;
        let quantile = |level: &f64| {
            if *level <= none || sizes.is_empty() {
                0.0
            } else {
                sample_quantile(&sizes, (level - none) / smoothed.probability)
            }
        };
        let quantiles: Vec<f64> = request.levels.iter().map(quantile).collect();
        let mean = smoothed.size * smoothed.probability;
        let steps = request.horizon;
        prepared.finish(self.name(), vec![mean; steps], vec![quantiles; steps])
    }

    /// The smoothing with the smallest squared one-step errors over [`GRID`]; for TSB over pairs of it.
    fn best(self, demands: &Demands) -> Smoothed {
        let none = (f64::INFINITY, Smoothed { size: 0.0, probability: 0.0 });
        let better = |best: (f64, Smoothed), found: (f64, Smoothed)| if found.0 < best.0 { found } else { best };
        let best = match self {
            Variant::Croston => demands.by_intervals([1.0; GRID.len()]).into_iter().fold(none, better),
            Variant::Sba => demands.by_intervals(unbiased()).into_iter().fold(none, better),
            Variant::Tsb => demands.by_occurrences().into_iter().flatten().fold(none, better),
        };
        best.1
    }
}

/// What takes out the bias of Croston's ratio, for each parameter of the grid.
fn unbiased() -> [f64; GRID.len()] {
    GRID.map(|alpha| 1.0 - alpha / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::quantiles::Randomness;
    use crate::statistics::testing::{coverage, request};

    const VARIANTS: [Variant; 3] = [Variant::Croston, Variant::Sba, Variant::Tsb];

    /// Demand with probability 0.3, sizes uniform in 5 … 15.
    fn simulated(seed: u64, length: usize) -> Vec<f64> {
        let mut randomness = Randomness::new(seed);
        let mut draw = || {
            let demand = randomness.uniform() < 0.3;
            let size = 5.0 + 10.0 * randomness.uniform();
            if demand { size } else { 0.0 }
        };
        (0..length).map(|_| draw()).collect()
    }

    /// The smoothing as it is defined, step by step: the sum of squared errors and the state after the last value.
    fn by_steps(variant: Variant, values: &[f64], of_size: f64, of_occurrence: f64) -> (f64, Smoothed) {
        let demands = values.iter().filter(|v| **v > 0.0).count() as f64;
        let mut size = values.iter().copied().find(|v| *v > 0.0).unwrap();
        let mut interval = values.len() as f64 / demands;
        let mut probability = 1.0 / interval;
        let unbiased = if variant == Variant::Sba { 1.0 - of_occurrence / 2.0 } else { 1.0 };
        let (mut since, mut squares) = (1.0, 0.0);
        for value in values {
            squares += (value - size * probability * unbiased).powi(2);
            if *value > 0.0 {
                size += of_size * (value - size);
            }
            if variant == Variant::Tsb {
                probability += of_occurrence * (f64::from(*value > 0.0) - probability);
            } else if *value > 0.0 {
                interval += of_occurrence * (since - interval);
                probability = (1.0 / interval).min(1.0);
                since = 1.0;
            } else {
                since += 1.0;
            }
        }
        (squares, Smoothed { size, probability: probability * unbiased })
    }

    #[test]
    fn steps_agree_with_a_calculation_by_hand() {
        // Start: size 4, interval 6 / 2. Demands 4 after 2 steps and 8 after 3 more.
        let values = [0.0, 4.0, 0.0, 0.0, 8.0, 0.0];
        let (size, interval) = (4.0 + 0.5 * 4.0, 3.0 + 0.5 * (2.0 - 3.0));
        let interval = interval + 0.5 * (3.0 - interval);
        let (_, croston) = by_steps(Variant::Croston, &values, 0.5, 0.5);
        assert!((croston.size - size).abs() < 1e-12 && (croston.probability - 1.0 / interval).abs() < 1e-12);
        let (_, sba) = by_steps(Variant::Sba, &values, 0.5, 0.5);
        assert!((sba.probability - 0.75 / interval).abs() < 1e-12);
        let (_, tsb) = by_steps(Variant::Tsb, &values, 0.5, 0.5);
        let occurred = [0.0, 1.0, 0.0, 0.0, 1.0, 0.0];
        let probability = occurred.iter().fold(1.0 / 3.0, |p, o| p + 0.5 * (o - p));
        assert!((tsb.probability - probability).abs() < 1e-12);
    }

    #[test]
    fn what_is_found_from_demand_to_demand_is_what_steps_give() {
        for seed in 0..20 {
            let mut values = simulated(seed, 300);
            values.extend(vec![0.0; seed as usize]);
            let mut gaps = values.clone();
            gaps.insert(150, f64::NAN);
            let demands = Demands::of(&gaps);
            let same = |found: (f64, Smoothed), expected: (f64, Smoothed)| {
                let near = |a: f64, b: f64| assert!((a - b).abs() <= 1e-9 * b.abs(), "{seed}: {found:?} {expected:?}");
                near(found.0, expected.0);
                near(found.1.size, expected.1.size);
                near(found.1.probability, expected.1.probability);
            };
            let (croston, sba) = (demands.by_intervals([1.0; GRID.len()]), demands.by_intervals(unbiased()));
            let of_values: f64 = values.iter().map(|value| value * value).sum();
            for (i, tsb) in demands.by_occurrences().into_iter().enumerate() {
                same(croston[i], by_steps(Variant::Croston, &values, GRID[i], GRID[i]));
                same(sba[i], by_steps(Variant::Sba, &values, GRID[i], GRID[i]));
                for ((squares, smoothed), beta) in tsb.into_iter().zip(GRID) {
                    same((of_values + squares, smoothed), by_steps(Variant::Tsb, &values, GRID[i], beta));
                }
            }
        }
    }

    #[test]
    fn rate_and_distribution_of_a_simulated_demand_are_found() {
        for variant in VARIANTS {
            let mean =
                (0..40).map(|seed| variant.forecast(&request(&simulated(seed, 400), &[], 1)).unwrap().mean[0] / 40.0);
            let mean = mean.sum::<f64>();
            assert!((mean - 3.0).abs() < 0.35, "{variant:?} {mean}");
            // 0.7 at zero, the rest uniform: 0.9 is two thirds through the sizes.
            let found = variant.forecast(&request(&simulated(1, 4000), &[], 2)).unwrap();
            assert_eq!((found.quantiles[0][0], found.quantiles[1][1]), (0.0, 0.0));
            assert!((found.quantiles[0][2] - 11.7).abs() < 1.8, "{variant:?} {found:?}");
            let inside = coverage(200, 300, 5, |seed| simulated(seed, 305), |r| variant.forecast(r));
            assert!((inside - 0.9).abs() < 0.05, "zero and all below the quantile at 0.9: {variant:?} {inside}");
        }
    }

    #[test]
    fn demand_that_ended_fades_only_from_tsb() {
        let mut values = simulated(4, 200);
        values.extend([0.0; 200]);
        let mean = |variant: Variant| variant.forecast(&request(&values, &[], 1)).unwrap().mean[0];
        assert!(mean(Variant::Tsb) < 0.2 && mean(Variant::Croston) > 1.0);
    }

    #[test]
    fn kinds_of_demand() {
        for (values, expected) in [
            (vec![5.0, 6.0, 5.0, 4.0], Some(Demand::Smooth)),
            (vec![1.0, 90.0, 1.0, 1.0], Some(Demand::Erratic)),
            (vec![0.0, 5.0, 0.0, 5.0], Some(Demand::Intermittent)),
            (vec![0.0, 1.0, 0.0, 90.0, 0.0, 1.0], Some(Demand::Lumpy)),
            (vec![0.0, f64::NAN], None),
            (vec![], None),
            (vec![f64::NAN, 5.0, f64::NAN, 5.0], Some(Demand::Smooth)),
        ] {
            assert_eq!(classify(&values), expected, "{values:?}");
            let seldom = matches!(expected, Some(Demand::Intermittent | Demand::Lumpy));
            assert_eq!(is_intermittent(&values), seldom);
        }
    }

    #[test]
    fn zeros_negative_values_and_demand_at_every_step() {
        for variant in VARIANTS {
            let zeros = variant.forecast(&request(&[0.0; 9], &[], 2)).unwrap();
            assert_eq!((zeros.mean, zeros.quantiles[0].clone()), (vec![0.0; 2], vec![0.0; 3]));
            let error = StatisticsError::NegativeDemand { model: variant.name(), step: 1, value: -1.0 };
            assert_eq!(variant.forecast(&request(&[2.0, -1.0], &[], 1)), Err(error));
            let error = StatisticsError::TooShort { model: variant.name(), needed: 1, present: 0 };
            assert_eq!(variant.forecast(&request(&[f64::NAN], &[], 1)), Err(error));
        }
        let always = Variant::Croston.forecast(&request(&[4.0; 9], &[], 1)).unwrap();
        assert!((always.mean[0] - 4.0).abs() < 1e-12 && (always.quantiles[0][0] - 4.0).abs() < 1e-12);
    }
}
