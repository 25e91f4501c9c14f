//! What flows through Meterline, and the rules that every part agrees on.
//!
//! In the order in which one reading becomes a forecast:
//!
//! * [`config`] says which topics are read, how a record is understood, and when pipelines run;
//! * [`reading`] is one message, with the [`reading::Position`] that decides which of two readings wins;
//! * [`frequency`] is the arithmetic of native intervals: flooring, rounding, stepping;
//! * [`length`], [`cron`] and [`location`] are how long, when and where, as operators write them;
//! * [`mod@unit`] turns power into the energy of an interval;
//! * [`tables`] are the Arrow schemas of the lake's tables;
//! * [`settings`] are those of a kind of model;
//! * [`facts`] are what trigger policies look at, one row per model group and pipeline.
//!
//! Nothing here does I/O or reads a clock. Instants are [`Micros`]: microseconds since the Unix epoch, UTC.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::todo))]

pub mod bytes;
pub mod config;
pub mod cron;
pub mod facts;
pub mod frequency;
pub mod labels;
pub mod length;
pub mod location;
pub mod names;
pub mod quantiles;
pub mod reading;
pub mod settings;
pub mod tables;
pub mod time;
pub mod unit;

pub use bytes::Bytes;
pub use frequency::Frequency;
pub use time::Micros;
