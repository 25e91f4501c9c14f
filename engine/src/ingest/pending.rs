//! Readings of one series that wait for its frequency, or are held in doubt of it, packed: a million series that all
//! wait have a dozen each, and all of them go into each commit.
//!
//! A reading takes what it differs in from the one before, by stamp: some fifteen bytes instead of 48.

use meterline_schemas::Micros;
use meterline_schemas::reading::{Position, Quality};
use meterline_schemas::time::SECOND;
use meterline_schemas::unit::{PowerUnit, Scale};

use super::numbers::{Damage, Rest, folded, put_number, unfolded};
use super::series::PendingReading;

/// Readings that wait, with different stamps, by these.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pending {
    bytes: Vec<u8>,
    last: Before,
    count: u32,
}

/// What became of a reading that was put to others.
#[derive(Debug, Clone, PartialEq)]
pub enum Put {
    /// There was none of its stamp.
    New,
    /// It took the place of an older one.
    Instead(PendingReading),
    /// There is a newer one of its stamp, or it is there already.
    Known,
}

/// What a reading is told from the one before by.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Before {
    at: Micros,
    timestamp_ms: i64,
    offset: i64,
    partition: i32,
}

// The first byte of a reading: its scale and quality, and how the rest is written.
const KINDS: u8 = 32;
const SAME_PARTITION: u8 = 32;
const WHOLE_SECONDS: u8 = 64;
const THOUSANDTHS: u8 = 128;

const QUALITIES: [Quality; 3] = [Quality::Measured, Quality::Estimated, Quality::Substituted];
const SCALES: [Scale; 9] = [
    Scale::AsIs,
    Scale::Power(PowerUnit::One),
    Scale::Power(PowerUnit::Kilo),
    Scale::Power(PowerUnit::Mega),
    Scale::Power(PowerUnit::Giga),
    Scale::Energy(PowerUnit::One),
    Scale::Energy(PowerUnit::Kilo),
    Scale::Energy(PowerUnit::Mega),
    Scale::Energy(PowerUnit::Giga),
];

/// Thousandths below which a value is written as so many of them, if it is exactly that.
const THOUSANDTHS_MAX: f64 = (1u64 << 40) as f64;
/// Bytes for which there is room at first, and more whenever it is used up: there are as many series as there are.
const ROOM: usize = 64;

const DAMAGED: Damage = "a reading that waits is damaged";

impl Pending {
    /// None.
    pub const NONE: Pending =
        Pending { bytes: Vec::new(), last: Before { at: 0, timestamp_ms: 0, offset: 0, partition: 0 }, count: 0 };

    /// Number of readings.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All of them, by stamp.
    pub fn iter(&self) -> impl Iterator<Item = PendingReading> {
        let (mut rest, mut before) = (Rest::of(&self.bytes), Before::default());
        // They were checked when they came from outside.
        std::iter::from_fn(move || if rest.is_empty() { None } else { before.next(&mut rest).ok() })
    }

    /// From the first stamp to the last one.
    pub fn span(&self) -> Micros {
        self.iter().next().map_or(0, |first| self.last.at.saturating_sub(first.at))
    }

    /// Puts one more to them. Of two with the same stamp the one with the greater position stays.
    pub fn put(&mut self, reading: PendingReading) -> Put {
        if self.is_empty() || self.last.at < reading.at {
            self.push(&reading);
            return Put::New;
        }
        let mut all: Vec<PendingReading> = self.iter().collect();
        let put = match all.binary_search_by_key(&reading.at, |known| known.at) {
            Ok(index) if all[index].position >= reading.position => return Put::Known,
            Ok(index) => Put::Instead(std::mem::replace(&mut all[index], reading)),
            Err(index) => {
                all.insert(index, reading);
                Put::New
            }
        };
        self.set(&all);
        put
    }

    /// Takes the first so many of them out.
    pub fn take_first(&mut self, count: usize) -> Vec<PendingReading> {
        let mut first: Vec<PendingReading> = std::mem::take(self).iter().collect();
        let kept = first.split_off(count.min(first.len()));
        self.set(&kept);
        first
    }

    /// Takes all of them out.
    pub fn take(&mut self) -> Vec<PendingReading> {
        self.take_first(self.len())
    }

    /// Bytes that they take beside the thing itself.
    pub fn bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// As files have them.
    pub fn packed(&self) -> &[u8] {
        &self.bytes
    }

