//! What monitoring is told is what SQL says, once nothing comes any more.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use meterline_tests::sandbox::Sandbox;
use meterline_tests::topic::{self, Outgoing};
use meterline_tests::wait;
use serde_json::{Map, Value};

use crate::harness::{MINUTE, kafka, of_meter};
use crate::{checks, topics};

const TOPIC: &str = "told";

const FEED: &str = "frequency = \"PT1H\"\nlateness = \"0s\"\n";

const OUTCOMES: [&str; 4] = ["accepted", "corrected", "duplicate", "dead"];

/// The figures of `/metrics`, by name with labels.
fn told(text: &str) -> BTreeMap<String, f64> {
    let figure = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse::<f64>().ok()?))
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(figure).collect()
}

/// The sum of a figure over the partitions of all feeds.
fn sum(told: &BTreeMap<String, f64>, name: &str, label: &str) -> Option<f64> {
    let begins = format!("{name}{{");
    let of = told.iter().filter(|(known, _)| known.starts_with(&begins) && known.contains(label));
    Some(of.map(|(_, value)| value).sum())
}

fn number(row: &Map<String, Value>, column: &str) -> Option<f64> {
    row.get(column).and_then(Value::as_f64)
}

fn seconds(micros: Option<f64>) -> Option<f64> {
    micros.map(|micros| micros / 1e6)
}

/// Where `/metrics` and SQL differ, in words.
fn differences(sandbox: &Sandbox) -> Vec<String> {
    let Some(text) = sandbox.http("/metrics") else { return vec!["nobody answers".into()] };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(f64::NAN, |since| since.as_secs_f64());
    // Ages and instants are asked for within a minute.
    let close = |age: Option<f64>, at: Option<f64>| match (age, at) {
        (Some(age), Some(at)) => (now - age - at).abs() < 60.0,
        (age, at) => age.is_none() && at.is_none(),
    };
    let told = told(&text);
    let mut differences = Vec::new();
    let mut same = |what: String, found: Option<f64>, wanted: Option<f64>| {
        let equal = match (found, wanted) {
            (Some(found), Some(wanted)) => (found - wanted).abs() <= 1e-12 * wanted.abs().max(1.0),
            (found, wanted) => found == wanted,
        };
        if !equal {
            differences.push(format!("{what} is {found:?}, and in SQL {wanted:?}"));
        }
    };
    let partitions = "SELECT *, CAST(watermark AS BIGINT) AS watermark_us, \
                      CAST(newest_interval AS BIGINT) AS newest_us FROM partitions";
    for row in sandbox.sql(partitions) {
        let labels = format!("feed=\"meters\",partition=\"{}\"", row["partition"]);
        let mut one = |name: &str, more: &str, wanted: Option<f64>| {
            let name = format!("{name}{{{labels}{more}}}");
            same(name.clone(), told.get(&name).copied(), wanted);
        };
        for outcome in OUTCOMES {
            one("meterline_records_total", &format!(",outcome=\"{outcome}\""), number(&row, outcome));
        }
        for (name, column) in [
            ("meterline_pending_records", "pending"),
            ("meterline_late_records_total", "late"),
            ("meterline_gaps_total", "gaps"),
            ("meterline_expired_records_total", "expired"),
            ("meterline_incarnation", "incarnation"),
            ("meterline_lag_records", "lag_records"),
        ] {
            one(name, "", number(&row, column));
        }
        one("meterline_partition_watermark_timestamp_seconds", "", seconds(number(&row, "watermark_us")));
        let age = told.get(&format!("meterline_partition_freshness_seconds{{{labels}}}")).copied();
        let fresh = close(age, seconds(number(&row, "newest_us")));
        same(format!("whether {labels} is as fresh"), Some(f64::from(u8::from(fresh))), Some(1.0));
    }
    let feeds =
        "SELECT *, CAST(watermark AS BIGINT) AS watermark_us, CAST(newest_interval AS BIGINT) AS newest_us FROM feeds";
    for row in sandbox.sql(feeds) {
        let of_feed = |name: &str| told.get(&format!("{name}{{feed=\"meters\"}}")).copied();
        let watermark = seconds(number(&row, "watermark_us"));
        same("the watermark".into(), of_feed("meterline_watermark_timestamp_seconds"), watermark);
        same("the rate".into(), of_feed("meterline_records_per_second"), number(&row, "records_per_second"));
        for outcome in OUTCOMES {
            let found = sum(&told, "meterline_records_total", &format!("outcome=\"{outcome}\""));
            same(format!("what is {outcome}"), found, number(&row, outcome));
        }
        for (name, column) in [
            ("meterline_pending_records", "pending"),
            ("meterline_late_records_total", "late"),
            ("meterline_gaps_total", "gaps"),
            ("meterline_expired_records_total", "expired"),
            ("meterline_lag_records", "lag_records"),
        ] {
            same(format!("{column} of the feed"), sum(&told, name, ""), number(&row, column));
        }
        same("commits".into(), told.get("meterline_commits_total").copied(), number(&row, "commit_seq"));
        let age = of_feed("meterline_freshness_seconds");
        let fresh = age.is_some() && close(age, seconds(number(&row, "newest_us")));
        same("whether the newest interval is as fresh".into(), Some(f64::from(u8::from(fresh))), Some(1.0));
    }
    let counted = |table: &str| sandbox.number(&format!("SELECT count(*) FROM {table}")).map(|count| count as f64);
    same("series".into(), told.get("meterline_series{feed=\"meters\"}").copied(), counted("series"));
    same("intervals".into(), told.get("meterline_intervals{feed=\"meters\"}").copied(), counted("intervals"));
    differences
}

