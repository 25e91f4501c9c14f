//! Reads rows of `intervals` that roll-ups ask for, as they are in the newest version.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow::array::{Array, Int64Array, RecordBatch, StringArray};
use meterline_connectors::lake::{Lake, LakeError, TableDefinition, TableOwner};
use meterline_schemas::{Frequency, Micros};

use super::super::recall::{self, INTERVAL_COLUMNS, Intervals};
use super::super::rows::Content;
use super::super::scan::{Scan, column, concerned};
use super::lake::{GroupRow, SeriesRow, Want};
use super::sums::Sums;

/// What is read beside [`INTERVAL_COLUMNS`].
const MORE_COLUMNS: [&str; 5] = ["frequency", "present", "measured", "estimated", "substituted"];

/// The newest row of an interval.
struct Found {
    frequency: Frequency,
    content: Content,
    sums: Sums,
}

/// Columns that only roll-ups read.
struct Columns<'a> {
    frequency: &'a StringArray,
    // What a group's row is made of: null in rows of meters, and in files that were written before there were roll-ups.
    present: &'a Int64Array,
    intervals: [&'a Int64Array; 3],
}

impl<'a> Columns<'a> {
    fn of(rows: &'a RecordBatch) -> Option<Columns<'a>> {
        let (frequency, present) = (column(rows, "frequency")?, column(rows, "present")?);
        let intervals = [column(rows, "measured")?, column(rows, "estimated")?, column(rows, "substituted")?];
        Some(Columns { frequency, present, intervals })
    }

    fn found(&self, row: usize, content: Content) -> Option<Found> {
        let number = |column: &Int64Array| if column.is_null(row) { 0 } else { column.value(row) };
        Some(Found {
            frequency: self.frequency.value(row).parse().ok()?,
            content,
            sums: Sums { amount: 0, present: number(self.present), intervals: self.intervals.map(number) },
        })
    }
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
    let columns = [&INTERVAL_COLUMNS[..], &MORE_COLUMNS].concat();
    let mut found: HashMap<(u32, (Micros, Micros)), Found> = HashMap::new();
    let take = |numbers: &[u32], rows: &RecordBatch| {
        let (intervals, more) = (Intervals::of(rows)?, Columns::of(rows)?);
        for (row, number) in numbers.iter().enumerate() {
            let content = intervals.content(row)?;
            match found.entry((*number, intervals.interval(row))) {
                Entry::Occupied(known) if known.get().content.position >= content.position => {}
                place => _ = place.insert_entry(more.found(row, content)?),
            }
        }
        Some(())
    };
    Scan::new(lake, &TableDefinition::intervals(), "start", &columns)?.read(files, &numbered, take).await?;
    let there = found.into_iter().filter(|(_, found)| found.content.count > 0);
    Ok(there.map(|((number, interval), found)| make(Arc::clone(&series[number as usize]), interval, found)).collect())
}
