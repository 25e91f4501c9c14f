//! What was at the same time of the newest day of the same type comes again: of a workday that of a workday, of a holiday
//! that of the last Sunday or holiday.

use std::collections::BTreeMap;

use jiff::civil::Date;
use meterline_schemas::Frequency;
use meterline_schemas::time::SECOND;

use super::{ERRORS_MAX, ERRORS_MIN, add};
use crate::calendar;
use crate::data::{Panel, Series};
use crate::forecaster::{NoForecast, SeriesForecast};
use crate::holidays::DayType;

/// Weeks before the origin that are looked at: errors of eight Saturdays are enough for quantiles, and days of another
/// season of the year err otherwise.
const WEEKS: usize = 8;

/// Intervals before an origin that are looked at.
pub(super) fn looked_at(frequency: Frequency) -> usize {
    WEEKS * 7 * frequency.per_day()
}

/// One series with the local day and time of each interval, those of the horizon too.
pub(super) struct Days<'s> {
    values: &'s [f32],
    intervals: Vec<Interval>,
    // Type of each day, and its first interval.
    types: Vec<DayType>,
    starts: Vec<usize>,
    // Intervals of a day, and seconds of an interval.
    per_day: usize,
    length: u32,
}

#[derive(Clone, Copy)]
struct Interval {
    day: usize,
    // Of the day, by the clock on the wall.
    second: u32,
}

