//! The values of a trigger's facts, and what earlier runs mean for its next one. Pure.

use jiff::tz::TimeZone;
use meterline_schemas::Micros;
use meterline_schemas::facts::{FactValue, FactValues};
use meterline_schemas::time::HOUR;
use serde_json::Value;

use super::decide::{Failed, RunHistory};
use super::scores::Scores;
use crate::ingest::groups::GroupSummary;
use crate::metadata::records::{ApprovalState, ModelRecord, Pipeline, Published, RunRecord, RunSpec, Status};
use crate::pipelines::SEASONAL_NAIVE;

/// Builds that the retrain ledger looks back at.
const LEDGER: usize = 5;

/// Facts that each pipeline has a value of its own of; the others are the same for all of a group.
pub(super) const OF_PIPELINE: [&str; 5] =
    ["new_intervals", "new_corrections", "hours_since_run", "device_busy", "failures_in_row"];

/// What is known of one model group when its triggers are evaluated.
pub(super) struct Known<'a> {
    pub(super) group: &'a GroupSummary,
    /// Zone of its calendar.
    pub(super) zone: TimeZone,
    /// Lag in records above which the stream counts as catching up.
    pub(super) catch_up_records: u64,
    pub(super) history_needed: usize,
    pub(super) champion: Option<&'a ModelRecord>,
    pub(super) scores: &'a Scores,
    /// Builds, infer runs and corrections, newest first.
    pub(super) builds: &'a [RunRecord],
    pub(super) infers: &'a [RunRecord],
    pub(super) corrects: &'a [RunRecord],
    /// The group's newest model versions, newest first.
    pub(super) models: &'a [ModelRecord],
    /// The clock.
    pub(super) now: Micros,
}

/// What the runs that were started last gained.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ledger {
    gain: f64,
    gain_per_device_second: Option<f64>,
}

