//! The faults themselves: what happens to a running engine, to its broker, its store, its disk or its clock.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use super::Failure;
use super::age;
use super::cell::{Fault, Moment, Requests, Step, Store};
use super::clock::Clock;
use super::disk::Disk;
use super::engines::Engines;
use super::kill::Armed;
use super::sight;
use crate::fault_proxy::{self, FaultProxy};
use crate::kafka::Kafka;
use crate::s3::S3;
use crate::sandbox::Sandbox;
use crate::wait;

/// Until something happens that must happen, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(80);
/// Until fifty commits are made there. On a store that is busy, too, one may take two seconds and more.
const PATIENCE_WITH_MANY: Duration = Duration::from_secs(240);

/// Until a step comes.
fn patience(step: Step) -> Duration {
    if step.is_rare() { PATIENCE_WITH_MANY } else { PATIENCE }
}

/// What a fault can strike.
#[derive(Debug)]
pub struct Stage<'a> {
    /// The deployment.
    pub sandbox: &'a Sandbox,
    /// Processes that are one engine.
    pub processes: usize,
    /// Its broker.
    pub kafka: &'a mut Kafka,
    /// Its store, where that is a server.
    pub s3: Option<&'a mut S3>,
    /// What its requests to that go through.
    pub proxy: Option<&'a FaultProxy>,
    /// Its disk, where that can be filled.
    pub disk: Option<&'a Disk>,
    /// Its clock, where that can jump.
    pub clock: Option<&'a Clock>,
    /// For everything that is left to chance.
    pub random: &'a mut StdRng,
}

