//! What candidates forecast of days that they had not seen, beside what happened.

use std::collections::BTreeMap;

use meterline_schemas::Micros;
use meterline_schemas::quantiles::LEVELS;

use super::folds::{Fold, folds};
use crate::calibrate::Rows;
use crate::combine::{Candidate, Options, Validation};
use crate::data::Panel;
use crate::explain::PARTS;
use crate::forecaster::{Done, FitError, Forecaster, Model, Progress, Task};
use crate::metrics::pinball;
use crate::spread::place_of_origin;

/// Share by which the loss of a candidate may be greater than the least.
const FAR_BEHIND: f64 = 0.25;
/// Share of the time of a fold that fitting takes, about.
const FITTING: f64 = 0.7;
/// Rows (series, origin, step) that are kept at most; of more, evenly spread ones.
const ROWS_MAX: usize = 200_000;
/// Series that are forecast from each origin at least, where not all of them are: others at each, because what is not kept
/// need not be forecast. With more of them fewer steps of each forecast are kept, and steps of one forecast err alike.
const SERIES_MIN: usize = 64;
/// Origins that each series is forecast from at least, about, if there are so many: it has weights and corrections of its
/// own by them.
const ORIGINS_MIN: usize = 16;

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
    // Of so many series one is forecast from an origin, …
    series_every: usize,
    // … and of so many of its steps one is kept.
    steps_every: usize,
}

impl<'a> Grid<'a> {
    // Of so many origins.
    fn new(panel: &'a Panel, horizon: usize, origins: usize) -> Grid<'a> {
        let every = (origins * panel.series.len() * horizon).div_ceil(ROWS_MAX).max(1);
        let series_every = (panel.series.len() / SERIES_MIN).min(origins / ORIGINS_MIN).clamp(1, every);
        Grid { panel, horizon, series_every, steps_every: every.div_ceil(series_every) }
    }

    // The origin of this number, which is `at`.
    fn seen(&self, number: usize, at: Micros) -> SeenAt {
        // Not the same of each few: a site's channels may take turns in the panel.
        let of_few = |(place, first): (usize, usize)| first + place_of_origin(number + place, self.series_every);
        let few = (0..self.panel.series.len()).step_by(self.series_every).enumerate();
        let series: Vec<usize> = few.map(of_few).filter(|series| *series < self.panel.series.len()).collect();
        SeenAt { number, known: self.panel.cut_of(series.iter().copied(), at), series }
    }

    // Hands (place of the series among those that are forecast, step, actual value) of the rows of an origin to `take`.
    fn each(&self, origin: &SeenAt, mut take: impl FnMut(usize, usize, f64)) {
        for (place, (series, known)) in origin.series.iter().zip(&origin.known.series).enumerate() {
            let values = &self.panel.series[*series].values;
            // Of a series that has not begun, nothing is known of what comes next.
            let from = if known.values.is_empty() { values.len() } else { known.values.len() };
            let actuals = values.get(from..).unwrap_or_default();
            for step in 0..self.horizon {
                // Another step each time.
                if !(place + origin.number + step).is_multiple_of(self.steps_every) {
                    continue;
                }
                take(place, step, actuals.get(step).map_or(f64::NAN, |actual| f64::from(*actual)));
            }
        }
    }
}

// An origin.
struct SeenAt {
    number: usize,
    // Numbers of the series that are forecast from it, …
    series: Vec<usize>,
    // … and what is known of these, in the same order.
    known: Panel,
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
    let grid = Grid::new(panel, task.horizon, origins);
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
                forecast(fitted, &grid, &grid.seen(number, *origin), &mut quantiles);
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

fn forecast(fitted: Option<&dyn Forecaster>, grid: &Grid<'_>, origin: &SeenAt, quantiles: &mut Vec<f64>) {
    let forecasts = fitted.map(|fitted| fitted.forecast(&origin.known, grid.horizon)).unwrap_or_default();
    grid.each(origin, |place, step, _| {
        let forecast = forecasts.get(place).and_then(|forecast| forecast.as_ref().ok());
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
                let origin = grid.seen(number, *origin);
                grid.each(&origin, |place, step, actual| {
                    validated.actuals.push(actual);
                    validated.series.push(origin.series[place] as u32);
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

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use meterline_schemas::Frequency;
    use meterline_schemas::time::HOUR;

    use super::*;
    use crate::data::Series;

    const DAYS: usize = 60;
    const HOURS: usize = 24;

    // By series how many rows there are of so many of them, and from how many origins at least.
    fn kept(count: usize, origins: usize) -> (Vec<usize>, usize) {
        let value = |hour: usize| hour as f32;
        let of = |number: usize| Series::new(format!("s{number}"), 0, (0..DAYS * HOURS).map(value).collect());
        let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, (0..count).map(of).collect());
        let grid = Grid::new(&panel, 2 * HOURS, origins);
        let (mut rows, mut seen) = (vec![0; count], vec![0; count]);
        for number in 0..origins {
            let known = (DAYS - 2 - number % 50) * HOURS;
            let origin = grid.seen(number, known as i64 * HOUR);
            assert_eq!(origin.known.series.len(), origin.series.len());
            assert!(origin.series.len() >= count.min(SERIES_MIN) && origin.series.is_sorted());
            for (series, known) in origin.series.iter().zip(&origin.known.series) {
                assert_eq!(known.id, panel.series[*series].id);
                seen[*series] += 1;
            }
            grid.each(&origin, |place, step, actual| {
                assert_eq!(actual, (known + step) as f64);
                rows[origin.series[place]] += 1;
            });
        }
        (rows, seen.into_iter().min().unwrap_or(0))
    }

    #[test]
    fn of_few_series_all_is_kept_and_of_many_as_much_of_each_from_some_origins() {
        assert_eq!(kept(3, 112), (vec![112 * 48; 3], 112));
        // Too many rows of few series: some steps of all of them.
        let (rows, least) = kept(60, 112);
        assert_eq!((least, rows.iter().sum::<usize>()), (112, 60 * 112 * 24));
        // As many as a short history has.
        assert_eq!(kept(600, 8).1, 8);
        for count in [200, 370, 700, 1500] {
            let (rows, least) = kept(count, 112);
            let all: usize = rows.iter().sum();
            assert!((ROWS_MAX / 2..=ROWS_MAX).contains(&all), "{count}: {all}");
            assert!(least >= ORIGINS_MIN - 2, "{count}: {least}");
            let even = all / count;
            assert!(rows.iter().all(|rows| rows.abs_diff(even) <= even / 3), "{count}: {even} {rows:?}");
        }
    }
}
