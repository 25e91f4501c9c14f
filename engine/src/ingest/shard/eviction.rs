//! Which series leave memory, and how they come back.
//!
//! Where what series are takes more than its share of memory, those that had no reading for longest go, at the end of
//! an epoch: their states are part of its commit, in the [runs](super::super::evicted) of the lake. What roll-ups know
//! of series takes of the same share and stays: the more that is, the fewer series.

use hashbrown::HashSet;
use jiff::tz::TimeZone;
use meterline_schemas::Micros;
use meterline_schemas::unit::Unit;

use super::super::census::{Changes, Stand};
use super::super::classes::Classes;
use super::super::error::IngestError;
use super::super::frequency::READINGS_MIN;
use super::super::rollup::changes::ForRollups;
use super::super::segments::Frames;
use super::super::series::SeriesState;
use super::absent::Routes;
use super::{FeedRules, MEMBER_BYTES, Member, NOT_CONFIGURED, Place, Routed, Series, Shard, route};

/// What a shard is told of the series that are in the lake alone, when it starts.
#[derive(Debug, Default)]
pub struct Evicted {
    routes: Routes,
    changes: Changes,
}

impl Evicted {
    /// One more, of the feed with this number and this zone, if it has one.
    pub fn add(&mut self, feed: Option<(u16, &TimeZone)>, state: &SeriesState, classes: &Classes) {
        self.routes.add(route(&state.id));
        if let Some((feed, zone)) = feed {
            self.changes.moved(feed, zone, None, &Stand::of(state, classes.counted(state, zone)));
        }
    }

    /// Number of them.
    pub fn count(&self) -> usize {
        self.routes.len()
    }
}

/// Bytes of a series of which no more is known.
const EACH: usize = MEMBER_BYTES + size_of::<SeriesState>();

/// Series of readings of the next epoch that are not in memory.
#[derive(Debug, Default)]
pub(super) struct Early {
    // Readings that were looked at.
    shown: usize,
    routes: HashSet<u64>,
}

impl Member {
    // A place for another series.
    fn nobody() -> Member {
        let series = Series::restore(SeriesState::new("", "", Unit::KWH));
        Member { feed: NOT_CONFIGURED, route: 0, touched: 0, written: i64::MIN, bytes: 0, waiting: 0, series }
    }

    pub(super) fn is_somebody(&self) -> bool {
        self.written != i64::MIN
    }
}

impl Shard {
    /// Learns of the series that are in the lake alone, when it starts.
    pub fn restore_evicted(&mut self, evicted: Evicted) {
        self.absent = evicted.routes;
        self.changes.append(evicted.changes);
    }

    // Bytes that series in memory take, of those that they may take; readings that wait in them only beyond their own.
    fn taken(&self) -> usize {
        self.bytes + self.waiting.saturating_sub(self.budget.intervals)
    }

    // Bytes of what roll-ups know of series and groups.
    fn in_rollups(&self) -> usize {
        self.for_rollups.as_ref().map_or(0, ForRollups::taken)
    }

    // Bytes that series in memory may take beside the routes of the others, their classes, and what roll-ups know. These cannot leave:
    // should they be too many after a start with a lower limit, a quarter is left all the same, else every epoch would
    // be full at once.
    fn room(&self) -> usize {
        let stays = self.absent.bytes() + self.in_rollups() + self.classes_bytes;
        self.budget.series.saturating_sub(stays).max(self.budget.series / 4)
    }

    /// Whether so many series are known that what does not leave memory, their routes, classes and labels in roll-ups, could
    /// take more than half of what series may take with one more.
    pub(super) fn is_out_of_room(&self) -> bool {
        self.absent.bytes_with_another() + self.in_rollups() + self.classes_bytes > self.budget.series / 2
    }

    /// What to do where there is no room for a new series.
    pub(super) fn why_too_many(&self, series: &str) -> String {
        let (of_rollups, meters) = match self.in_rollups() {
            0 => (String::new(), "meters"),
            bytes => {
                let of_rollups = format!(", with their labels for roll-ups ({} KiB)", bytes.div_ceil(1024));
                (of_rollups, "meters, and its `labels` those that meters have in common")
            }
        };
        format!(
            "series `{series}` is new, but {} series in memory and {} beside it are all that can be told \
             apart{of_rollups}: raise `ingest.memory_limit`, or check that the feed's `series` names a field that \
             identifies {meters}",
            self.live(),
            self.absent.len()
        )
    }

    /// Whether the series of the running epoch take what they may, with those that are to come back.
    pub(super) fn is_crowded(&self) -> bool {
        self.taken().saturating_add(self.awaiting.series() * EACH) >= self.room()
    }

