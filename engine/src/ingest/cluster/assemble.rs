//! The processes come together, in whatever order they start. What is missing is waited for, aloud.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::ClusterError;
use super::frame;
use super::handshake::{self, Failure, Purpose, Session};
use super::link::SILENCE_MAX;
use super::membership::Membership;
use super::message::{Begin, Down, Up};

const NAP: Duration = Duration::from_millis(20);
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(250);
/// How long one attempt to connect may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// When the log first says what is waited for, and how often it repeats it.
const REMINDER_FIRST: Duration = Duration::from_secs(2);
const REMINDER: Duration = Duration::from_secs(30);
/// How often processes say that they are still there, before their links do.
const STILL_HERE: Duration = Duration::from_secs(1);
/// How long the workers' connections may take, once all processes are there.
const WORKERS_LIMIT: Duration = Duration::from_secs(60);
/// Bytes of the first message: it has the state of a commit.
const BEGIN_MAX: u64 = 1 << 32;

/// All processes are there: what process 0 needs to connect the workers.
#[derive(Debug)]
pub struct Gathered {
    listener: TcpListener,
    /// Number of this start.
    pub session: Session,
}

/// Says what is waited for, but not at once, and not all the time.
struct Reminder {
    began: Instant,
    next: Duration,
}

impl Reminder {
    fn new() -> Reminder {
        Reminder { began: Instant::now(), next: REMINDER_FIRST }
    }

    // How long something was waited for, where that is to be said now.
    fn due(&mut self) -> Option<u64> {
        let waited = self.began.elapsed();
        if waited < self.next {
            return None;
        }
        self.next = waited + REMINDER;
        Some(waited.as_secs())
    }
}

fn listen(me: &Membership) -> Result<TcpListener, ClusterError> {
    let (process, address) = (me.process, me.addresses[me.process].clone());
    let listening = TcpListener::bind(&address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listening.map_err(|error| {
        let reason = match error.kind() {
            ErrorKind::AddrInUse => "another process has it; is this one running already?".to_owned(),
            ErrorKind::AddrNotAvailable => {
                "it is none of this machine's; is --process the number of this machine's address?".to_owned()
            }
            _ => error.to_string(),
        };
        ClusterError::Listen { process, address, reason }
    })
}

/// Process 0 waits for all others; beside the rest it has a link to each, by its number.
///
/// # Errors
/// It cannot listen, or the start was given up.
pub fn gather(me: &Membership, given_up: &AtomicBool) -> Result<(Gathered, BTreeMap<usize, TcpStream>), ClusterError> {
    let listener = listen(me)?;
    let session = handshake::random().map_err(|error| own_fault(me, &error))?;
    let mut links: BTreeMap<usize, TcpStream> = BTreeMap::new();
    let (mut reminder, mut refusals, mut told) = (Reminder::new(), Reminder::new(), Instant::now());
    let others = 1..me.addresses.len();
    tracing::info!(
        processes = me.addresses.len(),
        listen = me.addresses[me.process],
        "waiting for the processes of the cluster"
    );
    while links.len() < others.len() {
        if given_up.load(Ordering::Relaxed) {
            return Err(ClusterError::GivenUp);
        }
        let admit = |hello: &handshake::Hello| match (hello.purpose, links.get(&hello.process)) {
            (Some(Purpose::Link), None) => Ok(()),
            (Some(Purpose::Link), Some(known)) if !is_there(known) => Ok(()),
            (Some(Purpose::Link), Some(_)) => Err(format!(
                "process {} is there already; give each process a number of its own (meterline run --process N)",
                hello.process
            )),
            _ => Err("it belongs to an earlier start of the cluster; start it again".to_owned()),
        };
        match accept(&listener, me, admit) {
            Ok(Some((hello, stream))) => {
                tracing::info!(
                    process = hello.process,
                    address = me.addresses[hello.process],
                    "a process of the cluster is there"
                );
                links.insert(hello.process, stream);
            }
            Ok(None) => std::thread::sleep(NAP),
            Err(error) => {
                if refusals.due().is_some() {
                    tracing::warn!(%error, "connections of the cluster cannot be accepted; it is tried again");
                }
                std::thread::sleep(NAP);
            }
        }
        if told.elapsed() >= STILL_HERE || links.len() == others.len() {
            told = Instant::now();
            links.retain(|process, stream| {
                let there = is_there(stream) && frame::write_still_here(stream).is_ok();
                if !there {
                    tracing::warn!(process, "a process of the cluster is gone again; it is waited for");
                }
                there
            });
        }
        if let Some(waited_s) = reminder.due() {
            for process in others.clone().filter(|process| !links.contains_key(process)) {
                let address = &me.addresses[process];
                tracing::warn!(process, address, waited_s, "waiting for a process of the cluster to be started");
            }
        }
    }
    Ok((Gathered { listener, session }, links))
}

fn own_fault(me: &Membership, error: &io::Error) -> ClusterError {
    ClusterError::Listen { process: me.process, address: me.addresses[me.process].clone(), reason: error.to_string() }
}

// Whether the other end of a connection still has it open. That it said so is taken away, as the end of the connection
// comes behind it; anything else stays for the link.
fn is_there(stream: &TcpStream) -> bool {
    let look = || -> io::Result<bool> {
        let (mut reading, mut next) = (stream, frame::STILL_HERE);
        loop {
            match reading.peek(&mut next)? {
                0 => return Ok(false),
                // The whole of it, so that the link begins with a message.
                length if length == next.len() && next == frame::STILL_HERE => reading.read_exact(&mut next)?,
                _ => return Ok(true),
            }
        }
    };
    let looked = stream.set_nonblocking(true).and_then(|()| look());
    let blocking = stream.set_nonblocking(false);
    blocking.is_ok() && looked.unwrap_or_else(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Says that this process is still there, as long as its side of the link has not begun: that of process 0 has, which
/// may be busy with a slow store, and it takes a process that is silent for lost. Whoever says it is the only one who
/// writes.
struct StillHere<'a> {
    link: &'a TcpStream,
    said: Instant,
}

impl StillHere<'_> {
    fn new(link: &TcpStream) -> StillHere<'_> {
        StillHere { link, said: Instant::now() }
    }

    // That it cannot be said is seen where something is received.
    fn say(&mut self) {
        let _ = frame::write_still_here(&mut self.link);
        self.said = Instant::now();
    }

    // For those who come here again and again.
    fn say_now_and_then(&mut self) {
        if self.said.elapsed() >= STILL_HERE {
            self.say();
        }
    }
}

