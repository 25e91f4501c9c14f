//! What `intervals` must hold: recomputed from the whole topic by the plainest code that is right.
//!
//! It shares nothing with the engine: a hash map of the winning reading per series and interval.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::topic::Record;

/// One interval that must be there.
#[derive(Debug, Clone, PartialEq)]
pub struct Interval {
    /// Length in seconds.
    pub seconds: i64,
    /// kWh where the reading was power or energy.
    pub value: f64,
    /// `measured`, `estimated` or `substituted`.
    pub quality: String,
}

/// What must have come of a topic.
#[derive(Debug, Default)]
pub struct Expected {
    /// By series and start (seconds since the epoch).
    pub intervals: BTreeMap<(String, i64), Interval>,
    /// Partition and offset of every record that cannot be read.
    pub dead: BTreeSet<(i32, i64)>,
    /// Records read, by partition.
    pub records: BTreeMap<i32, i64>,
}

/// Recomputes what must be in the lake after `records`: mean power or energy, stamped at the interval's end.
/// `length` is the native interval of a series in seconds.
pub fn recompute(records: &[Record], length: impl Fn(&str) -> i64) -> Expected {
    let mut expected = Expected::default();
    let mut winners: BTreeMap<(String, i64), (i64, i32, i64)> = BTreeMap::new();
    for record in records {
        *expected.records.entry(record.partition).or_default() += 1;
        let Some(reading) = record.payload.as_deref().and_then(read) else {
            expected.dead.insert((record.partition, record.offset));
            continue;
        };
        let seconds = length(&reading.series);
        // The nearest boundary: meter clocks are a little off.
        let end = (reading.at_ms + seconds * 500).div_euclid(seconds * 1000) * seconds;
        let key = (reading.series, end - seconds);
        let position = (record.timestamp_ms, record.partition, record.offset);
        if winners.get(&key).is_none_or(|held| position > *held) {
            let hours = seconds as f64 / 3600.0;
            let value = match reading.unit.as_str() {
                "kW" => reading.value * hours,
                "W" => reading.value / 1e3 * hours,
                "kWh" => reading.value,
                other => panic!("the oracle does not know the unit {other}"),
            };
            winners.insert(key.clone(), position);
            expected.intervals.insert(key, Interval { seconds, value, quality: reading.quality });
        }
    }
    expected
}

struct Reading {
    series: String,
    at_ms: i64,
    value: f64,
    unit: String,
    quality: String,
}

fn read(payload: &[u8]) -> Option<Reading> {
    let record: Value = serde_json::from_slice(payload).ok()?;
    let text = |name: &str, default: &str| match record.get(name) {
        None | Some(Value::Null) => Some(default.to_owned()),
        Some(found) => found.as_str().map(str::to_owned),
    };
    let quality = text("quality", "measured")?;
    ["measured", "estimated", "substituted"].contains(&quality.as_str()).then_some(())?;
    Some(Reading {
        series: record.get("meter_id")?.as_str().filter(|s| !s.is_empty())?.to_owned(),
        at_ms: instant_ms(record.get("ts")?.as_str()?)?,
        value: record.get("value")?.as_f64()?,
        unit: text("unit", "kWh")?,
        quality,
    })
}

/// Milliseconds since the epoch of `2014-01-01T00:15:00Z` or `2014-01-01T00:15:00.25Z`.
pub fn instant_ms(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z')?;
    let (date, time) = text.split_once('T')?;
    let numbers = |text: &str, separator| -> Option<Vec<i64>> {
        text.split(separator).map(|part| part.parse().ok()).collect()
    };
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [year, month, day] = numbers(date, '-')?.try_into().ok()?;
    let [hour, minute, second] = numbers(clock, ':')?.try_into().ok()?;
    let sound = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..60).contains(&second);
    sound.then_some(())?;
    let millis: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    // Days since 1970-01-01 of the proleptic Gregorian calendar, with years that begin in March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let days = 365 * shifted + shifted.div_euclid(4) - shifted.div_euclid(100)
        + shifted.div_euclid(400)
        + (153 * ((month + 9) % 12) + 2) / 5
        + day
        - 719_469;
    Some(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1969-12-31T23:59:59Z", Some(-1000)),
            ("2000-02-29T12:00:00Z", Some(951_825_600_000)),
            ("2014-01-01T00:15:00.25Z", Some(1_388_535_300_250)),
            ("2014-13-01T00:00:00Z", None),
            ("soon", None),
        ] {
            assert_eq!(instant_ms(text), millis, "{text}");
        }
    }

    #[test]
    fn the_greatest_position_wins_whatever_the_order() {
        let record = |timestamp_ms, offset, value: f64| Record {
            timestamp_ms,
            partition: 0,
            offset,
            payload: Some(format!(r#"{{"meter_id":"a","ts":"1970-01-01T00:15:02Z","value":{value},"unit":"kW"}}"#).into()),
        };
        let records = [record(5, 2, 4.0), record(7, 1, 8.0), record(7, 0, 12.0)];
        let expected = recompute(&records, |_| 900);
        let interval = Interval { seconds: 900, value: 2.0, quality: "measured".into() };
        assert_eq!(expected.intervals, BTreeMap::from([(("a".to_owned(), 0), interval)]));
    }
}
