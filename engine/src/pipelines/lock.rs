//! One process a run: advisory locks that the operating system releases however their holder ends.

use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::time::Duration;

use meterline_connectors::lake::Lake;
use tokio::time::Instant;

use super::artifacts::FOLDER;
use super::error::RunError;

/// What a process does for a run while it holds the lock for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It executes the steps.
    Execute,
    /// It sees to the run, from the queue to the end: it starts the processes that execute it.
    Drive,
}

/// Held by the process that has a role in a run; released when dropped or when the process ends.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes the lock of `run_id` for `role`. A child whose engine died needs some seconds to end, so this waits up to
    /// `patience`.
    pub async fn acquire(lake: &Lake, run_id: &str, role: Role, patience: Duration) -> Result<RunLock, RunError> {
        let path = path(lake, run_id, role);
        let io = |doing: &str, e| RunError::io(format!("{doing} the lock file {}", path.display()), e);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| io("creating the directory of", e))?;
        }
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(|e| io("opening", e))?;
        let deadline = Instant::now() + patience;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(RunLock { _file: file }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(RunError::Locked { run_id: run_id.to_owned(), lock: path.display().to_string() });
                }
                Err(TryLockError::Error(e)) => return Err(io("locking", e)),
            }
        }
    }

    /// Whether some process holds the lock of `run_id` for `role` now.
    pub fn is_held(lake: &Lake, run_id: &str, role: Role) -> bool {
        let Ok(file) = File::options().write(true).open(path(lake, run_id, role)) else { return false };
        matches!(file.try_lock(), Err(TryLockError::WouldBlock))
    }
}

// Beside the run's artifacts where the lake is a directory.
fn path(lake: &Lake, run_id: &str, role: Role) -> PathBuf {
    let name = match role {
        Role::Execute => "run",
        Role::Drive => "driver",
    };
    lake.lock_dir().join(FOLDER).join(run_id).join(format!("{name}.lock"))
}
