//! Fits linear quantiles: from the ridge, by the smoothed pinball loss, to a model in the units of its features.

use rayon::prelude::*;

use super::design::{LinearError, Problem, same};
use super::model::LinearQuantiles;
use super::newton::{Descent, Limits, minimise, vectors};
use super::panel::LANES;
use super::pinball::{WeightedSample, evaluate};
use super::ridge::{Ridge, default_lambdas, solve, standardised_residuals};
use super::square::Square;
use super::standardised::Standardised;

/// Spread of the ridge's residuals, in standard deviations of the target, below which the fit is exact but for the
/// rounding of `f32`.
const EXACT: f64 = 1e-6;
/// Least density of residuals to assume at a quantile, as a share of one over their spread.
const DENSITY_MIN: f64 = 0.01;

/// Spread of the standardised target: one, but for rounding.
const TARGET_SPREAD: f64 = 1.0 + 1e-5;
/// Half-width of an Epanechnikov kernel in its standard deviations, √5.
const KERNEL_WIDTH: f64 = 2.236_067_977_499_79;
/// How strongly coefficients are held, in λ/2 |b − b*|² beside the mean pinball loss; columns and target standardised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Penalty {
    /// λ itself, the same at every level.
    Fixed(f64),
    /// This factor times the λ that corresponds to the ridge's at each level q: λ_ridge · q (1 − q) / (f σ²), where
    /// σ² is the variance of the ridge's residuals and f their density at the quantile.
    ///
    /// The ridge's λ weighs the variance σ² of the noise against the size of the coefficients. A quantile regression
    /// with curvature f behaves as one with noise of variance q (1 − q) / f² (Koenker 2005, theorem 4.1), which puts
    /// that into the place of σ².
    LikeRidge(f64),
}

/// What coefficients are held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShrinkTo {
    /// No effect: the usual penalty.
    Zero,
    /// The ridge's coefficients: the stronger the penalty, the more the levels differ by a constant only.
    Ridge,
}

/// How to fit.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantileOptions {
    /// Levels in (0, 1), strictly ascending.
    pub levels: Vec<f64>,
    /// λ that the ridge chooses from; see [`ridge`](super::ridge()).
    pub lambdas: Vec<f64>,
    /// Penalty of the quantile fits.
    pub penalty: Penalty,
    /// Centre of that penalty.
    pub shrink_to: ShrinkTo,
    /// Half-width of the last smoothing, as a share of the spread of the residuals that it starts from. `None`
    /// takes
    /// √5 max(0.05, √(q (1 − q)) ((p + ln n) / n)^0.4) for n rows and p columns: the kernel then has the standard
    /// deviation that He, Pan, Tan and Zhou (2023) recommend, less for more rows.
    pub half_width: Option<f64>,
    /// A level has converged when the next step is expected to gain no more than this share of the objective, or of the
    /// spread of the residuals that it starts from, if that is less.
    pub tolerance: f64,
    /// Passes over the rows after which a level ends, converged or not.
    pub evaluations_max: usize,
}

impl QuantileOptions {
    /// The usual options for these levels.
    pub fn new(levels: &[f64]) -> QuantileOptions {
        QuantileOptions {
            levels: levels.to_vec(),
            lambdas: default_lambdas(),
            penalty: Penalty::LikeRidge(1.0),
            shrink_to: ShrinkTo::Zero,
            half_width: None,
            tolerance: 1e-6,
            evaluations_max: 100,
        }
    }

    fn check(&self) -> Result<(), LinearError> {
        let refuse = |name, value, range| Err(LinearError::Option { name, value, range });
        if self.levels.is_empty() {
            return refuse("levels", 0.0, "at least one");
        }
        let mut before = 0.0;
        for level in &self.levels {
            if !(*level > before && *level < 1.0) {
                return refuse("a level", *level, "between 0 and 1 and above the one before");
            }
            before = *level;
        }
        let (Penalty::Fixed(penalty) | Penalty::LikeRidge(penalty)) = self.penalty;
        if !(penalty >= 0.0 && penalty.is_finite()) {
            return refuse("penalty", penalty, "zero or positive, and finite");
        }
        if let Some(half_width) = self.half_width.filter(|h| !(*h >= 1e-6 && *h <= 10.0)) {
            return refuse("half_width", half_width, "from 0.000001 to 10");
        }
        if !(self.tolerance > 0.0 && self.tolerance < 1.0) {
            return refuse("tolerance", self.tolerance, "between 0 and 1");
        }
        Ok(())
    }
}

