//! Records from Kafka: assigned partitions, at offsets that we keep ourselves.
//!
//! A [`Source`] belongs to one thread. Partitions come to it by [`Source::assign`]; it never joins a consumer group, so
//! nobody moves them. While a broker is away the client reconnects by itself and says so in the log; reading goes on
//! where it stopped.
//!
//! Who cannot poll for a while lets the source [rest](Source::rest): the client keeps what it says in a queue, which would grow.
//!
//! Some things the client cannot know: whether a topic is still the one that was read, and what to do about records that
//! are gone. Then the source is in [doubt](Source::doubt): it hands out nothing more until it was [closed](Source::close)
//! and its partitions were assigned again, by a client that remembers nothing of the old topic.

use std::sync::Arc;
use std::time::Duration;

use meterline_schemas::config::KafkaConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::TopicId;
use super::client::{self, Client, SourceError, consumer};

const ANOTHER_TOPIC: &str = "a topic is no longer the one that was read";

/// One partition to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Its topic.
    pub topic: Arc<str>,
    /// The topic's identifier when this offset was found, if the broker has one.
    pub topic_id: Option<TopicId>,
    /// Its number.
    pub partition: i32,
    /// The offset that comes next.
    pub next_offset: i64,
    /// What its records are handed out with.
    pub tag: usize,
}

/// One record, as long as the poll lasts.
#[derive(Debug, Clone, Copy)]
pub struct RawRecord<'a> {
    /// The tag of its partition's assignment.
    pub tag: usize,
    /// Its offset.
    pub offset: i64,
    /// Its Kafka time stamp, milliseconds since the epoch; -1 where it has none.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its payload.
    pub payload: Option<&'a [u8]>,
}

/// A consumer of some partitions.
pub struct Source {
    kafka: KafkaConfig,
    name: String,
    queue_kib: usize,
    // Made when it is first needed.
    consumer: Option<BaseConsumer<Client>>,
    assigned: Vec<Assignment>,
    // Records come in runs of one partition: the last one found is tried first.
    last: usize,
    // Fetching is paused.
    rests: bool,
    doubt: Option<String>,
}

impl Source {
    /// A client that holds at most `queue_kib` KiB of records that were not polled yet. It connects by itself: this fails
    /// only for wrong settings.
    ///
    /// # Errors
    /// [`SourceError::Property`], [`SourceError::Client`].
    pub fn connect(kafka: &KafkaConfig, name: &str, queue_kib: usize) -> Result<Source, SourceError> {
        let consumer = Some(consumer(kafka, name, queue_kib)?);
        let (kafka, name) = (kafka.clone(), name.to_owned());
        Ok(Source { kafka, name, queue_kib, consumer, assigned: Vec::new(), last: 0, rests: false, doubt: None })
    }

    /// Reads these partitions too, from now on.
    ///
    /// # Errors
    /// The client refuses.
    pub fn assign(&mut self, assignments: &[Assignment]) -> Result<(), SourceError> {
        self.wake()?;
        let broken = |cause| SourceError::Broken { cause };
        let mut list = TopicPartitionList::with_capacity(assignments.len());
        for assignment in assignments {
            let offset = Offset::Offset(assignment.next_offset);
            list.add_partition_offset(&assignment.topic, assignment.partition, offset).map_err(broken)?;
        }
        let consumer = match &mut self.consumer {
            Some(consumer) => consumer,
            none => none.insert(consumer(&self.kafka, &self.name, self.queue_kib)?),
        };
        for assignment in assignments {
            if let Some(id) = assignment.topic_id {
                consumer.context().expect_topic(&assignment.topic, id);
            }
        }
        consumer.incremental_assign(&list).map_err(broken)?;
        self.assigned.extend_from_slice(assignments);
        Ok(())
    }

    /// Reads nothing any more, and forgets what it was in doubt about.
    pub fn close(&mut self) {
        self.consumer = None;
        self.assigned.clear();
        (self.rests, self.doubt) = (false, None);
    }

    /// Why nothing is handed out any more: a topic may not be the one that was read, or records are gone.
    pub fn doubt(&self) -> Option<&str> {
        self.doubt.as_deref()
    }

