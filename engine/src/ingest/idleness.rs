//! Of which partitions something may still come. The clock comes from outside.
//!
//! A partition holds its feed's watermark
//!
//! * while readings were read from it within `ingest.idle_timeout`;
//! * while it has records that were not read, however long that takes (a slow store must not close intervals of which the
//!   readings wait in Kafka);
//! * while no broker can say where it ends, for at most `ingest.unreachable_timeout`: unread records may lie there.
//!
//! Every other partition is idle: empty ones, and those never read, hold nothing up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use meterline_schemas::Micros;
use meterline_schemas::config::{Config, IngestConfig};
use meterline_schemas::reading::Position;

use super::brokers::{Brokers, Known};
use super::census::Census;
use super::epoch::Parts;
use super::names::Names;
use super::state::{FeedState, IngestState, PartitionState};
use super::watermark::{self, Rules};

/// When partitions were last heard of.
#[derive(Debug, Default)]
pub struct Idleness {
    // `None` without a stream: nothing more comes.
    began: Option<Instant>,
    active: HashMap<(String, i32), Instant>,
}

impl Idleness {
    /// At the start of a stream: partitions that were read before may have more.
    pub fn new(state: &IngestState, now: Instant) -> Idleness {
        let partitions = state.feeds.iter().flat_map(|(name, feed)| {
            let live = feed.partitions.keys().filter(|partition| **partition != Position::BACKFILL_PARTITION);
            live.map(move |partition| ((name.clone(), *partition), now))
        });
        Idleness { began: Some(now), active: partitions.collect() }
    }

    /// Notes which partitions had readings.
    pub fn heard(&mut self, parts: &Parts, names: &Names, now: Instant) {
        for progress in parts.sources.iter().flat_map(|part| &part.partitions) {
            // Records that nobody can read say nothing about the meters.
            if progress.records > progress.dead {
                self.active.insert((names.name(progress.feed).to_owned(), progress.partition), now);
            }
        }
    }

    /// Moves every feed's watermark forward; whether any moved.
    pub fn advance(
        &self,
        feeds: &mut BTreeMap<String, FeedState>,
        census: &Census,
        config: &Config,
        brokers: &Brokers,
        now: Instant,
    ) -> bool {
        let mut moved = false;
        for (number, (name, configured)) in config.feed.iter().enumerate() {
            let Some(feed) = feeds.get_mut(name) else { continue };
            let known = if self.began.is_some() { brokers.partitions(name, now) } else { BTreeMap::new() };
            let holding = self.holding(name, feed, &known, &config.ingest, now);
            let before = feed.watermark;
            let ends = census.ends_by_partition(number as u16);
            watermark::advance(feed, &ends, Rules::of(configured), &holding, self.silence(name, now));
            moved |= feed.watermark != before;
        }
        moved
    }

    fn holding(
        &self,
        name: &str,
        feed: &FeedState,
        known: &BTreeMap<i32, Known>,
        config: &IngestConfig,
        now: Instant,
    ) -> BTreeSet<i32> {
        let live = feed.partitions.keys().filter(|partition| **partition != Position::BACKFILL_PARTITION);
        let all: BTreeSet<i32> = live.chain(known.keys()).copied().collect();
        let holds = |partition: &i32| {
            let last = self.active.get(&(name.to_owned(), *partition));
            let quiet = last.map(|last| now.saturating_duration_since(*last));
            may_have_more(quiet, feed.partitions.get(partition), known.get(partition), config)
        };
        // Without a stream nothing is waited for.
        if self.began.is_none() { BTreeSet::new() } else { all.into_iter().filter(holds).collect() }
    }

    // How long nothing was read of a feed.
    fn silence(&self, name: &str, now: Instant) -> Micros {
        let Some(began) = self.began else { return Micros::MAX };
        let heard = self.active.iter().filter(|((feed, _), _)| feed == name).map(|(_, last)| *last);
        let silence = now.saturating_duration_since(heard.max().unwrap_or(began));
        Micros::try_from(silence.as_micros()).unwrap_or(Micros::MAX)
    }
}

/// Whether something may still come of a partition. `quiet` is how long it gave no reading, `None` if it never did.
fn may_have_more(
    quiet: Option<Duration>,
    read: Option<&PartitionState>,
    known: Option<&Known>,
    config: &IngestConfig,
) -> bool {
    if quiet.is_some_and(|quiet| quiet < config.idle_timeout.to_std()) {
        return true;
    }
    let Some(known) = known else { return false };
    let unread = match read {
        Some(read) => known.end.unwrap_or(read.end_offset) > read.next_offset,
        None => known.end.zip(known.first).is_some_and(|(end, first)| end > first),
    };
    match known.unknown_for {
        Some(unknown_for) => unknown_for < config.unreachable_timeout.to_std(),
        None => unread,
    }
}

