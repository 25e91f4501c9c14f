//! The running stream: starts the workers, discovery and the coordinator, and ends them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use meterline_connectors::lake::{Lake, snapshot};
use meterline_schemas::config::{Config, OnExpired, OnRecreated};
use meterline_schemas::tables::INTERVALS;
use tokio::sync::{mpsc as channel, watch};
use tokio::task::JoinHandle;

use super::bounds::Bounds;
use super::brokers::Brokers;
use super::cluster::{Cluster, Links, Membership, Taken};
use super::commit::Committer;
use super::control::Control;
use super::coordinator::Coordinator;
use super::crew::Crew;
use super::dataflow::{self, Common, Event, ReadTopic, connect};
use super::dead_letters;
use super::discovery::{Channels, Discovery, Wanted};
use super::epoch::Progress;
use super::error::IngestError;
use super::feeds::{check_feeds, feed_rules, read_topics};
use super::idleness::Idleness;
use super::inbox::Inbox;
use super::load::state_at;
use super::lock::EngineLock;
use super::names::Names;
use super::patience::Patience;
use super::pulse::{Committing, Pulse};
use super::requests::{self, Requests};
use super::rollup;
use super::rollup::coordinate::Rollups;
use super::state::IngestState;
use super::threads::Threads;
use super::workers::{Inlet, Start};

pub use super::load::Committed;

/// How long the last commit may take once the stream is to stop.
const STOP_LIMIT: Duration = Duration::from_secs(35);
/// How often it is looked whether that has passed.
const STOP_LOOK: Duration = Duration::from_millis(100);

/// What a caller may choose beside the configuration.
#[derive(Debug, Clone, Default)]
pub struct IngestOptions {
    /// Workers in place of `ingest.workers`.
    pub workers: Option<usize>,
    /// Where relative paths of the configuration begin. Default: the working directory.
    pub directory: PathBuf,
    /// Number of this process among `cluster.addresses`.
    pub process: usize,
}

impl IngestOptions {
    /// Workers of this process.
    pub fn threads(&self, config: &Config) -> usize {
        self.workers.unwrap_or(config.ingest.workers).max(1)
    }
}

/// What others see of a stream, from before it starts on: what it waits for, whether the brokers answer, its commits.
/// Once it is dropped, or the stream has ended, no more commits come.
#[derive(Debug)]
pub struct Shown {
    publish: watch::Sender<Option<Arc<Committed>>>,
    brokers: Brokers,
    pulse: Pulse,
    letters: dead_letters::Counted,
    starting: Committing,
}

impl Default for Shown {
    /// Of a stream that is about to start.
    fn default() -> Shown {
        let (now, pulse) = (Instant::now(), Pulse::default());
        let starting = pulse.starts(now);
        let (brokers, letters) = (Brokers::new(now), dead_letters::Counted::default());
        Shown { publish: watch::channel(None).0, brokers, pulse, letters, starting }
    }
}

impl Shown {
    /// The newest commit, as it changes; `None` before the stream has begun.
    pub fn committed(&self) -> watch::Receiver<Option<Arc<Committed>>> {
        self.publish.subscribe()
    }

    /// What the brokers last said.
    pub fn brokers(&self) -> Brokers {
        self.brokers.clone()
    }

    /// How the start and commits fare.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// The dead letters so far.
    pub fn letters(&self) -> dead_letters::Counted {
        self.letters.clone()
    }
}

/// A running stream. Dropping it ends it as a crash would, without a last commit; [`Ingest::stop`] ends it cleanly.
pub struct Ingest {
    committed: watch::Receiver<Option<Arc<Committed>>>,
    brokers: Brokers,
    requests: Requests,
    pulse: Pulse,
    stop: watch::Sender<bool>,
    stopping: Arc<AtomicBool>,
    asked_to_stop: watch::Sender<bool>,
    // `None` once its end was reported.
    coordinator: Option<JoinHandle<Result<(), IngestError>>>,
}

/// Takes the stream over from any earlier writer, and starts it where the last commit ended. Kafka need not be there
/// yet: it is waited for, aloud; and so are the other processes of a cluster, of which this is process 0.
///
/// # Errors
/// The lake cannot be read or written, or the configuration does not fit what was committed, or the other processes.
pub async fn start(config: &Config, lake: &Lake, options: IngestOptions) -> Result<Ingest, IngestError> {
    start_shown(config, lake, options, Shown::default()).await
}

/// As [`start`], seen while it starts.
///
/// # Errors
/// The same.
pub async fn start_shown(
    config: &Config,
    lake: &Lake,
    options: IngestOptions,
    shown: Shown,
) -> Result<Ingest, IngestError> {
    let mut links = None;
    let error = match start_linked(config, lake, options, shown, &mut links).await {
        Ok(ingest) => return Ok(ingest),
        Err(error) => error,
    };
    if let Some(links) = links {
        // Else they would hear no more than that the connection was closed.
        links.end(Some(&error));
        if tokio::task::spawn_blocking(move || links.await_told()).await.is_err() {
            tracing::error!("telling the other processes why this one ends failed");
        }
    }
    Err(error)
}

