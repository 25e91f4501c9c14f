//! Makes the forecasts of one set of roll-ups and their parts agree. Pure.
//!
//! **Which intervals.** Series are forecast each from its own last interval on, over one horizon. What is made to agree
//! are the intervals from the latest of these origins on; a series that is late has no forecast of the last of them, and
//! is taken to go on there as a season before. Of the intervals before, where only late series have forecasts, a roll-up
//! becomes the sum of its parts, whatever the way.
//!
//! **Quantiles** move with their mean, so each series keeps the spread that was calibrated on its own errors.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::Range as Steps;

use jiff::tz::TimeZone;
use meterline_models::reconcile::{Range, Structure, StructureError, bottom_up, shift_quantiles};
use meterline_schemas::Frequency;
use meterline_schemas::config::Reconcile;
use meterline_schemas::quantiles::LEVELS;

use super::assemble::Sum;
use super::weights::{Errors, Weighed, reconciler};
use crate::pipelines::artifacts::Prediction;

/// Intervals that are solved at once; bounds the memory beside the forecasts themselves.
const STEPS_AT_ONCE: usize = 32;

/// What must be known beside the forecasts.
pub struct Facts<'a> {
    /// Length of the intervals.
    pub frequency: Frequency,
    /// Zone of their calendar.
    pub zone: &'a TimeZone,
    /// Intervals of each forecast.
    pub horizon: usize,
    /// Identifiers of series that [may be below zero](meterline_models::data::Series::may_be_below_zero).
    pub negative: &'a BTreeSet<String>,
    /// Past errors.
    pub errors: &'a Errors,
}

/// What was done to one set.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreed {
    /// How forecasts were weighed; `None` where the parts decided alone.
    pub weighed: Option<Weighed>,
    /// Series whose last interval is earlier than that of others.
    pub late: usize,
    /// Over roll-ups and intervals: by how much their own forecasts differed from the sums of their parts' …
    pub gap: f64,
    /// … and what they were, both without sign.
    pub size: f64,
}

/// A set: its structure, and for each node …
struct Set<'a> {
    structure: Structure,
    facts: &'a Facts<'a>,
    // … the place of its forecast, …
    places: Vec<usize>,
    // … by how many intervals its origin is before the latest, …
    late: Vec<i64>,
    // … and how many leaves are under it.
    leaf_counts: Vec<usize>,
    non_negative: bool,
}

/// Makes `predictions` agree where `sums` say so: all of one way, and each of them connected with the others by what
/// they have in common.
///
/// # Errors
/// In words; `predictions` are then unchanged.
pub fn agree(predictions: &mut [Prediction], sums: &[&Sum], facts: &Facts<'_>) -> Result<Agreed, String> {
    let set = Set::new(predictions, sums, facts).map_err(text)?;
    set.check(predictions)?;
    let horizon = facts.horizon as i64;
    let by_errors = sums.iter().any(|sum| sum.way == Reconcile::MinTrace);
    let solver = by_errors.then(|| reconciler(&set.structure, facts.errors)).transpose().map_err(text)?;
    let (mut means, mut gap, mut size) = (Vec::with_capacity(facts.horizon), 0.0, 0.0);
    for chunk in chunks(0..horizon) {
        let base: Vec<Vec<f64>> = chunk.map(|step| set.means(predictions, step)).collect();
        let added =
            base.iter().map(|base| bottom_up(&set.structure, base)).collect::<Result<Vec<_>, _>>().map_err(text)?;
        for (base, added) in base.iter().zip(&added) {
            for node in set.wholes() {
                gap += (base[node] - added[node]).abs();
                size += base[node].abs();
            }
        }
        means.extend(match &solver {
            Some((solver, _)) => {
                let range = if set.non_negative { Range::NonNegative } else { Range::Any };
                solver.reconcile_steps(&base, range).map_err(text)?
            }
            None => added,
        });
    }
    // From the last interval to the first: where a late series goes on as a season before, it does so as it was forecast.
    for (step, means) in means.iter().enumerate().rev() {
        let written = if solver.is_some() { 0..set.structure.nodes() } else { set.wholes() };
        set.write(predictions, step as i64, means, written)?;
    }
    set.write_sums_before(predictions)?;
    let late = set.late.iter().filter(|late| **late > 0).count();
    Ok(Agreed { weighed: solver.map(|(_, weighed)| weighed), late, gap, size })
}

fn text(error: impl Display) -> String {
    error.to_string()
}

fn chunks(steps: Steps<i64>) -> impl Iterator<Item = Steps<i64>> {
    let end = steps.end;
    steps.step_by(STEPS_AT_ONCE).map(move |from| from..(from + STEPS_AT_ONCE as i64).min(end))
}

