//! Models of one series, series by series, beside those of statsforecast: series a second, a second of a processor, and
//! how good the forecasts are.

use meterline_models::statistics::{Method, Request, StatisticsError};
use meterline_schemas::quantiles::LEVELS;
use meterline_tests::sandbox::Sandbox;
use serde_json::{Value, json};

use super::accuracy::{Score, WIDTH, score};
use super::handover::{self, floats, or_without, write};
use super::python::Python;
use super::work::{Took, in_parallel, timed_for};
use super::{DAY, Failure, HORIZON, WEEK, series};
use crate::report::{alone, compared, smaller};

/// Least time that is measured, in seconds, as in `statsforecast_models.py`: `/proc` counts processor time in hundredths.
const SECONDS_MIN: f64 = 1.0;
/// Series that are forecast once before anything is measured.
const WARM: usize = 4;

/// One of our models, and what it is shown.
struct Measured {
    method: Method,
    periods: &'static [usize],
    is_demand: bool,
}

const fn of_load(method: Method, periods: &'static [usize]) -> Measured {
    Measured { method, periods, is_demand: false }
}

const fn of_demand(method: Method) -> Measured {
    Measured { method, periods: &[], is_demand: true }
}

/// All that are measured. `statsforecast_models.py` knows by their names what stands beside them, with the same seasons.
const MODELS: [Measured; 9] = [
    of_load(Method::SeasonalNaive, &[WEEK]),
    of_load(Method::Ets, &[DAY]),
    of_load(Method::Theta, &[DAY]),
    of_load(Method::Mstl, &[DAY, WEEK]),
    of_load(Method::Harmonic, &[DAY, WEEK]),
    of_load(Method::Prophet, &[DAY, WEEK]),
    of_demand(Method::Croston),
    of_demand(Method::Sba),
    of_demand(Method::Tsb),
];

/// One model over all series.
struct Found {
    took: Took,
    said: Vec<f64>,
}

/// A model of the other side.
struct Peer {
    label: String,
    found: Found,
}

/// Measures all models on `count` series of `points` values, and beside each its peer, if there is a Python.
///
/// # Errors
/// A model of ours has no forecast of a series, or what the peers say cannot be read.
pub fn measure(count: usize, points: usize, python: Option<&Python>) -> Result<Vec<Value>, Failure> {
    let length = points + HORIZON;
    let (loads, demands) = (series::loads_from_any_hour(count, length), series::demands(count, length));
    let peers = match python {
        Some(python) => or_without("statsforecast", ask(python, &loads, &demands)),
        None => None,
    };
    let mut rows = Vec::new();
    for (place, model) in MODELS.iter().enumerate() {
        let name = model.method.name();
        eprintln!("{name}: {count} series");
        let series = if model.is_demand { &demands } else { &loads };
        let ours = run(model, series, points).map_err(|error| format!("{name}: {error}"))?;
        let peer = peers.as_ref().and_then(|peers| peers.get(place)?.as_ref());
        rows.extend(rows_of(name, series, &ours, peer));
    }
    Ok(rows)
}

fn run(model: &Measured, series: &[Vec<f32>], points: usize) -> Result<Found, StatisticsError> {
    let known: Vec<Vec<f64>> =
        series.iter().map(|values| values.iter().take(points).map(|value| f64::from(*value)).collect()).collect();
    forecast(model, &known[..known.len().min(WARM)])?;
    let (said, took) = timed_for(SECONDS_MIN, || forecast(model, &known));
    Ok(Found { took, said: said? })
}

/// Forecasts of all series, on all processors, as [`score`] takes them.
fn forecast(model: &Measured, known: &[Vec<f64>]) -> Result<Vec<f64>, StatisticsError> {
    let of_series = |number: usize| -> Result<Vec<f64>, StatisticsError> {
        let predicted = model.method.forecast(&Request {
            values: &known[number],
            periods: model.periods,
            regressors: &[],
            horizon: HORIZON,
            levels: &LEVELS,
        })?;
        let steps = predicted.mean.iter().zip(&predicted.quantiles);
        Ok(steps.flat_map(|(mean, quantiles)| std::iter::once(*mean).chain(quantiles.iter().copied())).collect())
    };
    let all: Result<Vec<Vec<f64>>, StatisticsError> = in_parallel(known.len(), of_series).into_iter().collect();
    Ok(all?.concat())
}

