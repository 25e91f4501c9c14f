//! Reads the wanted rows of some series from files of a table: columns by their names, and of a file only the pages
//! that may have such rows.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use futures::{StreamExt, TryStreamExt};
use meterline_connectors::lake::{Bound, DataFile, FileReader, Lake, LakeError, TableDefinition, by_name, unreadable};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowPredicateFn, RowFilter, RowSelection, RowSelector};
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::page_index::column_index::ColumnIndexMetaData;

use super::recall::Want;

/// The column by which all files are sorted first.
const SERIES: &str = "series_id";
/// Files that are read at a time.
const FILES_AT_A_TIME: usize = 2;

/// The parts of one series among wants that are in order.
pub(super) fn of_series<'a>(wants: &'a [Want], id: &str) -> &'a [Want] {
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
        let wants = match ranges.get(SERIES) {
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

/// A column of a batch, where it has one of this name and type.
pub(super) fn column<'a, T: 'static>(rows: &'a RecordBatch, name: &str) -> Option<&'a T> {
    rows.column_by_name(name)?.as_any().downcast_ref()
}

/// What is read of a table.
pub(super) struct Scan<'a> {
    lake: &'a Lake,
    table: &'static str,
    time: &'static str,
    schema: SchemaRef,
}

impl<'a> Scan<'a> {
    /// The series and `columns` of a table whose rows lie at `time`, which is one of them. What a file lacks is null.
    pub(super) fn new(
        lake: &'a Lake,
        table: &TableDefinition,
        time: &'static str,
        columns: &[&str],
    ) -> Result<Scan<'a>, LakeError> {
        let place = |name: &&str| table.schema.index_of(name);
        let projected = std::iter::once(&SERIES).chain(columns).map(place).collect::<Result<Vec<_>, _>>();
        let fault = |error: ArrowError| LakeError::Encode { table: table.name.to_owned(), reason: error.to_string() };
        let schema = projected.and_then(|places| table.schema.project(&places)).map_err(fault)?;
        Ok(Scan { lake, table: table.name, time, schema: Arc::new(schema) })
    }

    /// Hands every wanted row to `take`, in batches, with the number of the series of each; `None` from there means
    /// that a row is not what it should be.
    pub(super) async fn read(
        &self,
        files: Vec<DataFile>,
        wants: &[Want],
        mut take: impl FnMut(&[u32], &RecordBatch) -> Option<()>,
    ) -> Result<(), LakeError> {
        let wants: Arc<[Want]> = wants.into();
        let wanted = wanted(&wants);
        let reads = files.into_iter().map(|file| {
            let reader = self.lake.data_file(self.table, &file);
            let (path, schema, time) = (reader.path().to_string(), Arc::clone(&self.schema), self.time);
            let (wants, wanted) = (Arc::clone(&wants), wanted.clone());
            async move {
                // Decoding is work: other files are read meanwhile.
                let read = tokio::spawn(wanted_rows(reader, schema, time, wants));
                let read = read.await.unwrap_or_else(|died| Err(ParquetError::General(died.to_string())));
                Ok::<_, LakeError>((read.map_err(|error| unreadable(&path, &wanted, error))?, path))
            }
        });
        let mut reads = futures::stream::iter(reads).buffered(FILES_AT_A_TIME);
        while let Some((batches, path)) = reads.try_next().await? {
            for rows in batches {
                let numbers = numbers(&rows, &wants);
                if numbers.and_then(|numbers| take(&numbers, &rows)).is_none() {
                    let reason = "a row is not what was written".to_owned();
                    return Err(LakeError::Unreadable { path, wanted: wanted.clone(), reason });
                }
            }
        }
        Ok(())
    }
}

/// In words.
fn wanted(wants: &[Want]) -> String {
    match (wants.first(), wants.last()) {
        (Some(first), Some(last)) if first.id != last.id => format!("rows of series `{}` to `{}`", first.id, last.id),
        (Some(only), _) => format!("rows of series `{}`", only.id),
        _ => "nothing".to_owned(),
    }
}

