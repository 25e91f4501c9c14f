//! Lines of all levels, one set for each part of the day and day ahead, as they are fitted to rows.

use meterline_schemas::quantiles::{LEVELS, MEDIAN};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::LinearSpec;
use super::split::Split;
use crate::forecasters::basis::Basis;
use crate::linear::{Design as Matrix, LinearQuantiles, Penalty, Problem, QuantileOptions, quantile_fit};

/// Part of the range of all targets by which a prediction may lie outside of it: a line leads anywhere, a load does not.
const BEYOND: f64 = 0.5;

/// The rows that are trained on.
pub(super) struct Rows {
    /// One row after the other.
    pub features: Vec<f32>,
    /// Relative to level and spread.
    pub targets: Vec<f32>,
    /// How much each counts.
    pub weights: Vec<f32>,
    /// Of the target: its time of day, in intervals, and its step.
    pub places: Vec<(usize, usize)>,
    every: usize,
}

impl Rows {
    /// None yet, of each `every`th step of forecasts.
    pub fn of_steps(every: usize) -> Rows {
        let (features, targets, weights, places) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Rows { features, targets, weights, places, every: every.max(1) }
    }
}

/// The models of one series, or of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Parts {
    pub basis: Basis,
    // That predictions do not leave.
    range: (f64, f64),
    pub split: Split,
    // One for each of its places.
    pub models: Vec<LinearQuantiles>,
}

impl Parts {
    /// Fits them to rows of so many features, of which those of `bent`, by their places, need not be linear; `None` where
    /// there are too few rows, or the solver finds nothing.
    pub fn fit(rows: &Rows, width: usize, bent: &[usize], spec: &LinearSpec, lengths: (usize, usize)) -> Option<Parts> {
        let (season, _) = lengths;
        let basis = Basis::of(&rows.features, width, bent);
        // Rows of one hour and day: they hardly differ.
        let in_hour = (season / 24 / rows.every).max(1);
        let split = Split::new(rows, in_hour, basis.width(), spec.parts, lengths)?;
        let names: Vec<String> = (0..basis.width()).map(|feature| format!("f{feature}")).collect();
        let mut options = QuantileOptions::new(&LEVELS);
        // Of rows that hardly differ the ridge takes each for news.
        options.penalty = Penalty::LikeRidge(spec.penalty * in_hour as f64);
        let models: Option<Vec<LinearQuantiles>> = (0..split.places())
            .into_par_iter()
            .map(|place| {
                let (mut features, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
                for (row, (phase, step)) in rows.places.iter().enumerate() {
                    if split.place(*phase, *step) == place {
                        basis.write(&rows.features[row * width..(row + 1) * width], &mut features);
                        targets.push(rows.targets[row]);
                        weights.push(rows.weights[row]);
                    }
                }
                let matrix = Matrix::new(&features, basis.width()).ok()?;
                let problem = Problem { design: matrix, target: &targets, weights: Some(&weights) };
                Some(quantile_fit(&problem, &names, &options).ok()?.model)
            })
            .collect();
        let (low, high) = rows.targets.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), target| {
            (low.min(f64::from(*target)), high.max(f64::from(*target)))
        });
        let beyond = BEYOND * (high - low);
        Some(Parts { basis, range: (low - beyond, high + beyond), split, models: models? })
    }

    /// The normalised quantiles of a row; `wide` is room to work in.
    pub fn quantiles(
        &self,
        row: &[f32],
        phase: usize,
        step: usize,
        wide: &mut Vec<f32>,
    ) -> Option<[f64; LEVELS.len()]> {
        wide.clear();
        self.basis.write(row, wide);
        let mut quantiles = [0.0; LEVELS.len()];
        self.models.get(self.split.place(phase, step))?.predict_row(wide, &mut quantiles).ok()?;
        let (low, high) = self.range;
        Some(quantiles.map(|quantile| quantile.max(low).min(high)))
    }

    /// Coefficients of the median: the mean over all places.
    pub fn coefficients(&self) -> Vec<f64> {
        let mut means = vec![0.0; self.basis.width()];
        for model in &self.models {
            let of_median = model.coefficients.get(MEDIAN).into_iter().flatten();
            means.iter_mut().zip(of_median).for_each(|(mean, one)| *mean += one / self.models.len() as f64);
        }
        means
    }
}
