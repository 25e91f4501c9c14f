//! What models of features see: a row of named numbers for one step of one forecast.
//!
//! A row says what is known at the origin about one interval after it: values at the same time of earlier days and weeks,
//! means of what came last, the calendar of the interval, and covariates, where those are known that far. Values are
//! given relative to the level of the last week and to the spread of the series, so that one model can serve meters of
//! every size. What is not known is NaN.
//!
//! Lags are those of Hong, Wang, White (2015) and of the winners of GEFCom2014 in spirit: same hour, earlier days; for
//! weather also its own past, smoothed, as buildings feel it ("recency effect": Wang, Liu, Hong 2016).

use jiff::Timestamp;
use jiff::civil::Date;
use meterline_schemas::Frequency;
use meterline_schemas::time::{DAY, HOUR};
use serde::{Deserialize, Serialize};

use crate::data::{Column, Covariate, Known, Panel, Series};
use crate::fill::fill_missing;
use crate::holidays::{DayType, Holidays};
use crate::metrics::empirical_quantile;

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
/// History from which on the time of year says something, in days.
const YEAR_DAYS_MIN: i64 = 380;
/// Hours over which the means of a covariate before the target are taken.
const SMOOTHED_HOURS: [i64; 3] = [3, 24, 72];
/// Levels of what training saw of a covariate, above which its mean over the last week is told: what heating or cooling
/// the level of that week holds already.
const KNOTS: [f64; 6] = [0.05, 0.2, 0.4, 0.6, 0.8, 0.95];
/// Values of a covariate that its levels are taken from, about.
const KNOT_VALUES: usize = 20_000;
/// Parts of a season by which sums above levels are kept.
const PARTS_OF_SEASON: usize = 6;
/// Days before the origin that the spread is taken from, the most that a row looks back.
const SPREAD_DAYS: usize = 56;
/// Hours in which what the newest values tell fades.
const FADING_HOURS: [f64; 2] = [3.0, 12.0];

/// The rows of a panel.
pub struct Design {
    season: usize,
    horizon: usize,
    names: Vec<String>,
    bent: Vec<usize>,
    // Names of the covariates that are known ahead.
    weather: Vec<String>,
    seen: Seen,
    // By covariate: whether it is known over the horizon.
    ahead: Vec<bool>,
    hour: f64,
    prepared: Vec<Prepared>,
}

/// What rows have to know of the panel that a model was fitted to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    // Whether some series had a whole year: of less, a line through the time of year leads anywhere.
    with_year: bool,
    // Levels of each covariate that is known ahead, ascending; of a few weeks none: they know too little of what moves so
    // slowly.
    knots: Vec<Vec<f32>>,
}

/// Intervals of a year, and some days, from which on the time of year says something.
pub fn year(frequency: Frequency) -> usize {
    (YEAR_DAYS_MIN * DAY).div_euclid(frequency.nominal_micros()).unsigned_abs() as usize
}

impl Seen {
    /// Whether it was a year or more.
    pub fn has_year(&self) -> bool {
        self.with_year
    }

    // By covariate; a model of before the panel had it knows none.
    fn knots(&self) -> impl Iterator<Item = &[f32]> {
        self.knots.iter().map(Vec::as_slice).chain(std::iter::repeat(&[][..]))
    }

    fn of(panel: &Panel) -> Seen {
        let longest = panel.series.iter().map(|series| series.values.len()).max().unwrap_or(0);
        let with_year = longest >= year(panel.frequency);
        let of = |(number, covariate): (usize, &Covariate)| match covariate.known {
            Known::Ahead if with_year => knots(panel, number),
            Known::Ahead | Known::Past => Vec::new(),
        };
        Seen { with_year, knots: panel.covariates.iter().enumerate().map(of).collect() }
    }
}

// Of the values of a covariate up to the end of each series.
fn knots(panel: &Panel, number: usize) -> Vec<f32> {
    let all: usize = panel.series.iter().map(|series| series.values.len()).sum();
    // Coprime to any season, or only some times of day would count.
    let every = (all / KNOT_VALUES).max(1) | 1;
    let of = |series: &Series| -> Vec<f64> {
        let column = series.covariates.get(number);
        let intervals = (0..series.values.len() as i64).step_by(every);
        intervals.filter_map(|interval| Some(f64::from(column?.at(interval)))).filter(|v| v.is_finite()).collect()
    };
    let mut values: Vec<f64> = panel.series.iter().flat_map(of).collect();
    values.sort_unstable_by(f64::total_cmp);
    let mut knots = KNOTS.map(|level| empirical_quantile(&values, level) as f32).to_vec();
    knots.retain(|knot| knot.is_finite());
    knots.dedup();
    knots
}

