//! Labels: those of readings, and records that say the labels of a series.

use std::borrow::Cow;
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};
use jiff::tz::TimeZone;
use meterline_schemas::Micros;
use meterline_schemas::config::{ClockChange, LabelsConfig};
use meterline_schemas::labels::{LABEL_BYTES_MAX, LabelValues};

use super::json::Paths;
use super::shape::Shapes;
use super::{Found, Refusal, Scalar, fields, reason};

/// Sets of labels that are remembered; with more (a field that is no label), sharing begins anew.
const SETS_MAX: usize = 100_000;

/// The sets of labels that were seen, so that equal ones share their memory: finding one allocates nothing.
#[derive(Debug)]
pub(super) struct LabelSets {
    fields: Box<[String]>,
    hasher: DefaultHashBuilder,
    sets: HashTable<LabelValues>,
    last: Option<LabelValues>,
}

impl LabelSets {
    /// Labels in these fields.
    pub(super) fn new<'f>(fields: impl Iterator<Item = &'f String>) -> LabelSets {
        LabelSets {
            fields: fields.cloned().collect(),
            hasher: DefaultHashBuilder::default(),
            sets: HashTable::new(),
            last: None,
        }
    }

    /// The set that was taken last.
    pub(super) fn last(&self) -> Option<&LabelValues> {
        self.last.as_ref()
    }

    /// Takes the labels of a record.
    pub(super) fn take(&mut self, found: &[Scalar<'_>]) -> Result<(), Refusal> {
        self.last = None;
        let mut texts: [Option<Cow<'_, str>>; 64] = [const { None }; 64];
        for ((slot, scalar), field) in texts.iter_mut().zip(found).zip(&self.fields) {
            *slot = text(scalar, field)?;
        }
        let texts = &texts[..found.len().min(texts.len())];
        let hash = self.hasher.hash_one(texts);
        let same = |known: &LabelValues| {
            known.len() == texts.len() && known.iter().zip(texts).all(|(a, b)| a.as_deref() == b.as_deref())
        };
        if let Some(known) = self.sets.find(hash, same) {
            self.last = Some(Arc::clone(known));
            return Ok(());
        }
        if self.sets.len() >= SETS_MAX {
            self.sets.clear();
        }
        let set: LabelValues = texts.iter().map(|text| text.as_deref().map(Arc::from)).collect();
        let hasher = &self.hasher;
        // A text hashes as itself, however it is held.
        let rehash = |known: &LabelValues| {
            let texts: Vec<Option<Cow<'_, str>>> =
                known.iter().map(|text| text.as_deref().map(Cow::Borrowed)).collect();
            hasher.hash_one(&*texts)
        };
        self.sets.insert_unique(hash, Arc::clone(&set), rehash);
        self.last = Some(set);
        Ok(())
    }
}

// The text of a label; `None` where it is absent or empty.
fn text<'s>(scalar: &'s Scalar<'_>, field: &str) -> Result<Option<Cow<'s, str>>, Refusal> {
    let text: Cow<'s, str> = match scalar {
        Scalar::Missing => return Ok(None),
        Scalar::Text(text) => Cow::Borrowed(text),
        Scalar::Integer(number) => Cow::Owned(number.to_string()),
        Scalar::Float(_) | Scalar::Other(_) => {
            let detail = format!("label field `{field}` is {scalar}; it must be a text or a whole number");
            return Err(Refusal::new(reason::LABEL_INVALID, detail));
        }
    };
    if text.len() > LABEL_BYTES_MAX {
        let detail = format!("label field `{field}` is {scalar}; it must have at most {LABEL_BYTES_MAX} bytes");
        return Err(Refusal::new(reason::LABEL_INVALID, detail));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// What a source says of one series.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelRecord {
    /// Identifier of the series, with the source's prefix.
    pub series: String,
    /// From here on …
    pub valid_from: Micros,
    /// … these labels hold, in the order of the source's `labels`.
    pub labels: LabelValues,
}

/// Decodes the records of a topic of `[labels.*]`.
#[derive(Debug)]
pub struct LabelDecoder {
    config: LabelsConfig,
    paths: Paths,
    shapes: Shapes,
    zone: TimeZone,
    sets: LabelSets,
}

impl LabelDecoder {
    /// The decoder of a source. Fails only if its zone is unknown, which a checked configuration excludes.
    pub fn new(config: &LabelsConfig) -> Result<LabelDecoder, jiff::Error> {
        let fields = [Some(config.series.as_str()), Some(config.valid_from.as_str()), None, None, None];
        Ok(LabelDecoder {
            paths: Paths::new(fields, config.labels.values()),
            shapes: Shapes::default(),
            zone: TimeZone::get(&config.zone)?,
            sets: LabelSets::new(config.labels.values()),
            config: config.clone(),
        })
    }

    /// Decodes one record. One without a payload (a tombstone of a compacted topic) takes all labels of the series in
    /// its key away; one without an instant holds from its own time stamp on.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(
        &mut self,
        key: Option<&[u8]>,
        record: Option<&[u8]>,
        timestamp_ms: i64,
    ) -> Result<LabelRecord, Refusal> {
        let stamped = timestamp_ms.saturating_mul(1_000);
        let Some(record) = record.filter(|record| !record.is_empty()) else {
            let key = key.and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
            let series = fields::series(&Scalar::Text(key.into()), "key", &self.config.series_prefix)?.into();
            let labels = self.config.labels.values().map(|_| None).collect();
            return Ok(LabelRecord { series, valid_from: stamped, labels });
        };
        let Found { fields: [series, valid_from, ..], labels } = self.paths.extract(&mut self.shapes, record)?;
        let series = fields::series(&series, &self.config.series, &self.config.series_prefix)?;
        let valid_from = match &valid_from {
            Scalar::Missing => stamped,
            Scalar::Text(text) if text.trim().is_empty() => stamped,
            scalar => fields::instant(scalar, &self.config.valid_from, &self.zone, ClockChange::First)?,
        };
        self.sets.take(&labels)?;
        let labels = self.sets.last().cloned().unwrap_or_else(|| [].into());
        Ok(LabelRecord { series: series.into(), valid_from, labels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meterline_schemas::time::MINUTE;

    fn decoder() -> LabelDecoder {
        let config = LabelsConfig {
            file: None,
            topic: Some("meta".into()),
            series: "id".into(),
            valid_from: "since".into(),
            labels: [("region".into(), "r".into()), ("site".into(), "place.site".into())].into(),
            series_prefix: "p-".into(),
            zone: "UTC".into(),
        };
        LabelDecoder::new(&config).unwrap()
    }

    fn text(text: &str) -> Option<Arc<str>> {
        Some(text.into())
    }

    #[test]
    fn a_record_says_the_labels_of_a_series_from_an_instant_on() {
        let mut decoder = decoder();
        let mut decode = |record: &str| decoder.decode(None, Some(record.as_bytes()), 7).unwrap();
        let found = decode(r#"{"id":"a","since":"1970-01-01T00:15:00Z","r":"north","place":{"site":3}}"#);
        let expected =
            LabelRecord { series: "p-a".into(), valid_from: 15 * MINUTE, labels: [text("north"), text("3")].into() };
        assert_eq!(found, expected);
        let found = decode(r#"{"id":5,"r":"","since":null}"#);
        assert_eq!((found.series.as_str(), found.valid_from, &*found.labels), ("p-5", 7_000, &[None, None][..]));
    }

    #[test]
    fn a_tombstone_takes_all_labels_away() {
        let found = decoder().decode(Some(b"a"), None, 9).unwrap();
        assert_eq!(found, LabelRecord { series: "p-a".into(), valid_from: 9_000, labels: [None, None].into() });
        assert_eq!(decoder().decode(None, None, 9).unwrap_err().reason, "series_invalid");
    }

    #[test]
    fn a_refusal_names_the_field_and_the_value() {
        for (record, reason, words) in [
            (r#"{"r":"a"}"#, "series_missing", "`id`"),
            (r#"{"id":[]}"#, "series_invalid", "an array"),
            (r#"{"id":"a","since":"noon"}"#, "time_invalid", "`noon`"),
            (r#"{"id":"a","since":"1066-10-14"}"#, "time_out_of_range", "1066"),
            (r#"{"id":"a","r":true}"#, "label_invalid", "`r`"),
            ("[", "malformed_record", "JSON"),
        ] {
            let refusal = decoder().decode(None, Some(record.as_bytes()), 7).unwrap_err();
            assert_eq!(refusal.reason, reason, "{record}");
            assert!(refusal.detail.contains(words), "{refusal}");
        }
    }
}
