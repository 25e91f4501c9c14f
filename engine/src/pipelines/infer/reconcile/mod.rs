//! Makes the forecasts of roll-ups agree with those of their parts: the mean of a roll-up is the sum of the means of
//! its parts, for every interval that all of them have in common.
//!
//! * [`hierarchy`]: which series belong to which groups, by the labels that hold at the run's origin;
//! * [`mod@assemble`]: which of them have to add up in this run, and which roll-ups are left as they are, and why;
//! * [`weights`]: how far each forecast is to be trusted;
//! * [`mod@agree`]: the arithmetic, for one set of roll-ups and parts after the other.
//!
//! **What agrees.** Series of one frequency and calendar, which are those of one run: a roll-up of hours has hours as
//! parts. A roll-up that also adds up quarter hours, or meters that a label policy takes, is left as it is, and the levels
//! above it agree with it. Nothing is published that was not forecast in the run.
//!
//! **Corrections.** A run of some series forecasts the roll-ups above them, too, and makes each the sum of its parts: of
//! those that were forecast again, and of the forecasts of the others that are in force, which stay as they are. So the
//! parts decide, whatever the way. A series without a forecast in a run of all series keeps the one of an earlier run;
//! roll-ups that it is a part of are then among those that are left.

pub mod agree;
pub mod assemble;
pub mod hierarchy;
#[cfg(test)]
pub(crate) mod run_tests;
#[cfg(test)]
mod tests;
pub mod weights;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use meterline_connectors::lake::snapshot;
use meterline_models::data::Panel;
use meterline_schemas::config::Reconcile;
use meterline_schemas::tables::INTERVALS;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::agree::{Agreed, Facts, agree};
use self::assemble::{Assembly, Known, Sum, Why, assemble, components};
use self::hierarchy::{Hierarchy, Scope};
use self::weights::{Errors, Weighed};
use super::{backcast, context, guard, predict};
use crate::ingest::{each_member, state_at};
use crate::metadata::records::Pipeline;
use crate::pipelines::artifacts::{self, Prediction};
use crate::pipelines::context::{Inputs, StepContext, output};
use crate::pipelines::correct::{find, in_force};
use crate::pipelines::error::{Doing, StepError};
use crate::pipelines::members;

/// What the step produced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Path of the predictions below the lake's root: those of the step before where nothing had to be done.
    pub predictions: String,
    /// Roll-ups whose means are the sums of their parts' now.
    pub reconciled: usize,
    /// Roll-ups with a forecast that are left as they are, by the reason.
    pub left: BTreeMap<Why, usize>,
    /// Parts that have had no interval for a horizon, and are in no sum.
    pub ended: usize,
    /// Series whose last interval is earlier than that of others that they agree with.
    pub late: usize,
}

/// Whether a run needs past errors to weigh forecasts by.
pub fn weighs_by_errors(ctx: &StepContext) -> bool {
    // What is wrong with the configuration is told by the step itself.
    ctx.spec.pipeline == Pipeline::Infer
        && Scope::new(&ctx.env.config, &ctx.spec).ok().flatten().is_some_and(|scope| scope.weighs_by_errors())
}

