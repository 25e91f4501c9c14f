//! The first README command.

use std::time::Duration;

use meterline_tests::sandbox::Sandbox;
use meterline_tests::wait;
use serde_json::Value;

#[test]
fn the_demo_ends_with_a_scored_forecast() {
    let sandbox = Sandbox::new();
    let mut demo = sandbox.command(&["demo", "--exit", "--json"]);
    let finished = wait::run(&mut demo, Duration::from_secs(600)).succeeded();
    let outcome: Value = serde_json::from_str(&finished.stdout).expect("--json prints one JSON document");
    assert!(outcome.is_object(), "{outcome}");
}
