//! What every consumer of ours has in common: its settings, its errors, and what it says on its way.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use meterline_schemas::config::KafkaConfig;
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use serde::Deserialize;

use super::topic_id::{self, Change, TopicId};

/// Equal complaints of the client library are logged at most this often.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// Lines and statistics that are served at once, at most: there is an end to it, however much the client says.
const SERVED_MAX: usize = 10_000;

/// Category of the client's log that tells topics' identifiers.
const DEBUG: &str = "topic";

/// Why Kafka cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A property is unknown or has a wrong value. The value is not shown: it may be a secret.
    #[error("kafka.properties: the client refuses `{key}`: {cause}; correct or remove it")]
    Property {
        /// The property.
        key: String,
        /// What the client says, without the value.
        cause: String,
    },
    /// A property that is not the user's to set.
    #[error("kafka.properties: `{key}` cannot be set there: {why}; remove it")]
    Reserved {
        /// The property.
        key: String,
        /// What would go wrong, or where it is set instead.
        why: &'static str,
    },
    /// The client cannot be started.
    #[error("cannot start a Kafka client for {brokers}: {cause}; check kafka.brokers and kafka.properties")]
    Client {
        /// The bootstrap brokers.
        brokers: String,
        /// What the client says.
        cause: String,
    },
    /// No broker answers. Passes when one does.
    #[error("no Kafka broker answers at {brokers}: {cause}; check that it runs there and that kafka.brokers is right")]
    Unreachable {
        /// The bootstrap brokers.
        brokers: String,
        /// What the client says.
        cause: KafkaError,
    },
    /// The topic does not exist. Passes when it is created.
    #[error("topic `{topic}` does not exist at {brokers}; create it, or correct feed.*.topic")]
    TopicMissing {
        /// The topic.
        topic: String,
        /// The bootstrap brokers.
        brokers: String,
    },
    /// The broker refuses something about the topic. Passes when the broker's settings change.
    #[error("the broker refuses topic `{topic}`: {cause}; check the permissions of this client")]
    Refused {
        /// The topic.
        topic: String,
        /// What the broker says.
        cause: RDKafkaErrorCode,
    },
    /// The broker no longer has the records that come next.
    #[error(
        "offsets {wanted} to {last} of {topic}/{partition} are lost: they come next, but retention was faster, and the \
         broker has {first} to {end}; restore them, or go on without them by on_expired = \"earliest\" in the feed",
        last = .first - 1
    )]
    OffsetExpired {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset that comes next.
        wanted: i64,
        /// The first offset that the broker still has.
        first: i64,
        /// The end of what it has.
        end: i64,
    },
    /// The topic is not the one that was read.
    #[error(
        "topic `{topic}` is not the one that was read before: it was deleted and created again, or lost records \
         ({evidence}); what was read of the old one stays in the lake; read the new one from its beginning by on_recreated = \"restart\" in the feed, or \
         give it another name and a feed of its own"
    )]
    Recreated {
        /// The topic.
        topic: String,
        /// What tells.
        evidence: String,
    },
    /// What came of a partition is damaged.
    #[error(
        "a batch of records from offset {offset} of {topic}/{partition} on is damaged: {cause}; if a new start finds it \
         damaged again, it is so on the broker's disk: restore it there, or delete the records up to its end \
         (kafka-delete-records) and go on without them by on_expired = \"earliest\" in the feed"
    )]
    Damaged {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset that comes next.
        offset: i64,
        /// What the client says.
        cause: RDKafkaErrorCode,
    },
    /// A record or the connection is broken in a way that going on would lose readings.
    #[error("reading Kafka failed: {cause}; nothing that was not committed is lost, start again when it is repaired")]
    Broken {
        /// What the client says.
        cause: KafkaError,
    },
}

impl SourceError {
    /// Whether waiting may help.
    pub fn passes(&self) -> bool {
        matches!(self, SourceError::Unreachable { .. } | SourceError::TopicMissing { .. } | SourceError::Refused { .. })
    }
}

/// What correctness needs of a consumer.
const ENFORCED: [(&str, &str, &str); 5] = [
    ("isolation.level", "read_committed", "records of aborted transactions would be read"),
    ("enable.auto.commit", "false", POSITIONS),
    ("enable.auto.offset.store", "false", POSITIONS),
    ("auto.offset.reset", "error", POSITIONS),
    ("enable.partition.eof", "false", "ends of partitions come by the client's statistics"),
];

const POSITIONS: &str = "positions are committed with the data, and never taken from the broker";

/// What is said elsewhere, and other names of what is fixed.
const ELSEWHERE: [(&str, &str); 5] = [
    ("bootstrap.servers", "kafka.brokers says it"),
    ("metadata.broker.list", "kafka.brokers says it"),
    ("group.id", "kafka.group_id says it"),
    ("auto.commit.enable", POSITIONS),
    ("offset.store.method", POSITIONS),
];

/// Properties that a user may set and that decide which records are handed out, with what each is unless it is set.
const DECISIVE: [(&str, &str); 2] = [("check.crcs", CHECKSUMS), ("topic.blacklist", "")];

