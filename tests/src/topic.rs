//! A topic as the tests see it: every record with its position, and a way to add records by hand.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Message, Timestamp};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::util::Timeout;

use crate::kafka::client;

const LIMIT: Duration = Duration::from_secs(60);

/// One record of a topic.
#[derive(Debug, Clone)]
pub struct Record {
    /// Kafka time stamp in milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// Partition.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// The bytes, if there are any.
    pub payload: Option<Vec<u8>>,
}

/// The end offset of every partition of `topic`, in order.
pub fn end_offsets(brokers: &str, topic: &str) -> Vec<i64> {
    let consumer: BaseConsumer = client(brokers).create().expect("create a consumer");
    let limit = Duration::from_secs(30);
    let metadata = consumer.fetch_metadata(Some(topic), limit).expect("read the topic's metadata");
    let mut partitions: Vec<i32> = metadata.topics()[0].partitions().iter().map(|p| p.id()).collect();
    partitions.sort_unstable();
    partitions
        .into_iter()
        .map(|p| consumer.fetch_watermarks(topic, p, limit).expect("read a partition's end").1)
        .collect()
}

/// Every record of `topic` from the first to the current end.
pub fn drain(brokers: &str, topic: &str) -> Vec<Record> {
    drain_delivered(brokers, topic, 0)
}

/// As [`drain`], of a topic to which at least so many records were delivered: a broker that was just started again may
/// still say that it ends earlier.
pub fn drain_delivered(brokers: &str, topic: &str, delivered: u64) -> Vec<Record> {
    let ends = end_offsets(brokers, topic);
    let consumer: BaseConsumer = client(brokers)
        .set("group.id", "oracle")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .create()
        .expect("create a consumer");
    let mut assignment = TopicPartitionList::new();
    for (partition, _) in ends.iter().enumerate() {
        assignment.add_partition_offset(topic, partition as i32, Offset::Offset(0)).expect("assign a partition");
    }
    consumer.assign(&assignment).expect("assign the topic");
    let wanted = ends.iter().sum::<i64>().max(delivered as i64);
    let mut records = Vec::with_capacity(wanted as usize);
    let end = Instant::now() + Duration::from_secs(120);
    while (records.len() as i64) < wanted {
        assert!(Instant::now() < end, "drained {} of {wanted} records of {topic} in two minutes", records.len());
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        let message = message.expect("read a record");
        let Timestamp::CreateTime(timestamp_ms) = message.timestamp() else { panic!("a record without a time stamp") };
        records.push(Record {
            timestamp_ms,
            partition: message.partition(),
            offset: message.offset(),
            payload: message.payload().map(<[u8]>::to_vec),
        });
    }
    records
}

/// The offsets of the committed records that a partition still has, in order.
pub fn remaining(brokers: &str, topic: &str, partition: i32) -> Vec<i64> {
    let consumer: BaseConsumer = client(brokers)
        .set("group.id", "remaining")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .expect("create a consumer");
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::Beginning).expect("assign a partition");
    consumer.assign(&assignment).expect("assign the partition");
    let mut offsets = Vec::new();
    let end = Instant::now() + LIMIT;
    loop {
        assert!(Instant::now() < end, "the end of {topic} was not reached in a minute");
        match consumer.poll(Duration::from_millis(200)) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(_))) => return offsets,
            Some(message) => offsets.push(message.expect("read a record").offset()),
        }
    }
}

/// One record to send.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Key, which chooses the partition.
    pub key: String,
    /// The bytes; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
}

/// Sends `records` in order, and waits until the broker has them all.
pub fn send(brokers: &str, topic: &str, records: &[Outgoing]) {
    let producer: BaseProducer = client(brokers).set("linger.ms", "5").create().expect("create a producer");
    queue(&producer, topic, records);
    producer.flush(Timeout::After(LIMIT)).expect("deliver the records");
}

/// A transaction whose records are in the topic, and which is neither committed nor aborted.
pub struct Transaction(BaseProducer);

impl Transaction {
    /// Sends `records` in a transaction of a producer of this name.
    pub fn begin(brokers: &str, name: &str, topic: &str, records: &[Outgoing]) -> Transaction {
        let producer: BaseProducer =
            client(brokers).set("transactional.id", name).create().expect("create a transactional producer");
        producer.init_transactions(LIMIT).expect("begin with transactions");
        producer.begin_transaction().expect("begin a transaction");
        queue(&producer, topic, records);
        // On their way before the end: an aborted transaction is to leave records behind.
        producer.flush(Timeout::After(LIMIT)).expect("deliver the records");
        Transaction(producer)
    }

    /// Ends it well.
    pub fn commit(self) {
        self.0.commit_transaction(LIMIT).expect("commit the transaction");
    }

    /// Ends it badly.
    pub fn abort(self) {
        self.0.abort_transaction(LIMIT).expect("abort the transaction");
    }
}

/// Sends `records` in one transaction, which is committed or aborted.
pub fn send_in_transaction(brokers: &str, topic: &str, records: &[Outgoing], commit: bool) {
    // Of two producers with one name the newer one fences the other: tests of different topics run side by side.
    let transaction = Transaction::begin(brokers, &format!("tests of {topic}"), topic, records);
    match commit {
        true => transaction.commit(),
        false => transaction.abort(),
    }
}

fn queue(producer: &BaseProducer, topic: &str, records: &[Outgoing]) {
    for record in records {
        let mut next = BaseRecord::to(topic).key(record.key.as_bytes());
        if let Some(payload) = &record.payload {
            next = next.payload(payload.as_slice());
        }
        // Far fewer records than the producer's queue holds.
        producer.send(next).map_err(|(e, _)| e).expect("queue a record");
    }
}
