//! Series that are sums of others: labels from a CSV file, one of which changes over time, corrections, and forecasts
//! that add up.

use std::fs;
use std::time::Duration;

use meterline_tests::sandbox::Sandbox;
use meterline_tests::topic::{self, Outgoing};
use meterline_tests::wait;
use serde_json::{Map, Value};

use crate::checks;
use crate::harness::{MINUTE, kafka, of_meter};

const TOPIC: &str = "rolled-up";
/// Readings of each meter: 0, 1, 2, … kWh, hour by hour.
const HOURS: i64 = 480;
/// The hour, from 2024-01-01 on, at which meter `c` moves to the other feeder.
const MOVE: i64 = 120;
/// `c` moves; the others stay where they are.
const NETWORK: &str = "series_id,valid_from,region,feeder
a,,north,f1
b,,north,f1
c,,north,f2
c,2024-01-06T00:00:00Z,north,f1
d,,north,f2
";

const SETTINGS: &str = r#"
frequency = "PT1H"
lateness = "0s"

[labels.network]
file = "network.csv"
labels = { region = "region", feeder = "feeder" }

[rollup.grid]
by = ["region", "feeder"]

[ingest]
commit_interval = "200ms"
idle_timeout = "1s"
catch_up_records = 0
workers = 2

[policy.hours]
frequency = "PT1H"
horizon = "PT24H"
[policy.hours.reforecast]
when = "new_intervals >= 1"
[policy.hours.retrain]
when = "false"
"#;

/// What each roll-up adds up to, with `more` from meter `c` before it moved. Readings are stamped at the end of their
/// hour.
fn expected(more: i64) -> [(&'static str, i64); 3] {
    let moved: i64 = (0..HOURS).filter(|n| *n > MOVE).sum();
    let all: i64 = (0..HOURS).sum();
    [
        ("rollup.grid:region=north/feeder=f1@PT1H", 2 * all + moved),
        ("rollup.grid:region=north/feeder=f2@PT1H", 2 * all - moved + more),
        ("rollup.grid:region=north@PT1H", 4 * all + more),
    ]
}

fn sums(sandbox: &Sandbox) -> Vec<(String, i64)> {
    let rows = sandbox.sql(
        "SELECT series_id, CAST(sum(value) AS BIGINT) AS total FROM intervals WHERE feed = 'rollup.grid' \
         GROUP BY series_id ORDER BY series_id",
    );
    let of = |row: &Map<String, Value>| Some((row["series_id"].as_str()?.to_owned(), row["total"].as_i64()?));
    rows.iter().map(|row| of(row).unwrap_or_else(|| panic!("{row:?}"))).collect()
}

fn assert_sums(sandbox: &Sandbox, more: i64) {
    assert_eq!(sums(sandbox), expected(more).map(|(series, total)| (series.to_owned(), total)));
    let all = "SELECT count(*) FROM intervals WHERE feed = 'rollup.grid'";
    assert_eq!(sandbox.number(all), Some(3 * HOURS));
    assert_eq!(sandbox.number(&format!("{all} AND completeness = 1.0")), Some(3 * HOURS));
}

#[test]
fn sums_by_labels_from_a_file_follow_corrections_and_are_forecast() {
    let Some(kafka) = kafka("roll-ups") else { return };
    let brokers = kafka.brokers();
    kafka.create_topic(TOPIC, 2);
    let sandbox = Sandbox::reading(&brokers, TOPIC, SETTINGS);
    fs::write(sandbox.path().join("network.csv"), NETWORK).expect("write the labels");
    let mut engine = sandbox.engine();
    for meter in ["a", "b", "c", "d"] {
        topic::send(&brokers, TOPIC, &of_meter(meter, 0, HOURS as usize));
    }
    checks::await_committed(&sandbox, &mut engine, &brokers, TOPIC);
    assert_sums(&sandbox, 0);
    let feeders = sandbox.sql(
        "SELECT value, source FROM labels WHERE series_id = 'c' AND label = 'feeder' ORDER BY valid_from NULLS FIRST",
    );
    let feeders: Vec<_> = feeders.iter().map(|row| (row["value"].as_str(), row["source"].as_str())).collect();
    let said = |feeder| (Some(feeder), Some("labels network"));
    assert_eq!(feeders, [said("f2"), said("f1")]);

    // Of the time when it belonged to the other feeder, and after a restart, when memory has none of it.
    assert_eq!(engine.stop().code(), Some(0));
    let mut engine = sandbox.engine();
    let correction = r#"{"meter_id":"c","ts":"2024-01-03T02:00:00Z","value":1050,"unit":"kWh"}"#;
    topic::send(&brokers, TOPIC, &[Outgoing { key: "c".into(), payload: Some(correction.into()) }]);
    checks::await_committed(&sandbox, &mut engine, &brokers, TOPIC);
    assert_sums(&sandbox, 1000);

    checks::await_forecasts(&sandbox, &mut engine, Duration::from_secs(240));
    for (series, _) in expected(0) {
        let steps = format!("SELECT count(*) FROM forecasts_latest WHERE series_id = '{series}'");
        wait::until("a roll-up is forecast", MINUTE, || sandbox.number(&steps).filter(|steps| *steps == 24));
    }
    // By the labels of now: `c` is of the first feeder.
    for (group, meters) in [("north", "'a', 'b', 'c', 'd'"), ("north/feeder=f1", "'a', 'b', 'c'")] {
        let agreeing = format!(
            "SELECT count(*) FROM forecasts_latest w JOIN (SELECT start, sum(mean) AS total FROM forecasts_latest \
             WHERE series_id IN ({meters}) GROUP BY start) p ON w.start = p.start \
             WHERE w.series_id = 'rollup.grid:region={group}@PT1H' AND abs(w.mean - p.total) < 0.001"
        );
        let what = format!("the forecast of {group} is the sum of those of {meters}");
        wait::until(&what, MINUTE, || sandbox.number(&agreeing).filter(|steps| *steps == 24));
    }
    assert_eq!(engine.stop().code(), Some(0));
}
