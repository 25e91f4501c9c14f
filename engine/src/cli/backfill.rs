//! `meterline backfill`: history from files into a feed.

use std::path::PathBuf;

use meterline_connectors::files::FileOptions;
use meterline_schemas::config::Label;

use super::{CommandError, CommandResult, ConfigArg, Context};
use crate::environment::Environment;
use crate::ingest::IngestError;
use crate::ingest::backfill::{self, BackfillProgress};

/// Arguments of `meterline backfill`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Feed that the readings belong to; its kind, label, zone and unit hold for the files
    #[arg(long, value_name = "NAME")]
    feed: String,
    /// CSV or Parquet files, long or wide
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Long files: column with the series identifier [default: by its name]
    #[arg(long, value_name = "NAME")]
    series_column: Option<String>,
    /// Column with the time stamp [default: by its content]
    #[arg(long, value_name = "NAME")]
    time_column: Option<String>,
    /// Long files: column with the value [default: by its name]
    #[arg(long, value_name = "NAME")]
    value_column: Option<String>,
    /// Which end of the interval a stamp marks [default: as the feed says]
    #[arg(long, value_parser = label, value_name = "begin|end")]
    label: Option<Label>,
    /// Leave out and count what cannot be read, instead of ending with an error
    #[arg(long)]
    skip_bad: bool,
}

fn label(text: &str) -> Result<Label, String> {
    match text {
        "begin" => Ok(Label::Begin),
        "end" => Ok(Label::End),
        _ => Err("use begin or end".into()),
    }
}

/// Reads the files, and says what became of their readings.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let env = Environment::open(&args.config.config).await?;
    let options = FileOptions {
        series_column: args.series_column,
        time_column: args.time_column,
        value_column: args.value_column,
        label: args.label,
        skip_bad: args.skip_bad,
        ..FileOptions::default()
    };
    let show = |at: BackfillProgress| {
        eprintln!(
            "{} ({} of {}): {:.0} %, {} readings committed",
            at.file.display(),
            at.number,
            at.files,
            at.share * 100.0,
            at.readings
        );
    };
    let report = match backfill::run(&env.config, &env.lake, &args.feed, &args.files, &options, show).await {
        Ok(report) => report,
        Err(error @ IngestError::Feed { .. }) => return Err(CommandError::usage(error.to_string())),
        Err(IngestError::File(error)) if error.is_usage() => return Err(CommandError::usage(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    if context.json {
        return context.print_json(&report);
    }
    context.print(&format!(
        "feed `{}`: {} readings of {} files in {:.1} s: {} new, {} corrections, {} unchanged, {} not usable, {} waiting \
         for their frequency; {} cells or rows left out",
        report.feed,
        report.readings,
        report.files,
        report.seconds,
        report.accepted,
        report.corrected,
        report.duplicate,
        report.dead,
        report.pending,
        report.skipped,
    ))
}
