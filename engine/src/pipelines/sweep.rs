//! Deletes the artifacts of runs that have ended: at once where the run succeeded (its result is published or
//! registered elsewhere), after a week where somebody may want to look into it.

use std::collections::BTreeSet;

use meterline_connectors::lake::Lake;
use meterline_schemas::Micros;
use meterline_schemas::time::DAY;
use object_store::ObjectStore;
use object_store::path::Path;

use super::artifacts::FOLDER;
use super::recorder::now;
use crate::environment::Environment;
use crate::metadata::records::{RunRecord, Status};

/// How long the artifacts of a run that did not succeed are kept after its end.
const KEPT: Micros = 7 * DAY;

/// Deletes what no run needs any more. What cannot be deleted now is tried again after the next run.
pub(super) async fn sweep(env: &Environment) {
    let run_ids = match folders(&env.lake).await {
        Ok(run_ids) => run_ids,
        Err(error) => {
            tracing::warn!(%error, "the artifacts of ended runs cannot be listed; they stay until the next run ends");
            return;
        }
    };
    for run_id in run_ids {
        let run = match env.metadata.run(&run_id).await {
            Ok(Some(run)) => run,
            // Another metadata database's, perhaps: its engine knows what it needs.
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(%error, "artifacts of ended runs stay until the next run ends");
                return;
            }
        };
        if !is_over(&run, now()) {
            continue;
        }
        if let Err(error) = delete(&env.lake, &run_id).await {
            tracing::warn!(
                run = run_id,
                error,
                "the run's artifacts cannot be deleted; tried again after the next run"
            );
        }
    }
}

/// Whether nobody needs the artifacts of `run` any more. A run that has not ended goes on from them.
fn is_over(run: &RunRecord, now: Micros) -> bool {
    match run.status {
        Status::Queued | Status::Running => false,
        Status::Succeeded => true,
        Status::Failed | Status::Cancelled => now - run.finished_at.unwrap_or(run.created_at) > KEPT,
    }
}

// Names of the folders of artifacts, each that of a run. A run that ended before its first artifact has its locks,
// which are not in the lake where that is on S3.
async fn folders(lake: &Lake) -> object_store::Result<BTreeSet<String>> {
    let found = lake.store().list_with_delimiter(Some(&Path::from(FOLDER))).await?;
    let mut names: BTreeSet<String> =
        found.common_prefixes.iter().filter_map(|path| path.filename()).map(str::to_owned).collect();
    if let Ok(locks) = std::fs::read_dir(lake.lock_dir().join(FOLDER)) {
        names.extend(locks.filter_map(|entry| entry.ok()?.file_name().into_string().ok()));
    }
    Ok(names)
}

// Directories are no objects: where the lake is one, they would stay behind, a few every hour. On S3 the run's locks
// lie elsewhere.
async fn delete(lake: &Lake, run_id: &str) -> Result<(), String> {
    let folder = format!("{FOLDER}/{run_id}");
    if lake.local_dir().is_none() {
        for path in lake.list_objects(&folder).await.map_err(|e| e.to_string())? {
            lake.delete_object(&path).await.map_err(|e| e.to_string())?;
        }
    }
    match tokio::fs::remove_dir_all(lake.lock_dir().join(&folder)).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("deleting {folder}: {error}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipelines::spec::tests::{environment, queued, spec};

    #[tokio::test]
    async fn artifacts_go_with_success_and_a_week_after_any_other_end() {
        let directory = tempfile::tempdir().unwrap();
        let env = environment(directory.path()).await;
        let hours_ago = |hours: i64| Some(now() - hours * DAY / 24);
        let mut expected = BTreeSet::from(["unknown".to_owned()]);
        for (run_id, status, finished_at, stays) in [
            ("queued", Status::Queued, None, true),
            ("running", Status::Running, None, true),
            ("succeeded", Status::Succeeded, hours_ago(0), false),
            ("failed", Status::Failed, hours_ago(7 * 24 - 1), true),
            ("failed-long-ago", Status::Failed, hours_ago(7 * 24 + 1), false),
            ("cancelled", Status::Cancelled, hours_ago(0), true),
            ("cancelled-long-ago", Status::Cancelled, hours_ago(7 * 24 + 1), false),
        ] {
            env.metadata.insert_run(&RunRecord { status, finished_at, ..queued(spec(run_id)) }).await.unwrap();
            env.lake.put_object(&format!("{FOLDER}/{run_id}/a/b"), "artifact").await.unwrap();
            if stays {
                expected.insert(run_id.to_owned());
            }
        }
        env.lake.put_object(&format!("{FOLDER}/unknown/a"), "artifact").await.unwrap();
        env.lake.put_object("models/PT1H-0001/weights", "weights").await.unwrap();
        for _ in 0..2 {
            sweep(&env).await;
            assert_eq!(folders(&env.lake).await.unwrap(), expected);
        }
        assert!(env.lake.get_object("models/PT1H-0001/weights").await.is_ok());
    }

    #[tokio::test]
    async fn a_lake_without_artifacts_has_nothing_to_sweep() {
        let directory = tempfile::tempdir().unwrap();
        let env = environment(directory.path()).await;
        sweep(&env).await;
        assert!(folders(&env.lake).await.unwrap().is_empty());
    }
}
