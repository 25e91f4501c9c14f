//! The commit protocol: rows, positions and state become visible in one step, or not at all.
//!
//! For commit `seq`, in this order, each step durable before the next begins:
//!
//! 1. data files of `intervals`, `samples` and `dead_letters`, and the segments with what changed (nobody sees them yet):
//!    `state/series-{seq}-{fence}.zst` has the states of series, `state/members-…` what roll-ups remember of them, and
//!    `state/said-…` the labels that hold from the next commit on;
//! 2. the state file `state/ingest-{seq}-{fence}.zst`, which names all segments and the files of `samples` and `dead_letters`;
//! 3. **the commit**: `intervals` gets the data files and the transactions `meterline/ingest` = seq and
//!    `meterline/ingest_fence` = fence, which together name the state file;
//! 4. `samples` and `dead_letters` get their files, with the transactions `meterline/samples` and `meterline/dead_letters` =
//!    seq.
//!
//! A crash before 3 leaves files that nobody names; the readings come again. A crash between 3 and 4 is made good at the
//! next start, from the state file. A writer that was fenced out cannot make step 3, and its state file has a name of
//! its own.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use bytes::Bytes;
use meterline_connectors::lake::{
    CommitError, DataFile, Fence, Lake, LakeError, Rewrite, Rewritten, TableDefinition, TableOwner, TableSnapshot,
    snapshot,
};
use meterline_schemas::config::Config;
use meterline_schemas::tables::INTERVALS;

use super::census::Census;
use super::error::IngestError;
use super::layout::EpochRows;
use super::pulse::Pulse;
use super::recall::{Recalled, Wanted, look_up};
use super::rollup;
use super::rollup::saved::{SavedLabels, SavedMember};
use super::segments::{self, Frames, Segment};
use super::series::SeriesState;
use super::state::IngestState;

const SEQ: &str = "meterline/ingest";
const FENCE: &str = "meterline/ingest_fence";
const SAMPLES: &str = "meterline/samples";
const DEAD_LETTERS: &str = "meterline/dead_letters";
const STATE_DIRECTORY: &str = "state";
/// States of old commits that are kept, for readers of an old snapshot.
const STATES_KEPT: usize = 20;
const COMPRESSION_LEVEL: i32 = 1;

const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LONGEST: Duration = Duration::from_secs(30);
/// Attempts that a commit gets once the engine is to stop.
const ATTEMPTS_WHEN_STOPPING: u32 = 5;

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

/// The newest commit, from the lake alone; `None` before the first one.
///
/// # Errors
/// The lake or a file of the state cannot be read.
pub async fn load_committed(lake: &Lake, config: &Config) -> Result<Option<Committed>, IngestError> {
    let doing = "looking for the last ingest commit";
    let Some(table) = snapshot(lake, INTERVALS, None).await.map_err(IngestError::lake(doing))? else { return Ok(None) };
    let Some(state) = state_at(lake, &table).await? else { return Ok(None) };
    let series = load_series(lake, &state).await?;
    let census = Arc::new(Census::of(config, &series));
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
        (Some(seq), Some(fence)) => Ok(Some(load_state(lake, seq, fence).await?)),
        _ => Ok(None),
    }
}

/// All series of a state, ordered by feed and identifier.
///
/// # Errors
/// A segment cannot be read.
pub async fn load_series(lake: &Lake, state: &IngestState) -> Result<Vec<SeriesState>, IngestError> {
    let mut all = Vec::new();
    each_series(lake, state, |series, _| all.push(series)).await?;
    all.sort_unstable_by(|a, b| (&a.feed, &a.id).cmp(&(&b.feed, &b.id)));
    Ok(all)
}

