//! The Theta family: the M4 competition's `Naive2`, and the dynamic optimised Theta model.

use super::classical::{self, Kind, Seasons};
use super::optimise::golden_section;
use super::{Predicted, Prepared, Request, StatisticsError, gaps};

/// Fewest values of [`Theta`]: the first three errors do not count, three parameters are estimated.
const VALUES_MIN: usize = 7;
/// First step, from 1, whose error counts: before, the line through the past is not determined.
const FIRST_COUNTED: usize = 4;
/// Range of the smoothing parameter (Fiorucci et al. 2016 stop at 0.1; slow levels need less).
const ALPHA: (f64, f64) = (0.02, 0.99);

/// `Naive2` of the M4 competition (Makridakis, Spiliotis and Assimakopoulos 2020): the last value of the seasonally
/// adjusted series, put back into season. What OWA is relative to.
///
/// The period is the request's shortest. Where the series is seasonal ([`classical::is_seasonal`]) it is divided by the
/// indices of a multiplicative classical decomposition, else (also where an index is not positive) it is the plain
/// naive forecast. The competition has no quantiles for it; here they are those of a random walk of the adjusted
/// series, times the season.
///
/// # Errors
///
/// [`StatisticsError::TooShort`] without a value.
pub fn naive2(request: &Request) -> Result<Predicted, StatisticsError> {
    const MODEL: &str = "naive2";
    let prepared = Prepared::new(MODEL, request, 1)?;
    let season = prepared.periods.first().copied().filter(|p| classical::is_seasonal(&prepared.values, *p));
    let season = season.and_then(|period| classical::indices(&prepared.values, period, Kind::Multiplicative));
    let season: Seasons = season.into_iter().collect();
    let adjusted = season.remove(&prepared.values);
    let walk = Request { values: &adjusted, periods: &[], regressors: &[], ..*request };
    let walk = super::drift::naive(&walk)?;
    let from = prepared.values.len();
    let apply = |step: usize, v: f64| season.apply(from + step, v);
    let mean = walk.mean.iter().enumerate().map(|(step, v)| apply(step, *v)).collect();
    let quantiles = walk.quantiles.iter().enumerate();
    let quantiles = quantiles.map(|(step, q)| q.iter().map(|v| apply(step, *v)).collect()).collect();
    prepared.finish(MODEL, mean, quantiles)
}

/// The dynamic optimised Theta model (Fiorucci, Pellegrini, Louzada, Petropoulos and Koehler 2016): simple smoothing
/// plus a share of the line through the past, both re-estimated with every value.
///
/// Seasons are removed by classical decomposition where the M4 test finds them ([`Seasons::find`]). The smoothing
/// parameter is found by a search in one dimension: given it, the initial level and the share of the line enter the
/// errors linearly and follow from a regression. Quantiles are those of a normal distribution; its variance comes from
/// the response of the forecast to an error in its first step, which the recursion gives exactly, taken for the errors
/// of the later steps too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theta;

impl Theta {
    /// Forecast of one series.
    ///
    /// # Errors
    ///
    /// [`StatisticsError::TooShort`] with fewer than seven values.
    pub fn forecast(&self, request: &Request) -> Result<Predicted, StatisticsError> {
        const MODEL: &str = "theta";
        let prepared = Prepared::new(MODEL, request, VALUES_MIN)?;
        let seasons = Seasons::find(&prepared.values, &prepared.periods);
        let adjusted = seasons.remove(&prepared.values);
        let Some(fitted) = Fitted::new(&adjusted) else {
            return Err(StatisticsError::TooShort { model: MODEL, needed: VALUES_MIN, present: prepared.present });
        };
        let (mut mean, mut deviation) = fitted.forecast(request.horizon);
        seasons.put_back(prepared.values.len(), &mut mean, &mut deviation);
        prepared.gaussian(MODEL, request.levels, mean, &deviation)
    }
}

/// Level by smoothing, and the least-squares line through all values so far: intercept `a`, slope `b` over steps that
/// count from 1.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Dynamic {
    steps: f64,
    level: f64,
    mean: f64,
    a: f64,
    b: f64,
    /// (1 − α) to the number of steps.
    faded: f64,
}

impl Dynamic {
    fn new(level: f64) -> Dynamic {
        Dynamic { steps: 0.0, level, mean: 0.0, a: 0.0, b: 0.0, faded: 1.0 }
    }

    /// What the line adds to the next value, before the share 1 − 1/θ.
    fn line(&self, alpha: f64) -> f64 {
        self.faded * self.a + (1.0 - self.faded * (1.0 - alpha)) / alpha * self.b
    }

