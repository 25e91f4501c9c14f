//! The parts of one epoch, from every worker, and the state that they add up to. Pure.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use arrow::array::RecordBatch;
use meterline_schemas::config::Config;
use meterline_schemas::reading::Position;

use super::census::Census;
use super::dataflow::CensusPart;
use super::dead_letters::{self, DeadLetter};
use super::error::IngestError;
use super::layout::EpochRows;
use super::segments::Frames;
use super::shard::ShardPart;
use super::state::{FeedState, IngestState};
use super::watermark;

/// How far one partition was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Number of the feed.
    pub feed: u16,
    /// Its partition.
    pub partition: i32,
    /// Offset of the first record that was not read.
    pub next_offset: i64,
    /// The broker's end offset.
    pub end_offset: i64,
    /// Records read in this epoch.
    pub records: u64,
    /// Of them, those that could not be decoded.
    pub dead: u64,
}

/// What a source gives at the end of an epoch.
#[derive(Debug)]
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
}

impl Parts {
    /// Whether every worker has handed in all of its parts.
    pub fn complete(&self, workers: usize) -> bool {
        [self.sources.len(), self.shards.len(), self.census.len()] == [workers; 3]
    }

    /// Whether there are states to be written.
    pub fn has_states(&self) -> bool {
        self.shards.iter().any(|part| part.states.series > 0)
    }

    /// The states to be written, in a row.
    pub fn take_states(&mut self) -> Frames {
        let mut all = Frames::default();
        for part in &mut self.shards {
            let mut states = std::mem::take(&mut part.states);
            all.series += states.series;
            all.bytes.append(&mut states.bytes);
        }
        all
    }

    /// Records read in this epoch.
    pub fn records(&self) -> u64 {
        self.sources.iter().flat_map(|part| &part.partitions).map(|progress| progress.records).sum()
    }
}

/// Adds an epoch's positions and counts to a state. Watermarks stay; see [`Idleness::advance`].
pub fn add(state: &mut IngestState, parts: &Parts, feeds: &[String]) {
    for part in &parts.sources {
        for progress in &part.partitions {
            let Some(feed) = state.feeds.get_mut(&feeds[usize::from(progress.feed)]) else { continue };
            let partition = feed.partitions.entry(progress.partition).or_default();
            partition.next_offset = progress.next_offset;
            partition.end_offset = progress.end_offset.max(progress.next_offset);
            partition.counts.records += progress.records;
            partition.counts.dead += progress.dead;
        }
    }
    for part in &parts.shards {
        for (feed, tally) in feeds.iter().zip(&part.tallies) {
            let Some(feed) = state.feeds.get_mut(feed) else { continue };
            for (partition, change) in tally.changes() {
                change.apply(&mut feed.partitions.entry(partition).or_default().counts);
            }
        }
    }
}

/// Rows for the tables `intervals` and `dead_letters`.
///
/// # Errors
/// A fault of ours: columns do not fit a table.
pub fn rows(parts: Parts) -> Result<(EpochRows, Option<RecordBatch>), IngestError> {
    let mut dead: Vec<DeadLetter> = parts.sources.into_iter().flat_map(|part| part.dead).collect();
    let mut rows = Vec::new();
    for part in parts.shards {
        dead.extend(part.dead);
        rows.extend(part.rows);
    }
    let fault = |error| IngestError::Fault(format!("making a batch of dead letters: {error}"));
    let letters = if dead.is_empty() { None } else { Some(dead_letters::batch(&dead).map_err(fault)?) };
    Ok((EpochRows::new(rows), letters))
}

/// When partitions were last heard of. The clock comes from outside.
#[derive(Debug, Default)]
pub struct Idleness {
    active: HashMap<(String, i32), Instant>,
}

impl Idleness {
    /// At the start of a stream: partitions that were read before may have more.
    pub fn new(state: &IngestState, now: Instant) -> Idleness {
        let partitions = state.feeds.iter().flat_map(|(name, feed)| {
            let live = feed.partitions.keys().filter(|partition| **partition != Position::BACKFILL_PARTITION);
            live.map(move |partition| ((name.clone(), *partition), now))
        });
        Idleness { active: partitions.collect() }
    }
}

