//! Reads the end of every series' history at the pinned table version.

use std::collections::{HashMap, HashSet};

use compact_str::CompactString;
use meterline_connectors::lake::snapshot;
use meterline_models::data::Panel;
use meterline_models::plausible::Hidden;
use meterline_schemas::tables::INTERVALS;
use meterline_schemas::time::format_micros;
use meterline_schemas::{Frequency, Micros};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::reconcile;
use crate::ingest::series::SeriesState;
use crate::ingest::{each_series, state_at};
use crate::metadata::records::Pipeline;
use crate::pipelines::context::{Inputs, StepContext, output};
use crate::pipelines::correct::find;
use crate::pipelines::error::{Doing, StepError};
use crate::pipelines::history::{self, History, Of};
use crate::pipelines::members::{self, Members};
use crate::pipelines::{artifacts, covariates, labels};

/// Silent series that are read with one query; bounds the query's text.
const SERIES_A_QUERY: usize = 1_000;

/// Series that a correction shows its models beside those that it forecasts; as many as intervals follow.
const COMPANIONS: usize = 24;

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
pub async fn execute(ctx: &StepContext, inputs: &Inputs) -> Result<Value, StepError> {
    let (found, silent) = match ctx.spec.pipeline {
        Pipeline::Correct => {
            let wanted: find::Output = inputs.get("find")?;
            (of_some(ctx, &wanted.series).await?, 0)
        }
        _ => of_all(ctx).await?,
    };
    let context = ctx.spec.policy.context;
    let (found, without) = covariates::attach(ctx, found).await?;
    for name in without {
        ctx.warn(format!("the covariate `{name}` has no value in the time that is shown to the models"));
    }
    let (found, without) = labels::attach(ctx, found).await?;
    // Of some series none may have it.
    if let (Some(name), Pipeline::Infer) = (without.first(), ctx.spec.pipeline) {
        return Err(labels::refuse(ctx, name));
    }
    let (series, intervals) = (found.panel.series.len(), found.intervals());
    let (bytes, hidden) =
        ctx.blocking(move || Ok((artifacts::history_to_parquet(&found)?, Hidden::of(&found.panel)))).await?;
    ctx.tell_hidden(&hidden);
    let dataset = ctx.artifact("context.parquet");
    artifacts::put(&ctx.env.lake, &dataset, bytes).await?;
    ctx.info(format!(
        "{series} series with {intervals} intervals up to {}; {silent} of them have been silent for more than {context} \
         intervals",
        format_micros(ctx.spec.origin)
    ));
    output(&Output { dataset, series, silent, intervals })
}

// The contexts of these series, which have intervals within one context before the origin, or had them, and of some
// others.
async fn of_some(ctx: &StepContext, series: &[String]) -> Result<History, StepError> {
    let (spec, zone) = (&ctx.spec, ctx.zone()?);
    let shown = history::shown(&spec.policy);
    let from = spec.frequency.advance(spec.origin, -((shown + spec.policy.context) as i64), &zone);
    let mut found = History { panel: Panel::new(spec.frequency, zone, Vec::new()), units: Vec::new() };
    if series.is_empty() {
        return Ok(found);
    }
    let Known { epochs, written } = known_series(ctx, &members::of_run(ctx).await?).await?;
    let mut all = companions(written, series);
    all.extend_from_slice(series);
    all.sort_unstable();
    for part in all.chunks(SERIES_A_QUERY) {
        let read = history::read(ctx, from, spec.origin, Of::Series(part)).await?;
        found.panel.series.extend(read.panel.series);
        found.units.extend(read.units);
    }
    keep_present(&mut found, &epochs, spec.origin);
    found.keep_last(shown);
    Ok(found)
}

// Others of the group, evenly chosen by their names: what a model learns of late from the series that it sees must not
// come from some that were corrected alone.
fn companions(written: Vec<(CompactString, Micros)>, series: &[String]) -> Vec<String> {
    let wanted: HashSet<&str> = series.iter().map(String::as_str).collect();
    let mut others: Vec<CompactString> =
        written.into_iter().map(|(id, _)| id).filter(|id| !wanted.contains(id.as_str())).collect();
    others.sort_unstable();
    let step = others.len().div_ceil(COMPANIONS).max(1);
    others.into_iter().step_by(step).map(CompactString::into_string).collect()
}

