//! One orthogonal change of basis after which (G + λI)⁻¹ costs a few operations a column, whatever λ.
//!
//! G = Q T Qᵀ with T tridiagonal, by Householder reflections (Golub and Van Loan 2013, §8.3.1). Eldén (1984) used the
//! same idea to evaluate generalised cross validation for many λ at once.

use super::square::Square;
use crate::dense::dot;

/// G = Q T Qᵀ.
pub(super) struct Tridiagonal {
    /// Orthogonal; column j is the j-th basis vector.
    pub(super) basis: Square,
    diagonal: Vec<f64>,
    /// Cell j is at (j, j + 1) of T.
    beside: Vec<f64>,
}

/// T + λI = L D Lᵀ, with L lower bidiagonal with a unit diagonal.
pub(super) struct Shifted {
    /// Cell (j, j − 1) of L; the first is zero.
    pub(super) below: Vec<f64>,
    /// Reciprocals of the diagonal of D.
    pub(super) inverse_pivots: Vec<f64>,
}

impl Tridiagonal {
    /// Reduces a symmetric matrix, at about 4 size³ multiplications.
    pub(super) fn new(matrix: &Square) -> Tridiagonal {
        let size = matrix.size();
        let mut a = matrix.clone();
        let mut basis = Square::zeros(size);
        basis.add_diagonal(size, 1.0);
        for k in 0..size.saturating_sub(2) {
            // The reflector v maps column k below the diagonal onto its first cell.
            let mut v = vec![0.0; size];
            v[k + 1..].copy_from_slice(&a.row(k)[k + 1..]);
            let norm = dot(&v, &v).sqrt();
            if norm == 0.0 {
                continue;
            }
            v[k + 1] += norm.copysign(v[k + 1]);
            let factor = 2.0 / dot(&v, &v);
            let mut w: Vec<f64> = (0..size).map(|i| if i < k { 0.0 } else { factor * dot(a.row(i), &v) }).collect();
            let half = factor / 2.0 * dot(&v, &w);
            for (w, v) in w.iter_mut().zip(&v) {
                *w -= half * v;
            }
            for i in k..size {
                let (vi, wi) = (v[i], w[i]);
                for ((cell, v), w) in a.row_mut(i)[k..].iter_mut().zip(&v[k..]).zip(&w[k..]) {
                    *cell -= vi * w + wi * v;
                }
            }
            for i in 0..size {
                let row = basis.row_mut(i);
                let along = factor * dot(row, &v);
                for (cell, v) in row.iter_mut().zip(&v) {
                    *cell -= along * v;
                }
            }
        }
        let diagonal = (0..size).map(|j| a.row(j)[j]).collect();
        let beside = (1..size).map(|j| a.row(j)[j - 1]).collect();
        Tridiagonal { basis, diagonal, beside }
    }

    /// Factors T + λI. Pivots that rounding made zero or negative, as of collinear columns with λ = 0, count as
    /// infinite: that direction gets no coefficient.
    pub(super) fn shifted(&self, lambda: f64) -> Shifted {
        let size = self.diagonal.len();
        let floor = 1e-12 * self.diagonal.iter().copied().fold(0.0, f64::max);
        let mut below = vec![0.0; size];
        let mut inverse_pivots = vec![0.0; size];
        for j in 0..size {
            let mut pivot = self.diagonal[j] + lambda;
            if let Some(before) = j.checked_sub(1) {
                below[j] = self.beside[before] * inverse_pivots[before];
                pivot -= below[j] * self.beside[before];
            }
            inverse_pivots[j] = if pivot > floor { 1.0 / pivot } else { 0.0 };
        }
        Shifted { below, inverse_pivots }
    }

    /// Coordinates of `vector` in the basis: Qᵀ v.
    pub(super) fn coordinates_of(&self, vector: &[f64]) -> Vec<f64> {
        let mut coordinates = vec![0.0; vector.len()];
        for (i, value) in vector.iter().enumerate() {
            for (to, q) in coordinates.iter_mut().zip(self.basis.row(i)) {
                *to += q * value;
            }
        }
        coordinates
    }

    /// The vector with these coordinates: Q c.
    pub(super) fn vector_of(&self, coordinates: &[f64]) -> Vec<f64> {
        (0..coordinates.len()).map(|i| dot(self.basis.row(i), coordinates)).collect()
    }
}

impl Shifted {
    /// The solution x of (T + λI) x = b, in the coordinates of the basis.
    pub(super) fn solve(&self, b: &[f64]) -> Vec<f64> {
        let mut x = b.to_vec();
        for j in 1..x.len() {
            x[j] -= self.below[j] * x[j - 1];
        }
        for (x, inverse) in x.iter_mut().zip(&self.inverse_pivots) {
            *x *= inverse;
        }
        for j in (1..x.len()).rev() {
            x[j - 1] -= self.below[j] * x[j];
        }
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solves_as_cholesky_does_for_every_lambda() {
        for size in [0, 1, 2, 3, 10, 33] {
            let mut matrix = Square::zeros(size);
            for i in 0..size {
                for j in 0..size {
                    matrix.row_mut(i)[j] = (-(i as f64 - j as f64).powi(2) / 8.0).exp();
                }
            }
            let tridiagonal = Tridiagonal::new(&matrix);
            let b: Vec<f64> = (0..size).map(|i| (i as f64 * 1.3).cos()).collect();
            for lambda in [1e-3, 0.1, 10.0] {
                let found = tridiagonal.vector_of(&tridiagonal.shifted(lambda).solve(&tridiagonal.coordinates_of(&b)));
                let mut raised = matrix.clone();
                raised.add_diagonal(size, lambda);
                let mut expected = b.clone();
                raised.factor().unwrap().solve(&mut expected);
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((found - expected).abs() < 1e-9, "{size} {lambda}: {found} {expected}");
                }
            }
        }
    }

    #[test]
    fn the_basis_is_orthonormal_also_for_a_matrix_that_is_diagonal_already() {
        let mut matrix = Square::zeros(5);
        matrix.add_diagonal(5, 2.0);
        matrix.row_mut(0)[4] = 0.5;
        matrix.row_mut(4)[0] = 0.5;
        let basis = Tridiagonal::new(&matrix).basis;
        for i in 0..5 {
            for j in 0..5 {
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((dot(basis.row(i), basis.row(j)) - expected).abs() < 1e-12);
            }
        }
    }
}
