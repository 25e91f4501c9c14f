//! Closed formulas: naive, seasonal naive, mean and drift (Hyndman and Athanasopoulos, FPP3 2021, sections 5.2 and
//! 5.5).
//!
//! Quantiles are those of a normal distribution with the textbook's variances. A gap of g steps between two values of a
//! random walk counts as one residual over g steps, and a series that ends with missing values is that much further
//! from its forecast.

use super::{Predicted, Prepared, Request, StatisticsError};

/// Known values and the steps they stand at.
fn known(values: &[f64]) -> Vec<(usize, f64)> {
    values.iter().copied().enumerate().filter(|(_, v)| v.is_finite()).collect()
}

/// The last value comes again: the forecast of a random walk, variance h σ².
///
/// # Errors
///
/// [`StatisticsError::TooShort`] without a value. With one value nothing is known of the variance and every quantile is
/// the value.
pub fn naive(request: &Request) -> Result<Predicted, StatisticsError> {
    random_walk("naive", request, 1, |_| 0.0)
}

/// The last value, and from there the mean change of the past: a random walk with drift, variance
/// σ² h (1 + h / (T − 1)).
///
/// # Errors
///
/// [`StatisticsError::TooShort`] with fewer than two values.
pub fn drift(request: &Request) -> Result<Predicted, StatisticsError> {
    random_walk("drift", request, 2, |known| match (known.first(), known.last()) {
        (Some(first), Some(last)) if last.0 > first.0 => (last.1 - first.1) / (last.0 - first.0) as f64,
        _ => 0.0,
    })
}

fn random_walk(
    model: &'static str,
    request: &Request,
    needed: usize,
    slope: impl Fn(&[(usize, f64)]) -> f64,
) -> Result<Predicted, StatisticsError> {
    let prepared = Prepared::new(model, request, needed)?;
    let known = known(&prepared.values);
    let slope_per_step = slope(&known);
    let residuals = known.windows(2).map(|pair| {
        let gap = (pair[1].0 - pair[0].0) as f64;
        (pair[1].1 - pair[0].1 - slope_per_step * gap) / gap.sqrt()
    });
    // The drift was estimated from these differences: one degree of freedom less.
    let estimated = needed - 1;
    let freedom = known.len().saturating_sub(1 + estimated).max(1);
    let variance = residuals.map(|r| r * r).sum::<f64>() / freedom as f64;
    let (Some(first), Some(last)) = (known.first(), known.last()) else {
        return Err(StatisticsError::TooShort { model, needed, present: 0 });
    };
    let late = prepared.values.len() - last.0;
    let (mut mean, mut deviation) = (Vec::new(), Vec::new());
    for step in 0..request.horizon {
        let ahead = (step + late) as f64;
        mean.push(last.1 + slope_per_step * ahead);
        let of_slope = if estimated > 0 { ahead / (last.0 - first.0).max(1) as f64 } else { 0.0 };
        deviation.push((variance * ahead * (1.0 + of_slope)).sqrt());
    }
    prepared.gaussian(model, request.levels, mean, &deviation)
}

/// The value one period ago comes again, variance σ² times the number of periods ahead. The period is the longest that
/// the series covers twice, else the shortest one.
///
/// A phase whose last value is missing takes an earlier one, a phase without any the last value of the series.
///
/// # Errors
///
/// [`StatisticsError::TooShort`] without a value, [`StatisticsError::NoPeriod`] without a period.
pub fn seasonal_naive(request: &Request) -> Result<Predicted, StatisticsError> {
    const MODEL: &str = "seasonal_naive";
    let prepared = Prepared::new(MODEL, request, 1)?;
    let values = &prepared.values;
    let longest = prepared.covered_periods().last().copied();
    let Some(period) = longest.or(prepared.periods.first().copied()) else {
        return Err(StatisticsError::NoPeriod { model: MODEL });
    };
    let errors = values.iter().skip(period).zip(values).map(|(now, past)| now - past).filter(|e| e.is_finite());
    let (count, sum) = errors.fold((0_usize, 0.0), |(count, sum), e| (count + 1, sum + e * e));
    let variance = sum / count.max(1) as f64;
    let last = known(values).last().map_or(f64::NAN, |(_, v)| *v);
    let (mut mean, mut deviation) = (Vec::new(), Vec::new());
    for step in 0..request.horizon {
        let at = values.len() + step;
        let periods = step / period + 1;
        let back = (1..).map_while(|k| at.checked_sub(k * period)).skip(periods - 1);
        let (ago, value) = back
            .enumerate()
            .find_map(|(ago, i)| values.get(i).filter(|v| v.is_finite()).map(|v| (ago, *v)))
            .unwrap_or((0, last));
        mean.push(value);
        deviation.push((variance * (periods + ago) as f64).sqrt());
    }
    prepared.gaussian(MODEL, request.levels, mean, &deviation)
}

