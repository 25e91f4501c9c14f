//! The commit protocol: rows, positions and state become visible in one step, or not at all.
//!
//! For commit `seq`, in this order, each step durable before the next begins:
//!
//! 1. data files of `intervals`, `samples` and `dead_letters`, and the segments with what changed (nobody sees them
//!    yet): `state/series-{seq}-{fence}.zst` has the states of series, `state/evicted-…` those of series that leave
//!    memory, `state/members-…` what roll-ups remember of series, and `state/said-…` the labels that hold from the next
//!    commit on;
//! 2. the state file `state/ingest-{seq}-{fence}.zst`, which names all segments and the files of `samples` and
//!    `dead_letters`;
//! 3. **the commit**: `intervals` gets the data files and the transactions `meterline/ingest` = seq and
//!    `meterline/ingest_fence` = fence, which together name the state file;
//! 4. `samples` and `dead_letters` get their files, with the transactions `meterline/samples` and
//!    `meterline/dead_letters` = seq.
//!
//! A crash before 3 leaves files that nobody names; the readings come again. A crash between 3 and 4 is made good at
//! the next start, from the state file. A writer that was fenced out cannot make step 3, and its state file has a name
//! of its own.

use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use compact_str::CompactString;
use meterline_connectors::lake::{
    CommitError, DataFile, Fence, Lake, LakeError, Rewrite, Rewritten, TableDefinition, TableOwner,
};
use meterline_schemas::tables::INTERVALS;

use super::census::Census;
use super::cleaning::{Cleaning, StateFiles};
use super::error::IngestError;
use super::evicted;
use super::layout::EpochRows;
use super::load::{Committed, StateFile, States};
use super::patience::{Attempts, Patience};
use super::pulse::Pulse;
use super::recall::{Recalled, Wanted, look_up};
use super::rollup;
use super::segments::{self, Frames, Segment};
use super::state::IngestState;

pub(super) const SEQ: &str = "meterline/ingest";
pub(super) const FENCE: &str = "meterline/ingest_fence";
/// What claims of [`SEQ`] are called in the log.
pub(super) const CLAIM: &str = "meterline/ingest/fence";
const SAMPLES: &str = "meterline/samples";
const DEAD_LETTERS: &str = "meterline/dead_letters";
const COMPRESSION_LEVEL: i32 = 1;

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
    /// The state after it, but for its number, its fence, its dead letters' files and its segments, which are those of
    /// the last commit.
    pub state: IngestState,
    /// The states of the series that changed, and of those in the segments to be written again.
    pub states: Frames,
    /// The states of series that leave memory, by shard.
    pub evicted: Vec<Frames>,
    /// Segments of this commit and later ones go: their series are among `states`.
    pub rewrite_from: i64,
    /// What roll-ups remember.
    pub rollups: RollupStates,
    /// The census after it.
    pub census: Arc<Census>,
}

impl Batch {
    /// One without rows, that changes nothing but this state.
    pub fn of_state(state: IngestState, census: Arc<Census>) -> Batch {
        Batch {
            intervals: EpochRows::default(),
            dead_letters: None,
            state,
            states: Frames::default(),
            evicted: Vec::new(),
            rewrite_from: i64::MAX,
            rollups: RollupStates::default(),
            census,
        }
    }
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
    states: StateFiles,
    cleaning: Cleaning,
    patience: Patience,
    // Whether a lookup may be declined that takes too long.
    may_decline: bool,
}

impl Committer {
    /// Takes over, for a process of its own: as [`Committer::claim_with`], with patience for ever.
    ///
    /// # Errors
    /// The same.
    pub async fn claim(lake: &Lake) -> Result<Committer, IngestError> {
        Committer::claim_with(lake, Patience::new(Arc::default(), Pulse::default())).await
    }

