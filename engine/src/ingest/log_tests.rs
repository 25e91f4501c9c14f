//! Thousands of random feeds against SQL over the raw log.
//!
//! The shards of a stream get the readings of a log in any order: late, repeated, corrected. Epochs end anywhere, the
//! stream starts again with other numbers of shards, and after a crash what was not committed comes again. Afterwards
//! the rows that were committed, and what they were counted as, have to be what SQL makes of the whole log; of energy
//! also what was known at some instants, and every revision. The statements share nothing with the stream.
//!
//! `METERLINE_SEED` repeats one case.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Float64Type, Int64Type};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use jiff::tz::TimeZone;
use meterline_schemas::config::{BadRecords, Label};
use meterline_schemas::reading::{Position, Quality, ValueKind};
use meterline_schemas::time::{HOUR, MINUTE};
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};
use meterline_tests::dice::{Dice, seeds};

use super::aggregate::Rules;
use super::classes::Classes;
use super::recall::{Recalled, Want, Wanted};
use super::rows::{Content, Layer, Row};
use super::segments::{self, Frames};
use super::series::{PendingReading, SeriesState};
use super::shard::{Budget, Evicted, FeedRules, Place, Routed, Shard, route};
use super::state::Counts;

const CASES: u64 = 3_000;
/// Cases that one run of the statements looks at.
const TOGETHER: u64 = 250;
const BEGIN: Micros = 1_700_006_400_000_000; // 2023-11-15T00:00:00Z
const KINDS: [(&str, ValueKind); 4] = [
    ("interval", ValueKind::Interval),
    ("gauge", ValueKind::Gauge),
    ("counter", ValueKind::Counter),
    ("changing", ValueKind::Interval),
];
/// The feed whose frequency is detected: so many hours, and quarter hours from then on.
const CHANGING: usize = 3;
const HOURS: i64 = 40;
/// How many records of the log a partition may be ahead of another one where a meter changes.
const AHEAD: usize = 20;

/// An interval that is energy: the reading with the greatest position. Its stamp is the nearest boundary.
const INTERVALS: &str = "
    WITH slots AS (
        SELECT *, (at + length / 2) / length * length - CASE WHEN at_end THEN length ELSE 0 END AS start FROM log
        WHERE kind = 'interval'),
    ranked AS (
        SELECT *, row_number() OVER (PARTITION BY seed, series, start ORDER BY ts DESC, part DESC, pos DESC) AS n FROM slots)
    SELECT seed, series, start, value, CAST(1 AS BIGINT) AS readings, quality, start + length AS \"end\" FROM ranked
    WHERE n = 1";

/// The same as of some instants: the last column is the instant, and what the log had by then is all that there is.
const AS_OF: &str = "
    WITH slots AS (
        SELECT *, (at + length / 2) / length * length - CASE WHEN at_end THEN length ELSE 0 END AS start
        FROM log JOIN instants ON seed = case_seed WHERE kind = 'interval' AND ts <= known_by),
    ranked AS (
        SELECT *,
               row_number() OVER (PARTITION BY seed, known_by, series, start ORDER BY ts DESC, part DESC, pos DESC) AS n
        FROM slots)
    SELECT seed, series, start, value, CAST(1 AS BIGINT) AS readings, quality, known_by FROM ranked WHERE n = 1";

/// Every reading of energy is a revision; the last column is its position, as [`place`] tells it.
const REVISIONS: &str = "
    SELECT seed, series, (at + length / 2) / length * length - CASE WHEN at_end THEN length ELSE 0 END AS start, value,
           CAST(1 AS BIGINT) AS readings, quality, (ts * 3 + part) * 100000 + pos AS place
    FROM log WHERE kind = 'interval'";

/// The same of a meter that changes.
const CHANGES: &str = "
    WITH lengths AS (
        SELECT *, CASE WHEN at - CASE WHEN at_end THEN 1 ELSE 0 END >= change THEN 900000000 ELSE 3600000000 END AS own
        FROM log WHERE kind = 'changing'),
    slots AS (SELECT *, at - CASE WHEN at_end THEN own ELSE 0 END AS start FROM lengths),
    ranked AS (
        SELECT *, row_number() OVER (PARTITION BY seed, series, start ORDER BY ts DESC, part DESC, pos DESC) AS n FROM slots)
    SELECT seed, series, start, value, CAST(1 AS BIGINT) AS readings, quality, start + own AS \"end\" FROM ranked
    WHERE n = 1";

