//! What the benchmarks share: protocols with their data, and published figures.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::todo))]

pub mod crash;
pub mod ingest;
pub mod quality;
pub mod reconcile;
pub mod report;
pub mod soak;
pub mod statistics;
pub mod triggers;
