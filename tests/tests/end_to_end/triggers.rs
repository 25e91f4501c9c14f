//! Triggers of a real engine: what they start, what is said about them, a crash, a replay that agrees with what happened,
//! and another configuration while it runs.

use std::time::Duration;

use meterline_tests::sandbox::{Engine, Sandbox};
use meterline_tests::topic;
use meterline_tests::wait;
use serde_json::Value;

use crate::checks;
use crate::harness::{MINUTE, hours, kafka, of_meter};

const TOPIC: &str = "triggered";

const SETTINGS: &str = r#"
frequency = "PT1H"
lateness = "0s"

[ingest]
commit_interval = "200ms"
idle_timeout = "1s"
catch_up_records = 1000

[policy.hours]
frequency = "PT1H"
horizon = "12h"
context = "24 intervals"
[policy.hours.reforecast]
when = "new_intervals >= 6 or champion_is_new"
[policy.hours.retrain]
require = "history_intervals >= history_needed and completeness >= 0.9"
cooldown = "24 intervals"
[policy.hours.retrain.when]
first = "not has_champion"
often = "new_intervals >= 3"
[policy.hours.gate]
accept_if = "true"
[policy.hours.model]
kind = "seasonal_naive"
"#;

/// What `triggers explain` says of a trigger, as text and as a document.
fn explained(sandbox: &Sandbox, trigger: &str) -> (String, Value) {
    let arguments = ["triggers", "explain", "PT1H", "--trigger", trigger];
    let told = sandbox.run(&arguments).succeeded().stdout;
    let document = sandbox.run(&[&arguments[..], &["--json"]].concat()).succeeded().stdout;
    let document: Value = serde_json::from_str(&document).expect("a document");
    (told, document[0].clone())
}

fn fired(sandbox: &Sandbox, trigger: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM trigger_decisions WHERE fired AND pipeline = '{trigger}'");
    sandbox.number(&sql).expect("a count")
}

/// Waits until nothing is under way, and triggers have looked at that.
fn settle(sandbox: &Sandbox) {
    let under_way = "SELECT count(*) FROM runs WHERE status IN ('queued', 'running')";
    let mut quiet = 0;
    wait::until("all runs have ended", 2 * MINUTE, || {
        quiet = if sandbox.number(under_way) == Some(0) { quiet + 1 } else { 0 };
        std::thread::sleep(Duration::from_millis(500));
        (quiet >= 5).then_some(())
    });
}

struct Feed<'a> {
    sandbox: &'a Sandbox,
    brokers: &'a str,
    sent: usize,
}

impl Feed<'_> {
    fn send(&mut self, engine: &mut Engine, count: usize) {
        topic::send(self.brokers, TOPIC, &hours(self.sent, count));
        self.sent += count;
        checks::await_committed(self.sandbox, engine, self.brokers, TOPIC);
    }
}

