//! Combination of several models' quantile forecasts by averaging quantiles (Vincentisation: Ratcliff 1979; Lichtendahl,
//! Grushka-Cockayne and Winkler 2013), with weights that minimise the pinball loss (Taylor and Taylor 2023).
//!
//! The equal mean is hard to beat, because its weights need no data (the "forecast combination puzzle": Stock and Watson
//! 2004; Smith and Wallis 2009). So weights are shrunk: those of all rows together towards equal ones, those of a group of
//! steps and levels towards those of all, and those of a series there towards that group's. And [`combine`] uses weights
//! only if they win on blocks of time that they were not learned from; otherwise the equal mean, or the best single model.
//! [`Combination::reason`] says which and why.

mod fit;
mod learn;
mod solver;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use learn::combine;

use crate::metrics::LevelsError;

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
    /// Number of the series that the row belongs to; empty: no series gets weights of its own.
    pub series: &'a [u32],
    /// Block of time: rows that may depend on each other share one, usually the day of the origin. Ascends with time. Rows
    /// of consecutive numbers may have some of what happened in common, so none are judged by weights that the others
    /// taught; blocks that have nothing in common are at least two apart.
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
    /// By how much of the loss weights have to beat the best of the equal mean and the single models, and weights by series
    /// those that all share.
    pub gain_min: f64,
    /// Share of rows that a model needs forecasts for.
    pub present_min: f64,
    /// Folds of the cross-validation, at least 2.
    pub folds: usize,
    /// Blocks of time that weights are learned from, at least; with fewer, the equal mean is used.
    pub blocks_min: usize,
    /// Rows of a group of steps, at least, for weights of its own.
    pub rows_min: usize,
    /// Rows of a group of steps of a series, at least, for weights of its own.
    pub series_rows_min: usize,
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
            series_rows_min: 30,
            rows_max: 5_000,
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
            ("series_rows_min", self.series_rows_min >= 1),
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
    /// Losses are too great for a number.
    #[error("the losses of forecasts are too great for a number")]
    NotFinite,
    /// None of the models with a weight has a finite forecast.
    #[error("none of the combined models has a finite forecast")]
    NoForecast,
}

/// What has weights of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Own {
    /// Nothing: they are the same for all series, steps and levels.
    Nothing,
    /// Each group of steps and of levels.
    Steps,
    /// Each series, by groups of steps and of levels.
    Series,
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
        /// What has weights of its own.
        own: Own,
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

/// What [`combine`] finds.
#[derive(Debug, Clone, PartialEq)]
pub struct Combined {
    /// The combination.
    pub combination: Combination,
    /// What such a combination makes of each row of the input, where its weights are learned from other blocks of time,
    /// earlier and later ones: rows × levels, NaN where it has no forecast. How much a combination errs is seen here; on
    /// rows that its weights know, it errs less.
    pub unseen: Vec<f64>,
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
    /// Of series without weights of their own.
    shared: Cells,
    /// Of those that have some.
    of_series: BTreeMap<u32, Cells>,
}

/// (Horizon groups + 1) × level groups × models; the last is for any other group of steps.
type Cells = Vec<Vec<f64>>;

impl Weights {
    /// Those of a series, by cell.
    fn of(&self, series: u32) -> &Cells {
        self.of_series.get(&series).unwrap_or(&self.shared)
    }

    /// Those at a level and a group of steps.
    fn cell<'a>(&self, cells: &'a Cells, horizon_group: Option<usize>, level: usize) -> &'a [f64] {
        let group = horizon_group.unwrap_or(self.horizon_groups.len());
        let level_groups = self.level_groups.last().map_or(1, |last| last + 1);
        cells.get(group * level_groups + self.level_groups[level]).map_or(&[], Vec::as_slice)
    }

    /// All cells there are.
    fn all_cells(&self) -> impl Iterator<Item = &Cells> {
        std::iter::once(&self.shared).chain(self.of_series.values())
    }

    /// Weighted sums at each level, and whether all of them are finite. A model without a forecast (`None`, or anything in
    /// it not finite) hands its weight to the others; where none has one that counts, sums are NaN.
    fn sum(
        &self,
        series: u32,
        horizon_group: Option<usize>,
        forecasts: &mut [Option<&[f64]>],
        out: &mut [f64],
    ) -> bool {
        let is_finite = |quantiles: &&[f64]| quantiles.iter().all(|quantile| quantile.is_finite());
        forecasts.iter_mut().for_each(|forecast| *forecast = forecast.filter(is_finite));
        let cells = self.of(series);
        for (level, out) in out.iter_mut().enumerate() {
            let (mut sum, mut present, mut all) = (0.0, 0.0, 0.0);
            for (weight, forecast) in self.cell(cells, horizon_group, level).iter().zip(&*forecasts) {
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
        out.iter().all(|quantile| quantile.is_finite())
    }
}

impl Combination {
    /// Whether all of it goes together, as what was read from somewhere may not.
    pub fn is_sound(&self) -> bool {
        let Weights { horizon_groups, level_groups, .. } = &self.weights;
        let groups = level_groups.iter().max().map_or(1, |last| last.saturating_add(1));
        let is_sound = |cells: &Cells| {
            let is_weight = |weight: &f64| weight.is_finite() && *weight >= 0.0;
            Some(cells.len()) == groups.checked_mul(horizon_groups.len() + 1)
                && cells.iter().all(|weights| weights.len() == self.models.len() && weights.iter().all(is_weight))
        };
        horizon_groups.is_sorted()
            && level_groups.len() == self.levels.len()
            && level_groups.last() == level_groups.iter().max()
            && self.weights.all_cells().all(is_sound)
    }

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

    /// Whether a series has weights of its own.
    pub fn has_own(&self, series: u32) -> bool {
        self.weights.of_series.contains_key(&series)
    }

    /// Weights of [`Combination::models`] for a series (by its number) at a level (by index) and a group of steps; those of
    /// all, where it is not known. Empty beyond the levels.
    pub fn weights(&self, series: u32, horizon_group: u32, level: usize) -> &[f64] {
        let group = self.weights.horizon_groups.binary_search(&horizon_group).ok();
        if level < self.levels.len() { self.weights.cell(self.weights.of(series), group, level) } else { &[] }
    }

    /// Combines one row: `forecasts` are the models' quantiles, `out` becomes the combined ones, ascending. A model
    /// without a forecast (`None`, or anything in it not finite) hands its weight to the others. A series or a group of
    /// steps that is not known gets the weights of all.
    pub fn apply(
        &self,
        series: u32,
        horizon_group: u32,
        forecasts: &[Option<&[f64]>],
        out: &mut [f64],
    ) -> Result<(), CombineError> {
        let levels = self.levels.len();
        let lengths =
            forecasts.iter().zip(&self.models).map(|(f, name)| (name.as_str(), f.map_or(levels, <[f64]>::len)));
        for (what, found) in lengths.chain([("out", out.len())]) {
            if found != levels {
                return Err(CombineError::Length { what: what.to_owned(), found, expected: levels });
            }
        }
        if forecasts.len() != self.models.len() {
            let (found, expected) = (forecasts.len(), self.models.len());
            return Err(CombineError::Length { what: "forecasts".to_owned(), found, expected });
        }
        let group = self.weights.horizon_groups.binary_search(&horizon_group).ok();
        let is_there = self.weights.sum(series, group, &mut forecasts.to_vec(), out);
        if is_there { Ok(()) } else { Err(CombineError::NoForecast) }
    }
}

#[cfg(test)]
#[path = "combine/tests.rs"]
mod tests;
