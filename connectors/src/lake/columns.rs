//! Columns of data files by their names: files stay as they were written while tables get new columns.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

/// The columns of `schema`, in its order, from rows of a file. A column that the file lacks, because it was written
/// before the table had it, is null. Columns that `schema` does not name are left out.
///
/// # Errors
/// The file lacks a column that cannot be null, or has one of another type, or with nulls where there can be none.
pub fn by_name(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = schema.fields().iter().map(|field| match rows.column_by_name(field.name()) {
        Some(column) => Ok(Arc::clone(column)),
        None if field.is_nullable() => Ok(new_null_array(field.data_type(), rows.num_rows())),
        None => Err(ArrowError::SchemaError(format!("it has no column `{}`", field.name()))),
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, ArrayRef, Int32Array, Int64Array};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    #[test]
    fn columns_are_found_wherever_they_are_and_those_that_are_missing_are_null() {
        let (a, b): (ArrayRef, ArrayRef) =
            (Arc::new(Int64Array::from(vec![1, 2])), Arc::new(Int32Array::from(vec![3, 4])));
        let rows = RecordBatch::try_from_iter([("b", Arc::clone(&b)), ("more", Arc::clone(&b)), ("a", Arc::clone(&a))])
            .unwrap();
        let schema = |c: Field| {
            let [a, b] = [("a", DataType::Int64), ("b", DataType::Int32)].map(|(name, of)| Field::new(name, of, false));
            Arc::new(Schema::new(vec![a, c, b]))
        };
        let found = by_name(&rows, &schema(Field::new("c", DataType::Utf8, true))).unwrap();
        assert_eq!((found.column(0), found.column(1).null_count(), found.column(2)), (&a, 2, &b));
        for (field, words) in [
            (Field::new("c", DataType::Utf8, false), "no column `c`"),
            (Field::new("more", DataType::Int64, true), "Int64"),
        ] {
            let error = by_name(&rows, &schema(field)).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
