//! When a trigger could start its next run, as far as that can be known. Pure.

use meterline_schemas::Micros;
use meterline_schemas::facts::FactValues;
use meterline_schemas::time::format_micros;
use serde::Serialize;

use super::compiled::CompiledTrigger;
use super::decide::{Blocker, Moment, RunHistory, Until, Verdict, as_of, decide};
use super::predicate::PredicateError;
use crate::metadata::records::{Standing, Truth};

/// Furthest ahead that is looked, in native intervals.
const AHEAD_MAX: i64 = 1 << 20;

/// The earliest start of the next run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "at", rename_all = "snake_case")]
pub enum Earliest {
    /// At once.
    Now,
    /// When the stream has come so far, if nothing else has changed by then.
    Stream(Micros),
    /// At this time by the clock.
    Clock(Micros),
    /// When this has changed, in words.
    Once(String),
}

impl Earliest {
    /// In words.
    pub fn told(&self) -> String {
        match self {
            Earliest::Now => "now".to_owned(),
            Earliest::Stream(at) => format!("when the readings reach {}", format_micros(*at)),
            Earliest::Clock(at) => format!("at {}", format_micros(*at)),
            Earliest::Once(what) => what.clone(),
        }
    }
}

/// When the trigger could start its next run, given what was decided at `moment`. What time alone changes (counts of
/// intervals, ages, schedules, windows) is looked ahead at; all else is taken to stay as it is.
///
/// # Errors
///
/// [`PredicateError::Evaluate`].
pub fn earliest(
    trigger: &CompiledTrigger,
    facts: &FactValues,
    history: &RunHistory,
    standing: &Standing,
    moment: Moment,
    verdict: &Verdict,
) -> Result<Earliest, PredicateError> {
    if verdict.fired {
        return Ok(Earliest::Now);
    }
    let blocked = |until: fn(&Until) -> bool| verdict.blockers.iter().find(|blocker| until(&blocker.until));
    if let Some(Blocker { told, .. }) = blocked(|until| *until == Until::Operator) {
        return Ok(Earliest::Once(format!("once somebody changes the configuration: {told}")));
    }
    // What a run under way will have seen decides what is new after it.
    if let Some(run) = history.under_way() {
        return Ok(Earliest::Once(format!("once a run has ended: {run}")));
    }
    if let Some(Blocker { told, .. }) = blocked(|until| *until == Until::Run) {
        return Ok(Earliest::Once(format!("once a run has ended: {told}")));
    }
    let clock = verdict.blockers.iter().filter_map(|blocker| match blocker.until {
        Until::Clock(at) => Some(at),
        _ => None,
    });
    let clock = clock.max();
    let only_clock = verdict.blockers.iter().all(|blocker| matches!(blocker.until, Until::Clock(_)));
    if let Some(at) = clock.filter(|_| only_clock) {
        return Ok(Earliest::Clock(at));
    }
    // By the time that the stream is further, the clock is, too.
    let later = Moment { now: Micros::MAX, resumed: false, ..moment };
    let Some(steps) = first_true(trigger, facts, history, standing, moment)? else {
        let missing = verdict.blockers.iter().find(|blocker| blocker.until == Until::Facts);
        let told = missing.map_or_else(|| verdict.reason.clone(), |blocker| blocker.told.clone());
        return Ok(Earliest::Once(format!("once that changes: {told}")));
    };
    // From there on it is a matter of time: from one end of what blocks it to the next.
    let mut at = trigger.frequency.advance(moment.origin, steps, &trigger.zone).max(moment.stream);
    let mut standing = standing.clone();
    // What is not due yet becomes so within the last of these intervals: ticks before it are not for it.
    let before = trigger.frequency.advance(moment.origin, (steps - 1).max(0), &trigger.zone);
    standing.seen = standing.seen.max(Some(before).filter(|_| steps > 0 && trigger.schedule.is_some()));
    for _ in 0..100 {
        let origin = trigger.frequency.floor(at, &trigger.zone).max(moment.origin);
        let then = Moment { origin, stream: at, ..later };
        let facts = as_of(facts, trigger, history, moment.origin, then.origin);
        // One interval, not all on the way to it.
        standing.looked_at = Some(then.origin);
        let (verdict, after) = decide(trigger, &facts, history, &standing, then)?;
        standing = after;
        if verdict.fired {
            return Ok(Earliest::Stream(at));
        }
        let until = verdict.blockers.iter().filter_map(|blocker| match blocker.until {
            Until::Stream(until) => Some(until),
            _ => None,
        });
        let next = trigger.frequency.advance(then.origin, 1, &trigger.zone);
        at = until.max().unwrap_or(next).max(at + 1);
        if at == Micros::MAX {
            break;
        }
    }
    Ok(Earliest::Once(format!("once that changes: {}", verdict.reason)))
}

