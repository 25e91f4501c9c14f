//! Rows of a CSV file.

use std::fs::File;
use std::io::{Chain, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use csv::{ByteRecord, Reader, ReaderBuilder};
use jiff::tz::TimeZone;
use meterline_schemas::Micros;
use meterline_schemas::reading::Quality;
use meterline_schemas::unit::Unit;

use super::clock::LocalClock;
use super::covariates;
use super::form::{self, Form, Shape, is_missing};
use super::{FileError, FileOptions, FileReading, SeriesNames};
use crate::stamp::Stamp;

// A first row of tens of thousands of series must fit.
const SAMPLE_BYTES: u64 = 1 << 20;
const SAMPLE_ROWS: usize = 50;

pub struct CsvRows {
    path: PathBuf,
    form: Form,
    reader: Reader<Chain<Cursor<Vec<u8>>, File>>,
    record: ByteRecord,
    line: u64,
    clock: LocalClock,
    names: SeriesNames,
    /// Wide: instant of the row being read, and how many of its columns were read.
    row: Option<(Micros, usize)>,
    reached: Option<Micros>,
    ended: bool,
}

impl CsvRows {
    pub fn open(
        path: &Path,
        mut file: File,
        options: &FileOptions,
        covariates: &[String],
        zone: TimeZone,
    ) -> Result<CsvRows, FileError> {
        let mut head = Vec::new();
        let read = (&mut file).take(SAMPLE_BYTES).read_to_end(&mut head);
        read.map_err(|source| FileError::Io { path: path.to_owned(), source })?;
        if head.starts_with(b"\xef\xbb\xbf") {
            head.drain(..3);
        }
        let refuse = |reason| FileError::Form { path: path.to_owned(), reason };
        if std::str::from_utf8(&head).is_err_and(|e| e.error_len().is_some()) {
            return Err(refuse("its text is not UTF-8; convert it first".into()));
        }
        let delimiter = delimiter(&head);
        let mut builder = ReaderBuilder::new();
        builder.delimiter(delimiter).has_headers(false).flexible(true);
        let whole = head.len() < SAMPLE_BYTES as usize - 3;
        let mut sample = Vec::new();
        for record in builder.from_reader(head.as_slice()).byte_records().take(SAMPLE_ROWS) {
            let record = record.map_err(|e| refuse(e.to_string()))?;
            let cells: Vec<String> = record.iter().map(|cell| String::from_utf8_lossy(cell).into_owned()).collect();
            sample.push(cells);
        }
        if !whole && sample.len() < SAMPLE_ROWS && sample.len() > 1 {
            // The last row of the sample is cut off.
            sample.pop();
        }
        let form = form::detect(&sample, None, path, options, covariates).map_err(refuse)?;
        let mut reader = builder.from_reader(Cursor::new(head).chain(file));
        let mut record = ByteRecord::new();
        if form.header {
            reader.read_byte_record(&mut record).map_err(|e| refuse(e.to_string()))?;
        }
        Ok(CsvRows {
            path: path.to_owned(),
            form,
            reader,
            record,
            line: 0,
            clock: LocalClock::new(zone),
            names: SeriesNames::default(),
            row: None,
            reached: None,
            ended: false,
        })
    }

    pub const fn form(&self) -> &Form {
        &self.form
    }

    pub fn bytes_read(&self) -> u64 {
        self.reader.position().byte()
    }

    fn bad(&self, column: usize, reason: String) -> FileError {
        let column = match self.form.names.get(column) {
            Some(name) if self.form.header && !name.is_empty() => format!("`{name}`"),
            _ => (column + 1).to_string(),
        };
        FileError::Row { path: self.path.clone(), place: "line", number: self.line, column, reason }
    }

    fn cell(&self, column: usize) -> Result<&str, FileError> {
        let Some(bytes) = self.record.get(column) else {
            return Err(self.bad(column, format!("the row has only {} columns", self.record.len())));
        };
        std::str::from_utf8(bytes).map_err(|_| self.bad(column, "the text is not UTF-8".into()))
    }

    /// Reads the next row that is not empty; false at the end.
    fn advance(&mut self) -> Result<bool, FileError> {
        loop {
            match self.reader.read_byte_record(&mut self.record) {
                Ok(false) => return Ok(false),
                Ok(true) => {}
                Err(e) => {
                    self.ended = true;
                    let source = std::io::Error::other(e);
                    return Err(FileError::Io { path: self.path.clone(), source });
                }
            }
            self.line = self.record.position().map_or(self.line + 1, csv::Position::line);
            if !(self.record.len() <= 1 && self.record.get(0).is_none_or(|cell| cell.trim_ascii().is_empty())) {
                return Ok(true);
            }
        }
    }

    fn stamp(&self) -> Result<Stamp, FileError> {
        let text = self.cell(self.form.stamp)?;
        Stamp::parse(text).ok_or_else(|| {
            self.bad(self.form.stamp, format!("`{text}` is no time stamp; write it like 2024-01-31 00:15:00"))
        })
    }

    fn number(&self, column: usize) -> Result<Option<f64>, FileError> {
        form::value_of(self.cell(column)?).map_err(|reason| self.bad(column, reason))
    }

    fn covariates(&self) -> Result<Box<[f32]>, FileError> {
        let cell = |column: &Option<usize>| match *column {
            Some(column) => covariates::parse(self.cell(column)?).map_err(|reason| self.bad(column, reason)),
            None => Ok(f32::NAN),
        };
        self.form.covariates.columns.iter().map(cell).collect()
    }

    fn next_wide(&mut self) -> Result<Option<FileReading>, FileError> {
        loop {
            let Some((at, read)) = self.row else {
                if !self.advance()? {
                    return Ok(None);
                }
                let at = self.clock.instant(self.stamp()?, self.reached);
                self.reached = Some(at);
                self.row = Some((at, 0));
                continue;
            };
            let Shape::Wide { columns } = &self.form.shape else { return Ok(None) };
            let Some(column) = columns.get(read) else {
                self.row = None;
                continue;
            };
            self.row = Some((at, read + 1));
            if let Some(value) = self.number(column.index)? {
                return Ok(Some(FileReading {
                    series: Arc::clone(&column.series),
                    at,
                    value,
                    unit: column.unit.as_ref().or(self.form.unit.as_ref()).cloned(),
                    quality: Quality::Measured,
                    label: self.form.label,
                    covariates: Box::default(),
                }));
            }
        }
    }

    fn next_long(
        &mut self,
        series: usize,
        value: usize,
        unit: Option<usize>,
        quality: Option<usize>,
    ) -> Result<Option<FileReading>, FileError> {
        loop {
            if !self.advance()? {
                return Ok(None);
            }
            let stamp = self.stamp()?;
            let (value, covariates) = (self.number(value)?, self.covariates()?);
            if value.is_none() && covariates.iter().all(|covariate| covariate.is_nan()) {
                continue;
            }
            let value = value.unwrap_or(f64::NAN);
            let unit = match unit.map(|column| self.cell(column)).transpose()?.filter(|text| !is_missing(text)) {
                Some(text) => text.trim().parse::<Unit>().ok(),
                None => self.form.unit.clone(),
            };
            let quality = match quality {
                None => Quality::Measured,
                Some(column) => match self.cell(column)?.trim() {
                    "" => Quality::Measured,
                    text => text.parse().map_err(|reason| self.bad(column, reason))?,
                },
            };
            if self.cell(series)?.trim().is_empty() {
                return Err(self.bad(series, "the series has no name".into()));
            }
            // Checked above; read again so that only the record is borrowed.
            let name = self.record.get(series).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or_default();
            let (shared, reached) = self.names.entry(name.trim());
            let at = self.clock.instant(stamp, *reached);
            *reached = Some(at);
            let series = Arc::clone(shared);
            return Ok(Some(FileReading { series, at, value, unit, quality, label: self.form.label, covariates }));
        }
    }
}

impl Iterator for CsvRows {
    type Item = Result<FileReading, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.form.shape {
            Shape::Wide { .. } => self.next_wide(),
            Shape::Long { series, value, unit, quality } => self.next_long(series, value, unit, quality),
        }
        .transpose()
    }
}

/// The delimiter that is most often found outside quotes in the first lines; `;` and tab win over `,`, which is a
/// decimal mark beside them.
fn delimiter(head: &[u8]) -> u8 {
    let mut counts = [0_usize; 3];
    let (mut quoted, mut lines) = (false, 0);
    for &b in head {
        match b {
            b'"' => quoted = !quoted,
            b'\n' if !quoted => lines += 1,
            b';' if !quoted => counts[0] += 1,
            b'\t' if !quoted => counts[1] += 1,
            b',' if !quoted => counts[2] += 1,
            _ => {}
        }
        if lines == 10 {
            break;
        }
    }
    let rows = lines.max(1);
    match counts {
        [semicolons, _, _] if semicolons >= rows => b';',
        [_, tabs, _] if tabs >= rows => b'\t',
        _ => b',',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delimiter_is_told_from_decimal_commas() {
        for (text, expected) in [
            ("\"\";\"a\"\n\"2011\";1,5\n", b';'),
            ("a,b\n1.5,2\n", b','),
            ("a\tb\n1,5\t2,5\n", b'\t'),
            ("a,b\n\"x;y;z\",2\n", b','),
        ] {
            assert_eq!(delimiter(text.as_bytes()), expected, "{text}");
        }
    }
}
