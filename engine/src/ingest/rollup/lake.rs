//! Rows that are no longer in memory, or never were.

use std::sync::Arc;

use meterline_schemas::{Frequency, Micros};
use serde::{Deserialize, Serialize};

use super::super::rows::Content;
use super::sums::Sums;

/// A part of a series that is to be looked up: its intervals that start in `[from, to)`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Want {
    /// Identifier of the series.
    pub series: Arc<str>,
    /// First start.
    pub from: Micros,
    /// End of the starts.
    pub to: Micros,
}

/// An interval of a series as the table has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeriesRow {
    /// Identifier of the series.
    pub series: Arc<str>,
    /// Start of the interval.
    pub start: Micros,
    /// End of the interval.
    pub end: Micros,
    /// Its frequency.
    pub frequency: Frequency,
    /// The rest.
    pub content: Content,
}

/// An interval of a roll-up series as the table has it; one without a value is not there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupRow {
    /// Identifier of the series.
    pub series: Arc<str>,
    /// Start of the interval.
    pub start: Micros,
    /// End of the interval.
    pub end: Micros,
    /// Its value.
    pub value: f64,
    /// Its columns `present`, `measured`, `estimated` and `substituted`; the amount is told by the value.
    pub sums: Sums,
}

/// Looks up rows at the end of an epoch, as they were before it: everything that earlier epochs gave is in the table by
/// then. It must not wait, because the workers of a dataflow need each other.
pub trait Recall<Row> {
    /// Asks for parts of series; one question at a time.
    fn ask(&mut self, epoch: u64, wants: Vec<Want>);

    /// The answer to what was asked; `None` while it is not there yet.
    fn answer(&mut self, epoch: u64) -> Option<Vec<Row>>;
}
