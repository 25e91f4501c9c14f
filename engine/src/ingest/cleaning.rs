//! Which files of old states are deleted: those that no recent commit names.
//!
//! Whoever restores a stream has claimed it first, so its predecessor makes no commit any more, and deletes nothing
//! that the newest one names. Readers have no claim: for them everything is kept that was named less than `KEPT_FOR`
//! ago. What no commit writes is nobody's to delete here.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use meterline_connectors::lake::{Lake, LakeError};
use meterline_schemas::Micros;
use tokio::task::JoinHandle;

use super::error::IngestError;
use super::load::{StateFile, decode_state};
use super::patience::Patience;

/// States of the newest commits that are kept, however old they are.
const KEPT: usize = 20;
/// How long a state is kept after it was the newest one, with all that it names: longer than any reader takes for it.
const KEPT_FOR: Duration = Duration::from_secs(120);
/// State files that are read at a time.
const READS_AT_A_TIME: usize = 16;

/// Deletes files beside the commits, which do not wait for it. Dropping it gives up what it is at.
#[derive(Debug, Default)]
pub struct Cleaning {
    task: Option<JoinHandle<()>>,
    // Whether the log has it that files cannot be deleted.
    told: Arc<AtomicBool>,
}

impl Cleaning {
    /// Deletes what is no longer needed. As long as that takes, later calls leave theirs to one after it. What cannot
    /// be deleted is found again after the next start.
    pub fn begin(&mut self, lake: &Lake, states: &mut StateFiles) {
        if self.task.as_ref().is_some_and(|earlier| !earlier.is_finished()) {
            return;
        }
        let unneeded = states.take_unneeded(Instant::now());
        if !unneeded.is_empty() {
            self.task = Some(tokio::spawn(delete(lake.clone(), unneeded, Arc::clone(&self.told))));
        }
    }
}

impl Drop for Cleaning {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn delete(lake: Lake, unneeded: BTreeSet<String>, told: Arc<AtomicBool>) {
    for path in &unneeded {
        let Err(error) = lake.delete_object(path).await else { continue };
        let meaning = "an old file of the state cannot be deleted; it is tried again after the next start";
        // One word is enough: it may be the same with each of them.
        match told.swap(true, Ordering::Relaxed) {
            false => tracing::warn!(path, %error, "{meaning}"),
            true => tracing::debug!(path, %error, "{meaning}"),
        }
    }
}

/// The state files of a lake, the oldest first.
#[derive(Debug, Default)]
pub struct StateFiles {
    known: VecDeque<Known>,
}

#[derive(Debug)]
struct Known {
    path: String,
    // Segments and files of runs that it names.
    segments: Vec<String>,
    // Since when it may be no longer the newest; `None` for what never was.
    since: Option<Instant>,
}

impl StateFiles {
    /// Those that the lake has, whose newest commit is `newest`. What is left over of writers that died or were fenced
    /// out before their commit goes first.
    ///
    /// # Errors
    /// The lake cannot be read.
    pub async fn list(lake: &Lake, patience: &Patience, newest: i64) -> Result<StateFiles, IngestError> {
        let listing = patience.retry("listing the states of old commits", || lake.list_objects("state"));
        let (mut states, mut others) = (Vec::new(), Vec::new());
        for path in listing.await? {
            match StateFile::at(&path) {
                Some(StateFile::Commit) => states.push(path),
                Some(_) => others.push(path),
                // Whoever deletes the engine's lock lets a second process lock another file of that name.
                None => {}
            }
        }
        let read = states.into_iter().map(|path| read(lake, patience, path, newest));
        let read: Vec<Option<Found>> = futures::stream::iter(read).buffered(READS_AT_A_TIME).try_collect().await?;
        let newest_at = read.iter().flatten().filter_map(|found| found.committed_at).max().unwrap_or_default();
        let known = |found: Found| Known {
            path: found.path,
            segments: found.segments,
            since: found.committed_at.map(|at| made(at, newest_at)),
        };
        let mut known: VecDeque<Known> = read.into_iter().flatten().map(known).collect();
        let named: BTreeSet<&String> = known.iter().flat_map(|known| &known.segments).collect();
        let left_over: Vec<String> = others.into_iter().filter(|path| !named.contains(path)).collect();
        for path in left_over {
            known.push_front(Known { path, segments: Vec::new(), since: None });
        }
        Ok(StateFiles { known })
    }

