//! Records to Kafka: keyed, in order, never dropped.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
const WARNING_PAUSE: Duration = Duration::from_secs(10);
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(5);
const FLUSH_STEP: Duration = Duration::from_millis(500);

/// A producer for any number of topics. `&self` methods may be called from several threads.
///
/// Records of one partition arrive in the order of their calls (the producer is idempotent). What a call cannot queue
/// it waits for; what the broker refuses for good is counted in [`Sink::delivered`] with its reason.
pub struct Sink {
    producer: ThreadedProducer<Deliveries>,
    brokers: String,
    properties: BTreeMap<String, String>,
}

/// What became of the records sent so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Records that the broker has acknowledged.
    pub records: u64,
    /// Their payloads' bytes.
    pub bytes: u64,
    /// Records that the broker refused, or that ran out of time.
    pub failed: u64,
    /// Why the last of them failed.
    pub last_failure: Option<String>,
}

/// Why records cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The properties are wrong.
    #[error("cannot start a producer: {0}; check the Kafka properties")]
    Properties(KafkaError),
    /// No broker answers.
    #[error("no broker answers at {brokers} within {} s: {reason}; check that Kafka runs there and that the address is right", METADATA_TIMEOUT.as_secs())]
    Unreachable {
        /// The bootstrap brokers.
        brokers: String,
        /// What the client says.
        reason: KafkaError,
    },
    /// A topic cannot be created.
    #[error("cannot create topic `{topic}` at {brokers}: {reason}; create it by hand, or allow it")]
    Topic {
        /// The topic.
        topic: String,
        /// The bootstrap brokers.
        brokers: String,
        /// What the broker says.
        reason: String,
    },
    /// A record cannot be queued.
    #[error("cannot send to topic `{topic}`: {reason}")]
    Send {
        /// The topic.
        topic: String,
        /// What the client says.
        reason: KafkaError,
    },
    /// Records were not delivered.
    #[error("{failed} records were not delivered, the last because: {reason}")]
    Undelivered {
        /// How many.
        failed: u64,
        /// Why the last one was not.
        reason: String,
    },
    /// Flushing took longer than it may.
    #[error("{waiting} records were still not acknowledged after {} s; check the broker and send them again", waited.as_secs())]
    Unacknowledged {
        /// Records in the queue or on the way.
        waiting: i32,
        /// For how long they were waited for.
        waited: Duration,
    },
}

#[derive(Default)]
struct Deliveries {
    records: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    last_failure: Mutex<Option<String>>,
    last_warning: Mutex<Option<Instant>>,
}

impl ClientContext for Deliveries {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "producer");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The client reports the same outage many times a second.
        let mut last = self.last_warning.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|at| at.elapsed() < WARNING_PAUSE) {
            tracing::debug!(%error, reason, "producer");
            return;
        }
        *last = Some(Instant::now());
        tracing::warn!(reason, "the producer cannot reach Kafka; it keeps trying");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _: ()) {
        use rdkafka::Message;
        match result {
            Ok(message) => {
                self.records.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(message.payload_len() as u64, Ordering::Relaxed);
            }
            Err((error, message)) => {
                if self.failed.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::error!(%error, topic = message.topic(), partition = message.partition(), "a record was not delivered");
                }
                let mut last = self.last_failure.lock().unwrap_or_else(PoisonError::into_inner);
                *last = Some(error.to_string());
            }
        }
    }
}

impl Sink {
    /// Connects to `brokers` (comma-separated `host:port`) and waits until one of them answers. `properties` are passed
    /// to librdkafka after our own. Blocks for up to 10 s.
    ///
    /// # Errors
    /// A property is wrong, or no broker answers.
    pub fn connect(brokers: &str, properties: &BTreeMap<String, String>) -> Result<Sink, SinkError> {
        let mut config = client_config(brokers, properties);
        for (key, value) in [
            // Order within a partition, also across retries.
            ("enable.idempotence", "true"),
            ("linger.ms", "50"),
            ("batch.num.messages", "20000"),
            ("batch.size", "1000000"),
            ("queue.buffering.max.messages", "500000"),
            ("queue.buffering.max.kbytes", "131072"),
        ] {
            if !properties.contains_key(key) {
                config.set(key, value);
            }
        }
        let producer: ThreadedProducer<Deliveries> =
            config.create_with_context(Deliveries::default()).map_err(SinkError::Properties)?;
        let sink = Sink { producer, brokers: brokers.to_owned(), properties: properties.clone() };
        sink.partitions()?;
        Ok(sink)
    }

    /// Partitions by topic. All topics are asked for: a broker takes a question about one as a wish to create it.
    fn partitions(&self) -> Result<BTreeMap<String, i32>, SinkError> {
        let metadata = self
            .producer
            .client()
            .fetch_metadata(None, METADATA_TIMEOUT)
            .map_err(|reason| SinkError::Unreachable { brokers: self.brokers.clone(), reason })?;
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        Ok(metadata.topics().iter().map(|t| (t.name().to_owned(), count(t.partitions().len()))).collect())
    }

