//! Split-conformal calibration of quantile forecasts (Romano, Patterson and Candès 2019, "Conformalized quantile
//! regression"), each level for itself, by group of series and forecast step.
//!
//! The score of a row at a level is how far its actual value lies above the quantile: in the unit of the series
//! ([`Score::Additive`]) or in units of the forecast's own spread ([`Score::Scaled`]). The correction of an upper level τ
//! is the ⌈(n + 1) τ⌉-th smallest of n scores, of a lower level the mirror image: if the next row is exchangeable with
//! those n, its quantile is corrected to cover at least τ. The median takes the median score.
//!
//! * Few rows: a step is pooled with its neighbours until there are enough; a group is shrunk towards all groups, and
//!   all groups towards no correction, by n / (n + shrinkage), n being the effective number of rows. Where scores are
//!   scaled, so that groups are alike, only rows at the level's end count towards a group's n: 200 rows say much about the
//!   median and little about the level 0.975.
//! * Rows of one block (a day) depend on each other. Their effective number is n over the design effect of the share
//!   below the corrected quantile (Kish 1965), taken from the sums of blocks.
//! * To widen costs sharpness, to narrow wrongly costs a promise. So a quantile moves outwards by what the scores say,
//!   but inwards only by as much as a one-sided confidence bound of the same quantile of scores still says (an order
//!   statistic as in Wilks 1941), and not at all where the bound is outside.
//! * Which score, or none: cross-validation over blocks of time. Of those whose pinball loss is within `tolerance` of
//!   the least, the best calibrated wins (sharpness subject to calibration: Gneiting, Balabdaoui and Raftery 2007).

use std::collections::BTreeSet;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::isotonic::Repair;
use super::{CalibrateError, Rows, spread};
use crate::metrics::{check_levels, pinball};

/// What a correction is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// Nothing is corrected.
    None,
    /// The unit of the series. For groups of series of the same size.
    Additive,
    /// The distance between the outermost quantiles of the row. A row without spread has no score and stays as it is.
    Scaled,
}

/// How corrections are learned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The score; chosen by cross-validation when `None`.
    pub score: Option<Score>,
    /// Rows that a correction is learned from, at least; steps are pooled until there are as many.
    pub rows_min: usize,
    /// The same, as rows that the quantile should leave outside: a level of 0.025 needs 40 times as many rows.
    pub outside_min: f64,
    /// Blocks of time that a correction is learned from, at least.
    pub blocks_min: usize,
    /// Effective rows that "no correction" counts for; 0 trusts the scores alone.
    pub shrinkage: f64,
    /// Standard normal quantile of the bound that narrowing has to keep; 1.28 is 90 % confidence.
    pub narrowing_z: f64,
    /// Folds of the cross-validation, at least 2.
    pub folds: usize,
    /// Relative difference of pinball losses that is given up for better calibration.
    pub tolerance: f64,
    /// By how much a score has to be better calibrated than no correction, where that is within the tolerance too.
    pub improvement_min: f64,
    /// What is done to corrected quantiles.
    pub repair: Repair,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            score: None,
            rows_min: 20,
            outside_min: 3.0,
            blocks_min: 5,
            shrinkage: 10.0,
            narrowing_z: 1.28,
            folds: 5,
            tolerance: 0.005,
            improvement_min: 0.01,
            repair: Repair::default(),
        }
    }
}

impl Options {
    fn check(&self) -> Result<(), CalibrateError> {
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        for (name, good) in [
            ("outside_min", not_negative(self.outside_min)),
            ("shrinkage", not_negative(self.shrinkage)),
            ("narrowing_z", not_negative(self.narrowing_z)),
            ("tolerance", not_negative(self.tolerance)),
            ("improvement_min", not_negative(self.improvement_min)),
            ("folds", self.folds >= 2),
        ] {
            if !good {
                return Err(CalibrateError::Option(name));
            }
        }
        Ok(())
    }

    /// Rows that a correction at `level` should be learned from.
    fn rows_needed(&self, level: f64) -> usize {
        self.rows_min.max((self.outside_min / level.min(1.0 - level)).ceil() as usize).max(1)
    }
}

