//! One series: to which groups it belongs when.

use std::sync::Arc;

use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};
use serde::{Deserialize, Serialize};

use super::group::SHARED_BYTES;
use super::history::History;
use super::plan::{Plan, Rollup};

/// What must be remembered of a series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberState {
    /// Its identifier.
    pub series: Arc<str>,
    /// Number of its feed.
    pub feed: u16,
    /// The unit that its values are stored in; `None` before its first interval.
    pub unit: Option<Unit>,
    /// Start of its first interval of each frequency, in order of the start.
    pub began: Vec<(Micros, Frequency)>,
    /// Its labels.
    pub history: History,
}

impl MemberState {
    /// A series of which nothing is known.
    pub fn new(series: Arc<str>) -> MemberState {
        MemberState { series, feed: u16::MAX, unit: None, began: Vec::new(), history: History::default() }
    }

    /// It has an interval of this frequency; whether that changes when it began.
    pub fn began(&mut self, start: Micros, frequency: Frequency) -> bool {
        match self.began.iter_mut().find(|(_, known)| *known == frequency) {
            Some((first, _)) if *first <= start => return false,
            Some((first, _)) => *first = start,
            None => self.began.push((start, frequency)),
        }
        // Of two that begin at once the one that was added last holds: all intervals of the other were taken away.
        self.began.sort_by_key(|(start, _)| *start);
        true
    }

    /// Start of its first interval.
    pub fn first(&self) -> Option<Micros> {
        self.began.first().map(|(start, _)| *start)
    }

    /// Gives back room that nothing takes.
    pub fn fit(&mut self) {
        self.began.shrink_to_fit();
        self.history.fit();
    }

    /// Bytes that it takes, with what it points to; units and sets of labels are shared.
    pub fn bytes(&self) -> usize {
        let began = self.began.capacity() * size_of::<(Micros, Frequency)>();
        size_of::<MemberState>() + SHARED_BYTES + self.series.len() + began + self.history.bytes()
    }

    /// The groups of a roll-up that it belongs to at an instant, from the top down (none where it lacks the first label),
    /// and its frequency then. `None` where it takes no part, or has not begun.
    pub fn groups_at(&self, plan: &Plan, rollup: &Rollup, at: Micros) -> Option<(Vec<Arc<str>>, Frequency)> {
        let (frequency, unit) = (self.frequency(at)?, self.unit.as_ref()?);
        let groups = || plan.groups(rollup, |label| self.history.value(label, self.feed, at));
        rollup.takes(self.feed, unit).then(|| (groups(), frequency))
    }

    fn frequency(&self, at: Micros) -> Option<Frequency> {
        let next = self.began.partition_point(|(start, _)| *start <= at);
        self.began.get(next.checked_sub(1)?).map(|(_, frequency)| *frequency)
    }
}

/// Number of a path in [`Paths`]: the groups of one roll-up to which a series belongs.
pub type Path = u32;

/// From an instant on, a series belongs to these groups and has this frequency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The instant.
    pub from: Micros,
    /// The groups; `None`: it belongs to none.
    pub path: Option<Path>,
    /// The frequency.
    pub frequency: Frequency,
}

/// The paths that a worker has seen, so that comparing two is comparing numbers.
#[derive(Debug, Default)]
pub struct Paths {
    numbers: hashbrown::HashMap<(u16, Arc<str>), Path>,
    paths: Vec<(u16, Box<[Arc<str>]>)>,
    // Of the groups, each once: they are kept in many places.
    texts: hashbrown::HashSet<Arc<str>>,
    // Of those, and of the paths.
    bytes: usize,
}

impl Paths {
    fn number(&mut self, rollup: u16, groups: Vec<Arc<str>>) -> Option<Path> {
        let deepest = groups.last()?;
        let key = (rollup, self.shared(Arc::clone(deepest)));
        if let Some(number) = self.numbers.get(&key) {
            return Some(*number);
        }
        let number = self.paths.len() as Path;
        let shared: Box<[Arc<str>]> = groups.into_iter().map(|group| self.shared(group)).collect();
        self.bytes += size_of_val(&*shared);
        self.paths.push((rollup, shared));
        self.numbers.insert(key, number);
        Some(number)
    }

