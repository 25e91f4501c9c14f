//! The timely graph, on one screen:
//!
//! ```text
//! worker 0: poll ▸ decode ─┐ exchange  ┌─▶ aggregate (shard 0) ─┬─▶ part ──────────────▶ coordinator
//! worker 1: poll ▸ decode ─┼ by series ┼─▶ aggregate (shard 1) ─┤                          ▲  ▲
//!                          └───────────┘                        ├─ facts ─▶ count ─ census ┘  │
//!                                                               └─ changes ─▶ roll-ups ───────┤
//!      └── positions, counts, dead letters of each epoch ─────────────────────────────────────┘
//! ```
//!
//! The dataflow's time is the epoch. The coordinator opens the next one by [`Control::open_next`]; each source hands in
//! its part of the old one and moves on, and when the frontier has passed an epoch each shard hands in its part. An
//! epoch takes at most `ingest.commit_records` records, and only the next one is open while one is being committed: so
//! much is in memory at once, and a slow store slows the sources.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use differential_dataflow::AsCollection;
use differential_dataflow::operators::CountTotal;
use meterline_connectors::kafka::source::Source;
use meterline_schemas::Micros;
use meterline_schemas::config::{BadRecords, KafkaConfig};
use timely::communication::initialize::WorkerGuards;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::core::{Concat, OkErr};
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::{InputHandle, Stream};
use timely::worker::Worker;
use tokio::sync::mpsc::UnboundedSender;

use super::bounds::Bounds;
use super::census::Counted;
use super::discovery::{Command, GivenBack};
use super::epoch::SourcePart;
use super::error::IngestError;
use super::reader::{Decoders, Reader};
use super::recall::{Recalled, Wanted};
use super::rollup::ask::{Answered, Asked, Asking, Of};
use super::rollup::changes::ForRollups;
use super::rollup::coordinate::MembersFrames;
use super::rollup::dataflow::{GroupsPart, MembersPart};
use super::rollup::member::MemberState;
use super::rollup::parents::GroupsState;
use super::rollup::plan::Plan;
use super::rollup::saved::Givers;
use super::rollup::{self, Input, LabelChange};
use super::series::SeriesState;
use super::shard::{Budget, FeedRules, Place, Routed, Shard, ShardPart};

/// How long an idle worker sleeps; a message from another worker wakes it.
const NAP: Duration = Duration::from_millis(3);
/// Readings that cannot be used (a few hundred bytes each) after which a shard counts its epoch as full.
const REFUSED_MAX: usize = 250_000;

/// What workers tell the coordinator.
#[derive(Debug)]
pub enum Event {
    /// A worker's share of the census as of an epoch.
    Census(CensusPart),
    /// A source has left an epoch.
    Source(SourcePart),
    /// A shard has to know more before it can finish an epoch.
    Wanted {
        /// The worker.
        worker: usize,
        /// What it has to know.
        wanted: Wanted,
    },
    /// A shard has finished an epoch.
    Shard(ShardPart),
    /// The series of a worker have finished an epoch for roll-ups.
    Members(MembersFrames),
    /// The groups of a worker have finished an epoch.
    Groups(GroupsPart),
    /// Roll-ups have to know more before they can finish an epoch.
    Asked(Asked),
    /// The stream cannot go on.
    Failed(IngestError),
}

/// What the coordinator tells the workers.
#[derive(Debug)]
pub struct Control {
    epoch: AtomicU64,
    records: AtomicU64,
    records_max: u64,
    passed: AtomicBool,
    // Milliseconds from `began` to when a source last found something.
    last_read_ms: AtomicU64,
    began: Instant,
    /// Sources stop reading.
    pub stopping: Arc<AtomicBool>,
    /// Everything ends.
    pub done: Arc<AtomicBool>,
    /// By number of the feed, as of the last commit.
    watermarks: Vec<AtomicI64>,
    // Where the states of the epoch that was closed last go.
    places: Mutex<Places>,
}

/// Where the states of an epoch go.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// Those of series.
    pub series: Place,
    /// What roll-ups remember of them.
    pub members: Place,
}

impl Control {
    /// Control of a stream that begins with epoch 1.
    pub fn new(records_max: u64, feeds: usize, stopping: Arc<AtomicBool>) -> Control {
        Control {
            epoch: AtomicU64::new(1),
            records: AtomicU64::new(0),
            records_max,
            passed: AtomicBool::new(false),
            last_read_ms: AtomicU64::new(0),
            began: Instant::now(),
            stopping,
            done: Arc::new(AtomicBool::new(false)),
            watermarks: (0..feeds).map(|_| AtomicI64::new(Micros::MIN)).collect(),
            places: Mutex::new(Places { series: Place::NOWHERE, members: Place::NOWHERE }),
        }
    }

