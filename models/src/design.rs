//! What models of features see: a row of named numbers for one step of one forecast.
//!
//! A row says what is known at the origin about one interval after it: values at the same time of earlier days and weeks,
//! means of what came last, the calendar of the interval, where the sun stands then (of a task that has a place), and
//! covariates, where those are known that far. Values are given relative to the level of the last week and to the spread of
//! the series, so that one model can serve meters of every size. What is not known is NaN. Labels of the series come last,
//! the same in each of its rows: a model of one series alone leaves them out ([`Design::own_width`]).
//!
//! Lags are those of Hong, Wang, White (2015) and of the winners of GEFCom2014 in spirit: same hour, earlier days; for
//! weather also its own past, smoothed, as buildings feel it ("recency effect": Wang, Liu, Hong 2016).

mod labels;
mod parts;
mod prepared;
mod put;
mod seen;
mod smooth;
#[cfg(test)]
mod tests;

use meterline_schemas::Frequency;
use meterline_schemas::time::HOUR;

pub use self::parts::{DesignPart, Wanted};
use self::prepared::{Found, Prepared};
use self::put::Put;
pub use self::seen::{Seen, year};
use self::smooth::{exact_mean_of, mean_of};
use crate::data::{Known, Panel};
use crate::forecaster::Task;
use crate::holidays::DayType;

/// Days back, at the time of day of the target; the first is the newest that is known.
const DAY_LAGS: usize = 7;
/// Weeks back.
const WEEK_LAGS: usize = 4;
/// Earlier days of the same type of which the mean is a feature.
const SAME_TYPE: [usize; 2] = [3, 8];
/// How far back such days are looked for.
const SAME_TYPE_DAYS_MAX: usize = 42;
/// Harmonics of the day and of the year.
const DAY_HARMONICS: usize = 3;
const YEAR_HARMONICS: usize = 2;
/// Hours over which the means of a covariate before the target are taken.
const SMOOTHED_HOURS: [i64; 3] = [3, 24, 72];
/// Days before the origin that the spread is taken from, the most that a row looks back.
const SPREAD_DAYS: usize = 56;
/// What is told of the sun in an interval: see [`Sunlight`](crate::sun::Sunlight).
const SUN: [&str; 2] = ["sun", "sun_elevation"];
/// How much more light there is than at the newest lags, and its mean of the week that the level is of: what feeds in by
/// the sun differs from its lags and its level as the light does.
const SUN_SINCE: [&str; 3] = ["sun_since_lag_1d", "sun_since_lag_1w", "sun_last_week"];
/// Hours in which what the newest values tell fades.
const FADING_HOURS: [f64; 2] = [3.0, 12.0];

/// The rows of a panel.
pub struct Design {
    season: usize,
    horizon: usize,
    names: Vec<String>,
    // How many of these, the last ones, are about labels.
    of_labels: usize,
    bent: Vec<usize>,
    // Names of the covariates that are known ahead.
    weather: Vec<String>,
    seen: Seen,
    // By covariate: whether it is known over the horizon.
    ahead: Vec<bool>,
    hour: f64,
    // Whether rows know where the sun stands.
    with_sun: bool,
    prepared: Vec<Prepared>,
}

/// The level and the spread by which the values of a row were normalised, in the unit of the series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normal {
    /// Mean of the last week before the origin.
    pub level: f64,
    /// Standard deviation of the last eight weeks before the origin.
    pub spread: f64,
}

/// Values before its origin that a row looks at, at most.
pub fn lookback(frequency: Frequency) -> usize {
    SPREAD_DAYS * frequency.season()
}

/// First origin of a series for which a row says enough, as an index: fourteen seasons of so many intervals, of which each
/// is a day below a day.
pub const fn first_origin(season: usize) -> usize {
    14 * season
}

impl Design {
    /// The rows that the forecasts of a task need of the series of a panel. The panel may end after the origins that rows are
    /// asked for: a row knows nothing of what comes after its own, but for covariates that are known ahead and the sun.
    pub fn new(panel: &Panel, task: &Task) -> Design {
        Design::with(panel, Wanted::to_learn(task), &Seen::of(panel))
    }

