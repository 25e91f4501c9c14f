//! Weights of a sum of forecasts with the least pinball loss: a projected Newton method on the simplex.
//!
//! The loss is smoothed within a half-width h around its kink (convolution with a uniform kernel: Fernandes, Guerre and
//! Horta 2021; He, Pan, Tan and Zhou 2023), solved, and solved again with a smaller h from there. Each Newton step
//! minimises the quadratic model under the constraints by exact moves along single weights or pairs of weights, and is
//! halved until the smoothed loss falls (Armijo's condition). The number of models is small, so the time is that of passes
//! over rows: rows × levels × models² each.

/// Half-widths, as shares of the mean absolute residual of the first weights.
const HALF_WIDTHS: [f64; 4] = [1.0, 0.25, 0.06, 0.015];
/// Newton steps at each half-width, at most.
const NEWTON_STEPS_MAX: usize = 10;
/// Sweeps over the pairs of weights in one quadratic problem, at most.
const SWEEPS_MAX: usize = 200;
/// Halvings of a step, at most.
const HALVINGS_MAX: usize = 20;
/// A step that lowers the loss by less than this share of it is the last at its half-width.
const GAIN_MIN: f64 = 1e-5;

/// A part of the rows and levels, and the models' forecasts of them.
#[derive(Debug, Clone, Copy)]
pub struct Problem<'a> {
    /// All levels.
    pub levels: &'a [f64],
    /// Indices of the levels to be combined.
    pub level_indices: &'a [usize],
    /// Rows × levels of each model, every value finite in the rows used.
    pub models: &'a [&'a [f64]],
    /// Actual value of each row, finite in the rows used.
    pub actuals: &'a [f64],
    /// Weight of each row; none negative.
    pub row_weights: &'a [f64],
    /// Rows used.
    pub rows: &'a [usize],
    /// Whether weights sum to 1; they are not negative in any case.
    pub sum_to_one: bool,
}

impl Problem<'_> {
    /// All values in the order of passes over them.
    fn gather(&self) -> Dense {
        let m = self.models.len();
        let values = self.rows.len() * self.level_indices.len();
        let mut dense = Dense { models: m, slopes: Vec::with_capacity(values * m), ..Dense::default() };
        let total: f64 = self.rows.iter().map(|row| self.row_weights[*row]).sum();
        for row in self.rows {
            let (actual, share) =
                (self.actuals[*row], self.row_weights[*row] / total / self.level_indices.len() as f64);
            let (base, target) = if self.sum_to_one { (actual, 0.0) } else { (0.0, actual) };
            for level in self.level_indices {
                let at = row * self.levels.len() + level;
                dense.slopes.extend(self.models.iter().map(|model| base - model[at]));
                dense.values.push(Value { target, level: self.levels[*level], share });
            }
        }
        dense
    }
}

/// One row at one level.
#[derive(Debug, Clone, Copy)]
struct Value {
    target: f64,
    level: f64,
    /// Its share of the mean loss.
    share: f64,
}

/// The problem, value by value. A residual is the target plus the weighted sum of slopes: with weights that sum to 1,
/// slopes are the models' own residuals and the target is 0, which keeps the digits where values are much greater than
/// errors; otherwise slopes are the negative forecasts and the target is the actual value.
#[derive(Debug, Default)]
struct Dense {
    models: usize,
    /// Values × models.
    slopes: Vec<f64>,
    values: Vec<Value>,
}

