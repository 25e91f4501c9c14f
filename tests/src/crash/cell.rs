//! What the matrix is made of.

use std::fmt;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// Where the lake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// A directory.
    Local,
    /// A bucket, behind a proxy.
    S3,
}

impl Store {
    /// All of them.
    pub const ALL: [Store; 2] = [Store::Local, Store::S3];

    fn name(self) -> &'static str {
        match self {
            Store::Local => "local",
            Store::S3 => "s3",
        }
    }
}

/// One write of a commit or of housekeeping, or files that housekeeping deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A data file of `intervals`.
    IntervalFile,
    /// A data file of `samples`.
    SampleFile,
    /// A data file of `dead_letters`.
    DeadLetterFile,
    /// The states of the series that changed.
    Segment,
    /// The states of series that leave memory.
    EvictedFile,
    /// What roll-ups remember of the series that changed.
    MembersFile,
    /// The labels that hold from the next commit on: those that records of the epoch said.
    SaidFile,
    /// The state.
    State,
    /// The log entry of `intervals`: the commit itself.
    Commit,
    /// The log entry of `samples`.
    SampleCommit,
    /// The log entry of `dead_letters`.
    DeadLetterCommit,
    /// A checkpoint of the log of `intervals`.
    Checkpoint,
    /// A data file of `intervals` with rows that lost to revisions: a fold makes it, and never a commit.
    FoldedFile,
    /// The log entry of `intervals` by which files take the place of others.
    Rewrite,
    /// Entries of the log of `intervals` before an old checkpoint, which are deleted.
    ExpiredLog,
    /// Data files of `intervals` that nobody names, which are deleted.
    LeftOver,
}

/// What a step writes or deletes, below the lake.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Folders from the lake on; one that ends in `*` stands for all that begin so.
    pub folders: &'static [&'static str],
    /// How the file's name begins.
    pub begins: &'static str,
    /// How it ends.
    pub ends: &'static str,
    /// What it holds, and other files of such a name do not.
    pub holds: &'static str,
}

/// What the requests of a step to a store have in common, with `*` for anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requests {
    /// Their method.
    pub method: &'static str,
    /// Of their paths.
    pub path: String,
    /// Of their bodies.
    pub body: String,
}

impl Step {
    /// Those of a commit, in its order.
    pub const OF_COMMIT: [Step; 12] = [
        Step::IntervalFile,
        Step::SampleFile,
        Step::DeadLetterFile,
        Step::Segment,
        Step::EvictedFile,
        Step::MembersFile,
        Step::SaidFile,
        Step::State,
        Step::Commit,
        Step::SampleCommit,
        Step::DeadLetterCommit,
        Step::Checkpoint,
    ];

    /// Those of a round of housekeeping, in its order.
    pub const OF_HOUSEKEEPING: [Step; 4] = [Step::FoldedFile, Step::Rewrite, Step::ExpiredLog, Step::LeftOver];

