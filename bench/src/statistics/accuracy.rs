//! How good forecasts are, by the same code whoever made them.

use meterline_models::metrics::{Sums, seasonal_scale};
use meterline_schemas::quantiles::LEVELS;

use super::{HORIZON, WEEK};

/// Numbers of one step: its mean and its quantiles.
pub const WIDTH: usize = 1 + LEVELS.len();

/// Figures of the forecasts of all series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Mean absolute scaled error of the mean, its scale that of the week before: below 1 is better than what was a
    /// week ago. `None` where nothing was scored.
    pub mase: Option<f64>,
    /// Weighted quantile loss; `None` where there are no quantiles.
    pub wql: Option<f64>,
}

/// Scores `said`, series × [`HORIZON`] × [`WIDTH`], NaN where nothing was said, against the ends of `series`.
pub fn score(series: &[Vec<f32>], said: &[f64]) -> Score {
    let (mut errors, mut scaled) = (0.0, 0_usize);
    let mut sums = Sums::default();
    for (values, said) in series.iter().zip(said.chunks_exact(HORIZON * WIDTH)) {
        let (known, actuals) = values.split_at(values.len().saturating_sub(HORIZON));
        let scale = seasonal_scale(known, WEEK);
        for (actual, step) in actuals.iter().zip(said.chunks_exact(WIDTH)) {
            let (actual, mean) = (f64::from(*actual), step[0]);
            if let Some(scale) = scale.filter(|_| mean.is_finite()) {
                errors += (actual - mean).abs() / scale;
                scaled += 1;
            }
            let quantiles: Option<&[f64; LEVELS.len()]> = step[1..].try_into().ok();
            if let Some(quantiles) = quantiles.filter(|all| all.iter().all(|quantile| quantile.is_finite())) {
                sums.add(actual, quantiles);
            }
        }
    }
    Score { mase: (scaled > 0).then(|| errors / scaled as f64), wql: sums.wql() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_compared_with_the_end() {
        // Another value each week: the scale is 2.
        let known = (0..3 * WEEK).map(|hour| 2.0 * (hour / WEEK) as f32);
        let series = vec![known.chain([10.0; HORIZON]).collect::<Vec<f32>>()];
        let mut said = vec![9.0; HORIZON * WIDTH];
        let found = score(&series, &said);
        assert_eq!(found.mase, Some(0.5));
        // Pinball is the level times 1; the mean of the deciles is a half.
        assert!((found.wql.unwrap() - 0.1).abs() < 1e-12);
        said.chunks_exact_mut(WIDTH).for_each(|step| step[1..].fill(f64::NAN));
        assert_eq!(score(&series, &said), Score { mase: Some(0.5), wql: None });
        assert_eq!(score(&series, &[]), Score { mase: None, wql: None });
    }
}
