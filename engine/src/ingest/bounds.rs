//! How a limit of memory is shared out. Pure.
//!
//! | share | for |
//! | --- | --- |
//! | 3/8 | what series are (beyond it those that had no reading for longest leave memory) |
//! | 2/8 | the intervals that they remember (the more series, the fewer each; the lake has the rest) |
//! | 2/8 | two epochs: the rows of the one that is being committed, with its files, and those of the open one |
//! | 1/8 | everything else |
//!
//! Of the last eighth, half is for what cannot be used of two epochs, and a quarter for what is looked up at a time.
//! The client library's queues may fill all of it where the limit is low, and then these parts together go beyond it.
//!
//! Roll-ups have parts of these:
//!
//! | part | for |
//! | --- | --- |
//! | of the 3/8 | what they know of series, and what groups are: that stays, and leaves less for series themselves |
//! | half of the first 2/8 | the intervals that groups remember (the more, the fewer each; the lake has the rest) |
//! | of the second 2/8 | what they make of an epoch: it counts for each record ([`weight`]), so epochs are smaller |

use meterline_schemas::config::Config;

use super::crew::Crew;
use super::rollup::weight;
use super::shard::Budget;

/// Bytes that a record of an epoch takes, with what becomes of it: rows of both epochs, readings between workers,
/// places, encoded columns. What it takes in roll-ups comes on top.
const RECORD_BYTES: u64 = 400;
/// What the client library needs for one byte of payload: small records take several times as much in memory.
const QUEUE_FACTOR: u64 = 8;
/// Kibibytes below which a consumer would starve.
const QUEUE_KIB_MIN: u64 = 1024;
/// And above which it gains nothing.
const QUEUE_KIB_MAX: u64 = 16 * 1024;
/// Bytes of a reading that cannot be used: what is wrong, as a text, and its place in a dead letter.
const REFUSED_BYTES: u64 = 512;
/// Bytes of dead letters below which commits cost more than what they carry.
const DEAD_BYTES_MIN: u64 = 256 << 10;
/// Bytes of what is looked up at a time below which an epoch would take too many lookups.
const LOOKUP_BYTES_MIN: u64 = 64 << 10;
/// Records below which commits cost more than what they carry.
pub(super) const RECORDS_MIN: u64 = 10_000;

/// Limits that follow from `ingest.memory_limit`. Where a least is said of something, that is taken however low the
/// limit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Records of one epoch, read by all processes: all become rows of process 0.
    pub records: u64,
    /// Of them, those that one process may read.
    pub share: u64,
    /// Payload that the client library fetches ahead for one worker, in KiB.
    pub queue_kib: usize,
    /// Bytes of records that cannot be decoded, in one epoch of one worker; with more it is full.
    pub dead_bytes: usize,
    /// Decoded readings that cannot be used, in one epoch of one shard; with more it is full.
    pub refused: usize,
    /// What one shard may keep in memory.
    pub shard: Budget,
}

