//! Weights with the least loss on some rows: of all together, of groups of steps and levels, and of series.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::learn::Data;
use super::solver::{Problem, solve};
use super::{Cells, Options, Own, Weights};

/// Rows of a group of steps of a series that weights are learned from, where there are many series: enough for some weights
/// that are shrunk, and not so many that hundreds of series take long.
const SERIES_ROWS: usize = 200;

impl Data<'_> {
    /// The same weights everywhere.
    pub fn uniform(&self, weights: Vec<f64>) -> Weights {
        self.shared(vec![weights; self.cell_count()])
    }

    fn shared(&self, cells: Cells) -> Weights {
        let (horizon_groups, level_groups) = (self.horizon_groups.clone(), self.level_groups.clone());
        Weights { horizon_groups, level_groups, shared: cells, of_series: BTreeMap::new() }
    }

    fn cell_count(&self) -> usize {
        (self.horizon_groups.len() + 1) * self.level_group_count()
    }

    /// What can have weights of its own, the least first.
    pub fn owners(&self) -> Vec<Own> {
        let mut owners = vec![Own::Nothing];
        // Where there is one group, its weights are those of all.
        if self.horizon_groups.len() * self.level_group_count() > 1 {
            owners.push(Own::Steps);
        }
        let mut of_series: BTreeMap<u32, usize> = BTreeMap::new();
        for series in self.rows.iter().filter_map(|row| self.series.get(*row)) {
            *of_series.entry(*series).or_default() += 1;
        }
        // One fold is left out each time.
        let is_enough = |rows: &usize| {
            (rows - rows / self.folds().max(1)) / self.horizon_groups.len().max(1) >= self.options.series_rows_min
        };
        if of_series.len() > 1 && of_series.values().any(is_enough) {
            owners.push(Own::Series);
        }
        owners
    }

    /// Weights learned from `rows`: for each of `owners`, those where it has some of its own.
    pub fn fit(&self, rows: &[usize], shrinkage: f64, owners: &[Own]) -> Vec<Weights> {
        let m = self.models.len();
        let every: Vec<usize> = (0..self.levels.len()).collect();
        let overall = self.solve(rows, &every, &vec![1.0 / m as f64; m], shrinkage, self.options.rows_max);
        let trimmed = |cells: &Cells| cells.iter().map(|weights| self.trim(weights)).collect();
        let is_needed = owners.iter().any(|own| *own > Own::Nothing);
        let steps = if is_needed { self.of_steps(rows, &overall, shrinkage) } else { Cells::new() };
        let of = |own: &Own| match own {
            Own::Nothing => self.uniform(self.trim(&overall)),
            Own::Steps => self.shared(trimmed(&steps)),
            Own::Series => {
                let of_series = self.of_series(rows, &steps, shrinkage);
                let of_series = of_series.iter().map(|(series, cells)| (*series, trimmed(cells))).collect();
                Weights { of_series, ..self.shared(trimmed(&steps)) }
            }
        };
        owners.iter().map(of).collect()
    }

    /// Of each group of steps and levels.
    fn of_steps(&self, rows: &[usize], overall: &[f64], shrinkage: f64) -> Cells {
        let groups = self.level_group_count();
        let by_steps = self.by_steps(rows);
        let of_cell = |cell: usize| {
            let (of_steps, levels) = (&by_steps[cell / groups], self.levels_of(cell % groups));
            let is_all = levels.len() == self.levels.len() && of_steps.len() == rows.len();
            if of_steps.len() < self.options.rows_min || is_all {
                return overall.to_vec();
            }
            self.solve(of_steps, &levels, overall, shrinkage, self.options.rows_max)
        };
        (0..self.cell_count()).into_par_iter().map(of_cell).collect()
    }

    /// Of each group of steps and levels of each series that there is enough of.
    fn of_series(&self, rows: &[usize], steps: &Cells, shrinkage: f64) -> BTreeMap<u32, Cells> {
        let Options { rows_max, series_rows_min: least, .. } = *self.options;
        let mut by_series: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for row in rows {
            by_series.entry(self.series[*row]).or_default().push(*row);
        }
        let (horizons, groups) = (self.horizon_groups.len(), self.level_group_count());
        let most = (rows_max / by_series.len().max(1)).max(SERIES_ROWS);
        let of_series = |(series, rows): (&u32, &Vec<usize>)| {
            let by_steps = self.by_steps(rows);
            // Steps of no known group have too little of their own to do with a series.
            let is_enough = |group: usize| group < horizons && by_steps[group].len() >= least;
            let of_cell = |(cell, towards): (usize, &Vec<f64>)| match cell / groups {
                group if is_enough(group) => {
                    self.solve(&by_steps[group], &self.levels_of(cell % groups), towards, shrinkage, most)
                }
                _ => towards.clone(),
            };
            (0..horizons).any(is_enough).then(|| (*series, steps.iter().enumerate().map(of_cell).collect()))
        };
        by_series.par_iter().filter_map(of_series).collect()
    }

    fn levels_of(&self, group: usize) -> Vec<usize> {
        (0..self.levels.len()).filter(|level| self.level_groups[*level] == group).collect()
    }

    /// The rows of each group of steps. The last is for steps of no known group, and has all rows.
    fn by_steps(&self, rows: &[usize]) -> Vec<Vec<usize>> {
        let mut by_steps = vec![Vec::new(); self.horizon_groups.len()];
        for row in rows {
            by_steps[self.horizon[*row]].push(*row);
        }
        by_steps.push(rows.to_vec());
        by_steps
    }

    /// Of `rows`, but of so many evenly spaced ones where they are more.
    fn solve(&self, rows: &[usize], levels: &[usize], towards: &[f64], shrinkage: f64, most: usize) -> Vec<f64> {
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
            sum_to_one: self.options.sum_to_one,
        };
        solve(&problem, towards, shrinkage / blocks.max(1) as f64)
    }

    /// Weights without those that are too small; those left keep the sum. The greatest always stays.
    fn trim(&self, weights: &[f64]) -> Vec<f64> {
        let greatest = weights.iter().copied().fold(0.0, f64::max);
        let least = self.options.weight_min.min(greatest);
        let kept: f64 = weights.iter().filter(|w| **w >= least).sum();
        let all: f64 = weights.iter().sum();
        let by = if kept > 0.0 { all / kept } else { 1.0 };
        weights.iter().map(|w| if *w >= least { w * by } else { 0.0 }).collect()
    }
}
