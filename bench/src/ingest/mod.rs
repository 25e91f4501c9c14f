//! What `bench/run ingest` and `bench/run soak` measure: readings in Kafka as JSON → committed intervals.
//!
//! [`load`] is sent; [`bare`] reads it and does nothing, [`engine`] and [`flink`] do the job; [`generator`] is the
//! engine's part of it without Kafka and JSON. [`delta`] says when what was committed, [`latency`] how long that took,
//! [`process`] what it cost; [`plan`] is all of it in order.

pub mod bare;
pub mod delta;
pub mod engine;
pub mod flink;
pub mod generator;
pub mod latency;
pub mod load;
pub mod plan;
pub mod process;

use std::error::Error;

/// What can go wrong here: a benchmark ends with it.
pub type Failure = Box<dyn Error>;

/// Partitions of the topics.
pub const PARTITIONS: i32 = 4;
