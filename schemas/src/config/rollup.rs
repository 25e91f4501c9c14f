//! `[rollup.NAME]`: series that are the sums of others. `[labels.NAME]`: what they are grouped by, where the readings
//! do not say it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Config;
use crate::frequency::{Frequency, FrequencyError};
use crate::labels::ROLLUP_PREFIX;
use crate::time::{DAY, Span};
use crate::unit::Unit;

/// `[rollup.NAME]`: one series for each group of series with the same labels, at each level of a hierarchy.
///
/// `by = ["region", "feeder", "site"]` makes one for each region, for each feeder of a region and for each site of a
/// feeder. An interval counts for the group that the labels name at its start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollupConfig {
    /// Labels, from the top of the hierarchy down. Required.
    pub by: Vec<String>,
    /// Feeds whose series take part. Default: all.
    #[serde(default)]
    pub feeds: Vec<String>,
    /// Lengths of the intervals. `native`: one series for each native frequency that occurs in the group, of the series
    /// of that frequency alone. An ISO 8601 length: of all series of the group; their intervals count where they lie
    /// within one of that length, and what lies within none is missing there. Default `["native"]`.
    #[serde(default = "native")]
    pub frequencies: Vec<RollupFrequency>,
    /// `sum`, or `mean`: for energy that of an average series, for other units the mean over time. Default `sum`.
    #[serde(default)]
    pub value: RollupValue,
    /// Stored unit of the series that take part; others do not. Default `kWh`.
    #[serde(default = "kwh")]
    pub unit: Unit,
    /// IANA time zone of days, weeks and months. Default `UTC`.
    #[serde(default = "utc")]
    pub zone: String,
    /// Value in place of a label that a series does not have. Default none: the series counts at the levels above it,
    /// and where it lacks the first label at none (it is counted as unlabelled).
    #[serde(default)]
    pub unlabelled: Option<String>,
    /// How long before the newest interval the groups' intervals are kept in memory, less long where
    /// `ingest.memory_limit` allows less; corrections to older ones read the table. Default `2d`.
    #[serde(default = "two_days")]
    pub remembered: Span,
    /// How the forecasts of these series and of what they add up are made to agree: `none`, `bottom_up` or `min_trace`.
    /// Default `min_trace`; with `value = "mean"`, where nothing adds up, `none`.
    // Left out where it is not given: a commit remembers what was configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconcile: Option<Reconcile>,
}

fn native() -> Vec<RollupFrequency> {
    vec![RollupFrequency::Native]
}

fn kwh() -> Unit {
    Unit::KWH
}

fn utc() -> String {
    "UTC".into()
}

fn two_days() -> Span {
    Span(2 * DAY)
}

impl RollupConfig {
    /// A roll-up by these labels, with defaults for the rest.
    pub fn new(by: &[&str]) -> RollupConfig {
        RollupConfig {
            by: by.iter().map(|label| (*label).to_owned()).collect(),
            feeds: Vec::new(),
            frequencies: native(),
            value: RollupValue::Sum,
            unit: kwh(),
            zone: utc(),
            unlabelled: None,
            remembered: two_days(),
            reconcile: None,
        }
    }

    /// How forecasts are made to agree, with the default filled in.
    pub fn reconcile(&self) -> Reconcile {
        self.reconcile.unwrap_or(match self.value {
            RollupValue::Sum => Reconcile::MinTrace,
            RollupValue::Mean => Reconcile::None,
        })
    }
}

/// Length of a roll-up's intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RollupFrequency {
    /// That of the series themselves.
    Native,
    /// This one.
    Every(Frequency),
}

impl fmt::Display for RollupFrequency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RollupFrequency::Native => f.write_str("native"),
            RollupFrequency::Every(frequency) => frequency.fmt(f),
        }
    }
}

impl FromStr for RollupFrequency {
    type Err = FrequencyError;

    fn from_str(text: &str) -> Result<Self, FrequencyError> {
        if text == "native" { Ok(RollupFrequency::Native) } else { text.parse().map(RollupFrequency::Every) }
    }
}

impl Serialize for RollupFrequency {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RollupFrequency {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(|error| serde::de::Error::custom(format!("{error}, or `native`")))
    }
}

