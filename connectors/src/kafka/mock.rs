//! The in-process broker of the demo and of tests, and the pace that it can bear.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc;
use std::thread::JoinHandle;

use rdkafka::mocking::MockCluster;

/// librdkafka's mock cluster: it speaks the Kafka protocol on a port of this machine.
///
/// It keeps only about 5 MB a partition and forgets the oldest records silently: pace the producer with a [`Pacer`]. It
/// ends when the value is dropped.
pub struct MockBroker {
    brokers: String,
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

struct Command {
    topic: String,
    partitions: i32,
    answer: mpsc::Sender<Result<(), String>>,
}

/// Why the in-process broker does not start or refuses a topic.
#[derive(Debug, thiserror::Error)]
#[error("the in-process broker failed {doing}: {reason}")]
pub struct MockError {
    doing: &'static str,
    reason: String,
}

impl MockBroker {
    /// Starts the broker with these topics, each with its number of partitions.
    ///
    /// # Errors
    /// No port can be opened, or a topic is refused.
    pub fn start(topics: &[(&str, i32)]) -> Result<MockBroker, MockError> {
        let failed = |reason: String| MockError { doing: "to start", reason };
        let (commands, inbox) = mpsc::channel::<Command>();
        let (started, outcome) = mpsc::channel();
        // The cluster's handle must stay on one thread.
        let thread = std::thread::Builder::new()
            .name("mock-broker".into())
            .spawn(move || {
                let cluster = match MockCluster::new(1) {
                    Ok(cluster) => cluster,
                    Err(error) => {
                        let _ = started.send(Err(error.to_string()));
                        return;
                    }
                };
                let _ = started.send(Ok(cluster.bootstrap_servers()));
                while let Ok(Command { topic, partitions, answer }) = inbox.recv() {
                    let created = cluster.create_topic(&topic, partitions, 1);
                    let _ = answer.send(created.map_err(|e| e.to_string()));
                }
            })
            .map_err(|e| failed(e.to_string()))?;
        let brokers = outcome.recv().unwrap_or_else(|_| Err("its thread ended".into())).map_err(failed)?;
        let broker = MockBroker { brokers, commands: Some(commands), thread: Some(thread) };
        for (topic, partitions) in topics {
            broker.create_topic(topic, *partitions)?;
        }
        Ok(broker)
    }

    /// `host:port` of the broker.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// The broker refuses, such as when the topic exists.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<(), MockError> {
        let failed = |reason: String| MockError { doing: "to create a topic", reason };
        let (answer, outcome) = mpsc::channel();
        let command = Command { topic: topic.to_owned(), partitions, answer };
        let sent = self.commands.as_ref().is_some_and(|commands| commands.send(command).is_ok());
        if !sent {
            return Err(failed("its thread ended".into()));
        }
        outcome.recv().unwrap_or_else(|_| Err("its thread ended".into())).map_err(failed)
    }
}

impl Drop for MockBroker {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How far a producer may run ahead of the reader of a partition, so that a broker that keeps little loses nothing.
///
/// A plain value: who sends asks [`Pacer::admits`] and tells [`Pacer::sent`], who reads tells [`Pacer::read_to`].
#[derive(Debug)]
pub struct Pacer {
    unread_bytes_max: u64,
    partitions: BTreeMap<i32, Unread>,
}

#[derive(Debug, Default)]
struct Unread {
    next_offset: i64,
    bytes: u64,
    /// Offset and bytes of each unread record.
    records: VecDeque<(i64, u32)>,
}

impl Pacer {
    /// Unread bytes that are safe on the in-process broker: 2 of its 5 MB, because it forgets whole batches.
    pub const UNREAD_BYTES_MAX: u64 = 2_000_000;
    /// What a record costs beside its payload: key, length, offset and time deltas.
    const OVERHEAD_BYTES: u64 = 48;

    /// A pacer for partitions that are empty and not yet read.
    pub fn new(unread_bytes_max: u64) -> Pacer {
        Pacer { unread_bytes_max, partitions: BTreeMap::new() }
    }

    /// Whether a record with this payload may be sent now. The first unread one always may.
    pub fn admits(&self, partition: i32, payload_bytes: usize) -> bool {
        self.partitions.get(&partition).is_none_or(|unread| {
            unread.records.is_empty() || unread.bytes + cost(payload_bytes) <= self.unread_bytes_max
        })
    }

