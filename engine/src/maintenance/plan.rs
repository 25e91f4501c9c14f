//! Which files of a table are rewritten or deleted: pure, from what their names, sizes and statistics say.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use meterline_connectors::lake::{Bound, DataFile, TableDefinition};
use meterline_schemas::config::{MaintenanceConfig, RetentionConfig};
use meterline_schemas::tables::{DEAD_LETTERS, FORECASTS, LAYER_OLD};
use meterline_schemas::{Frequency, Micros};

use crate::sql::layers::Layers;

/// Files of one tier that are merged. A file that is merged is this many times as large as before, or nearly, so a row
/// is written again as often as that fits between its first file and the target.
const MERGE_AT: usize = 6;
/// Files that are merged at once: bounds memory.
const MERGE_MAX: usize = 64;
/// Files that a fold has open at once at most: bounds memory.
const OPEN_MAX: usize = 32;
/// Files of a tier are up to this many times as large as the smallest.
const TIER_BITS: u32 = 2;
/// A quiet month is folded once so many of a thousand of the rows that may be revised are revisions: below that, what
/// is written again is out of proportion.
const QUIET_SHARE: f64 = 0.001;
/// Revisions of a month that is not quiet are folded from this number of rows on.
const FOLD_ROWS_MIN: u64 = 10_000;

/// Files of one partition that become fewer.
pub type Merge = Vec<DataFile>;

/// Which small files to merge, the smallest first. Files of half the `target` size (bytes) are left alone; smaller ones
/// are merged once there are several of about the same size. No file is in two merges.
pub fn merges(table: &TableDefinition, files: &[DataFile], target: u64) -> Vec<Merge> {
    let mut groups: BTreeMap<(Vec<&str>, Option<String>), Vec<&DataFile>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.size < target / 2) {
        let partition = file.partition.values().map(String::as_str).collect();
        groups.entry((partition, age_bucket(table, file))).or_default().push(file);
    }
    groups.into_values().flat_map(|group| merges_of(group, target)).collect()
}

fn merges_of(mut group: Vec<&DataFile>, target: u64) -> Vec<Merge> {
    group.sort_by(|a, b| (a.size, &a.path).cmp(&(b.size, &b.path)));
    let tier = |file: &DataFile| file.size.max(1).ilog2() / TIER_BITS;
    let mut in_tier: BTreeMap<u32, usize> = BTreeMap::new();
    for file in &group {
        *in_tier.entry(tier(file)).or_default() += 1;
    }
    // What is smaller than the files of a full tier goes with them.
    let Some(full) = in_tier.iter().filter(|(_, count)| **count >= MERGE_AT).map(|(tier, _)| *tier).max() else {
        return Vec::new();
    };
    let mut merges: Vec<Merge> = Vec::new();
    let mut open: Merge = Vec::new();
    let mut bytes = 0;
    for file in group.into_iter().filter(|file| tier(file) <= full) {
        // More than a few target sizes at once gain nothing.
        if open.len() >= MERGE_MAX || (open.len() >= MERGE_AT && bytes >= 4 * target) {
            merges.push(std::mem::take(&mut open));
            bytes = 0;
        }
        bytes += file.size;
        open.push(file.clone());
    }
    if open.len() > 1 {
        merges.push(open);
    }
    merges
}

/// Files of different months are not merged where the table is not partitioned by months: so whole files grow too old.
fn age_bucket(table: &TableDefinition, file: &DataFile) -> Option<String> {
    let column = age_column(table.name)?;
    let newest = newest(file, column)?;
    Some(month_of(newest))
}

/// By which column rows grow too old, where the table is not partitioned by months.
fn age_column(table: &str) -> Option<&'static str> {
    match table {
        FORECASTS => Some("origin"),
        DEAD_LETTERS => Some("timestamp"),
        _ => None,
    }
}

fn newest(file: &DataFile, column: &str) -> Option<Micros> {
    match file.range(column) {
        Some((_, Bound::Integer(newest))) => Some(newest),
        _ => None,
    }
}

