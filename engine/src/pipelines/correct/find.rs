//! Finds the series whose history is another one than their forecasts in force were made from.

use std::collections::{BTreeMap, HashMap, HashSet};

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use futures::StreamExt;
use meterline_connectors::lake::{DataFile, TableSnapshot, snapshot};
use meterline_models::data::Panel;
use meterline_schemas::Micros;
use meterline_schemas::tables::INTERVALS;
use meterline_schemas::time::format_micros;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::published;
use crate::ingest::rollup::ROLLUP_PARTITION;
use crate::metadata::records::Published;
use crate::pipelines::context::{StepContext, output};
use crate::pipelines::error::{Doing, StepError};
use crate::pipelines::history::{self, Of};
use crate::pipelines::infer::reconcile;
use crate::pipelines::members;
use crate::sql::{self, TableVersions};

/// Series whose histories are compared at once; bounds the query's text, and the memory.
const SERIES_A_QUERY: usize = 1_000;
/// Series above which histories are compared by sums.
const COMPARED_MAX: usize = 5 * SERIES_A_QUERY;

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
    // A series that ended up to one context ago was shown as much from before its end.
    let seen = history::shown(&ctx.spec.policy) + ctx.spec.policy.context;
    let from = ctx.spec.frequency.advance(ctx.spec.origin, -(seen as i64), &zone);
    let Candidates { series, rollups } = candidates(ctx, published, from).await?;
    let most = ctx.spec.policy.correct.max_series.unwrap_or(usize::MAX);
    let histories = Histories { ctx, published, from };
    let (mut corrected, left) = histories.differing(&series, most).await?;
    // What changes in a roll-up alone: a label that was said late, or parts that are forecast in other runs.
    corrected.extend(histories.differing(&rollups, usize::MAX).await?.0);
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
            "{left} series more have new rows, and keep their forecasts until the next run of all series (max_series of {} \
             is {most})",
            ctx.spec.policy.source
        ));
    }
    ctx.metric("corrected", own as f64);
    ctx.metric("left", left as f64);
    output(&Output { series, corrected: own, left })
}

/// Series with rows in files that came since, those with most such rows first. After files were put together these have
/// rows of before, too: then the order says nothing, and there are many that did not change.
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
        ctx.warn(format!("{} is no longer there: {LEFT}", of_version(published)));
        return Ok(found);
    };
    let Some(now) = snapshot(lake, INTERVALS, Some(ctx.spec.intervals_version)).await.doing(doing)? else {
        return Ok(found);
    };
    let new = added(&before, now);
    if new.is_empty() {
        return Ok(found);
    }
    let others = history::other_feeds(&ctx.env.config, ctx.spec.frequency, &ctx.spec.group_id);
    let query = format!(
        "SELECT series_id, CAST(min(partition) AS BIGINT) FROM interval_revisions WHERE {} \
         GROUP BY series_id ORDER BY count(*) DESC, series_id",
        history::within(ctx.spec.frequency, from, ctx.spec.origin, None, &others)
    );
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

// What becomes of a correction that cannot be found.
const LEFT: &str = "what was corrected since is taken in by the next run of all series";

fn of_version(published: &Published) -> String {
    format!("version {} of intervals", published.intervals_version)
}

// The files that were added between two versions.
fn added(before: &TableSnapshot, now: TableSnapshot) -> Vec<DataFile> {
    let known: HashSet<&str> = before.files.iter().map(|file| file.path.as_str()).collect();
    now.files.into_iter().filter(|file| !known.contains(file.path.as_str())).collect()
}

/// The histories that the forecasts in force were made from, and those that there are now, from an instant to the origin.
pub(super) struct Histories<'a> {
    pub(super) ctx: &'a StepContext,
    pub(super) published: &'a Published,
    pub(super) from: Micros,
}

impl Histories<'_> {
    // The first of the candidates, at most so many, whose history differs; and how many that differ, or may, were left.
    pub(super) async fn differing(
        &self,
        candidates: &[String],
        most: usize,
    ) -> Result<(Vec<String>, usize), StepError> {
        let compared = match candidates.len() > COMPARED_MAX {
            true => self.by_sums(candidates, most).await,
            false => self.by_values(candidates, most).await,
        };
        match compared {
            Err(StepError::Failed { doing, reason }) => {
                // Housekeeping may have deleted its files, though the log still names them.
                let version = of_version(self.published);
                self.ctx.warn(format!("{version} cannot be compared with ({doing}: {reason}): {LEFT}"));
                Ok((Vec::new(), candidates.len()))
            }
            compared => compared,
        }
    }

    pub(super) async fn by_values(
        &self,
        candidates: &[String],
        most: usize,
    ) -> Result<(Vec<String>, usize), StepError> {
        let Histories { ctx, published, from } = *self;
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

    // By a number and a sum of the intervals of each series: one pass over either version, however many series there are.
    pub(super) async fn by_sums(&self, candidates: &[String], most: usize) -> Result<(Vec<String>, usize), StepError> {
        let before = self.sums(self.published.intervals_version).await?;
        let now = self.sums(self.ctx.spec.intervals_version).await?;
        let mut found: Vec<String> = candidates.iter().filter(|id| before.get(*id) != now.get(*id)).cloned().collect();
        let left = found.len().saturating_sub(most);
        found.truncate(most);
        Ok((found, left))
    }

    async fn sums(&self, version: i64) -> Result<HashMap<String, (i64, i64)>, StepError> {
        let Histories { ctx, from, .. } = *self;
        let spec = &ctx.spec;
        let doing = || format!("summing up intervals of {} at version {version}", spec.frequency);
        let others = history::other_feeds(&ctx.env.config, spec.frequency, &spec.group_id);
        // In 10⁻⁶ of the unit, as roll-ups count; what is too large for that in whole ones. The order does not matter.
        let query = format!(
            "SELECT series_id, count(*), bit_xor(coalesce(TRY_CAST(round(value * 1000000) AS BIGINT), \
               TRY_CAST(round(value) AS BIGINT), 0) * 1000003 + arrow_cast(start, 'Int64')) \
             FROM intervals WHERE {} GROUP BY series_id",
            history::within(spec.frequency, from, spec.origin, None, &others)
        );
        let versions = TableVersions { intervals: Some(version) };
        let mut stream =
            sql::plan(&ctx.env, &query, versions).await.doing(doing)?.execute_stream().await.doing(doing)?;
        let mut found = HashMap::new();
        while let Some(rows) = stream.next().await {
            ctx.stop.check()?;
            let rows = rows.doing(doing)?;
            let number = |column: usize| rows.column(column).as_primitive_opt::<Int64Type>();
            let ids = cast(rows.column(0), &DataType::Utf8).doing(doing)?;
            let (Some(ids), Some(counts), Some(sums)) = (ids.as_string_opt::<i32>(), number(1), number(2)) else {
                return Err(StepError::failed(doing(), "a column has an unexpected type"));
            };
            for ((id, count), sum) in ids.iter().zip(counts.iter()).zip(sums.iter()) {
                found.extend(id.map(|id| (id.to_owned(), (count.unwrap_or(0), sum.unwrap_or(0)))));
            }
        }
        Ok(found)
    }
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
