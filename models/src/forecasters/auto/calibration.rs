//! Whether, and how, what is combined is calibrated: as later days say.
//!
//! A correction that was right for some weeks can be wrong for the weeks after: load moves with the seasons, and with it
//! what a model misses. Widths of intervals last; medians less so. So corrections learned from the first folds are tried
//! on the fold after them: none, of widths alone (the median stays where it is), or of everything. What each leaves too
//! narrow or too wide there is stretched ([`Stretch`]); that with the least loss then is taken, and learned from all folds.
//! Weights did not know the rows, but those of a row were learned from later ones, too.

use std::collections::BTreeSet;
use std::fmt;

use meterline_schemas::quantiles::{CENTRAL_80, LEVELS, MEDIAN};
use serde::{Deserialize, Serialize};

use super::stretch::Stretch;
use super::validation::Validated;
use crate::calibrate::conformal::{Conformal, Options};
use crate::calibrate::{CalibrateError, Rows};
use crate::metrics::pinball;

/// Share of the loss by which anything has to be better than nothing.
const GAIN_MIN: f64 = 0.002;

/// What is corrected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Which {
    Nothing,
    Widths,
    Everything,
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Which::Nothing => "nothing",
            Which::Widths => "widths",
            Which::Everything => "everything",
        })
    }
}

const ALL: [Which; 3] = [Which::Nothing, Which::Widths, Which::Everything];

/// A learned correction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Correction {
    which: Which,
    tried: Vec<Report>,
    conformal: Conformal,
    stretch: Stretch,
}

/// What a way did on days after those that it was learned from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Report {
    which: Which,
    // By the least of all ways, after it was stretched.
    loss: f64,
    // Share within the 80 % interval before it was stretched, and by how much its ends were then.
    inside: f64,
    stretched: (f64, f64),
}

impl Correction {
    /// Corrects the quantiles of a row; `None` where they are not finite.
    pub fn apply(&self, group: u32, step: u32, quantiles: &mut [f64; LEVELS.len()]) -> Option<()> {
        correct(&self.conformal, self.which, group, step, quantiles)?;
        self.stretch.apply(quantiles);
        Some(())
    }

    /// Learns what to do from what was `combined` of the rows that were forecast.
    ///
    /// # Errors
    /// A number that nothing can be learned from.
    pub fn learn(validated: &Validated, combined: &[f64]) -> Result<Correction, CalibrateError> {
        let mut later = ALL.map(|_| Vec::new());
        let mut blocks = BTreeSet::new();
        for fold in 1..validated.folds() {
            let (before, after) = (validated.rows(combined, |of| of < fold), validated.rows(combined, |of| of == fold));
            let conformal = Conformal::fit(&LEVELS, &before.rows(), &Options::default())?;
            for (which, later) in ALL.into_iter().zip(&mut later) {
                add(&conformal, which, &after.rows(), later);
            }
            blocks.extend(after.rows().blocks.iter().copied());
        }
        let stretches = later.each_ref().map(|rows| Stretch::learn(rows, blocks.len()));
        let losses: Vec<f64> = later.iter().zip(&stretches).map(|(rows, stretch)| loss(rows, stretch)).collect();
        let chosen = choose(&losses);
        let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
        let report = |place: usize| {
            let (low, high) = CENTRAL_80;
            let inside = later[place].iter().filter(|(q, actual)| (q[low]..=q[high]).contains(actual)).count();
            Report {
                which: ALL[place],
                loss: losses[place] / least,
                inside: inside as f64 / later[place].len() as f64,
                stretched: (stretches[place].of(low), stretches[place].of(high)),
            }
        };
        let tried = (0..ALL.len()).filter(|place| !later[*place].is_empty()).map(report).collect();
        let all = validated.rows(combined, |_| true);
        let conformal = Conformal::fit(&LEVELS, &all.rows(), &Options::default())?;
        Ok(Correction { which: ALL[chosen], tried, conformal, stretch: stretches[chosen] })
    }

    /// What is corrected, and how each way did on later days.
    pub fn report(&self) -> String {
        let one = |report: &Report| {
            let Report { which, loss, inside, stretched: (low, high) } = report;
            format!("{which} {loss:.4} ({inside:.3}, {low:.2} and {high:.2})")
        };
        let tried: Vec<String> = self.tried.iter().map(one).collect();
        format!(
            "{}, of the losses (shares within the 80 % interval, and by how much its ends were stretched for it) on later days {}",
            self.which,
            tried.join(", ")
        )
    }
}

fn correct(
    conformal: &Conformal,
    which: Which,
    group: u32,
    step: u32,
    quantiles: &mut [f64; LEVELS.len()],
) -> Option<()> {
    let median = quantiles[MEDIAN];
    if which == Which::Nothing {
        return Some(());
    }
    conformal.apply(group, step, quantiles).ok()?;
    if which == Which::Widths {
        let moved = median - quantiles[MEDIAN];
        quantiles.iter_mut().for_each(|quantile| *quantile += moved);
    }
    Some(())
}

// Adds the corrected rows that something happened in.
fn add(conformal: &Conformal, which: Which, rows: &Rows<'_>, to: &mut Vec<([f64; LEVELS.len()], f64)>) {
    let (quantiles, _) = rows.quantiles.as_chunks::<{ LEVELS.len() }>();
    for (row, actual) in rows.actuals.iter().enumerate().filter(|(_, actual)| actual.is_finite()) {
        let mut quantiles = quantiles[row];
        if quantiles.iter().all(|quantile| quantile.is_finite())
            && correct(conformal, which, rows.groups[row], rows.steps[row], &mut quantiles).is_some()
        {
            to.push((quantiles, *actual));
        }
    }
}

fn loss(rows: &[([f64; LEVELS.len()], f64)], stretch: &Stretch) -> f64 {
    let of_row = |(quantiles, actual): &([f64; LEVELS.len()], f64)| {
        let mut quantiles = *quantiles;
        stretch.apply(&mut quantiles);
        LEVELS.iter().zip(&quantiles).map(|(level, q)| pinball(*actual, *q, *level)).sum::<f64>()
    };
    rows.iter().map(of_row).sum()
}

// The place of the way with the least loss. That of nothing, unless another is better by something.
fn choose(losses: &[f64]) -> usize {
    let best = losses.iter().enumerate().min_by(|(_, a), (_, b)| a.total_cmp(b));
    let nothing = losses.first().copied().unwrap_or(0.0);
    best.filter(|(_, loss)| **loss < nothing * (1.0 - GAIN_MIN)).map_or(0, |(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_corrected_unless_that_is_better() {
        for (losses, chosen) in [
            ([100.0, 99.9, 100.5], 0),
            ([100.0, 99.0, 98.0], 2),
            ([100.0, 99.0, 99.5], 1),
            ([0.0, 0.0, 0.0], 0),
            ([100.0, f64::NAN, f64::NAN], 0),
        ] {
            assert_eq!(choose(&losses), chosen, "{losses:?}");
        }
    }
}
