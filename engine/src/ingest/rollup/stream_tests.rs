//! Roll-ups of a whole stream: readings with labels and a topic of labels in Kafka, in any order, with restarts and
//! crashes and other numbers of workers, against the [`oracle`](super::oracle).
//!
//! `METERLINE_SEED` repeats one case.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use meterline_connectors::kafka::mock::MockBroker;
use meterline_connectors::kafka::sink::Sink;
use meterline_connectors::lake::Lake;
use meterline_schemas::Micros;
use meterline_schemas::config::RollupValue;
use meterline_schemas::reading::{Position, Quality};
use meterline_schemas::time::Span;
use meterline_tests::dice::{Dice, seeds};

use super::super::cluster_tests::cluster;
use super::super::load::Committed;
use super::oracle::{Case, Said};
use super::plan::Plan;
use super::sums::Sums;
use crate::environment::Environment;
use crate::metadata::MetadataStore;
use crate::sql::{TableVersions, query_batches};

const CASES: u64 = 12;
const TOPICS: [&str; 3] = ["a", "b", "meta"];
const PARTITIONS: i32 = 2;
const PATIENCE: Duration = Duration::from_secs(60);

struct Record {
    topic: usize,
    position: Position,
    payload: String,
}

fn topic(case: &Case, said: &Said) -> usize {
    match said {
        Said::Read(read) => usize::from(case.series[read.series].feed),
        Said::Label(..) => 2,
    }
}

fn record(case: &Case, said: &Said) -> Record {
    let (position, payload) = match said {
        Said::Read(read) => {
            let series = &case.series[read.series];
            let mut payload = serde_json::json!({
                "id": &*series.id, "at": read.end / 1_000, "v": read.content.value,
                "u": series.unit.to_string(), "q": read.content.quality.as_str(),
            });
            for (field, value) in ["feeder", "site"].iter().zip(read.labels.iter().flat_map(|labels| labels.iter())) {
                payload[*field] = value.as_deref().into();
            }
            (read.content.position, payload)
        }
        Said::Label(series, label) => {
            let mut payload =
                serde_json::json!({"series_id": &*case.series[*series].id, "valid_from": label.valid_from / 1_000});
            for (field, value) in case.config.labels["meta"].labels.values().zip(label.labels.iter()) {
                payload[field] = value.as_deref().into();
            }
            (label.position, payload)
        }
    };
    Record { topic: topic(case, said), position, payload: payload.to_string() }
}

fn case(seed: u64) -> Case {
    let case = Case::random(seed);
    let topics: Vec<u16> = case.series.iter().map(|series| series.feed).collect();
    let mut offsets: BTreeMap<(usize, i32), i64> = BTreeMap::new();
    let mut case = case.for_stream(|said, position| {
        let topic = match said {
            Said::Read(read) => usize::from(topics[read.series]),
            Said::Label(..) => 2,
        };
        let partition = position.partition % PARTITIONS;
        let offset = offsets.entry((topic, partition)).or_default();
        *offset += 1;
        // After all stamps: no clock is ahead of its record.
        let timestamp_ms = position.timestamp_ms + 1_720_000_000_000;
        Position { timestamp_ms, partition, offset: *offset - 1 }
    });
    for feed in case.config.feed.values_mut() {
        (feed.series, feed.time) = ("id".into(), "at".into());
        (feed.unit_field, feed.quality) = (Some("u".into()), Some("q".into()));
        for (label, field) in &mut feed.labels {
            field.clone_from(label);
        }
    }
    case.config.ingest.commit_interval = Span(50_000);
    case.config.ingest.remembered_intervals = 2;
    if seed.is_multiple_of(2) {
        // Enough for all series; groups remember some intervals.
        case.config.ingest.memory_limit = "1MiB".parse().unwrap();
    }
    case
}

type Found = BTreeMap<(String, Micros), (f64, Quality, [i64; 5])>;

async fn rolled_up(env: &Environment) -> Found {
    let sql = "SELECT arrow_cast(series_id, 'Utf8') AS series_id, start, value, arrow_cast(quality, 'Utf8') AS quality, present, \
               expected, measured, estimated, substituted FROM intervals WHERE starts_with(feed, 'rollup.')";
    let mut found = Found::new();
    for rows in query_batches(env, sql, TableVersions::default()).await.unwrap() {
        let starts = rows.column(1).as_primitive::<TimestampMicrosecondType>();
        let values = rows.column(2).as_primitive::<Float64Type>();
        for row in 0..rows.num_rows() {
            let key = (rows.column(0).as_string::<i32>().value(row).to_owned(), starts.value(row));
            let numbers = [4, 5, 6, 7, 8].map(|column| rows.column(column).as_primitive::<Int64Type>().value(row));
            let quality = rows.column(3).as_string::<i32>().value(row).parse().unwrap();
            assert_eq!(
                found.insert(key.clone(), (values.value(row), quality, numbers)),
                None,
                "{key:?} is there twice"
            );
        }
    }
    found
}

