//! Covariates that are known ahead: whether they are there where forecasts need them, and what stands in where not. Pure.
//!
//! In the place of a missing value stands that of the newest earlier day that has one, at the same local time
//! ([`Fallback::LastDay`]), or of the newest earlier day of those on the same weekday ([`Fallback::LastWeek`]). Where none
//! begins at that time, because the clocks have changed, the interval counts that begins nearest to it; where intervals
//! are weeks or months, the newest one before that has a value.
//!
//! Only what the source says stands in, never what itself stands in: so the value of an interval does not depend on which
//! others are asked for. Commands on plain files, which ask for the intervals that are scored, and infer runs, whose
//! series share columns, come to the same values.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use meterline_models::data::{Column, Covariate, Known, Panel, Series};
use meterline_schemas::config::Fallback;
use meterline_schemas::time::DAY;
use meterline_schemas::{Frequency, Micros};

/// How a covariate was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfCovariate {
    /// Its name.
    pub covariate: String,
    /// What was to stand in.
    pub fallback: Fallback,
    /// What stands in now.
    pub filled: Option<Filled>,
    /// Series that still lack values, in their order.
    pub lacking: Vec<Lacking>,
}

/// Values of a covariate that stand in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filled {
    /// The covariate.
    pub covariate: String,
    /// How many there are; one that series share counts once.
    pub values: usize,
    /// Start of the oldest interval that one was taken from.
    pub oldest: Micros,
}

/// A series that lacks values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lacking {
    /// Its place in the panel.
    pub series: usize,
    /// Intervals without a value, of those that were asked for.
    pub intervals: usize,
    /// Start of the first of them.
    pub from: Micros,
}

/// Completes every covariate that is known ahead in those intervals of each series that `within` says; `fallback` says
/// what stands in, by the covariate's name. What series share is filled once, and stays shared.
pub fn complete(
    panel: &mut Panel,
    fallback: impl Fn(&str) -> Fallback,
    within: impl Fn(&Series) -> Range<usize>,
) -> Vec<OfCovariate> {
    let mut all = Vec::new();
    for (place, Covariate { name, known }) in panel.covariates.clone().into_iter().enumerate() {
        if known != Known::Ahead {
            continue;
        }
        let fallback = fallback(&name);
        let filled = days_back(fallback).and_then(|days| fill(panel, place, days, &within));
        let filled = filled.map(|(values, oldest)| Filled { covariate: name.clone(), values, oldest });
        let lacking = lacking(panel, place, &within);
        all.push(OfCovariate { covariate: name, fallback, filled, lacking });
    }
    all
}

const fn days_back(fallback: Fallback) -> Option<i64> {
    match fallback {
        Fallback::None => None,
        Fallback::LastDay => Some(1),
        Fallback::LastWeek => Some(7),
    }
}

// Intervals that lack the covariate at `place`.
fn missing(series: &Series, place: usize, within: Range<usize>) -> impl Iterator<Item = i64> {
    let column = series.covariates.get(place);
    let is_missing = move |interval: &i64| column.is_none_or(|column| column.at(*interval).is_nan());
    within.map(|interval| interval as i64).filter(is_missing)
}

fn lacking(panel: &Panel, place: usize, within: impl Fn(&Series) -> Range<usize>) -> Vec<Lacking> {
    let of_series = |(number, series): (usize, &Series)| {
        let mut missing = missing(series, place, within(series));
        let from = panel.frequency.advance(series.start, missing.next()?, &panel.zone);
        Some(Lacking { series: number, intervals: 1 + missing.count(), from })
    };
    panel.series.iter().enumerate().filter_map(of_series).collect()
}

