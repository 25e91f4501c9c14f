//! What both ends of a connection tell each other first: who they are, what they run, and that they know the secret.
//!
//! Both say hello, each with a random number. Then the one that connects proves that it knows the secret (a keyed hash
//! of both hellos), and the other one does the same. So neither can be deceived by a third one that only repeats what
//! it heard; but what follows is neither encrypted nor signed: the network between the processes is to be a private
//! one.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::frame;
use super::membership::{Digest, Membership};

/// What every connection begins with; the last character is the version of all that follows.
const PREAMBLE: &[u8; 8] = b"MLCLSTR1";
/// Bytes of a message of the handshake.
const MESSAGE_MAX: u64 = 1 << 20;
/// Longest time for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
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
    /// Of each part of the configuration that has to be the same.
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

fn receive<T: serde::de::DeserializeOwned>(stream: &mut TcpStream) -> Result<T, Failure> {
    let got = frame::read(stream, MESSAGE_MAX)?;
    got.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an empty message came").into())
}

fn exchange_preambles(stream: &mut TcpStream) -> Result<(), Failure> {
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

/// Sets what holds for a connection while it begins.
fn begin(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))
}

/// Of the one that connects.
///
/// # Errors
/// The connection is lost, or one refuses the other.
pub fn call(stream: &mut TcpStream, me: &Membership, purpose: Purpose) -> Result<Hello, Failure> {
    begin(stream)?;
    exchange_preambles(stream)?;
    let mine = hello(me, Some(purpose))?;
    frame::write(stream, &mine)?;
    let theirs: Hello = receive(stream)?;
    frame::write(stream, &proof(me, CALLER, &mine, &theirs)?)?;
    let verdict: Result<Vec<u8>, String> = receive(stream)?;
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
    begin(stream)?;
    exchange_preambles(stream)?;
    let theirs: Hello = receive(stream)?;
    let mine = hello(me, None)?;
    frame::write(stream, &mine)?;
    let given: Vec<u8> = receive(stream)?;
    let admitted = match proves(me, CALLER, &theirs, &mine, &given)? {
        true => fits(me, &mine, &theirs).and_then(|()| admit(&theirs)),
        false => Err(other_secret()),
    };
    let verdict = match &admitted {
        Ok(()) => Ok(proof(me, CALLED, &theirs, &mine)?),
        Err(reason) => Err(reason.clone()),
    };
    frame::write(stream, &verdict)?;
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
    match differing.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "{} of the configuration of process {process} differs from that of process {}; give all processes the same",
            differing.join(", "),
            me.process
        )),
    }
}
