//! Scalar products, and Cholesky factors of small dense matrices (Golub and Van Loan, Matrix Computations, 2013, §4.2):
//! what every least squares here comes down to.

/// Scalar product, in eight running sums whatever the hardware, so that its bits are the same everywhere.
#[inline]
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for ((sum, x), y) in sums.iter_mut().zip(a).zip(b) {
            *sum += x * y;
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f64>() + rest
}

/// The lower triangle L of a symmetric positive definite matrix L Lᵀ.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cholesky {
    size: usize,
    // Row after row, each as long as it has cells up to the diagonal.
    lower: Vec<f64>,
}

impl Cholesky {
    /// The factor of a matrix whose `cell` at row and column is asked for in its lower triangle. `None` when it is not
    /// finite, or not positive definite: a pivot has to be more than `pivot_min` times the diagonal.
    pub(crate) fn new(size: usize, pivot_min: f64, cell: impl Fn(usize, usize) -> f64) -> Option<Cholesky> {
        let mut lower = Vec::with_capacity(size * (size + 1) / 2);
        for i in 0..size {
            let start = lower.len();
            for j in 0..i {
                let above = j * (j + 1) / 2;
                let sum = dot(&lower[start..], &lower[above..above + j]);
                lower.push((cell(i, j) - sum) / lower[above + j]);
            }
            let diagonal = cell(i, i);
            let row = &lower[start..];
            let pivot = diagonal - dot(row, row);
            // Not a number compares as false, and so is refused here.
            if !(pivot > pivot_min * diagonal && pivot > 0.0 && pivot.is_finite()) {
                return None;
            }
            lower.push(pivot.sqrt());
        }
        Some(Cholesky { size, lower })
    }

    // Row `i` up to the diagonal, and the diagonal.
    fn row(&self, i: usize) -> (&[f64], f64) {
        let start = i * (i + 1) / 2;
        (&self.lower[start..start + i], self.lower[start + i])
    }

    /// Replaces `b`, as long as the matrix, by the solution x of L x = b.
    pub(crate) fn forward(&self, b: &mut [f64]) {
        for i in 0..self.size.min(b.len()) {
            let (row, diagonal) = self.row(i);
            b[i] = (b[i] - dot(row, &b[..i])) / diagonal;
        }
    }

    /// Replaces `b`, as long as the matrix, by the solution x of L Lᵀ x = b.
    pub(crate) fn solve(&self, b: &mut [f64]) {
        self.forward(b);
        for i in (0..self.size.min(b.len())).rev() {
            let (row, diagonal) = self.row(i);
            let x = b[i] / diagonal;
            b[i] = x;
            for (value, factor) in b.iter_mut().zip(row) {
                *value -= factor * x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_solution_solves() {
        for size in [0, 1, 2, 7, 8, 9, 40] {
            let cell = |i: usize, j: usize| 1.0 / (1.0 + (i as f64 - j as f64).abs());
            let b: Vec<f64> = (0..size).map(|i| (i as f64).sin() + 2.0).collect();
            let mut x = b.clone();
            let factor = Cholesky::new(size, 0.0, cell).unwrap();
            factor.solve(&mut x);
            for (i, b) in b.iter().enumerate() {
                let found: f64 = x.iter().enumerate().map(|(j, x)| cell(i, j) * x).sum();
                assert!((found - b).abs() < 1e-10, "{size}");
            }
            // |L⁻¹ b|² is what x explains.
            let mut half = b.clone();
            factor.forward(&mut half);
            assert!((dot(&half, &half) - dot(&x, &b)).abs() < 1e-9, "{size}");
        }
    }

    #[test]
    fn what_is_not_positive_definite_has_no_factor() {
        for (pivot_min, cells) in [
            (0.0, [[1.0, 1.0], [1.0, 1.0]]),
            (0.0, [[1.0, 2.0], [2.0, 1.0]]),
            (0.0, [[-1.0, 0.0], [0.0, 1.0]]),
            (0.0, [[f64::NAN, 0.0], [0.0, 1.0]]),
            (0.0, [[f64::INFINITY, 0.0], [0.0, 1.0]]),
            (1e-3, [[1.0, 0.9999], [0.9999, 1.0]]),
        ] {
            assert_eq!(Cholesky::new(2, pivot_min, |i, j| cells[i][j]), None, "{cells:?}");
        }
    }
}
