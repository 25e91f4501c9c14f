//! Raw record → [`Reading`], or a [`Refusal`] with its reason.
//!
//! A format (`json`) finds the configured fields of a record; what they mean is the same for every format and is
//! decided here: the series is a text or a whole number, the time any form of [`Stamp`](stamp::Stamp), the value a
//! finite number or a text that is one, unit and quality texts.

mod fields;
mod flat;
mod json;
mod labels;
mod shape;

pub use labels::{LabelDecoder, LabelRecord};

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use compact_str::CompactString;
use jiff::tz::TimeZone;
use meterline_schemas::config::{ClockChange, FeedConfig, Format};
use meterline_schemas::labels::{LabelValues, ROLLUP_PREFIX};
use meterline_schemas::reading::{Position, Quality, Reading, ValueKind};
use meterline_schemas::time::format_micros;
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};

use crate::stamp;

/// The short, stable codes of refusals: the column `reason` of `dead_letters`.
pub mod reason {
    /// The record cannot be parsed at all.
    pub const MALFORMED_RECORD: &str = "malformed_record";
    /// The record has no payload.
    pub const EMPTY_RECORD: &str = "empty_record";
    /// The series field is absent or null.
    pub const SERIES_MISSING: &str = "series_missing";
    /// The series is neither a text of 1 to 256 bytes nor a whole number.
    pub const SERIES_INVALID: &str = "series_invalid";
    /// The time field is absent or null.
    pub const TIME_MISSING: &str = "time_missing";
    /// The time is in no known form.
    pub const TIME_INVALID: &str = "time_invalid";
    /// The time has no offset, and the clock of the feed's zone shows it twice, or never.
    pub const TIME_AMBIGUOUS: &str = "time_ambiguous";
    /// The time is before 1900 or after 2199.
    pub const TIME_OUT_OF_RANGE: &str = "time_out_of_range";
    /// The value field is absent or null.
    pub const VALUE_MISSING: &str = "value_missing";
    /// The value is not a finite number, or not once it is in the unit that is stored.
    pub const VALUE_INVALID: &str = "value_invalid";
    /// The unit is not a text, or does not fit the feed's kind.
    pub const UNIT_INVALID: &str = "unit_invalid";
    /// The quality is none of the known ones.
    pub const QUALITY_INVALID: &str = "quality_invalid";
    /// A label is neither a text of at most 256 bytes nor a whole number.
    pub const LABEL_INVALID: &str = "label_invalid";
    /// The series has an identifier as roll-ups have.
    pub const SERIES_RESERVED: &str = "series_reserved";
}

/// Longest series identifier, in bytes.
pub const SERIES_BYTES_MAX: usize = 256;
/// Units that are remembered by their text; beyond them they are parsed each time.
const UNITS_MAX: usize = 16;

/// Why a record gave no reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Refusal {
    /// Short stable code, one of [`reason`].
    pub reason: &'static str,
    /// Which field, with which value (shortened), and what was expected.
    pub detail: String,
}

impl Refusal {
    /// A refusal of this reason.
    pub fn new(reason: &'static str, detail: impl Into<String>) -> Refusal {
        Refusal { reason, detail: detail.into() }
    }
}

/// Whether a reading that did not come through a [`Decoder`], such as one of a file, is one that it would have let
/// through.
///
/// # Errors
/// The refusal, with the values and the remedy.
pub fn check(series: &str, at: Micros, value: f64, unit: &Unit, kind: ValueKind) -> Result<(), Refusal> {
    let of = || format!("the reading of series `{}` at {} (value {value})", shortened(series), format_micros(at));
    if series.is_empty() || series.len() > SERIES_BYTES_MAX {
        let detail = format!("{}: an identifier must have 1 to {SERIES_BYTES_MAX} bytes", of());
        return Err(Refusal::new(reason::SERIES_INVALID, detail));
    }
    if series.starts_with(ROLLUP_PREFIX) {
        return Err(reserved(series));
    }
    if !(stamp::EARLIEST..stamp::LATEST).contains(&at) {
        let detail = format!("{} is not between the years 1900 and 2199", of());
        return Err(Refusal::new(reason::TIME_OUT_OF_RANGE, detail));
    }
    if !value.is_finite() {
        return Err(Refusal::new(reason::VALUE_INVALID, format!("{} is not finite", of())));
    }
    if !unit.scale().can_store(value) {
        let detail = format!("{} is too large to be stored in {}; {CHECK_UNIT}", of(), unit.stored());
        return Err(Refusal::new(reason::VALUE_INVALID, detail));
    }
    unit.check(kind).map_err(|remedy| Refusal::new(reason::UNIT_INVALID, format!("{}: {remedy}", of())))
}

