//! Model groups as the stream sees them: the series of one frequency, and of one label where a policy says so, how far they
//! are closed and how complete. Pure.

use std::cell::LazyCell;
use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use meterline_schemas::config::Config;
use meterline_schemas::{Frequency, Micros};
use serde::{Deserialize, Serialize};

use super::census::{Census, Cohort, Fact};
use super::names::{Names, SeriesFeed};
use super::state::{FeedState, IngestState, PartitionState};
use super::watermark::reached;

/// Intervals before the origin that completeness looks at.
const CONTEXT: i64 = 96;

/// One model group as of a commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupSummary {
    /// Its name: the frequency (`PT15M`), with the zone where days, weeks and months are not those of UTC
    /// (`P1D@Europe/Lisbon`): intervals of different calendars do not share a grid. Series that a label policy takes have a
    /// group of their own (`PT15M/tariff=industry`).
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
    /// Records that changed intervals of its series already written, or may have; where it has roll-ups, of all series:
    /// these may be parts.
    pub corrections: i64,
    /// Time stamp of the newest record of its feeds; `None` where records have none.
    pub newest_record: Option<Micros>,
}

/// The group of a frequency in a feed of `zone`, of all series that no label policy takes.
pub fn group_id(frequency: Frequency, zone: &str) -> String {
    match frequency {
        Frequency::Seconds(_) => frequency.to_string(),
        _ if zone == "UTC" => frequency.to_string(),
        _ => format!("{frequency}@{zone}"),
    }
}

/// The model groups, by frequency from the finest. Series without a frequency, and feeds without a watermark, are in
/// none yet; nor are the series of feeds that are no longer configured.
pub fn groups(state: &IngestState, census: &Census, config: &Config) -> Vec<GroupSummary> {
    let mut members: BTreeMap<(Frequency, String), Vec<Member<'_>>> = BTreeMap::new();
    let names = Names::of(config);
    for of in names.series_feeds(config) {
        let SeriesFeed { number, zone: zone_name } = of;
        let Some(feed) = state.feeds.get(names.name(number)) else { continue };
        let Some(watermark) = feed.watermark else { continue };
        for cohort in census.cohorts(number) {
            let Some(frequency) = cohort.frequency else { continue };
            let all = group_id(frequency, zone_name);
            // Those that the census was taken by: a configuration that has others since counts with a restart.
            let id = census.selector(cohort.class).map_or_else(|| all.clone(), |selector| selector.group(&all));
            let member = Member { cohort, feed, watermark, zone: of.time_zone(), zone_name };
            members.entry((frequency, id)).or_default().push(member);
        }
    }
    let corrections = LazyCell::new(|| {
        let cohorts = census.feeds().flat_map(|(feed, _)| census.cohorts(feed));
        cohorts.map(|of| census.count(of, Fact::Correction)).sum::<u64>()
    });
    let made = |((frequency, id), members): ((Frequency, String), Vec<Member<'_>>)| {
        group(id, frequency, &members, state, census, || *corrections)
    };
    members.into_iter().filter_map(made).collect()
}

/// A feed that has series in a group.
struct Member<'a> {
    cohort: Cohort,
    feed: &'a FeedState,
    watermark: Micros,
    zone: TimeZone,
    zone_name: &'a str,
}

