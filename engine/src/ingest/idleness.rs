//! Of which partitions something may still come. The clock comes from outside.
//!
//! A partition holds its feed's watermark
//!
//! * while readings were read from it within `ingest.idle_timeout`;
//! * while it is known to have records that were not read, however long that takes and whoever is away (neither a slow
//!   store nor a broker that is repaired may close intervals of which the readings wait in Kafka);
//! * while no broker can say where it ends, for at most `ingest.unreachable_timeout`: more unread records may lie there.
//!
//! Where a partition has unread records and gave no reading for `ingest.unreachable_timeout` (a minute at least), the log
//! says so, and again after as long: its intervals stay open until somebody does something about it.
//!
//! Every other partition is idle: empty ones, those never read, and those that are gone hold nothing up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use meterline_schemas::Micros;
use meterline_schemas::config::{Config, IngestConfig};
use meterline_schemas::reading::Position;

use super::brokers::{Brokers, Known, unread};
use super::census::Census;
use super::epoch::Parts;
use super::names::Names;
use super::state::{FeedState, IngestState, PartitionState};
use super::watermark::{self, Rules};

/// Least time after which the log says that a partition is stuck.
const REMINDER: Duration = Duration::from_secs(60);

/// When partitions were last heard of.
#[derive(Debug, Default)]
pub struct Idleness {
    // `None` without a stream: nothing more comes.
    began: Option<Instant>,
    active: HashMap<(String, i32), Instant>,
    // Of partitions with unread records: since when they have some and give no reading, or when the log last said so.
    waits: HashMap<(String, i32), Instant>,
}

/// A partition that holds its feed's watermark and gives no readings.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stuck {
    partition: i32,
    unread: i64,
    // Nobody can say where it ends.
    unknown: bool,
}

impl Stuck {
    fn warn(&self, feed: &str) {
        let Stuck { partition, unread, unknown } = self;
        match unknown {
            true => tracing::warn!(
                feed,
                partition,
                unread,
                "a partition of which no broker says where it ends has unread records and holds the watermark: no \
                 interval is closed until they are read; bring the broker back that leads it, or, where its records are \
                 lost for good, create the topic anew (see on_recreated)"
            ),
            false => tracing::warn!(
                feed,
                partition,
                unread,
                "a partition has unread records, has given no reading that can be used for long, and holds the \
                 watermark: no interval is closed until they are read; the log and dead_letters say what is wrong with it"
            ),
        }
    }
}

impl Idleness {
    /// At the start of a stream: partitions that were read before may have more.
    pub fn new(state: &IngestState, now: Instant) -> Idleness {
        let partitions = state.feeds.iter().flat_map(|(name, feed)| {
            let live = feed.partitions.keys().filter(|partition| **partition != Position::BACKFILL_PARTITION);
            live.map(move |partition| ((name.clone(), *partition), now))
        });
        Idleness { began: Some(now), active: partitions.collect(), waits: HashMap::new() }
    }

    /// Notes which partitions had readings that could be used. What is refused, by the decoder or by a shard, says
    /// nothing about the meters.
    pub fn heard(&mut self, parts: &Parts, names: &Names, now: Instant) {
        for part in &parts.shards {
            for (name, tally) in names.all().iter().zip(&part.tallies) {
                for (partition, change) in tally.changes() {
                    if partition != Position::BACKFILL_PARTITION && change.any_taken() {
                        self.active.insert((name.clone(), partition), now);
                    }
                }
            }
        }
    }

    /// Moves every feed's watermark forward; whether any moved. Warns of partitions that hold one and give no readings.
    pub fn advance(
        &mut self,
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
            for stuck in self.stuck(name, feed, &known, &config.ingest, now) {
                stuck.warn(name);
            }
        }
        moved
    }

    // Those of a feed that have had unread records and gave no reading for as long as a partition may be unreachable; each
    // again after as long.
    fn stuck(
        &mut self,
        name: &str,
        feed: &FeedState,
        known: &BTreeMap<i32, Known>,
        config: &IngestConfig,
        now: Instant,
    ) -> Vec<Stuck> {
        let limit = config.unreachable_timeout.to_std().max(REMINDER);
        let mut stuck = Vec::new();
        self.waits.retain(|(feed, partition), _| feed != name || known.contains_key(partition));
        for (partition, known) in known {
            let key = (name.to_owned(), *partition);
            let unread = unread(feed.partitions.get(partition), Some(known));
            if unread == 0 {
                self.waits.remove(&key);
                continue;
            }
            let read = self.active.get(&key).copied();
            let since = self.waits.entry(key).or_insert(now);
            *since = (*since).max(read.unwrap_or(*since));
            if now.saturating_duration_since(*since) >= limit {
                *since = now;
                stuck.push(Stuck { partition: *partition, unread, unknown: known.unknown_for.is_some() });
            }
        }
        stuck
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
    // There is no such partition, or no longer.
    let Some(known) = known else { return false };
    if quiet.is_some_and(|quiet| quiet < config.idle_timeout.to_std()) {
        return true;
    }
    unread(read, Some(known)) > 0
        || known.unknown_for.is_some_and(|unknown_for| unknown_for < config.unreachable_timeout.to_std())
}

