//! Replays a policy over evaluations of the past: which runs it would have started, and what they would have cost. Pure,
//! but for a learner.
//!
//! What does not depend on the policy (what was closed, how complete it was, what came true of the forecasts) is as it
//! was recorded. What does (intervals since the last run, the champion, failures) follows from the runs of the replay. A
//! run that really was started at the same place ends as it did; any other takes as long as such runs did on average,
//! and succeeds.

use std::collections::BTreeMap;

use meterline_schemas::Micros;
use meterline_schemas::config::{CovariateConfig, ResolvedPolicy};
use meterline_schemas::facts::FactValues;
use meterline_schemas::time::SECOND;
use serde_json::{Map, Value};

use super::compiled::CompiledTrigger;
use super::decide::{Moment, decide};
use super::known::Known;
use super::learn::Learner;
use super::predicate::PredicateError;
use super::trigger_of;
use crate::ingest::groups::GroupSummary;
use crate::metadata::records::{
    ApprovalState, ModelRecord, Pipeline, Published, RunRecord, RunSpec, SeenRuns, Standing, Status,
};
use crate::pipelines::StepError;
use crate::pipelines::spec::of_group;

/// Facts that follow from the runs of the replay, and from its policy; all others are as they were recorded.
const REPLAYED: [&str; 11] = [
    "history_intervals",
    "history_needed",
    "new_intervals",
    "new_corrections",
    "hours_since_run",
    "hours_since_build",
    "hours_since_infer",
    "has_champion",
    "champion_is_new",
    "champion_age_intervals",
    "failures_in_row",
];

/// One evaluation of a group's triggers, as it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// By the clock.
    pub at: Micros,
    /// Whether it was the first one since the engine started.
    pub resumed: bool,
    /// The group then.
    pub group: GroupSummary,
    /// Facts as they were recorded, by pipeline.
    pub facts: BTreeMap<Pipeline, FactValues>,
    /// What was seen of runs and models, by pipeline, where that was recorded.
    pub seen: BTreeMap<Pipeline, SeenRuns>,
    /// Intervals of history that the policy's kind of model needs.
    pub history_needed: usize,
    /// Lag above which the stream counted as catching up.
    pub catch_up_records: u64,
}

/// What really happened to a group.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Past {
    /// All its runs.
    pub runs: Vec<RunRecord>,
    /// All its model versions.
    pub models: Vec<ModelRecord>,
}

/// What a run takes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// By the clock, from its start to its end.
    pub lasts: Micros,
    /// Seconds for which it holds the device; `None` where no such run was ever measured.
    pub device_seconds: Option<f64>,
}

/// A run that the policy started in the replay.
#[derive(Debug, Clone, PartialEq)]
pub struct Fired {
    /// Model group.
    pub group_id: String,
    /// What was started.
    pub pipeline: Pipeline,
    /// By the clock.
    pub at: Micros,
    /// Stream time.
    pub origin: Micros,
    /// Why.
    pub reason: String,
    /// Seconds on the device, where they are known.
    pub device_seconds: Option<f64>,
    /// Whether the same run really was started.
    pub happened: bool,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// How old something was, over stream time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Age {
    weighted: f64,
    time: f64,
    most: Micros,
}

impl Age {
    // While the stream went from `from` to `to`, it was of `since`.
    fn add(&mut self, since: Micros, from: Micros, to: Micros) {
        let (young, old) = ((from - since).max(0) as f64, (to - since).max(0) as f64);
        let time = (to - from).max(0) as f64;
        self.weighted += (young + old) / 2.0 * time;
        self.time += time;
        self.most = self.most.max(to - since);
    }

    /// Mean over time; `None` where there was nothing to be old.
    pub fn mean(&self) -> Option<Micros> {
        (self.time > 0.0).then(|| (self.weighted / self.time) as Micros)
    }

    /// The greatest; `None` where there was nothing to be old.
    pub fn most(&self) -> Option<Micros> {
        (self.time > 0.0).then_some(self.most)
    }
}

