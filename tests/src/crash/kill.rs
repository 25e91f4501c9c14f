//! A SIGKILL that is as good as sent: starting a program takes longer than a step of a commit.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::Failure;

/// A shell that waits for one line to kill a process. Dropped, it does nothing and ends.
#[derive(Debug)]
pub struct Armed {
    shell: Child,
    trigger: Option<ChildStdin>,
}

impl Armed {
    /// Ready to kill `process`.
    ///
    /// # Errors
    /// A shell cannot be started.
    pub fn at(process: u32) -> Result<Armed, Failure> {
        let mut shell = Command::new("sh")
            .args(["-c", "read -r go && kill -s KILL \"$1\"", "sh", &process.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("starting a shell: {error}"))?;
        let trigger = shell.stdin.take();
        Ok(Armed { shell, trigger })
    }

    /// Kills when it is called first.
    pub fn trigger(self) -> Box<dyn FnMut() + Send> {
        let mut armed = Some(self);
        Box::new(move || armed.take().map_or((), Armed::fire))
    }

    /// Kills, and returns once that is done.
    pub fn fire(mut self) {
        if let Some(trigger) = &mut self.trigger {
            // A shell that is gone has killed, or its process was gone before.
            let _ = trigger.write_all(b"go\n");
        }
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        drop(self.trigger.take());
        let _ = self.shell.wait();
    }
}
