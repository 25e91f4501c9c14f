//! The classical models of [`crate::statistics`] as forecasters: each fits itself to a series when it forecasts it, to
//! the end of what there is of it. Those that look at regressors are given the covariates that are known ahead, and
//! whether a day that would be worked on is a holiday.

use std::collections::BTreeSet;

use jiff::civil::Date;
use meterline_schemas::Frequency;
use meterline_schemas::quantiles::LEVELS;
use rayon::prelude::*;

use crate::artifact::{self, ArtifactError};
use crate::calendar;
use crate::data::{Column, Covariate, Known, Panel, Series};
use crate::explain::{Explanation, Part, SERIES_MAX, by_part};
use crate::forecaster::{FitError, Forecaster, Model, NoForecast, Progress, SeriesForecast, Task};
use crate::holidays::Holidays;
use crate::statistics::{Component, Method, Request, Source, StatisticsError};

/// Seasons that they look back: sixteen weeks of hours, two years of days. What is older takes time and says little.
const SEASONS: usize = 112;
const FORMAT: u32 = 3;
/// What the regressor of holidays is called.
const DAY_OFF: &str = "day off";

/// The kind of model: one of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Classical {
    /// Which.
    pub method: Method,
}

/// One of them with what it was told once.
#[derive(Debug, Clone, PartialEq)]
pub struct FittedClassical {
    method: Method,
    // None of a model that makes no use of them.
    holidays: Holidays,
}

/// Values before its origin that a forecast looks at, at most.
pub fn lookback(frequency: Frequency) -> usize {
    SEASONS * frequency.season()
}

impl Model for Classical {
    fn name(&self) -> &str {
        self.method.name()
    }

    fn fit(&self, panel: &Panel, task: &Task, _: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
        // A week or a month is no day off.
        let has_days = matches!(panel.frequency, Frequency::Seconds(_) | Frequency::Day);
        let holidays = match has_days && self.method.takes_regressors() {
            true => task.holidays.clone(),
            false => Holidays::none(),
        };
        Ok(Box::new(FittedClassical { method: self.method, holidays }))
    }
}

impl Forecaster for FittedClassical {
    fn name(&self) -> &str {
        self.method.name()
    }

    fn artifact(&self) -> Option<Vec<u8>> {
        Some(artifact::encode(self.method.name(), FORMAT, &self.holidays))
    }

    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        let panel = &panel.newest(lookback(panel.frequency));
        let beside = Beside { panel, days_off: self.days_off(panel, horizon), horizon };
        panel.series.par_iter().map(|series| self.forecast_series(&beside, series)).collect()
    }

    fn explain_forecast(&self, panel: &Panel, horizon: usize) -> Vec<Explanation> {
        let panel = &panel.newest(lookback(panel.frequency));
        let beside = Beside { panel, days_off: self.days_off(panel, horizon), horizon };
        let explained = panel.series.par_iter().take(SERIES_MAX);
        let mut rows: Vec<Explanation> =
            explained.map(|series| self.explain_series(&beside, series)).collect::<Vec<_>>().concat();
        let rest = panel.series.len().saturating_sub(SERIES_MAX);
        rows.extend((rest > 0 && !rows.is_empty()).then(|| Explanation::left_out(self.method.name(), "series", rest)));
        rows
    }
}

impl FittedClassical {
    /// Reads an artifact.
    ///
    /// # Errors
    /// It is none of these.
    pub fn from_bytes(bytes: &[u8]) -> Result<FittedClassical, ArtifactError> {
        let kind = artifact::kind_of(bytes)?;
        let holidays = artifact::decode(bytes, kind, FORMAT)?;
        let method = Method::ALL.into_iter().find(|method| method.name() == kind);
        let fitted = |method| FittedClassical { method, holidays };
        method.map(fitted).ok_or_else(|| ArtifactError::Kind(kind.to_owned()))
    }

    // Those among the days of the panel and of the horizon that would be worked on.
    fn days_off(&self, panel: &Panel, horizon: usize) -> BTreeSet<Date> {
        match self.holidays.is_none() {
            true => BTreeSet::new(),
            false => calendar::dates(panel, horizon).filter(|day| self.holidays.is_workday_off(*day)).collect(),
        }
    }

    fn explain_series(&self, beside: &Beside<'_>, series: &Series) -> Vec<Explanation> {
        let values: Vec<f64> = series.values.iter().map(|value| f64::from(*value)).collect();
        let (names, regressors): (Vec<&str>, Vec<Vec<f64>>) = self.regressors(beside, series).into_iter().unzip();
        let components = self.method.components(&Request {
            values: &values,
            periods: &periods(beside.panel.frequency),
            regressors: &regressors,
            horizon: beside.horizon,
            levels: &LEVELS,
        });
        let named = |part: Component| {
            let term = match part.source {
                Source::Trend => "trend".to_owned(),
                Source::Season(period) => format!("season of {period} intervals"),
                Source::Regressor(place) => names.get(place).copied().unwrap_or_default().to_owned(),
                Source::Errors => "newest errors".to_owned(),
            };
            (term, part.values)
        };
        let terms: Vec<(String, Vec<f64>)> = components.unwrap_or_default().into_iter().map(named).collect();
        let like = Explanation::new(self.method.name(), Part::Component, "", 0.0);
        by_part(&Explanation { series: Some(series.id.clone()), ..like }, &terms)
    }

