//! Calibration: published quantiles that are as often above the actual values as their levels say.
//!
//! * [`conformal`]: corrections learned once, from forecasts whose actual values are known;
//! * [`adaptive`]: corrections that follow the actual values as they arrive, a day at a time;
//! * [`isotonic`]: quantiles that ascend, and that do not go below what is possible.
//!
//! A correction is a shift of each quantile in units of the local spread of its forecast, or in the unit of the series.
//! All of this works on plain slices at any levels, and knows no model.

pub mod adaptive;
pub mod conformal;
pub mod isotonic;

use crate::metrics::LevelsError;

/// Forecasts with their actual values, one row a forecast value. Slices go together by row.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rows<'a> {
    /// Rows × levels, row by row.
    pub quantiles: &'a [f64],
    /// What happened; NaN where that is not known.
    pub actuals: &'a [f64],
    /// Group of series that the row belongs to.
    pub groups: &'a [u32],
    /// Forecast step, or bucket of steps.
    pub steps: &'a [u32],
    /// How much the row counts when scores are compared, such as 1 / scale of its series; empty: all the same. Not
    /// negative.
    pub row_weights: &'a [f64],
    /// Block of time: rows that may depend on each other share one, usually the day of the origin. Ascends with time.
    pub blocks: &'a [u32],
}

impl Rows<'_> {
    /// Checks that all slices are of the same length, and weights are finite and not negative.
    pub fn check(&self, levels: usize) -> Result<(), CalibrateError> {
        let rows = self.actuals.len();
        let weights = if self.row_weights.is_empty() { rows } else { self.row_weights.len() };
        for (what, found, expected) in [
            ("quantiles", self.quantiles.len(), rows * levels),
            ("groups", self.groups.len(), rows),
            ("steps", self.steps.len(), rows),
            ("row_weights", weights, rows),
            ("blocks", self.blocks.len(), rows),
        ] {
            if found != expected {
                return Err(CalibrateError::Length { what, found, expected });
            }
        }
        match self.row_weights.iter().position(|weight| !(weight.is_finite() && *weight >= 0.0)) {
            Some(row) => Err(CalibrateError::RowWeight(row)),
            None => Ok(()),
        }
    }
}

/// Why quantiles could not be calibrated.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum CalibrateError {
    /// The levels are not usable.
    #[error("cannot calibrate at these levels: {0}")]
    Levels(#[from] LevelsError),
    /// Slices that go together are of different lengths.
    #[error("{what} has {found} values, but {expected} are needed")]
    Length {
        /// The slice.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length that it should have.
        expected: usize,
    },
    /// A weight of a row is negative or not finite.
    #[error("the weight of row {0} is negative or not finite")]
    RowWeight(usize),
    /// A quantile is NaN or infinite; nothing was changed.
    #[error("a quantile is not finite")]
    NotFinite,
    /// An option is outside its range.
    #[error("option {0} is out of its range")]
    Option(&'static str),
}

/// Distance between the outermost quantiles: the local spread, in the unit of the series. `None` where there is none
/// to speak of, so that it can't be divided by.
fn spread(quantiles: &[f64]) -> Option<f64> {
    let (first, last) = (quantiles.first()?, quantiles.last()?);
    let spread = last - first;
    let size = first.abs().max(last.abs());
    (spread.is_finite() && spread > 1e-9 * size).then_some(spread)
}
