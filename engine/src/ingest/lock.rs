//! Whether an engine runs on a lake, for the commands that must not fence it out by accident.
//!
//! An engine holds a shared lock on a file beside the lake, or, where that is on S3, beside the metadata database; the
//! operating system lets go of it when the process ends, however it ends. It is a courtesy between the processes of one
//! machine: what keeps two writers apart is the fence.

use std::fs::{File, OpenOptions, TryLockError};

use meterline_connectors::lake::Lake;

use super::error::IngestError;

/// Held as long as it lives.
#[derive(Debug)]
pub struct EngineLock {
    _file: Option<File>,
}

impl EngineLock {
    /// For an engine: says that it runs.
    ///
    /// # Errors
    /// [`IngestError::BackfillRunning`]. On a file system without locks nothing is known, and it succeeds.
    pub fn engine(lake: &Lake) -> Result<EngineLock, IngestError> {
        let Some(file) = open(lake) else { return Ok(EngineLock { _file: None }) };
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Err(IngestError::BackfillRunning),
            Ok(()) | Err(TryLockError::Error(_)) => Ok(EngineLock { _file: Some(file) }),
        }
    }

    /// For a command that needs the lake to itself.
    ///
    /// # Errors
    /// [`IngestError::EngineRunning`]. On a file system without locks nothing is known, and it succeeds.
    pub fn exclusive(lake: &Lake) -> Result<EngineLock, IngestError> {
        let Some(file) = open(lake) else { return Ok(EngineLock { _file: None }) };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(IngestError::EngineRunning),
            Ok(()) | Err(TryLockError::Error(_)) => Ok(EngineLock { _file: Some(file) }),
        }
    }
}

fn open(lake: &Lake) -> Option<File> {
    let directory = lake.lock_dir().join("state");
    std::fs::create_dir_all(&directory).ok()?;
    OpenOptions::new().create(true).truncate(false).write(true).open(directory.join("engine.lock")).ok()
}
