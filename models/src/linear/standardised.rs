//! Columns of mean 0 and standard deviation 1, stored as the kernels read them.

use rayon::prelude::*;

use super::design::{LinearError, Problem, same};
use super::panel::{CHUNK_ROWS, Cells, Gram, LANES, PANEL_ROWS, Panel};
use super::pinball::WeightedSample;

/// Standard deviation below which a column or the target is constant, as a share of its largest absolute value: what
/// differs by less is rounding of `f32`.
const CONSTANT: f64 = 1e-7;

/// A [`Problem`] made ready: rows that count, columns of (weighted) mean 0 and standard deviation 1, and the target
/// around its median in units of its spread, which a few wild values leave alone.
///
/// Constant columns are dropped; their place is remembered, and their coefficient is zero. Takes 4 bytes for each row and column left, rounded up to groups of four columns.
#[derive(Debug, Clone)]
pub struct Standardised {
    /// Mean of each column of the design.
    means: Vec<f64>,
    /// Standard deviation of each column of the design; zero for a column that was dropped.
    scales: Vec<f64>,
    /// Columns of the design that were kept, in order.
    kept: Vec<usize>,
    target_centre: f64,
    target_scale: f64,
    target_constant: bool,
    /// Groups of stored columns.
    groups: usize,
    /// The kept columns, then a column of ones, then the target, then zeros up to a whole group; row after row.
    cells: Vec<Cells>,
    /// Weight of each stored row; they sum to one.
    weights: Vec<f64>,
    /// Row of the design that each stored row was.
    rows: Vec<usize>,
    /// Rows of the design.
    design_rows: usize,
}

impl Standardised {
    /// Standardises a problem by its weighted means and standard deviations.
    ///
    /// # Errors
    /// [`LinearError::Shape`] when targets or weights are not one a row, [`LinearError::Weight`],
    /// [`LinearError::Target`] or [`LinearError::Feature`] for the first value that cannot be used,
    /// [`LinearError::NoRows`] when nothing is left.
    pub fn new(problem: &Problem) -> Result<Standardised, LinearError> {
        let design = problem.design;
        let columns = design.columns();
        let (rows, weights) = rows_that_count(problem)?;

        // Two passes, means before deviations: exact also where the mean is a million times the deviation.
        let first = sums(&rows, columns + 1, |row, sums: &mut [Moments]| {
            let features = design.row(row.index);
            if let Some(column) = features.iter().position(|x| !x.is_finite()) {
                return Err(LinearError::Feature { row: row.index, column });
            }
            let weight = weights[row.position];
            for (sum, x) in sums.iter_mut().zip(features.iter().chain([&problem.target[row.index]])) {
                sum.sum += weight * f64::from(*x);
                sum.largest = sum.largest.max(f64::from(x.abs()));
            }
            Ok(())
        })?;
        let mut means: Vec<f64> = first.iter().map(|moments| moments.sum).collect();
        let second = sums(&rows, columns + 1, |row, sums: &mut [Moments]| {
            let weight = weights[row.position];
            let values = design.row(row.index).iter().chain([&problem.target[row.index]]);
            for ((sum, x), mean) in sums.iter_mut().zip(values).zip(&means) {
                sum.sum += weight * (f64::from(*x) - mean).powi(2);
            }
            Ok(())
        })?;
        let mut scales: Vec<f64> = second
            .iter()
            .zip(&first)
            .map(|(second, first)| {
                let deviation = second.sum.sqrt();
                if deviation > CONSTANT * first.largest { deviation } else { 0.0 }
            })
            .collect();
        let (target_mean, target_deviation) = (means.pop().unwrap_or(0.0), scales.pop().unwrap_or(0.0));
        if !means.iter().chain(&scales).chain([&target_mean, &target_deviation]).all(|value| value.is_finite()) {
            return Err(LinearError::NotFinite { what: "a column's mean or standard deviation" });
        }
        let target_constant = target_deviation == 0.0;
        let (target_centre, target_scale) = if target_constant {
            (target_mean, 1.0)
        } else {
            let targets = rows.iter().zip(&weights).map(|(row, weight)| (f64::from(problem.target[*row]), *weight));
            let sample = WeightedSample::new(targets.collect());
            (sample.quantile(0.5), sample.spread())
        };

        let kept: Vec<usize> = (0..columns).filter(|column| scales[*column] > 0.0).collect();
        let mut standardised = Standardised {
            groups: (kept.len() + 2).div_ceil(LANES),
            means,
            scales,
            kept,
            target_centre,
            target_scale,
            target_constant,
            cells: Vec::new(),
            weights,
            rows,
            design_rows: design.rows(),
        };
        standardised.cells = standardised.stored(problem);
        Ok(standardised)
    }

