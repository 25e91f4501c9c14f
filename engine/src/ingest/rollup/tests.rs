//! Random series with mixed frequencies, corrections, duplicates, lateness and labels that change over time, in any
//! order and with any epochs, against the [`oracle`](super::oracle). Between epochs a stream may end and go on with
//! other workers from what was committed.
//!
//! `METERLINE_SEED` repeats one case.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use differential_dataflow::Hashable;
use meterline_schemas::config::{Config, FeedConfig, RollupConfig, RollupFrequency, RollupValue};
use meterline_schemas::reading::Quality;
use meterline_schemas::time::HOUR;
use meterline_schemas::{Frequency, Micros};
use meterline_tests::dice::{Dice, seeds};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::InputHandle;

use super::super::crew::shard_of;
use super::super::shard::{Place, route};
use super::dataflow::{Event, Setup, build};
use super::group::{Known, REMEMBERED_MIN};
use super::lake::{GroupRow, Recall, SeriesRow, Want};
use super::member::MemberState;
use super::members::{Item, Members, What};
use super::oracle::{Case, Read, Truth};
use super::parents::{GroupsState, Parents, RollupRow};
use super::plan::Plan;
use super::sums::Sums;
use super::{Input, LabelChange};

const PLACE: Place = Place { seq: 1, rewrite_from: i64::MAX };
/// Cases without threads.
const CASES: u64 = 3_000;
/// Cases in a real dataflow.
const THREADED: u64 = 60;

/// What is committed.
#[derive(Default)]
struct Table {
    rows: BTreeMap<(Arc<str>, Micros), RollupRow>,
    groups: GroupsState,
    members: BTreeMap<Arc<str>, Arc<MemberState>>,
    said: Vec<LabelChange>,
    unlabelled: i64,
    seed: u64,
}

impl Table {
    fn write(&mut self, rows: Vec<RollupRow>, state: &GroupsState) {
        for row in rows {
            let key = (Arc::clone(&row.series), row.start);
            if let Some(before) = self.rows.get(&key) {
                assert!(before.position < row.position, "METERLINE_SEED={}: {before:?} then {row:?}", self.seed);
                assert!(!row.first, "METERLINE_SEED={}: {row:?} is not the first", self.seed);
            }
            self.rows.insert(key, row);
        }
        self.groups.merge(state);
    }

    fn look_up(&self, wants: &[Want]) -> Vec<GroupRow> {
        let found = wants.iter().flat_map(|want| {
            let from = (Arc::clone(&want.series), want.from);
            self.rows.range(from..(Arc::clone(&want.series), want.to)).map(|(_, row)| row)
        });
        let row = |row: &RollupRow| GroupRow {
            series: Arc::clone(&row.series),
            start: row.start,
            end: row.end,
            value: row.value,
            sums: Sums { amount: 0, ..row.sums },
        };
        found.filter(|row| row.sums.count() > 0).map(row).collect()
    }
}

type Before = BTreeMap<(usize, Micros), Read>;

fn series_rows(case: &Case, before: &Before, wants: &[Want]) -> Vec<SeriesRow> {
    let wanted = |read: &&Read| {
        let id = &case.series[read.series].id;
        wants.iter().any(|want| want.series == *id && (want.from..want.to).contains(&read.start))
    };
    let row = |read: &Read| SeriesRow {
        series: Arc::clone(&case.series[read.series].id),
        start: read.start,
        end: read.end,
        frequency: read.frequency,
        content: read.content,
    };
    before.values().filter(wanted).map(row).collect()
}