impl Known<'_> {
    /// The values of [`meterline_schemas::facts::FACTS`] that all pipelines have in common; those of [`OF_PIPELINE`] are
    /// missing.
    pub(super) fn shared(&self) -> FactValues {
        let Known { group, champion, scores, .. } = self;
        let registered_mase = champion.and_then(|c| c.metrics.get("mase")).and_then(Value::as_f64).filter(|m| *m > 0.0);
        let ledger = self.ledger();
        let hours = |pipeline| number(self.last(pipeline).map(|spec| self.hours_since(spec)));
        let silent = group.newest_record.map(|at| (self.now - at).max(0) as f64 / HOUR as f64);
        FactValues::of([
            ("series", count(group.series)),
            ("history_intervals", whole(group.history_intervals)),
            ("history_needed", count(self.history_needed)),
            ("new_intervals", None),
            ("new_corrections", None),
            ("hours_since_run", None),
            ("hours_since_build", hours(Pipeline::Build)),
            ("hours_since_infer", hours(Pipeline::Infer)),
            ("has_champion", truth(champion.is_some())),
            ("champion_is_new", truth(self.champion_is_new())),
            ("champion_age_intervals", champion.and_then(|c| whole(self.steps_since(c.trained_until)))),
            ("completeness", number(group.completeness)),
            ("mase_ratio", number(scores.mase.zip(registered_mase).map(|(live, then)| live / then))),
            ("coverage", number(scores.coverage)),
            ("coverage_near", number(scores.coverage_near)),
            ("coverage_far", number(scores.coverage_far)),
            ("substituted_share", number(scores.substituted_share)),
            ("input_shift", number(scores.input_shift)),
            ("lag_records", whole(group.lag_records)),
            ("backfilling", truth(group.lag_records > i64::try_from(self.catch_up_records).unwrap_or(i64::MAX))),
            ("silent_hours", number(silent)),
            ("device_busy", None),
            ("failures_in_row", None),
            ("retrain_gain", number(ledger.map(|ledger| ledger.gain))),
            ("retrain_gain_per_device_second", number(ledger.and_then(|ledger| ledger.gain_per_device_second))),
        ])
    }

    /// All values, for a pipeline; what is missing is none. `shared` are those of [`Known::shared`], and `device_busy` says
    /// whether all its slots are taken.
    pub(super) fn values(&self, shared: &FactValues, pipeline: Pipeline, device_busy: bool) -> FactValues {
        let (group, last) = (self.group, self.last(pipeline));
        // What came late for the origin of the last run is no new interval of the group, but it is news.
        let new = last.map(|spec| self.steps_since(spec.reached()).max(stragglers(group, spec).min(1)));
        let mut values = shared.clone();
        values.set("new_intervals", whole(new.unwrap_or(group.history_intervals)));
        values.set("new_corrections", last.and_then(|spec| new_corrections(group, spec)).and_then(whole));
        values.set("hours_since_run", number(last.map(|spec| self.hours_since(spec))));
        values.set("device_busy", truth(device_busy));
        values.set("failures_in_row", whole(failures_in_row(self.runs(pipeline)).into()));
        values
    }

    // Native intervals from an instant to the group's origin.
    fn steps_since(&self, from: Micros) -> i64 {
        self.group.frequency.steps_between(from, self.group.origin, &self.zone)
    }

    fn hours_since(&self, spec: &RunSpec) -> f64 {
        (self.group.origin - spec.reached()) as f64 / HOUR as f64
    }

    /// What earlier runs of a pipeline mean for its next one.
    pub(super) fn history(&self, pipeline: Pipeline) -> RunHistory {
        let champion_is_new = self.champion_is_new() && pipeline == Pipeline::Infer;
        let published = if pipeline == Pipeline::Correct { self.published() } else { None };
        RunHistory { champion_is_new, published, ..history(self.runs(pipeline), self.group) }
    }

    // Runs that were cancelled have published nothing.
    fn published(&self) -> Option<Published> {
        let succeeded = |run: &&RunRecord| run.status == Status::Succeeded;
        // One for an earlier time, asked for by hand, is in force nowhere.
        let whole = self.infers.iter().filter(|run| run.spec.origin <= self.group.origin).filter(succeeded);
        let whole = whole.max_by_key(|run| (run.spec.origin, &run.spec.run_id))?;
        let later = |run: &&RunRecord| {
            let of = run.spec.published.as_ref();
            of.is_some_and(|of| of.origin == whole.spec.origin) && run.spec.run_id > whole.spec.run_id
        };
        let corrections: Vec<&RunRecord> = self.corrects.iter().filter(later).collect();
        let done: Vec<&RunRecord> = corrections.iter().copied().filter(succeeded).collect();
        let newest = done.first().copied().unwrap_or(whole);
        Some(Published {
            of_all: whole.spec.run_id.clone(),
            run_id: newest.spec.run_id.clone(),
            origin: whole.spec.origin,
            reached: self.group.origin,
            intervals_version: newest.spec.intervals_version,
            corrections: corrections.len(),
            corrected_by: done.iter().map(|run| run.spec.run_id.clone()).collect(),
        })
    }

    fn champion_is_new(&self) -> bool {
        let newest = self.infers.iter().find(|run| run.status == Status::Succeeded);
        let serves = self.champion.map_or(SEASONAL_NAIVE, |champion| champion.version.as_str());
        newest.is_some_and(|forecast| forecast.model_version.as_deref().unwrap_or(SEASONAL_NAIVE) != serves)
    }

    // Those that see what the pipeline's next run would, newest first: a run of all series takes corrections in, too.
    fn runs(&self, pipeline: Pipeline) -> NewestFirst<'_> {
        match pipeline {
            Pipeline::Build => NewestFirst(self.builds, &[]),
            Pipeline::Infer => NewestFirst(self.infers, &[]),
            Pipeline::Correct => NewestFirst(self.infers, self.corrects),
        }
    }

    // A failed run leaves its cause open: it does not count. A run for an earlier time, asked for by hand, does not undo
    // what a later one has seen.
    fn last(&self, pipeline: Pipeline) -> Option<&RunSpec> {
        let group = self.group;
        self.runs(pipeline)
            .filter(|r| !matches!(r.status, Status::Failed | Status::Cancelled) && r.spec.reached() <= group.origin)
            .max_by_key(|r| (r.spec.reached(), r.spec.closed_intervals, r.spec.corrections))
            .map(|r| &r.spec)
    }

    // By how much, relatively, the models of the last builds were better than the champion of their time, on the windows
    // of their evaluation. A model that was rejected gained nothing, and took its time all the same.
    fn ledger(&self) -> Option<Ledger> {
        let entries = self.models.iter().filter_map(|model| {
            let figure = |name: &str| model.metrics.get(name).and_then(Value::as_f64);
            let before = figure("champion_wql").or_else(|| figure("naive_wql")).filter(|wql| *wql > 0.0)?;
            let gain = (before - figure("wql")?) / before;
            let gain = if model.approval == ApprovalState::Rejected { 0.0 } else { gain };
            let run = self.builds.iter().find(|run| run.spec.run_id == model.run_id)?;
            Some((gain, run.device_seconds))
        });
        let entries: Vec<(f64, f64)> = entries.take(LEDGER).collect();
        if entries.is_empty() {
            return None;
        }
        let (gained, seconds) = entries.iter().fold((0.0, 0.0), |(g, s), (gain, device)| (g + gain, s + device));
        let gain_per_device_second = (seconds > 0.0).then(|| gained / seconds);
        Some(Ledger { gain: gained / entries.len() as f64, gain_per_device_second })
    }
}

