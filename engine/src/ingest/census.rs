//! The census: how many series a feed has, where they begin and end, and how many of them have a value for which of the
//! last intervals; those of each label policy apart. Watermarks, model groups and their completeness are read from it.
//!
//! Each series stands for a few [`Fact`]s, which follow from its state, and from what files of labels said at the start
//! where there are label policies. Workers say which facts came and went; the dataflow counts them. So what a commit costs
//! depends on what changed, not on how many series there are.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use jiff::tz::TimeZone;
use meterline_schemas::config::{Config, Selector, selectors};
use meterline_schemas::{Frequency, Micros};
use serde::{Deserialize, Serialize};

use super::classes::{BASE, Classes};
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
    /// A record changed one that was written already, or may have.
    Correction,
    /// Its first interval starts here.
    First(Micros),
    /// Its last interval ends here, and it was last seen in this partition.
    End(i32, Micros),
    /// It has a value for the interval that starts here, which is one of its last 128.
    Present(Micros),
}

/// Series that are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cohort {
    /// Number of the feed.
    pub feed: u16,
    /// Native frequency; `None` while it is being detected.
    pub frequency: Option<Frequency>,
    /// Which label policy takes them ([`Classes`]).
    pub class: u8,
}

/// A fact about the series of one cohort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Counted {
    /// Whose.
    pub of: Cohort,
    /// The fact.
    pub fact: Fact,
}

/// What the facts of a series follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stand {
    frequency: Option<Frequency>,
    partition: i32,
    class: u8,
    first: Option<Micros>,
    last: Option<Micros>,
    recent: u128,
    intervals: u32,
    corrections: u32,
}

impl Stand {
    /// That of a series now, which is counted under this class.
    pub fn of(series: &SeriesState, class: u8) -> Stand {
        Stand {
            class,
            frequency: series.frequency,
            partition: series.partition,
            first: series.first_start,
            last: series.last_start,
            recent: series.recent,
            intervals: series.intervals,
            corrections: series.corrections,
        }
    }

    fn cohort(&self, feed: u16) -> Cohort {
        Cohort { feed, frequency: self.frequency, class: self.class }
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
        if let Some(before) = before.as_mut().filter(|before| before.cohort(feed) == now.cohort(feed)) {
            // In these, series that move alike differ; what counts is whether they changed, and by how much.
            now.intervals = now.intervals.wrapping_sub(before.intervals);
            now.corrections = now.corrections.wrapping_sub(before.corrections);
            (before.intervals, before.corrections) = (0, 0);
            if before.first == now.first {
                now.first = now.first.and(Some(0));
                before.first = now.first;
            }
        }
        Move { feed, before, now }
    }
}

