//! Sends readings to Kafka: the history as fast as the engine commits it, then live, in accelerated time.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use meterline_connectors::kafka::mock::Pacer;
use meterline_connectors::kafka::sink::{Sink, partition_of};
use meterline_schemas::Micros;
use meterline_schemas::time::SECOND;
use tokio::sync::watch;

use crate::ingest::Committed;

/// How long the driver sleeps while it may not send.
const PAUSE: Duration = Duration::from_millis(5);
/// How long it waits at its end for the broker to acknowledge what was sent.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// One record, in the order of sending.
pub struct Record {
    /// Simulated time at which it is sent.
    pub at: Micros,
    /// Kafka key: the series.
    pub key: Vec<u8>,
    /// Kafka value.
    pub payload: Vec<u8>,
}

/// Records in the order of sending, or why there are no more.
pub type Records = Box<dyn Iterator<Item = Result<Record, String>> + Send>;

/// What to send where, and how fast.
pub struct Plan {
    /// The records.
    pub records: Records,
    /// Topic.
    pub topic: String,
    /// Feed that reads the topic.
    pub feed: String,
    /// Partitions of the topic.
    pub partitions: i32,
    /// Simulated time at which the history ends and live sending begins.
    pub live_from: Micros,
    /// Simulated seconds per second, live.
    pub speed: f64,
    /// Whether the broker forgets what is not read soon.
    pub forgetful: bool,
}

/// Where the driver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Sends the history.
    History,
    /// Sends in simulated time.
    Live,
    /// Has nothing more to send.
    Ended,
}

/// What was sent so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Records.
    pub records: u64,
    /// Simulated time.
    pub simulated: Micros,
    /// Where the driver is.
    pub phase: Phase,
}

/// The sending thread.
pub struct Driver {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    records: AtomicU64,
    simulated: AtomicI64,
    live: AtomicBool,
    ended: AtomicBool,
    stop: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Driver {
    /// Starts to send. `committed` tells what the engine has read.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn start(
        plan: Plan,
        sink: Sink,
        committed: watch::Receiver<Option<Arc<Committed>>>,
    ) -> std::io::Result<Driver> {
        let shared = Arc::new(Shared::default());
        let inside = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("demo-driver".into()).spawn(move || {
            if let Err(reason) = send(plan, &sink, &committed, &inside) {
                *inside.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
            }
            inside.ended.store(true, Ordering::Release);
        })?;
        Ok(Driver { shared, thread: Some(thread) })
    }

    /// What was sent so far.
    pub fn sent(&self) -> Sent {
        let shared = &self.shared;
        let phase = match (shared.ended.load(Ordering::Acquire), shared.live.load(Ordering::Acquire)) {
            (true, _) => Phase::Ended,
            (false, true) => Phase::Live,
            (false, false) => Phase::History,
        };
        Sent {
            records: shared.records.load(Ordering::Relaxed),
            simulated: shared.simulated.load(Ordering::Relaxed),
            phase,
        }
    }

    /// Why sending ended early, if it did.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the sending.
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic in there has been reported by the runtime.
            let _ = thread.join();
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Simulated time: stands still until it is started.
#[derive(Debug, Clone, Copy)]
struct Clock {
    from: Micros,
    speed: f64,
}

impl Clock {
    /// Simulated time after `elapsed`.
    fn now(&self, elapsed: Duration) -> Micros {
        self.from.saturating_add((elapsed.as_secs_f64() * self.speed * SECOND as f64) as Micros)
    }
}

fn send(
    plan: Plan,
    sink: &Sink,
    committed: &watch::Receiver<Option<Arc<Committed>>>,
    shared: &Shared,
) -> Result<(), String> {
    let clock = Clock { from: plan.live_from, speed: plan.speed };
    let mut pacer = plan.forgetful.then(|| Pacer::new(Pacer::UNREAD_BYTES_MAX));
    let mut live: Option<Instant> = None;
    for record in plan.records {
        let record = record?;
        let partition = partition_of(&record.key, plan.partitions);
        loop {
            if shared.stop.load(Ordering::Acquire) {
                return Ok(());
            }
            if record.at >= plan.live_from && live.is_none() && all_read(sink, committed, &plan.feed, shared) {
                live = Some(Instant::now());
                shared.live.store(true, Ordering::Release);
            }
            let due = match live {
                Some(since) => {
                    let now = clock.now(since.elapsed());
                    shared.simulated.store(now, Ordering::Relaxed);
                    record.at <= now
                }
                None => record.at < plan.live_from,
            };
            if due && pacer.as_mut().is_none_or(|p| admits(p, partition, &record, committed, &plan.feed)) {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        // Stamped with now: a real cluster deletes old stamps, and the later of two readings must win.
        sink.send(&plan.topic, Some(partition), &record.key, &record.payload, None).map_err(|e| e.to_string())?;
        if let Some(pacer) = &mut pacer {
            pacer.sent(partition, record.payload.len());
        }
        shared.records.fetch_add(1, Ordering::Relaxed);
        if live.is_none() {
            shared.simulated.fetch_max(record.at, Ordering::Relaxed);
        }
    }
    sink.flush(FLUSH_TIMEOUT, |_| {}).map(drop).map_err(|e| e.to_string())
}

fn admits(
    pacer: &mut Pacer,
    partition: i32,
    record: &Record,
    committed: &watch::Receiver<Option<Arc<Committed>>>,
    feed: &str,
) -> bool {
    if pacer.admits(partition, record.payload.len()) {
        return true;
    }
    if let Some(committed) = committed.borrow().as_ref() {
        let partitions = committed.state.feeds.get(feed).map(|f| &f.partitions);
        for (partition, state) in partitions.into_iter().flatten() {
            pacer.read_to(*partition, state.next_offset);
        }
    }
    pacer.admits(partition, record.payload.len())
}

/// Whether everything that was sent is committed: the history is in, life can begin.
fn all_read(sink: &Sink, committed: &watch::Receiver<Option<Arc<Committed>>>, feed: &str, shared: &Shared) -> bool {
    let sent = shared.records.load(Ordering::Relaxed);
    let read: u64 = committed
        .borrow()
        .as_ref()
        .and_then(|c| c.state.feeds.get(feed).map(|f| f.partitions.values().map(|p| p.counts.records).sum()))
        .unwrap_or(0);
    sink.waiting() == 0 && read >= sent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_second_is_an_hour_at_speed_3600() {
        let clock = Clock { from: 1_000, speed: 3600.0 };
        assert_eq!(clock.now(Duration::ZERO), 1_000);
        assert_eq!(clock.now(Duration::from_millis(500)), 1_000 + 1800 * SECOND);
    }
}
