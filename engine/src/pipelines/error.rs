//! What can go wrong in a run, in words for the person who reads them.

use std::fmt::Display;

use crate::metadata::MetadataError;

/// Why a step did not finish.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Somebody asked the run to stop; the step can be executed again.
    #[error("asked to stop")]
    Stopped,
    /// It cannot be done. `doing` says what was being done with which input, `reason` why not and what to do.
    #[error("{doing}: {reason}")]
    Failed {
        /// What was being done, with which input.
        doing: String,
        /// Why it did not work, and the remedy where there is one.
        reason: String,
    },
}

impl StepError {
    /// A failure of `doing` because of `reason`.
    pub fn failed(doing: impl Into<String>, reason: impl Display) -> StepError {
        StepError::Failed { doing: doing.into(), reason: reason.to_string() }
    }
}

/// Says what was being done when a lower layer failed.
pub trait Doing<T> {
    /// Turns the error into [`StepError::Failed`] with `what` as its context.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, StepError>;
}

impl<T, E: Display> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, StepError> {
        self.map_err(|e| StepError::failed(what(), e))
    }
}

/// Why a run could not be started, watched or executed. A run that ends with an error is not one of these: its
/// record says so.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The metadata database did not answer.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// There is no such run.
    #[error("run `{0}` is not in the metadata database; `meterline runs list` shows those that are")]
    Unknown(String),
    /// The engine is ending.
    #[error("run `{0}` is not started because the engine is ending; it stays queued and begins at the next start")]
    Stopping(String),
    /// The process that saw to the run does so no longer.
    #[error(
        "run `{0}` has not ended, but is no longer seen to here; `meterline runs show` says where it stands, and the \
         service, when it runs, goes on with it"
    )]
    Abandoned(String),
    /// Another process has the run.
    #[error("run `{run_id}` is being executed by another process, which holds {lock}; wait for it or end it")]
    Locked {
        /// The run.
        run_id: String,
        /// Path of the lock file.
        lock: String,
    },
    /// A file or a process did not do what was asked of it.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, with which path or program.
        doing: String,
        /// What the operating system said.
        source: std::io::Error,
    },
}

impl RunError {
    /// An [`RunError::Io`] while `doing`.
    pub fn io(doing: impl Into<String>, source: std::io::Error) -> RunError {
        RunError::Io { doing: doing.into(), source }
    }
}