// The number of intervals that were compared.
fn check(case: &Case, table: &Table) -> usize {
    let seed = table.seed;
    let plan = Plan::new(&case.config).unwrap();
    let mut found: BTreeMap<(String, Micros), &RollupRow> =
        table.rows.iter().map(|((series, start), row)| ((series.to_string(), *start), row)).collect();
    found.retain(|_, row| row.sums.count() > 0);
    let (truth, unlabelled) = case.truth();
    assert_eq!(table.unlabelled, unlabelled, "METERLINE_SEED={seed}");
    for (key, expected) in &truth {
        let Some(row) = found.remove(key) else { panic!("METERLINE_SEED={seed}: {key:?} is missing: {expected:?}") };
        let Sums { amount, present, intervals } = row.sums;
        let rollup = plan.rollup(row.rollup).unwrap();
        let sums = Sums { amount: expected.amount, present: expected.present, intervals: expected.intervals };
        let value = rollup.valuation.value(&sums, row.end - row.start);
        let mean = rollup.valuation.value == RollupValue::Mean;
        // A mean that was read back from the table may be a rounding off.
        let amount = if mean && (amount - expected.amount).abs() <= amount.abs() / 1_000_000_000_000 {
            expected.amount
        } else {
            amount
        };
        let as_found = Truth { amount, present, intervals, expected: row.expected };
        assert_eq!(as_found, *expected, "METERLINE_SEED={seed}: {key:?}");
        assert!(row.value == value || mean && (row.value - value).abs() <= 1e-9 * value.abs(), "METERLINE_SEED={seed}");
        assert_eq!(row.quality, sums.quality(), "METERLINE_SEED={seed}: {key:?}");
    }
    assert!(found.is_empty(), "METERLINE_SEED={seed}: {found:?} should not be there");
    truth.len()
}

/// Where the stream ends and goes on, by the number of epochs before it, and the number of workers from there on.
fn phases(dice: &Dice, epochs: usize) -> Vec<(std::ops::Range<usize>, usize)> {
    let workers = |dice: &Dice| 1 + dice.roll(4) as usize;
    if epochs < 2 || dice.roll(3) > 0 {
        return vec![(0..epochs, workers(dice))];
    }
    let end = 1 + dice.roll(epochs as u64 - 1) as usize;
    vec![(0..end, workers(dice)), (end..epochs, workers(dice))]
}

/// Rows that are looked up at a time.
fn lookup(seed: u64) -> usize {
    [usize::MAX, 1, 3, 20][(seed % 4) as usize]
}

/// Bytes for the intervals that the groups of a worker remember.
fn remembered(seed: u64) -> usize {
    [usize::MAX, 0, 1_000, 10_000][(seed / 4 % 4) as usize]
}

// What is kept count of is what there is, and no more intervals than there is memory for, but for a few of each series.
fn check_sizes(members: &[Members], parents: &[Parents], seed: u64) {
    for members in members {
        assert_eq!(members.bytes(), members.recounted(), "METERLINE_SEED={seed}");
    }
    for parents in parents {
        let (counted, found) = parents.sizes();
        assert_eq!(counted, found, "METERLINE_SEED={seed}");
        let least = counted.series * REMEMBERED_MIN * size_of::<Known>();
        assert!(counted.intervals <= remembered(seed).max(least), "METERLINE_SEED={seed}: {counted:?}");
    }
}

