//! The service: the stream, the triggers and the runs that they start, and housekeeping, in one process.
//!
//! ```text
//! ingest ──commits──▶ triggers ──decisions──▶ runner ──▶ child processes
//!    ▲
//!    └──rewrites── housekeeping
//! ```
//!
//! Of two services on one lake the newer one goes on: it takes the right to commit from the older one when it starts.

use std::sync::Arc;
use std::time::Duration;

use meterline_schemas::Micros;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};

use crate::environment::Environment;
use crate::ingest::service::{Ingest, IngestOptions, Shown};
use crate::ingest::state::PartitionState;
use crate::ingest::{Committed, IngestError};
use crate::maintenance::service::{Housekeeping, Summary};
use crate::pipelines::{RunError, Runner};
use crate::server::{self, Server, ServerError, Subject};
use crate::{ingest, reload, triggers};

/// How long an evaluation of the triggers may go on once the service is to stop.
const TRIGGERS_LIMIT: Duration = Duration::from_secs(5);

/// Why the service does not start or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The stream does not start, or died.
    #[error("the stream stopped: {0}")]
    Ingest(#[from] IngestError),
    /// Runs of an earlier service cannot be resumed.
    #[error("unfinished runs cannot be resumed: {0}")]
    Resume(#[from] RunError),
    /// The endpoints for monitoring cannot be opened.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The operating system refuses a signal handler.
    #[error("SIGHUP cannot be listened for: {0}")]
    Signal(#[from] std::io::Error),
    /// The task that evaluates the triggers died.
    #[error("the triggers died: {0}; this is a fault of meterline, please report it")]
    Died(#[from] JoinError),
}

/// A running service.
pub struct Service {
    ingest: Ingest,
    runner: Runner,
    // Until it is known to have ended.
    triggers: Option<JoinHandle<()>>,
    housekeeping: JoinHandle<()>,
    stop: watch::Sender<bool>,
    // Open as long as the service lives.
    server: Option<Server>,
}

impl Service {
    /// Opens the endpoints for monitoring, goes on with unfinished runs, then starts the stream and the triggers.
    ///
    /// # Errors
    /// The address of the endpoints is taken; the stream cannot start (but it waits, and says so, while no broker
    /// answers, and for a store that fails while it is restored); or the metadata database fails.
    pub async fn start(env: Arc<Environment>) -> Result<Service, ServiceError> {
        let watcher = reload::Watcher::begin(&env.config_path)?;
        // Before anything is taken over, so that a start that has to wait can be asked why.
        let (summary, maintenance) = watch::channel(Summary::default());
        let shown = Shown::default();
        let server = server::start(&env.config.http, Subject::of(&shown, maintenance)).await?;
        let runner = Runner::new(env.clone());
        let resumed = runner.resume_unfinished().await?;
        if resumed > 0 {
            tracing::info!(runs = resumed, "going on with runs that an earlier service left unfinished");
        }
        let options = IngestOptions { directory: env.directory().to_owned(), ..IngestOptions::default() };
        let ingest = ingest::service::start_shown(&env.config, &env.lake, options, shown).await?;
        let (stop, stopped) = watch::channel(false);
        let (requests, committed) = (ingest.requests(), ingest.committed());
        let housekeeping = Housekeeping { env: env.clone(), requests, committed, summary };
        let housekeeping = tokio::spawn(housekeeping.run(stopped.clone()));
        let (config, reloaded) = watch::channel(Arc::new(env.config.clone()));
        tokio::spawn(watcher.run(config, stopped.clone()));
        let commits = ingest.committed();
        let triggers = tokio::spawn(triggers::service::run(env, commits, reloaded, runner.clone(), stopped));
        Ok(Service { ingest, runner, triggers: Some(triggers), housekeeping, stop, server })
    }

    /// Becomes true when another process of the cluster was asked to end, and asks for the end of all.
    pub fn asked_to_stop(&self) -> watch::Receiver<bool> {
        self.ingest.asked_to_stop()
    }

    /// Where metrics and health are served; `None` where they are not.
    pub fn http(&self) -> Option<std::net::SocketAddr> {
        self.server.as_ref().map(|server| server.address)
    }

    /// The newest commit, as it changes.
    pub fn committed(&self) -> watch::Receiver<Option<Arc<Committed>>> {
        self.ingest.committed()
    }

    /// Resolves when the service cannot go on, with the reason. It may be dropped and asked again.
    pub async fn failed(&mut self) -> ServiceError {
        if let Some(triggers) = &mut self.triggers {
            let ended = tokio::select! {
                error = self.ingest.failed() => return error.into(),
                ended = triggers => ended,
            };
            // A task that has ended must not be asked again.
            self.triggers = None;
            if let Err(error) = ended {
                return error.into();
            }
        }
        // Triggers end by themselves only when the stream is gone; it knows why.
        self.ingest.failed().await.into()
    }

    /// Ends cleanly: no new runs, children stop at a safe point and stay resumable, what was read is committed.
    ///
    /// # Errors
    /// The last commit failed: the readings since the commit before come again at the next start.
    pub async fn stop(self) -> Result<(), ServiceError> {
        // Without a receiver the triggers have ended already.
        let _ = self.stop.send(true);
        // Side by side: none of them needs another one to have ended.
        let (ingest, runs) = (self.ingest.stop(), self.runner.shutdown());
        let (committed, (), housekeeping, triggers) =
            tokio::join!(ingest, runs, self.housekeeping, end_triggers(self.triggers));
        if let Err(error) = housekeeping {
            tracing::error!(%error, "housekeeping died; this is a fault of meterline, please report it");
        }
        triggers?;
        Ok(committed?)
    }
}

async fn end_triggers(triggers: Option<JoinHandle<()>>) -> Result<(), JoinError> {
    let Some(mut triggers) = triggers else { return Ok(()) };
    match tokio::time::timeout(TRIGGERS_LIMIT, &mut triggers).await {
        Ok(ended) => ended,
        Err(_) => {
            triggers.abort();
            tracing::warn!("the triggers still wait for the store; they are evaluated again at the next start");
            Ok(())
        }
    }
}

/// Where the stream stands, in a few figures.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Standing {
    /// Records read from Kafka and files.
    pub records: u64,
    /// Of them, those that could not be read.
    pub dead: u64,
    /// Intervals that have a value.
    pub intervals: u64,
    /// Records in Kafka that are not yet committed.
    pub lag_records: i64,
    /// The least watermark of all feeds; `None` before the first reading.
    pub watermark: Option<Micros>,
}

impl Standing {
    /// The standing at a commit.
    pub fn of(committed: &Committed) -> Standing {
        let Committed { state, census, .. } = committed;
        let partitions = || state.feeds.values().flat_map(|feed| feed.partitions.values());
        Standing {
            records: partitions().map(|p| p.counts.records).sum(),
            dead: partitions().map(|p| p.counts.dead).sum(),
            intervals: census.feeds().map(|(number, _)| census.intervals(number)).sum(),
            lag_records: partitions().map(PartitionState::lag).sum(),
            watermark: state.feeds.values().filter_map(|feed| feed.watermark).min(),
        }
    }

    /// Records per second since `earlier`, which was `seconds` ago.
    pub fn rate(&self, earlier: &Standing, seconds: f64) -> f64 {
        if seconds > 0.0 { self.records.saturating_sub(earlier.records) as f64 / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::state::{Counts, FeedState, IngestState};

    #[test]
    fn a_standing_sums_partitions_and_takes_the_least_watermark() {
        let partition = |records, next_offset, end_offset| PartitionState {
            next_offset,
            end_offset,
            counts: Counts { records, dead: 1, ..Counts::default() },
            ..PartitionState::default()
        };
        let feed = |watermark, partitions: Vec<PartitionState>| FeedState {
            topic: "t".into(),
            watermark,
            partitions: (0..).zip(partitions).collect(),
            ..FeedState::default()
        };
        let mut state = IngestState::default();
        state.feeds.insert("a".into(), feed(Some(50), vec![partition(10, 10, 15), partition(5, 5, 5)]));
        state.feeds.insert("b".into(), feed(Some(40), vec![partition(1, 9, 8)]));
        state.feeds.insert("silent".into(), feed(None, vec![]));
        let (state, census) = (state.into(), Default::default());
        let standing = Standing::of(&Committed { state, census, intervals_version: 1 });
        assert_eq!(standing, Standing { records: 16, dead: 3, intervals: 0, lag_records: 5, watermark: Some(40) });
        assert_eq!(standing.rate(&Standing { records: 6, ..Standing::default() }, 5.0), 2.0);
        assert_eq!(standing.rate(&standing, 0.0), 0.0);
    }
}
