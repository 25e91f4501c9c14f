//! Combination of several models' quantile forecasts by averaging quantiles (Vincentisation: Ratcliff 1979; Lichtendahl,
//! Grushka-Cockayne and Winkler 2013), with weights that minimise the pinball loss (Taylor and Taylor 2023).
//!
//! The equal mean is hard to beat, because its weights need no data (the "forecast combination puzzle": Stock and Watson
//! 2004; Smith and Wallis 2009). So weights are shrunk: those of all rows together towards equal ones, those of a group of
//! steps and levels towards those of all. And [`combine`] uses weights only if they win on blocks of time that they were
//! not learned from; otherwise the equal mean, or the best single model. [`Combination::reason`] says which and why.

mod solver;

use std::collections::BTreeSet;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::metrics::{LevelsError, check_levels, pinball};
use solver::{Problem, solve};

/// Forecasts of several models for the same rows, with what happened. Slices go together by row.
#[derive(Debug, Clone, Copy)]
pub struct Validation<'a> {
    /// Levels, ascending.
    pub levels: &'a [f64],
    /// The models.
    pub models: &'a [Candidate<'a>],
    /// What happened; NaN where that is not known.
    pub actuals: &'a [f64],
    /// How much each row counts, such as 1 / scale of its series; empty: all the same. Not negative.
    pub row_weights: &'a [f64],
    /// Group of forecast steps that the row belongs to.
    pub horizon_groups: &'a [u32],
    /// Block of time: rows that may depend on each other share one, usually the day of the origin. Ascends with time.
    pub blocks: &'a [u32],
}

/// One model's forecasts of the rows.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a str,
    /// Rows × levels, row by row; NaN where it has no forecast.
    pub quantiles: &'a [f64],
}

/// Which levels share their weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LevelGroups {
    /// All.
    Together,
    /// Three groups: levels up to 0.2, levels from 0.8, and those between.
    #[default]
    Tails,
    /// None.
    Each,
}

impl LevelGroups {
    /// Group of each level, from 0 without gaps.
    fn of(self, levels: &[f64]) -> Vec<usize> {
        let part = |(i, level): (usize, &f64)| match self {
            LevelGroups::Together => 0,
            LevelGroups::Tails => usize::from(*level > 0.2 + 1e-9) + usize::from(*level > 0.8 - 1e-9),
            LevelGroups::Each => i,
        };
        let parts: Vec<usize> = levels.iter().enumerate().map(part).collect();
        let distinct: BTreeSet<usize> = parts.iter().copied().collect();
        parts.iter().map(|part| distinct.range(..part).count()).collect()
    }
}

/// How weights are learned and judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Which levels share their weights.
    pub level_groups: LevelGroups,
    /// Whether weights sum to 1. Without it the combination may also be scaled, against a bias of all models.
    pub sum_to_one: bool,
    /// Strengths of shrinkage to be tried: how many blocks of time the weights shrunk towards are worth. Ascending.
    pub shrinkage: Vec<f64>,
    /// Weights below this are 0, so that a model may not need to be run at all.
    pub weight_min: f64,
    /// By how much of the loss weights have to beat the best of the equal mean and the single models.
    pub gain_min: f64,
    /// Share of rows that a model needs forecasts for.
    pub present_min: f64,
    /// Folds of the cross-validation, at least 2.
    pub folds: usize,
    /// Blocks of time that weights are learned from, at least; with fewer, the equal mean is used.
    pub blocks_min: usize,
    /// Rows of a group of steps, at least, for weights of its own.
    pub rows_min: usize,
    /// Rows that weights are learned from, at most; of more, evenly spaced ones are used.
    pub rows_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            level_groups: LevelGroups::default(),
            sum_to_one: true,
            shrinkage: vec![0.3, 3.0, 30.0],
            weight_min: 0.01,
            gain_min: 0.002,
            present_min: 0.9,
            folds: 5,
            blocks_min: 5,
            rows_min: 50,
            rows_max: 20_000,
        }
    }
}

