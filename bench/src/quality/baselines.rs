//! Forecasts without any fitting. Their figures on the benchmark's data are known, so they check the harness.
//!
//! Written apart from the forecasters that are measured: a mistake in one does not hide in the other.

use std::fmt;

use meterline_models::metrics::seasonal_scale;

use super::grid::interpolate;
use super::naive2::naive2;
use super::{Metric, Protocol};

/// A rule that needs no fitting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Baseline {
    /// The last known day comes again, as often as the horizon needs.
    SeasonalNaiveDay,
    /// The last known seven days come again, as often as the horizon needs.
    SeasonalNaiveWeek,
    /// The last known value stays.
    RepeatLast,
    /// The last seasonally adjusted value stays: [`naive2`].
    Naive2,
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Baseline::SeasonalNaiveDay => "seasonal naive, day",
            Baseline::SeasonalNaiveWeek => "seasonal naive, week",
            Baseline::RepeatLast => "repeat last",
            Baseline::Naive2 => "Naive2",
        })
    }
}

impl Baseline {
    /// Forecast of `horizon` steps after `known`, whose values must all be there. `day` is a day in native intervals.
    /// `None` where `known` is shorter than what is repeated.
    pub fn forecast(self, known: &[f32], day: usize, horizon: usize) -> Option<Vec<f64>> {
        let period = match self {
            Baseline::SeasonalNaiveDay => day,
            Baseline::SeasonalNaiveWeek => 7 * day,
            Baseline::RepeatLast => 1,
            Baseline::Naive2 => return naive2(known, day, horizon),
        };
        let period = period.max(1);
        let last = &known[known.len().checked_sub(period)?..];
        Some(last.iter().cycle().take(horizon).map(|v| f64::from(*v)).collect())
    }
}

/// Sums over scored points of point forecasts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PointSums {
    /// Scored points.
    pub points: usize,
    /// Σ|y|
    pub absolute_actual: f64,
    /// Σ|y − ŷ|
    pub absolute_error: f64,
    /// Σ(y − ŷ)²
    pub squared_error: f64,
}

impl PointSums {
    /// Adds the steps of one forecast; both as long as the horizon.
    pub fn add(&mut self, actuals: &[f32], forecast: &[f64]) {
        for (actual, forecast) in actuals.iter().zip(forecast) {
            let error = f64::from(*actual) - forecast;
            self.points += 1;
            self.absolute_actual += f64::from(*actual).abs();
            self.absolute_error += error.abs();
            self.squared_error += error * error;
        }
    }

    /// Adds the points of `other`.
    pub fn merge(&mut self, other: &PointSums) {
        self.points += other.points;
        self.absolute_actual += other.absolute_actual;
        self.absolute_error += other.absolute_error;
        self.squared_error += other.squared_error;
    }

    /// Normalised deviation; `None` where Σ|y| is 0.
    pub fn nd(&self) -> Option<f64> {
        (self.absolute_actual > 0.0).then(|| self.absolute_error / self.absolute_actual)
    }

    /// Mean absolute error; `None` without a point.
    pub fn mae(&self) -> Option<f64> {
        (self.points > 0).then(|| self.absolute_error / self.points as f64)
    }

    /// Mean squared error; `None` without a point.
    pub fn mse(&self) -> Option<f64> {
        (self.points > 0).then(|| self.squared_error / self.points as f64)
    }
}

/// The figure of a baseline under a protocol with rolling origins: [`Metric::Nd`] or [`Metric::Mase`], whose scale is
/// taken from what is known at the first origin. Missing history is interpolated linearly.
///
/// `None` for other metrics, and where a baseline has no forecast.
pub fn figure(protocol: &Protocol, baseline: Baseline, metric: Metric) -> Option<f64> {
    let by_series = rolling(protocol, baseline)?;
    match metric {
        Metric::Nd => {
            let mut total = PointSums::default();
            by_series.iter().for_each(|(sums, _)| total.merge(sums));
            total.nd()
        }
        Metric::Mase => {
            let scaled: Option<Vec<f64>> =
                by_series.iter().map(|(sums, scale)| Some(sums.mae()? / (*scale)?)).collect();
            let scaled = scaled?;
            (!scaled.is_empty()).then(|| scaled.iter().sum::<f64>() / scaled.len() as f64)
        }
        _ => None,
    }
}

