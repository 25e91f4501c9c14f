//! The lake: Delta tables and plain objects on an object store.
//!
//! * [`Lake`] opens the store, a directory or a place on S3; local writes survive a power cut;
//! * [`TableDefinition`] says what a table is; [`TableOwner`] makes all commits of one table, behind a fence;
//! * [`snapshot`] says what one version of a table consists of, for readers;
//! * [`DataFile`] is one Parquet file with its exact statistics;
//! * [`SortedMerge`] reads files as one sorted stream, [`RollingWriter`] writes one as files of a certain size, and a
//!   [`Rewrite`] puts the new files in the place of the old ones;
//! * [`expired_log`] and [`unnamed_files`] find what nobody needs any more.
//!
//! Only Meterline may compact or rewrite these tables; everybody may read them.

mod columns;
mod disk;
mod evolve;
mod files;
mod merge;
mod owner;
mod pieces;
mod protocol;
#[cfg(test)]
mod protocol_tests;
mod reader;
mod rewrite;
mod rolling;
mod s3;
#[cfg(test)]
mod s3_tests;
mod snapshot;
mod statistics;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod vacuum;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use meterline_schemas::config::LakeConfig;
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use url::Url;

pub use columns::by_name;
pub use files::{Bound, DataFile, FileSet, Partition};
pub use merge::SortedMerge;
pub use owner::{CommitError, Fence, TableOwner};
pub use reader::{FileReader, unreadable};
pub use rewrite::{Rewrite, Rewritten};
pub use rolling::RollingWriter;
pub use snapshot::{TableSnapshot, snapshot};
pub use table::TableDefinition;
pub use vacuum::{REMEMBERED_MS, Unneeded, delete, expired_log, stored_files, unnamed_files};

/// Why the lake could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    /// The URL or directory is none that we can use.
    #[error("lake.url `{url}` cannot be used: {reason}; use a directory, a file:// URL or s3://bucket/prefix")]
    Url {
        /// As configured.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The lake's directory cannot be written.
    #[error("lake `{url}` cannot be written: {source}; check that the path, its permissions and free space fit")]
    NotWritable {
        /// As configured.
        url: String,
        /// The store's answer.
        source: object_store::Error,
    },
    /// The store on S3 is not one that a lake can be kept on, or not with these settings.
    #[error("lake `{url}` cannot be used: {reason}")]
    Unusable {
        /// As configured.
        url: String,
        /// What is wrong, with the remedy.
        reason: String,
    },
    /// There is no such object.
    #[error("lake has no object `{path}`; if it should be there, restore it from a backup")]
    NotFound {
        /// Below the lake's root.
        path: String,
    },
    /// The store failed.
    #[error("{doing} in the lake: {source}")]
    Store {
        /// What was being done, with which object.
        doing: String,
        /// The store's answer.
        source: object_store::Error,
    },
    /// A Delta table could not be read or changed.
    #[error("{doing} the Delta table `{table}`: {source}")]
    Delta {
        /// What was being done.
        doing: &'static str,
        /// The table.
        table: String,
        /// The library's answer.
        source: Box<deltalake_core::DeltaTableError>,
    },
    /// A table was made by an earlier version of the program, without columns that every row must have.
    #[error(
        "the table `{table}` was made by an earlier version of the program and has no column {columns}: use the version that made it, or give `lake.url` a new place and read the topics again"
    )]
    Outdated {
        /// The table.
        table: String,
        /// The columns that it does not have.
        columns: String,
    },
    /// A data file does not hold what was written.
    #[error(
        "`{path}` cannot be read, of which {wanted} was wanted: {reason}; restore the file from a backup of the lake"
    )]
    Unreadable {
        /// Below the lake's root.
        path: String,
        /// What was wanted of it.
        wanted: String,
        /// What is wrong.
        reason: String,
    },
    /// The rows of a data file do not have the order that merging needs.
    #[error(
        "`{path}` is not sorted by {by}, so it is not written by Meterline; it is read like any other, but neither merged nor \
         folded"
    )]
    NotSorted {
        /// Below the lake's root.
        path: String,
        /// The columns.
        by: String,
    },
    /// Rows could not become a Parquet file.
    #[error("writing rows of table `{table}` as Parquet: {reason}")]
    Encode {
        /// The table.
        table: String,
        /// What is wrong.
        reason: String,
    },
}

impl LakeError {
    /// Whether it may pass, by itself or once somebody has mended the store: then it is worth trying again.
    pub fn may_pass(&self) -> bool {
        match self {
            LakeError::NotWritable { .. } | LakeError::Store { .. } | LakeError::Delta { .. } => true,
            LakeError::Url { .. }
            | LakeError::Unusable { .. }
            | LakeError::NotFound { .. }
            | LakeError::Outdated { .. }
            | LakeError::Unreadable { .. }
            | LakeError::NotSorted { .. }
            | LakeError::Encode { .. } => false,
        }
    }

