//! Products of past errors with each other: matrices as large as there are errors, never as large as there are nodes.

use rayon::prelude::*;

use crate::dense::dot;

/// Entries of one block of a column: eight such blocks fit the first-level cache.
const BLOCK: usize = 512;
/// Columns that one pass over the others serves.
const GROUP: usize = 8;

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
}