/// The mean of the past: values that vary around a level without memory, variance σ² (1 + 1 / T).
///
/// # Errors
///
/// [`StatisticsError::TooShort`] without a value.
pub fn mean(request: &Request) -> Result<Predicted, StatisticsError> {
    let prepared = Prepared::new("mean", request, 1)?;
    let known = known(&prepared.values);
    let count = known.len() as f64;
    let level = known.iter().map(|(_, v)| v / count).sum::<f64>();
    let variance = known.iter().map(|(_, v)| (v - level).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    let deviation = (variance * (1.0 + 1.0 / count)).sqrt();
    let horizon = request.horizon;
    prepared.gaussian("mean", request.levels, vec![level; horizon], &vec![deviation; horizon])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::testing::{LEVELS, coverage, gaussian_noise, request};

    /// Deviation from the quantile at 0.9.
    fn deviation(predicted: &Predicted, step: usize) -> f64 {
        (predicted.quantiles[step][2] - predicted.mean[step]) / 1.281_551_565_544_600_4
    }

    #[test]
    fn naive_and_its_variance_agree_with_the_textbook() {
        let found = naive(&request(&[1.0, 3.0, 2.0, 4.0], &[], 4)).unwrap();
        assert_eq!(found.mean, vec![4.0; 4]);
        // Differences 2, −1, 2: σ² = 3.
        for h in 1..=4 {
            assert!((deviation(&found, h - 1) - (3.0 * h as f64).sqrt()).abs() < 1e-9);
        }
    }

    #[test]
    fn drift_is_the_line_through_the_first_and_the_last_value() {
        let found = drift(&request(&[1.0, 3.0, 2.0, 7.0], &[], 2)).unwrap();
        assert_eq!(found.mean, vec![9.0, 11.0]);
        // Residuals 0, −3, 3 with two degrees of freedom: σ² = 9; h (1 + h / 3).
        assert!((deviation(&found, 1) - (9.0_f64 * 2.0 * (1.0 + 2.0 / 3.0)).sqrt()).abs() < 1e-9);
    }

    #[test]
    fn the_mean_varies_as_its_values() {
        let found = mean(&request(&[1.0, 3.0, f64::NAN, 5.0], &[], 1)).unwrap();
        assert!((found.mean[0] - 3.0).abs() < 1e-12);
        assert!((deviation(&found, 0) - (4.0 * (1.0 + 1.0 / 3.0_f64)).sqrt()).abs() < 1e-9);
    }

    #[test]
    fn seasons_repeat_and_spread_with_each_period() {
        let found = seasonal_naive(&request(&[1.0, 5.0, 2.0, 6.0, 3.0, 7.0], &[2], 4)).unwrap();
        assert_eq!(found.mean, vec![3.0, 7.0, 3.0, 7.0]);
        assert!((deviation(&found, 0) - 1.0).abs() < 1e-9 && (deviation(&found, 2) - 2.0_f64.sqrt()).abs() < 1e-9);
        let gap = seasonal_naive(&request(&[1.0, 5.0, 2.0, 6.0, f64::NAN, 7.0], &[2], 1)).unwrap();
        assert_eq!(gap.mean, vec![2.0]);
        assert_eq!(
            seasonal_naive(&request(&[1.0], &[1], 1)),
            Err(StatisticsError::NoPeriod { model: "seasonal_naive" })
        );
    }

    #[test]
    fn a_period_longer_than_the_series_takes_the_last_value() {
        let found = seasonal_naive(&request(&[1.0, 2.0, 3.0], &[7], 8)).unwrap();
        assert_eq!(found.mean, vec![3.0, 3.0, 3.0, 3.0, 1.0, 2.0, 3.0, 3.0]);
    }

    #[test]
    fn missing_values_at_the_end_are_steps_of_the_forecast() {
        let whole = [1.0, 3.0, 2.0, 4.0];
        let late = [1.0, 3.0, 2.0, 4.0, f64::NAN, f64::NAN];
        for model in [naive, drift] {
            let (whole, late) = (model(&request(&whole, &[], 4)).unwrap(), model(&request(&late, &[], 2)).unwrap());
            assert_eq!(whole.quantiles[2..], late.quantiles);
        }
    }

    #[test]
    fn a_random_walk_stays_within_its_quantiles() {
        let found = coverage(
            400,
            60,
            8,
            |seed| {
                let mut level = 0.0;
                let step = |e: f64| {
                    level += e;
                    level
                };
                gaussian_noise(seed, 68).into_iter().map(step).collect()
            },
            naive,
        );
        assert!((found - 0.8).abs() < 0.04, "{found}");
    }

    #[test]
    fn nothing_asked_and_nothing_known() {
        let levels = LEVELS;
        assert_eq!(naive(&request(&[1.0], &[], 0)).unwrap().mean, Vec::<f64>::new());
        assert_eq!(naive(&request(&[1.0], &[], 1)).unwrap().quantiles[0], vec![1.0; levels.len()]);
        let error = StatisticsError::TooShort { model: "drift", needed: 2, present: 1 };
        assert_eq!(drift(&request(&[f64::NAN, 1.0], &[], 1)), Err(error));
    }
}
