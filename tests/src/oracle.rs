//! What `intervals` must hold: recomputed from the whole topic by the plainest code that is right.
//!
//! It shares nothing with the engine: a hash map of the winning reading per series and interval.

mod outcomes;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

pub use outcomes::Outcomes;

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

/// Series and start in seconds since the epoch.
pub type Key = (String, i64);

/// What must have come of a topic.
#[derive(Debug, Default)]
pub struct Expected {
    /// Every interval.
    pub intervals: BTreeMap<Key, Interval>,
    /// Partition and offset of every record that cannot be read.
    pub dead: BTreeSet<(i32, i64)>,
    /// Partition and offset of every sample that intervals are made of, where they are kept.
    pub samples: BTreeSet<(i32, i64)>,
    /// What the readings must have been counted as.
    pub outcomes: Outcomes,
}

/// Recomputes what must be in the lake of readings that are mean power or energy of an interval, stamped at its end.
pub fn intervals(records: &[Record]) -> Expected {
    let Topic { readings, lengths, dead } = parse(records);
    let intervals = winners(&readings, &lengths)
        .into_iter()
        .map(|((series, end), reading)| {
            let seconds = lengths[&series];
            let interval = Interval { seconds, value: reading.energy(seconds), quality: reading.quality.clone() };
            ((series, end - seconds), interval)
        })
        .collect();
    let outcomes = outcomes::of(readings.iter().map(|reading| (boundary(reading, &lengths), reading)));
    Expected { intervals, dead, outcomes, ..Expected::default() }
}

/// Recomputes what must be in the lake of readings that are cumulative registers: the difference between the
/// registers at the two ends of an interval. Where that is negative there is none, whatever came first.
pub fn registers(records: &[Record]) -> Expected {
    let Topic { readings, lengths, dead } = parse(records);
    let registers = winners(&readings, &lengths);
    let outcomes = outcomes::of(readings.iter().map(|reading| (boundary(reading, &lengths), reading)));
    let mut expected = Expected { dead, outcomes, ..Expected::default() };
    for ((series, end), to) in &registers {
        let seconds = lengths[series];
        let key = (series.clone(), end - seconds);
        let Some(from) = registers.get(&key) else { continue };
        let value = to.energy(seconds) - from.energy(seconds);
        if value < 0.0 {
            continue;
        }
        let worse = if rank(&to.quality) > rank(&from.quality) { to } else { from };
        expected.intervals.insert(key, Interval { seconds, value, quality: worse.quality.clone() });
    }
    expected
}

/// Recomputes what must be in the lake of readings that are samples of power: the mean of those after the start of an
/// interval of `seconds`, up to its end.
pub fn samples(records: &[Record], seconds: i64) -> Expected {
    let Topic { readings, dead, .. } = parse(records);
    let mut latest: BTreeMap<Key, &Reading> = BTreeMap::new();
    for reading in &readings {
        let held = latest.entry((reading.series.clone(), reading.at_ms)).or_insert(reading);
        if reading.position > held.position {
            *held = reading;
        }
    }
    let samples = latest.values().map(|reading| (reading.position.1, reading.position.2)).collect();
    let mut of_interval: BTreeMap<Key, Vec<&Reading>> = BTreeMap::new();
    for ((series, at_ms), reading) in latest {
        let start = (at_ms - 1).div_euclid(seconds * 1000) * seconds;
        of_interval.entry((series, start)).or_default().push(reading);
    }
    let mean = |samples: Vec<&Reading>| {
        let total: f64 = samples.iter().map(|sample| sample.energy(seconds)).sum();
        let worst = samples.iter().max_by_key(|sample| rank(&sample.quality));
        let quality = worst.map_or_else(String::new, |sample| sample.quality.clone());
        Interval { seconds, value: total / samples.len() as f64, quality }
    };
    let intervals = of_interval.into_iter().map(|(key, samples)| (key, mean(samples))).collect();
    let outcomes = outcomes::of(readings.iter().map(|reading| ((reading.series.clone(), reading.at_ms), reading)));
    Expected { intervals, dead, samples, outcomes }
}

/// The greater, the less it can be trusted.
fn rank(quality: &str) -> Option<usize> {
    ["measured", "estimated", "substituted"].iter().position(|q| *q == quality)
}

struct Topic {
    readings: Vec<Reading>,
    lengths: HashMap<String, i64>,
    dead: BTreeSet<(i32, i64)>,
}

fn parse(records: &[Record]) -> Topic {
    let mut readings = Vec::new();
    let mut dead = BTreeSet::new();
    for record in records {
        let position = (record.timestamp_ms, record.partition, record.offset);
        match record.payload.as_deref().and_then(|payload| read(payload, position)) {
            Some(reading) => readings.push(reading),
            None => {
                dead.insert((record.partition, record.offset));
            }
        }
    }
    let mut stamps: HashMap<String, BTreeSet<i64>> = HashMap::new();
    for reading in &readings {
        stamps.entry(reading.series.clone()).or_default().insert(reading.at_ms);
    }
    let lengths = stamps.into_iter().map(|(series, stamps)| (series, native_length(&stamps))).collect();
    Topic { readings, lengths, dead }
}

