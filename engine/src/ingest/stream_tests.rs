//! The whole stream against the in-process broker and a lake in a temporary directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use meterline_connectors::kafka::mock::MockBroker;
use meterline_connectors::kafka::sink::Sink;
use meterline_connectors::lake::{Lake, snapshot};
use meterline_schemas::Micros;
use meterline_schemas::config::{Config, FeedConfig};
use meterline_schemas::reading::Position;
use meterline_schemas::tables;
use meterline_schemas::time::{DAY, HOUR, MINUTE, Span, format_micros};
use object_store::ObjectStoreExt;
use object_store::path::Path as ObjectPath;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::census::Census;
use super::commit::{Batch, Committer};
use super::error::IngestError;
use super::groups::groups;
use super::load::Committed;
use super::series::SeriesState;
use super::service::{Ingest, IngestOptions, start};
use super::state::IngestState;
use super::{backfill, load_committed, load_series};

pub(super) const TOPIC: &str = "readings";
pub(super) const PARTITIONS: i32 = 3;
const BEGIN: Micros = 1_700_006_400_000_000; // 2023-11-15T00:00:00Z
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn config(brokers: &str) -> Config {
    let mut config = Config::default();
    config.kafka.brokers = brokers.into();
    config.ingest.workers = 2;
    config.ingest.commit_interval = Span(200_000);
    let mut feed = FeedConfig::new(TOPIC, "meter_id", "ts", "value");
    feed.unit_field = Some("unit".into());
    feed.quality = Some("quality".into());
    config.feed.insert("meters".into(), feed);
    config
}

/// What a stream runs on: the in-process broker, and a lake in a temporary directory, which both go with it.
pub(super) struct World {
    pub(super) broker: MockBroker,
    pub(super) directory: tempfile::TempDir,
    pub(super) lake: Lake,
    pub(super) config: Config,
}

impl World {
    pub(super) async fn new() -> World {
        let broker = MockBroker::start(&[(TOPIC, PARTITIONS)]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let lake = Lake::open(directory.path().to_str().unwrap()).await.unwrap();
        let config = config(broker.brokers());
        World { broker, directory, lake, config }
    }

    /// One in whose lake these records are, and no stream runs any more.
    pub(super) async fn committed(records: &[Sent]) -> World {
        let world = World::new().await;
        send(world.broker.brokers(), records);
        let ingest = start(&world.config, &world.lake, IngestOptions::default()).await.unwrap();
        wait_for_records(&ingest, records.len()).await;
        ingest.stop().await.unwrap();
        world
    }
}

/// One record on its way, and what it should become.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) partition: i32,
    pub(super) timestamp_ms: i64,
    pub(super) payload: String,
    pub(super) reading: Option<(String, Micros, f64)>,
}

