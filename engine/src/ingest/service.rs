//! The running stream: starts the workers, discovery and the coordinator, and ends them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

use meterline_connectors::formats::{Decoder, LabelDecoder};
use meterline_connectors::lake::{Lake, snapshot};
use meterline_schemas::config::{Config, OnExpired, OnRecreated};
use meterline_schemas::labels::ROLLUP_PREFIX;
use meterline_schemas::tables::INTERVALS;
use timely::communication::initialize::WorkerGuards;
use tokio::sync::{mpsc as channel, watch};
use tokio::task::JoinHandle;

use super::bounds::Bounds;
use super::brokers::Brokers;
use super::commit::{Committer, state_at};
use super::coordinator::Coordinator;
use super::dataflow::{self, Common, Control, Event, ReadTopic, RollupSetup, Setup};
use super::discovery::{Command, Discovery, GivenBack, Wanted};
use super::epoch::Progress;
use super::feeds::{Restored, check_feeds, feed_rules, read_topics, restore};
use super::idleness::Idleness;
use super::lock::EngineLock;
use super::names::Names;
use super::pulse::Pulse;
use super::reader::Decoders;
use super::recall::Recalled;
use super::requests::{self, Requests};
use super::rollup;
use super::rollup::coordinate::Rollups;
use super::rollup::series::RollupSeries;
use super::shard::route;
use super::state::IngestState;

pub use super::commit::Committed;
pub use super::error::IngestError;

/// What a caller may choose beside the configuration.
#[derive(Debug, Clone, Default)]
pub struct IngestOptions {
    /// Workers in place of `ingest.workers`.
    pub workers: Option<usize>,
    /// Where relative paths of the configuration begin. Default: the working directory.
    pub directory: PathBuf,
}

/// A running stream. Dropping it ends it as a crash would, without a last commit; [`Ingest::stop`] ends it cleanly.
pub struct Ingest {
    committed: watch::Receiver<Option<Arc<Committed>>>,
    brokers: Brokers,
    requests: Requests,
    pulse: Pulse,
    stop: watch::Sender<bool>,
    stopping: Arc<AtomicBool>,
    // `None` once its end was reported.
    coordinator: Option<JoinHandle<Result<(), IngestError>>>,
}