    /// The data file that is the reason, below the lake's root, where it is one.
    pub fn file(&self) -> Option<&str> {
        match self {
            LakeError::NotFound { path } | LakeError::Unreadable { path, .. } | LakeError::NotSorted { path, .. } => {
                Some(path)
            }
            _ => None,
        }
    }
}

/// An opened lake; cheap to clone.
#[derive(Debug, Clone)]
pub struct Lake {
    // The whole store, and the lake's place in it: the Delta library wants both.
    root: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    // Ends with a slash.
    root_url: Url,
    local_dir: Option<PathBuf>,
    lock_dir: PathBuf,
    shown: Arc<str>,
}

impl Lake {
    /// Opens a directory or `file://` URL, creating it, and checks that it can be written; on S3, with default
    /// settings.
    ///
    /// # Errors
    ///
    /// As [`Lake::configured`].
    pub async fn open(url: &str) -> Result<Lake, LakeError> {
        Lake::configured(&LakeConfig { url: url.to_owned(), ..LakeConfig::default() }).await
    }

    /// Opens the lake of a configuration, creating its directory where it is local, and checks that it can be written.
    /// On S3 this needs a runtime of several threads: the Delta library reads in a short-lived one of its own where
    /// there is none, and connections would end with it.
    ///
    /// # Errors
    ///
    /// [`LakeError::Url`], [`LakeError::NotWritable`] or [`LakeError::Unusable`], with the place and the remedy.
    pub async fn configured(config: &LakeConfig) -> Result<Lake, LakeError> {
        let url = config.url.as_str();
        if !config.is_s3() {
            return Lake::local(url).await;
        }
        let s3::Opened { store, prefix, url: root_url } = s3::open(url, &config.s3).await?;
        Ok(Lake {
            root: Arc::new(store),
            prefix,
            root_url,
            local_dir: None,
            lock_dir: std::env::temp_dir().join("meterline-locks").join(file_name(url)),
            shown: url.into(),
        })
    }

    async fn local(url: &str) -> Result<Lake, LakeError> {
        let refuse = |reason: String| LakeError::Url { url: url.to_owned(), reason };
        let directory = match url.split_once("://") {
            Some(("file", path)) if path.starts_with('/') => PathBuf::from(path),
            Some(("file", _)) => return Err(refuse("a file:// URL needs an absolute path".into())),
            Some((scheme, _)) => return Err(refuse(format!("{scheme}:// stores are not supported"))),
            None if url.trim().is_empty() => return Err(refuse("it is empty".into())),
            None => std::env::current_dir().map_err(|e| refuse(e.to_string()))?.join(url),
        };
        let not_writable = |source: std::io::Error| LakeError::NotWritable {
            url: url.to_owned(),
            source: object_store::Error::Generic { store: "local", source: Box::new(source) },
        };
        let store = store::DurableLocal::new(&directory).map_err(not_writable)?;
        let directory = directory.canonicalize().map_err(not_writable)?;
        let prefix = ObjectPath::from_absolute_path(&directory).map_err(|e| refuse(e.to_string()))?;
        let root_url = Url::from_directory_path(&directory).map_err(|()| refuse("it is no absolute path".into()))?;
        let lake = Lake {
            root: Arc::new(store),
            prefix,
            root_url,
            lock_dir: directory.clone(),
            local_dir: Some(directory),
            shown: url.into(),
        };
        lake.check_writable().await?;
        Ok(lake)
    }

    /// The same lake through another store with the same root; for injecting faults.
    pub fn with_root_store(&self, wrap: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Lake {
        Lake { root: wrap(Arc::clone(&self.root)), ..self.clone() }
    }

    /// The store, rooted at the lake.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::new(PrefixStore::new(Arc::clone(&self.root), self.prefix.clone()))
    }

    /// The lake as it was configured.
    pub fn url(&self) -> &str {
        &self.shown
    }

    /// The lake's directory, where it is local.
    pub fn local_dir(&self) -> Option<&Path> {
        self.local_dir.as_deref()
    }

    /// Opens a data file of a table.
    pub fn data_file(&self, table: &str, file: &DataFile) -> FileReader {
        FileReader::new(self.store(), Lake::data_path(table, file), file.size)
    }

    /// Where a data file of a table is, below the lake's root.
    pub fn data_path(table: &str, file: &DataFile) -> ObjectPath {
        file.path.split('/').fold(ObjectPath::from(table), |path, segment| path.join(segment))
    }

    async fn put_data_file(&self, table: &str, file: DataFile, payload: PutPayload) -> Result<DataFile, LakeError> {
        let path = Lake::data_path(table, &file);
        match self.store().put(&path, payload).await {
            Ok(_) => Ok(file),
            Err(source) => Err(LakeError::Store { doing: format!("writing `{path}`"), source }),
        }
    }

