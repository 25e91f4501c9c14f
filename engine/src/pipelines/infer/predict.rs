//! Forecasts all series in one batch, and lets seasonal naive stand in where the model has no forecast.

use std::collections::HashSet;

use meterline_models::forecaster::Forecaster;
use meterline_models::metrics::seasonal_scale;
use meterline_models::plausible::hide;
use meterline_schemas::time::format_micros;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{backcast, context, load, reconcile, seasonal_naive};
use crate::known_ahead::Filled;
use crate::metadata::records::Pipeline;
use crate::pipelines::artifacts::{self, Prediction};
use crate::pipelines::context::{Inputs, StepContext, output};
use crate::pipelines::correct::find;
use crate::pipelines::covariates::horizon::{self, Completed, Informed};
use crate::pipelines::error::StepError;
use crate::pipelines::history::{self, History};
use crate::pipelines::{SEASONAL_NAIVE, model};

/// What the step produced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Version of the model that was used; `seasonal_naive` without a champion, or with one that cannot be loaded.
    #[serde(default)]
    pub model_version: String,
    /// Path of the predictions below the lake's root.
    pub predictions: String,
    /// Series with a forecast.
    pub series: usize,
    /// Of them: series that seasonal naive stands in for.
    pub substituted: usize,
    /// Series that not even seasonal naive has enough history for.
    pub skipped: usize,
    /// Path below the lake's root of what forecasts from one horizon earlier missed, where reconciliation needs it.
    #[serde(default)]
    pub errors: Option<String>,
}

/// Executes the step.
pub async fn execute(ctx: &StepContext, inputs: &Inputs) -> Result<Value, StepError> {
    let loaded: load::Output = inputs.get("load")?;
    let contexts: context::Output = inputs.get("context")?;
    let champion = match &loaded.artifact {
        Some(artifact) => match model::load(ctx, &loaded.model_version, artifact).await? {
            Ok(champion) => Some(champion),
            // Labelled forecasts of the fallback are better than none until somebody mends or replaces the champion.
            Err(reason) => {
                ctx.warn(format!("seasonal naive stands in for every series: {reason}"));
                None
            }
        },
        None => None,
    };
    let with_champion = champion.is_some();
    let model_version = if with_champion { loaded.model_version } else { SEASONAL_NAIVE.to_owned() };
    let wanted: Option<HashSet<String>> = match ctx.spec.pipeline {
        Pipeline::Correct => Some(inputs.get::<find::Output>("find")?.series.into_iter().collect()),
        _ => None,
    };
    let bytes = artifacts::get(&ctx.env.lake, &contexts.dataset).await?;
    let (spec, zone, stop) = (ctx.spec.clone(), ctx.zone()?, ctx.stop.clone());
    let version = model_version.clone();
    let backcast_origin = reconcile::weighs_by_errors(ctx).then(|| backcast::origin(&spec, &zone));
    let (parquet, found, errors, filled) = ctx
        .blocking(move || {
            let mut history = artifacts::history_from_parquet(bytes, spec.frequency, zone)?;
            stop.check()?;
            let errors = backcast_origin.map(|origin| {
                let champion = champion.as_deref().map(|champion| (version.as_str(), champion));
                let forecast = |shown: &History| predict(shown, champion, spec.policy.horizon).predictions;
                artifacts::history_to_parquet(&backcast::errors(&history, origin, forecast))
            });
            stop.check()?;
            // What only the backcast needed.
            history.keep_last(history::shown(&spec.policy));
            // Here, so that the scale of errors is of what models see.
            hide(&mut history.panel);
            let completed = match champion {
                Some(_) => horizon::whole(&spec, &mut history.panel)?,
                None => Completed::default(),
            };
            let without = &completed.without;
            let champion = champion.as_deref().map(|model| Informed { model, without });
            let champion = champion.as_ref().map(|champion| (version.as_str(), champion as &dyn Forecaster));
            let mut found = predict(&history, champion, spec.policy.horizon);
            if let Some(wanted) = wanted {
                found.predictions.retain(|prediction| wanted.contains(&prediction.series_id));
            }
            stop.check()?;
            Ok((artifacts::predictions_to_parquet(&found.predictions)?, found, errors.transpose()?, completed.filled))
        })
        .await?;
    for Filled { covariate, values, oldest } in filled {
        ctx.warn(format!(
            "{values} values of the covariate `{covariate}` were missing within the horizon and were filled by its \
             fallback, the oldest from {}",
            format_micros(oldest)
        ));
    }
    let errors = match errors {
        Some(parquet) => {
            let path = ctx.artifact("errors.parquet");
            artifacts::put(&ctx.env.lake, &path, parquet).await?;
            Some(path)
        }
        None => None,
    };
    let predictions = ctx.artifact("predictions.parquet");
    artifacts::put(&ctx.env.lake, &predictions, parquet).await?;
    let (series, substituted) = (found.predictions.len(), found.substituted());
    ctx.info(format!("{series} series forecast by {model_version} for {} intervals", ctx.spec.policy.horizon));
    if let (Some(reason), true) = (&found.refused, with_champion) {
        ctx.warn(format!("seasonal naive stands in for {substituted} series; the first: {reason}"));
    }
    if let Some(reason) = &found.skipped_first {
        ctx.warn(format!("{} series have no forecast yet; the first: {reason}", found.skipped));
    }
    ctx.metric("series", series as f64);
    ctx.metric("substituted", substituted as f64);
    output(&Output { model_version, predictions, series, substituted, skipped: found.skipped, errors })
}

