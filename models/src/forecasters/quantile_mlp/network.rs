//! The network: an encoder that sees a window once, and a decoder that sees every step of its horizon.
//!
//! ```text
//! window ─▶ dense ▸ relu ─▶ dense ─┐
//! step ───────────────────▶ dense ─┴▶ + ▸ relu ─▶ (dense ▸ relu) + identity ─▶ dense ─┐
//! step ───────────────────▶ dense (linear, from zero) ─────────────────────────────────┴▶ + ─▶ median, increments
//! ```
//!
//! The encoder and decoder follow TiDE (Das et al. 2023); increments that cannot be negative keep the quantiles in
//! order (Gasthaus et al. 2019 use the same construction for their splines). With all weights at zero the median is the
//! seasonal base of [`crate::features`].

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;
use burn::tensor::backend::Backend;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::forecasters::neural::{Dense, OUTPUTS, initial, softplus};

/// Sizes of the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Features of a window.
    pub window_features: usize,
    /// Features of a step.
    pub step_features: usize,
    /// Width of the encoder.
    pub encoder: usize,
    /// Width of the decoder.
    pub hidden: usize,
}

impl Shape {
    /// Rows and columns of each weight matrix, in the order in which they are stored; each is followed by its bias.
    fn layers(&self) -> [(usize, usize); 6] {
        [
            (self.window_features, self.encoder),
            (self.encoder, self.hidden),
            (self.step_features, self.hidden),
            (self.hidden, self.hidden),
            (self.hidden, OUTPUTS),
            (self.step_features, OUTPUTS),
        ]
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.layers().iter().map(|(rows, columns)| (rows + 1) * columns).sum()
    }

    /// Fresh weights; the two layers that make the output begin small.
    pub fn initial_weights(&self, random: &mut ChaCha8Rng) -> Vec<f32> {
        let mut weights = Vec::with_capacity(self.parameters());
        for (layer, gain) in self.layers().into_iter().zip([1.0, 1.0, 1.0, 1.0, 0.1, 0.0]) {
            initial(layer, gain, random, &mut weights);
        }
        weights
    }
}

/// See the module.
#[derive(Module, Debug)]
pub struct Network<B: Backend> {
    encoder: Dense<B>,
    context: Dense<B>,
    step: Dense<B>,
    hidden: Dense<B>,
    output: Dense<B>,
    linear: Dense<B>,
}

/// A batch on the device: `windows` windows with the same number of steps each.
pub struct Input<B: Backend> {
    /// `[windows, window_features]`
    pub window: Tensor<B, 2>,
    /// `[windows × steps, step_features]`, the steps of a window one after another.
    pub step: Tensor<B, 2>,
    /// `[windows × steps, 1]`: seasonal base of the median.
    pub base: Tensor<B, 2>,
    /// `[windows × steps, 1]`: unit of the increments.
    pub spread: Tensor<B, 2>,
    /// `[OUTPUTS − 1, OUTPUTS]`, of [`Constants`](crate::forecasters::neural::Constants).
    pub increments: Tensor<B, 2>,
    /// Dropout of the two hidden layers of the decoder, each `[windows × steps, hidden]`: 0 where a unit is silent,
    /// else the reciprocal of the share that is not. Only in training.
    pub dropout: Option<[Tensor<B, 2>; 2]>,
}

impl<B: Backend> Network<B> {
    /// The network with these weights; `None` if their number is not [`Shape::parameters`].
    pub fn from_weights(shape: &Shape, weights: &[f32], device: &B::Device) -> Option<Network<B>> {
        if weights.len() != shape.parameters() {
            return None;
        }
        let mut rest = weights;
        let mut layers = shape.layers().into_iter().map(|layer| Dense::take(layer, &mut rest, device));
        Some(Network {
            encoder: layers.next()?,
            context: layers.next()?,
            step: layers.next()?,
            hidden: layers.next()?,
            output: layers.next()?,
            linear: layers.next()?,
        })
    }

    /// All weights, in the order of [`Network::from_weights`]; `None` if the device does not give them back as `f32`.
    pub fn weights(&self) -> Option<Vec<f32>> {
        let mut all = Vec::new();
        for dense in [&self.encoder, &self.context, &self.step, &self.hidden, &self.output, &self.linear] {
            dense.put(&mut all)?;
        }
        Some(all)
    }

    /// Normalised quantiles `[windows × steps, OUTPUTS]`, ascending in each row.
    pub fn forward(&self, input: Input<B>) -> Tensor<B, 2> {
        let [windows, _] = input.window.dims();
        let [rows, _] = input.step.dims();
        let steps = rows / windows.max(1);
        let window = self.context.forward(relu(self.encoder.forward(input.window)));
        let step = self.step.forward(input.step.clone());
        let [_, width] = step.dims();
        let joined: Tensor<B, 3> = step.reshape([windows, steps, width]) + window.reshape([windows, 1, width]);
        let mut first = relu(joined.reshape([rows, width]));
        let [mask_first, mask_second] = input.dropout.map_or([None, None], |masks| masks.map(Some));
        if let Some(mask) = mask_first {
            first = first * mask;
        }
        let mut second = relu(self.hidden.forward(first.clone())) + first;
        if let Some(mask) = mask_second {
            second = second * mask;
        }
        let output = self.output.forward(second) + self.linear.forward(input.step);
        let median = output.clone().slice([0..rows, 0..1]) + input.base;
        let increments = softplus(output.slice([0..rows, 1..OUTPUTS])) * input.spread;
        median + increments.matmul(input.increments)
    }
}
