//! The rows of an epoch as files of the table `intervals`: one a month and layer, sorted by series and start.
//!
//! Rows stay as they are until they are written: what is sorted are places of 16 bytes, by the rank of the
//! series instead of its name, and texts are made for one batch at a time. So an epoch of millions of rows costs little
//! more memory than its readings did.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use compact_str::CompactString;
use hashbrown::{DefaultHashBuilder, HashTable};
use jiff::tz::TimeZone;
use meterline_connectors::lake::{FileSet, LakeError, Partition};
use meterline_schemas::tables::{self, INTERVALS_PARTITION, LAYER_BASE, LAYER_REVISION, SAMPLES_PARTITION};
use meterline_schemas::time::format_micros;
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};
use serde::{Deserialize, Serialize};

use super::rows::{Layer, Row, Rows};
use super::series::{PendingReading, SeriesState};

/// Rows of one batch: few enough to stay near while columns are made of them.
const BATCH: usize = 16 * 1024;

/// What the rows of a series have in common, as the table writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesTexts {
    id: CompactString,
    common: Arc<Common>,
}

impl SeriesTexts {
    /// Its identifier.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// What many series have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Common {
    feed: Arc<str>,
    frequency: Option<Frequency>,
    frequency_text: String,
    unit: Unit,
    unit_text: String,
}

impl Common {
    fn of(series: &SeriesState) -> Common {
        Common {
            feed: Arc::clone(&series.feed),
            frequency: series.frequency,
            frequency_text: series.frequency.map(|frequency| frequency.to_string()).unwrap_or_default(),
            unit: series.unit.clone(),
            unit_text: series.unit.to_string(),
        }
    }

    fn is_of(&self, series: &SeriesState) -> bool {
        self.frequency == series.frequency && self.feed == series.feed && self.unit == series.unit
    }

    fn hashed(&self, by: &DefaultHashBuilder) -> u64 {
        hash(by, &self.feed, self.frequency, &self.unit)
    }
}

fn hash(by: &DefaultHashBuilder, feed: &str, frequency: Option<Frequency>, unit: &Unit) -> u64 {
    by.hash_one((feed, frequency, unit))
}

/// What is kept without being asked whether anybody still holds it.
const COMMON_MAX: usize = 64;

/// Makes [`SeriesTexts`]; what many series have in common is kept once.
#[derive(Debug, Default)]
pub struct TextMaker {
    // Mostly it is that of the series before.
    last: Option<Arc<Common>>,
    // There are few feeds, units and frequencies; but where a feed's units are read from a wrong field, each series has
    // one of its own.
    common: HashTable<Arc<Common>>,
    hashes: DefaultHashBuilder,
}

impl TextMaker {
    /// The texts of a series; its frequency is known where it has rows.
    pub fn texts(&mut self, series: &SeriesState) -> SeriesTexts {
        let common = match &self.last {
            Some(last) if last.is_of(series) => Arc::clone(last),
            _ => self.find(series),
        };
        SeriesTexts { id: series.id.clone(), common }
    }

    fn find(&mut self, series: &SeriesState) -> Arc<Common> {
        let hash = hash(&self.hashes, &series.feed, series.frequency, &series.unit);
        let common = match self.common.find(hash, |known| known.is_of(series)) {
            Some(known) => Arc::clone(known),
            None => {
                let made = Arc::new(Common::of(series));
                self.common.insert_unique(hash, Arc::clone(&made), |known| known.hashed(&self.hashes));
                made
            }
        };
        self.last = Some(Arc::clone(&common));
        common
    }

    /// Between two epochs: lets go what no texts hold any more, where it is much.
    pub fn forget(&mut self) {
        if self.common.len() > COMMON_MAX {
            self.last = None;
            self.common.retain(|common| Arc::strong_count(common) > 1);
            self.common.shrink_to(COMMON_MAX, |known| known.hashed(&self.hashes));
        }
    }
}

/// Rows of one epoch and shard, with the number and texts of each series that has some.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShardRows {
    /// The rows.
    pub rows: Rows,
    /// Samples and registers, by the number of their series.
    pub samples: Vec<(u32, PendingReading)>,
    /// The series.
    #[serde(with = "texts")]
    pub series: Vec<(u32, SeriesTexts)>,
    /// Of a roll-up: what each row is made of.
    pub made_of: Option<Vec<MadeOf>>,
}

/// Texts on their way between processes: what many series have in common is sent once.
mod texts {
    use std::collections::HashMap;
    use std::sync::Arc;

