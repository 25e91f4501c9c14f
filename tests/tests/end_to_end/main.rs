//! Meterline as people run it: the real binary, a real Kafka, real data where it is there.
//!
//! One test binary, so that the broker starts once for all but the tests that restart it.

mod calendar;
mod checks;
mod cluster;
mod commands;
mod crash;
mod demo;
mod faults;
mod fleet;
mod four_weeks;
mod harness;
mod housekeeping;
mod inputs;
mod label_groups;
mod memory;
mod metrics;
mod offline;
mod rollups;
mod s3;
mod spine;
mod topics;
mod triggers;
mod two_feeds;
mod two_frequencies;
