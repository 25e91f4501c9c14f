//! Reads back what commits wrote: the state of one, and the segments and runs that it names.
//!
//! A reader that has no claim may be slower than the stream, which deletes what old commits wrote: [`Committed`] is
//! then read again as of a newer commit. What the newest commits wrote is kept for a while for the same reason
//! ([`super::cleaning`]).

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use meterline_connectors::lake::{Lake, LakeError, TableSnapshot, snapshot};
use meterline_schemas::config::Config;
use meterline_schemas::tables::INTERVALS;

use super::census::{Census, Taking};
use super::classes::Classes;
use super::commit::{FENCE, SEQ};
use super::error::IngestError;
use super::evicted;
use super::patience::Patience;
use super::rollup::saved::{SavedLabels, SavedMember};
use super::segments::{self, Segment};
use super::series::SeriesState;
use super::shard::route;
use super::state::IngestState;

/// A commit as others see it.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Its state.
    pub state: Arc<IngestState>,
    /// The census of its series.
    pub census: Arc<Census>,
    /// Version of the table `intervals` that holds its rows.
    pub intervals_version: i64,
}

/// Where states are read from: once, or with patience for a store that fails.
#[derive(Debug, Clone, Copy)]
pub struct States<'a> {
    lake: &'a Lake,
    patience: Option<&'a Patience>,
}

impl<'a> From<&'a Lake> for States<'a> {
    fn from(lake: &'a Lake) -> States<'a> {
        States { lake, patience: None }
    }
}

impl<'a> States<'a> {
    /// Waits for a store that fails.
    pub fn patient(lake: &'a Lake, patience: &'a Patience) -> States<'a> {
        States { lake, patience: Some(patience) }
    }

    async fn get(&self, doing: &'static str, path: &str) -> Result<Bytes, IngestError> {
        let get = || self.lake.get_object(path);
        match self.patience {
            Some(patience) => patience.retry(doing, get).await,
            None => get().await.map_err(IngestError::lake(doing)),
        }
    }

    /// Part of a file.
    pub(super) async fn range(&self, doing: &'static str, path: &str, range: Range<u64>) -> Result<Bytes, IngestError> {
        let get = || self.lake.get_range(path, range.clone());
        match self.patience {
            Some(patience) => patience.retry(doing, get).await,
            None => get().await.map_err(IngestError::lake(doing)),
        }
    }

    /// The same, for a task of its own.
    pub(super) fn owned(self) -> OwnedStates {
        OwnedStates { lake: self.lake.clone(), patience: self.patience.cloned() }
    }

    /// The state of a commit, by its number and the fence of its writer.
    pub(super) async fn state(&self, seq: i64, fence: i64) -> Result<IngestState, IngestError> {
        let path = StateFile::Commit.path(seq, fence);
        let state = decode_state(&path, &self.get("loading the state of a commit", &path).await?)?;
        if state.seq != seq || state.fence != fence {
            let reason = format!("it is of commit {} by writer {}", state.seq, state.fence);
            return Err(IngestError::State { path, reason });
        }
        Ok(state)
    }

    async fn records<T: serde::de::DeserializeOwned>(
        &self,
        segment: &Segment,
        magic: &segments::Magic,
        take: impl FnMut(T),
    ) -> Result<(), IngestError> {
        let bytes = self.get("loading the states of roll-ups", &segment.path).await?;
        let decoded = segments::decode_records(magic, &bytes, take);
        decoded.map_err(|reason| IngestError::State { path: segment.path.clone(), reason })
    }
}

/// [`States`] of a task that may outlive who began it.
#[derive(Debug, Clone)]
pub(super) struct OwnedStates {
    lake: Lake,
    patience: Option<Patience>,
}

impl OwnedStates {
    /// What it has.
    pub(super) fn states(&self) -> States<'_> {
        States { lake: &self.lake, patience: self.patience.as_ref() }
    }
}

