//! Linear quantile regression on the rows of [`Design`]: for each series, and each part of the day, one model a level.
//!
//! Load is nearly linear in its own lags, the calendar and functions of the weather; what is not (heating below a
//! temperature, cooling above one) is made so by pieces of lines between knots. A model of its own for each part of the
//! day lets every effect differ by hour, which is what wins load competitions (Hong, Wang, White 2015; Gaillard, Goude,
//! Nedellec 2016).

use std::collections::BTreeMap;

use meterline_schemas::quantiles::LEVELS;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::direct::{check_length, each_row, forecast};
use crate::data::Panel;
use crate::design::Design;
use crate::forecaster::{FitError, Forecaster, Model, NoForecast, Progress, SeriesForecast, Task};
use crate::linear::{Design as Matrix, LinearQuantiles, Penalty, Problem, QuantileOptions, quantile_fit};

/// Rows for each feature that a model should have: with fewer, parts of the day are joined.
const ROWS_PER_FEATURE: usize = 4;
/// Values of a covariate between which the pieces of a line have their knots, as levels of what training saw.
const KNOTS: [f64; 4] = [0.2, 0.4, 0.6, 0.8];

/// How a linear model is fitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinearSpec {
    /// Most parts of the day that have a model of their own.
    pub parts: usize,
    /// Times of day at which forecasts begin: 1 for those alone at which the panel ends, 4 for each six hours.
    pub origins_a_day: usize,
    /// Factor of the penalty that the ridge chooses.
    pub penalty: f64,
    /// Days after which a row counts half; infinite for all alike.
    pub half_life_days: f64,
}

impl Default for LinearSpec {
    fn default() -> LinearSpec {
        LinearSpec { parts: 24, origins_a_day: 1, penalty: 1.0, half_life_days: f64::INFINITY }
    }
}

/// The kind of model.
#[derive(Debug, Clone, Default)]
pub struct LinearQuantile {
    /// How it is fitted.
    pub spec: LinearSpec,
}

const NAME: &str = "linear_quantile";

impl Model for LinearQuantile {
    fn name(&self) -> &str {
        NAME
    }

    fn fit(&self, panel: &Panel, task: &Task, progress: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
        let design = Design::new(panel, task.horizon, &task.holidays);
        check_length(NAME, panel, &design, task.horizon)?;
        // One model failing (a series without enough values) leaves the others alone.
        let mut fitted = BTreeMap::new();
        for (number, series) in panel.series.iter().enumerate() {
            if let Some(parts) = self.fit_series(panel, &design, number, task)? {
                fitted.insert(series.id.clone(), parts);
            }
            if progress((number + 1) as f64 / panel.series.len() as f64).is_break() {
                break;
            }
        }
        Ok(Box::new(FittedLinear { task: task.clone(), season: panel.frequency.season(), fitted }))
    }
}

/// The models of one series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Parts {
    basis: Basis,
    // One for each part of the day.
    models: Vec<LinearQuantiles>,
}

/// What becomes of a row before it meets the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Basis {
    // By feature: what stands for a missing value.
    means: Vec<f32>,
    // Features that are not linear, with their knots.
    knots: Vec<(usize, Vec<f32>)>,
}

impl Basis {
    fn width(&self) -> usize {
        self.means.len() + self.knots.iter().map(|(_, knots)| knots.len()).sum::<usize>()
    }

    fn of(rows: &[f32], width: usize, bent: &[usize]) -> Basis {
        let column = |feature: usize| rows.iter().skip(feature).step_by(width).filter(|value| value.is_finite());
        let mean = |feature: usize| {
            let (sum, count) = column(feature).fold((0.0, 0.0), |(s, n), v| (s + f64::from(*v), n + 1.0));
            if count > 0.0 { (sum / count) as f32 } else { 0.0 }
        };
        let knots = |feature: &usize| {
            let mut sorted: Vec<f64> = column(*feature).map(|value| f64::from(*value)).collect();
            sorted.sort_unstable_by(f64::total_cmp);
            let mut knots = KNOTS.map(|level| crate::metrics::empirical_quantile(&sorted, level) as f32).to_vec();
            knots.retain(|knot| knot.is_finite());
            knots.dedup();
            (*feature, knots)
        };
        Basis { means: (0..width).map(mean).collect(), knots: bent.iter().map(knots).collect() }
    }

    fn write(&self, row: &[f32], out: &mut Vec<f32>) {
        let start = out.len();
        out.extend(row.iter().zip(&self.means).map(|(value, mean)| if value.is_finite() { *value } else { *mean }));
        for (feature, knots) in &self.knots {
            let value = out.get(start + feature).copied().unwrap_or(0.0);
            out.extend(knots.iter().map(|knot| (value - knot).max(0.0)));
        }
    }
}

