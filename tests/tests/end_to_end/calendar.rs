//! Days of 23 and 25 hours, and a meter that changes its frequency, with a kill while that is not decided yet.

use std::collections::BTreeMap;

use meterline_tests::reader::Reader;
use meterline_tests::sandbox::Sandbox;
use meterline_tests::skip::or_skip;
use meterline_tests::topic::{self, Outgoing};

use crate::checks;
use crate::harness::kafka;

const DAILY: &str = "calendar-daily";
const CHANGING: &str = "calendar-changing";

const DAY: i64 = 86_400;
const HOUR: i64 = 3_600;
const QUARTER: i64 = 900;
/// 2024-01-01T00:00:00Z.
const BEGIN: i64 = 1_704_067_200;
/// Days from then to 20 March and 10 November in Berlin: the clocks change on 31 March and on 27 October.
const DAYS: std::ops::Range<i64> = 79..314;
const SPRING: i64 = 90;
const AUTUMN: i64 = 300;
/// When the meter that was hourly begins with quarter hours, which go on for five days.
const CHANGE: i64 = BEGIN + 10 * DAY;
const CHANGED_END: i64 = CHANGE + 5 * DAY;

/// Daily values of a zone that is not UTC; a second feed whose frequencies are detected.
fn settings() -> String {
    let mut settings = format!(
        r#"
frequency = "P1D"
zone = "Europe/Berlin"

[feed.changing]
topic = "{CHANGING}"
series = "meter_id"
time = "ts"
value = "value"
unit_field = "unit"

[ingest]
commit_interval = "200ms"
idle_timeout = "1s"
"#
    );
    for frequency in ["P1D", "PT1H", "PT15M"] {
        settings += &Sandbox::no_pipelines(frequency);
    }
    settings
}

