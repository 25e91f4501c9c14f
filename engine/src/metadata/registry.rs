//! The model registry: immutable versions, movable approval. The champion of a group is its newest approved version, so
//! rejecting it rolls back to the one before.

use std::collections::BTreeMap;

use meterline_models::explain::Explanation;

use super::records::{ApprovalState, ModelRecord};
use super::{MetadataError, MetadataStore};

impl ApprovalState {
    /// Name in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            ApprovalState::Pending => "pending",
            ApprovalState::Approved => "approved",
            ApprovalState::Rejected => "rejected",
        }
    }
}

/// What a version is for its group: `champion` (the newest approved), `previous` (the one approved before it), or
/// `challenger` (newer than the champion, waiting for a person).
pub fn alias(models: &[ModelRecord], model: &ModelRecord) -> Option<&'static str> {
    let mut approved: Vec<&str> = models
        .iter()
        .filter(|m| m.group_id == model.group_id && m.approval == ApprovalState::Approved)
        .map(|m| m.version.as_str())
        .collect();
    approved.sort_unstable();
    let champion = approved.last().copied();
    match model.approval {
        ApprovalState::Approved if champion == Some(&model.version) => Some("champion"),
        ApprovalState::Approved if approved.iter().rev().nth(1) == Some(&model.version.as_str()) => Some("previous"),
        ApprovalState::Pending if champion.is_none_or(|c| c < model.version.as_str()) => Some("challenger"),
        _ => None,
    }
}

