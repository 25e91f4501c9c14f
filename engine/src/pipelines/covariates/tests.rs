//! What the steps of a run make of covariates, with a lake and files.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use meterline_connectors::lake::{TableDefinition, TableOwner};
use meterline_models::forecaster::Task;
use meterline_models::registry;
use meterline_schemas::config::Fallback;
use meterline_schemas::time::{DAY, HOUR, format_micros};
use serde_json::json;

use super::*;
use crate::environment::Environment;
use crate::pipelines::context::tests::step_context;
use crate::pipelines::context::{Inputs, output};
use crate::pipelines::infer::{self, predict};
use crate::pipelines::spec::tests::environment;
use crate::pipelines::{artifacts, build};

const DAYS: i64 = 40;
const ORIGIN: i64 = DAYS * DAY;

// `a`, `b` and `wind`, hour by hour, to a day after the origin; of `a` every second hour was estimated, and what comes
// after the origin must not be seen.
async fn fill(env: &Environment) -> i64 {
    let hours = 24 * (DAYS + 1);
    let rows: Vec<(&str, i64)> =
        ["a", "b", "wind"].into_iter().flat_map(|id| (0..hours).map(move |hour| (id, hour))).collect();
    let text = |of: &dyn Fn(&(&str, i64)) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(of)))
    };
    let number =
        |of: &dyn Fn(&(&str, i64)) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(rows.iter().map(of))) };
    let at = |shift: i64| -> ArrayRef {
        let starts = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| (row.1 + shift) * HOUR));
        Arc::new(starts.with_timezone("UTC"))
    };
    let value = |row: &(&str, i64)| if row.1 * HOUR < ORIGIN { (row.1 % 24) as f64 + (row.1 % 7) as f64 } else { 1e9 };
    let of_one = |value: i32| -> ArrayRef { Arc::new(Int32Array::from(vec![value; rows.len()])) };
    let quality = |row: &(&str, i64)| if row.0 == "a" && row.1 % 2 == 0 { "estimated" } else { "measured" };
    let mut columns = vec![
        text(&|row| row.0.to_owned()),
        at(0),
        at(1),
        text(&|_| "PT1H".to_owned()),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(value))),
        text(&|_| "kWh".to_owned()),
        of_one(1),
        text(&|row| quality(row).to_owned()),
        text(&|_| "meters".to_owned()),
        number(&|row| row.1),
        of_one(0),
        number(&|row| row.1),
    ];
    columns.extend((0..5).map(|_| Arc::new(Int64Array::new_null(rows.len())) as ArrayRef));
    columns.push(text(&|row| format_micros(row.1 * HOUR)[..7].to_owned()));
    columns.push(text(&|_| "base".to_owned()));
    let definition = TableDefinition::intervals();
    let batch = RecordBatch::try_new(definition.schema.clone(), columns).unwrap();
    let mut owner = TableOwner::open(&env.lake, &definition).await.unwrap();
    let files = owner.write(&batch).await.unwrap();
    owner.commit(&files, &[("test".into(), 1)], None).await.unwrap()
}

fn config(json: serde_json::Value) -> CovariateConfig {
    serde_json::from_value(json).unwrap()
}

// A file with the hours from the 20th day to so many after the origin, each with its number.
fn write_hours(directory: &Path, name: &str, after: i64) {
    let rows: String =
        (20 * 24..24 * DAYS + after).map(|hour| format!("{},{hour}\n", format_micros(hour * HOUR))).collect();
    std::fs::write(directory.join(name), format!("start,value\n{rows}")).unwrap();
}

// A step of a run with the temperature (known ahead), a pressure and the series `wind` (both known of the past).
async fn ctx(directory: &Path, step: &'static str, ahead: i64) -> StepContext {
    let env = environment(directory).await;
    let version = fill(&env).await;
    write_hours(directory, "temperature.csv", ahead);
    write_hours(directory, "pressure.csv", 100);
    let mut ctx = step_context(env, step).await;
    let spec = Arc::make_mut(&mut ctx.spec);
    spec.origin = ORIGIN;
    spec.intervals_version = version;
    spec.covariates = vec![
        ("temperature".into(), config(json!({ "file": "temperature.csv" }))),
        ("pressure".into(), config(json!({ "file": "pressure.csv", "known": "past" }))),
        ("wind".into(), config(json!({ "series": "wind" }))),
    ];
    ctx
}

async fn dataset(ctx: &StepContext, path: &str) -> History {
    let bytes = artifacts::get(&ctx.env.lake, path).await.unwrap();
    artifacts::history_from_parquet(bytes, ctx.spec.frequency, ctx.zone().unwrap()).unwrap()
}

