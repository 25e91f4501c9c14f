//! The edge of Meterline: everything that reads or writes outside the process, apart from the metadata database.
//!
//! * `kafka`: source, sink, the in-process broker of the demo;
//! * `formats`: one file a format: raw record → reading, or a refusal with its reason;
//! * `files`: readings from CSV and Parquet files, long or wide;
//! * `fleet`: the simulated meters;
//! * `stamp`: time stamps as metering systems write them;
//! * `lake`: Delta tables on an object store, each with one owner of its commits.
// Records come from the C library of Kafka in batches by a call without a safe interface: `kafka/batch.rs` alone uses
// it.
#![deny(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::todo))]

pub mod files;
pub mod fleet;
pub mod formats;
pub mod kafka;
pub mod lake;
pub mod stamp;
