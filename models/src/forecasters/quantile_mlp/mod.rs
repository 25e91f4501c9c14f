//! One global probabilistic network for all series of a model group, without recurrence.
//!
//! * [`train`] fits it to a panel, with a chronological tail of the panel to choose the best weights by;
//! * [`QuantileMlp`] forecasts every series of a panel in large batches;
//! * [`QuantileMlp::to_bytes`] and [`QuantileMlp::from_bytes`] are the artifact.
//!
//! `network` says how it is built, [`crate::features`] what it sees.

mod artifact;
mod network;
#[cfg(test)]
mod tests;
mod training;
mod windows;

use std::ops::ControlFlow;

use burn::backend::{Autodiff, Flex};
use burn::tensor::backend::{AutodiffBackend, Backend};
use meterline_schemas::Frequency;
use meterline_schemas::quantiles::{LEVELS, MEDIAN};
use serde::{Deserialize, Serialize};

use crate::data::Panel;
use crate::device::Device;
use crate::features::{Layout, Window};
use crate::forecaster::{Done, FitError, Forecaster, Model, NoForecast, Progress, SeriesForecast, Task};
use crate::forecasters::neural::{Constants, OUTPUTS};
use crate::metrics::mean_of_quantiles;
use crate::search::{Configuration, Domain, Parameter};
use network::{Network, Shape};
use training::{Fitted, Samples, fit};
use windows::{Batch, Grid, Pick};

#[cfg(feature = "cuda")]
use burn::backend::{Cuda, cuda::CudaDevice};

/// Name of the kind.
pub(crate) const NAME: &str = "quantile_mlp";
/// Rows of one batch of a forecast.
const FORECAST_ROWS: usize = 32_768;
/// Share of the panel's time, at its end, that is kept for validation; at least a horizon, at most a quarter.
const VALIDATION_SHARE: f64 = 0.15;
/// History from which on the time of year is a feature, in days: every part of the year must have been seen.
const YEAR_DAYS_MIN: i64 = 380;

/// How a network is trained. [`TrainSpec::new`] has the defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainSpec {
    /// Steps that are forecast, in native intervals.
    pub horizon: usize,
    /// Values before the origin that the network sees, in native intervals.
    pub context: usize,
    /// Seed of the weights and of the order of the windows. On one kind of device, the same seed and panel give the
    /// same network.
    pub seed: u64,
    /// Where it is trained, and where it forecasts afterwards.
    pub device: Device,
    /// Networks whose quantiles are averaged.
    pub members: usize,
    /// Most epochs of one network; an epoch ends with a look at the validation tail.
    pub epochs: usize,
    /// Batches of an epoch.
    pub batches_per_epoch: usize,
    /// Windows of a batch.
    pub windows_per_batch: usize,
    /// Steps that are drawn from each window.
    pub steps_per_window: usize,
    /// Width of the encoder. A narrow one cannot tell single days of history apart, which it would learn by heart.
    pub encoder: usize,
    /// Width of the decoder.
    pub hidden: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Share of the decoder's hidden units that are silent in each row of training, 0 to 0.9.
    pub dropout: f64,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Epochs without a better validation loss after which training ends.
    pub patience: usize,
}

impl TrainSpec {
    /// The defaults for a horizon and a context in native intervals.
    pub fn new(horizon: usize, context: usize, seed: u64) -> TrainSpec {
        TrainSpec {
            horizon: horizon.max(1),
            context: context.max(1),
            seed,
            device: Device::Cpu,
            members: 2,
            epochs: 30,
            batches_per_epoch: 30,
            windows_per_batch: 128,
            steps_per_window: 16,
            encoder: 16,
            hidden: 64,
            learning_rate: 2e-3,
            dropout: 0.1,
            weight_decay: 1e-2,
            patience: 8,
        }
    }
}

