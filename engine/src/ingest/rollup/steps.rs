//! How many series belong to a group at each instant: a function that changes in steps.

use meterline_schemas::Micros;
use meterline_schemas::time::SECOND;

/// A whole number at each instant, 0 before the first step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Steps {
    // From each instant on, the number: ascending, no two alike in a row.
    steps: Vec<(Micros, i64)>,
}

impl Steps {
    /// Adds changes, each from an instant on. They need not be in order.
    pub fn add(&mut self, mut changes: Vec<(Micros, i64)>) {
        changes.sort_unstable();
        let Some((first, _)) = changes.first() else { return };
        let kept = self.steps.partition_point(|(at, _)| at < first);
        let old = self.steps.split_off(kept);
        let level = |steps: &[(Micros, i64)]| steps.last().map_or(0, |(_, count)| *count);
        let (mut known, mut added) = (level(&self.steps), 0);
        let mut old = old.into_iter().peekable();
        let mut changes = changes.into_iter().peekable();
        loop {
            let at = match (old.peek(), changes.peek()) {
                (Some((a, _)), Some((b, _))) => *a.min(b),
                (Some((at, _)), None) | (None, Some((at, _))) => *at,
                (None, None) => break,
            };
            while let Some((_, count)) = old.next_if(|(next, _)| *next == at) {
                known = count;
            }
            while let Some((_, change)) = changes.next_if(|(next, _)| *next == at) {
                added += change;
            }
            if level(&self.steps) != known + added {
                self.steps.push((at, known + added));
            }
        }
    }

    /// Whether the number is 0 at each instant.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.steps.capacity() * size_of::<(Micros, i64)>()
    }

    /// Seconds times the number, from `from` to `to`.
    pub fn seconds(&self, from: Micros, to: Micros) -> i64 {
        let next = self.steps.partition_point(|(at, _)| *at <= from);
        let mut count = next.checked_sub(1).map_or(0, |index| self.steps[index].1);
        let (mut at, mut sum) = (from, 0i128);
        for (step, number) in self.steps[next..].iter().take_while(|(step, _)| *step < to) {
            sum += i128::from(step - at) * i128::from(count);
            (at, count) = (*step, *number);
        }
        sum += i128::from(to - at) * i128::from(count);
        i64::try_from(sum / i128::from(SECOND)).unwrap_or(i64::MAX)
    }
}

/// Where changes come to something: the ranges in which their sum is not 0. The last may end at [`Micros::MAX`].
pub fn changed(changes: &[(Micros, i64)]) -> Vec<(Micros, Micros)> {
    let mut sorted = changes.to_vec();
    sorted.sort_unstable();
    let mut ranges: Vec<(Micros, Micros)> = Vec::new();
    let mut sum = 0;
    for (index, (at, change)) in sorted.iter().enumerate() {
        sum += change;
        let to = sorted.get(index + 1).map_or(Micros::MAX, |(next, _)| *next);
        if sum == 0 || to == *at {
            continue;
        }
        match ranges.last_mut() {
            Some((_, end)) if *end == *at => *end = to,
            _ => ranges.push((*at, to)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn steps_are_the_sum_of_their_changes(
            batches in prop::collection::vec(prop::collection::vec((0..30i64, -2..3i64), 0..6), 1..8),
            from in 0..30i64, length in 0..12i64,
        ) {
            let mut steps = Steps::default();
            let all: Vec<(Micros, i64)> =
                batches.iter().flatten().map(|(at, change)| (at * SECOND, *change)).collect();
            for batch in &batches {
                steps.add(batch.iter().map(|(at, change)| (at * SECOND, *change)).collect());
            }
            let at = |second: i64| all.iter().filter(|(t, _)| *t <= second * SECOND).map(|(_, c)| c).sum::<i64>();
            let expected: i64 = (from..from + length).map(at).sum();
            prop_assert_eq!(steps.seconds(from * SECOND, (from + length) * SECOND), expected);
            let ranges = changed(&all);
            for second in 0..40 {
                let inside = ranges.iter().any(|(a, b)| (*a..*b).contains(&(second * SECOND)));
                prop_assert_eq!(inside, at(second) != 0);
            }
        }
    }
}