impl MetadataStore {
    /// Allots the next version name of a group: `PT15M-0001`.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn next_model_version(&self, group_id: &str) -> Result<String, MetadataError> {
        let number: i64 = self
            .retry("allotting a model version", || {
                sqlx::query_scalar(
                    "INSERT INTO model_numbers (group_id, last) VALUES (?, 1) \
                     ON CONFLICT (group_id) DO UPDATE SET last = last + 1 RETURNING last",
                )
                .bind(group_id)
                .fetch_one(&self.pool)
            })
            .await?;
        Ok(format!("{group_id}-{number:04}"))
    }

    /// Registers a version with what it says of itself. A run registers one version: a second one of the same run changes
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn register_model(&self, model: &ModelRecord, explanation: &[Explanation]) -> Result<(), MetadataError> {
        let doing = "registering a model";
        let doc = self.to_document(doing, model)?;
        let explained = self.to_document(doing, &explanation)?;
        self.retry(doing, || async {
            let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            let added = sqlx::query(
                "INSERT INTO models (version, group_id, run_id, approval, created_at, doc) VALUES (?, ?, ?, ?, ?, ?) \
                 ON CONFLICT (run_id) DO NOTHING",
            )
            .bind(&model.version)
            .bind(&model.group_id)
            .bind(&model.run_id)
            .bind(model.approval.as_str())
            .bind(model.created_at)
            .bind(&doc)
            .execute(&mut *transaction)
            .await?;
            if added.rows_affected() > 0 {
                sqlx::query("INSERT INTO explanations (version, doc) VALUES (?, ?)")
                    .bind(&model.version)
                    .bind(&explained)
                    .execute(&mut *transaction)
                    .await?;
            }
            transaction.commit().await
        })
        .await
    }

    /// What each version says of itself, by version; not of versions that an earlier release registered.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn explanations(&self) -> Result<Vec<(String, Vec<Explanation>)>, MetadataError> {
        let doing = "reading explanations of models";
        let rows: Vec<(String, String)> = self
            .retry(doing, || {
                sqlx::query_as("SELECT version, doc FROM explanations ORDER BY version").fetch_all(&self.pool)
            })
            .await?;
        rows.into_iter().map(|(version, doc)| Ok((version, self.parse(doing, &doc)?))).collect()
    }

    /// What a version says of itself; nothing where an earlier release registered it.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn explanation(&self, version: &str) -> Result<Vec<Explanation>, MetadataError> {
        let doing = "reading the explanation of a model";
        let doc: Option<String> = self
            .retry(doing, || {
                sqlx::query_scalar("SELECT doc FROM explanations WHERE version = ?")
                    .bind(version)
                    .fetch_optional(&self.pool)
            })
            .await?;
        doc.map_or(Ok(Vec::new()), |doc| self.parse(doing, &doc))
    }

    /// The newest `limit` versions of a group, newest first.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn group_models(&self, group_id: &str, limit: i64) -> Result<Vec<ModelRecord>, MetadataError> {
        let doing = "listing models of a group";
        let docs = self
            .retry(doing, || {
                sqlx::query_scalar("SELECT doc FROM models WHERE group_id = ? ORDER BY version DESC LIMIT ?")
                    .bind(group_id)
                    .bind(limit)
                    .fetch_all(&self.pool)
            })
            .await?;
        self.parse_all(doing, docs)
    }

    /// All versions, newest first.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn models(&self) -> Result<Vec<ModelRecord>, MetadataError> {
        let doing = "listing models";
        let docs = self
            .retry(doing, || {
                sqlx::query_scalar("SELECT doc FROM models ORDER BY created_at DESC, version DESC")
                    .fetch_all(&self.pool)
            })
            .await?;
        self.parse_all(doing, docs)
    }

    /// One version.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn model(&self, version: &str) -> Result<Option<ModelRecord>, MetadataError> {
        self.one_model("SELECT doc FROM models WHERE version = ?", version).await
    }

    /// The version that a run registered.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn model_of_run(&self, run_id: &str) -> Result<Option<ModelRecord>, MetadataError> {
        self.one_model("SELECT doc FROM models WHERE run_id = ?", run_id).await
    }

    /// The version that serves each group, by group.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn champions(&self) -> Result<BTreeMap<String, String>, MetadataError> {
        let doing = "looking for the champions";
        // One row: each is a message from the database's thread, and there may be a thousand groups.
        let found: String = self
            .retry(doing, || {
                sqlx::query_scalar(
                    "SELECT json_group_object(group_id, version) FROM (SELECT group_id, max(version) AS version FROM models \
                     WHERE approval = 'approved' GROUP BY group_id)",
                )
                .fetch_one(&self.pool)
            })
            .await?;
        self.parse(doing, &found)
    }

    /// The version that serves a group: its newest approved one.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn champion(&self, group_id: &str) -> Result<Option<ModelRecord>, MetadataError> {
        self.one_model(
            "SELECT doc FROM models WHERE group_id = ? AND approval = 'approved' ORDER BY version DESC LIMIT 1",
            group_id,
        )
        .await
    }

    /// Sets the approval of a version; `None` if there is no such version.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn set_approval(
        &self,
        version: &str,
        approval: ApprovalState,
        reason: &str,
    ) -> Result<Option<ModelRecord>, MetadataError> {
        let doing = "setting a model's approval";
        let Some(mut model) = self.model(version).await? else { return Ok(None) };
        model.approval = approval;
        model.approval_reason = reason.to_owned();
        let doc = self.to_document(doing, &model)?;
        self.retry(doing, || async {
            sqlx::query("UPDATE models SET approval = ?, doc = ? WHERE version = ?")
                .bind(approval.as_str())
                .bind(&doc)
                .bind(version)
                .execute(&self.pool)
                .await
                .map(|_| ())
        })
        .await?;
        Ok(Some(model))
    }

    async fn one_model(&self, sql: &'static str, key: &str) -> Result<Option<ModelRecord>, MetadataError> {
        let doing = "reading a model";
        let doc: Option<String> =
            self.retry(doing, || sqlx::query_scalar(sql).bind(key).fetch_optional(&self.pool)).await?;
        doc.map(|text| self.parse(doing, &text)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use meterline_models::explain::Part;

    use super::super::store::tests::fresh;
    use super::*;

    fn model(version: &str) -> ModelRecord {
        ModelRecord {
            version: version.into(),
            group_id: "PT15M".into(),
            run_id: format!("run of {version}"),
            forecaster: "quantile_mlp".into(),
            artifact: format!("models/{version}"),
            covariates: Vec::new(),
            labels: Vec::new(),
            metrics: serde_json::Map::new(),
            trained_until: 0,
            intervals_version: 1,
            approval: ApprovalState::Approved,
            approval_reason: "gate".into(),
            created_at: 0,
        }
    }

    #[tokio::test]
    async fn rejecting_the_champion_rolls_back_to_the_one_before() {
        let (_dir, store) = fresh().await;
        assert!(store.champion("PT15M").await.unwrap().is_none());
        for _ in 0..2 {
            let version = store.next_model_version("PT15M").await.unwrap();
            store.register_model(&model(&version), &[]).await.unwrap();
        }
        assert_eq!(store.champion("PT15M").await.unwrap().unwrap().version, "PT15M-0002");
        store.set_approval("PT15M-0002", ApprovalState::Rejected, "worse in the field").await.unwrap();
        assert_eq!(store.champion("PT15M").await.unwrap().unwrap().version, "PT15M-0001");
        assert!(store.set_approval("PT15M-0009", ApprovalState::Approved, "").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_run_registers_one_version() {
        let (_dir, store) = fresh().await;
        let mut first = model("PT15M-0001");
        let told = [Explanation::new("auto", Part::Weight, "linear_quantile", 0.75)];
        store.register_model(&first, &told).await.unwrap();
        first.version = "PT15M-0002".into();
        store.register_model(&first, &[]).await.unwrap();
        assert_eq!(store.models().await.unwrap().len(), 1);
        assert_eq!(store.model_of_run(&first.run_id).await.unwrap().unwrap().version, "PT15M-0001");
        assert_eq!(store.explanation("PT15M-0001").await.unwrap(), told);
        assert_eq!(store.explanations().await.unwrap(), [("PT15M-0001".to_owned(), told.to_vec())]);
        assert!(store.explanation("PT15M-0002").await.unwrap().is_empty());
    }
}
