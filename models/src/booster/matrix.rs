//! A table of features, and the rows that a booster learns from.

use super::error::BoosterError;

/// Features as columns: `rows` × `features` values of f32. NaN means missing; an infinite value counts as the largest
/// (smallest) finite one.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    values: Vec<f32>,
    rows: usize,
    features: usize,
    names: Vec<String>,
}

impl Matrix {
    /// A matrix of `features` columns of `rows` values each, one column after the other.
    ///
    /// # Errors
    /// [`BoosterError::Size`] when `values` does not hold rows × features values.
    pub fn new(values: Vec<f32>, rows: usize, features: usize) -> Result<Matrix, BoosterError> {
        let expected = rows.saturating_mul(features);
        if values.len() != expected {
            return Err(BoosterError::Size { what: "matrix", found: values.len(), expected });
        }
        Ok(Matrix { values, rows, features, names: Vec::new() })
    }

    /// A matrix of the given columns.
    ///
    /// # Errors
    /// [`BoosterError::Size`] when they are not equally long.
    pub fn from_columns(columns: &[Vec<f32>]) -> Result<Matrix, BoosterError> {
        let rows = columns.first().map_or(0, Vec::len);
        if let Some(odd) = columns.iter().find(|column| column.len() != rows) {
            return Err(BoosterError::Size { what: "column", found: odd.len(), expected: rows });
        }
        Matrix::new(columns.concat(), rows, columns.len())
    }

    /// The same matrix with a name for each feature.
    ///
    /// # Errors
    /// [`BoosterError::Size`] when there are not as many names as features.
    pub fn with_names(mut self, names: Vec<String>) -> Result<Matrix, BoosterError> {
        if names.len() != self.features {
            return Err(BoosterError::Size { what: "feature names", found: names.len(), expected: self.features });
        }
        self.names = names;
        Ok(self)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of features.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Names of the features; empty when they have none.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The values of one feature, one a row; empty for a feature that is not there.
    pub fn column(&self, feature: usize) -> &[f32] {
        let start = feature.saturating_mul(self.rows);
        self.values.get(start..start.saturating_add(self.rows)).unwrap_or(&[])
    }
}

/// Rows to learn from, or to validate with.
#[derive(Debug, Clone, Copy)]
pub struct Dataset<'a> {
    /// Features of the rows.
    pub x: &'a Matrix,
    /// One target a row, finite.
    pub y: &'a [f32],
    /// One weight a row, finite and not negative; without, every row weighs 1.
    pub weights: Option<&'a [f32]>,
    /// Rows × outputs, row after row, finite: what the trees' sum is added to, for instance another model's quantiles.
    pub offset: Option<&'a [f32]>,
    /// One group a row: rows of a group (a day, a series) are drawn together by bagging. Without, every row is alone.
    pub groups: Option<&'a [u32]>,
}

impl<'a> Dataset<'a> {
    /// Rows of equal weight, without offset and groups.
    pub fn new(x: &'a Matrix, y: &'a [f32]) -> Dataset<'a> {
        Dataset { x, y, weights: None, offset: None, groups: None }
    }

    /// The same rows with a weight each.
    pub fn with_weights(self, weights: &'a [f32]) -> Dataset<'a> {
        Dataset { weights: Some(weights), ..self }
    }

    /// The same rows with an offset per row and output.
    pub fn with_offset(self, offset: &'a [f32]) -> Dataset<'a> {
        Dataset { offset: Some(offset), ..self }
    }

    /// The same rows with a group each.
    pub fn with_groups(self, groups: &'a [u32]) -> Dataset<'a> {
        Dataset { groups: Some(groups), ..self }
    }

    pub(super) fn check(&self, outputs: usize) -> Result<(), BoosterError> {
        let rows = self.x.rows();
        if rows == 0 {
            return Err(BoosterError::NoRows);
        }
        // Sums of integers must stay below 2³¹: see `gradients`.
        if rows > ROWS_MAX {
            return Err(BoosterError::TooManyRows { rows, rows_max: ROWS_MAX });
        }
        same_size("targets", self.y.len(), rows)?;
        if let Some(row) = self.y.iter().position(|y| !y.is_finite()) {
            return Err(BoosterError::NotFinite { what: "target", row });
        }
        if let Some(weights) = self.weights {
            same_size("weights", weights.len(), rows)?;
            if let Some(row) = weights.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
                return Err(BoosterError::Weight { row });
            }
            if !weights.iter().any(|w| *w > 0.0) {
                return Err(BoosterError::NoWeight);
            }
        }
        if let Some(offset) = self.offset {
            same_size("offsets", offset.len(), rows.saturating_mul(outputs))?;
            if let Some(i) = offset.iter().position(|o| !o.is_finite()) {
                return Err(BoosterError::NotFinite { what: "offset", row: i / outputs });
            }
        }
        if let Some(groups) = self.groups {
            same_size("groups", groups.len(), rows)?;
        }
        Ok(())
    }
}

const ROWS_MAX: usize = 1 << 30;

pub(super) fn same_size(what: &'static str, found: usize, expected: usize) -> Result<(), BoosterError> {
    if found == expected { Ok(()) } else { Err(BoosterError::Size { what, found, expected }) }
}
