//! The pinball loss, its smoothed form, and sums of it over all rows for several levels at once.

use rayon::prelude::*;

use super::panel::{CHUNK_ROWS, Cells, LANES, Lanes, PANEL_ROWS, Panel, multiply, multiply_transposed};
use super::standardised::Standardised;

/// Pinball loss (Koenker and Bassett 1978) of a residual, value − quantile.
pub(super) fn pinball(residual: f64, level: f64) -> f64 {
    if residual >= 0.0 { level * residual } else { (level - 1.0) * residual }
}

/// The pinball loss convolved with an Epanechnikov kernel of half-width h (Fernandes, Guerre and Horta 2021; He, Pan,
/// Tan and Zhou 2023), for four levels side by side.
///
/// It is the pinball loss itself at residuals beyond ±h, and in between twice differentiable; the second derivative,
/// summed over rows, is a kernel estimate of the density at the quantile.
#[derive(Clone, Copy)]
pub(super) struct SmoothedPinball {
    level: Lanes,
    half_width: Lanes,
    inverse: Lanes,
}

/// The loss at a residual and its first two derivatives by the residual.
pub(super) struct Smoothed {
    pub(super) loss: Lanes,
    pub(super) slope: Lanes,
    pub(super) curvature: Lanes,
}

impl SmoothedPinball {
    /// Levels in (0, 1), half-widths positive.
    pub(super) fn new(level: Lanes, half_width: Lanes) -> SmoothedPinball {
        SmoothedPinball { level, half_width, inverse: half_width.map(f64::recip) }
    }

    #[inline]
    pub(super) fn at(&self, residual: Lanes) -> Smoothed {
        let mut found = Smoothed { loss: [0.0; LANES], slope: [0.0; LANES], curvature: [0.0; LANES] };
        for (lane, r) in residual.into_iter().enumerate() {
            let (level, h) = (self.level[lane], self.half_width[lane]);
            // Half the smoothed absolute value plus the tilt; v is the residual in half-widths.
            let v = (r * self.inverse[lane]).clamp(-1.0, 1.0);
            let square = v * v;
            let outside = (r.abs() - h).max(0.0);
            let absolute = h * (0.375 + square * (0.75 - 0.125 * square)) + outside;
            found.loss[lane] = 0.5 * absolute + (level - 0.5) * r;
            found.slope[lane] = v * (0.75 - 0.25 * square) + (level - 0.5);
            found.curvature[lane] = 0.75 * (1.0 - square) * self.inverse[lane];
        }
        found
    }
}

/// Four coefficient vectors side by side, and the loss of each.
pub(super) struct Vectors {
    /// One for each stored column, as [`multiply`] takes them; −1 for the target.
    pub(super) coefficients: Vec<Lanes>,
    pub(super) loss: SmoothedPinball,
}

/// Weighted sums over all rows, for four vectors.
#[derive(Clone)]
pub(super) struct LossSums {
    /// Smoothed pinball loss.
    pub(super) loss: Lanes,
    /// Its second derivative by the intercept: the density of the residuals at zero.
    pub(super) curvature: Lanes,
    /// Its derivative by the coefficient of each stored column.
    pub(super) gradient: Vec<Lanes>,
}

impl LossSums {
    fn zeros(columns: usize) -> LossSums {
        LossSums { loss: [0.0; LANES], curvature: [0.0; LANES], gradient: vec![[0.0; LANES]; columns] }
    }

    fn add(&mut self, other: &LossSums) {
        add_lanes(&mut self.loss, &other.loss);
        add_lanes(&mut self.curvature, &other.curvature);
        for (to, from) in self.gradient.iter_mut().zip(&other.gradient) {
            add_lanes(to, from);
        }
    }
}

#[inline]
fn add_lanes(to: &mut Lanes, from: &Lanes) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

