//! One linear map from the newest values to all steps ahead, for all series at once: each step is the mean of the window
//! and a weighted sum of how its values differ from it.
//!
//! Least squares in closed form with a ridge. Linear maps of a window are as good as transformers on long horizons (Zeng et
//! al. 2023, "DLinear"), and all of their variants come down to this one (Toner and Darlow 2024). How far back it looks,
//! and how strong the ridge is, is chosen on the last quarter of the history, whose errors, step by step, are also what
//! quantiles are made of: relative to the deviation of the window, and by series.
//!
//! It knows no calendar and no covariates, needs no long history, forecasts from any time of day, and series that it has
//! never seen. It knows nothing of weights of values either.

mod moments;

use std::collections::BTreeMap;

use meterline_schemas::Frequency;
use meterline_schemas::quantiles::LEVELS;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::moments::{Centred, Moments};
use crate::artifact::{self, ArtifactError};
use crate::data::Panel;
use crate::dense::{Cholesky, dot};
use crate::fill::fill_missing;
use crate::forecaster::{Done, FitError, Forecaster, Model, NoForecast, Progress, SeriesForecast, Task};
use crate::metrics::empirical_quantile;

/// Name of the kind.
pub(crate) const NAME: &str = "window_linear";
/// Raised whenever what is kept of a model changes.
const FORMAT: u32 = 1;
/// Seasons that a window may have.
const SEASONS: [usize; 5] = [1, 2, 3, 7, 14];
/// Values of a window, at most.
const LAGS_MAX: usize = 1440;
/// Strengths of the ridge, as shares of the mean of the diagonal.
const RIDGES: [f64; 6] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1];
/// Share of each history that lengths and ridges are learned from before they are compared on the rest.
const LEARNED: f64 = 0.75;
/// Windows that the errors are taken from, over all series, about; and products that they may cost.
const ERROR_WINDOWS: usize = 20_000;
const ERROR_PRODUCTS: usize = 3_000_000_000;
/// Windows that the size of a series' errors counts for before it is its own.
const OWN_WINDOWS: f64 = 20.0;
/// A window without deviation has some all the same, to be divided by: of the deviation of the series.
const DEVIATION_MIN: f64 = 0.05;

/// The kind of model.
#[derive(Debug, Clone, Copy, Default)]
pub struct WindowLinear;

/// Values before its origin that a forecast looks at, at most.
pub fn lookback(frequency: Frequency) -> usize {
    let season = frequency.season();
    with_gaps((SEASONS[SEASONS.len() - 1] * season).min(LAGS_MAX), season)
}

// More than the window, so that gaps are filled from the week before.
fn with_gaps(lags: usize, season: usize) -> usize {
    lags + 7 * season
}

// Lengths of windows that so long a history can bear.
fn lengths(frequency: Frequency, longest: usize, horizon: usize) -> Vec<usize> {
    let season = frequency.season();
    let most = longest.saturating_sub(horizon) / 2;
    let mut lengths: Vec<usize> = SEASONS.iter().map(|seasons| (seasons * season).min(LAGS_MAX)).collect();
    lengths.dedup();
    lengths.retain(|length| *length <= most);
    lengths
}

// A series, filled, in units of its own deviation from its own mean.
struct Scaled {
    values: Vec<f64>,
    deviation: f64,
    // Origins of its last quarter begin here.
    learned: usize,
}

impl Scaled {
    fn new(values: &[f32], season: usize) -> Option<Scaled> {
        let filled = fill_missing(values, &[7 * season, season])?;
        let n = filled.len() as f64;
        let mean = filled.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let square = filled.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
        // A series that stands still has nothing to teach.
        let deviation = square.sqrt();
        let usable = deviation.is_finite() && deviation > 1e-9 * mean.abs().max(1e-30);
        usable.then(|| Scaled {
            learned: (LEARNED * n) as usize,
            values: filled.iter().map(|v| (f64::from(*v) - mean) / deviation).collect(),
            deviation,
        })
    }
}

// Coefficients of all steps.
struct Solution {
    lags: usize,
    // steps × lags.
    coefficients: Vec<f64>,
}

fn solve(moments: &Centred, ridge: f64) -> Option<Solution> {
    let lags = moments.lags;
    let mean = (0..lags).map(|i| moments.row(i)[i]).sum::<f64>() / lags as f64;
    let added = ridge * mean;
    let factor = Cholesky::new(lags, 0.0, |i, j| moments.row(i)[j] + if i == j { added } else { 0.0 })?;
    let mut coefficients = moments.cross.clone();
    coefficients.par_chunks_mut(lags).for_each(|of_step| factor.solve(of_step));
    coefficients.iter().all(|c| c.is_finite()).then_some(Solution { lags, coefficients })
}

