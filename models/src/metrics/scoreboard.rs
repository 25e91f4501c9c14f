//! Every figure of merit at any quantile levels: of each series, each forecast step, each group (a label, a quality, a
//! window of time), and of all.
//!
//! A [`Rule`] says what is scored. It adds points to [`Totals`], which can be merged and stored, and turns totals into
//! [`Figures`]. A [`Scoreboard`] keeps the totals by key. What cannot be computed is `None`; a point without a usable
//! forecast is counted as a failure and never scored.
//!
//! Sums of floating-point numbers depend on their order. Score fixed parts of the work (a series, a chunk of series) each
//! into its own board, in parallel if wanted, and merge the boards in the order of the parts: then the result is
//! bit-identical whatever the number of threads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    LevelsError, SAME_LEVEL, check_levels, crps_weights, index_of, interval_score, is_decile, pinball, smape_term,
};
use crate::cost::{Cost, quantile_at};

/// What is scored, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    levels: Vec<f64>,
    median: usize,
    /// Indices of the levels that wQL and SQL average over.
    averaged: Vec<usize>,
    crps_weights: Vec<f64>,
    /// Indices of the lower and upper level of each central interval, and its nominal coverage; the widest first.
    intervals: Vec<(usize, usize, f64)>,
    cost: Option<Cost>,
}

/// One forecast value to be scored; all in the unit of the series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point<'a> {
    /// What happened; NaN when that is not known.
    pub actual: f64,
    /// Forecast of the expected value.
    pub mean: f64,
    /// Quantiles at the levels of the rule.
    pub quantiles: &'a [f64],
    /// Mean absolute seasonal difference of the series in its training data ([`super::seasonal_scale`]); the scaled
    /// figures leave out a point without one.
    pub scale: Option<f64>,
}

impl Rule {
    /// All figures for quantiles at `levels`, without costs.
    pub fn new(levels: &[f64]) -> Result<Rule, LevelsError> {
        let median = check_levels(levels)?;
        let mut averaged: Vec<usize> = (0..levels.len()).filter(|i| is_decile(levels[*i])).collect();
        if averaged.len() == 1 {
            // The median alone would say nothing about the spread.
            averaged = (0..levels.len()).collect();
        }
        let interval = |low: usize| Some((low, index_of(levels, 1.0 - levels[low])?, 1.0 - 2.0 * levels[low]));
        let intervals = (0..median).filter_map(interval).collect();
        Ok(Rule {
            levels: levels.to_vec(),
            median,
            averaged,
            crps_weights: crps_weights(levels),
            intervals,
            cost: None,
        })
    }

    /// Also the cost of deciding for the quantile at [`Cost::decision_level`], kept within 0.001 to 0.999.
    pub fn with_cost(self, cost: Cost) -> Rule {
        Rule { cost: Some(cost), ..self }
    }

    /// Totals of no point.
    pub fn empty(&self) -> Totals {
        Totals {
            pinball: vec![0.0; self.levels.len()],
            not_above: vec![0; self.levels.len()],
            intervals: vec![IntervalTotals::default(); self.intervals.len()],
            ..Totals::default()
        }
    }

    /// Adds one point to `totals`, which have to be of this rule.
    pub fn add(&self, totals: &mut Totals, point: &Point) {
        let Point { actual, mean, quantiles, scale } = *point;
        if !actual.is_finite() {
            totals.missing += 1;
            return;
        }
        let usable = quantiles.len() == self.levels.len() && quantiles.iter().all(|q| q.is_finite());
        if !usable || !mean.is_finite() {
            totals.failures += 1;
            return;
        }
        totals.points += 1;
        totals.crossed += usize::from(quantiles.windows(2).any(|pair| pair[0] > pair[1]));
        let error = mean - actual;
        let absolute_error = (quantiles[self.median] - actual).abs();
        totals.absolute_actual += actual.abs();
        totals.error += error;
        totals.squared_error += error * error;
        totals.absolute_error += absolute_error;
        totals.smape += smape_term(actual, quantiles[self.median]);
        for (i, (level, quantile)) in self.levels.iter().zip(quantiles).enumerate() {
            totals.pinball[i] += pinball(actual, *quantile, *level);
            totals.not_above[i] += usize::from(actual <= *quantile);
        }
        let scale = scale.filter(|scale| scale.is_finite() && *scale > 0.0);
        for ((low, high, nominal), sums) in self.intervals.iter().zip(&mut totals.intervals) {
            let (low, high) = (quantiles[*low], quantiles[*high]);
            let score = interval_score(actual, low, high, 1.0 - nominal);
            sums.covered += usize::from(low <= actual && actual <= high);
            sums.width += high - low;
            sums.score += score;
            sums.scaled_score += scale.map_or(0.0, |scale| score / scale);
        }
        if let Some(scale) = scale {
            let losses = self.averaged.iter().map(|i| pinball(actual, quantiles[*i], self.levels[*i]));
            totals.scaled_points += 1;
            totals.scaled_absolute_error += absolute_error / scale;
            totals.scaled_pinball += 2.0 * losses.sum::<f64>() / self.averaged.len() as f64 / scale;
        }
        if let Some(cost) = self.cost {
            let decision = quantile_at(&self.levels, quantiles, cost.bounded_level());
            // Too large for a number: then so is the sum, which is no figure.
            totals.cost += cost.of(decision, actual).unwrap_or(f64::INFINITY);
        }
    }

