//! Makes the candidate a model version: approved, waiting for a person, or rejected with the reason.

use meterline_schemas::config::Approval;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{evaluate, gate, train, trained_until};
use crate::metadata::records::{ApprovalState, ModelRecord};
use crate::pipelines::context::{Inputs, StepContext, output};
use crate::pipelines::error::{Doing, StepError};
use crate::pipelines::recorder::now;
use crate::pipelines::{artifacts, covariates};

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
    let doing = || format!("registering the model of {}", spec.group_id);
    let weights = artifacts::get(&ctx.env.lake, &trained.weights).await?;
    let explanation = match &trained.explanation {
        Some(path) => serde_json::from_slice(&artifacts::get(&ctx.env.lake, path).await?).doing(doing)?,
        // An earlier release trained it.
        None => Vec::new(),
    };
    let metrics = evaluated.figures.iter().map(|(name, value)| (name.clone(), Value::from(*value))).collect();
    let version = metadata.next_model_version(&spec.group_id).await.doing(doing)?;
    let artifact = format!("models/{version}/weights");
    artifacts::put(&ctx.env.lake, &artifact, weights).await?;
    let record = ModelRecord {
        version,
        group_id: spec.group_id.clone(),
        run_id: spec.run_id.clone(),
        forecaster: trained.forecaster.clone(),
        artifact,
        covariates: covariates::of(&spec.covariates),
        labels: spec.policy.labels.clone(),
        metrics,
        trained_until: trained_until(spec, &ctx.zone()?),
        intervals_version: spec.intervals_version,
        approval,
        approval_reason: reason,
        created_at: now(),
    };
    metadata.register_model(&record, &explanation).await.doing(doing)?;
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
