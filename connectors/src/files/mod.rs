//! Readings from CSV and Parquet files, long or wide, as people have them.
//!
//! ```text
//! open ─▶ form (what is in which column) ─▶ csv | parquet (rows) ─▶ FileReading ─▶ merge (several files by stamp)
//! ```
//!
//! * **Long**: one reading a row: series, stamp and value under any name in use, or without a header; further columns
//!   `unit` and `quality` are read, and covariates that are asked for ([`open_each`]).
//! * **Wide**: one row a stamp, one column a series. An unnamed index column before the stamp is left out, and so is
//!   every column that holds no numbers.
//! * Delimiters `,`, `;` and tab are detected; decimal commas and quoted cells are understood.
//! * A file in the published form of `LD2011_2014.txt` is recognised: mean kW, stamps at the end of the quarter hour,
//!   each day with 96 of them whatever the clocks did (so UTC is its zone).
//!
//! Rows are streamed: memory does not grow with the file.

mod cells;
mod clock;
mod covariates;
mod csv;
mod form;
mod json;
pub mod labels;
mod merge;
mod parquet;
mod sorted;
mod write;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::TimeZone;
use meterline_schemas::Micros;
use meterline_schemas::config::Label;
use meterline_schemas::names;
use meterline_schemas::reading::Quality;
use meterline_schemas::time::DAY;
use meterline_schemas::unit::Unit;

pub use json::write_json;
pub use merge::Merged;
pub use write::LongWriter;

/// How a file is to be understood, where it does not say so itself.
#[derive(Debug, Clone, Default)]
pub struct FileOptions {
    /// Wide: the value columns to read. Default: all that hold numbers.
    pub columns: Vec<String>,
    /// Name of the series in a file with one value column; the prefix of the columns' names (`NAME/column`) in a file
    /// with several. Default: the columns' own names; the file's stem, where the only column is called `value` or
    /// alike.
    pub series: Option<String>,
    /// Long: column with the series identifier. Default: by its name.
    pub series_column: Option<String>,
    /// Column with the stamp. Default: by its content.
    pub time_column: Option<String>,
    /// Long: column with the value. Default: by its name.
    pub value_column: Option<String>,
    /// Unit of the values. Default: as the file says, else unknown.
    pub unit: Option<Unit>,
    /// Which end of the interval a stamp marks. Default: as the file says, else its end.
    pub label: Option<Label>,
    /// IANA zone of stamps without an offset. Default UTC.
    pub zone: Option<String>,
    /// Leave out and count what cannot be read, instead of ending with an error.
    pub skip_bad: bool,
}

/// One reading of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct FileReading {
    /// Series identifier.
    pub series: Arc<str>,
    /// The stamp; `label` says which end of the interval it marks.
    pub at: Micros,
    /// The value in `unit`; NaN in a row that has nothing but covariates.
    pub value: f64,
    /// Unit of the value, where the file or the options say it.
    pub unit: Option<Unit>,
    /// How far the value can be trusted.
    pub quality: Quality,
    /// Which end of the interval the stamp marks.
    pub label: Label,
    /// What the row has of the covariates that were asked for, in their order; NaN where it has none. Nothing where
    /// none was asked for.
    pub covariates: Box<[f32]>,
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Opening or reading failed.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file's form is not understood.
    #[error("cannot tell what is in {}: {reason}", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is missing, and the remedy.
        reason: String,
    },
    /// An option is wrong.
    #[error("{0}")]
    Option(String),
    /// A row or cell cannot be read.
    #[error("{}, {place} {number}, column {column}: {reason}; correct it, or skip what cannot be read", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// `line` or `row`.
        place: &'static str,
        /// Number of the line or row, from 1.
        number: u64,
        /// Name or number of the column.
        column: String,
        /// What is wrong with the cell.
        reason: String,
    },
    /// Creating or writing failed.
    #[error("cannot write {}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The Parquet file is damaged, or uses what the reader does not know.
    #[error("cannot read {} as Parquet: {reason}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        reason: String,
    },
}

impl FileError {
    /// Whether the arguments are at fault rather than the data.
    pub const fn is_usage(&self) -> bool {
        matches!(self, FileError::Option(_))
    }
}

/// The readings of one file, in the order of its rows.
pub struct FileReadings {
    rows: Rows,
    bytes: u64,
    skip_bad: bool,
    skipped: u64,
}

