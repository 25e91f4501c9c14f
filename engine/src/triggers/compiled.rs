//! A policy's trigger, ready to be evaluated for one model group.

use jiff::tz::TimeZone;
use meterline_schemas::config::{Blackout, CatchUp, Predicates, ResolvedTrigger};
use meterline_schemas::cron::Schedule;
use meterline_schemas::facts::FactValues;
use meterline_schemas::length::Length;
use meterline_schemas::time::DAY;
use meterline_schemas::{Frequency, Micros};
use xxhash_rust::xxh3::xxh3_64;

use super::predicate::{Predicate, PredicateError};
use crate::ingest::groups::GroupSummary;
use crate::metadata::records::{ClauseTruth, Pipeline, Truth};

/// Ticks within a window that are looked at: a window a minute for a week.
const TICKS_MAX: usize = 10_080;

/// A trigger of one model group: its predicates compiled, its schedules in the group's time zone.
#[derive(Debug, Clone)]
pub struct CompiledTrigger {
    when: Condition,
    require: Condition,
    /// What can become due.
    pub(super) causes: String,
    /// What it waits for then.
    pub(super) waits: String,
    pub(super) hold_for: Length,
    pub(super) cooldown: Length,
    pub(super) max_age: Option<Length>,
    pub(super) schedule: Option<(String, Schedule)>,
    /// The group's part of the jitter.
    pub(super) delay: Micros,
    pub(super) max_concurrent: Option<usize>,
    pub(super) max_runs: Option<usize>,
    /// Whether there must be forecasts to correct.
    pub(super) corrects: bool,
    pub(super) blackouts: Vec<Window>,
    pub(super) catch_up: CatchUp,
    pub(super) paused: bool,
    pub(super) frequency: Frequency,
    pub(super) zone: TimeZone,
}

/// A window in which no run starts.
#[derive(Debug, Clone)]
pub(super) struct Window {
    start: Schedule,
    length: Length,
    told: String,
}

/// Predicates that are joined: by OR in `when`, by AND in `require`.
#[derive(Debug, Clone)]
struct Condition {
    part: &'static str,
    all: bool,
    predicates: Vec<(Option<String>, Predicate)>,
}

impl CompiledTrigger {
    /// Compiles a policy's trigger of `pipeline` for a model group, of which the name, frequency and zone count.
    ///
    /// # Errors
    ///
    /// [`PredicateError`], which names the predicate and the remedy.
    pub fn compile(
        trigger: &ResolvedTrigger,
        pipeline: Pipeline,
        group_id: &str,
        frequency: Frequency,
        zone_name: &str,
    ) -> Result<CompiledTrigger, PredicateError> {
        let zone = TimeZone::get(zone_name).unwrap_or(TimeZone::UTC);
        let jitter = trigger.jitter.nominal(frequency).micros().unsigned_abs();
        let part = xxh3_64(format!("{group_id} {}", pipeline.trigger()).as_bytes()).checked_rem(jitter).unwrap_or(0);
        let window = |of: &Blackout| Window {
            start: of.start.schedule(zone_name),
            length: of.length,
            told: format!("{} from {}", of.length, of.start),
        };
        Ok(CompiledTrigger {
            when: Condition::compile("when", false, &trigger.when)?,
            require: Condition::compile("require", true, &trigger.require)?,
            causes: format!(
                "{}; {}; {}",
                trigger.when,
                trigger.hold_for,
                trigger.max_age.map_or_else(String::new, |age| age.to_string())
            ),
            waits: format!("{}; {part}", trigger.schedule.as_ref().map_or_else(String::new, ToString::to_string)),
            hold_for: trigger.hold_for,
            cooldown: trigger.cooldown,
            max_age: trigger.max_age,
            schedule: trigger.schedule.as_ref().map(|cron| (cron.to_string(), cron.schedule(zone_name))),
            delay: Micros::try_from(part).unwrap_or(0),
            max_concurrent: trigger.max_concurrent,
            max_runs: trigger.max_runs,
            corrects: pipeline == Pipeline::Correct,
            blackouts: trigger.blackout.iter().map(window).collect(),
            catch_up: trigger.catch_up,
            paused: trigger.pause,
            frequency,
            zone,
        })
    }

