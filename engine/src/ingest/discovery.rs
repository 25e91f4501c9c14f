//! Finds the partitions of every feed's topic, gives them to the workers, and goes on looking for new ones.
//!
//! It also decides how reading goes on where a worker cannot know: when a topic is gone, was created anew, or has lost
//! records to retention. Then the worker gives its partitions back, with the offsets that it has reached; what
//! [`judge`] makes of them, and what the feed's configuration says to that, is how they are given out again.
//!
//! What is missing (a broker, a topic, a permission) is waited for, aloud: the log says what, for how long, and when
//! the next attempt is. It has a thread of its own, because every question to the cluster blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::brokers::Brokers;
use super::epoch::Progress;
use super::judge::{Found, Verdict, judge};
use super::outlet::Outlet;
use super::topic_watch::{RETRY_FIRST, TopicWatch};
use meterline_connectors::kafka::cluster::{Cluster, Topic};
use meterline_connectors::kafka::{SourceError, TopicId};
use meterline_schemas::config::{Config, KafkaConfig, OnExpired, OnRecreated};
use serde::{Deserialize, Serialize};

/// How often the log repeats that nobody says where a partition ends.
const REMINDER: Duration = Duration::from_secs(60);
/// How long the thread sleeps at a time, so that it ends soon when it is to.
const NAP: Duration = Duration::from_millis(50);

/// What a worker is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Command {
    /// Read a partition.
    Read(Order),
    /// Stop reading, and say how far each partition was read.
    GiveBack,
}

/// A partition for a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its identifier.
    pub topic_id: Option<TopicId>,
    /// Where reading stands, if the worker does not know better.
    pub begin: Progress,
    /// What happened to the partition.
    pub change: Change,
    /// The broker's end offset.
    pub end_offset: i64,
}

/// What happened to a partition before it is read (on).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Nothing.
    None,
    /// Records before this offset are gone.
    Lost(i64),
    /// The topic was created anew, and begins with this offset.
    Anew(i64),
    /// The topic was created anew, and has no such partition.
    Gone,
}

/// How far a worker had read when it stopped.
#[derive(Debug, Serialize, Deserialize)]
pub struct GivenBack {
    /// The place of the worker among those that read.
    pub worker: usize,
    /// Why.
    pub reason: String,
    /// All partitions that it was reading.
    pub partitions: Vec<Progress>,
}

/// A position that is part of a commit; it is reported to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reported {
    /// Number of the feed.
    pub feed: u16,
    /// Partition.
    pub partition: i32,
    /// Which of the topics that had this name.
    pub incarnation: u32,
    /// Where reading began.
    pub first_offset: i64,
    /// What comes next.
    pub next_offset: i64,
}

/// The positions of a commit.
pub type Report = Vec<Reported>;

/// A feed as it is looked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Its topic.
    pub topic: Arc<str>,
    /// What happens when the topic is another one.
    pub on_recreated: OnRecreated,
    /// What happens when records are gone.
    pub on_expired: OnExpired,
}

/// How discovery speaks with the rest of the stream.
pub struct Channels {
    /// One a worker, by its place.
    pub workers: Vec<Outlet<Command>>,
    /// What workers stopped reading.
    pub given_back: Receiver<GivenBack>,
    /// The newest positions to report.
    pub report: Arc<Mutex<Option<Report>>>,
    /// Set when the thread is to end.
    pub done: Arc<AtomicBool>,
}

/// What the thread works on.
pub struct Discovery {
    kafka: KafkaConfig,
    // By number.
    feeds: Vec<Wanted>,
    brokers: Brokers,
    // How long a partition whose end nobody knows holds the watermark; for the log.
    unreachable_timeout: Duration,
    // How far partitions were read, by feed and partition.
    read: BTreeMap<(u16, i32), Progress>,
    channels: Channels,
    // Partitions that a worker is reading.
    given: BTreeSet<(u16, i32)>,
    // Workers that were asked to give back.
    asked: BTreeSet<usize>,
}

/// The worker that reads a partition: neighbours go to different workers, and so do the first partitions of feeds.
fn worker_of(feed: u16, partition: i32, workers: usize) -> usize {
    (usize::from(feed) + partition.unsigned_abs() as usize) % workers.max(1)
}

