//! Which series label policies take: the class of each series at an instant, by the files of labels.
//!
//! A class is the number of a [`Selector`] of the configuration, from 1, in the order of policies; 0 is the class of all
//! series that none takes. The class under which a series is counted follows from its state (the end of its last interval)
//! and from what the files said at the start: nothing changes it but a reading, so what the census loses of a series is
//! always what it had of it, whether it was in memory meanwhile or not.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use compact_str::CompactString;
use hashbrown::HashMap;
use jiff::tz::TimeZone;
use meterline_schemas::config::{Config, Selector, selectors};
use meterline_schemas::labels::ROLLUP_PREFIX;
use meterline_schemas::{Frequency, Micros};

use super::error::IngestError;
use super::rollup::history::{Given, History};
use super::rollup::plan::Label;
use super::rollup::{self, LabelChange};
use super::series::SeriesState;

/// The class of series that no label policy takes.
pub const BASE: u8 = 0;

/// The classes of series.
#[derive(Debug, Clone, Default)]
pub struct Classes {
    selectors: Arc<[Selector]>,
    // Which of them take series of some labels, by number: a few lists that many series have in common.
    kinds: Vec<Box<[u8]>>,
    // Series that some selector takes at some time; not all that files name.
    series: HashMap<CompactString, Spans>,
}

/// Numbers of kinds, and from when on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Spans {
    Always(u32),
    From(Box<[(Micros, u32)]>),
}

