//! The rows of the metadata database as plain values. Instants are wall clock unless said otherwise.

use meterline_models::data::Covariate;
use meterline_schemas::config::{CovariateConfig, ResolvedPolicy};
use meterline_schemas::facts::Facts;
use meterline_schemas::{Frequency, Micros};
use serde::{Deserialize, Serialize};

use crate::ingest::groups::GroupSummary;

/// Which pipeline a run executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pipeline {
    /// preprocess ▸ train ▸ evaluate ▸ gate ▸ register; asked for by the trigger `retrain`.
    Build,
    /// load ▸ context ▸ predict ▸ guard ▸ reconcile ▸ publish; asked for by the trigger `reforecast`.
    Infer,
    /// find ▸ load ▸ context ▸ predict ▸ guard ▸ reconcile ▸ publish, of the series whose readings were corrected and of
    /// their roll-ups alone; asked for by the trigger `correct`.
    Correct,
}

impl Pipeline {
    /// All, in the order in which triggers are evaluated.
    pub const ALL: [Pipeline; 3] = [Pipeline::Build, Pipeline::Infer, Pipeline::Correct];

    /// Name in the tables `runs` and `steps`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Pipeline::Build => "build",
            Pipeline::Infer => "infer",
            Pipeline::Correct => "correct",
        }
    }

    /// Name of the trigger that starts it, in policies and `trigger_facts`.
    pub const fn trigger(self) -> &'static str {
        match self {
            Pipeline::Build => "retrain",
            Pipeline::Infer => "reforecast",
            Pipeline::Correct => "correct",
        }
    }
}

/// Where a run or a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for a device slot, or for an earlier step.
    Queued,
    /// Is being executed.
    Running,
    /// Done.
    Succeeded,
    /// Ended with an error, or its process died.
    Failed,
    /// Ended on request.
    Cancelled,
}

impl Status {
    /// Name in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Queued => "queued",
            Status::Running => "running",
            Status::Succeeded => "succeeded",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        }
    }
}

/// Everything that a run's child process needs to know; the same specification gives the same result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Unique, ordered by creation (UUID v7).
    pub run_id: String,
    /// What to execute.
    pub pipeline: Pipeline,
    /// Model group.
    pub group_id: String,
    /// The group's native frequency.
    pub frequency: Frequency,
    /// Time zone of the group's calendar.
    pub zone: String,
    /// Stream time: end of the group's last closed interval when the run was asked for. Nothing later is read.
    pub origin: Micros,
    /// Intervals of the group that ended at or before the origin when the run was asked for.
    #[serde(default)]
    pub closed_intervals: i64,
    /// Corrections of the group's feeds until then.
    #[serde(default)]
    pub corrections: Option<i64>,
    /// Of a correction: the forecasts that it corrects.
    #[serde(default)]
    pub published: Option<Published>,
    /// Stream time: the group's watermark when the run was asked for.
    pub watermark: Micros,
    /// Version of the table `intervals` that is read.
    pub intervals_version: i64,
    /// The policy with every default filled in.
    pub policy: ResolvedPolicy,
    /// The covariates that the policy names, in its order, as they were configured then.
    #[serde(default)]
    pub covariates: Vec<(String, CovariateConfig)>,
    /// `auto`, `cpu` or `cuda:N`.
    pub device: String,
}

impl RunSpec {
    /// End of the group's last closed interval when the run was asked for, as far as it may see.
    pub fn reached(&self) -> Micros {
        self.published.as_ref().map_or(self.origin, |published| published.reached)
    }
}

