//! What a commit remembers of a series' labels: by names, because numbers change with the configuration.

use std::sync::Arc;

use meterline_schemas::config::Config;
use meterline_schemas::labels::LabelValues;
use meterline_schemas::reading::Position;
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};
use serde::{Deserialize, Serialize};

use super::LabelChange;
use super::history::{Given, History, Run};
use super::member::MemberState;

/// Labels with their values; those without one are left out.
pub type NamedLabels = Vec<(Arc<str>, Arc<str>)>;

/// State of one series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedMember {
    /// Its identifier.
    pub series: Arc<str>,
    /// Its feed; `None` before its first interval.
    pub feed: Option<Arc<str>>,
    /// The unit that its values are stored in; `None` before its first interval.
    pub unit: Option<Unit>,
    /// Start of its first interval of each frequency.
    pub began: Vec<(Micros, Frequency)>,
    /// Intervals in a row with the same labels of readings: start, end, labels.
    pub runs: Vec<(Micros, Micros, NamedLabels)>,
    /// What sources said: source, from when on, labels, position.
    pub given: Vec<(Arc<str>, Micros, NamedLabels, Position)>,
}

/// One who gives labels: a feed or a source.
#[derive(Debug, Clone, PartialEq)]
struct Giver {
    name: Arc<str>,
    labels: Vec<Arc<str>>,
}

/// What a source said and that holds from the next epoch on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedLabels {
    /// The source.
    pub source: Arc<str>,
    /// The series.
    pub series: Arc<str>,
    /// From here on …
    pub valid_from: Micros,
    /// … these hold.
    pub labels: NamedLabels,
    /// Where it was said.
    pub position: Position,
}

/// The names behind the numbers of a configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Givers {
    feeds: Vec<Giver>,
    sources: Vec<Giver>,
}

impl Giver {
    fn new<'l>(name: &str, labels: impl Iterator<Item = &'l String>) -> Giver {
        Giver { name: name.into(), labels: labels.map(|label| label.as_str().into()).collect() }
    }

    fn named(&self, values: &LabelValues) -> NamedLabels {
        let pairs = self.labels.iter().zip(values.iter());
        pairs.filter_map(|(label, value)| Some((Arc::clone(label), Arc::clone(value.as_ref()?)))).collect()
    }

    fn numbered(&self, named: &NamedLabels) -> LabelValues {
        let value =
            |label: &Arc<str>| named.iter().find(|(known, _)| known == label).map(|(_, value)| Arc::clone(value));
        self.labels.iter().map(value).collect()
    }
}

impl Givers {
    /// What was said, by names.
    pub fn save_said(&self, change: &LabelChange) -> Option<SavedLabels> {
        let source = self.sources.get(usize::from(change.source))?;
        Some(SavedLabels {
            source: Arc::clone(&source.name),
            series: Arc::clone(&change.series),
            valid_from: change.valid_from,
            labels: source.named(&change.labels),
            position: change.position,
        })
    }

    /// What was said, with this configuration's numbers; nothing of a source that is no longer configured.
    pub fn restore_said(&self, saved: SavedLabels) -> Option<LabelChange> {
        let number = self.sources.iter().position(|source| source.name == saved.source)?;
        let labels = self.sources[number].numbered(&saved.labels);
        let SavedLabels { series, valid_from, position, .. } = saved;
        Some(LabelChange { source: number as u16, series, valid_from, labels, position })
    }

    /// Labels of a feed's readings, by names.
    pub fn save_read(&self, feed: u16, labels: &LabelValues) -> NamedLabels {
        self.feeds.get(usize::from(feed)).map_or_else(Vec::new, |feed| feed.named(labels))
    }

    /// Labels of a feed's readings, in this configuration's order.
    pub fn restore_read(&self, feed: u16, labels: &NamedLabels) -> LabelValues {
        self.feeds.get(usize::from(feed)).map_or_else(|| [].into(), |feed| feed.numbered(labels))
    }

    /// Those of a configuration.
    pub fn new(config: &Config) -> Givers {
        Givers {
            feeds: config.feed.iter().map(|(name, feed)| Giver::new(name, feed.labels.keys())).collect(),
            sources: config.labels.iter().map(|(name, source)| Giver::new(name, source.labels.keys())).collect(),
        }
    }

