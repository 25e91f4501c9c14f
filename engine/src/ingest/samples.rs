//! The last samples of a gauge, or registers of a counter, in memory only. What is forgotten is in the table `samples`.

use std::collections::VecDeque;

use meterline_schemas::Micros;

use super::series::PendingReading;

/// The last readings of one series, by stamp.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    // History may come from its end: neither end is far.
    kept: VecDeque<PendingReading>,
    // All readings that were ever taken and are stamped at or after it are kept.
    from: Option<Micros>,
}

/// What became of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// There was none of its stamp.
    New,
    /// It takes the place of another one.
    Changed,
    /// Another one of its stamp has the greater position, or it says the same.
    Repeated(Repeated),
}

/// Why a reading changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeated {
    /// Its position is not greater.
    Older,
    /// It says the same, with a greater position: that is what later ones have to beat.
    Same,
}

impl Samples {
    /// Those of a series that never had any.
    pub fn none_yet() -> Samples {
        Samples { kept: VecDeque::new(), from: Some(Micros::MIN) }
    }

    /// Those of a series that had some, of which only the last one is known, if that.
    pub fn after(last: Option<PendingReading>) -> Samples {
        Samples { from: last.map(|last| last.at), kept: last.into_iter().collect() }
    }

    /// Whether all readings stamped at or after `at` are kept.
    pub fn complete_from(&self, at: Micros) -> bool {
        self.from.is_some_and(|from| from <= at)
    }

    /// From `at` on all readings are kept: there were none before.
    pub fn extend_to(&mut self, at: Micros) {
        self.from = Some(self.from.map_or(at, |from| from.min(at)));
    }

    /// The reading of this stamp.
    pub fn at(&self, at: Micros) -> Option<&PendingReading> {
        let index = self.kept.binary_search_by_key(&at, |known| known.at).ok()?;
        self.kept.get(index)
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// One of those that are kept, from the oldest.
    pub fn nth(&self, index: usize) -> Option<&PendingReading> {
        self.kept.get(index)
    }

    /// The last reading.
    pub fn last(&self) -> Option<&PendingReading> {
        self.kept.back()
    }

    /// Those from the first for which `from` is true to the first for which `to` is.
    pub fn between(
        &self,
        from: impl Fn(Micros) -> bool,
        to: impl Fn(Micros) -> bool,
    ) -> impl ExactSizeIterator<Item = &PendingReading> {
        let first = self.kept.partition_point(|known| !from(known.at));
        let end = self.kept.partition_point(|known| !to(known.at));
        self.kept.range(first..end.max(first))
    }

    /// Takes a reading: of two with one stamp the one with the greater position stays.
    pub fn take(&mut self, reading: PendingReading) -> Taken {
        // Most readings are newer than everything.
        let index = match self.kept.back() {
            Some(last) if last.at >= reading.at => self.kept.binary_search_by_key(&reading.at, |known| known.at),
            _ => Err(self.kept.len()),
        };
        match index {
            Ok(index) => {
                let known = &mut self.kept[index];
                if reading.position <= known.position {
                    return Taken::Repeated(Repeated::Older);
                }
                let same =
                    known.value == reading.value && known.scale == reading.scale && known.quality == reading.quality;
                *known = reading;
                if same { Taken::Repeated(Repeated::Same) } else { Taken::Changed }
            }
            Err(index) => {
                self.kept.insert(index, reading);
                Taken::New
            }
        }
    }

    /// Forgets what is stamped before `from`.
    pub fn forget_before(&mut self, from: Micros) {
        let surplus = self.kept.partition_point(|known| known.at < from);
        if surplus > 0 || self.from.is_none_or(|known| known < from) {
            self.kept.drain(..surplus);
            self.kept.shrink_to(2 * self.kept.len());
            self.from = self.from.map(|known| known.max(from));
        }
    }
}
