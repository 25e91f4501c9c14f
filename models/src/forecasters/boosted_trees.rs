//! Gradient-boosted trees on the rows of [`Design`]: one model for all series, steps and quantile levels.
//!
//! Trees find what lines do not: interactions of hour, day type and weather, and effects that end somewhere. They cannot
//! say more than they saw; so targets are relative to the level of the last week, or to the median of a linear model
//! ([`BoostedSpec::residuals_of`]), which can.

use std::collections::BTreeMap;

use meterline_schemas::quantiles::{LEVELS, MEDIAN};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::direct::{self, Ahead, Sample, ahead, check_length, restored, too_short};
use super::linear_quantile::{FittedLinear, LinearQuantile, LinearSpec};
use crate::artifact::{self, ArtifactError};
use crate::booster::{Booster, BoosterError, Dataset, Matrix, Objective, Params, train};
use crate::data::Panel;
use crate::design::{Design, DesignPart, Normal, Seen};
use crate::explain::{Explanation, Part, by_part, renamed};
use crate::forecaster::{Done, FitError, Forecaster, Model, NoForecast, Progress, SeriesForecast, Task};
use crate::search::{Configuration, Domain, Parameter};

/// How the trees are fitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoostedSpec {
    /// Of the booster.
    pub params: Params,
    /// Rows that are trained on at most; of more, origins further apart are taken.
    pub rows_max: usize,
    /// The linear model whose errors they learn, if not the values themselves.
    pub residuals_of: Option<LinearSpec>,
}

/// Slow and small steps of trees that see a part of the features and of the days each: better than the booster's defaults
/// on days before the test windows of P1 and P2 of `bench/run quality`.
fn gentle() -> Params {
    Params {
        rounds: 400,
        learning_rate: 0.05,
        leaves_max: 15,
        leaf_rows_min: 100,
        leaf_l2: 10.0,
        feature_fraction: 0.3,
        bagging_fraction: 0.6,
        ..Params::default()
    }
}

impl Default for BoostedSpec {
    fn default() -> BoostedSpec {
        BoostedSpec { params: gentle(), rows_max: 300_000, residuals_of: None }
    }
}

impl BoostedSpec {
    /// What can be set of it.
    pub(crate) fn parameters() -> Vec<Parameter> {
        vec![
            Parameter::new("rounds", Domain::log_integer(50, 2_000)),
            Parameter::new("learning_rate", Domain::log_float(0.01, 0.3)),
            Parameter::new("leaves_max", Domain::log_integer(4, 127)),
            Parameter::new("leaf_rows_min", Domain::log_integer(10, 1_000)),
            Parameter::new("leaf_l2", Domain::log_float(0.1, 100.0)),
            Parameter::new("feature_fraction", Domain::float(0.1, 1.0)),
            Parameter::new("bagging_fraction", Domain::float(0.3, 1.0)),
        ]
    }

    /// The same with these settings.
    pub(crate) fn with(mut self, settings: &Configuration) -> BoostedSpec {
        let params = &mut self.params;
        settings.set_count("rounds", &mut params.rounds);
        settings.set_float("learning_rate", &mut params.learning_rate);
        settings.set_count("leaves_max", &mut params.leaves_max);
        settings.set_count("leaf_rows_min", &mut params.leaf_rows_min);
        settings.set_float("leaf_l2", &mut params.leaf_l2);
        settings.set_float("feature_fraction", &mut params.feature_fraction);
        settings.set_float("bagging_fraction", &mut params.bagging_fraction);
        self
    }
}

/// The kind of model.
#[derive(Debug, Clone, Default)]
pub struct BoostedTrees {
    /// How it is fitted.
    pub spec: BoostedSpec,
}

/// Names of the kinds.
pub(crate) const NAME: &str = "boosted_trees";
pub(crate) const NAME_OF_RESIDUALS: &str = "boosted_residuals";
/// Raised whenever the features or what is kept of a model changes.
const FORMAT: u32 = 4;

