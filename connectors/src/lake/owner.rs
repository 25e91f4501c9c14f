//! The one owner of a table's commits.
//!
//! An error does not mean that a commit did not happen, and a table may have been claimed by a newer writer: after
//! every refusal the log is read again, the transaction looked up, and the fence compared.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use bytes::Bytes;
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake_core::kernel::{Action, Add, StructType, Transaction};
use deltalake_core::operations::create::CreateBuilder;
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use deltalake_core::{DeltaTable, DeltaTableError};
use futures::{StreamExt, TryStreamExt};

use super::snapshot::{data_file, delta, load};
use super::{DataFile, FileSet, Lake, LakeError, TableDefinition};

/// Commits between two checkpoints. The table is then loaded anew: one that lives long slows down.
const COMMITS_PER_CHECKPOINT: i64 = 50;
/// Files of one [`TableOwner::write`] that are stored at a time.
const PUTS_AT_A_TIME: usize = 4;
/// Commits of others that are waited out before a commit is given up.
pub(super) const CONFLICTS_MAX: u32 = 64;

/// The right of one writer to commit as `job`; a later claim takes it away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    app_id: String,
    value: i64,
}

impl Fence {
    /// The number of the claim, from 1.
    pub fn value(&self) -> i64 {
        self.value
    }
}

/// Why a commit was not made.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A newer writer has claimed the job.
    #[error(
        "another writer has taken over `{job}` (its claim {theirs} is newer than ours, {ours}); only one may run: stop one of them"
    )]
    Fenced {
        /// The job.
        job: String,
        /// Our claim.
        ours: i64,
        /// The newest claim.
        theirs: i64,
    },
    /// The store or the log failed; the commit is not in the log. It may be tried again: a put that was still under
    /// way, and lands late, is found then.
    #[error(transparent)]
    Lake(#[from] LakeError),
}

impl CommitError {
    /// That a newer writer has taken over, where it is that.
    pub fn fenced(&self) -> Option<CommitError> {
        match self {
            CommitError::Fenced { job, ours, theirs } => {
                Some(CommitError::Fenced { job: job.clone(), ours: *ours, theirs: *theirs })
            }
            CommitError::Lake(_) => None,
        }
    }
}

/// Makes all commits of one table.
pub struct TableOwner {
    lake: Lake,
    definition: TableDefinition,
    table: DeltaTable,
    // Latest transactions by app id, as far as they were asked for since the last load.
    transactions: HashMap<String, Option<i64>>,
}

impl TableOwner {
    /// Opens the table, creating it where it is missing.
    ///
    /// # Errors
    ///
    /// [`LakeError::Delta`] if the log cannot be read or written.
    pub async fn open(lake: &Lake, definition: &TableDefinition) -> Result<TableOwner, LakeError> {
        let table = match load(lake, definition.name, None).await? {
            Some(table) => table,
            None => create(lake, definition).await?,
        };
        Ok(TableOwner { lake: lake.clone(), definition: definition.clone(), table, transactions: HashMap::new() })
    }

