//! One round of housekeeping: table by table, one job at a time.

use std::time::Instant;

use meterline_connectors::lake::{
    self, DataFile, Lake, LakeError, Rewrite, Rewritten, TableDefinition, TableOwner, snapshot,
};
use meterline_schemas::Micros;
use meterline_schemas::config::Config;
use meterline_schemas::tables::{FORECASTS, INTERVALS};
use serde::{Deserialize, Serialize};

use super::error::MaintenanceError;
use super::{plan, work};
use crate::ingest::commit::Committer;
use crate::ingest::requests::Requests;

/// Rewrites of one table in one round; the next round goes on.
const JOBS_MAX: usize = 1_000;

/// Who commits to the tables of the stream.
pub enum Commits {
    /// This process, which has claimed them.
    Own(Box<Committer>),
    /// The stream that runs in this process.
    Stream(Requests),
    /// Nobody: only plans are made.
    Nobody,
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Deletes what `[retention]` no longer keeps.
    Retention,
    /// Makes the winners among revisions the base, and the others history.
    Fold,
    /// Merges small files.
    Merge,
    /// Deletes old entries of the log.
    Log,
    /// Deletes data files that nobody names any more.
    Vacuum,
}

impl Kind {
    /// Its name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Retention => "retention",
            Kind::Fold => "fold",
            Kind::Merge => "merge",
            Kind::Log => "log",
            Kind::Vacuum => "vacuum",
        }
    }
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done.
    Done,
    /// It would be done.
    Planned,
    /// Given up, because its files were rewritten in the meantime.
    Overtaken,
}

impl Outcome {
    /// Its name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Planned => "planned",
            Outcome::Overtaken => "overtaken",
        }
    }
}

/// What one job did, or would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobReport {
    /// The table.
    pub table: String,
    /// What it does.
    pub job: Kind,
    /// Values of the partition columns; empty where it concerns all.
    pub partition: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Files that went.
    pub files_before: u64,
    /// Files that came; 0 where it is only planned.
    pub files_after: u64,
    /// Bytes of the files that went.
    pub bytes_before: u64,
    /// Bytes of the files that came; 0 where it is only planned.
    pub bytes_after: u64,
    /// Wall clock seconds.
    pub seconds: f64,
}

/// What a table consists of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableSize {
    /// The table.
    pub table: String,
    /// Data files of the newest version.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What one round did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RoundReport {
    /// Its jobs, in order.
    pub jobs: Vec<JobReport>,
    /// The tables after it.
    pub tables: Vec<TableSize>,
    /// What failed.
    pub errors: Vec<String>,
    /// Wall clock seconds.
    pub seconds: f64,
}

/// One round.
pub struct Round<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The lake.
    pub lake: &'a Lake,
    /// Who commits.
    pub commits: Commits,
    /// The newest watermark; `None` before the first reading.
    pub watermark: Option<Micros>,
    /// Wall clock.
    pub now: Micros,
}

