//! What a shard looks up at the end of an epoch: part by part, so that what is found fits into memory.
//!
//! First the series that are not in memory; then the intervals that readings concern, feed by feed and series by series;
//! then those of which a new era takes some away.

use std::ops::Range;

use hashbrown::HashMap;
use meterline_schemas::Micros;
use meterline_schemas::reading::ValueKind;
use meterline_schemas::unit::Scale;

use super::super::aggregate::{Existing, Opening, Parked, Reached};
use super::super::error::IngestError;
use super::super::portion::Portion;
use super::super::recall::{Recalled, Want, Wanted};
use super::{Budget, Member, Routed, Shard};

/// Where the lookups of an epoch stand.
pub(super) struct Lookups {
    // The feed whose parked readings are in the order in which they are looked up.
    in_order: Option<usize>,
    // What waits for an answer.
    waiting: Option<Waiting>,
    // Readings of gauges, and eras, that are looked up at a time.
    gauges: Portion,
    eras: Portion,
}

/// What waits for an answer: for series that are not in memory, or of the feed with this number.
enum Waiting {
    Series(Vec<(Routed, Micros)>),
    Readings(usize, Vec<Parked>),
    Eras(usize, Vec<Era>),
}

/// An era that opens at the end of the epoch.
struct Era {
    series: u32,
    opening: Opening,
    scale: Scale,
    reached: Reached,
    rows: Vec<Existing>,
}

impl Era {
    fn take(&mut self, row: Existing) {
        if (self.opening.from..self.opening.to).contains(&row.start) {
            self.rows.push(row);
        }
    }
}

impl Lookups {
    pub(super) fn new(budget: &Budget) -> Lookups {
        let portion = || Portion::new(budget.lookups());
        Lookups { in_order: None, waiting: None, gauges: portion(), eras: portion() }
    }

    pub(super) fn end_epoch(&mut self) {
        self.in_order = None;
    }
}

// Whether an interval that a reading concerns may have been taken away.
fn may_be_taken_away(members: &[Member], parked: &Parked) -> bool {
    let extra = members[parked.series as usize].series.state.extra();
    extra.rewritten_to.is_some_and(|to| parked.from < to)
}

impl Shard {
    /// What has to be looked up next before the epoch can end, `None` where nothing has to. The answer goes to
    /// [`Shard::resolve`].
    pub fn wanted(&mut self) -> Option<Wanted> {
        let mut wanted = Wanted::default();
        let part = self.awaiting.next(self.budget.lookups());
        if !part.is_empty() {
            wanted.series = part.iter().map(|(routed, _)| routed.series.clone()).collect();
            wanted.series.dedup();
            self.lookups.waiting = Some(Waiting::Series(part));
            return Some(wanted);
        }
        if let Some(feed) = self.outputs.iter().position(|output| !output.parked.is_empty()) {
            wanted.feed = feed as u16;
            let part = self.next_readings(feed);
            let wants = part.iter().map(|parked| self.want(parked.series, parked.from, parked.to)).collect();
            match self.feeds[feed].rules.kind {
                ValueKind::Interval => {
                    wanted.intervals = wants;
                    // What took an interval away would win over a reading of another partition that brings it back
                    // unseen.
                    wanted.needed = part.iter().any(|parked| may_be_taken_away(&self.members, parked));
                }
                ValueKind::Gauge | ValueKind::Counter => wanted.samples = wants,
            }
            self.lookups.waiting = Some(Waiting::Readings(feed, part));
        } else {
            let (feed, part) = (0..self.outputs.len()).find_map(|feed| Some((feed, self.next_eras(feed)?)))?;
            wanted.feed = feed as u16;
            let want = |era: &Era| self.want(era.series, era.opening.from, era.opening.to);
            wanted.intervals = part.iter().map(want).collect();
            // What is held would be decided by how large the table is.
            wanted.needed = true;
            self.lookups.waiting = Some(Waiting::Eras(feed, part));
        }
        wanted.tidy();
        Some(wanted)
    }

    fn want(&self, series: u32, from: Micros, to: Micros) -> Want {
        Want { series, id: self.members[series as usize].series.state.id.clone(), from, to }
    }