/// One learned correction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Correction {
    /// What is added to the quantile, in units of the score.
    pub shift: f64,
    /// Rows that it was learned from, before it was shrunk; 0: there was too little, and this is what its group's steps,
    /// or all groups, say.
    pub rows: usize,
    /// The same, had they been independent.
    pub effective_rows: f64,
    /// Neighbouring steps on each side that were pooled.
    pub radius: usize,
}

/// Why the score is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The options say so.
    Given,
    /// There are too few blocks of time to learn from: nothing is corrected.
    TooFewBlocks {
        /// Blocks with a usable row.
        found: usize,
        /// Blocks that are needed.
        needed: usize,
    },
    /// It won the cross-validation; see [`Conformal::trials`].
    CrossValidated,
}

/// What a score did on rows that it was not learned from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The score.
    pub score: Score,
    /// Mean pinball loss over rows, by their weight, and levels.
    pub pinball: f64,
    /// Mean over levels of |share of actual values that are not above the quantile − level|.
    pub miscalibration: f64,
}

/// Learned corrections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conformal {
    levels: Vec<f64>,
    score: Score,
    why: Why,
    trials: Vec<Trial>,
    rows_left_out: usize,
    repair: Repair,
    table: Table,
}

/// Corrections of each group and step, ascending, and of all groups together at the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Table {
    groups: Vec<u32>,
    steps: Vec<u32>,
    /// (groups + 1) × steps × levels.
    corrections: Vec<Correction>,
}

impl Conformal {
    /// Learns corrections of quantiles at `levels` from `rows`. Rows with a missing actual value or a quantile that is
    /// not finite are left out. Without usable rows nothing is corrected.
    ///
    /// Steps should be few or repeat often; the time is about rows × levels × folds.
    pub fn fit(levels: &[f64], rows: &Rows, options: &Options) -> Result<Conformal, CalibrateError> {
        check_levels(levels)?;
        options.check()?;
        rows.check(levels.len())?;
        let data = Data::new(levels, rows);
        let blocks = distinct(data.rows.iter().map(|row| row.block));
        let needed = options.blocks_min.max(2);
        let mut trials = Vec::new();
        let (score, why) = match options.score {
            Some(score) => (score, Why::Given),
            None if blocks.len() < needed => (Score::None, Why::TooFewBlocks { found: blocks.len(), needed }),
            None => {
                trials = data.cross_validate(&blocks, options);
                (choose(&trials, options), Why::CrossValidated)
            }
        };
        let everything: Vec<&Row> = data.rows.iter().collect();
        let table = data.fit(&everything, score, options);
        let rows_left_out = rows.actuals.len() - data.rows.len();
        Ok(Conformal { levels: levels.to_vec(), score, why, trials, rows_left_out, repair: options.repair, table })
    }

    /// The score that corrections are measured in.
    pub fn score(&self) -> Score {
        self.score
    }

    /// Why it is that score.
    pub fn why(&self) -> Why {
        self.why
    }

    /// What cross-validation said of each score; empty without one.
    pub fn trials(&self) -> &[Trial] {
        &self.trials
    }

    /// Rows that nothing could be learned from.
    pub fn rows_left_out(&self) -> usize {
        self.rows_left_out
    }

    /// The corrections of `group` (all groups together, where it is not known) at `step` (or the nearest before it), one
    /// a level. Empty when nothing was learned.
    pub fn corrections(&self, group: u32, step: u32) -> &[Correction] {
        let table = &self.table;
        let group = table.groups.binary_search(&group).unwrap_or(table.groups.len());
        let step = table.steps.partition_point(|s| *s <= step).saturating_sub(1);
        let first = (group * table.steps.len() + step) * self.levels.len();
        table.corrections.get(first..first + self.levels.len()).unwrap_or(&[])
    }

    /// Corrects one row of quantiles and puts it in order. Fails for a quantile that is not finite, before or after;
    /// `quantiles` are as before then.
    pub fn apply(&self, group: u32, step: u32, quantiles: &mut [f64]) -> Result<(), CalibrateError> {
        if quantiles.len() != self.levels.len() {
            let (found, expected) = (quantiles.len(), self.levels.len());
            return Err(CalibrateError::Length { what: "quantiles", found, expected });
        }
        correct(self.score, self.corrections(group, step), quantiles)?;
        self.repair.apply(quantiles).map(|_| ())
    }
}

