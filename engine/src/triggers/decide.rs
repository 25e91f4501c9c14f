//! Decides whether a trigger fires. Pure: the same trigger, facts, history and standing give the same verdict.

use std::borrow::Cow;

use meterline_schemas::Micros;
use meterline_schemas::config::CatchUp;
use meterline_schemas::facts::{FactValue, FactValues};
use meterline_schemas::time::{HOUR, SECOND, Span, format_micros};
use serde::Serialize;

use super::compiled::CompiledTrigger;
use super::predicate::PredicateError;
use super::words::{tell_all, word};
use crate::metadata::records::{ClauseTruth, Due, Published, Standing, Started, Truth};

/// Pause after the first failure; each further one in a row doubles it.
const BACK_OFF: Micros = 30 * SECOND;
/// Longest pause after a failure.
const BACK_OFF_MAX: Micros = HOUR;

/// What earlier runs of this pipeline for this group mean for the next one. Instants are stream time, but for a
/// failure: what it waits for (a disk, a device, a store) comes back by the clock, whether or not readings come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunHistory {
    /// Run that is queued or running.
    pub active: Option<String>,
    /// Whether that one waits for a slot.
    pub queued: bool,
    /// The latest origin of a run that succeeded or was cancelled. A failed one leaves its cause open.
    pub last_origin: Option<Micros>,
    /// The newest run that succeeded or was cancelled. Names of runs are in the order in which they were asked for.
    pub last_done: Option<String>,
    /// Intervals that came since, or were corrected, but end at or before that origin.
    pub stragglers: i64,
    /// Forecasts alone: another model serves than the one that made the last forecast.
    pub champion_is_new: bool,
    /// Corrections alone: the forecasts that there are to correct.
    pub published: Option<Published>,
    /// Set if the newest run that has ended failed.
    pub failed: Option<Failed>,
}

impl RunHistory {
    /// Which run is under way, in words.
    pub fn under_way(&self) -> Option<String> {
        let run = self.active.as_ref()?;
        Some(match self.queued {
            true => format!("run {run} waits for a slot, because others have them (`meterline runs list` shows which)"),
            false => format!("run {run} is under way"),
        })
    }
}

/// A failure that nothing has made good yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// The newest run that failed.
    pub run_id: String,
    /// Runs that failed since the last success, 1 or more.
    pub in_row: u32,
    /// When the newest of them ended, by the clock.
    pub at: Micros,
}

impl Failed {
    /// When the next run may start, by the clock: 30 s after the first failure, then 1, 2, … 60 minutes.
    pub fn retry_at(&self) -> Micros {
        let doublings = self.in_row.saturating_sub(1).min(16);
        self.at.saturating_add((BACK_OFF << doublings).min(BACK_OFF_MAX))
    }
}

/// When a trigger is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Stream time: end of the group's last closed interval.
    pub origin: Micros,
    /// Stream time: the group's watermark.
    pub stream: Micros,
    /// The clock, which only the pause after a failure goes by.
    pub now: Micros,
    /// Whether nobody looked for a while: the first evaluation after a start, or after a pause.
    pub resumed: bool,
    /// Runs of this pipeline that are under way among the groups of the policy.
    pub running: usize,
}

/// What keeps a run from starting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Blocker {
    /// What it is: `when`, `hold_for`, `pause`, `require`, `run`, `same_data`, `cooldown`, `failure`, `schedule`,
    /// `jitter`, `blackout`, `max_concurrent`, `published`, `max_runs` or `catch_up`.
    pub kind: &'static str,
    /// In words.
    pub told: String,
    /// When it ends.
    pub until: Until,
}

/// When a blocker ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// When the stream has come so far.
    Stream(Micros),
    /// At this time by the clock.
    Clock(Micros),
    /// When another run ends.
    Run,
    /// When a fact changes.
    Facts,
    /// When somebody changes the configuration.
    Operator,
}

/// What a trigger decided, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Whether a run starts.
    pub fired: bool,
    /// The origin of that run.
    pub origin: Micros,
    /// One sentence.
    pub reason: String,
    /// Every part with its truth.
    pub clauses: Vec<ClauseTruth>,
    /// All that keeps the run from starting.
    pub blockers: Vec<Blocker>,
    /// The facts that it looked at, where they are others than those that it was given: intervals that do not count were left
    /// out, or they are those of an earlier interval.
    pub facts: Option<FactValues>,
}