/// Executes the step.
pub async fn execute(ctx: &StepContext, inputs: &Inputs) -> Result<Value, StepError> {
    let checked: guard::Output = inputs.get("guard")?;
    let scope = Scope::new(&ctx.env.config, &ctx.spec).doing(|| "reading the roll-ups of the configuration".into())?;
    let Some(scope) = scope else {
        ctx.info(format!("{} has no roll-ups that are to agree with their parts", ctx.spec.group_id));
        let (left, nothing) = (BTreeMap::new(), 0);
        let predictions = checked.predictions;
        return output(&Output { predictions, reconciled: nothing, left, ended: nothing, late: nothing });
    };
    let scope = scope.among(members::of_run(ctx).await?);
    let mut hierarchy = hierarchy(ctx, &scope).await?;
    let mut others = Vec::new();
    if ctx.spec.pipeline == Pipeline::Correct {
        let found: find::Output = inputs.get("find")?;
        let touched: HashSet<&str> = found.series.iter().map(String::as_str).collect();
        hierarchy = hierarchy.of(&touched);
        others = in_force::read(ctx, &hierarchy.but(&touched)).await?;
    }
    let contexts: context::Output = inputs.get("context")?;
    let predicted: predict::Output = inputs.get("predict")?;
    let context = artifacts::get(&ctx.env.lake, &contexts.dataset).await?;
    let predictions = artifacts::get(&ctx.env.lake, &checked.predictions).await?;
    let errors = match &predicted.errors {
        Some(path) => Some(artifacts::get(&ctx.env.lake, path).await?),
        None => None,
    };
    let (spec, zone, stop) = (ctx.spec.clone(), ctx.zone()?, ctx.stop.clone());
    let (parquet, done) = ctx
        .blocking(move || {
            let horizon = spec.policy.horizon;
            let context = artifacts::history_from_parquet(context, spec.frequency, zone.clone())?.panel;
            let mut predictions = artifacts::predictions_from_parquet(predictions)?;
            let own = predictions.len();
            predictions.extend(others);
            let errors = match errors {
                Some(bytes) => {
                    let past = artifacts::history_from_parquet(bytes, spec.frequency, zone.clone())?;
                    Errors::new(past.panel, backcast::origin(&spec, &zone), horizon)
                }
                None => Errors::none(),
            };
            stop.check()?;
            let done = reconcile(&mut predictions, &scope, &hierarchy, &context, &errors, horizon);
            stop.check()?;
            // What is in force stays as it is.
            predictions.truncate(own);
            Ok((artifacts::predictions_to_parquet(&predictions)?, done))
        })
        .await?;
    let path = ctx.artifact("reconciled.parquet");
    artifacts::put(&ctx.env.lake, &path, parquet).await?;
    done.tell(ctx);
    let left = done.assembly.left.into_iter().map(|(why, (count, _))| (why, count)).collect();
    output(&Output {
        predictions: path,
        reconciled: done.reconciled,
        left,
        ended: done.assembly.ended,
        late: done.late,
    })
}

/// The roll-ups above these series that the run's group has, by the labels that hold at its origin, but those that are
/// among them.
pub async fn above(ctx: &StepContext, series: &[String]) -> Result<Vec<String>, StepError> {
    let scope = Scope::new(&ctx.env.config, &ctx.spec).doing(|| "reading the roll-ups of the configuration".into())?;
    let Some(scope) = scope.filter(|_| !series.is_empty()) else { return Ok(Vec::new()) };
    let scope = scope.among(members::of_run(ctx).await?);
    let touched: HashSet<&str> = series.iter().map(String::as_str).collect();
    Ok(hierarchy(ctx, &scope).await?.above(&touched))
}

// Read of the newest commit, as the context is: labels that were said since count for the instant that they are about.
async fn hierarchy(ctx: &StepContext, scope: &Scope) -> Result<Hierarchy, StepError> {
    let doing = || "reading which series belong to which roll-ups".to_owned();
    let mut hierarchy = Hierarchy::default();
    let Some(table) = snapshot(&ctx.env.lake, INTERVALS, None).await.doing(doing)? else { return Ok(hierarchy) };
    let Some(state) = state_at(&ctx.env.lake, &table).await.doing(doing)? else { return Ok(hierarchy) };
    each_member(&ctx.env.lake, &state, |member, _| hierarchy.take(scope, &member)).await.doing(doing)?;
    Ok(hierarchy)
}

/// What was done to the forecasts of a run.
#[derive(Debug, Default)]
pub struct Done {
    /// What had to be done; what failed counts as left.
    pub assembly: Assembly,
    /// Roll-ups that agree with their parts now.
    pub reconciled: usize,
    /// Series that are late.
    pub late: usize,
    // Of sets that failed: why, the first.
    failure: Option<String>,
    gap: f64,
    size: f64,
    // Roll-ups by how they were weighed.
    by_errors: usize,
    by_leaves: usize,
}