    /// Where processes of this machine that work on the lake keep the locks between them: the lake's directory, else
    /// one that [`Lake::keep_locks_in`] names.
    pub fn lock_dir(&self) -> &Path {
        &self.lock_dir
    }

    /// Names the directory for locks of a lake that is not local: the processes of a machine must agree about it.
    pub fn keep_locks_in(&mut self, directory: PathBuf) {
        if self.local_dir.is_none() {
            self.lock_dir = directory;
        }
    }

    /// Writes an object whole; once this returns, it survives a power cut.
    ///
    /// # Errors
    ///
    /// [`LakeError::Store`] with the object's path.
    pub async fn put_object(&self, path: &str, content: impl Into<PutPayload>) -> Result<(), LakeError> {
        self.store()
            .put(&ObjectPath::from(path), content.into())
            .await
            .map(|_| ())
            .map_err(|source| LakeError::Store { doing: format!("writing `{path}`"), source })
    }

    /// Reads an object whole.
    ///
    /// # Errors
    ///
    /// [`LakeError::NotFound`] or [`LakeError::Store`].
    pub async fn get_object(&self, path: &str) -> Result<Bytes, LakeError> {
        let failed = |source| match source {
            object_store::Error::NotFound { .. } => LakeError::NotFound { path: path.to_owned() },
            source => LakeError::Store { doing: format!("reading `{path}`"), source },
        };
        let answer = self.store().get(&ObjectPath::from(path)).await.map_err(failed)?;
        answer.bytes().await.map_err(failed)
    }

    /// Reads part of an object.
    ///
    /// # Errors
    ///
    /// Those of [`Lake::get_object`]; [`LakeError::Unreadable`] where the object ends before that part does.
    pub async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, LakeError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (store, at) = (self.store(), ObjectPath::from(path));
        let cut_off = |size: u64| LakeError::Unreadable {
            path: path.to_owned(),
            wanted: format!("bytes {} to {}", range.start, range.end),
            reason: format!("it has {size} bytes"),
        };
        match store.get_range(&at, range.clone()).await {
            Ok(bytes) if bytes.len() as u64 == range.end - range.start => Ok(bytes),
            // Part of what was asked for: the object ends there.
            Ok(bytes) => Err(cut_off(range.start + bytes.len() as u64)),
            Err(object_store::Error::NotFound { .. }) => Err(LakeError::NotFound { path: path.to_owned() }),
            // Each store has words of its own for what lies beyond the end of an object: its size tells.
            Err(source) => match tokio::time::timeout(reader::SIZE_LIMIT, store.head(&at)).await {
                Ok(Ok(found)) if found.size < range.end => Err(cut_off(found.size)),
                _ => Err(LakeError::Store { doing: format!("reading `{path}`"), source }),
            },
        }
    }

    /// Paths of all objects below `prefix`, in order.
    ///
    /// # Errors
    ///
    /// [`LakeError::Store`].
    pub async fn list_objects(&self, prefix: &str) -> Result<Vec<String>, LakeError> {
        use futures::TryStreamExt;
        let mut paths: Vec<String> = self
            .store()
            .list(Some(&ObjectPath::from(prefix)))
            .map_ok(|meta| meta.location.to_string())
            .try_collect()
            .await
            .map_err(|source| LakeError::Store { doing: format!("listing `{prefix}`"), source })?;
        paths.sort();
        Ok(paths)
    }

    /// Deletes an object; one that is gone already is no error.
    ///
    /// # Errors
    ///
    /// [`LakeError::Store`].
    pub async fn delete_object(&self, path: &str) -> Result<(), LakeError> {
        match self.store().delete(&ObjectPath::from(path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(LakeError::Store { doing: format!("deleting `{path}`"), source }),
        }
    }

    async fn check_writable(&self) -> Result<(), LakeError> {
        let path = ObjectPath::from(format!("write-check-{}", uuid::Uuid::now_v7()));
        let store = self.store();
        let check = async {
            store.put(&path, Bytes::from_static(b"meterline").into()).await?;
            store.delete(&path).await
        };
        check.await.map_err(|source| LakeError::NotWritable { url: self.shown.to_string(), source })
    }

    fn table_url(&self, table: &str) -> Result<Url, LakeError> {
        self.root_url
            .join(&format!("{table}/"))
            .map_err(|e| LakeError::Url { url: self.shown.to_string(), reason: e.to_string() })
    }

    fn log_store(&self, table: &str) -> Result<deltalake_core::logstore::LogStoreRef, LakeError> {
        let prefixed = PrefixStore::new(Arc::clone(&self.root), self.prefix.clone().join(table));
        Ok(deltalake_core::logstore::default_logstore(
            Arc::new(prefixed),
            Arc::clone(&self.root),
            &self.table_url(table)?,
            &deltalake_core::logstore::StorageConfig::default(),
        ))
    }
}

/// A URL as the name of a file or directory.
fn file_name(url: &str) -> String {
    url.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '_' }).collect()
}