    /// Rows that may come of readings whose series are not in memory: with the frequency of a series is found, all that
    /// waited for it becomes rows.
    pub(super) fn awaited_rows(&self) -> usize {
        let detects = |feed: &FeedRules| feed.rules.frequency.is_none();
        let each = if self.feeds.iter().any(detects) { READINGS_MIN } else { 0 };
        self.awaiting.len() + self.awaiting.series() * each
    }

    /// Whether there is no room for the series of readings of the next epoch, which came before this one has ended; they
    /// are shown again with those that come after them.
    pub fn would_be_crowded(&mut self, early: &[Routed]) -> bool {
        let (taken, room) = (self.taken(), self.room());
        // Mostly there is, whoever they are.
        if taken.saturating_add(early.len() * EACH) < room {
            return false;
        }
        for routed in early.get(self.early.shown..).unwrap_or_default() {
            if self.index.find(routed.route, |_| true).is_none() {
                self.early.routes.insert(routed.route);
            }
        }
        self.early.shown = early.len();
        taken.saturating_add(self.early.routes.len() * EACH) >= room
    }

    /// Takes the coldest series out of memory where all of them take too much; their states go to the lake.
    pub(super) fn evict(&mut self, place: Place) -> Result<Frames, IngestError> {
        self.early = Early::default();
        let (taken, room, live) = (self.taken(), self.room(), self.live());
        // There is to be room for those that come in the next epoch, and not each epoch is to evict.
        let (most, kept) = (room / 8 * 7, room / 4 * 3);
        if taken <= most || live == 0 || place.seq <= 0 {
            return Ok(Frames::default());
        }
        let each = (self.bytes + self.waiting) / live;
        let count = (taken - kept).div_ceil(each.max(1)).min(live);
        let known = (0..).zip(&self.members).filter(|(_, member)| member.is_somebody());
        let mut coldest: Vec<(u32, i64, u32)> =
            known.map(|(number, member)| (member.touched, member.written, number)).collect();
        if count < coldest.len() {
            coldest.select_nth_unstable(count);
            coldest.truncate(count);
        }
        let mut leaving: Vec<u32> = coldest.into_iter().map(|(_, _, number)| number).collect();
        let members = &self.members;
        leaving.sort_unstable_by(|a, b| {
            let [a, b] = [a, b].map(|number| &members[*number as usize]);
            (a.route, &a.series.state.id).cmp(&(b.route, &b.series.state.id))
        });
        let states = leaving.iter().map(|number| &members[*number as usize].series.state);
        let frames = Frames::of(states)
            .map_err(|reason| IngestError::Fault(format!("encoding series that leave memory: {reason}")))?;
        for number in &leaving {
            self.remove(*number);
        }
        let members = &self.members;
        self.order.forget(|number| !members[number as usize].is_somebody());
        tracing::debug!(
            commit = place.seq,
            series = leaving.len(),
            in_memory = live - leaving.len(),
            beside = self.absent.len(),
            "series that had no reading for longest leave memory"
        );
        Ok(frames)
    }

    fn remove(&mut self, number: u32) {
        let member = std::mem::replace(&mut self.members[number as usize], Member::nobody());
        self.index.remove(member.route, number);
        self.bytes -= MEMBER_BYTES + member.bytes as usize;
        self.waiting -= member.waiting as usize;
        self.absent.add(member.route);
        self.free.push(number);
    }

    /// Takes readings that waited for their series, with the states that were found of these. Those of which none was
    /// found are new.
    pub(super) fn bring_back(&mut self, part: Vec<(Routed, Micros)>, found: &Frames) -> Result<(), IngestError> {
        let mut states = Vec::new();
        found
            .each(|state| states.push(state))
            .map_err(|reason| IngestError::Fault(format!("series that come back to memory: {reason}")))?;
        for state in states {
            let route = route(&state.id);
            if self.find(route, &state.id).is_some() {
                continue;
            }
            let feed = self.feeds.iter().position(|feed| *feed.name == *state.feed);
            // Whatever becomes of its readings, it is among what this commit writes: the newest there is.
            let number = self.insert(Member {
                feed: feed.map_or(NOT_CONFIGURED, |number| number as u16),
                route,
                touched: self.epoch,
                written: i64::MAX,
                bytes: 0,
                waiting: 0,
                series: Series::restore(state),
            });
            self.touched.push((number, Some(self.stand(number))));
        }
        for (routed, watermark) in part {
            let known = self.find(routed.route, &routed.series);
            self.apply_to(known, routed, watermark);
        }
        Ok(())
    }
}