    /// The rows that are wanted of all series, as [`Design::new`] for the panel that a model was fitted to would have them
    /// ([`Seen::of`]). Of one forecast, the newest [`lookback`] values of the panel are enough.
    pub fn with(panel: &Panel, wanted: Wanted<'_>, seen: &Seen) -> Design {
        let mut found = Found::default();
        let prepared = panel
            .series
            .iter()
            .map(|series| Prepared::new(panel, series, seen, wanted, &mut found).unwrap_or_else(Prepared::none));
        let weather = panel.covariates.iter().filter(|covariate| covariate.known == Known::Ahead);
        let mut design = Design {
            season: panel.frequency.season(),
            horizon: wanted.horizon,
            names: Vec::new(),
            of_labels: 0,
            bent: Vec::new(),
            weather: weather.map(|covariate| covariate.name.clone()).collect(),
            seen: seen.clone(),
            ahead: panel.covariates.iter().map(|covariate| covariate.known == Known::Ahead).collect(),
            hour: panel.frequency.nominal_micros() as f64 / HOUR as f64,
            with_sun: wanted.location.is_some(),
            prepared: prepared.collect(),
        };
        design.names = design.names_of(panel);
        let with_year = seen.with_year;
        let bent = |name: &str| {
            let mut bent = vec![name.to_owned(), format!("{name}_mean_24h")];
            bent.extend(["lag_1d", "lag_1w"].iter().filter(|_| with_year).map(|lag| format!("{name}_{lag}")));
            bent
        };
        let bent: Vec<String> = design.weather.iter().flat_map(|name| bent(name)).collect();
        let places = (0..).zip(&design.names).filter(|(_, name)| bent.contains(name));
        design.bent = places.map(|(place, _)| place).collect();
        let of_labels: Vec<String> = seen.labels.iter().flat_map(|label| label.names()).collect();
        design.of_labels = of_labels.len();
        design.names.extend(of_labels);
        design
    }

    /// Names of the features, in their order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Number of features.
    pub fn width(&self) -> usize {
        self.names.len()
    }

    /// Number of features before the labels: those that differ between rows of one series.
    pub fn own_width(&self) -> usize {
        self.names.len() - self.of_labels
    }

    /// Features whose effect need not be linear, by their places: what is known of the weather.
    pub fn bent(&self) -> &[usize] {
        &self.bent
    }

    /// Time of day of an interval of a series, in intervals since local midnight.
    pub fn phase(&self, series: usize, interval: usize) -> usize {
        let of_day = self.prepared.get(series).and_then(|prepared| prepared.of_day.get(interval));
        let passed = of_day.map_or(0.0, |(_, passed)| f64::from(*passed));
        ((passed * self.season as f64).round() as usize).min(self.season.saturating_sub(1))
    }

    /// Values of a series, filled where they are missing.
    pub fn values(&self, series: usize) -> &[f32] {
        self.prepared.get(series).map_or(&[], |prepared| &prepared.filled)
    }

    /// Standard deviation of all values of a series.
    pub fn spread(&self, series: usize) -> f64 {
        self.prepared.get(series).map_or(1.0, |prepared| prepared.spread(prepared.filled.len(), usize::MAX))
    }

    /// [`first_origin`] of its panel.
    pub fn first_origin(&self) -> usize {
        first_origin(self.season)
    }

    fn names_of(&self, panel: &Panel) -> Vec<String> {
        let mut names: Vec<String> = (1..=DAY_LAGS).map(|days| format!("lag_{days}d")).collect();
        names.extend((1..=WEEK_LAGS).map(|weeks| format!("lag_{weeks}w")));
        names.extend(["lag_1d_smooth", "lag_1w_smooth", "mean_of_days", "mean_of_weeks"].map(String::from));
        names.extend(SAME_TYPE.map(|days| format!("mean_of_{days}_like_days")));
        names.extend(["last_value", "last_day", "last_3_days", "last_4_weeks"].map(String::from));
        names.extend(FADING_HOURS.map(|hours| format!("newest_fading_{hours}h")));
        names.extend(calendar_names());
        names.extend(["lead", "days_ahead"].map(String::from));
        if self.with_sun {
            names.extend(SUN.iter().chain(&SUN_SINCE).copied().map(String::from));
        }
        for (covariate, knots) in panel.covariates.iter().zip(self.seen.knots()) {
            let name = &covariate.name;
            names.extend(match covariate.known {
                Known::Ahead => {
                    let mut ahead = vec![name.clone(), format!("{name}_next"), format!("{name}_before")];
                    ahead.extend(SMOOTHED_HOURS.map(|hours| format!("{name}_mean_{hours}h")));
                    ahead.extend(["lag_1d", "lag_1w", "last_week"].map(|what| format!("{name}_{what}")));
                    ahead.extend((1..=knots.len()).map(|knot| format!("{name}_above_{knot}_last_week")));
                    ahead
                }
                Known::Past => vec![format!("{name}_last"), format!("{name}_last_day"), format!("{name}_lag_1d")],
            });
        }
        names
    }