/// Adds the corrections; all or nothing.
fn correct(score: Score, corrections: &[Correction], quantiles: &mut [f64]) -> Result<(), CalibrateError> {
    let unit = unit(score, quantiles).unwrap_or(0.0);
    let shifted = |q: f64, c: &Correction| q + c.shift * unit;
    if quantiles.iter().any(|q| !q.is_finite())
        || quantiles.iter().zip(corrections).any(|(q, c)| !shifted(*q, c).is_finite())
    {
        return Err(CalibrateError::NotFinite);
    }
    quantiles.iter_mut().zip(corrections).for_each(|(q, c)| *q = shifted(*q, c));
    Ok(())
}

/// What a score of this row is measured in; `None` when it has none.
fn unit(score: Score, quantiles: &[f64]) -> Option<f64> {
    match score {
        Score::None => None,
        Score::Additive => Some(1.0),
        Score::Scaled => spread(quantiles),
    }
}

fn distinct(values: impl Iterator<Item = u32>) -> Vec<u32> {
    values.collect::<BTreeSet<u32>>().into_iter().collect()
}

/// The best calibrated of those whose loss is near the least. No correction is worth a little calibration.
fn choose(trials: &[Trial], options: &Options) -> Score {
    let least = trials.iter().map(|trial| trial.pinball).fold(f64::INFINITY, f64::min);
    let near = trials.iter().filter(|trial| trial.pinball <= least * (1.0 + options.tolerance));
    let handicap = |trial: &Trial| if trial.score == Score::None { 0.0 } else { options.improvement_min };
    let key = |trial: &Trial| trial.miscalibration + handicap(trial);
    near.min_by(|a, b| key(a).total_cmp(&key(b))).map_or(Score::None, |trial| trial.score)
}

/// A row that something can be learned from.
struct Row<'a> {
    quantiles: &'a [f64],
    actual: f64,
    weight: f64,
    /// Indices among the distinct groups and steps.
    group: usize,
    step: usize,
    block: u32,
}

struct Data<'a> {
    levels: &'a [f64],
    rows: Vec<Row<'a>>,
    groups: Vec<u32>,
    steps: Vec<u32>,
}

