//! Model groups as the stream sees them: the series of one frequency, how far they are closed and how complete. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use meterline_schemas::config::Config;
use meterline_schemas::{Frequency, Micros};

use super::state::{IngestState, SeriesState};
use super::watermark::{last_end, reached};

/// Intervals before the origin that completeness looks at.
const CONTEXT: i64 = 96;

/// One model group as of a commit.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupSummary {
    /// Its name: the frequency (`PT15M`), with the zone where days, weeks and months are not those of UTC
    /// (`P1D@Europe/Lisbon`): intervals of different calendars do not share a grid.
    pub group_id: String,
    /// Native frequency of its series.
    pub frequency: Frequency,
    /// Zone of its calendar: that of its first feed by name.
    pub zone: String,
    /// Number of its series.
    pub series: usize,
    /// Start of its first interval, but for that of one in twenty of its series.
    pub first_start: Micros,
    /// End of its last closed interval: what all but one in twenty of its series can have reached.
    pub origin: Micros,
    /// The least watermark of its feeds.
    pub watermark: Micros,
    /// Native intervals from `first_start` to `origin`.
    pub history_intervals: i64,
    /// Share of the intervals expected in the last 96 before the origin that are there, 0 to 1; of each series from
    /// its first interval on. `None` where none is expected.
    pub completeness: Option<f64>,
    /// Intervals of its series that end at or before the origin: grows at the same origin when a straggler comes.
    pub closed_intervals: i64,
    /// Records of its feeds in Kafka that are not yet read.
    pub lag_records: i64,
}

/// End of the last closed interval of one series: how far the feed's watermark has closed its intervals, but not beyond
/// the last one that is there. `None` while it has none.
pub fn closed_end(series: &SeriesState, feed_watermark: Micros, zone: &TimeZone) -> Option<Micros> {
    let closed = series.frequency?.floor(feed_watermark, zone);
    Some(last_end(series, zone)?.min(closed))
}

/// The group of a frequency in a feed of `zone`.
pub fn group_id(frequency: Frequency, zone: &str) -> String {
    match frequency {
        Frequency::Seconds(_) => frequency.to_string(),
        _ if zone == "UTC" => frequency.to_string(),
        _ => format!("{frequency}@{zone}"),
    }
}

/// The model groups, by frequency from the finest. Series without a frequency, and feeds without a watermark, are in
/// none yet.
pub fn groups(state: &IngestState, config: &Config) -> Vec<GroupSummary> {
    let feeds: BTreeMap<&str, (Micros, TimeZone, &str)> = state
        .feeds
        .iter()
        .filter_map(|(name, feed)| {
            let zone = config.feed.get(name).map_or("UTC", |feed| feed.zone.as_str());
            let time_zone = TimeZone::get(zone).unwrap_or(TimeZone::UTC);
            Some((name.as_str(), (feed.watermark?, time_zone, zone)))
        })
        .collect();
    let mut members: BTreeMap<(Frequency, String), Vec<&SeriesState>> = BTreeMap::new();
    for series in &state.series {
        if let (Some(frequency), Some(_), Some((_, _, zone))) =
            (series.frequency, series.first_start, feeds.get(series.feed.as_str()))
        {
            members.entry((frequency, group_id(frequency, zone))).or_default().push(series);
        }
    }
    members.into_iter().filter_map(|((frequency, id), members)| group(state, id, frequency, &members, &feeds)).collect()
}

fn group(
    state: &IngestState,
    group_id: String,
    frequency: Frequency,
    members: &[&SeriesState],
    feeds: &BTreeMap<&str, (Micros, TimeZone, &str)>,
) -> Option<GroupSummary> {
    let names: BTreeSet<&str> = members.iter().map(|series| series.feed.as_str()).collect();
    let (_, zone, zone_name) = feeds.get(names.first()?)?;
    let mut ends: Vec<Micros> = members
        .iter()
        .filter_map(|series| {
            let (watermark, zone, _) = feeds.get(series.feed.as_str())?;
            closed_end(series, *watermark, zone)
        })
        .collect();
    let origin = reached(&mut ends)?;
    // As for the origin: one meter in twenty may have sent a stamp of long ago.
    let mut starts: Vec<Micros> = members.iter().filter_map(|series| Some(-series.first_start?)).collect();
    let first_start = -reached(&mut starts)?;
    let (mut expected, mut present) = (0, 0);
    for series in members {
        let (is_expected, is_present) = completeness(series, frequency, origin, zone);
        expected += is_expected;
        present += is_present;
    }
    let lag_records = names
        .iter()
        .filter_map(|name| state.feeds.get(*name))
        .flat_map(|feed| feed.partitions.values())
        .map(|partition| (partition.end_offset - partition.next_offset).max(0))
        .sum();
    Some(GroupSummary {
        group_id,
        frequency,
        zone: (*zone_name).to_owned(),
        series: members.len(),
        first_start,
        origin,
        watermark: names.iter().filter_map(|name| feeds.get(name).map(|feed| feed.0)).min()?,
        history_intervals: frequency.steps_between(first_start, origin, zone).max(0),
        closed_intervals: members.iter().map(|series| closed_intervals(series, frequency, origin, zone)).sum(),
        completeness: (expected > 0).then(|| present as f64 / expected as f64),
        lag_records,
    })
}

