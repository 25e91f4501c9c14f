//! The main job: real data through a real Kafka, with the engine killed five times and the broker restarted.

use std::process::Command;
use std::time::Duration;

use meterline_tests::data::RealData;
use meterline_tests::dice::seed;
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

/// Small commits, so that a kill finds the stream in the middle; a forecast for every new interval, and
/// housekeeping all the time.
pub const SETTINGS: &str = r#"
lateness = "0s"

[ingest]
commit_interval = "300ms"
commit_records = 4000
idle_timeout = "2s"
catch_up_records = 0

[maintenance]
every = "10s"

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

/// Sends everything once, all commands at the same time.
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
    let seed: u64 = seed();
    note(&format!("seed of the kills: METERLINE_SEED={seed}"));
    let mut random = StdRng::seed_from_u64(seed);

    let brokers = kafka.brokers();
    kafka.create_topic(TOPIC, 4);
    let sandbox = Sandbox::reading(&brokers, TOPIC, SETTINGS);
    let (readings, afterthoughts) = by_hand(data.is_some(), &mut random);
    topic::send(&brokers, TOPIC, &readings);
    let mut senders = send_all(data.as_ref(), &brokers);

    let mut kills = 0;
    for attempt in 0.. {
        assert!(attempt < 5 * KILLS, "the engine is too fast to be killed in mid-stream");
        let before = sandbox.commits();
        let engine = sandbox.engine();
        let more = random.random_range(2..6);
        wait::until("the engine commits", Duration::from_secs(60), || {
            (sandbox.commits() >= before + more).then_some(())
        });
        if attempt == KILLS / 2 {
            // The engine reads, and perhaps the senders write, while the broker is away.
            kafka.restart();
        }
        std::thread::sleep(Duration::from_millis(random.random_range(0..300)));
        sandbox.kill(engine);
        let committed = checks::committed(&sandbox, TOPIC);
        let sent: i64 = topic::end_offsets(&brokers, TOPIC).iter().sum();
        note(&format!("killed with {committed} of {sent} records committed"));
        if committed < sent {
            kills += 1;
        }
        if kills == KILLS {
            break;
        }
        if committed + 50_000 > sent {
            // Everything again, as duplicates, so that the next kill is in mid-stream.
            await_sent(std::mem::take(&mut senders));
            senders = send_all(data.as_ref(), &brokers);
        }
    }
    await_sent(senders);
    topic::send(&brokers, TOPIC, &afterthoughts);

    let mut engine = sandbox.engine();
    checks::await_committed(&sandbox, &mut engine, &brokers, TOPIC);
    let expected = oracle::intervals(&topic::drain(&brokers, TOPIC));
    assert!(expected.intervals.len() > 10_000 && !expected.dead.is_empty());
    checks::assert_intervals(&sandbox, "meters", &expected);
    checks::assert_accounted(&sandbox, &brokers, TOPIC, &expected);

    checks::await_forecasts(&sandbox, &mut engine, Duration::from_secs(240));
    checks::await_model(&sandbox, &mut engine, Duration::from_secs(240));
    assert_eq!(engine.stop().code(), Some(0), "SIGTERM ends it cleanly");
    if let Some(reader) = reader {
        checks::assert_reader_agrees(&sandbox, &reader);
    }
    checks::assert_models_serve(&sandbox);
    checks::assert_intervals(&sandbox, "meters", &expected);
}

/// A series of our own, so that the rules are seen without the senders' values: its readings, and what people do to a
/// topic afterwards: the same again, corrections, stragglers, and records that nobody can read.
fn by_hand(real: bool, random: &mut StdRng) -> (Vec<Outgoing>, Vec<Outgoing>) {
    let month = if real { "2014-12" } else { "2024-01" };
    let keyed = |key: &str, payload: &[u8]| Outgoing { key: key.into(), payload: Some(payload.into()) };
    let record = |stamp: &str, value: f64, unit: &str, quality: &str| {
        format!(r#"{{"meter_id":"by hand","ts":"{stamp}","value":{value},"unit":"{unit}","quality":"{quality}"}}"#)
    };
    // The last days before the senders' last hour, so that the group has one last interval.
    let stamps: Vec<String> = (20..=31)
        .flat_map(|day| (0..24).map(move |hour| format!("{month}-{day:02}T{hour:02}:00:00Z")))
        .chain([if real { "2015-01-01T00:00:00Z" } else { "2024-02-01T00:00:00Z" }.to_owned()])
        .collect();
    let mut readings = Vec::new();
    let mut afterthoughts = Vec::new();
    for (n, stamp) in stamps.iter().enumerate() {
        let plain = keyed("by hand", record(stamp, n as f64 + 0.5, "kWh", "measured").as_bytes());
        // Every tenth is a straggler: it comes after all the others.
        if n % 10 == 5 {
            afterthoughts.push(plain.clone())
        } else {
            readings.push(plain.clone())
        }
        match random.random_range(0..4) {
            0 => afterthoughts.push(plain),
            // Another key: a correction may come by another partition.
            1 => {
                let changed = record(stamp, n as f64, "W", "estimated");
                afterthoughts.push(keyed(["by hand", "elsewhere"][n % 2], changed.as_bytes()));
            }
            _ => {}
        }
    }
    // Long before all of them.
    afterthoughts.push(keyed("by hand", record("2013-06-30T05:00:00Z", 8.0, "kWh", "measured").as_bytes()));
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
        afterthoughts.push(keyed("bad", bad));
    }
    afterthoughts.push(Outgoing { key: "tombstone".into(), payload: None });
    (readings, afterthoughts)
}