    /// For whoever does not poll for long: fetches nothing more until the next poll, but goes on hearing what the client says.
    /// What was fetched ahead is let go, and comes again.
    ///
    /// # Errors
    /// Going on would lose records.
    pub fn rest(&mut self) -> Result<(), SourceError> {
        let Some(consumer) = self.consumer.as_ref().filter(|_| self.doubt.is_none()) else { return Ok(()) };
        if !self.rests {
            let assigned = Self::assigned(consumer)?;
            consumer.pause(&assigned).map_err(|cause| SourceError::Broken { cause })?;
            self.rests = true;
        }
        match client::serve(consumer) {
            None => {}
            // It would be missing.
            Some(Ok(_)) => self.doubt = Some("a record came while nothing was to be fetched".into()),
            Some(Err(error)) => self.doubt = Self::complain(consumer, error)?,
        }
        if consumer.context().topic_changed() {
            self.doubt = Some(ANOTHER_TOPIC.into());
        }
        Ok(())
    }

    fn wake(&mut self) -> Result<(), SourceError> {
        if let Some(consumer) = self.consumer.as_ref().filter(|_| self.rests) {
            let assigned = Self::assigned(consumer)?;
            consumer.resume(&assigned).map_err(|cause| SourceError::Broken { cause })?;
        }
        self.rests = false;
        Ok(())
    }

    fn assigned(consumer: &BaseConsumer<Client>) -> Result<TopicPartitionList, SourceError> {
        consumer.assignment().map_err(|cause| SourceError::Broken { cause })
    }

    /// Hands at most `records_max` records to `each`, in the order of each partition, and waits at most `wait` for the
    /// first. Returns how many there were.
    ///
    /// # Errors
    /// Going on would lose records.
    pub fn poll(
        &mut self,
        records_max: usize,
        wait: Duration,
        mut each: impl FnMut(RawRecord<'_>),
    ) -> Result<usize, SourceError> {
        self.wake()?;
        let Source { consumer: Some(consumer), assigned, last, doubt, .. } = self else { return Ok(0) };
        if doubt.is_some() {
            return Ok(0);
        }
        let mut timeout = wait;
        for count in 0..records_max {
            let polled = consumer.poll(timeout);
            // Looked at before the record, which may be one of the new topic.
            if consumer.context().topic_changed() {
                *doubt = Some(ANOTHER_TOPIC.into());
                return Ok(count);
            }
            let message = match polled {
                None => return Ok(count),
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    *doubt = Self::complain(consumer, error)?;
                    return Ok(count);
                }
            };
            timeout = Duration::ZERO;
            let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
            let is = |a: &Assignment| a.partition == partition && *a.topic == *topic;
            if !assigned.get(*last).is_some_and(is) {
                let Some(found) = assigned.iter().position(is) else { continue };
                *last = found;
            }
            let assignment = &mut assigned[*last];
            // After a reconnect the client may hand out again what we already have.
            if offset < assignment.next_offset {
                continue;
            }
            assignment.next_offset = offset + 1;
            each(RawRecord {
                tag: assignment.tag,
                offset,
                timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
                key: message.key(),
                payload: message.payload(),
            });
        }
        Ok(records_max)
    }

    /// How far each partition was handed out, by its tag: beyond its last record where marks of transactions follow,
    /// which are nothing to read. Says nothing of partitions of which nothing came yet.
    pub fn positions(&self) -> Vec<(usize, i64)> {
        let Some(consumer) = self.consumer.as_ref().filter(|_| self.doubt.is_none()) else { return Vec::new() };
        let Ok(list) = consumer.position() else { return Vec::new() };
        let at = |a: &Assignment| match list.find_partition(&a.topic, a.partition)?.offset() {
            Offset::Offset(offset) => Some((a.tag, offset)),
            _ => None,
        };
        self.assigned.iter().filter_map(at).collect()
    }

    /// The end of a partition as the broker last said.
    pub fn end_offset(&self, topic: &str, partition: i32) -> Option<i64> {
        self.consumer.as_ref()?.context().end_offset(topic, partition)
    }

