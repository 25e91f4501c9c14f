//! Runs, steps, logs, metrics, the model registry and trigger decisions, in SQLite.
//!
//! [`records`] are the rows as plain values; [`MetadataStore`] keeps them. Each row is its record as one JSON document,
//! beside the few columns that are searched by: what a record has is said in one place. Several processes share the
//! database: the engine, its runs, and the commands.

mod decisions;
mod maintenance;
pub mod records;
mod registry;
mod runs;
pub mod standings;
mod store;

pub use maintenance::{MaintenanceRecord, MaintenanceStatus};
pub use registry::alias;
pub use store::{MetadataError, MetadataStore};
