//! What a booster refuses.

use thiserror::Error;

/// Why a booster can't be trained, used or read.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum BoosterError {
    /// Two inputs that belong together have different sizes.
    #[error("wrong size of {what}: found={found} expected={expected}")]
    Size {
        /// Which input.
        what: &'static str,
        /// Its size.
        found: usize,
        /// The size that fits the others.
        expected: usize,
    },
    /// Nothing to learn from.
    #[error("there are no rows to learn from")]
    NoRows,
    /// More rows than exact sums allow.
    #[error("too many rows: rows={rows} rows_max={rows_max}")]
    TooManyRows {
        /// Rows given.
        rows: usize,
        /// Rows allowed.
        rows_max: usize,
    },
    /// A target or an offset is NaN or infinite.
    #[error("{what} is not finite: row={row}")]
    NotFinite {
        /// Which input.
        what: &'static str,
        /// The first such row.
        row: usize,
    },
    /// A weight is NaN, infinite or negative.
    #[error("weight is not finite or is negative: row={row}")]
    Weight {
        /// The first such row.
        row: usize,
    },
    /// Every row has weight zero.
    #[error("all weights are zero")]
    NoWeight,
    /// Levels must be strictly ascending within (0, 1), and there must be at least one.
    #[error("quantile levels must ascend strictly between 0 and 1: levels={levels:?}")]
    Levels {
        /// As given.
        levels: Vec<f64>,
    },
    /// A parameter is outside its range.
    #[error("parameter out of range: {name}={value} allowed={allowed}")]
    Parameter {
        /// Field of `Params`.
        name: &'static str,
        /// As given.
        value: f64,
        /// The range.
        allowed: &'static str,
    },
    /// Values so large that sums or differences of them are no finite f32.
    #[error("numbers overflowed in round {round}: scale the target down")]
    Overflow {
        /// Rounds are counted from 0.
        round: usize,
    },
    /// A stored booster that can't be one.
    #[error("stored booster is damaged: {what}")]
    Damaged {
        /// What is wrong with it.
        what: &'static str,
    },
}
