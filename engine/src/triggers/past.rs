//! Reads what is replayed: evaluations as they were recorded, or as they would have been at each interval that closed.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use jiff::tz::TimeZone;
use meterline_models::data::Panel;
use meterline_schemas::Micros;
use meterline_schemas::config::{Config, ResolvedPolicy, resolve_group_policy};
use meterline_schemas::facts::{FACTS, FactValues};
use meterline_schemas::time::{MINUTE, format_micros};

use super::facts::{FactsError, history_needed};
use super::known::OF_PIPELINE;
use super::simulate::{Cost, Evaluation, Past, Subject};
use crate::environment::Environment;
use crate::ingest::groups::{GroupSummary, group_id, groups};
use crate::ingest::load_committed;
use crate::metadata::MetadataError;
use crate::metadata::records::{DecisionRecord, Pipeline, RunRecord, SeenRuns, Standing, Status};
use crate::pipelines::{StepError, covariates, history, members};
use crate::sql::{SqlError, TableVersions, query_batches};

/// What a run is taken to last of which none was ever measured.
const LASTS: Micros = MINUTE;
/// Intervals that completeness looks back at.
const CONTEXT: usize = 96;

/// Why the past could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PastError {
    /// The committed state or the metadata database did not answer.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// The metadata database did not answer.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The intervals could not be read.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// The intervals could not be used.
    #[error(transparent)]
    History(#[from] StepError),
}

/// Which part of the past is replayed.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// This model group alone.
    pub group: Option<String>,
    /// Stream time from which on.
    pub from: Option<Micros>,
    /// Stream time up to which.
    pub to: Option<Micros>,
    /// Evaluations at each interval that closed, instead of those that were recorded.
    pub each_interval: bool,
}

impl Range {
    fn holds(&self, origin: Micros) -> bool {
        self.from.is_none_or(|from| origin >= from) && self.to.is_none_or(|to| origin <= to)
    }
}

/// The past of one model group.
#[derive(Debug, Clone)]
pub struct GroupPast {
    /// The group as of the newest commit.
    pub group: GroupSummary,
    /// Its evaluations, oldest first.
    pub evaluations: Vec<Evaluation>,
    /// Whether they are as they were recorded, or made of intervals.
    pub is_recorded: bool,
    /// What really happened.
    pub past: Past,
    /// How its triggers stood before the first evaluation, where that is known.
    pub standings: BTreeMap<Pipeline, Standing>,
    /// What really was started in this time, oldest first.
    pub fired: Vec<DecisionRecord>,
    /// What runs took, by pipeline.
    pub typical: BTreeMap<Pipeline, Cost>,
}

impl GroupPast {
    /// The group's policy by a configuration.
    pub fn policy(&self, config: &Config) -> ResolvedPolicy {
        resolve_group_policy(&self.group.group_id, self.group.frequency, &config.policy)
    }

    /// This past under the policies of a configuration.
    pub fn under(&self, config: &Config) -> Subject {
        let policy = self.policy(config);
        let needed = history_needed(config, &self.group);
        let evaluations = self.evaluations.iter().cloned();
        Subject {
            covariates: covariates::configured(config, &policy),
            evaluations: evaluations.map(|of| Evaluation { history_needed: needed, ..of }).collect(),
            past: self.past.clone(),
            standings: self.standings.clone(),
            typical: self.typical.clone(),
            policy,
        }
    }
}

