//! What the calendar says about each interval of a grid, in local time.

use std::f32::consts::TAU;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use meterline_schemas::time::DAY;
use meterline_schemas::{Frequency, Micros};

use crate::data::{Panel, Series};

/// Features that [`CalendarStep::write`] gives.
pub const CALENDAR_FEATURES: usize = 15;

/// One interval in local time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CalendarStep {
    /// Share of the local day that has passed at the interval's start, 0 to 1.
    pub day_fraction: f32,
    /// Weekday from Monday = 0.
    pub weekday: u8,
    /// Share of the year that has passed at the interval's start, 0 to 1.
    pub year_fraction: f32,
}

impl CalendarStep {
    /// Saturday or Sunday.
    pub fn is_weekend(&self) -> bool {
        self.weekday >= 5
    }

    /// Writes three harmonics of the day, the weekday (one-hot) and, where `with_year`, the first harmonic of the year.
    pub fn write(&self, with_year: bool, out: &mut [f32]) {
        let mut put = out.iter_mut();
        let mut put = |value: f32| {
            if let Some(slot) = put.next() {
                *slot = value;
            }
        };
        for harmonic in 1..=3 {
            let (sin, cos) = (TAU * harmonic as f32 * self.day_fraction).sin_cos();
            put(sin);
            put(cos);
        }
        for day in 0..7 {
            put(if self.weekday == day { 1.0 } else { 0.0 });
        }
        let (sin, cos) = if with_year { (TAU * self.year_fraction).sin_cos() } else { (0.0, 0.0) };
        put(sin);
        put(cos);
    }
}

/// The calendar of consecutive intervals.
#[derive(Debug, Clone)]
pub struct Calendar {
    steps: Vec<CalendarStep>,
}

impl Calendar {
    /// `count` intervals from the boundary `start` on.
    pub fn new(frequency: Frequency, zone: &TimeZone, start: Micros, count: usize) -> Calendar {
        let at = |i: usize| frequency.advance(start, i as i64, zone);
        Calendar { steps: (0..count).map(|i| calendar_step(at(i), zone)).collect() }
    }

    /// The interval `index` of the grid; the nearest one outside.
    pub fn step(&self, index: i64) -> CalendarStep {
        let last = self.steps.len().saturating_sub(1);
        let index = usize::try_from(index).unwrap_or(0).min(last);
        self.steps.get(index).copied().unwrap_or_default()
    }
}

/// What the clock on the wall says; `None` outside the years -9999 to 9999, where no calendar helps.
pub fn local(at: Micros, zone: &TimeZone) -> Option<DateTime> {
    Some(zone.to_datetime(Timestamp::from_microsecond(at).ok()?))
}

/// All local dates from the first interval of a panel to the end of the `horizon` after it, once each: what takes long to
/// look up is looked up once for all series.
pub fn dates(panel: &Panel, horizon: usize) -> impl Iterator<Item = Date> {
    let date = |at| local(at, &panel.zone).map(|local| local.date());
    let end =
        |series: &Series| panel.frequency.advance(series.start, (series.values.len() + horizon) as i64, &panel.zone);
    let first = panel.series.iter().map(|series| series.start).min().and_then(date);
    let last = panel.series.iter().map(end).max().and_then(date);
    let days = |first: Date| std::iter::successors(Some(first), |day| day.tomorrow().ok());
    first.zip(last).into_iter().flat_map(move |(first, last)| days(first).take_while(move |day| *day <= last))
}

fn calendar_step(at: Micros, zone: &TimeZone) -> CalendarStep {
    let Some(local) = local(at, zone) else { return CalendarStep::default() };
    let midnight = local.time().duration_since(jiff::civil::Time::midnight()).as_micros() as f64;
    CalendarStep {
        day_fraction: (midnight / DAY as f64) as f32,
        weekday: local.weekday().to_monday_zero_offset().unsigned_abs(),
        year_fraction: f32::from(local.day_of_year() - 1) / 366.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_time_decides_hour_and_weekday() {
        let zone = TimeZone::get("Europe/Lisbon").unwrap();
        // Sunday 2024-06-30, 23:00 in UTC, is Monday 00:00 in Lisbon's summer.
        let start = "2024-06-30T23:00:00Z".parse::<Timestamp>().unwrap().as_microsecond();
        let calendar = Calendar::new(Frequency::HOUR, &zone, start, 3);
        assert_eq!((calendar.step(0).day_fraction, calendar.step(0).weekday), (0.0, 0));
        assert_eq!(calendar.step(1).day_fraction, 1.0 / 24.0);
        assert_eq!(calendar.step(-5), calendar.step(0));
        assert_eq!(calendar.step(99), calendar.step(2));
    }

    #[test]
    fn the_dates_of_a_panel_are_those_of_its_series_and_of_the_horizon() {
        let zone = TimeZone::get("Europe/Lisbon").unwrap();
        let at = |stamp: &str| stamp.parse::<Timestamp>().unwrap().as_microsecond();
        // From Monday 00:00 in Lisbon on, and from Tuesday on.
        let one = Series::new("a", at("2024-06-30T23:00:00Z"), vec![1.0; 24]);
        let other = Series::new("b", at("2024-07-02T12:00:00Z"), vec![1.0; 2]);
        let panel = Panel::new(Frequency::HOUR, zone, vec![one, other]);
        let found: Vec<String> = dates(&panel, 24).map(|day| day.to_string()).collect();
        assert_eq!(found, ["2024-07-01", "2024-07-02", "2024-07-03"]);
        assert_eq!(dates(&panel.with(Vec::new()), 24).count(), 0);
    }

    #[test]
    fn the_features_fill_their_place() {
        let step = CalendarStep { day_fraction: 0.25, weekday: 6, year_fraction: 0.5 };
        let mut out = [f32::NAN; CALENDAR_FEATURES];
        step.write(true, &mut out);
        assert!(out.iter().all(|v| v.is_finite()));
        assert_eq!((out[0], out[12]), (1.0, 1.0));
        assert!(step.is_weekend());
    }
}