/// A partition whose lag does not move for this many idle time-outs counts as idle all the same.
const STUCK_TIMEOUTS: u32 = 10;

impl Idleness {
    /// Notes which partitions had records, or have some waiting for the first time.
    pub fn heard(&mut self, parts: &Parts, feeds: &[String], now: Instant) {
        for progress in parts.sources.iter().flat_map(|part| &part.partitions) {
            let key = (feeds[usize::from(progress.feed)].clone(), progress.partition);
            // Records that nobody can read say nothing about the meters.
            if progress.records > progress.dead {
                self.active.insert(key, now);
            } else if progress.end_offset > progress.next_offset {
                self.active.entry(key).or_insert(now);
            }
        }
    }

    /// Moves every feed's watermark forward; whether any moved.
    pub fn advance(
        &self,
        feeds: &mut BTreeMap<String, FeedState>,
        census: &Census,
        config: &Config,
        now: Instant,
    ) -> bool {
        let timeout = config.ingest.idle_timeout.to_std();
        let mut moved = false;
        for (number, (name, configured)) in config.feed.iter().enumerate() {
            let Some(feed) = feeds.get_mut(name) else { continue };
            let lagging: BTreeMap<i32, bool> =
                feed.partitions.iter().map(|(p, state)| (*p, state.end_offset > state.next_offset)).collect();
            let idle = |partition: i32| {
                let Some(last) = self.active.get(&(name.clone(), partition)) else { return true };
                let lagging = lagging.get(&partition).copied().unwrap_or(false);
                let patience = if lagging { timeout * STUCK_TIMEOUTS } else { timeout };
                now.saturating_duration_since(*last) >= patience
            };
            let before = feed.watermark;
            let times = watermark::event_times(census, number as u16);
            watermark::advance(feed, &times, configured.lateness.micros(), idle);
            moved |= feed.watermark != before;
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use meterline_schemas::Frequency;
    use meterline_schemas::config::FeedConfig;
    use meterline_schemas::time::HOUR;
    use meterline_schemas::unit::Unit;

    use super::super::series::SeriesState;
    use super::*;

    fn series(feed: &str, id: &str, partition: i32, hours: i64) -> SeriesState {
        let mut state = SeriesState::new(feed, id, Unit::KWH);
        state.frequency = Some(Frequency::HOUR);
        state.partition = partition;
        state.last_start = Some((hours - 1) * HOUR);
        state.first_start = state.last_start;
        state
    }

    fn progress(partition: i32, records: u64, lag: i64) -> Progress {
        Progress { feed: 0, partition, next_offset: 10, end_offset: 10 + lag, records, dead: 0 }
    }

    #[test]
    fn a_partition_with_unread_records_holds_the_watermark_longer_than_an_idle_one() {
        let mut config = Config::default();
        config
            .feed
            .insert("f".into(), FeedConfig { lateness: Default::default(), ..FeedConfig::new("t", "s", "t", "v") });
        let names = ["f".to_owned()];
        let members = [series("f", "a", 0, 9), series("f", "b", 1, 4)];
        let census = Census::of(&config, &members);
        let start = Instant::now();
        for (lag, held_s, free_s) in [(0, 29, 30), (5, 299, 300)] {
            let mut state = IngestState::default();
            state.feeds.insert("f".into(), FeedState::default());
            let source =
                SourcePart { epoch: 1, partitions: vec![progress(0, 3, 0), progress(1, 3, lag)], dead: vec![] };
            let parts = Parts { sources: vec![source], ..Parts::default() };
            add(&mut state, &parts, &names);
            let mut idleness = Idleness::default();
            idleness.heard(&parts, &names, start);
            let mut after = |seconds: u64| {
                // The other partition goes on.
                let now = start + Duration::from_secs(seconds);
                let source = SourcePart { epoch: 2, partitions: vec![progress(0, 1, 0)], dead: vec![] };
                idleness.heard(&Parts { sources: vec![source], ..Parts::default() }, &names, now);
                idleness.advance(&mut state.feeds, &census, &config, now);
                state.feeds["f"].watermark
            };
            assert_eq!(after(held_s), Some(4 * HOUR));
            assert_eq!(after(free_s), Some(9 * HOUR));
        }
    }
}
