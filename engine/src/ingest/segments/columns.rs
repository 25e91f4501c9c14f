//! The plain bytes of a frame of series: columns, one after the other.
//!
//! Meters of a fleet are much alike and move alike, and identifiers come sorted, mostly: what a series has in common
//! with the one before takes next to nothing, neither room nor time of the compressor. First come the number of series
//! and what they share, then what each of them has: columns of numbers, one of the intervals that were written lately,
//! the ends of identifiers in a row, and what few series need in a row.

use std::sync::Arc;

use bincode::Options;
use meterline_schemas::Frequency;
use meterline_schemas::unit::Unit;
use serde::{Deserialize, Serialize};

use super::super::numbers::{Damage, Rest, Steps, folded, put_number, put_part, unfolded};
use super::super::pending::Pending;
use super::super::series::{Extra, SeriesState};
use super::runs::{Column, Written};
use super::{FRAME, Feeds, intern};

/// Numbers of each series, in this order: feed, unit and frequency as places in [`Shared`], flags, confidence, phase,
/// spread, partition, the first and the last start and the number of intervals as steps from the series before, the
/// number of corrections, bytes that the identifier has in common with the one before and those after them, bytes of what
/// few series need (0: it has none of that), bytes of readings that wait.
const COLUMNS: usize = 16;

// Flags: whether the frequency was declared, and whether there are starts.
const DECLARED: u64 = 1;
const FIRST_START: u64 = 2;
const LAST_START: u64 = 4;

const TOO_MANY: Damage = "a frame has too many series";
const NOT_THERE: Damage = "a series names a feed, a unit or a frequency that is not there";
const OUT_OF_RANGE: Damage = "a series has a number that is out of range";

/// What many series share; each has numbers instead.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Shared {
    feeds: Vec<Arc<str>>,
    units: Vec<Unit>,
    frequencies: Vec<Option<Frequency>>,
}

/// Numbers of the series before, from which those of the next one are steps.
#[derive(Debug, Default)]
struct Before {
    first_start: Steps,
    last_start: Steps,
    intervals: Steps,
}

fn codec() -> impl Options {
    bincode::DefaultOptions::new()
}

/// The bytes of series, and how many there are: [`FRAME`] at most.
///
/// # Errors
/// A fault of ours, in words.
pub(super) fn encode<'a>(states: impl Iterator<Item = &'a SeriesState>) -> Result<(u64, Vec<u8>), String> {
    let mut shared = Shared::default();
    let mut columns = <[Written<u64>; COLUMNS]>::default();
    let mut recent = Written::<u128>::default();
    let mut ids: Vec<u8> = Vec::new();
    let mut extras: Vec<u8> = Vec::new();
    let mut pending: Vec<u8> = Vec::new();
    let mut before = Before::default();
    let (mut feed, mut unit, mut frequency) = (0, 0, 0);
    let mut id: &[u8] = &[];
    let mut count = 0;
    // They lie all over the memory: each is looked at once.
    for state in states {
        feed = place(&mut shared.feeds, feed, &state.feed);
        unit = place(&mut shared.units, unit, &state.unit);
        frequency = place(&mut shared.frequencies, frequency, &state.frequency);
        let same = in_common(id, state.id.as_bytes());
        id = state.id.as_bytes();
        ids.extend_from_slice(&id[same..]);
        let (extras_before, pending_before) = (extras.len(), pending.len());
        if let Some(extra) = &state.extra {
            pending.extend_from_slice(extra.pending.packed());
            codec().serialize_into(&mut extras, &**extra).map_err(|error| error.to_string())?;
        }
        let row: [u64; COLUMNS] = [
            feed,
            unit,
            frequency,
            flags(state),
            state.confidence.into(),
            folded(state.phase.into()),
            state.spread.into(),
            folded(state.partition.into()),
            state.first_start.map_or(0, |start| before.first_start.to(start)),
            state.last_start.map_or(0, |start| before.last_start.to(start)),
            before.intervals.to(state.intervals.into()),
            state.corrections.into(),
            same as u64,
            (id.len() - same) as u64,
            (extras.len() - extras_before) as u64,
            (pending.len() - pending_before) as u64,
        ];
        for (column, number) in columns.iter_mut().zip(row) {
            column.push(number);
        }
        recent.push(state.recent);
        count += 1;
    }
    if count > FRAME as u64 {
        return Err(TOO_MANY.into());
    }
    let mut plain = Vec::with_capacity(ids.len() + extras.len() + pending.len());
    put_number(&mut plain, count);
    put_part(&mut plain, &codec().serialize(&shared).map_err(|error| error.to_string())?);
    for column in columns {
        column.finish(&mut plain);
    }
    recent.finish(&mut plain);
    put_part(&mut plain, &ids);
    put_part(&mut plain, &extras);
    put_part(&mut plain, &pending);
    Ok((count, plain))
}

