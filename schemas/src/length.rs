//! Lengths of time as policies have them: a span, or a number of native intervals.

use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Micros;
use crate::frequency::Frequency;
use crate::time::Span;

/// A length of time, written as a [`Span`] (`15m`, `7d`, `P2D`) or in native intervals of the series (`96 intervals`).
///
/// The two differ where days do: of daily series `1 interval` is the local day, however many hours that has, and `1d`
/// is 24 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// So much time.
    Time(Span),
    /// So many native intervals.
    Intervals(u32),
}

/// Why a text is not a [`Length`].
#[derive(Debug, thiserror::Error, PartialEq)]
#[error(
    "`{0}` is not a length of time; write it like 15m, 1h30m, 7d or P2D, or in native intervals, like 96 intervals"
)]
pub struct LengthError(String);

impl Length {
    /// No time at all.
    pub const ZERO: Length = Length::Time(Span(0));

    /// Whether it is no time at all.
    pub fn is_zero(self) -> bool {
        matches!(self, Length::Time(Span(0)) | Length::Intervals(0))
    }

    /// Whole native intervals in it, at least 1.
    pub fn steps(self, frequency: Frequency) -> usize {
        let steps = match self {
            Length::Time(span) => span.micros() / frequency.nominal_micros(),
            Length::Intervals(n) => i64::from(n),
        };
        usize::try_from(steps).unwrap_or(1).max(1)
    }

    /// About how long it is: of calendar intervals, their mean.
    pub fn nominal(self, frequency: Frequency) -> Span {
        match self {
            Length::Time(span) => span,
            Length::Intervals(n) => Span(i64::from(n).saturating_mul(frequency.nominal_micros())),
        }
    }

    /// The instant this long after `from`.
    pub fn after(self, from: Micros, frequency: Frequency, zone: &TimeZone) -> Micros {
        match self {
            Length::Time(span) => from.saturating_add(span.micros()),
            Length::Intervals(n) => {
                let boundary = frequency.floor(from, zone);
                frequency.advance(boundary, i64::from(n), zone).saturating_add(from - boundary)
            }
        }
    }
}

impl FromStr for Length {
    type Err = LengthError;

    fn from_str(text: &str) -> Result<Length, LengthError> {
        let refuse = || LengthError(text.to_owned());
        match text.trim().strip_suffix("intervals").or_else(|| text.trim().strip_suffix("interval")) {
            Some(number) => number.trim().parse().map(Length::Intervals).map_err(|_| refuse()),
            None => text.parse().map(Length::Time).map_err(|_| refuse()),
        }
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Length::Time(span) => span.fmt(f),
            Length::Intervals(1) => f.write_str("1 interval"),
            Length::Intervals(n) => write!(f, "{n} intervals"),
        }
    }
}

impl Serialize for Length {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{DAY, HOUR, MINUTE};

    #[test]
    fn lengths_are_read_as_they_are_written() {
        for (text, length) in [
            ("96 intervals", Length::Intervals(96)),
            (" 1 interval ", Length::Intervals(1)),
            ("15m", Length::Time(Span(15 * MINUTE))),
            ("P2D", Length::Time(Span(2 * DAY))),
        ] {
            assert_eq!(text.parse(), Ok(length), "{text}");
            assert_eq!(length.to_string().parse(), Ok(length), "{text}");
        }
        for text in ["", "intervals", "-3 intervals", "1.5 intervals", "3 days or so", "1 month"] {
            let error = text.parse::<Length>().unwrap_err().to_string();
            assert!(error.contains("96 intervals"), "{error}");
        }
    }

    #[test]
    fn an_interval_of_a_day_is_as_long_as_the_day() {
        let zone = TimeZone::get("Europe/Lisbon").unwrap();
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_microsecond();
        let after = |length: Length, from| length.after(from, Frequency::Day, &zone);
        // The clock is put forward on 29 March 2026 and back on 25 October.
        let (spring, autumn) = (at("2026-03-29T00:00:00Z"), at("2026-10-24T23:00:00Z"));
        assert_eq!(after(Length::Intervals(1), spring) - spring, 23 * HOUR);
        assert_eq!(after(Length::Intervals(1), autumn) - autumn, 25 * HOUR);
        assert_eq!(after(Length::Time(Span(DAY)), spring) - spring, 24 * HOUR);
        // From within an interval it ends as far within another.
        assert_eq!(after(Length::Intervals(2), spring + MINUTE) - spring, 47 * HOUR + MINUTE);
        assert_eq!(
            (Length::Intervals(96).steps(Frequency::HOUR), "1d".parse::<Length>().unwrap().steps(Frequency::HOUR)),
            (96, 24)
        );
    }
}