/// How the fit of one level went.
#[derive(Debug, Clone, PartialEq)]
pub struct LevelFit {
    /// The level.
    pub level: f64,
    /// Weighted mean pinball loss of the rows that were fitted, without smoothing, in the target's unit.
    pub loss: f64,
    /// λ of the penalty, for standardised columns and target.
    pub lambda: f64,
    /// Half-width of the last smoothing, in the target's unit; zero where none was needed.
    pub half_width: f64,
    /// Passes over the rows.
    pub evaluations: usize,
    /// Whether the tolerance was reached. The coefficients are the best found either way, and those of the start where
    /// the loss of the end, without smoothing, is above that.
    pub converged: bool,
}

/// A fitted model and how its fit went.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantileFit {
    /// The model.
    pub model: LinearQuantiles,
    /// One for each level.
    pub levels: Vec<LevelFit>,
}

/// Fits one linear model a level: minimises the weighted mean of the pinball loss (Koenker and Bassett 1978) plus an L2
/// penalty. `names` are those of the design's columns.
///
/// The loss is smoothed by a kernel that narrows from stage to stage, and each stage is solved by Newton's method with
/// a line search. The intercept then moves to the exact quantile of the residuals: of n rows of equal weight, at most
/// q n lie below the line and at most (1 − q) n above it. Levels may still cross in places; predictions are sorted.
///
/// # Errors
/// Those of [`Standardised::new`] and [`ridge`](super::ridge()); [`LinearError::Option`] for an option out of range;
/// [`LinearError::Shape`] unless there is one name a column.
pub fn quantile_fit(
    problem: &Problem,
    names: &[String],
    options: &QuantileOptions,
) -> Result<QuantileFit, LinearError> {
    options.check()?;
    same("names", problem.design.columns(), names.len())?;
    let data = Standardised::new(problem)?;
    let (ridge, gram) = solve(&data, &options.lambdas)?;
    let residuals = standardised_residuals(&data, &ridge.standardised, 0..data.rows());
    if !residuals.iter().all(|residual| residual.is_finite()) {
        return Err(LinearError::NotFinite { what: "a residual of the ridge" });
    }
    let weighted =
        |values: Vec<f64>| WeightedSample::new(values.into_iter().zip(data.weights().iter().copied()).collect());
    let mut start = ridge.standardised.clone();
    let mut sample = weighted(residuals);
    if sample.spread() > TARGET_SPREAD {
        // Wild values misled the ridge: its residuals spread more than the target. A constant is the better start.
        start.fill(0.0);
        sample = weighted((0..data.rows()).map(|position| data.target(position)).collect());
    }
    let starts: Vec<Start> = options.levels.iter().map(|level| Start::new(&start, &sample, *level)).collect();
    let ended = if sample.spread() <= EXACT || data.target_is_constant() {
        starts.into_iter().map(Start::end).collect()
    } else {
        descend(&data, &ridge, &gram, &sample, starts, options)
    };
    assemble(&data, names, &ridge, ended)
}

/// Fits many problems, in parallel; results are in the order of `problems`, and one failure leaves the others alone.
/// For instance one for each series and hour of the day.
pub fn fit_many(
    problems: &[Problem],
    names: &[String],
    options: &QuantileOptions,
) -> Vec<Result<QuantileFit, LinearError>> {
    problems.par_iter().map(|problem| quantile_fit(problem, names, options)).collect()
}

/// Where a level's fit starts: the ridge, or no effect at all, with the quantile of the residuals as the intercept.
struct Start {
    level: f64,
    point: Vec<f64>,
    /// Exact pinball loss, standardised.
    loss: f64,
}

/// The end of a level's fit, standardised.
struct Ended {
    point: Vec<f64>,
    fit: LevelFit,
}

impl Start {
    fn new(coefficients: &[f64], sample: &WeightedSample, level: f64) -> Start {
        let quantile = sample.quantile(level);
        let mut point = coefficients.to_vec();
        if let Some(intercept) = point.last_mut() {
            *intercept += quantile;
        }
        Start { level, point, loss: sample.loss(quantile, level) }
    }

    fn end(self) -> Ended {
        let fit = LevelFit {
            level: self.level,
            loss: self.loss,
            lambda: 0.0,
            half_width: 0.0,
            evaluations: 0,
            converged: true,
        };
        Ended { point: self.point, fit }
    }
}

