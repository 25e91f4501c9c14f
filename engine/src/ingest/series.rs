//! What is remembered of one series. There may be millions, so what few of them need is kept apart.

use std::sync::Arc;

use compact_str::CompactString;
use meterline_schemas::reading::{Position, Quality};
use meterline_schemas::unit::{Scale, Unit};
use meterline_schemas::{Frequency, Micros};
use serde::{Deserialize, Serialize};

use super::eras::Era;
use super::frequency::Found;
use super::pending::Pending;
use super::rollup::saved::NamedLabels;

/// State of one series. What readings need comes first and lies together: of a million series hardly one is in the
/// caches of the processor, and each line of memory is waited for.
#[derive(Debug, Clone, PartialEq)]
#[repr(C)]
pub struct SeriesState {
    /// Identifier.
    pub id: CompactString,
    /// Native frequency; `None` while it is being detected.
    pub frequency: Option<Frequency>,
    /// Kafka partition it was last seen in; its event time counts there.
    pub partition: i32,
    /// Whether the frequency was declared (else detected).
    pub declared: bool,
    /// How sure the frequency is, in per cent: [`Found::confidence`], or 100 where it was
    /// declared.
    pub confidence: u8,
    /// Where readings were when the frequency was detected: [`Found::phase`].
    pub phase: i8,
    /// How far from there: [`Found::spread`].
    pub spread: u8,
    /// The rest, of which most series have nothing.
    pub(super) extra: Option<Box<Extra>>,
    /// Bit i: the interval i steps before `last_start` was written. Completeness comes from it.
    pub recent: u128,
    /// Start of the last interval written.
    pub last_start: Option<Micros>,
    /// Intervals written for the first time.
    pub intervals: u32,
    /// Records that changed intervals already written, or may have.
    pub corrections: u32,
    /// Unit of the stored values.
    pub unit: Unit,
    /// Start of the first interval written.
    pub first_start: Option<Micros>,
    /// Feed that it comes from.
    pub feed: Arc<str>,
}

/// What few series need.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Extra {
    /// Starts `[from, to)` before `last_start` where surely nothing was written: the longest holes that history, read
    /// after newer data, may still fill without being taken for a correction.
    pub unwritten: Vec<(Micros, Micros)>,
    /// Greatest position of a row made from several readings (kinds `counter` and `gauge`): later rows are placed
    /// above it, so that of two rows of one interval the later always wins.
    pub last_position: Option<Position>,
    /// Readings that wait for the native frequency, or are held in doubt of it. Files have them apart.
    #[serde(skip)]
    pub pending: Pending,
    /// Labels of those readings, by their positions, where roll-ups need them.
    pub pending_labels: Vec<(Position, NamedLabels)>,
    /// Of a counter: the last register. None comes after it.
    pub last_register: Option<Box<PendingReading>>,
    /// Eras before the present one, the oldest first.
    pub eras: Vec<Era>,
    /// Before it, in the present era, the table may have rows that were taken away.
    pub rewritten_to: Option<Micros>,
    /// Starts of the last intervals, if each is more than one step after the one before.
    pub sparse: Vec<Micros>,
    /// Intervals that came since a reading was last held in doubt of the frequency.
    pub undisturbed: u8,
}

static NOTHING: Extra = Extra {
    unwritten: Vec::new(),
    last_position: None,
    pending: Pending::NONE,
    pending_labels: Vec::new(),
    last_register: None,
    eras: Vec::new(),
    rewritten_to: None,
    sparse: Vec::new(),
    undisturbed: 0,
};

impl SeriesState {
    /// A series of which nothing is known yet but its feed, its identifier and the unit its values are stored in.
    pub fn new(feed: &str, id: &str, unit: Unit) -> SeriesState {
        SeriesState {
            feed: feed.into(),
            id: id.into(),
            unit,
            frequency: None,
            declared: false,
            confidence: 0,
            phase: 0,
            spread: 0,
            partition: Position::BACKFILL_PARTITION,
            first_start: None,
            last_start: None,
            recent: 0,
            intervals: 0,
            corrections: 0,
            extra: None,
        }
    }

    /// The frequency was declared.
    pub fn declare(&mut self, frequency: Frequency) {
        (self.frequency, self.declared, self.confidence) = (Some(frequency), true, 100);
    }

    /// The frequency was detected.
    pub fn detected(&mut self, found: Found) {
        (self.frequency, self.declared) = (Some(found.frequency), false);
        (self.confidence, self.phase, self.spread) = (found.confidence, found.phase, found.spread);
    }

    /// What few series need.
    pub fn extra(&self) -> &Extra {
        self.extra.as_deref().unwrap_or(&NOTHING)
    }

    /// Gives back what is kept of nothing.
    pub fn tidy(&mut self) {
        if self.extra.as_deref() == Some(&NOTHING) {
            self.extra = None;
        }
    }

    /// The same as [`SeriesState::extra`], to be changed.
    pub fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// Bytes that it takes, with what it points to, but for readings that wait; feeds and units are shared.
    pub fn bytes(&self) -> usize {
        let extra = self.extra.as_ref().map_or(0, |extra| {
            let itself = if extra.pending.is_empty() { size_of::<Extra>() } else { 0 };
            itself
                + extra.unwritten.capacity() * size_of::<(Micros, Micros)>()
                + extra.eras.capacity() * size_of::<Era>()
                + extra.sparse.capacity() * size_of::<Micros>()
                + extra.last_register.as_ref().map_or(0, |_| size_of::<PendingReading>())
        });
        let id = if self.id.is_heap_allocated() { self.id.capacity() } else { 0 };
        size_of::<SeriesState>() + id + extra
    }

    /// Bytes that it takes while readings wait in it.
    pub fn waiting_bytes(&self) -> usize {
        let Some(extra) = self.extra.as_ref().filter(|extra| !extra.pending.is_empty()) else { return 0 };
        size_of::<Extra>()
            + extra.pending.bytes()
            + extra.pending_labels.capacity() * size_of::<(Position, NamedLabels)>()
    }
}

/// A reading that is kept, whose series says in what unit it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PendingReading {
    /// The reading's stamp.
    pub at: Micros,
    /// Its value in its own unit.
    pub value: f64,
    /// How that becomes a value in the stored unit.
    pub scale: Scale,
    /// Its quality.
    pub quality: Quality,
    /// Where it came from.
    pub position: Position,
}
