//! Several files as one, in the order of their stamps.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use meterline_schemas::Micros;

use super::{FileError, FileReading, FileReadings};

/// Readings of several files in the order of their stamps; readings of one stamp in the order of the files.
///
/// Each file must be in the order of its stamps itself. A reading that is not comes as soon as its file's turn allows,
/// and is counted.
pub struct Merged {
    files: Vec<FileReadings>,
    /// First reading of each file that is not at its end, by stamp.
    next: Vec<Option<FileReading>>,
    order: BinaryHeap<Reverse<(Micros, usize)>>,
    failed: Option<FileError>,
    started: bool,
    reached: Micros,
    disordered: u64,
}

impl Merged {
    /// Merges `files`.
    pub fn new(files: Vec<FileReadings>) -> Merged {
        let next = files.iter().map(|_| None).collect();
        Merged {
            files,
            next,
            order: BinaryHeap::new(),
            failed: None,
            started: false,
            reached: Micros::MIN,
            disordered: 0,
        }
    }

    /// Readings so far whose stamp was before that of a reading already given.
    pub const fn disordered(&self) -> u64 {
        self.disordered
    }

    /// Cells and rows left out so far because they could not be read.
    pub fn skipped(&self) -> u64 {
        self.files.iter().map(FileReadings::skipped).sum()
    }

    /// Share of the files that is read, 0 to 1.
    pub fn progress(&self) -> f64 {
        self.files.iter().map(FileReadings::progress).sum::<f64>() / self.files.len().max(1) as f64
    }

    fn pull(&mut self, file: usize) {
        match self.files[file].next() {
            None => {}
            Some(Ok(reading)) => {
                self.order.push(Reverse((reading.at, file)));
                self.next[file] = Some(reading);
            }
            Some(Err(error)) => self.failed = Some(error),
        }
    }
}

impl Iterator for Merged {
    type Item = Result<FileReading, FileError>;

    /// Ends with the first error.
    fn next(&mut self) -> Option<Self::Item> {
        if !self.started {
            self.started = true;
            (0..self.files.len()).for_each(|file| self.pull(file));
        }
        if let Some(error) = self.failed.take() {
            self.order.clear();
            return Some(Err(error));
        }
        let Reverse((at, file)) = self.order.pop()?;
        let reading = self.next[file].take()?;
        self.disordered += u64::from(at < self.reached);
        self.reached = self.reached.max(at);
        self.pull(file);
        Some(Ok(reading))
    }
}
