//! Time stamps as metering systems write them: RFC 3339, local dates and times, and epoch numbers.
//!
//! | form | meaning |
//! | --- | --- |
//! | `2024-01-01T00:15:00Z`, `2024-01-01 00:15:00.5+01:00` | an instant |
//! | `2024-01-01 00:15`, `2024/01/01T00:15:00`, `01.01.2024 00:15`, `2024-01-01`, `20240101T0015` | time on a wall clock |
//! | 1388535300, 1388535300000, 1388535300000000 | epoch seconds, milliseconds, microseconds (or nanoseconds), told apart by size |
//!
//! Dates with slashes and the day first are refused, because `01/02/2024` has two meanings.

use jiff::tz::TimeZone;
use meterline_schemas::Micros;
use meterline_schemas::time::{DAY, HOUR, MINUTE, SECOND};

/// The first instant that is taken for a reading's: 1900-01-01T00:00:00Z.
pub const EARLIEST: Micros = -2_208_988_800 * SECOND;
/// The end of the instants that are taken for a reading's: 2200-01-01T00:00:00Z.
pub const LATEST: Micros = 7_258_118_400 * SECOND;

/// A stamp as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// With an offset, or a number since 1970: one instant.
    Instant(Micros),
    /// A date and time on a wall clock, as if the clock showed UTC.
    Local(Micros),
}

impl Stamp {
    /// The stamp that `text` is. `None`: it is in no known form.
    pub fn parse(text: &str) -> Option<Stamp> {
        let bytes = text.trim_ascii().as_bytes();
        read(bytes).or_else(|| digits(bytes)).or_else(|| fallback(text.trim()))
    }

    /// The instant of the stamp on a clock of `zone`. A local time that a clock change skips or repeats is read as
    /// RFC 5545 does: with the offset before the change.
    pub fn instant(self, zone: &TimeZone) -> Option<Micros> {
        self.instants(zone).map(|(instant, _)| instant)
    }

    /// The same, with the other instant of a local time that a clock of `zone` shows twice; of one that it never shows,
    /// the same again. Nothing else has another one.
    pub fn instants(self, zone: &TimeZone) -> Option<(Micros, Option<Micros>)> {
        let local = match self {
            Stamp::Instant(at) => return Some((at, None)),
            Stamp::Local(local) if *zone == TimeZone::UTC => return Some((local, None)),
            Stamp::Local(local) => local,
        };
        let found = zone.to_ambiguous_timestamp(civil(local)?);
        let other = if found.is_ambiguous() { Some(found.later().ok()?.as_microsecond()) } else { None };
        Some((found.compatible().ok()?.as_microsecond(), other))
    }
}

/// Date and time of a local stamp.
pub fn civil(local: Micros) -> Option<jiff::civil::DateTime> {
    // Civil arithmetic on the UTC clock: no zone is involved yet.
    Some(TimeZone::UTC.to_datetime(jiff::Timestamp::from_microsecond(local).ok()?))
}

/// The instant that an epoch number means: seconds below 10¹¹, milliseconds below 10¹⁴, microseconds below 10¹⁷, else
/// nanoseconds.
pub fn from_integer(value: i64) -> Option<Micros> {
    match value.unsigned_abs() {
        0..100_000_000_000 => value.checked_mul(SECOND),
        100_000_000_000..100_000_000_000_000 => value.checked_mul(1_000),
        100_000_000_000_000..100_000_000_000_000_000 => Some(value),
        _ => Some(value.div_euclid(1_000)),
    }
}

/// As [`from_integer`], with a fraction.
pub fn from_float(value: f64) -> Option<Micros> {
    let magnitude = value.abs();
    let micros = if magnitude < 1e11 {
        value * 1e6
    } else if magnitude < 1e14 {
        value * 1e3
    } else if magnitude < 1e17 {
        value
    } else if magnitude < 1e19 {
        value / 1e3
    } else {
        return None;
    };
    Some(micros.round() as Micros)
}

// Epoch numbers as text. Fewer or other digits could as well be a compact date.
fn digits(bytes: &[u8]) -> Option<Stamp> {
    let digits = match bytes.first()? {
        b'-' => &bytes[1..],
        _ => bytes,
    };
    if !matches!(digits.len(), 9..=11 | 13 | 16 | 19) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    from_integer(std::str::from_utf8(bytes).ok()?.parse().ok()?).map(Stamp::Instant)
}

// Rare forms, such as a zone in brackets.
fn fallback(text: &str) -> Option<Stamp> {
    if let Ok(stamp) = text.parse::<jiff::Timestamp>() {
        return Some(Stamp::Instant(stamp.as_microsecond()));
    }
    if text.contains('[') {
        return Some(Stamp::Instant(text.parse::<jiff::Zoned>().ok()?.timestamp().as_microsecond()));
    }
    let local: jiff::civil::DateTime = text.parse().ok()?;
    Some(Stamp::Local(local.to_zoned(TimeZone::UTC).ok()?.timestamp().as_microsecond()))
}