/// One pass over all rows: losses and gradients of all `vectors`, each stored row being read once. Residuals go to
/// `residuals`, `vectors.len()` groups of lanes for each row.
pub(super) fn evaluate(data: &Standardised, vectors: &[Vectors], residuals: &mut [Cells]) -> Vec<LossSums> {
    let columns = data.groups() * LANES;
    let nothing = vec![LossSums::zeros(columns); vectors.len()];
    let chunks = data
        .cells()
        .par_chunks(CHUNK_ROWS * data.groups())
        .zip(data.weights().par_chunks(CHUNK_ROWS))
        .zip(residuals.par_chunks_mut(CHUNK_ROWS * vectors.len().max(1)));
    let parts: Vec<Vec<LossSums>> = chunks
        .map(|((cells, weights), residuals)| {
            let mut sums = nothing.clone();
            let mut panel = Panel::new(data.groups());
            let panels = cells
                .chunks(PANEL_ROWS * data.groups())
                .zip(weights.chunks(PANEL_ROWS))
                .zip(residuals.chunks_mut(PANEL_ROWS * vectors.len().max(1)));
            for ((cells, weights), residuals) in panels {
                panel.load(cells);
                for (index, (vectors_of_lane, sums)) in vectors.iter().zip(&mut sums).enumerate() {
                    add_panel(&panel, weights, vectors_of_lane, sums, |k, residual| {
                        if let Some(to) = residuals.get_mut(k * vectors.len() + index) {
                            *to = residual.map(|r| r as f32);
                        }
                    });
                }
            }
            sums
        })
        .collect();
    let mut total = nothing;
    for part in &parts {
        total.iter_mut().zip(part).for_each(|(total, part)| total.add(part));
    }
    total
}

#[inline]
fn add_panel(
    panel: &Panel,
    weights: &[f64],
    vectors: &Vectors,
    sums: &mut LossSums,
    mut keep: impl FnMut(usize, Lanes),
) {
    let mut products = [[0.0; LANES]; PANEL_ROWS];
    multiply(panel, &vectors.coefficients, &mut products);
    for (k, (product, weight)) in products.iter_mut().zip(weights).enumerate() {
        // The target has coefficient −1: the product is fit − target.
        let residual = product.map(|p| -p);
        keep(k, residual);
        let found = vectors.loss.at(residual);
        for (lane, factor) in product.iter_mut().enumerate() {
            sums.loss[lane] += weight * found.loss[lane];
            sums.curvature[lane] += weight * found.curvature[lane];
            *factor = -weight * found.slope[lane];
        }
    }
    // Rows without a weight are past the end of the data: their cells are zero, whatever their factors.
    multiply_transposed(panel, &products, &mut sums.gradient);
}

/// Share of the standard deviation below which the range of the deciles counts as nothing.
const SAME: f64 = 1e-9;

/// Values with weights, in ascending order.
pub(super) struct WeightedSample {
    /// (value, weight)
    sorted: Vec<(f64, f64)>,
    total: f64,
}

impl WeightedSample {
    pub(super) fn new(mut values: Vec<(f64, f64)>) -> WeightedSample {
        values.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let total = values.iter().map(|(_, weight)| weight).sum();
        WeightedSample { sorted: values, total }
    }

    /// The constant with the least weighted pinball loss at `level`; in the middle where several have. Zero for an
    /// empty sample.
    pub(super) fn quantile(&self, level: f64) -> f64 {
        let goal = level * self.total;
        // What is within rounding of the goal has reached it.
        let slack = 1e-12 * self.total;
        let mut below = 0.0;
        let mut values = self.sorted.iter();
        while let Some((value, weight)) = values.next() {
            below += weight;
            if below >= goal - slack {
                let reached = below <= goal + slack;
                let next = values.next().map_or(*value, |(next, _)| *next);
                return if reached { value + (next - value) / 2.0 } else { *value };
            }
        }
        self.sorted.last().map_or(0.0, |(value, _)| *value)
    }

    /// Weighted mean pinball loss of the constant `quantile` at `level`.
    pub(super) fn loss(&self, quantile: f64, level: f64) -> f64 {
        self.sorted.iter().map(|(value, weight)| weight * pinball(value - quantile, level)).sum::<f64>() / self.total
    }

    /// Kernel estimate of the density at `place`, with the kernel of [`SmoothedPinball`].
    pub(super) fn density(&self, place: f64, half_width: f64) -> f64 {
        let first = self.sorted.partition_point(|(value, _)| *value < place - half_width);
        let near = self.sorted.iter().skip(first).take_while(|(value, _)| *value <= place + half_width);
        let sum: f64 = near.map(|(value, weight)| weight * (1.0 - ((value - place) / half_width).powi(2))).sum();
        0.75 * sum / (half_width * self.total)
    }

