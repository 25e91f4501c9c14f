//! Exponential smoothing with additive errors: simple, Holt's, damped, each with and without an additive season.
//!
//! The innovations state space models of Hyndman, Koehler, Ord and Snyder (2008), named (A,N,N), (A,A,N), (A,Ad,N),
//! (A,N,A), (A,A,A) and (A,Ad,A) there. For each, the smoothing parameters maximise the likelihood (which for normal
//! errors is the smallest sum of squares) within the usual bounds; AICc chooses among them. Quantiles are those of a
//! normal distribution with the models' own variances, known in closed form (their table 6.1): no simulation is needed.
//!
//! A season has a parameter a phase here, so only periods up to [`PERIOD_MAX`] are tried. Where the shortest is longer (a
//! day of quarter hours, a year of weeks), seasons are taken out before by classical decomposition, as the Theta model
//! does, and put back; [`super::decompose`] is for seasons that change.

mod recursion;

pub use recursion::{Smoothing, State, filter};

use serde::{Deserialize, Serialize};

use super::classical::{self, Kind, Seasons};
use super::linear::aicc;
use super::optimise::nelder_mead;
use super::{Predicted, Prepared, Request, StatisticsError};
use recursion::best_initial;

const MODEL: &str = "ets";
/// Longest season that gets a parameter a phase.
pub const PERIOD_MAX: usize = 24;
/// Most recent values that parameters are estimated from: smoothing forgets what is older.
const FIT_MAX: usize = 4096;
/// Values without which there is nothing to estimate.
const VALUES_MIN: usize = 3;
/// Smoothing parameters stay this far from 0 and 1.
const MARGIN: f64 = 1e-4;
/// Range of the damping φ: below, the trend is gone at once; above, it cannot be told from an undamped one.
const DAMPING: (f64, f64) = (0.8, 0.98);

/// The trend of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trend {
    /// A level that only errors move.
    None,
    /// Holt's: a slope that goes on.
    Additive,
    /// Gardner and McKenzie's (1985): a slope that fades.
    Damped,
}

/// Exponential smoothing, its form chosen by AICc.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ets {
    /// Trends to choose from.
    pub trends: Vec<Trend>,
    /// Whether an additive season is tried where a period allows, and longer ones are taken out before.
    pub season: bool,
}

impl Default for Ets {
    fn default() -> Ets {
        Ets { trends: vec![Trend::None, Trend::Additive, Trend::Damped], season: true }
    }
}

/// A fitted model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fitted {
    /// Its trend.
    pub trend: Trend,
    /// Its smoothing parameters.
    pub smoothing: Smoothing,
    /// The state before the first value that it was fitted to.
    pub initial: State,
    /// The state after the last value that is not missing.
    pub state: State,
    /// Variance of the one-step errors, in the squared unit of the series.
    pub variance: f64,
    /// Akaike's criterion, corrected; comparable between models of the same values only.
    pub aicc: f64,
    /// Phase of the first forecast step: an index of the season.
    phase: usize,
    /// Step of the series' first value that it was fitted to.
    first: usize,
    /// Missing values after the last one that is not.
    late: usize,
}

impl Ets {
    /// The model that AICc prefers. `period` below 2 or above [`PERIOD_MAX`] means no season. Missing values are NaN:
    /// the state moves on as expected, and they give no residual.
    ///
    /// # Errors
    ///
    /// [`StatisticsError::TooShort`] with fewer than three values.
    pub fn fit(&self, values: &[f64], period: usize) -> Result<Fitted, StatisticsError> {
        let present = values.iter().filter(|v| v.is_finite()).count();
        let too_short = StatisticsError::TooShort { model: MODEL, needed: VALUES_MIN, present };
        let Some((first, part)) = recent(values).filter(|_| present >= VALUES_MIN) else {
            return Err(too_short);
        };
        let mut best: Option<Fitted> = None;
        let seasonal = self.season && (2..=PERIOD_MAX).contains(&period) && part.len() >= 3 * period;
        let season = seasonal.then(|| classical::indices(part, period, Kind::Additive)).flatten();
        for season in std::iter::once(Vec::new()).chain(season.map(|s| s.values)) {
            for trend in &self.trends {
                let smoothing = search(part, *trend, &season);
                let fitted = Fitted::new(values.len(), first, part, *trend, smoothing, &season);
                if best.as_ref().is_none_or(|best| fitted.aicc < best.aicc) {
                    best = Some(fitted);
                }
            }
        }
        best.ok_or(too_short)
    }

