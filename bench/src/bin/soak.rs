//! `bench/run soak`: whether memory, commit time and number of files stay flat.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use meterline_bench::ingest::Failure;
use meterline_bench::report;
use meterline_bench::soak::run::{Soak, run};

/// Minutes of readings at half the maximum rate, with corrections, duplicates, housekeeping and SIGKILLs: exit status 1
/// where memory, commit time or the number of files grows, where the stream falls behind, or where a reading is
/// lost or doubled
#[derive(Debug, Parser)]
struct Args {
    /// Minutes of load
    #[arg(long, default_value_t = 20.0)]
    minutes: f64,
    /// Number of series [default: as many as send a month of readings a minute]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    series: Option<u64>,
    /// Readings a second [default: half of what the engine commits while as many are made beside it as can be, measured first]
    #[arg(long)]
    rate: Option<f64>,
    /// Minutes between two SIGKILLs of the engine, in the first half of the soak
    #[arg(long, default_value_t = 2.0)]
    kill_every: f64,
    /// Folder for the plot (soak.svg) and the samples (CSV)
    #[arg(long, default_value = "soak")]
    out: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn main() -> Result<ExitCode, Failure> {
    let Args { minutes, series, rate, kill_every, out, json } = Args::parse();
    let (rows, well) = run(&Soak { minutes, series, rate, kill_every, out })?;
    report::print("soak", &rows, json);
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