    /// A state by names.
    pub fn save(&self, state: &MemberState) -> SavedMember {
        let feed = self.feeds.get(usize::from(state.feed));
        let runs = state.history.runs().iter().filter_map(|run| Some((run.from, run.to, feed?.named(&run.labels))));
        let given = state.history.given().iter().filter_map(|given| {
            let source = self.sources.get(usize::from(given.source))?;
            Some((Arc::clone(&source.name), given.valid_from, source.named(&given.labels), given.position))
        });
        SavedMember {
            series: Arc::clone(&state.series),
            feed: feed.map(|feed| Arc::clone(&feed.name)),
            unit: state.unit.clone(),
            began: state.began.clone(),
            runs: runs.collect(),
            given: given.collect(),
        }
    }

    /// The state with this configuration's numbers. Labels that are no longer configured are forgotten, and so are
    /// those of feeds and sources that are not.
    pub fn restore(&self, saved: &SavedMember) -> MemberState {
        let find = |givers: &[Giver], name: &Arc<str>| givers.iter().position(|giver| giver.name == *name);
        let number = saved.feed.as_ref().and_then(|name| find(&self.feeds, name));
        let feed = number.map(|number| &self.feeds[number]);
        let runs = saved
            .runs
            .iter()
            .filter_map(|(from, to, labels)| Some(Run { from: *from, to: *to, labels: feed?.numbered(labels) }));
        let mut given: Vec<Given> = saved
            .given
            .iter()
            .filter_map(|(source, valid_from, labels, position)| {
                let number = find(&self.sources, source)?;
                Some(Given {
                    source: u16::try_from(number).ok()?,
                    valid_from: *valid_from,
                    labels: self.sources[number].numbered(labels),
                    position: *position,
                })
            })
            .collect();
        given.sort_by_key(|given| (given.source, given.valid_from));
        MemberState {
            series: Arc::clone(&saved.series),
            feed: number.and_then(|number| u16::try_from(number).ok()).unwrap_or(u16::MAX),
            unit: saved.unit.clone(),
            began: saved.began.clone(),
            history: History::restore(runs.collect(), given),
        }
    }
}

#[cfg(test)]
mod tests {
    use meterline_schemas::config::{FeedConfig, LabelsConfig};

    use super::*;

    fn config(feed_labels: &[&str], source_labels: &[&str]) -> Config {
        let map = |labels: &[&str]| labels.iter().map(|label| ((*label).to_owned(), "x".to_owned())).collect();
        let mut config = Config::default();
        config.feed.insert("m".into(), FeedConfig { labels: map(feed_labels), ..FeedConfig::new("t", "s", "t", "v") });
        let source = LabelsConfig {
            file: Some("l.csv".into()),
            topic: None,
            series: "series_id".into(),
            valid_from: "valid_from".into(),
            labels: map(source_labels),
            series_prefix: String::new(),
            zone: "UTC".into(),
        };
        config.labels.insert("meta".into(), source);
        config
    }

    #[test]
    fn states_survive_a_configuration_with_other_numbers() {
        let mut state = MemberState::new("a".into());
        (state.feed, state.unit) = (0, Some(Unit::KWH));
        state.began(5, Frequency::HOUR);
        let text = |text: &str| Some(Arc::from(text));
        state.history.read(5, 6, &[text("s1"), None].into());
        let position = Position { timestamp_ms: 1, partition: 2, offset: 3 };
        let labels = [text("north")].into();
        state.history.say(Given { source: 0, valid_from: 4, labels, position });
        let before = Givers::new(&config(&["site", "zone"], &["region"]));
        let saved = before.save(&state);
        assert_eq!(before.restore(&saved).history.value(&label(0), 0, 5), text("s1"));

        let mut after = config(&["city", "site"], &["area", "region"]);
        after.feed.insert("a".into(), FeedConfig::new("u", "s", "t", "v"));
        let restored = Givers::new(&after).restore(&saved);
        assert_eq!(restored.feed, 1);
        assert_eq!(restored.history.value(&label(1), 1, 5), text("s1"));
        assert_eq!(&*restored.history.given()[0].labels, [None, text("north")]);
        let without = Givers::new(&Config::default()).restore(&saved);
        assert_eq!((without.feed, without.history), (u16::MAX, History::default()));
    }

    fn label(place: usize) -> super::super::plan::Label {
        super::super::plan::Label { name: "site".into(), of_feed: vec![Some(place), Some(place)], given: None }
    }
}
