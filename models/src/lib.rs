//! Forecasters and the harness that measures them. Pure: no clock, no network, no disk.
//!
//! * [`data`]: series on a regular grid, cut at their origins;
//! * [`forecaster`]: the trait that every model implements, and what it returns;
//! * [`fill`], [`scaling`], [`calendar`], [`features`]: what a model sees;
//! * [`forecasters`]: one file or folder a model;
//! * [`metrics`], [`backtest`]: rolling-origin evaluation;
//! * [`device`]: where tensors are computed.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::todo))]

pub mod backtest;
pub mod calendar;
pub mod data;
pub mod device;
pub mod features;
pub mod fill;
pub mod forecaster;
pub mod forecasters;
pub mod metrics;
pub mod scaling;

pub use metrics::seasonal_scale;
