//! The commits of the table `intervals` as they appear in its log, read without the engine.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

/// One data file that a commit added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Where it is.
    pub path: PathBuf,
    /// Its rows.
    pub rows: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// One commit with new rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Version of the table.
    pub version: u64,
    /// When it became visible: the last change of its file's inode, which is its new name.
    pub at: SystemTime,
    /// Files with new rows. What a compaction writes again is not among them.
    pub added: Vec<Added>,
}

impl Commit {
    /// Its new rows.
    pub fn rows(&self) -> u64 {
        self.added.iter().map(|file| file.rows).sum()
    }
}

/// Follows the log of one table.
#[derive(Debug, Clone)]
pub struct Follower {
    table: PathBuf,
    next: u64,
}

impl Follower {
    /// Of the table `intervals` in `lake`, from its first commit.
    pub fn new(lake: &Path) -> Follower {
        Follower { table: lake.join("intervals"), next: 0 }
    }

    /// The commits since the last call. Those without new rows are left out.
    pub fn news(&mut self) -> Vec<Commit> {
        let mut commits = Vec::new();
        loop {
            let path = self.table.join(format!("_delta_log/{:020}.json", self.next));
            let (Ok(metadata), Ok(text)) = (fs::metadata(&path), fs::read_to_string(&path)) else { return commits };
            let at = SystemTime::UNIX_EPOCH
                + Duration::new(metadata.ctime().max(0) as u64, metadata.ctime_nsec().max(0) as u32);
            let added = added(&self.table, &text);
            if !added.is_empty() {
                commits.push(Commit { version: self.next, at, added });
            }
            self.next += 1;
        }
    }
}

fn added(table: &Path, text: &str) -> Vec<Added> {
    let actions = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    actions
        .filter_map(|action| {
            let add = action.get("add").filter(|add| add["dataChange"] == true)?;
            let path = add["path"].as_str()?;
            let stats: Value = serde_json::from_str(add["stats"].as_str()?).ok()?;
            Some(Added { path: table.join(path), rows: stats["numRecords"].as_u64()?, bytes: add["size"].as_u64()? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_rows_count_and_compacted_ones_do_not() {
        let add = |rows: u64, change: bool| {
            format!(
                r#"{{"add":{{"path":"month=2024-01/{rows}.parquet","size":9,"dataChange":{change},"stats":"{{\"numRecords\":{rows}}}"}}}}"#
            )
        };
        let text = [r#"{"commitInfo":{}}"#.to_owned(), add(5, true), add(2, true), add(7, false)];
        let commit = Commit { version: 0, at: SystemTime::UNIX_EPOCH, added: added(Path::new("t"), &text.join("\n")) };
        assert_eq!((commit.added.len(), commit.rows()), (2, 7));
        assert_eq!(commit.added[0].path, Path::new("t/month=2024-01/5.parquet"));
    }
}
