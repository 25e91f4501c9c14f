//! A file that lies series after series, in the order of its stamps: sorted runs, in memory while they fit, else in
//! temporary files that nobody else sees.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use meterline_schemas::Micros;
use meterline_schemas::reading::Quality;
use meterline_schemas::unit::Unit;

use super::form::Form;
use super::{FileError, FileReading};

/// Rows of one run: about 130 MB.
pub const RUN_ROWS: usize = 4_000_000;

pub struct Sorted {
    path: PathBuf,
    form: Form,
    series: Vec<Arc<str>>,
    units: Vec<Option<Unit>>,
    runs: Vec<Run>,
    /// First row of each run, by stamp; of equal stamps the earlier run, so that the file's order is kept.
    next: Vec<Option<Row>>,
    order: BinaryHeap<Reverse<(Micros, usize)>>,
    rows: u64,
    given: u64,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    at: Micros,
    value: f64,
    series: u32,
    unit: u32,
    quality: Quality,
}

enum Run {
    Memory(std::vec::IntoIter<Row>),
    Spilled { rows: BufReader<File>, left: u64 },
}

impl Sorted {
    /// Reads and sorts everything but covariates.
    ///
    /// # Errors
    /// A reading's error, or the temporary files cannot be written.
    pub fn new(
        path: &Path,
        form: Form,
        readings: impl Iterator<Item = Result<FileReading, FileError>>,
        run_rows: usize,
    ) -> Result<Sorted, FileError> {
        let mut sorted = Sorted {
            path: path.to_owned(),
            form,
            series: Vec::new(),
            units: Vec::new(),
            runs: Vec::new(),
            next: Vec::new(),
            order: BinaryHeap::new(),
            rows: 0,
            given: 0,
        };
        let mut names: HashMap<Arc<str>, u32> = HashMap::new();
        let mut rows = Vec::new();
        for reading in readings {
            let reading = reading?;
            let series = *names.entry(Arc::clone(&reading.series)).or_insert_with(|| {
                sorted.series.push(reading.series);
                (sorted.series.len() - 1) as u32
            });
            let unit = sorted.units.iter().position(|unit| *unit == reading.unit).unwrap_or_else(|| {
                sorted.units.push(reading.unit);
                sorted.units.len() - 1
            }) as u32;
            rows.push(Row { at: reading.at, value: reading.value, series, unit, quality: reading.quality });
            sorted.rows += 1;
            if rows.len() == run_rows {
                rows.sort_by_key(|row| row.at);
                let run = Run::spill(&rows).map_err(|source| sorted.failed(source))?;
                sorted.runs.push(run);
                rows.clear();
            }
        }
        rows.sort_by_key(|row| row.at);
        sorted.runs.push(Run::Memory(rows.into_iter()));
        for run in 0..sorted.runs.len() {
            sorted.next.push(None);
            sorted.pull(run)?;
        }
        Ok(sorted)
    }

    fn failed(&self, source: std::io::Error) -> FileError {
        let reason = format!("its rows cannot be sorted in {}: {source}", std::env::temp_dir().display());
        FileError::Form { path: self.path.clone(), reason }
    }

    pub const fn form(&self) -> &Form {
        &self.form
    }

    pub fn progress(&self) -> f64 {
        self.given as f64 / self.rows.max(1) as f64
    }

    fn pull(&mut self, run: usize) -> Result<(), FileError> {
        let row = self.runs[run].next().map_err(|source| self.failed(source))?;
        if let Some(row) = row {
            self.order.push(Reverse((row.at, run)));
        }
        self.next[run] = row;
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<FileReading>, FileError> {
        let Some(Reverse((_, run))) = self.order.pop() else { return Ok(None) };
        let Some(row) = self.next[run].take() else { return Ok(None) };
        self.pull(run)?;
        self.given += 1;
        Ok(Some(FileReading {
            series: Arc::clone(&self.series[row.series as usize]),
            at: row.at,
            value: row.value,
            unit: self.units[row.unit as usize].clone(),
            quality: row.quality,
            label: self.form.label,
            covariates: Box::default(),
        }))
    }
}

impl Iterator for Sorted {
    type Item = Result<FileReading, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

const QUALITIES: [Quality; 3] = [Quality::Measured, Quality::Estimated, Quality::Substituted];
const ROW_BYTES: usize = 25;

impl Run {
    fn spill(rows: &[Row]) -> std::io::Result<Run> {
        let mut out = BufWriter::with_capacity(1 << 20, tempfile::tempfile()?);
        for row in rows {
            out.write_all(&row.at.to_le_bytes())?;
            out.write_all(&row.value.to_le_bytes())?;
            out.write_all(&row.series.to_le_bytes())?;
            out.write_all(&row.unit.to_le_bytes())?;
            out.write_all(&[row.quality as u8])?;
        }
        let mut file = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(Run::Spilled { rows: BufReader::with_capacity(1 << 20, file), left: rows.len() as u64 })
    }

    fn next(&mut self) -> std::io::Result<Option<Row>> {
        let (rows, left) = match self {
            Run::Memory(rows) => return Ok(rows.next()),
            Run::Spilled { left: 0, .. } => return Ok(None),
            Run::Spilled { rows, left } => (rows, left),
        };
        *left -= 1;
        let mut bytes = [0; ROW_BYTES];
        rows.read_exact(&mut bytes)?;
        let (eights, rest) = bytes.as_chunks::<8>();
        let fours = |chunk: [u8; 8]| {
            let [a, b, c, d, e, f, g, h] = chunk;
            (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
        };
        let (series, unit) = fours(eights[2]);
        Ok(Some(Row {
            at: i64::from_le_bytes(eights[0]),
            value: f64::from_le_bytes(eights[1]),
            series,
            unit,
            quality: QUALITIES.get(usize::from(rest[0])).copied().unwrap_or_default(),
        }))
    }
}
