//! Sessions: where statements are planned and executed.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider};
use datafusion::dataframe::DataFrame;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use meterline_connectors::lake::{DataFile, TableDefinition};

use super::catalog::Catalog;
use super::provider::SnapshotTable;
use super::{SqlError, as_of, provider};
use crate::environment::Environment;

/// Memory of one session, in bytes; what sorts and aggregates need beyond it goes to temporary files.
const MEMORY_MAX: usize = 2 << 30;

/// Versions of Delta tables that a session is pinned to; `None` is the newest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableVersions {
    /// Version of `intervals`.
    pub intervals: Option<i64>,
}

/// A session over [`TABLES`](super::TABLES). A table is looked up when a statement first names it, and stays the same
/// snapshot as long as the session: open one a statement.
///
/// # Errors
///
/// [`SqlError`] if a version that was asked for is not there.
pub(super) async fn session(env: &Environment, versions: TableVersions) -> Result<SessionContext, SqlError> {
    let config = SessionConfig::new().with_information_schema(true).with_create_default_catalog_and_schema(false);
    let tables = Arc::new(Catalog::new(env.clone(), versions));
    tables.check_versions().await?;
    let context = open(env, config)?;
    let options = context.copied_config();
    let defaults = &options.options().catalog;
    let catalog = MemoryCatalogProvider::new();
    context.register_udtf(as_of::NAME, Arc::new(as_of::IntervalsAsOf(Arc::clone(&tables))));
    catalog.register_schema(&defaults.default_schema, tables)?;
    context.register_catalog(&defaults.default_catalog, Arc::new(catalog));
    Ok(context)
}

// A session without tables, that finds the lake's files.
fn open(env: &Environment, mut config: SessionConfig) -> Result<SessionContext, SqlError> {
    config.options_mut().execution.time_zone = Some("+00:00".into());
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(MEMORY_MAX))).build_arc()?;
    let context = SessionContext::new_with_config_rt(config, runtime);
    let url = url::Url::parse(provider::LAKE_URL).map_err(|e| DataFusionError::External(Box::new(e)))?;
    context.register_object_store(&url, env.lake.store());
    Ok(context)
}

/// The rows that answer a query over `interval_revisions`, of which there are these files alone.
///
/// # Errors
///
/// [`SqlError`].
pub async fn over_revisions(env: &Environment, files: Vec<DataFile>, sql: &str) -> Result<Vec<RecordBatch>, SqlError> {
    let context = open(env, SessionConfig::new())?;
    let table = SnapshotTable::new(&TableDefinition::intervals(), files);
    context.register_table("interval_revisions", Arc::new(table))?;
    Ok(context.sql(sql).await?.collect().await?)
}

/// Plans a query in a session of its own; the rows can be read as a stream.
///
/// # Errors
///
/// [`SqlError`]: what is not a query is refused, and an unknown table comes with the nearest known one.
pub async fn plan(env: &Environment, sql: &str, versions: TableVersions) -> Result<DataFrame, SqlError> {
    let context = session(env, versions).await?;
    let state = context.state();
    let statement = state.sql_to_statement(sql, &state.config_options().sql_parser.dialect)?;
    if !is_query(&statement) {
        return Err(SqlError::ReadOnly);
    }
    let plan = state.statement_to_plan(statement).await?;
    // A query may still hide a change.
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false).verify_plan(&plan)?;
    Ok(context.execute_logical_plan(plan).await?)
}

/// Answers a query; the schema is there even where there are no rows.
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

/// The rows that answer a query.
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

fn is_query(statement: &Statement) -> bool {
    use ast::Statement::{ExplainTable, Query, ShowColumns, ShowTables};
    match statement {
        Statement::Statement(inner) => {
            matches!(**inner, Query(_) | ShowTables { .. } | ShowColumns { .. } | ExplainTable { .. })
        }
        Statement::Explain(explained) => is_query(&explained.statement),
        _ => false,
    }
}
