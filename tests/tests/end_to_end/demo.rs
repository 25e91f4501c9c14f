//! The first README command.

use std::time::Duration;

use meterline_tests::sandbox::Sandbox;
use meterline_tests::wait;
use serde_json::Value;

/// Longer than the demo itself waits for its goal (600 s), so that it says what was missing.
const LIMIT: Duration = Duration::from_secs(720);
/// What the README promises.
const SECONDS_MAX: f64 = 300.0;
const PEAK_BYTES_MAX: u64 = 4 << 30;

#[test]
fn the_demo_ends_with_a_scored_forecast_in_time_and_memory() {
    let sandbox = Sandbox::new();
    let mut demo = sandbox.command(&["demo", "--exit", "--json"]);
    let finished = wait::run(&mut demo, LIMIT).succeeded();
    let outcome: Value = serde_json::from_str(&finished.stdout).expect("--json prints one JSON document");
    let number = |name: &str| outcome[name].as_f64().unwrap_or_else(|| panic!("{name} is missing: {outcome}"));

    let (first, scored, end) = (number("first_forecast_seconds"), number("scored_seconds"), number("seconds"));
    assert!(first <= scored && scored <= end, "a forecast by a model, and then a later one with its score: {outcome}");
    assert!(end < SECONDS_MAX, "it took {end:.0} s");
    let later = &outcome["scored"];
    let version = later["model_version"].as_str().expect("the scored forecast names its model");
    assert!(!version.is_empty() && version != "seasonal_naive", "{outcome}");
    assert!(later["points"].as_u64().is_some_and(|points| points > 0), "{outcome}");
    assert!(later["wql"].is_f64() && later["naive_wql"].is_f64(), "{outcome}");
    if cfg!(target_os = "linux") {
        let peak = outcome["peak_memory_bytes"].as_u64().expect("Linux says how much memory was used");
        assert!(peak < PEAK_BYTES_MAX, "{} MiB were used", peak >> 20);
    }
}
