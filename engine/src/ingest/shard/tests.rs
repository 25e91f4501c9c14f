//! What a shard takes and refuses, and what it writes.

use std::collections::BTreeMap;

use meterline_schemas::config::FeedConfig;
use meterline_schemas::reading::{Position, Quality, ValueKind};
use meterline_schemas::time::{DAY, HOUR, SECOND, format_micros};

use super::super::bounds::Bounds;
use super::super::census::{Census, Taking};
use super::super::classes::tests::classes;
use super::super::crew::Crew;
use super::super::recall::Recalled;
use super::super::rollup::plan::Plan;
use super::super::rollup::saved::Givers;
use super::super::rollup::taken::Taken;
use super::super::segments::{Frames, SERIES};
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
fn samples_of_running_intervals_stay_within_what_intervals_may_take() {
    let mut config = FeedConfig::new("f", "id", "ts", "value");
    (config.kind, config.frequency) = (ValueKind::Gauge, Some(meterline_schemas::Frequency::HOUR));
    let rules = Rules::new(&config, 8).unwrap();
    let gauges = FeedRules { name: "f".into(), topic: "f".into(), rules, bad_records: BadRecords::DeadLetter };
    // Room for ten samples of each of four series.
    let intervals = 2 * 4 * 10 * size_of::<PendingReading>();
    let mut shard = Shard::new([gauges].into(), Budget { intervals, ..Budget::AMPLE });
    let mut hours = Vec::new();
    for seq in 1..=30 {
        for second in 100 * seq - 99..=100 * seq {
            for series in ["a", "b", "c", "d"] {
                let mut sample = reading(0, series, 0);
                (sample.reading.at, sample.reading.value) = (second * SECOND, second as f64);
                sample.reading.position.offset = second;
                shard.apply(sample, Micros::MIN);
            }
        }
        assert_eq!(shard.wanted(), None, "what goes on needs no lookup");
        hours = shard.finish(Place { seq, rewrite_from: i64::MAX }).unwrap().rows;
        let kept: Vec<usize> = shard.members.iter().map(|member| member.series.samples_kept()).collect();
        assert!(kept.iter().all(|kept| *kept <= 10), "{kept:?}");
    }
    let means: Vec<(f64, i32)> = hours[0].rows.iter().map(|row| (row.content.value, row.content.count)).collect();
    assert_eq!(means, [(1_500.5, 3_000); 4]);
}

/// Bytes that a series is charged with.
const EACH: usize = MEMBER_BYTES + size_of::<SeriesState>();

fn ids(frames: &Frames) -> Vec<String> {
    let mut ids = Vec::new();
    frames.each(|state| ids.push(state.id.to_string())).unwrap();
    ids
}

// What the lake says of series.
fn found(frames: &[&Frames]) -> Recalled {
    let mut series = Frames::default();
    frames.iter().for_each(|some| series.append(Frames::clone(some)));
    Recalled { series, ..Recalled::default() }
}

#[test]
fn series_that_had_no_reading_for_longest_leave_memory_and_come_back() {
    let mut shard = Shard::new([feed("f")].into(), Budget { series: 4 * EACH, ..Budget::AMPLE });
    let epoch = |shard: &mut Shard, seq: i64, readings: &[(&str, i64)], lake: &[&Frames]| {
        for (series, hour) in readings {
            shard.apply(reading(0, series, *hour), Micros::MIN);
        }
        let wanted = shard.wanted();
        if wanted.is_some() {
            shard.resolve(found(lake)).unwrap();
            assert_eq!(shard.wanted(), None);
        }
        let wanted: Vec<String> =
            wanted.into_iter().flat_map(|wanted| wanted.series).map(|id| id.to_string()).collect();
        (wanted, shard.finish(Place { seq, rewrite_from: 1 }).unwrap())
    };
    let (wanted, part) = epoch(&mut shard, 1, &[("a", 1), ("b", 1)], &[]);
    assert_eq!((wanted.len(), part.evicted.series), (0, 0));
    assert_eq!(epoch(&mut shard, 2, &[("a", 2), ("c", 2)], &[]).1.evicted.series, 0);
    // Of four one has to go; it is not written to a segment again.
    let (_, part) = epoch(&mut shard, 3, &[("d", 3)], &[]);
    assert_eq!(
        (ids(&part.evicted), ids(&part.states)),
        (vec!["b".to_owned()], vec!["a".into(), "c".into(), "d".into()])
    );
    let gone = part.evicted;
    // It comes back as it was: what it has is known, and another one takes its place.
    let (wanted, part) = epoch(&mut shard, 4, &[("b", 4), ("b", 5), ("d", 4)], &[&gone]);
    assert_eq!(wanted, ["b"]);
    assert_eq!((part.rows[0].rows.len(), part.dead.len()), (3, 0));
    let mut leaving = ids(&part.evicted);
    leaving.sort_unstable();
    assert_eq!(leaving, ["a", "c"]);
    let mut states = Vec::new();
    part.states.each(|state| states.push((state.id.to_string(), state.first_start, state.intervals))).unwrap();
    assert_eq!(states[0], ("b".into(), Some(0), 3));
    assert_eq!(shard.members.len(), 4);
}

