//! The main job: real data through a real Kafka, with the engine killed five times and the broker restarted.

use std::process::Command;
use std::time::Duration;

use meterline_tests::data::RealData;
use meterline_tests::guard::Guarded;
use meterline_tests::kafka::Kafka;
use meterline_tests::oracle;
use meterline_tests::reader::Reader;
use meterline_tests::sandbox::{Sandbox, meterline};
use meterline_tests::skip::{note, or_skip};
use meterline_tests::topic::{self, Outgoing};
use meterline_tests::wait;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::checks;

const TOPIC: &str = "readings";
const KILLS: usize = 5;

/// Small commits, so that a kill finds the stream in the middle; a forecast for every new interval.
const SETTINGS: &str = r#"
lateness = "0s"

[ingest]
commit_interval = "300ms"
commit_records = 4000
idle_timeout = "2s"

[policy.quarter_hours]
frequency = "PT15M"
horizon = "PT6H"
[policy.quarter_hours.reforecast]
when = "new_intervals >= 1"
[policy.quarter_hours.model]
train_time = "10s"

[policy.hours]
frequency = "PT1H"
horizon = "PT24H"
[policy.hours.reforecast]
when = "new_intervals >= 1"
[policy.hours.model]
train_time = "10s"
"#;

/// The commands that send everything once: two frequencies into one topic.
fn senders(data: Option<&RealData>, brokers: &str) -> Vec<Command> {
    let command = |name: &str| {
        let mut command = Command::new(meterline());
        command.args([name, "--brokers", brokers, "--topic", TOPIC]);
        command
    };
    let Some(data) = data else {
        let mut fleet = command("generate");
        fleet.args([
            "--meters",
            "40",
            "--days",
            "40",
            "--mix",
            "PT15M=0.5,PT1H=0.5",
            "--forms",
            "kW=0.5,kWh=0.5",
            "--clean",
        ]);
        return vec![fleet];
    };
    let mut hourly = command("replay");
    hourly.args(["--unit", "kW", "--label", "end"]).arg(data.hourly());
    let mut substations = command("replay");
    substations.args(["--unit", "kW", "--label", "end", "--time-column", "datetime", "--columns", "total_substation"]);
    substations.args(data.substation_files());
    vec![hourly, substations]
}

/// Sends everything once, all commands at the same time, while `meanwhile` goes on.
fn send_all(data: Option<&RealData>, brokers: &str) -> Vec<Guarded> {
    let quiet = std::process::Stdio::null;
    let start =
        |mut c: Command| Guarded::spawn(c.stdin(quiet()).stdout(quiet()).stderr(quiet())).expect("start a sender");
    senders(data, brokers).into_iter().map(start).collect()
}

fn await_sent(senders: Vec<Guarded>) {
    for mut sender in senders {
        let status = sender.wait_for(Duration::from_secs(180)).expect("a sender ends");
        assert!(status.success(), "a sender failed: {status}");
    }
}