/// Decides at a moment. A run starts if something is due and nothing blocks it. Due is what became true: `when`, without a
/// break for `hold_for`, or that `max_age` has passed since the last run; it stays due until a run has seen it.
///
/// With `catch_up = "all"` each interval since the last decision is looked at as if the stream had just reached it.
///
/// # Errors
///
/// [`PredicateError::Evaluate`].
pub fn decide(
    trigger: &CompiledTrigger,
    facts: &FactValues,
    history: &RunHistory,
    standing: &Standing,
    moment: Moment,
) -> Result<(Verdict, Standing), PredicateError> {
    if trigger.catch_up != CatchUp::All {
        return decide_once(trigger, Cow::Borrowed(facts), history, standing, moment);
    }
    // What a run under way will have seen is not known yet: the intervals after it wait for its end.
    if history.active.is_some() {
        let (verdict, _) = decide_once(trigger, Cow::Borrowed(facts), history, standing, moment)?;
        return Ok((verdict, standing.clone()));
    }
    let mut standing = standing.clone();
    let (require_now, _) = trigger.require(facts)?;
    for _ in 0..INTERVALS_AT_ONCE {
        // Without an interval that was looked at there is the newest alone.
        let at = standing.looked_at.max(history.last_origin).filter(|at| *at < moment.origin);
        let then = at.map_or(moment.origin, |at| trigger.frequency.advance(at, 1, &trigger.zone).min(moment.origin));
        let is_newest = then == moment.origin;
        let facts = match is_newest {
            true => Cow::Borrowed(facts),
            false => Cow::Owned(as_of(facts, trigger, history, moment.origin, then)),
        };
        let step = if is_newest { moment } else { Moment { origin: then, stream: then, ..moment } };
        let (verdict, after) = decide_once(trigger, facts, history, &standing, step)?;
        // What is due and waits for more than time waits at its interval: the next ones are causes of their own. A
        // requirement that holds by now was a matter of time.
        let by_time = |blocker: &Blocker| {
            let required = blocker.kind == "require" && require_now == Truth::True;
            required || matches!(blocker.until, Until::Stream(_))
        };
        let waits = after.due.is_some() && !verdict.blockers.iter().all(by_time);
        let looked_at = match (verdict.fired, waits) {
            (true, _) => Some(verdict.origin),
            (false, true) => at.or(standing.looked_at).or(Some(trigger.frequency.advance(then, -1, &trigger.zone))),
            (false, false) => Some(then),
        };
        standing = Standing { looked_at, ..after };
        if verdict.fired || waits || is_newest {
            return Ok((verdict, standing));
        }
    }
    // The rest is left to the next evaluation.
    let (verdict, _) = decide_once(trigger, Cow::Borrowed(facts), history, &standing, moment)?;
    let told = "more intervals are looked at in the next evaluation".to_owned();
    let blockers = vec![Blocker { kind: "catch_up", told: told.clone(), until: Until::Facts }];
    Ok((Verdict { fired: false, reason: told, blockers, ..verdict }, standing))
}

/// Intervals that are looked at in one evaluation; more of them are left to the next.
const INTERVALS_AT_ONCE: usize = 5_000;

