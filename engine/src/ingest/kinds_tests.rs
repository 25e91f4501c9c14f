//! Random feeds of all kinds with a memory of two intervals, so that nearly everything late is looked up in the lake:
//! small commits, restarts with other numbers of workers, crashes, and afterwards equality with a batch recomputation,
//! of intervals and of counts.
//!
//! `METERLINE_SEED` repeats one case.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int32Type, TimestampMicrosecondType};
use jiff::tz::TimeZone;
use meterline_connectors::kafka::mock::MockBroker;
use meterline_connectors::kafka::sink::Sink;
use meterline_connectors::lake::Lake;
use meterline_schemas::bytes::Bytes;
use meterline_schemas::config::{Config, FeedConfig, Label};
use meterline_schemas::reading::{Position, Quality, ValueKind};
use meterline_schemas::time::{HOUR, MINUTE, Span};
use meterline_schemas::{Frequency, Micros};
use meterline_tests::dice::{Dice, seeds};

use super::oracle::{self, Entry};
use super::service::{IngestOptions, start};
use super::state::Counts;
use crate::environment::Environment;
use crate::metadata::MetadataStore;
use crate::sql::{TableVersions, query_batches};

const CASES: u64 = 6;
const PARTITIONS: i32 = 2;
const BEGIN: Micros = 1_700_006_400_000_000; // 2023-11-15T00:00:00Z
const PATIENCE: Duration = Duration::from_secs(60);
const KINDS: [(&str, ValueKind); 4] = [
    ("energy", ValueKind::Interval),
    ("power", ValueKind::Gauge),
    ("register", ValueKind::Counter),
    ("changing", ValueKind::Interval),
];
/// The feed whose frequency is detected: hours, and from hour [`CHANGE`] on quarter hours.
const CHANGING: usize = 3;
const CHANGE: i64 = 75;

#[derive(Debug, Clone)]
struct Sent {
    feed: usize,
    partition: i32,
    timestamp_ms: i64,
    series: String,
    at: Micros,
    value: i64,
}

/// Hours go on, with outages that are filled late, repetitions, and corrections from long ago.
fn records(dice: &Dice) -> Vec<Sent> {
    let mut sent: Vec<Sent> = Vec::new();
    let hours = 150;
    let mut timestamp_ms = (BEGIN + hours * HOUR) / 1_000;
    for hour in 0..hours {
        for series in 0..12u64 {
            let feed = (series % 4) as usize;
            let times = match feed {
                1 => 1 + dice.roll(4),
                CHANGING if hour >= CHANGE => 4,
                _ => 1,
            };
            for time in 1..=times as i64 {
                let back = match dice.roll(12) {
                    0 => dice.roll(hours as u64) as i64,
                    1 => dice.roll(5) as i64,
                    2 if feed != CHANGING || !(CHANGE..CHANGE + 3).contains(&hour) => continue,
                    _ => 0,
                };
                // What a change is told by comes once, in order.
                let back = if feed == CHANGING && (CHANGE..CHANGE + 3).contains(&hour) { 0 } else { back };
                let hour = (hour - back).max(0);
                let minutes = match feed {
                    1 => 1 + dice.roll(60) as i64,
                    CHANGING if hour >= CHANGE => 15 * time,
                    _ => 60,
                };
                let value = if feed == 2 { hour * 10 + dice.roll(14) as i64 } else { dice.roll(50) as i64 };
                // Time stamps go back now and then: the order of positions is not that of arrival.
                timestamp_ms += dice.roll(40) as i64 - 5;
                sent.push(Sent {
                    feed,
                    // The readings of one meter that changes come in order; neighbours are in different partitions.
                    partition: match feed {
                        CHANGING => (series / 4 % 2) as i32,
                        _ => dice.roll(PARTITIONS as u64) as i32,
                    },
                    timestamp_ms,
                    series: format!("{}{series}", KINDS[feed].0),
                    at: BEGIN + hour * HOUR + minutes * MINUTE,
                    value,
                });
                if dice.roll(15) == 0 {
                    let earlier = dice.roll(sent.len() as u64) as usize;
                    sent.push(sent[earlier].clone());
                }
            }
        }
    }
    sent
}

/// By series and start: value and number of readings, as a batch recomputation of the topics has them.
async fn expected(sent: &[Sent]) -> BTreeMap<(String, Micros), (f64, i32)> {
    let mut offsets: BTreeMap<(usize, i32), i64> = BTreeMap::new();
    // By feed and frequency.
    let mut logs: BTreeMap<(usize, Micros), Vec<Entry>> = BTreeMap::new();
    for record in sent {
        let offset = offsets.entry((record.feed, record.partition)).or_default();
        let position = Position { timestamp_ms: record.timestamp_ms, partition: record.partition, offset: *offset };
        *offset += 1;
        let short = record.feed == CHANGING && record.at > BEGIN + CHANGE * HOUR;
        logs.entry((record.feed, if short { 15 * MINUTE } else { HOUR })).or_default().push(Entry {
            series: record.series.clone(),
            at: record.at,
            value: record.value as f64,
            unit: "kWh",
            quality: Quality::Measured,
            position,
        });
    }
    let mut found = BTreeMap::new();
    for ((feed, length), log) in logs {
        let frequency = Frequency::of_length(length);
        let rows = oracle::intervals(&log, KINDS[feed].1, Label::End, frequency, &TimeZone::UTC).await;
        found.extend(rows.into_iter().map(|((series, start, _), (value, count, _))| ((series, start), (value, count))));
    }
    found
}

