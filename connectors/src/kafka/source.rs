//! Records from Kafka: assigned partitions, at offsets that we keep ourselves.
//!
//! A [`Source`] belongs to one thread. Partitions come to it by [`Source::assign`]; it never joins a consumer group, so
//! nobody moves them. While a broker is away the client reconnects by itself and says so in the log; reading goes on
//! where it stopped.

use std::sync::Arc;
use std::time::Duration;

use meterline_schemas::config::KafkaConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::client::{Client, SourceError, consumer};

/// Time to ask a broker what it has, once reading has failed.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

/// One partition to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its number.
    pub partition: i32,
    /// The offset that comes next; `None` reads from the beginning.
    pub next_offset: Option<i64>,
}

/// One record, as long as the poll lasts.
#[derive(Debug, Clone, Copy)]
pub struct RawRecord<'a> {
    /// Place of its partition in the order of assignment, from 0.
    pub assignment: usize,
    /// Its offset.
    pub offset: i64,
    /// Its Kafka time stamp, milliseconds since the epoch; -1 where it has none.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its payload.
    pub payload: Option<&'a [u8]>,
}

struct Assigned {
    topic: Arc<str>,
    partition: i32,
    next_offset: Option<i64>,
}

/// A consumer of some partitions.
pub struct Source {
    consumer: BaseConsumer<Client>,
    assigned: Vec<Assigned>,
    // Records come in runs of one partition: the last one found is tried first.
    last: usize,
}

impl Source {
    /// Starts a client that holds at most `queue_kib` KiB of records that were not polled yet. It connects by itself:
    /// this fails only for wrong settings.
    pub fn connect(kafka: &KafkaConfig, name: &str, queue_kib: usize) -> Result<Source, SourceError> {
        Ok(Source { consumer: consumer(kafka, name, queue_kib)?, assigned: Vec::new(), last: 0 })
    }

    /// Reads these partitions too, from now on.
    pub fn assign(&mut self, assignments: &[Assignment]) -> Result<(), SourceError> {
        let broken = |cause| SourceError::Broken { cause };
        let mut list = TopicPartitionList::with_capacity(assignments.len());
        for assignment in assignments {
            let offset = assignment.next_offset.map_or(Offset::Beginning, Offset::Offset);
            list.add_partition_offset(&assignment.topic, assignment.partition, offset).map_err(broken)?;
        }
        self.consumer.incremental_assign(&list).map_err(broken)?;
        self.assigned.extend(assignments.iter().map(|assignment| Assigned {
            topic: Arc::clone(&assignment.topic),
            partition: assignment.partition,
            next_offset: assignment.next_offset,
        }));
        Ok(())
    }

    /// Hands at most `records_max` records to `each`, in the order of each partition, and waits at most `wait` for the
    /// first. Returns how many there were.
    pub fn poll(
        &mut self,
        records_max: usize,
        wait: Duration,
        mut each: impl FnMut(RawRecord<'_>),
    ) -> Result<usize, SourceError> {
        let Source { consumer, assigned, last } = self;
        let mut timeout = wait;
        for count in 0..records_max {
            let message = match consumer.poll(timeout) {
                None => return Ok(count),
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    Self::complain(consumer, assigned, error)?;
                    return Ok(count);
                }
            };
            timeout = Duration::ZERO;
            let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
            let is = |a: &Assigned| a.partition == partition && *a.topic == *topic;
            if !assigned.get(*last).is_some_and(is) {
                let Some(found) = assigned.iter().position(is) else { continue };
                *last = found;
            }
            let assignment = &mut assigned[*last];
            // After a reconnect the client may hand out again what we already have.
            if assignment.next_offset.is_some_and(|next| offset < next) {
                continue;
            }
            assignment.next_offset = Some(offset + 1);
            each(RawRecord {
                assignment: *last,
                offset,
                timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
                key: message.key(),
                payload: message.payload(),
            });
        }
        Ok(records_max)
    }

    /// The end of a partition as the broker last said; 0 where nothing is left to read.
    pub fn end_offset(&self, topic: &str, partition: i32) -> Option<i64> {
        self.consumer.context().end_offset(topic, partition)
    }

    // Most errors pass: the client reconnects and goes on. Those after which records would be missing do not.
    fn complain(consumer: &BaseConsumer<Client>, assigned: &[Assigned], error: KafkaError) -> Result<(), SourceError> {
        let code = error.rdkafka_error_code();
        match code {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                Err(Self::expired(consumer, assigned, error))
            }
            Some(
                RDKafkaErrorCode::BadMessage
                | RDKafkaErrorCode::BadCompression
                | RDKafkaErrorCode::InvalidMessage
                | RDKafkaErrorCode::InvalidMessageSize
                | RDKafkaErrorCode::Fatal,
            ) => Err(SourceError::Broken { cause: error }),
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => Err(SourceError::Broken { cause: error }),
            Some(RDKafkaErrorCode::PartitionEOF) => Ok(()),
            _ => {
                if consumer.context().worth_logging(&error.to_string()) {
                    tracing::warn!(%error, "reading Kafka waits; the client tries again by itself, nothing is lost");
                }
                Ok(())
            }
        }
    }

    // The client does not say which partition it is about: ask.
    fn expired(consumer: &BaseConsumer<Client>, assigned: &[Assigned], cause: KafkaError) -> SourceError {
        for Assigned { topic, partition, next_offset } in assigned {
            let Some(wanted) = *next_offset else { continue };
            let Ok((first, end)) = consumer.fetch_watermarks(topic, *partition, QUESTION_TIMEOUT) else { continue };
            if wanted < first || wanted > end {
                return SourceError::OffsetExpired {
                    topic: topic.to_string(),
                    partition: *partition,
                    wanted,
                    first,
                    end,
                };
            }
        }
        SourceError::Broken { cause }
    }
}
