//! What every model does: given a panel that ends at its origins, say what comes next, with quantiles.

use meterline_schemas::quantiles::LEVELS;

use crate::data::Panel;

/// The forecast of one series from its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesForecast {
    /// Expected value of each step, in the series' unit.
    pub mean: Vec<f64>,
    /// Quantiles of each step at [`LEVELS`], ascending.
    pub quantiles: Vec<[f64; LEVELS.len()]>,
}

/// Why a forecaster gave no forecast for one series.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoForecast {
    /// The context is too short or has too many missing values; both counts in native intervals.
    #[error("the context has {present} of the {needed} intervals that the model needs")]
    MissingContext {
        /// Intervals that are there.
        present: usize,
        /// Intervals that are needed.
        needed: usize,
    },
    /// The model's output was not finite.
    #[error("the model's output is not finite")]
    NotFinite,
}

/// A fitted forecaster. Global: one object forecasts every series of a panel in one batch.
pub trait Forecaster {
    /// Name in tables and logs.
    fn name(&self) -> &str;

    /// Forecasts `horizon` steps of every series of the panel from its origin (the end of its values), in the
    /// panel's order.
    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>>;
}
