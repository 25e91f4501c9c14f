//! `meterline validate`: is the configuration right, and does what it points at answer?

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use meterline_connectors::files::labels;
use meterline_connectors::kafka::SourceError;
use meterline_connectors::kafka::cluster::Cluster;
use meterline_connectors::lake::{self, Lake, LakeError};
use meterline_models::device;
use meterline_schemas::config::Config;
use meterline_schemas::time::format_micros;
use serde::Serialize;

use super::error::one_line;
use super::{CommandError, CommandResult, ConfigArg, Context};
use crate::environment::{directory_of, metadata_url, read_config};
use crate::ingest::classes::Classes;
use crate::ingest::cluster;
use crate::metadata::{MetadataError, MetadataStore};
use crate::pipelines::covariates::file;

/// Arguments of `meterline validate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Check the configuration alone, not what it points at
    #[arg(long)]
    offline: bool,
}

/// One thing that was checked.
#[derive(Debug, Serialize)]
struct Check {
    name: String,
    ok: bool,
    /// What was found; where it failed, with the remedy.
    detail: String,
}

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
    /// The configuration is at fault, and not only what it points at.
    #[serde(skip)]
    misconfigured: bool,
}

impl Report {
    fn add<E: fmt::Display>(&mut self, name: impl Into<String>, outcome: Result<String, E>) -> bool {
        let (ok, detail) = match outcome {
            Ok(detail) => (true, detail),
            Err(error) => (false, error.to_string()),
        };
        self.ok &= ok;
        self.checks.push(Check { name: name.into(), ok, detail });
        ok
    }
}

/// Checks one thing after the other and reports all of them.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let mut report = Report { ok: true, checks: Vec::new(), misconfigured: false };
    let path = &args.config.config;
    match check_config(&mut report, path) {
        Some(config) if !args.offline => check_environment(&mut report, &config, directory_of(path)).await,
        Some(_) => {}
        None => report.misconfigured = true,
    }
    if context.json {
        context.print_json(&report)?;
    } else {
        for check in &report.checks {
            let word = if check.ok { "ok" } else { "failed" };
            context.print(&format!("{word:<7} {:<28} {}", check.name, check.detail))?;
        }
    }
    match (report.ok, report.misconfigured) {
        (true, _) => Ok(()),
        // The report has said it all.
        (false, true) => Err(CommandError::usage("")),
        (false, false) => Err(CommandError::failed("")),
    }
}

fn check_config(report: &mut Report, path: &Path) -> Option<Config> {
    let config = match read_config(path) {
        Ok(config) => config,
        Err(error) => {
            report.add::<String>("configuration", Err(one_line(&error)));
            return None;
        }
    };
    let feeds: Vec<&str> = config.feed.keys().map(String::as_str).collect();
    let found = if feeds.is_empty() {
        format!("{} (no feed: `meterline run` needs at least one)", path.display())
    } else {
        format!("{}, feeds: {}", path.display(), feeds.join(", "))
    };
    report.add::<String>("configuration", Ok(found));
    let policies: Vec<String> = config.policy.iter().map(|(name, p)| format!("{name} ({})", p.frequency)).collect();
    let found = match policies.as_slice() {
        [] => "none configured: every frequency has defaults".to_owned(),
        named => format!("{}: every predicate compiles", named.join(", ")),
    };
    report.add::<String>("policies", Ok(found));
    Some(config)
}

async fn check_environment(report: &mut Report, config: &Config, directory: &Path) {
    if let [first, _, ..] = config.cluster.addresses.as_slice() {
        let found = cluster::check(config, directory);
        report.misconfigured |= found.as_ref().is_err_and(|error| error.is_usage());
        report.add("cluster", found.map(|processes| format!("{processes} processes, process 0 at {first}")));
    }
    check_kafka(report, config).await;
    check_covariates(report, config, directory).await;
    check_labels(report, config, directory).await;
    check_label_policies(report, config, directory).await;
    if let Some(lake) = check_lake(report, config).await {
        check_metadata(report, config, &lake).await;
    }
    let device = config.device.device.clone();
    let resolved = tokio::task::spawn_blocking(move || device::resolve(&device)).await;
    match resolved {
        Ok(Ok(device)) => report.add::<String>("device", Ok(format!("{} is {device}", config.device.device))),
        Ok(Err(error)) => report.add::<String>("device", Err(one_line(&error))),
        Err(error) => report.add::<String>("device", Err(format!("probing it failed: {error}"))),
    };
}

