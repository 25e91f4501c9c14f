//! All kinds of models by name. To add one: a file below `forecasters/` with a [`Model`] and its fitted [`Forecaster`],
//! and a line in [`KINDS`].

use meterline_schemas::Frequency;
use meterline_schemas::settings::Settings;

use crate::artifact::{ArtifactError, kind_of};
use crate::data::Panel;
use crate::design;
use crate::device::Device;
use crate::forecaster::{Forecaster, Model, Task};
use crate::forecasters::adjusted::{Adjusted, FittedAdjusted};
use crate::forecasters::auto::{Auto, FittedAuto, follow};
use crate::forecasters::boosted_trees::{BoostedSpec, BoostedTrees, FittedTrees};
use crate::forecasters::classical::{self, Classical, FittedClassical};
use crate::forecasters::feature_mlp::{FeatureMlp, FittedFeatureMlp};
use crate::forecasters::guarded::Guarded;
use crate::forecasters::linear_quantile::{FittedLinear, LinearQuantile, LinearSpec};
use crate::forecasters::quantile_mlp::{Mlp, QuantileMlp};
use crate::forecasters::seasonal_naive::{ByDayType, SeasonalNaive};
use crate::forecasters::window_linear::{FittedWindow, WindowLinear};
use crate::forecasters::{
    adjusted, auto, boosted_trees, direct, feature_mlp, linear_quantile, quantile_mlp, seasonal_naive, window_linear,
};
use crate::statistics::Method;
use crate::tuning::{SettingsError, Tuning};

/// Reads an artifact; networks are put on the device.
pub type Load = fn(&[u8], Device) -> Result<Box<dyn Forecaster>, ArtifactError>;

/// What models of a kind make use of beside the values of a series and the calendar: each of these is more than the one
/// before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sees {
    /// Nothing.
    Values,
    /// Days off.
    DaysOff,
    /// Covariates that are known ahead, of series that have them without a gap, and days off.
    Ahead,
    /// All covariates, days off, and where the sun stands.
    Covariates,
    /// All covariates, days off, where the sun stands, and labels of series.
    All,
}

impl Sees {
    /// In words; empty for nothing.
    pub const fn words(self) -> &'static str {
        match self {
            Sees::Values => "",
            Sees::DaysOff => "days off",
            Sees::Ahead => "covariates known ahead, days off",
            Sees::Covariates => "covariates, days off, sun",
            Sees::All => "covariates, days off, sun, labels",
        }
    }
}

/// One kind of model.
pub struct Kind {
    /// Its name in the configuration, in tables and in artifacts.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Makes one with its usual settings.
    pub model: fn() -> Box<dyn Model>,
    /// Reads an artifact of this kind.
    pub load: Load,
    /// Values before its origin that a forecast looks at, at most.
    pub lookback: fn(Frequency, &Task) -> usize,
    /// Intervals of history that some series must have for one to be fitted, about, by a panel, of which frequency and
    /// covariates count; it may be one without series.
    pub needs: fn(&Panel, &Task) -> usize,
    /// What can be set of it, and searched for; `None` for one without settings.
    pub tuning: Option<Tuning>,
    /// What it makes use of beside the values.
    pub sees: Sees,
}

impl Kind {
    /// One with its usual settings, [guarded](crate::forecasters::guarded).
    pub fn model(&self) -> Box<dyn Model> {
        Box::new(Guarded::around((self.model)()))
    }

    /// One with these settings, and the usual ones for the rest; else as [`Kind::model`].
    ///
    /// # Errors
    /// It has no such setting, or one is outside its range.
    pub fn with(&self, settings: &Settings) -> Result<Box<dyn Model>, SettingsError> {
        if settings.is_empty() {
            return Ok(self.model());
        }
        let tuning = self.tuning.as_ref().ok_or(SettingsError::NoSettings { kind: self.name })?;
        let model = tuning.finished(self.name, &tuning.configuration(self.name, settings)?);
        Ok(Box::new(Guarded::around(model)))
    }

