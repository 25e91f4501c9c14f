//! What is asked for, the rows, and what was found.

use std::collections::BTreeMap;
use std::fs;

use serde::Deserialize;

use crate::Failure;

/// What is asked for.
#[derive(Debug, Deserialize)]
pub struct Job {
    /// Rows that are trained on; those after them are predicted.
    pub trained: usize,
    /// Columns.
    pub features: usize,
    /// Levels of the quantiles.
    pub levels: Vec<f64>,
    /// Trees after which it is predicted, again and again.
    pub every: usize,
    /// Parameters of our booster, by name.
    pub settings: BTreeMap<String, Params>,
}

/// Those parameters of our booster that others have, too.
#[derive(Debug, Deserialize)]
pub struct Params {
    pub rounds: usize,
    pub learning_rate: f64,
    pub leaves_max: usize,
    pub leaf_rows_min: usize,
    pub leaf_l2: f64,
    pub gain_min: f64,
    pub bins_max: usize,
    pub feature_fraction: f64,
    pub bagging_fraction: f64,
    pub seed: u64,
}

/// What training with one setting took and gave.
#[derive(Debug)]
pub struct Measured {
    /// Seconds from the first look at the rows to each mark.
    pub seconds: Vec<f64>,
    /// Processor seconds of all of it.
    pub cpu_s: f64,
    /// Marks × rows that are predicted × levels, in that order; levels ascend.
    pub predicted: Vec<f64>,
}

/// Features, targets and weights.
#[derive(Debug)]
pub struct Rows {
    /// A column after the other, rows that are trained on first in each.
    features: Vec<f32>,
    /// A value a row that is trained on.
    pub targets: Vec<f32>,
    /// As [`Rows::targets`].
    pub weights: Vec<f32>,
    all: usize,
}

impl Rows {
    /// Reads the files `features`, `targets` and `weights` of the current folder.
    ///
    /// # Errors
    /// A file cannot be read, or has another number of values than `job` says.
    pub fn read(job: &Job) -> Result<Rows, Failure> {
        let (features, mut targets, mut weights) = (read("features")?, read("targets")?, read("weights")?);
        let all = targets.len();
        if weights.len() != all || features.len() != all * job.features || job.trained > all {
            return Err(format!(
                "{} features, {all} targets and {} weights are no {} rows and more of {} columns",
                features.len(),
                weights.len(),
                job.trained,
                job.features
            )
            .into());
        }
        targets.truncate(job.trained);
        weights.truncate(job.trained);
        Ok(Rows { features, targets, weights, all })
    }

    /// Rows that are predicted.
    pub fn held_out(&self) -> usize {
        self.all - self.targets.len()
    }

    /// The features of the rows that are trained on, or of the others: a column after the other.
    pub fn columns(&self, held_out: bool) -> impl Iterator<Item = &[f32]> {
        self.features.chunks_exact(self.all).map(move |column| {
            let (trained, others) = column.split_at(self.targets.len());
            if held_out { others } else { trained }
        })
    }

    /// The same, a row after the other.
    pub fn row_by_row(&self, held_out: bool) -> Vec<f32> {
        let columns: Vec<&[f32]> = self.columns(held_out).collect();
        let rows = columns.first().map_or(0, |column| column.len());
        (0..rows).flat_map(|row| columns.iter().map(move |column| column[row])).collect()
    }
}

/// Reads numbers of 32 bits each, little-endian.
fn read(name: &str) -> Result<Vec<f32>, Failure> {
    let bytes = fs::read(name).map_err(|error| format!("{name}: {error}"))?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(format!("{name} has {} bytes, no whole number of values", bytes.len()).into());
    }
    Ok(numbers.iter().map(|number| f32::from_le_bytes(*number)).collect())
}

/// Writes numbers as 64 bits each, little-endian.
///
/// # Errors
/// The file cannot be written.
pub fn write(name: &str, values: &[f64]) -> Result<(), Failure> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Ok(fs::write(name, bytes)?)
}
