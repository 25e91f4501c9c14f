//! What both ends of a connection tell each other first: who they are, what they run, and that they know the secret.
//!
//! Both say hello, each with a random number. Then the one that connects proves that it knows the secret (a keyed hash
//! of both hellos), and the other one does the same. So neither can be deceived by a third one that only repeats what
//! it heard; but what follows is neither encrypted nor signed: the network between the processes is to be a private
//! one.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::frame;
use super::membership::{BROKERS, Digest, Membership};

/// What every connection begins with; the last character is the version of all that follows.
const PREAMBLE: &[u8; 8] = b"MLCLSTR4";
/// Bytes of a message of the handshake.
const MESSAGE_MAX: u64 = 1 << 20;
/// Longest time for all that a process that is called hears and says.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// And for one that calls: others may be answered first.
const CALL_LIMIT: Duration = Duration::from_secs(15);
/// Characters of a reason that are shown.
const REASON_MAX: usize = 1000;

/// The number of one start of a cluster.
pub type Session = [u8; 16];

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// The link to process 0.
    Link,
    /// Exchange between workers, in this start of the cluster.
    Workers(Session),
}

/// What a process says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of meterline.
    pub version: String,
    /// Its number.
    pub process: usize,
    /// Number of its workers.
    pub workers: usize,
    /// Of each part of the configuration that has to be the same, and of the brokers.
    pub configuration: Vec<(String, Digest)>,
    /// What the connection is for; of the one that connects.
    pub purpose: Option<Purpose>,
    nonce: [u8; 32],
}

/// Why a handshake failed.
#[derive(Debug)]
pub enum Failure {
    /// The connection; it may be tried again.
    Connection(io::Error),
    /// One refuses the other: what differs, and what to do.
    Refused(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Connection(error)
    }
}

/// Random bytes.
///
/// # Errors
/// The operating system has none.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("the operating system has no random numbers"))?;
    Ok(bytes)
}

fn hello(me: &Membership, purpose: Option<Purpose>) -> io::Result<Hello> {
    Ok(Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process: me.process,
        workers: me.workers,
        configuration: me.configuration.clone(),
        purpose,
        nonce: random()?,
    })
}

// What is hashed with the secret as the key: who proves that it knows it, and both hellos.
fn claim(prover: &str, caller: &Hello, called: &Hello) -> io::Result<Vec<u8>> {
    Ok([prover.as_bytes(), &frame::encode(&(caller, called))?].concat())
}

fn proof(me: &Membership, prover: &str, caller: &Hello, called: &Hello) -> io::Result<Vec<u8>> {
    Ok(hmac::sign(me.secret.key(), &claim(prover, caller, called)?).as_ref().to_vec())
}

// As long for a wrong proof as for the right one.
fn proves(me: &Membership, prover: &str, caller: &Hello, called: &Hello, given: &[u8]) -> io::Result<bool> {
    Ok(hmac::verify(me.secret.key(), &claim(prover, caller, called)?, given).is_ok())
}

const CALLER: &str = "the one that connects";
const CALLED: &str = "the one that is connected to";

fn other_secret() -> String {
    format!(
        "the secrets of the two processes differ; give all of them the same one (cluster.secret_file, or {})",
        super::membership::SECRET_VARIABLE
    )
}

fn receive<T: serde::de::DeserializeOwned>(stream: &mut Timed<'_>) -> Result<T, Failure> {
    let got = frame::read(stream, MESSAGE_MAX)?;
    got.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "an empty message came").into())
}

fn exchange_preambles(stream: &mut Timed<'_>) -> Result<(), Failure> {
    stream.write_all(PREAMBLE)?;
    let mut theirs = [0; PREAMBLE.len()];
    stream.read_exact(&mut theirs)?;
    let (name, version) = PREAMBLE.split_at(PREAMBLE.len() - 1);
    if theirs == *PREAMBLE {
        return Ok(());
    }
    Err(Failure::Refused(match theirs.strip_prefix(name) {
        Some(_) => format!(
            "it speaks version `{}` of the protocol between processes, this one `{}`; run the same build of \
             meterline everywhere",
            theirs[name.len()].escape_ascii(),
            version.escape_ascii()
        ),
        None => "what answers there is no meterline of this kind; check cluster.addresses".to_owned(),
    }))
}

/// A connection while it begins: that takes so long and no longer, however little the other end says at a time.
pub struct Timed<'a> {
    stream: &'a TcpStream,
    limit: Duration,
    until: Instant,
}

