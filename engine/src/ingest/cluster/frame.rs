//! What goes over a link: a length (64 bits, little-endian) and a value of that many bytes. A length of 0 says only
//! that the sender is still there.

use std::io::{self, BufWriter, Read, Write};

use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that are handed to the operating system at a time.
const BUFFER: usize = 256 * 1024;
/// What says only that the sender is still there: a length of 0.
pub const STILL_HERE: [u8; 8] = 0u64.to_le_bytes();

fn codec() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding()
}

fn io_error(error: bincode::ErrorKind) -> io::Error {
    match error {
        bincode::ErrorKind::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    }
}

/// The bytes of a value.
///
/// # Errors
/// A fault of ours.
pub fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    codec().serialize(value).map_err(|error| io_error(*error))
}

/// Sends a value. It is not copied as a whole.
///
/// # Errors
/// The connection is lost.
pub fn write(writer: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let length = codec().serialized_size(value).map_err(|error| io_error(*error))?;
    let mut writer = BufWriter::with_capacity(BUFFER.min(length as usize + 8), writer);
    writer.write_all(&length.to_le_bytes())?;
    codec().serialize_into(&mut writer, value).map_err(|error| io_error(*error))?;
    writer.flush()
}

/// Sends nothing but that the sender is still there.
///
/// # Errors
/// The connection is lost.
pub fn write_still_here(writer: &mut impl Write) -> io::Result<()> {
    writer.write_all(&STILL_HERE)
}

/// Receives a value of at most `max` bytes; `None` where the sender is only still there.
///
/// # Errors
/// The connection is lost, also in the middle of a value; or what came is no such value.
pub fn read<T: DeserializeOwned>(reader: &mut impl Read, max: u64) -> io::Result<Option<T>> {
    let mut length = [0; 8];
    reader.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length == 0 {
        return Ok(None);
    }
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    if length > max {
        return Err(invalid(format!("a message of {length} bytes came, where {max} are the most")));
    }
    let mut content = reader.take(length);
    let value = codec().with_limit(length).deserialize_from(&mut content).map_err(|error| io_error(*error))?;
    match content.limit() {
        0 => Ok(Some(value)),
        left => Err(invalid(format!("a message is {left} bytes longer than what it says"))),
    }
}