/// After how many more intervals there is a cause whose requirements hold, if time alone can bring that about. It is
/// looked for as if what is true once stayed true, which holds for counts and ages.
fn first_true(
    trigger: &CompiledTrigger,
    facts: &FactValues,
    history: &RunHistory,
    standing: &Standing,
    moment: Moment,
) -> Result<Option<i64>, PredicateError> {
    let is_true = |steps: i64| -> Result<bool, PredicateError> {
        let then = trigger.frequency.advance(moment.origin, steps, &trigger.zone);
        let facts = as_of(facts, trigger, history, moment.origin, then);
        let last = history.last_origin;
        let aged = trigger.max_age.zip(last).is_some_and(|(age, last)| then >= trigger.after(age, last));
        let caused = standing.due.is_some() || aged || trigger.when(&facts)?.0 == Truth::True;
        Ok(caused && trigger.require(&facts)?.0 == Truth::True)
    };
    let mut steps = 1;
    if is_true(0)? {
        return Ok(Some(0));
    }
    while !is_true(steps)? {
        steps *= 2;
        if steps > AHEAD_MAX {
            return Ok(None);
        }
    }
    let (mut not, mut yes) = (steps / 2, steps);
    while yes - not > 1 {
        let middle = not + (yes - not) / 2;
        if is_true(middle)? { yes = middle } else { not = middle }
    }
    Ok(Some(yes))
}

#[cfg(test)]
mod tests {
    use meterline_schemas::time::{HOUR, SECOND};
    use serde_json::json;

    use super::super::testing::{QUARTER, World, configured, every, utc};
    use super::*;

    #[test]
    fn the_earliest_start_is_when_it_starts() {
        for toml in [
            "when = \"new_intervals >= 4\"\nrequire = \"\"\ncooldown = \"0s\"",
            "when = \"new_intervals >= 4 and new_intervals > 17\"\nrequire = \"\"\ncooldown = \"0s\"",
            "when = \"new_intervals >= 4\"\nrequire = \"\"\ncooldown = \"1d\"",
            "when = \"new_intervals >= 4\"\nrequire = \"new_intervals >= 96\"\ncooldown = \"0s\"",
            "when = \"new_intervals >= 4\"\nrequire = \"\"\ncooldown = \"0s\"\nhold_for = \"1h\"",
            "when = \"false\"\nrequire = \"\"\ncooldown = \"0s\"\nmax_age = \"20 intervals\"",
            "when = \"new_intervals >= 4\"\nrequire = \"\"\ncooldown = \"5h\"\nschedule = \"30 */6 * * *\"",
            "when = \"new_intervals >= 4\"\nrequire = \"\"\ncooldown = \"0s\"\njitter = \"5h\"\n\
             blackout = [{ start = \"0 0 * * *\", length = \"15h\" }, { start = \"0 14 * * *\", length = \"3h\" }]",
        ] {
            let mut world = World::at(utc("2026-03-28T00:00:00Z"), configured(toml));
            world.set("completeness", json!(1.0));
            world.origin += QUARTER;
            world.evaluate();
            let Earliest::Stream(expected) = world.earliest() else { panic!("{toml}: {:?}", world.earliest()) };
            let start = world.run_to(utc("2026-04-05T00:00:00Z"))[0];
            // Commits come at each interval: it starts with the first that is not too early.
            assert!(start >= expected && start - expected < QUARTER, "{toml}: {expected} and {start}");
        }
        let mut world = World::at(0, configured("when = \"mase_ratio > 1.25\"\nrequire = \"\""));
        world.origin = HOUR;
        world.evaluate();
        assert!(matches!(world.earliest(), Earliest::Once(told) if told.contains("mase_ratio is missing")));
        let mut world = World::at(0, every(4));
        world.origin = HOUR;
        world.evaluate();
        assert!(matches!(world.earliest(), Earliest::Once(told) if told.contains("once a run has ended")));
        world.end(false);
        world.evaluate();
        assert_eq!(world.earliest(), Earliest::Clock(HOUR + 30 * SECOND));
    }
}