impl BoostedTrees {
    /// Trees on the errors of a linear model.
    pub fn on_residuals() -> BoostedTrees {
        // A line for each hour would leave less to be learnt, and more by chance.
        let smooth = LinearSpec { parts: 4, penalty: 10.0, ..LinearSpec::default() };
        BoostedTrees { spec: BoostedSpec { residuals_of: Some(smooth), ..BoostedSpec::default() } }
    }
}

impl Model for BoostedTrees {
    fn name(&self) -> &str {
        if self.spec.residuals_of.is_some() { NAME_OF_RESIDUALS } else { NAME }
    }

    fn fit(&self, panel: &Panel, task: &Task, progress: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
        let seen = Seen::of(panel);
        check_length(self.name(), panel, task.horizon)?;
        let linear = match &self.spec.residuals_of {
            Some(spec) => {
                let linear = LinearQuantile { spec: spec.clone() };
                Some(linear.fit_to(panel, &seen, task, &mut |done| progress(done.within(0.0, 0.25)))?)
            }
            None => None,
        };
        let failed =
            |error: BoosterError| FitError::Failed { model: self.name().to_owned(), reason: error.to_string() };
        let rows = self.rows(panel, &seen, linear.as_ref(), task);
        if rows.targets.is_empty() {
            return Err(too_short(self.name(), panel, task.horizon));
        }
        let matrix = Matrix::from_columns(&rows.columns).and_then(|matrix| matrix.with_names(rows.names));
        let matrix = matrix.map_err(failed)?;
        let data = Dataset::new(&matrix, &rows.targets).with_weights(&rows.weights).with_groups(&rows.groups);
        let params = Params { seed: task.seed, ..self.spec.params.clone() };
        let objective = Objective::Quantiles(LEVELS.to_vec());
        let before = if linear.is_some() { 0.25 } else { 0.0 };
        let booster = train(&data, None, &params, &objective, &mut |at| {
            progress(Done::share(at.round as f64 / at.rounds as f64).within(before, 1.0))
        });
        let numbers = panel.series.iter().enumerate().map(|(number, series)| (series.id.clone(), number as u32));
        Ok(Box::new(FittedTrees {
            task: task.clone(),
            seen,
            numbers: numbers.collect(),
            linear,
            booster: booster.map_err(failed)?,
        }))
    }
}

struct Rows {
    names: Vec<String>,
    columns: Vec<Vec<f32>>,
    targets: Vec<f32>,
    weights: Vec<f32>,
    // Rows of one series and origin depend on each other.
    groups: Vec<u32>,
}

impl BoostedTrees {
    fn rows(&self, panel: &Panel, seen: &Seen, linear: Option<&FittedLinear>, task: &Task) -> Rows {
        let mut names: Vec<String> = seen.names(panel, task).names().to_vec();
        names.push("series".into());
        names.extend(linear.map(|_| "linear".to_owned()));
        let mut rows = Rows {
            columns: vec![Vec::new(); names.len()],
            names,
            targets: Vec::new(),
            weights: Vec::new(),
            groups: Vec::new(),
        };
        let mut wide = Vec::new();
        let mut last = None;
        Sample::new(panel, task, self.spec.rows_max).each_row(panel, seen, task, |number, row| {
            let id = &panel.series[number].id;
            let base = linear.map(|linear| linear.median(id, row.features, (row.phase, row.step), &mut wide));
            // A series that the linear model does not know has no errors to be learnt.
            if base == Some(None) {
                return;
            }
            let base = base.flatten();
            let features = row.features.iter().copied().chain([number as f32]).chain(base);
            rows.columns.iter_mut().zip(features).for_each(|(column, value)| column.push(value));
            rows.targets.push(row.target - base.unwrap_or(0.0));
            rows.weights.push(row.weight);
            let is_another = last.replace((number, row.origin)) != Some((number, row.origin));
            let group = rows.groups.last().copied();
            rows.groups.push(group.map_or(0, |group| group + u32::from(is_another)));
        });
        rows
    }
}

/// Fitted ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FittedTrees {
    task: Task,
    seen: Seen,
    // Numbers by which they know series.
    numbers: BTreeMap<String, u32>,
    linear: Option<FittedLinear>,
    booster: Booster,
}

