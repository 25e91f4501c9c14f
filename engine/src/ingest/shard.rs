//! The series of one worker: readings in, and at the end of each epoch everything that the commit needs.

mod absent;
mod caches;
mod eviction;
mod finish;
mod index;
mod lookups;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use compact_str::CompactString;
use meterline_schemas::Micros;
use meterline_schemas::config::BadRecords;
use meterline_schemas::labels::LabelValues;
use meterline_schemas::reading::ValueKind;
use meterline_schemas::unit::Unit;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use self::absent::{Awaiting, Routes};
use self::caches::{WARMED, warm};
use self::eviction::Early;
pub use self::eviction::Evicted;
pub use self::finish::{Place, ShardPart};
use self::index::Index;
use self::lookups::Lookups;
use super::aggregate::{Output, Rules, Series, TIME_AHEAD};
use super::census::{Changes, Stand};
use super::classes::{BASE, Classes};
use super::layout::TextMaker;
use super::memory::Remembered;
use super::order::Order;
use super::outcome::Dead;
use super::rollup::Input;
use super::rollup::changes::ForRollups;
use super::series::{PendingReading, SeriesState};

/// A reading on its way to the shard of its series.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Routed {
    /// Number of its feed.
    pub feed: u16,
    /// [`route`] of its series.
    pub route: u64,
    /// Its series.
    pub series: CompactString,
    /// Unit of the value.
    pub unit: Unit,
    /// Labels that came with it, in the order of its feed, where that has some.
    pub labels: Option<LabelValues>,
    /// The rest.
    pub reading: PendingReading,
}

/// A feed as shards know it.
#[derive(Debug, Clone)]
pub struct FeedRules {
    /// Its name.
    pub name: Arc<str>,
    /// Its topic.
    pub topic: Arc<str>,
    /// How its readings become intervals.
    pub rules: Rules,
    /// What happens to records and readings that cannot be used.
    pub bad_records: BadRecords,
}

/// In place of a feed's number: a series of a feed that is no longer configured. It only keeps its identifier from
/// others.
pub const NOT_CONFIGURED: u16 = u16::MAX;

/// A series is new, and there is no room to remember that it is there.
pub const TOO_MANY_SERIES: &str = "too_many_series";
/// The series has the identifier of another feed's.
pub const SERIES_OF_ANOTHER_FEED: &str = "series_of_another_feed";

/// The number by which a series is given to a shard; the same in every thread, process and version: files are sorted by
/// it. An identifier belongs to one feed, so series of all feeds that are called the same meet in one shard.
pub fn route(series: &str) -> u64 {
    xxh3_64(series.as_bytes())
}

/// What a shard may keep in memory; in bytes where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// For what series are, with what roll-ups know of them: beyond it those that had no reading for longest leave
    /// memory.
    pub series: usize,
    /// For the intervals that they remember.
    pub intervals: usize,
    /// For those that groups remember, in roll-ups.
    pub groups: usize,
    /// For what is looked up at a time.
    pub lookup: usize,
    /// Rows after which an epoch is full. One reading can make many: those that waited for the frequency of their
    /// series.
    pub rows: usize,
}

impl Budget {
    /// No limit that matters.
    pub const AMPLE: Budget =
        Budget { series: usize::MAX, intervals: usize::MAX, groups: usize::MAX, lookup: usize::MAX, rows: usize::MAX };

    /// Intervals that are looked up at a time.
    pub fn lookups(&self) -> usize {
        self.lookup / LOOKUP_BYTES
    }
}

// It begins with a line of memory, and what readings need with it.
#[repr(C, align(64))]
struct Member {
    route: u64,
    // The last epoch in which it got a reading.
    touched: u32,
    feed: u16,
    series: Series,
    // The commit whose segment holds its state.
    written: i64,
    // Of its state, as of the last epoch in which it got a reading, and of readings that wait in it.
    bytes: u32,
    waiting: u32,
}

/// Bytes of a series that gets a reading in an epoch: where it stood before, its texts and its place among the others.
const TOUCHED_BYTES: usize = 256;
/// Bytes of a series beside what its state takes.
const MEMBER_BYTES: usize = size_of::<Member>() - size_of::<SeriesState>() + 24 + TOUCHED_BYTES;
/// Bytes that an interval takes while it is looked up: what is wanted, what is found, and where that goes.
const LOOKUP_BYTES: usize = 512;
/// Intervals that every series may remember, however many there are.
const REMEMBERED_MIN: usize = 2;

/// The series of one worker.
pub struct Shard {
    feeds: Arc<[FeedRules]>,
    budget: Budget,
    epoch: u32,
    index: Index,
    // Some of them places that are free.
    members: Vec<Member>,
    free: Vec<u32>,
    // Numbers that are new to the order.
    fresh: Vec<u32>,
    order: Order,
    absent: Routes,
    awaiting: Awaiting,
    early: Early,
    // Bytes of the members, about, and of the readings that wait in them: those are many for a short time, while
    // frequencies are found, and must not keep out series for which there is room.
    bytes: usize,
    waiting: usize,
    // Those that got a reading in the running epoch, with where they stood before.
    touched: Vec<(u32, Option<Stand>)>,
    lookups: Lookups,
    outputs: Vec<Output>,
    changes: Changes,
    texts: TextMaker,
    for_rollups: Option<ForRollups>,
    classes: Arc<Classes>,
    // This shard's share of what they take.
    classes_bytes: usize,
}

