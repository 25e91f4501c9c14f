//! The series of a shard in the order of their identifiers, in which files have them.
//!
//! Sorting a million texts in each epoch would cost more than what the epoch brought. Series hardly ever come anew, so
//! their order is kept.

/// The order of series that are known by numbers from 0 on.
#[derive(Debug, Default)]
pub struct Order {
    sorted: Vec<u32>,
    // The place of each number in `sorted`.
    ranks: Vec<u32>,
}

impl Order {
    /// The rank of each series, by its number, which is below `count`; those that are `fresh` are put in their places.
    /// What it says of other numbers means nothing.
    pub fn ranks<'s>(&mut self, fresh: &mut Vec<u32>, count: usize, id: impl Fn(u32) -> &'s str) -> &[u32] {
        if !fresh.is_empty() {
            let known = self.sorted.len();
            self.sorted.append(fresh);
            self.sorted[known..].sort_by(|a, b| id(*a).cmp(id(*b)));
            // Two sorted runs are merged, which is what this sort makes of them.
            self.sorted.sort_by(|a, b| id(*a).cmp(id(*b)));
            self.ranks.resize(count, 0);
            for (rank, number) in (0..).zip(&self.sorted) {
                self.ranks[*number as usize] = rank;
            }
        }
        &self.ranks
    }

    /// Series are gone, and their numbers free.
    pub fn forget(&mut self, gone: impl Fn(u32) -> bool) {
        self.sorted.retain(|number| !gone(*number));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranks_are_those_of_a_sort_however_the_series_come(
            ids in proptest::collection::hash_set("[a-c]{1,6}", 1..200),
            stops in proptest::collection::vec(0..200usize, 0..4),
            leaving in 2..9u32,
        ) {
            let mut ids: Vec<String> = ids.into_iter().collect();
            let (mut order, mut fresh, mut known) = (Order::default(), Vec::new(), 0);
            let mut stops: Vec<usize> = stops.into_iter().map(|stop| stop.min(ids.len())).chain([ids.len()]).collect();
            stops.sort_unstable();
            for stop in stops {
                fresh.extend(known..stop as u32);
                known = stop as u32;
                let ranks = order.ranks(&mut fresh, stop, |number| &ids[number as usize]).to_vec();
                let mut sorted: Vec<&String> = ids[..stop].iter().collect();
                sorted.sort();
                let expected: Vec<u32> =
                    ids[..stop].iter().map(|id| sorted.binary_search(&id).unwrap() as u32).collect();
                prop_assert_eq!(ranks, expected);
                // Some leave, and others get their numbers.
                order.forget(|number| number % leaving == 0);
                for number in (0..known).step_by(leaving as usize) {
                    ids[number as usize].insert(0, 'b');
                    ids[number as usize].push('d');
                    fresh.push(number);
                }
            }
        }
    }
}
