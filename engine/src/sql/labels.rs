//! The table `labels`: who said which label of which series, and from when on.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use meterline_schemas::Micros;

use super::memory::{batch, instant, text};
use crate::ingest::rollup::saved::{NamedLabels, SavedMember};

struct LabelRow<'a> {
    series: &'a str,
    source: String,
    valid_from: Option<Micros>,
    valid_to: Option<Micros>,
    label: &'a str,
    value: &'a str,
}

/// One row for each label and the time in which it holds: until `valid_to`, which is null for the last. `valid_from` is
/// null where it holds always; `source` is `feed NAME` or `labels NAME`. Of two sources the one that is no feed counts.
///
/// # Errors
/// A fault of ours: columns do not fit together.
pub fn labels<'a>(members: impl IntoIterator<Item = &'a SavedMember>) -> Result<RecordBatch, ArrowError> {
    let mut rows: Vec<LabelRow<'a>> = Vec::new();
    for member in members {
        let mut push = |source: &str, from: Micros, to: Option<Micros>, labels: &'a NamedLabels| {
            for (label, value) in labels {
                rows.push(LabelRow {
                    series: &member.series,
                    source: source.to_owned(),
                    valid_from: (from > Micros::MIN).then_some(from),
                    valid_to: to,
                    label,
                    value,
                });
            }
        };
        let feed = format!("feed {}", member.feed.as_deref().unwrap_or_default());
        // Neighbours with the same labels hold as one.
        for runs in member.runs.chunk_by(|(.., a), (.., b)| a == b) {
            let (Some((from, _, labels)), Some((last, ..))) = (runs.first(), runs.last()) else { continue };
            let next = member.runs.iter().map(|(from, ..)| *from).find(|from| from > last);
            push(&feed, *from, next, labels);
        }
        for given in member.given.chunk_by(|(a, ..), (b, ..)| a == b) {
            for (index, (source, from, labels, _)) in given.iter().enumerate() {
                let next = given.get(index + 1).map(|(_, from, ..)| *from);
                push(&format!("labels {source}"), *from, next, labels);
            }
        }
    }
    let rows = || rows.iter();
    batch(vec![
        text("series_id", rows().map(|row| Some(row.series))),
        text("label", rows().map(|row| Some(row.label))),
        text("value", rows().map(|row| Some(row.value))),
        instant("valid_from", rows().map(|row| row.valid_from)),
        instant("valid_to", rows().map(|row| row.valid_to)),
        text("source", rows().map(|row| Some(row.source.as_str()))),
    ])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::util::pretty::pretty_format_batches;
    use meterline_schemas::reading::Position;
    use meterline_schemas::time::HOUR;
    use meterline_schemas::unit::Unit;

    use super::*;

    #[test]
    fn a_label_holds_until_the_next_is_said() {
        let label = |label: &str, value: &str| -> NamedLabels { vec![(label.into(), value.into())] };
        let position = Position { timestamp_ms: 0, partition: 0, offset: 0 };
        let source: Arc<str> = "meta".into();
        let member = SavedMember {
            series: "m1".into(),
            feed: Some("meters".into()),
            unit: Some(Unit::KWH),
            began: vec![],
            runs: vec![
                (0, HOUR, label("site", "s1")),
                (2 * HOUR, 3 * HOUR, label("site", "s1")),
                (3 * HOUR, 4 * HOUR, label("site", "s2")),
            ],
            given: vec![
                (Arc::clone(&source), Micros::MIN, label("region", "north"), position),
                (source, HOUR, vec![], position),
            ],
        };
        let shown = pretty_format_batches(&[labels([&member]).unwrap()]).unwrap().to_string();
        let cells: Vec<Vec<&str>> = shown
            .lines()
            .filter(|line| line.contains("m1"))
            .map(|line| line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        let (zero, one, three) = ("1970-01-01T00:00:00Z", "1970-01-01T01:00:00Z", "1970-01-01T03:00:00Z");
        assert_eq!(
            cells,
            [
                vec!["m1", "site", "s1", zero, three, "feed meters"],
                vec!["m1", "site", "s2", three, "feed meters"],
                vec!["m1", "region", "north", one, "labels meta"],
            ]
        );
    }
}
