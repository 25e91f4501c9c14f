//! Least squares from sums of products: gathered once, solved for as many choices of columns and penalties as wanted.

use crate::dense::Cholesky;

/// Added to each diagonal element of the scaled system, so that columns which repeat each other share a coefficient
/// instead of failing.
const RIDGE: f64 = 1e-10;

/// Sums of products of the rows of a regression y = X β.
#[derive(Debug, Clone)]
pub struct Gram {
    size: usize,
    /// Upper triangle of XᵀX, rows of `size`.
    products: Vec<f64>,
    /// Xᵀy
    response: Vec<f64>,
    /// yᵀy
    square: f64,
    rows: usize,
}

/// Coefficients of the chosen columns and what they leave unexplained.
#[derive(Debug, Clone, PartialEq)]
pub struct Solution {
    /// In the order of the chosen columns.
    pub coefficients: Vec<f64>,
    /// Sum of squared residuals, without the penalty.
    pub squares: f64,
    /// Cholesky factor of the scaled system, and the scaling of each column.
    factor: Cholesky,
    scale: Vec<f64>,
}

impl Solution {
    /// Variance of the fit at `row` (values of the chosen columns), relative to the variance of the errors:
    /// x (XᵀX + penalty)⁻¹ xᵀ.
    pub fn leverage(&self, row: &[f64]) -> f64 {
        let mut half: Vec<f64> = row.iter().zip(&self.scale).map(|(x, s)| x * s).collect();
        self.factor.forward(&mut half);
        half.iter().map(|z| z * z).sum()
    }
}

impl Gram {
    /// No row yet, `size` columns.
    pub fn new(size: usize) -> Gram {
        Gram { size, products: vec![0.0; size * size], response: vec![0.0; size], square: 0.0, rows: 0 }
    }

    /// Adds a row: as many values of `x` as there are columns, and the response.
    pub fn add(&mut self, x: &[f64], y: f64) {
        debug_assert_eq!(x.len(), self.size);
        for (i, ((xi, response), sums)) in
            x.iter().zip(&mut self.response).zip(self.products.chunks_exact_mut(self.size.max(1))).enumerate()
        {
            *response += xi * y;
            for (sum, xj) in sums[i..].iter_mut().zip(&x[i..]) {
                *sum += xi * xj;
            }
        }
        self.square += y * y;
        self.rows += 1;
    }

    /// Rows that were added.
    pub fn rows(&self) -> usize {
        self.rows
    }

    fn product(&self, i: usize, j: usize) -> f64 {
        self.products[i.min(j) * self.size + i.max(j)]
    }

    /// Coefficients β of `columns` that minimise Σ (y − xβ)² + Σ penaltyᵢ βᵢ² (ridge regression, Hoerl and Kennard
    /// 1970), by Cholesky's decomposition of the system scaled to a unit diagonal. `penalty` is per chosen column; an
    /// empty slice means none. A column of zeros gets 0.
    ///
    /// `None` when the system has no finite solution.
    pub fn solve(&self, columns: &[usize], penalty: &[f64]) -> Option<Solution> {
        let size = columns.len();
        let scale: Vec<f64> = columns.iter().map(|c| self.product(*c, *c).sqrt()).collect();
        let inverse: Vec<f64> = scale.iter().map(|s| if *s > 0.0 { 1.0 / s } else { 0.0 }).collect();
        let factor = Cholesky::new(size, 0.0, |i, j| match i == j {
            true => 1.0 + RIDGE + penalty.get(i).copied().unwrap_or(0.0) * inverse[i] * inverse[i],
            false => self.product(columns[i], columns[j]) * inverse[i] * inverse[j],
        })?;
        let mut solution: Vec<f64> = columns.iter().zip(&inverse).map(|(c, s)| self.response[*c] * s).collect();
        factor.solve(&mut solution);
        let coefficients: Vec<f64> = solution.iter().zip(&inverse).map(|(x, s)| x * s).collect();
        let mut squares = self.square;
        for (i, b) in coefficients.iter().enumerate() {
            squares -= 2.0 * b * self.response[columns[i]];
            for (j, other) in coefficients.iter().enumerate() {
                squares += b * other * self.product(columns[i], columns[j]);
            }
        }
        (squares.is_finite() && coefficients.iter().all(|b| b.is_finite())).then(|| Solution {
            coefficients,
            squares: squares.max(0.0),
            factor,
            scale: inverse,
        })
    }
}

/// How a regressor is shifted and scaled to mean 0 and standard deviation 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Unit {
    /// Largest magnitude: divided by first, so that squares stay finite.
    largest: f64,
    centre: f64,
    /// One over the deviation; 0 for a constant, whose effect cannot be known.
    share: f64,
}

