//! Classical models of one series: closed formulas, exponential smoothing, decomposition, regression.
//!
//! A [`Request`] is the series, its seasonal periods and what is asked; every model answers with [`Predicted`] or says
//! in a [`StatisticsError`] why it cannot. [`Method`] names the models.
//!
//! How to choose:
//!
//! * [`drift`]: naive, seasonal naive, mean and drift; the yardsticks;
//! * [`ets`]: exponential smoothing of a series without season or with a short one (a year of months, a day of hours);
//!   a longer one is taken out before;
//! * [`theta`]: the M4 competition's `Naive2` and the dynamic optimised Theta model;
//! * [`decompose`]: STL and MSTL for several or long periods, their rest forecast by [`ets`];
//! * [`harmonic`]: Fourier terms and known regressors with autoregressive errors;
//! * [`prophet`]: piecewise linear trend, Fourier terms and holidays, with a table for each component;
//! * [`croston`]: demand that is mostly zero.
//!
//! [`Method::components`] says what the forecasts of some of them are the sums of.
//!
//! What they share: [`linear`] (least squares), [`autoregression`], [`optimise`] (Nelder-Mead), [`classical`] (seasonal
//! indices, and what a series is without them), [`fourier`], [`gaps`] and [`quantiles`] (predictive distributions).
//!
//! A value that is not finite is missing. Smoothing and regression skip it; nothing that was filled in counts as a
//! residual. Each kernel runs on one thread and every random number comes from a fixed seed, so the same request gives
//! the same bits on any number of threads.

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub mod autoregression;
pub mod classical;
mod components;
pub mod croston;
pub mod decompose;
pub mod drift;
pub mod ets;
pub mod fourier;
pub mod gaps;
pub mod harmonic;
pub mod linear;
pub mod optimise;
pub mod prophet;
pub mod quantiles;
pub mod theta;

pub use components::{Component, Source};

#[cfg(test)]
mod properties;
#[cfg(test)]
mod testing;

/// Longest horizon, in steps: what bounds the memory of a forecast.
pub const HORIZON_MAX: usize = 100_000;
/// Magnitudes outside 1 / this … this are rescaled before anything is squared.
const MAGNITUDE_MAX: f64 = 1e100;

/// One series and what is asked about it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The series on a regular grid, oldest first; not finite means missing.
    pub values: &'a [f64],
    /// Seasonal periods in steps, for example `[24, 168]` for hours. Periods below 2 mean nothing and are left out.
    pub periods: &'a [usize],
    /// Columns that are known over the past and the horizon: each as long as `values` plus `horizon`. Only some methods
    /// use them ([`Method::takes_regressors`]).
    pub regressors: &'a [Vec<f64>],
    /// Steps to forecast, at most [`HORIZON_MAX`].
    pub horizon: usize,
    /// Levels of the quantiles, ascending, each between 0 and 1.
    pub levels: &'a [f64],
}

/// What a model says of the steps after a series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Predicted {
    /// Point forecast of each step, in the unit of the series.
    pub mean: Vec<f64>,
    /// Quantiles: steps × levels, ascending within a step.
    pub quantiles: Vec<Vec<f64>>,
}