// Numbers of a series differ by less than half of what they can be: a series that changed its frequency and back has less
// intervals than before.
fn difference(before: u32, now: u32) -> i64 {
    i64::from(now.wrapping_sub(before).cast_signed())
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
            Some(before) if before.cohort(*feed) == now.cohort(*feed) => self.advanced(*feed, zone, before, now, times),
            before => {
                if let Some(before) = before {
                    self.all(*feed, zone, before, -times);
                }
                self.all(*feed, zone, now, times);
            }
        }
    }

    fn add(&mut self, of: Cohort, fact: Fact, change: i64) {
        *self.facts.entry(Counted { of, fact }).or_default() += change;
    }

    fn all(&mut self, feed: u16, zone: &TimeZone, stand: &Stand, sign: i64) {
        let of = stand.cohort(feed);
        self.add(of, Fact::Series, sign);
        self.add(of, Fact::Correction, sign * i64::from(stand.corrections));
        let (Some(frequency), Some(first), Some(last)) = (of.frequency, stand.first, stand.last) else { return };
        self.add(of, Fact::Interval, sign * i64::from(stand.intervals));
        self.add(of, Fact::First(first), sign);
        self.add(of, Fact::End(stand.partition, frequency.advance(last, 1, zone)), sign);
        self.present(of, zone, last, stand.recent, sign);
    }

    // Same cohort: what stayed is left alone.
    fn advanced(&mut self, feed: u16, zone: &TimeZone, before: &Stand, now: &Stand, times: i64) {
        let of = now.cohort(feed);
        // Also of what is not an interval yet, such as the first register of a counter.
        self.add(of, Fact::Correction, times * difference(before.corrections, now.corrections));
        let (Some(frequency), Some(first), Some(last)) = (now.frequency, now.first, now.last) else { return };
        self.add(of, Fact::Interval, times * difference(before.intervals, now.intervals));
        if before.first != now.first {
            if let Some(first) = before.first {
                self.add(of, Fact::First(first), -times);
            }
            self.add(of, Fact::First(first), times);
        }
        if (before.last, before.partition) != (now.last, now.partition) {
            if let Some(last) = before.last {
                self.add(of, Fact::End(before.partition, frequency.advance(last, 1, zone)), -times);
            }
            self.add(of, Fact::End(now.partition, frequency.advance(last, 1, zone)), times);
        }
        let Some(was) = before.last else { return self.present(of, zone, last, now.recent, times) };
        let steps = if was == last { 0 } else { frequency.steps_between(was, last, zone) };
        if !(0..RECENT).contains(&steps) {
            self.present(of, zone, was, before.recent, -times);
            self.present(of, zone, last, now.recent, times);
            return;
        }
        // Of the old bits, those that are now too long ago are the highest `steps`.
        let dropped = if steps == 0 { 0 } else { before.recent & !(u128::MAX >> steps) };
        self.present(of, zone, was, dropped, -times);
        let kept = before.recent.checked_shl(steps as u32).unwrap_or(0);
        self.present(of, zone, last, now.recent & !kept, times);
        self.present(of, zone, last, kept & !now.recent, -times);
    }

    fn present(&mut self, of: Cohort, zone: &TimeZone, last: Micros, bits: u128, change: i64) {
        let Some(frequency) = of.frequency else { return };
        let mut bits = bits;
        while bits != 0 {
            let back = bits.trailing_zeros();
            bits &= bits - 1;
            let start = frequency.advance(last, -i64::from(back), zone);
            self.add(of, Fact::Present(start), change);
        }
    }
}

/// Facts with the number of series that stand for each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Census {
    // Those that have series, with their numbers.
    feeds: Arc<[(u16, String)]>,
    // Those of the classes, from 1.
    selectors: Arc<[Selector]>,
    counts: BTreeMap<Counted, i64>,
}

impl Census {
    /// One of the feeds, roll-ups and label policies of a configuration, without any series yet.
    pub fn new(config: &Config) -> Census {
        let names = Names::of(config);
        let feeds = names.series_feeds(config).map(|feed| (feed.number, names.name(feed.number).to_owned()));
        Census { feeds: feeds.collect(), selectors: selectors(&config.policy).into(), counts: BTreeMap::new() }
    }

