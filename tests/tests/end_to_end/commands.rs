//! The commands of people and programs, with and without `--json`, on a lake that was filled from a file: no broker.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use meterline_tests::sandbox::Sandbox;
use meterline_tests::wait::{self, Finished};
use serde_json::Value;

use crate::faults::NOBODY;

/// Small models whose gate asks for a figure, so that every build gives a version that may serve.
const SETTINGS: &str = r#"
[policy.hours]
frequency = "PT1H"
horizon = "PT6H"
context = "P2D"
[policy.hours.gate]
accept_if = "wql >= 0"
[policy.hours.model]
kind = "boosted_trees"
train_time = "2s"
"#;
/// Four meters, three weeks of hours.
const READINGS: u64 = 4 * 21 * 24;

#[test]
fn every_command_answers_people_and_programs() {
    let sandbox = Sandbox::reading(NOBODY, "readings", SETTINGS);
    an_empty_lake_says_what_is_missing(&sandbox);
    a_secret_that_is_missing_is_a_wrong_configuration(&sandbox);
    history_comes_from_a_file(&sandbox);
    triggers_are_explained(&sandbox);
    pipelines_run_by_hand(&sandbox);
    runs_are_shown(&sandbox);
    models_are_judged(&sandbox);
    queries_are_one_document(&sandbox);
    a_feed_whose_topic_changed_is_a_wrong_configuration(&sandbox);
}

/// The one JSON document on standard output.
fn document(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout)
        .unwrap_or_else(|e| panic!("not one JSON document: {e}\n{}{}", finished.stdout, finished.stderr))
}

/// Runs a command for people and then for programs: what the first printed, and the second's document.
fn both(sandbox: &Sandbox, arguments: &[&str]) -> (String, Value) {
    let told = sandbox.run(arguments).succeeded().stdout;
    assert!(!told.trim().is_empty(), "{arguments:?} says something");
    (told, document(&sandbox.run(&[arguments, &["--json"]].concat()).succeeded()))
}

/// The command ends with `code`, prints no document, and says all `words`; with `--json` too.
fn refused(sandbox: &Sandbox, code: i32, arguments: &[&str], words: &[&str]) {
    for form in [arguments.to_vec(), [arguments, &["--json"]].concat()] {
        let finished = sandbox.run(&form);
        assert_eq!(finished.code, Some(code), "{form:?}\n{}{}", finished.stdout, finished.stderr);
        assert_eq!(finished.stdout, "", "{form:?}");
        for word in words {
            assert!(finished.stderr.contains(word), "{form:?} does not say {word}:\n{}", finished.stderr);
        }
    }
}

fn an_empty_lake_says_what_is_missing(sandbox: &Sandbox) {
    let (_, report) = both(sandbox, &["validate", "--offline"]);
    assert_eq!(report["ok"], true, "{report}");
    // Nobody answers where the brokers should be: the report is printed all the same.
    let told = sandbox.run(&["validate"]);
    assert_eq!(told.code, Some(1), "{}", told.stderr);
    assert!(told.stdout.contains(NOBODY), "{}", told.stdout);
    let report = sandbox.run(&["validate", "--json"]);
    assert_eq!((report.code, &document(&report)["ok"]), (Some(1), &Value::from(false)));

    for list in [["triggers", "list"], ["runs", "list"], ["models", "list"]] {
        let (_, rows) = both(sandbox, &list);
        assert_eq!(rows, Value::Array(vec![]), "{list:?}");
    }
    refused(sandbox, 1, &["retrain"], &["meterline backfill"]);
    for command in [&["retrain", "--group", "PT1H"][..], &["triggers", "explain", "PT1H"]] {
        refused(sandbox, 2, command, &["`PT1H`", "meterline backfill"]);
    }
}