/// What to do about a value that is too large.
const CHECK_UNIT: &str = "check the value and its unit";

fn reserved(series: &str) -> Refusal {
    let detail = format!(
        "the identifier `{}` begins with `{ROLLUP_PREFIX}`, as those of roll-ups do: set `series_prefix` for this feed",
        shortened(series)
    );
    Refusal::new(reason::SERIES_RESERVED, detail)
}

/// Number of fields that a record may have, beside labels.
const FIELDS: usize = 5;

/// What a format found of a record.
#[derive(Debug, Clone, PartialEq)]
struct Found<'a> {
    fields: [Scalar<'a>; FIELDS],
    // In the order of the configuration; empty, and nothing allocated, where a feed has none.
    labels: Vec<Scalar<'a>>,
}

/// One field as a format found it.
#[derive(Debug, Clone, PartialEq)]
enum Scalar<'a> {
    /// Absent, or null.
    Missing,
    Text(Cow<'a, str>),
    Integer(i64),
    Float(f64),
    /// Something that no field can be, in words.
    Other(&'static str),
}

impl fmt::Display for Scalar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Missing => f.write_str("null"),
            Scalar::Text(text) => write!(f, "`{}`", shortened(text)),
            Scalar::Integer(value) => write!(f, "{value}"),
            Scalar::Float(value) => write!(f, "{value}"),
            Scalar::Other(what) => f.write_str(what),
        }
    }
}

/// At most 80 characters of a text, for messages.
fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// Decodes the records of one feed.
#[derive(Debug)]
pub struct Decoder {
    paths: json::Paths,
    shapes: shape::Shapes,
    names: [String; FIELDS],
    series_prefix: String,
    zone: TimeZone,
    clock_change: ClockChange,
    unit: Unit,
    kind: ValueKind,
    units: Vec<(String, Unit)>,
    // The text that was read last as a time, and its instant: meters report at the same times.
    last_time: (CompactString, Micros),
    labels: Option<labels::LabelSets>,
}

impl Decoder {
    /// The decoder of a feed. Fails only if the feed's zone is unknown, which a checked configuration excludes.
    pub fn new(feed: &FeedConfig) -> Result<Decoder, jiff::Error> {
        let optional = |name: &Option<String>| name.clone().unwrap_or_default();
        let Format::Json = feed.format;
        Ok(Decoder {
            paths: json::Paths::new(
                [
                    Some(&feed.series),
                    Some(&feed.time),
                    Some(&feed.value),
                    feed.unit_field.as_deref(),
                    feed.quality.as_deref(),
                ],
                feed.labels.values(),
            ),
            shapes: shape::Shapes::default(),
            names: [
                feed.series.clone(),
                feed.time.clone(),
                feed.value.clone(),
                optional(&feed.unit_field),
                optional(&feed.quality),
            ],
            series_prefix: feed.series_prefix.clone(),
            zone: TimeZone::get(&feed.zone)?,
            // A day begins once, whatever its clock shows.
            clock_change: match (feed.clock_change, feed.frequency) {
                (ClockChange::Refuse, Some(Frequency::Day | Frequency::Week | Frequency::Month)) => ClockChange::First,
                (change, _) => change,
            },
            unit: feed.unit.clone(),
            kind: feed.kind,
            units: Vec::new(),
            last_time: (CompactString::default(), 0),
            labels: (!feed.labels.is_empty()).then(|| labels::LabelSets::new(feed.labels.values())),
        })
    }

