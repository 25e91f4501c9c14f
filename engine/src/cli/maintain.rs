//! `meterline maintain`: one round of housekeeping now.

use super::table::render;
use super::{CommandError, CommandResult, ConfigArg, Context};
use crate::environment::Environment;
use crate::maintenance::manual;
use crate::maintenance::report::{JobReport, RoundReport};

/// Arguments of `meterline maintain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// No engine runs on the lake: do it in this process. Only needed where the lake is no local directory
    #[arg(long, conflicts_with = "dry_run")]
    alone: bool,
}

/// Does one round, by the running engine where there is one, and says what it did.
///
/// # Errors
/// The lake or the metadata database cannot be used, or some of the work failed.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let env = Environment::open(&args.config.config).await?;
    let show = |job: &JobReport| eprintln!("{}", progress(job));
    let report = match args.dry_run {
        true => manual::plan(&env, |_| ()).await?,
        false => manual::run(&env, args.alone, show).await?,
    };
    if context.json {
        context.print_json(&report)?;
    } else {
        context.print(&text(&report))?;
    }
    let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    match failures.as_slice() {
        [] => Ok(()),
        failures => Err(CommandError::failed(format!("housekeeping is incomplete: {}", failures.join("; ")))),
    }
}

fn progress(job: &JobReport) -> String {
    let of = if job.partition.is_empty() { String::new() } else { format!(" ({})", job.partition) };
    format!("{} of {}{of}: {} files", job.job.as_str(), job.table, job.files_before)
}

fn text(report: &RoundReport) -> String {
    if report.jobs.is_empty() {
        return "nothing to do".to_owned();
    }
    let rows: Vec<Vec<String>> = report
        .jobs
        .iter()
        .map(|job| {
            vec![
                job.table.clone(),
                job.job.as_str().to_owned(),
                job.partition.clone(),
                job.outcome.as_str().to_owned(),
                job.files_before.to_string(),
                job.files_after.to_string(),
                job.bytes_before.to_string(),
                job.bytes_after.to_string(),
                format!("{:.2}", job.seconds),
            ]
        })
        .collect();
    let header = ["table", "job", "partition", "outcome", "files", "files after", "bytes", "bytes after", "seconds"];
    render(&header, &rows)
}
