//! What is closed: all intervals that end at or before a feed's watermark. Pure.
//!
//! Event time of a partition is the k-th greatest end of a last interval among the series last seen in it, with
//! k = 1 + n / 20: one series in twenty may have a clock that runs ahead without closing intervals for the others. The
//! partition's watermark is its event time less the feed's lateness; the feed's watermark is the least of its
//! partitions', without the idle ones (with all idle, the greatest). Neither ever goes back.

use std::collections::BTreeMap;

use meterline_schemas::Micros;
use meterline_schemas::reading::Position;

use super::census::Census;
use super::state::FeedState;

/// The k-th greatest of the ends of `n` series, with k = 1 + n / 20; `None` without any. `ends` says how many series end
/// at each.
pub fn reached(ends: &BTreeMap<Micros, u64>) -> Option<Micros> {
    let mut ahead = ends.values().sum::<u64>() / 20;
    ends.iter().rev().find_map(|(end, count)| {
        if ahead < *count {
            return Some(*end);
        }
        ahead -= count;
        None
    })
}

/// Event time of each partition of a feed.
pub fn event_times(census: &Census, feed: u16) -> BTreeMap<i32, Micros> {
    let ends = census.ends_by_partition(feed);
    ends.into_iter().filter_map(|(partition, ends)| Some((partition, reached(&ends)?))).collect()
}

/// Moves the watermarks of a feed forward. `idle` says of which partitions nothing is to be expected just now; a
/// partition that is not idle and has no watermark yet holds the feed's.
pub fn advance(
    feed: &mut FeedState,
    event_times: &BTreeMap<i32, Micros>,
    lateness: Micros,
    idle: impl Fn(i32) -> bool,
) {
    for (partition, state) in &mut feed.partitions {
        let reached = event_times.get(partition).map(|at| at.saturating_sub(lateness));
        state.watermark = state.watermark.max(reached);
    }
    let mut active = feed.partitions.iter().filter(|(partition, _)| !idle(**partition)).peekable();
    let least = match active.peek() {
        Some(_) => active.map(|(_, state)| state.watermark).min().flatten(),
        // All are idle: what was read is all there is. Backfilled series count where there is no Kafka partition.
        None => {
            let live = feed.partitions.iter().filter(|(partition, _)| **partition != Position::BACKFILL_PARTITION);
            let newest = live.filter_map(|(_, state)| state.watermark).max();
            newest.or_else(|| feed.partitions.values().filter_map(|state| state.watermark).max())
        }
    };
    feed.watermark = feed.watermark.max(least);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::state::PartitionState;
    use meterline_schemas::time::HOUR;
    use proptest::prelude::*;

    fn feed(partitions: impl IntoIterator<Item = i32>) -> FeedState {
        let partitions = partitions.into_iter().map(|p| (p, PartitionState::default())).collect();
        FeedState { partitions, ..FeedState::default() }
    }

    #[test]
    fn a_few_fast_clocks_do_not_move_it() {
        let reached = |fast| reached(&BTreeMap::from([(10 * HOUR, 95), (9_000 * HOUR, fast)]));
        assert_eq!(reached(5), Some(10 * HOUR));
        assert_eq!(reached(6), Some(9_000 * HOUR));
    }

    #[test]
    fn the_slowest_partition_holds_it_until_it_is_idle() {
        let mut feed = feed([0, 1]);
        let times = BTreeMap::from([(0, 10 * HOUR), (1, 4 * HOUR)]);
        advance(&mut feed, &times, HOUR, |_| false);
        assert_eq!(feed.watermark, Some(3 * HOUR));
        advance(&mut feed, &times, HOUR, |partition| partition == 1);
        assert_eq!(feed.watermark, Some(9 * HOUR));
        advance(&mut feed, &times, HOUR, |_| false);
        assert_eq!(feed.watermark, Some(9 * HOUR));
    }

    #[test]
    fn a_partition_that_was_never_seen_holds_it_only_while_it_is_not_idle() {
        let mut feed = feed([0, 1]);
        let times = BTreeMap::from([(0, 10 * HOUR)]);
        advance(&mut feed, &times, 0, |_| false);
        assert_eq!(feed.watermark, None);
        advance(&mut feed, &times, 0, |partition| partition == 1);
        assert_eq!(feed.watermark, Some(10 * HOUR));
    }

    proptest! {
        #[test]
        fn it_never_goes_back(steps in proptest::collection::vec((0..3i32, 0..100i64, any::<[bool; 3]>()), 1..40)) {
            let mut feed = feed(0..3);
            let mut last = feed.clone();
            for (partition, hour, idle) in steps {
                advance(&mut feed, &BTreeMap::from([(partition, hour * HOUR)]), HOUR, |p| idle[p as usize]);
                prop_assert!(feed.watermark >= last.watermark);
                for (partition, state) in &feed.partitions {
                    prop_assert!(state.watermark >= last.partitions[partition].watermark);
                }
                last = feed.clone();
            }
        }
    }
}
