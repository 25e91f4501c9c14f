//! The labels of one series over time, from both of their sources.

use std::sync::Arc;

use meterline_schemas::Micros;
use meterline_schemas::labels::LabelValues;
use meterline_schemas::reading::Position;
use serde::{Deserialize, Serialize};

use super::plan::Label;

/// Runs of intervals with the same labels above which neighbours with a gap between them are taken for one run.
const RUNS_MAX: usize = 64;

/// Intervals in a row whose readings had the same labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Start of the first one.
    pub from: Micros,
    /// End of the last one.
    pub to: Micros,
    /// Labels in the order of the feed.
    pub labels: LabelValues,
}

/// What a source said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Given {
    /// Number of the source.
    pub source: u16,
    /// From here on …
    pub valid_from: Micros,
    /// … these hold, in the order of the source.
    pub labels: LabelValues,
    /// Where it came from.
    pub position: Position,
}

/// What became of something that a source said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Nothing: what is known is as new.
    Older,
    /// It says what is known, but later.
    Repeated,
    /// Other labels may hold.
    New,
}

/// The labels of a series.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    // In order, apart from each other or with different labels.
    runs: Vec<Run>,
    // By source and instant.
    given: Vec<Given>,
}

impl History {
    /// One that is put together again.
    pub fn restore(runs: Vec<Run>, given: Vec<Given>) -> History {
        History { runs, given }
    }

    /// What readings had.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// What sources said.
    pub fn given(&self) -> &[Given] {
        &self.given
    }

    /// Labels of the last run.
    pub fn latest(&self) -> Option<&LabelValues> {
        self.runs.last().map(|run| &run.labels)
    }

    /// Replaces each set of labels by one that is equal to it.
    pub fn share(&mut self, mut shared: impl FnMut(&LabelValues) -> LabelValues) {
        let of_runs = self.runs.iter_mut().map(|run| &mut run.labels);
        let of_sources = self.given.iter_mut().map(|given| &mut given.labels);
        of_runs.chain(of_sources).for_each(|labels| *labels = shared(labels));
    }

    /// Gives back room that nothing takes.
    pub fn fit(&mut self) {
        self.runs.shrink_to_fit();
        self.given.shrink_to_fit();
    }

    /// Bytes that it takes beside itself; sets of labels are shared.
    pub fn bytes(&self) -> usize {
        self.runs.capacity() * size_of::<Run>() + self.given.capacity() * size_of::<Given>()
    }

    /// The reading of the interval `[start, end)` has these labels. Whether that may have changed what holds when.
    pub fn read(&mut self, start: Micros, end: Micros, labels: &LabelValues) -> bool {
        if let Some(last) = self.runs.last_mut()
            && last.from <= start
            && (Arc::ptr_eq(&last.labels, labels) || last.labels == *labels)
        {
            if start <= last.to {
                last.to = last.to.max(end);
            } else {
                self.runs.push(Run { from: start, to: end, labels: Arc::clone(labels) });
                self.limit();
            }
            return false;
        }
        self.replace(start, end, labels);
        self.limit();
        true
    }

    fn replace(&mut self, start: Micros, end: Micros, labels: &LabelValues) {
        let mut runs: Vec<Run> = Vec::with_capacity(self.runs.len() + 2);
        let mut push = |run: Run| match runs.last_mut() {
            Some(last) if last.to == run.from && last.labels == run.labels => last.to = run.to,
            _ => runs.push(run),
        };
        let mut mine = Some(Run { from: start, to: end, labels: Arc::clone(labels) });
        for run in std::mem::take(&mut self.runs) {
            if run.from < start {
                push(Run { to: run.to.min(start), ..run.clone() });
            }
            if run.to > end {
                if let Some(mine) = mine.take() {
                    push(mine);
                }
                push(Run { from: run.from.max(end), ..run });
            }
        }
        if let Some(mine) = mine {
            push(mine);
        }
        self.runs = runs;
    }

    // A series with a gap a day would otherwise grow without end. Only a reading that comes late, into such a gap, with
    // other labels than both of its neighbours is then taken for a shorter stay than it may have been.
    fn limit(&mut self) {
        while self.runs.len() > RUNS_MAX {
            let alike = self.runs.windows(2).position(|pair| pair[0].labels == pair[1].labels);
            let Some(index) = alike else { return };
            let next = self.runs.remove(index + 1);
            self.runs[index].to = next.to;
        }
    }

