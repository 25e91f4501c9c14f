//! Why housekeeping could not do its work. Nothing is lost by any of it: the next round begins from what is there.

use meterline_connectors::lake::{CommitError, LakeError};

use crate::ingest::IngestError;
use crate::ingest::requests::StreamEnded;
use crate::metadata::MetadataError;

/// Why a round, or a part of it, was not done.
#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    /// The lake could not be read or written.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// A rewrite was refused, or another writer has taken over.
    #[error("committing: {0}")]
    Commit(#[from] CommitError),
    /// The stream's tables cannot be taken over, or their state not read.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// The stream that owns the tables has ended.
    #[error(transparent)]
    StreamEnded(#[from] StreamEnded),
    /// The metadata database failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// It was asked to end.
    #[error("housekeeping was stopped before it was done; the next round goes on")]
    Stopped,
    /// A thread of it died.
    #[error("a thread of housekeeping died: {0}; this is a fault of meterline, please report it")]
    Died(tokio::task::JoinError),
    /// No engine took the request.
    #[error(
        "no engine took the request within {waited_s} s; if one runs on this lake, does its configuration name the same \
         metadata database, and is `maintenance` in its log? If none runs, use --alone"
    )]
    NotTaken {
        /// Seconds waited.
        waited_s: u64,
    },
    /// The engine that took the request no longer says anything.
    #[error("the engine that took the request has said nothing for {silent_s} s; see its log, and ask again")]
    Silent {
        /// Seconds since its last sign of life.
        silent_s: u64,
    },
    /// Some of the work failed.
    #[error("housekeeping is incomplete: {0}")]
    Incomplete(String),
}

impl MaintenanceError {
    /// Whether there is nobody left to commit.
    pub(super) fn ends_round(&self) -> bool {
        matches!(
            self,
            MaintenanceError::StreamEnded(_)
                | MaintenanceError::Stopped
                | MaintenanceError::Commit(CommitError::Fenced { .. })
                | MaintenanceError::Ingest(IngestError::Fenced(_))
        )
    }
}
