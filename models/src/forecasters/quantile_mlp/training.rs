//! The training loop: AdamW on the pinball loss of all quantiles, best weights on a later validation tail kept.

use std::ops::ControlFlow;

use burn::grad_clipping::GradientClippingConfig;
use burn::module::AutodiffModule;
use burn::optim::{AdamWConfig, GradientsParams, Optimizer};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::network::{Input, Network, Shape};
use super::windows::{Batch, Grid, Pick, Sampler};
use super::{TrainError, TrainProgress, TrainSpec};
use crate::forecasters::neural::{Constants, learning_rate, masks};

/// Gradients of one weight matrix are shortened to this norm.
const GRADIENT_NORM_MAX: f32 = 1.0;
/// Rows that validation looks at, at most.
const VALIDATION_WINDOWS: usize = 2048;
/// Steps of each validation window.
const VALIDATION_STEPS: usize = 8;

/// What one training gave.
pub struct Fitted {
    /// The weights with the least validation loss.
    pub weights: Vec<f32>,
    /// Whether the caller asked to stop.
    pub stopped: bool,
}

/// The data of a training: what is learnt from, and what is only looked at to choose.
pub struct Samples<'a> {
    /// Features and targets.
    pub grid: &'a Grid<'a>,
    /// Windows that are trained on.
    pub train: Sampler,
    /// Weight of each series in the loss.
    pub sizes: Vec<f32>,
    /// Validation windows, later than all targets of training.
    pub validation: Vec<Pick>,
}

impl<'a> Samples<'a> {
    /// Trains on targets before `split` on the grid, validates on windows from there on.
    pub fn new(grid: &'a Grid<'a>, split: usize, seed: u64) -> Samples<'a> {
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x7a11);
        let tail = grid.sampler(split, grid.length());
        let count = (tail.windows() as usize).min(VALIDATION_WINDOWS);
        let validation = (0..count).filter_map(|_| tail.draw(VALIDATION_STEPS, &mut random)).collect();
        Samples { grid, train: grid.sampler(0, split), sizes: grid.sizes(), validation }
    }
}

impl<B: Backend> Constants<B> {
    /// The inputs of a batch on the device.
    pub fn input(&self, batch: &Batch, shape: &Shape, device: &B::Device) -> Input<B> {
        let rows = batch.windows * batch.steps;
        let place =
            |values: &[f32], dims: [usize; 2]| Tensor::from_data(TensorData::new(values.to_vec(), dims), device);
        Input {
            window: place(&batch.window, [batch.windows, shape.window_features]),
            step: place(&batch.step, [rows, shape.step_features]),
            base: place(&batch.base, [rows, 1]),
            spread: place(&batch.spread, [rows, 1]),
            increments: self.increments.clone(),
            dropout: None,
        }
    }

    /// Weighted mean pinball loss of a batch, times two, over all levels.
    fn loss(
        &self,
        network: &Network<B>,
        batch: &Batch,
        shape: &Shape,
        dropout: Option<[Tensor<B, 2>; 2]>,
        device: &B::Device,
    ) -> Tensor<B, 1> {
        let input = Input { dropout, ..self.input(batch, shape, device) };
        let quantiles = network.forward(input);
        self.pinball_loss(batch.target.clone(), quantiles, &batch.weight, device)
    }
}

