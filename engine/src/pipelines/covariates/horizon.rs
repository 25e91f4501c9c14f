//! What becomes of an infer run where what is known ahead is not known over the horizon of a forecast: it fails, or the
//! series in question have no forecast of the model. Pure.

use std::collections::BTreeMap;

use meterline_models::data::{Panel, Series};
use meterline_models::forecaster::{Forecaster, NoForecast, SeriesForecast};
use meterline_schemas::Micros;
use meterline_schemas::config::Fallback;
use meterline_schemas::time::format_micros;

use super::source_of;
use crate::known_ahead::{self, Filled};
use crate::metadata::records::RunSpec;
use crate::pipelines::error::StepError;

/// What was missing within the horizon of a panel's series, and what came of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Completed {
    /// By covariate: what its fallback filled.
    pub filled: Vec<Filled>,
    /// Series, by their place in the panel, of which a covariate is still missing, with its name: those whose horizon
    /// lies in the past altogether, and those for which the fallback has no value either.
    pub without: BTreeMap<usize, String>,
}

/// A value that a model looks at is missing, and nothing may stand in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the covariate `{covariate}` is missing within the horizon of {series} of {all} series, the first of which is `{id}`, from {} on: its source must have a value for every interval up to {}; extend it, or set covariate.{covariate}.fallback",
    format_micros(*.from), format_micros(*.until)
)]
pub struct MissingAhead {
    /// Its name.
    pub covariate: String,
    /// Series that lack it.
    pub series: usize,
    /// Series of the panel.
    pub all: usize,
    /// The first series that lacks it.
    pub id: String,
    /// Start of the first interval that has no value, over all series.
    pub from: Micros,
    /// End of the last interval that a forecast is about.
    pub until: Micros,
}

/// Completes what is known ahead over the horizon of each series, which are steps of the panel's frequency from its own
/// end on; `fallback` says what stands in, by the covariate's name. What lies before `origin`, the end of the last
/// closed interval of all, is no longer ahead: a series whose horizon ends there fails nothing.
///
/// # Errors
/// A value is missing for which nothing may stand in.
pub fn complete(
    panel: &mut Panel,
    horizon: usize,
    origin: Micros,
    fallback: impl Fn(&str) -> Fallback,
) -> Result<Completed, MissingAhead> {
    let mut completed = Completed::default();
    let within = |series: &Series| series.values.len()..series.values.len() + horizon;
    for found in known_ahead::complete(panel, fallback, within) {
        completed.filled.extend(found.filled);
        let mut missing: Option<MissingAhead> = None;
        for lacking in found.lacking {
            let Some(series) = panel.series.get(lacking.series) else { continue };
            let from = lacking.from;
            let until = panel.frequency.advance(series.start, within(series).end as i64, &panel.zone);
            if found.fallback != Fallback::None || until <= origin {
                completed.without.insert(lacking.series, found.covariate.clone());
                continue;
            }
            let all = missing.get_or_insert_with(|| MissingAhead {
                covariate: found.covariate.clone(),
                series: 0,
                all: panel.series.len(),
                id: series.id.clone(),
                from,
                until,
            });
            all.series += 1;
            (all.from, all.until) = (all.from.min(from), all.until.max(until));
        }
        if let Some(missing) = missing {
            return Err(missing);
        }
    }
    Ok(completed)
}

/// What the model of a run sees of the horizon, which must be whole.
///
/// # Errors
/// As [`complete`], in words.
pub fn whole(spec: &RunSpec, panel: &mut Panel) -> Result<Completed, StepError> {
    let configured = |name: &str| spec.covariates.iter().find(|(known, _)| known == name).map(|(_, config)| config);
    let fallback = |name: &str| configured(name).map(|config| config.fallback).unwrap_or_default();
    complete(panel, spec.policy.horizon, spec.origin, fallback).map_err(|missing| {
        let source = configured(&missing.covariate).map(source_of).unwrap_or_default();
        StepError::failed(format!("looking ahead in {source}"), missing)
    })
}

/// A model that has no forecast for series of which a covariate is missing.
pub struct Informed<'a> {
    /// The model.
    pub model: &'a dyn Forecaster,
    /// See [`Completed::without`].
    pub without: &'a BTreeMap<usize, String>,
}

