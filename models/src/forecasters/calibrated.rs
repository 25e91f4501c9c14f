//! A model whose quantiles are corrected by what they missed on days that it had not seen.
//!
//! The model is fitted twice: to the panel without its newest days, to forecast those from each of their origins and to
//! learn corrections from that ([`Conformal`]: by series, part of the horizon and level), and to the whole panel, whose
//! forecasts are corrected. Corrections of the first count for the second because both see almost the same.

use std::collections::BTreeMap;

use meterline_schemas::Micros;
use meterline_schemas::quantiles::LEVELS;

use crate::calibrate::Rows;
use crate::calibrate::conformal::{Conformal, Options};
use crate::data::Panel;
use crate::forecaster::{FitError, Forecaster, Model, NoForecast, Progress, SeriesForecast, Task};
use crate::metrics::mean_of_quantiles;

/// Most origins that corrections are learned from, a season (a day, where there are several intervals in it) apart.
const ORIGINS: usize = 56;
/// Part of the longest history that may be kept from the first fit.
const HELD_OUT: usize = 5;
/// Parts of the horizon that have corrections of their own.
const BUCKETS: usize = 8;

/// The kind of model that it wraps, calibrated. It goes by the same name.
#[derive(Debug, Clone, Default)]
pub struct Calibrated<M> {
    /// The model.
    pub model: M,
}

impl<M: Model> Model for Calibrated<M> {
    fn name(&self) -> &str {
        self.model.name()
    }

    /// Where the history is too short to keep anything from the model, its quantiles stay as they are.
    fn fit(&self, panel: &Panel, task: &Task, progress: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
        let origins = origins(panel, task.horizon);
        let conformal = match origins.first() {
            Some(first) => match self.model.fit(&panel.cut(*first), task, &mut |share| progress(share / 2.0)) {
                Ok(fitted) => Some(learn(fitted.as_ref(), panel, &origins, task.horizon)?),
                Err(FitError::TooShort { .. }) => None,
                Err(error) => return Err(error),
            },
            None => None,
        };
        let fitted = self.model.fit(panel, task, &mut |share| progress(0.5 + share / 2.0))?;
        Ok(match conformal {
            Some(conformal) => {
                let groups = panel.series.iter().enumerate().map(|(number, series)| (series.id.clone(), number as u32));
                Box::new(FittedCalibrated { fitted, conformal, groups: groups.collect(), horizon: task.horizon })
            }
            None => fitted,
        })
    }
}

// The origins whose forecasts can be compared with all that came after them; none where there are too few.
fn origins(panel: &Panel, horizon: usize) -> Vec<Micros> {
    let Some(end) = panel.series.iter().map(|series| series.origin(panel.frequency, &panel.zone)).max() else {
        return Vec::new();
    };
    let longest = panel.series.iter().map(|series| series.values.len()).max().unwrap_or(0);
    let apart = panel.frequency.season().max(1);
    let count = ORIGINS.min((longest / HELD_OUT).saturating_sub(horizon) / apart);
    if count < Options::default().blocks_min {
        return Vec::new();
    }
    let origin = |back: usize| panel.frequency.advance(end, -((horizon + back * apart) as i64), &panel.zone);
    (0..count).rev().map(origin).collect()
}

fn bucket(step: usize, horizon: usize) -> u32 {
    (step * BUCKETS.min(horizon) / horizon.max(1)) as u32
}

fn learn(fitted: &dyn Forecaster, panel: &Panel, origins: &[Micros], horizon: usize) -> Result<Conformal, FitError> {
    let mut learned = Learned::default();
    let apart = panel.frequency.season().max(1);
    for (number, origin) in origins.iter().enumerate() {
        let known = panel.cut(*origin);
        // Forecasts that overlap err alike.
        let block = number * apart / horizon.max(apart);
        for (number, forecast) in fitted.forecast(&known, horizon).into_iter().enumerate() {
            let (Ok(forecast), Some(series)) = (forecast, panel.series.get(number)) else { continue };
            let from = known.series[number].values.len();
            let actuals = series.values.get(from..).unwrap_or_default();
            for (step, (actual, quantiles)) in actuals.iter().zip(&forecast.quantiles).enumerate() {
                learned.quantiles.extend_from_slice(quantiles);
                learned.actuals.push(f64::from(*actual));
                learned.groups.push(number as u32);
                learned.steps.push(bucket(step, horizon));
                learned.blocks.push(block as u32);
            }
        }
    }
    let weights = learned.weights(panel.series.len());
    let rows = Rows {
        quantiles: &learned.quantiles,
        actuals: &learned.actuals,
        groups: &learned.groups,
        steps: &learned.steps,
        row_weights: &weights,
        blocks: &learned.blocks,
    };
    let failed = |error| FitError::Failed { model: fitted.name().into(), reason: format!("calibration: {error}") };
    Conformal::fit(&LEVELS, &rows, &Options::default()).map_err(failed)
}

#[derive(Default)]
struct Learned {
    quantiles: Vec<f64>,
    actuals: Vec<f64>,
    groups: Vec<u32>,
    steps: Vec<u32>,
    blocks: Vec<u32>,
}