/// Forecasts of a group.
#[derive(Debug, Clone, PartialEq)]
struct Found {
    predictions: Vec<Prediction>,
    skipped: usize,
    // The first series, and why it has no forecast at all.
    skipped_first: Option<String>,
    // The first series that the model has no forecast for, and why.
    refused: Option<String>,
}

impl Found {
    fn substituted(&self) -> usize {
        self.predictions.iter().filter(|p| p.substituted).count()
    }
}

fn predict(history: &History, champion: Option<(&str, &dyn Forecaster)>, horizon: usize) -> Found {
    let panel = &history.panel;
    let mut forecasts: Vec<_> = match champion {
        Some((_, model)) => model.forecast(panel, horizon).into_iter().map(Some).collect(),
        None => Vec::new(),
    };
    // A model that answers for fewer series than it was asked for has no forecast for the rest.
    forecasts.resize(panel.series.len(), None);
    let mut refused = None;
    let mut open = Vec::new();
    for (i, forecast) in forecasts.iter().enumerate() {
        match forecast {
            Some(Ok(_)) => continue,
            Some(Err(reason)) if refused.is_none() => refused = Some(format!("{}: {reason}", panel.series[i].id)),
            _ => {}
        }
        open.push(i);
    }
    let mut stand_ins = open.iter().copied().zip(seasonal_naive(panel, &open, horizon)).peekable();
    let mut found = Found { predictions: Vec::new(), skipped: 0, skipped_first: None, refused };
    for (i, (forecast, series)) in forecasts.into_iter().zip(&panel.series).enumerate() {
        let stand_in = stand_ins.next_if(|(place, _)| *place == i).map(|(_, forecast)| forecast);
        let substituted = stand_in.is_some();
        let forecast = match stand_in.or(forecast) {
            Some(Ok(forecast)) => forecast,
            other => {
                found.skipped += 1;
                if let (None, Some(Err(reason))) = (&found.skipped_first, other) {
                    found.skipped_first = Some(format!("{}: {reason}", series.id));
                }
                continue;
            }
        };
        let version = champion.map_or(SEASONAL_NAIVE, |(version, _)| version);
        found.predictions.push(Prediction {
            series_id: series.id.clone(),
            origin: series.origin(panel.frequency, &panel.zone),
            unit: history.units.get(i).cloned().unwrap_or_default(),
            scale: seasonal_scale(&series.values, panel.frequency.season()),
            model_version: if substituted { SEASONAL_NAIVE } else { version }.to_owned(),
            substituted,
            forecast,
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipelines::context::tests::step_context;
    use crate::pipelines::spec::tests::environment;
    use jiff::tz::TimeZone;
    use meterline_models::data::{Panel, Series};
    use meterline_models::forecaster::{NoForecast, SeriesForecast};
    use meterline_schemas::quantiles::LEVELS;
    use meterline_schemas::time::HOUR;
    use meterline_schemas::{Frequency, Micros};

    /// Knows every series but those that begin with `x`.
    struct Constant;

    impl Forecaster for Constant {
        fn name(&self) -> &str {
            "constant"
        }

        fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
            let one = SeriesForecast { mean: vec![7.0; horizon], quantiles: vec![[7.0; LEVELS.len()]; horizon] };
            let answer = |s: &Series| if s.id.starts_with('x') { Err(NoForecast::NotFinite) } else { Ok(one.clone()) };
            panel.series.iter().map(answer).collect()
        }
    }

    fn history() -> History {
        let days = |id: &str, days: usize| {
            Series::new(id, 0, (0..24 * days).map(|h| (h % 24) as f32 + (h % 7) as f32).collect())
        };
        let new = Series::new("x-new", 0, vec![f32::NAN; 2]);
        let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, vec![days("a", 21), days("x-b", 20), new]);
        History { panel, units: vec!["kWh".into(), "degC".into(), "kWh".into()] }
    }

    #[test]
    fn seasonal_naive_stands_in_where_the_model_has_no_forecast() {
        let found = predict(&history(), Some(("PT1H-0001", &Constant)), 48);
        let [a, b] = &found.predictions[..] else { panic!("two forecasts: {found:?}") };
        assert_eq!((a.model_version.as_str(), a.substituted, a.forecast.mean[0]), ("PT1H-0001", false, 7.0));
        assert_eq!((b.model_version.as_str(), b.substituted, b.unit.as_str()), (SEASONAL_NAIVE, true, "degC"));
        assert_eq!((a.origin, b.origin), (21 * 24 * HOUR, 20 * 24 * HOUR), "each from its own end");
        assert!(a.scale.is_some_and(|s| s > 0.0));
        assert_eq!(found.skipped, 1, "what is missing altogether is forecast by no model");
        assert!(found.skipped_first.is_some_and(|r| r.starts_with("x-new: ")));
    }

    #[tokio::test]
    async fn a_value_that_no_meter_can_have_meant_spoils_neither_forecast_nor_scale() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = step_context(environment(directory.path()).await, "predict").await;
        let dataset = ctx.artifact("context.parquet");
        let mut history = history();
        // The newest values, too: the forecast begins after them all the same.
        for (place, far) in [(0, 100), (0, 503), (1, 479)] {
            history.panel.series[place].values[far] = 999_999.0;
        }
        artifacts::put(&ctx.env.lake, &dataset, artifacts::history_to_parquet(&history).unwrap()).await.unwrap();
        let contexts = context::Output { dataset, series: 2, silent: 0, intervals: 41 * 24 };
        let loaded = load::Output { model_version: SEASONAL_NAIVE.into(), artifact: None };
        let inputs = [("load", output(&loaded).unwrap()), ("context", output(&contexts).unwrap())];
        let found = execute(&ctx, &Inputs(inputs.into_iter().collect())).await.unwrap();
        let found: Output = serde_json::from_value(found).unwrap();
        let bytes = artifacts::get(&ctx.env.lake, &found.predictions).await.unwrap();
        let found = artifacts::predictions_from_parquet(bytes).unwrap();
        let origins: Vec<Micros> = found.iter().map(|prediction| prediction.origin).collect();
        assert_eq!(origins, [21 * 24 * HOUR, 20 * 24 * HOUR]);
        for prediction in found {
            assert!(prediction.forecast.quantiles.as_flattened().iter().all(|value| *value < 100.0));
            assert!(prediction.scale.is_some_and(|scale| scale < 10.0), "{:?}", prediction.scale);
        }
    }

    #[tokio::test]
    async fn a_champion_that_cannot_be_loaded_is_told_and_substituted() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = step_context(environment(directory.path()).await, "predict").await;
        let dataset = ctx.artifact("context.parquet");
        let parquet = artifacts::history_to_parquet(&history()).unwrap();
        artifacts::put(&ctx.env.lake, &dataset, parquet).await.unwrap();
        let contexts = context::Output { dataset, series: 2, silent: 0, intervals: 41 * 24 };
        let artifact = Some("models/PT1H-0001/weights".to_owned());
        let loaded = load::Output { model_version: "PT1H-0001".into(), artifact };
        let inputs = [("load", output(&loaded).unwrap()), ("context", output(&contexts).unwrap())];
        let found = execute(&ctx, &Inputs(inputs.into_iter().collect())).await.unwrap();
        let found: Output = serde_json::from_value(found).unwrap();
        assert_eq!((found.model_version.as_str(), found.series, found.substituted), (SEASONAL_NAIVE, 2, 2));
        let bytes = artifacts::get(&ctx.env.lake, &found.predictions).await.unwrap();
        assert!(artifacts::predictions_from_parquet(bytes).unwrap().iter().all(|p| p.substituted));
        ctx.recorder.flush().await;
        let logs = ctx.env.metadata.logs("r").await.unwrap();
        assert!(logs.iter().any(|l| l.level == "warn" && l.message.contains("PT1H-0001")), "{logs:?}");
    }

    #[test]
    fn without_a_champion_every_forecast_is_marked() {
        let found = predict(&history(), None, 24);
        assert!(found.predictions.iter().all(|p| p.substituted && p.model_version == SEASONAL_NAIVE));
        assert_eq!((found.predictions.len(), found.skipped), (2, 1));
    }
}