fn decide_once(
    trigger: &CompiledTrigger,
    mut facts: Cow<'_, FactValues>,
    history: &RunHistory,
    standing: &Standing,
    moment: Moment,
) -> Result<(Verdict, Standing), PredicateError> {
    let Moment { origin, stream, .. } = moment;
    let mut standing = settled(standing, trigger, history, stream);
    skip(&mut facts, trigger, &standing, origin);
    let (mut when, mut clauses) = trigger.when(&facts)?;
    if moment.resumed && trigger.catch_up == CatchUp::Skip {
        if when == Truth::True && standing.true_since.is_none() && standing.due.is_none() && history.last_done.is_some()
        {
            standing.skipped_to = Some(origin);
            skip(&mut facts, trigger, &standing, origin);
            (when, clauses) = trigger.when(&facts)?;
        }
        standing.seen = None;
        if let Some(due) = &mut standing.due {
            due.from = starts_from(trigger, None, stream);
        }
    }
    let (require, required) = trigger.require(&facts)?;
    let told_when = tell_all(&clauses, &facts);
    let told_required = tell_all(&required, &facts);
    note_truth(&mut standing, when, &clauses, history, stream);
    clauses.extend(required);

    let held_until = standing.true_since.map(|since| trigger.after(trigger.hold_for, since));
    let held = held_until.is_some_and(|until| stream >= until);
    let since_last = history.last_origin.map(|last| Span((origin - last).max(0)));
    let aged = trigger.max_age.zip(history.last_origin).is_some_and(|(age, last)| origin >= trigger.after(age, last));
    if !trigger.hold_for.is_zero() {
        clauses.push(clause("hold_for", format!("`when` has been true for {}", trigger.hold_for), held));
    }
    if let Some(age) = trigger.max_age {
        clauses.push(clause("max_age", format!("{age} have passed since the last run"), aged));
    }
    if standing.due.is_none() {
        let ready = history.active.is_none();
        let why = match (held && (ready || standing.risen), aged && ready) {
            (true, _) => Some(told_when.clone()),
            (false, true) => {
                Some(format!("the last run is {} old, max_age is reached", since_last.unwrap_or_default()))
            }
            (false, false) => None,
        };
        standing.due = why.map(|why| Due {
            from: starts_from(trigger, standing.seen, stream),
            origin,
            after: history.active.clone().max(history.last_done.clone()),
            why,
        });
    }
    if trigger.schedule.is_some() {
        standing.seen = Some(stream);
    }
    if trigger.paused && trigger.catch_up == CatchUp::Skip {
        standing = Standing { due: None, skipped_to: Some(origin), ..standing };
    }

    let looked = Looked { when, require, held_until, told_when: &told_when, told_required: &told_required };
    let blockers = blockers(trigger, history, &standing, moment, &looked, &mut clauses);
    let fired = blockers.is_empty();
    let reason = match &standing.due {
        _ if !fired => blockers.iter().map(|blocker| blocker.told.as_str()).collect::<Vec<_>>().join("; "),
        Some(due) if when != Truth::True => format!("since {}: {}", format_micros(due.origin), due.why),
        _ => told_when,
    };
    // What failed at an interval is repeated there, where each has a run of its own.
    let at = match (&standing.due, trigger.catch_up) {
        (Some(due), CatchUp::All) if history.failed.is_some() => {
            due.origin.max(history.last_origin.unwrap_or(Micros::MIN)).min(origin)
        }
        _ => origin,
    };
    let facts = match facts {
        Cow::Borrowed(_) => None,
        Cow::Owned(facts) => Some(facts),
    };
    Ok((Verdict { fired, origin: at, reason, clauses, blockers, facts }, standing))
}

/// What an evaluation has found of the predicates.
struct Looked<'a> {
    when: Truth,
    require: Truth,
    // Until when `when` must stay true.
    held_until: Option<Micros>,
    told_when: &'a str,
    told_required: &'a str,
}

