//! An object store at which something goes wrong on purpose.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// A put that has not been done: it is, once it is awaited, by whomever.
pub type Put = BoxFuture<'static, Result<PutResult>>;

/// What goes wrong. Nothing does, unless a method says so.
#[async_trait]
pub trait Fault: fmt::Debug + Send + Sync + 'static {
    /// In place of a put.
    async fn put(&self, location: &Path, put: Put) -> Result<PutResult> {
        let _ = location;
        put.await
    }

    /// Before a get; an error is its answer.
    async fn before_get(&self, location: &Path, options: &GetOptions) -> Result<()> {
        let _ = (location, options);
        Ok(())
    }

    /// Before a delete; an error is its answer.
    async fn before_delete(&self, location: &Path) -> Result<()> {
        let _ = location;
        Ok(())
    }
}

/// A store with its fault.
#[derive(Debug)]
pub struct FaultyStore<F> {
    inner: Arc<dyn ObjectStore>,
    fault: Arc<F>,
}

impl<F: Fault> FaultyStore<F> {
    /// `inner`, with this fault.
    pub fn around(inner: Arc<dyn ObjectStore>, fault: F) -> Arc<dyn ObjectStore> {
        Arc::new(FaultyStore { inner, fault: Arc::new(fault) })
    }
}

/// The error of a request that may have been done or not.
pub fn no_answer() -> Error {
    Error::Generic { store: "faulty", source: "no answer".into() }
}

impl<F: Fault> fmt::Display for FaultyStore<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with a fault", self.inner)
    }
}

#[async_trait]
impl<F: Fault> ObjectStore for FaultyStore<F> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let (inner, at) = (Arc::clone(&self.inner), location.clone());
        let put: Put = Box::pin(async move { inner.put_opts(&at, payload, opts).await });
        self.fault.put(location, put).await
    }
    async fn put_multipart_opts(&self, at: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, opts).await
    }
    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.fault.before_get(at, &options).await?;
        self.inner.get_opts(at, options).await
    }
    fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let fault = Arc::clone(&self.fault);
        let asked = at.then(move |path| {
            let fault = Arc::clone(&fault);
            async move {
                let path = path?;
                fault.before_delete(&path).await.map(|()| path)
            }
        });
        self.inner.delete_stream(asked.boxed())
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