impl<'a> Data<'a> {
    /// `rows` have been checked.
    fn new(levels: &'a [f64], rows: &Rows<'a>) -> Data<'a> {
        let quantiles: Vec<&[f64]> = rows.quantiles.chunks_exact(levels.len()).collect();
        let usable = |i: &usize| rows.actuals[*i].is_finite() && quantiles[*i].iter().all(|q| q.is_finite());
        let kept: Vec<usize> = (0..rows.actuals.len()).filter(usable).collect();
        let groups = distinct(kept.iter().map(|i| rows.groups[*i]));
        let steps = distinct(kept.iter().map(|i| rows.steps[*i]));
        let row = |i: &usize| Row {
            quantiles: quantiles[*i],
            actual: rows.actuals[*i],
            weight: rows.row_weights.get(*i).copied().unwrap_or(1.0),
            group: groups.partition_point(|g| *g < rows.groups[*i]),
            step: steps.partition_point(|s| *s < rows.steps[*i]),
            block: rows.blocks[*i],
        };
        let rows = kept.iter().map(row).collect();
        Data { levels, rows, groups, steps }
    }

    fn fit(&self, rows: &[&Row], score: Score, options: &Options) -> Table {
        let (groups, steps, levels) = (self.groups.len(), self.steps.len(), self.levels.len());
        let mut corrections = vec![Correction::default(); (groups + 1) * steps * levels];
        if score != Score::None {
            let of_level = |level: usize| self.fit_level(rows, level, score, options);
            let by_level: Vec<Vec<Correction>> = (0..levels).into_par_iter().map(of_level).collect();
            for (level, found) in by_level.iter().enumerate() {
                corrections.iter_mut().skip(level).step_by(levels).zip(found).for_each(|(c, found)| *c = *found);
            }
        }
        Table { groups: self.groups.clone(), steps: self.steps.clone(), corrections }
    }

    /// Corrections of one level: (groups + 1) × steps.
    fn fit_level(&self, rows: &[&Row], level: usize, score: Score, options: &Options) -> Vec<Correction> {
        let (groups, steps) = (self.groups.len(), self.steps.len());
        let mut scores: Vec<Vec<(u32, f64)>> = vec![Vec::new(); groups * steps];
        for row in rows {
            if let Some(unit) = unit(score, row.quantiles) {
                let score = (row.actual - row.quantiles[level]) / unit;
                if score.is_finite() {
                    scores[row.group * steps + row.step].push((row.block, score));
                }
            }
        }
        let level = self.levels[level];
        let learn = |groups: std::ops::Range<usize>, step: usize| pooled(&scores, groups, step, steps, level, options);
        let nothing = Correction::default();
        let at_end = if score == Score::Scaled { 2.0 * level.min(1.0 - level) } else { 1.0 };
        let all: Vec<Correction> =
            (0..steps).map(|step| learn(0..groups, step).shrunk(&nothing, 1.0, options)).collect();
        if groups <= 1 {
            // The only group is all groups; to learn from it twice would shrink it less.
            return all.iter().cycle().take((groups + 1) * steps).copied().collect();
        }
        let by_group = (0..groups * steps)
            .map(|i| learn(i / steps..i / steps + 1, i % steps).shrunk(&all[i % steps], at_end, options));
        by_group.chain(all.iter().copied()).collect()
    }

    /// One trial a score, "none" first, without those whose loss is not finite.
    fn cross_validate(&self, blocks: &[u32], options: &Options) -> Vec<Trial> {
        let folds = options.folds.min(blocks.len());
        let fold = |row: &Row| blocks.partition_point(|b| *b < row.block) * folds / blocks.len();
        let trial = |score: Score| {
            let held_out: Vec<HeldOut> = (0..folds)
                .into_par_iter()
                .map(|f| {
                    let (test, train): (Vec<&Row>, Vec<&Row>) = self.rows.iter().partition(|row| fold(row) == f);
                    self.held_out(&test, &self.fit(&train, score, options), score, options)
                })
                .collect();
            let rows = self.rows.len() as f64;
            let weights: f64 = self.rows.iter().map(|row| row.weight).sum();
            let share = |i: usize| held_out.iter().map(|h| h.not_above[i]).sum::<usize>() as f64 / rows;
            let miscalibration = self.levels.iter().enumerate().map(|(i, level)| (share(i) - level).abs()).sum::<f64>();
            let levels = self.levels.len() as f64;
            let loss: f64 = held_out.iter().map(|h| h.pinball).sum();
            Trial { score, pinball: loss / weights / levels, miscalibration: miscalibration / levels }
        };
        let trials = [Score::None, Score::Additive, Score::Scaled].into_iter().map(trial);
        trials.filter(|trial| trial.pinball.is_finite()).collect()
    }

    fn held_out(&self, test: &[&Row], table: &Table, score: Score, options: &Options) -> HeldOut {
        let levels = self.levels.len();
        let mut found = HeldOut { pinball: 0.0, not_above: vec![0; levels] };
        let mut quantiles = Vec::with_capacity(levels);
        for row in test {
            quantiles.clear();
            quantiles.extend_from_slice(row.quantiles);
            let first = (row.group * self.steps.len() + row.step) * levels;
            let corrected = correct(score, &table.corrections[first..first + levels], &mut quantiles);
            if corrected.and_then(|()| options.repair.apply(&mut quantiles)).is_err() {
                // A correction that gives no number loses the trial.
                found.pinball = f64::INFINITY;
                continue;
            }
            for (i, (level, quantile)) in self.levels.iter().zip(&quantiles).enumerate() {
                found.pinball += row.weight * pinball(row.actual, *quantile, *level);
                found.not_above[i] += usize::from(row.actual <= *quantile);
            }
        }
        found
    }
}

/// Sums over rows that a table was not learned from.
struct HeldOut {
    pinball: f64,
    not_above: Vec<usize>,
}

impl Correction {
    /// Between this and `towards`, by how much there is to learn from: the share `counted` of effective rows.
    fn shrunk(self, towards: &Correction, counted: f64, options: &Options) -> Correction {
        if self.rows == 0 {
            return Correction { shift: towards.shift, ..self };
        }
        let known = counted * self.effective_rows;
        let own = known / (known + options.shrinkage);
        Correction { shift: own * self.shift + (1.0 - own) * towards.shift, ..self }
    }
}