/// The past of each model group that there is.
///
/// # Errors
///
/// [`PastError`].
pub async fn read(env: &Environment, range: &Range) -> Result<Vec<GroupPast>, PastError> {
    let Some(committed) = load_committed(&env.lake, &env.config, env.directory()).await.map_err(FactsError::from)?
    else {
        return Ok(Vec::new());
    };
    let all = groups(&committed.state, &committed.census, &env.config);
    let models = env.metadata.models().await?;
    let mut runs = Vec::new();
    for group in &all {
        for pipeline in Pipeline::ALL {
            runs.extend(env.metadata.group_runs(&group.group_id, pipeline, i64::MAX).await?);
        }
    }
    let mut pasts = Vec::new();
    for group in all {
        if range.group.as_ref().is_some_and(|wanted| *wanted != group.group_id) {
            continue;
        }
        let id = &group.group_id;
        let mut decisions = env.metadata.decisions_between(id, Micros::MIN, Micros::MAX).await?;
        let mut recorded = recorded(&decisions, env.config.ingest.catch_up_records);
        recorded.retain(|evaluation| range.holds(evaluation.group.origin));
        decisions.retain(|decision| decision.observed.as_ref().is_some_and(|group| range.holds(group.origin)));
        let is_recorded = !range.each_interval && !recorded.is_empty();
        let evaluations = match is_recorded {
            true => recorded,
            false => rebuilt(env, &group, range, &recorded).await?,
        };
        let of = |run: &&RunRecord| run.spec.group_id == *id;
        let past = match is_recorded {
            true => Past {
                runs: runs.iter().filter(of).cloned().collect(),
                models: models.iter().filter(|model| model.group_id == *id).cloned().collect(),
            },
            // Their clock is the stream, and what really happened went by another.
            false => Past::default(),
        };
        let standings = if is_recorded { before(&decisions) } else { BTreeMap::new() };
        decisions.retain(|decision| decision.fired);
        // As they are evaluated.
        decisions.sort_by_key(|decision| (decision.at, decision.pipeline));
        pasts.push(GroupPast {
            typical: typical(&runs, id),
            fired: decisions,
            evaluations,
            is_recorded,
            standings,
            past,
            group,
        });
    }
    Ok(pasts)
}

/// The model groups that there are.
///
/// # Errors
///
/// [`PastError`].
pub async fn group_ids(env: &Environment) -> Result<Vec<String>, PastError> {
    let committed = load_committed(&env.lake, &env.config, env.directory()).await.map_err(FactsError::from)?;
    let all = committed.map(|committed| groups(&committed.state, &committed.census, &env.config)).unwrap_or_default();
    Ok(all.into_iter().map(|group| group.group_id).collect())
}

/// What runs of a group took on average; of a pipeline of which it had none, those of all groups.
pub(super) fn typical(runs: &[RunRecord], group_id: &str) -> BTreeMap<Pipeline, Cost> {
    let measured = |run: &&RunRecord| run.status == Status::Succeeded;
    let cost = |pipeline: Pipeline| {
        let all: Vec<_> = runs.iter().filter(|run| run.spec.pipeline == pipeline).filter(measured).collect();
        let own: Vec<_> = all.iter().filter(|run| run.spec.group_id == group_id).copied().collect();
        let of = if own.is_empty() { all } else { own };
        if of.is_empty() {
            return Cost { lasts: LASTS, device_seconds: None };
        }
        let lasts: Micros = of.iter().map(|run| run.finished_at.unwrap_or(run.created_at) - run.created_at).sum();
        let seconds: f64 = of.iter().map(|run| run.device_seconds).sum();
        Cost { lasts: lasts / of.len() as i64, device_seconds: Some(seconds / of.len() as f64) }
    };
    Pipeline::ALL.into_iter().map(|pipeline| (pipeline, cost(pipeline))).collect()
}

// How each trigger stood before the first of these decisions about it.
fn before(decisions: &[DecisionRecord]) -> BTreeMap<Pipeline, Standing> {
    let mut first: BTreeMap<Pipeline, &DecisionRecord> = BTreeMap::new();
    for decision in decisions {
        first.entry(decision.pipeline).or_insert(decision);
    }
    first.into_iter().filter_map(|(pipeline, decision)| Some((pipeline, decision.before.clone()?))).collect()
}