#[test]
fn triggers_start_what_they_should_say_why_and_follow_the_configuration() {
    let Some(kafka) = kafka("triggers") else { return };
    let brokers = kafka.brokers();
    kafka.create_topic(TOPIC, 1);
    let sandbox = Sandbox::reading(&brokers, TOPIC, SETTINGS);
    let mut engine = sandbox.engine();
    let mut feed = Feed { sandbox: &sandbox, brokers: &brokers, sent: 0 };

    // Not enough history to train on, and from when on there is.
    feed.send(&mut engine, 48);
    settle(&sandbox);
    let (told, document) = explained(&sandbox, "retrain");
    assert!(told.contains("history_intervals >= history_needed is false (history_intervals = 4"), "{told}");
    let expected = document["next"]["at"].as_str().unwrap_or_else(|| panic!("{document}")).to_owned();
    assert!(told.contains(&format!("could start next: when the readings reach {expected}")), "{told}");
    assert_eq!(fired(&sandbox, "retrain"), 0);
    for _ in 0..3 {
        feed.send(&mut engine, 24);
        settle(&sandbox);
    }
    let first = "SELECT CAST(min(origin) AS BIGINT) / 3600000000 AS hour FROM runs WHERE pipeline = 'build'";
    let hour = |text: &str| {
        let sql = format!("SELECT CAST(arrow_cast('{text}', 'Timestamp(Microsecond, None)') AS BIGINT) / 3600000000");
        sandbox.number(&sql).expect("an hour")
    };
    let started = sandbox.number(first).expect("a build was started");
    assert!((0..24).contains(&(started - hour(&expected))), "expected {expected}, started at hour {started}");

    // It is killed, and things become due while it is down.
    sandbox.kill(engine);
    topic::send(&brokers, TOPIC, &hours(feed.sent, 24));
    feed.sent += 24;
    let mut engine = sandbox.engine();
    checks::await_committed(&sandbox, &mut engine, &brokers, TOPIC);
    settle(&sandbox);
    for _ in 0..12 {
        feed.send(&mut engine, 5);
    }
    settle(&sandbox);
    assert!(fired(&sandbox, "retrain") >= 3 && fired(&sandbox, "reforecast") >= 6);

    // The replay of what was evaluated starts what was started.
    let replay = sandbox.run(&["triggers", "simulate", "--json"]).succeeded().stdout;
    let replay: Value = serde_json::from_str(&replay).expect("a document");
    let group = &replay["groups"][0];
    assert_eq!(group["evaluations_of"], "recorded", "{group}");
    assert_eq!(group["policies"][0]["agrees"], true, "{group:#}");
    assert_eq!(group["policies"][0]["events"].as_array().map(Vec::len), group["happened"].as_array().map(Vec::len));

    // Cooling down: what is due waits.
    wait::until("the cooldown is what is waited for", 2 * MINUTE, || {
        feed.send(&mut engine, 1);
        settle(&sandbox);
        let (told, _) = explained(&sandbox, "retrain");
        (told.contains("cools down: ") && told.contains("of 24 intervals")).then_some(())
    });

    // Paused while it runs; a configuration that is not valid changes nothing; and then it goes on.
    let before = fired(&sandbox, "retrain");
    sandbox.replace("cooldown = \"24 intervals\"", "cooldown = \"24 intervals\"\npause = true");
    wait::until("the configuration is taken", MINUTE, || {
        sandbox.log().contains("has changed and is taken").then_some(())
    });
    feed.send(&mut engine, 30);
    settle(&sandbox);
    assert_eq!(fired(&sandbox, "retrain"), before, "it is paused");
    assert!(explained(&sandbox, "retrain").0.contains("it is paused in the configuration (pause = true)"));
    sandbox.replace("pause = true", "paus = false");
    wait::until("the mistake is told", MINUTE, || {
        (sandbox.log().contains("did you mean `pause`?") && sandbox.log().contains("goes on with the one before"))
            .then_some(())
    });
    // Commands read the file, too: what the engine does is in its log.
    let forecasts = || sandbox.log().matches("trigger fired group=PT1H trigger=\"reforecast\"").count();
    let earlier = forecasts();
    topic::send(&brokers, TOPIC, &hours(feed.sent, 12));
    feed.sent += 12;
    wait::until("forecasts are made all the same", MINUTE, || (forecasts() > earlier).then_some(()));
    sandbox.replace("paus = false", "pause = false");
    wait::until("it goes on", MINUTE, || (fired(&sandbox, "retrain") > before).then_some(()));
    settle(&sandbox);

    // On request it reads the file at once, and goes on.
    let hangup = std::process::Command::new("kill").args(["-HUP", &engine.id().to_string()]).status();
    assert!(hangup.expect("send a signal").success());
    wait::until("the signal is heard", MINUTE, || {
        sandbox.log().contains("no policy or covariate is another").then_some(())
    });
    assert!(engine.runs());

    // Every second hour is missing.
    for n in 0..60 {
        topic::send(&brokers, TOPIC, &hours(feed.sent + 2 * n, 1));
    }
    checks::await_committed(&sandbox, &mut engine, &brokers, TOPIC);
    settle(&sandbox);
    let (told, _) = explained(&sandbox, "retrain");
    assert!(told.contains("completeness >= 0.9 is false (completeness = 0."), "{told}");
    assert!(told.contains("newest record: "), "{told}");

    // What another configuration would change.
    let other = std::fs::read_to_string(sandbox.config()).expect("read the configuration");
    let other = other.replace("completeness >= 0.9", "completeness >= 0.1").replace("\"12h\"", "\"6h\"");
    std::fs::write(sandbox.path().join("other.toml"), other).expect("write another configuration");
    let plan = sandbox.run(&["plan", "-c", "other.toml", "--json"]).succeeded().stdout;
    let plan: Value = serde_json::from_str(&plan).expect("a document");
    let keys: Vec<&str> =
        plan["groups"][0]["changes"].as_array().expect("changes").iter().filter_map(|of| of["key"].as_str()).collect();
    assert_eq!(keys, ["horizon", "retrain.require"], "{plan:#}");
    assert_eq!(plan["groups"][0]["model"]["state"], "serves", "{plan:#}");
    let both = sandbox.run(&["triggers", "simulate", "--each-interval", "--policy", "other.toml"]).succeeded().stdout;
    assert!(both.contains("other.toml (policy.hours)") && both.contains("one at each interval that closed"), "{both}");
    assert_eq!(engine.stop().code(), Some(0));
}

