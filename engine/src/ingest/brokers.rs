//! What the brokers last said, for monitoring alone: where the partitions end, and whether anybody answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Shared by the one who asks and those who want to know. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Brokers(Arc<Mutex<Said>>);

#[derive(Debug, Default)]
struct Said {
    // By feed and partition.
    ends: BTreeMap<(String, i32), i64>,
    answered: Option<Instant>,
    // By feed, what is waited for.
    waiting: BTreeMap<String, String>,
}

impl Brokers {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A broker said where a partition ends.
    pub fn answered(&self, feed: &str, partition: i32, end: i64) {
        let mut said = self.said();
        said.ends.insert((feed.to_owned(), partition), end);
        said.answered = Some(Instant::now());
        said.waiting.remove(feed);
    }

    /// No answer: why.
    pub fn failed(&self, feed: &str, reason: String) {
        self.said().waiting.insert(feed.to_owned(), reason);
    }

    /// The end of a partition, as a broker last said.
    pub fn end(&self, feed: &str, partition: i32) -> Option<i64> {
        self.said().ends.get(&(feed.to_owned(), partition)).copied()
    }

    /// How long no broker has answered; `None` before the first answer.
    pub fn silence(&self) -> Option<Duration> {
        Some(self.said().answered?.elapsed())
    }

    /// What is waited for; `None` while every topic can be read.
    pub fn waiting(&self) -> Option<String> {
        let said = self.said();
        match said.waiting.iter().next() {
            Some((feed, reason)) => Some(format!("feed `{feed}`: {reason}")),
            None if said.answered.is_none() => Some("Kafka has not answered yet".to_owned()),
            None => None,
        }
    }
}
