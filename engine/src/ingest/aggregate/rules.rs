//! How the readings of a feed become intervals.

use jiff::tz::TimeZone;
use meterline_schemas::config::{FeedConfig, Label};
use meterline_schemas::reading::ValueKind;
use meterline_schemas::time::{Span, format_micros};
use meterline_schemas::{Frequency, Micros};

use super::super::series::PendingReading;

/// Reason of a reading from a clock that runs far ahead. One such reading would close intervals for all other meters.
pub const TIME_AHEAD: &str = "time_ahead";

/// What the configuration of a feed says of its readings.
#[derive(Debug, Clone)]
pub struct Rules {
    /// What a value means.
    pub kind: ValueKind,
    /// Which end of its interval a stamp marks.
    pub label: Label,
    /// Zone of calendar days, weeks and months.
    pub zone: TimeZone,
    /// Declared native frequency.
    pub frequency: Option<Frequency>,
    /// How far a stamp may lie after its record's.
    pub max_ahead: Micros,
    /// Intervals a series that are remembered at most.
    pub remembered: usize,
}

impl Rules {
    /// The rules of a feed. Fails only if the feed's zone is unknown, which a checked configuration excludes.
    pub fn new(feed: &FeedConfig, remembered: usize) -> Result<Rules, jiff::Error> {
        let zone = TimeZone::get(&feed.zone)?;
        Ok(Rules {
            kind: feed.kind,
            label: feed.label,
            zone,
            frequency: feed.frequency,
            max_ahead: feed.max_ahead.micros(),
            remembered: remembered.max(2),
        })
    }

    /// What is wrong with a reading whose stamp is too far ahead of its record.
    pub fn ahead(&self, series: &str, reading: &PendingReading) -> Option<String> {
        let known_at = reading.position.known_at_ms()?.saturating_mul(1_000);
        let ahead = reading.at.saturating_sub(known_at);
        (ahead > self.max_ahead).then(|| {
            format!(
                "the reading of series `{series}` at {} is {} ahead of its record: the meter's clock is wrong, or \
                 `max_ahead` of the feed is too short",
                format_micros(reading.at),
                Span(ahead)
            )
        })
    }

    // Start of the interval that a sample at `at` is in.
    pub(super) fn slot(&self, frequency: Frequency, at: Micros) -> Micros {
        match self.label {
            Label::End => frequency.floor(at - 1, &self.zone),
            Label::Begin => frequency.floor(at, &self.zone),
        }
    }

    // The first stamp of samples in the interval that starts at `start`.
    pub(super) fn first_of(&self, start: Micros) -> Micros {
        match self.label {
            Label::End => start + 1,
            Label::Begin => start,
        }
    }

    /// Whether a sample at `at` is in an interval that starts at `start` or later.
    pub(super) fn begins_by(&self, at: Micros, start: Micros) -> bool {
        match self.label {
            Label::End => at > start,
            Label::Begin => at >= start,
        }
    }
}
