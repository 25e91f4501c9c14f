//! A connection between the workers of two processes, as timely uses it.
//!
//! Timely's threads panic where a connection is lost. Here they stand still instead: the loss is told, and ends the
//! process in an orderly way.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use timely::communication::allocator::zero_copy::stream::Stream;
use timely::communication::networking::MessageHeader;

use super::super::outlet::Outlet;

/// How long after a connection has closed it may become known that it may.
const PATIENCE: Duration = Duration::from_secs(5);
const NAP: Duration = Duration::from_millis(10);

/// Ends a connection that timely never came to use as timely would have ended it: the other end expects that.
pub fn dismiss(stream: &TcpStream) {
    let end = MessageHeader { channel: 0, source: 0, target_lower: 0, target_upper: 0, length: 0, seqno: 0 };
    let mut writer = stream;
    // The other end may have been faster.
    let _ = end.write_to(&mut writer).and_then(|()| stream.shutdown(Shutdown::Write));
}

/// A connection to the workers of another process.
pub struct Socket {
    stream: TcpStream,
    // Whether connections may close.
    closing: Arc<AtomicBool>,
    lost: Outlet<io::Error>,
    broken: bool,
}

impl Socket {
    /// Stands before a connection. Once `closing` is set it may close; before, it tells `lost`.
    pub fn new(stream: TcpStream, closing: Arc<AtomicBool>, lost: Outlet<io::Error>) -> Socket {
        Socket { stream, closing, lost, broken: false }
    }

    // Whether the connection may close, or may in a moment.
    fn may_close(&self) -> bool {
        let began = Instant::now();
        while !self.closing.load(Ordering::Acquire) {
            if began.elapsed() > PATIENCE {
                return false;
            }
            std::thread::sleep(NAP);
        }
        true
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ended = match self.stream.read(buffer) {
            Ok(0) if !buffer.is_empty() => io::Error::new(io::ErrorKind::UnexpectedEof, "it was closed"),
            Ok(read) => return Ok(read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => error,
        };
        if self.may_close() {
            return Ok(0);
        }
        self.lost.send(ended);
        // Nothing more can come; the process ends, and this thread with it.
        loop {
            std::thread::park();
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.broken {
            return Ok(bytes.len());
        }
        match self.stream.write(bytes) {
            Ok(written) => Ok(written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            // The thread that reads tells it.
            Err(_) => {
                self.broken = true;
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Socket {
    fn try_clone(&self) -> io::Result<Socket> {
        let (stream, closing) = (self.stream.try_clone()?, Arc::clone(&self.closing));
        Ok(Socket { stream, closing, lost: self.lost.clone(), broken: self.broken })
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.stream.set_nonblocking(nonblocking)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        // The other end may have been faster.
        let _ = self.stream.shutdown(how);
        Ok(())
    }
}
