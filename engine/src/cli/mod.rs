//! The command line: one file a command.
//!
//! A command is a clap `Args` and a `pub async fn run(args, &Context) -> CommandResult`. Results go to standard output
//! (with `--json` one document), everything else to standard error. Exit status: 0 done, 1 failed, 2 usage or
//! configuration. A group, version or run that does not exist is a wrong argument.

mod backfill;
mod backtest;
mod context;
mod demo;
mod error;
mod execute_run;
mod explanation;
mod forecast;
mod generate;
mod logging;
mod maintain;
mod models;
mod offline;
mod plan;
mod reforecast;
mod replay;
mod retrain;
mod run;
mod runs;
pub mod shutdown;
mod simulate;
mod sql;
mod table;
mod transfer;
mod triggers;
mod tune;
mod validate;
mod values;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

pub use context::{ConfigArg, Context};
pub use error::{CommandError, CommandResult};

/// Turns meter readings into forecasts, continuously
#[derive(Debug, Parser)]
#[command(name = "meterline", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Print one JSON document to standard output
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything at once: a simulated fleet or a real file, a broker, the engine, and what happens
    Demo(demo::Args),
    /// The service: reads the feeds, evaluates the triggers, runs the pipelines
    Run(run::Args),
    /// Check the configuration, and that brokers, store and device answer
    Validate(validate::Args),
    /// What a configuration would change, before it does: triggers, models, forecasts, device time
    Plan(plan::Args),
    /// Read history from CSV or Parquet files into a feed
    Backfill(backfill::Args),
    /// Send CSV or Parquet files to Kafka, in the order of time
    Replay(replay::Args),
    /// Simulate a fleet of meters, to Kafka or to a file
    Generate(generate::Args),
    /// Train a new model version now
    Retrain(retrain::Args),
    /// Forecast every series now
    Reforecast(reforecast::Args),
    /// Merge small files, fold revisions and delete what is too old, now
    Maintain(maintain::Args),
    /// The model registry
    Models(models::Args),
    /// What the pipelines did and do
    Runs(runs::Args),
    /// The policies, and why they did or did not start a run
    Triggers(triggers::Args),
    /// Query readings, forecasts and history
    Sql(sql::Args),
    /// Forecast the series of plain files; needs no configuration
    Forecast(forecast::Args),
    /// How good models would have been on plain files; needs no configuration
    Backtest(backtest::Args),
    /// Search for good settings of a model on plain files; needs no configuration
    Tune(tune::Args),
    /// Execute one run; started by the service
    #[command(hide = true)]
    ExecuteRun(execute_run::Args),
}

impl Command {
    /// What is logged unless `METERLINE_LOG` says otherwise.
    const fn log_level(&self) -> logging::Default {
        match self {
            Command::Demo(_) => logging::Default::Own,
            Command::Run(_) | Command::ExecuteRun(_) => logging::Default::Service,
            _ => logging::Default::Quiet,
        }
    }

    async fn run(self, context: &Context) -> CommandResult {
        match self {
            Command::Demo(args) => demo::run(args, context).await,
            Command::Run(args) => run::run(args, context).await,
            Command::Validate(args) => validate::run(args, context).await,
            Command::Plan(args) => plan::run(args, context).await,
            Command::Backfill(args) => backfill::run(args, context).await,
            Command::Replay(args) => replay::run(args, context).await,
            Command::Generate(args) => generate::run(args, context).await,
            Command::Retrain(args) => retrain::run(args, context).await,
            Command::Reforecast(args) => reforecast::run(args, context).await,
            Command::Maintain(args) => maintain::run(args, context).await,
            Command::Models(args) => models::run(args, context).await,
            Command::Runs(args) => runs::run(args, context).await,
            Command::Triggers(args) => triggers::run(args, context).await,
            Command::Sql(args) => sql::run(args, context).await,
            Command::Forecast(args) => forecast::run(args, context).await,
            Command::Backtest(args) => backtest::run(args, context).await,
            Command::Tune(args) => tune::run(args, context).await,
            Command::ExecuteRun(args) => execute_run::run(args, context).await,
        }
    }
}

/// How long a thread for what blocks waits for more of it. They take turns, and each keeps some of the memory that it
/// used: two dozen of them, which one burst needed, kept a few hundred MiB for good where they waited for 10 s.
const IDLE_THREAD: Duration = Duration::from_millis(250);

/// Parses the command line and executes it.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let context = Context { json: cli.json };
    logging::start(cli.command.log_level());
    let runtime = match tokio::runtime::Builder::new_multi_thread().thread_keep_alive(IDLE_THREAD).enable_all().build()
    {
        Ok(runtime) => runtime,
        Err(e) => return CommandError::failed(format!("cannot start the runtime's threads: {e}")).report(),
    };
    let result = runtime.block_on(cli.command.run(&context));
    // What still blocks (a broker that does not answer) must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