impl Round<'_> {
    /// Does everything that is to be done; what fails is reported, and the rest is done all the same. `tell` hears of each job.
    ///
    /// # Errors
    /// [`MaintenanceError::StreamEnded`]: there is nobody left to commit.
    pub async fn run(mut self, mut tell: impl FnMut(&JobReport) + Send) -> Result<RoundReport, MaintenanceError> {
        let began = Instant::now();
        let mut report = RoundReport::default();
        for table in TableDefinition::all() {
            let mut jobs = Jobs { done: &mut report.jobs, tell: &mut tell };
            match self.table(&table, &mut jobs).await {
                Ok(()) => {}
                Err(ended @ MaintenanceError::StreamEnded(_)) => return Err(ended),
                Err(error) => {
                    tracing::warn!(table = table.name, %error, "housekeeping of a table failed; the next round tries again");
                    report.errors.push(format!("{}: {error}", table.name));
                }
            }
        }
        match sizes(self.lake).await {
            Ok(tables) => report.tables = tables,
            Err(error) => report.errors.push(error.to_string()),
        }
        report.seconds = began.elapsed().as_secs_f64();
        Ok(report)
    }

    async fn table(&mut self, table: &TableDefinition, jobs: &mut Jobs<'_>) -> Result<(), MaintenanceError> {
        let Some(files) = self.files(table).await? else { return Ok(()) };
        if let Some(watermark) = self.watermark {
            let gone = plan::too_old(table, &files, &self.config.retention, watermark.min(self.now));
            if !gone.is_empty() {
                self.replace(table, Kind::Retention, String::new(), gone, None, jobs).await?;
            }
        }
        if table.name == INTERVALS {
            self.fold(table, jobs).await?;
        }
        self.merge(table, jobs).await?;
        self.clean_log(table, jobs).await?;
        self.vacuum(table, jobs).await
    }

    async fn files(&self, table: &TableDefinition) -> Result<Option<Vec<DataFile>>, LakeError> {
        Ok(snapshot(self.lake, table.name, None).await?.map(|snapshot| snapshot.files))
    }

    async fn fold(&mut self, table: &TableDefinition, jobs: &mut Jobs<'_>) -> Result<(), MaintenanceError> {
        let files = self.files(table).await?.unwrap_or_default();
        let target = self.config.maintenance.target_size.bytes();
        for fold in plan::folds(&files, self.watermark, &self.config.maintenance) {
            let removes = fold.base.iter().chain(&fold.revisions).cloned().collect();
            let month = fold.month.clone();
            let lake = self.lake.clone();
            let work = async move { work::fold(&lake, fold, target).await };
            self.replace(table, Kind::Fold, month, removes, Some(Box::pin(work)), jobs).await?;
        }
        Ok(())
    }

    async fn merge(&mut self, table: &TableDefinition, jobs: &mut Jobs<'_>) -> Result<(), MaintenanceError> {
        let target = self.config.maintenance.target_size.bytes();
        let mut count = 0;
        // Merged files may be enough for another merge.
        loop {
            let merges = plan::merges(table, &self.files(table).await?.unwrap_or_default(), target);
            let mut fewer = false;
            for files in merges {
                count += 1;
                let partition: Vec<&str> =
                    files.first().into_iter().flat_map(|file| file.partition.values()).map(String::as_str).collect();
                let (partition, removes) = (partition.join(" "), files.clone());
                let (lake, definition) = (self.lake.clone(), table.clone());
                let work = async move { work::merge(&lake, &definition, files, target).await };
                let done = self.replace(table, Kind::Merge, partition, removes, Some(Box::pin(work)), jobs).await?;
                fewer |= done.outcome == Outcome::Done && done.files_after < done.files_before;
            }
            if !fewer || count >= JOBS_MAX {
                return Ok(());
            }
        }
    }

    /// Puts what `work` makes in the place of `removes`.
    async fn replace(
        &mut self,
        table: &TableDefinition,
        job: Kind,
        partition: String,
        removes: Vec<DataFile>,
        work: Option<Work>,
        jobs: &mut Jobs<'_>,
    ) -> Result<JobReport, MaintenanceError> {
        let began = Instant::now();
        let bytes = |files: &[DataFile]| files.iter().map(|file| file.size).sum::<u64>();
        let mut report = JobReport {
            table: table.name.to_owned(),
            job,
            partition,
            outcome: Outcome::Planned,
            files_before: removes.len() as u64,
            files_after: 0,
            bytes_before: bytes(&removes),
            bytes_after: 0,
            seconds: 0.0,
        };
        if !matches!(self.commits, Commits::Nobody) {
            let adds = match work {
                Some(work) => work.await?,
                None => Vec::new(),
            };
            (report.files_after, report.bytes_after) = (adds.len() as u64, bytes(&adds));
            let rows = |files: &[DataFile]| files.iter().map(|file| file.rows).sum::<u64>();
            // The last look before anything goes; files of old releases may not know how many rows they have.
            if job != Kind::Retention && removes.iter().all(|file| file.rows > 0) && rows(&adds) != rows(&removes) {
                let reason = format!("{} rows became {}; nothing was changed", rows(&removes), rows(&adds));
                return Err(LakeError::Encode { table: table.name.to_owned(), reason }.into());
            }
            let rewrite = Rewrite { removes, adds, changes_rows: job != Kind::Merge };
            report.outcome = match self.commit(table, rewrite).await? {
                Rewritten::Done(_) => Outcome::Done,
                Rewritten::Overtaken(file) => {
                    tracing::info!(table = table.name, file, "a rewrite was overtaken; the next round plans anew");
                    Outcome::Overtaken
                }
            };
        }
        report.seconds = began.elapsed().as_secs_f64();
        jobs.add(report.clone());
        Ok(report)
    }

    async fn commit(&mut self, table: &TableDefinition, rewrite: Rewrite) -> Result<Rewritten, MaintenanceError> {
        if table.name == FORECASTS {
            // Its writers come and go: none of them owns it.
            let mut owner = TableOwner::open(self.lake, table).await?;
            return Ok(owner.rewrite(&rewrite, None).await?);
        }
        match &mut self.commits {
            Commits::Own(committer) => Ok(committer.rewrite(table.name, &rewrite).await?),
            Commits::Stream(requests) => Ok(requests.rewrite(table.name, rewrite).await??),
            Commits::Nobody => Err(MaintenanceError::Stopped),
        }
    }

    async fn clean_log(&mut self, table: &TableDefinition, jobs: &mut Jobs<'_>) -> Result<(), MaintenanceError> {
        let before = self.ago(self.config.maintenance.log_retention.micros());
        let began = Instant::now();
        let expired = lake::expired_log(self.lake, table.name, before).await?;
        self.delete(table, Kind::Log, expired, began, jobs).await
    }

    async fn vacuum(&mut self, table: &TableDefinition, jobs: &mut Jobs<'_>) -> Result<(), MaintenanceError> {
        let maintenance = &self.config.maintenance;
        let removed_before = self.ago(maintenance.file_retention.micros()).max(self.ago(0) - lake::REMEMBERED_MS);
        let written_before = self.ago(maintenance.orphan_age.micros());
        let began = Instant::now();
        let stored = lake::stored_files(self.lake, table.name).await?;
        // A commit may wait for a store that fails, however long: its files must not be taken for left-overs.
        if let Commits::Stream(requests) = &self.commits {
            requests.settle().await?;
        }
        let unnamed = lake::unnamed_files(self.lake, table.name, stored, removed_before, written_before).await?;
        self.delete(table, Kind::Vacuum, unnamed, began, jobs).await
    }

    async fn delete(
        &self,
        table: &TableDefinition,
        job: Kind,
        objects: Vec<lake::Unneeded>,
        began: Instant,
        jobs: &mut Jobs<'_>,
    ) -> Result<(), MaintenanceError> {
        if objects.is_empty() {
            return Ok(());
        }
        let outcome = match self.commits {
            Commits::Nobody => Outcome::Planned,
            _ => {
                lake::delete(self.lake, &objects).await?;
                Outcome::Done
            }
        };
        jobs.add(JobReport {
            table: table.name.to_owned(),
            job,
            partition: String::new(),
            outcome,
            files_before: objects.len() as u64,
            files_after: 0,
            bytes_before: objects.iter().map(|object| object.bytes).sum(),
            bytes_after: 0,
            seconds: began.elapsed().as_secs_f64(),
        });
        Ok(())
    }

    /// So long ago, in milliseconds since 1970.
    fn ago(&self, micros: Micros) -> i64 {
        self.now.saturating_sub(micros).div_euclid(1000)
    }
}

