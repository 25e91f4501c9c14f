//! What the roll-ups of a worker take of the memory for what its series are. They say it at the end of each epoch; the
//! shard of the worker, which is on another thread in a backfill, makes room for it.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes, as of the last epochs that ended.
#[derive(Debug, Default)]
pub struct Taken {
    series: AtomicUsize,
    groups: AtomicUsize,
}

impl Taken {
    /// So much is known of series: their labels, and where they belong.
    pub fn by_series(&self, bytes: usize) {
        self.series.store(bytes, Ordering::Relaxed);
    }

    /// So much are groups, without the intervals that they remember.
    pub fn by_groups(&self, bytes: usize) {
        self.groups.store(bytes, Ordering::Relaxed);
    }

    /// Both together.
    pub fn bytes(&self) -> usize {
        self.series.load(Ordering::Relaxed).saturating_add(self.groups.load(Ordering::Relaxed))
    }
}
