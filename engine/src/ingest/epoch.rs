//! The parts of one epoch, from every worker, and the state that they add up to. Pure.

use arrow::array::RecordBatch;
use meterline_connectors::kafka::TopicId;
use meterline_schemas::Micros;
use meterline_schemas::time::SECOND;
use serde::{Deserialize, Serialize};

use super::dataflow::CensusPart;
use super::dead_letters::{self, DeadLetter};
use super::error::IngestError;
use super::layout::{EpochRows, ShardRows};
use super::names::Names;
use super::rollup::coordinate::RollupParts;
use super::segments::Frames;
use super::shard::ShardPart;
use super::state::{IngestState, PartitionState};

/// How far one partition was read, and what this epoch added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Number of the feed.
    pub feed: u16,
    /// Its partition.
    pub partition: i32,
    /// Which of the topics that had this name.
    pub incarnation: u32,
    /// The topic's own identifier, where the broker has one.
    pub topic_id: Option<TopicId>,
    /// Offset at which reading of this incarnation began.
    pub first_offset: i64,
    /// Offset of the first record that was not read.
    pub next_offset: i64,
    /// The broker's end offset.
    pub end_offset: i64,
    /// The newest time stamp of a record of labels in this epoch; of readings, shards know which ones count.
    pub newest_record: Option<Micros>,
    /// Records read in this epoch.
    pub records: u64,
    /// Of them, those that could not be decoded.
    pub dead: u64,
    /// Offsets passed in this epoch that hold nothing to read.
    pub gaps: u64,
    /// Offsets passed in this epoch whose records were gone.
    pub expired: u64,
    /// Offsets of incarnations that ended in this epoch.
    pub earlier: i64,
}

impl Progress {
    /// Of a partition that is to be read from an offset on.
    pub fn begin(feed: u16, partition: i32, offset: i64) -> Progress {
        Progress {
            feed,
            partition,
            incarnation: 0,
            topic_id: None,
            first_offset: offset,
            next_offset: offset,
            end_offset: offset,
            newest_record: None,
            records: 0,
            dead: 0,
            gaps: 0,
            expired: 0,
            earlier: 0,
        }
    }

    /// Of a partition as a commit left it.
    pub fn of(feed: u16, partition: i32, state: &PartitionState) -> Progress {
        Progress {
            incarnation: state.incarnation,
            topic_id: state.topic_id,
            first_offset: state.first_offset,
            next_offset: state.next_offset,
            end_offset: state.end_offset,
            ..Progress::begin(feed, partition, state.next_offset)
        }
    }

    /// Whether nothing of this incarnation was read yet.
    pub fn is_new(&self) -> bool {
        self.next_offset == self.first_offset
    }

    /// A record is read. Offsets before it hold nothing.
    pub fn read(&mut self, offset: i64) {
        self.pass(offset);
        self.next_offset = offset + 1;
        self.records += 1;
    }

    /// A record with this time stamp (-1: none) said labels.
    pub fn said_labels(&mut self, timestamp_ms: i64) {
        if timestamp_ms >= 0 {
            self.newest_record = self.newest_record.max(Some(timestamp_ms.saturating_mul(1_000)));
        }
    }

    /// Offsets before `to` hold nothing more to read; whether there are any.
    pub fn pass(&mut self, to: i64) -> bool {
        let passed = to - self.next_offset;
        if passed <= 0 {
            return false;
        }
        self.gaps += passed.unsigned_abs();
        self.next_offset = to;
        true
    }

    /// Records before `to` are gone.
    pub fn lose(&mut self, to: i64) {
        self.expired += (to - self.next_offset).max(0).unsigned_abs();
        self.next_offset = self.next_offset.max(to);
    }

    /// The topic was created anew, and begins at `first`. What was not read of the old one is lost.
    pub fn restart(&mut self, first: i64) {
        self.lose(self.end_offset);
        self.earlier += self.next_offset - self.first_offset;
        (self.first_offset, self.next_offset, self.end_offset) = (first, first, first);
        self.incarnation += 1;
    }

