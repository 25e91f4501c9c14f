//! The rows of one epoch and shard, before they become files of the table `intervals`.

use meterline_schemas::Micros;
use meterline_schemas::reading::{Position, Quality};
use serde::{Deserialize, Serialize};

/// Where a row goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Layer {
    /// It is the first of its interval.
    Base,
    /// It may revise another one.
    Revision,
}

/// What a later reading can change in a row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// In the stored unit of the series.
    pub value: f64,
    /// Readings that it is made of.
    pub count: i32,
    /// The least trusted of them.
    pub quality: Quality,
    /// Of two rows of one interval the one with the greater position counts.
    pub position: Position,
}

/// One row; `series` is the number of the series in its shard.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Number of the series in its shard.
    pub series: u32,
    /// Start of the interval.
    pub start: Micros,
    /// End of the interval.
    pub end: Micros,
    /// Layer.
    pub layer: Layer,
    /// The rest.
    pub content: Content,
}

/// Rows of one piece.
const CHUNK: usize = 8192;

/// Rows of one epoch and shard. They lie in pieces: one that grows as a whole would be copied again and again, and be
/// new memory each time.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Rows {
    // All but the last one are full.
    chunks: Vec<Vec<Row>>,
}

impl Rows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Adds a row; the result is its number in this epoch.
    pub fn push(&mut self, row: Row) -> u32 {
        let number = self.len() as u32;
        match self.chunks.last_mut().filter(|last| last.len() < CHUNK) {
            Some(last) => last.push(row),
            // A few rows need no whole piece.
            None => {
                let mut chunk = Vec::with_capacity(if self.chunks.is_empty() { 0 } else { CHUNK });
                chunk.push(row);
                self.chunks.push(chunk);
            }
        }
        number
    }

    /// Replaces the content of a row of this epoch.
    pub fn revise(&mut self, number: u32, content: Content) {
        let number = number as usize;
        self.chunks[number / CHUNK][number % CHUNK].content = content;
    }

    /// One row, by its number in this epoch.
    pub fn get(&self, number: usize) -> &Row {
        &self.chunks[number / CHUNK][number % CHUNK]
    }

    /// The rows one by one.
    pub fn iter(&self) -> impl Iterator<Item = &Row> + '_ {
        self.chunks.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_numbers_over_all_pieces() {
        let position = Position { timestamp_ms: 0, partition: 0, offset: 0 };
        let content = |value: f64| Content { value, count: 1, quality: Quality::Measured, position };
        let mut rows = Rows::default();
        assert!(rows.is_empty());
        let all = 2 * CHUNK as u32 + 3;
        for number in 0..all {
            let row = Row { series: number, start: 0, end: 1, layer: Layer::Base, content: content(0.0) };
            assert_eq!(rows.push(row), number);
            rows.revise(number, content(f64::from(number)));
        }
        assert_eq!(rows.len(), all as usize);
        assert!(rows.iter().zip(0..all).all(|(row, number)| row.series == number));
        for number in [0, CHUNK as u32 - 1, CHUNK as u32, all - 1] {
            assert_eq!(rows.get(number as usize).content.value, f64::from(number));
        }
    }
}
