//! Decomposition into trend, seasons and a remainder, and the forecast that follows from it.
//!
//! [`Loess`] smooths, [`Stl`] takes one season out of a series, [`Mstl`] several (Bandara, Hyndman and Bergmeir 2021);
//! its forecast continues each season and leaves the rest to exponential smoothing.

mod forecast;
mod loess;
mod stl;

use serde::{Deserialize, Serialize};

pub use loess::{Degree, Loess};
pub use stl::{Parts, Stl};

use super::ets::Ets;
use super::{Prepared, Request, StatisticsError, gaps};

const MODEL: &str = "mstl";

/// A season of a decomposition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seasonal {
    /// Steps after which it repeats, nearly.
    pub period: usize,
    /// Its value at each step of the series, in the unit of the series; their mean is about 0.
    pub values: Vec<f64>,
}

impl Seasonal {
    /// The last cycle, repeated: the value at `step`, counted from the start of the series and after its end.
    fn continued(&self, step: usize) -> f64 {
        let length = self.values.len();
        let cycles = (step + 1).saturating_sub(length).div_ceil(self.period);
        step.checked_sub(cycles * self.period).and_then(|i| self.values.get(i)).copied().unwrap_or(0.0)
    }
}

/// A series as the sum of its components, each as long as the series and in its unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decomposition {
    /// The trend, known also where the series is missing.
    pub trend: Vec<f64>,
    /// The seasons, shortest period first, known also where the series is missing. Empty when no period is covered
    /// twice.
    pub seasonal: Vec<Seasonal>,
    /// What is left: NaN where the series is missing.
    pub remainder: Vec<f64>,
}

impl Decomposition {
    /// The seasonally adjusted series: trend and remainder, NaN where the series is missing.
    pub fn adjusted(&self) -> Vec<f64> {
        self.trend.iter().zip(&self.remainder).map(|(trend, remainder)| trend + remainder).collect()
    }
}

/// Decomposition by STL for each period in turn, and a forecast of its parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mstl {
    /// Rounds over all periods; the paper uses two.
    pub rounds: usize,
    /// Times that outliers are weighed down in each STL; 0 is not robust and about five times as fast as 5.
    pub robust: usize,
    /// What forecasts the seasonally adjusted series.
    pub rest: Ets,
}

impl Default for Mstl {
    fn default() -> Mstl {
        Mstl { rounds: 2, robust: 0, rest: Ets { season: false, ..Ets::default() } }
    }
}

impl Mstl {
    /// Components of `values`. Periods of which the series does not cover two, and one step more, are left out. Missing
    /// values have no weight in any local regression.
    ///
    /// # Errors
    ///
    /// [`StatisticsError::TooShort`] without a value.
    pub fn decompose(&self, values: &[f64], periods: &[usize]) -> Result<Decomposition, StatisticsError> {
        let request = Request { values, periods, regressors: &[], horizon: 0, levels: &[] };
        let prepared = Prepared::new(MODEL, &request, 1)?;
        let mut found = self.components(&prepared);
        if prepared.scale != 1.0 {
            let seasons = found.seasonal.iter_mut().flat_map(|s| &mut s.values);
            seasons.chain(&mut found.trend).chain(&mut found.remainder).for_each(|v| *v *= prepared.scale);
        }
        Ok(found)
    }

