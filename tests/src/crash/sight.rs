//! Waits until a file appears in a lake on a directory, or disappears.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cell::{Moment, Place, Step};

/// Between two looks: a step takes some milliseconds, most of them for flushing.
const PAUSE: Duration = Duration::from_micros(50);

/// Waits for a file of `step` that is not there yet: under the name of a file that is being written, or, after the
/// step, under its own. Whether it came within `limit`.
pub fn await_new(lake: &Path, step: Step, moment: Moment, limit: Duration) -> bool {
    let place = step.place();
    let mut known: HashSet<PathBuf> = files(lake, &place).into_iter().collect();
    seen(limit, || {
        for path in files(lake, &place) {
            if known.contains(&path) || !is_of(&path, &place, moment) {
                continue;
            }
            if has(&path, place.holds) {
                return true;
            }
            // One that is being written may have it later.
            if moment == Moment::After {
                known.insert(path);
            }
        }
        false
    })
}

/// Waits until one of `files` is gone. Whether that came within `limit`.
pub fn await_gone(files: &[PathBuf], limit: Duration) -> bool {
    seen(limit, || files.iter().any(|file| !file.exists()))
}

/// The files of `step` that are there, under their own names.
pub fn there(lake: &Path, step: Step) -> Vec<PathBuf> {
    let place = step.place();
    files(lake, &place).into_iter().filter(|path| is_of(path, &place, Moment::After)).collect()
}

fn seen(limit: Duration, mut look: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + limit;
    while Instant::now() < until {
        if look() {
            return true;
        }
        std::thread::sleep(PAUSE);
    }
    false
}

/// A file that is being written has `#` and digits behind its name.
fn is_of(path: &Path, place: &Place, moment: Moment) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let (own, staged) = match name.split_once('#') {
        Some((own, _)) => (own, true),
        None => (name, false),
    };
    staged == (moment == Moment::During) && own.starts_with(place.begins) && own.ends_with(place.ends)
}

fn has(path: &Path, text: &str) -> bool {
    text.is_empty() || fs::read_to_string(path).is_ok_and(|content| content.contains(text))
}

/// All files in the folders of a place.
fn files(lake: &Path, place: &Place) -> Vec<PathBuf> {
    folders(lake, place.folders).iter().flat_map(|folder| names(folder)).collect()
}

fn folders(lake: &Path, parts: &[&str]) -> Vec<PathBuf> {
    parts.iter().fold(vec![lake.to_owned()], |found, part| match part.strip_suffix('*') {
        None => found.into_iter().map(|folder| folder.join(part)).collect(),
        Some(begin) => found.iter().flat_map(|folder| beginning(folder, begin)).collect(),
    })
}

fn beginning(folder: &Path, begin: &str) -> Vec<PathBuf> {
    let begins = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begin));
    names(folder).into_iter().filter(begins).collect()
}

/// A folder that is not there yet has none.
fn names(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_step_and_moment() {
        let lake = tempfile::tempdir().unwrap();
        let inside = |name: &str, content: &str| {
            let path = lake.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            // It appears whole.
            let written = lake.path().join("written");
            fs::write(&written, content).unwrap();
            fs::rename(written, path).unwrap();
        };
        let sees_holding = |step, moment, name: &str, content: &str| {
            std::thread::scope(|scope| {
                let waits = scope.spawn(|| await_new(lake.path(), step, moment, Duration::from_millis(300)));
                std::thread::sleep(Duration::from_millis(50));
                inside(name, content);
                waits.join().unwrap()
            })
        };
        let sees = |step, moment, name: &str| sees_holding(step, moment, name, "");
        assert!(sees(Step::IntervalFile, Moment::After, "intervals/month=2024-01/layer=base/a.parquet"));
        assert!(!sees(Step::IntervalFile, Moment::After, "intervals/month=2024-01/layer=base/b.parquet#12"));
        assert!(sees(Step::IntervalFile, Moment::During, "intervals/month=2024-02/layer=rev/c.parquet#34"));
        assert!(sees(Step::Commit, Moment::After, "intervals/_delta_log/00000000000000000001.json"));
        assert!(!sees(Step::Commit, Moment::After, "intervals/_delta_log/00000000000000000050.checkpoint.parquet"));
        assert!(sees(Step::Segment, Moment::After, "state/series-000000000001-1.zst"));
        assert!(!sees(Step::State, Moment::After, "state/series-000000000002-1.zst"));
        assert!(sees(Step::MembersFile, Moment::After, "state/members-000000000003-1.zst"));
        assert!(!sees(Step::MembersFile, Moment::After, "state/said-000000000003-1.zst"));
        assert!(sees(Step::SaidFile, Moment::During, "state/said-000000000004-1.zst#9"));
        assert!(sees(Step::FoldedFile, Moment::During, "intervals/month=2024-01/layer=old/d.parquet#56"));
        assert!(!sees(Step::FoldedFile, Moment::After, "intervals/month=2024-01/layer=base/e.parquet"));
        for (version, moment, behind) in [(2, Moment::After, ""), (3, Moment::During, "#78")] {
            let entry = |version: i32| format!("intervals/_delta_log/{version:020}.json{behind}");
            let (commit, rewrite) = (r#"{"add":{"path":"a"}}"#, "{\"remove\":{\"path\":\"a\"}}\n{\"add\":{}}");
            assert!(!sees_holding(Step::Rewrite, moment, &entry(version), commit));
            assert!(sees_holding(Step::Rewrite, moment, &entry(version + 10), rewrite));
        }
        let all = there(lake.path(), Step::Rewrite);
        assert_eq!(all.len(), 3);
        assert!(!await_gone(&all, Duration::from_millis(10)));
        fs::remove_file(&all[1]).unwrap();
        assert!(await_gone(&all, Duration::from_millis(300)));
    }
}
