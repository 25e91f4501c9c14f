//! Whatever is evicted is found as it was evicted last, by reading little; and what cannot be read is an error.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use meterline_schemas::unit::Unit;
use meterline_tests::faulty_store::{Fault, FaultyStore, Put, no_answer};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, PutResult};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::super::load::StateFile;
use super::super::pulse::Pulse;
use super::*;

/// Some are too long to lie in a compact text itself.
fn id(number: usize) -> String {
    if number.is_multiple_of(5) { format!("a meter with a long identifier {number}") } else { format!("m{number}") }
}

fn state(number: usize, seq: i64) -> SeriesState {
    let mut state = SeriesState::new(if number.is_multiple_of(2) { "a" } else { "b" }, &id(number), Unit::KWH);
    state.intervals = seq as u32;
    state
}

fn few(id: &str) -> u64 {
    id.len() as u64 % 3
}

fn same(_: &str) -> u64 {
    7
}

fn ends(id: &str) -> u64 {
    if id.ends_with('1') { 0 } else { u64::MAX }
}

/// Real routes are never the same, but may be.
const ROUTES: [fn(&str) -> u64; 4] = [route, few, same, ends];

fn shapes() -> impl Strategy<Value = Shape> {
    let sizes = (1..7usize, 1..900u64, 1..600u64, 0..300u64);
    (sizes, 1..5usize, 0..ROUTES.len()).prop_map(|((frame, file, read, gap), runs, number)| Shape {
        frame,
        file,
        read,
        gap,
        runs,
        route: ROUTES[number],
    })
}

/// Runs, and what they must have.
struct Evicted {
    shape: Shape,
    lake: Lake,
    patience: Patience,
    stopping: Arc<AtomicBool>,
    seq: i64,
    runs: Vec<Run>,
    model: BTreeMap<(u64, String), (SeriesState, i64)>,
}

impl Evicted {
    /// Nothing yet, in a lake in memory.
    async fn nothing(shape: Shape) -> Evicted {
        let dir = tempfile::tempdir().unwrap();
        let lake = Lake::open(dir.path().to_str().unwrap()).await.unwrap();
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let lake = lake.with_root_store(|_| memory);
        let stopping = Arc::new(AtomicBool::new(false));
        let patience = Patience::new(Arc::clone(&stopping), Pulse::default());
        Evicted { shape, lake, patience, stopping, seq: 0, runs: Vec::new(), model: BTreeMap::new() }
    }

    /// A commit that evicts these series, each from one of so many shards.
    async fn evict(&mut self, numbers: impl IntoIterator<Item = usize>, shards: usize) {
        self.seq += 1;
        let seq = self.seq;
        let mut states: Vec<SeriesState> = numbers.into_iter().map(|number| state(number, seq)).collect();
        states.sort_by_cached_key(|state| ((self.shape.route)(&state.id), state.id.clone()));
        let of_shard = |shard: usize| Frames::of(states.iter().skip(shard).step_by(shards)).unwrap();
        let fresh = (0..shards).map(of_shard).collect();
        let writing = Writing { lake: &self.lake, patience: &self.patience, seq, fence: 3 };
        self.runs = self.shape.add(&writing, &self.runs, fresh).await.unwrap();
        for state in states {
            let key = ((self.shape.route)(&state.id), state.id.to_string());
            self.model.insert(key, (state, seq));
        }
    }

    async fn each(&self) -> Result<Vec<(SeriesState, i64)>, IngestError> {
        let mut all = Vec::new();
        self.shape.each(States::from(&self.lake), &self.runs, |state, seq| all.push((state, seq))).await?;
        Ok(all)
    }

    async fn find(&self, numbers: impl IntoIterator<Item = usize>) -> Result<Vec<SeriesState>, IngestError> {
        let wanted: Vec<CompactString> = numbers.into_iter().map(|number| id(number).into()).collect();
        self.shape.find(States::from(&self.lake), &self.runs, &wanted).await
    }