/// The most frequent gap between stamps in seconds, to the minute.
fn native_length(stamps: &BTreeSet<i64>) -> i64 {
    let mut votes: BTreeMap<i64, usize> = BTreeMap::new();
    for (earlier, later) in stamps.iter().zip(stamps.iter().skip(1)) {
        *votes.entry((later - earlier + 30_000) / 60_000 * 60).or_default() += 1;
    }
    votes.into_iter().max_by_key(|(_, count)| *count).map_or(0, |(length, _)| length)
}

/// Of each series and boundary the reading with the greatest position.
fn winners<'a>(readings: &'a [Reading], lengths: &HashMap<String, i64>) -> BTreeMap<Key, &'a Reading> {
    let mut winners: BTreeMap<Key, &Reading> = BTreeMap::new();
    for reading in readings {
        let held = winners.entry(boundary(reading, lengths)).or_insert(reading);
        if reading.position > held.position {
            *held = reading;
        }
    }
    winners
}

/// The series of a reading and the boundary that is nearest to it: meter clocks are a little off.
fn boundary(reading: &Reading, lengths: &HashMap<String, i64>) -> Key {
    let seconds = lengths[&reading.series];
    let boundary = (reading.at_ms + seconds * 500).div_euclid(seconds * 1000) * seconds;
    (reading.series.clone(), boundary)
}

struct Reading {
    position: (i64, i32, i64),
    series: String,
    at_ms: i64,
    value: f64,
    unit: String,
    quality: String,
}

impl Reading {
    fn energy(&self, seconds: i64) -> f64 {
        let hours = seconds as f64 / 3600.0;
        match self.unit.as_str() {
            "kW" => self.value * hours,
            "W" => self.value / 1e3 * hours,
            "kWh" => self.value,
            other => panic!("the oracle does not know the unit {other}"),
        }
    }
}

fn read(payload: &[u8], position: (i64, i32, i64)) -> Option<Reading> {
    let record: Value = serde_json::from_slice(payload).ok()?;
    let text = |name: &str, default: &str| match record.get(name) {
        None | Some(Value::Null) => Some(default.to_owned()),
        Some(found) => found.as_str().map(str::to_owned),
    };
    let quality = text("quality", "measured")?;
    ["measured", "estimated", "substituted"].contains(&quality.as_str()).then_some(())?;
    Some(Reading {
        position,
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
    let numbers =
        |text: &str, separator| -> Option<Vec<i64>> { text.split(separator).map(|part| part.parse().ok()).collect() };
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

    fn record(timestamp_ms: i64, offset: i64, minute: i64, value: f64) -> Record {
        let payload =
            format!(r#"{{"meter_id":"a","ts":"1970-01-01T00:{minute:02}:02Z","value":{value},"unit":"kWh"}}"#);
        Record { timestamp_ms, partition: 0, offset, payload: Some(payload.into()) }
    }

    #[test]
    fn the_greatest_position_wins_whatever_the_order() {
        let records = [record(5, 2, 15, 4.0), record(7, 1, 15, 8.0), record(7, 0, 15, 12.0), record(8, 3, 30, 1.0)];
        let found = intervals(&records).intervals;
        let values: Vec<(i64, f64)> = found.iter().map(|((_, start), i)| (*start, i.value)).collect();
        assert_eq!(values, [(0, 8.0), (900, 1.0)]);
    }

    #[test]
    fn samples_give_the_mean_of_those_up_to_the_end() {
        let mut records = [record(1, 0, 5, 4.0), record(2, 1, 15, 8.0), record(3, 2, 5, 6.0), record(4, 3, 20, 1.0)];
        // Stamped at the very end of the interval.
        let exact = br#"{"meter_id":"a","ts":"1970-01-01T00:15:00Z","value":8,"unit":"kWh","quality":"estimated"}"#;
        records[1].payload = Some(exact.into());
        let found = samples(&records, 900).intervals;
        let values: Vec<_> = found.iter().map(|((_, start), i)| (*start, i.value, &*i.quality)).collect();
        assert_eq!(values, [(0, 7.0, "estimated"), (900, 1.0, "measured")]);
    }

    #[test]
    fn a_register_gives_differences_between_neighbours_and_none_where_it_runs_backwards() {
        let records = [record(1, 0, 0, 10.0), record(2, 1, 15, 12.5), record(3, 2, 30, 11.0), record(4, 3, 59, 20.0)];
        let found = registers(&records);
        let values: Vec<(i64, f64)> = found.intervals.iter().map(|((_, start), i)| (*start, i.value)).collect();
        assert_eq!(values, [(0, 2.5)]);
    }
}
