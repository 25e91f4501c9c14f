//! Rows become sorted Parquet files with exact statistics.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{SortColumn, lexsort_to_indices, take, take_record_batch};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use object_store::PutPayload;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::pieces::Pieces;
use super::statistics::Statistics;
use super::{LakeError, TableDefinition};

/// Smallest or largest value of a column in a file.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
pub enum Bound {
    /// Integers, and instants in µs.
    Integer(i64),
    /// Texts.
    Text(String),
}

/// One Parquet file of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataFile {
    /// Path below the table's directory.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Rows.
    pub rows: u64,
    /// Values of the partition columns.
    pub partition: BTreeMap<String, String>,
    /// Statistics in Delta's JSON form.
    pub stats: String,
}

impl DataFile {
    /// Smallest and largest value of each column of integers, instants and texts, as the statistics give them: bounds
    /// of instants are rounded outwards to milliseconds.
    pub fn ranges(&self) -> BTreeMap<String, (Bound, Bound)> {
        let Ok(stats) = serde_json::from_str::<Stats>(&self.stats) else { return BTreeMap::new() };
        let Stats { min_values, max_values } = stats;
        let ranges = min_values
            .iter()
            .filter_map(|(column, low)| Some((column.clone(), (bound(low)?, bound(max_values.get(column)?)?))));
        ranges.collect()
    }

    /// Smallest and largest value of one column; see [`DataFile::ranges`].
    pub fn range(&self, column: &str) -> Option<(Bound, Bound)> {
        self.ranges().remove(column)
    }
}

/// The part of the statistics that says where a file's values lie.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    #[serde(default)]
    min_values: Map<String, Value>,
    #[serde(default)]
    max_values: Map<String, Value>,
}

fn bound(value: &Value) -> Option<Bound> {
    match value {
        Value::Number(n) => n.as_i64().map(Bound::Integer),
        Value::String(text) => Some(match text.parse::<jiff::Timestamp>() {
            Ok(at) => Bound::Integer(at.as_microsecond()),
            Err(_) => Bound::Text(text.clone()),
        }),
        _ => None,
    }
}

/// A file that is encoded but not yet stored.
pub(super) struct Encoded {
    pub(super) file: DataFile,
    pub(super) payload: PutPayload,
}

/// Files of one table in the making; see [`super::TableOwner::encode`].
pub struct FileSet {
    table: TableDefinition,
    pub(super) done: Vec<Encoded>,
}

impl FileSet {
    pub(super) fn new(table: TableDefinition) -> FileSet {
        FileSet { table, done: Vec::new() }
    }

    /// Encodes one file. The batches have the table's columns without the partition's, and come in the order in which
    /// files of the table are sorted. No batch: no file.
    ///
    /// # Errors
    /// A batch could not be made, or does not fit the others.
    pub fn file(
        &mut self,
        partition: Partition,
        batches: impl IntoIterator<Item = Result<RecordBatch, ArrowError>>,
    ) -> Result<(), LakeError> {
        let failed = |e: ArrowError| LakeError::Encode { table: self.table.name.to_owned(), reason: e.to_string() };
        let mut batches = batches.into_iter();
        let Some(first) = batches.next() else { return Ok(()) };
        let first = first.map_err(failed)?;
        let mut writer = FileWriter::new(&self.table, partition, &first)?;
        for batch in std::iter::once(Ok(first)).chain(batches) {
            writer.write(&batch.map_err(failed)?)?;
        }
        self.done.push(writer.finish()?);
        Ok(())
    }

    /// Splits rows by partition, sorts each part, and encodes it.
    ///
    /// # Errors
    /// The rows do not fit the table.
    pub fn rows(&mut self, rows: &RecordBatch) -> Result<(), LakeError> {
        let failed =
            |error: ArrowError| LakeError::Encode { table: self.table.name.to_owned(), reason: error.to_string() };
        for (partition, rows) in split(&self.table, rows).map_err(failed)? {
            let sorted = sort(&self.table, &rows);
            self.file(partition, [sorted])?;
        }
        Ok(())
    }
}

/// One file while it is encoded.
pub(super) struct FileWriter {
    table: &'static str,
    partition: Partition,
    statistics: Statistics,
    writer: ArrowWriter<Pieces>,
}

impl FileWriter {
    /// A file of the table that begins with these rows, which have all columns but the partition's.
    pub(super) fn new(
        table: &TableDefinition,
        partition: Partition,
        first: &RecordBatch,
    ) -> Result<FileWriter, LakeError> {
        let refuse = |e: ParquetError| failed(table.name, &e);
        let properties = properties(table, first).map_err(refuse)?;
        let writer = ArrowWriter::try_new(Pieces::default(), first.schema(), Some(properties)).map_err(refuse)?;
        Ok(FileWriter { table: table.name, partition, statistics: Statistics::default(), writer })
    }

    /// Adds rows; they come in the order in which files of the table are sorted.
    pub(super) fn write(&mut self, rows: &RecordBatch) -> Result<(), LakeError> {
        self.statistics.add(rows);
        self.writer.write(rows).map_err(|e| failed(self.table, &e))
    }

