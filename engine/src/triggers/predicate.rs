//! SQL predicates over one row of named values, in SQL's three-valued logic, clause by clause.
//!
//! The expression engine is DataFusion's: there is no language of our own. A predicate is compiled once; evaluating it
//! says how the whole came out and each clause between its ANDs and ORs.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::sqlparser::ast::{BinaryOperator, Expr as SqlExpr};
use datafusion::logical_expr::{Expr, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;
use meterline_schemas::facts::{FactValue, fact_schema};
use meterline_schemas::names;

use crate::metadata::records::Truth;

/// Why a text is no predicate over these values, or could not be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum PredicateError {
    /// It is not SQL.
    #[error("`{sql}` is not a SQL predicate: {reason}")]
    Syntax {
        /// As written.
        sql: String,
        /// What the parser says.
        reason: String,
    },
    /// It looks at a value that does not exist.
    #[error(
        "`{sql}` looks at `{name}`, which does not exist; {}known are {}",
        names::question(.nearest.as_deref()),
        known.join(", ")
    )]
    Unknown {
        /// As written.
        sql: String,
        /// The unknown name.
        name: String,
        /// The known name that was meant, if one is like it.
        nearest: Option<String>,
        /// All known names.
        known: Vec<String>,
    },
    /// It is not true or false.
    #[error("`{sql}` gives a {data_type}, not true or false; compare it with something")]
    NotBoolean {
        /// As written.
        sql: String,
        /// Its type.
        data_type: DataType,
    },
    /// It depends on more than its values.
    #[error(
        "`{sql}` calls {function}(), which does not give the same answer each time; the same facts must give the same decisions: use the facts alone"
    )]
    NotPure {
        /// As written.
        sql: String,
        /// The function.
        function: String,
    },
    /// It failed on these values.
    #[error("evaluating `{sql}`: {source}")]
    Evaluate {
        /// As written.
        sql: String,
        /// What went wrong.
        source: Box<DataFusionError>,
    },
}

/// Predicates that are remembered; a configuration has a few.
const KNOWN_MAX: usize = 1_000;

/// A compiled predicate.
#[derive(Debug, Clone)]
pub struct Predicate {
    sql: String,
    schema: SchemaRef,
    whole: Arc<dyn PhysicalExpr>,
    clauses: Vec<(String, Arc<dyn PhysicalExpr>)>,
    columns: Vec<String>,
}

impl Predicate {
    /// Compiles `sql` against the columns of `schema` (integers, floats and booleans).
    ///
    /// # Errors
    ///
    /// [`PredicateError`], with the known name that was meant where one is unknown.
    pub fn compile(sql: &str, schema: &SchemaRef) -> Result<Predicate, PredicateError> {
        let state = SessionContext::new().state();
        let dialect = state.config_options().sql_parser.dialect;
        let syntax = |e: DataFusionError| PredicateError::Syntax { sql: sql.to_owned(), reason: e.strip_backtrace() };
        let parsed = state.sql_to_expr(sql, &dialect).map_err(syntax)?;
        let columns = DFSchema::try_from(Arc::clone(schema)).map_err(syntax)?;
        let mut leaves = Vec::new();
        split(&parsed, &mut leaves);
        // What is refused is told with all names that there are.
        for leaf in leaves.iter().map(String::as_str).chain([sql]) {
            physical(&state, sql, leaf, &columns, schema)?;
        }
        let looked_at = state.create_logical_expr(sql, &columns).map_err(syntax)?;
        let mut names: Vec<String> = looked_at.column_refs().into_iter().map(|column| column.name.clone()).collect();
        names.sort_unstable();
        // What it does not look at need not be made into a row each time.
        let fields = schema.fields().iter().filter(|field| names.contains(field.name())).cloned();
        let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let columns = DFSchema::try_from(Arc::clone(&schema)).map_err(syntax)?;
        let compiled = |clause: &str| physical(&state, sql, clause, &columns, &schema);
        let whole = compiled(sql)?;
        let clauses = leaves.into_iter().map(|leaf| Ok((leaf.clone(), compiled(&leaf)?))).collect::<Result<_, _>>()?;
        Ok(Predicate { sql: sql.to_owned(), whole, clauses, columns: names, schema })
    }

