//! Housekeeping that was asked for, for an engine that runs; and what it reports.

use meterline_schemas::Micros;
use serde::{Deserialize, Serialize};

use super::{MetadataError, MetadataStore};
use crate::maintenance::report::RoundReport;

/// Requests that are kept.
const KEPT: i64 = 100;

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaintenanceStatus {
    /// No engine has taken it yet.
    Waiting,
    /// An engine works on it.
    Running,
    /// It is done, as its report says.
    Done,
    /// It was given up: nobody takes it any more.
    Abandoned,
}

impl MaintenanceStatus {
    const fn as_str(self) -> &'static str {
        match self {
            MaintenanceStatus::Waiting => "waiting",
            MaintenanceStatus::Running => "running",
            MaintenanceStatus::Done => "done",
            MaintenanceStatus::Abandoned => "abandoned",
        }
    }
}

/// One request for a round of housekeeping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MaintenanceRecord {
    /// UUID, ordered by time.
    pub request_id: String,
    /// Where it stands.
    pub status: MaintenanceStatus,
    /// When it was asked for.
    pub requested_at: Micros,
    /// When the engine that works on it last said that it does.
    pub heard_at: Option<Micros>,
    /// What it did so far.
    pub report: RoundReport,
    /// Why it was not done.
    pub error: Option<String>,
}

impl MetadataStore {
    /// Writes a request down, or what became of it.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn put_maintenance(&self, record: &MaintenanceRecord) -> Result<(), MetadataError> {
        let doing = "recording housekeeping";
        let doc = self.to_document(doing, record)?;
        self.retry(doing, || async {
            sqlx::query(
                "INSERT INTO maintenance (request_id, status, doc) VALUES (?, ?, ?) \
                 ON CONFLICT (request_id) DO UPDATE SET status = excluded.status, doc = excluded.doc",
            )
            .bind(&record.request_id)
            .bind(record.status.as_str())
            .bind(&doc)
            .execute(&self.pool)
            .await?;
            sqlx::query(
                "DELETE FROM maintenance WHERE request_id < \
                 (SELECT request_id FROM maintenance ORDER BY request_id DESC LIMIT 1 OFFSET ?)",
            )
            .bind(KEPT)
            .execute(&self.pool)
            .await
            .map(|_| ())
        })
        .await
    }

    /// One request.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn maintenance(&self, request_id: &str) -> Result<Option<MaintenanceRecord>, MetadataError> {
        let doing = "reading a request for housekeeping";
        let doc: Option<String> = self
            .retry(doing, || {
                sqlx::query_scalar("SELECT doc FROM maintenance WHERE request_id = ?")
                    .bind(request_id)
                    .fetch_optional(&self.pool)
            })
            .await?;
        doc.map(|text| self.parse(doing, &text)).transpose()
    }

    /// The newest request that waits.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn waiting_maintenance(&self) -> Result<Option<MaintenanceRecord>, MetadataError> {
        let doing = "looking for requests for housekeeping";
        let doc: Option<String> = self
            .retry(doing, || {
                sqlx::query_scalar(
                    "SELECT doc FROM maintenance WHERE status = 'waiting' ORDER BY request_id DESC LIMIT 1",
                )
                .fetch_optional(&self.pool)
            })
            .await?;
        doc.map(|text| self.parse(doing, &text)).transpose()
    }

    /// Writes down what became of a request that stood at `from`; whether it still did.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn move_maintenance(
        &self,
        from: MaintenanceStatus,
        record: &MaintenanceRecord,
    ) -> Result<bool, MetadataError> {
        let doing = "taking a request for housekeeping";
        let doc = self.to_document(doing, record)?;
        let moved = self
            .retry(doing, || {
                sqlx::query("UPDATE maintenance SET status = ?, doc = ? WHERE request_id = ? AND status = ?")
                    .bind(record.status.as_str())
                    .bind(&doc)
                    .bind(&record.request_id)
                    .bind(from.as_str())
                    .execute(&self.pool)
            })
            .await?;
        Ok(moved.rows_affected() == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::tests::fresh;
    use super::*;

    #[tokio::test]
    async fn a_request_is_taken_once_or_abandoned() {
        let (_dir, store) = fresh().await;
        let waiting = MaintenanceRecord {
            request_id: "1".into(),
            status: MaintenanceStatus::Waiting,
            requested_at: 1,
            heard_at: None,
            report: RoundReport::default(),
            error: None,
        };
        store.put_maintenance(&waiting).await.unwrap();
        assert_eq!(store.waiting_maintenance().await.unwrap(), Some(waiting.clone()));
        let as_a = |status| MaintenanceRecord { status, ..waiting.clone() };
        let taken = as_a(MaintenanceStatus::Running);
        assert!(store.move_maintenance(MaintenanceStatus::Waiting, &taken).await.unwrap());
        assert!(
            !store.move_maintenance(MaintenanceStatus::Waiting, &as_a(MaintenanceStatus::Abandoned)).await.unwrap()
        );
        assert_eq!(store.waiting_maintenance().await.unwrap(), None);
        assert_eq!(store.maintenance("1").await.unwrap(), Some(taken));
    }
}