    /// The figures of `totals`, which have to be of this rule. Each point counts the same.
    pub fn figures(&self, totals: &Totals) -> Figures {
        let points = totals.points as f64;
        let per_point = |sum: f64| ratio(sum, points);
        let scaled = |sum: f64| ratio(sum, totals.scaled_points as f64);
        let averaged: f64 = self.averaged.iter().map(|i| totals.pinball[*i]).sum();
        let crps: f64 = self.crps_weights.iter().zip(&totals.pinball).map(|(weight, sum)| weight * sum).sum();
        let intervals = self.intervals.iter().zip(&totals.intervals).map(|((_, _, nominal), sums)| IntervalFigures {
            nominal: *nominal,
            coverage: per_point(sums.covered as f64),
            width: per_point(sums.width),
            score: per_point(sums.score),
            msis: scaled(sums.scaled_score),
        });
        let levels = self.levels.iter().zip(&totals.not_above);
        let losses = self.levels.iter().zip(&totals.pinball);
        Figures {
            points: totals.points,
            missing: totals.missing,
            failures: totals.failures,
            crossed: totals.crossed,
            mae: per_point(totals.absolute_error),
            mse: per_point(totals.squared_error),
            rmse: per_point(totals.squared_error).map(f64::sqrt),
            bias: per_point(totals.error),
            relative_bias: ratio(totals.error, totals.absolute_actual),
            smape: per_point(totals.smape),
            nd: ratio(totals.absolute_error, totals.absolute_actual),
            wql: ratio(2.0 * averaged / self.averaged.len() as f64, totals.absolute_actual),
            crps: per_point(2.0 * crps),
            mase: scaled(totals.scaled_absolute_error),
            sql: scaled(totals.scaled_pinball),
            cost: self.cost.and_then(|_| per_point(totals.cost)),
            intervals: intervals.collect(),
            levels: levels.map(|(level, count)| (*level, per_point(*count as f64))).collect(),
            losses: losses.map(|(level, sum)| (*level, ratio(2.0 * sum, totals.absolute_actual))).collect(),
        }
    }
}

/// Running sums of one rule; see [`Figures`] for what they give. Stored totals can be added to later.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    points: usize,
    missing: usize,
    failures: usize,
    crossed: usize,
    absolute_actual: f64,
    error: f64,
    squared_error: f64,
    absolute_error: f64,
    smape: f64,
    /// Σ pinball at each level.
    pinball: Vec<f64>,
    /// Points whose actual value is not above the quantile, at each level.
    not_above: Vec<usize>,
    intervals: Vec<IntervalTotals>,
    scaled_points: usize,
    scaled_absolute_error: f64,
    /// Σ over points of twice the mean pinball over the averaged levels, scaled.
    scaled_pinball: f64,
    cost: f64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct IntervalTotals {
    covered: usize,
    width: f64,
    score: f64,
    scaled_score: f64,
}

impl Totals {
    /// Scored points.
    pub fn points(&self) -> usize {
        self.points
    }