/// Where a training stands. Losses are twice the mean pinball loss, in units of a window's spread.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TrainProgress {
    /// Network that is being trained, from 0.
    pub member: usize,
    /// Networks in all.
    pub members: usize,
    /// Epoch, from 0.
    pub epoch: usize,
    /// Most epochs of a network.
    pub epochs: usize,
    /// Batch of the epoch, from 0.
    pub batch: usize,
    /// Batches of an epoch.
    pub batches: usize,
    /// Loss of the last whole epoch.
    pub train_loss: Option<f64>,
    /// Loss on the validation tail after the last whole epoch.
    pub validation_loss: Option<f64>,
    /// Least loss on the validation tail so far.
    pub best_validation_loss: Option<f64>,
}

impl TrainProgress {
    /// Share of the longest possible training that is done, 0 to 1.
    pub fn done(&self) -> f64 {
        let epochs = self.member * self.epochs + self.epoch;
        let batches = epochs * self.batches + self.batch;
        batches as f64 / (self.members * self.epochs * self.batches).max(1) as f64
    }
}

/// Why there is no network.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TrainError {
    /// The panel is too short or too full of gaps.
    #[error(
        "training needs more than {needed} intervals of history, at least half of them present, and the longest of {series} series has {longest}: wait for more data or shorten the policy's context"
    )]
    NoWindows {
        /// Intervals that a window needs before its origin.
        needed: usize,
        /// Length of the longest series.
        longest: usize,
        /// Number of series.
        series: usize,
    },
    /// The loss became infinite or NaN.
    #[error(
        "training diverged at learning rate {learning_rate}: check the group's series for absurd values, or lower the rate"
    )]
    Diverged {
        /// The highest learning rate.
        learning_rate: f64,
    },
    /// The device does not do what it should.
    #[error("training on the device failed: {0}")]
    Device(String),
    /// GPU asked for, but not in this binary.
    #[error(transparent)]
    NoDevice(#[from] crate::device::DeviceError),
}

/// What a network is, apart from its weights: the header of its artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Header {
    frequency: Frequency,
    with_year: bool,
    spec: TrainSpec,
    shape: Shape,
    calibration: Calibration,
}

impl Header {
    fn layout(&self) -> Layout {
        Layout::new(self.frequency, self.spec.context, self.spec.horizon, self.with_year)
    }
}

/// By how much the distances from the median are stretched, below and above it, so that the deciles cover what they
/// should on the validation tail.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Calibration {
    below: f64,
    above: f64,
}

impl Calibration {
    const NONE: Calibration = Calibration { below: 1.0, above: 1.0 };
    /// Stretches that are tried. Never below 1: a tail that happens to be calm must not make later intervals too
    /// narrow (measured: it costs coverage and wins no loss). Never far above: a tail is short.
    const CANDIDATES: [f64; 8] = [1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4];

    fn apply(&self, quantiles: &mut [f64; OUTPUTS]) {
        let median = quantiles[MEDIAN];
        for (i, quantile) in quantiles.iter_mut().enumerate() {
            *quantile = median + (*quantile - median) * if i < MEDIAN { self.below } else { self.above };
        }
    }

    /// The stretches with the least pinball loss. Rows of `quantiles`, `actuals` and `weights` go together.
    fn fit(quantiles: &[[f64; OUTPUTS]], actuals: &[f32], weights: &[f32]) -> Calibration {
        let loss = |stretch: f64, side: std::ops::Range<usize>| -> f64 {
            let mut sum = 0.0;
            for ((row, actual), weight) in quantiles.iter().zip(actuals).zip(weights) {
                for i in side.clone() {
                    let quantile = row[MEDIAN] + stretch * (row[i] - row[MEDIAN]);
                    sum += f64::from(*weight) * crate::metrics::pinball(f64::from(*actual), quantile, LEVELS[i]);
                }
            }
            sum
        };
        let best = |side: std::ops::Range<usize>| {
            let scored = Self::CANDIDATES.map(|c| (c, loss(c, side.clone())));
            scored.into_iter().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(1.0, |(c, _)| c)
        };
        Calibration { below: best(0..MEDIAN), above: best(MEDIAN + 1..OUTPUTS) }
    }
}