impl Unit {
    /// The unit of `values`, all finite.
    pub fn of(values: &[f64]) -> Unit {
        let largest = values.iter().fold(f64::MIN_POSITIVE, |largest: f64, v| largest.max(v.abs()));
        let count = values.len().max(1) as f64;
        let centre = values.iter().map(|v| v / largest / count).sum::<f64>();
        let variance = values.iter().map(|v| (v / largest - centre).powi(2) / count).sum::<f64>();
        // A constant has rounding errors for a deviation.
        let share = if variance.sqrt() > 1e-12 { 1.0 / variance.sqrt() } else { 0.0 };
        Unit { largest, centre, share }
    }

    /// `value` in this unit.
    pub fn apply(&self, value: f64) -> f64 {
        if self.share == 0.0 { 0.0 } else { (value / self.largest - self.centre) * self.share }
    }

    /// What one of the value's own unit is in this one.
    pub fn per_one(&self) -> f64 {
        self.share / self.largest
    }
}

/// Akaike's criterion with the correction for short samples (Hurvich and Tsai 1989) of a model with normal errors:
/// n ln(squares / n) + 2k + 2k(k + 1) / (n − k − 1). `parameters` counts the variance too.
///
/// Infinite when the sample is too short for the correction. `squares` below `floor` count as `floor`, so that a
/// perfect fit does not outweigh every parameter.
pub fn aicc(squares: f64, floor: f64, sample: usize, parameters: usize) -> f64 {
    if sample <= parameters + 1 {
        return f64::INFINITY;
    }
    let (n, k) = (sample as f64, parameters as f64);
    n * (squares.max(floor).max(f64::MIN_POSITIVE) / n).ln() + 2.0 * k + 2.0 * k * (k + 1.0) / (n - k - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gram(rows: &[(Vec<f64>, f64)]) -> Gram {
        let mut gram = Gram::new(rows[0].0.len());
        rows.iter().for_each(|(x, y)| gram.add(x, *y));
        gram
    }

    #[test]
    fn a_line_is_found_exactly_and_its_residuals_counted() {
        let rows: Vec<_> = [1.0, 3.0, 5.0, 8.0].iter().enumerate().map(|(t, y)| (vec![1.0, t as f64], *y)).collect();
        // By hand: slope 2.3, intercept 0.8, residuals 0.2, -0.1, -0.4, 0.3.
        let found = gram(&rows).solve(&[0, 1], &[]).unwrap();
        assert!((found.coefficients[0] - 0.8).abs() < 1e-7 && (found.coefficients[1] - 2.3).abs() < 1e-7);
        assert!((found.squares - 0.3).abs() < 1e-7);
        // 1 / n + (t − mean)² / Σ (t − mean)²
        assert!((found.leverage(&[1.0, 5.0]) - (0.25 + 3.5 * 3.5 / 5.0)).abs() < 1e-7);
        let mean = gram(&rows).solve(&[0], &[]).unwrap();
        assert!((mean.coefficients[0] - 4.25).abs() < 1e-7);
    }

    #[test]
    fn a_penalty_shrinks_as_the_ridge_formula_says() {
        let rows = vec![(vec![2.0], 4.0), (vec![1.0], 2.0)];
        let found = gram(&rows).solve(&[0], &[5.0]).unwrap();
        assert!((found.coefficients[0] - 10.0 / (5.0 + 5.0)).abs() < 1e-8);
    }

    #[test]
    fn repeated_and_empty_columns_are_no_failure() {
        let rows: Vec<_> = (1..9).map(|t| (vec![t as f64, t as f64, 0.0], 3.0 * t as f64)).collect();
        let found = gram(&rows).solve(&[0, 1, 2], &[]).unwrap();
        assert!((found.coefficients[0] + found.coefficients[1] - 3.0).abs() < 1e-6);
        assert_eq!(found.coefficients[2], 0.0);
        assert_eq!(Gram::new(0).solve(&[], &[]).unwrap().squares, 0.0);
    }

    #[test]
    fn what_is_not_finite_has_no_solution() {
        assert_eq!(gram(&[(vec![f64::NAN], 1.0)]).solve(&[0], &[]), None);
        assert_eq!(gram(&[(vec![1e200], 1e200)]).solve(&[0], &[]), None);
    }

    #[test]
    fn units_have_mean_zero_and_deviation_one_also_of_huge_values() {
        for scale in [1.0, 1e-300, 1e300] {
            let values = [3.0 * scale, 5.0 * scale];
            let unit = Unit::of(&values);
            assert!((unit.apply(values[0]) + 1.0).abs() < 1e-9 && (unit.apply(values[1]) - 1.0).abs() < 1e-9);
        }
        assert_eq!(Unit::of(&[7.0; 3]).apply(9.0), 0.0);
        assert_eq!(Unit::of(&[]).apply(9.0), 0.0);
    }

    #[test]
    fn the_criterion_prefers_fewer_parameters_for_the_same_fit() {
        assert!(aicc(10.0, 0.0, 50, 2) < aicc(10.0, 0.0, 50, 3));
        assert_eq!(aicc(10.0, 0.0, 4, 3), f64::INFINITY);
        assert!(aicc(0.0, 0.0, 50, 2).is_finite());
    }
}
