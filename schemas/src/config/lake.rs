//! `[lake]` and `[lake.s3]`: where tables, models and the state of the stream are kept.

use serde::{Deserialize, Serialize};

use super::is_this_machine;
use super::load::{Refusal, refusal};
use crate::time::{MINUTE, SECOND, Span};

/// What the URL of a lake on S3 begins with.
pub const S3_SCHEME: &str = "s3://";

/// `[lake]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LakeConfig {
    /// A directory (a relative one is below the working directory), a URL of one (`file:///var/lib/meterline`), or a
    /// place on S3 (`s3://bucket/prefix`; the bucket must exist). Default `meterline-data`.
    pub url: String,
    /// How a lake on S3 is reached.
    pub s3: S3Config,
}

impl Default for LakeConfig {
    fn default() -> Self {
        LakeConfig { url: "meterline-data".into(), s3: S3Config::default() }
    }
}

impl LakeConfig {
    /// Whether the lake is on S3.
    pub fn is_s3(&self) -> bool {
        self.url.starts_with(S3_SCHEME)
    }
}

/// `[lake.s3]`: how a lake at `s3://bucket/prefix` is reached. The store must honour conditional writes
/// (`If-None-Match`), as AWS does; one that does not is refused.
///
/// Secrets are no part of the configuration. Credentials come from `credentials_file`, else from the environment
/// (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`), else from a web identity
/// (`AWS_WEB_IDENTITY_TOKEN_FILE` and `AWS_ROLE_ARN`), else from the container or the machine that this runs on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3Config {
    /// `https://host:port` of the store, without the bucket. Default: AWS, in `region`.
    pub endpoint: Option<String>,
    /// Region of the bucket. Default: `AWS_REGION` or `AWS_DEFAULT_REGION` of the environment, else `us-east-1`.
    pub region: Option<String>,
    /// Whether an endpoint of plain `http://` on another machine may be used: rows and state travel unencrypted then.
    /// One on this machine always may. Default false.
    pub allow_http: bool,
    /// Whether the bucket is a part of the host's name (`bucket.host`) instead of the path. Default false.
    pub virtual_hosted_style: bool,
    /// File with `aws_access_key_id`, `aws_secret_access_key` and, if there is one, `aws_session_token`, in the form of
    /// `~/.aws/credentials`. It is read again every minute. Default none.
    pub credentials_file: Option<String>,
    /// Section of `credentials_file`. Default `default`.
    pub profile: String,
    /// Longest time to connect. Default `5s`.
    pub connect_timeout: Span,
    /// Longest time of one request, from the connection to the last byte; it must do for the largest file. Default
    /// `1m`.
    pub request_timeout: Span,
    /// How often a request is sent again before its failure counts, with longer and longer pauses. The stream itself
    /// goes on trying after that. Default 5.
    pub retries: usize,
}

impl Default for S3Config {
    fn default() -> Self {
        S3Config {
            endpoint: None,
            region: None,
            allow_http: false,
            virtual_hosted_style: false,
            credentials_file: None,
            profile: "default".into(),
            connect_timeout: Span(5 * SECOND),
            request_timeout: Span(MINUTE),
            retries: 5,
        }
    }
}

impl S3Config {
    /// Whether requests may go unencrypted: where that was asked for, or where they do not leave this machine.
    pub fn may_use_http(&self) -> bool {
        self.allow_http || self.endpoint.as_deref().is_some_and(|endpoint| host(endpoint).is_some_and(is_this_machine))
    }
}

/// Host and port of a URL.
fn authority(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    rest.split(['/', '?', '#']).next()
}

/// Host of a URL.
fn host(url: &str) -> Option<&str> {
    let authority = authority(url)?;
    Some(match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    })
}

