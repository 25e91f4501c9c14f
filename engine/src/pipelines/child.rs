//! Executes a run, in a process of its own: a driver fault or an out-of-memory kill ends the run, never the ingest.
//!
//! Everything that the run does is in the metadata database when it happens, so whoever executes it next goes on at
//! the first unfinished step.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::Value;

use super::context::{Inputs, StepContext, join_error};
use super::error::{RunError, StepError};
use super::graph::{self, Action, StepDefinition};
use super::lock::{Role, RunLock};
use super::recorder::{Recorder, now};
use super::stop::Stop;
use super::{build, infer};
use crate::environment::Environment;
use crate::metadata::MetadataStore;
use crate::metadata::records::{Pipeline, RunRecord, RunSpec, Status, StepRecord};

/// How long a new process waits for the run's previous process to end.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
/// How often a running process looks whether its run was cancelled.
const CANCEL_POLL: Duration = Duration::from_secs(1);

/// The steps of a run and how to execute each.
#[async_trait]
pub trait Steps: Send + Sync {
    /// The steps in the order of execution.
    fn definitions(&self) -> &[StepDefinition];

    /// Executes one of them and returns its output.
    async fn execute(&self, ctx: StepContext, inputs: Inputs) -> Result<Value, StepError>;
}

struct Declared(Pipeline);

#[async_trait]
impl Steps for Declared {
    fn definitions(&self) -> &[StepDefinition] {
        graph::steps(self.0)
    }

    async fn execute(&self, ctx: StepContext, inputs: Inputs) -> Result<Value, StepError> {
        match self.0 {
            Pipeline::Build => build::execute(&ctx, &inputs).await,
            Pipeline::Infer | Pipeline::Correct => infer::execute(&ctx, &inputs).await,
        }
    }
}

/// Executes the run from its first unfinished step and returns where it stands then: succeeded, failed, cancelled, or
/// queued when `stop` asked it to end early.
pub async fn execute(env: Arc<Environment>, run_id: &str, stop: Stop) -> Result<Status, RunError> {
    let pipeline = load(&env.metadata, run_id).await?.spec.pipeline;
    execute_steps(env, run_id, stop, Arc::new(Declared(pipeline))).await
}

/// [`execute`] with the given steps.
pub async fn execute_steps(
    env: Arc<Environment>,
    run_id: &str,
    stop: Stop,
    steps: Arc<dyn Steps>,
) -> Result<Status, RunError> {
    let _lock = RunLock::acquire(&env.lake, run_id, Role::Execute, LOCK_PATIENCE).await?;
    let run = load(&env.metadata, run_id).await?;
    if is_terminal(run.status) {
        return Ok(run.status);
    }
    let watcher = tokio::spawn(watch_for_cancel(env.metadata.clone(), run_id.to_owned(), stop.clone()));
    let recorder = Arc::new(Recorder::new(env.metadata.clone(), run_id).await?);
    let execution = Execution { spec: Arc::new(run.spec), env, stop, recorder };
    let status = execution.run(steps).await;
    execution.recorder.flush().await;
    watcher.abort();
    status
}

/// Whether a run of this status has ended for good.
pub const fn is_terminal(status: Status) -> bool {
    matches!(status, Status::Succeeded | Status::Failed | Status::Cancelled)
}

/// The record of `run_id`.
pub(super) async fn load(metadata: &MetadataStore, run_id: &str) -> Result<RunRecord, RunError> {
    metadata.run(run_id).await?.ok_or_else(|| RunError::Unknown(run_id.to_owned()))
}

async fn watch_for_cancel(metadata: MetadataStore, run_id: String, stop: Stop) {
    loop {
        tokio::time::sleep(CANCEL_POLL).await;
        match metadata.run(&run_id).await {
            Ok(Some(run)) if run.status == Status::Cancelled => return stop.cancel(),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "cannot see whether the run was cancelled; looks again"),
        }
    }
}