    // The parked readings of a feed whose intervals are looked up next.
    fn next_readings(&mut self, feed: usize) -> Vec<Parked> {
        let (kind, parked) = (self.feeds[feed].rules.kind, &mut self.outputs[feed].parked);
        if self.lookups.in_order != Some(feed) {
            // Neighbours are in one part of the lake's files. Readings of one interval stay as they came. Those for which
            // a lookup is needed come apart from the others, which may do without if it takes too much.
            let members = &self.members;
            let id = |parked: &Parked| &members[parked.series as usize].series.state.id;
            let needed = |parked: &Parked| may_be_taken_away(members, parked);
            parked.sort_by(|a, b| (needed(a), id(a), a.from).cmp(&(needed(b), id(b), b.from)));
            self.lookups.in_order = Some(feed);
        }
        let most = match kind {
            ValueKind::Interval => self.budget.lookups(),
            // A register concerns two intervals.
            ValueKind::Counter => self.budget.lookups() / 4,
            ValueKind::Gauge => self.lookups.gauges.parts(),
        };
        let others = parked.partition_point(|parked| !may_be_taken_away(&self.members, parked));
        let mut first = parked.len().saturating_sub(most.max(1));
        if others < parked.len() {
            first = first.max(others);
        }
        // What is made of several readings is computed from all of them: they stay together, and with counters their
        // neighbours.
        let together =
            |a: &Parked, b: &Parked| a.series == b.series && (kind == ValueKind::Counter || a.from == b.from);
        while first > 0 && together(&parked[first - 1], &parked[first]) {
            first -= 1;
        }
        parked.split_off(first)
    }

    // The eras of a feed that are looked up next, but for those that are not to open after all.
    fn next_eras(&mut self, feed: usize) -> Option<Vec<Era>> {
        let (rules, output) = (&self.feeds[feed].rules, &mut self.outputs[feed]);
        let mut due = output.take_openings().into_iter();
        let era = |(series, scale, reached): (u32, Scale, Reached)| {
            let opening = self.members[series as usize].series.opening(rules, reached)?;
            Some(Era { series, opening, scale, reached, rows: Vec::new() })
        };
        let eras: Vec<Era> = due.by_ref().filter_map(era).take(self.lookups.eras.parts()).collect();
        output.openings = due.collect();
        (!eras.is_empty()).then_some(eras)
    }

    /// Takes what was looked up, and what waited for it; then forgets it again, but for series.
    ///
    /// # Errors
    /// A fault of ours: what was looked up cannot be read.
    pub fn resolve(&mut self, found: Recalled) -> Result<(), IngestError> {
        match self.lookups.waiting.take() {
            Some(Waiting::Series(part)) => self.bring_back(part, &found.series)?,
            Some(Waiting::Readings(feed, parked)) => self.take_parked(feed, parked, found),
            Some(Waiting::Eras(feed, eras)) => self.open_eras(feed, eras, &found),
            None => {}
        }
        Ok(())
    }

    fn take_parked(&mut self, number: usize, parked: Vec<Parked>, found: Recalled) {
        let (feed, output) = (&self.feeds[number], &mut self.outputs[number]);
        if feed.rules.kind == ValueKind::Gauge {
            self.lookups.gauges.found(parked.len(), found.samples.len());
        }
        for (number, interval, content) in &found.intervals {
            self.members[*number as usize].series.recall_interval(&feed.rules, *interval, content, None);
        }
        for (number, sample) in found.samples {
            self.members[number as usize].series.recall_sample(sample);
        }
        // The readings of a series are in a row, by their intervals.
        let mut of_series: HashMap<u32, Range<usize>> = HashMap::new();
        for (index, parked) in parked.iter().enumerate() {
            of_series.entry(parked.series).or_insert(index..index).end = index + 1;
        }
        // Rows of this epoch that their series has forgotten already: of several of an interval the one with the
        // greatest position is remembered.
        for (row, number) in output.rows.iter().zip(0..) {
            let Some(mine) = of_series.get(&row.series).and_then(|range| parked.get(range.clone())) else { continue };
            let before = mine.partition_point(|parked| parked.from <= row.start);
            if before > 0 && row.start < mine[before - 1].to {
                let series = &mut self.members[row.series as usize].series;
                let place = Some((self.epoch, number));
                series.recall_interval(&feed.rules, (row.start, row.end), &row.content, place);
            }
        }
        let looked_up = feed.rules.kind != ValueKind::Interval || !found.declined;
        for parked in &parked {
            self.members[parked.series as usize].series.apply_parked(&feed.rules, *parked, looked_up, output);
        }
        for parked in &parked {
            self.members[parked.series as usize].series.forget_unsure(&feed.rules, parked, looked_up);
        }
        for stale in output.take_stale_of(|series| of_series.contains_key(&series)) {
            self.members[stale.0 as usize].series.refresh(&feed.rules, stale, output);
        }
        self.forget(number, of_series.into_keys());
    }

    fn open_eras(&mut self, number: usize, eras: Vec<Era>, found: &Recalled) {
        self.lookups.eras.found(eras.len(), found.intervals.len());
        // Of what was held some may be parked: that is looked up next.
        self.lookups.in_order = None;
        let mut due: HashMap<u32, Era> = eras.into_iter().map(|era| (era.series, era)).collect();
        for (number, (start, end), content) in &found.intervals {
            if let Some(era) = due.get_mut(number) {
                era.take(Existing { start: *start, end: *end, content: *content, row: None });
            }
        }
        let (feed, output) = (&self.feeds[number], &mut self.outputs[number]);
        for (row, number) in output.rows.iter().zip(0..) {
            if let Some(era) = due.get_mut(&row.series) {
                era.take(Existing { start: row.start, end: row.end, content: row.content, row: Some(number) });
            }
        }
        let mut series: Vec<u32> = due.keys().copied().collect();
        series.sort_unstable();
        let of_feed = number as u16;
        for number in &series {
            let Some(Era { opening, scale, reached, rows, .. }) = due.remove(number) else { continue };
            let of = (&opening, scale, reached);
            let series = &mut self.members[*number as usize].series;
            series.reopen(&feed.rules, *number, of, rows, output);
            if let Some(rollups) = &mut self.for_rollups {
                rollups.released(*number, of_feed, &mut series.state);
            }
        }
        self.forget(number, series.into_iter());
    }

