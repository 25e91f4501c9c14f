//! Writes a run's log lines and metrics to the metadata database without making the work wait for it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use meterline_schemas::Micros;
use tokio::sync::{mpsc, oneshot};

use crate::metadata::records::{LogRecord, MetricRecord};
use crate::metadata::{MetadataError, MetadataStore};

enum Entry {
    Log(LogRecord),
    Metric(MetricRecord),
    Flush(oneshot::Sender<()>),
}

/// The recording end; a task of its own does the writing, in order.
pub struct Recorder {
    run_id: String,
    entries: mpsc::UnboundedSender<Entry>,
    // Next index of each (step, metric): a resumed run goes on where its last process ended.
    next_index: Mutex<HashMap<(String, String), i64>>,
}

/// The wall clock in microseconds.
pub fn now() -> Micros {
    Timestamp::now().as_microsecond()
}

impl Recorder {
    /// A recorder for `run_id`. Reads what the run has recorded so far.
    pub async fn new(metadata: MetadataStore, run_id: &str) -> Result<Recorder, MetadataError> {
        let mut next_index = HashMap::new();
        for metric in metadata.metrics(run_id).await? {
            let next = next_index.entry((metric.step, metric.name)).or_insert(0);
            *next = (*next).max(metric.index + 1);
        }
        // Unbounded, but fed by log lines and by metrics at a few a second.
        let (entries, receiver) = mpsc::unbounded_channel();
        tokio::spawn(write(metadata, receiver));
        Ok(Recorder { run_id: run_id.to_owned(), entries, next_index: Mutex::new(next_index) })
    }

    /// Adds a line to the run's log and to this process's own. `level` is `info`, `warn` or `error`.
    pub fn log(&self, step: &str, level: &str, message: String) {
        match level {
            "error" => tracing::error!(run = %self.run_id, step, "{message}"),
            "warn" => tracing::warn!(run = %self.run_id, step, "{message}"),
            _ => tracing::info!(run = %self.run_id, step, "{message}"),
        }
        let record = LogRecord {
            run_id: self.run_id.clone(),
            step: step.to_owned(),
            at: now(),
            level: level.to_owned(),
            message,
        };
        self.send(Entry::Log(record));
    }

    /// Adds a point to a metric of `step`. What is not finite is left out: it is no measurement.
    pub fn metric(&self, step: &str, name: &str, value: f64) {
        if !value.is_finite() {
            return;
        }
        let index = {
            let mut next = self.next_index.lock().unwrap_or_else(PoisonError::into_inner);
            let next = next.entry((step.to_owned(), name.to_owned())).or_insert(0);
            let index = *next;
            *next += 1;
            index
        };
        self.send(Entry::Metric(MetricRecord {
            run_id: self.run_id.clone(),
            step: step.to_owned(),
            name: name.to_owned(),
            index,
            value,
            at: now(),
        }));
    }

    /// Waits until everything recorded so far is written (or was refused by the database, which is logged).
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        self.send(Entry::Flush(done));
        // An error means that the writer is gone, and then there is nothing left to wait for.
        let _ = written.await;
    }

    fn send(&self, entry: Entry) {
        // The writer ends only with the runtime; a line lost then was also in this process's own log.
        let _ = self.entries.send(entry);
    }
}

async fn write(metadata: MetadataStore, mut entries: mpsc::UnboundedReceiver<Entry>) {
    while let Some(entry) = entries.recv().await {
        let written = match &entry {
            Entry::Log(record) => metadata.append_log(record).await,
            Entry::Metric(record) => metadata.append_metric(record).await,
            Entry::Flush(_) => Ok(()),
        };
        if let Err(error) = written {
            // A run does not fail for want of its log.
            tracing::warn!(%error, "a log line or a metric of the run was not recorded; the run goes on");
        }
        if let Entry::Flush(done) = entry {
            let _ = done.send(());
        }
    }
}
