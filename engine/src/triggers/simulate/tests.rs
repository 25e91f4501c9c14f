use meterline_schemas::Frequency;
use meterline_schemas::config::{parse, resolve_policy};
use meterline_schemas::time::{HOUR, MINUTE};
use serde_json::json;

use super::*;
use crate::triggers::facts::tests::hourly;

/// A policy for hours, of which `toml` are the tables of triggers.
fn policy(toml: &str) -> ResolvedPolicy {
    let text = format!("[policy.a]\nfrequency = \"PT1H\"\n{toml}\n");
    resolve_policy(Frequency::HOUR, &parse(&text).unwrap().policy)
}

const DAILY: &str = "[policy.a.retrain]\nwhen = \"new_intervals >= 24 or mase_ratio > 1.25\"\nrequire = \"\"\ncooldown = \"0s\"\n\
                     [policy.a.reforecast]\nwhen = \"new_intervals >= 6 or champion_is_new\"\nrequire = \"\"";

/// An evaluation at each hour from the first to the last, when the stream gets there.
fn hours(first: i64, last: i64, facts: impl Fn(i64) -> Value) -> Vec<Evaluation> {
    (first..=last)
        .map(|hour| Evaluation {
            at: hour * HOUR,
            resumed: hour == first,
            group: GroupSummary { closed_intervals: hour * 3, ..hourly(hour) },
            seen: BTreeMap::new(),
            facts: Pipeline::ALL.into_iter().map(|p| (p, serde_json::from_value(facts(hour)).unwrap())).collect(),
            history_needed: 10,
            catch_up_records: 100,
        })
        .collect()
}

fn subject(toml: &str, evaluations: Vec<Evaluation>) -> Subject {
    let cost = |lasts, seconds| Cost { lasts, device_seconds: Some(seconds) };
    Subject {
        policy: policy(toml),
        covariates: Vec::new(),
        evaluations,
        past: Past::default(),
        standings: BTreeMap::new(),
        typical: BTreeMap::from([(Pipeline::Build, cost(30 * MINUTE, 100.0)), (Pipeline::Infer, cost(MINUTE, 2.0))]),
    }
}

fn starts(replay: &Replay, pipeline: Pipeline) -> Vec<i64> {
    replay.fired.iter().filter(|fired| fired.pipeline == pipeline).map(|fired| fired.origin / HOUR).collect()
}

#[test]
fn a_policy_is_replayed_with_what_its_runs_take() {
    let subject = subject(DAILY, hours(10, 60, |hour| json!({"mase_ratio": if hour == 40 { 1.5 } else { 1.0 }})));
    let replay = simulate(&[subject]).unwrap().remove(0);
    // At once, a day later but for the error at 40, and a day after that. Forecasts at once, when the model is there, and
    // every six hours from then on, and with each new model.
    assert_eq!(starts(&replay, Pipeline::Build), [10, 34, 40]);
    assert_eq!(starts(&replay, Pipeline::Infer), [10, 11, 17, 23, 29, 35, 41, 47, 53, 59]);
    assert_eq!(replay.fired.iter().filter_map(|fired| fired.device_seconds).sum::<f64>(), 320.0);
    assert!(replay.fired.iter().all(|fired| !fired.happened));
    assert_eq!(replay.forecasts.most(), Some(6 * HOUR));
    let mean = replay.forecasts.mean().unwrap();
    assert!((2 * HOUR..4 * HOUR).contains(&mean), "{}", mean / MINUTE);
    assert_eq!(replay.champion.most(), Some(24 * HOUR));
}