    fn advance(&mut self, value: f64, alpha: f64) {
        self.steps += 1.0;
        let t = self.steps;
        self.level += alpha * (value - self.level);
        self.b = if t < 2.0 { 0.0 } else { ((t - 2.0) * self.b + 6.0 * (value - self.mean) / t) / (t + 1.0) };
        self.mean += (value - self.mean) / t;
        self.a = self.mean - (t + 1.0) / 2.0 * self.b;
        // Below this it only costs time as a subnormal number.
        self.faded = if self.faded < 1e-200 { 0.0 } else { self.faded * (1.0 - alpha) };
    }
}

/// A fitted model of a series without season.
#[derive(Debug, Clone, PartialEq)]
struct Fitted {
    alpha: f64,
    /// 1 − 1/θ
    share: f64,
    /// After the last value; of the series without `centre`.
    state: Dynamic,
    centre: f64,
    variance: f64,
    /// Missing values after the last one that is not.
    late: usize,
}

impl Fitted {
    fn new(values: &[f64]) -> Option<Fitted> {
        let last = values.iter().rposition(|v| v.is_finite())?;
        let known = &values[..=last];
        // The model moves with its level, but far from zero the line's part and the level's cannot be told apart.
        let mut filled = gaps::interpolate(known);
        let centre = filled.iter().map(|v| v / filled.len() as f64).sum::<f64>();
        filled.iter_mut().for_each(|v| *v -= centre);
        let squares = |alpha: f64| regress(known, &filled, alpha).2;
        let alpha = golden_section(squares, ALPHA.0, ALPHA.1, 24);
        let (level, share, _) = regress(known, &filled, alpha);
        let mut state = Dynamic::new(level);
        let (mut sum, mut count) = (0.0, 0_usize);
        for (step, (value, known)) in filled.iter().zip(known).enumerate() {
            if step + 1 >= FIRST_COUNTED && known.is_finite() {
                sum += (value - state.level - share * state.line(alpha)).powi(2);
                count += 1;
            }
            state.advance(*value, alpha);
        }
        let variance = sum / count.saturating_sub(3).max(1) as f64;
        Some(Fitted { alpha, share, state, centre, variance, late: values.len() - 1 - last })
    }

    /// Mean and standard deviation of the next `horizon` steps. A step's mean stands in for its value in the next one.
    fn forecast(&self, horizon: usize) -> (Vec<f64>, Vec<f64>) {
        let mut state = self.state;
        // The same recursion over a unit error in the first step and nothing else: it is linear.
        let mut response = Dynamic { steps: state.steps, faded: state.faded, ..Dynamic::new(0.0) };
        let (mut mean, mut deviation) = (Vec::new(), Vec::new());
        let mut sum = 0.0;
        for ahead in 0..self.late + horizon {
            let expected = state.level + self.share * state.line(self.alpha);
            state.advance(expected, self.alpha);
            let effect = if ahead == 0 { 1.0 } else { response.level + self.share * response.line(self.alpha) };
            response.advance(effect, self.alpha);
            sum += effect * effect;
            if ahead >= self.late {
                mean.push(self.centre + expected);
                deviation.push((self.variance * sum).sqrt());
            }
        }
        (mean, deviation)
    }
}

