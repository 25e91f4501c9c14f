//! What another configuration would change, before it does: triggers, models, forecasts, and the time on the device.

use std::collections::BTreeMap;
use std::sync::Arc;

use meterline_schemas::Micros;
use serde::Serialize;
use serde_json::Value;

use super::facts::{FactSource, FactsError};
use super::now::look;
use super::past;
use super::predicate::PredicateError;
use super::remembered::Present;
use crate::environment::Environment;
use crate::ingest::load_committed;
use crate::metadata::MetadataError;
use crate::metadata::records::{Pipeline, RunSpec};
use crate::pipelines::infer::load::check_inputs;
use crate::pipelines::spec;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The committed state or the metadata database did not answer.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// The metadata database did not answer.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A predicate of the configuration cannot be evaluated.
    #[error(transparent)]
    Predicate(#[from] PredicateError),
}

/// What a configuration would change of one model group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupPlan {
    /// The group.
    pub group_id: String,
    /// The policies that apply to it.
    pub source: String,
    /// Whether it had a run, by which its policy can be compared.
    pub had_runs: bool,
    /// What its last runs went by and what would be otherwise, key by key.
    pub changes: Vec<Change>,
    /// What its triggers would do.
    pub triggers: Vec<TriggerPlan>,
    /// What becomes of its champion.
    pub model: ModelPlan,
    /// Series that would be forecast anew at once.
    pub series_to_reforecast: usize,
    /// Seconds on the device for what would start at once, by what such runs took; `None` where none was measured.
    pub device_seconds: Option<f64>,
}

/// A key of a policy that is another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Its name, such as `retrain.cooldown`.
    pub key: String,
    /// As the last run had it.
    pub was: Value,
    /// As it would be.
    pub is: Value,
}

/// What one trigger would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TriggerPlan {
    /// `retrain`, `reforecast` or `correct`.
    pub trigger: &'static str,
    /// Whether it would start a run at once.
    pub fires: bool,
    /// Why, or why not.
    pub reason: String,
    /// When it could start one, in words.
    pub next: String,
}

/// What becomes of the champion.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ModelPlan {
    /// There is none.
    None,
    /// It goes on serving.
    Serves {
        /// Its version.
        version: String,
        /// What of the policy only the next model will have.
        waits: Vec<String>,
    },
    /// It cannot serve: forecasts fail until another model is there.
    Invalid {
        /// Its version.
        version: String,
        /// Why, and what to do.
        why: String,
    },
}

/// Keys that a model is made by: another value counts from the next model on.
const OF_MODELS: [&str; 15] = [
    "horizon",
    "context",
    "model",
    "settings",
    "train_time",
    "history",
    "evaluate_windows",
    "seed",
    "covariates",
    "labels",
    "holidays",
    "days_off",
    "workdays",
    "location",
    "origins_a_day",
];

/// What the configuration of `env` would change, group by group, given what its lake and metadata database hold.
///
/// # Errors
///
/// [`PlanError`].
pub async fn plan(env: &Environment, now: Micros) -> Result<Vec<GroupPlan>, PlanError> {
    let Some(committed) = load_committed(&env.lake, &env.config, env.directory()).await.map_err(FactsError::from)?
    else {
        return Ok(Vec::new());
    };
    let present = Present::read(&env.metadata).await?;
    let standings: BTreeMap<_, _> = env.metadata.standings().await?.into_iter().collect();
    let shared = Arc::new(env.clone());
    let all = FactSource::default().assemble(&shared, &committed, &present, now).await?;
    let mut plans: Vec<GroupPlan> = Vec::new();
    for of in &all {
        let group = &of.group;
        let spec = spec::for_group(env, group, &committed, of.pipeline, None);
        let standing = standings.get(&(group.group_id.clone(), of.pipeline)).cloned().unwrap_or_default();
        let (verdict, next) = look(of, &spec.policy, &standing, &present.active, now)?;
        let known = plans.iter().position(|plan| plan.group_id == group.group_id);
        let all_anew = known
            .and_then(|at| plans.get(at))
            .is_some_and(|plan| plan.triggers.iter().any(|of| of.fires && of.trigger == Pipeline::Infer.trigger()));
        let is_overtaken = of.pipeline == Pipeline::Correct && all_anew;
        let trigger = TriggerPlan {
            trigger: of.pipeline.trigger(),
            fires: verdict.fired && !is_overtaken,
            reason: if is_overtaken { "all series are forecast anew".to_owned() } else { verdict.reason },
            next: next.told(),
        };
        let runs = env.metadata.group_runs(&group.group_id, of.pipeline, 50).await?;
        let changes = runs.first().map(|last| changes(&last.spec, &spec)).unwrap_or_default();
        let cost = if trigger.fires { past::typical(&runs, &group.group_id).get(&of.pipeline).copied() } else { None };
        let costs = if trigger.fires { cost.and_then(|cost| cost.device_seconds) } else { Some(0.0) };
        let series = if trigger.fires && of.pipeline == Pipeline::Infer { group.series } else { 0 };
        let Some(plan) = known.and_then(|at| plans.get_mut(at)) else {
            plans.push(GroupPlan {
                group_id: group.group_id.clone(),
                source: spec.policy.source.clone(),
                model: model_plan(env, &spec, &changes).await?,
                had_runs: !runs.is_empty(),
                changes,
                triggers: vec![trigger],
                series_to_reforecast: series,
                device_seconds: costs,
            });
            continue;
        };
        plan.changes.extend(
            changes
                .into_iter()
                .filter(|change| !plan.changes.iter().any(|of| of.key == change.key))
                .collect::<Vec<_>>(),
        );
        plan.had_runs |= !runs.is_empty();
        plan.triggers.push(trigger);
        plan.series_to_reforecast += series;
        plan.device_seconds = plan.device_seconds.zip(costs).map(|(a, b)| a + b);
    }
    Ok(plans)
}

