//! `intervals_as_of('2024-05-01T00:00:00Z')`: the intervals as they were known at an instant.
//!
//! What counts is when a reading was in Kafka (the time stamp of its record). Where a reading is an interval, each one
//! that is taken is a row, so the answer is the same after a replay. Rows of gauges and counters are what commits saw:
//! of an instant between two of them the answer depends on when they were made. Readings of a backfill count as known
//! before all others.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use meterline_connectors::stamp::Stamp;
use meterline_schemas::Micros;

use super::catalog::Catalog;
use super::views;

/// Name of the function.
pub(super) const NAME: &str = "intervals_as_of";

/// The table function over the tables of one session.
#[derive(Debug)]
pub(super) struct IntervalsAsOf(pub(super) Arc<Catalog>);

impl TableFunctionImpl for IntervalsAsOf {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let text = match args.exprs() {
            [Expr::Literal(ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)), _)] => text,
            _ => return plan_err!("{NAME} needs one instant as text, such as {NAME}('2024-05-01T00:00:00Z')"),
        };
        match Stamp::parse(text).and_then(|stamp| stamp.instant(&jiff::tz::TimeZone::UTC)) {
            Some(at) => Ok(Arc::new(AsOf { catalog: Arc::clone(&self.0), at, schema: views::intervals_schema() })),
            None => plan_err!("{NAME}: `{text}` is no instant; write it as 2024-05-01T00:00:00Z"),
        }
    }
}

#[derive(Debug)]
struct AsOf {
    catalog: Arc<Catalog>,
    at: Micros,
    schema: SchemaRef,
}

#[async_trait]
impl TableProvider for AsOf {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Exact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let table = self.catalog.intervals(Some(self.at)).await.map_err(DataFusionError::from)?;
        // What comes of it is a part of the query's plan, which is optimised as a whole: a join must not be twice.
        match state.as_any().downcast_ref::<SessionState>() {
            Some(state) => {
                let plain = SessionStateBuilder::new_from_existing(state.clone()).with_physical_optimizer_rules(vec![]);
                table.scan(&plain.build(), projection, filters, limit).await
            }
            None => table.scan(state, projection, filters, limit).await,
        }
    }
}
