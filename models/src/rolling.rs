//! What a model was at each origin of a backtest: fitted now and then, some time before or just then, and shown what had
//! arrived by then.

use meterline_schemas::Micros;

use crate::data::{Panel, Series};
use crate::forecaster::{Forecaster, NoForecast, SeriesForecast};

/// When a model of a backtest is fitted, and to what. Lengths are in native intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Origins from one fit to the next, at least 1; `None` for one fit, before the first origin.
    pub every: Option<usize>,
    /// Fitted to so many intervals before its end alone; `None` for everything.
    pub history: Option<usize>,
    /// Left out of the fit at least: so much before the first origin that it forecasts from. What is known at that origin
    /// stays: a model that is some days old sees the days since then, and has learned nothing from them.
    pub gap: usize,
    /// Not known at an origin, and so left out of the fit, too: so much before it ([`Delayed`]).
    pub delay: usize,
}

/// What one fit of a backtest knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// End of what is known at the first origin that it forecasts from.
    pub since: Micros,
    /// End of what it is fitted to: then, or earlier.
    pub until: Micros,
}

impl Schedule {
    /// The fits for these origins, which are in order, the oldest first.
    pub fn fits(&self, panel: &Panel, origins: &[Micros]) -> Vec<Fit> {
        let before = |origin: Micros, steps: usize| {
            panel.frequency.advance(origin, -i64::try_from(steps).unwrap_or(i64::MAX), &panel.zone)
        };
        let of = |origin: &Micros| Fit {
            since: before(*origin, self.delay),
            until: before(*origin, self.delay.max(self.gap)),
        };
        origins.iter().step_by(self.every.unwrap_or(usize::MAX).max(1)).map(of).collect()
    }

    /// What of a panel a fit may know: nothing that ends after it but what is known ahead.
    pub fn known(&self, panel: &Panel, fit: &Fit) -> Panel {
        let known = panel.cut(fit.until);
        match self.history {
            Some(history) => known.newest(history),
            None => known,
        }
    }
}

/// A model that is fitted anew now and then: at each origin the newest fit that was made by then forecasts.
pub struct Rolling {
    fits: Vec<(Fit, Box<dyn Forecaster>)>,
}

impl Rolling {
    /// One of at least one fit, the oldest first.
    pub fn new(fits: Vec<(Fit, Box<dyn Forecaster>)>) -> Option<Rolling> {
        (!fits.is_empty()).then_some(Rolling { fits })
    }

    /// What its fits knew, the oldest first.
    pub fn fits(&self) -> impl Iterator<Item = Fit> {
        self.fits.iter().map(|(fit, _)| *fit)
    }
}

impl Forecaster for Rolling {
    fn name(&self) -> &str {
        self.fits.first().map_or("", |(_, fitted)| fitted.name())
    }

    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        // One that begins later has no origin yet.
        let origin = panel.origin().unwrap_or(Micros::MIN);
        let newest = self.fits.iter().rev().find(|(fit, _)| fit.since <= origin).or_else(|| self.fits.first());
        newest.map(|(_, fitted)| fitted.forecast(panel, horizon)).unwrap_or_default()
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
    use crate::data::{Column, Covariate, Known};

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
    fn the_newest_fit_that_was_made_by_the_origin_forecasts() {
        // What a fit ends with says nothing of when it was made.
        let fit = |hours: i64, number: f64| {
            let fit = Fit { since: hours * HOUR, until: 2 * HOUR };
            (fit, Box::new(Last(number)) as Box<dyn Forecaster>)
        };
        let rolling = Rolling::new(vec![fit(5, 100.0), fit(8, 200.0)]).unwrap();
        for (hours, first) in [(4, 103.0), (5, 104.0), (7, 106.0), (8, 207.0), (20, 219.0)] {
            assert_eq!(means(&rolling, hours)[0], first, "{hours}");
        }
        assert_eq!(rolling.fits().map(|fit| fit.since).collect::<Vec<_>>(), [5 * HOUR, 8 * HOUR]);
        assert!(Rolling::new(Vec::new()).is_none());
    }

    #[test]
    fn fits_are_made_every_so_many_origins_and_end_a_gap_before_them() {
        let origins = [40, 50, 60, 70, 80].map(|hour| hour * HOUR);
        let once = Schedule { every: None, history: None, gap: 0, delay: 0 };
        let hours = |schedule: Schedule| {
            let fits = schedule.fits(&panel(90), &origins);
            fits.iter().map(|fit| (fit.since / HOUR, fit.until / HOUR)).collect::<Vec<_>>()
        };
        assert_eq!(hours(once), [(40, 40)]);
        assert_eq!(hours(Schedule { every: Some(2), ..once }), [(40, 40), (60, 60), (80, 80)]);
        assert_eq!(hours(Schedule { every: Some(0), gap: 24, ..once }).last(), Some(&(80, 56)));
        // What comes late is part of a longer gap, and longer than a shorter one.
        assert_eq!(hours(Schedule { gap: 24, delay: 6, ..once }), [(34, 16)]);
        assert_eq!(hours(Schedule { gap: 3, delay: 6, ..once }), [(34, 34)]);
    }

    #[test]
    fn nothing_inside_the_gap_reaches_the_fit_and_all_of_it_the_context() {
        let (origin, gap) = (60, 24);
        let schedule = Schedule { every: None, history: Some(10), gap, delay: 0 };
        let mut all = panel(90);
        // Values and what is known once its interval has ended; the interval of each is its value.
        all.covariates = vec![Covariate { name: "voltage".into(), known: Known::Past }];
        all.series[0].covariates = vec![Column { offset: 0, values: (0..90).map(|hour| hour as f32).collect() }];
        let fits = schedule.fits(&all, &[origin * HOUR]);
        let known = schedule.known(&all, &fits[0]);
        let series = &known.series[0];
        assert_eq!((series.start, series.values.len()), (26 * HOUR, 10));
        assert!(series.values.iter().all(|value| *value < (origin - gap as i64) as f32), "{series:?}");
        assert!(series.covariates[0].values.iter().all(|value| *value < (origin - gap as i64) as f32), "{series:?}");
        // Fitted to the sum of what it knows, and shown the newest value that there is.
        let learned = f64::from(series.values.iter().sum::<f32>());
        let rolling = Rolling::new(vec![(fits[0], Box::new(Last(1000.0 * learned)) as Box<dyn Forecaster>)]).unwrap();
        let found = rolling.forecast(&all.cut(origin * HOUR), 1).remove(0).unwrap();
        assert_eq!(found.mean, [1000.0 * (26..36).sum::<i64>() as f64 + 59.0]);
    }

    #[test]
    fn what_came_late_is_not_known_and_forecast_over() {
        let delayed = Delayed { model: Last(0.0), delay: 3 };
        // Of ten hours seven are known; the first three steps are about those that came late.
        let found = means(&delayed, 10);
        assert!((found[0] - 6.3).abs() < 1e-9 && (found[1] - 6.4).abs() < 1e-9, "{found:?}");
    }
}
