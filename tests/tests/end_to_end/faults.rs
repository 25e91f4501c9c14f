//! Bad input and a bad environment: a clear error, or a visible wait, never a hang and never a lost reading.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use meterline_tests::guard::Guarded;
use meterline_tests::kafka::Kafka;
use meterline_tests::reader::Reader;
use meterline_tests::sandbox::Sandbox;
use meterline_tests::skip::or_skip;
use meterline_tests::topic;
use meterline_tests::wait::{self, Finished};
use serde_json::Value;

use crate::checks;
use crate::harness::{MINUTE, hours, kafka};

/// An address where nothing listens.
pub const NOBODY: &str = "127.0.0.1:1";

/// All that a command said: `validate` reports on standard output, errors go to standard error.
fn told(finished: &Finished) -> String {
    format!("{}{}", finished.stdout, finished.stderr)
}

pub fn await_log(sandbox: &Sandbox, what: &str, words: &[&str]) {
    wait::until(what, MINUTE, || {
        let log = sandbox.log();
        words.iter().all(|word| log.contains(word)).then_some(())
    });
}

#[test]
fn a_second_engine_fences_the_first() {
    let Some(kafka) = kafka("fencing") else { return };
    let brokers = kafka.brokers();
    kafka.create_topic("fencing", 1);
    let sandbox = Sandbox::reading(&brokers, "fencing", "\n[ingest]\ncommit_interval = \"200ms\"\n");
    topic::send(&brokers, "fencing", &hours(0, 100));
    let mut first = sandbox.engine();
    checks::await_committed(&sandbox, &mut first, &brokers, "fencing");
    // One that cannot run harms nobody.
    let wrong = "[kafka.properties]\n\"no.such.property\" = \"1\"\n[ingest]";
    sandbox.replace("[ingest]", wrong);
    assert_eq!(sandbox.engine().wait(MINUTE).code(), Some(1));
    assert!(sandbox.log().contains("no.such.property"), "it says why:\n{}", sandbox.log());
    sandbox.replace(wrong, "[ingest]");
    topic::send(&brokers, "fencing", &hours(100, 10));
    checks::await_committed(&sandbox, &mut first, &brokers, "fencing");
    let mut second = sandbox.engine();
    // The first finds out at its next commit.
    let mut sent = 110;
    let ended = wait::until("the first engine is fenced", MINUTE, || {
        topic::send(&brokers, "fencing", &hours(sent, 10));
        sent += 10;
        std::thread::sleep(Duration::from_millis(300));
        (!first.runs()).then(|| first.wait(MINUTE))
    });
    assert_eq!(ended.code(), Some(1));
    assert!(sandbox.log().contains("another writer has taken over"), "it says why:\n{}", sandbox.log());
    checks::await_committed(&sandbox, &mut second, &brokers, "fencing");
    assert_eq!(sandbox.number("SELECT count(*) FROM intervals"), Some(sent as i64));
    assert_eq!(second.stop().code(), Some(0));
}

#[test]
fn aborted_transactions_are_not_counted_and_leave_no_lag() {
    let Some(kafka) = kafka("transactions") else { return };
    let brokers = kafka.brokers();
    kafka.create_topic("transactions", 1);
    let sandbox = Sandbox::reading(&brokers, "transactions", "\n[ingest]\ncommit_interval = \"200ms\"\n");
    topic::send_in_transaction(&brokers, "transactions", &hours(0, 60), true);
    topic::send_in_transaction(&brokers, "transactions", &hours(30, 60), false);
    let engine = sandbox.engine();
    let read = |what: &str, hours: i64| {
        wait::until(what, MINUTE, || {
            let rows = sandbox.sql("SELECT records, lag_records FROM partitions");
            let number = |name: &str| rows.first()?.get(name)?.as_i64();
            (number("records") == Some(hours) && number("lag_records") == Some(0)).then_some(())
        });
    };
    // The end of the topic is an aborted transaction: nothing of it is read, and nothing of it is behind.
    read("what was committed is read", 60);
    topic::send_in_transaction(&brokers, "transactions", &hours(60, 30), true);
    read("what was committed later is read", 90);
    assert_eq!(sandbox.number("SELECT count(*) FROM intervals"), Some(90));
    assert_eq!(sandbox.number("SELECT CAST(sum(value) AS BIGINT) FROM intervals"), Some((0..90).sum::<i64>()));
    assert_eq!(engine.stop().code(), Some(0));
}