/// The mean of the samples in an interval, of each instant the one with the greatest position.
const GAUGES: &str = "
    WITH ranked AS (
        SELECT *, row_number() OVER (PARTITION BY seed, series, at ORDER BY ts DESC, part DESC, pos DESC) AS n FROM log
        WHERE kind = 'gauge'),
    slots AS (
        SELECT *, (at - CASE WHEN at_end THEN 1 ELSE 0 END) / length * length AS start FROM ranked WHERE n = 1)
    SELECT seed, series, start, sum(value) / count(*) AS value, count(*) AS readings, max(quality) AS quality,
           start + length AS \"end\"
    FROM slots GROUP BY seed, series, start, length";

/// The difference of the registers at both ends of an interval, unless it is negative.
const COUNTERS: &str = "
    WITH ranked AS (
        SELECT *, row_number() OVER (PARTITION BY seed, series, at ORDER BY ts DESC, part DESC, pos DESC) AS n FROM log
        WHERE kind = 'counter'),
    registers AS (SELECT * FROM ranked WHERE n = 1)
    SELECT a.seed, a.series, a.at AS start, b.value - a.value AS value, CAST(2 AS BIGINT) AS readings,
           greatest(a.quality, b.quality) AS quality, b.at AS \"end\"
    FROM registers a JOIN registers b ON a.seed = b.seed AND a.series = b.series AND b.at = a.at + a.length
    WHERE b.value >= a.value";

/// A record of the log, after decoding.
#[derive(Debug, Clone)]
struct Sent {
    kind: usize,
    series: String,
    reading: PendingReading,
}

/// One case: what is in the log, and how the stream goes.
struct Case {
    seed: u64,
    dice: Dice,
    length: Micros,
    label: Label,
    remembered: usize,
    // Whether there is a meter that changes.
    changing: bool,
    log: Vec<Sent>,
    // Time stamps of records, as of which the intervals are compared, too.
    instants: [i64; 3],
}

impl Case {
    fn new(seed: u64) -> Case {
        let dice = Dice::new(seed);
        let length = dice.pick(&[15 * MINUTE, 30 * MINUTE, HOUR]);
        let label = dice.pick(&[Label::Begin, Label::End]);
        let remembered = 2 + dice.roll(8) as usize;
        let (slots, series, stride) = (4 + dice.roll(60), 1 + dice.roll(4), dice.pick(&[1, 1, 7, 40]));
        let (mut log, mut offsets, mut timestamp_ms) = (Vec::<Sent>::new(), [0i64; 3], BEGIN / 1_000);
        // The order of positions is not that of arrival.
        let mut next_position = |dice: &Dice| {
            timestamp_ms += dice.roll(40) as i64 - 10;
            let partition = dice.roll(3) as usize;
            offsets[partition] += 1;
            Position { timestamp_ms, partition: partition as i32, offset: offsets[partition] - 1 }
        };
        let count = 20 + dice.roll(220);
        let changing = count >= 120 && dice.one_in(3);
        let mut changed: Vec<Sent> = Vec::new();
        for n in 0..count {
            let kind = dice.roll(3) as usize;
            // History goes on, with much that is late.
            let newest = (slots * n / 240).min(slots - 1);
            let slot = if dice.roll(3) == 0 { dice.roll(slots) } else { newest } as i64 * stride;
            let boundary = BEGIN + slot * length;
            let at = match KINDS[kind].1 {
                ValueKind::Interval => boundary + (dice.roll(9) as i64 - 4) * MINUTE,
                ValueKind::Gauge => boundary + dice.roll(length as u64 / 1_000_000) as i64 * 1_000_000,
                ValueKind::Counter => boundary + dice.roll(2) as i64 * length,
            };
            let position = next_position(&dice);
            let quality = dice.pick(&[Quality::Measured, Quality::Measured, Quality::Estimated, Quality::Substituted]);
            let value = dice.roll(9) as f64 + if kind == 2 { slot as f64 } else { 0.0 };
            let mut sent = Sent {
                kind,
                series: format!("{}-{}", KINDS[kind].0, dice.roll(series)),
                reading: PendingReading { at, value, scale: Unit::KWH.scale(), quality, position },
            };
            // The same again, as a producer sends it that got no answer.
            if dice.roll(9) == 0
                && let Some(earlier) = log.get(dice.roll(log.len().max(1) as u64) as usize)
            {
                let reading = PendingReading { position, ..earlier.reading };
                sent = Sent { reading, ..earlier.clone() };
            }
            log.push(sent);
            if changing {
                changed.push(Case::changing(n as i64, label, next_position(&dice)));
                log.extend(changed.last().cloned());
                // One of them again, or corrected.
                if dice.one_in(6) {
                    let earlier = dice.pick(&changed);
                    let (value, position) = (earlier.reading.value + dice.roll(2) as f64, next_position(&dice));
                    let reading = PendingReading { value, position, ..earlier.reading };
                    log.push(Sent { reading, ..earlier });
                }
            }
        }
        let instants = std::array::from_fn(|_| {
            let sent = &log[dice.roll(log.len() as u64) as usize];
            sent.reading.position.timestamp_ms - dice.roll(2) as i64
        });
        Case { seed, dice, length, label, remembered, changing, log, instants }
    }

