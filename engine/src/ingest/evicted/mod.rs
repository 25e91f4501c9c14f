//! Series that left memory: their states are in the lake, where the next reading of each finds it again.
//!
//! A commit that evicts series writes a [`Run`]: their states in the order of ([`route`], identifier), so that one of
//! them is found by an index and a frame. (Who wanted one of [a segment](super::segments) would read all of it.) A
//! series may be in several runs, and in a segment besides. What counts is the greatest number of a commit: each entry
//! of a run has that of the commit that evicted the series (`seq`), and keeps it when runs are merged; a series whose
//! segment is of that commit or a later one is in memory again. So nothing is taken out of a run when a series comes
//! back; what is overtaken goes with a merge.
//!
//! A file of a run begins with its format; then it has frames, one after the other, and at its end an index of them.
//! Nothing is read but what is needed, and of a whole run a few frames at a time. Packing and unpacking a frame takes
//! milliseconds, so that is done on threads that may block: a merge may have millions of series, and the runtime also
//! answers for monitoring meanwhile. What is left to it, putting those of a few frames in order, is less.
//!
//! `tiers` (which runs are merged) · `frame` and `index` (what files are made of) · `read` (frames, together where they
//! are neighbours) · `merge` (runs as one) · `write` (a run) · `find` (some series) · `share` (to each who asked his
//! own).

mod find;
mod frame;
mod index;
mod merge;
mod read;
mod share;
#[cfg(test)]
mod tests;
mod tiers;
mod write;

use compact_str::CompactString;
use meterline_connectors::lake::Lake;
use serde::{Deserialize, Serialize};
use tokio::task::{JoinHandle, spawn_blocking};

use self::merge::Merge;
use self::write::Writer;
use super::error::IngestError;
use super::load::States;
use super::patience::Patience;
use super::segments::Frames;
use super::series::SeriesState;
use super::shard::route;

/// What a file of a run and its index begin with: the format, and the version of that.
const MAGIC: &[u8; 8] = b"MLEVICT3";
/// What reading them is called where it fails.
const READING: &str = "loading the states of evicted series";

/// Evicted series in order, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its files, in the order of routes.
    pub files: Vec<RunFile>,
    /// Number of series in them.
    pub series: u64,
}

/// One file of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFile {
    /// Path below the lake's root.
    pub path: String,
    /// Route of its first series.
    pub first: u64,
    /// Route of its last one. The next file may go on with that.
    pub last: u64,
    /// Number of series in it.
    pub series: u64,
    /// Its size.
    pub bytes: u64,
    /// Of that, the index at its end.
    pub index_bytes: u64,
}

/// The commit that writes a run, and where to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writing<'a> {
    /// The lake.
    pub(super) lake: &'a Lake,
    /// For a store that fails.
    pub(super) patience: &'a Patience,
    /// Number of the commit.
    pub(super) seq: i64,
    /// Fence of its writer.
    pub(super) fence: i64,
}

/// The runs, the oldest first, after a commit that evicts `fresh`: states that each shard brought into the order of
/// ([`route`], identifier). Without any they stay the same. A stop does not wait for what may as well be merged later,
/// also if it comes meanwhile.
///
/// # Errors
/// A file is damaged or missing, or a store still fails when the engine is to stop.
pub(super) async fn add(writing: &Writing<'_>, runs: &[Run], fresh: Vec<Frames>) -> Result<Vec<Run>, IngestError> {
    SHAPE.add(writing, runs, fresh).await
}

/// For each who `asked` for series the newest states of those that are in a run. That is one pass for all of them: a
/// frame has series of each worker, so that passes of their own would read and unpack the same ones.
///
/// # Errors
/// A file cannot be read.
pub(super) async fn find(
    from: States<'_>,
    runs: &[Run],
    asked: Vec<Vec<CompactString>>,
) -> Result<Vec<Frames>, IngestError> {
    let found = SHAPE.find(from, runs, &asked.concat()).await?;
    let packed = aside(move || share::pack(&found, &asked)).await?;
    packed.map_err(|reason| IngestError::Fault(format!("encoding series that come back to memory: {reason}")))
}

