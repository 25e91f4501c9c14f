//! Least squares with an L2 penalty (Hoerl and Kennard 1970), and errors on rows that were not fitted.

use rayon::prelude::*;

use super::design::{LinearError, same};
use super::panel::{CHUNK_ROWS, LANES, Lanes, PANEL_ROWS, Panel, in_sample, multiply};
use super::square::Square;
use super::standardised::Standardised;
use super::tridiagonal::Tridiagonal;

/// Rows by whose leave-one-out errors λ is chosen; of more rows, a sample of about this many decides.
const LOO_ROWS: f64 = 32_768.0;
/// A row's own share in its fit above which leaving it out is not defined.
const LEVERAGE_MAX: f64 = 1.0 - 1e-9;

/// A ridge regression in the units of the design.
#[derive(Debug, Clone, PartialEq)]
pub struct Ridge {
    /// The penalty that was chosen; see [`ridge`] for its unit.
    pub lambda: f64,
    /// Each candidate with its weighted mean squared leave-one-out error, in the target's unit squared; infinite where
    /// a row determines its own fit.
    pub candidates: Vec<(f64, f64)>,
    /// One a column of the design: target units a feature unit, zero for constant columns.
    pub coefficients: Vec<f64>,
    /// Mean of each column.
    pub means: Vec<f64>,
    /// Prediction at the mean of all columns.
    pub base: f64,
    /// Coefficients of the standardised columns and the intercept.
    pub(super) standardised: Vec<f64>,
}

impl Ridge {
    /// The prediction for one row of features.
    ///
    /// # Errors
    /// [`LinearError::Shape`] for a row of another length.
    pub fn predict_row(&self, row: &[f32]) -> Result<f64, LinearError> {
        same("features", self.coefficients.len(), row.len())?;
        let terms = row.iter().zip(&self.coefficients).zip(&self.means);
        Ok(self.base + terms.map(|((x, coefficient), mean)| coefficient * (f64::from(*x) - mean)).sum::<f64>())
    }
}

/// Half decades from 10⁻⁶ to 10: from next to no penalty to one that leaves a single column a tenth of its effect.
pub fn default_lambdas() -> Vec<f64> {
    (-12..=2).map(|half| 10_f64.powf(f64::from(half) / 2.0)).collect()
}

/// Minimises Σ wᵢ (yᵢ − b₀ − xᵢ b)² + λ |b|² over standardised columns and target, the weights summing to one, for the
/// λ of `lambdas` whose leave-one-out error is least (the largest of equals).
///
/// The leave-one-out residual of a row is eᵢ / (1 − hᵢ) with hᵢ = wᵢ (1 + xᵢ (G + λI)⁻¹ xᵢᵀ), without any refit (Allen
/// 1974, PRESS). With more than about 32,000 rows a fixed sample of that many decides.
///
/// # Errors
/// [`LinearError::Option`] without a candidate or with a negative one, [`LinearError::NotFinite`] when sums overflow.
pub fn ridge(data: &Standardised, lambdas: &[f64]) -> Result<Ridge, LinearError> {
    solve(data, lambdas).map(|(ridge, _)| ridge)
}

