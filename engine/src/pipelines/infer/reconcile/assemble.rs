//! Which forecasts of a run have to add up to which others, and which roll-ups are left as they are. Pure.

use std::collections::{BTreeMap, HashMap};

use jiff::tz::TimeZone;
use meterline_models::data::Panel;
use meterline_schemas::config::Reconcile;
use meterline_schemas::{Frequency, Micros};
use serde::{Deserialize, Serialize};

use super::hierarchy::Hierarchy;
use crate::pipelines::artifacts::Prediction;

/// A roll-up whose forecast has to be the sum of others; all by their places among the forecasts of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// The roll-up.
    pub whole: usize,
    /// Its parts: series, and roll-ups one level below. At least one.
    pub parts: Vec<usize>,
    /// How they are made to agree.
    pub way: Reconcile,
}

/// Why a roll-up keeps the forecast that was made for it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// A part has no forecast in this run: it is too young, or its forecast failed all checks.
    PartWithoutForecast,
    /// A part is forecast in another run: it has another frequency, or another calendar.
    PartElsewhere,
    /// A part has values of another unit.
    PartOfAnotherUnit,
    /// No part has had an interval for a horizon or more, or none belongs to it any more.
    NoParts,
    /// Its own last interval is a horizon or more before that of a part.
    Ended,
    /// The arithmetic failed; the log says how.
    Failed,
}

impl Why {
    /// What it says of roll-ups, for people.
    pub const fn in_words(self) -> &'static str {
        match self {
            Why::PartWithoutForecast => "have a part without a forecast in this run",
            Why::PartElsewhere => "have a part that is forecast in another run (another frequency or calendar)",
            Why::PartOfAnotherUnit => "have a part of another unit",
            Why::NoParts => "have no part that had an interval within one horizon",
            Why::Ended => "had no interval within one horizon",
            Why::Failed => "could not be reconciled",
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assembly {
    /// Sums, parts before wholes.
    pub sums: Vec<Sum>,
    /// Roll-ups with a forecast that are left as they are, by the reason, with the identifier of one of them.
    pub left: BTreeMap<Why, (usize, String)>,
    /// Parts that have had no interval for a horizon before their roll-up's last one, and are in no sum.
    pub ended: usize,
}

impl Assembly {
    /// Counts a roll-up that is left as it is.
    pub fn leave(&mut self, why: Why, series: &str) {
        self.left.entry(why).or_insert_with(|| (0, series.to_owned())).0 += 1;
    }
}

/// What a run knows of its series.
pub struct Known<'a> {
    predictions: &'a [Prediction],
    frequency: Frequency,
    zone: TimeZone,
    horizon: usize,
    // By series: the end of its last interval, and the place of its forecast.
    series: HashMap<&'a str, (Micros, Option<usize>)>,
}

/// Something that a roll-up is the sum of.
#[derive(Debug, Clone, Copy)]
enum Part {
    // End of its last interval, and the place of its forecast.
    Forecast(Micros, usize),
    // End of its last interval, where that is known, and what is missing.
    Missing(Option<Micros>, Why),
}

impl<'a> Known<'a> {
    /// Of forecasts that are each `horizon` intervals long, and of the contexts that they were made from.
    pub fn new(predictions: &'a [Prediction], contexts: &'a Panel, horizon: usize) -> Known<'a> {
        let (frequency, zone) = (contexts.frequency, contexts.zone.clone());
        let mut series: HashMap<&str, (Micros, Option<usize>)> =
            contexts.series.iter().map(|s| (s.id.as_str(), (s.origin(frequency, &zone), None))).collect();
        let whole = predictions.iter().enumerate().filter(|(_, p)| p.forecast.mean.len() == horizon);
        series.extend(whole.map(|(place, p)| (p.series_id.as_str(), (p.origin, Some(place)))));
        Known { predictions, frequency, zone, horizon, series }
    }