fn failures_in_row<'r>(runs: impl Iterator<Item = &'r RunRecord>) -> u32 {
    runs.filter(|r| matches!(r.status, Status::Succeeded | Status::Failed))
        .take_while(|r| r.status == Status::Failed)
        .count() as u32
}

/// Intervals that ended by the origin of a run but came after it was asked for; 0 where the group has moved on.
fn stragglers(group: &GroupSummary, spec: &RunSpec) -> i64 {
    if spec.reached() == group.origin { (group.closed_intervals - spec.closed_intervals).max(0) } else { 0 }
}

fn history(runs: NewestFirst<'_>, group: &GroupSummary) -> RunHistory {
    let active = runs.clone().find(|r| matches!(r.status, Status::Queued | Status::Running));
    // A cancelled run has had its chance with its data, too: it starts again when there is more.
    let done = || runs.clone().filter(|r| matches!(r.status, Status::Succeeded | Status::Cancelled));
    let newest = runs.clone().find(|r| !matches!(r.status, Status::Queued | Status::Running));
    RunHistory {
        active: active.map(|r| r.spec.run_id.clone()),
        queued: active.is_some_and(|r| r.status == Status::Queued),
        last_origin: done().map(|r| r.spec.reached()).filter(|at| *at <= group.origin).max(),
        champion_is_new: false,
        last_done: done().map(|r| r.spec.run_id.as_str()).max().map(str::to_owned),
        stragglers: done()
            .filter(|r| r.spec.reached() == group.origin)
            .map(|r| stragglers(group, &r.spec) + new_corrections(group, &r.spec).unwrap_or(0))
            .min()
            .unwrap_or(0),
        published: None,
        failed: newest.filter(|r| r.status == Status::Failed).map(|r| Failed {
            run_id: r.spec.run_id.clone(),
            in_row: failures_in_row(runs.clone()),
            at: r.finished_at.unwrap_or(r.created_at),
        }),
    }
}

fn whole(whole: i64) -> Option<FactValue> {
    Some(FactValue::Integer(whole))
}

fn count(count: usize) -> Option<FactValue> {
    whole(i64::try_from(count).unwrap_or(i64::MAX))
}

