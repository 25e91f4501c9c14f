//! Runs, and what is evicted now, as one: every series once, as it was evicted last.
//!
//! Of each run a task of its own reads and unpacks ahead what comes next. In memory are then a few frames of each, and
//! one piece of the file they come from.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::vec::IntoIter;

use bytes::Bytes;
use compact_str::CompactString;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::error::IngestError;
use super::super::load::{OwnedStates, States};
use super::super::segments::{Feeds, Frames};
use super::frame::{Entry, InOrder, unpack};
use super::read::Read;
use super::{Run, Shape, aside, index};

/// Frames of a run that are unpacked before they are needed.
const AHEAD: usize = 1;

/// Evicted series in the order of their keys.
pub(super) struct Merge {
    sources: Vec<Source>,
    // The next entry of each source.
    heads: BinaryHeap<Head>,
    // The series that came last.
    last: Option<(u64, CompactString)>,
    // They end with the merge.
    _readers: JoinSet<()>,
}

impl Merge {
    /// Begins with the first entries of `runs`, and of `fresh` that the commit `seq` evicts.
    ///
    /// # Errors
    /// As [`Merge::next`].
    pub(super) async fn begin(
        from: States<'_>,
        shape: Shape,
        runs: &[Run],
        fresh: Vec<Frames>,
        seq: i64,
    ) -> Result<Merge, IngestError> {
        let mut readers = JoinSet::new();
        let mut sources = Vec::with_capacity(runs.len() + fresh.len());
        for run in runs {
            let (to, frames) = mpsc::channel(AHEAD);
            readers.spawn(read(from.owned(), shape, run.clone(), to));
            sources.push(Source { entries: Vec::new().into_iter(), more: More::Run(frames) });
        }
        for Frames { frames, .. } in fresh {
            let more = Fresh { frames: frames.into_iter(), seq, route: shape.route, order: InOrder::default() };
            sources.push(Source { entries: Vec::new().into_iter(), more: More::Fresh(more) });
        }
        let mut heads = BinaryHeap::with_capacity(sources.len());
        for (source, entries) in sources.iter_mut().enumerate() {
            heads.extend(entries.next().await?.map(|entry| Head { entry, source }));
        }
        Ok(Merge { sources, heads, last: None, _readers: readers })
    }

    /// The next series; `None` after the last.
    ///
    /// # Errors
    /// A file is damaged or missing, or the store fails.
    pub(super) async fn next(&mut self) -> Result<Option<Entry>, IngestError> {
        while let Some(Head { entry, source }) = self.heads.pop() {
            if let Some(after) = self.sources[source].next().await? {
                self.heads.push(Head { entry: after, source });
            }
            // Of one series the newest comes first.
            if self.last.as_ref().is_none_or(|(route, id)| (*route, id.as_str()) != entry.key()) {
                self.last = Some((entry.route, entry.state.id.clone()));
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}

struct Head {
    entry: Entry,
    source: usize,
}

impl Ord for Head {
    // The greatest is the first that a heap gives.
    fn cmp(&self, other: &Head) -> Ordering {
        other.entry.key().cmp(&self.entry.key()).then(self.entry.seq.cmp(&other.entry.seq))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Head) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Head) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

/// Where entries come from.
struct Source {
    entries: IntoIter<Entry>,
    more: More,
}

enum More {
    Fresh(Fresh),
    Run(mpsc::Receiver<Sent>),
}

/// The entries of a frame; `None` after the last.
type Sent = Result<Option<Vec<Entry>>, IngestError>;

impl Source {
    async fn next(&mut self) -> Result<Option<Entry>, IngestError> {
        loop {
            if let Some(entry) = self.entries.next() {
                return Ok(Some(entry));
            }
            let more = match &mut self.more {
                More::Fresh(fresh) => fresh.next().await?,
                More::Run(frames) => frames.recv().await.unwrap_or_else(|| {
                    Err(IngestError::Fault("who read a run of evicted series ended before the run did".to_owned()))
                })?,
            };
            let Some(more) = more else { return Ok(None) };
            self.entries = more.into_iter();
        }
    }
}

/// What is evicted now. It is there already: a frame is unpacked when its turn comes.
struct Fresh {
    frames: IntoIter<Bytes>,
    seq: i64,
    route: fn(&str) -> u64,
    order: InOrder,
}

impl Fresh {
    async fn next(&mut self) -> Sent {
        let Some(frame) = self.frames.next() else { return Ok(None) };
        let (seq, route) = (self.seq, self.route);
        let unpacking = move || {
            let mut entries = Vec::new();
            let frame = Frames { series: 0, frames: vec![frame] };
            let unpacked = frame.each(|state| entries.push(Entry { route: route(&state.id), seq, state }));
            unpacked.map(|()| entries)
        };
        let fault = |reason: String| IngestError::Fault(format!("evicting series: {reason}"));
        let entries = aside(unpacking).await?.map_err(fault)?;
        if !self.order.go_on(&entries) {
            return Err(fault("they are not in the order of their routes".to_owned()));
        }
        Ok(Some(entries))
    }
}

// Hands over a run frame by frame, and then its end.
async fn read(from: OwnedStates, shape: Shape, run: Run, to: mpsc::Sender<Sent>) {
    let end = read_frames(&from, shape, run, &to).await.map(|()| None);
    // A merge that was given up hears nothing any more.
    let _ = to.send(end).await;
}

async fn read_frames(from: &OwnedStates, shape: Shape, run: Run, to: &mpsc::Sender<Sent>) -> Result<(), IngestError> {
    let (mut feeds, mut order) = (Feeds::default(), InOrder::default());
    for file in run.files {
        let damaged = |reason: String| IngestError::State { path: file.path.clone(), reason };
        let places = index::read(from, &file).await?;
        for read in Read::together(&file, places, shape) {
            for (place, bytes) in read.frames(from).await? {
                let unpacking = move || {
                    let entries = unpack(&bytes, &place, shape.route, &mut feeds);
                    (entries, feeds)
                };
                let (entries, known) = aside(unpacking).await?;
                feeds = known;
                let entries = entries.map_err(damaged)?;
                if !order.go_on(&entries) {
                    return Err(damaged("its series are not in the order of their routes".to_owned()));
                }
                if to.send(Ok(Some(entries))).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}
