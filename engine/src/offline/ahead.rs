//! Are the covariates that are known ahead there over a horizon, and what if not.

use std::ops::Range;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use meterline_models::data::{Known, Panel, Series};
use meterline_schemas::Micros;
use meterline_schemas::time::{DAY, format_micros};

/// What is taken in place of a value that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Fallback {
    /// That of the last day that has one, at the same local time.
    LastDay,
    /// That of the last week that has one, on the same weekday at the same local time.
    LastWeek,
}

impl Fallback {
    const fn days(self) -> i64 {
        match self {
            Fallback::LastDay => 1,
            Fallback::LastWeek => 7,
        }
    }
}

/// What was filled of a covariate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filled {
    /// The covariate.
    pub covariate: String,
    /// Values that were missing.
    pub values: usize,
    /// Start of the oldest interval that one was taken from.
    pub oldest: Micros,
}

/// A covariate that is known ahead is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "covariate `{covariate}` of series `{series}` is missing for {missing} of the intervals that are to be forecast, the \
     first of which begins at {}{}",
    format_micros(*.at),
    remedy(*.tried)
)]
pub struct MissingAhead {
    /// The covariate.
    pub covariate: String,
    /// The series.
    pub series: String,
    /// Start of the first interval that lacks it.
    pub at: Micros,
    /// Intervals that lack it.
    pub missing: usize,
    /// What was to be taken in its place, and is missing, too.
    pub tried: Option<Fallback>,
}

fn remedy(tried: Option<Fallback>) -> &'static str {
    match tried {
        None => {
            ": add rows with it (a row needs no value), or take that of the last day or week by --covariate-fallback last_day \
             or last_week"
        }
        Some(_) => ", and there is none of an earlier day to be taken: add rows with it (a row needs no value)",
    }
}

/// Sees to it that every covariate that is known ahead has a value in those intervals of each series that `within` says,
/// and says what was filled for it.
///
/// # Errors
/// The first that is missing, where there is no fallback, or where it finds nothing.
pub fn complete(
    panel: &mut Panel,
    fallback: Option<Fallback>,
    within: impl Fn(&Series) -> Range<usize>,
) -> Result<Vec<Filled>, MissingAhead> {
    let mut all = Vec::new();
    let (frequency, zone) = (panel.frequency, panel.zone.clone());
    for (number, covariate) in panel.covariates.iter().enumerate().filter(|(_, of)| of.known == Known::Ahead) {
        let mut filled = Filled { covariate: covariate.name.clone(), values: 0, oldest: Micros::MAX };
        for series in &mut panel.series {
            let within = within(series);
            let Some(column) = series.covariates.get_mut(number) else { continue };
            let missing: Vec<i64> =
                within.map(|interval| interval as i64).filter(|interval| column.at(*interval).is_nan()).collect();
            let Some(last) = missing.last() else { continue };
            let mut values = column.values.to_vec();
            let length = usize::try_from(last + 1 - column.offset).unwrap_or(0);
            values.resize(length.max(values.len()), f32::NAN);
            for interval in &missing {
                let start = frequency.advance(series.start, *interval, &zone);
                let found = fallback.and_then(|fallback| {
                    let earlier = (1..).map(|times| {
                        let at = frequency.floor(days_before(start, times * fallback.days(), &zone), &zone);
                        (at, frequency.steps_between(series.start, at, &zone) - column.offset)
                    });
                    let there = earlier.take_while(|(_, place)| *place >= 0);
                    let mut values = there.map(|(at, place)| (at, values.get(place as usize).copied()));
                    values.find_map(|(at, value)| Some((at, value.filter(|value| !value.is_nan())?)))
                });
                let Some((from, value)) = found else {
                    return Err(MissingAhead {
                        covariate: covariate.name.clone(),
                        series: series.id.clone(),
                        at: start,
                        missing: missing.len(),
                        tried: fallback,
                    });
                };
                values[(interval - column.offset) as usize] = value;
                filled.values += 1;
                filled.oldest = filled.oldest.min(from);
            }
            column.values = values.into();
        }
        if filled.values > 0 {
            all.push(filled);
        }
    }
    Ok(all)
}

