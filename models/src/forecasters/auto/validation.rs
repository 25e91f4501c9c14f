//! What candidates forecast of days that they had not seen, beside what happened.

use std::collections::BTreeMap;

use meterline_schemas::quantiles::LEVELS;

use super::folds::folds;
use crate::calibrate::Rows;
use crate::combine::{Candidate, Combination, Validation};
use crate::data::Panel;
use crate::forecaster::{Done, FitError, Forecaster, Model, Progress, Task};
use crate::metrics::pinball;

/// Parts of the horizon that are weighted and calibrated apart.
const BUCKETS: usize = 8;
/// Share by which the loss of a candidate may be greater than the least.
const FAR_BEHIND: f64 = 0.25;
/// Rows (series, origin, step) that are kept at most; of more, evenly spread ones.
const ROWS_MAX: usize = 200_000;

/// Part of the horizon that a step is in.
pub(super) fn bucket(step: usize, horizon: usize) -> u32 {
    (step.min(horizon.saturating_sub(1)) * BUCKETS.min(horizon) / horizon.max(1)) as u32
}

/// Forecasts of all candidates, row by row.
#[derive(Default)]
pub(super) struct Validated {
    names: Vec<String>,
    // By candidate: rows × levels, NaN where it has no forecast.
    quantiles: Vec<Vec<f64>>,
    actuals: Vec<f64>,
    series: Vec<u32>,
    steps: Vec<u32>,
    blocks: Vec<u32>,
    folds: Vec<u32>,
    ids: Vec<String>,
}

/// Some rows, as calibration takes them.
#[derive(Default)]
pub(super) struct SomeRows {
    quantiles: Vec<f64>,
    actuals: Vec<f64>,
    series: Vec<u32>,
    steps: Vec<u32>,
    blocks: Vec<u32>,
}

impl SomeRows {
    pub fn rows(&self) -> Rows<'_> {
        Rows {
            quantiles: &self.quantiles,
            actuals: &self.actuals,
            groups: &self.series,
            steps: &self.steps,
            row_weights: &[],
            blocks: &self.blocks,
        }
    }
}

// Which rows there are, in their order.
struct Grid<'a> {
    panel: &'a Panel,
    horizon: usize,
    every: usize,
}

impl Grid<'_> {
    // Hands (series, step, actual value) of the rows of an origin to `take`.
    fn each(&self, known: &Panel, origin: usize, mut take: impl FnMut(usize, usize, f64)) {
        for (number, (series, known)) in self.panel.series.iter().zip(&known.series).enumerate() {
            let actuals = series.values.get(known.values.len()..).unwrap_or_default();
            for step in 0..self.horizon {
                // Another step each time.
                if !(number + origin + step).is_multiple_of(self.every) {
                    continue;
                }
                take(number, step, actuals.get(step).map_or(f64::NAN, |actual| f64::from(*actual)));
            }
        }
    }
}

/// Fits each candidate before each fold, and forecasts its origins. `None` where the history is too short, or for every
/// candidate before every fold.
///
/// # Errors
/// A candidate fails for another reason.
pub(super) fn validate(
    candidates: &[Box<dyn Model>],
    panel: &Panel,
    task: &Task,
    progress: Progress<'_>,
) -> Result<Option<Validated>, FitError> {
    let folds = folds(panel, task.horizon);
    let origins: usize = folds.iter().map(|fold| fold.origins.len()).sum();
    if origins == 0 {
        return Ok(None);
    }
    let all = origins * panel.series.len() * task.horizon;
    let grid = Grid { panel, horizon: task.horizon, every: all.div_ceil(ROWS_MAX).max(1) };
    let mut validated = Validated {
        ids: panel.series.iter().map(|series| series.id.clone()).collect(),
        quantiles: vec![Vec::new(); candidates.len()],
        ..Validated::default()
    };
    // Forecasts that overlap err alike.
    let season = panel.frequency.season().max(1);
    let days_of_block = task.horizon.div_ceil(season).max(1);
    let shown: Vec<Vec<Panel>> =
        folds.iter().map(|fold| fold.origins.iter().map(|origin| panel.cut(*origin)).collect()).collect();
    let mut number = 0;
    for (fold, shown) in (0..).zip(&shown) {
        for known in shown {
            grid.each(known, number, |series, step, actual| {
                validated.actuals.push(actual);
                validated.series.push(series as u32);
                validated.steps.push(bucket(step, task.horizon));
                validated.blocks.push((number / days_of_block) as u32);
                validated.folds.push(fold);
            });
            number += 1;
        }
    }
    let mut tried = 0;
    for (candidate, quantiles) in candidates.iter().zip(&mut validated.quantiles) {
        let mut number = 0;
        let mut ends = false;
        for (place, (fold, shown)) in folds.iter().zip(&shown).enumerate() {
            let part = |done: usize| (tried * folds.len() + done) as f64 / (candidates.len() * folds.len()) as f64;
            let (from, to) = (part(place), part(place + 1));
            let fitted = match candidate.fit(&panel.cut(fold.cut), task, &mut |done| progress(done.within(from, to))) {
                Ok(fitted) => Some(fitted),
                Err(FitError::TooShort { .. }) => None,
                Err(error) => return Err(error),
            };
            for known in shown {
                forecast(fitted.as_deref(), known, &grid, number, quantiles);
                number += 1;
            }
            ends |= progress(Done::share(to)).is_break();
        }
        validated.names.push(candidate.name().to_owned());
        tried += 1;
        if ends {
            break;
        }
    }
    validated.quantiles.truncate(tried);
    let is_there = validated.quantiles.iter().any(|of| of.iter().any(|quantile| quantile.is_finite()));
    Ok(is_there.then_some(validated))
}

