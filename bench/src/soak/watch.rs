//! What is sampled of a running engine and its lake.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::ingest::process::usage;

/// Between two looks at memory and the log.
const EVERY: Duration = Duration::from_secs(1);
/// Between two looks at all files of the lake.
const FILES_EVERY: Duration = Duration::from_secs(5);
/// After its start an engine fills its memory, and reads what came while it was away: that is no growth.
pub const SETTLES: Duration = Duration::from_secs(30);
/// Tables that have files.
const TABLES: [&str; 4] = ["intervals", "samples", "dead_letters", "forecasts"];

/// Samples (minute of the run, figure).
pub type Samples = Vec<(f64, f64)>;

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Resident memory in MiB, from half a minute after each start of the engine on.
    pub memory: Samples,
    /// Seconds that each commit took, as the engine logs it; also from half a minute after each start on.
    pub commit: Samples,
    /// Records that each commit left unread.
    pub lag: Samples,
    /// Files that the newest versions of the tables consist of, and those of the state.
    pub files: Samples,
    /// Files below the lake's folder, of any kind: also those that wait for their deletion.
    pub on_disk: Samples,
    /// Minutes at which the engine was killed.
    pub kills: Vec<f64>,
}

/// Looks at an engine, and remembers.
#[derive(Debug)]
pub struct Watch {
    /// What was seen so far.
    pub seen: Seen,
    lake: PathBuf,
    tables: Vec<Table>,
    log: PathBuf,
    // Bytes of the log that were read.
    read: usize,
    began: Instant,
    started: Instant,
    looked: Option<Instant>,
    counted: Option<Instant>,
}

impl Watch {
    /// Of an engine that starts now.
    pub fn new(lake: PathBuf, log: PathBuf) -> Watch {
        let now = Instant::now();
        let tables = TABLES.iter().map(|name| Table::of(&lake.join(name))).collect();
        Watch {
            seen: Seen::default(),
            lake,
            tables,
            log,
            read: 0,
            began: now,
            started: now,
            looked: None,
            counted: None,
        }
    }

    /// Minutes since the beginning.
    pub fn minute(&self) -> f64 {
        self.began.elapsed().as_secs_f64() / 60.0
    }

    /// The engine was killed, and another starts now.
    pub fn killed(&mut self) {
        self.seen.kills.push(self.minute());
        self.started = Instant::now();
    }

    /// Looks, if it is time.
    pub fn look(&mut self, engine: u32) {
        if self.looked.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        let minute = self.minute();
        if let Some(usage) = usage(engine).filter(|_| self.started.elapsed() >= SETTLES) {
            self.seen.memory.push((minute, usage.rss_mib));
        }
        self.read_log(minute);
        if self.counted.is_none_or(|at| at.elapsed() >= FILES_EVERY) {
            self.counted = Some(Instant::now());
            let live = self.tables.iter_mut().map(Table::live).sum::<usize>() + count_files(&self.lake.join("state"));
            self.seen.files.push((minute, live as f64));
            self.seen.on_disk.push((minute, count_files(&self.lake) as f64));
        }
    }

    fn read_log(&mut self, minute: f64) {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let news = bytes.get(self.read..).unwrap_or_default();
        let Some(end) = news.iter().rposition(|byte| *byte == b'\n') else { return };
        for line in String::from_utf8_lossy(&news[..end]).lines() {
            if let (Some(took_ms), Some(lag)) = (number(line, "took_ms="), number(line, "lag=")) {
                if self.started.elapsed() >= SETTLES {
                    self.seen.commit.push((minute, took_ms / 1e3));
                }
                self.seen.lag.push((minute, lag));
            }
        }
        self.read += end + 1;
    }
}

/// The data files of the newest version of a table, followed by its log without the engine.
#[derive(Debug)]
struct Table {
    log: PathBuf,
    next: u64,
    files: HashSet<String>,
}

impl Table {
    fn of(folder: &Path) -> Table {
        Table { log: folder.join("_delta_log"), next: 0, files: HashSet::new() }
    }

    /// Their number. A table that is not there yet has none.
    fn live(&mut self) -> usize {
        // Entries stay for an hour at least, and this is asked every few seconds: none is missed.
        while let Ok(text) = fs::read_to_string(self.log.join(format!("{:020}.json", self.next))) {
            self.take(&text);
            self.next += 1;
        }
        self.files.len()
    }

    /// One entry of the log: an action a line.
    fn take(&mut self, text: &str) {
        for action in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            if let Some(path) = action["remove"]["path"].as_str() {
                self.files.remove(path);
            }
            if let Some(path) = action["add"]["path"].as_str() {
                self.files.insert(path.to_owned());
            }
        }
    }
}

fn number(line: &str, name: &str) -> Option<f64> {
    let (_, value) = line.split_once(name)?;
    value.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn count_files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_the_log() {
        let line =
            "2026-01-01T00:00:00Z  INFO meterline::ingest::service: committed commit=9 records=5 lag=17 took_ms=250";
        assert_eq!(
            (number(line, "took_ms="), number(line, "lag="), number(line, "rows=")),
            (Some(250.0), Some(17.0), None)
        );
    }

    #[test]
    fn of_the_files_of_a_table_those_count_that_its_newest_version_has() {
        let mut table = Table::of(Path::new("no such table"));
        assert_eq!(table.live(), 0);
        table.take("{\"commitInfo\":{}}\n{\"add\":{\"path\":\"a\"}}\n{\"add\":{\"path\":\"b\"}}\n");
        assert_eq!(table.live(), 2);
        table.take("{\"remove\":{\"path\":\"a\"}}\n{\"remove\":{\"path\":\"b\"}}\n{\"add\":{\"path\":\"c\"}}\n");
        assert_eq!(table.live(), 1);
    }
}