/// Else a batch that was damaged on its way or on a disk would be read as it is.
const CHECKSUMS: &str = "true";

/// Those of the properties that decide which records are handed out, with their values: of all who read one stream they
/// have to be the same. None of them is a secret.
pub fn decisive(kafka: &KafkaConfig) -> impl Iterator<Item = (&'static str, &str)> {
    DECISIVE.iter().map(move |(key, default)| (*key, kafka.properties.get(*key).map_or(*default, String::as_str)))
}

/// A consumer with our settings.
///
/// # Errors
/// A property is refused, or the client cannot be started.
pub(super) fn consumer(kafka: &KafkaConfig, role: &str, queue_kib: usize) -> Result<BaseConsumer<Client>, SourceError> {
    settings(kafka, role, queue_kib)?.create_with_context(Client::default()).map_err(|error| match error {
        KafkaError::ClientConfig(_, cause, key, _) => SourceError::Property { key, cause },
        other => SourceError::Client { brokers: kafka.brokers.clone(), cause: other.to_string() },
    })
}

/// Our settings for a consumer, with the user's properties over our defaults; one that would change what correctness
/// needs is refused.
fn settings(kafka: &KafkaConfig, role: &str, queue_kib: usize) -> Result<ClientConfig, SourceError> {
    let mut config = ClientConfig::new();
    for (key, value) in [
        ("client.id", format!("meterline-{role}")),
        ("check.crcs", CHECKSUMS.into()),
        ("queued.min.messages", "100000".into()),
        ("queued.max.messages.kbytes", queue_kib.to_string()),
        ("fetch.message.max.bytes", (1 << 20).to_string()),
        ("fetch.queue.backoff.ms", "20".into()),
        ("fetch.wait.max.ms", "100".into()),
        ("reconnect.backoff.max.ms", "5000".into()),
        ("statistics.interval.ms", "1000".into()),
        ("debug", DEBUG.into()),
    ] {
        config.set(key, value);
    }
    let reserved = || ENFORCED.iter().map(|(key, _, why)| (*key, *why)).chain(ELSEWHERE);
    for (key, value) in &kafka.properties {
        if let Some((_, why)) = reserved().find(|(reserved, _)| reserved == key) {
            return Err(SourceError::Reserved { key: key.clone(), why });
        }
        match key.as_str() {
            "debug" => config.set(key, format!("{DEBUG},{value}")),
            _ => config.set(key, value),
        };
    }
    config.set("bootstrap.servers", kafka.brokers.as_str()).set("group.id", kafka.group_id.as_str());
    for (key, value, _) in ENFORCED {
        config.set(key, value);
    }
    // What is not of interest is left out by `log`.
    config.set_log_level(RDKafkaLogLevel::Debug);
    Ok(config)
}

/// Runs the callbacks that wait in a consumer's queue until none is left; a poll that does not wait runs one of them.
/// Ends early with what is not for callbacks: a record, or an error.
pub(super) fn serve(consumer: &BaseConsumer<Client>) -> Option<KafkaResult<BorrowedMessage<'_>>> {
    for _ in 0..SERVED_MAX {
        let said = consumer.context().said.load(Ordering::Relaxed);
        let polled = consumer.poll(Duration::ZERO);
        if polled.is_some() || consumer.context().said.load(Ordering::Relaxed) == said {
            return polled;
        }
    }
    None
}

/// Receives what the client library says: logs it, and remembers where partitions end.
#[derive(Default)]
pub(super) struct Client {
    // Callbacks that ran.
    said: AtomicU64,
    complaints: Mutex<HashMap<String, Instant>>,
    ends: Mutex<HashMap<String, HashMap<i32, i64>>>,
    topics: Mutex<HashMap<String, TopicId>>,
    topic_changed: AtomicBool,
    partition_error: Mutex<Option<String>>,
}

impl Client {
    /// Whether a complaint is new enough to be logged again.
    pub(super) fn worth_logging(&self, complaint: &str) -> bool {
        let Ok(mut complaints) = self.complaints.lock() else { return true };
        let now = Instant::now();
        complaints.retain(|_, at| now.duration_since(*at) < COMPLAINT_INTERVAL);
        match complaints.contains_key(complaint) {
            true => false,
            false => complaints.insert(complaint.to_owned(), now).is_none(),
        }
    }

    /// The end of a partition as the broker last said; `None` before it did.
    pub(super) fn end_offset(&self, topic: &str, partition: i32) -> Option<i64> {
        let ends = self.ends.lock().ok()?;
        ends.get(topic)?.get(&partition).copied()
    }

    /// The identifier of a topic, if it is known.
    pub(super) fn topic_id(&self, topic: &str) -> Option<TopicId> {
        self.topics.lock().ok()?.get(topic).copied()
    }

    /// Whether a topic got another identifier than it had.
    pub(super) fn topic_changed(&self) -> bool {
        self.topic_changed.load(Ordering::Relaxed)
    }

    /// What is wrong with a partition or its topic, if that was said since the last call.
    pub(super) fn partition_error(&self) -> Option<String> {
        self.partition_error.lock().ok()?.take()
    }