fn group(
    group_id: String,
    frequency: Frequency,
    members: &[Member<'_>],
    state: &IngestState,
    census: &Census,
    of_all: impl Fn() -> u64,
) -> Option<GroupSummary> {
    let Member { zone, zone_name, .. } = members.first()?;
    let mut ends: BTreeMap<Micros, u64> = BTreeMap::new();
    let mut starts: BTreeMap<Micros, u64> = BTreeMap::new();
    for member in members {
        let closed = frequency.floor(member.watermark, &member.zone);
        for (_, end, count) in census.ends(member.cohort) {
            *ends.entry(end.min(closed)).or_default() += count;
        }
        for (start, count) in census.firsts(member.cohort) {
            // As for the origin: one meter in twenty may have sent a stamp of long ago.
            *starts.entry(-start).or_default() += count;
        }
    }
    let origin = reached(&ends)?;
    let first_start = -reached(&starts)?;
    let all: u64 = members.iter().map(|m| census.count(m.cohort, Fact::Interval)).sum();
    let after = members.iter().flat_map(|m| census.present(m.cohort, origin));
    let after: u64 = after.map(|(_, count)| count).sum();
    let partitions = || members.iter().flat_map(|member| member.feed.partitions.values());
    // Roll-ups have no partitions of their own: what changes them are the readings of the others.
    let is_read = partitions().next().is_some();
    let others = || state.feeds.values().filter(|_| !is_read).flat_map(|feed| feed.partitions.values());
    let sources = || partitions().chain(others());
    let corrections: u64 = match members.iter().any(|member| member.feed.partitions.is_empty()) {
        true => of_all(),
        false => members.iter().map(|member| census.count(member.cohort, Fact::Correction)).sum(),
    };
    Some(GroupSummary {
        group_id,
        frequency,
        zone: (*zone_name).to_owned(),
        series: ends.values().sum::<u64>() as usize,
        first_start,
        origin,
        watermark: members.iter().map(|member| member.watermark).min()?,
        history_intervals: frequency.steps_between(first_start, origin, zone).max(0),
        // Those after the origin are told from the last ones: a series is never further ahead of its group.
        closed_intervals: all as i64 - after as i64,
        completeness: completeness(members, frequency, origin, zone, census),
        lag_records: partitions().map(PartitionState::lag).sum(),
        corrections: corrections as i64,
        newest_record: sources().filter_map(|partition| partition.newest_record).max(),
    })
}

/// Share of the intervals in the context before the origin that are there, of those expected: each series is expected
/// from its first interval on.
fn completeness(
    members: &[Member<'_>],
    frequency: Frequency,
    origin: Micros,
    zone: &TimeZone,
    census: &Census,
) -> Option<f64> {
    let from = frequency.advance(origin, -CONTEXT, zone);
    let (mut expected, mut present) = (0, 0);
    for member in members {
        for (start, count) in census.firsts(member.cohort) {
            let slots = frequency.steps_between(start.max(from), origin, zone).clamp(0, CONTEXT);
            expected += count * slots as u64;
        }
        let counted = census.present(member.cohort, from).take_while(|(start, _)| *start < origin);
        present += counted.map(|(_, count)| count).sum::<u64>();
    }
    (expected > 0).then(|| present as f64 / expected as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::census::Taking;
    use crate::ingest::classes::tests::classes;
    use crate::ingest::series::SeriesState;
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

    fn found(series: Vec<SeriesState>, watermark: Micros) -> Vec<GroupSummary> {
        let partition = PartitionState { next_offset: 10, end_offset: 17, ..PartitionState::default() };
        let feed = FeedState {
            watermark: Some(watermark),
            partitions: BTreeMap::from([(0, partition.clone()), (1, partition)]),
            ..FeedState::default()
        };
        let state = IngestState { feeds: BTreeMap::from([("f".into(), feed)]), ..IngestState::default() };
        let mut config = Config::default();
        let mut feed = FeedConfig::new("t", "s", "t", "v");
        feed.zone = "Europe/Lisbon".into();
        config.feed.insert("f".into(), feed);
        let census = Census::of(&config, &series);
        groups(&state, &census, &config)
    }

    #[test]
    fn two_frequencies_in_one_feed_are_two_groups() {
        let quarter = series("a", Frequency::QUARTER_HOUR, 0, 39, (1 << 40) - 1);
        let hourly = series("b", Frequency::HOUR, 0, 9, (1 << 10) - 1);
        let found = found(vec![quarter, hourly], 9 * HOUR + 20 * MINUTE);
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
            assert_eq!(found(members, 9 * HOUR)[0].completeness, Some(completeness));
        }
    }

    #[test]
    fn series_that_a_label_policy_takes_are_a_group_with_facts_of_their_own() {
        let (config, classes) =
            classes("a,,industry,\nb,,industry,\nlater,1970-01-01T08:00:00Z,industry,\nq,,industry,3\n");
        let f = Frequency::HOUR;
        let mut all = [
            series("a", f, 2, 9, 0xff),
            // The interval 8 is missing.
            series("b", f, 4, 9, 0b10_1111 | 1),
            series("later", f, 0, 6, 0x7f),
            series("home", f, 0, 9, 0x3ff),
            series("q", Frequency::QUARTER_HOUR, 0, 39, (1 << 40) - 1),
        ];
        all.iter_mut().zip([1, 2, 4, 8, 16]).for_each(|(state, corrections)| state.corrections = corrections);
        let mut taking = Taking::new(&config, &classes);
        all.iter().for_each(|state| taking.take(state));
        let partitions = BTreeMap::from([(0, PartitionState::default())]);
        let feed = FeedState { watermark: Some(10 * HOUR), partitions, ..FeedState::default() };
        let state = IngestState { feeds: BTreeMap::from([("f".into(), feed)]), ..IngestState::default() };
        // By the selectors that the census was taken by, whatever the configuration is since.
        let found = groups(&state, &taking.finish(), &Config { policy: BTreeMap::new(), ..config });
        let shown: Vec<_> = found
            .iter()
            .map(|g| (g.group_id.as_str(), g.series, g.first_start / HOUR, g.completeness, g.corrections))
            .collect();
        assert!(found.iter().all(|group| group.origin == 10 * HOUR));
        assert_eq!(
            shown,
            [
                ("PT15M/phases=3", 1, 0, Some(1.0), 16),
                ("PT1H", 2, 0, Some(17.0 / 20.0), 4 + 8),
                ("PT1H/tariff=industry", 2, 2, Some(13.0 / 14.0), 1 + 2),
            ]
        );
    }

    #[test]
    fn a_dead_series_does_not_hold_the_origin() {
        let mut members: Vec<SeriesState> = (0..9).map(|i| series(&i.to_string(), Frequency::HOUR, 0, 20, 1)).collect();
        members.push(series("dead", Frequency::HOUR, 0, 3, 1));
        assert_eq!(found(members, 30 * HOUR)[0].origin, 21 * HOUR);
    }
}