impl FittedTrees {
    /// Reads an artifact of trees on values or on the errors of a linear model.
    ///
    /// # Errors
    /// It is none of these.
    pub fn from_bytes(bytes: &[u8]) -> Result<FittedTrees, ArtifactError> {
        let (mut fitted, location) = artifact::decode_at::<FittedTrees>(bytes, artifact::kind_of(bytes)?, FORMAT)?;
        fitted.task.location = location;
        fitted.linear = fitted.linear.map(|linear| linear.at(location));
        Ok(fitted)
    }
}

impl Forecaster for FittedTrees {
    fn name(&self) -> &str {
        if self.linear.is_some() { NAME_OF_RESIDUALS } else { NAME }
    }

    fn artifact(&self) -> Option<Vec<u8>> {
        Some(artifact::encode_at(self.name(), FORMAT, self.task.location, self))
    }

    /// A series that they were not fitted to gets what holds for all; but none on the errors of a linear model.
    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        direct::each_part(panel, &self.seen, &self.task, horizon, |DesignPart { panel, design, .. }| {
            let numbers = (0..panel.series.len()).into_par_iter();
            numbers.map(|number| self.forecast_series(&panel, &design, number, horizon)).collect()
        })
    }

    /// The share of each feature in what all splits gained.
    fn explain(&self) -> Vec<Explanation> {
        let all: f64 = self.booster.gains().iter().sum();
        let gains = self.booster.names().iter().zip(self.booster.gains()).filter(|(_, gain)| **gain > 0.0);
        let gains = gains.map(|(name, gain)| Explanation::new(self.name(), Part::Gain, name.as_str(), gain / all));
        let linear = self.linear.as_ref().map(|linear| self.of_linear(linear.name(), linear.explain()));
        gains.chain(linear.unwrap_or_default()).collect()
    }

    /// What each feature adds to the median.
    fn explain_forecast(&self, panel: &Panel, horizon: usize) -> Vec<Explanation> {
        let linear = self.linear.as_ref().map(|linear| {
            let rows = linear.explain_forecast(panel, horizon);
            self.of_linear(linear.name(), rows)
        });
        let (mut rows, rest) =
            direct::explained(panel, &self.seen, &self.task, horizon, |DesignPart { panel, design, .. }| {
                let numbers = (0..panel.series.len()).into_par_iter();
                numbers.map(|number| self.explain_series(&panel, &design, number, horizon)).collect::<Vec<_>>().concat()
            });
        rows.extend((rest > 0).then(|| Explanation::left_out(self.name(), "series", rest)));
        rows.extend(linear.unwrap_or_default());
        rows
    }
}

// What the trees see of a series, and what is added to what they say.
struct Features {
    columns: Vec<Vec<f32>>,
    bases: Vec<f32>,
    normal: Normal,
}

impl FittedTrees {
    // The linear model below them.
    fn of_linear(&self, name: &str, rows: Vec<Explanation>) -> Vec<Explanation> {
        renamed(rows, name, &format!("{}/{name}", self.name()))
    }

    fn explain_series(&self, panel: &Panel, design: &Design, number: usize, horizon: usize) -> Vec<Explanation> {
        let Ok(Features { columns, bases, normal }) = self.seen(panel, design, number, horizon) else {
            return Vec::new();
        };
        let found = Matrix::from_columns(&columns).and_then(|rows| self.booster.contributions(&rows, None));
        let Ok(found) = found else { return Vec::new() };
        let names = self.booster.names().iter().cloned();
        let names = ["level", "linear model"].into_iter().map(String::from).chain(names);
        let mut terms: Vec<(String, Vec<f64>)> = names.map(|name| (name, Vec::with_capacity(horizon))).collect();
        for (of_step, base) in found.iter().zip(bases) {
            let bias = of_step.bias.get(MEDIAN).copied().unwrap_or(f64::NAN);
            let features = of_step.features.get(MEDIAN).into_iter().flatten().copied();
            let values = [normal.level / normal.spread + bias, f64::from(base)].into_iter().chain(features);
            terms.iter_mut().zip(values).for_each(|((_, term), value)| term.push(value * normal.spread));
        }
        // Most features of most rows lead nowhere.
        terms.retain(|(_, values)| values.iter().any(|value| *value != 0.0));
        let like = Explanation::new(self.name(), Part::Contribution, "", 0.0);
        let series = Some(panel.series[number].id.clone());
        by_part(&Explanation { series, level: Some(LEVELS[MEDIAN]), ..like }, &terms)
    }

