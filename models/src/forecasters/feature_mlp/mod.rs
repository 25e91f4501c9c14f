//! A small network on the rows of [`Design`](crate::design::Design): one for all series, steps and quantile levels.
//!
//! Between lines, which know no interaction, and trees, which know no slope: load bends with the weather, by another curve
//! at each hour and on each kind of day, and goes on a little beyond what was seen. Several networks from different
//! beginnings are averaged, which errs less than any of them (Lakshminarayanan et al. 2017).
//!
//! `network` says how one is built, `training` how it learns, `scaled` what it is given.

mod network;
mod scaled;
mod training;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use burn::backend::{Autodiff, Flex};
use burn::tensor::backend::{AutodiffBackend, Backend};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

#[cfg(feature = "cuda")]
use burn::backend::{Cuda, cuda::CudaDevice};

use self::network::{Input, Network, Shape};
use self::scaled::Scaled;
use self::training::{Running, batches};
use super::direct::{self, Ahead, Sample, ahead, check_length, restored, too_short};
use super::neural::{Constants, OUTPUTS};
use crate::artifact::{self, ArtifactError};
use crate::data::Panel;
use crate::design::{DesignPart, Normal, Seen};
use crate::device::{Device, DeviceError};
use crate::forecaster::{Done, FitError, Forecaster, Model, NoForecast, Progress, SeriesForecast, Task};
use crate::linear::{Design as Matrix, LinearError, Problem, Standardised, default_lambdas, ridge};
use crate::search::{Configuration, Domain, Parameter};

/// Name of the kind.
pub(crate) const NAME: &str = "feature_mlp";
/// Raised whenever the features or what is kept of a model changes.
const FORMAT: u32 = 2;
/// Rows of one batch of a forecast.
const FORECAST_ROWS: usize = 32_768;
/// Progress is looked at so often while networks are trained.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureSpec {
    /// Networks whose quantiles are averaged.
    pub members: usize,
    /// Width of the hidden layers.
    pub hidden: usize,
    /// Numbers that are learned of each series.
    pub of_series: usize,
    /// Rows that are trained on at most; of more, origins further apart are taken.
    pub rows_max: usize,
    /// Rows of a batch.
    pub rows_per_batch: usize,
    /// Batches of a training, at most.
    pub batches: usize,
    /// Times that a row is seen, at most.
    pub epochs: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Share of the hidden units that are silent in each row of training, 0 to 0.9.
    pub dropout: f64,
    /// Decoupled weight decay.
    pub weight_decay: f32,
}

impl Default for FeatureSpec {
    fn default() -> FeatureSpec {
        FeatureSpec {
            members: 4,
            hidden: 64,
            of_series: 4,
            rows_max: 300_000,
            rows_per_batch: 512,
            batches: 3_000,
            epochs: 40,
            learning_rate: 2e-3,
            dropout: 0.1,
            weight_decay: 1e-2,
        }
    }
}

/// The kind of model.
#[derive(Debug, Clone, Default)]
pub struct FeatureMlp {
    /// How it is trained.
    pub spec: FeatureSpec,
}

impl FeatureMlp {
    /// What can be set of it.
    pub(crate) fn parameters() -> Vec<Parameter> {
        vec![
            Parameter::new("members", Domain::integer(1, 8)),
            Parameter::new("hidden", Domain::log_integer(8, 256)),
            Parameter::new("batches", Domain::log_integer(200, 20_000)),
            Parameter::new("epochs", Domain::log_integer(2, 200)),
            Parameter::new("learning_rate", Domain::log_float(2e-4, 2e-2)),
            Parameter::new("dropout", Domain::float(0.0, 0.5)),
            Parameter::new("weight_decay", Domain::log_float(1e-4, 0.1)),
        ]
    }

    /// The usual one, with these settings.
    pub(crate) fn with(settings: &Configuration) -> FeatureMlp {
        let mut spec = FeatureSpec::default();
        let mut weight_decay = f64::from(spec.weight_decay);
        settings.set_count("members", &mut spec.members);
        settings.set_count("hidden", &mut spec.hidden);
        settings.set_count("batches", &mut spec.batches);
        settings.set_count("epochs", &mut spec.epochs);
        settings.set_float("learning_rate", &mut spec.learning_rate);
        settings.set_float("dropout", &mut spec.dropout);
        settings.set_float("weight_decay", &mut weight_decay);
        spec.weight_decay = weight_decay as f32;
        FeatureMlp { spec }
    }
}

