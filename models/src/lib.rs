//! Forecasters and the harness that measures them. Pure: no clock, no network, no disk.
//!
//! * [`data`]: series on a regular grid, cut at their origins;
//! * [`forecaster`]: the trait that every model implements, and what it returns;
//! * [`forecasters`]: one file a model;
//! * [`metrics`], [`backtest`]: rolling-origin evaluation.
#![forbid(unsafe_code)]

pub mod backtest;
pub mod data;
pub mod forecaster;
pub mod forecasters;
pub mod metrics;

pub use metrics::seasonal_scale;
