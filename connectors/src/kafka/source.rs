//! Records from Kafka: assigned partitions, at offsets that we keep ourselves.
//!
//! A [`Source`] belongs to one thread. Partitions come to it by [`Source::assign`]; it never joins a consumer group, so
//! nobody moves them. While a broker is away the client reconnects by itself and says so in the log; reading goes on
//! where it stopped.
//!
//! Who cannot poll for a while lets the source [rest](Source::rest): the client keeps what it says in a queue, which
//! would grow.
//!
//! Some things the client cannot know: whether a topic is still the one that was read, and what to do about records
//! that are gone. Then the source is in [doubt](Source::doubt): it hands out nothing more until it was
//! [closed](Source::close) and its partitions were assigned again, by a client that remembers nothing of the old topic.

use std::sync::Arc;
use std::time::Duration;

use meterline_schemas::config::KafkaConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::TopicId;
use super::batch::{Batches, Failure};
use super::client::{self, Client, SourceError, consumer};

/// How long the client may take to go back to an offset; it does so without asking a broker.
const SEEK_LIMIT: Duration = Duration::from_secs(5);

const ANOTHER_TOPIC: &str =
    "a topic is no longer the one that was read, or kafka.brokers of this process names another cluster";

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
    batches: Option<Batches>,
    assigned: Vec<Assignment>,
    // Fetching is paused.
    rests: bool,
    doubt: Option<String>,
}

impl Source {
    /// A client that holds at most `queue_kib` KiB of records that were not polled yet. It connects by itself: this
    /// fails only for wrong settings.
    ///
    /// # Errors
    /// [`SourceError::Property`], [`SourceError::Reserved`], [`SourceError::Client`].
    pub fn connect(kafka: &KafkaConfig, name: &str, queue_kib: usize) -> Result<Source, SourceError> {
        let (kafka, name) = (kafka.clone(), name.to_owned());
        let mut source =
            Source { kafka, name, queue_kib, batches: None, assigned: Vec::new(), rests: false, doubt: None };
        source.connected()?;
        Ok(source)
    }