/// The networks on their device.
enum Networks {
    Cpu(Vec<Network<Flex>>),
    #[cfg(feature = "cuda")]
    Cuda(Vec<Network<Cuda>>, CudaDevice),
}

/// A trained network. See the module.
pub struct QuantileMlp {
    header: Header,
    weights: Vec<Vec<f32>>,
    networks: Networks,
}

/// The kind of model.
#[derive(Debug, Clone)]
pub struct Mlp {
    /// How it is trained; horizon, context, seed and device are those of the task.
    pub spec: TrainSpec,
}

impl Default for Mlp {
    fn default() -> Mlp {
        Mlp { spec: TrainSpec::new(1, 1, 0) }
    }
}

impl Mlp {
    /// What can be set of it.
    pub(crate) fn parameters() -> Vec<Parameter> {
        vec![
            Parameter::new("members", Domain::integer(1, 4)),
            Parameter::new("epochs", Domain::log_integer(5, 200)),
            Parameter::new("encoder", Domain::log_integer(4, 128)),
            Parameter::new("hidden", Domain::log_integer(16, 256)),
            Parameter::new("learning_rate", Domain::log_float(2e-4, 2e-2)),
            Parameter::new("dropout", Domain::float(0.0, 0.5)),
            Parameter::new("weight_decay", Domain::log_float(1e-4, 0.1)),
        ]
    }

    /// The usual one, with these settings.
    pub(crate) fn with(settings: &Configuration) -> Mlp {
        let Mlp { mut spec } = Mlp::default();
        let mut weight_decay = f64::from(spec.weight_decay);
        settings.set_count("members", &mut spec.members);
        settings.set_count("epochs", &mut spec.epochs);
        settings.set_count("encoder", &mut spec.encoder);
        settings.set_count("hidden", &mut spec.hidden);
        settings.set_float("learning_rate", &mut spec.learning_rate);
        settings.set_float("dropout", &mut spec.dropout);
        settings.set_float("weight_decay", &mut weight_decay);
        Mlp { spec: TrainSpec { weight_decay: weight_decay as f32, ..spec } }
    }
}

impl Model for Mlp {
    fn name(&self) -> &str {
        NAME
    }

    fn fit(&self, panel: &Panel, task: &Task, progress: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
        let of_task = TrainSpec::new(task.horizon, task.context, task.seed);
        let TrainSpec { horizon, context, seed, .. } = of_task;
        let spec = TrainSpec { horizon, context, seed, device: task.device, ..self.spec.clone() };
        // Losses change with the epoch, all else with every batch.
        let mut told = None;
        let trained = train(panel, &spec, &mut |at| {
            let mut figures = Vec::new();
            if told.replace((at.member, at.epoch)) != Some((at.member, at.epoch)) {
                figures.extend(at.train_loss.map(|loss| ("train_loss", loss)));
                figures.extend(at.validation_loss.map(|loss| ("validation_loss", loss)));
            }
            progress(Done { share: at.done(), figures: &figures })
        });
        match trained {
            Ok(network) => Ok(Box::new(network)),
            Err(TrainError::NoWindows { needed, longest, series }) => {
                Err(FitError::TooShort { model: NAME.into(), needed, longest, series })
            }
            Err(error) => Err(FitError::Failed { model: NAME.into(), reason: error.to_string() }),
        }
    }
}