/// What is wrong with `[lake]`, if anything; `metadata` is whether `[metadata]` says where it is.
pub(super) fn check(lake: &LakeConfig, metadata: bool) -> Result<(), Refusal> {
    if !lake.is_s3() {
        return Ok(());
    }
    if authority(&lake.url).is_some_and(|bucket| bucket.contains('@')) {
        return refusal(
            "lake.url",
            "lake.url has something before an @: credentials do not belong there".into(),
            "write s3://bucket/prefix, and see lake.s3.credentials_file",
        );
    }
    if !metadata {
        return refusal(
            "lake.url",
            format!("the lake {} is not on this machine, where runs, registry and decisions are recorded", lake.url),
            "say where: [metadata] url = \"sqlite:/var/lib/meterline/metadata.db\"",
        );
    }
    let s3 = &lake.s3;
    if let Some(endpoint) = s3.endpoint.as_deref() {
        let named = authority(endpoint).filter(|host| !host.is_empty());
        if named.is_none() || !(endpoint.starts_with("https://") || endpoint.starts_with("http://")) {
            return refusal(
                "lake.s3.endpoint",
                format!("lake.s3.endpoint `{endpoint}` is no URL of a store"),
                "write it like https://host:port",
            );
        }
        if named.is_some_and(|host| host.contains('@')) {
            return refusal(
                "lake.s3.endpoint",
                "lake.s3.endpoint has something before an @: credentials do not belong there".into(),
                "write it like https://host:port, and see lake.s3.credentials_file",
            );
        }
        if endpoint.starts_with("http://") && !s3.may_use_http() {
            return refusal(
                "lake.s3.endpoint",
                format!("lake.s3.endpoint `{endpoint}` is on another machine, and not encrypted"),
                "use https://, or set lake.s3.allow_http = true in a network that you trust",
            );
        }
    }
    for (key, span) in
        [("lake.s3.connect_timeout", s3.connect_timeout), ("lake.s3.request_timeout", s3.request_timeout)]
    {
        if span.micros() < 1_000 {
            return refusal(key, format!("{key} is below 1ms"), "use some seconds, or leave it out");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn what_cannot_work_or_would_not_be_safe_is_refused_with_the_remedy() {
        let metadata = "[metadata]\nurl = \"sqlite:m.db\"\n";
        let lake = format!("{metadata}[lake]\nurl = \"s3://b/p\"\n[lake.s3]\n");
        for (text, line, words) in [
            ("[lake]\nurl = \"s3://b/p\"\n".to_owned(), 2, "[metadata] url = \"sqlite:"),
            (format!("{metadata}[lake]\nurl = \"s3://key:secret@b/p\"\n"), 4, "lake.s3.credentials_file"),
            (format!("{lake}endpoint = \"http://storage.lan:9000\"\n"), 6, "allow_http = true"),
            (format!("{lake}endpoint = \"http://key:secret@127.0.0.1\"\n"), 6, "before an @"),
            (format!("{lake}endpoint = \"storage.lan\"\n"), 6, "https://host:port"),
            (format!("{lake}request_timeout = \"0s\"\n"), 6, "lake.s3.request_timeout is below"),
            (format!("{lake}secret_access_key = \"x\"\n"), 6, "unknown field `secret_access_key`"),
        ] {
            let error = parse(&text).unwrap_err();
            assert_eq!(error.line, Some(line), "{error}");
            assert!(error.to_string().contains(words) && !error.to_string().contains("key:secret"), "{error}");
        }
    }

    #[test]
    fn only_this_machine_is_spoken_to_without_encryption() {
        for (endpoint, may) in [
            ("http://127.0.0.1:9000", true),
            ("http://localhost", true),
            ("http://[::1]:9000/", true),
            ("http://127.0.0.1.example.org", false),
            ("http://10.0.0.1:9000", false),
            ("http://localhost.example.org", false),
        ] {
            let s3 = S3Config { endpoint: Some(endpoint.into()), ..S3Config::default() };
            assert_eq!(s3.may_use_http(), may, "{endpoint}");
            assert!(S3Config { allow_http: true, ..s3 }.may_use_http());
        }
    }
}
