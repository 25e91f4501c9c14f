//! Fitted models as bytes: one line that says of which kind and format they are, and what that kind makes of the rest.

use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::device::DeviceError;

/// What the first line begins with.
const MAGIC: &str = "meterline";

/// Why bytes are not a usable model.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// Something else, or cut off.
    #[error("the model artifact is damaged: {0}; retrain the group, or roll back to another model version")]
    Damaged(String),
    /// Written by another version of the program.
    #[error(
        "the model artifact has format {found}, and this program reads format {known} of `{kind}`: retrain the group, or use the program that wrote it"
    )]
    Version {
        /// The kind of model.
        kind: String,
        /// The format's version.
        found: u32,
        /// The one that can be read.
        known: u32,
    },
    /// A kind of model that this program does not know.
    #[error(
        "the model artifact is of kind `{0}`, which this program does not know: use the program that wrote it, or retrain the group"
    )]
    Kind(String),
    /// The device is not there.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl ArtifactError {
    /// Bytes that are not what they should be.
    pub fn damaged(what: impl std::fmt::Display) -> ArtifactError {
        ArtifactError::Damaged(what.to_string())
    }
}

/// An artifact of a kind and a format, before the rest is written to it.
pub fn begun(kind: &str, format: u32) -> Vec<u8> {
    format!("{MAGIC} {kind} {format}\n").into_bytes()
}

/// An artifact whose rest is what serde makes of `content`.
pub fn encode(kind: &str, format: u32, content: &impl Serialize) -> Vec<u8> {
    let mut bytes = begun(kind, format);
    // Writing to memory fails for nothing that models are made of; what is cut off is found out when it is read.
    if bincode::serialize_into(&mut bytes, content).is_err() {
        bytes.truncate(0);
    }
    bytes
}

/// The kind of an artifact.
///
/// # Errors
/// It is none.
pub fn kind_of(bytes: &[u8]) -> Result<&str, ArtifactError> {
    Ok(first_line(bytes)?.0)
}

/// What comes after the first line of an artifact of this kind and format.
///
/// # Errors
/// It is none, or of another kind or format.
pub fn rest_of<'b>(bytes: &'b [u8], kind: &str, format: u32) -> Result<&'b [u8], ArtifactError> {
    let (named, found, rest) = first_line(bytes)?;
    if named != kind {
        return Err(ArtifactError::damaged(format_args!("it is of kind `{named}`, not `{kind}`")));
    }
    if found != format {
        return Err(ArtifactError::Version { kind: kind.to_owned(), found, known: format });
    }
    Ok(rest)
}

/// What [`encode`] was given.
///
/// # Errors
/// It is none, or of another kind or format, or damaged.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], kind: &str, format: u32) -> Result<T, ArtifactError> {
    // As `bincode::serialize_into` writes, and nothing after it.
    let options = bincode::DefaultOptions::new().with_fixint_encoding();
    options.deserialize(rest_of(bytes, kind, format)?).map_err(ArtifactError::damaged)
}

fn first_line(bytes: &[u8]) -> Result<(&str, u32, &[u8]), ArtifactError> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (first, rest) = bytes.split_at(end.ok_or_else(|| ArtifactError::damaged("it has no first line"))?);
    let words = std::str::from_utf8(first).ok().map(|line| line.split(' ').collect::<Vec<_>>());
    match words.as_deref() {
        Some([MAGIC, kind, format]) => {
            let format = format.parse().map_err(|_| ArtifactError::damaged("its first line has no version"))?;
            Ok((kind, format, &rest[1..]))
        }
        _ => Err(ArtifactError::damaged("its first line is not that of a model")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_says_what_it_is() {
        let bytes = encode("sun_dial", 3, &(7u32, vec![f64::INFINITY, 0.5]));
        assert_eq!(kind_of(&bytes).unwrap(), "sun_dial");
        let content: (u32, Vec<f64>) = decode(&bytes, "sun_dial", 3).unwrap();
        assert_eq!(content, (7, vec![f64::INFINITY, 0.5]));
        let refusal = |bytes: &[u8], kind: &str, format: u32| {
            decode::<(u32, Vec<f64>)>(bytes, kind, format).unwrap_err().to_string()
        };
        assert!(refusal(&bytes, "sun_dial", 4).contains("has format 3, and this program reads format 4 of `sun_dial`"));
        assert!(refusal(&bytes, "moon", 3).contains("damaged: it is of kind `sun_dial`, not `moon`"));
        assert!(refusal(&bytes[..bytes.len() - 1], "sun_dial", 3).contains("damaged"));
        for none in ["", "meterline", "meterline sun_dial\n", "meterline sun_dial x\n", "sun meterline 3\n"] {
            assert!(
                refusal(none.as_bytes(), "sun_dial", 3).contains("damaged: its first line") || none.len() < 10,
                "{none}"
            );
        }
    }
}
