//! Scores candidate, champion and seasonal naive on the same windows, all later than what the candidate trained on.

use std::collections::BTreeMap;

use meterline_models::backtest::{Evaluation, compare};
use meterline_models::forecaster::Forecaster;
use meterline_models::forecasters::seasonal_naive::SeasonalNaive;
use meterline_schemas::time::format_micros;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{evaluation_origins, preprocess, train};
use crate::pipelines::context::{Inputs, StepContext, output};
use crate::pipelines::error::StepError;
use crate::pipelines::{artifacts, model};

/// What the step produced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// `wql`, `nd`, `mase`, `coverage` of the candidate, the same of seasonal naive with the prefix `naive_` and of the
    /// champion with the prefix `champion_`. While there is no champion, seasonal naive is the champion.
    pub figures: BTreeMap<String, Option<f64>>,
    /// Version of the champion.
    pub champion: Option<String>,
    /// Scored (series, origin, step) points.
    pub points: usize,
    /// Scored (series, origin) windows.
    pub windows: usize,
    /// Windows that a model had no forecast for, scored for none.
    pub windows_without_forecast: usize,
    /// Origins of the windows.
    pub origins: Vec<String>,
}

/// Executes the step.
pub async fn execute(ctx: &StepContext, inputs: &Inputs) -> Result<Value, StepError> {
    let dataset: preprocess::Output = inputs.get("preprocess")?;
    let trained: train::Output = inputs.get("train")?;
    let spec = ctx.spec.clone();
    let zone = ctx.zone()?;
    let origins = evaluation_origins(&spec, &zone);
    let candidate = model::load(ctx, "of this run", &trained.weights).await?;
    let champion_record = ctx
        .env
        .metadata
        .champion(&spec.group_id)
        .await
        .map_err(|e| StepError::failed(format!("finding the champion of {}", spec.group_id), e))?;
    let champion = match &champion_record {
        Some(record) => {
            if origins.first().is_some_and(|first| record.trained_until > *first) {
                ctx.warn(format!(
                    "the champion {} was trained until {}, into the evaluation windows: its figures flatter it",
                    record.version,
                    format_micros(record.trained_until)
                ));
            }
            Some(model::load(ctx, &record.version, &record.artifact).await?)
        }
        None => None,
    };
    let bytes = artifacts::get(&ctx.env.lake, &dataset.dataset).await?;
    let (stop, windows) = (ctx.stop.clone(), origins.clone());
    let evaluations = ctx
        .blocking(move || {
            let mut history = artifacts::history_from_parquet(bytes, spec.frequency, zone)?;
            // What an infer run would see at each origin, and not the years before it.
            history.keep_last(spec.policy.context + spec.policy.evaluate_windows * spec.policy.horizon);
            stop.check()?;
            let naive = SeasonalNaive::for_frequency(spec.frequency);
            let mut models: Vec<&dyn Forecaster> = vec![&candidate, &naive];
            models.extend(champion.as_ref().map(|c| c as &dyn Forecaster));
            Ok(compare(&models, &history.panel, &windows, spec.policy.horizon))
        })
        .await?;
    let [candidate, naive, rest @ ..] = &evaluations[..] else {
        return Err(StepError::failed("scoring the candidate", "the comparison gave no figures"));
    };
    let figures = figures(candidate, naive, rest.first());
    for (name, value) in &figures {
        if let Some(value) = value {
            ctx.metric(name, *value);
        }
    }
    let champion = champion_record.map(|c| c.version);
    ctx.info(format!(
        "on {} points of {} windows: {}",
        candidate.points,
        candidate.windows,
        sentence(&figures, champion.as_deref())
    ));
    output(&Output {
        figures,
        champion,
        points: candidate.points,
        windows: candidate.windows,
        windows_without_forecast: candidate.windows_without_forecast,
        origins: origins.into_iter().map(format_micros).collect(),
    })
}

fn figures(candidate: &Evaluation, naive: &Evaluation, champion: Option<&Evaluation>) -> BTreeMap<String, Option<f64>> {
    let mut figures = BTreeMap::new();
    for (prefix, e) in [("", candidate), ("naive_", naive), ("champion_", champion.unwrap_or(naive))] {
        for (name, value) in [("wql", e.wql), ("nd", e.nd), ("mase", e.mase), ("coverage", e.coverage)] {
            figures.insert(format!("{prefix}{name}"), value);
        }
    }
    figures
}

fn sentence(figures: &BTreeMap<String, Option<f64>>, champion: Option<&str>) -> String {
    let show = |name: &str| match figures.get(name).copied().flatten() {
        Some(value) => format!("{value:.4}"),
        None => "none".to_owned(),
    };
    let against = match champion {
        Some(version) => format!(", champion {version} {}", show("champion_wql")),
        None => ", no champion yet".to_owned(),
    };
    format!(
        "wQL {}, seasonal naive {}{against}; ND {}, MASE {}, coverage of the 80 % interval {}",
        show("wql"),
        show("naive_wql"),
        show("nd"),
        show("mase"),
        show("coverage")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(wql: Option<f64>) -> Evaluation {
        Evaluation {
            model: "m".into(),
            wql,
            nd: None,
            mase: None,
            coverage: None,
            points: 0,
            windows: 0,
            windows_without_forecast: 0,
            steps: Vec::new(),
        }
    }

    #[test]
    fn without_a_champion_seasonal_naive_is_the_champion() {
        let found = figures(&evaluation(Some(0.1)), &evaluation(Some(0.2)), None);
        assert_eq!((found["wql"], found["naive_wql"], found["champion_wql"]), (Some(0.1), Some(0.2), Some(0.2)));
        let found = figures(&evaluation(Some(0.1)), &evaluation(Some(0.2)), Some(&evaluation(None)));
        assert_eq!(found["champion_wql"], None, "a champion that was not scored is a missing figure");
    }
}
