//! Amounts of memory and storage, as operators write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes, written like `512MiB`, `2 GiB` or `500MB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(u64);

/// Units, the longest name first of those that end alike.
const UNITS: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

impl Bytes {
    /// So many bytes.
    pub const fn new(bytes: u64) -> Bytes {
        Bytes(bytes)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// Why a text is no amount of bytes.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("`{0}` is no amount of bytes; write it like 512MiB, 2GiB or 500MB")]
pub struct BytesError(String);

impl FromStr for Bytes {
    type Err = BytesError;

    fn from_str(text: &str) -> Result<Self, BytesError> {
        let refuse = || BytesError(text.to_owned());
        let trimmed = text.trim();
        let (number, unit) =
            UNITS.iter().find_map(|(name, unit)| Some((trimmed.strip_suffix(name)?, *unit))).ok_or_else(refuse)?;
        let number: f64 = number.trim().parse().map_err(|_| refuse())?;
        let bytes = number * unit as f64;
        if !(0.0..=u64::MAX as f64 / 2.0).contains(&bytes) {
            return Err(refuse());
        }
        Ok(Bytes(bytes.round() as u64))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, unit): &&(&str, u64)| self.0 > 0 && self.0.is_multiple_of(*unit);
        match UNITS.iter().find(fits) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_they_are_written() {
        for (text, bytes, shown) in [
            ("2GiB", 2 << 30, "2GiB"),
            (" 1.5 GiB ", 3 << 29, "1536MiB"),
            ("500MB", 500_000_000, "500MB"),
            ("64kB", 64_000, "64kB"),
            ("7B", 7, "7B"),
            ("0B", 0, "0B"),
        ] {
            let read: Bytes = text.parse().unwrap();
            assert_eq!((read.bytes(), read.to_string().as_str()), (bytes, shown), "{text}");
        }
        for text in ["2", "GiB", "-1GiB", "2 Gib", "nanGiB", "1e30TiB", ""] {
            let error = text.parse::<Bytes>().unwrap_err();
            assert!(error.to_string().contains("2GiB"), "{error}");
        }
    }
}
