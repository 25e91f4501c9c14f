//! Our booster beside LightGBM on the same rows: how long until both are equally good.
//!
//! The rows are those that `boosted_trees` makes of series ([`Design`]): normalised lags, means and the calendar of one
//! step of one forecast. The newest origins of each series are held out. Ours fits all levels at once, LightGBM one
//! model a level.

use std::ops::ControlFlow;
use std::time::Instant;

use jiff::tz::TimeZone;
use meterline_models::booster::{BoosterError, Dataset, Matrix, Objective, Params, train};
use meterline_models::data::{Panel, Series};
use meterline_models::design::Design;
use meterline_models::forecaster::Task;
use meterline_models::forecasters::boosted_trees::BoostedSpec;
use meterline_models::metrics::pinball;
use meterline_schemas::Frequency;
use meterline_schemas::quantiles::LEVELS;
use meterline_tests::sandbox::Sandbox;
use serde_json::{Map, Value, json};

use super::python::{Python, floats, write};
use super::work::{Took, timed};
use super::{DAY, Failure, HORIZON, series};
use crate::report::{alone, smaller};

/// Origins of each series that are held out: a week of days.
const HELD_OUT: usize = 7;
/// Trees after which losses are looked at, again and again.
const EVERY: usize = 20;

/// What the two are trained with: as `boosted_trees` is, and as boosters usually are.
fn settings() -> [(&'static str, Params); 2] {
    [("gentle", BoostedSpec::default().params), ("usual", Params { rounds: 200, ..Params::default() })]
}

/// Seconds of training and the loss on rows that were held out, after so many trees.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Mark {
    seconds: f64,
    loss: f64,
}

/// One training: what all of it took, the loss of what it predicts then, and those on the way.
struct Trained {
    took: Took,
    loss: f64,
    marks: Vec<Mark>,
}

/// Seconds after which each of two reached the best loss of the worse one.
fn seconds_to_equal_loss(ours: &[Mark], theirs: &[Mark]) -> Option<(f64, f64)> {
    let best = |marks: &[Mark]| marks.iter().map(|mark| mark.loss).fold(f64::INFINITY, f64::min);
    let loss = best(ours).max(best(theirs));
    let reached = |marks: &[Mark]| marks.iter().find(|mark| mark.loss <= loss).map(|mark| mark.seconds);
    Some((reached(ours)?, reached(theirs)?))
}

/// Rows of features, and what is to be predicted of them.
#[derive(Default)]
struct Rows {
    columns: Vec<Vec<f32>>,
    targets: Vec<f32>,
    weights: Vec<f32>,
    groups: Vec<u32>,
}

impl Rows {
    fn matrix(&self) -> Result<Matrix, BoosterError> {
        Matrix::from_columns(&self.columns)
    }

    fn dataset<'a>(&'a self, matrix: &'a Matrix) -> Dataset<'a> {
        Dataset::new(matrix, &self.targets).with_weights(&self.weights).with_groups(&self.groups)
    }
}

/// The rows that are trained on, and those that are held out.
fn rows(count: usize, points: usize) -> (Rows, Rows) {
    let series = series::loads(count, points).into_iter().enumerate();
    let series = series.map(|(number, values)| Series::new(format!("load-{number}"), 0, values)).collect();
    let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, series);
    let design = Design::new(&panel, &Task::new(HORIZON, HORIZON, 1));
    let empty = || Rows { columns: vec![Vec::new(); design.width() + 1], ..Rows::default() };
    let (mut trained, mut held_out) = (empty(), empty());
    let mut features = vec![0.0; design.width()];
    let mut group = 0;
    for (number, series) in panel.series.iter().enumerate() {
        let origins = points.saturating_sub(design.first_origin()) / DAY;
        for back in (1..=origins).rev() {
            let origin = points - back * DAY;
            let rows = if back <= HELD_OUT { &mut held_out } else { &mut trained };
            for (step, value) in series.values[origin..].iter().take(HORIZON).enumerate() {
                let Some(normal) = design.row(number, origin, step, &mut features) else { continue };
                let all = features.iter().copied().chain([number as f32]);
                rows.columns.iter_mut().zip(all).for_each(|(column, feature)| column.push(feature));
                rows.targets.push(((f64::from(*value) - normal.level) / normal.spread) as f32);
                rows.weights.push((normal.spread / design.spread(number)) as f32);
                rows.groups.push(group);
            }
            group += 1;
        }
    }
    (trained, held_out)
}

