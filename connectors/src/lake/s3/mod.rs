//! A lake on S3: the store itself, and what must be true of it before anything is written.
//!
//! Commits rest on one promise: of all writers that create the same object with `If-None-Match: *`, exactly one
//! succeeds. A store that ignores the condition would let two commits overwrite each other, so each opening makes it
//! refuse one.

mod credentials;
mod explain;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use meterline_schemas::config::{S3_SCHEME, S3Config};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, RetryConfig,
};
use url::Url;

use super::LakeError;
use credentials::CredentialsFile;
use explain::Told;

/// Retries of the requests that find out, at opening, whether the store can be used: a wrong endpoint is to be told
/// soon.
const OPENING_RETRIES: usize = 2;
/// No request is sent again later than this after the first time: its signature would grow old.
const RETRIED_FOR: Duration = Duration::from_secs(180);
/// Region where nothing says another.
const REGION: &str = "us-east-1";
const REGION_VARIABLES: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];

/// What the environment may say about credentials, and nothing else: where the data goes is said by the configuration.
const CREDENTIAL_VARIABLES: [(&str, AmazonS3ConfigKey); 10] = [
    ("AWS_ACCESS_KEY_ID", AmazonS3ConfigKey::AccessKeyId),
    ("AWS_SECRET_ACCESS_KEY", AmazonS3ConfigKey::SecretAccessKey),
    ("AWS_SESSION_TOKEN", AmazonS3ConfigKey::Token),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", AmazonS3ConfigKey::WebIdentityTokenFile),
    ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
    ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
    ("AWS_ENDPOINT_URL_STS", AmazonS3ConfigKey::StsEndpoint),
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", AmazonS3ConfigKey::ContainerCredentialsRelativeUri),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", AmazonS3ConfigKey::ContainerCredentialsFullUri),
    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", AmazonS3ConfigKey::ContainerAuthorizationTokenFile),
];

/// An opened place on S3.
pub(super) struct Opened {
    /// Rooted at the bucket.
    pub(super) store: S3,
    /// The lake's place in the bucket.
    pub(super) prefix: Path,
    /// The same as a URL that ends with a slash.
    pub(super) url: Url,
}

/// Opens `s3://bucket/prefix`, and makes sure that it can be written and honours conditional writes.
pub(super) async fn open(url: &str, settings: &S3Config) -> Result<Opened, LakeError> {
    let refuse = |reason: &str| LakeError::Url { url: url.to_owned(), reason: reason.to_owned() };
    let (bucket, prefix) = url
        .strip_prefix(S3_SCHEME)
        .map(|rest| rest.split_once('/').unwrap_or((rest, "")))
        .ok_or_else(|| refuse("it does not begin with s3://"))?;
    if bucket.is_empty() || !bucket.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')) {
        return Err(refuse("it names no bucket"));
    }
    let prefix = Path::parse(prefix.trim_matches('/')).map_err(|e| refuse(&e.to_string()))?;
    let mut root = Url::parse(&format!("{S3_SCHEME}{bucket}/")).map_err(|e| refuse(&e.to_string()))?;
    root.path_segments_mut()
        .map_err(|()| refuse("it has no path"))?
        .pop_if_empty()
        .extend(prefix.parts().map(|part| part.as_ref().to_owned()))
        .push("");
    let unusable = |reason: String| LakeError::Unusable { url: url.to_owned(), reason };
    let told = Told { bucket, settings };
    let opening =
        connect(bucket, settings, settings.retries.min(OPENING_RETRIES)).map_err(|e| unusable(told.why(&e)))?;
    check(&opening, &prefix).await.map_err(|fault| unusable(told.fault(&fault)))?;
    let store = connect(bucket, settings, settings.retries).map_err(|e| unusable(told.why(&e)))?;
    Ok(Opened { store, prefix, url: root })
}

/// Why a store cannot hold a lake.
enum Fault {
    /// It failed or refused.
    Store(Error),
    /// It created an object that existed.
    Unconditional,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Store(error)
    }
}

/// Creates one object twice: the second time must be refused.
async fn check(store: &S3, prefix: &Path) -> Result<(), Fault> {
    let probe = prefix.clone().join(format!("write-check-{}", uuid::Uuid::now_v7()));
    let create = || {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        store.put_opts(&probe, PutPayload::from_static(b"meterline"), options)
    };
    match create().await {
        // Nobody else uses this name: an earlier try of the same request landed.
        Ok(_) | Err(Error::AlreadyExists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let again = create().await;
    let deleted = store.delete(&probe).await;
    match again {
        Err(Error::AlreadyExists { .. }) => Ok(deleted?),
        Ok(_) => Err(Fault::Unconditional),
        Err(error) => Err(error.into()),
    }
}

fn connect(bucket: &str, settings: &S3Config, retries: usize) -> Result<S3> {
    let client = ClientOptions::new()
        .with_connect_timeout(settings.connect_timeout.to_std())
        .with_timeout(settings.request_timeout.to_std())
        .with_allow_http(settings.may_use_http());
    let backoff = BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(region(settings))
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_virtual_hosted_style_request(settings.virtual_hosted_style)
        .with_client_options(client)
        .with_retry(RetryConfig { backoff, max_retries: retries, retry_timeout: RETRIED_FOR });
    if let Some(endpoint) = &settings.endpoint {
        let endpoint = if settings.virtual_hosted_style { with_bucket(endpoint, bucket) } else { endpoint.clone() };
        builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
    }
    if let Some(path) = &settings.credentials_file {
        builder = builder.with_credentials(Arc::new(CredentialsFile::open(path, &settings.profile)?));
    } else {
        for (variable, key) in CREDENTIAL_VARIABLES {
            if let Some(value) = variable_of(variable) {
                builder = builder.with_config(key, value);
            }
        }
    }
    Ok(S3 { inner: builder.build()? })
}

/// The endpoint whose host begins with the bucket's name.
fn with_bucket(endpoint: &str, bucket: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) if !host.starts_with(&format!("{bucket}.")) => format!("{scheme}://{bucket}.{host}"),
        _ => endpoint.to_owned(),
    }
}

fn region(settings: &S3Config) -> String {
    let named = settings.region.clone().or_else(|| REGION_VARIABLES.into_iter().find_map(variable_of));
    named.unwrap_or_else(|| REGION.to_owned())
}

fn variable_of(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The store, which says no more of itself than its bucket: everything that holds a lake can be printed.
pub(super) struct S3 {
    inner: AmazonS3,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3({})", self.inner)
    }
}

impl fmt::Display for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for S3 {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, at: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, opts).await
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

    // The store itself begins at the offset; the default would list everything.
    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
