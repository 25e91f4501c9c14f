//! Whether what was read of a topic still fits what there is of it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use meterline_connectors::kafka::TopicId;

use super::epoch::Progress;

/// The first offset that a broker has of a partition, and the end of what it has; `None` while nobody says.
pub type Offsets = Option<(i64, i64)>;

/// Evidence that the identifier alone gives.
const OTHER_ID: &str = "the broker gives it another identifier";

/// What there is of a topic now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its identifier, if the broker has one.
    pub id: Option<TopicId>,
    /// By partition.
    pub offsets: Vec<Offsets>,
}

/// How a partition is to be read (on).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// From this offset on: nothing was read of it.
    Begins(i64),
    /// It goes on where reading stopped.
    GoesOn,
    /// Nothing can be said before a broker answers.
    Unknown,
    /// The records from where reading stopped to this offset are gone.
    Expired(i64),
    /// It belongs to another topic of that name; `None` where that has no such partition.
    Anew {
        /// What tells.
        evidence: String,
        /// Where the new one begins.
        first: Option<i64>,
    },
    /// There is no such partition, and nothing of it was there to be read.
    Gone,
}

/// Judges every partition of a topic that is there, or that was known. One of which nothing was read yet does not care
/// which topic it belongs to, unless it had records: those are lost with the topic that had them. And it was known to
/// begin somewhere: what retention takes from there on is lost.
pub fn judge(read: &BTreeMap<i32, Progress>, found: &Found) -> BTreeMap<i32, Verdict> {
    let offsets = |partition: i32| {
        let number = usize::try_from(partition).ok()?;
        found.offsets.get(number).copied()
    };
    let begun = || read.values().filter(|progress| !progress.is_new());
    // One partition tells about all that the identifier says nothing about.
    let whole = begun().filter(|progress| same(progress, found).is_none()).find_map(|progress| {
        let partition = progress.partition;
        match offsets(partition) {
            None => Some(missing(partition)),
            Some(offsets) => shrunk(progress, offsets),
        }
    });
    let of_begun = |progress: &Progress, there: Option<Offsets>| {
        let evidence = match same(progress, found) {
            Some(false) => Some(OTHER_ID.to_owned()),
            // Only a cluster that lost records has less of the same topic than was read.
            Some(true) => there.and_then(|offsets| shrunk(progress, offsets)),
            None => whole.clone(),
        };
        match (evidence, there) {
            (Some(evidence), None) => Verdict::Anew { evidence, first: None },
            // A topic never has fewer partitions than it had: the answer is older than the partition.
            (None, None) | (_, Some(None)) => Verdict::Unknown,
            (Some(evidence), Some(Some((first, _)))) => Verdict::Anew { evidence, first: Some(first) },
            (None, Some(Some((first, _)))) if progress.next_offset < first => Verdict::Expired(first),
            (None, Some(Some(_))) => Verdict::GoesOn,
        }
    };
    let of_new = |progress: &Progress, there: Option<Offsets>| {
        let known = same(progress, found);
        let evidence = match known {
            Some(false) => Some(OTHER_ID.to_owned()),
            Some(true) => None,
            None => whole.clone().or_else(|| begins_earlier(progress, there)),
        };
        let unread = progress.end_offset > progress.next_offset;
        match (evidence, there) {
            (_, Some(None)) => Verdict::Unknown,
            // As above: what had records is not gone before another topic is there.
            (_, None) if unread && known == Some(true) => Verdict::Unknown,
            (evidence, None) if unread => {
                Verdict::Anew { evidence: evidence.unwrap_or_else(|| missing(progress.partition)), first: None }
            }
            (_, None) => Verdict::Gone,
            (Some(evidence), Some(Some((first, _)))) if unread => Verdict::Anew { evidence, first: Some(first) },
            (Some(_), Some(Some((first, _)))) => Verdict::Begins(first),
            (None, Some(Some((first, _)))) if first < progress.next_offset => Verdict::Begins(first),
            (None, Some(Some((first, _)))) if progress.next_offset < first => Verdict::Expired(first),
            (None, Some(Some(_))) => Verdict::GoesOn,
        }
    };
    let there = (0..).zip(&found.offsets).map(|(partition, _)| partition);
    let all: BTreeSet<i32> = there.chain(read.keys().copied()).collect();
    let verdict = |partition: i32| match (read.get(&partition), offsets(partition)) {
        (Some(progress), there) if progress.is_new() => of_new(progress, there),
        (Some(progress), there) => of_begun(progress, there),
        (None, Some(Some((first, _)))) => Verdict::Begins(first),
        (None, _) => Verdict::Unknown,
    };
    all.into_iter().map(|partition| (partition, verdict(partition))).collect()
}