    /// Forecast of the model that AICc prefers. Of the request's periods the shortest counts, or all, taken out before,
    /// where it is above [`PERIOD_MAX`]. The uncertainty of what is taken out is not in the quantiles.
    ///
    /// # Errors
    ///
    /// As for [`Ets::fit`] and [`Request`].
    pub fn forecast(&self, request: &Request) -> Result<Predicted, StatisticsError> {
        let prepared = Prepared::new(MODEL, request, VALUES_MIN)?;
        let shortest = prepared.periods.first().copied().unwrap_or(1);
        let long = match self.season && shortest > PERIOD_MAX {
            true => Seasons::find(&prepared.values, &prepared.periods),
            false => Seasons::default(),
        };
        let fitted = self.fit(&long.remove(&prepared.values), shortest)?;
        let (mut mean, mut deviation) = (fitted.mean(request.horizon), fitted.deviation(request.horizon));
        long.put_back(prepared.values.len(), &mut mean, &mut deviation);
        prepared.gaussian(MODEL, request.levels, mean, &deviation)
    }
}

/// The last values that are fitted to, from a known one to a known one, and the step of the first of them.
fn recent(values: &[f64]) -> Option<(usize, &[f64])> {
    let last = values.iter().rposition(|v| v.is_finite())?;
    let from = (last + 1).saturating_sub(FIT_MAX);
    let first = from + values[from..].iter().position(|v| v.is_finite())?;
    Some((first, &values[first..=last]))
}

/// The state that a search starts from; its level and slope are then optimised.
fn start(values: &[f64], season: &[f64]) -> State {
    let first = values.iter().copied().find(|v| v.is_finite()).unwrap_or(0.0);
    State { level: first - season.first().copied().unwrap_or(0.0), slope: 0.0, season: season.to_vec() }
}

/// Smoothing parameters with the smallest sum of squared errors.
fn search(values: &[f64], trend: Trend, season: &[f64]) -> Smoothing {
    // α, β / α, γ / (1 − α) and φ: independent of each other, each within fixed bounds.
    let mut bounds = vec![(MARGIN, 1.0 - MARGIN)];
    let mut guess = vec![0.1];
    if trend != Trend::None {
        bounds.push((MARGIN, 1.0 - MARGIN));
        guess.push(0.1);
    }
    if !season.is_empty() {
        bounds.push((MARGIN, 1.0 - MARGIN));
        guess.push(0.1);
    }
    if trend == Trend::Damped {
        bounds.push(DAMPING);
        guess.push(0.95);
    }
    let smoothing = |point: &[f64]| {
        let mut rest = point.iter().copied();
        let alpha = rest.next().unwrap_or(0.0);
        let beta = if trend == Trend::None { 0.0 } else { alpha * rest.next().unwrap_or(0.0) };
        let gamma = if season.is_empty() { 0.0 } else { (1.0 - alpha) * rest.next().unwrap_or(0.0) };
        let phi = match trend {
            Trend::None => 0.0,
            Trend::Additive => 1.0,
            Trend::Damped => rest.next().unwrap_or(DAMPING.1),
        };
        Smoothing { alpha, beta, gamma, phi }
    };
    let starts = [0.1, 0.5, 0.9].map(|alpha| {
        let mut start = guess.clone();
        start[0] = alpha;
        start
    });
    let start = start(values, season);
    let squares = |point: &[f64]| best_initial(values, &smoothing(point), &start, trend != Trend::None).1;
    smoothing(&nelder_mead(squares, &bounds, &starts).point)
}

impl Fitted {
    /// A model with given smoothing parameters, its initial level and slope the best ones. `None` without three values.
    /// `season` are indices by phase of the first value on; empty means no season.
    pub fn given(values: &[f64], trend: Trend, smoothing: Smoothing, season: &[f64]) -> Option<Fitted> {
        let (first, part) = recent(values)?;
        let enough = part.iter().filter(|v| v.is_finite()).count() >= VALUES_MIN;
        enough.then(|| Fitted::new(values.len(), first, part, trend, smoothing, season))
    }

    fn new(length: usize, first: usize, values: &[f64], trend: Trend, smoothing: Smoothing, season: &[f64]) -> Fitted {
        let (initial, _) = best_initial(values, &smoothing, &start(values, season), trend != Trend::None);
        let (mut squares, mut count, mut largest) = (0.0, 0_usize, 0.0_f64);
        let state = filter(values, &smoothing, initial.clone(), |step, _, error| {
            if let Some(error) = error {
                squares += error * error;
                count += 1;
                largest = largest.max(values[step].abs());
            }
        });
        let of_trend = match trend {
            Trend::None => 0,
            Trend::Additive => 2,
            Trend::Damped => 3,
        };
        // α and the level; γ and all indices but one.
        let estimated = 2 + of_trend + season.len();
        let freedom = count.saturating_sub(estimated).max(1);
        let floor = count as f64 * (1e-12 * largest).powi(2);
        Fitted {
            trend,
            smoothing,
            initial,
            state,
            variance: squares / freedom as f64,
            aicc: aicc(squares, floor, count, estimated + 1),
            phase: if season.is_empty() { 0 } else { (length - first) % season.len() },
            first,
            late: length - first - values.len(),
        }
    }

