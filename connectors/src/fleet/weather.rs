//! Calendar and weather at one moment, shared by all meters.

use std::f64::consts::TAU;

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use meterline_schemas::Micros;
use meterline_schemas::time::{DAY, HOUR};

use super::noise::{between, hash, smooth};

/// What people do that day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DayKind {
    /// Monday to Friday.
    Workday,
    /// Saturday.
    Saturday,
    /// Sunday or public holiday.
    Sunday,
}

/// Calendar and weather at one moment.
#[derive(Debug, Clone)]
pub struct Moment {
    /// The moment.
    pub at: Micros,
    /// Hours since midnight on the local clock.
    pub hour: f64,
    /// What people do that day.
    pub day: DayKind,
    /// Cosine of the year's phase: 1 in mid-January, -1 in mid-July.
    pub winter: f64,
    /// One a region.
    pub weather: Vec<Weather>,
}

/// Weather of one region.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Degrees Celsius.
    pub temperature: f64,
    /// Degrees Celsius as a building feels them: the daily cycle dampened.
    pub felt: f64,
    /// What solar panels give, as a share of their rating.
    pub solar: f64,
}

/// Regions and zone of a fleet.
#[derive(Debug, Clone)]
pub struct Climate {
    seed: u64,
    regions: u32,
    zone: TimeZone,
}

impl Climate {
    /// A climate of `regions` regions that share most of their weather.
    pub fn new(seed: u64, regions: u32, zone: TimeZone) -> Climate {
        Climate { seed: hash(seed, 0xc11a), regions, zone }
    }

    /// Calendar and weather at `at`.
    pub fn moment(&self, at: Micros) -> Moment {
        let Ok(stamp) = Timestamp::from_microsecond(at) else {
            // Beyond the year 9999 nobody lives any more.
            return Moment { at, hour: 0.0, day: DayKind::Sunday, winter: 0.0, weather: self.all(at, 0.0, 0.0) };
        };
        let info = self.zone.to_offset_info(stamp);
        let local = info.offset().to_datetime(stamp);
        let hour = f64::from(local.hour()) + f64::from(local.minute()) / 60.0 + f64::from(local.second()) / 3600.0;
        let year = (f64::from(local.date().day_of_year()) + hour / 24.0 - 15.0) / 365.25;
        let sun_hour = if info.dst().is_dst() { hour - 1.0 } else { hour };
        Moment {
            at,
            hour,
            day: day_kind(local.date()),
            winter: (TAU * year).cos(),
            weather: self.all(at, sun_hour, year),
        }
    }

    fn all(&self, at: Micros, sun_hour: f64, year: f64) -> Vec<Weather> {
        let days = at as f64 / DAY as f64;
        let country = smooth(self.seed, days / 4.0);
        (0..self.regions).map(|region| self.weather(u64::from(region), country, days, sun_hour, year)).collect()
    }

    fn weather(&self, region: u64, country: f64, days: f64, sun_hour: f64, year: f64) -> Weather {
        let own = hash(self.seed, region + 1);
        let spell = 0.75 * country + 0.66 * smooth(own, days / 4.0);
        let latitude = between(hash(own, 1), 40.0, 54.0).to_radians();
        let mean = between(hash(own, 2), 9.0, 14.0);

        let damp = 0.9 * smooth(hash(own, 3), days / 1.5) + 0.5 * smooth(hash(own, 4), days * 3.0) - 0.3 * spell
            + 0.4 * (TAU * year).cos();
        let cloud = 1.0 / (1.0 + (-1.6 * damp).exp());

        let declination = -23.44_f64.to_radians() * (TAU * (year + 25.0 / 365.25)).cos();
        let angle = (sun_hour - 12.0) / 24.0 * TAU;
        let height = latitude.sin() * declination.sin() + latitude.cos() * declination.cos() * angle.cos();
        let solar = height.max(0.0).powf(1.15) * (1.0 - 0.78 * cloud * cloud);

        let level = mean - 9.5 * (TAU * (year - 0.02)).cos() + 3.5 * spell + 0.8 * smooth(hash(own, 5), days * 2.0);
        let cycle = (5.0 - 3.0 * cloud) * ((sun_hour - 15.0) / 24.0 * TAU).cos();
        Weather { temperature: level + cycle, felt: level + 0.35 * cycle, solar }
    }
}

