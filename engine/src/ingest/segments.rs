//! The files that hold the states of series, and those of what roll-ups know of them.
//!
//! Each commit writes the series that changed, and no others: a file is called a segment, and of two states of one
//! series that in the later segment counts. So that neither their number nor what is superseded in them grows, a commit
//! now and then also writes the series of the newest segments again, which then go: those that are not much longer than
//! what comes after them, so that each state is written a number of times that is logarithmic in the number of series.
//!
//! A segment begins with what it holds ([`SERIES`], [`MEMBERS`], [`SAID`]), and then has frames: the length of the
//! compressed bytes (32 bits, little-endian) and those bytes. Workers encode frames, the committer puts them in a row.
//! Of series, which all may change in each commit, a frame has columns (`columns`), of the rest records.

mod columns;
mod runs;

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use bytes::Bytes;
use object_store::PutPayload;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::series::SeriesState;

/// What a segment begins with: its format, and the version of that.
pub type Magic = [u8; 8];
/// States of series.
pub const SERIES: &Magic = b"MLSERIE5";
/// What roll-ups remember of series.
pub const MEMBERS: &Magic = b"MLMEMBR1";
/// Labels that hold from the next epoch on.
pub const SAID: &Magic = b"MLLABEL1";
/// Series of one frame.
pub const FRAME: usize = 32 * 1024;
const COMPRESSION_LEVEL: i32 = 1;
/// Segments of one state at most.
const SEGMENTS_MAX: usize = 24;

/// One file with states of series.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Path below the lake's root.
    pub path: String,
    /// Commit that wrote it.
    pub seq: i64,
    /// Number of series in it.
    pub series: u64,
    /// Its size.
    pub bytes: u64,
}

/// Encoded series, on their way into a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// Number of series.
    pub series: u64,
    /// Frames, one after the other.
    #[serde(with = "as_bytes")]
    pub frames: Vec<Bytes>,
}

/// Frames on their way between processes, each as one run of bytes.
mod as_bytes {
    use std::fmt;

    use bytes::Bytes;
    use serde::de::{Error, Visitor};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    struct Sent(Bytes);

    impl Serialize for Sent {
        fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
            s.serialize_bytes(&self.0)
        }
    }

    impl<'de> Deserialize<'de> for Sent {
        fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Sent, D::Error> {
            struct Run;
            impl Visitor<'_> for Run {
                type Value = Sent;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("bytes")
                }

                fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Sent, E> {
                    Ok(Sent(bytes.into()))
                }

                fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Sent, E> {
                    Ok(Sent(Bytes::copy_from_slice(bytes)))
                }
            }
            d.deserialize_byte_buf(Run)
        }
    }

    pub(super) fn serialize<S: Serializer>(frames: &[Bytes], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(frames.iter().map(|frame| Sent(frame.clone())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Bytes>, D::Error> {
        Ok(Vec::<Sent>::deserialize(d)?.into_iter().map(|sent| sent.0).collect())
    }
}

impl Frames {
    /// Encodes series.
    ///
    /// # Errors
    /// A fault of ours, in words.
    pub fn of<'a>(series: impl Iterator<Item = &'a SeriesState>) -> Result<Frames, String> {
        let mut frames = Frames::default();
        let mut series = series.peekable();
        while series.peek().is_some() {
            let (count, packed) = pack_series(series.by_ref().take(FRAME))?;
            frames.series += count;
            frames.push(&packed)?;
        }
        Ok(frames)
    }

    /// Encodes other records, frame by frame.
    ///
    /// # Errors
    /// A fault of ours, in words.
    pub fn pack<T: Serialize>(records: &[T]) -> Result<Frames, String> {
        let mut frames = Frames { series: records.len() as u64, frames: Vec::new() };
        for records in records.chunks(FRAME) {
            let plain = bincode::serialize(records).map_err(|error| error.to_string())?;
            frames.push(&compress(&plain)?)?;
        }
        Ok(frames)
    }

    fn push(&mut self, packed: &[u8]) -> Result<(), String> {
        let length = u32::try_from(packed.len()).map_err(|_| "a frame is too long".to_owned())?;
        self.frames.push(Bytes::from([length.to_le_bytes().as_slice(), packed].concat()));
        Ok(())
    }

    /// Hands every series of [`Frames::of`] to `take`.
    ///
    /// # Errors
    /// What is wrong with the bytes, in words.
    pub fn each(&self, mut take: impl FnMut(SeriesState)) -> Result<(), String> {
        let mut feeds = Feeds::default();
        self.frames
            .iter()
            .try_for_each(|frame| each_frame(frame, |packed| unpack_series(packed, &mut feeds, &mut take)))
    }

    /// Others after these.
    pub fn append(&mut self, mut others: Frames) {
        self.series += others.series;
        self.frames.append(&mut others.frames);
    }

    /// The segment that they make.
    pub fn segment(&self, magic: &'static Magic) -> PutPayload {
        std::iter::once(Bytes::from_static(magic)).chain(self.frames.iter().cloned()).collect()
    }
}

/// Names of feeds that were decoded: series share them.
pub(super) type Feeds = HashSet<Arc<str>>;

/// One frame of series, compressed, and how many there are: [`FRAME`] at most.
///
/// # Errors
/// A fault of ours, in words.
pub(super) fn pack_series<'a>(series: impl Iterator<Item = &'a SeriesState>) -> Result<(u64, Vec<u8>), String> {
    let (count, plain) = columns::encode(series)?;
    Ok((count, compress(&plain)?))
}

