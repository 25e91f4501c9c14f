//! A trend of straight pieces, Fourier seasons and regressors: the model of Prophet (Taylor and Letham 2018).
//!
//! The trend's slope changes at equidistant points of the past; the changes have a Laplace prior, which leaves most of
//! them near zero. Seasons and regressors (holidays among them: columns of 0 and 1) have a normal prior. The most
//! probable coefficients are found without sampling: the Laplace prior is replaced by the normal one that touches it at
//! the present estimate and the ridge regression solved again, which never makes the estimate less probable (Hunter and
//! Lange 2004; Figueiredo 2003).
//!
//! Quantiles are simulated as the paper does: new changes of the slope come at the rate of the past and with the mean
//! size of the estimated ones, and each step has normal noise. The noise is independent, so quantiles of series with
//! autocorrelated errors are right for a step and not for a sum of steps.

use serde::{Deserialize, Serialize};

use super::linear::{Gram, Unit};
use super::quantiles::{Randomness, sample_quantiles};
use super::{Predicted, Prepared, Request, StatisticsError, check_regressors, fourier};

const MODEL: &str = "prophet";
/// Values without which there is no trend.
const VALUES_MIN: usize = 4;
/// Standard deviation of the prior of slope and level, for a series whose largest value and length are 1.
const TREND_SCALE: f64 = 5.0;
/// Changes of the slope below this are as good as none; the normal prior that touches the Laplace prior has no width
/// there.
const CHANGE_MIN: f64 = 1e-7;
/// Rounds of regression, and the change of the coefficients that ends them sooner.
const ROUNDS_MAX: usize = 50;
const TOLERANCE: f64 = 1e-6;
/// Harmonics of a season, at most: as many as Prophet gives the longest of its own.
const ORDER: usize = 10;
/// Most simulated numbers: long horizons have fewer paths.
const DRAWS_MAX: usize = 10_000_000;

/// A season by Fourier terms.
struct Seasonality {
    /// Steps after which it repeats.
    period: f64,
    /// Harmonics.
    order: usize,
}

/// Settings. Seasons are the request's periods that the series covers twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prophet {
    /// Points at which the slope may change.
    pub changepoints: usize,
    /// Share of the past, from its start, that they are spread over.
    pub changepoint_range: f64,
    /// Mean size of a change under the prior, for a series whose largest value and length are 1. More bends more.
    pub changepoint_scale: f64,
    /// Standard deviation of seasonal coefficients under the prior, for a series whose largest value is 1.
    pub seasonality_scale: f64,
    /// The same for regressors, each scaled to a standard deviation of 1.
    pub regressor_scale: f64,
    /// Simulated paths.
    pub paths: usize,
    /// Seed of the simulation.
    pub seed: u64,
}

impl Default for Prophet {
    fn default() -> Prophet {
        Prophet {
            changepoints: 25,
            changepoint_range: 0.8,
            changepoint_scale: 0.05,
            seasonality_scale: 10.0,
            regressor_scale: 10.0,
            paths: 1_000,
            seed: 1,
        }
    }
}

/// The parts of a fit, each over the past and the horizon and in the unit of the series. They add up to the mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Components {
    /// The trend.
    pub trend: Vec<f64>,
    /// Each season that was used, with its period in steps.
    pub seasonalities: Vec<(f64, Vec<f64>)>,
    /// Each regressor times its coefficient, in the request's order; shifted so that its mean over the past is 0.
    pub regressors: Vec<Vec<f64>>,
    /// Steps (counted from the start of the series) at which the slope may change, with the change of the slope per
    /// step.
    pub changes: Vec<(f64, f64)>,
}

/// Coefficients on the scale of the regression.
struct Fitted {
    design: Design,
    coefficients: Vec<f64>,
    /// Variance of the noise.
    variance: f64,
    /// The series' values were divided by this.
    size: f64,
}

/// Columns in the order level, slope, changes, seasons, regressors.
struct Design {
    past: usize,
    steps: usize,
    /// Times, on 0 … 1 over the past, at which the slope may change.
    changepoints: Vec<f64>,
    seasonalities: Vec<Seasonality>,
    /// Shifted and scaled.
    regressors: Vec<Vec<f64>>,
}

