//! What training leaves: base values and trees.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::error::BoosterError;
use super::matrix::{Matrix, same_size};
use super::params::Objective;
use super::tree::Tree;

/// Rows that are predicted together: their features stay in the fast cache while every tree passes over them.
const ROWS: usize = 128;

/// A learned model. It can be stored by serde; what is read back is checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct Booster {
    objective: Objective,
    features: usize,
    names: Vec<String>,
    base: Vec<f32>,
    trees: Vec<Tree>,
    gains: Vec<f64>,
}

/// A booster as it is read, before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    objective: Objective,
    features: usize,
    names: Vec<String>,
    base: Vec<f32>,
    trees: Vec<Tree>,
    gains: Vec<f64>,
}

impl TryFrom<Stored> for Booster {
    type Error = BoosterError;

    fn try_from(stored: Stored) -> Result<Booster, BoosterError> {
        let Stored { objective, features, names, base, trees, gains } = stored;
        objective.check()?;
        same_size("base values", base.len(), objective.outputs())?;
        same_size("gains", gains.len(), features)?;
        if !names.is_empty() {
            same_size("feature names", names.len(), features)?;
        }
        if !base.iter().all(|value| value.is_finite()) {
            return Err(BoosterError::Damaged { what: "a base value is not finite" });
        }
        trees.iter().try_for_each(|tree| tree.check(features, objective.outputs()))?;
        Ok(Booster { objective, features, names, base, trees, gains })
    }
}

/// Why a row's prediction is what it is, for each of its outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Contributions {
    /// The expected prediction before any feature is known, and the row's offset: one an output.
    pub bias: Vec<f64>,
    /// Outputs × features: by how much the feature moved the output. With `bias` it sums to the prediction, but for
    /// rounding.
    pub features: Vec<Vec<f64>>,
}

impl Booster {
    pub(super) fn new(objective: Objective, x: &Matrix, base: Vec<f32>, trees: Vec<Tree>, gains: Vec<f64>) -> Booster {
        Booster { objective, features: x.features(), names: x.names().to_vec(), base, trees, gains }
    }

    /// What it predicts.
    pub fn objective(&self) -> &Objective {
        &self.objective
    }

    /// Names of the features that it learned with; empty when they had none.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Base values, one an output: what is predicted without any tree.
    pub fn base(&self) -> &[f32] {
        &self.base
    }

    /// Number of trees.
    pub fn trees(&self) -> usize {
        self.trees.len()
    }

    /// What the splits on each feature gained in training, summed (Breiman et al. 1984).
    pub fn gains(&self) -> &[f64] {
        &self.gains
    }

    /// Predictions, rows × outputs, row after row. Quantiles of a row are sorted (Chernozhukov et al. 2010), so they
    /// never cross. `offset` (rows × outputs) is added first; a booster that learned with offsets needs them.
    ///
    /// # Errors
    /// [`BoosterError::Size`] when the features or the offsets are not as many as learned with,
    /// [`BoosterError::NotFinite`] when an offset is not finite, [`BoosterError::Overflow`] when a prediction is not.
    pub fn predict(&self, x: &Matrix, offset: Option<&[f32]>) -> Result<Vec<f32>, BoosterError> {
        let mut predictions = self.start(x, offset)?;
        let outputs = self.base.len();
        predictions.par_chunks_mut(ROWS * outputs).enumerate().for_each(|(chunk, predictions)| {
            let features = self.rows_of(x, chunk * ROWS, predictions.len() / outputs);
            for tree in &self.trees {
                for (row, prediction) in predictions.chunks_exact_mut(outputs).enumerate() {
                    let leaf = tree.leaf(&features[row * self.features..][..self.features]);
                    prediction.iter_mut().zip(&tree.values[leaf * outputs..]).for_each(|(sum, value)| *sum += value);
                }
            }
            for prediction in predictions.chunks_exact_mut(outputs) {
                prediction.sort_unstable_by(f32::total_cmp);
            }
        });
        match predictions.iter().all(|prediction| prediction.is_finite()) {
            true => Ok(predictions),
            false => Err(BoosterError::Overflow { round: self.trees.len() }),
        }
    }

    /// What each feature contributed to each row's prediction: on a row's path through a tree every split changes the
    /// expected value, and the change is the split feature's (Saabas 2014). Outputs are in the order of
    /// [`Booster::predict`].
    ///
    /// # Errors
    /// As [`Booster::predict`].
    pub fn contributions(&self, x: &Matrix, offset: Option<&[f32]>) -> Result<Vec<Contributions>, BoosterError> {
        let starts = self.start(x, offset)?;
        let outputs = self.base.len();
        let means: Vec<Vec<f64>> = self.trees.par_iter().map(|tree| tree.node_means(outputs)).collect();
        let explain = |(row, start): (usize, &[f32])| {
            let features = self.rows_of(x, row, 1);
            let mut bias: Vec<f64> = start.iter().copied().map(f64::from).collect();
            let mut changes = vec![vec![0.0; self.features]; outputs];
            for (tree, means) in self.trees.iter().zip(&means) {
                bias.iter_mut().zip(means).for_each(|(sum, mean)| *sum += mean);
                tree.explain(&features, means, outputs, &mut |feature, output, change| {
                    changes[output][feature] += change;
                });
            }
            let mut rows: Vec<(f64, Vec<f64>)> = bias.into_iter().zip(changes).collect();
            let prediction = |(bias, changes): &(f64, Vec<f64>)| bias + changes.iter().sum::<f64>();
            rows.sort_by(|a, b| prediction(a).total_cmp(&prediction(b)));
            let (bias, features) = rows.into_iter().unzip();
            Contributions { bias, features }
        };
        Ok(starts.par_chunks(outputs).enumerate().map(explain).collect())
    }

    /// Offset and base values after a check of sizes, rows × outputs.
    fn start(&self, x: &Matrix, offset: Option<&[f32]>) -> Result<Vec<f32>, BoosterError> {
        same_size("features", x.features(), self.features)?;
        let outputs = self.base.len();
        let mut start = match offset {
            Some(offset) => {
                same_size("offsets", offset.len(), x.rows().saturating_mul(outputs))?;
                if let Some(i) = offset.iter().position(|o| !o.is_finite()) {
                    return Err(BoosterError::NotFinite { what: "offset", row: i / outputs });
                }
                offset.to_vec()
            }
            None => vec![0.0; x.rows() * outputs],
        };
        for row in start.chunks_exact_mut(outputs) {
            row.iter_mut().zip(&self.base).for_each(|(sum, value)| *sum += value);
        }
        Ok(start)
    }

    /// Features of `rows` rows from `first`, row after row; infinite values become finite, as in training.
    fn rows_of(&self, x: &Matrix, first: usize, rows: usize) -> Vec<f32> {
        let mut values = vec![f32::NAN; rows * self.features];
        for feature in 0..self.features {
            for (row, value) in x.column(feature)[first..].iter().take(rows).enumerate() {
                values[row * self.features + feature] = value.clamp(f32::MIN, f32::MAX);
            }
        }
        values
    }
}
