//! What is closed: all intervals that end at or before a feed's watermark. Pure.
//!
//! **A partition's event time** is the k-th greatest end of a last interval among the series last seen in it, with
//! k = 1 + n / 20 ([`reached`]), but never beyond the newest time stamp of its records: a record tells that its moment
//! has come, a meter's clock may tell anything.
//!
//! **A feed's watermark** follows from which partitions may still have something to say ([`super::idleness`]):
//!
//! * While some may, it is the least event time of theirs, less the lateness, and never beyond what the whole feed's
//!   series have reached: one partition of few meters must not speak for the others.
//! * With all of them idle, what was read is all there is. The whole feed's series are asked: at first with the
//!   lateness, and without once the records' own time stamps and the silence since then add up to it. So the last
//!   intervals of a feed that ends, or that sends once an hour, are closed when nothing more can be in time.
//!
//! **The whole feed's series** (`population`) are taken at their word where the records vouch for it: event time lies
//! within `max_ahead` before the newest record. Where they do not (history that is sent today, clocks that run ahead),
//! one series alone is not believed: at least a second one must be as far. Series further behind than `max_ahead` have
//! ended and have no say in that, so that what stays of a dying feed is held back by so much event time at most.
//!
//! Nothing here ever goes back. Only of a partition whose series have all moved to others there is no newest interval any
//! more: none is to come.

use std::collections::{BTreeMap, BTreeSet};

use meterline_schemas::Micros;
use meterline_schemas::config::FeedConfig;
use meterline_schemas::reading::Position;

use super::state::FeedState;

/// How many series have their last interval end there.
pub type Ends = BTreeMap<Micros, u64>;

/// What a feed's configuration says about it, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How long an interval stays open.
    pub lateness: Micros,
    /// How far a meter's clock may run ahead of its records.
    pub max_ahead: Micros,
}

impl Rules {
    /// Those of a feed.
    pub fn of(feed: &FeedConfig) -> Rules {
        Rules { lateness: feed.lateness.micros(), max_ahead: feed.max_ahead.micros() }
    }
}

/// The k-th greatest of the ends of `n` series, with k = 1 + n / 20; `None` without any. `ends` says how many series
/// end at each.
pub fn reached(ends: &Ends) -> Option<Micros> {
    nth_greatest(ends, ends.values().sum::<u64>() / 20)
}

fn nth_greatest(ends: &Ends, ahead: u64) -> Option<Micros> {
    let mut ahead = ahead;
    ends.iter().rev().find_map(|(end, count)| {
        if ahead < *count {
            return Some(*end);
        }
        ahead -= count;
        None
    })
}

/// How far the series of a whole feed are, given the newest time stamp of its records (`None`: they have none).
fn population(ends: &Ends, newest: Option<Micros>, max_ahead: Micros) -> Option<Micros> {
    let told = reached(ends)?;
    let vouched = newest.is_some_and(|newest| (newest.saturating_sub(max_ahead)..=newest).contains(&told));
    if vouched {
        return Some(told);
    }
    let greatest = *ends.keys().next_back()?;
    let near: Ends = ends.range(greatest.saturating_sub(max_ahead)..).map(|(end, count)| (*end, *count)).collect();
    let series: u64 = near.values().sum();
    nth_greatest(&near, if series < 2 { 0 } else { (series / 20).max(1) })
}

