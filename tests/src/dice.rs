//! Random choices that can be made again: those of a seed, which failing tests print.
//!
//! `METERLINE_SEED` repeats one case.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Random numbers, the same for the same seed. Tasks may share one.
#[derive(Debug)]
pub struct Dice(AtomicU64);

impl Dice {
    /// Those of a seed.
    pub fn new(seed: u64) -> Dice {
        Dice(AtomicU64::new(seed))
    }

    /// From 0 to `below` - 1.
    pub fn roll(&self, below: u64) -> u64 {
        // SplitMix64: neighbouring seeds have nothing in common.
        let step = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.0.fetch_add(step, Ordering::Relaxed).wrapping_add(step);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }

    /// Whether one of so many comes up.
    pub fn one_in(&self, odds: u64) -> bool {
        self.roll(odds) == 0
    }

    /// One of these.
    pub fn pick<T: Clone>(&self, from: &[T]) -> T {
        from[self.roll(from.len() as u64) as usize].clone()
    }

    /// Brings them into another order.
    pub fn shuffle<T>(&self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.roll(index as u64 + 1) as usize);
        }
    }
}

fn given() -> Option<u64> {
    std::env::var("METERLINE_SEED").ok()?.parse().ok()
}

/// The seed of a test that has one case.
pub fn seed() -> u64 {
    given().unwrap_or_else(rand::random)
}

/// The seeds of a test that has so many cases; other ones in each run, which are printed.
pub fn seeds(cases: u64) -> Range<u64> {
    if let Some(seed) = given() {
        return seed..seed + 1;
    }
    let first = rand::random::<u64>() >> 16;
    println!("METERLINE_SEED={first} to {}", first + cases - 1);
    first..first + cases
}