// Fills the covariate at `place`. Returns how many values stand in, and the start of the oldest that does.
fn fill(
    panel: &mut Panel,
    place: usize,
    days: i64,
    within: impl Fn(&Series) -> Range<usize>,
) -> Option<(usize, Micros)> {
    let earlier = Earlier { days, frequency: panel.frequency, zone: panel.zone.clone() };
    // The same values from the same instant on are those of one source, whatever series begin when.
    let key = |start: Micros, column: &Column| {
        (column.values.as_ptr(), earlier.frequency.advance(start, column.offset, &earlier.zone))
    };
    let mut sources = HashMap::new();
    for series in &panel.series {
        let Some(column) = series.covariates.get(place) else { continue };
        let key = key(series.start, column);
        let begun = || Source { start: key.1, values: Arc::clone(&column.values), missing: BTreeSet::new() };
        // There is nothing before a column that could stand in for what is missing there.
        let in_column = |interval: i64| usize::try_from(interval - column.offset).ok();
        let missing = missing(series, place, within(series)).filter_map(in_column);
        sources.entry(key).or_insert_with(begun).missing.extend(missing);
    }
    let mut filled: Option<(usize, Micros)> = None;
    for (count, oldest) in sources.values_mut().filter_map(|source| source.fill(&earlier)) {
        let (all, of_all) = filled.unwrap_or((0, oldest));
        filled = Some((all + count, of_all.min(oldest)));
    }
    for series in &mut panel.series {
        let Some(column) = series.covariates.get_mut(place) else { continue };
        if let Some(source) = sources.get(&key(series.start, column)) {
            column.values = Arc::clone(&source.values);
        }
    }
    filled
}

// A column, apart from the series that have it.
struct Source {
    // Of its first interval.
    start: Micros,
    values: Arc<[f32]>,
    // Counted from the first one.
    missing: BTreeSet<usize>,
}

impl Source {
    // Returns how many values stand in, and the start of the oldest that does.
    fn fill(&mut self, earlier: &Earlier) -> Option<(usize, Micros)> {
        let oldest = self.values.iter().position(|value| !value.is_nan())?;
        let newest = self.values.iter().rposition(|value| !value.is_nan())?;
        let found: Vec<(usize, usize)> = self
            .missing
            .iter()
            .filter_map(|missing| Some((*missing, self.stands_in(*missing, (oldest, newest), earlier)?)))
            .collect();
        let last = found.iter().map(|(missing, _)| *missing).max()?;
        let first_taken = found.iter().map(|(_, taken)| *taken).min()?;
        let mut values = self.values.to_vec();
        if values.len() <= last {
            values.resize(last + 1, f32::NAN);
        }
        for (missing, taken) in &found {
            values[*missing] = values[*taken];
        }
        self.values = values.into();
        Some((found.len(), earlier.frequency.advance(self.start, first_taken as i64, &earlier.zone)))
    }

    // The interval whose value stands in, of a column with values from the oldest to the newest of `known`.
    fn stands_in(&self, missing: usize, known: (usize, usize), earlier: &Earlier) -> Option<usize> {
        let (missing, oldest, newest) = (missing as i64, known.0 as i64, known.1 as i64);
        // A source may have ended long ago: what comes after its newest value is not looked at day by day, but for the
        // one that the clocks may move.
        let first = ((missing - newest) / earlier.intervals() - 1).max(1);
        let places = (first..).map(|times| earlier.place(self.start, missing, times));
        let mut there = places.take_while(|place| *place >= oldest).filter_map(|place| usize::try_from(place).ok());
        there.find(|place| self.values.get(*place).is_some_and(|value| !value.is_nan()))
    }
}

// Which earlier intervals come into question.
struct Earlier {
    // From one to the one before.
    days: i64,
    frequency: Frequency,
    zone: TimeZone,
}

impl Earlier {
    // From one to the one before: of days without a change of the clocks, and at least one.
    fn intervals(&self) -> i64 {
        (self.days * DAY / self.frequency.nominal_micros()).max(1)
    }

