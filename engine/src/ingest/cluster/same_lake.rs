//! Whether the lake of a process is that of process 0. Another `lake.url` is one way to have another lake; the same
//! directory on a machine that does not share it is another. Series would be restored from what is not there, or, worse,
//! from what an old copy holds.

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

/// How long a file system that is shared over a network may take to show what process 0 has claimed.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(500);

/// Whether a lake has the commit and the claim that process 0 begins with.
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
        match States::patient(lake, patience).state(state.seq, state.fence).await {
            Ok(found) if (found.committed_at, &found.segments) == (state.committed_at, &state.segments) => {}
            Ok(_) => return Err(other(format!("its commit {} is another one", state.seq))),
            Err(IngestError::Lake { source: LakeError::NotFound { path }, .. }) => {
                return Err(other(format!("it has no `{path}`")));
            }
            Err(error) => return Err(error),
        }
    }
    let began = Instant::now();
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
            claim if began.elapsed() >= limit => {
                let reason = format!("its newest claim is {claim}, where process 0 made claim {}", begin.fence);
                return Err(other(reason));
            }
            _ => tokio::time::sleep(LOOK).await,
        }
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
    use crate::ingest::commit::Committer;
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
}