    /// Intervals of history that some series must have for one to be fitted, about: with less, building one fails.
    pub fn needs(&self, panel: &Panel, task: &Task) -> usize {
        (self.needs)(panel, task)
    }

    /// Values before its origin that a forecast looks at, at most: with fewer it may be another one.
    pub fn lookback(&self, frequency: Frequency, task: &Task) -> usize {
        (self.lookback)(frequency, task)
    }
}

/// All kinds, by name.
pub const KINDS: &[Kind] = &[
    Kind {
        name: adjusted::NAME_OF_LINEAR,
        about: "linear quantile regression of what calendar and weather leave; from a year on",
        model: || Box::new(Auto::calibrated(Adjusted::linear())),
        load: |bytes, device| Ok(Box::new(FittedAdjusted::from_bytes(bytes, device)?)),
        lookback: calibrated,
        needs: |panel, task| design::year(panel.frequency).max(linear_quantile::needs(panel, task)),
        tuning: None,
        sees: Sees::Covariates,
    },
    Kind {
        name: adjusted::NAME_OF_MLP,
        about: "a small network on what calendar and weather leave; from a year on",
        model: || Box::new(Auto::calibrated(Adjusted::mlp())),
        load: |bytes, device| Ok(Box::new(FittedAdjusted::from_bytes(bytes, device)?)),
        lookback: calibrated,
        needs: |panel, task| design::year(panel.frequency).max(direct::needs(panel, task.horizon)),
        tuning: None,
        sees: Sees::All,
    },
    Kind {
        name: adjusted::NAME_OF_TREES,
        about: "gradient-boosted trees on what calendar and weather leave; from a year on",
        model: || Box::new(Auto::calibrated(Adjusted::trees())),
        load: |bytes, device| Ok(Box::new(FittedAdjusted::from_bytes(bytes, device)?)),
        lookback: calibrated,
        needs: |panel, task| design::year(panel.frequency).max(direct::needs(panel, task.horizon)),
        tuning: None,
        sees: Sees::All,
    },
    Kind {
        name: auto::NAME,
        about: "several models, weighted by what they forecast of days that they had not seen, and calibrated",
        model: || Box::new(Auto::default()),
        load: |bytes, device| Ok(Box::new(FittedAuto::from_bytes(bytes, device)?)),
        lookback: |frequency, task| {
            let of_windows = window_linear::lookback(frequency);
            let of_members = classical::lookback(frequency).max(design::lookback(frequency)).max(of_windows);
            of_members.max(task.context) + follow::lookback(frequency, task.horizon)
        },
        needs: of_seasons,
        tuning: None,
        sees: Sees::All,
    },
    Kind {
        name: boosted_trees::NAME_OF_RESIDUALS,
        about: "gradient-boosted trees on the errors of the linear model",
        model: || Box::new(Auto::calibrated(BoostedTrees::on_residuals())),
        load: |bytes, _| Ok(Box::new(FittedTrees::from_bytes(bytes)?)),
        lookback: calibrated,
        needs: |panel, task| linear_quantile::needs(panel, task),
        tuning: Some(Tuning {
            parameters: BoostedSpec::parameters,
            model: |settings| {
                let spec = BoostedTrees::on_residuals().spec.with(settings);
                Box::new(BoostedTrees { spec })
            },
            calibrated: true,
        }),
        sees: Sees::All,
    },
    Kind {
        name: boosted_trees::NAME,
        about: "gradient-boosted trees for all series, steps and quantiles at once",
        model: || Box::new(Auto::calibrated(BoostedTrees::default())),
        load: |bytes, _| Ok(Box::new(FittedTrees::from_bytes(bytes)?)),
        lookback: calibrated,
        needs: |panel, task| direct::needs(panel, task.horizon),
        tuning: Some(Tuning {
            parameters: BoostedSpec::parameters,
            model: |settings| {
                let spec = BoostedTrees::default().spec.with(settings);
                Box::new(BoostedTrees { spec })
            },
            calibrated: true,
        }),
        sees: Sees::All,
    },
    classical(
        "croston",
        "sizes of demands and the time between them, smoothed; for demand that is mostly zero",
        Sees::Values,
        || Box::new(Classical { method: Method::Croston }),
    ),
    classical("drift", "the line through the first and the last value goes on", Sees::Values, || {
        Box::new(Classical { method: Method::Drift })
    }),
    classical("ets", "exponential smoothing", Sees::Values, || Box::new(Classical { method: Method::Ets })),
    Kind {
        name: feature_mlp::NAME,
        about: "a small network on the features of linear models and trees, for all series at once, on a GPU where there is one",
        model: || Box::new(Auto::calibrated(FeatureMlp::default())),
        load: |bytes, device| Ok(Box::new(FittedFeatureMlp::from_bytes(bytes, device)?)),
        lookback: calibrated,
        needs: |panel, task| direct::needs(panel, task.horizon),
        tuning: Some(Tuning {
            parameters: FeatureMlp::parameters,
            model: |settings| Box::new(FeatureMlp::with(settings)),
            calibrated: true,
        }),
        sees: Sees::All,
    },
    Kind {
        name: linear_quantile::NAME_OF_SHARED,
        about: "linear quantile regression of each part of the day, one for all series, new ones too",
        model: || Box::new(Auto::calibrated(LinearQuantile { spec: LinearSpec::shared() })),
        load: |bytes, _| Ok(Box::new(FittedLinear::from_bytes(bytes)?)),
        lookback: calibrated,
        needs: |panel, task| direct::needs(panel, task.horizon),
        tuning: Some(Tuning {
            parameters: LinearSpec::parameters,
            model: |settings| Box::new(LinearQuantile { spec: LinearSpec::shared().with(settings) }),
            calibrated: true,
        }),
        sees: Sees::All,
    },
    classical("harmonic", "Fourier terms with autoregressive errors", Sees::Ahead, || {
        Box::new(Classical { method: Method::Harmonic })
    }),
    Kind {
        name: linear_quantile::NAME,
        about: "linear quantile regression of each series and part of the day",
        model: || Box::new(Auto::calibrated(LinearQuantile::default())),
        load: |bytes, _| Ok(Box::new(FittedLinear::from_bytes(bytes)?)),
        lookback: calibrated,
        needs: |panel, task| linear_quantile::needs(panel, task),
        tuning: Some(Tuning {
            parameters: LinearSpec::parameters,
            model: |settings| Box::new(LinearQuantile { spec: LinearSpec::default().with(settings) }),
            calibrated: true,
        }),
        sees: Sees::Covariates,
    },
    classical("mstl", "decomposition into several seasons, trend and rest", Sees::Values, || {
        Box::new(Classical { method: Method::Mstl })
    }),
    classical("naive", "the last value comes again", Sees::Values, || Box::new(Classical { method: Method::Naive })),
    classical("prophet", "piecewise linear trend and Fourier terms", Sees::Ahead, || {
        Box::new(Classical { method: Method::Prophet })
    }),
    Kind {
        name: quantile_mlp::NAME,
        about: "a network without recurrence for all series at once, on a GPU where there is one",
        model: || Box::new(Mlp::default()),
        load: |bytes, device| Ok(Box::new(QuantileMlp::from_bytes(bytes, &device)?)),
        lookback: |_, task| task.context,
        needs: |panel, task| task.context + panel.frequency.season().max(task.horizon),
        tuning: Some(Tuning {
            parameters: Mlp::parameters,
            model: |settings| Box::new(Mlp::with(settings)),
            calibrated: false,
        }),
        sees: Sees::Values,
    },
    classical("sba", "as croston, without the bias of its ratio", Sees::Values, || {
        Box::new(Classical { method: Method::Sba })
    }),
    Kind {
        name: seasonal_naive::NAME,
        about: "what was one season ago comes again: the baseline; with days off, what was on the newest day of the same type",
        model: || Box::new(ByDayType),
        load: |bytes, _| Ok(Box::new(SeasonalNaive::from_bytes(bytes)?)),
        lookback: |frequency, task| SeasonalNaive::lookback(frequency, task.horizon),
        needs: of_seasons,
        tuning: None,
        sees: Sees::DaysOff,
    },
    classical("theta", "dynamic optimised Theta", Sees::Values, || Box::new(Classical { method: Method::Theta })),
    classical("tsb", "as croston, by the probability of a demand, which fades once demand ends", Sees::Values, || {
        Box::new(Classical { method: Method::Tsb })
    }),
    Kind {
        name: window_linear::NAME,
        about: "one linear map from the newest values to all steps, for all series; from any time of day",
        model: || Box::new(WindowLinear),
        load: |bytes, _| Ok(Box::new(FittedWindow::from_bytes(bytes)?)),
        lookback: |frequency, _| window_linear::lookback(frequency),
        needs: |panel, task| window_linear::needs(panel.frequency, task.horizon),
        tuning: None,
        sees: Sees::Values,
    },
];

