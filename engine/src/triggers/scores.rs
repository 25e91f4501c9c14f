//! What came true of a group's forecasts, for its facts: remembered, because reading it takes time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Float64Type;
use meterline_schemas::Micros;
use meterline_schemas::config::resolve_group_policy;
use meterline_schemas::time::format_micros;
use tokio::sync::{Notify, watch};

use super::shift::{self, ShiftKey};
use crate::environment::Environment;
use crate::ingest::Committed;
use crate::ingest::groups::GroupSummary;
use crate::ingest::names::LABELS_PREFIX;
use crate::ingest::state::{FeedState, IngestState};
use crate::metadata::records::ModelRecord;
use crate::sql::{SqlError, TableVersions, literal, literals, query_batches};

/// Scores are computed again once one in so many of the values that they are of may have changed. Reading all forecasts
/// and intervals of a horizon takes time, and in a large fleet some reading comes late before every commit.
const VALUES_PER_CHANGE: u64 = 10_000;
/// While many groups are read, how often it is told that there is something new.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Figures of a group's scored forecasts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Scores {
    pub(super) mase: Option<f64>,
    pub(super) coverage: Option<f64>,
    /// Of the first and of the second half of the horizon.
    pub(super) coverage_near: Option<f64>,
    pub(super) coverage_far: Option<f64>,
    pub(super) substituted_share: Option<f64>,
    /// How far what comes in now is from what the champion was trained on.
    pub(super) input_shift: Option<f64>,
}

/// Gives scores, and remembers them until a group's origin, champion or forecasts change, or enough of the intervals.
///
/// By itself it reads what is not known at once. [In the background](ScoreSource::in_background) it gives what was known
/// last and reads meanwhile: decisions that do not ask for scores do not wait for them.
#[derive(Debug, Default)]
pub(super) struct ScoreSource {
    known: Arc<Known>,
    background: Option<Background>,
}

/// What is still to be read, by group: of one group the newest.
#[derive(Debug, Clone, Default)]
struct Background {
    wanted: Arc<Mutex<Queue>>,
    wake: Arc<Notify>,
}

/// In the order in which groups were first wanted: none waits for ever behind others.
#[derive(Debug, Default)]
struct Queue {
    order: VecDeque<String>,
    newest: HashMap<String, Wanted>,
}

impl Queue {
    fn put(&mut self, wanted: Wanted) {
        let group = wanted.group.group_id.clone();
        if self.newest.insert(group.clone(), wanted).is_none() {
            self.order.push_back(group);
        }
    }

    fn take(&mut self) -> Option<Wanted> {
        self.newest.remove(&self.order.pop_front()?)
    }
}

/// All that reading the scores of a group takes.
#[derive(Debug, Clone)]
struct Wanted {
    env: Arc<Environment>,
    committed: Committed,
    group: GroupSummary,
    champion: Option<ModelRecord>,
    last_forecast: String,
    corrections: Vec<String>,
    key: ScoreKey,
}

/// The forecasts of a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forecasts<'a> {
    /// The newest run of all series.
    pub(super) last: &'a str,
    /// Runs that corrected some, of late.
    pub(super) corrections: &'a [String],
}

/// What may have changed since scores were read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Changed {
    /// [`changes`], as of the commit.
    pub(super) changes: u64,
    /// Intervals that a forecast of the group is ahead.
    pub(super) horizon: usize,
}

/// What scores depend on.
#[derive(Debug, Clone, PartialEq)]
struct ScoreKey {
    origin: Micros,
    champion: Option<String>,
    last_forecast: String,
    corrections: usize,
    // How much has changed of what was there, in steps of [`VALUES_PER_CHANGE`].
    changes: u64,
}

impl ScoreKey {
    fn of(
        group: &GroupSummary,
        champion: Option<&ModelRecord>,
        forecasts: Forecasts<'_>,
        changed: Changed,
    ) -> ScoreKey {
        let values = (group.series as u64).saturating_mul(changed.horizon as u64);
        ScoreKey {
            origin: group.origin,
            champion: champion.map(|champion| champion.version.clone()),
            last_forecast: forecasts.last.to_owned(),
            corrections: forecasts.corrections.len(),
            changes: changed.changes / (values / VALUES_PER_CHANGE).max(1),
        }
    }
}

