//! What one version of a table consists of.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use deltalake_core::logstore::LogStoreRef;
use deltalake_core::table::state::DeltaTableState;
use deltalake_core::{DeltaTable, DeltaTableError};

use super::{DataFile, Lake, LakeError};

/// One version of a table: its schema and its files.
#[derive(Debug, Clone)]
pub struct TableSnapshot {
    /// Version of the table.
    pub version: i64,
    /// All columns, partition columns included.
    pub schema: SchemaRef,
    /// The data files, with their statistics.
    pub files: Vec<DataFile>,
    state: Arc<DeltaTableState>,
    log_store: LogStoreRef,
    table: String,
}

impl TableSnapshot {
    /// The version of the latest transaction of `app_id` in this snapshot.
    ///
    /// # Errors
    ///
    /// [`LakeError::Delta`] if the log cannot be read.
    pub async fn transaction(&self, app_id: &str) -> Result<Option<i64>, LakeError> {
        self.state
            .transaction_version(self.log_store.as_ref(), app_id)
            .await
            .map_err(|source| delta("reading the transactions of", &self.table, source))
    }
}

/// The newest version of a table, or a certain one; `None` where the table does not exist yet.
///
/// # Errors
///
/// [`LakeError::Delta`] if the log cannot be read, or has no such version.
pub async fn snapshot(lake: &Lake, table: &str, version: Option<i64>) -> Result<Option<TableSnapshot>, LakeError> {
    let Some(loaded) = load(lake, table, version).await? else { return Ok(None) };
    let failed = |source| delta("reading the files of", table, source);
    let state = loaded.snapshot().map_err(failed)?.clone();
    let files = state.log_data().iter().map(|view| data_file(&view)).collect();
    Ok(Some(TableSnapshot {
        version: state.version() as i64,
        schema: state.snapshot().arrow_schema(),
        files,
        state: Arc::new(state),
        log_store: loaded.log_store(),
        table: table.to_owned(),
    }))
}

/// Loads a table; `None` where it does not exist.
pub(super) async fn load(lake: &Lake, table: &str, version: Option<i64>) -> Result<Option<DeltaTable>, LakeError> {
    let mut loaded = DeltaTable::new(lake.log_store(table)?);
    // A table that another process is creating may come to be between two looks: then the second look finds it.
    let mut looked_before = false;
    loop {
        let result = match version {
            Some(version) => loaded.load_version(u64::try_from(version).unwrap_or(0)).await,
            None => loaded.load().await,
        };
        match result {
            Ok(()) => return Ok(Some(loaded)),
            Err(DeltaTableError::NotATable(_)) => return Ok(None),
            Err(source) => {
                // The library words a missing table in several ways: ask the store.
                if matches!(loaded.verify_deltatable_existence().await, Ok(false)) {
                    return Ok(None);
                }
                if looked_before {
                    return Err(delta("loading", table, source));
                }
                looked_before = true;
            }
        }
    }
}

pub(super) fn delta(doing: &'static str, table: &str, source: DeltaTableError) -> LakeError {
    LakeError::Delta { doing, table: table.to_owned(), source: Box::new(source) }
}

pub(super) fn data_file(view: &deltalake_core::kernel::LogicalFileView) -> DataFile {
    DataFile {
        path: view.path().into_owned(),
        size: u64::try_from(view.size()).unwrap_or(0),
        rows: view.num_records().unwrap_or(0) as u64,
        partition: view.partition_values_map().into_iter().filter_map(|(k, v)| Some((k, v?))).collect(),
        stats: view.stats().unwrap_or_else(|| "{}".into()),
    }
}
