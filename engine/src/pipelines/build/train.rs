//! Fits the model to everything before the evaluation windows, within the policy's time.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use meterline_models::device::Device;
use meterline_models::explain::bounded;
use meterline_models::forecaster::{Done, Task};
use meterline_models::plausible::hide;
use meterline_models::{device, registry};
use meterline_schemas::config::ResolvedPolicy;
use meterline_schemas::time::format_micros;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{preprocess, trained_from, trained_until};
use crate::pipelines::artifacts;
use crate::pipelines::context::{Inputs, StepContext, output};
use crate::pipelines::error::{Doing, StepError};
use crate::triggers;

/// Progress is recorded at most this often.
const RECORD_EVERY: Duration = Duration::from_millis(250);

/// What the step produced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Path of the weights below the lake's root.
    pub weights: String,
    /// Forecaster that they belong to.
    pub forecaster: String,
    /// End of the last interval that was trained on.
    pub trained_until: String,
    /// Seconds of training.
    pub seconds: f64,
    /// Whether the policy's `train_time` ended it; the best weights until then are kept.
    pub out_of_time: bool,
    /// Size of the weights in bytes.
    pub bytes: usize,
    /// Path of what the model says of itself below the lake's root.
    #[serde(default)]
    pub explanation: Option<String>,
}

/// Executes the step.
pub async fn execute(ctx: &StepContext, inputs: &Inputs) -> Result<Value, StepError> {
    let dataset: preprocess::Output = inputs.get("preprocess")?;
    let bytes = artifacts::get(&ctx.env.lake, &dataset.dataset).await?;
    let zone = ctx.zone()?;
    let until = trained_until(&ctx.spec, &zone);
    let step = ctx.clone();
    let (weights, explanation, forecaster, pace) = ctx
        .blocking(move || {
            let spec = &step.spec;
            let device = device::resolve(&spec.device).doing(|| format!("taking the device `{}`", spec.device))?;
            let kind = registry::find(&spec.policy.model)
                .ok_or_else(|| StepError::failed("choosing the model", triggers::no_such_kind(&spec.policy.model)))?;
            step.info(format!("training {} on {device} for at most {}", kind.name, spec.policy.train_time));
            let from = trained_from(spec, &zone);
            let mut history = artifacts::history_from_parquet(bytes, spec.frequency, zone)?;
            history.keep_from(from);
            let mut panel = history.panel.cut(until);
            drop(history);
            // The model would make a copy without these values.
            hide(&mut panel);
            step.stop.check()?;
            let task = task(&spec.policy, device)?;
            let mut pace = Pace::new(spec.policy.train_time.to_std());
            let model = kind.with(&spec.policy.settings).doing(|| format!("choosing the settings of {}", kind.name))?;
            let trained = model.fit(&panel, &task, &mut |done| pace.observe(&step, done));
            // Whatever training returned after the request to stop, it is not a finished model.
            step.stop.check()?;
            let doing = || {
                format!("training on {} series of {} until {}", panel.series.len(), spec.group_id, format_micros(until))
            };
            let model = trained.doing(doing)?;
            if let Some(report) = model.report() {
                step.info(report);
            }
            let weights = model.artifact().ok_or_else(|| StepError::failed(doing(), "this model cannot be kept"))?;
            let explanation = bounded(model.explain());
            let explanation =
                serde_json::to_vec(&explanation).doing(|| format!("explaining the model of {}", spec.group_id))?;
            Ok((weights, explanation, kind.name, pace))
        })
        .await?;
    let path = ctx.artifact("model.weights");
    let size = weights.len();
    artifacts::put(&ctx.env.lake, &path, weights.into()).await?;
    let explained = ctx.artifact("explanation.json");
    artifacts::put(&ctx.env.lake, &explained, explanation.into()).await?;
    ctx.metric("progress", 1.0);
    ctx.metric("seconds_left", 0.0);
    let seconds = pace.began.elapsed().as_secs_f64();
    let why = if pace.out_of_time { ", ended by the policy's train_time" } else { "" };
    ctx.info(format!("trained for {seconds:.1} s{why}; {size} bytes of weights"));
    output(&Output {
        weights: path,
        forecaster: forecaster.to_owned(),
        trained_until: format_micros(until),
        seconds,
        out_of_time: pace.out_of_time,
        bytes: size,
        explanation: Some(explained),
    })
}

/// What a model is to learn by a policy.
pub fn task(policy: &ResolvedPolicy, device: Device) -> Result<Task, StepError> {
    let ResolvedPolicy { horizon, context, origins_a_day, seed, location, .. } = *policy;
    let holidays = triggers::holidays(policy).doing(|| "choosing the days off".to_owned())?;
    Ok(Task { device, holidays, location, origins_a_day, ..Task::new(horizon, context, seed) })
}

/// Holds training to its time, and records how far it is.
struct Pace {
    began: Instant,
    limit: Duration,
    recorded: Option<Instant>,
    out_of_time: bool,
}

impl Pace {
    fn new(limit: Duration) -> Pace {
        Pace { began: Instant::now(), limit, recorded: None, out_of_time: false }
    }

    fn observe(&mut self, ctx: &StepContext, done: Done<'_>) -> ControlFlow<()> {
        let elapsed = self.began.elapsed();
        if self.recorded.is_none_or(|at| at.elapsed() >= RECORD_EVERY) {
            self.recorded = Some(Instant::now());
            let (share, left) = forecast_end(elapsed, self.limit, done.share);
            ctx.metric("progress", share);
            ctx.metric("seconds_left", left);
        }
        for (name, figure) in done.figures {
            ctx.metric(name, *figure);
        }
        self.out_of_time = elapsed >= self.limit;
        if self.out_of_time || ctx.stop.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Share done and seconds left, from the time used, the time allowed, and the share of its work (0 to 1) that
/// training itself has done.
fn forecast_end(elapsed: Duration, limit: Duration, done: f64) -> (f64, f64) {
    let (elapsed, limit) = (elapsed.as_secs_f64(), limit.as_secs_f64());
    let by_work = if done > 0.0 { elapsed / done } else { f64::INFINITY };
    let total = by_work.min(limit).max(elapsed);
    if total > 0.0 { (elapsed / total, total - elapsed) } else { (0.0, 0.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_the_shorter_of_work_and_budget() {
        let seconds = Duration::from_secs;
        for (elapsed, limit, done, share, left) in [
            (10, 600, 0.5, 0.5, 10.0),
            (10, 40, 0.01, 0.25, 30.0),
            (0, 60, 0.0, 0.0, 60.0),
            (70, 60, 0.5, 1.0, 0.0),
            (0, 0, 0.0, 0.0, 0.0),
        ] {
            assert_eq!(forecast_end(seconds(elapsed), seconds(limit), done), (share, left), "{elapsed} {limit} {done}");
        }
    }
}