/// The forecasts of a group that are in force: those of its last run of all series, as far as later runs have not
/// corrected them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The run of all series.
    pub of_all: String,
    /// The newest run that made some of them.
    pub run_id: String,
    /// The origin of all of them.
    pub origin: Micros,
    /// End of the group's last closed interval when they are corrected: it may have moved on since.
    pub reached: Micros,
    /// Version of the table `intervals` that the newest run saw.
    pub intervals_version: i64,
    /// Runs that have corrected them, those that failed among them.
    pub corrections: usize,
    /// Of these, those that have published theirs.
    #[serde(default)]
    pub corrected_by: Vec<String>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// What it was asked to do.
    pub spec: RunSpec,
    /// `trigger`, or `manual` with the command.
    pub cause: String,
    /// Decision that started it.
    pub decision_id: Option<String>,
    /// Where it stands.
    pub status: Status,
    /// When it was asked for.
    pub created_at: Micros,
    /// When its process first began.
    pub started_at: Option<Micros>,
    /// When it ended.
    pub finished_at: Option<Micros>,
    /// Processes started for it so far, without those that ended early because they were asked to.
    pub attempts: i64,
    /// Seconds that it held the device.
    pub device_seconds: f64,
    /// Why it failed: what, with which input, what to do.
    pub error: Option<String>,
    /// Version that it registered (build) or used (infer; `seasonal_naive` without a champion).
    pub model_version: Option<String>,
}

impl RunRecord {
    /// A run that was just asked for.
    pub fn queued(spec: RunSpec, cause: &str, decision_id: Option<&str>, created_at: Micros) -> RunRecord {
        RunRecord {
            spec,
            cause: cause.to_owned(),
            decision_id: decision_id.map(str::to_owned),
            status: Status::Queued,
            created_at,
            started_at: None,
            finished_at: None,
            attempts: 0,
            device_seconds: 0.0,
            error: None,
            model_version: None,
        }
    }
}

/// One step of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its run.
    pub run_id: String,
    /// Its name, such as `train`.
    pub step: String,
    /// Its place in the run, from 0.
    pub ordinal: i64,
    /// Where it stands.
    pub status: Status,
    /// When it began.
    pub started_at: Option<Micros>,
    /// When it ended.
    pub finished_at: Option<Micros>,
    /// What it produced, for the later steps and for people.
    pub output: serde_json::Value,
    /// Why it failed.
    pub error: Option<String>,
}

/// One line of a run's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogRecord {
    /// Its run.
    pub run_id: String,
    /// The step that wrote it.
    pub step: String,
    /// When.
    pub at: Micros,
    /// `info`, `warn` or `error`.
    pub level: String,
    /// The line.
    pub message: String,
}

/// One point of a run's metric, such as the loss after an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricRecord {
    /// Its run.
    pub run_id: String,
    /// The step that measured it.
    pub step: String,
    /// Its name: `train_loss`, `validation_loss`, `progress` (0 to 1), `seconds_left`, `wql`, …
    pub name: String,
    /// Its place in the series of this metric, from 0.
    pub index: i64,
    /// Its value.
    pub value: f64,
    /// When.
    pub at: Micros,
}

/// Whether a model version may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalState {
    /// Passed its gate, waits for a person.
    Pending,
    /// May serve; the newest approved version of a group is its champion.
    Approved,
    /// Must not serve.
    Rejected,
}

/// An immutable trained artifact with its lineage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// Unique: `PT15M-0001`.
    pub version: String,
    /// Model group.
    pub group_id: String,
    /// Run that built it.
    pub run_id: String,
    /// Forecaster, such as `quantile_mlp`.
    pub forecaster: String,
    /// Path of its artifact below the lake's root.
    pub artifact: String,
    /// The covariates that it was fitted with, in the order in which it sees them.
    #[serde(default)]
    pub covariates: Vec<Covariate>,
    /// The labels of series that it was told.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Evaluation figures by name, as the gate saw them.
    pub metrics: serde_json::Map<String, serde_json::Value>,
    /// Stream time: end of the last interval it was trained on.
    pub trained_until: Micros,
    /// Version of the table `intervals` it was trained on.
    pub intervals_version: i64,
    /// Whether it may serve.
    pub approval: ApprovalState,
    /// Why: the gate's or the person's words.
    pub approval_reason: String,
    /// When it was registered.
    pub created_at: Micros,
}

