//! What processes tell each other over a link.

use meterline_schemas::Micros;
use serde::{Deserialize, Serialize};

use super::super::control::Places;
use super::super::dataflow::Event;
use super::super::discovery::{Command, GivenBack};
use super::super::recall::Recalled;
use super::super::rollup::lake::{GroupRow, SeriesRow};
use super::handshake::Session;

/// What a process tells process 0.
#[derive(Debug, Serialize, Deserialize)]
pub enum Up {
    /// For the coordinator; never that the stream cannot go on, which is [`Up::Failed`].
    Event(Event),
    /// For discovery.
    GivenBack(GivenBack),
    /// How far the sources of the process are in the open epoch.
    Read(Read),
    /// It was asked to end.
    Stop,
    /// It cannot go on.
    Failed {
        /// Why.
        reason: String,
        /// Whether its configuration is at fault.
        usage: bool,
    },
}

/// How far the sources of a process are in an epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// The epoch.
    pub epoch: u64,
    /// Records read in it.
    pub records: u64,
    /// Whether offsets were passed in it that are no records.
    pub passed: bool,
    /// Whether it takes no more records.
    pub full: bool,
}

/// What process 0 tells another one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Down {
    /// All processes are there: what the stream begins with.
    Begin(Begin),
    /// An epoch is closed, and the next one is open.
    Open {
        /// The one that is closed.
        epoch: u64,
        /// Where its states go.
        places: Places,
        /// Whether sources stop reading.
        stopping: bool,
    },
    /// By number of the feed.
    Watermarks(Vec<(usize, Micros)>),
    /// From discovery, for the reader of a worker.
    Command {
        /// The worker.
        worker: usize,
        /// What it is to do.
        command: Command,
    },
    /// What was looked up for the shard of a worker.
    Recalled {
        /// The worker.
        worker: usize,
        /// What was found.
        found: Recalled,
    },
    /// What was looked up for the series of a worker that take part in roll-ups.
    SeriesRows {
        /// The worker.
        worker: usize,
        /// What was found.
        rows: Vec<SeriesRow>,
    },
    /// What was looked up for the groups of a worker.
    GroupRows {
        /// The worker.
        worker: usize,
        /// What was found.
        rows: Vec<GroupRow>,
    },
    /// Everything is committed: the process is to end.
    End,
    /// The stream cannot go on.
    Failed(String),
}

/// What the stream begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// Number of this start.
    pub session: Session,
    /// Where the lake of process 0 is.
    pub lake: String,
    /// Fence of the writer.
    pub fence: i64,
    /// State of the last commit, as its file has it.
    pub state: Vec<u8>,
}
