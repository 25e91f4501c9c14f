//! Readings per second, Kafka JSON → committed intervals, beside a bare consumer of the same topic.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use meterline_schemas::time::{MINUTE, format_micros};
use meterline_tests::kafka::client;
use meterline_tests::sandbox::Sandbox;
use meterline_tests::{topic, wait};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::util::Timeout;

/// The topic of the benchmark.
pub const TOPIC: &str = "readings";
/// Its partitions.
pub const PARTITIONS: i32 = 4;
/// 2024-01-01T00:00:00Z, the start of the first interval.
const FIRST: i64 = 1_704_067_200_000_000;
const LIMIT: Duration = Duration::from_secs(1800);

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Readings in all.
    pub readings: u64,
    /// Series that they are spread over, one quarter of an hour after the other.
    pub series: u64,
}

/// Sends the load, and returns the payloads' bytes.
pub fn produce(brokers: &str, load: Load, compression: &str) -> Result<u64, KafkaError> {
    let producer: BaseProducer = client(brokers)
        .set("linger.ms", "50")
        .set("batch.num.messages", "20000")
        .set("batch.size", "2000000")
        .set("queue.buffering.max.messages", "1000000")
        .set("queue.buffering.max.kbytes", "524288")
        .set("compression.codec", compression)
        .create()?;
    let mut payload = Vec::with_capacity(128);
    let mut bytes = 0;
    for reading in 0..load.readings {
        let (interval, series) = (reading / load.series, reading % load.series);
        let stamp = format_micros(FIRST + (interval as i64 + 1) * 15 * MINUTE);
        // Load-like digits without a random generator: a day's wave would cost more than sending.
        let value = (reading.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 / 1e6;
        payload.clear();
        // Writing to memory does not fail.
        let _ = write!(
            payload,
            r#"{{"meter_id":"meter-{series:06}","ts":"{stamp}","value":{value:.4},"unit":"kW","quality":"measured"}}"#
        );
        bytes += payload.len() as u64;
        let mut record: BaseRecord<'_, (), Vec<u8>> =
            BaseRecord::to(TOPIC).partition((series % PARTITIONS as u64) as i32).payload(&payload);
        while let Err((error, same)) = producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(error);
            }
            producer.poll(Duration::from_millis(10));
            record = same;
        }
        if reading % 4096 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Timeout::After(Duration::from_secs(300)))?;
    Ok(bytes)
}

/// Seconds in which one bare `BaseConsumer` reads everything.
pub fn drain(brokers: &str) -> Result<f64, KafkaError> {
    let mut missing: i64 = topic::end_offsets(brokers, TOPIC).iter().sum();
    let consumer: BaseConsumer = client(brokers)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("queued.min.messages", "1000000")
        .set("fetch.message.max.bytes", "8388608")
        .set("fetch.queue.backoff.ms", "10")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset(TOPIC, partition, Offset::Offset(0))?;
    }
    let started = Instant::now();
    consumer.assign(&assignment)?;
    let mut bytes = 0;
    while missing > 0 {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            bytes += message?.payload().map_or(0, <[u8]>::len);
            missing -= 1;
        }
    }
    std::hint::black_box(bytes);
    Ok(started.elapsed().as_secs_f64())
}

/// What the engine did.
#[derive(Debug, Clone, Copy)]
pub struct Ingested {
    /// From its start until the commit with the last reading.
    pub seconds: f64,
    /// Highest resident memory.
    pub peak_mib: f64,
    /// Commits of the table `intervals`.
    pub commits: usize,
    /// Bytes of its data files.
    pub lake_bytes: u64,
}

/// Runs `meterline run` on an empty lake until everything is committed.
pub fn ingest(brokers: &str, load: Load) -> Ingested {
    // Ingest alone: no pipeline runs beside it.
    let settings = r#"
[policy.quarter_hours]
frequency = "PT15M"
[policy.quarter_hours.retrain]
when = "false"
[policy.quarter_hours.reforecast]
when = "false"
"#;
    let sandbox = Sandbox::reading(brokers, TOPIC, settings);
    let all = load.readings as i64;
    let started = SystemTime::now();
    let mut engine = sandbox.engine();
    let mut commits = 0;
    wait::until("everything is committed", LIMIT, || {
        assert!(engine.runs(), "the engine ended by itself:\n{}", sandbox.log());
        // A query costs processor time: one after each commit is enough.
        let now = sandbox.commits();
        let changed = now != commits;
        commits = now;
        std::thread::sleep(Duration::from_millis(100));
        (changed && sandbox.number("SELECT sum(next_offset) FROM partitions") == Some(all)).then_some(())
    });
    let peak_mib = peak_mib(engine.id());
    engine.stop();
    let intervals = sandbox.number("SELECT count(*) FROM intervals");
    assert_eq!(intervals, Some(all), "every reading became an interval");
    Ingested { seconds: last_commit(&sandbox, started), peak_mib, commits, lake_bytes: data_bytes(&sandbox) }
}

/// Seconds until the first commit that holds everything. Later commits (of nothing) do not count.
fn last_commit(sandbox: &Sandbox, started: SystemTime) -> f64 {
    let log = sandbox.lake().join("intervals/_delta_log");
    let mut last = started;
    for entry in fs::read_dir(log).into_iter().flatten().flatten() {
        let path = entry.path();
        let adds = path.extension().is_some_and(|x| x == "json")
            && fs::read_to_string(&path).is_ok_and(|text| text.contains(r#""add""#));
        if let (true, Ok(written)) = (adds, entry.metadata().and_then(|m| m.modified())) {
            last = last.max(written);
        }
    }
    last.duration_since(started).unwrap_or_default().as_secs_f64()
}

fn data_bytes(sandbox: &Sandbox) -> u64 {
    let mut folders = vec![sandbox.lake().join("intervals")];
    let mut bytes = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|x| x == "parquet") {
                bytes += entry.metadata().map_or(0, |m| m.len());
            }
        }
    }
    bytes
}

/// Highest resident memory of a process so far, from `/proc`.
fn peak_mib(process: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: Option<f64> = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}
