//! Minimisation without derivatives: Nelder and Mead's simplex (1965) within bounds, golden sections for one dimension.

/// Evaluations after which a search ends with the best it has.
const EVALUATIONS_MAX: usize = 400;
/// A search ends when the objective differs by less than this share over the simplex.
const TOLERANCE: f64 = 1e-7;

/// Where a search ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Minimum {
    /// The point, within the bounds.
    pub point: Vec<f64>,
    /// The objective there; infinite when it was finite nowhere.
    pub value: f64,
}

/// Smallest value of `objective` found within `bounds` (lowest and highest value of each dimension), from the best of
/// `starts`. Values that are not numbers count as infinitely bad. The objective sees a point outside the bounds mirrored
/// at them: moved onto them, the simplex would lose a dimension there.
///
/// With no dimension or no start, the objective is evaluated once at the middle of the bounds.
pub fn nelder_mead(mut objective: impl FnMut(&[f64]) -> f64, bounds: &[(f64, f64)], starts: &[Vec<f64>]) -> Minimum {
    let inside = |point: &[f64]| -> Vec<f64> {
        point.iter().zip(bounds).map(|(x, (low, high))| mirrored(*x, *low, *high)).collect()
    };
    let mut evaluate = |point: Vec<f64>| {
        let value = objective(&inside(&point));
        Minimum { point, value: if value.is_nan() { f64::INFINITY } else { value } }
    };
    let middle = || bounds.iter().map(|(low, high)| (low + high) / 2.0).collect::<Vec<f64>>();
    let mut best = evaluate(starts.first().cloned().unwrap_or_else(middle));
    for start in starts.iter().skip(1) {
        let other = evaluate(start.clone());
        if other.value < best.value {
            best = other;
        }
    }
    let dimensions = bounds.len();
    let mut simplex = vec![best];
    for (i, (low, high)) in bounds.iter().enumerate() {
        let mut corner = simplex[0].point.clone();
        let step = 0.15 * (high - low);
        corner[i] += if corner[i] + step <= *high { step } else { -step };
        simplex.push(evaluate(corner));
    }
    let mut evaluations = starts.len().max(1) + dimensions;
    loop {
        simplex.sort_by(|a, b| a.value.total_cmp(&b.value));
        let (first, last) = (simplex[0].value, simplex[dimensions].value);
        if evaluations >= EVALUATIONS_MAX || last - first <= TOLERANCE * first.abs() || first.is_infinite() {
            let best = simplex.swap_remove(0);
            return Minimum { point: inside(&best.point), value: best.value };
        }
        let centroid: Vec<f64> = (0..dimensions)
            .map(|i| simplex[..dimensions].iter().map(|corner| corner.point[i]).sum::<f64>() / dimensions as f64)
            .collect();
        let along = |share: f64, worst: &[f64]| {
            centroid.iter().zip(worst).map(|(centre, worst)| centre + share * (centre - worst)).collect::<Vec<f64>>()
        };
        let reflected = evaluate(along(1.0, &simplex[dimensions].point));
        evaluations += 1;
        if reflected.value < first {
            let expanded = evaluate(along(2.0, &simplex[dimensions].point));
            evaluations += 1;
            simplex[dimensions] = if expanded.value < reflected.value { expanded } else { reflected };
        } else if reflected.value < simplex[dimensions - 1].value {
            simplex[dimensions] = reflected;
        } else {
            let share = if reflected.value < last { 0.5 } else { -0.5 };
            let contracted = evaluate(along(share, &simplex[dimensions].point));
            evaluations += 1;
            if contracted.value < last.min(reflected.value) {
                simplex[dimensions] = contracted;
            } else {
                let centre = simplex[0].point.clone();
                for corner in &mut simplex[1..] {
                    let halfway = corner.point.iter().zip(&centre).map(|(x, c)| (x + c) / 2.0).collect();
                    *corner = evaluate(halfway);
                }
                evaluations += dimensions;
            }
        }
    }
}

