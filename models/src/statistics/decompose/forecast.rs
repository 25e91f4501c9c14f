//! Forecast of a decomposition: the seasons' last cycles go on, exponential smoothing forecasts the rest.

use super::super::ets::{Fitted, filter};
use super::super::quantiles::sample_quantile;
use super::super::{Component, Predicted, Prepared, Request, Source, StatisticsError};
use super::stl::seasonal_weight;
use super::{Decomposition, MODEL, Mstl, Seasonal};

/// Values that the smoothing of the rest needs.
const VALUES_MIN: usize = 3;
/// Past forecasts from which quantiles are taken, if the series has as many.
const ORIGINS: usize = 40;
/// Most past forecasts, the latest: they bound the time.
const ORIGINS_MAX: usize = 400;
/// Errors are not stretched by more than what this leaves.
const OWN_WEIGHT_MAX: f64 = 0.6;
/// With fewer errors at a step, the smoothing's own variance is used.
const ERRORS_MIN: usize = 20;

impl Mstl {
    /// Forecast of one series.
    ///
    /// Quantiles come from the errors of the same forecast at earlier origins (smoothing with the same parameters, the
    /// cycle before each origin repeated), step by step, one origin a shortest period where the past has enough of
    /// them: so they know how much a season changes, which hours are uncertain, and how fast errors grow, none of which
    /// the variance of the smoothing says. The seasons were smoothed with the values after those origins too; an error is
    /// divided by what is left without the weight that its own value had (leave-one-out for linear smoothers). Without
    /// enough origins the smoothing's own variance is used.
    ///
    /// # Errors
    ///
    /// [`StatisticsError::TooShort`] with fewer than three values.
    pub fn forecast(&self, request: &Request) -> Result<Predicted, StatisticsError> {
        let prepared = Prepared::new(MODEL, request, VALUES_MIN)?;
        let parts = self.components(&prepared);
        let adjusted = parts.adjusted();
        let fitted = self.rest.fit(&adjusted, 1)?;
        let length = adjusted.len();
        let season = |step: usize| parts.seasonal.iter().map(|s| s.continued(length + step)).sum::<f64>();
        let mean: Vec<f64> =
            fitted.mean(request.horizon).into_iter().enumerate().map(|(step, rest)| rest + season(step)).collect();
        // Missing values at the end put the forecast that many steps further from what is known.
        let late = adjusted.iter().rev().take_while(|v| v.is_nan()).count();
        let mut errors = past_errors(&parts, &adjusted, &fitted, late + request.horizon);
        errors.drain(..late.min(errors.len()));
        if errors.len() < request.horizon {
            return prepared.gaussian(MODEL, request.levels, mean, &fitted.deviation(request.horizon));
        }
        let quantiles = |(errors, mean): (Vec<f64>, &f64)| {
            let bias = errors.iter().sum::<f64>() / errors.len() as f64;
            request.levels.iter().map(|level| mean + sample_quantile(&errors, *level) - bias).collect()
        };
        let quantiles = errors.into_iter().zip(&mean).map(quantiles).collect();
        prepared.finish(MODEL, mean, quantiles)
    }

    /// What the mean of the forecast is the sum of: the smoothed rest, and each season.
    ///
    /// # Errors
    ///
    /// As for [`Mstl::forecast`].
    pub fn forecast_components(&self, request: &Request) -> Result<Vec<Component>, StatisticsError> {
        let prepared = Prepared::new(MODEL, request, VALUES_MIN)?;
        let parts = self.components(&prepared);
        let rest = self.rest.fit(&parts.adjusted(), 1)?.mean(request.horizon);
        let season = |season: &Seasonal| Component {
            source: Source::Season(season.period as f64),
            values: (0..request.horizon).map(|step| season.continued(prepared.values.len() + step)).collect(),
        };
        let trend = Component { source: Source::Trend, values: rest };
        let mut components: Vec<Component> = std::iter::once(trend).chain(parts.seasonal.iter().map(season)).collect();
        components.iter_mut().flat_map(|part| &mut part.values).for_each(|value| *value *= prepared.scale);
        Ok(components)
    }
}

