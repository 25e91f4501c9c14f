//! Kafka: records in and out.
//!
//! * [`source`] reads assigned partitions at our own offsets; [`cluster`] says which partitions and offsets there are;
//! * [`sink`] sends records, keyed and in order;
//! * [`mock`] is the in-process broker of the demo, and the pace that it can bear.

mod batch;
mod client;
pub mod cluster;
pub mod mock;
pub mod sink;
pub mod source;
mod topic_id;

pub use client::{SourceError, decisive};
pub use topic_id::TopicId;