    /// Name of the table.
    pub fn name(&self) -> &'static str {
        self.definition.name
    }

    /// The data files of the table as this owner knows it.
    ///
    /// # Errors
    ///
    /// [`LakeError::Delta`] if the table is not loaded.
    pub fn files(&self) -> Result<Vec<DataFile>, LakeError> {
        let failed = |source| delta("reading the files of", self.definition.name, source);
        Ok(self.table.snapshot().map_err(failed)?.log_data().iter().map(|view| data_file(&view)).collect())
    }

    /// Version of the table as this owner knows it.
    pub fn version(&self) -> i64 {
        self.table.version().map_or(-1, |v| v as i64)
    }

    /// The version of the latest transaction of `app_id`.
    ///
    /// # Errors
    ///
    /// [`LakeError::Delta`] if the log cannot be read.
    pub async fn transaction(&mut self, app_id: &str) -> Result<Option<i64>, LakeError> {
        if let Some(known) = self.transactions.get(app_id) {
            return Ok(*known);
        }
        let failed = |source| delta("reading the transactions of", self.definition.name, source);
        let state = self.table.snapshot().map_err(failed)?;
        let found = state.transaction_version(self.table.log_store().as_ref(), app_id).await.map_err(failed)?;
        self.transactions.insert(app_id.to_owned(), found);
        Ok(found)
    }

    /// Claims `job`: from now on commits of earlier claims are refused.
    ///
    /// # Errors
    ///
    /// [`CommitError::Lake`] if the store failed, [`CommitError::Fenced`] never.
    pub async fn claim(&mut self, job: &str) -> Result<Fence, CommitError> {
        let app_id = format!("{job}/fence");
        for _ in 0..CONFLICTS_MAX {
            self.reload().await?;
            let value = self.transaction(&app_id).await?.unwrap_or(0) + 1;
            let before = self.version();
            let Err(refusal) = self.attempt(&[], &[(app_id.clone(), value)]).await else {
                return Ok(Fence { app_id, value });
            };
            self.reload().await?;
            if self.version() == before {
                return Err(delta("claiming", self.definition.name, refusal).into());
            }
            // Another claim or commit came first. (Had ours landed behind an error, the next number is as good.)
        }
        Err(self.given_up())
    }

    /// Writes rows as data files. They are durable, and invisible until they are committed.
    ///
    /// # Errors
    ///
    /// [`LakeError::Encode`] or [`LakeError::Store`].
    pub async fn write(&self, rows: &RecordBatch) -> Result<Vec<DataFile>, LakeError> {
        let rows = rows.clone();
        let files = self.encode(move |files| files.rows(&rows)).await?;
        self.store(&files).await
    }

    /// The files that `fill` makes, encoded off the async threads, and not stored anywhere yet.
    ///
    /// # Errors
    ///
    /// That of `fill`, or [`LakeError::Encode`].
    pub async fn encode(
        &self,
        fill: impl FnOnce(&mut FileSet) -> Result<(), LakeError> + Send + 'static,
    ) -> Result<FileSet, LakeError> {
        let mut files = FileSet::new(self.definition.clone());
        tokio::task::spawn_blocking(move || fill(&mut files).map(|()| files))
            .await
            .map_err(|e| LakeError::Encode { table: self.definition.name.into(), reason: e.to_string() })?
    }

    /// Stores encoded files. They are durable, and invisible until they are committed. It may be tried again: the files
    /// keep their names.
    ///
    /// # Errors
    ///
    /// [`LakeError::Store`].
    pub async fn store(&self, files: &FileSet) -> Result<Vec<DataFile>, LakeError> {
        let (lake, name) = (&self.lake, self.definition.name);
        let encoded: Vec<(DataFile, Bytes)> = files.done.iter().map(|e| (e.file.clone(), e.bytes.clone())).collect();
        let puts = encoded.into_iter().map(|(file, bytes)| lake.put_data_file(name, file, bytes));
        futures::stream::iter(puts).buffered(PUTS_AT_A_TIME).try_collect().await
    }

    /// Makes `files` visible and `transactions` known, in one atomic step, and returns the table's new version. If the
    /// first transaction is known already, the commit was made before and is not repeated. Without any transaction,
    /// nobody can tell whether a commit that was answered with an error happened.
    ///
    /// # Errors
    ///
    /// [`CommitError::Fenced`] if `fence` is no longer the newest claim; [`CommitError::Lake`] if the commit is not in
    /// the log.
    pub async fn commit(
        &mut self,
        files: &[DataFile],
        transactions: &[(String, i64)],
        fence: Option<&Fence>,
    ) -> Result<i64, CommitError> {
        for _ in 0..CONFLICTS_MAX {
            // The fence first: a newer writer may have used the same transaction version for other data.
            self.check(fence).await?;
            if let Some((app_id, version)) = transactions.first()
                && self.transaction(app_id).await?.is_some_and(|known| known >= *version)
            {
                return Ok(self.version());
            }
            let before = self.version();
            match self.attempt(files, transactions).await {
                Ok(()) => {
                    let version = self.version();
                    self.maintain().await;
                    return Ok(version);
                }
                Err(refusal) => {
                    // It may have landed, or somebody else's came first: then the log has grown, and is asked again.
                    self.reload().await?;
                    if self.version() == before {
                        return Err(delta("committing to", self.definition.name, refusal).into());
                    }
                }
            }
        }
        Err(self.given_up())
    }

    /// Whether a claim is still the newest, as the newest version of the log says.
    ///
    /// # Errors
    ///
    /// [`CommitError::Fenced`] if it is not; [`CommitError::Lake`] if the log cannot be read.
    pub async fn confirm(&mut self, fence: &Fence) -> Result<(), CommitError> {
        self.reload().await?;
        self.check(Some(fence)).await
    }

    /// Refuses a writer whose claim is no longer the newest.
    pub(super) async fn check(&mut self, fence: Option<&Fence>) -> Result<(), CommitError> {
        let Some(fence) = fence else { return Ok(()) };
        let theirs = self.transaction(&fence.app_id).await?.unwrap_or(0);
        if theirs == fence.value {
            return Ok(());
        }
        let job = fence.app_id.trim_end_matches("/fence").to_owned();
        Err(CommitError::Fenced { job, ours: fence.value, theirs })
    }

    async fn attempt(&mut self, files: &[DataFile], transactions: &[(String, i64)]) -> Result<(), DeltaTableError> {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let actions = files.iter().map(|file| Action::Add(add_action(file, now_ms))).collect();
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: Some(self.definition.partition_by.iter().map(|c| (*c).to_owned()).collect()),
            predicate: None,
        };
        self.attempt_actions(actions, operation, transactions).await
    }

    /// One try to make `actions` and `transactions` the next version of the table as this owner knows it.
    pub(super) async fn attempt_actions(
        &mut self,
        actions: Vec<Action>,
        operation: DeltaOperation,
        transactions: &[(String, i64)],
    ) -> Result<(), DeltaTableError> {
        let properties = CommitProperties::default()
            .with_max_retries(0)
            .with_create_checkpoint(false)
            .with_cleanup_expired_logs(Some(false))
            .with_application_transactions(
                transactions.iter().map(|(app_id, version)| Transaction::new(app_id, *version)).collect(),
            );
        let state = self.table.snapshot()?.clone();
        let done = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(Some(&state), self.table.log_store(), operation)
            .await?;
        self.table.state = Some(done.snapshot());
        for (app_id, version) in transactions {
            self.transactions.insert(app_id.clone(), Some(*version));
        }
        Ok(())
    }

    /// Keeps commits and readers fast. Nothing that fails here is lost: it is tried again later. The table's version
    /// decides, because the owner of `forecasts` is a new one in every run.
    pub(super) async fn maintain(&mut self) {
        if self.version() % COMMITS_PER_CHECKPOINT != 0 {
            return;
        }
        let table = self.definition.name;
        if let Err(error) = deltalake_core::checkpoints::create_checkpoint(&self.table, None).await {
            tracing::warn!(table, %error, "checkpoint of the Delta log failed; commits get slower until one succeeds");
        }
        if let Err(error) = self.reload().await {
            tracing::warn!(table, %error, "reloading the Delta log failed; the next commit tries again");
        }
    }

    pub(super) async fn reload(&mut self) -> Result<(), LakeError> {
        self.transactions.clear();
        let mut fresh = DeltaTable::new(self.table.log_store());
        fresh.load().await.map_err(|source| delta("loading", self.definition.name, source))?;
        self.table = fresh;
        Ok(())
    }

    pub(super) fn given_up(&self) -> CommitError {
        let reason = format!("{CONFLICTS_MAX} commits of other writers came first");
        delta("committing to", self.definition.name, DeltaTableError::Generic(reason)).into()
    }
}

