//! Tables that an earlier version of the program made: they get the columns that have come since.

use arrow::datatypes::Field;
use deltalake_core::kernel::StructField;
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel as _;
use deltalake_core::kernel::transaction::CommitProperties;
use deltalake_core::{DeltaTable, DeltaTableError};

use super::snapshot::delta;
use super::{LakeError, TableDefinition};

/// The table with all columns of its definition. Rows of before have no value in those that are new.
///
/// # Errors
///
/// [`LakeError::Outdated`] where a column is missing that has to have a value in each row; [`LakeError::Delta`] if the
/// log cannot be written.
pub(super) async fn evolved(table: DeltaTable, definition: &TableDefinition) -> Result<DeltaTable, LakeError> {
    let failed = |source| delta("adding columns to", definition.name, source);
    let stored = table.snapshot().map_err(failed)?.schema();
    let there = |field: &Field| stored.field(field.name()).is_some();
    let missing: Vec<&Field> = definition.schema.fields().iter().map(AsRef::as_ref).filter(|f| !there(f)).collect();
    if missing.is_empty() {
        return Ok(table);
    }
    let names = missing.iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
    if missing.iter().any(|field| !field.is_nullable()) {
        return Err(LakeError::Outdated { table: definition.name.to_owned(), columns: names });
    }
    let fields: Result<Vec<StructField>, _> = missing.into_iter().map(|field| field.try_into_kernel()).collect();
    let fields = fields.map_err(|error| failed(DeltaTableError::from(error)))?;
    tracing::info!(table = definition.name, columns = names, "the table gets the columns that are new in this version");
    let properties = CommitProperties::default().with_max_retries(0);
    table.add_columns().with_fields(fields).with_commit_properties(properties).await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Schema};

    use super::super::{Lake, TableOwner, snapshot};
    use super::*;

    fn with(field: Field) -> TableDefinition {
        let table = TableDefinition::dead_letters();
        let fields = table.schema.fields().iter().map(|field| field.as_ref().clone()).chain([field]);
        TableDefinition { schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())), ..table }
    }

    #[tokio::test]
    async fn a_table_of_before_gets_new_columns_once_and_none_that_its_rows_would_need() {
        let dir = tempfile::tempdir().unwrap();
        let lake = Lake::open(dir.path().to_str().unwrap()).await.unwrap();
        TableOwner::open(&lake, &TableDefinition::dead_letters()).await.unwrap();
        let needed = with(Field::new("key_format", DataType::Utf8, false));
        let error = TableOwner::open(&lake, &needed).await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("`dead_letters`") && error.contains("key_format"), "{error}");
        let optional = with(Field::new("key_format", DataType::Utf8, true));
        for _ in 0..2 {
            TableOwner::open(&lake, &optional).await.unwrap();
            let found = snapshot(&lake, "dead_letters", None).await.unwrap().unwrap();
            assert_eq!((found.version, found.schema.field_with_name("key_format").is_ok()), (1, true));
        }
    }
}
