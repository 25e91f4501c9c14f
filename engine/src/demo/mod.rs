//! Everything at once, for a first look: readings, a broker, the engine, and a narrative of what happens.
//!
//! ```text
//! supply ─▶ drive ─▶ broker ─▶ the service, as `meterline run` starts it ─▶ lake and metadata ─▶ narrate, score, chart
//! ```
//!
//! * [`setup`]: directory and configuration; * [`supply`]: what is sent; * [`drive`]: when it is sent;
//! * [`narrate`]: what is worth telling; * [`score`]: forecasts beside what came true; * [`chart`], [`screen`]: how it
//!   looks;
//! * [`show`]: the whole of it; * `goal`: what it is about; * [`outcome`]: what came of it.

pub mod chart;
pub mod drive;
mod goal;
pub mod narrate;
pub mod outcome;
pub mod score;
pub mod screen;
pub mod setup;
pub mod show;
pub mod supply;
