//! Triggers: when the pipelines run, and why.
//!
//! [`facts`] say how things stand, one row per model group and trigger; [`predicate`] evaluates a policy's SQL over
//! them; [`decide`] is the pure decision; [`service`] watches commits and runs, records every decision, and starts
//! runs.

pub mod decide;
pub mod facts;
pub mod predicate;
pub mod service;

use arrow::datatypes::SchemaRef;
use meterline_models::registry;
use meterline_schemas::config::{Config, ConfigError, ResolvedPolicy, ResolvedTrigger};
use meterline_schemas::facts::fact_schema;

pub use facts::{FactsError, facts_table};

use self::predicate::{Predicate, gate_schema};

use crate::metadata::records::Pipeline;

/// The trigger of a policy that starts a pipeline.
pub fn trigger_of(policy: &ResolvedPolicy, pipeline: Pipeline) -> &ResolvedTrigger {
    match pipeline {
        Pipeline::Build => &policy.retrain,
        Pipeline::Infer => &policy.reforecast,
    }
}

/// Checks every predicate that the configuration `text` has in its policies.
///
/// # Errors
///
/// [`ConfigError`], with the key, its line and the remedy.
pub fn check_policies(text: &str, config: &Config) -> Result<(), ConfigError> {
    for (name, policy) in &config.policy {
        let facts = fact_schema();
        let predicates: [(&str, &Option<String>, &SchemaRef); 5] = [
            ("retrain.when", &policy.retrain.when, &facts),
            ("retrain.require", &policy.retrain.require, &facts),
            ("reforecast.when", &policy.reforecast.when, &facts),
            ("reforecast.require", &policy.reforecast.require, &facts),
            ("gate.accept_if", &policy.gate.accept_if, &gate_schema()),
        ];
        for (key, sql, schema) in predicates {
            // An empty `require` requires nothing.
            let Some(sql) = sql.as_deref().filter(|sql| !(key.ends_with("require") && sql.trim().is_empty())) else {
                continue;
            };
            Predicate::compile(sql, schema)
                .map_err(|e| ConfigError::of_key(text, &format!("policy.{name}.{key}"), &e.to_string()))?;
        }
        let kind = policy.model.kind.as_deref().filter(|kind| registry::find(kind).is_none());
        if let Some(unknown) = kind {
            return Err(ConfigError::of_key(text, &format!("policy.{name}.model.kind"), &no_such_kind(unknown)));
        }
    }
    Ok(())
}

/// That there is no model of this name, which there is instead, and how to see all.
pub(crate) fn no_such_kind(name: &str) -> String {
    let likeness = |kind: &&registry::Kind| strsim::jaro_winkler(name, kind.name);
    let nearest = registry::KINDS.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let meant = nearest.map(|kind| format!("did you mean `{}`? ", kind.name)).unwrap_or_default();
    format!("there is no model `{name}`; {meant}`meterline models kinds` lists all")
}

#[cfg(test)]
mod tests {
    use meterline_schemas::config::{parse, resolve_policy};
    use meterline_schemas::frequency::STANDARD;

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
        let text = "[policy.a]\nfrequency = \"PT15M\"\n[policy.a.model]\nkind = \"boosted_tree\"\n";
        let error = check_policies(text, &parse(text).unwrap()).unwrap_err().to_string();
        assert!(error.contains("line 4: policy.a.model.kind: ") && error.contains("`boosted_trees`?"), "{error}");
        let text = "[policy.a]\nfrequency = \"PT15M\"\n[policy.a.retrain]\nrequire = \"\"\n";
        check_policies(text, &parse(text).unwrap()).unwrap();
    }

    #[test]
    fn the_default_policy_of_every_frequency_compiles() {
        for frequency in STANDARD {
            let policy = resolve_policy(frequency, &Default::default());
            for pipeline in Pipeline::ALL {
                decide::CompiledTrigger::compile(trigger_of(&policy, pipeline)).unwrap();
            }
            Predicate::compile(&policy.accept_if, &gate_schema()).unwrap();
        }
    }
}