/// Trains one network. `progress` is called before every batch; `base` says which network of how many this is.
pub fn fit<B: AutodiffBackend>(
    samples: &Samples<'_>,
    shape: &Shape,
    spec: &TrainSpec,
    seed: u64,
    base: TrainProgress,
    progress: &mut dyn FnMut(TrainProgress) -> ControlFlow<()>,
    device: &B::Device,
) -> Result<Fitted, TrainError> {
    let unreadable = || TrainError::Device("the network's weights could not be placed or read back".into());
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let initial = shape.initial_weights(&mut random);
    let mut network = Network::<B>::from_weights(shape, &initial, device).ok_or_else(unreadable)?;
    let mut optimizer = AdamWConfig::new()
        .with_weight_decay(spec.weight_decay)
        .with_grad_clipping(Some(GradientClippingConfig::Norm(GRADIENT_NORM_MAX)))
        .init::<B, Network<B>>();
    let constants = Constants::<B>::new(device);
    let validation = Validation::<B>::new(samples, device);
    let mut report = TrainProgress { validation_loss: None, best_validation_loss: None, ..base };
    let mut best: Option<(f64, Vec<f32>)> = None;
    let mut epochs_without_gain = 0;
    let mut stopped = false;
    let batches = spec.epochs * spec.batches_per_epoch;
    'epochs: for epoch in 0..spec.epochs {
        let mut losses = Vec::with_capacity(spec.batches_per_epoch);
        for batch in 0..spec.batches_per_epoch {
            report.epoch = epoch;
            report.batch = batch;
            if progress(report).is_break() {
                stopped = true;
                break;
            }
            let picks: Vec<Pick> = (0..spec.windows_per_batch)
                .filter_map(|_| samples.train.draw(spec.steps_per_window, &mut random))
                .collect();
            let features = samples.grid.batch(&picks, &samples.sizes);
            let dropout =
                masks::<B>(spec.dropout, [features.windows * features.steps, shape.hidden], &mut random, device);
            let loss = constants.loss(&network, &features, shape, dropout, device);
            let gradients = GradientsParams::from_grads(loss.backward(), &network);
            losses.push(loss.inner());
            let rate = learning_rate(spec.learning_rate, epoch * spec.batches_per_epoch + batch, batches);
            network = optimizer.step(rate, network, gradients);
        }
        if stopped && losses.is_empty() && best.is_some() {
            break;
        }
        let train_loss = mean_loss(losses);
        let validation_loss = validation.loss(&network.valid(), shape, device).or(train_loss);
        report.train_loss = train_loss.or(report.train_loss);
        report.validation_loss = validation_loss;
        match validation_loss {
            Some(loss) if best.as_ref().is_none_or(|(least, _)| loss < *least) => {
                best = Some((loss, network.weights().ok_or_else(unreadable)?));
                report.best_validation_loss = Some(loss);
                epochs_without_gain = 0;
            }
            Some(_) => epochs_without_gain += 1,
            // Not finite: what was best so far is kept.
            None if train_loss.is_none() && !stopped => break 'epochs,
            None => {}
        }
        if stopped || epochs_without_gain >= spec.patience {
            break;
        }
    }
    match best {
        Some((_, weights)) if weights.iter().all(|w| w.is_finite()) => Ok(Fitted { weights, stopped }),
        // Stopped before the first batch: the seasonal base, as the network begins.
        None if stopped => Ok(Fitted { weights: initial, stopped }),
        _ => Err(TrainError::Diverged { learning_rate: spec.learning_rate }),
    }
}

/// Mean of losses still on the device, read back at once; `None` if it is not finite.
fn mean_loss<B: Backend>(losses: Vec<Tensor<B, 1>>) -> Option<f64> {
    if losses.is_empty() {
        return None;
    }
    let mean = Tensor::cat(losses, 0).mean().into_data().to_vec::<f32>().ok()?;
    mean.first().map(|m| f64::from(*m)).filter(|m| m.is_finite())
}

/// The validation windows, their features computed once.
struct Validation<B: AutodiffBackend> {
    batch: Batch,
    constants: Constants<B::InnerBackend>,
}

impl<B: AutodiffBackend> Validation<B> {
    fn new(samples: &Samples<'_>, device: &B::Device) -> Validation<B> {
        Validation { batch: samples.grid.batch(&samples.validation, &samples.sizes), constants: Constants::new(device) }
    }

    fn loss(&self, network: &Network<B::InnerBackend>, shape: &Shape, device: &B::Device) -> Option<f64> {
        if self.batch.weight.iter().all(|w| *w == 0.0) {
            return None;
        }
        mean_loss(vec![self.constants.loss(network, &self.batch, shape, None, device)])
    }
}