#[cfg(test)]
mod tests {
    use meterline_schemas::Frequency;
    use meterline_schemas::config::FeedConfig;
    use meterline_schemas::time::HOUR;
    use meterline_schemas::unit::Unit;
    use proptest::prelude::*;

    use super::super::epoch::{Progress, SourcePart, add};
    use super::super::series::SeriesState;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn series(id: &str, partition: i32, hours: i64) -> SeriesState {
        let mut state = SeriesState::new("f", id, Unit::KWH);
        state.frequency = Some(Frequency::HOUR);
        state.partition = partition;
        state.last_start = Some((hours - 1) * HOUR);
        state.first_start = state.last_start;
        state
    }

    fn part(partitions: Vec<Progress>) -> Parts {
        Parts { sources: vec![SourcePart { epoch: 1, partitions, dead: vec![] }], ..Parts::default() }
    }

    fn progress(partition: i32, lag: i64) -> Progress {
        let mut progress = Progress::begin(0, partition, 0);
        (progress.next_offset, progress.end_offset, progress.records) = (3, 3 + lag, 3);
        progress
    }

    /// Partition 1 was read until hour 4 and has `lag` unread records; partition 0 goes on at hour 9. Whether partition 1
    /// still holds the watermark so many seconds later, when its leader has been away for `away` of them.
    fn holds(lag: i64, seconds: u32, away: Option<u32>) -> bool {
        let mut config = Config::default();
        let feed = FeedConfig { lateness: Default::default(), ..FeedConfig::new("t", "s", "t", "v") };
        config.feed.insert("f".into(), feed);
        let names = Names::of(&config);
        let census = Census::of(&config, &[series("a", 0, 9), series("b", 0, 9), series("c", 1, 4)]);
        let start = Instant::now();
        let mut state = IngestState::default();
        state.feeds.insert("f".into(), FeedState::default());
        let parts = part(vec![progress(0, 0), progress(1, lag)]);
        add(&mut state, &parts, &names);
        let mut idleness = Idleness::new(&IngestState::default(), start);
        idleness.heard(&parts, &names, start);
        let brokers = Brokers::new(start);
        brokers.answered("f", 0, 0, 3, start);
        brokers.answered("f", 1, 0, 3 + lag, start);
        let now = start + SECOND * seconds;
        idleness.heard(&part(vec![progress(0, 0)]), &names, now);
        brokers.answered("f", 0, 0, 3, now);
        match away {
            Some(away) => brokers.unanswered("f", 1, "no leader".into(), now - SECOND * away),
            None => brokers.answered("f", 1, 0, 3 + lag, now),
        }
        idleness.advance(&mut state.feeds, &census, &config, &brokers, now);
        match state.feeds["f"].watermark {
            Some(at) if at == 4 * HOUR => true,
            Some(at) if at == 9 * HOUR => false,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_empty_partition_holds_for_the_idle_timeout_and_unread_records_for_ever() {
        assert!(holds(0, 29, None) && !holds(0, 30, None));
        assert!(holds(5, 30, None) && holds(5, 1_000_000, None));
    }

    #[test]
    fn a_partition_whose_end_nobody_knows_holds_up_to_a_limit() {
        assert!(holds(0, 60, Some(10)), "its leader went away after it was idle: something may have come before");
        assert!(holds(0, 3_599, Some(3_599)) && holds(5, 3_599, Some(3_599)));
        assert!(!holds(0, 3_600, Some(3_600)) && !holds(5, 3_700, Some(3_600)));
    }

    #[test]
    fn a_partition_that_was_just_found_holds_while_it_has_records() {
        let config = IngestConfig::default();
        let known = |first, end| Known { first: Some(first), end: Some(end), unknown_for: None };
        assert!(may_have_more(None, None, Some(&known(3, 5)), &config));
        assert!(!may_have_more(None, None, Some(&known(5, 5)), &config));
        assert!(!may_have_more(None, None, None, &config), "a partition that is no longer there");
    }

    proptest! {
        /// Unread records are never passed, whatever else is known.
        #[test]
        fn what_is_in_flight_holds(quiet in 0..9_000u64, next in 0..50i64, unread in 1..50i64, end in 0..99i64) {
            let config = IngestConfig::default();
            let read = PartitionState { next_offset: next, end_offset: end, ..PartitionState::default() };
            let known = Known { first: Some(0), end: Some(next + unread), unknown_for: None };
            prop_assert!(may_have_more(Some(Duration::from_secs(quiet)), Some(&read), Some(&known), &config));
        }
    }
}
