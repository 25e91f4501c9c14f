//! What the demo sends: a simulated fleet, or a real file.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use meterline_connectors::files::{self, FileOptions, FileReading};
use meterline_connectors::fleet::{Class, Dirt, Fleet, FleetConfig, Form, Mix};
use meterline_schemas::config::Label;
use meterline_schemas::time::{DAY, SECOND};
use meterline_schemas::{Frequency, Micros};

use super::drive::{Record, Records};
use super::narrate::thousands;
use crate::cli::CommandError;

/// 2024-06-03T00:00:00Z, a Monday: the first day of the simulated history. Life begins in July, far from any holiday.
const FLEET_FROM: Micros = 1_717_372_800 * SECOND;
/// Length of the simulated history, and of the history taken from a long file.
const HISTORY: Micros = 28 * DAY;
/// How much simulated future the fleet has; at an hour a second it lasts for half a day.
const FUTURE: Micros = 5 * 365 * DAY;
/// Readings that are looked at to learn how long a file is; as many can be sorted in memory.
const SCAN_READINGS: usize = 3_000_000;

/// Records with what must be known about them.
pub struct Supply {
    /// The records, in the order of sending.
    pub records: Records,
    /// End of the history.
    pub live_from: Micros,
    /// Length of the history.
    pub history: Micros,
    /// Which end of the interval the stamps mark.
    pub label: Label,
    /// For people: what it is.
    pub description: String,
    /// Cells and rows of a file left out so far because they could not be read; it grows while records are taken.
    pub skipped: Arc<AtomicU64>,
}

/// A simulated fleet of `meters`.
///
/// # Errors
/// The fleet refuses the number of meters.
pub fn fleet(meters: u32, seed: u64) -> Result<Supply, CommandError> {
    let config = FleetConfig {
        meters,
        seed,
        from: FLEET_FROM,
        to: FLEET_FROM + HISTORY + FUTURE,
        mix: Mix(vec![(Frequency::QUARTER_HOUR, 0.62), (Frequency::HOUR, 0.32), (Frequency::Day, 0.06)]),
        forms: Mix(vec![(Form::Kw, 0.7), (Form::Kwh, 0.3)]),
        classes: Mix(vec![(Class::Household, 0.6), (Class::Business, 0.2), (Class::Solar, 0.1), (Class::Feeder, 0.1)]),
        dirt: Dirt::default(),
        ..FleetConfig::default()
    };
    let fleet = Fleet::new(config).map_err(|e| CommandError::usage(e.to_string()))?;
    let kinds: Vec<String> = fleet.frequencies().iter().map(|(f, n)| format!("{n} at {f}")).collect();
    let description = format!(
        "{meters} simulated meters: {}; 28 days of history, then live;\n             with gaps, late readings, \
         corrections and broken records",
        kinds.join(", ")
    );
    let records = fleet.map(|r| Ok(Record { at: r.send_at, key: r.key.into_bytes(), payload: r.payload }));
    Ok(Supply {
        records: Box::new(records),
        live_from: FLEET_FROM + HISTORY,
        history: HISTORY,
        label: Label::End,
        description,
        skipped: Arc::default(),
    })
}

