//! Sorted files as one sorted stream, in memory that grows with how many of them overlap.
//!
//! A file is opened when the merge reaches the smallest value that its statistics promise, and let go after its last
//! row. Of an open file memory holds one batch of rows and the compressed columns of one row group. Batches are bounded
//! by their bytes: a row is a hundred of them, or a dead letter of 64 KiB.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, new_null_array};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{OwnedRow, RowConverter, Rows, SortField};
use futures::StreamExt;
use parquet::arrow::async_reader::{ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::page_index::offset_index::OffsetIndexMetaData;

use super::{Bound, DataFile, FileReader, Lake, LakeError, TableDefinition, by_name, unreadable};

/// Rows of one batch of an open file at most.
const READ: usize = 1024;
/// Bytes of one batch of an open file, about: several dozen may be open.
const READ_BYTES: u64 = 1 << 20;
/// Rows of one batch of the merge at most.
const BATCH: usize = 16 * 1024;
/// Bytes of one batch of the merge, about.
const BATCH_BYTES: usize = 64 << 20;

/// The rows of sorted files of one table, merged by the columns that the table is sorted by.
pub struct SortedMerge {
    lake: Lake,
    table: TableDefinition,
    schema: SchemaRef,
    converter: RowConverter,
    files: Vec<Source>,
    // The next row of each file, or the bound of one that is not open yet; the smallest first.
    heap: BinaryHeap<Reverse<Head>>,
}

struct Source {
    file: DataFile,
    open: Option<Cursor>,
}

/// An open file and the row that comes next.
struct Cursor {
    stream: ParquetRecordBatchStream<FileReader>,
    batch: RecordBatch,
    keys: Rows,
    at: usize,
    // Bytes of one row of the batch, on the average.
    row_bytes: usize,
}

#[derive(PartialEq, Eq)]
struct Head {
    // `None` comes before all.
    key: Option<OwnedRow>,
    file: usize,
}

impl Ord for Head {
    fn cmp(&self, other: &Head) -> Ordering {
        let keys = match (&self.key, &other.key) {
            (Some(a), Some(b)) => a.row().cmp(&b.row()),
            (a, b) => a.is_some().cmp(&b.is_some()),
        };
        keys.then(self.file.cmp(&other.file))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Head) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl SortedMerge {
    /// Merges `files` of `table`; of equal rows those of the earlier file come first.
    ///
    /// # Errors
    ///
    /// [`LakeError::Encode`]: the table cannot be sorted by its columns, which is a fault of ours.
    pub fn new(lake: &Lake, table: &TableDefinition, files: Vec<DataFile>) -> Result<SortedMerge, LakeError> {
        let failed = |error: ArrowError| LakeError::Encode { table: table.name.to_owned(), reason: error.to_string() };
        let stored: Vec<usize> = (0..table.schema.fields().len())
            .filter(|i| !table.partition_by.contains(&table.schema.field(*i).name().as_str()))
            .collect();
        let schema = Arc::new(table.schema.project(&stored).map_err(failed)?);
        let types: Result<Vec<DataType>, ArrowError> =
            table.sort_by.iter().map(|name| Ok(schema.field_with_name(name)?.data_type().clone())).collect();
        let types = types.map_err(failed)?;
        let converter = RowConverter::new(types.iter().cloned().map(SortField::new).collect()).map_err(failed)?;
        let mut heap = BinaryHeap::with_capacity(files.len());
        for (number, file) in files.iter().enumerate() {
            let key = bound(&converter, &types, table, file).map_err(failed)?;
            heap.push(Reverse(Head { key, file: number }));
        }
        let files = files.into_iter().map(|file| Source { file, open: None }).collect();
        Ok(SortedMerge { lake: lake.clone(), table: table.clone(), schema, converter, files, heap })
    }

    /// The next rows, without the partition's columns; `None` after the last.
    ///
    /// # Errors
    ///
    /// [`LakeError::Unreadable`], [`LakeError::NotSorted`] or [`LakeError::NotFound`], with the file;
    /// [`LakeError::Store`].
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, LakeError> {
        // Batches that rows are taken from, and of each file the number of its current one among them.
        let mut batches: Vec<RecordBatch> = Vec::new();
        let mut current: Vec<Option<usize>> = vec![None; self.files.len()];
        let mut places: Vec<(usize, usize)> = Vec::with_capacity(BATCH);
        let mut bytes = 0;
        while places.len() < BATCH && bytes < BATCH_BYTES {
            let Some(Reverse(head)) = self.heap.pop() else { break };
            let number = head.file;
            if self.files[number].open.is_none() {
                self.open(number).await?;
                continue;
            }
            let limit = self.heap.peek();
            let Some(cursor) = &mut self.files[number].open else { continue };
            let batch = *current[number].get_or_insert_with(|| {
                batches.push(cursor.batch.clone());
                batches.len() - 1
            });
            // As long as its rows are the smallest, no other file needs to be asked.
            let mut more = true;
            while more && places.len() < BATCH && bytes < BATCH_BYTES {
                places.push((batch, cursor.at));
                bytes += cursor.row_bytes;
                cursor.at += 1;
                more = cursor.at < cursor.keys.num_rows()
                    && limit.is_none_or(|Reverse(next)| {
                        let key = cursor.keys.row(cursor.at);
                        let order = next.key.as_ref().map_or(Ordering::Greater, |other| key.cmp(&other.row()));
                        order.then(number.cmp(&next.file)) == Ordering::Less
                    });
            }
            if cursor.at == cursor.keys.num_rows() {
                current[number] = None;
                self.refill(number).await?;
            } else {
                let key = Some(cursor.keys.row(cursor.at).owned());
                self.heap.push(Reverse(Head { key, file: number }));
            }
        }
        if places.is_empty() {
            return Ok(None);
        }
        let batches: Vec<&RecordBatch> = batches.iter().collect();
        let fault = |e: ArrowError| LakeError::Encode { table: self.table.name.to_owned(), reason: e.to_string() };
        Ok(Some(interleave_record_batch(&batches, &places).map_err(fault)?))
    }

    async fn open(&mut self, number: usize) -> Result<(), LakeError> {
        let file = self.lake.data_file(self.table.name, &self.files[number].file);
        let builder = ParquetRecordBatchStreamBuilder::new(file).await.map_err(|e| self.unreadable(number, e))?;
        // A column that is not known here would be lost.
        let is_unknown = |name: &str| self.schema.index_of(name).is_err();
        if let Some(unknown) = builder.schema().fields().iter().find(|field| is_unknown(field.name())) {
            let reason =
                format!("it has a column `{}`, of a newer release of Meterline or another program", unknown.name());
            return Err(self.unfit(number, ArrowError::SchemaError(reason)));
        }
        let rows = rows_at_once(builder.metadata());
        let stream = builder.with_batch_size(rows).build().map_err(|e| self.unreadable(number, e))?;
        let (batch, keys) = (RecordBatch::new_empty(Arc::clone(&self.schema)), self.converter.empty_rows(0, 0));
        self.files[number].open = Some(Cursor { stream, batch, keys, at: 0, row_bytes: 0 });
        self.refill(number).await
    }

    /// Reads the next batch of a file; lets go of it after the last.
    async fn refill(&mut self, number: usize) -> Result<(), LakeError> {
        let Some(mut cursor) = self.files[number].open.take() else { return Ok(()) };
        let last = cursor.keys.num_rows().checked_sub(1).map(|at| cursor.keys.row(at).owned());
        let batch = loop {
            match cursor.stream.next().await {
                Some(Ok(batch)) if batch.num_rows() == 0 => {}
                Some(Ok(batch)) => break batch,
                Some(Err(error)) => return Err(self.unreadable(number, error)),
                // Nothing refers to it any more: it will not be opened again.
                None => return Ok(()),
            }
        };
        let batch = by_name(&batch, &self.schema).map_err(|e| self.unfit(number, e))?;
        let columns: Vec<ArrayRef> =
            self.table.sort_by.iter().filter_map(|name| batch.column_by_name(name).cloned()).collect();
        let keys = self.converter.convert_columns(&columns).map_err(|e| self.unfit(number, e))?;
        let sorted = (1..keys.num_rows()).all(|i| keys.row(i - 1) <= keys.row(i))
            && last.is_none_or(|last| last.row() <= keys.row(0));
        if !sorted {
            return Err(LakeError::NotSorted { path: self.path(number), by: self.table.sort_by.join(", ") });
        }
        let key = Some(keys.row(0).owned());
        let row_bytes = batch.get_array_memory_size() / batch.num_rows();
        self.files[number].open = Some(Cursor { stream: cursor.stream, batch, keys, at: 0, row_bytes });
        self.heap.push(Reverse(Head { key, file: number }));
        Ok(())
    }

    fn path(&self, number: usize) -> String {
        Lake::data_path(self.table.name, &self.files[number].file).to_string()
    }

    fn unfit(&self, number: usize, error: ArrowError) -> LakeError {
        self.unreadable(number, ParquetError::ArrowError(error.to_string()))
    }

    fn unreadable(&self, number: usize, error: ParquetError) -> LakeError {
        unreadable(&self.path(number), &format!("every row in the order of {}", self.table.sort_by.join(", ")), error)
    }
}

/// How many rows of a file are read at a time: few where rows are large, be it in a part of the file alone.
fn rows_at_once(file: &ParquetMetaData) -> usize {
    let of_group = |(number, group): (usize, &RowGroupMetaData)| {
        let rows = group.num_rows().max(1);
        let columns = file.offset_index().and_then(|groups| groups.get(number));
        let texts: i64 = columns.into_iter().flatten().map(|column| longest(column, rows)).sum();
        group.total_byte_size() / rows + texts
    };
    let largest = file.row_groups().iter().enumerate().map(of_group).max().unwrap_or(0);
    let largest = u64::try_from(largest).unwrap_or(0).max(1);
    usize::try_from(READ_BYTES / largest).unwrap_or(READ).clamp(1, READ)
}

/// Bytes of one text of a column in a row group of so many `rows`, on the average of the page where they are longest.
/// The size of the page does not tell: what is in a dictionary is there once, and in memory as often as it occurs.
fn longest(column: &OffsetIndexMetaData, rows: i64) -> i64 {
    let Some(bytes) = column.unencoded_byte_array_data_bytes() else { return 0 };
    let starts = column.page_locations().iter().map(|page| page.first_row_index);
    let ends = starts.clone().skip(1).chain([rows]);
    let pages = bytes.iter().zip(starts.zip(ends));
    pages.map(|(bytes, (start, end))| bytes / (end - start).max(1)).max().unwrap_or(0)
}

/// A key that is not greater than any of the file's; `None` where the statistics do not tell.
fn bound(
    converter: &RowConverter,
    types: &[DataType],
    table: &TableDefinition,
    file: &DataFile,
) -> Result<Option<OwnedRow>, ArrowError> {
    let smallest = table.sort_by.first().and_then(|name| file.range(name)).map(|(low, _)| low);
    let first: ArrayRef = match (types.first(), smallest) {
        (Some(DataType::Utf8), Some(Bound::Text(text))) => Arc::new(StringArray::from(vec![text])),
        (Some(DataType::Int64), Some(Bound::Integer(n))) => Arc::new(Int64Array::from(vec![n])),
        (Some(DataType::Int32), Some(Bound::Integer(n))) => match i32::try_from(n) {
            Ok(n) => Arc::new(Int32Array::from(vec![n])),
            Err(_) => return Ok(None),
        },
        _ => return Ok(None),
    };
    // Null comes before every value.
    let rest = types.iter().skip(1).map(|data_type| new_null_array(data_type, 1));
    let columns: Vec<ArrayRef> = std::iter::once(first).chain(rest).collect();
    let rows = converter.convert_columns(&columns)?;
    Ok(Some(rows.row(0).owned()))
}

#[cfg(test)]
mod tests {
    use arrow::array::{BinaryArray, TimestampMicrosecondArray};

    use super::super::TableOwner;
    use super::*;

    /// Dead letters of these partitions and offsets, each with so many bytes.
    fn letters(partition: i32, sizes: &[usize]) -> RecordBatch {
        let n = sizes.len();
        let text = |s: &str| Arc::new(StringArray::from(vec![s; n])) as ArrayRef;
        let bytes = vec![b'x'; sizes.iter().copied().max().unwrap_or(0)];
        let columns: Vec<ArrayRef> = vec![
            text("meters"),
            text("readings"),
            Arc::new(Int32Array::from(vec![partition; n])),
            Arc::new(Int64Array::from_iter_values(0..n as i64)),
            Arc::new(TimestampMicrosecondArray::from(vec![0; n]).with_timezone("UTC")),
            Arc::new(BinaryArray::from(vec![None; n])),
            Arc::new(sizes.iter().map(|size| Some(&bytes[..*size])).collect::<BinaryArray>()),
            text("malformed"),
            text("unexpected end"),
        ];
        RecordBatch::try_new(TableDefinition::dead_letters().schema, columns).unwrap()
    }

    #[tokio::test]
    async fn large_rows_are_read_and_merged_a_few_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let lake = Lake::open(dir.path().to_str().unwrap()).await.unwrap();
        let table = TableDefinition::dead_letters();
        let owner = TableOwner::open(&lake, &table).await.unwrap();
        // A hundred MiB of large ones among many that are small, all alike: the file is small, and what it holds is
        // not.
        let sizes: Vec<usize> = (0..22_000).map(|n| if (10_000..11_600).contains(&n) { 64 << 10 } else { 2 }).collect();
        let mixed = owner.write(&letters(0, &sizes)).await.unwrap().remove(0);
        let small = owner.write(&letters(1, &[2; 5_000])).await.unwrap().remove(0);
        assert!(mixed.size < 2 << 20, "{} bytes", mixed.size);
        let at_once = async |file: &DataFile| {
            let reader = lake.data_file(table.name, file);
            rows_at_once(ParquetRecordBatchStreamBuilder::new(reader).await.unwrap().metadata())
        };
        assert_eq!(at_once(&small).await, READ);
        let rows = at_once(&mixed).await;
        assert!((8..=READ / 4).contains(&rows), "{rows} rows");
        let mut merge = SortedMerge::new(&lake, &table, vec![small, mixed]).unwrap();
        let (mut rows, mut largest) = (0, 0);
        while let Some(batch) = merge.next().await.unwrap() {
            rows += batch.num_rows();
            largest = largest.max(batch.get_array_memory_size());
        }
        assert_eq!(rows, 27_000);
        assert!((BATCH_BYTES / 4..=BATCH_BYTES + BATCH_BYTES / 4).contains(&largest), "{largest} bytes");
    }
}
