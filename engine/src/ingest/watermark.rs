//! What is closed: all intervals that end at or before a feed's watermark. Pure.
//!
//! Event time of a partition is the k-th greatest end of a last interval among the series last seen in it, with
//! k = 1 + n / 20: one series in twenty may have a clock that runs ahead without closing intervals for the others. The
//! partition's watermark is its event time less the feed's lateness; the feed's watermark is the least of its
//! partitions', without the idle ones (with all idle, the greatest). Neither ever goes back.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use meterline_schemas::Micros;
use meterline_schemas::reading::Position;

use super::state::{FeedState, SeriesState};

/// The k-th greatest of the ends of `n` series, with k = 1 + n / 20; `None` without any.
pub fn reached(ends: &mut [Micros]) -> Option<Micros> {
    let behind = ends.len() / 20;
    (behind < ends.len()).then(|| {
        let (_, reached, _) = ends.select_nth_unstable_by(behind, |a, b| b.cmp(a));
        *reached
    })
}

/// End of the last interval of a series; `None` while it has none.
pub fn last_end(series: &SeriesState, zone: &TimeZone) -> Option<Micros> {
    Some(series.frequency?.advance(series.last_start?, 1, zone))
}

/// Event time of each partition, from the series of one feed.
pub fn event_times<'a>(series: impl Iterator<Item = &'a SeriesState>, zone: &TimeZone) -> BTreeMap<i32, Micros> {
    let mut ends: BTreeMap<i32, Vec<Micros>> = BTreeMap::new();
    for state in series {
        if let Some(end) = last_end(state, zone) {
            ends.entry(state.partition).or_default().push(end);
        }
    }
    ends.into_iter().filter_map(|(partition, mut ends)| Some((partition, reached(&mut ends)?))).collect()
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
    use meterline_schemas::Frequency;
    use meterline_schemas::time::HOUR;
    use meterline_schemas::unit::Unit;
    use proptest::prelude::*;

    fn series(partition: i32, end: Micros) -> SeriesState {
        let mut state = SeriesState::new("f", "s", Unit::KWH);
        state.frequency = Some(Frequency::HOUR);
        state.last_start = Some(end - HOUR);
        state.partition = partition;
        state
    }

    fn feed(partitions: impl IntoIterator<Item = i32>) -> FeedState {
        let partitions = partitions.into_iter().map(|p| (p, PartitionState::default())).collect();
        FeedState { partitions, ..FeedState::default() }
    }

    #[test]
    fn a_few_fast_clocks_do_not_move_it() {
        let mut all: Vec<SeriesState> = (0..95).map(|_| series(0, 10 * HOUR)).collect();
        all.extend((0..5).map(|_| series(0, 9_000 * HOUR)));
        assert_eq!(event_times(all.iter(), &TimeZone::UTC)[&0], 10 * HOUR);
        all.push(series(0, 9_000 * HOUR));
        assert_eq!(event_times(all.iter(), &TimeZone::UTC)[&0], 9_000 * HOUR);
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
