//! Looking up in the lake what a series no longer remembers.
//!
//! At the end of an epoch each shard says which intervals it [`Wanted`]; everything written before that epoch is committed by
//! then, so the files of the table have the answer. They are sorted by series, and their statistics say which of them
//! matter.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use compact_str::CompactString;
use futures::{StreamExt, TryStreamExt};
use meterline_connectors::lake::{Bound, DataFile, FileReader, Lake, LakeError, TableOwner};
use meterline_schemas::Micros;
use meterline_schemas::reading::{Position, Quality};
use meterline_schemas::unit::Unit;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowPredicateFn, RowFilter};
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use serde::{Deserialize, Serialize};

use super::rows::Content;
use super::series::PendingReading;

/// Rows of the files to be read above which intervals are not looked up: all that is lost then is whether a reading repeats an
/// interval or corrects it. Samples and registers are looked up whatever it takes.
const ROWS_MAX: u64 = 100_000_000;
/// Files that are read at a time.
const FILES_AT_A_TIME: usize = 2;

/// A part of a series that is to be looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Number of the series in its shard.
    pub series: u32,
    /// Its identifier.
    pub id: CompactString,
    /// Intervals that start from here on …
    pub from: Micros,
    /// … and before this. Samples and registers up to it.
    pub to: Micros,
}

/// What one shard has to know before its epoch can end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Intervals.
    pub intervals: Vec<Want>,
    /// Intervals with the samples or registers that they are made of.
    pub samples: Vec<Want>,
}

impl Wanted {
    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty() && self.samples.is_empty()
    }

    /// Brings it into order, each part once.
    pub fn tidy(&mut self) {
        tidy(&mut self.intervals);
        tidy(&mut self.samples);
    }
}

/// Brings parts of series into order, each once.
pub(super) fn tidy(wants: &mut Vec<Want>) {
    wants.sort_unstable_by(|a, b| (&a.id, a.from).cmp(&(&b.id, b.from)));
    wants.dedup_by(|next, known| {
        let together = next.series == known.series && next.from <= known.to;
        if together {
            known.to = known.to.max(next.to);
        }
        together
    });
}

/// What was found, by the number of the series.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Recalled {
    /// Intervals by start and end, as they were written last.
    pub intervals: Vec<(u32, (Micros, Micros), Content)>,
    /// Samples and registers.
    pub samples: Vec<(u32, PendingReading)>,
    /// [`Wanted::intervals`] were not looked up: it would have taken too long.
    pub declined: bool,
}

/// Looks up what is wanted in the newest versions of the tables; intervals only where that does not take too long, if it
/// `may_decline`.
///
/// # Errors
/// A table or a file cannot be read.
pub async fn look_up(
    lake: &Lake,
    intervals: &TableOwner,
    samples: &TableOwner,
    wanted: &Wanted,
    may_decline: bool,
) -> Result<Recalled, LakeError> {
    let mut found = Recalled::default();
    let mut newest: HashMap<(u32, (Micros, Micros)), Content> = HashMap::new();
    let all = intervals.files()?;
    for (wants, may_decline) in [(&wanted.intervals, may_decline), (&wanted.samples, false)] {
        let files = concerned(&all, wants, "start");
        if may_decline && files.iter().map(|file| file.rows).sum::<u64>() > ROWS_MAX {
            found.declined = true;
            continue;
        }
        let table = Table { lake, name: intervals.name(), columns: &INTERVAL_COLUMNS };
        table
            .read(files, wants, |number, rows, row| {
                let content = content(rows, row)?;
                let interval = (instant(rows.column(1), row), instant(rows.column(8), row));
                match newest.entry((number, interval)) {
                    Entry::Occupied(mut known) if known.get().position < content.position => {
                        known.insert(content);
                    }
                    Entry::Occupied(_) => {}
                    Entry::Vacant(place) => {
                        place.insert(content);
                    }
                }
                Some(())
            })
            .await?;
    }
    found.intervals = newest.into_iter().map(|((number, interval), content)| (number, interval, content)).collect();
    if !wanted.samples.is_empty() {
        // The register at the end of the last interval belongs to it.
        let wants: Vec<Want> = wanted.samples.iter().map(|want| Want { to: want.to + 1, ..want.clone() }).collect();
        let files = concerned(&samples.files()?, &wants, "at");
        let table = Table { lake, name: samples.name(), columns: &SAMPLE_COLUMNS };
        table
            .read(files, &wants, |number, rows, row| {
                found.samples.push((number, sample(rows, row)?));
                Some(())
            })
            .await?;
    }
    Ok(found)
}

