//! Native frequencies: the length of the intervals in which a series is metered.
//!
//! Sub-daily frequencies are fixed lengths on the UTC grid, so a local day has 92, 96 or 100 quarter hours.
//! Days, weeks (from Monday) and months are calendar units of the feed's time zone.

use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::time::{DAY, HOUR, Micros, SECOND};

/// The native interval length of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frequency {
    /// A fixed number of seconds that divides a day, aligned to midnight UTC.
    Seconds(u32),
    /// A calendar day.
    Day,
    /// A calendar week, from Monday.
    Week,
    /// A calendar month.
    Month,
}

/// Why a text is not a [`Frequency`].
#[derive(Debug, thiserror::Error, PartialEq)]
#[error(
    "`{0}` is not a frequency; use ISO 8601: PT1M, PT5M, PT10M, PT15M, PT30M, PT1H, … (a length that divides a day), P1D, P1W or P1M"
)]
pub struct FrequencyError(String);

/// Frequencies that detection considers, finest first.
pub const STANDARD: [Frequency; 24] = [
    Frequency::Seconds(1),
    Frequency::Seconds(5),
    Frequency::Seconds(10),
    Frequency::Seconds(15),
    Frequency::Seconds(20),
    Frequency::Seconds(30),
    Frequency::Seconds(60),
    Frequency::Seconds(120),
    Frequency::Seconds(180),
    Frequency::Seconds(300),
    Frequency::Seconds(600),
    Frequency::Seconds(900),
    Frequency::Seconds(1200),
    Frequency::Seconds(1800),
    Frequency::Seconds(3600),
    Frequency::Seconds(7200),
    Frequency::Seconds(10800),
    Frequency::Seconds(14400),
    Frequency::Seconds(21600),
    Frequency::Seconds(28800),
    Frequency::Seconds(43200),
    Frequency::Day,
    Frequency::Week,
    Frequency::Month,
];

impl Frequency {
    /// Fifteen minutes, the common metering period.
    pub const QUARTER_HOUR: Frequency = Frequency::Seconds(900);
    /// One hour.
    pub const HOUR: Frequency = Frequency::Seconds(3600);

    /// Length in microseconds; for months, 30.436875 days.
    pub const fn nominal_micros(self) -> Micros {
        match self {
            Frequency::Seconds(s) => s as Micros * SECOND,
            Frequency::Day => DAY,
            Frequency::Week => 7 * DAY,
            Frequency::Month => 2_629_746 * SECOND,
        }
    }

    /// Intervals in one day, at least one.
    pub const fn per_day(self) -> usize {
        let n = DAY / self.nominal_micros();
        if n < 1 { 1 } else { n as usize }
    }

    /// The shortest season in intervals: a day for sub-daily data, a week for days, a year for weeks and months.
    pub const fn season(self) -> usize {
        match self {
            Frequency::Seconds(_) => self.per_day(),
            Frequency::Day => 7,
            Frequency::Week => 52,
            Frequency::Month => 12,
        }
    }

    /// Start of the interval that holds `at`: the greatest boundary that is not after it.
    pub fn floor(self, at: Micros, zone: &TimeZone) -> Micros {
        match self {
            Frequency::Seconds(_) => {
                let length = self.nominal_micros();
                at.div_euclid(length) * length
            }
            _ => self.floor_calendar(at, zone).unwrap_or_else(|| {
                let length = self.nominal_micros();
                at.div_euclid(length) * length
            }),
        }
    }

    // `None` only outside the years -9999 to 9999, where a plain grid is as good as any.
    fn floor_calendar(self, at: Micros, zone: &TimeZone) -> Option<Micros> {
        let local = Timestamp::from_microsecond(at).ok()?.to_zoned(zone.clone());
        let day = local.start_of_day().ok()?;
        let start = match self {
            Frequency::Seconds(_) | Frequency::Day => day,
            Frequency::Week => {
                let back = i64::from(day.weekday().to_monday_zero_offset());
                day.checked_sub(back.days()).ok()?.start_of_day().ok()?
            }
            Frequency::Month => day.first_of_month().ok()?.start_of_day().ok()?,
        };
        Some(start.timestamp().as_microsecond())
    }

    /// The boundary `steps` intervals after the boundary `start` (before it, when negative).
    pub fn advance(self, start: Micros, steps: i64, zone: &TimeZone) -> Micros {
        let plain = || start.saturating_add(steps.saturating_mul(self.nominal_micros()));
        match self {
            Frequency::Seconds(_) => plain(),
            _ => self.advance_calendar(start, steps, zone).unwrap_or_else(plain),
        }
    }

    fn advance_calendar(self, start: Micros, steps: i64, zone: &TimeZone) -> Option<Micros> {
        let local = Timestamp::from_microsecond(start).ok()?.to_zoned(zone.clone());
        let span = jiff::Span::new();
        let span = match self {
            Frequency::Seconds(_) | Frequency::Day => span.try_days(steps),
            Frequency::Week => span.try_weeks(steps),
            Frequency::Month => span.try_months(steps),
        };
        let moved = local.checked_add(span.ok()?).ok()?.start_of_day().ok()?;
        Some(moved.timestamp().as_microsecond())
    }

    /// The boundary nearest to `at`: forgives a meter clock that is off by less than half an interval.
    pub fn round(self, at: Micros, zone: &TimeZone) -> Micros {
        let below = self.floor(at, zone);
        let above = self.advance(below, 1, zone);
        if at - below < above - at { below } else { above }
    }

