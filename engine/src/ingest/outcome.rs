//! What became of readings, counted by the partition they came from.

use meterline_schemas::Micros;
use meterline_schemas::reading::Position;
use serde::{Deserialize, Serialize};

use super::series::PendingReading;
use super::state::Counts;

/// What became of one reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is the first value of an interval, or a part of it.
    Accepted,
    /// It changed an interval already written, or may have.
    Corrected,
    /// It changed nothing: it repeats a value, or a reading with a greater position has overtaken it.
    Duplicate,
    /// It waits for the native frequency of its series.
    Waits,
}

/// A reading that was decoded, but cannot be used.
#[derive(Debug, Clone, PartialEq)]
pub struct Dead {
    /// Where it came from.
    pub position: Position,
    /// Short stable code.
    pub reason: &'static str,
    /// What is wrong, with the values.
    pub detail: String,
}

/// Changes of [`Counts`] since the last commit, by partition. `records` is not part of it: the source counts them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    partitions: Vec<(i32, Change)>,
    last: usize,
}

/// Changes of one partition's counts; readings that waited leave `pending` again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    accepted: u64,
    corrected: u64,
    duplicate: u64,
    dead: u64,
    pending: i64,
    late: u64,
    newest_ms: Option<i64>,
}

impl Tally {
    fn of(&mut self, partition: i32) -> &mut Change {
        if self.partitions.get(self.last).is_none_or(|(known, _)| *known != partition) {
            self.last = match self.partitions.iter().position(|(known, _)| *known == partition) {
                Some(index) => index,
                None => {
                    self.partitions.push((partition, Change::default()));
                    self.partitions.len() - 1
                }
            };
        }
        &mut self.partitions[self.last].1
    }

    /// Counts one reading; `late` if the watermark had passed its interval.
    pub fn count(&mut self, reading: &PendingReading, outcome: Outcome, late: bool) {
        let change = self.of(reading.position.partition);
        let stamp = Some(reading.position.timestamp_ms).filter(|stamp| *stamp >= 0);
        change.newest_ms = change.newest_ms.max(stamp);
        match outcome {
            Outcome::Accepted => change.accepted += 1,
            Outcome::Corrected => change.corrected += 1,
            Outcome::Duplicate => change.duplicate += 1,
            Outcome::Waits => change.pending += 1,
        }
        change.late += u64::from(late && matches!(outcome, Outcome::Accepted | Outcome::Corrected));
    }

    /// Counts a reading that cannot be used.
    pub fn dead(&mut self, partition: i32) {
        self.of(partition).dead += 1;
    }

    /// A reading waits no longer; its outcome is counted next.
    pub fn released(&mut self, reading: &PendingReading) {
        self.of(reading.position.partition).pending -= 1;
    }

    /// The changes by partition.
    pub fn changes(&self) -> impl Iterator<Item = (i32, Change)> + '_ {
        self.partitions.iter().copied()
    }
}

impl Change {
    /// Whether any reading of this epoch could be used. One that has waited was counted when it came.
    pub fn any_taken(self) -> bool {
        let taken = self.accepted + self.corrected + self.duplicate;
        taken.saturating_add_signed(self.pending) > 0
    }

    /// The newest time stamp among the records of the readings that could be used.
    pub fn newest_record(self) -> Option<Micros> {
        Some(self.newest_ms?.saturating_mul(1_000))
    }

    /// Adds the change to a partition's counts.
    pub fn apply(self, counts: &mut Counts) {
        counts.accepted += self.accepted;
        counts.corrected += self.corrected;
        counts.duplicate += self.duplicate;
        counts.dead += self.dead;
        counts.pending = counts.pending.saturating_add_signed(self.pending);
        counts.late += self.late;
    }
}
