//! The series of one worker: readings in, and at the end of each epoch everything that the commit needs.

use std::sync::Arc;

use hashbrown::HashTable;
use meterline_schemas::Micros;
use meterline_schemas::config::BadRecords;
use serde::{Deserialize, Serialize};

use super::aggregate::{Output, Rules, Series, TIME_AHEAD};
use super::dead_letters::DeadLetter;
use super::error::IngestError;
use super::layout::{SeriesTexts, ShardRows};
use super::outcome::{Dead, Tally};
use super::state::{PendingReading, SeriesState};

/// A reading on its way to the shard of its series.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Routed {
    /// Number of its feed.
    pub feed: u16,
    /// [`route`] of its series.
    pub route: u64,
    /// Its series.
    pub series: Arc<str>,
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

/// In place of a feed's number: a series of a feed that is no longer configured. It only keeps its identifier from others.
pub const NOT_CONFIGURED: u16 = u16::MAX;

/// The series has the identifier of another feed's.
pub const SERIES_OF_ANOTHER_FEED: &str = "series_of_another_feed";

/// The number by which a series is given to a shard; the same in every thread of a process. An identifier belongs to one
/// feed, so series of all feeds that are called the same meet in one shard.
pub fn route(series: &str) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut hasher = std::hash::DefaultHasher::new();
    series.hash(&mut hasher);
    hasher.finish()
}

/// What a shard gives at the end of an epoch.
#[derive(Debug)]
pub struct ShardPart {
    /// The epoch.
    pub epoch: u64,
    /// Rows of `intervals`, those of each feed together.
    pub rows: Vec<ShardRows>,
    /// Changes of counts, by number of the feed.
    pub tallies: Vec<Tally>,
    /// Readings that cannot be used.
    pub dead: Vec<DeadLetter>,
    /// The states of the series that got a reading.
    pub series: Vec<SeriesState>,
}

struct Member {
    feed: u16,
    route: u64,
    // The last epoch in which it got a reading.
    touched: u64,
    series: Series,
}

/// The series of one worker.
pub struct Shard {
    feeds: Arc<[FeedRules]>,
    epoch: u64,
    index: HashTable<u32>,
    members: Vec<Member>,
    touched: Vec<u32>,
    outputs: Vec<Output>,
}

impl Shard {
    /// A shard that begins with `epoch`, and with the series that a commit remembers.
    pub fn new(feeds: Arc<[FeedRules]>, epoch: u64, series: impl IntoIterator<Item = (u16, SeriesState)>) -> Shard {
        let outputs = feeds.iter().map(|_| Output { epoch, ..Output::default() }).collect();
        let mut shard =
            Shard { feeds, epoch, index: HashTable::new(), members: Vec::new(), touched: Vec::new(), outputs };
        for (feed, state) in series {
            let route = route(&state.id);
            shard.insert(Member { feed, route, touched: 0, series: Series::restore(state) });
        }
        shard
    }

