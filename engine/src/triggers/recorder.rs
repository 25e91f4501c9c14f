//! Writes what was decided behind the evaluation: with a thousand groups, writing takes longer than deciding.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::metadata::MetadataStore;
use crate::metadata::records::DecisionRecord;

/// Pause after a failure of the metadata database.
const PAUSE: Duration = Duration::from_secs(1);
/// Attempts of the last decisions, when the engine ends.
const LAST_ATTEMPTS: usize = 3;

/// Writes decisions in the order in which they come, and keeps those of two evaluations at most: a database that is slower
/// than the stream holds up evaluations, and not the memory.
pub(super) struct Recorder {
    decisions: mpsc::Sender<Vec<DecisionRecord>>,
    writer: JoinHandle<()>,
}

impl Recorder {
    pub(super) fn new(metadata: MetadataStore) -> Recorder {
        let (decisions, receiver) = mpsc::channel(1);
        Recorder { decisions, writer: tokio::spawn(write(metadata, receiver)) }
    }

    /// Takes the decisions of an evaluation; waits while those of the two before are not written.
    pub(super) async fn record(&self, decisions: Vec<DecisionRecord>) {
        if !decisions.is_empty() && self.decisions.send(decisions).await.is_err() {
            tracing::error!(
                "trigger decisions are no longer recorded, because their writer has ended; restart the engine"
            );
        }
    }

    /// Ends once all is written, or could not be.
    pub(super) async fn finish(self) {
        drop(self.decisions);
        if let Err(error) = self.writer.await {
            tracing::error!(%error, "the last trigger decisions were not recorded");
        }
    }
}

async fn write(metadata: MetadataStore, mut receiver: mpsc::Receiver<Vec<DecisionRecord>>) {
    while let Some(decisions) = receiver.recv().await {
        let mut last_attempts = 0;
        while let Err(error) = metadata.record_decisions(&decisions).await {
            let count = decisions.len();
            last_attempts += usize::from(receiver.is_closed());
            if last_attempts >= LAST_ATTEMPTS {
                tracing::error!(%error, count, "trigger decisions that started nothing were not recorded: the engine ends");
                break;
            }
            tracing::warn!(%error, count, "trigger decisions could not be recorded; it is tried again");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use meterline_schemas::facts::Facts;

    use super::*;
    use crate::metadata::records::Pipeline;

    #[tokio::test]
    async fn all_is_written_by_the_end_in_the_order_of_the_evaluations() {
        let dir = tempfile::tempdir().unwrap();
        let store = MetadataStore::open(&format!("sqlite:{}/metadata.db", dir.path().display())).await.unwrap();
        let decision = |id: &str, at: i64| DecisionRecord {
            decision_id: id.into(),
            group_id: "PT1H".into(),
            pipeline: Pipeline::Infer,
            commit_seq: at,
            origin: 0,
            at,
            fired: false,
            reason: String::new(),
            clauses: Vec::new(),
            facts: Facts { group_id: "PT1H".into(), pipeline: "reforecast".into(), values: Default::default() },
            run_id: None,
            resumed: false,
            observed: None,
            seen: None,
            before: None,
        };
        let recorder = Recorder::new(store.clone());
        recorder.record(Vec::new()).await;
        for at in 0..20 {
            // The same decision once more replaces the one before.
            recorder.record(vec![decision("again", at), decision(&format!("d{at:02}"), at)]).await;
        }
        recorder.finish().await;
        let found = store.decisions(100).await.unwrap();
        assert_eq!(found.len(), 21);
        assert_eq!(found.iter().find(|of| of.decision_id == "again").unwrap().at, 19);
    }
}