/// As [`ridge`]; also returns the Gram matrix of the columns and the intercept.
pub(super) fn solve(data: &Standardised, lambdas: &[f64]) -> Result<(Ridge, Square), LinearError> {
    for lambda in lambdas {
        check_lambda(*lambda)?;
    }
    let columns = data.kept().len();
    let gram = Square::of_gram(&data.gram(0..data.rows()), columns + 2);
    let products = &gram.row(columns + 1)[..columns];
    let intercept = gram.row(columns)[columns + 1];

    let tridiagonal = Tridiagonal::new(&leading(&gram, columns));
    let paths = paths(&tridiagonal, &tridiagonal.coordinates_of(products), lambdas);
    let leave_one_out = LeaveOneOut { data, basis: basis_lanes(&tridiagonal.basis), paths, intercept };
    let errors = leave_one_out.mean_squared_errors();

    let mut chosen: Option<(usize, f64)> = None;
    for (i, (lambda, error)) in lambdas.iter().zip(&errors).enumerate() {
        let better = match chosen {
            None => true,
            Some((best, least)) => *error < least || (*error == least && *lambda > lambdas[best]),
        };
        if better {
            chosen = Some((i, *error));
        }
    }
    let Some((chosen, _)) = chosen else {
        return Err(LinearError::Option { name: "lambdas", value: 0.0, range: "at least one" });
    };

    let mut standardised = tridiagonal.vector_of(&leave_one_out.paths[chosen].coordinates);
    standardised.push(intercept);
    let coefficients = data.to_design_units(&standardised[..columns]);
    if !coefficients.iter().chain(&standardised).all(|value| value.is_finite()) {
        return Err(LinearError::NotFinite { what: "a ridge coefficient" });
    }
    let unit = data.target_scale() * data.target_scale();
    let ridge = Ridge {
        lambda: lambdas[chosen],
        candidates: lambdas.iter().copied().zip(errors.iter().map(|error| error * unit)).collect(),
        coefficients,
        means: data.means().to_vec(),
        base: data.to_target_unit(intercept),
        standardised,
    };
    Ok((ridge, leading(&gram, columns + 1)))
}

/// What [`ridge`] with this λ is wrong by at each row, if the row is left out: value − prediction, in the target's
/// unit, one for each row of the design; NaN for rows that did not count.
///
/// # Errors
/// [`LinearError::Option`] for a negative λ; [`LinearError::NotFinite`] when a row determines its own fit, as with no
/// more rows than columns and no penalty.
pub fn loo_residuals(data: &Standardised, lambda: f64) -> Result<Vec<f64>, LinearError> {
    check_lambda(lambda)?;
    let columns = data.kept().len();
    let gram = Square::of_gram(&data.gram(0..data.rows()), columns + 2);
    let tridiagonal = Tridiagonal::new(&leading(&gram, columns));
    let products = tridiagonal.coordinates_of(&gram.row(columns + 1)[..columns]);
    let paths = paths(&tridiagonal, &products, &[lambda]);
    let intercept = gram.row(columns)[columns + 1];
    let leave_one_out = LeaveOneOut { data, basis: basis_lanes(&tridiagonal.basis), paths, intercept };
    let mut residuals = vec![0.0; data.rows()];
    residuals.par_chunks_mut(CHUNK_ROWS).enumerate().for_each(|(chunk, residuals)| {
        let start = chunk * CHUNK_ROWS;
        leave_one_out.visit(start..start + residuals.len(), 1.0, |_, position, residual| {
            residuals[position - start] = residual;
        });
    });
    in_design_rows(data, &residuals, "a leave-one-out residual")
}

/// What [`ridge`] with this λ is wrong by at rows that were left out together, in `folds` contiguous blocks of about
/// equal numbers of rows that count: for rows in the order of time, whose errors come in runs, this is the more honest
/// figure. Value − prediction in the target's unit, one for each row of the design; NaN for rows that did not count.
///
/// Columns keep the means and deviations of all rows, which matters to the penalty only.
///
/// # Errors
/// [`LinearError::Option`] for a negative λ, fewer than two folds or more folds than rows; [`LinearError::NotFinite`]
/// when sums overflow.
pub fn out_of_fold_residuals(data: &Standardised, lambda: f64, folds: usize) -> Result<Vec<f64>, LinearError> {
    check_lambda(lambda)?;
    let rows = data.rows();
    if folds < 2 || folds > rows {
        let range = "at least two and at most the rows that count";
        return Err(LinearError::Option { name: "folds", value: folds as f64, range });
    }
    let size = data.coefficients();
    let ranges: Vec<_> = (0..folds).map(|fold| rows * fold / folds..rows * (fold + 1) / folds).collect();
    let grams: Vec<Square> = ranges.iter().map(|range| Square::of_gram(&data.gram(range.clone()), size + 1)).collect();
    let fits: Vec<Option<Vec<f64>>> = (0..folds)
        .into_par_iter()
        .map(|fold| {
            // Adding up the others, rather than taking the fold from the total, leaves nothing to cancel.
            let mut others = Square::zeros(size + 1);
            for (other, gram) in grams.iter().enumerate() {
                if other != fold {
                    others.add_scaled(1.0, gram);
                }
            }
            others.scale(1.0 / others.row(size - 1)[size - 1]);
            let mut coefficients = others.row(size)[..size].to_vec();
            let mut system = leading(&others, size);
            system.add_diagonal(size - 1, lambda);
            system.factor_raised()?.solve(&mut coefficients);
            Some(coefficients)
        })
        .collect();
    let mut residuals = Vec::with_capacity(rows);
    for (range, coefficients) in ranges.into_iter().zip(fits) {
        let Some(coefficients) = coefficients else {
            return Err(LinearError::NotFinite { what: "a coefficient of a fold" });
        };
        residuals.extend(standardised_residuals(data, &coefficients, range));
    }
    in_design_rows(data, &residuals, "an out-of-fold residual")
}

