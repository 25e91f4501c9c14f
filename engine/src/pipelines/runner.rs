//! Sees to runs: gives them slots, starts their processes, and decides what to do when one dies.
//!
//! Builds share `device.slots` slots. Infer runs have one slot of their own beside them, so that a long training never
//! holds up the forecasts: an infer run takes the device for seconds.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::child::{is_terminal, load};
use super::error::RunError;
use super::graph;
use super::lock::{Role, RunLock};
use super::process;
use super::recorder::now;
use super::stop::Stop;
use super::sweep::sweep;
use crate::environment::Environment;
use crate::metadata::MetadataStore;
use crate::metadata::records::{LogRecord, Pipeline, RunRecord, RunSpec, Status};

/// Processes that may die, without having been asked to end, before their run is failed.
pub const ATTEMPTS_MAX: i64 = 2;
/// Infer runs that take the device at once.
pub const INFER_SLOTS: usize = 1;
/// How often a run that another process executes is looked at.
const FOREIGN_POLL: Duration = Duration::from_millis(500);
/// How long a run must have been seen to by nobody before this engine takes it over.
const ORPHAN_AFTER: Duration = Duration::from_secs(30);
/// How long another process may take to give up its role in a run.
const CLAIM_PATIENCE: Duration = Duration::from_secs(1);
/// First and longest pause before a run is seen to again after the metadata database failed.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Starts and watches runs. Cheap to clone; all clones share the slots.
#[derive(Clone)]
pub struct Runner {
    shared: Arc<Shared>,
}

struct Shared {
    // Another one once the configuration was read again.
    env: RwLock<Arc<Environment>>,
    // `None`: this very program.
    program: Option<PathBuf>,
    builds: Semaphore,
    infers: Semaphore,
    stop: Stop,
    driven: Mutex<HashMap<String, Driven>>,
    // Runs that nobody seems to see to, with the first time that it was so.
    orphans: Mutex<HashMap<String, Instant>>,
}

// A run that this process sees to, from the queue to its end.
struct Driven {
    task: JoinHandle<()>,
    ended: watch::Receiver<bool>,
}

impl Runner {
    /// A runner whose children are this program's hidden command `execute-run`.
    pub fn new(env: Arc<Environment>) -> Runner {
        Runner::with_program(env, None)
    }

    pub(crate) fn with_program(env: Arc<Environment>, program: Option<PathBuf>) -> Runner {
        let builds = Semaphore::new(env.config.device.slots.max(1));
        let shared = Shared {
            env: RwLock::new(env),
            program,
            builds,
            infers: Semaphore::new(INFER_SLOTS),
            stop: Stop::default(),
            driven: Mutex::new(HashMap::new()),
            orphans: Mutex::new(HashMap::new()),
        };
        Runner { shared: Arc::new(shared) }
    }

    /// From now on, runs are started with this environment's configuration; those under way go on with theirs.
    pub fn reload(&self, env: Arc<Environment>) {
        *self.shared.env.write().unwrap_or_else(PoisonError::into_inner) = env;
    }

    /// Queues a run; its process starts when a slot is free. Returns the record as queued.
    pub async fn start(&self, spec: RunSpec, cause: &str, decision_id: Option<&str>) -> Result<RunRecord, RunError> {
        let run = RunRecord::queued(spec, cause, decision_id, now());
        if self.shared.stop.is_requested() {
            return Err(RunError::Stopping(run.spec.run_id));
        }
        self.shared.env().metadata.insert_run(&run).await?;
        self.drive(&run);
        Ok(run)
    }

    /// Waits until the run has ended, or until this runner was shut down, and returns its record.
    pub async fn wait(&self, run_id: &str) -> Result<RunRecord, RunError> {
        let driven = self.driven().get(run_id).map(|d| d.ended.clone());
        if let Some(mut ended) = driven {
            // An error means that the task is gone, which is an end too.
            let _ = ended.wait_for(|ended| *ended).await;
            return load(&self.shared.env().metadata, run_id).await;
        }
        loop {
            let run = load(&self.shared.env().metadata, run_id).await?;
            if is_terminal(run.status) || self.shared.stop.is_requested() {
                return Ok(run);
            }
            tokio::time::sleep(FOREIGN_POLL).await;
        }
    }