impl Learned {
    // Series count alike, whatever their size.
    fn weights(&self, series: usize) -> Vec<f64> {
        let mut sizes = vec![(0.0, 0.0); series];
        for (actual, group) in self.actuals.iter().zip(&self.groups).filter(|(actual, _)| actual.is_finite()) {
            let (sum, count) = &mut sizes[*group as usize];
            *sum += actual.abs();
            *count += 1.0;
        }
        let weight = |group: &u32| match sizes[*group as usize] {
            (sum, count) if sum > 0.0 => count / sum,
            _ => 0.0,
        };
        self.groups.iter().map(weight).collect()
    }
}

/// A fitted one.
struct FittedCalibrated {
    fitted: Box<dyn Forecaster>,
    conformal: Conformal,
    // Number of a series among those that corrections were learned from.
    groups: BTreeMap<String, u32>,
    horizon: usize,
}

impl Forecaster for FittedCalibrated {
    fn name(&self) -> &str {
        self.fitted.name()
    }

    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        let mut forecasts = self.fitted.forecast(panel, horizon);
        for (forecast, series) in forecasts.iter_mut().zip(&panel.series) {
            // A series that is new gets what holds for all together.
            let group = self.groups.get(&series.id).copied().unwrap_or(u32::MAX);
            let corrected = forecast.as_mut().map(|forecast| self.correct(group, forecast));
            if let Ok(Err(none)) = corrected {
                *forecast = Err(none);
            }
        }
        forecasts
    }
}

impl FittedCalibrated {
    fn correct(&self, group: u32, forecast: &mut SeriesForecast) -> Result<(), NoForecast> {
        for (step, (quantiles, mean)) in forecast.quantiles.iter_mut().zip(&mut forecast.mean).enumerate() {
            let step = bucket(step.min(self.horizon.saturating_sub(1)), self.horizon);
            self.conformal.apply(group, step, quantiles).map_err(|_| NoForecast::NotFinite)?;
            *mean = mean_of_quantiles(quantiles);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use jiff::tz::TimeZone;
    use meterline_schemas::Frequency;
    use meterline_schemas::quantiles::MEDIAN;

    use super::*;
    use crate::backtest::evaluate;
    use crate::holidays::Holidays;

    const DAY: usize = 24;

    // Says 100, and is much too sure of it.
    #[derive(Default)]
    struct Sure;

    impl Model for Sure {
        fn name(&self) -> &str {
            "sure"
        }

        fn fit(&self, panel: &Panel, _: &Task, _: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
            let longest = panel.series.iter().map(|series| series.values.len()).max().unwrap_or(0);
            match longest < 10 * DAY {
                true => Err(FitError::TooShort { model: "sure".into(), needed: 10 * DAY, longest, series: 2 }),
                false => Ok(Box::new(Sure)),
            }
        }
    }

    impl Forecaster for Sure {
        fn name(&self) -> &str {
            "sure"
        }

        fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
            let quantiles = vec![LEVELS.map(|level| 100.0 + (level - 0.5) * 0.1); horizon];
            let forecast = SeriesForecast { mean: vec![100.0; horizon], quantiles };
            panel.series.iter().map(|_| Ok(forecast.clone())).collect()
        }
    }

    // Uniform around 100, of one series by 10 and of the other by 15.
    fn panel(days: usize) -> Panel {
        let mut state = 7_u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
        };
        let mut series = |id: &str, spread: f32| {
            crate::data::Series::new(id, 0, (0..days * DAY).map(|_| 100.0 + spread * uniform()).collect())
        };
        let series = vec![series("calm", 20.0), series("wild", 30.0)];
        Panel::new(Frequency::HOUR, TimeZone::UTC, series)
    }

    fn fit(panel: &Panel) -> Box<dyn Forecaster> {
        let task = Task { horizon: DAY, seed: 1, holidays: Holidays::none() };
        Calibrated { model: Sure }.fit(panel, &task, &mut |_| ControlFlow::Continue(())).unwrap()
    }

    #[test]
    fn quantiles_cover_what_they_say_on_days_that_come_later() {
        let all = panel(300);
        let at = |day: usize| all.frequency.advance(0, (day * DAY) as i64, &all.zone);
        let origins: Vec<Micros> = (260..299).map(at).collect();
        let fitted = fit(&all.cut(origins[0]));
        let coverage = |model: &dyn Forecaster| evaluate(model, &all, &origins, DAY).coverage.unwrap();
        assert!(coverage(&Sure) < 0.05);
        assert!((coverage(fitted.as_ref()) - 0.8).abs() < 0.04, "{}", coverage(fitted.as_ref()));
        let width = |number: usize| {
            let quantiles = fitted.forecast(&all, DAY)[number].as_ref().unwrap().quantiles[5];
            assert!(quantiles.is_sorted() && (quantiles[MEDIAN] - 100.0).abs() < 8.0, "{quantiles:?}");
            quantiles[LEVELS.len() - 1] - quantiles[0]
        };
        assert!(width(1) > 1.1 * width(0), "each series has corrections of its own: {} {}", width(0), width(1));
    }

    #[test]
    fn short_histories_are_forecast_as_they_are() {
        for days in [10, 12, 20] {
            let all = panel(days);
            assert_eq!(fit(&all).forecast(&all, DAY), Sure.forecast(&all, DAY), "{days}");
        }
    }

    #[test]
    fn what_comes_after_an_origin_is_not_used_before_it() {
        let all = panel(100);
        let origins = origins(&all, DAY);
        assert_eq!(origins.len(), 19);
        let end = all.series[0].origin(all.frequency, &all.zone);
        assert_eq!(all.frequency.advance(origins[18], DAY as i64, &all.zone), end);
        assert!(origins.is_sorted());
    }
}
