//! The groups of one worker: differences in, rows out.
//!
//! Intervals stay in memory for the configured time, and less long where there is too little memory for all; older ones
//! are read from the table when something changes them. What a row says suffices to go on from it, so memory decides
//! only what has to be read.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use meterline_schemas::reading::{Position, Quality};
use meterline_schemas::{Frequency, Micros};
use serde::{Deserialize, Serialize};

use super::super::portion::Portion;
use super::ROLLUP_PARTITION;
use super::group::{Group, Known, REMEMBERED_MIN, Recent, Size};
use super::lake::{GroupRow, Want};
use super::members::{Item, What};
use super::plan::Plan;
use super::steps::changed;
use super::sums::Sums;

/// One revision of one interval of a roll-up series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RollupRow {
    /// Number of the roll-up; its feed and unit are the plan's.
    pub rollup: u16,
    /// Identifier of the series.
    pub series: Arc<str>,
    /// Its frequency.
    pub frequency: Frequency,
    /// Start of the interval.
    pub start: Micros,
    /// End of the interval.
    pub end: Micros,
    /// The value; 0 where nothing is left.
    pub value: f64,
    /// The least trusted of its intervals.
    pub quality: Quality,
    /// Greater than that of every earlier row of the interval.
    pub position: Position,
    /// What it is made of. A [`Sums::count`] of 0 takes the interval away.
    pub sums: Sums,
    /// Seconds for which there should be a value, summed over the series of the group.
    pub expected: i64,
    /// Whether it is surely the first row of its interval.
    pub first: bool,
}

impl RollupRow {
    /// Share of the expected time that is present; `None` where none is expected.
    pub fn completeness(&self) -> Option<f64> {
        (self.expected > 0).then(|| self.sums.present as f64 / self.expected as f64)
    }
}

/// What a commit remembers of the groups. The rest is in the table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupsState {
    /// Unix milliseconds that positions have reached.
    pub clock_ms: i64,
    /// By roll-up and length: end of the last interval that was written.
    pub newest: BTreeMap<(u16, Frequency), Micros>,
}

impl GroupsState {
    /// Takes in what another worker says of the same epoch.
    pub fn merge(&mut self, other: &GroupsState) {
        self.clock_ms = self.clock_ms.max(other.clock_ms);
        for (key, end) in &other.newest {
            let known = self.newest.entry(*key).or_insert(*end);
            *known = (*known).max(*end);
        }
    }
}

type Key = (u16, Arc<str>);

/// The differences of one epoch, sorted out.
#[derive(Debug, Default)]
struct Batch {
    members: HashMap<Key, Vec<(Option<Frequency>, Micros, i64)>>,
    intervals: HashMap<Key, Vec<(Frequency, Known)>>,
}

/// The groups of one worker.
#[derive(Debug)]
pub struct Parents {
    plan: Arc<Plan>,
    groups: HashMap<Key, Group>,
    // Of all groups.
    size: Size,
    // Bytes for the intervals that groups remember.
    share: usize,
    // Intervals that each series may remember now, and the most that one may still have from when there was more room.
    most: usize,
    longest: usize,
    state: GroupsState,
    // By roll-up and length: intervals that start here or later are all in memory, but for those of which their group
    // says otherwise.
    complete: BTreeMap<(u16, Frequency), Micros>,
    // By roll-up: the last start of an interval.
    latest: Vec<Micros>,
    batch: Batch,
    // Of the batch: groups whose rows are still to be looked up, and those whose rows are being looked up.
    waiting: Vec<Key>,
    looked_up: Vec<Key>,
    asked: usize,
    portion: Portion,
    // Of the running epoch.
    position: Position,
    rows: Vec<RollupRow>,
}

impl Parents {
    /// Groups as a commit remembers them; nothing of them is in memory.
    pub fn new(plan: Arc<Plan>, state: GroupsState) -> Parents {
        Parents {
            groups: HashMap::new(),
            size: Size::default(),
            share: usize::MAX,
            most: usize::MAX,
            longest: 0,
            complete: state.newest.clone(),
            latest: vec![Micros::MIN; plan.rollups.len()],
            state,
            batch: Batch::default(),
            waiting: Vec::new(),
            looked_up: Vec::new(),
            asked: 0,
            portion: Portion::new(usize::MAX),
            position: Position::LEAST,
            rows: Vec::new(),
            plan,
        }
    }