// The contexts of all series of the group, and how many of them are silent.
async fn of_all(ctx: &StepContext) -> Result<(History, usize), StepError> {
    let spec = &ctx.spec;
    let zone = ctx.zone()?;
    // A backcast is shown as much from before its own origin.
    let more = if reconcile::weighs_by_errors(ctx) { spec.policy.horizon } else { 0 };
    let (context, shown) = (spec.policy.context, history::shown(&spec.policy) + more);
    let back = |from: Micros, intervals: usize| spec.frequency.advance(from, -(intervals as i64), &zone);
    // A series that ended up to one context ago still has all that is shown of it in this range.
    let from = back(spec.origin, shown + context);
    let recent = back(spec.origin, context);
    let members = members::of_run(ctx).await?;
    let mut found = history::read(ctx, from, spec.origin, Of::Group(&members)).await?;
    let Known { epochs, written } = known_series(ctx, &members).await?;
    keep_present(&mut found, &epochs, spec.origin);
    let ended: HashMap<String, Micros> =
        found.panel.series.iter().map(|s| (s.id.clone(), s.origin(spec.frequency, &zone))).collect();
    found.retain(|s| s.origin(spec.frequency, &zone) > recent);
    let mut missing = silent_series(written, &found);
    for (id, last) in &mut missing {
        // What is committed now may be newer than what this run sees. Then its own table has the last word, and what
        // is not in the range above ended before it.
        *last = ended.get(id).map_or((*last).min(from), |end| back(*end, 1));
    }
    let mut silent = 0;
    for part in parts(missing, context as i64 * spec.frequency.nominal_micros()) {
        let (first, last) = (spec.frequency.floor(part.first, &zone), spec.frequency.floor(part.last, &zone));
        let mut older =
            history::read(ctx, back(first, shown), spec.frequency.advance(last, 1, &zone), Of::Series(&part.ids))
                .await?;
        keep_present(&mut older, &epochs, spec.origin);
        silent += older.panel.series.len();
        found.panel.series.extend(older.panel.series);
        found.units.extend(older.units);
    }
    found.keep_last(shown);
    Ok((found, silent))
}

/// The present epoch of a series.
type Epoch = (Frequency, Micros);

/// What ingest knows of the series of the group. There may be many more of other groups than fit into memory.
#[derive(Debug, Default, PartialEq)]
struct Known {
    // Of series that came to another frequency, whichever that is: they may have been in this group.
    epochs: HashMap<String, Epoch>,
    // Of those that have the group's frequency the start of the last interval written.
    written: Vec<(CompactString, Micros)>,
}

impl Known {
    // Takes what is needed of a series that is in the group, or was, or would be at the group's frequency.
    fn take(&mut self, series: SeriesState, frequency: Frequency) {
        let epoch = series.frequency.zip(series.since()).filter(|_| !series.extra().eras.is_empty());
        if let Some(epoch) = epoch {
            self.epochs.insert(series.id.to_string(), epoch);
        }
        if let Some(last) = series.last_start.filter(|_| series.frequency == Some(frequency)) {
            self.written.push((series.id, last));
        }
    }
}

async fn known_series(ctx: &StepContext, members: &Members) -> Result<Known, StepError> {
    let doing = || "reading which series there are".to_owned();
    let mut known = Known::default();
    let Some(table) = snapshot(&ctx.env.lake, INTERVALS, None).await.doing(doing)? else { return Ok(known) };
    let Some(state) = state_at(&ctx.env.lake, &table).await.doing(doing)? else { return Ok(known) };
    let (frequency, others) =
        (ctx.spec.frequency, history::other_feeds(&ctx.env.config, ctx.spec.frequency, &ctx.spec.group_id));
    let take = |series: SeriesState, _| {
        if !others.iter().any(|other| **other == *series.feed) && members.has(&series.id) {
            known.take(series, frequency);
        }
    };
    each_series(&ctx.env.lake, &state, take).await.doing(doing)?;
    Ok(known)
}

