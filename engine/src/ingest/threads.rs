//! The threads of the stream in one process. However its task ends, they do too.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use timely::communication::WorkerGuards;

use super::cluster::ended_within;
use super::control::Control;
use super::dataflow::Running;
use super::lock::EngineLock;

/// How long the threads of the connections between workers may take to end.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// How long all of them may take; one may be waiting for an answer of Kafka.
const THREADS_LIMIT: Duration = Duration::from_secs(20);

/// The threads, and what is held as long as they run.
pub(super) struct Threads {
    control: Arc<Control>,
    running: Option<Running>,
    discovery: Option<JoinHandle<()>>,
    _lock: EngineLock,
}

impl Threads {
    pub(super) fn new(control: Arc<Control>, running: Running, lock: EngineLock) -> Threads {
        Threads { control, running: Some(running), discovery: None, _lock: lock }
    }

    pub(super) fn with_discovery(mut self, discovery: JoinHandle<()>) -> Threads {
        self.discovery = Some(discovery);
        self
    }

    /// Ends them. After a failure the connections between workers are left as they are: the process ends.
    pub(super) async fn end(mut self, clean: bool) {
        self.control.closing.store(clean, Ordering::Release);
        self.control.done.store(true, Ordering::Release);
        let (running, discovery) = (self.running.take(), self.discovery.take());
        let joined = tokio::task::spawn_blocking(move || {
            if let Some(Running { workers, peers }) = running {
                for result in workers.join() {
                    if let Err(error) = result {
                        tracing::error!(error, "a worker of the stream panicked");
                    }
                }
                match peers {
                    Some(peers) if clean => {
                        // Its drop waits for the other processes.
                        let closing = std::thread::spawn(move || drop(peers));
                        if !ended_within(&[closing], CLOSE_LIMIT) {
                            tracing::warn!("connections to workers of other processes did not close in time");
                        }
                    }
                    peers => std::mem::forget(peers),
                }
            }
            discovery.map(JoinHandle::join)
        });
        match tokio::time::timeout(THREADS_LIMIT, joined).await {
            Ok(Ok(Some(Ok(())) | None)) => {}
            Ok(_) => tracing::error!("a thread of the stream panicked"),
            Err(_) => tracing::warn!(
                waited_s = THREADS_LIMIT.as_secs(),
                "a thread of the stream does not end and is left behind; what was committed stays"
            ),
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.control.done.store(true, Ordering::Release);
        // Their drop would wait, and panic for a worker that did: the process is on its way down anyway.
        if let Some(Running { workers, peers }) = self.running.take() {
            std::mem::forget::<WorkerGuards<()>>(workers);
            std::mem::forget(peers);
        }
    }
}
