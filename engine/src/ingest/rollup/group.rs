//! One group: how many series belong to it when, and the last intervals of the series that it makes. Pure.
//!
//! What is forgotten of its intervals is in the table. Of each series it is known from where on everything is still in
//! memory, so that nothing is looked up that has no row.

use differential_dataflow::difference::Semigroup;
use meterline_schemas::{Frequency, Micros};

use super::steps::Steps;
use super::sums::Sums;

/// Intervals that each series of a group may remember, however many series there are.
pub const REMEMBERED_MIN: usize = 2;

/// One interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Known {
    /// Its start.
    pub start: Micros,
    /// Its end.
    pub end: Micros,
    /// What it adds up to.
    pub sums: Sums,
}

impl Known {
    /// Bytes of one, with its part of the room that [`Recent`] keeps.
    pub const BYTES: usize = size_of::<Known>() * 5 / 4;

    /// Whether it has a value.
    pub fn is_there(&self) -> bool {
        self.sums.count() > 0
    }
}

/// The last intervals of one series of a group: those of one length.
#[derive(Debug)]
pub struct Recent {
    length: Frequency,
    complete: Micros,
    // By start.
    intervals: Vec<Known>,
}

impl Recent {
    fn new(length: Frequency) -> Recent {
        Recent { length, complete: Micros::MIN, intervals: Vec::new() }
    }

    /// Of those that start here or later none was forgotten because there was no memory for it.
    pub fn complete(&self) -> Micros {
        self.complete
    }

    fn place(&self, start: Micros) -> Result<usize, usize> {
        self.intervals.binary_search_by_key(&start, |known| known.start)
    }

    /// The interval that starts at `start`, if it is in memory.
    pub fn find(&self, start: Micros) -> Option<&Known> {
        self.intervals.get(self.place(start).ok()?)
    }

    /// Those that have a part of `[from, to)`.
    pub fn within(&self, from: Micros, to: Micros) -> &[Known] {
        let first = self.intervals.partition_point(|known| known.end <= from);
        let next = self.intervals.partition_point(|known| known.start < to);
        self.intervals.get(first..next).unwrap_or_default()
    }

    /// Takes intervals that were looked up. What is in memory is at least as new.
    pub fn recall(&mut self, found: impl Iterator<Item = Known>) {
        self.intervals.extend(found);
        // Those that were there stay the first of their start.
        self.intervals.sort_by_key(|known| known.start);
        self.intervals.dedup_by_key(|known| known.start);
    }

    /// Adds to intervals, which come in order and each once. `told` gets the start of each, and what it was before,
    /// where that is in memory.
    pub fn add(&mut self, changes: impl Iterator<Item = Known>, mut told: impl FnMut(Micros, Option<&Known>)) {
        let mut new = Vec::new();
        for change in changes {
            match self.place(change.start) {
                Ok(place) => {
                    let known = &mut self.intervals[place];
                    told(change.start, Some(&*known));
                    known.sums.plus_equals(&change.sums);
                }
                Err(_) => {
                    told(change.start, None);
                    new.push(change);
                }
            }
        }
        if !new.is_empty() {
            self.intervals.reserve_exact(new.len());
            self.intervals.append(&mut new);
            self.intervals.sort_by_key(|known| known.start);
        }
    }

    // Forgets those that start before an instant.
    fn forget_before(&mut self, from: Micros) {
        let old = self.intervals.partition_point(|known| known.start < from);
        self.intervals.drain(..old);
    }

    // Forgets those that ended by then.
    fn forget_ended(&mut self, by: Micros) {
        let old = self.intervals.partition_point(|known| known.end <= by);
        self.intervals.drain(..old);
        self.fit();
    }

    // Forgets all but so many.
    fn trim(&mut self, most: usize) {
        let surplus = self.intervals.len().saturating_sub(most);
        if let Some(newest) = surplus.checked_sub(1).and_then(|last| self.intervals.get(last)) {
            self.complete = self.complete.max(newest.start + 1);
            self.intervals.drain(..surplus);
        }
        self.fit();
    }

    // Gives back room, but for a few that come next.
    fn fit(&mut self) {
        let length = self.intervals.len();
        if self.intervals.capacity() > length + length / 4 {
            self.intervals.shrink_to_fit();
        }
    }
}

/// What groups take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes of what they are: names, and how many series belong to them when.
    pub themselves: usize,
    /// Bytes of the intervals that they remember.
    pub intervals: usize,
    /// Number of series that they make.
    pub series: usize,
}

impl Size {
    /// One of them, which took `before`, takes `now`.
    pub fn changed(&mut self, before: Size, now: Size) {
        self.themselves = self.themselves + now.themselves - before.themselves;
        self.intervals = self.intervals + now.intervals - before.intervals;
        self.series = self.series + now.series - before.series;
    }
}

/// What a shared text or slice takes beside what is in it.
pub const SHARED_BYTES: usize = 2 * size_of::<usize>();

/// One group.
#[derive(Debug, Default)]
pub struct Group {
    // By the frequency of the series that are counted; `None`: of all.
    members: Vec<(Option<Frequency>, Steps)>,
    recent: Vec<Recent>,
}

impl Group {
    /// How many series of a frequency, or of all, belong to it when.
    pub fn steps(&mut self, of: Option<Frequency>) -> &mut Steps {
        let index = self.members.iter().position(|(known, _)| *known == of).unwrap_or_else(|| {
            self.members.reserve_exact(1);
            self.members.push((of, Steps::default()));
            self.members.len() - 1
        });
        &mut self.members[index].1
    }