// All that keeps a run from starting; what was looked at for that is added to the clauses.
fn blockers(
    trigger: &CompiledTrigger,
    history: &RunHistory,
    standing: &Standing,
    moment: Moment,
    looked: &Looked<'_>,
    clauses: &mut Vec<ClauseTruth>,
) -> Vec<Blocker> {
    let Moment { origin, stream, .. } = moment;
    let Looked { when, require, held_until, told_when, told_required } = *looked;
    let since_last = history.last_origin.map(|last| Span((origin - last).max(0)));
    let mut blockers = Vec::new();
    let mut block = |kind, told, until| blockers.push(Blocker { kind, told, until });
    if trigger.paused {
        block("pause", "it is paused in the configuration (pause = true)".to_owned(), Until::Operator);
    }
    match (&standing.due, held_until) {
        (Some(_), _) => {}
        (None, Some(until)) if stream < until => {
            let told = format!("`when` is true, and must be so until {}: {told_when}", format_micros(until));
            block("hold_for", told, Until::Stream(until));
        }
        // It is true, and what the run under way was started for; or it is skipped, because the trigger is paused.
        (None, Some(_)) => {
            if let Some(run) = history.under_way() {
                block("run", format!("{run}; the condition is looked at again when it ends"), Until::Run);
            }
        }
        (None, None) => block("when", format!("`when` is {}: {told_when}", word(when)), Until::Facts),
    }
    if require != Truth::True {
        block("require", format!("`require` is {}: {told_required}", word(require)), Until::Facts);
    }
    let cooled_at = history.last_origin.map(|last| trigger.after(trigger.cooldown, last));
    let cooled = cooled_at.is_none_or(|at| origin >= at);
    if !trigger.cooldown.is_zero() {
        clauses.push(clause("cooldown", format!("{} have passed since the last run", trigger.cooldown), cooled));
    }
    if let Some(due) = &standing.due {
        if let Some(run) = history.under_way() {
            block("run", format!("{run}; the condition is looked at again when it ends"), Until::Run);
        }
        if since_last == Some(Span(0)) && history.stragglers == 0 && !history.champion_is_new {
            block("same_data", "the last run saw the same data".to_owned(), Until::Facts);
        }
        if let Some((at, since)) = cooled_at.zip(since_last).filter(|_| !cooled) {
            let told = format!("cools down: {since} of {} since the last run", trigger.cooldown);
            block("cooldown", told, Until::Stream(at));
        }
        if let Some(failed) = history.failed.as_ref().filter(|failed| moment.now < failed.retry_at()) {
            let runs = match failed.in_row {
                1 => "the last run failed".to_owned(),
                k => format!("{k} runs failed in a row"),
            };
            let told = format!("{runs}: the next one waits until {}", format_micros(failed.retry_at()));
            block("failure", told, Until::Clock(failed.retry_at()));
        }
        let open = stream >= due.from;
        if let Some((cron, _)) = &trigger.schedule {
            clauses.push(clause("schedule", format!("a tick of {cron} has come since it is due"), open));
        }
        if !open {
            let kind = if trigger.schedule.is_some() { "schedule" } else { "jitter" };
            block(kind, format!("it is due, and waits for {}", format_micros(due.from)), Until::Stream(due.from));
        }
    }
    if let Some((window, end)) = trigger.blackout(stream) {
        clauses.push(clause("blackout", format!("outside of the window {window}"), false));
        let told = format!("no run starts in the window {window}, until {}", format_micros(end));
        block("blackout", told, Until::Stream(end));
    } else if !trigger.blackouts.is_empty() {
        clauses.push(clause("blackout", "outside of all windows".to_owned(), true));
    }
    if let Some(most) = trigger.max_concurrent {
        let free = moment.running < most;
        clauses.push(clause("max_concurrent", format!("fewer than {most} runs are under way"), free));
        if !free && history.active.is_none() {
            let told = format!("{} runs of the policy are under way, of {most} (max_concurrent)", moment.running);
            block("max_concurrent", told, Until::Run);
        }
    }
    if trigger.corrects && history.published.is_none() {
        block("published", "there are no forecasts to correct yet".to_owned(), Until::Run);
    }
    if let Some((most, published)) = trigger.max_runs.zip(history.published.as_ref()) {
        let free = published.corrections < most;
        clauses.push(clause("max_runs", format!("fewer than {most} runs since the last of all series"), free));
        if !free {
            let told = format!("{} runs have corrected these forecasts, of {most} (max_runs)", published.corrections);
            block("max_runs", told, Until::Run);
        }
    }

    blockers
}

// What runs that have ended since mean for what is due.
fn settled(standing: &Standing, trigger: &CompiledTrigger, history: &RunHistory, stream: Micros) -> Standing {
    let mut standing = match standing.causes == trigger.causes {
        true => standing.clone(),
        false => Standing {
            causes: trigger.causes.clone(),
            true_since: None,
            true_clauses: Vec::new(),
            risen: false,
            due: None,
            started: None,
            ..standing.clone()
        },
    };
    // By another schedule it waits for another tick.
    if standing.waits != trigger.waits {
        standing.waits.clone_from(&trigger.waits);
        standing.seen = None;
        let from = starts_from(trigger, None, stream);
        let dues = standing.due.iter_mut().chain(standing.started.iter_mut().map(|started| &mut started.due));
        dues.for_each(|due| due.from = from);
    }
    // While any run is under way it is not known what becomes of it.
    if history.active.is_none()
        && let Some(Started { run_id, due }) = standing.started.take()
    {
        let is_done = history.last_done.as_ref().is_some_and(|done| *done >= run_id);
        if !(is_done && history.last_origin.is_some_and(|last| last >= due.origin)) {
            standing.due = Some(due);
        }
    }
    // A run settles what was due when it was asked for, whoever asked for it.
    let seen = |due: &Due| history.last_done > due.after && history.last_origin.is_some_and(|last| last >= due.origin);
    if standing.due.as_ref().is_some_and(seen) {
        standing.due = None;
    }
    standing
}