/// Two frequencies in one topic, with repetitions, corrections, disorder and garbage; the same every time.
pub(super) fn fleet() -> Vec<Sent> {
    let mut seed = 7u64;
    let mut random = move |below: u64| {
        // Knuth's linear congruential generator is random enough here.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut records = Vec::new();
    let mut timestamp_ms = (BEGIN + 2 * DAY) / 1_000;
    for slot in 1..=120i64 {
        for meter in 0..24u64 {
            let (length, id) =
                if meter < 18 { (15 * MINUTE, format!("q{meter}")) } else { (HOUR, format!("h{meter}")) };
            let at = BEGIN + slot * 15 * MINUTE;
            if at % length != 0 || random(50) == 0 {
                continue;
            }
            let times = if random(20) == 0 { 2 } else { 1 };
            for repetition in 0..times {
                let late = if repetition > 0 { random(6) as i64 } else { 0 };
                let at = at - late * length;
                let value = random(1000) as f64 / 4.0;
                timestamp_ms += 1;
                let stamp = format_micros(at);
                let payload = format!(r#"{{"meter_id":"{id}","ts":"{stamp}","value":{value},"unit":"kW"}}"#);
                let reading = Some((id.clone(), at - length, value * length as f64 / HOUR as f64));
                let partition = (meter % PARTITIONS as u64) as i32;
                records.push(Sent { partition, timestamp_ms, payload: payload.clone(), reading: reading.clone() });
                if random(30) == 0 {
                    timestamp_ms += 1;
                    records.push(Sent { partition: random(3) as i32, timestamp_ms, payload, reading });
                }
            }
        }
        if slot % 10 == 0 {
            timestamp_ms += 1;
            let payload = format!(r#"{{"meter_id":"q1","ts":"?{slot}"}}"#);
            records.push(Sent { partition: 0, timestamp_ms, payload, reading: None });
        }
    }
    records
}

pub(super) fn send(brokers: &str, records: &[Sent]) {
    let sink = Sink::connect(brokers, &BTreeMap::new()).unwrap();
    for record in records {
        sink.send(TOPIC, Some(record.partition), b"", record.payload.as_bytes(), Some(record.timestamp_ms)).unwrap();
    }
    let delivered = sink.flush(PATIENCE, |_| {}).unwrap();
    assert_eq!((delivered.records, delivered.failed), (records.len() as u64, 0));
}

/// By series and interval the value of the greatest position, as a batch recomputation of the topic has it.
pub(super) fn oracle(records: &[Sent]) -> BTreeMap<(String, Micros), f64> {
    let mut offsets: BTreeMap<i32, i64> = BTreeMap::new();
    let mut found: BTreeMap<(String, Micros), (Position, f64)> = BTreeMap::new();
    for record in records {
        let offset = offsets.entry(record.partition).or_default();
        let position = Position { timestamp_ms: record.timestamp_ms, partition: record.partition, offset: *offset };
        *offset += 1;
        let Some((id, start, value)) = record.reading.clone() else { continue };
        let known = found.entry((id, start)).or_insert((position, value));
        if position > known.0 {
            *known = (position, value);
        }
    }
    found.into_iter().map(|(key, (_, value))| (key, value)).collect()
}

async fn table(lake: &Lake, name: &str) -> Vec<(RecordBatch, BTreeMap<String, String>)> {
    let mut batches = Vec::new();
    let Some(table) = snapshot(lake, name, None).await.unwrap() else { return batches };
    for file in table.files {
        let path = ObjectPath::from(format!("{name}/{}", file.path));
        let bytes = lake.store().get(&path).await.unwrap().bytes().await.unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
        batches.extend(reader.map(|batch| (batch.unwrap(), file.partition.clone())));
    }
    batches
}

/// What a reader of `intervals` sees, and a check that no interval has two base rows.
pub(super) async fn read(lake: &Lake) -> BTreeMap<(String, Micros), f64> {
    let mut found: BTreeMap<(String, Micros), (Position, f64)> = BTreeMap::new();
    let mut base = BTreeMap::new();
    for (batch, partition) in table(lake, tables::INTERVALS).await {
        let column = |name: &str| batch.column_by_name(name).unwrap();
        let id = column("series_id").as_string::<i32>();
        let start = column("start").as_primitive::<TimestampMicrosecondType>();
        let value = column("value").as_primitive::<Float64Type>();
        let timestamp = column("position_timestamp").as_primitive::<Int64Type>();
        let kafka_partition = column("partition").as_primitive::<Int32Type>();
        let offset = column("offset").as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let key = (id.value(row).to_owned(), start.value(row));
            if partition["layer"] == tables::LAYER_BASE {
                assert_eq!(base.insert(key.clone(), ()), None, "two base rows of {key:?}");
            }
            let position = Position {
                timestamp_ms: timestamp.value(row),
                partition: kafka_partition.value(row),
                offset: offset.value(row),
            };
            let known = found.entry(key).or_insert((position, value.value(row)));
            if position > known.0 {
                *known = (position, value.value(row));
            }
        }
    }
    found.into_iter().map(|(key, (_, value))| (key, value)).collect()
}

fn records(committed: &Committed) -> u64 {
    committed.state.feeds.values().flat_map(|feed| feed.partitions.values()).map(|p| p.counts.records).sum()
}

pub(super) async fn wait_for_records(ingest: &Ingest, count: usize) -> Arc<Committed> {
    let mut commits = ingest.committed();
    let enough = commits.wait_for(|newest| newest.as_ref().is_some_and(|newest| records(newest) >= count as u64));
    let found = tokio::time::timeout(PATIENCE, enough).await.expect("the records are committed in time").unwrap();
    found.clone().unwrap()
}

pub(super) fn check_counts(committed: &Committed, sent: usize) {
    let mut total = 0;
    for (partition, state) in &committed.state.feeds["meters"].partitions {
        let counts = state.counts;
        let sum = counts.accepted + counts.corrected + counts.duplicate + counts.dead + counts.pending;
        assert_eq!(counts.records, sum, "partition {partition}: {counts:?}");
        assert_eq!(counts.records, state.next_offset as u64, "partition {partition}");
        total += sum;
    }
    assert_eq!(total, sent as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intervals_equal_a_batch_recomputation_after_restarts_with_other_workers() {
    let committed = restarts_with_other_workers(World::new().await).await;
    assert_eq!(committed.state.evicted, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_later_than_the_last_commit_whatever_the_clock_says() {
    let records = &fleet()[..200];
    let sent = |days: i64| {
        let timestamp_ms = jiff::Timestamp::now().as_millisecond() + days * DAY / 1_000;
        records.iter().map(|record| Sent { timestamp_ms, ..record.clone() }).collect::<Vec<_>>()
    };
    let dead = |committed: &Committed| {
        let partitions = committed.state.feeds["meters"].partitions.values();
        partitions.map(|partition| partition.counts.dead).sum::<u64>()
    };
    let world = World::committed(&sent(0)).await;
    let go_on = |count: usize| {
        let World { config, lake, .. } = &world;
        async move {
            let ingest = start(config, lake, IngestOptions::default()).await.unwrap();
            let committed = wait_for_records(&ingest, count).await;
            ingest.stop().await.unwrap();
            committed
        }
    };
    // Our clock is three days behind that of all others: the records are refused.
    send(world.broker.brokers(), &sent(3));
    let garbage = records.iter().filter(|record| record.reading.is_none()).count() as u64;
    let refused = garbage + records.len() as u64;
    assert_eq!(dead(&*go_on(2 * records.len()).await), refused);
    // Whoever committed last knew what time it was.
    let mut committer = Committer::claim(&world.lake).await.unwrap();
    let Committed { state, census, .. } = committer.committed().clone();
    let committed_at = state.committed_at + 3 * DAY;
    let state = IngestState { committed_at, ..IngestState::clone(&state) };
    committer.commit(Batch::of_state(state, census)).await.unwrap();
    drop(committer);
    send(world.broker.brokers(), &sent(3));
    assert_eq!(dead(&*go_on(3 * records.len()).await), refused + garbage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_do_so_where_there_is_no_memory_for_all_series() {
    let mut world = World::new().await;
    world.config.ingest.memory_limit = "24KiB".parse().unwrap();
    let committed = restarts_with_other_workers(world).await;
    assert!(committed.state.evicted.iter().any(|run| run.series > 1), "{:?}", committed.state.evicted);
}

async fn restarts_with_other_workers(world: World) -> Arc<Committed> {
    let World { broker, lake, config, directory: _directory } = world;
    let all = fleet();
    let (first, second) = all.split_at(all.len() / 2);
    let (second, third) = second.split_at(second.len() / 2);

    send(broker.brokers(), first);
    let ingest = start(&config, &lake, IngestOptions::default()).await.unwrap();
    wait_for_records(&ingest, 1).await;
    ingest.stop().await.unwrap();
    let committed = load_committed(&lake, &config, Path::new("")).await.unwrap().unwrap();
    assert!(committed.state.seq > 0);

    // With one worker more, and aborted in the middle: as after a crash, nothing of the last epoch was committed.
    send(broker.brokers(), second);
    let ingest = start(&config, &lake, IngestOptions { workers: Some(3), ..IngestOptions::default() }).await.unwrap();
    wait_for_records(&ingest, first.len()).await;
    drop(ingest);

    send(broker.brokers(), third);
    let ingest = start(&config, &lake, IngestOptions { workers: Some(1), ..IngestOptions::default() }).await.unwrap();
    let committed = wait_for_records(&ingest, all.len()).await;
    ingest.stop().await.unwrap();

    check_counts(&committed, all.len());
    assert_eq!(read(&lake).await, oracle(&all));
    let letters: usize = table(&lake, tables::DEAD_LETTERS).await.iter().map(|(batch, _)| batch.num_rows()).sum();
    assert_eq!(letters, all.iter().filter(|record| record.reading.is_none()).count());

    let found = groups(&committed.state, &committed.census, &config);
    let shown: Vec<(&str, usize)> = found.iter().map(|group| (group.group_id.as_str(), group.series)).collect();
    assert_eq!(shown, [("PT15M", 18), ("PT1H", 6)]);
    assert!(found[0].origin <= BEGIN + 120 * 15 * MINUTE && found[0].origin > BEGIN + 110 * 15 * MINUTE);
    assert_eq!(found[0].lag_records, 0);
    let known: Vec<SeriesState> = load_series(&lake, &committed.state).await.unwrap();
    assert_eq!(Census::of(&config, &known), *committed.census);
    committed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_engine_fences_the_first_out() {
    let World { broker, lake, config, directory: _directory } = World::new().await;
    let all = fleet();
    let mut first = start(&config, &lake, IngestOptions::default()).await.unwrap();
    let second = start(&config, &lake, IngestOptions::default()).await.unwrap();
    send(broker.brokers(), &all);
    let error = tokio::time::timeout(PATIENCE, first.failed()).await.expect("the first engine fails in time");
    assert!(matches!(error, IngestError::Fenced(_)), "{error}");
    assert!(error.to_string().contains("stop one of them"), "{error}");
    wait_for_records(&second, all.len()).await;
    second.stop().await.unwrap();
    assert_eq!(read(&lake).await, oracle(&all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_broker_is_waited_for_and_the_engine_still_stops() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).await.unwrap();
    let config = config("127.0.0.1:1");
    let mut ingest = start(&config, &lake, IngestOptions::default()).await.unwrap();
    let early = tokio::time::timeout(Duration::from_secs(1), ingest.failed()).await;
    assert!(early.is_err(), "{early:?}");
    tokio::time::timeout(PATIENCE, ingest.stop()).await.expect("it stops in time").unwrap();
    assert!(load_committed(&lake, &config, Path::new("")).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_property_is_an_error_that_hides_its_value() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).await.unwrap();
    let mut config = config("127.0.0.1:1");
    config.kafka.properties.insert("sasl.passwort".into(), "secret".into());
    let error = start(&config, &lake, IngestOptions::default()).await.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("sasl.passwort") && !error.contains("secret"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_cannot_be_read_stops_a_feed_that_says_so() {
    let World { broker, lake, mut config, directory: _directory } = World::new().await;
    if let Some(feed) = config.feed.get_mut("meters") {
        feed.bad_records = meterline_schemas::config::BadRecords::Fail;
    }
    send(broker.brokers(), &fleet());
    let mut ingest = start(&config, &lake, IngestOptions::default()).await.unwrap();
    let error = tokio::time::timeout(PATIENCE, ingest.failed()).await.expect("it fails in time").to_string();
    assert!(error.contains("time_invalid") && error.contains("readings"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_is_idempotent_and_the_stream_wins_over_it() {
    let broker = MockBroker::start(&[(TOPIC, PARTITIONS)]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().join("lake").to_str().unwrap()).await.unwrap();
    let config = config(broker.brokers());
    let file = directory.path().join("history.csv");
    let mut text = String::from("meter_id,ts,value\n");
    let mut expected = BTreeMap::new();
    for slot in -99..=1i64 {
        let at = BEGIN + slot * 15 * MINUTE;
        text += &format!("q0,{},{}\n", format_micros(at), slot + 1000);
        expected.insert(("q0".to_owned(), at - 15 * MINUTE), (slot + 1000) as f64);
    }
    std::fs::write(&file, text).unwrap();
    let run = || {
        let (config, lake, file) = (config.clone(), lake.clone(), file.clone());
        async move {
            backfill::run(&config, &lake, "meters", &[file], &Default::default(), std::path::Path::new(""), |_| {})
                .await
        }
    };
    let report = run().await.unwrap();
    assert_eq!((report.readings, report.accepted, report.corrected, report.pending), (101, 101, 0, 0));
    assert_eq!(read(&lake).await, expected);
    run().await.unwrap();
    assert_eq!(read(&lake).await, expected);

    // What a record could not say, a file cannot either: it is counted, and told in dead_letters.
    let bad = directory.path().join("bad.csv");
    std::fs::write(&bad, "meter_id,ts,value\nq0,0001-01-01T00:15:00Z,1\nq0,2023-11-15T00:15:00Z,1001\n").unwrap();
    let report = backfill::run(&config, &lake, "meters", &[bad], &Default::default(), std::path::Path::new(""), |_| {})
        .await
        .unwrap();
    assert_eq!((report.readings, report.dead), (2, 1));
    assert_eq!(read(&lake).await, expected);

    let all = fleet();
    send(broker.brokers(), &all);
    let ingest = start(&config, &lake, IngestOptions::default()).await.unwrap();
    assert!(matches!(run().await, Err(IngestError::EngineRunning)));
    let both = 2 * 101 + 2 + all.len();
    wait_for_records(&ingest, both).await;
    ingest.stop().await.unwrap();
    run().await.unwrap();
    expected.extend(oracle(&all));
    assert_eq!(read(&lake).await, expected);
}
