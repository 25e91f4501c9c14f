//! Square symmetric matrices and their Cholesky factors (Golub and Van Loan, Matrix Computations, 2013, §4.2).

use super::panel::{Gram, dot};

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

/// The lower triangle L of a positive definite matrix L Lᵀ.
pub(super) struct Cholesky {
    lower: Square,
}

impl Cholesky {
    /// `None` when the matrix is not positive definite beyond rounding, or not finite.
    pub(super) fn new(matrix: &Square) -> Option<Cholesky> {
        let size = matrix.size;
        let mut lower = Square::zeros(size);
        for i in 0..size {
            let (above, from_i) = lower.values.split_at_mut(i * size);
            let row = &mut from_i[..size];
            for (j, above) in above.chunks_exact(size).enumerate() {
                row[j] = (matrix.row(i)[j] - dot(&row[..j], &above[..j])) / above[j];
            }
            let diagonal = matrix.row(i)[i];
            let pivot = diagonal - dot(&row[..i], &row[..i]);
            // Not a number compares as false, and so is refused here.
            if !(pivot > PIVOT_MIN * diagonal && pivot.is_finite()) {
                return None;
            }
            row[i] = pivot.sqrt();
        }
        Some(Cholesky { lower })
    }

    /// The factor of the matrix, its diagonal raised as little as makes it positive definite: collinear columns then
    /// share their coefficient. `None` only for a matrix that is not finite or whose diagonal is not positive.
    pub(super) fn with_jitter(matrix: &Square) -> Option<Cholesky> {
        if let Some(factor) = Cholesky::new(matrix) {
            return Some(factor);
        }
        let mean = matrix.diagonal_mean();
        let mut raised = matrix.clone();
        let mut jitter = JITTER * mean;
        while jitter.is_finite() && jitter > 0.0 && jitter <= mean {
            raised.add_diagonal(matrix.size, jitter);
            if let Some(factor) = Cholesky::new(&raised) {
                return Some(factor);
            }
            jitter *= 10.0;
        }
        None
    }

    /// Replaces `b` by the solution x of L Lᵀ x = b.
    pub(super) fn solve(&self, b: &mut [f64]) {
        let size = self.lower.size;
        for (i, row) in self.lower.values.chunks_exact(size.max(1)).enumerate() {
            let (before, rest) = b.split_at_mut(i);
            if let Some(value) = rest.first_mut() {
                *value = (*value - dot(&row[..i], before)) / row[i];
            }
        }
        for (i, row) in self.lower.values.chunks_exact(size.max(1)).enumerate().rev() {
            let (before, rest) = b.split_at_mut(i);
            if let Some(value) = rest.first_mut() {
                *value /= row[i];
                for (x, l) in before.iter_mut().zip(row) {
                    *x -= l * *value;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(rows: &[&[f64]]) -> Square {
        Square { size: rows.len(), values: rows.concat() }
    }

    #[test]
    fn a_solution_multiplied_by_the_matrix_is_the_right_hand_side() {
        for size in [1, 2, 9, 40] {
            let mut matrix = Square::zeros(size);
            for i in 0..size {
                for j in 0..size {
                    matrix.row_mut(i)[j] = 1.0 / (1.0 + (i as f64 - j as f64).abs());
                }
            }
            let b: Vec<f64> = (0..size).map(|i| (i as f64).sin() + 2.0).collect();
            let mut x = b.clone();
            Cholesky::new(&matrix).unwrap().solve(&mut x);
            for (i, b) in b.iter().enumerate() {
                assert!((dot(matrix.row(i), &x) - b).abs() < 1e-10, "{size}");
            }
        }
    }

    #[test]
    fn what_is_not_positive_definite_is_told_or_raised() {
        let singular = square(&[&[1.0, 1.0], &[1.0, 1.0]]);
        assert!(Cholesky::new(&singular).is_none());
        let mut x = vec![1.0, 1.0];
        Cholesky::with_jitter(&singular).unwrap().solve(&mut x);
        assert!((x[0] - 0.5).abs() < 1e-6 && (x[1] - 0.5).abs() < 1e-6, "{x:?}");
        for bad in [square(&[&[f64::NAN]]), square(&[&[0.0]]), square(&[&[-1.0]]), square(&[&[f64::INFINITY]])] {
            assert!(Cholesky::with_jitter(&bad).is_none(), "{bad:?}");
        }
        let mut nothing: [f64; 0] = [];
        Cholesky::with_jitter(&Square::zeros(0)).unwrap().solve(&mut nothing);
    }
}
