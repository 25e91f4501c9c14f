//! The groups of one worker: differences in, rows out.
//!
//! Intervals stay in memory for the configured time; older ones are read from the table when something changes them.
//! What a row says suffices to go on from it, so memory decides only what has to be read.

use std::collections::BTreeMap;
use std::sync::Arc;

use differential_dataflow::difference::Semigroup;
use hashbrown::{HashMap, HashSet};
use meterline_schemas::reading::{Position, Quality};
use meterline_schemas::time::DAY;
use meterline_schemas::{Frequency, Micros};
use serde::{Deserialize, Serialize};

use super::super::portion::Portion;
use super::ROLLUP_PARTITION;
use super::lake::{GroupRow, Want};
use super::members::{Item, What};
use super::plan::Plan;
use super::steps::{Steps, changed};
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

#[derive(Debug, Clone, Copy)]
struct Known {
    end: Micros,
    sums: Sums,
}

impl Known {
    fn is_there(&self) -> bool {
        self.sums.count() > 0
    }
}

#[derive(Debug, Default)]
struct Group {
    members: Vec<(Option<Frequency>, Steps)>,
    intervals: BTreeMap<(Frequency, Micros), Known>,
}

impl Group {
    fn steps(&mut self, of: Option<Frequency>) -> &mut Steps {
        let index = self.members.iter().position(|(known, _)| *known == of).unwrap_or_else(|| {
            self.members.push((of, Steps::default()));
            self.members.len() - 1
        });
        &mut self.members[index].1
    }

    fn expected(&self, of: Option<Frequency>, start: Micros, end: Micros) -> i64 {
        self.members.iter().find(|(known, _)| *known == of).map_or(0, |(_, steps)| steps.seconds(start, end))
    }
}

type Key = (u16, Arc<str>);

/// The differences of one epoch, sorted out.
#[derive(Debug, Default)]
struct Batch {
    members: HashMap<Key, Vec<(Option<Frequency>, Micros, i64)>>,
    intervals: HashMap<Key, Vec<(Frequency, Micros, Micros, Sums)>>,
}

/// The groups of one worker.
#[derive(Debug)]
pub struct Parents {
    plan: Arc<Plan>,
    groups: HashMap<Key, Group>,
    state: GroupsState,
    // By roll-up and length: intervals that start here or later are all in memory.
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

/// Longer than any interval.
const LONGEST: Micros = 32 * DAY;

impl Parents {
    /// Groups as a commit remembers them; nothing of them is in memory.
    pub fn new(plan: Arc<Plan>, state: GroupsState) -> Parents {
        Parents {
            groups: HashMap::new(),
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
            let group = self.groups.entry(key).or_default();
            for (of, changes) in by_frequency(changes) {
                group.steps(of).add(changes);
            }
        }
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
        for (length, start, ..) in self.batch.intervals.get(key).into_iter().flatten() {
            let in_memory = || known.is_some_and(|group| group.intervals.contains_key(&(*length, *start)));
            if *start < self.complete_from(key.0, *length) && !in_memory() {
                wants.push(Want { series: rollup.series(&key.1, *length), from: *start, to: *start + 1 });
            }
        }
        let Some(changes) = self.batch.members.get(key) else { return };
        for (of, changes) in by_frequency(changes.clone()) {
            for length in self.lengths(key.0, of) {
                let complete = self.complete_from(key.0, length);
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
                    self.batch.intervals.entry(key).or_default().push((length, start, end, sums));
                }
            }
        }
    }

