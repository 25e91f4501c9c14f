//! Assembles the trigger facts of every model group from the committed state, the metadata database and the scores.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{Float64Type, Schema};
use jiff::tz::TimeZone;
use meterline_schemas::Micros;
use meterline_schemas::config::{Config, resolve_policy};
use meterline_schemas::facts::{Facts, fact_schema};
use meterline_schemas::time::{HOUR, format_micros};
use serde_json::{Map, Value, json};

use super::decide::{Failed, RunHistory};
use super::predicate::row;
use crate::environment::Environment;
use crate::ingest::groups::{GroupSummary, groups};
use crate::ingest::names::LABELS_PREFIX;
use crate::ingest::state::{FeedState, IngestState};
use crate::ingest::{Committed, IngestError, load_committed};
use crate::metadata::MetadataError;
use crate::metadata::records::{ModelRecord, Pipeline, RunRecord, RunSpec, Status};
use crate::pipelines::{SEASONAL_NAIVE, covariates, history};
use crate::sql::{SqlError, TableVersions, query_batches};

/// Runs of a pipeline that are looked back at for failures in a row.
const RUNS_LOOKED_AT: i64 = 70;
/// Scores are computed again once one in so many of the values that they are of may have changed. Reading all forecasts
/// and intervals of a horizon takes time, and in a large fleet some reading comes late before every commit.
const VALUES_PER_CHANGE: u64 = 10_000;

/// Why facts could not be assembled.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// The metadata database did not answer.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The committed state could not be read.
    #[error(transparent)]
    State(#[from] IngestError),
    /// The table could not be built.
    #[error("building the table trigger_facts: {0}")]
    Table(#[from] arrow::error::ArrowError),
}

/// The facts about one pipeline of one group, with what the decision needs beside them.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupFacts {
    /// The group as of the commit.
    pub group: GroupSummary,
    /// The pipeline that they are about.
    pub pipeline: Pipeline,
    /// The facts.
    pub facts: Facts,
    /// What earlier runs mean for the next one.
    pub history: RunHistory,
}

/// Figures of a group's scored forecasts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Scores {
    mase: Option<f64>,
    coverage: Option<f64>,
    substituted_share: Option<f64>,
}

/// Assembles facts; remembers scores until a group's origin, champion or forecasts change, or enough of the intervals.
#[derive(Debug, Default)]
pub struct FactSource {
    scores: Mutex<HashMap<String, (ScoreKey, Scores)>>,
}

/// What scores depend on.
#[derive(Debug, Clone, PartialEq)]
struct ScoreKey {
    origin: Micros,
    champion: Option<String>,
    last_forecast: String,
    // How much has changed of what was there, in steps of [`VALUES_PER_CHANGE`].
    changes: u64,
}

impl ScoreKey {
    fn of(
        state: &IngestState,
        group: &GroupSummary,
        horizon: u64,
        champion: Option<&ModelRecord>,
        last_forecast: &str,
    ) -> ScoreKey {
        let values = (group.series as u64).saturating_mul(horizon);
        ScoreKey {
            origin: group.origin,
            champion: champion.map(|champion| champion.version.clone()),
            last_forecast: last_forecast.to_owned(),
            changes: changes(state) / (values / VALUES_PER_CHANGE).max(1),
        }
    }
}

/// How many records may have changed intervals that forecasts were compared with already: corrections, what came late,
/// and labels, which move intervals from one roll-up to another. Of all feeds: a feed has series of several groups.
/// (The version of `intervals` grows with each commit, also where nothing but the newest intervals was added.)
fn changes(state: &IngestState) -> u64 {
    let of = |(name, feed): (&String, &FeedState)| -> u64 {
        let labels = name.starts_with(LABELS_PREFIX);
        let counts = feed.partitions.values().map(|partition| partition.counts);
        counts.map(|counts| counts.corrected + counts.late + if labels { counts.accepted } else { 0 }).sum()
    };
    state.feeds.iter().map(of).sum()
}

