//! The series of a shard that are not in memory, and the readings that wait for them.
//!
//! What is kept of such a series is its [route](super::route), which says where its state may be found, not that it is
//! there: two series may have the same one. A reading whose series is not in memory, but may be in the lake, waits until
//! the end of the epoch, when states are looked up.

use hashbrown::{HashSet, HashTable};
use meterline_schemas::Micros;

use super::Routed;

/// Routes of series that may be in the lake alone.
#[derive(Debug, Default)]
pub(super) struct Routes(HashTable<u64>);

impl Routes {
    /// A series has left memory.
    pub(super) fn add(&mut self, route: u64) {
        if !self.may_have(route) {
            self.0.insert_unique(route, route, |route| *route);
        }
    }

    /// Whether a series with this route may be in the lake.
    pub(super) fn may_have(&self, route: u64) -> bool {
        self.0.find(route, |known| *known == route).is_some()
    }

    /// Number of series, but for those whose routes are the same.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Bytes that they take.
    pub(super) fn bytes(&self) -> usize {
        self.0.allocation_size()
    }

    /// Bytes that they will take with one more.
    pub(super) fn bytes_with_another(&self) -> usize {
        let grows = self.0.len() == self.0.capacity();
        if grows { 2 * self.bytes() } else { self.bytes() }
    }
}

/// Readings of the running epoch whose series are to be looked up, each with the watermark that it met.
#[derive(Debug, Default)]
pub(super) struct Awaiting {
    readings: Vec<(Routed, Micros)>,
    routes: HashSet<u64>,
    in_order: bool,
}

impl Awaiting {
    /// Takes a reading.
    pub(super) fn push(&mut self, routed: Routed, watermark: Micros) {
        self.routes.insert(routed.route);
        self.readings.push((routed, watermark));
    }

    /// Number of readings.
    pub(super) fn len(&self) -> usize {
        self.readings.len()
    }

    /// Number of series, but for those whose routes are the same.
    pub(super) fn series(&self) -> usize {
        self.routes.len()
    }

    /// Takes the readings of up to so many series, as they came, once the epoch has ended; none where there are none.
    pub(super) fn next(&mut self, most: usize) -> Vec<(Routed, Micros)> {
        if !self.in_order {
            // The order in which the lake has them.
            self.readings.sort_by(|(a, _), (b, _)| (a.route, &a.series).cmp(&(b.route, &b.series)));
            self.in_order = true;
        }
        let (mut first, mut series) = (self.readings.len(), 0);
        while let Some(before) = first.checked_sub(1) {
            let same = self.readings.get(first).is_some_and(|(of, _)| of.series == self.readings[before].0.series);
            series += usize::from(!same);
            if series > most.max(1) {
                break;
            }
            first = before;
        }
        let next = self.readings.split_off(first);
        if self.readings.is_empty() {
            *self = Awaiting::default();
        }
        next
    }
}
