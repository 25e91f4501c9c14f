//! What a shard tells roll-ups at the end of an epoch: which intervals changed, from what to what, and their labels.

use std::sync::Arc;

use hashbrown::HashMap;
use meterline_schemas::Frequency;
use meterline_schemas::labels::LabelValues;
use meterline_schemas::reading::Position;

use super::super::rows::{Content, Rows};
use super::super::series::SeriesState;
use super::plan::Plan;
use super::saved::Givers;
use super::{Input, IntervalChange};

/// The changes of one shard, as they come.
pub struct ForRollups {
    plan: Arc<Plan>,
    givers: Arc<Givers>,
    // Labels of the readings that became something in this epoch, by the number of their series and their position.
    labels: HashMap<(u32, Position), LabelValues>,
    inputs: Vec<Input>,
}

impl ForRollups {
    /// Nothing yet.
    pub fn new(plan: Arc<Plan>, givers: Arc<Givers>) -> ForRollups {
        ForRollups { plan, givers, labels: HashMap::new(), inputs: Vec::new() }
    }

    /// Whether series of a feed may take part.
    pub fn take_part(&self, feed: u16) -> bool {
        self.plan.rollups.iter().any(|rollup| rollup.has_feed(feed))
    }

    /// A reading with labels was taken. While it waits in the state of its series, so do they.
    pub fn read(&mut self, series: u32, feed: u16, state: &mut SeriesState, position: Position, labels: LabelValues) {
        if !self.plan.has_labels(feed) || !self.take_part(feed) {
            return;
        }
        let waits = |state: &SeriesState, position| state.extra().pending.iter().any(|one| one.position == position);
        if waits(state, position) {
            let named = self.givers.save_read(feed, &labels);
            return state.extra_mut().pending_labels.push((position, named));
        }
        self.labels.insert((series, position), labels);
        if !state.extra().pending_labels.is_empty() {
            for (position, named) in std::mem::take(&mut state.extra_mut().pending_labels) {
                match waits(state, position) {
                    true => state.extra_mut().pending_labels.push((position, named)),
                    false => {
                        self.labels.insert((series, position), self.givers.restore_read(feed, &named));
                    }
                }
            }
            state.tidy();
        }
    }

    /// The epoch ends with these rows of a feed; `before` has what intervals were before it, by the number of the row.
    pub fn ended<'s>(
        &mut self,
        feed: u16,
        rows: &Rows,
        before: Vec<(u32, Content)>,
        state: impl Fn(u32) -> &'s SeriesState,
    ) {
        if !self.take_part(feed) {
            return;
        }
        let before: HashMap<u32, Content> = before.into_iter().collect();
        let mut ids: HashMap<u32, Arc<str>> = HashMap::new();
        self.inputs.reserve(rows.len());
        for (number, row) in (0..).zip(rows.iter()) {
            let state = state(row.series);
            let id = ids.entry(row.series).or_insert_with(|| state.id.as_str().into());
            self.inputs.push(Input::Interval(IntervalChange {
                series: Arc::clone(id),
                feed,
                start: row.start,
                end: row.end,
                // Not that of the series: it may have been another one then.
                frequency: Frequency::of_length(row.end - row.start),
                unit: state.unit.clone(),
                old: before.get(&number).copied(),
                new: Some(row.content),
                labels: self.labels.get(&(row.series, row.content.position)).cloned(),
            }));
        }
    }

    /// All changes of the epoch.
    pub fn take(&mut self) -> Vec<Input> {
        self.labels.clear();
        std::mem::take(&mut self.inputs)
    }
}
