//! Watches commits and runs, and starts what the policies ask for.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meterline_schemas::Micros;
use meterline_schemas::config::{Config, resolve_group_policy};
use meterline_schemas::facts::{FACTS, FactValue, FactValues, Facts};
use tokio::sync::watch;
use xxhash_rust::xxh3::Xxh3Default;

use super::compiled::CompiledTrigger;
use super::decide::{Moment, Verdict, decide};
use super::facts::{FactSource, FactsError, GroupFacts, device_busy};
use super::now::running;
use super::predicate::PredicateError;
use super::recorder::Recorder;
use super::remembered::Present;
use crate::environment::Environment;
use crate::ingest::Committed;
use crate::ingest::groups::GroupSummary;
use crate::metadata::MetadataError;
use crate::metadata::records::{DecisionRecord, Pipeline, RunRecord, SeenRuns, Standing};
use crate::metadata::standings::TriggerKey;
use crate::pipelines::runner::Runner;
use crate::pipelines::{RunError, spec};

/// How often ended runs are looked for between commits.
const TICK: Duration = Duration::from_secs(1);
/// Longest pause after a failure of the lake or the metadata database.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Recorded decisions of one trigger after which its old ones are forgotten.
const DECISIONS_PER_TRIM: u64 = 1000;

/// Facts that change all the time, and decide nothing by themselves.
const CHANGING: [&str; 2] = ["lag_records", "silent_hours"];