    use compact_str::CompactString;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Common, SeriesTexts};

    type Sent<C, I> = (Vec<C>, Vec<(u32, I, u32)>);

    pub(super) fn serialize<S: Serializer>(series: &[(u32, SeriesTexts)], s: S) -> Result<S::Ok, S::Error> {
        let mut places: HashMap<*const Common, u32> = HashMap::new();
        let mut sent: Sent<&Common, &CompactString> = (Vec::new(), Vec::with_capacity(series.len()));
        for (number, texts) in series {
            let place = *places.entry(Arc::as_ptr(&texts.common)).or_insert_with(|| {
                sent.0.push(&texts.common);
                sent.0.len() as u32 - 1
            });
            sent.1.push((*number, &texts.id, place));
        }
        sent.serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<(u32, SeriesTexts)>, D::Error> {
        let (common, series): Sent<Common, CompactString> = Sent::deserialize(d)?;
        let common: Vec<Arc<Common>> = common.into_iter().map(Arc::new).collect();
        let texts = series.into_iter().map(|(number, id, place)| {
            let common = common.get(place as usize).ok_or_else(|| D::Error::custom("a series lacks its texts"))?;
            Ok((number, SeriesTexts { id, common: Arc::clone(common) }))
        });
        texts.collect()
    }
}

/// What a row of a roll-up is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeOf {
    /// Seconds for which there is a value, summed over the series.
    pub present: i64,
    /// Seconds for which there should be one.
    pub expected: i64,
    /// Intervals: measured, estimated and substituted ones.
    pub intervals: [i64; 3],
}

/// All rows of one epoch.
#[derive(Debug, Default)]
pub struct EpochRows {
    parts: Vec<Part>,
    // Texts of every series that has rows, in the order of files.
    series: Vec<SeriesTexts>,
}

#[derive(Debug)]
struct Part {
    rows: Rows,
    samples: Vec<(u32, PendingReading)>,
    // By the number of a series in its shard.
    rank: Vec<u32>,
    made_of: Option<Vec<MadeOf>>,
}

/// Where a row is, and where it belongs in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    rank: u32,
    // Of all rows of the epoch, part by part.
    row: u32,
    start: Micros,
}

