//! Runs with their steps, logs and metrics.

use meterline_schemas::Micros;

use super::records::{LogRecord, MetricRecord, Pipeline, RunRecord, Status, StepRecord};
use super::{MetadataError, MetadataStore};

impl MetadataStore {
    /// Adds a run.
    ///
    /// # Errors
    ///
    /// [`MetadataError`]; a run of the same id is an error too.
    pub async fn insert_run(&self, run: &RunRecord) -> Result<(), MetadataError> {
        let doing = "adding a run";
        let doc = self.to_document(doing, run)?;
        self.retry(doing, || async {
            sqlx::query(
                "INSERT INTO runs (run_id, group_id, pipeline, status, created_at, doc) VALUES (?, ?, ?, ?, ?, ?)",
            )
            .bind(&run.spec.run_id)
            .bind(&run.spec.group_id)
            .bind(run.spec.pipeline.as_str())
            .bind(run.status.as_str())
            .bind(run.created_at)
            .bind(&doc)
            .execute(&self.pool)
            .await
            .map(|_| ())
        })
        .await
    }

    /// Replaces a run, unless it has ended otherwise in the meantime: how a run ended stays as it is, so that a request
    /// to cancel it is never undone. Returns the status that is there afterwards.
    ///
    /// # Errors
    ///
    /// [`MetadataError`]; that there is no such run is an error too.
    pub async fn update_run(&self, run: &RunRecord) -> Result<Status, MetadataError> {
        let doing = "updating a run";
        let doc = self.to_document(doing, run)?;
        let updated = self
            .retry(doing, || async {
                sqlx::query(
                    "UPDATE runs SET status = ?1, doc = ?2 WHERE run_id = ?3 \
                     AND (status = ?1 OR status NOT IN ('succeeded', 'failed', 'cancelled'))",
                )
                .bind(run.status.as_str())
                .bind(&doc)
                .bind(&run.spec.run_id)
                .execute(&self.pool)
                .await
                .map(|done| done.rows_affected())
            })
            .await?;
        if updated > 0 {
            return Ok(run.status);
        }
        let there = self.run(&run.spec.run_id).await?;
        there
            .map(|run| run.status)
            .ok_or_else(|| self.missing(doing, format!("run `{}` is not there", run.spec.run_id)))
    }

