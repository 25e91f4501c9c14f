//! What `/metrics` says of a feed that is known: what the tables `feeds` and `partitions` say, figure by figure.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use meterline_connectors::kafka::mock::MockBroker;
use meterline_connectors::kafka::sink::Sink;
use meterline_connectors::lake::Lake;
use meterline_schemas::config::{FeedConfig, HttpConfig};
use meterline_schemas::time::{HOUR, MINUTE, Span, format_micros};
use meterline_schemas::{Frequency, Micros};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::service::{IngestOptions, Shown, start_shown};
use super::stream_tests::{PARTITIONS, PATIENCE, TOPIC, config, fleet, send, wait_for_records};
use crate::environment::Environment;
use crate::maintenance::service::Summary;
use crate::metadata::MetadataStore;
use crate::server::{self, Subject};
use crate::sql::{TableVersions, query_batches};

const OTHERS: &str = "others";
const BEGIN: Micros = 1_700_006_400_000_000; // 2023-11-15T00:00:00Z

/// What becomes of records, as SQL names it.
const COUNTS: [&str; 8] = ["accepted", "corrected", "duplicate", "dead", "late", "gaps", "expired", "pending"];

/// How `/metrics` names one of [`COUNTS`], up to what is told of the feed and partition, and after it.
fn metric(count: &str) -> (String, String) {
    match count {
        "late" => ("late_records_total".into(), String::new()),
        "gaps" => ("gaps_total".into(), String::new()),
        "expired" => ("expired_records_total".into(), String::new()),
        "pending" => ("pending_records".into(), String::new()),
        outcome => ("records_total".into(), format!(",outcome=\"{outcome}\"")),
    }
}

/// A reading of the hour that ends `n` hours after the beginning, sent right then: time stamp (ms) and payload.
fn hour(meter: &str, n: i64, value: i64) -> (i64, String) {
    let at = BEGIN + n * HOUR;
    let payload = format!(r#"{{"meter_id":"{meter}","ts":"{}","value":{value}}}"#, format_micros(at));
    ((at + MINUTE) / 1_000, payload)
}

/// Each figure with its labels.
async fn figures(address: SocketAddr) -> BTreeMap<String, f64> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let figure = |line: &str| {
        let (name, value) = line.strip_prefix("meterline_")?.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    answer.lines().filter_map(figure).collect()
}

/// The rows of a query, each with the batch that it is in.
async fn rows(env: &Environment, sql: &str) -> Vec<(RecordBatch, usize)> {
    let batches = query_batches(env, sql, TableVersions::default()).await.unwrap();
    batches.into_iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| (batch.clone(), row))).collect()
}

fn number((batch, row): &(RecordBatch, usize), column: &str) -> i64 {
    batch.column_by_name(column).unwrap().as_primitive::<Int64Type>().value(*row)
}

