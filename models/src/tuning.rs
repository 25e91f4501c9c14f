//! Settings of a kind of model: which there are, within which range, and how good a choice of them is.
//!
//! A kind that can be tuned has a [`Tuning`] in the [registry](crate::registry). The configuration's settings are checked
//! against the same parameters that [`search`](crate::search) varies, so what a search finds can be configured.
//! [`Validation`] is what a search minimises.

use meterline_schemas::Micros;
use meterline_schemas::settings::{Settings, Value};
use thiserror::Error;

use crate::backtest::evaluate;
use crate::data::Panel;
use crate::forecaster::{Forecaster, Model, NoForecast, Progress, SeriesForecast, Task};
use crate::forecasters::auto::Auto;
use crate::forecasters::auto::folds::{Fold, folds, needed};
use crate::forecasters::guarded::{Guarded, baseline};
use crate::forecasters::seasonal_naive::SeasonalNaive;
use crate::search::{Configuration, Decision, Domain, Parameter, Stop};

/// What can be set of a kind of model.
pub struct Tuning {
    /// The settings with their ranges.
    pub parameters: fn() -> Vec<Parameter>,
    /// A model with these settings, and the usual ones for the rest; not calibrated yet.
    pub model: fn(&Configuration) -> Box<dyn Model>,
    /// Whether the kind calibrates what this model forecasts ([`Auto::calibrated`]).
    pub calibrated: bool,
}

/// Why settings are not those of a kind of model.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum SettingsError {
    /// It has none.
    #[error("`{kind}` has no settings: leave them out")]
    NoSettings {
        /// The kind.
        kind: &'static str,
    },
    /// It does not know one.
    #[error("`{kind}` has no setting `{name}`; it has {}", known.join(", "))]
    Unknown {
        /// The kind.
        kind: &'static str,
        /// As given.
        name: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// One is of the wrong type or outside its range.
    #[error("{name} is {value}; it must be {range}")]
    Range {
        /// Which.
        name: String,
        /// As given.
        value: Value,
        /// What it may be.
        range: String,
    },
}

impl Tuning {
    /// Settings as a model of the kind takes them.
    ///
    /// # Errors
    /// One is not known, or outside its range.
    pub fn configuration(&self, kind: &'static str, settings: &Settings) -> Result<Configuration, SettingsError> {
        let parameters = (self.parameters)();
        let mut configuration = Configuration::default();
        for (name, value) in settings {
            let Some(parameter) = parameters.iter().find(|parameter| parameter.name == *name) else {
                let known = parameters.into_iter().map(|parameter| parameter.name).collect();
                return Err(SettingsError::Unknown { kind, name: name.clone(), known });
            };
            // `1` is a number like any other.
            let value = match (&parameter.domain, value) {
                (Domain::Float { .. }, Value::Integer(whole)) => Value::Float(*whole as f64),
                _ => value.clone(),
            };
            if !parameter.domain.contains(&value) {
                let range = parameter.domain.to_string();
                return Err(SettingsError::Range { name: name.clone(), value, range });
            }
            configuration.0.insert(name.clone(), value);
        }
        Ok(configuration)
    }

    /// A model of the kind with these settings, not calibrated yet; guarded as those of a [kind](crate::registry::Kind::model)
    /// are.
    pub fn trial(&self, configuration: &Configuration) -> Box<dyn Model> {
        Box::new(Guarded::around((self.model)(configuration)))
    }

    /// A model of the kind with these settings, calibrated where the kind is.
    pub fn finished(&self, kind: &'static str, configuration: &Configuration) -> Box<dyn Model> {
        let model = (self.model)(configuration);
        if self.calibrated { Box::new(Auto::of(kind, vec![model])) } else { model }
    }
}

impl SettingsError {
    /// The setting that is wrong, if it is a single one.
    pub fn name(&self) -> Option<&str> {
        match self {
            SettingsError::NoSettings { .. } => None,
            SettingsError::Unknown { name, .. } | SettingsError::Range { name, .. } => Some(name),
        }
    }
}

/// Parts of the end of a history, forecast by models that have not seen them: the folds by which `auto` weighs its models.
pub struct Validation<'a> {
    panel: &'a Panel,
    task: &'a Task,
    folds: Vec<Fold>,
}

impl<'a> Validation<'a> {
    /// That of a panel, all of which may be known; `None` where its history is too short to keep anything from a model.
    pub fn new(panel: &'a Panel, task: &'a Task) -> Option<Validation<'a>> {
        let folds = folds(panel, task);
        (!folds.is_empty()).then_some(Validation { panel, task, folds })
    }

    /// Intervals that the longest series of a panel has to have.
    pub fn needed(panel: &Panel, horizon: usize) -> usize {
        needed(panel.frequency, horizon)
    }

    /// The newest origin that models are scored from; `None` where [`new`](Validation::new) gives none, too.
    pub fn last_origin(panel: &Panel, task: &Task) -> Option<Micros> {
        folds(panel, task).last()?.origins.last().copied()
    }

    /// Number of parts.
    pub fn folds(&self) -> usize {
        self.folds.len()
    }

    /// The mean weighted quantile loss of a model over the parts, the oldest of which comes first. After each, the mean so
    /// far is reported by its number, from 1. Seasonal naive stands in where the model has no forecast, as in inference:
    /// so all models are scored on the same points.
    ///
    /// # Errors
    /// The model cannot be fitted, there is nothing to score it by, or it was told to stop.
    pub fn loss(
        &self,
        model: &dyn Model,
        progress: Progress<'_>,
        report: &mut dyn FnMut(u64, f64) -> Decision,
    ) -> Result<f64, Stop> {
        let mut sum = 0.0;
        for (number, fold) in (1..).zip(&self.folds) {
            let known = self.panel.cut(fold.cut);
            let fitted = model.fit(&known, self.task, progress).map_err(|error| Stop::Failed(error.to_string()))?;
            let shown = WithStandIn { model: fitted, naive: baseline(self.panel.frequency) };
            let found = evaluate(&shown, self.panel, &fold.origins, self.task.horizon).wql;
            sum += found.ok_or_else(|| Stop::Failed("there is no value to score it by, or all are 0".to_owned()))?;
            report(number, sum / number as f64).go_on()?;
        }
        Ok(sum / self.folds.len() as f64)
    }
}