// The same local time so many days earlier.
fn days_before(at: Micros, days: i64, zone: &TimeZone) -> Micros {
    let local = || {
        let zoned = Timestamp::from_microsecond(at).ok()?.to_zoned(zone.clone());
        let earlier = zoned.checked_sub(Span::new().try_days(days).ok()?).ok()?;
        Some(earlier.timestamp().as_microsecond())
    };
    local().unwrap_or_else(|| at.saturating_sub(days.saturating_mul(DAY)))
}

#[cfg(test)]
mod tests {
    use meterline_models::data::{Column, Covariate};
    use meterline_schemas::Frequency;
    use meterline_schemas::time::HOUR;

    use super::*;

    // Ten days of hours from a Monday on, and a covariate with the value 100 · day + hour where `known` says so.
    fn panel(zone: TimeZone, start: Micros, known: impl Fn(i64) -> bool) -> Panel {
        let mut series = Series::new("m1", start, vec![1.0; 240]);
        let value = |i: i64| if known(i) { (i / 24 * 100 + i % 24) as f32 } else { f32::NAN };
        series.covariates = vec![Column { offset: 0, values: (0..300).map(value).collect() }];
        let covariates = vec![Covariate { name: "tariff".into(), known: Known::Ahead }];
        Panel { covariates, ..Panel::new(Frequency::HOUR, zone, vec![series]) }
    }

    fn horizon(series: &Series) -> Range<usize> {
        series.values.len()..series.values.len() + 48
    }

    #[test]
    fn what_is_missing_is_named_with_the_remedy_or_taken_from_the_last_day_or_week() {
        let lacking = |i: i64| i < 250;
        let error = complete(&mut panel(TimeZone::UTC, 0, lacking), None, horizon).unwrap_err().to_string();
        for words in ["`tariff`", "`m1`", "1970-01-11T10:00:00Z", "for 38", "add rows", "--covariate-fallback last_day"]
        {
            assert!(error.contains(words), "{error}");
        }
        for (fallback, first, last, day) in
            [(Fallback::LastDay, 910.0, 923.0, 9), (Fallback::LastWeek, 310.0, 423.0, 3)]
        {
            let mut panel = panel(TimeZone::UTC, 0, lacking);
            let filled = complete(&mut panel, Some(fallback), horizon).unwrap();
            let oldest = day * DAY + 10 * HOUR;
            assert_eq!(filled, [Filled { covariate: "tariff".into(), values: 38, oldest }]);
            let at = |interval| panel.series[0].covariates[0].at(interval);
            assert_eq!((at(249), at(250), at(287)), (1009.0, first, last));
            assert!(at(288).is_nan());
        }
    }

    #[test]
    fn only_what_is_asked_for_is_looked_at_and_nothing_comes_of_nothing() {
        let gap = |i: i64| i != 30;
        let mut whole = panel(TimeZone::UTC, 0, gap);
        let before = whole.clone();
        assert_eq!(complete(&mut whole, None, horizon), Ok(Vec::new()));
        assert_eq!(format!("{whole:?}"), format!("{before:?}"));
        // What is known of the past alone is not asked for ahead.
        let mut past = panel(TimeZone::UTC, 0, |_| false);
        past.covariates[0].known = Known::Past;
        assert_eq!(complete(&mut past, None, horizon), Ok(Vec::new()));
        for known in [-1, 245] {
            let mut panel = panel(TimeZone::UTC, 0, |i| i == known);
            let error = complete(&mut panel, Some(Fallback::LastWeek), horizon).unwrap_err();
            assert_eq!(error.at, 240 * HOUR);
            assert!(!error.to_string().contains("fallback"), "{error}");
        }
    }

    #[test]
    fn a_day_earlier_is_the_same_local_time_also_where_the_clocks_change() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        // Days of tariffs by the clock: Monday 2024-03-25 00:00, and the clocks go forward on the Sunday.
        let start = "2024-03-24T23:00:00Z".parse::<Timestamp>().unwrap().as_microsecond();
        let mut panel = panel(zone, start, |i| i < 146);
        let filled = complete(&mut panel, Some(Fallback::LastDay), |_| 146..192).unwrap();
        assert_eq!(filled[0].values, 46);
        let at = |interval| panel.series[0].covariates[0].at(interval);
        // Sunday 03:00 is the third hour of the day; its like is the fourth of Saturday.
        assert_eq!((at(146), at(147), at(166)), (503.0, 504.0, 523.0));
        assert_eq!(at(167), 600.0);
    }
}
