//! Connections of monitoring, bounded: a client that is slow, or that says nothing, costs nobody else an answer.
//!
//! A connection is for one request, and ends after a while whatever it is at. With as many open as there may be, a new
//! one takes the place of the oldest: who has just come asks for something, and the oldest has had its time.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::Sleep;

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Open at once.
    pub(super) connections: usize,
    /// From its first byte to its last.
    pub(super) lifetime: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connections: 64, lifetime: Duration::from_secs(30) }
    }
}

/// A listener whose connections keep to [`Limits`].
#[derive(Debug)]
pub(super) struct Bounded {
    listener: TcpListener,
    limits: Limits,
    // The oldest first; each holds its connection open.
    open: VecDeque<oneshot::Sender<()>>,
}

impl Bounded {
    pub(super) fn new(listener: TcpListener, limits: Limits) -> Bounded {
        Bounded { listener, limits, open: VecDeque::new() }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        self.open.retain(|held| !held.is_closed());
        while self.open.len() >= self.limits.connections.max(1) {
            self.open.pop_front();
        }
        let (held, let_go) = oneshot::channel();
        self.open.push_back(held);
        let end = Box::pin(tokio::time::sleep(self.limits.lifetime));
        (Connection { stream, let_go: Some(let_go), end }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when it is let go, or when its time is over.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    // `None` once it was.
    let_go: Option<oneshot::Receiver<()>>,
    end: Pin<Box<Sleep>>,
}

impl Connection {
    fn over(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if let Some(let_go) = &mut self.let_go
            && Pin::new(let_go).poll(context).is_ready()
        {
            self.let_go = None;
        }
        if self.let_go.is_none() || self.end.as_mut().poll(context).is_ready() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.over(context)?;
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.over(context)?;
        Pin::new(&mut self.stream).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.over(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Says with every answer that it was the only one of its connection.
pub(super) async fn only_answer(request: Request, next: Next) -> Response {
    let mut answer = next.run(request).await;
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    /// Bytes of an answer of which a client that does not read gets a part: more than sockets buffer.
    const LARGE: usize = 32 << 20;

    async fn serve(limits: Limits) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let large = || async { "x".repeat(LARGE) };
        let router = Router::new().route("/", get(|| async { "here" })).route("/large", get(large));
        let router = router.layer(middleware::from_fn(only_answer));
        tokio::spawn(async move { axum::serve(Bounded::new(listener, limits), router).await });
        address
    }

    /// Sends `request`, and reads until the server closes the connection.
    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        rest(&mut stream).await
    }

    /// What still comes; an end that is an error is an end.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection ends");
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn idle_and_slow_clients_leave_room_for_others() {
        let address = serve(Limits { connections: 4, lifetime: Duration::from_secs(600) }).await;
        let mut idle = Vec::new();
        for request in ["", "GET", "GET / HTTP/1.1\r\nHost", "GET /large HTTP/1.1\r\nHost: x\r\n\r\n"].repeat(5) {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            idle.push(stream);
        }
        // No `Connection: close` in the request: the server ends it.
        let answer = ask(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("here"), "{answer}");
        // The oldest ones made room: they end, those that said nothing yet without an answer, the one that did not read
        // its own in the middle of it.
        for stream in &mut idle[..3] {
            assert_eq!(rest(stream).await, "");
        }
        let part = rest(&mut idle[3]).await;
        assert!(part.len() < LARGE, "the whole answer came: its connection was not ended");
    }

    #[tokio::test]
    async fn a_connection_ends_after_its_time_whatever_it_is_at() {
        let address = serve(Limits { connections: 4, lifetime: Duration::from_millis(200) }).await;
        for request in ["", "GET / HTTP/1.1\r\nX: "] {
            assert_eq!(ask(address, request).await, "");
        }
    }
}
