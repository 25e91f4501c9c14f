//! What the networks share: layers, quantiles that cannot cross, and the parts of their training.

use burn::module::{Module, Param};
use burn::tensor::activation::relu;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use meterline_schemas::quantiles::{LEVELS, MEDIAN};
use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;

/// Number of quantiles.
pub(super) const OUTPUTS: usize = LEVELS.len();
/// Share of the training during which the learning rate rises.
const WARM_UP: f64 = 0.05;

/// A matrix of weights and a bias.
#[derive(Module, Debug)]
pub(super) struct Dense<B: Backend> {
    weight: Param<Tensor<B, 2>>,
    bias: Param<Tensor<B, 1>>,
}

impl<B: Backend> Dense<B> {
    /// Number of its weights.
    pub fn parameters((rows, columns): (usize, usize)) -> usize {
        (rows + 1) * columns
    }

    /// Takes its weights from the front of `rest`, which has to have so many.
    pub fn take((rows, columns): (usize, usize), rest: &mut &[f32], device: &B::Device) -> Dense<B> {
        let (matrix, after) = rest.split_at(rows * columns);
        let (bias, after) = after.split_at(columns);
        *rest = after;
        Dense {
            weight: Param::from_data(TensorData::new(matrix.to_vec(), [rows, columns]), device),
            bias: Param::from_data(TensorData::new(bias.to_vec(), [columns]), device),
        }
    }

    /// Appends its weights in the order of [`Dense::take`]; `None` if the device does not give them back as `f32`.
    pub fn put(&self, to: &mut Vec<f32>) -> Option<()> {
        to.extend(self.weight.val().into_data().to_vec::<f32>().ok()?);
        to.extend(self.bias.val().into_data().to_vec::<f32>().ok()?);
        Some(())
    }

    /// Of rows of inputs, rows of outputs.
    pub fn forward(&self, input: Tensor<B, 2>) -> Tensor<B, 2> {
        input.matmul(self.weight.val()) + self.bias.val().unsqueeze::<2>()
    }
}

/// Fresh weights of a [`Dense`], in its order: He initialisation (He et al. 2015) times `gain`, which may be 0.
pub(super) fn initial((rows, columns): (usize, usize), gain: f32, random: &mut ChaCha8Rng, to: &mut Vec<f32>) {
    let bound = gain * (3.0 / rows.max(1) as f32).sqrt();
    to.extend((0..rows * columns).map(|_| if bound > 0.0 { random.random_range(-bound..bound) } else { 0.0 }));
    to.extend(std::iter::repeat_n(0.0, columns));
}

/// What networks need on the device besides their weights.
#[derive(Debug, Clone)]
pub(super) struct Constants<B: Backend> {
    /// `[OUTPUTS − 1, OUTPUTS]`: turns increments into distances from the median, the first `MEDIAN` of them going down, the
    /// nearest first, the rest going up.
    pub increments: Tensor<B, 2>,
    // `[1, OUTPUTS]`
    levels: Tensor<B, 2>,
}

impl<B: Backend> Constants<B> {
    /// Places them.
    pub fn new(device: &B::Device) -> Constants<B> {
        let levels: Vec<f32> = LEVELS.iter().map(|level| *level as f32 - 1.0).collect();
        let levels = Tensor::from_data(TensorData::new(levels, [1, OUTPUTS]), device);
        Constants { increments: increments_to_quantiles(device), levels }
    }

    /// Weighted mean over rows of twice the pinball loss over all levels: `target` and `quantiles` of each row, with its
    /// weight.
    pub fn pinball_loss(
        &self,
        target: Vec<f32>,
        quantiles: Tensor<B, 2>,
        weights: &[f32],
        device: &B::Device,
    ) -> Tensor<B, 1> {
        let rows = target.len();
        let column = |values: Vec<f32>| Tensor::<B, 2>::from_data(TensorData::new(values, [rows, 1]), device);
        let total: f32 = weights.iter().sum::<f32>().max(1e-6);
        let share = weights.iter().map(|weight| 2.0 * weight / (total * OUTPUTS as f32)).collect();
        let error = column(target) - quantiles;
        let pinball = relu(error.clone()) + error * self.levels.clone();
        (pinball * column(share)).sum()
    }
}

fn increments_to_quantiles<B: Backend>(device: &B::Device) -> Tensor<B, 2> {
    let mut matrix = vec![0.0_f32; (OUTPUTS - 1) * OUTPUTS];
    for increment in 0..OUTPUTS - 1 {
        for quantile in 0..OUTPUTS {
            let value = if increment < MEDIAN {
                if quantile + increment < MEDIAN { -1.0 } else { 0.0 }
            } else if quantile > increment {
                1.0
            } else {
                0.0
            };
            matrix[increment * OUTPUTS + quantile] = value;
        }
    }
    Tensor::from_data(TensorData::new(matrix, [OUTPUTS - 1, OUTPUTS]), device)
}

/// 0.4 · ln(1 + eˣ): at x = 0 about the distance of neighbouring deciles in units of the spread.
pub(super) fn softplus<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    let tail = x.clone().abs().neg().exp().log1p();
    (relu(x) + tail).mul_scalar(0.4)
}

/// Dropout masks of two layers (Srivastava et al. 2014), `[rows, width]` each: 0 where a unit is silent, else the
/// reciprocal of the share that is not. Drawn on the host, so that a seed gives the same ones on every device.
pub(super) fn masks<B: Backend>(
    dropout: f64,
    dims: [usize; 2],
    random: &mut ChaCha8Rng,
    device: &B::Device,
) -> Option<[Tensor<B, 2>; 2]> {
    let silent = (dropout.clamp(0.0, 0.9) * 256.0) as u8;
    if silent == 0 {
        return None;
    }
    let kept = 256.0 / (256.0 - f32::from(silent));
    Some([(); 2].map(|()| {
        let mut bytes = vec![0_u8; dims[0] * dims[1]];
        random.fill_bytes(&mut bytes);
        let mask = bytes.into_iter().map(|byte| if byte < silent { 0.0 } else { kept }).collect();
        Tensor::from_data(TensorData::new::<f32, _>(mask, dims), device)
    }))
}

/// Rises linearly, then falls along a half cosine to a hundredth (Loshchilov and Hutter 2017).
pub(super) fn learning_rate(peak: f64, batch: usize, batches: usize) -> f64 {
    let done = batch as f64 / batches.max(1) as f64;
    if done < WARM_UP {
        return peak * (0.05 + 0.95 * done / WARM_UP);
    }
    let rest = (done - WARM_UP) / (1.0 - WARM_UP);
    peak * (0.01 + 0.99 * 0.5 * (1.0 + (std::f64::consts::PI * rest).cos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_and_falls() {
        let rates: Vec<f64> = (0..100).map(|b| learning_rate(1.0, b, 100)).collect();
        assert!(rates[0] < 0.1 && rates[5] > 0.99 && rates[99] < 0.02);
        assert!(rates[..5].windows(2).all(|w| w[0] < w[1]) && rates[5..].windows(2).all(|w| w[0] > w[1]));
    }
}
