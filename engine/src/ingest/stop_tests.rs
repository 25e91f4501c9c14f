//! A stream whose store neither answers nor fails: it waits, and if it is to end it does so in time; nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use meterline_connectors::lake::Lake;
use meterline_tests::faulty_store::{Fault, FaultyStore, Put};
use object_store::path::Path;
use object_store::{GetOptions, PutResult, Result};
use tokio::sync::{mpsc, watch};

use super::IngestError;
use super::cluster::{follow, free_addresses};
use super::pulse::Pulse;
use super::service::{Ingest, IngestOptions, Shown, start, start_shown};
use super::stream_tests::{
    PARTITIONS, PATIENCE, Sent, World, check_counts, fleet, oracle, read, send, wait_for_records,
};

/// Puts hang while it is told so.
#[derive(Debug)]
struct Hanging(Arc<AtomicBool>);

#[async_trait]
impl Fault for Hanging {
    async fn put(&self, _: &Path, put: Put) -> Result<PutResult> {
        while self.0.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        put.await
    }
}

/// Gets of what has this in its name hang while it is told so.
#[derive(Debug)]
struct HangingGets(&'static str, Arc<AtomicBool>);

#[async_trait]
impl Fault for HangingGets {
    async fn before_get(&self, location: &Path, _: &GetOptions) -> Result<()> {
        while location.as_ref().contains(self.0) && self.1.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

/// A put into the log of `intervals` is never answered, once it is told so, and lands when it is told to.
#[derive(Debug)]
struct Unanswered {
    armed: Arc<AtomicBool>,
    lands: watch::Receiver<bool>,
    landed: mpsc::UnboundedSender<bool>,
}

#[async_trait]
impl Fault for Unanswered {
    async fn put(&self, location: &Path, put: Put) -> Result<PutResult> {
        let log = location.as_ref().contains("intervals/_delta_log/");
        if !log || !self.armed.swap(false, Ordering::SeqCst) {
            return put.await;
        }
        let (mut lands, landed) = (self.lands.clone(), self.landed.clone());
        tokio::spawn(async move {
            let _ = lands.wait_for(|lands| *lands).await;
            let _ = landed.send(put.await.is_ok());
        });
        std::future::pending().await
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
async fn a_commit_that_lands_after_the_end_counts_once_or_never() {
    for before_the_next_start in [true, false] {
        let World { broker, lake: plain, config, directory: _directory } = World::new().await;
        let armed = Arc::new(AtomicBool::new(false));
        let ((land, lands), (landed, mut landings)) = (watch::channel(false), mpsc::unbounded_channel());
        let fault = Unanswered { armed: Arc::clone(&armed), lands, landed };
        let lake = plain.with_root_store(|inner| FaultyStore::around(inner, fault));
        let all = fleet();
        let (first, second) = all.split_at(all.len() / 2);
        send(broker.brokers(), first);
        let ingest = start(&config, &lake, IngestOptions::default()).await.unwrap();
        wait_for_records(&ingest, first.len()).await;
        armed.store(true, Ordering::SeqCst);
        send(broker.brokers(), second);
        let until = Instant::now() + PATIENCE;
        while armed.load(Ordering::SeqCst) {
            assert!(Instant::now() < until, "no commit comes to its last step");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let stopped =
            tokio::time::timeout(PATIENCE, ingest.stop_within(Duration::from_secs(1))).await.expect("it ends");
        let Err(error @ IngestError::StopTimedOut { .. }) = stopped else { panic!("{stopped:?}") };
        for words in ["committing intervals", "may not be in the lake"] {
            assert!(error.to_string().contains(words), "{error}");
        }

        if before_the_next_start {
            land.send_replace(true);
            assert_eq!(landings.recv().await, Some(true));
        }
        let ingest = start(&config, &plain, IngestOptions::default()).await.unwrap();
        if !before_the_next_start {
            land.send_replace(true);
            assert_eq!(landings.recv().await, Some(false), "the claim has its place");
        }
        let committed = wait_for_records(&ingest, all.len()).await;
        ingest.stop().await.unwrap();
        check_counts(&committed, all.len());
        assert_eq!(read(&plain).await, oracle(&all));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_hangs_for_housekeeping_does_not_keep_the_end_from_coming() {
    let World { broker, lake: plain, config, directory: _directory } = World::new().await;
    let hangs = Arc::new(AtomicBool::new(false));
    let fault = HangingGets("intervals/_delta_log/", Arc::clone(&hangs));
    let lake = plain.with_root_store(|inner| FaultyStore::around(inner, fault));
    let all = fleet();
    send(broker.brokers(), &all);
    let ingest = start(&config, &lake, IngestOptions::default()).await.unwrap();
    wait_for_records(&ingest, all.len()).await;
    // Until nothing is left to be committed.
    tokio::time::sleep(Duration::from_secs(2)).await;
    hangs.store(true, Ordering::Relaxed);
    let requests = ingest.requests();
    let settling = tokio::spawn(async move { requests.settle().await });
    await_hanging_commit(&ingest).await;
    let stopped = tokio::time::timeout(PATIENCE, ingest.stop_within(Duration::from_secs(1))).await.expect("it ends");
    let Err(error @ IngestError::StopTimedOut { .. }) = stopped else { panic!("{stopped:?}") };
    assert!(error.to_string().contains("confirming that this is the one writer"), "{error}");
    // What still hangs would keep the test from ending; housekeeping hears an answer, or that the stream has ended.
    hangs.store(false, Ordering::Relaxed);
    let _ = tokio::time::timeout(PATIENCE, settling).await.expect("it is answered").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_waits_for_its_store_is_seen_and_can_be_given_up() {
    let World { broker, lake, config, directory: _directory } = World::new().await;
    let all = fleet();
    send(broker.brokers(), &all);
    let ingest = start(&config, &lake, IngestOptions::default()).await.unwrap();
    wait_for_records(&ingest, all.len()).await;
    ingest.stop().await.unwrap();

    let fault = HangingGets("state/series-", Arc::new(AtomicBool::new(true)));
    let hung = lake.with_root_store(|inner| FaultyStore::around(inner, fault));
    let shown = Shown::default();
    let (committed, pulse) = (shown.committed(), shown.pulse());
    let seen = async {
        loop {
            let said = pulse.starting(Instant::now()).expect("it has not begun");
            if said.contains("loading the states of series") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(committed.has_changed().is_ok(), "it is alive");
    };
    tokio::select! {
        started = start_shown(&config, &hung, IngestOptions::default(), shown) => {
            panic!("it begins with what it has not read: {:?}", started.err());
        }
        seen = tokio::time::timeout(PATIENCE, seen) => seen.expect("it says what it waits for"),
    }
    assert!(committed.has_changed().is_err() && pulse.starting(Instant::now()).is_none(), "it was given up");
    // Which harms nobody.
    let ingest = start(&config, &lake, IngestOptions::default()).await.unwrap();
    wait_for_records(&ingest, all.len()).await;
    ingest.stop().await.unwrap();
    assert_eq!(read(&lake).await, oracle(&all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stop_while_a_process_still_waits_for_its_store_at_the_beginning_ends_all() {
    let World { lake, mut config, broker: _broker, directory: _directory } = World::committed(&fleet()).await;

    config.cluster.addresses = free_addresses(2);
    let fault = HangingGets("state/series-", Arc::new(AtomicBool::new(true)));
    let hung = lake.with_root_store(|inner| FaultyStore::around(inner, fault));
    let following = config.clone();
    let member = tokio::spawn(async move {
        let options = IngestOptions { process: 1, ..IngestOptions::default() };
        follow(&following, &hung, options, &Pulse::default()).await
    });
    let ingest = start(&config, &lake, IngestOptions::default()).await.unwrap();
    // The stream begins, which takes until all workers are there.
    await_hanging_commit(&ingest).await;
    assert!(ingest.committed().borrow().is_none());
    tokio::time::timeout(PATIENCE, ingest.stop()).await.expect("it ends").unwrap();
    let mut member = tokio::time::timeout(PATIENCE, member).await.expect("it ends").unwrap().unwrap();
    tokio::time::timeout(PATIENCE, member.ended()).await.expect("it has ended").unwrap();
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
