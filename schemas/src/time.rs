//! Instants and spans as integers, and how operators write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Microseconds since 1970-01-01T00:00:00Z.
pub type Micros = i64;

/// One second in [`Micros`].
pub const SECOND: Micros = 1_000_000;
/// One minute in [`Micros`].
pub const MINUTE: Micros = 60 * SECOND;
/// One hour in [`Micros`].
pub const HOUR: Micros = 60 * MINUTE;
/// Twenty-four hours in [`Micros`].
pub const DAY: Micros = 24 * HOUR;

/// RFC 3339 text of an instant, in UTC. Instants outside the years -9999 to 9999 print as the raw number.
pub fn format_micros(at: Micros) -> String {
    match jiff::Timestamp::from_microsecond(at) {
        Ok(stamp) => stamp.to_string(),
        Err(_) => format!("{at}us"),
    }
}

/// A non-negative length of time, written like `15m`, `1h30m`, `7d` or as ISO 8601 (`P2D`, `PT15M`).
///
/// A day is 24 hours here: spans compare against event time, not against a calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub Micros);

impl Span {
    /// The span in microseconds.
    pub const fn micros(self) -> Micros {
        self.0
    }

    /// The same span for timers.
    pub fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_micros(u64::try_from(self.0).unwrap_or(0))
    }
}

/// Why a text is not a [`Span`].
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("`{0}` is not a length of time; write it like 500ms, 15m, 1h30m, 7d or P2D")]
pub struct SpanError(String);

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let refuse = || SpanError(text.to_owned());
        let trimmed = text.trim();
        if trimmed.is_empty() || trimmed.starts_with('-') {
            return Err(refuse());
        }
        let span: jiff::Span = trimmed.parse().map_err(|_| refuse())?;
        if span.get_years() != 0 || span.get_months() != 0 {
            return Err(refuse());
        }
        let days = i64::from(span.get_weeks()) * 7 + i64::from(span.get_days());
        let total = days
            .checked_mul(DAY)
            .and_then(|t| t.checked_add(i64::from(span.get_hours()).checked_mul(HOUR)?))
            .and_then(|t| t.checked_add(span.get_minutes().checked_mul(MINUTE)?))
            .and_then(|t| t.checked_add(span.get_seconds().checked_mul(SECOND)?))
            .and_then(|t| t.checked_add(span.get_milliseconds().checked_mul(1_000)?))
            .and_then(|t| t.checked_add(span.get_microseconds()))
            .ok_or_else(refuse)?;
        if total < 0 { Err(refuse()) } else { Ok(Span(total)) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, name) in [(DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (SECOND, "s"), (1_000, "ms"), (1, "us")] {
            if rest >= unit {
                write!(f, "{}{name}", rest / unit)?;
                rest %= unit;
            }
        }
        Ok(())
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A date of the calendar, written like `2026-05-05`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date(pub jiff::civil::Date);

/// Why a text is not a [`Date`].
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("`{0}` is no date; write it like 2026-05-05")]
pub struct DateError(String);

impl FromStr for Date {
    type Err = DateError;

    fn from_str(text: &str) -> Result<Self, DateError> {
        // Dates with a time of day, which jiff cuts off, are not meant.
        let plain = text.len() == 10;
        text.parse().ok().filter(|_| plain).map(Date).ok_or_else(|| DateError(text.to_owned()))
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written() {
        for (text, micros, shown) in [
            ("15m", 15 * MINUTE, "15m"),
            ("1h30m", 90 * MINUTE, "1h30m"),
            ("7d", 7 * DAY, "7d"),
            ("P2D", 2 * DAY, "2d"),
            ("PT36H", 36 * HOUR, "1d12h"),
            ("500ms", 500_000, "500ms"),
            ("0s", 0, "0s"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.0, span.to_string().as_str()), (micros, shown), "{text}");
        }
        for text in ["", "soon", "-5m", "P1Y", "1"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