    // The reading of this number of the meter that changes.
    fn changing(number: i64, label: Label, position: Position) -> Sent {
        let change = BEGIN + HOURS * HOUR;
        let (start, length) = match number - HOURS {
            quarters if quarters >= 0 => (change + quarters * 15 * MINUTE, 15 * MINUTE),
            _ => (BEGIN + number * HOUR, HOUR),
        };
        let at = if label == Label::End { start + length } else { start };
        let (value, scale, quality) = ((number % 7) as f64, Unit::KWH.scale(), Quality::Measured);
        let reading = PendingReading { at, value, scale, quality, position };
        Sent { kind: CHANGING, series: "changing-0".into(), reading }
    }

    fn feeds(&self) -> Arc<[FeedRules]> {
        let feed = |(name, kind): &(&str, ValueKind)| FeedRules {
            name: Arc::from(*name),
            topic: Arc::from("t"),
            rules: Rules {
                kind: *kind,
                label: self.label,
                zone: TimeZone::UTC,
                frequency: (*name != KINDS[CHANGING].0).then_some(Frequency::Seconds((self.length / 1_000_000) as u32)),
                max_ahead: Micros::MAX,
                remembered: self.remembered,
            },
            bad_records: BadRecords::DeadLetter,
        };
        KINDS.iter().map(feed).collect()
    }
}

/// What was committed.
#[derive(Default)]
struct Lake {
    epochs: i64,
    rows: BTreeMap<String, Vec<Row>>,
    samples: BTreeMap<String, Vec<PendingReading>>,
    // With the commit that wrote them.
    states: BTreeMap<String, (i64, SeriesState)>,
    // Those that left memory, with the commit at which they did.
    evicted: BTreeMap<String, (i64, SeriesState)>,
    counts: BTreeMap<(usize, i32), Counts>,
}

impl Lake {
    fn start(&self, feeds: &Arc<[FeedRules]>, shards: usize, dice: &Dice) -> Vec<Shard> {
        // From the least memory that there is to as much as is asked for.
        // What is looked up at a time: from one interval to a few.
        let lookup = dice.roll(4_000) as usize;
        // In every second start series leave memory, down to all that had no reading in an epoch.
        let series = if dice.roll(2) == 0 { usize::MAX } else { 600 + dice.roll(4_000) as usize };
        let budget = Budget { intervals: dice.roll(4_000) as usize, lookup, series, ..Budget::AMPLE };
        let mut all: Vec<Shard> = (0..shards).map(|_| Shard::new(Arc::clone(feeds), budget)).collect();
        let mut evicted: Vec<Evicted> = (0..shards).map(|_| Evicted::default()).collect();
        let feed = |state: &SeriesState| KINDS.iter().position(|(name, _)| *name == &*state.feed).unwrap() as u16;
        for (id, (seq, state)) in &self.evicted {
            if self.states.get(id).is_none_or(|(written, _)| written < seq) {
                let evicted = &mut evicted[route(id) as usize % shards];
                evicted.add(Some((feed(state), &TimeZone::UTC)), state, &Classes::default());
            }
        }
        for (id, (written, state)) in &self.states {
            if self.evicted.get(id).is_none_or(|(seq, _)| seq <= written) {
                all[route(id) as usize % shards].restore(feed(state), state.clone(), *written);
            }
        }
        for (shard, evicted) in all.iter_mut().zip(evicted) {
            shard.restore_evicted(evicted);
        }
        all
    }

