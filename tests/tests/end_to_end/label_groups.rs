//! Series of one frequency in two model groups, by a label of a file: each with its own policy, models and runs; one series
//! changes its label on the way. A correction in one of them, below a roll-up that has parts in both.

use std::fs;
use std::time::Duration;

use meterline_tests::sandbox::Sandbox;
use meterline_tests::topic::{self, Outgoing};
use meterline_tests::wait;
use serde_json::{Value, json};

use crate::checks;
use crate::harness::{MINUTE, kafka, of_meter};

const TOPIC: &str = "by-label";
const METERS: [&str; 5] = ["i1", "i2", "h1", "h2", "h3"];
const INDUSTRY: &str = "PT1H/tariff=industry";
/// `h3` becomes one of the others with the hour 126 from 2024-01-01 on.
const LABELS: &str = "series_id,valid_from,tariff
i1,,industry
i2,,industry
h1,,household
h3,,household
h3,2024-01-06T06:00:00Z,industry
";

const SETTINGS: &str = r#"
frequency = "PT1H"
lateness = "0s"

[labels.meta]
file = "meters.csv"
labels = { tariff = "tariff" }

[ingest]
commit_interval = "200ms"
idle_timeout = "1s"
catch_up_records = 1000
workers = 2

[policy.hours]
frequency = "PT1H"
horizon = "12h"
context = "24 intervals"
[policy.hours.reforecast]
when = "new_intervals >= 1 or champion_is_new"
[policy.hours.retrain]
when = "not has_champion"
[policy.hours.gate]
accept_if = "true"
[policy.hours.model]
kind = "seasonal_naive"

[policy.industry]
frequency = "PT1H"
label = { tariff = "industry" }
horizon = "6h"
[policy.industry.reforecast]
when = "new_intervals >= 100 or champion_is_new"
"#;

/// Each hour of all meters, and then the next.
fn send(brokers: &str, first: usize, count: usize) {
    let hour = |n: usize| METERS.into_iter().flat_map(move |meter| of_meter(meter, n, 1));
    topic::send(brokers, TOPIC, &(first..first + count).flat_map(hour).collect::<Vec<_>>());
}