    fn name(self) -> &'static str {
        match self {
            Step::IntervalFile => "interval-file",
            Step::SampleFile => "sample-file",
            Step::DeadLetterFile => "dead-letter-file",
            Step::Segment => "segment",
            Step::EvictedFile => "evicted-file",
            Step::MembersFile => "members-file",
            Step::SaidFile => "said-file",
            Step::State => "state",
            Step::Commit => "commit",
            Step::SampleCommit => "sample-commit",
            Step::DeadLetterCommit => "dead-letter-commit",
            Step::Checkpoint => "checkpoint",
            Step::FoldedFile => "folded-file",
            Step::Rewrite => "rewrite",
            Step::ExpiredLog => "expired-log",
            Step::LeftOver => "left-over",
        }
    }

    /// Its files.
    pub fn place(self) -> Place {
        let (folders, begins, ends): (&'static [&'static str], _, _) = match self {
            Step::IntervalFile => (&["intervals", "month*", "layer*"], "", ".parquet"),
            Step::SampleFile => (&["samples", "month*"], "", ".parquet"),
            // Data files are named by their time, as of 2026 and long after with a 0 in front.
            Step::DeadLetterFile => (&["dead_letters"], "0", ".parquet"),
            Step::Segment => (&["state"], "series-", ".zst"),
            Step::EvictedFile => (&["state"], "evicted-", ".zst"),
            Step::MembersFile => (&["state"], "members-", ".zst"),
            Step::SaidFile => (&["state"], "said-", ".zst"),
            Step::State => (&["state"], "ingest-", ".zst"),
            Step::Commit => (&["intervals", "_delta_log"], "", ".json"),
            Step::SampleCommit => (&["samples", "_delta_log"], "", ".json"),
            Step::DeadLetterCommit => (&["dead_letters", "_delta_log"], "", ".json"),
            Step::Checkpoint => (&["intervals", "_delta_log"], "", ".checkpoint.parquet"),
            Step::FoldedFile => (&["intervals", "month*", "layer=old"], "", ".parquet"),
            Step::Rewrite | Step::ExpiredLog => (&["intervals", "_delta_log"], "", ".json"),
            Step::LeftOver => (&["intervals", "month*", "layer*"], "left-over-", ".parquet"),
        };
        let holds = if self == Step::Rewrite { r#"{"remove":{"# } else { "" };
        Place { folders, begins, ends, holds }
    }

    /// Whether its files are deleted. All others are written.
    pub fn deletes(self) -> bool {
        matches!(self, Step::ExpiredLog | Step::LeftOver)
    }

    /// Whether it comes only where there is a roll-up.
    pub fn is_of_rollup(self) -> bool {
        matches!(self, Step::MembersFile | Step::SaidFile)
    }

    /// Whether it comes only once fifty commits are made.
    pub fn is_rare(self) -> bool {
        matches!(self, Step::Checkpoint | Step::ExpiredLog)
    }

    /// What is asked of a store.
    pub fn requests(self) -> Requests {
        let Place { folders, begins, ends, holds } = self.place();
        // In the path of a request this sign is encoded.
        let files = format!("/{}/{begins}*{ends}", folders.join("/")).replace('=', "*");
        match self.deletes() {
            true => Requests { method: "POST", path: "?delete".to_owned(), body: files },
            false => Requests { method: "PUT", path: files, body: holds.to_owned() },
        }
    }
}

/// When a step is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Nothing of it has happened.
    Before,
    /// It is under way. On S3 it lands after the process has died, at some time; nobody hears of it.
    During,
    /// It has happened, and nobody has heard of it yet.
    After,
}

impl Moment {
    /// Those of a step that can be told apart. On a directory, before a step is after the one before, and files are
    /// deleted faster than anybody could see which was the last.
    pub fn of(step: Step, store: Store) -> &'static [Moment] {
        match store {
            Store::Local if step.deletes() => &[Moment::During],
            Store::Local => &[Moment::During, Moment::After],
            Store::S3 => &[Moment::Before, Moment::During, Moment::After],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Moment::Before => "before",
            Moment::During => "during",
            Moment::After => "after",
        }
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL at a step of a commit or of housekeeping.
    KillAt(Step, Moment),
    /// SIGKILL at random times, one after the other, also while it starts.
    KillAtRandom {
        /// How many.
        kills: u32,
    },
    /// The broker is stopped in good order and started again.
    BrokerRestart,
    /// The broker gets a SIGKILL, and is started again after a while.
    BrokerPowerCut,
    /// The broker stands still for longer than the session's time-out.
    BrokerPause,
    /// The store answers with errors for a while.
    StoreErrors,
    /// What the store has done is not heard of, for a while.
    LostAnswers,
    /// The store gets a SIGKILL, and is started again after a while.
    StorePowerCut,
    /// Writing takes long: requests are held back; on a directory the whole process stands still again and again.
    SlowDisk,
    /// The disk has no space left for a while.
    FullDisk,
    /// The clock jumps ahead and back, and the engine is killed meanwhile.
    ClockJump,
    /// The engine stands still, a second one takes over, and the first one wakes up.
    Takeover,
}

impl Fault {
    /// All faults but kills at steps.
    const OTHERS: [Fault; 11] = [
        Fault::KillAtRandom { kills: RANDOM_KILLS },
        Fault::BrokerRestart,
        Fault::BrokerPowerCut,
        Fault::BrokerPause,
        Fault::StoreErrors,
        Fault::LostAnswers,
        Fault::StorePowerCut,
        Fault::SlowDisk,
        Fault::FullDisk,
        Fault::ClockJump,
        Fault::Takeover,
    ];

    /// Whether it can happen to such a store.
    fn concerns(self, store: Store) -> bool {
        match self {
            Fault::StoreErrors | Fault::LostAnswers | Fault::StorePowerCut => store == Store::S3,
            Fault::FullDisk => store == Store::Local,
            _ => true,
        }
    }

