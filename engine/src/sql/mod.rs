//! The tables as people query them, in SQL through DataFusion.
//!
//! Every statement gets a session of its own, with one snapshot of each table that it names: what it sees is one commit
//! of each, whole, however long it runs. [`provider`](self) turns a Delta snapshot into a table, `views` are tables
//! computed from others, `memory` those of the state and the metadata database.

mod memory;
mod provider;
#[cfg(test)]
mod tests;
mod views;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::catalog::view::ViewTable;
use datafusion::common::TableReference;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use meterline_connectors::lake::{LakeError, TableDefinition, snapshot};
use meterline_schemas::tables;

use self::provider::SnapshotTable;
use crate::environment::Environment;
use crate::ingest::{self, IngestError};
use crate::metadata::MetadataError;
use crate::triggers;

/// Every table, for help and suggestions.
pub const TABLES: [&str; 14] = [
    "intervals",
    "interval_revisions",
    "forecasts",
    "forecasts_latest",
    "forecast_scores",
    "series",
    "feeds",
    "partitions",
    "dead_letters",
    "models",
    "runs",
    "steps",
    "trigger_facts",
    "trigger_decisions",
];

/// Memory of one statement.
const MEMORY_MAX: usize = 4 << 30;
/// Rows of the metadata tables that a statement sees, newest first.
const RECORDS_MAX: i64 = 1_000_000;

/// Why a statement failed.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The statement is wrong, or its execution failed.
    #[error("{0}")]
    Query(#[from] Box<DataFusionError>),
    /// There is no such table.
    #[error("there is no table `{name}`; did you mean `{nearest}`? The tables are {}", TABLES.join(", "))]
    NoTable {
        /// As written.
        name: String,
        /// The nearest known name.
        nearest: &'static str,
    },
    /// The lake cannot be read.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// The metadata database cannot be read.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The committed state cannot be read.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// The trigger facts cannot be assembled.
    #[error(transparent)]
    Facts(#[from] Box<triggers::FactsError>),
}

impl From<DataFusionError> for SqlError {
    fn from(error: DataFusionError) -> SqlError {
        SqlError::Query(Box::new(error))
    }
}

impl From<arrow::error::ArrowError> for SqlError {
    fn from(error: arrow::error::ArrowError) -> SqlError {
        DataFusionError::from(error).into()
    }
}

/// Versions of Delta tables that a statement is pinned to; `None` is the newest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableVersions {
    /// Version of `intervals`.
    pub intervals: Option<i64>,
}

/// Plans a read-only statement over one snapshot of each table that it names.
///
/// # Errors
///
/// [`SqlError`]; unknown tables come with the nearest known one.
pub async fn plan(env: &Environment, sql: &str, versions: TableVersions) -> Result<DataFrame, SqlError> {
    let context = empty_session(env)?;
    let state = context.state();
    let dialect = state.config_options().sql_parser.dialect;
    let statement = state.sql_to_statement(sql, &dialect)?;
    let named = state.resolve_table_references(&statement)?;
    Registration { env, context: &context, versions, done: BTreeSet::new() }.register_all(&named).await?;
    let plan = context.state().statement_to_plan(statement).await?;
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false).verify_plan(&plan)?;
    Ok(context.execute_logical_plan(plan).await?)
}

/// Runs a read-only statement; the schema is there even where there are no rows.
///
/// # Errors
///
/// As [`plan`], and whatever happens while reading.
pub async fn query(
    env: &Environment,
    sql: &str,
    versions: TableVersions,
) -> Result<(SchemaRef, Vec<RecordBatch>), SqlError> {
    let frame = plan(env, sql, versions).await?;
    let schema = Arc::clone(frame.schema().inner());
    Ok((schema, frame.collect().await?))
}

/// The rows of a read-only statement.
///
/// # Errors
///
/// As [`query`].
pub async fn query_batches(
    env: &Environment,
    sql: &str,
    versions: TableVersions,
) -> Result<Vec<RecordBatch>, SqlError> {
    Ok(query(env, sql, versions).await?.1)
}

fn empty_session(env: &Environment) -> Result<SessionContext, SqlError> {
    let mut config = SessionConfig::new().with_information_schema(true);
    config.options_mut().execution.time_zone = Some("+00:00".into());
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(GreedyMemoryPool::new(MEMORY_MAX))).build_arc()?;
    let context = SessionContext::new_with_config_rt(config, runtime);
    let url = url::Url::parse(provider::LAKE_URL).map_err(|e| DataFusionError::External(Box::new(e)))?;
    context.register_object_store(&url, env.lake.store());
    Ok(context)
}

/// Registers tables, each with those that it is computed from.
struct Registration<'a> {
    env: &'a Environment,
    context: &'a SessionContext,
    versions: TableVersions,
    done: BTreeSet<&'static str>,
}

