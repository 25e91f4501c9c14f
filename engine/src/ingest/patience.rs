//! Waiting for a store that fails: longer each time, aloud, and not for ever once the engine is to stop. One way for
//! commits, lookups and the start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use meterline_connectors::lake::CommitError;

use super::error::IngestError;
use super::pulse::Pulse;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
/// Attempts that each step gets once the engine is to stop.
const ATTEMPTS_WHEN_STOPPING: u32 = 5;

/// How long a store is waited for. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Patience {
    stopping: Arc<AtomicBool>,
    pulse: Pulse,
    first: Duration,
    longest: Duration,
}

impl Patience {
    /// Until `stopping` is set, nearly; `pulse` hears of it.
    pub fn new(stopping: Arc<AtomicBool>, pulse: Pulse) -> Patience {
        Patience { stopping, pulse, first: FIRST, longest: LONGEST }
    }

    /// Does `work` until it is done. What waiting cannot mend ends it at once.
    ///
    /// # Errors
    /// Those of [`Attempts::failed`].
    pub async fn retry<T, E, F>(&self, doing: &'static str, mut work: impl FnMut() -> F) -> Result<T, IngestError>
    where
        E: Into<CommitError>,
        F: Future<Output = Result<T, E>>,
    {
        let mut attempts = self.attempts(doing);
        loop {
            match work().await {
                Ok(done) => return Ok(attempts.succeeded(done)),
                Err(error) => attempts.failed(error).await?,
            }
        }
    }

    /// For work that needs something for itself alone: a loop of one's own.
    pub fn attempts(&self, doing: &'static str) -> Attempts<'_> {
        self.pulse.does(doing);
        Attempts { patience: self, doing, count: 0, pause: self.first }
    }

    /// Whether the engine is to stop: what can be put off is.
    pub(super) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// Attempts at one thing.
#[derive(Debug)]
pub struct Attempts<'a> {
    patience: &'a Patience,
    doing: &'static str,
    count: u32,
    pause: Duration,
}

impl Attempts<'_> {
    /// It is done.
    pub fn succeeded<T>(&self, done: T) -> T {
        if self.count > 0 {
            self.patience.pulse.store_answers();
            tracing::info!(attempts = self.count + 1, "{} succeeded", self.doing);
        }
        done
    }

    /// It failed: returns when it is time for the next attempt.
    ///
    /// # Errors
    /// [`IngestError::Fenced`]; a damaged or missing file; or a store that still fails when the engine is to stop.
    pub async fn failed(&mut self, error: impl Into<CommitError>) -> Result<(), IngestError> {
        let (patience, doing) = (self.patience, self.doing);
        self.count += 1;
        let given_up = patience.stopping() && self.count >= ATTEMPTS_WHEN_STOPPING;
        let failed = IngestError::commit(doing)(error.into());
        match &failed {
            IngestError::Lake { source: error, .. } if error.may_pass() && !given_up => {
                patience.pulse.store_failed(failed.to_string());
                tracing::warn!(
                    %error, attempt = self.count, next_attempt_s = self.pause.as_secs_f64(),
                    "{doing} failed; reading waits, nothing is lost"
                );
            }
            _ => return Err(failed),
        }
        let mut waited = Duration::ZERO;
        // A stop must not wait for a long pause to end.
        while waited < self.pause && !(patience.stopping() && waited >= patience.first) {
            let nap = patience.first.min(self.pause - waited);
            tokio::time::sleep(nap).await;
            waited += nap;
        }
        self.pause = (self.pause * 2).min(patience.longest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Instant;

    use meterline_connectors::lake::LakeError;

    use super::*;

    fn store_failed() -> LakeError {
        let source = object_store::Error::Generic { store: "test", source: "no answer".into() };
        LakeError::Store { doing: "reading".into(), source }
    }

    fn hurried(stopping: &Arc<AtomicBool>, pulse: &Pulse) -> Patience {
        let (first, longest) = (Duration::from_millis(1), Duration::from_secs(3600));
        Patience { first, longest, ..Patience::new(Arc::clone(stopping), pulse.clone()) }
    }

    #[tokio::test]
    async fn a_store_that_fails_is_waited_for_and_seen_until_it_answers() {
        let pulse = Pulse::default();
        let left = Cell::new(8);
        let work = || async {
            assert_eq!(pulse.waiting(Instant::now()).is_some(), left.get() < 8);
            left.set(left.get() - 1);
            if left.get() == 0 { Ok(7) } else { Err(store_failed()) }
        };
        assert_eq!(hurried(&Arc::default(), &pulse).retry("looking up", work).await.unwrap(), 7);
        assert_eq!((pulse.failures(), pulse.waiting(Instant::now())), (7, None));
    }

    #[tokio::test]
    async fn what_waiting_cannot_mend_is_told_at_once() {
        let patience = hurried(&Arc::default(), &Pulse::default());
        let tried = Cell::new(0);
        let damaged = || async {
            tried.set(tried.get() + 1);
            let (path, wanted, reason) = ("intervals/x".into(), "all".into(), "no".into());
            Err::<(), _>(LakeError::Unreadable { path, wanted, reason })
        };
        let error = patience.retry("looking up", damaged).await.unwrap_err();
        assert!(tried.get() == 1 && error.to_string().contains("intervals/x"), "{error}");
        let fenced = || async { Err::<(), _>(CommitError::Fenced { job: "job".into(), ours: 1, theirs: 2 }) };
        let error = patience.retry("committing", fenced).await.unwrap_err();
        assert!(matches!(error, IngestError::Fenced(_)), "{error}");
    }

    #[tokio::test]
    async fn a_stop_ends_a_long_pause_and_a_store_that_still_fails_then_is_given_up() {
        let (stopping, pulse) = (Arc::new(AtomicBool::new(false)), Pulse::default());
        let patience = hurried(&stopping, &pulse);
        let stop = async {
            while pulse.failures() < 8 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            stopping.store(true, Ordering::Relaxed);
        };
        let failing = patience.retry("looking up", || async { Err::<(), _>(store_failed()) });
        let (failed, ()) = tokio::join!(failing, stop);
        let error = failed.unwrap_err();
        assert!(matches!(error, IngestError::Lake { .. }), "{error}");
        assert!(pulse.failures() < 11, "{}", pulse.failures());
    }
}
