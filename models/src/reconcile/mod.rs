//! Forecasts of roll-ups that agree with the forecasts of their parts.
//!
//! Base forecasts are made for every node on its own: sites, feeders, regions. Their sums do not agree, and both sides
//! know something: sites their own habits, regions what cancels out below. Reconciliation gives each node one value so
//! that every roll-up is exactly the sum of its leaves.
//!
//! * [`Structure`]: which node is the sum of which; a tree of any depth, or any other set of sums;
//! * [`bottom_up`]: the values of the leaves decide (the older, simpler way);
//! * [`MinTrace`]: all values decide, each as far as its past errors deserve, given by
//! * [`ErrorVariances`] or [`ShrunkCovariance`];
//! * [`shift_quantiles`]: what becomes of the quantiles around a value that moved.
//!
//! Vectors over nodes have one order everywhere: the leaves as they were given, then the other nodes as they were given
//! ([`Structure::names`]). A value that is missing is NaN.
//!
//! Everything works on the edges of the structure; nothing of size nodes × nodes is ever formed.

mod bottom_up;
mod distributions;
mod error;
mod forest;
mod gram;
mod least_squares;
mod min_trace;
mod non_negative;
mod structure;
#[cfg(test)]
mod tests;
mod weights;

pub use bottom_up::bottom_up;
pub use distributions::shift_quantiles;
pub use error::{ReconcileError, StructureError};
pub use min_trace::MinTrace;
pub use structure::Structure;
pub use weights::{ErrorVariances, ShrunkCovariance};

/// Values that the measured quantity can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// Any: net load of a site with its own generation.
    Any,
    /// Zero or more: consumption, generation.
    NonNegative,
}