async fn model_plan(env: &Environment, spec: &RunSpec, changes: &[Change]) -> Result<ModelPlan, MetadataError> {
    let Some(champion) = env.metadata.champion(&spec.group_id).await? else { return Ok(ModelPlan::None) };
    if let Err(error) = check_inputs(&champion, spec) {
        return Ok(ModelPlan::Invalid { version: champion.version, why: error.to_string() });
    }
    let of_models = |change: &&Change| OF_MODELS.iter().any(|key| change.key.split('.').next() == Some(key));
    let waits = changes.iter().filter(of_models).map(|change| change.key.clone()).collect();
    Ok(ModelPlan::Serves { version: champion.version, waits })
}

/// The keys in which the policy of a run differs from what another one would go by.
fn changes(was: &RunSpec, is: &RunSpec) -> Vec<Change> {
    let policy = |spec: &RunSpec| serde_json::to_value(&spec.policy).unwrap_or_default();
    let mut found = Vec::new();
    differences("", &policy(was), &policy(is), &mut found);
    let covariates = |spec: &RunSpec| serde_json::to_value(&spec.covariates).unwrap_or_default();
    differences("covariate", &covariates(was), &covariates(is), &mut found);
    // Where a key comes from changes nothing.
    found.retain(|change| change.key != "source" && !change.key.ends_with("configured"));
    found
}

fn differences(key: &str, was: &Value, is: &Value, found: &mut Vec<Change>) {
    match (was, is) {
        (Value::Object(was), Value::Object(is)) => {
            let mut names: Vec<&String> = was.keys().chain(is.keys()).collect();
            names.sort_unstable();
            names.dedup();
            for name in names {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                let of = |all: &serde_json::Map<String, Value>| all.get(name).cloned().unwrap_or_default();
                differences(&key, &of(was), &of(is), found);
            }
        }
        (was, is) if was != is => {
            found.push(Change { key: key.to_owned(), was: was.clone(), is: is.clone() });
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use meterline_schemas::Frequency;
    use meterline_schemas::config::{parse, resolve_policy};

    use super::*;
    use crate::pipelines::spec::tests::spec;

    #[test]
    fn what_differs_is_told_key_by_key() {
        let of = |text: &str| {
            let policies = parse(&format!("[policy.a]\nfrequency = \"PT1H\"\n{text}")).unwrap().policy;
            RunSpec { policy: resolve_policy(Frequency::HOUR, &policies), ..spec("r") }
        };
        let was = of("[policy.a.retrain]\ncooldown = \"1d\"\n[policy.a.model]\nseed = 1\n");
        let is = of(
            "horizon = \"1d\"\n[policy.a.retrain]\ncooldown = \"2d\"\nschedule = \"0 3 * * *\"\n[policy.a.retrain.when]\n\
                     new = \"new_intervals > 3\"\n[policy.a.model.settings]\nwidth = 3\n",
        );
        let found = changes(&was, &is);
        let keys: Vec<&str> = found.iter().map(|change| change.key.as_str()).collect();
        assert_eq!(keys, ["horizon", "retrain.cooldown", "retrain.schedule", "retrain.when", "settings.width"]);
        assert_eq!((&found[1].was, &found[1].is), (&Value::from("1d"), &Value::from("2d")));
        assert!(
            changes(&was, &of("[policy.a.retrain]\ncooldown = \"1d\"\n")).is_empty(),
            "what is the default is the same"
        );
    }
}
