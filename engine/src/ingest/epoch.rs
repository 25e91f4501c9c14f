//! The parts of one epoch, from every worker, and the state that they add up to. Pure.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use jiff::tz::TimeZone;
use meterline_schemas::Micros;
use meterline_schemas::config::Config;

use super::dead_letters::DeadLetter;
use super::shard::ShardPart;
use super::state::{FeedState, IngestState, SeriesState};
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
}

impl Parts {
    /// Whether every worker has handed in both of its parts.
    pub fn complete(&self, workers: usize) -> bool {
        self.sources.len() == workers && self.shards.len() == workers
    }

    /// Records read in this epoch.
    pub fn records(&self) -> u64 {
        self.sources.iter().flat_map(|part| &part.partitions).map(|progress| progress.records).sum()
    }
}

/// Adds an epoch's positions, counts and series to a state. Watermarks stay; see [`Idleness::advance`].
pub fn add(state: &mut IngestState, parts: &mut Parts, feeds: &[String]) {
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
    let mut touched = Vec::new();
    for part in &mut parts.shards {
        for (feed, tally) in feeds.iter().zip(&part.tallies) {
            let Some(feed) = state.feeds.get_mut(feed) else { continue };
            for (partition, change) in tally.changes() {
                change.apply(&mut feed.partitions.entry(partition).or_default().counts);
            }
        }
        touched.append(&mut part.series);
    }
    merge(&mut state.series, touched);
}

fn order(a: &SeriesState, b: &SeriesState) -> Ordering {
    (&a.feed, &a.id).cmp(&(&b.feed, &b.id))
}

// Both become one list, ordered by (feed, id); of two states of one series the new one stays.
fn merge(known: &mut Vec<SeriesState>, mut new: Vec<SeriesState>) {
    new.sort_unstable_by(order);
    let mut added = Vec::new();
    for state in new {
        match known.binary_search_by(|probe| order(probe, &state)) {
            Ok(index) => known[index] = state,
            Err(_) => added.push(state),
        }
    }
    if !added.is_empty() {
        known.append(&mut added);
        // Two ordered runs: the stable sort merges them.
        known.sort_by(order);
    }
}

/// When partitions were last heard of. The clock comes from outside.
#[derive(Debug, Default)]
pub struct Idleness {
    active: HashMap<(String, i32), Instant>,
}

/// A partition whose lag does not move for this many idle time-outs counts as idle all the same.
const STUCK_TIMEOUTS: u32 = 10;

impl Idleness {
    /// Notes which partitions had records, or have some waiting for the first time.
    pub fn heard(&mut self, parts: &Parts, feeds: &[String], now: Instant) {
        for progress in parts.sources.iter().flat_map(|part| &part.partitions) {
            let key = (feeds[usize::from(progress.feed)].clone(), progress.partition);
            if progress.records > 0 {
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
        series: &[SeriesState],
        config: &Config,
        now: Instant,
    ) -> bool {
        let timeout = config.ingest.idle_timeout.to_std();
        let mut times: BTreeMap<&str, BTreeMap<i32, Micros>> = BTreeMap::new();
        for members in series.chunk_by(|a, b| a.feed == b.feed) {
            let Some(name) = members.first().map(|series| series.feed.as_str()) else { continue };
            let zone = config.feed.get(name).and_then(|feed| TimeZone::get(&feed.zone).ok()).unwrap_or(TimeZone::UTC);
            times.insert(name, watermark::event_times(members.iter(), &zone));
        }
        let none = BTreeMap::new();
        let mut moved = false;
        for (name, feed) in feeds {
            let Some(lateness) = config.feed.get(name).map(|feed| feed.lateness.micros()) else { continue };
            let lagging: BTreeMap<i32, bool> =
                feed.partitions.iter().map(|(p, state)| (*p, state.end_offset > state.next_offset)).collect();
            let idle = |partition: i32| {
                let Some(last) = self.active.get(&(name.clone(), partition)) else { return true };
                let lagging = lagging.get(&partition).copied().unwrap_or(false);
                let patience = if lagging { timeout * STUCK_TIMEOUTS } else { timeout };
                now.saturating_duration_since(*last) >= patience
            };
            let before = feed.watermark;
            watermark::advance(feed, times.get(name.as_str()).unwrap_or(&none), lateness, idle);
            moved |= feed.watermark != before;
        }
        moved
    }
}