impl Solution {
    fn squared_errors(&self, of: &Centred) -> f64 {
        let steps = self.coefficients.par_chunks(self.lags).enumerate();
        steps.map(|(step, coefficients)| of.squared_errors(step, coefficients)).collect::<Vec<f64>>().iter().sum()
    }

    // Of a window, the newest value first.
    fn ahead(&self, window: &Window) -> impl Iterator<Item = f64> {
        self.coefficients.chunks(self.lags).map(|coefficients| window.mean + dot(coefficients, &window.newest_first))
    }
}

// Values relative to their mean.
struct Window {
    mean: f64,
    newest_first: Vec<f64>,
}

impl Window {
    fn new(values: &[f64]) -> Window {
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        Window { mean, newest_first: values.iter().rev().map(|value| value - mean).collect() }
    }

    fn deviation(&self) -> f64 {
        (dot(&self.newest_first, &self.newest_first) / self.newest_first.len().max(1) as f64).sqrt()
    }
}

/// Intervals that some series needs: the shortest window twice before a target; a window with its targets within the first
/// three quarters, and targets within the last.
pub(crate) fn needs(frequency: Frequency, horizon: usize) -> usize {
    let lags = SEASONS[0] * frequency.season();
    (2 * lags + horizon).max((lags + horizon + 1) * 4 / 3 + 1).max(4 * horizon)
}

impl Model for WindowLinear {
    fn name(&self) -> &str {
        NAME
    }

    fn fit(&self, panel: &Panel, task: &Task, progress: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
        let season = panel.frequency.season();
        let longest = panel.longest();
        let lengths = lengths(panel.frequency, longest, task.horizon);
        let too_short = || FitError::TooShort {
            model: NAME.into(),
            needed: needs(panel.frequency, task.horizon),
            longest,
            series: panel.series.len(),
        };
        let lags_max = *lengths.last().ok_or_else(too_short)?;
        let scaled: Vec<Option<Scaled>> =
            panel.series.par_iter().map(|series| Scaled::new(&series.values, season)).collect();
        let moments = |from: fn(&Scaled) -> usize, to: &(dyn Fn(&Scaled) -> usize + Sync)| {
            // Sums are added in the order of the series, however many threads there are.
            let mut all = Moments::zeros(lags_max, task.horizon);
            for part in scaled.chunks(16) {
                let of = |series: &Option<Scaled>| {
                    let mut of = Moments::zeros(lags_max, task.horizon);
                    if let Some(series) = series {
                        of.add(&series.values, from(series), to(series));
                    }
                    of
                };
                part.par_iter().map(of).collect::<Vec<Moments>>().iter().for_each(|of| all.merge(of));
            }
            all
        };
        // Targets of the last quarter teach nothing that is tried there.
        let before = moments(|_| 0, &|series| (series.learned + 1).saturating_sub(task.horizon));
        let after = moments(|series| series.learned, &|_| usize::MAX);
        if before.windows == 0 || after.windows == 0 {
            return Err(too_short());
        }
        let mut best: Option<(f64, usize, f64, Solution)> = None;
        'tried: for (number, lags) in lengths.iter().enumerate() {
            let (learned, tried) = (before.centred(*lags), after.centred(*lags));
            for ridge in RIDGES {
                if let Some(solution) = solve(&learned, ridge) {
                    let errors = solution.squared_errors(&tried);
                    if errors.is_finite() && best.as_ref().is_none_or(|(least, ..)| errors < *least) {
                        best = Some((errors, *lags, ridge, solution));
                    }
                }
            }
            if progress(Done::share((number + 1) as f64 / (lengths.len() + 1) as f64)).is_break() {
                break 'tried;
            }
        }
        let not_finite = || FitError::Failed {
            model: NAME.into(),
            reason: "no ridge has a finite solution: the values are too large to compute with".into(),
        };
        let (_, lags, ridge, on_before) = best.ok_or_else(not_finite)?;
        let errors = Errors::of(&scaled, &on_before, task.horizon);
        let all = moments(|_| 0, &|_| usize::MAX);
        let solution = solve(&all.centred(lags), ridge).ok_or_else(not_finite)?;
        let known = panel.series.iter().zip(&scaled).zip(&errors.by_series);
        let by_series = known.filter_map(|((series, scaled), size)| {
            let least = DEVIATION_MIN * scaled.as_ref()?.deviation;
            Some((series.id.clone(), OfSeries { size: (*size)?, least }))
        });
        Ok(Box::new(FittedWindow {
            lags,
            ridge,
            horizon: task.horizon,
            season,
            coefficients: solution.coefficients,
            errors: errors.by_step,
            by_series: by_series.collect(),
        }))
    }
}

