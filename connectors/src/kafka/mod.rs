//! Kafka: records in and out.
//!
//! * [`sink`] sends records, keyed and in order;
//! * [`mock`] is the in-process broker of the demo, and the pace that it can bear.

pub mod mock;
pub mod sink;
