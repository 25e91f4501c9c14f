//! Triggers: when the pipelines run, and why.
//!
//! [`facts`] say how things stand, one row per model group and trigger; [`predicate`] evaluates a policy's SQL over
//! them; [`decide`] is the pure decision, of a trigger that is [`compiled`]; [`next`] looks ahead at when it could fire;
//! [`service`] watches commits and runs, records every decision, and starts runs. [`past`] and [`simulate`] replay
//! policies over what was; [`plan`] says what another configuration would change.

pub mod compiled;
pub mod decide;
pub mod facts;
pub(crate) mod inputs;
mod known;
pub mod learn;
pub mod next;
pub mod now;
pub mod past;
pub mod plan;
pub mod predicate;
mod recorder;
pub mod remembered;
pub mod sample;
mod scores;
pub mod service;
mod shift;
pub mod simulate;
#[cfg(test)]
mod testing;
pub mod words;

use arrow::datatypes::SchemaRef;
use meterline_models::cost::Cost;
use meterline_models::holidays::{Holidays, UnknownCountry};
use meterline_models::registry;
use meterline_models::tuning::SettingsError;
use meterline_schemas::config::{
    Config, ConfigError, KnownWhen, PolicyConfig, Predicates, ResolvedPolicy, ResolvedTrigger, resolve_group_policy,
    resolve_policy,
};
use meterline_schemas::facts::fact_schema;
use meterline_schemas::names;
use meterline_schemas::time::Date;

pub use facts::{FactsError, facts_table};

use self::inputs::Input;
use self::predicate::{Predicate, gate_schema};

use crate::metadata::records::Pipeline;

/// The trigger of a policy that starts a pipeline.
pub fn trigger_of(policy: &ResolvedPolicy, pipeline: Pipeline) -> &ResolvedTrigger {
    match pipeline {
        Pipeline::Build => &policy.retrain,
        Pipeline::Infer => &policy.reforecast,
        Pipeline::Correct => &policy.correct,
    }
}

/// The days off of a policy.
///
/// # Errors
///
/// [`UnknownCountry`].
pub fn holidays(policy: &ResolvedPolicy) -> Result<Holidays, UnknownCountry> {
    days_off(policy.holidays.as_deref(), &policy.days_off, &policy.workdays)
}

/// The holidays of a country, with further days off and without those that are worked on.
///
/// # Errors
///
/// [`UnknownCountry`].
pub fn days_off(country: Option<&str>, further: &[Date], worked_on: &[Date]) -> Result<Holidays, UnknownCountry> {
    let all = match country {
        Some(country) => Holidays::of(country)?,
        None => Holidays::none(),
    };
    Ok(all.with(further.iter().map(|day| day.0)).without(worked_on.iter().map(|day| day.0)))
}

/// Checks every predicate, model, setting and cost that the configuration `text` has in its policies, and whether there
/// are the holidays that they name.
///
/// # Errors
///
/// [`ConfigError`], with the key, its line and the remedy.
pub fn check_policies(text: &str, config: &Config) -> Result<(), ConfigError> {
    for (name, policy) in &config.policy {
        let facts = fact_schema();
        let mut predicates: Vec<(String, &str, &SchemaRef)> = Vec::new();
        for (key, of, may_be_empty) in [
            ("retrain.when", &policy.retrain.when, false),
            ("retrain.require", &policy.retrain.require, true),
            ("reforecast.when", &policy.reforecast.when, false),
            ("reforecast.require", &policy.reforecast.require, true),
            ("correct.when", &policy.correct.when, false),
            ("correct.require", &policy.correct.require, true),
        ] {
            match of {
                Some(Predicates::One(sql)) if sql.trim().is_empty() && !may_be_empty => {
                    predicates.push((key.to_owned(), sql, &facts));
                }
                Some(of) => predicates.extend(of.each().map(|(name, sql)| {
                    (name.map_or_else(|| key.to_owned(), |name| format!("{key}.{name}")), sql, &facts)
                })),
                None => {}
            }
        }
        let gate = gate_schema();
        predicates.extend(policy.gate.accept_if.as_deref().map(|sql| ("gate.accept_if".to_owned(), sql, &gate)));
        for (key, sql, schema) in predicates {
            let refused = |why: &str| ConfigError::of_key(text, &format!("policy.{name}.{key}"), why);
            let predicate = Predicate::compile(sql, schema).map_err(|e| refused(&e.to_string()))?;
            let looks_at_cost = predicate.columns().iter().any(|column| column.ends_with("cost"));
            if looks_at_cost && policy.cost_under.is_none() {
                return Err(refused(
                    "it looks at a cost, and the policy has none, which would reject each model: set cost_under and cost_over",
                ));
            }
        }
        for (key, said) in [
            ("retrain.max_series", policy.retrain.max_series),
            ("retrain.max_runs", policy.retrain.max_runs),
            ("reforecast.max_series", policy.reforecast.max_series),
            ("reforecast.max_runs", policy.reforecast.max_runs),
        ] {
            if said.is_some() {
                let why = "it bounds corrections: set it in the table `correct` of the policy";
                return Err(ConfigError::of_key(text, &format!("policy.{name}.{key}"), why));
            }
        }
        if let Some((key, why)) = wrong_cost(policy) {
            return Err(ConfigError::of_key(text, &format!("policy.{name}.{key}"), &why));
        }
        let resolved = policy_of(policy, config);
        let ResolvedPolicy { model, settings, .. } = &resolved;
        let Some(kind) = registry::find(model) else {
            return Err(ConfigError::of_key(text, &format!("policy.{name}.model.kind"), &no_such_kind(model)));
        };
        if let Err(wrong) = kind.with(settings) {
            let key = wrong.name().map(|setting| format!(".{setting}")).unwrap_or_default();
            let key = format!("policy.{name}.model.settings{key}");
            return Err(ConfigError::of_key(text, &key, &wrong_setting(&wrong)));
        }
        check_inputs(text, name, config, &resolved)?;
    }
    Ok(())
}

