//! A stream whose store neither answers nor fails: it waits, and if it is to end it does so in time; nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use meterline_connectors::lake::Lake;
use meterline_tests::faulty_store::{Fault, FaultyStore, Put};
use object_store::path::Path;
use object_store::{PutResult, Result};

use super::IngestError;
use super::service::{Ingest, IngestOptions, start};
use super::stream_tests::{
    PARTITIONS, PATIENCE, Sent, World, check_counts, fleet, oracle, read, send, wait_for_records,
};

/// Puts hang while it is told so.
#[derive(Debug)]
struct Hanging(Arc<AtomicBool>);

#[async_trait]
impl Fault for Hanging {
    async fn put(&self, _: &Path, put: Put<'_>) -> Result<PutResult> {
        while self.0.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        put.await
    }
}

/// The same lake through a store that hangs while it is told so.
fn hanging(lake: &Lake) -> (Lake, Arc<AtomicBool>) {
    let hangs = Arc::new(AtomicBool::new(false));
    (lake.with_root_store(|inner| FaultyStore::around(inner, Hanging(Arc::clone(&hangs)))), hangs)
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
    let World { broker, lake: plain, config, directory: _directory } = World::new().await;
    let (lake, hangs) = hanging(&plain);
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
    let World { broker, lake: plain, mut config, directory: _directory } = World::new().await;
    let (lake, hangs) = hanging(&plain);
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