fn forecast(fitted: Option<&dyn Forecaster>, known: &Panel, grid: &Grid<'_>, number: usize, quantiles: &mut Vec<f64>) {
    let forecasts = fitted.map(|fitted| fitted.forecast(known, grid.horizon)).unwrap_or_default();
    grid.each(known, number, |series, step, _| {
        let forecast = forecasts.get(series).and_then(|forecast| forecast.as_ref().ok());
        match forecast.and_then(|forecast| forecast.quantiles.get(step)) {
            Some(row) => quantiles.extend_from_slice(row),
            None => quantiles.extend([f64::NAN; LEVELS.len()]),
        }
    });
}

impl Validated {
    /// The candidates that are not far behind the best one: weights are shrunk towards equal ones, and what errs wildly
    /// must not have a part in those.
    pub fn candidates(&self) -> Vec<Candidate<'_>> {
        let losses: Vec<f64> = self.quantiles.iter().map(|quantiles| self.loss(quantiles)).collect();
        let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
        let all = self.names.iter().zip(&self.quantiles).zip(losses);
        let near = all.filter(|(_, loss)| *loss <= least * (1.0 + FAR_BEHIND));
        near.map(|((name, quantiles), _)| Candidate { name, quantiles }).collect()
    }

    // Mean pinball loss of the rows that a candidate has a forecast of.
    fn loss(&self, quantiles: &[f64]) -> f64 {
        let (rows, _) = quantiles.as_chunks::<{ LEVELS.len() }>();
        let (mut sum, mut count) = (0.0, 0.0);
        for (row, actual) in rows.iter().zip(&self.actuals) {
            let loss: f64 = LEVELS.iter().zip(row).map(|(level, quantile)| pinball(*actual, *quantile, *level)).sum();
            if loss.is_finite() {
                sum += loss;
                count += 1.0;
            }
        }
        if count > 0.0 { sum / count } else { f64::INFINITY }
    }

    /// As weights are learned from it. Rows count as they are: what is measured is the loss of all energy together.
    pub fn for_weights<'a>(&'a self, candidates: &'a [Candidate<'a>]) -> Validation<'a> {
        Validation {
            levels: &LEVELS,
            models: candidates,
            actuals: &self.actuals,
            row_weights: &[],
            horizon_groups: &self.steps,
            blocks: &self.blocks,
        }
    }

    /// What a combination makes of each row; NaN where that is nothing.
    pub fn combined(&self, combination: &Combination) -> Vec<f64> {
        let width = LEVELS.len();
        let of = |name: &String| self.names.iter().position(|known| known == name);
        let members: Vec<Option<&Vec<f64>>> =
            combination.models().iter().map(|name| self.quantiles.get(of(name)?)).collect();
        let mut combined = vec![f64::NAN; self.actuals.len() * width];
        for (row, out) in combined.chunks_mut(width).enumerate() {
            let rows: Vec<Option<&[f64]>> =
                members.iter().map(|member| member.and_then(|all| all.get(row * width..(row + 1) * width))).collect();
            if combination.apply(self.steps[row], &rows, out).is_err() {
                out.fill(f64::NAN);
            }
        }
        combined
    }

    /// Number of folds.
    pub fn folds(&self) -> u32 {
        self.folds.last().map_or(0, |last| last + 1)
    }

    /// The rows of some folds, with what was combined of them.
    pub fn rows(&self, combined: &[f64], of: impl Fn(u32) -> bool) -> SomeRows {
        let mut some = SomeRows::default();
        for (row, quantiles) in combined.chunks(LEVELS.len()).enumerate().filter(|(row, _)| of(self.folds[*row])) {
            some.quantiles.extend_from_slice(quantiles);
            some.actuals.push(self.actuals[row]);
            some.series.push(self.series[row]);
            some.steps.push(self.steps[row]);
            some.blocks.push(self.blocks[row]);
        }
        some
    }

    /// Numbers of the series.
    pub fn groups(&self) -> BTreeMap<String, u32> {
        self.ids.iter().enumerate().map(|(number, id)| (id.clone(), number as u32)).collect()
    }
}
