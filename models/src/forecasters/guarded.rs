//! What every kind of model has around it: [implausible values](crate::plausible) are missing for it, and energy that was
//! never below zero is [not forecast to be](super::non_negative).

use meterline_schemas::Frequency;

use crate::data::Panel;
use crate::explain::Explanation;
use crate::forecaster::{FitError, Forecaster, Model, NoForecast, Progress, SeriesForecast, Task};
use crate::forecasters::non_negative::lift;
use crate::forecasters::seasonal_naive::SeasonalNaive;
use crate::plausible::{Hidden, plausible};

/// Seasonal naive as the others are compared with it, and as it stands in for them.
pub fn baseline(frequency: Frequency) -> Guarded<SeasonalNaive> {
    Guarded::around(Box::new(SeasonalNaive::for_frequency(frequency)))
}

/// A model, or a fitted one, with both around it. The models within one do without: what they are shown is plausible, and
/// what they forecast may be errors.
pub struct Guarded<M: ?Sized> {
    within: Box<M>,
    // Of what it was fitted to; nothing is known of that once it was kept.
    hidden: Hidden,
}

impl<M: ?Sized> Guarded<M> {
    /// This one with both around it.
    pub fn around(within: Box<M>) -> Guarded<M> {
        Guarded { within, hidden: Hidden::default() }
    }
}

impl Model for Guarded<dyn Model> {
    fn name(&self) -> &str {
        self.within.name()
    }

    fn fit(&self, panel: &Panel, task: &Task, progress: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
        let (panel, hidden) = plausible(panel);
        let within = self.within.fit(&panel, task, progress)?;
        Ok(Box::new(Guarded { within, hidden }))
    }
}

impl<F: Forecaster + ?Sized> Forecaster for Guarded<F> {
    fn name(&self) -> &str {
        self.within.name()
    }

    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        let (panel, _) = plausible(panel);
        let mut forecasts = self.within.forecast(&panel, horizon);
        lift(&panel, &mut forecasts);
        forecasts
    }

    fn artifact(&self) -> Option<Vec<u8>> {
        self.within.artifact()
    }

    fn report(&self) -> Option<String> {
        match (self.within.report(), self.hidden.told()) {
            (Some(report), Some(told)) => Some(format!("{report} {told}")),
            (report, told) => report.or(told),
        }
    }

    fn explain(&self) -> Vec<Explanation> {
        self.within.explain()
    }

    fn explain_forecast(&self, panel: &Panel, horizon: usize) -> Vec<Explanation> {
        self.within.explain_forecast(&plausible(panel).0, horizon)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use jiff::tz::TimeZone;
    use meterline_schemas::quantiles::LEVELS;

    use super::*;
    use crate::data::Series;

    /// The newest value that is there, and quantiles around zero.
    struct Newest;

    impl Model for Newest {
        fn name(&self) -> &str {
            "newest"
        }

        fn fit(&self, panel: &Panel, _task: &Task, _progress: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
            assert!(
                panel.series.iter().flat_map(|series| &series.values).all(|value| value.abs() < 1e3 || value.is_nan())
            );
            Ok(Box::new(Newest))
        }
    }

    impl Forecaster for Newest {
        fn name(&self) -> &str {
            "newest"
        }

        fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
            let quantiles = vec![std::array::from_fn(|level| level as f64 - (LEVELS.len() / 2) as f64); horizon];
            let newest = |series: &Series| series.values.iter().copied().rfind(|value| value.is_finite());
            let forecast = |series| SeriesForecast {
                mean: vec![f64::from(newest(series).unwrap_or_default()); horizon],
                quantiles: quantiles.clone(),
            };
            panel.series.iter().map(forecast).map(Ok).collect()
        }
    }

    #[test]
    fn models_are_shown_what_is_plausible_and_forecast_what_can_be() {
        let mut values: Vec<f32> = (0..500).map(|step| 5.0 + (step % 24) as f32).collect();
        (values[100], values[499]) = (-1e6, 1e6);
        let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, vec![Series::new("a", 0, values)]);
        let model = Guarded::around(Box::new(Newest) as Box<dyn Model>);
        let fitted = model.fit(&panel, &Task::new(2, 24, 1), &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(fitted.name(), "newest");
        let report = fitted.report().unwrap();
        assert!(report.starts_with("Values that models see as missing: 2, of 1 series"), "{report}");
        let forecast = fitted.forecast(&panel, 2).remove(0).unwrap();
        // A value of long ago that was below zero, and implausible, says nothing about what can come.
        assert_eq!(forecast.quantiles[0][0], 0.0);
        assert!((f64::from(panel.series[0].values[498])..30.0).contains(&forecast.mean[0]), "{:?}", forecast.mean);
    }
}
