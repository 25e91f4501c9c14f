//! Why a statement failed.

use datafusion::error::DataFusionError;
use meterline_connectors::lake::LakeError;
use meterline_schemas::names;

use super::TABLES;
use crate::ingest::IngestError;
use crate::metadata::MetadataError;
use crate::triggers::FactsError;

/// Why a statement failed.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The statement is wrong, or its execution failed.
    #[error("{0}")]
    Query(Box<DataFusionError>),
    /// The statement would change something.
    #[error(
        "only queries are answered (SELECT, EXPLAIN, SHOW TABLES, DESCRIBE); tables change through readings and runs"
    )]
    ReadOnly,
    /// There is no such table.
    #[error("there is no table `{name}`; {}the tables are {}", names::question(*.nearest), TABLES.join(", "))]
    NoTable {
        /// As written.
        name: String,
        /// The table that was meant, if one is like it.
        nearest: Option<&'static str>,
    },
    /// There is no such version of a table.
    #[error("the table `{table}` does not exist, so it has no version {version}")]
    NoVersion {
        /// The table.
        table: &'static str,
        /// As asked for.
        version: i64,
    },
    /// The lake cannot be read.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// The metadata database cannot be read.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The committed state cannot be read.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// The trigger facts cannot be assembled.
    #[error(transparent)]
    Facts(Box<FactsError>),
}

impl From<DataFusionError> for SqlError {
    /// Our own errors come back through DataFusion, which asks the catalog.
    fn from(error: DataFusionError) -> SqlError {
        match error {
            DataFusionError::External(inner) => match inner.downcast::<SqlError>() {
                Ok(ours) => *ours,
                Err(other) => SqlError::Query(Box::new(DataFusionError::External(other))),
            },
            other => SqlError::Query(Box::new(other)),
        }
    }
}

impl From<SqlError> for DataFusionError {
    fn from(error: SqlError) -> DataFusionError {
        match error {
            SqlError::Query(inner) => *inner,
            ours => DataFusionError::External(Box::new(ours)),
        }
    }
}

impl From<arrow::error::ArrowError> for SqlError {
    fn from(error: arrow::error::ArrowError) -> SqlError {
        DataFusionError::from(error).into()
    }
}
