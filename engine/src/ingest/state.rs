//! What a commit says of the stream: how far each partition was read, what became of the records, and which files hold
//! the states of the series.
//!
//! The state never holds what the lake can answer: an interval that was written is in the table, and among the rows
//! of one interval the greatest [`Position`](meterline_schemas::reading::Position) wins, so truth does not depend on
//! what is remembered here.

use std::collections::BTreeMap;

use meterline_connectors::kafka::TopicId;
use meterline_connectors::lake::DataFile;
use meterline_schemas::{Frequency, Micros};
use serde::{Deserialize, Serialize};

use super::evicted::Run;
use super::segments::Segment;

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
    /// The files with the states of the series in memory, the oldest first: of two states of one series the later
    /// file's counts.
    pub segments: Vec<Segment>,
    /// The files with the states of the series that left it, the oldest first.
    #[serde(default)]
    pub evicted: Vec<Run>,
    /// What roll-ups remember.
    #[serde(default)]
    pub rollups: RollupsState,
    /// Data files of `samples` that belong to this commit; re-committed at start if the engine died in between.
    #[serde(default)]
    pub sample_files: Vec<DataFile>,
    /// Data files of `dead_letters` that belong to this commit; re-committed at start if the engine died in between.
    pub dead_letter_files: Vec<DataFile>,
}

impl IngestState {
    /// Paths of all segments that it names, and of the files of all runs.
    pub fn segment_paths(&self) -> impl Iterator<Item = &str> + '_ {
        let rollups = self.rollups.members.iter().chain(&self.rollups.said);
        let segments = self.segments.iter().chain(rollups).map(|segment| segment.path.as_str());
        segments.chain(self.evicted.iter().flat_map(|run| &run.files).map(|file| file.path.as_str()))
    }
}

/// State of the roll-ups; the rest is in their rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RollupsState {
    /// Unix milliseconds that the positions of their rows have reached.
    pub clock_ms: i64,
    /// The files with what is remembered of their series, as [`IngestState::segments`].
    pub members: Vec<Segment>,
    /// Labels that hold from the next commit on.
    pub said: Option<Segment>,
    /// By name.
    pub by_name: BTreeMap<String, RollupState>,
}

/// State of one roll-up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RollupState {
    /// What it computes: its configuration, but for what concerns memory alone.
    pub definition: String,
    /// By length: end of the last interval that was written.
    pub newest: BTreeMap<Frequency, Micros>,
    /// Intervals of series that belong to no group.
    pub unlabelled: i64,
}

/// State of one feed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FeedState {
    /// Topic that the positions are about.
    pub topic: String,
    /// All intervals that end at or before it are closed; `None` before the first reading.
    pub watermark: Option<Micros>,
    /// End of the newest interval that was committed, but for that of one series in twenty and of clocks that run
    /// ahead.
    pub newest: Option<Micros>,
    /// Records a second between the last two commits of what was read.
    pub records_per_second: f64,
    /// By Kafka partition; -1 counts backfill.
    pub partitions: BTreeMap<i32, PartitionState>,
}

/// State of one partition. What was read of it adds up:
/// `records + gaps + expired = earlier + next_offset - first_offset`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PartitionState {
    /// Which of the topics that had this name, from 0: one more each time that it was created anew.
    pub incarnation: u32,
    /// The topic's own identifier, where the broker has one.
    pub topic_id: Option<TopicId>,
    /// Offset at which reading of this incarnation began.
    pub first_offset: i64,
    /// Offset of the first record that is not yet part of a commit.
    pub next_offset: i64,
    /// Offsets of earlier incarnations.
    pub earlier: i64,
    /// Offsets that hold nothing to read: aborted transactions, the marks of transactions, and what was compacted away.
    pub gaps: u64,
    /// Offsets whose records were gone before they were read.
    pub expired: u64,
    /// The broker's end offset when the commit was made; lag is its distance from `next_offset`.
    pub end_offset: i64,
    /// Event time reached, less the feed's lateness.
    pub watermark: Option<Micros>,
    /// End of the newest interval that was committed of the series last seen in it, but for that of one series in twenty
    /// and of clocks that run ahead.
    pub newest: Option<Micros>,
    /// The newest time stamp of a record; `None` where records have none.
    pub newest_record: Option<Micros>,
    /// What became of the records.
    pub counts: Counts,
}

impl PartitionState {
    /// Records in Kafka that no commit holds, as far as was known when the commit was made.
    pub fn lag(&self) -> i64 {
        (self.end_offset - self.next_offset).max(0)
    }
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
    /// Records that changed nothing: repeated, or overtaken by one with a greater position.
    pub duplicate: u64,
    /// Records that could not be read, or whose readings could not be used.
    pub dead: u64,
    /// Records held until the native frequency of their series is known, or is certain again.
    pub pending: u64,
    /// Of the accepted and corrected: those that came after the watermark had passed their interval.
    pub late: u64,
}
