//! What a file of a run ends with: where its frames are, and what they begin with.
//!
//! Frames lie side by side, so their lengths say where they are. Of each the index has four numbers (64 bits,
//! little-endian): the route of its first series, its length, how many series it has, and a check on its bytes. It ends
//! with a check on itself.

use std::ops::Range;

use super::super::error::IngestError;
use super::super::load::OwnedStates;
use super::frame::check;
use super::{MAGIC, READING, RunFile};

/// Bytes of the numbers of one frame.
const ROW: usize = 4 * size_of::<u64>();
/// Series of a frame above which its index makes no sense, whatever wrote it.
const SERIES_MAX: u64 = 1 << 16;

/// Where a frame is in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Route of its first series.
    pub(super) first: u64,
    /// Its bytes.
    pub(super) bytes: Range<u64>,
    /// Number of its series.
    pub(super) series: u64,
    /// [`check`] of its bytes.
    pub(super) check: u64,
}

/// The index of these frames.
pub(super) fn encode(places: &[Place]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for Place { first, bytes: range, series, check } in places {
        for number in [*first, range.end - range.start, *series, *check] {
            bytes.extend(number.to_le_bytes());
        }
    }
    let sum = check(&bytes);
    bytes.extend(sum.to_le_bytes());
    bytes
}

/// The frames of a file, as its index has them.
///
/// # Errors
/// What is wrong with the bytes, in words.
fn decode(file: &RunFile, bytes: &[u8]) -> Result<Vec<Place>, String> {
    let other = || "it does not end with an index of evicted series".to_owned();
    let (indexed, sum) = bytes.split_last_chunk::<8>().ok_or_else(other)?;
    let rows = indexed.strip_prefix(MAGIC).ok_or_else(other)?;
    if u64::from_le_bytes(*sum) != check(indexed) {
        return Err("its index is not what was written".to_owned());
    }
    let (rows, rest) = rows.as_chunks::<ROW>();
    let mut places = Vec::with_capacity(rows.len());
    let (mut end, mut all) = (MAGIC.len() as u64, 0);
    for row in rows {
        let (numbers, _) = row.as_chunks::<8>();
        let [first, length, series, check] = numbers else { return Err(other()) };
        let [first, length, series, check] = [first, length, series, check].map(|number| u64::from_le_bytes(*number));
        let begin = end;
        end = begin.checked_add(length).ok_or_else(other)?;
        if begin == end || !(1..=SERIES_MAX).contains(&series) {
            return Err(other());
        }
        all += series;
        places.push(Place { first, bytes: begin..end, series, check });
    }
    let whole = rest.is_empty() && end.checked_add(bytes.len() as u64) == Some(file.bytes) && all == file.series;
    let sorted = places.is_sorted_by_key(|place| place.first)
        && places.first().is_some_and(|place| place.first == file.first)
        && places.last().is_some_and(|place| place.first <= file.last);
    if whole && sorted { Ok(places) } else { Err("its index is that of another file".to_owned()) }
}

/// Reads the index of a file.
///
/// # Errors
/// The file is damaged, or the store fails.
pub(super) async fn read(from: &OwnedStates, file: &RunFile) -> Result<Vec<Place>, IngestError> {
    let damaged = |reason: String| IngestError::State { path: file.path.clone(), reason };
    let begin =
        file.bytes.checked_sub(file.index_bytes).ok_or_else(|| damaged("it is shorter than its index".into()))?;
    let bytes = from.states().range(READING, &file.path, begin..file.bytes).await?;
    decode(file, &bytes).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_that_of_its_file_or_an_error() {
        let place = |first, bytes, series| Place { first, bytes, series, check: first ^ 9 };
        let places = vec![place(3, 8..20, 2), place(3, 20..21, 1), place(u64::MAX, 21..99, 2_048)];
        let bytes = encode(&places);
        let index_bytes = bytes.len() as u64;
        assert_eq!(index_bytes, 8 + 3 * 32 + 8);
        let (path, size) = (String::new(), 99 + index_bytes);
        let file = RunFile { path, first: 3, last: u64::MAX, series: 2_051, bytes: size, index_bytes };
        assert_eq!(decode(&file, &bytes), Ok(places.clone()));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(decode(&file, &damaged).is_err(), "{at}");
            assert!(decode(&file, &bytes[..at]).is_err(), "{at}");
        }
        let others = [
            RunFile { first: 2, ..file.clone() },
            RunFile { last: 7, ..file.clone() },
            RunFile { series: 2_050, ..file.clone() },
            RunFile { bytes: size + 1, ..file.clone() },
        ];
        for other in others {
            assert!(decode(&other, &bytes).is_err(), "{other:?}");
        }
        let unsound: [&[Place]; 5] = [
            &[],
            &[place(3, 8..8, 2)],
            &[place(3, 8..9, 0)],
            &[place(3, 8..9, u64::MAX)],
            &[place(4, 8..9, 1), place(3, 9..10, 1)],
        ];
        for places in unsound {
            let bytes = encode(places);
            let end = places.last().map_or(8, |place| place.bytes.end);
            let series = places.iter().fold(0, |all: u64, place| all.saturating_add(place.series));
            let first = places.first().map_or(3, |place| place.first);
            let file = RunFile { first, series, bytes: end + bytes.len() as u64, ..file.clone() };
            assert!(decode(&file, &bytes).is_err(), "{places:?}");
        }
    }
}