/// Hands every series of a state to `take`, with the commit whose segment holds it.
///
/// # Errors
/// A segment cannot be read.
pub async fn each_series(
    lake: &Lake,
    state: &IngestState,
    mut take: impl FnMut(SeriesState, i64),
) -> Result<(), IngestError> {
    let mut seen = std::collections::HashSet::new();
    // The newest first: what is seen again is older.
    for segment in state.segments.iter().rev() {
        let loading = IngestError::lake("loading the states of series");
        let bytes = lake.get_object(&segment.path).await.map_err(loading)?;
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
pub async fn each_member(
    lake: &Lake,
    state: &IngestState,
    mut take: impl FnMut(SavedMember, i64),
) -> Result<(), IngestError> {
    let mut seen = std::collections::HashSet::new();
    for segment in state.rollups.members.iter().rev() {
        load_records(lake, segment, segments::MEMBERS, |member: SavedMember| {
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
pub async fn load_said(lake: &Lake, state: &IngestState) -> Result<Vec<SavedLabels>, IngestError> {
    let mut said = Vec::new();
    if let Some(segment) = &state.rollups.said {
        load_records(lake, segment, segments::SAID, |labels| said.push(labels)).await?;
    }
    Ok(said)
}

async fn load_records<T: serde::de::DeserializeOwned>(
    lake: &Lake,
    segment: &Segment,
    magic: &segments::Magic,
    take: impl FnMut(T),
) -> Result<(), IngestError> {
    let loading = IngestError::lake("loading the states of roll-ups");
    let bytes = lake.get_object(&segment.path).await.map_err(loading)?;
    let decoded = segments::decode_records(magic, &bytes, take);
    decoded.map_err(|reason| IngestError::State { path: segment.path.clone(), reason })
}

fn state_path(seq: i64, fence: i64) -> String {
    format!("{STATE_DIRECTORY}/ingest-{seq:012}-{fence}.zst")
}

fn segment_path(of: &str, seq: i64, fence: i64) -> String {
    format!("{STATE_DIRECTORY}/{of}-{seq:012}-{fence}.zst")
}

async fn load_state(lake: &Lake, seq: i64, fence: i64) -> Result<IngestState, IngestError> {
    let path = state_path(seq, fence);
    let bytes = lake.get_object(&path).await.map_err(IngestError::lake("loading the state of the last commit"))?;
    let state = decode_state(&path, &bytes)?;
    if state.seq != seq || state.fence != fence {
        let reason = format!("it is of commit {} by writer {}", state.seq, state.fence);
        return Err(IngestError::State { path, reason });
    }
    Ok(state)
}

pub(super) fn decode_state(path: &str, bytes: &[u8]) -> Result<IngestState, IngestError> {
    let damaged = |reason: String| IngestError::State { path: path.to_owned(), reason };
    let text = zstd::decode_all(bytes).map_err(|error| damaged(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))
}

pub(super) fn encode_state(state: &IngestState) -> Result<Vec<u8>, IngestError> {
    let fault = |reason: String| IngestError::Fault(format!("encoding the state of commit {}: {reason}", state.seq));
    let text = serde_json::to_vec(state).map_err(|error| fault(error.to_string()))?;
    zstd::bulk::compress(&text, COMPRESSION_LEVEL).map_err(|error| fault(error.to_string()))
}

/// What one commit adds.
#[derive(Debug)]
pub struct Batch {
    /// Rows of `intervals`.
    pub intervals: EpochRows,
    /// Rows of `dead_letters`.
    pub dead_letters: Option<RecordBatch>,
    /// The state after it, but for its number, its fence, its dead letters' files and its segments, which are those of the
    /// last commit.
    pub state: IngestState,
    /// The states of the series that changed, and of those in the segments to be written again.
    pub states: Frames,
    /// Segments of this commit and later ones go: their series are among `states`.
    pub rewrite_from: i64,
    /// What roll-ups remember.
    pub rollups: RollupStates,
    /// The census after it.
    pub census: Arc<Census>,
}

/// What roll-ups remember from a commit on.
#[derive(Debug)]
pub struct RollupStates {
    /// Of the series that changed, and of those in the segments to be written again.
    pub members: Frames,
    /// As [`Batch::rewrite_from`].
    pub rewrite_from: i64,
    /// Labels that hold from the next commit on.
    pub said: Frames,
}

impl Default for RollupStates {
    fn default() -> RollupStates {
        RollupStates { members: Frames::default(), rewrite_from: i64::MAX, said: Frames::default() }
    }
}

/// The one writer of `intervals`, `samples` and `dead_letters`, as long as nobody newer claims them.
pub struct Committer {
    lake: Lake,
    intervals: TableOwner,
    samples: TableOwner,
    dead_letters: TableOwner,
    fence: Fence,
    committed: Committed,
    // The newest states by path, with the segments that they name.
    states: VecDeque<(String, Vec<String>)>,
    stopping: Arc<AtomicBool>,
    pulse: Pulse,
    // Whether a lookup may be declined that takes too long.
    may_decline: bool,
}

impl Committer {
    /// Takes over: fences out every earlier writer, loads the last commit, and finishes its step 4. Once
    /// `stopping` is set a failing store is no longer waited for.
    ///
    /// # Errors
    /// The lake or the state file cannot be read.
    pub async fn claim(lake: &Lake, stopping: Arc<AtomicBool>) -> Result<Committer, IngestError> {
        let opening = "opening the tables of the stream";
        let mut intervals =
            TableOwner::open(lake, &TableDefinition::intervals()).await.map_err(IngestError::lake(opening))?;
        let samples = TableOwner::open(lake, &TableDefinition::samples()).await.map_err(IngestError::lake(opening))?;
        let dead_letters =
            TableOwner::open(lake, &TableDefinition::dead_letters()).await.map_err(IngestError::lake(opening))?;
        let fence = intervals.claim(SEQ).await.map_err(|error| refused("taking over the stream", error))?;
        // Read after the claim: what an earlier writer commits before it counts, and after it nothing can come.
        let reading = "looking for the last ingest commit";
        let seq = intervals.transaction(SEQ).await.map_err(IngestError::lake(reading))?;
        let theirs = intervals.transaction(FENCE).await.map_err(IngestError::lake(reading))?;
        let state = match (seq, theirs) {
            (Some(seq), Some(theirs)) => load_state(lake, seq, theirs).await?,
            _ => IngestState::default(),
        };
        let states = known_states(lake, state.seq).await?;
        // Who reads the series next makes a census of them.
        let census = Arc::default();
        let committed = Committed { state: Arc::new(state), census, intervals_version: intervals.version() };
        let mut committer = Committer {
            lake: lake.clone(),
            intervals,
            samples,
            dead_letters,
            fence,
            committed,
            states,
            stopping,
            pulse: Pulse::default(),
            may_decline: true,
        };
        committer.finish().await?;
        Ok(committer)
    }

    /// Tells `pulse` how commits fare.
    pub fn watched_by(mut self, pulse: Pulse) -> Committer {
        self.pulse = pulse;
        self
    }

    /// The fence of this writer: greater than that of any before it.
    pub fn fence(&self) -> i64 {
        self.fence.value()
    }

    /// Lookups are never declined: what was there before a correction must be known.
    pub fn never_declining(mut self) -> Committer {
        self.may_decline = false;
        self
    }

    /// The newest commit; its `seq` is 0 before the first one.
    pub fn committed(&self) -> &Committed {
        &self.committed
    }

    /// Makes one commit. Waits for a store that fails, and says so.
    ///
    /// # Errors
    /// [`IngestError::Fenced`], a fault that waiting cannot heal, or a store that still fails when the engine is to stop.
    pub async fn commit(&mut self, batch: Batch) -> Result<Committed, IngestError> {
        let Batch { intervals, dead_letters, mut state, states, rewrite_from, rollups, census } = batch;
        state.seq = self.committed.state.seq + 1;
        state.fence = self.fence.value();
        state.sample_files.clear();
        state.dead_letter_files.clear();
        let (stopping, pulse) = (Arc::clone(&self.stopping), self.pulse.clone());

        let mut files: Vec<DataFile> = Vec::new();
        let intervals = Arc::new(intervals);
        if !intervals.is_empty() {
            let (rows, doing) = (Arc::clone(&intervals), "writing intervals");
            let table = &self.intervals;
            let encoded = table.encode(move |files| rows.write(files)).await.map_err(IngestError::lake(doing))?;
            files = retry(&stopping, &pulse, doing, || table.store(&encoded)).await?;
        }
        if intervals.samples() > 0 {
            let (rows, doing) = (intervals, "writing samples");
            let table = &self.samples;
            let encoded =
                table.encode(move |files| rows.write_samples(files)).await.map_err(IngestError::lake(doing))?;
            state.sample_files = retry(&stopping, &pulse, doing, || table.store(&encoded)).await?;
        }
        if let Some(rows) = dead_letters.filter(|rows| rows.num_rows() > 0) {
            let table = &self.dead_letters;
            state.dead_letter_files = retry(&stopping, &pulse, "writing dead letters", || table.write(&rows)).await?;
        }

        state.segments.retain(|segment| segment.seq < rewrite_from);
        state.segments.extend(self.put_segment("series", segments::SERIES, &states, &state).await?);
        drop(states);
        state.rollups.members.retain(|segment| segment.seq < rollups.rewrite_from);
        state.rollups.members.extend(self.put_segment("members", segments::MEMBERS, &rollups.members, &state).await?);
        state.rollups.said = self.put_segment("said", segments::SAID, &rollups.said, &state).await?;
        let lake = &self.lake;
        let path = state_path(state.seq, state.fence);
        let encoded = Bytes::from(encode_state(&state)?);
        retry(&stopping, &pulse, "writing the state", || lake.put_object(&path, encoded.clone())).await?;
        let state = Arc::new(state);

        let transactions = [(SEQ.to_owned(), state.seq), (FENCE.to_owned(), state.fence)];
        let mut attempt = Attempt::new("committing intervals", &stopping, &pulse);
        let intervals_version = loop {
            match self.intervals.commit(&files, &transactions, Some(&self.fence)).await {
                Ok(version) => break version,
                Err(fenced @ CommitError::Fenced { .. }) => return Err(IngestError::Fenced(fenced)),
                Err(CommitError::Lake(error)) => attempt.wait(error).await?,
            }
        };
        let segments = state.segment_paths().map(str::to_owned).collect();
        self.committed = Committed { state, census, intervals_version };
        self.finish().await?;
        self.prune(path, segments).await;
        Ok(self.committed.clone())
    }

    // A segment of the commit that `state` is to be; nothing where there is nothing to be written.
    async fn put_segment(
        &self,
        of: &str,
        magic: &'static segments::Magic,
        frames: &Frames,
        state: &IngestState,
    ) -> Result<Option<Segment>, IngestError> {
        if frames.series == 0 {
            return Ok(None);
        }
        let (path, segment) = (segment_path(of, state.seq, state.fence), frames.segment(magic));
        let put = || self.lake.put_object(&path, segment.clone());
        retry(&self.stopping, &self.pulse, "writing the states of series", put).await?;
        let (seq, series, bytes) = (state.seq, frames.series, segment.content_length() as u64);
        Ok(Some(Segment { path, seq, series, bytes }))
    }

    // Step 4. The transactions make it idempotent.
    async fn finish(&mut self) -> Result<(), IngestError> {
        let state = Arc::clone(&self.committed.state);
        let (stopping, pulse) = (Arc::clone(&self.stopping), self.pulse.clone());
        let followers = [
            (&mut self.samples, &state.sample_files, SAMPLES, "committing samples"),
            (&mut self.dead_letters, &state.dead_letter_files, DEAD_LETTERS, "committing dead letters"),
        ];
        for (table, files, job, doing) in followers {
            if files.is_empty() {
                continue;
            }
            let mut attempt = Attempt::new(doing, &stopping, &pulse);
            loop {
                match table.commit(files, &[(job.to_owned(), state.seq)], None).await {
                    Ok(_) => break,
                    Err(fenced @ CommitError::Fenced { .. }) => return Err(IngestError::Fenced(fenced)),
                    Err(CommitError::Lake(error)) => attempt.wait(error).await?,
                }
            }
        }
        Ok(())
    }

    /// Looks up what series no longer remember, as of the newest commit. Waits for a store that fails, and says so.
    ///
    /// # Errors
    /// A file is damaged, or a store still fails when the engine is to stop.
    pub async fn look_up(&self, wanted: &Wanted) -> Result<Recalled, IngestError> {
        let work = || look_up(&self.lake, &self.intervals, &self.samples, wanted, self.may_decline);
        retry(&self.stopping, &self.pulse, "looking up what was written earlier", work).await
    }

    /// Looks up intervals of series for roll-ups, as [`Committer::look_up`].
    ///
    /// # Errors
    /// The same.
    pub async fn series_rows(&self, wants: &[rollup::lake::Want]) -> Result<Vec<rollup::lake::SeriesRow>, IngestError> {
        let work = || rollup::look_up::series_rows(&self.lake, &self.intervals, wants);
        retry(&self.stopping, &self.pulse, "looking up intervals for roll-ups", work).await
    }

    /// Looks up intervals of roll-ups, as [`Committer::look_up`].
    ///
    /// # Errors
    /// The same.
    pub async fn group_rows(&self, wants: &[rollup::lake::Want]) -> Result<Vec<rollup::lake::GroupRow>, IngestError> {
        let work = || rollup::look_up::group_rows(&self.lake, &self.intervals, wants);
        retry(&self.stopping, &self.pulse, "looking up intervals of roll-ups", work).await
    }

    /// Puts files of one of its tables in the place of others, for housekeeping: between two commits, or not at all.
    ///
    /// # Errors
    /// [`CommitError`]: not done, or nobody knows; the next commit finds out what it has to know.
    pub async fn rewrite(&mut self, table: &str, rewrite: &Rewrite) -> Result<Rewritten, CommitError> {
        if table != INTERVALS {
            let unknown = || CommitError::Lake(LakeError::NotFound { path: table.to_owned() });
            let mut followers = [&mut self.samples, &mut self.dead_letters].into_iter();
            let owner = followers.find(|owner| owner.name() == table).ok_or_else(unknown)?;
            // The files that go are looked up in the newest version: that alone keeps two writers apart.
            return owner.rewrite(rewrite, None).await;
        }
        let rewritten = self.intervals.rewrite(rewrite, Some(&self.fence)).await?;
        if matches!(rewritten, Rewritten::Done(_)) {
            // The same rows; but who reads them from now on must not rely on files that will go.
            self.committed.intervals_version = self.intervals.version();
        }
        Ok(rewritten)
    }

    /// Makes the census of the newest commit known.
    pub fn set_census(&mut self, census: Arc<Census>) {
        self.committed.census = census;
    }

    // What cannot be deleted now is deleted after the next start.
    async fn prune(&mut self, newest: String, segments: Vec<String>) {
        self.states.push_back((newest, segments));
        let mut unwanted = BTreeSet::new();
        while self.states.len() > STATES_KEPT {
            let Some((path, segments)) = self.states.pop_front() else { break };
            unwanted.insert(path);
            unwanted.extend(segments);
        }
        for path in self.states.iter().flat_map(|(_, segments)| segments) {
            unwanted.remove(path);
        }
        for path in unwanted {
            if let Err(error) = self.lake.delete_object(&path).await {
                tracing::debug!(path, %error, "an old file of the state cannot be deleted; it is tried again after the next start");
            }
        }
    }
}

// The states up to commit `newest` that the lake has, the oldest first, with the segments that they name. A left-over segment
// that none of them names stands as a state of its own, before them all.
async fn known_states(lake: &Lake, newest: i64) -> Result<VecDeque<(String, Vec<String>)>, IngestError> {
    let listing = lake.list_objects(STATE_DIRECTORY).await.map_err(IngestError::lake("listing state files"))?;
    let (manifests, others): (Vec<String>, Vec<String>) =
        listing.into_iter().partition(|path| path.starts_with(&format!("{STATE_DIRECTORY}/ingest-")));
    let mut states = VecDeque::new();
    for path in manifests {
        let loading = IngestError::lake("loading the states of old commits");
        // One that cannot be read names nothing; if it is the newest, this was said already.
        let named = match lake.get_object(&path).await {
            Ok(bytes) => decode_state(&path, &bytes)
                .map(|state| (state.seq, state.segment_paths().map(str::to_owned).collect()))
                .unwrap_or_default(),
            Err(LakeError::NotFound { .. }) => continue,
            Err(error) => return Err(loading(error)),
        };
        // Of a writer that was fenced out or died before its commit.
        let segments: Vec<String> = if named.0 > newest { Vec::new() } else { named.1 };
        states.push_back((path, segments));
    }
    let named: BTreeSet<String> =
        states.iter().flat_map(|(_, segments): &(String, Vec<String>)| segments).cloned().collect();
    for path in others.into_iter().filter(|path| !named.contains(path)) {
        states.push_front((path, Vec::new()));
    }
    Ok(states)
}

fn refused(doing: &'static str, error: CommitError) -> IngestError {
    match error {
        CommitError::Lake(source) => IngestError::Lake { doing, source },
        fenced @ CommitError::Fenced { .. } => IngestError::Fenced(fenced),
    }
}

async fn retry<T, F>(
    stopping: &AtomicBool,
    pulse: &Pulse,
    doing: &'static str,
    work: impl Fn() -> F,
) -> Result<T, IngestError>
where
    F: Future<Output = Result<T, LakeError>>,
{
    let mut attempt = Attempt::new(doing, stopping, pulse);
    loop {
        match work().await {
            Ok(done) => return Ok(done),
            Err(error) => attempt.wait(error).await?,
        }
    }
}

/// Waits between attempts: longer each time, aloud, and not for ever once the engine is to stop.
struct Attempt<'a> {
    doing: &'static str,
    stopping: &'a AtomicBool,
    pulse: &'a Pulse,
    count: u32,
    wait: Duration,
}

impl<'a> Attempt<'a> {
    fn new(doing: &'static str, stopping: &'a AtomicBool, pulse: &'a Pulse) -> Attempt<'a> {
        pulse.does(doing);
        Attempt { doing, stopping, pulse, count: 0, wait: RETRY_FIRST }
    }

    async fn wait(&mut self, error: LakeError) -> Result<(), IngestError> {
        let doing = self.doing;
        self.count += 1;
        let stopping = self.stopping.load(Ordering::Relaxed) && self.count >= ATTEMPTS_WHEN_STOPPING;
        let hopeless = matches!(error, LakeError::Encode { .. } | LakeError::Decode { .. } | LakeError::Url { .. });
        if stopping || hopeless {
            return Err(IngestError::Lake { doing, source: error });
        }
        self.pulse.store_failed(format!("{doing}: {error}"));
        tracing::warn!(
            %error, attempt = self.count, next_attempt_s = self.wait.as_secs_f64(),
            "{doing} failed; reading waits, nothing is lost"
        );
        let mut waited = Duration::ZERO;
        // A stop must not wait for a long pause to end.
        while waited < self.wait && !(self.stopping.load(Ordering::Relaxed) && waited >= RETRY_FIRST) {
            let nap = RETRY_FIRST.min(self.wait - waited);
            tokio::time::sleep(nap).await;
            waited += nap;
        }
        self.wait = (self.wait * 2).min(RETRY_LONGEST);
        Ok(())
    }
}