async fn read(env: &Environment) -> BTreeMap<(String, Micros), (f64, i32)> {
    let sql = "SELECT series_id, start, value, count FROM intervals";
    let mut found = BTreeMap::new();
    for rows in query_batches(env, sql, TableVersions::default()).await.unwrap() {
        let ids = arrow::compute::cast(rows.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
        let starts = rows.column(1).as_primitive::<TimestampMicrosecondType>();
        let values = rows.column(2).as_primitive::<Float64Type>();
        let counts = rows.column(3).as_primitive::<Int32Type>();
        for row in 0..rows.num_rows() {
            let key = (ids.as_string::<i32>().value(row).to_owned(), starts.value(row));
            assert_eq!(
                found.insert(key.clone(), (values.value(row), counts.value(row))),
                None,
                "{key:?} is there twice"
            );
        }
    }
    found
}

async fn case(seed: u64) {
    let dice = Dice::new(seed);
    let topics: Vec<(&str, i32)> = KINDS.iter().map(|(name, _)| (*name, PARTITIONS)).collect();
    let broker = MockBroker::start(&topics).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).await.unwrap();
    let mut config = Config::default();
    config.kafka.brokers = broker.brokers().into();
    config.ingest.commit_interval = Span(60_000);
    config.ingest.remembered_intervals = 2;
    if dice.roll(2) == 0 {
        // Enough for the series; what is looked up is so only a few intervals at a time.
        config.ingest.memory_limit = Bytes::new(256 << 10);
    }
    for (name, kind) in KINDS {
        let mut feed = FeedConfig::new(name, "id", "ts", "value");
        feed.kind = kind;
        feed.frequency = (name != KINDS[CHANGING].0).then_some(Frequency::HOUR);
        config.feed.insert(name.into(), feed);
    }
    let sent = records(&dice);
    let sink = Sink::connect(broker.brokers(), &BTreeMap::new()).unwrap();
    let mut next = 0;
    let mut committed = None;
    while next < sent.len() {
        let workers = Some(1 + dice.roll(3) as usize);
        let ingest = start(&config, &lake, IngestOptions { workers, ..IngestOptions::default() }).await.unwrap();
        for _ in 0..1 + dice.roll(4) {
            let end = (next + 1 + dice.roll(500) as usize).min(sent.len());
            for record in &sent[next..end] {
                let Sent { series, at, value, .. } = record;
                let payload = format!(r#"{{"id":"{series}","ts":{},"value":{value}}}"#, at / 1_000);
                let topic = KINDS[record.feed].0;
                let timestamp = Some(record.timestamp_ms);
                sink.send(topic, Some(record.partition), b"", payload.as_bytes(), timestamp).unwrap();
            }
            sink.flush(PATIENCE, |_| {}).unwrap();
            next = end;
            tokio::time::sleep(Duration::from_millis(dice.roll(150))).await;
        }
        if next == sent.len() {
            let mut commits = ingest.committed();
            let all = |state: &super::state::IngestState| {
                let partitions = state.feeds.values().flat_map(|feed| feed.partitions.values());
                partitions.map(|p| p.counts.records).sum::<u64>() == sent.len() as u64
            };
            let done = commits.wait_for(|newest| newest.as_ref().is_some_and(|newest| all(&newest.state)));
            let done = tokio::time::timeout(PATIENCE, done).await.expect("everything is committed in time").unwrap();
            committed = done.clone();
        }
        match dice.roll(2) {
            0 => ingest.stop().await.unwrap(),
            // As after a crash: without a last commit.
            _ => drop(ingest),
        }
    }
    let metadata = MetadataStore::open(&format!("sqlite:{}/metadata.db", directory.path().display())).await.unwrap();
    let config_path = directory.path().join("meterline.toml");
    let expected = expected(&sent).await;
    let env = Environment { config, config_path, lake, metadata };
    let changed = "SELECT series_id FROM series WHERE feed = 'changing' AND frequency = 'PT15M' AND confidence > 0.8 \
                   AND since = arrow_cast('2023-11-18T03:00:00Z', 'Timestamp(Microsecond, Some(\"UTC\"))')";
    let changed = query_batches(&env, changed, TableVersions::default()).await.unwrap();
    assert_eq!(changed.iter().map(|rows| rows.num_rows()).sum::<usize>(), 3, "seed {seed}: `series` says otherwise");
    let found = read(&env).await;
    for (key, value) in &expected {
        assert_eq!(found.get(key), Some(value), "seed {seed}: {key:?}");
    }
    assert_eq!(found.len(), expected.len(), "seed {seed}: there are intervals without readings");
    for (name, feed) in &committed.expect("the last commit").state.feeds {
        let total = |count: fn(&Counts) -> u64| feed.partitions.values().map(|p| count(&p.counts)).sum::<u64>();
        let sum = total(|c| c.accepted + c.corrected + c.duplicate + c.dead + c.pending);
        assert_eq!(total(|c| c.records), sum, "seed {seed}: {name}");
        if name == "energy" {
            let intervals = expected.keys().filter(|(series, _)| series.starts_with(name)).count() as u64;
            assert_eq!(total(|c| c.accepted), intervals, "seed {seed}: each interval is accepted once");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_forgotten_every_kind_equals_its_batch_recomputation() {
    for seed in seeds(CASES) {
        case(seed).await;
    }
}
