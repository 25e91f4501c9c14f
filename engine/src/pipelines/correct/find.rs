//! Finds the series whose history is another one than their forecasts in force were made from.

use std::collections::{BTreeMap, HashMap, HashSet};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use meterline_connectors::lake::{DataFile, TableSnapshot, snapshot};
use meterline_models::data::Panel;
use meterline_schemas::Micros;
use meterline_schemas::tables::INTERVALS;
use meterline_schemas::time::format_micros;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::published;
use crate::ingest::rollup::ROLLUP_PARTITION;
use crate::ingest::state::IngestState;
use crate::ingest::state_at;
use crate::metadata::records::Published;
use crate::pipelines::context::{StepContext, output};
use crate::pipelines::error::{Doing, StepError};
use crate::pipelines::history::{self, Of};
use crate::pipelines::infer::reconcile;
use crate::pipelines::members;
use crate::sql;

/// Series whose histories are compared at once; bounds the query's text, and the memory.
const SERIES_A_QUERY: usize = 1_000;

/// What the step found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// The series to forecast again, ordered by identifier.
    pub series: Vec<String>,
    /// Of them: series whose own history is another one; the others are roll-ups above those.
    pub corrected: usize,
    /// Series with new rows that were left to the next run of all series, because the policy's `max_series` was reached.
    pub left: usize,
}

/// Executes the step.
pub async fn execute(ctx: &StepContext) -> Result<Value, StepError> {
    let published = published(ctx)?;
    let zone = ctx.zone()?;
    let from = ctx.spec.frequency.advance(ctx.spec.origin, -(history::shown(&ctx.spec.policy) as i64), &zone);
    let Candidates { series, rollups } = candidates(ctx, published, from).await?;
    let most = ctx.spec.policy.correct.max_series.unwrap_or(usize::MAX);
    let (mut corrected, left) = differing(ctx, published, from, &series, most).await?;
    // What changes in a roll-up alone: a label that was said late, or parts that are forecast in other runs.
    corrected.extend(differing(ctx, published, from, &rollups, usize::MAX).await?.0);
    let above = reconcile::above(ctx, &corrected).await?;
    let (own, wholes) = (corrected.len(), above.len());
    let mut series: Vec<String> = corrected.into_iter().chain(above).collect();
    series.sort_unstable();
    ctx.info(format!(
        "{own} series have another history since version {} than before {}, and {wholes} roll-ups are above them",
        published.intervals_version,
        format_micros(ctx.spec.origin)
    ));
    if left > 0 {
        ctx.warn(format!(
            "{left} series more have new rows, and keep their forecasts until the next run of all series: max_series of \
             {} is {most}",
            ctx.spec.policy.source
        ));
    }
    ctx.metric("corrected", own as f64);
    ctx.metric("left", left as f64);
    output(&Output { series, corrected: own, left })
}

/// Series with rows that came since, those with most first.
#[derive(Debug, Default)]
struct Candidates {
    series: Vec<String>,
    rollups: Vec<String>,
}

async fn candidates(ctx: &StepContext, published: &Published, from: Micros) -> Result<Candidates, StepError> {
    let doing = || format!("finding what came since version {} of intervals", published.intervals_version);
    let lake = &ctx.env.lake;
    let mut found = Candidates::default();
    let Some(before) = snapshot(lake, INTERVALS, Some(published.intervals_version)).await.doing(doing)? else {
        ctx.warn(format!(
            "version {} of intervals is no longer there: what was corrected since is taken in by the next run of all series",
            published.intervals_version
        ));
        return Ok(found);
    };
    let Some(now) = snapshot(lake, INTERVALS, Some(ctx.spec.intervals_version)).await.doing(doing)? else {
        return Ok(found);
    };
    let (new, is_rewritten) = added(&before, now);
    if new.is_empty() {
        return Ok(found);
    }
    // Files that were put together since have rows of before, too.
    let known = match is_rewritten {
        false => None,
        true => state_at(lake, &before).await.unwrap_or_else(|error| {
            // It narrows down what is compared, and decides nothing.
            ctx.warn(format!("what was read by then is not known any more, and more series are compared: {error}"));
            None
        }),
    };
    let query = query(ctx, from, known.as_ref());
    let members = members::of_run(ctx).await?;
    for rows in sql::over_revisions(&ctx.env, new, &query).await.doing(doing)? {
        let (Some(ids), Some(partitions)) =
            (rows.column(0).as_string_opt::<i32>(), rows.column(1).as_primitive_opt::<Int64Type>())
        else {
            continue;
        };
        for (id, partition) in ids.iter().zip(partitions.iter()) {
            let Some(id) = id.filter(|id| members.has(id)).map(str::to_owned) else { continue };
            let is_rollup = partition == Some(i64::from(ROLLUP_PARTITION));
            if is_rollup { found.rollups.push(id) } else { found.series.push(id) }
        }
    }
    Ok(found)
}

