//! Who has a number in the stream: feeds, then topics of labels, then roll-ups, each in the order of the configuration.

use std::sync::Arc;

use jiff::tz::TimeZone;
use meterline_schemas::config::Config;

/// The numbers of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    all: Arc<[String]>,
    feeds: usize,
    // By topic of labels: the number of its source among `[labels.*]`.
    sources: Arc<[u16]>,
}

/// A feed of series: one of the configuration, or a roll-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeriesFeed<'a> {
    /// Its number.
    pub number: u16,
    /// IANA name of the zone of its days, weeks and months.
    pub zone: &'a str,
}

/// What the names of topics of labels begin with, where they stand among the feeds.
pub const LABELS_PREFIX: &str = "labels.";

/// The name by which a topic of labels stands among the feeds.
pub fn labels_feed(name: &str) -> String {
    format!("{LABELS_PREFIX}{name}")
}

/// The name by which a roll-up stands among the feeds.
pub fn rollup_feed(name: &str) -> String {
    format!("{}{name}", meterline_schemas::labels::ROLLUP_PREFIX)
}

impl Names {
    /// Those of a configuration.
    pub fn of(config: &Config) -> Names {
        let topics = || (0..).zip(&config.labels).filter(|(_, (_, source))| source.topic.is_some());
        let feeds = config.feed.keys().cloned();
        let labels = topics().map(|(_, (name, _))| labels_feed(name));
        let rollups = config.rollup.keys().map(|name| rollup_feed(name));
        Names {
            all: feeds.chain(labels).chain(rollups).collect(),
            feeds: config.feed.len(),
            sources: topics().map(|(number, _)| number).collect(),
        }
    }

    /// All names, by number.
    pub fn all(&self) -> &[String] {
        &self.all
    }

    /// The name behind a number.
    pub fn name(&self, number: u16) -> &str {
        self.all.get(usize::from(number)).map_or("", String::as_str)
    }

    /// The source among `[labels.*]` whose topic has this number.
    pub fn source(&self, number: u16) -> Option<u16> {
        self.sources.get(usize::from(number).checked_sub(self.feeds)?).copied()
    }

    /// The number of the first roll-up.
    pub fn first_rollup(&self) -> u16 {
        (self.feeds + self.sources.len()) as u16
    }

    /// The feeds that have series.
    pub fn series_feeds<'a>(&self, config: &'a Config) -> impl Iterator<Item = SeriesFeed<'a>> + use<'a> {
        let rollups = (self.first_rollup()..).zip(config.rollup.values().map(|rollup| rollup.zone.as_str()));
        let feeds = (0..).zip(config.feed.values().map(|feed| feed.zone.as_str()));
        feeds.chain(rollups).map(|(number, zone)| SeriesFeed { number, zone })
    }
}

impl SeriesFeed<'_> {
    /// Its zone; UTC where that is unknown, which a checked configuration excludes.
    pub fn time_zone(&self) -> TimeZone {
        TimeZone::get(self.zone).unwrap_or(TimeZone::UTC)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feeds_come_first_and_roll_ups_last() {
        let feed = "topic = \"t\"\nseries = \"s\"\ntime = \"t\"\nvalue = \"v\"\n";
        let text = format!(
            "[feed.b]\n{feed}[feed.a]\n{}zone = \"Europe/Lisbon\"\n[labels.file]\nfile = \"l.csv\"\nlabels = {{ x = \"x\" }}\n\
             [labels.meta]\ntopic = \"m\"\nlabels = {{ y = \"y\" }}\n[rollup.grid]\nby = [\"y\"]\nzone = \"Asia/Tokyo\"\n",
            feed.replace("\"t\"", "\"u\"")
        );
        let config = meterline_schemas::config::parse(&text).unwrap();
        let names = Names::of(&config);
        assert_eq!(names.all(), ["a", "b", "labels.meta", "rollup.grid"]);
        assert_eq!((names.source(1), names.source(2), names.source(3)), (None, Some(1), None));
        let feeds: Vec<_> = names.series_feeds(&config).map(|feed| (feed.number, feed.zone)).collect();
        assert_eq!(feeds, [(0, "Europe/Lisbon"), (1, "UTC"), (3, "Asia/Tokyo")]);
    }
}
