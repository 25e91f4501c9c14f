//! `meterline sql`: one query, or a shell.

use std::io::{BufRead, IsTerminal};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Map, Value, json};

use super::{CommandError, CommandResult, ConfigArg, Context, table::render};
use crate::environment::Environment;
use crate::sql::{TableVersions, query};

/// Arguments of `meterline sql`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One SELECT; without it, statements that end in `;` are read from standard input (--json: one array of answers)
    query: Option<String>,
    #[command(flatten)]
    config: ConfigArg,
}

/// Runs the command.
///
/// # Errors
/// The configuration cannot be read, or the one query failed. In the shell a failed statement is told and the next one
/// read; the exit status says so at the end unless a person was typing.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let env = Environment::open(&args.config.config).await?;
    match args.query {
        Some(sql) => {
            let answer = Answer::to(&env, &sql).await?;
            if context.json { context.print_json(&answer.document()?) } else { answer.print(context) }
        }
        None => Shell { env: &env, context, documents: Vec::new(), failed: 0 }.run().await,
    }
}

/// What a statement gave.
struct Answer {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

impl Answer {
    async fn to(env: &Environment, sql: &str) -> CommandResult<Answer> {
        let sql = sql.trim().trim_end_matches(';');
        let (schema, batches) = query(env, sql, TableVersions::default()).await?;
        Ok(Answer { schema, batches })
    }

    fn print(&self, context: &Context) -> CommandResult {
        let header: Vec<&str> = self.schema.fields().iter().map(|f| f.name().as_str()).collect();
        let rows = text_rows(&self.batches)?;
        context.print(&render(&header, &rows))?;
        eprintln!("{} {}", rows.len(), if rows.len() == 1 { "row" } else { "rows" });
        Ok(())
    }

    /// `{"columns": […], "rows": [{…}]}`: numbers and truths as such, instants as RFC 3339, everything else as text.
    fn document(&self) -> CommandResult<Value> {
        let names: Vec<&String> = self.schema.fields().iter().map(|f| f.name()).collect();
        let mut rows = Vec::new();
        for batch in &self.batches {
            let columns = formatted(batch)?;
            for row in 0..batch.num_rows() {
                let mut object = Map::new();
                for (index, name) in names.iter().enumerate() {
                    object.insert((*name).clone(), json_value(batch, index, row, &columns[index]));
                }
                rows.push(Value::Object(object));
            }
        }
        Ok(json!({"columns": names, "rows": rows}))
    }
}

/// Answers statements one after the other; with `--json` all of them in one array at the end.
struct Shell<'a> {
    env: &'a Environment,
    context: &'a Context,
    documents: Vec<Value>,
    failed: usize,
}

impl Shell<'_> {
    async fn run(mut self) -> CommandResult {
        let interactive = std::io::stdin().is_terminal();
        if interactive {
            eprintln!("statements end in ;  \\q quits  tables: {}", crate::sql::TABLES.join(", "));
        }
        let mut pending = String::new();
        for line in std::io::stdin().lock().lines() {
            let line = line?;
            if pending.trim().is_empty() && matches!(line.trim(), "\\q" | "exit" | "quit") {
                break;
            }
            pending.push_str(&line);
            pending.push('\n');
            if line.trim_end().ends_with(';') {
                self.answer(&std::mem::take(&mut pending)).await;
            }
        }
        if !pending.trim().is_empty() {
            self.answer(&pending).await;
        }
        if self.context.json {
            self.context.print_json(&self.documents)?;
        }
        match self.failed {
            0 => Ok(()),
            _ if interactive => Ok(()),
            n => Err(CommandError::failed(format!("{n} statements failed"))),
        }
    }

    async fn answer(&mut self, sql: &str) {
        if let Err(error) = self.try_answer(sql).await {
            eprintln!("error: {}", error.message());
            self.failed += 1;
            // In its place, so that answers can be told apart by their number.
            self.documents.push(json!({"error": error.message()}));
        }
    }

    async fn try_answer(&mut self, sql: &str) -> CommandResult {
        let answer = Answer::to(self.env, sql).await?;
        if !self.context.json {
            return answer.print(self.context);
        }
        self.documents.push(answer.document()?);
        Ok(())
    }
}

fn formatted(batch: &RecordBatch) -> Result<Vec<ArrayFormatter<'_>>, arrow::error::ArrowError> {
    let options = FormatOptions::new();
    // The formatter keeps the options by value; columns live as long as the batch.
    batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options)).collect()
}

fn text_rows(batches: &[RecordBatch]) -> Result<Vec<Vec<String>>, arrow::error::ArrowError> {
    let mut rows = Vec::new();
    for batch in batches {
        let columns = formatted(batch)?;
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|c| c.value(row).to_string()).collect());
        }
    }
    Ok(rows)
}

fn json_value(batch: &RecordBatch, column: usize, row: usize, formatter: &ArrayFormatter<'_>) -> Value {
    let array = batch.column(column);
    if array.is_null(row) {
        return Value::Null;
    }
    let text = formatter.value(row).to_string();
    let data_type = array.data_type();
    if data_type.is_numeric() {
        // Floats that JSON has no number for (NaN, infinities) stay text.
        return serde_json::from_str(&text).unwrap_or(Value::String(text));
    }
    match data_type {
        arrow::datatypes::DataType::Boolean => Value::Bool(text == "true"),
        _ => Value::String(text),
    }
}