    fn stored(&self, problem: &Problem) -> Vec<Cells> {
        let shifts: Vec<(usize, f64, f64)> =
            self.kept.iter().map(|column| (*column, self.means[*column], 1.0 / self.scales[*column])).collect();
        let mut cells = vec![[0.0; LANES]; self.rows.len() * self.groups];
        let chunks = cells.par_chunks_mut(CHUNK_ROWS * self.groups).zip(self.rows.par_chunks(CHUNK_ROWS));
        chunks.for_each(|(cells, rows)| {
            for (cells, row) in cells.chunks_exact_mut(self.groups).zip(rows) {
                let features = problem.design.row(*row);
                let cells = cells.as_flattened_mut();
                for (cell, (column, mean, factor)) in cells.iter_mut().zip(&shifts) {
                    *cell = ((f64::from(features[*column]) - mean) * factor) as f32;
                }
                cells[shifts.len()] = 1.0;
                let target = (f64::from(problem.target[*row]) - self.target_centre) / self.target_scale;
                cells[shifts.len() + 1] = if self.target_constant { 0.0 } else { target as f32 };
            }
        });
        cells
    }

    /// Rows that count.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Columns that were kept, as their places in the design.
    pub fn kept(&self) -> &[usize] {
        &self.kept
    }

    /// Mean of each column of the design, in its unit.
    pub fn means(&self) -> &[f64] {
        &self.means
    }

    /// Standard deviation of each column of the design, in its unit; zero for a column that was dropped as constant.
    pub fn scales(&self) -> &[f64] {
        &self.scales
    }

    /// Median of the target, in its unit; its mean where it is constant up to rounding.
    pub fn target_centre(&self) -> f64 {
        self.target_centre
    }

    /// Spread of the target, in its unit: the range of its deciles as standard deviations of a normal distribution, or
    /// the standard deviation where that is less; a tenth of it where that range is nothing, and 1 where all targets are
    /// the same.
    pub fn target_scale(&self) -> f64 {
        self.target_scale
    }

    /// Whether all targets are the same, up to rounding.
    pub fn target_is_constant(&self) -> bool {
        self.target_constant
    }

    /// Rows that equal weights would need to be as certain: (Σw)² / Σw² (Kish 1965).
    pub(super) fn effective_rows(&self) -> f64 {
        1.0 / self.weights.iter().map(|weight| weight * weight).sum::<f64>()
    }

    /// Coefficients of a standardised row: one a kept column, and the intercept last.
    pub(super) fn coefficients(&self) -> usize {
        self.kept.len() + 1
    }

    pub(super) fn groups(&self) -> usize {
        self.groups
    }

    pub(super) fn cells(&self) -> &[Cells] {
        &self.cells
    }

    /// Cells of one stored row.
    pub(super) fn row(&self, position: usize) -> &[Cells] {
        &self.cells[position * self.groups..(position + 1) * self.groups]
    }

    /// Target of one stored row, standardised.
    pub(super) fn target(&self, position: usize) -> f64 {
        let column = self.kept.len() + 1;
        f64::from(self.row(position)[column / LANES][column % LANES])
    }

    pub(super) fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Row of the design that each stored row was.
    pub(super) fn design_row_of(&self) -> &[usize] {
        &self.rows
    }

    /// Rows of the design, those left out included.
    pub(super) fn design_rows(&self) -> usize {
        self.design_rows
    }