fn month_of(at: Micros) -> String {
    let text = meterline_schemas::time::format_micros(Frequency::Month.floor(at, &TimeZone::UTC));
    text.chars().take(7).collect()
}

/// The end of a month such as `2024-01`.
fn month_end(month: &str) -> Option<Micros> {
    let start: jiff::Timestamp = format!("{month}-01T00:00:00Z").parse().ok()?;
    Some(Frequency::Month.advance(start.as_microsecond(), 1, &TimeZone::UTC))
}

/// Revisions of one month that are folded, with the files of its base that they may concern.
#[derive(Debug, Clone, PartialEq)]
pub struct Fold {
    /// Such as `2024-01`.
    pub month: String,
    /// Files of the base.
    pub base: Vec<DataFile>,
    /// The revisions.
    pub revisions: Vec<DataFile>,
}

impl Fold {
    /// Merges that have to come first, where more files overlap than may be open at once; else none.
    pub fn merges_first(&self) -> Vec<Merge> {
        if depth(self.base.iter().chain(&self.revisions)) <= OPEN_MAX {
            return Vec::new();
        }
        let deep = [&self.base, &self.revisions].into_iter().filter(|files| depth(*files) > OPEN_MAX / 2);
        // The files that come of one merge do not overlap.
        deep.flat_map(|files| files.chunks(OPEN_MAX))
            .filter(|files| files.len() > 1)
            .map(<[DataFile]>::to_vec)
            .collect()
    }
}

/// How many files at most have rows of one series, as far as their statistics tell: so many are open at once when they
/// are read as one stream.
fn depth<'a>(files: impl IntoIterator<Item = &'a DataFile>) -> usize {
    let (mut everywhere, mut ends) = (0usize, Vec::new());
    for file in files {
        match file.range("series_id") {
            // Of equal ones, those that begin come before those that end.
            Some((Bound::Text(low), Bound::Text(high))) => ends.extend([(low, 0), (high, 1)]),
            _ => everywhere += 1,
        }
    }
    ends.sort_unstable();
    let (mut open, mut most) = (0usize, 0);
    for (_, end) in ends {
        open = if end == 1 { open.saturating_sub(1) } else { open + 1 };
        most = most.max(open);
    }
    everywhere + most
}

/// Which months of `intervals` to fold: quiet ones (the `watermark` has passed their end for long enough), and those
/// where revisions are many.
pub fn folds(files: &[DataFile], watermark: Option<Micros>, config: &MaintenanceConfig) -> Vec<Fold> {
    let mut months: BTreeMap<&str, Vec<DataFile>> = BTreeMap::new();
    for file in files {
        let Some(month) = file.partition.get("month") else { continue };
        months.entry(month).or_default().push(file.clone());
    }
    let rows = |files: &[DataFile]| files.iter().map(|file| file.rows).sum::<u64>();
    let due = |(month, files): (&str, Vec<DataFile>)| {
        let layers = Layers::of(&files, false);
        let (revisions, base) = (rows(&layers.revisions), rows(&layers.revised));
        let quiet = month_end(month)
            .zip(watermark)
            .is_some_and(|(end, watermark)| end.saturating_add(config.fold_after.micros()) <= watermark);
        let many = |share: f64| revisions as f64 >= share * base as f64;
        let due = match quiet {
            true => many(QUIET_SHARE),
            false => revisions >= FOLD_ROWS_MIN && many(config.fold_share),
        };
        (due && !layers.revisions.is_empty()).then(|| Fold {
            month: month.to_owned(),
            base: layers.revised,
            revisions: layers.revisions,
        })
    };
    months.into_iter().filter_map(due).collect()
}