    /// A source said something.
    pub fn say(&mut self, given: Given) -> Said {
        match self.given.binary_search_by_key(&(given.source, given.valid_from), |g| (g.source, g.valid_from)) {
            Ok(index) if self.given[index].position > given.position => Said::Older,
            Ok(index) => {
                let same = self.given[index].labels == given.labels;
                // The same record says more than before where a label of its source is configured since.
                if same && self.given[index].position == given.position {
                    return Said::Older;
                }
                self.given[index] = given;
                if same { Said::Repeated } else { Said::New }
            }
            Err(index) => {
                self.given.insert(index, given);
                Said::New
            }
        }
    }

    /// Instants from which something else may hold, in no order.
    pub fn changes(&self) -> impl Iterator<Item = Micros> + '_ {
        let runs = self.runs.iter().map(|run| run.from);
        runs.chain(self.given.iter().map(|given| given.valid_from))
    }

    /// The value of a label of a series of this feed at an instant.
    pub fn value(&self, label: &Label, feed: u16, at: Micros) -> Option<Arc<str>> {
        let given = label.given.and_then(|(source, place)| {
            let next = self.given.partition_point(|given| (given.source, given.valid_from) <= (source, at));
            let given = self.given.get(next.checked_sub(1)?).filter(|given| given.source == source)?;
            given.labels.get(place)?.clone()
        });
        given.or_else(|| {
            let place = (*label.of_feed.get(usize::from(feed))?)?;
            let next = self.runs.partition_point(|run| run.from <= at);
            self.runs.get(next.checked_sub(1)?)?.labels.get(place)?.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(value: u8) -> LabelValues {
        [Some(Arc::from(value.to_string()))].into()
    }

    fn label() -> Label {
        Label { name: "site".into(), of_feed: vec![Some(0)], given: Some((1, 0)) }
    }

    #[test]
    fn a_source_goes_before_the_readings_and_the_greater_position_counts() {
        let mut history = History::default();
        history.read(0, 1, &labels(1));
        let say = |history: &mut History, valid_from, value: Option<u8>, offset| {
            let labels = [value.map(|value| Arc::from(value.to_string()))].into();
            let position = Position { timestamp_ms: 0, partition: 0, offset };
            history.say(Given { source: 1, valid_from, labels, position })
        };
        assert_eq!(say(&mut history, 5, Some(2), 7), Said::New);
        assert_eq!(say(&mut history, 5, Some(3), 6), Said::Older);
        assert_eq!(say(&mut history, 5, Some(2), 8), Said::Repeated);
        // Read again: nothing new, unless its source has a label more since.
        assert_eq!(say(&mut history, 5, Some(2), 8), Said::Older);
        assert_eq!(say(&mut history, 5, Some(4), 8), Said::New);
        assert_eq!(say(&mut history, 5, Some(2), 8), Said::New);
        assert_eq!(say(&mut history, 9, None, 1), Said::New);
        let values: Vec<Option<Arc<str>>> = [4, 5, 8, 9].map(|at| history.value(&label(), 0, at)).into();
        assert_eq!(values, [Some("1".into()), Some("2".into()), Some("2".into()), Some("1".into())]);
        assert_eq!(history.value(&label(), 7, 4), None);
    }

    proptest! {
        /// Whatever the order in which intervals come and are corrected: each has the labels of its last reading, a gap
        /// those of the interval before it.
        #[test]
        fn runs_are_what_the_readings_say(reads in prop::collection::vec((0..40i64, 0..3u8), 1..60)) {
            let mut history = History::default();
            let mut truth = std::collections::BTreeMap::new();
            for (at, value) in reads {
                history.read(at, at + 1, &labels(value));
                truth.insert(at, value);
            }
            for at in 0..42 {
                let expected = truth.range(..=at).next_back().map(|(_, value)| Arc::from(value.to_string()));
                prop_assert_eq!(history.value(&label(), 0, at), expected, "at {}", at);
            }
        }
    }

    #[test]
    fn gaps_do_not_make_it_grow() {
        let mut history = History::default();
        for at in 0..1000 {
            history.read(2 * at, 2 * at + 1, &labels(1));
        }
        assert!(history.runs().len() <= RUNS_MAX);
        assert_eq!(history.value(&label(), 0, 1999), Some("1".into()));
    }
}
