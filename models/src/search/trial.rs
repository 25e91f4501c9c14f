//! Records of trials.

use serde::{Deserialize, Serialize};

use super::space::Configuration;

/// How a trial ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It ran to its end, with this loss: finite, smaller is better.
    Complete(f64),
    /// It was stopped because it did worse than others.
    Pruned,
    /// It could not be run, or gave no number, for this reason.
    Failed(String),
    /// Time was up while it ran. A search that goes on from here runs it again.
    Interrupted,
}

/// One tried configuration and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Number within the search, from 0.
    pub number: usize,
    /// What was tried.
    pub configuration: Configuration,
    /// Values reported on the way, as (step, value) in the order of reporting. Finite; smaller is better.
    pub intermediate: Vec<(u64, f64)>,
    /// How it ended.
    pub outcome: Outcome,
}

impl Trial {
    /// Loss of a trial that ran to its end.
    pub fn loss(&self) -> Option<f64> {
        match self.outcome {
            Outcome::Complete(loss) => Some(loss),
            _ => None,
        }
    }
}

/// What an objective is to do after a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Go on.
    Continue,
    /// Return at once: the trial has ended, whatever comes of it.
    Prune,
}

impl Decision {
    /// For objectives that return with `?` when told to.
    ///
    /// # Errors
    /// [`Stop::Told`] for [`Decision::Prune`].
    pub fn go_on(self) -> Result<(), Stop> {
        match self {
            Decision::Continue => Ok(()),
            Decision::Prune => Err(Stop::Told),
        }
    }
}

/// Why an objective returns without a loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// A report was answered with [`Decision::Prune`].
    Told,
    /// It failed, for this reason. The configuration counts among the bad ones.
    Failed(String),
}