/// For a given α: the initial level and the share of the line that minimise the squared errors of the `known` values,
/// and their sum. The share is kept between 0 (θ = 1, simple smoothing) and 1 (θ = ∞).
fn regress(known: &[f64], filled: &[f64], alpha: f64) -> (f64, f64, f64) {
    let first = filled.first().copied().unwrap_or(0.0);
    let mut state = Dynamic::new(first);
    let (mut ee, mut re, mut te, mut rr, mut rt, mut tt) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
    for (step, (value, known)) in filled.iter().zip(known).enumerate() {
        if step + 1 >= FIRST_COUNTED && known.is_finite() {
            let (e, r, t) = (value - state.level, state.faded, state.line(alpha));
            ee += e * e;
            re += r * e;
            te += t * e;
            rr += r * r;
            rt += r * t;
            tt += t * t;
        }
        state.advance(*value, alpha);
    }
    // An initial level that is forgotten before the first counted error cannot be estimated.
    let of_level = rr > 1e-6;
    let determinant = rr * tt - rt * rt;
    let share = if of_level && determinant > 1e-10 * rr * tt {
        (rr * te - rt * re) / determinant
    } else if tt > 0.0 {
        te / tt
    } else {
        0.0
    };
    let share = share.clamp(0.0, 1.0);
    let shift = if of_level { (re - share * rt) / rr } else { 0.0 };
    let squares =
        ee - 2.0 * (shift * re + share * te) + shift * shift * rr + 2.0 * shift * share * rt + share * share * tt;
    (first + shift, share, squares.max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::testing::{ascending, coverage, gaussian_noise, mean_absolute_error, request, two_seasons};

    #[test]
    fn the_line_is_the_least_squares_line_through_the_past() {
        let values = [3.0, 4.5, 2.0, 8.0, 7.5, 1.0];
        let mut state = Dynamic::new(0.0);
        for (i, value) in values.iter().enumerate() {
            state.advance(*value, 0.3);
            if i == 0 {
                continue;
            }
            let n = (i + 1) as f64;
            let (time, level) = ((n + 1.0) / 2.0, values[..=i].iter().sum::<f64>() / n);
            let (mut cross, mut square) = (0.0, 0.0);
            for (j, v) in values[..=i].iter().enumerate() {
                cross += ((j + 1) as f64 - time) * (v - level);
                square += ((j + 1) as f64 - time).powi(2);
            }
            assert!((state.b - cross / square).abs() < 1e-12, "step {i}");
            assert!((state.a - (level - cross / square * time)).abs() < 1e-12, "step {i}");
        }
    }

    #[test]
    fn naive2_repeats_the_season_at_the_last_level() {
        let season = [0.5, 1.5, 1.25, 0.75];
        let values: Vec<f64> = (0..42).map(|t| 10.0 * season[t % 4]).collect();
        let found = naive2(&request(&values, &[4], 6)).unwrap();
        let expected: Vec<f64> = (42..48).map(|t| 10.0 * season[t % 4]).collect();
        assert!(mean_absolute_error(&found.mean, &expected) < 1e-9, "{:?}", found.mean);
    }

    #[test]
    fn naive2_of_a_series_without_season_is_naive() {
        let values: Vec<f64> = gaussian_noise(3, 60).into_iter().map(|e| 20.0 + e).collect();
        for periods in [&[12][..], &[]] {
            let found = naive2(&request(&values, periods, 5)).unwrap();
            assert_eq!(found, super::super::drift::naive(&request(&values, &[], 5)).unwrap());
        }
    }

    #[test]
    fn a_straight_line_goes_on() {
        let values: Vec<f64> = (0..50).map(|t| 3.0 + 2.0 * t as f64).collect();
        let found = Theta.forecast(&request(&values, &[], 5)).unwrap();
        let expected: Vec<f64> = (50..55).map(|t| 3.0 + 2.0 * t as f64).collect();
        assert!(mean_absolute_error(&found.mean, &expected) < 0.1, "{:?}", found.mean);
    }

    #[test]
    fn two_seasons_are_continued() {
        let values = two_seasons(4, 168 * 6 + 48, 24, 168);
        let found = Theta.forecast(&request(&values[..168 * 6], &[24, 168], 48)).unwrap();
        assert!(mean_absolute_error(&found.mean, &values[168 * 6..]) < 1.6, "noise alone makes 0.8");
        assert!(ascending(&found));
    }

    #[test]
    fn a_noisy_trend_stays_within_its_quantiles() {
        let simulate = |seed| {
            let mut level = 100.0;
            let noise = gaussian_noise(seed, 2 * 108);
            let (moves, errors) = noise.split_at(108);
            let next = |(m, e): (&f64, &f64)| {
                level += 0.3 + 0.5 * m;
                level + e
            };
            moves.iter().zip(errors).map(next).collect()
        };
        let found = coverage(200, 100, 8, simulate, |r| Theta.forecast(r));
        assert!((found - 0.8).abs() < 0.06, "{found}");
    }

    #[test]
    fn constants_gaps_and_negative_values() {
        let constant = Theta.forecast(&request(&[4.0; 30], &[7], 3)).unwrap();
        assert!(constant.quantiles.iter().flatten().all(|q| (q - 4.0).abs() < 1e-6), "{constant:?}");
        let mut values: Vec<f64> = (0..60).map(|t| if t % 6 < 3 { -5.0 } else { 5.0 }).collect();
        values[20..24].fill(f64::NAN);
        let found = Theta.forecast(&request(&values, &[6], 6)).unwrap();
        assert!(mean_absolute_error(&found.mean, &[-5.0, -5.0, -5.0, 5.0, 5.0, 5.0]) < 0.5, "{:?}", found.mean);
    }

    #[test]
    fn six_values_are_too_few() {
        let error = StatisticsError::TooShort { model: "theta", needed: 7, present: 6 };
        assert_eq!(Theta.forecast(&request(&[1.0; 6], &[], 1)), Err(error));
    }
}
