//! How the readings of a feed become intervals.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use meterline_schemas::config::{FeedConfig, Label};
use meterline_schemas::reading::ValueKind;
use meterline_schemas::time::{SECOND, Span, format_micros};
use meterline_schemas::{Frequency, Micros};

use super::super::eras::Slot;
use super::super::series::PendingReading;

/// Reason of a reading from a clock that runs far ahead. One such reading would close intervals for all other meters.
pub const TIME_AHEAD: &str = "time_ahead";

/// Reason of a reading that is far from the boundaries of its feed's declared frequency. It would overwrite another one.
pub const OFF_GRID: &str = "off_grid";
/// Sixteenths of an interval by which a reading may be stamped beside its boundary: clocks differ, but a reading each
/// third of an interval is three readings.
const BESIDE: i64 = 5;

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

    /// What is wrong with a reading of kind `interval`, stamped `at`, of a feed that declares another frequency than it
    /// has. Days, weeks and months have no length that a part could be taken of: where in a day a meter is read is its
    /// own business. A frequency that is detected follows its readings.
    pub fn off_grid(&self, series: &str, slot: &Slot, at: Micros) -> Option<String> {
        let boundary = match self.label {
            Label::End => slot.end,
            Label::Begin => slot.start,
        };
        // Most readings.
        if at == boundary || !slot.is_present {
            return None;
        }
        let Some(declared @ Frequency::Seconds(_)) = self.frequency else { return None };
        let length = slot.end - slot.start;
        // A clock of the zone may be half an hour beside UTC, and its meters report when it strikes.
        let offset = Timestamp::from_microsecond(at).map_or(0, |at| self.zone.to_offset(at).seconds());
        let local = (at + Micros::from(offset) * SECOND).rem_euclid(length);
        let beside = (at - boundary).abs().min(local).min(length - local);
        (beside * 16 > BESIDE * length).then(|| {
            format!(
                "the reading of series `{series}` at {} is {} beside {}, the nearest boundary at the frequency {declared} that \
                 its feed declares: declare the frequency at which it reports, or none, so that it is detected",
                format_micros(at),
                Span(beside),
                format_micros(boundary)
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

#[cfg(test)]
mod tests {
    use meterline_schemas::time::{HOUR, MINUTE};

    use super::*;

    fn rules(label: Label, frequency: Option<Frequency>) -> Rules {
        let max_ahead = Micros::MAX;
        Rules { kind: ValueKind::Interval, label, zone: TimeZone::UTC, frequency, max_ahead, remembered: 2 }
    }

    #[test]
    fn a_reading_each_third_of_a_declared_interval_is_off_its_grid() {
        let slot = |start, end, is_present| Slot { frequency: Frequency::QUARTER_HOUR, start, end, is_present };
        for label in [Label::End, Label::Begin] {
            let boundary = if label == Label::End { HOUR } else { HOUR - 15 * MINUTE };
            let quarter = slot(HOUR - 15 * MINUTE, HOUR, true);
            let declared = rules(label, Some(Frequency::QUARTER_HOUR));
            for (beside, is_off) in [(0, false), (4, false), (-4, false), (5, true), (-5, true), (7, true)] {
                let found = declared.off_grid("a", &quarter, boundary + beside * MINUTE);
                assert_eq!(found.is_some(), is_off, "{beside}");
                assert!(found.is_none_or(|detail| detail.contains("`a`") && detail.contains("PT15M")));
            }
            // Meters that report when the clocks of India strike the hour.
            let zone = TimeZone::get("Asia/Kolkata").unwrap();
            let of_zone = Rules { zone, ..rules(label, Some(Frequency::HOUR)) };
            let hour = Slot { frequency: Frequency::HOUR, start: 0, end: HOUR, is_present: true };
            let boundary = if label == Label::End { HOUR } else { 0 };
            assert!(of_zone.off_grid("a", &hour, boundary + 30 * MINUTE).is_none());
            assert!(of_zone.off_grid("a", &hour, boundary + 10 * MINUTE).is_none());
            assert!(rules(label, Some(Frequency::HOUR)).off_grid("a", &hour, boundary + 30 * MINUTE).is_some());
            // What is detected, or was before, has its own rules; and so have days.
            assert!(rules(label, None).off_grid("a", &quarter, boundary + 7 * MINUTE).is_none());
            assert!(declared.off_grid("a", &slot(0, HOUR, false), 30 * MINUTE).is_none());
            let day = Slot { frequency: Frequency::Day, start: 0, end: 24 * HOUR, is_present: true };
            assert!(rules(label, Some(Frequency::Day)).off_grid("a", &day, 9 * HOUR).is_none());
        }
    }
}
