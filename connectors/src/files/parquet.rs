//! Rows of a Parquet file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use jiff::tz::TimeZone;
use meterline_schemas::Micros;
use meterline_schemas::reading::Quality;
use meterline_schemas::unit::Unit;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::cells::{Cell, Cells};
use super::clock::LocalClock;
use super::covariates;
use super::form::{self, Form, Shape};
use super::{FileError, FileOptions, FileReading, SeriesNames};
use crate::stamp::{Stamp, from_integer};

const BATCH_ROWS: usize = 8_192;
const SAMPLE_ROWS: usize = 50;

pub struct ParquetRows {
    path: PathBuf,
    form: Form,
    reader: ParquetRecordBatchReader,
    rows_total: u64,
    /// Rows before the batch.
    rows_before: u64,
    batch: Batch,
    row: usize,
    column: usize,
    clock: LocalClock,
    names: SeriesNames,
    reached: Option<Micros>,
    at: Option<Micros>,
    ended: bool,
}

/// One batch in the types that are read.
#[derive(Default)]
struct Batch {
    rows: usize,
    stamps: Vec<Option<Stamp>>,
    /// Long: one; wide: one a column.
    values: Vec<Cells>,
    series: Option<StringArray>,
    units: Option<StringArray>,
    qualities: Option<StringArray>,
    covariates: Vec<Option<Cells>>,
}