#[cfg(test)]
mod tests {
    use meterline_schemas::Frequency;
    use meterline_schemas::config::FeedConfig;
    use meterline_schemas::reading::Quality;
    use meterline_schemas::time::HOUR;
    use meterline_schemas::unit::Unit;
    use proptest::prelude::*;

    use super::super::epoch::{Progress, SourcePart, add};
    use super::super::outcome::{Outcome, Tally};
    use super::super::segments::Frames;
    use super::super::series::{PendingReading, SeriesState};
    use super::super::shard::ShardPart;
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

    /// A reading of a record of a partition, stamped with these hours.
    fn reading(partition: i32, hours: i64) -> PendingReading {
        let position = Position { timestamp_ms: hours * HOUR / 1_000, partition, offset: 0 };
        PendingReading { at: 0, value: 1.0, scale: Unit::KWH.scale(), quality: Quality::Measured, position }
    }

    /// An epoch in which partitions were read so far, each with one reading; of some the reading was refused.
    fn part(partitions: Vec<Progress>, refused: &[i32]) -> Parts {
        let mut tally = Tally::default();
        for Progress { partition, .. } in &partitions {
            match refused.contains(partition) {
                true => tally.dead(*partition),
                false => tally.count(&reading(*partition, 900), Outcome::Accepted, false),
            }
        }
        let (epoch, states) = (1, Frames::default());
        let evicted = Frames::default();
        let shard = ShardPart { epoch, rows: vec![], tallies: vec![tally], dead: vec![], states, evicted, changed: 0 };
        let sources = vec![SourcePart { epoch, partitions, dead: vec![] }];
        Parts { sources, shards: vec![shard], ..Parts::default() }
    }

    fn progress(partition: i32, lag: i64) -> Progress {
        let mut progress = Progress::begin(0, partition, 0);
        (progress.next_offset, progress.end_offset, progress.records) = (3, 3 + lag, 3);
        progress
    }

