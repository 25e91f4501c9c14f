//! What a statement sees.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{Float64Type, Int64Type};
use arrow::util::pretty::pretty_format_batches;
use meterline_connectors::lake::{Lake, TableDefinition, TableOwner};
use meterline_schemas::quantiles::LEVELS;
use meterline_schemas::time::HOUR;
use proptest::prelude::*;

use super::session::session;
use super::*;
use crate::environment::Environment;
use crate::metadata::MetadataStore;

/// (series, hour, value, position, layer)
type Row = (&'static str, i64, f64, i64, &'static str);

fn intervals(rows: &[Row]) -> RecordBatch {
    let text = |of: fn(&Row) -> &str| Arc::new(rows.iter().map(|r| Some(of(r))).collect::<StringArray>()) as ArrayRef;
    let at = |shift: i64| {
        let values: Vec<i64> = rows.iter().map(|r| (r.1 + shift) * HOUR).collect();
        Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC")) as ArrayRef
    };
    let n = rows.len();
    let mut columns = vec![
        text(|r| r.0),
        at(0),
        at(1),
        text(|_| "PT1H"),
        Arc::new(rows.iter().map(|r| Some(r.2)).collect::<Float64Array>()),
        text(|_| "kWh"),
        Arc::new(Int32Array::from(vec![1; n])),
        text(|_| "measured"),
        text(|_| "meters"),
        Arc::new(rows.iter().map(|r| Some(r.3)).collect::<Int64Array>()),
        Arc::new(Int32Array::from(vec![0; n])),
        Arc::new(rows.iter().map(|r| Some(r.3)).collect::<Int64Array>()),
    ];
    // What roll-ups are made of.
    columns.extend((0..5).map(|_| Arc::new(Int64Array::new_null(n)) as ArrayRef));
    columns.extend([text(|_| "1970-01"), text(|r| r.4)]);
    RecordBatch::try_new(TableDefinition::intervals().schema, columns).unwrap()
}

/// The same rows as a roll-up's, of each of which half the hour is there.
fn of_rollup(rows: &[Row]) -> RecordBatch {
    let rows = intervals(rows);
    let mut columns = rows.columns().to_vec();
    for (name, seconds) in [("present", 1800), ("expected", 3600)] {
        let column = rows.schema().index_of(name).unwrap();
        columns[column] = Arc::new(Int64Array::from(vec![seconds; rows.num_rows()]));
    }
    RecordBatch::try_new(rows.schema(), columns).unwrap()
}

async fn environment() -> (tempfile::TempDir, Environment) {
    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::open(dir.path().to_str().unwrap()).await.unwrap();
    let metadata = MetadataStore::open(&format!("sqlite:{}/metadata.db", dir.path().display())).await.unwrap();
    let config_path = dir.path().join("meterline.toml");
    (dir, Environment { config: Default::default(), config_path, lake, metadata })
}

async fn append(env: &Environment, definition: TableDefinition, rows: RecordBatch, txn: i64) -> i64 {
    let mut owner = TableOwner::open(&env.lake, &definition).await.unwrap();
    let files = owner.write(&rows).await.unwrap();
    owner.commit(&files, &[("test".into(), txn)], None).await.unwrap()
}

async fn numbers(env: &Environment, sql: &str, versions: TableVersions) -> Vec<f64> {
    let batches = query_batches(env, sql, versions).await.unwrap();
    batches.iter().flat_map(|b| b.column(0).as_primitive::<Float64Type>().values().to_vec()).collect()
}

async fn count(env: &Environment, sql: &str) -> i64 {
    let batches = query_batches(env, sql, TableVersions::default()).await.unwrap();
    batches[0].column(0).as_primitive::<Int64Type>().value(0)
}

const ALL: &str = "SELECT value FROM intervals ORDER BY series_id, start";