    /// Compiles `sql` over the facts of triggers; each text once, because a thousand groups have the same few.
    ///
    /// # Errors
    ///
    /// As [`Predicate::compile`].
    pub fn of_facts(sql: &str) -> Result<Predicate, PredicateError> {
        static KNOWN: LazyLock<Mutex<HashMap<String, Predicate>>> = LazyLock::new(Mutex::default);
        let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known().get(sql) {
            return Ok(found.clone());
        }
        let compiled = Predicate::compile(sql, &fact_schema())?;
        let mut known = known();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(sql.to_owned(), compiled.clone());
        Ok(compiled)
    }

    /// The values that it looks at, by name.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// As it was written.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// Evaluates it over values by name: the truth of the whole, and of each clause as written. A missing value makes what
    /// looks at it unknown.
    ///
    /// # Errors
    ///
    /// [`PredicateError::Evaluate`], such as for a division by zero.
    pub fn evaluate(
        &self,
        values: &dyn Fn(&str) -> Option<FactValue>,
    ) -> Result<(Truth, Vec<(String, Truth)>), PredicateError> {
        let failed =
            |source: DataFusionError| PredicateError::Evaluate { sql: self.sql.clone(), source: Box::new(source) };
        let row = row(&self.schema, values).map_err(|e| failed(e.into()))?;
        let truth = |expression: &Arc<dyn PhysicalExpr>| -> Result<Truth, DataFusionError> {
            let result = expression.evaluate(&row)?.into_array(1)?;
            Ok(match result.as_boolean_opt() {
                Some(b) if b.is_valid(0) && b.value(0) => Truth::True,
                Some(b) if b.is_valid(0) => Truth::False,
                _ => Truth::Unknown,
            })
        };
        let mut clauses = Vec::with_capacity(self.clauses.len());
        for (text, expression) in &self.clauses {
            clauses.push((text.clone(), truth(expression).map_err(failed)?));
        }
        Ok((truth(&self.whole).map_err(failed)?, clauses))
    }
}

/// The figures that a gate's `accept_if` looks at, all nullable.
pub fn gate_schema() -> SchemaRef {
    let names = ["wql", "nd", "mase", "coverage", "coverage_90", "cost"];
    let fields = ["", "naive_", "champion_"]
        .iter()
        .flat_map(|prefix| names.iter().map(move |n| Field::new(format!("{prefix}{n}"), DataType::Float64, true)))
        .collect::<Vec<_>>();
    Arc::new(Schema::new(fields))
}

/// The clauses between ANDs and ORs, as they are written.
fn split(expression: &SqlExpr, leaves: &mut Vec<String>) {
    match expression {
        SqlExpr::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or, right } => {
            split(left, leaves);
            split(right, leaves);
        }
        SqlExpr::Nested(inner) => split(inner, leaves),
        leaf => leaves.push(leaf.to_string()),
    }
}