fn feed((batch, row): &(RecordBatch, usize)) -> String {
    batch.column_by_name("name").unwrap().as_string::<i32>().value(*row).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_the_figures_of_the_tables() {
    let broker = MockBroker::start(&[(TOPIC, PARTITIONS), (OTHERS, 2)]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).await.unwrap();
    let mut config = config(broker.brokers());
    let mut others = FeedConfig::new(OTHERS, "meter_id", "ts", "value");
    (others.frequency, others.lateness) = (Some(Frequency::Seconds(3600)), Span(0));
    config.feed.insert(OTHERS.into(), others);
    let shown = Shown::default();
    let subject = Subject::of(&shown, watch::channel(Summary::default()).1);
    let ingest = start_shown(&config, &lake, IngestOptions::default(), shown).await.unwrap();

    let all = fleet();
    send(broker.brokers(), &all);
    let sink = Sink::connect(broker.brokers(), &BTreeMap::new()).unwrap();
    let say = |records: &[(i64, String)]| {
        for (timestamp_ms, payload) in records {
            sink.send(OTHERS, Some(0), b"", payload.as_bytes(), Some(*timestamp_ms)).unwrap();
        }
        sink.flush(PATIENCE, |_| {}).unwrap();
    };
    say(&(1..=10).flat_map(|n| ["o1", "o2"].map(|meter| hour(meter, n, n))).collect::<Vec<_>>());
    let mut commits = ingest.committed();
    let closed = commits.wait_for(|newest| {
        let of = |feed: &str| newest.as_ref()?.state.feeds.get(feed)?.watermark;
        of(OTHERS) >= Some(BEGIN + 5 * HOUR)
    });
    drop(tokio::time::timeout(PATIENCE, closed).await.expect("hours are closed in time").unwrap());
    // Late: a correction, and an hour that was not there. Then the same again, and what nobody can read.
    let newest = hour("o1", 11, 0).0;
    let late = [hour("o1", 2, 99), hour("o1", -3, 7), hour("o1", 3, 3), (0, "{".to_owned())];
    say(&late.map(|(_, payload)| (newest, payload)));
    wait_for_records(&ingest, all.len() + 24).await;
    ingest.stop().await.unwrap();

    let http = HttpConfig { listen: Some("127.0.0.1:0".into()), password_file: None };
    let server = server::start(&http, subject).await.unwrap().unwrap();
    let figures = figures(server.address).await;
    let database = format!("sqlite:{}/metadata.db", directory.path().display());
    let metadata = MetadataStore::open(&database).await.unwrap();
    let env = Environment { config, config_path: directory.path().join("meterline.toml"), lake, metadata };

    let partitions = rows(&env, "SELECT *, arrow_cast(feed, 'Utf8') AS name FROM partitions").await;
    assert_eq!(partitions.len(), PARTITIONS as usize + 2);
    let mut sums: BTreeMap<(String, &'static str), i64> = BTreeMap::new();
    for row in &partitions {
        let (feed, partition) = (feed(row), number(row, "partition"));
        let labels = format!("feed=\"{feed}\",partition=\"{partition}\"");
        for count in COUNTS {
            let ((name, more), value) = (metric(count), number(row, count));
            let name = format!("{name}{{{labels}{more}}}");
            assert_eq!(figures.get(&name), Some(&(value as f64)), "{name}");
            *sums.entry((feed.clone(), count)).or_default() += value;
        }
        assert_eq!(figures.get(&format!("lag_records{{{labels}}}")), Some(&0.0), "{labels}");
        assert_eq!(number(row, "lag_records"), 0, "{labels}");
    }
    let outcomes = figures.keys().filter(|name| name.starts_with("records_total{")).count();
    assert_eq!(outcomes, 4 * partitions.len(), "of no other partition anything is told");
    for row in rows(&env, "SELECT *, arrow_cast(feed, 'Utf8') AS name FROM feeds").await {
        let feed = feed(&row);
        for count in COUNTS {
            assert_eq!(number(&row, count), sums[&(feed.clone(), count)], "{count} of {feed}");
        }
    }
    // What was sent is known, and so is what becomes of it.
    let known = |count: &'static str| sums[&(OTHERS.to_owned(), count)];
    assert_eq!(COUNTS.map(known), [21, 1, 1, 1, 2, 0, 0, 0]);
    let bad = all.iter().filter(|record| record.reading.is_none()).count() as i64;
    let of_fleet = |count: &'static str| sums[&("meters".to_owned(), count)];
    assert_eq!(of_fleet("dead"), bad);
    let letters = |feed: &str| {
        let begins = format!("dead_letters_total{{feed=\"{feed}\",reason=");
        figures.iter().filter(|(name, _)| name.starts_with(&begins)).map(|(_, count)| *count as i64).sum::<i64>()
    };
    assert_eq!((letters(OTHERS), letters("meters")), (1, bad));
    assert!(of_fleet("corrected") > 0 && of_fleet("duplicate") > 0, "{sums:?}");
}