/// What statsforecast has beside each of [`MODELS`].
fn ask(python: &Python, loads: &[Vec<f32>], demands: &[Vec<f32>]) -> Result<Vec<Option<Peer>>, Failure> {
    let place = Sandbox::new();
    write(&place.path().join("loads"), loads.iter().flatten())?;
    write(&place.path().join("demands"), demands.iter().flatten())?;
    let models = MODELS.map(|model| {
        let series = if model.is_demand { "demands" } else { "loads" };
        json!({"name": model.method.name(), "series": series, "periods": model.periods})
    });
    let job = json!({"series": loads.len(), "horizon": HORIZON, "levels": LEVELS, "models": models});
    let answer = handover::ask(python.command("statsforecast_models.py"), place.path(), &job)?;
    let peer = |model: &Measured| -> Result<Option<Peer>, Failure> {
        let name = model.method.name();
        let Some(of) = answer["models"].get(name) else { return Ok(None) };
        let figure = |what: &str| of[what].as_f64().ok_or_else(|| format!("no {what} of {name}"));
        let said = floats(&place.path().join(name))?;
        if said.len() != loads.len() * HORIZON * WIDTH {
            return Err(format!("{} numbers of {name}", said.len()).into());
        }
        let took = Took { seconds: figure("seconds")?, cpu_s: figure("cpu_s")? };
        let label = of["label"].as_str().unwrap_or(name).to_owned();
        Ok(Some(Peer { label, found: Found { took, said } }))
    };
    MODELS.iter().map(peer).collect()
}

fn rows_of(name: &str, series: &[Vec<f32>], ours: &Found, peer: Option<&Peer>) -> Vec<Value> {
    let count = series.len() as f64;
    let (rate, per_core) = (|took: &Took| count / took.seconds, |took: &Took| count / took.cpu_s);
    let Score { mase, wql } = score(series, &ours.said);
    let (label, theirs) = match peer {
        Some(peer) => (peer.label.as_str(), Some((peer.found.took, score(series, &peer.found.said)))),
        None => ("", None),
    };
    let speed = |what: &str, ours: f64, theirs: Option<f64>, unit: &str| {
        let name = format!("{name}_{what}");
        match theirs {
            Some(theirs) => compared(&name, ours, label, theirs, unit),
            None => alone(&name, ours, unit),
        }
    };
    let error = |what: &str, ours: Option<f64>, theirs: Option<f64>| {
        let name = format!("{name}_{what}");
        ours.map(|ours| match theirs {
            Some(theirs) => smaller(&name, ours, label, theirs, "1"),
            None => alone(&name, ours, "1"),
        })
    };
    let of_theirs = |figure: fn(&(Took, Score)) -> Option<f64>| theirs.as_ref().and_then(figure);
    let mut rows = vec![
        speed("series", rate(&ours.took), theirs.map(|(took, _)| rate(&took)), "series/s"),
        speed("series_per_core", per_core(&ours.took), theirs.map(|(took, _)| per_core(&took)), "series/processor s"),
    ];
    rows.extend(error("mase", mase, of_theirs(|(_, score)| score.mase)));
    rows.extend(error("wql", wql, of_theirs(|(_, score)| score.wql)));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_forecasts_what_is_made() {
        let points = 1000;
        for model in MODELS {
            let made = if model.is_demand { series::demands } else { series::loads };
            let series = made(3, points + HORIZON);
            let known: Vec<Vec<f64>> =
                series.iter().map(|values| values[..points].iter().map(|value| f64::from(*value)).collect()).collect();
            let said = forecast(&model, &known).unwrap();
            assert_eq!(said.len(), 3 * HORIZON * WIDTH);
            let found = score(&series, &said);
            assert!(found.mase.is_some_and(|mase| mase < 3.0), "{} {found:?}", model.method.name());
            assert!(found.wql.is_some(), "{}", model.method.name());
        }
    }

    #[test]
    fn a_ratio_above_one_is_better_in_speed_as_in_error() {
        let series = series::loads(2, 400 + HORIZON);
        let actuals = |factor: f64| -> Vec<f64> {
            let steps = series.iter().flat_map(|values| &values[400..]);
            steps.flat_map(|actual| [factor * f64::from(*actual); WIDTH]).collect()
        };
        let found = |seconds: f64, factor: f64| Found { took: Took { seconds, cpu_s: seconds }, said: actuals(factor) };
        let peer = Peer { label: "peer".into(), found: found(2.0, 1.2) };
        let rows = rows_of("model", &series, &found(1.0, 1.1), Some(&peer));
        assert_eq!(rows.len(), 4);
        for row in rows {
            assert!((row["ratio"].as_f64().unwrap() - 2.0).abs() < 1e-3, "{row}");
        }
    }
}