/// Takes the stream over from any earlier writer, and starts it where the last commit ended. Kafka need not be there
/// yet: it is waited for, aloud.
///
/// # Errors
/// The lake cannot be read or written, or the configuration does not fit what was committed.
pub async fn start(config: &Config, lake: &Lake, options: IngestOptions) -> Result<Ingest, IngestError> {
    if config.feed.is_empty() {
        return Err(IngestError::NoFeed);
    }
    let workers = options.workers.unwrap_or(config.ingest.workers).max(1);
    let feeds = feed_rules(config)?;
    let lock = EngineLock::engine(lake)?;
    let stopping = Arc::new(AtomicBool::new(false));
    let pulse = Pulse::default();
    // A configuration that does not fit must not take over from an engine that runs.
    if let Some(table) = snapshot(lake, INTERVALS, None).await.map_err(IngestError::lake("opening the tables"))?
        && let Some(known) = state_at(lake, &table).await?
    {
        check_feeds(config, &known)?;
    }
    let mut committer = Committer::claim(lake, Arc::clone(&stopping)).await?.watched_by(pulse.clone());
    if !config.rollup.is_empty() {
        committer = committer.never_declining();
    }
    let state = Arc::clone(&committer.committed().state);
    check_feeds(config, &state)?;
    let names = Names::of(config);
    let start = rollup::restore::start(config, &options.directory, lake, &state).await?;
    let go_on = start.as_ref().is_some_and(|start| !start.labels.is_empty());
    let (rollups, mut rollup_setups) = match start {
        Some(start) => {
            let (rollups, setups) = rollups_of(start, &names, workers, committer.fence());
            (Some(rollups), setups)
        }
        None => (None, Vec::new()),
    };
    let mut rollups = rollups;
    let mut shards: Vec<Vec<Restored>> = (0..workers).map(|_| Vec::new()).collect();
    let take = |restored: Restored| match &mut rollups {
        Some(rollups) if restored.1.id.starts_with(ROLLUP_PREFIX) => rollups.series.restore(restored.1, restored.2),
        _ => shards[dataflow::shard_of(route(&restored.1.id), workers)].push(restored),
    };
    restore(config, lake, &state, &feeds, take).await?;
    let bounds = Bounds::of(&config.ingest, workers);
    tracing::info!(
        commit = state.seq,
        series = shards.iter().map(Vec::len).sum::<usize>(),
        workers,
        feeds = feeds.len(),
        memory_limit = %config.ingest.memory_limit,
        records_a_commit = bounds.records,
        "the stream goes on after this commit"
    );

    let control = Arc::new(Control::new(bounds.records, feeds.len(), Arc::clone(&stopping)));
    let (events, received) = channel::unbounded_channel();
    let topics = read_topics(config).into();
    let common = Common { feeds: feeds.clone().into(), topics, control: Arc::clone(&control), events: events.clone() };
    let (give_back, given_back) = mpsc::channel();
    let (mut setups, workers_of, recalled) = set_up(config, &names, shards, &bounds, &give_back)?;
    for (setup, rollups) in setups.iter_mut().zip(rollup_setups.drain(..)) {
        setup.rollups = Some(rollups);
    }
    let report = Arc::new(Mutex::new(None));
    let brokers = Brokers::new(Instant::now());
    let discovery = Discovery {
        kafka: config.kafka.clone(),
        feeds: wanted(config),
        brokers: brokers.clone(),
        unreachable_timeout: config.ingest.unreachable_timeout.to_std(),
        read: positions(&names, &state),
        workers: workers_of,
        given_back,
        report: Arc::clone(&report),
        done: Arc::clone(&control.done),
        given: BTreeSet::new(),
        asked: BTreeSet::new(),
    };
    let mut threads = Threads { control: Arc::clone(&control), guards: None, discovery: None, _lock: lock };
    threads.guards = Some(dataflow::start(common, setups)?);
    let discovery = std::thread::Builder::new()
        .name("kafka-discovery".into())
        .spawn(move || {
            if let Err(error) = discovery.run() {
                let _ = events.send(Event::Failed(error.into()));
            }
        })
        .map_err(|error| IngestError::Fault(format!("starting the discovery thread: {error}")))?;
    threads.discovery = Some(discovery);

    let (publish, committed) = watch::channel(None);
    let (stop, stopped) = watch::channel(false);
    let (requests, asked) = requests::channel();
    let coordinator = Coordinator {
        config: config.clone(),
        committer,
        control,
        events: received,
        names,
        rollups,
        go_on,
        workers,
        idleness: Idleness::new(&state, Instant::now()),
        recalled,
        brokers: brokers.clone(),
        pulse: pulse.clone(),
        publish,
        report,
        requests: asked,
        stopped,
    };
    let coordinator = tokio::spawn(async move {
        let result = coordinator.run().await;
        threads.end().await;
        result
    });
    Ok(Ingest { committed, brokers, requests, pulse, stop, stopping, coordinator: Some(coordinator) })
}

impl Ingest {
    /// The newest commit, as it changes; `None` before the first one.
    pub fn committed(&self) -> watch::Receiver<Option<Arc<Committed>>> {
        self.committed.clone()
    }

    /// What the brokers last said.
    pub fn brokers(&self) -> Brokers {
        self.brokers.clone()
    }

    /// Where housekeeping asks for commits.
    pub fn requests(&self) -> Requests {
        self.requests.clone()
    }

    /// How commits fare.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Resolves when the stream cannot go on, with the reason; never after it was told once.
    pub async fn failed(&mut self) -> IngestError {
        let Some(coordinator) = &mut self.coordinator else { return std::future::pending().await };
        let ended = coordinator.await;
        self.coordinator = None;
        match ended {
            Ok(Err(error)) => error,
            Ok(Ok(())) => IngestError::Fault("the stream ended by itself".into()),
            Err(error) => IngestError::Fault(format!("the coordinator ended: {error}")),
        }
    }

    /// Stops reading, commits what was read, and ends.
    ///
    /// # Errors
    /// The last commit failed; its readings come again at the next start.
    pub async fn stop(mut self) -> Result<(), IngestError> {
        self.stopping.store(true, Ordering::Relaxed);
        // Without a receiver the coordinator has ended already.
        let _ = self.stop.send(true);
        match self.coordinator.take() {
            Some(coordinator) => match coordinator.await {
                Ok(result) => result,
                Err(error) => Err(IngestError::Fault(format!("the coordinator ended: {error}"))),
            },
            None => Ok(()),
        }
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if let Some(coordinator) = &self.coordinator {
            coordinator.abort();
        }
    }
}

// The topics of feeds, and then those of labels: whatever becomes of such a one, it says what holds now.
fn wanted(config: &Config) -> Vec<Wanted> {
    let topics = read_topics(config).into_iter();
    let wanted = |ReadTopic { name, topic, .. }: ReadTopic| {
        let feed = config.feed.get(&*name);
        Wanted {
            topic,
            on_recreated: feed.map_or(OnRecreated::Restart, |feed| feed.on_recreated),
            on_expired: feed.map_or(OnExpired::Earliest, |feed| feed.on_expired),
            name: name.to_string(),
        }
    };
    topics.map(wanted).collect()
}