#[test]
fn routes_are_the_same_for_ever() {
    assert_eq!(
        ["", "a", "meter-0000001"].map(route),
        [0x2d06_8005_38d3_94c2, 0xe6c6_32b6_1e96_4e1f, 0x12f2_0b62_857b_9d93]
    );
}

#[test]
fn readings_that_come_before_their_epoch_are_counted_where_their_series_need_room() {
    let mut shard = Shard::new([feed("f")].into(), Budget { series: 8 * EACH, ..Budget::AMPLE });
    (0..4).for_each(|n| shard.apply(reading(0, &format!("m{n}"), 1), Micros::MIN));
    let mut early: Vec<Routed> = Vec::new();
    let mut crowded = |series: &str, times: usize| {
        early.extend((0..times).map(|_| reading(0, series, 2)));
        shard.would_be_crowded(&early)
    };
    // Of series that are there, or of few others.
    assert!(!crowded("m1", 9) && !crowded("n1", 9) && !crowded("n2", 1));
    assert!(crowded("n3", 1) || crowded("n4", 1));
}

#[test]
fn a_limit_that_is_far_too_low_for_the_routes_leaves_room_for_some_series() {
    let mut shard = Shard::new([feed("f")].into(), Budget { series: 8 * EACH, ..Budget::AMPLE });
    (0..4_000).for_each(|n| shard.absent.add(n));
    shard.apply(reading(0, "m0", 1), Micros::MIN);
    assert!(shard.absent.bytes() > shard.budget.series && !shard.full());
}

#[test]
fn a_limit_says_how_many_series_can_be_told_apart() {
    let mut config = meterline_schemas::config::Config::default();
    config.ingest.memory_limit = "32MiB".parse().unwrap();
    let budget = Bounds::of(&config, Crew::alone(2)).shard;
    let mut shard = Shard::new([feed("f")].into(), budget);
    let known = (0..).take_while(|route| {
        let room = !shard.is_out_of_room();
        shard.absent.add(*route);
        room
    });
    // Of both workers 29,360,128 with 2 GiB, which is 64 times as much.
    assert_eq!(2 * known.count(), 29_360_128 / 64);
}

#[test]
fn a_series_that_is_not_in_the_lake_after_all_is_new() {
    let mut shard = Shard::new([feed("f")].into(), Budget::AMPLE);
    // Of another series with the same route.
    shard.absent.add(route("a"));
    shard.apply(reading(0, "a", 1), Micros::MIN);
    assert_eq!(shard.wanted().map(|wanted| wanted.series), Some(vec!["a".into()]));
    shard.resolve(Recalled::default()).unwrap();
    assert_eq!(shard.wanted(), None);
    assert_eq!(shard.finish(PLACE).unwrap().rows[0].rows.len(), 1);
}

