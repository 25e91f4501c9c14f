//! What happens to topics: created anew, overtaken by retention, with transactions, with more partitions, with a broker
//! that stands still. Whatever happens, the counts of each partition add up to the offsets read.

use std::time::Duration;

use meterline_tests::accounts;
use meterline_tests::kafka::Kafka;
use meterline_tests::sandbox::{Engine, Sandbox};
use meterline_tests::skip::or_skip;
use meterline_tests::topic::{self, Outgoing, Transaction};
use meterline_tests::wait;
use serde_json::{Map, Value};

use crate::harness::{MINUTE, hours, kafka, of_meter};

/// Fast commits, an address for metrics, and no pipelines beside.
pub const SETTINGS: &str = r#"
[ingest]
commit_interval = "200ms"
idle_timeout = "1s"
workers = 2

[http]
listen = "127.0.0.1:0"
"#;

fn sandbox(kafka: &Kafka, topic: &str, feed: &str) -> Sandbox {
    let quiet = Sandbox::no_pipelines("PT1H");
    Sandbox::reading(&kafka.brokers(), topic, &format!("frequency = \"PT1H\"\n{feed}\n{SETTINGS}{quiet}"))
}

fn integer(row: &Map<String, Value>, column: &str) -> i64 {
    row[column].as_i64().unwrap_or_else(|| panic!("{column} of {row:?}"))
}

/// The rows of `partitions`, of each of which the counts add up to the offsets.
fn partitions(sandbox: &Sandbox) -> Vec<Map<String, Value>> {
    let rows = sandbox.sql("SELECT * FROM partitions ORDER BY partition");
    for row in &rows {
        assert_eq!(accounts::faults(row), Ok(vec![]), "{row:?}");
    }
    rows
}

fn total(rows: &[Map<String, Value>], column: &str) -> i64 {
    rows.iter().map(|row| integer(row, column)).sum()
}

/// Waits until so many records were read and nothing is behind; returns the partitions.
fn await_read(sandbox: &Sandbox, engine: &mut Engine, records: i64) -> Vec<Map<String, Value>> {
    wait::until(&format!("{records} records are committed and none is behind"), MINUTE, || {
        assert!(engine.runs(), "the engine ended by itself");
        let rows = partitions(sandbox);
        let read = !rows.is_empty() && total(&rows, "records") == records;
        (read && total(&rows, "lag_records") == 0).then_some(rows)
    })
}

/// Waits until the watermark is so many hours after 2024-01-01.
fn await_closed(sandbox: &Sandbox, hours: i64) {
    wait::until("everything is closed", MINUTE, || {
        let watermark = "SELECT CAST(watermark AS BIGINT) / 3600000000 - 473352 FROM feeds";
        (sandbox.number(watermark) == Some(hours)).then_some(())
    });
}

fn await_no_lag(sandbox: &Sandbox) {
    let lag = "meterline_lag_records{feed=\"meters\",partition=\"0\"}";
    wait::until("/metrics has no lag either", MINUTE, || (sandbox.metric(lag) == Some(0.0)).then_some(()));
}

fn assert_fails(sandbox: &Sandbox, mut engine: Engine, words: &[&str]) {
    assert_eq!(engine.wait(MINUTE).code(), Some(1));
    let log = sandbox.log();
    for word in words {
        assert!(log.contains(word), "`{word}` is not in\n{log}");
    }
}

