//! What every model does: fit itself to a panel, and given a panel that ends at its origins, say what comes next, with
//! quantiles.

use std::ops::ControlFlow;

use meterline_schemas::location::Location;
use meterline_schemas::quantiles::LEVELS;
use serde::{Deserialize, Serialize};

use crate::data::Panel;
use crate::device::Device;
use crate::explain::Explanation;
use crate::holidays::Holidays;

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
    /// The model was fitted to other series, and knows nothing of this one.
    #[error("the model was not fitted to this series, which was not there, or too short, at the time")]
    Unknown,
    /// A covariate that the model looks at is not known over the horizon.
    #[error("the covariate `{0}` has missing values within its horizon")]
    MissingCovariate(String),
    /// A model of demand, and a value below zero.
    #[error("the series has a value below zero, and the model is one of demand: choose another kind")]
    BelowZero,
    /// The model's output was not finite.
    #[error("the model's output is not finite")]
    NotFinite,
}

/// A fitted forecaster. Global: one object forecasts every series of a panel in one batch.
pub trait Forecaster: Send + Sync {
    /// Name in tables and logs.
    fn name(&self) -> &str;

    /// Forecasts `horizon` steps of every series of the panel from its origin (the end of its values), in the
    /// panel's order.
    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>>;

    /// As bytes from which the [registry](crate::registry::load) makes it again; `None` for one that is not to be kept.
    fn artifact(&self) -> Option<Vec<u8>> {
        None
    }

    /// In a sentence or two: what it is made of and why, where that was chosen.
    fn report(&self) -> Option<String> {
        None
    }

    /// What it weighs and what it learned; nothing for a model that cannot say.
    fn explain(&self) -> Vec<Explanation> {
        Vec::new()
    }

    /// What its forecasts of `horizon` steps from the end of the panel are made of; nothing for a model that cannot say,
    /// and of a series that it has no forecast for.
    fn explain_forecast(&self, _panel: &Panel, _horizon: usize) -> Vec<Explanation> {
        Vec::new()
    }
}

/// How far a fit is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Done<'f> {
    /// The share of it that is done, 0 to 1.
    pub share: f64,
    /// What is known of it by then, such as a loss, by name.
    pub figures: &'f [(&'static str, f64)],
}

impl Done<'_> {
    /// A share, and nothing else.
    pub const fn share(share: f64) -> Done<'static> {
        Done { share, figures: &[] }
    }

    /// The same where this fit is the part of a whole from one share of it to another.
    pub fn within(self, from: f64, to: f64) -> Self {
        Done { share: from + (to - from) * self.share, ..self }
    }
}

/// Is told how far a fit is. Where it breaks, the best so far is the result.
pub type Progress<'a> = &'a mut dyn FnMut(Done<'_>) -> ControlFlow<()>;

/// A kind of model with its settings, not fitted yet.
pub trait Model: Send + Sync {
    /// Name in tables, configuration and logs.
    fn name(&self) -> &str;

    /// Fits it to a panel, all of which counts as known: cut it at the origin before which everything may be used.
    ///
    /// # Errors
    /// There is too little to be learnt from, or a number that no model can use.
    fn fit(&self, panel: &Panel, task: &Task, progress: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError>;
}

/// What a model is fitted for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Steps that are forecast, in native intervals.
    pub horizon: usize,
    /// Values before the origin that a model with a context of a given length looks at, in native intervals.
    pub context: usize,
    /// Times of day at which forecasts will begin: 1 for that alone at which the panel ends, 4 for each six hours. What a
    /// model has not learned to begin at, it may forecast badly from.
    pub origins_a_day: usize,
    /// Of everything that is random: the same seed and panel give the same model.
    pub seed: u64,
    /// Days off.
    pub holidays: Holidays,
    /// Where the series are, if models are to know where the sun stands there. Artifacts have it in their first line
    /// ([`encode_at`](crate::artifact::encode_at)), not here.
    #[serde(default, with = "in_first_line")]
    pub location: Option<Location>,
    /// Where networks are trained, and where they forecast.
    pub device: Device,
}

impl Task {
    /// A task on the processors, without holidays and place, for forecasts that begin at the time of day at which the panel
    /// ends.
    pub fn new(horizon: usize, context: usize, seed: u64) -> Task {
        Task {
            horizon,
            context,
            origins_a_day: 1,
            seed,
            holidays: Holidays::none(),
            location: None,
            device: Device::Cpu,
        }
    }
}

/// A place takes no byte of an artifact, which is what it was before tasks had one; of a text it is a part.
mod in_first_line {
    use meterline_schemas::location::Location;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(location: &Option<Location>, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() { location.serialize(to) } else { ().serialize(to) }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Location>, D::Error> {
        if from.is_human_readable() { Option::deserialize(from) } else { <()>::deserialize(from).map(|()| None) }
    }
}

/// Why a model could not be fitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FitError {
    /// Too few values.
    #[error(
        "fitting `{model}` needs {needed} intervals of history in some series, and the longest of {series} has {longest}: wait for more data, or choose a model that needs less"
    )]
    TooShort {
        /// The model.
        model: String,
        /// Intervals that are needed.
        needed: usize,
        /// Length of the longest series.
        longest: usize,
        /// Number of series.
        series: usize,
    },
    /// What the solver says.
    #[error("fitting `{model}`: {reason}")]
    Failed {
        /// The model.
        model: String,
        /// What went wrong, and with which input.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_takes_no_byte_of_an_artifact_and_is_a_part_of_a_text() {
        let task = Task::new(24, 168, 1);
        let placed = Task { location: Location::new(52.1, 5.3).ok(), ..task.clone() };
        let bytes = bincode::serialize(&task).unwrap();
        assert_eq!(bincode::serialize(&placed).unwrap(), bytes);
        assert_eq!(bincode::deserialize::<Task>(&bytes).unwrap(), task);
        for task in [&task, &placed] {
            let text = serde_json::to_string(task).unwrap();
            assert_eq!(serde_json::from_str::<Task>(&text).unwrap(), *task);
        }
        // As it was written before there were places.
        let mut text = serde_json::to_value(&task).unwrap();
        text.as_object_mut().unwrap().remove("location").unwrap();
        assert_eq!(serde_json::from_value::<Task>(text).unwrap(), task);
    }
}
