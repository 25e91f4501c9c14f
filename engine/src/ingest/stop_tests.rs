//! A stream whose store neither answers nor fails: it waits, and if it is to end it does so in time; nothing is lost.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::stream::BoxStream;
use meterline_connectors::kafka::mock::MockBroker;
use meterline_connectors::lake::Lake;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

use super::IngestError;
use super::service::{Ingest, IngestOptions, start};
use super::stream_tests::{
    PARTITIONS, PATIENCE, Sent, TOPIC, check_counts, config, fleet, oracle, read, send, wait_for_records,
};

/// A store whose puts hang while it is told so.
#[derive(Debug)]
struct Hanging {
    inner: Arc<dyn ObjectStore>,
    hangs: Arc<AtomicBool>,
}

impl fmt::Display for Hanging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a store that hangs")
    }
}

#[async_trait]
impl ObjectStore for Hanging {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        while self.hangs.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.inner.put_opts(location, payload, opts).await
    }
    async fn put_multipart_opts(&self, at: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, opts).await
    }
    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(at, options).await
    }
    fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(at)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A lake, and the same one through a store that hangs while it is told so.
async fn lakes(directory: &std::path::Path) -> (Lake, Lake, Arc<AtomicBool>) {
    let hangs = Arc::new(AtomicBool::new(false));
    let plain = Lake::open(directory.to_str().unwrap()).await.unwrap();
    let hanging = plain.with_root_store(|inner| Arc::new(Hanging { inner, hangs: Arc::clone(&hangs) }));
    (plain, hanging, hangs)
}

async fn await_hanging_commit(ingest: &Ingest) {
    let until = Instant::now() + PATIENCE;
    while ingest.pulse().committing(Instant::now()).is_none_or(|(taken, _)| taken < Duration::from_millis(500)) {
        assert!(Instant::now() < until, "no commit begins");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_hangs_does_not_keep_the_end_from_coming() {
    let broker = MockBroker::start(&[(TOPIC, PARTITIONS)]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (plain, lake, hangs) = lakes(directory.path()).await;
    let config = config(broker.brokers());
    let all = fleet();
    let (first, second) = all.split_at(all.len() / 2);
    send(broker.brokers(), first);
    let ingest = start(&config, &lake, IngestOptions::default()).await.unwrap();
    wait_for_records(&ingest, first.len()).await;

    hangs.store(true, Ordering::Relaxed);
    send(broker.brokers(), second);
    await_hanging_commit(&ingest).await;
    let stopped = tokio::time::timeout(PATIENCE, ingest.stop_within(Duration::from_secs(1))).await.expect("it ends");
    let Err(error @ IngestError::StopTimedOut { .. }) = stopped else { panic!("{stopped:?}") };
    for words in ["writing", "next start", "the store"] {
        assert!(error.to_string().contains(words), "{error}");
    }

    let ingest = start(&config, &plain, IngestOptions::default()).await.unwrap();
    wait_for_records(&ingest, all.len()).await;
    ingest.stop().await.unwrap();
    assert_eq!(read(&plain).await, oracle(&all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_that_stays_full_for_long_loses_nothing() {
    let broker = MockBroker::start(&[(TOPIC, PARTITIONS)]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (_, lake, hangs) = lakes(directory.path()).await;
    let mut config = config(broker.brokers());
    // So that an epoch is full with 256 KiB that cannot be read.
    config.ingest.memory_limit = "16 MiB".parse().unwrap();
    let mut all = fleet();
    let newest = all.last().unwrap().timestamp_ms;
    let payload = "x".repeat(20_000);
    let garbage = (0..PARTITIONS).cycle().take(90).map(|partition| {
        let (timestamp_ms, payload) = (newest, payload.clone());
        Sent { partition, timestamp_ms, payload, reading: None }
    });
    let third = all.len() / 3;
    all.splice(2 * third..2 * third, garbage);
    let ingest = start(&config, &lake, IngestOptions::default()).await.unwrap();
    send(broker.brokers(), &all[..third]);
    wait_for_records(&ingest, third).await;
    hangs.store(true, Ordering::Relaxed);
    send(broker.brokers(), &all[third..2 * third]);
    await_hanging_commit(&ingest).await;
    send(broker.brokers(), &all[2 * third..]);
    // Longer than it takes until fetching is paused.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(ingest.pulse().committing(Instant::now()).is_some_and(|(taken, _)| taken > Duration::from_secs(7)));
    hangs.store(false, Ordering::Relaxed);
    let committed = wait_for_records(&ingest, all.len()).await;
    check_counts(&committed, all.len());
    ingest.stop().await.unwrap();
    assert_eq!(read(&lake).await, oracle(&all));
}