struct Execution {
    env: Arc<Environment>,
    spec: Arc<RunSpec>,
    stop: Stop,
    recorder: Arc<Recorder>,
}

impl Execution {
    async fn run(&self, steps: Arc<dyn Steps>) -> Result<Status, RunError> {
        let metadata = &self.env.metadata;
        let recorded = metadata.steps(&self.spec.run_id).await?;
        let definitions: Vec<StepDefinition> = steps.definitions().to_vec();
        let actions = graph::plan(&definitions, &recorded);
        self.change_run(|run| run.status = Status::Running).await?;
        let mut outputs = Inputs::default();
        for (ordinal, (definition, action)) in definitions.iter().zip(actions).enumerate() {
            if let Action::Reuse(output) = action {
                self.recorder.log(
                    definition.name,
                    "info",
                    "finished by an earlier process; its output is reused".into(),
                );
                outputs.0.insert(definition.name, output);
                continue;
            }
            match self.execute_step(&steps, definition, ordinal as i64, &outputs).await? {
                Ok(output) => {
                    outputs.0.insert(definition.name, output);
                }
                Err(StepError::Stopped) => return self.stopped(definition.name).await,
                Err(error) => {
                    let message = format!("step {}: {error}", definition.name);
                    self.recorder.log(definition.name, "error", error.to_string());
                    let run = self
                        .change_run(|run| {
                            run.status = Status::Failed;
                            run.error = Some(message.clone());
                            run.finished_at = Some(now());
                        })
                        .await?;
                    return Ok(run.status);
                }
            }
        }
        let version = model_version(&outputs);
        let run = self
            .change_run(|run| {
                run.status = Status::Succeeded;
                run.error = None;
                run.model_version = version.clone();
                run.finished_at = Some(now());
            })
            .await?;
        Ok(run.status)
    }

    // Outer error: the metadata database. Inner: the step itself.
    async fn execute_step(
        &self,
        steps: &Arc<dyn Steps>,
        definition: &StepDefinition,
        ordinal: i64,
        outputs: &Inputs,
    ) -> Result<Result<Value, StepError>, RunError> {
        if let Err(stopped) = self.stop.check() {
            return Ok(Err(stopped));
        }
        let metadata = &self.env.metadata;
        let mut record = StepRecord {
            run_id: self.spec.run_id.clone(),
            step: definition.name.to_owned(),
            ordinal,
            status: Status::Running,
            started_at: Some(now()),
            finished_at: None,
            output: Value::Null,
            error: None,
        };
        metadata.upsert_step(&record).await?;
        let ctx = StepContext {
            env: self.env.clone(),
            spec: self.spec.clone(),
            step: definition.name,
            stop: self.stop.clone(),
            recorder: self.recorder.clone(),
        };
        let declared = |name: &&str| definition.inputs.contains(name);
        let inputs =
            Inputs(outputs.0.iter().filter(|(name, _)| declared(name)).map(|(n, v)| (*n, v.clone())).collect());
        let began = Instant::now();
        let steps = steps.clone();
        // A task of its own, so that a panic ends the step and is recorded.
        let result = match tokio::spawn(async move { steps.execute(ctx, inputs).await }).await {
            Ok(result) => result,
            Err(error) => Err(join_error(definition.name, error)),
        };
        let seconds = began.elapsed().as_secs_f64();
        self.recorder.flush().await;
        match &result {
            Ok(output) => {
                record.status = Status::Succeeded;
                record.output = output.clone();
            }
            Err(StepError::Stopped) => record.status = Status::Queued,
            Err(error) => {
                record.status = Status::Failed;
                record.error = Some(error.to_string());
            }
        }
        record.finished_at = (record.status != Status::Queued).then(now);
        if definition.holds_device {
            self.change_run(|run| run.device_seconds += seconds).await?;
        }
        metadata.upsert_step(&record).await?;
        Ok(result)
    }

