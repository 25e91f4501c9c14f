//! One run: a new lake, a feed that goes on, a fault, and the comparison at the end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::Failure;
use super::cell::{Cell, Fault, Step, Store};
use super::clock::Clock;
use super::disk::Disk;
use super::engines::{self, Engines};
use super::feed::{Counts, Feed, Feeder, Kind, PACE, Topic};
use super::strike::Stage;
use super::sums;
use super::verdict::{Plan, Verdict, judge};
use crate::fault_proxy::FaultProxy;
use crate::kafka::Kafka;
use crate::s3::S3;
use crate::sandbox::Sandbox;
use crate::skip::Skip;
use crate::topic::drain_delivered;
use crate::wait;

/// Hours of readings that follow after the fault.
const AFTERWARDS: u32 = 12;
const START_LIMIT: Duration = Duration::from_secs(60);
const COMMIT_LIMIT: Duration = Duration::from_secs(180);
/// Claim, creation, and two of the stream: from then on the fault may come.
const COMMITS_BEFORE: usize = 4;

/// What became of a run.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It came to its end.
    Judged(Verdict),
    /// This machine lacks something.
    Skipped(Skip),
    /// It did not come to its end; with the last lines of the engine's log.
    Failed(Failure),
}

/// The servers of runs that come one after the other. Two worlds have nothing in common.
#[derive(Debug)]
pub struct World {
    kafka: Kafka,
    s3: Result<S3, Skip>,
    runs: u32,
}

impl World {
    /// Starts them. A machine without the S3 server can still do the runs on a directory.
    ///
    /// # Errors
    /// [`Skip`] where Kafka cannot run.
    pub fn start() -> Result<World, Skip> {
        Ok(World { kafka: Kafka::start()?, s3: S3::start(), runs: 0 })
    }

    /// Does one run.
    pub fn run(&mut self, cell: &Cell, seed: u64) -> Outcome {
        self.runs += 1;
        let run = format!("run-{}", self.runs);
        let ground = match caught(|| Ground::prepare(self, cell, &run, seed)) {
            Ok(Ok(ground)) => ground,
            Ok(Err(skip)) => return Outcome::Skipped(skip),
            Err(failure) => return Outcome::Failed(failure),
        };
        let result = caught(|| ground.run(self, cell, &run, seed)).flatten();
        self.tidy(&run);
        match result {
            Ok(mut verdict) => {
                if !verdict.is_clean() {
                    verdict.examples.push(ground.told("the run"));
                }
                Outcome::Judged(verdict)
            }
            Err(failure) => Outcome::Failed(ground.told(&failure)),
        }
    }

    /// Leaves the servers as the next run needs them: others, where they do not come back.
    fn tidy(&mut self, run: &str) {
        self.kafka.resume();
        let gone = caught(|| Topic::ALL.iter().for_each(|topic| self.kafka.delete_topic(&topic.name(run))));
        if gone.is_err()
            && caught(|| self.kafka.restart()).is_err()
            && let Ok(Ok(other)) = caught(Kafka::start)
        {
            self.kafka = other;
        }
        if let Ok(server) = &mut self.s3
            && !server.runs()
            && caught(|| server.restart()).is_err()
            && let Ok(Ok(other)) = caught(S3::start)
        {
            *server = other;
        }
    }
}

/// Records that topics hold which are read: what was sent, and what came twice because a broker forgot in a power cut
/// that it had it already.
fn there(brokers: &str, run: &str, sent: Counts, read: &[Topic]) -> Result<Counts, Failure> {
    let mut there = Counts::default();
    for topic in read {
        let (number, name) = (topic.number(), topic.name(run));
        let sent = sent[number];
        there[number] = drain_delivered(brokers, &name, sent).len() as u64;
        if there[number] < sent {
            return Err(format!("{sent} records were sent to {name}, which has {}", there[number]));
        }
    }
    Ok(there)
}

/// What the harness waits for in vain is a panic of the libraries that tests stand on: here it is the failure of one
/// run, and the next one may be.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "a panic".into())
    })
}

