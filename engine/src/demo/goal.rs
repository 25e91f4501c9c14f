//! What the demo is about: a forecast by a model, and a later one that came true.

use crate::ingest::groups::GroupSummary;
use crate::metadata::records::{Pipeline, RunRecord, Status};
use crate::pipelines::SEASONAL_NAIVE;

/// The two runs that the demo is about.
pub(super) struct Milestones<'a> {
    /// The first forecast by a model.
    pub(super) first: Option<&'a RunRecord>,
    /// The first later one of the same group.
    pub(super) later: Option<&'a RunRecord>,
}

impl Milestones<'_> {
    pub(super) fn of(runs: &[RunRecord]) -> Milestones<'_> {
        let mut by_model: Vec<&RunRecord> = runs.iter().filter(|r| is_by_model(r)).collect();
        by_model.sort_by(|a, b| a.spec.run_id.cmp(&b.spec.run_id));
        let first = by_model.first().copied();
        let later = first.and_then(|first| {
            by_model
                .iter()
                .copied()
                .find(|r| r.spec.group_id == first.spec.group_id && r.spec.origin > first.spec.origin)
        });
        Milestones { first, later }
    }
}

pub(super) fn is_by_model(run: &RunRecord) -> bool {
    let model = run.model_version.as_deref().is_some_and(|version| version != SEASONAL_NAIVE);
    run.spec.pipeline == Pipeline::Infer && run.status == Status::Succeeded && model
}

/// Share of the run's horizon that lies before its group's origin of now.
pub(super) fn share_known(run: &RunRecord, groups: &[GroupSummary]) -> f64 {
    let Some(group) = groups.iter().find(|g| g.group_id == run.spec.group_id) else { return 0.0 };
    let horizon = run.spec.policy.horizon as f64 * run.spec.frequency.nominal_micros() as f64;
    (group.origin - run.spec.origin) as f64 / horizon
}

#[cfg(test)]
mod tests {
    use meterline_schemas::Frequency;
    use meterline_schemas::config::resolve_policy;
    use meterline_schemas::time::HOUR;

    use super::*;
    use crate::metadata::records::RunSpec;

    fn infer(run_id: &str, group: &str, origin_hours: i64, version: Option<&str>) -> RunRecord {
        let spec = RunSpec {
            run_id: run_id.into(),
            pipeline: Pipeline::Infer,
            group_id: group.into(),
            frequency: Frequency::HOUR,
            zone: "UTC".into(),
            origin: origin_hours * HOUR,
            closed_intervals: 0,
            corrections: None,
            published: None,
            watermark: 0,
            intervals_version: 1,
            policy: resolve_policy(Frequency::HOUR, &Default::default()),
            covariates: Vec::new(),
            device: "cpu".into(),
        };
        let model_version = version.map(str::to_owned);
        RunRecord { status: Status::Succeeded, model_version, ..RunRecord::queued(spec, "trigger", None, 0) }
    }

    #[test]
    fn the_goal_is_a_model_forecast_and_a_later_one_of_its_group() {
        let runs = [
            infer("4", "PT1H", 30, Some("PT1H-0001")),
            infer("3", "PT15M", 30, Some("PT15M-0001")),
            infer("2", "PT1H", 24, Some("PT1H-0001")),
            infer("1", "PT1H", 12, Some(SEASONAL_NAIVE)),
        ];
        let found = Milestones::of(&runs);
        assert_eq!(found.first.map(|r| r.spec.run_id.as_str()), Some("2"));
        assert_eq!(found.later.map(|r| r.spec.run_id.as_str()), Some("4"));
        assert!(Milestones::of(&runs[3..]).first.is_none());
    }
}
