//! Time stamps as files write them.

use jiff::Timestamp;
use jiff::tz::{AmbiguousOffset, TimeZone};
use meterline_schemas::Micros;
use meterline_schemas::time::{DAY, HOUR, MINUTE, SECOND};

/// A stamp as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// With an offset, or a number of seconds, milliseconds or microseconds since 1970: one instant.
    Instant(Micros),
    /// A date and time on a wall clock, as if the clock showed UTC.
    Local(Micros),
}

impl Stamp {
    /// Reads `2024-03-31 02:15[:00[.5]]` (or with `T`), `31.03.2024 02:15`, a date alone, any of them with `Z` or an
    /// offset, or an epoch number. `None` when the text is no stamp.
    pub fn parse(text: &str) -> Option<Stamp> {
        let text = text.trim();
        if text.len() >= 9 && text.bytes().all(|b| b.is_ascii_digit()) {
            return epoch(text.parse().ok()?).map(Stamp::Instant);
        }
        let mut rest = Cursor(text.as_bytes());
        let date = rest.date()?;
        let time = match rest.0.first() {
            None => 0,
            Some(b'T' | b't' | b' ') => {
                rest.skip(1);
                rest.time()?
            }
            Some(_) => return None,
        };
        let local = date + time;
        match rest.offset()? {
            Some(offset) => Some(Stamp::Instant(local - offset)),
            None => Some(Stamp::Local(local)),
        }
    }
}

/// Instant of an epoch number: its size says whether it counts seconds, milliseconds, microseconds or nanoseconds.
pub fn epoch(number: i64) -> Option<Micros> {
    match number.unsigned_abs() {
        0..100_000_000_000 => number.checked_mul(SECOND),
        100_000_000_000..100_000_000_000_000 => number.checked_mul(1_000),
        100_000_000_000_000..100_000_000_000_000_000 => Some(number),
        _ => Some(number / 1_000),
    }
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn skip(&mut self, n: usize) {
        self.0 = self.0.get(n..).unwrap_or_default();
    }

    fn digits(&mut self, n: usize) -> Option<i64> {
        let mut value = 0;
        for b in self.0.get(..n)? {
            if !b.is_ascii_digit() {
                return None;
            }
            value = value * 10 + i64::from(b - b'0');
        }
        self.skip(n);
        Some(value)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let there = self.0.first() == Some(&byte);
        if there {
            self.skip(1);
        }
        there
    }

    fn date(&mut self) -> Option<Micros> {
        let (year, month, day) = if self.0.get(2) == Some(&b'.') {
            let day = self.digits(2)?;
            self.skip(1);
            let month = self.digits(2)?;
            if !self.eat(b'.') {
                return None;
            }
            (self.digits(4)?, month, day)
        } else {
            let year = self.digits(4)?;
            let separator = *self.0.first()?;
            if separator != b'-' && separator != b'/' {
                return None;
            }
            self.skip(1);
            let month = self.digits(2)?;
            if !self.eat(separator) {
                return None;
            }
            (year, month, self.digits(2)?)
        };
        let date = jiff::civil::Date::new(year as i16, month as i8, day as i8).ok()?;
        Some(days_since_1970(date.year(), date.month(), date.day()) * DAY)
    }

    fn time(&mut self) -> Option<Micros> {
        let hour = self.digits(2)?;
        if !self.eat(b':') {
            return None;
        }
        let minute = self.digits(2)?;
        let mut second = 0;
        let mut fraction = 0;
        if self.eat(b':') {
            second = self.digits(2)?;
            if self.eat(b'.') || self.eat(b',') {
                let n = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
                if n == 0 || n > 9 {
                    return None;
                }
                let digits = self.digits(n)?;
                fraction = if n <= 6 { digits * 10_i64.pow(6 - n as u32) } else { digits / 10_i64.pow(n as u32 - 6) };
            }
        }
        // 24:00 is the end of the day, as end-labelled files write it.
        let valid = (hour < 24 && minute < 60 && second < 60) || (hour == 24 && minute == 0 && second == 0);
        valid.then_some(hour * HOUR + minute * MINUTE + second * SECOND + fraction)
    }

    /// `Some(None)`: nothing follows; `None`: what follows is no offset.
    fn offset(&mut self) -> Option<Option<Micros>> {
        while self.eat(b' ') {}
        let sign = match self.0.first() {
            None => return Some(None),
            Some(b'Z' | b'z') if self.0.len() == 1 => return Some(Some(0)),
            Some(b'+') => 1,
            Some(b'-') => -1,
            Some(_) => return None,
        };
        self.skip(1);
        let hours = self.digits(2)?;
        self.eat(b':');
        let minutes = if self.0.is_empty() { 0 } else { self.digits(2)? };
        (self.0.is_empty() && hours < 24 && minutes < 60).then_some(Some(sign * (hours * HOUR + minutes * MINUTE)))
    }
}

