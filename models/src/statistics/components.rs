//! What a forecast is the sum of.

use serde::{Deserialize, Serialize};

use super::{Method, Request, StatisticsError, decompose, harmonic, prophet};

/// One part of a forecast, over the horizon and in the unit of the series. All of them add up to its mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// What it is.
    pub source: Source,
    /// One value a step.
    pub values: Vec<f64>,
}

/// Where a part of a forecast comes from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Level and trend, with what is neither.
    Trend,
    /// What repeats after so many steps.
    Season(f64),
    /// A regressor, by its place in the request.
    Regressor(usize),
    /// What the newest errors say of the next.
    Errors,
}

impl Method {
    /// What the forecast of one series is the sum of; empty for a method that has no such parts.
    ///
    /// # Errors
    ///
    /// Those of [`Method::forecast`].
    pub fn components(self, request: &Request) -> Result<Vec<Component>, StatisticsError> {
        match self {
            Method::Mstl => decompose::Mstl::default().forecast_components(request),
            Method::Harmonic => harmonic::Harmonic.components(request),
            Method::Prophet => {
                let found = prophet::Prophet::default().components(request)?;
                let past = request.values.len();
                let part = |source, values: &[f64]| Component { source, values: values[past..].to_vec() };
                let seasons = found.seasonalities.iter().map(|(period, values)| part(Source::Season(*period), values));
                let regressors = found.regressors.iter().enumerate();
                let regressors = regressors.map(|(place, values)| part(Source::Regressor(place), values));
                let trend = part(Source::Trend, &found.trend);
                Ok(std::iter::once(trend).chain(seasons).chain(regressors).collect())
            }
            _ => Ok(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::testing::{LEVELS, mean_absolute_error, two_seasons};

    #[test]
    fn components_add_up_to_the_mean() {
        let values: Vec<f64> = two_seasons(3, 24 * 60, 24, 168);
        let temperature: Vec<f64> = (0..24 * 62).map(|t| ((t * 7919) % 23) as f64).collect();
        let values: Vec<f64> = values.iter().zip(&temperature).map(|(v, t)| v - 0.5 * t).collect();
        for (method, count) in [(Method::Mstl, 3), (Method::Prophet, 4), (Method::Harmonic, 5)] {
            let regressors = [temperature.clone()];
            let request =
                Request { values: &values, periods: &[24, 168], regressors: &regressors, horizon: 48, levels: &LEVELS };
            let found = method.components(&request).unwrap();
            assert_eq!(found.len(), count, "{}", method.name());
            let sum: Vec<f64> = (0..48).map(|step| found.iter().map(|part| part.values[step]).sum()).collect();
            let mean = method.forecast(&request).unwrap().mean;
            assert!(mean_absolute_error(&sum, &mean) < 1e-6, "{}", method.name());
            if let Some(regressor) = found.iter().find(|part| part.source == Source::Regressor(0)) {
                let slope =
                    (regressor.values[1] - regressor.values[0]) / (temperature[24 * 60 + 1] - temperature[24 * 60]);
                assert!((slope + 0.5).abs() < 0.05, "{}: {slope}", method.name());
            }
        }
        let request = Request { values: &values, periods: &[24], regressors: &[], horizon: 3, levels: &LEVELS };
        assert!(Method::Theta.components(&request).unwrap().is_empty());
    }
}