impl FactSource {
    /// The facts of every group and pipeline as of a commit, ordered by group, retrain before reforecast.
    ///
    /// # Errors
    ///
    /// [`FactsError`].
    pub async fn assemble(&self, env: &Environment, committed: &Committed) -> Result<Vec<GroupFacts>, FactsError> {
        let mut all = Vec::new();
        for group in groups(&committed.state, &committed.census, &env.config) {
            let champion = env.metadata.champion(&group.group_id).await?;
            let mut histories = Vec::with_capacity(Pipeline::ALL.len());
            for pipeline in Pipeline::ALL {
                histories.push((pipeline, env.metadata.group_runs(&group.group_id, pipeline, RUNS_LOOKED_AT).await?));
            }
            let last_forecast = histories
                .iter()
                .filter(|(p, _)| *p == Pipeline::Infer)
                .flat_map(|(_, runs)| runs)
                .find(|r| r.status == Status::Succeeded);
            let champion_is_new = last_forecast.is_some_and(|forecast| {
                let serves = champion.as_ref().map_or(SEASONAL_NAIVE, |c| c.version.as_str());
                forecast.model_version.as_deref().unwrap_or(SEASONAL_NAIVE) != serves
            });
            let scores = match last_forecast {
                Some(run) => self.scores(env, committed, &group, champion.as_ref(), &run.spec.run_id).await,
                None => Scores::default(),
            };
            let needed = history_needed(&env.config, &group);
            for (pipeline, runs) in &histories {
                let pipeline = *pipeline;
                let catch_up = env.config.ingest.catch_up_records;
                let values = values(catch_up, &group, needed, champion.as_ref(), champion_is_new, &scores, runs);
                let facts = Facts { group_id: group.group_id.clone(), pipeline: pipeline.trigger().into(), values };
                let mut history = history(runs, &group);
                history.champion_is_new = champion_is_new && pipeline == Pipeline::Infer;
                all.push(GroupFacts { group: group.clone(), pipeline, facts, history });
            }
        }
        Ok(all)
    }

    // Scores that cannot be read are missing: what does not ask for them goes on.
    async fn scores(
        &self,
        env: &Environment,
        committed: &Committed,
        group: &GroupSummary,
        champion: Option<&ModelRecord>,
        last_forecast: &str,
    ) -> Scores {
        let horizon = resolve_policy(group.frequency, &env.config.policy).horizon as u64;
        let key = ScoreKey::of(&committed.state, group, horizon, champion, last_forecast);
        let remembered = self.scores.lock().unwrap_or_else(PoisonError::into_inner).get(&group.group_id).cloned();
        if let Some((of, scores)) = remembered
            && of == key
        {
            return scores;
        }
        let scores = match read_scores(env, committed, group, champion, last_forecast).await {
            Ok(scores) => scores,
            Err(error) => {
                tracing::warn!(
                    group = %group.group_id,
                    %error,
                    "forecast scores cannot be read: mase_ratio, coverage and substituted_share are missing until they can"
                );
                return Scores::default();
            }
        };
        let mut known = self.scores.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(group.group_id.clone(), (key, scores));
        scores
    }
}

