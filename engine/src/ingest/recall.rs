//! Looking up in the lake what a series no longer remembers.
//!
//! At the end of an epoch each shard says which intervals it [`Wanted`]; everything written before that epoch is
//! committed by then, so the files of the table have the answer. They are sorted by series, and their statistics say
//! which of them matter.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use arrow::array::{Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use compact_str::CompactString;
use meterline_connectors::lake::{Lake, LakeError, TableDefinition, TableOwner};
use meterline_schemas::Micros;
use meterline_schemas::reading::{Position, Quality};
use meterline_schemas::unit::Unit;
use serde::{Deserialize, Serialize};

use super::rows::Content;
use super::scan::{Scan, column, concerned};
use super::segments::Frames;
use super::series::PendingReading;

/// Rows of the files to be read above which intervals are not looked up: all that is lost then is whether a reading
/// repeats an interval or corrects it. Samples, registers, what a new era takes away and what one may have taken away
/// are looked up whatever it takes.
pub(super) const ROWS_MAX: u64 = 100_000_000;

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
    /// Number of the feed that the intervals or samples are of.
    pub feed: u16,
    /// Series that are not in memory, in the order of their routes: these, or else what follows.
    pub series: Vec<CompactString>,
    /// Intervals.
    pub intervals: Vec<Want>,
    /// Intervals with the samples or registers that they are made of.
    pub samples: Vec<Want>,
    /// Whether more depends on the intervals than how a reading is counted: then they are looked up whatever it takes.
    pub needed: bool,
}

impl Wanted {
    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty() && self.intervals.is_empty() && self.samples.is_empty()
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
    /// The states of [`Wanted::series`], of those that are there.
    pub series: Frames,
    /// Intervals by start and end, as they were written last.
    pub intervals: Vec<(u32, (Micros, Micros), Content)>,
    /// Samples and registers.
    pub samples: Vec<(u32, PendingReading)>,
    /// [`Wanted::intervals`] were not looked up: it would have taken too long.
    pub declined: bool,
}

/// Looks up the intervals and samples that are wanted in the newest versions of the tables; intervals that are not
/// [needed](Wanted::needed) only where that does not take too long, if it `may_decline`.
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
    let scan = Scan::new(lake, &TableDefinition::intervals(), "start", &INTERVAL_COLUMNS)?;
    let may_decline = may_decline && !wanted.needed;
    for (wants, may_decline) in [(&wanted.intervals, may_decline), (&wanted.samples, false)] {
        let files = concerned(&all, wants, "start");
        if may_decline && files.iter().map(|file| file.rows).sum::<u64>() > ROWS_MAX {
            found.declined = true;
            continue;
        }
        let take = |numbers: &[u32], rows: &RecordBatch| {
            let columns = Intervals::of(rows)?;
            for (row, number) in numbers.iter().enumerate() {
                let content = columns.content(row)?;
                match newest.entry((*number, columns.interval(row))) {
                    Entry::Occupied(known) if known.get().position >= content.position => {}
                    place => _ = place.insert_entry(content),
                }
            }
            Some(())
        };
        scan.read(files, wants, take).await?;
    }
    found.intervals = newest.into_iter().map(|((number, interval), content)| (number, interval, content)).collect();
    if !wanted.samples.is_empty() {
        // The register at the end of the last interval belongs to it.
        let wants: Vec<Want> = wanted.samples.iter().map(|want| Want { to: want.to + 1, ..want.clone() }).collect();
        let files = concerned(&samples.files()?, &wants, "at");
        let take = |numbers: &[u32], rows: &RecordBatch| {
            let columns = SampleColumns::of(rows)?;
            for (row, number) in numbers.iter().enumerate() {
                found.samples.push((*number, columns.sample(row)?));
            }
            Some(())
        };
        Scan::new(lake, &TableDefinition::samples(), "at", &SAMPLE_COLUMNS)?.read(files, &wants, take).await?;
    }
    Ok(found)
}

/// What [`Intervals`] are made of.
pub(super) const INTERVAL_COLUMNS: [&str; 8] =
    ["start", "end", "value", "count", "quality", "position_timestamp", "partition", "offset"];
