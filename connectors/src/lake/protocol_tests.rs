//! Writers that take over, commit and rewrite files on one log, in every order of their steps, with a store that does
//! not answer or answers late, and with crashes. What a search finds wrong it shows with the history that led there.
//!
//! A put that is not answered stands for all that may go wrong with one: it is done at once, later, or never, and its
//! writer cannot know. To be told that the entry exists is no other case, be it another's or one's own. A pause needs
//! no step of its own: a writer sleeps while the others take theirs. Reads that lag are more than stores do that a lake
//! may be on.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use meterline_tests::dice::{Dice, seeds};

use super::protocol::{Attempt, End, Goal, PUTS_MAX, Seen, Standing, Step};

/// Random histories in one run of the test.
const CASES: u64 = 10_000;
/// The job of the stream; any other one belongs to a single writer.
const STREAM: u8 = 0;
/// Who wrote what is there at the beginning.
const EARLIER: u8 = u8::MAX;
/// Files of one writer at most, and those at the beginning.
const FILES: u8 = 8;

/// What a writer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Task {
    /// Takes the stream over.
    Claim,
    /// Commits the next batch of the stream.
    Commit,
    /// Commits in a job of its own, which has no fence.
    Publish,
    /// Puts one file in the place of all that are there when it begins, whether it knows them or not: others plan for
    /// it. As all rewrites this is behind its fence, if it has one.
    Merge,
    /// Takes all files away that are there when it begins.
    Empty,
}

/// An entry of the log. Sets of files have a bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Entry {
    Claim { by: u8, number: u8 },
    Commit { by: u8, fence: Option<u8>, job: u8, number: u8, file: u8 },
    Rewrite { by: u8, fence: Option<u8>, removes: u64, adds: u64 },
}

fn newest_claim(log: &[Entry]) -> u8 {
    let newest = log.iter().rev().find_map(|entry| match entry {
        Entry::Claim { number, .. } => Some(*number),
        _ => None,
    });
    newest.unwrap_or(0)
}

fn newest_commit(log: &[Entry], of: u8) -> Option<u8> {
    log.iter().rev().find_map(|entry| match entry {
        Entry::Commit { job, number, .. } if *job == of => Some(*number),
        _ => None,
    })
}

fn active(log: &[Entry]) -> u64 {
    log.iter().fold(0_u64, |files, entry| match *entry {
        Entry::Claim { .. } => files,
        Entry::Commit { file, .. } => files | (1_u64 << file),
        Entry::Rewrite { removes, adds, .. } => (files & !removes) | adds,
    })
}

fn each(files: u64) -> Vec<u64> {
    (0..64).map(|bit| 1_u64 << bit).filter(|file| files & file != 0).collect()
}

/// What a version says of the goal to have an entry.
fn seen(log: &[Entry], entry: &Entry) -> Seen {
    let (mut number, mut files) = (None, Standing::default());
    match *entry {
        Entry::Claim { .. } => {}
        Entry::Commit { job, .. } => number = newest_commit(log, job).map(i64::from),
        Entry::Rewrite { removes, adds, .. } => {
            let active = active(log);
            files = Standing::of(&each(removes), &each(adds), |file| active & *file != 0);
        }
    }
    Seen { version: log.len() as i64, claim: i64::from(newest_claim(log)), number, files }
}

/// What a writer is at. Of a claim the number is open until it is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Work {
    goal: Goal,
    entry: Entry,
    attempt: Attempt,
    // One that asks something of the store.
    step: Step,
    // How much of the log is known to who planned a rewrite.
    planned: usize,
}

/// One that is through, or crashed, has nothing to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Writer {
    work: Option<Work>,
    todo: &'static [Task],
    // How much of the log it knows.
    known: usize,
    fence: Option<u8>,
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// A writer begins its next task.
    Begins(usize),
    /// The store does what a writer asked for, and says so.
    Serves(usize),
    /// A writer's put is not answered. If it can be done, it is, at any time or never.
    Loses(usize),
    /// A writer's read fails.
    Fails(usize),
    /// A writer's read sees only so many entries, but those that were known before.
    Lags(usize, usize),
    /// A writer is gone; what it put may still be done.
    Crashes(usize),
    /// A put that was not answered is done.
    Lands(usize),
}

