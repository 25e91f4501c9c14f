//! Triggers: how long it takes to look at all of them, how soon after a commit they decide, and what policies buy for the
//! time on the device.

pub mod delay;
pub mod evaluation;
pub mod policies;
