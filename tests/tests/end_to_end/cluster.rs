//! One stream in two processes, of which either is killed, paused or asked to end.

use std::process::{Command, Stdio};
use std::time::Duration;

use meterline_tests::dice::seed;
use meterline_tests::guard::Guarded;
use meterline_tests::oracle;
use meterline_tests::ports::free_addresses;
use meterline_tests::sandbox::{Engine, Sandbox, meterline};
use meterline_tests::skip::note;
use meterline_tests::topic;
use meterline_tests::wait;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::checks;
use crate::faults::await_log;
use crate::harness::{MINUTE, kafka};

/// Small commits, so that a kill finds the stream in the middle.
const SETTINGS: &str =
    "\n[ingest]\ncommit_interval = \"200ms\"\ncommit_records = 3000\nworkers = 2\nidle_timeout = \"2s\"\n";

/// Two processes on this machine.
struct Cluster {
    sandbox: Sandbox,
    addresses: String,
}

impl Cluster {
    fn reading(brokers: &str, topic: &str) -> Cluster {
        let addresses: Vec<String> = free_addresses(2).iter().map(|address| format!("\"{address}\"")).collect();
        let addresses = format!("[{}]", addresses.join(", "));
        let more = format!("{SETTINGS}[cluster]\naddresses = {addresses}\n{}", Sandbox::no_pipelines("PT15M"));
        Cluster { sandbox: Sandbox::reading(brokers, topic, &more), addresses }
    }

    /// All in one process from now on.
    fn disband(&self) {
        self.sandbox.replace(&self.addresses, "[]");
    }

    /// In two processes again.
    fn gather_again(&self) {
        self.sandbox.replace("addresses = []", &format!("addresses = {}", self.addresses));
    }

    fn start(&self) -> [Engine; 2] {
        [self.sandbox.process(0), self.sandbox.member(1)]
    }
}

/// A fleet that sends all the time; all of it again, as duplicates, once it is through.
struct Fleet<'a> {
    brokers: &'a str,
    topic: &'a str,
    process: Guarded,
}

impl Fleet<'_> {
    fn sending<'a>(brokers: &'a str, topic: &'a str) -> Fleet<'a> {
        let mut fleet = Command::new(meterline());
        let kind = "--meters 60 --days 20 --mix PT15M --forms kW=0.5,kWh=0.5 --clean --seed 11 --rate 6000";
        fleet.arg("generate").args(kind.split(' ')).args(["--topic", topic, "--brokers", brokers]);
        fleet.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Fleet { brokers, topic, process: Guarded::spawn(&mut fleet).expect("start a sender") }
    }

    fn go_on(&mut self) {
        if let Some(status) = self.process.ended() {
            assert!(status.success(), "the sender failed: {status}");
            *self = Fleet::sending(self.brokers, self.topic);
        }
    }

    fn finish(mut self) {
        let status = self.process.wait_for(Duration::from_secs(180)).expect("the sender ends");
        assert!(status.success(), "the sender failed: {status}");
    }
}

fn check(sandbox: &Sandbox, brokers: &str, topic: &str) {
    let expected = oracle::intervals(&topic::drain(brokers, topic));
    assert!(expected.intervals.len() > 100_000, "{} intervals", expected.intervals.len());
    checks::assert_intervals(sandbox, "meters", &expected);
    checks::assert_accounted(sandbox, brokers, topic, &expected);
}

/// Waits for two commits more than there were, while readings come.
fn await_progress(sandbox: &Sandbox, engine: &mut Engine, fleet: &mut Fleet<'_>, before: usize) {
    wait::until("two more commits", MINUTE, || {
        assert!(engine.runs(), "the engine ended by itself");
        fleet.go_on();
        (sandbox.commits() > before + 2).then_some(())
    });
}

