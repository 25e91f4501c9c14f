//! `meterline maintain`, with and without a running engine.

use std::time::Duration;

use meterline_tests::sandbox::Sandbox;
use meterline_tests::topic::{self, Outgoing};
use meterline_tests::wait;
use serde_json::Value;

use crate::checks;
use crate::faults::NOBODY;
use crate::harness::kafka;

const TOPIC: &str = "housekeeping";
const SETTINGS: &str = r#"
frequency = "PT1H"

[ingest]
commit_interval = "100ms"

[maintenance]
every = "off"
"#;

fn hour(n: usize, value: usize) -> Outgoing {
    let (day, hour) = (1 + n / 24, n % 24);
    let record = format!(r#"{{"meter_id":"m","ts":"2024-01-{day:02}T{hour:02}:00:00Z","value":{value},"unit":"kWh"}}"#);
    Outgoing { key: "m".into(), payload: Some(record.into_bytes()) }
}

fn rows_of(sandbox: &Sandbox) -> Vec<serde_json::Map<String, Value>> {
    sandbox
        .sql("SELECT start, value, position_timestamp, \"offset\" FROM interval_revisions ORDER BY start, \"offset\"")
}

fn maintain(sandbox: &Sandbox, more: &[&str]) -> Value {
    let finished = sandbox.run(&[&["maintain", "--json"], more].concat()).succeeded();
    serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{e}\n{}{}", finished.stdout, finished.stderr))
}

fn jobs(report: &Value, kind: &str, outcome: &str) -> usize {
    let jobs = report["jobs"].as_array().expect("jobs");
    jobs.iter().filter(|job| job["job"] == kind && job["outcome"] == outcome).count()
}

#[test]
fn an_engine_does_what_maintain_asks_and_without_one_maintain_does_it() {
    let empty = Sandbox::reading(NOBODY, "readings", "");
    assert_eq!(maintain(&empty, &[])["jobs"], Value::Array(vec![]));

    let Some(kafka) = kafka(TOPIC) else { return };
    let brokers = kafka.brokers();
    kafka.create_topic(TOPIC, 1);
    let sandbox = Sandbox::reading(&brokers, TOPIC, &(SETTINGS.to_owned() + &Sandbox::no_pipelines("PT1H")));
    let mut engine = sandbox.engine();
    // Enough commits for a merge, and corrections; the last reading ends the month by far.
    for n in 0..10 {
        topic::send(&brokers, TOPIC, &[hour(3 * n, n), hour(3 * n + 1, n), hour(3 * n + 2, n)]);
        checks::await_committed(&sandbox, &mut engine, &brokers, TOPIC);
    }
    topic::send(&brokers, TOPIC, &[hour(3, 100), hour(4, 100)]);
    checks::await_committed(&sandbox, &mut engine, &brokers, TOPIC);
    let march = r#"{"meter_id":"m","ts":"2024-03-09T00:00:00Z","value":1,"unit":"kWh"}"#;
    topic::send(&brokers, TOPIC, &[Outgoing { key: "m".into(), payload: Some(march.into()) }]);
    checks::await_committed(&sandbox, &mut engine, &brokers, TOPIC);
    wait::until("the watermark passes", Duration::from_secs(60), || {
        sandbox.number("SELECT count(*) FROM feeds WHERE watermark > '2024-03-01T00:00:00Z'").filter(|n| *n == 1)
    });
    let before = rows_of(&sandbox);

    let planned = maintain(&sandbox, &["--dry-run"]);
    assert_eq!((jobs(&planned, "fold", "planned"), jobs(&planned, "fold", "done")), (1, 0), "{planned}");
    let done = maintain(&sandbox, &[]);
    assert_eq!(jobs(&done, "fold", "done"), 1, "{done}");
    assert!(jobs(&done, "merge", "done") >= 1, "{done}");
    assert!(engine.runs(), "the engine ended");
    assert_eq!(rows_of(&sandbox), before);
    assert!(sandbox.log().contains("housekeeping: fold"));

    // It goes on, with what was rewritten.
    topic::send(&brokers, TOPIC, &[hour(5, 200)]);
    checks::await_committed(&sandbox, &mut engine, &brokers, TOPIC);
    assert_eq!(sandbox.number("SELECT CAST(sum(value) AS BIGINT) FROM intervals WHERE value >= 100"), Some(400));
    assert!(engine.stop().success());
    let before = rows_of(&sandbox);
    let done = maintain(&sandbox, &[]);
    assert_eq!(jobs(&done, "fold", "done"), 1, "{done}");
    assert_eq!(rows_of(&sandbox), before);
    let told = sandbox.run(&["maintain"]).succeeded().stdout;
    assert!(!told.trim().is_empty());
}
