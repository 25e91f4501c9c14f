//! The series that roll-ups make, as the coordinator keeps them: series like any other, with a state that says since
//! when and how far they go, so that model groups and pipelines see them.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::super::census::{Changes, Stand};
use super::super::classes::BASE;
use super::super::layout::{MadeOf, ShardRows, TextMaker};
use super::super::rows::{Content, Layer, Row, Rows};
use super::super::segments::Frames;
use super::super::series::SeriesState;
use super::super::shard::Place;
use super::super::written::{mark, surely_unwritten};
use super::ROLLUP_PARTITION;
use super::parents::RollupRow;
use super::plan::Plan;

struct Known {
    // Number of its roll-up; `None` where that is no longer configured.
    rollup: Option<u16>,
    state: SeriesState,
    // The commit whose segment holds its state.
    written: i64,
}

/// The series of all roll-ups.
pub struct RollupSeries {
    plan: Arc<Plan>,
    // The number of the first roll-up among those that have series.
    first: u16,
    numbers: HashMap<Arc<str>, u32>,
    known: Vec<Known>,
    texts: TextMaker,
    changes: Changes,
}

impl RollupSeries {
    /// None yet; `first` is the number of the first roll-up among the feeds.
    pub fn new(plan: Arc<Plan>, first: u16) -> RollupSeries {
        let (texts, changes) = (TextMaker::default(), Changes::default());
        RollupSeries { plan, first, numbers: HashMap::new(), known: Vec::new(), texts, changes }
    }

    /// Takes a series that a commit remembers, with the commit whose segment holds it.
    pub fn restore(&mut self, state: SeriesState, written: i64) {
        let rollup = self.plan.rollups.iter().position(|rollup| rollup.feed == state.feed).map(|number| number as u16);
        if let Some((number, zone)) = rollup.and_then(|number| Some((number, &self.plan.rollup(number)?.zone))) {
            self.changes.moved(self.first + number, zone, None, &Stand::of(&state, BASE));
        }
        self.numbers.insert(state.id.as_str().into(), self.known.len() as u32);
        self.known.push(Known { rollup, state, written });
    }

    /// Takes the rows of an epoch: those of `intervals`, and the states that the commit at `place` writes.
    ///
    /// # Errors
    /// A fault of ours, in words.
    pub fn take(&mut self, rows: Vec<RollupRow>, place: Place) -> Result<(ShardRows, Frames), String> {
        let plan = Arc::clone(&self.plan);
        let mut before: HashMap<u32, Option<Stand>> = HashMap::new();
        let (mut made, mut made_of) = (Rows::default(), Vec::with_capacity(rows.len()));
        for row in rows {
            let Some(rollup) = plan.rollup(row.rollup) else { continue };
            let number = match self.numbers.get(&row.series) {
                Some(number) => *number,
                None => {
                    let number = self.known.len() as u32;
                    let mut state = SeriesState::new(&rollup.feed, &row.series, rollup.unit.clone());
                    state.declare(row.frequency);
                    state.partition = ROLLUP_PARTITION;
                    self.known.push(Known { rollup: Some(row.rollup), state, written: i64::MAX });
                    self.numbers.insert(Arc::clone(&row.series), number);
                    before.insert(number, None);
                    number
                }
            };
            let known = &mut self.known[number as usize];
            known.written = i64::MAX;
            before.entry(number).or_insert_with(|| Some(Stand::of(&known.state, BASE)));
            let layer = self.layer(number, &row, &rollup.zone);
            let count = i32::try_from(row.sums.count()).unwrap_or(i32::MAX);
            let content = Content { value: row.value, count, quality: row.quality, position: row.position };
            made.push(Row { series: number, start: row.start, end: row.end, layer, content });
            made_of.push(MadeOf { present: row.sums.present, expected: row.expected, intervals: row.sums.intervals });
        }
        self.texts.forget();
        let mut series = Vec::with_capacity(before.len());
        for (number, before) in before {
            let Known { rollup, state, .. } = &self.known[number as usize];
            series.push((number, self.texts.texts(state)));
            if let Some((number, zone)) = rollup.and_then(|number| Some((number, &plan.rollup(number)?.zone))) {
                self.changes.moved(self.first + number, zone, before.as_ref(), &Stand::of(state, BASE));
            }
        }
        let rows = ShardRows { rows: made, samples: Vec::new(), series, made_of: Some(made_of) };
        Ok((rows, self.write(place)?))
    }

    // Also notes that the interval was written, where this is its first row.
    fn layer(&mut self, number: u32, row: &RollupRow, zone: &TimeZone) -> Layer {
        let state = &mut self.known[number as usize].state;
        let there = row.sums.count() > 0;
        if there && surely_unwritten(state, row.start, row.frequency, zone) {
            mark(state, row.start, row.frequency, zone);
        } else if there && row.first {
            // Memory knows what the state cannot tell.
            state.intervals += 1;
        } else {
            return Layer::Revision;
        }
        Layer::Base
    }

    fn write(&mut self, place: Place) -> Result<Frames, String> {
        // What changed has no segment yet: its number is the greatest.
        let known = self.known.iter().enumerate();
        let due: Vec<usize> =
            known.filter(|(_, known)| known.written >= place.rewrite_from).map(|(index, _)| index).collect();
        let frames = Frames::of(due.iter().map(|index| &self.known[*index].state))?;
        for index in due {
            self.known[index].written = place.seq;
        }
        Ok(frames)
    }

    /// What the census has to learn.
    pub fn census_changes(&mut self) -> &mut Changes {
        &mut self.changes
    }
}
