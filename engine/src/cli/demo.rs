//! `meterline demo`: everything at once, with nothing else installed.

use std::path::PathBuf;

use super::{CommandError, CommandResult, Context, logging};
use crate::demo::setup::Directory;
use crate::demo::show::{self, Options};

/// Arguments of `meterline demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// End after the first forecast by a model and a later one that was scored against what came true
    #[arg(long)]
    exit: bool,
    /// Send this file (CSV or Parquet, long or wide) in place of the simulated fleet
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "meters"])]
    data: Option<PathBuf>,
    /// Simulated seconds per second, after the history
    #[arg(long, value_name = "X", default_value_t = 3600.0)]
    speed: f64,
    /// Use this Kafka cluster in place of the in-process broker
    #[arg(long, value_name = "HOST:PORT")]
    brokers: Option<String>,
    /// Keep configuration, log and lake in this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Seed of the simulated fleet
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Number of simulated meters
    #[arg(long, value_name = "N", default_value_t = 50)]
    meters: u32,
}

/// Runs the demo. Where it fails, its directory stays, and the error says where the log is.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    if !(args.speed.is_finite() && args.speed > 0.0) {
        return Err(CommandError::usage(format!("--speed {} is not above 0", args.speed)));
    }
    let mut directory = Directory::prepare(args.dir.as_deref())?;
    let log = directory.log();
    logging::start_file(&log)
        .map_err(|e| CommandError::failed(format!("cannot write the log {}: {e}", log.display())))?;
    let options = Options {
        exit: args.exit,
        data: args.data,
        speed: args.speed,
        brokers: args.brokers,
        seed: args.seed,
        meters: args.meters,
        json: context.json,
    };
    match show::run(&options, &directory).await {
        Ok(outcome) if context.json => context.print_json(&outcome),
        Ok(_) => Ok(()),
        Err(error) if error.status() == 2 => Err(error),
        Err(error) => {
            directory.keep();
            Err(CommandError::failed(format!("{}; the log is {}", error.message(), log.display())))
        }
    }
}