    /// Takes over: fences out every earlier writer, loads the last commit, and finishes its step 4. From the claim on,
    /// a store that fails is waited for.
    ///
    /// # Errors
    /// The lake cannot be opened, the state file not be read, or a newer writer came first.
    pub async fn claim_with(lake: &Lake, patience: Patience) -> Result<Committer, IngestError> {
        let opening = "opening the tables of the stream";
        let mut intervals =
            TableOwner::open(lake, &TableDefinition::intervals()).await.map_err(IngestError::lake(opening))?;
        let samples = TableOwner::open(lake, &TableDefinition::samples()).await.map_err(IngestError::lake(opening))?;
        let dead_letters =
            TableOwner::open(lake, &TableDefinition::dead_letters()).await.map_err(IngestError::lake(opening))?;
        let fence = intervals.claim(SEQ).await.map_err(IngestError::commit("taking over the stream"))?;
        // Read after the claim: what an earlier writer commits before it counts, and after it nothing can come.
        let reading = "looking for the last ingest commit";
        let seq = intervals.transaction(SEQ).await.map_err(IngestError::lake(reading))?;
        let theirs = intervals.transaction(FENCE).await.map_err(IngestError::lake(reading))?;
        let state = match (seq, theirs) {
            (Some(seq), Some(theirs)) => States::patient(lake, &patience).state(seq, theirs).await?,
            _ => IngestState::default(),
        };
        let states = StateFiles::list(lake, &patience, state.seq).await?;
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
            cleaning: Cleaning::default(),
            patience,
            may_decline: true,
        };
        committer.finish().await?;
        Ok(committer)
    }

    /// Where what the newest commit remembers is read from.
    pub fn states(&self) -> States<'_> {
        States::patient(&self.lake, &self.patience)
    }

    /// What an error means since the claim: a file of the state that is gone was deleted by a newer writer.
    pub async fn explain(&mut self, error: IngestError) -> IngestError {
        if matches!(&error, IngestError::Lake { source: LakeError::NotFound { .. }, .. })
            && let Err(fenced @ CommitError::Fenced { .. }) = self.intervals.confirm(&self.fence).await
        {
            return IngestError::Fenced(fenced);
        }
        error
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
    /// [`IngestError::Fenced`], a fault that waiting cannot heal, or a store that still fails when the engine is to
    /// stop.
    pub async fn commit(&mut self, batch: Batch) -> Result<Committed, IngestError> {
        let Batch { intervals, dead_letters, mut state, states, evicted: leaving, rewrite_from, rollups, census } =
            batch;
        state.seq = self.committed.state.seq + 1;
        state.fence = self.fence.value();
        state.sample_files.clear();
        state.dead_letter_files.clear();
        let patience = self.patience.clone();

        let mut files: Vec<DataFile> = Vec::new();
        let intervals = Arc::new(intervals);
        if !intervals.is_empty() {
            let (rows, doing) = (Arc::clone(&intervals), "writing intervals");
            let table = &self.intervals;
            let encoded = table.encode(move |files| rows.write(files)).await.map_err(IngestError::lake(doing))?;
            files = patience.retry(doing, || table.store(&encoded)).await?;
        }
        if intervals.samples() > 0 {
            let (rows, doing) = (intervals, "writing samples");
            let table = &self.samples;
            let encoded =
                table.encode(move |files| rows.write_samples(files)).await.map_err(IngestError::lake(doing))?;
            state.sample_files = patience.retry(doing, || table.store(&encoded)).await?;
        }
        if let Some(rows) = dead_letters.filter(|rows| rows.num_rows() > 0) {
            let (table, doing) = (&self.dead_letters, "writing dead letters");
            let encoded = table.encode(move |files| files.rows(&rows)).await.map_err(IngestError::lake(doing))?;
            state.dead_letter_files = patience.retry(doing, || table.store(&encoded)).await?;
        }

        state.segments.retain(|segment| segment.seq < rewrite_from);
        state.segments.extend(self.put_segment(StateFile::Series, segments::SERIES, &states, &state).await?);
        drop(states);
        let writing = evicted::Writing { lake: &self.lake, patience: &patience, seq: state.seq, fence: state.fence };
        state.evicted = evicted::add(&writing, &state.evicted, leaving).await?;
        state.rollups.members.retain(|segment| segment.seq < rollups.rewrite_from);
        state
            .rollups
            .members
            .extend(self.put_segment(StateFile::Members, segments::MEMBERS, &rollups.members, &state).await?);
        state.rollups.said = self.put_segment(StateFile::Said, segments::SAID, &rollups.said, &state).await?;
        let lake = &self.lake;
        let path = StateFile::Commit.path(state.seq, state.fence);
        let encoded = Bytes::from(encode_state(&state)?);
        patience.retry("writing the state", || lake.put_object(&path, encoded.clone())).await?;
        let state = Arc::new(state);

        let transactions = [(SEQ.to_owned(), state.seq), (FENCE.to_owned(), state.fence)];
        let (doing, fence) = ("committing intervals", Some(&self.fence));
        let intervals_version =
            commit_to(&mut self.intervals, &files, &transactions, fence, patience.attempts(doing)).await?;
        let segments = state.segment_paths().map(str::to_owned).collect();
        self.committed = Committed { state, census, intervals_version };
        self.finish().await?;
        self.states.committed(path, segments);
        self.cleaning.begin(&self.lake, &mut self.states);
        Ok(self.committed.clone())
    }

    // A segment of the commit that `state` is to be; nothing where there is nothing to be written.
    async fn put_segment(
        &self,
        of: StateFile,
        magic: &'static segments::Magic,
        frames: &Frames,
        state: &IngestState,
    ) -> Result<Option<Segment>, IngestError> {
        if frames.series == 0 {
            return Ok(None);
        }
        let (path, segment) = (of.path(state.seq, state.fence), frames.segment(magic));
        let put = || self.lake.put_object(&path, segment.clone());
        self.patience.retry("writing the states of series", put).await?;
        let (seq, series, bytes) = (state.seq, frames.series, segment.content_length() as u64);
        Ok(Some(Segment { path, seq, series, bytes }))
    }

    // Step 4. The transactions make it idempotent.
    async fn finish(&mut self) -> Result<(), IngestError> {
        let state = Arc::clone(&self.committed.state);
        let patience = self.patience.clone();
        let followers = [
            (&mut self.samples, &state.sample_files, SAMPLES, "committing samples"),
            (&mut self.dead_letters, &state.dead_letter_files, DEAD_LETTERS, "committing dead letters"),
        ];
        for (table, files, job, doing) in followers {
            if files.is_empty() {
                continue;
            }
            let transactions = [(job.to_owned(), state.seq)];
            commit_to(table, files, &transactions, None, patience.attempts(doing)).await?;
        }
        Ok(())
    }

    /// Looks up what series no longer remember, as of the newest commit. Waits for a store that fails, and says so.
    ///
    /// # Errors
    /// A file is damaged or missing, or a store still fails when the engine is to stop.
    pub async fn look_up(&self, wanted: &Wanted) -> Result<Recalled, IngestError> {
        if !wanted.series.is_empty() {
            let found = self.look_up_series(vec![wanted.series.clone()]).await?;
            return Ok(found.into_iter().next().unwrap_or_default());
        }
        let work = || look_up(&self.lake, &self.intervals, &self.samples, wanted, self.may_decline);
        self.patience.retry("looking up what was written earlier", work).await
    }

    /// Looks up series that are not in memory for several who ask for them, as [`Committer::look_up`]; the answers are
    /// in the order of the questions.
    ///
    /// # Errors
    /// The same.
    pub async fn look_up_series(&self, asked: Vec<Vec<CompactString>>) -> Result<Vec<Recalled>, IngestError> {
        let found = evicted::find(self.states(), &self.committed.state.evicted, asked).await?;
        Ok(found.into_iter().map(|series| Recalled { series, ..Recalled::default() }).collect())
    }

    /// Looks up intervals of series for roll-ups, as [`Committer::look_up`].
    ///
    /// # Errors
    /// The same.
    pub async fn series_rows(&self, wants: &[rollup::lake::Want]) -> Result<Vec<rollup::lake::SeriesRow>, IngestError> {
        let work = || rollup::look_up::series_rows(&self.lake, &self.intervals, wants);
        self.patience.retry("looking up intervals for roll-ups", work).await
    }

    /// Looks up intervals of roll-ups, as [`Committer::look_up`].
    ///
    /// # Errors
    /// The same.
    pub async fn group_rows(&self, wants: &[rollup::lake::Want]) -> Result<Vec<rollup::lake::GroupRow>, IngestError> {
        let work = || rollup::look_up::group_rows(&self.lake, &self.intervals, wants);
        self.patience.retry("looking up intervals of roll-ups", work).await
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

    /// Whether this is still the one writer, as the newest version of the log says: only then may files be deleted that
    /// nobody names. Files of a later claim are newer than the answer.
    ///
    /// # Errors
    /// [`CommitError::Fenced`], or the log cannot be read.
    pub async fn confirm(&mut self) -> Result<(), CommitError> {
        self.intervals.confirm(&self.fence).await
    }

    /// Makes the census of the newest commit known.
    pub fn set_census(&mut self, census: Arc<Census>) {
        self.committed.census = census;
    }
}

async fn commit_to(
    table: &mut TableOwner,
    files: &[DataFile],
    transactions: &[(String, i64)],
    fence: Option<&Fence>,
    mut attempts: Attempts<'_>,
) -> Result<i64, IngestError> {
    loop {
        match table.commit(files, transactions, fence).await {
            Ok(version) => return Ok(attempts.succeeded(version)),
            Err(error) => attempts.failed(error).await?,
        }
    }
}
