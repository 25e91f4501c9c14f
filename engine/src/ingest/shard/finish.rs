//! The end of an epoch: what its readings made of the series becomes a part of the commit.

use std::sync::Arc;

use meterline_schemas::config::BadRecords;
use meterline_schemas::reading::ValueKind;
use serde::{Deserialize, Serialize};

use super::super::aggregate::Output;
use super::super::census::Stand;
use super::super::dead_letters::DeadLetter;
use super::super::error::IngestError;
use super::super::layout::{SeriesTexts, ShardRows};
use super::super::outcome::Tally;
use super::super::segments::Frames;
use super::Shard;
use super::caches::{WARMED, warm, warmed};

/// What a shard gives at the end of an epoch.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShardPart {
    /// The epoch.
    pub epoch: u64,
    /// Rows of `intervals`, those of each feed together.
    pub rows: Vec<ShardRows>,
    /// Changes of counts, by number of the feed.
    pub tallies: Vec<Tally>,
    /// Readings that cannot be used.
    pub dead: Vec<DeadLetter>,
    /// The states that this commit writes.
    pub states: Frames,
    /// The states of series that leave memory with it, by route and identifier.
    pub evicted: Frames,
    /// Number of series that got a reading.
    pub changed: u64,
}

impl ShardPart {
    /// Whether there are states to be written.
    pub fn has_states(&self) -> bool {
        self.states.series + self.evicted.series > 0
    }
}

/// Where the states of the series of an epoch go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Number of the commit.
    pub seq: i64,
    /// Series whose state is in a segment of this commit or a later one are written again.
    pub rewrite_from: i64,
}

impl Place {
    /// Of states that no commit will hold.
    pub const NOWHERE: Place = Place { seq: 0, rewrite_from: i64::MAX };
}

impl Shard {
    // Intervals of gauges and counters are computed once an epoch.
    fn refresh(&mut self) {
        for (feed, output) in self.feeds.iter().zip(&mut self.outputs) {
            for stale in output.take_stale() {
                self.members[stale.0 as usize].series.refresh(&feed.rules, stale, output);
            }
        }
    }

    // Old samples are not kept for longer than an epoch.
    fn trim(&mut self) {
        let derived =
            |feed: &u16| self.feeds.get(usize::from(*feed)).is_some_and(|f| f.rules.kind != ValueKind::Interval);
        let touched = self.touched.iter().map(|(number, _)| *number);
        let of_samples = touched.filter(|number| derived(&self.members[*number as usize].feed));
        let samples = self.samples();
        let due: Vec<u32> = of_samples.collect();
        for number in due {
            let member = &mut self.members[number as usize];
            let (feed, series) = (usize::from(member.feed), &mut member.series);
            if let (Some(feed), Some(output)) = (self.feeds.get(feed), self.outputs.get(feed)) {
                series.trim(&feed.rules, output.remembered, samples);
            }
        }
    }

    /// Ends the epoch, whose states go to `place`, and begins the next one.
    ///
    /// # Errors
    /// A reading that cannot be used, of a feed that is to fail then; or a fault.
    pub fn finish(&mut self, place: Place) -> Result<ShardPart, IngestError> {
        self.refresh();
        self.trim();
        self.lookups.end_epoch();
        let changed = self.changed();
        let mut part = ShardPart {
            epoch: self.epoch(),
            rows: vec![],
            tallies: vec![],
            dead: vec![],
            states: Frames::default(),
            evicted: Frames::default(),
            changed: changed.len() as u64,
        };
        self.epoch += 1;
        let fresh = self.fresh_outputs();
        let outputs = std::mem::replace(&mut self.outputs, fresh);
        let texts = self.texts_of(&changed, &outputs);
        for (feed, (output, texts)) in (0..).zip(outputs.into_iter().zip(texts)) {
            self.hand_in(feed, output, texts, &mut part)?;
        }
        if let Some(rollups) = &mut self.for_rollups {
            rollups.begin_next();
        }
        self.settle();
        part.evicted = self.evict(place)?;
        part.states = self.write_states(place, changed)?;
        Ok(part)
    }

    // The series that got a reading, as files have them.
    fn changed(&mut self) -> Vec<u32> {
        let members = &self.members;
        let id = |number: u32| members[number as usize].series.state.id.as_str();
        let ranks = self.order.ranks(&mut self.fresh, members.len(), id);
        let ranked = |number: u32| u64::from(ranks[number as usize]) << 32 | u64::from(number);
        let mut changed: Vec<u64> = self.touched.iter().map(|(number, _)| ranked(*number)).collect();
        changed.sort_unstable();
        changed.into_iter().map(|ranked| ranked as u32).collect()
    }