    /// The labels of the record that was decoded last, in the order of the feed's `labels`; `None` for a feed without.
    pub fn labels(&self) -> Option<&LabelValues> {
        self.labels.as_ref().and_then(labels::LabelSets::last)
    }

    /// Decodes one record that came from `position`.
    pub fn decode(&mut self, record: Option<&[u8]>, position: Position) -> Result<Reading, Refusal> {
        let Some(record) = record.filter(|record| !record.is_empty()) else {
            return Err(Refusal::new(reason::EMPTY_RECORD, "the record has no payload"));
        };
        let Found { fields: [series, time, value, unit, quality], labels } =
            self.paths.extract(&mut self.shapes, record)?;
        let at = self.time(&time)?;
        let value = self.value(&value)?;
        let unit = self.unit(&unit)?;
        self.fits(value, &unit)?;
        let quality = self.quality(&quality)?;
        let series = fields::series(&series, &self.names[0], &self.series_prefix)?;
        if let Some(sets) = &mut self.labels {
            sets.take(&labels)?;
        }
        Ok(Reading { series, at, value, unit, quality, position })
    }

    fn time(&mut self, field: &Scalar<'_>) -> Result<Micros, Refusal> {
        match field {
            Scalar::Text(text) if !text.is_empty() && self.last_time.0 == text => return Ok(self.last_time.1),
            _ => {}
        }
        let at = fields::instant(field, &self.names[1], &self.zone, self.clock_change)?;
        if let Scalar::Text(text) = field {
            // The string is used again: stamps with an offset are longer than what it holds without memory of its own.
            let (last, instant) = &mut self.last_time;
            last.clear();
            last.push_str(text);
            *instant = at;
        }
        Ok(at)
    }

    fn value(&self, field: &Scalar<'_>) -> Result<f64, Refusal> {
        let value = match field {
            Scalar::Missing => return Err(fields::missing(reason::VALUE_MISSING, "value", &self.names[2])),
            Scalar::Integer(value) => Some(*value as f64),
            Scalar::Float(value) => Some(*value),
            Scalar::Text(text) => f64::from_str(text.trim()).ok(),
            Scalar::Other(_) => None,
        };
        value.filter(|value| value.is_finite()).ok_or_else(|| {
            Refusal::new(
                reason::VALUE_INVALID,
                format!("value field `{}` is {field}; it must be a finite number", self.names[2]),
            )
        })
    }

    // A number may be none any more once it is in the unit that is stored.
    fn fits(&self, value: f64, unit: &Unit) -> Result<(), Refusal> {
        if unit.scale().can_store(value) {
            return Ok(());
        }
        let (field, stored) = (&self.names[2], unit.stored());
        let detail =
            format!("value field `{field}` is {value:e} {unit}, too large to be stored in {stored}; {CHECK_UNIT}");
        Err(Refusal::new(reason::VALUE_INVALID, detail))
    }

    fn unit(&mut self, field: &Scalar<'_>) -> Result<Unit, Refusal> {
        let text = match field {
            Scalar::Missing => return Ok(self.unit.clone()),
            Scalar::Text(text) if !text.is_empty() && text.len() <= SERIES_BYTES_MAX => text,
            _ => {
                let detail = format!("unit field `{}` is {field}; it must be a text such as kWh", self.names[3]);
                return Err(Refusal::new(reason::UNIT_INVALID, detail));
            }
        };
        if let Some((_, unit)) = self.units.iter().find(|(known, _)| known == text) {
            return Ok(unit.clone());
        }
        let Ok(unit) = text.parse::<Unit>();
        if let Err(remedy) = unit.check(self.kind) {
            let detail = format!("unit field `{}` is {field}: {remedy}", self.names[3]);
            return Err(Refusal::new(reason::UNIT_INVALID, detail));
        }
        if self.units.len() < UNITS_MAX {
            self.units.push((text.clone().into_owned(), unit.clone()));
        }
        Ok(unit)
    }

