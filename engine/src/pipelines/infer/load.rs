//! Finds the group's champion.

use meterline_schemas::Micros;
use meterline_schemas::time::format_micros;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::metadata::records::{ApprovalState, ModelRecord};
use crate::pipelines::SEASONAL_NAIVE;
use crate::pipelines::context::{StepContext, output};
use crate::pipelines::error::{Doing, StepError};

/// What the step found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Version of the champion, or `seasonal_naive` while there is none.
    pub model_version: String,
    /// Path of its weights below the lake's root.
    pub artifact: Option<String>,
}

/// Executes the step.
pub async fn execute(ctx: &StepContext) -> Result<Value, StepError> {
    let (group, origin) = (&ctx.spec.group_id, ctx.spec.origin);
    let models = ctx.env.metadata.models().await.doing(|| format!("finding the champion of {group}"))?;
    let found = match champion_at(&models, group, origin) {
        Some(record) => {
            ctx.info(format!("{} ({}) serves {group}", record.version, record.forecaster));
            Output { model_version: record.version.clone(), artifact: Some(record.artifact.clone()) }
        }
        None => {
            let until = format_micros(origin);
            ctx.info(format!(
                "{group} has no approved model that was trained before {until}; seasonal naive stands in"
            ));
            Output { model_version: SEASONAL_NAIVE.to_owned(), artifact: None }
        }
    };
    output(&found)
}

/// The newest approved version of the group that knows nothing from after `origin`. For a run from now on that is the
/// champion; one from an earlier origin must not be given a model that has seen what came after it.
fn champion_at<'a>(models: &'a [ModelRecord], group: &str, origin: Micros) -> Option<&'a ModelRecord> {
    models
        .iter()
        .filter(|m| m.group_id == group && m.approval == ApprovalState::Approved && m.trained_until <= origin)
        .max_by(|a, b| a.version.cmp(&b.version))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(version: &str, group: &str, trained_until: Micros, approval: ApprovalState) -> ModelRecord {
        ModelRecord {
            version: version.into(),
            group_id: group.into(),
            run_id: version.into(),
            forecaster: "quantile_mlp".into(),
            artifact: String::new(),
            metrics: serde_json::Map::new(),
            trained_until,
            intervals_version: 0,
            approval,
            approval_reason: String::new(),
            created_at: trained_until,
        }
    }

    #[test]
    fn no_model_forecasts_from_before_what_it_was_trained_on() {
        use ApprovalState::{Approved, Pending, Rejected};
        let models = [
            model("a-1", "a", 10, Approved),
            model("a-2", "a", 20, Approved),
            model("a-3", "a", 30, Rejected),
            model("a-4", "a", 40, Pending),
            model("b-1", "b", 50, Approved),
        ];
        for (origin, expected) in
            [(5, None), (10, Some("a-1")), (19, Some("a-1")), (20, Some("a-2")), (99, Some("a-2"))]
        {
            assert_eq!(champion_at(&models, "a", origin).map(|m| m.version.as_str()), expected, "{origin}");
        }
    }
}
