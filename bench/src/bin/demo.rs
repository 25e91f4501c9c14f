//! `bench/run demo`: what a newcomer waits for: `meterline demo --exit`, once, by its own clock.

use std::error::Error;
use std::time::Duration;

use clap::Parser;
use meterline_tests::sandbox::{Sandbox, meterline};
use meterline_tests::wait;
use serde_json::{Value, json};

/// Longer than the demo itself waits for its goal.
const LIMIT: Duration = Duration::from_secs(720);

/// Seconds of `meterline demo --exit` to its milestones, and its peak memory
#[derive(Debug, Parser)]
struct Args {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    // Built before anything is measured.
    meterline();
    let sandbox = Sandbox::new();
    let finished = wait::run(&mut sandbox.command(&["demo", "--exit", "--json"]), LIMIT);
    if finished.code != Some(0) {
        return Err(format!("the demo failed:\n{}", finished.stderr).into());
    }
    let outcome: Value = serde_json::from_str(&finished.stdout)?;
    let figure = |name: &str| outcome[name].as_f64().ok_or_else(|| format!("the demo does not say its {name}"));
    let row = |name: &str, ours: Option<f64>, unit: &str| json!({"name": name, "ours": ours, "against": null, "theirs": null, "unit": unit, "ratio": null});
    let rows = [
        row("first_model_forecast", Some(figure("first_forecast_seconds")?), "s"),
        row("scored_reforecast", Some(figure("scored_seconds")?), "s"),
        row("total", Some(figure("seconds")?), "s"),
        // Linux alone says it.
        row("peak_memory", outcome["peak_memory_bytes"].as_f64().map(|bytes| bytes / 1_048_576.0), "MiB"),
    ];
    let document = json!({"bench": "demo", "rows": rows});
    if args.json {
        println!("{document:#}");
    } else {
        for row in &rows {
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            println!("{:28} {:>10.1} {}", text("name"), row["ours"].as_f64().unwrap_or(f64::NAN), text("unit"));
        }
    }
    Ok(())
}
