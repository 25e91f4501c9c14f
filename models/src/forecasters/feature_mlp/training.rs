//! The training loop of one network: AdamW (Loshchilov and Hutter 2019) on the pinball loss of all quantiles.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use burn::grad_clipping::GradientClippingConfig;
use burn::optim::{AdamWConfig, GradientsParams, Optimizer};
use burn::tensor::backend::AutodiffBackend;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::network::{Input, Network, Shape};
use super::{FeatureSpec, Line, Rows};
use crate::forecasters::neural::{Constants, learning_rate, masks};

/// Gradients of one weight matrix are shortened to this norm.
const GRADIENT_NORM_MAX: f32 = 1.0;

/// How far trainings that run side by side are, and whether they are to end.
#[derive(Debug, Default)]
pub(super) struct Running {
    /// Batches that are done.
    pub done: AtomicUsize,
    /// What is learned until now is enough.
    pub stop: AtomicBool,
}

/// Batches of a training: so many that each row is seen at most [`FeatureSpec::epochs`] times.
pub(super) fn batches(rows: usize, spec: &FeatureSpec) -> usize {
    (rows * spec.epochs / spec.rows_per_batch.max(1)).clamp(1, spec.batches.max(1))
}

/// Trains one network, and gives its weights; `None` if they became infinite or NaN, or could not be placed.
pub(super) fn fit<B: AutodiffBackend>(
    rows: &Rows,
    line: &Line,
    shape: &Shape,
    spec: &FeatureSpec,
    seed: u64,
    running: &Running,
    device: &B::Device,
) -> Option<Vec<f32>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut network = Network::<B>::from_weights(shape, &shape.initial_weights(line, &mut random), device)?;
    let mut optimizer = AdamWConfig::new()
        .with_weight_decay(spec.weight_decay)
        .with_grad_clipping(Some(GradientClippingConfig::Norm(GRADIENT_NORM_MAX)))
        .init::<B, Network<B>>();
    let constants = Constants::<B>::new(device);
    let mut order: Vec<u32> = (0..rows.targets.len() as u32).collect();
    let size = spec.rows_per_batch.clamp(1, order.len().max(1));
    let mut next = order.len();
    let batches = batches(order.len(), spec);
    for batch in 0..batches {
        if running.stop.load(Ordering::Relaxed) {
            break;
        }
        if next + size > order.len() {
            order.shuffle(&mut random);
            next = 0;
        }
        let picked = rows.picked(&order[next..next + size]);
        next += size;
        let mut input = Input::new(picked.features, rows.width, picked.series, device);
        input.dropout = masks(spec.dropout, [size, shape.hidden], &mut random, device);
        let quantiles = network.forward(input, line.error, &constants);
        let loss = constants.pinball_loss(picked.targets, quantiles, &picked.weights, device);
        // In units of what the line leaves, so that rates suit any series.
        let gradients = GradientsParams::from_grads(loss.div_scalar(line.error).backward(), &network);
        network = optimizer.step(learning_rate(spec.learning_rate, batch, batches), network, gradients);
        running.done.fetch_add(1, Ordering::Relaxed);
    }
    network.weights().filter(|weights| weights.iter().all(|weight| weight.is_finite()))
}
