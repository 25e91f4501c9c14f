//! What a shard takes and refuses, and what it writes.

use meterline_schemas::config::FeedConfig;
use meterline_schemas::reading::{Position, Quality};
use meterline_schemas::time::{DAY, HOUR};

use super::super::segments::SERIES;
use super::*;

const PLACE: Place = Place { seq: 2, rewrite_from: i64::MAX };

fn feed(name: &str) -> FeedRules {
    let mut config = FeedConfig::new(name, "id", "ts", "value");
    config.frequency = Some(meterline_schemas::Frequency::HOUR);
    let rules = Rules::new(&config, 8).unwrap();
    FeedRules { name: name.into(), topic: name.into(), rules, bad_records: BadRecords::DeadLetter }
}

fn reading(feed: u16, series: &str, hour: i64) -> Routed {
    let position = Position { timestamp_ms: hour * HOUR / 1_000, partition: 0, offset: hour };
    let (value, unit, quality) = (1.0, Unit::KWH, Quality::Measured);
    let reading = PendingReading { at: hour * HOUR, value, scale: unit.scale(), quality, position };
    Routed { feed, route: route(series), series: series.into(), unit, reading, labels: None }
}

#[test]
fn a_reading_from_a_clock_far_ahead_is_refused_and_begins_no_series() {
    let mut shard = Shard::new([feed("f")].into(), Budget::AMPLE);
    let at = |hour: i64, ahead: Micros, unit: Unit| {
        let mut routed = reading(0, "a", hour);
        routed.reading.at += ahead;
        routed.reading.scale = unit.scale();
        routed.unit = unit;
        routed
    };
    // A volt that is too far ahead must not decide the unit of the series.
    shard.apply(at(1, DAY + 1, "V".parse().unwrap()), Micros::MIN);
    shard.apply(at(2, DAY, Unit::KWH), Micros::MIN);
    // A record without a time stamp of its own says nothing about clocks.
    let mut unstamped = at(3, 9 * DAY, Unit::KWH);
    unstamped.reading.position.timestamp_ms = -1;
    shard.apply(unstamped, Micros::MIN);
    let part = shard.finish(PLACE).unwrap();
    assert_eq!((part.dead.len(), &*part.dead[0].reason), (1, TIME_AHEAD));
    assert!(part.dead[0].detail.contains("max_ahead"), "{}", part.dead[0].detail);
    assert_eq!(part.rows[0].rows.len(), 2);
}

#[test]
fn series_beyond_the_budget_are_refused_and_the_others_go_on() {
    let mut shard = Shard::new([feed("f")].into(), Budget { series: 1, ..Budget::AMPLE });
    for (series, hour) in [("a", 1), ("b", 1), ("a", 2)] {
        shard.apply(reading(0, series, hour), Micros::MIN);
    }
    let part = shard.finish(PLACE).unwrap();
    assert_eq!((part.rows[0].rows.len(), part.dead.len(), &*part.dead[0].reason), (2, 1, TOO_MANY_SERIES));
}

#[test]
fn what_waits_for_a_frequency_is_charged_to_what_is_remembered_and_keeps_no_series_out() {
    let mut detected = feed("f");
    detected.rules.frequency = None;
    let intervals = 20 * Remembered::BYTES;
    let mut shard = Shard::new([detected].into(), Budget { intervals, ..Budget::AMPLE });
    shard.apply(reading(0, "a", 1), Micros::MIN);
    shard.finish(PLACE).unwrap();
    let (settled, remembered) = (shard.bytes, shard.remembered(0));
    for hour in 2..12 {
        shard.apply(reading(0, "a", hour), Micros::MIN);
    }
    shard.finish(PLACE).unwrap();
    assert!(shard.waiting >= 11 * size_of::<PendingReading>(), "{}", shard.waiting);
    assert_eq!(shard.bytes, settled);
    assert!(shard.remembered(0) < remembered);
    // The twelfth tells the frequency, and nothing waits any more.
    shard.apply(reading(0, "a", 12), Micros::MIN);
    shard.finish(PLACE).unwrap();
    assert_eq!(shard.waiting, 0);
}

#[test]
fn a_commit_writes_what_changed_and_what_it_is_told_to_write_again() {
    let mut shard = Shard::new([feed("f")].into(), Budget::AMPLE);
    let written = |shard: &mut Shard, series: &[&str], seq: i64, rewrite_from: i64| {
        for series in series {
            shard.apply(reading(0, series, seq), Micros::MIN);
        }
        let bytes = bytes::Bytes::from(shard.finish(Place { seq, rewrite_from }).unwrap().states.segment(SERIES));
        let mut ids = Vec::new();
        crate::ingest::segments::decode(&bytes, |series| ids.push(series.id.to_string())).unwrap();
        ids.join(" ")
    };
    assert_eq!(written(&mut shard, &["a", "b", "c"], 1, i64::MAX), "a b c");
    assert_eq!(written(&mut shard, &["b"], 2, i64::MAX), "b");
    assert_eq!(written(&mut shard, &["d"], 3, 2), "b d");
    assert_eq!(written(&mut shard, &[], 4, 1), "a b c d");
    assert_eq!(written(&mut shard, &[], 5, i64::MAX), "");
}

#[test]
fn a_part_is_the_same_in_another_process() {
    let mut shard = Shard::new([feed("f"), feed("g")].into(), Budget { series: 2 * MEMBER_BYTES, ..Budget::AMPLE });
    for (feed, series, hour) in [(0, "a", 1), (0, "b", 1), (1, "a", 2), (0, "a", 1), (1, "c", 3), (0, "a", 2)] {
        shard.apply(reading(feed, series, hour), Micros::MIN);
    }
    let part = shard.finish(PLACE).unwrap();
    assert!(part.dead.len() > 1 && part.states.series > 1 && part.rows[0].series.len() > 1, "{part:?}");
    let sent = bincode::serialize(&part).unwrap();
    let received: ShardPart = bincode::deserialize(&sent).unwrap();
    assert_eq!(format!("{received:?}"), format!("{part:?}"));
}

#[test]
fn an_identifier_belongs_to_one_feed_also_when_that_is_no_longer_configured() {
    let mut gone = SeriesState::new("gone", "old", Unit::KWH);
    gone.frequency = Some(meterline_schemas::Frequency::HOUR);
    let mut shard = Shard::new([feed("import"), feed("export")].into(), Budget::AMPLE);
    shard.restore(NOT_CONFIGURED, gone, 1);
    for (feed, series) in [(0, "a"), (1, "a"), (1, "b"), (0, "old")] {
        shard.apply(reading(feed, series, 1), Micros::MIN);
    }
    let part = shard.finish(PLACE).unwrap();
    let dead: Vec<(&str, &str)> = part.dead.iter().map(|dead| (&*dead.feed, &*dead.reason)).collect();
    assert_eq!(dead, [("import", SERIES_OF_ANOTHER_FEED), ("export", SERIES_OF_ANOTHER_FEED)]);
    assert!(part.dead[1].detail.contains("`import`"), "{}", part.dead[1].detail);
    assert!(part.dead[0].detail.contains("`gone`"), "{}", part.dead[0].detail);
    let rows: Vec<usize> = part.rows.iter().map(|rows| rows.rows.len()).collect();
    assert_eq!(rows, [1, 1]);
}
