//! Fitted models as bytes: one line that says of which kind and format they are, and of which place where they go by its
//! sun, and what that kind makes of the rest.

use bincode::Options;
use meterline_schemas::location::Location;
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
    encode_at(kind, format, None, content)
}

/// The same of a model that goes by the sun of a place, if there is one. The place stands in the first line: artifacts of
/// models without one are what they were before there were places.
pub fn encode_at(kind: &str, format: u32, location: Option<Location>, content: &impl Serialize) -> Vec<u8> {
    let place = location.map(|location| format!(" {location}")).unwrap_or_default();
    let mut bytes = format!("{MAGIC} {kind} {format}{place}\n").into_bytes();
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
    Ok(First::of(bytes)?.kind)
}

/// What comes after the first line of an artifact of this kind and format.
///
/// # Errors
/// It is none, or of another kind or format.
pub fn rest_of<'b>(bytes: &'b [u8], kind: &str, format: u32) -> Result<&'b [u8], ArtifactError> {
    Ok(First::checked(bytes, kind, format)?.rest)
}

/// What [`encode`] was given.
///
/// # Errors
/// It is none, or of another kind or format, or damaged.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], kind: &str, format: u32) -> Result<T, ArtifactError> {
    Ok(decode_at(bytes, kind, format)?.0)
}

/// What [`encode_at`] was given.
///
/// # Errors
/// It is none, or of another kind or format, or damaged.
pub fn decode_at<T: DeserializeOwned>(
    bytes: &[u8],
    kind: &str,
    format: u32,
) -> Result<(T, Option<Location>), ArtifactError> {
    let First { location, rest, .. } = First::checked(bytes, kind, format)?;
    // As `bincode::serialize_into` writes, and nothing after it.
    let options = bincode::DefaultOptions::new().with_fixint_encoding();
    Ok((options.deserialize(rest).map_err(ArtifactError::damaged)?, location))
}

/// What the first line says, and what comes after it.
struct First<'b> {
    kind: &'b str,
    format: u32,
    location: Option<Location>,
    rest: &'b [u8],
}

impl First<'_> {
    fn of(bytes: &[u8]) -> Result<First<'_>, ArtifactError> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (first, rest) = bytes.split_at(end.ok_or_else(|| ArtifactError::damaged("it has no first line"))?);
        let words = std::str::from_utf8(first).ok().map(|line| line.split(' ').collect::<Vec<_>>());
        let (kind, format, location) = match words.as_deref() {
            Some([MAGIC, kind, format]) => (*kind, format, None),
            Some([MAGIC, kind, format, place]) => {
                let place = place
                    .parse::<Location>()
                    .map_err(|error| ArtifactError::damaged(format_args!("its first line names no place: {error}")))?;
                (*kind, format, Some(place))
            }
            _ => return Err(ArtifactError::damaged("its first line is not that of a model")),
        };
        let format = format.parse().map_err(|_| ArtifactError::damaged("its first line has no version"))?;
        Ok(First { kind, format, location, rest: &rest[1..] })
    }

    /// The same, where it is of this kind and format.
    fn checked<'b>(bytes: &'b [u8], kind: &str, format: u32) -> Result<First<'b>, ArtifactError> {
        let first = First::of(bytes)?;
        if first.kind != kind {
            return Err(ArtifactError::damaged(format_args!("it is of kind `{}`, not `{kind}`", first.kind)));
        }
        if first.format != format {
            return Err(ArtifactError::Version { kind: kind.to_owned(), found: first.format, known: format });
        }
        Ok(first)
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
        let place = Location::new(52.1, -5.3).ok();
        let placed = encode_at("sun_dial", 3, place, &7_u32);
        assert_eq!(decode_at::<u32>(&placed, "sun_dial", 3).unwrap(), (7, place));
        assert_eq!(decode::<u32>(&placed, "sun_dial", 3).unwrap(), 7);
        assert_eq!(encode_at("sun_dial", 3, None, &7_u32), encode("sun_dial", 3, &7_u32));
        assert!(refusal(b"meterline sun_dial 3 95,5\n", "sun_dial", 3).contains("the latitude 95 is not"));
        for none in ["", "meterline", "meterline sun_dial\n", "meterline sun_dial x\n", "sun meterline 3\n"] {
            assert!(
                refusal(none.as_bytes(), "sun_dial", 3).contains("damaged: its first line") || none.len() < 10,
                "{none}"
            );
        }
    }
}
