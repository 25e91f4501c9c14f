//! Whole corrections on a lake with roll-ups: from readings that change what was forecast from to the table of forecasts.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use meterline_schemas::config::parse;
use meterline_schemas::time::HOUR;
use serde_json::Value;

use crate::environment::Environment;
use crate::ingest::backfill;
use crate::metadata::records::{Pipeline, Published, RunRecord, RunSpec, StepRecord};
use crate::pipelines::context::StepContext;
use crate::pipelines::context::tests::step_context;
use crate::pipelines::correct::find::Histories;
use crate::pipelines::infer::reconcile::run_tests::{CONFIG, DAYS, START, lake, off, run_of};
use crate::pipelines::spec::tests::spec;
use crate::sql::{TableVersions, query_batches};

/// Reads more of the feed: meters, hours before the end of the readings so far, and values.
async fn send(env: &Environment, directory: &Path, readings: &[(&str, i64, f64)]) {
    let mut csv = "series_id,timestamp,value\n".to_owned();
    for (meter, before, value) in readings {
        let at = jiff::Timestamp::from_microsecond(START + (24 * DAYS - before) * HOUR).unwrap();
        writeln!(csv, "{meter},{at},{value}").unwrap();
    }
    let file = directory.join(format!("more-{}.csv", csv.len()));
    std::fs::write(&file, csv).unwrap();
    backfill::run(&env.config, &env.lake, "meters", &[file], &Default::default(), directory, |_| {}).await.unwrap();
}

async fn whole(env: &Arc<Environment>, run_id: &str) -> RunRecord {
    run_of(env, spec(run_id)).await.0
}

fn published(of_all: &RunRecord, newest: &RunRecord) -> Published {
    Published {
        of_all: of_all.spec.run_id.clone(),
        run_id: newest.spec.run_id.clone(),
        origin: of_all.spec.origin,
        reached: of_all.spec.origin,
        intervals_version: newest.spec.intervals_version,
        corrections: 0,
        corrected_by: [newest.spec.run_id.clone()].into_iter().filter(|run| *run != of_all.spec.run_id).collect(),
    }
}

async fn correct(env: &Arc<Environment>, run_id: &str, of_all: &RunRecord, newest: &RunRecord) -> Vec<StepRecord> {
    let published = published(of_all, newest);
    let spec = RunSpec { pipeline: Pipeline::Correct, published: Some(published), ..spec(run_id) };
    run_of(env, spec).await.1
}

fn found(steps: &[StepRecord]) -> (&Value, u64, u64) {
    let output = &steps[0].output;
    (&output["series"], output["corrected"].as_u64().unwrap(), output["left"].as_u64().unwrap())
}

async fn count(env: &Environment, sql: &str) -> i64 {
    use arrow::array::AsArray;
    let rows = query_batches(env, sql, TableVersions::default()).await.unwrap();
    rows[0].column(0).as_primitive::<arrow::datatypes::Int64Type>().value(0)
}