impl Prophet {
    /// Forecast of one series.
    ///
    /// # Errors
    ///
    /// [`StatisticsError::TooShort`] with fewer than four values, [`StatisticsError::Parameter`] for settings that mean
    /// nothing, errors of the regressors, [`StatisticsError::Singular`].
    pub fn forecast(&self, request: &Request) -> Result<Predicted, StatisticsError> {
        let prepared = self.prepare(request)?;
        let fitted = self.fit(&prepared, request)?;
        let parts = fitted.components();
        let past = prepared.values.len();
        let mean: Vec<f64> = (past..past + request.horizon).map(|step| parts.sum(step)).collect();
        let paths = self.paths.min(DRAWS_MAX / request.horizon.max(1)).max(100);
        let mut samples = fitted.simulate(request.horizon, paths, self.seed);
        let quantiles = samples.iter_mut().zip(&mean).map(|(sample, mean)| {
            let quantiles = sample_quantiles(sample, request.levels);
            quantiles.into_iter().map(|q| mean + q).collect()
        });
        let quantiles = quantiles.collect();
        prepared.finish(MODEL, mean, quantiles)
    }

    /// The parts of the fit over the past and the horizon.
    ///
    /// # Errors
    ///
    /// As for [`Prophet::forecast`], and [`StatisticsError::NotFinite`] where a part is outside the range of numbers.
    pub fn components(&self, request: &Request) -> Result<Components, StatisticsError> {
        let prepared = self.prepare(request)?;
        let mut parts = self.fit(&prepared, request)?.components();
        parts.scale(prepared.scale);
        match (0..prepared.values.len() + request.horizon).find(|step| !parts.sum(*step).is_finite()) {
            Some(step) => Err(StatisticsError::NotFinite { model: MODEL, step }),
            None => Ok(parts),
        }
    }

    fn prepare(&self, request: &Request) -> Result<Prepared, StatisticsError> {
        for (name, value, low, high) in [
            ("changepoint_range", self.changepoint_range, 0.0, 1.0),
            ("changepoint_scale", self.changepoint_scale, 1e-9, 1e9),
            ("seasonality_scale", self.seasonality_scale, 1e-9, 1e9),
            ("regressor_scale", self.regressor_scale, 1e-9, 1e9),
            ("changepoints", self.changepoints as f64, 0.0, 1_000.0),
            ("paths", self.paths as f64, 1.0, 1e6),
        ] {
            if !(low..=high).contains(&value) {
                return Err(StatisticsError::Parameter { model: MODEL, name, value });
            }
        }
        check_regressors(request)?;
        Prepared::new(MODEL, request, VALUES_MIN)
    }

    fn design(&self, prepared: &Prepared, request: &Request) -> Design {
        let past = prepared.values.len();
        let seasonalities = prepared.periods.iter().map(|period| *period as f64);
        let seasonalities =
            seasonalities.map(|period| Seasonality { period, order: fourier::order_max(period, ORDER) });
        // As in Prophet, no more than one change for each step of the range.
        let steps = (past as f64 * self.changepoint_range).floor() as usize;
        let changepoints = self.changepoints.min(steps.saturating_sub(1));
        let spread = steps.saturating_sub(1) as f64 / past as f64;
        Design {
            past,
            steps: past + request.horizon,
            changepoints: (1..=changepoints).map(|i| spread * i as f64 / changepoints as f64).collect(),
            seasonalities: seasonalities.filter(|s| 2.0 * s.period < past as f64).collect(),
            regressors: request.regressors.iter().map(|column| standardised(column, past)).collect(),
        }
    }