    /// A topic had this identifier when others asked. Tells also where the library has found another one already.
    pub(super) fn expect_topic(&self, topic: &str, id: TopicId) {
        let Ok(mut topics) = self.topics.lock() else { return };
        if *topics.entry(topic.to_owned()).or_insert(id) != id {
            self.topic_changed.store(true, Ordering::Relaxed);
        }
    }

    fn hear(&self) {
        self.said.fetch_add(1, Ordering::Relaxed);
    }

    fn note_topic(&self, message: &str) {
        let Some(Change { topic, before, now: Some(now) }) = topic_id::change(message) else { return };
        let Ok(mut topics) = self.topics.lock() else { return };
        let known = topics.insert(topic.to_owned(), now).or(before);
        if known.is_some_and(|known| known != now) {
            self.topic_changed.store(true, Ordering::Relaxed);
        }
    }
}

/// The part of the client's statistics that we read.
#[derive(Deserialize)]
struct Statistics {
    topics: HashMap<String, TopicStatistics>,
}

#[derive(Deserialize)]
struct TopicStatistics {
    partitions: HashMap<i32, PartitionStatistics>,
}

#[derive(Deserialize)]
struct PartitionStatistics {
    hi_offset: i64,
    ls_offset: i64,
}

impl PartitionStatistics {
    // What a reader of committed records can reach is the last stable offset.
    fn end(&self) -> i64 {
        if self.ls_offset >= 0 { self.ls_offset } else { self.hi_offset }
    }
}

impl ClientContext for Client {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.hear();
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                // Of what the library would tell a callback for errors we get all by other ways but for what is wrong
                // with a partition that is read in batches: that a topic is gone, or may not be read.
                if facility == "ERROR"
                    && let Ok(mut error) = self.partition_error.lock()
                {
                    error.get_or_insert_with(|| message.to_owned());
                }
                if self.worth_logging(facility) {
                    tracing::warn!(facility, "Kafka client: {message}");
                }
            }
            RDKafkaLogLevel::Debug => {
                self.note_topic(message);
                tracing::trace!(facility, "Kafka client: {message}");
            }
            _ => tracing::debug!(facility, "Kafka client: {message}"),
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.hear();
        let Ok(read) = serde_json::from_slice::<Statistics>(statistics) else {
            if self.worth_logging("statistics") {
                tracing::warn!("the Kafka client's statistics cannot be read: lag is not known");
            }
            return;
        };
        let Ok(mut ends) = self.ends.lock() else { return };
        for (topic, statistics) in read.topics {
            let known = ends.entry(topic).or_default();
            for (partition, statistics) in statistics.partitions {
                let end = statistics.end();
                if partition >= 0 && end >= 0 {
                    known.insert(partition, end);
                }
            }
        }
    }

    fn error(&self, error: KafkaError, cause: &str) {
        self.hear();
        if self.worth_logging(&error.to_string()) {
            tracing::warn!(%error, "Kafka client: {cause}; it reconnects by itself, nothing is lost meanwhile");
        }
    }
}

impl ConsumerContext for Client {
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        self.hear();
        if let Err(error) = result {
            tracing::debug!(%error, "the consumer group's offsets, which are for monitoring only, were not updated");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(key: &str, value: &str) -> Result<ClientConfig, SourceError> {
        let mut kafka = KafkaConfig::default();
        kafka.properties.insert(key.into(), value.into());
        settings(&kafka, "test", 1024)
    }

    #[test]
    fn properties_go_over_our_defaults_and_not_over_what_correctness_needs() {
        let ours = settings(&KafkaConfig::default(), "test", 1024).unwrap();
        assert_eq!((ours.get("isolation.level"), ours.get("check.crcs")), (Some("read_committed"), Some("true")));
        assert_eq!(with("check.crcs", "false").unwrap().get("check.crcs"), Some("false"));
        assert_eq!(with("debug", "fetch").unwrap().get("debug"), Some("topic,fetch"));
        for key in ENFORCED.map(|(key, ..)| key).into_iter().chain(ELSEWHERE.map(|(key, _)| key)) {
            let error = with(key, "a secret").unwrap_err().to_string();
            assert!(error.contains(key) && error.ends_with("; remove it") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_decides_which_records_are_read_is_as_set_or_as_it_is_by_itself() {
        let mut kafka = KafkaConfig::default();
        kafka.properties.insert("sasl.password".into(), "a secret".into());
        let of = |kafka: &KafkaConfig, key| decisive(kafka).find(|(known, _)| *known == key).map(|(_, v)| v.to_owned());
        let ours = settings(&kafka, "test", 1024).unwrap();
        assert_eq!(of(&kafka, "check.crcs").as_deref(), ours.get("check.crcs"));
        assert_eq!(of(&kafka, "sasl.password"), None);
        kafka.properties.insert("topic.blacklist".into(), "^x".into());
        assert_eq!(of(&kafka, "topic.blacklist").unwrap(), "^x");
    }

    #[test]
    fn the_library_knows_all_settings() {
        for role in ["test", "cluster"] {
            consumer(&KafkaConfig::default(), role, 1024).unwrap();
        }
    }
}