/// What one run has of its own.
#[derive(Debug)]
struct Ground {
    // Unmounted before the sandbox goes.
    disk: Option<Disk>,
    clock: Option<Clock>,
    proxy: Option<FaultProxy>,
    sandbox: Sandbox,
}

impl Ground {
    fn prepare(world: &World, cell: &Cell, run: &str, seed: u64) -> Result<Ground, Skip> {
        let (brokers, settings) = (world.kafka.brokers(), settings(cell, run, seed));
        let first = Topic::Of(Kind::Energy).name(run);
        let (sandbox, proxy) = match cell.store {
            Store::Local => (Sandbox::reading(&brokers, &first, &settings), None),
            Store::S3 => {
                let server = world.s3.as_ref().map_err(Clone::clone)?;
                let proxy = FaultProxy::start(server.address());
                let sandbox = Sandbox::reading_on_s3(&brokers, &first, server, &proxy.endpoint(), &settings);
                (sandbox, Some(proxy))
            }
        };
        let disk = match cell.fault {
            Fault::FullDisk => Some(Disk::mount(&sandbox.lake())?),
            _ => None,
        };
        let clock = match cell.fault {
            Fault::ClockJump => Some(Clock::new(sandbox.path())?),
            _ => None,
        };
        Ok(Ground { disk, clock, proxy, sandbox })
    }

    fn run(&self, world: &mut World, cell: &Cell, run: &str, seed: u64) -> Result<Verdict, Failure> {
        let brokers = world.kafka.brokers();
        if rolls_up(cell, seed) {
            sums::write_labels(self.sandbox.path())?;
        }
        for topic in Topic::ALL {
            world.kafka.create_topic(&topic.name(run), topic.partitions());
        }
        let mut random = StdRng::seed_from_u64(seed);
        let mut stage = Stage {
            sandbox: &self.sandbox,
            processes: cell.processes,
            kafka: &mut world.kafka,
            s3: world.s3.as_mut().ok(),
            proxy: self.proxy.as_ref(),
            disk: self.disk.as_ref(),
            clock: self.clock.as_ref(),
            random: &mut random,
        };
        let feeder = Feeder::start(&brokers, run, Feed::new(seed, detects(seed)), pace(cell), AFTERWARDS);
        let mut engine = stage.start();
        wait::found(START_LIMIT, || (!engine.run() || self.sandbox.commits() >= COMMITS_BEFORE).then_some(()));
        if !engine.run() || self.sandbox.commits() < COMMITS_BEFORE {
            return Err(format!("the engine made no commits within {START_LIMIT:?}, or ended by itself"));
        }
        engine = stage.strike(cell.fault, cell.store, engine)?;
        let rolls_up = rolls_up(cell, seed);
        let there = there(&brokers, run, feeder.finish()?, Topic::read(rolls_up))?;
        self.await_committed(&mut engine, there.iter().sum())?;
        engine.stop()?;
        let plan = Plan { rolls_up, detects: detects(seed) };
        judge(&self.sandbox, &brokers, run, there, plan)
    }