    /// Step of the first value that the model was fitted to: [`Fitted::initial`] is the state before it.
    pub fn first(&self) -> usize {
        self.first
    }

    /// Mean of each of the next `horizon` steps.
    pub fn mean(&self, horizon: usize) -> Vec<f64> {
        let period = self.state.season.len().max(1);
        let season = |step: usize| self.state.season.get((self.phase + step) % period).copied().unwrap_or(0.0);
        let (mut power, mut slopes) = (1.0, 0.0);
        let mut mean = Vec::with_capacity(horizon);
        for ahead in 0..self.late + horizon {
            power *= self.smoothing.phi;
            slopes += power;
            if ahead >= self.late {
                mean.push(self.state.level + slopes * self.state.slope + season(ahead - self.late));
            }
        }
        mean
    }

    /// Standard deviation of each of the next `horizon` steps: σ² (1 + Σ c²) over the steps before, where
    /// c = α + β (φ + … + φʲ), and γ more where j is a multiple of the period.
    pub fn deviation(&self, horizon: usize) -> Vec<f64> {
        let Smoothing { alpha, beta, gamma, phi } = self.smoothing;
        let period = self.state.season.len();
        let (mut power, mut slopes, mut sum) = (1.0, 0.0, 1.0);
        let mut deviation = Vec::with_capacity(horizon);
        for ahead in 1..=self.late + horizon {
            if ahead > self.late {
                deviation.push((self.variance * sum).sqrt());
            }
            power *= phi;
            slopes += power;
            let seasonal = if period > 0 && ahead.is_multiple_of(period) { gamma } else { 0.0 };
            sum += (alpha + beta * slopes + seasonal).powi(2);
        }
        deviation
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::testing::{ascending, coverage, gaussian_noise, mean_absolute_error, request};

    /// A series of the model with the given parameters, level 50, slope 1 and errors of standard deviation 1.
    fn simulated(seed: u64, length: usize, smoothing: &Smoothing, season: &[f64]) -> Vec<f64> {
        let errors = gaussian_noise(seed, length);
        let slope = if smoothing.phi > 0.0 { 1.0 } else { 0.0 };
        let (mut level, mut slope, mut season) = (50.0, slope, season.to_vec());
        let period = season.len().max(1);
        let mut values = Vec::new();
        for (t, e) in errors.into_iter().enumerate() {
            let index = season.get(t % period).copied().unwrap_or(0.0);
            values.push(level + smoothing.phi * slope + index + e);
            level += smoothing.phi * slope + smoothing.alpha * e;
            slope = smoothing.phi * slope + smoothing.beta * e;
            if let Some(index) = season.get_mut(t % period) {
                *index += smoothing.gamma * e;
            }
        }
        values
    }

    const SIMPLE: Smoothing = Smoothing { alpha: 0.4, beta: 0.0, gamma: 0.0, phi: 0.0 };
    const HOLT: Smoothing = Smoothing { alpha: 0.5, beta: 0.2, gamma: 0.0, phi: 1.0 };
    const DAMPED: Smoothing = Smoothing { alpha: 0.6, beta: 0.3, gamma: 0.0, phi: 0.9 };

    #[test]
    fn planted_parameters_are_found() {
        for (trend, planted) in [(Trend::None, SIMPLE), (Trend::Additive, HOLT), (Trend::Damped, DAMPED)] {
            let only = Ets { trends: vec![trend], season: false };
            let fitted = only.fit(&simulated(5, 3000, &planted, &[]), 1).unwrap();
            let found = fitted.smoothing;
            assert!((found.alpha - planted.alpha).abs() < 0.06, "{trend:?} {found:?}");
            assert!((found.beta - planted.beta).abs() < 0.06, "{trend:?} {found:?}");
            assert!((found.phi - planted.phi).abs() < 0.06, "{trend:?} {found:?}");
            assert!((fitted.variance - 1.0).abs() < 0.1, "{trend:?} {}", fitted.variance);
        }
    }

    #[test]
    fn the_criterion_chooses_the_form_that_made_the_series() {
        let season = [-4.0, 1.0, 5.0, -2.0];
        let seasonal = Smoothing { gamma: 0.1, ..SIMPLE };
        for (planted, season, trend) in
            [(SIMPLE, &[][..], Trend::None), (HOLT, &[], Trend::Additive), (seasonal, &season, Trend::None)]
        {
            let fitted = Ets::default().fit(&simulated(1, 400, &planted, season), 4).unwrap();
            assert_eq!((fitted.trend, fitted.state.season.len()), (trend, season.len()), "{planted:?}");
        }
    }

    #[test]
    fn a_year_of_months_is_continued() {
        let month = |t: usize| 100.0 + t as f64 + 20.0 * (std::f64::consts::TAU * (t % 12) as f64 / 12.0).sin();
        let values: Vec<f64> = (0..72).map(month).collect();
        let found = Ets::default().forecast(&request(&values, &[12], 24)).unwrap();
        let actual: Vec<f64> = (72..96).map(month).collect();
        assert!(mean_absolute_error(&found.mean, &actual) < 0.5, "{:?}", found.mean);
    }

    #[test]
    fn a_season_that_is_too_long_for_the_state_is_taken_out_and_put_back() {
        // Quarter hours of a load with a day and a week, and of one that is negative at times.
        let (day, days) = (96, 35);
        let noise = gaussian_noise(6, day * days);
        let value = |t: usize, least: f64| {
            let of_day = 10.0 * (std::f64::consts::TAU * (t % day) as f64 / day as f64).sin();
            let of_week = if t / day % 7 >= 5 { -4.0 } else { 0.0 };
            least + of_day + of_week
        };
        for least in [30.0, 0.0] {
            let whole: Vec<f64> = (0..day * days).map(|t| value(t, least) + 0.3 * noise[t]).collect();
            let (past, actual) = whole.split_at(day * 33);
            let forecast = |ets: Ets| ets.forecast(&request(past, &[7 * day, day], actual.len())).unwrap();
            let (with, without) = (forecast(Ets::default()), forecast(Ets { season: false, ..Ets::default() }));
            let error = |found: &Predicted| mean_absolute_error(&found.mean, actual);
            assert!(error(&with) < 0.6 && error(&without) > 5.0, "{} {}", error(&with), error(&without));
            let inside = with.quantiles.iter().zip(actual).filter(|(q, actual)| (q[0]..=q[2]).contains(actual)).count();
            assert!((0.6..1.0).contains(&(inside as f64 / actual.len() as f64)), "{inside} of {}", actual.len());
            assert!(ascending(&with));
        }
    }

    #[test]
    fn the_variance_of_simple_smoothing_is_the_textbook_one() {
        let values = gaussian_noise(2, 100);
        let fitted = Fitted::given(&values, Trend::None, SIMPLE, &[]).unwrap();
        for (h, deviation) in fitted.deviation(5).into_iter().enumerate() {
            let expected = fitted.variance * (1.0 + 0.16 * h as f64);
            assert!((deviation.powi(2) - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn series_stay_within_their_quantiles() {
        for planted in [SIMPLE, HOLT, DAMPED] {
            let ets = Ets { season: false, ..Ets::default() };
            let found = coverage(150, 120, 10, |seed| simulated(seed, 130, &planted, &[]), |r| ets.forecast(r));
            assert!((found - 0.8).abs() < 0.06, "{planted:?} {found}");
        }
    }

    #[test]
    fn gaps_are_stepped_over_and_late_values_widen_the_forecast() {
        let whole = simulated(9, 400, &HOLT, &[]);
        let mut gaps = whole.clone();
        gaps[100..130].fill(f64::NAN);
        let whole = Ets::default().forecast(&request(&whole, &[], 6)).unwrap();
        let with_gaps = Ets::default().forecast(&request(&gaps, &[], 6)).unwrap();
        assert!(mean_absolute_error(&whole.mean, &with_gaps.mean) < 0.5);
        gaps.extend([f64::NAN; 2]);
        let late = Ets::default().forecast(&request(&gaps, &[], 4)).unwrap();
        assert_eq!(late.quantiles, with_gaps.quantiles[2..]);
    }

    #[test]
    fn constants_and_short_series() {
        let found = Ets::default().forecast(&request(&[5.0; 40], &[4], 3)).unwrap();
        assert!(found.quantiles.iter().flatten().all(|q| (q - 5.0).abs() < 1e-6), "{found:?}");
        assert_eq!(Ets::default().fit(&[5.0; 40], 4).unwrap().trend, Trend::None);
        for length in 3..12 {
            let values: Vec<f64> = (0..length).map(|t| (t * t % 5) as f64).collect();
            assert!(ascending(&Ets::default().forecast(&request(&values, &[2], 3)).unwrap()), "{length}");
        }
        let error = StatisticsError::TooShort { model: "ets", needed: 3, present: 2 };
        assert_eq!(Ets::default().forecast(&request(&[1.0, f64::NAN, 2.0], &[], 1)), Err(error));
    }
}
