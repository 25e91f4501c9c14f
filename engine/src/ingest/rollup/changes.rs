//! What a shard tells roll-ups at the end of an epoch: which intervals changed, from what to what, and their labels.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use meterline_schemas::Frequency;
use meterline_schemas::labels::LabelValues;
use meterline_schemas::reading::Position;

use super::super::rows::{Content, Rows};
use super::super::series::SeriesState;
use super::plan::Plan;
use super::saved::Givers;
use super::taken::Taken;
use super::{Input, IntervalChange};

// Whether a reading waits in the state of its series.
fn waits(state: &SeriesState, position: Position) -> bool {
    state.extra().pending.iter().any(|one| one.position == position)
}

/// The changes of one shard, as they come.
pub struct ForRollups {
    plan: Arc<Plan>,
    givers: Arc<Givers>,
    taken: Arc<Taken>,
    // Labels of the readings that became something in this epoch, by the number of their series and their position.
    labels: HashMap<(u32, Position), LabelValues>,
    inputs: Vec<Input>,
}

impl ForRollups {
    /// Nothing yet; `taken` is told by the roll-ups of the same worker.
    pub fn new(plan: Arc<Plan>, givers: Arc<Givers>, taken: Arc<Taken>) -> ForRollups {
        ForRollups { plan, givers, taken, labels: HashMap::new(), inputs: Vec::new() }
    }

    /// Bytes that roll-ups take of the memory for what series are.
    pub fn taken(&self) -> usize {
        self.taken.bytes()
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
        if waits(state, position) {
            let named = self.givers.save_read(feed, &labels);
            // As many labels as readings that wait, before those of this one: some are of readings that wait no longer,
            // because they became something or were replaced.
            if state.extra().pending_labels.len() >= state.extra().pending.len() {
                self.released(series, feed, state);
            }
            let kept = &mut state.extra_mut().pending_labels;
            kept.retain(|(of, _)| *of != position);
            return kept.push((position, named));
        }
        self.labels.insert((series, position), labels);
        self.released(series, feed, state);
    }