    /// Goes on with the runs that an earlier engine left queued or running, and deletes the artifacts that no run needs
    /// any more. Returns how many runs go on. For the start of an engine.
    pub async fn resume_unfinished(&self) -> Result<usize, RunError> {
        let shared = self.shared.clone();
        // Beside the start, not before it: there may be a lot to delete.
        tokio::spawn(async move { sweep(&shared.env()).await });
        let abandoned = self.abandoned().await?;
        self.take_over(&abandoned);
        Ok(abandoned.len())
    }

    /// Goes on with the runs that nobody has seen to for half a minute, such as those of a manual command that was
    /// killed. Returns how many. Cheap: for the running engine, about every second.
    pub async fn adopt_orphans(&self) -> Result<usize, RunError> {
        self.adopt(ORPHAN_AFTER).await
    }

    async fn adopt(&self, after: Duration) -> Result<usize, RunError> {
        if self.shared.stop.is_requested() {
            return Ok(0);
        }
        let mut orphans = self.abandoned().await?;
        // Whoever executes it may be a process whose engine died, and leave it queued in a moment.
        orphans.retain(|run| !RunLock::is_held(&self.shared.env().lake, &run.spec.run_id, Role::Execute));
        {
            let mut seen = self.shared.orphans.lock().unwrap_or_else(PoisonError::into_inner);
            seen.retain(|run_id, _| orphans.iter().any(|run| run.spec.run_id == *run_id));
            orphans.retain(|run| seen.entry(run.spec.run_id.clone()).or_insert_with(Instant::now).elapsed() >= after);
        }
        self.take_over(&orphans);
        Ok(orphans.len())
    }

    fn take_over(&self, runs: &[RunRecord]) {
        for run in runs {
            tracing::warn!(
                run = run.spec.run_id,
                group = %run.spec.group_id,
                pipeline = run.spec.pipeline.as_str(),
                "an earlier process left the run unfinished; it goes on at its first unfinished step"
            );
            self.drive(run);
        }
    }

    // Runs that are queued or running and that no process sees to, neither this one nor another.
    async fn abandoned(&self) -> Result<Vec<RunRecord>, RunError> {
        let mut active = self.shared.env().metadata.active_runs().await?;
        active.retain(|run| {
            let run_id = &run.spec.run_id;
            !self.driven().contains_key(run_id) && !RunLock::is_held(&self.shared.env().lake, run_id, Role::Drive)
        });
        Ok(active)
    }

    /// Asks every child to stop at its next safe point and waits, a bounded time, until they have. Runs that have not
    /// ended stay queued and are resumed at the next start.
    pub async fn shutdown(&self) {
        self.shared.stop.suspend();
        let driven: Vec<(String, Driven)> = self.driven().drain().collect();
        for (run_id, driven) in driven {
            if let Err(error) = driven.task.await {
                tracing::warn!(run = run_id, %error, "the task that watched the run did not end well");
            }
        }
    }

    fn driven(&self) -> std::sync::MutexGuard<'_, HashMap<String, Driven>> {
        self.shared.driven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drive(&self, run: &RunRecord) {
        let (ended_sender, ended) = watch::channel(false);
        let runner = self.clone();
        let spec = run.spec.clone();
        let run_id = spec.run_id.clone();
        let mut driven = self.driven();
        if driven.contains_key(&run_id) {
            return;
        }
        let task = tokio::spawn(async move {
            runner.shared.drive(&spec).await;
            let _ = ended_sender.send(true);
            runner.driven().remove(&spec.run_id);
        });
        driven.insert(run_id, Driven { task, ended });
    }
}

