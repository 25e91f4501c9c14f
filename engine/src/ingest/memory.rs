//! The last intervals of one series, in memory only: they tell a duplicate from a correction, and which row of the
//! running epoch a correction overtakes or may still change. What is forgotten is in the lake.

use std::collections::VecDeque;

use meterline_schemas::Micros;
use meterline_schemas::reading::{Position, Quality};

use super::rows::Content;

/// One interval as it was last written, in 48 bytes: there are millions.
#[derive(Debug, Clone, Copy)]
pub struct Remembered {
    /// Start of the interval.
    pub start: Micros,
    value: f64,
    timestamp_ms: i64,
    offset: i64,
    partition: i32,
    // The two low bits are the quality.
    count_and_quality: u32,
    epoch: u32,
    row: u32,
}

impl Remembered {
    /// Bytes of one.
    pub const BYTES: usize = size_of::<Remembered>();

    /// An interval whose row has the number `row` in `epoch`.
    pub fn new(start: Micros, content: &Content, epoch: u32, row: u32) -> Remembered {
        let mut remembered = Remembered {
            start,
            value: 0.0,
            timestamp_ms: 0,
            offset: 0,
            partition: 0,
            count_and_quality: 0,
            epoch,
            row,
        };
        remembered.set(content, epoch, row);
        remembered
    }

    /// What was written last.
    pub fn content(&self) -> Content {
        let quality = match self.count_and_quality & 3 {
            0 => Quality::Measured,
            1 => Quality::Estimated,
            _ => Quality::Substituted,
        };
        let Remembered { timestamp_ms, partition, offset, .. } = *self;
        let position = Position { timestamp_ms, partition, offset };
        Content { value: self.value, count: (self.count_and_quality >> 2) as i32, quality, position }
    }

    /// Its position alone.
    pub fn position(&self) -> Position {
        Position { timestamp_ms: self.timestamp_ms, partition: self.partition, offset: self.offset }
    }

    /// The number of its row, if that belongs to `epoch`.
    pub fn row_in(&self, epoch: u32) -> Option<u32> {
        (self.epoch == epoch).then_some(self.row)
    }

    /// Something else was written.
    pub fn set(&mut self, content: &Content, epoch: u32, row: u32) {
        let quality = match content.quality {
            Quality::Measured => 0,
            Quality::Estimated => 1,
            Quality::Substituted => 2,
        };
        self.value = content.value;
        self.timestamp_ms = content.position.timestamp_ms;
        self.partition = content.position.partition;
        self.offset = content.position.offset;
        self.count_and_quality = (content.count.max(0) as u32) << 2 | quality;
        (self.epoch, self.row) = (epoch, row);
    }
}

/// The last intervals by start, at most a given number.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    intervals: VecDeque<Remembered>,
}

impl Memory {
    /// The interval that starts at `start`, if it is remembered.
    pub fn find(&mut self, start: Micros) -> Option<&mut Remembered> {
        // Most readings are newer than everything.
        if self.intervals.back().is_none_or(|last| last.start < start) {
            return None;
        }
        let index = self.intervals.binary_search_by_key(&start, |known| known.start).ok()?;
        self.intervals.get_mut(index)
    }

    /// Start of the oldest interval that is remembered.
    pub fn oldest(&self) -> Option<Micros> {
        self.intervals.front().map(|oldest| oldest.start)
    }

    /// Number of intervals that are remembered.
    pub fn count(&self) -> usize {
        self.intervals.len()
    }

    /// Start of the last interval that is remembered.
    pub fn last(&self) -> Option<Micros> {
        self.intervals.back().map(|last| last.start)
    }

    /// Those that start at or after `from`.
    pub fn from(&self, from: Micros) -> impl ExactSizeIterator<Item = &Remembered> {
        let first = self.intervals.partition_point(|known| known.start < from);
        self.intervals.range(first..)
    }

    /// Forgets those that start at or after `from`.
    pub fn forget_from(&mut self, from: Micros) {
        let kept = self.intervals.partition_point(|known| known.start < from);
        self.intervals.truncate(kept);
    }

    /// Forgets the interval that starts at `start`.
    pub fn forget(&mut self, start: Micros) {
        if let Ok(index) = self.intervals.binary_search_by_key(&start, |known| known.start) {
            self.intervals.remove(index);
        }
    }

    /// Takes an interval that was looked up, beside the others. One that is remembered already is newer, unless
    /// `replace` and this one has no smaller position.
    pub fn recall(&mut self, interval: Remembered, replace: bool) {
        match self.intervals.binary_search_by_key(&interval.start, |known| known.start) {
            Ok(index) if replace && interval.position() >= self.intervals[index].position() => {
                self.intervals[index] = interval;
            }
            Ok(_) => {}
            Err(index) => self.intervals.insert(index, interval),
        }
    }

    /// Forgets the oldest intervals until there are `length_max` at most.
    pub fn trim(&mut self, length_max: usize) {
        let surplus = self.intervals.len().saturating_sub(length_max);
        if surplus > 0 {
            self.intervals.drain(..surplus);
            self.intervals.shrink_to(length_max);
        }
    }

    /// Remembers an interval that is not remembered yet, in place of the oldest ones where there are `length_max` or
    /// more.
    pub fn insert(&mut self, interval: Remembered, length_max: usize) {
        if self.intervals.len() >= length_max {
            match self.intervals.front() {
                Some(oldest) if oldest.start < interval.start => {
                    let surplus = self.intervals.len() + 1 - length_max;
                    self.intervals.drain(..surplus);
                    // There are many more series than there were: each may keep less.
                    if surplus > 1 {
                        self.intervals.shrink_to(length_max);
                    }
                }
                _ => return,
            }
        } else if self.intervals.len() == self.intervals.capacity() {
            let more = self.intervals.len().clamp(2, 32).min(length_max - self.intervals.len());
            self.intervals.reserve_exact(more);
        }
        match self.intervals.back() {
            Some(last) if last.start > interval.start => {
                let index = self.intervals.partition_point(|known| known.start < interval.start);
                self.intervals.insert(index, interval);
            }
            _ => self.intervals.push_back(interval),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(start: Micros) -> Remembered {
        let position = Position { timestamp_ms: 7, partition: 3, offset: start };
        let content = Content { value: 0.5, count: 4096, quality: Quality::Substituted, position };
        let remembered = Remembered::new(start, &content, 1, 2);
        assert_eq!((remembered.content(), remembered.position()), (content, position));
        assert_eq!((remembered.row_in(1), remembered.row_in(2)), (Some(2), None));
        remembered
    }

    #[test]
    fn the_oldest_intervals_are_forgotten_whatever_the_order_of_arrival() {
        let mut memory = Memory::default();
        for start in [5, 1, 9, 7, 3, 2, 8] {
            memory.insert(interval(start), 4);
        }
        let known: Vec<Micros> = (0..10).filter(|start| memory.find(*start).is_some()).collect();
        assert_eq!(known, [5, 7, 8, 9]);
        // Fewer may be kept from now on.
        memory.insert(interval(10), 2);
        let known: Vec<Micros> = (0..20).filter(|start| memory.find(*start).is_some()).collect();
        assert_eq!(known, [9, 10]);
    }
}
