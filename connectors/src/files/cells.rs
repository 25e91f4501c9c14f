//! Cells of a column of a Parquet file.

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;

/// A column of a batch.
pub enum Cells {
    /// Of numbers, or of yes and no.
    Numbers(Float64Array),
    /// Of anything else. Arrow would make nothing of a text that it cannot read as a number: they are read one by one.
    Texts(StringArray),
}

/// What a cell holds.
pub enum Cell<'a> {
    Nothing,
    /// May be NaN. Yes is 1, no is 0.
    Number(f64),
    /// As a CSV file would have it.
    Text(&'a str),
}

impl Cells {
    /// The cells of a column, none of which is lost.
    ///
    /// # Errors
    /// There are no texts for cells of its type.
    pub fn new(column: &ArrayRef) -> Result<Cells, String> {
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        let cast = |wanted: &DataType| cast_with_options(column, wanted, &strict).map_err(|e| e.to_string());
        let of = type_of(column);
        Ok(match of.is_numeric() || matches!(of, DataType::Boolean | DataType::Null) {
            true => Cells::Numbers(cast(&DataType::Float64)?.as_primitive().clone()),
            false => Cells::Texts(cast(&DataType::Utf8)?.as_string().clone()),
        })
    }

    /// The cell of a row.
    pub fn at(&self, row: usize) -> Cell<'_> {
        match self {
            Cells::Numbers(numbers) if numbers.is_valid(row) => Cell::Number(numbers.value(row)),
            Cells::Texts(texts) if texts.is_valid(row) => Cell::Text(texts.value(row)),
            _ => Cell::Nothing,
        }
    }
}

/// The type of a column's cells, however they are stored.
pub fn type_of(column: &ArrayRef) -> &DataType {
    match column.data_type() {
        DataType::Dictionary(_, values) => values,
        other => other,
    }
}
