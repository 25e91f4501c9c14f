//! Small dense matrices: as large as there are past errors, never as large as there are nodes.

use rayon::prelude::*;

/// Entries of one block of a column: eight such blocks fit the first-level cache.
const BLOCK: usize = 512;
/// Columns that one pass over the others serves.
const GROUP: usize = 8;

/// Scalar product, in eight running sums whatever the hardware, so that its bits are the same everywhere.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Scalar products of all pairs of `columns` (all of one length): row i holds those with columns 0 … i.
///
/// Rows are computed in parallel, each entry by one thread in one order.
pub(super) fn gram(columns: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let length = columns.first().map_or(0, Vec::len);
    let groups: Vec<Vec<Vec<f64>>> = (0..columns.len().div_ceil(GROUP))
        .into_par_iter()
        .map(|group| {
            let first = group * GROUP;
            let last = (first + GROUP).min(columns.len());
            let mut rows: Vec<Vec<f64>> = (first..last).map(|i| vec![0.0; i + 1]).collect();
            for start in (0..length).step_by(BLOCK) {
                let block = start..(start + BLOCK).min(length);
                for (j, other) in columns.iter().enumerate().take(last) {
                    let other = &other[block.clone()];
                    for (row, column) in rows.iter_mut().zip(&columns[first..last]) {
                        if let Some(entry) = row.get_mut(j) {
                            *entry += dot(&column[block.clone()], other);
                        }
                    }
                }
            }
            rows
        })
        .collect();
    groups.into_iter().flatten().collect()
}

/// Lower Cholesky factor of a symmetric positive definite matrix, by rows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cholesky(Vec<Vec<f64>>);

impl Cholesky {
    /// Factor of the matrix whose lower rows are given; `None` when it is not positive definite.
    pub(super) fn new(mut rows: Vec<Vec<f64>>) -> Option<Cholesky> {
        for i in 0..rows.len() {
            let (above, rest) = rows.split_at_mut(i);
            let row = rest.first_mut()?;
            for (j, factor) in above.iter().enumerate() {
                row[j] = (row[j] - dot(&row[..j], &factor[..j])) / factor[j];
            }
            let pivot = row[i] - dot(&row[..i], &row[..i]);
            if !(pivot.is_finite() && pivot > 0.0) {
                return None;
            }
            row[i] = pivot.sqrt();
        }
        Some(Cholesky(rows))
    }

    /// The solution of (L Lᵀ) x = `right`.
    pub(super) fn solve(&self, mut right: Vec<f64>) -> Vec<f64> {
        for (i, row) in self.0.iter().enumerate() {
            right[i] = (right[i] - dot(&row[..i], &right[..i])) / row[i];
        }
        for (i, row) in self.0.iter().enumerate().rev() {
            let x = right[i] / row[i];
            right[i] = x;
            for (value, factor) in right[..i].iter_mut().zip(row) {
                *value -= factor * x;
            }
        }
        right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalar_products_of_all_pairs_agree_with_one_by_one() {
        for (count, length) in [(0, 0), (1, 1), (3, 7), (17, 1100)] {
            let columns: Vec<Vec<f64>> =
                (0..count).map(|i| (0..length).map(|k| f64::from((i * 31 + k * 17) % 23 - 11)).collect()).collect();
            let rows = gram(&columns);
            assert_eq!(rows.len(), columns.len());
            for (i, row) in rows.iter().enumerate() {
                assert_eq!(row.len(), i + 1);
                for (j, entry) in row.iter().enumerate() {
                    let expected: f64 = columns[i].iter().zip(&columns[j]).map(|(a, b)| a * b).sum();
                    assert_eq!(*entry, expected, "whole numbers add up exactly");
                }
            }
        }
    }

    #[test]
    fn a_factor_solves_its_system() {
        let rows = vec![vec![4.0], vec![2.0, 5.0], vec![-1.0, 0.5, 3.0]];
        let x = Cholesky::new(rows).unwrap().solve(vec![4.0 + 4.0 - 3.0, 2.0 + 10.0 + 1.5, -1.0 + 1.0 + 9.0]);
        for (found, expected) in x.iter().zip([1.0, 2.0, 3.0]) {
            assert!((found - expected).abs() < 1e-12, "{x:?}");
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_has_no_factor() {
        for rows in [vec![vec![0.0]], vec![vec![1.0], vec![1.0, 1.0]], vec![vec![f64::NAN]]] {
            assert_eq!(Cholesky::new(rows), None);
        }
    }
}
