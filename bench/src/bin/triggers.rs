//! `bench/run triggers [--json]`: how long it takes to look at the triggers of a thousand groups, how soon after a commit
//! they decide, and what policies of retraining buy for the time on the device.

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use meterline_bench::report::print;
use meterline_bench::triggers::{delay, evaluation, policies};

// That of the engine, whose part alone is measured in this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Triggers: evaluation time, delay of decisions, and accuracy against time on the device
#[derive(Debug, Parser)]
struct Args {
    /// Model groups
    #[arg(long, default_value_t = 1_000)]
    groups: usize,
    /// Series in all
    #[arg(long, default_value_t = 1_000_000)]
    series: usize,
    /// Commits that are looked at
    #[arg(long, default_value_t = 11)]
    commits: usize,
    /// Folder with `uci_electricity`, for the policies. Default: the environment variable METERLINE_DATA; without either,
    /// they are left out
    #[arg(long)]
    data: Option<PathBuf>,
    /// Kinds of models that policies retrain
    #[arg(long, value_delimiter = ',', default_values_t = ["linear_quantile", "boosted_trees"].map(String::from))]
    kinds: Vec<String>,
    /// Days that policies are replayed over
    #[arg(long, default_value_t = 90)]
    days: i64,
    /// Only these: evaluation, delay, policies
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let wanted = |what: &str| args.only.is_empty() || args.only.iter().any(|only| only == what);
    let mut rows = Vec::new();
    if wanted("evaluation") {
        let directory = tempfile::tempdir()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let measured = evaluation::measure(directory.path(), args.groups.max(1), args.series, args.commits.max(2));
        rows.extend(runtime.block_on(measured)?);
    }
    if wanted("delay") {
        match delay::measure() {
            Ok(found) => rows.extend(found),
            Err(why) => eprintln!("no delay: {why}"),
        }
    }
    let data = args.data.or_else(|| std::env::var_os("METERLINE_DATA").map(PathBuf::from));
    let mut plots = Vec::new();
    match data.filter(|_| wanted("policies")) {
        Some(data) => {
            for kind in &args.kinds {
                let bought = policies::measure(&data, kind, args.days)?;
                rows.extend(policies::rows(kind, &bought));
                plots.push(format!("{kind}\n{}", policies::plot(&bought)));
            }
        }
        None => eprintln!("no policies: neither --data nor METERLINE_DATA names a folder, or they are not asked for"),
    }
    print("triggers", &rows, args.json);
    if !args.json {
        plots.iter().for_each(|plot| println!("\n{plot}"));
    }
    Ok(())
}