fn number(number: Option<f64>) -> Option<FactValue> {
    number.and_then(FactValue::number)
}

fn truth(truth: bool) -> Option<FactValue> {
    Some(FactValue::Truth(truth))
}

/// The runs of two lists, each newest first, as one. Their names are in the order in which they were asked for.
#[derive(Debug, Clone)]
struct NewestFirst<'r>(&'r [RunRecord], &'r [RunRecord]);

impl<'r> Iterator for NewestFirst<'r> {
    type Item = &'r RunRecord;

    fn next(&mut self) -> Option<&'r RunRecord> {
        let NewestFirst(these, those) = self;
        let from = match (these.first(), those.first()) {
            (Some(one), Some(other)) if other.spec.run_id > one.spec.run_id => those,
            (None, _) => those,
            _ => these,
        };
        let (first, rest) = from.split_first()?;
        *from = rest;
        Some(first)
    }
}

/// Corrections since a run was asked for; `None` where that did not note how many there were. Where there are less than
/// then, because a series has left the group with its own, nobody knows how many are new: one, so that somebody looks.
fn new_corrections(group: &GroupSummary, spec: &RunSpec) -> Option<i64> {
    spec.corrections.map(|then| if group.corrections < then { 1 } else { group.corrections - then })
}

#[cfg(test)]
mod tests {
    use meterline_schemas::Frequency;
    use meterline_schemas::time::DAY;
    use serde_json::json;

    use super::super::facts::tests::{champion, group, hourly, run};
    use super::*;

