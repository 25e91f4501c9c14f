//! Which runs a commit merges with what it evicts.

use super::Run;

/// How many of the oldest runs stay as they are when so many `fresh` series come. The others are not longer than what
/// comes after them, so that each series is written a number of times that is logarithmic in how many there are; and
/// there are always so many of them that no more than `most` runs are left. In haste there are no more than that: the
/// rest is for a later commit.
pub(super) fn stay(runs: &[Run], fresh: u64, most: usize, in_haste: bool) -> usize {
    let mut together = fresh;
    let mut stay = runs.len();
    for (number, run) in runs.iter().enumerate().rev() {
        if (in_haste || run.series > together) && number + 1 < most {
            break;
        }
        together = together.saturating_add(run.series);
        stay = number;
    }
    stay
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: usize = 12;

    fn run(series: u64) -> Run {
        Run { files: Vec::new(), series }
    }

    fn runs(lengths: &[u64]) -> Vec<Run> {
        lengths.iter().map(|series| run(*series)).collect()
    }

    #[test]
    fn what_is_not_longer_than_what_comes_after_it_is_merged() {
        let stays = |lengths: &[u64], fresh| stay(&runs(lengths), fresh, 3, false);
        assert_eq!(stays(&[], 1), 0);
        assert_eq!(stays(&[100], 99), 1);
        assert_eq!(stays(&[100], 100), 0);
        assert_eq!(stays(&[100, 10], 9), 2);
        assert_eq!(stays(&[100, 10], 10), 1);
        assert_eq!(stays(&[100, 60], 60), 0);
        // A fourth one would be too many.
        assert_eq!(stays(&[1_000, 100, 10], 1), 2);
        assert_eq!(stays(&[1_000, 100, 10, 1], 1), 2);
    }

    #[test]
    fn in_haste_nothing_is_merged_that_there_is_room_for() {
        let stays = |lengths: &[u64], fresh| stay(&runs(lengths), fresh, 3, true);
        assert_eq!(stays(&[], 1), 0);
        assert_eq!(stays(&[100], 100), 1);
        assert_eq!(stays(&[10, 100], 1_000), 2);
        // A fourth one would be too many.
        assert_eq!(stays(&[10, 100, 1_000], 10_000), 2);
        assert_eq!(stays(&[10, 100, 1_000, 10], 1), 2);
    }

    proptest! {
        #[test]
        fn runs_stay_few_and_little_is_written_again(evicted in proptest::collection::vec(1..2_000u64, 1..300)) {
            let (mut runs, mut work): (Vec<Run>, u64) = (Vec::new(), 0);
            for fresh in &evicted {
                let merged: u64 = runs.split_off(stay(&runs, *fresh, MOST, false)).iter().map(|run| run.series).sum();
                runs.push(run(merged + fresh));
                work += merged + fresh;
                prop_assert!(runs.len() <= MOST);
            }
            let all: u64 = evicted.iter().sum();
            prop_assert_eq!(runs.iter().map(|run| run.series).sum::<u64>(), all);
            prop_assert!(work <= 15 * all, "{} series were written where {} were evicted", work, all);
        }

        #[test]
        fn haste_merges_a_part_of_what_is_merged_otherwise_and_runs_stay_few(
            evicted in proptest::collection::vec((1..2_000u64, any::<bool>()), 1..300),
        ) {
            let mut runs: Vec<Run> = Vec::new();
            for (fresh, in_haste) in &evicted {
                let [usual, hasty] = [false, true].map(|in_haste| stay(&runs, *fresh, MOST, in_haste));
                prop_assert!(usual <= hasty && hasty == runs.len().min(MOST - 1));
                let merged = runs.split_off(if *in_haste { hasty } else { usual });
                let merged: u64 = merged.iter().map(|run| run.series).sum();
                runs.push(run(merged + fresh));
                prop_assert!(runs.len() <= MOST);
            }
        }
    }
}
