//! `[policy.NAME.retrain]`, `[policy.NAME.reforecast]` and `[policy.NAME.correct]`: when a pipeline runs.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::cron::Cron;
use crate::length::Length;

/// When a pipeline runs. All lengths and schedules are in *stream time*, the time of the readings: replayed history fires
/// as the live stream did, and where no readings come, nothing is due.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TriggerConfig {
    /// SQL predicate over the trigger facts, or several with a name each, of which one is enough. A missing fact makes a
    /// predicate unknown, and unknown does not fire. What became true is not lost while something else holds the run up
    /// (a run under way, the cooldown, a schedule): it starts one run once nothing does. Default of `reforecast`:
    /// `new_intervals >= N or champion_is_new`, N being those of an hour, at least 1. Of `retrain`: `not has_champion or
    /// new_intervals >= N or mase_ratio > 1.25`, N being those of a week below a day, 28 days, 13 weeks, 6 months.
    pub when: Option<Predicates>,
    /// SQL predicate that must be true when the run starts, or several with a name each, all of which must be. An empty
    /// text requires nothing. Default of `reforecast`: `not backfilling`. Of `retrain`: `history_intervals >=
    /// history_needed and completeness >= 0.8 and not backfilling`.
    pub require: Option<Predicates>,
    /// How long `when` must be true without a break. Default `0s`.
    pub hold_for: Option<Length>,
    /// Time that must pass between the origins of two runs. Default of `reforecast`: `0s`. Of `retrain`: a day below a
    /// day, 7 days for days, 4 weeks, 3 months.
    pub cooldown: Option<Length>,
    /// Time since the last run after which it fires even if `when` is false (`require` still holds, and there must be
    /// something new). Default never.
    pub max_age: Option<Length>,
    /// Cron schedule, in the zone of the series unless it names one: what is due waits for the next tick. Default none.
    pub schedule: Option<Cron>,
    /// What is due waits for up to so long, each group for another part of it, so that not all start at once. Default `0s`.
    pub jitter: Option<Length>,
    /// Most runs of this pipeline that are under way at once among the groups of the policy. Default as many as there are
    /// groups; they share the slots of `[device]` in any case.
    pub max_concurrent: Option<usize>,
    /// Windows in which no run starts. Default none.
    pub blackout: Option<Vec<Blackout>>,
    /// What becomes of what came due while the engine was down or the trigger was paused. Default `once`.
    pub catch_up: Option<CatchUp>,
    /// `true` starts no runs until it is `false` again. Default `false`.
    pub pause: Option<bool>,
    /// Of `correct` alone: most series that a run forecasts anew, without the roll-ups that they are part of. Those with
    /// most corrected intervals come first, as far as housekeeping has not put files together since; the others wait for
    /// the next run of `reforecast`. Default 1000.
    pub max_series: Option<usize>,
    /// Of `correct` alone: most runs between two of `reforecast`, 1 to 50, those that failed or found nothing to correct among
    /// them; what is corrected after them waits for the next of those. Default 20.
    pub max_runs: Option<usize>,
}

/// A window that begins with each tick of a schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blackout {
    /// When it begins. Required.
    pub start: Cron,
    /// How long it lasts. Required.
    pub length: Length,
}

/// What becomes of what came due while nobody looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// Nothing: the next run comes when it is due anew.
    Skip,
    /// One run, with the newest data, for all of it.
    #[default]
    Once,
    /// One run each, with the data of the time, oldest first.
    All,
}

impl CatchUp {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            CatchUp::Skip => "skip",
            CatchUp::Once => "once",
            CatchUp::All => "all",
        }
    }
}

/// One SQL predicate, or several with names.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Predicates {
    /// One; an empty one is none.
    One(String),
    /// By name.
    Named(BTreeMap<String, String>),
}