fn check(case: &Case, seed: u64, mut found: Found, unlabelled: i64) -> usize {
    let plan = Plan::new(&case.config).unwrap();
    let (truth, not_counted) = case.truth();
    for (key, expected) in &truth {
        let Some((value, quality, numbers)) = found.remove(key) else { panic!("METERLINE_SEED={seed}: no {key:?}") };
        let rollup = plan.rollups.iter().find(|rollup| key.0.starts_with(&*rollup.feed)).unwrap();
        let sums = Sums { amount: expected.amount, present: expected.present, intervals: expected.intervals };
        let length = rollup.slot(key.0.rsplit('@').next().unwrap().parse().unwrap(), key.1, key.1 + 1).unwrap();
        let right = rollup.valuation.value(&sums, length.1 - length.0);
        let close = rollup.valuation.value == RollupValue::Mean && (value - right).abs() <= 1e-9 * right.abs().max(1.0);
        assert!(value == right || close, "METERLINE_SEED={seed}: {key:?} is {value}, not {right}");
        let [measured, estimated, substituted] = expected.intervals;
        let all = [expected.present, expected.expected, measured, estimated, substituted];
        assert_eq!((numbers, quality), (all, sums.quality()), "METERLINE_SEED={seed}: {key:?}");
    }
    assert!(found.is_empty(), "METERLINE_SEED={seed}: {found:?} should not be there");
    assert_eq!(unlabelled, not_counted, "METERLINE_SEED={seed}: intervals that belong to no group");
    truth.len()
}

async fn run(seed: u64) -> usize {
    let case = case(seed);
    let dice = Dice::new(seed);
    let topics: Vec<(&str, i32)> = TOPICS.iter().map(|name| (*name, PARTITIONS)).collect();
    let broker = MockBroker::start(&topics).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).await.unwrap();
    let mut config = case.config.clone();
    config.kafka.brokers = broker.brokers().into();
    let sink = Sink::connect(broker.brokers(), &BTreeMap::new()).unwrap();
    let records: Vec<Record> = case.epochs.iter().flatten().map(|said| record(&case, said)).collect();
    let mut sent = 0;
    let mut last: Option<std::sync::Arc<Committed>> = None;
    while sent < records.len() {
        let (processes, workers) = (1 + dice.roll(2) as usize, 1 + dice.roll(3) as usize);
        let (mut ingest, members) = cluster(&config, &lake, processes, workers).await;
        for _ in 0..1 + dice.roll(3) {
            let end = (sent + 1 + dice.roll(60) as usize).min(records.len());
            for Record { topic, position, payload } in &records[sent..end] {
                let (partition, timestamp) = (Some(position.partition), Some(position.timestamp_ms));
                sink.send(TOPICS[*topic], partition, b"", payload.as_bytes(), timestamp).unwrap();
            }
            sink.flush(PATIENCE, |_| {}).unwrap();
            sent = end;
            tokio::time::sleep(Duration::from_millis(dice.roll(120))).await;
        }
        if sent == records.len() {
            let mut commits = ingest.committed();
            let done = |committed: &Committed| {
                let partitions = committed.state.feeds.values().flat_map(|feed| feed.partitions.values());
                let read: u64 = partitions.map(|partition| partition.counts.records).sum();
                read == records.len() as u64 && committed.state.rollups.said.is_none()
            };
            let done = commits.wait_for(|newest| newest.as_ref().is_some_and(|newest| done(newest)));
            let done = tokio::time::timeout(PATIENCE, done).await;
            let done = done.unwrap_or_else(|_| panic!("METERLINE_SEED={seed}: not done in time"));
            let Ok(done) = done.map(|done| done.clone()) else {
                panic!("METERLINE_SEED={seed}: {}", ingest.failed().await)
            };
            last = done;
        }
        match dice.roll(2) {
            0 => {
                ingest.stop().await.unwrap();
                for mut member in members {
                    member.ended().await.unwrap();
                }
            }
            // As after a crash: without a last commit.
            _ => drop((ingest, members)),
        }
    }
    let metadata = MetadataStore::open(&format!("sqlite:{}/metadata.db", directory.path().display())).await.unwrap();
    let config_path = directory.path().join("meterline.toml");
    let env = Environment { config, config_path, lake, metadata };
    let last = last.expect("the last commit");
    for (name, feed) in &last.state.feeds {
        for partition in feed.partitions.values() {
            let counts = &partition.counts;
            let all = counts.accepted + counts.corrected + counts.duplicate + counts.dead + counts.pending;
            assert_eq!((counts.records, counts.dead), (all, 0), "METERLINE_SEED={seed}: {name}");
        }
    }
    let unlabelled = last.state.rollups.by_name.values().map(|rollup| rollup.unlabelled).sum();
    check(&case, seed, rolled_up(&env).await, unlabelled)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roll_ups_of_a_stream_equal_a_batch_recomputation() {
    let seeds = seeds(CASES);
    let (cases, mut compared) = (seeds.end - seeds.start, 0);
    for seed in seeds {
        compared += run(seed).await;
    }
    println!("{compared} intervals compared");
    assert!(cases < CASES || compared as u64 > 5 * CASES, "the cases are too tame: {compared} intervals");
}