    /// Writes the row of step `step` (from 0) of the forecast of a series whose first `origin` values are known; `out` is
    /// [`Design::width`] long. `None` where the series has not so many values.
    pub fn row(&self, series: usize, origin: usize, step: usize, out: &mut [f32]) -> Option<Normal> {
        let prepared = self.prepared.get(series)?;
        if origin == 0 || origin > prepared.filled.len() || step >= self.horizon {
            return None;
        }
        let target = origin + step;
        let (season, week) = (self.season, 7 * self.season);
        let level = exact_mean_of(&prepared.sums, origin, week);
        let normal = Normal { level, spread: prepared.spread(origin, SPREAD_DAYS * season) };
        let scaled = |value: f32| ((f64::from(value) - normal.level) / normal.spread) as f32;
        let mean = |end: usize, count: usize| scaled(mean_of(&prepared.sums, end, count));
        let value = |back: usize| target.checked_sub(back).map_or(f32::NAN, |i| scaled(prepared.filled[i]));
        let ahead = step / season + 1;
        let mut put = Put { out, at: 0 };

        let lags: [f32; DAY_LAGS] = std::array::from_fn(|k| value(season * (ahead + k)));
        lags.iter().for_each(|lag| put.push(*lag));
        let weeks_ahead = step / week + 1;
        let weekly: [f32; WEEK_LAGS] = std::array::from_fn(|k| value(week * (weeks_ahead + k)));
        weekly.iter().for_each(|lag| put.push(*lag));
        // An hour on either side, but nothing from after the origin.
        let around = ((1.0 / self.hour) as usize).clamp(1, (season / 8).max(1));
        for back in [season * ahead, week * weeks_ahead] {
            let end = target.checked_sub(back).map(|centre| (centre + around + 1).min(origin));
            put.push(end.map_or(f32::NAN, |end| mean(end, 2 * around + 1)));
        }
        put.push(mean_known(&lags));
        put.push(mean_known(&weekly));
        let like = self.like_days(prepared, target, ahead, &value);
        like.iter().for_each(|value| put.push(*value));

        put.push(scaled(prepared.filled[origin - 1]));
        put.push(mean(origin, season));
        put.push(mean(origin, 3 * season));
        put.push(mean(origin, 28 * season));
        let newest = mean(origin, around) - mean(origin.saturating_sub(season), around);
        for hours in FADING_HOURS {
            put.push(newest * (-(step as f64 + 1.0) * self.hour / hours).exp() as f32);
        }
        self.put_calendar(prepared, target, &mut put);
        put.push(step as f32 / self.horizon as f32);
        put.push(ahead as f32 - 1.0);
        if self.with_sun {
            self.put_sun(prepared, target, &mut put);
            self.sun_since(prepared, origin, target).iter().for_each(|value| put.push(*value));
        }
        self.put_covariates(prepared, origin, target, &mut put);
        prepared.labels.iter().for_each(|feature| put.push(*feature));
        Some(normal)
    }

    /// Names of what [`Design::conditions`] writes, and the places of those whose effect need not be linear.
    pub fn condition_names(&self) -> (Vec<String>, Vec<usize>) {
        let mut names = calendar_names();
        names.extend(SUN.iter().filter(|_| self.with_sun).copied().map(String::from));
        let calendar = names.len();
        for covariate in &self.weather {
            names.push(covariate.clone());
            names.extend(SMOOTHED_HOURS.map(|hours| format!("{covariate}_mean_{hours}h")));
        }
        let bent = (calendar..names.len()).collect();
        (names, bent)
    }

    /// Writes what is known of an interval of a series but for values of series: calendar, sun, and covariates that are known
    /// ahead. An interval may lie within the horizon after the last value.
    pub fn conditions(&self, series: usize, interval: usize, out: &mut [f32]) {
        let mut put = Put { out, at: 0 };
        let Some(prepared) = self.prepared.get(series) else { return };
        self.put_calendar(prepared, interval, &mut put);
        if self.with_sun {
            self.put_sun(prepared, interval, &mut put);
        }
        let ahead = prepared.covariates.iter().zip(&self.ahead).filter(|(_, ahead)| **ahead);
        for (covariate, _) in ahead {
            put.push(covariate.at(interval as i64));
            for hours in SMOOTHED_HOURS {
                put.push(covariate.mean(interval as i64, self.intervals(hours)));
            }
        }
    }

    // In so many hours, at least one.
    fn intervals(&self, hours: i64) -> usize {
        ((hours as f64 / self.hour) as usize).max(1)
    }

    // Means of the newest days of the type of the target, at its time of day.
    fn like_days(
        &self,
        prepared: &Prepared,
        target: usize,
        ahead: usize,
        value: &impl Fn(usize) -> f32,
    ) -> [f32; SAME_TYPE.len()] {
        let kind =
            |interval: usize| prepared.of_day.get(interval).and_then(|(day, _)| prepared.days.get(*day as usize));
        let wanted = kind(target).map(|day| day.kind);
        let (mut sum, mut count) = (0.0, 0);
        let mut means = [f32::NAN; SAME_TYPE.len()];
        for days in ahead..ahead + SAME_TYPE_DAYS_MAX {
            let back = days * self.season;
            if back > target || count == SAME_TYPE[SAME_TYPE.len() - 1] {
                break;
            }
            if kind(target - back).map(|day| day.kind) == wanted {
                sum += value(back);
                count += 1;
                for (mean, most) in means.iter_mut().zip(SAME_TYPE) {
                    if count <= most {
                        *mean = sum / count as f32;
                    }
                }
            }
        }
        means
    }