#[test]
fn a_topic_that_is_created_anew_is_an_error_or_read_from_its_beginning() {
    let Some(kafka) = kafka("the topic that is created anew") else { return };
    let (brokers, name) = (kafka.brokers(), "anew");
    kafka.create_topic(name, 2);
    let sandbox = sandbox(kafka, name, "on_recreated = \"fail\"");
    topic::send(&brokers, name, &hours(0, 40));
    // In the other partition.
    topic::send(&brokers, name, &of_meter("a", 0, 10));
    let mut engine = sandbox.engine();
    await_read(&sandbox, &mut engine, 50);
    // The new one has more records than were read of the old one: offsets alone do not tell.
    kafka.delete_topic(name);
    kafka.create_topic(name, 1);
    topic::send(&brokers, name, &hours(40, 60));
    assert_fails(&sandbox, engine, &["deleted and created again", "on_recreated"]);
    // Not even when the engine was away while it happened.
    assert_fails(&sandbox, sandbox.engine(), &["deleted and created again"]);
    assert_eq!(total(&partitions(&sandbox), "records"), 50, "nothing of the new one was read");

    sandbox.replace("on_recreated = \"fail\"", "on_recreated = \"restart\"");
    let mut engine = sandbox.engine();
    let rows = await_read(&sandbox, &mut engine, 110);
    assert_eq!(rows.len(), 2, "what was read of a partition that is no longer there stays");
    assert!(rows.iter().all(|row| integer(row, "incarnation") == 1), "{rows:?}");
    assert_eq!((total(&rows, "earlier_offsets"), total(&rows, "next_offset")), (50, 60));
    // Again, under its hands, and away for a while.
    kafka.delete_topic(name);
    wait::until("the log says that the topic is gone", MINUTE, || {
        sandbox.log().contains("topic `anew` does not exist").then_some(())
    });
    assert!(engine.runs());
    kafka.create_topic(name, 3);
    topic::send(&brokers, name, &hours(100, 30));
    let rows = await_read(&sandbox, &mut engine, 140);
    assert_eq!((rows.len(), integer(&rows[0], "incarnation")), (3, 2), "{rows:?}");
    assert_eq!(engine.stop().code(), Some(0));
    assert_eq!(sandbox.number("SELECT count(*) FROM intervals"), Some(140));
}

#[test]
fn records_that_retention_took_are_an_error_or_counted() {
    let Some(kafka) = kafka("retention") else { return };
    let (brokers, name) = (kafka.brokers(), "retention");
    kafka.create_topic(name, 1);
    let sandbox = sandbox(kafka, name, "on_expired = \"fail\"");
    topic::send(&brokers, name, &hours(0, 50));
    let mut engine = sandbox.engine();
    await_read(&sandbox, &mut engine, 50);
    assert_eq!(engine.stop().code(), Some(0));
    topic::send(&brokers, name, &hours(50, 50));
    kafka.delete_records(name, 0, 80);
    assert_fails(&sandbox, sandbox.engine(), &["offsets 50 to 79 of retention/0 are lost", "on_expired"]);

    sandbox.replace("on_expired = \"fail\"", "on_expired = \"earliest\"");
    let mut engine = sandbox.engine();
    let rows = await_read(&sandbox, &mut engine, 70);
    assert_eq!((integer(&rows[0], "expired"), integer(&rows[0], "next_offset")), (30, 100));
    assert!(sandbox.log().contains("lost_from=50 lost_to=79"));
    // While it runs, and is slower than retention.
    engine.pause();
    std::thread::sleep(Duration::from_millis(500));
    topic::send(&brokers, name, &hours(100, 60));
    kafka.delete_records(name, 0, 150);
    engine.resume();
    let rows = await_read(&sandbox, &mut engine, 80);
    assert_eq!((integer(&rows[0], "expired"), integer(&rows[0], "next_offset")), (80, 160));
    let expired = "meterline_expired_records_total{feed=\"meters\",partition=\"0\"}";
    assert_eq!(sandbox.metric(expired), Some(80.0));
    assert_eq!(engine.stop().code(), Some(0));
    assert_eq!(sandbox.number("SELECT count(*) FROM intervals"), Some(80));
}

#[test]
fn a_topic_that_was_refilled_is_told_from_the_old_one_by_its_identifier() {
    let Some(kafka) = kafka("the topic that is refilled") else { return };
    let (brokers, name) = (kafka.brokers(), "refilled");
    kafka.create_topic(name, 1);
    let sandbox = sandbox(kafka, name, "on_recreated = \"fail\"");
    topic::send(&brokers, name, &hours(0, 20));
    // Not longer than discovery takes to look a first time.
    let mut engine = sandbox.engine();
    await_read(&sandbox, &mut engine, 20);
    assert_eq!(engine.stop().code(), Some(0));
    // As many partitions, and more records: nothing but the identifier is different.
    kafka.delete_topic(name);
    kafka.create_topic(name, 1);
    topic::send(&brokers, name, &hours(20, 60));
    assert_fails(&sandbox, sandbox.engine(), &["another identifier", "deleted and created again", "on_recreated"]);
    assert_eq!(total(&partitions(&sandbox), "records"), 20, "nothing of the new one was read");
}