    // Most errors pass: the client reconnects and goes on. Of others the client does not say what they are about, and
    // they are looked into. Those after which records would be missing end it.
    fn complain(consumer: &BaseConsumer<Client>, error: KafkaError) -> Result<Option<String>, SourceError> {
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::OffsetOutOfRange
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopicId,
            ) => Ok(Some(error.to_string())),
            Some(
                RDKafkaErrorCode::BadMessage
                | RDKafkaErrorCode::BadCompression
                | RDKafkaErrorCode::InvalidMessage
                | RDKafkaErrorCode::InvalidMessageSize
                | RDKafkaErrorCode::Fatal,
            ) => Err(SourceError::Broken { cause: error }),
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => Err(SourceError::Broken { cause: error }),
            Some(RDKafkaErrorCode::PartitionEOF) => Ok(None),
            _ => {
                if consumer.context().worth_logging(&error.to_string()) {
                    tracing::warn!(%error, "reading Kafka waits; the client tries again by itself, nothing is lost");
                }
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Instant;

    use super::*;
    use crate::kafka::cluster::Cluster;
    use crate::kafka::mock::MockBroker;
    use crate::kafka::sink::Sink;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn kafka(broker: &MockBroker) -> KafkaConfig {
        KafkaConfig { brokers: broker.brokers().into(), ..KafkaConfig::default() }
    }

    /// Reads a topic, as the one with this identifier, until `enough` says so of the offsets.
    fn read(source: &mut Source, offsets: &mut Vec<i64>, enough: impl Fn(&[i64]) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !enough(offsets) {
            assert!(Instant::now() < until, "{} were read; {:?}", offsets.len(), source.doubt());
            source.poll(100, Duration::from_millis(20), |record| offsets.push(record.offset)).unwrap();
        }
    }

    fn assignment(topic_id: Option<TopicId>) -> Assignment {
        Assignment { topic: "t".into(), topic_id, partition: 0, next_offset: 0, tag: 0 }
    }

    #[test]
    fn a_source_that_rests_keeps_nothing_and_loses_nothing() {
        const RECORDS: i64 = 3_000;
        let broker = MockBroker::start(&[("t", 1)]).unwrap();
        let sink = Sink::connect(broker.brokers(), &BTreeMap::new()).unwrap();
        for number in 0..RECORDS {
            sink.send("t", Some(0), b"", number.to_string().as_bytes(), None).unwrap();
        }
        sink.flush(PATIENCE, |_| {}).unwrap();
        let mut source = Source::connect(&kafka(&broker), "rest", 1024).unwrap();
        source.assign(&[assignment(None)]).unwrap();
        let mut offsets = Vec::new();
        for parts in 1..=3 {
            read(&mut source, &mut offsets, |offsets| offsets.len() as i64 >= parts * RECORDS / 4);
            // Longer than the client takes to say something new.
            let until = Instant::now() + Duration::from_millis(1_500);
            while Instant::now() < until {
                source.rest().unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(source.doubt(), None);
            assert!(source.end_offset("t", 0).is_some(), "what the client says is still heard");
        }
        read(&mut source, &mut offsets, |offsets| offsets.len() as i64 >= RECORDS);
        assert_eq!(offsets, (0..RECORDS).collect::<Vec<i64>>());
    }

    #[test]
    fn a_source_does_not_read_another_topic_than_the_one_that_was_asked_for() {
        let broker = MockBroker::start(&[("t", 1), ("other", 1)]).unwrap();
        let sink = Sink::connect(broker.brokers(), &BTreeMap::new()).unwrap();
        sink.send("t", Some(0), b"", b"1", None).unwrap();
        sink.flush(PATIENCE, |_| {}).unwrap();
        let cluster = Cluster::connect(&kafka(&broker)).unwrap();
        let id = |topic: &str| cluster.topic(topic).unwrap().id;
        let mut source = Source::connect(&kafka(&broker), "right", 1024).unwrap();
        source.assign(&[assignment(id("t"))]).unwrap();
        read(&mut source, &mut Vec::new(), |offsets| offsets.len() == 1);
        assert_eq!(source.doubt(), None);
        // Created anew between the question and the first fetch.
        let mut source = Source::connect(&kafka(&broker), "wrong", 1024).unwrap();
        source.assign(&[assignment(id("other"))]).unwrap();
        let until = Instant::now() + PATIENCE;
        while source.doubt().is_none() {
            assert!(Instant::now() < until, "another topic is read");
            let read = source.poll(100, Duration::from_millis(20), |record| panic!("{record:?}")).unwrap();
            assert_eq!(read, 0);
        }
    }
}
