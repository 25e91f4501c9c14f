//! Which data files of `intervals` have to be compared with each other to find the latest revisions.

use std::collections::{BTreeMap, HashMap};

use meterline_connectors::lake::{Bound, DataFile};
use meterline_schemas::tables::{LAYER_BASE, LAYER_OLD, LAYER_REVISION};

/// The data files of one version of `intervals`.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    /// Of the base layer: files that no revision can concern.
    pub(crate) settled: Vec<DataFile>,
    /// Of the base layer: files with rows that a revision may replace.
    pub(crate) revised: Vec<DataFile>,
    /// The revisions; with history, also those that lost.
    pub(crate) revisions: Vec<DataFile>,
}

impl Layers {
    /// Sorts files by what they need. A revision concerns a file of its month whose series and starts it overlaps;
    /// what the statistics do not say is taken to overlap. The rows of the layer `old` lost against others: only with
    /// `history` they are revisions, too.
    pub(crate) fn of(files: &[DataFile], history: bool) -> Layers {
        let is_revision = |file: &&DataFile| match value(file, "layer") {
            Some(LAYER_REVISION) => true,
            Some(LAYER_OLD) => history,
            _ => false,
        };
        let revisions: Vec<&DataFile> = files.iter().filter(is_revision).collect();
        let base: Vec<&DataFile> = files.iter().filter(|file| value(file, "layer") == Some(LAYER_BASE)).collect();
        let mut by_month: HashMap<Option<&str>, Vec<Ranges>> = HashMap::new();
        for file in &revisions {
            by_month.entry(value(file, "month")).or_default().push(file.ranges());
        }
        let (revised, settled) = base.into_iter().partition(|file: &&DataFile| {
            let Some(revisions) = by_month.get(&value(file, "month")) else { return false };
            let ranges = file.ranges();
            revisions.iter().any(|other| starts_overlap(&ranges, other) && series_overlap(&ranges, other))
        });
        let owned = |files: Vec<&DataFile>| files.into_iter().cloned().collect();
        Layers { settled: owned(settled), revised: owned(revised), revisions: owned(revisions) }
    }
}

type Ranges = BTreeMap<String, (Bound, Bound)>;

fn value<'a>(file: &'a DataFile, column: &str) -> Option<&'a str> {
    file.partition.get(column).map(String::as_str)
}

fn starts_overlap(a: &Ranges, b: &Ranges) -> bool {
    use Bound::Integer;
    match (a.get("start"), b.get("start")) {
        (Some((Integer(a_low), Integer(a_high))), Some((Integer(b_low), Integer(b_high)))) => {
            a_low <= b_high && b_low <= a_high
        }
        _ => true,
    }
}

// Identifiers that look like instants are read as such, and those are not in the order of texts.
fn series_overlap(a: &Ranges, b: &Ranges) -> bool {
    use Bound::Text;
    match (a.get("series_id"), b.get("series_id")) {
        (Some((Text(a_low), Text(a_high))), Some((Text(b_low), Text(b_high)))) => a_low <= b_high && b_low <= a_high,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(name: &str, layer: &str, month: &str, series: [&str; 2], days: [u32; 2]) -> DataFile {
        let day = |d: u32| format!("{month}-{d:02}T00:00:00.000Z");
        let stats = json!({
            "numRecords": 1,
            "minValues": {"series_id": series[0], "start": day(days[0])},
            "maxValues": {"series_id": series[1], "start": day(days[1])},
        });
        let partition = [("layer", layer), ("month", month)].map(|(k, v)| (k.to_owned(), v.to_owned()));
        DataFile {
            path: name.to_owned(),
            size: 1,
            rows: 1,
            partition: partition.into_iter().collect(),
            stats: stats.to_string(),
        }
    }

    #[test]
    fn only_files_that_a_revision_can_concern_are_compared() {
        let mut unknown = file("unknown", "base", "2024-01", ["a", "z"], [1, 1]);
        unknown.stats = "{}".into();
        let odd = file("odd", "base", "2024-01", ["2024-01-01T00:00:00Z", "z"], [11, 11]);
        let files = [
            file("correction", "rev", "2024-01", ["m", "n"], [10, 12]),
            file("same days", "base", "2024-01", ["a", "z"], [12, 20]),
            file("earlier", "base", "2024-01", ["a", "z"], [1, 9]),
            file("other series", "base", "2024-01", ["o", "z"], [10, 12]),
            file("other month", "base", "2024-02", ["a", "z"], [10, 12]),
            unknown,
            odd,
            file("lost", "old", "2024-01", ["o", "z"], [10, 12]),
        ];
        let layers = Layers::of(&files, false);
        let names = |files: &[DataFile]| files.iter().map(|f| f.path.clone()).collect::<Vec<_>>();
        assert_eq!(names(&layers.revisions), ["correction"]);
        assert_eq!(names(&layers.revised), ["same days", "unknown", "odd"]);
        assert_eq!(names(&layers.settled), ["earlier", "other series", "other month"]);
        let layers = Layers::of(&files, true);
        assert_eq!(names(&layers.revisions), ["correction", "lost"]);
        assert_eq!(names(&layers.settled), ["earlier", "other month"]);
    }
}