/// Moves the watermarks of a feed forward. `ends` are those of its series, by partition; of the partitions in `holding`
/// something may still come; `silence` is how long nothing was read of the feed, in microseconds. A partition that
/// holds and has no watermark yet holds the feed's.
pub fn advance(
    feed: &mut FeedState,
    ends: &BTreeMap<i32, Ends>,
    rules: Rules,
    holding: &BTreeSet<i32>,
    silence: Micros,
) {
    // Before a stream that starts knows its series there are none anywhere.
    let is_counted = ends.values().any(|ends| !ends.is_empty());
    for (partition, state) in &mut feed.partitions {
        let told = ends.get(partition).and_then(reached);
        let told = told.map(|told| told.min(state.newest_record.unwrap_or(Micros::MAX)));
        state.newest = if told.is_none() && is_counted { None } else { state.newest.max(told) };
        state.watermark = state.watermark.max(told.map(|told| told.saturating_sub(rules.lateness)));
    }
    let is_live = |partition: &i32| *partition != Position::BACKFILL_PARTITION;
    let sum = |of: &dyn Fn(&i32) -> bool| {
        let mut all = Ends::new();
        for (end, count) in ends.iter().filter(|(partition, _)| of(partition)).flat_map(|(_, ends)| ends) {
            *all.entry(*end).or_default() += count;
        }
        all
    };
    let live = sum(&is_live);
    let mut newest = feed.partitions.values().filter_map(|state| state.newest_record).max();
    let told = match live.is_empty() {
        false => population(&live, newest, rules.max_ahead),
        // Files have no record that vouches for a stamp, and were made when all was over.
        true => {
            newest = None;
            reached(&sum(&|partition| !is_live(partition)))
        }
    };
    let Some(told) = told else { return };
    let now = newest.unwrap_or(told);
    feed.newest = feed.newest.max(Some(told.min(now)));
    let in_time = told.min(now).saturating_sub(rules.lateness);
    let reached = if !holding.is_empty() {
        let least = holding.iter().map(|partition| feed.partitions.get(partition).and_then(|state| state.watermark));
        least.min().flatten().map(|least| least.min(in_time))
    } else if now.saturating_add(silence).saturating_sub(rules.lateness) >= told {
        Some(told)
    } else {
        Some(in_time)
    };
    feed.watermark = feed.watermark.max(reached);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::state::PartitionState;
    use meterline_schemas::time::{DAY, HOUR, MINUTE};
    use proptest::prelude::*;

    const RULES: Rules = Rules { lateness: HOUR, max_ahead: DAY };

    /// Partitions with the newest time stamp of their records.
    fn feed(partitions: impl IntoIterator<Item = (i32, Option<Micros>)>) -> FeedState {
        let state = |newest_record| PartitionState { newest_record, ..PartitionState::default() };
        let partitions = partitions.into_iter().map(|(number, newest)| (number, state(newest))).collect();
        FeedState { partitions, ..FeedState::default() }
    }

    /// One series an end.
    fn ends(partitions: impl IntoIterator<Item = (i32, Vec<Micros>)>) -> BTreeMap<i32, Ends> {
        let count = |ends: Vec<Micros>| {
            ends.into_iter().fold(Ends::new(), |mut all, end| {
                *all.entry(end).or_default() += 1;
                all
            })
        };
        partitions.into_iter().map(|(number, ends)| (number, count(ends))).collect()
    }

    fn after(
        newest: &[(i32, Option<Micros>)],
        told: &BTreeMap<i32, Ends>,
        holding: &[i32],
        silence: Micros,
    ) -> Option<Micros> {
        let mut feed = feed(newest.iter().copied());
        advance(&mut feed, told, RULES, &holding.iter().copied().collect(), silence);
        feed.watermark
    }

    #[test]
    fn a_few_fast_clocks_do_not_move_it() {
        let reached = |fast| reached(&BTreeMap::from([(10 * HOUR, 95), (9_000 * HOUR, fast)]));
        assert_eq!(reached(5), Some(10 * HOUR));
        assert_eq!(reached(6), Some(9_000 * HOUR));
    }

    #[test]
    fn the_slowest_partition_holds_it_until_it_is_idle() {
        let mut feed = feed([(0, None), (1, None)]);
        let told = ends([(0, vec![10 * HOUR; 3]), (1, vec![4 * HOUR; 3])]);
        advance(&mut feed, &told, RULES, &[0, 1].into(), 0);
        assert_eq!(feed.watermark, Some(3 * HOUR));
        advance(&mut feed, &told, RULES, &[0].into(), 0);
        assert_eq!(feed.watermark, Some(9 * HOUR));
        advance(&mut feed, &told, RULES, &[0, 1].into(), 0);
        assert_eq!(feed.watermark, Some(9 * HOUR));
    }

    #[test]
    fn a_partition_that_was_never_seen_holds_it_only_while_something_may_be_in_it() {
        let told = ends([(0, vec![10 * HOUR; 2])]);
        assert_eq!(after(&[(0, None), (1, None)], &told, &[0, 1], 0), None);
        assert_eq!(after(&[(0, None)], &told, &[0, 1], 0), None, "found, but not in the state yet");
        assert_eq!(after(&[(0, None), (1, None)], &told, &[0], 0), Some(9 * HOUR));
    }

    #[test]
    fn the_last_intervals_of_a_feed_that_ends_are_closed_when_nothing_more_can_be_in_time() {
        // The last records came five minutes after the last interval.
        let newest = [(0, Some(10 * HOUR + 5 * MINUTE)), (1, Some(10 * HOUR))];
        let told = ends([(0, vec![10 * HOUR; 2]), (1, vec![10 * HOUR])]);
        assert_eq!(after(&newest, &told, &[], 54 * MINUTE), Some(9 * HOUR));
        assert_eq!(after(&newest, &told, &[], 55 * MINUTE), Some(10 * HOUR));
        // History that is sent today: its lateness is long over.
        assert_eq!(after(&[(0, Some(900 * DAY)), (1, None)], &told, &[], 0), Some(10 * HOUR));
        // Records without time stamps: the silence alone counts.
        assert_eq!(after(&[(0, None), (1, None)], &told, &[], 59 * MINUTE), Some(9 * HOUR));
        assert_eq!(after(&[(0, None), (1, None)], &told, &[], HOUR), Some(10 * HOUR));
    }

    #[test]
    fn a_meter_that_stamps_local_time_as_utc_closes_nothing_for_others() {
        // Two hours ahead, alone in its partition; the others have reported 10:00 by 10:05.
        let told = ends([(0, vec![10 * HOUR; 4]), (1, vec![12 * HOUR])]);
        let newest = Some(10 * HOUR + 5 * MINUTE);
        for holding in [&[][..], &[1], &[0, 1]] {
            let closed = after(&[(0, newest), (1, newest)], &told, holding, 0).unwrap();
            assert!(closed <= 10 * HOUR + 5 * MINUTE - RULES.lateness, "{holding:?}: {closed}");
            // In history, where the records' time stamps say nothing.
            let closed = after(&[(0, Some(900 * DAY)), (1, Some(900 * DAY))], &told, holding, 0).unwrap();
            assert!(closed <= 10 * HOUR, "{holding:?}: {closed}");
        }
    }

    #[test]
    fn what_stays_of_a_dying_feed_is_not_held_for_ever() {
        let dead = vec![2 * HOUR; 5];
        // While records vouch for the last one that lives, not at all.
        let told = ends([(0, dead.clone()), (1, vec![10 * HOUR])]);
        assert_eq!(after(&[(0, None), (1, Some(10 * HOUR + MINUTE))], &told, &[1], 0), Some(9 * HOUR));
        // And in history for `max_ahead`.
        let told = ends([(0, dead), (1, vec![2 * HOUR + DAY + HOUR])]);
        assert_eq!(after(&[(0, None), (1, None)], &told, &[1], 0), Some(2 * HOUR + DAY));
    }

    #[test]
    fn a_partition_without_series_has_no_newest_interval() {
        let mut feed = feed([(0, None), (1, None)]);
        let newest = |feed: &FeedState| [0, 1].map(|number| feed.partitions[&number].newest);
        advance(&mut feed, &ends([(0, vec![10 * HOUR]), (1, vec![9 * HOUR])]), RULES, &[].into(), 0);
        assert_eq!(newest(&feed), [Some(10 * HOUR), Some(9 * HOUR)]);
        advance(&mut feed, &ends([]), RULES, &[].into(), 0);
        assert_eq!(newest(&feed), [Some(10 * HOUR), Some(9 * HOUR)]);
        advance(&mut feed, &ends([(0, vec![10 * HOUR; 2]), (1, vec![])]), RULES, &[].into(), 0);
        assert_eq!(newest(&feed), [Some(10 * HOUR), None]);
        assert_eq!(feed.partitions[&1].watermark, Some(8 * HOUR));
    }

    #[test]
    fn files_count_only_where_nothing_else_was_read() {
        let files = Position::BACKFILL_PARTITION;
        let told = ends([(files, vec![10 * HOUR, 8 * HOUR])]);
        assert_eq!(after(&[(files, None), (0, None)], &told, &[], Micros::MAX), Some(10 * HOUR));
        let told = ends([(files, vec![10 * HOUR]), (0, vec![4 * HOUR])]);
        assert_eq!(after(&[(files, None), (0, None)], &told, &[], Micros::MAX), Some(4 * HOUR));
    }

    fn arbitrary_ends() -> impl Strategy<Value = Vec<i64>> {
        proptest::collection::vec(0..60i64, 0..6)
    }

    proptest! {
        #[test]
        fn it_never_goes_back_and_passes_nothing_in_flight(
            steps in proptest::collection::vec(
                (0..3i32, arbitrary_ends(), any::<[bool; 3]>(), proptest::option::of(0..70i64), 0..200i64),
                1..40,
            ),
        ) {
            let mut feed = feed((0..3).map(|number| (number, None)));
            let mut told: BTreeMap<i32, Ends> = BTreeMap::new();
            for (partition, some, holds, newest, silence) in steps {
                let last = feed.clone();
                let hours = some.iter().map(|hour| hour * HOUR).collect();
                told.extend(ends([(partition, hours)]));
                let state = feed.partitions.get_mut(&partition).unwrap();
                state.newest_record = state.newest_record.max(newest.map(|hour| hour * HOUR));
                let holding: BTreeSet<i32> = (0..3).filter(|number| holds[*number as usize]).collect();
                advance(&mut feed, &told, RULES, &holding, silence * MINUTE);
                prop_assert!(feed.watermark >= last.watermark && feed.newest >= last.newest);
                for (number, state) in &feed.partitions {
                    prop_assert!(state.watermark >= last.partitions[number].watermark);
                    // Unread records lie after what was read of their partition, up to the lateness.
                    if holding.contains(number) && feed.watermark > last.watermark {
                        prop_assert!(feed.watermark <= state.watermark, "{number} of {feed:?}");
                    }
                }
            }
        }

        /// Whatever one clock says, alone in its partition or not: nothing is closed for the others before its time.
        #[test]
        fn one_bad_clock_closes_no_intervals_for_others(
            honest in proptest::collection::vec((0..3i32, 20..24i64), 1..6),
            (partition, ahead, delay) in (0..3i32, 1..24i64, 0..59i64),
            holds in any::<[bool; 3]>(),
            (history, silence) in (any::<bool>(), 0..120i64),
        ) {
            let last = honest.iter().map(|(_, hour)| hour * HOUR).max().unwrap();
            let mut told: BTreeMap<i32, Vec<Micros>> = BTreeMap::new();
            for (number, hour) in &honest {
                told.entry(*number).or_default().push(hour * HOUR);
            }
            told.entry(partition).or_default().push(last + ahead * HOUR);
            let newest = if history { 900 * DAY } else { last + delay * MINUTE };
            let told = ends(told);
            let holding: Vec<i32> = (0..3).filter(|number| holds[*number as usize]).collect();
            let all = [(0, Some(newest)), (1, Some(newest)), (2, Some(newest))];
            let closed = after(&all, &told, &holding, silence * MINUTE);
            // An interval is open until its end and the lateness have passed, by the records or by the clock.
            let allowed = if history { last } else { newest + silence * MINUTE - RULES.lateness };
            prop_assert!(closed.is_none_or(|closed| closed <= allowed.max(last - RULES.lateness)), "{closed:?}");
        }
    }
}
