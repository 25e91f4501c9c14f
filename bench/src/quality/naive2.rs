//! Naive2: the last value of the seasonally adjusted series, and the season put back.
//!
//! The yardstick of the M4 competition (Makridakis, Spiliotis and Assimakopoulos 2020, "The M4 Competition: 100,000 time
//! series and 61 forecasting methods"): a series whose autocorrelation at the season is significant at 90 % is adjusted
//! by classical multiplicative decomposition.

/// Quantile of the normal distribution for a two-sided test at 90 %.
const CRITICAL: f64 = 1.645;

/// Forecast of `horizon` steps after `known`, all of whose values must be there.
///
/// `None` for an empty series, and where the result is not finite: the decomposition divides by the trend, which may be
/// zero or change its sign.
pub fn naive2(known: &[f32], season: usize, horizon: usize) -> Option<Vec<f64>> {
    let values: Vec<f64> = known.iter().map(|v| f64::from(*v)).collect();
    let n = values.len();
    let last = *values.last()?;
    let indices = if is_seasonal(&values, season) { seasonal_indices(&values, season)? } else { vec![1.0] };
    let adjusted = last / indices[(n - 1) % indices.len()];
    let forecast: Vec<f64> = (n..n + horizon).map(|at| adjusted * indices[at % indices.len()]).collect();
    forecast.iter().all(|v| v.is_finite()).then_some(forecast)
}

/// Whether the autocorrelation at lag `season` leaves the band that Bartlett's formula gives for a series that is
/// correlated at the lags below it and not at it. Never with less than three seasons, nor for a constant.
pub fn is_seasonal(values: &[f64], season: usize) -> bool {
    let n = values.len();
    if season < 2 || n < 3 * season {
        return false;
    }
    let mean = values.iter().sum::<f64>() / n as f64;
    let covariance = |lag: usize| -> f64 {
        values.iter().zip(values.iter().skip(lag)).map(|(past, now)| (past - mean) * (now - mean)).sum()
    };
    let variance = covariance(0);
    if variance <= 0.0 {
        return false;
    }
    let below: f64 = (1..season).map(|lag| (covariance(lag) / variance).powi(2)).sum();
    let limit = CRITICAL * ((1.0 + 2.0 * below) / n as f64).sqrt();
    (covariance(season) / variance).abs() > limit
}

/// Multiplicative seasonal indices with mean 1, the first for the phase of the first value: the mean of value by trend
/// over all whole seasons, where the trend is a centred moving average over one season.
fn seasonal_indices(values: &[f64], season: usize) -> Option<Vec<f64>> {
    let half = season / 2;
    let mut sums = vec![(0.0, 0_usize); season];
    for at in half..values.len().saturating_sub(half) {
        let window = &values[at - half..=at + half];
        let mut total: f64 = window.iter().sum();
        if season.is_multiple_of(2) {
            // The window has one value more than the season: both ends count half.
            total -= 0.5 * (window[0] + window[2 * half]);
        }
        let (sum, count) = &mut sums[at % season];
        *sum += values[at] / (total / season as f64);
        *count += 1;
    }
    let means: Vec<f64> = sums.iter().map(|(sum, count)| sum / *count as f64).collect();
    let mean = means.iter().sum::<f64>() / season as f64;
    let indices: Vec<f64> = means.iter().map(|m| m / mean).collect();
    indices.iter().all(|i| i.is_finite() && *i != 0.0).then_some(indices)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seasonal(n: usize) -> Vec<f32> {
        let pattern = [0.5, 1.0, 1.5, 1.0];
        (0..n).map(|i| (100.0 * pattern[i % 4]) as f32).collect()
    }

    #[test]
    fn a_pure_season_goes_on_from_whatever_phase_it_ends_at() {
        for n in [40, 41, 42, 43] {
            let found = naive2(&seasonal(n), 4, 6).unwrap();
            let expected = &seasonal(n + 6)[n..];
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - f64::from(*expected)).abs() < 1e-9, "{n}: {found} {expected}");
            }
        }
    }

    #[test]
    fn a_season_counts_only_where_it_is_significant() {
        let values: Vec<f64> = seasonal(40).iter().map(|v| f64::from(*v)).collect();
        for (n, season, expected) in [(40, 4, true), (40, 2, true), (11, 4, false), (40, 3, false), (40, 1, false)] {
            assert_eq!(is_seasonal(&values[..n], season), expected, "{n} {season}");
        }
    }

    #[test]
    fn odd_seasons_are_centred_without_half_weights() {
        let pattern = [0.5, 1.0, 1.5];
        let known: Vec<f32> = (0..30).map(|i| (10.0 * pattern[i % 3]) as f32).collect();
        let found = naive2(&known, 3, 3).unwrap();
        for (found, expected) in found.iter().zip([5.0, 10.0, 15.0]) {
            assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        }
    }

    #[test]
    fn without_a_season_the_last_value_stays() {
        let trend: Vec<f32> = (0..9).map(|i| i as f32).collect();
        for (known, season) in [(vec![7.0; 40], 4), (vec![1.0, 5.0, 2.0], 4), (vec![3.0], 1), (trend, 4)] {
            let last = f64::from(*known.last().unwrap());
            assert_eq!(naive2(&known, season, 3), Some(vec![last; 3]), "{known:?}");
        }
        assert_eq!(naive2(&[], 4, 3), None);
    }

    #[test]
    fn a_result_that_is_not_finite_is_none() {
        // A trend of zero everywhere.
        let known: Vec<f32> = (0..40).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        assert_eq!(naive2(&known, 2, 3), None);
        assert_eq!(naive2(&[f32::NAN], 4, 3), None);
    }
}
