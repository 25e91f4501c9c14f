//! `bench/run statistics`: our models of one series beside statsforecast, our trees beside LightGBM and what there is in
//! Rust, and many series.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use meterline_bench::report;
use meterline_bench::statistics::boosters::Boosters;
use meterline_bench::statistics::python::Python;
use meterline_bench::statistics::{Failure, models, scale, trees};

// That of the engine.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Series a second, a second of a processor and accuracy of our models beside statsforecast; training of our trees
/// beside LightGBM, hessboost and perpetual; time and memory of many series
#[derive(Debug, Parser)]
#[command(name = "bench/run statistics")]
struct Args {
    /// Parts that are measured
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Models, Part::Trees, Part::Scale])]
    parts: Vec<Part>,
    /// Series that are fitted and forecast at once
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    series: u32,
    /// Values of each series: hours
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(700..))]
    points: u32,
    /// Of these, series that are forecast one by one beside statsforecast, at most
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    peer_series: u32,
    /// Of these, series whose rows trees are trained on beside those of others, at most
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    tree_series: u32,
    /// Interpreter of Python with the packages of bench/python/requirements.txt. Default: the environment variable
    /// METERLINE_PYTHON; without, an environment is made in the cache, once
    #[arg(long)]
    python: Option<PathBuf>,
    /// Fit this model alone, in this process, and print what that took
    #[arg(long, hide = true)]
    alone: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Models of one series beside statsforecast
    Models,
    /// Gradient-boosted trees beside LightGBM, and beside hessboost and perpetual, which are built in the cache, once
    Trees,
    /// Many series: minutes and memory
    Scale,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let (series, points) = (args.series as usize, args.points as usize);
    if let Some(model) = &args.alone {
        println!("{}", scale::alone_in_process(model, series, points)?);
        return Ok(());
    }
    let wants = |part: Part| args.parts.contains(&part);
    let given = args.python.or_else(|| std::env::var_os("METERLINE_PYTHON").map(PathBuf::from));
    let python = if wants(Part::Models) || wants(Part::Trees) { Python::find(given) } else { None };
    let mut rows = Vec::new();
    if wants(Part::Models) {
        rows.extend(models::measure(series.min(args.peer_series as usize), points, python.as_ref())?);
    }
    if wants(Part::Trees) {
        let (count, boosters) = (series.min(args.tree_series as usize), Boosters::build());
        rows.extend(trees::measure(count, points, python.as_ref(), boosters.as_ref())?);
    }
    if wants(Part::Scale) {
        rows.extend(scale::measure(series, points)?);
    }
    report::print("statistics", &rows, args.json);
    Ok(())
}
