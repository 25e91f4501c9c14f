//! Forecasts that are in force, of series that a correction does not touch.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int32Type, TimestampMicrosecondType};
use meterline_models::forecaster::SeriesForecast;
use meterline_schemas::quantiles::{COLUMNS, LEVELS};
use meterline_schemas::tables::FORECASTS;

use super::published;
use crate::pipelines::artifacts::Prediction;
use crate::pipelines::context::StepContext;
use crate::pipelines::error::{Doing, StepError};
use crate::sql::{TableVersions, literal, literals, query_batches};

/// Series that are read at once; bounds the query's text.
const SERIES_A_QUERY: usize = 1_000;

/// The forecasts in force of these series, of those that have one.
pub async fn read(ctx: &StepContext, series: &[String]) -> Result<Vec<Prediction>, StepError> {
    let published = published(ctx)?;
    let doing = || format!("reading the forecasts of {} that are in force", ctx.spec.group_id);
    let runs: Vec<String> = published.corrected_by.iter().chain([&published.of_all]).cloned().collect();
    let mut found = Vec::with_capacity(series.len());
    for part in series.chunks(SERIES_A_QUERY) {
        let query = format!(
            "SELECT series_id, run_id, step, origin, unit, scale, model_version, substituted, mean, {} FROM {FORECASTS} \
             WHERE group_id = {} AND run_id IN ({}) AND series_id IN ({}) \
             ORDER BY series_id, run_id, step",
            COLUMNS.join(", "),
            literal(&ctx.spec.group_id),
            literals(&runs),
            literals(part)
        );
        let mut newest: BTreeMap<String, (String, Prediction)> = BTreeMap::new();
        for rows in query_batches(&ctx.env, &query, TableVersions::default()).await.doing(doing)? {
            take(&rows, &mut newest).ok_or_else(|| StepError::failed(doing(), "a column has an unexpected type"))?;
        }
        found.extend(newest.into_values().map(|(_, prediction)| prediction));
    }
    Ok(found)
}

// Of each series the forecast of the newest run; rows are ordered by series, run and step.
fn take(rows: &RecordBatch, newest: &mut BTreeMap<String, (String, Prediction)>) -> Option<()> {
    let text = |column: usize| rows.column(column).as_string_opt::<i32>();
    let number = |column: usize| rows.column(column).as_primitive_opt::<Float64Type>();
    let (ids, runs, units, models) = (text(0)?, text(1)?, text(4)?, text(6)?);
    let steps = rows.column(2).as_primitive_opt::<Int32Type>()?;
    let origins = rows.column(3).as_primitive_opt::<TimestampMicrosecondType>()?;
    let (scales, means, substituted) = (number(5)?, number(8)?, rows.column(7).as_boolean_opt()?);
    let mut levels = Vec::with_capacity(LEVELS.len());
    for column in 0..LEVELS.len() {
        levels.push(number(9 + column)?);
    }
    for row in 0..rows.num_rows() {
        let (id, run) = (ids.value(row), runs.value(row));
        if newest.get(id).is_none_or(|(of, _)| of != run) {
            let prediction = Prediction {
                series_id: id.to_owned(),
                origin: origins.value(row),
                unit: units.value(row).to_owned(),
                scale: scales.is_valid(row).then(|| scales.value(row)),
                model_version: models.value(row).to_owned(),
                substituted: substituted.value(row),
                forecast: SeriesForecast { mean: Vec::new(), quantiles: Vec::new() },
            };
            newest.insert(id.to_owned(), (run.to_owned(), prediction));
        }
        let Some((_, prediction)) = newest.get_mut(id) else { continue };
        // Each step in its place: one that is missing leaves the forecast short, and no sum is made of it.
        if usize::try_from(steps.value(row)).ok()? == prediction.forecast.mean.len() + 1 {
            prediction.forecast.mean.push(means.value(row));
            // Levels that there were not yet when it was made are null: no sum is made of such a forecast.
            let level = |of: &&arrow::array::Float64Array| if of.is_valid(row) { of.value(row) } else { f64::NAN };
            let mut quantiles = [f64::NAN; LEVELS.len()];
            quantiles.iter_mut().zip(&levels).for_each(|(place, of)| *place = level(of));
            prediction.forecast.quantiles.push(quantiles);
        }
    }
    Some(())
}
