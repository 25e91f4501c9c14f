//! What the tests of this module share: requests, simulated series, coverage.

use super::quantiles::Randomness;
use super::{Predicted, Request, StatisticsError};

/// Levels of most tests: an interval of 80 % and the median.
pub const LEVELS: [f64; 3] = [0.1, 0.5, 0.9];

/// A request without regressors at [`LEVELS`].
pub fn request<'a>(values: &'a [f64], periods: &'a [usize], horizon: usize) -> Request<'a> {
    Request { values, periods, regressors: &[], horizon, levels: &LEVELS }
}

/// Standard normal noise.
pub fn gaussian_noise(seed: u64, length: usize) -> Vec<f64> {
    let mut randomness = Randomness::new(seed);
    (0..length).map(|_| randomness.normal()).collect()
}

/// Two seasons, a trend and noise of standard deviation 1.
pub fn two_seasons(seed: u64, length: usize, short: usize, long: usize) -> Vec<f64> {
    let wave = |t: usize, period: usize| (std::f64::consts::TAU * t as f64 / period as f64).sin();
    let noise = gaussian_noise(seed, length);
    let value = |(t, e): (usize, f64)| 100.0 + 0.002 * t as f64 + 10.0 * wave(t, short) + 5.0 * wave(t, long) + e;
    noise.into_iter().enumerate().map(value).collect()
}

/// Share of the actual values after `known` steps that lie between the first and the last quantile, over simulated
/// series of `known` + `horizon` values.
pub fn coverage(
    series: u64,
    known: usize,
    horizon: usize,
    mut simulate: impl FnMut(u64) -> Vec<f64>,
    forecast: impl Fn(&Request) -> Result<Predicted, StatisticsError>,
) -> f64 {
    let (mut inside, mut all) = (0, 0);
    for seed in 0..series {
        let values = simulate(seed);
        let found = forecast(&request(&values[..known], &[], horizon)).unwrap();
        for (quantiles, actual) in found.quantiles.iter().zip(&values[known..]) {
            inside += usize::from(quantiles[0] <= *actual && *actual <= quantiles[quantiles.len() - 1]);
            all += 1;
        }
    }
    inside as f64 / all as f64
}

/// Whether every step's quantiles ascend.
pub fn ascending(predicted: &Predicted) -> bool {
    predicted.quantiles.iter().all(|q| q.windows(2).all(|pair| pair[0] <= pair[1]))
}

/// Mean absolute difference.
pub fn mean_absolute_error(found: &[f64], actual: &[f64]) -> f64 {
    assert_eq!(found.len(), actual.len());
    found.iter().zip(actual).map(|(a, b)| (a - b).abs()).sum::<f64>() / found.len() as f64
}