impl Shard {
    /// A shard without series, that begins with epoch 1.
    pub fn new(feeds: Arc<[FeedRules]>, budget: Budget) -> Shard {
        let mut shard = Shard {
            feeds,
            budget,
            epoch: 1,
            index: Index::default(),
            members: Vec::new(),
            free: Vec::new(),
            fresh: Vec::new(),
            order: Order::default(),
            absent: Routes::default(),
            awaiting: Awaiting::default(),
            early: Early::default(),
            bytes: 0,
            waiting: 0,
            touched: Vec::new(),
            lookups: Lookups::new(&budget),
            outputs: Vec::new(),
            changes: Changes::default(),
            texts: TextMaker::default(),
            for_rollups: None,
            classes: Arc::default(),
            classes_bytes: 0,
        };
        shard.outputs = shard.fresh_outputs();
        shard
    }

    /// Keeps what these roll-ups have to learn of each epoch.
    pub fn for_rollups(mut self, rollups: ForRollups) -> Shard {
        self.for_rollups = Some(rollups);
        self.outputs = self.fresh_outputs();
        self
    }

    /// Counts series by what label policies say of them; so many shards share that. Before any series is there.
    pub fn by_classes(mut self, classes: Arc<Classes>, shards: usize) -> Shard {
        self.classes_bytes = classes.bytes() / shards.max(1);
        self.classes = classes;
        self
    }

    /// What roll-ups have to learn of the epoch that ended.
    pub fn rollup_inputs(&mut self) -> Vec<Input> {
        self.for_rollups.as_mut().map(ForRollups::take).unwrap_or_default()
    }

    /// Takes a series that a commit remembers, of the feed with this number ([`NOT_CONFIGURED`] where it has none);
    /// `written` is the commit whose segment holds it. One that is there already stays as it is.
    pub fn restore(&mut self, feed: u16, state: SeriesState, written: i64) {
        let route = route(&state.id);
        if self.find(route, &state.id).is_none() {
            if let Some(rules) = self.feeds.get(usize::from(feed)) {
                let zone = &rules.rules.zone;
                self.changes.moved(feed, zone, None, &Stand::of(&state, self.classes.counted(&state, zone)));
            }
            self.insert(Member {
                feed,
                route,
                touched: 0,
                written,
                bytes: 0,
                waiting: 0,
                series: Series::restore(state),
            });
        }
        for number in 0..self.outputs.len() {
            self.outputs[number].remembered = self.remembered(number);
        }
    }

    // Intervals that each series of a feed may remember: the more series there are, and the more readings wait, the
    // fewer.
    fn remembered(&self, feed: usize) -> usize {
        let rules = &self.feeds[feed].rules;
        let intervals = self.budget.intervals.saturating_sub(self.waiting);
        // Samples and registers have the other half.
        let share = if rules.kind == ValueKind::Interval { intervals } else { intervals / 2 };
        let each = share / Remembered::BYTES / self.live().max(1);
        each.clamp(REMEMBERED_MIN, rules.remembered)
    }

    // Samples or registers that each series may keep, beside those of its running interval.
    fn samples(&self) -> usize {
        let each = self.budget.intervals / 2 / size_of::<PendingReading>() / self.live().max(1);
        each.max(REMEMBERED_MIN)
    }

    fn fresh_outputs(&self) -> Vec<Output> {
        let takes_part = |feed: usize| self.for_rollups.as_ref().is_some_and(|rollups| rollups.take_part(feed as u16));
        let output = |feed| Output::new(self.epoch, self.remembered(feed)).keeping_before(takes_part(feed));
        (0..self.feeds.len()).map(output).collect()
    }

    fn find(&self, route: u64, id: &str) -> Option<u32> {
        let members = &self.members;
        let same = |number: u32| {
            let member = &members[number as usize];
            member.route == route && member.series.state.id == id
        };
        self.index.find(route, same)
    }

    /// The running epoch.
    pub fn epoch(&self) -> u64 {
        u64::from(self.epoch)
    }

    // Where a series stands; one of a feed that is no longer configured is not counted.
    fn stand(&self, number: u32) -> Stand {
        let member = &self.members[number as usize];
        let (state, feed) = (&member.series.state, self.feeds.get(usize::from(member.feed)));
        Stand::of(state, feed.map_or(BASE, |feed| self.classes.counted(state, &feed.rules.zone)))
    }