    // So many times back from `interval`, both counted from the one that begins at `start`.
    fn place(&self, start: Micros, interval: i64, times: i64) -> i64 {
        match self.frequency {
            Frequency::Seconds(_) => {
                let at = self.frequency.advance(start, interval, &self.zone);
                let back = days_before(at, times.saturating_mul(self.days), &self.zone);
                // Long intervals begin at other local times once the clocks have changed: the nearest one.
                self.frequency.steps_between(start, self.frequency.round(back, &self.zone), &self.zone)
            }
            Frequency::Day | Frequency::Week | Frequency::Month => interval - times.saturating_mul(self.intervals()),
        }
    }
}

// The same local time so many days earlier.
fn days_before(at: Micros, days: i64, zone: &TimeZone) -> Micros {
    let local = || {
        let zoned = Timestamp::from_microsecond(at).ok()?.to_zoned(zone.clone());
        let earlier = zoned.checked_sub(Span::new().try_days(days).ok()?).ok()?;
        Some(earlier.timestamp().as_microsecond())
    };
    local().unwrap_or_else(|| at.saturating_sub(days.saturating_mul(DAY)))
}

#[cfg(test)]
mod tests {
    use meterline_schemas::time::HOUR;

    use super::*;
    use crate::offline;
    use crate::pipelines::covariates::horizon;

    fn at(text: &str) -> Micros {
        text.parse::<Timestamp>().unwrap().as_microsecond()
    }

    fn berlin() -> TimeZone {
        TimeZone::get("Europe/Berlin").unwrap()
    }

    // The column of so many intervals from `start` on, each with the value 100 · day + its place in the day, and missing
    // where `known` does not say so. `a` begins with it and `b` thirty intervals later; both end after `ended`.
    fn panel(
        frequency: Frequency,
        zone: TimeZone,
        start: Micros,
        ended: usize,
        known: impl Fn(usize) -> bool,
    ) -> Panel {
        let per_day = frequency.per_day();
        let value = |i: usize| if known(i) { (i / per_day * 100 + i % per_day) as f32 } else { f32::NAN };
        let values: Arc<[f32]> = (0..ended + 60).map(value).collect();
        let series = |id: &str, later: usize| {
            let start = frequency.advance(start, later as i64, &zone);
            let mut series = Series::new(id, start, vec![1.0; ended - later]);
            series.covariates = vec![Column { offset: -(later as i64), values: Arc::clone(&values) }];
            series
        };
        let series = vec![series("a", 0), series("b", 30)];
        let covariates = vec![Covariate { name: "tariff".into(), known: Known::Ahead }];
        Panel { covariates, ..Panel::new(frequency, zone, series) }
    }

    // So many intervals from the end of a series on.
    fn ahead(count: usize) -> impl Fn(&Series) -> Range<usize> {
        move |series| series.values.len()..series.values.len() + count
    }

    // The values of intervals of the column, which both series have to share.
    fn shown(panel: &Panel, intervals: &[i64]) -> Vec<f32> {
        let [a, b] = &panel.series[..] else { panic!("two series") };
        assert!(Arc::ptr_eq(&a.covariates[0].values, &b.covariates[0].values));
        intervals
            .iter()
            .map(|interval| {
                let (of_a, of_b) = (a.covariates[0].at(*interval), b.covariates[0].at(*interval - 30));
                assert_eq!(of_a.to_bits(), of_b.to_bits(), "{interval}");
                of_a
            })
            .collect()
    }

    fn filled(panel: &mut Panel, fallback: Fallback, count: usize) -> (usize, Micros) {
        let found = complete(panel, |_| fallback, ahead(count)).remove(0);
        assert_eq!((&found.covariate[..], found.fallback, found.lacking), ("tariff", fallback, Vec::new()));
        found.filled.map(|filled| (filled.values, filled.oldest)).unwrap()
    }