impl ParquetRows {
    pub fn open(
        path: &Path,
        file: File,
        options: &FileOptions,
        covariates: &[String],
        zone: TimeZone,
    ) -> Result<ParquetRows, FileError> {
        let damaged = |reason: String| FileError::Parquet { path: path.to_owned(), reason };
        let again = file.try_clone().map_err(|source| FileError::Io { path: path.to_owned(), source })?;
        let sampler = ParquetRecordBatchReaderBuilder::try_new(again).map_err(|e| damaged(e.to_string()))?;
        let schema = Arc::clone(sampler.schema());
        let mut sampler = sampler.with_batch_size(SAMPLE_ROWS).build().map_err(|e| damaged(e.to_string()))?;
        let first = sampler.next().transpose().map_err(|e| damaged(e.to_string()))?;
        let sample = sample(&schema, first.as_ref()).map_err(damaged)?;
        let mut form = form::detect(&sample, Some(true), path, options, covariates)
            .map_err(|reason| FileError::Form { path: path.to_owned(), reason })?;

        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| damaged(e.to_string()))?;
        let rows_total = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        let used = used_columns(&form);
        let mask = ProjectionMask::roots(builder.parquet_schema(), used.iter().copied());
        let reader = builder.with_batch_size(BATCH_ROWS).with_projection(mask).build();
        let reader = reader.map_err(|e| damaged(e.to_string()))?;
        project(&mut form, &used);
        Ok(ParquetRows {
            path: path.to_owned(),
            form,
            reader,
            rows_total,
            rows_before: 0,
            batch: Batch::default(),
            row: 0,
            column: 0,
            clock: LocalClock::new(zone),
            names: SeriesNames::default(),
            reached: None,
            at: None,
            ended: false,
        })
    }

    pub const fn form(&self) -> &Form {
        &self.form
    }

    pub fn progress(&self) -> f64 {
        (self.rows_before + self.row as u64) as f64 / self.rows_total.max(1) as f64
    }

    fn bad(&self, column: usize, reason: &str) -> FileError {
        FileError::Row {
            path: self.path.clone(),
            place: "row",
            number: self.rows_before + self.row as u64 + 1,
            column: format!("`{}`", self.form.names[column]),
            reason: reason.to_owned(),
        }
    }

    fn next_batch(&mut self) -> Result<bool, FileError> {
        self.rows_before += self.batch.rows as u64;
        (self.row, self.column, self.at) = (0, 0, None);
        self.batch.rows = 0;
        let read = match self.reader.next() {
            None => Ok(None),
            Some(batch) => batch.map_err(|e| e.to_string()).and_then(|b| Batch::new(&b, &self.form).map(Some)),
        };
        match read {
            Ok(None) => Ok(false),
            Ok(Some(batch)) => {
                self.batch = batch;
                Ok(true)
            }
            Err(reason) => {
                self.ended = true;
                Err(FileError::Parquet { path: self.path.clone(), reason })
            }
        }
    }

    fn next_row(&mut self) {
        self.row += 1;
        (self.column, self.at) = (0, None);
    }

    fn advance(&mut self) -> Result<Option<FileReading>, FileError> {
        loop {
            if self.row == self.batch.rows {
                if !self.next_batch()? {
                    return Ok(None);
                }
                continue;
            }
            let Some(stamp) = self.batch.stamps[self.row] else {
                let error = self.bad(self.form.stamp, "there is no time stamp");
                self.next_row();
                return Err(error);
            };
            let found = match self.form.shape {
                Shape::Wide { .. } => self.wide_cell(stamp),
                Shape::Long { series, value, quality, .. } => self.long_row(stamp, series, value, quality),
            };
            if let Some(found) = found.transpose() {
                return found.map(Some);
            }
        }
    }

    fn wide_cell(&mut self, stamp: Stamp) -> Result<Option<FileReading>, FileError> {
        let at = match self.at {
            Some(at) => at,
            None => self.clock.instant(stamp, self.reached),
        };
        (self.at, self.reached) = (Some(at), Some(at));
        let Shape::Wide { columns } = &self.form.shape else { return Ok(None) };
        let Some(column) = columns.get(self.column) else {
            self.next_row();
            return Ok(None);
        };
        let value = value_of(self.batch.values[self.column].at(self.row));
        self.column += 1;
        let Some(value) = value.map_err(|reason| self.bad(column.index, &reason))? else { return Ok(None) };
        Ok(Some(FileReading {
            series: Arc::clone(&column.series),
            at,
            value,
            unit: column.unit.as_ref().or(self.form.unit.as_ref()).cloned(),
            quality: Quality::Measured,
            label: self.form.label,
            covariates: Box::default(),
        }))
    }

    fn long_row(
        &mut self,
        stamp: Stamp,
        series: usize,
        value: usize,
        quality: Option<usize>,
    ) -> Result<Option<FileReading>, FileError> {
        let row = self.row;
        let text = |column: &Option<StringArray>| {
            column.as_ref().filter(|c| c.is_valid(row)).map(|c| c.value(row).to_owned()).filter(|t| !t.is_empty())
        };
        let name = text(&self.batch.series);
        let unit = text(&self.batch.units);
        let grade = text(&self.batch.qualities).map(|t| t.parse::<Quality>());
        let found = value_of(self.batch.values[0].at(row));
        let covariates = self.batch.covariates(row, &self.form);
        let problem = match (&name, &found, &grade, &covariates) {
            (None, ..) => Some((series, "the series has no name".to_owned())),
            (_, Err(reason), ..) => Some((value, reason.clone())),
            (_, _, Some(Err(reason)), _) => Some((quality.unwrap_or(series), reason.clone())),
            (.., Err((column, reason))) => Some((*column, reason.clone())),
            _ => None,
        };
        if let Some((column, reason)) = problem {
            let error = self.bad(column, &reason);
            self.next_row();
            return Err(error);
        }
        self.next_row();
        let (Some(name), Ok(value), Ok(covariates)) = (name, found, covariates) else { return Ok(None) };
        if value.is_none() && covariates.iter().all(|covariate| covariate.is_nan()) {
            return Ok(None);
        }
        let (shared, reached) = self.names.entry(&name);
        let at = self.clock.instant(stamp, *reached);
        *reached = Some(at);
        Ok(Some(FileReading {
            series: Arc::clone(shared),
            at,
            value: value.unwrap_or(f64::NAN),
            unit: unit.and_then(|u| u.parse::<Unit>().ok()).or_else(|| self.form.unit.clone()),
            quality: grade.and_then(Result::ok).unwrap_or_default(),
            label: self.form.label,
            covariates,
        }))
    }
}

impl Iterator for ParquetRows {
    type Item = Result<FileReading, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended { None } else { self.advance().transpose() }
    }
}

impl Batch {
    fn new(batch: &RecordBatch, form: &Form) -> Result<Batch, String> {
        let named = |column: usize, reason: String| format!("column `{}`: {reason}", form.names[column]);
        let cells = |column: usize| Cells::new(batch.column(column)).map_err(|reason| named(column, reason));
        let text = |column: usize| -> Result<StringArray, String> {
            let texts = cast(batch.column(column), &DataType::Utf8).map_err(|e| named(column, e.to_string()))?;
            Ok(texts.as_string().clone())
        };
        let mut read = Batch { rows: batch.num_rows(), stamps: stamps(batch.column(form.stamp))?, ..Batch::default() };
        match &form.shape {
            Shape::Wide { columns } => {
                read.values = columns.iter().map(|c| cells(c.index)).collect::<Result<_, _>>()?;
            }
            Shape::Long { series, value, unit, quality } => {
                read.values = vec![cells(*value)?];
                read.series = Some(text(*series)?);
                read.units = unit.map(text).transpose()?;
                read.qualities = quality.map(text).transpose()?;
            }
        }
        let covariate = |column: usize| covariates::cells(batch.column(column)).map_err(|reason| named(column, reason));
        let columns = form.covariates.columns.iter();
        read.covariates = columns.map(|column| column.map(covariate).transpose()).collect::<Result<_, _>>()?;
        Ok(read)
    }