    /// Members that were there before the first epoch: they change no row.
    pub fn restore(&mut self, differences: impl IntoIterator<Item = (Item, Sums)>) {
        self.sort_out(differences);
        let Batch { members, .. } = std::mem::take(&mut self.batch);
        for (key, changes) in members {
            let before = self.groups.get(&key).map(|group| group.size(&key.1)).unwrap_or_default();
            let name = Arc::clone(&key.1);
            let group = self.groups.entry(key).or_default();
            for (of, changes) in by_frequency(changes) {
                group.steps(of).add(changes);
            }
            self.size.changed(before, group.size(&name));
        }
    }

    /// The intervals in memory may take about so many bytes; but each series of a group remembers a few.
    pub fn remembering(mut self, bytes: usize) -> Parents {
        self.share = bytes;
        self
    }

    /// About so many rows are looked up at a time.
    pub fn looking_up(mut self, rows: usize) -> Parents {
        self.portion = Portion::new(rows);
        self
    }

    /// The differences of one epoch, each item once; `offset` grows from epoch to epoch, `clock_ms` is the latest
    /// instant at which something of the epoch was known.
    pub fn begin(&mut self, differences: impl IntoIterator<Item = (Item, Sums)>, offset: i64, clock_ms: Option<i64>) {
        self.sort_out(differences);
        self.state.clock_ms = self.state.clock_ms.max(clock_ms.unwrap_or(i64::MIN));
        self.position = Position { timestamp_ms: self.state.clock_ms, partition: ROLLUP_PARTITION, offset };
        let keys: HashSet<&Key> = self.batch.members.keys().chain(self.batch.intervals.keys()).collect();
        self.waiting = keys.into_iter().cloned().collect();
    }

    /// Intervals to be looked up next before the epoch can end, as they were before it: those that it concerns and that
    /// are not in memory. `None` where there are none. The answer goes to [`Parents::take`].
    pub fn wanted(&mut self) -> Option<Vec<Want>> {
        let mut wants = Vec::new();
        while wants.len() < self.portion.parts() {
            let Some(key) = self.waiting.pop() else { break };
            self.wants_of(&key, &mut wants);
            self.looked_up.push(key);
        }
        self.asked = wants.len();
        if wants.is_empty() {
            return None;
        }
        wants.sort_unstable();
        wants.dedup();
        Some(wants)
    }

    fn wants_of(&self, key: &Key, wants: &mut Vec<Want>) {
        let Some(rollup) = self.plan.rollup(key.0) else { return };
        let known = self.groups.get(key);
        for (length, Known { start, .. }) in self.batch.intervals.get(key).into_iter().flatten() {
            let in_memory = || known.and_then(|group| group.recent(*length)?.find(*start)).is_some();
            if *start < self.complete_from(key.0, known, *length) && !in_memory() {
                wants.push(Want { series: rollup.series(&key.1, *length), from: *start, to: *start + 1 });
            }
        }
        let Some(changes) = self.batch.members.get(key) else { return };
        for (of, changes) in by_frequency(changes.clone()) {
            for length in self.lengths(key.0, of) {
                let complete = self.complete_from(key.0, known, length);
                for (from, to) in changed(&changes) {
                    let (from, to) = (length.floor(from, &rollup.zone), to.min(complete));
                    if from < to {
                        wants.push(Want { series: rollup.series(&key.1, length), from, to });
                    }
                }
            }
        }
    }

    fn sort_out(&mut self, differences: impl IntoIterator<Item = (Item, Sums)>) {
        for (Item { rollup, group, what }, sums) in differences {
            let key = (rollup, group);
            match what {
                What::Members(of, at) => self.batch.members.entry(key).or_default().push((of, at, sums.count())),
                What::Interval(length, start, end) => {
                    self.batch.intervals.entry(key).or_default().push((length, Known { start, end, sums }));
                }
            }
        }
    }