    // Puts what came of the readings of a feed to the part, with the texts of its series.
    fn hand_in(
        &mut self,
        number: u16,
        output: Output,
        series: Vec<(u32, SeriesTexts)>,
        part: &mut ShardPart,
    ) -> Result<(), IngestError> {
        let feed = &self.feeds[usize::from(number)];
        if let (BadRecords::Fail, Some(dead)) = (feed.bad_records, output.dead.first()) {
            return Err(IngestError::BadRecord {
                feed: feed.name.to_string(),
                topic: feed.topic.to_string(),
                partition: dead.position.partition,
                offset: dead.position.offset,
                refusal: format!("{}: {}", dead.reason, dead.detail),
            });
        }
        let kept = output.dead.into_iter().filter(|_| feed.bad_records == BadRecords::DeadLetter);
        part.dead.extend(kept.map(|dead| DeadLetter {
            feed: Arc::clone(&feed.name),
            topic: Arc::clone(&feed.topic),
            position: dead.position,
            key: None,
            payload: None,
            reason: dead.reason.into(),
            detail: dead.detail,
        }));
        part.tallies.push(output.tally);
        if let Some(rollups) = &mut self.for_rollups {
            let members = &self.members;
            let state = |series: u32| &members[series as usize].series.state;
            rollups.ended(number, &output.rows, output.before, &output.overtaken, state);
        }
        if !output.rows.is_empty() || !output.samples.is_empty() {
            part.rows.push(ShardRows { rows: output.rows, samples: output.samples, series, made_of: None });
        }
        Ok(())
    }

    // What the series that got a reading take now, and where they stand.
    fn settle(&mut self) {
        for moved in self.touched.chunks(WARMED) {
            warm(&self.members, false, moved.iter().map(|(number, _)| *number));
            for (number, before) in moved {
                let member = &mut self.members[*number as usize];
                member.written = i64::MAX;
                // Readings that are held make a series grow.
                let state = &member.series.state;
                self.bytes -= member.bytes as usize;
                self.waiting -= member.waiting as usize;
                (member.bytes, member.waiting) = (state.bytes() as u32, state.waiting_bytes() as u32);
                self.bytes += member.bytes as usize;
                self.waiting += member.waiting as usize;
                if let Some(rules) = self.feeds.get(usize::from(member.feed)) {
                    let zone = &rules.rules.zone;
                    let now = Stand::of(state, self.classes.counted(state, zone));
                    self.changes.moved(member.feed, zone, before.as_ref(), &now);
                }
            }
        }
        self.touched.clear();
    }

    // Of each feed that has rows or samples: the texts of the series that changed.
    fn texts_of(&mut self, changed: &[u32], outputs: &[Output]) -> Vec<Vec<(u32, SeriesTexts)>> {
        self.texts.forget();
        let mut series: Vec<Vec<(u32, SeriesTexts)>> = Vec::new();
        // Mostly of one feed.
        series.resize_with(outputs.len(), || Vec::with_capacity(changed.len() / outputs.len()));
        for (number, member) in warmed(&self.members, changed) {
            let feed = usize::from(member.feed);
            if outputs.get(feed).is_some_and(|output| !output.rows.is_empty() || !output.samples.is_empty()) {
                series[feed].push((number, self.texts.texts(&member.series.state)));
            }
        }
        series
    }

    // The states that changed, and those of the segments that are to go; of those that are still in memory.
    fn write_states(&mut self, place: Place, changed: Vec<u32>) -> Result<Frames, IngestError> {
        let mut due = match place.rewrite_from {
            i64::MAX => changed,
            from => {
                let numbered = (0..).zip(&self.members);
                numbered.filter(|(_, member)| member.written >= from).map(|(number, _)| number).collect()
            }
        };
        due.retain(|number| self.members[*number as usize].is_somebody());
        let states = warmed(&self.members, &due).map(|(_, member)| &member.series.state);
        let frames = Frames::of(states)
            .map_err(|reason| IngestError::Fault(format!("encoding the states of commit {}: {reason}", place.seq)))?;
        for number in due {
            self.members[number as usize].written = place.seq;
        }
        Ok(frames)
    }
}
