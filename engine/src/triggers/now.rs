//! How a trigger stands now, for those who ask; nothing is started or kept.

use meterline_schemas::Micros;
use meterline_schemas::config::ResolvedPolicy;

use super::compiled::CompiledTrigger;
use super::decide::{Moment, Verdict, decide};
use super::facts::GroupFacts;
use super::next::{Earliest, earliest};
use super::predicate::PredicateError;
use super::trigger_of;
use crate::metadata::records::{Pipeline, RunRecord, Standing};

/// Runs of a pipeline that are under way among the groups that share a policy: what `max_concurrent` counts.
pub fn running(active: &[RunRecord], pipeline: Pipeline, shared: &str) -> usize {
    active.iter().filter(|run| run.spec.pipeline == pipeline && run.spec.policy.shared() == shared).count()
}

/// What would be decided now by `policy`, and when a run could start next. `standing` is what evaluations have left, and
/// `active` are the runs under way of all groups.
///
/// # Errors
///
/// [`PredicateError`].
pub fn look(
    of: &GroupFacts,
    policy: &ResolvedPolicy,
    standing: &Standing,
    active: &[RunRecord],
    now: Micros,
) -> Result<(Verdict, Earliest), PredicateError> {
    let (group, facts, history) = (&of.group, &of.facts.values, &of.history);
    let trigger = CompiledTrigger::of(trigger_of(policy, of.pipeline), of.pipeline, group)?;
    let running = running(active, of.pipeline, policy.shared());
    let moment = Moment { origin: group.origin, stream: group.watermark, now, resumed: false, running };
    let (verdict, standing) = decide(&trigger, facts, history, standing, moment)?;
    let next = earliest(&trigger, facts, history, &standing, moment, &verdict)?;
    Ok((verdict, next))
}
