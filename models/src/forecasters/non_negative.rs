//! Energy that was never below zero is not forecast to be: demand of a meter that only takes, what a generator gives.
//!
//! It goes by the values that the model is shown. A quantile that is lifted to a bound of what can come is nearer to it,
//! so its pinball loss can only get smaller; a house with new panels on its roof is forecast below zero once it was.

use crate::calibrate::isotonic::Repair;
use crate::data::{Panel, Series};
use crate::explain::Explanation;
use crate::forecaster::{FitError, Forecaster, Model, NoForecast, Progress, SeriesForecast, Task};
use crate::metrics::mean_of_quantiles;

/// A model of which no forecast is below zero for a series that has values, none of which is, and that is not
/// [signed](Series::signed). The models within one do without: what they forecast may be errors.
pub struct NonNegative<M: ?Sized>(pub Box<M>);

impl Model for NonNegative<dyn Model> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn fit(&self, panel: &Panel, task: &Task, progress: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
        self.0.fit(panel, task, progress).map(bounded)
    }
}

/// A fitted one as a [`NonNegative`].
pub fn bounded(fitted: Box<dyn Forecaster>) -> Box<dyn Forecaster> {
    Box::new(NonNegative(fitted))
}

fn is_bounded(series: &Series) -> bool {
    !series.may_be_below_zero() && series.values.iter().any(|value| value.is_finite())
}

// The mean goes up as much as that of the quantiles does. What has a quantile that is no number stays as it is.
fn lift(forecast: &mut SeriesForecast) {
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

impl Forecaster for NonNegative<dyn Forecaster> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        let mut forecasts = self.0.forecast(panel, horizon);
        for (series, forecast) in panel.series.iter().zip(&mut forecasts) {
            let Ok(forecast) = forecast else { continue };
            let mut each = forecast.mean.iter().chain(forecast.quantiles.as_flattened());
            if each.any(|value| *value < 0.0) && is_bounded(series) {
                lift(forecast);
            }
        }
        forecasts
    }

    fn artifact(&self) -> Option<Vec<u8>> {
        self.0.artifact()
    }

    fn report(&self) -> Option<String> {
        self.0.report()
    }

    fn explain(&self) -> Vec<Explanation> {
        self.0.explain()
    }

    fn explain_forecast(&self, panel: &Panel, horizon: usize) -> Vec<Explanation> {
        self.0.explain_forecast(panel, horizon)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use jiff::tz::TimeZone;
    use meterline_schemas::Frequency;
    use meterline_schemas::quantiles::LEVELS;

    use super::*;

    /// Mean 1, and quantiles from −4 to 4.
    struct Wide;

    impl Model for Wide {
        fn name(&self) -> &str {
            "wide"
        }

        fn fit(&self, _panel: &Panel, _task: &Task, _progress: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
            Ok(Box::new(Wide))
        }
    }

    impl Forecaster for Wide {
        fn name(&self) -> &str {
            "wide"
        }

        fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
            let quantiles = vec![std::array::from_fn(|level| level as f64 - (LEVELS.len() / 2) as f64); horizon];
            let forecast = SeriesForecast { mean: vec![1.0; horizon], quantiles };
            panel.series.iter().map(|_| Ok(forecast.clone())).collect()
        }
    }

    #[test]
    fn only_what_was_below_zero_or_may_be_is_forecast_to_be() {
        let series = |values: &[f32]| Series::new("a", 0, values.to_vec());
        let temperature = Series { signed: true, ..series(&[1.0, 2.0, 3.0]) };
        let demand = series(&[0.0, f32::NAN, 2.0]);
        let all = [demand, series(&[2.0, -0.1, f32::NAN]), series(&[f32::NAN; 3]), temperature];
        let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, all.into());
        let model = NonNegative(Box::new(Wide) as Box<dyn Model>);
        let fitted = model.fit(&panel, &Task::new(2, 24, 1), &mut |_| ControlFlow::Continue(())).unwrap();
        let forecasts: Vec<SeriesForecast> = fitted.forecast(&panel, 2).into_iter().map(Result::unwrap).collect();
        let unbounded = -((LEVELS.len() / 2) as f64);
        let least: Vec<f64> = forecasts.iter().map(|forecast| forecast.quantiles[1][0]).collect();
        assert_eq!(least, [0.0, unbounded, unbounded, unbounded]);
        // The mean of what may come is higher where none of it is below zero.
        assert!(forecasts[0].quantiles[0].is_sorted() && forecasts[0].mean[0] > 1.0, "{:?}", forecasts[0].mean);
        assert_eq!((fitted.name(), &forecasts[1].mean), ("wide", &vec![1.0; 2]));
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let mut forecast = SeriesForecast { mean: vec![f64::NAN; 2], quantiles: vec![[-1.0; LEVELS.len()]; 2] };
        forecast.quantiles[0][1] = f64::NAN;
        lift(&mut forecast);
        assert!(forecast.mean.iter().all(|mean| mean.is_nan()) && forecast.quantiles[0][1].is_nan());
        assert_eq!((forecast.quantiles[0][0], forecast.quantiles[1]), (-1.0, [0.0; LEVELS.len()]));
    }
}
