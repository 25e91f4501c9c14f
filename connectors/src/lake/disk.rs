//! What a durable write does to a file system, step by step.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use object_store::PutPayload;

/// The steps. Each is done when it returns; which of them survive a power cut is another matter.
pub(super) trait Disk {
    /// Makes a directory. Its name lasts once its parent was flushed.
    fn create_directory(&self, directory: &Path) -> io::Result<()>;
    /// Writes a new file. What it holds lasts once it was flushed, its name once its directory was.
    fn write_new(&self, file: &Path, payloads: &[PutPayload]) -> io::Result<File>;
    /// Flushes what the file `open`, which has the name `file`, holds.
    fn sync_file(&self, file: &Path, open: &File) -> io::Result<()>;
    /// Gives a file a second name, which must be new.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file another name, which may be that of another file.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Takes a name away.
    fn remove(&self, file: &Path) -> io::Result<()>;
    /// Flushes the names in a directory.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
}

/// That of the operating system.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileSystem;

impl Disk for FileSystem {
    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir(directory)
    }

    fn write_new(&self, file: &Path, payloads: &[PutPayload]) -> io::Result<File> {
        let mut file = File::create_new(file)?;
        payloads.iter().flatten().try_for_each(|part| file.write_all(part))?;
        Ok(file)
    }

    // By the handle that wrote it: another one need not be told what failed before it was opened.
    fn sync_file(&self, _: &Path, open: &File) -> io::Result<()> {
        open.sync_all()
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        fs::remove_file(file)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::{BTreeSet, HashSet};
    use std::path::PathBuf;
    use std::sync::Mutex;

    use super::super::store::{Lasting, create_lake, write_durably};
    use super::*;

    /// The file system, and what of it a power cut would leave at worst: only the names that were flushed.
    struct Watched {
        lasting: RefCell<BTreeSet<PathBuf>>,
        // What must be there at the end, looked for after every step: a name that lasts before the content does is a
        // fault.
        full: RefCell<BTreeSet<PathBuf>>,
        steps: RefCell<Vec<String>>,
    }

    impl Watched {
        fn step(&self, what: &str, path: &Path) {
            let name = path.file_name().unwrap().to_string_lossy();
            // Staged names are random.
            self.steps.borrow_mut().push(format!("{what} {}", name.split('#').next().unwrap()));
        }

        /// Whether a file would still be found, below `root`.
        fn survives(&self, root: &Path, file: &Path) -> bool {
            let mut above = file.ancestors().take_while(|path| *path != root);
            above.all(|path| self.lasting.borrow().contains(path))
        }
    }

    impl Disk for Watched {
        fn create_directory(&self, directory: &Path) -> io::Result<()> {
            self.step("directory", directory);
            FileSystem.create_directory(directory)
        }
        fn write_new(&self, file: &Path, payloads: &[PutPayload]) -> io::Result<File> {
            self.step("write", file);
            FileSystem.write_new(file, payloads)
        }
        fn sync_file(&self, file: &Path, open: &File) -> io::Result<()> {
            self.step("flush", file);
            self.full.borrow_mut().insert(file.to_owned());
            FileSystem.sync_file(file, open)
        }
        fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.step("name", to);
            assert!(self.full.borrow().contains(from), "a name for what is not flushed");
            FileSystem.link(from, to)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.step("name", to);
            assert!(self.full.borrow().contains(from), "a name for what is not flushed");
            FileSystem.rename(from, to)
        }
        fn remove(&self, file: &Path) -> io::Result<()> {
            self.lasting.borrow_mut().remove(file);
            FileSystem.remove(file)
        }
        fn sync_directory(&self, directory: &Path) -> io::Result<()> {
            self.step("flush", directory);
            for entry in fs::read_dir(directory)? {
                self.lasting.borrow_mut().insert(entry?.path());
            }
            FileSystem.sync_directory(directory)
        }
    }

    #[test]
    fn what_was_written_survives_a_power_cut_with_all_the_directories_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("lake");
        fs::create_dir(&root).unwrap();
        let disk = Watched { lasting: RefCell::default(), full: RefCell::default(), steps: RefCell::default() };
        let lasting = Lasting(Mutex::new(HashSet::from([root.clone()])));
        // A new month, the same month again, and a directory that a process made which died before it flushed the name.
        fs::create_dir_all(root.join("intervals/month=2024-02")).unwrap();
        for (path, create_only) in [
            ("intervals/month=2024-01/layer=base/a.parquet", false),
            ("intervals/month=2024-01/layer=base/b.parquet", false),
            ("intervals/month=2024-02/layer=rev/c.parquet", false),
            ("state/ingest-1.zst", false),
            ("intervals/_delta_log/00000000000000000001.json", true),
        ] {
            let target = root.join(path);
            write_durably(&disk, &lasting, &target, &["content".into()], create_only).unwrap();
            assert!(disk.survives(&root, &target), "{path}: {:?}", disk.steps.borrow());
            assert_eq!(fs::read(&target).unwrap(), b"content");
        }
        let steps = disk.steps.borrow().join(", ");
        let first = "directory intervals, flush lake, directory month=2024-01, flush intervals, directory layer=base, \
                     flush month=2024-01, write a.parquet, flush a.parquet, name a.parquet, flush layer=base, \
                     write b.parquet, ";
        assert!(steps.starts_with(first), "{steps}");
        // One of two writers of a version loses, and leaves nothing behind.
        let version = root.join("intervals/_delta_log/00000000000000000001.json");
        let lost = write_durably(&disk, &lasting, &version, &["other".into()], true).unwrap_err();
        assert_eq!(lost.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_dir(version.parent().unwrap()).unwrap().count(), 1);
    }

    /// A file system that answers so when a directory is to be flushed.
    struct FlushesNot(io::ErrorKind);

    impl Disk for FlushesNot {
        fn create_directory(&self, directory: &Path) -> io::Result<()> {
            FileSystem.create_directory(directory)
        }
        fn write_new(&self, file: &Path, payloads: &[PutPayload]) -> io::Result<File> {
            FileSystem.write_new(file, payloads)
        }
        fn sync_file(&self, file: &Path, open: &File) -> io::Result<()> {
            FileSystem.sync_file(file, open)
        }
        fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
            FileSystem.link(from, to)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            FileSystem.rename(from, to)
        }
        fn remove(&self, file: &Path) -> io::Result<()> {
            FileSystem.remove(file)
        }
        fn sync_directory(&self, _: &Path) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_file_system_that_cannot_flush_directories_is_written_all_the_same_and_one_that_fails_is_not() {
        use io::ErrorKind::{InvalidInput, Other, PermissionDenied, ReadOnlyFilesystem, Unsupported};
        // What a flush answers, and whether a lake can be made there, be there already, and be written.
        for (kind, made, opened, written) in [
            (InvalidInput, true, true, true),
            (Unsupported, true, true, true),
            // What is above a lake need not be ours.
            (PermissionDenied, false, true, false),
            (ReadOnlyFilesystem, false, true, false),
            (Other, false, false, false),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (disk, there) = (FlushesNot(kind), dir.path().join("there"));
            assert_eq!(create_lake(&disk, &dir.path().join("new")).is_ok(), made, "{kind:?}");
            fs::create_dir(&there).unwrap();
            assert_eq!(create_lake(&disk, &there).is_ok(), opened, "{kind:?}");
            let lasting = Lasting(Mutex::new(HashSet::from([there.clone()])));
            let target = there.join("intervals/a.parquet");
            let done = write_durably(&disk, &lasting, &target, &["content".into()], false);
            assert_eq!(done.is_ok(), written, "{kind:?}");
        }
    }
}
