//! The wall clock of a file: local stamps become instants in the order of the file.

use jiff::tz::{AmbiguousOffset, TimeZone};
use meterline_schemas::Micros;
use meterline_schemas::time::SECOND;

use crate::stamp::{Stamp, civil};

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
        let Some(civil) = civil(local) else { return local };
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
    use meterline_schemas::time::MINUTE;

    use super::*;

    fn utc(text: &str) -> Micros {
        text.parse::<jiff::Timestamp>().unwrap().as_microsecond()
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