/// The weights with the least mean pinball loss plus `penalty` × mean loss at `towards` × |weights − towards|².
///
/// Starts at `towards`, whose weights have to fulfil the constraints. The loss at the result is never greater than at
/// `towards`, nor (all with the penalty) than that of one model alone with all the weight.
pub fn solve(problem: &Problem, towards: &[f64], penalty: f64) -> Vec<f64> {
    let sum_to_one = problem.sum_to_one;
    let problem = problem.gather();
    let start = problem.loss(towards);
    let size = problem.mean_absolute_residual(towards);
    if !(start.is_finite() && start > 0.0 && size.is_finite() && size > 0.0) {
        return towards.to_vec();
    }
    let penalty = penalty * start;
    let distance = |w: &[f64]| w.iter().zip(towards).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    let mut weights = towards.to_vec();
    for share in HALF_WIDTHS {
        let half_width = share * size;
        let mut value = problem.smoothed_loss(&weights, half_width) + penalty * distance(&weights);
        for _ in 0..NEWTON_STEPS_MAX {
            let (mut gradient, mut hessian) = problem.derivatives(&weights, half_width);
            // A little curvature keeps equal models apart from dividing by zero.
            let trace = (0..weights.len()).map(|i| hessian[i][i]).sum::<f64>();
            for i in 0..weights.len() {
                gradient[i] += 2.0 * penalty * (weights[i] - towards[i]);
                hessian[i][i] += 2.0 * penalty + 1e-9 * trace + f64::MIN_POSITIVE;
            }
            let step = constrained_step(&weights, &gradient, &hessian, sum_to_one);
            let slope: f64 = step.iter().zip(&gradient).map(|(s, g)| s * g).sum();
            if !(slope.is_finite() && slope < 0.0) {
                break;
            }
            let (mut length, mut next) = (1.0, None);
            for _ in 0..HALVINGS_MAX {
                let tried: Vec<f64> = weights.iter().zip(&step).map(|(w, s)| (w + length * s).max(0.0)).collect();
                let found = problem.smoothed_loss(&tried, half_width) + penalty * distance(&tried);
                if found <= value + 1e-4 * length * slope {
                    next = Some((tried, found));
                    break;
                }
                length /= 2.0;
            }
            let Some((tried, found)) = next else { break };
            let gain = value - found;
            (weights, value) = (tried, found);
            if gain <= GAIN_MIN * start {
                break;
            }
        }
    }
    if sum_to_one {
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= sum);
    }
    // What smoothing has rounded off is decided by the loss itself.
    let alone = |i: usize| (0..weights.len()).map(|j| f64::from(u8::from(i == j))).collect();
    let corners: Vec<Vec<f64>> = (0..weights.len()).map(alone).collect();
    let mut best = (towards.to_vec(), start);
    for candidate in std::iter::once(weights).chain(corners) {
        let found = problem.loss(&candidate) + penalty * distance(&candidate);
        if found < best.1 {
            best = (candidate, found);
        }
    }
    best.0
}

impl Dense {
    /// Mean pinball loss over rows and levels, rows by their weight, of the sum of forecasts with these weights. NaN
    /// without rows.
    fn loss(&self, weights: &[f64]) -> f64 {
        self.mean_of(weights, |residual, level| (level - 0.5) * residual + 0.5 * residual.abs())
    }

    fn smoothed_loss(&self, weights: &[f64], half_width: f64) -> f64 {
        self.mean_of(weights, |residual, level| {
            let inner = if residual.abs() >= half_width {
                residual.abs()
            } else {
                (residual * (residual / half_width) + half_width) / 2.0
            };
            (level - 0.5) * residual + 0.5 * inner
        })
    }

    fn mean_absolute_residual(&self, weights: &[f64]) -> f64 {
        self.mean_of(weights, |residual, _| residual.abs())
    }

    fn mean_of(&self, weights: &[f64], of: impl Fn(f64, f64) -> f64) -> f64 {
        let terms = self.iter().map(|(value, slopes)| value.share * of(residual(value, slopes, weights), value.level));
        if self.values.is_empty() { f64::NAN } else { terms.sum() }
    }

    fn iter(&self) -> impl Iterator<Item = (&Value, &[f64])> {
        self.values.iter().zip(self.slopes.chunks_exact(self.models))
    }