// The next connection that is admitted; `None` where there is none at the moment. An error is the operating system's
// (no more open files, say), and may pass.
fn accept(
    listener: &TcpListener,
    me: &Membership,
    admit: impl FnOnce(&handshake::Hello) -> Result<(), String>,
) -> io::Result<Option<(handshake::Hello, TcpStream)>> {
    let (mut stream, from) = match listener.accept() {
        Ok(accepted) => accepted,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(None),
        Err(error) => return Err(error),
    };
    match handshake::answer(&mut stream, me, admit) {
        Ok(hello) => return Ok(Some((hello, stream))),
        Err(Failure::Refused(reason)) => tracing::error!(%from, reason, "refused a connection of the cluster"),
        Err(Failure::Connection(error)) => {
            tracing::warn!(%from, %error, "a connection of the cluster ended before it had begun");
        }
    }
    Ok(None)
}

// One attempt.
fn connect(me: &Membership, process: usize, purpose: Purpose) -> Result<TcpStream, Failure> {
    use std::net::ToSocketAddrs;
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in me.addresses[process].to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_LIMIT) {
            Ok(mut stream) => {
                let theirs = handshake::call(&mut stream, me, purpose)?;
                return match theirs.process == process {
                    true => Ok(stream),
                    false => Err(Failure::Refused(format!(
                        "it is process {}; cluster.addresses or a --process is wrong",
                        theirs.process
                    ))),
                };
            }
            Err(error) => last = error,
        }
    }
    Err(last.into())
}

/// Another process joins: waits for process 0, and then until all others are there. The result is the link, what the
/// stream begins with, and the connections to the workers of the other processes.
///
/// # Errors
/// It cannot listen, is refused, or the start was given up.
pub fn join(
    me: &Membership,
    given_up: &AtomicBool,
) -> Result<(TcpStream, Begin, Vec<Option<TcpStream>>), ClusterError> {
    let listener = listen(me)?;
    let mut link = join_link(me, given_up)?;
    let begin = await_begin(me, &link, given_up)?;
    let mut still_here = StillHere::new(&link);
    let sockets = connect_workers(me, &listener, begin.session, given_up, || still_here.say_now_and_then());
    let sockets = sockets.inspect_err(|error| {
        // Its log is the one that an operator reads. Where it cannot be told it sees that this process is lost.
        let _ = frame::write(&mut link, &Up::Failed { reason: error.to_string(), usage: error.is_usage() });
    })?;
    Ok((link, begin, sockets))
}

fn join_link(me: &Membership, given_up: &AtomicBool) -> Result<TcpStream, ClusterError> {
    let address = &me.addresses[0];
    let mut reminder = Reminder::new();
    loop {
        if given_up.load(Ordering::Relaxed) {
            return Err(ClusterError::GivenUp);
        }
        match connect(me, 0, Purpose::Link) {
            Ok(stream) => return Ok(stream),
            Err(Failure::Refused(reason)) => {
                return Err(ClusterError::Refused { process: 0, address: address.clone(), reason });
            }
            Err(Failure::Connection(error)) => {
                if let Some(waited_s) = reminder.due() {
                    tracing::warn!(address, waited_s, %error, "waiting for process 0 of the cluster");
                }
                std::thread::sleep(RETRY);
            }
        }
    }
}

