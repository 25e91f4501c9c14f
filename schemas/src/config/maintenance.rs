//! Housekeeping of the lake, and how long things are kept.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bytes::Bytes;
use crate::time::{DAY, HOUR, Micros, Span};

/// `[maintenance]`: what `meterline run` does beside the stream, and `meterline maintain` at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MaintenanceConfig {
    /// Time between two rounds of housekeeping, at least 10 s, or `off`. Default `1h`.
    pub every: Every,
    /// Size up to which small files are merged, 8 MiB to 1 GiB. Housekeeping takes about as much memory, and a MiB or two
    /// more for each file that it merges at a time. Default `64MiB`.
    pub target_size: Bytes,
    /// How long after the end of a month (by the watermark) its revisions are folded. Default `2d`.
    pub fold_after: Span,
    /// Revisions of a month are folded earlier once they are this share of the rows that they may revise, above 0.
    /// Default 0.2.
    pub fold_share: f64,
    /// How long old versions of the tables can be looked up: entries of the log are kept this long, at least 1 h.
    /// Default `7d`.
    pub log_retention: Span,
    /// How long data files are kept that the newest version no longer has: longer than the longest query and run, 1 h
    /// to 7 d. Default `7d`.
    pub file_retention: Span,
    /// Age at which a data file that no version ever had is taken for the left-over of a crash: longer than any writer
    /// can take from a file to its commit, at least 1 h. Default `1d`.
    pub orphan_age: Span,
}

impl Default for MaintenanceConfig {
    fn default() -> Self {
        MaintenanceConfig {
            every: Every(Some(Span(HOUR))),
            target_size: Bytes::new(64 << 20),
            fold_after: Span(2 * DAY),
            fold_share: 0.2,
            log_retention: Span(7 * DAY),
            file_retention: Span(7 * DAY),
            orphan_age: Span(DAY),
        }
    }
}

impl MaintenanceConfig {
    /// The first key that does not fit, with what is wrong and the remedy.
    pub(super) fn fault(&self) -> Option<(&'static str, &'static str, &'static str)> {
        let mib = 1 << 20;
        if self.every.0.is_some_and(|every| every < Span(10_000_000)) {
            return Some(("every", "is below 10s", "use at least 10s, or \"off\""));
        }
        if !(8 * mib..=1024 * mib).contains(&self.target_size.bytes()) {
            return Some(("target_size", "must be 8MiB to 1GiB", "leave it out for 64MiB"));
        }
        if !(self.fold_share > 0.0 && self.fold_share.is_finite()) {
            return Some(("fold_share", "must be above 0", "leave it out for 0.2"));
        }
        if self.log_retention < Span(HOUR) {
            return Some(("log_retention", "is below 1h", "use at least 1h: statements and runs read old versions"));
        }
        if !(Span(HOUR)..=Span(7 * DAY)).contains(&self.file_retention) {
            return Some((
                "file_retention",
                "must be 1h to 7d",
                "leave it out for 7d: the log of a Delta table remembers no longer when a file was taken away",
            ));
        }
        if self.orphan_age < Span(HOUR) {
            return Some(("orphan_age", "is below 1h", "use at least 1h: a writer may still commit the file"));
        }
        None
    }
}

/// `[retention]`: what is deleted by its age, counted back from the newest watermark (or the clock, if that is
/// earlier). A year counts 366 days and a month 31, so nothing goes early.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Intervals with all of their revisions, by whole UTC months. Default `forever`.
    pub intervals: Keep,
    /// Revisions that were replaced by others, by whole UTC months, once they are folded. Default `forever`.
    pub revisions: Keep,
    /// Forecasts by their origin. Default `forever`.
    pub forecasts: Keep,
    /// Records that could not be read, by their time stamp in Kafka. Default `forever`.
    pub dead_letters: Keep,
}

/// How often something is done: a length of time, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Every(pub Option<Span>);

/// How long something is kept: a length of time, in which years and months may be used (`5y`, `18mo`), or `forever`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep(pub Option<Span>);

impl Keep {
    /// Before which instant things go; `None` if never.
    pub fn cutoff(self, now: Micros) -> Option<Micros> {
        self.0.map(|span| now.saturating_sub(span.micros()))
    }
}

impl FromStr for Every {
    type Err = String;

    fn from_str(text: &str) -> Result<Every, String> {
        if text == "off" {
            return Ok(Every(None));
        }
        text.parse().map(|span| Every(Some(span))).map_err(|e| format!("{e}, or off"))
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(span) => span.fmt(f),
            None => f.write_str("off"),
        }
    }
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Keep, String> {
        if text == "forever" {
            return Ok(Keep(None));
        }
        if let Ok(span) = text.parse::<Span>() {
            return Ok(Keep(Some(span)));
        }
        let refused = || format!("`{text}` is not a length of time; write it like 30d, 18mo or 5y, or forever");
        let span: jiff::Span = text.trim().parse().map_err(|_| refused())?;
        let days = i64::from(span.get_years()) * 366 + i64::from(span.get_months()) * 31;
        let rest = span.years(0).months(0);
        let rest = if rest.is_zero() { Span(0) } else { rest.to_string().parse::<Span>().map_err(|_| refused())? };
        match days.checked_mul(DAY).and_then(|days| days.checked_add(rest.micros())) {
            Some(total) if days >= 0 => Ok(Keep(Some(Span(total)))),
            _ => Err(refused()),
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(span) => span.fmt(f),
            None => f.write_str("forever"),
        }
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

as_text!(Every);
as_text!(Keep);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn years_and_months_are_never_too_short() {
        for (text, days) in [("30d", 30), ("5y", 5 * 366), ("18mo", 18 * 31), ("1y 2mo 3d", 366 + 62 + 3)] {
            assert_eq!(text.parse(), Ok(Keep(Some(Span(days * DAY)))), "{text}");
        }
        assert_eq!("forever".parse(), Ok(Keep(None)));
        for text in ["", "ever", "-1y", "5 years ago"] {
            assert!(text.parse::<Keep>().is_err(), "{text}");
        }
        assert_eq!("off".parse(), Ok(Every(None)));
        assert!("of".parse::<Every>().is_err());
    }
}
