//! Finds the group's champion.

use meterline_schemas::Micros;
use meterline_schemas::time::format_micros;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::metadata::records::{ApprovalState, ModelRecord, RunSpec};
use crate::pipelines::context::{StepContext, output};
use crate::pipelines::error::{Doing, StepError};
use crate::pipelines::{SEASONAL_NAIVE, covariates, labels};

/// What the step found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Version of the champion, or `seasonal_naive` while there is none.
    pub model_version: String,
    /// Path of its weights below the lake's root.
    pub artifact: Option<String>,
}

/// Executes the step.
pub async fn execute(ctx: &StepContext) -> Result<Value, StepError> {
    let (group, origin) = (&ctx.spec.group_id, ctx.spec.origin);
    let models = ctx.env.metadata.models().await.doing(|| format!("finding the champion of {group}"))?;
    let found = match champion_at(&models, group, origin) {
        Some(record) => {
            check_inputs(record, &ctx.spec)?;
            ctx.info(format!("{} ({}) serves {group}", record.version, record.forecaster));
            Output { model_version: record.version.clone(), artifact: Some(record.artifact.clone()) }
        }
        None => {
            let until = format_micros(origin);
            ctx.info(format!(
                "{group} has no approved model that was trained before {until}; seasonal naive stands in"
            ));
            Output { model_version: SEASONAL_NAIVE.to_owned(), artifact: None }
        }
    };
    output(&found)
}

/// Whether a champion may be given what a run has. A model sees covariates by their place: others, or in another order,
/// would give wrong forecasts.
///
/// # Errors
///
/// What differs, and what to do.
pub fn check_inputs(champion: &ModelRecord, spec: &RunSpec) -> Result<(), StepError> {
    let given = covariates::of(&spec.covariates);
    if champion.covariates == given {
        return check_labels(champion, spec);
    }
    Err(StepError::failed(
        format!("giving {} its covariates", champion.version),
        format!(
            "it was fitted with {}, and {} now gives it {}; train a model with these (`meterline retrain --group {}`), or \
             put `covariates` back as they were",
            covariates::in_words(&champion.covariates),
            spec.policy.source,
            covariates::in_words(&given),
            spec.group_id
        ),
    ))
}

// It sees labels by their names: with more of them its forecasts are the same.
fn check_labels(champion: &ModelRecord, spec: &RunSpec) -> Result<(), StepError> {
    let Some(missing) = labels::missing(&champion.labels, &spec.policy.labels) else { return Ok(()) };
    Err(StepError::failed(
        format!("giving {} its labels", champion.version),
        format!(
            "it was told `{missing}`, and {} now has {}; train a model with these (`meterline retrain --group {}`), or put \
             `labels` back as they were",
            spec.policy.source,
            labels::in_words(&spec.policy.labels),
            spec.group_id
        ),
    ))
}

/// The newest approved version of the group that knows nothing from after `origin`. For a run from now on that is the
/// champion; one from an earlier origin must not be given a model that has seen what came after it.
fn champion_at<'a>(models: &'a [ModelRecord], group: &str, origin: Micros) -> Option<&'a ModelRecord> {
    models
        .iter()
        .filter(|m| m.group_id == group && m.approval == ApprovalState::Approved && m.trained_until <= origin)
        .max_by(|a, b| a.version.cmp(&b.version))
}

#[cfg(test)]
mod tests {
    use meterline_models::data::{Covariate, Known};
    use meterline_schemas::config::CovariateConfig;
    use serde_json::json;

    use super::*;
    use crate::pipelines::spec::tests::spec;

    fn model(version: &str, group: &str, trained_until: Micros, approval: ApprovalState) -> ModelRecord {
        ModelRecord {
            version: version.into(),
            group_id: group.into(),
            run_id: version.into(),
            forecaster: "quantile_mlp".into(),
            artifact: String::new(),
            covariates: Vec::new(),
            labels: Vec::new(),
            metrics: serde_json::Map::new(),
            trained_until,
            intervals_version: 0,
            approval,
            approval_reason: String::new(),
            created_at: trained_until,
        }
    }

    #[test]
    fn no_model_forecasts_from_before_what_it_was_trained_on() {
        use ApprovalState::{Approved, Pending, Rejected};
        let models = [
            model("a-1", "a", 10, Approved),
            model("a-2", "a", 20, Approved),
            model("a-3", "a", 30, Rejected),
            model("a-4", "a", 40, Pending),
            model("b-1", "b", 50, Approved),
        ];
        for (origin, expected) in
            [(5, None), (10, Some("a-1")), (19, Some("a-1")), (20, Some("a-2")), (99, Some("a-2"))]
        {
            assert_eq!(champion_at(&models, "a", origin).map(|m| m.version.as_str()), expected, "{origin}");
        }
    }

    #[test]
    fn a_champion_that_was_fitted_with_other_covariates_is_refused_with_the_remedy() {
        let covariate = |name: &str, known| Covariate { name: name.into(), known };
        let mut champion = model("PT1H-0003", "PT1H", 0, ApprovalState::Approved);
        champion.covariates = vec![covariate("temperature", Known::Ahead), covariate("wind", Known::Past)];
        let config =
            |known| serde_json::from_value::<CovariateConfig>(json!({ "file": "w.csv", "known": known })).unwrap();
        let (ahead, past) = (config("ahead"), config("past"));
        let mut spec = spec("r");
        spec.covariates = vec![("temperature".into(), ahead.clone()), ("wind".into(), past.clone())];
        check_inputs(&champion, &spec).unwrap();
        for other in [
            vec![("wind".to_owned(), past.clone()), ("temperature".to_owned(), ahead.clone())],
            vec![("temperature".to_owned(), past), ("wind".to_owned(), ahead.clone())],
            vec![("temperature".to_owned(), ahead)],
            vec![],
        ] {
            spec.covariates = other;
            let error = check_inputs(&champion, &spec).unwrap_err().to_string();
            assert!(error.contains("fitted with `temperature` (known ahead), `wind` (known of the past)"), "{error}");
            assert!(error.contains("`meterline retrain --group PT1H`"), "{error}");
        }
        spec.covariates.clear();
        champion.covariates.clear();
        champion.labels = vec!["tariff".into()];
        let error = check_inputs(&champion, &spec).unwrap_err().to_string();
        assert!(error.contains("it was told `tariff`, and default now has no labels; train a model"), "{error}");
        spec.policy.labels = vec!["region".into(), "tariff".into()];
        check_inputs(&champion, &spec).unwrap();
    }
}
