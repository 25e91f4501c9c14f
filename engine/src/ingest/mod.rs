//! The stream: raw records → readings → native intervals → one atomic commit.
//!
//! Pure decisions: [`aggregate`] (one series' readings → rows), [`frequency`] (which it is), [`eras`] (which it was),
//! [`written`] (what is surely new), [`watermark`] (what is closed), [`idleness`] (what may still come), [`judge`]
//! (whether a topic is still the one that was read), [`epoch`] (parts of one epoch → state), [`groups`] (what triggers
//! see). What is kept: [`state`], the [`segments`] of [`series`] and those that were [`evicted`] between commits,
//! [`memory`] and the [`census`] in between, which tells [`classes`] of series apart, within [`bounds`]. On the way: [`rows`], [`outcome`], [`dead_letters`];
//! [`layout`] makes files of rows. What runs: [`discovery`] finds partitions (and tells [`brokers`] what it hears),
//! [`reader`]s read them, [`dataflow`] aggregates their readings in [`shard`]s, [`commit`] is the protocol
//! ([`patience`] waits for a store that fails, [`pulse`] tells how it fares, `declined` what was not looked up, `told` what became of records; [`load`] reads back what it wrote,
//! [`cleaning`] deletes what is no longer needed of that), and [`service`] starts and ends it all, the coordinator
//! closing epochs in between; housekeeping asks it for commits by [`requests`]. [`backfill`] takes files the same way.
//! [`crew`] says which worker is in which process; in each, the coordinator speaks to them by [`control`] and
//! [`outlet`]s, and [`cluster`] is what lies between processes.

pub mod aggregate;
pub mod backfill;
pub mod bounds;
pub mod brokers;
pub mod census;
pub mod classes;
pub mod cleaning;
pub mod cluster;
pub mod commit;
pub mod control;
mod coordinator;
pub mod crew;
pub mod dataflow;
pub mod dead_letters;
mod declined;
pub mod discovery;
pub mod epoch;
pub mod eras;
mod error;
pub mod evicted;
mod feeds;
pub mod frequency;
pub mod groups;
pub mod idleness;
mod inbox;
pub mod judge;
pub mod layout;
pub mod load;
pub(crate) mod lock;
pub mod memory;
pub mod names;
mod numbers;
pub mod order;
pub mod outcome;
pub mod outlet;
pub mod patience;
mod pending;
pub mod portion;
pub mod pulse;
pub mod reader;
pub mod recall;
pub mod requests;
pub mod rollup;
pub mod rows;
mod samples;
mod scan;
pub mod segments;
pub mod series;
pub mod service;
pub mod shard;
pub mod state;
mod threads;
mod told;
mod topic_watch;
pub mod watermark;
mod workers;
pub mod written;

pub use error::IngestError;
#[cfg(test)]
use load::load_series;
pub use load::{Committed, each_member, each_series, load_committed, state_at};
pub use service::{Ingest, IngestOptions};

#[cfg(test)]
mod aggregate_run;
#[cfg(test)]
mod aggregate_tests;
#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
pub(crate) mod commit_tests;
#[cfg(test)]
mod eras_tests;
#[cfg(test)]
mod figures_tests;
#[cfg(test)]
mod kinds_tests;
#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod schedule_tests;
#[cfg(test)]
mod stop_tests;
#[cfg(test)]
mod stream_tests;
