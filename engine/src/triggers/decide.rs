//! Decides whether a trigger fires. Pure: the same policy, facts and history give the same verdict.

use meterline_schemas::Micros;
use meterline_schemas::config::ResolvedTrigger;
use meterline_schemas::facts::fact_schema;
use meterline_schemas::time::{HOUR, SECOND, Span, format_micros};
use serde_json::{Map, Value};

use super::predicate::{Predicate, PredicateError};
use crate::metadata::records::{ClauseTruth, Truth};

/// A trigger whose predicates are compiled.
#[derive(Debug, Clone)]
pub struct CompiledTrigger {
    when: Predicate,
    require: Option<Predicate>,
    cooldown: Span,
    max_age: Option<Span>,
}

impl CompiledTrigger {
    /// Compiles the predicates of a policy's trigger.
    ///
    /// # Errors
    ///
    /// [`PredicateError`], which names the predicate and the remedy.
    pub fn compile(trigger: &ResolvedTrigger) -> Result<CompiledTrigger, PredicateError> {
        let schema = fact_schema();
        let require = match trigger.require.trim() {
            "" => None,
            sql => Some(Predicate::compile(sql, &schema)?),
        };
        Ok(CompiledTrigger {
            when: Predicate::compile(&trigger.when, &schema)?,
            require,
            cooldown: trigger.cooldown,
            max_age: trigger.max_age,
        })
    }
}

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
    /// The latest origin of a run that succeeded or was cancelled. A failed one leaves its cause open.
    pub last_origin: Option<Micros>,
    /// Intervals that have come since, but end at or before that origin.
    pub stragglers: i64,
    /// Forecasts alone: another model serves than the one that made the last forecast.
    pub champion_is_new: bool,
    /// Set if the newest run that has ended failed.
    pub failed: Option<Failed>,
}

/// A failure that nothing has made good yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
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

/// What a trigger decided, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Whether a run starts.
    pub fired: bool,
    /// One sentence.
    pub reason: String,
    /// Every part with its truth.
    pub clauses: Vec<ClauseTruth>,
}

/// Decides at stream time `origin`, when the clock says `now`. A run starts if `when` is true or `max_age` has passed,
/// `require` is true, and nothing blocks it: a run under way, that the last run saw the same data, the cooldown, or the
/// pause after a failure.
///
/// # Errors
///
/// [`PredicateError::Evaluate`].
pub fn decide(
    trigger: &CompiledTrigger,
    facts: &Map<String, Value>,
    history: &RunHistory,
    origin: Micros,
    now: Micros,
) -> Result<Verdict, PredicateError> {
    let mut clauses = Vec::new();
    let mut evaluate = |part: &str, predicate: &Predicate| -> Result<Truth, PredicateError> {
        let (truth, parts) = predicate.evaluate(facts)?;
        clauses.extend(parts.into_iter().map(|(clause, truth)| ClauseTruth { part: part.to_owned(), clause, truth }));
        Ok(truth)
    };
    let when = evaluate("when", &trigger.when)?;
    let require = match &trigger.require {
        Some(predicate) => evaluate("require", predicate)?,
        None => Truth::True,
    };
    let since_last = history.last_origin.map(|last| Span((origin - last).max(0)));
    let aged = trigger.max_age.zip(since_last).is_some_and(|(age, since)| since >= age);
    if let Some(age) = trigger.max_age {
        clauses.push(clause("max_age", format!("{age} have passed since the last run"), aged));
    }
    let cooled = since_last.is_none_or(|since| since >= trigger.cooldown);
    if trigger.cooldown.micros() > 0 {
        clauses.push(clause("cooldown", format!("{} have passed since the last run", trigger.cooldown), cooled));
    }
    let verdict = |fired, reason| Ok(Verdict { fired, reason, clauses: clauses.clone() });

    if when != Truth::True && !aged {
        return verdict(false, format!("`when` is {}: {}", word(when), told(&clauses, "when", facts)));
    }
    if require != Truth::True {
        return verdict(false, format!("`require` is {}: {}", word(require), told(&clauses, "require", facts)));
    }
    if let Some(run) = &history.active {
        return verdict(false, format!("run {run} is under way; the condition is looked at again when it ends"));
    }
    if let Some(since) = since_last {
        if since.micros() == 0 && history.stragglers == 0 && !history.champion_is_new {
            return verdict(false, "the last run saw the same data".to_owned());
        }
        if !cooled {
            return verdict(false, format!("cools down: {since} of {} since the last run", trigger.cooldown));
        }
    }
    if let Some(failed) = history.failed.filter(|failed| now < failed.retry_at()) {
        let runs = match failed.in_row {
            1 => "the last run failed".to_owned(),
            k => format!("{k} runs failed in a row"),
        };
        return verdict(false, format!("{runs}: the next one waits until {}", format_micros(failed.retry_at())));
    }
    let cause = match when {
        Truth::True => told(&clauses, "when", facts),
        _ => format!("the last run is {} old, max_age is reached", since_last.unwrap_or_default()),
    };
    verdict(true, cause)
}

