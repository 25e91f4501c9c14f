//! Checks the forecasts before anybody sees them: finite, quantiles ordered, within reach of the series' history.
//! Seasonal naive stands in for a forecast that fails.

use std::collections::HashMap;

use meterline_models::data::{Panel, Series};
use meterline_models::forecaster::SeriesForecast;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{context, predict, seasonal_naive};
use crate::pipelines::SEASONAL_NAIVE;
use crate::pipelines::artifacts::{self, Prediction};
use crate::pipelines::context::{Inputs, StepContext, output};
use crate::pipelines::error::StepError;

/// A forecast may reach this many times the greatest magnitude of the context …
const REACH: f64 = 10.0;
/// … and this much beyond, so that a series of zeros may have a forecast that is not exactly zero. In the series' unit.
const SLACK: f64 = 1.0;

/// What the step produced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Path of the checked predictions below the lake's root.
    pub predictions: String,
    /// Series with a forecast.
    pub series: usize,
    /// Of them: series that seasonal naive stands in for, here or before.
    pub substituted: usize,
    /// Forecasts that failed a check.
    pub failed: usize,
    /// Steps whose quantiles had to be put in order.
    pub reordered: usize,
    /// Forecasts that failed and that nothing could stand in for; they are not published.
    pub withheld: usize,
}

/// Executes the step.
pub async fn execute(ctx: &StepContext, inputs: &Inputs) -> Result<Value, StepError> {
    let contexts: context::Output = inputs.get("context")?;
    let predicted: predict::Output = inputs.get("predict")?;
    let context = artifacts::get(&ctx.env.lake, &contexts.dataset).await?;
    let predictions = artifacts::get(&ctx.env.lake, &predicted.predictions).await?;
    let (spec, zone) = (ctx.spec.clone(), ctx.zone()?);
    let (parquet, checked) = ctx
        .blocking(move || {
            let history = artifacts::history_from_parquet(context, spec.frequency, zone)?;
            let predictions = artifacts::predictions_from_parquet(predictions)?;
            let checked = guard(&history.panel, predictions, spec.policy.horizon);
            Ok((artifacts::predictions_to_parquet(&checked.predictions)?, checked))
        })
        .await?;
    let path = ctx.artifact("checked.parquet");
    artifacts::put(&ctx.env.lake, &path, parquet).await?;
    for failure in checked.failures.iter().take(10) {
        ctx.warn(failure.clone());
    }
    if checked.failures.len() > 10 {
        ctx.warn(format!("and {} forecasts more failed a check", checked.failures.len() - 10));
    }
    let series = checked.predictions.len();
    let substituted = checked.predictions.iter().filter(|p| p.substituted).count();
    ctx.info(format!(
        "{series} forecasts checked: {} failed, {} steps had crossing quantiles, {substituted} are seasonal naive's",
        checked.failures.len(),
        checked.reordered
    ));
    ctx.metric("failed_checks", checked.failures.len() as f64);
    output(&Output {
        predictions: path,
        series,
        substituted,
        failed: checked.failures.len(),
        reordered: checked.reordered,
        withheld: checked.withheld,
    })
}

/// Forecasts that passed, or were substituted.
#[derive(Debug, Clone, PartialEq)]
struct Checked {
    predictions: Vec<Prediction>,
    failures: Vec<String>,
    reordered: usize,
    withheld: usize,
}

fn guard(contexts: &Panel, predictions: Vec<Prediction>, horizon: usize) -> Checked {
    let places: HashMap<&str, usize> = contexts.series.iter().enumerate().map(|(i, s)| (s.id.as_str(), i)).collect();
    let mut checked = Checked { predictions: Vec::new(), failures: Vec::new(), reordered: 0, withheld: 0 };
    for mut prediction in predictions {
        let place = places.get(prediction.series_id.as_str()).copied();
        let limit = place.and_then(|i| contexts.series.get(i)).map_or(f64::INFINITY, reach);
        checked.reordered += order(&mut prediction.forecast);
        let Err(reason) = check(&prediction.forecast, limit) else {
            checked.predictions.push(prediction);
            continue;
        };
        let stand_in = place
            .filter(|_| !prediction.substituted)
            .and_then(|i| seasonal_naive(contexts, &[i], horizon).pop()?.ok())
            .filter(|forecast| check(forecast, limit).is_ok());
        let then = if stand_in.is_some() { "seasonal naive stands in" } else { "it has no forecast in this run" };
        checked.failures.push(format!("{} by {}: {reason}; {then}", prediction.series_id, prediction.model_version));
        match stand_in {
            Some(forecast) => checked.predictions.push(Prediction {
                model_version: SEASONAL_NAIVE.to_owned(),
                substituted: true,
                forecast,
                ..prediction
            }),
            None => checked.withheld += 1,
        }
    }
    checked
}

