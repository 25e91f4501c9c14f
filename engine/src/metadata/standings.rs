//! What evaluations of triggers leave for the next ones.

use super::records::{Pipeline, Standing};
use super::{MetadataError, MetadataStore};

/// Which trigger: its model group and its pipeline.
pub type TriggerKey = (String, Pipeline);

impl MetadataStore {
    /// How each trigger stood after its last evaluation.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn standings(&self) -> Result<Vec<(TriggerKey, Standing)>, MetadataError> {
        let doing = "reading how triggers stand";
        let rows: Vec<(String, String, String)> = self
            .retry(doing, || {
                sqlx::query_as("SELECT group_id, pipeline, doc FROM standings ORDER BY group_id, pipeline")
                    .fetch_all(&self.pool)
            })
            .await?;
        rows.into_iter()
            .filter_map(|(group_id, pipeline, doc)| {
                let pipeline = Pipeline::ALL.into_iter().find(|known| known.as_str() == pipeline)?;
                Some(self.parse(doing, &doc).map(|standing| ((group_id, pipeline), standing)))
            })
            .collect()
    }

    /// Keeps how triggers stand, all of them or none.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn keep_standings(&self, standings: &[(TriggerKey, Standing)]) -> Result<(), MetadataError> {
        if standings.is_empty() {
            return Ok(());
        }
        let doing = "keeping how triggers stand";
        let docs: Vec<String> =
            standings.iter().map(|(_, standing)| self.to_document(doing, standing)).collect::<Result<_, _>>()?;
        self.retry(doing, || async {
            let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            for (((group_id, pipeline), _), doc) in standings.iter().zip(&docs) {
                sqlx::query(
                    "INSERT INTO standings (group_id, pipeline, doc) VALUES (?, ?, ?) \
                     ON CONFLICT (group_id, pipeline) DO UPDATE SET doc = excluded.doc",
                )
                .bind(group_id)
                .bind(pipeline.as_str())
                .bind(doc)
                .execute(&mut *transaction)
                .await?;
            }
            transaction.commit().await
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::tests::fresh;
    use super::*;

    #[tokio::test]
    async fn the_last_standing_of_each_trigger_is_found_again() {
        let (_dir, store) = fresh().await;
        let of = |since| Standing { true_since: Some(since), ..Standing::default() };
        let key = |pipeline| ("PT1H".to_owned(), pipeline);
        store.keep_standings(&[]).await.unwrap();
        store.keep_standings(&[(key(Pipeline::Infer), of(1)), (key(Pipeline::Build), of(2))]).await.unwrap();
        store.keep_standings(&[(key(Pipeline::Infer), of(3))]).await.unwrap();
        let found = store.standings().await.unwrap();
        assert_eq!(found, [(key(Pipeline::Build), of(2)), (key(Pipeline::Infer), of(3))]);
    }
}