/// Members and groups without the dataflow. How much was looked up, and how much compared.
fn run_plainly(seed: u64) -> (usize, usize) {
    let case = Case::random(seed);
    let plan = Arc::new(Plan::new(&case.config).unwrap());
    let (mut inputs, mut before) = case.inputs();
    // What is said in one epoch holds in the next.
    inputs.push(Vec::new());
    before.push(before[before.len() - 1].clone());
    let mut table = Table { seed, ..Table::default() };
    let mut looked_up = 0;
    let lookup = lookup(seed);
    for (epochs, workers) in phases(&Dice::new(seed), inputs.len()) {
        let mine = |series: &Arc<str>| shard_of(route(series), workers);
        let of = |item: &Item| shard_of(item.hashed(), workers);
        let mut members: Vec<Members> = (0..workers)
            .map(|worker| {
                let states = table
                    .members
                    .values()
                    .filter(|state| mine(&state.series) == worker)
                    .map(|state| (MemberState::clone(state), 0));
                Members::new(Arc::clone(&plan), states).looking_up(lookup)
            })
            .collect();
        let groups = || Parents::new(Arc::clone(&plan), table.groups.clone());
        let mut parents: Vec<Parents> =
            (0..workers).map(|_| groups().looking_up(lookup).remembering(remembered(seed))).collect();
        let restored: Vec<(Item, Sums)> = members.iter_mut().flat_map(|members| members.finish(PLACE).items).collect();
        for (worker, parents) in parents.iter_mut().enumerate() {
            parents.restore(consolidated(restored.iter().filter(|(item, _)| of(item) == worker)));
        }
        check_sizes(&members, &parents, seed);
        for epoch in epochs {
            let said = std::mem::take(&mut table.said);
            for (worker, members) in members.iter_mut().enumerate() {
                members.say(said.iter().filter(|change| mine(&change.series) == worker).cloned());
            }
            for input in &inputs[epoch] {
                match input {
                    Input::Label(change) => table.said.push(change.clone()),
                    Input::Interval(change) => members[mine(&change.series)].interval(change.clone()),
                }
            }
            let mut differences = Vec::new();
            for members in &mut members {
                while let Some(wants) = members.wanted() {
                    looked_up += wants.len();
                    members.moved(series_rows(&case, &before[epoch], &wants));
                }
                let found = members.finish(PLACE);
                differences.extend(found.items);
                table.members.extend(found.changed.into_iter().map(|state| (Arc::clone(&state.series), state)));
                table.unlabelled += found.unlabelled.iter().sum::<i64>();
            }
            let clock = inputs[epoch].iter().filter_map(Input::known_at_ms).max();
            let mut all = Vec::new();
            for (worker, parents) in parents.iter_mut().enumerate() {
                let mine = consolidated(differences.iter().filter(|(item, _)| of(item) == worker));
                parents.begin(mine, epoch as i64, clock);
                while let Some(wants) = parents.wanted() {
                    looked_up += wants.len();
                    parents.take(table.look_up(&wants));
                }
                all.push((parents.finish(), parents.state().clone()));
            }
            for (rows, state) in all {
                table.write(rows, &state);
            }
            check_sizes(&members, &parents, seed);
        }
    }
    (looked_up, check(&case, &table))
}

fn consolidated<'a>(differences: impl Iterator<Item = &'a (Item, Sums)>) -> Vec<(Item, Sums)> {
    let mut all: Vec<(Item, Sums)> = differences.cloned().collect();
    differential_dataflow::consolidation::consolidate(&mut all);
    all
}

#[test]
fn whatever_the_order_roll_ups_equal_a_batch_recomputation() {
    let (mut looked_up, mut compared, mut cases) = (0, 0, 0);
    for seed in seeds(CASES) {
        let (found, checked) = run_plainly(seed);
        (looked_up, compared, cases) = (looked_up + found, compared + checked, cases + 1);
    }
    println!("{looked_up} parts of series were looked up, {compared} intervals compared");
    assert!(cases < CASES || looked_up as u64 > CASES && compared as u64 > 10 * CASES, "the cases are too tame");
}

/// The committer of a dataflow: epochs are written in order, when all workers have handed in their parts.
#[derive(Default)]
struct Committer {
    table: Table,
    workers: usize,
    written: u64,
    groups: BTreeMap<u64, Vec<(Vec<RollupRow>, GroupsState)>>,
    members: BTreeMap<u64, Vec<super::dataflow::MembersPart>>,
}

impl Committer {
    fn take(&mut self, event: Event) {
        match event {
            Event::Members(part) => self.members.entry(part.epoch).or_default().push(part),
            Event::Groups(part) => self.groups.entry(part.epoch).or_default().push((part.rows, part.state)),
        }
        let full = |parts: Option<usize>| parts == Some(self.workers);
        while full(self.groups.get(&(self.written + 1)).map(Vec::len))
            && full(self.members.get(&(self.written + 1)).map(Vec::len))
        {
            self.written += 1;
            self.table.said.clear();
            for part in self.members.remove(&self.written).unwrap() {
                let changed = part.changed.into_iter().map(|state| (Arc::clone(&state.series), state));
                self.table.members.extend(changed);
                self.table.said.extend(part.said);
                self.table.unlabelled += part.unlabelled.iter().sum::<i64>();
            }
            for (rows, state) in self.groups.remove(&self.written).unwrap() {
                self.table.write(rows, &state);
            }
        }
    }
}

struct FromTable {
    committer: Arc<Mutex<Committer>>,
    asked: Option<(u64, Vec<Want>)>,
}

