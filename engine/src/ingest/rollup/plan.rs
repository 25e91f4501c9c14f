//! The configured roll-ups, resolved: numbers in place of names, and what identifiers are made of.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use jiff::tz::TimeZone;
use meterline_schemas::config::{Config, RollupFrequency};
use meterline_schemas::labels::ROLLUP_PREFIX;
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};

use super::sums::Valuation;

/// Where the values of one label come from.
#[derive(Debug, Clone, PartialEq)]
pub struct Label {
    /// Its name.
    pub name: Arc<str>,
    /// By number of the feed: its place among the labels of the feed's readings.
    pub of_feed: Vec<Option<usize>>,
    /// The source that gives it, and its place there.
    pub given: Option<(u16, usize)>,
}

impl Label {
    /// The label of this name in a configuration.
    pub fn of(config: &Config, name: &str) -> Label {
        Label {
            name: name.into(),
            of_feed: config.feed.values().map(|feed| feed.labels.keys().position(|label| label == name)).collect(),
            given: (0..)
                .zip(config.labels.values())
                .find_map(|(number, source)| Some((number, source.labels.keys().position(|label| label == name)?))),
        }
    }
}

/// One roll-up.
#[derive(Debug, Clone)]
pub struct Rollup {
    /// The feed of its series: `rollup.NAME`.
    pub feed: Arc<str>,
    /// Numbers of its labels, from the top down.
    pub by: Vec<usize>,
    // By number of the feed.
    feeds: Vec<bool>,
    /// Lengths that take all series of a group.
    pub lengths: Vec<Frequency>,
    /// Whether other frequencies of its series have a roll-up of their own.
    pub native: bool,
    /// How values are made.
    pub valuation: Valuation,
    /// Unit of its series and of theirs.
    pub unit: Unit,
    /// Zone of days, weeks and months.
    pub zone: TimeZone,
    /// In place of a label that is not there.
    pub unlabelled: Option<Arc<str>>,
    /// How long before the newest interval they stay in memory.
    pub remembered: Micros,
}

/// All roll-ups, and the labels that they need.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Labels by number.
    pub labels: Vec<Label>,
    /// Roll-ups by number, ordered by name.
    pub rollups: Vec<Rollup>,
}

impl Plan {
    /// The plan of a configuration. Fails only if a zone is unknown, which a checked configuration excludes.
    pub fn new(config: &Config) -> Result<Plan, jiff::Error> {
        let names: BTreeSet<&String> = config.rollup.values().flat_map(|rollup| &rollup.by).collect();
        let labels: Vec<Label> = names.iter().map(|name| Label::of(config, name)).collect();
        let number = |name: &String| names.iter().position(|known| *known == name);
        let mut rollups = Vec::new();
        for (name, rollup) in &config.rollup {
            let lengths: BTreeSet<Frequency> = rollup
                .frequencies
                .iter()
                .filter_map(|frequency| match frequency {
                    RollupFrequency::Every(frequency) => Some(*frequency),
                    RollupFrequency::Native => None,
                })
                .collect();
            rollups.push(Rollup {
                feed: format!("{ROLLUP_PREFIX}{name}").into(),
                by: rollup.by.iter().filter_map(number).collect(),
                feeds: config.feed.keys().map(|feed| rollup.feeds.is_empty() || rollup.feeds.contains(feed)).collect(),
                lengths: lengths.into_iter().collect(),
                native: rollup.frequencies.contains(&RollupFrequency::Native),
                valuation: Valuation { value: rollup.value, energy: rollup.unit == Unit::KWH },
                unit: rollup.unit.clone(),
                zone: TimeZone::get(&rollup.zone)?,
                unlabelled: rollup.unlabelled.as_deref().map(Arc::from),
                remembered: rollup.remembered.micros(),
            });
        }
        Ok(Plan { labels, rollups })
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.rollups.is_empty()
    }

    /// One roll-up.
    pub fn rollup(&self, number: u16) -> Option<&Rollup> {
        self.rollups.get(usize::from(number))
    }

    /// Whether the readings of a feed say any label that is needed.
    pub fn has_labels(&self, feed: u16) -> bool {
        self.labels.iter().any(|label| label.of_feed.get(usize::from(feed)).is_some_and(Option::is_some))
    }

    /// The texts of the groups to which a series with these labels belongs, from the top down: `region=north`,
    /// `region=north/feeder=f1`, …
    pub fn groups(&self, rollup: &Rollup, value: impl Fn(&Label) -> Option<Arc<str>>) -> Vec<Arc<str>> {
        let mut groups = Vec::with_capacity(rollup.by.len());
        let mut text = String::new();
        for number in &rollup.by {
            let Some(label) = self.labels.get(*number) else { break };
            let Some(value) = value(label).or_else(|| rollup.unlabelled.clone()) else { break };
            if !text.is_empty() {
                text.push('/');
            }
            let _ = write!(text, "{}=", label.name);
            escape(&value, &mut text);
            groups.push(text.as_str().into());
        }
        groups
    }
}

