//! Makes the candidate a model version: approved, waiting for a person, or rejected with the reason.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{evaluate, gate, train, trained_until};
use crate::metadata::records::{ApprovalState, ModelRecord};
use crate::pipelines::artifacts;
use crate::pipelines::context::{Inputs, StepContext, output};
use crate::pipelines::error::{Doing, StepError};
use crate::pipelines::recorder::now;
use meterline_schemas::config::Approval;

/// Versions that are tried when other builds of the same group register at the same moment.
const TRIES: usize = 5;

/// What the step produced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// The version.
    pub model_version: String,
    /// Whether it may serve.
    pub approval: ApprovalState,
    /// Why.
    pub reason: String,
    /// Path of its weights below the lake's root.
    pub artifact: String,
}

/// Executes the step. A run registers one version, however often the step is executed.
pub async fn execute(ctx: &StepContext, inputs: &Inputs) -> Result<Value, StepError> {
    let trained: train::Output = inputs.get("train")?;
    let evaluated: evaluate::Output = inputs.get("evaluate")?;
    let gated: gate::Output = inputs.get("gate")?;
    let (approval, reason) = decide(&gated, ctx.spec.policy.approval);
    let registered = match earlier(ctx).await? {
        Some(record) => record,
        None => register(ctx, &trained, &evaluated, approval, reason).await?,
    };
    let words = match registered.approval {
        ApprovalState::Approved => "registered; it serves from now on",
        ApprovalState::Pending => "registered; it waits for `meterline models approve`",
        ApprovalState::Rejected => "registered as rejected; the champion goes on serving",
    };
    ctx.info(format!("model version {} {words}: {}", registered.version, registered.approval_reason));
    output(&Output {
        model_version: registered.version,
        approval: registered.approval,
        reason: registered.approval_reason,
        artifact: registered.artifact,
    })
}

fn decide(gate: &gate::Output, approval: Approval) -> (ApprovalState, String) {
    match (gate.accepted, approval) {
        (false, _) => (ApprovalState::Rejected, gate.reason.clone()),
        (true, Approval::Automatic) => (ApprovalState::Approved, gate.reason.clone()),
        (true, Approval::Manual) => (ApprovalState::Pending, format!("{}; the policy asks for a person", gate.reason)),
    }
}

async fn earlier(ctx: &StepContext) -> Result<Option<ModelRecord>, StepError> {
    ctx.env.metadata.model_of_run(&ctx.spec.run_id).await.doing(|| "reading the model registry".to_owned())
}

async fn register(
    ctx: &StepContext,
    trained: &train::Output,
    evaluated: &evaluate::Output,
    approval: ApprovalState,
    reason: String,
) -> Result<ModelRecord, StepError> {
    let spec = &ctx.spec;
    let metadata = &ctx.env.metadata;
    let weights = artifacts::get(&ctx.env.lake, &trained.weights).await?;
    let metrics = evaluated.figures.iter().map(|(name, value)| (name.clone(), Value::from(*value))).collect();
    let mut record = ModelRecord {
        version: String::new(),
        group_id: spec.group_id.clone(),
        run_id: spec.run_id.clone(),
        forecaster: trained.forecaster.clone(),
        artifact: String::new(),
        metrics,
        trained_until: trained_until(spec, &ctx.zone()?),
        intervals_version: spec.intervals_version,
        approval,
        approval_reason: reason,
        created_at: now(),
    };
    for attempt in 1.. {
        let doing = || format!("registering the model of {}", spec.group_id);
        record.version = metadata.next_model_version(&spec.group_id).await.doing(doing)?;
        // The run's name keeps two builds apart that were given the same number.
        record.artifact = format!("models/{}/{}.weights", record.version, spec.run_id);
        artifacts::put(&ctx.env.lake, &record.artifact, weights.clone()).await?;
        match metadata.register_model(&record).await {
            Ok(()) => break,
            // An error does not mean that it was not registered.
            Err(_) if earlier(ctx).await?.is_some() => break,
            Err(error) if attempt < TRIES => {
                ctx.warn(format!("version {} was not registered: {error}; tries the next one", record.version));
            }
            Err(error) => return Err(error).doing(doing),
        }
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_accepted_model_may_ever_serve() {
        let gate = |accepted| gate::Output { accepted, reason: "why".into(), clauses: Vec::new() };
        for (accepted, approval, expected) in [
            (true, Approval::Automatic, ApprovalState::Approved),
            (true, Approval::Manual, ApprovalState::Pending),
            (false, Approval::Automatic, ApprovalState::Rejected),
            (false, Approval::Manual, ApprovalState::Rejected),
        ] {
            assert_eq!(decide(&gate(accepted), approval).0, expected);
        }
    }
}
