//! How a run learns that it should end: a flag that every step looks at between two pieces of work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

use super::error::StepError;

const GO_ON: u8 = 0;
const SUSPEND: u8 = 1;
const CANCEL: u8 = 2;

/// A request to stop, shared by everything in one process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: AtomicU8,
    changed: Notify,
}

impl Stop {
    /// Asks for a stop at the next safe point; the run stays queued and can be resumed.
    pub fn suspend(&self) {
        self.raise(SUSPEND);
    }

    /// Asks for a stop at the next safe point, for good.
    pub fn cancel(&self) {
        self.raise(CANCEL);
    }

    fn raise(&self, to: u8) {
        self.shared.state.fetch_max(to, Ordering::SeqCst);
        self.shared.changed.notify_waiters();
    }

    /// Whether a stop was asked for.
    pub fn is_requested(&self) -> bool {
        self.shared.state.load(Ordering::SeqCst) != GO_ON
    }

    /// Whether the stop is for good.
    pub fn is_cancelled(&self) -> bool {
        self.shared.state.load(Ordering::SeqCst) == CANCEL
    }

    /// A safe point: [`StepError::Stopped`] if a stop was asked for.
    pub fn check(&self) -> Result<(), StepError> {
        if self.is_requested() { Err(StepError::Stopped) } else { Ok(()) }
    }

    /// Resolves once a stop is asked for.
    pub async fn requested(&self) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            // Registered before the flag is read, so that no request falls in between.
            changed.as_mut().enable();
            if self.is_requested() {
                return;
            }
            changed.await;
        }
    }
}
