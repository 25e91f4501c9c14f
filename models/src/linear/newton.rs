//! A damped Newton method for smoothed pinball losses, several levels side by side.
//!
//! A pass over the rows costs about the same time for one level as for four, so that all levels take their steps
//! together: each round evaluates one point of every level that is not done. The smoothing starts about as wide as the
//! residuals spread and narrows by stages (Chen 2007), each starting where the one before ended; within a stage, the
//! loss never increases.

use rayon::prelude::*;

use super::cholesky::{Cholesky, Square};
use super::panel::{Cells, Gram, LANES, Lanes, PANEL_ROWS, Panel, in_sample};
use super::pinball::{LossSums, SmoothedPinball, Vectors, evaluate};
use super::standardised::Standardised;

/// Factor from one smoothing half-width to the next.
const NARROWING: f64 = 4.0;
/// Decrease of the loss, as a share of it, that ends a stage other than the last.
const STAGE_TOLERANCE: f64 = 1e-3;
/// Share of the decrease that the slope promises which a step must bring (Armijo 1966).
const SUFFICIENT_DECREASE: f64 = 1e-4;
/// Shortest step, as a share of the Newton step.
const STEP_MIN: f64 = 1e-7;
/// Rows per coefficient, of those near the quantile, that a second derivative is made of; with more, a sample of this
/// many.
const CURVED_ROWS: usize = 64;
/// Weight of the ridge's Gram matrix in the second derivative: least, first, and where few rows are curved.
const DAMPING: (f64, f64, f64) = (1e-4, 1e-3, 0.1);

/// One level's way to its minimum. Lengths are those of the coefficients, the intercept last.
pub(super) struct Descent {
    level: f64,
    /// Half-widths yet to come, the last one first.
    half_widths: Vec<f64>,
    half_width: f64,
    /// Penalty λ/2 |b − anchor|², which leaves out the intercept.
    lambda: f64,
    anchor: Vec<f64>,
    /// Least density to assume, where a matrix must be positive.
    density_min: f64,
    pub(super) point: Vec<f64>,
    trial: Vec<f64>,
    direction: Vec<f64>,
    /// Share of `direction` in `trial`; none at a point that starts a stage, which is taken unseen.
    step: Option<f64>,
    objective: f64,
    /// Derivative of the objective along `direction`.
    slope: f64,
    damping: f64,
    pub(super) evaluations: usize,
    /// Whether the tolerance was reached, once it is over.
    pub(super) converged: Option<bool>,
}

impl Descent {
    /// From `start`, with half-widths from `widest` down to `half_width`.
    pub(super) fn new(level: f64, start: Vec<f64>, half_width: f64, widest: f64) -> Descent {
        let mut half_widths = vec![half_width];
        while half_widths.last().is_some_and(|last| last * NARROWING <= widest) {
            half_widths.push(half_widths[half_widths.len() - 1] * NARROWING);
        }
        let first = half_widths.pop().unwrap_or(half_width);
        Descent {
            level,
            half_widths,
            half_width: first,
            lambda: 0.0,
            anchor: vec![0.0; start.len()],
            density_min: 0.0,
            point: start.clone(),
            direction: vec![0.0; start.len()],
            trial: start,
            step: None,
            objective: f64::INFINITY,
            slope: 0.0,
            damping: DAMPING.1,
            evaluations: 0,
            converged: None,
        }
    }

    /// Adds the penalty λ/2 |b − anchor|².
    pub(super) fn penalised(mut self, lambda: f64, anchor: Vec<f64>) -> Descent {
        self.lambda = lambda;
        self.anchor = anchor;
        self
    }

    /// Assumes at least this density of residuals at the quantile.
    pub(super) fn with_density_min(mut self, density_min: f64) -> Descent {
        self.density_min = density_min;
        self
    }

    /// λ/2 |b − anchor|² at `point`.
    pub(super) fn penalty(&self, point: &[f64]) -> f64 {
        let columns = point.len().saturating_sub(1);
        let squares = point.iter().zip(&self.anchor).take(columns).map(|(b, anchor)| (b - anchor).powi(2));
        self.lambda / 2.0 * squares.sum::<f64>()
    }