fn clause(part: &str, text: String, holds: bool) -> ClauseTruth {
    ClauseTruth { part: part.to_owned(), clause: text, truth: if holds { Truth::True } else { Truth::False } }
}

/// A truth value in words.
pub fn word(truth: Truth) -> &'static str {
    match truth {
        Truth::True => "true",
        Truth::False => "false",
        Truth::Unknown => "unknown",
    }
}

/// The clauses of a part with their truth and the facts that they look at.
fn told(clauses: &[ClauseTruth], part: &str, facts: &Map<String, Value>) -> String {
    let told: Vec<String> = clauses.iter().filter(|c| c.part == part).map(|c| tell(c, facts)).collect();
    told.join("; ")
}

/// How much a fact of a false clause `fact >= number` or `fact > number` lacks: `1 more needed`.
fn lack(clause: &ClauseTruth, facts: &Map<String, Value>) -> Option<String> {
    let [name, comparison, bound] = clause.clause.split_whitespace().collect::<Vec<_>>()[..] else { return None };
    if clause.truth != Truth::False || !matches!(comparison, ">=" | ">") {
        return None;
    }
    let (value, bound) = (facts.get(name)?, bound.parse::<f64>().ok()?);
    match (value.as_i64(), comparison) {
        (Some(value), ">=") => Some(format!("{} more needed", bound.ceil() - value as f64)),
        (Some(value), _) => Some(format!("{} more needed", bound.floor() + 1.0 - value as f64)),
        (None, _) => Some(format!("{:.3} more needed", bound - value.as_f64()?)),
    }
}