    fn known<'a>(group: &'a GroupSummary, scores: &'a Scores, infers: &'a [RunRecord]) -> Known<'a> {
        Known {
            group,
            zone: TimeZone::get(&group.zone).unwrap(),
            catch_up_records: 100,
            history_needed: 500,
            champion: None,
            scores,
            builds: &[],
            infers,
            corrects: &[],
            models: &[],
            now: group.origin,
        }
    }

    /// The facts as they are written.
    fn shown(known: &Known<'_>, pipeline: Pipeline) -> Value {
        serde_json::to_value(known.values(&known.shared(), pipeline, false)).unwrap()
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
            let scores = Scores::default();
            let facts = shown(&known(&now, &scores, &runs), Pipeline::Infer);
            assert_eq!(
                (&facts["new_intervals"], &facts["failures_in_row"]),
                (&json!(new), &json!(failures)),
                "{runs:?}"
            );
            let found = history(NewestFirst(&runs, &[]), &now);
            assert_eq!(found.active.is_some(), active, "{runs:?}");
            assert_eq!(
                (found.last_origin, found.failed.is_some()),
                (last_origin.map(|h| h * HOUR), last_failed),
                "{runs:?}"
            );
        }
    }

    #[test]
    fn what_is_not_known_is_null() {
        let now = hourly(100);
        let scores = Scores::default();
        let facts = shown(&known(&now, &scores, &[]), Pipeline::Infer);
        for name in [
            "hours_since_run",
            "hours_since_build",
            "hours_since_infer",
            "new_corrections",
            "champion_age_intervals",
            "mase_ratio",
            "coverage",
            "coverage_near",
            "coverage_far",
            "substituted_share",
            "input_shift",
            "silent_hours",
            "retrain_gain",
            "retrain_gain_per_device_second",
        ] {
            assert_eq!(facts[name], Value::Null, "{name}");
        }
        assert_eq!((&facts["has_champion"], &facts["backfilling"]), (&json!(false), &json!(false)));
        let scores = Scores { mase: Some(1.2), coverage: Some(0.7), substituted_share: Some(0.0), ..Scores::default() };
        for (registered, ratio) in
            [(json!(0.8), json!(1.2 / 0.8)), (json!(0.0), Value::Null), (Value::Null, Value::Null)]
        {
            let champion = champion(76 * HOUR, registered);
            let known = Known { champion: Some(&champion), catch_up_records: 10, ..known(&now, &scores, &[]) };
            let facts = shown(&known, Pipeline::Build);
            assert_eq!(facts["mase_ratio"], ratio);
            assert_eq!((&facts["champion_age_intervals"], &facts["backfilling"]), (&json!(24), &json!(true)));
        }
    }

    #[test]
    fn a_month_is_counted_in_the_calendar_of_the_group() {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_microsecond();
        // In Lisbon March begins at midnight UTC and ends, an hour early, in March UTC.
        let now = group(Frequency::Month, "Europe/Lisbon", 0, at("2024-03-31T23:00:00Z"));
        let last = run("r", &now, at("2024-03-01T00:00:00Z"), Status::Succeeded);
        let (scores, runs) = (Scores::default(), [last]);
        let facts = shown(&known(&now, &scores, &runs), Pipeline::Infer);
        assert_eq!(facts["new_intervals"], json!(1));
        assert_eq!(facts["hours_since_run"].as_f64().unwrap(), (31 * DAY - HOUR) as f64 / HOUR as f64);
    }

    #[test]
    fn corrections_count_from_the_last_run_and_make_the_same_origin_new() {
        let then = hourly(100);
        let now = GroupSummary { corrections: 9, ..then.clone() };
        let mut last = run("r", &then, then.origin, Status::Succeeded);
        for (noted, new, stragglers) in
            [(Some(4), json!(5), 5), (Some(9), json!(0), 0), (Some(10), json!(1), 1), (None, Value::Null, 0)]
        {
            last.spec.corrections = noted;
            let (scores, runs) = (Scores::default(), [last.clone()]);
            let known = known(&now, &scores, &runs);
            assert_eq!(shown(&known, Pipeline::Infer)["new_corrections"], new);
            assert_eq!(known.history(Pipeline::Infer).stragglers, stragglers);
        }
    }

    #[test]
    fn what_is_corrected_is_the_last_forecast_of_all_series_as_it_is_by_now() {
        let now = GroupSummary { corrections: 7, ..hourly(102) };
        let scores = Scores::default();
        let infer = |id: &str, origin: i64, corrections: i64, status| {
            let mut run = run(id, &now, origin * HOUR, status);
            (run.spec.corrections, run.spec.intervals_version) = (Some(corrections), origin);
            run
        };
        let correct = |id: &str, of: &RunRecord, corrections: i64, status| {
            let mut run = infer(id, of.spec.origin / HOUR, corrections, status);
            run.spec.pipeline = Pipeline::Correct;
            run.spec.intervals_version = 100 + corrections;
            run.spec.published = Some(Published {
                of_all: of.spec.run_id.clone(),
                run_id: of.spec.run_id.clone(),
                origin: of.spec.origin,
                reached: 101 * HOUR,
                intervals_version: 0,
                corrections: 0,
                corrected_by: Vec::new(),
            });
            run
        };
        let (earlier, whole) = (infer("r1", 96, 1, Status::Succeeded), infer("r3", 100, 2, Status::Succeeded));
        let by_hand = infer("r35", 50, 2, Status::Succeeded);
        let infers = [infer("r4", 101, 2, Status::Failed), by_hand, whole.clone(), earlier.clone()];
        let corrects = [
            correct("r6", &whole, 5, Status::Failed),
            correct("r5", &whole, 4, Status::Succeeded),
            correct("r2", &earlier, 2, Status::Succeeded),
        ];
        let known = Known { corrects: &corrects, ..known(&now, &scores, &infers) };
        let history = known.history(Pipeline::Correct);
        assert_eq!(
            history.published,
            Some(Published {
                of_all: "r3".into(),
                run_id: "r5".into(),
                origin: 100 * HOUR,
                reached: 102 * HOUR,
                intervals_version: 104,
                corrections: 2,
                corrected_by: vec!["r5".into()],
            })
        );
        // Failures count, and what a correction has seen is no news, also where the group has moved on.
        assert_eq!((history.last_done.as_deref(), history.last_origin), (Some("r5"), Some(101 * HOUR)));
        assert_eq!(history.failed.map(|failed| failed.in_row), Some(1));
        let news = |pipeline| shown(&known, pipeline)["new_corrections"].clone();
        assert_eq!((news(Pipeline::Correct), news(Pipeline::Infer)), (json!(3), json!(5)));
        assert_eq!(known.history(Pipeline::Infer).published, None);
    }

    #[test]
    fn every_fact_has_its_value_of_its_kind_where_all_is_known() {
        let group = GroupSummary { newest_record: Some(99 * HOUR), ..hourly(100) };
        let mut last = run("r1", &group, 90 * HOUR, Status::Succeeded);
        last.spec.corrections = Some(0);
        let score = Some(0.5);
        let scores = Scores {
            mase: score,
            coverage: score,
            coverage_near: score,
            coverage_far: score,
            substituted_share: score,
            input_shift: score,
        };
        let mut champion = champion(76 * HOUR, json!(0.8));
        champion.metrics.extend([("wql".to_owned(), json!(0.9)), ("champion_wql".to_owned(), json!(1.0))]);
        champion.run_id = last.spec.run_id.clone();
        let runs = [RunRecord { device_seconds: 10.0, ..last }];
        let known = Known {
            champion: Some(&champion),
            builds: &runs,
            models: std::slice::from_ref(&champion),
            ..known(&group, &scores, &runs)
        };
        let shared = known.shared();
        let missing = |values: &FactValues| -> Vec<&str> {
            values.iter().filter(|(_, value)| value.is_none()).map(|(fact, _)| fact.name).collect()
        };
        assert_eq!(missing(&shared), OF_PIPELINE);
        for pipeline in Pipeline::ALL {
            let values = known.values(&shared, pipeline, false);
            assert!(missing(&values).is_empty(), "{:?}", missing(&values));
            // What is read goes by the kinds that are declared.
            let written = serde_json::to_string(&values).unwrap();
            assert_eq!(serde_json::from_str::<FactValues>(&written).unwrap(), values);
        }
    }

    #[test]
    fn the_ledger_says_what_the_last_builds_gained_and_took() {
        let (now, scores) = (hourly(100), Scores::default());
        let mut builds = Vec::new();
        let mut models = Vec::new();
        // (wql, champion's, approved, device seconds), newest first; the sixth is too old.
        for (index, (wql, before, approved, seconds)) in [
            (0.9, Some(1.0), true, 10.0),
            (1.2, Some(1.0), false, 20.0),
            (1.01, Some(1.0), true, 10.0),
            (0.8, Some(1.0), true, 30.0),
            (0.5, None, true, 30.0),
            (0.1, Some(1.0), true, 1.0),
        ]
        .into_iter()
        .enumerate()
        {
            let run_id = format!("b{index}");
            builds.push(RunRecord { device_seconds: seconds, ..run(&run_id, &now, now.origin, Status::Succeeded) });
            let metrics = json!({"wql": wql, "champion_wql": before, "naive_wql": 1.0}).as_object().unwrap().clone();
            let approval = if approved { ApprovalState::Approved } else { ApprovalState::Rejected };
            models.push(ModelRecord { run_id, metrics, approval, ..champion(0, json!(1.0)) });
        }
        let known = Known { builds: &builds, models: &models, ..known(&now, &scores, &[]) };
        let ledger = known.ledger().unwrap();
        // 0.1 + 0 - 0.01 + 0.2 + 0.5, in 100 s.
        assert!((ledger.gain - 0.79 / 5.0).abs() < 1e-9);
        assert!((ledger.gain_per_device_second.unwrap() - 0.0079).abs() < 1e-9);
    }
}