    /// Adds the points of `other`, which has to be of the same rule.
    pub fn merge(&mut self, other: &Totals) {
        self.points += other.points;
        self.missing += other.missing;
        self.failures += other.failures;
        self.crossed += other.crossed;
        self.absolute_actual += other.absolute_actual;
        self.error += other.error;
        self.squared_error += other.squared_error;
        self.absolute_error += other.absolute_error;
        self.smape += other.smape;
        self.pinball.iter_mut().zip(&other.pinball).for_each(|(sum, more)| *sum += more);
        self.not_above.iter_mut().zip(&other.not_above).for_each(|(sum, more)| *sum += more);
        for (sums, more) in self.intervals.iter_mut().zip(&other.intervals) {
            sums.covered += more.covered;
            sums.width += more.width;
            sums.score += more.score;
            sums.scaled_score += more.scaled_score;
        }
        self.scaled_points += other.scaled_points;
        self.scaled_absolute_error += other.scaled_absolute_error;
        self.scaled_pinball += other.scaled_pinball;
        self.cost += other.cost;
    }
}

/// `None` instead of anything that is not a number.
fn ratio(sum: f64, by: f64) -> Option<f64> {
    let ratio = sum / by;
    (by > 0.0 && ratio.is_finite()).then_some(ratio)
}

/// Figures of merit; `None` where there is nothing to compute one from, or where it is too great for a number. The
/// median is judged by absolute errors and the mean by squared ones and the bias, each by the loss that it minimises
/// (Gneiting 2011).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Scored points: with an actual value and a finite forecast.
    pub points: usize,
    /// Points without an actual value.
    pub missing: usize,
    /// Points with an actual value whose forecast was not finite or had the wrong number of quantiles. Nothing else
    /// says how bad that is: compare models on the points that all of them have.
    pub failures: usize,
    /// Scored points whose quantiles did not ascend.
    pub crossed: usize,
    /// Mean |y − median|, in the unit of the series.
    pub mae: Option<f64>,
    /// Mean (y − mean)², in the unit squared.
    pub mse: Option<f64>,
    /// Root of [`Figures::mse`], in the unit of the series.
    pub rmse: Option<f64>,
    /// Mean of (mean − y), in the unit of the series; above 0: the forecast is too high.
    pub bias: Option<f64>,
    /// Σ (mean − y) / Σ |y|.
    pub relative_bias: Option<f64>,
    /// Symmetric mean absolute percentage error of the median as in M4, in per cent (0 to 200).
    pub smape: Option<f64>,
    /// Normalised deviation Σ |y − median| / Σ |y|.
    pub nd: Option<f64>,
    /// Weighted quantile loss: the mean over levels of 2 Σ pinball / Σ |y|. The levels are 0.1, 0.2 … 0.9 as in published
    /// figures, and all levels where none but the median is among those.
    pub wql: Option<f64>,
    /// Continuous ranked probability score by the trapezoid rule over all levels, in the unit of the series.
    pub crps: Option<f64>,
    /// Mean absolute scaled error of the median (Hyndman and Koehler 2006).
    pub mase: Option<f64>,
    /// Scaled quantile loss as in fev-bench: twice the mean pinball over the levels of [`Figures::wql`], by the scale of
    /// the series.
    pub sql: Option<f64>,
    /// Mean cost of a point, in money, where the rule has costs.
    pub cost: Option<f64>,
    /// Figures of each central interval that the levels have, the widest first.
    pub intervals: Vec<IntervalFigures>,
    /// Each level, and the share of actual values that were not above its quantile.
    pub levels: Vec<(f64, Option<f64>)>,
    /// Each level, and its weighted quantile loss 2 Σ pinball / Σ |y|. That of 0.9 is the "P90 risk" of Salinas et al.
    /// (2020).
    pub losses: Vec<(f64, Option<f64>)>,
}

impl Figures {
    /// The figures of the central interval that should cover the share `nominal` of points.
    pub fn interval(&self, nominal: f64) -> Option<&IntervalFigures> {
        self.intervals.iter().find(|interval| (interval.nominal - nominal).abs() < 2.0 * SAME_LEVEL)
    }

    /// The weighted quantile loss of one level.
    pub fn loss(&self, level: f64) -> Option<f64> {
        self.losses.iter().find(|(known, _)| (known - level).abs() < SAME_LEVEL)?.1
    }
}

