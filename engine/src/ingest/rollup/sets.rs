//! The sets of labels that the series of a worker have. Thousands have the same one: it is kept once, also after a
//! start, when each series was read with its own.

use std::sync::Arc;

use hashbrown::HashSet;
use meterline_schemas::labels::LabelValues;

use super::group::SHARED_BYTES;

/// Sets among which it is not worth looking for some that nobody has any more.
const FEW: usize = 1_000;

/// The sets, each once.
#[derive(Debug, Default)]
pub struct Sets {
    known: HashSet<LabelValues>,
    // Of the sets.
    bytes: usize,
    // How many there were when those that nobody had any more were dropped.
    needed: usize,
}

// As if it shared none of its texts with others.
fn bytes_of(labels: &LabelValues) -> usize {
    let texts = labels.iter().flatten().map(|text| SHARED_BYTES + text.len());
    SHARED_BYTES + size_of_val(&**labels) + texts.sum::<usize>()
}

impl Sets {
    /// The one that is kept of all that are equal to this one.
    pub fn shared(&mut self, labels: &LabelValues) -> LabelValues {
        if let Some(known) = self.known.get(labels) {
            return Arc::clone(known);
        }
        self.bytes += bytes_of(labels);
        self.known.insert(Arc::clone(labels));
        Arc::clone(labels)
    }

    /// Drops those that nobody else has, once there are many more than were needed.
    pub fn tidy(&mut self) {
        if self.known.len() < FEW.max(2 * self.needed) {
            return;
        }
        let bytes = &mut self.bytes;
        self.known.retain(|labels| {
            let needed = Arc::strong_count(labels) > 1;
            *bytes -= if needed { 0 } else { bytes_of(labels) };
            needed
        });
        self.needed = self.known.len();
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.known.allocation_size() + self.bytes
    }

    /// The same, counted anew.
    #[cfg(test)]
    pub(super) fn recounted(&self) -> usize {
        self.known.allocation_size() + self.known.iter().map(bytes_of).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_are_one_and_those_that_nobody_has_go() {
        let labels = |number: usize| -> LabelValues { [Some(Arc::from(number.to_string())), None].into() };
        let mut sets = Sets::default();
        let kept = sets.shared(&labels(7));
        assert!(Arc::ptr_eq(&kept, &sets.shared(&labels(7))));
        for number in 0..FEW - 1 {
            sets.shared(&labels(number));
            sets.tidy();
        }
        assert_eq!((sets.known.len(), sets.bytes()), (FEW - 1, sets.recounted()));
        sets.shared(&labels(FEW));
        sets.tidy();
        assert_eq!((sets.known.len(), sets.bytes()), (1, sets.recounted()));
        assert!(Arc::ptr_eq(&kept, &sets.shared(&labels(7))));
    }
}
