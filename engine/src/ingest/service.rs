//! The running stream: workers, discovery, and the coordinator that closes epochs and commits them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use meterline_connectors::formats::Decoder;
use meterline_connectors::lake::Lake;
use meterline_schemas::config::{Config, FeedConfig};
use meterline_schemas::time::format_micros;
use timely::communication::initialize::WorkerGuards;
use tokio::sync::{mpsc as channel, watch};
use tokio::task::JoinHandle;

use super::aggregate::Rules;
use super::bounds::Bounds;
use super::brokers::Brokers;
use super::census::Census;
use super::commit::{Batch, Committer, each_series};
use super::dataflow::{self, Common, Control, Event, Setup};
use super::discovery::{Command, Discovery, GivenBack, Report, Reported, Wanted};
use super::epoch::{self, Parts, Progress};
use super::idleness::Idleness;
use super::layout::EpochRows;
use super::lock::EngineLock;
use super::pulse::Pulse;
use super::recall::Recalled;
use super::requests::{self, Request, Requests};
use super::segments::{Frames, rewrite_from};
use super::series::SeriesState;
use super::shard::{FeedRules, NOT_CONFIGURED, Place, route};
use super::state::{IngestState, PartitionState};

pub use super::commit::Committed;
pub use super::error::IngestError;

/// How often the coordinator looks whether an epoch is to be closed.
const LOOK: Duration = Duration::from_millis(20);
/// How long the sources must have found nothing, after a full epoch, until the next one is closed before its time.
const CAUGHT_UP: Duration = Duration::from_millis(500);
/// How often it looks whether idle partitions let the watermark go on.
const IDLE_LOOK: Duration = Duration::from_secs(1);
/// How long workers may take to finish an epoch before the log mentions it.
const SLOW_EPOCH: Duration = Duration::from_secs(30);

/// What a caller may choose beside the configuration.
#[derive(Debug, Clone, Default)]
pub struct IngestOptions {
    /// Workers in place of `ingest.workers`.
    pub workers: Option<usize>,
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
    let committer = Committer::claim(lake, Arc::clone(&stopping)).await?.watched_by(pulse.clone());
    let state = Arc::clone(&committer.committed().state);
    check_feeds(config, &state)?;
    let mut shards: Vec<Vec<Restored>> = (0..workers).map(|_| Vec::new()).collect();
    let take = |restored: Restored| shards[dataflow::shard_of(route(&restored.1.id), workers)].push(restored);
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
    let common = Common { feeds: feeds.clone().into(), control: Arc::clone(&control), events: events.clone() };
    let (give_back, given_back) = mpsc::channel();
    let (setups, workers_of, recalled) = set_up(config, shards, &bounds, &give_back)?;
    let names: Vec<String> = config.feed.keys().cloned().collect();
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
    let guards = dataflow::start(common, setups)?;
    let discovery = std::thread::Builder::new()
        .name("kafka-discovery".into())
        .spawn(move || {
            if let Err(error) = discovery.run() {
                let _ = events.send(Event::Failed(error.into()));
            }
        })
        .map_err(|error| IngestError::Fault(format!("starting the discovery thread: {error}")))?;

