//! Writes a run: entries in order become frames, and frames files, each of which is put once it is full. One frame is
//! packed while the entries of the next one come.

use bytes::Bytes;
use object_store::PutPayload;
use tokio::task::{JoinHandle, spawn_blocking};

use super::super::error::IngestError;
use super::super::load::StateFile;
use super::frame::{Entry, check, pack};
use super::index::{Place, encode};
use super::{MAGIC, Run, RunFile, Shape, Writing, done};

/// A run that is being written. Nobody sees it before a state names its files.
pub(super) struct Writer<'a> {
    writing: Writing<'a>,
    shape: Shape,
    run: Run,
    // The number that the next file gets.
    number: u32,
    // The frame that comes next, and the one before it.
    entries: Vec<Entry>,
    packing: Option<Packing>,
    // The file that comes next: its frames, where they are, where they end, and the route of its last series.
    frames: Vec<Bytes>,
    places: Vec<Place>,
    end: u64,
    last: u64,
}

/// A frame that is being packed.
struct Packing {
    // Routes of its first and its last series, and how many there are.
    first: u64,
    last: u64,
    series: u64,
    // With the check on it.
    packed: JoinHandle<Result<(u64, Bytes), String>>,
}

impl<'a> Writer<'a> {
    /// Nothing is written yet.
    pub(super) fn new(writing: Writing<'a>, shape: Shape) -> Writer<'a> {
        Writer {
            writing,
            shape,
            run: Run::default(),
            number: 0,
            entries: Vec::new(),
            packing: None,
            frames: Vec::new(),
            places: Vec::new(),
            end: MAGIC.len() as u64,
            last: 0,
        }
    }

    /// Begins another run in place of this one. No file gets the name of one that was put already: a put that was sent
    /// again after an error may land once more.
    pub(super) fn begin_anew(self) -> Writer<'a> {
        Writer { number: self.number, ..Writer::new(self.writing, self.shape) }
    }

    /// Takes the next entry, in the order of their keys.
    ///
    /// # Errors
    /// The store still fails when the engine is to stop.
    pub(super) async fn push(&mut self, entry: Entry) -> Result<(), IngestError> {
        self.entries.push(entry);
        if self.entries.len() < self.shape.frame { Ok(()) } else { self.end_frame().await }
    }

    /// The run of all that was taken.
    ///
    /// # Errors
    /// As [`Writer::push`].
    pub(super) async fn finish(&mut self) -> Result<Run, IngestError> {
        self.end_frame().await?;
        self.end_packing().await?;
        self.end_file().await?;
        Ok(std::mem::take(&mut self.run))
    }

    async fn end_frame(&mut self) -> Result<(), IngestError> {
        self.end_packing().await?;
        let entries = std::mem::take(&mut self.entries);
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(()) };
        let (first, last, series) = (first.route, last.route, entries.len() as u64);
        let packed = spawn_blocking(move || pack(&entries).map(|packed| (check(&packed), Bytes::from(packed))));
        self.packing = Some(Packing { first, last, series, packed });
        Ok(())
    }

    async fn end_packing(&mut self) -> Result<(), IngestError> {
        let Some(Packing { first, last, series, packed }) = self.packing.take() else { return Ok(()) };
        let fault = |reason: String| IngestError::Fault(format!("encoding evicted series: {reason}"));
        let (check, packed) = done(packed).await?.map_err(fault)?;
        let end = self.end + packed.len() as u64;
        self.places.push(Place { first, bytes: self.end..end, series, check });
        self.frames.push(packed);
        (self.end, self.last) = (end, last);
        if end - (MAGIC.len() as u64) < self.shape.file { Ok(()) } else { self.end_file().await }
    }

    async fn end_file(&mut self) -> Result<(), IngestError> {
        let Some(first) = self.places.first().map(|place| place.first) else { return Ok(()) };
        let Writing { lake, patience, seq, fence } = self.writing;
        let path = StateFile::Evicted(self.number).path(seq, fence);
        let index = Bytes::from(encode(&self.places));
        let index_bytes = index.len() as u64;
        let parts = std::iter::once(Bytes::from_static(MAGIC)).chain(std::mem::take(&mut self.frames)).chain([index]);
        let content: PutPayload = parts.collect();
        patience.retry("writing the states of evicted series", || lake.put_object(&path, content.clone())).await?;
        self.number += 1;
        let series: u64 = self.places.drain(..).map(|place| place.series).sum();
        let (last, bytes) = (self.last, self.end + index_bytes);
        self.run.files.push(RunFile { path, first, last, series, bytes, index_bytes });
        self.run.series += series;
        self.end = MAGIC.len() as u64;
        Ok(())
    }
}