impl Stage<'_> {
    /// Starts an engine.
    pub fn start(&self) -> Engines {
        Engines::start(self.sandbox, self.processes, self.clock)
    }

    /// Lets `fault` happen; returns the engine that runs afterwards.
    ///
    /// # Errors
    /// It does not come to happen, or the engine ends by itself.
    pub fn strike(&mut self, fault: Fault, store: Store, engine: Engines) -> Result<Engines, Failure> {
        match fault {
            Fault::KillAt(step, moment) if store == Store::Local => self.kill_on_sight(step, moment, engine),
            Fault::KillAt(step, moment) => self.kill_at_request(step, moment, engine),
            Fault::KillAtRandom { kills } => self.kill_at_random(kills, engine),
            Fault::BrokerRestart => {
                self.kafka.restart();
                Ok(engine)
            }
            Fault::BrokerPowerCut => {
                self.kafka.kill();
                self.pass(1_000..4_000);
                self.kafka.restart();
                Ok(engine)
            }
            Fault::BrokerPause => {
                self.kafka.pause();
                self.pass(6_000..9_000);
                self.kafka.resume();
                Ok(engine)
            }
            Fault::StoreErrors => self.store_answers(engine, |_| fault_proxy::Fault::Refuse),
            Fault::LostAnswers => self.store_answers(engine, |random| match random.random() {
                true => fault_proxy::Fault::LandThenHangUp,
                false => fault_proxy::Fault::LandThenRefuse,
            }),
            Fault::StorePowerCut => {
                self.s3()?.kill();
                self.pass(1_000..4_000);
                self.s3()?.restart();
                Ok(engine)
            }
            Fault::SlowDisk if store == Store::Local => {
                for _ in 0..self.random.random_range(3..6) {
                    self.pass(0..300);
                    let which = self.random.random_range(0..self.processes);
                    engine.pause(which);
                    self.pass(300..1_500);
                    engine.resume(which);
                }
                Ok(engine)
            }
            Fault::SlowDisk => self.store_answers(engine, |random| {
                fault_proxy::Fault::Delay(Duration::from_millis(random.random_range(200..2_000)))
            }),
            Fault::FullDisk => self.fill_disk(engine),
            Fault::ClockJump => self.turn_clock(store, engine),
            Fault::Takeover => self.take_over(engine),
        }
    }

    fn kill_on_sight(&self, step: Step, moment: Moment, mut engine: Engines) -> Result<Engines, Failure> {
        let (armed, lake, limit) = (Armed::at(engine.first().id())?, self.sandbox.lake(), patience(step));
        let seen = match step.deletes() {
            true => sight::await_gone(&age::expire(&lake, step, limit)?, limit),
            false => sight::await_new(&lake, step, moment, limit),
        };
        if !seen {
            return Err(format!("within {limit:?} no file of the step was seen"));
        }
        armed.fire();
        self.await_killed(&mut engine, PATIENCE)?;
        engine.kill(self.sandbox, 0)?;
        Ok(self.start())
    }

    fn kill_at_request(&mut self, step: Step, moment: Moment, mut engine: Engines) -> Result<Engines, Failure> {
        let kill = Armed::at(engine.first().id())?.trigger();
        let late = Duration::from_millis(self.random.random_range(0..1_500));
        let fault = match moment {
            Moment::Before => fault_proxy::Fault::Before(kill),
            Moment::During => fault_proxy::Fault::During(kill, late),
            Moment::After => fault_proxy::Fault::After(kill),
        };
        let Requests { method, path, body } = step.requests();
        self.proxy()?.on_body(method, &path, &body, fault);
        let limit = patience(step);
        if step.deletes() {
            age::expire(&self.sandbox.lake(), step, limit)?;
        }
        self.await_killed(&mut engine, limit)?;
        engine.kill(self.sandbox, 0)?;
        Ok(self.start())
    }

    /// Waits until process 0 is killed.
    fn await_killed(&self, engine: &mut Engines, limit: Duration) -> Result<(), Failure> {
        match wait::found(limit, || engine.first().ended()) {
            None => Err(format!("within {limit:?} the step did not come")),
            Some(status) if status.code().is_some() => Err(format!("the engine ended by itself: {status}")),
            Some(_) => Ok(()),
        }
    }

    fn kill_at_random(&mut self, kills: u32, mut engine: Engines) -> Result<Engines, Failure> {
        for _ in 0..kills {
            self.pass(0..1_800);
            engine.kill(self.sandbox, self.random.random_range(0..self.processes))?;
            engine = self.start();
        }
        Ok(engine)
    }

    /// For some seconds the next requests of each kind meet what `fault` gives.
    fn store_answers(
        &mut self,
        engine: Engines,
        fault: impl Fn(&mut StdRng) -> fault_proxy::Fault,
    ) -> Result<Engines, Failure> {
        let before = self.proxy()?.fired();
        for _ in 0..6 {
            for method in ["PUT", "PUT", "GET"] {
                let (nth, times) = (self.random.random_range(1..4), self.random.random_range(1..8));
                let next = fault(self.random);
                self.proxy()?.on(method, "", nth, times, next);
            }
            self.pass(300..1_500);
        }
        let proxy = self.proxy()?;
        let met = wait::found(PATIENCE, || (proxy.fired() > before).then_some(()));
        proxy.clear();
        met.map(|()| engine).ok_or_else(|| format!("within {PATIENCE:?} the store was asked for nothing"))
    }

    fn fill_disk(&mut self, mut engine: Engines) -> Result<Engines, Failure> {
        let disk = self.disk.ok_or("this lake has no disk of its own")?;
        disk.fill()?;
        // Housekeeping or the metadata database may be the first to say so: what counts is that the stream waits.
        let waits = wait::found(PATIENCE, || {
            let log = self.sandbox.log();
            (log.contains("reading waits, nothing is lost") || !engine.run()).then_some(())
        });
        self.pass(0..1_000);
        disk.empty()?;
        waits.ok_or_else(|| format!("within {PATIENCE:?} the log does not say that the disk is full"))?;
        if !engine.run() {
            return Err("the engine ended because the disk is full".into());
        }
        Ok(engine)
    }

    fn turn_clock(&mut self, store: Store, mut engine: Engines) -> Result<Engines, Failure> {
        let clock = self.clock.ok_or("this engine has no clock of its own")?;
        for offset in ["+26h", "-3h", "+90s"] {
            clock.jump(offset)?;
            self.pass(500..1_500);
            // Killed on one day and started again on another. S3 refuses requests that are signed long before or after,
            // so an engine that runs waits, and none can start.
            let may_start = store == Store::Local || offset == "+90s";
            if may_start && self.random.random() {
                engine.kill(self.sandbox, self.random.random_range(0..self.processes))?;
                engine = self.start();
            }
        }
        clock.jump("+0")?;
        self.pass(500..1_500);
        Ok(engine)
    }

    fn take_over(&mut self, mut late: Engines) -> Result<Engines, Failure> {
        self.pass(0..400);
        late.pause(0);
        let second = self.start();
        let before = self.sandbox.commits();
        // Its claim is a commit, too.
        let took_over = wait::found(PATIENCE, || (self.sandbox.commits() >= before + 3).then_some(()));
        late.resume(0);
        took_over.ok_or_else(|| format!("within {PATIENCE:?} the second engine did not commit"))?;
        let ended = wait::found(PATIENCE, || late.first().ended());
        match ended.map(|status| status.code()) {
            Some(Some(1)) if self.sandbox.log().contains("another writer has taken over") => Ok(second),
            Some(code) => Err(format!("the engine that woke up late ended with {code:?} and did not say why")),
            None => Err(format!("the engine that woke up late still runs after {PATIENCE:?}")),
        }
    }

    /// Some time of so many milliseconds.
    fn pass(&mut self, millis: std::ops::Range<u64>) {
        std::thread::sleep(Duration::from_millis(self.random.random_range(millis)));
    }

    fn proxy(&self) -> Result<&FaultProxy, Failure> {
        self.proxy.ok_or_else(|| "this lake is behind no proxy".into())
    }

    fn s3(&mut self) -> Result<&mut S3, Failure> {
        self.s3.as_deref_mut().ok_or_else(|| "this lake has no server".into())
    }
}
