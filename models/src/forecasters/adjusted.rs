//! A model of what calendar and weather leave: they explain each series first, hour by hour, and another model forecasts
//! the rest.
//!
//! A lag says little where the weather of its day was another one than the target's. Once every value is what it is beyond
//! what its own weather makes one expect, all lags, levels and means are comparable, whatever the weather was. That is
//! regression with dynamic errors (Hyndman and Athanasopoulos 2021, chapter 10), with pieces of lines for heating and
//! cooling, now and over the last hours and days (Wang, Liu, Hong 2016), and with any model for the errors.

use std::collections::BTreeMap;

use meterline_schemas::quantiles::LEVELS;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::basis::Basis;
use super::boosted_trees::BoostedTrees;
use super::direct;
use super::feature_mlp::FeatureMlp;
use super::linear_quantile::{LinearQuantile, LinearSpec};
use crate::artifact::{self, ArtifactError};
use crate::data::{Panel, Series};
use crate::design::{self, Design, DesignPart, Seen, Wanted};
use crate::device::Device;
use crate::forecaster::{Done, FitError, Forecaster, Model, NoForecast, Progress, SeriesForecast, Task};
use crate::linear::{Design as Matrix, Problem, Standardised, default_lambdas, ridge};
use crate::registry;

/// Raised whenever features or what is kept of a model changes.
const FORMAT: u32 = 3;
/// Names of the kinds.
pub(crate) const NAME_OF_LINEAR: &str = "adjusted_linear";
pub(crate) const NAME_OF_TREES: &str = "adjusted_trees";
pub(crate) const NAME_OF_MLP: &str = "adjusted_mlp";
/// Rows for each number that a part of the day should have; those of one hour and day count as one.
const ROWS_PER_FEATURE: usize = 8;
/// Most parts of the day that are explained apart.
const PARTS: usize = 24;

/// The kind of model: another one, on what calendar and weather leave.
pub struct Adjusted<M> {
    name: &'static str,
    model: M,
}

impl Adjusted<LinearQuantile> {
    /// Linear quantile regression.
    pub fn linear() -> Self {
        Adjusted { name: NAME_OF_LINEAR, model: LinearQuantile::default() }
    }

    /// The same with other settings.
    pub fn linear_of(spec: LinearSpec) -> Self {
        Adjusted { name: NAME_OF_LINEAR, model: LinearQuantile { spec } }
    }
}

impl Adjusted<BoostedTrees> {
    /// Gradient-boosted trees.
    pub fn trees() -> Self {
        Adjusted { name: NAME_OF_TREES, model: BoostedTrees::default() }
    }
}

impl Adjusted<FeatureMlp> {
    /// A small network on features.
    pub fn mlp() -> Self {
        Adjusted { name: NAME_OF_MLP, model: FeatureMlp::default() }
    }
}

impl<M: Model> Model for Adjusted<M> {
    fn name(&self) -> &str {
        self.name
    }

    fn fit(&self, panel: &Panel, task: &Task, progress: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
        let seen = Seen::of(panel);
        // Of less than a year, what the weather does cannot be told from what the season does.
        if !seen.has_year() {
            let longest = panel.longest();
            let needed = design::year(panel.frequency);
            return Err(FitError::TooShort { model: self.name.into(), needed, longest, series: panel.series.len() });
        }
        let (mut explained, mut left) = (Vec::new(), Vec::new());
        for part in seen.parts(panel, 0..panel.series.len(), Wanted::to_learn(task)) {
            let places = (0..part.numbers.len()).into_par_iter();
            let found: Vec<Explained> = places.map(|place| Explained::fit(&part.panel, &part.design, place)).collect();
            left.extend(rest(&part.panel, &part.design, |place| found.get(place)).series);
            explained.extend(found);
        }
        let model = self.model.fit(&panel.with(left), task, &mut |done: Done<'_>| progress(done.within(0.1, 1.0)))?;
        let names = panel.series.iter().map(|series| series.id.clone());
        Ok(Box::new(FittedAdjusted {
            name: self.name,
            task: task.clone(),
            seen,
            explained: names.zip(explained).collect(),
            model,
        }))
    }
}

/// What calendar and weather make one expect of a series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Explained {
    basis: Basis,
    // Of each part of the day: coefficients with the base in front; empty where nothing can be said.
    parts: Vec<Vec<f64>>,
}

