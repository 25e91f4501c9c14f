//! The processes that are one engine: process 0 commits, and none can go on without the others.

use std::process::ExitStatus;
use std::time::Duration;

use super::Failure;
use super::clock::Clock;
use crate::ports::free_addresses;
use crate::sandbox::{Engine, Sandbox};
use crate::wait;

/// For what the loss of one process does to the others.
const PATIENCE: Duration = Duration::from_secs(60);

/// What each process logs once all of them are there.
const TOGETHER: &str = "the stream goes on after this commit";

/// All processes of one engine, process 0 first.
#[derive(Debug)]
pub struct Engines {
    processes: Vec<Engine>,
    // Length of the log before they were started.
    logged: usize,
}

/// The section of the configuration that makes so many processes one engine.
pub fn section(processes: usize) -> String {
    if processes == 1 {
        return String::new();
    }
    let addresses: Vec<String> = free_addresses(processes).iter().map(|address| format!("\"{address}\"")).collect();
    format!("[cluster]\naddresses = [{}]\n", addresses.join(", "))
}

impl Engines {
    /// Starts them, with a clock that can jump if there is one.
    pub fn start(sandbox: &Sandbox, processes: usize, clock: Option<&Clock>) -> Engines {
        let environment = clock.map(Clock::environment).unwrap_or_default();
        let logged = sandbox.log().len();
        let processes = (0..processes).map(|number| sandbox.process_with(number, &environment)).collect();
        Engines { processes, logged }
    }

    /// The process that commits.
    pub fn first(&mut self) -> &mut Engine {
        &mut self.processes[0]
    }

    /// Whether all of them run.
    pub fn run(&mut self) -> bool {
        self.processes.iter_mut().all(Engine::runs)
    }

    /// One process stands still until [`Engines::resume`]; `which` is taken round.
    pub fn pause(&self, which: usize) {
        self.processes[which % self.processes.len()].pause();
    }

    /// It goes on.
    pub fn resume(&self, which: usize) {
        self.processes[which % self.processes.len()].resume();
    }

    /// SIGKILL for one process, if it has not had it yet; `which` is taken round.
    ///
    /// # Errors
    /// Another one goes on without it, or ends as if nothing were wrong.
    pub fn kill(self, sandbox: &Sandbox, which: usize) -> Result<(), Failure> {
        let log = sandbox.log();
        let news = log.get(self.logged..).unwrap_or_default();
        let together = news.matches(TOGETHER).count() >= self.processes.len();
        let mut others = self.processes;
        let number = which % others.len();
        sandbox.kill(others.remove(number));
        if !together {
            // Those that are left may wait for it, for as long as it takes.
            others.into_iter().for_each(|other| sandbox.kill(other));
            return Ok(());
        }
        for mut other in others {
            match wait::found(PATIENCE, || other.ended()).map(|status| status.code()) {
                Some(Some(1)) => {}
                Some(code) => return Err(format!("process {number} was killed, and another one ended with {code:?}")),
                None => {
                    return Err(format!("process {number} was killed {PATIENCE:?} ago, and another one still runs"));
                }
            }
        }
        Ok(())
    }

    /// SIGTERM for process 0, which ends all of them.
    ///
    /// # Errors
    /// One does not end with status 0.
    pub fn stop(self) -> Result<(), Failure> {
        let good = |number: usize, status: ExitStatus| match status.code() {
            Some(0) => Ok(()),
            _ => Err(format!("SIGTERM ended process {number} with {status}")),
        };
        let mut rest = self.processes.into_iter();
        rest.next().map_or(Ok(()), |first| good(0, first.stop()))?;
        rest.enumerate().try_for_each(|(index, mut other)| good(index + 1, other.wait(PATIENCE)))
    }
}
