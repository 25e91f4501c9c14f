//! Delta's statistics of a file: exact for texts, integers and instants. Instants are given in milliseconds there, so
//! the smallest is rounded down and the largest up.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::{max, max_string, min, min_string};
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimestampMicrosecondType};
use meterline_schemas::time::format_micros;
use serde_json::{Map, Value, json};

/// Statistics of the batches of one file.
#[derive(Debug, Default)]
pub(super) struct Statistics {
    rows: usize,
    nulls: BTreeMap<String, usize>,
    ranges: BTreeMap<String, Range>,
}

#[derive(Debug, Clone, PartialEq)]
enum Range {
    Integer(i64, i64),
    // µs.
    Instant(i64, i64),
    Text(String, String),
}

impl Range {
    fn cover(&mut self, other: Range) {
        match (self, other) {
            (Range::Integer(low, high), Range::Integer(l, h)) | (Range::Instant(low, high), Range::Instant(l, h)) => {
                (*low, *high) = ((*low).min(l), (*high).max(h));
            }
            (Range::Text(low, high), Range::Text(l, h)) => {
                if l < *low {
                    *low = l;
                }
                if h > *high {
                    *high = h;
                }
            }
            // A column has one type.
            _ => {}
        }
    }

    fn to_json(&self) -> (Value, Value) {
        match self {
            Range::Integer(low, high) => (json!(low), json!(high)),
            Range::Instant(low, high) => {
                let up = high.saturating_add(999).div_euclid(1000);
                (json!(milliseconds(low.div_euclid(1000))), json!(milliseconds(up)))
            }
            Range::Text(low, high) => (json!(low), json!(high)),
        }
    }
}

impl Statistics {
    pub(super) fn rows(&self) -> u64 {
        self.rows as u64
    }

    pub(super) fn add(&mut self, rows: &RecordBatch) {
        self.rows += rows.num_rows();
        for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
            *self.nulls.entry(field.name().clone()).or_default() += column.null_count();
            let Some(range) = range(column) else { continue };
            match self.ranges.get_mut(field.name()) {
                Some(known) => known.cover(range),
                None => {
                    self.ranges.insert(field.name().clone(), range);
                }
            }
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let (mut smallest, mut largest) = (Map::new(), Map::new());
        for (name, range) in &self.ranges {
            let (low, high) = range.to_json();
            smallest.insert(name.clone(), low);
            largest.insert(name.clone(), high);
        }
        json!({"numRecords": self.rows, "minValues": smallest, "maxValues": largest, "nullCount": self.nulls})
    }
}

fn range(column: &ArrayRef) -> Option<Range> {
    match column.data_type() {
        DataType::Utf8 => {
            let texts = column.as_string::<i32>();
            if texts.is_empty() {
                return None;
            }
            let (low, high) = match all_alike(texts) {
                Some(text) => (text, text),
                None if texts.null_count() == 0 && texts.iter().is_sorted() => {
                    (texts.value(0), texts.value(texts.len() - 1))
                }
                None => (min_string(texts)?, max_string(texts)?),
            };
            Some(Range::Text(low.to_owned(), high.to_owned()))
        }
        DataType::Int32 => {
            let numbers = column.as_primitive::<Int32Type>();
            Some(Range::Integer(min(numbers)?.into(), max(numbers)?.into()))
        }
        DataType::Int64 => {
            let numbers = column.as_primitive::<Int64Type>();
            Some(Range::Integer(min(numbers)?, max(numbers)?))
        }
        DataType::Timestamp(_, _) => {
            let instants = column.as_primitive_opt::<TimestampMicrosecondType>()?;
            Some(Range::Instant(min(instants)?, max(instants)?))
        }
        _ => None,
    }
}

/// The text that all of these are, as many columns have it: found by one comparison instead of one for each row.
fn all_alike(texts: &StringArray) -> Option<&str> {
    let length = texts.value_offsets().get(1)? - texts.value_offsets().first()?;
    let same_length = texts.value_offsets().windows(2).all(|ends| ends[1] - ends[0] == length);
    if texts.null_count() > 0 || !same_length {
        return None;
    }
    let (from, to) = (*texts.value_offsets().first()?, *texts.value_offsets().last()?);
    let bytes = texts.value_data().get(from as usize..to as usize)?;
    let length = length as usize;
    (bytes.get(length..)? == bytes.get(..bytes.len() - length)?).then(|| texts.value(0))
}

/// RFC 3339 with exactly three decimals.
fn milliseconds(at_ms: i64) -> String {
    let seconds = format_micros(at_ms.div_euclid(1000) * 1_000_000);
    format!("{}.{:03}Z", seconds.trim_end_matches('Z'), at_ms.rem_euclid(1000))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, TimestampMicrosecondArray};

    use super::*;

    fn batch(at: Vec<i64>, texts: Vec<Option<&str>>, numbers: Vec<i32>) -> RecordBatch {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("at", Arc::new(TimestampMicrosecondArray::from(at).with_timezone("UTC"))),
            ("text", Arc::new(StringArray::from(texts))),
            ("n", Arc::new(Int32Array::from(numbers))),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[test]
    fn statistics_cover_all_batches_and_instants_are_rounded_outwards() {
        let mut statistics = Statistics::default();
        statistics.add(&batch(vec![1_500, 2_000], vec![Some("b"), None], vec![3, -7]));
        statistics.add(&batch(vec![1, 2_001], vec![Some("ab"), Some("c")], vec![9, 0]));
        statistics.add(&batch(vec![2_000, 2_000], vec![Some("bb"), Some("bb")], vec![0, 0]));
        assert_eq!(
            statistics.to_json(),
            json!({
                "numRecords": 6,
                "minValues": {"at": "1970-01-01T00:00:00.000Z", "text": "ab", "n": -7},
                "maxValues": {"at": "1970-01-01T00:00:00.003Z", "text": "c", "n": 9},
                "nullCount": {"at": 0, "text": 1, "n": 0},
            })
        );
        let texts = |texts: &[&str]| StringArray::from(texts.to_vec());
        assert_eq!(all_alike(&texts(&["ab", "ab", "ab"]).slice(1, 2)), Some("ab"));
        assert_eq!(all_alike(&texts(&["", ""])), Some(""));
        for others in [&["aa", "ab"][..], &["ab", "ba"], &["a", "aa"], &[]] {
            assert_eq!(all_alike(&texts(others)), None, "{others:?}");
        }
        assert_eq!(milliseconds(1_388_534_400_000), "2014-01-01T00:00:00.000Z");
    }
}