impl Predicates {
    /// Each that is there, with its name where it has one.
    pub fn each(&self) -> impl Iterator<Item = (Option<&str>, &str)> {
        let (one, named) = match self {
            Predicates::One(sql) => (Some((None, sql.as_str())).filter(|(_, sql)| !sql.trim().is_empty()), None),
            Predicates::Named(all) => (None, Some(all.iter().map(|(name, sql)| (Some(name.as_str()), sql.as_str())))),
        };
        one.into_iter().chain(named.into_iter().flatten())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.each().next().is_none()
    }
}

impl From<&str> for Predicates {
    fn from(sql: &str) -> Predicates {
        Predicates::One(sql.to_owned())
    }
}

impl From<String> for Predicates {
    fn from(sql: String) -> Predicates {
        Predicates::One(sql)
    }
}

/// As in a configuration, on one line: `name: sql; name: sql`.
impl fmt::Display for Predicates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, sql)) in self.each().enumerate() {
            let joint = if index > 0 { "; " } else { "" };
            match name {
                Some(name) => write!(f, "{joint}{name}: {sql}")?,
                None => write!(f, "{joint}{sql}")?,
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Predicates {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = Predicates;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a SQL predicate in quotes, or a table of them by name")
            }

            fn visit_str<E: de::Error>(self, sql: &str) -> Result<Predicates, E> {
                Ok(Predicates::One(sql.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Predicates, A::Error> {
                let mut all = BTreeMap::new();
                while let Some((name, sql)) = map.next_entry::<String, String>()? {
                    all.insert(name, sql);
                }
                if all.is_empty() {
                    return Err(de::Error::custom("there is no predicate in the table; name one, or leave it out"));
                }
                Ok(Predicates::Named(all))
            }
        }

        d.deserialize_any(Texts)
    }
}

/// A trigger with every default filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResolvedTrigger {
    /// See [`TriggerConfig::when`].
    pub when: Predicates,
    /// See [`TriggerConfig::require`]; empty requires nothing.
    pub require: Predicates,
    /// See [`TriggerConfig::hold_for`].
    #[serde(default = "zero")]
    pub hold_for: Length,
    /// See [`TriggerConfig::cooldown`].
    pub cooldown: Length,
    /// See [`TriggerConfig::max_age`].
    pub max_age: Option<Length>,
    /// See [`TriggerConfig::schedule`].
    #[serde(default)]
    pub schedule: Option<Cron>,
    /// See [`TriggerConfig::jitter`].
    #[serde(default = "zero")]
    pub jitter: Length,
    /// See [`TriggerConfig::max_concurrent`].
    #[serde(default)]
    pub max_concurrent: Option<usize>,
    /// See [`TriggerConfig::blackout`].
    #[serde(default)]
    pub blackout: Vec<Blackout>,
    /// See [`TriggerConfig::catch_up`].
    #[serde(default)]
    pub catch_up: CatchUp,
    /// See [`TriggerConfig::pause`].
    #[serde(default)]
    pub pause: bool,
    /// See [`TriggerConfig::max_series`]; without it no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_series: Option<usize>,
    /// See [`TriggerConfig::max_runs`]; without it no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_runs: Option<usize>,
    /// Keys that the configuration says; the others are defaults.
    #[serde(default)]
    pub configured: Vec<String>,
}

fn zero() -> Length {
    Length::ZERO
}

/// Most runs that may correct the same forecasts: so many are looked back at.
pub(super) const CORRECTIONS_MAX: usize = 50;

/// What a frequency's defaults say of a trigger.
pub(super) struct TriggerDefaults {
    pub(super) when: String,
    pub(super) require: &'static str,
    pub(super) cooldown: Length,
    pub(super) max_series: Option<usize>,
    pub(super) max_runs: Option<usize>,
}

impl TriggerConfig {
    pub(super) fn resolve(&self, defaults: TriggerDefaults) -> ResolvedTrigger {
        let said = [
            ("when", self.when.is_some()),
            ("require", self.require.is_some()),
            ("hold_for", self.hold_for.is_some()),
            ("cooldown", self.cooldown.is_some()),
            ("max_age", self.max_age.is_some()),
            ("schedule", self.schedule.is_some()),
            ("jitter", self.jitter.is_some()),
            ("max_concurrent", self.max_concurrent.is_some()),
            ("blackout", self.blackout.is_some()),
            ("catch_up", self.catch_up.is_some()),
            ("pause", self.pause.is_some()),
            ("max_series", self.max_series.is_some()),
            ("max_runs", self.max_runs.is_some()),
        ];
        ResolvedTrigger {
            when: self.when.clone().unwrap_or(Predicates::One(defaults.when)),
            require: self.require.clone().unwrap_or_else(|| defaults.require.into()),
            hold_for: self.hold_for.unwrap_or(Length::ZERO),
            cooldown: self.cooldown.unwrap_or(defaults.cooldown),
            max_age: self.max_age,
            schedule: self.schedule.clone(),
            jitter: self.jitter.unwrap_or(Length::ZERO),
            max_concurrent: self.max_concurrent,
            blackout: self.blackout.clone().unwrap_or_default(),
            catch_up: self.catch_up.unwrap_or_default(),
            pause: self.pause.unwrap_or(false),
            max_series: self.max_series.or(defaults.max_series),
            max_runs: self.max_runs.or(defaults.max_runs),
            configured: said.into_iter().filter(|(_, is_said)| *is_said).map(|(key, _)| key.to_owned()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::frequency::Frequency;

    #[test]
    fn predicates_are_one_text_or_a_table_of_names() {
        let text = "[policy.a]\nfrequency = \"PT15M\"\n[policy.a.retrain]\nrequire = \"not backfilling\"\nschedule = \"0 3 * * *\"\n\
                    blackout = [{ start = \"0 7 * * MON-FRI\", length = \"12h\" }]\ncatch_up = \"all\"\n\
                    [policy.a.retrain.when]\nweekly = \"new_intervals >= 672\"\ndrifted = \"mase_ratio > 1.25\"\n";
        let policies = parse(text).unwrap().policy;
        let retrain = crate::config::resolve_policy(Frequency::QUARTER_HOUR, &policies).retrain;
        let named: Vec<_> = retrain.when.each().collect();
        assert_eq!(named, [(Some("drifted"), "mase_ratio > 1.25"), (Some("weekly"), "new_intervals >= 672")]);
        assert_eq!(retrain.when.to_string(), "drifted: mase_ratio > 1.25; weekly: new_intervals >= 672");
        assert_eq!((retrain.require.to_string().as_str(), retrain.catch_up), ("not backfilling", CatchUp::All));
        assert_eq!(retrain.configured, ["when", "require", "schedule", "blackout", "catch_up"]);
        // As a run's specification keeps it.
        let kept = serde_json::to_string(&retrain).unwrap();
        assert_eq!(serde_json::from_str::<ResolvedTrigger>(&kept).unwrap(), retrain);
        let old = r#"{"when": "true", "require": "", "cooldown": "1d", "max_age": null}"#;
        let old: ResolvedTrigger = serde_json::from_str(old).unwrap();
        assert!(old.require.is_empty() && old.hold_for.is_zero());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_line() {
        for (key, words) in [
            ("when = 3", "a SQL predicate in quotes, or a table of them by name"),
            ("when = {}", "there is no predicate in the table"),
            ("cooldown = \"soon\"", "96 intervals"),
            ("schedule = \"daily\"", "such as `0 3 * * *`"),
            ("catch_up = \"never\"", "expected one of `skip`, `once`, `all`"),
            ("blackout = [{ start = \"0 7 * * *\", lenght = \"1h\" }]", "`length`"),
            ("holdfor = \"1h\"", "did you mean `hold_for`?"),
        ] {
            let error = parse(&format!("[policy.a]\nfrequency = \"PT15M\"\n[policy.a.retrain]\n{key}\n")).unwrap_err();
            assert_eq!(error.line, Some(4), "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
