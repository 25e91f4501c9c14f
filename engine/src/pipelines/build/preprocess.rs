//! Reads the group's history at the pinned table version onto a regular grid.

use meterline_models::plausible::Hidden;
use meterline_schemas::time::format_micros;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{evaluated, trained_until};
use crate::pipelines::context::{StepContext, output};
use crate::pipelines::error::StepError;
use crate::pipelines::history::Of;
use crate::pipelines::{artifacts, covariates, history, labels, members};

/// What the step produced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Path of the dataset below the lake's root.
    pub dataset: String,
    /// Series in it.
    pub series: usize,
    /// Series that were left out because they have no complete training window.
    pub dropped: usize,
    /// Intervals that are there, over all series.
    pub intervals: usize,
    /// Share of the grid that is missing, 0 to 1.
    pub missing_share: f64,
    /// First instant of the history that was asked for.
    pub from: String,
    /// End of the last interval that training may know.
    pub trained_until: String,
    /// The origin.
    pub until: String,
}

/// Executes the step.
pub async fn execute(ctx: &StepContext) -> Result<Value, StepError> {
    let spec = &ctx.spec;
    let zone = ctx.zone()?;
    let policy = &spec.policy;
    // What is trained on, and what evaluation shows the models, where that is more.
    let length = history::trained(spec, &zone).max(evaluated(policy));
    let from = spec.frequency.advance(spec.origin, -(length as i64), &zone);
    let until = trained_until(spec, &zone);
    let members = members::of_run(ctx).await?;
    let mut found = history::read(ctx, from, spec.origin, Of::Group(&members)).await?;
    let all = found.panel.series.len();
    let window = (policy.context + policy.horizon) as i64;
    let dropped = found.retain(|s| spec.frequency.steps_between(s.start, until, &zone) >= window);
    let series = found.panel.series.len();
    if series == 0 {
        return Err(StepError::failed(
            format!("preparing the training data of {} as of {}", spec.group_id, format_micros(spec.origin)),
            format!(
                "none of {all} series has the {window} intervals before {} that one training window (context and \
                 horizon) needs; wait for more history, backfill it, or shorten the policy's context, horizon or \
                 evaluate_windows",
                format_micros(until)
            ),
        ));
    }
    let (found, without) = covariates::attach(ctx, found).await?;
    if let Some(name) = without.first() {
        return Err(StepError::failed(
            format!("preparing the covariate `{name}` of {}", spec.group_id),
            format!(
                "it has no value between {} and {}, so nothing can be learned of it; correct covariate.{name}, or take it \
                 out of the policy's covariates",
                format_micros(from),
                format_micros(spec.origin)
            ),
        ));
    }
    let (found, without) = labels::attach(ctx, found).await?;
    if let Some(name) = without.first() {
        return Err(labels::refuse(ctx, name));
    }
    let grid: usize = found.panel.series.iter().map(|s| s.values.len()).sum();
    let intervals = found.intervals();
    let (bytes, hidden) =
        ctx.blocking(move || Ok((artifacts::history_to_parquet(&found)?, Hidden::of(&found.panel)))).await?;
    ctx.tell_hidden(&hidden);
    let dataset = ctx.artifact("dataset.parquet");
    let size = bytes.len();
    artifacts::put(&ctx.env.lake, &dataset, bytes).await?;
    ctx.info(format!(
        "{series} series with {intervals} intervals ({size} bytes) from {} to {}; {dropped} series with less than \
         {window} intervals left out; training ends at {}",
        format_micros(from),
        format_micros(spec.origin),
        format_micros(until)
    ));
    output(&Output {
        dataset,
        series,
        dropped,
        intervals,
        missing_share: 1.0 - intervals as f64 / grid.max(1) as f64,
        from: format_micros(from),
        trained_until: format_micros(until),
        until: format_micros(spec.origin),
    })
}