    /// Until all that was delivered is committed: a broker that was just started again may say that there is less.
    fn await_committed(&self, engine: &mut Engines, delivered: u64) -> Result<(), Failure> {
        let until = Instant::now() + COMMIT_LIMIT;
        loop {
            let committed = self.sandbox.number("SELECT sum(next_offset) FROM partitions").unwrap_or(0);
            if committed >= delivered as i64 {
                return Ok(());
            }
            if !engine.run() {
                return Err("the engine ended by itself".into());
            }
            if Instant::now() > until {
                return Err(format!("{committed} of {delivered} records are committed after {COMMIT_LIMIT:?}"));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn told(&self, failure: &str) -> Failure {
        let log = self.sandbox.log();
        let lines: Vec<&str> = log.lines().collect();
        format!("{failure}; the engine's log ends with\n{}", lines[lines.len().saturating_sub(30)..].join("\n"))
    }
}

/// Between two hours of the readings of a run.
fn pace(cell: &Cell) -> Duration {
    match cell.fault {
        // On a machine that is busy fifty commits may take longer than the usual feed lasts, most of it for looking up
        // what readings concern. Of a slower one there are fewer readings in each of them.
        Fault::KillAt(step, _) if step.is_rare() => 4 * PACE,
        _ => PACE,
    }
}

/// Whether there is too little memory for all series in a run, so that they leave it and come back all the time: in
/// every second one, and where that is what is tried; but not where a roll-up is.
fn is_scarce(cell: &Cell, seed: u64) -> bool {
    match cell.fault {
        Fault::KillAt(Step::EvictedFile, _) => true,
        Fault::KillAt(step, _) if step.is_of_rollup() => false,
        _ => seed.is_multiple_of(2),
    }
}

/// Whether a run has a roll-up: in the others. What roll-ups know of series does not leave memory, and less is looked up
/// without them.
pub fn rolls_up(cell: &Cell, seed: u64) -> bool {
    !is_scarce(cell, seed)
}

/// Whether frequencies are detected in a run, of the kinds of readings of which they can be: in every fourth one, with
/// a roll-up or without. As meters go on to begin there, it is mostly under way when the fault comes.
fn detects(seed: u64) -> bool {
    (seed / 2).is_multiple_of(4)
}

/// Many small commits, little memory of what was read, no pipelines; time-outs that a pause of the broker exceeds.
fn settings(cell: &Cell, run: &str, seed: u64) -> String {
    let rolls_up = rolls_up(cell, seed);
    let mut feeds = String::new();
    for kind in Kind::ALL {
        let (name, topic, configured) = (kind.name(), Topic::Of(kind).name(run), kind.configured());
        // The first one continues the section that is there.
        if kind != Kind::Energy {
            feeds += &format!(
                "[feed.{name}]\ntopic = \"{topic}\"\nseries = \"meter_id\"\ntime = \"ts\"\nvalue = \"value\"\n\
                 unit_field = \"unit\"\nquality = \"quality\"\nlabel = \"end\"\n"
            );
        }
        let unit = kind.usual_unit();
        feeds += &format!("kind = \"{configured}\"\nunit = \"{unit}\"\n");
        if !(detects(seed) && kind.is_detectable()) {
            feeds += "frequency = \"PT15M\"\n";
        }
        if rolls_up {
            feeds += sums::labels_of(kind);
        }
    }
    let workers = cell.workers;
    // Each process has a part of the series.
    let memory = if is_scarce(cell, seed) { 32 * 1024 / cell.processes } else { 2 << 30 };
    let mut more = engines::section(cell.processes) + &Sandbox::no_pipelines("PT15M");
    if rolls_up {
        more += &(sums::section(run) + &Sandbox::no_pipelines("PT1H"));
    }
    format!(
        "{feeds}\n[ingest]\ncommit_interval = \"150ms\"\nworkers = {workers}\nremembered_intervals = 4\n\
         memory_limit = \"{memory}B\"\nidle_timeout = \"1s\"\n[maintenance]\nevery = \"10s\"\n[http]\nlisten = \"off\"\n\
         [kafka.properties]\n\"socket.timeout.ms\" = \"2000\"\n\"session.timeout.ms\" = \"3000\"\n{more}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::cell::matrix;

    #[test]
    fn frequencies_are_detected_in_a_quarter_of_the_matrix_with_roll_ups_and_without() {
        let (mut with, mut without) = (0, 0);
        let cells = matrix(1);
        for cell in &cells {
            let seed = cell.seed(1);
            let declared = settings(cell, "run-1", seed).matches("frequency = \"PT15M\"").count();
            // A policy says it, too.
            assert_eq!(declared, if detects(seed) { 2 } else { 4 }, "{cell}");
            if detects(seed) {
                *(if rolls_up(cell, seed) { &mut with } else { &mut without }) += 1;
            }
        }
        let share = f64::from(with + without) / cells.len() as f64;
        assert!((0.15..0.35).contains(&share) && with > 20 && without > 20, "{with} and {without}");
    }
}
