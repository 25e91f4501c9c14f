use meterline_connectors::lake::Lake;
use meterline_schemas::Frequency;
use meterline_schemas::config::{FeedConfig, parse};
use meterline_schemas::time::{HOUR, SECOND};
use meterline_schemas::unit::Unit;

use super::*;
use crate::ingest::census::Census;
use crate::ingest::series::SeriesState;
use crate::ingest::state::{FeedState, IngestState};
use crate::metadata::MetadataStore;
use crate::metadata::records::Status;

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
    corrected(seq, frequencies, until, 0)
}

/// The same, where each series was corrected so often.
fn corrected(seq: i64, frequencies: &[Frequency], until: Micros, corrections: u32) -> Committed {
    let series: Vec<SeriesState> = frequencies
        .iter()
        .map(|frequency| {
            let mut series = SeriesState::new("meters", &frequency.to_string(), Unit::KWH);
            series.frequency = Some(*frequency);
            series.corrections = corrections;
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
    assert_eq!((fired.commit_seq, fired.facts.values.get("new_intervals").and_then(FactValue::as_i64)), (1, Some(10)));
    let last = metadata.last_decision("PT1H", Pipeline::Infer, false).await.unwrap().unwrap();
    assert!(!last.fired && last.reason.contains("the last run failed"), "{}", last.reason);
}

#[test]
fn a_decision_is_another_one_after_a_run_of_the_same_origin() {
    let facts = |last_done: &str, active: Option<&str>| GroupFacts {
        group: crate::triggers::facts::tests::hourly(10).into(),
        pipeline: Pipeline::Infer,
        facts: Facts { group_id: "PT1H".into(), pipeline: "reforecast".into(), values: FactValues::default() },
        history: crate::triggers::decide::RunHistory {
            active: active.map(str::to_owned),
            last_origin: Some(10 * HOUR),
            last_done: Some(last_done.to_owned()),
            ..Default::default()
        },
        champion: None,
    };
    let verdict = Verdict {
        fired: true,
        origin: 10 * HOUR,
        reason: String::new(),
        clauses: Vec::new(),
        blockers: Vec::new(),
        facts: None,
    };
    let (committed, stood) = (commit(1, &[Frequency::HOUR], 10 * HOUR), Standing::default());
    let id = |facts: GroupFacts| {
        record(&facts, &committed, verdict.clone(), FactValues::default(), &stood, 5, false).decision_id
    };
    let ids = [id(facts("r1", None)), id(facts("r1", Some("r2"))), id(facts("r2", None))];
    assert!(ids[0] != ids[2] && ids[0] != ids[1], "{ids:?}");
    assert_eq!(ids[0], id(facts("r1", None)), "what is started again is the same decision");
    let nothing = Verdict { fired: false, ..verdict.clone() };
    let at = |now| {
        record(&facts("r1", None), &committed, nothing.clone(), FactValues::default(), &stood, now, false).decision_id
    };
    assert_ne!(at(5), at(6), "what starts nothing is kept each time");
}

#[tokio::test]
async fn facts_that_did_not_change_are_recorded_once() {
    let (_dir, mut evaluator) = evaluator(&POLICIES.replace("new_intervals >= 1", "new_intervals >= 99")).await;
    for seq in 1..6 {
        evaluator.evaluate_if_changed(&commit(seq, &[Frequency::HOUR], 10 * HOUR), now()).await.unwrap();
    }
    // One a trigger.
    assert_eq!(evaluator.env.metadata.decisions(100).await.unwrap().len(), Pipeline::ALL.len());
    assert!(runs(&evaluator).await.is_empty());
}

#[tokio::test]
async fn a_trigger_goes_by_the_configuration_that_was_read_last() {
    let (_dir, mut evaluator) = evaluator(&POLICIES.replace("new_intervals >= 1", "new_intervals >= 99")).await;
    let committed = commit(1, &[Frequency::HOUR], 10 * HOUR);
    evaluator.evaluate_if_changed(&committed, now()).await.unwrap();
    assert!(runs(&evaluator).await.is_empty());
    let mut config = evaluator.env.config.clone();
    config.policy = parse(POLICIES).unwrap().policy;
    evaluator.reload(&config);
    evaluator.evaluate_if_changed(&committed, now()).await.unwrap();
    assert_eq!(runs(&evaluator).await.len(), 1);
}

#[tokio::test]
async fn a_correction_begins_where_the_forecasts_do_and_a_run_of_all_series_comes_before_it() {
    let (_dir, mut evaluator) = evaluator(POLICIES).await;
    let first = commit(1, &[Frequency::HOUR], 10 * HOUR);
    let group = crate::ingest::groups::groups(&first.state, &first.census, &evaluator.env.config).remove(0);
    let spec = spec::for_group(&evaluator.env, &group, &first, Pipeline::Infer, None);
    let mut run = RunRecord::queued(spec, "trigger", None, now());
    run.status = Status::Succeeded;
    evaluator.env.metadata.insert_run(&run).await.unwrap();

    evaluator.evaluate_if_changed(&corrected(2, &[Frequency::HOUR], 10 * HOUR, 3), now()).await.unwrap();
    let started = runs(&evaluator).await;
    let new = started.iter().find(|of| of.spec.run_id != run.spec.run_id).unwrap();
    let published = new.spec.published.as_ref().unwrap();
    assert_eq!((new.spec.pipeline, new.spec.origin, new.spec.intervals_version), (Pipeline::Correct, 10 * HOUR, 2));
    assert_eq!((published.of_all.as_str(), published.intervals_version), (run.spec.run_id.as_str(), 1));
    ended(&evaluator).await;

    // An hour later all are forecast, and nothing is corrected beside that.
    let later = corrected(3, &[Frequency::HOUR], 11 * HOUR, 5);
    evaluator.evaluate_if_changed(&later, now() + 60 * SECOND).await.unwrap();
    let pipelines: Vec<Pipeline> = runs(&evaluator).await.iter().map(|run| run.spec.pipeline).collect();
    assert_eq!(pipelines, [Pipeline::Infer, Pipeline::Correct, Pipeline::Infer]);
}

#[tokio::test]
async fn what_is_due_is_known_after_a_restart() {
    let policies = "[policy.hourly]\nfrequency = \"PT1H\"\nretrain = { when = \"false\" }\n\
                    [policy.hourly.reforecast]\nwhen = \"new_intervals >= 1\"\nrequire = \"series > 1\"\n";
    let (_dir, mut first) = evaluator(policies).await;
    first.evaluate_if_changed(&commit(1, &[Frequency::HOUR], 10 * HOUR), now()).await.unwrap();
    let kept = first.env.metadata.standings().await.unwrap();
    let due = kept.iter().find_map(|(key, standing)| standing.due.as_ref().filter(|_| key.1 == Pipeline::Infer));
    assert_eq!(due.unwrap().origin, 10 * HOUR);
    let mut second = Evaluator::new(Arc::clone(&first.env), first.runner.clone());
    second.evaluate_if_changed(&commit(2, &[Frequency::HOUR], 11 * HOUR), now()).await.unwrap();
    let kept = second.env.metadata.standings().await.unwrap();
    assert_eq!(kept.iter().find_map(|(_, standing)| standing.due.as_ref()).unwrap().origin, 10 * HOUR);
    assert!(runs(&second).await.is_empty());
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