// What was recorded at one time by the clock is one evaluation, of all pipelines. A decision that was like the one before
// was not recorded: its facts still hold.
fn recorded(decisions: &[DecisionRecord], catch_up_records: u64) -> Vec<Evaluation> {
    let mut evaluations: Vec<Evaluation> = Vec::new();
    let mut facts: BTreeMap<Pipeline, FactValues> = BTreeMap::new();
    let mut seen: BTreeMap<Pipeline, SeenRuns> = BTreeMap::new();
    for decision in decisions {
        let Some(group) = &decision.observed else { continue };
        facts.insert(decision.pipeline, decision.facts.values.clone());
        seen.extend(decision.seen.clone().map(|of| (decision.pipeline, of)));
        // A trigger whose own facts were as before was not recorded, and the others may have been others.
        for of in facts.values_mut() {
            let shared = decision.facts.values.iter().filter(|(fact, _)| !OF_PIPELINE.contains(&fact.name));
            shared.for_each(|(fact, value)| of.set(fact.name, value));
        }
        // Where all series are forecast anew, corrections are not looked at.
        if decision.fired && decision.pipeline == Pipeline::Infer {
            seen.remove(&Pipeline::Correct);
        }
        match evaluations.last_mut().filter(|last| last.at == decision.at) {
            Some(last) => {
                last.facts.clone_from(&facts);
                last.seen.clone_from(&seen);
                last.resumed |= decision.resumed;
            }
            None => evaluations.push(Evaluation {
                at: decision.at,
                resumed: decision.resumed,
                group: group.clone(),
                facts: facts.clone(),
                seen: seen.clone(),
                history_needed: 0,
                catch_up_records,
            }),
        }
    }
    evaluations
}

/// An evaluation at each interval that closed, as if each had been read in its time. What came true of forecasts is taken
/// from what was recorded, where something was.
async fn rebuilt(
    env: &Environment,
    group: &GroupSummary,
    range: &Range,
    recorded: &[Evaluation],
) -> Result<Vec<Evaluation>, PastError> {
    let others = history::other_feeds(&env.config, group.frequency, &group.group_id);
    let members = members::of_group(env, &group.group_id, group.frequency, group.origin).await?;
    let of_label = members.condition();
    let sql = format!(
        "SELECT \"end\", count(*) FROM intervals WHERE frequency = '{}' AND \"end\" <= '{}'{} AND {of_label} \
         GROUP BY \"end\" ORDER BY \"end\"",
        group.frequency,
        format_micros(group.origin),
        history::but(&others)
    );
    let mut counts: Vec<(Micros, i64)> = Vec::new();
    for batch in query_batches(env, &sql, TableVersions::default()).await? {
        let (Some(ends), Some(of)) = (
            batch.column(0).as_primitive_opt::<TimestampMicrosecondType>(),
            batch.column(1).as_primitive_opt::<Int64Type>(),
        ) else {
            continue;
        };
        counts.extend(
            (0..batch.num_rows()).filter(|row| ends.is_valid(*row)).map(|row| (ends.value(row), of.value(row))),
        );
    }
    Ok(at_each(group, &counts, range, recorded, env.config.ingest.catch_up_records))
}

/// An evaluation at each interval of a panel that closed from `from` to `to`, as if it had been read in its time: for a
/// past that is not in a lake.
pub fn evaluations_of(panel: &Panel, from: Micros, to: Micros) -> Vec<Evaluation> {
    let mut counts: BTreeMap<Micros, i64> = BTreeMap::new();
    for series in &panel.series {
        let mut end = series.start;
        for value in &series.values {
            end = panel.frequency.advance(end, 1, &panel.zone);
            *counts.entry(end).or_default() += i64::from(value.is_finite());
        }
    }
    let zone = panel.zone.iana_name().unwrap_or("UTC").to_owned();
    let group = GroupSummary {
        group_id: group_id(panel.frequency, &zone),
        frequency: panel.frequency,
        zone,
        series: panel.series.len(),
        first_start: panel.series.iter().map(|series| series.start).min().unwrap_or(0),
        origin: to,
        watermark: to,
        history_intervals: 0,
        completeness: None,
        closed_intervals: 0,
        lag_records: 0,
        corrections: 0,
        newest_record: None,
    };
    let range = Range { from: Some(from), to: Some(to), ..Range::default() };
    at_each(&group, &counts.into_iter().collect::<Vec<_>>(), &range, &[], 0)
}

