//! The engine: from readings in Kafka to forecasts in SQL.
//!
//! * [`ingest`]: the timely dataflow, from raw records to committed intervals;
//! * [`triggers`]: facts → policy → decision;
//! * [`pipelines`]: build and infer, each run a child process with recorded steps;
//! * [`offline`]: the same models on plain files, without a lake;
//! * [`known_ahead`]: what stands in, for both, where a covariate is not known ahead; [`series_labels`]: what is said of each
//!   series;
//! * [`maintenance`]: keeps the lake's tables small and fast;
//! * [`metadata`]: runs, registry and decisions in SQLite;
//! * [`sql`]: the tables as people query them;
//! * [`server`]: metrics and health over HTTP;
//! * [`cli`]: one file a command; [`demo`]: everything at once.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::todo))]

pub mod cli;
pub mod demo;
pub mod environment;
pub mod ingest;
pub mod known_ahead;
pub mod maintenance;
pub mod metadata;
pub mod offline;
pub mod pipelines;
pub mod reload;
pub mod series_labels;
pub mod server;
pub mod service;
pub mod sql;
pub mod triggers;