/// Hands the series of a frame of [`pack_series`] to `take`, in their order.
///
/// # Errors
/// What is wrong with the bytes, in words.
pub(super) fn unpack_series(packed: &[u8], feeds: &mut Feeds, take: impl FnMut(SeriesState)) -> Result<(), String> {
    let plain = zstd::decode_all(packed).map_err(|error| error.to_string())?;
    columns::decode(&plain, feeds, take)
}

fn compress(plain: &[u8]) -> Result<Vec<u8>, String> {
    zstd::bulk::compress(plain, COMPRESSION_LEVEL).map_err(|error| error.to_string())
}

/// Hands every series of a segment to `take`, frame by frame.
///
/// # Errors
/// What is wrong with the bytes, in words.
pub fn decode(bytes: &[u8], mut take: impl FnMut(SeriesState)) -> Result<(), String> {
    // Of all frames: most series share their feed and unit.
    let mut feeds = Feeds::default();
    each_frame(without(SERIES, bytes)?, |packed| unpack_series(packed, &mut feeds, &mut take))
}

/// Hands every record of [`Frames::pack`] to `take`, frame by frame.
///
/// # Errors
/// What is wrong with the bytes, in words.
pub fn decode_records<T: DeserializeOwned>(magic: &Magic, bytes: &[u8], take: impl FnMut(T)) -> Result<(), String> {
    let mut take = take;
    each_frame(without(magic, bytes)?, |packed| {
        let plain = zstd::decode_all(packed).map_err(|error| error.to_string())?;
        let records: Vec<T> = bincode::deserialize(&plain).map_err(|error| error.to_string())?;
        records.into_iter().for_each(&mut take);
        Ok(())
    })
}

fn without<'b>(magic: &Magic, bytes: &'b [u8]) -> Result<&'b [u8], String> {
    let (of, version) = magic.split_at(magic.len() - 1);
    bytes.strip_prefix(magic).ok_or_else(|| match bytes.strip_prefix(of) {
        Some([found, ..]) if found.is_ascii_digit() => format!(
            "another version of meterline wrote it (format {}, and this one reads {}): go on with that version, or build \
             the lake anew from the topics",
            char::from(*found),
            version.escape_ascii()
        ),
        _ => "it does not begin as a file with states does".to_owned(),
    })
}

