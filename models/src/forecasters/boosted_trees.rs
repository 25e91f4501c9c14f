//! Gradient-boosted trees on the rows of [`Design`]: one model for all series, steps and quantile levels.
//!
//! Trees find what lines do not: interactions of hour, day type and weather, and effects that end somewhere. They cannot
//! say more than they saw; so targets are relative to the level of the last week.

use meterline_schemas::quantiles::LEVELS;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::direct::{check_length, each_row, forecast};
use crate::booster::{Booster, BoosterError, Dataset, Matrix, Objective, Params, train};
use crate::data::Panel;
use crate::design::Design;
use crate::forecaster::{FitError, Forecaster, Model, NoForecast, Progress, SeriesForecast, Task};

/// How the trees are fitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoostedSpec {
    /// Of the booster.
    pub params: Params,
    /// Times of day at which forecasts begin: 1 for those alone at which the panel ends, 4 for each six hours.
    pub origins_a_day: usize,
    /// Rows that are trained on at most; of more, origins further apart are taken.
    pub rows_max: usize,
}

impl Default for BoostedSpec {
    fn default() -> BoostedSpec {
        BoostedSpec { params: Params::default(), origins_a_day: 1, rows_max: 500_000 }
    }
}

/// The kind of model.
#[derive(Debug, Clone, Default)]
pub struct BoostedTrees {
    /// How it is fitted.
    pub spec: BoostedSpec,
}

const NAME: &str = "boosted_trees";

fn failed(error: BoosterError) -> FitError {
    FitError::Failed { model: NAME.into(), reason: error.to_string() }
}

impl Model for BoostedTrees {
    fn name(&self) -> &str {
        NAME
    }

    fn fit(&self, panel: &Panel, task: &Task, progress: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
        let design = Design::new(panel, task.horizon, &task.holidays);
        check_length(NAME, panel, &design, task.horizon)?;
        let rows = self.rows(panel, &design, task.horizon);
        let matrix = Matrix::from_columns(&rows.columns).and_then(|matrix| matrix.with_names(rows.names));
        let matrix = matrix.map_err(failed)?;
        let data = Dataset::new(&matrix, &rows.targets).with_weights(&rows.weights).with_groups(&rows.groups);
        let params = Params { seed: task.seed, ..self.spec.params.clone() };
        let objective = Objective::Quantiles(LEVELS.to_vec());
        let booster = train(&data, None, &params, &objective, &mut |at| progress(at.round as f64 / at.rounds as f64));
        Ok(Box::new(FittedTrees { task: task.clone(), booster: booster.map_err(failed)? }))
    }
}

struct Rows {
    names: Vec<String>,
    columns: Vec<Vec<f32>>,
    targets: Vec<f32>,
    weights: Vec<f32>,
    // Rows of one series and origin depend on each other.
    groups: Vec<u32>,
}

impl BoostedTrees {
    fn rows(&self, panel: &Panel, design: &Design, horizon: usize) -> Rows {
        let season = panel.frequency.season();
        let origins: usize =
            panel.series.iter().map(|series| series.values.len().saturating_sub(design.first_origin())).sum();
        let mut apart = (season / self.spec.origins_a_day.max(1)).max(1);
        while origins / apart * horizon > self.spec.rows_max.max(1) {
            apart += season;
        }
        let mut names: Vec<String> = design.names().to_vec();
        names.push("series".into());
        let mut rows = Rows {
            columns: vec![Vec::new(); names.len()],
            names,
            targets: Vec::new(),
            weights: Vec::new(),
            groups: Vec::new(),
        };
        for number in 0..panel.series.len() {
            let before = rows.groups.last().map_or(0, |last| last + 1);
            each_row(panel, design, number, (apart, horizon), |row| {
                let features = row.features.iter().copied().chain([number as f32]);
                rows.columns.iter_mut().zip(features).for_each(|(column, value)| column.push(value));
                rows.targets.push(row.target);
                rows.weights.push(row.weight);
                rows.groups.push(before + row.origin as u32);
            });
        }
        rows
    }
}

/// Fitted ones.
#[derive(Debug, Clone)]
pub struct FittedTrees {
    task: Task,
    booster: Booster,
}

impl Forecaster for FittedTrees {
    fn name(&self) -> &str {
        NAME
    }

    /// A series is known by its place in the panel, which has to be that of the panel that was fitted to.
    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        let design = Design::new(panel, horizon, &self.task.holidays);
        let numbers = 0..panel.series.len();
        numbers.into_par_iter().map(|number| self.forecast_series(panel, &design, number, horizon)).collect()
    }
}

impl FittedTrees {
    fn forecast_series(
        &self,
        panel: &Panel,
        design: &Design,
        number: usize,
        horizon: usize,
    ) -> Result<SeriesForecast, NoForecast> {
        forecast(panel, design, number, horizon, |row, _| {
            let row: Vec<f32> = row.iter().copied().chain([number as f32]).collect();
            let features = row.len();
            let predicted = Matrix::new(row, 1, features).and_then(|row| self.booster.predict(&row, None));
            let predicted = predicted.map_err(|_| NoForecast::NotFinite)?;
            let quantiles: [f32; LEVELS.len()] = predicted.try_into().map_err(|_| NoForecast::NotFinite)?;
            Ok(quantiles.map(f64::from))
        })
    }
}