impl Options {
    fn check(&self) -> Result<(), CombineError> {
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        let share = |value: f64| (0.0..=1.0).contains(&value);
        for (name, good) in [
            ("shrinkage", !self.shrinkage.is_empty() && self.shrinkage.iter().all(|s| not_negative(*s))),
            ("weight_min", (0.0..1.0).contains(&self.weight_min)),
            ("gain_min", not_negative(self.gain_min)),
            ("present_min", share(self.present_min)),
            ("folds", self.folds >= 2),
            ("rows_max", self.rows_max >= 1),
        ] {
            if !good {
                return Err(CombineError::Option(name));
            }
        }
        Ok(())
    }
}

/// Why models could not be combined.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CombineError {
    /// The levels are not usable.
    #[error("cannot combine at these levels: {0}")]
    Levels(#[from] LevelsError),
    /// Slices that go together are of different lengths.
    #[error("{what} has {found} values, but {expected} are needed")]
    Length {
        /// The slice, or the model whose quantiles it is.
        what: String,
        /// Its length.
        found: usize,
        /// The length that it should have.
        expected: usize,
    },
    /// An option is outside its range.
    #[error("option {0} is out of its range")]
    Option(&'static str),
    /// A weight of a row is negative or not finite.
    #[error("the weight of row {0} is negative or not finite")]
    RowWeight(usize),
    /// No model, or none that has forecasts for enough rows.
    #[error("no model has forecasts for enough of the {rows} rows with an actual value")]
    NoModel {
        /// Rows with an actual value and a weight.
        rows: usize,
    },
    /// No row with an actual value, a weight and a forecast of every model.
    #[error("no row has an actual value, a weight and a forecast of every model")]
    NoRow,
    /// None of the models with a weight has a finite forecast.
    #[error("none of the combined models has a finite forecast")]
    NoForecast,
}

/// How forecasts are combined.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// By this model alone.
    Single(String),
    /// By the mean of all models.
    Equal,
    /// By learned weights.
    Weighted {
        /// The strength of shrinkage that won.
        shrinkage: f64,
        /// Whether groups of steps and levels have weights of their own.
        by_group: bool,
    },
}

/// Why that choice was made. Gains are shares of the greater loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There is no other model.
    OnlyModel,
    /// There is too little to learn weights from: the equal mean is used.
    TooFewBlocks {
        /// Blocks of time with usable rows.
        found: usize,
        /// Blocks that are needed.
        needed: usize,
    },
    /// It has the least loss of all on rows that nothing was learned from, by this gain over the next best kind (single
    /// model, equal mean, weights).
    LeastLoss {
        /// The gain.
        gain: f64,
    },
    /// Weights have the least loss, but their gain over what was chosen is too small to be worth them.
    GainTooSmall {
        /// The gain of the weights.
        gain: f64,
        /// The gain that is needed.
        needed: f64,
    },
}

/// Mean pinball losses over the same rows and levels, rows by their weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// Of each model alone.
    pub singles: Vec<(String, f64)>,
    /// Of the equal mean.
    pub equal: f64,
    /// Of the best weights, learned from other blocks of time; `None` where none were learned.
    pub weighted: Option<f64>,
    /// Rows that were scored.
    pub rows: usize,
    /// Blocks of time that they are from.
    pub blocks: usize,
}

/// A model that is not part of the combination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its name.
    pub model: String,
    /// Share of rows that it had forecasts for.
    pub present: f64,
    /// Whether that was too few; otherwise it was given no weight.
    pub too_few: bool,
}

/// A learned combination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Combination {
    models: Vec<String>,
    left_out: Vec<LeftOut>,
    levels: Vec<f64>,
    weights: Weights,
    choice: Choice,
    reason: Reason,
    losses: Losses,
}

/// Weights of each group of steps and levels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Weights {
    /// Known groups of steps, ascending.
    horizon_groups: Vec<u32>,
    /// Group of each level.
    level_groups: Vec<usize>,
    /// (horizon groups + 1) × level groups × models; the last is for any other group of steps.
    cells: Vec<Vec<f64>>,
}

impl Weights {
    fn cell(&self, horizon_group: Option<usize>, level: usize) -> &[f64] {
        let group = horizon_group.unwrap_or(self.horizon_groups.len());
        let level_groups = self.level_groups.last().map_or(1, |last| last + 1);
        self.cells.get(group * level_groups + self.level_groups[level]).map_or(&[], Vec::as_slice)
    }

