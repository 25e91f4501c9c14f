//! Waiting with a limit, so that no test hangs.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::guard::Guarded;

/// Asks `look` again and again until it finds something. Panics with `what` after `limit`.
pub fn until<T>(what: &str, limit: Duration, look: impl FnMut() -> Option<T>) -> T {
    found(limit, look).unwrap_or_else(|| panic!("waited {limit:?} in vain until {what}"))
}

/// Asks `look` again and again until it finds something; `None` after `limit`.
pub fn found<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        match look() {
            None if Instant::now() < end => std::thread::sleep(Duration::from_millis(50)),
            seen => return seen,
        }
    }
}

/// What a command left behind.
#[derive(Debug)]
pub struct Finished {
    /// Exit status, if it ended by itself.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Itself, if the exit status is 0; panics with the output if not.
    pub fn succeeded(self) -> Finished {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

/// Runs `command` to its end; panics with its output if that takes longer than `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Finished {
    run_on(command, Stdio::null(), limit)
}

/// As [`run`], with `input` as the command's standard input.
pub fn run_on(command: &mut Command, input: Stdio, limit: Duration) -> Finished {
    // Files, not pipes: a full pipe would stop the command.
    let folder = tempfile::tempdir().expect("make a folder for output");
    let (out, err) = (folder.path().join("out"), folder.path().join("err"));
    let file = |path| fs::File::create(path).expect("create an output file");
    command.stdin(input).stdout(file(&out)).stderr(file(&err));
    let mut process = Guarded::spawn(command).unwrap_or_else(|e| panic!("start {command:?}: {e}"));
    let status = process.wait_for(limit);
    drop(process);
    let text = |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let (stdout, stderr) = (text(&out), text(&err));
    match status {
        Some(status) => Finished { code: status.code(), stdout, stderr },
        None => panic!("{command:?} did not end within {limit:?}\nstdout:\n{stdout}\nstderr:\n{stderr}"),
    }
}
