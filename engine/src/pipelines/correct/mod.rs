//! find ▸ load ▸ context ▸ predict ▸ guard ▸ reconcile ▸ publish, of some series.
//!
//! Forecasts that are in force were made from intervals some of which have been corrected since. A correction forecasts
//! the series that this concerns again, from the same origin, and with them the roll-ups above them, which become the sums
//! of their parts: of what was forecast again, and of what stays in force. Nothing else is touched, and what is superseded
//! stays in the table.
//!
//! * [`find`]: which series those are;
//! * [`in_force`]: the forecasts of the others, where a roll-up needs them.
//!
//! The other steps are those of [`infer`](super::infer).

pub mod find;
pub mod in_force;
#[cfg(test)]
mod tests;

use super::context::StepContext;
use super::error::StepError;
use crate::metadata::records::Published;

/// The forecasts that a run corrects.
pub(super) fn published(ctx: &StepContext) -> Result<&Published, StepError> {
    ctx.spec.published.as_ref().ok_or_else(|| {
        StepError::failed(
            "correcting forecasts",
            "the run does not say which; `meterline reforecast` forecasts all series of the group anew",
        )
    })
}
