//! The fitted model: predicts, and says what each feature had to do with it.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::design::{Design, LinearError, same};

/// Rows that one task of the thread pool predicts.
const TASK_ROWS: usize = 4096;

/// One linear model a level, in the units of the features and the target.
///
/// Level l predicts `bases[l]` + Σ `coefficients[l][j]` · (xⱼ − `means[j]`): written around the means, features far
/// from zero lose no precision. What a row is predicted is sorted, so that quantiles never cross (Chernozhukov,
/// Fernández-Val and Galichon 2010: sorting brings them no farther from the true ones).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinearQuantiles {
    /// Names of the features.
    pub names: Vec<String>,
    /// Levels, ascending.
    pub levels: Vec<f64>,
    /// Mean of each feature where the model was fitted.
    pub means: Vec<f64>,
    /// Prediction of each level at the means, in the target's unit.
    pub bases: Vec<f64>,
    /// Coefficients of each level: target units a feature unit, zero for features that were constant.
    pub coefficients: Vec<Vec<f64>>,
    /// λ that the ridge chose, the penalty's origin.
    pub lambda: f64,
}

/// What the features contributed to the prediction at one level.
#[derive(Debug, Clone, PartialEq)]
pub struct Contributions {
    /// The level.
    pub level: f64,
    /// Prediction at the mean of all features.
    pub base: f64,
    /// One a feature: coefficient × (value − mean). Base and these add up to the prediction.
    pub features: Vec<f64>,
}

impl LinearQuantiles {
    /// What the line of each level would predict at all features zero.
    pub fn intercepts(&self) -> Vec<f64> {
        let lines = self.bases.iter().zip(&self.coefficients);
        lines.map(|(base, b)| base - b.iter().zip(&self.means).map(|(b, mean)| b * mean).sum::<f64>()).collect()
    }

    /// Quantiles for one row of features, ascending, into `quantiles`, one a level.
    ///
    /// # Errors
    /// [`LinearError::Shape`] for a row or an output of another length, [`LinearError::Feature`] (of row 0) for a
    /// feature that is missing or infinite, [`LinearError::NotFinite`] for a prediction that overflows.
    pub fn predict_row(&self, row: &[f32], quantiles: &mut [f64]) -> Result<(), LinearError> {
        self.check_row(row)?;
        same("quantiles", self.levels.len(), quantiles.len())?;
        for ((quantile, base), coefficients) in quantiles.iter_mut().zip(&self.bases).zip(&self.coefficients) {
            *quantile = base + self.terms(row, coefficients).sum::<f64>();
        }
        if !quantiles.iter().all(|quantile| quantile.is_finite()) {
            return Err(LinearError::NotFinite { what: "a prediction" });
        }
        quantiles.sort_unstable_by(f64::total_cmp);
        Ok(())
    }

    /// Quantiles for every row of a design: rows × levels, row after row.
    ///
    /// # Errors
    /// Those of [`LinearQuantiles::predict_row`] for the first row that has one.
    pub fn predict(&self, design: &Design) -> Result<Vec<f64>, LinearError> {
        let levels = self.levels.len().max(1);
        let mut quantiles = vec![0.0; design.rows() * levels];
        let results: Vec<Result<(), LinearError>> = quantiles
            .par_chunks_mut(TASK_ROWS * levels)
            .enumerate()
            .map(|(task, quantiles)| {
                for (k, quantiles) in quantiles.chunks_exact_mut(levels).enumerate() {
                    let row = task * TASK_ROWS + k;
                    self.predict_row(design.row(row), quantiles).map_err(|error| match error {
                        LinearError::Feature { column, .. } => LinearError::Feature { row, column },
                        other => other,
                    })?;
                }
                Ok(())
            })
            .collect();
        results.into_iter().collect::<Result<(), LinearError>>()?;
        Ok(quantiles)
    }

    /// What each feature contributed to each quantile of a row. Where levels cross, a quantile is explained by the line
    /// that it was sorted from.
    ///
    /// # Errors
    /// Those of [`LinearQuantiles::predict_row`].
    pub fn contributions(&self, row: &[f32]) -> Result<Vec<Contributions>, LinearError> {
        self.check_row(row)?;
        let mut lines: Vec<(f64, f64, Vec<f64>)> = Vec::with_capacity(self.levels.len());
        for (base, coefficients) in self.bases.iter().zip(&self.coefficients) {
            let features: Vec<f64> = self.terms(row, coefficients).collect();
            let prediction = base + features.iter().sum::<f64>();
            if !prediction.is_finite() {
                return Err(LinearError::NotFinite { what: "a prediction" });
            }
            lines.push((prediction, *base, features));
        }
        lines.sort_by(|a, b| a.0.total_cmp(&b.0));
        let levels = self.levels.iter().zip(lines);
        Ok(levels.map(|(level, (_, base, features))| Contributions { level: *level, base, features }).collect())
    }

    fn terms<'a>(&'a self, row: &'a [f32], coefficients: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        row.iter().zip(&self.means).zip(coefficients).map(|((x, mean), b)| b * (f64::from(*x) - mean))
    }

    fn check_row(&self, row: &[f32]) -> Result<(), LinearError> {
        same("features", self.names.len(), row.len())?;
        match row.iter().position(|x| !x.is_finite()) {
            Some(column) => Err(LinearError::Feature { row: 0, column }),
            None => Ok(()),
        }
    }
}