    /// What a row has of the covariates; or the column of a cell that cannot be read, and why.
    fn covariates(&self, row: usize, form: &Form) -> Result<Box<[f32]>, (usize, String)> {
        let cell = |(cells, column): (&Option<Cells>, &Option<usize>)| match (cells, column) {
            (Some(cells), Some(column)) => covariates::of(cells.at(row)).map_err(|reason| (*column, reason)),
            _ => Ok(f32::NAN),
        };
        self.covariates.iter().zip(&form.covariates.columns).map(cell).collect()
    }
}

/// The value in a cell, if there is one; or why it cannot be read.
fn value_of(cell: Cell<'_>) -> Result<Option<f64>, String> {
    match cell {
        Cell::Nothing => Ok(None),
        Cell::Number(value) => Ok((!value.is_nan()).then_some(value)),
        Cell::Text(text) => form::value_of(text),
    }
}

fn stamps(column: &ArrayRef) -> Result<Vec<Option<Stamp>>, String> {
    let to_micros = |zone: Option<Arc<str>>| -> Result<PrimitiveArray<TimestampMicrosecondType>, String> {
        let micros = cast(column, &DataType::Timestamp(TimeUnit::Microsecond, zone)).map_err(|e| e.to_string())?;
        Ok(micros.as_primitive::<TimestampMicrosecondType>().clone())
    };
    match column.data_type() {
        DataType::Timestamp(_, Some(zone)) => {
            Ok(to_micros(Some(Arc::clone(zone)))?.iter().map(|at| at.map(Stamp::Instant)).collect())
        }
        DataType::Timestamp(_, None) | DataType::Date32 | DataType::Date64 => {
            Ok(to_micros(None)?.iter().map(|at| at.map(Stamp::Local)).collect())
        }
        DataType::Int64 | DataType::Int32 | DataType::UInt64 | DataType::UInt32 => {
            let numbers = cast(column, &DataType::Int64).map_err(|e| e.to_string())?;
            let numbers = numbers.as_primitive::<arrow::datatypes::Int64Type>();
            Ok(numbers.iter().map(|n| n.and_then(from_integer).map(Stamp::Instant)).collect())
        }
        _ => {
            let text = cast(column, &DataType::Utf8).map_err(|e| e.to_string())?;
            Ok(text.as_string::<i32>().iter().map(|t| t.and_then(Stamp::parse)).collect())
        }
    }
}

/// Header and first rows as text, which is what forms are detected from.
fn sample(schema: &SchemaRef, batch: Option<&RecordBatch>) -> Result<Vec<Vec<String>>, String> {
    let mut rows = vec![schema.fields().iter().map(|f| f.name().clone()).collect()];
    let Some(batch) = batch else { return Ok(rows) };
    let options = FormatOptions::default();
    let cells: Vec<ArrayFormatter<'_>> = batch
        .columns()
        .iter()
        .map(|c| ArrayFormatter::try_new(c.as_ref(), &options).map_err(|e| e.to_string()))
        .collect::<Result<_, _>>()?;
    for row in 0..batch.num_rows() {
        rows.push(cells.iter().map(|c| c.value(row).to_string()).collect());
    }
    Ok(rows)
}

fn used_columns(form: &Form) -> Vec<usize> {
    let mut used = vec![form.stamp];
    match &form.shape {
        Shape::Wide { columns } => used.extend(columns.iter().map(|c| c.index)),
        Shape::Long { series, value, unit, quality } => {
            used.extend([*series, *value]);
            used.extend(unit.iter().chain(quality));
        }
    }
    used.extend(form.covariates.columns.iter().flatten());
    used.sort_unstable();
    used.dedup();
    used
}

/// Column numbers among the columns that are read.
fn project(form: &mut Form, used: &[usize]) {
    let place = |column: &mut usize| *column = used.partition_point(|c| c < column);
    place(&mut form.stamp);
    match &mut form.shape {
        Shape::Wide { columns } => columns.iter_mut().for_each(|c| place(&mut c.index)),
        Shape::Long { series, value, unit, quality } => {
            [series, value].into_iter().chain(unit.as_mut()).chain(quality.as_mut()).for_each(place);
        }
    }
    form.covariates.columns.iter_mut().flatten().for_each(place);
    form.names = used.iter().map(|&c| form.names[c].clone()).collect();
}