fn failed(reason: impl ToString) -> FitError {
    FitError::Failed { model: NAME.into(), reason: reason.to_string() }
}

impl Model for FeatureMlp {
    fn name(&self) -> &str {
        NAME
    }

    /// Where `progress` breaks, networks stay as they are by then.
    fn fit(&self, panel: &Panel, task: &Task, progress: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
        check_length(NAME, panel, task.horizon)?;
        let seen = Seen::of(panel);
        let mut rows = Rows::of(panel, &seen, task, self.spec.rows_max);
        if rows.targets.is_empty() {
            return Err(too_short(NAME, panel, task.horizon));
        }
        let scaled = Scaled::of(&rows.features, rows.width, &rows.targets);
        scaled.apply(&mut rows.features);
        let line = match Line::of(&rows) {
            Ok(line) => line,
            // None that counts.
            Err(LinearError::NoRows) => return Err(too_short(NAME, panel, task.horizon)),
            Err(error) => return Err(failed(error)),
        };
        let shape = Shape {
            features: rows.width,
            series: panel.series.len(),
            of_series: self.spec.of_series.max(1),
            hidden: self.spec.hidden.max(1),
        };
        let learned = match task.device {
            Device::Cpu => {
                train::<Autodiff<Flex>>(self, &rows, &line, &shape, task.seed, progress, &Default::default())
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(index) => {
                train::<Autodiff<Cuda>>(self, &rows, &line, &shape, task.seed, progress, &CudaDevice::new(index))
            }
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(index) => return Err(failed(DeviceError::NotBuilt(index))),
        };
        let kept = Kept {
            task: task.clone(),
            seen,
            numbers: (1..).zip(&panel.series).map(|(number, series)| (series.id.clone(), number)).collect(),
            scaled,
            unit: line.error,
            shape,
            weights: learned.map_err(failed)?,
        };
        Ok(Box::new(kept.placed(task.device).ok_or_else(|| failed("the trained weights could not be placed"))?))
    }
}

// Trains all networks side by side.
fn train<B: AutodiffBackend>(
    model: &FeatureMlp,
    rows: &Rows,
    line: &Line,
    shape: &Shape,
    seed: u64,
    progress: Progress<'_>,
    device: &B::Device,
) -> Result<Vec<Vec<f32>>, String> {
    let spec = &model.spec;
    let members = spec.members.max(1);
    let all = batches(rows.targets.len(), spec) * members;
    let running = Running::default();
    std::thread::scope(|scope| {
        let begin = |member: usize| {
            let seed = seed.wrapping_add(member as u64 * 7919);
            let running = &running;
            let fit = move || training::fit::<B>(rows, line, shape, spec, seed, running, device);
            std::thread::Builder::new().name(format!("{NAME} {member}")).spawn_scoped(scope, fit)
        };
        let threads: Vec<_> = match (0..members).map(begin).collect() {
            Ok(threads) => threads,
            Err(error) => {
                running.stop.store(true, Ordering::Relaxed);
                return Err(format!("cannot start a thread for each of {members} networks: {error}"));
            }
        };
        while threads.iter().any(|thread| !thread.is_finished()) {
            std::thread::sleep(LOOK_EVERY);
            let share = running.done.load(Ordering::Relaxed) as f64 / all as f64;
            if progress(Done::share(share)).is_break() {
                running.stop.store(true, Ordering::Relaxed);
            }
        }
        // All are waited for before any is looked at: a scope passes on the panic of one that nobody waited for.
        let ended: Vec<_> = threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        let ended: Result<Vec<_>, _> = ended.into_iter().collect();
        let ended = ended.map_err(|_| "a training panicked; its thread has said why on standard error".to_owned())?;
        // One that diverged leaves the others as they are.
        let learned: Vec<Vec<f32>> = ended.into_iter().flatten().collect();
        match learned.is_empty() {
            true => Err("training diverged: check the series for absurd values".to_owned()),
            false => Ok(learned),
        }
    })
}

/// Rows of all series, that are trained on.
struct Rows {
    features: Vec<f32>,
    width: usize,
    targets: Vec<f32>,
    weights: Vec<f32>,
    // Numbers of their series, from 1 on.
    series: Vec<i32>,
}

impl Rows {
    fn none(width: usize) -> Rows {
        Rows { features: Vec::new(), width, targets: Vec::new(), weights: Vec::new(), series: Vec::new() }
    }