// Those that the recent rows do not have, with the start of the last interval written for each.
fn silent_series(written: Vec<(CompactString, Micros)>, found: &History) -> Vec<(String, Micros)> {
    let there: HashSet<&str> = found.panel.series.iter().map(|s| s.id.as_str()).collect();
    let silent = written.into_iter().filter(|(id, _)| !there.contains(id.as_str()));
    silent.map(|(id, last)| (id.into_string(), last)).collect()
}

// Keeps what belongs to the present epoch of each series. One that came to another frequency is forecast in the group
// of that, unless it did so after the origin.
fn keep_present(history: &mut History, epochs: &HashMap<String, Epoch>, origin: Micros) {
    let (frequency, zone) = (history.panel.frequency, history.panel.zone.clone());
    history.retain(|s| match epochs.get(&s.id) {
        Some((present, since)) if *present == frequency => s.origin(frequency, &zone) > *since,
        Some((_, since)) => *since > origin,
        None => true,
    });
    for series in &mut history.panel.series {
        if let Some((_, since)) = epochs.get(&series.id).filter(|(present, _)| *present == frequency) {
            let earlier = frequency.steps_between(series.start, *since, &zone).max(0) as usize;
            history::keep_last(series, series.values.len().saturating_sub(earlier), frequency, &zone);
        }
    }
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
    // The lake has them in no order that stays.
    silent.sort_unstable_by(|(a, before), (b, last)| (before, a).cmp(&(last, b)));
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
    use jiff::tz::TimeZone;
    use meterline_models::data::{Panel, Series};
    use meterline_schemas::time::HOUR;
    use meterline_schemas::unit::Unit;

    use super::*;

    #[test]
    fn only_the_present_epoch_of_a_series_counts() {
        let hours =
            |id: &str, start: i64, count: usize| Series::new(id, start * HOUR, (0..count).map(|i| i as f32).collect());
        let series = vec![
            hours("came", 0, 9),
            hours("came long ago", 5, 4),
            hours("goes later", 0, 9),
            hours("stays", 0, 9),
            hours("was here before", 0, 2),
            hours("went", 0, 9),
        ];
        let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, series);
        let mut history = History { panel, units: vec!["kWh".into(); 6] };
        let epochs: HashMap<String, Epoch> = [
            ("came", (Frequency::HOUR, 6)),
            ("came long ago", (Frequency::HOUR, 3)),
            ("goes later", (Frequency::QUARTER_HOUR, 11)),
            ("was here before", (Frequency::HOUR, 7)),
            ("went", (Frequency::QUARTER_HOUR, 9)),
        ]
        .map(|(id, (frequency, since))| (id.to_owned(), (frequency, since * HOUR)))
        .into();
        keep_present(&mut history, &epochs, 10 * HOUR);
        let found: Vec<(&str, Micros, usize)> =
            history.panel.series.iter().map(|s| (s.id.as_str(), s.start / HOUR, s.values.len())).collect();
        assert_eq!(found, [("came", 6, 3), ("came long ago", 5, 4), ("goes later", 0, 9), ("stays", 0, 9)]);
        assert_eq!(history.units.len(), 4);
    }

    #[test]
    fn of_other_groups_nothing_is_kept_and_of_this_one_what_is_needed() {
        let mut known = Known::default();
        for (id, frequency, last) in [
            ("hours", Some(Frequency::HOUR), Some(7)),
            ("quarters", Some(Frequency::QUARTER_HOUR), Some(8)),
            ("nothing yet", Some(Frequency::HOUR), None),
            ("unknown", None, None),
        ] {
            let mut series = SeriesState::new("meters", id, Unit::KWH);
            (series.frequency, series.last_start) = (frequency, last);
            known.take(series, Frequency::HOUR);
        }
        assert_eq!(known, Known { epochs: HashMap::new(), written: vec![("hours".into(), 7)] });
    }

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