impl Forecaster for Informed<'_> {
    fn name(&self) -> &str {
        self.model.name()
    }

    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        let mut forecasts = self.model.forecast(panel, horizon);
        for (place, covariate) in self.without {
            if let Some(forecast) = forecasts.get_mut(*place) {
                *forecast = Err(NoForecast::MissingCovariate(covariate.clone()));
            }
        }
        forecasts
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::tz::TimeZone;
    use meterline_models::data::{Column, Covariate, Known};
    use meterline_schemas::Frequency;
    use meterline_schemas::time::HOUR;

    use super::*;

    const GAP: f32 = f32::NAN;

    // `a` ends at hour 48, `b` at hour 46; both have the same column, which begins at hour 0 with the number of the hour.
    fn panel(column: impl IntoIterator<Item = f32>) -> Panel {
        let values: Arc<[f32]> = column.into_iter().collect();
        let series = |id: &str, hours: usize| {
            let mut series = Series::new(id, 24 * HOUR, vec![1.0; hours]);
            series.covariates = vec![Column { offset: -24, values: Arc::clone(&values) }];
            series
        };
        Panel {
            covariates: vec![Covariate { name: "temperature".into(), known: Known::Ahead }],
            ..Panel::new(Frequency::HOUR, TimeZone::UTC, vec![series("a", 24), series("b", 22)])
        }
    }

    fn hours(count: usize) -> impl Iterator<Item = f32> {
        (0..count).map(|hour| hour as f32)
    }

    #[test]
    fn what_reaches_as_far_as_the_forecast_is_left_as_it_is() {
        let mut whole = panel(hours(54));
        let completed = complete(&mut whole, 6, 48 * HOUR, |_| Fallback::LastDay).unwrap();
        assert_eq!((completed, whole.series), (Completed::default(), panel(hours(54)).series));
        // What is known of the past alone may be missing ahead.
        let mut past = panel(hours(10));
        past.covariates[0].known = Known::Past;
        assert_eq!(complete(&mut past, 6, 48 * HOUR, |_| Fallback::None).unwrap(), Completed::default());
    }

    #[test]
    fn a_value_that_is_missing_ahead_is_an_error_that_says_where_and_what_to_do() {
        // Missing at hour 51 alone, which is within six hours of `a` and of `b`; then from hour 53 on.
        let with_gap = hours(54).map(|hour| if hour == 51.0 { GAP } else { hour });
        let error = complete(&mut panel(with_gap), 6, 48 * HOUR, |_| Fallback::None).unwrap_err();
        assert_eq!((error.series, error.from, error.until), (2, 51 * HOUR, 54 * HOUR));
        let error = complete(&mut panel(hours(53)), 6, 48 * HOUR, |_| Fallback::None).unwrap_err();
        assert_eq!((error.series, error.from), (1, 53 * HOUR));
        let words = error.to_string();
        for word in ["`temperature`", "1 of 2 series", "`a`", "1970-01-03T05:00:00Z", "covariate.temperature.fallback"]
        {
            assert!(words.contains(word), "{words}");
        }
    }

    #[test]
    fn a_fallback_takes_the_newest_day_that_has_a_value_and_says_how_many() {
        let mut short = panel(hours(47).map(|hour| if hour == 25.0 { GAP } else { hour }));
        let completed = complete(&mut short, 26, 48 * HOUR, |_| Fallback::LastDay).unwrap();
        // Hours 47 to 73, of which 47 is ahead of `b` alone; each counts once.
        let filled = Filled { covariate: "temperature".into(), values: 27, oldest: HOUR };
        assert_eq!((completed.filled, completed.without.len()), (vec![filled], 0));
        let [a, b] = &short.series[..] else { panic!("two series") };
        assert!(Arc::ptr_eq(&a.covariates[0].values, &b.covariates[0].values));
        let at = |hour: i64| a.covariates[0].at(hour - 24);
        assert_eq!((at(46), at(47), at(48), at(50), at(71), at(72)), (46.0, 23.0, 24.0, 26.0, 23.0, 24.0));
        assert_eq!(at(49), 1.0, "hour 25 has none, hour 1 has");
        assert!(at(25).is_nan(), "what is missing before the horizon stays missing");
        // A week before there is nothing.
        let completed = complete(&mut panel(hours(47)), 6, 48 * HOUR, |_| Fallback::LastWeek).unwrap();
        assert_eq!(completed.without.into_keys().collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn a_series_whose_horizon_is_past_fails_nothing_and_has_no_forecast_of_the_model() {
        struct Certain;
        impl Forecaster for Certain {
            fn name(&self) -> &str {
                "certain"
            }

            fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
                let one = SeriesForecast { mean: vec![7.0; horizon], quantiles: Vec::new() };
                vec![Ok(one); panel.series.len()]
            }
        }
        // `b` fell silent before there were temperatures.
        let mut panel = panel((0..90).map(|hour| if hour < 52 { GAP } else { 1.0 }));
        panel.series[0].values = vec![1.0; 60];
        let completed = complete(&mut panel, 6, 84 * HOUR, |_| Fallback::None).unwrap();
        assert_eq!(completed.without, [(1, "temperature".to_owned())].into());
        let forecasts = Informed { model: &Certain, without: &completed.without }.forecast(&panel, 6);
        assert!(forecasts[0].is_ok());
        assert_eq!(forecasts[1], Err(NoForecast::MissingCovariate("temperature".into())));
    }
}
