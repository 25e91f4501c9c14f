//! Assembles the trigger facts of every model group from the committed state, the metadata database and the scores.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use arrow::datatypes::Schema;
use jiff::tz::TimeZone;
use meterline_schemas::Micros;
use meterline_schemas::config::{Config, resolve_group_policy};
use meterline_schemas::facts::{Facts, fact_schema};
use tokio::sync::watch;

use super::decide::RunHistory;
use super::known::Known;
use super::predicate::row;
use super::remembered::{OfGroup, Present, Remembered};
use super::scores::{self, Changed, Forecasts, ScoreSource, Scores};
use crate::environment::Environment;
use crate::ingest::groups::{GroupSummary, groups};
use crate::ingest::{Committed, IngestError, load_committed};
use crate::metadata::MetadataError;
use crate::metadata::records::{Pipeline, RunRecord, Status};
use crate::pipelines::runner::INFER_SLOTS;
use crate::pipelines::{covariates, history};

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
    pub group: Arc<GroupSummary>,
    /// The pipeline that they are about.
    pub pipeline: Pipeline,
    /// The facts.
    pub facts: Facts,
    /// What earlier runs mean for the next one.
    pub history: RunHistory,
    /// The version that serves the group.
    pub champion: Option<String>,
}

/// Assembles facts.
#[derive(Debug, Default)]
pub struct FactSource {
    scores: ScoreSource,
    remembered: Remembered,
    // By group, as long as the configuration stays.
    policies: HashMap<String, OfPolicy>,
}

/// What facts take from the policy of a group.
#[derive(Debug, Clone)]
struct OfPolicy {
    zone: TimeZone,
    horizon: usize,
    history_needed: usize,
}

impl OfPolicy {
    fn of(config: &Config, group: &GroupSummary) -> OfPolicy {
        let policy = resolve_group_policy(&group.group_id, group.frequency, &config.policy);
        let zone = TimeZone::get(&group.zone).unwrap_or(TimeZone::UTC);
        OfPolicy { zone, horizon: policy.horizon, history_needed: history_needed(config, group) }
    }
}

impl FactSource {
    /// A source that does not wait for what came true of forecasts: it takes what was known last, and tells by the channel
    /// when more is.
    pub fn in_background() -> (FactSource, watch::Receiver<u64>) {
        let (scores, news) = ScoreSource::in_background();
        (FactSource { scores, ..FactSource::default() }, news)
    }

    /// Goes by another configuration from now on.
    pub fn reload(&mut self) {
        self.policies.clear();
    }

    /// Lets what facts wait for be read, where that is done in the background.
    pub fn go_on(&self) {
        self.scores.go_on();
    }

    /// The facts of every group and pipeline as of a commit, ordered by group, and within one as triggers are evaluated.
    /// `now` is what the clock says.
    ///
    /// # Errors
    ///
    /// [`FactsError`].
    pub async fn assemble(
        &mut self,
        env: &Arc<Environment>,
        committed: &Committed,
        present: &Present,
        now: Micros,
    ) -> Result<Vec<GroupFacts>, FactsError> {
        self.remembered.refresh(&env.metadata, present).await?;
        let changes = scores::changes(&committed.state);
        let mut all = Vec::new();
        for group in groups(&committed.state, &committed.census, &env.config).into_iter().map(Arc::new) {
            let id = &group.group_id;
            let of_policy = match self.policies.get(id) {
                Some(known) => known,
                None => self.policies.entry(id.clone()).or_insert(OfPolicy::of(&env.config, &group)),
            };
            let OfGroup { builds, infers, corrects, models, champion } = self.remembered.of(&env.metadata, id).await?;
            let last_forecast = infers.iter().find(|r| r.status == Status::Succeeded);
            let scores = match last_forecast {
                Some(run) => {
                    let done = corrects.iter().filter(|run| run.status == Status::Succeeded);
                    let corrections: Vec<String> = done.map(|run| run.spec.run_id.clone()).collect();
                    let forecasts = Forecasts { last: &run.spec.run_id, corrections: &corrections };
                    let changed = Changed { changes, horizon: of_policy.horizon };
                    self.scores.of(env, committed, &group, champion.as_ref(), forecasts, changed).await
                }
                None => Scores::default(),
            };
            let known = Known {
                group: &group,
                zone: of_policy.zone.clone(),
                catch_up_records: env.config.ingest.catch_up_records,
                history_needed: of_policy.history_needed,
                champion: champion.as_ref(),
                scores: &scores,
                builds,
                infers,
                corrects,
                models,
                now,
            };
            let shared = known.shared();
            for pipeline in Pipeline::ALL {
                let busy = device_busy(&env.config, &present.active, pipeline);
                let values = known.values(&shared, pipeline, busy);
                let facts = Facts { group_id: id.clone(), pipeline: pipeline.trigger().into(), values };
                let champion = champion.as_ref().map(|champion| champion.version.clone());
                let history = known.history(pipeline);
                all.push(GroupFacts { group: Arc::clone(&group), pipeline, facts, history, champion });
            }
        }
        Ok(all)
    }
}