    /// Weighted sums at each level. A model without a forecast hands its share to the others; NaN where no forecast has a
    /// weight.
    fn sum(&self, horizon_group: Option<usize>, forecasts: &[Option<&[f64]>], out: &mut [f64]) {
        for (level, out) in out.iter_mut().enumerate() {
            let (mut sum, mut present, mut all) = (0.0, 0.0, 0.0);
            for (weight, forecast) in self.cell(horizon_group, level).iter().zip(forecasts) {
                all += weight;
                if let Some(quantiles) = forecast {
                    present += weight;
                    sum += weight * quantiles[level];
                }
            }
            *out = if present == all { sum } else { sum * (all / present) };
        }
        // Different weights of neighbouring levels can make them cross.
        out.sort_unstable_by(f64::total_cmp);
    }
}

impl Combination {
    /// The combined models, in the order that [`Combination::apply`] takes their forecasts in.
    pub fn models(&self) -> &[String] {
        &self.models
    }

    /// Models that need not be run for it.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// How forecasts are combined.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// Why they are combined so.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// What each kind of forecast scored.
    pub fn losses(&self) -> &Losses {
        &self.losses
    }

    /// Weights of [`Combination::models`] at a level (by index) and a group of steps; those of all groups, where it is not
    /// known. Empty beyond the levels.
    pub fn weights(&self, horizon_group: u32, level: usize) -> &[f64] {
        let group = self.weights.horizon_groups.binary_search(&horizon_group).ok();
        if level < self.levels.len() { self.weights.cell(group, level) } else { &[] }
    }

    /// Combines one row: `forecasts` are the models' quantiles, `out` becomes the combined ones, ascending. A model
    /// without a forecast (`None`, or anything in it not finite) hands its weight to the others.
    pub fn apply(
        &self,
        horizon_group: u32,
        forecasts: &[Option<&[f64]>],
        out: &mut [f64],
    ) -> Result<(), CombineError> {
        let levels = self.levels.len();
        let lengths = forecasts.iter().zip(&self.models).map(|(f, name)| (name.as_str(), f.map_or(levels, <[f64]>::len)));
        for (what, found) in lengths.chain([("out", out.len())]) {
            if found != levels {
                return Err(CombineError::Length { what: what.to_owned(), found, expected: levels });
            }
        }
        if forecasts.len() != self.models.len() {
            let (found, expected) = (forecasts.len(), self.models.len());
            return Err(CombineError::Length { what: "forecasts".to_owned(), found, expected });
        }
        let finite = |f: &Option<&[f64]>| f.filter(|quantiles| quantiles.iter().all(|q| q.is_finite()));
        let forecasts: Vec<Option<&[f64]>> = forecasts.iter().map(finite).collect();
        let group = self.weights.horizon_groups.binary_search(&horizon_group).ok();
        self.weights.sum(group, &forecasts, out);
        if out.iter().all(|q| q.is_finite()) { Ok(()) } else { Err(CombineError::NoForecast) }
    }
}

/// Learns how to combine models from forecasts of the past. Same input, same result, whatever the number of threads.
pub fn combine(validation: &Validation, options: &Options) -> Result<Combination, CombineError> {
    options.check()?;
    let data = Data::new(validation, options)?;
    let m = data.models.len();
    let equal = vec![1.0 / m as f64; m];
    let alone = |i: usize| (0..m).map(|j| f64::from(u8::from(i == j))).collect::<Vec<f64>>();
    let loss_of = |weights: Vec<f64>| data.loss(&data.uniform(weights), &data.rows);
    let singles: Vec<f64> = (0..m).into_par_iter().map(|i| loss_of(alone(i))).collect();
    let mut losses = Losses {
        singles: data.names.iter().map(|name| (*name).to_owned()).zip(singles.iter().copied()).collect(),
        equal: loss_of(equal.clone()),
        weighted: None,
        rows: data.rows.len(),
        blocks: data.blocks.len(),
    };
    let single = (0..m).min_by(|a, b| singles[*a].total_cmp(&singles[*b])).unwrap_or(0);
    let choose_single = || Choice::Single(data.names[single].to_owned());
    let needed = options.blocks_min.max(2);
    let (choice, reason) = if m == 1 {
        (choose_single(), Reason::OnlyModel)
    } else if data.blocks.len() < needed {
        (Choice::Equal, Reason::TooFewBlocks { found: data.blocks.len(), needed })
    } else {
        let (weighted, choice) = data.cross_validate(options);
        losses.weighted = Some(weighted);
        let simple = if singles[single] < losses.equal { choose_single() } else { Choice::Equal };
        decide([(simple, singles[single].min(losses.equal)), (choice, weighted)], singles[single].max(losses.equal), options)
    };
    let weights = match &choice {
        Choice::Single(_) => data.uniform(alone(single)),
        Choice::Equal => data.uniform(equal),
        Choice::Weighted { shrinkage, by_group } => {
            let [overall, grouped] = data.fit(&data.rows, *shrinkage, options);
            if *by_group { grouped } else { overall }
        }
    };
    Ok(data.finish(weights, choice, reason, losses))
}