/// Truth of one clause: SQL's three values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// A fact that it looks at is missing.
    Unknown,
}

/// One part of a policy's predicate, as it came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClauseTruth {
    /// `when`, `require`, or another key of the trigger.
    pub part: String,
    /// The name that the configuration gives its predicate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The clause as SQL, or what it says in words.
    pub clause: String,
    /// How it came out.
    pub truth: Truth,
}

/// One evaluation of one trigger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// Unique: commit, group, trigger and what ran before name it, and where nothing was started the time: what starts a run
    /// again after a crash is the same decision.
    pub decision_id: String,
    /// Model group.
    pub group_id: String,
    /// Pipeline that it would start.
    pub pipeline: Pipeline,
    /// Ingest commit that was looked at.
    pub commit_seq: i64,
    /// Stream time: the group's origin at that commit.
    pub origin: Micros,
    /// When it was evaluated.
    pub at: Micros,
    /// Whether it started a run.
    pub fired: bool,
    /// In one sentence: why it fired or did not.
    pub reason: String,
    /// Every part with its truth.
    pub clauses: Vec<ClauseTruth>,
    /// The facts that it looked at.
    pub facts: Facts,
    /// The run that it started.
    pub run_id: Option<String>,
    /// Whether it was the first evaluation of the trigger since the engine started.
    #[serde(default)]
    pub resumed: bool,
    /// The group as it was looked at; not of decisions of an earlier release.
    #[serde(default)]
    pub observed: Option<GroupSummary>,
    /// What was seen of runs and models; not of decisions of an earlier release.
    #[serde(default)]
    pub seen: Option<SeenRuns>,
    /// How the trigger stood before; not of decisions of an earlier release. A replay that begins here begins with it.
    #[serde(default)]
    pub before: Option<Standing>,
}

/// What an evaluation saw of runs and models. They may change while it reads them, so that the clock does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenRuns {
    /// The run under way.
    pub active: Option<String>,
    /// The champion.
    pub champion: Option<String>,
}

/// What evaluations of a trigger leave for the next one. It is kept in the metadata database, so that neither a stop nor
/// a crash loses what became true.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Standing {
    /// What can become due, as the policy had it: what was due by another policy is not due by this one.
    pub causes: String,
    /// What is due waits for, as the policy had it.
    pub waits: String,
    /// Stream time since which `when` has been true without a break.
    pub true_since: Option<Micros>,
    /// Clauses of `when` that were true at the last evaluation.
    pub true_clauses: Vec<String>,
    /// A clause of `when` became true while a run was under way.
    pub risen: bool,
    /// What has to start a run, and has not yet.
    pub due: Option<Due>,
    /// The run that was started last, and for what.
    pub started: Option<Started>,
    /// Stream time up to which nothing counts, because it passed while nobody looked (`catch_up = "skip"`).
    pub skipped_to: Option<Micros>,
    /// Where there is a schedule: stream time up to which its ticks were seen.
    pub seen: Option<Micros>,
    /// With `catch_up = "all"`: the origin up to which each interval was looked at.
    pub looked_at: Option<Micros>,
}

/// A cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due {
    /// Stream time from which it may start a run: it waits for the schedule and its part of the jitter.
    pub from: Micros,
    /// The origin at which it became true.
    pub origin: Micros,
    /// The newest run there was then: only a later one settles it.
    pub after: Option<String>,
    /// Why, in words.
    pub why: String,
}

/// A run and its cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The run.
    pub run_id: String,
    /// Its cause, which is open again if it fails.
    pub due: Due,
}

impl Standing {
    /// What is left for the next evaluation once `run_id` has been started from `origin`.
    pub fn with_run(self, run_id: &str, origin: Micros) -> Standing {
        let started = self.due.map(|due| Started { run_id: run_id.to_owned(), due: Due { origin, ..due } });
        Standing { true_since: None, risen: false, due: None, started, skipped_to: None, ..self }
    }
}
