//! The last intervals of one series, in memory only: they tell a duplicate from a correction, and which row of the
//! running epoch a correction may still change.

use std::collections::VecDeque;

use meterline_schemas::Micros;

use super::rows::Content;

/// One interval as it was last written.
#[derive(Debug, Clone, Copy)]
pub struct Remembered {
    /// Start of the interval.
    pub start: Micros,
    /// What was written.
    pub content: Content,
    /// Epoch of the row.
    pub epoch: u64,
    /// Number of the row in that epoch.
    pub row: u32,
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

    /// Remembers an interval that is not remembered yet, in place of the oldest one when there are `length_max`.
    pub fn insert(&mut self, interval: Remembered, length_max: usize) {
        if self.intervals.len() >= length_max {
            match self.intervals.front() {
                Some(oldest) if oldest.start < interval.start => {
                    self.intervals.pop_front();
                }
                _ => return,
            }
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
    use meterline_schemas::reading::{Position, Quality};

    fn interval(start: Micros) -> Remembered {
        let position = Position { timestamp_ms: 0, partition: 0, offset: start };
        let content = Content { value: 0.0, count: 1, quality: Quality::Measured, position };
        Remembered { start, content, epoch: 0, row: 0 }
    }

    #[test]
    fn the_oldest_intervals_are_forgotten_whatever_the_order_of_arrival() {
        let mut memory = Memory::default();
        for start in [5, 1, 9, 7, 3, 2, 8] {
            memory.insert(interval(start), 4);
        }
        let known: Vec<Micros> = (0..10).filter(|start| memory.find(*start).is_some()).collect();
        assert_eq!(known, [5, 7, 8, 9]);
    }
}