    // What was looked up for these series of a feed is not kept.
    fn forget(&mut self, feed: usize, series: impl Iterator<Item = u32>) {
        let samples = self.samples();
        let (rules, remembered) = (&self.feeds[feed].rules, self.outputs[feed].remembered);
        for number in series {
            self.members[number as usize].series.trim(rules, remembered, samples);
        }
    }
}

#[cfg(test)]
mod tests {
    use meterline_schemas::config::{BadRecords, FeedConfig};
    use meterline_schemas::reading::{Position, Quality};
    use meterline_schemas::time::{HOUR, MINUTE};
    use meterline_schemas::unit::Unit;

    use super::super::super::aggregate::Rules;
    use super::super::super::series::PendingReading;
    use super::super::{FeedRules, Place, Routed, route};
    use super::*;

    fn shard_of(remembered: usize) -> Shard {
        let config = FeedConfig::new("t", "id", "ts", "value");
        let rules = Rules::new(&config, remembered).unwrap();
        let feed = FeedRules { name: "f".into(), topic: "t".into(), rules, bad_records: BadRecords::DeadLetter };
        Shard::new([feed].into(), Budget::AMPLE)
    }

    fn apply(shard: &mut Shard, at: Micros, (timestamp_ms, partition, offset): (i64, i32, i64)) {
        let (unit, quality) = (Unit::KWH, Quality::Measured);
        let position = Position { timestamp_ms, partition, offset };
        let reading = PendingReading { at, value: 1.0, scale: unit.scale(), quality, position };
        let (route, series) = (route("a"), "a".into());
        shard.apply(Routed { feed: 0, route, series, unit, reading, labels: None }, at);
    }

    #[test]
    fn only_what_may_have_been_taken_away_is_looked_up_whatever_it_takes() {
        let mut shard = shard_of(2);
        let at_hour = |shard: &mut Shard, hour: i64| apply(shard, hour * HOUR, (hour * HOUR / 1_000, 0, hour));
        (1..=24).for_each(|hour| at_hour(&mut shard, hour));
        assert_eq!(shard.wanted(), None);
        at_hour(&mut shard, 3);
        assert!(shard.wanted().is_some_and(|wanted| !wanted.intervals.is_empty() && !wanted.needed));
    }

    #[test]
    fn what_an_era_may_have_taken_away_is_looked_up_whatever_it_takes() {
        let mut shard = shard_of(200);
        for hour in 1..=24 {
            apply(&mut shard, hour * HOUR, (hour * HOUR / 1_000, 0, hour));
        }
        // One is missing: it comes from another partition, with a smaller position than what took its hour away.
        for quarter in (97..=140).filter(|quarter| *quarter != 99) {
            let at = quarter * 15 * MINUTE;
            apply(&mut shard, at, (at / 1_000, 0, quarter));
        }
        assert_eq!(shard.wanted(), None);
        let state = &shard.members[0].series.state;
        assert!(state.extra().rewritten_to.is_some_and(|to| to > 99 * 15 * MINUTE), "{state:?}");
        let at = 99 * 15 * MINUTE;
        apply(&mut shard, at, (at / 1_000, 1, 1));
        assert!(shard.wanted().is_some_and(|wanted| wanted.intervals.len() == 1 && wanted.needed));
    }

    #[test]
    fn what_could_not_be_looked_up_is_asked_for_again() {
        let (mut first, mut shard) = (shard_of(200), shard_of(200));
        for hour in 1..=24 {
            apply(&mut first, hour * HOUR, (hour * HOUR / 1_000, 0, hour));
        }
        // With an empty memory.
        shard.restore(0, first.members[0].series.state.clone(), 1);
        let declined = || Recalled { declined: true, ..Recalled::default() };
        let place = Place { seq: 2, rewrite_from: i64::MAX };
        // Readings far too old to win, which are written unseen.
        for offset in 1..=2 {
            apply(&mut shard, 3 * HOUR, (3 * HOUR / 1_000 - offset, 1, offset));
            assert!(shard.wanted().is_some(), "reading {offset} was compared with what may not count");
            shard.resolve(declined()).unwrap();
            assert_eq!(shard.wanted(), None);
            assert_eq!(shard.finish(place).unwrap().rows[0].rows.len(), 1);
        }
    }
}