    /// Readings of a series may wait no longer: their labels are those of what became of them in this epoch.
    pub fn released(&mut self, series: u32, feed: u16, state: &mut SeriesState) {
        if state.extra().pending_labels.is_empty() {
            return;
        }
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

    /// The epoch ends with these rows of a feed; `before` has what intervals were before it, by the number of the row,
    /// and `overtaken` the rows that do not count, each with the one of the epoch that came in its place.
    pub fn ended<'s>(
        &mut self,
        feed: u16,
        rows: &Rows,
        before: Vec<(u32, Content)>,
        overtaken: &[(u32, Option<u32>)],
        state: impl Fn(u32) -> &'s SeriesState,
    ) {
        if !self.take_part(feed) {
            return;
        }
        let mut before: HashMap<u32, Content> = before.into_iter().collect();
        // Whatever rows an interval has, it changes once: from what it was before the epoch to what counts at its end.
        let mut silent: HashSet<u32> = HashSet::with_capacity(overtaken.len());
        for (row, next) in overtaken {
            silent.insert(*row);
            if let (Some(next), Some(was)) = (next, before.remove(row)) {
                before.insert(*next, was);
            }
        }
        let mut ids: HashMap<u32, Arc<str>> = HashMap::new();
        self.inputs.reserve(rows.len());
        for (number, row) in (0..).zip(rows.iter()).filter(|(number, _)| !silent.contains(number)) {
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

    /// The epoch has ended with the rows of all feeds.
    pub fn begin_next(&mut self) {
        self.labels.clear();
    }

    /// All changes of the epochs that ended. Readings of the next one may have been taken already.
    pub fn take(&mut self) -> Vec<Input> {
        std::mem::take(&mut self.inputs)
    }
}

#[cfg(test)]
mod tests {
    use meterline_schemas::Micros;
    use meterline_schemas::config::{Config, FeedConfig, RollupConfig};
    use meterline_schemas::reading::Quality;
    use meterline_schemas::unit::Unit;

    use super::super::super::rows::{Layer, Row};
    use super::super::super::series::PendingReading;
    use super::*;

    fn for_rollups() -> ForRollups {
        let mut config = Config::default();
        let mut feed = FeedConfig::new("t", "s", "t", "v");
        feed.labels = [("site".into(), "s".into())].into();
        config.feed.insert("m".into(), feed);
        config.rollup.insert("r".into(), RollupConfig::new(&["site"]));
        let (plan, givers) = (Plan::new(&config).unwrap(), Givers::new(&config));
        ForRollups::new(Arc::new(plan), Arc::new(givers), Arc::default())
    }

    #[test]
    fn labels_of_readings_that_were_replaced_while_they_waited_do_not_add_up() {
        let (mut rollups, mut state) = (for_rollups(), SeriesState::new("m", "a", Unit::KWH));
        let labels: LabelValues = [Some(Arc::from("s1"))].into();
        for offset in 0..100 {
            let position = Position { timestamp_ms: 1, partition: 0, offset };
            let (scale, quality) = (Unit::KWH.scale(), Quality::Measured);
            // Two stamps, again and again.
            let at: Micros = 900 * (offset % 2);
            state.extra_mut().pending.put(PendingReading { at, value: 1.0, scale, quality, position });
            rollups.read(0, 0, &mut state, position, Arc::clone(&labels));
            // The same reading once more.
            rollups.read(0, 0, &mut state, position, Arc::clone(&labels));
            assert!(state.extra().pending_labels.len() <= state.extra().pending.len());
        }
        state.extra_mut().pending.take();
        rollups.released(0, 0, &mut state);
        let last = |offset| (0u32, Position { timestamp_ms: 1, partition: 0, offset });
        assert!([98, 99].into_iter().all(|offset| rollups.labels.get(&last(offset)) == Some(&labels)));
    }

    #[test]
    fn labels_of_readings_that_wait_no_longer_stay_when_the_next_reading_waits() {
        let (mut rollups, mut state) = (for_rollups(), SeriesState::new("m", "a", Unit::KWH));
        let labels: LabelValues = [Some(Arc::from("s1"))].into();
        let position = |offset| Position { timestamp_ms: 1, partition: 0, offset };
        let waiting = |offset: i64| {
            let (scale, quality) = (Unit::KWH.scale(), Quality::Measured);
            PendingReading { at: 900 * offset, value: 1.0, scale, quality, position: position(offset) }
        };
        for offset in 0..3 {
            state.extra_mut().pending.put(waiting(offset));
            rollups.read(0, 0, &mut state, position(offset), Arc::clone(&labels));
        }
        // The fourth reading tells the frequency of the others, but is held itself.
        state.extra_mut().pending = [waiting(3)].into_iter().collect();
        rollups.read(0, 0, &mut state, position(3), Arc::clone(&labels));
        assert!((0..3).all(|offset| rollups.labels.get(&(0, position(offset))) == Some(&labels)));
        assert_eq!(state.extra().pending_labels.len(), 1);
    }

    #[test]
    fn the_labels_of_a_reading_that_was_held_are_those_of_its_interval() {
        let mut rollups = for_rollups();
        let position = Position { timestamp_ms: 1, partition: 0, offset: 1 };
        let (at, scale, quality): (Micros, _, _) = (900, Unit::KWH.scale(), Quality::Measured);
        let mut state = SeriesState::new("m", "a", Unit::KWH);
        state.extra_mut().pending.put(PendingReading { at, value: 1.0, scale, quality, position });
        let labels: LabelValues = [Some(Arc::from("s1"))].into();
        rollups.read(0, 0, &mut state, position, Arc::clone(&labels));
        assert_eq!(state.extra().pending_labels.len(), 1);
        // An era opens at the end of a later epoch.
        assert!(rollups.take().is_empty());
        state.extra_mut().pending.take();
        rollups.released(0, 0, &mut state);
        assert!(state.extra().pending_labels.is_empty());
        let mut rows = Rows::default();
        let content = Content { value: 1.0, count: 1, quality, position };
        rows.push(Row { series: 0, start: 0, end: 900, layer: Layer::Base, content });
        rollups.ended(0, &rows, Vec::new(), &[], |_| &state);
        let inputs = rollups.take();
        let [Input::Interval(change)] = &inputs[..] else { panic!("{} inputs", inputs.len()) };
        assert_eq!(change.labels, Some(labels));
    }

    #[test]
    fn labels_of_the_running_epoch_stay_when_changes_of_earlier_ones_are_taken() {
        // So it is after a start, when readings come before the first look at what the shard began with.
        let (mut rollups, mut state) = (for_rollups(), SeriesState::new("m", "a", Unit::KWH));
        let position = Position { timestamp_ms: 1, partition: 0, offset: 1 };
        let labels: LabelValues = [Some(Arc::from("s1"))].into();
        rollups.read(0, 0, &mut state, position, Arc::clone(&labels));
        assert!(rollups.take().is_empty());
        let mut rows = Rows::default();
        let content = Content { value: 1.0, count: 1, quality: Quality::Measured, position };
        rows.push(Row { series: 0, start: 0, end: 900, layer: Layer::Base, content });
        rollups.ended(0, &rows, Vec::new(), &[], |_| &state);
        rollups.begin_next();
        let inputs = rollups.take();
        let [Input::Interval(change)] = &inputs[..] else { panic!("{} inputs", inputs.len()) };
        assert_eq!(change.labels, Some(labels));
        assert!(rollups.labels.is_empty());
    }

    #[test]
    fn an_interval_of_several_rows_changes_once() {
        let (mut rollups, state) = (for_rollups(), SeriesState::new("m", "a", Unit::KWH));
        let content = |offset: i64| {
            let position = Position { timestamp_ms: 1, partition: 0, offset };
            Content { value: offset as f64, count: 1, quality: Quality::Measured, position }
        };
        let mut rows = Rows::default();
        for offset in [3, 4, 2, 5] {
            rows.push(Row { series: 0, start: 0, end: 900, layer: Layer::Revision, content: content(offset) });
        }
        // The third one came too late to count.
        let overtaken = [(0, Some(1)), (2, None), (1, Some(3))];
        rollups.ended(0, &rows, vec![(0, content(1))], &overtaken, |_| &state);
        let inputs = rollups.take();
        let [Input::Interval(change)] = &inputs[..] else { panic!("{} inputs", inputs.len()) };
        assert_eq!((change.old, change.new), (Some(content(1)), Some(content(5))));
    }
}