    async fn check(&self, wanted: &BTreeSet<usize>) {
        let all: Vec<(SeriesState, i64)> = self.model.values().cloned().collect();
        assert_eq!(self.each().await.unwrap(), all);
        let ids: BTreeSet<String> = wanted.iter().map(|number| id(*number)).collect();
        let expected = self.model.iter().filter(|((_, id), _)| ids.contains(id));
        let expected: Vec<SeriesState> = expected.map(|(_, (state, _))| state.clone()).collect();
        // Who asks twice gets one answer.
        assert_eq!(self.find(wanted.iter().chain(wanted).copied()).await.unwrap(), expected);
        assert!(self.runs.len() <= self.shape.runs);
        let mut paths = HashSet::new();
        for run in &self.runs {
            assert!(!run.files.is_empty() && run.files.is_sorted_by(|file, next| file.last <= next.first));
            assert_eq!(run.files.iter().map(|file| file.series).sum::<u64>(), run.series);
            for file in &run.files {
                assert!(matches!(StateFile::at(&file.path), Some(StateFile::Evicted(_))) && paths.insert(&file.path));
                assert_eq!(self.lake.get_object(&file.path).await.unwrap().len() as u64, file.bytes);
            }
        }
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_was_evicted_is_found_as_it_was_last(
        shape in shapes(),
        evictions in vec((btree_set(0..60usize, 0..25), 1..4usize, any::<bool>()), 1..12),
        wanted in btree_set(0..80usize, 0..12),
    ) {
        run(async {
            let mut evicted = Evicted::nothing(shape).await;
            for (numbers, shards, stopping) in evictions {
                evicted.stopping.store(stopping, Ordering::Relaxed);
                let before = numbers.is_empty().then(|| evicted.runs.clone());
                evicted.evict(numbers, shards).await;
                assert!(before.is_none_or(|before| before == evicted.runs));
                evicted.check(&wanted).await;
            }
        });
    }
}

#[tokio::test]
async fn damage_is_told_and_is_no_series_that_is_not_there() {
    let shape = Shape { frame: 3, file: 150, read: 300, gap: 10, runs: 3, route };
    let mut evicted = Evicted::nothing(shape).await;
    evicted.evict(0..25, 2).await;
    evicted.evict(0..6, 1).await;
    let files: Vec<RunFile> = evicted.runs.iter().flat_map(|run| run.files.clone()).collect();
    assert!(evicted.runs.len() == 2 && files.len() > 3, "{files:?}");
    for file in &files {
        let whole = evicted.lake.get_object(&file.path).await.unwrap();
        let flipped = (MAGIC.len()..whole.len()).step_by(3).map(|at| {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 0x40;
            bytes
        });
        let cut_off = [0, 1, MAGIC.len(), whole.len() / 2, whole.len() - 1].map(|length| whole[..length].to_vec());
        for damaged in flipped.chain(cut_off) {
            evicted.lake.put_object(&file.path, damaged).await.unwrap();
            let errors = [evicted.each().await.unwrap_err(), evicted.find(0..25).await.unwrap_err()];
            assert!(errors.iter().all(|error| error.to_string().contains(&file.path)), "{errors:?}");
        }
        evicted.lake.delete_object(&file.path).await.unwrap();
        assert!(evicted.each().await.is_err() && evicted.find(0..25).await.is_err());
        evicted.lake.put_object(&file.path, whole).await.unwrap();
    }
    evicted.check(&(0..25).collect()).await;
    // Another hash is not an empty lake.
    evicted.shape.route = |id| route(id) ^ 1;
    assert!(evicted.each().await.is_err() && evicted.find(0..25).await.is_err());
}

#[tokio::test]
async fn what_is_evicted_has_to_be_in_order() {
    let evicted = Evicted::nothing(SHAPE).await;
    let mut states: Vec<SeriesState> = (0..9).map(|number| state(number, 1)).collect();
    states.sort_by_key(|state| std::cmp::Reverse(route(&state.id)));
    let fresh = vec![Frames::of(states.iter()).unwrap()];
    let writing = Writing { lake: &evicted.lake, patience: &evicted.patience, seq: 1, fence: 1 };
    let error = add(&writing, &[], fresh).await.unwrap_err();
    assert!(matches!(error, IngestError::Fault(_)), "{error}");
}

/// Counts bytes that are asked for, and what is asked for at once.
#[derive(Debug, Default)]
struct Counted {
    all: AtomicU64,
    largest: AtomicU64,
}

#[derive(Debug)]
struct Counting(Arc<Counted>);

#[async_trait]
impl Fault for Counting {
    async fn before_get(&self, _: &Path, options: &GetOptions) -> object_store::Result<()> {
        // Whole files are never asked for.
        let bytes = match &options.range {
            Some(GetRange::Bounded(range)) => range.end - range.start,
            _ => 1 << 40,
        };
        self.0.all.fetch_add(bytes, Ordering::Relaxed);
        self.0.largest.fetch_max(bytes, Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::test]
async fn a_lookup_reads_what_it_needs_and_nothing_twice() {
    let shape = Shape { frame: 256, file: 40 << 10, read: 16 << 10, gap: 64, runs: 4, route };
    let mut evicted = Evicted::nothing(shape).await;
    evicted.evict(0..20_000, 3).await;
    let size: u64 = evicted.runs.iter().flat_map(|run| &run.files).map(|file| file.bytes).sum();
    let counted = Arc::new(Counted::default());
    evicted.lake = evicted.lake.with_root_store(|inner| FaultyStore::around(inner, Counting(Arc::clone(&counted))));
    assert_eq!(evicted.find([4_711]).await.unwrap(), [state(4_711, 1)]);
    let one = counted.all.swap(0, Ordering::Relaxed);
    assert!(one > 0 && one < size / 8, "{one} of {size}");
    assert_eq!(evicted.find(0..20_000).await.unwrap().len(), 20_000);
    let all = counted.all.swap(0, Ordering::Relaxed);
    assert!(all > size / 2 && all <= size, "{all} of {size}");
    assert_eq!(evicted.each().await.unwrap().len(), 20_000);
    assert_eq!(counted.all.load(Ordering::Relaxed), all);
    assert!(counted.largest.load(Ordering::Relaxed) <= shape.read);
}

/// The first put and the first get fail.
#[derive(Debug, Default)]
struct FailsOnce {
    put: AtomicBool,
    get: AtomicBool,
}

#[async_trait]
impl Fault for FailsOnce {
    async fn put(&self, _: &Path, put: Put) -> object_store::Result<PutResult> {
        if self.put.swap(true, Ordering::Relaxed) { put.await } else { Err(no_answer()) }
    }

    async fn before_get(&self, _: &Path, options: &GetOptions) -> object_store::Result<()> {
        // What asks for the size then gets an answer.
        if options.head || self.get.swap(true, Ordering::Relaxed) { Ok(()) } else { Err(no_answer()) }
    }
}

#[tokio::test]
async fn a_merge_waits_for_a_store_that_fails() {
    let shape = Shape { frame: 2, file: 100, read: 100, gap: 0, runs: 1, route };
    let mut evicted = Evicted::nothing(shape).await;
    evicted.evict(0..9, 1).await;
    evicted.lake = evicted.lake.with_root_store(|inner| FaultyStore::around(inner, FailsOnce::default()));
    evicted.evict(3..12, 1).await;
    evicted.check(&(0..12).collect()).await;
}

/// The stream is to stop from the first put on.
#[derive(Debug)]
struct Stops(Arc<AtomicBool>);

#[async_trait]
impl Fault for Stops {
    async fn put(&self, _: &Path, put: Put) -> object_store::Result<PutResult> {
        self.0.store(true, Ordering::Relaxed);
        put.await
    }
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_long_merge() {
    let shape = Shape { frame: 2, file: 100, read: 100, gap: 0, runs: 3, route };
    let mut evicted = Evicted::nothing(shape).await;
    let lengths = |evicted: &Evicted| evicted.runs.iter().map(|run| run.series).collect::<Vec<_>>();
    evicted.evict(0..50, 1).await;
    evicted.evict(50..80, 1).await;
    let plain = evicted.lake.clone();
    let stopping = Arc::clone(&evicted.stopping);
    evicted.lake = plain.with_root_store(|inner| FaultyStore::around(inner, Stops(stopping)));
    // It comes while all are merged.
    evicted.evict(20..80, 2).await;
    assert_eq!(lengths(&evicted), [50, 30, 60]);
    evicted.check(&(0..90).collect()).await;
    // What was put before has other names.
    assert_ne!(evicted.runs[2].files[0].path, StateFile::Evicted(0).path(evicted.seq, 3));
    // There is no room for a fourth one.
    evicted.evict(75..85, 1).await;
    assert_eq!(lengths(&evicted), [50, 30, 65]);
    evicted.check(&(0..90).collect()).await;
    // After the next start.
    (evicted.lake, evicted.stopping) = (plain, Arc::default());
    evicted.patience = Patience::new(Arc::clone(&evicted.stopping), Pulse::default());
    evicted.evict(0..1, 1).await;
    assert_eq!(lengths(&evicted), [85]);
    evicted.check(&(0..90).collect()).await;
}
