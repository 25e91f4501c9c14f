//! Dynamic harmonic regression: Fourier terms, a trend and known regressors, with autoregressive errors.
//!
//! FPP3 (Hyndman and Athanasopoulos 2021, section 10.5) with errors of a few recent lags and one each
//! period back instead of a full ARIMA, so that everything is least squares: a first regression, an autoregression of
//! its residuals, the regression again on the series and the columns filtered by it (Cochrane and
//! Orcutt 1949), twice. AICc of the filtered regression chooses the number of harmonics of each period and whether
//! there is a trend; harmonics of a longer period that a shorter one has too are its alone.
//!
//! Quantiles are those of a normal distribution with the variance of the autoregression's ψ weights and that of the
//! coefficients. The uncertainty of the autoregression itself, and of the choice, is not in it.

use super::autoregression::Autoregression;
use super::linear::{Gram, Solution, Unit, aicc};
use super::{Component, Predicted, Prepared, Request, Source, StatisticsError, check_regressors, fourier};

const MODEL: &str = "harmonic";
/// Values without which there is no regression.
const VALUES_MIN: usize = 8;
/// Harmonics tried for the shortest period, and for longer ones.
const ORDERS: [usize; 11] = [0, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20];
const ORDERS_LONG: [usize; 11] = [0, 1, 2, 3, 5, 8, 10, 14, 17, 21, 24];
/// Rounds of filtering and regression.
const ROUNDS: usize = 2;

/// Dynamic harmonic regression with its usual settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Harmonic;

/// What was chosen and found.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    /// Periods with their number of harmonics.
    pub harmonics: Vec<(usize, usize)>,
    /// Whether there is a linear trend.
    pub trend: bool,
    /// Coefficients of the regressors, in their order: units of the series per unit of the regressor.
    pub regressors: Vec<f64>,
    /// The errors' process.
    pub errors: Autoregression,
    /// Variance of what the process does not explain, in the squared unit of the series.
    pub variance: f64,
    /// The regression over the past and the horizon, without the errors' process.
    regression: Vec<f64>,
    /// Columns of the design with their coefficients, and what was taken from the values before.
    terms: Vec<(usize, f64)>,
    centre: f64,
    /// What the coefficients' uncertainty adds to the variance, relative to it, for each step after the last value.
    leverage: Vec<f64>,
}

/// Steps up to the last known value, which is one of them.
fn known_until(values: &[f64]) -> usize {
    values.iter().rposition(|v| v.is_finite()).map_or(values.len(), |i| i + 1)
}

impl Harmonic {
    /// Forecast of one series.
    ///
    /// # Errors
    ///
    /// [`StatisticsError::TooShort`] with fewer than eight values (plus three for each regressor), errors of the
    /// regressors, [`StatisticsError::Singular`].
    pub fn forecast(&self, request: &Request) -> Result<Predicted, StatisticsError> {
        let prepared = self.prepare(request)?;
        let fitted = fit(&prepared, request)?;
        let past = prepared.values.len();
        let late = past - known_until(&prepared.values);
        let errors = fitted.errors_ahead(&prepared, request.horizon);
        let mean = fitted.regression[past..].iter().zip(errors).map(|(r, e)| r + e).collect();
        let mut sum = 0.0;
        let deviation: Vec<f64> = (fitted.errors.psi(late + request.horizon).iter().zip(&fitted.leverage))
            .map(|(psi, leverage)| {
                sum += psi * psi;
                (fitted.variance * (sum + leverage)).sqrt()
            })
            .skip(late)
            .collect();
        prepared.gaussian(MODEL, request.levels, mean, &deviation)
    }