    let (publish, committed) = watch::channel(None);
    let (stop, stopped) = watch::channel(false);
    let (requests, asked) = requests::channel();
    let coordinator = Coordinator {
        config: config.clone(),
        committer,
        control: Arc::clone(&control),
        events: received,
        feeds: names,
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
    let threads = Threads { control, guards: Some(guards), discovery: Some(discovery), _lock: lock };
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

/// The feeds by number, which is their place in the configuration's order.
pub(super) fn feed_rules(config: &Config) -> Result<Vec<FeedRules>, IngestError> {
    let rules = |(name, feed): (&String, &FeedConfig)| {
        let rules = Rules::new(feed, config.ingest.remembered_intervals)
            .map_err(|error| IngestError::Feed { feed: name.clone(), reason: error.to_string() })?;
        let (name, topic) = (name.as_str().into(), feed.topic.as_str().into());
        Ok(FeedRules { name, topic, rules, bad_records: feed.bad_records })
    };
    config.feed.iter().map(rules).collect()
}

/// Offsets mean nothing in another topic or under another feed's name, and intervals nothing at another frequency.
pub(super) fn check_feeds(config: &Config, state: &IngestState) -> Result<(), IngestError> {
    let labelled = config.feed.iter().find(|(_, feed)| !feed.labels.is_empty());
    let asked = [
        config.rollup.keys().next().map(|name| format!("rollup.{name}")),
        config.labels.keys().next().map(|name| format!("labels.{name}")),
        labelled.map(|(name, _)| format!("feed.{name}.labels")),
    ];
    if let Some(key) = asked.into_iter().flatten().next() {
        return Err(IngestError::NotYet { key });
    }
    for (name, feed) in &config.feed {
        let gone =
            state.feeds.iter().find(|(known, read)| read.topic == feed.topic && !config.feed.contains_key(*known));
        if let (Some((gone, _)), false) = (gone, state.feeds.contains_key(name)) {
            let reason = format!(
                "its topic `{}` was read by the feed `{gone}`, which is no longer configured; a feed keeps its name: \
                 call it `{gone}` again",
                feed.topic
            );
            return Err(IngestError::Feed { feed: name.clone(), reason });
        }
        if let Some(known) = state.feeds.get(name)
            && known.topic != feed.topic
        {
            let reason = format!(
                "its topic is `{}`, but it was `{}` when readings were committed; give a new topic a feed of its own",
                feed.topic, known.topic
            );
            return Err(IngestError::Feed { feed: name.clone(), reason });
        }
    }
    Ok(())
}

// A series has one frequency.
fn check_series(config: &Config, series: &SeriesState) -> Result<(), IngestError> {
    let declared = config.feed.get(&*series.feed).and_then(|feed| feed.frequency);
    match (declared, series.frequency) {
        (Some(declared), Some(known)) if declared != known => {
            let reason = format!(
                "frequency {declared} is declared, but series `{}` was committed at {known}; leave the declaration out",
                series.id
            );
            Err(IngestError::Feed { feed: series.feed.to_string(), reason })
        }
        _ => Ok(()),
    }
}

/// A series on its way into a shard: the number of its feed, its state, and the commit whose segment holds it.
pub(super) type Restored = (u16, SeriesState, i64);

/// Hands every series of a state to `take`.
pub(super) async fn restore(
    config: &Config,
    lake: &Lake,
    state: &IngestState,
    feeds: &[FeedRules],
    mut take: impl FnMut(Restored),
) -> Result<(), IngestError> {
    let mut refused = None;
    each_series(lake, state, |series, written| {
        if let Err(error) = check_series(config, &series) {
            refused.get_or_insert(error);
        }
        let feed = feeds.iter().position(|feed| *feed.name == *series.feed);
        take((feed.map_or(NOT_CONFIGURED, |number| number as u16), series, written));
    })
    .await?;
    refused.map_or(Ok(()), Err)
}

/// Adds the feeds that a state does not have yet.
pub(super) fn add_feeds(config: &Config, state: &mut IngestState) {
    for (name, feed) in &config.feed {
        state.feeds.entry(name.clone()).or_default().topic.clone_from(&feed.topic);
    }
}

fn wanted(config: &Config) -> Vec<Wanted> {
    let wanted = |(name, feed): (&String, &FeedConfig)| Wanted {
        name: name.clone(),
        topic: feed.topic.as_str().into(),
        on_recreated: feed.on_recreated,
        on_expired: feed.on_expired,
    };
    config.feed.iter().map(wanted).collect()
}

fn positions(names: &[String], state: &IngestState) -> BTreeMap<(u16, i32), Progress> {
    let mut positions = BTreeMap::new();
    for (number, name) in names.iter().enumerate() {
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
        setups.push(Setup {
            source: dataflow::connect(&config.kafka, index, bounds)?,
            decoders: decoders.collect::<Result<_, _>>()?,
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

fn out_of_turn() -> IngestError {
    IngestError::Fault("a part of an epoch came out of turn".into())
}

/// Closes epochs, collects their parts, and commits them.
struct Coordinator {
    config: Config,
    committer: Committer,
    control: Arc<Control>,
    events: channel::UnboundedReceiver<Event>,
    feeds: Vec<String>,
    workers: usize,
    idleness: Idleness,
    // By worker.
    recalled: Vec<mpsc::Sender<Recalled>>,
    brokers: Brokers,
    pulse: Pulse,
    publish: watch::Sender<Option<Arc<Committed>>>,
    report: Arc<Mutex<Option<Report>>>,
    requests: channel::Receiver<Request>,
    stopped: watch::Receiver<bool>,
}

impl Coordinator {
    async fn run(mut self) -> Result<(), IngestError> {
        self.begin().await?;
        let mut was_full = false;
        // States that the next commit will write, about.
        let mut states = 0;
        loop {
            // Also where the stream never has to wait.
            if let Ok(request) = self.requests.try_recv() {
                self.serve(request).await;
            }
            let stop = self.wait_until_due(was_full).await?;
            was_full = self.control.full();
            let known = &self.committer.committed().state;
            let place = Place { seq: known.seq + 1, rewrite_from: rewrite_from(&known.segments, states) };
            let epoch = self.control.open_next(place);
            let parts = self.collect(epoch).await?;
            states = parts.shards.iter().map(|part| part.states.series).sum();
            if parts.records() > 0 || parts.has_gaps() || parts.has_states() || self.caught_up(&parts) {
                self.commit(parts, place).await?;
            }
            if stop {
                return Ok(());
            }
        }
    }

    // The census of the series that the stream begins with comes from the workers.
    async fn begin(&mut self) -> Result<(), IngestError> {
        let mut census = Census::new(&self.config);
        for _ in 0..self.workers {
            match self.events.recv().await {
                Some(Event::Census(part)) if part.epoch == 0 => census.add(part.counts),
                Some(Event::Failed(error)) => return Err(error),
                Some(_) => return Err(out_of_turn()),
                None => return Err(IngestError::Fault("all workers of the stream ended".into())),
            }
        }
        self.committer.set_census(Arc::new(census));
        self.make_known();
        Ok(())
    }

    // Until the open epoch is to be closed; whether it is the last one.
    async fn wait_until_due(&mut self, was_full: bool) -> Result<bool, IngestError> {
        let opened = Instant::now();
        let interval = self.config.ingest.commit_interval.to_std();
        let mut looked = Instant::now();
        loop {
            if *self.stopped.borrow_and_update() {
                return Ok(true);
            }
            let news = self.control.has_news();
            // The end of a backlog becomes visible at once.
            let caught_up = was_full && self.control.quiet() >= CAUGHT_UP;
            if news && (opened.elapsed() >= interval || self.control.full() || caught_up) {
                return Ok(false);
            }
            if self.control.records() == 0 && looked.elapsed() >= IDLE_LOOK {
                self.commit_idle().await?;
                looked = Instant::now();
                // What is behind may be nothing to read (an aborted transaction): ask the sources how far they are.
                if self.lags() {
                    return Ok(false);
                }
            }
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(Event::Failed(error)) => return Err(error),
                    Some(_) => return Err(out_of_turn()),
                    None => return Err(IngestError::Fault("all workers of the stream ended".into())),
                },
                Some(request) = self.requests.recv() => self.serve(request).await,
                // A sender that is gone means that nobody can stop the stream any more but by ending it.
                changed = self.stopped.changed() => if changed.is_err() {
                    return Ok(true);
                },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    // Who asked may have gone away: then nobody is told.
    async fn serve(&mut self, request: Request) {
        match request {
            Request::Settle(reply) => {
                let _ = reply.send(());
            }
            Request::Rewrite { table, rewrite, reply } => {
                let result = self.committer.rewrite(table, &rewrite).await;
                // Nothing that anybody waits for is new.
                self.publish.send_if_modified(|known| {
                    if known.is_some() {
                        *known = Some(Arc::new(self.committer.committed().clone()));
                    }
                    false
                });
                let _ = reply.send(result);
            }
        }
    }

    // Whether something is behind, as far as the newest commit knows.
    fn lags(&self) -> bool {
        let feeds = &self.committer.committed().state.feeds;
        feeds.values().flat_map(|feed| feed.partitions.values()).any(|p| p.lag() > 0)
    }

    // Whether a partition that was behind no longer is.
    fn caught_up(&self, parts: &Parts) -> bool {
        let feeds = &self.committer.committed().state.feeds;
        parts.sources.iter().flat_map(|part| &part.partitions).any(|now| {
            let known = feeds.get(&self.feeds[usize::from(now.feed)]).and_then(|f| f.partitions.get(&now.partition));
            known.is_some_and(|p| p.end_offset > p.next_offset) && now.end_offset <= now.next_offset
        })
    }

    async fn collect(&mut self, epoch: u64) -> Result<Parts, IngestError> {
        let mut parts = Parts::default();
        while !parts.complete(self.workers) {
            let event = match tokio::time::timeout(SLOW_EPOCH, self.events.recv()).await {
                Ok(Some(event)) => event,
                Ok(None) => return Err(IngestError::Fault("all workers of the stream ended".into())),
                Err(_) => {
                    let (sources, shards, of) = (parts.sources.len(), parts.shards.len(), self.workers);
                    tracing::warn!(epoch, sources, shards, of, "waiting for the workers to finish an epoch");
                    continue;
                }
            };
            match event {
                Event::Failed(error) => return Err(error),
                Event::Source(part) if part.epoch == epoch => parts.sources.push(part),
                Event::Shard(part) if part.epoch == epoch => parts.shards.push(part),
                Event::Census(part) if part.epoch == epoch => parts.census.push(part),
                Event::Wanted { worker, wanted } => {
                    let began = Instant::now();
                    let found = self.committer.look_up(&wanted).await?;
                    let (intervals, samples, declined) = (found.intervals.len(), found.samples.len(), found.declined);
                    let took_ms = began.elapsed().as_millis() as u64;
                    tracing::debug!(
                        epoch,
                        worker,
                        intervals,
                        samples,
                        declined,
                        took_ms,
                        "looked up what was written earlier"
                    );
                    // A worker that has ended says so itself.
                    let _ = self.recalled[worker].send(found);
                }
                Event::Source(_) | Event::Shard(_) | Event::Census(_) => return Err(out_of_turn()),
            }
        }
        Ok(parts)
    }

    async fn commit(&mut self, mut parts: Parts, place: Place) -> Result<(), IngestError> {
        let began = Instant::now();
        let records = parts.records();
        let mut state = IngestState::clone(&self.committer.committed().state);
        add_feeds(&self.config, &mut state);
        epoch::add(&mut state, &parts, &self.feeds);
        let mut census = Census::clone(&self.committer.committed().census);
        parts.census.drain(..).for_each(|part| census.add(part.counts));
        self.idleness.heard(&parts, &self.feeds, began);
        self.idleness.advance(&mut state.feeds, &census, &self.config, &self.brokers, began);
        let before = state.committed_at;
        state.committed_at = jiff::Timestamp::now().as_microsecond();
        parts.rates(&mut state, &self.feeds, before);
        let states = parts.take_states();
        let (intervals, dead_letters) = epoch::rows(parts)?;
        let (rows, dead) = (intervals.len(), dead_letters.as_ref().map_or(0, RecordBatch::num_rows));
        let (rewrite_from, census) = (place.rewrite_from, Arc::new(census));
        let batch = Batch { intervals, dead_letters, state, states, rewrite_from, census };
        let committed = self.make(batch).await?;
        let partitions = committed.state.feeds.values().flat_map(|feed| feed.partitions.values());
        let lag: i64 = partitions.map(PartitionState::lag).sum();
        let watermark = committed.state.feeds.values().filter_map(|feed| feed.watermark).min();
        tracing::info!(
            commit = committed.state.seq,
            records,
            rows,
            dead_letters = dead,
            lag,
            watermark = watermark.map(format_micros),
            took_ms = began.elapsed().as_millis() as u64,
            "committed"
        );
        self.make_known();
        Ok(())
    }

    async fn make(&mut self, batch: Batch) -> Result<Committed, IngestError> {
        self.pulse.begins();
        let made = self.committer.commit(batch).await;
        self.pulse.ends();
        made
    }

    // No records, but partitions that have become idle may let the watermark go on.
    async fn commit_idle(&mut self) -> Result<(), IngestError> {
        let Committed { state: known, census, .. } = self.committer.committed().clone();
        if known.seq == 0 {
            return Ok(());
        }
        let mut feeds = known.feeds.clone();
        if !self.idleness.advance(&mut feeds, &census, &self.config, &self.brokers, Instant::now()) {
            return Ok(());
        }
        let state =
            IngestState { feeds, committed_at: jiff::Timestamp::now().as_microsecond(), ..IngestState::clone(&known) };
        let batch = Batch {
            intervals: EpochRows::default(),
            dead_letters: None,
            state,
            states: Frames::default(),
            rewrite_from: i64::MAX,
            census,
        };
        let committed = self.make(batch).await?;
        tracing::debug!(commit = committed.state.seq, "idle partitions no longer hold the watermark");
        self.make_known();
        Ok(())
    }

    // Tells everybody about the newest commit.
    fn make_known(&self) {
        let committed = self.committer.committed();
        if committed.state.seq == 0 {
            return;
        }
        let mut report = Report::new();
        for (number, name) in self.feeds.iter().enumerate() {
            let Some(feed) = committed.state.feeds.get(name) else { continue };
            if let Some(watermark) = feed.watermark {
                self.control.set_watermark(number, watermark);
            }
            let live = feed.partitions.iter().filter(|(partition, _)| **partition >= 0);
            report.extend(live.map(|(partition, read)| Reported {
                feed: number as u16,
                partition: *partition,
                incarnation: read.incarnation,
                first_offset: read.first_offset,
                next_offset: read.next_offset,
            }));
        }
        if let Ok(mut newest) = self.report.lock() {
            *newest = Some(report);
        }
        self.publish.send_replace(Some(Arc::new(committed.clone())));
    }
}