// As `start_shown`; `linked` gets the links to the other processes once these are there.
async fn start_linked(
    config: &Config,
    lake: &Lake,
    options: IngestOptions,
    shown: Shown,
    linked: &mut Option<Arc<Links>>,
) -> Result<Ingest, IngestError> {
    let Shown { publish, brokers, pulse, letters, starting } = shown;
    if config.feed.is_empty() {
        return Err(IngestError::NoFeed);
    }
    let threads = options.threads(config);
    let feeds = feed_rules(config)?;
    let membership = Membership::of(config, &options.directory, 0, threads)?;
    let crew = membership.as_ref().map_or(Crew::alone(threads), Membership::crew);
    let lock = EngineLock::engine(lake)?;
    let stopping = Arc::new(AtomicBool::new(false));
    // A configuration that does not fit must not take over from an engine that runs.
    if let Some(table) = snapshot(lake, INTERVALS, None).await.map_err(IngestError::lake("opening the tables"))?
        && let Some(known) = state_at(lake, &table).await?
    {
        check_feeds(config, &known)?;
    }
    let bounds = Bounds::of(config, crew);
    rehearse(config, &options.directory, &bounds).await?;
    let control = Arc::new(Control::new(bounds.share, feeds.len(), Arc::clone(&stopping)));
    let (events, mut received) = channel::unbounded_channel();
    let (give_back, given_back) = mpsc::channel();
    let (asked_to_stop, _) = watch::channel(false);
    // Nor must a cluster that is not complete.
    let taken = Taken {
        events: events.clone().into(),
        given_back: give_back.clone().into(),
        control: Arc::clone(&control),
        asked_to_stop: asked_to_stop.clone(),
    };
    if membership.is_some() {
        pulse.does("waiting for the other processes of the cluster");
    }
    let cluster = Cluster::gather(membership, taken).await?;
    let links = Arc::clone(&cluster.links);
    *linked = Some(Arc::clone(&links));
    pulse.does("taking over the stream");
    let mut committer = Committer::claim_with(lake, Patience::new(Arc::clone(&stopping), pulse.clone())).await?;
    if !config.rollup.is_empty() {
        committer = committer.never_declining();
    }
    let state = Arc::clone(&committer.committed().state);
    check_feeds(config, &state)?;
    for name in rollup::coordinate::taken_out(config, &state) {
        tracing::warn!(
            rollup = name,
            "this roll-up is no longer configured: the next commit forgets it, and then it can only be computed anew in \
             a new lake; to keep it, stop now and put it back"
        );
    }
    if crew.processes > 1 {
        pulse.does("connecting the workers of all processes");
    }
    let peers = cluster.begin(lake, &state, committer.fence(), &mut received).await?;
    let names = Names::of(config);
    control.set_watermarks(&names, &state);
    let prepared = Start {
        config,
        states: committer.states(),
        directory: &options.directory,
        names: &names,
        feeds: &feeds,
        state: &state,
        fence: committer.fence(),
        crew,
        bounds: &bounds,
        given_back: give_back.into(),
    };
    pulse.does("loading what the last commit remembers");
    let prepared = match prepared.prepare().await {
        Ok(prepared) => prepared,
        Err(error) => return Err(committer.explain(error).await),
    };
    tracing::info!(
        commit = state.seq,
        series = prepared.series,
        evicted_series = prepared.evicted,
        workers = crew.workers(),
        processes = crew.processes,
        feeds = feeds.len(),
        memory_limit = %config.ingest.memory_limit,
        records_a_commit = bounds.records,
        "the stream goes on after this commit"
    );

    let topics = read_topics(config).into();
    let (rules, control_of, sender) = (feeds.into(), Arc::clone(&control), events.clone().into());
    let not_before = prepared.committed_at;
    let common = Common { feeds: rules, topics, control: control_of, events: sender, crew, bounds, not_before };
    let inlets = inlets(prepared.inlets, crew, &links, prepared.rollups.is_some());
    let report = Arc::new(Mutex::new(None));
    brokers.asked_from(Instant::now());
    // By their places.
    let mut workers: Vec<usize> = (0..crew.workers()).collect();
    workers.sort_unstable_by_key(|worker| crew.place(*worker));
    let channels = Channels {
        workers: workers.into_iter().map(|worker| inlets[worker].commands.clone()).collect(),
        given_back,
        report: Arc::clone(&report),
        done: Arc::clone(&control.done),
    };
    let discovery = Discovery::new(config, wanted(config), brokers.clone(), positions(&names, &state), channels);
    let threads = Threads::new(Arc::clone(&control), dataflow::start(common, prepared.setups, peers)?, lock);
    let discovery = std::thread::Builder::new()
        .name("kafka-discovery".into())
        .spawn(move || {
            if let Err(error) = discovery.run() {
                let _ = events.send(Event::Failed(error.into()));
            }
        })
        .map_err(|error| IngestError::Fault(format!("starting the discovery thread: {error}")))?;
    let threads = threads.with_discovery(discovery);

    let committed = publish.subscribe();
    let (stop, stopped) = watch::channel(false);
    let (requests, asked) = requests::channel();
    let answers = inlets.iter().filter_map(|inlet| inlet.answers.clone()).collect();
    let coordinator = Coordinator {
        config: config.clone(),
        committer,
        control,
        links: Arc::clone(&links),
        events: Inbox::new(received),
        names,
        rollups: prepared.rollups.map(|(plan, series)| Rollups::new(plan, series, answers)),
        go_on: prepared.go_on,
        workers: crew.workers(),
        lookups_at_once: crew.threads,
        idleness: Idleness::new(&state, Instant::now()),
        recalled: inlets.into_iter().map(|inlet| inlet.recalled).collect(),
        brokers: brokers.clone(),
        pulse: pulse.clone(),
        letters,
        publish,
        report,
        requests: asked,
        stopped,
    };
    let coordinator = tokio::spawn(async move {
        let result = coordinator.run(starting).await;
        // Workers of different processes end together.
        links.end(result.as_ref().err());
        let others = tokio::task::spawn_blocking(move || links.await_end());
        let ((), others) = tokio::join!(threads.end(result.is_ok()), others);
        if others.is_err() {
            tracing::error!("waiting for the other processes failed");
        }
        result
    });
    Ok(Ingest { committed, brokers, requests, pulse, stop, stopping, asked_to_stop, coordinator: Some(coordinator) })
}

