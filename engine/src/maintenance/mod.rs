//! Housekeeping while readings go on: small files are merged, revisions folded, and what nobody needs any more is
//! deleted.
//!
//! Pure: [`plan`] (what to do). [`work`] reads and writes, [`round`] does all of it once, [`service`] does so by
//! schedule in the engine, and [`manual`] for `meterline maintain`; a [`report`] says what was done, and what was not.
//!
//! Nothing here commits to a table of the stream: new files are written first, where nobody sees them, and the stream
//! puts them in the place of the old ones between two epochs ([`crate::ingest::requests`]). A crash leaves files that
//! nobody names, which a later round deletes.

mod error;
pub mod manual;
pub mod plan;
pub mod report;
pub mod round;
pub mod service;
#[cfg(test)]
mod tests;
pub mod work;

pub use error::MaintenanceError;
