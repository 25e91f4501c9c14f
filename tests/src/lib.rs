//! What the tests of all crates, and some benchmarks, stand on.
//!
//! * [`kafka`]: a real Apache Kafka on loopback; [`topic`]: its records, read and sent by hand;
//! * [`s3`]: a real S3 server on loopback; [`fault_proxy`]: what fails its requests by rule; [`faulty_store`]: the same
//!   for unit tests, of any store;
//! * [`sandbox`]: a configuration, a lake and the real binary as a process;
//! * [`oracle`]: what `intervals` must hold, recomputed from the topic by code that shares nothing with the engine;
//! * [`found`]: what `intervals` does hold, beside that; [`accounts`]: counts that add up; [`crash`]: the matrix of
//!   faults after which both must be equal;
//! * [`reader`]: the lake as Python and DuckDB see it; [`data`]: the real data, where it is there;
//! * [`dice`]: random choices that can be made again; [`ports`]: places to listen; [`guard`], [`wait`], [`skip`]:
//!   nothing is left behind, nothing hangs, nothing is skipped in silence; [`checkout`]: where scripts and data are.
#![forbid(unsafe_code)]

pub mod accounts;
pub mod checkout;
pub mod crash;
pub mod data;
pub mod dice;
pub mod fault_proxy;
pub mod faulty_store;
pub mod found;
pub mod guard;
pub mod kafka;
pub mod oracle;
pub mod ports;
pub mod reader;
pub mod s3;
pub mod sandbox;
pub mod skip;
pub mod topic;
pub mod wait;