/// The level and the spread by which the values of a row were normalised, in the unit of the series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normal {
    /// Mean of the last week before the origin.
    pub level: f64,
    /// Standard deviation of the last eight weeks before the origin.
    pub spread: f64,
}

// One series, with what rows need of it.
struct Prepared {
    filled: Vec<f32>,
    sums: Vec<f64>,
    squares: Vec<f64>,
    days: Vec<Day>,
    // By interval: its day, and the share of the local day that has passed.
    of_day: Vec<(u32, f32)>,
    covariates: Vec<Smooth>,
}

#[derive(Debug, Clone, Copy)]
struct Day {
    weekday: u8,
    kind: DayType,
    holiday: bool,
    beside: (bool, bool),
    of_year: f32,
}

// A covariate from the first interval of the series on: values, and sums of those before each.
struct Smooth {
    values: Vec<f32>,
    sums: Vec<f64>,
    above: Vec<Above>,
}

// By how much values lie above a knot: sums of those before each `stride`-th.
struct Above {
    knot: f32,
    stride: usize,
    sums: Vec<f64>,
}

impl Above {
    fn new(values: &[f32], knot: f32, stride: usize) -> Above {
        let sums = sums(values.chunks(stride).map(|part| part.iter().map(|v| above(*v, knot)).sum::<f64>()));
        Above { knot, stride, sums }
    }

    // Of those before `end`.
    fn sum(&self, values: &[f32], end: usize) -> f64 {
        let part = end / self.stride;
        let rest = values.get(part * self.stride..end).unwrap_or_default();
        self.sums.get(part).copied().unwrap_or(f64::NAN) + rest.iter().map(|v| above(*v, self.knot)).sum::<f64>()
    }
}

fn above(value: f32, knot: f32) -> f64 {
    // What is missing stays missing.
    let beyond = f64::from(value - knot);
    if beyond < 0.0 { 0.0 } else { beyond }
}

impl Smooth {
    fn new(values: Vec<f32>, knots: &[f32], stride: usize) -> Smooth {
        Smooth {
            sums: sums(values.iter().map(|value| f64::from(*value))),
            above: knots.iter().map(|knot| Above::new(&values, *knot, stride)).collect(),
            values,
        }
    }

    // Means of what is above each knot, of the `count` intervals before `end`; of fewer at the beginning.
    fn means_above(&self, end: usize, count: usize) -> impl Iterator<Item = f32> {
        let (begin, end) = (end.saturating_sub(count), end.min(self.values.len()));
        let mean = move |above: &Above| {
            let sum = above.sum(&self.values, end) - above.sum(&self.values, begin);
            (sum / end.saturating_sub(begin) as f64) as f32
        };
        self.above.iter().map(mean)
    }

    fn at(&self, interval: i64) -> f32 {
        usize::try_from(interval).ok().and_then(|i| self.values.get(i)).copied().unwrap_or(f32::NAN)
    }

    // Mean of so many intervals up to this one; of fewer at the beginning.
    fn mean(&self, last: i64, count: usize) -> f32 {
        let end = usize::try_from(last + 1).unwrap_or(0).min(self.values.len());
        mean_of(&self.sums, end, count)
    }
}

// Sums of those before each.
fn sums(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut sum = 0.0;
    let sums = values.map(|value| {
        sum += value;
        sum
    });
    std::iter::once(0.0).chain(sums).collect()
}

// Mean of the `count` values before `end`; of fewer at the beginning.
fn mean_of(sums: &[f64], end: usize, count: usize) -> f32 {
    exact_mean_of(sums, end, count) as f32
}

fn exact_mean_of(sums: &[f64], end: usize, count: usize) -> f64 {
    let begin = end.saturating_sub(count);
    match (sums.get(begin), sums.get(end)) {
        (Some(from), Some(to)) if end > begin => (to - from) / (end - begin) as f64,
        _ => f64::NAN,
    }
}

