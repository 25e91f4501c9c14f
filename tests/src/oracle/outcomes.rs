//! What the readings of a topic must have been counted as.
//!
//! Readings of one interval, sample or register compete: the first that comes is accepted, a later one corrects if its
//! position is greater and it says something else, and is a duplicate otherwise. So the number of those accepted is
//! determined, and that of all three together. Whether one corrects depends on which came before it: within a partition
//! that is the order of offsets, whatever crashes, and between two partitions any order. So corrections are determined
//! where one partition has all readings that compete, and elsewhere they have bounds, which are exact for each such
//! group. Duplicates are the rest.

use std::collections::BTreeMap;

use super::Reading;

/// What readings were counted as, in any order of the partitions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Readings: accepted, corrected and duplicate ones together.
    pub readings: u64,
    /// Accepted ones.
    pub accepted: u64,
    /// Corrected ones at least.
    pub corrected_min: u64,
    /// Corrected ones at most.
    pub corrected_max: u64,
}

impl Outcomes {
    /// Those where some readings may have waited for the frequency of their series: of readings with one stamp that
    /// wait only the one that counts is kept, and the others are duplicates, also those that would have been corrected.
    pub fn having_waited(self) -> Outcomes {
        Outcomes { corrected_min: 0, ..self }
    }
}

/// Those of readings of which the ones with equal keys compete.
pub(super) fn of<'a, K: Ord>(readings: impl Iterator<Item = (K, &'a Reading)>) -> Outcomes {
    let mut competing: BTreeMap<K, Vec<&Reading>> = BTreeMap::new();
    for (key, reading) in readings {
        competing.entry(key).or_default().push(reading);
    }
    let mut outcomes = Outcomes::default();
    for readings in competing.values() {
        let (min, max) = corrections(readings);
        outcomes.readings += readings.len() as u64;
        outcomes.accepted += 1;
        outcomes.corrected_min += min;
        outcomes.corrected_max += max;
    }
    outcomes
}

/// How many of the readings that compete correct, at least and at most.
fn corrections(readings: &[&Reading]) -> (u64, u64) {
    let mut partitions: BTreeMap<i32, Vec<&Reading>> = BTreeMap::new();
    for reading in readings {
        partitions.entry(reading.position.1).or_default().push(reading);
    }
    let mut partitions: Vec<Vec<&Reading>> = partitions.into_values().collect();
    partitions.iter_mut().for_each(|readings| readings.sort_by_key(|reading| reading.position.2));
    // By how many were read of each partition: what counts is then the one with the greatest position of these, however
    // they were mixed. Each step reads one more, so what is reached in a step is reached by all ways there are.
    let mut reached = BTreeMap::from([(vec![0; partitions.len()], (0, 0))]);
    for _ in 0..readings.len() {
        let mut next: BTreeMap<Vec<usize>, (u64, u64)> = BTreeMap::new();
        for (read, (min, max)) in reached {
            let known = partitions.iter().zip(&read).flat_map(|(readings, count)| &readings[..*count]);
            let known = known.max_by_key(|reading| reading.position);
            for (partition, readings) in partitions.iter().enumerate() {
                let Some(reading) = readings.get(read[partition]) else { continue };
                let corrects = known.is_some_and(|known| reading.position > known.position && !same(reading, known));
                let mut further = read.clone();
                further[partition] += 1;
                let (min, max) = (min + u64::from(corrects), max + u64::from(corrects));
                let bounds = next.entry(further).or_insert((min, max));
                *bounds = (bounds.0.min(min), bounds.1.max(max));
            }
        }
        reached = next;
    }
    reached.into_values().next().unwrap_or_default()
}

fn same(a: &Reading, b: &Reading) -> bool {
    a.value == b.value && a.unit == b.unit && a.quality == b.quality
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readings of one interval: their positions and values.
    fn bounds(readings: &[((i64, i32, i64), f64)]) -> (u64, u64) {
        let reading = |((timestamp, partition, offset), value): &((i64, i32, i64), f64)| Reading {
            position: (*timestamp, *partition, *offset),
            series: "a".into(),
            at_ms: 0,
            value: *value,
            unit: "kWh".into(),
            quality: "measured".into(),
        };
        let readings: Vec<Reading> = readings.iter().map(reading).collect();
        let found = of(readings.iter().map(|reading| (0, reading)));
        assert_eq!((found.accepted, found.readings), (1, readings.len() as u64));
        (found.corrected_min, found.corrected_max)
    }

    #[test]
    fn within_a_partition_the_order_of_offsets_says_what_corrects() {
        // The same again; another value; one that is older than that; and the first value, later.
        let all = [((1, 0, 0), 1.0), ((2, 0, 1), 1.0), ((9, 0, 2), 2.0), ((5, 0, 3), 3.0), ((9, 0, 4), 1.0)];
        for (count, corrections) in [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2)] {
            assert_eq!(bounds(&all[..count]), (corrections, corrections), "{count}");
        }
        let mut backwards = all;
        backwards.reverse();
        assert_eq!(bounds(&backwards), (2, 2), "whatever the order in which they are given");
    }

    #[test]
    fn between_partitions_the_order_may_be_any() {
        assert_eq!(bounds(&[((1, 0, 0), 1.0), ((2, 1, 0), 2.0)]), (0, 1));
        assert_eq!(bounds(&[((1, 0, 0), 1.0), ((2, 1, 0), 1.0)]), (0, 0));
        // What counts in the end comes after another one in its partition.
        assert_eq!(bounds(&[((1, 0, 0), 1.0), ((3, 0, 1), 3.0), ((2, 1, 0), 2.0)]), (1, 2));
        assert_eq!(bounds(&[((1, 0, 0), 1.0), ((2, 1, 0), 2.0), ((3, 2, 0), 3.0)]), (0, 2));
    }

    #[test]
    fn what_waits_may_be_a_duplicate_instead_of_a_correction() {
        let outcomes = Outcomes { readings: 9, accepted: 4, corrected_min: 2, corrected_max: 3 };
        assert_eq!(outcomes.having_waited(), Outcomes { corrected_min: 0, ..outcomes });
    }

    #[test]
    fn what_does_not_compete_is_accepted() {
        assert_eq!(of(std::iter::empty::<(u8, &Reading)>()), Outcomes::default());
    }
}
