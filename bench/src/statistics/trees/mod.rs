//! Our booster beside those of others on the same rows: how long until both are equally good.
//!
//! The rows are those that `boosted_trees` makes of series: normalised lags, means and the calendar of one step of one
//! forecast (`rows`). The newest origins of each series are held out. Ours fits all levels at once. `peers` are
//! LightGBM, below Python, and what there is in Rust.

mod peers;
mod rows;

use std::ops::ControlFlow;
use std::time::Instant;

use meterline_models::booster::{BoosterError, Objective, Params, train};
use meterline_models::forecasters::boosted_trees::BoostedSpec;
use meterline_schemas::quantiles::LEVELS;
use serde_json::Value;

use super::Failure;
use super::boosters::{self, Boosters};
use super::handover::or_without;
use super::python::Python;
use super::work::{Took, timed};
use crate::report::{alone, smaller};
use peers::Peer;
use rows::{Rows, loss};

/// Trees after which losses are looked at, again and again.
const EVERY: usize = 20;

/// What they are trained with: as `boosted_trees` is, and as boosters usually are.
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

/// Measures training on the rows of `count` series of `points` values, and beside it LightGBM, if there is a Python, and
/// what there is in Rust, if it could be built.
///
/// # Errors
/// The series are too short to hold anything out.
pub fn measure(
    count: usize,
    points: usize,
    python: Option<&Python>,
    boosters: Option<&Boosters>,
) -> Result<Vec<Value>, Failure> {
    let (trained, held_out) = rows::rows(count, points);
    if trained.targets.is_empty() {
        return Err(format!("series of {points} values have no rows to be trained on and held out").into());
    }
    let settings = settings();
    let lightgbm = python.map(|python| ("LightGBM", python.command("lightgbm_trees.py")));
    let in_rust =
        boosters.into_iter().flat_map(|boosters| boosters::NAMES.map(|(n, what)| (what, boosters.command(n))));
    let theirs: Vec<Peer> = lightgbm
        .into_iter()
        .chain(in_rust)
        .filter_map(|(what, program)| or_without(what, peers::train(program, &trained, &held_out, &settings)))
        .collect();
    let mut all = vec![alone("trees_rows", trained.targets.len() as f64, "rows")];
    for (name, params) in &settings {
        eprintln!("booster, {name}: {} rows, {} levels", trained.targets.len(), LEVELS.len());
        let ours = fit(&trained, &held_out, params)?;
        let beside = theirs.iter().filter_map(|peer| Some((peer.label.as_str(), peer.with(name)?)));
        all.extend(rows_of(name, &ours, &beside.collect::<Vec<_>>()));
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

/// A row for each figure and each booster beside ours.
fn rows_of(name: &str, ours: &Trained, peers: &[(&str, &Trained)]) -> Vec<Value> {
    let figures = |of: &Trained| [of.took.seconds, of.took.cpu_s, of.loss];
    let names = [("training", "s"), ("training_processors", "processor s"), ("pinball", "spreads of the series")];
    let mut rows = Vec::new();
    for (place, ((what, unit), mine)) in names.into_iter().zip(figures(ours)).enumerate() {
        let name = format!("trees_{name}_{what}");
        if peers.is_empty() {
            rows.push(alone(&name, mine, unit));
        }
        rows.extend(peers.iter().map(|(label, theirs)| smaller(&name, mine, label, figures(theirs)[place], unit)));
    }
    let name = format!("trees_{name}_to_equal_pinball");
    rows.extend(peers.iter().filter_map(|(label, theirs)| {
        let (ours, theirs) = seconds_to_equal_loss(&ours.marks, &theirs.marks)?;
        Some(smaller(&name, ours, label, theirs, "s"))
    }));
    rows
}

#[cfg(test)]
mod tests {
    use super::super::DAY;
    use super::rows::HELD_OUT;
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
    fn each_booster_has_rows_of_its_own_and_ours_alone_has_some_too() {
        let found = |loss| Trained { took: Took { seconds: 1.0, cpu_s: 2.0 }, loss, marks: marks(&[loss]) };
        let (ours, theirs) = (found(2.0), [found(1.0), found(3.0)]);
        let beside = [("a", &theirs[0]), ("b", &theirs[1])];
        let names = |rows: &[Value]| rows.iter().map(|row| (row["name"].clone(), row["against"].clone())).collect();
        let all: Vec<(Value, Value)> = names(&rows_of("gentle", &ours, &beside));
        let of =
            |what: &str, against: &str| -> (Value, Value) { (format!("trees_gentle_{what}").into(), against.into()) };
        let expected = ["training", "training_processors", "pinball", "to_equal_pinball"];
        assert_eq!(all, expected.iter().flat_map(|what| [of(what, "a"), of(what, "b")]).collect::<Vec<_>>());
        let alone: Vec<(Value, Value)> = names(&rows_of("gentle", &ours, &[]));
        assert!(alone.len() == 3 && alone.iter().all(|(_, against)| against.is_null()), "{alone:?}");
    }

    #[test]
    fn rows_are_divided_by_origin_and_losses_are_those_of_training() {
        let (trained, held_out) = rows::rows(2, 21 * DAY + HELD_OUT * DAY);
        assert_eq!((trained.targets.len(), held_out.targets.len()), (2 * 7 * DAY, 2 * HELD_OUT * DAY));
        let params = Params { rounds: 2 * EVERY, leaf_rows_min: 5, ..Params::default() };
        let found = fit(&trained, &held_out, &params).unwrap();
        assert_eq!(found.marks.len(), 2);
        let (sorted, as_trained) = (found.loss, found.marks[1].loss);
        // Levels that cross are sorted here and not there.
        assert!(sorted <= as_trained && as_trained < 1.02 * sorted, "{sorted} {as_trained}");
    }
}
