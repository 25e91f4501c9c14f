//! What the log says at a commit of what became of records that were not just accepted. Pure.

use std::collections::BTreeMap;

use super::state::{FeedState, PartitionState};

/// Feeds that are named at most.
const FEEDS_MAX: usize = 20;

/// The number of one kind, of all that was ever counted in a partition.
type Total = fn(&PartitionState) -> u64;

/// What is told of a feed, where there is any.
const KINDS: [(&str, Total); 5] = [
    ("late", |partition| partition.counts.late),
    ("corrected", |partition| partition.counts.corrected),
    ("duplicate", |partition| partition.counts.duplicate),
    ("dead", |partition| partition.counts.dead),
    ("expired", |partition| partition.expired),
];

/// What became of the records between two commits, by feed: `meters: 3 late, 1 dead; water: 12 duplicate`. `None` where
/// all of them were accepted in time, or wait.
pub fn outcomes(before: &BTreeMap<String, FeedState>, now: &BTreeMap<String, FeedState>) -> Option<String> {
    let all: Vec<String> = now.iter().filter_map(|(name, feed)| of_feed(name, before.get(name), feed)).collect();
    let more = all.len().saturating_sub(FEEDS_MAX);
    let mut text = all.get(..FEEDS_MAX).unwrap_or(&all).join("; ");
    if more > 0 {
        text += &format!("; and of {more} more feeds");
    }
    (!text.is_empty()).then_some(text)
}

fn of_feed(name: &str, before: Option<&FeedState>, now: &FeedState) -> Option<String> {
    let of = |(kind, total): &(&str, Total)| {
        let new = |(number, partition): (&i32, &PartitionState)| {
            let known = before.and_then(|feed| feed.partitions.get(number)).map_or(0, total);
            total(partition).saturating_sub(known)
        };
        let count: u64 = now.partitions.iter().map(new).sum();
        (count > 0).then(|| format!("{count} {kind}"))
    };
    let kinds: Vec<String> = KINDS.iter().filter_map(of).collect();
    (!kinds.is_empty()).then(|| format!("{name}: {}", kinds.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::super::state::Counts;
    use super::*;

    fn feed(partitions: impl IntoIterator<Item = (i32, Counts, u64)>) -> FeedState {
        let partition = |(number, counts, expired)| (number, PartitionState { counts, expired, ..Default::default() });
        FeedState { partitions: partitions.into_iter().map(partition).collect(), ..FeedState::default() }
    }

    #[test]
    fn only_what_came_since_and_was_not_just_accepted_is_told() {
        let counts = Counts { records: 9, accepted: 5, corrected: 1, duplicate: 2, dead: 1, pending: 0, late: 3 };
        let more = Counts { records: 30, accepted: 20, corrected: 1, duplicate: 2, dead: 3, pending: 4, late: 10 };
        let of = |name: &str, feed| BTreeMap::from([(name.to_owned(), feed)]);
        let before = of("meters", feed([(0, counts, 0), (1, counts, 6)]));
        assert_eq!(outcomes(&before, &before), None);
        let accepted = Counts { records: 900, accepted: 896, ..counts };
        assert_eq!(outcomes(&before, &of("meters", feed([(0, accepted, 0), (1, counts, 6)]))), None);
        let mut now = of("meters", feed([(0, more, 0), (1, more, 10), (2, counts, 0)]));
        let told = "meters: 17 late, 1 corrected, 2 duplicate, 5 dead, 4 expired";
        assert_eq!(outcomes(&before, &now).as_deref(), Some(told));
        now.insert("water".into(), feed([(0, Counts { duplicate: 7, ..Counts::default() }, 0)]));
        assert_eq!(outcomes(&before, &now), Some(format!("{told}; water: 7 duplicate")));
    }

    #[test]
    fn a_line_has_an_end_however_many_feeds_there_are() {
        let dead = Counts { dead: 1, ..Counts::default() };
        let many = |feeds| (0..feeds).map(|n| (format!("f{n:03}"), feed([(0, dead, 0)]))).collect();
        let text = outcomes(&BTreeMap::new(), &many(FEEDS_MAX + 3)).unwrap();
        assert!(text.ends_with("; f019: 1 dead; and of 3 more feeds"), "{text}");
        assert!(outcomes(&BTreeMap::new(), &many(FEEDS_MAX)).unwrap().ends_with("; f019: 1 dead"));
    }
}
