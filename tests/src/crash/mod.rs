//! The crash matrix: the real binary on a real Kafka and a lake, a fault while records are outstanding, and afterwards
//! equality with what the records say, and of the counts with the offsets.
//!
//! * [`cell`]: what is to be tried, and the whole matrix of it;
//! * [`feed`]: readings of three kinds with repetitions, stragglers, corrections and records that nobody can read;
//! * [`engines`]: the processes of an engine; [`strike`]: the faults; [`sight`] and [`kill`]: SIGKILL as soon as a file
//!   is seen; [`age`]: files that housekeeping deletes;
//! * [`clock`] and [`disk`]: a clock that jumps, a disk that is full;
//! * [`sums`]: a roll-up of all meters, and what it must hold;
//! * [`verdict`]: what is lost, doubled or miscounted; [`run`]: one cell from start to end.

pub mod age;
pub mod cell;
pub mod clock;
pub mod disk;
pub mod engines;
pub mod feed;
pub mod kill;
pub mod run;
pub mod sight;
pub mod strike;
pub mod sums;
pub mod verdict;

/// Why a run did not come to its end: what was waited for in vain, or what the engine did that it must not.
pub type Failure = String;