impl Classes {
    /// Those of a configuration, by its files of labels; relative paths are below `directory`. Without label policies no file
    /// is read.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(config: &Config, directory: &Path) -> Result<Classes, IngestError> {
        let selectors = selectors(&config.policy);
        if selectors.is_empty() {
            return Ok(Classes::default());
        }
        // No other file can fail a start.
        let mut config = config.clone();
        config.labels.retain(|_, source| selectors.iter().any(|of| source.labels.contains_key(&of.label)));
        let said = rollup::restore::files(&config, directory)?;
        Ok(Classes::of(&config, selectors, said))
    }

    /// As [`Classes::read`], beside other tasks.
    ///
    /// # Errors
    /// The same.
    pub async fn load(config: &Config, directory: &Path) -> Result<Arc<Classes>, IngestError> {
        if selectors(&config.policy).is_empty() {
            return Ok(Arc::default());
        }
        let (config, directory) = (config.clone(), directory.to_owned());
        let reading = tokio::task::spawn_blocking(move || Classes::read(&config, &directory));
        let read =
            reading.await.map_err(|error| IngestError::Fault(format!("reading the files of labels: {error}")))?;
        read.map(Arc::new)
    }

    /// Those of some selectors, by what sources said.
    pub fn of(config: &Config, selectors: Vec<Selector>, said: impl IntoIterator<Item = LabelChange>) -> Classes {
        let names: BTreeSet<&str> = selectors.iter().map(|of| of.label.as_str()).collect();
        let labels: Vec<Label> = names.iter().map(|name| Label::of(config, name)).collect();
        let place = |of: &Selector| names.iter().position(|name| *name == of.label);
        let wanted: Vec<(u8, usize, Arc<str>)> = (1..=u8::MAX)
            .zip(&selectors)
            .filter_map(|(class, of)| Some((class, place(of)?, of.value.as_str().into())))
            .collect();
        let mut histories: HashMap<Arc<str>, History> = HashMap::new();
        for LabelChange { source, series, valid_from, labels, position } in said {
            // What is a roll-up's series has no labels.
            if !series.starts_with(ROLLUP_PREFIX) {
                histories.entry(series).or_default().say(Given { source, valid_from, labels, position });
            }
        }
        let (mut kinds, mut series) = (Vec::new(), HashMap::new());
        let mut numbers: HashMap<Box<[u8]>, u32> = HashMap::new();
        for (id, history) in histories {
            let instants: BTreeSet<Micros> = history.changes().collect();
            let mut spans: Vec<(Micros, u32)> = Vec::with_capacity(instants.len());
            for at in instants {
                // Of files alone: readings are of no feed here.
                let values: Vec<Option<Arc<str>>> =
                    labels.iter().map(|label| history.value(label, u16::MAX, at)).collect();
                let takes = |(_, place, value): &&(u8, usize, Arc<str>)| values[*place].as_ref() == Some(value);
                let taken: Box<[u8]> = wanted.iter().filter(takes).map(|(class, ..)| *class).collect();
                let number = *numbers.entry(taken).or_insert_with_key(|taken| {
                    kinds.push(taken.clone());
                    (kinds.len() - 1) as u32
                });
                if spans.last().is_none_or(|(_, last)| *last != number) {
                    spans.push((at, number));
                }
            }
            let spans = match spans.as_slice() {
                [(Micros::MIN, always)] => Spans::Always(*always),
                _ => Spans::From(spans.into()),
            };
            if spans.kinds().any(|kind| kinds.get(kind as usize).is_some_and(|taken| !taken.is_empty())) {
                series.insert(CompactString::from(&*id), spans);
            }
        }
        series.shrink_to_fit();
        Classes { selectors: selectors.into(), kinds, series }
    }

    /// Whether all series are of one class, because there is no label policy.
    pub fn is_empty(&self) -> bool {
        self.selectors.is_empty()
    }

    /// The selectors, in the order of their classes.
    pub fn selectors(&self) -> &Arc<[Selector]> {
        &self.selectors
    }

    /// The class that a series is counted under: that of the end of its last interval. `zone` is that of its feed.
    pub fn counted(&self, series: &SeriesState, zone: &TimeZone) -> u8 {
        if self.is_empty() {
            return BASE;
        }
        let (Some(frequency), Some(last)) = (series.frequency, series.last_start) else { return BASE };
        self.class(&series.id, frequency, || frequency.advance(last, 1, zone))
    }

    /// The class of a series of this frequency at an instant.
    pub fn at(&self, series: &str, frequency: Frequency, at: Micros) -> u8 {
        self.class(series, frequency, || at)
    }

    /// Identifiers that some selector takes at some time, in no order.
    pub fn series(&self) -> impl Iterator<Item = &str> + '_ {
        self.series.keys().map(CompactString::as_str)
    }

    fn class(&self, series: &str, frequency: Frequency, at: impl FnOnce() -> Micros) -> u8 {
        let Some(spans) = self.series.get(series) else { return BASE };
        let kind = match spans {
            Spans::Always(kind) => Some(*kind),
            Spans::From(spans) => {
                let at = at();
                let next = spans.partition_point(|(from, _)| *from <= at);
                next.checked_sub(1).and_then(|last| spans.get(last)).map(|(_, kind)| *kind)
            }
        };
        let taken = kind.and_then(|kind| self.kinds.get(kind as usize)).map_or([].as_slice(), |taken| taken);
        let is_of_frequency =
            |class: &u8| self.selectors.get(usize::from(*class) - 1).is_some_and(|of| of.frequency == frequency);
        taken.iter().copied().find(is_of_frequency).unwrap_or(BASE)
    }

    /// Each selector with the number of series that it takes at some time, in the order of classes: what a wrong value is
    /// seen by.
    pub fn taken(&self) -> Vec<(&Selector, usize)> {
        let takes = |class: u8, spans: &Spans| {
            let mut kinds = spans.kinds().filter_map(|kind| self.kinds.get(kind as usize));
            kinds.any(|taken| taken.contains(&class))
        };
        let count = |class: u8| self.series.values().filter(|spans| takes(class, spans)).count();
        (1..=u8::MAX).zip(self.selectors.iter()).map(|(class, of)| (of, count(class))).collect()
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        let beside = |(id, spans): (&CompactString, &Spans)| {
            let of_id = if id.is_heap_allocated() { id.capacity() } else { 0 };
            match spans {
                Spans::Always(_) => of_id,
                Spans::From(spans) => of_id + size_of_val(&**spans),
            }
        };
        self.series.allocation_size() + self.series.iter().map(beside).sum::<usize>()
    }
}

impl Spans {
    fn kinds(&self) -> impl Iterator<Item = u32> + '_ {
        let (always, from) = match self {
            Spans::Always(kind) => (Some(*kind), [].as_slice()),
            Spans::From(spans) => (None, &**spans),
        };
        always.into_iter().chain(from.iter().map(|(_, kind)| *kind))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use meterline_schemas::config::parse;
    use meterline_schemas::time::HOUR;
    use meterline_schemas::unit::Unit;

