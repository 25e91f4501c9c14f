//! The broker and the readings that the tests share, and the test of the broker itself.

use std::sync::OnceLock;
use std::time::Duration;

use meterline_tests::kafka::Kafka;
use meterline_tests::skip::{Skip, or_skip};
use meterline_tests::topic::{self, Outgoing};

/// How long things are waited for that take seconds.
pub const MINUTE: Duration = Duration::from_secs(60);

/// `count` hourly readings of a meter from 2024-01-01 on.
pub fn of_meter(meter: &str, first: usize, count: usize) -> Vec<Outgoing> {
    let record = |n: usize| {
        let (day, hour) = (1 + n / 24, n % 24);
        format!(r#"{{"meter_id":"{meter}","ts":"2024-01-{day:02}T{hour:02}:00:00Z","value":{n},"unit":"kWh"}}"#)
    };
    (first..first + count).map(|n| Outgoing { key: meter.into(), payload: Some(record(n).into_bytes()) }).collect()
}

/// Those of the meter `m`.
pub fn hours(first: usize, count: usize) -> Vec<Outgoing> {
    of_meter("m", first, count)
}

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
