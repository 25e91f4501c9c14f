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
    /// Records of one epoch, read by all processes: all become rows of process 0.
    pub records: u64,
    /// Of them, those that one process may read.
    pub share: u64,
    /// Payload that the client library fetches ahead for one worker, in KiB.
    pub queue_kib: usize,
    /// Of one shard.
    pub shard: Budget,
}

impl Bounds {
    /// The limits of one process of a stream with these workers.
    pub fn of(config: &IngestConfig, crew: Crew) -> Bounds {
        let (workers, processes) = (crew.threads.max(1) as u64, crew.processes.max(1) as u64);
        let eighth = config.memory_limit.bytes() / 8;
        let share = |eighths: u64| usize::try_from(eighth * eighths / workers).unwrap_or(usize::MAX);
        let queue_kib = (eighth / 1024 / QUEUE_FACTOR / workers).clamp(QUEUE_KIB_MIN, QUEUE_KIB_MAX);
        let records = config.commit_records.min(2 * eighth / RECORD_BYTES).max(RECORDS_MIN);
        // Readings are not shared out evenly.
        let rows = usize::try_from(records / (workers * processes) * 3 / 2).unwrap_or(usize::MAX);
        let shard = Budget { series: share(3), intervals: share(2), rows };
        Bounds { records, share: (records / processes).max(1), queue_kib: queue_kib as usize, shard }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_memory_means_smaller_epochs_and_a_shorter_memory() {
        let within = |limit: &str, crew: Crew| {
            Bounds::of(&IngestConfig { memory_limit: limit.parse().unwrap(), ..Default::default() }, crew)
        };
        let of = |limit: &str| within(limit, Crew::alone(2));
        let (ample, scarce) = (of("2 GiB"), of("256 MiB"));
        assert_eq!((ample.records, scarce.records), (1_342_177, 167_772));
        assert_eq!((ample.queue_kib, scarce.queue_kib), (16 * 1024, 2048));
        assert_eq!((ample.shard.intervals, scarce.shard.intervals), (256 << 20, 32 << 20));
        assert_eq!(ample.shard.rows, 1_006_632);
        assert_eq!(of("1 KiB").records, RECORDS_MIN);
        // What all processes read goes into the memory of one.
        let one_of_four = within("256 MiB", Crew { process: 1, processes: 4, threads: 2 });
        assert_eq!((scarce.share, one_of_four.records, one_of_four.share), (167_772, 167_772, 41_943));
        assert_eq!((scarce.shard.rows, one_of_four.shard.rows), (125_829, 31_456));
        assert_eq!(one_of_four.shard.intervals, scarce.shard.intervals);
    }
}
