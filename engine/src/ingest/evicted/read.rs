//! Frames of a file, those together that lie side by side or nearly so: a request takes longer than the bytes between.

use bytes::Bytes;

use super::super::error::IngestError;
use super::super::load::OwnedStates;
use super::index::Place;
use super::{READING, RunFile, Shape};

/// What is read at once.
#[derive(Debug)]
pub(super) struct Read {
    /// Path of the file.
    pub(super) path: String,
    // In their order.
    frames: Vec<Place>,
}

impl Read {
    /// These frames of a file, which are in their order.
    pub(super) fn together(file: &RunFile, frames: Vec<Place>, shape: Shape) -> Vec<Read> {
        let mut reads: Vec<Read> = Vec::new();
        for place in frames {
            let joins = reads.last().and_then(|read| read.frames.first().zip(read.frames.last())).is_some_and(
                |(first, last)| {
                    place.bytes.start - last.bytes.end <= shape.gap && place.bytes.end - first.bytes.start <= shape.read
                },
            );
            match reads.last_mut() {
                Some(read) if joins => read.frames.push(place),
                _ => reads.push(Read { path: file.path.clone(), frames: vec![place] }),
            }
        }
        reads
    }

    /// The bytes of each frame.
    ///
    /// # Errors
    /// The file ends before them or is gone, or the store fails.
    pub(super) async fn frames(self, from: &OwnedStates) -> Result<Vec<(Place, Bytes)>, IngestError> {
        let (Some(first), Some(last)) = (self.frames.first(), self.frames.last()) else { return Ok(Vec::new()) };
        let range = first.bytes.start..last.bytes.end;
        let bytes = from.states().range(READING, &self.path, range.clone()).await?;
        let part = |place: Place| {
            let [start, end] = [place.bytes.start, place.bytes.end].map(|at| (at - range.start) as usize);
            (place, bytes.slice(start..end))
        };
        Ok(self.frames.into_iter().map(part).collect())
    }
}