/// Cancels a run unless it has ended: its process stops at the next safe point, and nobody resumes it.
pub async fn cancel(metadata: &MetadataStore, run_id: &str) -> Result<RunRecord, RunError> {
    let mut run = load(metadata, run_id).await?;
    if is_terminal(run.status) {
        return Ok(run);
    }
    run.status = Status::Cancelled;
    run.finished_at = Some(now());
    match metadata.update_run(&run).await? {
        Status::Cancelled => Ok(run),
        // It ended since it was read.
        _ => load(metadata, run_id).await,
    }
}

/// What a child's end calls for.
#[derive(Debug, Clone, PartialEq)]
enum Next {
    /// The run is over, or waits for the next engine.
    Leave,
    /// Another process takes over.
    Retry,
    /// The run has failed, for this reason.
    Fail(String),
}

/// Decides what follows when a child has ended: `recorded` is the run's status as the child left it, `end` says in
/// words how the process ended.
fn after_end(recorded: Status, end: &str, step: Option<&str>, attempts: i64, stopping: bool) -> Next {
    if is_terminal(recorded) || stopping {
        return Next::Leave;
    }
    if attempts < ATTEMPTS_MAX {
        return Next::Retry;
    }
    let during = step.map_or("before its first step".to_owned(), |s| format!("in the step {s}"));
    Next::Fail(format!(
        "the run's process {end} {during}, {attempts} times in all; see `meterline runs logs` for its last lines, \
         and `meterline runs show` for the step"
    ))
}

