//! Finds the group's champion.

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    let group = &ctx.spec.group_id;
    let champion = ctx.env.metadata.champion(group).await.doing(|| format!("finding the champion of {group}"))?;
    let found = match champion {
        Some(record) => {
            ctx.info(format!("{} ({}) serves {group}", record.version, record.forecaster));
            Output { model_version: record.version, artifact: Some(record.artifact) }
        }
        None => {
            ctx.info(format!("{group} has no approved model yet; seasonal naive stands in"));
            Output { model_version: SEASONAL_NAIVE.to_owned(), artifact: None }
        }
    };
    output(&found)
}