/// Why an evaluation did not come to its end; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// Facts could not be assembled.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// The metadata database did not answer.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A predicate could not be evaluated.
    #[error(transparent)]
    Predicate(#[from] PredicateError),
    /// A run could not be started.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Evaluates every policy after each commit and after each run, until `stop` turns true or the stream is gone.
pub async fn run(
    env: Arc<Environment>,
    mut commits: watch::Receiver<Option<Arc<Committed>>>,
    mut config: watch::Receiver<Arc<Config>>,
    runner: Runner,
    mut stop: watch::Receiver<bool>,
) {
    let (mut evaluator, mut scored) = Evaluator::in_background(env, runner);
    let mut pause = TICK;
    loop {
        tokio::select! {
            changed = stop.changed() => if changed.is_err() || *stop.borrow() { break },
            changed = commits.changed() => if changed.is_err() { break },
            // What came true of forecasts is another fact.
            Ok(()) = scored.changed() => evaluator.seen = None,
            // Who tells of another configuration may end before us, which is no reason to.
            Ok(()) = config.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
        if *stop.borrow() {
            break;
        }
        let found = Arc::clone(&config.borrow_and_update());
        if *found != evaluator.env.config {
            evaluator.reload(&found);
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
    evaluator.finish().await;
}

/// Evaluates triggers, and remembers what it saw.
pub struct Evaluator {
    env: Arc<Environment>,
    runner: Runner,
    facts: FactSource,
    compiled: HashMap<TriggerKey, Compiled>,
    recorded: HashMap<TriggerKey, Recorded>,
    // How each trigger stands; `None` until the first evaluation.
    standings: Option<HashMap<TriggerKey, Standing>>,
    // Of those, what the metadata database does not know yet.
    unkept: Vec<(TriggerKey, Standing)>,
    // Decisions that started nothing, and that the metadata database does not know yet.
    unrecorded: Vec<DecisionRecord>,
    // Who writes them; without it they are written before the next evaluation.
    recorder: Option<Recorder>,
    // Triggers that were evaluated since the start of the engine.
    evaluated: HashSet<TriggerKey>,
    // What there was at the last evaluation that came to its end.
    seen: Option<Seen>,
    // When the next pause after a failed run ends, by the clock.
    retry_at: Option<Micros>,
}

/// A trigger, and the policy that it is of.
struct Compiled {
    shared: String,
    trigger: CompiledTrigger,
    counts: [bool; FACTS.len()],
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
    last: Option<Telling>,
    decisions: u64,
}

/// What tells one decision from another: its facts, and what kept the run from starting. The same facts may find another
/// run under way.
#[derive(PartialEq)]
struct Telling {
    // A number for them: to keep them would be to copy them each time.
    facts: u64,
    active: Option<String>,
    blockers: Vec<&'static str>,
    // The next tick of the schedule: one that has passed is passed for what becomes due later.
    tick: Option<Micros>,
}

impl Evaluator {
    /// An evaluator that starts what it decides on by `runner`, and reads all facts before it decides.
    pub fn new(env: Arc<Environment>, runner: Runner) -> Evaluator {
        Evaluator {
            env,
            runner,
            facts: FactSource::default(),
            compiled: HashMap::new(),
            recorded: HashMap::new(),
            standings: None,
            unkept: Vec::new(),
            unrecorded: Vec::new(),
            recorder: None,
            evaluated: HashSet::new(),
            seen: None,
            retry_at: None,
        }
    }

    /// An evaluator that waits neither for what came true of forecasts, where it goes by what was known last, and the channel
    /// tells when more is; nor until decisions that start nothing are written.
    pub fn in_background(env: Arc<Environment>, runner: Runner) -> (Evaluator, watch::Receiver<u64>) {
        let (facts, news) = FactSource::in_background();
        let recorder = Some(Recorder::new(env.metadata.clone()));
        (Evaluator { facts, recorder, ..Evaluator::new(env, runner) }, news)
    }

    /// Ends once all decisions are written.
    async fn finish(self) {
        if let Some(recorder) = self.recorder {
            recorder.finish().await;
        }
    }

    /// Goes by another configuration from now on.
    fn reload(&mut self, config: &Config) {
        let env = Environment { config: config.clone(), ..Environment::clone(&self.env) };
        self.env = Arc::new(env);
        self.runner.reload(Arc::clone(&self.env));
        self.compiled.clear();
        self.facts.reload();
        self.seen = None;
    }

    /// Evaluates all triggers if a commit, a run's beginning or end, another champion, or the end of a pause after a
    /// failure calls for it; says whether all could be. `now` is what the clock says.
    ///
    /// # Errors
    ///
    /// [`EvaluateError`]: the metadata database does not answer; it is to be tried again.
    pub async fn evaluate_if_changed(&mut self, committed: &Committed, now: Micros) -> Result<bool, EvaluateError> {
        let present = Present::read(&self.env.metadata).await?;
        let seen = Seen {
            commit: committed.state.seq,
            active_runs: present.active.iter().map(|run| run.spec.run_id.clone()).collect(),
            champions: present.champions.clone(),
        };
        if self.seen.as_ref() == Some(&seen) && self.retry_at.is_none_or(|at| now < at) {
            return Ok(true);
        }
        if self.standings.is_none() {
            self.standings = Some(self.env.metadata.standings().await?.into_iter().collect());
        }
        self.retry_at = None;
        let began = Instant::now();
        let (mut fired, mut failed) = (false, false);
        // The group that all series of are being forecast anew since a moment ago: corrections are taken in by that.
        let mut reforecast: Option<String> = None;
        let groups = self.facts.assemble(&self.env, committed, &present, now).await?;
        let mut active = present.active;
        let (triggers, assembled) = (groups.len(), began.elapsed());
        for mut group in groups {
            // Runs that were started a moment ago have their slots, too.
            let busy = device_busy(&self.env.config, &active, group.pipeline);
            group.facts.values.set("device_busy", Some(FactValue::Truth(busy)));
            if let Some(at) = group.history.failed.as_ref().map(|f| f.retry_at()).filter(|at| *at > now) {
                self.retry_at = Some(self.retry_at.map_or(at, |sooner| sooner.min(at)));
            }
            if group.pipeline == Pipeline::Correct && reforecast.as_ref() == Some(&group.group.group_id) {
                continue;
            }
            let (id, pipeline) = (group.group.group_id.clone(), group.pipeline);
            match self.evaluate(group, committed, &active, now).await {
                Ok(Evaluated { run, standing }) => {
                    fired |= run.is_some();
                    if run.is_some() && pipeline == Pipeline::Infer {
                        reforecast = Some(id.clone());
                    }
                    active.extend(run);
                    self.unkept.extend(standing.map(|standing| ((id, pipeline), standing)));
                }
                // What is wrong with one trigger must not hold up the others.
                Err(error) => {
                    tracing::error!(
                        group = %id,
                        trigger = pipeline.trigger(),
                        %error,
                        "the trigger could not be evaluated and is tried again; the others go on"
                    );
                    failed = true;
                }
            }
        }
        let decided = began.elapsed();
        match &self.recorder {
            Some(recorder) => recorder.record(std::mem::take(&mut self.unrecorded)).await,
            None => {
                self.env.metadata.record_decisions(&self.unrecorded).await?;
                self.unrecorded.clear();
            }
        }
        self.env.metadata.keep_standings(&self.unkept).await?;
        self.unkept.clear();
        self.facts.go_on();
        tracing::debug!(
            triggers,
            commit = committed.state.seq,
            facts_ms = assembled.as_millis(),
            decisions_ms = (decided - assembled).as_millis(),
            records_ms = (began.elapsed() - decided).as_millis(),
            "triggers were evaluated"
        );
        // A run that started just now may end before anybody looks: look again in any case.
        self.seen = (!fired && !failed).then_some(seen);
        Ok(!failed)
    }

    /// Evaluates one trigger.
    async fn evaluate(
        &mut self,
        group: GroupFacts,
        committed: &Committed,
        active: &[RunRecord],
        now: Micros,
    ) -> Result<Evaluated, EvaluateError> {
        let summary = &group.group;
        let key = (summary.group_id.clone(), group.pipeline);
        let before = self.standings.as_ref().and_then(|all| all.get(&key)).cloned().unwrap_or_default();
        let resumed = !self.evaluated.contains(&key);
        let (verdict, mut standing, tick) = {
            let compiled = self.compiled(&group)?;
            let running = running(active, group.pipeline, &compiled.shared);
            let moment = Moment { origin: summary.origin, stream: summary.watermark, now, resumed, running };
            let (verdict, standing) = decide(&compiled.trigger, &group.facts.values, &group.history, &before, moment)?;
            let tick = compiled.trigger.next_tick(standing.seen);
            (verdict, standing, tick)
        };
        if verdict.fired {
            // What is due is known before its run is: whoever goes on after a crash finds both.
            self.env.metadata.keep_standings(&[(key.clone(), standing.clone())]).await?;
        }
        let run = self.act(group, committed, verdict, &before, tick, now).await?;
        if let Some(run) = &run {
            standing = standing.with_run(&run.spec.run_id, run.spec.reached());
        }
        self.evaluated.insert(key.clone());
        let changed = standing != before;
        if changed && let Some(all) = &mut self.standings {
            all.insert(key, standing.clone());
        }
        Ok(Evaluated { run, standing: changed.then_some(standing) })
    }

    /// Records what was decided, if that is anything new, and starts the run.
    async fn act(
        &mut self,
        mut group: GroupFacts,
        committed: &Committed,
        mut verdict: Verdict,
        before: &Standing,
        tick: Option<Micros>,
        now: Micros,
    ) -> Result<Option<RunRecord>, EvaluateError> {
        let key = (group.group.group_id.clone(), group.pipeline);
        let counts = self.compiled.get(&key).map_or(&[true; FACTS.len()], |compiled| &compiled.counts);
        let telling = Telling {
            facts: number(&group.facts.values, counts),
            active: group.history.active.clone(),
            blockers: verdict.blockers.iter().map(|blocker| blocker.kind).collect(),
            tick,
        };
        if !verdict.fired && self.recorded.get(&key).is_some_and(|r| r.last.as_ref() == Some(&telling)) {
            return Ok(None);
        }
        let resumed = !self.evaluated.contains(&key);
        let values = verdict.facts.take().unwrap_or_else(|| std::mem::take(&mut group.facts.values));
        let mut decision = record(&group, committed, verdict, values, before, now, resumed);
        let summary = &group.group;
        let mut started = None;
        if decision.fired {
            // Before the run: it names its decision.
            self.env.metadata.record_decision(&decision).await?;
            let as_of = Some(decision.origin).filter(|origin| *origin < summary.origin);
            let spec = match (group.pipeline, &group.history.published) {
                (Pipeline::Correct, Some(published)) => {
                    spec::of_correction(&self.env, summary, committed, published.clone())
                }
                _ => spec::for_group(&self.env, summary, committed, group.pipeline, as_of),
            };
            tracing::info!(
                group = %summary.group_id,
                trigger = group.pipeline.trigger(),
                run = %spec.run_id,
                why = %decision.reason,
                "trigger fired"
            );
            let run = self.runner.start(spec, "trigger", Some(&decision.decision_id)).await?;
            decision.run_id = Some(run.spec.run_id.clone());
            // The run is there: what is said of it must not undo that.
            if let Err(error) = self.env.metadata.record_decision(&decision).await {
                tracing::warn!(run = %run.spec.run_id, %error, "the decision does not name its run; the run names it");
            }
            started = Some(run);
        } else {
            // Together with the others: with a thousand groups, a transaction each would take seconds.
            self.unrecorded.push(decision);
        }
        let recorded = self.recorded.entry(key).or_default();
        recorded.last = Some(telling);
        // The first one trims as well: an engine that is restarted often must forget, too.
        let trim = recorded.decisions.is_multiple_of(DECISIONS_PER_TRIM);
        recorded.decisions += 1;
        if trim && let Err(error) = self.env.metadata.trim_decisions(&summary.group_id, group.pipeline).await {
            tracing::warn!(group = %summary.group_id, %error, "old decisions could not be forgotten; they are later");
        }
        Ok(started)
    }

    fn compiled(&mut self, group: &GroupFacts) -> Result<&Compiled, PredicateError> {
        let summary = &group.group;
        match self.compiled.entry((summary.group_id.clone(), group.pipeline)) {
            std::collections::hash_map::Entry::Occupied(known) => Ok(known.into_mut()),
            std::collections::hash_map::Entry::Vacant(place) => {
                let policy = resolve_group_policy(&summary.group_id, summary.frequency, &self.env.config.policy);
                let trigger = super::trigger_of(&policy, group.pipeline);
                let trigger = CompiledTrigger::of(trigger, group.pipeline, summary)?;
                let counts = counts(&trigger, group.pipeline);
                Ok(place.insert(Compiled { shared: policy.shared().to_owned(), trigger, counts }))
            }
        }
    }
}

/// What an evaluation led to.
struct Evaluated {
    run: Option<RunRecord>,
    // Set if it is another one than before.
    standing: Option<Standing>,
}

/// A number that tells facts from others, of those that count.
fn number(facts: &FactValues, counts: &[bool; FACTS.len()]) -> u64 {
    let mut hasher = Xxh3Default::new();
    for ((_, value), _) in facts.iter().zip(counts).filter(|(_, counts)| **counts) {
        let value = match value {
            None => (0u8, 0),
            Some(FactValue::Integer(whole)) => (1, whole as u64),
            Some(FactValue::Number(number)) => (2, number.to_bits()),
            Some(FactValue::Truth(truth)) => (3, u64::from(truth)),
        };
        value.hash(&mut hasher);
    }
    hasher.finish()
}

/// Which facts tell one evaluation of a trigger from another. Little is ever corrected: what the predicates of that do not
/// look at is told with the other triggers.
fn counts(trigger: &CompiledTrigger, pipeline: Pipeline) -> [bool; FACTS.len()] {
    let mut counts = [false; FACTS.len()];
    for (fact, counts) in FACTS.iter().zip(&mut counts) {
        let looked_at = pipeline != Pipeline::Correct || trigger.looks_at(fact.name);
        *counts = looked_at && !CHANGING.contains(&fact.name);
    }
    counts
}

fn record(
    group: &GroupFacts,
    committed: &Committed,
    verdict: Verdict,
    values: FactValues,
    before: &Standing,
    now: Micros,
    resumed: bool,
) -> DecisionRecord {
    let group_id = &group.group.group_id;
    // A trigger that is evaluated twice at one commit (a run ended in between) decides anew. Runs, not their origins, tell
    // the two apart: there may be several of one origin.
    let history = &group.history;
    let run = history.active.as_ref().or(history.last_done.as_ref());
    let mut nth = run.map_or_else(String::new, |run| format!("/{run}"));
    if let Some(failed) = &history.failed {
        nth.push_str(&format!("/{}", failed.in_row));
    }
    // What starts nothing may be looked at again at the same commit, because a run of another group has ended.
    if !verdict.fired {
        nth.push_str(&format!("/{now}"));
    }
    DecisionRecord {
        decision_id: format!("{:012}/{group_id}/{}{nth}", committed.state.seq, group.pipeline.trigger()),
        group_id: group_id.clone(),
        pipeline: group.pipeline,
        commit_seq: committed.state.seq,
        origin: verdict.origin,
        at: now,
        fired: verdict.fired,
        reason: verdict.reason,
        clauses: verdict.clauses,
        facts: Facts { values, group_id: group_id.clone(), pipeline: group.facts.pipeline.clone() },
        run_id: None,
        resumed,
        observed: Some(GroupSummary::clone(&group.group)),
        seen: Some(SeenRuns { active: history.active.clone(), champion: group.champion.clone() }),
        before: Some(before.clone()),
    }
}

#[cfg(test)]
mod tests;