/// Files of which every row is too old at `now`.
pub fn too_old(table: &TableDefinition, files: &[DataFile], keep: &RetentionConfig, now: Micros) -> Vec<DataFile> {
    let ended = |file: &DataFile, before: Option<Micros>| {
        let end = file.partition.get("month").and_then(|month| month_end(month));
        end.zip(before).is_some_and(|(end, before)| end <= before)
    };
    let is_too_old = |file: &&DataFile| match age_column(table.name) {
        Some(column) => {
            let keep = if table.name == FORECASTS { keep.forecasts } else { keep.dead_letters };
            keep.cutoff(now).zip(newest(file, column)).is_some_and(|(before, newest)| newest < before)
        }
        None => {
            let lost = file.partition.get("layer").is_some_and(|layer| layer == LAYER_OLD);
            ended(file, keep.intervals.cutoff(now)) || lost && ended(file, keep.revisions.cutoff(now))
        }
    };
    files.iter().filter(is_too_old).cloned().collect()
}

#[cfg(test)]
mod tests {
    use meterline_schemas::config::Keep;
    use meterline_schemas::time::{DAY, HOUR, Span, format_micros};
    use proptest::prelude::*;

    use super::*;

    fn file(name: usize, size: u64, partition: &[(&str, &str)], rows: u64) -> DataFile {
        DataFile {
            path: format!("{name}"),
            size,
            rows,
            partition: partition.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            stats: "{}".into(),
        }
    }

    fn with_newest(mut file: DataFile, column: &str, at: Micros) -> DataFile {
        let at = format_micros(at);
        file.stats = serde_json::json!({"minValues": {column: at}, "maxValues": {column: at}}).to_string();
        file
    }

    const BASE: [(&str, &str); 2] = [("layer", "base"), ("month", "2024-01")];

    #[test]
    fn small_files_are_merged_with_their_like_and_partitions_stay_apart() {
        let table = TableDefinition::intervals();
        let mut files: Vec<DataFile> = (0..6).map(|n| file(n, 10_000 + n as u64, &BASE, 1)).collect();
        files.push(file(6, 100, &BASE, 1));
        files.push(file(7, 8 << 20, &BASE, 1));
        files.push(file(8, 60 << 20, &BASE, 1));
        files.extend((9..12).map(|n| file(n, 10_000, &[("layer", "rev"), ("month", "2024-01")], 1)));
        let merges = merges(&table, &files, 64 << 20);
        let names: Vec<Vec<&str>> = merges.iter().map(|m| m.iter().map(|f| f.path.as_str()).collect()).collect();
        assert_eq!(names, [["6", "0", "1", "2", "3", "4", "5"]]);
    }

    #[test]
    fn forecasts_of_different_months_stay_apart_and_go_as_whole_files() {
        let table = TableDefinition::forecasts();
        let of = |n: usize, at| with_newest(file(n, 1000, &[("group_id", "PT1H")], 1), "origin", at);
        let files: Vec<DataFile> = (0..12).map(|n| of(n, if n < 6 { 0 } else { 40 * DAY })).collect();
        assert_eq!(merges(&table, &files, 1 << 20).len(), 2);
        let keep = RetentionConfig { forecasts: Keep(Some(Span(10 * DAY))), ..RetentionConfig::default() };
        assert_eq!(too_old(&table, &files, &keep, 40 * DAY).len(), 6);
        assert_eq!(too_old(&table, &files, &keep, 10 * DAY).len(), 0);
        assert_eq!(too_old(&table, &files, &RetentionConfig::default(), i64::MAX).len(), 0);
    }

    #[test]
    fn months_go_whole_and_lost_rows_may_go_earlier() {
        let table = TableDefinition::intervals();
        let months = ["2023-12", "2024-01"];
        let files: Vec<DataFile> = ["base", "rev", "old"]
            .into_iter()
            .flat_map(|layer| months.map(|month| file(0, 1, &[("layer", layer), ("month", month)], 1)))
            .collect();
        let end = month_end("2023-12").unwrap();
        let keep = RetentionConfig {
            intervals: Keep(Some(Span(40 * DAY))),
            revisions: Keep(Some(Span(5 * DAY))),
            ..RetentionConfig::default()
        };
        let gone =
            |now| too_old(&table, &files, &keep, now).iter().map(|f| f.partition["layer"].clone()).collect::<Vec<_>>();
        assert!(gone(end + 5 * DAY - 1).is_empty());
        assert_eq!(gone(end + 5 * DAY), ["old"]);
        assert_eq!(gone(end + 40 * DAY), ["base", "rev", "old", "old"]);
    }