/// Trains a network on `panel`, all of which counts as known: cut it at the origin before which everything may be used.
///
/// The last part of the panel is never trained on; the weights with the least loss there are kept. `progress` is called
/// before every batch; when it breaks, training ends with the best weights so far. Missing inputs are filled, missing
/// targets are not trained on.
pub fn train(
    panel: &Panel,
    spec: &TrainSpec,
    progress: &mut dyn FnMut(TrainProgress) -> ControlFlow<()>,
) -> Result<QuantileMlp, TrainError> {
    match spec.device {
        Device::Cpu => train_on::<Autodiff<Flex>>(panel, spec, progress, &Default::default()),
        #[cfg(feature = "cuda")]
        Device::Cuda(index) => train_on::<Autodiff<Cuda>>(panel, spec, progress, &CudaDevice::new(index)),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(index) => Err(crate::device::DeviceError::NotBuilt(index).into()),
    }
}

fn train_on<B: AutodiffBackend>(
    panel: &Panel,
    spec: &TrainSpec,
    progress: &mut dyn FnMut(TrainProgress) -> ControlFlow<()>,
    device: &B::Device,
) -> Result<QuantileMlp, TrainError> {
    let longest = panel.longest();
    let history = longest as i64 * panel.frequency.nominal_micros();
    let with_year = history >= YEAR_DAYS_MIN * meterline_schemas::time::DAY;
    let layout = Layout::new(panel.frequency, spec.context, spec.horizon, with_year);
    let grid = Grid::new(panel, &layout, spec.horizon);
    let tail = (grid.length() as f64 * VALIDATION_SHARE) as usize;
    let split = grid.length() - tail.max(spec.horizon).min(grid.length() / 4);
    let samples = Samples::new(&grid, split, spec.seed);
    if samples.train.windows() == 0 {
        return Err(TrainError::NoWindows { needed: layout.needed(), longest, series: panel.series.len() });
    }
    let shape = Shape {
        window_features: layout.window_features(),
        step_features: layout.step_features(),
        encoder: spec.encoder,
        hidden: spec.hidden,
    };
    let mut weights = Vec::new();
    for member in 0..spec.members.max(1) {
        let base = TrainProgress {
            member,
            members: spec.members.max(1),
            epochs: spec.epochs,
            batches: spec.batches_per_epoch,
            ..TrainProgress::default()
        };
        let seed = spec.seed.wrapping_add(member as u64 * 7919);
        let Fitted { weights: found, stopped } = fit::<B>(&samples, &shape, spec, seed, base, progress, device)?;
        // A member that was cut short would only spoil the average of the whole ones.
        if !stopped || weights.is_empty() {
            weights.push(found);
        }
        if stopped {
            break;
        }
    }
    let header =
        Header { frequency: panel.frequency, with_year, spec: spec.clone(), shape, calibration: Calibration::NONE };
    let mut model = QuantileMlp::place(header, weights, &spec.device)
        .ok_or_else(|| TrainError::Device("the trained weights could not be placed".into()))?;
    let batch = grid.batch(&samples.validation, &samples.sizes);
    if batch.windows > 0 {
        let quantiles = model.normalised(&batch);
        model.header.calibration = Calibration::fit(&quantiles, &batch.target, &batch.weight);
    }
    Ok(model)
}

impl QuantileMlp {
    /// Puts weights on a device; `None` if they do not fit the header.
    fn place(header: Header, weights: Vec<Vec<f32>>, device: &Device) -> Option<QuantileMlp> {
        let networks = match device {
            Device::Cpu => Networks::Cpu(place_all::<Flex>(&header.shape, &weights, &Default::default())?),
            #[cfg(feature = "cuda")]
            Device::Cuda(index) => {
                let device = CudaDevice::new(*index);
                Networks::Cuda(place_all::<Cuda>(&header.shape, &weights, &device)?, device)
            }
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => return None,
        };
        Some(QuantileMlp { header, weights, networks })
    }

    /// How it was trained.
    pub fn spec(&self) -> &TrainSpec {
        &self.header.spec
    }

    /// Native frequency of the series that it was trained on.
    pub fn frequency(&self) -> Frequency {
        self.header.frequency
    }

    /// Number of weights of all its networks.
    pub fn parameters(&self) -> usize {
        self.weights.iter().map(Vec::len).sum()
    }

