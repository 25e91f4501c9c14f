//! Gives housekeeping something to delete. It deletes nothing that is less than an hour old, and a run takes a minute:
//! so files are made to look old, behind the engine's back.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Failure;
use super::cell::Step;
use super::sight;
use crate::wait;

/// Longer than anything is kept that is not needed.
const AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// As many as some crashes would leave: deleting them takes a while.
const LEFT_OVERS: usize = 100;

/// Lets the next round of housekeeping delete files of `step`; they are among those that are returned.
///
/// # Errors
/// Within `limit` there are none that it could delete.
pub fn expire(lake: &Path, step: Step, limit: Duration) -> Result<Vec<PathBuf>, Failure> {
    // The log goes up to a checkpoint, and a left-over is a copy of any file.
    let origin = if step == Step::ExpiredLog { Step::Checkpoint } else { Step::IntervalFile };
    let found = wait::found(limit, || sight::there(lake, origin).pop());
    let found = found.ok_or_else(|| format!("within {limit:?} there was nothing that could be deleted soon"))?;
    let failed = |error: io::Error| format!("making files of the lake old: {error}");
    if step == Step::LeftOver {
        leave_over(&found).map_err(failed)?;
    }
    let files = sight::there(lake, step);
    let long_ago = SystemTime::now() - AGE;
    let old = |file: &PathBuf| File::options().append(true).open(file)?.set_modified(long_ago);
    files.iter().try_for_each(old).map_err(failed)?;
    Ok(files)
}

fn leave_over(file: &Path) -> io::Result<()> {
    let copies = (0..LEFT_OVERS).map(|number| file.with_file_name(format!("left-over-{number}.parquet")));
    copies.map(|copy| fs::copy(file, copy)).try_for_each(|copied| copied.map(|_| ()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_deleted_looks_old_and_nothing_else_does() {
        let lake = tempfile::tempdir().unwrap();
        let is_old = |path: &Path| fs::metadata(path).unwrap().modified().unwrap() < SystemTime::now() - AGE / 2;
        let inside = |name: &str| {
            let path = lake.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "rows").unwrap();
            path
        };
        let expire = |step| expire(lake.path(), step, Duration::from_millis(1));
        let entry = inside("intervals/_delta_log/00000000000000000049.json");
        let file = inside("intervals/month=2024-01/layer=base/a.parquet");
        assert!(expire(Step::ExpiredLog).is_err());
        let checkpoint = inside("intervals/_delta_log/00000000000000000050.checkpoint.parquet");
        assert_eq!(expire(Step::ExpiredLog).unwrap(), std::slice::from_ref(&entry));
        assert!(is_old(&entry) && !is_old(&checkpoint));
        let left_over = expire(Step::LeftOver).unwrap();
        assert_eq!(left_over.len(), LEFT_OVERS);
        assert!(left_over.iter().all(|copy| is_old(copy) && fs::read(copy).unwrap() == b"rows"));
        assert!(!is_old(&file));
    }
}
