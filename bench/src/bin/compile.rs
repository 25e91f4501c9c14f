//! `bench/run compile`: what a newcomer compiles: number of crates, size of the binary, the slowest crates.
//!
//! The binary is rebuilt with timings, as after a change in the engine: the stamps of its `lib.rs` and `main.rs` are
//! set to now, because a build with nothing to do would measure nothing. `--cold` builds in an empty target folder
//! instead, which takes as long as a newcomer's first build.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Instant, SystemTime};

use clap::Parser;
use meterline_tests::checkout;
use serde_json::{Value, json};

/// What a newcomer compiles: number of crates, size of the binary, time, the slowest crates
#[derive(Debug, Parser)]
struct Args {
    /// Build in an empty target folder instead of after a change in the engine, and measure the ten slowest crates
    #[arg(long)]
    cold: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let metadata = output(cargo().args(["metadata", "--locked", "--format-version", "1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let crates = crates()?;
    let warm_target = PathBuf::from(metadata["target_directory"].as_str().ok_or("no target directory")?);
    let cold_target = warm_target.join("bench-build-cold");
    let target = if args.cold { &cold_target } else { &warm_target };
    if args.cold && target.exists() {
        fs::remove_dir_all(target)?;
    }
    if !args.cold {
        // What is behind is not what is measured: the crates below the engine, and a build that was never made.
        build(target)?;
        touch_engine()?;
    }
    let started = Instant::now();
    build(target)?;
    let seconds = started.elapsed().as_secs_f64();
    let binary = fs::metadata(target.join("release/meterline"))?.len();
    let slowest = if args.cold { slowest(&target.join("cargo-timings"))? } else { Vec::new() };

    let row = |name: &str, ours: f64, unit: &str| json!({"name": name, "ours": ours, "against": null, "theirs": null, "unit": unit, "ratio": null});
    let mut rows = vec![
        row("crates", crates as f64, "crates"),
        row("binary", binary as f64 / 1e6, "MB"),
        row(if args.cold { "cold_build" } else { "warm_build" }, seconds, "s"),
    ];
    rows.extend(slowest.iter().map(|(name, seconds)| row(&format!("slowest/{name}"), *seconds, "s")));
    let document = json!({"bench": "compile", "rows": rows});
    if args.json {
        println!("{document:#}");
    } else {
        for row in document["rows"].as_array().into_iter().flatten() {
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            println!("{:36} {:>10.1} {}", text("name"), row["ours"].as_f64().unwrap_or(f64::NAN), text("unit"));
        }
    }
    Ok(())
}

fn build(target: &Path) -> Result<(), Box<dyn Error>> {
    let build = ["build", "--release", "--locked", "-p", "meterline", "--bin", "meterline", "--timings"];
    let built = cargo().args(build).env("CARGO_TARGET_DIR", target).status()?;
    if built.success() { Ok(()) } else { Err("the build failed".into()) }
}

/// Lets cargo think that the engine's library and program have changed. Their content stays as it is.
fn touch_engine() -> std::io::Result<()> {
    let sources = checkout::root().join("engine/src");
    for file in ["lib.rs", "main.rs"] {
        fs::File::options().append(true).open(sources.join(file))?.set_modified(SystemTime::now())?;
    }
    Ok(())
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(checkout::root());
    command
}

fn output(command: &mut Command) -> Result<String, Box<dyn Error>> {
    let done = command.output()?;
    if !done.status.success() {
        return Err(String::from_utf8_lossy(&done.stderr).into_owned().into());
    }
    Ok(String::from_utf8(done.stdout)?)
}

/// Crates that the binary is made of on this machine, its build scripts' and macros' included.
fn crates() -> Result<usize, Box<dyn Error>> {
    let tree = ["tree", "--locked", "-p", "meterline", "-e", "normal,build", "--prefix", "none", "--format", "{p}"];
    let listed = output(cargo().args(tree))?;
    // Name and version; what follows says where it lies, or that it was listed before.
    let name = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    Ok(listed.lines().filter(|line| !line.is_empty()).map(name).collect::<BTreeSet<_>>().len())
}

/// The ten crates that took longest, build scripts counted with their crate, from cargo's newest report.
fn slowest(reports: &Path) -> Result<Vec<(String, f64)>, Box<dyn Error>> {
    let text = fs::read_to_string(reports.join("cargo-timing.html"))?;
    let data = text.split_once("const UNIT_DATA = ").ok_or("cargo's report has an unknown form")?.1;
    let units: Value = serde_json::Deserializer::from_str(data).into_iter().next().ok_or("no units")??;
    let mut seconds: BTreeMap<String, f64> = BTreeMap::new();
    for unit in units.as_array().into_iter().flatten() {
        let name = format!("{} {}", unit["name"].as_str().unwrap_or("?"), unit["version"].as_str().unwrap_or("?"));
        *seconds.entry(name).or_default() += unit["duration"].as_f64().unwrap_or(0.0);
    }
    let mut seconds: Vec<(String, f64)> = seconds.into_iter().collect();
    seconds.sort_by(|a, b| b.1.total_cmp(&a.1));
    seconds.truncate(10);
    Ok(seconds)
}
