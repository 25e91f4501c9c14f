//! Reads Parquet files of a table piece by piece.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use super::LakeError;

/// How long a store that failed may take to say how large a file is; after that its failure counts as it is.
pub(super) const SIZE_LIMIT: Duration = Duration::from_secs(5);

/// One data file, read from the store as far as it is needed.
#[derive(Debug, Clone)]
pub struct FileReader {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

impl FileReader {
    pub(super) fn new(store: Arc<dyn ObjectStore>, path: Path, size: u64) -> FileReader {
        FileReader { store, path, size }
    }

    /// Path below the lake's root.
    pub fn path(&self) -> &Path {
        &self.path
    }

    // Each store has words of its own for what lies beyond the end of an object: its size tells.
    async fn failed(&self, error: object_store::Error) -> ParquetError {
        match tokio::time::timeout(SIZE_LIMIT, self.store.head(&self.path)).await {
            Ok(Ok(found)) if found.size != self.size => self.wrong_size(found.size),
            Ok(Err(gone @ object_store::Error::NotFound { .. })) => ParquetError::External(Box::new(gone)),
            _ => ParquetError::External(Box::new(error)),
        }
    }

    fn wrong_size(&self, size: u64) -> ParquetError {
        ParquetError::EOF(format!("it has {size} bytes, and {} in the log of its table", self.size))
    }
}

/// What it means that a data file at `path` (below the lake's root) could not be read, of which `wanted` was wanted:
/// the store failed, or the file is gone or damaged.
pub fn unreadable(path: &str, wanted: &str, error: ParquetError) -> LakeError {
    let damaged = |reason: String| LakeError::Unreadable { path: path.to_owned(), wanted: wanted.to_owned(), reason };
    match error {
        ParquetError::External(source) => match source.downcast::<object_store::Error>() {
            Ok(source) => match *source {
                object_store::Error::NotFound { .. } => LakeError::NotFound { path: path.to_owned() },
                source => LakeError::Store { doing: format!("reading `{path}`"), source },
            },
            Err(source) => damaged(source.to_string()),
        },
        error => damaged(error.to_string()),
    }
}

impl AsyncFileReader for FileReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        async move {
            match self.store.get_range(&self.path, range.clone()).await {
                Ok(bytes) if bytes.len() as u64 == range.end - range.start => Ok(bytes),
                // Part of what was asked for: the object ends there.
                Ok(bytes) => Err(self.wrong_size(range.start + bytes.len() as u64)),
                Err(error) => Err(self.failed(error).await),
            }
        }
        .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        async move {
            match self.store.get_ranges(&self.path, &ranges).await {
                Ok(parts) => Ok(parts),
                Err(error) => Err(self.failed(error).await),
            }
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        let size = self.size;
        async move {
            let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}
