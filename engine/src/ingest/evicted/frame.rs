//! A frame: some evicted series in their order.
//!
//! It begins with the length (32 bits, little-endian) of the compressed numbers of their commits, then come these and
//! the states. The [index](super::index) says how many there are, and has a check on all of it.

use compact_str::CompactString;
use ring::digest::{SHA256, digest};

use super::super::segments::{Feeds, pack_series, unpack_series};
use super::super::series::SeriesState;
use super::index::Place;

const COMPRESSION_LEVEL: i32 = 1;
/// Bytes of the number of a commit.
const NUMBER: usize = size_of::<i64>();

/// A series in a run.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its route.
    pub(super) route: u64,
    /// The commit that evicted it.
    pub(super) seq: i64,
    /// Its state.
    pub(super) state: SeriesState,
}

impl Entry {
    /// What entries are sorted by.
    pub(super) fn key(&self) -> (u64, &str) {
        (self.route, self.state.id.as_str())
    }
}

/// Sees to it that entries come in order, each series once.
#[derive(Debug, Default)]
pub(super) struct InOrder(Option<(u64, CompactString)>);

impl InOrder {
    /// Whether these go on as they should.
    pub(super) fn go_on(&mut self, entries: &[Entry]) -> bool {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return true };
        let follow = self.0.as_ref().is_none_or(|(route, id)| (*route, id.as_str()) < first.key());
        let sorted = entries.is_sorted_by(|one, next| one.key() < next.key());
        self.0 = Some((last.route, last.state.id.clone()));
        follow && sorted
    }
}

/// A check on bytes: it tells whether they are those that were written.
pub(super) fn check(bytes: &[u8]) -> u64 {
    let digest = digest(&SHA256, bytes);
    let digest: &[u8] = digest.as_ref();
    digest.first_chunk::<8>().map_or(0, |first| u64::from_le_bytes(*first))
}

/// The frame of entries that are in order.
///
/// # Errors
/// A fault of ours, in words.
pub(super) fn pack(entries: &[Entry]) -> Result<Vec<u8>, String> {
    let seqs: Vec<u8> = entries.iter().flat_map(|entry| entry.seq.to_le_bytes()).collect();
    let seqs = zstd::bulk::compress(&seqs, COMPRESSION_LEVEL).map_err(|error| error.to_string())?;
    let (_, states) = pack_series(entries.iter().map(|entry| &entry.state))?;
    let length = u32::try_from(seqs.len()).map_err(|_| "a frame is too long".to_owned())?;
    Ok([length.to_le_bytes().as_slice(), seqs.as_slice(), states.as_slice()].concat())
}

/// The entries of a frame that is at `place`.
///
/// # Errors
/// What is wrong with the bytes, in words.
pub(super) fn unpack(
    bytes: &[u8],
    place: &Place,
    route: fn(&str) -> u64,
    feeds: &mut Feeds,
) -> Result<Vec<Entry>, String> {
    let other = || "a frame is not what its index says".to_owned();
    if check(bytes) != place.check {
        return Err(other());
    }
    let count = place.series as usize;
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(other)?;
    let (seqs, states) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(other)?;
    // The index has no count that is larger than a frame can be.
    let seqs = zstd::bulk::decompress(seqs, count * NUMBER).map_err(|error| error.to_string())?;
    let (seqs, rest) = seqs.as_chunks::<NUMBER>();
    let mut left = seqs.iter().map(|seq| i64::from_le_bytes(*seq));
    let mut entries = Vec::with_capacity(seqs.len());
    let mut surplus = false;
    unpack_series(states, feeds, |state| match left.next() {
        Some(seq) => entries.push(Entry { route: route(&state.id), seq, state }),
        None => surplus = true,
    })?;
    if surplus || !rest.is_empty() || seqs.len() != count || entries.len() != count {
        return Err(other());
    }
    // So that another way to make routes does not pass for series that are not there.
    if entries.first().is_none_or(|first| first.route != place.first) || !InOrder::default().go_on(&entries) {
        return Err("its series are not in the order of their routes".to_owned());
    }
    Ok(entries)
}
