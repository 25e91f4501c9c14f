//! `meterline runs`: what the pipelines did and do.

use std::time::Duration;

use meterline_schemas::time::{Micros, Span, format_micros};
use serde_json::json;

use super::table::render;
use super::{CommandError, CommandResult, ConfigArg, Context};
use crate::environment::Environment;
use crate::metadata::records::{LogRecord, RunRecord, Status};

/// How often a followed log is read.
const FOLLOW: Duration = Duration::from_millis(500);

/// Arguments of `meterline runs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// The newest runs
    List {
        /// How many
        #[arg(long, default_value_t = 20)]
        limit: i64,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// One run: its specification, steps and newest metrics
    Show {
        /// Run, or the beginning of its id
        run: String,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// The log of one run
    Logs {
        /// Run, or the beginning of its id
        run: String,
        /// Go on until the run ends; not with --json
        #[arg(long)]
        follow: bool,
        #[command(flatten)]
        config: ConfigArg,
    },
}

/// Runs the command.
///
/// # Errors
/// The configuration or the metadata database cannot be read; the run is unknown.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    match args.action {
        Action::List { limit, config } => {
            let env = Environment::open(&config.config).await?;
            let runs = env.metadata.runs(limit).await?;
            if context.json { context.print_json(&runs) } else { context.print(&list(&runs)) }
        }
        Action::Show { run, config } => {
            let env = Environment::open(&config.config).await?;
            show(&env, &find(&env, &run).await?, context).await
        }
        Action::Logs { run, follow, config } => {
            if follow && context.json {
                return Err(CommandError::usage(
                    "--follow prints lines as they come and --json one document: leave one of them out",
                ));
            }
            let env = Environment::open(&config.config).await?;
            logs(&env, find(&env, &run).await?, follow, context).await
        }
    }
}

async fn find(env: &Environment, prefix: &str) -> CommandResult<RunRecord> {
    if let Some(run) = env.metadata.run(prefix).await? {
        return Ok(run);
    }
    let mut found: Vec<RunRecord> =
        env.metadata.runs(i64::MAX).await?.into_iter().filter(|r| r.spec.run_id.starts_with(prefix)).collect();
    match (found.len(), found.pop()) {
        (1, Some(run)) => Ok(run),
        (0, _) => Err(CommandError::unknown_run(prefix)),
        (n, _) => Err(CommandError::usage(format!("{n} runs begin with `{prefix}`; give more of the id"))),
    }
}

fn took(from: Option<Micros>, to: Option<Micros>) -> String {
    match (from, to) {
        (Some(from), Some(to)) => Span((to - from).max(0) / 1000 * 1000).to_string(),
        _ => "-".to_owned(),
    }
}

fn list(runs: &[RunRecord]) -> String {
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|r| {
            vec![
                r.spec.run_id.clone(),
                r.spec.pipeline.as_str().to_owned(),
                r.spec.group_id.clone(),
                r.status.as_str().to_owned(),
                format_micros(r.spec.origin),
                r.model_version.clone().unwrap_or_else(|| "-".to_owned()),
                took(r.started_at, r.finished_at),
                r.cause.clone(),
                r.error.clone().unwrap_or_default(),
            ]
        })
        .collect();
    render(&["run", "pipeline", "group", "status", "origin", "model", "took", "cause", "error"], &rows)
}

async fn show(env: &Environment, run: &RunRecord, context: &Context) -> CommandResult {
    let id = &run.spec.run_id;
    let (steps, metrics) = (env.metadata.steps(id).await?, env.metadata.metrics(id).await?);
    if context.json {
        return context.print_json(&json!({"run": run, "steps": steps, "metrics": metrics}));
    }
    let rows: Vec<Vec<String>> = steps
        .iter()
        .map(|s| {
            let detail = s.error.clone().unwrap_or_else(|| s.output.to_string());
            vec![s.step.clone(), s.status.as_str().to_owned(), took(s.started_at, s.finished_at), detail]
        })
        .collect();
    let mut newest = std::collections::BTreeMap::new();
    for point in &metrics {
        newest.insert((point.step.as_str(), point.name.as_str()), point.value);
    }
    let metrics: Vec<String> =
        newest.iter().map(|((step, name), value)| format!("  {step}.{name} = {value:.6}")).collect();
    let mut text = vec![list(std::slice::from_ref(run)), String::new()];
    text.push(render(&["step", "status", "took", "output"], &rows));
    if !metrics.is_empty() {
        text.push(format!("\nnewest metrics\n{}", metrics.join("\n")));
    }
    context.print(&text.join("\n"))
}

async fn logs(env: &Environment, mut run: RunRecord, follow: bool, context: &Context) -> CommandResult {
    let id = run.spec.run_id.clone();
    if context.json {
        return context.print_json(&env.metadata.logs(&id).await?);
    }
    let mut printed = 0;
    loop {
        let ended = !matches!(run.status, Status::Queued | Status::Running);
        let lines = env.metadata.logs(&id).await?;
        for line in lines.iter().skip(printed) {
            context.print(&log_line(line))?;
        }
        printed = lines.len();
        if !follow || ended {
            return Ok(());
        }
        tokio::time::sleep(FOLLOW).await;
        run = find(env, &id).await?;
    }
}

fn log_line(line: &LogRecord) -> String {
    format!("{} {:<5} {}: {}", format_micros(line.at), line.level, line.step, line.message)
}
