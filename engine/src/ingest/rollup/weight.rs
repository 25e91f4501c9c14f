//! What a reading takes in memory on its way through roll-ups, beside what it takes anyway. Pure.
//!
//! | until | what there is of it | how often |
//! | --- | --- | --- |
//! | its epoch ends | its labels, by its position; what its interval was before, and that it was overtaken | once |
//! | roll-ups are done | that its series changed, and what the commit has of that | once |
//! | the same | its part of what the epoch adds up, for all groups of a roll-up together | each length |
//! | it is added up | the change of its interval: in a list, in a box, and among the facts of the census | once |
//! | it is sorted by group | the difference: in a list, on its way, and while it is sorted | each level and length |
//! | it is committed | the row of the group with its identifier, and that of the table with its columns | the same |
//!
//! Of the last three each comes in the place of the one before: the greatest counts. Readings of one group come to one
//! row, so it is mostly much less: this is what it is where each reading is of a group of its own. A reading that
//! changes the labels of its series counts in two groups of a level, for which there is what others leave.

use std::collections::BTreeMap;
use std::sync::Arc;

use meterline_schemas::config::RollupConfig;
use meterline_schemas::labels::LabelValues;
use meterline_schemas::reading::Position;
use meterline_schemas::{Frequency, Micros};

use super::super::census::Counted;
use super::super::layout::MadeOf;
use super::super::rows::{Content, Row};
use super::Input;
use super::member::Path;
use super::members::Item;
use super::parents::RollupRow;
use super::saved::SavedMember;
use super::sums::Sums;

/// The buckets of a hash table are half full at least.
const BUCKETS: usize = 2;
/// The identifier of a group's series, which each row has.
const IDENTIFIER_BYTES: usize = 64;
/// The place of a row and its encoded columns.
const ENCODED_BYTES: usize = 64;

const OPEN_BYTES: usize = BUCKETS * size_of::<((u32, Position), LabelValues)>()
    + size_of::<(u32, Content)>()
    + size_of::<(u32, Option<u32>)>();
const SERIES_BYTES: usize = BUCKETS * size_of::<Arc<str>>() + size_of::<Arc<str>>() + size_of::<SavedMember>();
const SUM_BYTES: usize = BUCKETS * size_of::<((Path, Frequency, Micros), (Micros, Sums))>();
const CHANGE_BYTES: usize = 2 * size_of::<Input>() + size_of::<Result<(Counted, u64, i64), Box<Input>>>();
const DIFFERENCE_BYTES: usize = size_of::<(Item, Sums)>() + 2 * size_of::<(Item, u64, Sums)>();
const ROW_BYTES: usize =
    size_of::<RollupRow>() + IDENTIFIER_BYTES + size_of::<Row>() + size_of::<MadeOf>() + ENCODED_BYTES;

/// Bytes that a reading takes on its way through all of these roll-ups; 0 without any.
pub fn of_reading(rollups: &BTreeMap<String, RollupConfig>) -> u64 {
    if rollups.is_empty() {
        return 0;
    }
    let lengths: usize = rollups.values().map(|rollup| rollup.frequencies.len()).sum();
    let rows: usize = rollups.values().map(|rollup| rollup.frequencies.len() * rollup.by.len()).sum();
    let on_its_way = CHANGE_BYTES.max(rows * DIFFERENCE_BYTES.max(ROW_BYTES));
    (OPEN_BYTES + SERIES_BYTES + lengths * SUM_BYTES + on_its_way) as u64
}

#[cfg(test)]
mod tests {
    use meterline_schemas::config::RollupFrequency;

    use super::*;

    #[test]
    fn a_reading_takes_more_with_each_level_and_length() {
        let rollup = |levels: usize, lengths: &[&str]| {
            let labels: Vec<String> = (0..levels).map(|level| format!("level_{level}")).collect();
            let mut rollup = RollupConfig::new(&labels.iter().map(String::as_str).collect::<Vec<_>>());
            rollup.frequencies = lengths.iter().map(|text| text.parse::<RollupFrequency>().unwrap()).collect();
            rollup
        };
        let of = |rollups: &[RollupConfig]| {
            let named = rollups.iter().enumerate().map(|(number, rollup)| (number.to_string(), rollup.clone()));
            let named: BTreeMap<String, RollupConfig> = named.collect();
            of_reading(&named)
        };
        assert_eq!(of(&[]), 0);
        let (one, three) = (of(&[rollup(1, &["native"])]), of(&[rollup(3, &["native"])]));
        let (both, twice) =
            (of(&[rollup(3, &["native", "PT1H"])]), of(&[rollup(3, &["native"]), rollup(3, &["PT1H"])]));
        assert!(OPEN_BYTES as u64 <= one && one < three && three < both, "{one}, {three}, {both}");
        assert_eq!(both, twice);
        // A row of a group takes about what a reading takes without roll-ups.
        assert!((500..2_500).contains(&three), "{three}");
    }
}
