//! Rows become sorted Parquet files with exact statistics.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{SortColumn, lexsort_to_indices, max, max_string, min, min_string, take, take_record_batch};
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimestampMicrosecondType};
use meterline_schemas::time::format_micros;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

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

/// The part of Delta's statistics that says where a file's values lie.
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
    pub(super) bytes: Vec<u8>,
}

/// Splits rows by partition, sorts each part, and encodes it.
pub(super) fn encode(table: &TableDefinition, rows: &RecordBatch) -> Result<Vec<Encoded>, LakeError> {
    let failed = |reason: String| LakeError::Encode { table: table.name.to_owned(), reason };
    let mut parts = Vec::new();
    for (partition, rows) in split(table, rows).map_err(|e| failed(e.to_string()))? {
        let sorted = sort(table, &rows).map_err(|e| failed(e.to_string()))?;
        let bytes = to_parquet(&sorted).map_err(|e| failed(e.to_string()))?;
        let mut path = String::new();
        for (column, value) in &partition {
            path.push_str(&format!("{column}={}/", plain(value)));
        }
        path.push_str(&format!("{}.parquet", uuid::Uuid::now_v7()));
        let file = DataFile {
            path,
            size: bytes.len() as u64,
            rows: sorted.num_rows() as u64,
            partition: partition.into_iter().collect(),
            stats: statistics(&sorted).to_string(),
        };
        parts.push(Encoded { file, bytes });
    }
    Ok(parts)
}

/// A directory name of letters that no reader needs to decode. The log says which value it stands for.
fn plain(value: &str) -> String {
    value.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' }).collect()
}

type Partition = Vec<(String, String)>;

/// The rows of each partition, without the partition columns.
fn split(
    table: &TableDefinition,
    rows: &RecordBatch,
) -> Result<Vec<(Partition, RecordBatch)>, arrow::error::ArrowError> {
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

fn sort(table: &TableDefinition, rows: &RecordBatch) -> Result<RecordBatch, arrow::error::ArrowError> {
    let mut keys = Vec::with_capacity(table.sort_by.len());
    for name in table.sort_by {
        keys.push(SortColumn { values: Arc::clone(rows.column(rows.schema().index_of(name)?)), options: None });
    }
    let order = lexsort_to_indices(&keys, None)?;
    let columns: Result<Vec<ArrayRef>, _> = rows.columns().iter().map(|c| take(c, &order, None)).collect();
    RecordBatch::try_new(rows.schema(), columns?)
}

fn to_parquet(rows: &RecordBatch) -> Result<Vec<u8>, parquet::errors::ParquetError> {
    let level = ZstdLevel::try_new(1)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(512 * 1024))
        .set_created_by("meterline".to_owned())
        .build();
    let mut bytes = Vec::with_capacity(rows.num_rows() * 16);
    let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), Some(properties))?;
    writer.write(rows)?;
    writer.close()?;
    Ok(bytes)
}

/// Delta's statistics: exact for texts, integers and instants. Instants are given in milliseconds there, so the
/// smallest is rounded down and the largest up.
fn statistics(rows: &RecordBatch) -> Value {
    let (mut smallest, mut largest, mut nulls) = (Map::new(), Map::new(), Map::new());
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        nulls.insert(field.name().clone(), json!(column.null_count()));
        if let Some((low, high)) = bounds(column) {
            smallest.insert(field.name().clone(), low);
            largest.insert(field.name().clone(), high);
        }
    }
    json!({"numRecords": rows.num_rows(), "minValues": smallest, "maxValues": largest, "nullCount": nulls})
}

fn bounds(column: &ArrayRef) -> Option<(Value, Value)> {
    match column.data_type() {
        DataType::Utf8 => {
            let texts = column.as_string::<i32>();
            Some((json!(min_string(texts)?), json!(max_string(texts)?)))
        }
        DataType::Int32 => {
            let numbers = column.as_primitive::<Int32Type>();
            Some((json!(min(numbers)?), json!(max(numbers)?)))
        }
        DataType::Int64 => {
            let numbers = column.as_primitive::<Int64Type>();
            Some((json!(min(numbers)?), json!(max(numbers)?)))
        }
        DataType::Timestamp(_, _) => {
            let instants = column.as_primitive_opt::<TimestampMicrosecondType>()?;
            let low = min(instants)?.div_euclid(1000);
            let high = max(instants)?.checked_add(999)?.div_euclid(1000);
            Some((json!(milliseconds(low)), json!(milliseconds(high))))
        }
        _ => None,
    }
}

/// RFC 3339 with exactly three decimals.
fn milliseconds(at_ms: i64) -> String {
    let seconds = format_micros(at_ms.div_euclid(1000) * 1_000_000);
    format!("{}.{:03}Z", seconds.trim_end_matches('Z'), at_ms.rem_euclid(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_in_statistics_have_milliseconds_and_cover_the_values() {
        assert_eq!(milliseconds(1_388_534_400_000), "2014-01-01T00:00:00.000Z");
        let column: ArrayRef =
            Arc::new(arrow::array::TimestampMicrosecondArray::from(vec![1, 1_500]).with_timezone("UTC"));
        let (low, high) = bounds(&column).unwrap();
        assert_eq!((low, high), (json!("1970-01-01T00:00:00.000Z"), json!("1970-01-01T00:00:00.002Z")));
    }
}
