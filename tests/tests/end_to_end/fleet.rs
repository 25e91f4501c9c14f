//! The simulated fleet with all its dirt: two frequencies, power, energy and registers.

use meterline_tests::oracle;
use meterline_tests::sandbox::Sandbox;
use meterline_tests::topic;

use crate::checks;
use crate::harness::kafka;

#[test]
fn a_dirty_fleet_of_two_frequencies_and_registers_is_recomputed_exactly() {
    let Some(kafka) = kafka("the dirty fleet") else { return };
    let brokers = kafka.brokers();
    let registers = r#"
[feed.registers]
topic = "fleet-registers"
series = "meter_id"
time = "ts"
value = "value"
unit_field = "unit"
quality = "quality"
kind = "counter"

[ingest]
commit_interval = "500ms"
idle_timeout = "2s"
# More than the latest straggler is late, so that every register can still be corrected.
remembered_intervals = 400
"#;
    let sandbox = Sandbox::reading(&brokers, "fleet", registers);
    let mut engine = sandbox.engine();
    let arguments = "generate --meters 60 --days 10 --mix PT15M=0.5,PT1H=0.5 --forms kW=0.4,kWh=0.3,register=0.3 \
        --gaps 0.01 --outages 0.02 --late 0.02 --duplicates 0.02 --corrections 0.02 --skewed-clocks 0.2 \
        --malformed 0.002 --topic fleet --seed 7 --brokers";
    let arguments: Vec<&str> = arguments.split_whitespace().chain([brokers.as_str()]).collect();
    sandbox.run(&arguments).succeeded();

    for (topic, feed) in [("fleet", "meters"), ("fleet-registers", "registers")] {
        checks::await_committed(&sandbox, &mut engine, &brokers, topic);
        let records = topic::drain(&brokers, topic);
        let expected = if feed == "meters" { oracle::intervals(&records) } else { oracle::registers(&records) };
        assert!(expected.intervals.len() > 5_000 && !expected.dead.is_empty(), "{topic} has readings and dirt");
        checks::assert_intervals(&sandbox, feed, &expected);
        checks::assert_accounted(&sandbox, &brokers, topic, &expected);
    }
    let groups = sandbox.sql("SELECT DISTINCT frequency FROM series ORDER BY frequency");
    assert_eq!(groups.len(), 2, "both frequencies were detected: {groups:?}");
    assert_eq!(engine.interrupt().code(), Some(0), "Ctrl-C ends it cleanly");
}