    async fn stopped(&self, step: &str) -> Result<Status, RunError> {
        if self.stop.is_cancelled() {
            self.recorder.log(step, "warn", "the run was cancelled".into());
            let run = self
                .change_run(|run| {
                    run.status = Status::Cancelled;
                    run.finished_at = Some(now());
                })
                .await?;
            return Ok(run.status);
        }
        self.recorder.log(step, "info", format!("asked to stop; the run stays queued and goes on at the step {step}"));
        let run = self
            .change_run(|run| {
                run.status = Status::Queued;
                // An end that was asked for says nothing against the run.
                run.attempts = (run.attempts - 1).max(0);
            })
            .await?;
        Ok(run.status)
    }

    // Reads, changes and writes the run's record. Whoever cancels a run writes `cancelled`; that is never undone.
    async fn change_run(&self, change: impl Fn(&mut RunRecord)) -> Result<RunRecord, RunError> {
        loop {
            let mut run = load(&self.env.metadata, &self.spec.run_id).await?;
            let ended = is_terminal(run.status).then_some(run.status);
            change(&mut run);
            if let Some(status) = ended {
                run.status = status;
                self.stop.cancel();
            }
            if self.env.metadata.update_run(&run).await? == run.status {
                return Ok(run);
            }
            // Somebody ended the run since it was read: the change is made to what is there now.
        }
    }
}

