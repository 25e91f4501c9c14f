//! `meterline execute-run`: the child process of one run. Hidden: the engine and the manual commands start it.

use std::io::{BufRead, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use meterline_schemas::config::Config;
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
    /// Standard input is a pipe from the engine: it brings the configuration, and when it ends, so does this process
    #[arg(long)]
    parent_pipe: bool,
}

/// Executes the run from its first unfinished step.
pub async fn run(args: Args, _context: &Context) -> CommandResult {
    let stop = Stop::default();
    let path = &args.config.config;
    // Before anything else reads from the pipe. What the engine goes by counts, not what the file says by now.
    let told = args.parent_pipe.then(|| told(&mut std::io::stdin().lock())).transpose()?;
    listen(&stop, args.parent_pipe)?;
    let env = Arc::new(match told {
        Some(config) => Environment::with_config(config, path).await?,
        None => Environment::open(path).await?,
    });
    match child::execute(env, &args.run_id, stop).await? {
        Status::Failed => Err(CommandError::failed(format!("run {} has failed; its record says why", args.run_id))),
        _ => Ok(()),
    }
}

/// The configuration that the engine tells: its length in bytes as a line, and JSON.
fn told(pipe: &mut impl BufRead) -> std::io::Result<Config> {
    let mut length = String::new();
    pipe.read_line(&mut length)?;
    let wrong = |what: &str| std::io::Error::other(format!("the engine told no configuration: {what}"));
    let length = length.trim().parse().map_err(|_| wrong("it ended first"))?;
    let mut bytes = vec![0; length];
    pipe.read_exact(&mut bytes)?;
    serde_json::from_slice(&bytes).map_err(|e| wrong(&e.to_string()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_comes_over_the_pipe_as_it_is() {
        let text = "[feed.m]\ntopic = \"t\"\nseries = \"s\"\ntime = \"t\"\nvalue = \"v\"\n[kafka.properties]\na = \"b\"\n\
                    [policy.a]\nfrequency = \"PT15M\"\n[policy.a.retrain]\nschedule = \"0 3 * * *\"\ncooldown = \"96 intervals\"\n\
                    [policy.a.model]\nkind = \"auto\"\nholidays = \"Portugal\"\n[policy.a.retrain.when]\nnew = \"series > 3\"\n";
        let config = meterline_schemas::config::parse(text).unwrap();
        let json = serde_json::to_vec(&config).unwrap();
        let sent = [format!("{}\n", json.len()).as_bytes(), &json].concat();
        assert_eq!(told(&mut sent.as_slice()).unwrap(), config);
        assert!(told(&mut [].as_slice()).is_err() && told(&mut b"9\n{}".as_slice()).is_err());
    }
}