fn day_kind(date: Date) -> DayKind {
    match date.weekday() {
        _ if is_holiday(date) => DayKind::Sunday,
        Weekday::Saturday => DayKind::Saturday,
        Weekday::Sunday => DayKind::Sunday,
        _ => DayKind::Workday,
    }
}

/// Public holidays of a typical European country.
fn is_holiday(date: Date) -> bool {
    if matches!((date.month(), date.day()), (1, 1) | (5, 1) | (8, 15) | (11, 1) | (12, 24..=26) | (12, 31)) {
        return true;
    }
    // Good Friday, Easter Monday, Ascension Day, Whit Monday.
    easter(date.year()).is_some_and(|sunday| {
        [-2, 1, 39, 50].into_iter().any(|days: i64| sunday.checked_add(days.days()).is_ok_and(|d| d == date))
    })
}

/// Easter Sunday of the Gregorian calendar (the anonymous algorithm of 1876).
fn easter(year: i16) -> Option<Date> {
    let y = i32::from(year);
    let (a, b, c) = (y % 19, y / 100, y % 100);
    let g = (b - (b + 8) / 25 + 1) / 3;
    let h = (19 * a + b - b / 4 - g + 15) % 30;
    let l = (32 + 2 * (b % 4) + 2 * (c / 4) - h - c % 4) % 7;
    let m = (a + 11 * h + 22 * l) / 451;
    let n = h + l - 7 * m + 114;
    Date::new(year, i8::try_from(n / 31).ok()?, i8::try_from(n % 31 + 1).ok()?).ok()
}

/// Moments whose mean stands for the interval: its middle, or one an hour where it is longer than half an hour.
pub fn samples(start: Micros, end: Micros) -> impl Iterator<Item = Micros> {
    let length = end - start;
    let n = if length <= HOUR / 2 { 1 } else { (length / (HOUR / 2)).clamp(2, 48) };
    (0..n).map(move |i| start + length * (2 * i + 1) / (2 * n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holidays_follow_the_calendar() {
        for (date, kind) in [
            ("2024-03-29", DayKind::Sunday),
            ("2024-03-31", DayKind::Sunday),
            ("2024-04-01", DayKind::Sunday),
            ("2024-05-09", DayKind::Sunday),
            ("2025-04-21", DayKind::Sunday),
            ("2024-04-02", DayKind::Workday),
            ("2024-04-06", DayKind::Saturday),
        ] {
            assert_eq!(day_kind(date.parse().unwrap()), kind, "{date}");
        }
    }

    #[test]
    fn winters_are_cold_and_nights_are_dark() {
        let climate = Climate::new(1, 4, TimeZone::UTC);
        let at = |text: &str| text.parse::<Timestamp>().unwrap().as_microsecond();
        let mean = |from: &str, what: fn(&Weather) -> f64| {
            let from = at(from);
            (0..28 * 24).map(|h| climate.moment(from + h * HOUR).weather.iter().map(what).sum::<f64>()).sum::<f64>()
                / (28.0 * 24.0 * 4.0)
        };
        let (january, july) =
            (mean("2024-01-01T00:00:00Z", |w| w.temperature), mean("2024-07-01T00:00:00Z", |w| w.temperature));
        assert!(january < 8.0 && july > 14.0, "{january} {july}");
        let (winter, summer) = (mean("2024-01-01T00:00:00Z", |w| w.solar), mean("2024-07-01T00:00:00Z", |w| w.solar));
        assert!(winter * 2.0 < summer && winter > 0.0, "{winter} {summer}");
        assert!(climate.moment(at("2024-07-01T00:00:00Z")).weather.iter().all(|w| w.solar == 0.0));
    }
}