    /// What was [packed](Pending::packed).
    ///
    /// # Errors
    /// What is wrong with the bytes, in words.
    pub fn unpack(packed: &[u8]) -> Result<Pending, Damage> {
        let (mut rest, mut last, mut count) = (Rest::of(packed), Before::default(), 0);
        while !rest.is_empty() {
            let before = last.at;
            let reading = last.next(&mut rest)?;
            if count > 0 && reading.at <= before {
                return Err(DAMAGED);
            }
            count += 1;
        }
        Ok(Pending { bytes: packed.to_vec(), last, count })
    }

    fn push(&mut self, reading: &PendingReading) {
        // A reading takes 42 bytes at most.
        if self.bytes.capacity() - self.bytes.len() < ROOM / 2 {
            self.bytes.reserve_exact(ROOM + self.bytes.len() / 8);
        }
        self.last.put(&mut self.bytes, reading);
        self.count += 1;
    }

    fn set(&mut self, all: &[PendingReading]) {
        *self = Pending::default();
        all.iter().for_each(|reading| self.push(reading));
    }
}

impl Before {
    // Writes the next reading.
    fn put(&mut self, bytes: &mut Vec<u8>, reading: &PendingReading) {
        let PendingReading { at, value, scale, quality, position } = *reading;
        let Position { timestamp_ms, partition, offset } = position;
        let step = at.wrapping_sub(self.at);
        let thousandths = (value * 1000.0).round();
        let is_decimal =
            thousandths.abs() < THOUSANDTHS_MAX && (thousandths as i64 as f64 / 1000.0).to_bits() == value.to_bits();
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let scale = SCALES.iter().position(|known| *known == scale).unwrap_or_default();
        let quality = QUALITIES.iter().position(|known| *known == quality).unwrap_or_default();
        bytes.push(
            (scale * QUALITIES.len() + quality) as u8
                | flag(partition == self.partition, SAME_PARTITION)
                | flag(step % SECOND == 0, WHOLE_SECONDS)
                | flag(is_decimal, THOUSANDTHS),
        );
        put_number(bytes, folded(if step % SECOND == 0 { step / SECOND } else { step }));
        if is_decimal {
            put_number(bytes, folded(thousandths as i64));
        } else {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        if partition != self.partition {
            put_number(bytes, folded(partition.into()));
        }
        put_number(bytes, folded(timestamp_ms.wrapping_sub(self.timestamp_ms)));
        put_number(bytes, folded(offset.wrapping_sub(self.offset)));
        *self = Before { at, timestamp_ms, offset, partition };
    }

    // Reads the next reading.
    fn next(&mut self, rest: &mut Rest<'_>) -> Result<PendingReading, Damage> {
        let [first] = rest.array()?;
        let is = |flag: u8| first & flag != 0;
        let kind = usize::from(first % KINDS);
        let scale = *SCALES.get(kind / QUALITIES.len()).ok_or(DAMAGED)?;
        let quality = QUALITIES[kind % QUALITIES.len()];
        let step = unfolded(rest.number()?);
        let step = if is(WHOLE_SECONDS) { step.checked_mul(SECOND).ok_or(DAMAGED)? } else { step };
        let value = match is(THOUSANDTHS) {
            true => unfolded(rest.number()?) as f64 / 1000.0,
            false => f64::from_le_bytes(rest.array()?),
        };
        if !is(SAME_PARTITION) {
            self.partition = i32::try_from(unfolded(rest.number()?)).map_err(|_| DAMAGED)?;
        }
        self.at = self.at.wrapping_add(step);
        self.timestamp_ms = self.timestamp_ms.wrapping_add(unfolded(rest.number()?));
        self.offset = self.offset.wrapping_add(unfolded(rest.number()?));
        let Before { at, timestamp_ms, offset, partition } = *self;
        Ok(PendingReading { at, value, scale, quality, position: Position { timestamp_ms, partition, offset } })
    }
}

impl FromIterator<PendingReading> for Pending {
    fn from_iter<I: IntoIterator<Item = PendingReading>>(readings: I) -> Pending {
        let mut pending = Pending::default();
        for reading in readings {
            pending.put(reading);
        }
        pending
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn reading(at: Micros, value: f64, position: (i64, i32, i64)) -> PendingReading {
        let (timestamp_ms, partition, offset) = position;
        let position = Position { timestamp_ms, partition, offset };
        PendingReading { at, value, scale: Scale::Energy(PowerUnit::Kilo), quality: Quality::Measured, position }
    }

    #[test]
    fn a_dozen_of_a_meter_take_little() {
        let (first, sent) = (1_731_535_200_000_000, 1_731_535_203_117);
        for (more, bytes_max) in [(0.0, 180), (0.123_456_789, 250)] {
            let mut pending = Pending::default();
            for i in 0..12 {
                let value = f64::from(i as u32 * 17) / 1000.0 + more;
                let position = (sent + 900_000 * i + 31 * (i % 3), 5, 40_123_456 + 250_017 * i);
                assert_eq!(pending.put(reading(first + 900 * SECOND * i, value, position)), Put::New);
            }
            assert_eq!((pending.len(), pending.span()), (12, 11 * 900 * SECOND));
            assert!(pending.packed().len() <= bytes_max, "{}", pending.packed().len());
            assert!(pending.bytes() <= pending.packed().len() + 2 * ROOM, "{}", pending.bytes());
        }
    }

    #[test]
    fn what_is_beyond_the_readings_or_out_of_order_is_damage() {
        let all: Pending = (1..4).map(|i| reading(i, 0.5, (i, 0, i))).collect();
        let packed = all.packed();
        assert_eq!(Pending::unpack(packed), Ok(all.clone()));
        assert_eq!(Pending::unpack(&[]), Ok(Pending::NONE));
        assert!(Pending::unpack(&packed[..packed.len() - 1]).is_err());
        let mut twice = packed.to_vec();
        let mut same = Before { at: 3, timestamp_ms: 3, offset: 3, partition: 0 };
        same.put(&mut twice, &reading(3, 0.5, (9, 0, 9)));
        assert_eq!(Pending::unpack(&twice), Err(DAMAGED));
        assert_eq!(Pending::unpack(&[(KINDS - 1) | SAME_PARTITION, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(DAMAGED));
    }

    fn number() -> impl Strategy<Value = i64> {
        prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX), -3..3i64, (0..99i64).prop_map(|n| n * 900 * SECOND)]
    }

    fn any_reading() -> impl Strategy<Value = PendingReading> {
        let value = prop_oneof![any::<f64>(), (-99_999..99_999i32).prop_map(|n| f64::from(n) / 1000.0), Just(-0.0)];
        let (scale, quality) = (select(SCALES.to_vec()), select(QUALITIES.to_vec()));
        let position = (number(), prop_oneof![any::<i32>(), 0..2i32], number());
        (number(), value, scale, quality, position).prop_map(|(at, value, scale, quality, position)| PendingReading {
            scale,
            quality,
            ..reading(at, value, position)
        })
    }

    proptest! {
        #[test]
        fn they_are_what_a_map_by_stamp_has(
            readings in proptest::collection::vec(any_reading(), 0..40),
            first in 0..45usize,
        ) {
            let (mut pending, mut map) = (Pending::default(), BTreeMap::<Micros, PendingReading>::new());
            for reading in readings {
                let wanted = match map.get(&reading.at).copied() {
                    None => Put::New,
                    Some(known) if known.position >= reading.position => Put::Known,
                    Some(known) => Put::Instead(known),
                };
                if wanted != Put::Known {
                    map.insert(reading.at, reading);
                }
                prop_assert_eq!(format!("{:?}", pending.put(reading)), format!("{wanted:?}"));
                prop_assert_eq!(pending.len(), map.len());
            }
            // As text: what is not a number is equal to nothing.
            let wanted: Vec<String> = map.values().map(|reading| format!("{reading:?}")).collect();
            let texts = |all: Vec<PendingReading>| -> Vec<String> {
                all.iter().map(|reading| format!("{reading:?}")).collect()
            };
            prop_assert_eq!(&texts(pending.iter().collect()), &wanted);
            prop_assert_eq!(&Pending::unpack(pending.packed()).unwrap(), &pending);
            let taken = texts(pending.take_first(first));
            let kept = texts(pending.iter().collect());
            prop_assert_eq!(taken.len(), first.min(wanted.len()));
            prop_assert_eq!(&[taken, kept].concat(), &wanted);
            let anew: Pending = pending.iter().collect();
            prop_assert_eq!(anew, pending);
        }

        #[test]
        fn damage_is_no_worse_than_an_error(
            readings in proptest::collection::vec(any_reading(), 0..8),
            damage in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..5),
        ) {
            let mut packed = readings.into_iter().collect::<Pending>().packed().to_vec();
            for (place, by) in damage {
                if !packed.is_empty() {
                    let place = place % packed.len();
                    packed[place] ^= by;
                }
            }
            if let Ok(pending) = Pending::unpack(&packed) {
                prop_assert_eq!(pending.iter().count(), pending.len());
            }
        }
    }
}
