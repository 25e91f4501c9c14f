//! A damped Newton method for smoothed pinball losses, several levels side by side.
//!
//! A pass over the rows costs about the same time for one level as for four, so that all levels take their steps
//! together: each round evaluates one point of every level that is not done. The smoothing starts about as wide as the
//! residuals spread and narrows by stages (Chen 2007), each starting where the one before ended; within a stage, the
//! loss never increases.

use rayon::prelude::*;

use super::panel::{Cells, Gram, LANES, Lanes, PANEL_ROWS, Panel, in_sample};
use super::pinball::{LossSums, SmoothedPinball, Vectors, evaluate};
use super::square::Square;
use super::standardised::Standardised;

/// Factor from one smoothing half-width to the next.
const NARROWING: f64 = 4.0;
/// Decrease of the loss, as a share of it, that ends a stage other than the last.
const STAGE_TOLERANCE: f64 = 1e-3;
/// Share of the decrease expected of a step that it must bring to be taken, and the shares below and above which damping
/// grows and shrinks (Marquardt 1963; Nocedal and Wright 2006, §4.1).
const GAIN_TAKEN: f64 = 1e-4;
const GAIN_POOR: f64 = 0.25;
const GAIN_GOOD: f64 = 0.75;
/// Rows per coefficient, of those near the quantile, that a second derivative is made of; with more, a sample of this
/// many.
const CURVED_ROWS: usize = 64;
/// Weight of the ridge's Gram matrix in the second derivative: at first, least, and at the first step refused.
const DAMPING: f64 = 1e-3;
const DAMPING_MIN: f64 = 1e-7;
const DAMPING_REFUSED: f64 = 1e-2;
/// With more damping than this, steps are too short to matter.
const DAMPING_MAX: f64 = 1e6;
/// With more damping than this, a small step says nothing about the distance to the minimum.
const DAMPING_TELLING: f64 = 1e-2;

/// One level's way to its minimum. Lengths are those of the coefficients, the intercept last.
pub(super) struct Descent {
    level: f64,
    /// Half-widths yet to come, the last one first.
    half_widths: Vec<f64>,
    half_width: f64,
    /// Penalty λ/2 |b − anchor|², which leaves out the intercept.
    lambda: f64,
    anchor: Vec<f64>,
    /// Loss that counts as large already: more of it is due to a few wild values, whose share no step can change.
    loss_max: f64,
    /// Least density to assume, where a matrix must be positive.
    density_min: f64,
    pub(super) point: Vec<f64>,
    trial: Vec<f64>,
    objective: f64,
    gradient: Vec<f64>,
    /// Second derivative of the objective, from a sample of the rows where the loss is curved.
    curvature: Square,
    /// Density of the residuals at the quantile, by which damping is measured.
    density: f64,
    damping: f64,
    /// Decrease that the quadratic model expects of the step to `trial`; none at a point that starts a stage, which is
    /// taken unseen.
    expected: Option<f64>,
    pub(super) evaluations: usize,
    /// Whether the tolerance was reached, once it is over.
    pub(super) converged: Option<bool>,
}

impl Descent {
    /// From `start`, with half-widths from `widest` down to `half_width`. `widest` is how far the residuals spread.
    pub(super) fn new(level: f64, start: Vec<f64>, half_width: f64, widest: f64) -> Descent {
        let mut half_widths = half_widths_up_to(half_width, widest);
        Descent {
            level,
            half_width: half_widths.pop().unwrap_or(half_width),
            half_widths,
            loss_max: widest,
            lambda: 0.0,
            anchor: vec![0.0; start.len()],
            density_min: 0.0,
            point: start.clone(),
            gradient: vec![0.0; start.len()],
            curvature: Square::zeros(start.len()),
            trial: start,
            objective: f64::INFINITY,
            density: 0.0,
            damping: DAMPING,
            expected: None,
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
        if let Some(expected) = self.expected {
            let gain = (self.objective - objective) / expected;
            if gain.is_nan() || gain < GAIN_TAKEN {
                self.damping = (self.damping * 10.0).max(DAMPING_REFUSED);
            } else {
                if gain < GAIN_POOR {
                    self.damping *= 4.0;
                } else if gain > GAIN_GOOD {
                    self.damping = (self.damping / 10.0).max(DAMPING_MIN);
                }
                self.move_to_trial(found, objective);
            }
        } else if objective.is_finite() {
            self.move_to_trial(found, objective);
        } else {
            self.converged = Some(false);
            return;
        }
        self.choose_next(gram, limits);
    }

    fn move_to_trial(&mut self, found: &Evaluated, objective: f64) {
        self.point.copy_from_slice(&self.trial);
        self.objective = objective;
        self.gradient.copy_from_slice(&found.gradient);
        let columns = self.point.len().saturating_sub(1);
        for ((g, b), anchor) in self.gradient.iter_mut().zip(&self.point).zip(&self.anchor).take(columns) {
            *g += self.lambda * (b - anchor);
        }
        self.curvature = found.second_derivative(self.level, self.half_width);
        self.curvature.add_diagonal(columns, self.lambda);
        self.density = found.curvature.max(self.density_min);
    }

    fn choose_next(&mut self, gram: &Square, limits: Limits) {
        let last = self.half_widths.is_empty();
        let tolerance = if last { limits.tolerance } else { STAGE_TOLERANCE };
        let over = self.evaluations >= limits.evaluations_max || self.damping > DAMPING_MAX;
        let Some(direction) = self.newton_direction(gram).filter(|_| !over) else {
            self.converged = Some(false);
            return;
        };
        let slope: f64 = self.gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let expected = -slope / 2.0;
        let small = expected <= tolerance * self.objective.min(self.loss_max) && self.damping <= DAMPING_TELLING;
        if small && last {
            self.converged = Some(true);
            return;
        }
        self.expected = Some(expected);
        if small {
            self.half_width = self.half_widths.pop().unwrap_or(self.half_width);
            self.expected = None;
        }
        for ((trial, point), direction) in self.trial.iter_mut().zip(&self.point).zip(&direction) {
            *trial = point + direction;
        }
    }

    /// The step to the minimum of the quadratic model, damped towards the second derivative of a model whose residuals
    /// are spread alike in all rows.
    fn newton_direction(&self, gram: &Square) -> Option<Vec<f64>> {
        let mut system = self.curvature.clone();
        system.add_scaled(self.damping * self.density, gram);
        system.add_diagonal(self.point.len(), self.damping * DAMPING_MIN.sqrt() * self.density);
        let mut direction: Vec<f64> = self.gradient.iter().map(|g| -g).collect();
        system.factor_raised()?.solve(&mut direction);
        direction.iter().all(|d| d.is_finite()).then_some(direction)
    }
}

/// Half-widths from `last` upwards, not beyond `widest` but for the first.
fn half_widths_up_to(last: f64, widest: f64) -> Vec<f64> {
    std::iter::successors(Some(last), |h| Some(h * NARROWING).filter(|wider| *wider <= widest)).collect()
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

    /// The second derivative of the smoothed loss, from a sample of the rows where it is curved.
    fn second_derivative(&self, level: f64, half_width: f64) -> Square {
        let size = self.gradient.len();
        let curved = self.curved_rows(half_width);
        let share = (CURVED_ROWS * size) as f64 / curved.len().max(1) as f64;
        let loss = SmoothedPinball::new([level; LANES], [half_width; LANES]);
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
        let points: Vec<(&[f64], f64, f64)> = active.iter().map(|d| (&d.trial[..], d.level, d.half_width)).collect();
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