#[test]
fn a_partition_that_is_gone_holds_nothing_up() {
    let Some(kafka) = kafka("the partition that is gone") else { return };
    let (brokers, name) = (kafka.brokers(), "fewer");
    kafka.create_topic(name, 2);
    let sandbox = sandbox(kafka, name, "on_recreated = \"restart\"\nlateness = \"0s\"");
    for meter in ["m", "a"] {
        topic::send(&brokers, name, &of_meter(meter, 0, 10));
    }
    let mut engine = sandbox.engine();
    let rows = await_read(&sandbox, &mut engine, 20);
    assert!(rows.iter().all(|row| integer(row, "records") == 10), "each has a meter: {rows:?}");
    kafka.delete_topic(name);
    kafka.create_topic(name, 1);
    for meter in ["m", "a"] {
        topic::send(&brokers, name, &of_meter(meter, 10, 10));
    }
    await_read(&sandbox, &mut engine, 40);
    assert!(sandbox.log().contains("no such partition any more"));
    await_closed(&sandbox, 19);
    assert_eq!(engine.stop().code(), Some(0));
    // Nor does it after a restart, which remembers it.
    let mut engine = sandbox.engine();
    for meter in ["m", "a"] {
        topic::send(&brokers, name, &of_meter(meter, 20, 10));
    }
    await_read(&sandbox, &mut engine, 60);
    await_closed(&sandbox, 29);
    let silence = |partition| {
        sandbox.metric(&format!("meterline_partition_silence_seconds{{feed=\"meters\",partition=\"{partition}\"}}"))
    };
    assert_eq!((silence(0), silence(1)), (Some(0.0), Some(0.0)));
    assert!(sandbox.http("/readyz").expect("it answers").contains("Kafka and the store answer"));
    assert_eq!(engine.stop().code(), Some(0));
}

#[test]
fn what_retention_took_of_a_partition_that_was_empty_is_lost_as_anywhere_else() {
    let Some(kafka) = kafka("retention of an empty partition") else { return };
    let (brokers, name) = (kafka.brokers(), "unread");
    kafka.create_topic(name, 2);
    let sandbox = sandbox(kafka, name, "on_expired = \"fail\"");
    topic::send(&brokers, name, &hours(0, 10));
    let mut engine = sandbox.engine();
    let rows = await_read(&sandbox, &mut engine, 10);
    let empty = rows.iter().find(|row| integer(row, "records") == 0).expect("the meter has one partition");
    let empty = integer(empty, "partition") as i32;
    assert_eq!(engine.stop().code(), Some(0));
    // Whatever comes in the partition that was empty, some of it is gone before it is read.
    topic::send(&brokers, name, &of_meter("a", 0, 20));
    assert_eq!(topic::end_offsets(&brokers, name)[empty as usize], 20, "in the other partition");
    kafka.delete_records(name, empty, 5);
    assert_fails(&sandbox, sandbox.engine(), &[&format!("offsets 0 to 4 of unread/{empty} are lost"), "on_expired"]);
    sandbox.replace("on_expired = \"fail\"", "on_expired = \"earliest\"");
    let mut engine = sandbox.engine();
    let rows = await_read(&sandbox, &mut engine, 25);
    assert_eq!(total(&rows, "expired"), 5);
    assert_eq!(engine.stop().code(), Some(0));
    assert_eq!(sandbox.number("SELECT count(*) FROM intervals"), Some(25));
}

/// The hours `0..count` of a meter as a compacted topic has them: a key for each interval, and a value that tells the
/// round.
fn of_round(round: usize, count: usize) -> Vec<Outgoing> {
    let keyed = |(hour, sent): (usize, Outgoing)| {
        let payload = sent.payload.map(|payload| {
            let text = String::from_utf8_lossy(&payload).into_owned();
            text.replace(&format!("\"value\":{hour},"), &format!("\"value\":{},", 100 * round + hour)).into_bytes()
        });
        Outgoing { key: format!("m/{hour}"), payload }
    };
    hours(0, count).into_iter().enumerate().map(keyed).collect()
}