impl Explained {
    fn fit(panel: &Panel, design: &Design, number: usize) -> Explained {
        let series = &panel.series[number];
        let season = panel.frequency.season();
        let (names, bent) = design.condition_names();
        let width = names.len();
        let (mut rows, mut targets, mut weights, mut phases) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut row = vec![0.0; width];
        for (interval, value) in series.values.iter().enumerate().filter(|(_, value)| value.is_finite()) {
            design.conditions(number, interval, &mut row);
            rows.extend_from_slice(&row);
            targets.push(*value);
            weights.push(series.weight(interval));
            phases.push(design.phase(number, interval));
        }
        let basis = Basis::of(&rows, width, &bent);
        let in_hour = (season / 24).max(1);
        let fits = |parts: usize| {
            season.is_multiple_of(parts) && targets.len() / parts / in_hour >= ROWS_PER_FEATURE * basis.width()
        };
        let parts = (1..=PARTS.min(season)).rev().find(|parts| fits(*parts));
        let of_part = |part: usize, parts: usize| -> Option<Vec<f64>> {
            let (mut features, mut y, mut w) = (Vec::new(), Vec::new(), Vec::new());
            for (at, _) in phases.iter().enumerate().filter(|(_, phase)| *phase * parts / season == part) {
                basis.write(&rows[at * width..(at + 1) * width], &mut features);
                y.push(targets[at]);
                w.push(weights[at]);
            }
            let matrix = Matrix::new(&features, basis.width()).ok()?;
            let standardised = Standardised::new(&Problem { design: matrix, target: &y, weights: Some(&w) }).ok()?;
            let ridge = ridge(&standardised, &default_lambdas()).ok()?;
            let base: f64 = ridge.coefficients.iter().zip(&ridge.means).map(|(c, mean)| c * mean).sum();
            Some(std::iter::once(ridge.base - base).chain(ridge.coefficients).collect())
        };
        let parts = parts.and_then(|parts| (0..parts).map(|part| of_part(part, parts)).collect::<Option<Vec<_>>>());
        Explained { basis, parts: parts.unwrap_or_default() }
    }

    // Expected values of intervals of a series, as a design of its panel numbers it.
    fn values(&self, design: &Design, number: usize, intervals: std::ops::Range<usize>, season: usize) -> Vec<f64> {
        let (names, _) = design.condition_names();
        let (mut row, mut wide) = (vec![0.0; names.len()], Vec::new());
        let value = |interval: usize| {
            let phase = design.phase(number, interval);
            let Some(part) = self.parts.get(phase * self.parts.len() / season.max(1)) else { return 0.0 };
            design.conditions(number, interval, &mut row);
            wide.clear();
            self.basis.write(&row, &mut wide);
            let terms = part.iter().skip(1).zip(&wide).map(|(coefficient, value)| coefficient * f64::from(*value));
            part.first().copied().unwrap_or(0.0) + terms.sum::<f64>()
        };
        intervals.map(value).collect()
    }
}

// The panel of what is left of each series.
fn rest<'e>(panel: &Panel, design: &Design, explained: impl Fn(usize) -> Option<&'e Explained> + Sync) -> Panel {
    let season = panel.frequency.season();
    let of = |(number, series): (usize, &Series)| {
        let mut rest = series.clone();
        if let Some(explained) = explained(number) {
            let expected = explained.values(design, number, 0..series.values.len(), season);
            rest.values.iter_mut().zip(expected).for_each(|(value, expected)| {
                *value = (f64::from(*value) - expected) as f32;
            });
        }
        rest
    };
    panel.with(panel.series.par_iter().enumerate().map(of).collect())
}

/// A fitted one.
pub struct FittedAdjusted {
    name: &'static str,
    task: Task,
    seen: Seen,
    explained: BTreeMap<String, Explained>,
    model: Box<dyn Forecaster>,
}

/// As it is kept.
#[derive(Serialize, Deserialize)]
struct Stored {
    task: Task,
    seen: Seen,
    explained: BTreeMap<String, Explained>,
    model: Vec<u8>,
}

impl FittedAdjusted {
    /// Reads an artifact; `device` is where networks are put.
    ///
    /// # Errors
    /// It is none of these, or that of its model cannot be read.
    pub fn from_bytes(bytes: &[u8], device: Device) -> Result<FittedAdjusted, ArtifactError> {
        let kind = artifact::kind_of(bytes)?;
        let names = [NAME_OF_LINEAR, NAME_OF_TREES, NAME_OF_MLP];
        let name = names.into_iter().find(|name| *name == kind).ok_or_else(|| ArtifactError::Kind(kind.to_owned()))?;
        let (stored, location) = artifact::decode_at(bytes, name, FORMAT)?;
        let Stored { task, seen, explained, model } = stored;
        let task = Task { location, ..task };
        Ok(FittedAdjusted { name, task, seen, explained, model: registry::load_part(&model, device)? })
    }
}

