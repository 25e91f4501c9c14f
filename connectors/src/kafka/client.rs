//! What every consumer of ours has in common: its settings, its errors, and what it says on its way.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use meterline_schemas::config::KafkaConfig;
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use serde::Deserialize;

/// Equal complaints of the client library are logged at most this often.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

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
    /// The broker no longer has the records that come next, or never had them.
    #[error(
        "offset {wanted} of {topic}/{partition} comes next, but the broker has {first} to {end}: the records between are \
         gone (retention), or the topic was created anew; restore them, or start with an empty lake"
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

/// Our settings for a consumer, with the user's properties over our defaults and under what correctness needs.
pub(super) fn consumer(kafka: &KafkaConfig, role: &str, queue_kib: usize) -> Result<BaseConsumer<Client>, SourceError> {
    let mut config = ClientConfig::new();
    for (key, value) in [
        ("client.id", format!("meterline-{role}")),
        ("isolation.level", "read_committed".into()),
        ("queued.min.messages", "100000".into()),
        ("queued.max.messages.kbytes", queue_kib.to_string()),
        ("fetch.message.max.bytes", (1 << 20).to_string()),
        ("fetch.queue.backoff.ms", "20".into()),
        ("fetch.wait.max.ms", "100".into()),
        ("reconnect.backoff.max.ms", "5000".into()),
        ("statistics.interval.ms", "1000".into()),
    ] {
        config.set(key, value);
    }
    for (key, value) in &kafka.properties {
        config.set(key, value);
    }
    for (key, value) in [
        ("bootstrap.servers", kafka.brokers.as_str()),
        ("group.id", kafka.group_id.as_str()),
        // Positions are ours: they are committed with the data, and never taken from the broker.
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("auto.offset.reset", "error"),
    ] {
        config.set(key, value);
    }
    config.set_log_level(RDKafkaLogLevel::Info);
    config.create_with_context(Client::default()).map_err(|error| match error {
        KafkaError::ClientConfig(_, cause, key, _) => SourceError::Property { key, cause },
        other => SourceError::Client { brokers: kafka.brokers.clone(), cause: other.to_string() },
    })
}

/// Receives what the client library says: logs it, and remembers where partitions end.
#[derive(Default)]
pub(super) struct Client {
    complaints: Mutex<HashMap<String, Instant>>,
    ends: Mutex<HashMap<String, HashMap<i32, i64>>>,
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

    /// The end of a partition as the broker last said, 0 where nothing is left to read; `None` before it did.
    pub(super) fn end_offset(&self, topic: &str, partition: i32) -> Option<i64> {
        let ends = self.ends.lock().ok()?;
        ends.get(topic)?.get(&partition).copied().filter(|end| *end >= 0)
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
    // The next one to fetch.
    next_offset: i64,
    fetchq_cnt: i64,
}

impl PartitionStatistics {
    // What a reader of committed records can reach is the last stable offset. What lies before it and is nothing to hand
    // out (records of transactions that were aborted, and the marks of transactions) is behind once it was fetched: where
    // nothing waits to be handed out, the reader is at the end, whatever the number of its last record.
    fn end(&self) -> i64 {
        let end = if self.ls_offset >= 0 { self.ls_offset } else { self.hi_offset };
        if self.fetchq_cnt == 0 && self.next_offset >= end { end.min(0) } else { end }
    }
}

impl ClientContext for Client {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                if self.worth_logging(facility) {
                    tracing::warn!(facility, "Kafka client: {message}");
                }
            }
            _ => tracing::debug!(facility, "Kafka client: {message}"),
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
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
        if self.worth_logging(&error.to_string()) {
            tracing::warn!(%error, "Kafka client: {cause}; it reconnects by itself, nothing is lost meanwhile");
        }
    }
}

impl ConsumerContext for Client {
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(%error, "the consumer group's offsets, which are for monitoring only, were not updated");
        }
    }
}