    /// Σ weight · row rowᵀ over the stored rows at `positions`, the column of ones and the target included.
    pub(super) fn gram(&self, positions: std::ops::Range<usize>) -> Gram {
        let starts: Vec<usize> = positions.clone().step_by(CHUNK_ROWS).collect();
        let parts: Vec<Gram> = starts
            .par_iter()
            .map(|start| {
                let mut gram = Gram::new(self.groups);
                let mut panel = Panel::new(self.groups);
                let end = (start + CHUNK_ROWS).min(positions.end);
                for first in (*start..end).step_by(PANEL_ROWS) {
                    let last = (first + PANEL_ROWS).min(end);
                    for position in first..last {
                        panel.set_row(position - first, self.row(position), self.weights[position].sqrt());
                    }
                    panel.clear_from(last - first);
                    gram.add_panel(&panel);
                }
                gram
            })
            .collect();
        let mut total = Gram::new(self.groups);
        parts.iter().for_each(|part| total.add(part));
        total
    }

    /// `coefficients` of the kept columns in the units of the design and the target, zeros for dropped columns.
    pub(super) fn to_design_units(&self, coefficients: &[f64]) -> Vec<f64> {
        let mut all = vec![0.0; self.means.len()];
        for (column, coefficient) in self.kept.iter().zip(coefficients) {
            all[*column] = coefficient * self.target_scale / self.scales[*column];
        }
        all
    }

    /// A standardised prediction in the unit of the target.
    pub(super) fn to_target_unit(&self, prediction: f64) -> f64 {
        self.target_centre + self.target_scale * prediction
    }
}

/// Rows with a target and a positive weight, and their weights, which sum to one.
fn rows_that_count(problem: &Problem) -> Result<(Vec<usize>, Vec<f64>), LinearError> {
    let total = problem.design.rows();
    same("targets", total, problem.target.len())?;
    if let Some(weights) = problem.weights {
        same("weights", total, weights.len())?;
    }
    let (mut rows, mut weights) = (Vec::with_capacity(total), Vec::with_capacity(total));
    for (row, target) in problem.target.iter().enumerate() {
        let weight = problem.weights.and_then(|weights| weights.get(row)).copied().unwrap_or(1.0);
        if !(weight >= 0.0 && weight.is_finite()) {
            return Err(LinearError::Weight { row });
        }
        if weight == 0.0 || target.is_nan() {
            continue;
        }
        if target.is_infinite() {
            return Err(LinearError::Target { row });
        }
        rows.push(row);
        weights.push(f64::from(weight));
    }
    if rows.is_empty() {
        return Err(LinearError::NoRows);
    }
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= sum);
    Ok((rows, weights))
}

#[derive(Clone, Default)]
struct Moments {
    sum: f64,
    largest: f64,
}

struct Row {
    /// Place among the rows that count.
    position: usize,
    /// Row of the design.
    index: usize,
}