    // By interval the row with the greatest position.
    fn newest(rows: &[Row], take: impl Fn(&Row) -> bool) -> BTreeMap<(Micros, Micros), Row> {
        let mut newest: BTreeMap<(Micros, Micros), Row> = BTreeMap::new();
        for row in rows.iter().filter(|row| take(row)) {
            let known = newest.entry((row.start, row.end)).or_insert(*row);
            if row.content.position > known.content.position {
                *known = *row;
            }
        }
        newest
    }

    fn look_up(&self, wanted: &Wanted) -> Recalled {
        let mut found = Recalled::default();
        let states = wanted.series.iter().filter_map(|id| self.evicted.get(id.as_str()));
        found.series = Frames::of(states.map(|(_, state)| state)).unwrap();
        for Want { series, id, from, to } in wanted.intervals.iter().chain(&wanted.samples) {
            let rows = self.rows.get(id.as_str()).map(Vec::as_slice).unwrap_or_default();
            let newest = Lake::newest(rows, |row| (*from..*to).contains(&row.start));
            found.intervals.extend(newest.into_values().map(|row| (*series, (row.start, row.end), row.content)));
        }
        for Want { series, id, from, to } in &wanted.samples {
            let samples = self.samples.get(id.as_str()).into_iter().flatten();
            found.samples.extend(samples.filter(|s| (*from..=*to).contains(&s.at)).map(|s| (*series, *s)));
        }
        found
    }

    fn commit(&mut self, shards: &mut [Shard]) {
        // All are looked up before anything is written, as in the stream.
        for shard in &mut *shards {
            while let Some(wanted) = shard.wanted() {
                shard.resolve(self.look_up(&wanted)).unwrap();
            }
        }
        self.epochs += 1;
        for shard in shards {
            let part = shard.finish(Place { seq: self.epochs, rewrite_from: i64::MAX }).unwrap();
            for rows in part.rows {
                let ids: BTreeMap<u32, String> =
                    rows.series.iter().map(|(number, texts)| (*number, texts.id().to_owned())).collect();
                for row in rows.rows.iter() {
                    self.rows.entry(ids[&row.series].clone()).or_default().push(*row);
                }
                for (number, sample) in rows.samples {
                    self.samples.entry(ids[&number].clone()).or_default().push(sample);
                }
            }
            for (feed, tally) in part.tallies.iter().enumerate() {
                for (partition, change) in tally.changes() {
                    change.apply(self.counts.entry((feed, partition)).or_default());
                }
            }
            let segment = bytes::Bytes::from(part.states.segment(segments::SERIES));
            let epoch = self.epochs;
            segments::decode(&segment, |state| _ = self.states.insert(state.id.to_string(), (epoch, state))).unwrap();
            part.evicted.each(|state| _ = self.evicted.insert(state.id.to_string(), (epoch, state))).unwrap();
        }
    }
}

fn apply(shards: &mut [Shard], sent: &Sent, watermark: Micros) {
    let route = route(&sent.series);
    let (feed, series) = (sent.kind as u16, sent.series.as_str().into());
    let count = shards.len();
    shards[route as usize % count]
        .apply(Routed { feed, route, series, unit: Unit::KWH, labels: None, reading: sent.reading }, watermark);
}

/// Lets a stream read the log of a case, in the order in which brokers may hand it out.
fn run(case: &mut Case) -> Lake {
    let feeds = case.feeds();
    let mut partitions: [Vec<(usize, &Sent)>; 3] = Default::default();
    for (number, sent) in case.log.iter().enumerate().rev() {
        partitions[sent.reading.position.partition as usize].push((number, sent));
    }
    let ahead = if case.changing { AHEAD } else { case.log.len() };
    let mut order = Vec::with_capacity(case.log.len());
    while order.len() < case.log.len() {
        let partition = case.dice.roll(3) as usize;
        let run = 1 + case.dice.roll(20);
        let furthest = partitions.iter().filter_map(|p| p.last()).map(|(number, _)| number + ahead).min().unwrap();
        let next = (0..run).map_while(|_| partitions[partition].pop_if(|(number, _)| *number <= furthest));
        order.extend(next.map(|(_, sent)| sent));
    }
    // Of the meter that changes: how far each partition is, and was when the last commit was made.
    let (mut reached, mut reached_then) = ([Micros::MIN; 3], [Micros::MIN; 3]);
    let (mut lake, mut next, mut committed) = (Lake::default(), 0, 0);
    let mut crashes = 5;
    let mut shards = lake.start(&feeds, 1 + case.dice.roll(4) as usize, &case.dice);
    let often = 2 + case.dice.roll(40);
    while next < order.len() {
        let sent = order[next];
        let watermark = reached.into_iter().min().filter(|_| sent.kind == CHANGING);
        apply(&mut shards, sent, watermark.unwrap_or(Micros::MIN));
        if sent.kind == CHANGING {
            let reached = &mut reached[sent.reading.position.partition as usize];
            *reached = sent.reading.at.max(*reached);
        }
        next += 1;
        if case.dice.roll(often) == 0 {
            lake.commit(&mut shards);
            (committed, reached_then) = (next, reached);
        }
        match case.dice.roll(60) {
            0 => {
                lake.commit(&mut shards);
                (committed, reached_then) = (next, reached);
            }
            1 if crashes > 0 => crashes -= 1,
            _ => continue,
        }
        // It starts again, with what was committed.
        (next, reached) = (committed, reached_then);
        shards = lake.start(&feeds, 1 + case.dice.roll(4) as usize, &case.dice);
    }
    lake.commit(&mut shards);
    lake
}