    fn quality(&self, field: &Scalar<'_>) -> Result<Quality, Refusal> {
        let quality = match field {
            Scalar::Missing => return Ok(Quality::Measured),
            Scalar::Text(text) => text.parse().ok(),
            _ => None,
        };
        quality.ok_or_else(|| {
            Refusal::new(
                reason::QUALITY_INVALID,
                format!("quality field `{}` is {field}; use measured, estimated or substituted", self.names[4]),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use meterline_schemas::time::MINUTE;
    use proptest::prelude::*;

    const POSITION: Position = Position { timestamp_ms: 7, partition: 1, offset: 2 };

    fn decoder() -> Decoder {
        let mut feed = FeedConfig::new("t", "meter.id", "ts", "value");
        feed.unit_field = Some("unit".into());
        feed.quality = Some("quality".into());
        Decoder::new(&feed).unwrap()
    }

    fn decode(record: &str) -> Result<Reading, Refusal> {
        decoder().decode(Some(record.as_bytes()), POSITION)
    }

    #[test]
    fn a_time_that_a_clock_shows_twice_is_what_the_feed_says() {
        let decode = |change, text: &str| {
            let mut feed = FeedConfig::new("t", "id", "ts", "value");
            (feed.zone, feed.clock_change) = ("Europe/Berlin".into(), change);
            let record = format!(r#"{{"id":"a","ts":"{text}","value":1}}"#);
            Decoder::new(&feed)
                .unwrap()
                .decode(Some(record.as_bytes()), POSITION)
                .map(|reading| format_micros(reading.at))
        };
        for (text, first, second) in [
            ("2024-10-27 02:30", "2024-10-27T00:30:00Z", "2024-10-27T01:30:00Z"),
            ("2024-03-31 02:30", "2024-03-31T01:30:00Z", "2024-03-31T01:30:00Z"),
        ] {
            let refusal = decode(ClockChange::Refuse, text).unwrap_err();
            assert_eq!(refusal.reason, reason::TIME_AMBIGUOUS);
            for word in [text, "`ts`", "Europe/Berlin", "clock_change"] {
                assert!(refusal.detail.contains(word), "{refusal}");
            }
            assert_eq!(decode(ClockChange::First, text).as_deref(), Ok(first));
            assert_eq!(decode(ClockChange::Second, text).as_deref(), Ok(second));
        }
        // The day of a clock that is put forward at midnight begins all the same.
        let mut feed = FeedConfig::new("t", "id", "ts", "value");
        (feed.zone, feed.frequency) = ("America/Havana".into(), Some(Frequency::Day));
        let midnight =
            Decoder::new(&feed).unwrap().decode(Some(br#"{"id":"a","ts":"2024-03-10","value":1}"#), POSITION);
        assert_eq!(format_micros(midnight.unwrap().at), "2024-03-10T05:00:00Z");
        for change in [ClockChange::Refuse, ClockChange::First, ClockChange::Second] {
            assert_eq!(decode(change, "2024-10-27 03:00").as_deref(), Ok("2024-10-27T02:00:00Z"));
            assert_eq!(decode(change, "2024-10-27T02:30:00+01:00").as_deref(), Ok("2024-10-27T01:30:00Z"));
        }
    }

    #[test]
    fn the_configured_fields_become_a_reading() {
        let reading = decode(
            r#" {"noise": [1, {"meter": 2}], "meter": {"x": null, "id": "M-1"}, "ts": "1970-01-01T00:15:00Z",
                "value": 1.25, "unit": "kW", "quality": "Estimated"} "#,
        )
        .unwrap();
        assert_eq!(
            reading,
            Reading {
                series: "M-1".into(),
                at: 15 * MINUTE,
                value: 1.25,
                unit: Unit::KW,
                quality: Quality::Estimated,
                position: POSITION,
            }
        );
    }

    #[test]
    fn numbers_and_texts_are_forgiven_for_one_another() {
        for (record, series, value) in [
            (r#"{"meter":{"id":17},"ts":900,"value":"-2.5"}"#, "17", -2.5),
            (r#"{"meter":{"id":"a\"b"},"ts":"900000000","value":3}"#, "a\"b", 3.0),
            (r#"{"meter":{"id":-1},"ts":900.0,"value":" 1e3 ","unit":null,"quality":null}"#, "-1", 1000.0),
            (
                r#"{"meter":{"id":"x"},"meter":{"id":"y"},"ts":900,"value":18446744073709551615}"#,
                "y",
                1.8446744073709552e19,
            ),
        ] {
            let reading = decode(record).unwrap();
            assert_eq!((&*reading.series, reading.value, reading.unit), (series, value, Unit::KWH), "{record}");
        }
    }

    #[test]
    fn a_refusal_names_its_reason_the_field_and_the_value() {
        for (record, reason, words) in [
            ("", "empty_record", "payload"),
            ("{", "malformed_record", "JSON"),
            (r#"{"meter":{"id":"a"},"ts":900,"value":1"#, "malformed_record", "JSON"),
            (r#"{"meter":{"id":"a"},"ts":900,"value":1} x"#, "malformed_record", "JSON"),
            (r#"{"meter":{"id":"a"},"ts":900,"value":1,"rest":{"a":tru}}"#, "malformed_record", "JSON"),
            (r#"{"meter":{"id":"a"},"ts":900,"value":NaN}"#, "malformed_record", "JSON"),
            ("[1]", "malformed_record", "object"),
            ("17", "malformed_record", "object"),
            (r#"{"ts":900,"value":1}"#, "series_missing", "meter.id"),
            (r#"{"meter":"a","ts":900,"value":1}"#, "series_missing", "meter.id"),
            (r#"{"meter":{"id":""},"ts":900,"value":1}"#, "series_invalid", "1 to 256"),
            (r#"{"meter":{"id":[1]},"ts":900,"value":1}"#, "series_invalid", "an array"),
            (r#"{"meter":{"id":1.5},"ts":900,"value":1}"#, "series_invalid", "1.5"),
            (r#"{"meter":{"id":"a"},"value":1}"#, "time_missing", "`ts`"),
            (r#"{"meter":{"id":"a"},"ts":"noon","value":1}"#, "time_invalid", "`noon`"),
            (r#"{"meter":{"id":"a"},"ts":"1066-10-14","value":1}"#, "time_out_of_range", "1066"),
            (r#"{"meter":{"id":"a"},"ts":900}"#, "value_missing", "`value`"),
            (r#"{"meter":{"id":"a"},"ts":900,"value":"n/a"}"#, "value_invalid", "`n/a`"),
            (r#"{"meter":{"id":"a"},"ts":900,"value":"inf"}"#, "value_invalid", "finite"),
            (r#"{"meter":{"id":"a"},"ts":900,"value":true}"#, "value_invalid", "true"),
            (r#"{"meter":{"id":"a"},"ts":900,"value":1e305,"unit":"GW"}"#, "value_invalid", "1e305 GW"),
            (r#"{"meter":{"id":"a"},"ts":900,"value":"-1e305","unit":"GWh"}"#, "value_invalid", "stored in kWh"),
            (r#"{"meter":{"id":"a"},"ts":900,"value":1,"unit":4}"#, "unit_invalid", "kWh"),
            (r#"{"meter":{"id":"a"},"ts":900,"value":1,"quality":"good"}"#, "quality_invalid", "`good`"),
        ] {
            let refusal = decode(record).unwrap_err();
            assert_eq!(refusal.reason, reason, "{record}: {refusal}");
            assert!(refusal.detail.contains(words), "{record}: {refusal}");
        }
    }

    #[test]
    fn a_long_value_is_shortened_in_the_detail() {
        let refusal =
            decode(&format!(r#"{{"meter":{{"id":"a"}},"ts":"{}","value":1}}"#, "x".repeat(5000))).unwrap_err();
        assert!(refusal.detail.len() < 300, "{}", refusal.detail);
    }

    #[test]
    fn a_unit_that_does_not_fit_the_kind_is_refused() {
        let mut feed = FeedConfig::new("t", "s", "t", "v");
        feed.kind = ValueKind::Counter;
        feed.unit_field = Some("u".into());
        let mut decoder = Decoder::new(&feed).unwrap();
        let refusal = decoder.decode(Some(br#"{"s":"a","t":900,"v":1,"u":"kW"}"#), POSITION).unwrap_err();
        assert_eq!(refusal.reason, "unit_invalid");
    }

    #[test]
    fn deeply_nested_records_are_refused_and_never_fatal() {
        let nested = |depth: usize| {
            let brackets = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
            decode(&format!(r#"{{"x":{brackets},"meter":{{"id":"a"}},"ts":900,"value":1}}"#)).map(|r| r.value)
        };
        assert_eq!(nested(100), Ok(1.0));
        assert_eq!(nested(1_000_000).unwrap_err().reason, "malformed_record");
    }

    #[test]
    fn labels_are_read_and_equal_sets_share_their_memory() {
        let mut feed = FeedConfig::new("t", "id", "ts", "v");
        feed.labels = [("feeder".into(), "place.feeder".into()), ("site".into(), "site".into())].into();
        let mut decoder = Decoder::new(&feed).unwrap();
        let mut labels = |rest: &str| {
            let record = format!(r#"{{"id":"a","ts":900,"v":1{rest}}}"#);
            decoder.decode(Some(record.as_bytes()), POSITION).map(|_| decoder.labels().cloned().unwrap())
        };
        let text = |text: &str| Some(Arc::from(text));
        let both = labels(r#","site":17,"place":{"feeder":"f\u0031"}"#).unwrap();
        assert_eq!(*both, [text("f1"), text("17")]);
        assert!(Arc::ptr_eq(&both, &labels(r#","place":{"feeder":"f1"},"site":"17""#).unwrap()));
        assert_eq!(*labels(r#","site":"","place":null"#).unwrap(), [None, None]);
        for wrong in [r#","site":1.5"#.to_owned(), r#","site":[]"#.into(), format!(r#","site":"{}""#, "x".repeat(257))]
        {
            let refusal = labels(&wrong).unwrap_err();
            assert_eq!(refusal.reason, "label_invalid");
            assert!(refusal.detail.contains("`site`"), "{refusal}");
        }
        assert_eq!(Decoder::new(&FeedConfig::new("t", "id", "ts", "v")).unwrap().labels(), None);
    }

    #[test]
    fn values_of_files_are_checked_in_the_stored_unit_too() {
        let of = |value, unit: &str| {
            let Ok(unit) = unit.parse::<Unit>();
            check("a", 0, value, &unit, ValueKind::Interval).map_err(|refusal| refusal.reason)
        };
        assert_eq!([of(1e305, "GW"), of(f64::NAN, "kW")], [Err("value_invalid"); 2]);
        assert_eq!(of(1e290, "GW"), Ok(()));
    }

    #[test]
    fn identifiers_of_roll_ups_are_refused() {
        let mut decoder = Decoder::new(&FeedConfig::new("t", "id", "ts", "v")).unwrap();
        let record = br#"{"id":"rollup.grid:region=a@PT1H","ts":900,"v":1}"#;
        let refusal = decoder.decode(Some(record), POSITION).unwrap_err();
        assert_eq!(refusal.reason, "series_reserved");
        assert!(refusal.detail.contains("series_prefix"), "{refusal}");
        assert_eq!(check("rollup.x", 0, 1.0, &Unit::KWH, ValueKind::Interval).unwrap_err().reason, "series_reserved");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decoder().decode(Some(&bytes), POSITION);
        }

        #[test]
        fn any_series_and_value_come_back(id in ".{1,60}", value in proptest::num::f64::NORMAL) {
            prop_assume!(Unit::KWH.scale().can_store(value));
            let record = serde_json::json!({"meter": {"id": id}, "ts": 900, "value": value}).to_string();
            let reading = decode(&record).unwrap();
            prop_assert_eq!(&*reading.series, id.as_str());
            prop_assert_eq!(reading.value, value);
        }
    }
}
