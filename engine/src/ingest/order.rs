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
    /// The rank of each of the first `count` series; those that came since the last call are put in their places.
    pub fn ranks<'s>(&mut self, count: usize, id: impl Fn(u32) -> &'s str) -> &[u32] {
        if self.sorted.len() < count {
            let known = self.sorted.len();
            self.sorted.extend(known as u32..count as u32);
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
        ) {
            let ids: Vec<String> = ids.into_iter().collect();
            let mut order = Order::default();
            let mut stops: Vec<usize> = stops.into_iter().map(|stop| stop.min(ids.len())).chain([ids.len()]).collect();
            stops.sort_unstable();
            for stop in stops {
                let ranks = order.ranks(stop, |number| &ids[number as usize]).to_vec();
                let mut sorted: Vec<&String> = ids[..stop].iter().collect();
                sorted.sort();
                let expected: Vec<u32> =
                    ids[..stop].iter().map(|id| sorted.binary_search(&id).unwrap() as u32).collect();
                prop_assert_eq!(ranks, expected);
            }
        }
    }
}