#[test]
fn a_bad_configuration_names_line_key_and_remedy() {
    let sandbox = Sandbox::new();
    let config = sandbox.config().display().to_string();
    for (toml, words) in [
        ("[kafka]\nbrokrs = \"x\"\n", &["line 2", "brokrs", "did you mean `brokers`?"][..]),
        ("[kafka\n", &["line 1"]),
        ("[feed.m]\ntopic = \"t\"\nseries = \"s\"\ntime = \"t\"\n", &["value"]),
        ("[ingest]\nworkers = 0\n", &["line 2", "ingest.workers"]),
        ("[policy.a]\nfrequency = \"PT15M\"\n[policy.a.retrain]\nwhen = \"new_intervalls > 3\"\n", &["new_intervals"]),
    ] {
        sandbox.configure(toml);
        for command in [
            &["run", "-c", &config][..],
            &["validate", "--offline", "-c", &config],
            &["sql", "-c", &config, "SELECT 1"],
        ] {
            let finished = sandbox.run(command);
            // Predicates are planned where policies are used.
            if command[0] == "sql" && toml.contains("intervalls") {
                continue;
            }
            assert_eq!(finished.code, Some(2), "{command:?} with {toml}\n{}", finished.stderr);
            for word in words {
                assert!(
                    told(&finished).contains(word),
                    "{command:?} with {toml} does not say {word}:\n{}",
                    told(&finished)
                );
            }
        }
    }
    let finished = sandbox.run(&["run", "-c", "/nowhere/meterline.toml"]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("/nowhere/meterline.toml"), "{}", finished.stderr);
    assert_eq!(sandbox.run(&["fly"]).code, Some(2));
}

#[test]
fn a_missing_topic_is_waited_for() {
    let Some(kafka) = kafka("the missing topic") else { return };
    let brokers = kafka.brokers();
    let sandbox = Sandbox::reading(&brokers, "later", "\n[ingest]\ncommit_interval = \"200ms\"\n");
    let mut engine = sandbox.engine();
    await_log(&sandbox, "the log names the missing topic", &["later"]);
    std::thread::sleep(Duration::from_secs(2));
    assert!(engine.runs(), "it waits");
    kafka.create_topic("later", 2);
    topic::send(&brokers, "later", &hours(0, 50));
    checks::await_committed(&sandbox, &mut engine, &brokers, "later");
    // Now everything that the configuration points at answers.
    let report = sandbox.run(&["validate", "--json"]).succeeded().stdout;
    let report: Value = serde_json::from_str(&report).expect("validate --json prints one JSON document");
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(engine.stop().code(), Some(0));
}

#[test]
fn an_unreachable_broker_is_waited_for_and_nothing_is_lost() {
    let Some(mut kafka) = or_skip("the unreachable broker", Kafka::start()) else { return };
    let brokers = kafka.brokers();
    kafka.create_topic("away", 1);
    topic::send(&brokers, "away", &hours(0, 50));
    kafka.kill();
    let sandbox = Sandbox::reading(&brokers, "away", "\n[ingest]\ncommit_interval = \"200ms\"\n");
    let mut engine = sandbox.engine();
    await_log(&sandbox, "the log names the broker", &[&brokers]);
    std::thread::sleep(Duration::from_secs(2));
    assert!(engine.runs(), "it waits");
    kafka.restart();
    checks::await_committed(&sandbox, &mut engine, &brokers, "away");
    // Away again, in the middle of work.
    kafka.kill();
    std::thread::sleep(Duration::from_secs(3));
    assert!(engine.runs(), "it waits");
    kafka.restart();
    topic::send(&brokers, "away", &hours(50, 50));
    checks::await_committed(&sandbox, &mut engine, &brokers, "away");
    assert_eq!(sandbox.number("SELECT count(*) FROM intervals"), Some(100));
    assert_eq!(engine.stop().code(), Some(0));
}

#[test]
fn an_engine_that_waits_for_a_broker_can_be_stopped() {
    let sandbox = Sandbox::reading(NOBODY, "never", "");
    let engine = sandbox.engine();
    await_log(&sandbox, "the log names the broker", &[NOBODY]);
    assert_eq!(engine.stop().code(), Some(0));
}

#[test]
fn a_lake_that_cannot_be_written_is_an_error_that_names_it() {
    let sandbox = Sandbox::new();
    let file = sandbox.path().join("a-file");
    fs::write(&file, "not a folder").expect("write a file");
    let lake = file.join("lake").display().to_string();
    sandbox.configure(&format!("[lake]\nurl = \"{lake}\"\n"));
    let config = sandbox.config().display().to_string();
    for command in [&["run", "-c", &config][..], &["sql", "-c", &config, "SELECT 1"], &["validate", "-c", &config]] {
        let finished = sandbox.run(command);
        assert_eq!(finished.code, Some(1), "{command:?}: {}", finished.stderr);
        assert!(told(&finished).contains("a-file"), "{command:?} does not name the lake:\n{}", told(&finished));
    }
}

