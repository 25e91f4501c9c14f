//! Which tables there are, and where their rows come from.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::view::ViewTable;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::TableType;
use datafusion::prelude::SessionContext;
use futures::future::BoxFuture;
use meterline_connectors::lake::{DataFile, TableDefinition, TableSnapshot, snapshot};
use meterline_schemas::{Micros, names};
use tokio::sync::OnceCell;

use super::layers::Layers;
use super::provider::SnapshotTable;
use super::{SqlError, TableVersions, as_of, memory, views};
use crate::environment::Environment;
use crate::ingest;
use crate::ingest::state::IngestState;
use crate::triggers;

/// Every table, for help and suggestions.
pub const TABLES: [&str; 17] = [
    "intervals",
    "interval_revisions",
    "samples",
    "labels",
    "forecasts",
    "forecasts_latest",
    "forecast_scores",
    "series",
    "feeds",
    "partitions",
    "dead_letters",
    "models",
    "model_explanations",
    "runs",
    "steps",
    "trigger_facts",
    "trigger_decisions",
];

/// Rows of the metadata tables that a statement sees, newest first.
const RECORDS_MAX: i64 = 1_000_000;

type Table = Arc<dyn TableProvider>;

/// The tables of one session. Each is made when it is first asked for, from one snapshot of what it reads.
#[derive(Debug)]
pub(super) struct Catalog {
    env: Environment,
    versions: TableVersions,
    tables: BTreeMap<&'static str, OnceCell<Table>>,
    // What intervals, series, feeds and partitions are read from: one commit of the stream.
    commit: OnceCell<Option<TableSnapshot>>,
    state: OnceCell<Arc<IngestState>>,
}

impl Catalog {
    pub(super) fn new(env: Environment, versions: TableVersions) -> Catalog {
        let tables = TABLES.into_iter().map(|name| (name, OnceCell::new())).collect();
        Catalog { env, versions, tables, commit: OnceCell::new(), state: OnceCell::new() }
    }

    /// Looks up the versions that were asked for.
    pub(super) async fn check_versions(&self) -> Result<(), SqlError> {
        if self.versions.intervals.is_some() {
            self.commit().await?;
        }
        Ok(())
    }

    async fn find(&self, name: &str) -> Result<Table, SqlError> {
        let Some((known, cell)) = self.tables.get_key_value(name) else {
            return Err(SqlError::NoTable { name: name.to_owned(), nearest: names::nearest(name, TABLES) });
        };
        cell.get_or_try_init(|| self.make(known)).await.cloned()
    }

    /// [`Catalog::find`] for tables that are made from tables.
    fn find_boxed<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Table, SqlError>> {
        Box::pin(self.find(name))
    }