/// Target − fit of the stored rows at `positions`, standardised.
pub(super) fn standardised_residuals(
    data: &Standardised,
    coefficients: &[f64],
    positions: std::ops::Range<usize>,
) -> Vec<f64> {
    positions
        .into_par_iter()
        .with_min_len(CHUNK_ROWS)
        .map(|position| {
            let cells = data.row(position).as_flattened();
            let fit: f64 = cells.iter().zip(coefficients).map(|(cell, b)| f64::from(*cell) * b).sum();
            data.target(position) - fit
        })
        .collect()
}

fn check_lambda(lambda: f64) -> Result<(), LinearError> {
    if lambda >= 0.0 && lambda.is_finite() {
        return Ok(());
    }
    Err(LinearError::Option { name: "lambda", value: lambda, range: "zero or positive, and finite" })
}

fn leading(square: &Square, size: usize) -> Square {
    let mut leading = Square::zeros(size);
    for i in 0..size {
        leading.row_mut(i).copy_from_slice(&square.row(i)[..size]);
    }
    leading
}

fn in_design_rows(data: &Standardised, residuals: &[f64], what: &'static str) -> Result<Vec<f64>, LinearError> {
    if !residuals.iter().all(|residual| residual.is_finite()) {
        return Err(LinearError::NotFinite { what });
    }
    let mut all = vec![f64::NAN; data.design_rows()];
    for (row, residual) in data.design_row_of().iter().zip(residuals) {
        all[*row] = residual * data.target_scale();
    }
    Ok(all)
}

/// What one λ needs to predict a rotated row and to know the row's own share in that; padded to whole groups.
struct Path {
    below: Vec<Lanes>,
    inverse_pivots: Vec<Lanes>,
    coordinates_lanes: Vec<Lanes>,
    /// Coefficients in the coordinates of the basis.
    coordinates: Vec<f64>,
}

fn paths(tridiagonal: &Tridiagonal, products: &[f64], lambdas: &[f64]) -> Vec<Path> {
    lambdas
        .iter()
        .map(|lambda| {
            let shifted = tridiagonal.shifted(*lambda);
            let coordinates = shifted.solve(products);
            Path {
                below: lanes(&shifted.below),
                inverse_pivots: lanes(&shifted.inverse_pivots),
                coordinates_lanes: lanes(&coordinates),
                coordinates,
            }
        })
        .collect()
}

fn lanes(values: &[f64]) -> Vec<Lanes> {
    let mut lanes = vec![[0.0; LANES]; values.len().div_ceil(LANES)];
    lanes.as_flattened_mut()[..values.len()].copy_from_slice(values);
    lanes
}

/// The basis as coefficients for [`multiply`], four basis vectors at once.
fn basis_lanes(basis: &Square) -> Vec<Vec<Lanes>> {
    let size = basis.size();
    let of_group = |group: usize| {
        let mut coefficients = vec![[0.0; LANES]; size.next_multiple_of(LANES)];
        for (i, to) in coefficients.iter_mut().enumerate().take(size) {
            for (to, from) in to.iter_mut().zip(&basis.row(i)[group * LANES..]) {
                *to = *from;
            }
        }
        coefficients
    };
    (0..size.div_ceil(LANES)).map(of_group).collect()
}