// What a policy says, with what it leaves to others.
fn policy_of(policy: &PolicyConfig, config: &Config) -> ResolvedPolicy {
    let of_group = |group: &str| resolve_group_policy(group, policy.frequency, &config.policy);
    match (&policy.group, policy.selector()) {
        (Some(group), _) => of_group(group),
        (None, Some(selector)) => of_group(&selector.group(&policy.frequency.to_string())),
        (None, None) => resolve_policy(policy.frequency, &config.policy),
    }
}

// Whether a policy's model makes use of what it is given, and whether there are such holidays.
fn check_inputs(text: &str, name: &str, config: &Config, policy: &ResolvedPolicy) -> Result<(), ConfigError> {
    let wrong =
        |key: &str, message: &str| Err(ConfigError::of_key(text, &format!("policy.{name}.model.{key}"), message));
    if let Err(error) = holidays(policy) {
        return wrong("holidays", &error.to_string());
    }
    let Some(kind) = registry::find(&policy.model) else { return Ok(()) };
    let is_ahead = |name: &String| config.covariate.get(name).is_some_and(|of| of.known() == KnownWhen::Ahead);
    let are_ahead = policy.covariates.iter().all(is_ahead);
    let given = [
        (Input::Labels, !policy.labels.is_empty()),
        (Input::Covariates, !policy.covariates.is_empty()),
        (Input::PastCovariates, !are_ahead),
        (Input::Holidays, policy.holidays.is_some()),
        (Input::DaysOff, !policy.days_off.is_empty()),
        (Input::Workdays, !policy.workdays.is_empty()),
        (Input::Location, policy.location.is_some()),
    ];
    match given.into_iter().find(|(input, is_given)| *is_given && !input.is_seen_by(kind)) {
        Some((input, _)) => wrong(input.key(), &format!("{}; {}", input.of_no_use(kind), input.remedy())),
        None => Ok(()),
    }
}

/// What is wrong with the costs of a policy, with the key.
fn wrong_cost(policy: &PolicyConfig) -> Option<(&'static str, String)> {
    let alone = |other: &str| format!("{other} is missing: set both, or neither, and the median decides");
    match (policy.cost_under, policy.cost_over) {
        (None, None) => None,
        (Some(_), None) => Some(("cost_under", alone("cost_over"))),
        (None, Some(_)) => Some(("cost_over", alone("cost_under"))),
        (Some(under), Some(over)) => {
            let wrong = Cost::new(under, over).err()?.to_string();
            Some((if wrong.starts_with("cost_over") { "cost_over" } else { "cost_under" }, wrong))
        }
    }
}

/// What is wrong with a setting, with the known one that was meant where its name is wrong.
pub(crate) fn wrong_setting(wrong: &SettingsError) -> String {
    let SettingsError::Unknown { name, known, .. } = wrong else { return wrong.to_string() };
    let nearest = names::nearest(name, known.iter().map(String::as_str));
    let meant = nearest.map(|known| format!("; did you mean `{known}`?")).unwrap_or_default();
    format!("{wrong}{meant}")
}

