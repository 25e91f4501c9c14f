//! The census: how many series a feed has, where they begin and end, and how many of them have a value for which of the
//! last intervals. Watermarks, model groups and their completeness are read from it.
//!
//! Each series stands for a few [`Fact`]s, which follow from its state alone. Workers say which facts came and went;
//! the dataflow counts them. So what a commit costs depends on what changed, not on how many series there are.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use jiff::tz::TimeZone;
use meterline_schemas::config::Config;
use meterline_schemas::{Frequency, Micros};
use serde::{Deserialize, Serialize};

use super::names::Names;
use super::series::SeriesState;

/// Intervals before the last one of a series that are counted.
const RECENT: i64 = u128::BITS as i64;

/// What a series stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Fact {
    /// It is there.
    Series,
    /// One of its intervals was written.
    Interval,
    /// Its first interval starts here.
    First(Micros),
    /// Its last interval ends here, and it was last seen in this partition.
    End(i32, Micros),
    /// It has a value for the interval that starts here, which is one of its last 128.
    Present(Micros),
}

/// A fact about the series of one feed and frequency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Counted {
    /// Number of the feed.
    pub feed: u16,
    /// Native frequency; `None` while it is being detected.
    pub frequency: Option<Frequency>,
    /// The fact.
    pub fact: Fact,
}

/// What the facts of a series follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stand {
    frequency: Option<Frequency>,
    partition: i32,
    first: Option<Micros>,
    last: Option<Micros>,
    recent: u128,
    intervals: u64,
}

impl Stand {
    /// That of a series now.
    pub fn of(series: &SeriesState) -> Stand {
        Stand {
            frequency: series.frequency,
            partition: series.partition,
            first: series.first_start,
            last: series.last_start,
            recent: series.recent,
            intervals: series.intervals,
        }
    }
}

/// Facts that came (positive) and went (negative).
#[derive(Debug, Default)]
pub struct Changes {
    facts: HashMap<Counted, i64>,
    // How many series made the same move: most of a feed do, and what follows from it is counted once for all of them.
    moves: HashMap<Move, i64>,
    // The last one, how often in a row: that is told faster than it is found among the others.
    last: Option<(Move, i64)>,
    // By number of the feed.
    zones: HashMap<u16, TimeZone>,
}

/// Moves that are kept apart until facts are drawn from them; further ones are told at once.
const MOVES_MAX: usize = 4096;

/// Where a series of a feed stood before, if it is not new, and where it stands now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Move {
    feed: u16,
    before: Option<Stand>,
    now: Stand,
}

impl Move {
    fn of(feed: u16, before: Option<&Stand>, now: &Stand) -> Move {
        let (mut before, mut now) = (before.copied(), *now);
        if let Some(before) = before.as_mut().filter(|before| before.frequency == now.frequency) {
            // In these, series that move alike differ; what counts is whether they changed, and by how much.
            now.intervals = now.intervals.wrapping_sub(before.intervals);
            before.intervals = 0;
            if before.first == now.first {
                now.first = now.first.and(Some(0));
                before.first = now.first;
            }
        }
        Move { feed, before, now }
    }
}

impl Changes {
    /// A series of feed `feed` now stands elsewhere than before; `before` is `None` for a new one.
    pub fn moved(&mut self, feed: u16, zone: &TimeZone, before: Option<&Stand>, now: &Stand) {
        let made = Move::of(feed, before, now);
        if let Some((_, times)) = self.last.as_mut().filter(|(last, _)| *last == made) {
            *times += 1;
            return;
        }
        self.keep_last();
        self.zones.entry(feed).or_insert_with(|| zone.clone());
        self.last = Some((made, 1));
    }

    // Puts the last move to the others.
    fn keep_last(&mut self) {
        let Some((made, times)) = self.last.take() else { return };
        let room = self.moves.len() < MOVES_MAX;
        match self.moves.entry(made) {
            Entry::Occupied(mut known) => *known.get_mut() += times,
            Entry::Vacant(entry) if room => _ = entry.insert(times),
            Entry::Vacant(_) => self.tell_of(&made, times),
        }
    }

