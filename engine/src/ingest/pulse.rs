//! How the stream fares between two commits: what monitoring sees while a commit, or the store, is stuck.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Shared by the one who commits and those who want to know. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<Mutex<Beat>>);

#[derive(Debug, Default)]
struct Beat {
    committing: Option<Instant>,
    failures: u64,
    // Of the commit that is being made.
    failing: Option<String>,
}

impl Pulse {
    fn beat(&self) -> MutexGuard<'_, Beat> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A commit begins.
    pub fn begins(&self) {
        self.beat().committing = Some(Instant::now());
    }

    /// The store failed in the middle of a commit; it will be asked again.
    pub fn store_failed(&self, reason: String) {
        let mut beat = self.beat();
        beat.failures += 1;
        beat.failing = Some(reason);
    }

    /// The commit was made, or given up.
    pub fn ends(&self) {
        let mut beat = self.beat();
        (beat.committing, beat.failing) = (None, None);
    }

    /// How long the commit that is being made has taken; `None` while there is none.
    pub fn committing(&self) -> Option<Duration> {
        Some(self.beat().committing?.elapsed())
    }

    /// How often the store has failed since the stream began.
    pub fn failures(&self) -> u64 {
        self.beat().failures
    }

    /// Why the store is waited for; `None` while it is not.
    pub fn waiting(&self) -> Option<String> {
        Some(format!("the store: {}", self.beat().failing.as_ref()?))
    }
}
