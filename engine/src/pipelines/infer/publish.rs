//! Commits the forecasts to the lake, all or none, once: the commit carries the transaction `meterline/infer/<run_id>`.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use jiff::tz::TimeZone;
use meterline_connectors::lake::{DataFile, Lake, TableDefinition, TableOwner};
use meterline_models::cost::Cost;
use meterline_schemas::quantiles::{LEVELS, MEDIAN};
use meterline_schemas::tables;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::reconcile;
use crate::metadata::records::RunSpec;
use crate::pipelines::artifacts::{self, Prediction, instants};
use crate::pipelines::context::{Inputs, StepContext, cost, output};
use crate::pipelines::error::{Doing, StepError};

/// Rows that are written at once; bounds the memory beside the predictions themselves.
const ROWS_A_FILE: usize = 2_000_000;
/// Commits that are tried while other runs commit to the same table.
const TRIES: u32 = 12;

/// What the step produced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Version of the table `forecasts` that has them.
    pub forecasts_version: i64,
    /// Series.
    pub series: usize,
    /// Rows.
    pub rows: usize,
    /// Whether an earlier process of the run had committed them already.
    pub already: bool,
}

/// Executes the step.
pub async fn execute(ctx: &StepContext, inputs: &Inputs) -> Result<Value, StepError> {
    let reconciled: reconcile::Output = inputs.get("reconcile")?;
    let bytes = artifacts::get(&ctx.env.lake, &reconciled.predictions).await?;
    let predictions = ctx.blocking(move || artifacts::predictions_from_parquet(bytes)).await?;
    let series = predictions.len();
    let rows = predictions.iter().map(|p| p.forecast.mean.len()).sum();
    let (version, already) = publish(&ctx.env.lake, &ctx.spec, &ctx.zone()?, &predictions).await?;
    if already {
        ctx.info(format!("an earlier process had published the forecasts in version {version} or before"));
    } else {
        ctx.info(format!("{rows} rows of {series} series published in version {version} of forecasts"));
    }
    output(&Output { forecasts_version: version, series, rows, already })
}

/// Commits `predictions` unless the run has committed before. Returns the table's version and whether it had.
pub async fn publish(
    lake: &Lake,
    spec: &RunSpec,
    zone: &TimeZone,
    predictions: &[Prediction],
) -> Result<(i64, bool), StepError> {
    let doing = || format!("publishing the forecasts of {} to the table {}", spec.group_id, tables::FORECASTS);
    let transaction = format!("meterline/infer/{}", spec.run_id);
    let definition = TableDefinition::forecasts();
    let mut owner = TableOwner::open(lake, &definition).await.doing(doing)?;
    let mut files: Option<Vec<DataFile>> = None;
    for attempt in 1.. {
        if owner.transaction(&transaction).await.doing(doing)?.is_some() {
            // With files of its own, this very process committed them and was told otherwise.
            return Ok((owner.version(), files.is_none()));
        }
        if files.is_none() {
            files = Some(write(&owner, spec, zone, predictions).await?);
        }
        let added = files.as_deref().unwrap_or_default();
        match owner.commit(added, &[(transaction.clone(), 1)], None).await {
            Ok(version) => return Ok((version, false)),
            Err(error) if attempt == TRIES => return Err(error).doing(doing),
            Err(error) => {
                // Most often another run was faster. The files stay; only the commit is tried again, on a fresh view.
                tracing::info!(%error, attempt, run = %spec.run_id, "the commit of the forecasts is tried again");
                tokio::time::sleep(backoff(attempt, &spec.run_id)).await;
                owner = TableOwner::open(lake, &definition).await.doing(doing)?;
            }
        }
    }
    Err(StepError::failed(doing(), "no commit was tried"))
}

// Grows with the attempts, and differs between runs that failed together.
fn backoff(attempt: u32, run_id: &str) -> Duration {
    let spread = run_id.bytes().fold(attempt, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b))) % 100;
    Duration::from_millis(u64::from(20 * attempt * attempt + spread))
}

