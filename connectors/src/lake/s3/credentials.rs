//! Credentials from a file in the form of `~/.aws/credentials`.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use object_store::aws::AwsCredential;
use object_store::{CredentialProvider, Error, Result};

/// Keys that somebody replaced are used this long after at most.
const READ_AGAIN: Duration = Duration::from_secs(60);

/// One section of a file, read again from time to time.
pub(super) struct CredentialsFile {
    path: PathBuf,
    profile: String,
    read: Mutex<(Instant, Arc<AwsCredential>)>,
}

impl fmt::Debug for CredentialsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CredentialsFile({} [{}])", self.path.display(), self.profile)
    }
}

impl CredentialsFile {
    /// Reads `profile` of the file at `path`.
    pub(super) fn open(path: &str, profile: &str) -> Result<CredentialsFile> {
        let path = PathBuf::from(path);
        let found = load(&path, profile)?;
        Ok(CredentialsFile { path, profile: profile.to_owned(), read: Mutex::new((Instant::now(), Arc::new(found))) })
    }
}

#[async_trait]
impl CredentialProvider for CredentialsFile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> Result<Arc<AwsCredential>> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.0.elapsed() > READ_AGAIN {
            // A file that somebody is replacing right now is no reason to stop.
            match load(&self.path, &self.profile) {
                Ok(found) => *read = (Instant::now(), Arc::new(found)),
                Err(error) => {
                    tracing::warn!(%error, "the credentials are not read again; those known before stay in use");
                    read.0 = Instant::now();
                }
            }
        }
        Ok(Arc::clone(&read.1))
    }
}

fn load(path: &std::path::Path, profile: &str) -> Result<AwsCredential> {
    let fault = |what: String| Error::Generic {
        store: "S3",
        source: format!("lake.s3.credentials_file {}: {what}", path.display()).into(),
    };
    let text = std::fs::read_to_string(path).map_err(|e| fault(e.to_string()))?;
    parse(&text, profile).map_err(fault)
}

/// The credentials of one section. What is wrong never quotes a line.
fn parse(text: &str, profile: &str) -> std::result::Result<AwsCredential, String> {
    let (mut within, mut found) = (false, false);
    let (mut key_id, mut secret_key, mut token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            within = name.trim() == profile;
            found |= within;
        } else if let (true, Some((key, value))) = (within, line.split_once('=')) {
            let place = match key.trim() {
                "aws_access_key_id" => &mut key_id,
                "aws_secret_access_key" => &mut secret_key,
                "aws_session_token" => &mut token,
                _ => continue,
            };
            *place = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        }
    }
    if !found {
        return Err(format!("it has no section [{profile}]; see lake.s3.profile"));
    }
    match (key_id, secret_key) {
        (Some(key_id), Some(secret_key)) => Ok(AwsCredential { key_id, secret_key, token }),
        (None, _) => Err(format!("its section [{profile}] has no aws_access_key_id")),
        (_, None) => Err(format!("its section [{profile}] has no aws_secret_access_key")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# ours\n[default]\naws_access_key_id=AK\naws_secret_access_key = s+/=\n\n[ other ]\nregion = x\n\
                        aws_access_key_id = OK\naws_secret_access_key = os\naws_session_token = ot\n[half]\n\
                        aws_secret_access_key = hidden\n";

    #[test]
    fn a_section_is_read_and_what_is_missing_is_named_without_its_neighbours() {
        let default = parse(FILE, "default").unwrap();
        assert_eq!((default.key_id.as_str(), default.secret_key.as_str(), default.token), ("AK", "s+/=", None));
        let other = parse(FILE, "other").unwrap();
        assert_eq!((other.key_id.as_str(), other.token.as_deref()), ("OK", Some("ot")));
        for (profile, words) in [("nobody", "no section [nobody]"), ("half", "no aws_access_key_id")] {
            let error = parse(FILE, profile).err().unwrap();
            assert!(error.contains(words) && !error.contains("hidden"), "{error}");
        }
    }
}
