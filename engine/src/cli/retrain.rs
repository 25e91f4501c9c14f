//! `meterline retrain`: builds a model now, whatever the triggers say.

use std::sync::Arc;

use meterline_schemas::Micros;

use super::shutdown::Shutdown;
use super::values::instant;
use super::{CommandError, CommandResult, ConfigArg, Context};
use crate::environment::Environment;
use crate::metadata::records::{Pipeline, RunRecord, Status};
use crate::pipelines::manual::{self, ManualError};

/// Arguments of `meterline retrain` and `meterline reforecast`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Model group, such as PT15M [default: every group]
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Nothing that ends after this instant is known: a date, or a date and time; UTC without an offset [default: all
    /// of it]
    #[arg(long, value_name = "TIME", value_parser = instant)]
    as_of: Option<Micros>,
}

/// Builds a model for one or all groups and waits for it.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    start(args, Pipeline::Build, context).await
}

/// Starts the runs, shows their progress and prints what came out.
pub(super) async fn start(args: Args, pipeline: Pipeline, context: &Context) -> CommandResult {
    let env = Arc::new(Environment::open(&args.config.config).await?);
    let group = args.group.as_deref();
    let specs = manual::specify(&env, pipeline, group, args.as_of).await.map_err(|error| match (error, group) {
        (ManualError::UnknownGroup { asked, known }, _) => CommandError::unknown_group(&asked, &known),
        // Where there is no group yet, one that is named is as unknown as elsewhere.
        (ManualError::Empty(_) | ManualError::NoGroup(_), Some(asked)) => CommandError::unknown_group(asked, &[]),
        (error, _) => error.into(),
    })?;
    let shutdown = Shutdown::install()?;
    let cause = format!("manual: meterline {}", pipeline.trigger());
    let runs = manual::execute(&env, specs, &cause, shutdown.requested()).await?;
    if context.json {
        context.print_json(&runs)?;
    } else {
        for run in &runs {
            context.print(&summary(run))?;
        }
    }
    let bad: Vec<&str> =
        runs.iter().filter(|r| r.status != Status::Succeeded).map(|r| r.spec.group_id.as_str()).collect();
    if bad.is_empty() {
        return Ok(());
    }
    let list = bad.join(", ");
    Err(CommandError::failed(format!("{} did not succeed for {list}; see `meterline runs show`", pipeline.trigger())))
}

fn summary(run: &RunRecord) -> String {
    let model = run.model_version.as_deref().unwrap_or("-");
    let outcome = run.error.as_ref().map_or_else(|| model.to_owned(), Clone::clone);
    format!("{}  {}  {}  {outcome}", run.spec.run_id, run.spec.group_id, run.status.as_str())
}