/// What the value of a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RollupValue {
    /// The sum of its series.
    #[default]
    Sum,
    /// Of energy: the sum, divided by the time that is present and multiplied by the interval's length. Of other units:
    /// the mean weighted by time.
    Mean,
}

/// How forecasts of sums and of their parts are made to agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reconcile {
    /// Not at all: every series keeps the forecast that was made for it alone.
    None,
    /// Parts keep their forecasts, and a sum becomes what they add up to. Choose it where nothing may change the
    /// forecast of a meter.
    BottomUp,
    /// All of them change, each as far as its past errors deserve (minimum trace). They are measured in each run, by
    /// forecasts from one horizon earlier, so forecasting takes twice as long.
    MinTrace,
}

/// `[labels.NAME]`: labels of series, from a CSV file or a topic. What is said here goes before what the readings say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelsConfig {
    /// CSV file with one row for each series and change; a relative path is below the configuration's directory. Either
    /// this or `topic` is required.
    #[serde(default)]
    pub file: Option<String>,
    /// Topic with one JSON object for each series and change, such as a compacted one of series metadata.
    #[serde(default)]
    pub topic: Option<String>,
    /// Column or field with the series identifier. Default `series_id`.
    #[serde(default = "series_id")]
    pub series: String,
    /// Column or field with the instant from which the labels hold. Where it is absent or empty: always in a file, from
    /// the record's time stamp on in a topic. Default `valid_from`.
    #[serde(default = "valid_from")]
    pub valid_from: String,
    /// Label names with their column or field. Required; an empty value takes the label away.
    pub labels: BTreeMap<String, String>,
    /// Text put before every series identifier, as in the feed. Default none.
    #[serde(default)]
    pub series_prefix: String,
    /// IANA time zone of stamps without an offset. Default `UTC`.
    #[serde(default = "utc")]
    pub zone: String,
}

fn series_id() -> String {
    "series_id".into()
}

fn valid_from() -> String {
    "valid_from".into()
}

/// Labels that one feed or source may have.
const LABELS_MAX: usize = 32;

/// Whether a name can stand in identifiers and in SQL as it is.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// What is wrong with labels and roll-ups: the dotted key, the message and the remedy.
pub(super) fn fault(config: &Config) -> Option<(String, String, String)> {
    label_fault(config).or_else(|| config.rollup.iter().find_map(|(name, rollup)| rollup_fault(config, name, rollup)))
}

fn found(key: String, message: String, remedy: &str) -> Option<(String, String, String)> {
    Some((key, message, remedy.to_owned()))
}

fn label_fault(config: &Config) -> Option<(String, String, String)> {
    for (name, feed) in &config.feed {
        if feed.series_prefix.starts_with(ROLLUP_PREFIX) {
            let message = format!("feed.{name}.series_prefix begins with `{ROLLUP_PREFIX}`, as roll-up series do");
            return found(format!("feed.{name}.series_prefix"), message, "choose another prefix");
        }
        if feed.labels.len() > LABELS_MAX {
            let message = format!("feed.{name}.labels has more than {LABELS_MAX} labels");
            return found(format!("feed.{name}.labels"), message, "keep those that roll-ups and models need");
        }
        for (label, field) in &feed.labels {
            let key = format!("feed.{name}.labels");
            if !is_plain(label) {
                let message = format!("{key}: `{label}` has characters other than letters, digits, _ and -");
                return found(key, message, "rename the label");
            }
            if field.trim().is_empty() {
                return found(key.clone(), format!("{key}.{label} names no field"), "name the field of the record");
            }
        }
    }
    let mut given: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, source) in &config.labels {
        let key = format!("labels.{name}");
        if !is_plain(name) {
            let message = format!("`{key}` has characters other than letters, digits, _ and -");
            return found(key, message, "rename it");
        }
        if source.file.is_some() == source.topic.is_some() {
            return found(key.clone(), format!("{key} needs either `file` or `topic`"), "give one of the two");
        }
        if let Some((other, _)) = config.feed.iter().find(|(_, feed)| Some(&feed.topic) == source.topic.as_ref()) {
            let message = format!("{key} reads the topic of the feed `{other}`");
            return found(format!("{key}.topic"), message, "labels of readings belong to `labels` of the feed");
        }
        if source.labels.len() > LABELS_MAX {
            let message = format!("{key}.labels has more than {LABELS_MAX} labels");
            return found(format!("{key}.labels"), message, "keep those that roll-ups and models need");
        }
        if source.labels.is_empty() {
            let remedy = "map label names to fields, such as { site = \"site\" }";
            return found(format!("{key}.labels"), format!("{key}.labels is empty"), remedy);
        }
        if jiff::tz::TimeZone::get(&source.zone).is_err() {
            let message = format!("{key}.zone `{}` is no known time zone", source.zone);
            return found(format!("{key}.zone"), message, "use an IANA name such as Europe/Lisbon");
        }
        for label in source.labels.keys() {
            if !is_plain(label) {
                let message = format!("{key}.labels: `{label}` has characters other than letters, digits, _ and -");
                return found(format!("{key}.labels"), message, "rename the label");
            }
            if let Some(other) = given.insert(label, name) {
                let message = format!("the label `{label}` comes from `labels.{other}` and from `{key}`");
                return found(format!("{key}.labels"), message, "take it from one of them");
            }
        }
    }
    None
}

