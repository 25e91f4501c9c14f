//! Whether what was read of a topic still fits what there is of it. Pure.

use std::collections::BTreeMap;

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

/// What became of a partition that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
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
}

/// Judges every partition of a topic that was read. Of a partition of which nothing was read yet anything is right.
pub fn judge(read: &BTreeMap<i32, Progress>, found: &Found) -> BTreeMap<i32, Verdict> {
    let offsets = |partition: i32| {
        let number = usize::try_from(partition).ok()?;
        found.offsets.get(number).copied()
    };
    let read = || read.values().filter(|progress| !progress.is_new());
    // One partition tells about all that the identifier says nothing about.
    let whole = read().filter(|progress| same(progress, found).is_none()).find_map(|progress| {
        let partition = progress.partition;
        match offsets(partition) {
            None => Some(format!("there is no partition {partition} any more")),
            Some(offsets) => shrunk(progress, offsets),
        }
    });
    let verdict = |progress: &Progress| {
        let there = offsets(progress.partition);
        let evidence = match same(progress, found) {
            Some(false) => Some("the broker gives it another identifier".to_owned()),
            // Only a cluster that lost records has less of the same topic than was read.
            Some(true) => there.and_then(|offsets| shrunk(progress, offsets)),
            None => whole.clone(),
        };
        match (evidence, there) {
            (Some(evidence), None) => Verdict::Anew { evidence, first: None },
            (_, Some(None)) => Verdict::Unknown,
            (Some(evidence), Some(Some((first, _)))) => Verdict::Anew { evidence, first: Some(first) },
            (None, Some(Some((first, _)))) if progress.next_offset < first => Verdict::Expired(first),
            (None, _) => Verdict::GoesOn,
        }
    };
    read().map(|progress| (progress.partition, verdict(progress))).collect()
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
            &Verdict::GoesOn => "goes on",
            Verdict::Unknown => "unknown",
            Verdict::Expired(_) => "expired",
            Verdict::Anew { first: Some(_), .. } => "anew",
            Verdict::Anew { first: None, .. } => "gone",
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
            assert_eq!(judged(&[Some((0, 99))]), ["anew", "gone"]);
            assert_eq!(judged(&[None, Some((0, 9))]), ["unknown", "anew"]);
            assert_eq!(judged(&[None, Some((0, 12))]), ["unknown", "goes on"]);
        }
    }

    #[test]
    fn identifiers_tell_better() {
        let (old, new) = (Some(id(1)), Some(id(2)));
        assert_eq!(judged(old, new, &[Some((0, 99)), Some((0, 99))]), ["anew", "anew"]);
        assert_eq!(judged(old, new, &[Some((0, 99))]), ["anew", "gone"]);
        assert_eq!(judged(old, old, &[Some((0, 99)), Some((20, 99))]), ["goes on", "expired"]);
        // Records were lost in one partition alone.
        assert_eq!(judged(old, old, &[Some((0, 9)), Some((0, 99))]), ["anew", "goes on"]);
    }

    #[test]
    fn of_what_was_not_read_anything_is_right() {
        let mut read = read(Some(id(1)));
        let progress = read.get_mut(&1).unwrap();
        progress.next_offset = progress.first_offset;
        let found = Found { id: Some(id(2)), offsets: vec![Some((5, 6))] };
        let evidence = "the broker gives it another identifier".to_owned();
        assert_eq!(judge(&read, &found), [(0, Verdict::Anew { evidence, first: Some(5) })].into());
    }
}