impl Shared {
    fn env(&self) -> Arc<Environment> {
        self.env.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sees to a run until it has ended or this runner stops. A database that does not answer is no reason to leave a
    /// run: while it is recorded as active, its group has no other.
    async fn drive(&self, spec: &RunSpec) {
        let run_id = spec.run_id.as_str();
        let claim = match RunLock::acquire(&self.env().lake, run_id, Role::Drive, CLAIM_PATIENCE).await {
            Ok(claim) => Some(claim),
            // Two that see to one run are a waste, not a danger: it is executed by one process at a time.
            Err(error) => {
                tracing::warn!(run = run_id, %error, "other engines cannot know that the run is seen to");
                None
            }
        };
        let mut pause = PAUSE;
        let ended = loop {
            match self.see_through(spec).await {
                Ok(ended) => break ended,
                Err(error @ RunError::Unknown(_)) => {
                    tracing::error!(run = run_id, %error, "the run is left alone");
                    break false;
                }
                Err(error) => {
                    let retry_s = pause.as_secs_f64();
                    tracing::error!(run = run_id, %error, retry_s, "the run cannot be seen through now; tried again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
                () = self.stop.requested() => break false,
            }
        };
        drop(claim);
        if ended {
            sweep(&self.env()).await;
        }
    }

    /// Sees to a run until it has ended (`true`) or this runner stops.
    async fn see_through(&self, spec: &RunSpec) -> Result<bool, RunError> {
        let run_id = spec.run_id.as_str();
        let slots = match spec.pipeline {
            Pipeline::Build => &self.builds,
            Pipeline::Infer | Pipeline::Correct => &self.infers,
        };
        let _slot = tokio::select! {
            slot = slots.acquire() => slot,
            () = self.stop.requested() => return Ok(false),
        };
        loop {
            self.wait_for_holder(run_id).await;
            let mut run = load(&self.env().metadata, run_id).await?;
            if is_terminal(run.status) || self.stop.is_requested() {
                return Ok(is_terminal(run.status));
            }
            run.attempts += 1;
            let attempts = run.attempts;
            run.started_at = run.started_at.or(Some(now()));
            if is_terminal(self.env().metadata.update_run(&run).await?) {
                return Ok(true);
            }
            let env = self.env();
            let (end, tail) =
                match process::run(self.program.as_deref(), &env.config_path, &env.config, spec, &self.stop).await {
                    Ok(ended) => ended,
                    Err(error) => (format!("could not be started: {error}"), Vec::new()),
                };
            if RunLock::is_held(&self.env().lake, run_id, Role::Execute) {
                // Another process was faster and has the run; ours could do nothing.
                continue;
            }
            let mut run = load(&self.env().metadata, run_id).await?;
            let step = self.account_for_crash(&mut run).await?;
            let next = after_end(run.status, &end, step.as_deref(), run.attempts, self.stop.is_requested());
            match next {
                Next::Leave => {
                    let ended = is_terminal(run.status);
                    // Asked to end, it had to be killed. That says nothing against the run, which waits again.
                    if !ended && run.attempts == attempts {
                        run.attempts -= 1;
                        run.status = Status::Queued;
                        self.env().metadata.update_run(&run).await?;
                    }
                    return Ok(ended);
                }
                Next::Retry => {
                    self.keep_tail(run_id, &tail).await?;
                    tracing::warn!(run = run_id, end, "the run's process died; another one goes on at the same step");
                    self.log(run_id, step.as_deref(), "warn", format!("the process {end}; another one takes over"))
                        .await?;
                    run.status = Status::Queued;
                    self.env().metadata.update_run(&run).await?;
                }
                Next::Fail(reason) => {
                    self.keep_tail(run_id, &tail).await?;
                    tracing::error!(run = run_id, reason, "the run has failed");
                    self.log(run_id, step.as_deref(), "error", reason.clone()).await?;
                    run.status = Status::Failed;
                    run.error = Some(reason);
                    run.finished_at = Some(now());
                    self.env().metadata.update_run(&run).await?;
                    return Ok(true);
                }
            }
        }
    }

    // Another process executes the run: that of a manual command, or one whose engine died and that is about to end.
    async fn wait_for_holder(&self, run_id: &str) {
        while !self.stop.is_requested() && RunLock::is_held(&self.env().lake, run_id, Role::Execute) {
            tokio::time::sleep(FOREIGN_POLL).await;
        }
    }

    /// Books the device time of a step that its process did not live to book. Returns the step's name.
    async fn account_for_crash(&self, run: &mut RunRecord) -> Result<Option<String>, RunError> {
        if run.status != Status::Running {
            return Ok(None);
        }
        let steps = self.env().metadata.steps(&run.spec.run_id).await?;
        let Some(step) = steps.into_iter().find(|s| s.status == Status::Running) else { return Ok(None) };
        let holds_device = graph::steps(run.spec.pipeline).iter().any(|d| d.name == step.step && d.holds_device);
        if let (true, Some(started_at)) = (holds_device, step.started_at) {
            run.device_seconds += (now() - started_at).max(0) as f64 / 1e6;
            self.env().metadata.update_run(run).await?;
        }
        Ok(Some(step.step))
    }

    async fn keep_tail(&self, run_id: &str, tail: &[String]) -> Result<(), RunError> {
        for line in tail {
            self.log(run_id, None, "error", format!("stderr: {line}")).await?;
        }
        Ok(())
    }

    async fn log(&self, run_id: &str, step: Option<&str>, level: &str, message: String) -> Result<(), RunError> {
        let step = step.unwrap_or("process").to_owned();
        let record = LogRecord { run_id: run_id.to_owned(), step, at: now(), level: level.to_owned(), message };
        Ok(self.env().metadata.append_log(&record).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::pipelines::spec::tests::{environment, queued, spec};

    /// A stand-in for this program: a shell script.
    fn script(directory: &Path, body: &str) -> PathBuf {
        let path = directory.join("meterline");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn what_follows_a_childs_end() {
        let fail = |words: &str| Next::Fail(words.to_owned());
        for (recorded, attempts, stopping, expected) in [
            (Status::Succeeded, 1, false, Next::Leave),
            (Status::Failed, 1, false, Next::Leave),
            (Status::Cancelled, 1, false, Next::Leave),
            (Status::Running, 1, true, Next::Leave),
            (Status::Running, 1, false, Next::Retry),
            (Status::Queued, 1, false, Next::Retry),
            (Status::Running, 2, false, fail("SIGKILL")),
        ] {
            match (after_end(recorded, "was killed by SIGKILL", Some("train"), attempts, stopping), expected) {
                (Next::Fail(reason), Next::Fail(words)) => {
                    assert!(reason.contains(&words) && reason.contains("in the step train"), "{reason}");
                }
                (found, expected) => assert_eq!(found, expected, "{recorded:?} {attempts} {stopping}"),
            }
        }
    }

    #[tokio::test]
    async fn a_killed_child_is_tried_again_and_then_fails_the_run() {
        let directory = tempfile::tempdir().unwrap();
        let env = environment(directory.path()).await;
        let program = script(directory.path(), "echo 'last words' >&2; kill -9 $$");
        let runner = Runner::with_program(env.clone(), Some(program));
        runner.start(spec("r"), "test", None).await.unwrap();
        let run = runner.wait("r").await.unwrap();
        assert_eq!((run.status, run.attempts), (Status::Failed, ATTEMPTS_MAX));
        let error = run.error.unwrap();
        assert!(error.contains("SIGKILL") && error.contains("runs logs"), "{error}");
        let logs = env.metadata.logs("r").await.unwrap();
        assert!(logs.iter().any(|l| l.message == "stderr: last words"), "{logs:?}");
    }

    #[tokio::test]
    async fn a_child_stops_when_the_engine_does_and_its_run_stays_queued() {
        let directory = tempfile::tempdir().unwrap();
        let env = environment(directory.path()).await;
        // Ends when its standard input does.
        let program = script(directory.path(), "echo started >&2; cat >/dev/null");
        let runner = Runner::with_program(env.clone(), Some(program.clone()));
        runner.start(spec("r"), "test", None).await.unwrap();
        while load(&env.metadata, "r").await.unwrap().attempts == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::timeout(Duration::from_secs(5), runner.shutdown()).await.unwrap();
        let run = load(&env.metadata, "r").await.unwrap();
        assert_eq!((run.status, run.attempts), (Status::Queued, 0), "an end that was asked for is no attempt");
        assert!(env.metadata.logs("r").await.unwrap().is_empty(), "nothing went wrong");
        assert!(matches!(runner.start(spec("s"), "test", None).await, Err(RunError::Stopping(_))));

        let next = Runner::with_program(env, Some(program));
        // The child of another test has the file of the lock, too, between its fork and its exec.
        let mut resumed = 0;
        for _ in 0..100 {
            resumed += next.resume_unfinished().await.unwrap();
            if resumed > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(resumed, 1);
        assert_eq!(next.resume_unfinished().await.unwrap(), 0, "it is seen to already");
        next.shutdown().await;
    }

    #[tokio::test]
    async fn a_run_that_nobody_sees_to_is_adopted() {
        let directory = tempfile::tempdir().unwrap();
        let env = environment(directory.path()).await;
        for run_id in ["alone", "driven", "executed"] {
            env.metadata.insert_run(&queued(spec(run_id))).await.unwrap();
        }
        let hold = |run_id, role| RunLock::acquire(&env.lake, run_id, role, Duration::ZERO);
        let driver = hold("driven", Role::Drive).await.unwrap();
        let executor = hold("executed", Role::Execute).await.unwrap();
        let runner = Runner::with_program(env.clone(), Some(script(directory.path(), "cat >/dev/null")));
        assert_eq!(runner.adopt_orphans().await.unwrap(), 0, "it may be seen to in a moment");
        assert_eq!(runner.adopt(Duration::ZERO).await.unwrap(), 1);
        assert!(runner.driven().contains_key("alone"));
        assert_eq!(runner.adopt(Duration::ZERO).await.unwrap(), 0, "it is seen to now");
        drop((driver, executor));
        assert_eq!(runner.adopt(Duration::ZERO).await.unwrap(), 2);
        runner.shutdown().await;
        assert_eq!(runner.adopt(Duration::ZERO).await.unwrap(), 0, "an engine that ends takes nothing over");
    }

    #[tokio::test]
    async fn a_run_that_another_engine_sees_to_is_not_resumed() {
        let directory = tempfile::tempdir().unwrap();
        let env = environment(directory.path()).await;
        let program = script(directory.path(), "cat >/dev/null");
        let manual = Runner::with_program(env.clone(), Some(program.clone()));
        manual.start(spec("r"), "test", None).await.unwrap();
        while load(&env.metadata, "r").await.unwrap().attempts == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let service = Runner::with_program(env, Some(program));
        assert_eq!(service.resume_unfinished().await.unwrap(), 0);
        manual.shutdown().await;
        assert_eq!(service.resume_unfinished().await.unwrap(), 1);
        service.shutdown().await;
    }

    #[tokio::test]
    async fn a_run_is_seen_through_once_the_database_answers_again() {
        let directory = tempfile::tempdir().unwrap();
        let env = environment(directory.path()).await;
        let run = queued(spec("r"));
        env.metadata.insert_run(&run).await.unwrap();
        let database = directory.path().join("metadata.db");
        let database = sqlx::SqlitePool::connect(&format!("sqlite:{}", database.display())).await.unwrap();
        sqlx::query("ALTER TABLE runs RENAME TO hidden").execute(&database).await.unwrap();
        let runner = Runner::with_program(env.clone(), Some(script(directory.path(), "exit 3")));
        runner.drive(&run);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(env.metadata.run("r").await.is_err());
        sqlx::query("ALTER TABLE hidden RENAME TO runs").execute(&database).await.unwrap();
        let run = runner.wait("r").await.unwrap();
        assert_eq!((run.status, run.attempts), (Status::Failed, ATTEMPTS_MAX));
    }

    #[tokio::test]
    async fn the_artifacts_of_a_run_are_there_until_it_has_succeeded() {
        let directory = tempfile::tempdir().unwrap();
        let env = environment(directory.path()).await;
        env.lake.put_object("artifacts/r/dataset", "rows").await.unwrap();
        env.metadata.insert_run(&queued(spec("r"))).await.unwrap();
        let artifacts = env.lake.local_dir().unwrap().join("artifacts").join("r");
        let runner = Runner::with_program(env.clone(), Some(script(directory.path(), "cat >/dev/null")));
        assert_eq!(runner.resume_unfinished().await.unwrap(), 1);
        while load(&env.metadata, "r").await.unwrap().attempts == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(artifacts.join("dataset").exists());
        // What its process would do, and then end.
        let done = RunRecord { status: Status::Succeeded, ..load(&env.metadata, "r").await.unwrap() };
        env.metadata.update_run(&done).await.unwrap();
        runner.shutdown().await;
        assert!(!artifacts.exists());
    }

    #[tokio::test]
    async fn an_infer_run_does_not_wait_for_a_build() {
        let directory = tempfile::tempdir().unwrap();
        let env = environment(directory.path()).await;
        let program = script(directory.path(), "cat >/dev/null");
        let runner = Runner::with_program(env.clone(), Some(program));
        let build = |id: &str| RunSpec { pipeline: Pipeline::Build, ..spec(id) };
        for spec in [build("b1"), build("b2"), spec("i1"), spec("i2")] {
            runner.start(spec, "test", None).await.unwrap();
        }
        let attempts = |id: &'static str| {
            let metadata = env.metadata.clone();
            async move { load(&metadata, id).await.unwrap().attempts }
        };
        while attempts("b1").await == 0 || attempts("i1").await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!((attempts("b2").await, attempts("i2").await), (0, 0), "one build and one infer run at a time");
        runner.shutdown().await;
    }

    #[tokio::test]
    async fn a_run_cancelled_in_the_queue_never_starts() {
        let directory = tempfile::tempdir().unwrap();
        let env = environment(directory.path()).await;
        env.metadata.insert_run(&queued(spec("r"))).await.unwrap();
        cancel(&env.metadata, "r").await.unwrap();
        let runner = Runner::with_program(env, Some(script(directory.path(), "exit 0")));
        let run = runner.wait("r").await.unwrap();
        assert_eq!((run.status, run.attempts), (Status::Cancelled, 0));
        assert_eq!(runner.resume_unfinished().await.unwrap(), 0);
    }
}
