//! Nothing is dropped silently: the counts of a partition add up to the offsets read.

use serde_json::{Map, Value};

/// What is wrong with a row of `partitions`.
///
/// # Errors
/// It is no such row.
pub fn faults(row: &Map<String, Value>) -> Result<Vec<String>, String> {
    let of = |column: &str| {
        let value = row.get(column).and_then(Value::as_i64);
        value.ok_or_else(|| format!("no whole number {column} in {row:?}"))
    };
    let sum = |columns: &[&str]| columns.iter().map(|column| of(column)).sum::<Result<i64, String>>();
    let read = sum(&["records", "gaps", "expired"])?;
    let offsets = sum(&["earlier_offsets", "next_offset"])? - of("first_offset")?;
    let outcomes = sum(&["accepted", "corrected", "duplicate", "dead", "pending"])?;
    let (partition, records) = (of("partition")?, of("records")?);
    let mut faults = Vec::new();
    if read != offsets {
        faults.push(format!("records, gaps and expired of partition {partition} are {read}, not {offsets}"));
    }
    if outcomes != records {
        faults.push(format!("outcomes of partition {partition} add up to {outcomes}, not {records}"));
    }
    Ok(faults)
}
