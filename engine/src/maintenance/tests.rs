//! Housekeeping beside commits, on a store that fails and lies: what is read stays the same.
//!
//! `METERLINE_SEED` repeats one case.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Float64Type, Int64Type};
use meterline_connectors::lake::{
    DataFile, Lake, LakeError, Rewrite, Rewritten, TableDefinition, TableOwner, snapshot,
};
use meterline_schemas::config::{Config, Keep};
use meterline_schemas::time::{DAY, HOUR, Span};

use super::plan::Fold;
use super::round::{Commits, Kind, Outcome, Round};
use super::{MaintenanceError, manual, work};
use crate::environment::Environment;
use crate::ingest::commit::Committer;
use crate::ingest::commit_tests::{Dice, Unreliable};
use crate::metadata::MetadataStore;
use crate::sql::layers::Layers;
use crate::sql::{TableVersions, query_batches};

const CASES: u64 = 24;
const SERIES: [&str; 4] = ["a", "b", "2024-01-01T00:00:00Z", "z"];
const HOURS: u64 = 12;

/// One row: series, hour, value, time stamp and offset of its record, layer.
#[derive(Debug, Clone)]
struct Row {
    series: usize,
    hour: i64,
    value: f64,
    timestamp: i64,
    offset: i64,
    layer: &'static str,
}

fn batch(rows: &[Row]) -> RecordBatch {
    let text = |of: fn(&Row) -> &str| Arc::new(rows.iter().map(|r| Some(of(r))).collect::<StringArray>()) as ArrayRef;
    let at = |shift: i64| {
        let values: Vec<i64> = rows.iter().map(|r| (r.hour + shift) * HOUR).collect();
        Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC")) as ArrayRef
    };
    let n = rows.len();
    let mut columns = vec![
        text(|r| SERIES[r.series]),
        at(0),
        at(1),
        text(|_| "PT1H"),
        Arc::new(rows.iter().map(|r| Some(r.value)).collect::<Float64Array>()),
        text(|_| "kWh"),
        Arc::new(Int32Array::from(vec![1; n])),
        text(|_| "measured"),
        text(|_| "meters"),
        Arc::new(rows.iter().map(|r| Some(r.timestamp)).collect::<Int64Array>()),
        Arc::new(Int32Array::from(vec![0; n])),
        Arc::new(rows.iter().map(|r| Some(r.offset)).collect::<Int64Array>()),
    ];
    // What roll-ups are made of.
    columns.extend((0..5).map(|_| Arc::new(Int64Array::new_null(n)) as ArrayRef));
    columns.extend([text(|_| "1970-01"), text(|r| r.layer)]);
    RecordBatch::try_new(TableDefinition::intervals().schema, columns).unwrap()
}

async fn environment(wrap: impl FnOnce(Lake) -> Lake) -> (tempfile::TempDir, Environment) {
    let dir = tempfile::tempdir().unwrap();
    let lake = wrap(Lake::open(dir.path().to_str().unwrap()).await.unwrap());
    let metadata = MetadataStore::open(&format!("sqlite:{}/metadata.db", dir.path().display())).await.unwrap();
    let config_path = dir.path().join("meterline.toml");
    (dir, Environment { config: Config::default(), config_path, lake, metadata })
}

/// Value and offset of each interval (or of each row), in order.
async fn read(env: &Environment, of: &str) -> Vec<(String, i64, f64, i64)> {
    let sql =
        format!("SELECT series_id, arrow_cast(start, 'Int64') AS s, value, \"offset\" FROM {of} ORDER BY 1, 2, 4");
    let mut found = Vec::new();
    for rows in query_batches(env, &sql, TableVersions::default()).await.unwrap() {
        let series = arrow::compute::cast(rows.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
        let (series, start) = (series.as_string::<i32>(), rows.column(1).as_primitive::<Int64Type>());
        let (value, offset) =
            (rows.column(2).as_primitive::<Float64Type>(), rows.column(3).as_primitive::<Int64Type>());
        found.extend(
            (0..rows.num_rows())
                .map(|i| (series.value(i).to_owned(), start.value(i) / HOUR, value.value(i), offset.value(i))),
        );
    }
    found
}

/// What `intervals_as_of` is to say, from the rows alone.
fn oracle(rows: &[Row], known_by: i64) -> Vec<(String, i64, f64, i64)> {
    let mut best: BTreeMap<(&str, i64), &Row> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.timestamp <= known_by) {
        let known = best.entry((SERIES[row.series], row.hour)).or_insert(row);
        if (row.timestamp, row.offset) > (known.timestamp, known.offset) {
            *known = row;
        }
    }
    best.into_iter().map(|((series, hour), row)| (series.to_owned(), hour, row.value, row.offset)).collect()
}

