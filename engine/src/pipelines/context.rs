//! What a step works with: the specification, the lake, the recorder and the stop flag.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::tz::TimeZone;
use meterline_models::cost::Cost;
use meterline_models::plausible::Hidden;
use meterline_schemas::config::ResolvedPolicy;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::artifacts::FOLDER;
use super::error::{Doing, StepError};
use super::recorder::Recorder;
use super::stop::Stop;
use crate::environment::Environment;
use crate::metadata::records::RunSpec;

/// What a step works with. Cheap to clone.
#[derive(Clone)]
pub struct StepContext {
    /// Configuration, lake and metadata database.
    pub env: Arc<Environment>,
    /// What the run was asked to do.
    pub spec: Arc<RunSpec>,
    /// Name of the step.
    pub step: &'static str,
    /// Looked at between two pieces of work.
    pub stop: Stop,
    /// Log and metrics.
    pub recorder: Arc<Recorder>,
}

impl StepContext {
    /// Logs what happened.
    pub fn info(&self, message: impl Into<String>) {
        self.recorder.log(self.step, "info", message.into());
    }

    /// Logs what somebody may have to look at.
    pub fn warn(&self, message: impl Into<String>) {
        self.recorder.log(self.step, "warn", message.into());
    }

    /// Records a point of a metric.
    pub fn metric(&self, name: &str, value: f64) {
        self.recorder.metric(self.step, name, value);
    }

    /// Records how many values models see as missing because no meter can have meant them, and warns of them.
    pub fn tell_hidden(&self, hidden: &Hidden) {
        self.metric("implausible", hidden.values as f64);
        if let Some(told) = hidden.told() {
            self.warn(format!("{told} A reading that corrects one takes its place"));
        }
    }

    /// Path below the lake's root of an artifact of this run.
    pub fn artifact(&self, name: &str) -> String {
        format!("{FOLDER}/{}/{name}", self.spec.run_id)
    }

    /// The time zone of the group's calendar.
    pub fn zone(&self) -> Result<TimeZone, StepError> {
        TimeZone::get(&self.spec.zone).doing(|| format!("finding the time zone `{}` of the run", self.spec.zone))
    }

    /// Runs `work` on a thread that may compute for long. A panic in it becomes an error with the panic's message.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StepError> + Send + 'static,
    ) -> Result<T, StepError> {
        blocking(self.step, work).await
    }
}

/// The same for what is no step of a run; `what` names the work where it panics.
pub async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T, StepError> + Send + 'static,
) -> Result<T, StepError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(join_error(what, error)),
    }
}

/// The error of a step whose task did not return.
pub(super) fn join_error(step: &str, error: tokio::task::JoinError) -> StepError {
    match error.try_into_panic() {
        Ok(payload) => {
            let message = payload
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            StepError::failed(
                format!("executing the step {step}"),
                format!("it panicked: {message}; this is a fault of the program, the run's log has what came before"),
            )
        }
        Err(_) => StepError::Stopped,
    }
}

/// Outputs of the steps that a step declared as its inputs, by step name.
#[derive(Debug, Clone, Default)]
pub struct Inputs(pub BTreeMap<&'static str, Value>);

impl Inputs {
    /// The output of `step`, as the type that the step wrote.
    pub fn get<T: DeserializeOwned>(&self, step: &str) -> Result<T, StepError> {
        let value = self.0.get(step).cloned().unwrap_or(Value::Null);
        serde_json::from_value(value).doing(|| format!("reading the output of the step {step}"))
    }
}

/// What a wrong forecast costs by the policy, if it says that.
pub fn cost(policy: &ResolvedPolicy) -> Result<Option<Cost>, StepError> {
    let cost = policy.costs.map(|costs| Cost::new(costs.cost_under, costs.cost_over));
    cost.transpose().doing(|| format!("reading the costs of {}", policy.source))
}

/// A step's output as it is recorded.
pub fn output<T: serde::Serialize>(value: &T) -> Result<Value, StepError> {
    serde_json::to_value(value).doing(|| "writing the step's output".to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::pipelines::spec::tests::spec;

    /// What the step `step` of an hourly run works with.
    pub(crate) async fn step_context(env: Arc<Environment>, step: &'static str) -> StepContext {
        let recorder = Recorder::new(env.metadata.clone(), "r").await.unwrap();
        StepContext { env, spec: Arc::new(spec("r")), step, stop: Stop::default(), recorder: Arc::new(recorder) }
    }
}
