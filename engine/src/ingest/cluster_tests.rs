//! The whole stream in several processes, which here are parts of one: each has its own workers, links and connections.

use std::time::Duration;

use async_trait::async_trait;
use meterline_connectors::lake::Lake;
use meterline_schemas::config::Config;
use meterline_tests::faulty_store::{Fault, FaultyStore, Put, no_answer};
use object_store::path::Path;
use object_store::{PutResult, Result};

use super::cluster::{ClusterError, Member, follow, free_addresses};
use super::error::IngestError;
use super::pulse::Pulse;
use super::service::{Ingest, IngestOptions, start};
use super::stream_tests::{PATIENCE, World, check_counts, config, fleet, oracle, read, send, wait_for_records};

/// Starts so many processes with so many workers each, the later ones first.
pub(super) async fn cluster(config: &Config, lake: &Lake, processes: usize, workers: usize) -> (Ingest, Vec<Member>) {
    let mut config = config.clone();
    config.cluster.addresses = free_addresses(processes);
    let options = |process| IngestOptions { workers: Some(workers), process, ..IngestOptions::default() };
    let joining: Vec<_> = (1..processes)
        .rev()
        .map(|process| {
            let (config, lake, options) = (config.clone(), lake.clone(), options(process));
            tokio::spawn(async move { follow(&config, &lake, options, &Pulse::default()).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let ingest = start(&config, lake, options(0)).await.unwrap();
    let mut members = Vec::new();
    for joined in joining.into_iter().rev() {
        members.push(joined.await.unwrap().unwrap());
    }
    (ingest, members)
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn intervals_equal_a_batch_recomputation_with_any_number_of_processes() {
    let World { broker, lake, config, directory: _directory } = World::new().await;
    let all = fleet();
    let parts: Vec<_> = all.chunks(all.len().div_ceil(4)).collect();
    let sent = |parts: usize| parts * all.len().div_ceil(4);

    // A process other than process 0 is asked to end: all end, with everything committed.
    send(broker.brokers(), parts[0]);
    let (ingest, mut members) = cluster(&config, &lake, 2, 2).await;
    wait_for_records(&ingest, 1).await;
    members[0].stop();
    let mut asked = ingest.asked_to_stop();
    in_time(asked.wait_for(|asked| *asked)).await.unwrap();
    in_time(ingest.stop()).await.unwrap();
    in_time(members[0].ended()).await.unwrap();

    // One of three is lost in the middle of an epoch: all end, and say why.
    send(broker.brokers(), parts[1]);
    let (mut ingest, mut members) = cluster(&config, &lake, 3, 1).await;
    wait_for_records(&ingest, sent(1)).await;
    send(broker.brokers(), parts[2]);
    drop(members.remove(1));
    let error = in_time(ingest.failed()).await;
    assert!(matches!(&error, IngestError::Cluster(ClusterError::Lost { process: 2, .. })), "{error}");
    let error = in_time(members[0].ended()).await.unwrap_err().to_string();
    assert!(error.contains("process 2") || error.contains("process 0"), "{error}");

    // Process 0 is lost: the other one ends and says so.
    let (ingest, mut members) = cluster(&config, &lake, 2, 1).await;
    wait_for_records(&ingest, sent(2)).await;
    drop(ingest);
    let error = in_time(members[0].ended()).await.unwrap_err();
    assert!(matches!(&error, IngestError::Cluster(ClusterError::Lost { process: 0, .. })), "{error}");

    // And at last in one process.
    send(broker.brokers(), parts[3]);
    let ingest = start(&config, &lake, IngestOptions { workers: Some(3), ..IngestOptions::default() }).await.unwrap();
    let committed = wait_for_records(&ingest, all.len()).await;
    ingest.stop().await.unwrap();
    check_counts(&committed, all.len());
    assert_eq!(read(&lake).await, oracle(&all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_newer_cluster_fences_an_older_one_out() {
    let World { broker, lake, config, directory: _directory } = World::new().await;
    let all = fleet();
    let (mut older, mut of_older) = cluster(&config, &lake, 2, 1).await;
    let (newer, mut of_newer) = cluster(&config, &lake, 2, 1).await;
    send(broker.brokers(), &all);
    let error = in_time(older.failed()).await;
    assert!(matches!(error, IngestError::Fenced(_)), "{error}");
    let error = in_time(of_older[0].ended()).await.unwrap_err().to_string();
    assert!(error.starts_with("process 0: ") && error.contains("stop one of them"), "{error}");
    wait_for_records(&newer, all.len()).await;
    newer.stop().await.unwrap();
    in_time(of_newer[0].ended()).await.unwrap();
    assert_eq!(read(&lake).await, oracle(&all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failure_in_one_process_is_told_by_all() {
    let World { broker, lake, mut config, directory: _directory } = World::new().await;
    if let Some(feed) = config.feed.get_mut("meters") {
        feed.bad_records = meterline_schemas::config::BadRecords::Fail;
    }
    send(broker.brokers(), &fleet());
    let (mut ingest, mut members) = cluster(&config, &lake, 2, 1).await;
    let error = in_time(ingest.failed()).await.to_string();
    assert!(error.contains("time_invalid"), "{error}");
    let error = in_time(members[0].ended()).await.unwrap_err().to_string();
    assert!(error.contains("time_invalid"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_process_on_another_lake_says_so_and_process_0_hears_it() {
    let World { lake, mut config, broker: _broker, directory: _directory } = World::committed(&fleet()).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Lake::open(elsewhere.path().to_str().unwrap()).await.unwrap();
    config.cluster.addresses = free_addresses(2);
    let (following, on) = (config.clone(), other.clone());
    let member = tokio::spawn(async move {
        let options = IngestOptions { process: 1, ..IngestOptions::default() };
        follow(&following, &on, options, &Pulse::default()).await.map(|_| ())
    });
    let error = match in_time(start(&config, &lake, IngestOptions::default())).await {
        Ok(mut ingest) => in_time(ingest.failed()).await,
        Err(error) => error,
    };
    let heard = matches!(&error, IngestError::Cluster(ClusterError::Elsewhere { process: 1, usage: true, .. }));
    let shown = error.to_string();
    assert!(heard && shown.contains(lake.url()) && shown.contains(other.url()), "{error}");
    let error = in_time(member).await.unwrap().unwrap_err();
    assert!(matches!(&error, IngestError::Cluster(ClusterError::OtherLake { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_process_that_does_not_fit_is_refused_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).await.unwrap();
    let mut config = config("127.0.0.1:1");
    config.cluster.addresses = free_addresses(2);
    let mut other = config.clone();
    if let Some(feed) = other.feed.get_mut("meters") {
        feed.zone = "Europe/Lisbon".into();
    }
    let (leading, on) = (config.clone(), lake.clone());
    let leader = tokio::spawn(async move { start(&leading, &on, IngestOptions::default()).await.map(|_| ()) });
    let options = |process| IngestOptions { process, ..IngestOptions::default() };
    let error = in_time(follow(&other, &lake, options(1), &Pulse::default())).await.map(|_| ()).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("[feed.meters]"), "{error}");
    let error = follow(&config, &lake, options(2), &Pulse::default()).await.map(|_| ()).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("no process 2"), "{error}");
    leader.abort();
    config.cluster.addresses[1] = "10.255.255.1:4700".into();
    let error = start(&config, &lake, options(0)).await.map(|_| ()).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("10.255.255.1:4700"), "{error}");
}

/// Takes no puts.
#[derive(Debug)]
struct Full;

#[async_trait]
impl Fault for Full {
    async fn put(&self, _: &Path, _: Put) -> Result<PutResult> {
        Err(no_answer())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn where_process_0_cannot_begin_the_others_hear_why() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).await.unwrap();
    let mut config = config("127.0.0.1:1");
    config.cluster.addresses = free_addresses(2);
    let (following, on) = (config.clone(), lake.clone());
    let member = tokio::spawn(async move {
        let options = IngestOptions { process: 1, ..IngestOptions::default() };
        follow(&following, &on, options, &Pulse::default()).await.map(|_| ())
    });
    // Both are there by the time that it claims the stream.
    let full = lake.with_root_store(|inner| FaultyStore::around(inner, Full));
    let error = in_time(start(&config, &full, IngestOptions::default())).await.map(|_| ()).unwrap_err().to_string();
    let heard = in_time(member).await.unwrap().unwrap_err();
    assert!(
        matches!(&heard, IngestError::Cluster(ClusterError::Elsewhere { process: 0, reason, .. }) if *reason == error),
        "{heard}; process 0: {error}"
    );
}