    fn of(panel: &Panel, seen: &Seen, task: &Task, rows_max: usize) -> Rows {
        let mut rows = Rows::none(seen.names(panel, task).width());
        Sample::new(panel, task, rows_max).each_row(panel, seen, task, |number, row| {
            rows.features.extend_from_slice(row.features);
            rows.targets.push(row.target);
            rows.weights.push(row.weight);
            rows.series.push(number as i32 + 1);
        });
        rows
    }

    fn picked(&self, places: &[u32]) -> Rows {
        let mut rows = Rows::none(self.width);
        rows.features.reserve(places.len() * self.width);
        for place in places.iter().map(|place| *place as usize) {
            rows.features.extend_from_slice(&self.features[place * self.width..(place + 1) * self.width]);
            rows.targets.push(self.targets[place]);
            rows.weights.push(self.weights[place]);
            rows.series.push(self.series[place]);
        }
        rows
    }
}

/// The ridge regression that the network begins as.
struct Line {
    coefficients: Vec<f32>,
    base: f32,
    // Mean absolute error of the rows.
    error: f32,
}

impl Line {
    fn of(rows: &Rows) -> Result<Line, LinearError> {
        let design = Matrix::new(&rows.features, rows.width)?;
        let problem = Problem { design, target: &rows.targets, weights: Some(&rows.weights) };
        let ridge = ridge(&Standardised::new(&problem)?, &default_lambdas())?;
        let at_means: f64 = ridge.coefficients.iter().zip(&ridge.means).map(|(slope, mean)| slope * mean).sum();
        let base = ridge.base - at_means;
        let error = |(row, target): (&[f32], &f32)| {
            let line: f64 = row.iter().zip(&ridge.coefficients).map(|(value, slope)| slope * f64::from(*value)).sum();
            (f64::from(*target) - base - line).abs()
        };
        let sum: f64 = rows.features.chunks_exact(rows.width.max(1)).zip(&rows.targets).map(error).sum();
        Ok(Line {
            coefficients: ridge.coefficients.iter().map(|slope| *slope as f32).collect(),
            base: base as f32,
            error: ((sum / rows.targets.len() as f64) as f32).max(1e-6),
        })
    }
}

/// What is kept of a fitted one.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    task: Task,
    seen: Seen,
    // Numbers by which it knows series, from 1 on.
    numbers: BTreeMap<String, i32>,
    scaled: Scaled,
    unit: f32,
    shape: Shape,
    // Of each network.
    weights: Vec<Vec<f32>>,
}

impl Kept {
    // `None` if its parts do not go together.
    fn placed(self, device: Device) -> Option<FittedFeatureMlp> {
        let in_table = |number: &i32| (0..=self.shape.series).contains(&usize::try_from(*number).unwrap_or(usize::MAX));
        if !self.shape.is_sound()
            || self.weights.is_empty()
            || self.scaled.width() != self.shape.features
            || !self.numbers.values().all(in_table)
        {
            return None;
        }
        let networks = match device {
            Device::Cpu => Networks::Cpu(self.networks::<Flex>(&Default::default())?),
            #[cfg(feature = "cuda")]
            Device::Cuda(index) => {
                let device = CudaDevice::new(index);
                Networks::Cuda(self.networks::<Cuda>(&device)?, device)
            }
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => return None,
        };
        Some(FittedFeatureMlp { kept: self, networks })
    }

    fn networks<B: Backend>(&self, device: &B::Device) -> Option<Vec<Network<B>>> {
        self.weights.iter().map(|weights| Network::from_weights(&self.shape, weights, device)).collect()
    }
}

/// The networks on their device.
enum Networks {
    Cpu(Vec<Network<Flex>>),
    #[cfg(feature = "cuda")]
    Cuda(Vec<Network<Cuda>>, CudaDevice),
}

/// A fitted one.
pub struct FittedFeatureMlp {
    kept: Kept,
    networks: Networks,
}

