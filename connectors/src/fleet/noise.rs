//! Randomness as pure functions: the same seed and argument give the same number, so nothing needs state.

/// Mixes two numbers into one without visible pattern (the finaliser of SplitMix64).
pub fn hash(seed: u64, argument: u64) -> u64 {
    let mut z = seed ^ argument.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Uniform in [0, 1).
pub fn uniform(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

/// Uniform in [low, high).
pub fn between(hash: u64, low: f64, high: f64) -> f64 {
    low + uniform(hash) * (high - low)
}

/// Nearly normal with mean 0 and variance 1: the sum of four uniforms, so within ± 3.5.
pub fn normal(hash: u64) -> f64 {
    let sum = (hash & 0xffff) + ((hash >> 16) & 0xffff) + ((hash >> 32) & 0xffff) + (hash >> 48);
    (sum as f64 / 65_536.0 - 2.0) * 1.732_050_8
}

/// Smooth noise in `x` with mean 0 and variance 1, correlated over about one unit of `x`: the stand-in for an
/// autoregressive process that can be read at any time.
pub fn smooth(seed: u64, x: f64) -> f64 {
    let cell = x.floor();
    let t = x - cell;
    let w = t * t * (3.0 - 2.0 * t);
    let corner = |i: i64| normal(hash(seed, i as u64));
    let cell = cell as i64;
    let mixed = corner(cell) * (1.0 - w) + corner(cell + 1) * w;
    mixed / (w * w + (1.0 - w) * (1.0 - w)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_mean_0_and_variance_1() {
        type Source = fn(u64) -> f64;
        let sources: [(&str, Source); 2] =
            [("normal", |i| normal(hash(1, i))), ("smooth", |i| smooth(2, i as f64 * 0.77))];
        for (name, source) in sources {
            let values: Vec<f64> = (0..20_000).map(source).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
            assert!(mean.abs() < 0.05 && (variance - 1.0).abs() < 0.1, "{name}: {mean} {variance}");
        }
    }
}
