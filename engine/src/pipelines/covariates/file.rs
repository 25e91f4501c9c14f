//! Covariates from CSV and Parquet files: `start`, `value` and, where each series has its own, `series_id`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use meterline_connectors::files::{self, FileError, FileOptions};
use meterline_schemas::Micros;
use meterline_schemas::config::Label;
use meterline_schemas::time::format_micros;

const START: &str = "start";
const VALUE: &str = "value";
const SERIES: &str = "series_id";

/// A value with the start of its interval.
pub type Row = (Micros, f32);

/// What a source says, in its order.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// The same of all series.
    OfAll(Vec<Row>),
    /// Of each series.
    OfEach(HashMap<Arc<str>, Vec<Row>>),
}

/// Why a file gives no covariate.
#[derive(Debug, thiserror::Error)]
pub enum CovariateFileError {
    /// It cannot be read, or is of another form.
    #[error("{0}; a covariate needs the columns `start`, `value` and, where each series has its own, `series_id`")]
    File(#[from] FileError),
    /// A number that no model can use.
    #[error("the value {value:e} at {} is out of range: correct it", format_micros(*.at))]
    Value {
        /// The number.
        value: f64,
        /// Start of its interval.
        at: Micros,
    },
}

impl Values {
    /// Number of values.
    pub fn count(&self) -> usize {
        match self {
            Values::OfAll(rows) => rows.len(),
            Values::OfEach(series) => series.values().map(Vec::len).sum(),
        }
    }

    /// Starts of the first and the last interval.
    pub fn range(&self) -> Option<(Micros, Micros)> {
        let starts: Box<dyn Iterator<Item = Micros>> = match self {
            Values::OfAll(rows) => Box::new(rows.iter().map(|row| row.0)),
            Values::OfEach(series) => Box::new(series.values().flatten().map(|row| row.0)),
        };
        starts.fold(None, |range, at| {
            let (first, last) = range.unwrap_or((at, at));
            Some((first.min(at), last.max(at)))
        })
    }
}

/// Reads a file; `zone` is that of stamps without an offset. Rows without a value are left out.
///
/// # Errors
/// It cannot be read, lacks a column, or a row is wrong.
pub fn read(path: &Path, zone: &str) -> Result<Values, CovariateFileError> {
    let options = FileOptions {
        time_column: Some(START.into()),
        label: Some(Label::Begin),
        zone: Some(zone.to_owned()),
        ..FileOptions::default()
    };
    // The form says whether there is a column of series; that it is the one meant is asked for by its name. What cannot
    // be read at all is told below.
    let is_of_each = files::open(path, &options).is_ok_and(|file| file.is_long());
    let options = if is_of_each {
        FileOptions { series_column: Some(SERIES.into()), value_column: Some(VALUE.into()), ..options }
    } else {
        FileOptions { columns: vec![VALUE.into()], ..options }
    };
    let mut of_all = Vec::new();
    let mut of_each: HashMap<Arc<str>, Vec<Row>> = HashMap::new();
    for reading in files::open(path, &options)? {
        let reading = reading?;
        let value = reading.value as f32;
        if !value.is_finite() {
            return Err(CovariateFileError::Value { value: reading.value, at: reading.at });
        }
        let rows = if is_of_each { of_each.entry(reading.series).or_default() } else { &mut of_all };
        rows.push((reading.at, value));
    }
    Ok(if is_of_each { Values::OfEach(of_each) } else { Values::OfAll(of_all) })
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
    use meterline_schemas::time::HOUR;
    use parquet::arrow::ArrowWriter;

    use super::*;

    fn read_text(text: &str, zone: &str) -> Result<Values, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weather.csv");
        std::fs::write(&path, text).unwrap();
        read(&path, zone).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_has_one_column_for_all_series_or_one_for_each() {
        let text = "start,value,note\n1970-01-01T00:00:00Z,1.5,x\n1970-01-01T01:00:00Z,,y\n1970-01-01T02:00:00Z,-2,z\n";
        let found = read_text(text, "UTC").unwrap();
        assert_eq!(found, Values::OfAll(vec![(0, 1.5), (2 * HOUR, -2.0)]), "a missing value is no row");
        assert_eq!((found.count(), found.range()), (2, Some((0, 2 * HOUR))));
        let text = "series_id;start;value\nm1;1970-01-01 01:00;1,5\nm2;1970-01-01 01:00;2\nm1;1970-01-01 02:00;3\n";
        let Values::OfEach(found) = read_text(text, "Europe/Berlin").unwrap() else { panic!("of each series") };
        assert_eq!((&found["m1"][..], &found["m2"][..]), (&[(0, 1.5), (HOUR, 3.0)][..], &[(0, 2.0)][..]));
    }

    #[test]
    fn parquet_is_read_as_csv_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weather.parquet");
        let columns: Vec<(&str, arrow::array::ArrayRef)> = vec![
            ("series_id", Arc::new(StringArray::from(vec!["m1", "m1"]))),
            ("start", Arc::new(TimestampMicrosecondArray::from(vec![0, HOUR]).with_timezone("UTC"))),
            ("value", Arc::new(Float64Array::from(vec![Some(1.5), None]))),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), rows.schema(), None).unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();
        assert_eq!(read(&path, "UTC").unwrap(), Values::OfEach([("m1".into(), vec![(0, 1.5)])].into()));
    }

    #[test]
    fn what_cannot_be_read_is_named_with_the_columns_that_are_needed() {
        for (text, words) in [
            ("time,value\n2024-01-01,1\n", "it has no column `start`; its columns are `time`, `value`"),
            ("start,temperature\n2024-01-01,1\n", "it has no column `value`"),
            ("start,meter_id,value\n2024-01-01,m,1\n", "it has no column `series_id`"),
            ("start,value\n2024-01-01,1\n2024-01-02,warm\n", "`warm` is no number"),
            (
                "start,value\n2024-01-01,1\n2024-01-02,1e300\n",
                "the value 1e300 at 2024-01-02T00:00:00Z is out of range",
            ),
            ("start,value\n2024-01-01,1\nsoon,1\n", "`soon` is no time stamp"),
        ] {
            let error = read_text(text, "UTC").unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let error = read(Path::new("/nowhere/weather.csv"), "UTC").unwrap_err().to_string();
        assert!(error.contains("/nowhere/weather.csv") && error.contains("`start`, `value`"), "{error}");
    }
}
