//! What was never below zero is not forecast to be: demand of a meter that only takes, what a generator gives.
//!
//! A quantile that is lifted to a bound of what can come is nearer to it, so its pinball loss can only get smaller. A
//! series that begins to go below zero, such as a house with new panels on its roof, is forecast so once a value of it
//! says so.

use crate::data::{Panel, Series};
use crate::explain::Explanation;
use crate::forecaster::{FitError, Forecaster, Model, NoForecast, Progress, SeriesForecast, Task};

/// A model of which no forecast is below zero for a series that has values, none of which is. The models within one do
/// without: what they forecast may be errors.
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

fn was_never_below_zero(series: &Series) -> bool {
    series.values.iter().all(|value| value.is_nan() || *value >= 0.0)
}

impl Forecaster for NonNegative<dyn Forecaster> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        let mut forecasts = self.0.forecast(panel, horizon);
        for (series, forecast) in panel.series.iter().zip(&mut forecasts) {
            let Ok(forecast) = forecast else { continue };
            let each = || forecast.mean.iter().chain(forecast.quantiles.as_flattened());
            if each().any(|value| *value < 0.0) && was_never_below_zero(series) {
                let each = forecast.mean.iter_mut().chain(forecast.quantiles.as_flattened_mut());
                each.for_each(|value| *value = value.max(0.0));
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
    fn only_what_was_below_zero_is_forecast_to_be() {
        let series = |values: &[f32]| Series::new("a", 0, values.to_vec());
        let all = [series(&[0.0, f32::NAN, 2.0]), series(&[2.0, -0.1, f32::NAN]), series(&[f32::NAN])];
        let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, all.into());
        let model = NonNegative(Box::new(Wide) as Box<dyn Model>);
        let fitted = model.fit(&panel, &Task::new(2, 24, 1), &mut |_| ControlFlow::Continue(())).unwrap();
        let least = |forecast: &Result<SeriesForecast, NoForecast>| forecast.as_ref().unwrap().quantiles[1][0];
        let found: Vec<f64> = fitted.forecast(&panel, 2).iter().map(least).collect();
        let unbounded = -((LEVELS.len() / 2) as f64);
        assert_eq!(found, [0.0, unbounded, 0.0]);
        let forecast = fitted.forecast(&panel, 2).swap_remove(0).unwrap();
        assert!(forecast.quantiles[0].is_sorted());
        assert_eq!((fitted.name(), forecast.mean), ("wide", vec![1.0; 2]));
    }
}