    #[test]
    fn the_newest_day_or_weekday_that_has_a_value_stands_in() {
        let hours = || panel(Frequency::HOUR, TimeZone::UTC, 0, 240, |i| i < 250 && i != 232);
        let mut day = hours();
        assert_eq!(filled(&mut day, Fallback::LastDay, 48), (38, 8 * DAY + 16 * HOUR));
        assert_eq!(shown(&day, &[249, 250, 255, 256, 257, 287]), [1009.0, 910.0, 915.0, 816.0, 917.0, 923.0]);
        assert!(shown(&day, &[232, 288]).iter().all(|value| value.is_nan()), "what was not asked for stays missing");
        let mut week = hours();
        assert_eq!(filled(&mut week, Fallback::LastWeek, 48), (38, 3 * DAY + 10 * HOUR));
        assert_eq!(shown(&week, &[250, 287]), [310.0, 423.0]);
        // The same intervals, whichever are asked for beside them.
        let mut last = hours();
        complete(&mut last, |_| Fallback::LastDay, |series| series.values.len() + 34..series.values.len() + 48);
        assert_eq!(shown(&last, &[280, 287]), shown(&day, &[280, 287]));
        assert!(shown(&last, &[256])[0].is_nan());
    }

    #[test]
    fn a_day_earlier_is_the_same_local_time_also_where_the_clocks_change() {
        // From Monday 00:00 on, and on the Sunday the clocks go forward: 03:00 is its third hour and the fourth of
        // Saturday. Of Sunday there is no 02:00 for Monday's.
        let mut spring = panel(Frequency::HOUR, berlin(), at("2024-03-24T23:00:00Z"), 146, |i| i < 146);
        let (values, oldest) = filled(&mut spring, Fallback::LastDay, 48);
        assert_eq!((values, oldest), (48, at("2024-03-30T01:00:00Z")));
        let expected = [503.0, 504.0, 523.0, 600.0, 601.0, 502.0, 503.0];
        assert_eq!(shown(&spring, &[146, 147, 166, 167, 168, 169, 170]), expected);
        // They go back, and there are two of 02:00.
        let mut autumn = panel(Frequency::HOUR, berlin(), at("2024-10-20T22:00:00Z"), 144, |i| i < 144);
        filled(&mut autumn, Fallback::LastDay, 48);
        let expected = [500.0, 501.0, 502.0, 502.0, 503.0, 523.0, 500.0];
        assert_eq!(shown(&autumn, &[144, 145, 146, 147, 148, 168, 169]), expected);
        let mut week = panel(Frequency::HOUR, berlin(), at("2024-03-24T23:00:00Z"), 167, |i| i < 167);
        filled(&mut week, Fallback::LastWeek, 24);
        assert_eq!(shown(&week, &[167, 169, 190]), [0.0, 2.0, 23.0]);
        // Of six hours none begins at the same local time as the day before: 07:00 is nearer to 08:00 than to 02:00.
        let mut long = panel(Frequency::Seconds(6 * 3600), berlin(), at("2024-10-21T00:00:00Z"), 49, |i| i < 25);
        complete(&mut long, |_| Fallback::LastDay, |series| series.values.len() - 10..series.values.len() + 4);
        assert_eq!(shown(&long, &[45, 48]), [501.0, 600.0]);
    }

    #[test]
    fn of_longer_intervals_it_is_the_day_or_the_interval_before() {
        for (frequency, day, week) in [(Frequency::Day, 39, 33), (Frequency::Week, 39, 39), (Frequency::Month, 39, 39)]
        {
            let start = frequency.floor(at("2024-01-17T00:00:00Z"), &berlin());
            for (fallback, place) in [(Fallback::LastDay, day), (Fallback::LastWeek, week)] {
                let mut panel = panel(frequency, berlin(), start, 40, |i| i < 40);
                let oldest = frequency.advance(start, place, &berlin());
                assert_eq!(filled(&mut panel, fallback, 2), (2, oldest), "{frequency}");
                let next = if place == 39 { place } else { place + 1 };
                assert_eq!(shown(&panel, &[40, 41]), [100.0 * place as f32, 100.0 * next as f32], "{frequency}");
            }
        }
    }

