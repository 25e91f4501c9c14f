//! What a replay with models learns from: some series of a group, with what a policy's models are shown beside them.

use std::sync::Arc;

use arrow::array::AsArray;
use jiff::tz::TimeZone;
use meterline_models::data::Panel;
use meterline_schemas::config::ResolvedPolicy;

use super::past::PastError;
use super::simulate::Subject;
use crate::environment::Environment;
use crate::ingest::groups::GroupSummary;
use crate::pipelines::error::Doing;
use crate::pipelines::history::HistoryBuilder;
use crate::pipelines::{StepError, covariates, history, labels, members};
use crate::series_labels;
use crate::sql::{TableVersions, query_batches};

/// The history of at most `most` series of a group, evenly chosen by their names, as models of a policy are shown it: with
/// the covariates and labels that it names, by the configuration `of_policy`. What they say now counts for all of the past.
///
/// # Errors
///
/// [`PastError`]; also where a source has nothing to say in that time, of which nothing could be learned.
pub async fn panel(
    env: &Environment,
    of_policy: &Arc<Environment>,
    group: &GroupSummary,
    subject: &Subject,
    most: usize,
) -> Result<Panel, PastError> {
    let mut panel = series(env, group, &subject.policy, most).await?;
    let looked_at = panel.series.len();
    if looked_at == 0 {
        return Ok(panel);
    }
    let empty = |what: String| {
        let reason = format!(
            "none of the {looked_at} series that the replay looks at has a value of it; look at more of them (--series), correct \
             its source, or take it out of the policy"
        );
        StepError::failed(what, reason)
    };
    for (covariate, (name, config)) in covariates::of(&subject.covariates).into_iter().zip(&subject.covariates) {
        let values = match &config.file {
            Some(file) => covariates::of_file(of_policy, name, file, config).await?,
            None => {
                let id = [config.series.clone().unwrap_or_default()];
                covariates::of_panel(&rows(env, group, "1.0", &id, &[]).await?)
            }
        };
        let doing = covariates::doing(name, config);
        let placed = covariates::put(&mut panel, covariate, &values, subject.policy.horizon).doing(|| doing.clone())?;
        if placed.values == 0 {
            return Err(empty(doing).into());
        }
    }
    let names = &subject.policy.labels;
    if !names.is_empty() {
        let values = labels::read(of_policy, names, group.origin, &panel).await?;
        let found = series_labels::set(&mut panel, names, &values);
        if let Some((name, _)) = names.iter().zip(found).find(|(_, found)| found.series == 0) {
            return Err(empty(format!("reading the label `{name}` of {}", group.group_id)).into());
        }
    }
    Ok(panel)
}

async fn series(
    env: &Environment,
    group: &GroupSummary,
    policy: &ResolvedPolicy,
    most: usize,
) -> Result<Panel, PastError> {
    let others = history::other_feeds(&env.config, group.frequency, &group.group_id);
    let frequency = group.frequency;
    let but = history::but(&others);
    let sql = format!("SELECT series_id FROM series WHERE frequency = '{frequency}'{but} ORDER BY series_id");
    let mut names: Vec<String> = Vec::new();
    for batch in query_batches(env, &sql, TableVersions::default()).await? {
        if let Some(ids) = batch.column(0).as_string_opt::<i32>() {
            names.extend(ids.iter().flatten().map(str::to_owned));
        }
    }
    let members = members::of_group(env, &group.group_id, frequency, group.origin).await?;
    names.retain(|series| members.has(series));
    let step = names.len().div_ceil(most.max(1)).max(1);
    let names: Vec<String> = names.into_iter().step_by(step).collect();
    rows(env, group, &history::weight(policy.estimated_weight), &names, &others).await
}

// The history of these series, over the time of the group.
async fn rows(
    env: &Environment,
    group: &GroupSummary,
    weight: &str,
    names: &[String],
    others: &[String],
) -> Result<Panel, PastError> {
    let zone = TimeZone::get(&group.zone).unwrap_or(TimeZone::UTC);
    let mut builder = HistoryBuilder::new(group.frequency, zone, group.first_start);
    let query = history::query(group.frequency, weight, group.first_start, group.origin, Some(names), others);
    for batch in query_batches(env, &query, TableVersions::default()).await? {
        builder.add(&batch)?;
    }
    Ok(builder.finish().0.panel)
}