/// A model whose gaps seasonal naive fills.
pub struct WithStandIn {
    /// The model.
    pub model: Box<dyn Forecaster>,
    /// What stands in.
    pub naive: Guarded<SeasonalNaive>,
}

impl Forecaster for WithStandIn {
    fn name(&self) -> &str {
        self.model.name()
    }

    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        let mut forecasts = self.model.forecast(panel, horizon);
        if forecasts.iter().any(Result::is_err) {
            for (forecast, stand_in) in forecasts.iter_mut().zip(self.naive.forecast(panel, horizon)) {
                if forecast.is_err() {
                    *forecast = stand_in;
                }
            }
        }
        forecasts
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use jiff::tz::TimeZone;
    use meterline_schemas::Frequency;
    use meterline_schemas::time::DAY;

    use super::*;
    use crate::data::Series;
    use crate::registry::{KINDS, find};
    use crate::search::{Pruning, Space, minimise};

    fn settings(of: &[(&str, Value)]) -> Settings {
        of.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn each_kind_that_has_settings_makes_a_model_of_any_of_them() {
        let tuned: Vec<_> = KINDS.iter().filter_map(|kind| Some((kind, kind.tuning.as_ref()?))).collect();
        assert!(tuned.len() >= 4);
        for (kind, tuning) in tuned {
            let parameters = (tuning.parameters)();
            Space::new(parameters.clone()).unwrap();
            for end in [0.0, 1.0] {
                let all = parameters.iter().map(|parameter| (parameter.name.clone(), parameter.domain.at(end)));
                assert_eq!(kind.with(&all.collect()).unwrap().name(), kind.name);
            }
        }
    }

    #[test]
    fn settings_are_checked_by_name_type_and_range() {
        let trees = find("boosted_trees").unwrap();
        let wrong = |name: &str, value| trees.with(&settings(&[(name, value)])).err().map(|error| error.to_string());
        assert_eq!(wrong("leaves_max", Value::Integer(8)), None);
        assert_eq!(wrong("leaf_l2", Value::Integer(1)), None, "a whole number is a number");
        for (name, value, words) in [
            ("leaves", Value::Integer(8), "no setting `leaves`; it has rounds, learning_rate"),
            ("leaves_max", Value::Integer(1), "leaves_max is 1; it must be a whole number from 4 to 127"),
            ("leaves_max", Value::Float(8.0), "leaves_max is 8.0; it must be a whole number"),
            (
                "learning_rate",
                Value::Choice("low".into()),
                "learning_rate is \"low\"; it must be a number from 0.01 to 0.3",
            ),
        ] {
            let error = wrong(name, value).unwrap();
            assert!(error.contains(words), "{error}");
        }
        let error = find("ets").unwrap().with(&settings(&[("x", Value::Integer(1))])).err().unwrap();
        assert!(error.to_string().contains("`ets` has no settings"), "{error}");
    }

    // Each day is like the one a week before, and the newest weeks say most.
    fn panel() -> Panel {
        let value = |at: usize| (at % 24) as f32 + 3.0 * (at / 24 % 7) as f32 + ((at * 7919) % 13) as f32 / 10.0;
        let series =
            vec![Series::new("a", 0, (0..70 * 24).map(value).collect()), Series::new("young", 0, vec![1.0; 30])];
        Panel::new(Frequency::HOUR, TimeZone::UTC, series)
    }

    #[test]
    fn a_search_over_the_settings_of_a_kind_tries_them_on_days_that_models_have_not_seen() {
        let (panel, task) = (panel(), Task::new(24, 7 * 24, 1));
        let validation = Validation::new(&panel, &task).unwrap();
        let tuning = find("linear_quantile").unwrap().tuning.as_ref().unwrap();
        let space = Space::new((tuning.parameters)()).unwrap();
        let settings =
            crate::search::Settings { trials_max: 3, startup_trials: 3, pruning: Pruning::Never, ..Default::default() };
        let mut objective = |configuration: &Configuration, report: &mut dyn FnMut(u64, f64) -> Decision| {
            let model = (tuning.model)(configuration);
            validation.loss(&*model, &mut |_| ControlFlow::Continue(()), report)
        };
        let study = minimise(&space, &settings, Vec::new(), &|| false, &mut objective, &mut |_| {}).unwrap();
        assert!(study.trials.iter().all(|trial| trial.intermediate.len() == validation.folds()), "{:?}", study.trials);
        let best = study.best().unwrap().loss().unwrap();
        assert!((0.0..0.2).contains(&best), "{best}");
        let short = panel.newest(20 * 24);
        assert!(Validation::new(&short, &task).is_none());
        let origins = [&panel, &short].map(|panel| Validation::last_origin(panel, &task));
        assert_eq!(origins, [Some(69 * DAY), None]);
    }
}
