//! Cells of covariates: numbers, or yes and no.

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;

use super::form::{is_missing, parse_number};

/// What a text says of a covariate; NaN where it says nothing. `true` is 1, `false` is 0.
///
/// # Errors
/// It is no number, or too large a one.
pub fn parse(cell: &str) -> Result<f32, String> {
    let is = |word: &str| cell.trim().eq_ignore_ascii_case(word);
    match parse_number(cell) {
        Some(value) => narrow(value),
        None if is_missing(cell) => Ok(f32::NAN),
        None if is("true") => Ok(1.0),
        None if is("false") => Ok(0.0),
        None => Err(format!("`{cell}` is no number")),
    }
}

fn narrow(value: f64) -> Result<f32, String> {
    let narrow = value as f32;
    if narrow.is_infinite() { Err(format!("{value} is too large")) } else { Ok(narrow) }
}

/// A column of a batch of a Parquet file.
pub enum Cells {
    /// Numbers, or yes and no.
    Numbers(Float64Array),
    /// Texts. Arrow would make nothing of those that it cannot read: they are read one by one.
    Texts(StringArray),
}

impl Cells {
    /// The cells of a column of numbers, of yes and no, or of texts that are such.
    ///
    /// # Errors
    /// It is of another type.
    pub fn new(column: &ArrayRef) -> Result<Cells, String> {
        let cast = |wanted: &DataType| cast(column, wanted).map_err(|e| e.to_string());
        let of = match column.data_type() {
            DataType::Dictionary(_, values) => values,
            other => other,
        };
        match of {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                Ok(Cells::Texts(cast(&DataType::Utf8)?.as_string::<i32>().clone()))
            }
            of if of.is_numeric() || matches!(of, DataType::Boolean | DataType::Null) => {
                Ok(Cells::Numbers(cast(&DataType::Float64)?.as_primitive().clone()))
            }
            other => Err(format!("a covariate is a number, not of the type {other}")),
        }
    }

    /// The cell of a row; NaN where there is nothing.
    ///
    /// # Errors
    /// As [`parse`].
    pub fn at(&self, row: usize) -> Result<f32, String> {
        match self {
            Cells::Numbers(numbers) if numbers.is_valid(row) => narrow(numbers.value(row)),
            Cells::Texts(texts) if texts.is_valid(row) => parse(texts.value(row)),
            _ => Ok(f32::NAN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_a_number_or_yes_or_no_or_nothing_and_never_something_else() {
        for (cell, value) in [("1.5", 1.5), ("-0,5", -0.5), (" TRUE", 1.0), ("False", 0.0), ("1e30", 1e30)] {
            assert_eq!(parse(cell), Ok(value), "{cell}");
        }
        for cell in ["", " ", "-", "NaN", "null"] {
            assert!(parse(cell).is_ok_and(f32::is_nan), "{cell}");
        }
        for cell in ["high", "inf", "1e300", "yes"] {
            assert!(parse(cell).is_err(), "{cell}");
        }
    }
}
