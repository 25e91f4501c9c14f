//! Files within a ZIP archive, as the GEFCom2014 data are published.
//!
//! Written here and small: the archive crate that the workspace has for other reasons has its decompression switched
//! off, and switching it on for a benchmark would build half of the workspace a second time. Stored and deflated
//! entries of one archive below 4 GiB (APPNOTE 6.3, PKWARE); neither encryption nor ZIP64. Every entry's CRC-32 is
//! compared.

use std::io::Read;
use std::path::Path;

use flate2::Crc;
use flate2::read::DeflateDecoder;

use super::table::REMEDY;

/// Largest entry that is unpacked: the greatest of the data set has 8 MB.
const ENTRY_BYTES_MAX: u64 = 256 << 20;

const END_OF_DIRECTORY: [u8; 4] = *b"PK\x05\x06";
const DIRECTORY_ENTRY: [u8; 4] = *b"PK\x01\x02";
const LOCAL_HEADER: [u8; 4] = *b"PK\x03\x04";
const END_BYTES: usize = 22;
const DIRECTORY_ENTRY_BYTES: usize = 46;
const LOCAL_HEADER_BYTES: usize = 30;

/// An archive in memory.
pub(super) struct Archive {
    file: String,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

struct Entry {
    name: String,
    method: u16,
    crc: u32,
    packed: usize,
    unpacked: u64,
    local_header: usize,
}

impl Archive {
    /// Reads an archive and its directory.
    pub fn open(path: &Path) -> Result<Archive, String> {
        let file = path.display().to_string();
        let bytes = std::fs::read(path)
            .map_err(|e| format!("reading {file}: {e}; name the folder with the data by METERLINE_DATA"))?;
        Archive::parse(file, bytes)
    }

    fn parse(file: String, bytes: Vec<u8>) -> Result<Archive, String> {
        let entries = directory(&bytes).ok_or_else(|| format!("{file} is not a ZIP archive; {REMEDY}"))?;
        Ok(Archive { file, bytes, entries })
    }

    /// The unpacked bytes of the entry with this full name.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        let refuse = |what: &str| format!("{}, entry {name}: {what}; {REMEDY}", self.file);
        let entry = self.entries.iter().find(|e| e.name == name).ok_or_else(|| refuse("is not there"))?;
        let packed = packed(&self.bytes, entry).ok_or_else(|| refuse("is cut off"))?;
        if entry.unpacked > ENTRY_BYTES_MAX {
            return Err(refuse(&format!("has more than {ENTRY_BYTES_MAX} bytes")));
        }
        let mut unpacked = Vec::new();
        match entry.method {
            0 => unpacked.extend_from_slice(packed),
            8 => {
                let read = DeflateDecoder::new(packed).take(entry.unpacked + 1).read_to_end(&mut unpacked);
                read.map_err(|e| refuse(&format!("cannot be unpacked: {e}")))?;
            }
            other => return Err(refuse(&format!("is packed by method {other}"))),
        }
        let mut crc = Crc::new();
        crc.update(&unpacked);
        if unpacked.len() as u64 != entry.unpacked || crc.sum() != entry.crc {
            return Err(refuse("is damaged: its length or checksum differs"));
        }
        Ok(unpacked)
    }
}

/// The entries that the central directory lists; `None` when there is none.
fn directory(bytes: &[u8]) -> Option<Vec<Entry>> {
    // A comment of up to 65,535 bytes may follow the end record.
    let last = bytes.len().checked_sub(END_BYTES)?;
    let end =
        (last.saturating_sub(usize::from(u16::MAX))..=last).rev().find(|i| starts(bytes, *i, END_OF_DIRECTORY))?;
    let count = u16_at(bytes, end + 10)?;
    let mut at = u32_at(bytes, end + 16)? as usize;
    let mut entries = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        if !starts(bytes, at, DIRECTORY_ENTRY) {
            return None;
        }
        let [name, extra, comment] = [28, 30, 32].map(|offset| u16_at(bytes, at + offset).map(usize::from));
        let (name, after) = (name?, extra? + comment?);
        let text = bytes.get(at + DIRECTORY_ENTRY_BYTES..)?.get(..name)?;
        entries.push(Entry {
            name: String::from_utf8_lossy(text).into_owned(),
            method: u16_at(bytes, at + 10)?,
            crc: u32_at(bytes, at + 16)?,
            packed: u32_at(bytes, at + 20)? as usize,
            unpacked: u64::from(u32_at(bytes, at + 24)?),
            local_header: u32_at(bytes, at + 42)? as usize,
        });
        at += DIRECTORY_ENTRY_BYTES + name + after;
    }
    Some(entries)
}