/// Waits until nothing is under way, and triggers have looked at that.
fn settle(sandbox: &Sandbox) {
    let mut quiet = 0;
    wait::until("all runs have ended", 2 * MINUTE, || {
        let under_way = sandbox.number("SELECT count(*) FROM runs WHERE status IN ('queued', 'running')");
        quiet = if under_way == Some(0) { quiet + 1 } else { 0 };
        std::thread::sleep(Duration::from_millis(500));
        (quiet >= 5).then_some(())
    });
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The newest forecasts: series, group, model, steps.
fn forecasts(sandbox: &Sandbox) -> Vec<(String, String, String, i64)> {
    let rows = sandbox.sql(
        "SELECT series_id, group_id, model_version, count(*) AS steps FROM forecasts_latest \
         GROUP BY series_id, group_id, model_version ORDER BY series_id",
    );
    rows.iter()
        .map(|row| {
            let [series, group, model] = ["series_id", "group_id", "model_version"].map(|column| text(&row[column]));
            (series, group, model, row["steps"].as_i64().unwrap_or_default())
        })
        .collect()
}

/// Forecasts of these series by the industry's model, of all others by that of the frequency.
fn expected(industry: &[&str]) -> Vec<(String, String, String, i64)> {
    let mut meters = METERS;
    meters.sort_unstable();
    let of = |meter: &str| match industry.contains(&meter) {
        true => (meter.to_owned(), INDUSTRY.to_owned(), format!("{INDUSTRY}-0001"), 6),
        false => (meter.to_owned(), "PT1H".to_owned(), "PT1H-0001".to_owned(), 12),
    };
    meters.into_iter().map(of).collect()
}

/// The series of a group's last successful infer run, and how many such runs there were.
fn last_run(sandbox: &Sandbox, group: &str) -> (Vec<String>, i64) {
    let of = format!("FROM runs WHERE pipeline = 'infer' AND status = 'succeeded' AND group_id = '{group}'");
    let rows = sandbox.sql(&format!(
        "SELECT DISTINCT series_id FROM forecasts WHERE run_id = (SELECT max(run_id) {of}) ORDER BY series_id"
    ));
    let series = rows.iter().map(|row| text(&row["series_id"]));
    (series.collect(), sandbox.number(&format!("SELECT count(*) {of}")).unwrap_or_default())
}

/// Number of series in each group, as triggers see it.
fn sizes(sandbox: &Sandbox) -> [Option<i64>; 2] {
    ["PT1H", INDUSTRY].map(|group| {
        sandbox.number(&format!("SELECT series FROM trigger_facts WHERE group_id = '{group}' AND pipeline = 'retrain'"))
    })
}

#[test]
fn series_with_a_label_have_models_and_runs_of_their_own() {
    let Some(kafka) = kafka("label groups") else { return };
    let brokers = kafka.brokers();
    kafka.create_topic(TOPIC, 1);
    let sandbox = Sandbox::reading(&brokers, TOPIC, SETTINGS);
    fs::write(sandbox.path().join("meters.csv"), LABELS).expect("write the labels");
    let checked = sandbox.run(&["validate"]).stdout;
    assert!(checked.contains(&format!("group {INDUSTRY}")) && checked.contains("3 series of the files"), "{checked}");

    // Each group has its model, and forecasts as its policy says.
    let mut engine = sandbox.engine();
    send(&brokers, 0, 124);
    checks::await_committed(&sandbox, &mut engine, &brokers, TOPIC);
    wait::until("both groups forecast with models of their own", 4 * MINUTE, || {
        (forecasts(&sandbox) == expected(&["i1", "i2"])).then_some(())
    });
    settle(&sandbox);
    assert_eq!(sizes(&sandbox), [Some(3), Some(2)]);
    let told = sandbox.run(&["triggers", "explain", INDUSTRY]).succeeded().stdout;
    assert!(told.contains("policy.industry, policy.hours"), "{told}");
    let (_, before) = last_run(&sandbox, INDUSTRY);

    // New intervals concern the one policy and not the other; a meter that changed its tariff leaves its group.
    send(&brokers, 124, 12);
    checks::await_committed(&sandbox, &mut engine, &brokers, TOPIC);
    wait::until("the others are forecast without the one that left", 2 * MINUTE, || {
        (last_run(&sandbox, "PT1H").0 == ["h1", "h2"]).then_some(())
    });
    settle(&sandbox);
    assert_eq!(last_run(&sandbox, INDUSTRY), (vec!["i1".into(), "i2".into()], before));
    assert_eq!(sizes(&sandbox), [Some(2), Some(3)]);

    // What was evaluated is replayed as it was, of both; and so is each interval.
    let replay = sandbox.run(&["triggers", "simulate", "--json"]).succeeded().stdout;
    let replay: Value = serde_json::from_str(&replay).expect("a document");
    let groups: Vec<_> = replay["groups"].as_array().expect("groups").iter().collect();
    let agree: Vec<_> = groups.iter().map(|of| (of["group_id"].as_str(), &of["policies"][0]["agrees"])).collect();
    assert_eq!(agree, [(Some("PT1H"), &Value::Bool(true)), (Some(INDUSTRY), &Value::Bool(true))], "{replay:#}");
    let each = sandbox.run(&["triggers", "simulate", "--each-interval", "--group", INDUSTRY]).succeeded().stdout;
    assert!(each.contains(INDUSTRY), "{each}");

    // By hand, and with the meter that came.
    sandbox.run(&["reforecast", "--group", INDUSTRY]).succeeded();
    assert_eq!(forecasts(&sandbox), expected(&["i1", "i2", "h3"]));
    let model = sandbox.run(&["models", "show", &format!("{INDUSTRY}-0001")]).succeeded().stdout;
    assert!(model.contains(INDUSTRY), "{model}");

    // After a restart all is as it was. Another value of the label waits for the next one.
    assert_eq!(engine.stop().code(), Some(0));
    let mut engine = sandbox.engine();
    let (_, before) = last_run(&sandbox, "PT1H");
    send(&brokers, 136, 1);
    checks::await_committed(&sandbox, &mut engine, &brokers, TOPIC);
    wait::until("the stream goes on", 2 * MINUTE, || (last_run(&sandbox, "PT1H").1 > before).then_some(()));
    settle(&sandbox);
    assert_eq!((sizes(&sandbox), last_run(&sandbox, "PT1H").0), ([Some(2), Some(3)], vec!["h1".into(), "h2".into()]));
    sandbox.replace("{ tariff = \"industry\" }", "{ tariff = \"farm\" }");
    wait::until("it is told what waits for a restart", MINUTE, || {
        sandbox.log().contains("policy (other labels)").then_some(())
    });
    assert_eq!(engine.stop().code(), Some(0));
}

const NETWORK_TOPIC: &str = "by-label-below-a-roll-up";
const NETWORK: &str = "series_id,tariff,region
i1,industry,north
h1,household,north
h2,household,south
";
const NORTH: &str = "rollup.net:region=north@PT1H";

const BELOW_A_ROLL_UP: &str = r#"
frequency = "PT1H"
lateness = "0s"

[labels.meta]
file = "meters.csv"
labels = { tariff = "tariff", region = "region" }

[rollup.net]
by = ["region"]
reconcile = "bottom_up"

[ingest]
commit_interval = "200ms"
idle_timeout = "1s"
catch_up_records = 0

[policy.hours]
frequency = "PT1H"
horizon = "12h"
context = "24 intervals"
[policy.hours.retrain]
pause = true
[policy.hours.reforecast]
when = "new_intervals >= 1"

[policy.industry]
frequency = "PT1H"
label = { tariff = "industry" }
"#;

/// What runs of corrections have forecast again, run by run: group and series.
fn corrected(sandbox: &Sandbox) -> Vec<(String, String)> {
    let rows = sandbox.sql(
        "SELECT r.run_id, r.group_id, f.series_id FROM runs r \
         LEFT JOIN (SELECT DISTINCT run_id, series_id FROM forecasts) f ON f.run_id = r.run_id \
         WHERE r.pipeline = 'correct' AND r.status = 'succeeded' ORDER BY r.group_id, r.run_id, f.series_id",
    );
    rows.iter().map(|row| (text(&row["group_id"]), text(&row["series_id"]))).collect()
}

/// Sends another value of the hour 120 of a meter, and waits until nothing is left to do.
fn correct(sandbox: &Sandbox, brokers: &str, meter: &str) {
    let reading = json!({"meter_id": meter, "ts": "2024-01-06T00:00:00Z", "value": 500.0, "unit": "kWh"});
    let before = sandbox.number("SELECT sum(corrected) FROM feeds");
    let payload = Some(reading.to_string().into_bytes());
    topic::send(brokers, NETWORK_TOPIC, &[Outgoing { key: meter.to_owned(), payload }]);
    wait::until("the correction is counted", MINUTE, || {
        (sandbox.number("SELECT sum(corrected) FROM feeds") > before).then_some(())
    });
    settle(sandbox);
}

#[test]
fn a_correction_reaches_the_roll_up_above_its_group_and_no_other_series() {
    let Some(kafka) = kafka("corrections in label groups") else { return };
    let brokers = kafka.brokers();
    kafka.create_topic(NETWORK_TOPIC, 1);
    let sandbox = Sandbox::reading(&brokers, NETWORK_TOPIC, BELOW_A_ROLL_UP);
    fs::write(sandbox.path().join("meters.csv"), NETWORK).expect("write the labels");
    let mut engine = sandbox.engine();
    let hour = |n: usize| ["i1", "h1", "h2"].into_iter().flat_map(move |meter| of_meter(meter, n, 1));
    topic::send(&brokers, NETWORK_TOPIC, &(0..124).flat_map(hour).collect::<Vec<_>>());
    checks::await_committed(&sandbox, &mut engine, &brokers, NETWORK_TOPIC);
    wait::until("both groups are forecast", 2 * MINUTE, || {
        (forecasts(&sandbox).len() == 5 && last_run(&sandbox, INDUSTRY).0 == ["i1"]).then_some(())
    });
    settle(&sandbox);
    assert_eq!(corrected(&sandbox), []);

    let of = |group: &str, series: &str| (group.to_owned(), series.to_owned());
    correct(&sandbox, &brokers, "i1");
    let both = [of("PT1H", NORTH), of(INDUSTRY, "i1")];
    assert_eq!(corrected(&sandbox), both, "the roll-up is in the other group");
    // The other group has no series that this touches, and no roll-up above it.
    correct(&sandbox, &brokers, "h1");
    let [north, industry] = both;
    assert_eq!(corrected(&sandbox), [north.clone(), of("PT1H", "h1"), north, industry]);
    let of_series = sandbox.sql("SELECT series_id, corrections FROM series WHERE feed = 'meters' ORDER BY series_id");
    let of_series: Vec<_> = of_series.iter().map(|row| row["corrections"].as_i64()).collect();
    assert_eq!(of_series, [Some(1), Some(0), Some(1)]);
    assert_eq!(engine.stop().code(), Some(0));
}