    // Intervals of a group that start here or later are all in memory.
    fn complete_from(&self, rollup: u16, group: Option<&Group>, length: Frequency) -> Micros {
        let of_all = self.complete.get(&(rollup, length)).copied().unwrap_or(Micros::MIN);
        let its_own = group.and_then(|group| group.recent(length)).map_or(Micros::MIN, Recent::complete);
        of_all.max(its_own)
    }

    // The lengths whose expected time these members decide.
    fn lengths(&self, rollup: u16, of: Option<Frequency>) -> Vec<Frequency> {
        let Some(plan) = self.plan.rollup(rollup) else { return Vec::new() };
        match of {
            None => plan.lengths.clone(),
            Some(frequency) if plan.lengths.contains(&frequency) => Vec::new(),
            Some(frequency) => vec![frequency],
        }
    }

    /// The rows that were asked for; none where nothing was.
    pub fn take(&mut self, found: Vec<GroupRow>) {
        if self.asked > 0 {
            self.portion.found(self.asked, found.len());
        }
        let mut found: HashMap<Arc<str>, Vec<GroupRow>> = found.into_iter().fold(HashMap::new(), |mut all, row| {
            all.entry(Arc::clone(&row.series)).or_default().push(row);
            all
        });
        for key in std::mem::take(&mut self.looked_up) {
            let members = by_frequency(self.batch.members.remove(&key).unwrap_or_default());
            let intervals = self.batch.intervals.remove(&key).unwrap_or_default();
            self.group(&key, members, intervals, &mut found);
        }
    }

    /// Ends the epoch, once nothing is wanted any more.
    pub fn finish(&mut self) -> Vec<RollupRow> {
        self.take(Vec::new());
        self.batch = Batch::default();
        self.forget();
        std::mem::take(&mut self.rows)
    }

    fn group(
        &mut self,
        key: &Key,
        members: Vec<Moves>,
        mut intervals: Vec<(Frequency, Known)>,
        found: &mut HashMap<Arc<str>, Vec<GroupRow>>,
    ) {
        let (plan, position, most) = (Arc::clone(&self.plan), self.position, self.most);
        let Some(rollup) = plan.rollup(key.0) else { return };
        let mut lengths: Vec<Frequency> = intervals.iter().map(|(length, _)| *length).collect();
        lengths.extend(members.iter().flat_map(|(of, _)| self.lengths(key.0, *of)));
        lengths.sort_unstable();
        lengths.dedup();
        let known = self.groups.get(key);
        let before = known.map(|group| group.size(&key.1)).unwrap_or_default();
        let complete: Vec<Micros> = lengths.iter().map(|length| self.complete_from(key.0, known, *length)).collect();
        let group = self.groups.entry(key.clone()).or_default();
        for length in &lengths {
            let rows = found.remove(&rollup.series(&key.1, *length)).unwrap_or_default();
            if rows.is_empty() {
                continue;
            }
            group.recent_mut(*length).recall(rows.into_iter().map(|row| {
                let amount = rollup.valuation.amount(row.value, row.sums.present, row.end - row.start);
                Known { start: row.start, end: row.end, sums: Sums { amount, ..row.sums } }
            }));
        }
        // With whether it had a row before, and whether it surely had none.
        let mut touched: HashMap<(Frequency, Micros), (bool, bool)> = HashMap::new();
        intervals.sort_unstable_by_key(|(length, change)| (*length, change.start));
        for some in intervals.chunk_by(|(a, _), (b, _)| a == b) {
            let (Some((length, _)), Some((_, last))) = (some.first(), some.last()) else { continue };
            let from = lengths.binary_search(length).map_or(Micros::MAX, |place| complete[place]);
            group.recent_mut(*length).add(some.iter().map(|(_, change)| *change), |start, was| {
                let was_there = was.is_some_and(Known::is_there);
                touched.insert((*length, start), (was_there, was.is_none() && from <= start));
            });
            let newest = self.state.newest.entry((key.0, *length)).or_insert(last.end);
            *newest = (*newest).max(last.end);
            if let Some(latest) = self.latest.get_mut(usize::from(key.0)) {
                *latest = (*latest).max(last.start);
            }
        }
        for (of, changes) in members {
            for length in lengths.iter().filter(|length| rollup.members_of(**length) == of) {
                let Some(recent) = group.recent(*length) else { continue };
                for (from, to) in changed(&changes) {
                    for known in recent.within(from, to) {
                        touched.entry((*length, known.start)).or_insert((known.is_there(), false));
                    }
                }
            }
            group.steps(of).add(changes);
        }
        for ((length, start), (was_there, first)) in touched {
            let Some(known) = group.recent(length).and_then(|recent| recent.find(start)).copied() else { continue };
            // What is taken away stays in memory: a row that comes again is not the first.
            if !was_there && !known.is_there() {
                continue;
            }
            let Known { end, sums, .. } = known;
            self.rows.push(RollupRow {
                rollup: key.0,
                series: rollup.series(&key.1, length),
                frequency: length,
                start,
                end,
                value: rollup.valuation.value(&sums, end - start),
                quality: sums.quality(),
                position,
                sums,
                expected: group.expected(rollup.members_of(length), start, end),
                first,
            });
        }
        // What was looked up is not kept.
        for (length, from) in lengths.iter().zip(&complete) {
            group.settle(*length, *from, most);
        }
        let now = group.size(&key.1);
        self.size.changed(before, now);
    }