/// Hands the newest state of every series of the runs to `take`, with the number of the commit that evicted it, in the
/// order of ([`route`], identifier).
///
/// # Errors
/// A file cannot be read.
pub(super) async fn each(
    from: States<'_>,
    runs: &[Run],
    take: impl FnMut(SeriesState, i64),
) -> Result<(), IngestError> {
    SHAPE.each(from, runs, take).await
}

/// How large things get, and what decides their order; in tests other than it is.
#[derive(Debug, Clone, Copy)]
struct Shape {
    // Series of a frame.
    frame: usize,
    // Bytes of frames after which a file ends.
    file: u64,
    // Bytes that are read at once, unless one frame has more.
    read: u64,
    // Bytes between two frames that are read rather than asked for separately.
    gap: u64,
    // Runs at most.
    runs: usize,
    route: fn(&str) -> u64,
}

const SHAPE: Shape = Shape { frame: 2_048, file: 32 << 20, read: 2 << 20, gap: 128 << 10, runs: 12, route };

impl Shape {
    async fn add(self, writing: &Writing<'_>, runs: &[Run], fresh: Vec<Frames>) -> Result<Vec<Run>, IngestError> {
        let series: u64 = fresh.iter().map(|frames| frames.series).sum();
        if series == 0 {
            return Ok(runs.to_vec());
        }
        let stopping = || writing.patience.stopping();
        let in_haste = tiers::stay(runs, series, self.runs, true);
        let mut stay = tiers::stay(runs, series, self.runs, stopping());
        let mut writer = Writer::new(*writing, self);
        if stay < in_haste {
            match self.merge(writing, &runs[stay..], fresh.clone(), &mut writer, stopping).await {
                Ok(Some(run)) => return Ok([&runs[..stay], &[run]].concat()),
                // A stop needs nothing of what could not be read or written.
                Err(error) if !stopping() => return Err(error),
                Ok(None) | Err(_) => {}
            }
            tracing::info!(runs = runs.len(), "runs of evicted series are not merged now: the stream is to stop");
            stay = in_haste;
            writer = writer.begin_anew();
        }
        let run = self.merge(writing, &runs[stay..], fresh, &mut writer, || false).await?;
        Ok(runs[..stay].iter().cloned().chain(run).collect())
    }

    // The run of what is evicted now and of other runs; `None` where it is given up.
    async fn merge(
        self,
        writing: &Writing<'_>,
        merged: &[Run],
        fresh: Vec<Frames>,
        writer: &mut Writer<'_>,
        give_up: impl Fn() -> bool,
    ) -> Result<Option<Run>, IngestError> {
        let from = States::patient(writing.lake, writing.patience);
        let mut merge = Merge::begin(from, self, merged, fresh, writing.seq).await?;
        while let Some(entry) = merge.next().await? {
            writer.push(entry).await?;
            if give_up() {
                return Ok(None);
            }
        }
        writer.finish().await.map(Some)
    }

    async fn find(
        self,
        from: States<'_>,
        runs: &[Run],
        wanted: &[CompactString],
    ) -> Result<Vec<SeriesState>, IngestError> {
        find::newest(from.owned(), self, runs, wanted).await
    }

    async fn each(
        self,
        from: States<'_>,
        runs: &[Run],
        mut take: impl FnMut(SeriesState, i64),
    ) -> Result<(), IngestError> {
        let mut merge = Merge::begin(from, self, runs, Vec::new(), 0).await?;
        while let Some(entry) = merge.next().await? {
            take(entry.state, entry.seq);
        }
        Ok(())
    }
}

/// Does work that keeps a processor busy on a thread that may be blocked.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, IngestError> {
    done(spawn_blocking(work)).await
}

/// What came of such work.
async fn done<T>(work: JoinHandle<T>) -> Result<T, IngestError> {
    work.await.map_err(|died| IngestError::Fault(format!("packing or unpacking evicted series: {died}")))
}
