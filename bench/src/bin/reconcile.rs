//! `bench/run reconcile`: the step of infer runs that makes forecasts of roll-ups the sums of those of their parts: how long
//! it takes, and, where there is real load, what it makes of forecasts.

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use meterline_bench::reconcile::speed::Fleet;
use meterline_bench::reconcile::{accuracy, speed};
use meterline_bench::report::print;
use meterline_schemas::config::Reconcile;

/// Time and accuracy of forecasts that are made to add up
#[derive(Debug, Parser)]
struct Args {
    /// Meters
    #[arg(long, default_value_t = 30_000)]
    meters: usize,
    /// Feeders that they are of
    #[arg(long, default_value_t = 1_000)]
    feeders: usize,
    /// Regions that the feeders are of
    #[arg(long, default_value_t = 30)]
    regions: usize,
    /// Folder with `uci_electricity`, for the accuracy. Default: the environment variable METERLINE_DATA; without either,
    /// only the time is measured
    #[arg(long)]
    data: Option<PathBuf>,
    /// Models whose forecasts are reconciled for the accuracy
    #[arg(long, value_delimiter = ',', default_values_t = ["linear_quantile", "boosted_trees"].map(String::from))]
    models: Vec<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let fleet = Fleet { meters: args.meters, feeders: args.feeders.max(1), regions: args.regions.max(1) };
    let mut rows = Vec::new();
    for (way, name) in [(Reconcile::BottomUp, "bottom_up"), (Reconcile::MinTrace, "min_trace")] {
        rows.extend(speed::measure(fleet, way, name)?);
    }
    match args.data.or_else(|| std::env::var_os("METERLINE_DATA").map(PathBuf::from)) {
        Some(data) => {
            for model in &args.models {
                rows.extend(accuracy::measure(&data, model)?);
            }
        }
        None => eprintln!("no accuracy: neither --data nor METERLINE_DATA names a folder"),
    }
    print("reconcile", &rows, args.json);
    Ok(())
}
