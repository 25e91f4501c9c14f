//! When the native frequency of a series is known. Pure.

use meterline_schemas::Micros;
use meterline_schemas::frequency::{Frequency, STANDARD, detect};
use meterline_schemas::time::DAY;

/// Readings with distinct stamps that wait at most; then the best guess is taken.
pub const PENDING_MAX: usize = 200;

/// Distinct stamps and equal gaps that sub-daily data needs.
const SUB_DAILY: (usize, usize) = (12, 8);
/// The same for gaps of a day and more, where twelve readings would take weeks.
const DAILY: (usize, usize) = (5, 4);

/// The native frequency that distinct stamps in ascending order tell, if they tell it clearly; with [`PENDING_MAX`]
/// stamps in any case. `None`: wait for more.
pub fn settle(stamps: &[Micros]) -> Option<Frequency> {
    if stamps.len() < DAILY.0 {
        return None;
    }
    let (stamps_min, votes_min) = if median_gap(stamps) * 10 >= DAY * 9 { DAILY } else { SUB_DAILY };
    let clear = if stamps.len() >= stamps_min { detect(stamps, votes_min) } else { None };
    match clear {
        None if stamps.len() >= PENDING_MAX => Some(best_guess(stamps)),
        clear => clear,
    }
}

fn median_gap(stamps: &[Micros]) -> Micros {
    let mut gaps: Vec<Micros> = stamps.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let middle = gaps.len() / 2;
    gaps.select_nth_unstable(middle);
    gaps[middle]
}

/// The most frequent standard gap (of equally frequent ones the finer); without any, the longest standard frequency
/// that is not longer than the median gap, so that two readings seldom fall into one interval.
fn best_guess(stamps: &[Micros]) -> Frequency {
    let mut votes = [0usize; STANDARD.len()];
    for pair in stamps.windows(2) {
        let found = Frequency::nearest_standard(pair[1] - pair[0]);
        if let Some(index) = found.and_then(|found| STANDARD.iter().position(|standard| *standard == found)) {
            votes[index] += 1;
        }
    }
    let modal = (0..STANDARD.len()).rev().max_by_key(|index| votes[*index]).filter(|index| votes[*index] > 0);
    match modal {
        Some(index) => STANDARD[index],
        None => {
            let gap = median_gap(stamps);
            STANDARD.into_iter().rev().find(|standard| standard.nominal_micros() <= gap).unwrap_or(STANDARD[0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meterline_schemas::time::{MINUTE, SECOND};

    fn regular(n: i64, gap: Micros) -> Vec<Micros> {
        (0..n).map(|i| i * gap).collect()
    }

    #[test]
    fn sub_daily_data_needs_twelve_stamps_and_daily_data_five() {
        assert_eq!(settle(&regular(11, 15 * MINUTE)), None);
        assert_eq!(settle(&regular(12, 15 * MINUTE)), Some(Frequency::QUARTER_HOUR));
        assert_eq!(settle(&regular(4, DAY)), None);
        assert_eq!(settle(&regular(5, DAY)), Some(Frequency::Day));
        assert_eq!(settle(&regular(5, 7 * DAY)), Some(Frequency::Week));
    }

    #[test]
    fn after_two_hundred_stamps_the_most_frequent_gap_is_taken() {
        // Every second quarter hour is missing at random places: no gap has 60 % of the votes.
        let unclear = |n: i64| -> Vec<Micros> {
            (0..4 * n).filter(|i| [0, 1, 3, 6].contains(&(i % 10))).map(|i| i * 15 * MINUTE).collect()
        };
        let stamps = unclear(200);
        assert_eq!(settle(&stamps[..PENDING_MAX - 1]), None);
        assert!(settle(&stamps[..PENDING_MAX]).is_some());
    }

    #[test]
    fn gaps_of_no_standard_length_take_the_next_finer_one() {
        assert_eq!(settle(&regular(200, 7 * MINUTE)), Some(Frequency::Seconds(300)));
        assert_eq!(settle(&regular(200, SECOND / 10)), Some(Frequency::Seconds(1)));
    }
}
