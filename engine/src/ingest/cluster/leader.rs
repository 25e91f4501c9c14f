//! The side of process 0: what the other processes say goes to the coordinator and to discovery, and what these say
//! goes to them.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use meterline_connectors::lake::Lake;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

use super::super::commit::encode_state;
use super::super::control::Control;
use super::super::dataflow::Event;
use super::super::discovery::{Command, GivenBack};
use super::super::error::IngestError;
use super::super::outlet::Outlet;
use super::super::recall::Recalled;
use super::super::rollup::ask::Answers;
use super::super::state::IngestState;
use super::assemble::{Gathered, gather};
use super::link::Link;
use super::member::{TOLD_LIMIT, workers_sockets};
use super::membership::Membership;
use super::message::{Begin, Down, Read, Up};
use super::socket::Socket;
use super::{ClusterError, off_thread};

/// How long the other processes may take to end, beside the threads of this one: as long as these.
const END_LIMIT: Duration = Duration::from_secs(20);

/// What process 0 has of a cluster; nothing where there is one process.
pub struct Cluster {
    /// To the other processes.
    pub links: Arc<Links>,
    gathered: Option<(Arc<Membership>, Gathered)>,
    taken: Taken,
}

impl Cluster {
    /// Waits, aloud, until all processes are there.
    ///
    /// # Errors
    /// This process cannot listen at its address.
    pub async fn gather(membership: Option<Membership>, taken: Taken) -> Result<Cluster, IngestError> {
        let Some(membership) = membership else {
            return Ok(Cluster { links: Arc::default(), gathered: None, taken });
        };
        let me = Arc::new(membership);
        let gathering = Arc::clone(&me);
        let (gathered, streams) = off_thread(move |given_up| gather(&gathering, given_up)).await?;
        let fault = |error: io::Error| IngestError::Fault(format!("starting the links to other processes: {error}"));
        let links = Arc::new(Links::start(streams, &me.addresses, &taken).map_err(fault)?);
        tracing::info!(processes = me.addresses.len(), "all processes of the cluster are there");
        Ok(Cluster { links, gathered: Some((me, gathered)), taken })
    }

    /// Tells the other processes what the stream begins with, and gives the connections to their workers.
    ///
    /// # Errors
    /// One of them is lost.
    pub async fn begin(
        self,
        lake: &Lake,
        state: &IngestState,
        fence: i64,
        events: &mut UnboundedReceiver<Event>,
    ) -> Result<Vec<Option<Socket>>, IngestError> {
        let Some((me, gathered)) = self.gathered else { return Ok(Vec::new()) };
        let (session, lake) = (gathered.session, lake.url().to_owned());
        let begin = Begin { session, lake, fence, state: encode_state(state)? };
        self.links.tell(|| Down::Begin(begin));
        let connecting = Arc::clone(&me);
        let connected = off_thread(move |given_up| gathered.connect_workers(&connecting, given_up));
        let sockets = tokio::select! {
            sockets = connected => sockets?,
            // Nothing else can come yet.
            Some(Event::Failed(error)) = events.recv() => return Err(error),
        };
        let taken = self.taken.clone();
        let failed = Outlet::new(move |error| taken.events.send(Event::Failed(error)));
        Ok(workers_sockets(&me, sockets, &self.taken.control, &failed))
    }
}

/// The links to all other processes; none where there is one process.
#[derive(Default)]
pub struct Links {
    // By process, from 1.
    links: BTreeMap<usize, Link<Down>>,
    // That a link closes is as it should be from then on.
    over: Arc<AtomicBool>,
}

/// What takes what the other processes say.
#[derive(Clone)]
pub struct Taken {
    /// The coordinator.
    pub events: Outlet<Event>,
    /// Discovery.
    pub given_back: Outlet<GivenBack>,
    /// What the workers of this process go by.
    pub control: Arc<Control>,
    /// Set when a process was asked to end.
    pub asked_to_stop: watch::Sender<bool>,
}

