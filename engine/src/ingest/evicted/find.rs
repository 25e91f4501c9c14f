//! Some series of the runs: of each file its index is read, and the frames that may have one of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use compact_str::CompactString;
use futures::{StreamExt, TryStreamExt};

use super::super::error::IngestError;
use super::super::load::OwnedStates;
use super::super::segments::Feeds;
use super::super::series::SeriesState;
use super::frame::{Entry, unpack};
use super::index;
use super::read::Read;
use super::{Run, RunFile, Shape, aside};

/// Requests that are under way at a time; what each reads is in memory.
const READS_AT_A_TIME: usize = 8;

/// What is wanted: routes and identifiers, in order.
type Wanted = Arc<[(u64, CompactString)]>;

/// Those of routes from `first` to `last`.
fn between(wanted: &[(u64, CompactString)], first: u64, last: u64) -> &[(u64, CompactString)] {
    let from = wanted.partition_point(|(route, _)| *route < first);
    let to = wanted.partition_point(|(route, _)| *route <= last);
    &wanted[from..to.max(from)]
}

/// The newest state of each of the `wanted` series that is in a run, in the order of routes.
///
/// # Errors
/// A file is damaged or missing, or the store fails.
pub(super) async fn newest(
    from: OwnedStates,
    shape: Shape,
    runs: &[Run],
    wanted: &[CompactString],
) -> Result<Vec<SeriesState>, IngestError> {
    let mut keys: Vec<(u64, CompactString)> = wanted.iter().map(|id| ((shape.route)(id), id.clone())).collect();
    keys.sort_unstable();
    keys.dedup();
    let wanted: Wanted = keys.into();
    let concerned = |file: &&RunFile| !between(&wanted, file.first, file.last).is_empty();
    let files: Vec<RunFile> = runs.iter().flat_map(|run| &run.files).filter(concerned).cloned().collect();
    let reads = files.into_iter().map(|file| reads_of(from.clone(), shape, file, Arc::clone(&wanted)));
    let reads: Vec<Vec<Read>> = futures::stream::iter(reads).buffered(READS_AT_A_TIME).try_collect().await?;
    let looks = reads.into_iter().flatten().map(|read| look(from.clone(), shape, read, Arc::clone(&wanted)));
    let mut looks = futures::stream::iter(looks).buffered(READS_AT_A_TIME);
    let mut newest: BTreeMap<usize, Entry> = BTreeMap::new();
    // Series share the name of their feed.
    let mut feeds = Feeds::default();
    while let Some(found) = looks.try_next().await? {
        for (number, mut entry) in found {
            match feeds.get(&entry.state.feed) {
                Some(feed) => entry.state.feed = Arc::clone(feed),
                None => _ = feeds.insert(Arc::clone(&entry.state.feed)),
            }
            if newest.get(&number).is_none_or(|known| known.seq < entry.seq) {
                newest.insert(number, entry);
            }
        }
    }
    Ok(newest.into_values().map(|entry| entry.state).collect())
}

/// What has to be read of a file.
async fn reads_of(from: OwnedStates, shape: Shape, file: RunFile, wanted: Wanted) -> Result<Vec<Read>, IngestError> {
    let places = index::read(&from, &file).await?;
    // The last series of a frame may have the route that the next one begins with.
    let ends: Vec<u64> = places.iter().skip(1).map(|next| next.first).chain([file.last]).collect();
    let frames = places.into_iter().zip(ends);
    let frames = frames.filter(|(place, end)| !between(&wanted, place.first, *end).is_empty());
    Ok(Read::together(&file, frames.map(|(place, _)| place).collect(), shape))
}

/// What is found in some frames, with its place in what is wanted.
async fn look(from: OwnedStates, shape: Shape, read: Read, wanted: Wanted) -> Result<Vec<(usize, Entry)>, IngestError> {
    let path = read.path.clone();
    let frames = read.frames(&from).await?;
    let looking = move || -> Result<Vec<(usize, Entry)>, String> {
        let (mut found, mut feeds) = (Vec::new(), Feeds::default());
        for (place, bytes) in frames {
            for entry in unpack(&bytes, &place, shape.route, &mut feeds)? {
                let number = wanted.binary_search_by(|(route, id)| (*route, id.as_str()).cmp(&entry.key()));
                found.extend(number.ok().map(|number| (number, entry)));
            }
        }
        Ok(found)
    };
    aside(looking).await?.map_err(|reason| IngestError::State { path, reason })
}