/// How many records may have changed intervals that forecasts were compared with already: corrections, what came late,
/// and labels, which move intervals from one roll-up to another. Of all feeds: a feed has series of several groups.
/// (The version of `intervals` grows with each commit, also where nothing but the newest intervals was added.)
pub(super) fn changes(state: &IngestState) -> u64 {
    let of = |(name, feed): (&String, &FeedState)| -> u64 {
        let labels = name.starts_with(LABELS_PREFIX);
        let counts = feed.partitions.values().map(|partition| partition.counts);
        counts.map(|counts| counts.corrected + counts.late + if labels { counts.accepted } else { 0 }).sum()
    };
    state.feeds.iter().map(of).sum()
}

impl ScoreSource {
    /// A source that reads in a task of its own, and tells by the channel that there is something new. The task ends with
    /// the channel's last receiver.
    pub(super) fn in_background() -> (ScoreSource, watch::Receiver<u64>) {
        let source = ScoreSource { background: Some(Background::default()), ..ScoreSource::default() };
        let (news, receiver) = watch::channel(0);
        if let Some(background) = source.background.clone() {
            tokio::spawn(read_wanted(background, Arc::clone(&source.known), news));
        }
        (source, receiver)
    }

    pub(super) async fn of(
        &self,
        env: &Arc<Environment>,
        committed: &Committed,
        group: &GroupSummary,
        champion: Option<&ModelRecord>,
        forecasts: Forecasts<'_>,
        changed: Changed,
    ) -> Scores {
        let Forecasts { last: last_forecast, corrections } = forecasts;
        let key = ScoreKey::of(group, champion, forecasts, changed);
        let remembered = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let of_group = known.get(&group.group_id);
            if let Some(known) = of_group.filter(|known| known.key == key) {
                return known.scores;
            }
            of_group.cloned()
        };
        let wanted = Wanted {
            env: Arc::clone(env),
            committed: committed.clone(),
            group: group.clone(),
            champion: champion.cloned(),
            last_forecast: last_forecast.to_owned(),
            corrections: corrections.to_vec(),
            key,
        };
        let Some(background) = &self.background else {
            return read_into(&self.known, wanted).await.unwrap_or_default();
        };
        // Those of another champion say nothing of this one.
        let last = remembered.filter(|last| last.key.champion == wanted.key.champion).map(|last| last.scores);
        background.lock().put(wanted);
        last.unwrap_or_default()
    }

    /// Lets what is wanted be read in the background: not while decisions are made, which it would slow down.
    pub(super) fn go_on(&self) {
        if let Some(background) = &self.background {
            background.wake.notify_one();
        }
    }
}