impl FittedFeatureMlp {
    /// Reads an artifact and puts it on `device`, whatever it was trained on.
    ///
    /// # Errors
    /// It is none of these, or damaged, or the device is not there.
    pub fn from_bytes(bytes: &[u8], device: Device) -> Result<FittedFeatureMlp, ArtifactError> {
        let (mut kept, location) = artifact::decode_at::<Kept>(bytes, NAME, FORMAT)?;
        kept.task.location = location;
        #[cfg(not(feature = "cuda"))]
        if let Device::Cuda(index) = device {
            return Err(DeviceError::NotBuilt(index).into());
        }
        kept.placed(device).ok_or_else(|| ArtifactError::damaged("its weights do not fit their shape"))
    }

    // Normalised quantiles of scaled rows.
    fn quantiles(&self, features: &[f32], series: &[i32]) -> Vec<[f64; OUTPUTS]> {
        match &self.networks {
            Networks::Cpu(networks) => self.predict(networks, features, series, &Default::default()),
            #[cfg(feature = "cuda")]
            Networks::Cuda(networks, device) => self.predict(networks, features, series, device),
        }
    }

    /// A row that could not be read from the device is NaN, which the caller refuses.
    fn predict<B: Backend>(
        &self,
        networks: &[Network<B>],
        features: &[f32],
        series: &[i32],
        device: &B::Device,
    ) -> Vec<[f64; OUTPUTS]> {
        let constants = Constants::new(device);
        let mut sums = vec![[0.0_f64; OUTPUTS]; series.len()];
        for network in networks {
            let input = Input::new(features.to_vec(), self.kept.shape.features, series.to_vec(), device);
            let output = network.forward(input, self.kept.unit, &constants).into_data().to_vec::<f32>();
            let output = output.unwrap_or_else(|_| vec![f32::NAN; series.len() * OUTPUTS]);
            for (sum, row) in sums.iter_mut().zip(output.chunks_exact(OUTPUTS)) {
                for (sum, value) in sum.iter_mut().zip(row) {
                    *sum += f64::from(*value) / networks.len() as f64;
                }
            }
        }
        sums
    }

    // From normalised quantiles into the series' unit.
    fn restored(&self, normal: Normal, rows: &[[f64; OUTPUTS]]) -> Result<SeriesForecast, NoForecast> {
        let bounded = |row: &[f64; OUTPUTS]| {
            let mut row = row.map(|quantile| self.kept.scaled.kept_in_reach(quantile));
            // Rounding must not put two equal quantiles out of order.
            row.sort_unstable_by(f64::total_cmp);
            row
        };
        restored(normal, rows.iter().map(bounded))
    }
}

impl Forecaster for FittedFeatureMlp {
    fn name(&self) -> &str {
        NAME
    }

    fn artifact(&self) -> Option<Vec<u8>> {
        Some(artifact::encode_at(NAME, FORMAT, self.kept.task.location, &self.kept))
    }

    /// A series that it was not fitted to gets what holds for all.
    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        let Kept { task, seen, .. } = &self.kept;
        direct::each_part(panel, seen, task, horizon, |part| self.forecast_part(&part, horizon))
    }
}