/// That there is no model of this name, which one was meant, and how to see all.
pub(crate) fn no_such_kind(name: &str) -> String {
    let meant = names::question(names::nearest(name, registry::KINDS.iter().map(|kind| kind.name)));
    format!("there is no model `{name}`; {meant}`meterline models kinds` lists all")
}

#[cfg(test)]
mod tests {
    use meterline_schemas::Frequency;
    use meterline_schemas::config::parse;
    use meterline_schemas::frequency::STANDARD;

    use super::compiled::CompiledTrigger;
    use super::*;

    #[test]
    fn a_wrong_predicate_is_refused_with_its_key_its_line_and_the_remedy() {
        for (key, sql, words) in [
            ("retrain]\nwhen", "new_interval >= 4", "line 4: policy.a.retrain.when: "),
            ("retrain]\nwhen", "new_interval >= 4", "did you mean `new_intervals`?"),
            ("reforecast]\nrequire", "lag_records", "line 4: policy.a.reforecast.require: "),
            ("gate]\naccept_if", "wql <= champion_wqk", "did you mean `champion_wql`?"),
            ("reforecast]\nwhen", "", "policy.a.reforecast.when: "),
        ] {
            let text = format!("[policy.a]\nfrequency = \"PT15M\"\n[policy.a.{key} = \"{sql}\"\n");
            let error = check_policies(&text, &parse(&text).unwrap()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let text = "[policy.a]\nfrequency = \"PT15M\"\n[policy.a.retrain.when]\nnew = \"true\"\nodd = \"srie > 3\"\n";
        let error = check_policies(text, &parse(text).unwrap()).unwrap_err().to_string();
        assert!(error.contains("line 5: policy.a.retrain.when.odd: "), "{error}");
        let text = "[policy.a]\nfrequency = \"PT15M\"\n[policy.a.model]\nkind = \"boosted_tree\"\n";
        let error = check_policies(text, &parse(text).unwrap()).unwrap_err().to_string();
        assert!(error.contains("line 4: policy.a.model.kind: ") && error.contains("`boosted_trees`?"), "{error}");
        let text = "[policy.a]\nfrequency = \"PT15M\"\n[policy.a.retrain]\nrequire = \"\"\n";
        check_policies(text, &parse(text).unwrap()).unwrap();
    }

    #[test]
    fn settings_of_a_model_are_checked_against_what_the_kind_has() {
        let check = |kind: &str, setting: &str| {
            let text = format!(
                "[policy.a]\nfrequency = \"PT15M\"\n[policy.a.model]\nkind = \"{kind}\"\n[policy.a.model.settings]\n{setting}\n"
            );
            check_policies(&text, &parse(&text).unwrap()).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(check("boosted_trees", "leaves_max = 31\nlearning_rate = 0.02"), "");
        for (kind, setting, words) in [
            (
                "boosted_trees",
                "leaves_maxx = 31",
                "line 6: policy.a.model.settings.leaves_maxx: `boosted_trees` has no",
            ),
            ("boosted_trees", "leaves_maxx = 31", "did you mean `leaves_max`?"),
            ("boosted_trees", "leaves_max = 1000", "leaves_max is 1000; it must be a whole number from 4 to 127"),
            ("auto", "leaves_max = 31", "line 5: policy.a.model.settings: `auto` has no settings"),
        ] {
            let error = check(kind, setting);
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn costs_are_there_together_and_before_a_gate_looks_at_them() {
        for (keys, words) in [
            ("cost_under = 3", "line 3: policy.a.cost_under: cost_over is missing: set both"),
            ("cost_over = 0.5", "line 3: policy.a.cost_over: cost_under is missing: set both"),
            ("cost_under = 0\ncost_over = 0.0", "line 3: policy.a.cost_under: cost_under and cost_over are both 0"),
            (
                "cost_under = 1\ncost_over = -2",
                "line 4: policy.a.cost_over: cost_over is -2; a cost must not be negative",
            ),
            (
                "[policy.a.gate]\naccept_if = \"cost < naive_cost\"",
                "line 4: policy.a.gate.accept_if: it looks at a cost",
            ),
            ("cost_under = 3\ncost_over = 1\n[policy.a.gate]\naccept_if = \"cost <= 0.99 * champion_cost\"", ""),
        ] {
            let text = format!("[policy.a]\nfrequency = \"PT15M\"\n{keys}\n");
            let found = check_policies(&text, &parse(&text).unwrap()).err().map(|error| error.to_string());
            assert!(found.as_ref().map_or(words.is_empty(), |error| error.contains(words)), "{keys}: {found:?}");
        }
    }

    #[test]
    fn a_model_is_given_what_it_makes_use_of_and_holidays_that_are_known() {
        let covariate = "[labels.m]\nfile = \"m.csv\"\nlabels = { tariff = \"tariff\" }\n\
                         [covariate]\ntemperature.file = \"t.csv\"\nwind.series = \"w\"\n\
                         [policy.a]\nfrequency = \"PT1H\"\n[policy.a.model]\n";
        let check = |rest: &str| {
            let text = format!("{covariate}{rest}");
            check_policies(&text, &parse(&text).unwrap()).map_err(|error| error.to_string())
        };
        for (rest, words) in [
            ("kind = \"auto\"\nholidays = \"Portugul\"\n", "line 11: policy.a.model.holidays: no public holidays"),
            ("kind = \"auto\"\nholidays = \"Portugul\"\n", "did you mean `Portugal`?"),
            (
                "kind = \"quantile_mlp\"\ncovariates = [\"temperature\"]\n",
                "line 11: policy.a.model.covariates: the model `quantile_mlp` makes no",
            ),
            (
                "kind = \"ets\"\ndays_off = [\"2026-05-05\"]\n",
                "choose a kind that does (adjusted_linear, adjusted_mlp, adjusted_trees, auto, ",
            ),
            // Lines of each series have no use for what all of its rows have in common.
            (
                "kind = \"linear_quantile\"\nlabels = [\"tariff\"]\n",
                "no use of labels; choose a kind that does (adjusted_mlp, adjusted_trees, auto, ",
            ),
            (
                "kind = \"seasonal_naive\"\ncovariates = [\"temperature\"]\n",
                "line 11: policy.a.model.covariates: the model `seasonal_naive` makes no",
            ),
            (
                "kind = \"mstl\"\nlocation = { latitude = 52.1, longitude = 5.3 }\n",
                "line 11: policy.a.model.location: the model `mstl` makes no use of the place of the sun; choose a kind",
            ),
            ("kind = \"ets\"\nholidays = \"Portugal\"\n", "line 11: policy.a.model.holidays: the model `ets`"),
            (
                "kind = \"theta\"\nworkdays = [\"2026-05-05\"]\n",
                ", harmonic, linear_quantile, prophet, seasonal_naive), or leave them out",
            ),
            (
                "kind = \"harmonic\"\ncovariates = [\"temperature\", \"wind\"]\n",
                "no use of covariates that are known of the past alone",
            ),
        ] {
            let error = check(rest).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        check("kind = \"harmonic\"\ncovariates = [\"temperature\"]\n").unwrap();
        for kind in ["harmonic", "prophet", "seasonal_naive"] {
            let days = "holidays = \"Portugal\"\ndays_off = [\"2026-05-05\"]\nworkdays = [\"2026-06-10\"]\n";
            check(&format!("kind = \"{kind}\"\n{days}")).unwrap();
        }
        check("kind = \"linear_quantile\"\ncovariates = [\"wind\"]\nholidays = \"Portugal\"\n").unwrap();
        check("kind = \"boosted_trees\"\nlocation = { latitude = 52.1, longitude = 5.3 }\n").unwrap();
        check("kind = \"auto\"\nlabels = [\"tariff\"]\ncovariates = [\"temperature\"]\nholidays = \"Portugal\"\n")
            .unwrap();
    }

    #[test]
    fn the_days_off_of_a_policy_are_the_country_s_with_some_and_without_others() {
        let text = "[policy.a]\nfrequency = \"PT1H\"\n[policy.a.model]\nkind = \"auto\"\nholidays = \"Netherlands\"\n\
                    days_off = [\"2026-05-05\"]\nworkdays = [\"2026-12-26\"]\n";
        let policy = resolve_policy(Frequency::HOUR, &parse(text).unwrap().policy);
        let days = holidays(&policy).unwrap();
        for (day, is_off) in [("2026-05-05", true), ("2026-12-25", true), ("2026-12-26", false), ("2026-05-06", false)]
        {
            assert_eq!(days.contains(day.parse().unwrap()), is_off, "{day}");
        }
    }

    #[test]
    fn the_default_policy_of_every_frequency_compiles() {
        for frequency in STANDARD {
            let policy = resolve_policy(frequency, &Default::default());
            for pipeline in Pipeline::ALL {
                let trigger = trigger_of(&policy, pipeline);
                CompiledTrigger::compile(trigger, pipeline, "g", frequency, "Europe/Lisbon").unwrap();
            }
            Predicate::compile(&policy.accept_if, &gate_schema()).unwrap();
        }
    }
}
