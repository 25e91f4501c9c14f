//! `[feed.NAME]`: one Kafka topic and how its records are understood.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::frequency::Frequency;
use crate::reading::ValueKind;
use crate::time::{DAY, MINUTE, Span};
use crate::unit::Unit;

/// One Kafka topic with its format, field mapping, time stamp convention and value kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedConfig {
    /// Topic to read. Required.
    pub topic: String,
    /// Field with the series identifier, a dot-separated path into nested records. Required.
    pub series: String,
    /// Field with the time stamp: RFC 3339, a local date and time, or epoch seconds, milliseconds or microseconds.
    /// Required.
    pub time: String,
    /// Field with the value. Required.
    pub value: String,
    /// Text put before every series identifier. Identifiers are unique over all feeds: this tells the meters of two
    /// feeds apart that are called the same. Default none.
    #[serde(default)]
    pub series_prefix: String,
    /// Record format. Default `json`.
    #[serde(default)]
    pub format: Format,
    /// Unit of the value. Default `kWh`.
    #[serde(default = "kwh")]
    pub unit: Unit,
    /// Field with the unit, for feeds that mix units; `unit` where it is absent. Default none.
    #[serde(default)]
    pub unit_field: Option<String>,
    /// Field with the quality (`measured`, `estimated`, `substituted`). Default none: measured.
    #[serde(default)]
    pub quality: Option<String>,
    /// What a value means. Default `interval`.
    #[serde(default)]
    pub kind: ValueKind,
    /// Which end of the interval the stamp marks. Default `end`.
    #[serde(default)]
    pub label: Label,
    /// IANA time zone of stamps without an offset, and of calendar days. Default `UTC`.
    #[serde(default = "utc")]
    pub zone: String,
    /// What a stamp without an offset means that a clock of `zone` shows twice, because it is put back, or never, because
    /// it is put forward. Default `refuse`.
    #[serde(default)]
    pub clock_change: ClockChange,
    /// How long after its end an interval stays open. Default `15m`.
    #[serde(default = "quarter_hour")]
    pub lateness: Span,
    /// How far a stamp may lie after the time stamp of its record, and that after the clock of this machine; beyond it, the
    /// meter's clock is wrong and the reading is a dead letter (`time_ahead`), or the producer's is and the record is one
    /// (`record_time_ahead`). Default `1d`.
    #[serde(default = "day")]
    pub max_ahead: Span,
    /// Native frequency of every series of the feed. A reading that is stamped more than five sixteenths of an interval
    /// beside its boundaries is a dead letter (`off_grid`), but of days and more. Default: detected per series.
    #[serde(default)]
    pub frequency: Option<Frequency>,
    /// Labels of the series (site, feeder, …) with the field that holds each, for roll-ups: texts or whole numbers. An
    /// interval has those of the reading that it comes from. Default none.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What happens to a record that cannot be read. Default `dead_letter`.
    #[serde(default)]
    pub bad_records: BadRecords,
    /// What happens when the topic is not the one that was read before: it was deleted and created again. Default
    /// `fail`.
    #[serde(default)]
    pub on_recreated: OnRecreated,
    /// What happens when the broker no longer has the records that come next, because its retention was faster. Default
    /// `fail`.
    #[serde(default)]
    pub on_expired: OnExpired,
}

fn kwh() -> Unit {
    Unit::KWH
}

fn utc() -> String {
    "UTC".into()
}

fn day() -> Span {
    Span(DAY)
}

fn quarter_hour() -> Span {
    Span(15 * MINUTE)
}

/// Record format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object a record.
    #[default]
    Json,
}

/// Which end of its interval a stamp marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// The stamp is the interval's start.
    Begin,
    /// The stamp is the interval's end.
    #[default]
    End,
}

/// What a stamp without an offset means when clocks change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockChange {
    /// Nothing that one could be sure of: the record cannot be read (`time_ambiguous`).
    #[default]
    Refuse,
    /// The first of the two; of one that the clock never shows, the instant with the offset before the change.
    First,
    /// The second of the two; of one that the clock never shows, as `first`.
    Second,
}

/// What happens to a record that cannot be read. It is counted in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadRecords {
    /// Kept in the table `dead_letters` with the reason and its raw bytes (the first 64 KiB of them). Of a reading that
    /// could not be used (its unit, its stamp, too many series) partition and offset are kept instead.
    #[default]
    DeadLetter,
    /// Counted only.
    Skip,
    /// The engine stops with an error that names the record.
    Fail,
}

/// What happens when the topic is not the one that was read before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRecreated {
    /// The engine stops with an error that names the topic.
    #[default]
    Fail,
    /// The new topic is read from its beginning; what was read of the old one stays. `partitions.incarnation` counts.
    Restart,
}

/// What happens when the broker no longer has the records that come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExpired {
    /// The engine stops with an error that names the lost offsets.
    #[default]
    Fail,
    /// Reading goes on with the earliest record that there is; the lost offsets are counted in `partitions.expired`.
    Earliest,
}

impl FeedConfig {
    /// A feed with the four required keys and defaults for the rest.
    pub fn new(topic: &str, series: &str, time: &str, value: &str) -> FeedConfig {
        FeedConfig {
            topic: topic.into(),
            series: series.into(),
            time: time.into(),
            value: value.into(),
            series_prefix: String::new(),
            format: Format::Json,
            unit: kwh(),
            unit_field: None,
            quality: None,
            kind: ValueKind::Interval,
            label: Label::End,
            zone: utc(),
            clock_change: ClockChange::Refuse,
            lateness: quarter_hour(),
            max_ahead: day(),
            frequency: None,
            labels: BTreeMap::new(),
            bad_records: BadRecords::DeadLetter,
            on_recreated: OnRecreated::Fail,
            on_expired: OnExpired::Fail,
        }
    }
}
