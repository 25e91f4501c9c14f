//! The timely graph of the roll-ups:
//!
//! ```text
//! changes ─┐ exchange  ┌─▶ members (worker 0) ─┐ differences, consolidated ┌─▶ parents (worker 0) ─▶ rows
//! labels ──┴ by series └─▶ members (worker 1) ─┴ and exchanged by group    └─▶ parents (worker 1) ─▶ rows
//! ```
//!
//! The time is the epoch. Labels of an epoch hold for its successor: what they move is looked up as it was between the
//! two, so an epoch need not be kept until its labels are known. Where rows have to be looked up, the epoch ends when
//! they are there; nothing waits meanwhile but that epoch.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use differential_dataflow::AsCollection;
use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::vec::Broadcast;
use timely::progress::frontier::MutableAntichain;

use super::super::shard::{Place, route};
use super::lake::{GroupRow, Recall, SeriesRow};
use super::member::MemberState;
use super::members::{Item, Members};
use super::parents::{GroupsState, Parents, RollupRow};
use super::plan::Plan;
use super::sums::Sums;
use super::taken::Taken;
use super::{Input, LabelChange};

/// How long an epoch that waits for rows sleeps between two looks.
const NAP: Duration = Duration::from_millis(2);

/// What one worker starts with.
pub struct Setup {
    /// The roll-ups.
    pub plan: Arc<Plan>,
    /// The series of this worker, as a commit remembers them, each with the commit whose segment holds it.
    pub members: Vec<(MemberState, i64)>,
    /// Labels of its series that hold from the first epoch on: those of files, and what was said last before the
    /// commit.
    pub labels: Vec<LabelChange>,
    /// The groups, as a commit remembers them.
    pub groups: GroupsState,
    /// Added to the epoch, it is the offset of the rows' positions: it must grow over restarts.
    pub offset: i64,
    /// Rows that are looked up at a time, about.
    pub lookup: usize,
    /// Bytes for the intervals that groups remember.
    pub remembered: usize,
    /// Is told what series and groups take.
    pub taken: Arc<Taken>,
    /// Looks up intervals of series.
    pub series_rows: Box<dyn Recall<SeriesRow>>,
    /// Looks up intervals of groups.
    pub group_rows: Box<dyn Recall<GroupRow>>,
    /// Where the states of an epoch go that ends.
    pub place: Box<dyn Fn() -> Place>,
    /// Takes what an epoch gives.
    pub events: Rc<dyn Fn(Event)>,
}

/// What a worker gives at the end of an epoch, one of each.
#[derive(Debug)]
pub enum Event {
    /// Of its series.
    Members(MembersPart),
    /// Of its groups.
    Groups(GroupsPart),
}

/// What the series of a worker give.
#[derive(Debug)]
pub struct MembersPart {
    /// The epoch.
    pub epoch: u64,
    /// States that this commit remembers.
    pub changed: Vec<Arc<MemberState>>,
    /// How many of them changed.
    pub news: u64,
    /// By number of the roll-up: change of the number of intervals that belong to no group.
    pub unlabelled: Vec<i64>,
    /// Labels that hold from the next epoch on. A commit remembers them, to say them again after a restart.
    pub said: Vec<LabelChange>,
}

/// What the groups of a worker give.
#[derive(Debug, Serialize, Deserialize)]
pub struct GroupsPart {
    /// The epoch.
    pub epoch: u64,
    /// Revisions.
    pub rows: Vec<RollupRow>,
    /// What this commit remembers; that of all workers is to be merged.
    pub state: GroupsState,
}

type Differences<'scope> = Stream<'scope, u64, Vec<(Item, u64, Sums)>>;

/// Builds the graph. Inputs of epoch 0 are not possible: it is that of the remembered series.
pub fn build(inputs: Stream<'_, u64, Vec<Input>>, setup: Setup) {
    let Setup { plan, members, labels, groups, offset, lookup, remembered, taken, .. } = setup;
    let Setup { series_rows, group_rows, place, events, .. } = setup;
    let clock = latest(inputs.clone()).broadcast();
    let members = Members::new(Arc::clone(&plan), members).looking_up(lookup);
    let parents = Parents::new(plan, groups).looking_up(lookup).remembering(remembered);
    taken.by_series(members.bytes());
    let differences = assign(inputs, members, labels, series_rows, place, Rc::clone(&events), Arc::clone(&taken));
    let differences = differences.as_collection().consolidate().inner;
    collect(differences, clock, parents, offset, group_rows, events, taken);
}

// Of each batch the latest instant at which something in it was known.
fn latest<'scope>(inputs: Stream<'scope, u64, Vec<Input>>) -> Stream<'scope, u64, Vec<i64>> {
    inputs.unary::<CapacityContainerBuilder<_>, _, _, _>(Pipeline, "latest", |_, _| {
        |inputs, output| {
            inputs.for_each(|capability, batch| {
                if let Some(latest) = batch.iter().filter_map(Input::known_at_ms).max() {
                    output.session(&capability).give(latest);
                }
            });
        }
    })
}