    /// Compiles it for a group as the stream sees it.
    ///
    /// # Errors
    ///
    /// [`PredicateError`].
    pub fn of(
        trigger: &ResolvedTrigger,
        pipeline: Pipeline,
        group: &GroupSummary,
    ) -> Result<CompiledTrigger, PredicateError> {
        CompiledTrigger::compile(trigger, pipeline, &group.group_id, group.frequency, &group.zone)
    }

    /// The truth of `when`, and of each of its clauses.
    pub(super) fn when(&self, facts: &FactValues) -> Result<(Truth, Vec<ClauseTruth>), PredicateError> {
        self.when.evaluate(facts)
    }

    /// The truth of `require`, and of each of its clauses.
    pub(super) fn require(&self, facts: &FactValues) -> Result<(Truth, Vec<ClauseTruth>), PredicateError> {
        self.require.evaluate(facts)
    }

    /// Whether a predicate looks at a fact.
    pub(super) fn looks_at(&self, fact: &str) -> bool {
        let predicates = self.when.predicates.iter().chain(&self.require.predicates);
        predicates.flat_map(|(_, predicate)| predicate.columns()).any(|column| column == fact)
    }

    /// The next tick of the schedule, after what was seen of it.
    pub(super) fn next_tick(&self, seen: Option<Micros>) -> Option<Micros> {
        self.schedule.as_ref().zip(seen).and_then(|((_, schedule), seen)| schedule.next_after(seen))
    }

    /// The instant a length after `from`.
    pub(super) fn after(&self, length: Length, from: Micros) -> Micros {
        length.after(from, self.frequency, &self.zone)
    }

    /// The blackout window that `at` lies in, in words, with its end.
    pub(super) fn blackout(&self, at: Micros) -> Option<(&str, Micros)> {
        self.blackouts.iter().find_map(|window| {
            // Of windows that overlap the last one counts. Days and months may be longer than they mostly are.
            let mut from = at.saturating_sub(window.length.nominal(self.frequency).micros()).saturating_sub(2 * DAY);
            let mut ends = None;
            for _ in 0..TICKS_MAX {
                let Some(start) = window.start.next_after(from).filter(|start| *start <= at) else { break };
                ends = Some(self.after(window.length, start)).filter(|end| *end > at);
                from = start;
            }
            ends.map(|end| (window.told.as_str(), end))
        })
    }
}

impl Condition {
    fn compile(part: &'static str, all: bool, predicates: &Predicates) -> Result<Condition, PredicateError> {
        let predicates = predicates
            .each()
            .map(|(name, sql)| Ok((name.map(str::to_owned), Predicate::of_facts(sql)?)))
            .collect::<Result<_, _>>()?;
        Ok(Condition { part, all, predicates })
    }

    // In SQL's logic: what is unknown leaves the whole unknown, unless another part decides it.
    fn evaluate(&self, facts: &FactValues) -> Result<(Truth, Vec<ClauseTruth>), PredicateError> {
        let (decides, otherwise) = if self.all { (Truth::False, Truth::True) } else { (Truth::True, Truth::False) };
        let (mut whole, mut clauses) = (otherwise, Vec::new());
        for (name, predicate) in &self.predicates {
            let (truth, parts) = predicate.evaluate(&|name| facts.get(name))?;
            clauses.extend(parts.into_iter().map(|(clause, truth)| ClauseTruth {
                part: self.part.to_owned(),
                name: name.clone(),
                clause,
                truth,
            }));
            if truth == decides || (truth == Truth::Unknown && whole == otherwise) {
                whole = truth;
            }
        }
        Ok((whole, clauses))
    }
}