    fn forecast_series(
        &self,
        panel: &Panel,
        design: &Design,
        number: usize,
        horizon: usize,
    ) -> Result<SeriesForecast, NoForecast> {
        let Features { columns, bases, normal } = self.seen(panel, design, number, horizon)?;
        let predicted = Matrix::from_columns(&columns).and_then(|rows| self.booster.predict(&rows, None));
        let predicted = predicted.map_err(|_| NoForecast::NotFinite)?;
        let (rows, _) = predicted.as_chunks::<{ LEVELS.len() }>();
        restored(normal, rows.iter().zip(bases).map(|(row, base)| row.map(|quantile| f64::from(quantile + base))))
    }

    fn seen(&self, panel: &Panel, design: &Design, number: usize, horizon: usize) -> Result<Features, NoForecast> {
        let id = &panel.series[number].id;
        let known_as = self.numbers.get(id).map_or(f32::NAN, |number| *number as f32);
        let Ahead { rows, normal, origin } = ahead(panel, design, number, horizon)?;
        let mut columns = vec![Vec::with_capacity(horizon); design.width() + 1 + usize::from(self.linear.is_some())];
        let (mut bases, mut wide) = (Vec::new(), Vec::new());
        for (step, row) in rows.chunks_exact(design.width()).enumerate() {
            let phase = design.phase(number, origin + step);
            let linear = self.linear.as_ref();
            let base = linear.map(|linear| linear.median(id, row, (phase, step), &mut wide).ok_or(NoForecast::Unknown));
            let base = base.transpose()?;
            let features = row.iter().copied().chain([known_as]).chain(base);
            columns.iter_mut().zip(features).for_each(|(column, feature)| column.push(feature));
            bases.push(base.unwrap_or(0.0));
        }
        Ok(Features { columns, bases, normal })
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use jiff::tz::TimeZone;
    use meterline_schemas::Frequency;

    use super::*;
    use crate::data::Series;

    #[test]
    fn gains_are_shares_and_what_features_add_is_the_median() {
        let value = |at: usize| (at % 24) as f32 + 3.0 * (at / 24 % 7) as f32 + ((at * 7919) % 13) as f32 / 10.0;
        let series = vec![Series::new("a", 0, (0..80 * 24).map(value).collect())];
        let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, series);
        for model in [BoostedTrees::default(), BoostedTrees::on_residuals()] {
            let name = model.name().to_owned();
            let params = Params { rounds: 30, ..model.spec.params.clone() };
            let model = BoostedTrees { spec: BoostedSpec { params, ..model.spec } };
            let fitted = model.fit(&panel, &Task::new(24, 24, 1), &mut |_| ControlFlow::Continue(())).unwrap();
            let shares = fitted.explain();
            let shares: f64 = shares.iter().filter(|row| row.part == Part::Gain).map(|row| row.value).sum();
            assert!((shares - 1.0).abs() < 1e-9, "{name}");
            let forecast = fitted.forecast(&panel, 24).remove(0).unwrap();
            let median = forecast.quantiles[..3].iter().map(|row| row[MEDIAN]).sum::<f64>() / 3.0;
            let rows = fitted.explain_forecast(&panel, 24);
            let first = rows.iter().filter(|row| row.model == name && row.steps == Some((1, 3)));
            let sum: f64 = first.map(|row| row.value).sum();
            assert!((sum - median).abs() < 1e-3, "{name}: {sum} {median}");
            let below = rows.iter().any(|row| row.model == "boosted_residuals/linear_quantile");
            assert_eq!(below, name == NAME_OF_RESIDUALS);
        }
    }
}
