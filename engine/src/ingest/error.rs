//! Why the stream cannot start or go on.

use meterline_connectors::files::FileError;
use meterline_connectors::kafka::SourceError;
use meterline_connectors::lake::{CommitError, LakeError};

use super::cluster::ClusterError;

/// Why the stream cannot start or go on. Nothing that was committed is lost; everything else is read again.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Kafka cannot be read.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// The lake cannot be read or written.
    #[error("{doing}: {source}")]
    Lake {
        /// What was being done.
        doing: &'static str,
        /// What the lake says.
        source: LakeError,
    },
    /// Another writer has taken over.
    #[error("{0}")]
    Fenced(CommitError),
    /// A file of the state (that of a commit, a segment, or a run of evicted series) cannot be understood.
    #[error("state file `{path}` cannot be read: {reason}; restore it from a backup of the lake")]
    State {
        /// Below the lake's root.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A feed's settings do not fit.
    #[error("feed `{feed}`: {reason}")]
    Feed {
        /// The feed.
        feed: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A roll-up does not fit what was computed.
    #[error("roll-up `{name}`: {reason}")]
    Rollup {
        /// Its name.
        name: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A file of labels cannot be read.
    #[error("[labels.{name}]: {source}")]
    Labels {
        /// Name of the source.
        name: String,
        /// What is wrong.
        source: meterline_connectors::files::labels::LabelFileError,
    },
    /// There is nothing to read.
    #[error("no feed is configured; add a [feed.NAME] with topic, series, time and value")]
    NoFeed,
    /// A record cannot be read, and the feed's policy is to stop then.
    #[error(
        "feed `{feed}` has bad_records = \"fail\", and record {partition}/{offset} of topic `{topic}` cannot be read: \
         {refusal}; repair the producer, or set bad_records to dead_letter or skip"
    )]
    BadRecord {
        /// The feed.
        feed: String,
        /// Its topic.
        topic: String,
        /// Its partition.
        partition: i32,
        /// The record's offset.
        offset: i64,
        /// What is wrong with it.
        refusal: String,
    },
    /// A file of a backfill cannot be read.
    #[error("{0}")]
    File(#[from] FileError),
    /// An engine is running on the lake that a backfill wants to write.
    #[error("an engine is running on this lake; stop it, run the backfill, and start it again")]
    EngineRunning,
    /// A backfill or housekeeping is writing the lake that an engine is to run on.
    #[error("a backfill or `meterline maintain` is running on this lake; start the engine when it has ended")]
    BackfillRunning,
    /// The processes of a cluster do not come together, or not stay together.
    #[error("{0}")]
    Cluster(#[from] ClusterError),
    /// The stream was to stop, and the store did not let it in time.
    #[error(
        "the stream was to stop, and after {waited_s} s it was still {doing}: what was read since the last \
         commit may not be in the lake, and what is not is read again at the next start; look whether the \
         store or the network to it hangs"
    )]
    StopTimedOut {
        /// How long it was waited for, in seconds.
        waited_s: u64,
        /// What it was at.
        doing: &'static str,
    },
    /// A thread ended, or something that cannot happen did.
    #[error("{0}; this is a fault of meterline, please report it")]
    Fault(String),
}

impl IngestError {
    /// Whether the configuration or an argument is at fault, rather than what it points at.
    pub fn is_usage(&self) -> bool {
        match self {
            IngestError::Feed { .. }
            | IngestError::Rollup { .. }
            | IngestError::Labels { .. }
            | IngestError::NoFeed => true,
            IngestError::File(file) => file.is_usage(),
            IngestError::Cluster(cluster) => cluster.is_usage(),
            _ => false,
        }
    }

    /// For errors of commits: what was being done.
    pub(super) fn commit(doing: &'static str) -> impl FnOnce(CommitError) -> IngestError {
        move |error| match error {
            CommitError::Lake(source) => IngestError::Lake { doing, source },
            fenced @ CommitError::Fenced { .. } => IngestError::Fenced(fenced),
        }
    }

    /// For the lake's errors: what was being done.
    pub(super) fn lake(doing: &'static str) -> impl FnOnce(LakeError) -> IngestError {
        move |source| IngestError::Lake { doing, source }
    }
}