// Of a model on features that is calibrated, and follows what comes true.
fn calibrated(frequency: Frequency, task: &Task) -> usize {
    design::lookback(frequency) + follow::lookback(frequency, task.horizon)
}

// Of a model that makes do with whatever there is: fewer than two seasons tell nothing of one.
fn of_seasons(panel: &Panel, _: &Task) -> usize {
    2 * panel.frequency.season()
}

const fn classical(name: &'static str, about: &'static str, sees: Sees, model: fn() -> Box<dyn Model>) -> Kind {
    Kind {
        name,
        about,
        model,
        load: |bytes, _| Ok(Box::new(FittedClassical::from_bytes(bytes)?)),
        lookback: |frequency, _| classical::lookback(frequency),
        needs: of_seasons,
        tuning: None,
        sees,
    }
}

/// The kind of this name.
pub fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// Reads an artifact of any kind; `device` is where networks are put. It is guarded as what a [`Kind::model`]
/// becomes is.
///
/// # Errors
/// It is none, or damaged, or of another program.
pub fn load(bytes: &[u8], device: Device) -> Result<Box<dyn Forecaster>, ArtifactError> {
    Ok(Box::new(Guarded::around(load_part(bytes, device)?)))
}

/// Reads the artifact of a model within another one, which may forecast what that leaves.
pub(crate) fn load_part(bytes: &[u8], device: Device) -> Result<Box<dyn Forecaster>, ArtifactError> {
    let name = kind_of(bytes)?;
    match find(name) {
        Some(kind) => (kind.load)(bytes, device),
        None => Err(ArtifactError::Kind(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ops::ControlFlow;

    use jiff::tz::TimeZone;
    use meterline_schemas::quantiles::MEDIAN;
    use meterline_schemas::settings::Value;
    use meterline_schemas::time::HOUR;
    use rayon::prelude::*;

    use super::*;
    use crate::data::{Column, Covariate, Known, Series};
    use crate::forecaster::NoForecast;

    // Days that a kind is fitted to: more than a year, where it needs one.
    fn days(kind: &Kind) -> i64 {
        if kind.name.starts_with("adjusted_") { 400 } else { 70 }
    }

    const HORIZON: usize = 24;

    // Load that follows the hour, the day of the week and the temperature, which is known ahead; and the voltage, which is
    // not.
    fn panel(days: i64) -> Panel {
        let hours = 24 * (days + 3);
        let temperature = |hour: i64| 10.0 + 8.0 * (hour as f32 / 200.0).sin() + ((hour * 7919) % 13) as f32 / 10.0;
        let load = |hour: i64, size: f32| {
            let of_day = ((hour % 24) as f32 / 24.0 * std::f32::consts::TAU).sin();
            size * (20.0 + 5.0 * of_day + ((hour / 24) % 7) as f32 - 0.3 * temperature(hour))
        };
        let series = |id: &str, size: f32| {
            let mut series = Series::new(id, 0, (0..hours).map(|hour| load(hour, size)).collect());
            let column = |values: &dyn Fn(i64) -> f32| Column { offset: 0, values: (0..hours).map(values).collect() };
            series.covariates = vec![column(&temperature), column(&|hour| 230.0 + ((hour * 31) % 7) as f32)];
            series.labels = vec![Some("day".into())];
            series
        };
        let covariate = |name: &str, known| Covariate { name: name.into(), known };
        Panel {
            covariates: vec![covariate("temperature", Known::Ahead), covariate("voltage", Known::Past)],
            labels: vec!["tariff".into()],
            ..Panel::new(Frequency::HOUR, TimeZone::UTC, vec![series("a", 1.0), series("b", 10.0)])
        }
    }

    // The same, but for what a forecast from the end of these days must not see.
    fn poisoned(days: i64) -> Panel {
        let mut panel = panel(days);
        let end = 24 * days as usize;
        for series in &mut panel.series {
            series.values[end..].fill(1e9);
            let mut temperature = series.covariates[0].values.to_vec();
            temperature[end + HORIZON..].fill(-1e9);
            series.covariates[0].values = temperature.into();
            let mut voltage = series.covariates[1].values.to_vec();
            voltage[end..].fill(1e9);
            series.covariates[1].values = voltage.into();
        }
        panel
    }

    // The same, but for the temperature within the horizon of such a forecast.
    fn colder(days: i64) -> Panel {
        let mut panel = panel(days);
        for series in &mut panel.series {
            let mut temperature = series.covariates[0].values.to_vec();
            temperature[24 * days as usize..].iter_mut().for_each(|value| *value -= 5.0);
            series.covariates[0].values = temperature.into();
        }
        panel
    }

    #[test]
    fn names_are_their_own_and_in_order() {
        let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        assert_eq!(names.iter().copied().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>(), names);
        assert!(find("crystal_ball").is_none());
    }

    #[test]
    fn a_kind_can_be_fitted_to_as_much_history_as_it_says_that_it_needs() {
        let whole = panel(400);
        let copy = |number: usize| Series { id: format!("s{number}"), ..whole.series[number % 2].clone() };
        let task = Task { origins_a_day: 4, ..Task::new(48, 7 * 24, 1) };
        for kind in KINDS.iter().filter(|kind| kind.name != auto::NAME) {
            // What all share is learned from several.
            let series = if kind.name == linear_quantile::NAME_OF_SHARED { 12 } else { 1 };
            let all = whole.with((0..series).map(copy).collect());
            let needs = kind.needs(&all.with(Vec::new()), &task);
            let fit = |hours: usize| {
                let known = all.cut(hours as i64 * HOUR);
                kind.model().fit(&known, &task, &mut |_| ControlFlow::Continue(())).err()
            };
            assert_eq!(fit(needs), None, "{} {needs}", kind.name);
            // Those that need no more than two days make do with less.
            assert!(needs == 2 * 24 || fit(needs / 2).is_some(), "{} {needs}", kind.name);
        }
    }

    #[test]
    fn kinds_for_demand_that_is_mostly_zero_forecast_its_rate_and_refuse_what_is_below_zero() {
        let demand = |hour: usize| if hour.is_multiple_of(5) { 10.0 } else { 0.0 };
        let demands = Series::new("a", 0, (0..70 * 24).map(demand).collect());
        let mut below = demands.clone();
        below.values[7] = -1.0;
        let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, vec![demands, below]);
        let task = Task::new(HORIZON, 7 * 24, 1);
        for name in ["croston", "sba", "tsb"] {
            let fitted = find(name).unwrap().model().fit(&panel, &task, &mut |_| ControlFlow::Continue(())).unwrap();
            let forecasts = load(&fitted.artifact().unwrap(), Device::Cpu).unwrap().forecast(&panel, HORIZON);
            let forecast = forecasts[0].as_ref().unwrap();
            assert!(forecast.mean.iter().all(|mean| (mean - 2.0).abs() < 0.6), "{name} {:?}", forecast.mean);
            assert!(forecast.quantiles.iter().all(|row| row[MEDIAN] == 0.0), "{name}");
            assert_eq!(forecasts[1], Err(NoForecast::BelowZero), "{name}");
        }
    }

    #[test]
    fn what_no_meter_can_have_meant_is_missing_for_kinds_and_what_is_read_of_them() {
        let value = |hour: usize| if hour == 590 { 1e6 } else { 10.0 + (hour % 24) as f32 + (hour % 5) as f32 };
        let series = Series::new("a", 0, (0..600).map(value).collect());
        let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, vec![series]);
        let task = Task::new(HORIZON, 7 * 24, 1);
        let few = Settings::from([("rounds".to_owned(), Value::Integer(50))]);
        for (name, settings) in [("seasonal_naive", Settings::new()), ("mstl", Settings::new()), ("boosted_trees", few)]
        {
            let model = find(name).unwrap().with(&settings).unwrap();
            let fitted = model.fit(&panel, &task, &mut |_| ControlFlow::Continue(())).unwrap();
            let read = load(&fitted.artifact().unwrap(), Device::Cpu).unwrap();
            for fitted in [fitted, read] {
                let forecast = fitted.forecast(&panel, HORIZON).remove(0).unwrap();
                assert!(forecast.quantiles.as_flattened().iter().all(|value| *value < 200.0), "{name}");
            }
        }
    }

    #[test]
    fn every_kind_forecasts_sees_no_future_and_is_kept() {
        let task = Task::new(HORIZON, 7 * 24, 1);
        KINDS.par_iter().for_each(|kind| {
            let days = days(kind);
            let origin = days * 24 * HOUR;
            let fit = |panel: &Panel| {
                kind.model().fit(&panel.cut(origin), &task, &mut |_| ControlFlow::Continue(())).unwrap()
            };
            let fitted = fit(&panel(days));
            let forecasts = fitted.forecast(&panel(days).cut(origin), HORIZON);
            for forecast in &forecasts {
                let forecast = forecast.as_ref().unwrap();
                assert_eq!((forecast.mean.len(), forecast.quantiles.len()), (HORIZON, HORIZON), "{}", kind.name);
            }
            assert_eq!(fit(&poisoned(days)).forecast(&poisoned(days).cut(origin), HORIZON), forecasts, "{}", kind.name);
            let kept = load(&fitted.artifact().unwrap(), Device::Cpu).unwrap();
            assert_eq!(kept.forecast(&panel(days).cut(origin), HORIZON), forecasts, "{}", kind.name);
            // At the end of what it was fitted to, what is forecast of a series does not depend on which others are forecast
            // beside it. Later, intervals follow what came true of some of them.
            assert_eq!(kept.forecast(&panel(days).cut_of(1..2, origin), HORIZON), forecasts[1..], "{}", kind.name);
            // Some days after the fit, when what came true since may count.
            let later = days + 2;
            let then = |panel: Panel| kept.forecast(&panel.cut(origin + 2 * 24 * HOUR), HORIZON);
            assert_eq!(then(poisoned(later)), fitted.forecast(&panel(later).cut(origin + 2 * 24 * HOUR), HORIZON));
            let is_moved = kept.forecast(&colder(days).cut(origin), HORIZON) != forecasts;
            // Of several models, those may have been chosen that make no use of it.
            let may_be_still = kind.sees < Sees::Ahead || kind.name == auto::NAME;
            assert!(if is_moved { kind.sees >= Sees::Ahead } else { may_be_still }, "{}", kind.name);
            // As much history as it says it needs is enough.
            let newest = panel(days).cut(origin).newest(kind.lookback(Frequency::HOUR, &task));
            for (all, some) in forecasts.iter().zip(kept.forecast(&newest, HORIZON)) {
                let (all, some) = (all.as_ref().unwrap(), some.unwrap());
                // The baseline knows of more errors, which its median does not look at.
                for (all, some) in all.quantiles.iter().zip(&some.quantiles) {
                    let (all, some) = (all[MEDIAN], some[MEDIAN]);
                    assert!((all - some).abs() < 0.02 * all.abs(), "{}: {all} {some}", kind.name);
                }
            }
        });
    }
}