    /// An epoch ends: what it added is handed in.
    pub fn hand_in(&mut self) -> Progress {
        let handed_in = *self;
        (self.newest_record, self.records, self.dead) = (None, 0, 0);
        (self.gaps, self.expired, self.earlier) = (0, 0, 0);
        handed_in
    }
}

/// What a source gives at the end of an epoch.
#[derive(Debug, Serialize, Deserialize)]
pub struct SourcePart {
    /// The epoch.
    pub epoch: u64,
    /// All of its partitions.
    pub partitions: Vec<Progress>,
    /// Records that could not be decoded.
    pub dead: Vec<DeadLetter>,
}

/// The parts of one epoch as they come in.
#[derive(Debug, Default)]
pub struct Parts {
    /// From the sources.
    pub sources: Vec<SourcePart>,
    /// From the shards.
    pub shards: Vec<ShardPart>,
    /// From the census.
    pub census: Vec<CensusPart>,
    /// From roll-ups, where there are any.
    pub rollups: RollupParts,
}

impl Parts {
    /// Whether every worker has handed in all of its parts, those of roll-ups included where there are any.
    pub fn complete(&self, workers: usize, rollups: bool) -> bool {
        [self.sources.len(), self.shards.len(), self.census.len()] == [workers; 3]
            && (!rollups || self.rollups.complete(workers))
    }

    /// Whether there are states to be written.
    pub fn has_states(&self) -> bool {
        self.shards.iter().any(ShardPart::has_states)
    }

    /// The states of series that leave memory, by shard.
    pub fn take_evicted(&mut self) -> Vec<Frames> {
        let evicted = self.shards.iter_mut().map(|part| std::mem::take(&mut part.evicted));
        evicted.filter(|frames| frames.series > 0).collect()
    }

    /// The states to be written, in a row.
    pub fn take_states(&mut self) -> Frames {
        let mut all = Frames::default();
        for part in &mut self.shards {
            all.append(std::mem::take(&mut part.states));
        }
        all
    }

    /// Whether offsets were passed that hold nothing to read, or are lost.
    pub fn has_gaps(&self) -> bool {
        self.progress().any(|progress| progress.gaps > 0 || progress.expired > 0 || progress.earlier > 0)
    }

    fn progress(&self) -> impl Iterator<Item = &Progress> {
        self.sources.iter().flat_map(|part| &part.partitions)
    }

    /// Notes the records a second since the commit before, which was made at `before`.
    pub fn rates(&self, state: &mut IngestState, feeds: &[String], before: Micros) {
        let seconds = state.committed_at.saturating_sub(before) as f64 / SECOND as f64;
        for (number, feed) in feeds.iter().enumerate() {
            let mine = self.progress().filter(|progress| usize::from(progress.feed) == number);
            let records: u64 = mine.map(|progress| progress.records).sum();
            if let Some(feed) = state.feeds.get_mut(feed) {
                feed.records_per_second = if before > 0 && seconds > 0.0 { records as f64 / seconds } else { 0.0 };
            }
        }
    }

    /// Records read in this epoch.
    pub fn records(&self) -> u64 {
        self.progress().map(|progress| progress.records).sum()
    }
}