fn rollup_fault(config: &Config, name: &str, rollup: &RollupConfig) -> Option<(String, String, String)> {
    let key = |k: &str| format!("rollup.{name}.{k}");
    if !is_plain(name) {
        let message = format!("rollup name `{name}` has characters other than letters, digits, _ and -");
        return found(format!("rollup.{name}"), message, "rename the roll-up");
    }
    if rollup.by.is_empty() {
        return found(key("by"), format!("rollup.{name}.by names no label"), "name labels, from the top down");
    }
    if let Some(feed) = rollup.feeds.iter().find(|feed| !config.feed.contains_key(*feed)) {
        let message = format!("rollup.{name}.feeds: there is no feed `{feed}`");
        return found(key("feeds"), message, "name feeds that are configured, or leave it out for all");
    }
    let mut seen = BTreeSet::new();
    for label in &rollup.by {
        if !seen.insert(label) {
            let message = format!("rollup.{name}.by names `{label}` twice");
            return found(key("by"), message, "name each level once");
        }
        let from_feed = config
            .feed
            .iter()
            .filter(|(feed, _)| rollup.feeds.is_empty() || rollup.feeds.contains(feed))
            .any(|(_, feed)| feed.labels.contains_key(label));
        if !from_feed && !config.labels.values().any(|source| source.labels.contains_key(label)) {
            let message = format!("rollup.{name}.by: nothing gives the label `{label}`");
            let remedy =
                format!("add it to `labels` of a feed, or to a table [labels.NAME]: labels = {{ {label} = \"…\" }}");
            return found(key("by"), message, &remedy);
        }
    }
    if rollup.frequencies.is_empty() {
        let message = format!("rollup.{name}.frequencies is empty");
        return found(key("frequencies"), message, "leave it out for `native`");
    }
    if rollup.unit.stored() != rollup.unit {
        let message = format!("rollup.{name}.unit is {}, which is stored as {}", rollup.unit, rollup.unit.stored());
        return found(key("unit"), message, &format!("use {}", rollup.unit.stored()));
    }
    if jiff::tz::TimeZone::get(&rollup.zone).is_err() {
        let message = format!("rollup.{name}.zone `{}` is no known time zone", rollup.zone);
        return found(key("zone"), message, "use an IANA name such as Europe/Lisbon");
    }
    if rollup.value == RollupValue::Mean && rollup.reconcile() != Reconcile::None {
        let message = format!("rollup.{name}.reconcile: forecasts of means do not add up");
        return found(key("reconcile"), message, "leave it out, or use value = \"sum\"");
    }
    if rollup.unlabelled.as_deref() == Some("") {
        let message = format!("rollup.{name}.unlabelled is empty");
        return found(key("unlabelled"), message, "give a text, or leave it out");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const FEED: &str = "[feed.m]\ntopic = \"t\"\nseries = \"s\"\ntime = \"t\"\nvalue = \"v\"\n";

    #[test]
    fn a_roll_up_has_defaults() {
        let text = format!("{FEED}labels = {{ site = \"place.site\" }}\n[rollup.grid]\nby = [\"site\"]\n");
        let config = parse(&text).unwrap();
        assert_eq!(config.rollup["grid"], RollupConfig::new(&["site"]));
        assert_eq!(config.feed["m"].labels["site"], "place.site");
        let text = format!(
            "{FEED}[labels.meta]\ntopic = \"meta\"\nlabels = {{ region = \"r\" }}\n\
             [rollup.g]\nby = [\"region\"]\nfrequencies = [\"native\", \"PT1H\", \"P1D\"]\n"
        );
        let config = parse(&text).unwrap();
        let shown: Vec<String> = config.rollup["g"].frequencies.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["native", "PT1H", "P1D"]);
    }

    #[test]
    fn sums_are_reconciled_and_means_are_not() {
        for (line, expected) in [
            ("", Reconcile::MinTrace),
            ("reconcile = \"bottom_up\"", Reconcile::BottomUp),
            ("reconcile = \"none\"", Reconcile::None),
            ("value = \"mean\"", Reconcile::None),
        ] {
            let text = format!("{FEED}labels = {{ site = \"s\" }}\n[rollup.g]\nby = [\"site\"]\n{line}\n");
            assert_eq!(parse(&text).unwrap().rollup["g"].reconcile(), expected, "{line}");
        }
    }

    #[test]
    fn faults_name_the_line_the_key_and_the_remedy() {
        let labels = "labels = { site = \"site\" }\n";
        let file = "[labels.a]\nfile = \"a.csv\"\nlabels = { site = \"x\" }\n";
        for (text, line, words) in [
            (format!("{FEED}[rollup.g]\nby = [\"site\"]\n"), 7, "nothing gives the label `site`; add it to `labels`"),
            (format!("{FEED}{labels}[rollup.g]\nby = []\n"), 8, "from the top down"),
            (format!("{FEED}{labels}[rollup.g]\nby = [\"site\", \"site\"]\n"), 8, "twice"),
            (format!("{FEED}{labels}[rollup.g]\nby = [\"site\"]\nfeeds = [\"n\"]\n"), 9, "no feed `n`"),
            (format!("{FEED}{labels}[rollup.g]\nby = [\"site\"]\nunit = \"kW\"\n"), 9, "use kWh"),
            (format!("{FEED}{labels}[rollup.g]\nby = [\"site\"]\nzone = \"Mars\"\n"), 9, "Europe/Lisbon"),
            (format!("{FEED}{labels}[rollup.g]\nby = [\"site\"]\nfrequencies = [\"PT7M\"]\n"), 9, "or `native`"),
            (
                format!("{FEED}{labels}[rollup.g]\nby = [\"site\"]\nfrequencie = [\"native\"]\n"),
                9,
                "did you mean `frequencies`?",
            ),
            (
                format!("{FEED}{labels}[rollup.g]\nby = [\"site\"]\nreconcile = \"mintrace\"\n"),
                9,
                "did you mean `min_trace`?",
            ),
            (
                format!("{FEED}{labels}[rollup.g]\nby = [\"site\"]\nvalue = \"mean\"\nreconcile = \"bottom_up\"\n"),
                10,
                "leave it out, or use value",
            ),
            (format!("{FEED}{labels}[rollup.\"a b\"]\nby = [\"site\"]\n"), 0, "rename the roll-up"),
            (format!("{FEED}labels = {{ \"a/b\" = \"site\" }}\n"), 6, "rename the label"),
            (format!("{FEED}series_prefix = \"rollup.x\"\n"), 6, "choose another prefix"),
            (format!("{FEED}[labels.a]\nlabels = {{ site = \"x\" }}\n"), 6, "either `file` or `topic`"),
            (format!("{FEED}[labels.a]\ntopic = \"t\"\nlabels = {{ site = \"x\" }}\n"), 7, "of the feed"),
            (
                format!("{FEED}{file}[labels.b]\nfile = \"b.csv\"\nlabels = {{ site = \"x\" }}\n"),
                11,
                "from one of them",
            ),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            if line > 0 {
                assert_eq!(error.line, Some(line), "{error}");
            }
        }
    }
}