impl Prepared {
    // Of the `count` values before `end`.
    fn spread(&self, end: usize, count: usize) -> f64 {
        let (mean, square) = (exact_mean_of(&self.sums, end, count), exact_mean_of(&self.squares, end, count));
        // A series that stands still has some all the same, to be divided by.
        (square - mean * mean).max(0.0).sqrt().max(0.02 * square.sqrt()).max(1e-6)
    }

    fn new(panel: &Panel, series: &Series, seen: &Seen, holidays: &Holidays, horizon: usize) -> Option<Prepared> {
        let season = panel.frequency.season();
        let filled = fill_missing(&series.values, &[7 * season, season])?;
        let (days, of_day) = calendar(panel, series, holidays, filled.len() + horizon);
        let stride = season.div_ceil(PARTS_OF_SEASON).max(1);
        let column = |((known, knots), column): ((Known, &[f32]), &Column)| {
            let end = match known {
                Known::Ahead => filled.len() + horizon,
                Known::Past => filled.len(),
            };
            let raw: Vec<f32> = (0..end as i64).map(|interval| column.at(interval)).collect();
            Smooth::new(fill_missing(&raw, &[season]).unwrap_or(raw), knots, stride)
        };
        let known = panel.covariates.iter().map(|covariate| covariate.known).zip(seen.knots());
        Some(Prepared {
            sums: sums(filled.iter().map(|value| f64::from(*value))),
            squares: sums(filled.iter().map(|value| f64::from(*value).powi(2))),
            days,
            of_day,
            covariates: known.zip(&series.covariates).map(column).collect(),
            filled,
        })
    }
}

fn calendar(panel: &Panel, series: &Series, holidays: &Holidays, count: usize) -> (Vec<Day>, Vec<(u32, f32)>) {
    let mut days: Vec<Day> = Vec::new();
    let mut of_day = Vec::with_capacity(count);
    let mut last: Option<Date> = None;
    for interval in 0..count {
        let at = panel.frequency.advance(series.start, interval as i64, &panel.zone);
        let local = Timestamp::from_microsecond(at).map(|stamp| panel.zone.to_datetime(stamp)).unwrap_or_default();
        if last != Some(local.date()) {
            last = Some(local.date());
            days.push(Day {
                weekday: local.weekday().to_monday_zero_offset().unsigned_abs(),
                kind: holidays.day_type(local.date()),
                holiday: holidays.contains(local.date()),
                beside: holidays.neighbours(local.date()),
                of_year: f32::from(local.day_of_year() - 1) / 366.0,
            });
        }
        let passed = local.time().duration_since(jiff::civil::Time::midnight()).as_micros() as f64 / DAY as f64;
        of_day.push((days.len() as u32 - 1, passed as f32));
    }
    (days, of_day)
}

/// Values before its origin that a row looks at, at most.
pub fn lookback(frequency: Frequency) -> usize {
    SPREAD_DAYS * frequency.season()
}

impl Design {
    /// The rows that forecasts of `horizon` steps of the series of a panel need. The panel may end after the origins that
    /// rows are asked for: a row knows nothing of what comes after its own, but for covariates that are known ahead.
    pub fn new(panel: &Panel, horizon: usize, holidays: &Holidays) -> Design {
        Design::with(panel, horizon, holidays, &Seen::of(panel))
    }