/// Brokers and topics, with the time-outs of the client.
async fn check_kafka(report: &mut Report, config: &Config) {
    let kafka = config.kafka.clone();
    let topics: Vec<(String, String)> = config.feed.iter().map(|(n, f)| (n.clone(), f.topic.clone())).collect();
    let asked = tokio::task::spawn_blocking(move || {
        let cluster = Cluster::connect(&kafka)?;
        let mut answers = Vec::new();
        for (feed, topic) in topics {
            let answer = cluster.topic(&topic);
            let unreachable = matches!(answer, Err(SourceError::Unreachable { .. }));
            answers.push((feed, topic, answer));
            if unreachable {
                break;
            }
        }
        Ok::<_, SourceError>(answers)
    })
    .await;
    let answers = match asked {
        Ok(Ok(answers)) => answers,
        Ok(Err(error)) => {
            report.add::<String>("brokers", Err(one_line(&error)));
            return;
        }
        Err(error) => {
            report.add::<String>("brokers", Err(format!("asking them failed: {error}")));
            return;
        }
    };
    for (feed, topic, answer) in answers {
        let found =
            answer.map(|t| format!("topic {topic} at {}: {} partitions", config.kafka.brokers, t.leaders.len()));
        report.add(format!("feed.{feed}"), found.map_err(|e| one_line(&e)));
    }
}

/// Files of covariates are read whole.
async fn check_covariates(report: &mut Report, config: &Config, directory: &Path) {
    for (name, covariate) in &config.covariate {
        let Some(file) = &covariate.file else { continue };
        let (path, zone) = (directory.join(file), covariate.zone.clone());
        let read = tokio::task::spawn_blocking(move || file::read(&path, &zone)).await;
        let found = match read {
            Ok(Ok(values)) => Ok(match values.range() {
                Some((first, last)) => {
                    let (first, last) = (format_micros(first), format_micros(last));
                    format!("{file}: {} values, of intervals from {first} to {last}", values.count())
                }
                None => format!("{file}: no value"),
            }),
            Ok(Err(error)) => Err(one_line(&error)),
            Err(error) => Err(format!("reading it failed: {error}")),
        };
        report.add(format!("covariate.{name}"), found);
    }
}

/// So are files of labels.
async fn check_labels(report: &mut Report, config: &Config, directory: &Path) {
    for (name, source) in &config.labels {
        let Some(file) = &source.file else { continue };
        let (path, of) = (directory.join(file), source.clone());
        let read = tokio::task::spawn_blocking(move || labels::read(&path, &of)).await;
        let found = match read {
            Ok(Ok(rows)) => {
                let series: BTreeSet<&str> = rows.iter().map(|row| row.series.as_str()).collect();
                Ok(format!("{file}: {} rows of {} series", rows.len(), series.len()))
            }
            Ok(Err(error)) => Err(one_line(&error)),
            Err(error) => Err(format!("reading it failed: {error}")),
        };
        report.add(format!("labels.{name}"), found);
    }
}

/// How many series the labels of policies take, if their files can be read: what is wrong with these was told.
async fn check_label_policies(report: &mut Report, config: &Config, directory: &Path) {
    let Ok(classes) = Classes::load(config, directory).await else { return };
    for (selector, series) in classes.taken() {
        let group = selector.group(&selector.frequency.to_string());
        let told = match series {
            0 => format!(
                "no series of the files of labels has the {} `{}`: is it spelled so?",
                selector.label, selector.value
            ),
            series => format!("{series} series of the files of labels, of those that have this frequency"),
        };
        report.add::<String>(format!("group {group}"), Ok(told));
    }
}

/// Opening writes a probe; reading an object that does not exist asks the store for an answer too.
async fn check_lake(report: &mut Report, config: &Config) -> Option<Lake> {
    match Lake::configured(&config.lake).await {
        Ok(lake) => {
            let read = lake::snapshot(&lake, meterline_schemas::tables::INTERVALS, None).await;
            let found = read.map(|found| match found {
                Some(table) => {
                    format!("{} is readable and writable, intervals at version {}", lake.url(), table.version)
                }
                None => format!("{} is readable and writable, and empty", lake.url()),
            });
            report.add("lake", found.map_err(|e| one_line(&e))).then_some(lake)
        }
        Err(error) => {
            report.misconfigured |= matches!(error, LakeError::Url { .. });
            report.add::<String>("lake", Err(one_line(&error)));
            None
        }
    }
}

async fn check_metadata(report: &mut Report, config: &Config, lake: &Lake) {
    let url = metadata_url(config, lake);
    let opened = MetadataStore::open(&url).await.map(|_| url);
    report.misconfigured |= matches!(opened, Err(MetadataError::Url { .. }));
    report.add("metadata", opened.map_err(|e| one_line(&e)));
}
