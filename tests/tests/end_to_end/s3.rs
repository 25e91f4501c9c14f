//! A lake on a real S3 server: the same guarantees as on a directory, also where answers get lost and the store dies.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use meterline_tests::crash::kill::Armed;
use meterline_tests::fault_proxy::{Fault, FaultProxy};
use meterline_tests::oracle;
use meterline_tests::reader::Reader;
use meterline_tests::s3::{S3, SECRET_ACCESS_KEY};
use meterline_tests::sandbox::Sandbox;
use meterline_tests::skip::{note, or_skip};
use meterline_tests::{topic, wait};

use crate::faults::await_log;
use crate::harness::{MINUTE, hours, kafka};
use crate::{checks, spine};

/// The commits of the stream. (Those of forecasts and dead letters are elsewhere.)
const COMMIT: &str = "/intervals/_delta_log/";

#[test]
fn on_s3_nothing_is_lost_or_doubled_by_kills_lost_answers_and_a_store_that_dies() {
    let Some(kafka) = kafka("the lake on S3") else { return };
    let Some(mut server) = or_skip("the lake on S3", S3::start()) else { return };
    let reader = or_skip("the independent reader of the lake on S3", Reader::prepare());
    let proxy = FaultProxy::start(server.address());
    let brokers = kafka.brokers();
    kafka.create_topic("s3", 4);
    let sandbox = Sandbox::reading_on_s3(&brokers, "s3", &server, &proxy.endpoint(), spine::SETTINGS);
    let generate = "generate --meters 40 --days 20 --mix PT15M=0.5,PT1H=0.5 --forms kW=0.5,kWh=0.5 --clean --seed 4 \
                    --topic s3 --brokers";
    let send = || {
        sandbox.run(&generate.split_whitespace().chain([brokers.as_str()]).collect::<Vec<_>>()).succeeded();
        topic::send(&brokers, "s3", &[topic::Outgoing { key: "x".into(), payload: Some(b"no record".to_vec()) }]);
    };
    let commits = |sandbox: &Sandbox, more: usize| {
        let before = sandbox.commits();
        wait::until("the engine commits", MINUTE, || (sandbox.commits() >= before + more).then_some(()));
    };
    send();

    // Killed when a commit is about to be made, when it has just been made, and at any time. The first commits of an
    // engine are its claim and, where the table is new, the table.
    for moment in ["before", "after", "between"] {
        let mut engine = sandbox.engine();
        commits(&sandbox, 2);
        match moment {
            "before" => proxy.on_put(COMMIT, 2, Fault::Before(Armed::at(engine.id()).unwrap().trigger())),
            "after" => proxy.on_put(COMMIT, 2, Fault::After(Armed::at(engine.id()).unwrap().trigger())),
            _ => Armed::at(engine.id()).unwrap().fire(),
        }
        // There is always more to commit.
        send();
        assert_eq!(engine.wait(MINUTE).code(), None, "it is killed {moment} a commit");
        sandbox.kill(engine);
        let sent: i64 = topic::end_offsets(&brokers, "s3").iter().sum();
        let committed = checks::committed(&sandbox, "s3");
        note(&format!("killed {moment} a commit, with {committed} of {sent} records committed"));
    }

    // Commits that land, but whose answers get lost, and commits that do not land.
    let mut engine = sandbox.engine();
    commits(&sandbox, 2);
    for fault in [Fault::LandThenRefuse, Fault::LandThenHangUp, Fault::Refuse, Fault::Delay(Duration::from_secs(2))] {
        let fired = proxy.fired();
        proxy.on_put(COMMIT, 1, fault);
        send();
        wait::until("the fault is met", MINUTE, || (proxy.fired() > fired).then_some(()));
    }
    // A store that is away is waited for, aloud.
    server.kill();
    send();
    await_log(&sandbox, "it waits for the store", &["failed; reading waits, nothing is lost"]);
    assert!(engine.runs(), "it waits");
    server.restart();

    checks::await_committed(&sandbox, &mut engine, &brokers, "s3");
    let expected = oracle::intervals(&topic::drain(&brokers, "s3"));
    assert!(expected.intervals.len() > 10_000 && !expected.dead.is_empty());
    checks::assert_intervals(&sandbox, "meters", &expected);
    checks::assert_accounted(&sandbox, &brokers, "s3", &expected);
    // Pipelines run in processes of their own, which find the lake too.
    checks::await_forecasts(&sandbox, &mut engine, Duration::from_secs(240));
    checks::await_model(&sandbox, &mut engine, Duration::from_secs(240));
    let report = sandbox.run(&["validate"]).succeeded().stdout;
    assert!(report.contains("s3://"), "{report}");
    // The lock that tells is not in the lake.
    let few = "generate --meters 1 --days 1 --mix PT1H --forms kWh --clean --out few.csv";
    sandbox.run(&few.split(' ').collect::<Vec<_>>()).succeeded();
    let refused = sandbox.run(&["backfill", "--feed", "meters", "few.csv"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("an engine is running"), "{}", refused.stderr);
    assert_eq!(engine.stop().code(), Some(0), "SIGTERM ends it cleanly");
    if let Some(reader) = reader {
        checks::assert_reader_agrees(&sandbox, &reader);
    }
    checks::assert_models_serve(&sandbox);
    assert!(!sandbox.log().contains(SECRET_ACCESS_KEY));
}

#[test]
fn on_s3_a_second_engine_fences_the_first() {
    let Some(kafka) = kafka("fencing on S3") else { return };
    let Some(server) = or_skip("fencing on S3", S3::start()) else { return };
    let brokers = kafka.brokers();
    kafka.create_topic("fencing-s3", 1);
    let settings = "\n[ingest]\ncommit_interval = \"200ms\"\n";
    let sandbox = Sandbox::reading_on_s3(&brokers, "fencing-s3", &server, &server.endpoint(), settings);
    topic::send(&brokers, "fencing-s3", &hours(0, 100));
    let mut first = sandbox.engine();
    checks::await_committed(&sandbox, &mut first, &brokers, "fencing-s3");
    let mut second = sandbox.engine();
    let mut sent = 100;
    let ended = wait::until("the first engine is fenced", MINUTE, || {
        topic::send(&brokers, "fencing-s3", &hours(sent, 10));
        sent += 10;
        std::thread::sleep(Duration::from_millis(300));
        (!first.runs()).then(|| first.wait(MINUTE))
    });
    assert_eq!(ended.code(), Some(1));
    assert!(sandbox.log().contains("another writer has taken over"), "it says why:\n{}", sandbox.log());
    checks::await_committed(&sandbox, &mut second, &brokers, "fencing-s3");
    assert_eq!(sandbox.number("SELECT count(*) FROM intervals"), Some(sent as i64));
    assert_eq!(second.stop().code(), Some(0));
}

#[test]
fn on_s3_a_start_that_waits_for_the_store_answers_monitoring_and_can_be_stopped() {
    let Some(kafka) = kafka("a start that waits for S3") else { return };
    let Some(server) = or_skip("a start that waits for S3", S3::start()) else { return };
    let proxy = FaultProxy::start(server.address());
    let brokers = kafka.brokers();
    kafka.create_topic("waits-s3", 1);
    let settings = "\n[ingest]\ncommit_interval = \"200ms\"\n[http]\nlisten = \"127.0.0.1:0\"\n";
    let settings = settings.to_owned() + &Sandbox::no_pipelines("PT1H");
    let sandbox = Sandbox::reading_on_s3(&brokers, "waits-s3", &server, &proxy.endpoint(), &settings);
    topic::send(&brokers, "waits-s3", &hours(0, 100));
    let mut engine = sandbox.engine();
    checks::await_committed(&sandbox, &mut engine, &brokers, "waits-s3");
    assert_eq!(engine.stop().code(), Some(0));

    // All that it needs for its claim answers; what it remembers does not.
    proxy.on("GET", "/state/series-", 1, u32::MAX, Fault::Refuse);
    let mut engine = sandbox.engine();
    let answers = |path: &str, status: u16, words: &str| {
        let what = format!("{path} answers {status} with `{words}`");
        wait::until(&what, MINUTE, || {
            sandbox.answer(path).filter(|(was, said)| *was == status && said.contains(words))
        });
    };
    answers("/readyz", 503, "restoring the stream");
    answers("/readyz", 503, "loading the states of series");
    answers("/healthz", 200, "restored");
    answers("/metrics", 200, "meterline_commit_in_progress_seconds");
    let (_, text) = sandbox.answer("/metrics").expect("it answers");
    assert!(!text.contains("meterline_freshness_seconds"), "nobody knows it yet:\n{text}");
    assert!(engine.runs(), "it waits");
    assert_eq!(engine.stop().code(), Some(0), "SIGTERM ends a start that waits");

    let mut engine = sandbox.engine();
    answers("/readyz", 503, "restoring the stream");
    proxy.clear();
    answers("/readyz", 200, "Kafka and the store answer");
    topic::send(&brokers, "waits-s3", &hours(100, 100));
    checks::await_committed(&sandbox, &mut engine, &brokers, "waits-s3");
    assert_eq!(sandbox.number("SELECT count(*) FROM intervals"), Some(200));
    assert_eq!(engine.stop().code(), Some(0));
}

/// All Parquet files below a folder that are data of a table.
fn data_files(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("list a folder of the store") {
            let path = entry.expect("list a folder of the store").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            match path.is_dir() {
                true if name != "_delta_log" => folders.push(path),
                false if name.ends_with(".parquet") => found.push(path),
                _ => {}
            }
        }
    }
    found
}

