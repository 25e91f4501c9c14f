//! What the end-to-end tests (and the ingest benchmark) stand on.
//!
//! * [`kafka`]: a real Apache Kafka on loopback; [`topic`]: its records, read and sent by hand;
//! * [`s3`]: a real S3 server on loopback; [`fault_proxy`]: what fails its requests by rule;
//! * [`sandbox`]: a configuration, a lake and the real binary as a process;
//! * [`oracle`]: what `intervals` must hold, recomputed from the topic by code that shares nothing with the engine;
//! * [`found`]: what `intervals` does hold, beside that; [`crash`]: the matrix of faults after which both must be equal;
//! * [`reader`]: the lake as Python and DuckDB see it; [`data`]: the real data, where it is there;
//! * [`guard`], [`wait`], [`skip`]: nothing is left behind, nothing hangs, nothing is skipped in silence.
#![forbid(unsafe_code)]

pub mod crash;
pub mod data;
pub mod fault_proxy;
pub mod found;
pub mod guard;
pub mod kafka;
pub mod oracle;
pub mod reader;
pub mod s3;
pub mod sandbox;
pub mod skip;
pub mod topic;
pub mod wait;