    fn components(&self, prepared: &Prepared) -> Decomposition {
        let values = &prepared.values;
        let periods = prepared.covered_periods();
        let filled = gaps::fill_seasonal(values, periods.last().copied().unwrap_or(1));
        let gaps = prepared.present < values.len();
        let known: Option<Vec<f64>> = gaps.then(|| values.iter().map(|v| f64::from(v.is_finite())).collect());
        let mut rest = filled.clone();
        let mut trend = vec![0.0; values.len()];
        let mut seasonal: Vec<Seasonal> =
            periods.iter().map(|p| Seasonal { period: *p, values: vec![0.0; values.len()] }).collect();
        for _ in 0..self.rounds.max(1) {
            for (i, season) in seasonal.iter_mut().enumerate() {
                rest.iter_mut().zip(&season.values).for_each(|(rest, season)| *rest += season);
                let stl = Stl::new(season.period, i, self.robust);
                let parts = stl.decompose(&rest, known.as_deref());
                (season.values, trend) = (parts.seasonal, parts.trend);
                rest.iter_mut().zip(&season.values).for_each(|(rest, season)| *rest -= season);
            }
        }
        if seasonal.is_empty() {
            Loess::new((values.len() / 3).max(7), Degree::Linear).smooth(&filled, known.as_deref(), &mut trend);
        }
        // From the values, not the filled ones: missing stays missing.
        let season = |i: usize| seasonal.iter().map(|s| s.values[i]).sum::<f64>();
        let remainder = values.iter().zip(&trend).enumerate().map(|(i, (v, t))| v - t - season(i)).collect();
        Decomposition { trend, seasonal, remainder }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::testing::two_seasons;

    fn wave(t: usize, period: usize) -> f64 {
        (std::f64::consts::TAU * t as f64 / period as f64).sin()
    }

    #[test]
    fn two_seasons_are_told_apart_and_everything_adds_up() {
        let values = two_seasons(1, 24 * 7 * 12, 24, 168);
        let found = Mstl::default().decompose(&values, &[168, 24]).unwrap();
        assert_eq!(found.seasonal.iter().map(|s| s.period).collect::<Vec<_>>(), vec![24, 168]);
        let size = values.len() as f64;
        let error = |season: usize, height: f64, period: usize| {
            let found = found.seasonal[season].values.iter().enumerate();
            (found.map(|(t, s)| (s - height * wave(t, period)).powi(2)).sum::<f64>() / size).sqrt()
        };
        assert!(error(0, 10.0, 24) < 0.6 && error(1, 5.0, 168) < 0.6, "{} {}", error(0, 10.0, 24), error(1, 5.0, 168));
        for (t, value) in values.iter().enumerate() {
            let sum = found.trend[t] + found.remainder[t] + found.seasonal.iter().map(|s| s.values[t]).sum::<f64>();
            assert!((sum - value).abs() < 1e-9);
        }
    }

    #[test]
    fn a_missing_day_is_missing_only_in_the_remainder() {
        let mut values = two_seasons(1, 24 * 7 * 8, 24, 168);
        let whole = Mstl::default().decompose(&values, &[24, 168]).unwrap();
        values[500..524].fill(f64::NAN);
        let found = Mstl::default().decompose(&values, &[24, 168]).unwrap();
        assert!(found.remainder.iter().enumerate().all(|(t, r)| r.is_nan() == (500..524).contains(&t)));
        let expected = |t: usize| 100.0 + 0.002 * t as f64 + 10.0 * wave(t, 24) + 5.0 * wave(t, 168);
        let fitted = |t: usize| found.trend[t] + found.seasonal.iter().map(|s| s.values[t]).sum::<f64>();
        let error = (500..524).map(|t| (fitted(t) - expected(t)).abs()).sum::<f64>() / 24.0;
        assert!(error < 1.0, "{error}");
        assert!((whole.trend[900] - found.trend[900]).abs() < 0.2);
    }

    #[test]
    fn periods_longer_than_half_the_series_are_left_out() {
        for (length, periods) in [(14, 0), (15, 1), (336, 1), (337, 2)] {
            let found = Mstl::default().decompose(&vec![1.0; length], &[7, 168]).unwrap();
            assert_eq!(found.seasonal.len(), periods, "{length}");
        }
        let line: Vec<f64> = (0..30).map(f64::from).collect();
        let found = Mstl::default().decompose(&line, &[]).unwrap();
        assert!(found.trend.iter().zip(&line).all(|(a, b)| (a - b).abs() < 1e-9));
    }

    #[test]
    fn the_last_cycle_is_repeated() {
        let season = Seasonal { period: 3, values: vec![9.0, 9.0, 9.0, 1.0, 2.0, 3.0, 4.0] };
        let continued: Vec<f64> = (7..14).map(|t| season.continued(t)).collect();
        assert_eq!(continued, vec![2.0, 3.0, 4.0, 2.0, 3.0, 4.0, 2.0]);
    }

    #[test]
    fn huge_and_tiny_values_come_back_in_their_unit() {
        for unit in [1e-300, 1e200] {
            let values: Vec<f64> = two_seasons(2, 200, 7, 30).iter().map(|v| v * unit).collect();
            let found = Mstl::default().decompose(&values, &[7, 30]).unwrap();
            assert!((found.trend[100] / unit - 100.0).abs() < 2.0, "{unit}");
        }
    }
}