// Errors of the last quarter, in deviations of their windows and sizes of their series.
struct Errors {
    // Quantiles and the mean of each step.
    by_step: Vec<([f64; LEVELS.len()], f64)>,
    // How large those of a series are, by those of all; `None` for one that has none.
    by_series: Vec<Option<f64>>,
}

impl Errors {
    fn of(scaled: &[Option<Scaled>], solution: &Solution, horizon: usize) -> Errors {
        let lags = solution.lags;
        let origins = |series: &Scaled| {
            series.learned.max(lags)..(series.values.len() + 1).saturating_sub(horizon).max(series.learned.max(lags))
        };
        let all: usize = scaled.iter().flatten().map(|series| origins(series).len()).sum();
        let wanted = ERROR_WINDOWS.min(ERROR_PRODUCTS / (lags * horizon).max(1)).max(100);
        // Odd, so that all times of day are among them.
        let every = (all / wanted).max(1) | 1;
        // Rows of steps, one a window.
        let of_series = |series: &Option<Scaled>| -> Vec<Vec<f64>> {
            let Some(series) = series else { return Vec::new() };
            let error = |origin: usize| {
                let window = Window::new(&series.values[origin - lags..origin]);
                let unit = window.deviation().max(DEVIATION_MIN);
                let actuals = &series.values[origin..origin + horizon];
                solution.ahead(&window).zip(actuals).map(|(ahead, actual)| (actual - ahead) / unit).collect()
            };
            origins(series).step_by(every).map(error).collect()
        };
        let rows: Vec<Vec<Vec<f64>>> = scaled.par_iter().map(of_series).collect();
        let size = |rows: &[Vec<f64>]| {
            let (sum, count) = rows.iter().flatten().fold((0.0, 0.0), |(s, n), e| (s + e.abs(), n + 1.0));
            (sum, count)
        };
        let (sum, count) = rows.iter().map(|rows| size(rows)).fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
        let usual = (sum / f64::max(count, 1.0)).max(1e-12);
        let of_series = |rows: &Vec<Vec<f64>>| {
            let (sum, count) = size(rows);
            let windows = rows.len() as f64;
            let own = sum / f64::max(count, 1.0) / usual;
            (windows > 0.0).then(|| (windows * own + OWN_WINDOWS) / (windows + OWN_WINDOWS))
        };
        let by_series: Vec<Option<f64>> = rows.iter().map(of_series).collect();
        let of_step = |step: usize| {
            let of = |(rows, size): (&Vec<Vec<f64>>, &Option<f64>)| -> Vec<f64> {
                let size = size.unwrap_or(1.0).max(1e-12);
                rows.iter().map(|row| row[step] / size).collect()
            };
            let mut errors: Vec<f64> = rows.iter().zip(&by_series).flat_map(of).collect();
            errors.sort_unstable_by(f64::total_cmp);
            let mean = errors.iter().sum::<f64>() / errors.len().max(1) as f64;
            (LEVELS.map(|level| empirical_quantile(&errors, level)), mean)
        };
        Errors { by_step: (0..horizon).into_par_iter().map(of_step).collect(), by_series }
    }
}

// What is known of the errors of one series.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct OfSeries {
    // By those of all.
    size: f64,
    // What a window deviates at the least, in the unit of the series.
    least: f64,
}

/// A fitted one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FittedWindow {
    lags: usize,
    ridge: f64,
    horizon: usize,
    season: usize,
    // horizon × lags.
    coefficients: Vec<f64>,
    // Quantiles and the mean of the errors of each step.
    errors: Vec<([f64; LEVELS.len()], f64)>,
    by_series: BTreeMap<String, OfSeries>,
}

impl FittedWindow {
    /// Reads an artifact.
    ///
    /// # Errors
    /// It is none of these.
    pub fn from_bytes(bytes: &[u8]) -> Result<FittedWindow, ArtifactError> {
        let fitted: FittedWindow = artifact::decode(bytes, NAME, FORMAT)?;
        let steps = fitted.lags.checked_mul(fitted.horizon);
        match fitted.lags > 0 && steps == Some(fitted.coefficients.len()) && fitted.errors.len() == fitted.horizon {
            true => Ok(fitted),
            false => Err(ArtifactError::damaged("its coefficients are not those of its windows")),
        }
    }