/// The newest commit, from the lake and, where there are label policies, from files of labels below `directory`, as these
/// are now; `None` before the first one.
///
/// # Errors
/// The lake, a file of the state or one of labels cannot be read.
pub async fn load_committed(lake: &Lake, config: &Config, directory: &Path) -> Result<Option<Committed>, IngestError> {
    let classes = Classes::load(config, directory).await?;
    let mut tried = None;
    loop {
        let doing = "looking for the last ingest commit";
        let Some(table) = snapshot(lake, INTERVALS, None).await.map_err(IngestError::lake(doing))? else {
            return Ok(None);
        };
        match committed_at(lake, config, &classes, &table).await {
            // It is not the newest any more, and its files are deleted: there were many commits meanwhile.
            Err(IngestError::Lake { source: LakeError::NotFound { .. }, .. }) if tried < Some(table.version) => {
                tried = Some(table.version);
            }
            committed => return committed,
        }
    }
}

async fn committed_at(
    lake: &Lake,
    config: &Config,
    classes: &Classes,
    table: &TableSnapshot,
) -> Result<Option<Committed>, IngestError> {
    let Some(state) = state_at(lake, table).await? else { return Ok(None) };
    // There may be more series than fit into memory.
    let mut census = Taking::new(config, classes);
    each_series(lake, &state, |series, _| census.take(&series)).await?;
    let census = Arc::new(census.finish());
    Ok(Some(Committed { state: Arc::new(state), census, intervals_version: table.version }))
}

/// The state of the commit that made a snapshot of `intervals`; `None` before the first one.
///
/// # Errors
/// The lake or the state file cannot be read. State files of old commits are deleted.
pub async fn state_at(lake: &Lake, table: &TableSnapshot) -> Result<Option<IngestState>, IngestError> {
    let doing = "looking for an ingest commit";
    let seq = table.transaction(SEQ).await.map_err(IngestError::lake(doing))?;
    let fence = table.transaction(FENCE).await.map_err(IngestError::lake(doing))?;
    match (seq, fence) {
        (Some(seq), Some(fence)) => Ok(Some(States::from(lake).state(seq, fence).await?)),
        _ => Ok(None),
    }
}

// All series of a state, ordered by feed and identifier: those in memory and those that left it.
#[cfg(test)]
pub(super) async fn load_series(lake: &Lake, state: &IngestState) -> Result<Vec<SeriesState>, IngestError> {
    let mut all = Vec::new();
    each_series(lake, state, |series, _| all.push(series)).await?;
    all.sort_unstable_by(|a, b| (&a.feed, &a.id).cmp(&(&b.feed, &b.id)));
    Ok(all)
}

/// Where a commit has the state of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// The series is in memory, and its state in the segment of the commit with this number.
    InMemory(i64),
    /// It left memory, and its state is in a run.
    Evicted,
}

impl Kept {
    /// The commit whose segment holds the state; of one that is in none the next.
    pub fn written(self) -> i64 {
        match self {
            Kept::InMemory(commit) => commit,
            Kept::Evicted => i64::MAX,
        }
    }
}

/// Hands every series of a state to `take`, with where its state is kept.
///
/// # Errors
/// A file cannot be read.
pub async fn each_series<'a>(
    from: impl Into<States<'a>>,
    state: &IngestState,
    mut take: impl FnMut(SeriesState, Kept),
) -> Result<(), IngestError> {
    let from = from.into();
    if state.evicted.is_empty() {
        return each_in_segments(from, state, |series, written| take(series, Kept::InMemory(written))).await;
    }
    // Segments have what fits into memory, runs much more than that: these are only gone through, in their order.
    let mut in_segments: Vec<(u64, SeriesState, i64)> = Vec::new();
    each_in_segments(from, state, |series, written| in_segments.push((route(&series.id), series, written))).await?;
    in_segments.sort_unstable_by(|(route, a, _), (other, b, _)| (route, &a.id).cmp(&(other, &b.id)));
    let mut in_segments = in_segments.into_iter().peekable();
    let of_runs = |series: SeriesState, seq: i64| {
        let key = (route(&series.id), &series.id);
        while let Some((_, before, written)) = in_segments.next_if(|(route, before, _)| (*route, &before.id) < key) {
            take(before, Kept::InMemory(written));
        }
        let same = in_segments.peek().filter(|(_, same, _)| same.id == series.id);
        let written = same.map(|(_, _, written)| *written);
        // It came back after it had left: what the run has is left over.
        if written.is_some_and(|written| written >= seq) {
            return;
        }
        // It left: what a segment has is left over, until that is written again.
        if written.is_some() {
            in_segments.next();
        }
        take(series, Kept::Evicted);
    };
    evicted::each(from, &state.evicted, of_runs).await?;
    in_segments.for_each(|(_, series, written)| take(series, Kept::InMemory(written)));
    Ok(())
}