/// `2024-03-31T00:00:00` of seconds since the epoch, in 2024.
fn stamp(at: i64) -> String {
    let (mut day, mut month) = ((at - BEGIN).div_euclid(DAY), 1);
    for length in [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    let second = at.rem_euclid(DAY);
    format!("2024-{month:02}-{:02}T{:02}:{:02}:{:02}", day + 1, second / HOUR, second / 60 % 60, second % 60)
}

/// The midnight in Berlin with which a day of 2024 begins.
fn midnight(day: i64) -> i64 {
    // The clocks change some hours after midnight.
    let offset = if (SPRING + 1..=AUTUMN).contains(&day) { 2 * HOUR } else { HOUR };
    BEGIN + day * DAY - offset
}

fn record(meter: &str, ts: &str, value: f64, unit: &str) -> Outgoing {
    let payload = format!(r#"{{"meter_id":"{meter}","ts":"{ts}","value":{value},"unit":"{unit}"}}"#);
    Outgoing { key: meter.into(), payload: Some(payload.into_bytes()) }
}

/// Start and end in seconds since the epoch, with kWh and the name of the frequency.
type Intervals = BTreeMap<(i64, i64), (f64, &'static str)>;

/// One meter tells the mean power of days and stamps them in UTC, the other energy, by the clock on the wall: records
/// of both, day by day, and the intervals of each.
fn days() -> (Vec<Outgoing>, [(&'static str, Intervals); 2]) {
    let mut records = Vec::new();
    let (mut power, mut energy) = (Intervals::new(), Intervals::new());
    for day in DAYS {
        let (start, end) = (midnight(day), midnight(day + 1));
        let kilowatts = (1 + day % 5) as f64;
        let hours = (end - start) / HOUR;
        assert_eq!(
            hours,
            if day == SPRING {
                23
            } else if day == AUTUMN {
                25
            } else {
                24
            }
        );
        records.push(record("power", &(stamp(end) + "Z"), kilowatts, "kW"));
        power.insert((start, end), (kilowatts * hours as f64, "P1D"));
        records.push(record("wall", &stamp(BEGIN + (day + 1) * DAY), day as f64, "kWh"));
        energy.insert((start, end), (day as f64, "P1D"));
    }
    (records, [("power", power), ("wall", energy)])
}

/// A meter that changes, beside one that always tells quarter hours: records of both in the order of time, the number
/// of those before the change, and the intervals of each.
fn quarters() -> (Vec<Outgoing>, usize, [(&'static str, Intervals); 2]) {
    let (mut records, mut before) = (Vec::new(), 0);
    let (mut changing, mut steady) = (Intervals::new(), Intervals::new());
    for start in (BEGIN..CHANGED_END).step_by(QUARTER as usize) {
        let end = start + QUARTER;
        let number = (start - BEGIN) / QUARTER;
        let ts = stamp(end) + "Z";
        records.push(record("steady", &ts, (number % 9) as f64, "kWh"));
        steady.insert((start, end), ((number % 9) as f64, "PT15M"));
        let length = if end <= CHANGE { HOUR } else { QUARTER };
        if end % length == 0 {
            let kilowatts = (4 + number % 8) as f64;
            let name = if length == HOUR { "PT1H" } else { "PT15M" };
            records.push(record("changing", &ts, kilowatts, "kW"));
            changing.insert((end - length, end), (kilowatts * length as f64 / HOUR as f64, name));
        }
        if end == CHANGE {
            before = records.len();
        }
    }
    (records, before, [("changing", changing), ("steady", steady)])
}

fn assert_intervals(sandbox: &Sandbox, series: &str, expected: &Intervals) {
    let rows = sandbox.sql(&format!(
        "SELECT CAST(start AS BIGINT) / 1000000 AS start_s, CAST(\"end\" AS BIGINT) / 1000000 AS end_s, value, \
         frequency FROM intervals WHERE series_id = '{series}' ORDER BY start, \"end\""
    ));
    let mut found = Vec::new();
    for row in &rows {
        let whole = |column: &str| row[column].as_i64().unwrap_or_else(|| panic!("{column} in {row:?}"));
        let value = row["value"].as_f64().unwrap_or_else(|| panic!("no value in {row:?}"));
        let frequency = row["frequency"].as_str().unwrap_or_else(|| panic!("no frequency in {row:?}"));
        found.push(((whole("start_s"), whole("end_s")), (value, frequency)));
    }
    let expected: Vec<_> = expected.iter().map(|(interval, content)| (*interval, *content)).collect();
    let differ = found.iter().zip(&expected).find(|(found, expected)| found != expected);
    assert!(differ.is_none(), "{series}: found and expected {differ:?}");
    assert_eq!(found.len(), expected.len(), "{series}");
}

/// Frequency, its beginning in seconds since the epoch, and how sure it is, as `series` tells.
fn told(sandbox: &Sandbox, series: &str) -> (String, i64, f64) {
    let rows = sandbox.sql(&format!(
        "SELECT frequency, CAST(since AS BIGINT) / 1000000 AS since_s, confidence FROM series \
         WHERE series_id = '{series}'"
    ));
    let [row] = &rows[..] else { panic!("{series} is in series as {rows:?}") };
    let told = (row["frequency"].as_str(), row["since_s"].as_i64(), row["confidence"].as_f64());
    let (Some(frequency), Some(since), Some(confidence)) = told else { panic!("{row:?}") };
    (frequency.to_owned(), since, confidence)
}

#[test]
fn days_of_23_and_25_hours_and_a_change_of_frequency_come_through_a_kill() {
    let Some(kafka) = kafka("the calendar") else { return };
    let reader = or_skip("the independent reader of two frequencies", Reader::prepare());
    let brokers = kafka.brokers();
    kafka.create_topic(DAILY, 1);
    kafka.create_topic(CHANGING, 1);
    let sandbox = Sandbox::reading(&brokers, DAILY, &settings());
    let (of_days, daily) = days();
    let (of_quarters, before, changing) = quarters();
    // Up to a day before the clocks change in autumn; and some quarter hours, too few to tell a change.
    let first_days = 2 * (AUTUMN - DAYS.start) as usize;
    let first_quarters = before + 6;
    topic::send(&brokers, DAILY, &of_days[..first_days]);
    topic::send(&brokers, CHANGING, &of_quarters[..first_quarters]);
    let mut engine = sandbox.engine();
    for topic in [DAILY, CHANGING] {
        checks::await_committed(&sandbox, &mut engine, &brokers, topic);
    }
    assert_eq!(told(&sandbox, "changing").0, "PT1H", "the change is not decided yet");
    sandbox.kill(engine);

    topic::send(&brokers, DAILY, &of_days[first_days..]);
    topic::send(&brokers, CHANGING, &of_quarters[first_quarters..]);
    let mut engine = sandbox.engine();
    for topic in [DAILY, CHANGING] {
        checks::await_committed(&sandbox, &mut engine, &brokers, topic);
    }
    for (series, intervals) in daily.iter().chain(&changing) {
        assert_intervals(&sandbox, series, intervals);
    }
    // Declared, from the first day on; detected, from the change on.
    assert_eq!(told(&sandbox, "power"), ("P1D".to_owned(), midnight(DAYS.start), 1.0));
    let (frequency, since, confidence) = told(&sandbox, "changing");
    assert_eq!((&*frequency, since), ("PT15M", CHANGE));
    assert!(confidence > 0.5 && confidence < 1.0, "{confidence}");
    assert_eq!(told(&sandbox, "steady").0, "PT15M");
    assert_eq!(sandbox.number("SELECT sum(pending) FROM partitions"), Some(0));
    assert_eq!(engine.stop().code(), Some(0));
    if let Some(reader) = reader {
        checks::assert_same_intervals(&sandbox, &reader.read(&sandbox.lake()));
    }
}