const NORTH: &str = "rollup.grid:region=north@PT1H";
const F1: &str = "rollup.grid:region=north/feeder=f1@PT1H";
const F2: &str = "rollup.grid:region=north/feeder=f2@PT1H";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_corrected_is_forecast_again_with_its_roll_ups_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let mut env = Environment::clone(&*lake(directory.path()).await);
    env.config = parse(&format!("{CONFIG}reconcile = \"bottom_up\"\n")).unwrap();
    let env = Arc::new(env);
    let first = whole(&env, "r1").await;

    // Nothing was corrected: what came is later than all forecasts know, or what there was already.
    let unchanged = 5.0 + ((24 * DAYS - 30) % 24) as f64 / 4.0 + (((24 * DAYS - 30) * 7919) % 17) as f64 / 10.0;
    send(&env, directory.path(), &[("a", -1, 9.0), ("a", 30, unchanged)]).await;
    let steps = correct(&env, "r2", &first, &first).await;
    assert_eq!(found(&steps), (&Value::Array(Vec::new()), 0, 0));
    assert_eq!(count(&env, "SELECT count(*) FROM forecasts WHERE run_id = 'r2'").await, 0);

    // Two values of `a` are others.
    send(&env, directory.path(), &[("a", 20, 90.0), ("a", 30, 80.0)]).await;
    let steps = correct(&env, "r3", &first, &first).await;
    let (series, ..) = found(&steps);
    assert_eq!(series, &serde_json::json!(["a", F1, NORTH]));
    let names: Vec<&str> = steps.iter().map(|step| step.step.as_str()).collect();
    assert_eq!(names, ["find", "load", "context", "predict", "guard", "reconcile", "publish"]);
    let rows = "SELECT count(DISTINCT series_id) FROM forecasts WHERE run_id = 'r3'";
    assert_eq!(count(&env, rows).await, 3);
    for (whole, parts) in [
        ("region=north/feeder=f1", &["a", "b"][..]),
        ("region=north", &[F1, F2]),
        ("region=north", &["a", "b", "c", "d"]),
    ] {
        let (steps, most) = off(&env, whole, parts).await;
        assert!(steps >= first.spec.policy.horizon as i64 - 1 && most < 1e-6, "{whole}: {steps} steps, {most} off");
    }

    // As if all had been forecast anew; and what was published before is still there.
    whole(&env, "r4").await;
    let differ = |one: &str, other: &str, series: &str| {
        format!(
            "SELECT count(*) FROM forecasts x JOIN forecasts y ON x.series_id = y.series_id AND x.start = y.start \
             WHERE x.run_id = '{one}' AND y.run_id = '{other}' AND x.series_id IN ('{series}') \
             AND (abs(x.mean - y.mean) > 1e-9 OR abs(x.q90 - y.q90) > 1e-9)"
        )
    };
    for series in ["a", F1, NORTH] {
        assert_eq!(count(&env, &differ("r3", "r4", series)).await, 0, "{series}");
        assert!(count(&env, &differ("r1", "r3", series)).await > 0, "{series}");
    }
    assert_eq!(count(&env, &differ("r1", "r4", "b', 'c', 'd")).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_correction_begins_with_the_first_and_the_budget_leaves_the_least_corrected() {
    let directory = tempfile::tempdir().unwrap();
    let env = lake(directory.path()).await;
    let first = whole(&env, "r1").await;
    send(&env, directory.path(), &[("d", 5, 70.0)]).await;
    let steps = correct(&env, "r2", &first, &first).await;
    assert_eq!(found(&steps).0, &serde_json::json!(["d", F2, NORTH]));
    let second = env.metadata.run("r2").await.unwrap().unwrap();

    // What the first has taken in is no news; its forecasts are the ones that roll-ups are summed from.
    send(&env, directory.path(), &[("a", 5, 60.0), ("b", 7, 50.0), ("b", 8, 50.0)]).await;
    let steps = correct(&env, "r3", &first, &second).await;
    assert_eq!(found(&steps), (&serde_json::json!(["a", "b", F1, NORTH]), 4, 0));
    let (steps, most) = off(&env, "region=north", &["a", "b", "c", "d"]).await;
    assert!(steps > 0 && most < 1e-6, "{most}");

    let mut spec = spec("r4");
    spec.policy.correct.max_series = Some(1);
    let published = published(&first, &second);
    let (_, steps) = run_of(&env, RunSpec { pipeline: Pipeline::Correct, published: Some(published), ..spec }).await;
    let (series, _, left) = found(&steps);
    assert_eq!((series, left), (&serde_json::json!(["b", F1, NORTH]), 1));
    let logs = env.metadata.logs("r4").await.unwrap();
    assert!(logs.iter().any(|log| log.message.contains("max_series of default is 1")), "{logs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_series_are_compared_by_sums_with_the_same_result_also_after_housekeeping() {
    let directory = tempfile::tempdir().unwrap();
    let env = lake(directory.path()).await;
    let first = whole(&env, "r1").await;
    // Of `b` what there is already.
    let hour = 24 * DAYS - 9;
    let again = 5.0 + (hour % 24) as f64 / 4.0 + ((hour * 7919 + 104_729) % 17) as f64 / 10.0;
    send(&env, directory.path(), &[("a", 5, 60.0), ("c", 700, 50.0), ("b", 9, again)]).await;
    crate::maintenance::manual::run(&env, true, |_| {}).await.unwrap();
    let table = meterline_connectors::lake::snapshot(&env.lake, "intervals", None).await.unwrap().unwrap();
    let published = published(&first, &first);
    let spec = RunSpec { intervals_version: table.version, origin: first.spec.origin, ..spec("r2") };
    let ctx = StepContext { spec: Arc::new(spec), ..step_context(env.clone(), "find").await };
    let all: Vec<String> = ["a", "b", "c", "d", F1, F2, NORTH].map(str::to_owned).to_vec();
    for from in [START, START + 24 * (DAYS - 10) * HOUR] {
        let histories = Histories { ctx: &ctx, published: &published, from };
        let by_values = histories.by_values(&all, 99).await.unwrap();
        let by_sums = histories.by_sums(&all, 99).await.unwrap();
        assert_eq!(by_values, by_sums);
        let corrected: Vec<&str> = by_sums.0.iter().map(String::as_str).filter(|id| id.len() == 1).collect();
        assert_eq!(corrected, if from == START { vec!["a", "c"] } else { vec!["a"] });
    }
    let histories = Histories { ctx: &ctx, published: &published, from: START };
    assert_eq!(histories.by_sums(&all, 1).await.unwrap(), (vec!["a".to_owned()], 3));
    // A version that is not there any more leaves it to the next run.
    let gone = Published { intervals_version: 9_999, ..published.clone() };
    let histories = Histories { published: &gone, ..histories };
    assert_eq!(histories.differing(&all, 99).await.unwrap(), (Vec::new(), 7));
}
