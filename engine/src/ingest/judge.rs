//! Whether what was read of a topic still fits what there is of it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use meterline_connectors::kafka::TopicId;

use super::epoch::Progress;

/// The first offset that a broker has of a partition, and the end of what it has; `None` while nobody says.
pub type Offsets = Option<(i64, i64)>;

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
    /// There is no such partition, and nothing was read of it.
    Gone,
}

/// Judges every partition of a topic that is there, or that was known. One of which nothing was read yet does not care which
/// topic it belongs to, but it was known to begin somewhere: what retention takes from there on is lost.
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
            None => Some(format!("there is no partition {partition} any more")),
            Some(offsets) => shrunk(progress, offsets),
        }
    });
    let of_begun = |progress: &Progress, there: Option<Offsets>| {
        let evidence = match same(progress, found) {
            Some(false) => Some("the broker gives it another identifier".to_owned()),
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
        let other = same(progress, found).map_or(whole.is_some(), |same| !same);
        match there {
            None => Verdict::Gone,
            Some(None) => Verdict::Unknown,
            Some(Some((first, _))) if other || first < progress.next_offset => Verdict::Begins(first),
            Some(Some((first, _))) if progress.next_offset < first => Verdict::Expired(first),
            Some(Some(_)) => Verdict::GoesOn,
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

fn shrunk(progress: &Progress, offsets: Offsets) -> Option<String> {
    let (_, end) = offsets?;
    let (partition, next) = (progress.partition, progress.next_offset);
    (end < next).then(|| format!("partition {partition} ends at {end}, but was read up to {next}"))
}

#[cfg(test)]
mod tests {
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