fn read(bytes: &[u8]) -> Option<Stamp> {
    let mut cursor = Cursor { bytes };
    let (year, month, day) = cursor.date()?;
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    let (mut time, mut offset) = (0, None);
    if !cursor.bytes.is_empty() {
        cursor.one_of(b"T t")?;
        // Since midnight as the clock shows it; up to and including 24:00, as end-labelled files write it.
        time = cursor.time()?;
        offset = cursor.offset()?;
    }
    let local = days_from_civil(year, month, day) * DAY + time;
    let stamp = offset.map_or(Stamp::Local(local), |offset| Stamp::Instant(local - offset));
    cursor.bytes.is_empty().then_some(stamp)
}

struct Cursor<'a> {
    bytes: &'a [u8],
}

impl Cursor<'_> {
    fn number(&mut self, width: usize) -> Option<i64> {
        let (digits, rest) = self.bytes.split_at_checked(width)?;
        let mut value = 0;
        for digit in digits {
            if !digit.is_ascii_digit() {
                return None;
            }
            value = value * 10 + i64::from(digit - b'0');
        }
        self.bytes = rest;
        Some(value)
    }

    fn one_of(&mut self, allowed: &[u8]) -> Option<u8> {
        let (&first, rest) = self.bytes.split_first()?;
        if !allowed.contains(&first) {
            return None;
        }
        self.bytes = rest;
        Some(first)
    }

    fn date(&mut self) -> Option<(i64, i64, i64)> {
        if self.bytes.get(2) == Some(&b'.') {
            let day = self.number(2)?;
            self.one_of(b".")?;
            let month = self.number(2)?;
            self.one_of(b".")?;
            return Some((self.number(4)?, month, day));
        }
        let year = self.number(4)?;
        let separator = self.one_of(b"-/")?;
        let month = self.number(2)?;
        self.one_of(&[separator])?;
        Some((year, month, self.number(2)?))
    }

    fn time(&mut self) -> Option<Micros> {
        let hour = self.number(2)?;
        self.one_of(b":")?;
        let minute = self.number(2)?;
        let (mut second, mut fraction) = (0, 0);
        if self.one_of(b":").is_some() {
            second = self.number(2)?;
            if self.one_of(b".,").is_some() {
                fraction = self.fraction()?;
            }
        }
        // A leap second is the last second that the clock shows twice.
        let second = if second == 60 { 59 } else { second };
        let time = hour * HOUR + minute * MINUTE + second * SECOND + fraction;
        (hour <= 24 && minute < 60 && second < 60 && time <= DAY).then_some(time)
    }

    // Digits after the decimal point, cut to microseconds.
    fn fraction(&mut self) -> Option<Micros> {
        let length = self.bytes.iter().take_while(|b| b.is_ascii_digit()).count();
        if length == 0 {
            return None;
        }
        let mut micros = 0;
        for place in 0..6 {
            let digit = if place < length { i64::from(self.bytes[place] - b'0') } else { 0 };
            micros = micros * 10 + digit;
        }
        self.bytes = &self.bytes[length..];
        Some(micros)
    }

    // The outer option is failure, the inner one absence.
    fn offset(&mut self) -> Option<Option<Micros>> {
        while self.one_of(b" ").is_some() {}
        if self.bytes.is_empty() {
            return Some(None);
        }
        let sign = match self.one_of(b"Zz+-")? {
            b'+' => 1,
            b'-' => -1,
            _ => return Some(Some(0)),
        };
        let hours = self.number(2)?;
        let minutes = match self.bytes.first() {
            None => 0,
            Some(b':') => {
                self.bytes = &self.bytes[1..];
                self.number(2)?
            }
            Some(_) => self.number(2)?,
        };
        (hours < 24 && minutes < 60).then_some(Some(sign * (hours * HOUR + minutes * MINUTE)))
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

// Days since 1970-01-01 in the proleptic Gregorian calendar: years begin in March, so that the leap day is last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str, zone: &TimeZone) -> Option<Micros> {
        Stamp::parse(text)?.instant(zone)
    }

    fn at(text: &str) -> Micros {
        text.parse::<jiff::Timestamp>().unwrap().as_microsecond()
    }

    #[test]
    fn stamps_in_every_known_form_are_read() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        for (text, instant) in [
            ("2014-01-01T00:15:00Z", "2014-01-01T00:15:00Z"),
            ("2014-01-01t00:15:00z", "2014-01-01T00:15:00Z"),
            ("2014-01-01T00:15:00.25+01:00", "2013-12-31T23:15:00.25Z"),
            ("2014-01-01T00:15:00-0530", "2014-01-01T05:45:00Z"),
            ("2014-01-01T00:15:00+01", "2013-12-31T23:15:00Z"),
            ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59Z"),
            ("2014-07-01 00:15:00", "2014-06-30T22:15:00Z"),
            ("2014-07-01 00:15", "2014-06-30T22:15:00Z"),
            ("2014/07/01 00:15", "2014-06-30T22:15:00Z"),
            ("01.07.2014 00:15", "2014-06-30T22:15:00Z"),
            ("2014-07-01", "2014-06-30T22:00:00Z"),
            ("20140701", "2014-06-30T22:00:00Z"),
            ("20140701T0015", "2014-06-30T22:15:00Z"),
            ("2014-06-30 24:00", "2014-06-30T22:00:00Z"),
            ("2014-07-01T00:15:00[Europe/Lisbon]", "2014-06-30T23:15:00Z"),
            // The hour that the clocks skip, and the first of the two that they show.
            ("2024-03-31 02:30", "2024-03-31T01:30:00Z"),
            ("2024-10-27 02:30", "2024-10-27T00:30:00Z"),
            ("1388535300", "2014-01-01T00:15:00Z"),
            ("1388535300000", "2014-01-01T00:15:00Z"),
            ("1388535300000000", "2014-01-01T00:15:00Z"),
            ("1388535300000000000", "2014-01-01T00:15:00Z"),
            (" 2014-01-01 00:15:00 +01:00 ", "2013-12-31T23:15:00Z"),
        ] {
            assert_eq!(parse(text, &berlin), Some(at(instant)), "{text}");
        }
    }

    #[test]
    fn a_local_time_of_a_change_has_another_instant() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let other = |text: &str, zone: &TimeZone| Stamp::parse(text).unwrap().instants(zone).unwrap().1;
        assert_eq!(other("2024-10-27 02:30", &berlin), Some(at("2024-10-27T01:30:00Z")));
        // Never shown: there is no second one.
        assert_eq!(other("2024-03-31 02:30", &berlin), parse("2024-03-31 02:30", &berlin));
        for text in ["2024-10-27 01:59:59", "2024-10-27 03:00", "2024-03-31 03:00", "2024-10-27T02:30:00+02:00"] {
            assert_eq!(other(text, &berlin), None, "{text}");
        }
        assert_eq!(other("2024-10-27 02:30", &TimeZone::UTC), None);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "yesterday",
            "2014-13-01T00:00:00Z",
            "2014-02-29T00:00:00Z",
            "2014-01-01T25:00:00Z",
            "2014-01-01T24:15:00Z",
            "2014-01-01T00:60:00Z",
            "01/02/2014 00:15",
            "2014-01/01 00:15",
            "201401010015",
            "2014-01-01 00:00 noon",
            "MT_001",
            "12.5",
            "2014-01-01T00:15:00.Z",
        ] {
            assert_eq!(parse(text, &TimeZone::UTC), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_told_apart_by_their_size() {
        let instant = at("2014-01-01T00:15:00.5Z");
        assert_eq!(from_float(1_388_535_300.5), Some(instant));
        assert_eq!(from_integer(1_388_535_300_500), Some(instant));
        assert_eq!(from_integer(1_388_535_300_500_000), Some(instant));
        assert_eq!(from_integer(1_388_535_300_500_000_000), Some(instant));
        assert_eq!(from_float(1e300), None);
    }

    proptest! {
        #[test]
        fn our_reading_of_rfc_3339_agrees_with_the_library(at in EARLIEST..LATEST, offset in -14 * 60..14 * 60i64) {
            let offset = jiff::tz::Offset::from_seconds((offset * 60) as i32).unwrap();
            let stamp = jiff::Timestamp::from_microsecond(at).unwrap();
            prop_assert_eq!(parse(&stamp.to_string(), &TimeZone::UTC), Some(at));
            prop_assert_eq!(parse(&stamp.display_with_offset(offset).to_string(), &TimeZone::UTC), Some(at));
        }

        #[test]
        fn local_times_agree_with_the_library(at in EARLIEST / SECOND..LATEST / SECOND) {
            let zone = TimeZone::get("America/New_York").unwrap();
            let civil = jiff::Timestamp::from_second(at).unwrap().to_zoned(zone.clone()).datetime();
            let expected = zone.to_ambiguous_timestamp(civil).compatible().unwrap().as_microsecond();
            prop_assert_eq!(parse(&civil.to_string(), &zone), Some(expected));
        }

        #[test]
        fn no_text_makes_it_fail(text in ".{0,40}") {
            let _ = parse(&text, &TimeZone::UTC);
        }
    }
}
