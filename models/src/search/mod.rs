//! Search for good hyper-parameters within a budget.
//!
//! * [`Space`]: what can be chosen, and what depends on what;
//! * [`minimise`]: proposes configurations, runs the objective on each, and records every [`Trial`];
//! * [`Pruning`]: ends trials early that do worse than others.
//!
//! A search is a function of its space, settings and recorded trials: trial k is proposed from the seed, k and the
//! trials before it, so a search that is resumed from its records goes on as if it had never stopped.
//!
//! The method is the tree-structured Parzen estimator (Bergstra et al. 2011) after a Latin hypercube of first trials.
//! It is written here and not taken from the crate `optimizer` (1.0.1 read), whose records could not be trusted with
//! this: it recognises a parameter in past trials by its *range*, so that two parameters of one range are taken for
//! each other; its parameters are numbered by a process-wide counter, so that records mean something else in the next
//! process; its random numbers depend on how many were drawn before, so that a resumed search takes another course; and
//! its densities have no prior and a bandwidth of 1 where good trials agree, whatever the range.

mod parzen;
mod proposal;
mod pruning;
mod space;
#[cfg(test)]
mod tests;
mod trial;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use meterline_schemas::settings::Value;
pub use pruning::Pruning;
pub use space::{Condition, Configuration, Domain, Parameter, Scale, Space, SpaceError};
pub use trial::{Decision, Outcome, Stop, Trial};

/// How to search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Trials in all, recorded ones included.
    pub trials_max: usize,
    /// Trials spread evenly over the space before any is proposed from what is known.
    pub startup_trials: usize,
    /// Candidates that a proposal is chosen from, a parameter.
    pub candidates: usize,
    /// Seed of everything that is random.
    pub seed: u64,
    /// When trials end early.
    pub pruning: Pruning,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { trials_max: 50, startup_trials: 10, candidates: 24, seed: 0, pruning: Pruning::Never }
    }
}

/// Why a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// All trials were made.
    Trials,
    /// Time was up.
    Deadline,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Study {
    /// All trials in the order of their numbers.
    pub trials: Vec<Trial>,
    /// Why there are no more.
    pub ended: Ended,
}

impl Study {
    /// The complete trial of the least loss, the first among equals.
    pub fn best(&self) -> Option<&Trial> {
        let complete = self.trials.iter().filter_map(|trial| trial.loss().map(|loss| (trial, loss)));
        complete.reduce(|best, next| if next.1 < best.1 { next } else { best }).map(|(trial, _)| trial)
    }
}

/// Recorded trials that are not those of this search.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SearchError {
    /// A record that does not carry the number of its place.
    #[error("record {place} carries the number {number}; records must be complete and in order")]
    Number {
        /// Place among the records.
        place: usize,
        /// The number it carries.
        number: usize,
    },
    /// A record whose configuration is not one of the space.
    #[error("trial {number} is not of this space: {reason}; start a new search after changing the space")]
    Configuration {
        /// Its number.
        number: usize,
        /// What does not fit.
        reason: String,
    },
    /// A record with a number in it that is not finite.
    #[error("trial {number} has a loss or an intermediate value that is not finite")]
    NotFinite {
        /// Its number.
        number: usize,
    },
}

/// What is minimised: the loss of a configuration.
///
/// The second argument reports (step, value) on the way, with ascending steps; when it answers [`Decision::Prune`], the
/// objective returns at once. Shapes of loss and values are its own, but smaller must be better.
pub type Objective<'a> = dyn FnMut(&Configuration, &mut dyn FnMut(u64, f64) -> Decision) -> Result<f64, Stop> + 'a;

/// Tries configurations until there are `settings.trials_max` trials or `deadline` says that time is up.
///
/// `recorded` are the trials of the same search so far, none for a new one; those that were interrupted at its end are
/// run again. `on_trial` gets each new trial as soon as it has ended, to be kept; one of the same number as an
/// interrupted trial takes its place. `deadline` is asked before each trial and at each report; a trial under way is
/// then [`Outcome::Interrupted`]. A loss or a reported value that is not finite makes its trial [`Outcome::Failed`].
///
/// # Errors
/// When `recorded` are not trials of `space` in order. Trials that fail are recorded, and are no error of the search.
pub fn minimise(
    space: &Space,
    settings: &Settings,
    recorded: Vec<Trial>,
    deadline: &dyn Fn() -> bool,
    objective: &mut Objective<'_>,
    on_trial: &mut dyn FnMut(&Trial),
) -> Result<Study, SearchError> {
    let mut trials = recorded;
    check(space, &trials)?;
    while trials.last().is_some_and(|trial| trial.outcome == Outcome::Interrupted) {
        trials.pop();
    }
    while trials.len() < settings.trials_max {
        if deadline() {
            return Ok(Study { trials, ended: Ended::Deadline });
        }
        let configuration = proposal::propose(space, settings, &trials, trials.len());
        let (intermediate, outcome) = run(&configuration, settings.pruning, &trials, deadline, objective);
        let interrupted = outcome == Outcome::Interrupted;
        let trial = Trial { number: trials.len(), configuration, intermediate, outcome };
        on_trial(&trial);
        trials.push(trial);
        if interrupted {
            return Ok(Study { trials, ended: Ended::Deadline });
        }
    }
    Ok(Study { trials, ended: Ended::Trials })
}

/// Runs one trial.
fn run(
    configuration: &Configuration,
    pruning: Pruning,
    others: &[Trial],
    deadline: &dyn Fn() -> bool,
    objective: &mut Objective<'_>,
) -> (Vec<(u64, f64)>, Outcome) {
    let mut intermediate = Vec::new();
    // What the trial was told to end with; nothing that comes later changes that.
    let mut told: Option<Outcome> = None;
    let mut report = |step: u64, value: f64| {
        if told.is_some() {
            return Decision::Prune;
        }
        if !value.is_finite() {
            told = Some(Outcome::Failed(format!("the value at step {step} is {value}")));
            return Decision::Prune;
        }
        intermediate.push((step, value));
        if deadline() {
            told = Some(Outcome::Interrupted);
        } else if pruning.decide(others, &intermediate) == Decision::Prune {
            told = Some(Outcome::Pruned);
        }
        if told.is_some() { Decision::Prune } else { Decision::Continue }
    };
    let result = objective(configuration, &mut report);
    let outcome = match (told, result) {
        (Some(told), _) => told,
        (None, Ok(loss)) if loss.is_finite() => Outcome::Complete(loss),
        (None, Ok(loss)) => Outcome::Failed(format!("the loss is {loss}")),
        (None, Err(Stop::Failed(reason))) => Outcome::Failed(reason),
        (None, Err(Stop::Told)) => Outcome::Failed("it stopped although it was not told to".to_owned()),
    };
    (intermediate, outcome)
}

/// Fails unless `trials` are numbered in order, fit the space, and hold finite numbers.
fn check(space: &Space, trials: &[Trial]) -> Result<(), SearchError> {
    for (place, trial) in trials.iter().enumerate() {
        let number = trial.number;
        if number != place {
            return Err(SearchError::Number { place, number });
        }
        space.check(&trial.configuration).map_err(|reason| SearchError::Configuration { number, reason })?;
        let values = trial.intermediate.iter().map(|(_, value)| *value).chain(trial.loss());
        if values.into_iter().any(|value| !value.is_finite()) {
            return Err(SearchError::NotFinite { number });
        }
    }
    Ok(())
}
