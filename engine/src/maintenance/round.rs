//! One round of housekeeping: table by table, one job at a time.

use std::collections::HashSet;
use std::time::Instant;

use meterline_connectors::lake::{
    self, DataFile, Lake, LakeError, Rewrite, Rewritten, TableDefinition, TableOwner, snapshot,
};
use meterline_schemas::Micros;
use meterline_schemas::config::Config;
use meterline_schemas::tables::{FORECASTS, INTERVALS};

use super::error::MaintenanceError;
use super::report::{JobReport, Kind, Outcome, Progress, RoundReport, TableSize};
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

/// One round.
pub struct Round<'a> {
    config: &'a Config,
    lake: &'a Lake,
    commits: Commits,
    watermark: Option<Micros>,
    now: Micros,
    // Paths of files, below the lake's root, that turned out to be damaged or not sorted: they are left as they are.
    unfit: HashSet<String>,
}

impl<'a> Round<'a> {
    /// A round at `now` (wall clock), with the newest `watermark`, if there was a reading; rewrites are committed by
    /// `commits`.
    pub fn new(
        config: &'a Config,
        lake: &'a Lake,
        commits: Commits,
        watermark: Option<Micros>,
        now: Micros,
    ) -> Round<'a> {
        Round { config, lake, commits, watermark, now, unfit: HashSet::new() }
    }

    /// Does everything that is to be done; what fails is reported, and the rest is done all the same. `tell` hears of
    /// each job.
    ///
    /// # Errors
    /// [`MaintenanceError::StreamEnded`] or a newer writer: there is nobody left to commit.
    pub async fn run(mut self, mut tell: impl FnMut(&JobReport) + Send) -> Result<RoundReport, MaintenanceError> {
        let began = Instant::now();
        let mut report = RoundReport::default();
        let mut progress = Progress { report: &mut report, tell: &mut tell };
        for table in TableDefinition::all() {
            for job in [Kind::Retention, Kind::Fold, Kind::Merge, Kind::Log, Kind::Vacuum] {
                let ended = match job {
                    Kind::Retention => self.retain(&table, &mut progress).await,
                    Kind::Fold => self.fold(&table, &mut progress).await,
                    Kind::Merge => self.merge(&table, &mut progress).await,
                    Kind::Log => self.clean_log(&table, &mut progress).await,
                    Kind::Vacuum | Kind::Measure => self.vacuum(&table, &mut progress).await,
                };
                match ended {
                    Ok(()) => {}
                    Err(ended) if ended.ends_round() => return Err(ended),
                    Err(error) => progress.failed(table.name, job, "", &error),
                }
            }
        }
        match sizes(self.lake).await {
            Ok(tables) => progress.report.tables = tables,
            Err(error) => progress.failed("", Kind::Measure, "", &error),
        }
        report.seconds = began.elapsed().as_secs_f64();
        Ok(report)
    }

    /// The files of a table; none where it does not exist.
    async fn files(&self, table: &TableDefinition) -> Result<Vec<DataFile>, LakeError> {
        Ok(snapshot(self.lake, table.name, None).await?.map(|snapshot| snapshot.files).unwrap_or_default())
    }

    fn is_fit(&self, table: &TableDefinition, file: &DataFile) -> bool {
        !self.unfit.contains(Lake::data_path(table.name, file).as_ref())
    }

    /// Remembers the file that a job failed at, if it was one.
    fn leaves_out(&mut self, error: &MaintenanceError) -> bool {
        match error {
            MaintenanceError::Lake(error) => error.file().is_some_and(|path| self.unfit.insert(path.to_owned())),
            _ => false,
        }
    }

    async fn retain(&mut self, table: &TableDefinition, progress: &mut Progress<'_>) -> Result<(), MaintenanceError> {
        let Some(watermark) = self.watermark else { return Ok(()) };
        let files = self.files(table).await?;
        let gone = plan::too_old(table, &files, &self.config.retention, watermark.min(self.now));
        if !gone.is_empty() {
            self.replace(table, Kind::Retention, String::new(), gone, None, progress).await?;
        }
        Ok(())
    }

    async fn fold(&mut self, table: &TableDefinition, progress: &mut Progress<'_>) -> Result<(), MaintenanceError> {
        if table.name != INTERVALS {
            return Ok(());
        }
        let target = self.config.maintenance.target_size.bytes();
        let mut folds = plan::folds(&self.files(table).await?, self.watermark, &self.config.maintenance);
        let first: Vec<plan::Merge> = folds.iter().flat_map(plan::Fold::merges_first).collect();
        if !first.is_empty() {
            for files in first {
                self.merge_files(table, files, progress).await?;
            }
            // What is still too deep is left to the next round.
            folds = plan::folds(&self.files(table).await?, self.watermark, &self.config.maintenance);
            folds.retain(|fold| fold.merges_first().is_empty());
        }
        for fold in folds {
            // A part of the base would not do: another file may have a row of the same interval.
            let removes: Vec<DataFile> = fold.base.iter().chain(&fold.revisions).cloned().collect();
            let month = fold.month.clone();
            let lake = self.lake.clone();
            let work = async move { work::fold(&lake, fold, target).await };
            match self.replace(table, Kind::Fold, month.clone(), removes, Some(Box::pin(work)), progress).await {
                Ok(_) => {}
                Err(error) if !error.ends_round() && self.leaves_out(&error) => {
                    progress.failed(table.name, Kind::Fold, &month, &error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn merge(&mut self, table: &TableDefinition, progress: &mut Progress<'_>) -> Result<(), MaintenanceError> {
        let target = self.config.maintenance.target_size.bytes();
        let mut count = 0;
        // Merged files may be enough for another merge, and a merge that failed may do without one of its files.
        loop {
            let mut files = self.files(table).await?;
            files.retain(|file| self.is_fit(table, file));
            let mut again = false;
            for files in plan::merges(table, &files, target) {
                count += 1;
                again |= self.merge_files(table, files, progress).await?;
            }
            if !again || count >= JOBS_MAX {
                return Ok(());
            }
        }
    }

    /// Merges some files; whether that leaves others to be merged.
    async fn merge_files(
        &mut self,
        table: &TableDefinition,
        files: plan::Merge,
        progress: &mut Progress<'_>,
    ) -> Result<bool, MaintenanceError> {
        let partition: Vec<&str> =
            files.first().into_iter().flat_map(|file| file.partition.values()).map(String::as_str).collect();
        let (partition, removes) = (partition.join(" "), files.clone());
        let (lake, definition, target) =
            (self.lake.clone(), table.clone(), self.config.maintenance.target_size.bytes());
        let work = Box::pin(async move { work::merge(&lake, &definition, files, target).await });
        match self.replace(table, Kind::Merge, partition.clone(), removes, Some(work), progress).await {
            Ok(done) => Ok(done.outcome == Outcome::Done && done.files_after < done.files_before),
            Err(error) if !error.ends_round() && self.leaves_out(&error) => {
                progress.failed(table.name, Kind::Merge, &partition, &error);
                Ok(true)
            }
            Err(error) => Err(error),
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
        progress: &mut Progress<'_>,
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
        progress.done(report.clone());
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

    async fn clean_log(
        &mut self,
        table: &TableDefinition,
        progress: &mut Progress<'_>,
    ) -> Result<(), MaintenanceError> {
        let before = self.ago(self.config.maintenance.log_retention.micros());
        let began = Instant::now();
        let expired = lake::expired_log(self.lake, table.name, before).await?;
        self.delete(table, Kind::Log, expired, began, progress).await
    }

    async fn vacuum(&mut self, table: &TableDefinition, progress: &mut Progress<'_>) -> Result<(), MaintenanceError> {
        let maintenance = &self.config.maintenance;
        let removed_before = self.ago(maintenance.file_retention.micros()).max(self.ago(0) - lake::REMEMBERED_MS);
        let written_before = self.ago(maintenance.orphan_age.micros());
        let began = Instant::now();
        let stored = lake::stored_files(self.lake, table.name).await?;
        // A commit may wait for a store that fails, however long: its files must not be taken for left-overs, and
        // another writer's neither.
        match &mut self.commits {
            Commits::Stream(requests) => requests.settle().await??,
            Commits::Own(committer) => committer.confirm().await?,
            Commits::Nobody => {}
        }
        let unnamed = lake::unnamed_files(self.lake, table.name, stored, removed_before, written_before).await?;
        self.delete(table, Kind::Vacuum, unnamed, began, progress).await
    }

    async fn delete(
        &self,
        table: &TableDefinition,
        job: Kind,
        objects: Vec<lake::Unneeded>,
        began: Instant,
        progress: &mut Progress<'_>,
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
        progress.done(JobReport {
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
