//! Cron schedules in a time zone, on days of 23 and 25 hours as well.

use std::fmt;
use std::str::FromStr;

use cronexpr::{Crontab, MakeTimestamp, parse_crontab};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Micros;

/// Longest jump of a clock that a schedule is right across, in hours.
const JUMP_MAX: i64 = 3;
/// Ticks that are looked at for one that is not in the past already: those within [`JUMP_MAX`].
const TICKS_MAX: usize = 60 * 2 * JUMP_MAX as usize;

/// Five fields (minute, hour, day of the month, month, day of the week), and a time zone behind them where that is not
/// the one of the series: `0 3 * * *`, `*/15 6-22 * * MON-FRI Europe/Lisbon`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    fields: String,
    zone: Option<String>,
}

/// Why a text is not a [`Cron`].
#[derive(Debug, thiserror::Error, PartialEq)]
#[error(
    "`{text}` is no cron schedule: {reason}; write minute, hour, day of the month, month and day of the week, such as `0 3 * * *`, and behind them a time zone if it is not that of the series"
)]
pub struct CronError {
    text: String,
    reason: String,
}

impl Cron {
    /// The schedule in its own zone, or else in `zone`. An unknown zone counts as UTC.
    pub fn schedule(&self, zone: &str) -> Schedule {
        let zone_name = self.zone.as_deref().unwrap_or(zone);
        let zone = TimeZone::get(zone_name).unwrap_or(TimeZone::UTC);
        let in_utc = parse_crontab(&format!("{} UTC", self.fields)).ok();
        // A schedule of every hour, or every so many, goes by time that passes; one at hours of the day by what the
        // clock on the wall shows, as with cron.
        let every_hour = self.fields.split(' ').nth(1).is_some_and(|hours| hours.starts_with('*'));
        let by_time = every_hour.then(|| parse_crontab(&format!("{} {zone_name}", self.fields)).ok()).flatten();
        Schedule { wall: in_utc, by_time, zone }
    }
}

impl FromStr for Cron {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Cron, CronError> {
        let refuse = |reason: &str| CronError { text: text.to_owned(), reason: reason.to_owned() };
        let words: Vec<&str> = text.split_whitespace().collect();
        if !(5..=6).contains(&words.len()) {
            return Err(refuse(&format!("it has {} fields instead of 5", words.len())));
        }
        let zone = words.get(5).map(|zone| (*zone).to_owned());
        if let Some(zone) = zone.as_deref().filter(|zone| TimeZone::get(zone).is_err()) {
            return Err(refuse(&format!("`{zone}` is no known time zone")));
        }
        let fields = words.iter().take(5).copied().collect::<Vec<_>>().join(" ");
        // Its message points at the place, on lines of their own; the reason comes last.
        let parsed = parse_crontab(&format!("{fields} UTC"))
            .map_err(|e| refuse(e.to_string().rsplit("^ ").next().unwrap_or_default()))?;
        // From a year of 366 days on, so that 29 February is one.
        if parsed.find_next(MakeTimestamp(Timestamp::UNIX_EPOCH + (2 * 366 * 24).hours())).is_err() {
            return Err(refuse("there is no such day"));
        }
        Ok(Cron { fields, zone })
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fields)?;
        match &self.zone {
            Some(zone) => write!(f, " {zone}"),
            None => Ok(()),
        }
    }
}

impl Serialize for Cron {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cron {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A [`Cron`] in a time zone.
///
/// A tick at an hour of the day comes once on each day: where the clock skips it, as much later as the clock jumps, and
/// where it comes twice, the first time. Ticks of every hour (`*` or `*/n` in the field of hours) come each time that
/// the clock shows them.
#[derive(Debug, Clone)]
pub struct Schedule {
    // Ticks as the clock on the wall shows them, written as if they were UTC.
    wall: Option<Crontab>,
    by_time: Option<Crontab>,
    zone: TimeZone,
}

impl Schedule {
    /// The first tick after `at`. `None` beyond the end of time.
    pub fn next_after(&self, at: Micros) -> Option<Micros> {
        let at = Timestamp::from_microsecond(at).ok()?;
        if let Some(by_time) = &self.by_time {
            return Some(by_time.find_next(MakeTimestamp(at)).ok()?.timestamp().as_microsecond());
        }
        let wall = self.wall.as_ref()?;
        let utc = |local: DateTime| local.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
        let local = at.to_zoned(self.zone.clone()).datetime();
        let mut from = utc(local.checked_sub(JUMP_MAX.hours()).ok()?)?;
        for _ in 0..TICKS_MAX {
            let tick = wall.find_next(MakeTimestamp(from)).ok()?;
            let shown = self.zone.to_ambiguous_timestamp(tick.datetime()).compatible().ok()?;
            if shown > at {
                return Some(shown.as_microsecond());
            }
            from = tick.timestamp();
        }
        None
    }