// Whether it is the same topic, if identifiers tell.
fn same(progress: &Progress, found: &Found) -> Option<bool> {
    Some(progress.topic_id? == found.id?)
}

fn missing(partition: i32) -> String {
    format!("there is no partition {partition} any more")
}

fn begins_earlier(progress: &Progress, there: Option<Offsets>) -> Option<String> {
    let (first, _) = there??;
    let (partition, known) = (progress.partition, progress.next_offset);
    (first < known).then(|| format!("partition {partition} begins at {first}, but was known to begin at {known}"))
}

fn shrunk(progress: &Progress, offsets: Offsets) -> Option<String> {
    let (_, end) = offsets?;
    let (partition, next) = (progress.partition, progress.next_offset);
    (end < next).then(|| format!("partition {partition} ends at {end}, but was read up to {next}"))
}

#[cfg(test)]
mod tests {
    use super::super::discovery::Change;
    use super::*;

    fn id(number: u64) -> TopicId {
        serde_json::from_str(&format!("[{number}, 1]")).unwrap()
    }

    /// Two partitions, read from 0 up to 10, of a topic with this identifier.
    fn read(topic_id: Option<TopicId>) -> BTreeMap<i32, Progress> {
        let progress = |partition| {
            let next_offset = 10;
            (partition, Progress { topic_id, next_offset, ..Progress::begin(0, partition, 0) })
        };
        [progress(0), progress(1)].into()
    }