    /// About how many bytes the file has so far.
    pub(super) fn bytes(&self) -> u64 {
        // What waits for its row group is compressed later: it counts as it is.
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    pub(super) fn finish(self) -> Result<Encoded, LakeError> {
        let FileWriter { table, partition, statistics, writer } = self;
        let pieces = writer.into_inner().map_err(|e| failed(table, &e))?;
        let mut path = String::new();
        for (column, value) in &partition {
            path.push_str(&format!("{column}={}/", plain(value)));
        }
        path.push_str(&format!("{}.parquet", uuid::Uuid::now_v7()));
        let file = DataFile {
            path,
            size: pieces.len() as u64,
            rows: statistics.rows(),
            partition: partition.into_iter().collect(),
            stats: statistics.to_json().to_string(),
        };
        Ok(Encoded { file, payload: pieces.into_payload() })
    }
}

fn failed(table: &str, error: &ParquetError) -> LakeError {
    LakeError::Encode { table: table.to_owned(), reason: error.to_string() }
}

/// Whole numbers and instants hardly repeat, but they are near to each other; and only the columns by which a file is
/// sorted are worth statistics inside it. Where texts by which it is sorted hardly repeat (many meters, of which a
/// commit has a few readings each), a dictionary would have them all and be given up; they have their beginnings in
/// common.
fn properties(table: &TableDefinition, first: &RecordBatch) -> Result<WriterProperties, ParquetError> {
    let schema = first.schema();
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(ROW_GROUP))
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_created_by("meterline".to_owned());
    for field in schema.fields() {
        let path = ColumnPath::from(field.name().as_str());
        if table.sort_by.contains(&field.name().as_str()) {
            properties = properties.set_column_statistics_enabled(path.clone(), EnabledStatistics::Page);
        }
        let texts =
            table.sort_by.first().filter(|name| *name == field.name()).and_then(|name| first.column_by_name(name));
        if texts.and_then(|texts| texts.as_string_opt::<i32>()).is_some_and(hardly_repeat) {
            properties = properties
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path.clone(), Encoding::DELTA_BYTE_ARRAY);
        }
        if matches!(field.data_type(), DataType::Int32 | DataType::Int64 | DataType::Timestamp(_, _)) {
            properties = properties
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
        }
    }
    Ok(properties.build())
}

/// Rows of a row group. A merge has one of each of its files in memory, and a writer one of its own: more of them at
/// once would be read no faster.
const ROW_GROUP: usize = 128 * 1024;
/// Bytes of a dictionary from which on a column of a row group goes on without. One of a row group whose numbers all
/// differ would be as large as they are, and only cost time and room.
const DICTIONARY_BYTES: usize = 128 * 1024;
/// Rows up to which a dictionary costs nothing.
const DICTIONARY_WORTH: usize = 1_000;

/// Whether sorted texts have fewer than four rows each, on average.
fn hardly_repeat(texts: &StringArray) -> bool {
    const ROWS_A_TEXT: usize = 4;
    let distinct = 1 + (1..texts.len()).filter(|row| texts.value(*row) != texts.value(row - 1)).count();
    texts.len() > DICTIONARY_WORTH && distinct > texts.len() / ROWS_A_TEXT
}

/// A directory name of letters that no reader needs to decode. The log says which value it stands for.
fn plain(value: &str) -> String {
    value.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' }).collect()
}

/// Partition columns with their values, in the table's order.
pub type Partition = Vec<(String, String)>;

/// The rows of each partition, without the partition columns.
fn split(table: &TableDefinition, rows: &RecordBatch) -> Result<Vec<(Partition, RecordBatch)>, ArrowError> {
    let schema = rows.schema();
    let kept: Vec<usize> = (0..schema.fields().len())
        .filter(|i| !table.partition_by.contains(&schema.field(*i).name().as_str()))
        .collect();
    let stored = rows.project(&kept)?;
    if table.partition_by.is_empty() {
        return Ok(if rows.num_rows() == 0 { Vec::new() } else { vec![(Vec::new(), stored)] });
    }
    let mut columns = Vec::with_capacity(table.partition_by.len());
    for name in table.partition_by {
        let column = rows.column(schema.index_of(name)?);
        columns.push((*name, arrow::compute::cast(column, &DataType::Utf8)?));
    }
    let mut indices: BTreeMap<Vec<&str>, Vec<u32>> = BTreeMap::new();
    for row in 0..rows.num_rows() {
        let key: Vec<&str> = columns.iter().map(|(_, c)| c.as_string::<i32>().value(row)).collect();
        indices.entry(key).or_default().push(row as u32);
    }
    indices
        .iter()
        .map(|(key, chosen)| {
            let partition = columns.iter().zip(key).map(|((n, _), v)| ((*n).to_owned(), (*v).to_owned())).collect();
            Ok((partition, take_record_batch(&stored, &UInt32Array::from(chosen.clone()))?))
        })
        .collect()
}

fn sort(table: &TableDefinition, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let mut keys = Vec::with_capacity(table.sort_by.len());
    for name in table.sort_by {
        keys.push(SortColumn { values: Arc::clone(rows.column(rows.schema().index_of(name)?)), options: None });
    }
    let order = lexsort_to_indices(&keys, None)?;
    let columns: Result<Vec<ArrayRef>, _> = rows.columns().iter().map(|c| take(c, &order, None)).collect();
    RecordBatch::try_new(rows.schema(), columns?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_hardly_repeat_get_no_dictionary() {
        let texts =
            |rows: usize, each: usize| StringArray::from_iter_values((0..rows).map(|row| format!("{}", row / each)));
        assert!(hardly_repeat(&texts(8_000, 1)) && hardly_repeat(&texts(8_000, 3)));
        assert!(!hardly_repeat(&texts(8_000, 4)) && !hardly_repeat(&texts(900, 1)) && !hardly_repeat(&texts(0, 1)));
    }
}