    /// Records in the open epoch.
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// How long no source has found anything.
    pub fn quiet(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.last_read_ms.load(Ordering::Relaxed)))
    }

    /// Sources found records.
    pub(super) fn found(&self, records: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.last_read_ms.fetch_max(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Offsets were passed in the open epoch that are no records.
    pub(super) fn passed(&self) {
        self.passed.store(true, Ordering::Relaxed);
    }

    /// Whether there is anything in the open epoch to be committed.
    pub fn has_news(&self) -> bool {
        self.records() > 0 || self.passed.load(Ordering::Relaxed)
    }

    /// Whether the open epoch takes no more records.
    pub fn full(&self) -> bool {
        self.records() >= self.records_max
    }

    /// Closes the open epoch, whose number is returned and whose states go to `places`, and opens the next one.
    pub fn open_next(&self, places: Places) -> u64 {
        *self.places.lock().unwrap_or_else(PoisonError::into_inner) = places;
        self.records.store(0, Ordering::Relaxed);
        self.passed.store(false, Ordering::Relaxed);
        self.epoch.fetch_add(1, Ordering::Release)
    }

    // Asked only between the end of an epoch and its commit, while no other one can end.
    fn places(&self) -> Places {
        *self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a feed's watermark known, for counting late readings; others' are not needed.
    pub fn set_watermark(&self, feed: usize, watermark: Micros) {
        if let Some(known) = self.watermarks.get(feed) {
            known.store(watermark, Ordering::Relaxed);
        }
    }

    fn watermark(&self, feed: u16) -> Micros {
        self.watermarks[usize::from(feed)].load(Ordering::Relaxed)
    }

    /// The open epoch takes no more records.
    pub(super) fn fill(&self) {
        self.records.fetch_max(self.records_max, Ordering::Relaxed);
    }
}

/// What one worker starts with.
pub struct Setup {
    /// Reads its partitions.
    pub source: Source,
    /// What makes something of records.
    pub decoders: Decoders,
    /// From discovery.
    pub commands: Receiver<Command>,
    /// To discovery.
    pub given_back: Sender<GivenBack>,
    /// The series of its shard, each with the number of its feed and the commit whose segment holds it.
    pub series: Vec<(u16, SeriesState, i64)>,
    /// What its shard may keep in memory.
    pub budget: Budget,
    /// What was looked up for it.
    pub recalled: Receiver<Recalled>,
    /// For roll-ups, where there are any.
    pub rollups: Option<RollupSetup>,
}

/// What the roll-ups of one worker start with.
pub struct RollupSetup {
    /// The roll-ups.
    pub plan: Arc<Plan>,
    /// Names behind numbers.
    pub givers: Arc<Givers>,
    /// The series of the worker, each with the commit whose segment holds it.
    pub members: Vec<(MemberState, i64)>,
    /// Labels that hold from the first epoch on.
    pub labels: Vec<LabelChange>,
    /// The groups.
    pub groups: GroupsState,
    /// Of the rows' positions, before the first epoch.
    pub offset: i64,
    /// What was looked up.
    pub answered: Answered,
}

/// A topic that is read.
#[derive(Debug, Clone)]
pub struct ReadTopic {
    /// Name of its feed.
    pub name: Arc<str>,
    /// Its own.
    pub topic: Arc<str>,
    /// What happens to records that cannot be read.
    pub bad_records: BadRecords,
}

/// What is the same for all workers.
#[derive(Clone)]
pub struct Common {
    /// By number.
    pub feeds: Arc<[FeedRules]>,
    /// Those of feeds, and then those of labels, by number.
    pub topics: Arc<[ReadTopic]>,
    /// From the coordinator.
    pub control: Arc<Control>,
    /// To the coordinator.
    pub events: UnboundedSender<Event>,
}

/// A source for worker `index`.
///
/// # Errors
/// Wrong settings.
pub fn connect(kafka: &KafkaConfig, index: usize, bounds: &Bounds) -> Result<Source, IngestError> {
    Ok(Source::connect(kafka, &format!("worker-{index}"), bounds.queue_kib)?)
}

/// The number of the worker that has the shard of a series: what timely's exchange does with its route.
pub fn shard_of(route: u64, workers: usize) -> usize {
    (route % workers.max(1) as u64) as usize
}

/// Starts one thread a setup.
///
/// # Errors
/// The threads cannot be started.
pub fn start(common: Common, setups: Vec<Setup>) -> Result<WorkerGuards<()>, IngestError> {
    let workers = setups.len();
    let setups: Mutex<Vec<Option<Setup>>> = Mutex::new(setups.into_iter().map(Some).collect());
    timely::execute(timely::Config::process(workers), move |worker| {
        let setup = setups.lock().ok().and_then(|mut setups| setups.get_mut(worker.index())?.take());
        // However this thread ends, the coordinator learns of it.
        let guard = DeathNotice(common.clone());
        if let Some(setup) = setup {
            run(worker, common.clone(), setup);
        }
        drop(guard);
    })
    .map_err(|error| IngestError::Fault(format!("starting the workers: {error}")))
}

struct DeathNotice(Common);

impl Drop for DeathNotice {
    fn drop(&mut self) {
        if !self.0.control.done.load(Ordering::Acquire) {
            let fault = IngestError::Fault("a worker of the stream ended unexpectedly".into());
            let _ = self.0.events.send(Event::Failed(fault));
        }
    }
}

fn run(worker: &mut Worker, common: Common, setup: Setup) {
    let control = Arc::clone(&common.control);
    let mut input: InputHandle<u64, CapacityContainerBuilder<Vec<Routed>>> = InputHandle::new();
    let mut labels: InputHandle<u64, CapacityContainerBuilder<Vec<Input>>> = InputHandle::new();
    let mut shard = Shard::new(Arc::clone(&common.feeds), setup.budget);
    if let Some(rollups) = &setup.rollups {
        shard = shard.for_rollups(ForRollups::new(Arc::clone(&rollups.plan), Arc::clone(&rollups.givers)));
    }
    for (feed, state, written) in setup.series {
        shard.restore(feed, state, written);
    }
    build(worker, &mut input, &mut labels, shard, setup.recalled, setup.rollups, &common);
    input.advance_to(1);
    labels.advance_to(1);
    let mut reader =
        Reader::new(worker.index(), common, setup.source, setup.decoders, setup.commands, setup.given_back);
    while !control.done.load(Ordering::Acquire) {
        let open = control.epoch.load(Ordering::Acquire);
        if open > *input.time() {
            reader.hand_in(*input.time());
            input.advance_to(open);
            labels.advance_to(open);
        }
        let may_read = !control.stopping.load(Ordering::Relaxed) && !control.full();
        let count = match reader.obey().and_then(|()| if may_read { reader.read() } else { Ok(0) }) {
            Ok(count) => count,
            Err(error) => {
                reader.fail(error);
                break;
            }
        };
        input.send_batch(&mut reader.batch);
        reader.batch.clear();
        labels.send_batch(&mut reader.labels);
        reader.labels.clear();
        match count {
            0 => worker.step_or_park(Some(NAP)),
            _ => worker.step(),
        };
    }
    // After a failure the others may still need this worker's part of the dataflow; nothing it holds will be committed.
    while !control.done.load(Ordering::Acquire) {
        worker.step_or_park(Some(NAP));
    }
    // Left to itself, timely would wait for a worker that panicked and never closed its input.
    drop((input, labels));
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
}

fn build(
    worker: &mut Worker,
    input: &mut InputHandle<u64, CapacityContainerBuilder<Vec<Routed>>>,
    labels: &mut InputHandle<u64, CapacityContainerBuilder<Vec<Input>>>,
    shard: Shard,
    recalled: Receiver<Recalled>,
    rollups: Option<RollupSetup>,
    common: &Common,
) {
    let (index, common) = (worker.index(), common.clone());
    worker.dataflow(|scope| {
        let told = aggregate(input.to_stream(scope), index, shard, recalled, common.clone());
        let (facts, changes): (Facts<'_>, Stream<'_, u64, Vec<Box<Input>>>) = told.ok_err(|told| told);
        let counts = facts.as_collection().count_total();
        report(counts.inner, common.events.clone());
        let labels = labels.to_stream(scope);
        if let Some(setup) = rollups {
            rollup::dataflow::build(changes.map(|change| *change).concat(labels), rollup_setup(index, setup, &common));
        }
    });
}

// Brings the parts of roll-ups, and what they ask for, to the coordinator.
fn rollup_setup(worker: usize, setup: RollupSetup, common: &Common) -> rollup::dataflow::Setup {
    let RollupSetup { plan, givers, members, labels, groups, offset, answered } = setup;
    let events = common.events.clone();
    let ask = move |of: Of| {
        let events = events.clone();
        move |epoch, wants| _ = events.send(Event::Asked(Asked { worker, epoch, of, wants }))
    };
    let (control, events) = (Arc::clone(&common.control), common.events.clone());
    let hand_in = move |event| {
        let event = match event {
            // What is restored is nothing to commit.
            rollup::dataflow::Event::Groups(GroupsPart { epoch: 0, .. })
            | rollup::dataflow::Event::Members(MembersPart { epoch: 0, .. }) => return,
            rollup::dataflow::Event::Groups(part) => Event::Groups(part),
            rollup::dataflow::Event::Members(part) => match MembersFrames::of(part, &givers) {
                Ok(part) => Event::Members(part),
                Err(error) => Event::Failed(error),
            },
        };
        let _ = events.send(event);
    };
    rollup::dataflow::Setup {
        plan,
        members,
        labels,
        groups,
        offset,
        series_rows: Box::new(Asking { ask: ask(Of::Series), answers: answered.series }),
        group_rows: Box::new(Asking { ask: ask(Of::Groups), answers: answered.groups }),
        place: Box::new(move || control.places().members),
        events: Rc::new(hand_in),
    }
}

type Counts<'scope> = Stream<'scope, u64, Vec<((Counted, i64), u64, isize)>>;
type Facts<'scope> = Stream<'scope, u64, Vec<(Counted, u64, i64)>>;
type Told<'scope> = Stream<'scope, u64, Vec<Result<(Counted, u64, i64), Box<Input>>>>;

// Readings of an epoch become rows and states, which the coordinator gets, facts that came and went, and changes for roll-ups.
fn aggregate<'scope>(
    readings: Stream<'scope, u64, Vec<Routed>>,
    worker: usize,
    mut shard: Shard,
    recalled: Receiver<Recalled>,
    common: Common,
) -> Told<'scope> {
    // Readings of epochs that not every source has reached yet: they wait, so that the state of a shard is that of one
    // epoch.
    let mut early: BTreeMap<u64, Vec<Routed>> = BTreeMap::new();
    let route = Exchange::new(|routed: &Routed| routed.route);
    let scope = readings.scope();
    // The epoch for which something is being looked up.
    let mut waits = None;
    readings.unary_frontier::<CapacityContainerBuilder<_>, _, _, _>(route, "aggregate", move |mut capability, info| {
        let activator = scope.activator_for(info.address);
        move |(readings, frontier), output| {
            readings.for_each(|capability, batch| {
                let Some(epoch) = capability.least().copied() else { return };
                if epoch == shard.epoch() {
                    take(&mut shard, batch.drain(..), &common.control);
                } else {
                    early.entry(epoch).or_default().append(batch);
                }
            });
            // What the shard began with counts before the first epoch.
            let mut ended = *capability.time();
            while ended < shard.epoch() || frontier.frontier().first().is_some_and(|reached| *reached > shard.epoch()) {
                if ended == shard.epoch() {
                    if waits != Some(ended) {
                        let wanted = shard.wanted();
                        if !wanted.is_empty() {
                            waits = Some(ended);
                            let _ = common.events.send(Event::Wanted { worker, wanted });
                        }
                    }
                    if waits == Some(ended) {
                        match recalled.try_recv() {
                            Ok(found) => shard.resolve(found),
                            Err(_) => return activator.activate_after(NAP),
                        }
                    }
                    let event = match shard.finish(common.control.places().series) {
                        Ok(part) => Event::Shard(part),
                        Err(error) => Event::Failed(error),
                    };
                    let _ = common.events.send(event);
                    if let Some(readings) = early.remove(&shard.epoch()) {
                        take(&mut shard, readings.into_iter(), &common.control);
                    }
                }
                let mut session = output.session(&capability);
                for (counted, change) in shard.census_changes().drain() {
                    session.give(Ok((counted, ended, change)));
                }
                for input in shard.rollup_inputs() {
                    session.give(Err(Box::new(input)));
                }
                drop(session);
                ended += 1;
                capability.downgrade(&ended);
            }
        }
    })
}

