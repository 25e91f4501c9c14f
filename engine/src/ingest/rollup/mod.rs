//! Roll-ups: series that are the sums of others, by a hierarchy of labels. Pure but for the dataflow itself.
//!
//! **Who belongs where.** A series has labels at every instant: what `[labels.*]` says of it from the greatest
//! `valid_from` at or before that instant (of equal ones the greater [`Position`] counts), label by
//! label; else what the reading says that its interval comes from, and between two intervals what the one before says.
//! An interval counts for the groups that the labels name at its start. A label that changes the past moves intervals
//! from one group to another, and both are corrected.
//!
//! **Which intervals.** A group has a series for each length. One that is listed in `frequencies` takes all intervals
//! that lie within one of its own, of whatever length; what lies within none (a longer one, or a day of another zone)
//! cannot be split. One that is there because of `native` takes the intervals of series of that frequency alone.
//!
//! **Completeness.** Time that is present over time that is expected, in seconds summed over the series of the group. A
//! series is expected from the start of the first interval that it ever had, at every instant at which it belongs to
//! the group; it ends by labels that name another group or none. For a `native` length that a series is expected in, it
//! must have that frequency: from its first interval of that length to its first one of another, later length. What
//! cannot be split is expected and not present.
//!
//! All of it is linear: what a series adds to a group is a sum of its intervals and of the time in which it belongs, so
//! every change is a difference, and their order does not matter. [`sums`] is that group. Numbers are fixed-point (10⁻⁶
//! of the unit, whole seconds), so sums are exact and the same in any order.
//!
//! In the order of the flow: [`plan`] (the configuration, resolved) · [`changes`] (what shards tell) · [`history`]
//! (labels of one series over time; [`sets`]: equal ones are kept once) · [`member`] (one series; [`saved`] is what a
//! commit remembers of it) · [`members`] (those of one worker) · [`group`] (one group) · [`parents`] (those of one
//! worker) · [`dataflow`] ([`restore`] is what it starts with). [`weight`] and [`taken`] are about memory: what a
//! reading takes on its way, and what stays.
//! [`lake`] asks for rows that are no longer in memory, [`ask`] brings the question to the coordinator, and [`look_up`]
//! reads them. [`coordinate`] makes what an epoch gives a part of its commit, and [`mod@series`] keeps the series that
//! are made.

pub mod alone;
pub mod ask;
pub mod changes;
pub mod coordinate;
pub mod dataflow;
pub mod group;
pub mod history;
pub mod lake;
pub mod look_up;
pub mod member;
pub mod members;
pub mod parents;
pub mod plan;
pub mod restore;
pub mod saved;
pub mod series;
pub mod sets;
pub mod steps;
pub mod sums;
pub mod taken;
pub mod weight;

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use meterline_connectors::formats::LabelRecord;
use meterline_schemas::labels::LabelValues;
use meterline_schemas::reading::Position;
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};
use serde::{Deserialize, Serialize};

use super::rows::Content;

/// In place of a Kafka partition in the positions of roll-up rows.
pub const ROLLUP_PARTITION: i32 = -2;

/// A change of one interval of one series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IntervalChange {
    /// Its identifier.
    pub series: Arc<str>,
    /// Number of its feed.
    pub feed: u16,
    /// Start of the interval.
    pub start: Micros,
    /// End of the interval.
    pub end: Micros,
    /// Its native frequency.
    pub frequency: Frequency,
    /// The unit that its values are stored in.
    pub unit: Unit,
    /// What was there before; `None` or a count of 0: nothing.
    pub old: Option<Content>,
    /// What is there now; the same.
    pub new: Option<Content>,
    /// Labels of the reading that `new` comes from, in the order of the feed's `labels`; `None` where its feed has
    /// none, and where they are as before.
    pub labels: Option<LabelValues>,
}

/// What a source of labels says of one series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelChange {
    /// Number of the source: its place among `[labels.*]`.
    pub source: u16,
    /// Identifier of the series.
    pub series: Arc<str>,
    /// From here on …
    pub valid_from: Micros,
    /// … these hold, in the order of the source's `labels`.
    pub labels: LabelValues,
    /// Of two for the same instant the one with the greater position counts.
    pub position: Position,
}

impl LabelChange {
    /// What a record of the source with this number says.
    pub fn new(source: u16, record: LabelRecord, position: Position) -> LabelChange {
        let LabelRecord { series, valid_from, labels } = record;
        LabelChange { source, series: series.into(), valid_from, labels, position }
    }

    /// What a file says that was changed last at this Unix millisecond: a newer file counts, and in it the later row.
    pub fn of_file(source: u16, records: Vec<LabelRecord>, modified_ms: i64) -> impl Iterator<Item = LabelChange> {
        (0..).zip(records).map(move |(row, record)| {
            let position = Position { timestamp_ms: modified_ms, partition: Position::BACKFILL_PARTITION, offset: row };
            LabelChange::new(source, record, position)
        })
    }
}

/// What the roll-ups are computed from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Input {
    /// An interval changed.
    Interval(IntervalChange),
    /// Labels were said.
    Label(LabelChange),
}

impl Input {
    /// The series that it is about.
    pub fn series(&self) -> &Arc<str> {
        match self {
            Input::Interval(change) => &change.series,
            Input::Label(change) => &change.series,
        }
    }

    /// Unix milliseconds at which it was there at the latest.
    pub fn known_at_ms(&self) -> Option<i64> {
        match self {
            Input::Interval(change) => change.new.and_then(|content| content.position.known_at_ms()),
            Input::Label(change) => change.position.known_at_ms(),
        }
    }
}