fn a_secret_that_is_missing_is_a_wrong_configuration(sandbox: &Sandbox) {
    let config = fs::read_to_string(sandbox.config()).expect("read the configuration");
    let cluster = "\n[cluster]\naddresses = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\nsecret_file = \"no-secret\"\n";
    sandbox.configure(&(config.clone() + cluster));
    for form in [&["validate"][..], &["validate", "--json"]] {
        let finished = sandbox.run(form);
        assert_eq!(finished.code, Some(2), "{}{}", finished.stdout, finished.stderr);
        assert!(finished.stdout.contains("no-secret"), "{}", finished.stdout);
    }
    for process in ["0", "1"] {
        refused(sandbox, 2, &["run", "--process", process], &["no-secret"]);
    }
    sandbox.configure(&config);
}

fn history_comes_from_a_file(sandbox: &Sandbox) {
    let generate = "generate --meters 4 --days 21 --mix PT1H --forms kWh --clean --seed 3 --out readings.csv";
    let (_, generated) = both(sandbox, &generate.split(' ').collect::<Vec<_>>());
    assert_eq!(generated["records"], READINGS, "{generated}");

    // The second time gives the same values again.
    let (told, report) = both(sandbox, &["backfill", "--feed", "meters", "readings.csv"]);
    assert!(told.contains(&format!("{READINGS} readings of 1 files")), "{told}");
    assert_eq!((&report["readings"], &report["dead"]), (&Value::from(READINGS), &Value::from(0)), "{report}");
    assert_eq!(sandbox.number("SELECT count(*) FROM intervals"), Some(READINGS as i64));
    refused(sandbox, 2, &["backfill", "--feed", "gauges", "readings.csv"], &["gauges", "meters"]);
}

fn triggers_are_explained(sandbox: &Sandbox) {
    let (told, standings) = both(sandbox, &["triggers", "list"]);
    assert!(told.contains("policy.hours"), "{told}");
    assert_eq!(
        standings.as_array().map(Vec::len),
        Some(3),
        "retrain, reforecast and correct of one group: {standings}"
    );
    let (told, standings) = both(sandbox, &["triggers", "explain", "PT1H", "--trigger", "retrain"]);
    assert!(told.contains("has_champion"), "{told}");
    assert_eq!(standings[0]["trigger"], "retrain", "{standings}");
    refused(sandbox, 2, &["triggers", "explain", "PT9H"], &["`PT9H`", "PT1H"]);
    refused(sandbox, 2, &["triggers", "explain", "PT1H", "--trigger", "rain"], &["rain"]);
}

fn pipelines_run_by_hand(sandbox: &Sandbox) {
    let (told, runs) = both(sandbox, &["retrain", "--group", "PT1H"]);
    assert!(told.contains("succeeded") && told.contains("PT1H-0001"), "{told}");
    assert_eq!((&runs[0]["status"], &runs[0]["model_version"]), (&"succeeded".into(), &"PT1H-0002".into()), "{runs}");
    let (told, runs) = both(sandbox, &["reforecast"]);
    assert!(told.contains("PT1H-0002"), "{told}");
    assert_eq!(runs[0]["model_version"], "PT1H-0002", "{runs}");
    // Noon of a day before the model was trained, and not its midnight.
    let (_, runs) = both(sandbox, &["reforecast", "--as-of", "2024-01-15T12:00"]);
    assert_eq!(runs[0]["spec"]["origin"], 1_705_320_000_000_000_i64, "{runs}");
    assert_eq!(runs[0]["model_version"], "seasonal_naive", "{runs}");
    for pipeline in ["retrain", "reforecast"] {
        refused(sandbox, 2, &[pipeline, "--group", "PT9H"], &["`PT9H`", "PT1H"]);
        refused(sandbox, 2, &[pipeline, "--as-of", "yesterday"], &["yesterday"]);
    }
}

fn runs_are_shown(sandbox: &Sandbox) {
    let (told, runs) = both(sandbox, &["runs", "list"]);
    let run = runs[0]["spec"]["run_id"].as_str().expect("a run has an id");
    assert!(told.contains(run), "{told}");
    assert_eq!(runs.as_array().map(Vec::len), Some(6), "{runs}");
    let (told, shown) = both(sandbox, &["runs", "show", run]);
    assert!(told.contains("publish"), "{told}");
    assert_eq!(shown["run"]["spec"]["run_id"], run, "{shown}");
    let (_, lines) = both(sandbox, &["runs", "logs", run]);
    assert!(lines.as_array().is_some_and(|lines| !lines.is_empty()), "{lines}");

    sandbox.run(&["runs", "logs", run, "--follow"]).succeeded();
    let mixed = sandbox.run(&["runs", "logs", run, "--follow", "--json"]);
    assert_eq!((mixed.code, mixed.stdout.as_str()), (Some(2), ""), "{}", mixed.stderr);
    for action in ["show", "logs"] {
        refused(sandbox, 2, &["runs", action, "nobody"], &["`nobody`", "meterline runs list"]);
    }
}