/// Chooses between the best simple way and weights, each with its loss. `other` is the loss of the other simple way.
fn decide([simple, weighted]: [(Choice, f64); 2], other: f64, options: &Options) -> (Choice, Reason) {
    let gain_over = |loss: f64, of: f64| if loss > 0.0 && of < loss { (loss - of) / loss } else { 0.0 };
    let gain = gain_over(simple.1, weighted.1);
    if gain > 0.0 && gain >= options.gain_min {
        (weighted.0, Reason::LeastLoss { gain })
    } else if gain > 0.0 {
        (simple.0, Reason::GainTooSmall { gain, needed: options.gain_min })
    } else {
        (simple.0, Reason::LeastLoss { gain: gain_over(other.min(weighted.1), simple.1) })
    }
}

/// Usable rows and models.
struct Data<'a> {
    levels: &'a [f64],
    level_groups: Vec<usize>,
    names: Vec<&'a str>,
    models: Vec<&'a [f64]>,
    left_out: Vec<LeftOut>,
    actuals: &'a [f64],
    row_weights: Vec<f64>,
    /// Index of each row's group of steps; of rows that are not used, anything.
    horizon: Vec<usize>,
    horizon_groups: Vec<u32>,
    block_of: &'a [u32],
    /// Distinct blocks of the rows that are used.
    blocks: Vec<u32>,
    /// Rows that are used.
    rows: Vec<usize>,
}