    /// Its name, without the step.
    pub fn name(self) -> &'static str {
        match self {
            Fault::KillAt(..) => "kill-at",
            Fault::KillAtRandom { .. } => "kill-at-random",
            Fault::BrokerRestart => "broker-restart",
            Fault::BrokerPowerCut => "broker-power-cut",
            Fault::BrokerPause => "broker-pause",
            Fault::StoreErrors => "store-errors",
            Fault::LostAnswers => "lost-answers",
            Fault::StorePowerCut => "store-power-cut",
            Fault::SlowDisk => "slow-disk",
            Fault::FullDisk => "full-disk",
            Fault::ClockJump => "clock-jump",
            Fault::Takeover => "takeover",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Fault::KillAt(step, moment) => write!(f, "/{}/{}", step.name(), moment.name()),
            _ => Ok(()),
        }
    }
}

/// SIGKILLs of one run; eight cells of the whole matrix make at least fifty.
const RANDOM_KILLS: u32 = 9;
/// Workers of each process, and processes.
const SIZES: [(usize, usize); 4] = [(1, 1), (2, 1), (4, 1), (2, 2)];

/// One run of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// What goes wrong.
    pub fault: Fault,
    /// Where the lake is.
    pub store: Store,
    /// Timely workers of each process, as `ingest.workers`.
    pub workers: usize,
    /// Processes that are one engine.
    pub processes: usize,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/w{}/p{}", self.fault, self.store.name(), self.workers, self.processes)
    }
}

impl Cell {
    /// The seed of its run in a matrix of such a seed: no other cell has it, and no filter or order changes it.
    pub fn seed(&self, matrix: u64) -> u64 {
        // FNV-1a.
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        self.to_string().bytes().chain(matrix.to_le_bytes()).fold(0xCBF2_9CE4_8422_2325, step)
    }
}

/// Every fault with every store and number of workers and processes, shuffled: a part of the matrix is a part of
/// everything. (Two processes cannot be taken over by two others at the same addresses; how one of them wakes up late
/// is a test of its own.)
pub fn matrix(seed: u64) -> Vec<Cell> {
    let mut cells = Vec::new();
    for store in Store::ALL {
        let kills = Step::OF_COMMIT
            .into_iter()
            .chain(Step::OF_HOUSEKEEPING)
            .flat_map(|step| Moment::of(step, store).iter().map(move |moment| Fault::KillAt(step, *moment)));
        let others = Fault::OTHERS.into_iter().filter(|fault| fault.concerns(store));
        for fault in kills.chain(others) {
            let cells_of = SIZES.map(|(workers, processes)| Cell { fault, store, workers, processes });
            cells.extend(cells_of.into_iter().filter(|cell| cell.processes == 1 || fault != Fault::Takeover));
        }
    }
    cells.shuffle(&mut StdRng::seed_from_u64(seed));
    cells
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_cell_has_a_name_and_a_seed_of_its_own_and_random_kills_are_fifty() {
        let cells = matrix(3);
        let names: BTreeSet<String> = cells.iter().map(Cell::to_string).collect();
        let seeds: BTreeSet<u64> = cells.iter().map(|cell| cell.seed(7)).collect();
        assert_eq!((names.len(), seeds.len()), (cells.len(), cells.len()));
        // As many as bench/README.md says.
        assert_eq!(cells.len(), 382);
        for name in [
            "kill-at/commit/during/s3/w4/p1",
            "kill-at/rewrite/after/local/w2/p2",
            "kill-at/left-over/before/s3/w1/p1",
            "kill-at/members-file/before/s3/w2/p2",
            "kill-at/said-file/during/local/w2/p1",
            "full-disk/local/w1/p1",
        ] {
            assert!(names.contains(name), "{name}");
        }
        assert!(!names.iter().any(|name| name.starts_with("kill-at/expired-log/after/local")));
        let kills = cells.iter().map(|cell| match cell.fault {
            Fault::KillAtRandom { kills } => kills,
            _ => 0,
        });
        assert!(kills.sum::<u32>() >= 50);
    }

    #[test]
    fn what_is_written_is_in_the_path_of_a_request_and_what_is_deleted_in_its_body() {
        let requests = |step: Step| {
            let Requests { method, path, body } = step.requests();
            (method, path, body)
        };
        let of = |method, path: &str, body: &str| (method, path.to_owned(), body.to_owned());
        assert_eq!(requests(Step::Commit), of("PUT", "/intervals/_delta_log/*.json", ""));
        assert_eq!(requests(Step::Rewrite), of("PUT", "/intervals/_delta_log/*.json", r#"{"remove":{"#));
        assert_eq!(requests(Step::FoldedFile), of("PUT", "/intervals/month*/layer*old/*.parquet", ""));
        assert_eq!(requests(Step::ExpiredLog), of("POST", "?delete", "/intervals/_delta_log/*.json"));
    }
}
