//! A SIGKILL that is as good as sent: starting a program takes longer than a step of a commit.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};

/// A shell that waits for one line to kill a process. Dropped, it does nothing and ends.
#[derive(Debug)]
pub struct Armed {
    shell: Child,
    trigger: Option<ChildStdin>,
}

impl Armed {
    /// Ready to kill `process`.
    pub fn at(process: u32) -> Armed {
        let mut shell = Command::new("sh")
            .args(["-c", "read -r go && kill -s KILL \"$1\"", "sh", &process.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start a shell");
        let trigger = shell.stdin.take();
        Armed { shell, trigger }
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
