//! Readings to long files, in the forms that [`open`](super::open) reads.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Builder, RecordBatch, StringBuilder, StringDictionaryBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::Int32Type;
use meterline_schemas::Micros;
use meterline_schemas::reading::Quality;
use meterline_schemas::time::format_micros;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::FileError;

const BATCH_ROWS: usize = 65_536;

/// Writes `series_id,timestamp,value,unit,quality` to a file that it creates or replaces: Parquet (zstd) when its name
/// ends in `.parquet`, else CSV.
pub struct LongWriter {
    path: PathBuf,
    form: Form,
}

enum Form {
    Csv { out: BufWriter<File>, line: Vec<u8> },
    Parquet { out: Box<ArrowWriter<File>>, rows: Box<Rows> },
}

#[derive(Default)]
struct Rows {
    n: usize,
    series: StringDictionaryBuilder<Int32Type>,
    stamps: TimestampMicrosecondBuilder,
    values: Float64Builder,
    units: StringDictionaryBuilder<Int32Type>,
    qualities: StringBuilder,
}

impl LongWriter {
    /// Creates the file.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn create(path: &Path) -> Result<LongWriter, FileError> {
        let io = |source| FileError::Write { path: path.to_owned(), reason: source };
        let file = File::create(path).map_err(|e| io(e.to_string()))?;
        let form = if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("parquet")) {
            let level = ZstdLevel::try_new(3).map_err(|e| io(e.to_string()))?;
            let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
            let mut rows = Box::<Rows>::default();
            let schema = rows.batch().map_err(io)?.schema();
            let out = ArrowWriter::try_new(file, schema, Some(properties)).map_err(|e| io(e.to_string()))?;
            Form::Parquet { out: Box::new(out), rows }
        } else {
            let mut out = BufWriter::with_capacity(1 << 20, file);
            out.write_all(b"series_id,timestamp,value,unit,quality\n").map_err(|e| io(e.to_string()))?;
            Form::Csv { out, line: Vec::new() }
        };
        Ok(LongWriter { path: path.to_owned(), form })
    }

    /// Appends one reading.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(
        &mut self,
        series: &str,
        at: Micros,
        value: f64,
        unit: &str,
        quality: Quality,
    ) -> Result<(), FileError> {
        let written = match &mut self.form {
            Form::Csv { out, line } => {
                line.clear();
                for text in [series, &format_micros(at)] {
                    cell(line, text);
                    line.push(b',');
                }
                writeln!(line, "{value},{unit},{quality}").and_then(|()| out.write_all(line)).map_err(|e| e.to_string())
            }
            Form::Parquet { out, rows } => {
                rows.n += 1;
                rows.stamps.append_value(at);
                rows.values.append_value(value);
                rows.qualities.append_value(quality.as_str());
                let names = rows.series.append(series).and_then(|_| rows.units.append(unit));
                names.map(|_| ()).map_err(|e| e.to_string()).and_then(|()| match rows.n {
                    BATCH_ROWS => rows.batch().and_then(|batch| out.write(&batch).map_err(|e| e.to_string())),
                    _ => Ok(()),
                })
            }
        };
        written.map_err(|reason| FileError::Write { path: self.path.clone(), reason })
    }

    /// Writes what is left, and waits until it is on the disk.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(self) -> Result<(), FileError> {
        let closed = match self.form {
            Form::Csv { mut out, .. } => out.flush().and_then(|()| out.get_ref().sync_all()).map_err(|e| e.to_string()),
            Form::Parquet { mut out, mut rows } => rows
                .batch()
                .and_then(|batch| out.write(&batch).map_err(|e| e.to_string()))
                .and_then(|()| out.into_inner().map_err(|e| e.to_string()))
                .and_then(|file| file.sync_all().map_err(|e| e.to_string())),
        };
        closed.map_err(|reason| FileError::Write { path: self.path, reason })
    }
}

impl Rows {
    fn batch(&mut self) -> Result<RecordBatch, String> {
        self.n = 0;
        let columns: [(&str, ArrayRef); 5] = [
            ("series_id", Arc::new(self.series.finish())),
            ("timestamp", Arc::new(self.stamps.finish().with_timezone("UTC"))),
            ("value", Arc::new(self.values.finish())),
            ("unit", Arc::new(self.units.finish())),
            ("quality", Arc::new(self.qualities.finish())),
        ];
        RecordBatch::try_from_iter(columns).map_err(|e| e.to_string())
    }
}

fn cell(line: &mut Vec<u8>, text: &str) {
    if text.contains([',', '"', '\n', '\r']) {
        line.push(b'"');
        line.extend_from_slice(text.replace('"', "\"\"").as_bytes());
        line.push(b'"');
    } else {
        line.extend_from_slice(text.as_bytes());
    }
}
