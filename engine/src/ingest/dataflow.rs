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
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use differential_dataflow::AsCollection;
use differential_dataflow::operators::CountTotal;
use meterline_connectors::kafka::source::Source;
use meterline_schemas::Micros;
use meterline_schemas::config::{BadRecords, KafkaConfig};
use serde::{Deserialize, Serialize};
use timely::communication::allocator::zero_copy::initialize::{CommsGuard, initialize_networking_from_sockets};
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::{Hooks, WorkerGuards};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::core::{Concat, OkErr};
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::{InputHandle, Stream};
use timely::execute::execute_from;
use timely::worker::Worker;

use super::bounds::Bounds;
use super::census::Counted;
use super::classes::Classes;
use super::cluster::Socket;
use super::control::Control;
use super::crew::Crew;
use super::discovery::{Command, GivenBack};
use super::epoch::SourcePart;
use super::error::IngestError;
use super::outlet::Outlet;
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
use super::rollup::taken::Taken;
use super::rollup::{self, Input, LabelChange};
use super::series::SeriesState;
use super::shard::{Budget, Evicted, FeedRules, Routed, Shard, ShardPart};

/// How long an idle worker sleeps; a message from another worker wakes it.
const NAP: Duration = Duration::from_millis(3);

/// What workers tell the coordinator.
#[derive(Debug, Serialize, Deserialize)]
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
    #[serde(skip)]
    Failed(IngestError),
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
    pub given_back: Outlet<GivenBack>,
    /// The series of its shard, each with the number of its feed and the commit whose segment holds it.
    pub series: Vec<(u16, SeriesState, i64)>,
    /// Those that are in the lake alone.
    pub evicted: Evicted,
    /// Which of them label policies take.
    pub classes: Arc<Classes>,
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
    /// How far a record may be stamped after the wall clock, in microseconds.
    pub max_ahead: Micros,
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
    pub events: Outlet<Event>,
    /// All workers.
    pub crew: Crew,
    /// What may be in memory.
    pub bounds: Bounds,
    /// It is later than that, whatever the clock of this machine says.
    pub not_before: Micros,
}

/// A source for worker `index`.
///
/// # Errors
/// Wrong settings.
pub fn connect(kafka: &KafkaConfig, index: usize, bounds: &Bounds) -> Result<Source, IngestError> {
    Ok(Source::connect(kafka, &format!("worker-{index}"), bounds.queue_kib)?)
}

/// Starts one thread a setup; `peers` are the connections to the workers of other processes.
///
/// # Errors
/// The threads cannot be started.
pub fn start(common: Common, setups: Vec<Setup>, peers: Vec<Option<Socket>>) -> Result<Running, IngestError> {
    let fault = |error: String| IngestError::Fault(format!("starting the workers: {error}"));
    let crew = common.crew;
    let setups: Mutex<Vec<Option<Setup>>> = Mutex::new(setups.into_iter().map(Some).collect());
    let work = move |worker: &mut Worker| {
        let local = crew.local(worker.index());
        let setup = local.and_then(|local| setups.lock().ok()?.get_mut(local)?.take());
        // However this thread ends, the coordinator learns of it.
        let guard = DeathNotice(common.clone());
        if let Some(setup) = setup {
            run(worker, common.clone(), setup);
        }
        drop(guard);
    };
    if crew.processes == 1 {
        let workers = timely::execute(timely::Config::process(crew.threads), work).map_err(fault)?;
        return Ok(Running { workers, peers: None });
    }
    let hooks = Hooks::default();
    let inner = ProcessBuilder::new_typed_vector(crew.threads, hooks.refill.clone(), None);
    let (builders, peers) = initialize_networking_from_sockets(inner, peers, crew.process, crew.threads, hooks)
        .map_err(|error| fault(error.to_string()))?;
    let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
    let workers = execute_from(builders, Box::new(()), timely::WorkerConfig::default(), work).map_err(fault)?;
    Ok(Running { workers, peers: Some(peers) })
}

/// The threads of a dataflow.
pub struct Running {
    /// Those of the workers.
    pub workers: WorkerGuards<()>,
    /// Those of the connections to other processes, where there are any.
    pub peers: Option<CommsGuard>,
}

struct DeathNotice(Common);

impl Drop for DeathNotice {
    fn drop(&mut self) {
        if !self.0.control.done.load(Ordering::Acquire) {
            let fault = IngestError::Fault("a worker of the stream ended unexpectedly".into());
            self.0.events.send(Event::Failed(fault));
        }
    }
}