enum Rows {
    Csv(Box<csv::CsvRows>),
    Parquet(Box<parquet::ParquetRows>),
    Sorted(Box<sorted::Sorted>),
}

/// Opens a file and finds out its form.
///
/// # Errors
/// The file cannot be opened, an option is wrong, or the form is not understood.
pub fn open(path: &Path, options: &FileOptions) -> Result<FileReadings, FileError> {
    open_with(path, options, &[])
}

fn open_with(path: &Path, options: &FileOptions, covariates: &[String]) -> Result<FileReadings, FileError> {
    let io = |source| FileError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    if meta.is_dir() {
        return Err(FileError::Option(format!("{} is a directory: name the files in it", path.display())));
    }
    let mut magic = [0; 4];
    let n = file.read(&mut magic).map_err(io)?;
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let refuse = |reason: &str| Err(FileError::Form { path: path.to_owned(), reason: reason.to_owned() });
    let zone = zone(options)?;
    let rows = match &magic[..n] {
        b"PAR1" => Rows::Parquet(Box::new(parquet::ParquetRows::open(path, file, options, covariates, zone)?)),
        [0x1f, 0x8b, ..] | b"PK\x03\x04" => return refuse("it is compressed; unpack it first"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return refuse("it is UTF-16; convert it to UTF-8 first"),
        [b'{', ..] => return refuse("it looks like JSON; CSV and Parquet are read here"),
        [] => return refuse("it is empty"),
        _ => Rows::Csv(Box::new(csv::CsvRows::open(path, file, options, covariates, zone)?)),
    };
    Ok(FileReadings { rows, bytes: meta.len(), skip_bad: options.skip_bad, skipped: 0 })
}

/// Opens files to be read in the order of their stamps, as one ([`Merged`]): as [`open_each`], but a long file that lies
/// series after series is sorted first, in memory and beyond that in temporary files.
///
/// # Errors
/// As [`open_each`].
pub fn open_all(paths: &[PathBuf], options: &FileOptions) -> Result<Vec<FileReadings>, FileError> {
    let mut files = open_each(paths, options, &[])?;
    for (file, path) in files.iter_mut().zip(paths).filter(|(file, _)| file.is_long()) {
        if lies_by_series(open(path, options)?) {
            tracing::info!(file = %path.display(), "the file lies series after series; sorting it by time");
            let form = file.form().clone();
            let rows = sorted::Sorted::new(path, form, file.by_ref(), sorted::RUN_ROWS)?;
            file.rows = Rows::Sorted(Box::new(rows));
        }
    }
    Ok(files)
}

/// Opens files to be read in the order of their rows, with the columns that are named `covariates` beside the readings:
/// also a row without a value is given then, if it has one of these. A long file need not have all of them. Where wide
/// files share names of columns, each file's stem becomes the prefix of its own (see [`FileOptions::series`]).
///
/// # Errors
/// As [`open`]; the files mark different ends of their intervals; or a covariate is in none of them, is a column that is
/// read as something else, or is asked of a wide file.
pub fn open_each(
    paths: &[PathBuf],
    options: &FileOptions,
    covariates: &[String],
) -> Result<Vec<FileReadings>, FileError> {
    if paths.len() > 1 && options.series.is_some() {
        return Err(FileError::Option(
            "one series name was given for several files; leave it out, or send one file".into(),
        ));
    }
    let open_one = |path: &PathBuf| open_with(path, options, covariates);
    let mut files = paths.iter().map(open_one).collect::<Result<Vec<_>, _>>()?;
    let mut seen = std::collections::HashSet::new();
    if !files.iter().flat_map(FileReadings::columns).all(|name| seen.insert(name)) {
        for (file, path) in files.iter_mut().zip(paths).filter(|(file, _)| !file.is_long()) {
            let series = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            *file = open(path, &FileOptions { series, ..options.clone() })?;
        }
    }
    if let Some(other) = files.iter().position(|file| file.label() != files[0].label()) {
        let (one, other) = (paths[0].display(), paths[other].display());
        return Err(FileError::Option(format!(
            "stamps of {one} and {other} mark different ends of the interval; say which"
        )));
    }
    are_there(covariates, &files)?;
    Ok(files)
}

// Not every file has to have all of them.
fn are_there(covariates: &[String], files: &[FileReadings]) -> Result<(), FileError> {
    let is_there =
        |place: usize| files.iter().any(|file| matches!(file.form().covariates.columns.get(place), Some(Some(_))));
    let Some((_, name)) = covariates.iter().enumerate().find(|(place, _)| !is_there(*place)) else { return Ok(()) };
    let mut columns: Vec<String> = Vec::new();
    for column in files.iter().flat_map(|file| &file.form().covariates.header) {
        if !columns.contains(column) {
            columns.push(column.clone());
        }
    }
    let meant = names::question(names::nearest(name, columns.iter().map(String::as_str)));
    let listed = form::list(&columns);
    Err(FileError::Option(format!("no column is called `{name}`, for a covariate; {meant}there are {listed}")))
}

/// Whether more than a tenth of the first rows are a day behind what came before them: too many for late readings.
fn lies_by_series(readings: FileReadings) -> bool {
    const LOOKED_AT: usize = 50_000;
    let (mut reached, mut behind, mut total) = (Micros::MIN, 0_usize, 0_usize);
    // A reading that is bad is reported when it is sent.
    for reading in readings.take(LOOKED_AT).map_while(Result::ok) {
        total += 1;
        behind += usize::from(reading.at < reached.saturating_sub(DAY));
        reached = reached.max(reading.at);
    }
    behind * 10 > total
}

fn zone(options: &FileOptions) -> Result<TimeZone, FileError> {
    match options.zone.as_deref() {
        None => Ok(TimeZone::UTC),
        Some(name) => TimeZone::get(name).map_err(|_| {
            FileError::Option(format!("`{name}` is no known time zone; use an IANA name such as Europe/Lisbon"))
        }),
    }
}

impl FileReadings {
    /// Cells and rows left out so far because they could not be read (with [`FileOptions::skip_bad`]).
    pub const fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Share of the file that is read, 0 to 1.
    pub fn progress(&self) -> f64 {
        match &self.rows {
            Rows::Csv(rows) => rows.bytes_read() as f64 / self.bytes.max(1) as f64,
            Rows::Parquet(rows) => rows.progress(),
            Rows::Sorted(rows) => rows.progress(),
        }
    }

    /// Which end of the interval the stamps mark.
    pub fn label(&self) -> Label {
        self.form().label
    }

    /// Unit of the values, where it is one and known.
    pub fn unit(&self) -> Option<&Unit> {
        self.form().unit.as_ref()
    }

    /// Whether one row holds one reading (long) or one a series (wide).
    pub fn is_long(&self) -> bool {
        matches!(self.form().shape, form::Shape::Long { .. })
    }

    /// Names of the series columns of a wide file.
    pub fn columns(&self) -> Vec<Arc<str>> {
        match &self.form().shape {
            form::Shape::Long { .. } => Vec::new(),
            form::Shape::Wide { columns } => columns.iter().map(|c| Arc::clone(&c.series)).collect(),
        }
    }

    fn form(&self) -> &form::Form {
        match &self.rows {
            Rows::Csv(rows) => rows.form(),
            Rows::Parquet(rows) => rows.form(),
            Rows::Sorted(rows) => rows.form(),
        }
    }
}

impl Iterator for FileReadings {
    type Item = Result<FileReading, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let next = match &mut self.rows {
                Rows::Csv(rows) => rows.next(),
                Rows::Parquet(rows) => rows.next(),
                Rows::Sorted(rows) => rows.next(),
            };
            match next {
                Some(Err(FileError::Row { .. })) if self.skip_bad => self.skipped += 1,
                next => return next,
            }
        }
    }
}

/// Identifiers seen, each with the instant that its series has reached.
#[derive(Debug, Default)]
struct SeriesNames {
    index: std::collections::HashMap<Arc<str>, usize>,
    entries: Vec<(Arc<str>, Option<Micros>)>,
}

impl SeriesNames {
    /// The shared name, and the instant that its series has reached.
    fn entry(&mut self, name: &str) -> &mut (Arc<str>, Option<Micros>) {
        let i = match self.index.get(name) {
            Some(i) => *i,
            None => {
                let shared: Arc<str> = name.into();
                self.index.insert(Arc::clone(&shared), self.entries.len());
                self.entries.push((shared, None));
                self.entries.len() - 1
            }
        };
        &mut self.entries[i]
    }
}

#[cfg(test)]
mod tests;