impl Discovery {
    /// One that looks for `feeds` and tells `brokers` what it hears. `read` says, by feed and partition, how far the
    /// last commit has read; from now on these partitions are expected.
    pub fn new(
        config: &Config,
        feeds: Vec<Wanted>,
        brokers: Brokers,
        read: BTreeMap<(u16, i32), Progress>,
        channels: Channels,
    ) -> Discovery {
        for (feed, partition) in read.keys() {
            brokers.expected(&feeds[usize::from(*feed)].name, *partition);
        }
        let (kafka, unreachable_timeout) = (config.kafka.clone(), config.ingest.unreachable_timeout.to_std());
        let (given, asked) = (BTreeSet::new(), BTreeSet::new());
        Discovery { kafka, feeds, brokers, unreachable_timeout, read, channels, given, asked }
    }

    /// Runs until [`Channels::done`] is set.
    ///
    /// # Errors
    /// What waiting cannot heal: wrong settings, or a topic or records that are gone where the feed is to fail then.
    pub fn run(mut self) -> Result<(), SourceError> {
        let cluster = Cluster::connect(&self.kafka)?;
        let mut topics: Vec<TopicWatch> = self.feeds.iter().map(|_| TopicWatch::default()).collect();
        while !self.ended() {
            while let Ok(back) = self.channels.given_back.try_recv() {
                self.take_back(back);
                // A client that finds itself in doubt again and again must not spin.
                let soon = Instant::now() + RETRY_FIRST;
                topics.iter_mut().for_each(|watch| watch.next = watch.next.min(soon));
            }
            for (number, watch) in topics.iter_mut().enumerate() {
                if self.ended() || Instant::now() < watch.next {
                    continue;
                }
                let name = self.feeds[number].name.clone();
                match self.look(&cluster, number as u16, watch) {
                    Ok(Looked::AtAll) => {
                        self.brokers.found(&name);
                        watch.found(&self.feeds[number].topic);
                    }
                    Ok(Looked::InVain) => watch.next = Instant::now() + RETRY_FIRST,
                    Err(error) if error.passes() => {
                        if matches!(error, SourceError::TopicMissing { .. }) {
                            // Whatever comes back under that name is looked at before it is read.
                            self.recall(number as u16);
                        }
                        self.brokers.failed(&name, error.to_string(), Instant::now());
                        watch.wait(&error);
                    }
                    Err(error) => return Err(error),
                }
            }
            self.report(&cluster);
            std::thread::sleep(NAP);
        }
        self.report(&cluster);
        Ok(())
    }

    fn ended(&self) -> bool {
        self.channels.done.load(Ordering::Relaxed)
    }

    fn take_back(&mut self, back: GivenBack) {
        let GivenBack { worker, reason, partitions } = back;
        tracing::info!(worker, partitions = partitions.len(), "looking at what is being read: {reason}");
        self.asked.remove(&worker);
        for progress in partitions {
            let key = (progress.feed, progress.partition);
            self.given.remove(&key);
            self.read.insert(key, progress);
        }
    }

    // Asks for the partitions of a feed.
    fn recall(&mut self, feed: u16) {
        let workers: BTreeSet<usize> = self
            .given
            .range((feed, 0)..=(feed, i32::MAX))
            .map(|(feed, partition)| worker_of(*feed, *partition, self.channels.workers.len()))
            .collect();
        for worker in workers {
            if self.asked.insert(worker) {
                self.channels.workers[worker].send(Command::GiveBack);
            }
        }
    }