    /// Gradient and Hessian of [`Dense::smoothed_loss`] by the weights.
    fn derivatives(&self, weights: &[f64], half_width: f64) -> (Vec<f64>, Vec<Vec<f64>>) {
        let n = weights.len();
        let (mut gradient, mut hessian) = (vec![0.0; n], vec![vec![0.0; n]; n]);
        for (value, slopes) in self.iter() {
            let residual = residual(value, slopes, weights);
            let first = value.share * (value.level - 0.5 + 0.5 * (residual / half_width).clamp(-1.0, 1.0));
            gradient.iter_mut().zip(slopes).for_each(|(g, slope)| *g += first * slope);
            if residual.abs() < half_width {
                let second = value.share / (2.0 * half_width);
                for (row, slope) in hessian.iter_mut().zip(slopes) {
                    row.iter_mut().zip(slopes).for_each(|(h, other)| *h += second * slope * other);
                }
            }
        }
        (gradient, hessian)
    }
}

fn residual(value: &Value, slopes: &[f64], weights: &[f64]) -> f64 {
    value.target + weights.iter().zip(slopes).map(|(w, slope)| w * slope).sum::<f64>()
}

/// The step d that minimises gradient·d + d·hessian·d / 2 with weights + d not negative, and their sum kept if asked.
fn constrained_step(weights: &[f64], gradient: &[f64], hessian: &[Vec<f64>], keep_sum: bool) -> Vec<f64> {
    let n = weights.len();
    let mut step = vec![0.0; n];
    // Gradient of the quadratic at `step`.
    let mut slope = gradient.to_vec();
    for _ in 0..SWEEPS_MAX {
        let mut greatest: f64 = 0.0;
        for i in 0..n {
            // Weight goes to i, from nowhere or from j.
            let partners = if keep_sum { 0..i } else { i..i + 1 };
            for j in partners {
                let (rise, curvature) = if keep_sum {
                    (slope[i] - slope[j], hessian[i][i] + hessian[j][j] - 2.0 * hessian[i][j])
                } else {
                    (slope[i], hessian[i][i])
                };
                if curvature <= 0.0 {
                    continue;
                }
                let mut moved = (-rise / curvature).max(-(weights[i] + step[i]));
                if keep_sum {
                    moved = moved.min(weights[j] + step[j]);
                }
                if !moved.is_finite() || moved == 0.0 {
                    continue;
                }
                step[i] += moved;
                slope.iter_mut().zip(hessian).for_each(|(s, row)| *s += row[i] * moved);
                if keep_sum {
                    step[j] -= moved;
                    slope.iter_mut().zip(hessian).for_each(|(s, row)| *s -= row[j] * moved);
                }
                greatest = greatest.max(moved.abs());
            }
        }
        if greatest < 1e-9 {
            break;
        }
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deterministic numbers that look random, between −1 and 1.
    fn noise(i: usize) -> f64 {
        let hash = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let hash = (hash ^ (hash >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((hash ^ (hash >> 32)) >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    struct Case {
        models: Vec<Vec<f64>>,
        actuals: Vec<f64>,
        levels: Vec<f64>,
    }

    impl Case {
        /// Three models with errors of their own and levels 0.2, 0.5, 0.9.
        fn new(rows: usize, size: f64) -> Case {
            let levels = vec![0.2, 0.5, 0.9];
            let actuals: Vec<f64> = (0..rows).map(|i| size * (10.0 + noise(i))).collect();
            let model = |m: usize| {
                let error = move |i: usize| (0.3 + 0.4 * m as f64) * noise(i * 5 + 1000 * (m + 1));
                (0..rows).flat_map(|i| [-0.3, 0.0, 0.5].map(|d| actuals[i] + size * (d + error(i)))).collect()
            };
            Case { models: (0..3).map(model).collect(), actuals, levels }
        }

        fn check<T>(&self, sum_to_one: bool, then: impl Fn(&Problem) -> T) -> T {
            let models: Vec<&[f64]> = self.models.iter().map(Vec::as_slice).collect();
            let rows: Vec<usize> = (0..self.actuals.len()).collect();
            let row_weights: Vec<f64> = rows.iter().map(|i| 1.0 + (i % 3) as f64).collect();
            let level_indices: Vec<usize> = (0..self.levels.len()).collect();
            then(&Problem {
                levels: &self.levels,
                level_indices: &level_indices,
                models: &models,
                actuals: &self.actuals,
                row_weights: &row_weights,
                rows: &rows,
                sum_to_one,
            })
        }
    }

    #[test]
    fn no_weights_on_a_fine_grid_are_better() {
        for (rows, size) in [(40, 1.0), (400, 1.0), (400, 1e9), (400, 1e-9)] {
            Case::new(rows, size).check(true, |problem| {
                let found = solve(problem, &[1.0 / 3.0; 3], 0.0);
                assert!((found.iter().sum::<f64>() - 1.0).abs() < 1e-12 && found.iter().all(|w| *w >= 0.0));
                let (dense, mut least) = (problem.gather(), f64::INFINITY);
                for i in 0..=100_usize {
                    for j in 0..=100 - i {
                        let (a, b) = (i as f64 / 100.0, j as f64 / 100.0);
                        least = least.min(dense.loss(&[a, b, 1.0 - a - b]));
                    }
                }
                assert!(dense.loss(&found) <= least * (1.0 + 1e-4), "{rows} {size}: {} {least}", dense.loss(&found));
            });
        }
    }

    #[test]
    fn a_free_sum_finds_that_a_model_is_too_low_by_a_factor() {
        let mut case = Case::new(300, 1.0);
        case.models = vec![case.models[0].iter().map(|q| q / 1.25).collect()];
        case.check(false, |problem| {
            let found = solve(problem, &[1.0], 0.0);
            assert!((found[0] - 1.25).abs() < 0.02, "{found:?}");
        });
    }

    #[test]
    fn derivatives_are_those_of_the_smoothed_loss() {
        for sum_to_one in [true, false] {
            Case::new(50, 1.0).check(sum_to_one, |problem| {
                let (problem, at, h) = (problem.gather(), [0.2, 0.5, 0.3], 0.4);
                let (gradient, hessian) = problem.derivatives(&at, h);
                for i in 0..3 {
                    let moved = |by: f64| {
                        let mut moved = at;
                        moved[i] += by;
                        moved
                    };
                    let (up, down) = (moved(1e-6), moved(-1e-6));
                    let slope = (problem.smoothed_loss(&up, h) - problem.smoothed_loss(&down, h)) / 2e-6;
                    assert!((slope - gradient[i]).abs() < 1e-6, "{slope} {}", gradient[i]);
                    let (up, down) = (problem.derivatives(&up, h).0, problem.derivatives(&down, h).0);
                    for j in 0..3 {
                        let bend = (up[j] - down[j]) / 2e-6;
                        assert!((bend - hessian[i][j]).abs() < 1e-4 * (1.0 + bend.abs()), "{bend} {}", hessian[i][j]);
                    }
                }
            });
        }
    }

    #[test]
    fn a_penalty_holds_weights_near_where_they_should_be() {
        Case::new(200, 1.0).check(true, |problem| {
            let towards = [1.0 / 3.0; 3];
            let distance = |w: &[f64]| w.iter().map(|w| (w - 1.0 / 3.0).abs()).sum::<f64>();
            let moved: Vec<f64> =
                [0.0, 0.1, 1.0, 1e6].map(|penalty| distance(&solve(problem, &towards, penalty))).to_vec();
            assert!(moved.is_sorted_by(|a, b| a >= b) && moved[0] > 0.3 && moved[3] < 1e-4, "{moved:?}");
        });
    }

    #[test]
    fn equal_and_perfect_models_keep_their_first_weights() {
        let mut case = Case::new(30, 1.0);
        case.models = vec![case.models[1].clone(); 3];
        let weights = case.check(true, |problem| solve(problem, &[0.5, 0.25, 0.25], 0.1));
        assert!(weights.iter().zip([0.5, 0.25, 0.25]).all(|(a, b): (&f64, f64)| (a - b).abs() < 1e-6), "{weights:?}");
        case.models = vec![case.actuals.iter().flat_map(|a| [*a; 3]).collect(); 3];
        assert_eq!(case.check(true, |problem| solve(problem, &[0.5, 0.25, 0.25], 0.1)), [0.5, 0.25, 0.25]);
    }
}