    async fn make(&self, name: &'static str) -> Result<Table, SqlError> {
        let metadata = &self.env.metadata;
        let batch: RecordBatch = match name {
            "intervals" => return self.intervals(None).await,
            "interval_revisions" => {
                let files = self.interval_files().await?.to_vec();
                return Ok(Arc::new(SnapshotTable::new(&TableDefinition::intervals(), files)));
            }
            "forecasts" => return self.delta(&TableDefinition::forecasts()).await,
            "samples" => return self.delta(&TableDefinition::samples()).await,
            "dead_letters" => return self.delta(&TableDefinition::dead_letters()).await,
            "forecasts_latest" => return self.view(views::FORECASTS_LATEST, &["forecasts"]).await,
            "forecast_scores" => return self.view(&views::forecast_scores(), &["forecasts", "intervals"]).await,
            "series" => {
                let mut rows = memory::SeriesRows::default();
                ingest::each_series(&self.env.lake, self.state().await?, |series, _| rows.take(series)).await?;
                let (schema, batches) = rows.finish()?;
                return Ok(Arc::new(MemTable::try_new(schema, vec![batches])?));
            }
            "labels" => {
                let mut members = Vec::new();
                ingest::each_member(&self.env.lake, self.state().await?, |member, _| members.push(member)).await?;
                members.sort_unstable_by(|a, b| a.series.cmp(&b.series));
                super::labels::labels(&members)?
            }
            "feeds" => memory::feeds(self.state().await?)?,
            "partitions" => memory::partitions(self.state().await?)?,
            "models" => memory::models(&metadata.models().await?)?,
            "model_explanations" => memory::explanations(&metadata.explanations().await?)?,
            "runs" => memory::runs(&metadata.runs(RECORDS_MAX).await?)?,
            "steps" => memory::steps(&metadata.all_steps().await?)?,
            "trigger_decisions" => memory::decisions(&metadata.decisions(RECORDS_MAX).await?)?,
            // The facts are computed with statements of their own.
            _ => Box::pin(triggers::facts_table(&self.env)).await.map_err(|e| SqlError::Facts(Box::new(e)))?,
        };
        Ok(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?))
    }

    async fn commit(&self) -> Result<Option<&TableSnapshot>, SqlError> {
        let load = || async {
            let table = TableDefinition::intervals().name;
            match (snapshot(&self.env.lake, table, self.versions.intervals).await?, self.versions.intervals) {
                (None, Some(version)) => Err(SqlError::NoVersion { table, version }),
                (found, _) => Ok(found),
            }
        };
        Ok(self.commit.get_or_try_init(load).await?.as_ref())
    }

    async fn interval_files(&self) -> Result<&[DataFile], SqlError> {
        Ok(self.commit().await?.map(|snapshot| snapshot.files.as_slice()).unwrap_or_default())
    }

    async fn state(&self) -> Result<&IngestState, SqlError> {
        let load = || async {
            let Some(snapshot) = self.commit().await? else { return Ok(Arc::default()) };
            let state = ingest::state_at(&self.env.lake, snapshot).await?;
            Ok::<_, SqlError>(Arc::new(state.unwrap_or_default()))
        };
        self.state.get_or_try_init(load).await.map(Arc::as_ref)
    }

    /// The latest revisions, of all rows or of those that were known at an instant.
    pub(super) async fn intervals(&self, known_by: Option<Micros>) -> Result<Table, SqlError> {
        let definition = TableDefinition::intervals();
        let layers = Layers::of(self.interval_files().await?, known_by.is_some());
        let sql = views::intervals(&layers, known_by);
        let table = |files| Arc::new(SnapshotTable::new(&definition, files)) as Table;
        let parts = [
            (views::SETTLED, table(layers.settled)),
            (views::REVISED, table(layers.revised)),
            (views::REVISIONS, table(layers.revisions)),
        ];
        planned(&sql, parts).await
    }

    async fn delta(&self, definition: &TableDefinition) -> Result<Table, SqlError> {
        let found = snapshot(&self.env.lake, definition.name, None).await?;
        Ok(Arc::new(SnapshotTable::new(definition, found.map(|s| s.files).unwrap_or_default())))
    }

    async fn view(&self, sql: &str, reads: &[&'static str]) -> Result<Table, SqlError> {
        let mut parts = Vec::with_capacity(reads.len());
        for name in reads {
            parts.push((*name, self.find_boxed(name).await?));
        }
        planned(sql, parts).await
    }
}

/// A table computed from others.
async fn planned(sql: &str, reads: impl IntoIterator<Item = (&str, Table)>) -> Result<Table, SqlError> {
    let context = SessionContext::new();
    for (name, table) in reads {
        context.register_table(name, table)?;
    }
    let plan = context.state().create_logical_plan(sql).await?;
    Ok(Arc::new(ViewTable::new(plan, Some(sql.to_owned()))))
}

#[async_trait]
impl SchemaProvider for Catalog {
    fn table_names(&self) -> Vec<String> {
        TABLES.map(str::to_owned).to_vec()
    }

    async fn table(&self, name: &str) -> Result<Option<Table>, DataFusionError> {
        // The planner asks for functions, too.
        if name == as_of::NAME {
            return Ok(None);
        }
        Ok(Some(self.find(name).await?))
    }

    /// Known without making the table: SHOW TABLES reads nothing.
    async fn table_type(&self, name: &str) -> Result<Option<TableType>, DataFusionError> {
        Ok(self.table_exist(name).then_some(TableType::Base))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.tables.contains_key(name)
    }
}
