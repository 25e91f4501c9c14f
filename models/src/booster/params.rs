//! What to learn, and how.

use serde::{Deserialize, Serialize};

use super::bins::BINS_MAX;
use super::error::BoosterError;

/// What the booster predicts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Conditional quantiles at these levels, one output each, by the pinball loss (Koenker and Bassett 1978). The
    /// levels ascend strictly within (0, 1).
    Quantiles(Vec<f64>),
    /// The conditional mean, one output, by the squared error.
    Squared,
}

impl Objective {
    /// Outputs per row.
    pub fn outputs(&self) -> usize {
        match self {
            Objective::Quantiles(levels) => levels.len(),
            Objective::Squared => 1,
        }
    }

    pub(super) fn check(&self) -> Result<(), BoosterError> {
        let Objective::Quantiles(levels) = self else { return Ok(()) };
        let within = levels.iter().all(|level| *level > 0.0 && *level < 1.0);
        let ascending = levels.windows(2).all(|pair| pair[0] < pair[1]);
        if levels.is_empty() || !within || !ascending {
            return Err(BoosterError::Levels { levels: levels.clone() });
        }
        Ok(())
    }
}

/// How the booster learns. The defaults are the usual ones of such learners; nothing was chosen on real data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Trees at most.
    pub rounds: usize,
    /// Share of each leaf's value that is added, in (0, 1] (shrinkage: Friedman 2001).
    pub learning_rate: f64,
    /// Leaves of a tree at most.
    pub leaves_max: usize,
    /// Rows of a leaf at least.
    pub leaf_rows_min: usize,
    /// Rows of residual zero that are added to each leaf, so to speak: a leaf of n rows gets n / (n + this) of its
    /// value, and gains are computed alike.
    pub leaf_l2: f64,
    /// A split whose gain is not larger than this is not made. In units of the squared gradients' sum per row.
    pub gain_min: f64,
    /// Bins per feature at most, without the one for missing values; 2 to 255.
    pub bins_max: usize,
    /// Share of the features that a tree may use, in (0, 1].
    pub feature_fraction: f64,
    /// Share of the row groups that a tree's splits are found with, in (0, 1].
    pub bagging_fraction: f64,
    /// Takes leaf values from the rows that were not drawn for the splits, so that no leaf is fitted to rows it was
    /// made for (honest trees: Athey and Imbens 2016). Intervals become wider; it helps where histories are short and
    /// rows alike. Needs a bagging fraction below 1, and groups where rows depend on each other.
    pub honest: bool,
    /// Rounds without a better validation loss after which training stops. The booster keeps the trees up to the best
    /// round. Without validation rows it means nothing.
    pub patience: Option<usize>,
    /// Of the choice of features and rows.
    pub seed: u64,
}

impl Default for Params {
    fn default() -> Params {
        Params {
            rounds: 300,
            learning_rate: 0.1,
            leaves_max: 31,
            leaf_rows_min: 20,
            leaf_l2: 1.0,
            gain_min: 0.0,
            bins_max: BINS_MAX,
            feature_fraction: 1.0,
            bagging_fraction: 1.0,
            honest: false,
            patience: None,
            seed: 0,
        }
    }
}

impl Params {
    pub(super) fn check(&self) -> Result<(), BoosterError> {
        let share = |value: f64| value > 0.0 && value <= 1.0;
        let amount = |value: f64| value >= 0.0 && value.is_finite();
        for (name, value, valid, allowed) in [
            ("learning_rate", self.learning_rate, share(self.learning_rate), "(0, 1]"),
            ("leaves_max", self.leaves_max as f64, (2..=LEAVES_MAX).contains(&self.leaves_max), "2 to 65536"),
            ("leaf_rows_min", self.leaf_rows_min as f64, self.leaf_rows_min >= 1, "at least 1"),
            ("leaf_l2", self.leaf_l2, amount(self.leaf_l2), "at least 0"),
            ("gain_min", self.gain_min, amount(self.gain_min), "at least 0"),
            ("bins_max", self.bins_max as f64, (2..=BINS_MAX).contains(&self.bins_max), "2 to 255"),
            ("feature_fraction", self.feature_fraction, share(self.feature_fraction), "(0, 1]"),
            ("bagging_fraction", self.bagging_fraction, share(self.bagging_fraction), "(0, 1]"),
            (
                "bagging_fraction",
                self.bagging_fraction,
                !self.honest || self.bagging_fraction < 1.0,
                "(0, 1), if honest",
            ),
        ] {
            if !valid {
                return Err(BoosterError::Parameter { name, value, allowed });
            }
        }
        Ok(())
    }
}

/// A row's leaf is kept in a u16.
const LEAVES_MAX: usize = 1 << 16;