/// Sorted errors of the forecasts from earlier origins, for each step of the horizon; ends at the first step with too
/// few of them.
fn past_errors(parts: &Decomposition, adjusted: &[f64], fitted: &Fitted, horizon: usize) -> Vec<Vec<f64>> {
    let length = adjusted.len();
    let shortest = parts.seasonal.first().map_or(1, |s| s.period);
    let longest = parts.seasonal.last().map_or(1, |s| s.period);
    // Before, the season has no whole cycle that could be repeated, and the smoothing's state is not known.
    let first = (longest + 1).max(fitted.first() + 10);
    let Some(room) = length.checked_sub(first + horizon).filter(|_| horizon > 0) else {
        return Vec::new();
    };
    let mut stride = shortest;
    while stride > 1 && room / stride < ORIGINS {
        stride /= 2;
    }
    let is_origin = |step: usize| {
        let back = length - step;
        step >= first && back.is_multiple_of(stride) && back / stride <= ORIGINS_MAX
    };
    let mut origins = Vec::new();
    filter(&adjusted[fitted.first()..], &fitted.smoothing, fitted.initial.clone(), |step, state, _| {
        if is_origin(fitted.first() + step) {
            origins.push((fitted.first() + step, state.level, state.slope));
        }
    });
    let mut errors = vec![Vec::with_capacity(origins.len()); horizon];
    let outside: Vec<f64> = (0..horizon).map(|step| 1.0 / (1.0 - own_weight(parts, step))).collect();
    for (origin, level, slope) in origins {
        let (mut power, mut slopes) = (1.0, 0.0);
        for (step, (errors, outside)) in errors.iter_mut().zip(&outside).enumerate().take(length - origin) {
            power *= fitted.smoothing.phi;
            slopes += power;
            let at = origin + step;
            let season = parts.seasonal.iter().map(|s| {
                let before = at - (step / s.period + 1) * s.period;
                s.values[at] - s.values[before]
            });
            let error = adjusted[at] - level - slopes * slope + season.sum::<f64>();
            if error.is_finite() {
                errors.push(error * outside);
            }
        }
    }
    let enough = errors.iter().take_while(|e| e.len() >= ERRORS_MIN).count();
    errors.truncate(enough);
    errors.iter_mut().for_each(|e| e.sort_unstable_by(f64::total_cmp));
    errors
}

/// Weight that the value at `step` after an origin has in the seasons that forecast it: they were smoothed with it.
fn own_weight(parts: &Decomposition, step: usize) -> f64 {
    let weight = |(index, season): (usize, &Seasonal)| {
        seasonal_weight(index, season.values.len() / season.period, step / season.period + 1)
    };
    parts.seasonal.iter().enumerate().map(weight).sum::<f64>().min(OWN_WEIGHT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::testing::{ascending, mean_absolute_error, request, two_seasons};

    #[test]
    fn two_seasons_are_continued_within_their_quantiles() {
        let (mut inside, mut all, mut error) = (0, 0, 0.0);
        for seed in 0..10 {
            let values = two_seasons(seed, 24 * 7 * 12 + 48, 24, 168);
            let (past, actual) = values.split_at(24 * 7 * 12);
            let found = Mstl::default().forecast(&request(past, &[24, 168], 48)).unwrap();
            assert!(ascending(&found));
            error += mean_absolute_error(&found.mean, actual) / 10.0;
            inside += found.quantiles.iter().zip(actual).filter(|(q, a)| q[0] <= **a && **a <= q[2]).count();
            all += 48;
        }
        assert!(error < 1.0, "noise alone makes 0.8: {error}");
        let coverage = inside as f64 / all as f64;
        assert!((coverage - 0.8).abs() < 0.08, "{coverage}");
    }

    #[test]
    fn hours_that_vary_more_are_more_uncertain() {
        let noise = crate::statistics::testing::gaussian_noise(5, 24 * 100);
        let size = |t: usize| if t % 24 < 12 { 0.2 } else { 3.0 };
        let values: Vec<f64> = noise.into_iter().enumerate().map(|(t, e)| 50.0 + size(t) * e).collect();
        let found = Mstl::default().forecast(&request(&values, &[24], 24)).unwrap();
        let width = |step: usize| found.quantiles[step][2] - found.quantiles[step][0];
        assert!(width(18) > 3.0 * width(6), "{} {}", width(6), width(18));
    }

    #[test]
    fn short_series_fall_back_to_the_variance_of_the_smoothing() {
        let values: Vec<f64> = (0..18).map(|t| 3.0 + (t % 3) as f64).collect();
        let found = Mstl::default().forecast(&request(&values, &[3, 12], 6)).unwrap();
        assert!(mean_absolute_error(&found.mean, &[3.0, 4.0, 5.0, 3.0, 4.0, 5.0]) < 0.2, "{:?}", found.mean);
        let error = StatisticsError::TooShort { model: "mstl", needed: 3, present: 2 };
        assert_eq!(Mstl::default().forecast(&request(&[1.0, 2.0], &[], 3)), Err(error));
        let constant = Mstl::default().forecast(&request(&[2.0; 100], &[7], 30)).unwrap();
        assert!(constant.quantiles.iter().flatten().all(|q| (q - 2.0).abs() < 1e-6));
    }
}
