//! Series of plain files as panels, without a lake: what `meterline forecast` and `meterline backtest` work on.
//!
//! Values stay in the unit of the file. Of two rows of one stamp the later one counts, of two stamps in one interval the later
//! stamp.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::tz::TimeZone;
use meterline_connectors::files::{self, FileError, FileOptions};
use meterline_models::data::{Panel, Series};
use meterline_schemas::config::Label;
use meterline_schemas::reading::Quality;
use meterline_schemas::time::format_micros;
use meterline_schemas::{Frequency, Micros};

use crate::ingest::frequency::{PENDING_MAX, detect, settle};

/// Intervals from the first to the last stamp of a series, above which one of them is surely wrong.
const INTERVALS_MAX: i64 = 20_000_000;

/// Why files do not become panels.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is nothing in them.
    #[error("there is no reading in {0}")]
    Empty(String),
    /// A frequency was not found.
    #[error(
        "the frequency of series `{series}` cannot be told from its {stamps} stamps: name it, such as --frequency PT15M"
    )]
    Frequency {
        /// The series.
        series: String,
        /// Its stamps.
        stamps: usize,
    },
    /// A series reaches too far.
    #[error(
        "series `{series}` has stamps from {} to {}, which would be {intervals} intervals of {frequency}: correct the stamp that is wrong", format_micros(*.from), format_micros(*.to)
    )]
    TooLong {
        /// The series.
        series: String,
        /// Start of the first interval.
        from: Micros,
        /// Start of the last one.
        to: Micros,
        /// Intervals between them.
        intervals: i64,
        /// The frequency that was found or named.
        frequency: Frequency,
    },
}

/// How files become panels.
#[derive(Debug, Clone)]
pub struct OfflineOptions {
    /// How the files are to be understood.
    pub file: FileOptions,
    /// The frequency of all series; detected where it is not given.
    pub frequency: Option<Frequency>,
    /// Zone of calendars.
    pub zone: TimeZone,
    /// How much a value counts in training that was estimated or substituted, 0 to 1.
    pub estimated_weight: f32,
}

/// What files hold.
#[derive(Debug, Clone)]
pub struct Offline {
    /// A panel for each frequency, the shortest first; its series by identifier. Each begins and ends with a value.
    pub panels: Vec<Panel>,
    /// Rows or cells that were left out because they cannot be read.
    pub skipped: u64,
}

type Stamped = BTreeMap<Micros, (f64, Quality, Label)>;

/// Reads files into panels.
///
/// # Errors
/// A file cannot be read, or what is in it makes no series.
pub fn read(paths: &[PathBuf], options: &OfflineOptions) -> Result<Offline, OfflineError> {
    let mut all: BTreeMap<Arc<str>, Stamped> = BTreeMap::new();
    let mut skipped = 0;
    for mut file in files::open_all(paths, &options.file)? {
        for reading in &mut file {
            let reading = reading?;
            let of_series = all.entry(reading.series).or_default();
            of_series.insert(reading.at, (reading.value, reading.quality, reading.label));
        }
        skipped += file.skipped();
    }
    if all.is_empty() {
        let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(OfflineError::Empty(names.join(", ")));
    }
    let mut by_frequency: BTreeMap<Frequency, Vec<Series>> = BTreeMap::new();
    for (id, stamped) in all {
        let frequency = match options.frequency {
            Some(frequency) => frequency,
            None => frequency_of(&id, &stamped, &options.zone)?,
        };
        by_frequency.entry(frequency).or_default().push(on_grid(&id, &stamped, frequency, options)?);
    }
    let panel = |(frequency, series)| Panel::new(frequency, options.zone.clone(), series);
    Ok(Offline { panels: by_frequency.into_iter().map(panel).collect(), skipped })
}

// The newest stamps say what the frequency is now.
fn frequency_of(id: &str, stamped: &Stamped, zone: &TimeZone) -> Result<Frequency, OfflineError> {
    let mut stamps: Vec<Micros> = stamped.keys().rev().take(PENDING_MAX).copied().collect();
    stamps.reverse();
    let found = detect(&stamps, zone).or_else(|| settle(&stamps, zone));
    found
        .map(|found| found.frequency)
        .ok_or_else(|| OfflineError::Frequency { series: id.to_owned(), stamps: stamped.len() })
}

