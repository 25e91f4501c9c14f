//! One model a level: as many at a time as there are processors, one thread each.
//!
//! Threads that share a tree wait for each other after every split, where something else runs beside them for long. For
//! the same reason LightGBM is measured so.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::Failure;

/// Processors that this process may use.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// What `each` makes of each level and its place, in their order.
///
/// # Errors
/// That of the first level that failed.
pub fn each_level<T: Send>(
    levels: &[f64],
    each: impl Fn(usize, f64) -> Result<T, Failure> + Sync,
) -> Result<Vec<T>, Failure> {
    let next = AtomicUsize::new(0);
    let part = || {
        let mut found = Vec::new();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(level) = levels.get(place) else { return found };
            found.push((place, each(place, *level)));
        }
    };
    let mut all = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores().min(levels.len())).map(|_| scope.spawn(part)).collect();
        let mut all = Vec::new();
        for thread in threads {
            match thread.join() {
                Ok(found) => all.extend(found),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    all.sort_unstable_by_key(|(place, _)| *place);
    all.into_iter().map(|(_, found)| found).collect()
}

/// Seconds until all levels were there, spread evenly over the processors, from those of each level at each mark.
pub fn spread(ends: &[&[f64]]) -> Vec<f64> {
    let marks = ends.iter().map(|ends| ends.len()).min().unwrap_or(0);
    let share = cores().min(ends.len()) as f64;
    (0..marks).map(|mark| ends.iter().map(|ends| ends[mark]).sum::<f64>() / share).collect()
}

/// Rows × levels, from the predictions of each level. Levels that cross are sorted, as ours are.
pub fn joined(rows: usize, levels: &[Vec<f64>]) -> Vec<f64> {
    let mut all = Vec::with_capacity(rows * levels.len());
    for row in 0..rows {
        let begin = all.len();
        all.extend(levels.iter().map(|level| level[row]));
        all[begin..].sort_unstable_by(f64::total_cmp);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_in_order_and_their_seconds_are_spread() {
        let found = each_level(&[0.1, 0.5, 0.9], |place, level| Ok(2.0 * level + place as f64)).unwrap();
        assert_eq!(found, [0.2, 2.0, 3.8]);
        assert!(each_level(&[0.1, 0.5], |_, level| if level > 0.2 { Err("no".into()) } else { Ok(()) }).is_err());
        let share = cores().min(2) as f64;
        assert_eq!(spread(&[&[1.0, 2.0], &[3.0, 4.0]]), [4.0 / share, 6.0 / share]);
    }

    #[test]
    fn levels_that_cross_are_sorted() {
        assert_eq!(joined(2, &[vec![1.0, 5.0], vec![2.0, 4.0]]), [1.0, 2.0, 4.0, 5.0]);
    }
}