/// How often it came to what the test is about.
#[derive(Debug, Default)]
struct Tally {
    fenced: u64,
    overtaken: u64,
    // What was done was found in the log, and not answered.
    found: u64,
    late: u64,
}

/// A log, its writers, and what may still go wrong.
#[derive(Debug, Clone, Hash)]
struct World {
    log: Vec<Entry>,
    // Puts that were not answered. All are for the next version: when one lands, the others never will.
    pending: Vec<Entry>,
    writers: Vec<Writer>,
    faults: u8,
    crashes: u8,
}

impl World {
    fn new(scripts: &[&'static [Task]], faults: u8, crashes: u8) -> World {
        let earlier = |number| Entry::Commit { by: EARLIER, fence: Some(1), job: STREAM, number, file: number - 1 };
        let log = vec![Entry::Claim { by: EARLIER, number: 1 }, earlier(1), earlier(2)];
        let writer = |todo| Writer { todo, known: log.len(), ..Writer::default() };
        let writers = scripts.iter().copied().map(writer).collect();
        World { log, pending: Vec::new(), writers, faults, crashes }
    }

    fn events(&self) -> Vec<Event> {
        let mut events: Vec<Event> = (0..self.pending.len()).map(Event::Lands).collect();
        for (w, writer) in self.writers.iter().enumerate() {
            let Some(work) = writer.work else {
                events.extend((!writer.todo.is_empty()).then_some(Event::Begins(w)));
                continue;
            };
            events.push(Event::Serves(w));
            if self.crashes > 0 {
                events.push(Event::Crashes(w));
            }
            if self.faults == 0 {
                continue;
            }
            if matches!(work.step, Step::Put { .. }) {
                events.push(Event::Loses(w));
            } else {
                events.push(Event::Fails(w));
                let known = writer.known.max(work.planned);
                events.extend((known..self.log.len()).map(|length| Event::Lags(w, length)));
            }
        }
        events
    }

    fn happens(&mut self, event: Event, tally: &mut Tally) -> Result<(), String> {
        let w = match event {
            Event::Lands(put) => {
                tally.late += 1;
                let entry = self.pending.remove(put);
                return self.append(entry);
            }
            Event::Crashes(w) => {
                self.crashes -= 1;
                self.leave_pending(w);
                self.writers[w] = Writer::default();
                return Ok(());
            }
            Event::Begins(w) => {
                self.begin(w);
                w
            }
            Event::Serves(w) => {
                match self.putting(w) {
                    Some(entry) if self.writers[w].known == self.log.len() => {
                        self.append(entry)?;
                        self.writers[w].known += 1;
                        self.answer(w, true);
                    }
                    Some(_) => self.answer(w, false),
                    None => self.read(w, self.log.len(), tally),
                }
                w
            }
            Event::Loses(w) => {
                self.faults -= 1;
                self.leave_pending(w);
                self.answer(w, false);
                w
            }
            Event::Fails(w) => {
                self.faults -= 1;
                self.begin_again(w);
                w
            }
            Event::Lags(w, length) => {
                self.faults -= 1;
                self.read(w, length, tally);
                w
            }
        };
        self.go_on(w, tally)
    }

    /// The entry that a writer is putting.
    fn putting(&self, w: usize) -> Option<Entry> {
        let work = self.writers[w].work?;
        match (work.step, work.entry) {
            (Step::Put { number }, Entry::Claim { by, .. }) => Some(Entry::Claim { by, number: number as u8 }),
            (Step::Put { .. }, entry) => Some(entry),
            _ => None,
        }
    }

    fn leave_pending(&mut self, w: usize) {
        let Some(entry) = self.putting(w) else { return };
        if self.writers[w].known == self.log.len() && !self.pending.contains(&entry) {
            self.pending.push(entry);
            self.pending.sort_unstable();
        }
    }

    fn answer(&mut self, w: usize, done: bool) {
        if let Some(work) = &mut self.writers[w].work {
            work.step = if done { work.attempt.done() } else { work.attempt.refused() };
        }
    }

    fn read(&mut self, w: usize, length: usize, tally: &mut Tally) {
        self.writers[w].known = length;
        self.tell(w, tally);
    }

    fn tell(&mut self, w: usize, tally: &mut Tally) {
        let writer = &mut self.writers[w];
        let Some(work) = &mut writer.work else { return };
        work.step = work.attempt.told(&seen(&self.log[..writer.known], &work.entry));
        if matches!(work.step, Step::End(End::Done(_))) {
            tally.found += 1;
        }
    }

    /// A writer goes on until it asks something of the store, or is through.
    fn go_on(&mut self, w: usize, tally: &mut Tally) -> Result<(), String> {
        while let Some(work) = self.writers[w].work {
            match work.step {
                Step::Read | Step::Put { .. } => break,
                Step::Look => self.tell(w, tally),
                Step::End(end) => self.ends(w, work.entry, end, tally)?,
            }
        }
        Ok(())
    }

    fn begin(&mut self, w: usize) {
        let (files, length) = (active(&self.log), self.log.len());
        let Some(task) = self.writers[w].todo.first().copied() else { return };
        if files == 0 && matches!(task, Task::Merge | Task::Empty) {
            return self.leave(w);
        }
        let writer = &mut self.writers[w];
        let (by, fence, known) = (w as u8, writer.fence, &self.log[..writer.known]);
        let file = FILES * (by + 1) + writer.todo.len() as u8;
        let commit = |fence: Option<u8>, job: u8| {
            let number = newest_commit(known, job).unwrap_or(0) + 1;
            let goal = Goal::Commit { fence: fence.map(i64::from), number: Some(i64::from(number)) };
            (goal, Entry::Commit { by, fence, job, number, file }, 0)
        };
        let rewrite = |adds: u64| {
            let goal = Goal::Rewrite { fence: fence.map(i64::from) };
            (goal, Entry::Rewrite { by, fence, removes: files, adds }, length)
        };
        let (goal, entry, planned) = match task {
            Task::Claim => (Goal::Claim, Entry::Claim { by, number: 0 }, 0),
            Task::Commit => commit(fence, STREAM),
            Task::Publish => commit(None, by + 1),
            Task::Merge => rewrite(1_u64 << file),
            Task::Empty => rewrite(0),
        };
        let (attempt, step) = Attempt::begin(goal);
        writer.work = Some(Work { goal, entry, attempt, step, planned });
    }

    /// A task is over.
    fn leave(&mut self, w: usize) {
        let writer = &mut self.writers[w];
        (writer.todo, writer.work) = (&writer.todo[1..], None);
        if writer.todo.is_empty() {
            *writer = Writer::default();
        }
    }

    fn begin_again(&mut self, w: usize) {
        if let Some(work) = &mut self.writers[w].work {
            (work.attempt, work.step) = Attempt::begin(work.goal);
        }
    }

    /// An attempt is over: is what it says true?
    fn ends(&mut self, w: usize, entry: Entry, end: End, tally: &mut Tally) -> Result<(), String> {
        let log = &self.log;
        let truth = match (end, entry) {
            (End::Failed, _) => {
                self.begin_again(w);
                return Ok(());
            }
            (End::Claimed(number), Entry::Claim { by, .. }) => {
                let claim = Entry::Claim { by, number: number as u8 };
                self.writers[w].fence = Some(number as u8);
                log.iter().filter(|entry| **entry == claim).count() == 1
            }
            (End::Done(version), Entry::Commit { .. }) => {
                let there = &log[..(version as usize).min(log.len())];
                there.iter().filter(|known| **known == entry).count() == 1
            }
            (End::Done(version), Entry::Rewrite { removes, adds, .. }) => {
                let there = &log[..(version as usize).min(log.len())];
                match adds {
                    0 => active(there) & removes == 0,
                    _ => there.iter().filter(|known| **known == entry).count() == 1,
                }
            }
            // It goes on all the same, as one that takes no notice would: what it wants must not come any more.
            (End::Fenced { theirs }, Entry::Commit { fence, .. } | Entry::Rewrite { fence, .. }) => {
                tally.fenced += 1;
                fence.is_some_and(|ours| i64::from(ours) < theirs) && theirs <= i64::from(newest_claim(log))
            }
            (End::Overtaken(file), Entry::Rewrite { removes, adds, .. }) => {
                tally.overtaken += 1;
                let gone = each(removes).get(file).is_some_and(|file| active(log) & file == 0);
                gone && active(log) & adds == 0 && (adds != 0 || !log.contains(&entry))
            }
            _ => false,
        };
        if !truth {
            return Err(format!("writer {w} wanted {entry:?} and was told {end:?}"));
        }
        self.leave(w);
        Ok(())
    }

    /// A new entry: may it follow what is there?
    fn append(&mut self, entry: Entry) -> Result<(), String> {
        let (log, claim) = (&self.log, newest_claim(&self.log));
        let right = match entry {
            Entry::Claim { number, .. } => number == claim + 1,
            Entry::Commit { fence, job, number, .. } => {
                fence.is_none_or(|ours| ours == claim) && number == newest_commit(log, job).unwrap_or(0) + 1
            }
            Entry::Rewrite { fence, removes, .. } => {
                fence.is_none_or(|ours| ours == claim) && active(log) & removes == removes && !log.contains(&entry)
            }
        };
        if !right {
            return Err(format!("{entry:?} does not belong there"));
        }
        self.log.push(entry);
        self.pending.clear();
        Ok(())
    }
}

/// Every history from one world on. Worlds are known by their hashes: among millions of them hardly two share one.
#[derive(Default)]
struct Search {
    // Whether the world is on the way to where the search is.
    worlds: HashMap<u64, bool>,
    way: Vec<Event>,
    tally: Tally,
}

impl Search {
    fn explore(&mut self, world: &World) -> Result<(), String> {
        let mut hasher = DefaultHasher::new();
        world.hash(&mut hasher);
        let hash = hasher.finish();
        match self.worlds.get(&hash) {
            Some(true) => return Err("the writers go round in circles".into()),
            Some(false) => return Ok(()),
            None => {}
        }
        self.worlds.insert(hash, true);
        for event in world.events() {
            let mut next = world.clone();
            self.way.push(event);
            next.happens(event, &mut self.tally).map_err(|wrong| format!("{wrong}: {next:#?}"))?;
            self.explore(&next)?;
            self.way.pop();
        }
        self.worlds.insert(hash, false);
        Ok(())
    }