    /// One run.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn run(&self, run_id: &str) -> Result<Option<RunRecord>, MetadataError> {
        let doing = "reading a run";
        let doc: Option<String> = self
            .retry(doing, || {
                sqlx::query_scalar("SELECT doc FROM runs WHERE run_id = ?").bind(run_id).fetch_optional(&self.pool)
            })
            .await?;
        doc.map(|text| self.parse(doing, &text)).transpose()
    }

    /// The newest `limit` runs, newest first.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn runs(&self, limit: i64) -> Result<Vec<RunRecord>, MetadataError> {
        let doing = "listing runs";
        let docs = self
            .retry(doing, || {
                sqlx::query_scalar("SELECT doc FROM runs ORDER BY run_id DESC LIMIT ?")
                    .bind(limit)
                    .fetch_all(&self.pool)
            })
            .await?;
        self.parse_all(doing, docs)
    }

    /// Runs that are queued or running, oldest first.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn active_runs(&self) -> Result<Vec<RunRecord>, MetadataError> {
        let doing = "listing active runs";
        let docs = self
            .retry(doing, || {
                sqlx::query_scalar("SELECT doc FROM runs WHERE status IN (?, ?) ORDER BY run_id")
                    .bind(Status::Queued.as_str())
                    .bind(Status::Running.as_str())
                    .fetch_all(&self.pool)
            })
            .await?;
        self.parse_all(doing, docs)
    }

    /// The runs, with their groups, that were asked for within `span` before the newest one.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn newest_runs(&self, span: Micros) -> Result<Vec<(String, String)>, MetadataError> {
        let doing = "looking for new runs";
        // One row, as for champions.
        let found: String = self
            .retry(doing, || {
                sqlx::query_scalar(
                    "SELECT json_group_array(json_array(run_id, group_id)) FROM runs \
                     WHERE created_at >= (SELECT max(created_at) FROM runs) - ?",
                )
                .bind(span)
                .fetch_one(&self.pool)
            })
            .await?;
        self.parse(doing, &found)
    }

    /// The newest `limit` runs of a pipeline for a group, newest first.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn group_runs(
        &self,
        group_id: &str,
        pipeline: Pipeline,
        limit: i64,
    ) -> Result<Vec<RunRecord>, MetadataError> {
        let doing = "listing the runs of a group";
        let docs = self
            .retry(doing, || {
                sqlx::query_scalar(
                    "SELECT doc FROM runs WHERE group_id = ? AND pipeline = ? ORDER BY run_id DESC LIMIT ?",
                )
                .bind(group_id)
                .bind(pipeline.as_str())
                .bind(limit)
                .fetch_all(&self.pool)
            })
            .await?;
        self.parse_all(doing, docs)
    }

    /// Adds or replaces a step.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn upsert_step(&self, step: &StepRecord) -> Result<(), MetadataError> {
        let doing = "writing a step";
        let doc = self.to_document(doing, step)?;
        self.retry(doing, || async {
            sqlx::query(
                "INSERT INTO steps (run_id, step, ordinal, doc) VALUES (?, ?, ?, ?) \
                 ON CONFLICT (run_id, step) DO UPDATE SET ordinal = excluded.ordinal, doc = excluded.doc",
            )
            .bind(&step.run_id)
            .bind(&step.step)
            .bind(step.ordinal)
            .bind(&doc)
            .execute(&self.pool)
            .await
            .map(|_| ())
        })
        .await
    }

    /// The steps of a run, in their order.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn steps(&self, run_id: &str) -> Result<Vec<StepRecord>, MetadataError> {
        self.of_run("reading steps", "SELECT doc FROM steps WHERE run_id = ? ORDER BY ordinal", run_id).await
    }

    /// The steps of all runs, in the order of their runs.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn all_steps(&self) -> Result<Vec<StepRecord>, MetadataError> {
        let doing = "listing steps";
        let docs = self
            .retry(doing, || sqlx::query_scalar("SELECT doc FROM steps ORDER BY run_id, ordinal").fetch_all(&self.pool))
            .await?;
        self.parse_all(doing, docs)
    }

    /// Adds a line to a run's log.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn append_log(&self, line: &LogRecord) -> Result<(), MetadataError> {
        let doc = self.to_document("writing a log line", line)?;
        self.append("writing a log line", "INSERT INTO logs (run_id, doc) VALUES (?, ?)", &line.run_id, &doc).await
    }

    /// The log of a run, in its order.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn logs(&self, run_id: &str) -> Result<Vec<LogRecord>, MetadataError> {
        self.of_run("reading a log", "SELECT doc FROM logs WHERE run_id = ? ORDER BY id", run_id).await
    }

    /// Adds a point to a run's metrics.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn append_metric(&self, point: &MetricRecord) -> Result<(), MetadataError> {
        let doc = self.to_document("writing a metric", point)?;
        self.append("writing a metric", "INSERT INTO metrics (run_id, doc) VALUES (?, ?)", &point.run_id, &doc).await
    }

    /// The metrics of a run, in the order in which they were measured.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn metrics(&self, run_id: &str) -> Result<Vec<MetricRecord>, MetadataError> {
        self.of_run("reading metrics", "SELECT doc FROM metrics WHERE run_id = ? ORDER BY id", run_id).await
    }

    async fn of_run<T: serde::de::DeserializeOwned>(
        &self,
        doing: &'static str,
        sql: &'static str,
        run_id: &str,
    ) -> Result<Vec<T>, MetadataError> {
        let docs = self.retry(doing, || sqlx::query_scalar(sql).bind(run_id).fetch_all(&self.pool)).await?;
        self.parse_all(doing, docs)
    }

    async fn append(
        &self,
        doing: &'static str,
        sql: &'static str,
        run_id: &str,
        doc: &str,
    ) -> Result<(), MetadataError> {
        self.retry(doing, || async { sqlx::query(sql).bind(run_id).bind(doc).execute(&self.pool).await.map(|_| ()) })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::tests::fresh;
    use super::*;
    use crate::pipelines::spec::tests::{queued, spec};

    #[tokio::test]
    async fn how_a_run_ended_stays_as_it_is() {
        use Status::{Cancelled, Failed, Queued, Running, Succeeded};
        let (_dir, store) = fresh().await;
        for (i, (there, wanted, expected)) in [
            (Queued, Running, Running),
            (Running, Queued, Queued),
            (Running, Cancelled, Cancelled),
            (Cancelled, Running, Cancelled),
            (Cancelled, Succeeded, Cancelled),
            (Cancelled, Cancelled, Cancelled),
            (Succeeded, Cancelled, Succeeded),
            (Failed, Queued, Failed),
        ]
        .into_iter()
        .enumerate()
        {
            let mut run = RunRecord { status: there, ..queued(spec(&format!("r{i}"))) };
            store.insert_run(&run).await.unwrap();
            (run.status, run.device_seconds) = (wanted, 1.0);
            assert_eq!(store.update_run(&run).await.unwrap(), expected, "{there:?} to {wanted:?}");
            let found = store.run(&run.spec.run_id).await.unwrap().unwrap();
            assert_eq!((found.status, found.device_seconds == 1.0), (expected, expected == wanted), "{there:?}");
        }
        let error = store.update_run(&queued(spec("none"))).await.unwrap_err().to_string();
        assert!(error.contains("`none` is not there"), "{error}");
    }
}