// The version that a build made, or that an infer run was to use: triggers tell by it whether another one serves now,
// so it is the champion's also where that could not be loaded and seasonal naive stood in.
fn model_version(outputs: &Inputs) -> Option<String> {
    ["register", "load"].iter().find_map(|step| outputs.0.get(step)?.get("model_version")?.as_str().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;
    use serde_json::json;

    use super::*;
    use crate::pipelines::runner::cancel;
    use crate::pipelines::spec::tests::{environment, queued, spec};

    /// What the step at a place does.
    #[derive(Clone, Copy, PartialEq)]
    enum Does {
        Succeed,
        Fail,
        Panic,
        WaitForStop,
    }

    /// The steps of a build; one of them misbehaves. Remembers which were executed.
    struct Scripted {
        at: usize,
        does: Does,
        executed: Mutex<Vec<&'static str>>,
    }

    impl Scripted {
        fn new(at: usize, does: Does) -> Arc<Scripted> {
            Arc::new(Scripted { at, does, executed: Mutex::new(Vec::new()) })
        }
    }

    #[async_trait]
    impl Steps for Scripted {
        fn definitions(&self) -> &[StepDefinition] {
            &graph::BUILD
        }

        async fn execute(&self, ctx: StepContext, inputs: Inputs) -> Result<Value, StepError> {
            self.executed.lock().unwrap().push(ctx.step);
            let place = graph::BUILD.iter().position(|s| s.name == ctx.step).unwrap();
            for input in graph::BUILD[place].inputs {
                assert_eq!(
                    inputs.0[input],
                    json!({ "of": input, "model_version": null }),
                    "{} reads {input}",
                    ctx.step
                );
            }
            if place == self.at {
                match self.does {
                    Does::Succeed => {}
                    Does::Fail => return Err(StepError::failed("dividing", "by zero")),
                    Does::Panic => panic!("at the disco"),
                    Does::WaitForStop => {
                        ctx.stop.requested().await;
                        return Err(StepError::Stopped);
                    }
                }
            }
            Ok(json!({ "of": ctx.step, "model_version": (ctx.step == "register").then_some("PT1H-0001") }))
        }
    }

    async fn started(directory: &std::path::Path) -> Arc<Environment> {
        let env = environment(directory).await;
        let mut spec = spec("r");
        spec.pipeline = Pipeline::Build;
        env.metadata.insert_run(&RunRecord { attempts: 2, ..queued(spec) }).await.unwrap();
        env
    }

    #[tokio::test]
    async fn a_run_that_was_stopped_goes_on_at_its_first_unfinished_step() {
        for at in 0..graph::BUILD.len() {
            let directory = tempfile::tempdir().unwrap();
            let env = started(directory.path()).await;
            let stop = Stop::default();
            let first = Scripted::new(at, Does::WaitForStop);
            let run = tokio::spawn(execute_steps(env.clone(), "r", stop.clone(), first.clone()).boxed());
            while first.executed.lock().unwrap().len() <= at {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            stop.suspend();
            assert_eq!(run.await.unwrap().unwrap(), Status::Queued);
            assert_eq!(load(&env.metadata, "r").await.unwrap().attempts, 1, "it was asked to end");

            let second = Scripted::new(0, Does::Succeed);
            let status = execute_steps(env.clone(), "r", Stop::default(), second.clone()).await.unwrap();
            assert_eq!(status, Status::Succeeded);
            let executed: Vec<&str> = graph::BUILD[at..].iter().map(|s| s.name).collect();
            assert_eq!(*second.executed.lock().unwrap(), executed);
            let record = load(&env.metadata, "r").await.unwrap();
            assert_eq!(record.model_version.as_deref(), Some("PT1H-0001"));
            let steps = env.metadata.steps("r").await.unwrap();
            assert!(steps.len() == 5 && steps.iter().all(|s| s.status == Status::Succeeded), "{steps:?}");
        }
    }

    #[tokio::test]
    async fn errors_and_panics_fail_the_run_with_their_words() {
        for (does, words) in [(Does::Fail, "dividing: by zero"), (Does::Panic, "it panicked: at the disco")] {
            let directory = tempfile::tempdir().unwrap();
            let env = started(directory.path()).await;
            let status = execute_steps(env.clone(), "r", Stop::default(), Scripted::new(2, does)).await.unwrap();
            assert_eq!(status, Status::Failed);
            let record = load(&env.metadata, "r").await.unwrap();
            let error = record.error.unwrap();
            assert!(error.starts_with("step evaluate: ") && error.contains(words), "{error}");
            assert!(record.finished_at.is_some());
            let logs = env.metadata.logs("r").await.unwrap();
            assert!(logs.iter().any(|l| l.level == "error" && l.message.contains(words)));
        }
    }

    #[tokio::test]
    async fn a_cancelled_run_stops_and_stays_cancelled() {
        let directory = tempfile::tempdir().unwrap();
        let env = started(directory.path()).await;
        let steps = Scripted::new(1, Does::WaitForStop);
        let run = tokio::spawn(execute_steps(env.clone(), "r", Stop::default(), steps.clone()).boxed());
        while steps.executed.lock().unwrap().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cancel(&env.metadata, "r").await.unwrap();
        assert_eq!(run.await.unwrap().unwrap(), Status::Cancelled);
        let again = Scripted::new(0, Does::Succeed);
        assert_eq!(execute_steps(env, "r", Stop::default(), again.clone()).await.unwrap(), Status::Cancelled);
        assert!(again.executed.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn one_run_is_executed_by_one_process_at_a_time() {
        struct Counting(AtomicUsize, AtomicUsize);
        #[async_trait]
        impl Steps for Counting {
            fn definitions(&self) -> &[StepDefinition] {
                &graph::INFER
            }

            async fn execute(&self, _: StepContext, _: Inputs) -> Result<Value, StepError> {
                assert_eq!(self.0.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                tokio::time::sleep(Duration::from_millis(20)).await;
                self.0.fetch_sub(1, Ordering::SeqCst);
                self.1.fetch_add(1, Ordering::SeqCst);
                Ok(Value::Null)
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let env = started(directory.path()).await;
        let steps = Arc::new(Counting(AtomicUsize::new(0), AtomicUsize::new(0)));
        let one = execute_steps(env.clone(), "r", Stop::default(), steps.clone());
        let other = execute_steps(env.clone(), "r", Stop::default(), steps.clone());
        let (one, other) = tokio::join!(one, other);
        assert_eq!((one.unwrap(), other.unwrap()), (Status::Succeeded, Status::Succeeded));
        assert_eq!(steps.1.load(Ordering::SeqCst), graph::INFER.len(), "the second found the run done");
    }
}
