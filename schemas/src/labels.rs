//! Labels: what a series belongs to (site, feeder, region, …).

use std::sync::Arc;

/// The values of some labels, in an order that giver and taker agree on; `None` where one is absent. Shared, because
/// thousands of series have the same ones.
pub type LabelValues = Arc<[Option<Arc<str>>]>;

/// Longest value of a label, in bytes.
pub const LABEL_BYTES_MAX: usize = 256;

/// With these letters begin the identifiers of roll-up series; no other series may have such a one.
pub const ROLLUP_PREFIX: &str = "rollup.";