impl Recall<GroupRow> for FromTable {
    fn ask(&mut self, epoch: u64, wants: Vec<Want>) {
        assert!(self.asked.replace((epoch, wants)).is_none());
    }

    fn answer(&mut self, epoch: u64) -> Option<Vec<GroupRow>> {
        let committer = self.committer.lock().unwrap();
        assert_eq!(self.asked.as_ref().unwrap().0, epoch);
        if committer.written + 1 < epoch {
            return None;
        }
        self.asked.take().map(|(_, wants)| committer.table.look_up(&wants))
    }
}

struct FromCase {
    case: Arc<(Case, Vec<Before>)>,
    first: usize,
    asked: Option<(u64, Vec<Want>)>,
    patience: u32,
}

impl Recall<SeriesRow> for FromCase {
    fn ask(&mut self, epoch: u64, wants: Vec<Want>) {
        assert!(self.asked.replace((epoch, wants)).is_none());
    }

    fn answer(&mut self, epoch: u64) -> Option<Vec<SeriesRow>> {
        // Not at the first look.
        self.patience += 1;
        if self.patience.is_multiple_of(2) {
            return None;
        }
        let (asked, wants) = self.asked.take()?;
        assert_eq!(asked, epoch);
        Some(series_rows(&self.case.0, &self.case.1[self.first + epoch as usize - 1], &wants))
    }
}

fn run_threaded(seed: u64) {
    let case = Case::random(seed);
    let plan = Arc::new(Plan::new(&case.config).unwrap());
    let (mut inputs, mut before) = case.inputs();
    inputs.push(Vec::new());
    before.push(before[before.len() - 1].clone());
    let phases = phases(&Dice::new(seed), inputs.len());
    let inputs = Arc::new(inputs);
    let shared = Arc::new((case, before));
    let mut table = Table { seed, ..Table::default() };
    for (epochs, workers) in phases {
        let start = (table.groups.clone(), table.members.clone(), table.said.clone());
        let committer = Arc::new(Mutex::new(Committer { table, workers, ..Committer::default() }));
        let (plan, inputs, shared, mine) = (plan.clone(), inputs.clone(), shared.clone(), committer.clone());
        let range = epochs.clone();
        let guards = timely::execute(timely::Config::process(workers), move |worker| {
            let index = worker.index();
            let my = |series: &Arc<str>| shard_of(route(series), workers) == index;
            let committer = Arc::clone(&mine);
            let events = Rc::new(move |event| committer.lock().unwrap().take(event));
            let case = Arc::clone(&shared);
            let setup = Setup {
                plan: Arc::clone(&plan),
                members: start
                    .1
                    .values()
                    .filter(|state| my(&state.series))
                    .map(|state| (MemberState::clone(state), 0))
                    .collect(),
                labels: start.2.iter().filter(|change| my(&change.series)).cloned().collect(),
                groups: start.0.clone(),
                offset: range.start as i64,
                lookup: lookup(seed),
                remembered: remembered(seed),
                taken: Arc::default(),
                series_rows: Box::new(FromCase { case, first: range.start, asked: None, patience: 0 }),
                group_rows: Box::new(FromTable { committer: Arc::clone(&mine), asked: None }),
                place: Box::new(|| PLACE),
                events,
            };
            let mut input: InputHandle<u64, CapacityContainerBuilder<Vec<Input>>> = InputHandle::new();
            worker.dataflow(|scope| build(input.to_stream(scope), setup));
            for (number, epoch) in (1u64..).zip(range.clone()) {
                input.advance_to(number);
                inputs[epoch].iter().filter(|input| my(input.series())).for_each(|i| input.send(i.clone()));
                for _ in 0..seed % 3 {
                    worker.step();
                }
            }
            let last = range.len() as u64;
            input.advance_to(last + 1);
            while mine.lock().unwrap().written < last {
                worker.step_or_park(Some(std::time::Duration::from_millis(1)));
            }
            drop(input);
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
        })
        .unwrap();
        for result in guards.join() {
            result.unwrap();
        }
        table = std::mem::take(&mut committer.lock().unwrap().table);
    }
    check(&shared.0, &table);
}