    /// Judges the trial point by its loss and gradient, and chooses the next one or ends.
    fn advance(&mut self, gram: &Square, found: &Evaluated, limits: Limits) {
        self.evaluations += 1;
        let objective = found.loss + self.penalty(&self.trial);
        if let Some(step) = self.step {
            let allowed = self.objective + SUFFICIENT_DECREASE * step * self.slope + 1e-14 * self.objective.abs();
            // Not a number is refused, too.
            if !(objective <= allowed) {
                self.shorten(step, objective, limits);
                return;
            }
        } else if !objective.is_finite() {
            self.converged = Some(false);
            return;
        }
        self.point.copy_from_slice(&self.trial);
        self.objective = objective;
        let mut gradient = found.gradient.clone();
        let columns = gradient.len().saturating_sub(1);
        for ((g, b), anchor) in gradient.iter_mut().zip(&self.point).zip(&self.anchor).take(columns) {
            *g += self.lambda * (b - anchor);
        }

        let Some(direction) = self.newton_direction(gram, found, &gradient) else {
            self.converged = Some(false);
            return;
        };
        self.slope = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
        self.direction = direction;
        // Half the slope is the decrease that the quadratic model expects of the full step.
        let decrease = -self.slope / 2.0;
        let last = self.half_widths.is_empty();
        let tolerance = if last { limits.tolerance } else { STAGE_TOLERANCE };
        let small = decrease <= tolerance * self.objective;
        if small && last {
            self.converged = Some(true);
        } else if self.evaluations >= limits.evaluations_max {
            self.converged = Some(false);
        } else if small {
            self.half_width = self.half_widths.pop().unwrap_or(self.half_width);
            self.damping = DAMPING.1;
            self.try_step(1.0);
            self.step = None;
        } else {
            self.damping = (self.damping / 4.0).max(DAMPING.0);
            self.try_step(1.0);
        }
    }

    /// Takes a shorter step, to where a parabola through what is known has its minimum.
    fn shorten(&mut self, step: f64, objective: f64, limits: Limits) {
        self.damping = (self.damping * 8.0).min(1.0);
        let excess = objective - self.objective - step * self.slope;
        let best = -self.slope * step * step / (2.0 * excess);
        let shorter = if best.is_finite() { best.clamp(0.1 * step, 0.5 * step) } else { 0.1 * step };
        if shorter < STEP_MIN || self.evaluations >= limits.evaluations_max {
            self.converged = Some(false);
            return;
        }
        self.try_step(shorter);
    }

    fn try_step(&mut self, step: f64) {
        self.step = Some(step);
        for ((trial, point), direction) in self.trial.iter_mut().zip(&self.point).zip(&self.direction) {
            *trial = point + step * direction;
        }
    }

    /// −H⁻¹ · gradient. H is the second derivative of the objective, made of a sample of the rows where the loss is
    /// curved, and damped towards that of a model whose residuals are spread alike in all rows.
    fn newton_direction(&self, gram: &Square, found: &Evaluated, gradient: &[f64]) -> Option<Vec<f64>> {
        let size = gradient.len();
        let curved = found.curved_rows(self.half_width);
        let few = curved.len() < 4 * size;
        let damping = if few { self.damping.max(DAMPING.2) } else { self.damping };
        let density = found.curvature.max(self.density_min);
        let mut system = found.second_derivative(self, &curved, size);
        system.add_scaled(damping * density, gram);
        system.add_diagonal(size.saturating_sub(1), self.lambda);
        let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
        Cholesky::with_jitter(&system)?.solve(&mut direction);
        direction.iter().all(|d| d.is_finite()).then_some(direction)
    }
}

/// When to stop.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Expected decrease of the objective, as a share of it, that is not worth another step.
    pub(super) tolerance: f64,
    /// Passes over the rows.
    pub(super) evaluations_max: usize,
}

/// What one pass found for one level.
struct Evaluated<'a> {
    data: &'a Standardised,
    residuals: &'a [Cells],
    /// Groups of lanes that the residuals of a row have, and the group and lane of this level.
    groups: usize,
    group: usize,
    lane: usize,
    loss: f64,
    curvature: f64,
    gradient: Vec<f64>,
}