    /// The first tick at `at` or after it.
    pub fn next_from(&self, at: Micros) -> Option<Micros> {
        self.next_after(at.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(cron: &str, from: &str, n: usize) -> Vec<String> {
        let schedule = cron.parse::<Cron>().unwrap().schedule("Europe/Lisbon");
        let mut at = from.parse::<Timestamp>().unwrap().as_microsecond();
        let mut ticks = Vec::new();
        for _ in 0..n {
            at = schedule.next_after(at).unwrap();
            ticks.push(Timestamp::from_microsecond(at).unwrap().to_string());
        }
        ticks
    }

    #[test]
    fn ticks_come_once_a_day_also_when_the_clock_changes() {
        // On 29 March 2026 the clock in Lisbon goes from 01:00 to 02:00, on 25 October from 02:00 to 01:00.
        for (cron, from, expected) in [
            // Before the change, and after it.
            (
                "0 3 * * *",
                "2026-03-28T00:00:00Z",
                ["2026-03-28T03:00:00Z", "2026-03-29T02:00:00Z", "2026-03-30T02:00:00Z"],
            ),
            // There is no half past one: it comes an hour later.
            (
                "30 1 * * *",
                "2026-03-28T12:00:00Z",
                ["2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z", "2026-03-31T00:30:00Z"],
            ),
            // There are two: the first counts.
            (
                "30 1 * * *",
                "2026-10-24T12:00:00Z",
                ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z", "2026-10-27T01:30:00Z"],
            ),
            (
                "0 */1 * * *",
                "2026-03-29T00:10:00Z",
                ["2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z", "2026-03-29T03:00:00Z"],
            ),
            (
                "30 * * * *",
                "2026-10-24T23:40:00Z",
                ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"],
            ),
            (
                "0 7 * * MON-FRI UTC",
                "2026-03-27T08:00:00Z",
                ["2026-03-30T07:00:00Z", "2026-03-31T07:00:00Z", "2026-04-01T07:00:00Z"],
            ),
            (
                "0 0 1 * *",
                "2026-03-27T08:00:00Z",
                ["2026-03-31T23:00:00Z", "2026-04-30T23:00:00Z", "2026-05-31T23:00:00Z"],
            ),
            (
                "0 0 29 2 *",
                "2026-03-27T08:00:00Z",
                ["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z", "2036-02-29T00:00:00Z"],
            ),
        ] {
            assert_eq!(ticks(cron, from, 3), expected, "{cron} from {from}");
        }
    }

    #[test]
    fn a_tick_is_from_its_own_instant_on() {
        let schedule = "0 3 * * *".parse::<Cron>().unwrap().schedule("UTC");
        let at = "2026-03-28T03:00:00Z".parse::<Timestamp>().unwrap().as_microsecond();
        assert_eq!(schedule.next_from(at), Some(at));
        assert_eq!(schedule.next_from(at + 1), schedule.next_after(at));
        assert_eq!(schedule.next_after(Micros::MAX), None);
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_the_reason() {
        for (text, words) in [
            ("0 3 * *", "it has 4 fields instead of 5"),
            ("0 25 * * *", "hour"),
            ("0 3 * * * Europe/Lisabon", "`Europe/Lisabon` is no known time zone"),
            ("0 0 30 2 *", "there is no such day"),
            ("@daily", "1 fields instead of 5"),
            ("0 3 * * * UTC x", "7 fields"),
        ] {
            let error = text.parse::<Cron>().unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("such as `0 3 * * *`"), "{error}");
        }
        for text in ["0 3 * * *", "*/15  6-22 * * MON-FRI Europe/Lisbon"] {
            let cron: Cron = text.parse().unwrap();
            assert_eq!(cron.to_string().parse(), Ok(cron));
        }
    }
}