/// The packed bytes of an entry. Their length is that of the directory: the local header may leave it out.
fn packed<'a>(bytes: &'a [u8], entry: &Entry) -> Option<&'a [u8]> {
    let at = entry.local_header;
    if !starts(bytes, at, LOCAL_HEADER) {
        return None;
    }
    let names = usize::from(u16_at(bytes, at + 26)?) + usize::from(u16_at(bytes, at + 28)?);
    bytes.get(at + LOCAL_HEADER_BYTES + names..)?.get(..entry.packed)
}

fn starts(bytes: &[u8], at: usize, signature: [u8; 4]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(&signature))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::DeflateEncoder;

    use super::*;

    /// An archive with one entry.
    fn archive(name: &str, content: &[u8], method: u16) -> Vec<u8> {
        let packed = if method == 8 {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        } else {
            content.to_vec()
        };
        let mut crc = Crc::new();
        crc.update(content);
        let lengths = [crc.sum(), packed.len() as u32, content.len() as u32].map(u32::to_le_bytes).concat();
        let name_length = (name.len() as u16).to_le_bytes();
        let mut bytes = LOCAL_HEADER.to_vec();
        bytes.extend([20, 0, 0, 0]);
        bytes.extend(method.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(&lengths);
        bytes.extend(name_length);
        bytes.extend([0; 2]);
        bytes.extend(name.as_bytes());
        bytes.extend(&packed);
        let directory = bytes.len() as u32;
        bytes.extend(DIRECTORY_ENTRY);
        bytes.extend([20, 0, 20, 0, 0, 0]);
        bytes.extend(method.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(&lengths);
        bytes.extend(name_length);
        bytes.extend([0; 16]);
        bytes.extend(name.as_bytes());
        let length = bytes.len() as u32 - directory;
        bytes.extend(END_OF_DIRECTORY);
        bytes.extend([0, 0, 0, 0, 1, 0, 1, 0]);
        bytes.extend(length.to_le_bytes());
        bytes.extend(directory.to_le_bytes());
        bytes.extend([0; 2]);
        bytes
    }

    #[test]
    fn entries_come_out_as_they_went_in() {
        let content = b"at,load\n1,2\n".repeat(1000);
        for method in [0, 8] {
            let archive = Archive::parse("a.zip".into(), archive("Load/a b.csv", &content, method)).unwrap();
            assert_eq!(archive.read("Load/a b.csv").as_deref(), Ok(&content[..]), "method {method}");
            assert!(archive.read("b.csv").unwrap_err().starts_with("a.zip, entry b.csv: is not there"));
        }
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let good = archive("a", b"some content", 0);
        let mut flipped = good.clone();
        flipped[LOCAL_HEADER_BYTES + 3] ^= 1;
        let damaged = Archive::parse("a.zip".into(), flipped).unwrap();
        assert!(damaged.read("a").unwrap_err().contains("damaged"));
        let method = Archive::parse("a.zip".into(), archive("a", b"x", 12)).unwrap();
        assert!(method.read("a").unwrap_err().contains("method 12"));
        for length in [0, 10, good.len() - 1] {
            let cut = Archive::parse("a.zip".into(), good[..length].to_vec());
            assert!(cut.is_err_and(|e| e.starts_with("a.zip is not a ZIP archive")), "{length} bytes");
        }
    }

    #[test]
    fn no_tail_of_an_archive_makes_it_panic() {
        let good = archive("a", &b"some content".repeat(50), 8);
        for from in 0..good.len() {
            if let Ok(archive) = Archive::parse("a.zip".into(), good[from..].to_vec()) {
                assert!(from == 0 || archive.read("a").is_err());
            }
        }
    }
}