/// Figures of one central interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct IntervalFigures {
    /// Share of points that it should cover.
    pub nominal: f64,
    /// Share of points that it covers, both ends included.
    pub coverage: Option<f64>,
    /// Mean width, in the unit of the series.
    pub width: Option<f64>,
    /// Mean interval score ([`interval_score`]), in the unit of the series.
    pub score: Option<f64>,
    /// Mean scaled interval score: the same by the scale of the series. M4 published it for 0.95.
    pub msis: Option<f64>,
}

/// Totals by series, by forecast step and by group, of one rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Scoreboard<'a> {
    rule: &'a Rule,
    by_series: BTreeMap<u64, Totals>,
    by_step: BTreeMap<u32, Totals>,
    by_group: BTreeMap<String, Totals>,
}

/// What a point belongs to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place<'a> {
    /// The caller's number of the series.
    pub series: u64,
    /// Forecast step, or bucket of steps.
    pub step: u32,
    /// Groups that the point counts in; they may overlap. A point may be in none.
    pub groups: &'a [&'a str],
}

impl<'a> Scoreboard<'a> {
    /// A board without points.
    pub fn new(rule: &'a Rule) -> Scoreboard<'a> {
        Scoreboard { rule, by_series: BTreeMap::new(), by_step: BTreeMap::new(), by_group: BTreeMap::new() }
    }

    /// Adds one point.
    pub fn add(&mut self, place: &Place, point: &Point) {
        let rule = self.rule;
        rule.add(self.by_series.entry(place.series).or_insert_with(|| rule.empty()), point);
        rule.add(self.by_step.entry(place.step).or_insert_with(|| rule.empty()), point);
        for group in place.groups {
            // Looked up first: the name of a known group is not copied for each of its points.
            match self.by_group.get_mut(*group) {
                Some(totals) => rule.add(totals, point),
                None => rule.add(self.by_group.entry((*group).to_owned()).or_insert_with(|| rule.empty()), point),
            }
        }
    }

    /// Adds the points of `other`, a board of the same rule.
    pub fn merge(&mut self, other: &Scoreboard) {
        merge(&mut self.by_series, &other.by_series);
        merge(&mut self.by_step, &other.by_step);
        merge(&mut self.by_group, &other.by_group);
    }

    /// All figures.
    ///
    /// Of all points together, those that are relative to a series (sMAPE, MASE, SQL, MSIS) are its own first, and then
    /// the mean over series, as in M4 and fev-bench; everything else, and every figure of a step or a group, counts each
    /// point the same.
    pub fn report(&self) -> Report {
        let mut total = self.rule.empty();
        self.by_series.values().for_each(|totals| total.merge(totals));
        let mut overall = self.rule.figures(&total);
        let by_series = figures(self.rule, &self.by_series);
        let over_series = |of: &dyn Fn(&Figures) -> Option<f64>| mean(by_series.iter().filter_map(|(_, f)| of(f)));
        overall.smape = over_series(&|f| f.smape);
        overall.mase = over_series(&|f| f.mase);
        overall.sql = over_series(&|f| f.sql);
        for (i, interval) in overall.intervals.iter_mut().enumerate() {
            interval.msis = over_series(&|f| f.intervals.get(i)?.msis);
        }
        let (by_step, by_group) = (figures(self.rule, &self.by_step), figures(self.rule, &self.by_group));
        Report { overall, by_series, by_step, by_group }
    }
}

fn merge<K: Ord + Clone>(into: &mut BTreeMap<K, Totals>, from: &BTreeMap<K, Totals>) {
    for (key, totals) in from {
        match into.get_mut(key) {
            Some(sums) => sums.merge(totals),
            None => {
                into.insert(key.clone(), totals.clone());
            }
        }
    }
}

fn figures<K: Clone>(rule: &Rule, totals: &BTreeMap<K, Totals>) -> Vec<(K, Figures)> {
    totals.iter().map(|(key, totals)| (key.clone(), rule.figures(totals))).collect()
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_usize), |(sum, count), value| (sum + value, count + 1));
    ratio(sum, count as f64)
}

/// The figures of a [`Scoreboard`], each list in the order of its keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Of all points.
    pub overall: Figures,
    /// Of each series.
    pub by_series: Vec<(u64, Figures)>,
    /// Of each forecast step.
    pub by_step: Vec<(u32, Figures)>,
    /// Of each group.
    pub by_group: Vec<(String, Figures)>,
}

#[cfg(test)]
#[path = "scoreboard_tests.rs"]
mod tests;