impl EpochRows {
    /// Joins the rows of shards; each comes with the texts of its series and their number in the shard.
    pub fn new(parts: Vec<ShardRows>) -> EpochRows {
        let mut all: Vec<(SeriesTexts, usize, u32)> = Vec::new();
        let mut joined = Vec::with_capacity(parts.len());
        for ShardRows { rows, samples, series, made_of } in parts {
            let numbers = series.iter().map(|(number, _)| *number as usize + 1).max().unwrap_or(0);
            all.extend(series.into_iter().map(|(number, texts)| (texts, joined.len(), number)));
            joined.push(Part { rows, samples, rank: vec![0; numbers], made_of });
        }
        // Those of each shard and feed are in order: such runs are merged.
        all.sort_by(|(a, ..), (b, ..)| (&a.id, &a.common.feed).cmp(&(&b.id, &b.common.feed)));
        let mut series = Vec::with_capacity(all.len());
        for (texts, part, number) in all {
            joined[part].rank[number as usize] = series.len() as u32;
            series.push(texts);
        }
        EpochRows { parts: joined, series }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.rows.len()).sum()
    }

    /// Number of samples and registers.
    pub fn samples(&self) -> usize {
        self.parts.iter().map(|part| part.samples.len()).sum()
    }

    /// Encodes the files of samples and registers: one a month, sorted by series and stamp.
    ///
    /// # Errors
    /// A fault of ours: columns do not fit the table.
    pub fn write_samples(&self, files: &mut FileSet) -> Result<(), LakeError> {
        let schema = stored(&tables::samples(), &SAMPLES_PARTITION);
        let mut months = Months::default();
        let mut by_month: BTreeMap<Micros, Vec<(u32, &PendingReading)>> = BTreeMap::new();
        for part in &self.parts {
            for (series, sample) in &part.samples {
                let month = months.start_of(sample.at);
                by_month.entry(month).or_default().push((part.rank[*series as usize], sample));
            }
        }
        for (month, mut samples) in by_month {
            samples.sort_unstable_by_key(|(rank, sample)| (*rank, sample.at, sample.position));
            let partition = vec![(SAMPLES_PARTITION[0].to_owned(), format_micros(month)[..7].to_owned())];
            files.file(partition, samples.chunks(BATCH).map(|samples| self.sample_batch(&schema, samples)))?;
        }
        Ok(())
    }

    fn sample_batch(&self, schema: &SchemaRef, samples: &[(u32, &PendingReading)]) -> Result<RecordBatch, ArrowError> {
        let texts = |rank: &u32| &self.series[*rank as usize];
        let unit = |(rank, sample): &(u32, &PendingReading)| match sample.scale.unit() {
            Some(unit) => unit.to_string(),
            None => texts(rank).common.unit_text.clone(),
        };
        let of = || samples.iter().map(|(_, sample)| sample);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(samples.iter().map(|(rank, _)| texts(rank).id.as_str()))),
            Arc::new(TimestampMicrosecondArray::from_iter_values(of().map(|s| s.at)).with_timezone("UTC")),
            Arc::new(Float64Array::from_iter_values(of().map(|s| s.value))),
            Arc::new(StringArray::from_iter_values(samples.iter().map(unit))),
            Arc::new(StringArray::from_iter_values(of().map(|s| s.quality.as_str()))),
            Arc::new(StringArray::from_iter_values(samples.iter().map(|(rank, _)| &*texts(rank).common.feed))),
            Arc::new(Int64Array::from_iter_values(of().map(|s| s.position.timestamp_ms))),
            Arc::new(Int32Array::from_iter_values(of().map(|s| s.position.partition))),
            Arc::new(Int64Array::from_iter_values(of().map(|s| s.position.offset))),
        ];
        RecordBatch::try_new(Arc::clone(schema), columns)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Encodes all files.
    ///
    /// # Errors
    /// A fault of ours: columns do not fit the table.
    pub fn write(&self, files: &mut FileSet) -> Result<(), LakeError> {
        let schema = stored(&tables::intervals(), &INTERVALS_PARTITION);
        for (partition, places) in self.files() {
            let batches = places.chunks(BATCH).map(|places| self.batch(&schema, places));
            files.file(partition, batches)?;
        }
        Ok(())
    }

    /// Partition and sorted places of every file.
    fn files(&self) -> Vec<(Partition, Vec<Place>)> {
        let mut months = Months::default();
        let mut files: BTreeMap<(Micros, Layer), Vec<Place>> = BTreeMap::new();
        // Of neighbours most belong to the same file.
        let mut open: Option<((Micros, Layer), Vec<Place>)> = None;
        let mut before = 0;
        for part in &self.parts {
            for (i, row) in part.rows.iter().enumerate() {
                let key = (months.start_of(row.start), row.layer);
                if open.as_ref().is_none_or(|(open, _)| *open != key) {
                    if let Some((key, places)) = open.take() {
                        files.insert(key, places);
                    }
                    open = Some((key, files.remove(&key).unwrap_or_default()));
                }
                let rank = part.rank[row.series as usize];
                if let Some((_, places)) = &mut open {
                    places.push(Place { rank, start: row.start, row: (before + i) as u32 });
                }
            }
            before += part.rows.len();
        }
        files.extend(open);
        files
            .into_iter()
            .map(|((month, layer), places)| {
                let places = sorted(places, self.series.len());
                let layer = match layer {
                    Layer::Base => LAYER_BASE,
                    Layer::Revision => LAYER_REVISION,
                };
                let values = [format_micros(month)[..7].to_owned(), layer.to_owned()];
                let partition = INTERVALS_PARTITION.iter().map(|name| (*name).to_owned()).zip(values).collect();
                (partition, places)
            })
            .collect()
    }

    fn batch(&self, schema: &SchemaRef, places: &[Place]) -> Result<RecordBatch, ArrowError> {
        // Rows lie where they came. All are fetched before anything is made of them: then many are on their way at
        // once.
        let of_rollups = self.parts.iter().any(|part| part.made_of.is_some());
        let mut rows = Vec::with_capacity(places.len());
        let mut made_of = Vec::with_capacity(if of_rollups { places.len() } else { 0 });
        for place in places {
            let mut number = place.row as usize;
            let Some(part) = self.parts.iter().find(|part| {
                let here = number < part.rows.len();
                if !here {
                    number -= part.rows.len();
                }
                here
            }) else {
                continue;
            };
            rows.push(*part.rows.get(number));
            if of_rollups {
                made_of.push(part.made_of.as_ref().and_then(|made_of| made_of.get(number)).copied());
            }
        }
        let contents = || rows.iter().map(|row| &row.content);
        let positions = || contents().map(|content| &content.position);
        let texts = || places.iter().map(|place| &self.series[place.rank as usize]);
        let commons = || texts().map(|texts| &texts.common);
        let instants = |instant: fn(&Row) -> Micros| {
            TimestampMicrosecondArray::from_iter_values(rows.iter().map(instant)).with_timezone("UTC")
        };
        let mut frequencies = StringBuilder::with_capacity(rows.len(), 5 * rows.len());
        for (common, row) in commons().zip(&rows) {
            let length = Frequency::of_length(row.end - row.start);
            match common.frequency == Some(length) {
                true => frequencies.append_value(&common.frequency_text),
                // Of an earlier epoch of the series.
                false => frequencies.append_value(length.to_string()),
            }
        }
        let count_of = |value: fn(&MadeOf) -> i64| -> ArrayRef {
            match of_rollups {
                true => Arc::new(Int64Array::from_iter(made_of.iter().map(|made_of| made_of.as_ref().map(value)))),
                false => Arc::new(Int64Array::new_null(rows.len())),
            }
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(texts().map(|texts| texts.id.as_str()))),
            Arc::new(instants(|row| row.start)),
            Arc::new(instants(|row| row.end)),
            Arc::new(frequencies.finish()),
            Arc::new(Float64Array::from_iter_values(contents().map(|content| content.value))),
            Arc::new(StringArray::from_iter_values(commons().map(|common| &*common.unit_text))),
            Arc::new(Int32Array::from_iter_values(contents().map(|content| content.count))),
            Arc::new(StringArray::from_iter_values(contents().map(|content| content.quality.as_str()))),
            Arc::new(StringArray::from_iter_values(commons().map(|common| &*common.feed))),
            Arc::new(Int64Array::from_iter_values(positions().map(|position| position.timestamp_ms))),
            Arc::new(Int32Array::from_iter_values(positions().map(|position| position.partition))),
            Arc::new(Int64Array::from_iter_values(positions().map(|position| position.offset))),
            count_of(|made_of| made_of.present),
            count_of(|made_of| made_of.expected),
            count_of(|made_of| made_of.intervals[0]),
            count_of(|made_of| made_of.intervals[1]),
            count_of(|made_of| made_of.intervals[2]),
        ];
        RecordBatch::try_new(Arc::clone(schema), columns)
    }
}