    /// The number of the topic's partitions; creates it with `partitions` where it is missing. A topic that exists
    /// keeps the number that it has. (The in-process broker cannot be asked this way: use
    /// [`MockBroker::create_topic`](super::mock::MockBroker::create_topic).)
    ///
    /// # Errors
    /// The broker does not answer, or refuses to create the topic.
    pub async fn ensure_topic(&self, topic: &str, partitions: i32) -> Result<i32, SinkError> {
        let there = |found: &BTreeMap<String, i32>| found.get(topic).copied().filter(|n| *n > 0);
        if let Some(n) = there(&self.partitions()?) {
            return Ok(n);
        }
        let refused = |reason: String| SinkError::Topic { topic: topic.into(), brokers: self.brokers.clone(), reason };
        let admin: AdminClient<_> =
            client_config(&self.brokers, &self.properties).create().map_err(SinkError::Properties)?;
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
        let options =
            AdminOptions::new().operation_timeout(Some(METADATA_TIMEOUT)).request_timeout(Some(METADATA_TIMEOUT));
        match admin.create_topics([&new], &options).await {
            Ok(results) => match results.into_iter().next() {
                None | Some(Ok(_)) | Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {}
                Some(Err((_, code))) => return Err(refused(code.to_string())),
            },
            Err(error) => return Err(refused(error.to_string())),
        }
        // Other brokers hear of a new topic a little later.
        let deadline = Instant::now() + METADATA_TIMEOUT;
        loop {
            if let Some(n) = there(&self.partitions()?) {
                return Ok(n);
            }
            if Instant::now() > deadline {
                return Err(refused("it does not appear in the metadata".into()));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Queues one record; waits while the queue is full. `partition: None` lets the key decide, as in Kafka's Java
    /// client. `timestamp_ms: None` is now.
    ///
    /// Brokers delete by record time stamp: a topic with a retention of a week loses records stamped with a year ago.
    ///
    /// # Errors
    /// The client refuses the record (unknown topic, too large, a fatal producer error).
    pub fn send(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: &[u8],
        payload: &[u8],
        timestamp_ms: Option<i64>,
    ) -> Result<(), SinkError> {
        let mut record = BaseRecord::to(topic).key(key).payload(payload);
        record.partition = partition;
        record.timestamp = timestamp_ms;
        let mut warned = None;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    let since = *warned.get_or_insert_with(Instant::now);
                    if since.elapsed() > METADATA_TIMEOUT {
                        tracing::warn!(
                            topic,
                            waiting = self.producer.in_flight_count(),
                            "the broker takes no records; waiting"
                        );
                        warned = Some(Instant::now());
                    }
                    std::thread::sleep(FULL_QUEUE_PAUSE);
                }
                Err((reason, _)) => return Err(SinkError::Send { topic: topic.to_owned(), reason }),
            }
        }
    }

    /// Waits until all records are acknowledged, at most `timeout`; `progress` is told how many still wait, twice a
    /// second.
    ///
    /// # Errors
    /// Some were not acknowledged in time, or some have failed, in this or in earlier calls.
    pub fn flush(&self, timeout: Duration, mut progress: impl FnMut(i32)) -> Result<Delivered, SinkError> {
        let started = Instant::now();
        while self.producer.flush(FLUSH_STEP).is_err() {
            let waiting = self.producer.in_flight_count();
            progress(waiting);
            if started.elapsed() > timeout {
                return Err(SinkError::Unacknowledged { waiting, waited: started.elapsed() });
            }
        }
        let delivered = self.delivered();
        match &delivered.last_failure {
            Some(reason) => Err(SinkError::Undelivered { failed: delivered.failed, reason: reason.clone() }),
            None => Ok(delivered),
        }
    }

    /// What became of the records so far.
    pub fn delivered(&self) -> Delivered {
        let context = self.producer.context();
        Delivered {
            records: context.records.load(Ordering::Relaxed),
            bytes: context.bytes.load(Ordering::Relaxed),
            failed: context.failed.load(Ordering::Relaxed),
            last_failure: context.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Records that are queued or on the way.
    pub fn waiting(&self) -> i32 {
        self.producer.in_flight_count()
    }
}

fn client_config(brokers: &str, properties: &BTreeMap<String, String>) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config.set("partitioner", "murmur2_random");
    for (key, value) in properties {
        config.set(key, value);
    }
    config
}

/// The partition of a key among `partitions`, as Kafka's Java client and `murmur2_random` choose it.
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    let positive = murmur2(key) & 0x7fff_ffff;
    i32::try_from(positive).map_or(0, |hash| hash % partitions.max(1))
}

/// MurmurHash2, 32 bits, with the seed of Kafka's default partitioner.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c_u32 ^ data.len() as u32;
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = chunk.iter().rev().fold(0_u32, |word, b| (word << 8) | u32::from(*b));
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0_u32, |word, b| (word << 8) | u32::from(*b));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hash_as_in_the_java_client() {
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }
}
