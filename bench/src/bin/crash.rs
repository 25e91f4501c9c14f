//! `bench/run crash`: the crash matrix; whatever happens, nothing is lost and nothing is doubled.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use meterline_bench::crash::{Tally, table, told};
use meterline_bench::ingest::Failure;
use meterline_tests::crash::cell::{Cell, matrix};
use meterline_tests::crash::run::{Outcome, World};

/// Kills, a broker, a store, a disk and a clock that fail, for each store and number of workers and processes: exit status 1
/// where an interval is not what the records say, a row is there twice, a count is wrong, or a run does not come to its end
#[derive(Debug, Parser)]
struct Args {
    /// Number of runs [default: every cell once]
    #[arg(long)]
    runs: Option<usize>,
    /// Only cells whose name contains this, such as `kill-at/commit/during/s3/w4/p1`, `slow-disk` or `/s3/`
    #[arg(long)]
    only: Option<String>,
    /// Repeats the choices of an earlier matrix, which tells its seed [default: by the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// End with one line of JSON on standard output
    #[arg(long)]
    json: bool,
}

fn main() -> Result<ExitCode, Failure> {
    let Args { runs, only, seed, json } = Args::parse();
    let by_clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seed = seed.unwrap_or_else(by_clock);
    let mut cells = matrix(seed);
    cells.retain(|cell| only.as_ref().is_none_or(|only| cell.to_string().contains(only)));
    if cells.is_empty() {
        return Err("no cell has such a name; without --only all of them are told".into());
    }
    let runs = runs.unwrap_or(cells.len());
    eprintln!("{runs} runs of {} cells, --seed {seed}", cells.len());

    let mut world = World::start().map_err(|skip| skip.to_string())?;
    let mut all = Tally::default();
    let mut by_fault: BTreeMap<&'static str, Tally> = BTreeMap::new();
    for (number, cell) in cells.iter().cycle().take(runs).enumerate() {
        // Of each further round the seeds are others.
        let round = (number / cells.len()) as u64;
        let outcome = one(&mut world, cell, seed.wrapping_add(round), &format!("[{}/{runs}]", number + 1));
        all.add(&outcome);
        by_fault.entry(cell.fault.name()).or_default().add(&outcome);
    }
    let table = table(&by_fault, &all);
    if json {
        eprintln!("{table}")
    } else {
        println!("{table}")
    }
    println!("{}", all.line());
    Ok(if all.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn one(world: &mut World, cell: &Cell, seed: u64, number: &str) -> Outcome {
    let began = Instant::now();
    let outcome = world.run(cell, cell.seed(seed));
    eprintln!("{number} {} --seed {seed}", told(cell, &outcome, began.elapsed().as_secs_f64()));
    outcome
}