    fn of(world: &World) -> Tally {
        let mut search = Search::default();
        if let Err(wrong) = search.explore(world) {
            panic!("after {:?}: {wrong}", search.way);
        }
        println!("{} worlds, {:?}", search.worlds.len(), search.tally);
        search.tally
    }
}

// A history ends only where no writer has anything left to do, and none goes round in circles: so each of them comes to
// the end of its tasks, unless it crashes, and about each it was told the truth.

#[test]
fn of_two_streams_one_commits_each_batch_once_and_the_other_learns_that_it_was_fenced_out() {
    const SCRIPT: &[Task] = &[Task::Claim, Task::Commit, Task::Commit];
    let tally = Search::of(&World::new(&[SCRIPT, SCRIPT], 4, 1));
    assert!(tally.fenced > 0 && tally.found > 0 && tally.late > 0, "{tally:?}");
}

#[test]
fn of_three_streams_the_last_claim_wins() {
    const SCRIPT: &[Task] = &[Task::Claim, Task::Commit];
    let tally = Search::of(&World::new(&[SCRIPT, SCRIPT, SCRIPT], 2, 1));
    assert!(tally.fenced > 0 && tally.found > 0 && tally.late > 0, "{tally:?}");
}

#[test]
fn a_stream_that_was_fenced_out_rewrites_nothing() {
    const OLD: &[Task] = &[Task::Claim, Task::Commit, Task::Merge, Task::Commit];
    const NEW: &[Task] = &[Task::Claim, Task::Merge, Task::Empty];
    let tally = Search::of(&World::new(&[OLD, NEW], 3, 1));
    assert!(tally.fenced > 0 && tally.found > 0 && tally.late > 0, "{tally:?}");
}

#[test]
fn of_rewrites_without_a_fence_each_is_made_once_and_of_files_that_are_there() {
    let scripts: [&[Task]; 3] =
        [&[Task::Merge, Task::Publish], &[Task::Merge, Task::Merge], &[Task::Publish, Task::Empty]];
    let tally = Search::of(&World::new(&scripts, 2, 0));
    assert!(tally.overtaken > 0 && tally.found > 0 && tally.late > 0, "{tally:?}");
}

/// A history in which writers are served in bursts, so that others sleep for long.
fn history(seed: u64, tally: &mut Tally) {
    const LONG: &[Task] =
        &[Task::Claim, Task::Commit, Task::Merge, Task::Commit, Task::Claim, Task::Commit, Task::Empty];
    const OTHER: &[Task] = &[Task::Publish, Task::Merge, Task::Publish, Task::Empty, Task::Publish];
    let dice = Dice::new(seed);
    let mut world = World::new(&[LONG, LONG, OTHER, LONG, OTHER], 1 + dice.roll(16) as u8, dice.roll(3) as u8);
    let (mut way, mut favourite) = (Vec::new(), 0);
    loop {
        let events = world.events();
        if events.is_empty() {
            return;
        }
        if dice.one_in(6) {
            favourite = dice.roll(world.writers.len() as u64) as usize;
        }
        let calm = events.iter().find(|event| matches!(event, Event::Begins(w) | Event::Serves(w) if *w == favourite));
        let event = match calm {
            Some(calm) if !dice.one_in(5) => *calm,
            _ => dice.pick(&events),
        };
        way.push(event);
        if let Err(wrong) = world.happens(event, tally) {
            panic!("METERLINE_SEED={seed}: {wrong} after {way:?}: {world:#?}");
        }
    }
}

#[test]
fn whatever_many_writers_and_a_store_do_for_long_the_log_stays_right() {
    let (cases, mut tally) = (seeds(CASES), Tally::default());
    let all = cases.end - cases.start;
    for seed in cases {
        history(seed, &mut tally);
    }
    let tame = [tally.fenced, tally.overtaken, tally.found, tally.late].contains(&0);
    assert!(all < CASES || !tame, "the cases are too tame: {tally:?}");
}

fn at(version: i64) -> Seen {
    Seen { version, claim: 0, number: None, files: Standing::default() }
}

#[test]
fn a_commit_that_is_known_by_nothing_is_put_once() {
    let (mut attempt, first) = Attempt::begin(Goal::Commit { fence: None, number: None });
    assert_eq!((first, attempt.told(&at(7))), (Step::Look, Step::Put { number: 1 }));
    assert_eq!((attempt.refused(), attempt.told(&at(8))), (Step::Read, Step::End(End::Failed)));
}

#[test]
fn who_always_finds_anothers_entry_gives_up() {
    let (mut attempt, first) = Attempt::begin(Goal::Claim);
    assert_eq!(first, Step::Read);
    for version in 0..i64::from(PUTS_MAX) {
        assert_eq!(attempt.told(&at(version)), Step::Put { number: 1 });
        assert_eq!(attempt.refused(), Step::Read);
    }
    assert_eq!(attempt.told(&at(1_000)), Step::End(End::GivenUp));
}

#[test]
fn a_version_that_is_older_than_the_one_that_is_known_says_nothing() {
    let (mut attempt, _) = Attempt::begin(Goal::Commit { fence: None, number: Some(1) });
    attempt.told(&at(7));
    attempt.refused();
    assert_eq!(attempt.told(&at(6)), Step::End(End::Failed));
}