    fn judged(known: Option<TopicId>, now: Option<TopicId>, offsets: &[Offsets]) -> Vec<&'static str> {
        let verdicts = judge(&read(known), &Found { id: now, offsets: offsets.to_vec() });
        let name = |verdict| match verdict {
            &Verdict::Begins(_) => "begins",
            Verdict::GoesOn => "goes on",
            Verdict::Unknown => "unknown",
            Verdict::Expired(_) => "expired",
            Verdict::Anew { first: Some(_), .. } => "anew",
            Verdict::Anew { first: None, .. } => "taken away",
            Verdict::Gone => "gone",
        };
        verdicts.values().map(name).collect()
    }

    #[test]
    fn offsets_tell_where_there_is_no_identifier() {
        for ids in [(None, None), (Some(id(1)), None), (None, Some(id(1)))] {
            let judged = |offsets: &[Offsets]| judged(ids.0, ids.1, offsets);
            assert_eq!(judged(&[Some((0, 10)), Some((3, 99))]), ["goes on", "goes on"]);
            assert_eq!(judged(&[Some((10, 10)), Some((11, 99))]), ["goes on", "expired"]);
            assert_eq!(judged(&[Some((0, 99)), Some((0, 9))]), ["anew", "anew"], "one tells about all");
            assert_eq!(judged(&[Some((0, 99))]), ["anew", "taken away"]);
            assert_eq!(judged(&[None, Some((0, 9))]), ["unknown", "anew"]);
            assert_eq!(judged(&[None, Some((0, 12))]), ["unknown", "goes on"]);
        }
    }

    #[test]
    fn identifiers_tell_better() {
        let (old, new) = (Some(id(1)), Some(id(2)));
        assert_eq!(judged(old, new, &[Some((0, 99)), Some((0, 99))]), ["anew", "anew"]);
        assert_eq!(judged(old, new, &[Some((0, 99))]), ["anew", "taken away"]);
        assert_eq!(judged(old, old, &[Some((0, 99)), Some((20, 99))]), ["goes on", "expired"]);
        // Records were lost in one partition alone.
        assert_eq!(judged(old, old, &[Some((0, 9)), Some((0, 99))]), ["anew", "goes on"]);
    }

    /// A partition that was known to begin at 4, and of which nothing was read, beside one that was read up to 10.
    fn of_new(ids: (Option<TopicId>, Option<TopicId>), offsets: &[Offsets]) -> Verdict {
        let mut read = read(ids.0);
        let (topic_id, incarnation) = (ids.0, 1);
        read.insert(2, Progress { topic_id, incarnation, ..Progress::begin(0, 2, 4) });
        judge(&read, &Found { id: ids.1, offsets: offsets.to_vec() }).remove(&2).unwrap()
    }

    #[test]
    fn of_a_partition_that_was_not_read_any_topic_is_right_but_nothing_may_be_lost() {
        let (old, new) = (Some(id(1)), Some(id(2)));
        let others = [Some((0, 10)), Some((0, 10))];
        let with = |third: Offsets| [others[0], others[1], third];
        for ids in [(None, None), (old, None), (None, new), (old, old)] {
            assert_eq!(of_new(ids, &with(Some((4, 4)))), Verdict::GoesOn);
            assert_eq!(of_new(ids, &with(Some((7, 9)))), Verdict::Expired(7), "three were there, and were never read");
            for end in [3, 9] {
                assert_eq!(of_new(ids, &with(Some((0, end)))), Verdict::Begins(0), "of another topic");
            }
            assert_eq!(of_new(ids, &with(None)), Verdict::Unknown);
            assert_eq!(of_new(ids, &others), Verdict::Gone);
        }
        assert_eq!(of_new((old, new), &with(Some((7, 9)))), Verdict::Begins(7));
        assert_eq!(of_new((old, new), &others), Verdict::Gone);
        // The others tell that it is another topic.
        assert_eq!(of_new((None, None), &[Some((0, 3)), Some((0, 3)), Some((7, 9))]), Verdict::Begins(7));
    }

    /// The same, where three records were known to be there, and what becomes of it where the feed goes on.
    fn of_unread(ids: (Option<TopicId>, Option<TopicId>), offsets: &[Offsets]) -> (Verdict, Progress) {
        let mut read = read(ids.0);
        let begun = Progress { topic_id: ids.0, end_offset: 7, ..Progress::begin(0, 2, 4) };
        read.insert(2, begun);
        let verdict = judge(&read, &Found { id: ids.1, offsets: offsets.to_vec() }).remove(&2).unwrap();
        let (mut after, end) = (begun, offsets.get(2).copied().flatten().map_or(0, |(_, end)| end));
        match verdict {
            Verdict::Anew { first: Some(first), .. } => Change::Anew(first).apply(&mut after, ids.1, end),
            Verdict::Anew { first: None, .. } => Change::Gone.apply(&mut after, ids.1, 0),
            _ => {}
        }
        (verdict, after)
    }

    #[test]
    fn records_that_were_never_read_are_lost_with_their_topic_and_leave_no_lag() {
        let (old, new) = (Some(id(1)), Some(id(2)));
        let others = [Some((0, 99)), Some((0, 99))];
        let with = |third: Offsets| [others[0], others[1], third];
        let lost = |(verdict, after): (Verdict, Progress), first: Option<i64>| {
            assert!(matches!(&verdict, Verdict::Anew { first: begins, .. } if *begins == first), "{verdict:?}");
            assert_eq!((after.expired, after.earlier, after.incarnation), (3, 3, 1));
            assert_eq!(after.expired as i64, after.earlier + after.next_offset - after.first_offset);
            assert!(after.is_new(), "nothing of the new one was read: {after:?}");
            after
        };
        // It has no such partition, and never had a record of it.
        let gone = lost(of_unread((old, new), &others), None);
        assert_eq!((gone.next_offset, gone.end_offset, gone.topic_id), (0, 0, new));
        // It is looked at again: there is nothing more to lose, and it holds nothing.
        let known = [(2, gone)].into();
        assert_eq!(judge(&known, &Found { id: new, offsets: others.to_vec() })[&2], Verdict::Gone);
        lost(of_unread((None, None), &others), None);
        // It has one, which is empty, or has records of its own.
        let empty = lost(of_unread((old, new), &with(Some((0, 0)))), Some(0));
        assert_eq!(empty.end_offset, 0);
        let filled = lost(of_unread((old, new), &with(Some((0, 5)))), Some(0));
        assert_eq!((filled.next_offset, filled.end_offset), (0, 5));
        lost(of_unread((None, None), &with(Some((0, 5)))), Some(0));
        // The same topic has lost nothing: the answer is older than the partition, or a part is gone.
        assert_eq!(of_unread((old, old), &others).0, Verdict::Unknown);
        assert_eq!(of_unread((old, old), &with(Some((4, 7)))).0, Verdict::GoesOn);
        assert_eq!(of_unread((old, old), &with(Some((6, 7)))).0, Verdict::Expired(6));
        assert_eq!(of_unread((None, None), &with(Some((4, 9)))).0, Verdict::GoesOn);
    }

    #[test]
    fn a_partition_that_was_just_found_begins_where_its_broker_says() {
        let offsets = vec![Some((0, 10)), Some((0, 10)), Some((5, 6)), None];
        let verdicts = judge(&read(Some(id(1))), &Found { id: Some(id(1)), offsets });
        assert_eq!((&verdicts[&2], &verdicts[&3]), (&Verdict::Begins(5), &Verdict::Unknown));
    }

    #[test]
    fn an_answer_that_is_older_than_a_partition_says_nothing() {
        assert_eq!(judged(Some(id(1)), Some(id(1)), &[Some((0, 10))]), ["goes on", "unknown"]);
    }
}
