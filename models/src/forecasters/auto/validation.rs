//! What candidates forecast of days that they had not seen, beside what happened.

use std::collections::BTreeMap;

use meterline_schemas::quantiles::LEVELS;

use super::folds::{Fold, folds};
use crate::calibrate::Rows;
use crate::combine::{Candidate, Options, Validation};
use crate::data::Panel;
use crate::explain::PARTS;
use crate::forecaster::{Done, FitError, Forecaster, Model, Progress, Task};
use crate::metrics::pinball;

/// Share by which the loss of a candidate may be greater than the least.
const FAR_BEHIND: f64 = 0.25;
/// Share of the time of a fold that fitting takes, about.
const FITTING: f64 = 0.7;
/// Rows (series, origin, step) that are kept at most; of more, evenly spread ones.
const ROWS_MAX: usize = 200_000;

/// Part of the horizon that a step is in: they are weighted and calibrated apart.
pub(super) fn bucket(step: usize, horizon: usize) -> u32 {
    (step.min(horizon.saturating_sub(1)) * PARTS.min(horizon) / horizon.max(1)) as u32
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
            // Of a series that has not begun, nothing is known of what comes next.
            let from = if known.values.is_empty() { series.values.len() } else { known.values.len() };
            let actuals = series.values.get(from..).unwrap_or_default();
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

/// What came of validation.
pub(super) struct Outcome {
    /// `None` where the history is too short, or was for every candidate before every fold.
    pub validated: Option<Validated>,
    /// The candidates that were tried, each with its fit before the newest fold.
    pub fits: Vec<(String, Option<Box<dyn Forecaster>>)>,
    /// Whether it ended early, because it was told to.
    pub is_cut_short: bool,
}

/// Fits each candidate before each fold, and forecasts its origins. Once `progress` breaks, candidates that were not tried
/// to the end are left out, but for the first.
///
/// # Errors
/// The only candidate fails for another reason than that the history is too short.
pub(super) fn validate(
    candidates: &[&dyn Model],
    panel: &Panel,
    task: &Task,
    progress: Progress<'_>,
) -> Result<Outcome, FitError> {
    let folds = folds(panel, task);
    let origins: usize = folds.iter().map(|fold| fold.origins.len()).sum();
    let mut outcome = Outcome { validated: None, fits: Vec::new(), is_cut_short: false };
    if origins == 0 {
        return Ok(outcome);
    }
    let all = origins * panel.series.len() * task.horizon;
    let grid = Grid { panel, horizon: task.horizon, every: all.div_ceil(ROWS_MAX).max(1) };
    let mut validated = Validated::of(&grid, &folds);
    for candidate in candidates {
        let part = |done: f64| (outcome.fits.len() as f64 + done / folds.len() as f64) / candidates.len() as f64;
        let (mut quantiles, mut newest, mut number) = (Vec::new(), None, 0);
        for (place, fold) in folds.iter().enumerate() {
            let (from, to) = (part(place as f64), part(place as f64 + FITTING));
            let fitted = match outcome.is_cut_short {
                true => None,
                false => {
                    let known = panel.cut(fold.cut);
                    match candidate.fit(&known, task, &mut |done| progress(done.within(from, to))) {
                        Ok(fitted) => Some(fitted),
                        Err(FitError::TooShort { .. }) => None,
                        // Others can do without it.
                        Err(_) if candidates.len() > 1 => None,
                        Err(error) => return Err(error),
                    }
                }
            };
            for (done, origin) in fold.origins.iter().enumerate() {
                let share = FITTING + (1.0 - FITTING) * done as f64 / fold.origins.len() as f64;
                outcome.is_cut_short |= progress(Done::share(part(place as f64 + share))).is_break();
                let fitted = fitted.as_deref().filter(|_| !outcome.is_cut_short);
                forecast(fitted, &panel.cut(*origin), &grid, number, &mut quantiles);
                number += 1;
            }
            newest = fitted.or(newest);
        }
        if outcome.is_cut_short && !outcome.fits.is_empty() {
            break;
        }
        validated.names.push(candidate.name().to_owned());
        validated.quantiles.push(quantiles);
        outcome.fits.push((candidate.name().to_owned(), newest));
        if outcome.is_cut_short {
            break;
        }
    }
    let is_there = validated.quantiles.iter().any(|of| of.iter().any(|quantile| quantile.is_finite()));
    outcome.validated = is_there.then_some(validated);
    Ok(outcome)
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
    // The rows of all folds, without a candidate.
    fn of(grid: &Grid<'_>, folds: &[Fold]) -> Validated {
        let panel = grid.panel;
        let mut validated =
            Validated { ids: panel.series.iter().map(|series| series.id.clone()).collect(), ..Validated::default() };
        // Forecasts that overlap err alike. Those of neighbouring blocks overlap, too, where a forecast is longer than a
        // season.
        let days_of_block = grid.horizon.div_ceil(panel.frequency.season().max(1)).max(1);
        let apart = if days_of_block > 1 { 1 } else { 2 };
        let mut number = 0;
        for (fold, of) in (0..).zip(folds) {
            for origin in &of.origins {
                grid.each(&panel.cut(*origin), number, |series, step, actual| {
                    validated.actuals.push(actual);
                    validated.series.push(series as u32);
                    validated.steps.push(bucket(step, grid.horizon));
                    validated.blocks.push((number / days_of_block * apart) as u32);
                    validated.folds.push(fold);
                });
                number += 1;
            }
        }
        validated
    }

    /// The candidates that are not far behind the best one: weights are shrunk towards equal ones, and what errs wildly
    /// must not have a part in those. One that has no forecast of many rows is compared with none.
    pub fn candidates(&self) -> Vec<Candidate<'_>> {
        let is_there = |quantiles: &[f64], row: usize| {
            let of_row = quantiles.get(row * LEVELS.len()..(row + 1) * LEVELS.len());
            of_row.is_some_and(|row| row.iter().all(|quantile| quantile.is_finite()))
        };
        let scored: Vec<usize> = (0..self.actuals.len()).filter(|row| self.actuals[*row].is_finite()).collect();
        let all = self.names.iter().zip(&self.quantiles);
        let complete: Vec<(&String, &Vec<f64>)> = all
            .filter(|(_, quantiles)| {
                let there = scored.iter().filter(|row| is_there(quantiles, **row)).count();
                there as f64 >= Options::default().present_min * scored.len() as f64
            })
            .collect();
        let common: Vec<usize> =
            scored.into_iter().filter(|row| complete.iter().all(|(_, quantiles)| is_there(quantiles, *row))).collect();
        let loss = |quantiles: &[f64]| -> f64 {
            let of_row = |row: &usize| {
                let quantiles = &quantiles[row * LEVELS.len()..(row + 1) * LEVELS.len()];
                LEVELS.iter().zip(quantiles).map(|(level, q)| pinball(self.actuals[*row], *q, *level)).sum::<f64>()
            };
            common.iter().map(of_row).sum()
        };
        let losses: Vec<f64> = complete.iter().map(|(_, quantiles)| loss(quantiles)).collect();
        let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
        let near = complete.into_iter().zip(losses).filter(|(_, loss)| *loss <= least * (1.0 + FAR_BEHIND));
        near.map(|((name, quantiles), _)| Candidate { name, quantiles }).collect()
    }

    /// As weights are learned from it. Rows count as they are: what is measured is the loss of all energy together.
    pub fn for_weights<'a>(&'a self, candidates: &'a [Candidate<'a>]) -> Validation<'a> {
        Validation {
            levels: &LEVELS,
            models: candidates,
            actuals: &self.actuals,
            row_weights: &[],
            horizon_groups: &self.steps,
            series: &self.series,
            blocks: &self.blocks,
        }
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
    pub fn numbers(&self) -> BTreeMap<String, u32> {
        self.ids.iter().enumerate().map(|(number, id)| (id.clone(), number as u32)).collect()
    }
}