#[test]
fn what_a_topic_compacts_away_is_counted_as_gaps_and_stalls_nothing() {
    let Some(kafka) = kafka("the compacted topic") else { return };
    let (brokers, name) = (kafka.brokers(), "compacted");
    let compacted = [("cleanup.policy", "compact"), ("segment.ms", "200"), ("min.cleanable.dirty.ratio", "0.01")];
    kafka.create_topic_with(name, 1, &compacted);
    let sandbox = sandbox(kafka, name, "lateness = \"0s\"");
    const KEYS: usize = 20;
    let round = |round| {
        topic::send(&brokers, name, &of_round(round, KEYS));
        // The next one begins a segment.
        std::thread::sleep(Duration::from_millis(300));
    };
    (1..=5).for_each(round);
    // Of the newest segment nothing is compacted.
    topic::send(&brokers, name, &hours(KEYS, 1));
    wait::until("the cleaner has left one record a key", MINUTE, || {
        (topic::remaining(&brokers, name, 0).len() == KEYS + 1).then_some(())
    });
    // The end is nothing to read: an aborted transaction, and its mark.
    topic::send_in_transaction(&brokers, name, &hours(300, 9), false);
    let end = 5 * KEYS as i64 + 1 + 9 + 1;
    wait::until("the mark is in the topic", MINUTE, || (topic::end_offsets(&brokers, name) == [end]).then_some(()));
    let mut engine = sandbox.engine();
    let at_end = |engine: &mut Engine, end: i64| {
        wait::until("the end of the topic is reached", MINUTE, || {
            assert!(engine.runs(), "the engine ended by itself");
            let rows = partitions(&sandbox);
            let row = rows.into_iter().next()?;
            (integer(&row, "next_offset") == end && integer(&row, "lag_records") == 0).then_some(row)
        })
    };
    let row = at_end(&mut engine, end);
    assert_eq!(integer(&row, "records"), KEYS as i64 + 1, "{row:?}");
    assert_eq!(integer(&row, "gaps"), end - KEYS as i64 - 1, "{row:?}");
    await_closed(&sandbox, KEYS as i64);
    await_no_lag(&sandbox);
    assert_eq!(engine.stop().code(), Some(0));
    // While the cleaner is at work, before and behind the reader, and from an offset that may be gone.
    (6..=7).for_each(round);
    let mut engine = sandbox.engine();
    (8..=10).for_each(round);
    topic::send(&brokers, name, &hours(KEYS + 1, 1));
    at_end(&mut engine, topic::end_offsets(&brokers, name)[0]);
    assert_eq!(engine.stop().code(), Some(0));
    let of_last_round = "SELECT count(*) FROM intervals WHERE value >= 1000 AND value < 1020";
    assert_eq!(sandbox.number(of_last_round), Some(KEYS as i64));
    assert_eq!(sandbox.number("SELECT count(*) FROM intervals"), Some(KEYS as i64 + 2));
}

