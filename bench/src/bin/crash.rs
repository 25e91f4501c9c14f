//! `bench/run crash`: the crash matrix; whatever happens, nothing is lost and nothing is doubled.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use meterline_bench::crash::{Tallies, told};
use meterline_bench::ingest::Failure;
use meterline_tests::crash::cell::{Cell, matrix};
use meterline_tests::crash::run::{Outcome, World};

/// Kills, a broker, a store, a disk and a clock that fail, for each store and number of workers and processes: exit
/// status 1 where an interval is not what the records say, a row is there twice, a count is wrong, or a run does not
/// come to its end
#[derive(Debug, Parser)]
struct Args {
    /// Number of runs [default: every cell once]
    #[arg(long)]
    runs: Option<usize>,
    /// Only cells whose name contains this, such as `kill-at/commit/during/s3/w4/p1`, `kill-at/`, `kill-at-random` or
    /// `/s3/`
    #[arg(long)]
    only: Option<String>,
    /// Runs side by side, each beside a broker and a store of its own (2 GiB of memory); at most one for each processor
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    parallel: u16,
    /// Repeats the choices of an earlier matrix, which tells its seed [default: by the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// End with one line of JSON on standard output
    #[arg(long)]
    json: bool,
}

fn main() -> Result<ExitCode, Failure> {
    let Args { runs, only, parallel, seed, json } = Args::parse();
    let by_clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seed = seed.unwrap_or_else(by_clock);
    let mut cells = matrix(seed);
    cells.retain(|cell| only.as_ref().is_none_or(|only| cell.to_string().contains(only)));
    if cells.is_empty() {
        return Err("no cell has such a name; without --only all of them are told".into());
    }
    let runs = runs.unwrap_or(cells.len());
    eprintln!("{runs} runs of {} cells, {parallel} at a time, --seed {seed}", cells.len());

    let began = Instant::now();
    // Each with servers of its own: what strikes those of one run strikes no other.
    let worlds =
        (0..parallel).map(|_| World::start()).collect::<Result<Vec<_>, _>>().map_err(|skip| skip.to_string())?;
    let tallies = side_by_side(worlds, &cells, runs, seed);
    eprintln!("{:.0} minutes", began.elapsed().as_secs_f64() / 60.0);
    let table = tallies.table();
    if json {
        eprintln!("{table}")
    } else {
        println!("{table}")
    }
    println!("{}", tallies.all.line());
    Ok(if tallies.all.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whichever world is idle takes the next run.
fn side_by_side(worlds: Vec<World>, cells: &[Cell], runs: usize, seed: u64) -> Tallies {
    let (next, tallies) = (AtomicUsize::new(0), Mutex::new(Tallies::default()));
    std::thread::scope(|scope| {
        let (next, tallies) = (&next, &tallies);
        for mut world in worlds {
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= runs {
                        break;
                    }
                    // Of each further round the seeds are others.
                    let (cell, round) = (&cells[number % cells.len()], (number / cells.len()) as u64);
                    let outcome = one(&mut world, cell, seed.wrapping_add(round), &format!("[{}/{runs}]", number + 1));
                    tallies.lock().unwrap_or_else(PoisonError::into_inner).add(cell, &outcome);
                }
            });
        }
    });
    tallies.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn one(world: &mut World, cell: &Cell, seed: u64, number: &str) -> Outcome {
    let began = Instant::now();
    let outcome = world.run(cell, cell.seed(seed));
    eprintln!("{number} {} --seed {seed}", told(cell, &outcome, began.elapsed().as_secs_f64()));
    outcome
}