impl<'a> Set<'a> {
    fn new(predictions: &[Prediction], sums: &[&Sum], facts: &'a Facts<'a>) -> Result<Set<'a>, StructureError> {
        let wholes: BTreeSet<usize> = sums.iter().map(|sum| sum.whole).collect();
        let parts: BTreeSet<usize> = sums.iter().flat_map(|sum| sum.parts.iter().copied()).collect();
        let leaves: Vec<usize> = parts.into_iter().filter(|place| !wholes.contains(place)).collect();
        let id = |place: &usize| predictions[*place].series_id.as_str();
        let nodes: Vec<(&str, Vec<&str>)> =
            sums.iter().map(|sum| (id(&sum.whole), sum.parts.iter().map(id).collect())).collect();
        let structure = Structure::new(&leaves.iter().map(id).collect::<Vec<_>>(), &nodes)?;
        let places: Vec<usize> = leaves.into_iter().chain(sums.iter().map(|sum| sum.whole)).collect();
        let origins = || places.iter().map(|place| predictions[*place].origin);
        let latest = origins().max().unwrap_or(0);
        let late = origins().map(|origin| facts.frequency.steps_between(origin, latest, facts.zone)).collect();
        let non_negative = structure.names().iter().all(|name| !facts.negative.contains(name));
        let leaf_counts = structure.leaf_counts();
        Ok(Set { structure, facts, places, late, leaf_counts, non_negative })
    }

    fn wholes(&self) -> Steps<usize> {
        self.structure.leaves()..self.structure.nodes()
    }

    // What `write` relies on, so that nothing is half written.
    fn check(&self, predictions: &[Prediction]) -> Result<(), String> {
        for place in &self.places {
            let Prediction { series_id, forecast, .. } = &predictions[*place];
            let lengths = [forecast.mean.len(), forecast.quantiles.len()];
            let sound = |q: &[f64; LEVELS.len()]| q.iter().all(|q| q.is_finite()) && q.is_sorted();
            if lengths != [self.facts.horizon; 2] || !forecast.mean.iter().all(|mean| mean.is_finite()) {
                return Err(format!("the forecast of {series_id} is not whole"));
            }
            if !forecast.quantiles.iter().all(sound) {
                return Err(format!("the quantiles of {series_id} are not in order"));
            }
        }
        Ok(())
    }

    // Place of a step in the forecast of a node: beyond its end a season earlier, or the last one. `None` before its
    // beginning. Steps count from the latest origin.
    fn place(&self, node: usize, step: i64) -> Option<usize> {
        let (horizon, season) = (self.facts.horizon, self.facts.frequency.season());
        let mut place = usize::try_from(self.late[node] + step).ok()?;
        if place >= horizon && season <= horizon {
            place -= ((place - horizon) / season + 1) * season;
        }
        Some(place.min(horizon - 1))
    }

    // Whether the forecast of a node has a step.
    fn has(&self, node: usize, step: i64) -> bool {
        (0..self.facts.horizon as i64).contains(&(self.late[node] + step))
    }

    // Over nodes; 0 where a forecast has not begun.
    fn means(&self, predictions: &[Prediction], step: i64) -> Vec<f64> {
        let of = |(node, place): (usize, &usize)| {
            self.place(node, step).map_or(0.0, |step| predictions[*place].forecast.mean[step])
        };
        self.places.iter().enumerate().map(of).collect()
    }

    // Gives the nodes `written` their means of one step, and moves the quantiles.
    fn write(
        &self,
        predictions: &mut [Prediction],
        step: i64,
        means: &[f64],
        written: impl IntoIterator<Item = usize>,
    ) -> Result<(), String> {
        let base = self.means(predictions, step);
        let of = |(node, place): (usize, &usize)| {
            self.place(node, step).map_or([0.0; LEVELS.len()], |step| predictions[*place].forecast.quantiles[step])
        };
        let mut quantiles: Vec<[f64; LEVELS.len()]> = self.places.iter().enumerate().map(of).collect();
        let non_negative = self.non_negative && means.iter().all(|mean| *mean >= 0.0);
        let range = if non_negative { Range::NonNegative } else { Range::Any };
        shift_quantiles(&self.structure, &base, means, &mut quantiles, range).map_err(text)?;
        for node in written {
            if !self.has(node, step) {
                continue;
            }
            let Some(step) = self.place(node, step) else { continue };
            let forecast = &mut predictions[self.places[node]].forecast;
            (forecast.mean[step], forecast.quantiles[step]) = (means[node], quantiles[node]);
        }
        Ok(())
    }

    // Makes roll-ups the sums of their parts before the latest origin, where all of these have forecasts.
    fn write_sums_before(&self, predictions: &mut [Prediction]) -> Result<(), String> {
        let first = -self.wholes().map(|node| self.late[node]).max().unwrap_or(0);
        for step in (first..0).rev() {
            let begun = |node: usize| if self.place(node, step).is_some() { 1.0 } else { 0.0 };
            let begun: Vec<f64> = (0..self.structure.nodes()).map(begun).collect();
            let begun = bottom_up(&self.structure, &begun).map_err(text)?;
            let means = bottom_up(&self.structure, &self.means(predictions, step)).map_err(text)?;
            let all = |node: &usize| begun[*node] as usize == self.leaf_counts[*node];
            self.write(predictions, step, &means, self.wholes().filter(all))?;
        }
        Ok(())
    }
}