// What separates the parts of an identifier is written as in URLs.
fn escape(value: &str, out: &mut String) {
    for letter in value.chars() {
        match letter {
            '%' | '/' | '=' | '@' => {
                let _ = write!(out, "%{:02X}", letter as u32);
            }
            letter if letter.is_control() => {
                let mut bytes = [0; 4];
                for byte in letter.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(out, "%{byte:02X}");
                }
            }
            letter => out.push(letter),
        }
    }
}

impl Rollup {
    /// Whether series of this feed may take part.
    pub fn has_feed(&self, feed: u16) -> bool {
        self.feeds.get(usize::from(feed)).copied().unwrap_or(false)
    }

    /// Whether series of this feed and unit take part.
    pub fn takes(&self, feed: u16, unit: &Unit) -> bool {
        self.has_feed(feed) && self.unit == *unit
    }

    /// The lengths to which intervals of this frequency may add something.
    pub fn lengths_for(&self, frequency: Frequency) -> impl Iterator<Item = Frequency> + '_ {
        let own = (self.native && !self.lengths.contains(&frequency)).then_some(frequency);
        self.lengths.iter().copied().chain(own)
    }

    /// Whose membership decides what is expected in intervals of this length: that of series of one frequency, or of
    /// all.
    pub fn members_of(&self, length: Frequency) -> Option<Frequency> {
        if self.lengths.contains(&length) { None } else { Some(length) }
    }

    /// The interval of this length that holds the whole of `[start, end)`.
    pub fn slot(&self, length: Frequency, start: Micros, end: Micros) -> Option<(Micros, Micros)> {
        let from = length.floor(start, &self.zone);
        let to = length.advance(from, 1, &self.zone);
        (start < end && end <= to).then_some((from, to))
    }

    /// The identifier of a group's series: `rollup.grid:region=north/feeder=f1@PT1H`.
    pub fn series(&self, group: &str, length: Frequency) -> Arc<str> {
        format!("{}:{group}@{length}", self.feed).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meterline_schemas::config::{FeedConfig, RollupConfig};
    use meterline_schemas::time::{HOUR, MINUTE};

    fn plan() -> Plan {
        let mut config = Config::default();
        let mut feed = FeedConfig::new("t", "s", "t", "v");
        feed.labels = [("region".into(), "r".into()), ("site".into(), "s".into())].into();
        config.feed.insert("m".into(), feed);
        let mut rollup = RollupConfig::new(&["region", "site"]);
        rollup.frequencies = vec![RollupFrequency::Native, RollupFrequency::Every(Frequency::HOUR)];
        config.rollup.insert("grid".into(), rollup);
        Plan::new(&config).unwrap()
    }

    #[test]
    fn identifiers_are_unique_whatever_labels_hold() {
        let plan = plan();
        let rollup = plan.rollup(0).unwrap();
        let groups = |region: Option<&str>, site: Option<&str>| {
            plan.groups(rollup, |label| if &*label.name == "site" { site } else { region }.map(Arc::from))
        };
        let found = groups(Some("a/site=b"), Some("c@%\n"));
        assert_eq!(*found[1], *"region=a%2Fsite%3Db/site=c%40%25%0A");
        assert_eq!(*rollup.series(&found[0], Frequency::HOUR), *"rollup.grid:region=a%2Fsite%3Db@PT1H");
        assert_eq!(groups(Some("a"), None), ["region=a".into()]);
        assert!(groups(None, Some("b")).is_empty());
    }

    #[test]
    fn a_listed_length_takes_all_and_native_takes_its_own() {
        let plan = plan();
        let rollup = plan.rollup(0).unwrap();
        let lengths = |frequency| rollup.lengths_for(frequency).collect::<Vec<_>>();
        assert_eq!(lengths(Frequency::QUARTER_HOUR), [Frequency::HOUR, Frequency::QUARTER_HOUR]);
        assert_eq!(lengths(Frequency::HOUR), [Frequency::HOUR]);
        assert_eq!(rollup.members_of(Frequency::HOUR), None);
        assert_eq!(rollup.members_of(Frequency::Day), Some(Frequency::Day));
        assert_eq!(rollup.slot(Frequency::HOUR, 45 * MINUTE, HOUR), Some((0, HOUR)));
        assert_eq!(rollup.slot(Frequency::HOUR, 50 * MINUTE, HOUR + 1), None);
        assert!(rollup.takes(0, &Unit::KWH) && !rollup.takes(0, &Unit::KW) && !rollup.takes(1, &Unit::KWH));
    }
}