/// Intervals of one series that end at or before the origin. Those after it are told from `recent`: a series is never
/// further ahead of its group.
fn closed_intervals(series: &SeriesState, frequency: Frequency, origin: Micros, zone: &TimeZone) -> i64 {
    let all = i64::try_from(series.intervals).unwrap_or(i64::MAX);
    let ahead = last_end(series, zone).map_or(0, |end| frequency.steps_between(origin, end, zone));
    let after = match ahead {
        ..=0 => 0,
        1..128 => (series.recent & ((1u128 << ahead) - 1)).count_ones(),
        _ => series.recent.count_ones(),
    };
    all - i64::from(after)
}

/// Intervals of one series in the context before the origin: how many are expected, and how many of them are there.
fn completeness(series: &SeriesState, frequency: Frequency, origin: Micros, zone: &TimeZone) -> (i64, i64) {
    let (Some(first), Some(last)) = (series.first_start, series.last_start) else { return (0, 0) };
    // Bit i of `recent` is the interval i before the last one; the origin's last interval is bit `skip`.
    let newest = frequency.advance(origin, -1, zone);
    let expected = (frequency.steps_between(first, newest, zone) + 1).clamp(0, CONTEXT);
    let skip = frequency.steps_between(newest, last, zone);
    let bits = match skip {
        128.. => 0,
        0..128 => series.recent >> skip,
        // The series ends before the origin: what is missing until there is not there.
        _ => series.recent.checked_shl((-skip).min(128) as u32).unwrap_or(0),
    };
    let mask = (1u128 << expected) - 1;
    (expected, i64::from((bits & mask).count_ones()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::state::{FeedState, PartitionState};
    use meterline_schemas::config::FeedConfig;
    use meterline_schemas::time::{HOUR, MINUTE};
    use meterline_schemas::unit::Unit;

    fn series(id: &str, frequency: Frequency, first: i64, last: i64, recent: u128) -> SeriesState {
        let length = frequency.nominal_micros();
        let mut state = SeriesState::new("f", id, Unit::KWH);
        state.frequency = Some(frequency);
        state.first_start = Some(first * length);
        state.last_start = Some(last * length);
        state.recent = recent;
        state
    }

    fn state(series: Vec<SeriesState>, watermark: Micros) -> (IngestState, Config) {
        let partition = PartitionState { next_offset: 10, end_offset: 17, ..PartitionState::default() };
        let feed = FeedState {
            watermark: Some(watermark),
            partitions: BTreeMap::from([(0, partition.clone()), (1, partition)]),
            ..FeedState::default()
        };
        let state = IngestState { feeds: BTreeMap::from([("f".into(), feed)]), series, ..IngestState::default() };
        let mut config = Config::default();
        let mut feed = FeedConfig::new("t", "s", "t", "v");
        feed.zone = "Europe/Lisbon".into();
        config.feed.insert("f".into(), feed);
        (state, config)
    }

    #[test]
    fn two_frequencies_in_one_feed_are_two_groups() {
        let quarter = series("a", Frequency::QUARTER_HOUR, 0, 39, u128::MAX);
        let hourly = series("b", Frequency::HOUR, 0, 9, u128::MAX);
        let (state, config) = state(vec![quarter, hourly], 9 * HOUR + 20 * MINUTE);
        let found = groups(&state, &config);
        let shown: Vec<_> =
            found.iter().map(|g| (g.group_id.as_str(), g.origin, g.history_intervals, g.completeness)).collect();
        assert_eq!(shown, [("PT15M", 9 * HOUR + 15 * MINUTE, 37, Some(1.0)), ("PT1H", 9 * HOUR, 9, Some(1.0))],);
        assert_eq!((found[0].zone.as_str(), found[0].lag_records), ("Europe/Lisbon", 14));
    }

    #[test]
    fn completeness_counts_what_is_missing_before_the_origin() {
        let f = Frequency::HOUR;
        // The intervals 0 to 9, of which 9 is not closed yet; 3 is missing.
        let gap = series("a", f, 0, 9, 0b11_1011_1111);
        // Begins at 5 and ends at 6: 7 and 8 are missing.
        let short = series("b", f, 5, 6, 0b11);
        for (members, completeness) in
            [(vec![gap.clone()], 8.0 / 9.0), (vec![short.clone()], 1.0), (vec![gap, short], 10.0 / 13.0)]
        {
            let (state, config) = state(members, 9 * HOUR);
            assert_eq!(groups(&state, &config)[0].completeness, Some(completeness));
        }
    }

    #[test]
    fn a_dead_series_does_not_hold_the_origin() {
        let mut members: Vec<SeriesState> = (0..9).map(|i| series(&i.to_string(), Frequency::HOUR, 0, 20, 1)).collect();
        members.push(series("dead", Frequency::HOUR, 0, 3, 1));
        let (state, config) = state(members, 30 * HOUR);
        assert_eq!(groups(&state, &config)[0].origin, 21 * HOUR);
    }
}