/// Measures training on the rows of `count` series of `points` values, and beside it LightGBM, if there is a Python.
///
/// # Errors
/// The series are too short to hold anything out, or what LightGBM says cannot be read.
pub fn measure(count: usize, points: usize, python: Option<&Python>) -> Result<Vec<Value>, Failure> {
    let (trained, held_out) = rows(count, points);
    if trained.targets.is_empty() {
        return Err(format!("series of {points} values have no rows to be trained on and held out").into());
    }
    let theirs = match python {
        Some(python) => python.or_without("LightGBM", ask(python, &trained, &held_out)),
        None => None,
    };
    let mut all = vec![alone("trees_rows", trained.targets.len() as f64, "rows")];
    for (place, (name, params)) in settings().into_iter().enumerate() {
        eprintln!("booster, {name}: {} rows, {} levels", trained.targets.len(), LEVELS.len());
        let ours = fit(&trained, &held_out, &params)?;
        let peer = theirs.as_ref().and_then(|(label, of)| Some((label.as_str(), of.get(place)?)));
        all.extend(rows_of(name, &ours, peer));
    }
    Ok(all)
}

fn fit(trained: &Rows, held_out: &Rows, params: &Params) -> Result<Trained, BoosterError> {
    let (matrix, held_out_matrix) = (trained.matrix()?, held_out.matrix()?);
    let data = trained.dataset(&matrix);
    let objective = Objective::Quantiles(LEVELS.to_vec());
    let mut seconds = Vec::new();
    let (booster, took) = timed(|| {
        let begun = Instant::now();
        train(&data, None, params, &objective, &mut |_| {
            seconds.push(begun.elapsed().as_secs_f64());
            ControlFlow::Continue(())
        })
    });
    let predicted = booster?.predict(&held_out_matrix, None)?;
    // The same trees again, to know their losses, which shall not be in the time.
    let mut losses = Vec::new();
    train(&data, Some(&held_out.dataset(&held_out_matrix)), params, &objective, &mut |at| {
        losses.extend(at.loss);
        ControlFlow::Continue(())
    })?;
    let marks = seconds.into_iter().zip(losses).map(|(seconds, loss)| Mark { seconds, loss });
    let loss = loss(held_out, predicted.into_iter().map(f64::from));
    Ok(Trained { took, loss, marks: marks.skip(EVERY - 1).step_by(EVERY).collect() })
}

