//! Whether, and how, what is combined is calibrated: as later days say.
//!
//! A correction that was right for some weeks can be wrong for the weeks after: load moves with the seasons, and with it
//! what a model misses. Widths of intervals last; medians less so. So corrections learned from the first folds are tried
//! on the fold after them: none, of widths alone (the median stays where it is), or of everything. Of those whose loss
//! is next to the least, the best calibrated is taken, and learned from all folds.

use std::fmt;

use meterline_schemas::quantiles::{LEVELS, MEDIAN};
use serde::{Deserialize, Serialize};

use super::validation::Validated;
use crate::calibrate::conformal::{Conformal, Options};
use crate::calibrate::{CalibrateError, Rows};
use crate::metrics::pinball;

/// Share of the loss that is given up for better calibration.
const TOLERANCE: f64 = 0.01;

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
    // Of each way: its loss on days after those that it was learned from, and the share within the outermost quantiles.
    tried: Vec<(Which, f64, f64)>,
    conformal: Conformal,
}

impl Correction {
    /// Corrects the quantiles of a row; `None` where they are not finite.
    pub fn apply(&self, group: u32, step: u32, quantiles: &mut [f64; LEVELS.len()]) -> Option<()> {
        correct(&self.conformal, self.which, group, step, quantiles)
    }

    /// Learns what to do from what was `combined` of the rows that were forecast.
    ///
    /// # Errors
    /// A number that nothing can be learned from.
    pub fn learn(validated: &Validated, combined: &[f64]) -> Result<Correction, CalibrateError> {
        let mut tried = ALL.map(|_| Tried::default());
        for fold in 1..validated.folds() {
            let (before, after) = (validated.rows(combined, |of| of < fold), validated.rows(combined, |of| of == fold));
            let conformal = Conformal::fit(&LEVELS, &before.rows(), &Options::default())?;
            for (which, tried) in ALL.into_iter().zip(&mut tried) {
                tried.add(&conformal, which, &after.rows());
            }
        }
        let all = validated.rows(combined, |_| true);
        let conformal = Conformal::fit(&LEVELS, &all.rows(), &Options::default())?;
        let least = tried.iter().map(|tried| tried.loss).fold(f64::INFINITY, f64::min);
        let figures = ALL.into_iter().zip(&tried).filter(|(_, tried)| tried.rows > 0.0);
        let figures = figures.map(|(which, tried)| (which, tried.loss / least, tried.inside / tried.rows)).collect();
        Ok(Correction { which: choose(&tried), tried: figures, conformal })
    }

    /// What is corrected, and how each way did on later days.
    pub fn report(&self) -> String {
        let one = |(which, loss, inside): &(Which, f64, f64)| format!("{which} {loss:.4} ({inside:.3})");
        let tried: Vec<String> = self.tried.iter().map(one).collect();
        format!(
            "{}, of the losses (and shares within the 80 % interval) on later days {}",
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

// How a correction did on days after those that it was learned from.
#[derive(Debug, Clone, Copy, Default)]
struct Tried {
    loss: f64,
    inside: f64,
    rows: f64,
}

impl Tried {
    fn add(&mut self, conformal: &Conformal, which: Which, rows: &Rows<'_>) {
        let (quantiles, _) = rows.quantiles.as_chunks::<{ LEVELS.len() }>();
        for (row, actual) in rows.actuals.iter().enumerate().filter(|(_, actual)| actual.is_finite()) {
            let mut quantiles = quantiles[row];
            if !quantiles.iter().all(|quantile| quantile.is_finite())
                || correct(conformal, which, rows.groups[row], rows.steps[row], &mut quantiles).is_none()
            {
                continue;
            }
            self.loss += LEVELS.iter().zip(&quantiles).map(|(level, q)| pinball(*actual, *q, *level)).sum::<f64>();
            self.inside += f64::from(u8::from((quantiles[0]..=quantiles[LEVELS.len() - 1]).contains(actual)));
            self.rows += 1.0;
        }
    }

    // How far the share within the outermost quantiles is from what they promise.
    fn gap(&self) -> f64 {
        (self.inside / self.rows - (LEVELS[LEVELS.len() - 1] - LEVELS[0])).abs()
    }
}

// Nothing, where nothing was tried.
fn choose(tried: &[Tried; ALL.len()]) -> Which {
    let least = tried.iter().map(|tried| tried.loss).fold(f64::INFINITY, f64::min);
    let good = ALL.into_iter().zip(tried).filter(|(_, tried)| tried.loss <= least * (1.0 + TOLERANCE));
    let best = good.filter(|(_, tried)| tried.rows > 0.0).min_by(|(_, a), (_, b)| a.gap().total_cmp(&b.gap()));
    best.map_or(Which::Nothing, |(which, _)| which)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_calibrated_of_those_that_lose_little_is_taken() {
        let tried = |loss: f64, inside: f64| Tried { loss, inside, rows: 100.0 };
        assert_eq!(choose(&[tried(100.0, 70.0), tried(100.5, 78.0), tried(102.0, 80.0)]), Which::Widths);
        assert_eq!(choose(&[tried(100.0, 81.0), tried(100.5, 78.0), tried(99.5, 70.0)]), Which::Nothing);
        assert_eq!(choose(&[tried(120.0, 70.0), tried(120.0, 80.0), tried(99.0, 60.0)]), Which::Everything);
        assert_eq!(choose(&[Tried::default(); 3]), Which::Nothing);
    }
}
