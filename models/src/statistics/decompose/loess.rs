//! Local regression on a regular grid (LOESS; Cleveland 1979), fast where the grid makes it so.
//!
//! Away from the ends every window has the same tricube weights, computed once. A jump evaluates only some positions
//! and joins them by straight lines, as Cleveland et al. (1990) do for STL.

use crate::dense::dot;

/// The polynomial that is fitted locally.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Degree {
    /// A weighted mean.
    Constant,
    /// A weighted line.
    Linear,
}

/// A smoother.
#[derive(Debug, Clone, PartialEq)]
pub struct Loess {
    degree: Degree,
    /// Points of a window, odd.
    window: usize,
    /// Positions from one evaluation to the next.
    jump: usize,
    /// Weights of a window whose centre is the position; they sum to 1.
    kernel: Vec<f64>,
}

impl Loess {
    /// A smoother over windows of `window` points (made odd, at least 3), evaluated at every tenth part of a window.
    pub fn new(window: usize, degree: Degree) -> Loess {
        let window = window.max(3) | 1;
        let half = window / 2;
        let weights = |i: usize| tricube(i.abs_diff(half) as f64, half as f64);
        let sum: f64 = (0..window).map(weights).sum();
        let kernel = (0..window).map(|i| weights(i) / sum).collect();
        Loess { degree, window, jump: window.div_ceil(10), kernel }
    }

    /// The same smoother, evaluated at every position.
    #[cfg(test)]
    pub fn exact(mut self) -> Loess {
        self.jump = 1;
        self
    }

    /// Smooths `values` into `out`, which is as long. Weights, where there are any, multiply those of the distance;
    /// a window in which all are zero keeps its value.
    pub fn smooth(&self, values: &[f64], weights: Option<&[f64]>, out: &mut [f64]) {
        let Some(last) = values.len().checked_sub(1) else {
            return;
        };
        let evaluate = |i: usize| self.at(values, weights, i as isize).unwrap_or(values[i]);
        let mut from = 0;
        out[0] = evaluate(0);
        while from < last {
            let to = (from + self.jump).min(last);
            out[to] = evaluate(to);
            let slope = (out[to] - out[from]) / (to - from) as f64;
            for i in from + 1..to {
                out[i] = out[from] + slope * (i - from) as f64;
            }
            from = to;
        }
    }

    /// Value of the local fit at `position`, which may lie outside `values`; `None` where all weights are zero.
    pub fn at(&self, values: &[f64], weights: Option<&[f64]>, position: isize) -> Option<f64> {
        let (length, half) = (values.len(), (self.window / 2) as isize);
        let first = (position - half).clamp(0, (length as isize - self.window as isize).max(0)) as usize;
        let end = (first + self.window).min(length);
        let part = &values[first..end];
        let centred = part.len() == self.window && position - first as isize == half;
        match (centred, weights) {
            // A line through symmetric weights has its mean at the centre: both degrees agree.
            (true, None) => Some(dot(&self.kernel, part)),
            (true, Some(weights)) => {
                let distance = self.kernel.iter().zip(&weights[first..end]).map(|(k, w)| k * w);
                self.local(part, distance, position - first as isize)
            }
            (false, _) => {
                let reach = (position - first as isize).max(end as isize - 1 - position) as f64;
                // A window wider than the series reaches as far beyond it on both sides.
                let reach = reach + (self.window.saturating_sub(length) / 2) as f64;
                let weight = |i: usize| weights.map_or(1.0, |w| w[i]);
                let distance =
                    (first..end).map(|i| tricube((i as isize - position).unsigned_abs() as f64, reach) * weight(i));
                self.local(part, distance, position - first as isize)
            }
        }
    }

    /// The fit at `position`, counted from the start of `part`.
    fn local(&self, part: &[f64], weights: impl Iterator<Item = f64>, position: isize) -> Option<f64> {
        let (mut w, mut wx, mut wxx, mut wy, mut wxy) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (i, (y, weight)) in part.iter().zip(weights).enumerate() {
            let x = (i as isize - position) as f64;
            w += weight;
            wx += weight * x;
            wxx += weight * x * x;
            wy += weight * y;
            wxy += weight * x * y;
        }
        if w <= 0.0 {
            return None;
        }
        let (x, y) = (wx / w, wy / w);
        let spread = wxx / w - x * x;
        // With nearly all weight on one point there is no line.
        if self.degree == Degree::Constant || spread <= 1e-6 * (part.len() as f64).powi(2) {
            return Some(y);
        }
        Some(y - x * (wxy / w - x * y) / spread)
    }
}

