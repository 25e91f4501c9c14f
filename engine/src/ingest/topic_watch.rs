//! What is known of a topic that is looked for, and when to look again: soon after a failure, and then less and less
//! often.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use meterline_connectors::kafka::SourceError;

const REFRESH: Duration = Duration::from_secs(10);
/// How soon after a failure, or something that was seen half, it is looked again.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LONGEST: Duration = Duration::from_secs(10);

/// What is known of one topic, and when to look again.
pub(super) struct TopicWatch {
    pub(super) partitions: usize,
    pub(super) next: Instant,
    waiting_since: Option<Instant>,
    retry: Duration,
    /// Partitions whose end nobody knows, and when the log last said so.
    pub(super) silent: BTreeMap<i32, Instant>,
    /// Partitions of which the log said that they are gone.
    pub(super) gone: BTreeSet<i32>,
}

impl Default for TopicWatch {
    fn default() -> Self {
        TopicWatch {
            partitions: 0,
            next: Instant::now(),
            waiting_since: None,
            retry: RETRY_FIRST,
            silent: BTreeMap::new(),
            gone: BTreeSet::new(),
        }
    }
}

impl TopicWatch {
    /// All of it was seen.
    pub(super) fn found(&mut self, topic: &str) {
        if let Some(since) = self.waiting_since.take() {
            let waited_s = since.elapsed().as_secs_f64().round();
            tracing::info!(topic, partitions = self.partitions, waited_s, "the topic can be read now");
        }
        self.retry = RETRY_FIRST;
        self.next = Instant::now() + REFRESH;
    }

    /// It could not be asked for; the log says why, and when it is asked for again.
    pub(super) fn wait(&mut self, error: &SourceError) {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let waited_s = since.elapsed().as_secs_f64().round();
        tracing::warn!(%error, waited_s, next_attempt_s = self.retry.as_secs_f64(), "waiting for Kafka");
        self.next = Instant::now() + self.retry;
        self.retry = (self.retry * 2).min(RETRY_LONGEST);
    }
}
