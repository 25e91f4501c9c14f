//! From a group's summary to the complete specification of a run.

use meterline_schemas::Micros;
use meterline_schemas::config::{CovariateConfig, ResolvedPolicy, resolve_group_policy};
use uuid::Uuid;

use crate::environment::Environment;
use crate::ingest::Committed;
use crate::ingest::groups::GroupSummary;
use crate::metadata::records::{Pipeline, Published, RunSpec};
use crate::pipelines::covariates;

/// Specifies a run of `pipeline` for `group` as of the commit `committed`. With `as_of`, nothing that ends after it
/// is known to the run.
pub fn for_group(
    env: &Environment,
    group: &GroupSummary,
    committed: &Committed,
    pipeline: Pipeline,
    as_of: Option<Micros>,
) -> RunSpec {
    let zone = jiff::tz::TimeZone::get(&group.zone).unwrap_or(jiff::tz::TimeZone::UTC);
    let policy = resolve_group_policy(&group.group_id, group.frequency, &env.config.policy);
    let origin = as_of.map_or(group.origin, |at| group.origin.min(group.frequency.floor(at, &zone)));
    RunSpec {
        origin,
        watermark: as_of.map_or(group.watermark, |at| group.watermark.min(at)),
        intervals_version: committed.intervals_version,
        device: env.config.device.device.clone(),
        ..of_group(group, pipeline, covariates::configured(&env.config, &policy), policy)
    }
}

/// Specifies the correction of forecasts that are in force, as of the commit `committed`: it begins where they do.
pub fn of_correction(env: &Environment, group: &GroupSummary, committed: &Committed, published: Published) -> RunSpec {
    let origin = published.origin;
    // The watermark says how old what it sees is, and that is all that there is by now.
    let spec = for_group(env, group, committed, Pipeline::Correct, None);
    RunSpec { origin, published: Some(published), ..spec }
}

/// A run of `pipeline` for a group as it is, by a policy and the covariates that it names; of no table yet, and on
/// whatever device there is.
pub fn of_group(
    group: &GroupSummary,
    pipeline: Pipeline,
    covariates: Vec<(String, CovariateConfig)>,
    policy: ResolvedPolicy,
) -> RunSpec {
    RunSpec {
        run_id: Uuid::now_v7().to_string(),
        pipeline,
        group_id: group.group_id.clone(),
        frequency: group.frequency,
        zone: group.zone.clone(),
        origin: group.origin,
        closed_intervals: group.closed_intervals,
        corrections: Some(group.corrections),
        published: None,
        watermark: group.watermark,
        intervals_version: 0,
        covariates,
        policy,
        device: "auto".to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::Arc;

    use meterline_connectors::lake::Lake;
    use meterline_schemas::Frequency;
    use meterline_schemas::config::{Config, resolve_policy};

    use super::*;
    use crate::metadata::MetadataStore;
    use crate::metadata::records::RunRecord;

    /// An environment below `directory`.
    pub(crate) async fn environment(directory: &Path) -> Arc<Environment> {
        let lake = Lake::open(&directory.join("lake").to_string_lossy()).await.unwrap();
        let metadata =
            MetadataStore::open(&format!("sqlite:{}", directory.join("metadata.db").display())).await.unwrap();
        let config_path = directory.join("meterline.toml");
        Arc::new(Environment { config: Config::default(), config_path, lake, metadata })
    }

    /// A queued run of `spec`.
    pub(crate) fn queued(spec: RunSpec) -> RunRecord {
        RunRecord::queued(spec, "test", None, 0)
    }

    /// An hourly run with the default policy.
    pub(crate) fn spec(run_id: &str) -> RunSpec {
        RunSpec {
            run_id: run_id.into(),
            pipeline: Pipeline::Infer,
            group_id: "PT1H".into(),
            frequency: Frequency::HOUR,
            zone: "UTC".into(),
            origin: 0,
            closed_intervals: 0,
            corrections: None,
            published: None,
            watermark: 0,
            intervals_version: 0,
            policy: resolve_policy(Frequency::HOUR, &BTreeMap::new()),
            covariates: Vec::new(),
            device: "cpu".into(),
        }
    }
}