fn on_grid(
    id: &str,
    stamped: &Stamped,
    frequency: Frequency,
    options: &OfflineOptions,
) -> Result<Series, OfflineError> {
    let zone = &options.zone;
    let start_of = |at: Micros, label: Label| {
        let boundary = frequency.round(at, zone);
        if label == Label::End { frequency.advance(boundary, -1, zone) } else { boundary }
    };
    let starts: BTreeMap<Micros, (f64, Quality)> =
        stamped.iter().map(|(at, (value, quality, label))| (start_of(*at, *label), (*value, *quality))).collect();
    let (Some((from, _)), Some((to, _))) = (starts.first_key_value(), starts.last_key_value()) else {
        return Ok(Series::new(id, 0, Vec::new()));
    };
    let (from, to) = (*from, *to);
    let intervals = frequency.steps_between(from, to, zone) + 1;
    if intervals > INTERVALS_MAX {
        return Err(OfflineError::TooLong { series: id.to_owned(), from, to, intervals, frequency });
    }
    let mut series = Series::new(id, from, vec![f32::NAN; intervals as usize]);
    let some_count_less = options.estimated_weight < 1.0;
    if some_count_less {
        series.weights = vec![1.0; intervals as usize];
    }
    for (start, (value, quality)) in starts {
        let place = frequency.steps_between(from, start, zone) as usize;
        series.values[place] = value as f32;
        if some_count_less && quality != Quality::Measured {
            series.weights[place] = options.estimated_weight;
        }
    }
    Ok(series)
}

#[cfg(test)]
mod tests {
    use meterline_schemas::time::HOUR;

    use super::*;

    fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("readings.csv");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn options() -> OfflineOptions {
        OfflineOptions { file: FileOptions::default(), frequency: None, zone: TimeZone::UTC, estimated_weight: 1.0 }
    }

    fn hour(text: &mut String, series: &str, hour: usize, value: f64, quality: &str) {
        text.push_str(&format!("{series},2024-01-{:02}T{:02}:00:00Z,{value},{quality}\n", 1 + hour / 24, hour % 24));
    }

    #[test]
    fn rows_become_series_on_the_grid_of_their_frequency() {
        let mut text = "series,time,value,quality\n".to_owned();
        (1..40).filter(|at| *at != 7).for_each(|at| hour(&mut text, "b", at, at as f64, "measured"));
        (1..30).step_by(1).for_each(|at| hour(&mut text, "a", at, 1.5, if at < 9 { "estimated" } else { "measured" }));
        // Corrected further down.
        hour(&mut text, "a", 20, 9.5, "measured");
        let (_dir, path) = written(&text);
        let found = read(&[path], &OfflineOptions { estimated_weight: 0.25, ..options() }).unwrap();
        let [panel] = &found.panels[..] else { panic!("{found:?}") };
        assert_eq!((panel.frequency, panel.series.len()), (Frequency::HOUR, 2));
        let [a, b] = &panel.series[..] else { panic!("{panel:?}") };
        assert_eq!((a.id.as_str(), a.values.len(), b.values.len()), ("a", 29, 39));
        // A stamp is the end of its interval.
        assert_eq!((b.start % (24 * HOUR), b.values[0], a.values[19]), (0, 1.0, 9.5));
        assert!(b.values[6].is_nan() && b.values[7] == 8.0);
        assert_eq!((a.weight(0), a.weight(8), b.weight(0)), (0.25, 1.0, 1.0));
    }

    #[test]
    fn what_makes_no_series_is_said_with_the_remedy() {
        let (_dir, path) = written("series,time,value\na,2024-01-01T00:00:00Z,1\na,2024-01-09T00:00:00Z,1\n");
        let refusal = |options: &OfflineOptions| read(std::slice::from_ref(&path), options).unwrap_err().to_string();
        let error = refusal(&options());
        assert!(error.contains("series `a`") && error.contains("--frequency"), "{error}");
        let named = OfflineOptions { frequency: Some(Frequency::HOUR), ..options() };
        assert_eq!(read(std::slice::from_ref(&path), &named).unwrap().panels[0].series[0].values.len(), 8 * 24 + 1);
        let (_dir, empty) = written("series,time,value\n");
        let error = read(&[empty], &options()).unwrap_err().to_string();
        assert!(error.contains("readings.csv"), "{error}");
    }
}
