//! Reads the end of every series' history at the pinned table version.

use std::collections::{HashMap, HashSet};

use meterline_connectors::lake::snapshot;
use meterline_schemas::Micros;
use meterline_schemas::tables::INTERVALS;
use meterline_schemas::time::format_micros;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ingest::series::SeriesState;
use crate::ingest::{load_series, state_at};
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
    let (context, shown) = (spec.policy.context, history::shown(&spec.policy));
    let back = |from: Micros, intervals: usize| spec.frequency.advance(from, -(intervals as i64), &zone);
    // A series that ended up to one context ago still has all that is shown of it in this range.
    let from = back(spec.origin, shown + context);
    let recent = back(spec.origin, context);
    let mut found = history::read(ctx, from, spec.origin, None).await?;
    let ended: HashMap<String, Micros> =
        found.panel.series.iter().map(|s| (s.id.clone(), s.origin(spec.frequency, &zone))).collect();
    found.retain(|s| s.origin(spec.frequency, &zone) > recent);
    let mut missing = silent_series(ctx, &found).await?;
    for (id, last) in &mut missing {
        // What is committed now may be newer than what this run sees. Then its own table has the last word, and what
        // is not in the range above ended before it.
        *last = ended.get(id).map_or((*last).min(from), |end| back(*end, 1));
    }
    let mut silent = 0;
    for part in parts(missing, context as i64 * spec.frequency.nominal_micros()) {
        let (first, last) = (spec.frequency.floor(part.first, &zone), spec.frequency.floor(part.last, &zone));
        let older =
            history::read(ctx, back(first, shown), spec.frequency.advance(last, 1, &zone), Some(&part.ids)).await?;
        silent += older.panel.series.len();
        found.panel.series.extend(older.panel.series);
        found.units.extend(older.units);
    }
    found.keep_last(shown);
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
    let doing = || "reading which series there are".to_owned();
    let Some(table) = snapshot(&ctx.env.lake, INTERVALS, None).await.doing(doing)? else { return Ok(Vec::new()) };
    let Some(state) = state_at(&ctx.env.lake, &table).await.doing(doing)? else { return Ok(Vec::new()) };
    let known = load_series(&ctx.env.lake, &state).await.doing(doing)?;
    let there: HashSet<&str> = found.panel.series.iter().map(|s| s.id.as_str()).collect();
    let others = history::other_feeds(ctx);
    let mine =
        |s: &&SeriesState| s.frequency == Some(ctx.spec.frequency) && !others.iter().any(|other| **other == *s.feed);
    let silent = known.iter().filter(mine).filter(|s| !there.contains(&*s.id));
    Ok(silent.filter_map(|s| Some((s.id.to_string(), s.last_start?))).collect())
}

/// Silent series that are read with one query.
#[derive(Debug, PartialEq)]
struct Part {
    ids: Vec<String>,
    // Least and greatest start of their last intervals.
    first: Micros,
    last: Micros,
}

/// Groups silent series, each with the start of its last interval, by when they fell silent: the last intervals of one
/// part lie within `span`, so that a series that died years ago does not make others read the years since.
fn parts(mut silent: Vec<(String, Micros)>, span: Micros) -> Vec<Part> {
    silent.sort_by_key(|(_, last)| *last);
    let mut parts: Vec<Part> = Vec::new();
    for (id, last) in silent {
        match parts.last_mut() {
            Some(part) if last - part.first <= span && part.ids.len() < SERIES_A_QUERY => {
                part.ids.push(id);
                part.last = last;
            }
            _ => parts.push(Part { ids: vec![id], first: last, last }),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_that_fell_silent_together_are_read_together() {
        let silent = [("d", 1_000), ("a", -50), ("c", 40), ("b", 0), ("e", 1_001)];
        let found = parts(silent.map(|(id, last)| (id.to_owned(), last)).to_vec(), 60);
        let part = |ids: &[&str], first, last| Part { ids: ids.iter().map(|id| (*id).into()).collect(), first, last };
        assert_eq!(found, [part(&["a", "b"], -50, 0), part(&["c"], 40, 40), part(&["d", "e"], 1_000, 1_001)]);
        let many = (0..SERIES_A_QUERY + 1).map(|i| (format!("s{i}"), 7)).collect();
        let sizes: Vec<usize> = parts(many, 60).iter().map(|p| p.ids.len()).collect();
        assert_eq!(sizes, [SERIES_A_QUERY, 1]);
        assert_eq!(parts(Vec::new(), 60), []);
    }
}
