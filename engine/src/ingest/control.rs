//! What the coordinator tells the workers of one process, in shared memory: which epoch is open, whether it takes more,
//! and what the last commit said.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use meterline_schemas::Micros;
use serde::{Deserialize, Serialize};

use super::names::Names;
use super::shard::Place;
use super::state::IngestState;

/// What the coordinator tells the workers.
#[derive(Debug)]
pub struct Control {
    epoch: AtomicU64,
    // Read by this process, which takes so many of them in an epoch.
    records: AtomicU64,
    records_max: u64,
    // Read by other processes, as process 0 hears of it.
    elsewhere: AtomicU64,
    // The newest epoch that takes no more records, whatever it has.
    filled: AtomicU64,
    passed: AtomicBool,
    // Milliseconds from `began` to when a source last found something.
    last_read_ms: AtomicU64,
    began: Instant,
    /// Sources stop reading.
    pub stopping: Arc<AtomicBool>,
    /// Everything ends.
    pub done: Arc<AtomicBool>,
    /// Everything ends well: connections to other processes may close.
    pub closing: Arc<AtomicBool>,
    /// By number of the feed, as of the last commit.
    watermarks: Vec<AtomicI64>,
    // Where the states of the epoch that was closed last go.
    places: Mutex<Places>,
}

/// Where the states of an epoch go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// Those of series.
    pub series: Place,
    /// What roll-ups remember of them.
    pub members: Place,
}

impl Control {
    /// Control of a stream that begins with epoch 1, of which this process reads so many records in an epoch.
    pub fn new(records_max: u64, feeds: usize, stopping: Arc<AtomicBool>) -> Control {
        Control {
            epoch: AtomicU64::new(1),
            records: AtomicU64::new(0),
            records_max,
            elsewhere: AtomicU64::new(0),
            filled: AtomicU64::new(0),
            passed: AtomicBool::new(false),
            last_read_ms: AtomicU64::new(0),
            began: Instant::now(),
            stopping,
            done: Arc::new(AtomicBool::new(false)),
            closing: Arc::new(AtomicBool::new(false)),
            watermarks: (0..feeds).map(|_| AtomicI64::new(Micros::MIN)).collect(),
            places: Mutex::new(Places { series: Place::NOWHERE, members: Place::NOWHERE }),
        }
    }

    /// Number of the open epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Records in the open epoch, as far as this process knows.
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed) + self.elsewhere.load(Ordering::Relaxed)
    }

    /// How long no source has found anything.
    pub fn quiet(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.last_read_ms.load(Ordering::Relaxed)))
    }

    /// Sources of this process found records.
    pub(super) fn found(&self, records: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.note_read();
    }

    /// Sources of other processes found records: they do not count against the share of this one.
    pub(super) fn found_elsewhere(&self, records: u64) {
        self.elsewhere.fetch_add(records, Ordering::Relaxed);
        self.note_read();
    }

    fn note_read(&self) {
        self.last_read_ms.fetch_max(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Offsets were passed in the open epoch that are no records.
    pub(super) fn passed(&self) {
        self.passed.store(true, Ordering::Relaxed);
    }

    /// Whether offsets were passed in the open epoch that are no records.
    pub fn has_passed(&self) -> bool {
        self.passed.load(Ordering::Relaxed)
    }

    /// Whether there is anything in the open epoch to be committed.
    pub fn has_news(&self) -> bool {
        self.records() > 0 || self.has_passed()
    }

    /// Whether the open epoch takes no more records.
    pub fn full(&self) -> bool {
        self.records.load(Ordering::Relaxed) >= self.records_max || self.filled.load(Ordering::Relaxed) == self.epoch()
    }

    /// Closes the open epoch, whose number is returned and whose states go to `places`, and opens the next one.
    pub fn open_next(&self, places: Places) -> u64 {
        *self.places.lock().unwrap_or_else(PoisonError::into_inner) = places;
        self.records.store(0, Ordering::Relaxed);
        self.elsewhere.store(0, Ordering::Relaxed);
        self.passed.store(false, Ordering::Relaxed);
        self.epoch.fetch_add(1, Ordering::Release)
    }

    /// Where the states of the epoch that was closed last go. Asked only between the end of an epoch and its commit,
    /// while no other one can end.
    pub(super) fn places(&self) -> Places {
        *self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes known what a commit says of the watermarks. Before anything is read: a watermark decides what is looked at
    /// of readings that are held, and what is late.
    pub fn set_watermarks(&self, names: &Names, state: &IngestState) {
        for (number, name) in names.all().iter().enumerate() {
            if let Some(watermark) = state.feeds.get(name).and_then(|feed| feed.watermark) {
                self.set_watermark(number, watermark);
            }
        }
    }

    /// Makes a feed's watermark known; others' are not needed.
    pub fn set_watermark(&self, feed: usize, watermark: Micros) {
        if let Some(known) = self.watermarks.get(feed) {
            known.store(watermark, Ordering::Relaxed);
        }
    }

    /// The watermark of a feed, as of the last commit.
    pub(super) fn watermark(&self, feed: u16) -> Micros {
        self.watermarks[usize::from(feed)].load(Ordering::Relaxed)
    }

    /// An epoch takes no more records. Where it is closed already, that says nothing of the open one.
    pub(super) fn fill(&self, epoch: u64) {
        self.filled.fetch_max(epoch, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use meterline_schemas::config::{Config, FeedConfig};

    use super::super::state::FeedState;
    use super::*;

    const PLACES: Places = Places { series: Place::NOWHERE, members: Place::NOWHERE };

    #[test]
    fn a_process_takes_its_own_share_whatever_others_read() {
        let control = Control::new(10, 1, Arc::default());
        control.found(9);
        control.found_elsewhere(30);
        assert_eq!((control.records(), control.full()), (39, false));
        control.found(1);
        assert_eq!((control.records(), control.full()), (40, true));
        control.open_next(PLACES);
        assert_eq!((control.records(), control.full(), control.has_news()), (0, false, false));
        // What others read is to be committed, too.
        control.found_elsewhere(1);
        assert!(control.has_news() && !control.full());
    }

    #[test]
    fn what_fills_an_epoch_that_is_closed_does_not_fill_the_open_one() {
        let control = Control::new(10, 1, Arc::default());
        control.fill(1);
        assert_eq!((control.records(), control.full()), (0, true));
        control.open_next(PLACES);
        assert!(!control.full());
        control.fill(1);
        assert!(!control.full());
        control.fill(2);
        control.fill(1);
        assert!(control.full());
    }

    #[test]
    fn a_stream_that_goes_on_begins_with_the_watermarks_of_its_last_commit() {
        let mut config = Config::default();
        let mut state = IngestState::default();
        for (name, watermark) in [("a", Some(7)), ("b", None), ("c", Some(9))] {
            config.feed.insert(name.into(), FeedConfig::new(name, "id", "ts", "value"));
            state.feeds.insert(name.into(), FeedState { watermark, ..FeedState::default() });
        }
        // One that is no longer configured has no number, and one that was never read no watermark.
        state.feeds.insert("aa".into(), FeedState { watermark: Some(8), ..FeedState::default() });
        config.feed.insert("d".into(), FeedConfig::new("d", "id", "ts", "value"));
        let control = Control::new(10, 4, Arc::default());
        control.set_watermarks(&Names::of(&config), &state);
        let known: Vec<Micros> = (0..4).map(|feed| control.watermark(feed)).collect();
        assert_eq!(known, [7, Micros::MIN, 9, Micros::MIN]);
    }
}