#[test]
fn on_s3_housekeeping_deletes_left_overs_but_no_file_of_a_commit_that_takes_long() {
    let Some(kafka) = kafka("housekeeping on S3") else { return };
    let Some(server) = or_skip("housekeeping on S3", S3::start()) else { return };
    let proxy = FaultProxy::start(server.address());
    let brokers = kafka.brokers();
    kafka.create_topic("vacuum-s3", 1);
    let settings = "\n[ingest]\ncommit_interval = \"200ms\"\n[maintenance]\nevery = \"off\"\n";
    let settings = settings.to_owned() + &Sandbox::no_pipelines("PT1H");
    let sandbox = Sandbox::reading_on_s3(&brokers, "vacuum-s3", &server, &proxy.endpoint(), &settings);
    topic::send(&brokers, "vacuum-s3", &hours(0, 100));
    let mut engine = sandbox.engine();
    checks::await_committed(&sandbox, &mut engine, &brokers, "vacuum-s3");

    let intervals = sandbox.lake().join("intervals");
    let known = data_files(&intervals);
    let left_over = known[0].with_file_name("left-over-of-a-crash.parquet");
    fs::copy(&known[0], &left_over).expect("leave a file over");
    proxy.on_put(COMMIT, 1, Fault::Delay(Duration::from_secs(10)));
    topic::send(&brokers, "vacuum-s3", &hours(100, 100));
    wait::until("a commit takes long", MINUTE, || (proxy.fired() > 0).then_some(()));
    let stored = data_files(&intervals);
    assert!(stored.len() > known.len() + 1, "the files of the commit are there: {stored:?}");
    // As if all of this had lasted for days.
    let long_ago = SystemTime::now() - Duration::from_secs(3 * 24 * 60 * 60);
    for path in &stored {
        let file = File::options().append(true).open(path).expect("open a file of the store");
        file.set_modified(long_ago).expect("make a file of the store old");
    }
    let report = sandbox.run(&["maintain", "--json"]).succeeded().stdout;
    let report: serde_json::Value = serde_json::from_str(&report).expect("a report");
    let jobs = report["jobs"].as_array().expect("jobs");
    let vacuums: Vec<_> = jobs.iter().filter(|job| job["job"] == "vacuum" && job["table"] == "intervals").collect();
    assert!(vacuums.len() == 1 && vacuums[0]["files_before"] == 1, "{report}");
    assert!(!left_over.exists() && data_files(&intervals).len() == stored.len() - 1);
    checks::await_committed(&sandbox, &mut engine, &brokers, "vacuum-s3");
    assert_eq!(sandbox.number("SELECT count(*) FROM intervals"), Some(200));
    assert_eq!(engine.stop().code(), Some(0));
}