    /// How far the values spread: the range from the first to the last decile as standard deviations of a normal
    /// distribution, but not more than the standard deviation itself; a tenth of that where the range is nothing. A few
    /// wild values do not make it large, and many that are the same (as no sun at night) do not make it small.
    pub(super) fn spread(&self) -> f64 {
        let mean = self.sorted.iter().map(|(value, weight)| weight * value).sum::<f64>() / self.total;
        let square: f64 = self.sorted.iter().map(|(value, weight)| weight * (value - mean).powi(2)).sum();
        let deviation = (square / self.total).sqrt();
        let range = (self.quantile(0.9) - self.quantile(0.1)) / 2.563;
        if range > SAME * deviation { range.min(deviation) } else { 0.1 * deviation }
    }

    /// Weighted mean square.
    pub(super) fn mean_square(&self) -> f64 {
        self.sorted.iter().map(|(value, weight)| weight * value * value).sum::<f64>() / self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_changes_the_loss_only_near_zero_and_smoothly() {
        let h = 0.5;
        for level in [0.05, 0.5, 0.9] {
            let smoothed = SmoothedPinball::new([level; LANES], [h; LANES]);
            let at = |r: f64| {
                let found = smoothed.at([r; LANES]);
                (found.loss[0], found.slope[0], found.curvature[0])
            };
            for r in [-3.0, -0.51, 0.51, 3.0] {
                assert!((at(r).0 - pinball(r, level)).abs() < 1e-15, "{level} {r}");
                assert_eq!(at(r).2, 0.0);
            }
            for step in -40..=40 {
                let r = f64::from(step) / 30.0;
                let e = 1e-5;
                assert!(at(r).0 >= pinball(r, level) - 1e-15, "{level} {r}");
                assert!((at(r).1 - (at(r + e).0 - at(r - e).0) / (2.0 * e)).abs() < 1e-6, "{level} {r}");
                assert!((at(r).2 - (at(r + e).1 - at(r - e).1) / (2.0 * e)).abs() < 1e-3, "{level} {r}");
            }
        }
    }

    #[test]
    fn a_weighted_quantile_has_the_least_pinball_loss() {
        let values: Vec<(f64, f64)> = (0..40).map(|i| (f64::from(i * 17 % 23), f64::from(1 + i * 7 % 5))).collect();
        let sample = WeightedSample::new(values.clone());
        for level in [0.01, 0.1, 0.5, 0.77, 0.99] {
            let found = sample.loss(sample.quantile(level), level);
            for (value, _) in &values {
                assert!(found <= sample.loss(*value, level) + 1e-12, "{level}: {value}");
            }
        }
        let even = WeightedSample::new(vec![(4.0, 1.0), (1.0, 1.0), (2.0, 1.0), (3.0, 1.0)]);
        assert_eq!((even.quantile(0.5), even.quantile(0.25), even.quantile(0.4)), (2.5, 1.5, 2.0));
        assert_eq!(WeightedSample::new(vec![]).quantile(0.5), 0.0);
        assert_eq!(WeightedSample::new(vec![(3.0, 0.5)]).quantile(0.9), 3.0);
    }

    #[test]
    fn density_and_spread_of_a_uniform_sample() {
        let sample = WeightedSample::new((0..10_000).map(|i| (f64::from(i) / 10_000.0, 2.0)).collect());
        assert!((sample.density(0.5, 0.1) - 1.0).abs() < 1e-3);
        assert!(sample.density(3.0, 0.1) == 0.0);
        // The standard deviation, 1/√12, is below 0.8 / 2.563.
        assert!((sample.spread() - 1.0 / 12.0_f64.sqrt()).abs() < 1e-3);
        assert_eq!(WeightedSample::new(vec![(1.0, 1.0); 5]).spread(), 0.0);
        let at = |values: &[f64]| WeightedSample::new(values.iter().map(|value| (*value, 1.0)).collect()).spread();
        let mut values = [0.0; 20];
        values[0] = 20.0;
        assert!((at(&values) - 0.1 * 19.0_f64.sqrt()).abs() < 1e-9, "the same but for one");
        let mut values: Vec<f64> = (0..=20).map(f64::from).collect();
        let usual = at(&values);
        values[20] = 1e9;
        assert!((usual..usual * 1.1).contains(&at(&values)), "one far from all others");
    }
}
