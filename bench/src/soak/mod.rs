//! What `bench/run soak` does: the stream at half its maximum rate, with corrections, duplicates, housekeeping and
//! SIGKILLs, watched for growth.
//!
//! [`watch`] samples, [`trend`] judges, [`plot`] draws, [`run`] is all of it in order.

pub mod plot;
pub mod run;
pub mod trend;
pub mod watch;