const WORKERS_TOPIC: &str = "triggered-by-workers";
const METERS: [&str; 5] = ["a", "b", "c", "d", "e"];
const FOR_ANY_WORKERS: &str = r#"
frequency = "PT1H"
lateness = "0s"

[ingest]
commit_interval = "200ms"
idle_timeout = "1s"
catch_up_records = 0
workers = 1

[policy.hours]
frequency = "PT1H"
horizon = "12h"
context = "24 intervals"
[policy.hours.reforecast]
when = "new_intervals >= 12"
catch_up = "all"
[policy.hours.retrain]
when = "new_intervals >= 24"
require = "not backfilling"
cooldown = "0s"
catch_up = "all"
[policy.hours.gate]
accept_if = "true"
[policy.hours.model]
kind = "seasonal_naive"
"#;

/// What was started, in its order, by pipeline.
fn started(sandbox: &Sandbox) -> Vec<(String, String)> {
    let rows =
        sandbox.sql("SELECT pipeline, origin FROM trigger_decisions WHERE fired ORDER BY pipeline, at, decision_id");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    rows.iter().map(|row| (text(&row["pipeline"]), text(&row["origin"]))).collect()
}

#[test]
fn any_number_of_workers_decides_the_same() {
    let Some(kafka) = kafka("triggers by workers") else { return };
    let brokers = kafka.brokers();
    kafka.create_topic(WORKERS_TOPIC, 2);
    let send = |first: usize, count: usize| {
        let hour = |n: usize| METERS.into_iter().flat_map(move |meter| of_meter(meter, n, 1));
        topic::send(&brokers, WORKERS_TOPIC, &(first..first + count).flat_map(hour).collect::<Vec<_>>());
    };
    send(0, 124);
    let sandboxes = [1, 2, 4].map(|workers| {
        let sandbox = Sandbox::reading(&brokers, WORKERS_TOPIC, FOR_ANY_WORKERS);
        sandbox.replace("workers = 1", &format!("workers = {workers}"));
        sandbox
    });
    // All begin at the same hour, and then read the same.
    let mut engines = sandboxes.each_ref().map(Sandbox::engine);
    for more in [0, 60, 1, 11, 40] {
        if more > 0 {
            let sent: usize = topic::end_offsets(&brokers, WORKERS_TOPIC).iter().sum::<i64>() as usize / METERS.len();
            send(sent, more);
        }
        for (sandbox, engine) in sandboxes.iter().zip(&mut engines) {
            checks::await_committed(sandbox, engine, &brokers, WORKERS_TOPIC);
            settle(sandbox);
        }
    }
    let [one, others @ ..] = sandboxes.each_ref().map(started);
    assert!(one.iter().filter(|(pipeline, _)| pipeline == "reforecast").count() >= 9, "{one:?}");
    assert!(one.iter().filter(|(pipeline, _)| pipeline == "retrain").count() >= 4, "{one:?}");
    for other in others {
        assert_eq!(one, other);
    }
    for engine in engines {
        assert_eq!(engine.stop().code(), Some(0));
    }
}