    fn look(&mut self, cluster: &Cluster, feed: u16, watch: &mut TopicWatch) -> Result<Looked, SourceError> {
        let wanted = self.feeds[usize::from(feed)].clone();
        let topic = cluster.topic(&wanted.topic)?;
        let found = self.ask(cluster, &wanted, &topic, watch)?;
        if self.ended() {
            return Ok(Looked::InVain);
        }
        // The offsets must be those of the topic whose identifier we know.
        if cluster.topic(&wanted.topic)?.id != topic.id {
            tracing::info!(topic = %wanted.topic, "the topic was created anew while it was looked at; looking again");
            return Ok(Looked::InVain);
        }
        watch.partitions = topic.leaders.len();
        let read: BTreeMap<i32, Progress> =
            self.read.range((feed, 0)..=(feed, i32::MAX)).map(|((_, p), progress)| (*p, *progress)).collect();
        let verdicts = judge(&read, &found);
        let other = |partition: &i32| matches!(verdicts.get(partition), Some(Verdict::Anew { .. } | Verdict::Gone));
        // What is being read must first be given back: only the worker knows how far it is.
        if read.keys().any(|partition| other(partition) && self.given.contains(&(feed, *partition))) {
            self.recall(feed);
            return Ok(Looked::AtAll);
        }
        for (partition, verdict) in verdicts {
            if self.given.contains(&(feed, partition)) {
                continue;
            }
            let known = read.get(&partition).copied();
            let there = usize::try_from(partition).ok().and_then(|number| found.offsets.get(number).copied().flatten());
            let end = there.map_or(0, |(_, end)| end);
            let mut begin = known.unwrap_or_else(|| Progress::begin(feed, partition, 0));
            let change = match verdict {
                Verdict::Unknown => continue,
                Verdict::Gone => {
                    self.gone(&wanted, partition, watch);
                    continue;
                }
                Verdict::Begins(first) => {
                    (begin.first_offset, begin.next_offset) = (first, first);
                    Change::None
                }
                Verdict::GoesOn => Change::None,
                Verdict::Expired(first) => self.expired(&wanted, begin, first, end)?,
                Verdict::Anew { evidence, first } => {
                    let change = self.anew(&wanted, partition, evidence, first)?;
                    if change == Change::Gone {
                        self.gone(&wanted, partition, watch);
                    }
                    change
                }
            };
            if change != Change::Gone {
                watch.gone.remove(&partition);
            }
            let order = Order { topic: Arc::clone(&wanted.topic), topic_id: topic.id, begin, change, end_offset: end };
            self.give(order);
        }
        Ok(Looked::AtAll)
    }

    // It holds no watermark any more; the log says so once.
    fn gone(&self, wanted: &Wanted, partition: i32, watch: &mut TopicWatch) {
        self.brokers.gone(&wanted.name, partition);
        if watch.gone.insert(partition) {
            tracing::warn!(
                feed = wanted.name, topic = %wanted.topic, partition, partitions = watch.partitions,
                "the topic has no such partition any more: what was read of it stays in the lake, and it holds nothing up"
            );
        }
    }

    // Where the partitions begin and end; a broker that does not answer is asked once.
    fn ask(
        &self,
        cluster: &Cluster,
        wanted: &Wanted,
        topic: &Topic,
        watch: &mut TopicWatch,
    ) -> Result<Found, SourceError> {
        let mut silent: BTreeMap<i32, String> = BTreeMap::new();
        let mut offsets = Vec::with_capacity(topic.leaders.len());
        for (partition, leader) in (0..).zip(&topic.leaders) {
            if self.ended() {
                break;
            }
            let answer = match leader {
                None => Err("it has no leader".to_owned()),
                Some(leader) => match silent.get(leader) {
                    Some(reason) => Err(reason.clone()),
                    None => match cluster.offsets(&wanted.topic, partition) {
                        Ok(offsets) => Ok(offsets),
                        Err(error) if error.passes() => {
                            silent.insert(*leader, error.to_string());
                            Err(error.to_string())
                        }
                        Err(error) => return Err(error),
                    },
                },
            };
            let now = Instant::now();
            match answer {
                Ok((first, end)) => {
                    self.brokers.answered(&wanted.name, partition, first, end, now);
                    if watch.silent.remove(&partition).is_some() {
                        tracing::info!(topic = %wanted.topic, partition, "a broker says again where the partition ends");
                    }
                    offsets.push(Some((first, end)));
                }
                Err(reason) => {
                    if watch.silent.get(&partition).is_none_or(|told| now - *told >= REMINDER) {
                        watch.silent.insert(partition, now);
                        tracing::warn!(
                            topic = %wanted.topic, partition, limit_s = self.unreachable_timeout.as_secs(),
                            "no broker says where the partition ends: {reason}; it may have more than is known, and holds the \
                             watermark up to ingest.unreachable_timeout (known records do until they are read)"
                        );
                    }
                    self.brokers.unanswered(&wanted.name, partition, reason, now);
                    offsets.push(None);
                }
            }
        }
        Ok(Found { id: topic.id, offsets })
    }

    fn expired(&self, wanted: &Wanted, known: Progress, first: i64, end: i64) -> Result<Change, SourceError> {
        let Progress { partition, next_offset, .. } = known;
        match wanted.on_expired {
            OnExpired::Fail => {
                let topic = wanted.topic.to_string();
                Err(SourceError::OffsetExpired { topic, partition, wanted: next_offset, first, end })
            }
            OnExpired::Earliest => {
                tracing::error!(
                    topic = %wanted.topic, partition, lost_from = next_offset, lost_to = first - 1,
                    "records were gone before they were read (retention); reading goes on with the earliest there is"
                );
                Ok(Change::Lost(first))
            }
        }
    }