async fn files(lake: &Lake) -> Vec<DataFile> {
    snapshot(lake, "intervals", None).await.unwrap().map(|s| s.files).unwrap_or_default()
}

async fn check(env: &Environment, rows: &[Row], seed: u64) {
    assert_eq!(read(env, "intervals").await, oracle(rows, i64::MAX), "seed {seed}");
    for known_by in [0, 3, 9, 15, 21] {
        let of = format!("intervals_as_of('1970-01-01T00:00:00.{known_by:03}Z')");
        assert_eq!(read(env, &of).await, oracle(rows, known_by), "seed {seed} at {known_by} ms");
    }
    let mut all: Vec<(String, i64, f64, i64)> =
        rows.iter().map(|r| (SERIES[r.series].to_owned(), r.hour, r.value, r.offset)).collect();
    all.sort_by(|a, b| (&a.0, a.1, a.3).cmp(&(&b.0, b.1, b.3)));
    assert_eq!(read(env, "interval_revisions").await, all, "seed {seed}");
    let twice = read(env, "interval_revisions WHERE layer = 'base'").await;
    assert!(twice.windows(2).all(|w| (&w[0].0, w[0].1) != (&w[1].0, w[1].1)), "seed {seed}: the base is not unique");
}

/// Any of the month's files, merged by layer or folded.
async fn rewrite(env: &Environment, owner: &mut TableOwner, stale: &[DataFile], dice: &Dice) {
    let layer = ["base", "rev", "old", "fold"][dice.roll(4) as usize];
    // Sometimes from a list that is no longer true.
    let known = if dice.roll(4) == 0 { stale.to_vec() } else { files(&env.lake).await };
    let table = TableDefinition::intervals();
    let (removes, done) = if layer == "fold" {
        let (others, revisions): (Vec<DataFile>, Vec<DataFile>) =
            known.into_iter().partition(|file| file.partition["layer"] != "rev" || dice.roll(3) == 0);
        let base: Vec<DataFile> = others.into_iter().filter(|file| file.partition["layer"] == "base").collect();
        let layers = Layers::of(&[base, revisions].concat(), false);
        let fold = Fold { month: "1970-01".into(), base: layers.revised, revisions: layers.revisions };
        ([fold.base.clone(), fold.revisions.clone()].concat(), work::fold(&env.lake, fold, 4_000).await)
    } else {
        let chosen: Vec<DataFile> =
            known.into_iter().filter(|file| file.partition["layer"] == layer && dice.roll(4) > 0).collect();
        (chosen.clone(), work::merge(&env.lake, &table, chosen, 4_000).await)
    };
    // The store failed: nothing happened.
    let Ok(adds) = done else { return };
    // A crash: the files are left over.
    if dice.roll(8) == 0 || removes.is_empty() {
        return;
    }
    let rewrite = Rewrite { removes, adds, changes_rows: layer == "fold" };
    // Whatever it says: what is read must be the same. Some ask again.
    for _ in 0..=dice.roll(2) {
        match owner.rewrite(&rewrite, None).await {
            Ok(Rewritten::Done(_) | Rewritten::Overtaken(_)) | Err(_) => {}
        }
    }
}

