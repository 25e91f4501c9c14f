//! One model and many series: how long until all are forecast, and how much memory that takes.
//!
//! Each model runs in a process of its own, because the highest memory of a process never falls.

use std::ops::ControlFlow;
use std::process::{Command, Stdio};

use jiff::tz::TimeZone;
use meterline_models::data::{Panel, Series};
use meterline_models::forecaster::{Forecaster, NoForecast, SeriesForecast, Task};
use meterline_models::forecasters::seasonal_naive::SeasonalNaive;
use meterline_models::registry;
use meterline_schemas::Frequency;
use meterline_schemas::quantiles::LEVELS;
use serde_json::{Value, json};

use super::accuracy::{WIDTH, score};
use super::work::timed;
use super::{Failure, HORIZON, WEEK, series};
use crate::ingest::process::usage;
use crate::report::{alone, smaller};

/// The models.
pub const MODELS: [&str; 6] = ["theta", "mstl", "global_linear", "linear_quantile", "boosted_trees", "feature_mlp"];
/// Of whatever is random.
const SEED: u64 = 1;

/// Fits a model to `count` series of `points` values and forecasts each, in this process, which did nothing else; a
/// document of what that took.
///
/// # Errors
/// There is no such model, or it cannot be fitted.
pub fn alone_in_process(model: &str, count: usize, points: usize) -> Result<Value, Failure> {
    let kind = registry::find(model).ok_or_else(|| format!("there is no model `{model}`"))?;
    let all = series::loads(count, points + HORIZON);
    let known = all.iter().enumerate().map(|(number, values)| {
        Series::new(format!("load-{number}"), 0, values.iter().take(points).copied().collect())
    });
    let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, known.collect());
    let task = Task::new(HORIZON, 4 * WEEK, SEED);
    let (forecasts, took) = timed(|| {
        let fitted = kind.model().fit(&panel, &task, &mut |_| ControlFlow::Continue(()))?;
        Ok::<_, Failure>(fitted.forecast(&panel, HORIZON))
    });
    let forecasts = forecasts?;
    let peak_mib = usage(std::process::id()).map(|usage| usage.peak_mib);
    let naive = SeasonalNaive::long(Frequency::HOUR).forecast(&panel, HORIZON);
    Ok(json!({
        "seconds": took.seconds, "cpu_s": took.cpu_s, "peak_mib": peak_mib,
        "refused": forecasts.iter().filter(|forecast| forecast.is_err()).count(),
        "wql": score(&all, &numbers(&forecasts)).wql, "naive_wql": score(&all, &numbers(&naive)).wql,
    }))
}

/// Series × [`HORIZON`] × [`WIDTH`]; NaN where there is no forecast.
fn numbers(forecasts: &[Result<SeriesForecast, NoForecast>]) -> Vec<f64> {
    let mut numbers = Vec::with_capacity(forecasts.len() * HORIZON * WIDTH);
    for forecast in forecasts {
        for step in 0..HORIZON {
            let said = forecast.as_ref().ok().and_then(|said| said.mean.get(step).zip(said.quantiles.get(step)));
            let (mean, quantiles) = said.map_or((f64::NAN, [f64::NAN; LEVELS.len()]), |(mean, of)| (*mean, *of));
            numbers.push(mean);
            numbers.extend(quantiles);
        }
    }
    numbers
}

/// Measures each of [`MODELS`] by this program, started again with `--alone MODEL`.
///
/// # Errors
/// One of them fails.
pub fn measure(count: usize, points: usize) -> Result<Vec<Value>, Failure> {
    let mut rows = Vec::new();
    for model in MODELS {
        eprintln!("{model}: {count} series of {points} values, fitted and forecast");
        let mut program = Command::new(std::env::current_exe()?);
        program.args(["--alone", model, "--series", &count.to_string(), "--points", &points.to_string()]);
        let done = program.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        if !done.status.success() {
            return Err(format!("{model} failed: {}", done.status).into());
        }
        rows.extend(rows_of(model, count, &serde_json::from_slice(&done.stdout)?));
    }
    Ok(rows)
}

fn rows_of(model: &str, count: usize, found: &Value) -> Vec<Value> {
    let name = |what: &str| format!("{model}_{count}_series_{what}");
    let figure = |what: &str| found[what].as_f64().unwrap_or(f64::NAN);
    vec![
        alone(&name("time"), figure("seconds") / 60.0, "min"),
        alone(&name("processors"), figure("cpu_s") / 60.0, "processor min"),
        alone(&name("peak_memory"), figure("peak_mib"), "MiB"),
        alone(&name("refused"), figure("refused"), "series"),
        smaller(&name("wql"), figure("wql"), "seasonal naive, week", figure("naive_wql"), "1"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_model_forecasts_every_series_better_than_the_naive() {
        for model in MODELS {
            let found = alone_in_process(model, 4, 1000).unwrap();
            assert_eq!(found["refused"], 0, "{model}");
            let rows = rows_of(model, 4, &found);
            assert!(rows.iter().all(|row| row["ours"].is_f64()), "{model} {rows:?}");
            let ratio = rows.last().and_then(|row| row["ratio"].as_f64());
            assert!(ratio.is_some_and(|ratio| ratio > 0.8), "{model} {ratio:?}");
        }
        assert!(alone_in_process("crystal_ball", 1, 1000).is_err());
    }
}
