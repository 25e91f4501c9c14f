//! What a model was at each origin of a backtest: fitted now and then, and shown what had arrived by then.

use meterline_schemas::Micros;

use crate::data::{Panel, Series};
use crate::forecaster::{Forecaster, NoForecast, SeriesForecast};

/// A model that is fitted anew now and then: at each origin the newest fit that ends by then forecasts.
pub struct Rolling {
    fits: Vec<(Micros, Box<dyn Forecaster>)>,
}

impl Rolling {
    /// One of at least one fit, each with the end of what it was fitted to, the oldest first.
    pub fn new(fits: Vec<(Micros, Box<dyn Forecaster>)>) -> Option<Rolling> {
        (!fits.is_empty()).then_some(Rolling { fits })
    }
}

impl Forecaster for Rolling {
    fn name(&self) -> &str {
        self.fits.first().map_or("", |(_, fit)| fit.name())
    }

    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        // One that begins later has no origin yet.
        let origin = panel.origin().unwrap_or(Micros::MIN);
        let newest = self.fits.iter().rev().find(|(end, _)| *end <= origin).or_else(|| self.fits.first());
        newest.map(|(_, fit)| fit.forecast(panel, horizon)).unwrap_or_default()
    }
}

/// A model to which the newest values come late: it does not know the last `delay` intervals before an origin, and
/// forecasts over them.
pub struct Delayed<M> {
    /// The model.
    pub model: M,
    /// How late, in native intervals.
    pub delay: usize,
}

impl<M: Forecaster> Forecaster for Delayed<M> {
    fn name(&self) -> &str {
        self.model.name()
    }

    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        let origin = panel.frequency.advance(panel.origin().unwrap_or(Micros::MIN), -(self.delay as i64), &panel.zone);
        let known = panel.cut(origin);
        // A series that ends earlier has been forecast over so much less.
        let over = |(all, known): (&Series, &Series)| all.values.len() - known.values.len();
        let late: Vec<usize> = panel.series.iter().zip(&known.series).map(over).collect();
        let forecasts = self.model.forecast(&known, horizon + self.delay);
        let rest = |(forecast, late): (Result<SeriesForecast, NoForecast>, usize)| {
            forecast.map(|forecast| SeriesForecast {
                mean: forecast.mean.into_iter().skip(late).take(horizon).collect(),
                quantiles: forecast.quantiles.into_iter().skip(late).take(horizon).collect(),
            })
        };
        forecasts.into_iter().zip(late).map(rest).collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use meterline_schemas::Frequency;
    use meterline_schemas::quantiles::LEVELS;
    use meterline_schemas::time::HOUR;

    use super::*;

    // Says the last value that it was shown, plus a tenth for each step, and its own number in front.
    struct Last(f64);

    impl Forecaster for Last {
        fn name(&self) -> &str {
            "last"
        }

        fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
            let of = |series: &Series| {
                let last = f64::from(*series.values.last().ok_or(NoForecast::NotFinite)?);
                let mean: Vec<f64> = (0..horizon).map(|step| self.0 + last + step as f64 / 10.0).collect();
                let quantiles = mean.iter().map(|mean| [*mean; LEVELS.len()]).collect();
                Ok(SeriesForecast { mean, quantiles })
            };
            panel.series.iter().map(of).collect()
        }
    }

    fn panel(hours: usize) -> Panel {
        let series = Series::new("a", 0, (0..hours).map(|hour| hour as f32).collect());
        Panel::new(Frequency::HOUR, TimeZone::UTC, vec![series])
    }

    fn means(model: &dyn Forecaster, hours: usize) -> Vec<f64> {
        let forecast = model.forecast(&panel(hours), 2).remove(0).unwrap();
        assert_eq!(forecast.quantiles.len(), 2);
        forecast.mean
    }

    #[test]
    fn the_newest_fit_that_ends_by_the_origin_forecasts() {
        let fit = |hours: i64, number: f64| (hours * HOUR, Box::new(Last(number)) as Box<dyn Forecaster>);
        let rolling = Rolling::new(vec![fit(5, 100.0), fit(8, 200.0)]).unwrap();
        for (hours, first) in [(4, 103.0), (5, 104.0), (7, 106.0), (8, 207.0), (20, 219.0)] {
            assert_eq!(means(&rolling, hours)[0], first, "{hours}");
        }
        assert!(Rolling::new(Vec::new()).is_none());
    }

    #[test]
    fn what_came_late_is_not_known_and_forecast_over() {
        let delayed = Delayed { model: Last(0.0), delay: 3 };
        // Of ten hours seven are known; the first three steps are about those that came late.
        let found = means(&delayed, 10);
        assert!((found[0] - 6.3).abs() < 1e-9 && (found[1] - 6.4).abs() < 1e-9, "{found:?}");
    }
}