    /// What the mean of the forecast is the sum of: level and trend, each season, each regressor, and what the newest
    /// errors say.
    ///
    /// # Errors
    ///
    /// As for [`Harmonic::forecast`].
    pub fn components(&self, request: &Request) -> Result<Vec<Component>, StatisticsError> {
        let prepared = self.prepare(request)?;
        let fitted = fit(&prepared, request)?;
        let design = Design::new(&prepared, request);
        let past = prepared.values.len();
        let seasons = design.periods.iter().map(|period| Source::Season(*period as f64));
        let regressors = (0..request.regressors.len()).map(Source::Regressor);
        let sources = std::iter::once(Source::Trend).chain(seasons).chain(regressors);
        let level = |source: Source| if source == Source::Trend { fitted.centre } else { 0.0 };
        let mut components: Vec<Component> =
            sources.map(|source| Component { source, values: vec![level(source); request.horizon] }).collect();
        for (column, coefficient) in &fitted.terms {
            let source = design.source(*column);
            for part in components.iter_mut().filter(|part| part.source == source) {
                let ahead = &design.columns[*column][past..];
                part.values.iter_mut().zip(ahead).for_each(|(sum, x)| *sum += coefficient * x);
            }
        }
        let errors = fitted.errors_ahead(&prepared, request.horizon);
        components.push(Component { source: Source::Errors, values: errors });
        components.iter_mut().flat_map(|part| &mut part.values).for_each(|value| *value *= prepared.scale);
        Ok(components)
    }

    /// What is chosen and found for one series.
    ///
    /// # Errors
    ///
    /// As for [`Harmonic::forecast`].
    pub fn fit(&self, request: &Request) -> Result<Fitted, StatisticsError> {
        let prepared = self.prepare(request)?;
        let mut fitted = fit(&prepared, request)?;
        fitted.regressors.iter_mut().chain(&mut fitted.regression).for_each(|v| *v *= prepared.scale);
        fitted.variance *= prepared.scale * prepared.scale;
        Ok(fitted)
    }

    fn prepare(&self, request: &Request) -> Result<Prepared, StatisticsError> {
        check_regressors(request)?;
        Prepared::new(MODEL, request, VALUES_MIN + 3 * request.regressors.len())
    }
}

impl Fitted {
    /// What the errors' process expects of the steps after the series.
    fn errors_ahead(&self, prepared: &Prepared, horizon: usize) -> Vec<f64> {
        let residuals: Vec<f64> = prepared.values.iter().zip(&self.regression).map(|(v, r)| v - r).collect();
        // Missing values at the end are the first steps of the errors' forecast.
        let last = known_until(&residuals);
        let late = prepared.values.len() - last;
        self.errors.forecast(&residuals[..last], late + horizon).split_off(late)
    }
}

/// The columns of the regression and what each stands for.
struct Design {
    /// Over the past and the horizon: constant, trend, regressors, then pairs of Fourier terms.
    columns: Vec<Vec<f64>>,
    /// First Fourier column.
    fourier: usize,
    /// Period (an index of `periods`) and harmonic of each pair of Fourier columns.
    pairs: Vec<(usize, usize)>,
    periods: Vec<usize>,
    /// Units of the regressors.
    units: Vec<Unit>,
}

impl Design {
    fn new(prepared: &Prepared, request: &Request) -> Design {
        let past = prepared.values.len();
        let steps = past + request.horizon;
        let mut columns = vec![vec![1.0; steps]];
        columns.push((0..steps).map(|t| (t as f64 - past as f64) / past as f64).collect());
        let mut units = Vec::new();
        for regressor in request.regressors {
            let unit = Unit::of(&regressor[..past]);
            columns.push(regressor.iter().map(|v| unit.apply(*v)).collect());
            units.push(unit);
        }
        let fourier = columns.len();
        let periods = prepared.covered_periods();
        // Never more columns than a third of the values.
        let mut room = (prepared.present / 3).saturating_sub(fourier) / 2;
        let mut pairs = Vec::new();
        for (index, period) in periods.iter().enumerate() {
            let orders = if index == 0 { ORDERS } else { ORDERS_LONG };
            let most = fourier::order_max(*period as f64, orders[orders.len() - 1]);
            let mut wanted: Vec<usize> = Vec::new();
            for harmonic in 1..=most {
                let shorter = &periods[..index];
                let repeats = shorter.iter().enumerate().any(|(i, s)| {
                    (harmonic * s).is_multiple_of(*period) && pairs.contains(&(i, harmonic * s / period))
                });
                if !repeats && wanted.len() < room {
                    wanted.push(harmonic);
                }
            }
            room -= wanted.len();
            let mut waves = vec![Vec::with_capacity(steps); 2 * wanted.len()];
            let mut terms = vec![0.0; 2 * most];
            for step in 0..steps {
                fourier::terms(step, *period as f64, &mut terms);
                for (waves, harmonic) in waves.chunks_exact_mut(2).zip(&wanted) {
                    waves[0].push(terms[2 * harmonic - 2]);
                    waves[1].push(terms[2 * harmonic - 1]);
                }
            }
            columns.append(&mut waves);
            pairs.extend(wanted.iter().map(|harmonic| (index, *harmonic)));
        }
        Design { columns, fourier, pairs, periods, units }
    }

