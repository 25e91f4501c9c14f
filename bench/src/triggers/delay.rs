//! How soon after a commit that closes intervals its triggers have decided: a real engine that reads from a real Kafka.

use std::collections::BTreeMap;
use std::time::Duration;

use meterline_tests::kafka::Kafka;
use meterline_tests::sandbox::Sandbox;
use meterline_tests::topic::{self, Outgoing};
use meterline_tests::wait;
use serde_json::Value;

use crate::report::alone;

const TOPIC: &str = "decided";
const METERS: usize = 200;
/// Each hour that is sent closes an interval of each meter.
const HOURS: usize = 200;
const SETTINGS: &str = r#"
frequency = "PT1H"
lateness = "0s"

[ingest]
commit_interval = "100ms"
idle_timeout = "1s"

[policy.hours]
frequency = "PT1H"
[policy.hours.reforecast]
when = "new_intervals >= 1"
[policy.hours.retrain]
when = "false"
"#;

/// Milliseconds from the end of a commit (as the engine's log tells it) to the decisions at it, which is when forecasts are
/// asked for.
///
/// # Errors
/// There is no Kafka; in words.
pub fn measure() -> Result<Vec<Value>, String> {
    let kafka = Kafka::start().map_err(|skip| skip.to_string())?;
    let brokers = kafka.brokers();
    kafka.create_topic(TOPIC, 2);
    let sandbox = Sandbox::reading(&brokers, TOPIC, SETTINGS);
    let engine = sandbox.engine();
    for hour in 0..HOURS {
        let (day, of_day) = (1 + hour / 24, hour % 24);
        let record = |meter: usize| {
            let payload = format!(
                r#"{{"meter_id":"m{meter}","ts":"2024-01-{day:02}T{of_day:02}:00:00Z","value":{hour},"unit":"kWh"}}"#
            );
            Outgoing { key: format!("m{meter}"), payload: Some(payload.into_bytes()) }
        };
        topic::send(&brokers, TOPIC, &(0..METERS).map(record).collect::<Vec<_>>());
        std::thread::sleep(Duration::from_millis(200));
    }
    let closed = "SELECT count(*) FROM intervals";
    wait::until("all is committed", Duration::from_secs(60), || {
        (sandbox.number(closed) == Some((METERS * HOURS) as i64)).then_some(())
    });
    std::thread::sleep(Duration::from_secs(3));
    let decisions = sandbox.sql(
        "SELECT commit_seq, min(CAST(at AS BIGINT)) AS at FROM trigger_decisions WHERE pipeline = 'reforecast' \
         GROUP BY commit_seq",
    );
    let decided: BTreeMap<i64, i64> =
        decisions.iter().filter_map(|row| Some((row["commit_seq"].as_i64()?, row["at"].as_i64()?))).collect();
    let log = sandbox.log();
    let mut delays: Vec<f64> = log
        .lines()
        .filter_map(|line| {
            let commit = line.split_once(" committed commit=")?.1.split(' ').next()?.parse().ok()?;
            let at: jiff::Timestamp = line.split(' ').next()?.parse().ok()?;
            Some((*decided.get(&commit)? - at.as_microsecond()) as f64 / 1e3)
        })
        .collect();
    drop(engine);
    delays.sort_by(f64::total_cmp);
    let at = |share: f64| delays.get((share * (delays.len().max(1) - 1) as f64) as usize).copied().unwrap_or(f64::NAN);
    eprintln!("{} commits with decisions", delays.len());
    Ok(vec![
        alone("commit_to_decision_p50", at(0.5), "ms"),
        alone("commit_to_decision_p99", at(0.99), "ms"),
        alone("commit_to_decision_max", at(1.0), "ms"),
    ])
}