impl Bounds {
    /// The limits of one process of a stream with these workers.
    pub fn of(config: &Config, crew: Crew) -> Bounds {
        let (config, rollups) = (&config.ingest, &config.rollup);
        let (workers, processes) = (crew.threads.max(1) as u64, crew.processes.max(1) as u64);
        let eighth = config.memory_limit.bytes() / 8;
        let queue_kib = (eighth / 1024 / QUEUE_FACTOR / workers).clamp(QUEUE_KIB_MIN, QUEUE_KIB_MAX);
        let record_bytes = RECORD_BYTES + weight::of_reading(rollups);
        let records = config.commit_records.min(2 * eighth / record_bytes).max(RECORDS_MIN);
        let of_groups = if rollups.is_empty() { 0 } else { eighth };
        // An eighth of the eighth for each kind and each of the two epochs: half of it in all. All of it goes to
        // process 0.
        let dead_bytes = (eighth / 8 / (workers * processes)).max(DEAD_BYTES_MIN);
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        // Readings are not shared out evenly.
        let rows = size(records / (workers * processes) * 3 / 2);
        Bounds {
            records,
            share: (records / processes).max(1),
            queue_kib: size(queue_kib),
            dead_bytes: size(dead_bytes),
            refused: size(dead_bytes / REFUSED_BYTES),
            shard: Budget {
                series: size(3 * eighth / workers),
                intervals: size((2 * eighth - of_groups) / workers),
                groups: size(of_groups / workers),
                lookup: size((eighth / 4 / workers).max(LOOKUP_BYTES_MIN)),
                rows,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use meterline_schemas::config::RollupConfig;

    use super::*;

    fn config(limit: &str) -> Config {
        let mut config = Config::default();
        config.ingest.memory_limit = limit.parse().unwrap();
        config
    }

    #[test]
    fn less_memory_means_smaller_epochs_and_a_shorter_memory() {
        let within = |limit: &str, crew: Crew| Bounds::of(&config(limit), crew);
        let of = |limit: &str| within(limit, Crew::alone(2));
        let (ample, scarce) = (of("2 GiB"), of("256 MiB"));
        assert_eq!((ample.records, scarce.records), (1_342_177, 167_772));
        assert_eq!((ample.queue_kib, scarce.queue_kib), (16 * 1024, 2048));
        assert_eq!((ample.shard.intervals, scarce.shard.intervals), (256 << 20, 32 << 20));
        assert_eq!((ample.shard.groups, scarce.shard.groups), (0, 0));
        assert_eq!((ample.shard.lookup, scarce.shard.lookup), (32 << 20, 4 << 20));
        assert_eq!(ample.shard.rows, 1_006_632);
        assert_eq!((ample.dead_bytes, scarce.dead_bytes), (16 << 20, 2 << 20));
        assert_eq!((ample.refused, scarce.refused), (32_768, 4_096));
        let least = of("1 KiB");
        assert_eq!((least.records, least.dead_bytes, least.refused), (RECORDS_MIN, 256 << 10, 512));
        // What all processes read goes into the memory of one.
        let one_of_four = within("256 MiB", Crew { process: 1, processes: 4, threads: 2 });
        assert_eq!((scarce.share, one_of_four.records, one_of_four.share), (167_772, 167_772, 41_943));
        assert_eq!((scarce.shard.rows, one_of_four.shard.rows), (125_829, 31_456));
        assert_eq!((one_of_four.shard.intervals, one_of_four.dead_bytes), (scarce.shard.intervals, 512 << 10));
    }

    #[test]
    fn roll_ups_have_half_of_what_is_remembered_and_a_part_of_each_record() {
        let levels: [&[&str]; 3] = [&["region"], &["region", "feeder"], &["region", "feeder", "site"]];
        for (limit, by) in ["64 MiB", "256 MiB", "2 GiB"].into_iter().flat_map(|limit| levels.map(|by| (limit, by))) {
            let mut rolled_up = config(limit);
            rolled_up.rollup.insert("grid".into(), RollupConfig::new(by));
            let [without, with] = [config(limit), rolled_up.clone()].map(|config| Bounds::of(&config, Crew::alone(2)));
            let shares = (with.shard.intervals, with.shard.groups, with.shard.series);
            let half = without.shard.intervals / 2;
            assert_eq!(shares, (half, half, without.shard.series), "{limit} {by:?}");
            let limit_bytes = rolled_up.ingest.memory_limit.bytes();
            let each = RECORD_BYTES + weight::of_reading(&rolled_up.rollup);
            assert_eq!(with.records, (limit_bytes / 4 / each).max(RECORDS_MIN), "{limit} {by:?}");
            assert!(with.records < without.records && with.shard.rows < without.shard.rows, "{limit} {by:?}");
            // What a reading takes elsewhere is as it was.
            let rest = |bounds: &Bounds| (bounds.queue_kib, bounds.dead_bytes, bounds.refused, bounds.shard.lookup);
            assert_eq!(rest(&with), rest(&without), "{limit} {by:?}");
        }
    }
}