/// What a policy led to in the replay of one group.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Replay {
    /// The runs that it started, in the order in which they were.
    pub fired: Vec<Fired>,
    /// Age of the newest forecasts.
    pub forecasts: Age,
    /// Age of the champion's training data.
    pub champion: Age,
}

/// A group whose past is replayed.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Its policy.
    pub policy: ResolvedPolicy,
    /// Covariates that the policy names.
    pub covariates: Vec<(String, CovariateConfig)>,
    /// Its evaluations, oldest first.
    pub evaluations: Vec<Evaluation>,
    /// What really happened.
    pub past: Past,
    /// How its triggers stood before the first evaluation, where that is known.
    pub standings: BTreeMap<Pipeline, Standing>,
    /// What a run takes that did not really happen.
    pub typical: BTreeMap<Pipeline, Cost>,
}

/// Replays several groups side by side, as they were evaluated: they share what `max_concurrent` counts.
///
/// # Errors
///
/// [`PredicateError`].
pub fn simulate(subjects: &[Subject]) -> Result<Vec<Replay>, PredicateError> {
    simulate_with(subjects, &mut [], &mut |_| ())
}

/// The same, but with models and forecasts: what runs lead to, and what comes true of it, is found out by a learner for
/// each of the groups. `progress` is told how much is done, 0 to 1.
///
/// # Errors
///
/// [`PredicateError`].
pub fn simulate_with(
    subjects: &[Subject],
    learners: &mut [Learner],
    progress: &mut dyn FnMut(f64),
) -> Result<Vec<Replay>, PredicateError> {
    let mut learners = learners.iter_mut();
    let mut worlds: Vec<World<'_>> = Vec::new();
    for subject in subjects {
        worlds.push(World::begin(subject, learners.next())?);
    }
    let mut order: Vec<(Micros, usize, usize)> = Vec::new();
    for (number, subject) in subjects.iter().enumerate() {
        order.extend(subject.evaluations.iter().enumerate().map(|(index, of)| (of.at, number, index)));
    }
    order.sort_unstable();
    let all = order.len().max(1) as f64;
    for (done, (at, number, index)) in order.into_iter().enumerate() {
        progress(done as f64 / all);
        for (other, world) in worlds.iter_mut().enumerate() {
            world.end_runs(at, (other == number).then(|| &subjects[number].evaluations[index].seen));
        }
        for pipeline in Pipeline::ALL {
            let shared = subjects[number].policy.shared();
            let running = worlds.iter().zip(subjects).filter(|(_, of)| of.policy.shared() == shared);
            let running = running.map(|(world, _)| world.active(pipeline)).sum();
            let fired = worlds[number].evaluate(&subjects[number].evaluations[index], pipeline, running)?;
            // As in the service: what forecasts all series takes corrections in.
            if fired && pipeline == Pipeline::Infer {
                break;
            }
        }
    }
    Ok(worlds.into_iter().map(|world| world.replay).collect())
}

struct World<'a> {
    subject: &'a Subject,
    triggers: BTreeMap<Pipeline, CompiledTrigger>,
    standings: BTreeMap<Pipeline, Standing>,
    // Newest first, as the metadata database gives them.
    runs: BTreeMap<Pipeline, Vec<RunRecord>>,
    models: Vec<ModelRecord>,
    // Runs under way, with what they will be.
    under_way: Vec<RunRecord>,
    // Models that they will have made.
    unseen: Vec<ModelRecord>,
    // Real runs that people asked for and that have not begun yet, the next one last.
    by_hand: Vec<RunRecord>,
    stream: Option<Micros>,
    learner: Option<&'a mut Learner>,
    replay: Replay,
}

