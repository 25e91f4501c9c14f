//! A disk of its own for a lake, that can be filled.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Failure;
use crate::guard;
use crate::skip::Skip;

const SIZE: &str = "size=64m";

/// A small file system in memory; unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Mounts one at `folder`, which only root may do.
    pub fn mount(folder: &Path) -> Result<Disk, Skip> {
        fs::create_dir_all(folder).map_err(|error| Skip(format!("cannot make {}: {error}", folder.display())))?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(folder);
        let done = mount.output().map_err(|error| Skip(format!("cannot run mount: {error}")))?;
        if !done.status.success() {
            return Err(Skip(String::from_utf8_lossy(&done.stderr).trim().to_owned()));
        }
        guard::unmount_at_exit(folder);
        Ok(Disk { folder: folder.to_owned() })
    }

    /// Leaves no byte free.
    ///
    /// # Errors
    /// Nothing can be written to it.
    pub fn fill(&self) -> Result<(), Failure> {
        let mut ballast = fs::File::create(self.ballast()).map_err(|error| format!("filling the disk: {error}"))?;
        for block in [1 << 20, 4096, 1] {
            let zeros = vec![0; block];
            // Until it fails.
            while ballast.write_all(&zeros).is_ok() {}
        }
        Ok(())
    }

    /// Gives the space back.
    ///
    /// # Errors
    /// It was not filled.
    pub fn empty(&self) -> Result<(), Failure> {
        fs::remove_file(self.ballast()).map_err(|error| format!("emptying the disk: {error}"))
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also where a process still has a file open.
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}
