//! Cells of covariates: numbers, or yes and no.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use super::cells::{Cell, Cells, type_of};
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

/// The cells of a column of numbers, of yes and no, or of texts that are such.
///
/// # Errors
/// It is of another type.
pub fn cells(column: &ArrayRef) -> Result<Cells, String> {
    match type_of(column) {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Boolean | DataType::Null => {}
        of if of.is_numeric() => {}
        other => return Err(format!("a covariate is a number, not of the type {other}")),
    }
    Cells::new(column)
}

/// What a cell of a Parquet file says of a covariate; NaN where it says nothing.
///
/// # Errors
/// As [`parse`].
pub fn of(cell: Cell<'_>) -> Result<f32, String> {
    match cell {
        Cell::Nothing => Ok(f32::NAN),
        Cell::Number(value) => narrow(value),
        Cell::Text(text) => parse(text),
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
