//! What [`combine`] does: the rows that count, the loss of each way to combine on blocks of time that it was not learned
//! from, and the choice.

use std::collections::BTreeSet;

use rayon::prelude::*;

use super::{Choice, Combination, CombineError, Combined, LeftOut, Losses, Options, Own, Reason, Validation, Weights};
use crate::metrics::{check_levels, pinball};

/// Learns how to combine models from forecasts of the past. Same input, same result, whatever the number of threads.
pub fn combine(validation: &Validation, options: &Options) -> Result<Combined, CombineError> {
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
    if !losses.equal.is_finite() || singles.iter().any(|loss| !loss.is_finite()) {
        return Err(CombineError::NotFinite);
    }
    let single = (0..m).min_by(|a, b| singles[*a].total_cmp(&singles[*b])).unwrap_or(0);
    let choose_single = || Choice::Single(data.names[single].to_owned());
    let needed = options.blocks_min.max(2);
    let (choice, reason) = if m == 1 {
        (choose_single(), Reason::OnlyModel)
    } else if data.blocks.len() < needed {
        (Choice::Equal, Reason::TooFewBlocks { found: data.blocks.len(), needed })
    } else {
        let (weighted, choice) = data.cross_validate();
        losses.weighted = Some(weighted).filter(|loss| loss.is_finite());
        let simple = if singles[single] < losses.equal { choose_single() } else { Choice::Equal };
        decide(
            [(simple, singles[single].min(losses.equal)), (choice, weighted)],
            singles[single].max(losses.equal),
            options,
        )
    };
    let (weights, unseen) = match &choice {
        Choice::Single(_) | Choice::Equal => {
            let weights = data.uniform(if choice == Choice::Equal { equal } else { alone(single) });
            let unseen = data.combined(|_| &weights);
            (weights, unseen)
        }
        Choice::Weighted { shrinkage, own } => {
            // Those of the folds anew: all that cross-validation tried would be much to keep.
            let fit = |rows: &[usize]| data.fit(rows, *shrinkage, &[*own]).swap_remove(0);
            let of_folds: Vec<Weights> = (0..data.folds()).into_par_iter().map(|f| fit(&data.divided(f).0)).collect();
            (fit(&data.rows), data.combined(|row| &of_folds[data.fold(row)]))
        }
    };
    Ok(Combined { combination: data.finish(weights, choice, reason, losses), unseen })
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
pub(super) struct Data<'a> {
    pub options: &'a Options,
    pub levels: &'a [f64],
    pub level_groups: Vec<usize>,
    names: Vec<&'a str>,
    pub models: Vec<&'a [f64]>,
    /// Share of rows with an actual value that each model has forecasts for.
    present: Vec<f64>,
    left_out: Vec<LeftOut>,
    pub actuals: &'a [f64],
    pub row_weights: Vec<f64>,
    /// Index of each row's group of steps; of one that no row used is in, their number.
    pub horizon: Vec<usize>,
    pub horizon_groups: Vec<u32>,
    /// Series of each row; empty where none gets weights of its own.
    pub series: &'a [u32],
    pub block_of: &'a [u32],
    /// Distinct blocks of the rows that are used.
    blocks: Vec<u32>,
    /// Rows that are used.
    pub rows: Vec<usize>,
}

impl<'a> Data<'a> {
    fn new(validation: &Validation<'a>, options: &'a Options) -> Result<Data<'a>, CombineError> {
        let Validation { levels, models, actuals, row_weights, horizon_groups, series, blocks } = *validation;
        check_levels(levels)?;
        let n = actuals.len();
        let row_weights = if row_weights.is_empty() { vec![1.0; n] } else { row_weights.to_vec() };
        let lengths = [
            ("row_weights", row_weights.len(), n),
            ("horizon_groups", horizon_groups.len(), n),
            ("series", if series.is_empty() { n } else { series.len() }, n),
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
        let (mut names, mut kept, mut shares, mut left_out) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for model in models {
            let present = scored.iter().filter(|row| has(model.quantiles, **row)).count();
            let share = present as f64 / scored.len().max(1) as f64;
            if present > 0 && share >= options.present_min {
                names.push(model.name);
                kept.push(model.quantiles);
                shares.push(share);
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
            options,
            levels,
            level_groups: options.level_groups.of(levels),
            names,
            models: kept,
            present: shares,
            left_out,
            actuals,
            row_weights,
            horizon: horizon_groups.iter().map(|group| known.binary_search(group).unwrap_or(known.len())).collect(),
            horizon_groups: known,
            series,
            block_of: blocks,
            blocks: distinct(blocks),
            rows,
        })
    }

    /// Number of groups of levels.
    pub fn level_group_count(&self) -> usize {
        self.level_groups.last().map_or(1, |last| last + 1)
    }

    /// Number of folds of the cross-validation.
    pub fn folds(&self) -> usize {
        self.options.folds.min(self.blocks.len())
    }

    /// The fold that a row is in: neighbouring blocks share one.
    fn fold(&self, row: usize) -> usize {
        let before = self.blocks.partition_point(|block| *block < self.block_of[row]);
        (before * self.folds() / self.blocks.len()).min(self.folds() - 1)
    }