/// The evaluations at each end of an interval, of which `counts` says how many series have it.
fn at_each(
    group: &GroupSummary,
    counts: &[(Micros, i64)],
    range: &Range,
    recorded: &[Evaluation],
    catch_up_records: u64,
) -> Vec<Evaluation> {
    let zone = TimeZone::get(&group.zone).unwrap_or(TimeZone::UTC);
    let mut closed = 0;
    let mut evaluations: Vec<Evaluation> = Vec::new();
    for (index, (end, count)) in counts.iter().enumerate() {
        closed += count;
        let history_intervals = group.frequency.steps_between(group.first_start, *end, &zone);
        if !range.holds(*end) || history_intervals < 1 {
            continue;
        }
        let recent = counts.get(index.saturating_sub(CONTEXT - 1)..=index).unwrap_or_default();
        let from = group.frequency.advance(*end, -(CONTEXT as i64), &zone);
        let recent: Vec<i64> = recent.iter().filter(|(end, _)| *end > from).map(|(_, count)| *count).collect();
        let series = recent.iter().copied().max().unwrap_or(0);
        let expected = series * history_intervals.min(CONTEXT as i64);
        let completeness = (expected > 0).then(|| recent.iter().sum::<i64>() as f64 / expected as f64);
        let known = recorded.partition_point(|evaluation| evaluation.group.origin <= *end);
        let facts = known.checked_sub(1).and_then(|known| recorded.get(known)).map(|of| of.facts.clone());
        let mut facts: BTreeMap<Pipeline, FactValues> = facts.unwrap_or_default();
        for of in facts.values_mut() {
            for fact in FACTS.iter().filter(|fact| !SCORED.contains(&fact.name)) {
                of.set(fact.name, None);
            }
        }
        evaluations.push(Evaluation {
            at: *end,
            resumed: evaluations.is_empty(),
            group: GroupSummary {
                series: usize::try_from(series).unwrap_or(0),
                origin: *end,
                watermark: *end,
                history_intervals,
                completeness: completeness.map(|share| share.min(1.0)),
                closed_intervals: closed,
                lag_records: 0,
                corrections: 0,
                newest_record: Some(*end),
                ..group.clone()
            },
            facts,
            seen: BTreeMap::new(),
            history_needed: 0,
            catch_up_records,
        });
    }
    evaluations
}

/// Facts that come from forecasts that really were made.
const SCORED: [&str; 8] = [
    "mase_ratio",
    "coverage",
    "coverage_near",
    "coverage_far",
    "input_shift",
    "substituted_share",
    "retrain_gain",
    "retrain_gain_per_device_second",
];

#[cfg(test)]
pub(super) mod tests {
    use meterline_schemas::facts::FactValue;
    use meterline_schemas::time::HOUR;
    use serde_json::json;

    use super::super::facts::tests::hourly;
    use super::*;

    /// Evaluations at each hour from the first to the last, of three meters that lack nothing.
    pub(in crate::triggers) fn each_hour(first: i64, last: i64) -> Vec<Evaluation> {
        let group = GroupSummary { first_start: 0, ..hourly(last) };
        let counts: Vec<(Micros, i64)> = (1..=last).map(|hour| (hour * HOUR, 3)).collect();
        at_each(&group, &counts, &Range { from: Some(first * HOUR), ..Range::default() }, &[], 1)
    }