    fn anew(
        &self,
        wanted: &Wanted,
        partition: i32,
        evidence: String,
        first: Option<i64>,
    ) -> Result<Change, SourceError> {
        let topic = wanted.topic.to_string();
        if wanted.on_recreated == OnRecreated::Fail {
            return Err(SourceError::Recreated { topic, evidence });
        }
        let Some(first) = first else { return Ok(Change::Gone) };
        tracing::warn!(topic, partition, evidence, "the topic was created anew: it is read from its beginning");
        Ok(Change::Anew(first))
    }

    fn give(&mut self, order: Order) {
        let (feed, partition) = (order.begin.feed, order.begin.partition);
        let key = (feed, partition);
        let mut progress = order.begin;
        order.change.apply(&mut progress, order.topic_id, order.end_offset);
        if order.change != Change::Gone {
            let (from_offset, end_offset) = (progress.next_offset, order.end_offset);
            tracing::info!(topic = %order.topic, partition, from_offset, end_offset, "reading a partition");
            self.given.insert(key);
        }
        self.read.insert(key, progress);
        self.channels.workers[worker_of(feed, partition, self.channels.workers.len())].send(Command::Read(order));
    }

    // The broker is told for monitoring alone: a failure is nobody's loss.
    fn report(&mut self, cluster: &Cluster) {
        let Some(newest) = self.channels.report.lock().ok().and_then(|mut newest| newest.take()) else { return };
        for at in &newest {
            let read = self.read.get_mut(&(at.feed, at.partition));
            if let Some(read) = read.filter(|read| read.incarnation == at.incarnation) {
                (read.first_offset, read.next_offset) = (at.first_offset, at.next_offset.max(read.next_offset));
            }
        }
        let topic = |at: &Reported| self.feeds.get(usize::from(at.feed)).map(|feed| &*feed.topic);
        let positions: Vec<(&str, i32, i64)> =
            newest.iter().filter_map(|at| Some((topic(at)?, at.partition, at.next_offset))).collect();
        if let Err(error) = cluster.report(&positions) {
            tracing::debug!(%error, "the consumer group's offsets, which are for monitoring only, were not updated");
        }
    }
}

impl Change {
    /// What it makes of a partition of a topic with this identifier, which ends at `end` now.
    pub fn apply(self, progress: &mut Progress, topic_id: Option<TopicId>, end: i64) {
        match self {
            Change::None => {}
            Change::Lost(first) => progress.lose(first),
            Change::Anew(first) => progress.restart(first),
            Change::Gone => progress.restart(0),
        }
        progress.topic_id = topic_id.or(progress.topic_id);
        progress.end_offset = end.max(progress.next_offset);
    }
}

/// What came of looking at a topic.
enum Looked {
    /// Everything was seen.
    AtAll,
    /// It changed meanwhile.
    InVain,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_spread_over_the_workers() {
        let spread: Vec<usize> = (0..4).map(|partition| worker_of(0, partition, 2)).collect();
        assert_eq!(spread, [0, 1, 0, 1]);
        // Topics with one partition each go to different workers.
        let spread: Vec<usize> = (0..4).map(|feed| worker_of(feed, 0, 3)).collect();
        assert_eq!(spread, [0, 1, 2, 0]);
    }

    #[test]
    fn a_change_is_counted_where_it_happened() {
        let mut progress = Progress { next_offset: 7, end_offset: 9, ..Progress::begin(0, 0, 2) };
        Change::Lost(8).apply(&mut progress, None, 20);
        assert_eq!((progress.next_offset, progress.expired, progress.end_offset), (8, 1, 20));
        Change::Anew(3).apply(&mut progress, None, 5);
        // Of the old one, twelve records were never read.
        assert_eq!((progress.earlier, progress.expired, progress.incarnation), (18, 13, 1));
        assert_eq!((progress.first_offset, progress.next_offset, progress.end_offset), (3, 3, 5));
        Change::Gone.apply(&mut progress, None, 0);
        assert_eq!((progress.next_offset, progress.end_offset, progress.is_new()), (0, 0, true));
    }
}