fn run(worker: &mut Worker, common: Common, setup: Setup) {
    let control = Arc::clone(&common.control);
    let mut input: InputHandle<u64, CapacityContainerBuilder<Vec<Routed>>> = InputHandle::new();
    let mut labels: InputHandle<u64, CapacityContainerBuilder<Vec<Input>>> = InputHandle::new();
    let shard = Shard::new(Arc::clone(&common.feeds), setup.budget);
    let mut shard = shard.by_classes(setup.classes, common.crew.threads);
    let taken = Arc::new(Taken::default());
    if let Some(rollups) = &setup.rollups {
        let (plan, givers) = (Arc::clone(&rollups.plan), Arc::clone(&rollups.givers));
        shard = shard.for_rollups(ForRollups::new(plan, givers, Arc::clone(&taken)));
    }
    shard.restore_evicted(setup.evicted);
    for (feed, state, written) in setup.series {
        shard.restore(feed, state, written);
    }
    let rollups = setup.rollups.map(|rollups| rollup_setup(worker.index(), rollups, &setup.budget, taken, &common));
    build(worker, &mut input, &mut labels, shard, setup.recalled, rollups, &common);
    input.advance_to(1);
    labels.advance_to(1);
    let place = common.crew.place(worker.index());
    let mut reader = Reader::new(place, common, setup.source, setup.decoders, setup.commands, setup.given_back);
    while !control.done.load(Ordering::Acquire) {
        let open = control.epoch();
        if open > *input.time() {
            reader.hand_in(*input.time());
            input.advance_to(open);
            labels.advance_to(open);
        }
        let may_read = !control.stopping.load(Ordering::Relaxed) && !control.full();
        let count = match reader
            .obey()
            .and_then(|()| if may_read { reader.read(*input.time()) } else { reader.wait().map(|()| 0) })
        {
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
    rollups: Option<rollup::dataflow::Setup>,
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
            rollup::dataflow::build(changes.map(|change| *change).concat(labels), setup);
        }
    });
}

// Brings the parts of roll-ups, and what they ask for, to the coordinator.
fn rollup_setup(
    worker: usize,
    setup: RollupSetup,
    budget: &Budget,
    taken: Arc<Taken>,
    common: &Common,
) -> rollup::dataflow::Setup {
    let RollupSetup { plan, givers, members, labels, groups, offset, answered } = setup;
    let events = common.events.clone();
    let ask = move |of: Of| {
        let events = events.clone();
        move |epoch, wants| events.send(Event::Asked(Asked { worker, epoch, of, wants }))
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
        events.send(event);
    };
    rollup::dataflow::Setup {
        plan,
        members,
        labels,
        groups,
        offset,
        lookup: budget.lookups(),
        remembered: budget.groups,
        taken,
        series_rows: Box::new(Asking { ask: ask(Of::Series), answers: answered.series }),
        group_rows: Box::new(Asking { ask: ask(Of::Groups), answers: answered.groups }),
        place: Box::new(move || control.places().members),
        events: Rc::new(hand_in),
    }
}

type Counts<'scope> = Stream<'scope, u64, Vec<((Counted, i64), u64, isize)>>;
type Facts<'scope> = Stream<'scope, u64, Vec<(Counted, u64, i64)>>;
type Told<'scope> = Stream<'scope, u64, Vec<Result<(Counted, u64, i64), Box<Input>>>>;

// Readings of an epoch become rows and states, which the coordinator gets, facts that came and went, and changes for
// roll-ups.
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
    // Whether something is being looked up for the epoch that ends.
    let mut waits = false;
    readings.unary_frontier::<CapacityContainerBuilder<_>, _, _, _>(route, "aggregate", move |mut capability, info| {
        let activator = scope.activator_for(info.address);
        move |(readings, frontier), output| {
            readings.for_each(|capability, batch| {
                let Some(epoch) = capability.least().copied() else { return };
                if epoch == shard.epoch() {
                    take(&mut shard, batch.drain(..), &common);
                } else {
                    let early = early.entry(epoch).or_default();
                    early.append(batch);
                    if shard.would_be_crowded(early) {
                        common.control.fill(epoch);
                    }
                }
            });
            // What the shard began with counts before the first epoch.
            let mut ended = *capability.time();
            while ended < shard.epoch() || frontier.frontier().first().is_some_and(|reached| *reached > shard.epoch()) {
                if ended == shard.epoch() {
                    if waits {
                        match recalled.try_recv() {
                            Ok(found) => {
                                if let Err(error) = shard.resolve(found) {
                                    common.events.send(Event::Failed(error));
                                }
                            }
                            Err(_) => return activator.activate_after(NAP),
                        }
                        waits = false;
                    }
                    if let Some(wanted) = shard.wanted() {
                        waits = true;
                        common.events.send(Event::Wanted { worker, wanted });
                        return activator.activate_after(NAP);
                    }
                    let event = match shard.finish(common.control.places().series) {
                        Ok(part) => Event::Shard(part),
                        Err(error) => Event::Failed(error),
                    };
                    common.events.send(event);
                    if let Some(readings) = early.remove(&shard.epoch()) {
                        take(&mut shard, readings.into_iter(), &common);
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
#[derive(Debug, Serialize, Deserialize)]
pub struct CensusPart {
    /// The epoch that it is as of.
    pub epoch: u64,
    /// Counts that are no longer what they were.
    pub counts: Vec<(Counted, i64)>,
}

// At the end of each epoch the coordinator gets the counts that changed.
fn report(counts: Counts<'_>, events: Outlet<Event>) {
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
            events.send(Event::Census(CensusPart { epoch: ended, counts }));
            ended += 1;
        }
    });
}

fn take(shard: &mut Shard, readings: impl Iterator<Item = Routed> + AsRef<[Routed]>, common: &Common) {
    shard.take(readings, |feed| common.control.watermark(feed));
    if shard.full() || shard.refused() >= common.bounds.refused {
        common.control.fill(shard.epoch());
    }
}