    /// Seconds for which there should be a value in `[start, end)`, summed over these series.
    pub fn expected(&self, of: Option<Frequency>, start: Micros, end: Micros) -> i64 {
        self.members.iter().find(|(known, _)| *known == of).map_or(0, |(_, steps)| steps.seconds(start, end))
    }

    /// The intervals of a length, if it has such a series.
    pub fn recent(&self, length: Frequency) -> Option<&Recent> {
        self.recent.iter().find(|recent| recent.length == length)
    }

    /// The same, to be changed; it has one from now on.
    pub fn recent_mut(&mut self, length: Frequency) -> &mut Recent {
        let index = self.recent.iter().position(|recent| recent.length == length).unwrap_or_else(|| {
            self.recent.reserve_exact(1);
            self.recent.push(Recent::new(length));
            self.recent.len() - 1
        });
        &mut self.recent[index]
    }

    /// Forgets of a length what starts before an instant, and all but the last `most`.
    pub fn settle(&mut self, length: Frequency, from: Micros, most: usize) {
        if let Some(recent) = self.recent.iter_mut().find(|recent| recent.length == length) {
            recent.forget_before(from);
            recent.trim(most);
        }
    }

    /// Forgets all but the last `most` of each length.
    pub fn trim(&mut self, most: usize) {
        self.recent.iter_mut().for_each(|recent| recent.trim(most));
    }

    /// Forgets what ended by an instant, before which nobody takes anything to be in memory from now on.
    pub fn forget_ended(&mut self, by: Micros) {
        self.recent.iter_mut().for_each(|recent| recent.forget_ended(by));
        self.recent.retain(|recent| !recent.intervals.is_empty() || recent.complete > by);
    }

    /// Whether nothing is known of it.
    pub fn is_empty(&self) -> bool {
        self.recent.is_empty() && self.members.iter().all(|(_, steps)| steps.is_empty())
    }

    /// What it takes, with its name.
    pub fn size(&self, name: &str) -> Size {
        let steps: usize = self.members.iter().map(|(_, steps)| steps.bytes()).sum();
        let members = self.members.capacity() * size_of::<(Option<Frequency>, Steps)>();
        let series = self.recent.capacity() * size_of::<Recent>();
        let intervals: usize = self.recent.iter().map(|recent| recent.intervals.capacity()).sum();
        Size {
            themselves: SHARED_BYTES + name.len() + members + steps + series,
            intervals: intervals * size_of::<Known>(),
            series: self.recent.len(),
        }
    }

    /// Number of intervals in memory.
    pub fn in_memory(&self) -> usize {
        self.recent.iter().map(|recent| recent.intervals.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(start: Micros, amount: i128) -> Known {
        Known { start, end: start + 10, sums: Sums { amount, present: 10, intervals: [1, 0, 0] } }
    }

    fn starts(recent: &Recent) -> Vec<Micros> {
        recent.intervals.iter().map(|known| known.start).collect()
    }

    #[test]
    fn what_is_forgotten_is_known_to_be_forgotten() {
        let mut group = Group::default();
        let mut before = Vec::new();
        let changes = [known(10, 1), known(20, 2), known(30, 3)];
        group.recent_mut(Frequency::HOUR).add(changes.into_iter(), |start, was| before.push((start, was.copied())));
        group.trim(2);
        let recent = group.recent(Frequency::HOUR).unwrap();
        assert_eq!((starts(recent), recent.complete()), (vec![20, 30], 11));
        // What is older than all that is left, and a change of one that is there.
        let changes = [known(0, 4), known(20, 5)];
        group.recent_mut(Frequency::HOUR).add(changes.into_iter(), |start, was| before.push((start, was.copied())));
        let firsts = [(10, None), (20, None), (30, None), (0, None), (20, Some(known(20, 2)))];
        assert_eq!(before, firsts);
        let recent = group.recent(Frequency::HOUR).unwrap();
        assert_eq!((starts(recent), recent.find(20).unwrap().sums.amount), (vec![0, 20, 30], 7));
        group.settle(Frequency::HOUR, 11, 2);
        assert_eq!(starts(group.recent(Frequency::HOUR).unwrap()), [20, 30]);
        // Time goes on: nobody takes what is older to be in memory any more.
        group.forget_ended(10);
        assert_eq!(group.recent(Frequency::HOUR).map(Recent::complete), Some(11));
        group.forget_ended(40);
        assert!(group.is_empty());
    }

    #[test]
    fn what_is_looked_up_comes_beside_what_is_there() {
        let mut group = Group::default();
        group.recent_mut(Frequency::Day).recall([known(30, 1), known(10, 1)].into_iter());
        group.recent_mut(Frequency::Day).recall([known(20, 2), known(30, 2), known(0, 2)].into_iter());
        let recent = group.recent(Frequency::Day).unwrap();
        let amounts: Vec<(Micros, i128)> =
            recent.intervals.iter().map(|known| (known.start, known.sums.amount)).collect();
        assert_eq!(amounts, [(0, 2), (10, 1), (20, 2), (30, 1)]);
        let within = |from, to| recent.within(from, to).iter().map(|known| known.start).collect::<Vec<Micros>>();
        assert_eq!(within(9, 20), [0, 10]);
        assert_eq!(within(10, 11), [10]);
        assert!(within(40, Micros::MAX).is_empty());
        assert_eq!(group.recent(Frequency::HOUR).map(Recent::complete), None);
    }
}
