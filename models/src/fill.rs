//! Missing values of a context, replaced from what was known at its end.

/// `values` without missing ones (NaN). A missing value becomes the one a season earlier, with the first of `seasons`
/// that reaches back to a known value; before that, the nearest earlier value. What is missing at the very beginning is
/// taken from one season later.
///
/// `None` when there is no value at all. Everything comes from `values`, so nothing from after their end is used.
pub fn fill_missing(values: &[f32], seasons: &[usize]) -> Option<Vec<f32>> {
    let first = values.iter().position(|v| v.is_finite())?;
    let mut filled = values.to_vec();
    let mut last = values[first];
    for i in first..filled.len() {
        if !filled[i].is_finite() {
            let before = seasons.iter().filter_map(|s| i.checked_sub(*s)).find(|j| *j >= first);
            filled[i] = before.map_or(last, |j| filled[j]);
        }
        last = filled[i];
    }
    let season = seasons.last().copied().unwrap_or(1).max(1);
    for i in (0..first).rev() {
        filled[i] = filled.get(i + season).or(filled.get(first)).copied().unwrap_or(last);
    }
    Some(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP: f32 = f32::NAN;

    #[test]
    fn gaps_are_filled_from_the_season_before() {
        for (values, seasons, expected) in [
            (vec![1.0, 2.0, GAP, 4.0], vec![2], vec![1.0, 2.0, 1.0, 4.0]),
            (vec![1.0, 2.0, 3.0, GAP, GAP], vec![3, 2], vec![1.0, 2.0, 3.0, 1.0, 2.0]),
            (vec![1.0, GAP], vec![4], vec![1.0, 1.0]),
            (vec![GAP, GAP, 3.0, 4.0, 5.0], vec![2], vec![3.0, 4.0, 3.0, 4.0, 5.0]),
            (vec![1.0, GAP, GAP, GAP], vec![1], vec![1.0; 4]),
        ] {
            assert_eq!(fill_missing(&values, &seasons), Some(expected), "{values:?}");
        }
        assert_eq!(fill_missing(&[GAP, GAP], &[1]), None);
        assert_eq!(fill_missing(&[], &[1]), None);
    }
}