    #[test]
    fn each_interval_is_an_evaluation_with_what_was_there_then() {
        let group = GroupSummary { first_start: 0, ..hourly(200) };
        // Three meters, of which one is missing at hour 50, and all from 100 to 109.
        let counts: Vec<(Micros, i64)> = (1..=200)
            .filter(|hour| !(100..110).contains(hour))
            .map(|hour| (hour * HOUR, if hour == 50 { 2 } else { 3 }))
            .collect();
        let facts = serde_json::from_value(json!({"mase_ratio": 1.5, "new_intervals": 7})).unwrap();
        let recorded = [Evaluation {
            at: 0,
            resumed: true,
            group: hourly(150),
            facts: BTreeMap::from([(Pipeline::Build, facts)]),
            seen: BTreeMap::new(),
            history_needed: 0,
            catch_up_records: 1,
        }];
        let range = Range { from: Some(40 * HOUR), to: Some(180 * HOUR), ..Range::default() };
        let found = at_each(&group, &counts, &range, &recorded, 1);
        assert_eq!((found[0].group.origin, found.last().unwrap().group.origin), (40 * HOUR, 180 * HOUR));
        assert_eq!(found.len(), 141 - 10);
        let at = |hour: i64| found.iter().find(|of| of.at == hour * HOUR).unwrap();
        assert_eq!((at(49).group.completeness, at(49).group.closed_intervals), (Some(1.0), 147));
        assert_eq!(at(60).group.completeness, Some(179.0 / 180.0));
        assert_eq!(at(110).group.completeness, Some((3.0 * 86.0 - 1.0) / (3.0 * 96.0)));
        assert_eq!((at(49).group.series, at(149).facts.len()), (3, 0));
        let scored = &at(150).facts[&Pipeline::Build];
        let ratio = FactValue::Number(1.5);
        assert_eq!((scored.get("mase_ratio"), scored.get("new_intervals")), (Some(ratio), None));
    }

    #[test]
    fn decisions_of_one_time_are_one_evaluation() {
        let decision = |at: Micros, pipeline: Pipeline, new: i64| DecisionRecord {
            decision_id: format!("{at}/{}", pipeline.as_str()),
            group_id: "PT1H".into(),
            pipeline,
            commit_seq: at,
            origin: at,
            at,
            fired: false,
            reason: String::new(),
            clauses: Vec::new(),
            facts: meterline_schemas::facts::Facts {
                group_id: "PT1H".into(),
                pipeline: pipeline.trigger().into(),
                values: serde_json::from_value(json!({"new_intervals": new})).unwrap(),
            },
            run_id: None,
            resumed: at == 1,
            observed: Some(hourly(at)),
            seen: None,
            before: Some(Standing { looked_at: Some(at - 1), ..Standing::default() }),
        };
        let more = |mut decision: DecisionRecord| {
            decision.facts.values.set("completeness", Some(FactValue::Number(0.5)));
            decision
        };
        let decisions = [
            decision(1, Pipeline::Build, 10),
            decision(1, Pipeline::Infer, 20),
            // The other one was as before, but for what both have in common.
            more(decision(2, Pipeline::Infer, 21)),
        ];
        let stood = |from: usize| -> Vec<(Pipeline, Option<Micros>)> {
            before(&decisions[from..]).into_iter().map(|(pipeline, of)| (pipeline, of.looked_at)).collect()
        };
        assert_eq!(stood(0), [(Pipeline::Build, Some(0)), (Pipeline::Infer, Some(0))]);
        assert_eq!(stood(2), [(Pipeline::Infer, Some(1))]);
        // A decision of an earlier release did not keep it, and that of a later one is another.
        let earlier =
            [DecisionRecord { before: None, ..decision(1, Pipeline::Infer, 9) }, decision(2, Pipeline::Infer, 9)];
        assert_eq!(before(&earlier), BTreeMap::new());
        let found = recorded(&decisions, 1);
        let shown: Vec<_> = found.iter().map(|of| (of.at, of.resumed, of.facts.len())).collect();
        assert_eq!(shown, [(1, true, 2), (2, false, 2)]);
        let fact = |at: usize, pipeline, name| found[at].facts[&pipeline].get(name);
        assert_eq!(fact(1, Pipeline::Build, "new_intervals"), Some(FactValue::Integer(10)));
        assert_eq!(fact(1, Pipeline::Infer, "new_intervals"), Some(FactValue::Integer(21)));
        assert_eq!(fact(1, Pipeline::Build, "completeness"), Some(FactValue::Number(0.5)));
        assert_eq!(fact(0, Pipeline::Build, "completeness"), None);
    }
}