impl Links {
    /// Begins with connections to each other process, whose addresses are for messages.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn start(streams: BTreeMap<usize, TcpStream>, addresses: &[String], taken: &Taken) -> io::Result<Links> {
        let mut links = Links::default();
        for (process, stream) in streams {
            let address = addresses.get(process).cloned().unwrap_or_default();
            let (taken, over) = (taken.clone(), Arc::clone(&links.over));
            let mut read = Read::default();
            let take = move |got: io::Result<Up>| {
                match got {
                    Ok(Up::Event(event)) => taken.events.send(event),
                    Ok(Up::GivenBack(back)) => taken.given_back.send(back),
                    Ok(Up::Read(now)) => taken.read(std::mem::replace(&mut read, now), now),
                    Ok(Up::Stop) => _ = taken.asked_to_stop.send_replace(true),
                    Ok(Up::Failed { reason, usage }) => {
                        taken.failed(ClusterError::Elsewhere { process, reason, usage });
                    }
                    Err(_) if over.load(Ordering::Acquire) => {}
                    Err(error) => {
                        let address = address.clone();
                        taken.failed(ClusterError::Lost { process, address, reason: error.to_string() });
                    }
                }
                true
            };
            links.links.insert(process, Link::start(stream, &format!("process-{process}"), || None, take)?);
        }
        Ok(links)
    }

    /// Tells all other processes something.
    pub fn tell(&self, what: impl FnOnce() -> Down) {
        if self.links.is_empty() {
            return;
        }
        let what = what();
        for link in self.links.values() {
            link.tell(what.clone());
        }
    }

    fn queue(&self, process: usize) -> Option<mpsc::Sender<Down>> {
        self.links.get(&process).map(Link::queue)
    }

    /// Where commands for a worker of another process go.
    pub fn commands(&self, process: usize, worker: usize) -> Outlet<Command> {
        self.outlet(process, move |command| Down::Command { worker, command })
    }

    /// Where what was looked up for the shard of a worker of another process goes.
    pub fn recalled(&self, process: usize, worker: usize) -> Outlet<Recalled> {
        self.outlet(process, move |found| Down::Recalled { worker, found })
    }

    /// Where what was looked up for roll-ups of a worker of another process goes.
    pub fn answers(&self, process: usize, worker: usize) -> Answers {
        Answers {
            series: self.outlet(process, move |rows| Down::SeriesRows { worker, rows }),
            groups: self.outlet(process, move |rows| Down::GroupRows { worker, rows }),
        }
    }

    // A process that has ended is told by its link.
    fn outlet<T: 'static>(&self, process: usize, say: impl Fn(T) -> Down + Send + Sync + 'static) -> Outlet<T> {
        let queue = self.queue(process);
        Outlet::new(move |item| {
            if let Some(queue) = &queue {
                let _ = queue.send(say(item));
            }
        })
    }

    /// All processes are to end, because everything is committed, or because of an error.
    pub fn end(&self, error: Option<&IngestError>) {
        self.over.store(true, Ordering::Release);
        self.tell(|| error.map_or(Down::End, |error| Down::Failed(error.to_string())));
    }

    /// Waits until all processes have ended that were told to.
    pub fn await_end(&self) {
        self.await_within(END_LIMIT);
    }

    /// The same where nothing has begun yet: they have only to hear it.
    pub fn await_told(&self) {
        self.await_within(TOLD_LIMIT);
    }

    fn await_within(&self, limit: Duration) {
        let began = Instant::now();
        for (process, link) in &self.links {
            if !link.await_end(limit.saturating_sub(began.elapsed())) {
                tracing::warn!(process, limit_s = limit.as_secs(), "a process of the cluster did not end in time");
            }
        }
    }
}

impl Taken {
    fn failed(&self, error: ClusterError) {
        self.events.send(Event::Failed(error.into()));
    }

    // The sources of a process have come from one place to another.
    fn read(&self, before: Read, now: Read) {
        if now.epoch != self.control.epoch() {
            // Of an epoch that is closed: its parts say how much it has.
            return;
        }
        let before = if before.epoch == now.epoch { before } else { Read::default() };
        if now.records > before.records {
            self.control.found_elsewhere(now.records - before.records);
        }
        if now.passed {
            self.control.passed();
        }
        if now.full {
            self.control.fill(now.epoch);
        }
    }
}
