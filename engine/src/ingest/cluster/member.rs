//! The side of the other processes: workers alone, which do what process 0 says.

use std::io;
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use meterline_connectors::lake::Lake;
use meterline_schemas::config::Config;
use tokio::sync::{mpsc as channel, oneshot};
use tokio::task::JoinHandle;

use super::super::bounds::Bounds;
use super::super::control::Control;
use super::super::crew::Crew;
use super::super::dataflow::{self, Common, Event};
use super::super::error::IngestError;
use super::super::feeds::{check_feeds, feed_rules, read_topics};
use super::super::load::{States, decode_state};
use super::super::lock::EngineLock;
use super::super::names::Names;
use super::super::outlet::Outlet;
use super::super::patience::Patience;
use super::super::pulse::Pulse;
use super::super::service::IngestOptions;
use super::super::shard::FeedRules;
use super::super::threads::Threads;
use super::super::workers::{Inlet, Prepared, Start};
use super::assemble::join;
use super::link::Link;
use super::membership::Membership;
use super::message::{Begin, Down, Read, Up};
use super::socket::{Socket, dismiss};
use super::{ClusterError, off_thread, same_lake};

/// How long the other end of a link may take to hear of an error.
pub const TOLD_LIMIT: Duration = Duration::from_secs(5);

/// A process of the cluster other than process 0. Dropping it ends it as a crash would.
pub struct Member {
    queue: mpsc::Sender<Up>,
    // `None` once its end was reported.
    task: Option<JoinHandle<Result<(), IngestError>>>,
}

impl Member {
    /// Asks process 0 to commit what was read and to end all processes.
    pub fn stop(&self) {
        // Without a link the end is near anyway.
        let _ = self.queue.send(Up::Stop);
    }

    /// Resolves when the process is to end; never after that.
    ///
    /// # Errors
    /// The stream cannot go on.
    pub async fn ended(&mut self) -> Result<(), IngestError> {
        let Some(task) = &mut self.task else { return std::future::pending().await };
        let ended = task.await;
        self.task = None;
        ended.unwrap_or_else(|error| Err(IngestError::Fault(format!("the process's task ended: {error}"))))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Joins the cluster as the process that the options name, and starts its workers once all processes are there; `pulse`
/// hears how far that is.
///
/// # Errors
/// The configuration does not fit, the other processes refuse this one, or the lake cannot be read or is another one.
pub async fn follow(
    config: &Config,
    lake: &Lake,
    options: IngestOptions,
    pulse: &Pulse,
) -> Result<Member, IngestError> {
    let starting = pulse.starts(Instant::now());
    pulse.does("waiting for the other processes of the cluster");
    if config.feed.is_empty() {
        return Err(IngestError::NoFeed);
    }
    let (process, threads) = (options.process, options.threads(config));
    let feeds = feed_rules(config)?;
    let membership = Membership::of(config, &options.directory, process, threads)?;
    let me = Arc::new(membership.ok_or(ClusterError::NoSuchProcess { process, processes: 1 })?);
    let (crew, bounds) = (me.crew(), Bounds::of(config, me.crew()));
    let lock = EngineLock::engine(lake)?;
    let control = Arc::new(Control::new(bounds.share, feeds.len(), Arc::default()));
    let joining = Arc::clone(&me);
    let (stream, begin, sockets) = off_thread(move |given_up| join(&joining, given_up)).await?;
    let (link, downs, over) = start_link(stream, &control).map_err(|error| lost(&me, 0, error))?;
    let queue = link.queue();

    let restoring = Restoring {
        config,
        lake,
        options: &options,
        feeds: &feeds,
        crew,
        bounds: &bounds,
        control: &control,
        pulse,
        queue: queue.clone(),
    };
    let prepared = tokio::select! {
        prepared = restoring.restore(&begin) => prepared,
        _ = over => {
            last_word(&me, &downs)?;
            // All end well, before anything began here.
            sockets.iter().flatten().for_each(dismiss);
            return Ok(Member { queue, task: Some(tokio::spawn(std::future::ready(Ok(())))) });
        }
    };
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Err(tell(link, error).await),
    };
    let (ending, mut ended) = channel::unbounded_channel();
    let failed = failures(queue.clone(), ending.clone());
    let (events, of_workers) = (queue.clone(), failed.clone());
    let common = Common {
        feeds: feeds.into(),
        topics: read_topics(config).into(),
        control: Arc::clone(&control),
        events: Outlet::new(move |event| match event {
            Event::Failed(error) => of_workers.send(error),
            event => _ = events.send(Up::Event(event)),
        }),
        crew,
        bounds,
        not_before: prepared.committed_at,
    };
    let sockets = workers_sockets(&me, sockets, &control, &failed);
    let threads = match dataflow::start(common, prepared.setups, sockets) {
        Ok(running) => Threads::new(Arc::clone(&control), running, lock),
        Err(error) => return Err(tell(link, error).await),
    };
    drop(starting);
    let obeying = Obeying { me, crew, control, inlets: prepared.inlets, ending };
    let spawned = std::thread::Builder::new().name("process-0-orders".into()).spawn(move || obeying.run(&downs));
    if let Err(error) = spawned {
        return Err(tell(link, IngestError::Fault(format!("starting a thread: {error}"))).await);
    }
    let task = tokio::spawn(async move {
        let outcome = ended.recv().await.unwrap_or_else(|| Err(without_a_word()));
        threads.end(outcome.is_ok()).await;
        if outcome.is_err() {
            await_told(link).await;
        }
        outcome
    });
    Ok(Member { queue, task: Some(task) })
}

/// What the workers of this process are restored with.
struct Restoring<'a> {
    config: &'a Config,
    lake: &'a Lake,
    options: &'a IngestOptions,
    feeds: &'a [FeedRules],
    crew: Crew,
    bounds: &'a Bounds,
    control: &'a Control,
    pulse: &'a Pulse,
    queue: mpsc::Sender<Up>,
}