    fn put_calendar(&self, prepared: &Prepared, target: usize, put: &mut Put<'_>) {
        let known = prepared.of_day.get(target);
        let day = known.and_then(|(day, _)| prepared.days.get(*day as usize));
        let (Some((_, passed)), Some(day)) = (known, day) else {
            return put.skip(2 * DAY_HARMONICS + 12 + 2 * YEAR_HARMONICS + 3);
        };
        put.harmonics(*passed, DAY_HARMONICS);
        for weekday in 0..7 {
            put.flag(day.weekday == weekday);
        }
        put.flag(day.kind == DayType::Workday);
        put.flag(day.holiday);
        put.flag(day.beside.0);
        put.flag(day.beside.1);
        put.push(day.holidays_near);
        put.harmonics(if self.seen.with_year { day.of_year } else { 0.0 }, YEAR_HARMONICS);
        day.year_end.iter().for_each(|of| put.push(if self.seen.with_year { *of } else { 0.0 }));
    }

    // What is known of the sun: one value for each of `SUN`.
    fn put_sun(&self, prepared: &Prepared, target: usize, put: &mut Put<'_>) {
        let Some(sun) = &prepared.sun else { return put.skip(SUN.len()) };
        put.push(sun.on_ground.at(target as i64));
        put.push(sun.elevation.get(target).copied().unwrap_or(f32::NAN));
    }

    // How the sun has changed since what the row knows: one value for each of `SUN_SINCE`.
    fn sun_since(&self, prepared: &Prepared, origin: usize, target: usize) -> [f32; SUN_SINCE.len()] {
        let Some(sun) = &prepared.sun else { return [f32::NAN; SUN_SINCE.len()] };
        let (now, season) = (sun.on_ground.at(target as i64), self.season);
        let lag = |length: usize| {
            let back = ((target - origin) / length + 1) * length;
            sun.on_ground.at(target as i64 - back as i64)
        };
        let last_week = sun.on_ground.mean(origin as i64 - 1, 7 * season);
        [now - lag(season), now - lag(7 * season), last_week]
    }

    fn put_covariates(&self, prepared: &Prepared, origin: usize, target: usize, put: &mut Put<'_>) {
        let (season, week) = (self.season as i64, 7 * self.season as i64);
        for (covariate, ahead) in prepared.covariates.iter().zip(&self.ahead) {
            let at = target as i64;
            if *ahead {
                let now = covariate.at(at);
                put.push(now);
                // Beyond the horizon nothing is known.
                put.push(covariate.at((at + 1).min((origin + self.horizon) as i64 - 1)));
                put.push(covariate.at(at - 1));
                for hours in SMOOTHED_HOURS {
                    put.push(covariate.mean(at, self.intervals(hours)));
                }
                let days = (target - origin) as i64 / season + 1;
                put.push(covariate.at(at - days * season));
                let weeks = (target - origin) as i64 / week + 1;
                put.push(covariate.at(at - weeks * week));
                // What the level is relative to; a few weeks know too little of what moves so slowly.
                let last_week = || covariate.mean(origin as i64 - 1, 7 * self.season);
                put.push(if self.seen.with_year { last_week() } else { 0.0 });
                covariate.means_above(origin, 7 * self.season).for_each(|mean| put.push(mean));
            } else {
                let last = origin as i64 - 1;
                let days = (target - origin) as i64 / season + 1;
                put.push(covariate.at(last));
                put.push(covariate.mean(last, self.season));
                put.push(covariate.at(at - days * season));
            }
        }
    }
}

fn calendar_names() -> Vec<String> {
    let mut names = Vec::new();
    for harmonic in 1..=DAY_HARMONICS {
        names.extend([format!("day_sin_{harmonic}"), format!("day_cos_{harmonic}")]);
    }
    names.extend(["mo", "tu", "we", "th", "fr", "sa", "su"].map(|day| format!("is_{day}")));
    names.extend(["is_workday", "is_holiday", "after_holiday", "before_holiday", "holidays_near"].map(String::from));
    for harmonic in 1..=YEAR_HARMONICS {
        names.extend([format!("year_sin_{harmonic}"), format!("year_cos_{harmonic}")]);
    }
    names.extend(["year_end_before", "year_end_between", "year_end_after"].map(String::from));
    names
}

fn mean_known(values: &[f32]) -> f32 {
    let known = values.iter().filter(|value| value.is_finite());
    let (sum, count) = known.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    if count == 0 { f32::NAN } else { sum / count as f32 }
}
