//! Whether the lake of a process is that of process 0. Another `lake.url` is one way to have another lake; the same
//! directory on a machine that does not share it is another. Series would be restored from what is not there, or,
//! worse, from what an old copy holds.

use std::time::{Duration, Instant};

use meterline_connectors::lake::{Lake, LakeError, snapshot};
use meterline_schemas::tables::INTERVALS;

use super::super::commit::{CLAIM, SEQ};
use super::super::error::IngestError;
use super::super::load::States;
use super::super::patience::Patience;
use super::super::state::IngestState;
use super::ClusterError;
use super::message::Begin;

/// How long a file system that is shared over a network may take to show what process 0 has written: NFS keeps what it
/// knows of a directory, also that a file is not there, for up to 60 s. Tests have no such one.
const SHOWN_WITHIN: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 90 });
const LOOK: Duration = Duration::from_millis(500);

/// Whether a lake has the commit and the claim that process 0 begins with. Each is waited for; a process that is to end
/// before it is there drops this, which ends at once.
///
/// # Errors
/// [`ClusterError::OtherLake`]; or the lake cannot be read.
pub async fn check(lake: &Lake, patience: &Patience, begin: &Begin, state: &IngestState) -> Result<(), IngestError> {
    check_within(lake, patience, begin, state, SHOWN_WITHIN).await
}

async fn check_within(
    lake: &Lake,
    patience: &Patience,
    begin: &Begin,
    state: &IngestState,
    limit: Duration,
) -> Result<(), IngestError> {
    let other = |reason: String| {
        let (ours, theirs) = (lake.url().to_owned(), begin.lake.clone());
        IngestError::Cluster(ClusterError::OtherLake { ours, theirs, reason })
    };
    if state.seq > 0 {
        let mut grace = Grace::new(limit);
        let found = loop {
            match States::patient(lake, patience).state(state.seq, state.fence).await {
                Err(IngestError::Lake { source: LakeError::NotFound { path }, .. }) => {
                    let reason = format!("it has no `{path}`");
                    if !grace.wait(&reason).await {
                        return Err(other(reason));
                    }
                }
                found => break found?,
            }
        };
        if (found.committed_at, &found.segments) != (state.committed_at, &state.segments) {
            return Err(other(format!("its commit {} is another one", state.seq)));
        }
    }
    // What was read for the first time now may be as old.
    let mut grace = Grace::new(limit);
    loop {
        let newest = newest(lake, patience).await?;
        match newest.claim.unwrap_or(0) {
            // Until this process has begun, process 0 commits nothing.
            claim if claim == begin.fence => {
                let seq = newest.seq.unwrap_or(0);
                return if seq == state.seq { Ok(()) } else { Err(other(format!("its newest commit is {seq}"))) };
            }
            // A newer writer has claimed it: process 0 will see.
            claim if claim > begin.fence => return Ok(()),
            claim => {
                let reason = format!("its newest claim is {claim}, where process 0 made claim {}", begin.fence);
                if !grace.wait(&reason).await {
                    return Err(other(reason));
                }
            }
        }
    }
}

/// Waits for something to be shown, aloud.
struct Grace {
    began: Instant,
    limit: Duration,
    told: bool,
}

impl Grace {
    fn new(limit: Duration) -> Grace {
        Grace { began: Instant::now(), limit, told: false }
    }

    // Until it is time for another look; false where there was time enough. `reason` is what the lake shows now.
    async fn wait(&mut self, reason: &str) -> bool {
        if self.began.elapsed() >= self.limit {
            return false;
        }
        if !std::mem::replace(&mut self.told, true) {
            let limit_s = self.limit.as_secs();
            tracing::warn!(reason, limit_s, "the lake does not show yet what process 0 begins with; it is waited for");
        }
        tokio::time::sleep(LOOK).await;
        true
    }
}

/// What the log of `intervals` says last.
#[derive(Default)]
struct Newest {
    claim: Option<i64>,
    seq: Option<i64>,
}