#[tokio::test]
async fn of_several_revisions_the_greatest_position_is_seen_whatever_the_order_of_commits() {
    let (_dir, env) = environment().await;
    let newest = TableVersions::default();
    let base = append(
        &env,
        TableDefinition::intervals(),
        intervals(&[("a", 0, 1.0, 5, "base"), ("a", 1, 2.0, 6, "base"), ("b", 0, 3.0, 7, "base")]),
        1,
    )
    .await;
    assert_eq!(numbers(&env, ALL, newest).await, [1.0, 2.0, 3.0]);
    append(&env, TableDefinition::intervals(), intervals(&[("a", 0, 10.0, 9, "rev"), ("b", 0, 0.5, 2, "rev")]), 2)
        .await;
    append(&env, TableDefinition::intervals(), intervals(&[("a", 0, 8.0, 8, "rev"), ("c", 4, 4.0, 1, "rev")]), 3).await;
    assert_eq!(numbers(&env, ALL, newest).await, [10.0, 2.0, 3.0, 4.0]);
    // Pinned to a version, nothing later is seen.
    assert_eq!(numbers(&env, ALL, TableVersions { intervals: Some(base) }).await, [1.0, 2.0, 3.0]);
    assert_eq!(count(&env, "SELECT count(*) FROM interval_revisions").await, 7);
    // As it was known at 5, 7, 8 and 9 ms, whenever it was committed.
    for (ms, known) in [
        (5, vec![1.0, 0.5, 4.0]),
        (7, vec![1.0, 2.0, 3.0, 4.0]),
        (8, vec![8.0, 2.0, 3.0, 4.0]),
        (9, vec![10.0, 2.0, 3.0, 4.0]),
    ] {
        let sql = format!("SELECT value FROM intervals_as_of('1970-01-01T00:00:00.00{ms}Z') ORDER BY series_id, start");
        assert_eq!(numbers(&env, &sql, newest).await, known, "at {ms} ms");
    }
    let one = "SELECT value FROM intervals_as_of('1970-01-01T00:00:00.008Z') WHERE series_id = 'a' AND value > 3";
    assert_eq!(numbers(&env, one, newest).await, [8.0]);
    let refused = query_batches(&env, "SELECT * FROM intervals_as_of('yesterday')", newest).await.unwrap_err();
    assert!(refused.to_string().contains("2024-05-01T00:00:00Z"), "{refused}");
    let one = "SELECT value FROM intervals WHERE series_id = 'a' AND start >= '1970-01-01T01:00:00Z'";
    assert_eq!(numbers(&env, one, newest).await, [2.0]);
}

#[tokio::test]
async fn intervals_as_of_now_is_intervals_column_by_column() {
    let (_dir, env) = environment().await;
    let newest = TableVersions::default();
    const NOW: &str = "intervals_as_of('2000-01-01T00:00:00Z')";
    // Of an empty table, of a base alone, and of a base with revisions: each is another query.
    let commits = [
        intervals(&[]),
        of_rollup(&[("a", 0, 1.0, 5, "base"), ("a", 1, 2.0, 6, "base"), ("b", 0, 3.0, 7, "base")]),
        of_rollup(&[("a", 0, 10.0, 9, "rev"), ("b", 0, 0.5, 2, "rev")]),
    ];
    for (txn, rows) in commits.into_iter().enumerate() {
        if rows.num_rows() > 0 {
            append(&env, TableDefinition::intervals(), rows, txn as i64).await;
        }
        let all = |table: &str| format!("SELECT * FROM {table} ORDER BY series_id, start");
        let (columns, rows) = query(&env, &all("intervals"), newest).await.unwrap();
        let (known_columns, known) = query(&env, &all(NOW), newest).await.unwrap();
        assert_eq!(known_columns, columns);
        let shown = |rows: Vec<RecordBatch>| {
            let rows: Vec<RecordBatch> = rows.into_iter().filter(|rows| rows.num_rows() > 0).collect();
            pretty_format_batches(&rows).unwrap().to_string()
        };
        assert_eq!(shown(known), shown(rows));
    }
    let some = format!(
        "SELECT completeness, expected, month, \"offset\", value FROM {NOW} \
         WHERE series_id = 'a' AND start < '1970-01-01T01:00:00Z'"
    );
    let rows = query_batches(&env, &some, newest).await.unwrap();
    let shown = pretty_format_batches(&rows).unwrap().to_string();
    let line = shown.lines().find(|line| line.contains("1970-01")).unwrap_or_default();
    let cells: Vec<&str> = line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!(cells, ["0.5", "3600", "1970-01", "9", "10.0"]);
}

