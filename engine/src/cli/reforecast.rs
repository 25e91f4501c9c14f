//! `meterline reforecast`: forecasts every series now, whatever the triggers say.

use super::{CommandResult, Context};
use crate::metadata::records::Pipeline;

/// Arguments of `meterline reforecast`.
pub type Args = super::retrain::Args;

/// Forecasts one or all groups and waits for it.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    super::retrain::start(args, Pipeline::Infer, context).await
}