fn physical(
    state: &SessionState,
    sql: &str,
    clause: &str,
    columns: &DFSchema,
    schema: &SchemaRef,
) -> Result<Arc<dyn PhysicalExpr>, PredicateError> {
    let refuse = |error: DataFusionError| refusal(sql, schema, &error);
    let logical = state.create_logical_expr(clause, columns).map_err(refuse)?;
    let mut impure = None;
    logical
        .apply(|node| {
            if let Expr::ScalarFunction(call) = node
                && call.func.signature().volatility != Volatility::Immutable
            {
                impure = Some(call.func.name().to_owned());
                return Ok(TreeNodeRecursion::Stop);
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .map_err(refuse)?;
    if let Some(function) = impure {
        return Err(PredicateError::NotPure { sql: clause.to_owned(), function });
    }
    // Some functions, such as coalesce, exist only until they are simplified.
    let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(Arc::new(columns.clone())).build());
    let simple =
        simplifier.coerce(logical, columns).and_then(|coerced| simplifier.simplify(coerced)).map_err(refuse)?;
    let expression = state.create_physical_expr(simple, columns).map_err(refuse)?;
    match expression.data_type(schema).map_err(refuse)? {
        DataType::Boolean | DataType::Null => Ok(expression),
        data_type => Err(PredicateError::NotBoolean { sql: clause.to_owned(), data_type }),
    }
}

fn refusal(sql: &str, schema: &SchemaRef, error: &DataFusionError) -> PredicateError {
    if let DataFusionError::SchemaError(schema_error, _) = error.find_root()
        && let SchemaError::FieldNotFound { field, .. } = schema_error.as_ref()
    {
        let known: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
        let nearest = names::nearest(&field.name, known.iter().map(String::as_str)).map(str::to_owned);
        return PredicateError::Unknown { sql: sql.to_owned(), name: field.name.clone(), nearest, known };
    }
    PredicateError::Syntax { sql: sql.to_owned(), reason: error.strip_backtrace() }
}

/// One row of the values; a missing or ill-typed value is null.
pub(super) fn row(
    schema: &SchemaRef,
    values: &dyn Fn(&str) -> Option<FactValue>,
) -> Result<RecordBatch, arrow::error::ArrowError> {
    let columns = schema
        .fields()
        .iter()
        .map(|field| {
            let value = values(field.name());
            match field.data_type() {
                DataType::Int64 => Arc::new(Int64Array::from(vec![value.and_then(FactValue::as_i64)])) as ArrayRef,
                DataType::Boolean => Arc::new(BooleanArray::from(vec![value.and_then(FactValue::as_bool)])),
                _ => Arc::new(Float64Array::from(vec![value.and_then(FactValue::as_f64)])),
            }
        })
        .collect();
    // One row, also of nothing.
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

#[cfg(test)]
mod tests {
    use meterline_schemas::facts::FactValues;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_clause_has_its_truth_and_unknown_spreads_as_in_sql() {
        use Truth::{False, True, Unknown};
        let facts = json!({"new_intervals": 96, "has_champion": true, "completeness": 0.85});
        let facts: FactValues = serde_json::from_value(facts).unwrap();
        for (sql, whole, parts) in [
            ("new_intervals >= 4", True, vec![True]),
            ("new_intervals >= 672 or mase_ratio > 1.25", Unknown, vec![False, Unknown]),
            ("new_intervals >= 4 or mase_ratio > 1.25", True, vec![True, Unknown]),
            ("new_intervals >= 672 and mase_ratio > 1.25", False, vec![False, Unknown]),
            ("completeness >= 0.9 and (has_champion or backfilling)", False, vec![False, True, Unknown]),
            ("not has_champion", False, vec![False]),
            ("new_intervals / 2 > 47.5", True, vec![True]),
            ("mase_ratio is null", True, vec![True]),
            ("true", True, vec![True]),
        ] {
            let predicate = Predicate::compile(sql, &fact_schema()).unwrap();
            let (truth, clauses) = predicate.evaluate(&|name| facts.get(name)).unwrap();
            assert_eq!(truth, whole, "{sql}");
            assert_eq!(clauses.iter().map(|(_, t)| *t).collect::<Vec<_>>(), parts, "{sql}");
        }
    }

    #[test]
    fn what_is_no_predicate_is_refused_with_the_remedy() {
        for (sql, words) in [
            ("new_interval >= 4", "which does not exist; did you mean `new_intervals`? known are "),
            ("xyz >= 4", "`xyz`, which does not exist; known are "),
            ("new_intervals", "compare it"),
            ("new_intervals >=", "not a SQL predicate"),
            ("", "not a SQL predicate"),
            ("random() < 0.5", "the same facts must give the same decisions"),
            ("now() > to_timestamp('2024-01-01T00:00:00Z')", "use the facts alone"),
            ("new_intervals >= 4; drop table x", "not a SQL predicate"),
        ] {
            let error = Predicate::compile(sql, &fact_schema()).unwrap_err().to_string();
            assert!(error.contains(words), "{sql}: {error}");
        }
    }

    #[test]
    fn a_gate_with_a_missing_figure_is_not_true() {
        let gate = Predicate::compile("wql <= 0.99 * champion_wql and wql <= naive_wql", &gate_schema()).unwrap();
        for (champion, truth) in [(None, Truth::Unknown), (Some(0.06), Truth::True)] {
            let figures = HashMap::from([("wql", Some(0.05)), ("naive_wql", Some(0.07)), ("champion_wql", champion)]);
            let figure = |name: &str| figures.get(name).copied().flatten().map(FactValue::Number);
            assert_eq!(gate.evaluate(&figure).unwrap().0, truth);
        }
    }
}
