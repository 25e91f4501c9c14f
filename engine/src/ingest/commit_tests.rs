//! The commit protocol under everything that a store and a process can do to it: writers that start, crash and pause at
//! any step, puts that fail, that land behind an error, and that take long. What is read afterwards must be a prefix of
//! the log, each record once.
//!
//! `METERLINE_SEED` repeats one case.

use std::path::Path as Directory;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type};
use async_trait::async_trait;
use meterline_connectors::lake::{Lake, snapshot};
use meterline_schemas::config::Config;
use meterline_schemas::reading::{Position, Quality};
use meterline_schemas::tables::INTERVALS;
use meterline_schemas::time::HOUR;
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};
use meterline_tests::dice::{Dice, seeds};
use meterline_tests::faulty_store::{Fault, FaultyStore, Put, no_answer};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, PutResult, Result};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::commit::{Batch, Committer};
use super::dead_letters::{self, DeadLetter};
use super::layout::{EpochRows, ShardRows, TextMaker};
use super::lock::EngineLock;
use super::rows::{Content, Layer, Row, Rows};
use super::segments::{Frames, rewrite_from};
use super::series::{PendingReading, SeriesState};
use super::state::IngestState;
use super::{IngestError, load_committed};
use crate::environment::Environment;
use crate::metadata::MetadataStore;
use crate::sql::{TableVersions, query_batches};

/// Cases in one run of the test; they run side by side, because most of their time is waiting.
const CASES: u64 = 150;
const FEED: &str = "meters";

/// A store that fails, lies and delays.
#[derive(Debug)]
pub(crate) struct Unreliable {
    pub(crate) dice: Arc<Dice>,
    // One request in so many goes wrong; 0: none does.
    pub(crate) odds: Arc<AtomicU64>,
    // Gets do too.
    pub(crate) gets: bool,
}