/// The champion's error and coverage over the last horizon of actuals, and how much of the newest forecasts is
/// substituted. Half a horizon at least must be scored: errors of one night do not compare with those of whole days.
async fn read_scores(
    env: &Environment,
    committed: &Committed,
    group: &GroupSummary,
    champion: Option<&ModelRecord>,
    last_forecast: &str,
) -> Result<Scores, SqlError> {
    let versions = TableVersions { intervals: Some(committed.intervals_version) };
    let id = literal(&group.group_id);
    let mut scores = Scores::default();
    if let Some(champion) = champion {
        let horizon = resolve_policy(group.frequency, &env.config.policy).horizon as i64;
        let since = format_micros(group.origin - horizon * group.frequency.nominal_micros());
        let sql = format!(
            "SELECT avg(scaled_error), avg(CAST(covered_80 AS DOUBLE)) FROM forecast_scores \
             WHERE group_id = {id} AND NOT substituted AND model_version = {} AND start >= '{since}' \
             HAVING count(DISTINCT start) >= {}",
            literal(&champion.version),
            (horizon + 1) / 2
        );
        let rows = query_batches(env, &sql, versions).await?;
        scores.mase = first_number(&rows, 0);
        scores.coverage = first_number(&rows, 1);
    }
    let run = literal(last_forecast);
    let sql =
        format!("SELECT avg(CAST(substituted AS DOUBLE)) FROM forecasts WHERE group_id = {id} AND run_id = {run}");
    scores.substituted_share = first_number(&query_batches(env, &sql, versions).await?, 0);
    Ok(scores)
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn first_number(rows: &[RecordBatch], column: usize) -> Option<f64> {
    let batch = rows.iter().find(|b| b.num_rows() > 0)?;
    let values = batch.column(column).as_primitive_opt::<Float64Type>()?;
    values.is_valid(0).then(|| values.value(0))
}

/// The values of [`meterline_schemas::facts::FACTS`]; what is missing is null.
fn values(
    catch_up_records: u64,
    group: &GroupSummary,
    history_needed: usize,
    champion: Option<&ModelRecord>,
    champion_is_new: bool,
    scores: &Scores,
    runs: &[RunRecord],
) -> Map<String, Value> {
    let zone = TimeZone::get(&group.zone).unwrap_or(TimeZone::UTC);
    let steps = |from: Micros| group.frequency.steps_between(from, group.origin, &zone);
    // A failed run leaves its cause open: it does not count. A run for an earlier time, asked for by hand, does not
    // undo what a later one has seen.
    let last = runs
        .iter()
        .filter(|r| !matches!(r.status, Status::Failed | Status::Cancelled) && r.spec.origin <= group.origin)
        .max_by_key(|r| (r.spec.origin, r.spec.closed_intervals))
        .map(|r| &r.spec);
    // What came late for the origin of the last run is no new interval of the group, but it is news.
    let new_intervals = last.map(|spec| steps(spec.origin).max(stragglers(group, spec).min(1)));
    let registered_mase = champion.and_then(|c| c.metrics.get("mase")).and_then(Value::as_f64).filter(|m| *m > 0.0);
    let backfilling = group.lag_records > i64::try_from(catch_up_records).unwrap_or(i64::MAX);
    let facts = json!({
        "series": group.series,
        "history_intervals": group.history_intervals,
        "history_needed": history_needed,
        "new_intervals": new_intervals.unwrap_or(group.history_intervals),
        "hours_since_run": last.map(|spec| (group.origin - spec.origin) as f64 / HOUR as f64),
        "has_champion": champion.is_some(),
        "champion_is_new": champion_is_new,
        "champion_age_intervals": champion.map(|c| steps(c.trained_until)),
        "completeness": group.completeness,
        "mase_ratio": scores.mase.zip(registered_mase).map(|(live, then)| live / then),
        "coverage": scores.coverage,
        "substituted_share": scores.substituted_share,
        "lag_records": group.lag_records,
        "backfilling": backfilling,
        "failures_in_row": failures_in_row(runs),
    });
    match facts {
        Value::Object(values) => values,
        _ => Map::new(),
    }
}

fn history_needed(config: &Config, group: &GroupSummary) -> usize {
    let policy = resolve_policy(group.frequency, &config.policy);
    let zone = TimeZone::get(&group.zone).unwrap_or(TimeZone::UTC);
    history::needed(&policy, &zone, covariates::of(&covariates::configured(config, &policy)))
}

fn failures_in_row(runs: &[RunRecord]) -> u32 {
    runs.iter()
        .filter(|r| matches!(r.status, Status::Succeeded | Status::Failed))
        .take_while(|r| r.status == Status::Failed)
        .count() as u32
}

/// Intervals that ended by the origin of a run but came after it was asked for; 0 where the group has moved on.
fn stragglers(group: &GroupSummary, spec: &RunSpec) -> i64 {
    if spec.origin == group.origin { (group.closed_intervals - spec.closed_intervals).max(0) } else { 0 }
}

fn history(runs: &[RunRecord], group: &GroupSummary) -> RunHistory {
    let active = runs.iter().find(|r| matches!(r.status, Status::Queued | Status::Running));
    // A cancelled run has had its chance with its data, too: it starts again when there is more.
    let done = || runs.iter().filter(|r| matches!(r.status, Status::Succeeded | Status::Cancelled));
    let newest = runs.iter().find(|r| !matches!(r.status, Status::Queued | Status::Running));
    RunHistory {
        active: active.map(|r| r.spec.run_id.clone()),
        last_origin: done().map(|r| r.spec.origin).filter(|at| *at <= group.origin).max(),
        champion_is_new: false,
        stragglers: done()
            .filter(|r| r.spec.origin == group.origin)
            .map(|r| stragglers(group, &r.spec))
            .min()
            .unwrap_or(0),
        failed: newest
            .filter(|r| r.status == Status::Failed)
            .map(|r| Failed { in_row: failures_in_row(runs), at: r.finished_at.unwrap_or(r.created_at) }),
    }
}

/// The SQL table `trigger_facts`: one row per model group and trigger, as of the newest commit.
///
/// # Errors
///
/// [`FactsError`].
pub async fn facts_table(env: &Environment) -> Result<RecordBatch, FactsError> {
    let (all, seq) = match load_committed(&env.lake, &env.config).await? {
        Some(committed) => (FactSource::default().assemble(env, &committed).await?, committed.state.seq),
        None => (Vec::new(), 0),
    };
    let rows = || all.iter();
    let identity: Vec<(&str, ArrayRef)> = vec![
        ("group_id", Arc::new(rows().map(|f| Some(f.facts.group_id.as_str())).collect::<StringArray>())),
        ("pipeline", Arc::new(rows().map(|f| Some(f.facts.pipeline.as_str())).collect::<StringArray>())),
        ("frequency", Arc::new(rows().map(|f| Some(f.group.frequency.to_string())).collect::<StringArray>())),
        ("origin", instants(rows().map(|f| f.group.origin))),
        ("watermark", instants(rows().map(|f| f.group.watermark))),
        ("commit_seq", Arc::new(Int64Array::from(vec![seq; all.len()]))),
    ];
    let identity = RecordBatch::try_from_iter_with_nullable(identity.into_iter().map(|(n, c)| (n, c, true)))?;
    let schema = fact_schema();
    let facts: Result<Vec<_>, _> = rows().map(|f| row(&schema, &f.facts.values)).collect();
    let facts = concat_batches(&schema, &facts?)?;
    let fields: Vec<_> = identity.schema().fields().iter().chain(schema.fields()).cloned().collect();
    let columns = identity.columns().iter().chain(facts.columns()).cloned().collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn instants(values: impl Iterator<Item = Micros>) -> ArrayRef {
    Arc::new(values.map(Some).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

#[cfg(test)]
mod tests {
    use meterline_schemas::Frequency;
    use meterline_schemas::time::DAY;

    use super::*;
    use crate::ingest::state::{Counts, PartitionState};
    use crate::metadata::records::ApprovalState;

    fn group(frequency: Frequency, zone: &str, first_start: Micros, origin: Micros) -> GroupSummary {
        GroupSummary {
            group_id: frequency.to_string(),
            frequency,
            zone: zone.into(),
            series: 3,
            first_start,
            origin,
            watermark: origin,
            history_intervals: 1000,
            closed_intervals: 0,
            completeness: Some(0.95),
            lag_records: 11,
        }
    }

    fn hourly(origin_h: i64) -> GroupSummary {
        group(Frequency::HOUR, "UTC", 0, origin_h * HOUR)
    }

    fn run(id: &str, of: &GroupSummary, origin: Micros, status: Status) -> RunRecord {
        let spec = RunSpec {
            run_id: id.into(),
            pipeline: Pipeline::Infer,
            group_id: of.group_id.clone(),
            frequency: of.frequency,
            zone: of.zone.clone(),
            origin,
            closed_intervals: 0,
            watermark: origin,
            intervals_version: 1,
            policy: resolve_policy(of.frequency, &Default::default()),
            covariates: Vec::new(),
            device: "cpu".into(),
        };
        RunRecord { status, ..RunRecord::queued(spec, "trigger", None, 0) }
    }

    fn champion(trained_until: Micros, mase: Value) -> ModelRecord {
        ModelRecord {
            version: "PT1H-0001".into(),
            group_id: "PT1H".into(),
            run_id: "b1".into(),
            forecaster: "quantile_mlp".into(),
            artifact: "models/PT1H-0001".into(),
            covariates: Vec::new(),
            labels: Vec::new(),
            metrics: Map::from_iter([("mase".to_owned(), mase)]),
            trained_until,
            intervals_version: 1,
            approval: ApprovalState::Approved,
            approval_reason: String::new(),
            created_at: 0,
        }
    }

    #[test]
    fn new_intervals_count_from_the_last_run_that_has_seen_its_data() {
        use Status::{Cancelled, Failed, Running, Succeeded};
        let now = hourly(100);
        // Runs newest first, as (origin in hours, status).
        for (runs, new, failures, active, last_origin, last_failed) in [
            (vec![], 1000, 0, false, None, false),
            (vec![(90, Succeeded)], 10, 0, false, Some(90), false),
            (vec![(95, Running), (90, Succeeded)], 5, 0, true, Some(90), false),
            (vec![(95, Failed), (94, Failed), (90, Succeeded)], 10, 2, false, Some(90), true),
            (vec![(95, Failed)], 1000, 1, false, None, true),
            (vec![(99, Cancelled), (90, Succeeded)], 10, 0, false, Some(99), false),
            // By hand, for an earlier time: what the later run has seen stays seen.
            (vec![(40, Succeeded), (90, Succeeded)], 10, 0, false, Some(90), false),
        ] {
            let runs: Vec<RunRecord> = runs.into_iter().map(|(at, s)| run("r", &now, at * HOUR, s)).collect();
            let facts = values(100, &now, 500, None, false, &Scores::default(), &runs);
            assert_eq!(
                (&facts["new_intervals"], &facts["failures_in_row"]),
                (&json!(new), &json!(failures)),
                "{runs:?}"
            );
            let found = history(&runs, &now);
            assert_eq!(found.active.is_some(), active, "{runs:?}");
            assert_eq!(
                (found.last_origin, found.failed.is_some()),
                (last_origin.map(|h| h * HOUR), last_failed),
                "{runs:?}"
            );
        }
    }

    #[test]
    fn a_build_waits_for_as_much_history_as_its_kind_of_model_needs() {
        let needed = |kind: &str| {
            let text = format!("[policy.a]\nfrequency = \"PT1H\"\n[policy.a.model]\nkind = \"{kind}\"\n");
            history_needed(&meterline_schemas::config::parse(&text).unwrap(), &hourly(100)) / 24
        };
        // A context of seven days, a horizon of two, twice that to train on, three windows to evaluate.
        assert_eq!((needed("quantile_mlp"), needed("seasonal_naive"), needed("auto")), (17, 17, 17));
        // Two weeks before the first origin.
        assert_eq!((needed("feature_mlp"), needed("boosted_trees")), (22, 22));
        assert!(needed("linear_quantile") > 22 && needed("adjusted_trees") > 380);
    }

    #[test]
    fn what_is_not_known_is_null() {
        let now = hourly(100);
        let facts = values(100, &now, 500, None, false, &Scores::default(), &[]);
        for name in ["hours_since_run", "champion_age_intervals", "mase_ratio", "coverage", "substituted_share"] {
            assert_eq!(facts[name], Value::Null, "{name}");
        }
        assert_eq!((&facts["has_champion"], &facts["backfilling"]), (&json!(false), &json!(false)));
        assert_eq!(facts.len(), fact_schema().fields().len(), "every fact has its value");
        let scores = Scores { mase: Some(1.2), coverage: Some(0.7), substituted_share: Some(0.0) };
        for (registered, ratio) in
            [(json!(0.8), json!(1.2 / 0.8)), (json!(0.0), Value::Null), (Value::Null, Value::Null)]
        {
            let facts = values(10, &now, 500, Some(&champion(76 * HOUR, registered)), false, &scores, &[]);
            assert_eq!(facts["mase_ratio"], ratio);
            assert_eq!((&facts["champion_age_intervals"], &facts["backfilling"]), (&json!(24), &json!(true)));
        }
    }

    #[test]
    fn scores_are_remembered_until_enough_of_what_they_are_of_may_have_changed() {
        let (group, champion) = (hourly(100), champion(76 * HOUR, json!(0.8)));
        let state = |feed: &str, counts: Counts| {
            let partitions = [(0, PartitionState { counts, ..PartitionState::default() })].into();
            let of = FeedState { partitions, ..FeedState::default() };
            IngestState {
                feeds: [("m".to_owned(), FeedState::default()), (feed.to_owned(), of)].into(),
                ..Default::default()
            }
        };
        let counts = |accepted, corrected, late| Counts { accepted, corrected, late, ..Counts::default() };
        let key = |state: &IngestState, horizon| ScoreKey::of(state, &group, horizon, Some(&champion), "run");
        let before = state("n", counts(10, 2, 1));
        // More of what comes in its time, and no correction: the same.
        assert_eq!(key(&before, 24), key(&state("n", counts(11, 2, 1)), 24));
        for changed in [counts(10, 3, 1), counts(11, 2, 2), counts(10, 4, 2)] {
            assert_ne!(key(&before, 24), key(&state("n", changed), 24), "{changed:?}");
        }
        // Labels come in their time, too, and still change what was.
        let labels = |accepted| key(&state("labels.network", counts(accepted, 0, 0)), 24);
        assert_ne!(labels(1), labels(2));
        // Three series and 10,000 intervals ahead: three changes are one in ten thousand.
        let many = |corrected| key(&state("n", counts(10, corrected, 0)), 10_000);
        assert!(many(3) == many(5) && many(5) != many(6));
        let other = |champion, run| ScoreKey::of(&before, &group, 24, champion, run);
        assert_ne!(other(Some(&champion), "run"), other(None, "run"));
        assert_ne!(other(Some(&champion), "run"), other(Some(&champion), "later"));
    }

    #[test]
    fn a_month_is_counted_in_the_calendar_of_the_group() {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_microsecond();
        // In Lisbon March begins at midnight UTC and ends, an hour early, in March UTC.
        let now = group(Frequency::Month, "Europe/Lisbon", 0, at("2024-03-31T23:00:00Z"));
        let last = run("r", &now, at("2024-03-01T00:00:00Z"), Status::Succeeded);
        let facts = values(10, &now, 500, None, false, &Scores::default(), &[last]);
        assert_eq!(facts["new_intervals"], json!(1));
        assert_eq!(facts["hours_since_run"].as_f64().unwrap(), (31 * DAY - HOUR) as f64 / HOUR as f64);
    }
}