    /// The running epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    fn insert(&mut self, member: Member) -> u32 {
        let number = self.members.len() as u32;
        let members = &self.members;
        self.index.insert_unique(member.route, number, |number| members[*number as usize].route);
        self.members.push(member);
        number
    }

    /// Takes one reading of the running epoch. `watermark` is that of its feed.
    pub fn apply(&mut self, routed: Routed, watermark: Micros) {
        let Routed { feed, route, series, reading } = routed;
        // Before its series is looked up: a reading that is refused must not be what a series begins with.
        if let Some(detail) = self.feeds[usize::from(feed)].rules.ahead(&series, &reading) {
            return self.refuse(feed, &reading, TIME_AHEAD, detail);
        }
        let members = &self.members;
        let found = self.index.find(route, |number| {
            let member = &members[*number as usize];
            member.route == route && *member.series.state.id == *series
        });
        let number = match found {
            Some(number) if members[*number as usize].feed != feed => {
                // Two meters under one name would overwrite each other in every table.
                let detail = format!(
                    "series `{series}` belongs to the feed `{}`, which wrote it first; identifiers are unique over all \
                     feeds: set `series_prefix` for this feed",
                    members[*number as usize].series.state.feed
                );
                return self.refuse(feed, &reading, SERIES_OF_ANOTHER_FEED, detail);
            }
            Some(number) => *number,
            None => {
                let rules = &self.feeds[usize::from(feed)];
                let series = Series::new(&rules.name, &series, &reading.unit, &rules.rules);
                self.insert(Member { feed, route, touched: 0, series })
            }
        };
        let member = &mut self.members[number as usize];
        if member.touched != self.epoch {
            member.touched = self.epoch;
            self.touched.push(number);
        }
        let rules = &self.feeds[usize::from(feed)].rules;
        member.series.apply(rules, number, watermark, reading, &mut self.outputs[usize::from(feed)]);
    }

    /// Ends the epoch, and begins the next one.
    ///
    /// # Errors
    /// A reading that cannot be used, of a feed that is to fail then.
    pub fn finish(&mut self) -> Result<ShardPart, IngestError> {
        let epoch = self.epoch;
        self.epoch += 1;
        let fresh = self.feeds.iter().map(|_| Output { epoch: self.epoch, ..Output::default() }).collect();
        let outputs = std::mem::replace(&mut self.outputs, fresh);
        let mut part = ShardPart { epoch, rows: vec![], tallies: vec![], dead: vec![], series: vec![] };
        for (number, (feed, output)) in self.feeds.iter().zip(outputs).enumerate() {
            if let (BadRecords::Fail, Some(dead)) = (feed.bad_records, output.dead.first()) {
                return Err(IngestError::BadRecord {
                    feed: feed.name.to_string(),
                    topic: feed.topic.to_string(),
                    partition: dead.position.partition,
                    offset: dead.position.offset,
                    refusal: format!("{}: {}", dead.reason, dead.detail),
                });
            }
            let kept = output.dead.into_iter().filter(|_| feed.bad_records == BadRecords::DeadLetter);
            part.dead.extend(kept.map(|dead| DeadLetter {
                feed: Arc::clone(&feed.name),
                topic: Arc::clone(&feed.topic),
                position: dead.position,
                key: None,
                payload: None,
                reason: dead.reason,
                detail: dead.detail,
            }));
            part.tallies.push(output.tally);
            if !output.rows.is_empty() {
                part.rows.push(ShardRows { rows: output.rows, series: self.texts(number as u16) });
            }
        }
        let members = &self.members;
        part.series = self.touched.drain(..).map(|number| members[number as usize].series.state.clone()).collect();
        Ok(part)
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

    // Of a feed's series that got a reading in the running epoch.
    fn texts(&self, feed: u16) -> Vec<(u32, SeriesTexts)> {
        let touched = self.touched.iter().map(|number| (*number, &self.members[*number as usize]));
        touched
            .filter(|(_, member)| member.feed == feed)
            .map(|(number, member)| (number, SeriesTexts::of(&member.series.state)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use meterline_schemas::config::FeedConfig;
    use meterline_schemas::reading::{Position, Quality};
    use meterline_schemas::time::{DAY, HOUR};
    use meterline_schemas::unit::Unit;

    use super::*;

    fn feed(name: &str) -> FeedRules {
        let mut config = FeedConfig::new(name, "id", "ts", "value");
        config.frequency = Some(meterline_schemas::Frequency::HOUR);
        let rules = Rules::new(&config, 8).unwrap();
        FeedRules { name: name.into(), topic: name.into(), rules, bad_records: BadRecords::DeadLetter }
    }

    fn reading(feed: u16, series: &str, hour: i64) -> Routed {
        let position = Position { timestamp_ms: hour * HOUR / 1_000, partition: 0, offset: hour };
        let (value, unit, quality) = (1.0, Unit::KWH, Quality::Measured);
        let reading = PendingReading { at: hour * HOUR, value, unit, quality, position };
        Routed { feed, route: route(series), series: series.into(), reading }
    }

    #[test]
    fn a_reading_from_a_clock_far_ahead_is_refused_and_begins_no_series() {
        let mut shard = Shard::new([feed("f")].into(), 1, []);
        let at = |hour: i64, ahead: Micros, unit: Unit| {
            let mut routed = reading(0, "a", hour);
            routed.reading.at += ahead;
            routed.reading.unit = unit;
            routed
        };
        // A volt that is too far ahead must not decide the unit of the series.
        shard.apply(at(1, DAY + 1, "V".parse().unwrap()), Micros::MIN);
        shard.apply(at(2, DAY, Unit::KWH), Micros::MIN);
        // A record without a time stamp of its own says nothing about clocks.
        let mut unstamped = at(3, 9 * DAY, Unit::KWH);
        unstamped.reading.position.timestamp_ms = -1;
        shard.apply(unstamped, Micros::MIN);
        let part = shard.finish().unwrap();
        assert_eq!((part.dead.len(), part.dead[0].reason), (1, TIME_AHEAD));
        assert!(part.dead[0].detail.contains("max_ahead"), "{}", part.dead[0].detail);
        assert_eq!(part.rows[0].rows.len(), 2);
    }

    #[test]
    fn an_identifier_belongs_to_one_feed_also_when_that_is_no_longer_configured() {
        let mut gone = SeriesState::new("gone", "old", Unit::KWH);
        gone.frequency = Some(meterline_schemas::Frequency::HOUR);
        let mut shard = Shard::new([feed("import"), feed("export")].into(), 1, [(NOT_CONFIGURED, gone)]);
        for (feed, series) in [(0, "a"), (1, "a"), (1, "b"), (0, "old")] {
            shard.apply(reading(feed, series, 1), Micros::MIN);
        }
        let part = shard.finish().unwrap();
        let dead: Vec<(&str, &str)> = part.dead.iter().map(|dead| (&*dead.feed, dead.reason)).collect();
        assert_eq!(dead, [("import", SERIES_OF_ANOTHER_FEED), ("export", SERIES_OF_ANOTHER_FEED)]);
        assert!(part.dead[1].detail.contains("`import`"), "{}", part.dead[1].detail);
        assert!(part.dead[0].detail.contains("`gone`"), "{}", part.dead[0].detail);
        let rows: Vec<usize> = part.rows.iter().map(|rows| rows.rows.len()).collect();
        assert_eq!(rows, [1, 1]);
    }
}