    /// Others beside these.
    pub fn append(&mut self, mut others: Changes) {
        others.keep_last();
        let Changes { facts, moves, zones, last: _ } = others;
        for (counted, change) in facts {
            *self.facts.entry(counted).or_default() += change;
        }
        for (made, times) in moves {
            *self.moves.entry(made).or_default() += times;
        }
        self.zones.extend(zones);
    }

    /// The changes that are any, one by one.
    pub fn drain(&mut self) -> impl Iterator<Item = (Counted, i64)> + '_ {
        self.keep_last();
        for (made, times) in std::mem::take(&mut self.moves) {
            self.tell_of(&made, times);
        }
        self.zones.clear();
        self.facts.drain().filter(|(_, change)| *change != 0)
    }

    fn tell_of(&mut self, made: &Move, times: i64) {
        if let Some(zone) = self.zones.get(&made.feed).cloned() {
            self.tell(made, &zone, times);
        }
    }

    // So many series made this move.
    fn tell(&mut self, made: &Move, zone: &TimeZone, times: i64) {
        let Move { feed, before, now } = made;
        match before {
            Some(before) if before.frequency == now.frequency => self.advanced(*feed, zone, before, now, times),
            before => {
                if let Some(before) = before {
                    self.all(*feed, zone, before, -times);
                }
                self.all(*feed, zone, now, times);
            }
        }
    }

    fn add(&mut self, feed: u16, frequency: Option<Frequency>, fact: Fact, change: i64) {
        *self.facts.entry(Counted { feed, frequency, fact }).or_default() += change;
    }

    fn all(&mut self, feed: u16, zone: &TimeZone, stand: &Stand, sign: i64) {
        let at = stand.frequency;
        self.add(feed, at, Fact::Series, sign);
        let (Some(frequency), Some(first), Some(last)) = (at, stand.first, stand.last) else { return };
        self.add(feed, at, Fact::Interval, sign * stand.intervals as i64);
        self.add(feed, at, Fact::First(first), sign);
        self.add(feed, at, Fact::End(stand.partition, frequency.advance(last, 1, zone)), sign);
        self.present(feed, frequency, zone, last, stand.recent, sign);
    }

    // Same frequency: what stayed is left alone.
    fn advanced(&mut self, feed: u16, zone: &TimeZone, before: &Stand, now: &Stand, times: i64) {
        let (Some(frequency), Some(first), Some(last)) = (now.frequency, now.first, now.last) else { return };
        let at = Some(frequency);
        self.add(feed, at, Fact::Interval, times * (now.intervals as i64 - before.intervals as i64));
        if before.first != now.first {
            if let Some(first) = before.first {
                self.add(feed, at, Fact::First(first), -times);
            }
            self.add(feed, at, Fact::First(first), times);
        }
        if (before.last, before.partition) != (now.last, now.partition) {
            if let Some(last) = before.last {
                self.add(feed, at, Fact::End(before.partition, frequency.advance(last, 1, zone)), -times);
            }
            self.add(feed, at, Fact::End(now.partition, frequency.advance(last, 1, zone)), times);
        }
        let Some(was) = before.last else { return self.present(feed, frequency, zone, last, now.recent, times) };
        let steps = if was == last { 0 } else { frequency.steps_between(was, last, zone) };
        if !(0..RECENT).contains(&steps) {
            self.present(feed, frequency, zone, was, before.recent, -times);
            self.present(feed, frequency, zone, last, now.recent, times);
            return;
        }
        // Of the old bits, those that are now too long ago are the highest `steps`.
        let dropped = if steps == 0 { 0 } else { before.recent & !(u128::MAX >> steps) };
        self.present(feed, frequency, zone, was, dropped, -times);
        let kept = before.recent.checked_shl(steps as u32).unwrap_or(0);
        self.present(feed, frequency, zone, last, now.recent & !kept, times);
        self.present(feed, frequency, zone, last, kept & !now.recent, -times);
    }

    fn present(&mut self, feed: u16, frequency: Frequency, zone: &TimeZone, last: Micros, bits: u128, change: i64) {
        let mut bits = bits;
        while bits != 0 {
            let back = bits.trailing_zeros();
            bits &= bits - 1;
            let start = frequency.advance(last, -i64::from(back), zone);
            self.add(feed, Some(frequency), Fact::Present(start), change);
        }
    }
}

