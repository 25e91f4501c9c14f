//! Square symmetric matrices.

use super::panel::Gram;
use crate::dense::Cholesky;

/// Share of its diagonal cell below which a pivot counts as lost to rounding.
const PIVOT_MIN: f64 = 1e-12;
/// First addition to the diagonal, as a share of its mean, where a matrix is not positive definite.
const JITTER: f64 = 1e-10;

/// A square matrix, row by row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Square {
    size: usize,
    values: Vec<f64>,
}

impl Square {
    pub(super) fn zeros(size: usize) -> Square {
        Square { size, values: vec![0.0; size * size] }
    }

    /// The first `size` rows and columns of a Gram matrix that has at least as many.
    pub(super) fn of_gram(gram: &Gram, size: usize) -> Square {
        let mut square = Square::zeros(size);
        gram.for_each_upper(|i, j, value| {
            if i < size && j < size {
                square.values[i * size + j] = value;
                square.values[j * size + i] = value;
            }
        });
        square
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.size..(i + 1) * self.size]
    }

    pub(super) fn row_mut(&mut self, i: usize) -> &mut [f64] {
        &mut self.values[i * self.size..(i + 1) * self.size]
    }

    /// Adds `amount` to the first `count` cells of the diagonal.
    pub(super) fn add_diagonal(&mut self, count: usize, amount: f64) {
        for i in 0..count.min(self.size) {
            self.values[i * self.size + i] += amount;
        }
    }

    /// Adds `factor` times another matrix of the same size.
    pub(super) fn add_scaled(&mut self, factor: f64, other: &Square) {
        for (to, from) in self.values.iter_mut().zip(&other.values) {
            *to += factor * from;
        }
    }

    /// Multiplies every cell by `factor`.
    pub(super) fn scale(&mut self, factor: f64) {
        self.values.iter_mut().for_each(|value| *value *= factor);
    }

    fn diagonal_mean(&self) -> f64 {
        let sum: f64 = (0..self.size).map(|i| self.values[i * self.size + i]).sum();
        sum / self.size.max(1) as f64
    }
}

impl Square {
    /// The Cholesky factor; `None` when the matrix is not positive definite beyond rounding, or not finite.
    pub(super) fn factor(&self) -> Option<Cholesky> {
        Cholesky::new(self.size, PIVOT_MIN, |i, j| self.row(i)[j])
    }

    /// The same, the diagonal raised as little as makes it positive definite: collinear columns then share their
    /// coefficient. `None` only for a matrix that is not finite or whose diagonal is not positive.
    pub(super) fn factor_raised(&self) -> Option<Cholesky> {
        if let Some(factor) = self.factor() {
            return Some(factor);
        }
        let mean = self.diagonal_mean();
        let mut raised = self.clone();
        let mut jitter = JITTER * mean;
        while jitter.is_finite() && jitter > 0.0 && jitter <= mean {
            raised.add_diagonal(self.size, jitter);
            if let Some(factor) = raised.factor() {
                return Some(factor);
            }
            jitter *= 10.0;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(rows: &[&[f64]]) -> Square {
        Square { size: rows.len(), values: rows.concat() }
    }

    #[test]
    fn what_is_not_positive_definite_is_told_or_raised() {
        let singular = square(&[&[1.0, 1.0], &[1.0, 1.0]]);
        assert!(singular.factor().is_none());
        let mut x = vec![1.0, 1.0];
        singular.factor_raised().unwrap().solve(&mut x);
        assert!((x[0] - 0.5).abs() < 1e-6 && (x[1] - 0.5).abs() < 1e-6, "{x:?}");
        for bad in [square(&[&[f64::NAN]]), square(&[&[0.0]]), square(&[&[-1.0]]), square(&[&[f64::INFINITY]])] {
            assert!(bad.factor_raised().is_none(), "{bad:?}");
        }
        let mut nothing: [f64; 0] = [];
        Square::zeros(0).factor_raised().unwrap().solve(&mut nothing);
    }
}
