//! The local file system as an object store whose writes survive a power cut.
//!
//! `object_store`'s own writes are atomic but not flushed: after a power cut a committed file may be empty. Here the
//! content is flushed before the name appears, and the directory after, with the names of the directories above it. An
//! upload in parts (a large checkpoint) is collected and written as a whole.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use super::disk::{Disk, FileSystem};

/// [`LocalFileSystem`] from `/` with durable whole-object writes.
#[derive(Debug)]
pub(super) struct DurableLocal {
    inner: LocalFileSystem,
    lasting: Arc<Lasting>,
}

impl DurableLocal {
    /// Creates the lake's directory where it is missing.
    pub(super) fn new(lake: &FilePath) -> io::Result<DurableLocal> {
        let lake = create_lake(&FileSystem, lake)?;
        if FileSystem.sync_directory(&lake).is_err_and(|e| flushes_no_names(&e)) {
            tracing::warn!(
                lake = %lake.display(),
                "the file system of the lake cannot flush directories: a power cut may take what was written last"
            );
        }
        let lasting = Lasting(Mutex::new(HashSet::from([lake])));
        Ok(DurableLocal { inner: LocalFileSystem::new(), lasting: Arc::new(lasting) })
    }
}

/// Directories whose names are known to survive a power cut. One that is there already is not: whoever made it may not
/// have flushed its name, or may have ended before that.
#[derive(Debug)]
pub(super) struct Lasting(pub(super) Mutex<HashSet<PathBuf>>);

impl Lasting {
    fn known(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a directory below the lake's where it is missing, and flushes its name and those of its parents.
    fn make(&self, disk: &impl Disk, directory: &FilePath) -> io::Result<()> {
        if self.known().contains(directory) && directory.is_dir() {
            return Ok(());
        }
        let Some(parent) = directory.parent() else { return Ok(()) };
        self.make(disk, parent)?;
        match disk.create_directory(directory) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => flush_names(disk, parent)?,
        }
        self.known().insert(directory.to_owned());
        Ok(())
    }
}

impl fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("local file system")
    }
}

fn generic(source: io::Error) -> Error {
    Error::Generic { store: "local file system", source: Box::new(source) }
}

/// A name beside `target` that listings ignore: the store hides names that end in `#` and digits. It is random, because
/// in a container the process has the same number after a crash, and the file that it left must not be in the way.
fn staging_path(target: &FilePath) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(format!("#{}", uuid::Uuid::new_v4().as_u128()));
    name.into()
}

/// Whether this is how a file system says that it cannot flush a directory at all.
fn flushes_no_names(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// Flushes the names in a directory, where its file system can: where it cannot, nothing would be gained by writing
/// nothing.
fn flush_names(disk: &impl Disk, directory: &FilePath) -> io::Result<()> {
    match disk.sync_directory(directory) {
        Err(e) if flushes_no_names(&e) => Ok(()),
        flushed => flushed,
    }
}

/// Creates the lake's directory where it is missing; its name survives a power cut.
pub(super) fn create_lake(disk: &impl Disk, lake: &FilePath) -> io::Result<PathBuf> {
    create_directories(disk, lake)?;
    let lake = lake.canonicalize()?;
    // It may be there already and its name not be flushed. A parent that we may not open or write is none that we made
    // it in.
    match lake.parent().map(|parent| flush_names(disk, parent)) {
        Some(Err(e)) if !matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            Err(e)
        }
        _ => Ok(lake),
    }
}

/// Creates missing directories, and flushes the entries of those that it created.
fn create_directories(disk: &impl Disk, directory: &FilePath) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        create_directories(disk, parent)?;
        match disk.create_directory(directory) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => flush_names(disk, parent)?,
        }
    }
    Ok(())
}

/// Once it returns, `target` and what it holds survive a power cut.
pub(super) fn write_durably(
    disk: &impl Disk,
    lasting: &Lasting,
    target: &FilePath,
    payloads: &[PutPayload],
    create_only: bool,
) -> io::Result<()> {
    let directory = target.parent().unwrap_or(FilePath::new("/"));
    lasting.make(disk, directory)?;
    let staged = staging_path(target);
    let written = disk.write_new(&staged, payloads).and_then(|file| disk.sync_file(&staged, &file));
    let result = written.and_then(|()| match create_only {
        true => disk.link(&staged, target),
        false => disk.rename(&staged, target),
    });
    if create_only || result.is_err() {
        // Best effort: a left-over staged file is invisible, and the outcome is decided already.
        let _ = disk.remove(&staged);
    }
    result?;
    flush_names(disk, directory)
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let create_only = match opts.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => return self.inner.put_opts(location, payload, opts).await,
        };
        let target = self.inner.path_to_filesystem(location)?;
        let (shown, lasting) = (location.to_string(), Arc::clone(&self.lasting));
        tokio::task::spawn_blocking(move || write_durably(&FileSystem, &lasting, &target, &[payload], create_only))
            .await
            .map_err(|source| Error::JoinError { source })?
            .map_err(|source| match source.kind() {
                io::ErrorKind::AlreadyExists if create_only => {
                    Error::AlreadyExists { path: shown, source: Box::new(source) }
                }
                _ => generic(source),
            })?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(&self, location: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let target = self.inner.path_to_filesystem(location)?;
        Ok(Box::new(Upload { target, parts: Vec::new(), lasting: Arc::clone(&self.lasting) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    // Nobody copies inside a lake; if somebody does one day, the copy is as durable as its original.
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let mode = match options.mode {
            CopyMode::Create => PutMode::Create,
            CopyMode::Overwrite => PutMode::Overwrite,
        };
        let original = self.inner.get_opts(from, GetOptions::default()).await?.bytes().await?;
        self.put_opts(to, original.into(), PutOptions { mode, ..PutOptions::default() }).await.map(|_| ())
    }
}

/// An upload in parts, in memory until it is complete.
#[derive(Debug)]
struct Upload {
    target: PathBuf,
    parts: Vec<PutPayload>,
    lasting: Arc<Lasting>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts.push(data);
        Box::pin(std::future::ready(Ok(())))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (target, parts) = (self.target.clone(), std::mem::take(&mut self.parts));
        let lasting = Arc::clone(&self.lasting);
        tokio::task::spawn_blocking(move || write_durably(&FileSystem, &lasting, &target, &parts, false))
            .await
            .map_err(|source| Error::JoinError { source })?
            .map_err(generic)?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> Result<()> {
        self.parts.clear();
        Ok(())
    }
}