    /// A commit was made, whose state is `path` and names `segments`, files of runs included.
    pub fn committed(&mut self, path: String, segments: Vec<String>) {
        self.known.push_back(Known { path, segments, since: Some(Instant::now()) });
    }

    /// Files to be deleted now, and forgets them.
    pub fn take_unneeded(&mut self, now: Instant) -> BTreeSet<String> {
        let mut unneeded = BTreeSet::new();
        let old = |since: Instant| now.saturating_duration_since(since) >= KEPT_FOR;
        while self.known.len() > KEPT {
            // It was the newest one until its successor came.
            let replaced = self.known.iter().skip(1).find_map(|next| next.since);
            if !self.known.front().is_some_and(|first| first.since.is_none() || replaced.is_some_and(old)) {
                break;
            }
            let Some(Known { path, segments, .. }) = self.known.pop_front() else { break };
            unneeded.insert(path);
            unneeded.extend(segments);
        }
        for path in self.known.iter().flat_map(|known| &known.segments) {
            unneeded.remove(path);
        }
        unneeded
    }
}

// A state file that is there.
struct Found {
    path: String,
    segments: Vec<String>,
    // `None` for what never was the newest.
    committed_at: Option<Micros>,
}

// `None` where it is gone already.
async fn read(lake: &Lake, patience: &Patience, path: String, newest: i64) -> Result<Option<Found>, IngestError> {
    let get = || async {
        match lake.get_object(&path).await {
            Err(LakeError::NotFound { .. }) => Ok(None),
            read => read.map(Some),
        }
    };
    let Some(bytes) = patience.retry("loading the states of old commits", get).await? else { return Ok(None) };
    // One that cannot be read names nothing; if it is the newest, this was said already. One of a later commit is of a
    // writer that was fenced out or died before it.
    let state = decode_state(&path, &bytes).ok().filter(|state| state.seq <= newest);
    let committed_at = state.as_ref().map(|state| state.committed_at);
    let segments = state.iter().flat_map(|state| state.segment_paths()).map(str::to_owned).collect();
    Ok(Some(Found { path, segments, committed_at }))
}

// When a commit was made, by what it and the newest one say of it: an engine that starts again and again would let
// everything lie otherwise. Whoever reads this may have another clock. No longer ago than matters.
fn made(committed_at: Micros, newest_at: Micros) -> Instant {
    let age = Duration::from_micros(u64::try_from(newest_at.saturating_sub(committed_at)).unwrap_or(0)).min(KEPT_FOR);
    let now = Instant::now();
    now.checked_sub(age).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(first: usize, last: usize, since: Option<Instant>) -> StateFiles {
        // Each names a segment of its own and that of the one before.
        let known = (first..=last).map(|n| Known {
            path: format!("state/ingest-{n}"),
            segments: vec![format!("state/series-{}", n - 1), format!("state/series-{n}")],
            since,
        });
        StateFiles { known: known.collect() }
    }

    #[test]
    fn only_what_was_replaced_long_ago_is_deleted_and_nothing_that_a_kept_state_names() {
        let began = Instant::now();
        let mut files = files(1, 30, Some(began));
        assert!(files.take_unneeded(began + KEPT_FOR / 2).is_empty());
        let gone = files.take_unneeded(began + KEPT_FOR);
        assert!(gone.contains("state/ingest-10") && !gone.contains("state/ingest-11"), "{gone:?}");
        assert!(gone.contains("state/series-9") && !gone.contains("state/series-10"), "{gone:?}");
        assert_eq!((gone.len(), files.known.len()), (20, KEPT));
        assert!(files.take_unneeded(began + 2 * KEPT_FOR).is_empty());
    }

    #[test]
    fn what_was_made_before_a_start_is_as_old_as_the_commits_say() {
        let before = |micros| made(1_000_000_000, 1_000_000_000 + micros).elapsed().as_secs();
        assert_eq!((before(0), before(45_000_000), before(i64::MAX / 2)), (0, 45, KEPT_FOR.as_secs()));
        // A clock that went back.
        assert_eq!(before(-7_000_000), 0);
    }

    #[test]
    fn left_overs_wait_for_nobody() {
        let began = Instant::now();
        let mut files = files(1, 25, Some(began));
        files.known.push_front(Known { path: "state/series-99".into(), segments: vec![], since: None });
        assert_eq!(files.take_unneeded(began).into_iter().collect::<Vec<_>>(), ["state/series-99"]);
    }
}