#[test]
fn at_rest_metrics_are_what_feeds_and_partitions_say() {
    let Some(kafka) = kafka("metrics beside SQL") else { return };
    let brokers = kafka.brokers();
    kafka.create_topic(TOPIC, 3);
    let sandbox =
        Sandbox::reading(&brokers, TOPIC, &format!("{FEED}{}{}", topics::SETTINGS, Sandbox::no_pipelines("PT1H")));
    // All of it is there before the first look: what closes for want of more would make the rest late.
    for meter in ["m", "a", "b"] {
        topic::send(&brokers, TOPIC, &of_meter(meter, 0, 60));
    }
    let mut engine = sandbox.engine();
    checks::await_committed(&sandbox, &mut engine, &brokers, TOPIC);
    let closed = "SELECT CAST(watermark AS BIGINT) / 3600000000 - 473352 FROM feeds";
    wait::until("everything is closed", MINUTE, || (sandbox.number(closed) == Some(59)).then_some(()));

    // Something of everything: repeated, corrected, late, unreadable, and a transaction that is no more than a gap.
    topic::send(&brokers, TOPIC, &of_meter("m", 0, 7));
    let corrected = |hour: usize| {
        let record =
            format!(r#"{{"meter_id":"a","ts":"2024-01-01T{hour:02}:00:00Z","value":{},"unit":"kWh"}}"#, hour + 1000);
        Outgoing { key: "a".into(), payload: Some(record.into_bytes()) }
    };
    topic::send(&brokers, TOPIC, &(4..8).map(corrected).collect::<Vec<_>>());
    topic::send(&brokers, TOPIC, &of_meter("late", 10, 20));
    let bad = |key: &str| Outgoing { key: key.into(), payload: Some(b"not json at all".to_vec()) };
    topic::send(&brokers, TOPIC, &["m", "a", "late"].map(bad));
    topic::send_in_transaction(&brokers, TOPIC, &of_meter("m", 60, 5), false);
    checks::await_committed(&sandbox, &mut engine, &brokers, TOPIC);

    // Both are asked one after the other, and commits may come between: at rest they agree.
    let until = Instant::now() + MINUTE;
    loop {
        let differences = differences(&sandbox);
        if differences.is_empty() {
            break;
        }
        assert!(Instant::now() < until, "{differences:#?}");
    }
    let feeds = sandbox.sql("SELECT * FROM feeds");
    let of = |column: &str| feeds[0][column].as_i64().unwrap_or_else(|| panic!("{column} of {feeds:?}"));
    assert_eq!((feeds.len(), of("records")), (1, 3 * 60 + 7 + 4 + 20 + 3));
    assert_eq!((of("accepted"), of("duplicate"), of("corrected"), of("dead")), (200, 7, 4, 3));
    // The readings of the transaction, and its mark.
    assert_eq!((of("late"), of("gaps")), (24, 6));
    assert_eq!(engine.stop().code(), Some(0));
}
