//! What [`combine`] does: the rows that count, the loss of each way to combine on blocks of time that it was not learned
//! from, and the choice.

use std::collections::BTreeSet;

use rayon::prelude::*;

use super::solver::{Problem, solve};
use super::{Choice, Combination, CombineError, LeftOut, Losses, Options, Reason, Validation, Weights};
use crate::metrics::{check_levels, pinball};

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
        let (weighted, choice) = data.cross_validate(options);
        losses.weighted = Some(weighted).filter(|loss| loss.is_finite());
        let simple = if singles[single] < losses.equal { choose_single() } else { Choice::Equal };
        decide(
            [(simple, singles[single].min(losses.equal)), (choice, weighted)],
            singles[single].max(losses.equal),
            options,
        )
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
    /// Share of rows with an actual value that each model has forecasts for.
    present: Vec<f64>,
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
            levels,
            level_groups: options.level_groups.of(levels),
            names,
            models: kept,
            present: shares,
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
            if rows.len() < options.rows_min
                || (levels.len() == every.len() && rows.len() == by_horizon[horizons].len())
            {
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
        let tasks: Vec<(usize, f64)> =
            (0..folds).flat_map(|f| options.shrinkage.iter().map(move |s| (f, *s))).collect();
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

/// Weights without those that are too small; those left keep the sum. The greatest always stays.
fn trim(weights: &[f64], options: &Options) -> Vec<f64> {
    let greatest = weights.iter().copied().fold(0.0, f64::max);
    let least = options.weight_min.min(greatest);
    let kept: f64 = weights.iter().filter(|w| **w >= least).sum();
    let all: f64 = weights.iter().sum();
    let by = if kept > 0.0 { all / kept } else { 1.0 };
    weights.iter().map(|w| if *w >= least { w * by } else { 0.0 }).collect()
}