#[test]
fn the_dataflow_says_the_same_with_any_number_of_workers() {
    seeds(THREADED).for_each(run_threaded);
}

fn by_site() -> Arc<Plan> {
    let mut config = Config::default();
    let mut feed = FeedConfig::new("t", "s", "t", "v");
    feed.labels = [("site".into(), "s".into())].into();
    config.feed.insert("m".into(), feed);
    let mut rollup = RollupConfig::new(&["site"]);
    rollup.frequencies = vec![RollupFrequency::Every(Frequency::HOUR)];
    config.rollup.insert("r".into(), rollup);
    Arc::new(Plan::new(&config).unwrap())
}

// One series has a value of 1 for this hour.
fn hour_of(site: i64, hour: i64) -> (Item, Sums) {
    let what = What::Interval(Frequency::HOUR, hour * HOUR, (hour + 1) * HOUR);
    let item = Item { rollup: 0, group: format!("site={site}").into(), what };
    (item, Sums::of(1.0, Quality::Measured, HOUR, false))
}

#[test]
fn groups_remember_as_much_as_there_is_memory_for() {
    let plan = by_site();
    let series = plan.rollups[0].series("site=3", Frequency::HOUR);
    let hours = 24;
    let all: Vec<(Item, Sums)> = (0..hours).flat_map(|hour| (0..10).map(move |site| hour_of(site, hour))).collect();
    for (share, most) in [(usize::MAX, 24), (10 * 6 * Known::BYTES, 6), (0, 2)] {
        let mut parents = Parents::new(Arc::clone(&plan), GroupsState::default()).remembering(share);
        parents.begin(all.clone(), 1, None);
        assert_eq!(parents.wanted(), None);
        assert_eq!(parents.finish().len(), 240);
        assert_eq!(parents.in_memory(), 10 * most as usize);
        // Of one group the newest that is forgotten, and the oldest that is not.
        let forgotten = hours - most - 1;
        let changes = [forgotten, forgotten + 1].into_iter().filter(|hour| *hour >= 0);
        parents.begin(changes.map(|hour| hour_of(3, hour)), 2, None);
        let wants = parents.wanted();
        let (start, end) = (forgotten * HOUR, (forgotten + 1) * HOUR);
        let want = Want { series: Arc::clone(&series), from: start, to: start + 1 };
        assert_eq!(wants, (most < hours).then(|| vec![want]), "{share}");
        let sums = Sums { present: 3_600, intervals: [1, 0, 0], ..Sums::default() };
        let row = |_| GroupRow { series: Arc::clone(&series), start, end, value: 1.0, sums };
        parents.take(wants.into_iter().flatten().map(row).collect());
        let rows = parents.finish();
        assert!(rows.iter().all(|row| (row.value, row.first) == (2.0, false)), "{share}: {rows:?}");
        assert_eq!((rows.len(), parents.in_memory()), (if most < hours { 2 } else { 1 }, 10 * most as usize));
    }
}

#[test]
fn groups_of_which_nothing_is_left_take_no_memory() {
    let mut parents = Parents::new(by_site(), GroupsState::default());
    let mut epoch = |offset: i64, differences: Vec<(Item, Sums)>| {
        parents.begin(differences, offset, None);
        assert_eq!(parents.wanted(), None);
        parents.finish();
        let (counted, found) = parents.sizes();
        assert_eq!(counted, found);
        (counted.series, parents.in_memory())
    };
    let (of_seven, sums) = hour_of(7, 0);
    let belongs = |count: i64| {
        let sums = Sums { intervals: [count, 0, 0], ..Sums::default() };
        (Item { what: What::Members(None, 0), ..of_seven.clone() }, sums)
    };
    assert_eq!(epoch(1, vec![belongs(1), (of_seven.clone(), sums)]), (1, 1));
    // The series goes to another group, which goes on for longer than anything is remembered.
    assert_eq!(epoch(2, vec![belongs(-1), (of_seven.clone(), sums.negated()), hour_of(8, 0)]), (2, 2));
    assert_eq!(epoch(3, vec![hour_of(8, 100)]), (1, 1));
}