// Both sides of the roll-ups: the coordinator's, and what each worker starts with.
fn rollups_of(start: rollup::restore::Start, names: &Names, workers: usize, fence: i64) -> (Rollups, Vec<RollupSetup>) {
    let rollup::restore::Start { plan, givers, members, labels, groups } = start;
    let (mut answers, mut setups) = (Vec::new(), Vec::new());
    for _ in 0..workers {
        let (answer, answered) = rollup::ask::channels();
        answers.push(answer);
        setups.push(RollupSetup {
            plan: Arc::clone(&plan),
            givers: Arc::clone(&givers),
            members: Vec::new(),
            labels: Vec::new(),
            groups: groups.clone(),
            offset: rollup::coordinate::first_offset(fence),
            answered,
        });
    }
    let of = |series: &str| dataflow::shard_of(route(series), workers);
    members.into_iter().for_each(|member| setups[of(&member.0.series)].members.push(member));
    labels.into_iter().for_each(|said| setups[of(&said.series)].labels.push(said));
    let series = RollupSeries::new(Arc::clone(&plan), names.first_rollup());
    (Rollups::new(plan, series, answers), setups)
}

fn positions(names: &Names, state: &IngestState) -> BTreeMap<(u16, i32), Progress> {
    let mut positions = BTreeMap::new();
    for (number, name) in names.all().iter().enumerate() {
        let Some(feed) = state.feeds.get(name) else { continue };
        for (partition, read) in feed.partitions.iter().filter(|(partition, _)| **partition >= 0) {
            positions.insert((number as u16, *partition), Progress::of(number as u16, *partition, read));
        }
    }
    positions
}

type Setups = (Vec<Setup>, Vec<mpsc::Sender<Command>>, Vec<mpsc::Sender<Recalled>>);

fn set_up(
    config: &Config,
    names: &Names,
    shards: Vec<Vec<Restored>>,
    bounds: &Bounds,
    given_back: &mpsc::Sender<GivenBack>,
) -> Result<Setups, IngestError> {
    let mut setups = Vec::new();
    let (mut senders, mut answers) = (Vec::new(), Vec::new());
    for (index, series) in shards.into_iter().enumerate() {
        let (sender, commands) = mpsc::channel();
        senders.push(sender);
        let (answer, recalled) = mpsc::channel();
        answers.push(answer);
        let decoders = config.feed.iter().map(|(name, feed)| {
            Decoder::new(feed).map_err(|error| IngestError::Feed { feed: name.clone(), reason: error.to_string() })
        });
        let sources = config.labels.iter().filter(|(_, source)| source.topic.is_some());
        let labels = (config.feed.len() as u16..).zip(sources).map(|(number, (name, source))| {
            let fault = |error| IngestError::Fault(format!("the zone of [labels.{name}]: {error}"));
            Ok((names.source(number).unwrap_or_default(), LabelDecoder::new(source).map_err(fault)?))
        });
        setups.push(Setup {
            source: dataflow::connect(&config.kafka, index, bounds)?,
            decoders: Decoders {
                feeds: decoders.collect::<Result<_, _>>()?,
                labels: labels.collect::<Result<_, IngestError>>()?,
            },
            rollups: None,
            commands,
            given_back: given_back.clone(),
            series,
            budget: bounds.shard,
            recalled,
        });
    }
    Ok((setups, senders, answers))
}

/// The threads of the stream. However the coordinator ends, they do too.
struct Threads {
    control: Arc<Control>,
    guards: Option<WorkerGuards<()>>,
    discovery: Option<std::thread::JoinHandle<()>>,
    _lock: EngineLock,
}

impl Threads {
    async fn end(mut self) {
        self.control.done.store(true, Ordering::Release);
        let (guards, discovery) = (self.guards.take(), self.discovery.take());
        let joined = tokio::task::spawn_blocking(move || {
            for result in guards.into_iter().flat_map(WorkerGuards::join) {
                if let Err(error) = result {
                    tracing::error!(error, "a worker of the stream panicked");
                }
            }
            discovery.map(std::thread::JoinHandle::join)
        });
        if !matches!(joined.await, Ok(Some(Ok(())) | None)) {
            tracing::error!("a thread of the stream panicked");
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.control.done.store(true, Ordering::Release);
        // Their drop would wait, and panic for a worker that did: the process is on its way down anyway.
        std::mem::forget(self.guards.take());
    }
}
