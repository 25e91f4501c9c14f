//! What must hold of a lake, whatever happened on the way.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use meterline_tests::accounts;
use meterline_tests::found::{self, Found};
use meterline_tests::oracle::Expected;
use meterline_tests::reader::Reader;
use meterline_tests::sandbox::{Engine, Sandbox};
use meterline_tests::skip::note;
use meterline_tests::{topic, wait};
use serde_json::{Map, Value};

type Row = Map<String, Value>;

/// Columns of the published quantiles, ascending.
const QUANTILES: [&str; 13] =
    ["q2_5", "q5", "q10", "q20", "q30", "q40", "q50", "q60", "q70", "q80", "q90", "q95", "q97_5"];

fn text(row: &Row, column: &str) -> String {
    row[column].as_str().unwrap_or_else(|| panic!("{column} is no text in {row:?}")).to_owned()
}

fn integer(row: &Row, column: &str) -> i64 {
    row[column].as_i64().unwrap_or_else(|| panic!("{column} is no integer in {row:?}"))
}

/// Equal but for the last digits that two JSON readers may disagree about.
fn same(a: f64, b: f64, relative: f64) -> bool {
    (a - b).abs() <= relative * a.abs().max(b.abs()).max(1.0)
}

/// Records committed of `topic`, or 0 before the first commit.
pub fn committed(sandbox: &Sandbox, topic: &str) -> i64 {
    sandbox.number(&format!("SELECT sum(next_offset) FROM partitions WHERE topic = '{topic}'")).unwrap_or(0)
}

/// Waits until every record that is in `topic` now is part of a commit.
pub fn await_committed(sandbox: &Sandbox, engine: &mut Engine, brokers: &str, topic: &str) {
    let all: i64 = topic::end_offsets(brokers, topic).iter().sum();
    wait::until(&format!("all {all} records of {topic} are committed"), Duration::from_secs(180), || {
        assert!(engine.runs(), "the engine ended by itself");
        (committed(sandbox, topic) == all).then_some(())
    });
}

/// `intervals` holds what the oracle says, to the last value.
pub fn assert_intervals(sandbox: &Sandbox, feed: &str, expected: &Expected) {
    let found = Found::of(&sandbox.sql(&found::query(&format!("feed = '{feed}'"))));
    assert!(found.twice.is_empty(), "these are there twice: {:?}", found.twice);
    let wrong = found.differences(expected);
    let shown = wrong.iter().take(10).cloned().collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{} of {} intervals differ:\n{shown}", wrong.len(), expected.intervals.len());
}

/// Nothing was dropped: of each partition the counts add up to the offsets, and what could not be read is a dead
/// letter.
pub fn assert_accounted(sandbox: &Sandbox, brokers: &str, topic: &str, expected: &Expected) {
    let ends = topic::end_offsets(brokers, topic);
    let rows = sandbox.sql(&format!("SELECT * FROM partitions WHERE topic = '{topic}' ORDER BY partition"));
    assert_eq!(rows.len(), ends.len(), "{rows:?}");
    let mut dead = 0;
    for (row, end) in rows.iter().zip(ends) {
        assert_eq!(integer(row, "next_offset"), end, "{row:?}");
        assert_eq!(integer(row, "records"), end, "{row:?}");
        assert_eq!(accounts::faults(row), Ok(vec![]), "the counts add up to the offsets: {row:?}");
        assert_eq!(integer(row, "pending"), 0, "every series has its frequency: {row:?}");
        dead += integer(row, "dead");
    }
    let letters =
        sandbox.sql(&format!("SELECT partition, \"offset\", reason, detail FROM dead_letters WHERE topic = '{topic}'"));
    let found: BTreeSet<(i32, i64)> =
        letters.iter().map(|l| (integer(l, "partition") as i32, integer(l, "offset"))).collect();
    assert_eq!(found, expected.dead);
    assert_eq!((letters.len(), dead as usize), (found.len(), found.len()), "each dead letter once");
    assert!(letters.iter().all(|l| !text(l, "reason").is_empty() && !text(l, "detail").is_empty()), "{letters:?}");
}

/// Waits until each series has a forecast whose origin is the end of its last interval.
pub fn await_forecasts(sandbox: &Sandbox, engine: &mut Engine, limit: Duration) {
    let wanted = "SELECT count(DISTINCT f.series_id) AS forecast FROM forecasts_latest f JOIN \
         (SELECT series_id, max(\"end\") AS last FROM intervals GROUP BY series_id) i \
         ON f.series_id = i.series_id AND f.origin = i.last";
    let series = sandbox.number("SELECT count(DISTINCT series_id) FROM intervals").expect("count the series");
    assert!(series > 0);
    let end = Instant::now() + limit;
    while sandbox.number(wanted) != Some(series) {
        assert!(engine.runs(), "the engine ended by itself");
        assert!(Instant::now() < end, "no forecast from the last interval of all series: {}", forecast_state(sandbox));
        std::thread::sleep(Duration::from_millis(200));
    }
    let crossing: Vec<String> = QUANTILES.windows(2).map(|pair| format!("{} > {}", pair[0], pair[1])).collect();
    let crossed = sandbox.sql(&format!("SELECT count(*) AS n FROM forecasts WHERE {}", crossing.join(" OR ")));
    assert_eq!(integer(&crossed[0], "n"), 0, "quantiles are ordered");
}