    /// The rows of one forecast, as [`Design::new`] for the panel that a model was fitted to would have them
    /// ([`Design::seen`]). The newest [`lookback`] values of the panel are enough.
    pub fn with(panel: &Panel, horizon: usize, holidays: &Holidays, seen: &Seen) -> Design {
        let prepared = panel.series.iter().map(|series| {
            // A series without a value has no row.
            Prepared::new(panel, series, seen, holidays, horizon).unwrap_or_else(|| Prepared {
                filled: Vec::new(),
                sums: vec![0.0],
                squares: vec![0.0],
                days: Vec::new(),
                of_day: Vec::new(),
                covariates: Vec::new(),
            })
        });
        let weather = panel.covariates.iter().filter(|covariate| covariate.known == Known::Ahead);
        let mut design = Design {
            season: panel.frequency.season(),
            horizon,
            names: Vec::new(),
            bent: Vec::new(),
            weather: weather.map(|covariate| covariate.name.clone()).collect(),
            seen: seen.clone(),
            ahead: panel.covariates.iter().map(|covariate| covariate.known == Known::Ahead).collect(),
            hour: panel.frequency.nominal_micros() as f64 / HOUR as f64,
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
        design
    }

    /// What rows know of the panel that they were made of.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Names of the features, in their order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Number of features.
    pub fn width(&self) -> usize {
        self.names.len()
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

    /// First origin of a series for which a row says enough, as an index: fourteen seasons, of which each is a day below a day.
    pub fn first_origin(&self) -> usize {
        14 * self.season
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
        self.put_covariates(prepared, origin, target, &mut put);
        Some(normal)
    }

    /// Names of what [`Design::conditions`] writes, and the places of those whose effect need not be linear.
    pub fn condition_names(&self) -> (Vec<String>, Vec<usize>) {
        let mut names = calendar_names();
        let calendar = names.len();
        for covariate in &self.weather {
            names.push(covariate.clone());
            names.extend(SMOOTHED_HOURS.map(|hours| format!("{covariate}_mean_{hours}h")));
        }
        let bent = (calendar..names.len()).collect();
        (names, bent)
    }

    /// Writes what is known of an interval of a series but for values of series: calendar, and covariates that are known
    /// ahead. An interval may lie within the horizon after the last value.
    pub fn conditions(&self, series: usize, interval: usize, out: &mut [f32]) {
        let mut put = Put { out, at: 0 };
        let Some(prepared) = self.prepared.get(series) else { return };
        self.put_calendar(prepared, interval, &mut put);
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
            return put.skip(2 * DAY_HARMONICS + 11 + 2 * YEAR_HARMONICS);
        };
        put.harmonics(*passed, DAY_HARMONICS);
        for weekday in 0..7 {
            put.flag(day.weekday == weekday);
        }
        put.flag(day.kind == DayType::Workday);
        put.flag(day.holiday);
        put.flag(day.beside.0);
        put.flag(day.beside.1);
        put.harmonics(if self.seen.with_year { day.of_year } else { 0.0 }, YEAR_HARMONICS);
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
    names.extend(["is_workday", "is_holiday", "after_holiday", "before_holiday"].map(String::from));
    for harmonic in 1..=YEAR_HARMONICS {
        names.extend([format!("year_sin_{harmonic}"), format!("year_cos_{harmonic}")]);
    }
    names
}

fn mean_known(values: &[f32]) -> f32 {
    let known = values.iter().filter(|value| value.is_finite());
    let (sum, count) = known.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    if count == 0 { f32::NAN } else { sum / count as f32 }
}

// Fills a row from its beginning.
struct Put<'a> {
    out: &'a mut [f32],
    at: usize,
}

impl Put<'_> {
    fn push(&mut self, value: f32) {
        if let Some(place) = self.out.get_mut(self.at) {
            *place = value;
        }
        self.at += 1;
    }

    fn flag(&mut self, is: bool) {
        self.push(if is { 1.0 } else { 0.0 });
    }

    fn skip(&mut self, count: usize) {
        (0..count).for_each(|_| self.push(f32::NAN));
    }