    /// Partition 1 was read until hour 4 and has `lag` unread records; partition 0 goes on at hour 9. Whether partition
    /// 1 still holds the watermark so many seconds later, when its leader has been away for `away` of them.
    fn holds(lag: i64, seconds: u32, away: Option<u32>) -> bool {
        let mut config = Config::default();
        let feed = FeedConfig { lateness: Default::default(), ..FeedConfig::new("t", "s", "t", "v") };
        config.feed.insert("f".into(), feed);
        let names = Names::of(&config);
        let census = Census::of(&config, &[series("a", 0, 9), series("b", 0, 9), series("c", 1, 4)]);
        let start = Instant::now();
        let mut state = IngestState::default();
        state.feeds.insert("f".into(), FeedState::default());
        let parts = part(vec![progress(0, 0), progress(1, lag)], &[]);
        add(&mut state, &parts, &names);
        let mut idleness = Idleness::new(&IngestState::default(), start);
        idleness.heard(&parts, &names, start);
        let brokers = Brokers::new(start);
        brokers.answered("f", 0, 0, 3, start);
        brokers.answered("f", 1, 0, 3 + lag, start);
        let now = start + SECOND * seconds;
        // What comes in partition 1 meanwhile is refused.
        idleness.heard(&part(vec![progress(0, 0), progress(1, lag)], &[1]), &names, now);
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
    fn a_partition_that_stalls_is_seen_beside_others_that_go_on() {
        let mut config = Config::default();
        config.feed.insert("f".into(), FeedConfig::new("t", "s", "t", "v"));
        let census = Census::of(&config, &[series("a", 0, 9), series("b", 0, 9), series("c", 1, 4)]);
        let mut state = IngestState::default();
        state.feeds.insert("f".into(), FeedState::default());
        add(&mut state, &part(vec![progress(0, 0), progress(1, 0)], &[]), &Names::of(&config));
        let now = Instant::now();
        Idleness::default().advance(&mut state.feeds, &census, &config, &Brokers::new(now), now);
        let feed = &state.feeds["f"];
        let newest = |partition| feed.partitions[&partition].newest;
        assert_eq!((feed.newest, newest(0), newest(1)), (Some(9 * HOUR), Some(9 * HOUR), Some(4 * HOUR)));
    }

    #[test]
    fn records_that_are_refused_vouch_for_no_instant() {
        let mut config = Config::default();
        config.feed.insert("f".into(), FeedConfig::new("t", "s", "t", "v"));
        let names = Names::of(&config);
        let mut state = IngestState::default();
        state.feeds.insert("f".into(), FeedState::default());
        add(&mut state, &part(vec![progress(0, 0), progress(1, 0)], &[1]), &names);
        let newest = |partition| state.feeds["f"].partitions[&partition].newest_record;
        assert_eq!((newest(0), newest(1)), (Some(900 * HOUR), None));
    }

    #[test]
    fn readings_that_waited_are_a_sign_of_life_once() {
        let mut tally = Tally::default();
        let any = |tally: &Tally| tally.changes().any(|(_, change)| change.any_taken());
        tally.released(&reading(0, 1));
        tally.count(&reading(0, 1), Outcome::Accepted, false);
        assert!(!any(&tally), "it came in an earlier epoch");
        tally.count(&reading(0, 1), Outcome::Waits, false);
        assert!(any(&tally));
    }

    #[test]
    fn a_partition_whose_end_nobody_knows_holds_up_to_a_limit_and_what_is_known_of_it_for_ever() {
        assert!(holds(0, 60, Some(10)), "its leader went away after it was idle: something may have come before");
        assert!(holds(0, 3_599, Some(3_599)) && holds(5, 3_599, Some(3_599)));
        assert!(!holds(0, 3_600, Some(3_600)));
        assert!(holds(5, 3_700, Some(3_600)) && holds(5, 1_000_000, Some(1_000_000)));
    }

    #[test]
    fn a_partition_that_holds_and_gives_nothing_is_told_once_in_a_while() {
        let (config, start) = (IngestConfig::default(), Instant::now());
        let read = PartitionState { next_offset: 3, end_offset: 8, ..PartitionState::default() };
        let feed = FeedState { partitions: BTreeMap::from([(0, read)]), ..FeedState::default() };
        let at = |end, unknown_for| Known { first: Some(0), end: Some(end), unknown_for };
        let mut idleness = Idleness::new(&IngestState::default(), start);
        let mut stuck = |known: &[(i32, Known)], read: Option<u32>, seconds| {
            if let Some(read) = read {
                idleness.active.insert(("f".into(), 0), start + SECOND * read);
            }
            let known = known.iter().copied().collect();
            idleness.stuck("f", &feed, &known, &config, start + SECOND * seconds)
        };
        let of = |unread, unknown| vec![Stuck { partition: 0, unread, unknown }];
        let all = [(0, at(8, None)), (1, at(0, None))];
        assert_eq!(stuck(&all[1..], None, 70_000), [], "there is nothing to read");
        assert_eq!(stuck(&all, Some(0), 80_000), [], "a day without readings is none with something to read");
        assert_eq!(stuck(&all, None, 83_599), []);
        assert_eq!(stuck(&all, None, 83_600), of(5, false));
        assert_eq!(stuck(&all, None, 87_199), [], "it was told");
        assert_eq!(stuck(&[(0, at(9, Some(SECOND)))], None, 87_200), of(6, true));
        assert_eq!(stuck(&all, Some(90_000), 93_599), [], "it gave a reading");
        assert_eq!(stuck(&all, None, 93_600), of(5, false));
    }

    #[test]
    fn a_partition_that_was_just_found_holds_while_it_has_records() {
        let config = IngestConfig::default();
        let known = |first, end| Known { first: Some(first), end: Some(end), unknown_for: None };
        assert!(may_have_more(None, None, Some(&known(3, 5)), &config));
        assert!(!may_have_more(None, None, Some(&known(5, 5)), &config));
        let read = PartitionState { next_offset: 3, end_offset: 7, ..PartitionState::default() };
        assert!(may_have_more(None, Some(&read), Some(&known(0, 3)), &config), "of two ends the later one counts");
        for quiet in [None, Some(Duration::ZERO)] {
            assert!(!may_have_more(quiet, Some(&read), None, &config), "a partition that is no longer there");
        }
    }

    proptest! {
        /// Unread records are never passed, whatever else is known.
        #[test]
        fn what_is_in_flight_holds(
            quiet in 0..9_000u64, next in 0..50i64, unread in 1..50i64, end in 0..99i64,
            away in proptest::option::of(0..9_000u64),
        ) {
            let config = IngestConfig::default();
            let read = PartitionState { next_offset: next, end_offset: end, ..PartitionState::default() };
            let unknown_for = away.map(Duration::from_secs);
            let known = Known { first: Some(0), end: Some(next + unread), unknown_for };
            prop_assert!(may_have_more(Some(Duration::from_secs(quiet)), Some(&read), Some(&known), &config));
        }
    }
}