/// Why a model gives no forecast.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum StatisticsError {
    /// Not enough values that are not missing.
    #[error("{model} needs {needed} values, the series has {present}: give it a longer history or a simpler model")]
    TooShort {
        /// Which model.
        model: &'static str,
        /// Values needed.
        needed: usize,
        /// Values there are.
        present: usize,
    },
    /// A level outside (0, 1), or not above the one before it.
    #[error("quantile level {level} is not between 0 and 1 or not above the level before it")]
    Level {
        /// The level.
        level: f64,
    },
    /// More steps than [`HORIZON_MAX`].
    #[error("horizon of {horizon} steps is above the limit of {HORIZON_MAX}")]
    Horizon {
        /// Steps asked for.
        horizon: usize,
    },
    /// A model that needs a seasonal period was given none.
    #[error("{model} needs a seasonal period of at least 2 steps")]
    NoPeriod {
        /// Which model.
        model: &'static str,
    },
    /// A regressor does not cover the past and the horizon.
    #[error("regressor {column} has {present} values, the past and the horizon are {needed} steps")]
    RegressorLength {
        /// Its index.
        column: usize,
        /// Values it needs.
        needed: usize,
        /// Values it has.
        present: usize,
    },
    /// A regressor has a missing value; what to fill in is for the caller to say.
    #[error("regressor {column} is missing at step {step}: fill it in before the forecast")]
    RegressorMissing {
        /// Its index.
        column: usize,
        /// Step counted from the start of the series.
        step: usize,
    },
    /// Demand below zero.
    #[error("{model} forecasts demand, but the value at step {step} is {value}")]
    NegativeDemand {
        /// Which model.
        model: &'static str,
        /// Step counted from the start of the series.
        step: usize,
        /// The value.
        value: f64,
    },
    /// A parameter outside its range.
    #[error("{model} got {name} = {value}, outside its range")]
    Parameter {
        /// Which model.
        model: &'static str,
        /// Which parameter.
        name: &'static str,
        /// Its value.
        value: f64,
    },
    /// The regression has no solution.
    #[error("{model} found no solution of its regression: leave out regressors that repeat each other")]
    Singular {
        /// Which model.
        model: &'static str,
    },
    /// A forecast outside the range of numbers.
    #[error("{model} gave a forecast that is not finite at step {step} of the horizon")]
    NotFinite {
        /// Which model.
        model: &'static str,
        /// Step of the horizon, from 0.
        step: usize,
    },
}

/// The models of this module with their usual settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// [`drift::naive`]
    Naive,
    /// [`drift::seasonal_naive`]
    SeasonalNaive,
    /// [`drift::mean`]
    Mean,
    /// [`drift::drift`]
    Drift,
    /// [`ets::Ets`]
    Ets,
    /// [`theta::naive2`]
    Naive2,
    /// [`theta::Theta`]
    Theta,
    /// [`decompose::Mstl`]
    Mstl,
    /// [`harmonic::Harmonic`]
    Harmonic,
    /// [`prophet::Prophet`]
    Prophet,
    /// [`croston::Variant::Croston`]
    Croston,
    /// [`croston::Variant::Sba`]
    Sba,
    /// [`croston::Variant::Tsb`]
    Tsb,
}

impl Method {
    /// All methods.
    pub const ALL: [Method; 13] = [
        Method::Naive,
        Method::SeasonalNaive,
        Method::Mean,
        Method::Drift,
        Method::Ets,
        Method::Naive2,
        Method::Theta,
        Method::Mstl,
        Method::Harmonic,
        Method::Prophet,
        Method::Croston,
        Method::Sba,
        Method::Tsb,
    ];

    /// Name in configurations, results and errors.
    pub fn name(self) -> &'static str {
        match self {
            Method::Naive => "naive",
            Method::SeasonalNaive => "seasonal_naive",
            Method::Mean => "mean",
            Method::Drift => "drift",
            Method::Ets => "ets",
            Method::Naive2 => "naive2",
            Method::Theta => "theta",
            Method::Mstl => "mstl",
            Method::Harmonic => "harmonic",
            Method::Prophet => "prophet",
            Method::Croston => "croston",
            Method::Sba => "sba",
            Method::Tsb => "tsb",
        }
    }

    /// Whether it looks at [`Request::regressors`].
    pub fn takes_regressors(self) -> bool {
        matches!(self, Method::Harmonic | Method::Prophet)
    }

    /// Forecast of one series with the method's usual settings.
    ///
    /// # Errors
    ///
    /// Those of the model that the method names.
    pub fn forecast(self, request: &Request) -> Result<Predicted, StatisticsError> {
        match self {
            Method::Naive => drift::naive(request),
            Method::SeasonalNaive => drift::seasonal_naive(request),
            Method::Mean => drift::mean(request),
            Method::Drift => drift::drift(request),
            Method::Ets => ets::Ets::default().forecast(request),
            Method::Naive2 => theta::naive2(request),
            Method::Theta => theta::Theta.forecast(request),
            Method::Mstl => decompose::Mstl::default().forecast(request),
            Method::Harmonic => harmonic::Harmonic.forecast(request),
            Method::Prophet => prophet::Prophet::default().forecast(request),
            Method::Croston => croston::Variant::Croston.forecast(request),
            Method::Sba => croston::Variant::Sba.forecast(request),
            Method::Tsb => croston::Variant::Tsb.forecast(request),
        }
    }
}