    fn forecast_series(&self, beside: &Beside<'_>, series: &Series) -> Result<SeriesForecast, NoForecast> {
        let values: Vec<f64> = series.values.iter().map(|value| f64::from(*value)).collect();
        let regressors: Vec<Vec<f64>> = self.regressors(beside, series).into_iter().map(|(_, column)| column).collect();
        let predicted = self.method.forecast(&Request {
            values: &values,
            periods: &periods(beside.panel.frequency),
            regressors: &regressors,
            horizon: beside.horizon,
            levels: &LEVELS,
        });
        let predicted = predicted.map_err(|error| no_forecast(&error, &values))?;
        let quantiles = predicted.quantiles.iter().map(|row| row.as_slice().try_into());
        let quantiles: Result<Vec<[f64; LEVELS.len()]>, _> = quantiles.collect();
        Ok(SeriesForecast { mean: predicted.mean, quantiles: quantiles.map_err(|_| NoForecast::NotFinite)? })
    }

    // What is known over past and horizon, by name.
    fn regressors<'p>(&self, beside: &Beside<'p>, series: &Series) -> Vec<(&'p str, Vec<f64>)> {
        match self.method.takes_regressors() {
            true => covariates(beside, series).into_iter().chain(day_off(beside, series)).collect(),
            false => Vec::new(),
        }
    }
}

/// What is beside the values of series.
struct Beside<'p> {
    panel: &'p Panel,
    days_off: BTreeSet<Date>,
    horizon: usize,
}

/// Seasons of a frequency in intervals: a day and a week below a day.
fn periods(frequency: Frequency) -> Vec<usize> {
    let season = frequency.season();
    match frequency {
        Frequency::Seconds(_) => vec![season, 7 * season],
        Frequency::Day | Frequency::Week | Frequency::Month => vec![season],
    }
}

/// 1 on a day off, 0 on others; `None` where the past has none, so that nothing is known of it.
fn day_off(beside: &Beside<'_>, series: &Series) -> Option<(&'static str, Vec<f64>)> {
    if beside.days_off.is_empty() {
        return None;
    }
    let Panel { frequency, zone, .. } = beside.panel;
    let is_off = |interval: usize| {
        let local = calendar::local(frequency.advance(series.start, interval as i64, zone), zone);
        local.is_some_and(|local| beside.days_off.contains(&local.date()))
    };
    let past = series.values.len();
    let column: Vec<f64> = (0..past + beside.horizon).map(|interval| f64::from(is_off(interval))).collect();
    // One that falls into a gap tells nothing.
    let is_seen = series.values.iter().zip(&column).any(|(value, off)| value.is_finite() && *off == 1.0);
    is_seen.then_some((DAY_OFF, column))
}

/// Covariates that are known over past and horizon without a gap, by name.
fn covariates<'p>(beside: &Beside<'p>, series: &Series) -> Vec<(&'p str, Vec<f64>)> {
    let panel = beside.panel;
    let ahead =
        panel.covariates.iter().zip(&series.covariates).filter(|(covariate, _)| covariate.known == Known::Ahead);
    let length = (series.values.len() + beside.horizon) as i64;
    let column = |(covariate, column): (&'p Covariate, &Column)| -> (&'p str, Vec<f64>) {
        (&covariate.name, (0..length).map(|interval| f64::from(column.at(interval))).collect())
    };
    ahead.map(column).filter(|(_, column)| column.iter().all(|value| value.is_finite())).collect()
}

