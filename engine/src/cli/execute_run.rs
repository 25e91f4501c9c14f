//! `meterline execute-run`: the child process of one run. Hidden: the engine and the manual commands start it.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::{CommandError, CommandResult, ConfigArg, Context};
use crate::environment::Environment;
use crate::metadata::records::Status;
use crate::pipelines::{Stop, child};

/// How long a step may take to reach a safe point once a stop was asked for. Shorter than the parent's patience, so
/// that the process says itself why it ends.
const SAFE_POINT_PATIENCE: Duration = Duration::from_secs(12);

/// Arguments of `meterline execute-run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// The run to execute
    #[arg(long = "run", value_name = "ID")]
    run_id: String,
    /// Standard input is a pipe from the engine: when it ends, so does this process
    #[arg(long)]
    parent_pipe: bool,
}

/// Executes the run from its first unfinished step.
pub async fn run(args: Args, _context: &Context) -> CommandResult {
    let stop = Stop::default();
    listen(&stop, args.parent_pipe)?;
    let env = Arc::new(Environment::open(&args.config.config).await?);
    match child::execute(env, &args.run_id, stop).await? {
        Status::Failed => Err(CommandError::failed(format!("run {} has failed; its record says why", args.run_id))),
        _ => Ok(()),
    }
}

fn listen(stop: &Stop, parent_pipe: bool) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let asked = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            // Ctrl-C reaches the whole process group. With an engine above, the engine decides.
            _ = interrupt.recv(), if !parent_pipe => {}
        }
        asked.suspend();
    });
    if parent_pipe {
        let asked = stop.clone();
        // A thread of its own: a blocked read on the runtime would keep the process from ending.
        std::thread::Builder::new().name("parent-pipe".into()).spawn(move || {
            let mut buffer = [0; 64];
            loop {
                match std::io::stdin().read(&mut buffer) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            asked.suspend();
        })?;
    }
    let asked = stop.clone();
    tokio::spawn(async move {
        asked.requested().await;
        tokio::time::sleep(SAFE_POINT_PATIENCE).await;
        // The engine that read this may be gone: a failure to write must not keep the process.
        let patience = SAFE_POINT_PATIENCE;
        let _ = writeln!(
            std::io::stderr(),
            "error: no safe point within {patience:?} of the request to stop: ending at once"
        );
        std::process::exit(1);
    });
    Ok(())
}