/// Adds an epoch's positions and counts to a state. Watermarks stay; see [`super::idleness`].
pub fn add(state: &mut IngestState, parts: &Parts, names: &Names) {
    for part in &parts.sources {
        for progress in &part.partitions {
            let Some(feed) = state.feeds.get_mut(names.name(progress.feed)) else { continue };
            let partition = feed.partitions.entry(progress.partition).or_default();
            partition.incarnation = progress.incarnation;
            partition.topic_id = progress.topic_id.or(partition.topic_id);
            partition.first_offset = progress.first_offset;
            partition.next_offset = progress.next_offset;
            partition.end_offset = progress.end_offset.max(progress.next_offset);
            partition.newest_record = partition.newest_record.max(progress.newest_record);
            partition.gaps += progress.gaps;
            partition.expired += progress.expired;
            partition.earlier += progress.earlier;
            partition.counts.records += progress.records;
            partition.counts.dead += progress.dead;
            if names.source(progress.feed).is_some() {
                // What became of readings, shards say; labels are taken as they come.
                partition.counts.accepted += progress.records - progress.dead;
            }
        }
    }
    for part in &parts.shards {
        for (feed, tally) in names.all().iter().zip(&part.tallies) {
            let Some(feed) = state.feeds.get_mut(feed) else { continue };
            for (partition, change) in tally.changes() {
                let partition = feed.partitions.entry(partition).or_default();
                change.apply(&mut partition.counts);
                // A record that nobody can use vouches for no instant.
                partition.newest_record = partition.newest_record.max(change.newest_record());
            }
        }
    }
}

/// Rows for the tables `intervals` (with those of roll-ups) and `dead_letters`, of a commit at `committed_at`.
///
/// # Errors
/// A fault of ours: columns do not fit a table.
pub fn rows(
    parts: Parts,
    of_rollups: Option<ShardRows>,
    committed_at: Micros,
) -> Result<(EpochRows, Option<RecordBatch>), IngestError> {
    let mut dead: Vec<DeadLetter> = parts.sources.into_iter().flat_map(|part| part.dead).collect();
    let mut rows: Vec<ShardRows> = of_rollups.into_iter().filter(|of| !of.rows.is_empty()).collect();
    for part in parts.shards {
        dead.extend(part.dead);
        rows.extend(part.rows);
    }
    let fault = |error| IngestError::Fault(format!("making a batch of dead letters: {error}"));
    let letters = if dead.is_empty() { None } else { Some(dead_letters::batch(&dead, committed_at).map_err(fault)?) };
    Ok((EpochRows::new(rows), letters))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ingest::state::FeedState;

    #[derive(Debug, Clone)]
    enum Step {
        Read(i64),
        Pass(i64),
        Lose(i64),
        Restart(i64),
        Commit,
    }

    proptest! {
        /// Whatever happens to a partition, its counts add up to the offsets.
        #[test]
        fn the_counts_add_up_to_the_offsets_read(
            first in 0..9i64,
            steps in proptest::collection::vec(
                prop_oneof![
                    (0..5i64).prop_map(Step::Read),
                    (0..5i64).prop_map(Step::Pass),
                    (0..5i64).prop_map(Step::Lose),
                    (0..5i64).prop_map(Step::Restart),
                    Just(Step::Commit),
                ],
                0..60,
            ),
        ) {
            let mut config = meterline_schemas::config::Config::default();
            config.feed.insert("f".into(), meterline_schemas::config::FeedConfig::new("t", "s", "t", "v"));
            let names = Names::of(&config);
            let mut state = IngestState::default();
            state.feeds.insert("f".into(), FeedState::default());
            let mut progress = Progress::begin(0, 0, first);
            for step in steps.into_iter().chain([Step::Commit]) {
                match step {
                    Step::Read(skip) => progress.read(progress.next_offset + skip),
                    Step::Pass(skip) => _ = progress.pass(progress.next_offset + skip),
                    Step::Lose(skip) => progress.lose(progress.next_offset + skip),
                    Step::Restart(unread) => {
                        progress.end_offset = progress.next_offset + unread;
                        progress.restart(unread);
                    }
                    Step::Commit => {
                        let partitions = vec![progress.hand_in()];
                        let sources = vec![SourcePart { epoch: 1, partitions, dead: vec![] }];
                        add(&mut state, &Parts { sources, ..Parts::default() }, &names);
                        let at = &state.feeds["f"].partitions[&0];
                        let seen = at.counts.records as i64 + at.gaps as i64 + at.expired as i64;
                        prop_assert_eq!(seen, at.earlier + at.next_offset - at.first_offset);
                    }
                }
            }
        }
    }
}