/// What [`SampleColumns`] are made of.
const SAMPLE_COLUMNS: [&str; 7] = ["at", "value", "unit", "quality", "position_timestamp", "partition", "offset"];

/// Columns of `intervals`.
pub(super) struct Intervals<'a> {
    start: &'a TimestampMicrosecondArray,
    end: &'a TimestampMicrosecondArray,
    value: &'a Float64Array,
    count: &'a Int32Array,
    quality: &'a StringArray,
    position: Positions<'a>,
}

impl<'a> Intervals<'a> {
    pub(super) fn of(rows: &'a RecordBatch) -> Option<Intervals<'a>> {
        let (start, end, quality) = (column(rows, "start")?, column(rows, "end")?, column(rows, "quality")?);
        let (value, count, position) = (column(rows, "value")?, column(rows, "count")?, Positions::of(rows)?);
        Some(Intervals { start, end, value, count, quality, position })
    }

    /// Start and end.
    pub(super) fn interval(&self, row: usize) -> (Micros, Micros) {
        (self.start.value(row), self.end.value(row))
    }

    /// `None` where the quality is none.
    pub(super) fn content(&self, row: usize) -> Option<Content> {
        Some(Content {
            value: self.value.value(row),
            count: self.count.value(row),
            quality: quality(self.quality, row)?,
            position: self.position.get(row),
        })
    }
}

/// Columns of `samples`.
struct SampleColumns<'a> {
    at: &'a TimestampMicrosecondArray,
    value: &'a Float64Array,
    unit: &'a StringArray,
    quality: &'a StringArray,
    position: Positions<'a>,
}

impl<'a> SampleColumns<'a> {
    fn of(rows: &'a RecordBatch) -> Option<SampleColumns<'a>> {
        let (at, value, unit) = (column(rows, "at")?, column(rows, "value")?, column(rows, "unit")?);
        Some(SampleColumns { at, value, unit, quality: column(rows, "quality")?, position: Positions::of(rows)? })
    }

    fn sample(&self, row: usize) -> Option<PendingReading> {
        let Ok(unit) = self.unit.value(row).parse::<Unit>();
        Some(PendingReading {
            at: self.at.value(row),
            value: self.value.value(row),
            scale: unit.scale(),
            quality: quality(self.quality, row)?,
            position: self.position.get(row),
        })
    }
}

struct Positions<'a> {
    timestamp: &'a Int64Array,
    partition: &'a Int32Array,
    offset: &'a Int64Array,
}

impl<'a> Positions<'a> {
    fn of(rows: &'a RecordBatch) -> Option<Positions<'a>> {
        let (timestamp, partition) = (column(rows, "position_timestamp")?, column(rows, "partition")?);
        Some(Positions { timestamp, partition, offset: column(rows, "offset")? })
    }

    fn get(&self, row: usize) -> Position {
        Position {
            timestamp_ms: self.timestamp.value(row),
            partition: self.partition.value(row),
            offset: self.offset.value(row),
        }
    }
}

fn quality(column: &StringArray, row: usize) -> Option<Quality> {
    column.value(row).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::scan::of_series;
    use super::*;

    fn want(series: u32, id: &str, from: Micros, to: Micros) -> Want {
        Want { series, id: id.into(), from, to }
    }

    #[test]
    fn what_is_wanted_twice_is_looked_up_once() {
        let mut wanted = Wanted {
            intervals: vec![want(1, "b", 5, 6), want(0, "a", 9, 10), want(1, "b", 0, 5), want(1, "b", 8, 9)],
            ..Wanted::default()
        };
        wanted.tidy();
        assert_eq!(wanted.intervals, [want(0, "a", 9, 10), want(1, "b", 0, 6), want(1, "b", 8, 9)]);
        assert_eq!(of_series(&wanted.intervals, "b"), &wanted.intervals[1..]);
        assert!(of_series(&wanted.intervals, "c").is_empty() && of_series(&wanted.intervals, "").is_empty());
    }
}