impl FittedFeatureMlp {
    fn forecast_part(&self, part: &DesignPart, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        let DesignPart { panel, design, .. } = part;
        if design.width() != self.kept.shape.features || horizon == 0 {
            return vec![Err(NoForecast::NotFinite); panel.series.len()];
        }
        let numbers: Vec<usize> = (0..panel.series.len()).collect();
        let mut forecasts = Vec::with_capacity(numbers.len());
        for chunk in numbers.chunks((FORECAST_ROWS / horizon).max(1)) {
            let rows: Vec<_> = chunk.par_iter().map(|number| ahead(panel, design, *number, horizon)).collect();
            let (mut features, mut series) = (Vec::new(), Vec::new());
            for (number, ahead) in chunk.iter().zip(&rows) {
                let Ok(Ahead { rows, .. }) = ahead else { continue };
                features.extend_from_slice(rows);
                let known = self.kept.numbers.get(&panel.series[*number].id);
                series.extend(std::iter::repeat_n(known.copied().unwrap_or(0), horizon));
            }
            self.kept.scaled.apply(&mut features);
            let quantiles = if series.is_empty() { Vec::new() } else { self.quantiles(&features, &series) };
            let mut found = quantiles.chunks(horizon);
            forecasts.extend(rows.into_iter().map(|ahead| {
                let Ahead { normal, .. } = ahead?;
                self.restored(normal, found.next().unwrap_or_default())
            }));
        }
        forecasts
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use jiff::tz::TimeZone;
    use meterline_schemas::Frequency;
    use meterline_schemas::quantiles::MEDIAN;

    use super::*;
    use crate::data::{Column, Covariate, Known, Series};

    // Load that the temperature of its hour bends, by another curve by night: no line.
    fn heating(hour: usize, temperature: f32) -> f32 {
        let bent = (temperature - 15.0).max(0.0) * 3.0 + (5.0 - temperature).max(0.0) * 2.0;
        50.0 + if hour % 24 < 8 { 0.3 * bent } else { bent }
    }

    fn panel(hours: usize) -> Panel {
        let temperature = |hour: usize| 10.0 + 12.0 * ((hour / 24 * 7919 % 101) as f32 / 101.0 - 0.5) * 2.0;
        let all: Vec<f32> = (0..hours + 48).map(temperature).collect();
        let values = (0..hours).map(|hour| heating(hour, all[hour])).collect();
        let mut series = Series::new("a", 0, values);
        series.covariates = vec![Column { offset: 0, values: all.into() }];
        Panel {
            covariates: vec![Covariate { name: "temperature".into(), known: Known::Ahead }],
            ..Panel::new(Frequency::HOUR, TimeZone::UTC, vec![series])
        }
    }

    fn small() -> FeatureMlp {
        FeatureMlp { spec: FeatureSpec { members: 2, hidden: 24, batches: 600, ..FeatureSpec::default() } }
    }

    #[test]
    fn what_bends_with_the_weather_is_learned_and_kept() {
        let (panel, task) = (panel(120 * 24), Task::new(24, 24, 1));
        let mut shares = Vec::new();
        let fitted = small().fit(&panel, &task, &mut |done| {
            shares.push(done.share);
            ControlFlow::Continue(())
        });
        let fitted = fitted.unwrap();
        assert!(shares.is_sorted() && shares.iter().all(|share| (0.0..=1.0).contains(share)));
        let forecast = fitted.forecast(&panel, 24).remove(0).unwrap();
        let temperatures = &panel.series[0].covariates[0].values[120 * 24..];
        for ((hour, quantiles), temperature) in forecast.quantiles.iter().enumerate().zip(temperatures) {
            let expected = f64::from(heating(hour, *temperature));
            assert!((quantiles[MEDIAN] - expected).abs() < 4.0, "{hour}: {} {expected}", quantiles[MEDIAN]);
            assert!(quantiles.is_sorted());
        }
        // A series that is new is forecast, too.
        let mut other = panel.clone();
        other.series[0].id = "b".into();
        assert!(fitted.forecast(&other, 24)[0].is_ok());
        let artifact = fitted.artifact().unwrap();
        let kept = FittedFeatureMlp::from_bytes(&artifact, Device::Cpu).unwrap();
        assert_eq!(kept.forecast(&panel, 24), fitted.forecast(&panel, 24));
        // Without what it was trained with there is no forecast, and no panic.
        let without = Panel { covariates: Vec::new(), ..panel };
        assert_eq!(kept.forecast(&without, 24), [Err(NoForecast::NotFinite)]);
    }

    #[test]
    fn a_training_that_is_stopped_is_the_line_at_least() {
        let panel = panel(60 * 24);
        let fitted = small().fit(&panel, &Task::new(24, 24, 1), &mut |_| ControlFlow::Break(())).unwrap();
        assert!(fitted.forecast(&panel, 24)[0].is_ok());
    }

    #[test]
    fn parts_of_an_artifact_that_do_not_go_together_are_refused() {
        let shape = Shape { features: 2, series: 1, of_series: 1, hidden: 2 };
        let kept = |numbers: i32, weights: Vec<Vec<f32>>| Kept {
            task: Task::new(1, 1, 1),
            seen: Seen::default(),
            numbers: [("a".to_owned(), numbers)].into(),
            scaled: Scaled::of(&[1.0, 2.0], 2, &[1.0]),
            unit: 1.0,
            shape,
            weights,
        };
        let whole = vec![0.0; shape.parameters()];
        assert!(kept(1, vec![whole.clone()]).placed(Device::Cpu).is_some());
        for (number, weights) in
            [(2, vec![whole.clone()]), (-1, vec![whole.clone()]), (1, vec![]), (1, vec![vec![0.0]])]
        {
            let bytes = artifact::encode(NAME, FORMAT, &kept(number, weights));
            assert!(FittedFeatureMlp::from_bytes(&bytes, Device::Cpu).is_err(), "{number}");
        }
    }
}