type Work = std::pin::Pin<Box<dyn Future<Output = Result<Vec<DataFile>, MaintenanceError>> + Send>>;

/// Where jobs are reported.
struct Jobs<'a> {
    done: &'a mut Vec<JobReport>,
    tell: &'a mut (dyn FnMut(&JobReport) + Send),
}

impl Jobs<'_> {
    fn add(&mut self, job: JobReport) {
        tracing::info!(
            table = job.table,
            partition = job.partition,
            outcome = job.outcome.as_str(),
            files_before = job.files_before,
            files_after = job.files_after,
            bytes_before = job.bytes_before,
            bytes_after = job.bytes_after,
            took_ms = (job.seconds * 1000.0) as u64,
            "housekeeping: {}",
            job.job.as_str()
        );
        (self.tell)(&job);
        self.done.push(job);
    }
}

/// What every table consists of now.
///
/// # Errors
/// A log cannot be read.
pub async fn sizes(lake: &Lake) -> Result<Vec<TableSize>, LakeError> {
    let mut sizes = Vec::new();
    for table in TableDefinition::all() {
        let Some(found) = snapshot(lake, table.name, None).await? else { continue };
        let bytes = found.files.iter().map(|file| file.size).sum();
        sizes.push(TableSize { table: table.name.to_owned(), files: found.files.len() as u64, bytes });
    }
    Ok(sizes)
}