/// The key first; the order is that of [`content`].
pub(super) const INTERVAL_COLUMNS: [&str; 9] =
    ["series_id", "start", "value", "count", "quality", "position_timestamp", "partition", "offset", "end"];
/// The key first; the order is that of [`sample`].
const SAMPLE_COLUMNS: [&str; 8] =
    ["series_id", "at", "value", "unit", "quality", "position_timestamp", "partition", "offset"];

pub(super) fn instant(column: &ArrayRef, row: usize) -> Micros {
    column.as_primitive::<TimestampMicrosecondType>().value(row)
}

fn quality_and_position(rows: &RecordBatch, row: usize) -> Option<(Quality, Position)> {
    let quality = rows.column(4).as_string_opt::<i32>()?.value(row).parse().ok()?;
    let position = Position {
        timestamp_ms: rows.column(5).as_primitive_opt::<Int64Type>()?.value(row),
        partition: rows.column(6).as_primitive_opt::<Int32Type>()?.value(row),
        offset: rows.column(7).as_primitive_opt::<Int64Type>()?.value(row),
    };
    Some((quality, position))
}

pub(super) fn content(rows: &RecordBatch, row: usize) -> Option<Content> {
    let value = rows.column(2).as_primitive_opt::<Float64Type>()?.value(row);
    let count = rows.column(3).as_primitive_opt::<Int32Type>()?.value(row);
    let (quality, position) = quality_and_position(rows, row)?;
    Some(Content { value, count, quality, position })
}

fn sample(rows: &RecordBatch, row: usize) -> Option<PendingReading> {
    let value = rows.column(2).as_primitive_opt::<Float64Type>()?.value(row);
    let Ok(unit) = rows.column(3).as_string_opt::<i32>()?.value(row).parse::<Unit>();
    let (quality, position) = quality_and_position(rows, row)?;
    Some(PendingReading { at: instant(rows.column(1), row), value, scale: unit.scale(), quality, position })
}

/// The parts of one series among wants that are in order.
fn of_series<'a>(wants: &'a [Want], id: &str) -> &'a [Want] {
    let first = wants.partition_point(|want| *want.id < *id);
    let count = wants[first..].partition_point(|want| *want.id == *id);
    &wants[first..first + count]
}

/// Of some files those that may have what is wanted.
pub(super) fn concerned(files: &[DataFile], wants: &[Want], time: &str) -> Vec<DataFile> {
    if wants.is_empty() {
        return Vec::new();
    }
    let may_have = |file: &&DataFile| {
        let ranges = file.ranges();
        let wants = match ranges.get("series_id") {
            Some((Bound::Text(low), Bound::Text(high))) => {
                let first = wants.partition_point(|want| *want.id < **low);
                let end = wants.partition_point(|want| *want.id <= **high);
                &wants[first..end.max(first)]
            }
            _ => wants,
        };
        match ranges.get(time) {
            Some((Bound::Integer(low), Bound::Integer(high))) => {
                wants.iter().any(|want| want.from <= *high && want.to > *low)
            }
            _ => !wants.is_empty(),
        }
    };
    files.iter().filter(may_have).cloned().collect()
}

/// One table to be read.
pub(super) struct Table<'a> {
    pub(super) lake: &'a Lake,
    pub(super) name: &'static str,
    pub(super) columns: &'static [&'static str],
}

