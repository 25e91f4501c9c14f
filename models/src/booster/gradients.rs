//! What a split is chosen by: per row two gradients and a curvature that speak for all outputs, as integers.
//!
//! With K quantile levels τ and predictions f, a row has the K sub-gradients τₖ − 1{y < fₖ} of the pinball loss. Trees
//! are grown for all levels at once, so the K numbers are projected on two orthonormal directions: all levels move
//! alike (location), and levels move in proportion to τ less the mean level (spread). The two are the first components
//! of Neyman's smooth test (1937) of whether the levels are calibrated; what a split gains is how far each side is from
//! calibrated in location and in spread.
//!
//! The curvature of the pinball loss is the density of the target at the predicted quantile, which the model's own
//! quantiles tell: it is inversely proportional to the distance of the outermost of them. Taken as it is it lets the
//! wildest part of the data have all splits, left out it treats a calm and a wild part alike; its square root was the
//! better compromise on real loads.
//!
//! Gradients are rounded to integers, scaled such that no sum of them overflows an i32 (after Shi et al. 2022,
//! "Quantized training of gradient boosting decision trees", but as fine as 32 bits allow, so nothing is lost). Sums of
//! integers do not depend on their order: histograms are the same for any number of threads, and the difference of two
//! of them is exact.

use rayon::prelude::*;

use super::params::Objective;

/// Sums over rows, or the numbers of one row: two gradients, curvature, rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(align(16))]
pub(super) struct Cell(pub [i32; 4]);

impl Cell {
    #[inline(always)]
    pub fn add(&mut self, other: &Cell) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum = sum.wrapping_add(more);
        }
    }

    #[inline(always)]
    pub fn minus(&self, other: &Cell) -> Cell {
        Cell(std::array::from_fn(|i| self.0[i].wrapping_sub(other.0[i])))
    }

    pub fn rows(&self) -> usize {
        self.0[3].unsigned_abs() as usize
    }
}

/// What one in each of the first three numbers of a [`Cell`] stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Units(pub [f64; 3]);

/// Rows that are summed by one task; fixed, so that sums of floats do not depend on the number of threads.
pub(super) const CHUNK: usize = 8192;
/// No sum of absolute rounded values exceeds this by more than half the number of rows.
const SUM_MAX: f64 = (1_u32 << 30) as f64;
/// Rows whose quantiles are closer together than this share of the whole target's are taken to be this far apart:
/// densities must not grow without limit.
const SPREAD_SHARE_MIN: f32 = 0.02;

/// How gradients follow from targets and predictions.
#[derive(Debug, Clone)]
pub(super) enum Rule {
    Quantiles {
        levels: Vec<f32>,
        /// One direction of the K-dimensional space per row of this array, of length 1; the second is 0 for one level.
        directions: [Vec<f32>; 2],
        /// Least distance of the outermost quantiles; 0 where curvature is not to depend on it.
        spread_min: f32,
    },
    Squared,
}

impl Rule {
    /// `base` are the base values of the outputs: the quantiles of the whole target.
    pub fn new(objective: &Objective, base: &[f32]) -> Rule {
        let Objective::Quantiles(levels) = objective else { return Rule::Squared };
        let count = levels.len() as f64;
        let mean = levels.iter().sum::<f64>() / count;
        let length = levels.iter().map(|level| (level - mean).powi(2)).sum::<f64>().sqrt();
        let location = vec![(1.0 / count.sqrt()) as f32; levels.len()];
        let spread =
            levels.iter().map(|level| if length > 0.0 { ((level - mean) / length) as f32 } else { 0.0 }).collect();
        let spread_min = base.last().zip(base.first()).map_or(0.0, |(last, first)| SPREAD_SHARE_MIN * (last - first));
        Rule::Quantiles {
            levels: levels.iter().map(|level| *level as f32).collect(),
            directions: [location, spread],
            spread_min,
        }
    }

    /// Two descent directions and the curvature of a row of weight 1.
    fn row(&self, y: f32, prediction: &[f32]) -> [f32; 3] {
        match self {
            Rule::Squared => [y - prediction[0], 0.0, 1.0],
            Rule::Quantiles { levels, directions: [location, spread], spread_min } => {
                let (mut first, mut second) = (0.0, 0.0);
                for (((f, level), a), b) in prediction.iter().zip(levels).zip(location).zip(spread) {
                    // On the quantile itself every slope from τ − 1 to τ is a sub-gradient: none pulls.
                    let below = if y < *f { 1.0 } else { 0.0 };
                    let slope = if y == *f { 0.0 } else { level - below };
                    first += a * slope;
                    second += b * slope;
                }
                let curvature = match (prediction.first(), prediction.last()) {
                    (Some(low), Some(high)) if *spread_min > 0.0 => 1.0 / (high - low).max(*spread_min).sqrt(),
                    _ => 1.0,
                };
                [first, second, curvature]
            }
        }
    }
}