impl Restoring<'_> {
    async fn restore(self, begin: &Begin) -> Result<Prepared, IngestError> {
        let Restoring { config, lake, options, feeds, crew, bounds, control, pulse, queue } = self;
        // A store that fails is not waited for once everything stops.
        let patience = Patience::new(Arc::clone(&control.stopping), pulse.clone());
        let state = decode_state("as process 0 sent it", &begin.state)?;
        same_lake::check(lake, &patience, begin, &state).await?;
        check_feeds(config, &state)?;
        let names = Names::of(config);
        control.set_watermarks(&names, &state);
        let start = Start {
            config,
            states: States::patient(lake, &patience),
            directory: &options.directory,
            names: &names,
            feeds,
            state: &state,
            fence: begin.fence,
            crew,
            bounds,
            given_back: Outlet::new(move |back| _ = queue.send(Up::GivenBack(back))),
        };
        let prepared = start.prepare().await?;
        tracing::info!(
            process = crew.process,
            processes = crew.processes,
            commit = state.seq,
            series = prepared.series,
            workers = crew.threads,
            memory_limit = %config.ingest.memory_limit,
            "the stream goes on after this commit"
        );
        Ok(prepared)
    }
}

// Why this process ends, once process 0 knows it: its log is the one that an operator reads.
async fn tell(link: Link<Up>, error: IngestError) -> IngestError {
    link.tell(failed(&error));
    await_told(link).await;
    error
}

async fn await_told(link: Link<Up>) {
    let waited = tokio::task::spawn_blocking(move || link.await_end(TOLD_LIMIT)).await;
    tracing::debug!(told = waited.is_ok_and(|told| told), "process 0 knows why this process ends");
}

fn failed(error: &IngestError) -> Up {
    Up::Failed { reason: error.to_string(), usage: error.is_usage() }
}

fn lost(me: &Membership, process: usize, error: io::Error) -> IngestError {
    let address = me.addresses.get(process).cloned().unwrap_or_default();
    ClusterError::Lost { process, address, reason: error.to_string() }.into()
}

type Downs = mpsc::Receiver<io::Result<Down>>;

// Orders wait in the channel until the workers are there; that this process is there goes out at once. What comes last
// of the result resolves once nothing more will be heard.
fn start_link(stream: TcpStream, control: &Arc<Control>) -> io::Result<(Link<Up>, Downs, oneshot::Receiver<()>)> {
    let (sender, downs) = mpsc::channel();
    let (end, over) = oneshot::channel();
    let (mut end, stopping) = (Some(end), Arc::clone(&control.stopping));
    let (control, mut told) = (Arc::clone(control), Read::default());
    let tick = move || {
        let now = Read {
            epoch: control.epoch(),
            records: control.records(),
            passed: control.has_passed(),
            full: control.full(),
        };
        let news = now != told;
        told = now;
        news.then_some(Up::Read(now))
    };
    let take = move |got: io::Result<Down>| {
        let last = matches!(got, Ok(Down::End | Down::Failed(_)) | Err(_));
        let taken = sender.send(got).is_ok();
        if last {
            // Nothing is to be read any more, and no store to be waited for.
            stopping.store(true, Ordering::Relaxed);
            // Without a receiver the workers have begun.
            let _ = end.take().map(|end| end.send(()));
        }
        taken && !last
    };
    Ok((Link::start(stream, "process-0", tick, take)?, downs, over))
}