async fn write(
    owner: &TableOwner,
    spec: &RunSpec,
    zone: &TimeZone,
    predictions: &[Prediction],
) -> Result<Vec<DataFile>, StepError> {
    let mut files = Vec::new();
    let series = (ROWS_A_FILE / spec.policy.horizon.max(1)).max(1);
    for part in predictions.chunks(series) {
        let rows = rows(spec, zone, part)?;
        files.extend(owner.write(&rows).await.doing(|| format!("writing {} forecast rows", rows.num_rows()))?);
    }
    Ok(files)
}

/// The forecast that costs least of each step: by the policy's costs, and the median where it has none.
fn decisions(cost: Option<Cost>, prediction: &Prediction) -> Result<Vec<f64>, StepError> {
    let decide = |quantiles: &[f64; LEVELS.len()]| match cost {
        Some(cost) => {
            let doing = || format!("deciding for a forecast of {} by what errors cost", prediction.series_id);
            cost.decide(&LEVELS, quantiles).doing(doing)
        }
        None => Ok(quantiles[MEDIAN]),
    };
    prediction.forecast.quantiles.iter().map(decide).collect()
}

/// Rows of the table `forecasts`: one a series and step, steps from 1.
pub fn rows(spec: &RunSpec, zone: &TimeZone, predictions: &[Prediction]) -> Result<RecordBatch, StepError> {
    let each: Vec<(&Prediction, usize)> =
        predictions.iter().flat_map(|p| (0..p.forecast.mean.len()).map(move |step| (p, step))).collect();
    let each = || each.iter().copied();
    let count = each().len();
    let texts = |of: fn(&Prediction) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(each().map(|(p, _)| of(p))))
    };
    let constant = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; count])) };
    let boundary = |ahead: i64| -> ArrayRef {
        instants(each().map(|(p, step)| spec.frequency.advance(p.origin, step as i64 + ahead, zone)).collect())
    };
    let mut columns: Vec<ArrayRef> = vec![
        texts(|p| &p.series_id),
        instants(each().map(|(p, _)| p.origin).collect()),
        boundary(0),
        boundary(1),
        Arc::new(Int32Array::from_iter_values(each().map(|(_, step)| step as i32 + 1))),
        Arc::new(Float64Array::from_iter_values(each().map(|(p, step)| p.forecast.mean[step]))),
    ];
    for level in 0..LEVELS.len() {
        let values = each().map(|(p, step)| p.forecast.quantiles[step][level]);
        columns.push(Arc::new(Float64Array::from_iter_values(values)));
    }
    let (costs, cost) = (spec.policy.costs, cost(&spec.policy)?);
    let decisions: Vec<Vec<f64>> = predictions.iter().map(|p| decisions(cost, p)).collect::<Result<_, _>>()?;
    columns.push(Arc::new(Float64Array::from_iter_values(decisions.into_iter().flatten())));
    for of in [costs.map(|costs| costs.cost_under), costs.map(|costs| costs.cost_over)] {
        columns.push(Arc::new(Float64Array::from(vec![of; count])));
    }
    columns.extend([
        texts(|p| &p.unit),
        Arc::new(Float64Array::from_iter(each().map(|(p, _)| p.scale))) as ArrayRef,
        texts(|p| &p.model_version),
        Arc::new(BooleanArray::from_iter(each().map(|(p, _)| Some(p.substituted)))),
        constant(&spec.run_id),
        Arc::new(Int64Array::from(vec![spec.intervals_version; count])),
        instants(vec![spec.watermark; count]),
        constant(&spec.frequency.to_string()),
        constant(&spec.group_id),
    ]);
    RecordBatch::try_new(tables::forecasts(), columns).doing(|| "forming the rows of the table forecasts".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Float64Type, TimestampMicrosecondType};
    use meterline_connectors::lake::snapshot;
    use meterline_models::forecaster::SeriesForecast;
    use meterline_schemas::Frequency;
    use meterline_schemas::config::Costs;
    use meterline_schemas::time::{DAY, HOUR};

    use crate::pipelines::spec::tests::spec;

    fn prediction(id: &str, origin: i64, horizon: usize) -> Prediction {
        Prediction {
            series_id: id.into(),
            origin,
            unit: "kWh".into(),
            scale: None,
            model_version: "PT1H-0001".into(),
            substituted: false,
            forecast: SeriesForecast { mean: vec![1.0; horizon], quantiles: vec![[1.0; LEVELS.len()]; horizon] },
        }
    }

    #[test]
    fn rows_follow_the_schema_and_the_calendar() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let mut spec = spec("r");
        spec.frequency = Frequency::Day;
        // The day before the clocks go forward: 2024-03-30 00:00 in Berlin.
        let origin = 1_711_753_200_000_000;
        let rows = rows(&spec, &zone, &[prediction("a", origin, 3)]).unwrap();
        assert_eq!(rows.schema(), tables::forecasts());
        let column = |i: usize| rows.column(i).as_primitive::<TimestampMicrosecondType>().values().to_vec();
        assert_eq!(column(2), [origin, origin + DAY, origin + 2 * DAY - HOUR]);
        assert_eq!(column(3), [origin + DAY, origin + 2 * DAY - HOUR, origin + 3 * DAY - HOUR]);
    }

    #[test]
    fn the_decision_is_the_quantile_that_costs_least_and_without_costs_the_median() {
        let mut prediction = prediction("a", 0, 1);
        prediction.forecast.quantiles[0] = LEVELS.map(|level| 10.0 * level);
        let mut spec = spec("r");
        let (under, over) = (Some(3.0), Some(1.0));
        for (costs, expected) in [(None, [Some(5.0), None, None]), (under.zip(over), [Some(7.5), under, over])] {
            spec.policy.costs = costs.map(|(cost_under, cost_over)| Costs { cost_under, cost_over });
            let rows = rows(&spec, &TimeZone::UTC, &[prediction.clone()]).unwrap();
            let found = ["decision", "cost_under", "cost_over"].map(|name| {
                let column = rows.column_by_name(name).unwrap().as_primitive::<Float64Type>();
                column.is_valid(0).then(|| column.value(0))
            });
            assert_eq!(found, expected);
        }
    }

    #[tokio::test]
    async fn a_run_publishes_once_however_often_it_is_resumed() {
        let directory = tempfile::tempdir().unwrap();
        let lake = Lake::open(directory.path().to_str().unwrap()).await.unwrap();
        let spec = spec("run-1");
        let predictions = [prediction("a", 0, 2), prediction("b", 0, 2)];
        let (version, already) = publish(&lake, &spec, &TimeZone::UTC, &predictions).await.unwrap();
        assert!(!already);
        let again = publish(&lake, &spec, &TimeZone::UTC, &predictions).await.unwrap();
        assert_eq!(again, (version, true));
        let table = snapshot(&lake, tables::FORECASTS, None).await.unwrap().unwrap();
        assert_eq!(table.files.iter().map(|f| f.rows).sum::<u64>(), 4);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn runs_of_different_groups_publish_at_the_same_time() {
        let directory = tempfile::tempdir().unwrap();
        let lake = Lake::open(directory.path().to_str().unwrap()).await.unwrap();
        let tasks: Vec<_> = (0..6)
            .map(|i| {
                let lake = lake.clone();
                tokio::spawn(async move {
                    let spec = spec(&format!("run-{i}"));
                    publish(&lake, &spec, &TimeZone::UTC, &[prediction("a", 0, 2)]).await
                })
            })
            .collect();
        for task in tasks {
            assert!(!task.await.unwrap().unwrap().1);
        }
        let table = snapshot(&lake, tables::FORECASTS, None).await.unwrap().unwrap();
        assert_eq!(table.files.iter().map(|f| f.rows).sum::<u64>(), 12);
    }
}