async fn case(seed: u64) -> u64 {
    let dice = Arc::new(Dice(AtomicU64::new(seed)));
    let odds = Arc::new(AtomicU64::new(0));
    let (_dir, env) = environment(|lake| {
        lake.with_root_store(|inner| Arc::new(Unreliable { inner, dice: Arc::clone(&dice), odds: Arc::clone(&odds) }))
    })
    .await;
    let table = TableDefinition::intervals();
    let mut rows: Vec<Row> = Vec::new();
    // The stream's owner, and one that does not hear of its commits.
    let mut owners =
        [TableOwner::open(&env.lake, &table).await.unwrap(), TableOwner::open(&env.lake, &table).await.unwrap()];
    let mut stale = Vec::new();
    for txn in 1..=4 + dice.roll(10) as i64 {
        let mut part: Vec<Row> = Vec::new();
        for _ in 0..1 + dice.roll(12) {
            let (series, hour) = (dice.roll(4) as usize, dice.roll(HOURS) as i64);
            let known = |row: &Row| row.series == series && row.hour == hour;
            // A row of the base is the first of its interval; where that is not known, a first row is a revision, too.
            let first = !rows.iter().chain(&part).any(known);
            let layer = if first && dice.roll(4) > 0 { "base" } else { "rev" };
            let offset = (rows.len() + part.len()) as i64;
            part.push(Row { series, hour, value: offset as f64, timestamp: dice.roll(24) as i64, offset, layer });
        }
        odds.store(0, Ordering::Relaxed);
        let written = owners[0].write(&batch(&part)).await.unwrap();
        odds.store(6, Ordering::Relaxed);
        while owners[0].commit(&written, &[("test".into(), txn)], None).await.is_err() {}
        rows.extend(part);
        for _ in 0..dice.roll(4) {
            let owner = &mut owners[dice.roll(2) as usize];
            rewrite(&env, owner, &stale, &dice).await;
        }
        if dice.roll(3) == 0 {
            stale = files(&env.lake).await;
        }
        odds.store(0, Ordering::Relaxed);
        if dice.roll(3) == 0 {
            check(&env, &rows, seed).await;
        }
    }
    check(&env, &rows, seed).await;
    files(&env.lake).await.iter().filter(|file| file.partition["layer"] == "old").map(|file| file.rows).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merges_and_folds_in_any_order_change_nothing_that_is_read() {
    if let Some(seed) = std::env::var("METERLINE_SEED").ok().and_then(|seed| seed.parse().ok()) {
        case(seed).await;
        return;
    }
    let first = jiff::Timestamp::now().as_millisecond() as u64;
    println!("METERLINE_SEED={first} to {}", first + CASES - 1);
    let cases: Vec<_> = (first..first + CASES).map(|seed| tokio::spawn(case(seed))).collect();
    let mut folded = 0;
    for case in cases {
        folded += case.await.unwrap();
    }
    assert!(folded > 0, "nothing was ever folded: the cases are too tame");
}

fn hours(from: i64, to: i64, layer: &'static str, timestamp: i64) -> Vec<Row> {
    let row = |hour: i64| Row { series: 0, hour, value: hour as f64, timestamp, offset: hour, layer };
    (from..to).map(row).collect()
}

async fn append(env: &Environment, rows: &[Row], txn: i64) {
    let mut owner = TableOwner::open(&env.lake, &TableDefinition::intervals()).await.unwrap();
    let files = owner.write(&batch(rows)).await.unwrap();
    owner.commit(&files, &[("test".into(), txn)], None).await.unwrap();
}

async fn round(env: &Environment, watermark: i64) -> Vec<(Kind, Outcome, u64, u64)> {
    let committer = Committer::claim(&env.lake, Arc::default()).await.unwrap();
    let commits = Commits::Own(Box::new(committer));
    let round = Round { config: &env.config, lake: &env.lake, commits, watermark: Some(watermark), now: i64::MAX / 2 };
    let report = round.run(|_| ()).await.unwrap();
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    report.jobs.iter().map(|job| (job.job, job.outcome, job.files_before, job.files_after)).collect()
}

#[tokio::test]
async fn a_round_folds_merges_and_deletes_and_the_next_has_nothing_to_do() {
    let (_dir, mut env) = environment(|lake| lake).await;
    for n in 0..60 {
        append(&env, &hours(n, n + 1, "base", 5), n + 1).await;
    }
    append(&env, &hours(3, 5, "rev", 9), 61).await;
    append(&env, &hours(4, 5, "rev", 2), 62).await;
    let before = (read(&env, "intervals").await, read(&env, "interval_revisions").await);
    let planned = manual::plan(&env, |_| ()).await.unwrap();
    assert!(planned.jobs.iter().all(|job| job.outcome == Outcome::Planned));
    assert_eq!(planned.jobs.first().map(|job| (job.job, job.files_before)), Some((Kind::Merge, 60)));
    // The month has ended, and files that are no longer used are older than any time to keep them.
    let jobs = round(&env, 40 * DAY).await;
    let rewrites: Vec<_> = jobs.iter().filter(|job| matches!(job.0, Kind::Fold | Kind::Merge)).collect();
    // Only the two base files that revisions concern are folded; what comes of it is one of the small ones.
    assert_eq!(rewrites, [&(Kind::Fold, Outcome::Done, 4, 2), &(Kind::Merge, Outcome::Done, 59, 1)]);
    assert!(jobs.iter().any(|job| job.0 == Kind::Vacuum && job.2 >= 62), "{jobs:?}");
    assert!(jobs.iter().any(|job| job.0 == Kind::Log), "{jobs:?}");
    assert_eq!((read(&env, "intervals").await, read(&env, "interval_revisions").await), before);
    assert_eq!(files(&env.lake).await.len(), 2);
    let again = round(&env, 40 * DAY).await;
    assert!(again.iter().all(|job| matches!(job.0, Kind::Log | Kind::Vacuum)), "{again:?}");
    // History goes earlier than the rest.
    env.config.retention.revisions = Keep(Some(Span(8 * DAY)));
    assert!(!round(&env, 38 * DAY).await.iter().any(|job| job.0 == Kind::Retention));
    assert!(round(&env, 40 * DAY).await.contains(&(Kind::Retention, Outcome::Done, 1, 0)));
    assert_eq!(read(&env, "intervals").await, before.0);
    assert_eq!(read(&env, "interval_revisions").await.len(), 60);
    env.config.retention.intervals = Keep(Some(Span(9 * DAY)));
    assert!(round(&env, 40 * DAY).await.contains(&(Kind::Retention, Outcome::Done, 1, 0)));
    assert!(read(&env, "intervals").await.is_empty());
}

#[tokio::test]
async fn two_hundred_small_commits_leave_few_files() {
    let (_dir, env) = environment(|lake| lake).await;
    let mut most = 0;
    for n in 0..200 {
        append(&env, &hours(n, n + 1, "base", 5), n + 1).await;
        if n % 10 == 9 {
            round(&env, 0).await;
        }
        most = most.max(files(&env.lake).await.len());
    }
    assert!(most <= 40, "{most} files");
    assert_eq!(read(&env, "intervals").await.len(), 200);
}

#[tokio::test]
async fn a_file_that_is_not_sorted_is_left_as_it_is() {
    let (_dir, env) = environment(|lake| lake).await;
    let mut owner = TableOwner::open(&env.lake, &TableDefinition::intervals()).await.unwrap();
    let rows = batch(&[hours(4, 5, "base", 5), hours(1, 2, "base", 5)].concat());
    // The partition's columns come last, and are in no file.
    let rows = rows.project(&(0..rows.num_columns() - 2).collect::<Vec<_>>()).unwrap();
    let partition = vec![("month".to_owned(), "1970-01".to_owned()), ("layer".to_owned(), "base".to_owned())];
    let files = owner.encode(move |files| files.file(partition, [Ok(rows)])).await.unwrap();
    let files = owner.store(&files).await.unwrap();
    owner.commit(&files, &[("test".into(), 1)], None).await.unwrap();
    let error = work::merge(&env.lake, &TableDefinition::intervals(), files, 1 << 20).await.unwrap_err();
    assert!(
        matches!(&error, MaintenanceError::Lake(LakeError::Decode { reason, .. }) if reason.contains("sorted")),
        "{error}"
    );
}
