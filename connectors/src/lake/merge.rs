//! Sorted files as one sorted stream, in memory that grows with how many of them overlap.
//!
//! A file is opened when the merge reaches the smallest value that its statistics promise, and let go after its last row. Of
//! an open file memory holds one batch of rows and the compressed columns of one row group.

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

use super::{Bound, DataFile, FileReader, Lake, LakeError, TableDefinition, by_name, unreadable};

/// Rows of one batch of an open file.
const READ: usize = 4 * 1024;
/// Rows of one batch of the merge.
const BATCH: usize = 16 * 1024;

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
    /// [`LakeError::Unreadable`], [`LakeError::NotSorted`] or [`LakeError::NotFound`], with the file; [`LakeError::Store`].
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, LakeError> {
        // Batches that rows are taken from, and of each file the number of its current one among them.
        let mut batches: Vec<RecordBatch> = Vec::new();
        let mut current: Vec<Option<usize>> = vec![None; self.files.len()];
        let mut places: Vec<(usize, usize)> = Vec::with_capacity(BATCH);
        while places.len() < BATCH {
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
            while more && places.len() < BATCH {
                places.push((batch, cursor.at));
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
        let file = &self.files[number].file;
        let stream = ParquetRecordBatchStreamBuilder::new(self.lake.data_file(self.table.name, file))
            .await
            .and_then(|builder| builder.with_batch_size(READ).build())
            .map_err(|e| self.unreadable(number, e))?;
        let (batch, keys) = (RecordBatch::new_empty(Arc::clone(&self.schema)), self.converter.empty_rows(0, 0));
        self.files[number].open = Some(Cursor { stream, batch, keys, at: 0 });
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
        let unfit = |error: ArrowError| self.unreadable(number, ParquetError::ArrowError(error.to_string()));
        // A column that is not known here would be lost.
        if let Some(unknown) = batch.schema().fields().iter().find(|field| self.schema.index_of(field.name()).is_err())
        {
            let reason =
                format!("it has a column `{}`, of a newer release of Meterline or another program", unknown.name());
            return Err(unfit(ArrowError::SchemaError(reason)));
        }
        let batch = by_name(&batch, &self.schema).map_err(unfit)?;
        let columns: Vec<ArrayRef> =
            self.table.sort_by.iter().filter_map(|name| batch.column_by_name(name).cloned()).collect();
        let keys = self.converter.convert_columns(&columns).map_err(unfit)?;
        let sorted = (1..keys.num_rows()).all(|i| keys.row(i - 1) <= keys.row(i))
            && last.is_none_or(|last| last.row() <= keys.row(0));
        if !sorted {
            return Err(LakeError::NotSorted { path: self.path(number), by: self.table.sort_by.join(", ") });
        }
        let key = Some(keys.row(0).owned());
        self.files[number].open = Some(Cursor { stream: cursor.stream, batch, keys, at: 0 });
        self.heap.push(Reverse(Head { key, file: number }));
        Ok(())
    }

    fn path(&self, number: usize) -> String {
        Lake::data_path(self.table.name, &self.files[number].file).to_string()
    }

    fn unreadable(&self, number: usize, error: ParquetError) -> LakeError {
        unreadable(&self.path(number), &format!("every row in the order of {}", self.table.sort_by.join(", ")), error)
    }
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