#[test]
fn transactions_leave_gaps_that_are_counted_and_nothing_behind() {
    let Some(kafka) = kafka("gaps of transactions") else { return };
    let (brokers, name) = (kafka.brokers(), "gaps");
    kafka.create_topic(name, 1);
    let sandbox = sandbox(kafka, name, "");
    // Nothing but an aborted transaction; then records between aborted ones, and again an end that is nothing to read.
    topic::send_in_transaction(&brokers, name, &hours(500, 7), false);
    let mut engine = sandbox.engine();
    let rows = await_read(&sandbox, &mut engine, 0);
    assert_eq!((integer(&rows[0], "gaps"), integer(&rows[0], "next_offset")), (8, 8));
    topic::send_in_transaction(&brokers, name, &hours(0, 20), true);
    topic::send_in_transaction(&brokers, name, &hours(0, 5), false);
    topic::send_in_transaction(&brokers, name, &hours(20, 20), true);
    topic::send_in_transaction(&brokers, name, &hours(20, 9), false);
    let end = topic::end_offsets(&brokers, name)[0];
    // The last aborted transaction may come after the last record was committed.
    let rows = wait::until("the end of the topic is reached", MINUTE, || {
        let rows = await_read(&sandbox, &mut engine, 40);
        (integer(&rows[0], "next_offset") == end).then_some(rows)
    });
    assert_eq!(integer(&rows[0], "gaps"), end - 40);
    await_no_lag(&sandbox);
    // Of an open transaction nothing can be read, and nothing is behind.
    let open = Transaction::begin(&brokers, "open", name, &hours(40, 10));
    std::thread::sleep(Duration::from_secs(2));
    await_read(&sandbox, &mut engine, 40);
    open.commit();
    await_read(&sandbox, &mut engine, 50);
    assert_eq!(engine.stop().code(), Some(0));
    // And it goes on after the marks.
    let mut engine = sandbox.engine();
    topic::send(&brokers, name, &hours(50, 10));
    await_read(&sandbox, &mut engine, 60);
    assert_eq!(engine.stop().code(), Some(0));
    assert_eq!(sandbox.number("SELECT count(*) FROM intervals"), Some(60));
}

#[test]
fn partitions_that_are_added_are_read_and_empty_ones_hold_nothing_up() {
    let Some(kafka) = kafka("added partitions") else { return };
    let (brokers, name) = (kafka.brokers(), "added");
    kafka.create_topic(name, 1);
    let sandbox = sandbox(kafka, name, "lateness = \"0s\"");
    topic::send(&brokers, name, &hours(0, 20));
    let mut engine = sandbox.engine();
    await_read(&sandbox, &mut engine, 20);
    kafka.add_partitions(name, 8);
    // The new ones are not known to every producer at once.
    let meters = ["a", "b", "c", "d"];
    wait::until("the topic has eight partitions", MINUTE, || {
        (topic::end_offsets(&brokers, name).len() == 8).then_some(())
    });
    for meter in meters {
        topic::send(&brokers, name, &of_meter(meter, 0, 25));
    }
    let rows = await_read(&sandbox, &mut engine, 120);
    assert_eq!(rows.len(), 8);
    let empty = rows.iter().filter(|row| integer(row, "records") == 0).count();
    assert!(empty > 0, "some partition has no meter: {rows:?}");
    await_closed(&sandbox, 24);
    assert_eq!(engine.stop().code(), Some(0));
}

#[test]
fn a_broker_that_stands_still_is_waited_for_and_metrics_go_on() {
    let Some(kafka) = or_skip("the broker that stands still", Kafka::start()) else { return };
    let (brokers, name) = (kafka.brokers(), "still");
    kafka.create_topic(name, 1);
    // Its pause is longer than every time-out.
    let more = "\n[kafka.properties]\n\"socket.timeout.ms\" = \"2000\"\n\"session.timeout.ms\" = \"3000\"\n";
    let sandbox = sandbox(&kafka, name, "");
    sandbox.configure(&(std::fs::read_to_string(sandbox.config()).expect("read it") + more));
    topic::send(&brokers, name, &hours(0, 30));
    let mut engine = sandbox.engine();
    await_read(&sandbox, &mut engine, 30);
    kafka.pause();
    let silence = || sandbox.metric("meterline_partition_silence_seconds{feed=\"meters\",partition=\"0\"}");
    let freshness = || sandbox.metric("meterline_freshness_seconds{feed=\"meters\"}").expect("it is told");
    let before = freshness();
    wait::until("metrics tell that nobody answers", MINUTE, || silence().filter(|silence| *silence > 3.0));
    assert!(freshness() > before);
    assert!(sandbox.http("/readyz").expect("it answers").contains("meters"));
    assert!(engine.runs());
    kafka.resume();
    topic::send(&brokers, name, &hours(30, 30));
    await_read(&sandbox, &mut engine, 60);
    wait::until("the broker answers again", MINUTE, || (silence() == Some(0.0)).then_some(()));
    assert_eq!(engine.stop().code(), Some(0));
    assert_eq!(sandbox.number("SELECT count(*) FROM intervals"), Some(60));
}