impl Registration<'_> {
    async fn register_all(&mut self, named: &[TableReference]) -> Result<(), SqlError> {
        // `information_schema` and SHOW TABLES are about all of them.
        if named.iter().any(|t| t.schema() == Some("information_schema")) {
            for name in TABLES {
                self.register(name).await?;
            }
        }
        for reference in named {
            if reference.schema().is_some_and(|s| s != "public") {
                continue;
            }
            let name = reference.table();
            match TABLES.into_iter().find(|t| *t == name) {
                Some(known) => self.register(known).await?,
                None => return Err(SqlError::NoTable { name: name.to_owned(), nearest: nearest(name) }),
            }
        }
        Ok(())
    }

    async fn register(&mut self, name: &'static str) -> Result<(), SqlError> {
        if !self.done.insert(name) {
            return Ok(());
        }
        let metadata = &self.env.metadata;
        match name {
            "intervals" => {
                let has_revisions = self.interval_layers().await?;
                let sql = if has_revisions { views::intervals() } else { views::INTERVALS_WITHOUT_REVISIONS.into() };
                self.view(name, &sql).await
            }
            "interval_revisions" => {
                self.interval_layers().await?;
                self.view(name, views::INTERVAL_REVISIONS).await
            }
            "forecasts" => self.delta(&TableDefinition::forecasts()).await,
            "dead_letters" => self.delta(&TableDefinition::dead_letters()).await,
            "forecasts_latest" => {
                Box::pin(self.register("forecasts")).await?;
                self.view(name, views::FORECASTS_LATEST).await
            }
            "forecast_scores" => {
                Box::pin(self.register("forecasts")).await?;
                Box::pin(self.register("intervals")).await?;
                self.view(name, &views::forecast_scores()).await
            }
            "series" | "feeds" | "partitions" => {
                let committed = ingest::load_committed(&self.env.lake).await?;
                let state = committed.map(|c| c.state).unwrap_or_default();
                let batch = match name {
                    "series" => memory::series(&state),
                    "feeds" => memory::feeds(&state),
                    _ => memory::partitions(&state),
                };
                self.memory(name, batch?)
            }
            "models" => self.memory(name, memory::models(&metadata.models().await?)?),
            "runs" => self.memory(name, memory::runs(&metadata.runs(RECORDS_MAX).await?)?),
            "steps" => self.memory(name, memory::steps(&metadata.all_steps().await?)?),
            "trigger_decisions" => self.memory(name, memory::decisions(&metadata.decisions(RECORDS_MAX).await?)?),
            // The facts are computed with statements of their own.
            _ => {
                let batch = Box::pin(triggers::facts_table(self.env)).await.map_err(Box::new)?;
                self.memory("trigger_facts", batch)
            }
        }
    }

    /// Registers the two layers of `intervals` from one snapshot; says whether there are revisions.
    async fn interval_layers(&mut self) -> Result<bool, SqlError> {
        let definition = TableDefinition::intervals();
        let found = snapshot(&self.env.lake, definition.name, self.versions.intervals).await?;
        let files = found.map(|s| s.files).unwrap_or_default();
        let is_revision = |f: &&_| layer(f) == Some(tables::LAYER_REVISION);
        let (revisions, base): (Vec<_>, Vec<_>) = files.into_iter().partition(|f| is_revision(&f));
        let has_revisions = !revisions.is_empty();
        if self.done.insert("intervals_base") {
            self.context.register_table("intervals_base", Arc::new(SnapshotTable::new(&definition, base)))?;
            self.context.register_table("intervals_rev", Arc::new(SnapshotTable::new(&definition, revisions)))?;
        }
        Ok(has_revisions)
    }

    async fn delta(&self, definition: &TableDefinition) -> Result<(), SqlError> {
        let found = snapshot(&self.env.lake, definition.name, None).await?;
        let files = found.map(|s| s.files).unwrap_or_default();
        self.context.register_table(definition.name, Arc::new(SnapshotTable::new(definition, files)))?;
        Ok(())
    }

    async fn view(&self, name: &str, sql: &str) -> Result<(), SqlError> {
        let plan = self.context.state().create_logical_plan(sql).await?;
        self.context.register_table(name, Arc::new(ViewTable::new(plan, Some(sql.to_owned()))))?;
        Ok(())
    }

    fn memory(&self, name: &str, batch: RecordBatch) -> Result<(), SqlError> {
        let table = MemTable::try_new(batch.schema(), vec![vec![batch]])?;
        self.context.register_table(name, Arc::new(table))?;
        Ok(())
    }
}

fn layer(file: &meterline_connectors::lake::DataFile) -> Option<&str> {
    file.partition.get("layer").map(String::as_str)
}

fn nearest(name: &str) -> &'static str {
    TABLES
        .into_iter()
        .max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)))
        .unwrap_or(tables::INTERVALS)
}