    // Drops what is older than the configuration says, and what there is no memory for.
    fn forget(&mut self) {
        for (number, rollup) in (0..).zip(&self.plan.rollups) {
            let Some(horizon) = self.latest.get(usize::from(number)).map(|at| at.saturating_sub(rollup.remembered))
            else {
                continue;
            };
            let lengths: Vec<Frequency> =
                self.state.newest.keys().filter(|(known, _)| *known == number).map(|(_, length)| *length).collect();
            // Nothing has become old where no newer interval has begun.
            let due = lengths.iter().any(|length| self.complete_from(number, None, *length) < horizon);
            if !due {
                continue;
            }
            for length in &lengths {
                let complete = self.complete.entry((number, *length)).or_insert(horizon);
                *complete = (*complete).max(horizon);
            }
            let size = &mut self.size;
            self.groups.retain(|(known, name), group| {
                if *known != number {
                    return true;
                }
                let before = group.size(name);
                group.forget_ended(horizon);
                let gone = group.is_empty();
                size.changed(before, if gone { Size::default() } else { group.size(name) });
                !gone
            });
        }
        self.shrink();
    }

    // The more series there are, the fewer intervals of each: those of groups that nothing concerned are only looked
    // through where all together take too much.
    fn shrink(&mut self) {
        self.longest = self.longest.max(self.most);
        self.most = (self.share / Known::BYTES / self.size.series.max(1)).max(REMEMBERED_MIN);
        if self.size.intervals <= self.share || self.longest <= self.most {
            return;
        }
        for ((_, name), group) in &mut self.groups {
            let before = group.size(name);
            group.trim(self.most);
            self.size.changed(before, group.size(name));
        }
        self.longest = self.most;
    }

    /// Bytes of what groups are, without the intervals that they remember.
    pub fn standing(&self) -> usize {
        self.groups.allocation_size() + self.size.themselves
    }

    /// What a commit remembers.
    pub fn state(&self) -> &GroupsState {
        &self.state
    }

    /// Number of intervals in memory.
    pub fn in_memory(&self) -> usize {
        self.groups.values().map(Group::in_memory).sum()
    }

    /// What the groups take, as it was kept count of, and as it is found to be.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (Size, Size) {
        let mut found = Size::default();
        self.groups.iter().for_each(|((_, name), group)| found.changed(Size::default(), group.size(name)));
        (self.size, found)
    }
}

/// Series of one frequency that came and went, by instant.
type Moves = (Option<Frequency>, Vec<(Micros, i64)>);

fn by_frequency(changes: Vec<(Option<Frequency>, Micros, i64)>) -> Vec<Moves> {
    let mut found: BTreeMap<Option<Frequency>, Vec<(Micros, i64)>> = BTreeMap::new();
    for (of, at, change) in changes {
        found.entry(of).or_default().push((at, change));
    }
    found.into_iter().collect()
}
