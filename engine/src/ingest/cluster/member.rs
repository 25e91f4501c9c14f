//! The side of the other processes: workers alone, which do what process 0 says.

use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use meterline_connectors::lake::Lake;
use meterline_schemas::config::Config;
use tokio::sync::mpsc as channel;
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
use super::super::threads::Threads;
use super::super::workers::{Inlet, Start};
use super::assemble::join;
use super::link::Link;
use super::membership::Membership;
use super::message::{Down, Read, Up};
use super::socket::Socket;
use super::{ClusterError, off_thread};

/// How long process 0 may take to hear of an error.
const TOLD_LIMIT: Duration = Duration::from_secs(5);

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

/// Joins the cluster as the process that the options name, and starts its workers once all processes are there.
///
/// # Errors
/// The configuration does not fit, the other processes refuse this one, or the lake cannot be read.
pub async fn follow(config: &Config, lake: &Lake, options: IngestOptions) -> Result<Member, IngestError> {
    if config.feed.is_empty() {
        return Err(IngestError::NoFeed);
    }
    let (process, threads) = (options.process, options.threads(config));
    let feeds = feed_rules(config)?;
    let membership = Membership::of(config, &options.directory, process, threads)?;
    let me = Arc::new(membership.ok_or(ClusterError::NoSuchProcess { process, processes: 1 })?);
    let crew = me.crew();
    let bounds = Bounds::of(&config.ingest, crew);
    let lock = EngineLock::engine(lake)?;
    let stopping = Arc::new(AtomicBool::new(false));
    let patience = Patience::new(Arc::clone(&stopping), Pulse::default());
    let control = Arc::new(Control::new(bounds.share, feeds.len(), stopping));
    let joining = Arc::clone(&me);
    let (stream, begin, sockets) = off_thread(move |given_up| join(&joining, given_up)).await?;
    let (ending, mut ended) = channel::unbounded_channel();
    let (link, downs) = start_link(stream, &control).map_err(|error| lost(&me, 0, error))?;
    let queue = link.queue();
    let failed = failures(queue.clone(), ending.clone());

    let state = decode_state("as process 0 sent it", &begin.state)?;
    check_feeds(config, &state)?;
    let (give_back, names) = (queue.clone(), Names::of(config));
    let prepared = Start {
        config,
        states: States::patient(lake, &patience),
        directory: &options.directory,
        names: &names,
        feeds: &feeds,
        state: &state,
        fence: begin.fence,
        crew,
        bounds: &bounds,
        given_back: Outlet::new(move |back| _ = give_back.send(Up::GivenBack(back))),
    };
    let prepared = prepared.prepare().await?;
    tracing::info!(
        process,
        processes = crew.processes,
        commit = state.seq,
        series = prepared.series,
        workers = threads,
        memory_limit = %config.ingest.memory_limit,
        "the stream goes on after this commit"
    );
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
    };
    let sockets = workers_sockets(&me, sockets, &control, &failed);
    let threads = Threads::new(Arc::clone(&control), dataflow::start(common, prepared.setups, sockets)?, lock);
    let obeying = Obeying { me, crew, control, inlets: prepared.inlets, ending };
    std::thread::Builder::new()
        .name("process-0-orders".into())
        .spawn(move || obeying.run(&downs))
        .map_err(|error| IngestError::Fault(format!("starting a thread: {error}")))?;
    let task = tokio::spawn(async move {
        let fault = || Err(IngestError::Fault("the link to process 0 ended without a word".into()));
        let outcome = ended.recv().await.unwrap_or_else(fault);
        threads.end(outcome.is_ok()).await;
        if outcome.is_err() {
            let waited = tokio::task::spawn_blocking(move || link.await_end(TOLD_LIMIT)).await;
            tracing::debug!(told = waited.is_ok_and(|told| told), "process 0 knows why this process ends");
        }
        outcome
    });
    Ok(Member { queue, task: Some(task) })
}

fn lost(me: &Membership, process: usize, error: io::Error) -> IngestError {
    let address = me.addresses.get(process).cloned().unwrap_or_default();
    ClusterError::Lost { process, address, reason: error.to_string() }.into()
}

type Downs = mpsc::Receiver<io::Result<Down>>;

// Orders wait in the channel until the workers are there; that this process is there goes out at once.
fn start_link(stream: TcpStream, control: &Arc<Control>) -> io::Result<(Link<Up>, Downs)> {
    let (sender, downs) = mpsc::channel();
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
        sender.send(got).is_ok() && !last
    };
    Ok((Link::start(stream, "process-0", tick, take)?, downs))
}

// What ends this process, and then all others.
fn failures(queue: mpsc::Sender<Up>, ending: channel::UnboundedSender<Result<(), IngestError>>) -> Outlet<IngestError> {
    Outlet::new(move |error: IngestError| {
        let _ = queue.send(Up::Failed { reason: error.to_string(), usage: error.is_usage() });
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
            let end = match got {
                Ok(Down::End) => Ok(()),
                Ok(Down::Failed(reason)) => Err(ClusterError::Elsewhere { process: 0, reason, usage: false }.into()),
                Err(error) => Err(lost(&self.me, 0, error)),
                Ok(order) => {
                    self.obey(order);
                    continue;
                }
            };
            // Without a receiver the process has ended already.
            let _ = self.ending.send(end);
            return;
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
