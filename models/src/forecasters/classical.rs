//! The classical models of [`crate::statistics`] as forecasters: each fits itself to a series when it forecasts it, to
//! the end of what there is of it.

use meterline_schemas::Frequency;
use meterline_schemas::quantiles::LEVELS;
use rayon::prelude::*;

use crate::artifact::{self, ArtifactError};
use crate::data::{Column, Covariate, Known, Panel, Series};
use crate::explain::{Explanation, Part, SERIES_MAX, by_part};
use crate::forecaster::{FitError, Forecaster, Model, NoForecast, Progress, SeriesForecast, Task};
use crate::statistics::{Component, Method, Request, Source, StatisticsError};

/// Seasons that they look back: sixteen weeks of hours, two years of days. What is older takes time and says little.
const SEASONS: usize = 112;
const FORMAT: u32 = 2;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Classical {
    /// Which.
    pub method: Method,
}

/// Values before its origin that a forecast looks at, at most.
pub fn lookback(frequency: Frequency) -> usize {
    SEASONS * frequency.season()
}

impl Model for Classical {
    fn name(&self) -> &str {
        self.method.name()
    }

    fn fit(&self, _: &Panel, _: &Task, _: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
        Ok(Box::new(*self))
    }
}

impl Forecaster for Classical {
    fn name(&self) -> &str {
        self.method.name()
    }

    fn artifact(&self) -> Option<Vec<u8>> {
        Some(artifact::begun(self.method.name(), FORMAT))
    }

    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        let panel = &panel.newest(lookback(panel.frequency));
        panel.series.par_iter().map(|series| self.forecast_series(panel, series, horizon)).collect()
    }

    fn explain_forecast(&self, panel: &Panel, horizon: usize) -> Vec<Explanation> {
        let panel = &panel.newest(lookback(panel.frequency));
        let explained = panel.series.par_iter().take(SERIES_MAX);
        let mut rows: Vec<Explanation> =
            explained.map(|series| self.explain_series(panel, series, horizon)).collect::<Vec<_>>().concat();
        let rest = panel.series.len().saturating_sub(SERIES_MAX);
        rows.extend((rest > 0 && !rows.is_empty()).then(|| Explanation::left_out(self.method.name(), "series", rest)));
        rows
    }
}

impl Classical {
    /// Reads an artifact.
    ///
    /// # Errors
    /// It is none of these.
    pub fn from_bytes(bytes: &[u8]) -> Result<Classical, ArtifactError> {
        let kind = artifact::kind_of(bytes)?;
        artifact::rest_of(bytes, kind, FORMAT)?;
        let method = Method::ALL.into_iter().find(|method| method.name() == kind);
        method.map(|method| Classical { method }).ok_or_else(|| ArtifactError::Kind(kind.to_owned()))
    }

    fn explain_series(&self, panel: &Panel, series: &Series, horizon: usize) -> Vec<Explanation> {
        let values: Vec<f64> = series.values.iter().map(|value| f64::from(*value)).collect();
        let (names, regressors): (Vec<&str>, Vec<Vec<f64>>) = regressors(panel, series, horizon).into_iter().unzip();
        let components = self.method.components(&Request {
            values: &values,
            periods: &periods(panel.frequency),
            regressors: &regressors,
            horizon,
            levels: &LEVELS,
        });
        let named = |part: Component| {
            let term = match part.source {
                Source::Trend => "trend".to_owned(),
                Source::Season(period) => format!("season of {period} intervals"),
                Source::Regressor(place) => names.get(place).copied().unwrap_or_default().to_owned(),
                Source::Errors => "newest errors".to_owned(),
            };
            (term, part.values)
        };
        let terms: Vec<(String, Vec<f64>)> = components.unwrap_or_default().into_iter().map(named).collect();
        let like = Explanation::new(self.method.name(), Part::Component, "", 0.0);
        by_part(&Explanation { series: Some(series.id.clone()), ..like }, &terms)
    }

    fn forecast_series(&self, panel: &Panel, series: &Series, horizon: usize) -> Result<SeriesForecast, NoForecast> {
        let values: Vec<f64> = series.values.iter().map(|value| f64::from(*value)).collect();
        let regressors: Vec<Vec<f64>> =
            regressors(panel, series, horizon).into_iter().map(|(_, column)| column).collect();
        let predicted = self.method.forecast(&Request {
            values: &values,
            periods: &periods(panel.frequency),
            regressors: &regressors,
            horizon,
            levels: &LEVELS,
        });
        let predicted = predicted.map_err(|error| no_forecast(&error, &values))?;
        let quantiles = predicted.quantiles.iter().map(|row| row.as_slice().try_into());
        let quantiles: Result<Vec<[f64; LEVELS.len()]>, _> = quantiles.collect();
        Ok(SeriesForecast { mean: predicted.mean, quantiles: quantiles.map_err(|_| NoForecast::NotFinite)? })
    }
}

/// Seasons of a frequency in intervals: a day and a week below a day.
fn periods(frequency: Frequency) -> Vec<usize> {
    let season = frequency.season();
    match frequency {
        Frequency::Seconds(_) => vec![season, 7 * season],
        Frequency::Day | Frequency::Week | Frequency::Month => vec![season],
    }
}

/// Covariates that are known over past and horizon without a gap, by name.
fn regressors<'p>(panel: &'p Panel, series: &Series, horizon: usize) -> Vec<(&'p str, Vec<f64>)> {
    let ahead =
        panel.covariates.iter().zip(&series.covariates).filter(|(covariate, _)| covariate.known == Known::Ahead);
    let length = (series.values.len() + horizon) as i64;
    let column = |(covariate, column): (&'p Covariate, &Column)| -> (&'p str, Vec<f64>) {
        (&covariate.name, (0..length).map(|interval| f64::from(column.at(interval))).collect())
    };
    ahead.map(column).filter(|(_, column)| column.iter().all(|value| value.is_finite())).collect()
}

fn no_forecast(error: &StatisticsError, values: &[f64]) -> NoForecast {
    let present = values.iter().filter(|value| value.is_finite()).count();
    match error {
        StatisticsError::TooShort { needed, .. } => NoForecast::MissingContext { present, needed: *needed },
        StatisticsError::NegativeDemand { .. } => NoForecast::BelowZero,
        _ => NoForecast::NotFinite,
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use meterline_schemas::quantiles::MEDIAN;

    use super::*;

    // Six weeks of hours, each day alike but Sundays.
    fn panel() -> Panel {
        let value = |hour: usize| (hour % 24) as f32 + if hour / 24 % 7 == 6 { 5.0 } else { 10.0 };
        let series =
            vec![Series::new("a", 0, (0..6 * 168).map(value).collect()), Series::new("none", 0, vec![f32::NAN; 500])];
        Panel::new(Frequency::HOUR, TimeZone::UTC, series)
    }

    #[test]
    fn a_season_that_repeats_itself_is_found_and_nothing_has_no_forecast() {
        for method in [Method::SeasonalNaive, Method::Mstl, Method::Harmonic] {
            let found = Classical { method }.forecast(&panel(), 48);
            let forecast = found[0].as_ref().unwrap();
            for (hour, quantiles) in forecast.quantiles.iter().enumerate() {
                let expected = (hour % 24) as f64 + 10.0;
                assert!(
                    (quantiles[MEDIAN] - expected).abs() < 1.0,
                    "{} hour {hour}: {}",
                    method.name(),
                    quantiles[MEDIAN]
                );
            }
            assert!(found[1].is_err(), "{}", method.name());
        }
    }
}