    use super::*;

    const POLICIES: &str = "[labels.meta]\nfile = \"meta.csv\"\nlabels = { tariff = \"tariff\", phases = \"phases\" }\n\
                            [policy.a]\nfrequency = \"PT1H\"\nlabel = { tariff = \"industry\" }\n\
                            [policy.b]\nfrequency = \"PT1H\"\nlabel = { phases = \"3\" }\n\
                            [policy.c]\nfrequency = \"PT15M\"\nlabel = { phases = \"3\" }\n\
                            [policy.d]\nfrequency = \"P1D\"\nlabel = { tariff = \"household\" }\n\
                            [policy.hours]\nfrequency = \"PT1H\"\n";

    /// The configuration of four label policies with a feed, and its classes by a file with these rows.
    pub(in crate::ingest) fn classes(rows: &str) -> (Config, Classes) {
        let directory = tempfile::tempdir().unwrap();
        let feed = "[feed.f]\ntopic = \"t\"\nseries = \"s\"\ntime = \"t\"\nvalue = \"v\"\nzone = \"Europe/Lisbon\"\n";
        let config = parse(&format!("{feed}{POLICIES}")).unwrap();
        std::fs::write(directory.path().join("meta.csv"), format!("series_id,valid_from,tariff,phases\n{rows}"))
            .unwrap();
        let classes = Classes::read(&config, directory.path()).unwrap();
        (config, classes)
    }

    #[test]
    fn the_first_policy_that_takes_a_series_counts_and_what_holds_then() {
        let (_, classes) = classes(
            "both,,industry,3\nthree,,,3\nhome,,household,1\nlater,1970-01-01T05:00:00Z,industry,\n\
             ends,,industry,\nends,1970-01-01T05:00:00Z,,\nrollup.x:a@PT1H,,industry,3\n",
        );
        let (hours, quarters) = (Frequency::HOUR, Frequency::QUARTER_HOUR);
        for (series, frequency, before, since) in [
            ("both", hours, 1, 1),
            ("both", quarters, 3, 3),
            ("both", Frequency::Day, 0, 0),
            ("three", hours, 2, 2),
            ("home", hours, 0, 0),
            ("home", Frequency::Day, 4, 4),
            ("nobody", hours, 0, 0),
            ("later", hours, 0, 1),
            ("later", quarters, 0, 0),
            ("ends", hours, 1, 0),
            ("rollup.x:a@PT1H", hours, 0, 0),
        ] {
            let found = [5 * HOUR - 1, 5 * HOUR].map(|at| classes.at(series, frequency, at));
            assert_eq!(found, [before, since], "{series} {frequency}");
        }
        let mut named: Vec<&str> = classes.series().collect();
        named.sort_unstable();
        assert_eq!(named, ["both", "ends", "home", "later", "three"]);
        let counts: Vec<usize> = classes.taken().into_iter().map(|(_, count)| count).collect();
        assert_eq!(counts, [3, 2, 2, 1]);
        assert!(classes.bytes() > 0 && Classes::default().bytes() == 0);
        // The end of the last interval counts, as the origin does for runs.
        let mut state = SeriesState::new("f", "later", Unit::KWH);
        state.frequency = Some(hours);
        for (last, class) in [(None, 0), (Some(3 * HOUR), 0), (Some(4 * HOUR), 1)] {
            state.last_start = last;
            assert_eq!(classes.counted(&state, &TimeZone::UTC), class);
        }
    }

    #[test]
    fn without_a_label_policy_no_file_is_read() {
        let config = parse("[labels.meta]\nfile = \"nowhere.csv\"\nlabels = { tariff = \"tariff\" }\n").unwrap();
        assert!(Classes::read(&config, Path::new("/nowhere")).unwrap().is_empty());
        let text = "[labels.meta]\nfile = \"nowhere.csv\"\nlabels = { tariff = \"tariff\" }\n\
                    [policy.a]\nfrequency = \"PT1H\"\nlabel = { tariff = \"x\" }\n";
        let error = Classes::read(&parse(text).unwrap(), Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("[labels.meta]") && error.contains("nowhere.csv"), "{error}");
    }
}
