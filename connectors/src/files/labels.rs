//! Labels of series from a CSV file: a first row with names, then one row for each series and change.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hashbrown::HashSet;
use jiff::tz::TimeZone;
use meterline_schemas::Micros;
use meterline_schemas::config::LabelsConfig;
use meterline_schemas::labels::{LABEL_BYTES_MAX, LabelValues};

use crate::formats::LabelRecord;
use crate::stamp::Stamp;

/// Why a file of labels cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LabelFileError {
    /// It cannot be read at all.
    #[error("reading the labels in {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: csv::Error,
    },
    /// A column is not there.
    #[error("the labels in {} have no column `{column}`; there are: {known}. Name one of these, or correct the first row", path.display())]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// Those that are there.
        known: String,
    },
    /// A row is wrong.
    #[error("the labels in {}, line {line}: {reason}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: u64,
        /// What is wrong, with the value and the remedy.
        reason: String,
    },
}

/// Names of the columns of a file.
///
/// # Errors
/// It cannot be read.
pub fn columns(path: &Path) -> Result<Vec<String>, LabelFileError> {
    Ok(opened(path)?.1)
}

fn opened(path: &Path) -> Result<(csv::Reader<File>, Vec<String>), LabelFileError> {
    let failed = |source| LabelFileError::Read { path: path.to_owned(), source };
    let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_path(path).map_err(failed)?;
    let header = reader.headers().map_err(failed)?;
    let names = header.iter().map(|column| column.trim_start_matches('\u{feff}').to_owned()).collect();
    Ok((reader, names))
}

/// Reads a file; a row without an instant holds always. Of two rows for one series and instant the later one counts.
///
/// # Errors
/// It cannot be read, a column is missing, or a row is wrong.
pub fn read(path: &Path, config: &LabelsConfig) -> Result<Vec<LabelRecord>, LabelFileError> {
    let failed = |source| LabelFileError::Read { path: path.to_owned(), source };
    let (mut reader, names) = opened(path)?;
    let find = |wanted: &str| names.iter().position(|column| column == wanted);
    let column = |wanted: &str| {
        find(wanted).ok_or_else(|| LabelFileError::NoColumn {
            path: path.to_owned(),
            column: wanted.to_owned(),
            known: names.join(", "),
        })
    };
    let series = column(&config.series)?;
    let valid_from = find(&config.valid_from);
    let labels: Vec<usize> = config.labels.values().map(|label| column(label)).collect::<Result<_, _>>()?;
    let zone = TimeZone::get(&config.zone).unwrap_or(TimeZone::UTC);
    let mut texts: HashSet<Arc<str>> = HashSet::new();
    let mut found = Vec::new();
    for row in reader.records() {
        let row = row.map_err(failed)?;
        let line = row.position().map_or(0, csv::Position::line);
        let wrong = |reason: String| LabelFileError::Row { path: path.to_owned(), line, reason };
        let cell = |index: usize| row.get(index).unwrap_or_default();
        let id = cell(series);
        if id.is_empty() {
            return Err(wrong(format!("`{}` is empty; every row names a series", config.series)));
        }
        let at = match valid_from.map(cell).unwrap_or_default() {
            "" => Micros::MIN,
            text => Stamp::parse(text).and_then(|stamp| stamp.instant(&zone)).ok_or_else(|| {
                wrong(format!("`{}` is `{text}`; use RFC 3339 or a local date and time", config.valid_from))
            })?,
        };
        if let Some(long) = labels.iter().map(|index| cell(*index)).find(|text| text.len() > LABEL_BYTES_MAX) {
            return Err(wrong(format!("a label has {} bytes; at most {LABEL_BYTES_MAX} are possible", long.len())));
        }
        let values: LabelValues = labels
            .iter()
            .map(|index| match cell(*index) {
                "" => None,
                text => Some(Arc::clone(texts.get_or_insert_with(text, |text| Arc::from(text)))),
            })
            .collect();
        found.push(LabelRecord { series: format!("{}{id}", config.series_prefix), valid_from: at, labels: values });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meterline_schemas::time::HOUR;

    fn read_text(text: &str) -> Result<Vec<LabelRecord>, LabelFileError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("labels.csv");
        std::fs::write(&path, text).unwrap();
        let config = LabelsConfig {
            file: Some("labels.csv".into()),
            topic: None,
            series: "series_id".into(),
            valid_from: "valid_from".into(),
            labels: [("region".into(), "area".into()), ("site".into(), "site".into())].into(),
            series_prefix: String::new(),
            zone: "Europe/Berlin".into(),
        };
        read(&path, &config)
    }

    #[test]
    fn rows_say_labels_from_an_instant_on_or_always() {
        let found = read_text(
            "\u{feff}series_id,valid_from,site,note,area\nm1,,s1,x,north\nm1,1970-01-01 02:00,,x,\"north, east\"\nm2\n",
        )
        .unwrap();
        let text = |text: &str| Some(Arc::from(text));
        let row = |series: &str, valid_from, labels: [Option<Arc<str>>; 2]| LabelRecord {
            series: series.into(),
            valid_from,
            labels: labels.into(),
        };
        let expected = [
            row("m1", Micros::MIN, [text("north"), text("s1")]),
            row("m1", HOUR, [text("north, east"), None]),
            row("m2", Micros::MIN, [None, None]),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_file_says_its_columns() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("labels.csv");
        std::fs::write(&path, "\u{feff}series_id, area ,site\nm1,n,s\n").unwrap();
        assert_eq!(columns(&path).unwrap(), ["series_id", "area", "site"]);
        assert!(columns(&directory.path().join("none.csv")).unwrap_err().to_string().contains("none.csv"));
    }

    #[test]
    fn faults_name_the_line_and_the_remedy() {
        for (text, words) in [
            ("series_id,site\nm1,s1\n", "no column `area`; there are: series_id, site"),
            ("series_id,area,site\nm1,n,s\n,n,s\n", "line 3: `series_id` is empty"),
            ("series_id,valid_from,area,site\nm1,noon,n,s\n", "line 2: `valid_from` is `noon`; use RFC 3339"),
        ] {
            let error = read_text(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
