//! hessboost: XGBoost's way of growing trees in Rust. It can put all levels into one tree, and take a leaf's values from
//! its residuals, both as ours does; and it can learn level by level.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Instant;

use cpu_time::ProcessTime;
use hessboost::config::{GrowPolicy, LeafEstimation, MultiStrategy};
use hessboost::data::BinnedMatrix;
use hessboost::objective::Quantiles;
use hessboost::prelude::*;

use crate::Failure;
use crate::job::{Job, Measured, Params, Rows};
use crate::levels::{cores, each_level, joined, spread};

/// Our parameters as hessboost's. It bounds the Hessians of a leaf instead of its rows: those of its smoothed pinball
/// loss are about one half a row.
fn translated(params: &Params, levels: &[f64], threads: usize) -> Result<TrainingParams> {
    TrainingParams::builder()
        .objective(Objective::Quantile(Quantiles::new(levels.iter().copied())?))
        .multi_strategy(MultiStrategy::MultiOutputTree)
        .leaf_estimation(LeafEstimation::Exact)
        .tree_method(TreeMethod::Hist)
        .grow_policy(GrowPolicy::LossGuide)
        .unlimited_depth()
        .max_leaves(params.leaves_max)
        .eta(params.learning_rate)
        .lambda(params.leaf_l2)
        .gamma(params.gain_min)
        .min_child_weight(0.5 * params.leaf_rows_min as f64)
        .max_bin(params.bins_max)
        .colsample_bytree(params.feature_fraction)
        .subsample(params.bagging_fraction)
        .seed(params.seed)
        .nthread(threads)
        .build()
}

/// The rows, binned.
fn binned(rows: &Rows, row_by_row: &[f32], params: &Params) -> Result<BinnedMatrix> {
    let columns = row_by_row.len() / rows.targets.len().max(1);
    let data = DMatrix::from_dense(row_by_row, rows.targets.len(), columns)?;
    BinnedMatrix::new(&data.with_labels(&rows.targets)?.with_weights(&rows.weights)?, params.bins_max)
}

fn held_out(rows: &Rows, features: usize) -> Result<DMatrix> {
    DMatrix::from_dense_vec(rows.row_by_row(true), rows.held_out(), features)
}

/// A model, and seconds since `begun` after every so many of its rounds.
fn trained(
    params: &TrainingParams,
    data: &BinnedMatrix,
    rounds: usize,
    every: usize,
    begun: Instant,
) -> Result<(BoostedModel, Vec<f64>)> {
    let mut ends = Vec::new();
    let trainer = Trainer::new(params, data, rounds).on_round(|round| {
        if (round.iteration() + 1) % every == 0 {
            ends.push(begun.elapsed().as_secs_f64());
        }
        ControlFlow::Continue(())
    });
    let model = trainer.train()?.model;
    Ok((model, ends))
}

/// What a model predicts with so many trees, and so many more, …: rows × its levels each.
fn predicted(model: &BoostedModel, held_out: &DMatrix, marks: usize, every: usize) -> Result<Vec<Vec<f64>>> {
    let at = |mark: usize| {
        let predicted = model.predict(held_out, ..(mark + 1) * every)?;
        Ok(predicted.as_slice().iter().map(|value| f64::from(*value)).collect())
    };
    (0..marks).map(at).collect()
}

/// One model of all levels: each tree has a value a level in each leaf.
///
/// # Errors
/// The rows or a setting are refused.
pub fn one_model(job: &Job, rows: &Rows) -> Result<BTreeMap<String, Measured>, Failure> {
    let (features, held_out) = (rows.row_by_row(false), held_out(rows, job.features)?);
    let mut all = BTreeMap::new();
    for (name, params) in &job.settings {
        eprintln!("hessboost, one model, {name}: {} rows, {} levels", job.trained, job.levels.len());
        let (begun, cpu) = (Instant::now(), ProcessTime::now());
        let data = binned(rows, &features, params)?;
        let settings = translated(params, &job.levels, cores())?;
        let (model, seconds) = trained(&settings, &data, params.rounds, job.every, begun)?;
        let cpu_s = cpu.elapsed().as_secs_f64();
        let predicted = predicted(&model, &held_out, seconds.len(), job.every)?.concat();
        all.insert(name.clone(), Measured { seconds, cpu_s, predicted });
    }
    Ok(all)
}

/// One model a level.
///
/// # Errors
/// The rows or a setting are refused.
pub fn model_per_level(job: &Job, rows: &Rows) -> Result<BTreeMap<String, Measured>, Failure> {
    let (features, held_out) = (rows.row_by_row(false), held_out(rows, job.features)?);
    let mut all = BTreeMap::new();
    for (name, params) in &job.settings {
        eprintln!("hessboost, one model a level, {name}: {} rows, {} levels", job.trained, job.levels.len());
        let (begun, cpu) = (Instant::now(), ProcessTime::now());
        // The levels share the bins, which are made once, by all processors.
        let data = binned(rows, &features, params)?;
        let binning = begun.elapsed().as_secs_f64();
        let models = each_level(&job.levels, |_, level| {
            let settings = translated(params, &[level], 1)?;
            Ok(trained(&settings, &data, params.rounds, job.every, Instant::now())?)
        })?;
        let cpu_s = cpu.elapsed().as_secs_f64();
        let ends: Vec<&[f64]> = models.iter().map(|(_, ends)| ends.as_slice()).collect();
        let seconds: Vec<f64> = spread(&ends).into_iter().map(|seconds| binning + seconds).collect();
        // Levels × marks × rows.
        let of_levels =
            each_level(&job.levels, |place, _| Ok(predicted(&models[place].0, &held_out, seconds.len(), job.every)?))?;
        let at = |mark: usize| {
            let of_mark: Vec<Vec<f64>> = of_levels.iter().map(|marks| marks[mark].clone()).collect();
            joined(rows.held_out(), &of_mark)
        };
        let predicted = (0..seconds.len()).flat_map(at).collect();
        all.insert(name.clone(), Measured { seconds, cpu_s, predicted });
    }
    Ok(all)
}