/// The places by rank, start and row; `ranks` is the number of ranks.
fn sorted(mut places: Vec<Place>, ranks: usize) -> Vec<Place> {
    let key = |place: &Place| (place.rank, place.start, place.row);
    if places.len() < ranks / 4 {
        places.sort_unstable_by_key(key);
        return places;
    }
    // They come row by row, and the rows of a series hardly ever out of order: once each place is with its rank, little
    // is left to sort.
    let mut next = vec![0u32; ranks + 1];
    for place in &places {
        next[place.rank as usize + 1] += 1;
    }
    for rank in 0..ranks {
        next[rank + 1] += next[rank];
    }
    let mut sorted = places.clone();
    for place in &places {
        let at = &mut next[place.rank as usize];
        sorted[*at as usize] = *place;
        *at += 1;
    }
    for of_series in sorted.chunk_by_mut(|a, b| a.rank == b.rank) {
        if !of_series.is_sorted_by_key(key) {
            of_series.sort_unstable_by_key(key);
        }
    }
    sorted
}

/// The columns of a table that files hold: all but the partition's.
fn stored(all: &Schema, partition_by: &[&str]) -> SchemaRef {
    let kept = all.fields().iter().filter(|field| !partition_by.contains(&field.name().as_str()));
    Arc::new(Schema::new(kept.cloned().collect::<Vec<_>>()))
}

/// UTC months, with the last one remembered.
#[derive(Default)]
struct Months {
    from: Micros,
    to: Micros,
}

