//! Watches commits and runs, and starts what the policies ask for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use meterline_schemas::config::resolve_policy;
use meterline_schemas::{Frequency, Micros};
use serde_json::{Map, Value};
use tokio::sync::watch;

use super::decide::{CompiledTrigger, Verdict, decide};
use super::facts::{FactSource, FactsError, GroupFacts};
use super::predicate::PredicateError;
use crate::environment::Environment;
use crate::ingest::Committed;
use crate::metadata::MetadataError;
use crate::metadata::records::{DecisionRecord, Pipeline};
use crate::pipelines::runner::Runner;
use crate::pipelines::{RunError, spec};

/// How often ended runs are looked for between commits.
const TICK: Duration = Duration::from_secs(1);
/// Longest pause after a failure of the lake or the metadata database.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Recorded decisions of one trigger after which its old ones are forgotten.
const DECISIONS_PER_TRIM: u64 = 1000;

/// Why an evaluation did not come to its end; it is tried again.
#[derive(Debug, thiserror::Error)]
enum EvaluateError {
    #[error(transparent)]
    Facts(#[from] FactsError),
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error(transparent)]
    Predicate(#[from] PredicateError),
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Evaluates every policy after each commit and after each run, until `stop` turns true or the stream is gone.
pub async fn run(
    env: Arc<Environment>,
    mut commits: watch::Receiver<Option<Arc<Committed>>>,
    runner: Runner,
    mut stop: watch::Receiver<bool>,
) {
    let mut evaluator = Evaluator::new(env, runner);
    let mut pause = TICK;
    loop {
        tokio::select! {
            changed = stop.changed() => if changed.is_err() || *stop.borrow() { return },
            changed = commits.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
        if *stop.borrow() {
            return;
        }
        if let Err(error) = evaluator.runner.adopt_orphans().await {
            tracing::warn!(%error, "runs that nobody sees to any more could not be looked for; they are looked for again");
        }
        let Some(committed) = commits.borrow_and_update().clone() else { continue };
        match evaluator.evaluate_if_changed(&committed, jiff::Timestamp::now().as_microsecond()).await {
            Ok(true) => pause = TICK,
            Ok(false) => pause = (pause * 2).min(PAUSE_MAX),
            Err(error) => {
                pause = (pause * 2).min(PAUSE_MAX);
                let retry_s = pause.as_secs();
                tracing::error!(%error, retry_s, "triggers could not be evaluated; ingest goes on, and they are tried again");
            }
        }
    }
}

struct Evaluator {
    env: Arc<Environment>,
    runner: Runner,
    facts: FactSource,
    compiled: HashMap<(Frequency, Pipeline), CompiledTrigger>,
    recorded: HashMap<(String, Pipeline), Recorded>,
    // What there was at the last evaluation that came to its end.
    seen: Option<Seen>,
    // When the next pause after a failed run ends, by the clock.
    retry_at: Option<Micros>,
}

/// What evaluations look at: while it stays the same, they would decide the same.
#[derive(Debug, PartialEq)]
struct Seen {
    commit: i64,
    active_runs: BTreeSet<String>,
    champions: BTreeMap<String, String>,
}

/// What was recorded of one trigger since the engine started.
#[derive(Default)]
struct Recorded {
    // Facts of the last recorded decision, without the lag, which changes all the time and decides nothing by itself;
    // and what was decided: the same facts may find another run under way.
    last: Option<(Map<String, Value>, Option<String>)>,
    decisions: u64,
}

impl Evaluator {
    fn new(env: Arc<Environment>, runner: Runner) -> Evaluator {
        Evaluator {
            env,
            runner,
            facts: FactSource::default(),
            compiled: HashMap::new(),
            recorded: HashMap::new(),
            seen: None,
            retry_at: None,
        }
    }

    /// Evaluates all triggers if a commit, a run's beginning or end, another champion, or the end of a pause after a
    /// failure calls for it; says whether all could be. `now` is what the clock says.
    async fn evaluate_if_changed(&mut self, committed: &Committed, now: Micros) -> Result<bool, EvaluateError> {
        let active = self.env.metadata.active_runs().await?;
        let seen = Seen {
            commit: committed.state.seq,
            active_runs: active.into_iter().map(|r| r.spec.run_id).collect(),
            champions: self.env.metadata.champions().await?,
        };
        if self.seen.as_ref() == Some(&seen) && self.retry_at.is_none_or(|at| now < at) {
            return Ok(true);
        }
        self.retry_at = None;
        let (mut fired, mut failed) = (false, false);
        for group in self.facts.assemble(&self.env, committed).await? {
            if let Some(at) = group.history.failed.map(|f| f.retry_at()).filter(|at| *at > now) {
                self.retry_at = Some(self.retry_at.map_or(at, |sooner| sooner.min(at)));
            }
            match self.evaluate(&group, committed, now).await {
                Ok(started) => fired |= started,
                // What is wrong with one trigger must not hold up the others.
                Err(error) => {
                    tracing::error!(
                        group = %group.group.group_id,
                        trigger = group.pipeline.trigger(),
                        %error,
                        "the trigger could not be evaluated and is tried again; the others go on"
                    );
                    failed = true;
                }
            }
        }
        // A run that started just now may end before anybody looks: look again in any case.
        self.seen = (!fired && !failed).then_some(seen);
        Ok(!failed)
    }

    /// Evaluates one trigger; says whether it started a run.
    async fn evaluate(
        &mut self,
        group: &GroupFacts,
        committed: &Committed,
        now: Micros,
    ) -> Result<bool, EvaluateError> {
        let summary = &group.group;
        let verdict = {
            let trigger = self.trigger(summary.frequency, group.pipeline)?;
            decide(trigger, &group.facts.values, &group.history, summary.origin, now)?
        };
        let mut telling = group.facts.values.clone();
        telling.remove("lag_records");
        let key = (summary.group_id.clone(), group.pipeline);
        let telling = (telling, group.history.active.clone());
        if !verdict.fired && self.recorded.get(&key).is_some_and(|r| r.last.as_ref() == Some(&telling)) {
            return Ok(false);
        }
        let mut decision = record(group, committed, &verdict, now);
        self.env.metadata.record_decision(&decision).await?;
        if verdict.fired {
            let spec = spec::for_group(&self.env, summary, committed, group.pipeline, None);
            tracing::info!(
                group = %summary.group_id,
                trigger = group.pipeline.trigger(),
                run = %spec.run_id,
                why = %verdict.reason,
                "trigger fired"
            );
            let run = self.runner.start(spec, "trigger", Some(&decision.decision_id)).await?;
            decision.run_id = Some(run.spec.run_id);
            self.env.metadata.record_decision(&decision).await?;
        }
        let recorded = self.recorded.entry(key).or_default();
        recorded.last = Some(telling);
        // The first one trims as well: an engine that is restarted often must forget, too.
        let trim = recorded.decisions.is_multiple_of(DECISIONS_PER_TRIM);
        recorded.decisions += 1;
        if trim {
            self.env.metadata.trim_decisions(&summary.group_id, group.pipeline).await?;
        }
        Ok(verdict.fired)
    }

    fn trigger(&mut self, frequency: Frequency, pipeline: Pipeline) -> Result<&CompiledTrigger, PredicateError> {
        match self.compiled.entry((frequency, pipeline)) {
            std::collections::hash_map::Entry::Occupied(known) => Ok(known.into_mut()),
            std::collections::hash_map::Entry::Vacant(place) => {
                let policy = resolve_policy(frequency, &self.env.config.policy);
                Ok(place.insert(CompiledTrigger::compile(super::trigger_of(&policy, pipeline))?))
            }
        }
    }
}

fn record(group: &GroupFacts, committed: &Committed, verdict: &Verdict, now: Micros) -> DecisionRecord {
    let group_id = &group.group.group_id;
    // A trigger that is evaluated twice at one commit (a run ended in between) decides anew unless it fired.
    let mut nth = match &group.history.active {
        Some(run) => format!("/{run}"),
        None => group.history.last_origin.map_or(String::new(), |at| format!("/{at}")),
    };
    if let Some(failed) = group.history.failed {
        nth.push_str(&format!("/{}", failed.in_row));
    }
    DecisionRecord {
        decision_id: format!("{:012}/{group_id}/{}{nth}", committed.state.seq, group.pipeline.trigger()),
        group_id: group_id.clone(),
        pipeline: group.pipeline,
        commit_seq: committed.state.seq,
        origin: group.group.origin,
        at: now,
        fired: verdict.fired,
        reason: verdict.reason.clone(),
        clauses: verdict.clauses.clone(),
        facts: group.facts.clone(),
        run_id: None,
    }
}

#[cfg(test)]
mod tests {
    use meterline_connectors::lake::Lake;
    use meterline_schemas::config::{Config, FeedConfig, parse};
    use meterline_schemas::time::{HOUR, SECOND};
    use meterline_schemas::unit::Unit;

    use super::*;
    use crate::ingest::census::Census;
    use crate::ingest::series::SeriesState;
    use crate::ingest::state::{FeedState, IngestState};
    use crate::metadata::MetadataStore;
    use crate::metadata::records::{RunRecord, Status};

    const POLICIES: &str = r#"
        [policy.hourly]
        frequency = "PT1H"
        reforecast = { when = "new_intervals >= 1" }
        retrain = { when = "false" }
    "#;

    /// An evaluator whose runs fail at once: their program is `false`.
    async fn evaluator(policies: &str) -> (tempfile::TempDir, Evaluator) {
        let dir = tempfile::tempdir().unwrap();
        let mut config: Config = parse(policies).unwrap();
        config.feed.insert("meters".into(), FeedConfig::new("readings", "id", "ts", "v"));
        let lake = Lake::open(dir.path().to_str().unwrap()).await.unwrap();
        let metadata = MetadataStore::open(&format!("sqlite:{}/metadata.db", dir.path().display())).await.unwrap();
        let config_path = dir.path().join("meterline.toml");
        let env = Arc::new(Environment { config, config_path, lake, metadata });
        let runner = Runner::with_program(Arc::clone(&env), Some("/bin/false".into()));
        (dir, Evaluator::new(env, runner))
    }

    /// A commit up to which one series of every named frequency is closed.
    fn commit(seq: i64, frequencies: &[Frequency], until: Micros) -> Committed {
        let series: Vec<SeriesState> = frequencies
            .iter()
            .map(|frequency| {
                let mut series = SeriesState::new("meters", &frequency.to_string(), Unit::KWH);
                series.frequency = Some(*frequency);
                series.first_start = Some(0);
                series.last_start = Some(until - frequency.nominal_micros());
                let intervals = until / frequency.nominal_micros();
                series.recent = if intervals < 128 { (1 << intervals) - 1 } else { u128::MAX };
                series
            })
            .collect();
        let feed = FeedState { watermark: Some(until), ..FeedState::default() };
        let feeds = BTreeMap::from([("meters".to_owned(), feed)]);
        let mut config = Config::default();
        config.feed.insert("meters".into(), FeedConfig::new("readings", "id", "ts", "v"));
        let census = Arc::new(Census::of(&config, &series));
        let state = Arc::new(IngestState { seq, feeds, ..IngestState::default() });
        Committed { state, census, intervals_version: seq }
    }

    async fn runs(evaluator: &Evaluator) -> Vec<RunRecord> {
        evaluator.env.metadata.runs(100).await.unwrap()
    }

    async fn ended(evaluator: &Evaluator) {
        for run in runs(evaluator).await {
            evaluator.runner.wait(&run.spec.run_id).await.unwrap();
        }
    }

    fn now() -> Micros {
        jiff::Timestamp::now().as_microsecond()
    }

    #[tokio::test]
    async fn one_cause_starts_one_run_and_a_failed_run_is_repeated_after_its_pause() {
        let (_dir, mut evaluator) = evaluator(POLICIES).await;
        // Hours closed, how far the clock is ahead, and the runs that there are after the commit has been looked at:
        // new data does not shorten the pause after a failure, and none is needed for another attempt.
        for (seq, (hours, ahead, expected)) in
            [(10, 0, 1), (10, 0, 1), (12, 0, 1), (12, 31 * SECOND, 2), (13, 45 * SECOND, 2), (13, 90 * SECOND, 3)]
                .into_iter()
                .enumerate()
        {
            let committed = commit(seq as i64 + 1, &[Frequency::HOUR], hours * HOUR);
            for _ in 0..3 {
                assert!(evaluator.evaluate_if_changed(&committed, now() + ahead).await.unwrap());
                ended(&evaluator).await;
            }
            assert_eq!(runs(&evaluator).await.len(), expected, "at {hours} h");
        }
        let runs = runs(&evaluator).await;
        let origins: Vec<Micros> = runs.iter().map(|r| r.spec.origin / HOUR).collect();
        assert_eq!(origins, [13, 12, 10]);
        assert!(runs.iter().all(|r| r.status == Status::Failed && r.cause == "trigger"));
    }

    #[tokio::test]
    async fn where_the_stream_stands_still_a_failed_run_is_repeated_all_the_same() {
        let (_dir, mut evaluator) = evaluator(POLICIES).await;
        let committed = commit(1, &[Frequency::HOUR], 10 * HOUR);
        for (ahead, expected) in [(0, 1), (0, 1), (31 * SECOND, 2), (45 * SECOND, 2), (90 * SECOND, 3)] {
            assert!(evaluator.evaluate_if_changed(&committed, now() + ahead).await.unwrap());
            ended(&evaluator).await;
            assert!(evaluator.evaluate_if_changed(&committed, now()).await.unwrap());
            assert_eq!(runs(&evaluator).await.len(), expected, "{} later", meterline_schemas::time::Span(ahead));
        }
        let decisions = evaluator.env.metadata.decisions(100).await.unwrap();
        let mut started: Vec<_> = decisions.iter().filter_map(|d| d.run_id.clone()).collect();
        started.sort();
        started.dedup();
        assert_eq!(started.len(), 3, "each run has a decision of its own");
    }

    #[tokio::test]
    async fn a_decision_and_the_run_that_it_started_name_each_other() {
        let (_dir, mut evaluator) = evaluator(POLICIES).await;
        evaluator.evaluate_if_changed(&commit(1, &[Frequency::HOUR], 10 * HOUR), now()).await.unwrap();
        ended(&evaluator).await;
        evaluator.evaluate_if_changed(&commit(2, &[Frequency::HOUR], 11 * HOUR), now()).await.unwrap();
        let metadata = &evaluator.env.metadata;
        let fired = metadata.last_decision("PT1H", Pipeline::Infer, true).await.unwrap().unwrap();
        let run = metadata.group_runs("PT1H", Pipeline::Infer, 1).await.unwrap().remove(0);
        assert_eq!(fired.run_id.as_deref(), Some(run.spec.run_id.as_str()));
        assert_eq!(run.decision_id.as_deref(), Some(fired.decision_id.as_str()));
        assert_eq!((fired.commit_seq, fired.facts.values["new_intervals"].as_i64()), (1, Some(10)));
        let last = metadata.last_decision("PT1H", Pipeline::Infer, false).await.unwrap().unwrap();
        assert!(!last.fired && last.reason.contains("the last run failed"), "{}", last.reason);
    }

    #[tokio::test]
    async fn facts_that_did_not_change_are_recorded_once() {
        let (_dir, mut evaluator) = evaluator(&POLICIES.replace("new_intervals >= 1", "new_intervals >= 99")).await;
        for seq in 1..6 {
            evaluator.evaluate_if_changed(&commit(seq, &[Frequency::HOUR], 10 * HOUR), now()).await.unwrap();
        }
        // One a trigger.
        assert_eq!(evaluator.env.metadata.decisions(100).await.unwrap().len(), 2);
        assert!(runs(&evaluator).await.is_empty());
    }

    #[tokio::test]
    async fn a_trigger_that_cannot_be_evaluated_holds_up_no_other() {
        let broken = "[policy.daily]\nfrequency = \"P1D\"\nretrain = { when = \"1 / (series - series) > 0\" }\n";
        let (_dir, mut evaluator) = evaluator(&format!("{broken}{POLICIES}")).await;
        let committed = commit(1, &[Frequency::Day, Frequency::HOUR], 48 * HOUR);
        assert!(!evaluator.evaluate_if_changed(&committed, now()).await.unwrap(), "it is tried again");
        let groups: Vec<String> = runs(&evaluator).await.into_iter().map(|r| r.spec.group_id).collect();
        assert!(groups.contains(&"PT1H".to_owned()), "{groups:?}");
    }
}
