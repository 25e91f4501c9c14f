//! One snapshot of a Delta table as a DataFusion table: its Parquet files, pruned by their statistics.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::pruning::PrunableStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, DFSchema, Result, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use meterline_connectors::lake::{Bound, DataFile, TableDefinition};

/// Under which URL a session finds the lake's object store.
pub(super) const LAKE_URL: &str = "meterline://lake";

/// Some files of one version of a table.
#[derive(Debug)]
pub(super) struct SnapshotTable {
    name: &'static str,
    schema: SchemaRef,
    file_schema: SchemaRef,
    partition_columns: Vec<Arc<Field>>,
    files: Vec<DataFile>,
}

impl SnapshotTable {
    /// The table with these files; an empty list is an empty table.
    pub(super) fn new(definition: &TableDefinition, files: Vec<DataFile>) -> SnapshotTable {
        let (partition, stored): (Vec<_>, Vec<_>) = definition
            .schema
            .fields()
            .iter()
            .cloned()
            .partition(|f| definition.partition_by.contains(&f.name().as_str()));
        let mut partition_columns = Vec::with_capacity(partition.len());
        for name in definition.partition_by {
            partition_columns.extend(partition.iter().filter(|f| f.name() == name).cloned());
        }
        let file_schema = Arc::new(Schema::new(stored));
        let all: Vec<Arc<Field>> = file_schema.fields().iter().cloned().chain(partition_columns.clone()).collect();
        SnapshotTable {
            name: definition.name,
            schema: Arc::new(Schema::new(all)),
            file_schema,
            partition_columns,
            files,
        }
    }

    /// The files that may hold rows that the predicate lets through.
    fn prune(&self, predicate: Option<&Arc<dyn PhysicalExpr>>) -> Result<Vec<&DataFile>> {
        let pruning = predicate.and_then(|predicate| {
            PruningPredicateBuilder::new().with_file_schema(Arc::clone(&self.schema)).build(Arc::clone(predicate))
        });
        let Some(pruning) = pruning else { return Ok(self.files.iter().collect()) };
        let statistics = self.files.iter().map(|file| Arc::new(self.statistics(file))).collect();
        let kept = pruning.prune(&PrunableStatistics::new(statistics, Arc::clone(&self.schema)))?;
        Ok(self.files.iter().zip(kept).filter_map(|(file, keep)| keep.then_some(file)).collect())
    }

    /// How many rows there are, so that the smaller side of a join is kept in memory. Nothing else is promised, because
    /// the optimizer answers from what is.
    fn row_count(&self, files: &[&DataFile]) -> Statistics {
        let num_rows = files.iter().map(|file| rows(file)).reduce(|a, b| a.add(&b)).unwrap_or(Precision::Absent);
        Statistics { num_rows, ..Statistics::new_unknown(&self.schema) }
    }

    /// Bounds of a file for pruning only: instants are rounded outwards to milliseconds.
    fn statistics(&self, file: &DataFile) -> Statistics {
        let mut ranges = file.ranges();
        let column_statistics = self
            .schema
            .fields()
            .iter()
            .map(|field| {
                let bounds = match file.partition.get(field.name()) {
                    Some(value) => Some((scalar_text(value), scalar_text(value))),
                    None => ranges.remove(field.name()).and_then(|(low, high)| {
                        Some((scalar(field.data_type(), low)?, scalar(field.data_type(), high)?))
                    }),
                };
                match bounds {
                    Some((low, high)) => ColumnStatistics {
                        min_value: Precision::Exact(low),
                        max_value: Precision::Exact(high),
                        ..ColumnStatistics::new_unknown()
                    },
                    None => ColumnStatistics::new_unknown(),
                }
            })
            .collect();
        Statistics { num_rows: rows(file), total_byte_size: Precision::Absent, column_statistics }
    }
}

/// Rows of a file; one without statistics says that it has none.
fn rows(file: &DataFile) -> Precision<usize> {
    match usize::try_from(file.rows) {
        Ok(rows) if rows > 0 => Precision::Exact(rows),
        _ => Precision::Absent,
    }
}

fn scalar_text(value: &str) -> ScalarValue {
    ScalarValue::Utf8(Some(value.to_owned()))
}

fn scalar(data_type: &DataType, bound: Bound) -> Option<ScalarValue> {
    match (data_type, bound) {
        (DataType::Utf8, Bound::Text(text)) => Some(ScalarValue::Utf8(Some(text))),
        (DataType::Int64, Bound::Integer(n)) => Some(ScalarValue::Int64(Some(n))),
        (DataType::Int32, Bound::Integer(n)) => Some(ScalarValue::Int32(Some(i32::try_from(n).ok()?))),
        (DataType::Timestamp(_, zone), Bound::Integer(n)) => {
            Some(ScalarValue::TimestampMicrosecond(Some(n), zone.clone()))
        }
        _ => None,
    }
}

#[async_trait]
impl TableProvider for SnapshotTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // Files are pruned and pages skipped by them; the plan still checks every row.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let predicate = match conjunction(filters.to_vec()) {
            Some(filter) => {
                let schema = DFSchema::try_from(Arc::clone(&self.schema))?;
                Some(state.create_physical_expr(filter, &schema)?)
            }
            None => None,
        };
        let files = self.prune(predicate.as_ref())?;
        if files.is_empty() {
            let schema = match projection {
                Some(columns) => Arc::new(self.schema.project(columns)?),
                None => Arc::clone(&self.schema),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let statistics = self.row_count(&files);
        let partitions = state.config().target_partitions().max(1);
        let mut groups = vec![Vec::new(); partitions.min(files.len())];
        let count = groups.len();
        for (index, file) in files.into_iter().enumerate() {
            let values = self
                .partition_columns
                .iter()
                .map(|c| ScalarValue::Utf8(file.partition.get(c.name()).cloned()))
                .collect();
            let path = format!("{}/{}", self.name, file.path);
            groups[index % count].push(PartitionedFile::new(path, file.size).with_partition_values(values));
        }
        let table = TableSchema::builder(Arc::clone(&self.file_schema))
            .with_table_partition_cols(self.partition_columns.clone())
            .build();
        // DataFusion itself moves the filters above a scan into it; were they given here, each would be checked twice.
        let source = ParquetSource::new(table).with_pushdown_filters(true).with_reorder_filters(true);
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse(LAKE_URL)?, Arc::new(source))
            .with_file_groups(groups.into_iter().map(FileGroup::new).collect())
            .with_projection_indices(projection.cloned())?
            .with_statistics(statistics)
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}