/// What the scores of `groups` say at a step, with as many neighbouring steps as it takes. Of no rows, when there are
/// not enough at all steps together.
fn pooled(
    scores: &[Vec<(u32, f64)>],
    groups: std::ops::Range<usize>,
    step: usize,
    steps: usize,
    level: f64,
    options: &Options,
) -> Correction {
    let needed = options.rows_needed(level);
    let mut pool: Vec<(u32, f64)> = Vec::new();
    let mut radius = 0;
    loop {
        pool.clear();
        let near = step.saturating_sub(radius)..(step + radius + 1).min(steps);
        for group in groups.clone() {
            near.clone().for_each(|s| pool.extend_from_slice(&scores[group * steps + s]));
        }
        pool.sort_by_key(|(block, _)| *block);
        let blocks = pool.chunk_by(|a, b| a.0 == b.0).count();
        if pool.len() >= needed && blocks >= options.blocks_min {
            break;
        }
        if near == (0..steps) {
            if blocks < options.blocks_min {
                pool.clear();
            }
            break;
        }
        radius = (2 * radius).max(1);
    }
    correction(&pool, level, options.narrowing_z).map_or_else(Correction::default, |c| Correction { radius, ..c })
}

/// The correction of one level from its scores, which are sorted by block. `None` when they are too few for the level.
fn correction(pool: &[(u32, f64)], level: f64, narrowing_z: f64) -> Option<Correction> {
    let n = pool.len();
    let median = (level - 0.5).abs() < 1e-9;
    // A lower level is an upper one in a mirror.
    let (sign, upper) = if level < 0.5 { (-1.0, 1.0 - level) } else { (1.0, level) };
    let mut scores: Vec<f64> = pool.iter().map(|(_, score)| sign * score).collect();
    let outward = if median { middle(&mut scores)? } else { order_statistic(&mut scores, rank(n, upper, 0.0))? };
    let effect = design_effect(pool, |score| sign * score <= outward);
    let shift = if median || outward >= 0.0 {
        outward
    } else {
        let deviation = narrowing_z * (n as f64 * upper * (1.0 - upper) * effect).sqrt();
        order_statistic(&mut scores, rank(n, upper, deviation)).map_or(0.0, |bound| bound.min(0.0))
    };
    if !shift.is_finite() {
        return None;
    }
    Some(Correction { shift: sign * shift, rows: n, effective_rows: n as f64 / effect, radius: 0 })
}

/// ⌈(n + 1) level + deviation⌉; a little less is forgiven to rounding.
fn rank(n: usize, level: f64, deviation: f64) -> usize {
    ((n as f64 + 1.0) * level + deviation - 1e-9).ceil() as usize
}

/// The `rank`-th smallest of `scores`, from 1; `None` beyond their ends.
fn order_statistic(scores: &mut [f64], rank: usize) -> Option<f64> {
    let index = rank.checked_sub(1).filter(|i| *i < scores.len())?;
    Some(*scores.select_nth_unstable_by(index, f64::total_cmp).1)
}

/// The median of `scores`: of an even number, the mean of the two in the middle.
fn middle(scores: &mut [f64]) -> Option<f64> {
    let n = scores.len();
    let low = order_statistic(scores, n.div_ceil(2))?;
    let high = order_statistic(scores, n / 2 + 1)?;
    Some(low + (high - low) / 2.0)
}

/// By how much the variance of the share of rows that are `inside` is greater than if rows were independent, from the
/// sums of blocks. Between 1 and the number of rows; `pool` is sorted by block.
fn design_effect(pool: &[(u32, f64)], inside: impl Fn(f64) -> bool) -> f64 {
    let n = pool.len() as f64;
    let share = pool.iter().filter(|(_, score)| inside(*score)).count() as f64 / n;
    let (mut between, mut blocks) = (0.0, 0.0);
    for block in pool.chunk_by(|a, b| a.0 == b.0) {
        let sum: f64 = block.iter().map(|(_, score)| f64::from(u8::from(inside(*score))) - share).sum();
        between += sum * sum;
        blocks += 1.0;
    }
    let alone = n * share * (1.0 - share);
    if blocks < 2.0 {
        return n;
    }
    if alone > 0.0 { (between / alone * blocks / (blocks - 1.0)).clamp(1.0, n) } else { (n / blocks).max(1.0) }
}

#[cfg(test)]
#[path = "conformal_tests.rs"]
mod tests;