    fn insert(&mut self, mut member: Member) -> u32 {
        let state = &member.series.state;
        (member.bytes, member.waiting) = (state.bytes() as u32, state.waiting_bytes() as u32);
        self.bytes += MEMBER_BYTES + member.bytes as usize;
        self.waiting += member.waiting as usize;
        let route = member.route;
        let number = match self.free.pop() {
            Some(number) => {
                self.members[number as usize] = member;
                number
            }
            None => {
                self.members.push(member);
                self.members.len() as u32 - 1
            }
        };
        self.index.insert(route, number);
        self.fresh.push(number);
        number
    }

    // Number of series in memory.
    fn live(&self) -> usize {
        self.members.len() - self.free.len()
    }

    /// Takes readings of the running epoch; `watermark` is that of a feed, by its number.
    pub fn take(
        &mut self,
        mut readings: impl Iterator<Item = Routed> + AsRef<[Routed]>,
        watermark: impl Fn(u16) -> Micros,
    ) {
        loop {
            let ahead = readings.as_ref();
            let ahead = &ahead[..ahead.len().min(WARMED)];
            if ahead.is_empty() {
                break;
            }
            let count = ahead.len();
            self.warm(ahead);
            for routed in readings.by_ref().take(count) {
                let watermark = watermark(routed.feed);
                self.apply(routed, watermark);
            }
        }
    }

    // Fetches the series of up to so many readings that are taken next.
    fn warm(&self, readings: &[Routed]) {
        std::hint::black_box(readings.iter().fold(0, |seen, routed| seen ^ self.index.head(routed.route)));
        // The first that may be the one: it mostly is.
        let candidate = |routed: &Routed| self.index.find(routed.route, |_| true);
        warm(&self.members, true, readings.iter().filter_map(candidate));
    }

    /// Takes one reading of the running epoch. `watermark` is that of its feed.
    pub fn apply(&mut self, routed: Routed, watermark: Micros) {
        let Routed { feed, route, series, reading, .. } = &routed;
        // Before its series is looked up: a reading that is refused must not be what a series begins with.
        if let Some(detail) = self.feeds[usize::from(*feed)].rules.ahead(series, reading) {
            return self.refuse(*feed, reading, TIME_AHEAD, detail);
        }
        match self.find(*route, series) {
            None if self.absent.may_have(*route) => self.awaiting.push(routed, watermark),
            known => self.apply_to(known, routed, watermark),
        }
    }

    // Takes a reading of a series that is in memory, or of a new one.
    fn apply_to(&mut self, known: Option<u32>, routed: Routed, watermark: Micros) {
        let Routed { feed, route, series, unit, reading, labels } = routed;
        let number = match known {
            Some(number) if self.members[number as usize].feed != feed => {
                // Two meters under one name would overwrite each other in every table.
                let detail = format!(
                    "series `{series}` belongs to the feed `{}`, which wrote it first; identifiers are unique over all \
                     feeds: set `series_prefix` for this feed",
                    self.members[number as usize].series.state.feed
                );
                return self.refuse(feed, &reading, SERIES_OF_ANOTHER_FEED, detail);
            }
            Some(number) => number,
            None if self.is_out_of_room() => {
                let detail = self.why_too_many(&series);
                return self.refuse(feed, &reading, TOO_MANY_SERIES, detail);
            }
            None => {
                let rules = &self.feeds[usize::from(feed)];
                let series = Series::new(&rules.name, &series, &unit, &rules.rules);
                let member =
                    Member { feed, route, touched: self.epoch, written: i64::MAX, bytes: 0, waiting: 0, series };
                let number = self.insert(member);
                self.touched.push((number, None));
                number
            }
        };
        if self.members[number as usize].touched != self.epoch {
            self.members[number as usize].touched = self.epoch;
            self.touched.push((number, Some(self.stand(number))));
        }
        let member = &mut self.members[number as usize];
        let rules = &self.feeds[usize::from(feed)].rules;
        member.series.apply(rules, number, watermark, &unit, reading, &mut self.outputs[usize::from(feed)]);
        if let (Some(rollups), Some(labels)) = (&mut self.for_rollups, labels) {
            rollups.read(number, feed, &mut member.series.state, reading.position, labels);
        }
    }

    /// What the census has to learn of the epochs that ended.
    pub fn census_changes(&mut self) -> &mut Changes {
        &mut self.changes
    }

    /// Rows of the running epoch so far.
    pub fn rows(&self) -> usize {
        self.outputs.iter().map(|output| output.rows.len()).sum()
    }

    /// Whether what the running epoch holds of the shard is as much as may be.
    pub fn full(&self) -> bool {
        self.rows() + self.awaited_rows() >= self.budget.rows || self.is_crowded()
    }

    /// Readings of the running epoch that cannot be used.
    pub fn refused(&self) -> usize {
        self.outputs.iter().map(|output| output.dead.len()).sum()
    }

    /// Counts a reading of the running epoch that cannot be used, and keeps why.
    pub fn refuse(&mut self, feed: u16, reading: &PendingReading, reason: &'static str, detail: String) {
        let out = &mut self.outputs[usize::from(feed)];
        out.tally.dead(reading.position.partition);
        out.dead.push(Dead { position: reading.position, reason, detail });
    }
}