impl Evaluated<'_> {
    fn residual(&self, position: usize) -> f64 {
        f64::from(self.residuals[position * self.groups + self.group][self.lane])
    }

    /// Stored rows whose residual is within the half-width.
    fn curved_rows(&self, half_width: f64) -> Vec<usize> {
        let rows = self.residuals.iter().skip(self.group).step_by(self.groups.max(1)).take(self.data.rows());
        let near = rows.enumerate().filter(|(_, row)| f64::from(row[self.lane]).abs() < half_width);
        near.map(|(position, _)| position).collect()
    }

    /// The second derivative of the smoothed loss, from a sample of the `curved` rows.
    fn second_derivative(&self, descent: &Descent, curved: &[usize], size: usize) -> Square {
        let share = (CURVED_ROWS * size) as f64 / curved.len().max(1) as f64;
        let loss = SmoothedPinball::new([descent.level; LANES], [descent.half_width; LANES]);
        let mut gram = Gram::new(self.data.groups());
        let mut panel = Panel::new(self.data.groups());
        let (mut filled, mut sampled) = (0, 0.0);
        for position in curved.iter().filter(|position| in_sample(**position, share)) {
            let curvature = self.data.weights()[*position] * loss.at([self.residual(*position); LANES]).curvature[0];
            sampled += curvature;
            panel.set_row(filled, self.data.row(*position), curvature.sqrt());
            filled += 1;
            if filled == PANEL_ROWS {
                gram.add_panel(&panel);
                filled = 0;
            }
        }
        panel.clear_from(filled);
        gram.add_panel(&panel);
        let mut square = Square::of_gram(&gram, size);
        if sampled > 0.0 {
            square.scale(self.curvature / sampled);
        }
        square
    }
}

/// Runs all descents to their ends. `gram` is that of the columns and the intercept.
pub(super) fn minimise(data: &Standardised, gram: &Square, descents: &mut [Descent], limits: Limits) {
    let mut residuals = vec![[0.0; LANES]; data.rows() * descents.len().div_ceil(LANES)];
    loop {
        let mut active: Vec<&mut Descent> = descents.iter_mut().filter(|d| d.converged.is_none()).collect();
        if active.is_empty() {
            return;
        }
        let points: Vec<(&[f64], f64, f64)> =
            active.iter().map(|d| (&d.trial[..], d.level, d.half_width)).collect();
        let groups = points.len().div_ceil(LANES);
        let residuals = &mut residuals[..data.rows() * groups];
        let sums = evaluate(data, &vectors(data, &points), residuals);
        let residuals = &*residuals;
        active.par_iter_mut().enumerate().for_each(|(index, descent)| {
            let (group, lane) = (index / LANES, index % LANES);
            let LossSums { loss, curvature, gradient } = &sums[group];
            let gradient = gradient.iter().take(descent.point.len()).map(|g| g[lane]).collect();
            let (loss, curvature) = (loss[lane], curvature[lane]);
            let found = Evaluated { data, residuals, groups, group, lane, loss, curvature, gradient };
            descent.advance(gram, &found, limits);
        });
    }
}

/// Points with their levels and half-widths, side by side in groups of lanes; lanes left over have coefficients zero.
pub(super) fn vectors(data: &Standardised, points: &[(&[f64], f64, f64)]) -> Vec<Vectors> {
    points
        .chunks(LANES)
        .map(|points| {
            let mut coefficients: Vec<Lanes> = vec![[0.0; LANES]; data.groups() * LANES];
            let (mut levels, mut half_widths) = ([0.5; LANES], [1.0; LANES]);
            for (lane, (point, level, half_width)) in points.iter().enumerate() {
                for (to, from) in coefficients.iter_mut().zip(*point) {
                    to[lane] = *from;
                }
                coefficients[point.len()][lane] = -1.0;
                levels[lane] = *level;
                half_widths[lane] = *half_width;
            }
            Vectors { coefficients, loss: SmoothedPinball::new(levels, half_widths) }
        })
        .collect()
}
