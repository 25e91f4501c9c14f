//! Reads the end of every series' history at the pinned table version.

use std::collections::HashSet;

use meterline_schemas::Micros;
use meterline_schemas::time::format_micros;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ingest::load_committed;
use crate::pipelines::artifacts;
use crate::pipelines::context::{StepContext, output};
use crate::pipelines::error::{Doing, StepError};
use crate::pipelines::history::{self, History};

/// Silent series that are read with one query; bounds the query's text.
const SERIES_A_QUERY: usize = 1_000;

/// What the step produced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Path of the contexts below the lake's root.
    pub dataset: String,
    /// Series in it.
    pub series: usize,
    /// Of them: series whose last interval is more than one context before the group's origin.
    pub silent: usize,
    /// Intervals that are there, over all series.
    pub intervals: usize,
}

/// Executes the step.
pub async fn execute(ctx: &StepContext) -> Result<Value, StepError> {
    let spec = &ctx.spec;
    let zone = ctx.zone()?;
    let context = spec.policy.context;
    // A series that ended up to one context ago still has its whole context in this range.
    let from = spec.frequency.advance(spec.origin, -2 * context as i64, &zone);
    let recent = spec.frequency.advance(spec.origin, -(context as i64), &zone);
    let mut found = history::read(ctx, from, None).await?;
    found.retain(|s| s.origin(spec.frequency, &zone) > recent);
    let missing = silent_series(ctx, &found).await?;
    let mut silent = 0;
    for part in missing.chunks(SERIES_A_QUERY) {
        let earliest = part.iter().map(|(_, last)| *last).min().unwrap_or(from).min(from);
        let from = spec.frequency.advance(spec.frequency.floor(earliest, &zone), -(context as i64), &zone);
        let ids: Vec<String> = part.iter().map(|(id, _)| id.clone()).collect();
        let older = history::read(ctx, from, Some(&ids)).await?;
        silent += older.panel.series.len();
        found.panel.series.extend(older.panel.series);
        found.units.extend(older.units);
    }
    found.keep_last(context);
    let (series, intervals) = (found.panel.series.len(), found.intervals());
    let bytes = ctx.blocking(move || artifacts::history_to_parquet(&found)).await?;
    let dataset = ctx.artifact("context.parquet");
    artifacts::put(&ctx.env.lake, &dataset, bytes).await?;
    ctx.info(format!(
        "{series} series with {intervals} intervals up to {}; {silent} of them have been silent for more than {context} \
         intervals",
        format_micros(spec.origin)
    ));
    output(&Output { dataset, series, silent, intervals })
}

// The series that ingest knows and the recent rows do not have, with the start of the last interval written for each.
async fn silent_series(ctx: &StepContext, found: &History) -> Result<Vec<(String, Micros)>, StepError> {
    let committed = load_committed(&ctx.env.lake).await.doing(|| "reading which series there are".to_owned())?;
    let Some(committed) = committed else { return Ok(Vec::new()) };
    let there: HashSet<&str> = found.panel.series.iter().map(|s| s.id.as_str()).collect();
    let known = committed.state.series.iter().filter(|s| s.frequency == Some(ctx.spec.frequency));
    Ok(known.filter(|s| !there.contains(s.id.as_str())).filter_map(|s| Some((s.id.clone(), s.last_start?))).collect())
}
