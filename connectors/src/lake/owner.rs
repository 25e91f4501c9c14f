//! The one owner of a table's commits: it reads and writes the log as `protocol` decides.

use std::collections::{HashMap, HashSet};

use arrow::array::RecordBatch;
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake_core::kernel::{Action, Add, StructType, Transaction};
use deltalake_core::operations::create::CreateBuilder;
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use deltalake_core::{DeltaTable, DeltaTableError};
use futures::{StreamExt, TryStreamExt};
use object_store::PutPayload;

use super::evolve::evolved;
use super::protocol::{Attempt, End, Goal, PUTS_MAX, Seen, Standing, Step, is_fenced};
use super::snapshot::{data_file, delta, load};
use super::{DataFile, FileSet, Lake, LakeError, Rewrite, TableDefinition};

/// Commits between two checkpoints. The table is then loaded anew: one that lives long slows down.
const COMMITS_PER_CHECKPOINT: i64 = 50;
/// Files of one [`TableOwner::write`] that are stored at a time.
const PUTS_AT_A_TIME: usize = 4;

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

    fn lost_to(&self, theirs: i64) -> CommitError {
        let job = self.app_id.trim_end_matches("/fence").to_owned();
        CommitError::Fenced { job, ours: self.value, theirs }
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

/// An entry that is to be in the log.
pub(super) enum Want<'a> {
    Claim { app_id: &'a str },
    Commit { files: &'a [DataFile], transactions: &'a [(String, i64)], fence: Option<&'a Fence> },
    Rewrite { rewrite: &'a Rewrite, fence: Option<&'a Fence> },
}

impl Want<'_> {
    fn goal(&self) -> Goal {
        let fence = self.fence().map(Fence::value);
        match self {
            Want::Claim { .. } => Goal::Claim,
            Want::Commit { transactions, .. } => {
                Goal::Commit { fence, number: transactions.first().map(|(_, version)| *version) }
            }
            Want::Rewrite { .. } => Goal::Rewrite { fence },
        }
    }

    fn fence(&self) -> Option<&Fence> {
        match self {
            Want::Claim { .. } => None,
            Want::Commit { fence, .. } | Want::Rewrite { fence, .. } => *fence,
        }
    }

    // The transaction that claims are known by, where they matter.
    fn claims(&self) -> Option<&str> {
        match self {
            Want::Claim { app_id } => Some(*app_id),
            Want::Commit { .. } | Want::Rewrite { .. } => self.fence().map(|fence| fence.app_id.as_str()),
        }
    }

    fn doing(&self) -> &'static str {
        match self {
            Want::Claim { .. } => "claiming",
            Want::Commit { .. } => "committing to",
            Want::Rewrite { .. } => "rewriting files of",
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
    /// [`LakeError::Delta`] if the log cannot be read or written; [`LakeError::Outdated`] where an earlier version of the
    /// program made the table, and this one cannot go on with it.
    pub async fn open(lake: &Lake, definition: &TableDefinition) -> Result<TableOwner, LakeError> {
        let table = match load(lake, definition.name, None).await? {
            Some(table) => evolved(table, definition).await?,
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
        let value = self.pursue(&Want::Claim { app_id: &app_id }, End::claim).await?;
        Ok(Fence { app_id, value })
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
        let encoded: Vec<(DataFile, PutPayload)> =
            files.done.iter().map(|e| (e.file.clone(), e.payload.clone())).collect();
        let puts = encoded.into_iter().map(|(file, payload)| lake.put_data_file(name, file, payload));
        futures::stream::iter(puts).buffered(PUTS_AT_A_TIME).try_collect().await
    }

    /// Makes `files` visible and `transactions` known, in one atomic step, and returns the table's new version. If the
    /// first transaction is known already, the commit was made before and is not repeated.
    ///
    /// # Errors
    ///
    /// [`CommitError::Fenced`] if `fence` is no longer the newest claim; [`CommitError::Lake`] if the commit is not in
    /// the log. Without any transaction nobody can tell: then this is the answer to any refusal.
    pub async fn commit(
        &mut self,
        files: &[DataFile],
        transactions: &[(String, i64)],
        fence: Option<&Fence>,
    ) -> Result<i64, CommitError> {
        self.pursue(&Want::Commit { files, transactions, fence }, End::version).await
    }

    /// Whether a claim is still the newest, as the newest version of the log says.
    ///
    /// # Errors
    ///
    /// [`CommitError::Fenced`] if it is not; [`CommitError::Lake`] if the log cannot be read.
    pub async fn confirm(&mut self, fence: &Fence) -> Result<(), CommitError> {
        self.reload().await?;
        let newest = self.transaction(&fence.app_id).await?.unwrap_or(0);
        if is_fenced(fence.value, newest) { Err(fence.lost_to(newest)) } else { Ok(()) }
    }

    /// Does what the protocol decides until it ends, which is an error unless `good` makes something of it.
    pub(super) async fn pursue<T>(
        &mut self,
        want: &Want<'_>,
        good: impl Fn(End) -> Option<T>,
    ) -> Result<T, CommitError> {
        let (mut attempt, mut step) = Attempt::begin(want.goal());
        let mut refusal = None;
        loop {
            step = match step {
                Step::Look => attempt.told(&self.seen(want).await?),
                Step::Read => {
                    self.reload().await?;
                    attempt.told(&self.seen(want).await?)
                }
                Step::Put { number } => match self.put(want, number).await {
                    Ok(()) => attempt.done(),
                    Err(answer) => {
                        refusal = Some(answer);
                        attempt.refused()
                    }
                },
                Step::End(end) => return good(end).ok_or_else(|| self.ended(want, end, refusal)),
            };
        }
    }

    /// What the version that is known says.
    async fn seen(&mut self, want: &Want<'_>) -> Result<Seen, LakeError> {
        let claim = match want.claims() {
            Some(app_id) => self.transaction(app_id).await?.unwrap_or(0),
            None => 0,
        };
        let (mut number, mut files) = (None, Standing::default());
        match want {
            Want::Commit { transactions: [(app_id, _), ..], .. } => number = self.transaction(app_id).await?,
            Want::Rewrite { rewrite, .. } => {
                let active: HashSet<String> = self.files()?.into_iter().map(|file| file.path).collect();
                files = Standing::of(&rewrite.removes, &rewrite.adds, |file| active.contains(&file.path));
            }
            Want::Claim { .. } | Want::Commit { .. } => {}
        }
        Ok(Seen { version: self.version(), claim, number, files })
    }

    /// Creates the entry after the version that is known.
    async fn put(&mut self, want: &Want<'_>, number: i64) -> Result<(), DeltaTableError> {
        match want {
            Want::Claim { app_id } => return self.attempt(&[], &[((*app_id).to_owned(), number)]).await,
            Want::Commit { files, transactions, .. } => self.attempt(files, transactions).await?,
            Want::Rewrite { rewrite, .. } => self.attempt_rewrite(rewrite).await?,
        }
        self.maintain().await;
        Ok(())
    }

    /// The error that an end is, with what the last put was answered.
    fn ended(&self, want: &Want<'_>, end: End, refusal: Option<DeltaTableError>) -> CommitError {
        let source = match (end, want.fence(), refusal) {
            (End::Fenced { theirs }, Some(fence), _) => return fence.lost_to(theirs),
            (End::Failed, _, Some(refusal)) => refusal,
            _ => DeltaTableError::Generic(format!("{PUTS_MAX} commits of other writers came first")),
        };
        delta(want.doing(), self.definition.name, source).into()
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
    async fn maintain(&mut self) {
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

    async fn reload(&mut self) -> Result<(), LakeError> {
        self.transactions.clear();
        let mut fresh = DeltaTable::new(self.table.log_store());
        fresh.load().await.map_err(|source| delta("loading", self.definition.name, source))?;
        self.table = fresh;
        Ok(())
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
