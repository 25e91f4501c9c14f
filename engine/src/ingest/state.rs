//! What a commit remembers beside its data files: positions, watermarks, and one small record a series.
//!
//! The state never holds what the lake can answer: an interval that was written is in the table, and among the rows
//! of one interval the greatest [`Position`] wins, so truth does not depend on
//! what is remembered here.

use std::collections::BTreeMap;

use meterline_connectors::lake::DataFile;
use meterline_schemas::reading::Position;
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};
use serde::{Deserialize, Serialize};

/// State as of one commit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IngestState {
    /// Number of the commit, from 1.
    pub seq: i64,
    /// Fence of the writer that made it.
    pub fence: i64,
    /// Wall clock of the commit.
    pub committed_at: Micros,
    /// By feed name.
    pub feeds: BTreeMap<String, FeedState>,
    /// Every series seen, ordered by (feed, id).
    pub series: Vec<SeriesState>,
    /// Data files of `dead_letters` that belong to this commit; re-committed at start if the engine died in between.
    pub dead_letter_files: Vec<DataFile>,
}

/// State of one feed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FeedState {
    /// Topic that the positions are about.
    pub topic: String,
    /// All intervals that end at or before it are closed; `None` before the first reading.
    pub watermark: Option<Micros>,
    /// By Kafka partition; -1 counts backfill.
    pub partitions: BTreeMap<i32, PartitionState>,
}

/// State of one partition.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PartitionState {
    /// Offset of the first record that is not yet part of a commit.
    pub next_offset: i64,
    /// The broker's end offset when the commit was made; lag is its distance from `next_offset`.
    pub end_offset: i64,
    /// Event time reached, less the feed's lateness.
    pub watermark: Option<Micros>,
    /// What became of the records.
    pub counts: Counts,
}

/// What became of records. `records` is the sum of all the others but `late`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Records read.
    pub records: u64,
    /// Records that became the first value of an interval (or a part of it).
    pub accepted: u64,
    /// Records that changed an interval already written, or may have.
    pub corrected: u64,
    /// Records that changed nothing.
    pub duplicate: u64,
    /// Records that could not be read.
    pub dead: u64,
    /// Records held until the native frequency of their series is known.
    pub pending: u64,
    /// Of the accepted and corrected: those that came after the watermark had passed their interval.
    pub late: u64,
}

/// State of one series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeriesState {
    /// Feed that it comes from.
    pub feed: String,
    /// Identifier.
    pub id: String,
    /// Native frequency; `None` while it is being detected.
    pub frequency: Option<Frequency>,
    /// Whether the frequency was declared (else detected).
    pub declared: bool,
    /// Unit of the stored values.
    pub unit: Unit,
    /// Start of the first interval written.
    pub first_start: Option<Micros>,
    /// Start of the last interval written.
    pub last_start: Option<Micros>,
    /// Bit i: the interval i steps before `last_start` was written. Completeness comes from it.
    pub recent: u128,
    /// Starts `[from, to)` before `last_start` where surely nothing was written: the longest holes that history, read
    /// after newer data, may still fill without being taken for a correction.
    pub unwritten: Vec<(Micros, Micros)>,
    /// Intervals written for the first time.
    pub intervals: u64,
    /// Kafka partition it was last seen in; its event time counts there.
    pub partition: i32,
    /// Greatest position of a row made from several readings (kinds `counter` and `gauge`): later rows are placed
    /// above it, so that of two rows of one interval the later always wins.
    pub last_position: Option<Position>,
    /// Readings that wait for the native frequency: stamp, value, quality and position.
    pub pending: Vec<PendingReading>,
    /// Counter registers and gauge samples that later readings are compared with, by stamp; empty for `interval`.
    pub samples: Vec<PendingReading>,
}

impl SeriesState {
    /// A series of which nothing is known yet but its feed, its identifier and the unit its values are stored in.
    pub fn new(feed: &str, id: &str, unit: Unit) -> SeriesState {
        SeriesState {
            feed: feed.into(),
            id: id.into(),
            frequency: None,
            declared: false,
            unit,
            first_start: None,
            last_start: None,
            recent: 0,
            unwritten: Vec::new(),
            intervals: 0,
            partition: Position::BACKFILL_PARTITION,
            last_position: None,
            pending: Vec::new(),
            samples: Vec::new(),
        }
    }
}

/// A reading kept in the state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PendingReading {
    /// The reading's stamp.
    pub at: Micros,
    /// Its value in its own unit.
    pub value: f64,
    /// Its unit.
    pub unit: Unit,
    /// Its quality.
    pub quality: meterline_schemas::reading::Quality,
    /// Where it came from.
    pub position: Position,
}