#[test]
fn a_locked_metadata_database_is_waited_for() {
    let Some(reader) = or_skip("the locked metadata database", Reader::prepare()) else { return };
    let sandbox = Sandbox::reading(NOBODY, "never", "");
    // Its first use makes the database.
    let config = sandbox.config().display().to_string();
    sandbox.run(&["runs", "list", "-c", &config]).succeeded();
    let lock = hold_lock(&reader, &sandbox.lake().join("metadata.db"), &sandbox.path().join("locked"));
    // A write that needs the database, while somebody else holds it.
    let mut waiting = sandbox.engine();
    std::thread::sleep(Duration::from_secs(3));
    assert!(waiting.runs(), "it waits:\n{}", sandbox.log());
    stop_while_it_opens(&sandbox);
    drop(lock);
    await_log(&sandbox, "it goes on once the lock is gone", &[NOBODY]);
    assert_eq!(waiting.stop().code(), Some(0));
}

/// SIGTERM to a service that still waits for the database: it ends soon and cleanly, with its JSON document.
fn stop_while_it_opens(sandbox: &Sandbox) {
    let output = sandbox.path().join("opening.json");
    let mut command = sandbox.command(&["run", "--json"]);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command.stdout(fs::File::create(&output).expect("create an output file"));
    let mut opening = Guarded::spawn(&mut command).expect("start meterline run");
    std::thread::sleep(Duration::from_secs(2));
    assert!(opening.ended().is_none(), "it waits");
    opening.signal("TERM");
    let status = opening.wait_for(Duration::from_secs(10)).expect("it ends soon");
    assert_eq!(status.code(), Some(0));
    let printed = fs::read_to_string(&output).expect("read the output");
    let document: Value = serde_json::from_str(&printed).expect("run --json prints one JSON document");
    assert_eq!((&document["records"], &document["watermark"]), (&Value::from(0), &Value::Null));
}

/// A process that holds the write lock of a SQLite database until it is dropped.
fn hold_lock(reader: &Reader, database: &Path, told: &Path) -> Guarded {
    let script = "import sqlite3, sys, time, pathlib\n\
        connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
        connection.execute('BEGIN EXCLUSIVE')\n\
        pathlib.Path(sys.argv[2]).touch()\n\
        time.sleep(600)\n";
    let mut command = Command::new(reader.python());
    command.args(["-c", script]).arg(database).arg(told).stdin(Stdio::null());
    let holder = Guarded::spawn(&mut command).expect("start the holder of the lock");
    wait::until("the database is locked", MINUTE, || told.exists().then_some(()));
    holder
}

#[test]
fn a_full_disk_is_waited_for_and_nothing_is_lost() {
    let Some(kafka) = kafka("the full disk") else { return };
    let brokers = kafka.brokers();
    kafka.create_topic("full", 2);
    // Few and large commits, and no pipeline beside them.
    let settings = r#"
[ingest]
commit_interval = "3s"
"#;
    let sandbox = Sandbox::reading(&brokers, "full", &(settings.to_owned() + &Sandbox::no_pipelines("PT15M")));
    let arguments = "generate --meters 100 --days 30 --mix PT15M --forms kWh --clean --seed 3 --topic full --brokers";
    sandbox.run(&arguments.split_whitespace().chain([brokers.as_str()]).collect::<Vec<_>>()).succeeded();
    // The metadata database is made while there is room: what is tested is the lake.
    sandbox.run(&["runs", "list"]).succeeded();

    let mut engine = sandbox.engine_without_space(256);
    await_log(&sandbox, "the log says that it waits", &["failed; reading waits, nothing is lost", "attempt=3"]);
    assert!(engine.runs(), "it waits");
    if !engine.lift_file_limit() {
        // Only a new process has room here.
        sandbox.kill(engine);
        engine = sandbox.engine();
    }
    checks::await_committed(&sandbox, &mut engine, &brokers, "full");
    let sent: i64 = topic::end_offsets(&brokers, "full").iter().sum();
    assert_eq!(sandbox.number("SELECT count(*) FROM intervals"), Some(sent));
    assert_eq!(engine.stop().code(), Some(0));
}

#[test]
fn sigterm_commits_what_was_read() {
    let Some(kafka) = kafka("the clean end") else { return };
    let brokers = kafka.brokers();
    kafka.create_topic("clean", 1);
    // Nothing but the end makes it commit.
    let sandbox = Sandbox::reading(&brokers, "clean", "\n[ingest]\ncommit_interval = \"10m\"\n");
    topic::send(&brokers, "clean", &hours(0, 300));
    let engine = sandbox.engine();
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(engine.stop().code(), Some(0));
    assert_eq!(checks::committed(&sandbox, "clean"), 300);
    assert_eq!(sandbox.number("SELECT count(*) FROM intervals"), Some(300));
}