    fn fit(&self, prepared: &Prepared, request: &Request) -> Result<Fitted, StatisticsError> {
        let design = self.design(prepared, request);
        let largest = prepared.values.iter().filter(|v| v.is_finite()).fold(0.0_f64, |l, v| l.max(v.abs()));
        let size = if largest > 0.0 { largest } else { 1.0 };
        let width = design.width();
        let mut gram = Gram::new(width);
        let mut row = vec![0.0; width];
        for (step, value) in prepared.values.iter().enumerate().filter(|(_, v)| v.is_finite()) {
            design.row(step, &mut row);
            gram.add(&row, value / size);
        }
        let columns: Vec<usize> = (0..width).collect();
        let changes = 2..2 + design.changepoints.len();
        let seasonal = changes.end..changes.end + design.fourier_columns();
        let rows = gram.rows() as f64;
        let mut changes_now = vec![self.changepoint_scale; changes.len()];
        // As if nothing was explained; the first solution says better.
        let mut variance = 0.01;
        let mut coefficients = vec![0.0; width];
        let mut penalty = vec![0.0; width];
        for _ in 0..ROUNDS_MAX {
            for (i, penalty) in penalty.iter_mut().enumerate() {
                let precision = if changes.contains(&i) {
                    1.0 / (self.changepoint_scale * changes_now[i - 2].abs().max(CHANGE_MIN))
                } else if i < 2 {
                    TREND_SCALE.powi(-2)
                } else if seasonal.contains(&i) {
                    self.seasonality_scale.powi(-2)
                } else {
                    self.regressor_scale.powi(-2)
                };
                *penalty = variance * precision;
            }
            let solution = gram.solve(&columns, &penalty).ok_or(StatisticsError::Singular { model: MODEL })?;
            let moved = solution.coefficients.iter().zip(&coefficients).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            coefficients = solution.coefficients;
            // A perfect fit keeps a variance, or the prior would stop to matter.
            variance = (solution.squares / rows).max(1e-12);
            changes_now.copy_from_slice(&coefficients[changes.clone()]);
            if moved < TOLERANCE {
                break;
            }
        }
        Ok(Fitted { design, coefficients, variance, size })
    }
}

/// `column` in the unit of its past.
fn standardised(column: &[f64], past: usize) -> Vec<f64> {
    let unit = Unit::of(&column[..past]);
    column.iter().map(|v| unit.apply(*v)).collect()
}

impl Design {
    fn fourier_columns(&self) -> usize {
        self.seasonalities.iter().map(|s| 2 * s.order).sum()
    }

    fn width(&self) -> usize {
        2 + self.changepoints.len() + self.fourier_columns() + self.regressors.len()
    }

    /// Time of a step: 0 at the first of the past, 1 at the first of the horizon.
    fn time(&self, step: usize) -> f64 {
        step as f64 / self.past as f64
    }

    fn row(&self, step: usize, row: &mut [f64]) {
        let time = self.time(step);
        row[0] = 1.0;
        row[1] = time;
        let (changes, rest) = row[2..].split_at_mut(self.changepoints.len());
        for (x, point) in changes.iter_mut().zip(&self.changepoints) {
            *x = (time - point).max(0.0);
        }
        let (mut seasons, regressors) = rest.split_at_mut(self.fourier_columns());
        for season in &self.seasonalities {
            let (terms, others) = seasons.split_at_mut(2 * season.order);
            fourier::terms(step, season.period, terms);
            seasons = others;
        }
        for (x, column) in regressors.iter_mut().zip(&self.regressors) {
            *x = column[step];
        }
    }
}

impl Fitted {
    fn components(&self) -> Components {
        let design = &self.design;
        let trend_end = 2 + design.changepoints.len();
        let mut parts = Components {
            trend: Vec::with_capacity(design.steps),
            seasonalities: design.seasonalities.iter().map(|s| (s.period, Vec::with_capacity(design.steps))).collect(),
            regressors: vec![Vec::with_capacity(design.steps); design.regressors.len()],
            changes: Vec::new(),
        };
        let mut row = vec![0.0; design.width()];
        for step in 0..design.steps {
            design.row(step, &mut row);
            row.iter_mut().zip(&self.coefficients).for_each(|(x, c)| *x *= c * self.size);
            parts.trend.push(row[..trend_end].iter().sum());
            let mut rest = &row[trend_end..];
            for (season, (_, values)) in design.seasonalities.iter().zip(&mut parts.seasonalities) {
                let (terms, others) = rest.split_at(2 * season.order);
                values.push(terms.iter().sum());
                rest = others;
            }
            for (value, values) in rest.iter().zip(&mut parts.regressors) {
                values.push(*value);
            }
        }
        let past = design.past as f64;
        let changes = design.changepoints.iter().zip(&self.coefficients[2..trend_end]);
        parts.changes = changes.map(|(time, change)| (time * past, change * self.size / past)).collect();
        parts
    }

