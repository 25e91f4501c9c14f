//! A simulated stream, its clock and its runs, for the tests of triggers.

use meterline_schemas::config::{ResolvedTrigger, parse, resolve_policy};
use meterline_schemas::facts::{FactValue, FactValues};
use meterline_schemas::time::MINUTE;
use meterline_schemas::{Frequency, Micros};
use serde_json::{Value, json};

use super::compiled::CompiledTrigger;
use super::decide::{Failed, Moment, RunHistory, Verdict, decide};
use super::next::{Earliest, earliest};
use crate::metadata::records::{Pipeline, Standing};

pub(super) const QUARTER: Micros = 15 * MINUTE;
/// The trigger `retrain` of quarter hours in Lisbon, of which `toml` is the table.
pub(super) fn configured(toml: &str) -> CompiledTrigger {
    let text = format!("[policy.a]\nfrequency = \"PT15M\"\n[policy.a.retrain]\n{toml}\n");
    let retrain = resolve_policy(Frequency::QUARTER_HOUR, &parse(&text).unwrap().policy).retrain;
    compile(&retrain)
}

pub(super) fn compile(trigger: &ResolvedTrigger) -> CompiledTrigger {
    CompiledTrigger::compile(trigger, Pipeline::Build, "PT15M", Frequency::QUARTER_HOUR, "Europe/Lisbon").unwrap()
}

/// Fires at each of `n` intervals, in no time but theirs.
pub(super) fn every(n: i64) -> CompiledTrigger {
    configured(&format!("when = \"new_intervals >= {n}\"\nrequire = \"\"\ncooldown = \"0s\""))
}

pub(super) fn utc(text: &str) -> Micros {
    text.parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

/// A stream with one model group, its runs, and a clock that goes with the stream.
pub(super) struct World {
    pub(super) trigger: CompiledTrigger,
    pub(super) history: RunHistory,
    pub(super) standing: Standing,
    pub(super) origin: Micros,
    pub(super) facts: FactValues,
    pub(super) runs: Vec<(String, Micros)>,
    pub(super) resumed: bool,
    pub(super) running: usize,
}

impl World {
    pub(super) fn at(origin: Micros, trigger: CompiledTrigger) -> World {
        World {
            trigger,
            history: RunHistory { last_origin: Some(origin), last_done: Some("r000".into()), ..RunHistory::default() },
            standing: Standing::default(),
            origin,
            facts: FactValues::default(),
            runs: Vec::new(),
            resumed: false,
            running: 0,
        }
    }

    pub(super) fn set(&mut self, fact: &str, value: Value) {
        let values: FactValues = serde_json::from_value(json!({ fact: value })).unwrap();
        self.facts.set(fact, values.get(fact));
    }

    pub(super) fn moment(&self) -> Moment {
        let (resumed, running) = (self.resumed, self.running);
        Moment { origin: self.origin, stream: self.origin, now: self.origin, resumed, running }
    }

    pub(super) fn known(&self) -> FactValues {
        let mut facts = self.facts.clone();
        // As facts are assembled: a run under way counts as one that has seen its data.
        let active = self.runs.last().filter(|_| self.history.active.is_some()).map(|(_, origin)| *origin);
        let last = active.or(self.history.last_origin).unwrap_or(0);
        facts.set("new_intervals", Some(FactValue::Integer((self.origin - last) / QUARTER)));
        facts.set("has_champion", facts.get("has_champion").or(Some(FactValue::Truth(true))));
        facts
    }

    /// Evaluates; a run that starts is under way afterwards.
    pub(super) fn evaluate(&mut self) -> Verdict {
        let (verdict, standing) =
            decide(&self.trigger, &self.known(), &self.history, &self.standing, self.moment()).unwrap();
        // As it comes back from the database.
        self.standing = serde_json::from_value(serde_json::to_value(standing).unwrap()).unwrap();
        self.resumed = false;
        if verdict.fired {
            let run = format!("r{:03}", self.runs.len() + 1);
            self.standing = self.standing.clone().with_run(&run, verdict.origin);
            self.history.active = Some(run.clone());
            self.runs.push((run, verdict.origin));
        }
        verdict
    }

    pub(super) fn end(&mut self, succeeds: bool) {
        let Some(run) = self.history.active.take() else { return };
        let origin = self.runs.last().unwrap().1;
        if succeeds {
            self.history.last_origin = self.history.last_origin.max(Some(origin));
            (self.history.last_done, self.history.failed) = (Some(run), None);
        } else {
            let in_row = self.history.failed.as_ref().map_or(1, |failed| failed.in_row + 1);
            self.history.failed = Some(Failed { run_id: run, in_row, at: self.origin });
        }
    }

    /// Goes on to `until`, evaluating at each interval; runs succeed at once. Returns when they started.
    pub(super) fn run_to(&mut self, until: Micros) -> Vec<Micros> {
        let before = self.runs.len();
        while self.origin < until {
            self.origin += QUARTER;
            self.evaluate();
            self.end(true);
        }
        self.runs[before..].iter().map(|(_, origin)| *origin).collect()
    }

    pub(super) fn earliest(&self) -> Earliest {
        let (verdict, standing) =
            decide(&self.trigger, &self.known(), &self.history, &self.standing, self.moment()).unwrap();
        earliest(&self.trigger, &self.known(), &self.history, &standing, self.moment(), &verdict).unwrap()
    }
}