/// A request that was checked, with missing values as NaN and the others rescaled so that their squares stay finite.
struct Prepared {
    /// Missing values are NaN.
    values: Vec<f64>,
    /// Values that are not missing, at least as many as the model said it needs.
    present: usize,
    /// Seasonal periods, ascending, each at least 2 and once.
    periods: Vec<usize>,
    /// What the values were divided by: a power of two, so that the division is exact.
    scale: f64,
}

impl Prepared {
    fn new(model: &'static str, request: &Request, needed: usize) -> Result<Prepared, StatisticsError> {
        if request.horizon > HORIZON_MAX {
            return Err(StatisticsError::Horizon { horizon: request.horizon });
        }
        let mut before = 0.0;
        for level in request.levels {
            if !(*level > before && *level < 1.0) {
                return Err(StatisticsError::Level { level: *level });
            }
            before = *level;
        }
        let finite = || request.values.iter().filter(|v| v.is_finite());
        let present = finite().count();
        if present < needed.max(1) {
            return Err(StatisticsError::TooShort { model, needed: needed.max(1), present });
        }
        let scale = rescale(finite().fold(0.0, |largest: f64, v| largest.max(v.abs())));
        let values = request.values.iter().map(|v| if v.is_finite() { v / scale } else { f64::NAN }).collect();
        let mut periods: Vec<usize> = request.periods.iter().copied().filter(|p| *p >= 2).collect();
        periods.sort_unstable();
        periods.dedup();
        Ok(Prepared { values, present, periods, scale })
    }

    /// The periods that the series covers at least twice, and one step more.
    fn covered_periods(&self) -> Vec<usize> {
        self.periods.iter().copied().filter(|p| *p < self.values.len().div_ceil(2)).collect()
    }

    /// The forecast of a normal distribution for each step.
    fn gaussian(
        &self,
        model: &'static str,
        levels: &[f64],
        mean: Vec<f64>,
        deviation: &[f64],
    ) -> Result<Predicted, StatisticsError> {
        let scores: Vec<f64> = levels.iter().map(|level| quantiles::normal_quantile(*level)).collect();
        let quantiles = mean.iter().zip(deviation);
        let quantiles = quantiles.map(|(mean, sd)| scores.iter().map(|z| mean + z * sd).collect()).collect();
        self.finish(model, mean, quantiles)
    }

    /// Back in the unit of the series, each step's quantiles in order; an error where a number is not finite.
    fn finish(
        &self,
        model: &'static str,
        mut mean: Vec<f64>,
        mut quantiles: Vec<Vec<f64>>,
    ) -> Result<Predicted, StatisticsError> {
        for (step, (mean, quantiles)) in mean.iter_mut().zip(&mut quantiles).enumerate() {
            *mean *= self.scale;
            quantiles.iter_mut().for_each(|q| *q *= self.scale);
            if !(mean.is_finite() && quantiles.iter().all(|q| q.is_finite())) {
                return Err(StatisticsError::NotFinite { model, step });
            }
            quantiles.sort_unstable_by(f64::total_cmp);
        }
        Ok(Predicted { mean, quantiles })
    }
}

/// 1 for ordinary magnitudes, else the power of two below `largest`.
fn rescale(largest: f64) -> f64 {
    if largest == 0.0 || (1.0 / MAGNITUDE_MAX..MAGNITUDE_MAX).contains(&largest) {
        return 1.0;
    }
    // The reciprocal of the smallest subnormal numbers would not be finite: they keep a few bits less.
    largest.log2().floor().max(-1000.0).exp2()
}

/// Checks that the regressors cover the past and the horizon without a gap.
fn check_regressors(request: &Request) -> Result<(), StatisticsError> {
    let needed = request.values.len() + request.horizon;
    for (column, values) in request.regressors.iter().enumerate() {
        if values.len() != needed {
            return Err(StatisticsError::RegressorLength { column, needed, present: values.len() });
        }
        if let Some(step) = values.iter().position(|v| !v.is_finite()) {
            return Err(StatisticsError::RegressorMissing { column, step });
        }
    }
    Ok(())
}