/// A worker's share of the census.
#[derive(Debug)]
pub struct CensusPart {
    /// The epoch that it is as of.
    pub epoch: u64,
    /// Counts that are no longer what they were.
    pub counts: Vec<(Counted, i64)>,
}

// At the end of each epoch the coordinator gets the counts that changed.
fn report(counts: Counts<'_>, events: UnboundedSender<Event>) {
    let mut open: BTreeMap<u64, HashMap<Counted, i64>> = BTreeMap::new();
    let mut ended = 0;
    counts.sink(Pipeline, "census", move |(counts, frontier)| {
        counts.for_each(|_, batch| {
            for ((counted, count), epoch, change) in batch.drain(..) {
                // The old count goes, the new one comes; a count that comes to nothing only goes.
                let now = open.entry(epoch).or_default().entry(counted).or_default();
                if change > 0 {
                    *now = count;
                }
            }
        });
        while frontier.frontier().first().is_some_and(|reached| *reached > ended) {
            let counts = open.remove(&ended).unwrap_or_default().into_iter().collect();
            let _ = events.send(Event::Census(CensusPart { epoch: ended, counts }));
            ended += 1;
        }
    });
}

fn take(shard: &mut Shard, readings: impl Iterator<Item = Routed>, control: &Control) {
    for routed in readings {
        let watermark = control.watermark(routed.feed);
        shard.apply(routed, watermark);
    }
    if shard.refused() >= REFUSED_MAX {
        control.fill();
    }
}