    fn connected(&mut self) -> Result<&Batches, SourceError> {
        match &mut self.batches {
            Some(batches) => Ok(batches),
            none => {
                let batches = Batches::new(consumer(&self.kafka, &self.name, self.queue_kib)?);
                Ok(none.insert(batches.map_err(|cause| SourceError::Broken { cause })?))
            }
        }
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
        let batches = self.connected()?;
        let consumer = batches.consumer();
        for assignment in assignments {
            batches.route(&assignment.topic, assignment.partition).map_err(broken)?;
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
        self.batches = None;
        self.assigned.clear();
        (self.rests, self.doubt) = (false, None);
    }

    /// Why nothing is handed out any more: a topic may not be the one that was read, or records are gone.
    pub fn doubt(&self) -> Option<&str> {
        self.doubt.as_deref()
    }

    /// For whoever does not poll for long: fetches nothing more until the next poll, but goes on hearing what the
    /// client says. What was fetched ahead is let go, and comes again.
    ///
    /// # Errors
    /// Going on would lose records.
    pub fn rest(&mut self) -> Result<(), SourceError> {
        let Some(batches) = self.batches.as_mut().filter(|_| self.doubt.is_none()) else { return Ok(()) };
        if !self.rests {
            let assigned = Self::assigned(batches.consumer())?;
            batches.consumer().pause(&assigned).map_err(|cause| SourceError::Broken { cause })?;
            self.rests = true;
        }
        let doubt = &mut self.doubt;
        let mut missing = false;
        // What was fetched before is let go by the library itself.
        let taken = batches.take(1, Duration::ZERO, |_| true, |_| missing = true);
        if missing {
            *doubt = Some("a record came while nothing was to be fetched".into());
        }
        for failure in taken.failures {
            go_back(batches.consumer(), &self.assigned, failure, doubt)?;
        }
        hear(batches.consumer(), doubt)
    }

    fn wake(&mut self) -> Result<(), SourceError> {
        if let Some(consumer) = self.batches.as_ref().filter(|_| self.rests).map(Batches::consumer) {
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
        let Source { batches: Some(batches), assigned, doubt, .. } = self else { return Ok(0) };
        let (mut handed, mut wait) = (0, wait);
        while doubt.is_none() && handed < records_max {
            // The library waits for as many as it is asked for.
            let most = if wait.is_zero() { records_max - handed } else { 1 };
            // Records come in runs of one partition.
            let mut run = None;
            let mut heard = Ok(());
            let go_on = |consumer: &BaseConsumer<Client>| {
                // Before the records, which may be those of a new topic.
                heard = hear(consumer, doubt);
                heard.is_ok() && doubt.is_none()
            };
            let taken = batches.take(most, wait, go_on, |record| {
                let of = (record.topic_mark(), record.partition());
                let assignment = match run {
                    Some((known, place)) if known == of => &mut assigned[place],
                    _ => {
                        let is = |a: &Assignment| a.partition == of.1 && record.topic() == Some(&a.topic);
                        let Some(place) = assigned.iter().position(is) else { return };
                        run = Some((of, place));
                        &mut assigned[place]
                    }
                };
                // After a reconnect the client may hand out again what we already have.
                if record.offset() < assignment.next_offset {
                    return;
                }
                assignment.next_offset = record.offset() + 1;
                handed += 1;
                each(RawRecord {
                    tag: assignment.tag,
                    offset: record.offset(),
                    timestamp_ms: record.timestamp_ms(),
                    key: record.key(),
                    payload: record.payload(),
                });
            });
            heard?;
            for failure in taken.failures {
                go_back(batches.consumer(), assigned, failure, doubt)?;
            }
            if taken.count == 0 {
                break;
            }
            wait = Duration::ZERO;
        }
        Ok(handed)
    }

    /// How far each partition was handed out, by its tag: beyond its last record where marks of transactions follow,
    /// which are nothing to read. Says nothing of partitions of which nothing came yet.
    pub fn positions(&self) -> Vec<(usize, i64)> {
        let Some(batches) = self.batches.as_ref().filter(|_| self.doubt.is_none()) else { return Vec::new() };
        let Ok(list) = batches.consumer().position() else { return Vec::new() };
        let at = |a: &Assignment| match list.find_partition(&a.topic, a.partition)?.offset() {
            Offset::Offset(offset) => Some((a.tag, offset)),
            _ => None,
        };
        self.assigned.iter().filter_map(at).collect()
    }

    /// The end of a partition as the broker last said.
    pub fn end_offset(&self, topic: &str, partition: i32) -> Option<i64> {
        self.batches.as_ref()?.consumer().context().end_offset(topic, partition)
    }
}

// A partition has an error. The client goes on after it as if it were a record, which is not what may be committed:
// where the error passes, it has to go on with what comes next for us.
fn go_back(
    consumer: &BaseConsumer<Client>,
    assigned: &[Assignment],
    failure: Failure,
    doubt: &mut Option<String>,
) -> Result<(), SourceError> {
    let Failure { topic, partition, offset, code } = failure;
    let of = assigned.iter().find(|a| a.partition == partition && Some(&*a.topic) == topic.as_deref());
    if let (Ok(cause), Some(of)) = (code, of)
        && is_damage(cause)
    {
        let offset = offset.unwrap_or(of.next_offset);
        return Err(SourceError::Damaged { topic: of.topic.to_string(), partition, offset, cause });
    }
    match code {
        Ok(code) => complain(consumer, KafkaError::MessageConsumption(code), doubt)?,
        Err(number) => *doubt = Some(format!("the broker answers with error {number}")),
    }
    if doubt.is_none()
        && let Some(of) = of
        && let Err(error) = consumer.seek(&of.topic, of.partition, Offset::Offset(of.next_offset), SEEK_LIMIT)
    {
        *doubt = Some(format!("reading cannot go on after an error: {error}"));
    }
    Ok(())
}

// Whether records came that cannot be what was sent. The client goes on after them as if they had not been there.
fn is_damage(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::BadMessage
            | RDKafkaErrorCode::BadCompression
            | RDKafkaErrorCode::InvalidMessage
            | RDKafkaErrorCode::InvalidMessageSize
    )
}

// Hears all that the client has to say.
fn hear(consumer: &BaseConsumer<Client>, doubt: &mut Option<String>) -> Result<(), SourceError> {
    while doubt.is_none()
        && let Some(said) = client::serve(consumer)
    {
        match said {
            // It would be missing.
            Ok(_) => *doubt = Some("a record came by a way that is not read".into()),
            Err(error) => complain(consumer, error, doubt)?,
        }
    }
    if consumer.context().topic_changed() {
        *doubt = Some(ANOTHER_TOPIC.into());
    } else if let Some(complaint) = consumer.context().partition_error() {
        doubt.get_or_insert(complaint);
    }
    Ok(())
}

// Most errors pass: the client reconnects and goes on. Of others the client does not say what they are about, and
// they are looked into. Those after which records would be missing end it.
fn complain(consumer: &BaseConsumer<Client>, error: KafkaError, doubt: &mut Option<String>) -> Result<(), SourceError> {
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::AutoOffsetReset
            | RDKafkaErrorCode::OffsetOutOfRange
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopicId,
        ) => *doubt = Some(error.to_string()),
        Some(code) if is_damage(code) || code == RDKafkaErrorCode::Fatal => {
            return Err(SourceError::Broken { cause: error });
        }
        _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
            return Err(SourceError::Broken { cause: error });
        }
        Some(RDKafkaErrorCode::PartitionEOF) => {}
        _ => {
            if consumer.context().worth_logging(&error.to_string()) {
                tracing::warn!(%error, "reading Kafka waits; the client tries again by itself, nothing is lost");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Instant;

    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

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
    fn an_error_that_passes_is_no_record_and_hides_none() {
        let broker = MockCluster::new(1).unwrap();
        broker.create_topic("t", 1, 1).unwrap();
        let brokers = broker.bootstrap_servers();
        let sink = Sink::connect(&brokers, &BTreeMap::new()).unwrap();
        let send = || {
            sink.send("t", Some(0), b"", b"1", None).unwrap();
            sink.flush(PATIENCE, |_| {}).unwrap();
        };
        let kafka = KafkaConfig { brokers: brokers.clone(), ..KafkaConfig::default() };
        let mut source = Source::connect(&kafka, "errors", 1024).unwrap();
        source.assign(&[assignment(None)]).unwrap();
        let mut offsets = Vec::new();
        for records in 1..=4 {
            send();
            read(&mut source, &mut offsets, |offsets| offsets.len() as i64 == records);
            broker
                .request_errors(RDKafkaApiKey::Fetch, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
            let until = Instant::now() + Duration::from_millis(800);
            while Instant::now() < until {
                assert_eq!(source.poll(100, Duration::from_millis(20), |record| panic!("{record:?}")).unwrap(), 0);
                assert!(
                    source.positions().iter().all(|(_, position)| *position <= records),
                    "{:?}",
                    source.positions()
                );
            }
            // What is paused goes on from where the client believes to be.
            source.rest().unwrap();
            assert_eq!(source.doubt(), None);
        }
        assert_eq!(offsets, [0, 1, 2, 3]);
    }

    #[test]
    fn a_damaged_batch_ends_it_and_is_told_where_it_begins() {
        let broker = MockBroker::start(&[("t", 1)]).unwrap();
        let mut source = Source::connect(&kafka(&broker), "damaged", 1024).unwrap();
        source.assign(&[Assignment { next_offset: 5, ..assignment(None) }]).unwrap();
        let assigned = source.assigned.clone();
        let consumer = source.connected().unwrap().consumer();
        let failure = |offset, code| Failure { topic: Some("t".into()), partition: 0, offset, code: Ok(code) };
        for (offset, told) in [(Some(7), 7), (None, 5)] {
            let failure = failure(offset, RDKafkaErrorCode::BadMessage);
            let error = go_back(consumer, &assigned, failure, &mut None).unwrap_err();
            assert!(matches!(error, SourceError::Damaged { offset, .. } if offset == told), "{error}");
            assert!(error.to_string().contains("t/0") && !error.passes(), "{error}");
        }
        let passes = failure(None, RDKafkaErrorCode::TopicAuthorizationFailed);
        go_back(consumer, &assigned, passes, &mut None).unwrap();
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