/// The sums of every series, with its MASE scale.
fn rolling(protocol: &Protocol, baseline: Baseline) -> Option<Vec<(PointSums, Option<f64>)>> {
    let mut found = Vec::with_capacity(protocol.panel.series.len());
    for (i, series) in protocol.panel.series.iter().enumerate() {
        let mut sums = PointSums::default();
        for origin in &protocol.origins {
            let (known, later) = series.values.split_at(protocol.first_step(i, *origin)?);
            let mut known = known.to_vec();
            interpolate(&mut known);
            let forecast = baseline.forecast(&known, protocol.season, protocol.horizon)?;
            sums.add(&later[..protocol.horizon], &forecast);
        }
        let first = protocol.first_step(i, *protocol.origins.first()?)?;
        found.push((sums, seasonal_scale(&series.values[..first], protocol.season)));
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use meterline_models::data::{Panel, Series};
    use meterline_models::holidays::Holidays;
    use meterline_schemas::Frequency;
    use meterline_schemas::time::DAY;

    use super::*;

    #[test]
    fn baselines_repeat_what_they_say() {
        let known: Vec<f32> = (0..15).map(|i| i as f32).collect();
        for (baseline, expected) in [
            (Baseline::SeasonalNaiveDay, Some(vec![13.0, 14.0, 13.0, 14.0, 13.0])),
            (Baseline::SeasonalNaiveWeek, Some(vec![1.0, 2.0, 3.0, 4.0, 5.0])),
            (Baseline::RepeatLast, Some(vec![14.0; 5])),
        ] {
            assert_eq!(baseline.forecast(&known, 2, 5), expected, "{baseline}");
        }
        assert_eq!(Baseline::SeasonalNaiveWeek.forecast(&known[..13], 2, 5), None);
        assert_eq!(Baseline::RepeatLast.forecast(&[], 2, 5), None);
        assert_eq!(Baseline::RepeatLast.forecast(&known, 2, 0), Some(vec![]));
    }

    fn protocol(values: Vec<f32>, origins: Vec<i64>) -> Protocol {
        let series = vec![Series::new("a", 0, values)];
        Protocol {
            name: "test",
            title: "",
            panel: Panel::new(Frequency::Seconds(43_200), TimeZone::UTC, series),
            covariates: vec![],
            holidays: Holidays::none(),
            train_until: origins.first().copied().unwrap_or(0),
            origins,
            horizon: 2,
            season: 2,
            checks: vec![],
            peers: vec![],
        }
    }

    #[test]
    fn figures_agree_with_a_calculation_by_hand() {
        // Two steps a day; the scale is mean(|3 − 1|, |2 − 2|) = 1.
        let protocol = protocol(vec![1.0, 2.0, 3.0, 2.0, 4.0, 1.0, 4.0, 5.0], vec![2 * DAY, 3 * DAY]);
        // Day 2: |4 − 3| + |1 − 2|; day 3: |4 − 4| + |5 − 1|.
        let nd = figure(&protocol, Baseline::SeasonalNaiveDay, Metric::Nd).unwrap();
        assert!((nd - 6.0 / 14.0).abs() < 1e-12);
        let mase = figure(&protocol, Baseline::SeasonalNaiveDay, Metric::Mase).unwrap();
        assert!((mase - 6.0 / 4.0).abs() < 1e-12);
        assert_eq!(figure(&protocol, Baseline::SeasonalNaiveWeek, Metric::Nd), None, "less than a week is known");
        assert_eq!(figure(&protocol, Baseline::SeasonalNaiveDay, Metric::Wql), None, "it has no quantiles");
    }

    #[test]
    fn a_protocol_that_breaks_its_promises_is_refused() {
        let good = protocol(vec![1.0; 8], vec![2 * DAY, 3 * DAY]);
        assert!(good.clone().validated().is_ok());
        assert_eq!(good.points(), 4);
        let mut missing = good.clone();
        missing.panel.series[0].values[5] = f32::NAN;
        let mut short = good.clone();
        short.origins.push(4 * DAY);
        let mut off = good.clone();
        off.origins[0] += 1;
        let mut covariate = good;
        covariate.covariates.push(crate::quality::CovariateColumn { name: "wind", series: None, values: vec![1.0; 7] });
        for (broken, what) in [
            (missing, "misses step 1 of the test window"),
            (short, "does not reach over the horizon"),
            (off, "is not on the grid"),
            (covariate, "has missing values"),
        ] {
            let complaint = broken.validated().unwrap_err();
            assert!(complaint.contains(what), "{complaint}");
        }
    }
}
