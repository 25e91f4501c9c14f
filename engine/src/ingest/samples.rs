//! The last samples of a gauge, or registers of a counter, in memory only. What is forgotten is in the table `samples`;
//! of the running interval of a gauge, what it comes to stays.

use std::collections::VecDeque;

use meterline_schemas::Micros;
use meterline_schemas::reading::{Position, Quality};

use super::series::PendingReading;

/// The last readings of one series, by stamp.
#[derive(Debug, Clone)]
pub struct Samples {
    // History may come from its end: neither end is far.
    kept: VecDeque<PendingReading>,
    // All readings that were ever taken and are stamped at or after it are kept; `Micros::MAX` where nothing is known.
    from: Micros,
    // Those of one interval that are stamped before `from`: all that there were.
    folded: Option<Box<(Micros, Sum)>>,
}

/// What several samples of one interval come to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sum {
    /// Of their values, in the stored unit, from the oldest to the newest.
    pub sum: f64,
    /// How many there are.
    pub count: i32,
    /// The worst of their qualities.
    pub quality: Quality,
    /// The greatest of their positions.
    pub position: Position,
}

impl Sum {
    /// That of no samples.
    pub const NONE: Sum = Sum { sum: 0.0, count: 0, quality: Quality::Measured, position: Position::LEAST };

    /// With another sample of an interval that is so long.
    pub fn with(self, sample: &PendingReading, length: Micros) -> Sum {
        Sum {
            sum: self.sum + sample.scale.store(sample.value, length),
            count: self.count.saturating_add(1),
            quality: self.quality.max(sample.quality),
            position: self.position.max(sample.position),
        }
    }
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
        Samples { kept: VecDeque::new(), from: Micros::MIN, folded: None }
    }

    /// Those of a series that had some, of which only the last one is known, if that.
    pub fn after(last: Option<PendingReading>) -> Samples {
        Samples { from: last.map_or(Micros::MAX, |last| last.at), kept: last.into_iter().collect(), folded: None }
    }

    /// Whether all readings stamped at or after `at` are kept.
    pub fn complete_from(&self, at: Micros) -> bool {
        self.from <= at
    }

    /// What those of the interval that starts at `start` come to that are not kept any more, and from which stamp on they
    /// are kept; `None` where not all that there were are in one or the other.
    pub fn folded(&self, start: Micros) -> Option<(Sum, Micros)> {
        self.folded.as_deref().filter(|(of, _)| *of == start).map(|(_, sum)| (*sum, self.from))
    }

    /// Whether a reading stamped `at`, of the interval that starts at `start`, is none of those that were folded.
    pub fn goes_on(&self, start: Micros, at: Micros) -> bool {
        self.folded(start).is_some_and(|(_, from)| from <= at)
    }

    /// Forgets what is stamped before `from`, but not what it comes to in the interval that starts at `start`: everything
    /// of that is kept, or was folded.
    pub fn fold_before(&mut self, from: Micros, start: Micros, sum: Sum) {
        self.forget_before(from);
        self.folded = Some(Box::new((start, sum)));
    }

    /// Everything of the interval that starts at `start` is kept again: it was looked up.
    pub fn unfold(&mut self, start: Micros) {
        self.folded.take_if(|folded| folded.0 == start);
    }

    /// From `at` on all readings are kept: there were none before.
    pub fn extend_to(&mut self, at: Micros) {
        if at < self.from {
            self.from = at;
            self.folded = None;
        }
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
        if surplus > 0 {
            self.kept.drain(..surplus);
            self.kept.shrink_to(2 * self.kept.len());
        }
        if self.from < from {
            self.from = from;
            self.folded = None;
        }
    }
}
