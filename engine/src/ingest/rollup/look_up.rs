//! Reads rows of `intervals` that roll-ups ask for, as they are in the newest version.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use meterline_connectors::lake::{Lake, LakeError, TableOwner};
use meterline_schemas::{Frequency, Micros};

use super::super::recall::{self, INTERVAL_COLUMNS, Table, concerned, content, instant};
use super::super::rows::Content;
use super::lake::{GroupRow, SeriesRow, Want};
use super::sums::Sums;

/// Those of [`INTERVAL_COLUMNS`], and what follows.
const COLUMNS: [&str; 14] = {
    let [a, b, c, d, e, f, g, h, i] = INTERVAL_COLUMNS;
    [a, b, c, d, e, f, g, h, i, "frequency", "present", "measured", "estimated", "substituted"]
};

/// The newest row of an interval.
struct Found {
    frequency: Frequency,
    content: Content,
    sums: Sums,
}

/// Intervals of series.
///
/// # Errors
/// The table or a file cannot be read.
pub async fn series_rows(lake: &Lake, intervals: &TableOwner, wants: &[Want]) -> Result<Vec<SeriesRow>, LakeError> {
    let row =
        |series, (start, end), Found { frequency, content, .. }| SeriesRow { series, start, end, frequency, content };
    newest(lake, intervals, wants, row).await
}

/// Intervals of groups.
///
/// # Errors
/// The table or a file cannot be read.
pub async fn group_rows(lake: &Lake, intervals: &TableOwner, wants: &[Want]) -> Result<Vec<GroupRow>, LakeError> {
    let row =
        |series, (start, end), Found { content, sums, .. }| GroupRow { series, start, end, value: content.value, sums };
    newest(lake, intervals, wants, row).await
}

async fn newest<Row>(
    lake: &Lake,
    intervals: &TableOwner,
    wants: &[Want],
    make: impl Fn(Arc<str>, (Micros, Micros), Found) -> Row,
) -> Result<Vec<Row>, LakeError> {
    // Wants come in order: those of one series are neighbours.
    let mut series: Vec<Arc<str>> = Vec::new();
    let mut numbered: Vec<recall::Want> = Vec::with_capacity(wants.len());
    for want in wants {
        if series.last() != Some(&want.series) {
            series.push(Arc::clone(&want.series));
        }
        let number = series.len() as u32 - 1;
        numbered.push(recall::Want { series: number, id: (*want.series).into(), from: want.from, to: want.to });
    }
    recall::tidy(&mut numbered);
    let files = concerned(&intervals.files()?, &numbered, "start");
    let table = Table { lake, name: intervals.name(), columns: &COLUMNS };
    let mut found: HashMap<(u32, (Micros, Micros)), Found> = HashMap::new();
    let keep = |number, rows: &RecordBatch, row| {
        let content = content(rows, row)?;
        let interval = (instant(rows.column(1), row), instant(rows.column(8), row));
        let known = match found.entry((number, interval)) {
            Entry::Occupied(known) if known.get().content.position >= content.position => return Some(()),
            known => known,
        };
        known.insert_entry(Found {
            frequency: rows.column(9).as_string_opt::<i32>()?.value(row).parse().ok()?,
            content,
            sums: sums(rows, row)?,
        });
        Some(())
    };
    table.read(files, &numbered, keep).await?;
    let there = found.into_iter().filter(|(_, found)| found.content.count > 0);
    Ok(there.map(|((number, interval), found)| make(Arc::clone(&series[number as usize]), interval, found)).collect())
}

// Nothing where it is not a roll-up's.
fn sums(rows: &RecordBatch, row: usize) -> Option<Sums> {
    let number = |column: usize| {
        let column = rows.column(column).as_primitive_opt::<Int64Type>()?;
        Some(if column.is_null(row) { 0 } else { column.value(row) })
    };
    Some(Sums { amount: 0, present: number(10)?, intervals: [number(11)?, number(12)?, number(13)?] })
}