fn days_since_1970(year: i16, month: i8, day: i8) -> i64 {
    // Years begin in March, so that the leap day is the last of its year.
    let (y, m) = (i64::from(year) - i64::from(month <= 2), (i64::from(month) + 9) % 12);
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let day_of_year = (153 * m + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Turns written stamps into instants, in the order of the file.
///
/// A local time that exists twice (the hour after the clocks go back) is the first of the two until the stamps have
/// reached it once. A local time that does not exist is read as if the clocks had not gone forward.
#[derive(Debug)]
pub struct LocalClock {
    zone: Option<TimeZone>,
    cached: Option<(Micros, Micros)>,
}

impl LocalClock {
    /// A clock of `zone`.
    pub fn new(zone: TimeZone) -> LocalClock {
        LocalClock { zone: (zone != TimeZone::UTC).then_some(zone), cached: None }
    }

    /// The instant of `stamp`, where `reached` is the instant of the stamp before it (of the same series).
    pub fn instant(&mut self, stamp: Stamp, reached: Option<Micros>) -> Micros {
        let local = match stamp {
            Stamp::Instant(at) => return at,
            Stamp::Local(local) => local,
        };
        let Some(zone) = &self.zone else { return local };
        if let Some((known, at)) = self.cached
            && known == local
        {
            return at;
        }
        let Ok(civil) = Timestamp::from_microsecond(local).map(|t| TimeZone::UTC.to_datetime(t)) else { return local };
        let micros = |offset: jiff::tz::Offset| local - i64::from(offset.seconds()) * SECOND;
        match zone.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset } => {
                let at = micros(offset);
                self.cached = Some((local, at));
                at
            }
            AmbiguousOffset::Gap { before, .. } => micros(before),
            AmbiguousOffset::Fold { before, after } => {
                let first = micros(before);
                if reached.is_some_and(|reached| first <= reached) { micros(after) } else { first }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(text: &str) -> Micros {
        text.parse::<Timestamp>().unwrap().as_microsecond()
    }

    #[test]
    fn stamps_are_read_as_files_write_them() {
        for (text, expected) in [
            ("2011-01-01 00:15:00", Some(Stamp::Local(utc("2011-01-01T00:15:00Z")))),
            ("2024-02-29T23:59", Some(Stamp::Local(utc("2024-02-29T23:59:00Z")))),
            ("2024/02/29 23:59:30.5", Some(Stamp::Local(utc("2024-02-29T23:59:30.5Z")))),
            ("31.12.2024 24:00", Some(Stamp::Local(utc("2025-01-01T00:00:00Z")))),
            ("2024-01-01", Some(Stamp::Local(utc("2024-01-01T00:00:00Z")))),
            ("2021-07-31 00:15:00+00:00", Some(Stamp::Instant(utc("2021-07-31T00:15:00Z")))),
            ("2021-07-31T02:15:00+0200", Some(Stamp::Instant(utc("2021-07-31T00:15:00Z")))),
            ("2011-12-31T13:00:00Z", Some(Stamp::Instant(utc("2011-12-31T13:00:00Z")))),
            ("1704067200", Some(Stamp::Instant(utc("2024-01-01T00:00:00Z")))),
            ("1704067200000", Some(Stamp::Instant(utc("2024-01-01T00:00:00Z")))),
            ("1704067200000000", Some(Stamp::Instant(utc("2024-01-01T00:00:00Z")))),
            ("2023-02-29", None),
            ("2024-01-01 25:00", None),
            ("2024-01-01 00:60", None),
            ("2024-01-01 00:00 noon", None),
            ("MT_001", None),
            ("12.5", None),
            ("", None),
        ] {
            assert_eq!(Stamp::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn days_agree_with_the_calendar() {
        for text in ["1969-12-31", "1970-01-01", "1900-02-28", "2000-02-29", "2100-03-01", "2400-12-31"] {
            let expected = utc(&format!("{text}T00:00:00Z"));
            assert_eq!(Stamp::parse(text), Some(Stamp::Local(expected)), "{text}");
        }
    }

    #[test]
    fn the_repeated_hour_goes_on_after_its_first_pass() {
        let mut clock = LocalClock::new(TimeZone::get("Europe/Berlin").unwrap());
        let mut reached = None;
        let mut read = Vec::new();
        for text in ["01:30", "02:00", "02:30", "02:00", "02:30", "03:00"] {
            let stamp = Stamp::parse(&format!("2024-10-27 {text}")).unwrap();
            let at = clock.instant(stamp, reached);
            reached = Some(at);
            read.push(at);
        }
        let half_hours: Vec<Micros> = (0..6).map(|i| utc("2024-10-26T23:30:00Z") + i * 30 * MINUTE).collect();
        assert_eq!(read, half_hours);
    }

    #[test]
    fn the_skipped_hour_is_not_an_error() {
        let mut clock = LocalClock::new(TimeZone::get("Europe/Lisbon").unwrap());
        let before = clock.instant(Stamp::parse("2024-03-31 00:45").unwrap(), None);
        let skipped = clock.instant(Stamp::parse("2024-03-31 01:00").unwrap(), Some(before));
        assert_eq!(skipped, before + 15 * MINUTE);
    }
}