#[tokio::test]
async fn every_table_is_there_before_anything_was_ingested() {
    let (_dir, env) = environment().await;
    for table in TABLES {
        assert_eq!(count(&env, &format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
        let columns = query_batches(&env, &format!("DESCRIBE {table}"), TableVersions::default()).await.unwrap();
        assert!(columns.iter().map(RecordBatch::num_rows).sum::<usize>() > 5, "{table}");
    }
    let shown = query_batches(&env, "SHOW TABLES", TableVersions::default()).await.unwrap();
    let shown = pretty_format_batches(&shown).unwrap().to_string();
    assert!(TABLES.iter().all(|table| shown.contains(table)), "{shown}");
}

#[tokio::test]
async fn a_wrong_statement_is_refused_with_the_remedy() {
    let (_dir, env) = environment().await;
    for (sql, words) in [
        (
            "SELECT * FROM interval",
            "there is no table `interval`; did you mean `intervals`? the tables are intervals, ",
        ),
        ("SELECT * FROM qqq", "there is no table `qqq`; the tables are intervals, "),
        ("SELECT valeu FROM intervals", "valeu"),
        ("DROP TABLE intervals", "only queries"),
        ("CREATE TABLE x AS SELECT 1", "only queries"),
        ("DELETE FROM intervals", "only queries"),
        ("EXPLAIN ANALYZE INSERT INTO runs SELECT * FROM runs", "only queries"),
        ("SET datafusion.execution.batch_size = 1", "only queries"),
        ("SELEC 1", "SELEC"),
    ] {
        let error = query(&env, sql, TableVersions::default()).await.unwrap_err().to_string();
        assert!(error.contains(words), "{sql}: {error}");
    }
}

fn forecast(run: &str, origin: i64, start: i64, median: f64) -> RecordBatch {
    let at = |hour: i64| Arc::new(TimestampMicrosecondArray::from(vec![hour * HOUR]).with_timezone("UTC")) as ArrayRef;
    let text = |t: &str| Arc::new(StringArray::from(vec![t])) as ArrayRef;
    let number = |x: f64| Arc::new(Float64Array::from(vec![x])) as ArrayRef;
    let mut columns = vec![
        text("a"),
        at(origin),
        at(start),
        at(start + 1),
        Arc::new(Int32Array::from(vec![(start - origin + 1) as i32])) as ArrayRef,
        number(median),
    ];
    columns.extend(LEVELS.map(|level| number(median + level - 0.5)));
    columns.extend([number(median + 0.25), number(3.0), number(1.0)]);
    columns.extend([
        text("kWh"),
        number(2.0),
        text("PT1H-0001"),
        Arc::new(BooleanArray::from(vec![false])) as ArrayRef,
        text(run),
        Arc::new(Int64Array::from(vec![1])) as ArrayRef,
        at(origin),
        text("PT1H"),
        text("PT1H"),
    ]);
    RecordBatch::try_new(TableDefinition::forecasts().schema, columns).unwrap()
}

#[tokio::test]
async fn forecasts_are_scored_against_the_actuals_as_they_are_known_now() {
    let (_dir, env) = environment().await;
    for (txn, batch) in
        [forecast("r1", 2, 2, 5.0), forecast("r2", 2, 2, 6.0), forecast("r0", 1, 2, 7.0)].into_iter().enumerate()
    {
        append(&env, TableDefinition::forecasts(), batch, txn as i64 + 1).await;
    }
    let newest = TableVersions::default();
    assert_eq!(numbers(&env, "SELECT q50 FROM forecasts_latest", newest).await, [6.0]);
    let scores = "SELECT abs_error FROM forecast_scores ORDER BY run_id";
    assert!(numbers(&env, scores, newest).await.is_empty());
    append(&env, TableDefinition::intervals(), intervals(&[("a", 2, 6.0, 1, "base")]), 9).await;
    assert_eq!(numbers(&env, scores, newest).await, [1.0, 1.0, 0.0]);
    let scaled = "SELECT scaled_error FROM forecast_scores ORDER BY run_id";
    assert_eq!(numbers(&env, scaled, newest).await, [0.5, 0.5, 0.0]);
    // At the median itself the pinball losses of the other deciles remain: 2/9 · Σ level-wise distance.
    let deciles = LEVELS.iter().filter(|level| meterline_models::metrics::is_decile(**level));
    let expected: f64 = deciles.map(|l| (l - 0.5).abs() * (0.5 - (l - 0.5).abs())).sum::<f64>() * 2.0 / 9.0;
    let pinball = numbers(&env, "SELECT pinball FROM forecast_scores WHERE run_id = 'r2'", newest).await[0];
    assert!((pinball - expected).abs() < 1e-12, "{pinball} {expected}");
    append(&env, TableDefinition::intervals(), intervals(&[("a", 2, 5.0, 3, "rev")]), 10).await;
    assert_eq!(numbers(&env, scores, newest).await, [2.0, 0.0, 1.0]);
}

#[tokio::test]
async fn a_decision_costs_what_it_cost_when_it_was_made_and_older_files_have_none() {
    let (_dir, env) = environment().await;
    let definition = TableDefinition::forecasts();
    // As an earlier release wrote it, before there were these columns.
    let all = forecast("r0", 2, 2, 5.0);
    let names: Vec<usize> = (0..all.num_columns())
        .filter(|i| !["decision", "cost_under", "cost_over"].contains(&all.schema().field(*i).name().as_str()))
        .collect();
    let old = all.project(&names).unwrap();
    append(&env, TableDefinition { schema: old.schema(), ..definition.clone() }, old, 1).await;
    append(&env, definition.clone(), forecast("r1", 2, 2, 5.0), 2).await;
    append(&env, definition, forecast("r2", 2, 2, 7.0), 3).await;
    append(&env, TableDefinition::intervals(), intervals(&[("a", 2, 6.0, 1, "base")]), 9).await;
    let newest = TableVersions::default();
    // 3 for each unit too little, 1 for each too much.
    let costs = "SELECT cost FROM forecast_scores WHERE cost IS NOT NULL ORDER BY run_id";
    assert_eq!(numbers(&env, costs, newest).await, [3.0 * 0.75, 1.25]);
    let none = "SELECT count(*) FROM forecast_scores WHERE run_id = 'r0' AND cost IS NULL AND decision IS NULL";
    assert_eq!(count(&env, none).await, 1);
}

/// Explains a query; the result says how many data files it reads, too.
async fn explained(env: &Environment, sql: &str) -> (String, usize) {
    let rows = query_batches(env, &format!("EXPLAIN {sql}"), TableVersions::default()).await.unwrap();
    let text = pretty_format_batches(&rows).unwrap().to_string();
    let files = text.matches(".parquet").count();
    (text, files)
}

#[tokio::test]
async fn only_files_that_can_matter_are_read_and_only_revised_ones_compared() {
    let (_dir, env) = environment().await;
    let table = TableDefinition::intervals;
    append(&env, table(), intervals(&[("a", 0, 1.0, 1, "base"), ("b", 9, 1.0, 1, "base")]), 1).await;
    append(&env, table(), intervals(&[("c", 10, 1.0, 1, "base"), ("d", 19, 1.0, 1, "base")]), 2).await;
    let (plan, files) = explained(&env, "SELECT value FROM intervals").await;
    assert!(files == 2 && !plan.contains("Join") && !plan.contains("Window"), "{plan}");
    for (filter, expected) in [
        ("series_id = 'a'", 1),
        ("series_id IN ('b', 'c')", 2),
        ("series_id = 'e'", 0),
        ("start < '1970-01-01T10:00:00Z'", 1),
        ("\"end\" > TIMESTAMP '1970-01-01T10:00:00Z' AND month = '1970-01'", 1),
        ("month = '1970-02'", 0),
        ("frequency = 'PT15M'", 0),
    ] {
        let (plan, files) = explained(&env, &format!("SELECT value FROM intervals WHERE {filter}")).await;
        assert_eq!(files, expected, "{filter}: {plan}");
    }
    append(&env, table(), intervals(&[("a", 1, 2.0, 9, "rev")]), 3).await;
    let (plan, _) = explained(&env, "SELECT value FROM intervals WHERE series_id = 'c'").await;
    assert!(plan.matches(".parquet").count() == 1, "{plan}");
}

#[tokio::test]
async fn a_session_keeps_what_it_saw_first_and_the_next_one_sees_more() {
    let (_dir, env) = environment().await;
    let table = TableDefinition::intervals;
    append(&env, table(), intervals(&[("a", 0, 1.0, 1, "base")]), 1).await;
    let before = session(&env, TableVersions::default()).await.unwrap();
    let rows = || async { before.sql("SELECT * FROM intervals").await.unwrap().count().await.unwrap() };
    assert_eq!(rows().await, 1);
    append(&env, table(), intervals(&[("a", 1, 1.0, 2, "base")]), 2).await;
    assert_eq!(rows().await, 1);
    assert_eq!(count(&env, "SELECT count(*) FROM intervals").await, 2);
}

#[tokio::test]
async fn a_version_that_is_not_there_is_refused() {
    let (_dir, env) = environment().await;
    let pinned = TableVersions { intervals: Some(7) };
    let error = query(&env, "SELECT 1 FROM intervals", pinned).await.unwrap_err().to_string();
    assert!(error.contains("no version 7"), "{error}");
    append(&env, TableDefinition::intervals(), intervals(&[("a", 0, 1.0, 1, "base")]), 1).await;
    assert!(query(&env, "SELECT 1", pinned).await.is_err());
}

const SERIES: [&str; 3] = ["a", "b", "c"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever was committed in whatever order and layer (a base row is the only one of its interval), a query by
    /// series and time sees of each interval the row with the greatest position.
    #[test]
    fn intervals_are_the_rows_with_the_greatest_positions(
        readings in prop::collection::vec((0..3_usize, 0..8_i64, any::<bool>()), 1..40),
        commits in 1..5_usize,
        from in 0..8_i64,
        series in 0..3_usize,
    ) {
        let mut based = std::collections::BTreeSet::new();
        let mut newest = std::collections::BTreeMap::new();
        // Positions are all different, and not in the order of commits.
        let rows: Vec<Row> = readings
            .into_iter()
            .enumerate()
            .map(|(i, (series, hour, base))| {
                let position = (i as i64 * 7919) % 1009;
                let layer = if base && based.insert((series, hour)) { "base" } else { "rev" };
                let best = newest.entry((series, hour)).or_insert(position);
                *best = (*best).max(position);
                (SERIES[series], hour, position as f64, position, layer)
            })
            .collect();
        let expected: Vec<f64> = newest
            .into_iter()
            .filter(|((s, hour), _)| *s <= series && *hour >= from)
            .map(|(_, position)| position as f64)
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let seen = runtime.block_on(async {
            let (_dir, env) = environment().await;
            for (txn, part) in rows.chunks(rows.len().div_ceil(commits)).enumerate() {
                append(&env, TableDefinition::intervals(), intervals(part), txn as i64 + 1).await;
            }
            let sql = format!(
                "SELECT value FROM intervals WHERE series_id <= '{}' AND start >= '1970-01-01T{from:02}:00:00Z' \
                 ORDER BY series_id, start",
                SERIES[series]
            );
            numbers(&env, &sql, TableVersions::default()).await
        });
        prop_assert_eq!(seen, expected);
    }
}