    /// What a column belongs to.
    fn source(&self, column: usize) -> Source {
        match column.checked_sub(self.fourier) {
            Some(wave) => {
                let period = self.pairs.get(wave / 2).and_then(|(index, _)| self.periods.get(*index));
                Source::Season(period.map_or(f64::NAN, |period| *period as f64))
            }
            None if column < 2 => Source::Trend,
            None => Source::Regressor(column - 2),
        }
    }

    /// Columns with a trend or not and with the first harmonics of each period.
    fn chosen(&self, trend: bool, orders: &[usize]) -> Vec<usize> {
        let mut chosen = vec![0];
        chosen.extend(trend.then_some(1));
        chosen.extend(2..self.fourier);
        for (i, (period, harmonic)) in self.pairs.iter().enumerate() {
            if *harmonic <= orders[*period] {
                chosen.extend([self.fourier + 2 * i, self.fourier + 2 * i + 1]);
            }
        }
        chosen
    }

    /// Sums of products over the steps of `values` that are known with all lags of `errors`, filtered by it. Only the
    /// `chosen` columns, in their order.
    fn gram(&self, values: &[f64], errors: &Autoregression, chosen: &[usize]) -> Gram {
        let mut gram = Gram::new(chosen.len());
        let mut row = vec![0.0; chosen.len()];
        for step in 0..values.len() {
            let value = errors.whiten(values, step);
            if value.is_finite() {
                row.iter_mut().zip(chosen).for_each(|(x, c)| *x = errors.whiten(&self.columns[*c], step));
                gram.add(&row, value);
            }
        }
        gram
    }

    /// Relative variance of the regression at each step from `last` on: of what the errors' forecast does not already
    /// take from the past residuals, so each column counts less its own forecast by the process.
    fn leverage(&self, chosen: &[usize], solution: &Solution, errors: &Autoregression, last: usize) -> Vec<f64> {
        let ahead = self.columns[0].len() - last;
        let reach = last - errors.furthest().min(last);
        let rest = chosen.iter().map(|c| {
            let column = &self.columns[*c];
            let expected = errors.forecast(&column[reach..last], ahead);
            column[last..].iter().zip(expected).map(|(x, e)| x - e).collect::<Vec<f64>>()
        });
        let rest: Vec<Vec<f64>> = rest.collect();
        (0..ahead)
            .map(|step| solution.leverage(&rest.iter().map(|column| column[step]).collect::<Vec<f64>>()))
            .collect()
    }

    fn regression(&self, chosen: &[usize], coefficients: &[f64]) -> Vec<f64> {
        let mut sum = vec![0.0; self.columns[0].len()];
        for (column, coefficient) in chosen.iter().zip(coefficients) {
            for (sum, x) in sum.iter_mut().zip(&self.columns[*column]) {
                *sum += coefficient * x;
            }
        }
        sum
    }
}

/// What AICc prefers: trend and orders of the periods.
fn choose(design: &Design, gram: &Gram) -> Option<(bool, Vec<usize>)> {
    // `gram` has every column in the order of the design.
    let criterion = |trend: bool, orders: &[usize]| {
        let columns = design.chosen(trend, orders);
        let solution = gram.solve(&columns, &[]);
        solution.map_or(f64::INFINITY, |s| aicc(s.squares, 0.0, gram.rows(), columns.len() + 1))
    };
    let mut orders: Vec<usize> = vec![usize::MAX; design.periods.len()];
    let mut trend = true;
    let mut best = criterion(trend, &orders);
    // One period at a time, with the others as they are; twice, for what they explain of each other.
    for _ in 0..2 {
        for index in 0..orders.len() {
            let tried = if index == 0 { ORDERS } else { ORDERS_LONG };
            for order in tried {
                let mut other = orders.clone();
                other[index] = order;
                let found = criterion(trend, &other);
                if found < best || (found == best && order < orders[index]) {
                    (best, orders) = (found, other);
                }
            }
        }
        let found = criterion(!trend, &orders);
        if found < best {
            (best, trend) = (found, !trend);
        }
    }
    best.is_finite().then_some((trend, orders))
}

