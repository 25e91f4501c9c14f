//! The series of one worker: changes of intervals and labels in, differences of groups out.

use std::sync::Arc;

use differential_dataflow::difference::{IsZero, Semigroup};
use hashbrown::{HashMap, HashSet};
use meterline_schemas::{Frequency, Micros};
use serde::{Deserialize, Serialize};

use super::super::portion::Portion;
use super::super::rows::Content;
use super::super::shard::Place;
use super::group::SHARED_BYTES;
use super::history::{Given, Said};
use super::lake::{SeriesRow, Want};
use super::member::{MemberState, Path, Paths, Piece, difference, path_at, pieces};
use super::plan::Plan;
use super::sets::Sets;
use super::sums::Sums;
use super::{IntervalChange, LabelChange};

/// What a difference is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Item {
    /// Number of the roll-up.
    pub rollup: u16,
    /// The group.
    pub group: Arc<str>,
    /// The rest.
    pub what: What,
}

/// Part of an [`Item`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum What {
    /// Series belong to the group from here on; [`Sums::count`] of them. Those of one frequency, or all.
    Members(Option<Frequency>, Micros),
    /// An interval of this length, with start and end.
    Interval(Frequency, Micros, Micros),
}

// All that concerns a group meets in one worker.
impl std::hash::Hash for Item {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.rollup.hash(state);
        self.group.hash(state);
    }
}

// By number of the roll-up.
type Pieces = Box<[Vec<Piece>]>;

#[derive(Debug)]
struct Member {
    // A commit has it, too, until it is written.
    state: Arc<MemberState>,
    pieces: Pieces,
    // End of its last interval, or later.
    last_end: Micros,
    // The commit whose segment holds its state.
    written: i64,
    // As of the last epoch in which it changed; 0 where that has not ended yet.
    bytes: usize,
}

impl Member {
    fn new(series: &Arc<str>, plan: &Plan) -> Member {
        let state = Arc::new(MemberState::new(Arc::clone(series)));
        Member { state, pieces: no_pieces(plan), last_end: Micros::MIN, written: i64::MAX, bytes: 0 }
    }

    // Bytes of what it points to. Its place among the others is theirs.
    fn count_bytes(&self) -> usize {
        let pieces = self.pieces.iter().map(|pieces| size_of::<Vec<Piece>>() + pieces.capacity() * size_of::<Piece>());
        SHARED_BYTES + self.state.bytes() + pieces.sum::<usize>()
    }

    // Works out to which groups it belongs, and notes the difference.
    fn settle(&mut self, plan: &Plan, paths: &mut Paths, collected: &mut Collected) {
        for (number, rollup) in plan.rollups.iter().enumerate() {
            let now = pieces(&self.state, plan, number as u16, rollup, paths);
            let before = std::mem::replace(&mut self.pieces[number], now);
            let now = &self.pieces[number];
            if before != *now {
                collected.belongs(&before, rollup.native, -1);
                collected.belongs(now, rollup.native, 1);
            }
        }
    }
}

fn no_pieces(plan: &Plan) -> Pieces {
    plan.rollups.iter().map(|_| Vec::new()).collect()
}

// Pieces before and after the label changes of the running epoch. What these move does not depend on what else the
// epoch brings, so the later ones are kept, too.
#[derive(Debug)]
struct Move {
    before: Pieces,
    after: Pieces,
}

/// What an epoch gives.
#[derive(Debug, Default)]
pub struct Differences {
    /// Of groups.
    pub items: Vec<(Item, Sums)>,
    /// States of the series that are to be written.
    pub changed: Vec<Arc<MemberState>>,
    /// How many of them changed; the others are written again.
    pub news: u64,
    /// By number of the roll-up: change of the number of intervals that belong to no group.
    pub unlabelled: Vec<i64>,
}

/// Sums of one epoch, before they are written out for each level.
#[derive(Debug, Default)]
struct Collected {
    intervals: HashMap<(Path, Frequency, Micros), (Micros, Sums)>,
    members: HashMap<(Path, Option<Frequency>, Micros), i64>,
    unlabelled: Vec<i64>,
}

/// The series of one worker.
#[derive(Debug)]
pub struct Members {
    plan: Arc<Plan>,
    paths: Paths,
    sets: Sets,
    members: HashMap<Arc<str>, Member>,
    // What these point to.
    bytes: usize,
    moving: HashMap<Arc<str>, Move>,
    // What is to be looked up of them, in order, and how much at a time.
    wants: Vec<Want>,
    portion: Portion,
    asked: usize,
    changed: HashSet<Arc<str>>,
    collected: Collected,
}

