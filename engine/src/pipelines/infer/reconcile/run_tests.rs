//! A whole infer run on a lake with roll-ups: from a file of readings and one of labels to the table of forecasts.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type};
use meterline_connectors::lake::snapshot;
use meterline_schemas::config::parse;
use meterline_schemas::tables::INTERVALS;
use meterline_schemas::time::HOUR;
use meterline_schemas::{Frequency, Micros};

use crate::environment::Environment;
use crate::ingest::backfill;
use crate::metadata::records::{RunRecord, RunSpec, Status, StepRecord};
use crate::pipelines::child::execute;
use crate::pipelines::spec::tests::{environment, queued, spec};
use crate::pipelines::stop::Stop;
use crate::sql::{TableVersions, query_batches};

pub(crate) const CONFIG: &str = r#"
[feed.meters]
topic = "readings"
series = "series_id"
time = "ts"
value = "value"
frequency = "PT1H"
unit = "kWh"

[labels.network]
file = "network.csv"
labels = { region = "region", feeder = "feeder" }

[rollup.grid]
by = ["region", "feeder"]
"#;

/// `c` is of another feeder in the last days.
const NETWORK: &str = "series_id,valid_from,region,feeder
a,,north,f1
b,,north,f1
c,,north,f1
c,2024-02-01T00:00:00Z,north,f2
d,,north,f2
";

/// Days of readings from 2024-01-01 on.
pub(crate) const DAYS: i64 = 40;
/// 2024-01-01T00:00:00Z.
pub(crate) const START: Micros = 1_704_067_200_000_000;

/// Hours with a daily course and noise; `b` lacks some, so that roll-ups have forecasts of their own.
fn readings() -> String {
    let mut csv = "series_id,timestamp,value\n".to_owned();
    for (number, meter) in ["a", "b", "c", "d"].into_iter().enumerate() {
        for hour in 1..=24 * DAYS {
            let noise = (hour * 7919 + number as i64 * 104_729) % 17;
            let value = 5.0 + (hour % 24) as f64 / 4.0 + noise as f64 / 10.0;
            if meter != "b" || hour % 11 > 1 {
                let at = jiff::Timestamp::from_microsecond(START + hour * HOUR).unwrap();
                writeln!(csv, "{meter},{at},{value}").unwrap();
            }
        }
    }
    csv
}

/// A lake below `directory` with those readings, and the environment that has it.
pub(crate) async fn lake(directory: &Path) -> Arc<Environment> {
    let mut env = Environment::clone(&*environment(directory).await);
    env.config = parse(CONFIG).unwrap();
    std::fs::write(directory.join("network.csv"), NETWORK).unwrap();
    let file = directory.join("history.csv");
    std::fs::write(&file, readings()).unwrap();
    backfill::run(&env.config, &env.lake, "meters", &[file], &Default::default(), directory, |_| {}).await.unwrap();
    Arc::new(env)
}

async fn run(env: &Arc<Environment>, run_id: &str) -> (RunRecord, Vec<StepRecord>) {
    run_of(env, spec(run_id)).await
}

/// Executes a run of `spec` to the end of the readings, at the newest version of the table.
pub(crate) async fn run_of(env: &Arc<Environment>, spec: RunSpec) -> (RunRecord, Vec<StepRecord>) {
    let table = snapshot(&env.lake, INTERVALS, None).await.unwrap().unwrap();
    let spec = RunSpec {
        frequency: Frequency::HOUR,
        origin: START + 24 * DAYS * HOUR,
        intervals_version: table.version,
        ..spec
    };
    let run_id = &spec.run_id.clone();
    env.metadata.insert_run(&queued(spec)).await.unwrap();
    let status = execute(env.clone(), run_id, Stop::default()).await.unwrap();
    let run = env.metadata.run(run_id).await.unwrap().unwrap();
    assert_eq!(status, Status::Succeeded, "{:?}", run.error);
    (run, env.metadata.steps(run_id).await.unwrap())
}

// Steps in which the roll-up and all of its parts have a forecast, and by how much it differs from their sum there.
pub(crate) async fn off(env: &Environment, whole: &str, parts: &[&str]) -> (i64, f64) {
    let listed: Vec<String> = parts.iter().map(|part| format!("'{part}'")).collect();
    let sql = format!(
        "SELECT count(*), max(abs(w.mean - p.total)), CAST(bool_and(w.q10 <= w.q50 AND w.q50 <= w.q90) AS BIGINT) \
         FROM forecasts_latest w JOIN \
         (SELECT start, sum(mean) AS total, count(*) AS parts FROM forecasts_latest WHERE series_id IN ({}) GROUP BY start) p \
         ON w.start = p.start WHERE w.series_id = 'rollup.grid:{whole}@PT1H' AND p.parts = {}",
        listed.join(", "),
        parts.len()
    );
    let rows = query_batches(env, &sql, TableVersions::default()).await.unwrap();
    let row = &rows[0];
    let whole = |column: usize| row.column(column).as_primitive::<Int64Type>().value(0);
    assert_eq!(whole(2), 1, "quantiles are in order");
    (whole(0), row.column(1).as_primitive::<Float64Type>().value(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roll_ups_are_forecast_and_agree_with_the_parts_that_labels_name_now() {
    let directory = tempfile::tempdir().unwrap();
    let env = lake(directory.path()).await;
    let (run, steps) = run(&env, "first").await;
    let names: Vec<&str> = steps.iter().map(|step| step.step.as_str()).collect();
    assert_eq!(names, ["load", "context", "predict", "guard", "reconcile", "publish"]);
    let output = &steps[4].output;
    assert_eq!((output["reconciled"].as_u64(), output["left"].as_object().map(|left| left.len())), (Some(3), Some(0)));
    let horizon = run.spec.policy.horizon as i64;
    let [north, f1, f2] = ["region=north", "region=north/feeder=f1", "region=north/feeder=f2"];
    for (whole, parts) in [
        (north, &["a", "b", "c", "d"][..]),
        (north, &["rollup.grid:region=north/feeder=f1@PT1H", "rollup.grid:region=north/feeder=f2@PT1H"]),
        (f1, &["a", "b"]),
        (f2, &["c", "d"]),
    ] {
        let (steps, most) = off(&env, whole, parts).await;
        // One meter has no reading of the last hour.
        assert!(steps >= horizon - 1 && most < 1e-6, "{whole} of {parts:?}: {steps} steps, {most} off");
    }
    let logs = env.metadata.logs("first").await.unwrap();
    let line = logs.iter().find(|log| log.step == "reconcile").map(|log| log.message.as_str()).unwrap_or_default();
    assert!(line.starts_with("3 roll-ups agree with their parts now (3 weighed by past errors"), "{logs:?}");
    let metrics = env.metadata.metrics("first").await.unwrap();
    assert!(metrics.iter().any(|metric| metric.name == "gap" && metric.value > 0.0), "there was something to do");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roll_ups_that_are_not_to_agree_keep_their_forecasts() {
    let directory = tempfile::tempdir().unwrap();
    let mut env = Environment::clone(&*lake(directory.path()).await);
    env.config = parse(&format!("{CONFIG}reconcile = \"none\"\n")).unwrap();
    let env = Arc::new(env);
    let (_, steps) = run(&env, "first").await;
    assert_eq!(steps[4].output["predictions"], steps[3].output["predictions"], "nothing is written twice");
    assert_eq!(steps[2].output["errors"], serde_json::Value::Null);
    let (_, most) = off(&env, "region=north", &["a", "b", "c", "d"]).await;
    assert!(most > 0.01, "{most}");
}