/// Hands the series of [`encode`] to `take`, in their order. Where the bytes are damaged, some may have been handed
/// over before that is found out, but never more than [`FRAME`].
///
/// # Errors
/// What is wrong with the bytes, in words.
pub(super) fn decode(plain: &[u8], feeds: &mut Feeds, mut take: impl FnMut(SeriesState)) -> Result<(), String> {
    let mut plain = Rest::of(plain);
    let count = plain.number()?;
    // A few bytes can say that there are any number of series that are all the same.
    if count > FRAME as u64 {
        return Err(TOO_MANY.into());
    }
    let shared: Shared = codec().deserialize(plain.part()?.all()).map_err(|error| error.to_string())?;
    let feeds: Vec<Arc<str>> = shared.feeds.into_iter().map(|feed| intern(feeds, feed)).collect();
    let mut columns = <[Column<'_, u64>; COLUMNS]>::default();
    for column in &mut columns {
        *column = Column::of(&mut plain)?;
    }
    let mut recent = Column::<u128>::of(&mut plain)?;
    let (mut ids, mut extras, mut pending) = (plain.part()?, plain.part()?, plain.part()?);
    plain.end()?;
    let mut before = Before::default();
    let mut id: Vec<u8> = Vec::new();
    for _ in 0..count {
        let mut row = [0; COLUMNS];
        for (number, column) in row.iter_mut().zip(&mut columns) {
            *number = column.value()?;
        }
        let [
            feed,
            unit,
            frequency,
            flags,
            confidence,
            phase,
            spread,
            partition,
            first_start,
            last_start,
            intervals,
            corrections,
            same,
            others,
            extra,
            waiting,
        ] = row;
        if flags > (DECLARED | FIRST_START | LAST_START) || same > id.len() as u64 {
            return Err(OUT_OF_RANGE.into());
        }
        id.truncate(same as usize);
        id.extend_from_slice(ids.bytes(others)?);
        let extra = match (extra, waiting) {
            (0, 0) => None,
            (0, _) => return Err(OUT_OF_RANGE.into()),
            (length, waiting) => Some(extra_of(extras.bytes(length)?, pending.bytes(waiting)?)?),
        };
        take(SeriesState {
            feed: Arc::clone(at(&feeds, feed)?),
            id: std::str::from_utf8(&id).map_err(|_| "an identifier is no text")?.into(),
            unit: at(&shared.units, unit)?.clone(),
            frequency: *at(&shared.frequencies, frequency)?,
            declared: flags & DECLARED != 0,
            confidence: narrow(confidence)?,
            phase: narrow(unfolded(phase))?,
            spread: narrow(spread)?,
            partition: narrow(unfolded(partition))?,
            first_start: (flags & FIRST_START != 0).then(|| before.first_start.by(first_start)),
            last_start: (flags & LAST_START != 0).then(|| before.last_start.by(last_start)),
            recent: recent.value()?,
            intervals: narrow(before.intervals.by(intervals))?,
            corrections: narrow(corrections)?,
            extra,
        });
    }
    for column in columns {
        column.end()?;
    }
    recent.end()?;
    ids.end()?;
    extras.end()?;
    pending.end()?;
    Ok(())
}

fn extra_of(rest: &[u8], pending: &[u8]) -> Result<Box<Extra>, String> {
    let mut extra: Box<Extra> = codec().deserialize(rest).map_err(|error| error.to_string())?;
    extra.pending = Pending::unpack(pending)?;
    Ok(extra)
}

fn flags(state: &SeriesState) -> u64 {
    let flag = |is_set: bool, flag: u64| if is_set { flag } else { 0 };
    flag(state.declared, DECLARED)
        | flag(state.first_start.is_some(), FIRST_START)
        | flag(state.last_start.is_some(), LAST_START)
}

// The place of what is wanted; it is mostly that of the series before.
fn place<T: PartialEq + Clone>(known: &mut Vec<T>, before: u64, wanted: &T) -> u64 {
    if known.get(before as usize) == Some(wanted) {
        return before;
    }
    let place = known.iter().position(|one| one == wanted).unwrap_or_else(|| {
        known.push(wanted.clone());
        known.len() - 1
    });
    place as u64
}

fn at<T>(known: &[T], place: u64) -> Result<&T, Damage> {
    usize::try_from(place).ok().and_then(|place| known.get(place)).ok_or(NOT_THERE)
}

fn narrow<W, T: TryFrom<W>>(wide: W) -> Result<T, Damage> {
    T::try_from(wide).map_err(|_| OUT_OF_RANGE)
}

// Bytes that both begin with. Half a character may be among them.
fn in_common(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use compact_str::CompactString;
    use meterline_schemas::Micros;
    use meterline_schemas::frequency::STANDARD;
    use meterline_schemas::reading::{Position, Quality};
    use meterline_schemas::unit::{PowerUnit, Scale};
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::super::eras::Era;
    use super::super::super::series::PendingReading;
    use super::super::{pack_series, unpack_series};
    use super::*;

    fn plain(states: &[SeriesState]) -> Vec<u8> {
        let (count, plain) = encode(states.iter()).unwrap();
        assert_eq!(count, states.len() as u64);
        plain
    }

    fn decoded(plain: &[u8]) -> Result<Vec<SeriesState>, String> {
        let mut found = Vec::new();
        decode(plain, &mut Feeds::default(), |state| {
            assert!(state.id.len() <= plain.len(), "{}", state.id);
            found.push(state);
        })?;
        assert!(found.len() <= FRAME, "{}", found.len());
        Ok(found)
    }

    // A fleet of quarter hours that has come to one place.
    fn fleet(count: usize) -> Vec<SeriesState> {
        let one = |i: usize| {
            let mut state = SeriesState::new("meters", &format!("m{i:07}"), Unit::KWH);
            state.declare(Frequency::QUARTER_HOUR);
            (state.partition, state.recent, state.intervals) = (3, u128::MAX, 35_040);
            (state.first_start, state.last_start) = (Some(1_700_000_100_000_000), Some(1_731_535_200_000_000));
            state
        };
        (0..count).map(one).collect()
    }

    // What is hard to foresee, and the same each time.
    fn scattered(number: u64) -> u64 {
        let mixed = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb)
    }

    #[test]
    fn series_that_move_alike_take_two_bytes_each_at_most() {
        let all = fleet(FRAME);
        assert_eq!(decoded(&plain(&all)).unwrap(), all);
        let (count, packed) = pack_series(all.iter()).unwrap();
        assert!(packed.len() < 2 * FRAME, "{} bytes for {count} series", packed.len());
        // Half of them belong to another worker, and some are behind.
        let mut half: Vec<SeriesState> = all.into_iter().step_by(2).collect();
        for state in half.iter_mut().step_by(50) {
            state.last_start = state.last_start.map(|start| start - 900_000_000);
            state.recent >>= 1;
            state.intervals -= 1;
        }
        assert_eq!(decoded(&plain(&half)).unwrap(), half);
        let (count, packed) = pack_series(half.iter()).unwrap();
        assert!(packed.len() < 4 * half.len(), "{} bytes for {count} series", packed.len());
    }

    #[test]
    fn series_that_have_nothing_in_common_take_no_more_than_as_records() {
        let mut all = fleet(5_000);
        for (i, state) in (1u64..).zip(&mut all) {
            let number = |column: u64| scattered(i * 16 + column);
            state.id = CompactString::from(format!("{:016x}", number(0)));
            state.frequency = Some(STANDARD[number(1) as usize % STANDARD.len()]);
            state.declared = number(2) % 2 == 0;
            (state.confidence, state.phase, state.spread) = (number(3) as u8, number(4) as i8, number(5) as u8);
            state.partition = number(6) as i32;
            (state.first_start, state.last_start) = (Some(number(7) as i64), Some(number(8) as i64));
            (state.recent, state.intervals) = (u128::from(number(9)) << 64 | u128::from(number(10)), number(11) as u32);
        }
        let records: Vec<_> = all
            .iter()
            .map(|state| {
                let said = (state.frequency, state.declared, state.confidence, state.phase, state.spread);
                let reached = (state.partition, state.first_start, state.last_start, state.recent, state.intervals);
                ([0u32; 2], &*state.id, said, reached, false)
            })
            .collect();
        let as_records = bincode::serialize(&records).unwrap();
        let plain = plain(&all);
        assert_eq!(decoded(&plain).unwrap(), all);
        assert!(plain.len() < as_records.len(), "{} bytes, {} as records", plain.len(), as_records.len());
    }

    #[test]
    fn series_share_their_feeds_also_across_frames() {
        let all = fleet(4);
        let mut feeds = Feeds::default();
        let mut found: Vec<SeriesState> = Vec::new();
        for part in all.chunks(2) {
            let (count, packed) = pack_series(part.iter()).unwrap();
            assert_eq!(count, 2);
            unpack_series(&packed, &mut feeds, |state| found.push(state)).unwrap();
        }
        assert_eq!(found, all);
        assert!(found.iter().all(|state| Arc::ptr_eq(&state.feed, &found[0].feed)));
    }

    #[test]
    fn a_frame_has_so_many_series_and_no_more() {
        assert_eq!(decoded(&plain(&[])), Ok(Vec::new()));
        let state = SeriesState::new("", "", Unit::KWH);
        let all = vec![state; FRAME + 1];
        assert_eq!(encode(all.iter()), Err(TOO_MANY.to_owned()));
        let most = plain(&all[1..]);
        assert!(most.len() < 200, "{}", most.len());
        assert_eq!(decoded(&most).unwrap().len(), FRAME);
        for count in [FRAME as u64 + 1, u64::MAX] {
            let mut damaged = Vec::new();
            put_number(&mut damaged, count);
            let mut rest = Rest::of(&most);
            rest.number().unwrap();
            damaged.extend_from_slice(rest.all());
            assert_eq!(decoded(&damaged), Err(TOO_MANY.to_owned()));
        }
    }

    #[test]
    fn whatever_byte_is_damaged_nothing_worse_than_an_error_comes() {
        let mut all = fleet(3);
        all[1].extra_mut().sparse = vec![1, 2, 3];
        let good = plain(&all);
        for place in 0..good.len() {
            for by in 1..=u8::MAX {
                let mut damaged = good.clone();
                damaged[place] ^= by;
                let _ = decoded(&damaged);
            }
        }
    }

    fn number() -> impl Strategy<Value = i64> {
        prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX), -2..3i64, (0..1_000i64).prop_map(|n| n * 900_000_000)]
    }

    fn text() -> impl Strategy<Value = Arc<str>> {
        "[a-c]{0,3}".prop_map(Arc::<str>::from)
    }

    fn position() -> impl Strategy<Value = Position> {
        (number(), any::<i32>(), number()).prop_map(|(timestamp_ms, partition, offset)| Position {
            timestamp_ms,
            partition,
            offset,
        })
    }

    fn reading() -> impl Strategy<Value = PendingReading> {
        let scale = select(vec![Scale::AsIs, Scale::Power(PowerUnit::One), Scale::Energy(PowerUnit::Giga)]);
        let quality = select(vec![Quality::Measured, Quality::Estimated, Quality::Substituted]);
        (number(), -1e9..1e9f64, scale, quality, position())
            .prop_map(|(at, value, scale, quality, position)| PendingReading { at, value, scale, quality, position })
    }

    fn frequency() -> impl Strategy<Value = Frequency> {
        select(STANDARD.to_vec())
    }

    fn era() -> impl Strategy<Value = Era> {
        (frequency(), number(), number(), any::<u64>()).prop_map(|(frequency, to, first, intervals)| Era {
            frequency,
            to,
            first,
            intervals,
        })
    }

    fn numbers() -> impl Strategy<Value = Vec<Micros>> {
        vec(number(), 0..3)
    }

    // With all of its fields, any of them or none.
    fn extra() -> impl Strategy<Value = Extra> {
        let waiting = (vec(reading(), 0..3), vec((position(), vec((text(), text()), 0..3)), 0..3));
        let last = (option::of(position()), option::of(reading()));
        let eras = (vec(era(), 0..3), option::of(number()), numbers(), any::<u8>());
        (vec((number(), number()), 0..3), waiting, last, eras).prop_map(|(unwritten, waiting, last, eras)| {
            let ((pending, pending_labels), (last_position, last_register)) = (waiting, last);
            let (eras, rewritten_to, sparse, undisturbed) = eras;
            Extra {
                unwritten,
                last_position,
                pending: pending.into_iter().collect(),
                pending_labels,
                last_register: last_register.map(Box::new),
                eras,
                rewritten_to,
                sparse,
                undisturbed,
            }
        })
    }

    // Half a character can be what two of them have in common.
    fn id() -> impl Strategy<Value = String> {
        prop_oneof!["[ab]{0,4}", "m00[0-9]{1,3}", "[äöé€🦀]{0,4}", ".{0,40}"]
    }

    fn state() -> impl Strategy<Value = SeriesState> {
        let unit = select(vec![Unit::KWH, Unit::KW, Unit::Other("m3".into()), Unit::Other("°C".into())]);
        let said = (option::of(frequency()), any::<bool>(), any::<u8>(), any::<i8>(), any::<u8>());
        let recent = prop_oneof![Just(0u128), Just(u128::MAX), any::<u128>()];
        let count = || prop_oneof![Just(0u32), Just(u32::MAX), any::<u32>(), 0..9u32];
        let reached = (any::<i32>(), option::of(number()), option::of(number()), recent, count(), count());
        (text(), id(), unit, said, reached, option::of(extra())).prop_map(|(feed, id, unit, said, reached, extra)| {
            let (frequency, declared, confidence, phase, spread) = said;
            let (partition, first_start, last_start, recent, intervals, corrections) = reached;
            SeriesState {
                feed,
                id: id.into(),
                unit,
                frequency,
                declared,
                confidence,
                phase,
                spread,
                partition,
                first_start,
                last_start,
                recent,
                intervals,
                corrections,
                extra: extra.map(Box::new),
            }
        })
    }

    // Some in a row are the same but for their identifiers, or also in that.
    fn states(most: usize) -> impl Strategy<Value = Vec<SeriesState>> {
        vec((state(), vec(option::of(id()), 0..3)), 0..most).prop_map(|runs| {
            let mut all = Vec::new();
            for (state, others) in runs {
                all.push(state.clone());
                for other in others {
                    all.push(SeriesState { id: other.map_or(state.id.clone(), CompactString::from), ..state.clone() });
                }
            }
            all
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(all in states(20)) {
            prop_assert_eq!(decoded(&plain(&all)), Ok(all.clone()));
            let mut sorted = all;
            sorted.sort_by(|a, b| a.id.cmp(&b.id));
            prop_assert_eq!(decoded(&plain(&sorted)), Ok(sorted));
        }

        #[test]
        fn a_frame_without_its_end_is_damaged(all in states(4)) {
            let good = plain(&all);
            for length in 0..good.len() {
                prop_assert!(decoded(&good[..length]).is_err(), "{} of {}", length, good.len());
            }
            prop_assert!(decoded(&[&good[..], &[0]].concat()).is_err());
        }

        #[test]
        fn damage_here_and_there_is_no_worse_than_an_error(
            all in states(8),
            damage in vec((any::<usize>(), any::<u8>()), 1..5),
        ) {
            let mut damaged = plain(&all);
            for (place, by) in damage {
                let place = place % damaged.len();
                damaged[place] ^= by;
            }
            let _ = decoded(&damaged);
        }
    }
}
