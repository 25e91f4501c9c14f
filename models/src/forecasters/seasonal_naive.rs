//! Seasonal naive: what was one season ago comes again, as uncertain as that used to be; and the same by types of days
//! (`day_types`).

mod day_types;

use std::collections::BTreeMap;

use jiff::civil::Date;
use meterline_schemas::Frequency;
use meterline_schemas::quantiles::LEVELS;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::day_types::Days;
use crate::artifact::{self, ArtifactError};
use crate::calendar;
use crate::data::Panel;
use crate::fill::fill_missing;
use crate::forecaster::{FitError, Forecaster, Model, NoForecast, Progress, SeriesForecast, Task};
use crate::holidays::{DayType, Holidays};
use crate::metrics::empirical_quantile;

/// With fewer errors than this at one phase of the season, the errors of all phases are pooled.
const ERRORS_MIN: usize = 5;
/// Most recent errors that a quantile is taken from; they bound the time per forecast step.
const ERRORS_MAX: usize = 400;

/// Name of the kind.
pub(crate) const NAME: &str = "seasonal_naive";
const FORMAT: u32 = 3;

/// What comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Rule {
    Short,
    Long,
    Usual,
    DayTypes,
}

/// The usual baseline as a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct Naive;

impl Model for Naive {
    fn name(&self) -> &str {
        NAME
    }

    fn fit(&self, panel: &Panel, _: &Task, _: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
        Ok(Box::new(SeasonalNaive::for_frequency(panel.frequency)))
    }
}

/// The kind of model: [`SeasonalNaive::by_day_type`] with the days off that it is fitted with.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByDayType;

impl Model for ByDayType {
    fn name(&self) -> &str {
        NAME
    }

    fn fit(&self, panel: &Panel, task: &Task, _: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
        Ok(Box::new(SeasonalNaive::by_day_type(panel.frequency, &task.holidays)))
    }
}

/// The baseline that every model must beat, and the labelled fallback where a model has no forecast.
///
/// The median is the value one season before (two seasons, where one season before is after the origin, and so on);
/// the other quantiles add the empirical quantiles of the errors that this rule made in the series' own past, at the
/// same phase of the shortest season and the same number of seasons ahead, centred on their median.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeasonalNaive {
    rule: Rule,
    /// Phases that errors are grouped by.
    phases: usize,
    /// Seasons in intervals, the preferred one first; a series uses the first of which it has two, else the last.
    seasons: Vec<usize>,
    /// Days off; none where the rule is not by types of days.
    holidays: Holidays,
}

impl SeasonalNaive {
    /// The season of one day below a day, of a week for days, of a year for weeks and months.
    pub fn short(frequency: Frequency) -> SeasonalNaive {
        let season = frequency.season();
        SeasonalNaive { rule: Rule::Short, phases: season, seasons: vec![season], holidays: Holidays::none() }
    }

    /// The season of one week below a day, where the series has at least one week; otherwise as
    /// [`SeasonalNaive::short`].
    pub fn long(frequency: Frequency) -> SeasonalNaive {
        let season = frequency.season();
        let rule = Rule::Long;
        SeasonalNaive { rule, phases: season, seasons: seasons(frequency), holidays: Holidays::none() }
    }

    /// The usual baseline: below a day, each series with at least two weeks of values uses the season of one week (load
    /// follows the working week, and errors of at least one week are known then), any other the season of one day.
    pub fn for_frequency(frequency: Frequency) -> SeasonalNaive {
        SeasonalNaive { rule: Rule::Usual, ..SeasonalNaive::long(frequency) }
    }

    /// Where days off are known and intervals are shorter than a day, each step is what was at the same local time of the
    /// newest day of the same type (workday, Saturday, Sunday or day off) before the origin, with the errors that this rule
    /// made on days of the type in the newest eight weeks; as [`SeasonalNaive::for_frequency`] otherwise.
    pub fn by_day_type(frequency: Frequency, holidays: &Holidays) -> SeasonalNaive {
        let usual = SeasonalNaive::for_frequency(frequency);
        match frequency {
            Frequency::Seconds(_) if !holidays.is_none() => {
                SeasonalNaive { rule: Rule::DayTypes, holidays: holidays.clone(), ..usual }
            }
            _ => usual,
        }
    }

    /// Intervals of history that the usual baseline makes use of for `horizon` steps: as far back as the last step
    /// looks, and two of the longest season more, so that it chooses that season and knows enough of its errors. It
    /// sees a difference in longer history only in more errors.
    pub fn history(frequency: Frequency, horizon: usize) -> usize {
        let longest = seasons(frequency).first().copied().unwrap_or(1);
        longest * (horizon.div_ceil(longest).max(1) + 2)
    }

    /// Intervals of history that either rule of the kind makes use of.
    pub(crate) fn lookback(frequency: Frequency, horizon: usize) -> usize {
        SeasonalNaive::history(frequency, horizon).max(day_types::looked_at(frequency))
    }

