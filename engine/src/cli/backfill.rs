//! `meterline backfill`: history from files into a feed.

use super::transfer::{FileArgs, FilesArg};
use super::{CommandResult, ConfigArg, Context};
use crate::environment::Environment;
use crate::ingest::backfill::{self, BackfillProgress};

/// Arguments of `meterline backfill`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Feed that the readings belong to; its kind, label, zone and unit hold for the files
    #[arg(long, value_name = "NAME")]
    feed: String,
    #[command(flatten)]
    files: FilesArg,
    #[command(flatten)]
    file: FileArgs,
}

/// Reads the files, and says what became of their readings.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let env = Environment::open(&args.config.config).await?;
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
    let (files, options) = (&args.files.files, args.file.options());
    let report = backfill::run(&env.config, &env.lake, &args.feed, files, &options, env.directory(), show).await?;
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