/// The greatest magnitude that a forecast of `series` may have.
fn reach(series: &Series) -> f64 {
    let greatest = series.values.iter().filter(|v| v.is_finite()).fold(0.0_f32, |m, v| m.max(v.abs()));
    REACH * f64::from(greatest) + SLACK
}

/// Puts the quantiles of every step in ascending order; returns the number of steps that were not.
fn order(forecast: &mut SeriesForecast) -> usize {
    let mut crossing = 0;
    for quantiles in &mut forecast.quantiles {
        if !quantiles.is_sorted() {
            quantiles.sort_by(f64::total_cmp);
            crossing += 1;
        }
    }
    crossing
}

fn check(forecast: &SeriesForecast, limit: f64) -> Result<(), String> {
    for (step, (mean, quantiles)) in forecast.mean.iter().zip(&forecast.quantiles).enumerate() {
        for value in quantiles.iter().chain([mean]) {
            if !value.is_finite() {
                return Err(format!("step {} is not finite", step + 1));
            }
            if value.abs() > limit {
                return Err(format!("step {} is {value:.3}, beyond {limit:.3}, the reach of its history", step + 1));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;
    use meterline_schemas::Frequency;
    use meterline_schemas::quantiles::LEVELS;

    fn contexts() -> Panel {
        let values = (0..21 * 24).map(|h| (h % 24) as f32).collect();
        let zeros = vec![0.0; 21 * 24];
        Panel::new(
            Frequency::HOUR,
            TimeZone::UTC,
            vec![Series::new("a", 0, values), Series::new("new", 0, vec![f32::NAN]), Series::new("zero", 0, zeros)],
        )
    }

    fn prediction(id: &str, value: f64) -> Prediction {
        Prediction {
            series_id: id.into(),
            origin: 0,
            unit: "kWh".into(),
            scale: None,
            model_version: "PT1H-0001".into(),
            substituted: false,
            forecast: SeriesForecast { mean: vec![value; 24], quantiles: vec![[value; LEVELS.len()]; 24] },
        }
    }

    #[test]
    fn what_is_not_finite_or_out_of_reach_is_substituted_and_counted() {
        for (value, fails) in
            [(5.0, false), (230.9, false), (232.0, true), (-1e9, true), (f64::NAN, true), (f64::INFINITY, true)]
        {
            let checked = guard(&contexts(), vec![prediction("a", value)], 24);
            let [p] = &checked.predictions[..] else { panic!("one forecast of {value}") };
            assert_eq!((p.substituted, checked.failures.len()), (fails, usize::from(fails)), "{value}");
            assert_eq!(p.model_version == SEASONAL_NAIVE, fails, "{value}");
            assert!(p.forecast.mean.iter().all(|v| v.is_finite()), "{value}");
        }
    }

    #[test]
    fn a_series_of_zeros_may_have_a_small_forecast() {
        let checked = guard(&contexts(), vec![prediction("zero", 1e-6)], 24);
        assert!(checked.failures.is_empty());
    }

    #[test]
    fn what_nothing_can_stand_in_for_is_withheld() {
        let checked = guard(&contexts(), vec![prediction("new", f64::NAN)], 24);
        assert_eq!((checked.predictions.len(), checked.withheld), (0, 1));
    }

    #[test]
    fn crossing_quantiles_are_put_in_order() {
        let mut crossing = prediction("a", 5.0);
        crossing.forecast.quantiles[3] = std::array::from_fn(|level| 4.0 + level as f64);
        crossing.forecast.quantiles[3].swap(0, 1);
        let checked = guard(&contexts(), vec![crossing], 24);
        assert_eq!(checked.reordered, 1);
        assert!(checked.predictions[0].forecast.quantiles.iter().all(|q| q.is_sorted()));
        assert!(!checked.predictions[0].substituted);
    }
}