impl Months {
    fn start_of(&mut self, at: Micros) -> Micros {
        if !(self.from..self.to).contains(&at) {
            self.from = Frequency::Month.floor(at, &TimeZone::UTC);
            self.to = Frequency::Month.advance(self.from, 1, &TimeZone::UTC);
        }
        self.from
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
    use meterline_schemas::reading::{Position, Quality};
    use meterline_schemas::time::{DAY, HOUR};

    use super::super::rows::Content;
    use super::*;

    #[test]
    fn places_are_sorted_alike_whether_there_are_few_or_many_for_the_series() {
        let dice = meterline_tests::dice::Dice::new(7);
        for (count, ranks) in [(0, 0), (0, 9), (1, 100), (24, 100), (25, 100), (3_000, 100), (3_000, 1)] {
            let place = |row| Place { rank: dice.roll(ranks) as u32, start: dice.roll(50) as Micros, row };
            let places: Vec<Place> = (0..count).map(place).collect();
            let mut expected = places.clone();
            expected.sort_by_key(|place| (place.rank, place.start, place.row));
            assert_eq!(sorted(places, ranks as usize), expected);
        }
    }

    fn row(series: u32, start: Micros, layer: Layer, offset: i64) -> Row {
        let position = Position { timestamp_ms: 0, partition: 0, offset };
        let content = Content { value: offset as f64, count: 1, quality: Quality::Measured, position };
        Row { series, start, end: start + HOUR, layer, content }
    }

    fn texts(id: &str) -> SeriesTexts {
        let mut state = SeriesState::new("meters", id, Unit::KWH);
        state.frequency = Some(Frequency::HOUR);
        TextMaker::default().texts(&state)
    }

    #[test]
    fn what_series_have_in_common_is_kept_once_and_not_for_ever() {
        let state = |unit: &str, frequency| {
            let mut state = SeriesState::new("meters", "a", Unit::Other(unit.into()));
            state.frequency = Some(frequency);
            state
        };
        let mut maker = TextMaker::default();
        let m3 = maker.texts(&state("m3", Frequency::HOUR));
        for (unit, frequency, same) in [
            ("m3", Frequency::HOUR, true),
            ("m3", Frequency::Day, false),
            ("m3", Frequency::HOUR, true),
            ("l", Frequency::HOUR, false),
            ("m3", Frequency::HOUR, true),
        ] {
            let found = maker.texts(&state(unit, frequency));
            assert_eq!(Arc::ptr_eq(&found.common, &m3.common), same, "{unit} {frequency}");
            assert_eq!((&*found.common.unit_text, found.common.frequency), (unit, Some(frequency)));
        }
        let mut all = || -> Vec<SeriesTexts> {
            (0..1_000).map(|n| maker.texts(&state(&n.to_string(), Frequency::HOUR))).collect()
        };
        let held = all();
        assert!(held.iter().zip(all()).all(|(a, b)| Arc::ptr_eq(&a.common, &b.common)));
        maker.forget();
        assert_eq!(maker.common.len(), 1_001, "what is held stays");
        drop(held);
        maker.forget();
        assert_eq!(maker.common.len(), 1);
        assert!(Arc::ptr_eq(&maker.texts(&state("m3", Frequency::HOUR)).common, &m3.common));
    }

    #[test]
    fn rows_of_all_shards_come_sorted_in_a_file_a_month_and_layer() {
        let mut first = Rows::default();
        // January, December and January again, out of order.
        for (series, start, layer, offset) in [
            (7, HOUR, Layer::Base, 0),
            (7, -HOUR, Layer::Base, 1),
            (7, 0, Layer::Base, 2),
            (3, 0, Layer::Base, 3),
            (3, 0, Layer::Revision, 4),
        ] {
            first.push(row(series, start, layer, offset));
        }
        let mut second = Rows::default();
        second.push(row(3, 31 * DAY, Layer::Base, 5));
        second.push(row(3, 2 * HOUR, Layer::Base, 6));
        let rows = EpochRows::new(vec![
            ShardRows { rows: first, samples: vec![], series: vec![(7, texts("c")), (3, texts("a"))], made_of: None },
            ShardRows { rows: second, samples: vec![], series: vec![(3, texts("b"))], made_of: None },
        ]);
        assert_eq!(rows.len(), 7);
        let schema = stored(&tables::intervals(), &INTERVALS_PARTITION);
        let mut found = Vec::new();
        for (partition, places) in rows.files() {
            let batch = rows.batch(&schema, &places).unwrap();
            let ids = batch.column_by_name("series_id").unwrap().as_string::<i32>();
            let starts = batch.column_by_name("start").unwrap().as_primitive::<TimestampMicrosecondType>();
            let offsets = batch.column_by_name("offset").unwrap().as_primitive::<Int64Type>();
            let members: Vec<(String, i64, i64)> = (0..batch.num_rows())
                .map(|i| (ids.value(i).to_owned(), starts.value(i) / HOUR, offsets.value(i)))
                .collect();
            found.push((format!("{} {}", partition[0].1, partition[1].1), members));
        }
        let row = |id: &str, hour: i64, offset: i64| (id.to_owned(), hour, offset);
        assert_eq!(
            found,
            [
                ("1969-12 base".to_owned(), vec![row("c", -1, 1)]),
                ("1970-01 base".into(), vec![row("a", 0, 3), row("b", 2, 6), row("c", 0, 2), row("c", 1, 0)]),
                ("1970-01 rev".into(), vec![row("a", 0, 4)]),
                ("1970-02 base".into(), vec![row("b", 31 * 24, 5)]),
            ]
        );
    }
}
