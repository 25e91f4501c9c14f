//! What a store's refusal means, and what to do about it.

use std::error::Error as _;

use meterline_schemas::config::S3Config;
use meterline_schemas::time::{SECOND, format_micros};
use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

use super::{Fault, region, variable_of};

/// Address of the service that gives a machine in AWS its credentials; it is asked where nothing else says any.
const MACHINE_CREDENTIALS: &str = "169.254.169.254";

/// What is told about a store that cannot be used.
pub(super) struct Told<'a> {
    pub(super) bucket: &'a str,
    pub(super) settings: &'a S3Config,
}

impl Told<'_> {
    /// What is wrong, with the remedy.
    pub(super) fn fault(&self, fault: &Fault) -> String {
        match fault {
            Fault::Store(error) => self.why(error),
            Fault::Unconditional => format!(
                "{} does not honour If-None-Match: it wrote an object again that existed, so two commits could overwrite \
                 each other; use a store with conditional writes",
                self.place()
            ),
        }
    }

    /// What an error means, with the remedy. Only an error that is not understood is quoted.
    pub(super) fn why(&self, error: &Error) -> String {
        let text = chain(error);
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let place = self.place();
        if text.contains(MACHINE_CREDENTIALS) {
            return "there are no credentials; name a lake.s3.credentials_file, or set AWS_ACCESS_KEY_ID and \
                    AWS_SECRET_ACCESS_KEY"
                .to_owned();
        }
        if let (true, Some(cause)) = (says(&["lake.s3.credentials_file"]), error.source()) {
            return cause.to_string();
        }
        if says(&["NoSuchBucket"]) {
            return format!("there is no bucket `{}` at {place}; create it, or correct lake.url", self.bucket);
        }
        if says(&["InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "AuthorizationHeader"])
        {
            return format!(
                "{place} does not accept the credentials from {} for region `{}`; correct them, or lake.s3.region",
                self.credentials(),
                region(self.settings)
            );
        }
        if says(&["RequestTimeTooSkewed"]) {
            return format!(
                "{place} refuses requests that are signed at {}: its clock differs from this machine's by more than it allows \
                 (mostly 15 minutes); set this machine's clock right, or the store's",
                format_micros(jiff::Timestamp::now().as_second() * SECOND)
            );
        }
        if says(&["incorrectly configured region", "PermanentRedirect"]) {
            return format!(
                "{place} says that the bucket `{}` is in another region than `{}`; set lake.s3.region",
                self.bucket,
                region(self.settings)
            );
        }
        if matches!(error, Error::PermissionDenied { .. } | Error::Unauthenticated { .. }) {
            return format!(
                "{place} forbids it to the credentials from {}; allow them s3:GetObject, s3:PutObject, s3:DeleteObject and \
                 s3:ListBucket",
                self.credentials()
            );
        }
        if says(&["NotImplemented"]) {
            return format!("{place} does not know conditional writes (If-None-Match); use a store that does");
        }
        match http_kind(error) {
            Some(HttpErrorKind::Connect) => {
                format!("{place} cannot be reached ({text}); check lake.s3.endpoint, and whether it runs")
            }
            Some(HttpErrorKind::Timeout) => {
                format!(
                    "{place} did not answer in time; check lake.s3.endpoint, lake.s3.connect_timeout and lake.s3.request_timeout"
                )
            }
            _ => format!("{place}: {text}"),
        }
    }

    fn place(&self) -> String {
        match &self.settings.endpoint {
            Some(endpoint) => format!("the store {endpoint}"),
            None => "AWS".to_owned(),
        }
    }

    fn credentials(&self) -> String {
        match &self.settings.credentials_file {
            Some(path) => format!("{path} [{}]", self.settings.profile),
            None if variable_of("AWS_ACCESS_KEY_ID").is_some() => "AWS_ACCESS_KEY_ID".to_owned(),
            None if variable_of("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() => "AWS_WEB_IDENTITY_TOKEN_FILE".to_owned(),
            None => "this machine".to_owned(),
        }
    }
}

/// An error with its causes, on one line, none of them twice.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn http_kind(error: &Error) -> Option<HttpErrorKind> {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(http) = cause.downcast_ref::<HttpError>() {
            return Some(http.kind());
        }
        next = cause.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_clock_is_not_taken_for_missing_rights() {
        let settings = S3Config::default();
        let told = Told { bucket: "lakes", settings: &settings };
        let forbidden =
            |code: &str| Error::PermissionDenied { path: "x".into(), source: format!("403: {code}").into() };
        let skewed = told.why(&forbidden("<Code>RequestTimeTooSkewed</Code>"));
        assert!(skewed.contains("clock") && !skewed.contains("s3:GetObject"), "{skewed}");
        assert!(told.why(&forbidden("<Code>AccessDenied</Code>")).contains("s3:GetObject"));
    }
}