    #[test]
    fn a_month_is_folded_when_it_is_quiet_or_when_revisions_are_many() {
        let rev = [("layer", "rev"), ("month", "2024-01")];
        let config = MaintenanceConfig::default();
        let end = month_end("2024-01").unwrap();
        let due = |base: u64, revisions: u64, watermark| {
            folds(&[file(0, 1, &BASE, base), file(1, 1, &rev, revisions)], watermark, &config).len() == 1
        };
        assert!(due(1000, 1, Some(end + 2 * DAY)));
        assert!(!due(1_000_000, 1, Some(end + 2 * DAY)));
        assert!(!due(1000, 1, Some(end + 2 * DAY - HOUR)));
        assert!(!due(1000, 1000, None));
        assert!(due(50_000, 10_000, None));
        assert!(!due(51_000, 10_000, None));
        assert!(folds(&[file(0, 1, &BASE, 9)], Some(i64::MAX), &config).is_empty());
    }

    #[test]
    fn before_a_fold_of_too_many_overlapping_files_they_are_merged() {
        let of = |n: usize, low: &str, high: &str| {
            let mut file = file(n, 1, &BASE, 1);
            file.stats =
                serde_json::json!({"minValues": {"series_id": low}, "maxValues": {"series_id": high}}).to_string();
            file
        };
        let fold = |base: Vec<DataFile>, revisions: usize| {
            let revisions = (0..revisions).map(|n| of(n, "a", "z")).collect();
            Fold { month: "2024-01".into(), base, revisions }.merges_first()
        };
        let sizes = |merges: Vec<Merge>| merges.iter().map(Vec::len).collect::<Vec<_>>();
        // One after the other they are never open together.
        let in_a_row: Vec<DataFile> = (0..500).map(|n| of(n, &format!("m{n:03}"), &format!("m{n:03}x"))).collect();
        assert!(fold(in_a_row.clone(), 31).is_empty());
        assert_eq!(sizes(fold(in_a_row, 33)), [32]);
        let overlapping = |count: usize| (0..count).map(|n| of(n, "a", "z")).collect::<Vec<_>>();
        assert!(fold(overlapping(31), 1).is_empty());
        assert_eq!(sizes(fold(overlapping(70), 2)), [32, 32, 6]);
        // Where the statistics do not tell, a file may overlap with all others.
        assert_eq!(sizes(fold((0..40).map(|n| file(n, 1, &BASE, 1)).collect(), 1)), [32, 8]);
        assert_eq!(depth(&[of(0, "a", "b"), of(1, "b", "c"), of(2, "c", "d")]), 2);
    }

    proptest! {
        /// Commits of any size, and a round of merges now and then: files stay few, and a row is written again a few
        /// times.
        #[test]
        fn files_stay_few_and_rewriting_is_logarithmic(
            sizes in proptest::collection::vec(1_000u64..300_000, 100..1500), every in 1usize..200
        ) {
            let (table, target) = (TableDefinition::intervals(), 64u64 << 20);
            let (mut files, mut name, mut written, mut appended) = (Vec::new(), 0, 0u64, 0u64);
            for (i, size) in sizes.iter().enumerate() {
                files.push(file(name, *size, &BASE, 1));
                name += 1;
                appended += size;
                if i % every != every - 1 {
                    continue;
                }
                loop {
                    let merges = merges(&table, &files, target);
                    if merges.is_empty() {
                        break;
                    }
                    for merge in merges {
                        files.retain(|f| merge.iter().all(|m| m.path != f.path));
                        let mut bytes: u64 = merge.iter().map(|f| f.size).sum();
                        written += bytes;
                        while bytes > 0 {
                            let part = bytes.min(target);
                            files.push(file(name, part, &BASE, 1));
                            name += 1;
                            bytes -= part;
                        }
                    }
                }
                let small = files.iter().filter(|f| f.size < target / 2).count();
                prop_assert!(small <= 40, "{small} small files");
            }
            prop_assert!(written <= 12 * appended, "{written} bytes for {appended}");
        }
    }
}