    #[test]
    fn a_source_that_ended_long_ago_is_found_across_changes_of_the_clocks() {
        for (days, known) in [100, 700].into_iter().flat_map(|days| (24..49).map(move |known| (days, known))) {
            let mut long_ago = panel(Frequency::HOUR, berlin(), at("2024-03-24T23:00:00Z"), 24 * days, |i| i < known);
            filled(&mut long_ago, Fallback::LastDay, 24);
            let from = 24 * days as i64;
            let mut newest = shown(&long_ago, &(from..from + 24).collect::<Vec<i64>>());
            newest.sort_by(f32::total_cmp);
            let expected: Vec<f32> = (known - 24..known).map(|hour| (hour / 24 * 100 + hour % 24) as f32).collect();
            assert_eq!(newest, expected, "{days} {known}");
        }
    }

    #[test]
    fn what_lacks_is_told_and_what_is_there_is_left_as_it_is() {
        let gap = |i: usize| i != 30;
        let mut whole = panel(Frequency::HOUR, TimeZone::UTC, 0, 240, gap);
        let before = whole.series.clone();
        let found = complete(&mut whole, |_| Fallback::LastDay, ahead(48)).remove(0);
        assert_eq!((found.filled, found.lacking), (None, Vec::new()));
        assert!(Arc::ptr_eq(&whole.series[0].covariates[0].values, &before[0].covariates[0].values));
        // What is known of the past alone is not asked for ahead.
        let mut past = panel(Frequency::HOUR, TimeZone::UTC, 0, 240, |_| false);
        past.covariates[0].known = Known::Past;
        assert_eq!(complete(&mut past, |_| Fallback::LastDay, ahead(48)), []);
        // Only 14:00 is known of one day, and then nothing; a series without the column lacks all of it.
        for (known, fallback, intervals) in
            [(230, Fallback::LastDay, 46), (230, Fallback::None, 48), (1000, Fallback::LastWeek, 48)]
        {
            let mut panel = panel(Frequency::HOUR, TimeZone::UTC, 0, 240, |i| i == known);
            panel.series[1].covariates.clear();
            let found = complete(&mut panel, |_| fallback, ahead(48)).remove(0);
            let lacking = |series, intervals| Lacking { series, intervals, from: 240 * HOUR };
            assert_eq!(found.lacking, [lacking(0, intervals), lacking(1, 48)], "{fallback:?}");
            assert_eq!(found.filled.map_or(0, |filled| filled.values), 48 - intervals);
        }
    }

    #[test]
    fn series_of_a_file_and_of_a_run_are_filled_alike() {
        for (start, fallback) in [
            ("2024-03-24T23:00:00Z", Fallback::LastDay),
            ("2024-03-24T23:00:00Z", Fallback::LastWeek),
            ("2024-10-20T22:00:00Z", Fallback::LastDay),
            ("2024-10-20T22:00:00Z", Fallback::LastWeek),
        ] {
            let mut run = panel(Frequency::HOUR, berlin(), at(start), 200, |i| i < 60 || i < 150 && i % 11 != 5);
            let mut file = run.clone();
            for series in &mut file.series {
                // Of its own, and from its first interval on.
                let column = &mut series.covariates[0];
                let skipped = usize::try_from(-column.offset).unwrap();
                *column = Column { offset: 0, values: column.values[skipped..].into() };
            }
            let of_run = horizon::complete(&mut run, 24, 0, |_| fallback).unwrap().filled;
            let of_file = offline::complete(&mut file, fallback, ahead(24)).unwrap();
            // What a run's series share counts once.
            assert_eq!((of_run[0].oldest, of_run[0].values * 2), (of_file[0].oldest, of_file[0].values));
            for (run, file) in run.series.iter().zip(&file.series) {
                let of = |series: &Series| -> Vec<u32> {
                    (0..series.values.len() as i64 + 24).map(|i| series.covariates[0].at(i).to_bits()).collect()
                };
                assert_eq!(of(run), of(file), "{start} {fallback:?} {}", run.id);
            }
        }
    }
}