impl Unreliable {
    async fn pause(&self) {
        for _ in 0..self.dice.roll(4) {
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl Fault for Unreliable {
    async fn put(&self, _: &Path, put: Put) -> Result<PutResult> {
        self.pause().await;
        let odds = self.odds.load(Ordering::Relaxed);
        let wrong = odds > 0 && self.dice.roll(odds) == 0;
        if wrong && self.dice.roll(2) == 0 {
            return Err(no_answer());
        }
        let done = put.await;
        self.pause().await;
        if wrong { done.and(Err(no_answer())) } else { done }
    }

    async fn before_get(&self, _: &Path, _: &GetOptions) -> Result<()> {
        self.pause().await;
        let odds = self.odds.load(Ordering::Relaxed);
        // A lookup has many, and waits longer each time it fails.
        if self.gets && odds > 0 && self.dice.one_in(20 * odds) { Err(no_answer()) } else { Ok(()) }
    }
}

/// The records `from..to` of the log, as one commit of a writer: record n is hour n with the value n, a sample, and a
/// dead letter, so that each table has it.
fn batch(state: &IngestState, from: i64, to: i64) -> Batch {
    let mut series = SeriesState::new(FEED, "m", Unit::KWH);
    series.frequency = Some(Frequency::HOUR);
    let (mut rows, mut samples) = (Rows::default(), Vec::new());
    for offset in from..to {
        let position = Position { timestamp_ms: offset, partition: 0, offset };
        let content = Content { value: offset as f64, count: 1, quality: Quality::Measured, position };
        let start: Micros = offset * HOUR;
        rows.push(Row { series: 0, start, end: start + HOUR, layer: Layer::Base, content });
        let (value, scale, quality) = (content.value, Unit::KWH.scale(), content.quality);
        samples.push((0, PendingReading { at: start, value, scale, quality, position }));
    }
    let letters: Vec<DeadLetter> = (from..to).map(letter).collect();
    let intervals = EpochRows::new(vec![ShardRows {
        rows,
        samples,
        series: vec![(0, TextMaker::default().texts(&series))],
        made_of: None,
    }]);
    let mut state = state.clone();
    let partition = state.feeds.entry(FEED.into()).or_default().partitions.entry(0).or_default();
    (partition.next_offset, partition.end_offset) = (to, to);
    partition.counts.records += (to - from) as u64;
    // A series of its own in each commit, so that all of them must be found again.
    let rewrite_from = rewrite_from(&state.segments, 1);
    let gone = state.segments.iter().filter(|segment| segment.seq >= rewrite_from).map(|segment| segment.seq);
    let series = gone.chain([state.seq + 1]).map(|seq| SeriesState::new(FEED, &format!("m{seq}"), Unit::KWH));
    let states = Frames::of(series.collect::<Vec<_>>().iter()).unwrap();
    let (rollups, census) = Default::default();
    let dead_letters = Some(dead_letters::batch(&letters, 1).unwrap());
    let evicted = Vec::new();
    Batch { intervals, dead_letters, state, states, evicted, rewrite_from, rollups, census }
}

fn letter(offset: i64) -> DeadLetter {
    DeadLetter {
        feed: FEED.into(),
        topic: FEED.into(),
        position: Position { timestamp_ms: 1, partition: 0, offset },
        key: None,
        payload: None,
        reason: "malformed".into(),
        detail: "for the test".into(),
    }
}

fn next_offset(state: &IngestState) -> i64 {
    state.feeds.get(FEED).and_then(|feed| feed.partitions.get(&0)).map_or(0, |partition| partition.next_offset)
}

/// One writer from its start to its crash, its end, or the moment when it learns that it was fenced out.
async fn write(lake: Lake, dice: Arc<Dice>, fenced: Arc<AtomicU64>) {
    // A store that is away when it starts ends it, as it ends `meterline run`.
    let Ok(mut committer) = Committer::claim(&lake).await else { return };
    for _ in 0..=dice.roll(4) {
        let from = next_offset(&committer.committed().state);
        let batch = batch(&committer.committed().state, from, from + 1 + dice.roll(3) as i64);
        // A pause in which others may take over.
        for _ in 0..dice.roll(20) {
            tokio::task::yield_now().await;
        }
        match committer.commit(batch).await {
            Ok(committed) => assert!(next_offset(&committed.state) > from),
            Err(IngestError::Fenced(_)) => {
                fenced.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Err(error) => panic!("neither done nor fenced: {error}"),
        }
    }
}

async fn case(seed: u64) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let dice = Arc::new(Dice::new(seed));
    let odds = Arc::new(AtomicU64::new(0));
    let lake = Lake::open(dir.path().to_str().unwrap()).await.unwrap();
    // The objects are in memory, but the Delta library looks for a local table's directory.
    for table in ["intervals", "samples", "dead_letters"] {
        std::fs::create_dir(dir.path().join(table)).unwrap();
    }
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let lake = lake.with_root_store(|_| {
        FaultyStore::around(memory, Unreliable { dice: Arc::clone(&dice), odds: Arc::clone(&odds), gets: true })
    });
    // The first one creates the tables; from then on anything may happen.
    drop(Committer::claim(&lake).await.unwrap());
    odds.store(12, Ordering::Relaxed);
    let fenced = Arc::new(AtomicU64::new(0));
    let mut writers = Vec::new();
    for _ in 0..2 + dice.roll(3) {
        let writer = tokio::spawn(write(lake.clone(), Arc::clone(&dice), Arc::clone(&fenced)));
        for _ in 0..dice.roll(400) {
            tokio::task::yield_now().await;
        }
        // SIGKILL, at whatever it was doing.
        if dice.roll(3) == 0 {
            writer.abort();
        }
        writers.push(writer);
    }
    for writer in writers {
        let ended = writer.await;
        assert!(
            ended.is_ok() || ended.is_err_and(|e| e.is_cancelled()),
            "seed {seed}: a writer saw something impossible"
        );
    }
    odds.store(0, Ordering::Relaxed);
    // Whatever the last writer left undone, the next one makes good.
    drop(Committer::claim(&lake).await.unwrap());

    let records = load_committed(&lake, &Config::default(), Directory::new(""))
        .await
        .unwrap()
        .map_or(0, |committed| next_offset(&committed.state));
    let metadata = MetadataStore::open(&format!("sqlite:{}/metadata.db", dir.path().display())).await.unwrap();
    let env =
        Environment { config: Default::default(), config_path: dir.path().join("meterline.toml"), lake, metadata };
    for (table, value) in [("interval_revisions", "value"), ("samples", "value"), ("dead_letters", "\"offset\"")] {
        let sql = format!("SELECT \"offset\", CAST({value} AS DOUBLE) AS number FROM {table} ORDER BY \"offset\"");
        let mut found = Vec::new();
        for rows in query_batches(&env, &sql, TableVersions::default()).await.unwrap() {
            let (offsets, values) =
                (rows.column(0).as_primitive::<Int64Type>(), rows.column(1).as_primitive::<Float64Type>());
            found.extend(offsets.values().iter().copied().zip(values.values().iter().copied()));
        }
        let expected: Vec<(i64, f64)> = (0..records).map(|offset| (offset, offset as f64)).collect();
        assert_eq!(found, expected, "METERLINE_SEED={seed}: rows of {table} and position do not agree");
    }
    fenced.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_writers_and_stores_do_every_record_is_committed_once() {
    let cases: Vec<_> = seeds(CASES).map(|seed| tokio::spawn(case(seed))).collect();
    let (all, mut fenced) = (cases.len() as u64, 0);
    for case in cases {
        fenced += case.await.unwrap();
    }
    assert!(all < CASES || fenced > 0, "no writer was ever fenced out: the cases are too tame");
}

/// Lets a put land, and learns of it.
type Landing = (oneshot::Sender<()>, JoinHandle<Result<PutResult>>);

/// A put into the log of `intervals` that is answered with an error, and lands right before the next one, when it was
/// looked for already.
#[derive(Debug)]
struct Late {
    armed: Arc<AtomicBool>,
    landed: Arc<AtomicBool>,
    put: Mutex<Option<Landing>>,
}

#[async_trait]
impl Fault for Late {
    async fn put(&self, location: &Path, put: Put) -> Result<PutResult> {
        if !location.as_ref().contains("intervals/_delta_log/") {
            return put.await;
        }
        if self.armed.swap(false, Ordering::SeqCst) {
            let (land, lands) = oneshot::channel();
            let landing = tokio::spawn(async move {
                lands.await.unwrap();
                put.await
            });
            *self.put.lock().unwrap() = Some((land, landing));
            return Err(no_answer());
        }
        let late = self.put.lock().unwrap().take();
        if let Some((land, landing)) = late {
            land.send(()).unwrap();
            landing.await.unwrap()?;
            self.landed.store(true, Ordering::SeqCst);
        }
        put.await
    }
}

#[tokio::test]
async fn a_put_that_lands_after_it_was_looked_for_is_found_by_the_next_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let plain = Lake::open(dir.path().to_str().unwrap()).await.unwrap();
    let (armed, landed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let late = Late { armed: Arc::clone(&armed), landed: Arc::clone(&landed), put: Mutex::default() };
    let lake = plain.with_root_store(|inner| FaultyStore::around(inner, late));
    let mut committer = Committer::claim(&lake).await.unwrap();
    armed.store(true, Ordering::SeqCst);
    commit_one(&mut committer).await;
    assert!(landed.load(Ordering::SeqCst));
    commit_one(&mut committer).await;
    let table = snapshot(&plain, INTERVALS, None).await.unwrap().unwrap();
    assert_eq!(table.files.iter().map(|file| file.rows).sum::<u64>(), 2);
    let newest = load_committed(&plain, &Config::default(), Directory::new("")).await.unwrap().unwrap();
    assert_eq!((newest.state.seq, next_offset(&newest.state)), (2, 2));
}

/// Deletes wait while it is told so.
#[derive(Debug)]
struct Lingering(Arc<AtomicBool>);

#[async_trait]
impl Fault for Lingering {
    async fn before_delete(&self, _: &Path) -> Result<()> {
        while self.0.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

async fn commit_one(committer: &mut Committer) {
    let from = next_offset(&committer.committed().state);
    let batch = batch(&committer.committed().state, from, from + 1);
    committer.commit(batch).await.unwrap();
}

async fn left_over(lake: &Lake) -> usize {
    lake.list_objects("state").await.unwrap().iter().filter(|path| path.starts_with("state/series-9-")).count()
}

#[tokio::test]
async fn commits_do_not_wait_for_old_states_to_be_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let plain = Lake::open(dir.path().to_str().unwrap()).await.unwrap();
    // Two that nobody names: the second is deleted once nothing else is being deleted.
    for path in ["state/series-9-9.zst", "state/series-9-8.zst"] {
        plain.put_object(path, "nobody's").await.unwrap();
    }
    let lingers = Arc::new(AtomicBool::new(true));
    let lake = plain.with_root_store(|inner| FaultyStore::around(inner, Lingering(Arc::clone(&lingers))));
    let mut committer = Committer::claim(&lake).await.unwrap();
    for _ in 0..23 {
        commit_one(&mut committer).await;
    }
    assert_eq!(left_over(&plain).await, 2);
    lingers.store(false, Ordering::Relaxed);
    for _ in 0..100 {
        if left_over(&plain).await == 0 {
            return;
        }
        commit_one(&mut committer).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the files that nobody names are still there");
}

#[tokio::test]
async fn only_what_commits_wrote_is_deleted_and_never_the_lock_of_the_engine() {
    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::open(dir.path().to_str().unwrap()).await.unwrap();
    let _lock = EngineLock::engine(&lake).unwrap();
    // The last one that is deleted: a state that cannot be read, after all that no state names.
    let last = "state/ingest-000000000000-9.zst";
    let others = ["state/README.txt", "state/ingest-notes.zst", "state/old/series-9-9.zst", "state/series-9-9.zst.bak"];
    for path in others.into_iter().chain([last, "state/series-9-9.zst"]) {
        lake.put_object(path, "somebody's").await.unwrap();
    }
    let mut committer = Committer::claim(&lake).await.unwrap();
    for _ in 0..25 {
        commit_one(&mut committer).await;
    }
    let there = || async { lake.list_objects("state").await.unwrap() };
    for _ in 0..100 {
        if !there().await.iter().any(|path| path == last) {
            break;
        }
        commit_one(&mut committer).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let there = there().await;
    let has = |path: &str| there.iter().any(|known| known == path);
    assert!(!has(last) && !has("state/series-9-9.zst"), "{there:?}");
    assert!(others.into_iter().all(has) && has("state/engine.lock"), "{there:?}");
    assert!(matches!(EngineLock::exclusive(&lake), Err(IngestError::EngineRunning)));
}

/// Notes when the puts of a store begin and end.
#[derive(Debug)]
struct Noted(Arc<Mutex<Vec<(bool, String)>>>);

#[async_trait]
impl Fault for Noted {
    async fn put(&self, location: &Path, put: Put) -> Result<PutResult> {
        let note = |ended| self.0.lock().unwrap().push((ended, location.to_string()));
        note(false);
        // Whoever does not wait for it is ahead then.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let done = put.await;
        note(true);
        done
    }
}

#[tokio::test]
async fn each_step_of_a_commit_is_durable_before_the_next_begins() {
    let dir = tempfile::tempdir().unwrap();
    let puts: Arc<Mutex<Vec<(bool, String)>>> = Arc::default();
    let lake = Lake::open(dir.path().to_str().unwrap()).await.unwrap();
    let lake = lake.with_root_store(|inner| FaultyStore::around(inner, Noted(Arc::clone(&puts))));
    let mut committer = Committer::claim(&lake).await.unwrap();
    let batch = batch(&committer.committed().state, 0, 3);
    puts.lock().unwrap().clear();
    committer.commit(batch).await.unwrap();
    let steps =
        ["intervals/month=", "state/series-", "state/ingest-", "intervals/_delta_log/", "dead_letters/_delta_log/"];
    let noted = puts.lock().unwrap().clone();
    let at = |step: &str, ended: bool| {
        let places = (0..).zip(&noted).filter(|(_, (end, path))| *end == ended && path.contains(step)).map(|(n, _)| n);
        places.collect::<Vec<usize>>()
    };
    for pair in steps.windows(2) {
        let (ended, began) = (at(pair[0], true).into_iter().max(), at(pair[1], false).into_iter().min());
        assert!(ended.is_some() && ended < began, "{pair:?}: {noted:?}");
    }
    let letters =
        (0..).zip(&noted).filter(|(_, (_, path))| path.contains("dead_letters/") && path.ends_with("parquet"));
    assert!(letters.map(|(n, _)| n).max() < at("state/ingest-", false).into_iter().min(), "{noted:?}");
}