fn await_begin(me: &Membership, link: &TcpStream, given_up: &AtomicBool) -> Result<Begin, ClusterError> {
    let lost = |reason: String| ClusterError::Lost { process: 0, address: me.addresses[0].clone(), reason };
    tracing::info!(
        process = me.process,
        address = me.addresses[0],
        "process 0 is there; waiting for the other processes"
    );
    link.set_read_timeout(Some(SILENCE_MAX)).map_err(|error| lost(error.to_string()))?;
    let (mut receiving, mut still_here) = (link, StillHere::new(link));
    loop {
        // Process 0 says it all the time, so each time it does.
        still_here.say();
        if given_up.load(Ordering::Relaxed) {
            return Err(ClusterError::GivenUp);
        }
        return match frame::read(&mut receiving, BEGIN_MAX) {
            Ok(None) => continue,
            Ok(Some(Down::Begin(begin))) => Ok(begin),
            Ok(Some(Down::Failed(reason))) => Err(ClusterError::Elsewhere { process: 0, reason, usage: false }),
            Ok(Some(Down::End)) => Err(ClusterError::GivenUp),
            Ok(Some(_)) => Err(lost("it did not begin with the state".to_owned())),
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                Err(lost("it ended before all processes were there; its log says why".to_owned()))
            }
            Err(error) => Err(lost(error.to_string())),
        };
    }
}

impl Gathered {
    /// The connections to the workers of the other processes, once these know that all are there.
    ///
    /// # Errors
    /// Some do not come in time.
    pub fn connect_workers(
        &self,
        me: &Membership,
        given_up: &AtomicBool,
    ) -> Result<Vec<Option<TcpStream>>, ClusterError> {
        // The links have begun.
        connect_workers(me, &self.listener, self.session, given_up, || ())
    }
}

// To those before this process it connects itself, those after it come. `still_here` is called all the time.
fn connect_workers(
    me: &Membership,
    listener: &TcpListener,
    session: Session,
    given_up: &AtomicBool,
    mut still_here: impl FnMut(),
) -> Result<Vec<Option<TcpStream>>, ClusterError> {
    let began = Instant::now();
    let missing = |process: usize, reason: String| {
        let address = me.addresses[process].clone();
        ClusterError::Missing { process, address, limit: WORKERS_LIMIT, reason }
    };
    let mut sockets: Vec<Option<TcpStream>> = me.addresses.iter().map(|_| None).collect();
    for (process, socket) in sockets.iter_mut().enumerate().take(me.process) {
        *socket = loop {
            still_here();
            if given_up.load(Ordering::Relaxed) {
                return Err(ClusterError::GivenUp);
            }
            match connect(me, process, Purpose::Workers(session)) {
                Ok(stream) => break Some(stream),
                Err(Failure::Refused(reason)) => {
                    let address = me.addresses[process].clone();
                    return Err(ClusterError::Refused { process, address, reason });
                }
                Err(Failure::Connection(error)) if began.elapsed() > WORKERS_LIMIT => {
                    return Err(missing(process, error.to_string()));
                }
                Err(Failure::Connection(_)) => std::thread::sleep(RETRY),
            }
        };
    }
    let mut reason = "it was waited for".to_owned();
    while let Some(next) = (me.process + 1..me.addresses.len()).find(|process| sockets[*process].is_none()) {
        still_here();
        if given_up.load(Ordering::Relaxed) {
            return Err(ClusterError::GivenUp);
        }
        if began.elapsed() > WORKERS_LIMIT {
            return Err(missing(next, reason));
        }
        let admit = |hello: &handshake::Hello| match hello.purpose {
            Some(Purpose::Workers(theirs)) if theirs == session && hello.process > me.process => Ok(()),
            Some(Purpose::Workers(_)) => Err("it belongs to another start of the cluster; start it again".to_owned()),
            _ => Err("the cluster has begun without it; start all processes again".to_owned()),
        };
        match accept(listener, me, admit) {
            Ok(Some((hello, stream))) => sockets[hello.process] = Some(stream),
            Ok(None) => std::thread::sleep(NAP),
            Err(error) => {
                reason = format!("its connection could not be accepted: {error}");
                std::thread::sleep(NAP);
            }
        }
    }
    // The handshake had limits; what follows comes when it comes.
    for stream in sockets.iter().flatten() {
        let unlimited = stream.set_read_timeout(None).and_then(|()| stream.set_write_timeout(None));
        unlimited.map_err(|error| own_fault(me, &error))?;
    }
    Ok(sockets)
}