    /// Normalised quantiles of each row of a batch, averaged over the networks.
    fn normalised(&self, batch: &Batch) -> Vec<[f64; OUTPUTS]> {
        match &self.networks {
            Networks::Cpu(networks) => predict(networks, batch, &self.header.shape, &Default::default()),
            #[cfg(feature = "cuda")]
            Networks::Cuda(networks, device) => predict(networks, batch, &self.header.shape, device),
        }
    }
}

fn place_all<B: Backend>(shape: &Shape, weights: &[Vec<f32>], device: &B::Device) -> Option<Vec<Network<B>>> {
    weights.iter().map(|w| Network::from_weights(shape, w, device)).collect()
}

/// A row that could not be read from the device is NaN, which the caller refuses.
fn predict<B: Backend>(
    networks: &[Network<B>],
    batch: &Batch,
    shape: &Shape,
    device: &B::Device,
) -> Vec<[f64; OUTPUTS]> {
    let constants = Constants::<B>::new(device);
    let rows = batch.windows * batch.steps;
    let mut sums = vec![[0.0_f64; OUTPUTS]; rows];
    for network in networks {
        let output = network.forward(constants.input(batch, shape, device)).into_data().to_vec::<f32>();
        let output = output.unwrap_or_else(|_| vec![f32::NAN; rows * OUTPUTS]);
        for (sum, row) in sums.iter_mut().zip(output.chunks_exact(OUTPUTS)) {
            for (sum, value) in sum.iter_mut().zip(row) {
                *sum += f64::from(*value) / networks.len() as f64;
            }
        }
    }
    sums
}

impl Forecaster for QuantileMlp {
    fn name(&self) -> &str {
        NAME
    }

    fn artifact(&self) -> Option<Vec<u8>> {
        Some(self.to_bytes())
    }

    /// A horizon beyond the trained one is extrapolated; it is better to train for the horizon that is needed. A series
    /// whose context is too short or too full of gaps has no forecast.
    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        let layout = self.header.layout();
        // The calendar is needed from the oldest context on, not from the beginning of history.
        let recent = panel.newest(layout.context);
        let grid = Grid::new(&recent, &layout, horizon);
        let steps: Vec<usize> = (0..horizon).collect();
        let mut forecasts = Vec::with_capacity(recent.series.len());
        let windows = (FORECAST_ROWS / horizon.max(1)).max(1);
        let all: Vec<usize> = (0..recent.series.len()).collect();
        for chunk in all.chunks(windows) {
            let picks: Vec<Pick> = chunk
                .iter()
                .map(|i| Pick { series: *i, origin: recent.series[*i].values.len(), steps: steps.clone() })
                .collect();
            let quantiles = self.normalised(&grid.batch(&picks, &[]));
            for (pick, rows) in picks.iter().zip(quantiles.chunks(horizon.max(1))) {
                let known = &recent.series[pick.series].values;
                forecasts.push(Window::new(&layout, known).and_then(|window| self.restore(&window, rows)));
            }
        }
        forecasts
    }
}

impl QuantileMlp {
    /// From normalised quantiles into the series' unit.
    fn restore(&self, window: &Window<'_>, rows: &[[f64; OUTPUTS]]) -> Result<SeriesForecast, NoForecast> {
        let mut forecast = SeriesForecast { mean: Vec::new(), quantiles: Vec::new() };
        for row in rows {
            let mut quantiles = *row;
            self.header.calibration.apply(&mut quantiles);
            for quantile in &mut quantiles {
                *quantile = window.scale.restore(*quantile as f32);
            }
            // Rounding must not put two equal quantiles out of order.
            quantiles.sort_unstable_by(f64::total_cmp);
            if quantiles.iter().any(|q| !q.is_finite()) {
                return Err(NoForecast::NotFinite);
            }
            forecast.mean.push(mean_of_quantiles(&quantiles));
            forecast.quantiles.push(quantiles);
        }
        Ok(forecast)
    }
}