impl Members {
    /// Those that a commit remembers, each with the commit whose segment holds it. Their membership is among the
    /// differences of the first epoch that ends.
    pub fn new(plan: Arc<Plan>, states: impl IntoIterator<Item = (MemberState, i64)>) -> Members {
        let mut members = Members {
            collected: Collected { unlabelled: vec![0; plan.rollups.len()], ..Collected::default() },
            plan,
            paths: Paths::default(),
            sets: Sets::default(),
            members: HashMap::new(),
            bytes: 0,
            moving: HashMap::new(),
            wants: Vec::new(),
            portion: Portion::new(usize::MAX),
            asked: 0,
            changed: HashSet::new(),
        };
        for (mut state, written) in states {
            state.history.share(|labels| members.sets.shared(labels));
            state.fit();
            let (state, pieces) = (Arc::new(state), no_pieces(&members.plan));
            let mut member = Member { state, pieces, last_end: Micros::MAX, written, bytes: 0 };
            member.settle(&members.plan, &mut members.paths, &mut members.collected);
            member.bytes = member.count_bytes();
            members.bytes += member.bytes;
            members.members.insert(Arc::clone(&member.state.series), member);
        }
        members
    }

    /// About so many rows are looked up at a time.
    pub fn looking_up(mut self, rows: usize) -> Members {
        self.portion = Portion::new(rows);
        self
    }

    /// Labels were said, and hold from the running epoch on.
    pub fn say(&mut self, changes: impl IntoIterator<Item = LabelChange>) {
        for change in changes {
            let LabelChange { source, series, valid_from, labels, position } = change;
            let labels = self.sets.shared(&labels);
            let known = self.members.entry(Arc::clone(&series));
            let member = known.or_insert_with(|| Member::new(&series, &self.plan));
            let said = Arc::make_mut(&mut member.state).history.say(Given { source, valid_from, labels, position });
            if said == Said::New {
                let before = member.pieces.clone();
                member.settle(&self.plan, &mut self.paths, &mut self.collected);
                let after = member.pieces.clone();
                let known = self.moving.entry(Arc::clone(&series));
                known.and_modify(|known| known.after.clone_from(&after)).or_insert(Move { before, after });
            }
            if said != Said::Older {
                self.changed.insert(series);
            }
        }
        let Members { members, moving, wants, .. } = self;
        moving.retain(|series, moving| {
            let last_end = members.get(series).map_or(Micros::MAX, |member| member.last_end);
            let pairs = moving.before.iter().zip(&moving.after);
            let ranges = pairs.filter_map(|(before, after)| difference(before, after, last_end));
            let range = ranges.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
            if let Some((from, to)) = range {
                wants.push(Want { series: Arc::clone(series), from, to });
            }
            range.is_some()
        });
        self.wants.sort_unstable();
    }

    /// Intervals to be looked up next before the epoch can end, as they were before it: those that labels move. `None`
    /// where there are none. The answer goes to [`Members::moved`].
    pub fn wanted(&mut self) -> Option<Vec<Want>> {
        let part = self.wants.split_off(self.wants.len().saturating_sub(self.portion.parts()));
        self.asked = part.len();
        if part.is_empty() {
            self.moving.clear();
            return None;
        }
        Some(part)
    }

    /// The intervals that were asked for: each goes from its old groups to its new ones.
    pub fn moved(&mut self, rows: Vec<SeriesRow>) {
        self.portion.found(self.asked, rows.len());
        let Members { plan, moving, collected, .. } = self;
        for row in rows.into_iter().filter(|row| row.content.count > 0) {
            let Some(Move { before, after }) = moving.get(&row.series) else { continue };
            for (number, (before, after)) in before.iter().zip(after).enumerate() {
                let (from, to) = (path_at(before, row.start), path_at(after, row.start));
                if from != to && !(before.is_empty() && after.is_empty()) {
                    let interval = (row.start, row.end, row.frequency);
                    collected.interval(plan, number, from, interval, &row.content, -1);
                    collected.interval(plan, number, to, interval, &row.content, 1);
                }
            }
        }
    }

    /// An interval changed.
    pub fn interval(&mut self, change: IntervalChange) {
        let Members { plan, paths, sets, members, changed, collected, .. } = self;
        let interval = (change.start, change.end, change.frequency);
        let known = members.entry(Arc::clone(&change.series));
        let member = known.or_insert_with(|| Member::new(&change.series, plan));
        let there = |content: &Content| content.count > 0;
        if let Some(old) = change.old.as_ref().filter(|content| there(content)) {
            collected.counts(plan, member, interval, old, -1);
        }
        let mut settle = false;
        let state = Arc::make_mut(&mut member.state);
        if state.unit.is_none() {
            (state.unit, state.feed) = (Some(change.unit), change.feed);
            settle = true;
        }
        let new = change.new.as_ref().filter(|content| there(content));
        if new.is_some() {
            settle |= state.began(change.start, change.frequency);
            if plan.has_labels(change.feed)
                && let Some(labels) = &change.labels
            {
                let as_before = state.history.latest().filter(|known| *known == labels).cloned();
                let labels = as_before.unwrap_or_else(|| sets.shared(labels));
                settle |= state.history.read(change.start, change.end, &labels);
                // A run that became longer is something to remember, too.
                if !changed.contains(&change.series) {
                    changed.insert(Arc::clone(&change.series));
                }
            }
            member.last_end = member.last_end.max(change.end);
        }
        if settle {
            member.settle(plan, paths, collected);
            changed.insert(Arc::clone(&change.series));
        }
        if let Some(new) = new {
            collected.counts(plan, member, interval, new, 1);
        }
    }