struct LeaveOneOut<'a> {
    data: &'a Standardised,
    basis: Vec<Vec<Lanes>>,
    paths: Vec<Path>,
    intercept: f64,
}

impl LeaveOneOut<'_> {
    /// Weighted mean of the squared residuals, for every path.
    fn mean_squared_errors(&self) -> Vec<f64> {
        let rows = self.data.rows();
        let share = LOO_ROWS / rows as f64;
        let starts: Vec<usize> = (0..rows).step_by(CHUNK_ROWS).collect();
        let parts: Vec<(Vec<f64>, f64)> = starts
            .par_iter()
            .map(|start| {
                let mut sums = vec![0.0; self.paths.len()];
                let mut weights = 0.0;
                self.visit(*start..(start + CHUNK_ROWS).min(rows), share, |path, position, residual| {
                    let weight = self.data.weights()[position];
                    sums[path] += weight * residual * residual;
                    weights += if path == 0 { weight } else { 0.0 };
                });
                (sums, weights)
            })
            .collect();
        let mut sums = vec![0.0; self.paths.len()];
        let mut weights = 0.0;
        for (part, weight) in &parts {
            weights += weight;
            sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        sums.into_iter().map(|sum| sum / weights).collect()
    }

    /// Calls `each(path, position, residual)` for a share of the stored rows at `positions`.
    fn visit(&self, positions: std::ops::Range<usize>, share: f64, mut each: impl FnMut(usize, usize, f64)) {
        let mut panel = Panel::new(self.data.groups());
        let mut rotated = Panel::new(self.basis.len());
        let mut sampled = positions.filter(|position| in_sample(*position, share));
        let mut rows = Vec::with_capacity(PANEL_ROWS);
        loop {
            rows.clear();
            rows.extend(sampled.by_ref().take(PANEL_ROWS));
            if rows.is_empty() {
                return;
            }
            for (k, position) in rows.iter().enumerate() {
                panel.set_row(k, self.data.row(*position), 1.0);
            }
            for (basis, products) in self.basis.iter().zip(rotated.groups_mut()) {
                multiply(&panel, basis, products);
            }
            for (index, path) in self.paths.iter().enumerate() {
                let (fits, squares) = path.fits(&rotated);
                for ((position, fit), square) in rows.iter().zip(&fits).zip(&squares) {
                    let leverage = self.data.weights()[*position] * (1.0 + square);
                    let error = self.data.target(*position) - self.intercept - fit;
                    let residual = if leverage < LEVERAGE_MAX { error / (1.0 - leverage) } else { f64::INFINITY };
                    each(index, *position, residual);
                }
            }
        }
    }
}

impl Path {
    /// Of each rotated row u: u·c for the coefficients c, and u (T + λI)⁻¹ uᵀ.
    fn fits(&self, rotated: &Panel) -> ([f64; PANEL_ROWS], [f64; PANEL_ROWS]) {
        let (mut fits, mut squares, mut carried) = ([0.0; PANEL_ROWS], [0.0; PANEL_ROWS], [0.0; PANEL_ROWS]);
        let coefficients = self.below.iter().zip(&self.inverse_pivots).zip(&self.coordinates_lanes);
        for (group, ((below, inverse_pivots), coordinates)) in rotated.groups().iter().zip(coefficients) {
            for (((row, fit), square), carried) in group.iter().zip(&mut fits).zip(&mut squares).zip(&mut carried) {
                for lane in 0..LANES {
                    // Forward substitution with L: one value leads to the next.
                    let value = row[lane] - below[lane] * *carried;
                    *square += value * value * inverse_pivots[lane];
                    *fit += row[lane] * coordinates[lane];
                    *carried = value;
                }
            }
        }
        (fits, squares)
    }
}
