//! Runs that a person asks for: from the lake's committed state, with or without a running service.

use std::sync::Arc;

use meterline_schemas::Micros;

use super::child::is_terminal;
use super::error::RunError;
use super::progress;
use super::runner::{Runner, cancel};
use super::spec::for_group;
use crate::environment::Environment;
use crate::ingest::groups::groups;
use crate::ingest::{IngestError, load_committed};
use crate::metadata::records::{Pipeline, RunRecord, RunSpec};

/// Why no run was started.
#[derive(Debug, thiserror::Error)]
pub enum ManualError {
    /// The lake's state cannot be read.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// The run cannot be started or followed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Nothing was ever committed.
    #[error("the lake {0} has no readings yet; start `meterline run`, or load history with `meterline backfill`")]
    Empty(String),
    /// No series has a known frequency.
    #[error(
        "no series of the lake {0} has a known frequency yet; a few readings more per series, or `frequency` in the feed"
    )]
    NoGroup(String),
    /// The group does not exist.
    #[error("there is no group `{asked}`; the groups are {}", known.join(", "))]
    UnknownGroup {
        /// What was asked for.
        asked: String,
        /// The groups that there are.
        known: Vec<String>,
    },
}

/// Specifies a run of `pipeline` for the group, or for every group.
pub async fn specify(
    env: &Environment,
    pipeline: Pipeline,
    group: Option<&str>,
    as_of: Option<Micros>,
) -> Result<Vec<RunSpec>, ManualError> {
    let lake = || env.lake.url().to_owned();
    let committed =
        load_committed(&env.lake, &env.config, env.directory()).await?.ok_or_else(|| ManualError::Empty(lake()))?;
    let all = groups(&committed.state, &committed.census, &env.config);
    if all.is_empty() {
        return Err(ManualError::NoGroup(lake()));
    }
    let wanted: Vec<_> = all.iter().filter(|g| group.is_none_or(|asked| g.group_id == asked)).collect();
    if let (true, Some(asked)) = (wanted.is_empty(), group) {
        let known = all.iter().map(|g| g.group_id.clone()).collect();
        return Err(ManualError::UnknownGroup { asked: asked.to_owned(), known });
    }
    Ok(wanted.into_iter().map(|g| for_group(env, g, &committed, pipeline, as_of)).collect())
}

/// Executes the runs and shows their progress on standard error. If `interrupted` resolves first, what has not ended
/// is cancelled. Returns the records in the order of `specs`.
pub async fn execute(
    env: &Arc<Environment>,
    specs: Vec<RunSpec>,
    cause: &str,
    interrupted: impl Future<Output = ()>,
) -> Result<Vec<RunRecord>, RunError> {
    let runner = Runner::new(env.clone());
    let mut run_ids = Vec::new();
    for spec in specs {
        run_ids.push(runner.start(spec, cause, None).await?.spec.run_id);
    }
    let follow = async {
        for run_id in &run_ids {
            follow(env, &runner, run_id).await?;
        }
        Ok::<(), RunError>(())
    };
    let cancel_all = async {
        interrupted.await;
        for run_id in &run_ids {
            cancel(&env.metadata, run_id).await?;
        }
        Ok::<(), RunError>(())
    };
    let ended = tokio::select! {
        ended = follow => ended,
        ended = cancel_all => ended,
    };
    // Also after an error: the processes end at a safe point, and another engine can go on with their runs.
    runner.shutdown().await;
    ended?;
    let mut records = Vec::new();
    for run_id in &run_ids {
        records.push(runner.wait(run_id).await?);
    }
    Ok(records)
}

/// Shows a run's progress until it has ended, or until `runner` sees to it no longer.
async fn follow(env: &Environment, runner: &Runner, run_id: &str) -> Result<(), RunError> {
    let run = tokio::select! {
        run = progress::follow(&env.metadata, run_id) => return run.map(|_| ()),
        run = runner.wait(run_id) => run?,
    };
    if !is_terminal(run.status) {
        return Err(RunError::Abandoned(run_id.to_owned()));
    }
    // The last line says how it ended.
    progress::follow(&env.metadata, run_id).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::records::Status;
    use crate::pipelines::spec::tests::{environment, queued, spec};

    #[tokio::test]
    async fn a_run_that_is_no_longer_seen_to_is_not_followed_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let env = environment(directory.path()).await;
        for (run_id, status) in [("left", Status::Queued), ("ended", Status::Cancelled)] {
            env.metadata.insert_run(&RunRecord { status, ..queued(spec(run_id)) }).await.unwrap();
        }
        let runner = Runner::new(env.clone());
        runner.shutdown().await;
        assert!(follow(&env, &runner, "ended").await.is_ok());
        let error = follow(&env, &runner, "left").await.unwrap_err();
        assert!(matches!(error, RunError::Abandoned(_)) && error.to_string().contains("runs show"), "{error}");
    }
}