/// Facts with the number of series that stand for each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Census {
    // Those that have series, with their numbers.
    feeds: Arc<[(u16, String)]>,
    counts: BTreeMap<Counted, i64>,
}

impl Census {
    /// One of the feeds and roll-ups of a configuration, without any series yet.
    pub fn new(config: &Config) -> Census {
        let names = Names::of(config);
        let feeds = names.series_feeds(config).map(|feed| (feed.number, names.name(feed.number).to_owned()));
        Census { feeds: feeds.collect(), counts: BTreeMap::new() }
    }

    /// That of these series. Those of feeds that are not configured are not counted.
    pub fn of<'a>(config: &Config, series: impl IntoIterator<Item = &'a SeriesState>) -> Census {
        let mut taking = Taking::new(config);
        series.into_iter().for_each(|state| taking.take(state));
        taking.finish()
    }

    /// The names of the feeds, with their numbers.
    pub fn feeds(&self) -> impl Iterator<Item = (u16, &str)> + '_ {
        self.feeds.iter().map(|(number, name)| (*number, name.as_str()))
    }

    /// Counts facts that came and went.
    pub fn change(&mut self, changes: &mut Changes) {
        for (counted, change) in changes.drain() {
            let count = self.counts.entry(counted).or_insert(0);
            *count += change;
            if *count == 0 {
                self.counts.remove(&counted);
            }
        }
    }

    /// Takes counts in place of what was known of their facts.
    pub fn add(&mut self, counts: Vec<(Counted, i64)>) {
        for (counted, count) in counts {
            match count {
                0 => self.counts.remove(&counted),
                count => self.counts.insert(counted, count),
            };
        }
    }

    /// Number of series of a feed.
    pub fn series(&self, feed: u16) -> u64 {
        self.frequencies(feed).map(|frequency| self.count(feed, frequency, Fact::Series)).sum()
    }

    /// Number of intervals of a feed that have a value.
    pub fn intervals(&self, feed: u16) -> u64 {
        self.frequencies(feed).map(|frequency| self.count(feed, frequency, Fact::Interval)).sum()
    }

    /// The frequencies of a feed's series; `None` is among them where some are being detected.
    pub fn frequencies(&self, feed: u16) -> impl Iterator<Item = Option<Frequency>> + '_ {
        // From one to the next, past all facts in between.
        let mut from = Bound::Included(Counted { feed, frequency: None, fact: Fact::Series });
        std::iter::from_fn(move || {
            let (counted, _) = self.counts.range((from, Bound::Unbounded)).next()?;
            let frequency = (counted.feed == feed).then_some(counted.frequency)?;
            from = Bound::Excluded(Counted { feed, frequency, fact: Fact::Present(Micros::MAX) });
            Some(frequency)
        })
    }

    /// How many series stand for one fact.
    pub fn count(&self, feed: u16, frequency: Option<Frequency>, fact: Fact) -> u64 {
        let count = self.counts.get(&Counted { feed, frequency, fact }).copied().unwrap_or(0);
        u64::try_from(count).unwrap_or(0)
    }

    /// Starts of first intervals, with the number of series.
    pub fn firsts(&self, feed: u16, frequency: Frequency) -> impl Iterator<Item = (Micros, u64)> + '_ {
        self.between(feed, frequency, Fact::First(Micros::MIN), Fact::First(Micros::MAX)).filter_map(|(fact, count)| {
            match fact {
                Fact::First(start) => Some((start, count)),
                _ => None,
            }
        })
    }

    /// Partitions and ends of last intervals, with the number of series.
    pub fn ends(&self, feed: u16, frequency: Frequency) -> impl Iterator<Item = (i32, Micros, u64)> + '_ {
        let (from, to) = (Fact::End(i32::MIN, Micros::MIN), Fact::End(i32::MAX, Micros::MAX));
        self.between(feed, frequency, from, to).filter_map(|(fact, count)| match fact {
            Fact::End(partition, end) => Some((partition, end, count)),
            _ => None,
        })
    }

    /// Starts from `from` on, with the number of series that have a value there.
    pub fn present(&self, feed: u16, frequency: Frequency, from: Micros) -> impl Iterator<Item = (Micros, u64)> + '_ {
        self.between(feed, frequency, Fact::Present(from), Fact::Present(Micros::MAX)).filter_map(|(fact, count)| {
            match fact {
                Fact::Present(start) => Some((start, count)),
                _ => None,
            }
        })
    }

    fn between(&self, feed: u16, frequency: Frequency, from: Fact, to: Fact) -> impl Iterator<Item = (Fact, u64)> + '_ {
        let counted = move |fact| Counted { feed, frequency: Some(frequency), fact };
        self.counts
            .range(counted(from)..=counted(to))
            .map(|(counted, count)| (counted.fact, u64::try_from(*count).unwrap_or(0)))
    }

    /// Ends of last intervals by partition, of all frequencies of a feed.
    pub fn ends_by_partition(&self, feed: u16) -> BTreeMap<i32, BTreeMap<Micros, u64>> {
        let mut ends: BTreeMap<i32, BTreeMap<Micros, u64>> = BTreeMap::new();
        for frequency in self.frequencies(feed).flatten() {
            for (partition, end, count) in self.ends(feed, frequency) {
                *ends.entry(partition).or_default().entry(end).or_default() += count;
            }
        }
        ends
    }
}