// The rows of one series that are trained on.
struct Rows {
    features: Vec<f32>,
    targets: Vec<f32>,
    weights: Vec<f32>,
    // Time of day of the target, in intervals.
    phases: Vec<usize>,
}

impl LinearQuantile {
    fn fit_series(
        &self,
        panel: &Panel,
        design: &Design,
        number: usize,
        task: &Task,
    ) -> Result<Option<Parts>, FitError> {
        let season = panel.frequency.season();
        let rows = self.rows(panel, design, number, task.horizon);
        let width = design.width();
        let basis = Basis::of(&rows.features, width, design.bent());
        let parts = self.parts_of(rows.targets.len(), basis.width(), season);
        if parts == 0 {
            return Ok(None);
        }
        let part_of = |phase: usize| phase * parts / season;
        let names: Vec<String> = (0..basis.width()).map(|feature| format!("f{feature}")).collect();
        let mut options = QuantileOptions::new(&LEVELS);
        options.penalty = Penalty::LikeRidge(self.spec.penalty);
        let models: Result<Vec<LinearQuantiles>, FitError> = (0..parts)
            .into_par_iter()
            .map(|part| {
                let (mut features, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
                for (row, phase) in rows.phases.iter().enumerate() {
                    if part_of(*phase) == part {
                        basis.write(&rows.features[row * width..(row + 1) * width], &mut features);
                        targets.push(rows.targets[row]);
                        weights.push(rows.weights[row]);
                    }
                }
                let failed = |error: crate::linear::LinearError| FitError::Failed {
                    model: NAME.into(),
                    reason: format!("series `{}`: {error}", panel.series[number].id),
                };
                let matrix = Matrix::new(&features, basis.width()).map_err(failed)?;
                let problem = Problem { design: matrix, target: &targets, weights: Some(&weights) };
                Ok(quantile_fit(&problem, &names, &options).map_err(failed)?.model)
            })
            .collect();
        Ok(Some(Parts { basis, models: models? }))
    }

    // So many parts of the day that each has rows enough; 0 where there are too few for one.
    fn parts_of(&self, rows: usize, features: usize, season: usize) -> usize {
        let most = rows / (ROWS_PER_FEATURE * features).max(1);
        let even = (1..=self.spec.parts.min(season)).filter(|parts| season.is_multiple_of(*parts));
        let parts = even.filter(|parts| *parts <= most.max(1)).max().unwrap_or(1);
        if rows < 2 * features { 0 } else { parts }
    }

    fn rows(&self, panel: &Panel, design: &Design, number: usize, horizon: usize) -> Rows {
        let season = panel.frequency.season();
        let length = panel.series[number].values.len();
        let apart = season / self.spec.origins_a_day.max(1);
        let mut rows = Rows { features: vec![], targets: vec![], weights: vec![], phases: vec![] };
        each_row(panel, design, number, (apart, horizon), |row| {
            let age = (length - row.interval) as f64 / season as f64;
            rows.features.extend_from_slice(row.features);
            rows.targets.push(row.target);
            rows.weights.push(row.weight * 0.5_f64.powf(age / self.spec.half_life_days) as f32);
            rows.phases.push(design.phase(number, row.interval));
        });
        rows
    }
}

/// A fitted one.
#[derive(Debug, Clone, PartialEq)]
pub struct FittedLinear {
    task: Task,
    season: usize,
    fitted: BTreeMap<String, Parts>,
}

impl FittedLinear {
    fn forecast_series(
        &self,
        panel: &Panel,
        design: &Design,
        number: usize,
        horizon: usize,
    ) -> Result<SeriesForecast, NoForecast> {
        // It was not there, or too short, when the model was fitted.
        let unknown = NoForecast::MissingContext { present: 0, needed: design.first_origin() };
        let parts = self.fitted.get(&panel.series[number].id).ok_or(unknown)?;
        let mut wide = Vec::new();
        forecast(panel, design, number, horizon, |row, interval| {
            wide.clear();
            parts.basis.write(row, &mut wide);
            let part = design.phase(number, interval) * parts.models.len() / self.season;
            let model = parts.models.get(part).ok_or(NoForecast::NotFinite)?;
            let mut quantiles = [0.0; LEVELS.len()];
            model.predict_row(&wide, &mut quantiles).map_err(|_| NoForecast::NotFinite)?;
            Ok(quantiles)
        })
    }
}

impl Forecaster for FittedLinear {
    fn name(&self) -> &str {
        NAME
    }

    /// Series that it was not fitted to have no forecast.
    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        let design = Design::new(panel, horizon, &self.task.holidays);
        let numbers = 0..panel.series.len();
        numbers.into_par_iter().map(|number| self.forecast_series(panel, &design, number, horizon)).collect()
    }
}