/// Integers of all rows of a round.
#[derive(Debug, Default)]
pub(super) struct Gradients {
    floats: Vec<[f32; 3]>,
    pub cells: Vec<Cell>,
}

impl Gradients {
    /// Computes the gradients at `predictions` (rows × outputs). Rows that `bagged` refuses get none at all.
    pub fn compute(
        &mut self,
        rule: &Rule,
        y: &[f32],
        weights: Option<&[f32]>,
        predictions: &[f32],
        bagged: &(dyn Fn(usize) -> bool + Sync),
    ) -> Units {
        let outputs = predictions.len() / y.len().max(1);
        self.floats.resize(y.len(), [0.0; 3]);
        self.cells.resize(y.len(), Cell::default());
        let sums: Vec<[f64; 3]> = self
            .floats
            .par_chunks_mut(CHUNK)
            .enumerate()
            .map(|(chunk, floats)| {
                let first = chunk * CHUNK;
                let mut sums = [0.0; 3];
                for (i, float) in floats.iter_mut().enumerate() {
                    let row = first + i;
                    let weight = if bagged(row) { weights.map_or(1.0, |w| w[row]) } else { 0.0 };
                    *float = rule.row(y[row], &predictions[row * outputs..(row + 1) * outputs]).map(|v| v * weight);
                    for (sum, value) in sums.iter_mut().zip(float) {
                        *sum += f64::from(value.abs());
                    }
                }
                sums
            })
            .collect();
        let mut total = [0.0; 3];
        for sums in &sums {
            for (all, sum) in total.iter_mut().zip(sums) {
                *all += sum;
            }
        }
        let per_unit = total.map(|sum| if sum > 0.0 { SUM_MAX / sum } else { 0.0 });
        self.cells.par_chunks_mut(CHUNK).zip(self.floats.par_chunks(CHUNK)).for_each(|(cells, floats)| {
            for (cell, float) in cells.iter_mut().zip(floats) {
                let whole: [i32; 3] =
                    std::array::from_fn(|i| (f64::from(float[i]) * per_unit[i]).round_ties_even() as i32);
                *cell = Cell([whole[0], whole[1], whole[2], 1]);
            }
        });
        Units(per_unit.map(|units| if units > 0.0 { 1.0 / units } else { 0.0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deciles() -> Objective {
        Objective::Quantiles((1..10).map(|i| f64::from(i) / 10.0).collect())
    }

    #[test]
    fn a_calibrated_set_of_targets_pulls_in_neither_direction() {
        let base: Vec<f32> = (1..10).map(|i| i as f32).collect();
        let rule = Rule::new(&deciles(), &base);
        let mut sums = [0.0_f32; 2];
        for i in 0..10 {
            let [first, second, _] = rule.row(i as f32 + 0.5, &base);
            sums[0] += first;
            sums[1] += second;
        }
        assert!(sums.iter().all(|s| s.abs() < 1e-5), "{sums:?}");
    }

    #[test]
    fn targets_above_pull_upwards_and_targets_outside_pull_apart() {
        let base: Vec<f32> = (1..10).map(|i| i as f32).collect();
        let rule = Rule::new(&deciles(), &base);
        let [up, _, curvature] = rule.row(100.0, &base);
        let [down, wide, _] = rule.row(-100.0, &base);
        assert!(up > 0.0 && (up + down).abs() < 1e-6);
        assert_eq!(curvature, 1.0 / 8.0_f32.sqrt());
        let [_, narrow, _] = rule.row(5.1, &base);
        assert!(wide * narrow < 0.0);
        assert_eq!(rule.row(5.0, &[5.0; 9])[..2], [0.0, 0.0], "a target on all of its quantiles");
    }

    #[test]
    fn whole_numbers_stand_for_the_gradients_and_never_overflow() {
        let y: Vec<f32> = (0..20_000).map(|i| if i == 0 { 1e6 } else { (i % 7) as f32 }).collect();
        let mut gradients = Gradients::default();
        let units = gradients.compute(&Rule::Squared, &y, None, &vec![3.0; y.len()], &|_| true);
        let sum: i64 = gradients.cells.iter().map(|c| i64::from(c.0[0].abs())).sum();
        assert!(sum <= (1 << 30) + 10_000);
        for (cell, y) in gradients.cells.iter().zip(&y) {
            assert!((f64::from(cell.0[0]) * units.0[0] - f64::from(y - 3.0)).abs() <= units.0[0]);
        }
    }
}