/// `columns` moments summed over `rows` by `add`, in an order that is always the same.
fn sums(
    rows: &[usize],
    columns: usize,
    add: impl Fn(Row, &mut [Moments]) -> Result<(), LinearError> + Sync,
) -> Result<Vec<Moments>, LinearError> {
    let parts: Vec<Result<Vec<Moments>, LinearError>> = rows
        .par_chunks(CHUNK_ROWS)
        .enumerate()
        .map(|(chunk, rows)| {
            let mut sums = vec![Moments::default(); columns];
            for (k, index) in rows.iter().enumerate() {
                add(Row { position: chunk * CHUNK_ROWS + k, index: *index }, &mut sums)?;
            }
            Ok(sums)
        })
        .collect();
    let mut total = vec![Moments::default(); columns];
    for part in parts {
        for (to, from) in total.iter_mut().zip(part?) {
            to.sum += from.sum;
            to.largest = to.largest.max(from.largest);
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::Design;

    fn standardised(values: &[f32], columns: usize, target: &[f32], weights: Option<&[f32]>) -> Standardised {
        Standardised::new(&Problem { design: Design::new(values, columns).unwrap(), target, weights }).unwrap()
    }

    #[test]
    fn columns_have_mean_zero_and_deviation_one_at_any_scale() {
        for (offset, scale) in [(0.0, 1.0), (5.0, 1e-6), (-3.0, 1e9), (1000.0, 1.0), (0.0, 1e30)] {
            let values: Vec<f32> = (0..5000).map(|i| (offset + f64::from(i * 7919 % 101)) as f32 * scale).collect();
            let target: Vec<f32> = values.iter().map(|x| x * 2.0).collect();
            let found = standardised(&values, 1, &target, None);
            let mean: f64 = (0..5000).map(|k| f64::from(found.row(k)[0][0])).sum::<f64>() / 5000.0;
            let square: f64 = (0..5000).map(|k| f64::from(found.row(k)[0][0]).powi(2)).sum::<f64>() / 5000.0;
            assert!(mean.abs() < 1e-6 && (square - 1.0).abs() < 1e-5, "{offset} {scale}: {mean} {square}");
            let (median, spread) = (found.target_centre(), found.target_scale());
            let target = median + spread * found.target(17);
            assert!((target / f64::from(values[17] * 2.0) - 1.0).abs() < 1e-5, "{offset} {scale}");
        }
    }

    #[test]
    fn constant_columns_are_dropped_and_remembered() {
        let values = [1.0, 7.0, 2.0, 7.0, 3.0, 7.0];
        let found = standardised(&values, 2, &[1.0, 2.0, 3.0], None);
        assert_eq!((found.kept(), found.scales()[1]), (&[0_usize][..], 0.0));
        assert!((found.means()[1] - 7.0).abs() < 1e-12);
        assert_eq!(found.to_design_units(&[1.0])[1], 0.0);
        let constant = standardised(&values, 2, &[4.0, 4.0, 4.0], None);
        assert!(constant.target_is_constant());
        assert_eq!((constant.target_centre(), constant.target_scale()), (4.0, 1.0));
    }

    #[test]
    fn rows_of_weight_zero_or_without_target_are_left_out() {
        let values = [1.0, f32::NAN, 2.0, f32::INFINITY, 4.0];
        let target = [1.0, 5.0, 2.0, f32::NAN, 3.0];
        let found = standardised(&values, 1, &target, Some(&[1.0, 0.0, 1.0, 1.0, 2.0]));
        assert_eq!(found.design_row_of(), &[0, 2, 4]);
        assert_eq!((found.means()[0], found.target_centre()), (2.75, 2.5));
        assert!((found.effective_rows() - 16.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn values_that_cannot_be_used_are_named() {
        let fit = |values: &[f32], target: &[f32], weights: Option<&[f32]>| {
            let problem = Problem { design: Design::new(values, 2).unwrap(), target, weights };
            Standardised::new(&problem).map(|_| ()).unwrap_err()
        };
        let good = [1.0, 2.0, 3.0, 4.0];
        for (found, expected) in [
            (fit(&[1.0, 2.0, 3.0, f32::NAN], &[1.0, 2.0], None), LinearError::Feature { row: 1, column: 1 }),
            (fit(&[f32::INFINITY, 2.0, 3.0, 4.0], &[1.0, 2.0], None), LinearError::Feature { row: 0, column: 0 }),
            (fit(&good, &[1.0, f32::INFINITY], None), LinearError::Target { row: 1 }),
            (fit(&good, &[1.0, 2.0], Some(&[1.0, -1.0])), LinearError::Weight { row: 1 }),
            (fit(&good, &[1.0, 2.0], Some(&[f32::NAN, 1.0])), LinearError::Weight { row: 0 }),
            (fit(&good, &[1.0], None), LinearError::Shape { what: "targets", expected: 2, found: 1 }),
            (fit(&good, &[1.0, 2.0], Some(&[1.0])), LinearError::Shape { what: "weights", expected: 2, found: 1 }),
            (fit(&good, &[f32::NAN; 2], None), LinearError::NoRows),
            (fit(&good, &[1.0, 2.0], Some(&[0.0; 2])), LinearError::NoRows),
            (fit(&[], &[], None), LinearError::NoRows),
        ] {
            assert_eq!(found, expected);
        }
        assert_eq!(Design::new(&good, 3), Err(LinearError::Ragged { values: 4, columns: 3 }));
        assert_eq!(Design::new(&[], 0), Err(LinearError::Ragged { values: 0, columns: 0 }));
    }
}