    /// Reads an artifact.
    ///
    /// # Errors
    /// It is none of these.
    pub fn from_bytes(bytes: &[u8]) -> Result<SeasonalNaive, ArtifactError> {
        let naive: SeasonalNaive = artifact::decode(bytes, NAME, FORMAT)?;
        match naive.phases > 0 && !naive.seasons.is_empty() && !naive.seasons.contains(&0) {
            true => Ok(naive),
            false => Err(ArtifactError::damaged("it has no season")),
        }
    }

    fn forecast_series(&self, values: &[f32], horizon: usize) -> Result<SeriesForecast, NoForecast> {
        let n = values.len();
        let season = self.seasons.iter().copied().find(|s| n >= 2 * s).unwrap_or(self.phases);
        let Some(filled) = fill_missing(values, &[season, self.phases]) else {
            return Err(NoForecast::MissingContext { present: 0, needed: 1 });
        };
        let mut forecast = SeriesForecast { mean: Vec::with_capacity(horizon), quantiles: Vec::with_capacity(horizon) };
        let mut pooled = Pooled::default();
        for step in 0..horizon {
            let distance = season * (step / season + 1);
            let value = match (n + step).checked_sub(distance).and_then(|i| filled.get(i)) {
                Some(value) => f64::from(*value),
                // The series is shorter than one season: its last value is all there is.
                None => filled.last().copied().map_or(f64::NAN, f64::from),
            };
            let errors = errors_at_phase(values, &filled, step, self.phases, distance);
            let errors = if errors.len() >= ERRORS_MIN { &errors } else { pooled.get(values, &filled, distance) };
            add(&mut forecast, value, errors);
        }
        Ok(forecast)
    }

    fn forecast_days(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        let panel = &panel.newest(day_types::looked_at(panel.frequency));
        let types: BTreeMap<Date, DayType> =
            calendar::dates(panel, horizon).map(|day| (day, self.holidays.day_type(day))).collect();
        panel.series.par_iter().map(|series| Days::of(panel, series, &types, horizon).forecast()).collect()
    }
}

/// Adds the step whose value is likely this one, as uncertain as these sorted errors are around their median.
fn add(forecast: &mut SeriesForecast, value: f64, errors: &[f64]) {
    forecast.mean.push(value + mean(errors) - centre(errors));
    forecast.quantiles.push(LEVELS.map(|level| value + centred_quantile(errors, level)));
}

/// Seasons of a frequency in intervals, the longest first.
fn seasons(frequency: Frequency) -> Vec<usize> {
    let season = frequency.season();
    match frequency {
        Frequency::Seconds(_) => vec![7 * season, season],
        Frequency::Day | Frequency::Week | Frequency::Month => vec![season],
    }
}

/// Sorted errors of the rule "`distance` intervals ago comes again" at the phase of forecast step `step`.
fn errors_at_phase(values: &[f32], filled: &[f32], step: usize, phases: usize, distance: usize) -> Vec<f64> {
    let first_back = phases * (step / phases + 1);
    let mut errors = Vec::new();
    let mut back = first_back - step;
    while let Some(i) = values.len().checked_sub(back).filter(|i| *i >= distance) {
        let error = f64::from(values[i]) - f64::from(filled[i - distance]);
        if error.is_finite() {
            errors.push(error);
            if errors.len() == ERRORS_MAX {
                break;
            }
        }
        back += phases;
    }
    errors.sort_unstable_by(f64::total_cmp);
    errors
}

/// Errors of all phases, computed once a distance.
#[derive(Default)]
struct Pooled {
    distance: usize,
    errors: Vec<f64>,
}

impl Pooled {
    fn get(&mut self, values: &[f32], filled: &[f32], distance: usize) -> &[f64] {
        if self.distance != distance {
            self.distance = distance;
            let pairs = values.iter().skip(distance).zip(filled);
            self.errors =
                pairs.map(|(now, past)| f64::from(*now) - f64::from(*past)).filter(|e| e.is_finite()).collect();
            self.errors.sort_unstable_by(f64::total_cmp);
        }
        &self.errors
    }
}

fn centre(errors: &[f64]) -> f64 {
    if errors.is_empty() { 0.0 } else { empirical_quantile(errors, 0.5) }
}

fn centred_quantile(errors: &[f64], level: f64) -> f64 {
    if errors.is_empty() { 0.0 } else { empirical_quantile(errors, level) - centre(errors) }
}

fn mean(errors: &[f64]) -> f64 {
    if errors.is_empty() { 0.0 } else { errors.iter().sum::<f64>() / errors.len() as f64 }
}

impl Forecaster for SeasonalNaive {
    fn name(&self) -> &str {
        match self.rule {
            Rule::Short => "seasonal_naive_short",
            Rule::Long => "seasonal_naive_long",
            Rule::Usual => NAME,
            Rule::DayTypes => "seasonal_naive_day_types",
        }
    }

    fn artifact(&self) -> Option<Vec<u8>> {
        Some(artifact::encode(NAME, FORMAT, self))
    }