#[tokio::test]
async fn an_infer_run_sees_what_is_known_ahead_and_nothing_else_of_the_future() {
    let directory = tempfile::tempdir().unwrap();
    let ctx = ctx(directory.path(), "context", 100).await;
    let found: infer::context::Output =
        serde_json::from_value(infer::context::execute(&ctx, &Inputs::default()).await.unwrap()).unwrap();
    let history = dataset(&ctx, &found.dataset).await;
    assert_eq!(history.panel.covariates, of(&ctx.spec.covariates));
    let [a, b, _wind] = &history.panel.series[..] else { panic!("three series") };
    let end = a.values.len() as i64;
    let [temperature, pressure, wind] = &a.covariates[..] else { panic!("three covariates") };
    let hours = 24 * DAYS;
    assert_eq!((temperature.at(end - 1), temperature.at(end + 47)), ((hours - 1) as f32, (hours + 47) as f32));
    for past in [pressure, wind] {
        assert!(past.at(end - 1).is_finite() && past.at(end).is_nan() && past.at(end + 1).is_nan());
    }
    assert_eq!(pressure.at(end - 1), (hours - 1) as f32);
    assert!(Arc::ptr_eq(&temperature.values, &b.covariates[0].values));
    // The policy's default for what was estimated.
    let of_a: Vec<f32> = (0..a.values.len()).rev().take(4).map(|interval| a.weight(interval)).collect();
    assert_eq!((of_a, b.weights.len()), (vec![1.0, 0.5, 1.0, 0.5], 0));
    ctx.recorder.flush().await;
    let logs = ctx.env.metadata.logs("r").await.unwrap();
    assert!(
        logs.iter().any(|line| line.message.contains("`temperature` has") && line.message.contains("temperature.csv"))
    );
}

#[tokio::test]
async fn a_build_keeps_covariates_and_weights_and_refuses_what_says_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut ctx = ctx(directory.path(), "preprocess", 0).await;
    let found: build::preprocess::Output =
        serde_json::from_value(build::preprocess::execute(&ctx).await.unwrap()).unwrap();
    let history = dataset(&ctx, &found.dataset).await;
    let a = &history.panel.series[0];
    assert_eq!((a.values.len() as i64, a.weight(0), a.weight(1)), (24 * DAYS, 0.5, 1.0));
    assert!(a.covariates[0].at(20 * 24 - 1).is_nan() && a.covariates[0].at(20 * 24) == 480.0);
    Arc::make_mut(&mut ctx.spec).covariates.push(("gust".into(), config(json!({ "series": "gust" }))));
    let error = build::preprocess::execute(&ctx).await.unwrap_err().to_string();
    assert!(error.contains("`gust`") && error.contains("take it out of the policy's covariates"), "{error}");
    Arc::make_mut(&mut ctx.spec).covariates[3] = ("gust".into(), config(json!({ "file": "gust.csv" })));
    let error = build::preprocess::execute(&ctx).await.unwrap_err().to_string();
    assert!(error.contains("`gust` from gust.csv") && error.contains("`start`, `value`"), "{error}");
}

// Predicts with a champion, which seasonal naive is good enough for; the temperature ends one hour before the horizon.
async fn predicted(ctx: &StepContext) -> Result<predict::Output, StepError> {
    let contexts = infer::context::execute(ctx, &Inputs::default()).await.unwrap();
    let read: infer::context::Output = serde_json::from_value(contexts.clone()).unwrap();
    let panel = dataset(ctx, &read.dataset).await.panel;
    let kind = registry::find("seasonal_naive").unwrap();
    let fitted =
        kind.model().fit(&panel, &Task::new(48, 168, 1), &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    ctx.env.lake.put_object("champion", fitted.artifact().unwrap()).await.unwrap();
    let loaded = infer::load::Output { model_version: "PT1H-0001".into(), artifact: Some("champion".into()) };
    let inputs = [("load", output(&loaded).unwrap()), ("context", contexts)];
    let found = predict::execute(ctx, &Inputs(inputs.into_iter().collect())).await?;
    Ok(serde_json::from_value(found).unwrap())
}

#[tokio::test]
async fn a_value_that_is_missing_ahead_fails_the_run_unless_something_stands_in() {
    let directory = tempfile::tempdir().unwrap();
    let mut ctx = ctx(directory.path(), "predict", 47).await;
    let error = predicted(&ctx).await.unwrap_err().to_string();
    for words in
        ["temperature.csv", "of 3 of 3 series", "`a`", "1970-02-11T23:00:00Z", "covariate.temperature.fallback"]
    {
        assert!(error.contains(words), "{error}");
    }
    Arc::make_mut(&mut ctx.spec).covariates[0].1.fallback = Fallback::LastDay;
    let found = predicted(&ctx).await.unwrap();
    assert_eq!((found.model_version.as_str(), found.series, found.substituted), ("PT1H-0001", 3, 0));
    ctx.recorder.flush().await;
    let logs = ctx.env.metadata.logs("r").await.unwrap();
    let told = |line: &&crate::metadata::records::LogRecord| {
        line.message.starts_with("1 values of the covariate `temperature`")
    };
    assert_eq!(logs.iter().filter(told).count(), 1, "{logs:?}");
}
