//! One reading, and the order that decides which of two readings for the same interval wins.

use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

use crate::time::Micros;
use crate::unit::Unit;

/// Where a reading came from. The greater position wins: it was written later.
///
/// The record's Kafka time stamp comes first, so that a series keeps its order when its topic gets more
/// partitions; partition and offset break ties. Backfilled readings carry [`Position::backfill`] and lose
/// against anything from Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The record's Kafka time stamp in milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// Kafka partition; -1 for backfill.
    pub partition: i32,
    /// Kafka offset; the row number for backfill.
    pub offset: i64,
}

/// Milliseconds by which readings of a backfill are put before all records of Kafka.
const BEFORE_KAFKA: i64 = 1 << 52;

impl Position {
    /// Partition number of readings that came from a file.
    pub const BACKFILL_PARTITION: i32 = -1;

    /// Before all others.
    pub const LEAST: Position = Position { timestamp_ms: i64::MIN, partition: i32::MIN, offset: i64::MIN };

    /// Position of row `row` of a backfill that began at `started_ms`: before every Kafka position, after
    /// every earlier backfill.
    pub const fn backfill(started_ms: i64, row: i64) -> Position {
        Position { timestamp_ms: started_ms - BEFORE_KAFKA, partition: Self::BACKFILL_PARTITION, offset: row }
    }

    /// Unix milliseconds at which the reading was there at the latest: the record's time stamp, or the start of the
    /// backfill. `None` for a record without a time stamp.
    pub const fn known_at_ms(&self) -> Option<i64> {
        match self.partition {
            Self::BACKFILL_PARTITION => Some(self.timestamp_ms + BEFORE_KAFKA),
            _ if self.timestamp_ms >= 0 => Some(self.timestamp_ms),
            _ => None,
        }
    }
}

/// How far a value can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// Read from the meter.
    #[default]
    Measured,
    /// Computed by the metering system.
    Estimated,
    /// Replaced by hand or by a rule.
    Substituted,
}

impl Quality {
    /// The name in tables and configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Quality::Measured => "measured",
            Quality::Estimated => "estimated",
            Quality::Substituted => "substituted",
        }
    }
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Quality {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Quality::Measured, Quality::Estimated, Quality::Substituted]
            .into_iter()
            .find(|q| q.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| format!("quality `{text}` is none of measured, estimated, substituted"))
    }
}

/// What a reading's value means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueKind {
    /// Energy in the interval, or mean power over it: one reading is one interval.
    #[default]
    Interval,
    /// Samples of an instantaneous value: an interval is their mean.
    Gauge,
    /// A cumulative register: an interval is the difference between its two ends.
    Counter,
}

/// One decoded reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Series identifier as the feed gives it.
    pub series: CompactString,
    /// The reading's own time stamp; [`crate::config::Label`] says which end of the interval it marks.
    pub at: Micros,
    /// The value in `unit`.
    pub value: f64,
    /// Unit of `value`.
    pub unit: Unit,
    /// How far the value can be trusted.
    pub quality: Quality,
    /// Where it came from.
    pub position: Position,
}
