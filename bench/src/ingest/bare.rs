//! A bare `BaseConsumer` that reads every record and does nothing with it: what the client library and the broker
//! allow.

use std::time::{Duration, Instant};

use meterline_tests::kafka::client;
use meterline_tests::topic;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::PARTITIONS;
use super::process::own_cpu_s;

/// What reading took.
#[derive(Debug, Clone, Copy)]
pub struct Drained {
    /// From the assignment to the last record, in seconds.
    pub seconds: f64,
    /// Processor time in seconds.
    pub cpu_s: f64,
}

/// Reads a topic from its first record to the one that is last now.
pub fn drain(brokers: &str, name: &str) -> Result<Drained, KafkaError> {
    let mut missing: i64 = topic::end_offsets(brokers, name).iter().sum();
    let consumer: BaseConsumer = client(brokers)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("queued.min.messages", "1000000")
        .set("fetch.message.max.bytes", "8388608")
        .set("fetch.queue.backoff.ms", "10")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset(name, partition, Offset::Offset(0))?;
    }
    let (started, cpu_before) = (Instant::now(), own_cpu_s());
    consumer.assign(&assignment)?;
    let mut bytes = 0;
    while missing > 0 {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            bytes += message?.payload().map_or(0, <[u8]>::len);
            missing -= 1;
        }
    }
    std::hint::black_box(bytes);
    Ok(Drained { seconds: started.elapsed().as_secs_f64(), cpu_s: own_cpu_s() - cpu_before })
}