impl Table<'_> {
    /// Hands every wanted row to `take`, with the number of its series; `None` from there means that the row is not what it
    /// should be.
    pub(super) async fn read(
        &self,
        files: Vec<DataFile>,
        wants: &[Want],
        mut take: impl FnMut(u32, &RecordBatch, usize) -> Option<()>,
    ) -> Result<(), LakeError> {
        let wants: Arc<[Want]> = wants.into();
        let reads = files.into_iter().map(|file| {
            let (reader, columns, wants) = (self.lake.data_file(self.name, &file), self.columns, Arc::clone(&wants));
            async move {
                let shown = reader.path().to_string();
                let failed = |reason: String| LakeError::Decode { path: shown.clone(), reason };
                // Decoding is work: other files are read meanwhile.
                let read = tokio::spawn(wanted_rows(reader, columns, wants));
                read.await.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
            }
        });
        let mut reads = futures::stream::iter(reads).buffered(FILES_AT_A_TIME);
        while let Some(batches) = reads.try_next().await? {
            for rows in batches {
                let ids = rows.column(0).as_string::<i32>();
                for row in 0..rows.num_rows() {
                    let number = of_series(&wants, ids.value(row)).first().map(|want| want.series);
                    if number.and_then(|number| take(number, &rows, row)).is_none() {
                        let reason = format!("row of series `{}` is not what was written", ids.value(row));
                        return Err(LakeError::Decode { path: self.name.to_owned(), reason });
                    }
                }
            }
        }
        Ok(())
    }
}

// The wanted rows of one file, in the order of `columns`.
async fn wanted_rows(
    reader: FileReader,
    columns: &[&str],
    wants: Arc<[Want]>,
) -> Result<Vec<RecordBatch>, parquet::errors::ParquetError> {
    let builder = ParquetRecordBatchStreamBuilder::new(reader).await?;
    let schema = builder.parquet_schema();
    let keys = ProjectionMask::columns(schema, columns.iter().take(2).copied());
    let all = ProjectionMask::columns(schema, columns.iter().copied());
    let filter = ArrowPredicateFn::new(keys, move |keys: RecordBatch| matches(&keys, &wants));
    let rows = builder.with_projection(all).with_row_filter(RowFilter::new(vec![Box::new(filter)])).build()?;
    let batches: Vec<RecordBatch> = rows.try_collect().await?;
    let arranged = batches.into_iter().map(|batch| {
        let order: Result<Vec<usize>, ArrowError> = columns.iter().map(|name| batch.schema().index_of(name)).collect();
        batch.project(&order?)
    });
    Ok(arranged.collect::<Result<Vec<_>, ArrowError>>()?)
}

// Whether rows are wanted. Neighbours are of one series.
fn matches(keys: &RecordBatch, wants: &[Want]) -> Result<BooleanArray, ArrowError> {
    let wrong = || ArrowError::SchemaError("the key is not a text and an instant".into());
    let ids = keys.column(0).as_string_opt::<i32>().ok_or_else(wrong)?;
    let times = keys.column(1).as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(wrong)?;
    let mut known: (&str, &[Want]) = ("", of_series(wants, ""));
    let chosen = (0..ids.len()).map(|row| {
        let id = ids.value(row);
        if id != known.0 {
            known = (id, of_series(wants, id));
        }
        let at = times.value(row);
        let before = known.1.partition_point(|want| want.from <= at);
        before > 0 && at < known.1[before - 1].to
    });
    Ok(chosen.map(Some).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(series: u32, id: &str, from: Micros, to: Micros) -> Want {
        Want { series, id: id.into(), from, to }
    }

    #[test]
    fn what_is_wanted_twice_is_looked_up_once() {
        let mut wanted = Wanted {
            intervals: vec![want(1, "b", 5, 6), want(0, "a", 9, 10), want(1, "b", 0, 5), want(1, "b", 8, 9)],
            samples: vec![],
        };
        wanted.tidy();
        assert_eq!(wanted.intervals, [want(0, "a", 9, 10), want(1, "b", 0, 6), want(1, "b", 8, 9)]);
        assert_eq!(of_series(&wanted.intervals, "b"), &wanted.intervals[1..]);
        assert!(of_series(&wanted.intervals, "c").is_empty() && of_series(&wanted.intervals, "").is_empty());
    }
}
