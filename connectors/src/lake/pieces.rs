//! A file in memory, in pieces. One that grows as a whole would be copied again and again, and take up to three times as
//! much meanwhile.

use std::io::{self, Write};

use bytes::Bytes;
use object_store::PutPayload;

/// Bytes of a piece.
const PIECE: usize = 1 << 20;

/// What was written so far.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    full: Vec<Bytes>,
    open: Vec<u8>,
}

impl Pieces {
    /// Number of bytes.
    pub(super) fn len(&self) -> usize {
        self.full.len() * PIECE + self.open.len()
    }

    /// All of them, to be stored.
    pub(super) fn into_payload(mut self) -> PutPayload {
        self.full.push(self.open.into());
        self.full.into_iter().collect()
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.open.len() == PIECE {
            // A small file has one piece, which is as small; a large one soon fills the next.
            let full = std::mem::replace(&mut self.open, Vec::with_capacity(PIECE));
            self.full.push(full.into());
        }
        let taken = bytes.len().min(PIECE - self.open.len());
        self.open.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_are_there_however_they_came() {
        for lengths in
            [vec![], vec![3], vec![PIECE], vec![PIECE, 1], vec![5, 3 * PIECE, 7], vec![PIECE - 1, 2, PIECE - 1]]
        {
            let (mut pieces, mut expected) = (Pieces::default(), Vec::new());
            for (fill, length) in (1..).zip(&lengths) {
                let bytes = vec![fill; *length];
                pieces.write_all(&bytes).unwrap();
                expected.extend(bytes);
            }
            assert_eq!(pieces.len(), expected.len(), "{lengths:?}");
            let payload = pieces.into_payload();
            assert_eq!(payload.content_length(), expected.len(), "{lengths:?}");
            assert!(Bytes::from(payload) == expected, "{lengths:?}");
        }
    }
}
