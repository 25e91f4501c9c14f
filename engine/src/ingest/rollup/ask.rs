//! Lookups of workers, which the coordinator answers: nothing waits for them but the epoch that needs them.

use std::sync::mpsc::{self, Receiver};

use serde::{Deserialize, Serialize};

use super::super::outlet::Outlet;
use super::lake::{GroupRow, Recall, SeriesRow, Want};

/// What a worker asks for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Asked {
    /// The worker.
    pub worker: usize,
    /// The epoch that waits: rows are wanted as they were before it.
    pub epoch: u64,
    /// Whose rows.
    pub of: Of,
    /// Parts of series.
    pub wants: Vec<Want>,
}

/// Whose rows are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Of {
    /// Those of series that take part.
    Series,
    /// Those of groups.
    Groups,
}

/// Where one worker's answers go.
#[derive(Debug, Clone)]
pub struct Answers {
    /// Intervals of series.
    pub series: Outlet<Vec<SeriesRow>>,
    /// Intervals of groups.
    pub groups: Outlet<Vec<GroupRow>>,
}

/// Where one worker's answers come from.
#[derive(Debug)]
pub struct Answered {
    /// Intervals of series.
    pub series: Receiver<Vec<SeriesRow>>,
    /// Intervals of groups.
    pub groups: Receiver<Vec<GroupRow>>,
}

/// The two ends.
pub fn channels() -> (Answers, Answered) {
    let ((series, from_series), (groups, from_groups)) = (mpsc::channel(), mpsc::channel());
    (Answers { series: series.into(), groups: groups.into() }, Answered { series: from_series, groups: from_groups })
}

/// Asks one kind of rows.
pub struct Asking<Row, F> {
    /// Whom.
    pub ask: F,
    /// Where answers come from.
    pub answers: Receiver<Vec<Row>>,
}

impl<Row, F: FnMut(u64, Vec<Want>)> Recall<Row> for Asking<Row, F> {
    fn ask(&mut self, epoch: u64, wants: Vec<Want>) {
        (self.ask)(epoch, wants);
    }

    fn answer(&mut self, _: u64) -> Option<Vec<Row>> {
        // One question at a time: the answer is that to the last one.
        self.answers.try_recv().ok()
    }
}
