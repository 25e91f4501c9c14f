//! The processes that are one engine: process 0 commits, and none can go on without the others.

use std::net::TcpListener;
use std::process::ExitStatus;
use std::time::Duration;

use super::Failure;
use super::clock::Clock;
use crate::sandbox::{Engine, Sandbox};
use crate::wait;

/// For what the loss of one process does to the others.
const PATIENCE: Duration = Duration::from_secs(60);

/// All processes of one engine, process 0 first.
#[derive(Debug)]
pub struct Engines(Vec<Engine>);

/// The section of the configuration that makes so many processes one engine.
pub fn section(processes: usize) -> String {
    if processes == 1 {
        return String::new();
    }
    // All are held until all are known, so that they differ.
    let listeners: Vec<TcpListener> =
        (0..processes).map(|_| TcpListener::bind(("127.0.0.1", 0)).expect("find a free port")).collect();
    let address = |l: &TcpListener| format!("\"{}\"", l.local_addr().expect("the address of a listener"));
    format!("[cluster]\naddresses = [{}]\n", listeners.iter().map(address).collect::<Vec<_>>().join(", "))
}

impl Engines {
    /// Starts them, with a clock that can jump if there is one.
    pub fn start(sandbox: &Sandbox, processes: usize, clock: Option<&Clock>) -> Engines {
        let environment = clock.map(Clock::environment).unwrap_or_default();
        Engines((0..processes).map(|number| sandbox.process_with(number, &environment)).collect())
    }

    /// The process that commits.
    pub fn first(&mut self) -> &mut Engine {
        &mut self.0[0]
    }

    /// Whether all of them run.
    pub fn run(&mut self) -> bool {
        self.0.iter_mut().all(Engine::runs)
    }

    /// One process stands still until [`Engines::resume`]; `which` is taken round.
    pub fn pause(&self, which: usize) {
        self.0[which % self.0.len()].pause();
    }

    /// It goes on.
    pub fn resume(&self, which: usize) {
        self.0[which % self.0.len()].resume();
    }

    /// SIGKILL for one process, if it has not had it yet; `which` is taken round.
    ///
    /// # Errors
    /// Another one goes on without it, or ends as if nothing were wrong.
    pub fn kill(self, sandbox: &Sandbox, which: usize) -> Result<(), Failure> {
        let mut others = self.0;
        let number = which % others.len();
        sandbox.kill(others.remove(number));
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
        let mut rest = self.0.into_iter();
        rest.next().map_or(Ok(()), |first| good(0, first.stop()))?;
        rest.enumerate().try_for_each(|(index, mut other)| good(index + 1, other.wait(PATIENCE)))
    }
}
