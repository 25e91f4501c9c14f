//! What housekeeping did, and what it could not do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// Looks how large the tables are.
    Measure,
}

impl Kind {
    /// All of them, in the order in which a round does them.
    pub const ALL: [Kind; 6] = [Kind::Retention, Kind::Fold, Kind::Merge, Kind::Log, Kind::Vacuum, Kind::Measure];

    /// Its name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Retention => "retention",
            Kind::Fold => "fold",
            Kind::Merge => "merge",
            Kind::Log => "log",
            Kind::Vacuum => "vacuum",
            Kind::Measure => "measure",
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

/// A job that failed. Nothing is lost by it; the next round tries again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The table; empty where it concerns all.
    pub table: String,
    /// What it was to do.
    pub job: Kind,
    /// Values of the partition columns; empty where it concerns all.
    pub partition: String,
    /// Why it failed, with the file and the remedy.
    pub reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.job.as_str())?;
        if !self.table.is_empty() {
            write!(f, " of {}", self.table)?;
        }
        if !self.partition.is_empty() {
            write!(f, " ({})", self.partition)?;
        }
        write!(f, ": {}", self.reason)
    }
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
    #[serde(default)]
    pub failures: Vec<Failure>,
    /// Wall clock seconds.
    pub seconds: f64,
}

/// Takes down what a round does while it runs.
pub(super) struct Progress<'a> {
    /// What it did so far.
    pub(super) report: &'a mut RoundReport,
    /// Hears of each job.
    pub(super) tell: &'a mut (dyn FnMut(&JobReport) + Send),
}

impl Progress<'_> {
    /// A job ended.
    pub(super) fn done(&mut self, job: JobReport) {
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
        self.report.jobs.push(job);
    }

    /// A job failed.
    pub(super) fn failed(&mut self, table: &str, job: Kind, partition: &str, error: &dyn fmt::Display) {
        tracing::warn!(table, partition, %error, "housekeeping: {} failed; the next round tries again", job.as_str());
        let (table, partition, reason) = (table.to_owned(), partition.to_owned(), error.to_string());
        self.report.failures.push(Failure { table, job, partition, reason });
    }
}