    /// A record was sent; it has the next offset of its partition.
    pub fn sent(&mut self, partition: i32, payload_bytes: usize) {
        let unread = self.partitions.entry(partition).or_default();
        let bytes = cost(payload_bytes);
        unread.records.push_back((unread.next_offset, u32::try_from(bytes).unwrap_or(u32::MAX)));
        unread.next_offset += 1;
        unread.bytes += bytes;
    }

    /// All records of the partition before `next_offset` were read.
    pub fn read_to(&mut self, partition: i32, next_offset: i64) {
        let Some(unread) = self.partitions.get_mut(&partition) else { return };
        while let Some((offset, bytes)) = unread.records.front().copied()
            && offset < next_offset
        {
            unread.records.pop_front();
            unread.bytes = unread.bytes.saturating_sub(u64::from(bytes));
        }
    }
}

const fn cost(payload_bytes: usize) -> u64 {
    payload_bytes as u64 + Pacer::OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant};

    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

    use super::*;
    use crate::kafka::sink::{Sink, partition_of};

    #[test]
    fn a_partition_takes_no_more_until_it_is_read() {
        let mut pacer = Pacer::new(300);
        for _ in 0..3 {
            assert!(pacer.admits(0, 52));
            pacer.sent(0, 52);
        }
        assert!(!pacer.admits(0, 52));
        assert!(pacer.admits(1, 52), "another partition has its own allowance");
        pacer.read_to(0, 1);
        assert!(pacer.admits(0, 52));
        pacer.read_to(0, 3);
        assert!(pacer.partitions.values().all(|unread| unread.records.is_empty()));
        assert!(pacer.admits(0, 10_000), "a record larger than the allowance goes alone");
    }

    #[tokio::test]
    async fn a_paced_producer_loses_nothing_on_the_in_process_broker() {
        const RECORDS: usize = 120_000;
        let broker = MockBroker::start(&[("readings", 2)]).unwrap();
        let sink = Sink::connect(broker.brokers(), &BTreeMap::new()).unwrap();
        assert_eq!(sink.ensure_topic("readings", 7).await.unwrap(), 2, "an existing topic keeps its partitions");
        broker.create_topic("other", 3).unwrap();
        assert_eq!(sink.ensure_topic("other", 7).await.unwrap(), 3);

        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", broker.brokers())
            .set("group.id", "test")
            .set("auto.offset.reset", "error")
            .create()
            .unwrap();
        let mut assignment = TopicPartitionList::new();
        for partition in 0..2 {
            assignment.add_partition_offset("readings", partition, Offset::Offset(0)).unwrap();
        }
        consumer.assign(&assignment).unwrap();

        let mut pacer = Pacer::new(Pacer::UNREAD_BYTES_MAX);
        let mut read = [Vec::new(), Vec::new()];
        let mut expected = [Vec::new(), Vec::new()];
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut sent = 0;
        while read.iter().map(Vec::len).sum::<usize>() < RECORDS {
            assert!(Instant::now() < deadline, "{} of {RECORDS} read", read.iter().map(Vec::len).sum::<usize>());
            while sent < RECORDS {
                let key = format!("meter-{}", sent % 100);
                let payload = format!("{sent:0100}");
                let partition = partition_of(key.as_bytes(), 2);
                if !pacer.admits(partition, payload.len()) {
                    break;
                }
                sink.send("readings", None, key.as_bytes(), payload.as_bytes(), None).unwrap();
                pacer.sent(partition, payload.len());
                expected[partition as usize].push(sent);
                sent += 1;
            }
            if let Some(message) = consumer.poll(Duration::from_millis(10)) {
                let message = message.unwrap();
                let number: usize = std::str::from_utf8(message.payload().unwrap()).unwrap().parse().unwrap();
                read[message.partition() as usize].push(number);
                pacer.read_to(message.partition(), message.offset() + 1);
            }
        }
        assert_eq!(read, expected, "each partition has its keys, in the order in which they were sent");
        let delivered = sink.flush(Duration::from_secs(10), |_| {}).unwrap();
        assert_eq!((delivered.records, delivered.failed), (RECORDS as u64, 0));
    }

    #[test]
    fn an_unreachable_broker_is_an_error_that_names_it() {
        let properties = BTreeMap::new();
        let Err(error) = Sink::connect("127.0.0.1:1", &properties) else { panic!("nothing listens there") };
        assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    }
}
