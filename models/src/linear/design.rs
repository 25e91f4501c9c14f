//! What a linear model is fitted to, and why it can be refused.

/// Why a linear model could not be fitted or used. Rows and columns count from zero.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LinearError {
    /// The number of values is no multiple of the number of columns, or there is no column.
    #[error("a design of {columns} columns cannot hold {values} values: fill whole rows of at least one column")]
    Ragged {
        /// Values given.
        values: usize,
        /// Columns asked for.
        columns: usize,
    },
    /// Two inputs do not belong together.
    #[error("{what}: expected {expected}, found {found}")]
    Shape {
        /// What was counted.
        what: &'static str,
        /// Count that the design or the model asks for.
        expected: usize,
        /// Count given.
        found: usize,
    },
    /// A feature of a row that counts is missing or infinite.
    #[error("row {row}, column {column}: the feature is missing or infinite; impute it or give the row weight zero")]
    Feature {
        /// Row of the design.
        row: usize,
        /// Column of the design.
        column: usize,
    },
    /// A target is infinite. Missing ones (NaN) are left out instead.
    #[error("row {row}: the target is infinite")]
    Target {
        /// Row of the design.
        row: usize,
    },
    /// A weight is negative, missing or infinite.
    #[error("row {row}: the weight is negative, missing or infinite")]
    Weight {
        /// Row of the design.
        row: usize,
    },
    /// No row has a target and a positive weight.
    #[error("no row has a target and a positive weight")]
    NoRows,
    /// An option is outside its range.
    #[error("{name} is {value}: must be {range}")]
    Option {
        /// The option.
        name: &'static str,
        /// Its value.
        value: f64,
        /// Its range in words.
        range: &'static str,
    },
    /// Numbers outgrew their range; the features or targets are of sizes that cannot be computed with.
    #[error("{what} is not finite: the values are too large to compute with")]
    NotFinite {
        /// What was computed.
        what: &'static str,
    },
}

/// Refuses two counts that differ.
pub(super) fn same(what: &'static str, expected: usize, found: usize) -> Result<(), LinearError> {
    if expected == found { Ok(()) } else { Err(LinearError::Shape { what, expected, found }) }
}

/// A dense matrix of features, borrowed: rows × columns, row after row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Design<'a> {
    values: &'a [f32],
    columns: usize,
}

impl<'a> Design<'a> {
    /// Takes `values` as whole rows of `columns` features each.
    ///
    /// # Errors
    /// [`LinearError::Ragged`] without columns or with a row that is not whole.
    pub fn new(values: &'a [f32], columns: usize) -> Result<Design<'a>, LinearError> {
        if columns == 0 || !values.len().is_multiple_of(columns) {
            return Err(LinearError::Ragged { values: values.len(), columns });
        }
        Ok(Design { values, columns })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    /// Number of features.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The features of a row; empty after the last one.
    pub fn row(&self, row: usize) -> &'a [f32] {
        let start = row.saturating_mul(self.columns);
        self.values.get(start..start.saturating_add(self.columns)).unwrap_or_default()
    }

    /// All rows in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [f32]> + use<'a> {
        self.values.chunks_exact(self.columns)
    }
}

/// One regression: the target of each row of a design, and how much the row counts.
#[derive(Debug, Clone, Copy)]
pub struct Problem<'a> {
    /// Features.
    pub design: Design<'a>,
    /// Target of each row; a row whose target is NaN is left out.
    pub target: &'a [f32],
    /// Weight of each row, at least zero; a row of weight zero is left out, and its features may be NaN. Only ratios
    /// of weights matter. Without weights all rows count the same.
    pub weights: Option<&'a [f32]>,
}
