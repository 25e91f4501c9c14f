//! Series of plain files as panels, without a lake: what `meterline forecast`, `backtest` and `tune` work on.
//!
//! Values stay in the unit of the file. Of two rows of one stamp the later one counts, of two stamps in one interval the later
//! stamp; of covariates, cell by cell, those that are not empty.

mod ahead;
mod columns;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::tz::TimeZone;
use meterline_connectors::files::{self, FileError, FileOptions};
use meterline_models::data::{Column, Covariate, Known, Panel, Series};
use meterline_schemas::config::Label;
use meterline_schemas::reading::Quality;
use meterline_schemas::time::format_micros;
use meterline_schemas::{Frequency, Micros};

pub use self::ahead::{MissingAhead, complete};
use self::columns::CovariateRows;
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
    /// A covariate is far from its series.
    #[error(
        "a covariate of series `{series}`, which begins at {}, is stamped {}, {} intervals of {frequency} from there: correct the stamp that is wrong", format_micros(*.start), format_micros(*.at), .intervals.abs()
    )]
    CovariateFar {
        /// The series.
        series: String,
        /// Start of its first interval.
        start: Micros,
        /// The stamp.
        at: Micros,
        /// Intervals from one to the other.
        intervals: i64,
        /// The frequency that was found or named.
        frequency: Frequency,
    },
}

impl OfflineError {
    /// Whether the arguments are at fault rather than the data.
    pub const fn is_usage(&self) -> bool {
        matches!(self, OfflineError::File(error) if error.is_usage())
    }
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
    /// Columns of long files that are covariates.
    pub covariates: Vec<Covariate>,
}

/// What files hold.
#[derive(Debug)]
pub struct Offline {
    /// The series of each frequency, the shortest first.
    pub panels: Vec<OfflinePanel>,
    /// Rows or cells that were left out because they cannot be read.
    pub skipped: u64,
    /// Identifiers of which the files have covariates but no reading; they are left out.
    pub without_readings: Vec<String>,
    /// Why other series are left out, each with its identifier.
    pub left_out: Vec<OfflineError>,
}

/// The series of one frequency.
#[derive(Debug, Clone)]
pub struct OfflinePanel {
    /// Its series by identifier. Each begins and ends with a value.
    pub panel: Panel,
    /// By series and interval: whether the value was estimated or substituted. Nothing of a series of which none was.
    pub estimated: Vec<Vec<bool>>,
}

type Stamped = BTreeMap<Micros, (f64, Quality, Label)>;

/// Reads files into panels. A series that cannot be one is left out, where others can.
///
/// # Errors
/// A file cannot be read, or nothing that is in it makes a series.
pub fn read(paths: &[PathBuf], options: &OfflineOptions) -> Result<Offline, OfflineError> {
    let mut all: BTreeMap<Arc<str>, Stamped> = BTreeMap::new();
    let mut beside: BTreeMap<Arc<str>, CovariateRows> = BTreeMap::new();
    let mut skipped = 0;
    let names: Vec<String> = options.covariates.iter().map(|covariate| covariate.name.clone()).collect();
    for mut file in files::open_each(paths, &options.file, &names)? {
        for reading in &mut file {
            let reading = reading?;
            if !names.is_empty() {
                let rows = beside.entry(Arc::clone(&reading.series)).or_default();
                rows.push(reading.at, reading.label, &reading.covariates);
            }
            if !reading.value.is_nan() {
                let of_series = all.entry(reading.series).or_default();
                of_series.insert(reading.at, (reading.value, reading.quality, reading.label));
            }
        }
        skipped += file.skipped();
    }
    if all.is_empty() {
        let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(OfflineError::Empty(names.join(", ")));
    }
    let mut by_frequency: BTreeMap<Frequency, (Vec<Series>, Vec<Vec<bool>>)> = BTreeMap::new();
    let mut left_out = Vec::new();
    for (id, stamped) in all {
        let rows = (!names.is_empty()).then(|| beside.remove(&id).unwrap_or_default());
        let (frequency, series, estimated) = match series_of(&id, &stamped, rows.as_ref(), options) {
            Ok(found) => found,
            Err(error) => {
                left_out.push(error);
                continue;
            }
        };
        let of_frequency = by_frequency.entry(frequency).or_default();
        of_frequency.0.push(series);
        of_frequency.1.push(estimated);
    }
    if by_frequency.is_empty() && !left_out.is_empty() {
        return Err(left_out.swap_remove(0));
    }
    let panel = |(frequency, (series, estimated))| OfflinePanel {
        panel: Panel { covariates: options.covariates.clone(), ..Panel::new(frequency, options.zone.clone(), series) },
        estimated,
    };
    let without_readings = beside.into_iter().filter(|(_, rows)| !rows.is_empty()).map(|(id, _)| id.to_string());
    Ok(Offline {
        panels: by_frequency.into_iter().map(panel).collect(),
        skipped,
        without_readings: without_readings.collect(),
        left_out,
    })
}

