//! Where the demo's narrative goes: lines that stay, and on a terminal one line below them that is rewritten.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often the changing line is written where it cannot be rewritten.
const PLAIN_EVERY: Duration = Duration::from_secs(10);
/// Columns of the changing line; more would wrap on a small terminal and could not be rewritten.
const LIVE_COLUMNS: usize = 79;

/// A terminal, or a file or pipe that looks like a log.
pub struct Screen {
    out: Box<dyn Write + Send>,
    terminal: bool,
    started: Instant,
    live_shown: bool,
    live_at: Option<Instant>,
}

impl Screen {
    /// Standard output; standard error where `json` keeps standard output for one document.
    pub fn new(json: bool) -> Screen {
        let (out, terminal): (Box<dyn Write + Send>, bool) = if json {
            (Box::new(std::io::stderr()), std::io::stderr().is_terminal())
        } else {
            (Box::new(std::io::stdout()), std::io::stdout().is_terminal())
        };
        Screen::on(out, terminal)
    }

    fn on(out: Box<dyn Write + Send>, terminal: bool) -> Screen {
        Screen { out, terminal, started: Instant::now(), live_shown: false, live_at: None }
    }

    /// Whether colours and rewritten lines are in place.
    pub const fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// A line that stays, as it is.
    pub fn plain(&mut self, text: &str) {
        self.clear();
        self.write(&format!("{text}\n"));
    }

    /// A line that stays: time since the start, what it is about, and what happened.
    pub fn event(&mut self, topic: &str, text: &str) {
        let at = clock(self.started.elapsed());
        let line = if self.terminal {
            format!("\x1b[2m{at}\x1b[0m  \x1b[1m{topic:<9}\x1b[0m {text}")
        } else {
            format!("{at}  {topic:<9} {text}")
        };
        self.plain(&line);
    }

    /// The line that changes: rewritten on a terminal, elsewhere written now and then.
    pub fn live(&mut self, topic: &str, text: &str) {
        if self.terminal {
            let line: String = format!("{}  {topic:<9} {text}", clock(self.started.elapsed()));
            let line: String = line.chars().take(LIVE_COLUMNS).collect();
            self.write(&format!("\r\x1b[2K{line}"));
            self.live_shown = true;
        } else if self.live_at.is_none_or(|at| at.elapsed() >= PLAIN_EVERY) {
            self.event(topic, text);
            self.live_at = Some(Instant::now());
        }
    }

    /// Removes the changing line.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.live_shown) {
            self.write("\r\x1b[2K");
        }
    }

    // A reader that went away, or a full disk under a redirected log, must not end the demonstration.
    fn write(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }
}

fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn text(terminal: bool) -> String {
        let out = Shared::default();
        let mut screen = Screen::on(Box::new(out.clone()), terminal);
        screen.live("readings", "1");
        screen.live("readings", "2");
        screen.event("model", "registered");
        drop(screen);
        let bytes = out.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn without_a_terminal_there_are_only_plain_lines() {
        assert_eq!(text(false), "00:00  readings  1\n00:00  model     registered\n");
    }

    #[test]
    fn on_a_terminal_the_changing_line_gives_way() {
        let text = text(true);
        assert!(text.contains("\r\x1b[2K00:00  readings  2\r\x1b[2K"), "{text:?}");
        assert!(text.ends_with("registered\n"), "{text:?}");
    }
}