/// Whether runs under way take all slots of a pipeline.
pub(super) fn device_busy(config: &Config, active: &[RunRecord], pipeline: Pipeline) -> bool {
    let builds = |of: Pipeline| of == Pipeline::Build;
    let taken = active.iter().filter(|run| builds(run.spec.pipeline) == builds(pipeline)).count();
    taken >= if builds(pipeline) { config.device.slots.max(1) } else { INFER_SLOTS }
}

/// Native intervals of history that a build of the group needs.
pub(super) fn history_needed(config: &Config, group: &GroupSummary) -> usize {
    let policy = resolve_group_policy(&group.group_id, group.frequency, &config.policy);
    let zone = TimeZone::get(&group.zone).unwrap_or(TimeZone::UTC);
    history::needed(&policy, &zone, covariates::of(&covariates::configured(config, &policy)))
}

/// The SQL table `trigger_facts`: one row per model group and trigger, as of the newest commit.
///
/// # Errors
///
/// [`FactsError`].
pub async fn facts_table(env: &Environment) -> Result<RecordBatch, FactsError> {
    let (all, seq) = match load_committed(&env.lake, &env.config, env.directory()).await? {
        Some(committed) => {
            let present = Present::read(&env.metadata).await?;
            let now = jiff::Timestamp::now().as_microsecond();
            let env = Arc::new(env.clone());
            (FactSource::default().assemble(&env, &committed, &present, now).await?, committed.state.seq)
        }
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
    let facts: Result<Vec<_>, _> = rows().map(|f| row(&schema, &|name| f.facts.values.get(name))).collect();
    let facts = concat_batches(&schema, &facts?)?;
    let fields: Vec<_> = identity.schema().fields().iter().chain(schema.fields()).cloned().collect();
    let columns = identity.columns().iter().chain(facts.columns()).cloned().collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn instants(values: impl Iterator<Item = Micros>) -> ArrayRef {
    Arc::new(values.map(Some).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

#[cfg(test)]
pub(super) mod tests {
    use meterline_schemas::Frequency;
    use meterline_schemas::config::resolve_policy;
    use meterline_schemas::time::HOUR;
    use serde_json::{Map, Value};

    use super::*;
    use crate::metadata::records::{ApprovalState, ModelRecord, RunSpec};

    pub(in crate::triggers) fn group(
        frequency: Frequency,
        zone: &str,
        first_start: Micros,
        origin: Micros,
    ) -> GroupSummary {
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
            corrections: 0,
            newest_record: None,
        }
    }

    pub(in crate::triggers) fn hourly(origin_h: i64) -> GroupSummary {
        group(Frequency::HOUR, "UTC", 0, origin_h * HOUR)
    }

    pub(in crate::triggers) fn run(id: &str, of: &GroupSummary, origin: Micros, status: Status) -> RunRecord {
        let spec = RunSpec {
            run_id: id.into(),
            pipeline: Pipeline::Infer,
            group_id: of.group_id.clone(),
            frequency: of.frequency,
            zone: of.zone.clone(),
            origin,
            closed_intervals: 0,
            corrections: None,
            published: None,
            watermark: origin,
            intervals_version: 1,
            policy: resolve_policy(of.frequency, &Default::default()),
            covariates: Vec::new(),
            device: "cpu".into(),
        };
        RunRecord { status, ..RunRecord::queued(spec, "trigger", None, 0) }
    }

    pub(in crate::triggers) fn champion(trained_until: Micros, mase: Value) -> ModelRecord {
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
}
