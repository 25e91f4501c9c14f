//! Finds the partitions of every feed's topic, gives them to the workers, and goes on looking for new ones.
//!
//! What is missing (a broker, a topic, a permission) is waited for, aloud: the log says what, for how long, and when
//! the next attempt is. It has a thread of its own, because every question to the cluster blocks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::brokers::Brokers;
use meterline_connectors::kafka::SourceError;
use meterline_connectors::kafka::cluster::Cluster;
use meterline_connectors::kafka::source::Assignment;
use meterline_schemas::config::KafkaConfig;

const REFRESH: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LONGEST: Duration = Duration::from_secs(10);
/// How long the thread sleeps at a time, so that it ends soon when it is to.
const NAP: Duration = Duration::from_millis(50);

/// A partition for a worker.
#[derive(Debug, Clone)]
pub struct NewPartition {
    /// Number of its feed.
    pub feed: u16,
    /// What to read.
    pub assignment: Assignment,
    /// Where reading begins.
    pub first_offset: i64,
    /// The broker's end offset.
    pub end_offset: i64,
}

/// Positions to report to the broker: topic, partition, next offset.
pub type Report = Vec<(Arc<str>, i32, i64)>;

/// What the thread works on.
pub struct Discovery {
    /// Where.
    pub kafka: KafkaConfig,
    /// Topics, by number of the feed.
    pub topics: Vec<Arc<str>>,
    /// Names of the feeds, by number.
    pub feeds: Vec<String>,
    /// What monitoring is told.
    pub brokers: Brokers,
    /// The offsets that come next, by feed and partition, from the last commit.
    pub positions: BTreeMap<(u16, i32), i64>,
    /// One a worker.
    pub workers: Vec<Sender<NewPartition>>,
    /// The newest positions to report.
    pub report: Arc<Mutex<Option<Report>>>,
    /// Set when the thread is to end.
    pub done: Arc<AtomicBool>,
}

/// The worker that reads a partition: neighbours go to different workers, and so do the first partitions of feeds.
fn worker_of(feed: u16, partition: i32, workers: usize) -> usize {
    (usize::from(feed) + partition.unsigned_abs() as usize) % workers.max(1)
}

impl Discovery {
    /// Runs until `done` is set.
    ///
    /// # Errors
    /// What waiting cannot heal: wrong settings, or an offset that the broker no longer has.
    pub fn run(self) -> Result<(), SourceError> {
        let cluster = Cluster::connect(&self.kafka)?;
        let mut topics: Vec<TopicWatch> = self.topics.iter().map(|_| TopicWatch::default()).collect();
        while !self.done.load(Ordering::Relaxed) {
            for (number, watch) in topics.iter_mut().enumerate() {
                if self.done.load(Ordering::Relaxed) || Instant::now() < watch.next {
                    continue;
                }
                match self.look(&cluster, number as u16, watch) {
                    Ok(()) => watch.found(&self.topics[number]),
                    Err(error) if error.passes() => {
                        self.brokers.failed(&self.feeds[number], error.to_string());
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

    fn look(&self, cluster: &Cluster, feed: u16, watch: &mut TopicWatch) -> Result<(), SourceError> {
        let topic = &self.topics[usize::from(feed)];
        let partitions = cluster.partitions(topic)?;
        if watch.partitions == 0
            && let Some(((_, last), _)) = self.positions.range((feed, 0)..=(feed, i32::MAX)).next_back()
            && *last >= partitions
        {
            tracing::warn!(
                %topic, partitions, last_known = *last,
                "the topic has fewer partitions than were read before: was it created anew?"
            );
        }
        for partition in watch.partitions..partitions {
            let (first, end) = cluster.offsets(topic, partition)?;
            let next_offset = self.positions.get(&(feed, partition)).copied();
            if let Some(wanted) = next_offset
                && !(first..=end).contains(&wanted)
            {
                return Err(SourceError::OffsetExpired { topic: topic.to_string(), partition, wanted, first, end });
            }
            let new = NewPartition {
                feed,
                assignment: Assignment { topic: Arc::clone(topic), partition, next_offset },
                first_offset: next_offset.unwrap_or(first),
                end_offset: end,
            };
            tracing::info!(%topic, partition, from_offset = new.first_offset, end_offset = end, "reading a partition");
            // A worker that has ended says so itself.
            let _ = self.workers[worker_of(feed, partition, self.workers.len())].send(new);
            watch.partitions = partition + 1;
        }
        for partition in 0..partitions {
            let (_, end) = cluster.offsets(topic, partition)?;
            self.brokers.answered(&self.feeds[usize::from(feed)], partition, end);
        }
        Ok(())
    }

    // For monitoring alone: a failure is nobody's loss.
    fn report(&self, cluster: &Cluster) {
        let Some(positions) = self.report.lock().ok().and_then(|mut newest| newest.take()) else { return };
        let positions: Vec<(&str, i32, i64)> =
            positions.iter().map(|(topic, partition, next)| (topic.as_ref(), *partition, *next)).collect();
        if let Err(error) = cluster.report(&positions) {
            tracing::debug!(%error, "the consumer group's offsets, which are for monitoring only, were not updated");
        }
    }
}

/// What is known of one topic, and when to look again.
struct TopicWatch {
    partitions: i32,
    next: Instant,
    waiting_since: Option<Instant>,
    retry: Duration,
}

impl Default for TopicWatch {
    fn default() -> Self {
        TopicWatch { partitions: 0, next: Instant::now(), waiting_since: None, retry: RETRY_FIRST }
    }
}

impl TopicWatch {
    fn found(&mut self, topic: &str) {
        if let Some(since) = self.waiting_since.take() {
            let waited_s = since.elapsed().as_secs_f64().round();
            tracing::info!(topic, partitions = self.partitions, waited_s, "the topic can be read now");
        }
        self.retry = RETRY_FIRST;
        self.next = Instant::now() + REFRESH;
    }

    fn wait(&mut self, error: &SourceError) {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let waited_s = since.elapsed().as_secs_f64().round();
        tracing::warn!(%error, waited_s, next_attempt_s = self.retry.as_secs_f64(), "waiting for Kafka");
        self.next = Instant::now() + self.retry;
        self.retry = (self.retry * 2).min(RETRY_LONGEST);
    }
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
}
