//! Trigger decisions: every evaluation, with its facts and the truth of its parts.

use meterline_schemas::Micros;

use super::records::{DecisionRecord, Pipeline};
use super::{MetadataError, MetadataStore};

/// Evaluations that started nothing, kept per group and trigger.
const KEPT: i64 = 10_000;
/// Decisions that are written by one statement.
const ROWS: usize = 250;

impl MetadataStore {
    /// Records a decision. The same decision again replaces it: it gained its run, or an evaluation that was repeated
    /// at the same commit came out anew.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn record_decision(&self, decision: &DecisionRecord) -> Result<(), MetadataError> {
        self.record_decisions(std::slice::from_ref(decision)).await
    }

    /// Records decisions, all of them or none.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn record_decisions(&self, decisions: &[DecisionRecord]) -> Result<(), MetadataError> {
        if decisions.is_empty() {
            return Ok(());
        }
        let doing = "recording trigger decisions";
        let docs: Vec<String> =
            decisions.iter().map(|decision| self.to_document(doing, decision)).collect::<Result<_, _>>()?;
        self.retry(doing, || async {
            let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            // Many rows a statement: each one is a message to the database's thread, and its answer.
            for (decisions, docs) in decisions.chunks(ROWS).zip(docs.chunks(ROWS)) {
                let mut insert = sqlx::QueryBuilder::<sqlx::Sqlite>::new(
                    "INSERT INTO decisions (decision_id, group_id, pipeline, commit_seq, at, fired, doc) ",
                );
                insert.push_values(decisions.iter().zip(docs), |mut row, (decision, doc)| {
                    row.push_bind(&decision.decision_id)
                        .push_bind(&decision.group_id)
                        .push_bind(decision.pipeline.as_str())
                        .push_bind(decision.commit_seq)
                        .push_bind(decision.at)
                        .push_bind(decision.fired)
                        .push_bind(doc);
                });
                insert.push(
                    " ON CONFLICT (decision_id) DO UPDATE SET at = excluded.at, fired = excluded.fired, doc = excluded.doc",
                );
                insert.build().execute(&mut *transaction).await?;
            }
            transaction.commit().await
        })
        .await
    }

    /// The newest `limit` decisions, newest first.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn decisions(&self, limit: i64) -> Result<Vec<DecisionRecord>, MetadataError> {
        let doing = "listing trigger decisions";
        let docs = self
            .retry(doing, || {
                sqlx::query_scalar("SELECT doc FROM decisions ORDER BY at DESC, decision_id DESC LIMIT ?")
                    .bind(limit)
                    .fetch_all(&self.pool)
            })
            .await?;
        self.parse_all(doing, docs)
    }

    /// The decisions of a group that were made from `from` on, but before `to`, by the clock, oldest first.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn decisions_between(
        &self,
        group_id: &str,
        from: Micros,
        to: Micros,
    ) -> Result<Vec<DecisionRecord>, MetadataError> {
        let doing = "reading trigger decisions";
        let docs = self
            .retry(doing, || {
                sqlx::query_scalar(
                    "SELECT doc FROM decisions WHERE group_id = ? AND at >= ? AND at < ? ORDER BY at, decision_id",
                )
                .bind(group_id)
                .bind(from)
                .bind(to)
                .fetch_all(&self.pool)
            })
            .await?;
        self.parse_all(doing, docs)
    }

    /// The newest decision of a trigger; with `fired`, the newest that started a run.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn last_decision(
        &self,
        group_id: &str,
        pipeline: Pipeline,
        fired: bool,
    ) -> Result<Option<DecisionRecord>, MetadataError> {
        let doing = "reading a trigger decision";
        let doc: Option<String> = self
            .retry(doing, || {
                sqlx::query_scalar(
                    "SELECT doc FROM decisions WHERE group_id = ? AND pipeline = ? AND fired >= ? \
                     ORDER BY at DESC, commit_seq DESC LIMIT 1",
                )
                .bind(group_id)
                .bind(pipeline.as_str())
                .bind(fired)
                .fetch_optional(&self.pool)
            })
            .await?;
        doc.map(|text| self.parse(doing, &text)).transpose()
    }

    /// Forgets the oldest evaluations that started nothing.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn trim_decisions(&self, group_id: &str, pipeline: Pipeline) -> Result<(), MetadataError> {
        self.retry("trimming trigger decisions", || async {
            sqlx::query(
                "DELETE FROM decisions WHERE group_id = ?1 AND pipeline = ?2 AND fired = 0 AND at < \
                 (SELECT at FROM decisions WHERE group_id = ?1 AND pipeline = ?2 AND fired = 0 \
                  ORDER BY at DESC LIMIT 1 OFFSET ?3)",
            )
            .bind(group_id)
            .bind(pipeline.as_str())
            .bind(KEPT)
            .execute(&self.pool)
            .await
            .map(|_| ())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use meterline_schemas::facts::Facts;

    use super::super::store::tests::fresh;
    use super::*;

    fn decision(id: &str, at: i64, fired: bool) -> DecisionRecord {
        DecisionRecord {
            decision_id: id.into(),
            group_id: "PT15M".into(),
            pipeline: Pipeline::Infer,
            commit_seq: at,
            origin: at,
            at,
            fired,
            reason: String::new(),
            clauses: Vec::new(),
            facts: Facts { group_id: "PT15M".into(), pipeline: "reforecast".into(), values: Default::default() },
            run_id: None,
            resumed: false,
            observed: None,
            seen: None,
            before: None,
        }
    }

    #[tokio::test]
    async fn a_decision_that_comes_out_anew_is_found_as_what_it_became() {
        let (_dir, store) = fresh().await;
        store.record_decision(&decision("1", 1, false)).await.unwrap();
        assert!(store.last_decision("PT15M", Pipeline::Infer, true).await.unwrap().is_none());
        store.record_decision(&decision("1", 2, true)).await.unwrap();
        store.record_decision(&decision("2", 3, false)).await.unwrap();
        let last = |fired| store.last_decision("PT15M", Pipeline::Infer, fired);
        assert_eq!(last(true).await.unwrap().unwrap().decision_id, "1");
        assert_eq!(last(false).await.unwrap().unwrap().decision_id, "2");
        assert_eq!(store.decisions(9).await.unwrap().len(), 2);
        assert!(store.last_decision("PT15M", Pipeline::Build, false).await.unwrap().is_none());
    }
}