async fn create(lake: &Lake, definition: &TableDefinition) -> Result<DeltaTable, LakeError> {
    let failed = |source| delta("creating", definition.name, source);
    let schema: StructType =
        definition.schema.as_ref().try_into_kernel().map_err(|e| failed(DeltaTableError::from(e)))?;
    let created = CreateBuilder::new()
        .with_log_store(lake.log_store(definition.name)?)
        .with_table_name(definition.name)
        .with_columns(schema.fields().cloned())
        .with_partition_columns(definition.partition_by.iter().copied())
        .with_save_mode(SaveMode::ErrorIfExists)
        // Else it would meet its own first try, or another's table, and write the same again as the next version.
        .with_commit_properties(CommitProperties::default().with_max_retries(0))
        .await;
    match created {
        Ok(table) => Ok(table),
        // Another process may have created it in the meantime, or the answer got lost.
        Err(source) => load(lake, definition.name, None).await?.ok_or_else(|| failed(source)),
    }
}

pub(super) fn add_action(file: &DataFile, now_ms: i64) -> Add {
    Add {
        path: file.path.clone(),
        partition_values: file.partition.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect(),
        size: i64::try_from(file.size).unwrap_or(i64::MAX),
        modification_time: now_ms,
        data_change: true,
        stats: Some(file.stats.clone()),
        tags: None,
        deletion_vector: None,
        base_row_id: None,
        default_row_commit_version: None,
        clustering_provider: None,
    }
}
