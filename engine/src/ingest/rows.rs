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

/// Rows of one epoch and shard.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Rows(Vec<Row>);

impl Rows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a row; the result is its number in this epoch.
    pub fn push(&mut self, row: Row) -> u32 {
        let number = self.0.len() as u32;
        self.0.push(row);
        number
    }

    /// Replaces the content of a row of this epoch.
    pub fn revise(&mut self, number: u32, content: Content) {
        self.0[number as usize].content = content;
    }

    /// One row, by its number in this epoch.
    pub fn get(&self, number: usize) -> &Row {
        &self.0[number]
    }

    /// The rows one by one.
    pub fn iter(&self) -> impl Iterator<Item = &Row> + '_ {
        self.0.iter()
    }
}