/// Waits until a model was trained and judged.
pub fn await_model(sandbox: &Sandbox, engine: &mut Engine, limit: Duration) {
    wait::until("a model is registered", limit, || {
        assert!(engine.runs(), "the engine ended by itself");
        sandbox.number("SELECT count(*) FROM models").filter(|n| *n > 0)
    });
}

/// A group whose gate has approved a model is forecast by it, and not by seasonal naive alone.
pub fn assert_models_serve(sandbox: &Sandbox) {
    let champions = sandbox.sql("SELECT group_id, version FROM models WHERE alias = 'champion'");
    if champions.is_empty() {
        note("no model passed its gate: which one serves is not looked at");
        return;
    }
    // The engine's last forecast may be older than the approval.
    sandbox.run(&["reforecast"]).succeeded();
    for champion in champions {
        let (group, version) = (text(&champion, "group_id"), text(&champion, "version"));
        let own = sandbox.number(&format!(
            "SELECT count(*) FROM forecasts_latest \
             WHERE group_id = '{group}' AND model_version = '{version}' AND NOT substituted"
        ));
        assert!(own.is_some_and(|n| n > 0), "{version} is approved, but serves no series of {group}");
    }
}

fn forecast_state(sandbox: &Sandbox) -> String {
    let tell =
        |query: &str| sandbox.sql(query).into_iter().map(|row| format!("\n{}", Value::Object(row))).collect::<String>();
    [
        "SELECT i.series_id, i.last, f.origin FROM (SELECT series_id, max(\"end\") AS last FROM intervals GROUP BY series_id) i \
         LEFT JOIN (SELECT series_id, max(origin) AS origin FROM forecasts GROUP BY series_id) f ON i.series_id = f.series_id \
         WHERE f.origin IS NULL OR f.origin <> i.last",
        "SELECT group_id, pipeline, status, origin, error FROM runs ORDER BY created_at",
        "SELECT * FROM trigger_facts",
    ]
    .map(tell)
    .concat()
}

/// Python's deltalake with DuckDB over it gives the answers of `meterline sql`.
pub fn assert_reader_agrees(sandbox: &Sandbox, reader: &Reader) {
    let theirs = reader.read(&sandbox.lake());
    assert_same_intervals(sandbox, &theirs);

    let ours = sandbox.sql(
        "SELECT series_id, CAST(origin AS BIGINT) AS origin_us, count(*) AS steps, sum(mean) AS total \
         FROM forecasts f JOIN (SELECT series_id AS s, max(origin) AS o FROM forecasts GROUP BY series_id) \
         ON series_id = s AND origin = o GROUP BY series_id, origin ORDER BY series_id",
    );
    assert_same_rows(&ours, &rows_of(&theirs, "forecasts_latest"));

    let ours = sandbox.sql("SELECT reason, count(*) AS records FROM dead_letters GROUP BY reason ORDER BY reason");
    assert_same_rows(&ours, &rows_of(&theirs, "dead_letters"));
}

/// The intervals that the reader has read are those of `meterline sql`.
pub fn assert_same_intervals(sandbox: &Sandbox, theirs: &Value) {
    assert_eq!(theirs["base_twice"], 0, "rows of the layer base are unique");
    let ours = sandbox.sql("SELECT count(*) AS n FROM intervals");
    assert_eq!(integer(&ours[0], "n"), theirs["intervals"].as_i64().expect("a count"));

    let ours = sandbox.sql(
        "SELECT series_id, count(*) AS intervals, sum(value) AS total, CAST(min(start) AS BIGINT) AS first_us, \
         CAST(max(start) AS BIGINT) AS last_us, \
         sum(value * ((CAST(start AS BIGINT) / 60000000) % 1009)) AS checksum \
         FROM intervals GROUP BY series_id ORDER BY series_id",
    );
    assert_same_rows(&ours, &rows_of(theirs, "per_series"));
}

/// Rows that the reader has read.
fn rows_of(theirs: &Value, name: &str) -> Vec<Row> {
    let rows = theirs[name].as_array().unwrap_or_else(|| panic!("{name} is missing"));
    rows.iter().map(|r| r.as_object().expect("a row").clone()).collect()
}

/// Equal rows in equal order; floating-point sums may be added up in another order.
fn assert_same_rows(ours: &[Row], theirs: &[Row]) {
    assert_eq!(ours.len(), theirs.len());
    for (our, their) in ours.iter().zip(theirs) {
        assert_eq!(our.keys().collect::<BTreeSet<_>>(), their.keys().collect::<BTreeSet<_>>());
        for (column, value) in our {
            let agree = match (value.as_f64(), their[column].as_f64()) {
                (Some(a), Some(b)) => same(a, b, 1e-9),
                _ => *value == their[column],
            };
            assert!(agree, "{column}: {our:?} but {their:?}");
        }
    }
}