    /// Deviations from the mean: steps × paths.
    fn simulate(&self, horizon: usize, paths: usize, seed: u64) -> Vec<Vec<f64>> {
        let points = self.design.changepoints.len();
        let changes = &self.coefficients[2..2 + points];
        let mean_change = changes.iter().map(|c| c.abs()).sum::<f64>() / points.max(1) as f64;
        // Changes are as frequent after the past as they were allowed to be in it.
        let wait = 1.0 / points as f64;
        let noise = self.variance.sqrt();
        let mut randomness = Randomness::new(seed);
        let mut samples = vec![Vec::with_capacity(paths); horizon];
        for _ in 0..paths {
            let mut next = 1.0 + wait * randomness.exponential();
            let (mut slope, mut deviation) = (0.0, 0.0);
            let mut before = 1.0;
            for (step, sample) in samples.iter_mut().enumerate() {
                let time = self.design.time(self.design.past + step);
                deviation += slope * (time - before);
                while next <= time {
                    let change = randomness.laplace(mean_change);
                    deviation += change * (time - next);
                    slope += change;
                    next += wait * randomness.exponential();
                }
                before = time;
                sample.push((deviation + noise * randomness.normal()) * self.size);
            }
        }
        samples
    }
}

impl Components {
    fn sum(&self, step: usize) -> f64 {
        let seasons = self.seasonalities.iter().map(|(_, values)| values[step]);
        let regressors = self.regressors.iter().map(|values| values[step]);
        self.trend[step] + seasons.chain(regressors).sum::<f64>()
    }

