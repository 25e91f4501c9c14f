//! What the brokers last said: where the partitions begin and end, and whether anybody answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::state::PartitionState;

/// Age at which an answer says nothing any more about where a partition ends: some rounds of questions have failed to
/// come.
const FRESH: Duration = Duration::from_secs(60);

/// Shared by the one who asks and those who want to know. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Brokers(Arc<Mutex<Said>>);

#[derive(Debug)]
struct Said {
    began: Instant,
    // By feed.
    partitions: BTreeMap<String, BTreeMap<i32, Partition>>,
    answered: Option<Instant>,
    // By feed, what is waited for.
    waiting: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct Partition {
    first: Option<i64>,
    end: Option<i64>,
    answered: Option<Instant>,
    // The first question since then to which there was no answer, and why.
    in_vain: Option<(Instant, String)>,
}

/// What is known of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The first offset that its broker has.
    pub first: Option<i64>,
    /// Its end, as a broker last said.
    pub end: Option<i64>,
    /// How long nobody has been able to say where it ends; `None` while somebody can.
    pub unknown_for: Option<Duration>,
}

/// Records that are known to be in a partition and that no commit has reached: of what was `read` of it, `None` where
/// nothing was, and what a broker said.
pub fn unread(read: Option<&PartitionState>, known: Option<&Known>) -> i64 {
    let end = known.and_then(|known| known.end);
    let (next, end) = match read {
        // Whoever has looked last knows the later end.
        Some(read) => (Some(read.next_offset), end.max(Some(read.end_offset))),
        None => (known.and_then(|known| known.first), end),
    };
    end.zip(next).map_or(0, |(end, next)| (end - next).max(0))
}

impl Partition {
    fn known(&self, began: Instant, now: Instant) -> Known {
        let since = match (&self.in_vain, self.answered) {
            (Some((since, _)), _) => Some(*since),
            (None, None) => Some(began),
            (None, Some(answered)) => Some(answered).filter(|at| now.saturating_duration_since(*at) >= FRESH),
        };
        let unknown_for = since.map(|since| now.saturating_duration_since(since));
        Known { first: self.first, end: self.end, unknown_for }
    }
}

impl Brokers {
    /// Nobody has been asked yet.
    pub fn new(began: Instant) -> Brokers {
        let said = Said { began, partitions: BTreeMap::new(), answered: None, waiting: BTreeMap::new() };
        Brokers(Arc::new(Mutex::new(said)))
    }

    /// Somebody begins to ask: nobody was silent before.
    pub fn asked_from(&self, now: Instant) {
        self.said().began = now;
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There was such a partition when it was last read.
    pub fn expected(&self, feed: &str, partition: i32) {
        self.said().partitions.entry(feed.to_owned()).or_default().entry(partition).or_default();
    }

    /// A broker said where a partition begins and ends.
    pub fn answered(&self, feed: &str, partition: i32, first: i64, end: i64, now: Instant) {
        let mut said = self.said();
        let (first, end, answered) = (Some(first), Some(end), Some(now));
        let known = Partition { first, end, answered, in_vain: None };
        said.partitions.entry(feed.to_owned()).or_default().insert(partition, known);
        said.answered = Some(now);
    }

    /// No broker says where a partition ends: why.
    pub fn unanswered(&self, feed: &str, partition: i32, reason: String, now: Instant) {
        let mut said = self.said();
        let known = said.partitions.entry(feed.to_owned()).or_default().entry(partition).or_default();
        let since = known.in_vain.as_ref().map_or(now, |(since, _)| *since);
        known.in_vain = Some((since, reason));
    }

    /// There is no such partition any more.
    pub fn gone(&self, feed: &str, partition: i32) {
        if let Some(known) = self.said().partitions.get_mut(feed) {
            known.remove(&partition);
        }
    }

    /// All of a topic's partitions could be asked.
    pub fn found(&self, feed: &str) {
        self.said().waiting.remove(feed);
    }

    /// A topic cannot be asked for: why.
    pub fn failed(&self, feed: &str, reason: String, now: Instant) {
        let partitions: Vec<i32> =
            self.said().partitions.get(feed).into_iter().flatten().map(|(partition, _)| *partition).collect();
        for partition in partitions {
            self.unanswered(feed, partition, reason.clone(), now);
        }
        self.said().waiting.insert(feed.to_owned(), reason);
    }

    /// What is known of a feed's partitions.
    pub fn partitions(&self, feed: &str, now: Instant) -> BTreeMap<i32, Known> {
        let said = self.said();
        let partitions = said.partitions.get(feed).into_iter().flatten();
        partitions.map(|(partition, known)| (*partition, known.known(said.began, now))).collect()
    }

    /// What is known of every feed's partitions.
    pub fn all(&self, now: Instant) -> BTreeMap<String, BTreeMap<i32, Known>> {
        let said = self.said();
        let known = |of: &BTreeMap<i32, Partition>| of.iter().map(|(p, k)| (*p, k.known(said.began, now))).collect();
        said.partitions.iter().map(|(feed, partitions)| (feed.clone(), known(partitions))).collect()
    }

    /// How long no broker has answered anything; `None` before the first answer.
    pub fn silence(&self) -> Option<Duration> {
        Some(self.said().answered?.elapsed())
    }

    /// What is waited for; `None` while every topic can be read.
    pub fn waiting(&self) -> Option<String> {
        let said = self.said();
        if let Some((feed, reason)) = said.waiting.iter().next() {
            return Some(format!("feed `{feed}`: {reason}"));
        }
        for (feed, partitions) in &said.partitions {
            for (partition, known) in partitions {
                if let Some((_, reason)) = &known.in_vain {
                    return Some(format!("feed `{feed}`, partition {partition}: {reason}"));
                }
            }
        }
        said.answered.is_none().then(|| "Kafka has not answered yet".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_without_an_answer_is_remembered_from_the_first_one_on() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let brokers = Brokers::new(start);
        let known = |seconds| brokers.partitions("f", at(seconds))[&0];
        brokers.expected("f", 0);
        assert_eq!(known(7).unknown_for, Some(Duration::from_secs(7)), "nobody was asked yet");
        brokers.asked_from(at(5));
        assert_eq!(known(7).unknown_for, Some(Duration::from_secs(2)), "nor could anybody be before");
        brokers.answered("f", 0, 2, 9, at(10));
        assert_eq!(known(11), Known { first: Some(2), end: Some(9), unknown_for: None });
        brokers.unanswered("f", 0, "no leader".into(), at(20));
        brokers.failed("f", "nobody there".into(), at(30));
        assert_eq!(known(30), Known { first: Some(2), end: Some(9), unknown_for: Some(Duration::from_secs(10)) });
        assert!(brokers.waiting().unwrap().contains("nobody there"));
        brokers.answered("f", 0, 2, 12, at(40));
        brokers.found("f");
        assert_eq!((known(41).unknown_for, brokers.waiting()), (None, None));
        // Whoever asks has stopped asking.
        assert_eq!(known(100).unknown_for, Some(Duration::from_secs(60)));
        brokers.gone("f", 0);
        assert!(brokers.partitions("f", at(41)).is_empty());
    }
}