async fn newest(lake: &Lake, patience: &Patience) -> Result<Newest, IngestError> {
    let read = || async {
        let Some(table) = snapshot(lake, INTERVALS, None).await? else { return Ok(Newest::default()) };
        let newest = Newest { claim: table.transaction(CLAIM).await?, seq: table.transaction(SEQ).await? };
        Ok::<_, LakeError>(newest)
    };
    patience.retry("looking whether this is the lake of process 0", read).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ingest::commit::{Committer, encode_state};
    use crate::ingest::load::StateFile;
    use crate::ingest::pulse::Pulse;

    async fn lake() -> (tempfile::TempDir, Lake) {
        let directory = tempfile::tempdir().unwrap();
        let lake = Lake::open(directory.path().to_str().unwrap()).await.unwrap();
        (directory, lake)
    }

    #[tokio::test]
    async fn a_lake_without_the_claim_of_process_0_is_another_one() {
        let ((_here, ours), (_there, theirs)) = (lake().await, lake().await);
        let fence = Committer::claim(&theirs).await.unwrap().fence();
        let begin = Begin { session: [0; 16], lake: theirs.url().to_owned(), fence, state: Vec::new() };
        let patience = Patience::new(Arc::default(), Pulse::default());
        let state = IngestState::default();
        let check = |lake: Lake| {
            let (patience, begin, state) = (patience.clone(), begin.clone(), state.clone());
            async move { check_within(&lake, &patience, &begin, &state, Duration::ZERO).await }
        };
        check(theirs.clone()).await.unwrap();
        let error = check(ours.clone()).await.unwrap_err();
        assert!(error.is_usage(), "{error}");
        for words in [ours.url(), theirs.url(), "lake.url"] {
            assert!(error.to_string().contains(words), "{error}");
        }
        // A newer claim is nothing that this process can judge.
        Committer::claim(&theirs).await.unwrap();
        check(theirs.clone()).await.unwrap();
        // A commit that process 0 does not know of, or one that is not here.
        let committed = IngestState { seq: 7, fence, ..IngestState::default() };
        let missing = check_within(&theirs, &patience, &begin, &committed, Duration::ZERO).await.unwrap_err();
        assert!(missing.to_string().contains("it has no `state/ingest-"), "{missing}");
    }

    #[tokio::test]
    async fn what_a_file_system_shows_late_is_waited_for() {
        let (_directory, lake) = lake().await;
        let patience = Patience::new(Arc::default(), Pulse::default());
        let begin = |fence| Begin { session: [0; 16], lake: lake.url().to_owned(), fence, state: Vec::new() };
        let late = LOOK * 2;
        // The claim.
        let (first, state) = (begin(1), IngestState::default());
        let claiming = async {
            tokio::time::sleep(late).await;
            Committer::claim(&lake).await.map(|committer| committer.fence())
        };
        let limit = Duration::from_secs(60);
        let (checked, fence) = tokio::join!(check_within(&lake, &patience, &first, &state, limit), claiming);
        checked.unwrap();
        assert_eq!(fence.unwrap(), 1);
        // The state, which is then found to be of a commit that was not made.
        let committed = IngestState { seq: 7, fence: 1, ..IngestState::default() };
        let written = async {
            tokio::time::sleep(late).await;
            lake.put_object(&StateFile::Commit.path(7, 1), encode_state(&committed).unwrap()).await.unwrap();
        };
        let (checked, ()) = tokio::join!(check_within(&lake, &patience, &first, &committed, limit), written);
        let error = checked.unwrap_err().to_string();
        assert!(error.contains("its newest commit is 0"), "{error}");
        // A stop does not wait for what is never shown.
        let (never, began) = (begin(2), Instant::now());
        let waiting = check_within(&lake, &patience, &never, &state, limit);
        assert!(tokio::time::timeout(late, waiting).await.is_err());
        assert!(began.elapsed() < limit / 2);
    }
}