// What becomes true while a run is under way was not its cause: it is due when the run ends.
fn note_truth(standing: &mut Standing, when: Truth, clauses: &[ClauseTruth], history: &RunHistory, stream: Micros) {
    let is_true = when == Truth::True;
    let true_clauses: Vec<String> =
        clauses.iter().filter(|clause| clause.truth == Truth::True).map(|clause| clause.clause.clone()).collect();
    let rises = is_true && true_clauses.iter().any(|clause| !standing.true_clauses.contains(clause));
    standing.risen = history.active.is_some() && is_true && (standing.risen || rises);
    standing.true_since = is_true.then(|| standing.true_since.unwrap_or(stream));
    standing.true_clauses = true_clauses;
}

// From when on what becomes due now may start a run: the first tick that nobody has seen yet, and the group's delay.
fn starts_from(trigger: &CompiledTrigger, seen: Option<Micros>, stream: Micros) -> Micros {
    let tick = trigger.schedule.as_ref().map_or(Some(stream), |(_, schedule)| match seen {
        Some(seen) => schedule.next_after(seen),
        None => schedule.next_from(stream),
    });
    // Beyond the end of time there is no tick.
    tick.map_or(Micros::MAX, |tick| tick.saturating_add(trigger.delay))
}

// Intervals up to `skipped_to` do not count.
fn skip(facts: &mut Cow<'_, FactValues>, trigger: &CompiledTrigger, standing: &Standing, origin: Micros) {
    let Some(from) = standing.skipped_to.filter(|from| *from <= origin) else { return };
    let steps = trigger.frequency.steps_between(from, origin, &trigger.zone);
    at_most(facts, "new_intervals", FactValue::Integer(steps));
    let hours = (origin - from) as f64 / HOUR as f64;
    at_most(facts, "hours_since_run", FactValue::Number(hours));
}

fn at_most(facts: &mut Cow<'_, FactValues>, name: &str, most: FactValue) {
    if facts.get(name).and_then(FactValue::as_f64) > most.as_f64() {
        facts.to_mut().set(name, Some(most));
    }
}

/// The facts as they were when the group's origin was `then`, or will be, as far as time alone changes them.
pub(super) fn as_of(
    facts: &FactValues,
    trigger: &CompiledTrigger,
    history: &RunHistory,
    origin: Micros,
    then: Micros,
) -> FactValues {
    let steps = |from: Micros, to: Micros| trigger.frequency.steps_between(from, to, &trigger.zone);
    let moved = steps(origin, then);
    let mut facts = facts.clone();
    for name in ["new_intervals", "history_intervals", "champion_age_intervals"] {
        if let Some(count) = facts.get(name).and_then(FactValue::as_i64) {
            facts.set(name, Some(FactValue::Integer((count + moved).max(0))));
        }
    }
    if let Some(last) = history.last_origin.filter(|_| history.active.is_none()) {
        facts.set("new_intervals", Some(FactValue::Integer(steps(last, then).max(0))));
    }
    if let Some(hours) = facts.get("hours_since_run").and_then(FactValue::as_f64) {
        let hours = hours + (then - origin) as f64 / HOUR as f64;
        facts.set("hours_since_run", Some(FactValue::Number(hours.max(0.0))));
    }
    facts
}

fn clause(part: &str, text: String, holds: bool) -> ClauseTruth {
    let truth = if holds { Truth::True } else { Truth::False };
    ClauseTruth { part: part.to_owned(), name: None, clause: text, truth }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