impl<'a> Data<'a> {
    fn new(validation: &Validation<'a>, options: &Options) -> Result<Data<'a>, CombineError> {
        let Validation { levels, models, actuals, row_weights, horizon_groups, blocks } = *validation;
        check_levels(levels)?;
        let n = actuals.len();
        let row_weights = if row_weights.is_empty() { vec![1.0; n] } else { row_weights.to_vec() };
        let lengths = [
            ("row_weights", row_weights.len(), n),
            ("horizon_groups", horizon_groups.len(), n),
            ("blocks", blocks.len(), n),
        ];
        let of_models = models.iter().map(|model| (model.name, model.quantiles.len(), n * levels.len()));
        for (what, found, expected) in lengths.into_iter().chain(of_models) {
            if found != expected {
                return Err(CombineError::Length { what: what.to_owned(), found, expected });
            }
        }
        if let Some(row) = row_weights.iter().position(|weight| !(weight.is_finite() && *weight >= 0.0)) {
            return Err(CombineError::RowWeight(row));
        }
        let scored: Vec<usize> = (0..n).filter(|i| actuals[*i].is_finite() && row_weights[*i] > 0.0).collect();
        let width = levels.len();
        let has = |model: &[f64], row: usize| model[row * width..(row + 1) * width].iter().all(|q| q.is_finite());
        let (mut names, mut kept, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
        for model in models {
            let present = scored.iter().filter(|row| has(model.quantiles, **row)).count();
            let share = present as f64 / scored.len().max(1) as f64;
            if present > 0 && share >= options.present_min {
                names.push(model.name);
                kept.push(model.quantiles);
            } else {
                left_out.push(LeftOut { model: model.name.to_owned(), present: share, too_few: true });
            }
        }
        if scored.is_empty() {
            return Err(CombineError::NoRow);
        }
        if kept.is_empty() {
            return Err(CombineError::NoModel { rows: scored.len() });
        }
        let rows: Vec<usize> = scored.into_iter().filter(|row| kept.iter().all(|model| has(model, *row))).collect();
        if rows.is_empty() {
            return Err(CombineError::NoRow);
        }
        let distinct = |of: &[u32]| rows.iter().map(|row| of[*row]).collect::<BTreeSet<u32>>().into_iter().collect();
        let known: Vec<u32> = distinct(horizon_groups);
        Ok(Data {
            levels,
            level_groups: options.level_groups.of(levels),
            names,
            models: kept,
            left_out,
            actuals,
            row_weights,
            horizon: horizon_groups.iter().map(|group| known.partition_point(|g| g < group)).collect(),
            horizon_groups: known,
            block_of: blocks,
            blocks: distinct(blocks),
            rows,
        })
    }

    fn level_group_count(&self) -> usize {
        self.level_groups.last().map_or(1, |last| last + 1)
    }

    /// The same weights everywhere.
    fn uniform(&self, weights: Vec<f64>) -> Weights {
        let cells = (self.horizon_groups.len() + 1) * self.level_group_count();
        Weights {
            horizon_groups: self.horizon_groups.clone(),
            level_groups: self.level_groups.clone(),
            cells: vec![weights; cells],
        }
    }

    /// Weights of all rows together, and of each group of steps and levels, learned from `rows`.
    fn fit(&self, rows: &[usize], shrinkage: f64, options: &Options) -> [Weights; 2] {
        let m = self.models.len();
        let every: Vec<usize> = (0..self.levels.len()).collect();
        let overall = self.solve(rows, &every, &vec![1.0 / m as f64; m], shrinkage, options);
        let (horizons, groups) = (self.horizon_groups.len(), self.level_group_count());
        // The last "group of steps" is for steps of no known group, and learns from all rows.
        let by_horizon: Vec<Vec<usize>> = (0..=horizons)
            .map(|h| rows.iter().copied().filter(|row| h == horizons || self.horizon[*row] == h).collect())
            .collect();
        let of_cell = |cell: usize| {
            let rows = &by_horizon[cell / groups];
            let levels: Vec<usize> = every.iter().copied().filter(|l| self.level_groups[*l] == cell % groups).collect();
            if rows.len() < options.rows_min || (levels.len() == every.len() && rows.len() == by_horizon[horizons].len()) {
                return overall.clone();
            }
            self.solve(rows, &levels, &overall, shrinkage, options)
        };
        let cells: Vec<Vec<f64>> = (0..(horizons + 1) * groups).into_par_iter().map(of_cell).collect();
        let trimmed = |weights: &Vec<f64>| trim(weights, options);
        let grouped = Weights { cells: cells.iter().map(trimmed).collect(), ..self.uniform(Vec::new()) };
        [self.uniform(trimmed(&overall)), grouped]
    }

    fn solve(&self, rows: &[usize], levels: &[usize], towards: &[f64], shrinkage: f64, options: &Options) -> Vec<f64> {
        let most = options.rows_max;
        let some: Vec<usize> =
            if rows.len() > most { (0..most).map(|i| rows[i * rows.len() / most]).collect() } else { rows.to_vec() };
        let blocks = some.iter().map(|row| self.block_of[*row]).collect::<BTreeSet<u32>>().len();
        let problem = Problem {
            levels: self.levels,
            level_indices: levels,
            models: &self.models,
            actuals: self.actuals,
            row_weights: &self.row_weights,
            rows: &some,
            sum_to_one: options.sum_to_one,
        };
        solve(&problem, towards, shrinkage / blocks.max(1) as f64)
    }

    /// Least loss of weights on blocks that they were not learned from, and how those were learned.
    fn cross_validate(&self, options: &Options) -> (f64, Choice) {
        let folds = options.folds.min(self.blocks.len());
        let n = self.blocks.len();
        let fold = |row: usize| self.blocks.partition_point(|block| *block < self.block_of[row]) * folds / n;
        // Without groups there is nothing to choose.
        let grouped = self.horizon_groups.len() * self.level_group_count() > 1;
        let tasks: Vec<(usize, f64)> = (0..folds).flat_map(|f| options.shrinkage.iter().map(move |s| (f, *s))).collect();
        let held_out: Vec<[(f64, f64); 2]> = tasks
            .par_iter()
            .map(|(f, shrinkage)| {
                let (test, train): (Vec<usize>, Vec<usize>) = self.rows.iter().partition(|row| fold(**row) == *f);
                let fitted = self.fit(&train, *shrinkage, options);
                let count = if grouped { 2 } else { 1 };
                let mut found = [(f64::INFINITY, 1.0); 2];
                for (found, weights) in found.iter_mut().zip(&fitted).take(count) {
                    *found = self.loss_sums(weights, &test);
                }
                found
            })
            .collect();
        let mut best = (f64::INFINITY, Choice::Equal);
        for (s, shrinkage) in options.shrinkage.iter().enumerate() {
            for (by_group, of) in [(false, 0), (true, 1)] {
                let of_folds = held_out.iter().skip(s).step_by(options.shrinkage.len()).map(|found| found[of]);
                let (sum, total) = of_folds.fold((0.0, 0.0), |(a, b), (c, d)| (a + c, b + d));
                if sum / total < best.0 {
                    best = (sum / total, Choice::Weighted { shrinkage: *shrinkage, by_group });
                }
            }
        }
        best
    }

    /// Mean pinball loss over `rows` and levels.
    fn loss(&self, weights: &Weights, rows: &[usize]) -> f64 {
        let (sum, total) = self.loss_sums(weights, rows);
        sum / total
    }

    /// Σ row weight × mean pinball over levels, and Σ row weight.
    fn loss_sums(&self, weights: &Weights, rows: &[usize]) -> (f64, f64) {
        let width = self.levels.len();
        let mut combined = vec![0.0; width];
        let (mut sum, mut total) = (0.0, 0.0);
        let mut forecasts: Vec<Option<&[f64]>> = Vec::with_capacity(self.models.len());
        for row in rows {
            forecasts.clear();
            forecasts.extend(self.models.iter().map(|model| model.get(row * width..(row + 1) * width)));
            weights.sum(Some(self.horizon[*row]), &forecasts, &mut combined);
            let losses = self.levels.iter().zip(&combined).map(|(level, q)| pinball(self.actuals[*row], *q, *level));
            sum += self.row_weights[*row] * losses.sum::<f64>() / width as f64;
            total += self.row_weights[*row];
        }
        (sum, total)
    }

    /// Without the models that have no weight anywhere.
    fn finish(mut self, mut weights: Weights, choice: Choice, reason: Reason, losses: Losses) -> Combination {
        let used: Vec<bool> = (0..self.names.len()).map(|i| weights.cells.iter().any(|cell| cell[i] > 0.0)).collect();
        for cell in &mut weights.cells {
            *cell = cell.iter().zip(&used).filter(|(_, used)| **used).map(|(weight, _)| *weight).collect();
        }
        let mut models = Vec::new();
        for ((name, quantiles), used) in self.names.iter().zip(&self.models).zip(&used) {
            if *used {
                models.push((*name).to_owned());
            } else {
                let width = self.levels.len();
                let scored = quantiles.chunks_exact(width).zip(self.actuals).zip(&self.row_weights);
                let scored = scored.filter(|((_, actual), weight)| actual.is_finite() && **weight > 0.0);
                let (present, all) = scored.fold((0, 0), |(present, all), ((row, _), _)| {
                    (present + usize::from(row.iter().all(|q| q.is_finite())), all + 1)
                });
                let present = present as f64 / f64::from(all.max(1));
                self.left_out.push(LeftOut { model: (*name).to_owned(), present, too_few: false });
            }
        }
        let levels = self.levels.to_vec();
        Combination { models, left_out: self.left_out, levels, weights, choice, reason, losses }
    }
}

/// Weights without those that are too small; those left keep the sum. The greatest always stays.
fn trim(weights: &[f64], options: &Options) -> Vec<f64> {
    let greatest = weights.iter().copied().fold(0.0, f64::max);
    let least = options.weight_min.min(greatest);
    let kept: f64 = weights.iter().filter(|w| **w >= least).sum();
    let all: f64 = weights.iter().sum();
    let by = if kept > 0.0 { all / kept } else { 1.0 };
    weights.iter().map(|w| if *w >= least { w * by } else { 0.0 }).collect()
}

#[cfg(test)]
#[path = "combine/tests.rs"]
mod tests;