impl<'a> World<'a> {
    fn begin(subject: &'a Subject, mut learner: Option<&'a mut Learner>) -> Result<World<'a>, PredicateError> {
        if let Some(learner) = &mut learner {
            learner.begin();
        }
        let begin = subject.evaluations.first().map_or(Micros::MAX, |first| first.at);
        let mut triggers = BTreeMap::new();
        if let Some(first) = subject.evaluations.first() {
            for pipeline in Pipeline::ALL {
                let trigger = trigger_of(&subject.policy, pipeline);
                triggers.insert(pipeline, CompiledTrigger::of(trigger, pipeline, &first.group)?);
            }
        }
        let mut world = World {
            subject,
            triggers,
            standings: subject.standings.clone(),
            runs: BTreeMap::new(),
            models: Vec::new(),
            under_way: Vec::new(),
            unseen: Vec::new(),
            by_hand: Vec::new(),
            stream: None,
            learner,
            replay: Replay::default(),
        };
        let mut runs: Vec<&RunRecord> = subject.past.runs.iter().collect();
        runs.sort_by_key(|run| (run.created_at, run.spec.run_id.as_str()));
        for run in runs {
            if run.created_at < begin {
                world.start(run.clone(), run.created_at);
            } else if run.cause != "trigger" {
                world.by_hand.insert(0, run.clone());
            }
        }
        world.end_runs(begin, None);
        // What was registered before, by runs whose records are gone.
        let earlier = subject.past.models.iter().filter(|model| model.created_at < begin);
        let missing: Vec<_> =
            earlier.filter(|model| !world.models.iter().any(|m| m.version == model.version)).collect();
        world.models.extend(missing.into_iter().cloned());
        world.sort_models();
        Ok(world)
    }

    fn sort_models(&mut self) {
        self.models.sort_by(|a, b| (b.created_at, &b.version).cmp(&(a.created_at, &a.version)));
    }

    fn active(&self, pipeline: Pipeline) -> usize {
        self.under_way.iter().filter(|run| run.spec.pipeline == pipeline).count()
    }

    // Puts a run under way; `run` is what it will be at its end.
    fn start(&mut self, run: RunRecord, at: Micros) {
        let model = self.subject.past.models.iter().find(|model| model.run_id == run.spec.run_id).cloned();
        self.put(run, model, at);
    }

    fn put(&mut self, run: RunRecord, model: Option<ModelRecord>, at: Micros) {
        let active = RunRecord { status: Status::Running, finished_at: None, created_at: at, ..run.clone() };
        self.runs.entry(run.spec.pipeline).or_default().insert(0, active);
        self.under_way.push(run);
        self.unseen.extend(model);
    }

    // `seen` is what the evaluation at this time saw: of what really happened it knows better than the clock, which is looked
    // at before all that is read.
    fn end_runs(&mut self, at: Micros, seen: Option<&BTreeMap<Pipeline, SeenRuns>>) {
        while self.by_hand.last().is_some_and(|run| run.created_at <= at) {
            if let Some(run) = self.by_hand.pop() {
                self.start(run.clone(), run.created_at);
            }
        }
        let happened = |run: &str| self.subject.past.runs.iter().any(|of| of.spec.run_id == run);
        let has_ended = |run: &RunRecord| {
            let id = run.spec.run_id.as_str();
            match seen.and_then(|seen| seen.get(&run.spec.pipeline)).filter(|_| happened(id)) {
                Some(SeenRuns { active: None, .. }) => true,
                Some(SeenRuns { active: Some(active), .. }) if active == id => false,
                _ => run.finished_at.is_some_and(|end| end <= at),
            }
        };
        let is_there = |model: &ModelRecord| {
            let approved = model.approval == ApprovalState::Approved && happened(&model.run_id);
            match seen.filter(|seen| approved && !seen.is_empty()) {
                Some(seen) => {
                    let mut champions = seen.values().filter_map(|of| of.champion.as_ref());
                    champions.any(|champion| *champion >= model.version)
                }
                None => model.created_at <= at,
            }
        };
        let (mut ended, under_way): (Vec<RunRecord>, Vec<RunRecord>) =
            std::mem::take(&mut self.under_way).into_iter().partition(has_ended);
        let (new, unseen): (Vec<ModelRecord>, Vec<ModelRecord>) =
            std::mem::take(&mut self.unseen).into_iter().partition(is_there);
        (self.under_way, self.unseen) = (under_way, unseen);
        ended.sort_by_key(|run| run.finished_at);
        for run in ended {
            let of = self.runs.entry(run.spec.pipeline).or_default();
            if let Some(record) = of.iter_mut().find(|record| record.spec.run_id == run.spec.run_id) {
                *record = run;
            }
        }
        self.models.extend(new);
        self.sort_models();
    }

    fn champion(&self) -> Option<&ModelRecord> {
        self.models.iter().find(|model| model.approval == ApprovalState::Approved)
    }

    fn evaluate(&mut self, of: &Evaluation, pipeline: Pipeline, running: usize) -> Result<bool, PredicateError> {
        let group = &of.group;
        self.grow_old(group.origin);
        let none = Vec::new();
        let champion = self.champion().map(|champion| champion.version.as_str());
        let scores = self.learner.as_ref().map(|learner| learner.scores(&self.subject.policy, champion, group.origin));
        let scores = scores.unwrap_or_default();
        let runs = |pipeline| self.runs.get(&pipeline).unwrap_or(&none).as_slice();
        let Some(trigger) = self.triggers.get(&pipeline) else { return Ok(false) };
        let known = Known {
            group,
            zone: trigger.zone.clone(),
            catch_up_records: of.catch_up_records,
            history_needed: of.history_needed,
            champion: self.champion(),
            scores: &scores,
            builds: runs(Pipeline::Build),
            infers: runs(Pipeline::Infer),
            corrects: runs(Pipeline::Correct),
            models: &self.models,
            now: of.at,
        };
        let mut facts = known.values(&known.shared(), pipeline, false);
        let history = known.history(pipeline);
        for (fact, value) in of.facts.get(&pipeline).into_iter().flat_map(FactValues::iter) {
            if self.learner.is_none() && value.is_some() && !REPLAYED.contains(&fact.name) {
                facts.set(fact.name, value);
            }
        }
        let standing = self.standings.entry(pipeline).or_default();
        let moment = Moment { origin: group.origin, stream: group.watermark, now: of.at, resumed: of.resumed, running };
        let (verdict, after) = decide(trigger, &facts, &history, standing, moment)?;
        *standing = after;
        if verdict.fired {
            let (run, model, happened) = self.run(of, pipeline, verdict.origin, history.published);
            let measured = happened || self.learner.is_some();
            if let Some(standing) = self.standings.get_mut(&pipeline) {
                *standing = standing.clone().with_run(&run.spec.run_id, run.spec.reached());
            }
            let typical = self.subject.typical.get(&pipeline).and_then(|cost| cost.device_seconds);
            self.replay.fired.push(Fired {
                group_id: group.group_id.clone(),
                pipeline,
                at: of.at,
                origin: verdict.origin,
                reason: verdict.reason,
                device_seconds: if measured { Some(run.device_seconds) } else { typical },
                happened,
                error: run.error.clone().filter(|_| run.status == Status::Failed),
            });
            self.put(run, model, of.at);
        }
        Ok(verdict.fired)
    }

    // The run that is started at an evaluation, as it will be at its end.
    fn run(
        &mut self,
        of: &Evaluation,
        pipeline: Pipeline,
        origin: Micros,
        published: Option<Published>,
    ) -> (RunRecord, Option<ModelRecord>, bool) {
        let group = &of.group;
        let taken =
            |run: &RunRecord| self.runs.get(&pipeline).into_iter().flatten().any(|r| r.spec.run_id == run.spec.run_id);
        let real = self.subject.past.runs.iter().filter(|run| {
            let spec = &run.spec;
            spec.pipeline == pipeline
                && spec.reached() == origin
                && run.cause == "trigger"
                && run.created_at >= of.at
                && !taken(run)
        });
        if let Some(run) = real.min_by_key(|run| run.created_at) {
            let model = self.subject.past.models.iter().find(|model| model.run_id == run.spec.run_id);
            return (run.clone(), model.cloned(), true);
        }
        let cost = self.subject.typical.get(&pipeline).copied().unwrap_or_default();
        let number = self.replay.fired.len();
        // Names of runs are in the order in which they were asked for: as those of real ones (UUID v7), it begins with the
        // milliseconds.
        let millis = format!("{:012x}", of.at.max(0) / 1000);
        let (high, low) = millis.split_at(millis.len().min(8));
        let run_id = format!("{high}-{low}-7r{number:06}");
        let ends = of.at.saturating_add(cost.lasts.max(SECOND));
        let (policy, covariates) = (self.subject.policy.clone(), self.subject.covariates.clone());
        let origin = published.as_ref().map_or(origin, |published| published.origin);
        let spec =
            RunSpec { run_id: run_id.clone(), origin, published, ..of_group(group, pipeline, covariates, policy) };
        let serves = self.champion().map(|champion| champion.version.clone());
        let mut run = RunRecord {
            status: Status::Succeeded,
            started_at: Some(of.at),
            finished_at: Some(ends),
            device_seconds: cost.device_seconds.unwrap_or_default(),
            model_version: if pipeline == Pipeline::Build { None } else { serves.clone() },
            ..RunRecord::queued(spec, "trigger", None, of.at)
        };
        if pipeline != Pipeline::Build {
            if let Some(learner) = self.learner.as_mut().filter(|_| pipeline == Pipeline::Infer) {
                match learner.infer(&run.spec, serves.as_deref()) {
                    Ok(seconds) => run.device_seconds = seconds,
                    Err(error) => fail(&mut run, &error, of.at),
                }
            }
            return (run, None, false);
        }
        let mut model = ModelRecord {
            version: run_id.clone(),
            group_id: group.group_id.clone(),
            run_id: run_id.clone(),
            forecaster: self.subject.policy.model.clone(),
            artifact: String::new(),
            covariates: Vec::new(),
            labels: Vec::new(),
            metrics: Map::new(),
            trained_until: origin,
            intervals_version: 0,
            approval: ApprovalState::Approved,
            approval_reason: "replayed".to_owned(),
            created_at: ends,
        };
        let Some(learner) = &mut self.learner else { return (run, Some(model), false) };
        match learner.build(&run.spec, serves.as_deref(), &run_id) {
            Ok(built) => {
                let ends = of.at.saturating_add((built.seconds * SECOND as f64) as Micros).saturating_add(SECOND);
                (run.finished_at, run.device_seconds, model.created_at) = (Some(ends), built.seconds, ends);
                model.metrics = built.figures.into_iter().map(|(name, value)| (name, Value::from(value))).collect();
                model.trained_until = built.trained_until;
                model.approval = if built.accepted { ApprovalState::Approved } else { ApprovalState::Rejected };
                model.approval_reason = built.reason;
                (run, Some(model), false)
            }
            Err(error) => {
                fail(&mut run, &error, of.at);
                (run, None, false)
            }
        }
    }

    fn grow_old(&mut self, to: Micros) {
        if let Some(from) = self.stream.filter(|from| *from < to) {
            let infers = self.runs.get(&Pipeline::Infer).into_iter().flatten();
            let newest = infers.filter(|run| run.status == Status::Succeeded).map(|run| run.spec.origin).max();
            if let Some(origin) = newest {
                self.replay.forecasts.add(origin, from, to);
            }
            if let Some(trained_until) = self.champion().map(|champion| champion.trained_until) {
                self.replay.champion.add(trained_until, from, to);
            }
        }
        self.stream = self.stream.max(Some(to));
    }
}

// A run that never came to the device.
fn fail(run: &mut RunRecord, error: &StepError, at: Micros) {
    (run.status, run.error) = (Status::Failed, Some(error.to_string()));
    (run.device_seconds, run.finished_at) = (0.0, Some(at.saturating_add(SECOND)));
}

#[cfg(test)]
mod tests;
