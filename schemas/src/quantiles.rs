//! The quantile levels that every forecast carries.

/// Levels of the published quantiles, ascending: the deciles 0.1 … 0.9.
pub const LEVELS: [f64; 9] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];

/// Column names of [`LEVELS`] in the table `forecasts`.
pub const COLUMNS: [&str; 9] = ["q10", "q20", "q30", "q40", "q50", "q60", "q70", "q80", "q90"];

/// Index of the median in [`LEVELS`].
pub const MEDIAN: usize = 4;