/// A census that is being taken, series by series.
pub struct Taking {
    census: Census,
    // Of the feeds, in their order.
    zones: Vec<TimeZone>,
    changes: Changes,
}

impl Taking {
    /// Begins one of the feeds and roll-ups of a configuration.
    pub fn new(config: &Config) -> Taking {
        let zones = Names::of(config).series_feeds(config).map(|feed| feed.time_zone()).collect();
        Taking { census: Census::new(config), zones, changes: Changes::default() }
    }

    /// Counts a series; not one of a feed that is not configured.
    pub fn take(&mut self, state: &SeriesState) {
        let known = self.census.feeds.iter().zip(&self.zones).find(|((_, feed), _)| **feed == *state.feed);
        if let Some(((number, _), zone)) = known {
            self.changes.moved(*number, zone, None, &Stand::of(state));
        }
    }

    /// What was counted.
    pub fn finish(mut self) -> Census {
        self.census.change(&mut self.changes);
        self.census
    }
}

#[cfg(test)]
mod tests {
    use meterline_schemas::config::FeedConfig;
    use meterline_schemas::unit::Unit;
    use proptest::prelude::*;

    use super::super::written::{mark, surely_unwritten};
    use super::*;

    proptest! {
        /// What came and went adds up to what a census of the same series says.
        #[test]
        fn changes_add_up(
            steps in proptest::collection::vec((0..4usize, 0..400i64, 0..3i32, any::<bool>()), 1..120),
            day in any::<bool>(),
        ) {
            let zone = TimeZone::get("Europe/Lisbon").unwrap();
            let frequency = if day { Frequency::Day } else { Frequency::HOUR };
            let mut states: Vec<SeriesState> =
                (0..4).map(|i| SeriesState::new("f", &i.to_string(), Unit::KWH)).collect();
            let mut stands: Vec<Option<Stand>> = vec![None; 4];
            let mut config = Config::default();
            let mut feed = FeedConfig::new("t", "s", "t", "v");
            feed.zone = "Europe/Lisbon".into();
            config.feed.insert("f".into(), feed);
            let mut census = Census::new(&config);
            for (series, slot, partition, ends) in steps {
                let state = &mut states[series];
                state.frequency = Some(frequency);
                state.partition = partition;
                let start = frequency.advance(frequency.floor(0, &zone), slot, &zone);
                if surely_unwritten(state, start, frequency, &zone) {
                    mark(state, start, frequency, &zone);
                }
                if ends {
                    let mut changes = Changes::default();
                    for (state, stand) in states.iter().zip(&mut stands) {
                        if state.frequency.is_some() {
                            let now = Stand::of(state);
                            changes.moved(0, &zone, stand.as_ref(), &now);
                            *stand = Some(now);
                        }
                    }
                    census.change(&mut changes);
                    let known = states.iter().filter(|state| state.frequency.is_some());
                    prop_assert_eq!(&census, &Census::of(&config, known));
                }
            }
        }
    }
}