impl Timed<'_> {
    /// From now on.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn new(stream: &TcpStream, limit: Duration) -> io::Result<Timed<'_>> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        Ok(Timed { stream, limit, until: Instant::now() + limit })
    }

    fn late(&self) -> io::Error {
        io::Error::new(ErrorKind::TimedOut, format!("the handshake took more than {:?}", self.limit))
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(self.late()) } else { Ok(left) }
    }

    fn in_time(&self, done: io::Result<usize>) -> io::Result<usize> {
        done.map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => self.late(),
            _ => error,
        })
    }

    // The handshake is over; until what follows sets limits of its own, each read and write has this one.
    fn end(self) -> io::Result<()> {
        self.stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        self.stream.set_write_timeout(Some(ANSWER_LIMIT))
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut stream = self.stream;
        stream.set_read_timeout(Some(self.left()?))?;
        self.in_time(stream.read(buffer))
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stream = self.stream;
        stream.set_write_timeout(Some(self.left()?))?;
        self.in_time(stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Of the one that connects.
///
/// # Errors
/// The connection is lost, or one refuses the other.
pub fn call(stream: &mut TcpStream, me: &Membership, purpose: Purpose) -> Result<Hello, Failure> {
    let mut stream = Timed::new(stream, CALL_LIMIT)?;
    exchange_preambles(&mut stream)?;
    let mine = hello(me, Some(purpose))?;
    frame::write(&mut stream, &mine)?;
    let theirs: Hello = receive(&mut stream)?;
    frame::write(&mut stream, &proof(me, CALLER, &mine, &theirs)?)?;
    let verdict: Result<Vec<u8>, String> = receive(&mut stream)?;
    stream.end()?;
    let given = verdict
        .map_err(|reason| Failure::Refused(reason.chars().filter(|c| !c.is_control()).take(REASON_MAX).collect()))?;
    match proves(me, CALLED, &mine, &theirs, &given)? {
        true => Ok(theirs),
        false => Err(Failure::Refused(other_secret())),
    }
}

/// Of the one that is connected to. Who knows the secret and has the same configuration is shown to `admit`, which may
/// refuse it.
///
/// # Errors
/// The connection is lost, or one refuses the other.
pub fn answer(
    stream: &mut TcpStream,
    me: &Membership,
    admit: impl FnOnce(&Hello) -> Result<(), String>,
) -> Result<Hello, Failure> {
    let mut stream = Timed::new(stream, ANSWER_LIMIT)?;
    exchange_preambles(&mut stream)?;
    let theirs: Hello = receive(&mut stream)?;
    let mine = hello(me, None)?;
    frame::write(&mut stream, &mine)?;
    let given: Vec<u8> = receive(&mut stream)?;
    let admitted = match proves(me, CALLER, &theirs, &mine, &given)? {
        true => fits(me, &mine, &theirs).and_then(|()| admit(&theirs)),
        false => Err(other_secret()),
    };
    let verdict = match &admitted {
        Ok(()) => Ok(proof(me, CALLED, &theirs, &mine)?),
        Err(reason) => Err(reason.clone()),
    };
    frame::write(&mut stream, &verdict)?;
    stream.end()?;
    admitted.map(|()| theirs).map_err(Failure::Refused)
}

// Whether the caller can be a part of this cluster.
fn fits(me: &Membership, mine: &Hello, theirs: &Hello) -> Result<(), String> {
    let Hello { process, version, workers, .. } = theirs;
    if *process == me.process || *process >= me.addresses.len() {
        return Err(format!(
            "it calls itself process {process}, and this is process {} of {}; give each process a number of its own \
             (meterline run --process N)",
            me.process,
            me.addresses.len()
        ));
    }
    if *version != mine.version {
        return Err(format!(
            "process {process} runs meterline {version}, process {} {}; run the same build everywhere",
            me.process, mine.version
        ));
    }
    if *workers != mine.workers {
        return Err(format!(
            "process {process} has {workers} workers, process {} {}; set ingest.workers to the same number everywhere",
            me.process, mine.workers
        ));
    }
    let of = |hello: &Hello, part: &str| hello.configuration.iter().find(|(name, _)| name == part).map(|(_, d)| *d);
    let parts = mine.configuration.iter().chain(&theirs.configuration).map(|(name, _)| name.as_str());
    let mut differing: Vec<&str> = parts.filter(|part| of(mine, part) != of(theirs, part)).collect();
    differing.sort_unstable();
    differing.dedup();
    if differing.contains(&BROKERS) && theirs.purpose == Some(Purpose::Link) {
        tracing::warn!(
            process,
            "its {BROKERS} differs from that of process {}: both have to lead to one Kafka cluster; a topic of another \
             one is refused by its identifier, where brokers give topics one (Kafka 2.8 and newer)",
            me.process
        );
    }
    differing.retain(|part| *part != BROKERS);
    match differing.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "{} of the configuration of process {process} differs from that of process {}; give all processes the same",
            differing.join(", "),
            me.process
        )),
    }
}