/// What LightGBM makes of the same rows, with each of [`settings`], and what it is called.
fn ask(python: &Python, trained: &Rows, held_out: &Rows) -> Result<(String, Vec<Trained>), Failure> {
    let place = Sandbox::new();
    let file = |name: &str| place.path().join(name);
    write(&file("features"), trained.columns.iter().zip(&held_out.columns).flat_map(|(a, b)| a.iter().chain(b)))?;
    write(&file("targets"), trained.targets.iter().chain(&held_out.targets))?;
    write(&file("weights"), trained.weights.iter().chain(&held_out.weights))?;
    let mut asked = Map::new();
    for (name, params) in settings() {
        asked.insert(name.to_owned(), serde_json::to_value(params)?);
    }
    let job = json!({
        "trained": trained.targets.len(), "features": trained.columns.len(), "levels": LEVELS, "every": EVERY,
        "settings": asked,
    });
    let answer = python.run("lightgbm_trees.py", place.path(), &job)?;
    let mut all = Vec::new();
    for (name, _) in settings() {
        let of = &answer["settings"][name];
        let seconds: Vec<f64> = of["seconds"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let predicted = floats(&file(name))?;
        let of_mark = held_out.targets.len() * LEVELS.len();
        if seconds.is_empty() || predicted.len() != seconds.len() * of_mark {
            return Err(format!("{} times and {} predictions of {name}", seconds.len(), predicted.len()).into());
        }
        let losses = predicted.chunks_exact(of_mark).map(|predicted| loss(held_out, predicted.iter().copied()));
        let marks: Vec<Mark> =
            seconds.iter().zip(losses).map(|(seconds, loss)| Mark { seconds: *seconds, loss }).collect();
        let cpu_s = of["cpu_s"].as_f64().ok_or_else(|| format!("no cpu_s of {name}"))?;
        let took = Took { seconds: seconds.last().copied().unwrap_or(f64::NAN), cpu_s };
        all.push(Trained { took, loss: marks.last().map_or(f64::NAN, |mark| mark.loss), marks });
    }
    Ok((format!("LightGBM {}", answer["version"].as_str().unwrap_or_default()), all))
}

/// Mean over rows, by weight, and levels of the pinball loss of `predicted`, rows × levels. That of our booster while it
/// trains is the same, but for levels that cross, which are sorted in what it predicts.
fn loss(rows: &Rows, mut predicted: impl Iterator<Item = f64>) -> f64 {
    let (mut losses, mut weights) = (0.0, 0.0);
    for (target, weight) in rows.targets.iter().zip(&rows.weights) {
        let quantiles = predicted.by_ref().take(LEVELS.len()).zip(LEVELS);
        let of_row: f64 = quantiles.map(|(quantile, level)| pinball(f64::from(*target), quantile, level)).sum();
        losses += f64::from(*weight) * of_row / LEVELS.len() as f64;
        weights += f64::from(*weight);
    }
    losses / weights
}

fn rows_of(name: &str, ours: &Trained, peer: Option<(&str, &Trained)>) -> Vec<Value> {
    let row = |what: &str, unit: &str, figure: &dyn Fn(&Trained) -> f64| {
        let name = format!("trees_{name}_{what}");
        match peer {
            Some((label, theirs)) => smaller(&name, figure(ours), label, figure(theirs), unit),
            None => alone(&name, figure(ours), unit),
        }
    };
    let mut rows = vec![
        row("training", "s", &|trained| trained.took.seconds),
        row("training_processors", "processor s", &|trained| trained.took.cpu_s),
        row("pinball", "spreads of the series", &|trained| trained.loss),
    ];
    rows.extend(peer.and_then(|(label, theirs)| {
        let (ours, theirs) = seconds_to_equal_loss(&ours.marks, &theirs.marks)?;
        Some(smaller(&format!("trees_{name}_to_equal_pinball"), ours, label, theirs, "s"))
    }));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(losses: &[f64]) -> Vec<Mark> {
        losses.iter().zip(1..).map(|(loss, second)| Mark { seconds: f64::from(second), loss: *loss }).collect()
    }

    #[test]
    fn the_better_one_is_given_no_more_time_than_the_worse_one_needs() {
        for (ours, theirs, expected) in [
            (&[5.0, 3.0, 1.0][..], &[4.0, 3.0, 3.0][..], Some((2.0, 2.0))),
            (&[5.0, 3.0, 2.0], &[4.0, 1.0], Some((3.0, 2.0))),
            (&[2.0, 3.0], &[2.0], Some((1.0, 1.0))),
            (&[], &[2.0], None),
        ] {
            assert_eq!(seconds_to_equal_loss(&marks(ours), &marks(theirs)), expected, "{ours:?} {theirs:?}");
        }
    }

    #[test]
    fn rows_are_divided_by_origin_and_losses_are_those_of_training() {
        let (trained, held_out) = rows(2, 21 * DAY + HELD_OUT * DAY);
        assert_eq!((trained.targets.len(), held_out.targets.len()), (2 * 7 * DAY, 2 * HELD_OUT * DAY));
        let params = Params { rounds: 2 * EVERY, leaf_rows_min: 5, ..Params::default() };
        let found = fit(&trained, &held_out, &params).unwrap();
        assert_eq!(found.marks.len(), 2);
        let (sorted, as_trained) = (found.loss, found.marks[1].loss);
        // Levels that cross are sorted here and not there.
        assert!(sorted <= as_trained && as_trained < 1.02 * sorted, "{sorted} {as_trained}");
    }
}
