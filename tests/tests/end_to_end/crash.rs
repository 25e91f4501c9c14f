//! The short form of the crash matrix: a few of its cells. `bench/run crash` does all of them.

use meterline_tests::crash::cell::{Cell, Fault, Moment, Step, Store};
use meterline_tests::crash::run::{Outcome, World, rolls_up};
use meterline_tests::dice::seed;
use meterline_tests::skip::{note, or_skip};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Steps that come with nearly every commit. (A checkpoint takes fifty.)
const OFTEN: &[Step] = Step::OF_COMMIT.split_last().expect("there are steps").1;
/// Steps that come with the first round of housekeeping. (The end of an old log takes a checkpoint.)
const FIRST: &[Step] = &[Step::FoldedFile, Step::Rewrite, Step::LeftOver];

/// A kill at any step of a commit, one where series leave memory, one in housekeeping, and one of the others each; the
/// seed chooses.
fn cells(random: &mut StdRng) -> Vec<Cell> {
    let kill = |steps: &[Step], store, random: &mut StdRng| {
        let step = steps.choose(random).copied().unwrap_or(Step::Commit);
        let moment = Moment::of(step, store).choose(random).copied().unwrap_or(Moment::After);
        Fault::KillAt(step, moment)
    };
    let commit = Fault::KillAt(Step::Commit, Moment::During);
    let broker = [Fault::BrokerPowerCut, Fault::BrokerRestart].choose(random).copied().unwrap_or(Fault::BrokerRestart);
    [
        (commit, Store::S3),
        (kill(OFTEN, Store::S3, random), Store::S3),
        (kill(&[Step::EvictedFile], Store::Local, random), Store::Local),
        (kill(FIRST, Store::Local, random), Store::Local),
        (Fault::KillAtRandom { kills: 3 }, Store::Local),
        (broker, Store::Local),
        (Fault::LostAnswers, Store::S3),
        (Fault::Takeover, Store::Local),
    ]
    .map(|(fault, store)| {
        let processes = if matches!(fault, Fault::KillAtRandom { .. }) { 2 } else { 1 };
        Cell { fault, store, workers: [1, 2, 4][random.random_range(0..3)], processes }
    })
    .to_vec()
}

#[test]
fn after_any_crash_intervals_and_counts_are_what_the_records_say() {
    let Some(mut world) = or_skip("the crash matrix", World::start()) else { return };
    let seed: u64 = seed();
    note(&format!("seed of the crash matrix: METERLINE_SEED={seed}"));
    for cell in cells(&mut StdRng::seed_from_u64(seed)) {
        let of_cell = cell.seed(seed);
        match world.run(&cell, of_cell) {
            Outcome::Judged(verdict) => {
                let (records, intervals, sums) = (verdict.records, verdict.intervals, verdict.sums);
                note(&format!("{cell}: {records} records, {intervals} intervals, {sums} of a roll-up"));
                assert!(verdict.is_clean(), "METERLINE_SEED={seed} {cell}: {verdict:#?}");
                assert!(intervals > 500 && (sums > 100) == rolls_up(&cell, of_cell), "{verdict:?}");
            }
            Outcome::Skipped(skip) => {
                or_skip::<()>(&cell.to_string(), Err(skip));
            }
            Outcome::Failed(failure) => panic!("METERLINE_SEED={seed} {cell}: {failure}"),
        }
    }
}