    fn scale(&mut self, scale: f64) {
        let seasons = self.seasonalities.iter_mut().flat_map(|(_, values)| values);
        let regressors = self.regressors.iter_mut().flatten();
        seasons.chain(regressors).chain(&mut self.trend).for_each(|v| *v *= scale);
        self.changes.iter_mut().for_each(|(_, change)| *change *= scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::testing::{LEVELS, ascending, coverage, gaussian_noise, mean_absolute_error, request};

    fn wave(t: usize, period: usize) -> f64 {
        (std::f64::consts::TAU * t as f64 / period as f64).sin()
    }

    #[test]
    fn trend_season_and_holidays_are_told_apart() {
        let length = 400;
        let holiday: Vec<f64> = (0..length + 14).map(|t| f64::from(t % 37 == 5)).collect();
        let bend = |t: usize| 20.0 + 0.05 * t as f64 + if t > 200 { 0.2 * (t - 200) as f64 } else { 0.0 };
        let values: Vec<f64> = gaussian_noise(3, length)
            .into_iter()
            .enumerate()
            .map(|(t, e)| bend(t) + 6.0 * wave(t, 7) - 15.0 * holiday[t] + 0.5 * e)
            .collect();
        let regressors = [holiday];
        let ask = Request { values: &values, periods: &[7], regressors: &regressors, horizon: 14, levels: &LEVELS };
        let parts = Prophet::default().components(&ask).unwrap();
        let effect = parts.regressors[0][5] - parts.regressors[0][6];
        assert!((effect + 15.0).abs() < 0.6, "{effect}");
        let season: Vec<f64> = (0..length + 14).map(|t| 6.0 * wave(t, 7)).collect();
        assert!(mean_absolute_error(&parts.seasonalities[0].1, &season) < 0.2);
        let slope = parts.trend[413] - parts.trend[412];
        assert!((slope - 0.25).abs() < 0.03, "{slope}");
        let bends = parts.changes.iter().filter(|(_, change)| change.abs() > 0.02).map(|(at, _)| *at);
        assert!(
            bends.clone().count() >= 1 && bends.clone().all(|at| (170.0..230.0).contains(&at)),
            "{:?}",
            parts.changes
        );
        let found = Prophet::default().forecast(&ask).unwrap();
        let actual: Vec<f64> = (length..length + 14).map(|t| bend(t) + season[t] - 15.0 * regressors[0][t]).collect();
        assert!(mean_absolute_error(&found.mean, &actual) < 1.0);
        for (step, mean) in found.mean.iter().enumerate() {
            assert!((parts.sum(length + step) - mean).abs() < 1e-9);
        }
        assert!(ascending(&found));
    }

    #[test]
    fn the_estimate_is_the_most_probable_one() {
        let values: Vec<f64> = gaussian_noise(1, 120)
            .into_iter()
            .enumerate()
            .map(|(t, e)| (t as f64 - 60.0).abs() / 10.0 + 0.3 * e)
            .collect();
        let prophet = Prophet { changepoints: 6, ..Prophet::default() };
        let ask = request(&values, &[], 0);
        let prepared = prophet.prepare(&ask).unwrap();
        let fitted = prophet.fit(&prepared, &ask).unwrap();
        let mut row = vec![0.0; fitted.design.width()];
        let mut loss = |coefficients: &[f64]| {
            let mut sum = 0.0;
            for (step, value) in values.iter().enumerate() {
                fitted.design.row(step, &mut row);
                let expected: f64 = row.iter().zip(coefficients).map(|(x, c)| x * c).sum();
                sum += (value / fitted.size - expected).powi(2) / (2.0 * fitted.variance);
            }
            let changes: f64 = coefficients[2..8].iter().map(|c| c.abs() / prophet.changepoint_scale).sum();
            sum + changes + coefficients[..2].iter().map(|c| c * c / 50.0).sum::<f64>()
        };
        let best = loss(&fitted.coefficients);
        for i in 0..8 {
            for shift in [-1e-3, 1e-3] {
                let mut moved = fitted.coefficients.clone();
                moved[i] += shift;
                assert!(loss(&moved) > best - 1e-3, "{i} {shift}");
            }
        }
    }

    #[test]
    fn a_line_with_noise_stays_within_its_quantiles() {
        let simulate =
            |seed| gaussian_noise(seed, 110).into_iter().enumerate().map(|(t, e)| 50.0 + 0.1 * t as f64 + e).collect();
        let found = coverage(100, 100, 10, simulate, |r| Prophet::default().forecast(r));
        assert!((found - 0.8).abs() < 0.08, "{found}");
    }

    #[test]
    fn the_same_seed_gives_the_same_bits() {
        let values = gaussian_noise(6, 80);
        let ask = request(&values, &[7], 12);
        let first = Prophet::default().forecast(&ask).unwrap();
        assert_eq!(first, Prophet::default().forecast(&ask).unwrap());
        assert_ne!(first, Prophet { seed: 2, ..Prophet::default() }.forecast(&ask).unwrap());
    }

    #[test]
    fn seasons_need_two_periods() {
        let values = gaussian_noise(2, 24 * 15);
        let parts = Prophet::default().components(&request(&values, &[24, 168, 24 * 8], 3)).unwrap();
        assert_eq!(parts.seasonalities.iter().map(|(p, _)| *p).collect::<Vec<_>>(), vec![24.0, 168.0]);
    }

    #[test]
    fn gaps_constants_and_settings_that_mean_nothing() {
        let mut values: Vec<f64> = (0..70).map(|t| 10.0 + 3.0 * wave(t, 7)).collect();
        values[20..30].fill(f64::NAN);
        let found = Prophet::default().forecast(&request(&values, &[7], 7)).unwrap();
        let actual: Vec<f64> = (70..77).map(|t| 10.0 + 3.0 * wave(t, 7)).collect();
        assert!(mean_absolute_error(&found.mean, &actual) < 0.1, "{:?}", found.mean);
        for constant in [0.0, 5.0] {
            let found = Prophet::default().forecast(&request(&[constant; 40], &[7], 3)).unwrap();
            assert!(found.mean.iter().all(|m| (m - constant).abs() < 1e-3), "{found:?}");
        }
        let error = StatisticsError::Parameter { model: "prophet", name: "changepoint_scale", value: 0.0 };
        let wrong = Prophet { changepoint_scale: 0.0, ..Prophet::default() };
        assert_eq!(wrong.forecast(&request(&values, &[], 1)), Err(error));
        let error = StatisticsError::TooShort { model: "prophet", needed: 4, present: 3 };
        assert_eq!(Prophet::default().forecast(&request(&[1.0; 3], &[], 1)), Err(error));
    }
}
