//! Rounds by schedule, and whenever `meterline maintain` asks for one, in the process of the engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meterline_schemas::Micros;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::error::MaintenanceError;
use super::report::{JobReport, Kind, RoundReport, TableSize};
use super::round::{Commits, Round, sizes};
use crate::environment::Environment;
use crate::ingest::Committed;
use crate::ingest::requests::Requests;
use crate::ingest::state::IngestState;
use crate::metadata::{MaintenanceRecord, MaintenanceStatus, MetadataError};

/// When the first round begins, at the latest: an engine that is started often would otherwise never come to it.
const FIRST: Duration = Duration::from_secs(60);
/// How often requests are looked for.
const LOOK: Duration = Duration::from_secs(1);
/// How often whoever waits for a round hears that it goes on.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What monitoring shows of housekeeping.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// The tables, as of the last round or the start.
    pub tables: Vec<TableSize>,
    /// The last round since the start.
    pub last: Option<LastRound>,
    /// Jobs that failed since the start.
    pub failures: BTreeMap<Kind, u64>,
}

/// The last round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LastRound {
    /// When it ended, wall clock.
    pub at: Micros,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// The greatest watermark of all feeds. A feed that ended must not stop housekeeping, and one that is behind costs time
/// only.
pub(super) fn watermark(state: &IngestState) -> Option<Micros> {
    state.feeds.values().filter_map(|feed| feed.watermark).max()
}

fn now() -> Micros {
    jiff::Timestamp::now().as_microsecond()
}

/// Housekeeping of a running engine.
pub struct Housekeeping {
    /// Configuration, lake and metadata.
    pub env: Arc<Environment>,
    /// Who commits.
    pub requests: Requests,
    /// The newest commit.
    pub committed: watch::Receiver<Option<Arc<Committed>>>,
    /// Where monitoring looks.
    pub summary: watch::Sender<Summary>,
}

impl Housekeeping {
    /// Runs until `stopped` says so, or the stream has ended.
    pub async fn run(self, mut stopped: watch::Receiver<bool>) {
        tokio::select! {
            () = self.rounds() => {}
            // A sender that is gone is an end, too. What is being written is left over, and goes with a later round.
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    }

    async fn rounds(&self) {
        match sizes(&self.env.lake).await {
            Ok(tables) => drop(self.summary.send_replace(Summary { tables, ..Summary::default() })),
            Err(error) => tracing::warn!(%error, "the sizes of the tables are not known before the first housekeeping"),
        }
        let every = self.env.config.maintenance.every.0.map(|every| every.to_std());
        let mut next = every.map(|every| Instant::now() + every.min(FIRST));
        let mut failing = false;
        loop {
            let request = match self.request().await {
                Ok(request) => request,
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "requests for housekeeping cannot be looked for; the schedule goes on");
                    }
                    failing = true;
                    None
                }
            };
            failing &= request.is_none();
            if request.is_some() || next.is_some_and(|next| Instant::now() >= next) {
                if let Err(error) = self.round(request).await {
                    tracing::warn!(%error, "housekeeping ended");
                    if matches!(error, MaintenanceError::StreamEnded(_)) {
                        return;
                    }
                }
                next = every.map(|every| Instant::now() + every);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Takes a request that waits.
    async fn request(&self) -> Result<Option<MaintenanceRecord>, MetadataError> {
        let Some(mut record) = self.env.metadata.waiting_maintenance().await? else { return Ok(None) };
        (record.status, record.heard_at) = (MaintenanceStatus::Running, Some(now()));
        let taken = self.env.metadata.move_maintenance(MaintenanceStatus::Waiting, &record).await?;
        Ok(taken.then_some(record))
    }

    async fn round(&self, mut request: Option<MaintenanceRecord>) -> Result<(), MaintenanceError> {
        let watermark = self.committed.borrow().as_ref().and_then(|committed| watermark(&committed.state));
        let (config, lake) = (&self.env.config, &self.env.lake);
        let commits = Commits::Stream(self.requests.clone());
        let round = Round::new(config, lake, commits, watermark, now());
        let (tell, mut jobs) = mpsc::unbounded_channel::<JobReport>();
        // Who waits is told from here; without a receiver nobody does.
        let round = round.run(move |job| drop(tell.send(job.clone())));
        tokio::pin!(round);
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        let ended = loop {
            tokio::select! {
                ended = &mut round => break ended,
                Some(job) = jobs.recv() => if let Some(record) = &mut request {
                    record.report.jobs.push(job);
                    self.heard(record).await;
                },
                _ = heartbeat.tick() => if let Some(record) = &mut request {
                    self.heard(record).await;
                },
            }
        };
        if let Some(mut record) = request {
            record.status = MaintenanceStatus::Done;
            match &ended {
                Ok(report) => record.report = report.clone(),
                Err(error) => record.error = Some(error.to_string()),
            }
            self.heard(&mut record).await;
        }
        self.show(ended?);
        Ok(())
    }

    async fn heard(&self, record: &mut MaintenanceRecord) {
        record.heard_at = Some(now());
        if let Err(error) = self.env.metadata.put_maintenance(record).await {
            tracing::warn!(%error, "who asked for housekeeping does not hear of it");
        }
    }

    fn show(&self, report: RoundReport) {
        let (jobs, failed) = (report.jobs.len(), report.failures.len());
        let (files, bytes) = report.tables.iter().fold((0, 0), |(f, b), size| (f + size.files, b + size.bytes));
        tracing::info!(jobs, failed, files, bytes, took_ms = (report.seconds * 1000.0) as u64, "housekeeping is done");
        let last = Some(LastRound { at: now(), seconds: report.seconds });
        self.summary.send_modify(|summary| {
            (summary.tables, summary.last) = (report.tables, last);
            for failure in &report.failures {
                *summary.failures.entry(failure.job).or_default() += 1;
            }
        });
    }
}