// A series on the grid of its frequency, with what is beside it, and which of its values were estimated or substituted.
fn series_of(
    id: &str,
    stamped: &Stamped,
    rows: Option<&CovariateRows>,
    options: &OfflineOptions,
) -> Result<(Frequency, Series, Vec<bool>), OfflineError> {
    let frequency = match options.frequency {
        Some(frequency) => frequency,
        None => frequency_of(id, stamped, &options.zone)?,
    };
    let (mut series, estimated) = on_grid(id, stamped, frequency, options)?;
    if let Some(rows) = rows {
        series.covariates = columns_of(&series, rows, frequency, options)?;
    }
    Ok((frequency, series, estimated))
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

// Start of the interval that a stamp belongs to.
fn start_of(at: Micros, label: Label, frequency: Frequency, zone: &TimeZone) -> Micros {
    let boundary = frequency.round(at, zone);
    if label == Label::End { frequency.advance(boundary, -1, zone) } else { boundary }
}

// The series, and which of its values were estimated or substituted.
fn on_grid(
    id: &str,
    stamped: &Stamped,
    frequency: Frequency,
    options: &OfflineOptions,
) -> Result<(Series, Vec<bool>), OfflineError> {
    let zone = &options.zone;
    let start = |at: Micros, label: Label| start_of(at, label, frequency, zone);
    let starts: BTreeMap<Micros, (f64, Quality)> =
        stamped.iter().map(|(at, (value, quality, label))| (start(*at, *label), (*value, *quality))).collect();
    let (Some((from, _)), Some((to, _))) = (starts.first_key_value(), starts.last_key_value()) else {
        return Ok((Series::new(id, 0, Vec::new()), Vec::new()));
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
    let mut estimated = Vec::new();
    for (start, (value, quality)) in starts {
        let place = frequency.steps_between(from, start, zone) as usize;
        series.values[place] = value as f32;
        if quality == Quality::Measured {
            continue;
        }
        estimated.resize(intervals as usize, false);
        estimated[place] = true;
        if some_count_less {
            series.weights[place] = options.estimated_weight;
        }
    }
    Ok((series, estimated))
}

// The columns of the covariates. Of what is known of the past, nothing from after the end of the series: no forecast may
// know it.
fn columns_of(
    series: &Series,
    rows: &CovariateRows,
    frequency: Frequency,
    options: &OfflineOptions,
) -> Result<Vec<Column>, OfflineError> {
    let place = |at: Micros, label: Label| {
        let start = start_of(at, label, frequency, &options.zone);
        let intervals = frequency.steps_between(series.start, start, &options.zone);
        match intervals.abs() <= INTERVALS_MAX {
            true => Ok(intervals),
            false => Err(OfflineError::CovariateFar {
                series: series.id.clone(),
                start: series.start,
                at,
                intervals,
                frequency,
            }),
        }
    };
    let end = series.values.len() as i64;
    let ends = options.covariates.iter().map(|covariate| match covariate.known {
        Known::Ahead => i64::MAX,
        Known::Past => end,
    });
    rows.columns(&ends.collect::<Vec<i64>>(), place)
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
        OfflineOptions {
            file: FileOptions::default(),
            frequency: None,
            zone: TimeZone::UTC,
            estimated_weight: 1.0,
            covariates: Vec::new(),
        }
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
        let found = read(std::slice::from_ref(&path), &OfflineOptions { estimated_weight: 0.25, ..options() }).unwrap();
        let [OfflinePanel { panel, estimated }] = &found.panels[..] else { panic!("{found:?}") };
        assert_eq!((panel.frequency, panel.series.len()), (Frequency::HOUR, 2));
        let [a, b] = &panel.series[..] else { panic!("{panel:?}") };
        assert_eq!((a.id.as_str(), a.values.len(), b.values.len()), ("a", 29, 39));
        // A stamp is the end of its interval.
        assert_eq!((b.start % (24 * HOUR), b.values[0], a.values[19]), (0, 1.0, 9.5));
        assert!(b.values[6].is_nan() && b.values[7] == 8.0);
        assert_eq!((a.weight(0), a.weight(8), b.weight(0)), (0.25, 1.0, 1.0));
        // Quality is known where all values count alike, too.
        assert_eq!((estimated[0][7], estimated[0][8], estimated[1].len()), (true, false, 0));
        let alike = read(&[path], &options()).unwrap();
        assert_eq!((&alike.panels[0].estimated, alike.panels[0].panel.series[0].weight(0)), (estimated, 1.0));
    }

    fn covariate(name: &str, known: Known) -> Covariate {
        Covariate { name: name.into(), known }
    }

    #[test]
    fn covariates_go_on_where_the_series_has_ended_and_do_not_lengthen_it() {
        let mut text = "series_id,timestamp,value,temperature,voltage\n".to_owned();
        for hour in 0..60 {
            // Thirty values, one of which is missing; the voltage of an hour is known after it, and the temperature ahead.
            let value = if hour < 30 && hour != 9 { hour.to_string() } else { String::new() };
            let at = format!("2024-01-{:02}T{:02}:00:00Z", 2 + hour / 24, hour % 24);
            text.push_str(&format!("a,{at},{value},{}.5,{}\n", hour, 200 + hour));
        }
        // Before its first value; of a series without any; a correction of one cell alone.
        text.push_str("a,2024-01-01T22:00:00Z,,-9.5,\nb,2024-01-01T22:00:00Z,,1,\na,2024-01-02T03:00:00Z,,33.5,\n");
        let (_dir, path) = written(&text);
        let covariates = vec![covariate("temperature", Known::Ahead), covariate("voltage", Known::Past)];
        let with = OfflineOptions { covariates: covariates.clone(), ..options() };
        let found = read(std::slice::from_ref(&path), &with).unwrap();
        let [OfflinePanel { panel, .. }] = &found.panels[..] else { panic!("{found:?}") };
        assert_eq!(
            (panel.series.len(), &panel.covariates, found.without_readings),
            (1, &covariates, vec!["b".to_owned()])
        );
        let series = &panel.series[0];
        assert_eq!((series.values.len(), series.values[8], series.values[29]), (30, 8.0, 29.0));
        assert!(series.values[9].is_nan());
        let [temperature, voltage] = &series.covariates[..] else { panic!("{series:?}") };
        assert_eq!([-2, 0, 3, 9, 59].map(|hour| temperature.at(hour)), [-9.5, 0.5, 33.5, 9.5, 59.5]);
        assert_eq!((voltage.at(3), voltage.at(29)), (203.0, 229.0));
        assert!(temperature.at(-1).is_nan() && temperature.at(60).is_nan() && voltage.at(30).is_nan());
        // Without covariates the same series.
        let plain = read(&[path], &options()).unwrap();
        assert_eq!((&plain.panels[0].panel.series[0].start, plain.without_readings.len()), (&series.start, 0));
        assert!(plain.panels[0].panel.series[0].covariates.is_empty());
    }

    #[test]
    fn a_covariate_that_is_nowhere_or_far_away_is_refused() {
        let mut text = "series_id,timestamp,value,temperature\n".to_owned();
        (1..9).for_each(|hour| text.push_str(&format!("a,2024-01-01T0{hour}:00:00Z,1,2\n")));
        let (_dir, path) = written(&text);
        let frequency = Some(Frequency::HOUR);
        let with =
            |name: &str| OfflineOptions { covariates: vec![covariate(name, Known::Ahead)], frequency, ..options() };
        let error = read(&[path], &with("temperatur")).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("did you mean `temperature`?"), "{error}");
        let (_dir, path) = written(&format!("{text}a,9024-01-01T00:00:00Z,,2\n"));
        let error = read(&[path], &with("temperature")).unwrap_err().to_string();
        assert!(error.contains("series `a`") && error.contains("9024-01-01") && error.contains("correct"), "{error}");
    }

    #[test]
    fn a_series_that_cannot_be_one_does_not_keep_the_others_from_it() {
        let mut text = "series_id,timestamp,value,temperature\n".to_owned();
        for id in ["a", "far"] {
            (1..30)
                .for_each(|at| text.push_str(&format!("{id},2024-01-{:02}T{:02}:00:00Z,1,2\n", 1 + at / 24, at % 24)));
        }
        text.push_str("far,9024-01-01T00:00:00Z,,2\nodd,2024-01-01T00:00:00Z,1,2\nodd,2024-01-09T00:00:00Z,1,2\n");
        let (_dir, path) = written(&text);
        let with = OfflineOptions { covariates: vec![covariate("temperature", Known::Ahead)], ..options() };
        let found = read(&[path], &with).unwrap();
        let ids: Vec<&str> = found.panels.iter().flat_map(|of| &of.panel.series).map(|of| of.id.as_str()).collect();
        assert_eq!(ids, ["a"]);
        let [far, odd] = &found.left_out[..] else { panic!("{:?}", found.left_out) };
        assert!(far.to_string().contains("series `far`") && far.to_string().contains("9024-01-01"), "{far}");
        assert!(odd.to_string().contains("frequency of series `odd`"), "{odd}");
    }

    #[test]
    fn what_makes_no_series_is_said_with_the_remedy() {
        let (_dir, path) = written("series,time,value\na,2024-01-01T00:00:00Z,1\na,2024-01-09T00:00:00Z,1\n");
        let refusal = |options: &OfflineOptions| read(std::slice::from_ref(&path), options).unwrap_err().to_string();
        let error = refusal(&options());
        assert!(error.contains("series `a`") && error.contains("--frequency"), "{error}");
        let named = OfflineOptions { frequency: Some(Frequency::HOUR), ..options() };
        assert_eq!(
            read(std::slice::from_ref(&path), &named).unwrap().panels[0].panel.series[0].values.len(),
            8 * 24 + 1
        );
        let (_dir, empty) = written("series,time,value\n");
        let error = read(&[empty], &options()).unwrap_err().to_string();
        assert!(error.contains("readings.csv"), "{error}");
    }
}