/// `x` folded into `low` … `high`; what is not finite becomes `low`.
fn mirrored(x: f64, low: f64, high: f64) -> f64 {
    let range = high - low;
    let along = (x - low).rem_euclid(2.0 * range);
    let folded = low + if along > range { 2.0 * range - along } else { along };
    // `max` before `min`, so that NaN (also of an empty range) becomes the lower bound.
    folded.max(low).min(high)
}

/// Smallest value of a function of one number between `low` and `high`: the best of `grid` + 1 equidistant points, then
/// golden sections between its neighbours (Kiefer 1953) until the bracket is 10⁻⁵ of the range.
pub fn golden_section(mut objective: impl FnMut(f64) -> f64, low: f64, high: f64, grid: usize) -> f64 {
    let golden = (5.0_f64.sqrt() - 1.0) / 2.0;
    let grid = grid.max(2);
    let at = |i: usize| low + (high - low) * i as f64 / grid as f64;
    let mut value = |x: f64| {
        let value = objective(x);
        if value.is_nan() { f64::INFINITY } else { value }
    };
    let mut best = (0, f64::INFINITY);
    for i in 0..=grid {
        let found = value(at(i));
        if found < best.1 {
            best = (i, found);
        }
    }
    let (mut left, mut right) = (at(best.0.saturating_sub(1)), at((best.0 + 1).min(grid)));
    let (mut inner_left, mut inner_right) = (right - golden * (right - left), left + golden * (right - left));
    let (mut value_left, mut value_right) = (value(inner_left), value(inner_right));
    while right - left > 1e-5 * (high - low) {
        if value_left <= value_right {
            (right, inner_right, value_right) = (inner_right, inner_left, value_left);
            inner_left = right - golden * (right - left);
            value_left = value(inner_left);
        } else {
            (left, inner_left, value_left) = (inner_left, inner_right, value_right);
            inner_right = left + golden * (right - left);
            value_right = value(inner_right);
        }
    }
    let found = (left + right) / 2.0;
    // The grid's own point wins where the function has no single valley.
    if value(found) <= best.1 { found } else { at(best.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_valley_of_rosenbrock() {
        let rosenbrock = |x: &[f64]| (1.0 - x[0]).powi(2) + 100.0 * (x[1] - x[0] * x[0]).powi(2);
        let found = nelder_mead(rosenbrock, &[(-2.0, 2.0), (-2.0, 2.0)], &[vec![-1.2, 1.0]]);
        assert!(found.value < 1e-6, "{found:?}");
    }

    #[test]
    fn stays_within_the_bounds() {
        let found = nelder_mead(|x| x[0] + x[1] * x[1], &[(0.5, 3.0), (-1.0, 1.0)], &[vec![9.0, 0.7]]);
        assert!((found.point[0] - 0.5).abs() < 1e-6 && found.point[1].abs() < 1e-2, "{found:?}");
        for (x, inside) in [(0.3, 0.3), (1.2, 0.8), (-0.2, 0.2), (5.5, 0.5), (f64::NAN, 0.0), (f64::INFINITY, 0.0)] {
            assert!((mirrored(x, 0.0, 1.0) - inside).abs() < 1e-12, "{x}");
        }
    }

    #[test]
    fn an_objective_without_numbers_ends() {
        assert_eq!(nelder_mead(|_| f64::NAN, &[(0.0, 1.0)], &[vec![0.5]]).value, f64::INFINITY);
        assert_eq!(nelder_mead(|x| x.len() as f64, &[], &[]), Minimum { point: vec![], value: 0.0 });
        assert!((0.0..=1.0).contains(&golden_section(|_| f64::NAN, 0.0, 1.0, 4)));
    }

    #[test]
    fn golden_sections_find_the_lower_of_two_valleys() {
        let two = |x: f64| ((x - 0.2).powi(2)).min((x - 0.81).powi(2) - 0.01);
        assert!((golden_section(two, 0.0, 1.0, 20) - 0.81).abs() < 1e-4);
        assert_eq!(golden_section(|x| x, 0.1, 0.9, 10), 0.1);
    }
}