    fn part(&self, series: &str) -> Part {
        match self.series.get(series) {
            Some((origin, Some(place))) => Part::Forecast(*origin, *place),
            Some((origin, None)) => Part::Missing(Some(*origin), Why::PartWithoutForecast),
            None => Part::Missing(None, Why::PartWithoutForecast),
        }
    }

    // Whether the last interval that ends at `earlier` is a horizon or more before the one that ends at `later`.
    fn is_over(&self, earlier: Micros, later: Micros) -> bool {
        self.frequency.steps_between(earlier, later, &self.zone) >= self.horizon as i64
    }

    fn unit(&self, place: usize) -> Option<&str> {
        self.predictions.get(place).map(|p| p.unit.as_str())
    }

    // The places of the parts of a roll-up, whose own forecast begins at `origin`; or why it has none.
    fn parts(&self, whole: usize, origin: Micros, parts: &[Part]) -> Result<Vec<usize>, Why> {
        let mut places = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Part::Missing(_, why) => return Err(*why),
                Part::Forecast(ended, _) if self.is_over(origin, *ended) => return Err(Why::Ended),
                Part::Forecast(_, place) if self.unit(*place) != self.unit(whole) => {
                    return Err(Why::PartOfAnotherUnit);
                }
                Part::Forecast(_, place) => places.push(*place),
            }
        }
        if places.is_empty() { Err(Why::NoParts) } else { Ok(places) }
    }
}

/// Finds the sums of a run.
///
/// * A roll-up is the sum of the groups one level below and of the series that belong to it directly. A group that has
///   no forecast of its own is replaced by its parts.
/// * A part that has had no interval for a horizon or more before the roll-up's last one is left out: the roll-up's
///   figures have been without it for as long.
/// * A roll-up with any other part that has no forecast in this run is left as it is. It is still a part itself, so the
///   levels above agree with it.
pub fn assemble(hierarchy: &Hierarchy, known: &Known<'_>) -> Assembly {
    let mut assembly = Assembly::default();
    let mut below: Vec<Vec<Part>> = vec![Vec::new(); hierarchy.groups.len()];
    for (number, group) in hierarchy.groups.iter().enumerate().rev() {
        let mut parts = std::mem::take(&mut below[number]);
        parts.extend(group.members.iter().map(|series| known.part(series)));
        parts.extend((group.elsewhere > 0).then_some(Part::Missing(None, Why::PartElsewhere)));
        let up = match known.part(&group.series) {
            whole @ Part::Forecast(origin, place) => {
                let all = parts.len();
                parts.retain(|part| match part {
                    Part::Forecast(ended, _) | Part::Missing(Some(ended), _) => !known.is_over(*ended, origin),
                    Part::Missing(None, _) => true,
                });
                assembly.ended += all - parts.len();
                match known.parts(place, origin, &parts) {
                    Ok(parts) => assembly.sums.push(Sum { whole: place, parts, way: group.way }),
                    Err(why) => assembly.leave(why, &group.series),
                }
                vec![whole]
            }
            Part::Missing(..) => parts,
        };
        if let Some(above) = group.above.and_then(|above| below.get_mut(above)) {
            above.extend(up);
        }
    }
    assembly
}

/// Sums that share no forecast with any other, each such set by the numbers of its sums.
pub fn components(sums: &[Sum]) -> Vec<Vec<usize>> {
    let mut root: Vec<usize> = (0..sums.len()).collect();
    let find = |root: &mut Vec<usize>, mut at: usize| {
        while root[at] != at {
            root[at] = root[root[at]];
            at = root[at];
        }
        at
    };
    let mut first: HashMap<usize, usize> = HashMap::new();
    for (number, sum) in sums.iter().enumerate() {
        for place in sum.parts.iter().chain([&sum.whole]) {
            let other = *first.entry(*place).or_insert(number);
            let (a, b) = (find(&mut root, other), find(&mut root, number));
            // To the smaller one, so that the order of the sums decides the order of the sets.
            root[a.max(b)] = a.min(b);
        }
    }
    let mut sets: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for number in 0..sums.len() {
        sets.entry(find(&mut root, number)).or_default().push(number);
    }
    sets.into_values().collect()
}
