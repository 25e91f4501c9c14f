//! Labels of the series of a run, as they hold at its origin: read once, in its first step.
//!
//! Where there are roll-ups the stream keeps them up, whoever says them (of files at its start); else those of files are
//! read here, in each run.

use std::collections::HashSet;
use std::sync::Arc;

use meterline_connectors::lake::snapshot;
use meterline_models::data::Panel;
use meterline_schemas::Micros;
use meterline_schemas::tables::INTERVALS;
use meterline_schemas::time::format_micros;

use super::context::{StepContext, blocking};
use super::error::{Doing, StepError};
use super::history::History;
use crate::environment::Environment;
use crate::ingest::rollup::plan::Label;
use crate::ingest::rollup::saved::Givers;
use crate::ingest::{each_member, rollup, state_at};
use crate::series_labels::{Found, Values, at_instant, of_member, set};

/// What reading them is called where it fails.
const READING: &str = "reading the labels of series";

/// Labels by name, in words.
pub fn in_words(names: &[String]) -> String {
    let words: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    if words.is_empty() { "no labels".to_owned() } else { words.join(", ") }
}

/// The first of these names that is not among the others.
pub fn missing<'n>(names: &'n [String], there: &[String]) -> Option<&'n str> {
    names.iter().find(|name| !there.contains(name)).map(String::as_str)
}

/// Gives the series of a history the labels that the run's policy names. Returns the names of those that no series has.
pub async fn attach(ctx: &StepContext, mut history: History) -> Result<(History, Vec<String>), StepError> {
    let names = &ctx.spec.policy.labels;
    if names.is_empty() {
        return Ok((history, Vec::new()));
    }
    let values = read(&ctx.env, names, ctx.spec.origin, &history.panel).await?;
    let mut without = Vec::new();
    for (name, Found { series, values }) in names.iter().zip(set(&mut history.panel, names, &values)) {
        let all = history.panel.series.len();
        ctx.info(format!("the label `{name}`: {series} of {all} series have one of {values} values"));
        if series == 0 && all > 0 {
            without.push(name.clone());
        }
    }
    Ok((history, without))
}

/// What these labels of the series of a panel are at an instant.
///
/// # Errors
/// The files, or the state of the stream, cannot be read.
pub async fn read(env: &Arc<Environment>, names: &[String], at: Micros, panel: &Panel) -> Result<Values, StepError> {
    match env.config.rollup.is_empty() {
        true => of_files(env, names, at).await,
        false => of_stream(env, names, at, panel).await,
    }
}

// Those that the newest commit knows of the series of a panel: what was said since the instant about one before it counts.
async fn of_stream(env: &Environment, names: &[String], at: Micros, panel: &Panel) -> Result<Values, StepError> {
    let doing = || READING.to_owned();
    let mut values = Values::new();
    let Some(table) = snapshot(&env.lake, INTERVALS, None).await.doing(doing)? else { return Ok(values) };
    let Some(state) = state_at(&env.lake, &table).await.doing(doing)? else { return Ok(values) };
    let labels: Vec<Label> = names.iter().map(|name| Label::of(&env.config, name)).collect();
    let (givers, wanted) = (Givers::new(&env.config), panel.series.iter().map(|series| series.id.as_str()));
    let wanted: HashSet<&str> = wanted.collect();
    each_member(&env.lake, &state, |saved, _| {
        if wanted.contains(&*saved.series) {
            let member = givers.restore(&saved);
            values.insert(Arc::clone(&member.series), of_member(&labels, &member, at));
        }
    })
    .await
    .doing(doing)?;
    Ok(values)
}

// Those of the files that these labels come from; no other file can fail the run.
async fn of_files(env: &Arc<Environment>, names: &[String], at: Micros) -> Result<Values, StepError> {
    let (env, names) = (Arc::clone(env), names.to_vec());
    blocking(READING, move || {
        let mut config = env.config.clone();
        config.labels.retain(|_, source| names.iter().any(|name| source.labels.contains_key(name)));
        let labels: Vec<Label> = names.iter().map(|name| Label::of(&config, name)).collect();
        let said = rollup::restore::files(&config, env.directory()).doing(|| READING.to_owned())?;
        Ok(at_instant(&labels, said, at))
    })
    .await
}

/// That no series has a label, where it should come from, and what to do.
pub fn refuse(ctx: &StepContext, name: &str) -> StepError {
    let config = &ctx.env.config;
    let of_sources = config.labels.iter().filter(|(_, source)| source.labels.contains_key(name));
    let of_feeds = config.feed.iter().filter(|(_, feed)| feed.labels.contains_key(name));
    let sources = of_sources.map(|(source, of)| match of.file.as_ref().or(of.topic.as_ref()) {
        Some(from) => format!("labels.{source} ({from})"),
        None => format!("labels.{source}"),
    });
    let sources: Vec<String> = sources.chain(of_feeds.map(|(feed, _)| format!("readings of feed.{feed}"))).collect();
    StepError::failed(
        format!("giving the series of {} their label `{name}`", ctx.spec.group_id),
        format!(
            "no series has it at {}; it comes from {}: correct that (identifiers are those of `series`, with their prefix), \
             or take it out of the labels of {}",
            format_micros(ctx.spec.origin),
            sources.join(", "),
            ctx.spec.policy.source
        ),
    )
}
