//! Energy that was never below zero is not forecast to be: demand of a meter that only takes, what a generator gives.
//!
//! It goes by the values that the model is shown. A quantile that is lifted to a bound of what can come is nearer to it,
//! so its pinball loss can only get smaller; a house with new panels on its roof is forecast below zero once it was.

use crate::calibrate::isotonic::Repair;
use crate::data::{Panel, Series};
use crate::forecaster::{NoForecast, SeriesForecast};
use crate::metrics::mean_of_quantiles;

/// Lifts what is below zero in the forecasts of a panel's series to it, of those that have values, none of which is, and
/// that are not [signed](Series::signed).
pub fn lift(panel: &Panel, forecasts: &mut [Result<SeriesForecast, NoForecast>]) {
    for (series, forecast) in panel.series.iter().zip(forecasts) {
        let Ok(forecast) = forecast else { continue };
        let mut each = forecast.mean.iter().chain(forecast.quantiles.as_flattened());
        if each.any(|value| *value < 0.0) && is_bounded(series) {
            lift_one(forecast);
        }
    }
}

fn is_bounded(series: &Series) -> bool {
    !series.may_be_below_zero() && series.values.iter().any(|value| value.is_finite())
}

// The mean goes up as much as that of the quantiles does. What has a quantile that is no number stays as it is.
fn lift_one(forecast: &mut SeriesForecast) {
    let at_least_zero = Repair { floor: Some(0.0), ..Repair::default() };
    for (mean, quantiles) in forecast.mean.iter_mut().zip(&mut forecast.quantiles) {
        let before = mean_of_quantiles(quantiles);
        let Ok(is_lifted) = at_least_zero.apply(quantiles) else { continue };
        if is_lifted {
            *mean += mean_of_quantiles(quantiles) - before;
        }
        if *mean < 0.0 {
            *mean = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use meterline_schemas::Frequency;
    use meterline_schemas::quantiles::LEVELS;

    use super::*;

    #[test]
    fn only_what_was_below_zero_or_may_be_is_forecast_to_be() {
        let series = |values: &[f32]| Series::new("a", 0, values.to_vec());
        let temperature = Series { signed: true, ..series(&[1.0, 2.0, 3.0]) };
        let demand = series(&[0.0, f32::NAN, 2.0]);
        let all = [demand, series(&[2.0, -0.1, f32::NAN]), series(&[f32::NAN; 3]), temperature];
        let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, all.into());
        // Mean 1, and quantiles from −4 to 4.
        let quantiles = vec![std::array::from_fn(|level| level as f64 - (LEVELS.len() / 2) as f64); 2];
        let forecast = SeriesForecast { mean: vec![1.0; 2], quantiles };
        let mut forecasts: Vec<_> = panel.series.iter().map(|_| Ok(forecast.clone())).collect();
        lift(&panel, &mut forecasts);
        let forecasts: Vec<SeriesForecast> = forecasts.into_iter().map(Result::unwrap).collect();
        let unbounded = -((LEVELS.len() / 2) as f64);
        let least: Vec<f64> = forecasts.iter().map(|forecast| forecast.quantiles[1][0]).collect();
        assert_eq!(least, [0.0, unbounded, unbounded, unbounded]);
        // The mean of what may come is higher where none of it is below zero.
        assert!(forecasts[0].quantiles[0].is_sorted() && forecasts[0].mean[0] > 1.0, "{:?}", forecasts[0].mean);
        assert_eq!(forecasts[1].mean, [1.0; 2]);
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let mut forecast = SeriesForecast { mean: vec![f64::NAN; 2], quantiles: vec![[-1.0; LEVELS.len()]; 2] };
        forecast.quantiles[0][1] = f64::NAN;
        lift_one(&mut forecast);
        assert!(forecast.mean.iter().all(|mean| mean.is_nan()) && forecast.quantiles[0][1].is_nan());
        assert_eq!((forecast.quantiles[0][0], forecast.quantiles[1]), (-1.0, [0.0; LEVELS.len()]));
    }
}
