//! The broker that the tests share, and the test of the broker itself.

use std::sync::OnceLock;

use meterline_tests::kafka::Kafka;
use meterline_tests::skip::{Skip, or_skip};
use meterline_tests::topic::{self, Outgoing};

/// The shared broker, or `None` with a visible line where it cannot run.
pub fn kafka(test: &str) -> Option<&'static Kafka> {
    static KAFKA: OnceLock<Result<Kafka, Skip>> = OnceLock::new();
    or_skip(test, KAFKA.get_or_init(Kafka::start).as_ref().map_err(Clone::clone))
}

#[test]
fn a_broker_keeps_its_records_over_a_restart_and_a_power_cut() {
    let Some(mut kafka) = or_skip("the broker's own test", Kafka::start()) else { return };
    kafka.create_topic("kept", 2);
    let record = |n: i32| Outgoing { key: format!("key {n}"), payload: Some(n.to_string().into_bytes()) };
    let mut sent = 0;
    for break_it in [Kafka::restart as fn(&mut Kafka), |k| (k.kill(), k.restart()).1] {
        topic::send(&kafka.brokers(), "kept", &(0..100).map(record).collect::<Vec<_>>());
        sent += 100;
        break_it(&mut kafka);
        assert_eq!(topic::end_offsets(&kafka.brokers(), "kept").iter().sum::<i64>(), sent);
        assert_eq!(topic::drain(&kafka.brokers(), "kept").len() as i64, sent);
    }
}
