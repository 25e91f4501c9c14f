//! The series of one worker: readings in, and at the end of each epoch everything that the commit needs.

use std::sync::Arc;

use arrow::array::RecordBatch;
use hashbrown::HashTable;
use meterline_schemas::Micros;
use meterline_schemas::config::BadRecords;
use serde::{Deserialize, Serialize};

use super::aggregate::{Output, Rules, Series};
use super::dead_letters::DeadLetter;
use super::error::IngestError;
use super::outcome::Tally;
use super::state::{PendingReading, SeriesState};

/// A reading on its way to the shard of its series.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Routed {
    /// Number of its feed.
    pub feed: u16,
    /// [`route`] of feed and series.
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

/// The number by which a series is given to a shard; the same in every thread of a process.
pub fn route(feed: u16, series: &str) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut hasher = std::hash::DefaultHasher::new();
    feed.hash(&mut hasher);
    series.hash(&mut hasher);
    hasher.finish()
}

/// What a shard gives at the end of an epoch.
#[derive(Debug)]
pub struct ShardPart {
    /// The epoch.
    pub epoch: u64,
    /// Rows of `intervals`.
    pub rows: Vec<RecordBatch>,
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
            let route = route(feed, &state.id);
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
        let members = &self.members;
        let found = self.index.find(route, |number| {
            let member = &members[*number as usize];
            member.route == route && member.feed == feed && *member.series.state.id == *series
        });
        let number = match found {
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
    /// A reading that cannot be used, of a feed that is to fail then; or a fault of ours: columns do not fit the table.
    pub fn finish(&mut self) -> Result<ShardPart, IngestError> {
        let epoch = self.epoch;
        self.epoch += 1;
        let fresh = self.feeds.iter().map(|_| Output { epoch: self.epoch, ..Output::default() }).collect();
        let outputs = std::mem::replace(&mut self.outputs, fresh);
        let mut part = ShardPart { epoch, rows: vec![], tallies: vec![], dead: vec![], series: vec![] };
        for (feed, output) in self.feeds.iter().zip(outputs) {
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
                let members = &self.members;
                let batch = output
                    .rows
                    .into_batch(|number| &members[number as usize].series.state)
                    .map_err(|error| IngestError::Fault(format!("making a batch of intervals: {error}")))?;
                part.rows.push(batch);
            }
        }
        let members = &self.members;
        part.series = self.touched.drain(..).map(|number| members[number as usize].series.state.clone()).collect();
        Ok(part)
    }
}
