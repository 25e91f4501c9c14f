//! Work over many series, spread over the processors, and what it took.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::ingest::process::own_cpu_s;

/// Processors that this process may use.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// What one pass over everything took, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Took {
    /// By the clock.
    pub seconds: f64,
    /// Of processors, user and system.
    pub cpu_s: f64,
}

/// Takes the time of `work`, once.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Took) {
    let (begun, cpu_before) = (Instant::now(), own_cpu_s());
    let done = work();
    (done, Took { seconds: begun.elapsed().as_secs_f64(), cpu_s: own_cpu_s() - cpu_before })
}

/// The same for work that is done again and again for so many seconds at least: its mean.
pub fn timed_for<T>(seconds_min: f64, mut work: impl FnMut() -> T) -> (T, Took) {
    let (mut passes, (begun, cpu_before)) = (0.0, (Instant::now(), own_cpu_s()));
    loop {
        let done = work();
        passes += 1.0;
        let seconds = begun.elapsed().as_secs_f64();
        if seconds >= seconds_min {
            return (done, Took { seconds: seconds / passes, cpu_s: (own_cpu_s() - cpu_before) / passes });
        }
    }
}

/// `each` of 0 … `count` − 1 on all processors, its results in order.
pub fn in_parallel<T: Send>(count: usize, each: impl Fn(usize) -> T + Sync) -> Vec<T> {
    // Few at a time, so that none waits long for the last.
    let (next, several) = (AtomicUsize::new(0), (count / (16 * cores())).max(1));
    let part = || {
        let mut found = Vec::new();
        loop {
            let from = next.fetch_add(several, Ordering::Relaxed);
            if from >= count {
                return found;
            }
            found.extend((from..(from + several).min(count)).map(|number| (number, each(number))));
        }
    };
    let mut all: Vec<(usize, T)> = thread::scope(|scope| {
        let threads: Vec<_> = (1..cores()).map(|_| scope.spawn(part)).collect();
        let mut all = part();
        for thread in threads {
            match thread.join() {
                Ok(found) => all.extend(found),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    all.sort_unstable_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, found)| found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_whoever_found_them() {
        for count in [0, 1, 7, 1000] {
            assert_eq!(in_parallel(count, |number| number * number), (0..count).map(|n| n * n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_short_is_done_again() {
        let mut passes = 0;
        let (_, took) = timed_for(0.02, || {
            passes += 1;
            thread::sleep(std::time::Duration::from_millis(5));
        });
        assert!((1..=4).contains(&passes) && took.seconds * f64::from(passes) >= 0.02, "{passes} {took:?}");
    }
}
