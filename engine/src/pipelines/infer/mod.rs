//! load ▸ context ▸ predict ▸ guard ▸ reconcile ▸ publish. A [correction](super::correct) has the same steps after one of
//! its own.
//!
//! Every series is forecast from its own last closed interval, in one batch. Where the model has no forecast, or one
//! that fails a check, seasonal naive stands in and the rows say so. Then forecasts of roll-ups are made to agree with
//! those of their parts.

pub mod backcast;
pub mod context;
pub mod guard;
pub mod load;
pub mod predict;
pub mod publish;
pub mod reconcile;

use meterline_models::data::Panel;
use meterline_models::forecaster::{Forecaster, NoForecast, SeriesForecast};
use meterline_models::forecasters::guarded::baseline;
use serde_json::Value;

use super::context::{Inputs, StepContext};
use super::correct;
use super::error::StepError;

/// Executes the step that `ctx` names.
pub(super) async fn execute(ctx: &StepContext, inputs: &Inputs) -> Result<Value, StepError> {
    match ctx.step {
        "find" => correct::find::execute(ctx).await,
        "load" => load::execute(ctx).await,
        "context" => context::execute(ctx, inputs).await,
        "predict" => predict::execute(ctx, inputs).await,
        "guard" => guard::execute(ctx, inputs).await,
        "reconcile" => reconcile::execute(ctx, inputs).await,
        "publish" => publish::execute(ctx, inputs).await,
        other => Err(StepError::failed("executing an infer run", format!("it has no step `{other}`"))),
    }
}

/// Seasonal naive for the series of `panel` at the places `of`, in their order.
fn seasonal_naive(panel: &Panel, of: &[usize], horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
    if of.is_empty() {
        return Vec::new();
    }
    let part = panel.with(of.iter().filter_map(|i| panel.series.get(*i)).cloned().collect());
    baseline(panel.frequency).forecast(&part, horizon)
}
