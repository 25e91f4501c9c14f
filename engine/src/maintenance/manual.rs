//! One round that a person asks for, with or without a running engine.

use std::time::Duration;

use meterline_connectors::lake::snapshot;
use meterline_schemas::tables::INTERVALS;
use tokio::time::Instant;

use super::error::MaintenanceError;
use super::report::{JobReport, RoundReport};
use super::round::{Commits, Round};
use super::service::watermark;
use crate::environment::Environment;
use crate::ingest::IngestError;
use crate::ingest::commit::Committer;
use crate::ingest::load::state_at;
use crate::ingest::lock::EngineLock;
use crate::metadata::{MaintenanceRecord, MaintenanceStatus};

/// How long an engine may take to take a request; it may have a round of its own to finish.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// How long it may then be silent.
const SILENT_MAX: Duration = Duration::from_secs(60);
/// How often its report is read.
const LOOK: Duration = Duration::from_millis(300);

/// What would be done: reads only.
///
/// # Errors
/// The lake cannot be read.
pub async fn plan(env: &Environment, tell: impl FnMut(&JobReport) + Send) -> Result<RoundReport, MaintenanceError> {
    let state = match snapshot(&env.lake, INTERVALS, None).await? {
        Some(table) => state_at(&env.lake, &table).await?,
        None => None,
    };
    let (watermark, now) = (state.as_ref().and_then(watermark), jiff::Timestamp::now().as_microsecond());
    Round::new(&env.config, &env.lake, Commits::Nobody, watermark, now).run(tell).await
}

/// Does one round: through the engine that runs on the lake, or, where none does, in this process. With `alone` the
/// caller says that none runs, for lakes where this cannot be seen.
///
/// # Errors
/// The lake or the metadata database cannot be used, or no engine answers.
pub async fn run(
    env: &Environment,
    alone: bool,
    tell: impl FnMut(&JobReport) + Send,
) -> Result<RoundReport, MaintenanceError> {
    // Whether an engine runs can only be seen on a local lake.
    if env.lake.local_dir().is_none() && !alone {
        return ask(env, tell).await;
    }
    let _lock = match EngineLock::exclusive(&env.lake) {
        Ok(lock) => lock,
        Err(IngestError::EngineRunning) => return ask(env, tell).await,
        Err(error) => return Err(error.into()),
    };
    if snapshot(&env.lake, INTERVALS, None).await?.is_none() {
        // Nothing was ever read, and a claim would leave tables behind.
        return Ok(RoundReport::default());
    }
    let committer = Committer::claim(&env.lake).await?;
    let (watermark, now) = (watermark(&committer.committed().state), jiff::Timestamp::now().as_microsecond());
    Round::new(&env.config, &env.lake, Commits::Own(Box::new(committer)), watermark, now).run(tell).await
}

/// Has the running engine do it, by a request in the metadata database.
async fn ask(env: &Environment, mut tell: impl FnMut(&JobReport) + Send) -> Result<RoundReport, MaintenanceError> {
    let mut record = MaintenanceRecord {
        request_id: uuid::Uuid::now_v7().to_string(),
        status: MaintenanceStatus::Waiting,
        requested_at: jiff::Timestamp::now().as_microsecond(),
        heard_at: None,
        report: RoundReport::default(),
        error: None,
    };
    env.metadata.put_maintenance(&record).await?;
    let mut told = 0;
    let mut heard = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        if let Some(now) = env.metadata.maintenance(&record.request_id).await? {
            if now.heard_at != record.heard_at {
                heard = Instant::now();
            }
            record = now;
        }
        record.report.jobs.iter().skip(told).for_each(&mut tell);
        told = told.max(record.report.jobs.len());
        match record.status {
            MaintenanceStatus::Done | MaintenanceStatus::Abandoned => break,
            MaintenanceStatus::Waiting if heard.elapsed() > TAKEN_WITHIN => {
                let abandoned = MaintenanceRecord { status: MaintenanceStatus::Abandoned, ..record.clone() };
                if env.metadata.move_maintenance(MaintenanceStatus::Waiting, &abandoned).await? {
                    return Err(MaintenanceError::NotTaken { waited_s: TAKEN_WITHIN.as_secs() });
                }
            }
            MaintenanceStatus::Running if heard.elapsed() > SILENT_MAX => {
                return Err(MaintenanceError::Silent { silent_s: SILENT_MAX.as_secs() });
            }
            MaintenanceStatus::Waiting | MaintenanceStatus::Running => {}
        }
    }
    match record.error {
        Some(error) => Err(MaintenanceError::Incomplete(error)),
        None => Ok(record.report),
    }
}