    fn forecast_series(&self, id: &str, values: &[f32], horizon: usize) -> Result<SeriesForecast, NoForecast> {
        let present = values.iter().rev().take(self.lags).filter(|value| value.is_finite()).count();
        let missing = NoForecast::MissingContext { present, needed: self.lags };
        if values.len() < self.lags || 2 * present < self.lags {
            return Err(missing);
        }
        let newest = values.len().saturating_sub(with_gaps(self.lags, self.season));
        let filled = fill_missing(&values[newest..], &[7 * self.season, self.season]).ok_or(missing)?;
        let newest: Vec<f64> = filled[filled.len() - self.lags..].iter().map(|value| f64::from(*value)).collect();
        let window = Window::new(&newest);
        // What is usual holds for a series that is new.
        let known = self.by_series.get(id).copied().unwrap_or(OfSeries { size: 1.0, least: 0.0 });
        let unit = window.deviation().max(known.least) * known.size;
        let coefficients = self.coefficients.chunks(self.lags).take(horizon);
        let mut forecast = SeriesForecast { mean: Vec::with_capacity(horizon), quantiles: Vec::with_capacity(horizon) };
        for (coefficients, (quantiles, mean)) in coefficients.zip(&self.errors) {
            let ahead = window.mean + dot(coefficients, &window.newest_first);
            if !ahead.is_finite() {
                return Err(NoForecast::NotFinite);
            }
            forecast.mean.push(ahead + unit * mean);
            forecast.quantiles.push(quantiles.map(|error| ahead + unit * error));
        }
        // Beyond what it was fitted to, it has nothing to say.
        if forecast.mean.len() < horizon {
            return Err(NoForecast::MissingContext { present: self.horizon, needed: horizon });
        }
        Ok(forecast)
    }
}

impl Forecaster for FittedWindow {
    fn name(&self) -> &str {
        NAME
    }

    fn artifact(&self) -> Option<Vec<u8>> {
        Some(artifact::encode(NAME, FORMAT, self))
    }

    fn report(&self) -> Option<String> {
        Some(format!("windows of {} values, ridge {:e}", self.lags, self.ridge))
    }

    /// At most as many steps as it was fitted to; of any series that is as long as its windows, half of which are there.
    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        panel.series.par_iter().map(|series| self.forecast_series(&series.id, &series.values, horizon)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use jiff::tz::TimeZone;
    use meterline_schemas::quantiles::MEDIAN;

    use super::*;
    use crate::data::Series;

    // A day and a week, of any size, with a little that nobody can know.
    fn value(size: f32, hour: usize) -> f32 {
        let turn = |period: f32| (hour as f32 / period * std::f32::consts::TAU).sin();
        size * (10.0 + 3.0 * turn(24.0) + turn(168.0) + ((hour * 7919) % 101) as f32 / 500.0)
    }

    fn panel(hours: usize) -> Panel {
        let series = |(id, size): (&str, f32)| Series::new(id, 0, (0..hours).map(|h| value(size, h)).collect());
        Panel::new(Frequency::HOUR, TimeZone::UTC, [("a", 1.0), ("b", 50.0)].map(series).into())
    }

    fn fit(panel: &Panel) -> Result<Box<dyn Forecaster>, FitError> {
        WindowLinear.fit(panel, &Task::new(30, 168, 1), &mut |_| ControlFlow::Continue(()))
    }

    #[test]
    fn what_repeats_is_continued_from_any_hour_in_series_of_any_size() {
        let fitted = fit(&panel(900)).unwrap();
        let other = Series::new("new", 0, (0..905).map(|h| value(7.0, h)).collect());
        let mut at = panel(905);
        at.series.push(other);
        for (forecast, size) in fitted.forecast(&at, 30).into_iter().zip([1.0, 50.0, 7.0]) {
            let forecast = forecast.unwrap();
            for (step, quantiles) in forecast.quantiles.iter().enumerate() {
                let expected = f64::from(value(size, 905 + step));
                assert!((quantiles[MEDIAN] - expected).abs() < 0.3 * f64::from(size), "{size} {step}");
                assert!(quantiles.is_sorted());
            }
        }
    }

    #[test]
    fn a_gap_is_bridged_and_too_little_is_refused() {
        let fitted = fit(&panel(900)).unwrap();
        let mut gappy = panel(900);
        gappy.series[0].values[860..870].fill(f32::NAN);
        gappy.series[1].values[700..].fill(f32::NAN);
        let forecasts = fitted.forecast(&gappy, 30);
        let step = forecasts[0].as_ref().unwrap().quantiles[5][MEDIAN];
        assert!((step - f64::from(value(1.0, 905))).abs() < 0.5, "{step}");
        assert!(matches!(forecasts[1], Err(NoForecast::MissingContext { .. })), "{:?}", forecasts[1]);
        assert!(fitted.forecast(&panel(900), 31)[0].is_err(), "a step more than it was fitted to");
        assert!(matches!(fit(&panel(60)), Err(FitError::TooShort { .. })));
        let still = Panel { series: vec![Series::new("s", 0, vec![5.0; 900])], ..panel(1) };
        assert!(matches!(fit(&still), Err(FitError::TooShort { .. })));
    }
}