// What workers would fail of once the stream is theirs: settings that the client refuses, and files of labels of
// roll-ups that cannot be read.
async fn rehearse(config: &Config, directory: &Path, bounds: &Bounds) -> Result<(), IngestError> {
    drop(connect(&config.kafka, 0, bounds)?);
    // Where there are none, no file can fail a start.
    if config.rollup.is_empty() {
        return Ok(());
    }
    let (config, directory) = (config.clone(), directory.to_owned());
    let reading = tokio::task::spawn_blocking(move || rollup::restore::files(&config, &directory).map(|_| ()));
    reading.await.map_err(|error| IngestError::Fault(format!("reading the files of labels: {error}")))?
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

    /// Becomes true when another process of the cluster was asked to end, and asks for the end of all.
    pub fn asked_to_stop(&self) -> watch::Receiver<bool> {
        self.asked_to_stop.subscribe()
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

    /// Stops reading, commits what was read, and ends, within less than a minute.
    ///
    /// # Errors
    /// The last commit failed, or took too long; its readings come again at the next start.
    pub async fn stop(self) -> Result<(), IngestError> {
        self.stop_within(STOP_LIMIT).await
    }

    /// As [`Ingest::stop`], with so much time for the last commit.
    ///
    /// # Errors
    /// The same.
    pub(super) async fn stop_within(mut self, limit: Duration) -> Result<(), IngestError> {
        self.stopping.store(true, Ordering::Relaxed);
        // Without a receiver the coordinator has ended already.
        let _ = self.stop.send(true);
        let Some(mut coordinator) = self.coordinator.take() else { return Ok(()) };
        let asked = Instant::now();
        let ended = loop {
            tokio::select! {
                ended = &mut coordinator => break ended,
                () = tokio::time::sleep(STOP_LOOK) => {}
            }
            // Once the last commit is made there are only threads to be waited for, and that has a limit of its own.
            if let Some((_, doing)) = self.pulse.committing(Instant::now()).filter(|_| asked.elapsed() >= limit) {
                // As after a crash: whatever the store still does with the commit is found at the next start.
                coordinator.abort();
                return Err(IngestError::StopTimedOut { waited_s: asked.elapsed().as_secs(), doing });
            }
        };
        ended.unwrap_or_else(|error| Err(IngestError::Fault(format!("the coordinator ended: {error}"))))
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

// The ways to the workers of all processes.
fn inlets(local: Vec<Inlet>, crew: Crew, links: &Links, rollups: bool) -> Vec<Inlet> {
    let remote = |worker: usize| {
        let process = crew.seat(worker).0;
        Inlet {
            commands: links.commands(process, worker),
            recalled: links.recalled(process, worker),
            answers: rollups.then(|| links.answers(process, worker)),
        }
    };
    let others = (local.len()..crew.workers()).map(remote);
    local.into_iter().chain(others).collect()
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