// Each frame's compressed bytes.
fn each_frame(bytes: &[u8], mut take: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (packed, after) = after.split_at_checked(length).ok_or("it ends in the middle of a frame")?;
        rest = after;
        take(packed)?;
    }
    if rest.is_empty() { Ok(()) } else { Err("it ends in the middle of a frame".into()) }
}

fn intern<T: Clone + Eq + Hash>(known: &mut HashSet<T>, one: T) -> T {
    match known.get(&one) {
        Some(known) => known.clone(),
        None => {
            known.insert(one.clone());
            one
        }
    }
}

/// The commit from which on segments are to be written again by the next one, together with its own changes of (about)
/// `changed` series; none of them where it is greater than all.
pub fn rewrite_from(segments: &[Segment], changed: u64) -> i64 {
    let mut together = changed;
    let mut from = i64::MAX;
    for (index, segment) in segments.iter().enumerate().rev() {
        if segment.series > together && index + 1 < SEGMENTS_MAX {
            break;
        }
        together += segment.series;
        from = segment.seq;
    }
    from
}

#[cfg(test)]
mod tests {
    use meterline_schemas::Frequency;
    use meterline_schemas::reading::{Position, Quality};
    use meterline_schemas::unit::{Scale, Unit};
    use proptest::prelude::*;

    use super::super::series::PendingReading;
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_damage_is_an_error() {
        let mut all: Vec<SeriesState> = (0..FRAME + 3)
            .map(|i| SeriesState::new(if i % 2 == 0 { "a" } else { "b" }, &format!("m{i}"), Unit::KWH))
            .collect();
        all[5].frequency = Some(Frequency::Month);
        all[5].recent = u128::MAX - 7;
        let position = Position { timestamp_ms: 1, partition: 2, offset: 3 };
        let reading = PendingReading { at: -4, value: 0.1, scale: Scale::AsIs, quality: Quality::Estimated, position };
        all[7].extra_mut().pending.put(reading);
        let mut frames = Frames::default();
        for part in all.chunks(FRAME - 1) {
            frames.append(Frames::of(part.iter()).unwrap());
        }
        assert_eq!(frames.series, all.len() as u64);
        let bytes = Bytes::from(frames.segment(SERIES));
        let mut found = Vec::new();
        decode(&bytes, |series| found.push(series)).unwrap();
        assert_eq!(found, all);
        for damaged in [&bytes[..bytes.len() - 1], &bytes[..SERIES.len() + 3], &bytes[1..], b"", b"MLSERIE3".as_slice()]
        {
            assert!(decode(damaged, |_| {}).is_err(), "{}", damaged.len());
        }
        assert_eq!(decode(SERIES, |_| {}), Ok(()));
    }

    proptest! {
        #[test]
        fn segments_stay_few_and_every_series_is_in_one(changes in proptest::collection::vec(1..2_000u64, 1..300)) {
            // Series 0..n change at random places; what a commit writes is what a shard would.
            let mut written: Vec<i64> = vec![0; 10_000];
            let mut segments: Vec<Segment> = Vec::new();
            let mut work = 0;
            for (seq, changed) in (1..).zip(&changes) {
                let from = rewrite_from(&segments, *changed);
                segments.retain(|segment| segment.seq < from);
                let first = (seq as u64).wrapping_mul(7_919) % 10_000;
                let mut series = 0;
                for i in 0..10_000u64 {
                    let is_changed = (i + 10_000 - first) % 10_000 < *changed;
                    if is_changed || written[i as usize] >= from {
                        written[i as usize] = seq;
                        series += 1;
                    }
                }
                work += series;
                segments.push(Segment { path: String::new(), seq, series, bytes: 0 });
                prop_assert!(segments.len() <= SEGMENTS_MAX);
            }
            for seq in written.iter().filter(|seq| **seq > 0) {
                prop_assert!(segments.iter().any(|segment| segment.seq == *seq));
            }
            let all: u64 = changes.iter().sum();
            prop_assert!(work <= 15 * all, "{} states were written for {} changes", work, all);
        }
    }
}
