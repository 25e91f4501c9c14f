//! What the benchmarks share: protocols with their data, and published figures.
#![forbid(unsafe_code)]

pub mod crash;
pub mod ingest;
pub mod quality;
pub mod report;
pub mod soak;
