//! How a limit of memory is shared out. Pure.
//!
//! | share | for |
//! | --- | --- |
//! | 3/8 | what series are (beyond it new ones are refused) |
//! | 2/8 | the intervals that they remember (the more series, the fewer each; the lake has the rest) |
//! | 2/8 | two epochs: the rows of the one that is being committed, with its files, and those of the open one |
//! | 1/8 | the client library's queues, and everything else |

use meterline_schemas::config::IngestConfig;

use super::crew::Crew;
use super::shard::Budget;

/// Bytes that a record of an epoch takes, with what becomes of it: rows of both epochs, readings between workers, places,
/// encoded columns.
const RECORD_BYTES: u64 = 400;
/// What the client library needs for one byte of payload: small records take several times as much in memory.
const QUEUE_FACTOR: u64 = 8;
/// Kibibytes below which a consumer would starve.
const QUEUE_KIB_MIN: u64 = 1024;
/// And above which it gains nothing.
const QUEUE_KIB_MAX: u64 = 16 * 1024;
/// Records below which commits cost more than what they carry.
const RECORDS_MIN: u64 = 10_000;

/// Limits that follow from `ingest.memory_limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Records of one epoch.
    pub records: u64,
    /// Payload that the client library fetches ahead for one worker, in KiB.
    pub queue_kib: usize,
    /// Of one shard.
    pub shard: Budget,
}

impl Bounds {
    /// The limits of a stream with so many workers.
    pub fn of(config: &IngestConfig, workers: usize) -> Bounds {
        let workers = workers.max(1) as u64;
        let eighth = config.memory_limit.bytes() / 8;
        let share = |eighths: u64| usize::try_from(eighth * eighths / workers).unwrap_or(usize::MAX);
        let queue_kib = (eighth / 1024 / QUEUE_FACTOR / workers).clamp(QUEUE_KIB_MIN, QUEUE_KIB_MAX);
        let records = config.commit_records.min(2 * eighth / RECORD_BYTES).max(RECORDS_MIN);
        // Readings are not shared out evenly.
        let rows = usize::try_from(records / workers * 3 / 2).unwrap_or(usize::MAX);
        Bounds { records, queue_kib: queue_kib as usize, shard: Budget { series: share(3), intervals: share(2), rows } }
    }

    /// Records of one epoch that one process may read: all of them become rows of process 0.
    pub fn records_of(&self, crew: Crew) -> u64 {
        (self.records / crew.processes.max(1) as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_memory_means_smaller_epochs_and_a_shorter_memory() {
        let of =
            |limit: &str| Bounds::of(&IngestConfig { memory_limit: limit.parse().unwrap(), ..Default::default() }, 2);
        let (ample, scarce) = (of("2 GiB"), of("256 MiB"));
        assert_eq!((ample.records, scarce.records), (1_342_177, 167_772));
        assert_eq!((ample.queue_kib, scarce.queue_kib), (16 * 1024, 2048));
        assert_eq!((ample.shard.intervals, scarce.shard.intervals), (256 << 20, 32 << 20));
        assert_eq!(ample.shard.rows, 1_006_632);
        assert_eq!(of("1 KiB").records, RECORDS_MIN);
        // What all processes read goes into the memory of one.
        let crew = Crew { process: 1, processes: 4, threads: 2 };
        assert_eq!((scarce.records_of(crew), scarce.records_of(Crew::alone(8))), (167_772 / 4, 167_772));
    }
}