#[test]
fn intervals_equal_a_recomputation_after_five_kills_and_a_broker_restart() {
    let Some(mut kafka) = or_skip("the main job", Kafka::start()) else { return };
    let reader = or_skip("the independent reader", Reader::prepare());
    let data = RealData::find();
    let seed = std::env::var("METERLINE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    note(&format!("seed of the kills: METERLINE_SEED={seed}"));
    let mut random = StdRng::seed_from_u64(seed);

    let brokers = kafka.brokers();
    kafka.create_topic(TOPIC, 4);
    let sandbox = Sandbox::reading(&brokers, TOPIC, SETTINGS);
    let mut senders = send_all(data.as_ref(), &brokers);

    for kill in 1..=KILLS {
        let engine = sandbox.engine();
        let before = sandbox.commits();
        let more = random.random_range(1..4);
        wait::until("the engine commits", Duration::from_secs(60), || {
            (sandbox.commits() >= before + more).then_some(())
        });
        if kill == 3 {
            // The engine reads, and perhaps the senders write, while the broker is away.
            kafka.restart();
        }
        std::thread::sleep(Duration::from_millis(random.random_range(0..300)));
        sandbox.kill(engine);
        let committed = checks::committed(&sandbox, TOPIC);
        let sent: i64 = topic::end_offsets(&brokers, TOPIC).iter().sum();
        note(&format!("kill {kill}: {committed} of {sent} records are committed"));
        if committed >= sent {
            // The engine had caught up: everything again, as duplicates, so that the next kill is in mid-stream.
            await_sent(std::mem::take(&mut senders));
            senders = send_all(data.as_ref(), &brokers);
        }
        assert!(kill < KILLS || committed < sent, "the last kill was not in mid-stream");
    }
    await_sent(senders);
    topic::send(&brokers, TOPIC, &by_hand(data.is_some(), &mut random));

    let mut engine = sandbox.engine();
    checks::await_committed(&sandbox, &mut engine, &brokers, TOPIC);
    let expected = oracle::intervals(&topic::drain(&brokers, TOPIC));
    assert!(expected.intervals.len() > 10_000 && !expected.dead.is_empty());
    checks::assert_intervals(&sandbox, "meters", &expected);
    checks::assert_accounted(&sandbox, &brokers, TOPIC, &expected);

    checks::await_forecasts(&sandbox, &mut engine, Duration::from_secs(240));
    assert_eq!(engine.stop().code(), Some(0), "SIGTERM ends it cleanly");
    if let Some(reader) = reader {
        checks::assert_reader_agrees(&sandbox, &reader);
    }
    checks::assert_intervals(&sandbox, "meters", &expected);
}

/// What people do to a topic: the same again, corrections, stragglers, and records that nobody can read.
fn by_hand(real: bool, random: &mut StdRng) -> Vec<Outgoing> {
    let day = |n: u32| if real { format!("2014-06-{n:02}") } else { format!("2024-01-{n:02}") };
    let mut records = Vec::new();
    let mut push =
        |key: &str, payload: &[u8]| records.push(Outgoing { key: key.into(), payload: Some(payload.into()) });
    for n in 0..200 {
        // Hourly series of our own, so that the rule is seen without the senders' values.
        let stamp = format!("{}T{:02}:00:00Z", day(1 + n / 24), n % 24);
        let plain = format!(r#"{{"meter_id":"by hand","ts":"{stamp}","value":{n}.5,"unit":"kWh"}}"#);
        push("by hand", plain.as_bytes());
        match random.random_range(0..4) {
            0 => push("by hand", plain.as_bytes()),
            1 => {
                let changed =
                    format!(r#"{{"meter_id":"by hand","ts":"{stamp}","value":{n},"unit":"kW","quality":"estimated"}}"#);
                // Another key: a correction may come by another partition.
                push(["by hand", "elsewhere"][n as usize % 2], changed.as_bytes());
            }
            _ => {}
        }
    }
    // Long after its neighbours, and before all of them.
    push(
        "by hand",
        format!(r#"{{"meter_id":"by hand","ts":"{}T05:00:00Z","value":7,"unit":"kWh"}}"#, day(20)).as_bytes(),
    );
    push("by hand", br#"{"meter_id":"by hand","ts":"2013-12-31T05:00:00Z","value":8,"unit":"kWh"}"#);
    push(
        "by hand",
        format!(r#"{{"meter_id":"by hand","ts":"{}T03:00:00Z","value":9.25,"unit":"kWh"}}"#, day(2)).as_bytes(),
    );
    for bad in [
        &b"{\"meter_id\":\"bad\",\"ts\":"[..],
        b"not json at all",
        b"\xff\xfe\x00",
        b"[1, 2, 3]",
        br#"{"ts":"2014-06-01T00:00:00Z","value":1}"#,
        br#"{"meter_id":"bad","value":1}"#,
        br#"{"meter_id":"bad","ts":"2014-06-01T00:00:00Z"}"#,
        br#"{"meter_id":"bad","ts":"2014-06-01T00:00:00Z","value":null}"#,
        br#"{"meter_id":"bad","ts":"2014-06-01T00:00:00Z","value":"lots"}"#,
        br#"{"meter_id":"bad","ts":"yesterday","value":1}"#,
        br#"{"meter_id":"bad","ts":"2014-06-01T00:00:00Z","value":1,"quality":"splendid"}"#,
        br#"{"meter_id":"","ts":"2014-06-01T00:00:00Z","value":1}"#,
        br#"{"meter_id":"bad","ts":"2014-06-01T00:00:00Z","value":1e999}"#,
    ] {
        push("bad", bad);
    }
    records.push(Outgoing { key: "tombstone".into(), payload: None });
    records
}
