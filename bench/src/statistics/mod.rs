//! What `bench/run statistics` measures: models on series that are made here, beside those of others.
//!
//! [`series`] are made; [`models`] forecasts them one by one, beside statsforecast; [`trees`] learns from rows, beside
//! LightGBM and boosters in Rust; [`scale`] is one model and many series, in a process of its own. [`python`] and
//! [`boosters`] are the programs of others, [`handover`] gives them numbers, [`accuracy`] scores what either says by the
//! same code, [`work`] spreads series over the processors.

pub mod accuracy;
pub mod boosters;
pub mod handover;
pub mod models;
pub mod python;
pub mod scale;
pub mod series;
pub mod trees;
pub mod work;

use std::error::Error;

/// What can go wrong here: a benchmark ends with it.
pub type Failure = Box<dyn Error>;

/// Steps of a forecast: a day of hours.
pub const HORIZON: usize = 24;
/// Hours of a day.
pub const DAY: usize = 24;
/// Hours of a week.
pub const WEEK: usize = 7 * DAY;
