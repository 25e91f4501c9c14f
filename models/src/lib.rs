//! Forecasters and the harness that measures them. Pure: no clock, no network, no disk.
//!
//! * [`data`]: series on a regular grid, with what is known beside them, cut at their origins;
//! * [`forecaster`]: the traits that every model implements, and what it returns;
//! * [`fill`], [`scaling`], [`calendar`], [`holidays`], [`sun`], [`features`], [`design`]: what a model sees;
//! * [`forecasters`]: one file or folder a model; [`registry`]: all of them by name; [`artifact`]: fitted ones as bytes;
//! * [`statistics`]: classical models of one series; [`linear`]: linear quantile regression;
//! * [`metrics`], [`backtest`], [`rolling`]: rolling-origin evaluation;
//! * [`booster`]: gradient-boosted trees for all quantiles at once;
//! * [`calibrate`], [`combine`]: quantiles that keep what they promise, and several models as one;
//! * [`reconcile`]: forecasts of parts and of their sums that agree;
//! * [`explain`]: what models say of themselves and of their forecasts;
//! * [`cost`]: what too high and too low cost, and which quantile to choose by it;
//! * [`tuning`], [`search`]: settings of a model, and good ones by trial;
//! * [`device`]: where tensors are computed.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::todo))]

pub mod artifact;
pub mod backtest;
pub mod booster;
pub mod calendar;
pub mod calibrate;
pub mod combine;
pub mod cost;
pub mod data;
mod dense;
pub mod design;
pub mod device;
pub mod explain;
pub mod features;
pub mod fill;
pub mod forecaster;
pub mod forecasters;
pub mod holidays;
pub mod linear;
pub mod metrics;
pub mod plausible;
pub mod reconcile;
pub mod registry;
pub mod rolling;
pub mod scaling;
pub mod search;
mod spread;
pub mod statistics;
pub mod sun;
pub mod tuning;

pub use metrics::seasonal_scale;

/// The example of a model in it.
#[cfg(doctest)]
#[doc = include_str!("../../ARCHITECTURE.md")]
pub struct Architecture;