impl Forecaster for FittedAdjusted {
    fn name(&self) -> &str {
        self.name
    }

    fn artifact(&self) -> Option<Vec<u8>> {
        let stored = Stored {
            task: self.task.clone(),
            seen: self.seen.clone(),
            explained: self.explained.clone(),
            model: self.model.artifact()?,
        };
        Some(artifact::encode_at(self.name, FORMAT, self.task.location, &stored))
    }

    /// Series that it was not fitted to have no forecast.
    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        direct::each_part(panel, &self.seen, &self.task, horizon, |part| self.forecast_part(&part, horizon))
    }
}

impl FittedAdjusted {
    fn forecast_part(&self, part: &DesignPart, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        let DesignPart { panel, design, .. } = part;
        let of = |number: usize| self.explained.get(&panel.series[number].id);
        let forecasts = self.model.forecast(&rest(panel, design, of), horizon);
        let season = panel.frequency.season();
        let restored = |(number, forecast): (usize, Result<SeriesForecast, NoForecast>)| {
            let explained = of(number).ok_or(NoForecast::Unknown)?;
            let mut forecast = forecast?;
            let end = panel.series[number].values.len();
            let expected = explained.values(design, number, end..end + horizon, season);
            for ((mean, quantiles), expected) in forecast.mean.iter_mut().zip(&mut forecast.quantiles).zip(expected) {
                *mean += expected;
                let moved: [f64; LEVELS.len()] = quantiles.map(|quantile| quantile + expected);
                *quantiles = moved;
                if !mean.is_finite() {
                    return Err(NoForecast::NotFinite);
                }
            }
            Ok(forecast)
        };
        forecasts.into_par_iter().enumerate().map(restored).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use jiff::tz::TimeZone;
    use meterline_schemas::Frequency;
    use meterline_schemas::quantiles::MEDIAN;

    use super::*;
    use crate::data::{Column, Covariate, Known};

    const DAYS: usize = 400;

    // Cold for weeks, mild for weeks, and heating that begins below 12 degrees.
    fn temperature(hour: usize) -> f32 {
        12.0 + 10.0 * ((hour / 500) as f32 * 1.7).sin() + ((hour * 7919) % 13) as f32 / 5.0
    }

    fn load(hour: usize) -> f32 {
        20.0 + (hour % 24) as f32 / 4.0 + 2.0 * (12.0 - temperature(hour)).max(0.0) + ((hour * 31) % 7) as f32 / 10.0
    }

    fn panel(days: usize) -> Panel {
        let mut series = Series::new("a", 0, (0..24 * days).map(load).collect());
        series.covariates = vec![Column { offset: 0, values: (0..24 * days + 48).map(temperature).collect() }];
        let covariates = vec![Covariate { name: "temperature".into(), known: Known::Ahead }];
        Panel { covariates, ..Panel::new(Frequency::HOUR, TimeZone::UTC, vec![series]) }
    }

    fn error(model: &dyn Model) -> f64 {
        let fitted = model.fit(&panel(DAYS), &Task::new(24, 168, 1), &mut |_| ControlFlow::Continue(())).unwrap();
        // The weather turns on the day of the forecast: 9,750 hours are nineteen and a half of its turns.
        let forecast = fitted.forecast(&panel(DAYS + 6), 24).remove(0).unwrap();
        let steps = forecast.quantiles.iter().enumerate();
        steps.map(|(step, q)| (q[MEDIAN] - f64::from(load(24 * (DAYS + 6) + step))).abs()).sum::<f64>() / 24.0
    }

    #[test]
    fn what_the_weather_explains_is_no_error_any_more() {
        assert!(error(&Adjusted::linear()) < 0.5, "{}", error(&Adjusted::linear()));
        assert!(error(&Adjusted::trees()) < 0.5, "{}", error(&Adjusted::trees()));
    }

    #[test]
    fn less_than_a_year_is_refused() {
        let task = Task::new(24, 168, 1);
        let refusal = Adjusted::linear().fit(&panel(100), &task, &mut |_| ControlFlow::Continue(())).err().unwrap();
        assert!(matches!(refusal, FitError::TooShort { needed: 9120, longest: 2400, .. }), "{refusal:?}");
    }
}