    /// That of these series, which no label policy takes. Those of feeds that are not configured are not counted.
    pub fn of<'a>(config: &Config, series: impl IntoIterator<Item = &'a SeriesState>) -> Census {
        let nobody = Classes::default();
        let mut taking = Taking::new(config, &nobody);
        series.into_iter().for_each(|state| taking.take(state));
        taking.finish()
    }

    /// The names of the feeds, with their numbers.
    pub fn feeds(&self) -> impl Iterator<Item = (u16, &str)> + '_ {
        self.feeds.iter().map(|(number, name)| (*number, name.as_str()))
    }

    /// Which series a class has; `None` of those that no label policy takes.
    pub fn selector(&self, class: u8) -> Option<&Selector> {
        self.selectors.get(usize::from(class).checked_sub(1)?)
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
        self.cohorts(feed).map(|of| self.count(of, Fact::Series)).sum()
    }

    /// Number of intervals of a feed that have a value.
    pub fn intervals(&self, feed: u16) -> u64 {
        self.cohorts(feed).map(|of| self.count(of, Fact::Interval)).sum()
    }

    /// The cohorts of a feed's series; where the frequency of some is being detected, one of them has none.
    pub fn cohorts(&self, feed: u16) -> impl Iterator<Item = Cohort> + '_ {
        // From one to the next, past all facts in between.
        let first = Cohort { feed, frequency: None, class: BASE };
        let mut from = Bound::Included(Counted { of: first, fact: Fact::Series });
        std::iter::from_fn(move || {
            let (Counted { of, .. }, _) = self.counts.range((from, Bound::Unbounded)).next()?;
            let of = (of.feed == feed).then_some(*of)?;
            from = Bound::Excluded(Counted { of, fact: Fact::Present(Micros::MAX) });
            Some(of)
        })
    }

    /// How many series stand for one fact.
    pub fn count(&self, of: Cohort, fact: Fact) -> u64 {
        let count = self.counts.get(&Counted { of, fact }).copied().unwrap_or(0);
        u64::try_from(count).unwrap_or(0)
    }

    /// Starts of first intervals, with the number of series.
    pub fn firsts(&self, of: Cohort) -> impl Iterator<Item = (Micros, u64)> + '_ {
        self.between(of, Fact::First(Micros::MIN), Fact::First(Micros::MAX)).filter_map(|(fact, count)| match fact {
            Fact::First(start) => Some((start, count)),
            _ => None,
        })
    }

    /// Partitions and ends of last intervals, with the number of series.
    pub fn ends(&self, of: Cohort) -> impl Iterator<Item = (i32, Micros, u64)> + '_ {
        let (from, to) = (Fact::End(i32::MIN, Micros::MIN), Fact::End(i32::MAX, Micros::MAX));
        self.between(of, from, to).filter_map(|(fact, count)| match fact {
            Fact::End(partition, end) => Some((partition, end, count)),
            _ => None,
        })
    }

    /// Starts from `from` on, with the number of series that have a value there.
    pub fn present(&self, of: Cohort, from: Micros) -> impl Iterator<Item = (Micros, u64)> + '_ {
        self.between(of, Fact::Present(from), Fact::Present(Micros::MAX)).filter_map(|(fact, count)| match fact {
            Fact::Present(start) => Some((start, count)),
            _ => None,
        })
    }

    fn between(&self, of: Cohort, from: Fact, to: Fact) -> impl Iterator<Item = (Fact, u64)> + '_ {
        let counted = move |fact| Counted { of, fact };
        self.counts
            .range(counted(from)..=counted(to))
            .map(|(counted, count)| (counted.fact, u64::try_from(*count).unwrap_or(0)))
    }

    /// Ends of last intervals by partition, of all frequencies of a feed.
    pub fn ends_by_partition(&self, feed: u16) -> BTreeMap<i32, BTreeMap<Micros, u64>> {
        let mut ends: BTreeMap<i32, BTreeMap<Micros, u64>> = BTreeMap::new();
        for of in self.cohorts(feed) {
            for (partition, end, count) in self.ends(of) {
                *ends.entry(partition).or_default().entry(end).or_default() += count;
            }
        }
        ends
    }
}

/// A census that is being taken, series by series.
pub struct Taking<'c> {
    census: Census,
    classes: &'c Classes,
    // Of the feeds, in their order.
    zones: Vec<TimeZone>,
    changes: Changes,
}

impl<'c> Taking<'c> {
    /// Begins one of the feeds, roll-ups and label policies of a configuration.
    pub fn new(config: &Config, classes: &'c Classes) -> Taking<'c> {
        let zones = Names::of(config).series_feeds(config).map(|feed| feed.time_zone()).collect();
        Taking { census: Census::new(config), classes, zones, changes: Changes::default() }
    }

    /// Counts a series; not one of a feed that is not configured.
    pub fn take(&mut self, state: &SeriesState) {
        let known = self.census.feeds.iter().zip(&self.zones).find(|((_, feed), _)| **feed == *state.feed);
        if let Some(((number, _), zone)) = known {
            let class = self.classes.counted(state, zone);
            self.changes.moved(*number, zone, None, &Stand::of(state, class));
        }
    }

    /// What was counted.
    pub fn finish(mut self) -> Census {
        self.census.change(&mut self.changes);
        self.census
    }
}