    fn shared(&mut self, group: Arc<str>) -> Arc<str> {
        if let Some(known) = self.texts.get(&group) {
            return Arc::clone(known);
        }
        self.bytes += SHARED_BYTES + group.len();
        self.texts.insert(Arc::clone(&group));
        group
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        let paths = self.paths.capacity() * size_of::<(u16, Box<[Arc<str>]>)>();
        self.numbers.allocation_size() + self.texts.allocation_size() + paths + self.bytes
    }

    /// The same, counted anew.
    #[cfg(test)]
    pub(super) fn recounted(&self) -> usize {
        let mut texts = std::collections::HashMap::new();
        for group in self.paths.iter().flat_map(|(_, groups)| groups.iter()) {
            texts.insert(Arc::as_ptr(group).cast::<u8>(), SHARED_BYTES + group.len());
        }
        let groups: usize = self.paths.iter().map(|(_, groups)| size_of_val(&**groups)).sum();
        self.bytes() - self.bytes + groups + texts.values().sum::<usize>()
    }

    /// The roll-up of a path and its groups, from the top down.
    pub fn get(&self, path: Path) -> Option<(u16, &[Arc<str>])> {
        self.paths.get(path as usize).map(|(rollup, groups)| (*rollup, &**groups))
    }
}

/// When a series belongs to which groups of a roll-up, from its first interval on; nothing if it takes no part.
pub fn pieces(state: &MemberState, plan: &Plan, number: u16, rollup: &Rollup, paths: &mut Paths) -> Vec<Piece> {
    let (Some(first), Some(unit)) = (state.first(), &state.unit) else { return Vec::new() };
    if !rollup.takes(state.feed, unit) {
        return Vec::new();
    }
    let mut instants: Vec<Micros> = state.history.changes().filter(|at| *at > first).collect();
    instants.extend(state.began.iter().map(|(start, _)| *start));
    instants.sort_unstable();
    instants.dedup();
    let mut pieces: Vec<Piece> = Vec::with_capacity(1);
    for from in instants {
        let Some(frequency) = state.frequency(from) else { continue };
        let groups = plan.groups(rollup, |label| state.history.value(label, state.feed, from));
        let path = paths.number(number, groups);
        if pieces.last().is_none_or(|last| (last.path, last.frequency) != (path, frequency)) {
            pieces.push(Piece { from, path, frequency });
        }
    }
    pieces.shrink_to_fit();
    pieces
}

/// The groups at an instant.
pub fn path_at(pieces: &[Piece], at: Micros) -> Option<Path> {
    let next = pieces.partition_point(|piece| piece.from <= at);
    pieces.get(next.checked_sub(1)?)?.path
}

/// From the first to the last instant before `end` at which the groups differ.
pub fn difference(before: &[Piece], after: &[Piece], end: Micros) -> Option<(Micros, Micros)> {
    let mut instants: Vec<Micros> = before.iter().chain(after).map(|piece| piece.from).filter(|at| *at < end).collect();
    instants.sort_unstable();
    instants.dedup();
    let mut range: Option<(Micros, Micros)> = None;
    for (index, at) in instants.iter().enumerate() {
        if path_at(before, *at) != path_at(after, *at) {
            let to = instants.get(index + 1).copied().unwrap_or(end);
            range = Some((range.map_or(*at, |(from, _)| from), to));
        }
    }
    range
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frequency_that_was_taken_away_from_the_first_interval_on_holds_no_more() {
        let quarter = Frequency::QUARTER_HOUR;
        let mut state = MemberState::new("a".into());
        assert!(state.began(7_200, Frequency::HOUR) && state.began(3_600, Frequency::HOUR));
        assert!(state.began(4_500, quarter) && state.began(3_600, quarter) && !state.began(5_400, quarter));
        assert_eq!(state.began, [(3_600, Frequency::HOUR), (3_600, quarter)]);
        assert_eq!((state.first(), state.frequency(3_599), state.frequency(3_600)), (Some(3_600), None, Some(quarter)));
    }
}
