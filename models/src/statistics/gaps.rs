//! Missing values, filled so that a filter can run over them. What is filled in never counts as a residual.

/// `values` with linear interpolation between the nearest known values; before the first and after the last known one,
/// that value. All missing stays all missing.
pub fn interpolate(values: &[f64]) -> Vec<f64> {
    let mut filled = values.to_vec();
    let mut last: Option<usize> = None;
    for i in 0..values.len() {
        if !values[i].is_finite() {
            continue;
        }
        match last {
            None => filled[..i].fill(values[i]),
            Some(left) => {
                let slope = (values[i] - values[left]) / (i - left) as f64;
                for (step, value) in filled[left..i].iter_mut().enumerate().skip(1) {
                    *value = values[left] + slope * step as f64;
                }
            }
        }
        last = Some(i);
    }
    if let Some(last) = last {
        filled[last..].fill(values[last]);
    }
    filled
}

/// As [`interpolate`], for a series with a season: a missing value is the mean of the values one period before and one
/// after it (the one that is known, where it is only one), and only where both are missing too a straight line.
pub fn fill_seasonal(values: &[f64], period: usize) -> Vec<f64> {
    if period < 2 || values.iter().all(|v| v.is_finite()) {
        return interpolate(values);
    }
    let known = |i: Option<usize>| i.and_then(|i| values.get(i)).copied().filter(|v| v.is_finite());
    let mut filled = values.to_vec();
    for (i, value) in filled.iter_mut().enumerate().filter(|(_, v)| !v.is_finite()) {
        *value = match (known(i.checked_sub(period)), known(i.checked_add(period))) {
            (Some(before), Some(after)) => before / 2.0 + after / 2.0,
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => f64::NAN,
        };
    }
    interpolate(&filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP: f64 = f64::NAN;

    #[test]
    fn gaps_become_straight_lines() {
        for (values, expected) in [
            (vec![1.0, GAP, GAP, 4.0], vec![1.0, 2.0, 3.0, 4.0]),
            (vec![GAP, 2.0, GAP], vec![2.0, 2.0, 2.0]),
            (vec![], vec![]),
            (vec![5.0], vec![5.0]),
        ] {
            assert_eq!(interpolate(&values), expected);
        }
        assert!(interpolate(&[GAP, GAP]).iter().all(|v| v.is_nan()));
    }

    #[test]
    fn seasonal_gaps_come_from_the_seasons_beside_them() {
        for (values, period, expected) in [
            (vec![1.0, 9.0, GAP, 9.0, 3.0, 9.0], 2, vec![1.0, 9.0, 2.0, 9.0, 3.0, 9.0]),
            (vec![1.0, 9.0, GAP], 2, vec![1.0, 9.0, 1.0]),
            (vec![1.0, GAP, 3.0], 7, vec![1.0, 2.0, 3.0]),
            (vec![1.0, GAP, 3.0], 0, vec![1.0, 2.0, 3.0]),
        ] {
            assert_eq!(fill_seasonal(&values, period), expected);
        }
    }
}