impl<'s> Days<'s> {
    /// Of a series of a panel whose intervals are shorter than a day; `types` are those of all of its days.
    pub fn of(panel: &Panel, series: &'s Series, types: &BTreeMap<Date, DayType>, horizon: usize) -> Days<'s> {
        let frequency = panel.frequency;
        let mut days = Days {
            values: &series.values,
            intervals: Vec::with_capacity(series.values.len() + horizon),
            types: Vec::new(),
            starts: Vec::new(),
            per_day: frequency.per_day(),
            length: u32::try_from(frequency.nominal_micros() / SECOND).unwrap_or(u32::MAX),
        };
        let mut last = None;
        for interval in 0..series.values.len() + horizon {
            let at = frequency.advance(series.start, interval as i64, &panel.zone);
            let local = calendar::local(at, &panel.zone).unwrap_or_default();
            if last != Some(local.date()) {
                last = Some(local.date());
                days.types.push(types.get(&local.date()).copied().unwrap_or(DayType::Workday));
                days.starts.push(interval);
            }
            let [hour, minute, second] =
                [local.hour(), local.minute(), local.second()].map(|of| u32::from(of.unsigned_abs()));
            days.intervals.push(Interval { day: days.types.len() - 1, second: 3600 * hour + 60 * minute + second });
        }
        days
    }

    /// The forecast of the `horizon` that the days were made with.
    ///
    /// # Errors
    /// There is no value at all.
    pub fn forecast(&self) -> Result<SeriesForecast, NoForecast> {
        let known = self.values.len();
        let horizon = self.intervals.len() - known;
        let mut forecast = SeriesForecast { mean: Vec::with_capacity(horizon), quantiles: Vec::with_capacity(horizon) };
        let mut pooled: Option<(usize, Vec<f64>)> = None;
        for step in 0..horizon {
            let source =
                self.newest(known + step, known).ok_or(NoForecast::MissingContext { present: 0, needed: 1 })?;
            let value = f64::from(self.values[source]);
            let errors = self.errors(step);
            if errors.len() >= ERRORS_MIN {
                add(&mut forecast, value, &errors);
                continue;
            }
            let first = step - step % self.per_day;
            let (_, errors) = match pooled.take() {
                Some(same) if same.0 == first => pooled.insert(same),
                _ => pooled.insert((first, self.errors_of_all(first))),
            };
            add(&mut forecast, value, errors);
        }
        Ok(forecast)
    }

    // The interval of a day that is nearest to a time of it; `None` where the day begins or ends more than one interval
    // away.
    fn at(&self, day: usize, second: u32) -> Option<usize> {
        let from = *self.starts.get(day)?;
        let to = self.starts.get(day + 1).copied().unwrap_or(self.intervals.len());
        let of_day = self.intervals.get(from..to)?;
        let after = second.checked_sub(of_day.first()?.second).map(|passed| (passed / self.length) as usize);
        match after.filter(|after| of_day.get(*after).is_some_and(|interval| interval.second == second)) {
            Some(after) => Some(from + after),
            // The first or last day of a series, and one on which the clock changes.
            None => {
                let apart = |place: &usize| of_day[*place].second.abs_diff(second);
                let nearest = (0..of_day.len()).min_by_key(apart).filter(|place| apart(place) <= self.length);
                nearest.map(|place| from + place)
            }
        }
    }

    // The intervals at the same time of earlier days, the newest first; of days of the same type, or of all.
    fn earlier(&self, interval: usize, same: bool) -> impl Iterator<Item = usize> {
        let Interval { day, second } = self.intervals[interval];
        let days = (0..day).rev().filter(move |earlier| !same || self.types[*earlier] == self.types[day]);
        days.filter_map(move |earlier| self.at(earlier, second))
    }

    // The interval before `known` that is like another one.
    fn like(&self, interval: usize, known: usize) -> Option<usize> {
        self.earlier(interval, true).find(|earlier| *earlier < known && self.values[*earlier].is_finite())
    }

    // The same, or without one, that at the same time of the newest day of any type, or the newest value.
    fn newest(&self, interval: usize, known: usize) -> Option<usize> {
        let is_known = |earlier: &usize| *earlier < known && self.values[*earlier].is_finite();
        let of_any_day = || self.earlier(interval, false).find(is_known);
        self.like(interval, known).or_else(of_any_day).or_else(|| (0..known).rev().find(is_known))
    }

    // The error of what is said of a past interval `step` intervals before it.
    fn error(&self, interval: usize, step: usize) -> Option<f64> {
        let value = self.values[interval];
        let known = interval.checked_sub(step).filter(|_| value.is_finite())?;
        Some(f64::from(value) - f64::from(self.values[self.newest(interval, known)?]))
    }

    // Sorted errors at the same time of past days of the same type, as many steps ahead.
    fn errors(&self, step: usize) -> Vec<f64> {
        let known = self.values.len();
        let past = self.earlier(known + step, true).filter(|past| *past < known);
        sorted(past.filter_map(|past| self.error(past, step)).take(ERRORS_MAX))
    }

    // Those of all past intervals.
    fn errors_of_all(&self, step: usize) -> Vec<f64> {
        sorted((0..self.values.len()).filter_map(|past| self.error(past, step)))
    }
}

fn sorted(errors: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut errors: Vec<f64> = errors.collect();
    errors.sort_unstable_by(f64::total_cmp);
    errors
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;
    use jiff::civil::date;
    use jiff::tz::TimeZone;
    use meterline_schemas::quantiles::{CENTRAL_80, LEVELS, MEDIAN};

    use super::super::{ByDayType, SeasonalNaive};
    use super::*;
    use crate::forecaster::{Forecaster, Model, Task};
    use crate::holidays::Holidays;

    fn fitted(panel: &Panel, holidays: &Holidays) -> Box<dyn Forecaster> {
        let task = Task { holidays: holidays.clone(), ..Task::new(24, 7 * 24, 1) };
        ByDayType.fit(panel, &task, &mut |_| std::ops::ControlFlow::Continue(())).unwrap()
    }

    // Intervals of days in Lisbon, each of which says which day and hour it is of: 100 for each day after `first`.
    fn numbered(frequency: Frequency, first: Date, days: i64) -> Panel {
        let zone = TimeZone::get("Europe/Lisbon").unwrap();
        let midnight = |day: i64| {
            let day = first.checked_add(day.days()).unwrap();
            day.to_zoned(zone.clone()).unwrap().timestamp().as_microsecond()
        };
        let value = |interval: i64| {
            let local = calendar::local(frequency.advance(midnight(0), interval, &zone), &zone).unwrap();
            let after = first.until(local.date()).unwrap().get_days();
            100.0 * after as f32 + f32::from(local.hour()) + f32::from(local.minute()) / 60.0
        };
        let count = frequency.steps_between(midnight(0), midnight(days), &zone);
        let series = Series::new("a", midnight(0), (0..count).map(value).collect());
        Panel::new(frequency, zone, vec![series])
    }

    // Of which day each forecast is, and of which time: the values are those of `numbered`.
    fn sources(panel: &Panel, holidays: &Holidays, horizon: usize) -> Vec<(i64, f64)> {
        let forecast = fitted(panel, holidays).forecast(panel, horizon).remove(0).unwrap();
        let of = |row: &[f64; LEVELS.len()]| ((row[MEDIAN] / 100.0).floor() as i64, row[MEDIAN] % 100.0);
        forecast.quantiles.iter().map(of).collect()
    }

    #[test]
    fn each_day_is_as_the_newest_of_its_type_and_a_holiday_as_a_sunday() {
        // Day 0 is Monday, the 7th of September 2026; days 21 and 29, a Monday and a Tuesday, are holidays.
        let first = date(2026, 9, 7);
        let day = |after: i64| first.checked_add(after.days()).unwrap();
        let holidays = Holidays::none().with([day(21), day(29)]);
        for frequency in [Frequency::HOUR, Frequency::QUARTER_HOUR] {
            let per_day = frequency.per_day();
            for (days, expected) in [
                // Up to the holiday in the past: Saturday, Sunday, and the holiday as the Sunday before.
                (19, vec![12, 13, 13, 18, 18]),
                // After it: a workday is as the last Friday, not as the holiday.
                (22, vec![18, 18, 18, 18, 19, 21]),
                // Up to the second one, which is as the Sunday right before.
                (28, vec![25, 27, 25]),
                // A Sunday is as a holiday that is newer than the last Sunday.
                (30, vec![28, 28, 28, 26, 29]),
            ] {
                let panel = numbered(frequency, first, days);
                let found = sources(&panel, &holidays, expected.len() * per_day);
                for (step, (source, time)) in found.into_iter().enumerate() {
                    assert_eq!(source, expected[step / per_day], "{frequency}, {days} days, step {step}");
                    let expected = (step % per_day) as f64 * 24.0 / per_day as f64;
                    assert!((time - expected).abs() < 0.01, "{frequency}, step {step}: {time}");
                }
            }
        }
    }

    #[test]
    fn the_time_of_day_is_that_of_the_clock_on_the_wall() {
        // Summer ends on Sunday, the 25th of October 2026, and begins on Sunday, the 28th of March 2027.
        let holidays = Holidays::none().with([date(2026, 12, 25)]);
        for first in [date(2026, 10, 5), date(2027, 3, 8)] {
            // After Monday the newest workday is Monday; after the Sunday of the change it is Friday.
            for (days, source) in [(22, 21), (21, 18)] {
                // Two hours have other times in summer than in winter.
                for (frequency, apart) in [(Frequency::HOUR, 0.0), (Frequency::Seconds(7200), 1.0)] {
                    let (panel, whole) = (numbered(frequency, first, days), numbered(frequency, first, days + 1));
                    let actual = &whole.series[0].values[panel.series[0].values.len()..];
                    for (step, (day, time)) in sources(&panel, &holidays, actual.len()).into_iter().enumerate() {
                        let expected = f64::from(actual[step]) % 100.0;
                        assert!((time - expected).abs() < apart + 0.01, "{frequency} {first} {days} {step}: {time}");
                        assert!(day == source || apart > 0.0, "{frequency} {first} {days} {step}: {day}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_value_that_is_missing_is_that_of_the_day_before_of_the_type_and_a_short_series_has_its_newest() {
        let holidays = Holidays::none().with([date(2026, 12, 25)]);
        let mut panel = numbered(Frequency::HOUR, date(2026, 9, 7), 11);
        // On Friday: Thursday is known but for an hour.
        panel.series[0].values[10 * 24 + 5] = f32::NAN;
        let found = sources(&panel, &holidays, 48);
        assert_eq!((found[4].0, found[5].0, found[6].0, found[29].0), (10, 9, 10, 5));
        // The first Saturday of a series is as the Friday before it, and less than a day is as its newest value.
        let panel = numbered(Frequency::HOUR, date(2026, 9, 7), 5);
        assert!(sources(&panel, &holidays, 24).iter().all(|(day, _)| *day == 4));
        let short = panel.with(vec![Series::new("a", panel.series[0].start, vec![1.0, 3.0, f32::NAN])]);
        let found = fitted(&short, &holidays).forecast(&short, 48);
        assert!(found[0].as_ref().unwrap().quantiles.iter().all(|row| row[MEDIAN] == 3.0 || row[MEDIAN] == 1.0));
        let nothing = panel.with(vec![Series::new("a", panel.series[0].start, vec![f32::NAN; 30])]);
        let error = NoForecast::MissingContext { present: 0, needed: 1 };
        assert_eq!(fitted(&nothing, &holidays).forecast(&nothing, 3), vec![Err(error)]);
    }

    #[test]
    fn quantiles_are_the_rule_s_own_errors_on_days_of_the_type() {
        let holidays = Holidays::none().with([date(2026, 12, 25)]);
        let mut panel = numbered(Frequency::HOUR, date(2026, 6, 1), 8 * 7);
        // Workdays are as one another but at noon, where they differ by one from day to day; Saturdays differ by six.
        for (hour, value) in panel.series[0].values.iter_mut().enumerate() {
            let (day, hour) = (hour / 24, hour % 24);
            *value = match day % 7 {
                5 => 6.0 * (day / 7 % 2) as f32,
                6 => 0.0,
                _ if hour == 12 => (day % 7 % 2) as f32,
                _ => 50.0,
            };
        }
        let found = fitted(&panel, &holidays).forecast(&panel, 7 * 24).remove(0).unwrap();
        let spread = |step: usize| found.quantiles[step][CENTRAL_80.1] - found.quantiles[step][CENTRAL_80.0];
        assert_eq!((spread(0), spread(11), spread(6 * 24 + 3)), (0.0, 0.0, 0.0));
        assert!(spread(12) > 0.9 && spread(5 * 24 + 3) > 5.9, "{} {}", spread(12), spread(5 * 24 + 3));
        assert!(found.quantiles.iter().all(|row| row.is_sorted()));
    }

    #[test]
    fn without_days_off_and_where_intervals_are_no_shorter_than_a_day_it_is_the_baseline() {
        let noisy = |panel: &mut Panel| {
            let values = panel.series[0].values.iter_mut().enumerate();
            values.for_each(|(place, value)| *value = ((place * 7919) % 101) as f32);
        };
        let days = Holidays::of("Portugal").unwrap();
        for (frequency, holidays) in [(Frequency::HOUR, Holidays::none()), (Frequency::Day, days.clone())] {
            let mut panel = numbered(frequency, date(2026, 9, 7), 40);
            noisy(&mut panel);
            let model = fitted(&panel, &holidays);
            let baseline = SeasonalNaive::for_frequency(frequency);
            assert_eq!((model.name(), model.artifact()), ("seasonal_naive", baseline.artifact()));
            assert_eq!(model.forecast(&panel, 30), baseline.forecast(&panel, 30));
        }
        // It is kept with its days off.
        let mut panel = numbered(Frequency::HOUR, date(2026, 9, 7), 100);
        noisy(&mut panel);
        let model = fitted(&panel, &days);
        let kept = SeasonalNaive::from_bytes(&model.artifact().unwrap()).unwrap();
        assert_eq!(model.name(), "seasonal_naive_day_types");
        assert_eq!((kept.name(), kept.forecast(&panel, 30)), (model.name(), model.forecast(&panel, 30)));
        // No more is looked at than it says.
        let newest = panel.newest(looked_at(Frequency::HOUR));
        assert_eq!(model.forecast(&newest, 30), model.forecast(&panel, 30));
    }
}
