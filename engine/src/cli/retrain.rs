//! `meterline retrain`: builds a model now, whatever the triggers say.

use std::sync::Arc;

use meterline_schemas::Micros;

use super::shutdown::Shutdown;
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
    /// Nothing that ends after this instant is known (RFC 3339, or a date: its midnight UTC) [default: all of it]
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
    let specs = match manual::specify(&env, pipeline, args.group.as_deref(), args.as_of).await {
        Err(error @ ManualError::UnknownGroup { .. }) => return Err(CommandError::usage(error.to_string())),
        specified => specified?,
    };
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

fn instant(text: &str) -> Result<Micros, String> {
    let stamp = text.parse::<jiff::Timestamp>().or_else(|error| {
        // A local date and time would parse as its date alone.
        if text.contains(['T', 't', ' ']) {
            return Err(error);
        }
        text.parse::<jiff::civil::Date>()?.to_zoned(jiff::tz::TimeZone::UTC).map(|zoned| zoned.timestamp())
    });
    stamp
        .map(|stamp| stamp.as_microsecond())
        .map_err(|_| format!("`{text}` is no instant; write it like 2024-03-01T12:00:00Z or 2024-03-01"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_stamps_or_dates() {
        for (text, expected) in [
            ("1970-01-02", Some(86_400_000_000)),
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("1970-01-01T00:00:01Z", Some(1_000_000)),
            ("1970-01-01T00:00:01", None),
            ("yesterday", None),
        ] {
            assert_eq!(instant(text).ok(), expected, "{text}");
        }
    }
}