// The files that were added between two versions, and whether any went.
fn added(before: &TableSnapshot, now: TableSnapshot) -> (Vec<DataFile>, bool) {
    let known: HashSet<&str> = before.files.iter().map(|file| file.path.as_str()).collect();
    let stayed = now.files.iter().filter(|file| known.contains(file.path.as_str())).count();
    let new = now.files.into_iter().filter(|file| !known.contains(file.path.as_str())).collect();
    (new, stayed < known.len())
}

// `known` is what was read from Kafka by then: rows of before are in files that were written since.
fn query(ctx: &StepContext, from: Micros, known: Option<&IngestState>) -> String {
    let spec = &ctx.spec;
    let others = history::other_feeds(&ctx.env.config, spec.frequency, &spec.group_id);
    let mut query = format!(
        "SELECT series_id, CAST(min(partition) AS BIGINT) FROM interval_revisions WHERE {}",
        history::within(spec.frequency, from, spec.origin, None, &others)
    );
    let feeds = known.into_iter().flat_map(|state| &state.feeds);
    for (name, feed) in feeds {
        for (partition, of) in &feed.partitions {
            let of_before = format!(
                "feed = {} AND partition = {partition} AND \"offset\" < {}",
                sql::literal(name),
                of.next_offset
            );
            query.push_str(&format!(" AND NOT ({of_before})"));
        }
    }
    query.push_str(" GROUP BY series_id ORDER BY count(*) DESC, series_id");
    query
}

// The first of the candidates, at most so many, whose history differs; and how many candidates were left.
async fn differing(
    ctx: &StepContext,
    published: &Published,
    from: Micros,
    candidates: &[String],
    most: usize,
) -> Result<(Vec<String>, usize), StepError> {
    let (mut found, mut looked_at) = (Vec::new(), 0);
    for part in candidates.chunks(SERIES_A_QUERY) {
        if found.len() >= most {
            break;
        }
        let version = published.intervals_version;
        let before = history::read_at(ctx, version, from, ctx.spec.origin, Of::Series(part)).await?.panel;
        let now = history::read(ctx, from, ctx.spec.origin, Of::Series(part)).await?.panel;
        let differs = changed(&before, &now);
        let of_part = part.iter().filter(|id| differs.contains(id.as_str())).cloned();
        found.extend(of_part);
        looked_at += part.len();
    }
    let over = found.len().saturating_sub(most);
    found.truncate(most);
    Ok((found, over + candidates.len() - looked_at))
}

// The series of either panel that do not have the same values at the same times.
fn changed(before: &Panel, now: &Panel) -> HashSet<String> {
    let there = |panel: &Panel| -> HashMap<String, BTreeMap<Micros, u32>> {
        let values = |start: Micros, values: &[f32]| {
            let at = |step: usize| panel.frequency.advance(start, step as i64, &panel.zone);
            let there = values.iter().enumerate().filter(|(_, value)| !value.is_nan());
            there.map(|(step, value)| (at(step), value.to_bits())).collect()
        };
        panel.series.iter().map(|one| (one.id.clone(), values(one.start, &one.values))).collect()
    };
    let (before, mut now) = (there(before), there(now));
    let mut changed: HashSet<String> =
        before.into_iter().filter(|(id, values)| now.remove(id).as_ref() != Some(values)).map(|(id, _)| id).collect();
    // Those that had nothing.
    changed.extend(now.into_keys());
    changed
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use meterline_models::data::Series;
    use meterline_schemas::Frequency;
    use meterline_schemas::time::HOUR;

    use super::*;

    #[test]
    fn a_series_is_another_one_if_a_value_is_other_came_or_went() {
        let panel = |series: Vec<Series>| Panel::new(Frequency::HOUR, TimeZone::UTC, series);
        let of = |id: &str, start: i64, values: &[f32]| Series::new(id, start * HOUR, values.to_vec());
        let before = panel(vec![
            of("came", 1, &[2.0]),
            of("gap filled", 0, &[1.0, f32::NAN, 3.0]),
            of("gone", 0, &[1.0]),
            of("other", 0, &[1.0, 2.0]),
            of("same", 0, &[1.0, f32::NAN, 3.0]),
            of("went", 0, &[1.0, 2.0]),
        ]);
        let now = panel(vec![
            of("came", 0, &[1.0, 2.0]),
            of("gap filled", 0, &[1.0, 2.0, 3.0]),
            of("new", 0, &[1.0]),
            of("other", 0, &[1.0, 2.5]),
            of("same", 0, &[1.0, f32::NAN, 3.0]),
            of("went", 1, &[2.0]),
        ]);
        let mut found: Vec<String> = changed(&before, &now).into_iter().collect();
        found.sort_unstable();
        assert_eq!(found, ["came", "gap filled", "gone", "new", "other", "went"]);
    }
}
