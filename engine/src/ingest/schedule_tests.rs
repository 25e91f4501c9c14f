//! Housekeeping by its schedule, beside a stream that commits.

use std::sync::Arc;

use meterline_connectors::lake::snapshot;
use meterline_schemas::config::Every;
use meterline_schemas::tables;
use meterline_schemas::time::{SECOND, Span};
use tokio::sync::watch;

use super::service::{IngestOptions, start};
use super::stream_tests::{World, check_counts, fleet, oracle, read, send, wait_for_records};
use crate::environment::Environment;
use crate::maintenance::service::{Housekeeping, Summary};
use crate::metadata::MetadataStore;

/// Parts in which the readings are sent: at least as many commits.
const PARTS: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn housekeeping_by_its_schedule_merges_files_while_the_stream_goes_on() {
    let World { broker, directory, lake, mut config } = World::new().await;
    config.ingest.commit_interval = Span(100_000);
    config.maintenance.every = Every(Some(Span(SECOND)));
    let ingest = start(&config, &lake, IngestOptions::default()).await.unwrap();
    let database = format!("sqlite:{}/metadata.db", directory.path().display());
    let env = Arc::new(Environment {
        config: config.clone(),
        config_path: directory.path().join("meterline.toml"),
        lake: lake.clone(),
        metadata: MetadataStore::open(&database).await.unwrap(),
    });
    let (summary, shown) = watch::channel(Summary::default());
    let (stop, stopped) = watch::channel(false);
    let housekeeping = Housekeeping { env, requests: ingest.requests(), committed: ingest.committed(), summary };
    let housekeeping = tokio::spawn(housekeeping.run(stopped));

    let all = fleet();
    let (mut sent, mut files, mut merged, mut parts_after) = (0, 0, false, 0);
    for part in all.chunks(all.len().div_ceil(PARTS)) {
        send(broker.brokers(), part);
        sent += part.len();
        wait_for_records(&ingest, sent).await;
        // Commits only add files.
        let now = snapshot(&lake, tables::INTERVALS, None).await.unwrap().unwrap().files.len();
        parts_after += usize::from(merged);
        merged |= now < files;
        files = now;
    }
    assert!(merged && parts_after > 0, "merged: {merged}; {parts_after} parts came after that, {files} files are left");
    let Summary { last, failures, .. } = shown.borrow().clone();
    assert!(last.is_some() && failures.is_empty(), "{last:?} {failures:?}");

    let committed = wait_for_records(&ingest, all.len()).await;
    stop.send(true).unwrap();
    housekeeping.await.unwrap();
    ingest.stop().await.unwrap();
    check_counts(&committed, all.len());
    assert_eq!(read(&lake).await, oracle(&all));
}
