//! Writes a run: entries in order become frames, and frames files, each of which is put once it is full.

use bytes::Bytes;
use object_store::PutPayload;

use super::super::error::IngestError;
use super::super::load::StateFile;
use super::frame::{Entry, check, pack};
use super::index::{Place, encode};
use super::{MAGIC, Run, RunFile, Shape, Writing, aside};

/// A run that is being written. Nobody sees it before a state names its files.
pub(super) struct Writer<'a> {
    writing: Writing<'a>,
    shape: Shape,
    run: Run,
    // The frame that comes next.
    entries: Vec<Entry>,
    // The file that comes next: its frames, where they are, where they end, and the route of its last series.
    frames: Vec<Bytes>,
    places: Vec<Place>,
    end: u64,
    last: u64,
}

impl<'a> Writer<'a> {
    /// Nothing is written yet.
    pub(super) fn new(writing: Writing<'a>, shape: Shape) -> Writer<'a> {
        Writer {
            writing,
            shape,
            run: Run::default(),
            entries: Vec::new(),
            frames: Vec::new(),
            places: Vec::new(),
            end: MAGIC.len() as u64,
            last: 0,
        }
    }

    /// Takes the next entry, in the order of their keys.
    ///
    /// # Errors
    /// The store still fails when the engine is to stop.
    pub(super) async fn push(&mut self, entry: Entry) -> Result<(), IngestError> {
        self.entries.push(entry);
        if self.entries.len() < self.shape.frame {
            return Ok(());
        }
        self.end_frame().await?;
        if self.end - (MAGIC.len() as u64) < self.shape.file { Ok(()) } else { self.end_file().await }
    }

    /// The run of all that was taken.
    ///
    /// # Errors
    /// As [`Writer::push`].
    pub(super) async fn finish(mut self) -> Result<Run, IngestError> {
        self.end_frame().await?;
        self.end_file().await?;
        Ok(self.run)
    }

    async fn end_frame(&mut self) -> Result<(), IngestError> {
        let entries = std::mem::take(&mut self.entries);
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(()) };
        let (first, last, series) = (first.route, last.route, entries.len() as u64);
        let packing = move || pack(&entries).map(|packed| (check(&packed), Bytes::from(packed)));
        let fault = |reason: String| IngestError::Fault(format!("encoding evicted series: {reason}"));
        let (check, packed) = aside(packing).await?.map_err(fault)?;
        let end = self.end + packed.len() as u64;
        self.places.push(Place { first, bytes: self.end..end, series, check });
        self.frames.push(packed);
        (self.end, self.last) = (end, last);
        Ok(())
    }

    async fn end_file(&mut self) -> Result<(), IngestError> {
        let Some(first) = self.places.first().map(|place| place.first) else { return Ok(()) };
        let Writing { lake, patience, seq, fence } = self.writing;
        let path = StateFile::Evicted(self.run.files.len() as u32).path(seq, fence);
        let index = Bytes::from(encode(&self.places));
        let index_bytes = index.len() as u64;
        let parts = std::iter::once(Bytes::from_static(MAGIC)).chain(std::mem::take(&mut self.frames)).chain([index]);
        let content: PutPayload = parts.collect();
        patience.retry("writing the states of evicted series", || lake.put_object(&path, content.clone())).await?;
        let series: u64 = self.places.drain(..).map(|place| place.series).sum();
        let (last, bytes) = (self.last, self.end + index_bytes);
        self.run.files.push(RunFile { path, first, last, series, bytes, index_bytes });
        self.run.series += series;
        self.end = MAGIC.len() as u64;
        Ok(())
    }
}
