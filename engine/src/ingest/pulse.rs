//! How the stream fares until it has begun, and between two commits: what monitoring sees while the start, a commit or
//! the store is stuck. The clock comes from outside.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A commit that takes longer is worth a look.
const SLOW: Duration = Duration::from_secs(60);

/// Shared by the one who commits and those who want to know. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<Mutex<Beat>>);

#[derive(Debug, Default)]
struct Beat {
    committing: Option<Instant>,
    // It is the start of the stream: there is nothing yet that it could answer with.
    starting: bool,
    // What began then.
    what: &'static str,
    // What it is at.
    doing: &'static str,
    failures: u64,
    declined: u64,
    // What is tried again.
    failing: Option<String>,
}

/// A commit is being made; it was made, or given up, when this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Committing(Pulse);

impl Drop for Committing {
    fn drop(&mut self) {
        let mut beat = self.0.beat();
        (beat.committing, beat.starting, beat.failing) = (None, false, None);
    }
}

impl Pulse {
    fn beat(&self) -> MutexGuard<'_, Beat> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A commit begins.
    pub fn begins(&self, now: Instant) -> Committing {
        self.begins_other("a commit", now)
    }

    /// Something else begins that the stream waits for and that needs the store.
    pub fn begins_other(&self, what: &'static str, now: Instant) -> Committing {
        {
            let mut beat = self.beat();
            (beat.committing, beat.what) = (Some(now), what);
        }
        self.awaits_workers();
        Committing(self.clone())
    }

    /// The stream starts. Until it has begun, whoever asks hears that, from the first moment on.
    pub fn starts(&self, now: Instant) -> Committing {
        {
            let mut beat = self.beat();
            (beat.committing, beat.starting, beat.what) = (Some(now), true, "the start of the stream");
        }
        self.does("opening the tables of the stream");
        Committing(self.clone())
    }

    /// It waits for the workers: at first, and again after each lookup of theirs.
    pub fn awaits_workers(&self) {
        self.does("waiting for the workers");
    }

    /// What the commit is at.
    pub fn does(&self, doing: &'static str) {
        let mut beat = self.beat();
        (beat.doing, beat.failing) = (doing, None);
    }

    /// The store failed in the middle of a commit or a lookup; it will be asked again.
    pub fn store_failed(&self, reason: String) {
        let mut beat = self.beat();
        beat.failures += 1;
        beat.failing = Some(reason);
    }

    /// What the store failed at is done.
    pub fn store_answers(&self) {
        self.beat().failing = None;
    }

    /// How long the commit that is being made has taken, and what it is at; `None` while there is none.
    pub fn committing(&self, now: Instant) -> Option<(Duration, &'static str)> {
        let beat = self.beat();
        Some((now.saturating_duration_since(beat.committing?), beat.doing))
    }

    /// How often the store has failed since the stream began.
    pub fn failures(&self) -> u64 {
        self.beat().failures
    }

    /// A lookup was declined: it would have taken too long.
    pub fn lookup_declined(&self) {
        self.beat().declined += 1;
    }

    /// How many lookups were declined since the stream began.
    pub fn declined_lookups(&self) -> u64 {
        self.beat().declined
    }

    /// What the start of the stream is at, in words; `None` once it has begun.
    pub fn starting(&self, now: Instant) -> Option<String> {
        let beat = self.beat();
        let began = beat.committing.filter(|_| beat.starting)?;
        let taken = now.saturating_duration_since(began);
        let said = match &beat.failing {
            Some(reason) => format!("the store: {reason}"),
            None => beat.doing.to_owned(),
        };
        // A store that fails says itself what is wrong; one that hangs does not.
        let slow = match &beat.failing {
            None if taken >= SLOW => "; look whether the store, or another process of the cluster, hangs",
            _ => "",
        };
        Some(format!("restoring the stream, for {} s so far: {said}{slow}; nothing is lost", taken.as_secs()))
    }

    /// Why the stream cannot go on right now, what it waits for: its start, or the store; `None` while it does not.
    pub fn waiting(&self, now: Instant) -> Option<String> {
        if let Some(starting) = self.starting(now) {
            return Some(starting);
        }
        if let Some(reason) = &self.beat().failing {
            return Some(format!("the store: {reason}"));
        }
        let (taken, doing) = self.committing(now).filter(|(taken, _)| *taken >= SLOW)?;
        let what = self.beat().what;
        Some(format!(
            "{what} has been in progress for {} s and is {doing}, without an answer or an error; nothing is lost, reading \
             waits: look whether the store, its disk or the network to it hangs, and at meterline_commit_in_progress_seconds",
            taken.as_secs()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_neither_answers_nor_fails_is_told_with_how_long_and_at_what() {
        let (pulse, start) = (Pulse::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!((pulse.committing(at(1)), pulse.waiting(at(900))), (None, None));
        let commit = pulse.begins(start);
        assert_eq!(pulse.committing(at(2)), Some((Duration::from_secs(2), "waiting for the workers")));
        pulse.does("writing intervals");
        assert_eq!(pulse.waiting(at(59)), None);
        let said = pulse.waiting(at(61)).unwrap();
        assert!(said.contains("61 s") && said.contains("writing intervals") && said.contains("the store"), "{said}");
        pulse.store_failed("no space".into());
        assert_eq!((pulse.waiting(at(1)), pulse.failures()), (Some("the store: no space".into()), 1));
        // It goes on with the next step.
        pulse.does("writing the state");
        assert_eq!(pulse.waiting(at(1)), None);
        drop(commit);
        assert_eq!((pulse.committing(at(999)), pulse.waiting(at(999))), (None, None));
        let _begins = pulse.begins_other("housekeeping", start);
        let said = pulse.waiting(at(61)).unwrap();
        assert!(said.starts_with("housekeeping has been in progress for 61 s"), "{said}");
    }

    #[test]
    fn a_start_is_told_from_its_first_moment_on_with_what_it_is_at() {
        let (pulse, start) = (Pulse::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let starting = pulse.starts(start);
        let said = |seconds| pulse.waiting(at(seconds)).unwrap();
        assert_eq!(said(0), "restoring the stream, for 0 s so far: opening the tables of the stream; nothing is lost");
        pulse.does("loading the states of series");
        assert!(said(7).contains(", for 7 s so far: loading the states of series;"), "{}", said(7));
        assert!(!said(59).contains("hangs") && said(60).contains("hangs"), "{}", said(60));
        pulse.store_failed("no answer".into());
        assert!(said(61).contains("61 s so far: the store: no answer;"), "{}", said(61));
        assert_eq!(pulse.committing(at(3)).map(|(taken, _)| taken), Some(Duration::from_secs(3)));
        drop(starting);
        assert_eq!((pulse.starting(at(900)), pulse.waiting(at(900))), (None, None));
        // A commit is no start.
        let _commit = pulse.begins(start);
        assert_eq!((pulse.starting(at(1)), pulse.waiting(at(1))), (None, None));
    }
}