    fn complete_from(&self, rollup: u16, length: Frequency) -> Micros {
        self.complete.get(&(rollup, length)).copied().unwrap_or(Micros::MIN)
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
        intervals: Vec<(Frequency, Micros, Micros, Sums)>,
        found: &mut HashMap<Arc<str>, Vec<GroupRow>>,
    ) {
        let (plan, position) = (Arc::clone(&self.plan), self.position);
        let Some(rollup) = plan.rollup(key.0) else { return };
        let mut lengths: Vec<Frequency> = intervals.iter().map(|(length, ..)| *length).collect();
        lengths.extend(members.iter().flat_map(|(of, _)| self.lengths(key.0, *of)));
        lengths.sort_unstable();
        lengths.dedup();
        let complete: Vec<Micros> = lengths.iter().map(|length| self.complete_from(key.0, *length)).collect();
        let group = self.groups.entry(key.clone()).or_default();
        for length in &lengths {
            for row in found.remove(&rollup.series(&key.1, *length)).unwrap_or_default() {
                let amount = rollup.valuation.amount(row.value, row.sums.present, row.end - row.start);
                let known = Known { end: row.end, sums: Sums { amount, ..row.sums } };
                // What is in memory is at least as new.
                group.intervals.entry((*length, row.start)).or_insert(known);
            }
        }
        // With whether it had a row before, and whether it surely had none.
        let mut touched: HashMap<(Frequency, Micros), (bool, bool)> = HashMap::new();
        for (length, start, end, sums) in intervals {
            let known = group.intervals.get(&(length, start));
            let in_memory = lengths.iter().zip(&complete).any(|(known, from)| *known == length && *from <= start);
            touched.insert((length, start), (known.is_some_and(Known::is_there), known.is_none() && in_memory));
            let known = group.intervals.entry((length, start)).or_insert(Known { end, sums: Sums::default() });
            known.sums.plus_equals(&sums);
            let newest = self.state.newest.entry((key.0, length)).or_insert(end);
            *newest = (*newest).max(end);
            if let Some(latest) = self.latest.get_mut(usize::from(key.0)) {
                *latest = (*latest).max(start);
            }
        }
        for (of, changes) in members {
            for length in lengths.iter().filter(|length| rollup.members_of(**length) == of) {
                for (from, to) in changed(&changes) {
                    let near = group.intervals.range((*length, from.saturating_sub(LONGEST))..(*length, to));
                    for (key, known) in near.filter(|(_, known)| known.end > from) {
                        touched.entry(*key).or_insert((known.is_there(), false));
                    }
                }
            }
            group.steps(of).add(changes);
        }
        for ((length, start), (was_there, first)) in touched {
            let Some(known @ Known { end, sums }) = group.intervals.get(&(length, start)).copied() else { continue };
            // What is taken away stays in memory: a row that comes again is not the first.
            if !was_there && !known.is_there() {
                continue;
            }
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
            let old: Vec<_> =
                group.intervals.range((*length, Micros::MIN)..(*length, *from)).map(|(at, _)| *at).collect();
            for at in old {
                group.intervals.remove(&at);
            }
        }
    }

    // Drops what is older than the configuration says.
    fn forget(&mut self) {
        for (number, rollup) in (0..).zip(&self.plan.rollups) {
            let Some(horizon) = self.latest.get(usize::from(number)).map(|at| at.saturating_sub(rollup.remembered))
            else {
                continue;
            };
            let lengths: Vec<Frequency> =
                self.state.newest.keys().filter(|(known, _)| *known == number).map(|(_, length)| *length).collect();
            // Not at each epoch: only when enough of it has become old.
            let due = lengths.iter().any(|length| self.complete_from(number, *length) < horizon);
            if !due {
                continue;
            }
            for length in &lengths {
                let complete = self.complete.entry((number, *length)).or_insert(horizon);
                *complete = (*complete).max(horizon);
            }
            for ((_, _), group) in self.groups.iter_mut().filter(|((known, _), _)| *known == number) {
                for length in &lengths {
                    loop {
                        let first = group.intervals.range((*length, Micros::MIN)..=(*length, Micros::MAX)).next();
                        let Some((key, _)) = first.filter(|(_, known)| known.end <= horizon) else { break };
                        let key = *key;
                        group.intervals.remove(&key);
                    }
                }
            }
        }
    }

    /// What a commit remembers.
    pub fn state(&self) -> &GroupsState {
        &self.state
    }

    /// Number of intervals in memory.
    pub fn in_memory(&self) -> usize {
        self.groups.values().map(|group| group.intervals.len()).sum()
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
