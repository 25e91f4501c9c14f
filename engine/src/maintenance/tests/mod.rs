//! Housekeeping beside commits: what is read stays the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Float64Type, Int64Type};
use meterline_connectors::lake::{DataFile, Lake, TableDefinition, TableOwner, snapshot};
use meterline_schemas::config::Config;
use meterline_schemas::time::HOUR;

use crate::environment::Environment;
use crate::metadata::MetadataStore;
use crate::sql::{TableVersions, query_batches};

mod recall;
mod rewrites;
mod rounds;

const SERIES: [&str; 4] = ["a", "b", "2024-01-01T00:00:00Z", "z"];
const MONTHS: [&str; 2] = ["1970-01", "1970-02"];

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

/// Hours from here on are of February.
const FEBRUARY: i64 = 31 * 24;

impl Row {
    fn month(&self) -> &'static str {
        if self.hour < FEBRUARY { MONTHS[0] } else { MONTHS[1] }
    }

    /// As a query tells it.
    fn told(&self) -> Told {
        (SERIES[self.series].to_owned(), self.hour, self.value, self.offset)
    }
}

/// Series, hour, value and offset of a row.
type Told = (String, i64, f64, i64);

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
    columns.extend([text(|r| r.month()), text(|r| r.layer)]);
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
async fn read(env: &Environment, of: &str) -> Vec<Told> {
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
fn oracle(rows: &[Row], known_by: i64) -> Vec<Told> {
    let mut best: BTreeMap<(&str, i64), &Row> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.timestamp <= known_by) {
        let known = best.entry((SERIES[row.series], row.hour)).or_insert(row);
        if (row.timestamp, row.offset) > (known.timestamp, known.offset) {
            *known = row;
        }
    }
    best.into_values().map(Row::told).collect()
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
    let mut all: Vec<Told> = rows.iter().map(Row::told).collect();
    all.sort_by(|a, b| (&a.0, a.1, a.3).cmp(&(&b.0, b.1, b.3)));
    assert_eq!(read(env, "interval_revisions").await, all, "seed {seed}");
    let twice = read(env, "interval_revisions WHERE layer = 'base'").await;
    assert!(twice.windows(2).all(|w| (&w[0].0, w[0].1) != (&w[1].0, w[1].1)), "seed {seed}: the base is not unique");
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