#[test]
fn what_is_looked_up_at_a_time_has_whole_series() {
    let lookup = 2 * 512;
    let mut shard = Shard::new([feed("f")].into(), Budget { lookup, ..Budget::AMPLE });
    for series in ["a", "b", "c", "d", "e"] {
        shard.absent.add(route(series));
        (1..=3).for_each(|hour| shard.apply(reading(0, series, hour), Micros::MIN));
    }
    let mut parts = Vec::new();
    while let Some(wanted) = shard.wanted() {
        parts.push(wanted.series.len());
        shard.resolve(Recalled::default()).unwrap();
    }
    assert_eq!(parts, [2, 2, 1]);
    assert_eq!(shard.finish(PLACE).unwrap().rows[0].rows.len(), 15);
}

#[test]
fn series_beyond_what_can_be_told_apart_are_refused_and_the_others_go_on() {
    let mut shard = Shard::new([feed("f")].into(), Budget { series: 1, ..Budget::AMPLE });
    shard.apply(reading(0, "a", 1), Micros::MIN);
    let gone = shard.finish(PLACE).unwrap().evicted;
    for (series, hour) in [("b", 1), ("a", 2)] {
        shard.apply(reading(0, series, hour), Micros::MIN);
    }
    assert!(shard.wanted().is_some());
    shard.resolve(found(&[&gone])).unwrap();
    let part = shard.finish(PLACE).unwrap();
    assert_eq!((part.rows[0].rows.len(), part.dead.len(), &*part.dead[0].reason), (1, 1, TOO_MANY_SERIES));
}

// A shard of a worker whose roll-ups say what they take.
fn beside_rollups(budget: Budget) -> (Shard, Arc<Taken>) {
    let (config, taken) = (meterline_schemas::config::Config::default(), Arc::new(Taken::default()));
    let (plan, givers) = (Arc::new(Plan::new(&config).unwrap()), Arc::new(Givers::new(&config)));
    let rollups = ForRollups::new(plan, givers, Arc::clone(&taken));
    (Shard::new([feed("f")].into(), budget).for_rollups(rollups), taken)
}

#[test]
fn what_roll_ups_know_leaves_less_room_for_series() {
    for (of_series, of_groups, gone) in [(0, 0, 0), (EACH, 0, 1), (EACH, EACH, 2), (9 * EACH, 0, 3)] {
        let (mut shard, taken) = beside_rollups(Budget { series: 4 * EACH, ..Budget::AMPLE });
        for series in ["a", "b", "c"] {
            shard.apply(reading(0, series, 1), Micros::MIN);
        }
        taken.by_series(of_series);
        taken.by_groups(of_groups);
        assert_eq!(shard.finish(PLACE).unwrap().evicted.series, gone, "{of_series} {of_groups}");
        // Whatever they take, an epoch has room for some series.
        assert!(!shard.is_crowded());
    }
}

#[test]
fn new_series_are_refused_where_roll_ups_know_too_much_and_the_others_go_on() {
    let (mut shard, taken) = beside_rollups(Budget { series: 8 * EACH, ..Budget::AMPLE });
    shard.apply(reading(0, "a", 1), Micros::MIN);
    shard.finish(PLACE).unwrap();
    taken.by_series(4 * EACH + 1);
    for (series, hour) in [("a", 2), ("b", 2)] {
        shard.apply(reading(0, series, hour), Micros::MIN);
    }
    let part = shard.finish(PLACE).unwrap();
    assert_eq!((part.rows[0].rows.len(), part.dead.len(), &*part.dead[0].reason), (1, 1, TOO_MANY_SERIES));
    let detail = &part.dead[0].detail;
    assert!(detail.contains("their labels for roll-ups") && detail.contains("`labels`"), "{detail}");
    // There is room again.
    taken.by_series(4 * EACH);
    shard.apply(reading(0, "b", 3), Micros::MIN);
    assert!(shard.finish(PLACE).unwrap().dead.is_empty());
}