    fn harmonics(&mut self, share: f32, count: usize) {
        for harmonic in 1..=count {
            let (sin, cos) = (std::f32::consts::TAU * harmonic as f32 * share).sin_cos();
            self.push(sin);
            self.push(cos);
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use meterline_schemas::Frequency;

    use super::*;

    const HOURS: usize = 60 * 24;

    // Temperature is known ahead, voltage is not.
    fn panel() -> Panel {
        let values = (0..HOURS).map(|hour| (hour % 24) as f32 + (hour / 24) as f32 / 100.0).collect();
        let column = |factor: f32, count: usize| Column {
            offset: 0,
            values: (0..count).map(|hour| factor * (hour % 1000) as f32).collect(),
        };
        let mut series = Series::new("a", 0, values);
        series.covariates = vec![column(0.1, HOURS + 48), column(1.0, HOURS)];
        let covariate = |name: &str, known| Covariate { name: name.into(), known };
        Panel {
            covariates: vec![covariate("temperature", Known::Ahead), covariate("voltage", Known::Past)],
            ..Panel::new(Frequency::HOUR, TimeZone::UTC, vec![series])
        }
    }

    fn row(panel: &Panel, origin: usize, step: usize) -> (Vec<f32>, Normal) {
        let design = Design::new(panel, 48, &Holidays::none());
        let mut out = vec![f32::MAX; design.width()];
        let normal = design.row(0, origin, step, &mut out).unwrap();
        (out, normal)
    }

    #[test]
    fn every_feature_has_its_place_and_a_value() {
        let (row, _) = row(&panel(), 50 * 24, 47);
        let design = Design::new(&panel(), 48, &Holidays::none());
        for (name, value) in design.names().iter().zip(&row) {
            assert!(value.is_finite() && *value != f32::MAX, "{name}: {value}");
        }
    }

    #[test]
    fn lags_are_the_newest_values_at_the_time_of_the_target() {
        let panel = panel();
        let design = Design::new(&panel, 48, &Holidays::none());
        for (step, hour) in [(0, 0), (23, 23), (24, 0), (40, 16)] {
            let origin = 50 * 24;
            let (row, normal) = row(&panel, origin, step);
            let lag = |name: &str| {
                let place = design.names().iter().position(|known| known == name).unwrap();
                f64::from(row[place]) * normal.spread + normal.level
            };
            for (name, day) in [("lag_1d", 49), ("lag_7d", 43)] {
                assert!((lag(name) - (hour as f64 + f64::from(day) / 100.0)).abs() < 1e-4, "{name} of step {step}");
            }
            // The same weekday a week before the target.
            let day = 50 + step / 24 - 7;
            assert!((lag("lag_1w") - (hour as f64 + day as f64 / 100.0)).abs() < 1e-4, "step {step}");
        }
    }

    #[test]
    fn a_row_knows_nothing_of_what_comes_after_its_origin() {
        let plain = panel();
        let origin = 50 * 24 + 5;
        let mut poisoned = panel();
        poisoned.series[0].values[origin..].iter_mut().for_each(|value| *value = 1e9);
        let mut voltage = poisoned.series[0].covariates[1].values.to_vec();
        voltage[origin..].iter_mut().for_each(|value| *value = 1e9);
        poisoned.series[0].covariates[1].values = voltage.into();
        let mut temperature = poisoned.series[0].covariates[0].values.to_vec();
        temperature[origin + 48..].iter_mut().for_each(|value| *value = 1e9);
        poisoned.series[0].covariates[0].values = temperature.into();
        for step in [0, 1, 23, 24, 47] {
            let (before, normal) = row(&plain, origin, step);
            let (after, of_poisoned) = row(&poisoned, origin, step);
            assert_eq!(normal, of_poisoned);
            let design = Design::new(&plain, 48, &Holidays::none());
            for ((name, before), after) in design.names().iter().zip(before).zip(after) {
                assert_eq!(before, after, "{name} of step {step}");
            }
        }
    }

    #[test]
    fn the_newest_values_are_enough_for_a_row() {
        let panel = panel();
        let origin = 59 * 24 + 5;
        let cut = panel.cut(origin as i64 * HOUR);
        let newest = cut.newest(lookback(Frequency::HOUR));
        assert!(newest.series[0].values.len() < origin);
        for step in [0, 1, 23, 24, 47] {
            let ((all, of_all), (some, of_some)) = (row(&cut, origin, step), row(&newest, 56 * 24, step));
            assert!((of_all.level - of_some.level).abs() < 1e-9 && (of_all.spread - of_some.spread).abs() < 1e-6);
            let design = Design::new(&cut, 48, &Holidays::none());
            for ((name, all), some) in design.names().iter().zip(all).zip(some) {
                assert!(
                    (all - some).abs() < 1e-4 || (all.is_nan() && some.is_nan()),
                    "{name} of step {step}: {all} {some}"
                );
            }
        }
    }

    #[test]
    fn what_cannot_be_known_has_no_row_or_no_value() {
        let design = Design::new(&panel(), 48, &Holidays::none());
        let mut out = vec![0.0; design.width()];
        for (series, origin, step) in [(0, 0, 0), (0, HOURS + 1, 0), (0, 24, 48), (1, 24, 0)] {
            assert_eq!(design.row(series, origin, step, &mut out), None, "{series} {origin} {step}");
        }
        design.row(0, 24, 0, &mut out).unwrap();
        assert!(out[0].is_finite() && out[1].is_nan());
        let empty = Panel::new(Frequency::HOUR, TimeZone::UTC, vec![Series::new("b", 0, vec![f32::NAN; 9])]);
        let design = Design::new(&empty, 24, &Holidays::none());
        assert_eq!(design.row(0, 5, 0, &mut out), None);
    }
}