fn descend(
    data: &Standardised,
    ridge: &Ridge,
    gram: &Square,
    sample: &WeightedSample,
    starts: Vec<Start>,
    options: &QuantileOptions,
) -> Vec<Ended> {
    let spread = sample.spread();
    let variance = sample.mean_square();
    let columns = data.kept().len() as f64;
    let rows = data.effective_rows();
    let share_of_rate = ((columns + rows.ln()) / rows).powf(0.4);
    let density_min = DENSITY_MIN / spread;
    let mut fits = Vec::with_capacity(starts.len());
    let mut descents = Vec::with_capacity(starts.len());
    for start in &starts {
        let variation = start.level * (1.0 - start.level);
        let usual = (variation.sqrt() * share_of_rate).clamp(0.05, 1.0) * KERNEL_WIDTH;
        let share = options.half_width.unwrap_or(usual);
        let half_width = share * spread;
        let lambda = match options.penalty {
            Penalty::Fixed(lambda) => lambda,
            Penalty::LikeRidge(factor) => {
                let density = sample.density(sample.quantile(start.level), spread / 2.0).max(density_min);
                factor * ridge.lambda * variation / (density * variance)
            }
        };
        let mut anchor = match options.shrink_to {
            ShrinkTo::Zero => vec![0.0; start.point.len()],
            ShrinkTo::Ridge => ridge.standardised.clone(),
        };
        anchor.truncate(data.kept().len());
        let descent = Descent::new(start.level, start.point.clone(), half_width, spread)
            .penalised(lambda, anchor)
            .with_density_min(density_min);
        descents.push(descent);
        fits.push(LevelFit {
            level: start.level,
            loss: start.loss,
            lambda,
            half_width: half_width * data.target_scale(),
            evaluations: 0,
            converged: false,
        });
    }
    let limits = Limits { tolerance: options.tolerance, evaluations_max: options.evaluations_max };
    minimise(data, gram, &mut descents, limits);
    let samples = residual_samples(data, &descents, &fits);
    finish(starts, descents, fits, &samples)
}

/// Target − fit at the point of each descent.
fn residual_samples(data: &Standardised, descents: &[Descent], fits: &[LevelFit]) -> Vec<WeightedSample> {
    let points: Vec<(&[f64], f64, f64)> =
        descents.iter().zip(fits).map(|(descent, fit)| (&descent.point[..], fit.level, 1.0)).collect();
    let vectors = vectors(data, &points);
    let groups = vectors.len();
    let mut residuals = vec![[0.0; LANES]; data.rows() * groups];
    evaluate(data, &vectors, &mut residuals);
    (0..descents.len())
        .into_par_iter()
        .map(|index| {
            let (group, lane) = (index / LANES, index % LANES);
            let of_level = residuals.iter().skip(group).step_by(groups).map(|lanes| f64::from(lanes[lane]));
            WeightedSample::new(of_level.zip(data.weights().iter().copied()).collect())
        })
        .collect()
}

/// Moves each intercept to the exact quantile of the residuals, and keeps the start where that was no worse.
fn finish(starts: Vec<Start>, descents: Vec<Descent>, fits: Vec<LevelFit>, samples: &[WeightedSample]) -> Vec<Ended> {
    let levels = starts.into_iter().zip(descents).zip(fits).zip(samples);
    levels
        .map(|(((start, descent), mut fit), sample)| {
            let shift = sample.quantile(fit.level);
            let loss = sample.loss(shift, fit.level);
            fit.evaluations = descent.evaluations;
            fit.converged = descent.converged == Some(true);
            // The residuals of the end were kept as f32, those of the start were not.
            let allowed = (start.loss + descent.penalty(&start.point)) * (1.0 + 1e-6);
            let better = loss + descent.penalty(&descent.point) <= allowed;
            let mut point = descent.point;
            if better && point.iter().all(|b| b.is_finite()) {
                fit.loss = loss;
                if let Some(intercept) = point.last_mut() {
                    *intercept += shift;
                }
                return Ended { point, fit };
            }
            Ended { point: start.point, fit }
        })
        .collect()
}

fn assemble(
    data: &Standardised,
    names: &[String],
    ridge: &Ridge,
    ended: Vec<Ended>,
) -> Result<QuantileFit, LinearError> {
    let columns = data.kept().len();
    let mut model = LinearQuantiles {
        names: names.to_vec(),
        levels: ended.iter().map(|end| end.fit.level).collect(),
        means: data.means().to_vec(),
        bases: Vec::with_capacity(ended.len()),
        coefficients: Vec::with_capacity(ended.len()),
        lambda: ridge.lambda,
    };
    let mut levels = Vec::with_capacity(ended.len());
    for Ended { point, mut fit } in ended {
        model.coefficients.push(data.to_design_units(&point[..columns]));
        model.bases.push(data.to_target_unit(point[columns]));
        fit.loss *= data.target_scale();
        levels.push(fit);
    }
    if !model.bases.iter().chain(model.coefficients.iter().flatten()).all(|value| value.is_finite()) {
        return Err(LinearError::NotFinite { what: "a coefficient" });
    }
    Ok(QuantileFit { model, levels })
}