#[test]
fn processes_that_are_killed_lose_and_double_nothing() {
    let Some(kafka) = kafka("the cluster") else { return };
    let (brokers, topic) = (kafka.brokers(), "cluster");
    kafka.create_topic(topic, 4);
    let seed: u64 = seed();
    note(&format!("seed of the kills: METERLINE_SEED={seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = Cluster::reading(&brokers, topic);
    let sandbox = &cluster.sandbox;
    let mut fleet = Fleet::sending(&brokers, topic);

    let mut workers = "workers = 2".to_owned();
    for victim in [1, 0, 1, 0] {
        let before = sandbox.commits();
        let mut engines = cluster.start();
        await_progress(sandbox, &mut engines[0], &mut fleet, before);
        let health = ["/healthz", "/readyz"].map(|path| sandbox.answer_of_member(path).map(|(status, _)| status));
        assert_eq!(health, [Some(200); 2], "the health of process 1");
        std::thread::sleep(Duration::from_millis(random.random_range(0..300)));
        let [leader, member] = engines;
        // A terminal that is closed ends neither of them.
        for engine in [&leader, &member] {
            let hangup = std::process::Command::new("kill").args(["-HUP", &engine.id().to_string()]).status();
            assert!(hangup.expect("send a signal").success());
        }
        let (killed, mut other) = if victim == 0 { (leader, member) } else { (member, leader) };
        sandbox.kill(killed);
        assert_eq!(other.wait(MINUTE).code(), Some(1), "the other process ends as well");
        let now = format!("workers = {}", 1 + random.random_range(0..3));
        cluster.sandbox.replace(&workers, &now);
        workers = now;
    }
    let log = sandbox.log();
    for lost in ["the connection to process 0 at", "the connection to process 1 at"] {
        assert!(log.contains(lost), "{lost}");
    }

    // Once in one process, and then in two again, which end together.
    cluster.disband();
    let before = sandbox.commits();
    let mut alone = sandbox.engine();
    await_progress(sandbox, &mut alone, &mut fleet, before);
    sandbox.kill(alone);
    cluster.gather_again();
    let [mut leader, member] = cluster.start();
    fleet.finish();
    checks::await_committed(sandbox, &mut leader, &brokers, topic);
    assert_eq!(member.stop().code(), Some(0), "the process that was asked to end");
    assert_eq!(leader.wait(MINUTE).code(), Some(0), "process 0");
    check(sandbox, &brokers, topic);
}

#[test]
fn a_process_that_wakes_up_late_harms_nobody() {
    let Some(kafka) = kafka("paused processes") else { return };
    let (brokers, topic) = (kafka.brokers(), "paused");
    kafka.create_topic(topic, 4);
    let cluster = Cluster::reading(&brokers, topic);
    let sandbox = &cluster.sandbox;
    let mut fleet = Fleet::sending(&brokers, topic);
    let [mut leader, mut member] = cluster.start();
    await_progress(sandbox, &mut leader, &mut fleet, 0);
    // Process 0 stands still in mid-stream; another engine goes on, and it wakes up in front of a fence.
    leader.pause();
    cluster.disband();
    let before = sandbox.commits();
    let mut alone = sandbox.engine();
    await_progress(sandbox, &mut alone, &mut fleet, before);
    leader.resume();
    assert_eq!(leader.wait(MINUTE).code(), Some(1), "process 0 is fenced");
    assert_eq!(member.wait(MINUTE).code(), Some(1), "and so process 1 ends");
    await_log(sandbox, "the log tells of the fence", &["stop one of them"]);
    assert_eq!(alone.stop().code(), Some(0));

    // The other process stands still, and wakes up when nothing is left of its cluster.
    cluster.gather_again();
    let before = sandbox.commits();
    let [mut leader, mut member] = cluster.start();
    await_progress(sandbox, &mut leader, &mut fleet, before);
    member.pause();
    sandbox.kill(leader);
    cluster.disband();
    let before = sandbox.commits();
    let mut alone = sandbox.engine();
    await_progress(sandbox, &mut alone, &mut fleet, before);
    member.resume();
    assert_eq!(member.wait(MINUTE).code(), Some(1), "process 1 ends");
    assert!(alone.runs());
    fleet.finish();
    checks::await_committed(sandbox, &mut alone, &brokers, topic);
    assert_eq!(alone.stop().code(), Some(0));
    check(sandbox, &brokers, topic);
}

#[test]
fn processes_that_do_not_fit_say_what_differs() {
    let Some(kafka) = kafka("processes that differ") else { return };
    let (brokers, topic) = (kafka.brokers(), "differing");
    kafka.create_topic(topic, 1);
    let cluster = Cluster::reading(&brokers, topic);
    let sandbox = &cluster.sandbox;
    let mut beyond = sandbox.process(2);
    assert_eq!(beyond.wait(MINUTE).code(), Some(2));
    await_log(sandbox, "the log tells of the number", &["there is no process 2"]);
    let leader = sandbox.process(0);
    await_log(sandbox, "process 0 waits aloud", &["waiting for a process of the cluster to be started"]);
    cluster.sandbox.replace("workers = 2", "workers = 3");
    let mut member = sandbox.process(1);
    assert_eq!(member.wait(MINUTE).code(), Some(2));
    await_log(sandbox, "the log says what differs", &["set ingest.workers to the same number everywhere"]);
    assert_eq!(leader.stop().code(), Some(0), "process 0 ends while it waits");
}