/// The number of the series of each row; neighbours are of one series.
fn numbers(rows: &RecordBatch, wants: &[Want]) -> Option<Vec<u32>> {
    let ids = rows.column_by_name(SERIES)?.as_string_opt::<i32>()?;
    let mut known: Option<(&str, u32)> = None;
    let number = |row| {
        let id = ids.value(row);
        if known.is_none_or(|(before, _)| before != id) {
            known = Some((id, of_series(wants, id).first()?.series));
        }
        known.map(|(_, number)| number)
    };
    (0..ids.len()).map(number).collect()
}

/// The wanted rows of one file, with the columns of `schema`.
async fn wanted_rows(
    reader: FileReader,
    schema: SchemaRef,
    time: &'static str,
    wants: Arc<[Want]>,
) -> Result<Vec<RecordBatch>, ParquetError> {
    let builder = ParquetRecordBatchStreamBuilder::new(reader).await?;
    let pages = RowSelection::from(pages(builder.metadata(), &wants));
    let known = builder.parquet_schema();
    let keys = ProjectionMask::columns(known, [SERIES, time]);
    let all = ProjectionMask::columns(known, schema.fields().iter().map(|field| field.name().as_str()));
    let filter = ArrowPredicateFn::new(keys, move |keys: RecordBatch| matches(&keys, time, &wants));
    let filter = RowFilter::new(vec![Box::new(filter)]);
    let rows = builder.with_projection(all).with_row_selection(pages).with_row_filter(filter).build()?;
    let batches: Vec<RecordBatch> = rows.try_collect().await?;
    let arranged = batches.into_iter().map(|batch| by_name(&batch, &schema));
    Ok(arranged.collect::<Result<Vec<_>, ArrowError>>()?)
}

/// Whether rows are wanted; neighbours are of one series.
fn matches(keys: &RecordBatch, time: &str, wants: &[Want]) -> Result<BooleanArray, ArrowError> {
    let wrong =
        || ArrowError::SchemaError(format!("its columns `{SERIES}` and `{time}` are not a text and an instant"));
    let ids = keys.column_by_name(SERIES).and_then(|ids| ids.as_string_opt::<i32>()).ok_or_else(wrong)?;
    let times = keys.column_by_name(time).and_then(|times| times.as_primitive_opt::<TimestampMicrosecondType>());
    let times = times.ok_or_else(wrong)?;
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

/// The pages that may have rows of wanted series, as their bounds say; all of them where a file has no bounds.
fn pages(metadata: &ParquetMetaData, wants: &[Want]) -> Vec<RowSelector> {
    let schema = metadata.file_metadata().schema_descr();
    let column = (0..schema.num_columns()).find(|column| schema.column(*column).name() == SERIES);
    let groups = metadata.row_groups().iter().enumerate();
    groups
        .flat_map(|(group, about)| {
            let rows = usize::try_from(about.num_rows()).unwrap_or(0);
            let chosen = column.and_then(|column| pages_of_group(metadata, group, column, rows, wants));
            chosen.unwrap_or_else(|| vec![RowSelector::select(rows)])
        })
        .collect()
}

/// `None` where the bounds of the group's pages are not known, or make no sense.
fn pages_of_group(
    metadata: &ParquetMetaData,
    group: usize,
    column: usize,
    rows: usize,
    wants: &[Want],
) -> Option<Vec<RowSelector>> {
    let ColumnIndexMetaData::BYTE_ARRAY(bounds) = metadata.column_index()?.get(group)?.get(column)? else {
        return None;
    };
    let pages = metadata.offset_index()?.get(group)?.get(column)?.page_locations();
    if bounds.num_pages() != pages.len() as u64 || pages.first()?.first_row_index != 0 {
        return None;
    }
    let mut selectors = Vec::with_capacity(pages.len());
    for (number, page) in pages.iter().enumerate() {
        let first = usize::try_from(page.first_row_index).ok()?;
        let end = match pages.get(number + 1) {
            Some(next) => usize::try_from(next.first_row_index).ok()?,
            None => rows,
        };
        let count = end.checked_sub(first)?;
        let may_have = match (bounds.min_value(number), bounds.max_value(number)) {
            (Some(low), Some(high)) => {
                let first = wants.partition_point(|want| want.id.as_bytes() < low);
                wants.get(first).is_some_and(|want| want.id.as_bytes() <= high)
            }
            _ => true,
        };
        selectors.push(if may_have { RowSelector::select(count) } else { RowSelector::skip(count) });
    }
    Some(selectors)
}
