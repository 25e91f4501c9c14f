//! The network: a line, and what two hidden layers bend of it ("wide and deep": Cheng et al. 2016).
//!
//! ```text
//! features ─┬─▶ dense ▸ relu ─▶ (dense ▸ relu) + identity ─▶ dense ─┐
//! series ───┘                                                       ▼
//! features ─▶ dense ──────────────────────────────────────────────▶ + ─▶ median, increments
//! ```
//!
//! The line begins as a ridge regression. Increments that cannot be negative keep the quantiles in order. A series is some
//! numbers that are learned with all else, and that are 0 for one that was not there.

use burn::module::{Module, Param};
use burn::tensor::activation::relu;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::Line;
use crate::forecasters::neural::{Constants, Dense, OUTPUTS, initial, softplus};

/// Sizes of the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shape {
    /// Features of a row.
    pub features: usize,
    /// Series that were trained on.
    pub series: usize,
    /// Numbers that are learned of each.
    pub of_series: usize,
    /// Width of the hidden layers.
    pub hidden: usize,
}

impl Shape {
    /// Rows and columns of each weight matrix, in the order in which they are stored.
    fn layers(&self) -> [(usize, usize); 4] {
        let Shape { features, of_series, hidden, .. } = *self;
        [(features + of_series, hidden), (hidden, hidden), (hidden, OUTPUTS), (features, OUTPUTS)]
    }

    // The first row is that of series that are not known.
    fn of_all_series(&self) -> usize {
        (self.series + 1) * self.of_series
    }

    /// Whether its sizes can be multiplied.
    pub fn is_sound(&self) -> bool {
        [self.features, self.series, self.of_series, self.hidden].into_iter().all(|size| size < 1 << 28)
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.of_all_series() + self.layers().into_iter().map(Dense::<burn::backend::Flex>::parameters).sum::<usize>()
    }

    /// Fresh weights: the median is the line, all series are alike.
    pub fn initial_weights(&self, line: &Line, random: &mut ChaCha8Rng) -> Vec<f32> {
        let mut weights = vec![0.0; self.of_all_series()];
        for (layer, gain) in self.layers().into_iter().zip([1.0, 1.0, 0.1, 0.0]) {
            initial(layer, gain, random, &mut weights);
        }
        let from = weights.len() - (self.features + 1) * OUTPUTS;
        let of_median = weights[from..].iter_mut().step_by(OUTPUTS);
        of_median.zip(line.coefficients.iter().chain([&line.base])).for_each(|(weight, value)| *weight = *value);
        weights
    }
}

/// See the module.
#[derive(Module, Debug)]
pub(super) struct Network<B: Backend> {
    series: Param<Tensor<B, 2>>,
    first: Dense<B>,
    second: Dense<B>,
    output: Dense<B>,
    line: Dense<B>,
}

/// Rows on the device.
pub(super) struct Input<B: Backend> {
    /// `[rows, features]`
    pub features: Tensor<B, 2>,
    /// `[rows]`: 0 where the series is not known, else its number from 1 on.
    pub series: Tensor<B, 1, Int>,
    /// Dropout of the hidden layers, `[rows, hidden]` each. Only in training.
    pub dropout: Option<[Tensor<B, 2>; 2]>,
}

impl<B: Backend> Input<B> {
    /// Of so many features each, without dropout.
    pub fn new(features: Vec<f32>, width: usize, series: Vec<i32>, device: &B::Device) -> Input<B> {
        let rows = series.len();
        Input {
            features: Tensor::from_data(TensorData::new(features, [rows, width]), device),
            series: Tensor::from_data(TensorData::new(series, [rows]), device),
            dropout: None,
        }
    }
}

impl<B: Backend> Network<B> {
    /// The network with these weights; `None` if their number is not [`Shape::parameters`].
    pub fn from_weights(shape: &Shape, weights: &[f32], device: &B::Device) -> Option<Network<B>> {
        if weights.len() != shape.parameters() {
            return None;
        }
        let (series, mut rest) = weights.split_at(shape.of_all_series());
        let series = TensorData::new(series.to_vec(), [shape.series + 1, shape.of_series]);
        let mut layers = shape.layers().into_iter().map(|layer| Dense::take(layer, &mut rest, device));
        Some(Network {
            series: Param::from_data(series, device),
            first: layers.next()?,
            second: layers.next()?,
            output: layers.next()?,
            line: layers.next()?,
        })
    }

    /// All weights, in the order of [`Network::from_weights`]; `None` if the device does not give them back as `f32`.
    pub fn weights(&self) -> Option<Vec<f32>> {
        let mut all = self.series.val().into_data().to_vec::<f32>().ok()?;
        for dense in [&self.first, &self.second, &self.output, &self.line] {
            dense.put(&mut all)?;
        }
        Some(all)
    }

    /// Normalised quantiles `[rows, OUTPUTS]`, ascending in each row; increments are in units of `unit`.
    pub fn forward(&self, input: Input<B>, unit: f32, constants: &Constants<B>) -> Tensor<B, 2> {
        let [rows, _] = input.features.dims();
        let series = self.series.val().select(0, input.series);
        let mut first = relu(self.first.forward(Tensor::cat(vec![input.features.clone(), series], 1)));
        let [mask_first, mask_second] = input.dropout.map_or([None, None], |masks| masks.map(Some));
        if let Some(mask) = mask_first {
            first = first * mask;
        }
        let mut second = relu(self.second.forward(first.clone())) + first;
        if let Some(mask) = mask_second {
            second = second * mask;
        }
        let output = self.output.forward(second) + self.line.forward(input.features);
        let median = output.clone().slice([0..rows, 0..1]);
        let increments = softplus(output.slice([0..rows, 1..OUTPUTS])).mul_scalar(unit);
        median + increments.matmul(constants.increments.clone())
    }
}