type Key = (u64, String, Micros, Micros);
type Found = BTreeMap<Key, (f64, i64, i64)>;

fn log(cases: &[Case]) -> RecordBatch {
    let all = || cases.iter().flat_map(|case| case.log.iter().map(move |sent| (case, sent)));
    let integers =
        |of: fn(&Case, &Sent) -> i64| Arc::new(all().map(|(case, sent)| Some(of(case, sent))).collect::<Int64Array>());
    let columns: [(&str, ArrayRef); 12] = [
        ("seed", integers(|case, _| case.seed as i64)),
        ("kind", Arc::new(all().map(|(_, sent)| Some(KINDS[sent.kind].0)).collect::<StringArray>())),
        ("series", Arc::new(all().map(|(_, sent)| Some(&sent.series)).collect::<StringArray>())),
        ("length", integers(|case, _| case.length)),
        ("change", integers(|_, _| BEGIN + HOURS * HOUR)),
        (
            "at_end",
            Arc::new(all().map(|(case, _)| Some(case.label == Label::End)).collect::<arrow::array::BooleanArray>()),
        ),
        ("at", integers(|_, sent| sent.reading.at)),
        ("value", Arc::new(Float64Array::from_iter_values(all().map(|(_, sent)| sent.reading.value)))),
        ("quality", integers(|_, sent| sent.reading.quality as i64)),
        ("ts", integers(|_, sent| sent.reading.position.timestamp_ms)),
        ("part", Arc::new(Int32Array::from_iter_values(all().map(|(_, sent)| sent.reading.position.partition)))),
        ("pos", integers(|_, sent| sent.reading.position.offset)),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn instants(cases: &[Case]) -> RecordBatch {
    let all = || cases.iter().flat_map(|case| case.instants.map(|instant| (case.seed as i64, instant)));
    let columns: [(&str, ArrayRef); 2] = [
        ("case_seed", Arc::new(Int64Array::from_iter_values(all().map(|(seed, _)| seed)))),
        ("known_by", Arc::new(Int64Array::from_iter_values(all().map(|(_, instant)| instant)))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// A position as one number.
fn place(position: Position) -> i64 {
    (position.timestamp_ms * 3 + i64::from(position.partition)) * 100_000 + position.offset
}

async fn recompute(cases: &[Case], statements: &[&str]) -> Found {
    let context = SessionContext::new();
    for (name, batch) in [("log", log(cases)), ("instants", instants(cases))] {
        context.register_table(name, Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap())).unwrap();
    }
    let mut found = Found::new();
    for statement in statements {
        for rows in context.sql(statement).await.unwrap().collect().await.unwrap() {
            let integers = |column: usize| rows.column(column).as_primitive::<Int64Type>().clone();
            let (seeds, starts, readings, qualities) = (integers(0), integers(2), integers(4), integers(5));
            let ends = integers(6);
            let values = rows.column(3).as_primitive::<Float64Type>();
            let series = arrow::compute::cast(rows.column(1), &arrow::datatypes::DataType::Utf8).unwrap();
            for row in 0..rows.num_rows() {
                let series = series.as_string::<i32>().value(row).to_owned();
                let key = (seeds.value(row) as u64, series, starts.value(row), ends.value(row));
                found.insert(key, (values.value(row), readings.value(row), qualities.value(row)));
            }
        }
    }
    found
}

fn of_seed(all: &Found, seed: u64) -> Found {
    let first = (seed, String::new(), Micros::MIN, Micros::MIN);
    let mine = all.range(first..).take_while(|(key, _)| key.0 == seed);
    mine.map(|(key, value)| (key.clone(), *value)).collect()
}

/// Whatever the epochs and the order of the partitions were: each reading of energy is a row, and so the rows tell what
/// was known at any instant.
fn check_history(case: &Case, lake: &Lake, as_of: &Found, revisions: &Found) {
    let seed = case.seed;
    let columns = |content: &Content| (content.value, i64::from(content.count), content.quality as i64);
    let (mut known, mut rows_found) = (Found::new(), Found::new());
    for (series, rows) in lake.rows.iter().filter(|(series, _)| series.starts_with(KINDS[0].0)) {
        for row in rows {
            let key = (seed, series.clone(), row.start, place(row.content.position));
            let again = rows_found.insert(key, columns(&row.content));
            assert_eq!(again, None, "METERLINE_SEED={seed}: {row:?} of {series} is there twice");
        }
        for instant in case.instants {
            let by_then = Lake::newest(rows, |row| row.content.position.timestamp_ms <= instant);
            for ((start, _), row) in by_then {
                known.insert((seed, series.clone(), start, instant), columns(&row.content));
            }
        }
    }
    assert_eq!(rows_found, of_seed(revisions, seed), "METERLINE_SEED={seed}: the revisions are others");
    assert_eq!(known, of_seed(as_of, seed), "METERLINE_SEED={seed}: something else was known");
}

fn check(case: &Case, lake: &Lake, expected: &Found) {
    let seed = case.seed;
    let mut found = Found::new();
    for (series, rows) in &lake.rows {
        let base = rows.iter().filter(|row| row.layer == Layer::Base);
        let mut base: Vec<(Micros, Micros)> = base.map(|row| (row.start, row.end)).collect();
        base.sort_unstable();
        assert!(base.is_sorted_by(|a, b| a < b), "METERLINE_SEED={seed}: two base rows of an interval of {series}");
        for ((start, end), row) in Lake::newest(rows, |_| true).into_iter().filter(|(_, row)| row.content.count > 0) {
            let content = (row.content.value, i64::from(row.content.count), row.content.quality as i64);
            found.insert((seed, series.clone(), start, end), content);
        }
    }
    let of_case = |key: &Key| key.0 == seed;
    let first = (seed, String::new(), Micros::MIN, Micros::MIN);
    for (key, value) in expected.range(first..).take_while(|(key, _)| of_case(key)) {
        assert_eq!(found.remove(key), Some(*value), "METERLINE_SEED={seed}: {key:?}");
    }
    assert!(found.is_empty(), "METERLINE_SEED={seed}: intervals without readings: {found:?}");
    for (kind, (name, _)) in KINDS.iter().enumerate() {
        let counts = || lake.counts.iter().filter(|((feed, _), _)| *feed == kind).map(|(_, counts)| counts);
        let all: u64 = counts().map(|c| c.accepted + c.corrected + c.duplicate + c.dead + c.pending).sum();
        let sent = case.log.iter().filter(|sent| sent.kind == kind).count() as u64;
        assert_eq!(all, sent, "METERLINE_SEED={seed}: the counts of {name} do not add up");
        if kind == 0 {
            let intervals = expected.keys().filter(|key| of_case(key) && key.1.starts_with(name)).count() as u64;
            let accepted: u64 = counts().map(|c| c.accepted).sum();
            assert_eq!(accepted, intervals, "METERLINE_SEED={seed}: each interval is accepted once");
        }
    }
}

#[tokio::test]
async fn thousands_of_feeds_equal_sql_over_their_logs() {
    let seeds = seeds(CASES);
    for first in seeds.clone().step_by(TOGETHER as usize) {
        let mut cases: Vec<Case> = (first..seeds.end.min(first + TOGETHER)).map(Case::new).collect();
        let lakes: Vec<Lake> = cases.iter_mut().map(run).collect();
        let expected = recompute(&cases, &[INTERVALS, GAUGES, COUNTERS, CHANGES]).await;
        let (as_of, revisions) = (recompute(&cases, &[AS_OF]).await, recompute(&cases, &[REVISIONS]).await);
        for (case, lake) in cases.iter().zip(&lakes) {
            check(case, lake, &expected);
            check_history(case, lake, &as_of, &revisions);
        }
    }
}