fn assign<'scope>(
    inputs: Stream<'scope, u64, Vec<Input>>,
    mut members: Members,
    mut said: Vec<LabelChange>,
    mut recall: Box<dyn Recall<SeriesRow>>,
    place: Box<dyn Fn() -> Place>,
    events: Rc<dyn Fn(Event)>,
    taken: Arc<Taken>,
) -> Differences<'scope> {
    let scope = inputs.scope();
    let by_series = Exchange::new(|input: &Input| route(input.series()));
    inputs.unary_frontier::<CapacityContainerBuilder<_>, _, _, _>(by_series, "members", move |capability, info| {
        let activator = scope.activator_for(info.address);
        let mut capability = Some(capability);
        let mut running = 0;
        let mut early: BTreeMap<u64, Vec<Input>> = BTreeMap::new();
        let mut asked = false;
        move |(inputs, frontier), output| {
            let take = |members: &mut Members, said: &mut Vec<LabelChange>, input| match input {
                Input::Interval(change) => members.interval(change),
                Input::Label(change) => said.push(change),
            };
            inputs.for_each(|capability, batch| {
                let Some(epoch) = capability.least().copied() else { return };
                if epoch == running {
                    batch.drain(..).for_each(|input| take(&mut members, &mut said, input));
                } else {
                    early.entry(epoch).or_default().append(batch);
                }
            });
            while passed(frontier, running) {
                if asked {
                    let Some(rows) = recall.answer(running) else { return activator.activate_after(NAP) };
                    members.moved(rows);
                    asked = false;
                    if let Some(wants) = members.wanted() {
                        recall.ask(running, wants);
                        asked = true;
                        continue;
                    }
                }
                let found = members.finish(place());
                taken.by_series(members.bytes());
                if let Some(capability) = &mut capability {
                    let mut session = output.session(&*capability);
                    found.items.into_iter().for_each(|(item, sums)| session.give((item, running, sums)));
                    drop(session);
                    capability.downgrade(&(running + 1));
                }
                let part = MembersPart {
                    epoch: running,
                    changed: found.changed,
                    news: found.news,
                    unlabelled: found.unlabelled,
                    said: said.clone(),
                };
                events(Event::Members(part));
                running += 1;
                members.say(said.drain(..));
                if let Some(wants) = members.wanted() {
                    recall.ask(running, wants);
                    asked = true;
                }
                for input in early.remove(&running).unwrap_or_default() {
                    take(&mut members, &mut said, input);
                }
            }
            if frontier.frontier().is_empty() {
                capability = None;
            }
        }
    })
}

fn collect(
    differences: Differences<'_>,
    clock: Stream<'_, u64, Vec<i64>>,
    mut parents: Parents,
    offset: i64,
    mut recall: Box<dyn Recall<GroupRow>>,
    events: Rc<dyn Fn(Event)>,
    taken: Arc<Taken>,
) {
    let scope = differences.scope();
    differences
        .binary_frontier::<_, CapacityContainerBuilder<Vec<()>>, _, _, _, _>(
            clock,
            Pipeline,
            Pipeline,
            "parents",
            move |_, info| {
                let activator = scope.activator_for(info.address);
                let mut running = 0;
                let mut open: BTreeMap<u64, Vec<(Item, Sums)>> = BTreeMap::new();
                let mut clocks: BTreeMap<u64, i64> = BTreeMap::new();
                // Whether the running epoch has begun to end, and whether rows were asked for since.
                let (mut begun, mut asked) = (false, false);
                move |(differences, reached), (clock, told), _| {
                    differences.for_each(|_, batch| {
                        for (item, epoch, sums) in batch.drain(..) {
                            open.entry(epoch).or_default().push((item, sums));
                        }
                    });
                    clock.for_each(|capability, batch| {
                        let Some(epoch) = capability.least().copied() else { return };
                        let latest = clocks.entry(epoch).or_insert(i64::MIN);
                        *latest = batch.drain(..).fold(*latest, i64::max);
                    });
                    while passed(reached, running) && passed(told, running) {
                        if !begun {
                            begun = true;
                            let differences = open.remove(&running).unwrap_or_default();
                            let clock = clocks.remove(&running);
                            match running {
                                0 => parents.restore(differences),
                                _ => parents.begin(differences, offset.saturating_add_unsigned(running), clock),
                            }
                        }
                        if asked {
                            let Some(rows) = recall.answer(running) else { return activator.activate_after(NAP) };
                            parents.take(rows);
                            asked = false;
                        }
                        if let Some(wants) = parents.wanted() {
                            recall.ask(running, wants);
                            asked = true;
                            continue;
                        }
                        begun = false;
                        let rows = parents.finish();
                        taken.by_groups(parents.standing());
                        events(Event::Groups(GroupsPart { epoch: running, rows, state: parents.state().clone() }));
                        running += 1;
                    }
                }
            },
        )
        .sink(Pipeline, "end", |_| {});
}

// Whether an epoch is over.
fn passed(frontier: &MutableAntichain<u64>, epoch: u64) -> bool {
    frontier.frontier().first().is_some_and(|reached| *reached > epoch)
}
