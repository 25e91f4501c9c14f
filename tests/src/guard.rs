//! Nothing is left behind: processes and folders of a test go even when the test's own process is killed.
//!
//! A small shell process holds the other end of a pipe. It is told what to end and what to remove; when the pipe
//! closes (at exit, after a panic, after SIGKILL) it does so. Ctrl-C does not reach it: it has its own process group.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::skip::note;

const SCRIPT: &str = r#"
groups= folders= mounts=
while read -r word rest; do
    case $word in
        end) groups="$groups $rest" ;;
        ended) groups=$(for g in $groups; do [ "$g" = "$rest" ] || printf ' %s' "$g"; done) ;;
        remove) folders="$folders
$rest" ;;
        unmount) mounts="$mounts
$rest" ;;
    esac
done
for g in $groups; do kill -s KILL -- "-$g" 2>/dev/null; done
sleep 0.2
printf '%s\n' "$mounts" | while read -r f; do [ -z "$f" ] || umount -l -- "$f" 2>/dev/null; done
printf '%s\n' "$folders" | while read -r f; do [ -z "$f" ] || rm -rf -- "$f"; done
"#;

struct Guard {
    // Never waited for: it outlives this process on purpose.
    _process: Child,
    orders: ChildStdin,
}

fn start() -> (Child, ChildStdin) {
    let mut process = Command::new("sh")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("start the guard (sh)");
    let orders = process.stdin.take().expect("the guard's input is a pipe");
    (process, orders)
}

fn guard() -> MutexGuard<'static, Guard> {
    static GUARD: OnceLock<Mutex<Guard>> = OnceLock::new();
    let guard = GUARD.get_or_init(|| {
        let (process, orders) = start();
        Mutex::new(Guard { _process: process, orders })
    });
    guard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn order(words: &str) {
    // Also said while a panic goes on, in which another one would end everything at once.
    let told = writeln!(guard().orders, "{words}");
    if told.is_err() {
        note(&format!("the guard of the tests is gone: it will not do `{words}`"));
    }
}

/// Removes `folder` when this process ends.
pub fn remove_at_exit(folder: &Path) {
    order(&format!("remove {}", folder.display()));
}

/// Unmounts what is mounted at `folder` when this process ends, before folders are removed.
pub fn unmount_at_exit(folder: &Path) {
    order(&format!("unmount {}", folder.display()));
}

/// A child process that leads its own group; dropping it kills the whole group and waits.
#[derive(Debug)]
pub struct Guarded {
    child: Child,
}

impl Guarded {
    /// Starts `command` as the leader of a new process group.
    pub fn spawn(command: &mut Command) -> std::io::Result<Guarded> {
        let child = command.process_group(0).spawn()?;
        order(&format!("end {}", child.id()));
        Ok(Guarded { child })
    }

    /// Process id, which is also the group's.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends `signal` (such as `TERM`) to the process alone.
    pub fn signal(&self, signal: &str) {
        kill(signal, &self.id().to_string());
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("ask whether a child has ended")
    }

    /// Waits until it ends by itself, for `limit` at most.
    pub fn wait_for(&mut self, limit: std::time::Duration) -> Option<std::process::ExitStatus> {
        let until = std::time::Instant::now() + limit;
        loop {
            match self.ended() {
                Some(status) => return Some(status),
                None if std::time::Instant::now() > until => return None,
                None => std::thread::sleep(std::time::Duration::from_millis(10)),
            }
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        kill("KILL", &format!("-{}", self.id()));
        let _ = self.child.wait();
        order(&format!("ended {}", self.id()));
    }
}

fn kill(signal: &str, target: &str) {
    // Its complaint about a process that is already gone says nothing.
    let _ = Command::new("kill").args(["-s", signal, "--", target]).stderr(Stdio::null()).status();
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn when_the_pipe_closes_processes_and_folders_go_but_for_those_that_ended() {
        let sleep = || Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let (mut kept, mut ended) = (sleep(), sleep());
        let folder = tempfile::tempdir().unwrap();
        let (mut guard, mut orders) = start();
        for process in [&kept, &ended] {
            writeln!(orders, "end {}", process.id()).unwrap();
        }
        writeln!(orders, "ended {}\nremove {}", kept.id(), folder.path().display()).unwrap();
        drop(orders);
        assert!(guard.wait().unwrap().success());
        assert_eq!(ended.wait().unwrap().signal(), Some(9));
        assert!(!folder.path().exists() && kept.try_wait().unwrap().is_none());
        kept.kill().unwrap();
        kept.wait().unwrap();
    }
}