fn fit(prepared: &Prepared, request: &Request) -> Result<Fitted, StatisticsError> {
    let singular = StatisticsError::Singular { model: MODEL };
    let design = Design::new(prepared, request);
    // Centred: sums of squares then keep their digits. The constant takes the mean back.
    let centre = prepared.values.iter().filter(|v| v.is_finite()).sum::<f64>() / prepared.present as f64;
    let values: Vec<f64> = prepared.values.iter().map(|v| v - centre).collect();
    let all: Vec<usize> = (0..design.columns.len()).collect();
    let mut errors = Autoregression::default();
    let mut columns = all.clone();
    let mut gram = design.gram(&values, &errors, &all);
    let mut solution: Solution = gram.solve(&all, &[]).ok_or(singular.clone())?;
    let mut chosen = None;
    for round in 0..ROUNDS {
        let regression = design.regression(&columns, &solution.coefficients);
        let residuals: Vec<f64> = values.iter().zip(&regression).map(|(v, r)| v - r).collect();
        let found = Autoregression::fit(&residuals, &design.periods);
        let filtered = design.gram(&values, &found, &columns);
        // Gaps can leave too few steps whose lags are all known.
        if filtered.rows() < 2 * columns.len() && filtered.rows() < prepared.present {
            break;
        }
        (gram, errors) = (filtered, found);
        if round == 0 {
            let (trend, orders) = choose(&design, &gram).ok_or(singular.clone())?;
            columns = design.chosen(trend, &orders);
            solution = gram.solve(&columns, &[]).ok_or(singular.clone())?;
            chosen = Some((trend, orders));
        } else {
            let positions: Vec<usize> = (0..columns.len()).collect();
            solution = gram.solve(&positions, &[]).ok_or(singular.clone())?;
        }
    }
    let (trend, orders) = chosen.unwrap_or((true, vec![usize::MAX; design.periods.len()]));
    let freedom = gram.rows().saturating_sub(columns.len() + errors.terms.len()).max(1);
    let mut regression = design.regression(&columns, &solution.coefficients);
    regression.iter_mut().for_each(|r| *r += centre);
    let coefficient =
        |column: usize| columns.iter().position(|c| *c == column).map_or(0.0, |i| solution.coefficients[i]);
    let used = |index: usize| {
        let harmonics = design.pairs.iter().filter(|(p, k)| *p == index && *k <= orders[index]);
        harmonics.map(|(_, k)| *k).max().unwrap_or(0)
    };
    Ok(Fitted {
        harmonics: design.periods.iter().enumerate().map(|(i, p)| (*p, used(i))).collect(),
        trend,
        regressors: design.units.iter().enumerate().map(|(i, unit)| coefficient(2 + i) * unit.per_one()).collect(),
        variance: solution.squares / freedom as f64,
        regression,
        terms: columns.iter().copied().zip(solution.coefficients.iter().copied()).collect(),
        centre,
        leverage: design.leverage(&columns, &solution, &errors, known_until(&values)),
        errors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::testing::{
        LEVELS, ascending, coverage, gaussian_noise, mean_absolute_error, request, two_seasons,
    };

    fn wave(t: usize, period: usize) -> f64 {
        (std::f64::consts::TAU * t as f64 / period as f64).sin()
    }

    /// Noise with the autoregression 0.7 of the step before.
    fn correlated(seed: u64, length: usize) -> Vec<f64> {
        let mut before = 0.0;
        let next = |e: f64| {
            before = 0.7 * before + e;
            before
        };
        gaussian_noise(seed, length).into_iter().map(next).collect()
    }

    #[test]
    fn planted_harmonics_coefficients_and_errors_are_found() {
        let length = 24 * 60;
        let temperature: Vec<f64> = correlated(8, length + 48).iter().map(|e| 10.0 + 3.0 * e).collect();
        let values: Vec<f64> = correlated(1, length)
            .into_iter()
            .enumerate()
            .map(|(t, e)| 50.0 + 8.0 * wave(t, 24) + 3.0 * wave(t, 12) + 4.0 * wave(t, 168) - 2.5 * temperature[t] + e)
            .collect();
        let regressors = [temperature];
        let request =
            Request { values: &values, periods: &[24, 168], regressors: &regressors, horizon: 48, levels: &LEVELS };
        let found = Harmonic.fit(&request).unwrap();
        assert!(found.harmonics[0].1 >= 2 && found.harmonics[1].1 >= 1, "{:?}", found.harmonics);
        assert!((found.regressors[0] + 2.5).abs() < 0.03, "{:?}", found.regressors);
        assert!((found.errors.terms[0].1 - 0.7).abs() < 0.07, "{:?}", found.errors);
        assert!((found.variance - 1.0).abs() < 0.15, "{}", found.variance);
    }

    #[test]
    fn two_seasons_and_a_trend_are_continued() {
        let values = two_seasons(2, 24 * 7 * 10 + 168, 24, 168);
        let (past, actual) = values.split_at(24 * 7 * 10);
        let found = Harmonic.forecast(&request(past, &[24, 168], 168)).unwrap();
        assert!(mean_absolute_error(&found.mean, actual) < 0.9, "noise alone makes 0.8");
        assert!(ascending(&found));
    }

    #[test]
    fn a_season_with_correlated_errors_stays_within_its_quantiles() {
        let simulate =
            |seed| correlated(seed, 312).into_iter().enumerate().map(|(t, e)| 5.0 * wave(t, 12) + e).collect();
        let forecast = |r: &Request| Harmonic.forecast(&Request { periods: &[12], ..*r });
        let found = coverage(100, 300, 12, simulate, forecast);
        assert!((found - 0.8).abs() < 0.06, "{found}");
    }

    #[test]
    fn gaps_are_left_out() {
        let whole: Vec<f64> = (0..400).map(|t| 10.0 + 5.0 * wave(t, 24)).collect();
        let mut values = whole[..350].to_vec();
        values[60..100].fill(f64::NAN);
        values[340..].fill(f64::NAN);
        let found = Harmonic.forecast(&request(&values, &[24], 50)).unwrap();
        assert!(mean_absolute_error(&found.mean, &whole[350..]) < 0.01, "{:?}", found.mean);
    }

    #[test]
    fn regressors_must_cover_the_horizon_and_may_be_constant_or_repeated() {
        let values: Vec<f64> = (0..60).map(|t| (t % 7) as f64).collect();
        let ask = |regressors: &[Vec<f64>]| {
            let request = Request { values: &values, periods: &[7], regressors, horizon: 3, levels: &LEVELS };
            Harmonic.forecast(&request)
        };
        let short = StatisticsError::RegressorLength { column: 1, needed: 63, present: 60 };
        assert_eq!(ask(&[vec![1.0; 63], vec![1.0; 60]]), Err(short));
        let mut gap = vec![1.0; 63];
        gap[61] = f64::NAN;
        assert_eq!(ask(&[gap]), Err(StatisticsError::RegressorMissing { column: 0, step: 61 }));
        let varied: Vec<f64> = (0..63).map(|t| (t * t % 11) as f64).collect();
        let found = ask(&[vec![4.0; 63], varied.clone(), varied]).unwrap();
        assert!(mean_absolute_error(&found.mean, &[4.0, 5.0, 6.0]) < 0.3, "{:?}", found.mean);
    }

    #[test]
    fn constants_and_short_series() {
        let found = Harmonic.forecast(&request(&[3.0; 50], &[7], 4)).unwrap();
        assert!(found.quantiles.iter().flatten().all(|q| (q - 3.0).abs() < 1e-6), "{found:?}");
        let error = StatisticsError::TooShort { model: "harmonic", needed: 8, present: 7 };
        assert_eq!(Harmonic.forecast(&request(&[1.0; 7], &[], 1)), Err(error));
    }
}
