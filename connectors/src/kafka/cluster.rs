//! What the cluster has: partitions and their offsets. Every call may block for as long as its time-out.

use std::time::Duration;

use meterline_schemas::config::KafkaConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::TopicId;
use super::client::{self, Client, SourceError, consumer};

const TIMEOUT: Duration = Duration::from_secs(5);
/// This consumer fetches nothing; its queue may be small.
const QUEUE_KIB: usize = 1024;

/// What there is of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its identifier, if the broker has one.
    pub id: Option<TopicId>,
    /// The broker that leads each partition; `None` while there is none.
    pub leaders: Vec<Option<i32>>,
}

/// A connection for questions.
pub struct Cluster {
    consumer: BaseConsumer<Client>,
    brokers: String,
}

impl Cluster {
    /// Starts a client. It connects by itself: this fails only for wrong settings.
    pub fn connect(kafka: &KafkaConfig) -> Result<Cluster, SourceError> {
        Ok(Cluster { consumer: consumer(kafka, "cluster", QUEUE_KIB)?, brokers: kafka.brokers.clone() })
    }

    /// What there is of a topic.
    ///
    /// # Errors
    /// Nobody answers, there is no such topic, or it is refused.
    pub fn topic(&self, topic: &str) -> Result<Topic, SourceError> {
        self.serve();
        let metadata = self.consumer.fetch_metadata(Some(topic), TIMEOUT).map_err(|cause| self.unreachable(cause))?;
        let missing = || SourceError::TopicMissing { topic: topic.into(), brokers: self.brokers.clone() };
        let found = metadata.topics().iter().find(|found| found.name() == topic).ok_or_else(missing)?;
        if let Some(error) = found.error() {
            return Err(match RDKafkaErrorCode::from(error) {
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::UnknownTopic => missing(),
                cause => SourceError::Refused { topic: topic.into(), cause },
            });
        }
        let mut leaders: Vec<(i32, i32)> = found.partitions().iter().map(|p| (p.id(), p.leader())).collect();
        if leaders.is_empty() {
            return Err(missing());
        }
        leaders.sort_unstable();
        // The identifier comes by the client's log: its line waits in the queue when the answer is here.
        self.serve();
        let leaders = leaders.into_iter().map(|(_, leader)| (leader >= 0).then_some(leader)).collect();
        Ok(Topic { id: self.consumer.context().topic_id(topic), leaders })
    }

    /// The first offset that the broker has of a partition, and the end of what it has.
    pub fn offsets(&self, topic: &str, partition: i32) -> Result<(i64, i64), SourceError> {
        self.serve();
        self.consumer.fetch_watermarks(topic, partition, TIMEOUT).map_err(|cause| self.unreachable(cause))
    }

    /// Tells the broker's consumer group where we are, for people who watch it. Nothing of ours reads it back, and
    /// nobody waits for it.
    pub fn report(&self, positions: &[(&str, i32, i64)]) -> Result<(), KafkaError> {
        self.serve();
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for (topic, partition, next_offset) in positions {
            list.add_partition_offset(topic, *partition, Offset::Offset(*next_offset))?;
        }
        self.consumer.commit(&list, CommitMode::Async)
    }

    fn unreachable(&self, cause: KafkaError) -> SourceError {
        SourceError::Unreachable { brokers: self.brokers.clone(), cause }
    }

    /// Runs the callbacks that wait. Nothing is assigned, so no record comes.
    fn serve(&self) {
        while let Some(Err(error)) = client::serve(&self.consumer) {
            tracing::debug!(%error, "Kafka client");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::mock::MockBroker;

    fn cluster(broker: &MockBroker) -> Cluster {
        Cluster::connect(&KafkaConfig { brokers: broker.brokers().into(), ..KafkaConfig::default() }).unwrap()
    }

    #[test]
    fn identifiers_are_known_from_the_first_look_on_and_stay() {
        let broker = MockBroker::start(&[("a", 1), ("b", 40)]).unwrap();
        let ids = |cluster: &Cluster| {
            ["a", "b"].map(|topic| {
                let found = cluster.topic(topic).unwrap();
                found.id.unwrap_or_else(|| panic!("{topic}: {found:?}"))
            })
        };
        let first = cluster(&broker);
        let known = ids(&first);
        assert_ne!(known[0], known[1]);
        // Offsets and what the client says beside them come in between.
        for partition in 0..40 {
            assert_eq!(first.offsets("b", partition).unwrap(), (0, 0));
        }
        assert_eq!(ids(&first), known);
        // Another client hears of them as the first one did.
        assert_eq!(ids(&cluster(&broker)), known);
    }
}