/// The readings of a file.
///
/// # Errors
/// The file cannot be read or holds nothing.
pub fn file(path: &Path) -> Result<Supply, CommandError> {
    let options = FileOptions { skip_bad: true, ..FileOptions::default() };
    let open = || files::open(path, &options).map_err(|e| CommandError::usage(e.to_string()));
    let mut readings = open()?;
    let label = readings.label();
    let mut start: Vec<FileReading> = Vec::new();
    for reading in readings.by_ref().take(SCAN_READINGS) {
        start.push(reading?);
    }
    let unreadable = readings.skipped();
    let whole = start.len() < SCAN_READINGS;
    let sorted = start.is_sorted_by_key(|r| r.at);
    let (Some(first), Some(last)) = (start.iter().map(|r| r.at).min(), start.iter().map(|r| r.at).max()) else {
        return Err(CommandError::usage(format!("{} holds no readings", path.display())));
    };
    // Of a short file the last third is sent live, so that something comes true.
    let history = if whole { (last - first) / 3 * 2 } else { HISTORY.min(last - first) };
    let length =
        if whole { thousands(start.len() as u64) } else { format!("more than {}", thousands(start.len() as u64)) };
    let mut description = format!(
        "{}: {length} readings\n             from {} on; {} days are history, the rest comes live",
        path.display(),
        super::narrate::minute(first),
        history / DAY
    );
    if unreadable > 0 {
        let more = if whole { "" } else { " so far" };
        description.push_str(&format!(
            "\n             {} cells or rows{more} cannot be read and are left out",
            thousands(unreadable)
        ));
    }
    let skipped = Arc::new(AtomicU64::new(0));
    let readings: Box<dyn Iterator<Item = Result<FileReading, String>> + Send> = if whole {
        skipped.store(unreadable, Ordering::Relaxed);
        if !sorted {
            start.sort_by_key(|r| r.at);
        }
        Box::new(start.into_iter().map(Ok))
    } else {
        drop(start);
        let (mut readings, skipped) = (open()?, Arc::clone(&skipped));
        Box::new(std::iter::from_fn(move || {
            let next = readings.next();
            skipped.store(readings.skipped(), Ordering::Relaxed);
            next.map(|r| r.map_err(|e| e.to_string()))
        }))
    };
    let mut reached = first;
    let records = readings.map(move |reading| {
        let reading = reading?;
        // A file that is not in order is sent as it is: late readings are corrections.
        reached = reached.max(reading.at);
        let mut payload = Vec::new();
        files::write_json(&mut payload, &reading);
        Ok(Record { at: reached, key: reading.series.as_bytes().to_vec(), payload })
    });
    Ok(Supply { records: Box::new(records), live_from: first + history, history, label, description, skipped })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_fleet_sends_in_order_and_life_begins_after_its_history() {
        let supply = fleet(20, 1).unwrap();
        let records: Vec<Record> = supply.records.take(5_000).map(Result::unwrap).collect();
        assert!(records.is_sorted_by_key(|r| r.at));
        assert!(records[0].at >= supply.live_from - HISTORY);
        assert!(supply.description.contains("PT15M"), "{}", supply.description);
    }

    #[test]
    fn a_file_in_any_order_is_sent_by_time_and_its_last_third_live() {
        let mut csv = tempfile::NamedTempFile::with_suffix(".csv").unwrap();
        writeln!(csv, "series_id,timestamp,value").unwrap();
        for series in ["a", "b"] {
            for hour in 0..24 {
                writeln!(csv, "{series},2024-01-01T{hour:02}:00:00Z,1.5").unwrap();
            }
        }
        let supply = file(csv.path()).unwrap();
        let first = supply.live_from - supply.history;
        let records: Vec<Record> = supply.records.map(Result::unwrap).collect();
        assert_eq!(records.len(), 48);
        assert!(records.is_sorted_by_key(|r| r.at));
        let share = records.iter().filter(|r| r.at < supply.live_from).count();
        assert_eq!((records[0].at, share), (first, 32));
        let json: serde_json::Value = serde_json::from_slice(&records[0].payload).unwrap();
        assert_eq!((&json["meter_id"], &json["value"]), (&"a".into(), &1.5.into()));
    }

    #[test]
    fn what_cannot_be_read_is_counted_and_told() {
        let mut csv = tempfile::NamedTempFile::with_suffix(".csv").unwrap();
        writeln!(csv, "series_id,timestamp,value").unwrap();
        for hour in 0..24 {
            let value = if hour == 7 { "broken" } else { "1.5" };
            writeln!(csv, "a,2024-01-01T{hour:02}:00:00Z,{value}").unwrap();
        }
        let supply = file(csv.path()).unwrap();
        assert!(supply.description.contains("1 cells or rows cannot be read"), "{}", supply.description);
        assert_eq!(supply.skipped.load(Ordering::Relaxed), 1);
        assert_eq!(supply.records.count(), 23);
    }

    #[test]
    fn an_empty_file_is_refused_by_name() {
        let csv = tempfile::NamedTempFile::with_suffix(".csv").unwrap();
        let Err(error) = file(csv.path()) else { panic!("there is nothing in it") };
        assert!(error.message().contains(csv.path().to_str().unwrap()), "{}", error.message());
    }
}