impl Background {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Known = Mutex<HashMap<String, OfGroup>>;

/// What was read of a group last.
#[derive(Debug, Clone)]
struct OfGroup {
    key: ScoreKey,
    // Of the shift, which takes longer to read and changes more slowly.
    shift: Option<ShiftKey>,
    scores: Scores,
}

async fn read_wanted(background: Background, known: Arc<Known>, news: watch::Sender<u64>) {
    loop {
        tokio::select! {
            () = background.wake.notified() => {}
            () = news.closed() => return,
        }
        let (mut told, mut is_new) = (Instant::now(), false);
        loop {
            let Some(wanted) = background.lock().take() else { break };
            // What cannot be read is no news: it is wanted again with the next commit, and not at once.
            is_new |= read_into(&known, wanted).await.is_some();
            // Not after each of a thousand groups: each time, all triggers are looked at.
            if is_new && told.elapsed() >= TELL_EVERY {
                (told, is_new) = (Instant::now(), false);
                news.send_modify(|news| *news += 1);
            }
        }
        if is_new {
            news.send_modify(|news| *news += 1);
        }
    }
}

// Scores that cannot be read are missing: what does not ask for them goes on.
async fn read_into(known: &Known, wanted: Wanted) -> Option<Scores> {
    let Wanted { env, committed, group, champion, last_forecast, corrections, key } = wanted;
    let shift = champion.as_ref().map(|champion| ShiftKey::of(&group, champion));
    let last = known.lock().unwrap_or_else(PoisonError::into_inner).get(&group.group_id).cloned();
    let last = last.filter(|last| last.shift == shift);
    let (input_shift, shift) = match (&champion, last) {
        (_, Some(last)) => (last.scores.input_shift, shift),
        (Some(champion), None) => match shift::read(&env, &committed, &group, champion).await {
            Ok(found) => (found, shift),
            // The others do not wait for it, and it is read again with them.
            Err(error) => {
                tracing::warn!(group = %group.group_id, %error, "input_shift is missing until it can be read");
                (None, None)
            }
        },
        (None, None) => (None, None),
    };
    let forecasts = Forecasts { last: &last_forecast, corrections: &corrections };
    match read_scores(&env, &committed, &group, champion.as_ref(), forecasts).await {
        Ok(scores) => {
            let scores = Scores { input_shift, ..scores };
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(group.group_id.clone(), OfGroup { key, shift, scores });
            Some(scores)
        }
        Err(error) => {
            tracing::warn!(
                group = %group.group_id,
                %error,
                "forecast scores cannot be read: mase_ratio, coverage (also near and far) and substituted_share are missing until they can"
            );
            None
        }
    }
}

/// Errors of so many times the usual difference from a season ago and more are of readings that no meter can have meant: they
/// are no reason to train anew.
pub(super) const SCALED_ERROR_MAX: f64 = 1_000.0;

/// The champion's error and coverage over the last horizon of actuals, and how much of the newest forecasts is
/// substituted. Half a horizon at least must be scored: errors of one night do not compare with those of whole days.
async fn read_scores(
    env: &Environment,
    committed: &Committed,
    group: &GroupSummary,
    champion: Option<&ModelRecord>,
    forecasts: Forecasts<'_>,
) -> Result<Scores, SqlError> {
    let versions = TableVersions { intervals: Some(committed.intervals_version) };
    let id = literal(&group.group_id);
    let mut scores = Scores::default();
    if let Some(champion) = champion {
        let horizon = resolve_group_policy(&group.group_id, group.frequency, &env.config.policy).horizon as i64;
        let since = format_micros(group.origin - horizon * group.frequency.nominal_micros());
        let sql = format!(
            "SELECT avg(scaled_error) FILTER (WHERE scaled_error < {SCALED_ERROR_MAX}), \
               avg(CAST(covered_80 AS DOUBLE)), \
               avg(CAST(covered_80 AS DOUBLE)) FILTER (WHERE step <= {near}), \
               avg(CAST(covered_80 AS DOUBLE)) FILTER (WHERE step > {near}) FROM forecast_scores s \
             WHERE group_id = {id} AND NOT substituted AND model_version = {} AND start >= '{since}' {} \
             HAVING count(DISTINCT start) >= {}",
            literal(&champion.version),
            in_force(&id, forecasts.corrections),
            (horizon + 1) / 2,
            near = (horizon + 1) / 2
        );
        let rows = query_batches(env, &sql, versions).await?;
        scores.mase = first_number(&rows, 0);
        scores.coverage = first_number(&rows, 1);
        scores.coverage_near = first_number(&rows, 2);
        scores.coverage_far = first_number(&rows, 3);
    }
    let run = literal(forecasts.last);
    let sql =
        format!("SELECT avg(CAST(substituted AS DOUBLE)) FROM forecasts WHERE group_id = {id} AND run_id = {run}");
    scores.substituted_share = first_number(&query_batches(env, &sql, versions).await?, 0);
    Ok(scores)
}

/// The condition, in SQL, that a row of scores is not of a forecast that a correction has taken the place of: it was made
/// from what turned out wrong, which says nothing of the model.
fn in_force(group: &str, corrections: &[String]) -> String {
    if corrections.is_empty() {
        return String::new();
    }
    format!(
        "AND NOT EXISTS (SELECT 1 FROM forecasts c WHERE c.group_id = {group} AND c.run_id IN ({}) \
           AND c.series_id = s.series_id AND c.start = s.start AND c.origin = s.origin AND c.run_id > s.run_id)",
        literals(corrections)
    )
}

fn first_number(rows: &[RecordBatch], column: usize) -> Option<f64> {
    let batch = rows.iter().find(|b| b.num_rows() > 0)?;
    let values = batch.column(column).as_primitive_opt::<Float64Type>()?;
    values.is_valid(0).then(|| values.value(0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::facts::tests::{champion, hourly};
    use super::*;
    use crate::ingest::state::{Counts, PartitionState};
    use meterline_schemas::time::HOUR;

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
        let run = |last: &'static str| Forecasts { last, corrections: &[] };
        let changed = |state: &IngestState, horizon| Changed { changes: changes(state), horizon };
        let key =
            |state: &IngestState, horizon| ScoreKey::of(&group, Some(&champion), run("run"), changed(state, horizon));
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
        let other = |champion, forecasts| ScoreKey::of(&group, champion, forecasts, changed(&before, 24));
        assert_ne!(other(Some(&champion), run("run")), other(None, run("run")));
        assert_ne!(other(Some(&champion), run("run")), other(Some(&champion), run("later")));
        let corrected = Forecasts { corrections: &["c".to_owned()], ..run("run") };
        assert_ne!(other(Some(&champion), run("run")), other(Some(&champion), corrected));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_forecast_that_was_corrected_does_not_count() {
        use crate::pipelines::infer::reconcile::run_tests::{DAYS, START, lake};
        let directory = tempfile::tempdir().unwrap();
        let env = lake(directory.path()).await;
        // The last day of `a`, far off at first, and just right once it was corrected; that of `c` was not.
        let end = START + 24 * DAYS * HOUR;
        let origin = end - 24 * HOUR;
        let publish = async |run_id: &str, series: &[&str], off: f64| {
            let mut rows = Vec::new();
            for id in series {
                let sql = format!(
                    "SELECT value FROM intervals WHERE series_id = '{id}' AND start >= '{}' ORDER BY start",
                    format_micros(origin)
                );
                let found = query_batches(&env, &sql, TableVersions::default()).await.unwrap();
                let values: Vec<f64> = found
                    .iter()
                    .flat_map(|rows| rows.column(0).as_primitive::<Float64Type>().values().to_vec())
                    .collect();
                let mean: Vec<f64> = values.iter().map(|value| value + off).collect();
                rows.push(crate::pipelines::artifacts::Prediction {
                    series_id: (*id).into(),
                    origin,
                    unit: "kWh".into(),
                    scale: Some(1.0),
                    model_version: "PT1H-0001".into(),
                    substituted: false,
                    forecast: meterline_models::forecaster::SeriesForecast {
                        quantiles: mean
                            .iter()
                            .map(|mean| [*mean; meterline_schemas::quantiles::LEVELS.len()])
                            .collect(),
                        mean,
                    },
                });
            }
            let spec = crate::pipelines::spec::tests::spec(run_id);
            let zone = jiff::tz::TimeZone::UTC;
            crate::pipelines::infer::publish::publish(&env.lake, &spec, &zone, &rows).await.unwrap();
        };
        publish("r1", &["a", "c"], 4.0).await;
        publish("r2", &["a"], 0.0).await;
        let group = GroupSummary { origin: end, ..hourly(0) };
        let committed = crate::ingest::load_committed(&env.lake, &env.config, env.directory()).await.unwrap().unwrap();
        let champion = champion(0, json!(1.0));
        for (corrections, mase) in [(vec![], 8.0 / 3.0), (vec!["r2".to_owned()], 2.0)] {
            let forecasts = Forecasts { last: "r1", corrections: &corrections };
            let scores = read_scores(&env, &committed, &group, Some(&champion), forecasts).await.unwrap();
            assert!((scores.mase.unwrap() - mase).abs() < 1e-6, "{scores:?}");
            assert_eq!(scores.substituted_share, Some(0.0));
        }
    }
}