    /// Ends the epoch. What changed in it goes to `place`, with the states of segments that are to go.
    pub fn finish(&mut self, place: Place) -> Differences {
        let mut out = Differences::default();
        let Collected { intervals, members, unlabelled } = &mut self.collected;
        for ((path, length, start), (end, sums)) in intervals.drain().filter(|(_, (_, sums))| !sums.is_zero()) {
            let Some((rollup, groups)) = self.paths.get(path) else { continue };
            let what = What::Interval(length, start, end);
            out.items.extend(groups.iter().map(|group| (Item { rollup, group: Arc::clone(group), what }, sums)));
        }
        for ((path, of, at), count) in members.drain().filter(|(_, count)| *count != 0) {
            let Some((rollup, groups)) = self.paths.get(path) else { continue };
            let what = What::Members(of, at);
            let sums = Sums { intervals: [count, 0, 0], ..Sums::default() };
            out.items.extend(groups.iter().map(|group| (Item { rollup, group: Arc::clone(group), what }, sums)));
        }
        out.unlabelled = unlabelled.iter_mut().map(std::mem::take).collect();
        out.news = self.changed.len() as u64;
        if place.rewrite_from < i64::MAX {
            let due = self.members.iter().filter(|(_, member)| member.written >= place.rewrite_from);
            self.changed.extend(due.map(|(series, _)| Arc::clone(series)));
        }
        for series in self.changed.drain() {
            if let Some(member) = self.members.get_mut(&series) {
                member.written = place.seq;
                Arc::make_mut(&mut member.state).fit();
                let bytes = member.count_bytes();
                self.bytes = self.bytes + bytes - std::mem::replace(&mut member.bytes, bytes);
                out.changed.push(Arc::clone(&member.state));
            }
        }
        self.sets.tidy();
        out
    }

    /// Bytes that they take, as of the end of the last epoch.
    pub fn bytes(&self) -> usize {
        self.members.allocation_size() + self.bytes + self.paths.bytes() + self.sets.bytes()
    }

    /// The same, counted anew.
    #[cfg(test)]
    pub(super) fn recounted(&self) -> usize {
        let members: usize = self.members.values().map(Member::count_bytes).sum();
        self.members.allocation_size() + members + self.paths.recounted() + self.sets.recounted()
    }
}

impl Collected {
    fn belongs(&mut self, pieces: &[Piece], native: bool, sign: i64) {
        for (index, piece) in pieces.iter().enumerate() {
            let Some(path) = piece.path else { continue };
            let next = pieces.get(index + 1).map(|next| next.from);
            for (at, change) in [(Some(piece.from), sign), (next, -sign)] {
                let Some(at) = at else { continue };
                *self.members.entry((path, None, at)).or_default() += change;
                if native {
                    *self.members.entry((path, Some(piece.frequency), at)).or_default() += change;
                }
            }
        }
    }

    // In all roll-ups.
    fn counts(
        &mut self,
        plan: &Plan,
        member: &Member,
        interval: (Micros, Micros, Frequency),
        content: &Content,
        sign: i64,
    ) {
        for (number, pieces) in member.pieces.iter().enumerate().filter(|(_, pieces)| !pieces.is_empty()) {
            self.interval(plan, number, path_at(pieces, interval.0), interval, content, sign);
        }
    }

    fn interval(
        &mut self,
        plan: &Plan,
        number: usize,
        path: Option<Path>,
        (start, end, frequency): (Micros, Micros, Frequency),
        content: &Content,
        sign: i64,
    ) {
        let Some(rollup) = plan.rollups.get(number) else { return };
        let Some(path) = path else {
            self.unlabelled[number] += sign;
            return;
        };
        let sums = Sums::of(content.value, content.quality, end - start, rollup.valuation.weighted());
        let sums = if sign < 0 { sums.negated() } else { sums };
        for length in rollup.lengths_for(frequency) {
            let Some((from, to)) = rollup.slot(length, start, end) else { continue };
            let (_, known) = self.intervals.entry((path, length, from)).or_insert((to, Sums::default()));
            known.plus_equals(&sums);
        }
    }
}