// With the commit whose segment holds it, also those that have left memory since.
async fn each_in_segments(
    from: States<'_>,
    state: &IngestState,
    mut take: impl FnMut(SeriesState, i64),
) -> Result<(), IngestError> {
    let mut seen = HashSet::new();
    // The newest first: what is seen again is older.
    for segment in state.segments.iter().rev() {
        let bytes = from.get("loading the states of series", &segment.path).await?;
        let decoded = segments::decode(&bytes, |series| {
            if seen.insert(series.id.clone()) {
                take(series, segment.seq);
            }
        });
        decoded.map_err(|reason| IngestError::State { path: segment.path.clone(), reason })?;
    }
    Ok(())
}

/// Hands every state that roll-ups remember of a series to `take`, with the commit whose segment holds it.
///
/// # Errors
/// A segment cannot be read.
pub async fn each_member<'a>(
    from: impl Into<States<'a>>,
    state: &IngestState,
    mut take: impl FnMut(SavedMember, i64),
) -> Result<(), IngestError> {
    let from = from.into();
    let mut seen = HashSet::new();
    for segment in state.rollups.members.iter().rev() {
        from.records(segment, segments::MEMBERS, |member: SavedMember| {
            if seen.insert(Arc::clone(&member.series)) {
                take(member, segment.seq);
            }
        })
        .await?;
    }
    Ok(())
}

/// The labels that hold from the commit after this state on.
///
/// # Errors
/// Their segment cannot be read.
pub async fn load_said(from: States<'_>, state: &IngestState) -> Result<Vec<SavedLabels>, IngestError> {
    let mut said = Vec::new();
    if let Some(segment) = &state.rollups.said {
        from.records(segment, segments::SAID, |labels| said.push(labels)).await?;
    }
    Ok(said)
}

/// What files of runs are called.
const EVICTED: &str = "evicted";

/// What commits write below `state/`. Other files there are none of theirs, and are let alone: on a local lake the lock
/// of the engine is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StateFile {
    /// The state itself, which names all others.
    Commit,
    /// A segment with states of series.
    Series,
    /// A segment with what roll-ups remember of series.
    Members,
    /// A segment with the labels that hold from the next commit on.
    Said,
    /// A file of a run of evicted series, by its number among those that its commit put.
    Evicted(u32),
}

impl StateFile {
    // Of which a commit has one each.
    const SINGLE: [StateFile; 4] = [StateFile::Commit, StateFile::Series, StateFile::Members, StateFile::Said];

    const fn name(self) -> &'static str {
        match self {
            StateFile::Commit => "ingest",
            StateFile::Series => "series",
            StateFile::Members => "members",
            StateFile::Said => "said",
            StateFile::Evicted(_) => EVICTED,
        }
    }

    /// Where a writer puts that of a commit, below the lake's root.
    pub(super) fn path(self, seq: i64, fence: i64) -> String {
        let name = self.name();
        match self {
            StateFile::Evicted(number) => format!("state/{name}-{seq:012}-{fence}-{number}.zst"),
            _ => format!("state/{name}-{seq:012}-{fence}.zst"),
        }
    }

    /// What is at a path; `None` where no commit writes to it.
    pub(super) fn at(path: &str) -> Option<StateFile> {
        let name = path.strip_prefix("state/")?.strip_suffix(".zst")?;
        let (of, numbers) = name.split_once('-')?;
        let numbers: Vec<&str> = numbers.split('-').collect();
        let is_number = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !numbers.iter().all(is_number) {
            return None;
        }
        match numbers.as_slice() {
            [_, _] => StateFile::SINGLE.into_iter().find(|file| file.name() == of),
            [_, _, number] if of == EVICTED => number.parse::<u32>().ok().map(StateFile::Evicted),
            _ => None,
        }
    }
}

