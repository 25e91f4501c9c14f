//! A clock that jumps: the engine sees the time of day through `libfaketime`, which reads how far it is off from a
//! file.

use std::fs;
use std::path::{Path, PathBuf};

use super::Failure;
use crate::skip::Skip;

/// Where Debian's package `libfaketime` puts it.
const FOLDERS: [&str; 3] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"];

/// The clock of one deployment.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// A clock that is right, with its file in `folder`.
    pub fn new(folder: &Path) -> Result<Clock, Skip> {
        // The one for several threads.
        let library = |folder: &str| Path::new(folder).join("faketime/libfaketimeMT.so.1");
        let library = FOLDERS.into_iter().map(library).find(|path| path.exists());
        let library = library.ok_or_else(|| Skip("libfaketime is not installed (Debian: faketime)".into()))?;
        let clock = Clock { library, offset: folder.join("clock") };
        clock.jump("+0").map_err(Skip)?;
        Ok(clock)
    }

    /// From now on it is off by `offset`: `+1d`, `-3h`, `+0`.
    ///
    /// # Errors
    /// Its file cannot be written.
    pub fn jump(&self, offset: &str) -> Result<(), Failure> {
        // Renamed into its place: a reader sees the one or the other.
        let new = self.offset.with_extension("new");
        let set = fs::write(&new, offset).and_then(|()| fs::rename(&new, &self.offset));
        set.map_err(|error| format!("setting the clock: {error}"))
    }

    /// What makes a process see it. Monotonic clocks go on as they are.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let shown = |path: &Path| path.display().to_string();
        vec![
            ("LD_PRELOAD", shown(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", shown(&self.offset)),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("NO_FAKE_STAT", "1".into()),
        ]
    }
}