    /// The rows that may teach what a fold is judged by, and those in it. What happened in a block that adjoins the fold may
    /// be the fold's own.
    fn divided(&self, fold: usize) -> (Vec<usize>, Vec<usize>) {
        let (test, others): (Vec<usize>, Vec<usize>) = self.rows.iter().partition(|row| self.fold(**row) == fold);
        let blocks = || test.iter().map(|row| self.block_of[*row]);
        let (first, last) = (blocks().min().unwrap_or_default(), blocks().max().unwrap_or_default());
        let adjoining = first.saturating_sub(1)..=last.saturating_add(1);
        let train = others.into_iter().filter(|row| !adjoining.contains(&self.block_of[*row])).collect();
        (train, test)
    }

    /// Least loss of weights on blocks that they were not learned from, and how those were learned.
    fn cross_validate(&self) -> (f64, Choice) {
        let (owners, strengths) = (self.owners(), &self.options.shrinkage);
        let tasks: Vec<(usize, f64)> =
            (0..self.folds()).flat_map(|fold| strengths.iter().map(move |strength| (fold, *strength))).collect();
        let held_out: Vec<Vec<(f64, f64)>> = tasks
            .par_iter()
            .map(|(fold, shrinkage)| {
                let (train, test) = self.divided(*fold);
                let fitted = self.fit(&train, *shrinkage, &owners);
                fitted.iter().map(|weights| self.loss_sums(weights, &test)).collect()
            })
            .collect();
        let loss_of = |of: usize, s: usize| {
            let of_folds = held_out.iter().skip(s).step_by(strengths.len()).map(|found| found[of]);
            let (sum, total) = of_folds.fold((0.0, 0.0), |(a, b), (c, d)| (a + c, b + d));
            sum / total
        };
        let mut best = (f64::INFINITY, Choice::Equal);
        for (of, own) in owners.iter().enumerate() {
            // Weights by series make nearly all models run: they have to be worth it.
            let share = if *own == Own::Series { 1.0 - self.options.gain_min } else { 1.0 };
            let limit = share * best.0;
            for (s, shrinkage) in strengths.iter().enumerate() {
                let loss = loss_of(of, s);
                if loss < limit.min(best.0) {
                    best = (loss, Choice::Weighted { shrinkage: *shrinkage, own: *own });
                }
            }
        }
        best
    }

    /// Each row of the input, combined by its weights; NaN where that is nothing.
    fn combined<'w>(&self, weights: impl Fn(usize) -> &'w Weights) -> Vec<f64> {
        let width = self.levels.len();
        let mut all = vec![f64::NAN; self.actuals.len() * width];
        let mut forecasts = Vec::with_capacity(self.models.len());
        for (row, out) in all.chunks_mut(width).enumerate() {
            if !self.sum(weights(row), row, &mut forecasts, out) {
                out.fill(f64::NAN);
            }
        }
        all
    }

    /// Combines a row, and says whether that is finite. `forecasts` is what it works in.
    fn sum(&self, weights: &Weights, row: usize, forecasts: &mut Vec<Option<&'a [f64]>>, out: &mut [f64]) -> bool {
        let width = self.levels.len();
        forecasts.clear();
        forecasts.extend(self.models.iter().map(|model| model.get(row * width..(row + 1) * width)));
        weights.sum(self.series_of(row), Some(self.horizon[row]), forecasts, out)
    }

    /// The series of a row; any where no series has weights of its own.
    fn series_of(&self, row: usize) -> u32 {
        self.series.get(row).copied().unwrap_or_default()
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
        let mut forecasts = Vec::with_capacity(self.models.len());
        for row in rows {
            self.sum(weights, *row, &mut forecasts, &mut combined);
            let losses = self.levels.iter().zip(&combined).map(|(level, q)| pinball(self.actuals[*row], *q, *level));
            sum += self.row_weights[*row] * losses.sum::<f64>() / width as f64;
            total += self.row_weights[*row];
        }
        (sum, total)
    }

    /// Without the models that have no weight anywhere.
    fn finish(mut self, mut weights: Weights, choice: Choice, reason: Reason, losses: Losses) -> Combination {
        let has_weight = |i: usize| weights.all_cells().flatten().any(|cell| cell[i] > 0.0);
        let used: Vec<bool> = (0..self.names.len()).map(has_weight).collect();
        for cell in std::iter::once(&mut weights.shared).chain(weights.of_series.values_mut()).flatten() {
            *cell = cell.iter().zip(&used).filter(|(_, used)| **used).map(|(weight, _)| *weight).collect();
        }
        let mut models = Vec::new();
        for ((name, present), used) in self.names.iter().zip(&self.present).zip(&used) {
            if *used {
                models.push((*name).to_owned());
            } else {
                self.left_out.push(LeftOut { model: (*name).to_owned(), present: *present, too_few: false });
            }
        }
        let levels = self.levels.to_vec();
        Combination { models, left_out: self.left_out, levels, weights, choice, reason, losses }
    }
}
