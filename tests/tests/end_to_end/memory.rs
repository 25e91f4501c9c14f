//! Memory is bounded by configuration, not by how much waits in a topic: a backlog, and a store that is slow.

use std::fs;
use std::time::Duration;

use meterline_tests::accounts;
use meterline_tests::crash::cell::Step;
use meterline_tests::fault_proxy::{Fault, FaultProxy};
use meterline_tests::s3::S3;
use meterline_tests::sandbox::{Engine, Sandbox};
use meterline_tests::skip::{Skip, note, or_skip};
use meterline_tests::{topic, wait};

use crate::checks;
use crate::harness::{hours, kafka};

const TOPIC: &str = "backlog";
const PARTITIONS: usize = 4;
/// `ingest.memory_limit`, in KiB.
const LIMIT_KIB: u64 = 64_000_000 / 1024;
/// What the process may take beside that and what it takes when it has little to do: buffers of the client libraries,
/// and what the allocator keeps for later. The backlog takes several times as much if nothing bounds it.
const BESIDE_KIB: u64 = 200 << 10;
/// Quarter hours of 500 meters in 30 days.
const BACKLOG: i64 = 500 * 30 * 96;

const SETTINGS: &str = r#"
frequency = "PT15M"

[ingest]
memory_limit = "64MB"
commit_interval = "1s"
idle_timeout = "1s"
workers = 2

[maintenance]
every = "off"

[http]
listen = "127.0.0.1:0"
"#;

/// The most resident memory that an engine has had so far, in KiB; `None` where the system does not say so.
fn peak_kib(engine: &Engine) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", engine.id())).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

/// Whether the engine is through with what it knows to be in the topic.
fn has_no_lag(sandbox: &Sandbox) -> Option<()> {
    let metrics = sandbox.http("/metrics")?;
    let lags = metrics.lines().filter(|line| line.starts_with("meterline_lag_records{"));
    let lags: Vec<&str> = lags.filter_map(|line| line.rsplit(' ').next()).collect();
    let none = |lag: &&str| lag.parse::<f64>() == Ok(0.0);
    (lags.len() == PARTITIONS && lags.iter().all(none)).then_some(())
}

#[test]
fn a_backlog_and_a_slow_store_take_no_more_memory_than_configured() {
    let test = "memory with a backlog";
    let Some(kafka) = kafka(test) else { return };
    let Some(server) = or_skip(test, S3::start()) else { return };
    let proxy = FaultProxy::start(server.address());
    let brokers = kafka.brokers();
    kafka.create_topic(TOPIC, PARTITIONS as i32);
    let settings = SETTINGS.to_owned() + &Sandbox::no_pipelines("PT15M");
    let sandbox = Sandbox::reading_on_s3(&brokers, TOPIC, &server, &proxy.endpoint(), &settings);

    // With everything that it needs once: little of it is a matter of how much there is to do.
    topic::send(&brokers, TOPIC, &hours(0, 100));
    let mut engine = sandbox.engine();
    checks::await_committed(&sandbox, &mut engine, &brokers, TOPIC);
    let no_proc = || Skip("this system does not tell the memory of processes in /proc".into());
    let Some(base) = or_skip(test, peak_kib(&engine).ok_or_else(no_proc)) else { return };
    assert_eq!(engine.stop().code(), Some(0));

    let backlog = "generate --meters 500 --days 30 --mix PT15M --forms kWh --clean --seed 6 --topic backlog --brokers";
    sandbox.run(&backlog.split_whitespace().chain([brokers.as_str()]).collect::<Vec<_>>()).succeeded();
    let sent: i64 = topic::end_offsets(&brokers, TOPIC).iter().sum();
    assert!(sent >= BACKLOG, "{sent} records");
    // A rule is about one request at a time; several are under way.
    let writes = Step::IntervalFile.requests();
    for _ in 0..8 {
        proxy.on(writes.method, &writes.path, 1, u32::MAX, Fault::Delay(Duration::from_millis(300)));
    }
    let mut engine = sandbox.engine();
    // Metrics first: a query a moment would take the processors from the engine.
    wait::until("the backlog is read", Duration::from_secs(180), || {
        assert!(engine.runs(), "the engine ended by itself");
        std::thread::sleep(Duration::from_millis(200));
        has_no_lag(&sandbox)
    });
    checks::await_committed(&sandbox, &mut engine, &brokers, TOPIC);
    let peak = peak_kib(&engine).expect("the engine runs");
    assert_eq!(engine.stop().code(), Some(0));
    note(&format!(
        "{sent} readings within {} MiB: {} MiB at most, {} MiB with little to do, {} slow writes",
        LIMIT_KIB >> 10,
        peak >> 10,
        base >> 10,
        proxy.fired()
    ));
    // With the epochs of this limit; those of the default would be over after a few.
    assert!(proxy.fired() >= 20, "the store was slow {} times", proxy.fired());
    let most = LIMIT_KIB + base + BESIDE_KIB;
    assert!(peak < most, "{peak} KiB, more than {LIMIT_KIB} + {base} + {BESIDE_KIB} KiB");

    assert_eq!(sandbox.number("SELECT count(*) FROM intervals"), Some(sent));
    for row in sandbox.sql("SELECT * FROM partitions") {
        assert_eq!(accounts::faults(&row), Ok(vec![]), "{row:?}");
    }
}