fn models_are_judged(sandbox: &Sandbox) {
    let (told, models) = both(sandbox, &["models", "list"]);
    assert!(told.contains("PT1H-0001"), "{told}");
    assert_eq!((&models[0]["version"], &models[0]["alias"]), (&"PT1H-0002".into(), &"champion".into()), "{models}");
    let (_, model) = both(sandbox, &["models", "show", "PT1H-0001"]);
    assert_eq!((&model["version"], &model["alias"]), (&"PT1H-0001".into(), &"previous".into()), "{model}");
    assert_eq!(model["forecaster"], "boosted_trees", "{model}");

    let (_, model) = both(sandbox, &["models", "reject", "PT1H-0002", "--reason", "worse in the field"]);
    assert_eq!((&model["approval"], &model["alias"]), (&"rejected".into(), &Value::Null), "{model}");
    let (_, model) = both(sandbox, &["models", "approve", "PT1H-0002"]);
    assert_eq!((&model["approval"], &model["alias"]), (&"approved".into(), &"champion".into()), "{model}");
    for action in ["show", "approve", "reject"] {
        refused(sandbox, 2, &["models", action, "PT1H-0009"], &["`PT1H-0009`", "meterline models list"]);
    }

    // Back to the first, and then to none.
    let (told, rolled) = both(sandbox, &["models", "rollback", "PT1H"]);
    assert!(told.contains("PT1H-0002 is rejected") && told.contains("PT1H-0001 serves"), "{told}");
    assert_eq!((&rolled["rejected"], &rolled["champion"]), (&"PT1H-0001".into(), &Value::Null), "{rolled}");
    refused(sandbox, 1, &["models", "rollback", "PT1H"], &["`PT1H`", "meterline models list"]);
    refused(sandbox, 2, &["models", "rollback", "PT9H"], &["`PT9H`", "PT1H"]);
}

fn queries_are_one_document(sandbox: &Sandbox) {
    let (_, answer) = both(sandbox, &["sql", "SELECT count(*) AS n FROM intervals"]);
    assert_eq!(answer["rows"][0]["n"], READINGS, "{answer}");

    let shell = |statements: &str| {
        let path = sandbox.path().join("statements.sql");
        fs::write(&path, statements).expect("write the statements");
        let input = Stdio::from(fs::File::open(&path).expect("open the statements"));
        wait::run_on(&mut sandbox.command(&["sql", "--json"]), input, Duration::from_secs(60))
    };
    let answers = document(&shell("SELECT 1 AS a;\nSELECT 2\n  AS b").succeeded());
    assert_eq!(answers.as_array().map(Vec::len), Some(2), "{answers}");
    assert_eq!((&answers[0]["rows"][0]["a"], &answers[1]["rows"][0]["b"]), (&1.into(), &2.into()), "{answers}");
    let finished = shell("SELECT nothing_of_the_kind;\nSELECT 1 AS a;\n");
    let answers = document(&finished);
    assert_eq!((finished.code, answers.as_array().map(Vec::len)), (Some(1), Some(2)), "{answers}");
    assert!(answers[0]["error"].is_string() && answers[1]["rows"].is_array(), "{answers}");
}

fn a_feed_whose_topic_changed_is_a_wrong_configuration(sandbox: &Sandbox) {
    let config = fs::read_to_string(sandbox.config()).expect("read the configuration");
    sandbox.configure(&config.replace("topic = \"readings\"", "topic = \"others\""));
    for command in [&["run"][..], &["backfill", "--feed", "meters", "readings.csv"]] {
        refused(sandbox, 2, command, &["`meters`", "`others`", "`readings`"]);
    }
}
