//! Predictive distributions: quantiles of the normal distribution, of samples, and random numbers from a fixed seed.

use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Quantile of the standard normal distribution at `level`: algorithm AS 241 (Wichura 1988), about 16 digits.
///
/// Infinite at 0 and 1, NaN outside.
// The coefficients have the digits that were published.
#[allow(clippy::excessive_precision)]
pub fn normal_quantile(level: f64) -> f64 {
    const CENTRE: ([f64; 8], [f64; 8]) = (
        [
            3.387_132_872_796_366_608,
            133.141_667_891_784_377_45,
            1_971.590_950_306_551_442_7,
            13_731.693_765_509_461_125,
            45_921.953_931_549_871_457,
            67_265.770_927_008_700_853,
            33_430.575_583_588_128_105,
            2_509.080_928_730_122_672_7,
        ],
        [
            1.0,
            42.313_330_701_600_911_252,
            687.187_007_492_057_908_3,
            5_394.196_021_424_751_107_7,
            21_213.794_301_586_595_867,
            39_307.895_800_092_710_61,
            28_729.085_735_721_942_674,
            5_226.495_278_852_854_561,
        ],
    );
    const MIDDLE: ([f64; 8], [f64; 8]) = (
        [
            1.423_437_110_749_683_577_34,
            4.630_337_846_156_545_295_9,
            5.769_497_221_460_691_405_5,
            3.647_848_324_763_204_605_04,
            1.270_458_252_452_368_382_58,
            0.241_780_725_177_450_611_77,
            0.022_723_844_989_269_184_583_3,
            7.745_450_142_783_414_076_4e-4,
        ],
        [
            1.0,
            2.053_191_626_637_758_821_87,
            1.676_384_830_183_803_849_4,
            0.689_767_334_985_100_004_55,
            0.148_103_976_427_480_074_59,
            0.015_198_666_563_616_457_196_6,
            5.475_938_084_995_344_946e-4,
            1.050_750_071_644_416_843_24e-9,
        ],
    );
    const TAIL: ([f64; 8], [f64; 8]) = (
        [
            6.657_904_643_501_103_777_2,
            5.463_784_911_164_114_369_9,
            1.784_826_539_917_291_335_8,
            0.296_560_571_828_504_891_23,
            0.026_532_189_526_576_123_093,
            0.001_242_660_947_388_078_438_6,
            2.711_555_568_743_487_578_15e-5,
            2.010_334_399_292_288_132_65e-7,
        ],
        [
            1.0,
            0.599_832_206_555_887_937_69,
            0.136_929_880_922_735_805_31,
            0.014_875_361_290_850_614_852_5,
            7.868_691_311_456_132_591e-4,
            1.846_318_317_510_054_681_8e-5,
            1.421_511_758_316_445_888_7e-7,
            2.044_263_103_389_939_785_64e-15,
        ],
    );
    let centred = level - 0.5;
    if centred.abs() <= 0.425 {
        return centred * ratio(&CENTRE, 0.425 * 0.425 - centred * centred);
    }
    let root = (-level.min(1.0 - level).ln()).sqrt();
    let size = if root <= 5.0 { ratio(&MIDDLE, root - 1.6) } else { ratio(&TAIL, root - 5.0) };
    if root.is_infinite() { f64::INFINITY.copysign(centred) } else { size.copysign(centred) }
}

/// Ratio of two polynomials, coefficients of the lowest power first.
fn ratio((above, below): &([f64; 8], [f64; 8]), x: f64) -> f64 {
    let value = |coefficients: &[f64; 8]| coefficients.iter().rev().fold(0.0, |sum, c| sum * x + c);
    value(above) / value(below)
}

/// Linear interpolation between order statistics (type 7 of Hyndman and Fan 1996); NaN of an empty slice.
pub fn sample_quantile(sorted: &[f64], level: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let position = level.clamp(0.0, 1.0) * last as f64;
    let below = position.floor() as usize;
    match (sorted.get(below), sorted.get((below + 1).min(last))) {
        (Some(low), Some(high)) => low + (high - low) * (position - below as f64),
        _ => f64::NAN,
    }
}

/// Quantiles of one step at `levels` from a sample, which is sorted in place.
pub fn sample_quantiles(sample: &mut [f64], levels: &[f64]) -> Vec<f64> {
    sample.sort_unstable_by(f64::total_cmp);
    levels.iter().map(|level| sample_quantile(sample, *level)).collect()
}

/// Random numbers for simulated paths: the same seed gives the same numbers on every machine.
#[derive(Debug, Clone)]
pub struct Randomness(ChaCha8Rng);

impl Randomness {
    /// Numbers of the stream that belongs to `seed`.
    pub fn new(seed: u64) -> Randomness {
        Randomness(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Uniform on (0, 1), both ends left out.
    pub fn uniform(&mut self) -> f64 {
        // 53 random bits at the middle of their cells: never 0, never 1.
        (((self.0.random::<u64>() >> 11) as f64) + 0.5) / (1_u64 << 53) as f64
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        normal_quantile(self.uniform())
    }

    /// Laplace with mean 0 and the given scale (mean absolute value).
    pub fn laplace(&mut self, scale: f64) -> f64 {
        let centred = self.uniform() - 0.5;
        -scale * centred.signum() * (1.0 - 2.0 * centred.abs()).max(f64::MIN_POSITIVE).ln()
    }

    /// Exponential with mean 1.
    pub fn exponential(&mut self) -> f64 {
        -self.uniform().ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_quantiles_agree_with_published_values() {
        for (level, expected) in [
            (0.5, 0.0),
            (0.9, 1.281_551_565_544_600_4),
            (0.975, 1.959_963_984_540_054),
            (0.99, 2.326_347_874_040_841),
            (0.1, -1.281_551_565_544_600_4),
            (1e-6, -4.753_424_308_822_899),
            (1e-12, -7.034_483_825_301_131),
        ] {
            assert!((normal_quantile(level) - expected).abs() < 1e-9, "{level} {}", normal_quantile(level));
        }
        assert_eq!((normal_quantile(0.0), normal_quantile(1.0)), (f64::NEG_INFINITY, f64::INFINITY));
        assert!(normal_quantile(f64::NAN).is_nan() && normal_quantile(-0.1).is_nan() && normal_quantile(1.1).is_nan());
    }

    #[test]
    fn sample_quantiles_interpolate() {
        assert_eq!(sample_quantiles(&mut [4.0, 1.0, 3.0, 2.0], &[0.1, 0.5, 0.9]), vec![1.3, 2.5, 3.7]);
        assert_eq!(sample_quantile(&[2.0], 0.9), 2.0);
        assert!(sample_quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn random_numbers_have_their_moments_and_repeat() {
        let draw = |f: fn(&mut Randomness) -> f64| {
            let mut randomness = Randomness::new(7);
            (0..20_000).map(|_| f(&mut randomness)).collect::<Vec<f64>>()
        };
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        let square = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>() / v.len() as f64;
        let normal = draw(Randomness::normal);
        assert!(mean(&normal).abs() < 0.03 && (square(&normal) - 1.0).abs() < 0.04);
        let laplace = draw(|r| r.laplace(0.5));
        assert!(mean(&laplace).abs() < 0.03 && (square(&laplace) - 0.5).abs() < 0.04);
        let exponential = draw(Randomness::exponential);
        assert!((mean(&exponential) - 1.0).abs() < 0.03);
        assert_eq!(normal, draw(Randomness::normal));
    }
}
