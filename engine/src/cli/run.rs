//! `meterline run`: the service.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meterline_connectors::lake::Lake;
use meterline_schemas::config::{Config, HttpConfig};
use meterline_schemas::time::format_micros;

use super::shutdown::Shutdown;
use super::{CommandError, CommandResult, ConfigArg, Context};
use crate::environment::{self, Environment};
use crate::ingest::pulse::Pulse;
use crate::ingest::{IngestOptions, cluster};
use crate::metadata::MetadataError;
use crate::reload;
use crate::server;
use crate::service::{Service, ServiceError, Standing};

/// How often the service says how it is doing.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Arguments of `meterline run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArg,

    /// Number of this process among `cluster.addresses`; process 0 commits and has all that is not the stream itself
    #[arg(long, value_name = "N", default_value_t = 0)]
    process: usize,

    /// Where a process other than process 0 says whether it is well (/healthz, /readyz), in place of `http.listen` of the
    /// configuration, which all of them share; without it nowhere
    #[arg(long, value_name = "ADDRESS:PORT")]
    http_listen: Option<String>,
}

/// Runs the service until Ctrl-C, SIGTERM or a fault that ends the stream.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let shutdown = Shutdown::install()?;
    let path = &args.config.config;
    if args.process > 0 {
        return run_member(&args, &shutdown, context).await;
    }
    if args.http_listen.is_some() {
        return Err(CommandError::usage("--http-listen is for processes other than process 0: set http.listen"));
    }
    // Opening may wait for a locked database, and starting for the lake.
    let Some(opened) = shutdown.unless_requested(Environment::open(path)).await else {
        stopped_early();
        return report(Standing::default(), context);
    };
    let env = Arc::new(opened?);
    announce(&env.config, path, &env.lake, 0)?;
    let Some(started) = shutdown.unless_requested(Service::start(env.clone())).await else {
        stopped_early();
        return report(Standing::default(), context);
    };
    let mut service = started?;
    let committed = service.committed();
    let standing = || committed.borrow().as_ref().map(|c| Standing::of(c)).unwrap_or_default();
    let mut status = Status { env: env.clone(), last: standing(), at: Instant::now() };
    let mut asked_to_stop = service.asked_to_stop();
    let mut timer = tokio::time::interval_at(tokio::time::Instant::now() + STATUS_EVERY, STATUS_EVERY);
    let failure = loop {
        tokio::select! {
            error = service.failed() => break Some(error),
            () = shutdown.requested() => break None,
            Ok(_) = asked_to_stop.wait_for(|asked| *asked) => {
                tracing::info!("another process of the cluster was asked to end: all end");
                break None;
            }
            _ = timer.tick() => status.log(standing()).await,
        }
    };
    tracing::info!("stopping: what was read is committed, runs stop at a safe point and go on at the next start");
    let stopped = service.stop().await;
    if let Some(error) = failure {
        // Stopping a dead stream fails for the same reason; the first one is the one to tell.
        return Err(error.into());
    }
    stopped?;
    let end = standing();
    tracing::info!(records = end.records, intervals = end.intervals, "stopped");
    report(end, context)
}

/// Another process than process 0: workers alone, which need no metadata database.
async fn run_member(args: &Args, shutdown: &Shutdown, context: &Context) -> CommandResult {
    reload::outlive_hangup().map_err(ServiceError::from)?;
    let Args { config: ConfigArg { config: path }, process, http_listen } = args;
    let (path, process) = (path.as_path(), *process);
    let joined = async {
        let (config, lake) = environment::open_lake(path).await?;
        announce(&config, path, &lake, process)?;
        let directory = environment::directory_of(path).to_owned();
        let options = IngestOptions { directory, process, workers: None };
        let pulse = Pulse::default();
        let listen = http_listen.clone().unwrap_or_else(|| "off".to_owned());
        let http = HttpConfig { listen: Some(listen), ..config.http.clone() };
        if let Some((message, remedy)) = http.fault() {
            return Err(CommandError::usage(format!("--http-listen: {message}; {remedy}")));
        }
        let endpoints = server::start_of_member(&http, pulse.clone()).await.map_err(ServiceError::from)?;
        Ok::<_, CommandError>((cluster::follow(&config, &lake, options, &pulse).await?, endpoints))
    };
    match shutdown.unless_requested(joined).await {
        None => stopped_early(),
        Some(joined) => {
            let (mut member, _endpoints) = joined?;
            tokio::select! {
                ended = member.ended() => ended?,
                () = shutdown.requested() => {
                    tracing::info!("stopping: process 0 commits what was read and ends all processes");
                    member.stop();
                    member.ended().await?;
                }
            }
            tracing::info!(process, "stopped");
        }
    }
    // What was read, process 0 tells.
    match context.json {
        true => context.print_json(&serde_json::json!({ "process": process })),
        false => Ok(()),
    }
}

/// The end was asked for before the stream began: nothing was read.
fn stopped_early() {
    tracing::info!("stopped before the start was complete; nothing was read");
}

fn report(end: Standing, context: &Context) -> CommandResult {
    if !context.json {
        return Ok(());
    }
    context.print_json(&serde_json::json!({
        "records": end.records,
        "intervals": end.intervals,
        "dead_letters": end.dead,
        "watermark": end.watermark.map(format_micros),
    }))
}

/// Says what is started.
///
/// # Errors
/// Without a feed there is nothing to do.
fn announce(config: &Config, path: &Path, lake: &Lake, process: usize) -> CommandResult {
    if config.feed.is_empty() {
        return Err(CommandError::usage(format!(
            "{} has no feed; add at least [feed.NAME] with topic, series, time and value",
            path.display()
        )));
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = %path.display(),
        lake = lake.url(),
        metadata = config.metadata.url.as_deref().unwrap_or("in the lake's directory"),
        brokers = config.kafka.brokers,
        workers = config.ingest.workers,
        process,
        processes = config.cluster.processes(),
        device = config.device.device,
        device_slots = config.device.slots,
        "meterline starts"
    );
    for (name, feed) in &config.feed {
        tracing::info!(
            feed = name,
            topic = feed.topic,
            unit = %feed.unit,
            zone = feed.zone,
            lateness = %feed.lateness,
            frequency = feed.frequency.map_or("detected".to_owned(), |f| f.to_string()),
            "feed"
        );
    }
    Ok(())
}

/// The status line, with what it needs to compute a rate.
struct Status {
    env: Arc<Environment>,
    last: Standing,
    at: Instant,
}

impl Status {
    async fn log(&mut self, now: Standing) {
        let seconds = self.at.elapsed().as_secs_f64();
        let rate = now.rate(&self.last, seconds);
        (self.last, self.at) = (now, Instant::now());
        let runs = match self.active_runs().await {
            Ok(runs) => runs,
            Err(error) => format!("unknown: {error}"),
        };
        tracing::info!(
            readings_per_s = rate.round(),
            lag = now.lag_records,
            intervals = now.intervals,
            dead_letters = now.dead,
            watermark = now.watermark.map_or("none yet".to_owned(), format_micros),
            runs,
            "status"
        );
    }

    async fn active_runs(&self) -> Result<String, MetadataError> {
        let runs = self.env.metadata.active_runs().await?;
        let names: Vec<String> = runs
            .iter()
            .map(|r| format!("{} {} {}", r.spec.group_id, r.spec.pipeline.as_str(), r.status.as_str()))
            .collect();
        Ok(if names.is_empty() { "none".to_owned() } else { names.join(", ") })
    }
}