// What comes over the link: an order, or how everything ends.
fn heard(me: &Membership, got: io::Result<Down>) -> ControlFlow<Result<(), IngestError>, Down> {
    match got {
        Ok(Down::End) => ControlFlow::Break(Ok(())),
        Ok(Down::Failed(reason)) => {
            ControlFlow::Break(Err(ClusterError::Elsewhere { process: 0, reason, usage: false }.into()))
        }
        Ok(order) => ControlFlow::Continue(order),
        Err(error) => ControlFlow::Break(Err(lost(me, 0, error))),
    }
}

// How everything ends, of a link that is over.
fn last_word(me: &Membership, downs: &Downs) -> Result<(), IngestError> {
    match downs.try_iter().last().map(|got| heard(me, got)) {
        Some(ControlFlow::Break(end)) => end,
        _ => Err(without_a_word()),
    }
}

fn without_a_word() -> IngestError {
    IngestError::Fault("the link to process 0 ended without a word".into())
}

// What ends this process, and then all others.
fn failures(queue: mpsc::Sender<Up>, ending: channel::UnboundedSender<Result<(), IngestError>>) -> Outlet<IngestError> {
    Outlet::new(move |error: IngestError| {
        let _ = queue.send(failed(&error));
        let _ = ending.send(Err(error));
    })
}

/// The connections to the workers of other processes, as timely takes them.
pub fn workers_sockets(
    me: &Arc<Membership>,
    sockets: Vec<Option<TcpStream>>,
    control: &Control,
    failed: &Outlet<IngestError>,
) -> Vec<Option<Socket>> {
    let socket = |(process, stream): (usize, Option<TcpStream>)| {
        let (me, failed) = (Arc::clone(me), failed.clone());
        let lost = Outlet::new(move |error| failed.send(lost(&me, process, error)));
        Some(Socket::new(stream?, Arc::clone(&control.closing), lost))
    };
    sockets.into_iter().enumerate().map(socket).collect()
}

/// Does what process 0 says.
struct Obeying {
    me: Arc<Membership>,
    crew: Crew,
    control: Arc<Control>,
    // By number of the worker in this process.
    inlets: Vec<Inlet>,
    ending: channel::UnboundedSender<Result<(), IngestError>>,
}

impl Obeying {
    fn run(self, downs: &Downs) {
        while let Ok(got) = downs.recv() {
            match heard(&self.me, got) {
                ControlFlow::Continue(order) => self.obey(order),
                ControlFlow::Break(end) => {
                    // Without a receiver the process has ended already.
                    let _ = self.ending.send(end);
                    return;
                }
            }
        }
    }

    fn obey(&self, order: Down) {
        match order {
            Down::Open { epoch, places, stopping } => {
                if stopping {
                    self.control.stopping.store(true, Ordering::Relaxed);
                }
                let closed = self.control.open_next(places);
                if closed != epoch {
                    let reason = format!("process 0 closed epoch {epoch}, this process {closed}");
                    let _ = self.ending.send(Err(IngestError::Fault(reason)));
                }
            }
            Down::Watermarks(all) => {
                all.into_iter().for_each(|(feed, watermark)| self.control.set_watermark(feed, watermark));
            }
            Down::Command { worker, command } => self.inlet(worker, |inlet| inlet.commands.send(command)),
            Down::Recalled { worker, found } => self.inlet(worker, |inlet| inlet.recalled.send(found)),
            Down::SeriesRows { worker, rows } => self.inlet(worker, |inlet| {
                if let Some(answers) = &inlet.answers {
                    answers.series.send(rows);
                }
            }),
            Down::GroupRows { worker, rows } => self.inlet(worker, |inlet| {
                if let Some(answers) = &inlet.answers {
                    answers.groups.send(rows);
                }
            }),
            Down::Begin(_) | Down::End | Down::Failed(_) => {
                let _ = self.ending.send(Err(IngestError::Fault("process 0 said something out of turn".into())));
            }
        }
    }

    fn inlet(&self, worker: usize, give: impl FnOnce(&Inlet)) {
        match self.crew.local(worker).and_then(|local| self.inlets.get(local)) {
            Some(inlet) => give(inlet),
            None => {
                let reason = format!("process 0 takes worker {worker} for one of process {}", self.crew.process);
                let _ = self.ending.send(Err(IngestError::Fault(reason)));
            }
        }
    }
}