pub(super) fn decode_state(path: &str, bytes: &[u8]) -> Result<IngestState, IngestError> {
    let damaged = |reason: String| IngestError::State { path: path.to_owned(), reason };
    let text = zstd::decode_all(bytes).map_err(|error| damaged(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use meterline_schemas::unit::Unit;

    use super::super::pulse::Pulse;
    use super::super::segments::Frames;
    use super::*;

    fn states(ids: &[&str], seq: i64) -> Vec<SeriesState> {
        let state = |id: &&str| {
            let mut state = SeriesState::new("meters", id, Unit::KWH);
            state.intervals = seq as u32;
            state
        };
        ids.iter().map(state).collect()
    }

    #[tokio::test]
    async fn a_series_is_in_memory_or_evicted_as_the_later_commit_says() {
        let dir = tempfile::tempdir().unwrap();
        let lake = Lake::open(dir.path().to_str().unwrap()).await.unwrap();
        let patience = Patience::new(Arc::default(), Pulse::default());
        let mut state = IngestState::default();
        for (seq, ids) in [(1, ["a", "b", "c", "d", "e"].as_slice()), (3, ["c", "d"].as_slice())] {
            let frames = Frames::of(states(ids, seq).iter()).unwrap();
            let path = StateFile::Series.path(seq, 1);
            lake.put_object(&path, frames.segment(segments::SERIES)).await.unwrap();
            state.segments.push(Segment { path, seq, series: frames.series, bytes: 0 });
        }
        let in_memory = load_series(&lake, &state).await.unwrap();
        assert_eq!(in_memory, [states(&["a", "b"], 1), states(&["c", "d"], 3), states(&["e"], 1)].concat());
        // Of what was evicted c came back; segments have forgotten f.
        for (seq, ids) in [(2, ["b", "c", "f"].as_slice()), (4, ["e"].as_slice())] {
            let mut gone = states(ids, seq);
            gone.sort_by_cached_key(|series| (route(&series.id), series.id.clone()));
            let writing = evicted::Writing { lake: &lake, patience: &patience, seq, fence: 1 };
            let fresh = vec![Frames::of(gone.iter()).unwrap()];
            state.evicted = evicted::add(&writing, &state.evicted, fresh).await.unwrap();
        }
        let mut found = Vec::new();
        each_series(&lake, &state, |series, kept| found.push((series.id.to_string(), series.intervals, kept)))
            .await
            .unwrap();
        found.sort_unstable_by(|(a, ..), (b, ..)| a.cmp(b));
        let expected: [(&str, u32, Kept); 6] = [
            ("a", 1, Kept::InMemory(1)),
            ("b", 2, Kept::Evicted),
            ("c", 3, Kept::InMemory(3)),
            ("d", 3, Kept::InMemory(3)),
            ("e", 4, Kept::Evicted),
            ("f", 2, Kept::Evicted),
        ];
        assert_eq!(found, expected.map(|(id, seq, kept)| (id.to_owned(), seq, kept)));
        assert_eq!(load_series(&lake, &state).await.unwrap().len(), 6);
        let mut named: Vec<&str> = state.segment_paths().collect();
        named.sort_unstable();
        assert_eq!(named, lake.list_objects("state").await.unwrap());
    }

    #[test]
    fn what_commits_write_is_told_from_all_else() {
        for file in StateFile::SINGLE.into_iter().chain([0, 7, u32::MAX].map(StateFile::Evicted)) {
            for (seq, fence) in [(0, 0), (12, 3), (1_234_567_890_123, 45)] {
                assert_eq!(StateFile::at(&file.path(seq, fence)), Some(file));
            }
        }
        for other in [
            "state/engine.lock",
            "state/notes.zst",
            "state/series-1.zst",
            "state/series--1.zst",
            "state/series-1-2.zst.bak",
            "state/series-1-2-3.zst",
            "state/evicted-1-2.zst",
            "state/evicted-1-2-.zst",
            "state/evicted-1-2--3.zst",
            "state/evicted-1-2-+3.zst",
            "state/evicted-1-2-4294967296.zst",
            "state/evicted-1-2-3-4.zst",
            "state/series-old-1.zst",
            "state/others-1-2.zst",
            "state/old/series-1-2.zst",
            "series-1-2.zst",
        ] {
            assert_eq!(StateFile::at(other), None, "{other}");
        }
    }
}