/// One clause with its truth, the facts that it looks at and what is lacking:
/// `new_intervals >= 4 is false (new_intervals = 3, 1 more needed)`.
pub fn tell(clause: &ClauseTruth, facts: &Map<String, Value>) -> String {
    let mut seen: Vec<String> = meterline_schemas::facts::FACTS
        .iter()
        .filter(|f| clause.clause.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == f.name))
        .map(|f| match facts.get(f.name) {
            None | Some(Value::Null) => format!("{} is missing", f.name),
            Some(Value::Number(n)) => match n.as_f64() {
                Some(x) if !n.is_i64() && !n.is_u64() => format!("{} = {x:.3}", f.name),
                _ => format!("{} = {n}", f.name),
            },
            Some(value) => format!("{} = {value}", f.name),
        })
        .collect();
    seen.extend(lack(clause, facts));
    match seen.as_slice() {
        [] => format!("{} is {}", clause.clause, word(clause.truth)),
        seen => format!("{} is {} ({})", clause.clause, word(clause.truth), seen.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use meterline_schemas::time::{DAY, HOUR, MINUTE};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const QUARTER: Micros = 15 * MINUTE;
    const NOW: Micros = 10 * HOUR;

    fn trigger(when: &str, require: &str, cooldown: Micros, max_age: Option<Micros>) -> CompiledTrigger {
        CompiledTrigger::compile(&ResolvedTrigger {
            when: when.into(),
            require: require.into(),
            cooldown: Span(cooldown),
            max_age: max_age.map(Span),
        })
        .unwrap()
    }

    fn facts(new_intervals: i64) -> Map<String, Value> {
        json!({"new_intervals": new_intervals, "backfilling": false}).as_object().unwrap().clone()
    }

    fn after(last_origin: Micros) -> RunHistory {
        RunHistory { last_origin: Some(last_origin), ..RunHistory::default() }
    }

    #[test]
    fn a_trigger_fires_only_when_nothing_speaks_against_it() {
        let hourly = trigger("new_intervals >= 4", "not backfilling", 0, None);
        let daily = trigger("new_intervals >= 4", "", DAY, Some(7 * DAY));
        let unknown = trigger("mase_ratio > 1.25", "", 0, Some(7 * DAY));
        // All is decided at 10:00 by the clock.
        let failed = |in_row, ago| RunHistory { failed: Some(Failed { in_row, at: NOW - ago }), ..after(0) };
        let changed = RunHistory { champion_is_new: true, ..after(HOUR) };
        let busy = RunHistory { active: Some("r1".into()), ..after(0) };
        for (name, trigger, new, history, origin, fired, words) in [
            ("first", &hourly, 100, RunHistory::default(), 0, true, "new_intervals = 100"),
            ("not yet", &hourly, 3, after(0), 3 * QUARTER, false, "new_intervals = 3, 1 more needed"),
            ("due", &hourly, 4, after(0), HOUR, true, "new_intervals >= 4 is true"),
            ("busy", &hourly, 4, busy, HOUR, false, "r1 is under way"),
            ("same data", &hourly, 4, after(HOUR), HOUR, false, "same data"),
            ("stragglers", &hourly, 4, RunHistory { stragglers: 1, ..after(HOUR) }, HOUR, true, "new_intervals"),
            ("same data, another model", &hourly, 4, changed, HOUR, true, "new_intervals"),
            ("cooling", &daily, 4, after(0), HOUR, false, "cools down"),
            ("cooled", &daily, 96, after(0), DAY, true, "new_intervals"),
            ("old", &daily, 0, after(0), 7 * DAY, true, "max_age"),
            ("unknown", &unknown, 500, after(0), DAY, false, "mase_ratio is missing"),
            ("unknown but old", &unknown, 700, after(0), 7 * DAY, true, "max_age"),
            ("failed just now", &hourly, 9, failed(1, 29 * SECOND), HOUR, false, "the last run failed"),
            ("failed, told until when", &hourly, 9, failed(1, 0), HOUR, false, "until 1970-01-01T10:00:30Z"),
            ("failed, waited, no news", &hourly, 9, failed(1, 30 * SECOND), HOUR, true, "new_intervals"),
            ("failed thrice", &hourly, 9, failed(3, 119 * SECOND), HOUR, false, "3 runs failed"),
            ("failed thrice, waited", &hourly, 9, failed(3, 120 * SECOND), HOUR, true, "new_intervals"),
            ("failed often", &hourly, 9, failed(40, 59 * MINUTE), HOUR, false, "40 runs failed"),
            ("failed often, waited", &hourly, 9, failed(40, HOUR), HOUR, true, "new_intervals"),
            ("failed, and cooling", &daily, 9, failed(1, HOUR), HOUR, false, "cools down"),
            ("failed when it was old", &daily, 0, failed(1, HOUR), 8 * DAY, true, "max_age"),
            ("failed, but not asked for", &hourly, 3, failed(1, HOUR), HOUR, false, "1 more needed"),
        ] {
            let verdict = decide(trigger, &facts(new), &history, origin, NOW).unwrap();
            assert_eq!(verdict.fired, fired, "{name}: {}", verdict.reason);
            assert!(verdict.reason.contains(words), "{name}: {}", verdict.reason);
        }
    }

    #[test]
    fn what_is_required_but_missing_blocks() {
        let hourly = trigger("new_intervals >= 4", "completeness >= 0.9", 0, None);
        let verdict = decide(&hourly, &facts(9), &RunHistory::default(), 0, NOW).unwrap();
        assert!(!verdict.fired && verdict.reason.contains("completeness is missing"), "{}", verdict.reason);
    }

    #[test]
    fn a_clause_is_told_with_what_it_lacks() {
        let facts = json!({"new_intervals": 96, "completeness": 0.85}).as_object().unwrap().clone();
        for (clause, truth, told) in [
            ("new_intervals >= 672", Truth::False, "is false (new_intervals = 96, 576 more needed)"),
            ("new_intervals > 96", Truth::False, "is false (new_intervals = 96, 1 more needed)"),
            ("new_intervals >= 4", Truth::True, "is true (new_intervals = 96)"),
            ("new_intervals < 4", Truth::False, "is false (new_intervals = 96)"),
            ("completeness >= 0.9", Truth::False, "is false (completeness = 0.850, 0.050 more needed)"),
            ("mase_ratio > 1.25", Truth::Unknown, "is unknown (mase_ratio is missing)"),
            ("new_intervals >= 4 * series", Truth::Unknown, "is unknown (series is missing, new_intervals = 96)"),
            ("true", Truth::True, "is true"),
        ] {
            let clause = ClauseTruth { part: "when".into(), clause: clause.into(), truth };
            assert_eq!(tell(&clause, &facts), format!("{} {told}", clause.clause));
        }
    }

    proptest! {
        /// However commits, run lengths and failures fall: no cause fires twice, and nothing stays due for longer than
        /// the longest pause.
        #[test]
        fn every_cause_fires_once(steps in prop::collection::vec((0_i64..6, 0_usize..4, prop::bool::weighted(0.2)), 1..60)) {
            let hourly = trigger("new_intervals >= 4", "", 0, None);
            let (mut origin, mut last_ok, mut history, mut ends_in) = (0, 0, RunHistory::default(), 0);
            let (mut now, mut fails, mut in_row, mut since_due, mut seen) = (NOW, false, 0, 0, 0);
            for (new, length, will_fail) in steps {
                origin += new * QUARTER;
                now += 5 * MINUTE;
                if history.active.is_some() {
                    if ends_in > 0 { ends_in -= 1 } else {
                        history.active = None;
                        in_row = if fails { in_row + 1 } else { 0 };
                        history.failed = fails.then_some(Failed { in_row, at: now });
                        if !fails {
                            last_ok = seen;
                            history.last_origin = Some(seen);
                        }
                        since_due = 0;
                    }
                }
                let due = (origin - last_ok) / QUARTER;
                let verdict = decide(&hourly, &facts(due), &history, origin, now).unwrap();
                if verdict.fired {
                    prop_assert!(history.active.is_none() && due >= 4);
                    prop_assert!(history.last_origin != Some(origin), "twice at {}", origin);
                    history.active = Some("run".into());
                    (seen, fails, ends_in) = (origin, will_fail, length);
                } else if due >= 4 && history.active.is_none() {
                    prop_assert!(since_due < BACK_OFF_MAX, "due but silent for {}: {}", Span(since_due), verdict.reason);
                    since_due += 5 * MINUTE;
                }
            }
        }
    }
}