#[test]
fn what_really_happened_ends_as_it_did_and_is_found_again() {
    let facts = |hour: i64| json!({"mase_ratio": if hour % 17 == 0 { 1.5 } else { 1.0 }});
    let mut of = subject(DAILY, hours(10, 200, facts));
    let first = simulate(std::slice::from_ref(&of)).unwrap().remove(0);
    // Take what was replayed for what happened, with its own times: some fail, some take long, some models are rejected.
    for (index, fired) in first.fired.iter().enumerate() {
        let run_id = format!("{:08x}-{:04x}-7000", (fired.at / 1000) >> 16, index);
        let spec = RunSpec { run_id: run_id.clone(), ..spec(&of, fired) };
        let fails = index % 7 == 3;
        let lasts = if index % 5 == 0 { 7 * HOUR } else { 2 * MINUTE };
        of.past.runs.push(RunRecord {
            status: if fails { Status::Failed } else { Status::Succeeded },
            finished_at: Some(fired.at + lasts),
            device_seconds: index as f64,
            ..RunRecord::queued(spec, "trigger", None, fired.at)
        });
    }
    let again = simulate(std::slice::from_ref(&of)).unwrap().remove(0);
    // Each that is at the same place is the same run; where one took longer or failed, later ones differ.
    assert!(again.fired.iter().any(|fired| fired.happened) && again.fired[0].happened);
    assert_ne!(again, first);
    // What that led to is what happens if it is replayed: with its runs as the past it comes out the same.
    let mut settled = of.clone();
    settled
        .past
        .runs
        .retain(|run| again.fired.iter().any(|f| f.pipeline == run.spec.pipeline && f.origin == run.spec.origin));
    assert_eq!(simulate(&[settled]).unwrap().remove(0).fired, again.fired);
}

fn spec(of: &Subject, fired: &Fired) -> RunSpec {
    let group = &of.evaluations[0].group;
    RunSpec {
        published: None,
        run_id: String::new(),
        pipeline: fired.pipeline,
        group_id: group.group_id.clone(),
        frequency: group.frequency,
        zone: group.zone.clone(),
        origin: fired.origin,
        closed_intervals: fired.origin / HOUR * 3,
        corrections: Some(0),
        watermark: fired.origin,
        intervals_version: 0,
        policy: of.policy.clone(),
        covariates: Vec::new(),
        device: String::new(),
    }
}

#[test]
fn runs_by_hand_and_what_was_before_count() {
    let mut of = subject(DAILY, hours(100, 130, |_| json!({})));
    let run = |pipeline, origin: i64, at: i64, cause: &str| {
        let fired = Fired {
            group_id: "PT1H".into(),
            pipeline,
            at: at * HOUR,
            origin: origin * HOUR,
            reason: String::new(),
            device_seconds: None,
            happened: true,
            error: None,
        };
        let spec = RunSpec { run_id: format!("{at:08}"), ..spec(&of, &fired) };
        RunRecord {
            status: Status::Succeeded,
            finished_at: Some(at * HOUR + MINUTE),
            ..RunRecord::queued(spec, cause, None, at * HOUR)
        }
    };
    of.past.runs = vec![
        run(Pipeline::Build, 90, 90, "trigger"),
        run(Pipeline::Infer, 98, 98, "trigger"),
        run(Pipeline::Infer, 102, 102, "manual"),
    ];
    of.past.models.push(ModelRecord {
        created_at: 90 * HOUR,
        run_id: "00000090".into(),
        ..crate::triggers::facts::tests::champion(90 * HOUR, json!(1.0))
    });
    for run in &mut of.past.runs {
        run.model_version = Some("PT1H-0001".into());
    }
    let replay = simulate(&[of]).unwrap().remove(0);
    assert_eq!(starts(&replay, Pipeline::Build), [114]);
    // By hand at 102, so the next one six hours later; then with the new model.
    assert_eq!(starts(&replay, Pipeline::Infer), [108, 114, 115, 121, 127]);
}

#[test]
fn groups_of_a_policy_share_what_may_run_at_once() {
    let toml = "[policy.a.retrain]\nwhen = \"new_intervals >= 24\"\nrequire = \"\"\ncooldown = \"0s\"\nmax_concurrent = 1\n\
                [policy.a.reforecast]\nwhen = \"false\"";
    let mut other = subject(toml, hours(10, 40, |_| json!({})));
    for evaluation in &mut other.evaluations {
        evaluation.group.group_id = "other".into();
        evaluation.at += 10 * MINUTE;
    }
    let replays = simulate(&[subject(toml, hours(10, 40, |_| json!({}))), other]).unwrap();
    // The first takes half an hour.
    assert_eq!(starts(&replays[0], Pipeline::Build), [10, 34]);
    assert_eq!(starts(&replays[1], Pipeline::Build), [11, 35]);
}
