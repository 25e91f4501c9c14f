//! The stream: raw records → readings → native intervals → one atomic commit.
//!
//! Pure decisions: [`aggregate`] (one series' readings → rows), [`frequency`] (when it is known), [`written`] (what is
//! surely new), [`watermark`] (what is closed), [`groups`] (what triggers see). What is kept: [`state`] between commits,
//! [`memory`] in between. On the way: [`rows`], [`outcome`].

pub mod aggregate;
pub mod frequency;
pub mod groups;
pub mod memory;
pub mod outcome;
pub mod rows;
pub mod state;
pub mod watermark;
pub mod written;

#[cfg(test)]
mod aggregate_tests;