/// Makes the forecasts of a run agree. `context` is what they were made from.
pub fn reconcile(
    predictions: &mut [Prediction],
    scope: &Scope,
    hierarchy: &Hierarchy,
    context: &Panel,
    errors: &Errors,
    horizon: usize,
) -> Done {
    let mut done =
        Done { assembly: assemble(hierarchy, &Known::new(predictions, context, horizon)), ..Done::default() };
    let negative: BTreeSet<String> =
        context.series.iter().filter(|series| series.may_be_below_zero()).map(|series| series.id.clone()).collect();
    let facts = Facts { frequency: context.frequency, zone: &context.zone, horizon, negative: &negative, errors };
    // Where the parts decide, they are those that the others have agreed on.
    for way in [Reconcile::MinTrace, Reconcile::BottomUp] {
        let sums: Vec<Sum> = done.assembly.sums.iter().filter(|sum| sum.way == way).cloned().collect();
        for set in components(&sums) {
            let set: Vec<&Sum> = set.into_iter().filter_map(|number| sums.get(number)).collect();
            match agree(predictions, &set, &facts) {
                Ok(agreed) => done.take(set.len(), &agreed),
                Err(reason) => {
                    for sum in set {
                        done.assembly.leave(Why::Failed, &predictions[sum.whole].series_id);
                    }
                    done.failure.get_or_insert(reason);
                }
            }
        }
    }
    for prediction in predictions.iter().filter(|p| scope.makes(&p.series_id)) {
        // Nothing belongs to it any more.
        if !hierarchy.has(&prediction.series_id) {
            done.assembly.leave(Why::NoParts, &prediction.series_id);
        }
    }
    done
}

impl Done {
    fn take(&mut self, rollups: usize, agreed: &Agreed) {
        self.reconciled += rollups;
        self.late += agreed.late;
        self.gap += agreed.gap;
        self.size += agreed.size;
        match agreed.weighed {
            Some(Weighed::ByErrors { .. }) => self.by_errors += rollups,
            Some(Weighed::ByLeaves) => self.by_leaves += rollups,
            None => {}
        }
    }

    fn tell(&self, ctx: &StepContext) {
        let by_parts = self.reconciled - self.by_errors - self.by_leaves;
        ctx.info(format!(
            "{} roll-ups agree with their parts now ({} weighed by past errors, {} by their number of series, {by_parts} \
             by their parts alone); their own forecasts were {:.2} % off",
            self.reconciled,
            self.by_errors,
            self.by_leaves,
            100.0 * self.off().unwrap_or(0.0)
        ));
        if self.late + self.assembly.ended > 0 {
            ctx.info(format!(
                "{} series are late and are taken to go on as a season before; {} parts had no interval for a horizon and \
                 are in no sum",
                self.late, self.assembly.ended
            ));
        }
        for (why, (count, first)) in &self.assembly.left {
            ctx.info(format!(
                "{count} roll-ups keep the forecast of their own, such as {first}: they {}",
                why.in_words()
            ));
        }
        if let Some(reason) = &self.failure {
            ctx.warn(format!("some roll-ups do not agree with their parts; the first, because {reason}"));
        }
        let left: usize = self.assembly.left.values().map(|(count, _)| count).sum();
        ctx.metric("reconciled", self.reconciled as f64);
        ctx.metric("left", left as f64);
        ctx.metric("late", self.late as f64);
        ctx.metric("ended", self.assembly.ended as f64);
        if let Some(off) = self.off() {
            ctx.metric("gap", off);
        }
    }

    // By how much roll-ups differed from their parts, as a share of what they were.
    fn off(&self) -> Option<f64> {
        (self.size > 0.0).then(|| self.gap / self.size)
    }
}
