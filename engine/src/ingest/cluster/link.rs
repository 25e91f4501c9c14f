//! The two threads of a link: one sends, one receives.

use std::io::{self, BufReader};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::frame;

/// How often it is looked whether there is something to tell.
const TICK: Duration = Duration::from_millis(20);
/// How often a process says that it is still there.
const STILL_HERE: Duration = Duration::from_secs(5);
/// How long a process may be silent, or not take what it is sent, before it counts as lost.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Bytes of one message.
const MESSAGE_MAX: u64 = 1 << 36;

/// A link. Dropping it closes the connection.
pub struct Link<Out> {
    queue: mpsc::Sender<Out>,
    stream: TcpStream,
    receiver: JoinHandle<()>,
}

impl<Out: Serialize + Send + 'static> Link<Out> {
    /// Begins: sends what comes by [`Link::queue`] and what `tick` has to tell, and hands to `take` what is received,
    /// at last why no more is. `take` says whether it wants more.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn start<In: DeserializeOwned + Send + 'static>(
        stream: TcpStream,
        name: &str,
        mut tick: impl FnMut() -> Option<Out> + Send + 'static,
        mut take: impl FnMut(io::Result<In>) -> bool + Send + 'static,
    ) -> io::Result<Link<Out>> {
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        let (queue, queued) = mpsc::channel();
        let mut sending = stream.try_clone()?;
        let unsent = Arc::new(OnceLock::new());
        let reason = Arc::clone(&unsent);
        std::thread::Builder::new().name(format!("{name}-out")).spawn(move || {
            // The other thread tells it, which then cannot receive.
            if let Err(error) = send(&mut sending, &queued, &mut tick) {
                let _ = reason.set(in_words(error, "it took nothing of what it was sent"));
                let _ = sending.shutdown(Shutdown::Both);
            }
        })?;
        let mut receiving = BufReader::with_capacity(256 * 1024, stream.try_clone()?);
        let receiver = std::thread::Builder::new().name(format!("{name}-in")).spawn(move || {
            loop {
                let got = match frame::read(&mut receiving, MESSAGE_MAX) {
                    Ok(None) => continue,
                    Ok(Some(message)) => Ok(message),
                    // Where nothing can be sent any more, that came first.
                    Err(error) => Err(match unsent.get() {
                        Some(reason) => io::Error::new(reason.kind(), reason.to_string()),
                        None => in_words(error, "nothing was heard"),
                    }),
                };
                let last = got.is_err();
                if !take(got) || last {
                    return;
                }
            }
        })?;
        Ok(Link { queue, stream, receiver })
    }

    /// What is to be sent goes here.
    pub fn queue(&self) -> mpsc::Sender<Out> {
        self.queue.clone()
    }

    /// Sends something. That the connection is lost is told by the receiver.
    pub fn tell(&self, message: Out) {
        let _ = self.queue.send(message);
    }

    /// Waits until nothing is received any more, because the other end has closed; whether that was within `limit`.
    pub fn await_end(&self, limit: Duration) -> bool {
        super::ended_within(std::slice::from_ref(&self.receiver), limit)
    }
}

impl<Out> Drop for Link<Out> {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn send<Out: Serialize>(
    stream: &mut TcpStream,
    queued: &mpsc::Receiver<Out>,
    tick: &mut impl FnMut() -> Option<Out>,
) -> io::Result<()> {
    let mut sent = Instant::now();
    loop {
        let next = match queued.recv_timeout(TICK) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        for message in next.into_iter().chain(tick()) {
            frame::write(stream, &message)?;
            sent = Instant::now();
        }
        if sent.elapsed() >= STILL_HERE {
            frame::write_still_here(stream)?;
            sent = Instant::now();
        }
    }
}

// What the operating system says of a connection, as an operator understands it; `silence` is what it calls a timeout.
fn in_words(error: io::Error, silence: &str) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            io::Error::new(error.kind(), "the process closed it, or has ended")
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            io::Error::new(error.kind(), format!("{silence} for {} s", SILENCE_MAX.as_secs()))
        }
        _ => error,
    }
}
