//! Which rows share a linear model.

use serde::{Deserialize, Serialize};

use super::parts::Rows;

/// Rows for each feature that a model should have: with fewer, parts of the day are joined. Those of one hour and day
/// count as one: they hardly differ.
const ROWS_PER_FEATURE: usize = 4;

/// Which rows share a model: those of a part of the day and of some days ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredSplit")]
pub(super) struct Split {
    // Intervals of a day, and steps of a forecast.
    season: usize,
    horizon: usize,
    parts: usize,
    leads: usize,
}

/// One as it is read, before it is checked.
#[derive(Deserialize)]
struct StoredSplit {
    season: usize,
    horizon: usize,
    parts: usize,
    leads: usize,
}

impl TryFrom<StoredSplit> for Split {
    type Error = &'static str;

    fn try_from(stored: StoredSplit) -> Result<Split, &'static str> {
        let StoredSplit { season, horizon, parts, leads } = stored;
        let sound = (1..=1 << 20).contains(&season) && horizon <= 1 << 30 && parts <= season && leads <= horizon.max(1);
        if sound { Ok(Split { season, horizon, parts, leads }) } else { Err("a split of rows that cannot be") }
    }
}

impl Split {
    /// So many places that each has rows enough; days ahead come first, because what a lag means depends on them. So many
    /// rows in a row (`alike`) count as one. `None` where there are too few for one place.
    pub fn new(
        rows: &Rows,
        alike: usize,
        features: usize,
        parts_max: usize,
        (season, horizon): (usize, usize),
    ) -> Option<Split> {
        let days = horizon.div_ceil(season.max(1)).max(1);
        let divisors = |most: usize| (1..=most.min(season).max(1)).rev().filter(|parts| season.is_multiple_of(*parts));
        let all = [days, 1].into_iter().flat_map(|leads| divisors(parts_max).map(move |parts| (parts, leads)));
        let splits = all.map(|(parts, leads)| Split { season, horizon, parts, leads });
        // Not each time of day is in each forecast, and a meter may always be silent at some hour.
        let least = |split: &Split| {
            let mut counts = vec![0; split.places()];
            for ((phase, step), weight) in rows.places.iter().zip(&rows.weights) {
                counts[split.place(*phase, *step)] += usize::from(*weight > 0.0);
            }
            counts.into_iter().min().unwrap_or(0) / alike
        };
        let found = splits.filter(|split| split.places() == 1 || least(split) >= ROWS_PER_FEATURE * features);
        let best = found.max_by_key(|split| (split.leads > 1, split.parts));
        best.filter(|split| split.places() > 1 || least(split) >= 2 * features)
    }

    /// Number of its places.
    pub fn places(&self) -> usize {
        self.parts * self.leads
    }

    /// The place of a row, by its time of day in intervals and its step.
    pub fn place(&self, phase: usize, step: usize) -> usize {
        let days = self.horizon.div_ceil(self.season.max(1)).max(1);
        let lead = (step / self.season.max(1)).min(days - 1) * self.leads / days;
        (phase * self.parts / self.season.max(1)) * self.leads + lead
    }
}