    /// Fails only for a series without a single value. A series without any past error has quantiles that are all
    /// equal.
    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        match self.rule {
            Rule::DayTypes => self.forecast_days(panel, horizon),
            _ => panel.series.par_iter().map(|series| self.forecast_series(&series.values, horizon)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Series;
    use jiff::tz::TimeZone;
    use meterline_schemas::quantiles::{CENTRAL_80, MEDIAN};

    fn forecast(
        model: &SeasonalNaive,
        frequency: Frequency,
        values: Vec<f32>,
        horizon: usize,
    ) -> Result<SeriesForecast, NoForecast> {
        let series = vec![Series::new("a", 0, values)];
        model.forecast(&Panel::new(frequency, TimeZone::UTC, series), horizon).remove(0)
    }

    fn medians(forecast: &SeriesForecast) -> Vec<f64> {
        forecast.quantiles.iter().map(|q| q[MEDIAN]).collect()
    }

    #[test]
    fn repeats_the_last_season_as_often_as_the_horizon_needs() {
        let day: Vec<f32> = (0..24).map(|h| h as f32).collect();
        let found = forecast(&SeasonalNaive::short(Frequency::HOUR), Frequency::HOUR, day.clone(), 50).unwrap();
        let expected: Vec<f64> = (0..50).map(|h| f64::from(h % 24)).collect();
        assert_eq!(medians(&found), expected);
    }

    #[test]
    fn the_weekly_season_needs_two_weeks() {
        let hours = |days: usize| (0..days * 24).map(|h| (h / 24) as f32).collect::<Vec<f32>>();
        let model = SeasonalNaive::for_frequency(Frequency::HOUR);
        for (days, expected) in [(13, 12.0), (14, 7.0), (20, 13.0)] {
            let found = forecast(&model, Frequency::HOUR, hours(days), 24).unwrap();
            assert_eq!(found.quantiles[0][MEDIAN], expected, "{days} days");
        }
    }

    #[test]
    fn its_history_is_enough_for_the_longest_season_and_its_errors() {
        for (frequency, horizon, expected) in [
            ("PT15M", 2 * 96, 3 * 7 * 96),
            ("PT1H", 0, 3 * 7 * 24),
            ("PT1H", 8 * 24, 4 * 7 * 24),
            ("P1D", 14, 4 * 7),
            ("P1W", 8, 3 * 52),
            ("P1M", 12, 3 * 12),
        ] {
            let frequency: Frequency = frequency.parse().unwrap();
            let history = SeasonalNaive::history(frequency, horizon);
            assert_eq!(history, expected, "{frequency} {horizon}");
            let model = SeasonalNaive::for_frequency(frequency);
            assert!(model.seasons.iter().all(|season| history >= 2 * season), "{frequency}");
        }
    }

    #[test]
    fn quantiles_are_its_own_past_errors_at_the_same_phase() {
        // Hour 0 alternates by ±1 from day to day, every other hour is certain.
        let values: Vec<f32> = (0..24 * 40).map(|h| if h % 24 == 0 { ((h / 24) % 2) as f32 } else { 5.0 }).collect();
        let found = forecast(&SeasonalNaive::short(Frequency::HOUR), Frequency::HOUR, values, 24).unwrap();
        let spread = |step: usize| found.quantiles[step][CENTRAL_80.1] - found.quantiles[step][CENTRAL_80.0];
        assert_eq!(spread(0), 2.0);
        assert!((1..24).all(|step| spread(step) == 0.0));
    }

    #[test]
    fn quantiles_are_ordered_around_the_median() {
        let values: Vec<f32> = (0..24 * 30).map(|h| ((h * 7919) % 101) as f32).collect();
        let found = forecast(&SeasonalNaive::for_frequency(Frequency::HOUR), Frequency::HOUR, values, 48).unwrap();
        assert!(found.quantiles.iter().all(|q| q.windows(2).all(|w| w[0] <= w[1])));
        assert_eq!(found.mean.len(), 48);
    }

    #[test]
    fn a_missing_value_is_that_of_the_season_before() {
        let mut values: Vec<f32> = (0..48).map(|h| h as f32).collect();
        values[30] = f32::NAN;
        let found = forecast(&SeasonalNaive::short(Frequency::HOUR), Frequency::HOUR, values, 24).unwrap();
        assert_eq!(found.quantiles[6][MEDIAN], 6.0);
        assert_eq!(found.quantiles[7][MEDIAN], 31.0);
    }

    #[test]
    fn only_a_series_without_any_value_has_no_forecast() {
        for frequency in ["PT1M", "PT15M", "PT1H", "P1D", "P1W", "P1M"] {
            let frequency: Frequency = frequency.parse().unwrap();
            let model = SeasonalNaive::for_frequency(frequency);
            for values in [vec![], vec![f32::NAN; 30]] {
                assert_eq!(
                    forecast(&model, frequency, values, 3),
                    Err(NoForecast::MissingContext { present: 0, needed: 1 })
                );
            }
            let found = forecast(&model, frequency, vec![f32::NAN, 4.0, f32::NAN], 3).unwrap();
            assert_eq!(medians(&found), vec![4.0; 3], "{frequency}");
        }
    }
}