#[test]
fn the_census_has_series_whether_they_are_in_memory_or_not_and_by_the_labels_that_hold() {
    // Some have another label later than others, while some of them are not in memory.
    let label = |number: i64| match number % 5 {
        0 => format!("m{number},,industry,1\n"),
        1 => format!("m{number},,household,3\nm{number},{},industry,3\n", format_micros((10 + number) * HOUR)),
        2 => format!("m{number},,industry,3\nm{number},{},,\n", format_micros((number + 3) * HOUR)),
        _ => String::new(),
    };
    let (config, labels) = classes(&(0..20).map(label).collect::<String>());
    let labels = Arc::new(labels);
    let census_of = |states: &mut dyn Iterator<Item = &SeriesState>| {
        let mut taking = Taking::new(&config, &labels);
        states.for_each(|state| taking.take(state));
        taking.finish()
    };
    let budget = Budget { series: 3 * EACH + labels.bytes(), ..Budget::AMPLE };
    let mut shard = Shard::new([feed("f")].into(), budget).by_classes(Arc::clone(&labels), 1);
    let mut census = Census::new(&config);
    let (mut in_memory, mut evicted, mut seen) = (BTreeMap::new(), BTreeMap::new(), std::collections::BTreeSet::new());
    for seq in 1..40 {
        // Old ones come back, new ones come.
        for series in [seq, seq * 7 % 11, 3] {
            shard.apply(reading(0, &format!("m{}", series % 20), seq), Micros::MIN);
        }
        while let Some(wanted) = shard.wanted() {
            let states: Vec<&SeriesState> = wanted.series.iter().filter_map(|id| evicted.get(id)).collect();
            let series = Frames::of(states.into_iter()).unwrap();
            shard.resolve(Recalled { series, ..Recalled::default() }).unwrap();
        }
        let part = shard.finish(Place { seq, rewrite_from: 1 }).unwrap();
        assert!(part.dead.is_empty(), "{:?}", part.dead);
        census.change(shard.census_changes());
        in_memory.clear();
        part.states.each(|state| _ = in_memory.insert(state.id.clone(), state)).unwrap();
        in_memory.keys().for_each(|id| _ = evicted.remove(id));
        part.evicted.each(|state| _ = evicted.insert(state.id.clone(), state)).unwrap();
        assert_eq!(census, census_of(&mut in_memory.values().chain(evicted.values())), "{seq}");
        seen.extend(census.cohorts(0).map(|of| of.class));
        // Another shard that starts with them tells the same.
        let mut again = Shard::new([feed("f")].into(), Budget::AMPLE).by_classes(Arc::clone(&labels), 1);
        let mut beside = Evicted::default();
        evicted.values().for_each(|state| beside.add(Some((0, &jiff::tz::TimeZone::UTC)), state, &labels));
        again.restore_evicted(beside);
        in_memory.values().for_each(|state| again.restore(0, state.clone(), seq));
        let mut restored = Census::new(&config);
        restored.change(again.census_changes());
        assert_eq!(census, restored, "{seq}");
    }
    assert!(evicted.len() > 10, "{}", evicted.len());
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2], "series of each class were there");
}

#[test]
fn what_waits_for_a_frequency_is_charged_to_what_is_remembered_and_keeps_no_series_out() {
    let mut detected = feed("f");
    detected.rules.frequency = None;
    let intervals = 10 * Remembered::BYTES;
    let mut shard = Shard::new([detected].into(), Budget { intervals, ..Budget::AMPLE });
    shard.apply(reading(0, "a", 1), Micros::MIN);
    shard.finish(PLACE).unwrap();
    let (settled, remembered) = (shard.bytes, shard.remembered(0));
    for hour in 2..12 {
        shard.apply(reading(0, "a", hour), Micros::MIN);
    }
    shard.finish(PLACE).unwrap();
    assert!(shard.waiting > 11 * 16, "{}", shard.waiting);
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
    let mut shard = Shard::new([feed("f"), feed("g")].into(), Budget { series: 3 * EACH, ..Budget::AMPLE });
    for (feed, series, hour) in [(0, "a", 1), (0, "b", 1), (1, "a", 2), (0, "a", 1), (1, "c", 3), (0, "a", 2)] {
        shard.apply(reading(feed, series, hour), Micros::MIN);
    }
    let part = shard.finish(PLACE).unwrap();
    assert!(!part.dead.is_empty() && part.states.series > 1 && part.rows[0].series.len() > 1, "{part:?}");
    assert_eq!(part.evicted.series, 1);
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
