//! preprocess ▸ train ▸ evaluate ▸ gate ▸ register.
//!
//! The last `evaluate_windows` horizons before the origin belong to the evaluation: nothing is trained on them. The
//! registered weights are the evaluated ones; they are not fitted again on those windows.

pub mod evaluate;
pub mod gate;
pub mod preprocess;
pub mod register;
pub mod train;

use meterline_schemas::Micros;
use meterline_schemas::config::ResolvedPolicy;
use serde_json::Value;

use super::context::{Inputs, StepContext};
use super::error::StepError;
use super::history;
use crate::metadata::records::RunSpec;

/// Executes the step that `ctx` names.
pub(super) async fn execute(ctx: &StepContext, inputs: &Inputs) -> Result<Value, StepError> {
    match ctx.step {
        "preprocess" => preprocess::execute(ctx).await,
        "train" => train::execute(ctx, inputs).await,
        "evaluate" => evaluate::execute(ctx, inputs).await,
        "gate" => gate::execute(ctx, inputs).await,
        "register" => register::execute(ctx, inputs).await,
        other => Err(StepError::failed("executing a build", format!("it has no step `{other}`"))),
    }
}

/// Origins of the evaluation windows, oldest first. Training data ends at or before the first of them.
pub fn evaluation_origins(spec: &RunSpec, zone: &jiff::tz::TimeZone) -> Vec<Micros> {
    let horizon = spec.policy.horizon as i64;
    (1..=spec.policy.evaluate_windows as i64)
        .rev()
        .map(|window| spec.frequency.advance(spec.origin, -window * horizon, zone))
        .collect()
}

/// Intervals before the origin that evaluation needs: the windows, and what is shown to the models before the first.
pub fn evaluated(policy: &ResolvedPolicy) -> usize {
    history::shown(policy) + policy.evaluate_windows * policy.horizon
}

/// Start of the first interval that may be trained on.
pub fn trained_from(spec: &RunSpec, zone: &jiff::tz::TimeZone) -> Micros {
    spec.frequency.advance(spec.origin, -(history::trained(spec, zone) as i64), zone)
}

/// End of the last interval that may be trained on.
pub fn trained_until(spec: &RunSpec, zone: &jiff::tz::TimeZone) -> Micros {
    evaluation_origins(spec, zone).first().copied().unwrap_or(spec.origin)
}