    /// The frequency whose intervals can have this length: a frequency of seconds has one length, twelve hours at most;
    /// a calendar day or week has an hour or two more or less, a month 28 days or more.
    pub fn of_length(length: Micros) -> Frequency {
        match length {
            _ if length <= 12 * HOUR => Frequency::Seconds(u32::try_from(length.max(SECOND) / SECOND).unwrap_or(1)),
            _ if length < 4 * DAY => Frequency::Day,
            _ if length < 20 * DAY => Frequency::Week,
            _ => Frequency::Month,
        }
    }

    /// Whole intervals between two boundaries.
    pub fn steps_between(self, from: Micros, to: Micros, zone: &TimeZone) -> i64 {
        match self {
            Frequency::Month => self.months_between(from, to, zone).unwrap_or((to - from) / self.nominal_micros()),
            // A local day may have 23 or 25 hours; boundaries are never further off than that.
            Frequency::Day | Frequency::Week => {
                let length = self.nominal_micros();
                (to - from + (to - from).signum() * 2 * HOUR) / length
            }
            Frequency::Seconds(_) => (to - from) / self.nominal_micros(),
        }
    }

    fn months_between(self, from: Micros, to: Micros, zone: &TimeZone) -> Option<i64> {
        let month = |at| {
            let z = Timestamp::from_microsecond(at).ok()?.to_zoned(zone.clone());
            Some(i64::from(z.year()) * 12 + i64::from(z.month()))
        };
        Some(month(to)? - month(from)?)
    }
}

impl fmt::Display for Frequency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Frequency::Seconds(s) if s % 3600 == 0 => write!(f, "PT{}H", s / 3600),
            Frequency::Seconds(s) if s % 60 == 0 => write!(f, "PT{}M", s / 60),
            Frequency::Seconds(s) => write!(f, "PT{s}S"),
            Frequency::Day => f.write_str("P1D"),
            Frequency::Week => f.write_str("P1W"),
            Frequency::Month => f.write_str("P1M"),
        }
    }
}

impl FromStr for Frequency {
    type Err = FrequencyError;

    fn from_str(text: &str) -> Result<Self, FrequencyError> {
        match text {
            "P1D" | "PT24H" => return Ok(Frequency::Day),
            "P1W" | "P7D" => return Ok(Frequency::Week),
            "P1M" => return Ok(Frequency::Month),
            _ => {}
        }
        let refuse = || FrequencyError(text.to_owned());
        if !text.starts_with("PT") {
            return Err(refuse());
        }
        let span: crate::time::Span = text.parse().map_err(|_| refuse())?;
        let micros = span.micros();
        if micros < SECOND || micros % SECOND != 0 || DAY % micros != 0 || micros >= DAY {
            return Err(refuse());
        }
        u32::try_from(micros / SECOND).map(Frequency::Seconds).map_err(|_| refuse())
    }
}

impl Serialize for Frequency {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Frequency {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Micros {
        text.parse::<Timestamp>().unwrap().as_microsecond()
    }

    #[test]
    fn iso_text_round_trips() {
        for text in ["PT1M", "PT15M", "PT30M", "PT1H", "PT10S", "P1D", "P1W", "P1M"] {
            assert_eq!(text.parse::<Frequency>().unwrap().to_string(), text);
        }
        for text in ["", "15m", "PT7M", "PT0S", "P2D", "PT25H"] {
            assert!(text.parse::<Frequency>().is_err(), "{text}");
        }
    }

    #[test]
    fn calendar_boundaries_follow_the_zone() {
        let lisbon = TimeZone::get("Europe/Berlin").unwrap();
        // The day on which the clocks go forward has 23 hours.
        let start = Frequency::Day.floor(at("2024-03-31T12:00:00Z"), &lisbon);
        assert_eq!(start, at("2024-03-30T23:00:00Z"));
        assert_eq!(Frequency::Day.advance(start, 1, &lisbon), at("2024-03-31T22:00:00Z"));
        assert_eq!(Frequency::Day.steps_between(start, at("2024-04-06T22:00:00Z"), &lisbon), 7);
        assert_eq!(Frequency::Week.floor(at("2024-04-04T00:00:00Z"), &lisbon), at("2024-03-31T22:00:00Z"));
        assert_eq!(Frequency::Month.advance(at("2024-01-31T23:00:00Z"), 1, &lisbon), at("2024-02-29T23:00:00Z"));
    }

    #[test]
    fn an_interval_tells_its_frequency_also_where_the_clocks_change_by_two_hours() {
        let troll = TimeZone::get("Antarctica/Troll").unwrap();
        for frequency in STANDARD {
            let mut start = frequency.floor(at("2024-03-25T12:00:00Z"), &troll);
            for _ in 0..9 {
                let end = frequency.advance(start, 1, &troll);
                assert_eq!(Frequency::of_length(end - start), frequency, "{start} to {end}");
                start = end;
            }
        }
        assert_eq!(Frequency::of_length(22 * HOUR), Frequency::Day);
    }

    #[test]
    fn a_jittering_clock_rounds_to_its_boundary() {
        let utc = TimeZone::UTC;
        for stamp in ["2024-01-01T00:14:50Z", "2024-01-01T00:15:00Z", "2024-01-01T00:15:07Z"] {
            assert_eq!(Frequency::QUARTER_HOUR.round(at(stamp), &utc), at("2024-01-01T00:15:00Z"), "{stamp}");
        }
    }
}