fn no_forecast(error: &StatisticsError, values: &[f64]) -> NoForecast {
    let present = values.iter().filter(|value| value.is_finite()).count();
    match error {
        StatisticsError::TooShort { needed, .. } => NoForecast::MissingContext { present, needed: *needed },
        StatisticsError::NegativeDemand { .. } => NoForecast::BelowZero,
        _ => NoForecast::NotFinite,
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use jiff::ToSpan;
    use jiff::civil::date;
    use jiff::tz::TimeZone;
    use meterline_schemas::quantiles::MEDIAN;

    use super::*;
    use crate::holidays::DayType;

    fn fitted(method: Method, panel: &Panel, holidays: Holidays) -> Box<dyn Forecaster> {
        let task = Task { holidays, ..Task::new(48, 7 * 24, 1) };
        Classical { method }.fit(panel, &task, &mut |_| ControlFlow::Continue(())).unwrap()
    }

    // Six weeks of hours, each day alike but Sundays.
    fn panel() -> Panel {
        let value = |hour: usize| (hour % 24) as f32 + if hour / 24 % 7 == 6 { 5.0 } else { 10.0 };
        let series =
            vec![Series::new("a", 0, (0..6 * 168).map(value).collect()), Series::new("none", 0, vec![f32::NAN; 500])];
        Panel::new(Frequency::HOUR, TimeZone::UTC, series)
    }

    #[test]
    fn a_season_that_repeats_itself_is_found_and_nothing_has_no_forecast() {
        for method in [Method::SeasonalNaive, Method::Mstl, Method::Harmonic] {
            let found = fitted(method, &panel(), Holidays::none()).forecast(&panel(), 48);
            let forecast = found[0].as_ref().unwrap();
            for (hour, quantiles) in forecast.quantiles.iter().enumerate() {
                let expected = (hour % 24) as f64 + 10.0;
                assert!(
                    (quantiles[MEDIAN] - expected).abs() < 1.0,
                    "{} hour {hour}: {}",
                    method.name(),
                    quantiles[MEDIAN]
                );
            }
            assert!(found[1].is_err(), "{}", method.name());
        }
    }

    // Days from a Monday on, in Lisbon's time: on Sundays and on holidays there is less.
    const DAYS: i64 = 98;

    fn monday() -> Date {
        date(2026, 4, 6)
    }

    fn holidays() -> Holidays {
        let day = |after: i64| monday().checked_add(after.days()).unwrap();
        // A Wednesday, a Friday, a Tuesday and a Sunday of the past, and the second day of the horizon, a Tuesday.
        Holidays::none().with([day(16), day(46), day(78), day(48), day(DAYS + 1)])
    }

    fn load(frequency: Frequency, days: i64) -> Panel {
        let zone = TimeZone::get("Europe/Lisbon").unwrap();
        let start = monday().to_zoned(zone.clone()).unwrap().timestamp().as_microsecond();
        let end = monday().checked_add(days.days()).unwrap().to_zoned(zone.clone()).unwrap().timestamp();
        let count = frequency.steps_between(start, end.as_microsecond(), &zone);
        let holidays = holidays();
        let value = |interval: i64| {
            let local = calendar::local(frequency.advance(start, interval, &zone), &zone).unwrap();
            let of_hour = (std::f32::consts::TAU * f32::from(local.hour()) / 24.0).sin();
            let noise = ((interval * 7919) % 101) as f32 / 100.0;
            let is_off = holidays.day_type(local.date()) == DayType::DayOff;
            20.0 + 5.0 * of_hour + noise - if is_off { 8.0 } else { 0.0 }
        };
        let values = (0..count).map(value).collect();
        Panel::new(frequency, zone, vec![Series::new("a", start, values)])
    }

    #[test]
    fn a_holiday_is_forecast_as_those_of_the_past_were() {
        for (frequency, per_day) in [(Frequency::HOUR, 24), (Frequency::Day, 1)] {
            let (known, whole) = (load(frequency, DAYS), load(frequency, DAYS + 2));
            let horizon = 2 * per_day;
            let actual = &whole.series[0].values[known.series[0].values.len()..];
            for method in [Method::Harmonic, Method::Prophet] {
                let errors = |holidays: Holidays| -> [f64; 2] {
                    let model = fitted(method, &known, holidays);
                    let kept = FittedClassical::from_bytes(&model.artifact().unwrap()).unwrap();
                    let found = kept.forecast(&known, horizon).remove(0).unwrap();
                    let error = |step: usize| (found.mean[step] - f64::from(actual[step])).abs() / per_day as f64;
                    [(0..per_day).map(error).sum(), (per_day..horizon).map(error).sum()]
                };
                let (told, untold) = (errors(holidays()), errors(Holidays::none()));
                assert!(told[0] < 1.5 && told[1] < 1.5, "{} {frequency}: {told:?}", method.name());
                assert!(untold[1] > 4.0, "{} {frequency}: {untold:?}", method.name());
            }
            // What makes no use of them keeps none of them.
            let (with, without) =
                (fitted(Method::Ets, &known, holidays()), fitted(Method::Ets, &known, Holidays::none()));
            assert_eq!(with.artifact(), without.artifact());
        }
    }

    #[test]
    fn the_part_of_a_holiday_is_told() {
        let known = load(Frequency::HOUR, DAYS);
        let rows = fitted(Method::Harmonic, &known, holidays()).explain_forecast(&known, 48);
        assert!(rows.iter().any(|row| row.term == DAY_OFF && row.value < -1.0), "{rows:?}");
        // Where the past has no holiday, nothing is known of one.
        let later = Holidays::none().with([monday().checked_add((DAYS + 1).days()).unwrap()]);
        let [with, without] =
            [later, Holidays::none()].map(|days| fitted(Method::Harmonic, &known, days).forecast(&known, 48));
        assert_eq!(with, without);
        // Nor where its days are missing.
        let mut gap = load(Frequency::HOUR, DAYS);
        let zone = gap.zone.clone();
        for series in &mut gap.series {
            for (interval, value) in series.values.iter_mut().enumerate() {
                let at = Frequency::HOUR.advance(series.start, interval as i64, &zone);
                if calendar::local(at, &zone).is_some_and(|local| holidays().is_workday_off(local.date())) {
                    *value = f32::NAN;
                }
            }
        }
        let [with, without] =
            [holidays(), Holidays::none()].map(|days| fitted(Method::Harmonic, &gap, days).forecast(&gap, 48));
        assert_eq!(with, without);
    }
}