/// Tricube weight of a point at `distance` from the centre of a window that ends at `reach`.
fn tricube(distance: f64, reach: f64) -> f64 {
    if distance == 0.0 {
        return 1.0;
    }
    let share = (distance / reach).min(1.0);
    let rest = 1.0 - share * share * share;
    rest * rest * rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::testing::gaussian_noise;

    fn smooth(loess: &Loess, values: &[f64], weights: Option<&[f64]>) -> Vec<f64> {
        let mut out = vec![0.0; values.len()];
        loess.smooth(values, weights, &mut out);
        out
    }

    /// The definition: the q nearest points, tricube weights, a weighted least-squares line.
    fn oracle(values: &[f64], weights: &[f64], window: usize, position: f64) -> f64 {
        let mut nearest: Vec<usize> = (0..values.len()).collect();
        nearest.sort_by(|a, b| (*a as f64 - position).abs().total_cmp(&(*b as f64 - position).abs()));
        nearest.truncate(window);
        let far = nearest.iter().map(|i| (*i as f64 - position).abs()).fold(0.0, f64::max);
        let reach = far + (window.saturating_sub(values.len()) / 2) as f64;
        let weight = |i: usize| tricube((i as f64 - position).abs(), reach) * weights[i];
        let total: f64 = nearest.iter().map(|i| weight(*i)).sum();
        let x: f64 = nearest.iter().map(|i| weight(*i) * *i as f64).sum::<f64>() / total;
        let y: f64 = nearest.iter().map(|i| weight(*i) * values[*i]).sum::<f64>() / total;
        let xx: f64 = nearest.iter().map(|i| weight(*i) * (*i as f64 - x).powi(2)).sum();
        let xy: f64 = nearest.iter().map(|i| weight(*i) * (*i as f64 - x) * (values[*i] - y)).sum();
        y + xy / xx * (position - x)
    }

    #[test]
    fn agrees_with_the_definition_inside_at_the_ends_and_beyond() {
        let values = gaussian_noise(1, 40);
        let weights: Vec<f64> = gaussian_noise(2, 40).iter().map(|e| e.abs().min(1.0)).collect();
        for window in [7, 15, 39, 61] {
            let loess = Loess::new(window, Degree::Linear).exact();
            for position in [-1, 0, 3, 20, 36, 39, 40] {
                for weights in [None, Some(&weights[..])] {
                    let expected = oracle(&values, weights.unwrap_or(&[1.0; 40]), window, position as f64);
                    let found = loess.at(&values, weights, position).unwrap();
                    assert!((found - expected).abs() < 1e-9, "{window} {position} {found} {expected}");
                }
            }
        }
    }

    #[test]
    fn a_line_stays_a_line_and_a_jump_changes_little() {
        let line: Vec<f64> = (0..50).map(|t| 2.0 * t as f64 - 7.0).collect();
        let loess = Loess::new(21, Degree::Linear);
        assert!(smooth(&loess, &line, None).iter().zip(&line).all(|(a, b)| (a - b).abs() < 1e-9));
        let wave: Vec<f64> = (0..500).map(|t| (t as f64 / 40.0).sin()).collect();
        let loess = Loess::new(51, Degree::Linear);
        let (fast, exact) = (smooth(&loess, &wave, None), smooth(&loess.clone().exact(), &wave, None));
        assert!(fast.iter().zip(&exact).all(|(a, b)| (a - b).abs() < 0.01));
    }

    #[test]
    fn what_has_no_weight_does_not_matter() {
        let mut values = vec![1.0; 30];
        values[12] = 1e6;
        let mut weights = vec![1.0; 30];
        weights[12] = 0.0;
        for degree in [Degree::Constant, Degree::Linear] {
            let found = smooth(&Loess::new(7, degree), &values, Some(&weights));
            assert!(found.iter().all(|v| (v - 1.0).abs() < 1e-9), "{found:?}");
        }
        assert_eq!(smooth(&Loess::new(3, Degree::Linear), &[4.0, 5.0], Some(&[0.0, 0.0])), vec![4.0, 5.0]);
        assert_eq!(smooth(&Loess::new(3, Degree::Linear), &[], None), Vec::<f64>::new());
        assert_eq!(smooth(&Loess::new(3, Degree::Linear), &[2.0], None), vec![2.0]);
    }
}
