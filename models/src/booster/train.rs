//! Boosting: tree after tree, each grown at the predictions of those before (Friedman 2001).

use std::ops::{ControlFlow, Range};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::bins::{Binned, Edges};
use super::error::BoosterError;
use super::gradients::{CHUNK, Gradients, Rule};
use super::grow::{Grower, Grown};
use super::leaves::Targets;
use super::matrix::{Dataset, same_size};
use super::model::Booster;
use super::params::{Objective, Params};
use super::split::Rules;
use super::tree::Tree;

/// How far training is, told after every round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Trees so far.
    pub round: usize,
    /// Trees at most.
    pub rounds: usize,
    /// Loss on the validation rows, when there are any: the pinball loss averaged over levels, or the squared error,
    /// averaged over rows by weight.
    pub loss: Option<f64>,
}

/// Learns a booster from `data`.
///
/// Predictions start from `data.offset` (or 0) plus one base value per output, the quantiles (mean) of what the offset
/// leaves. With `valid` and [`Params::patience`] training stops when the validation loss no longer falls, and only
/// trees up to the best round are kept. `progress` is called after every round; when it breaks, training ends as
/// though all rounds were done.
///
/// The result depends on the inputs alone, not on the number of threads (those of rayon's current pool).
///
/// # Errors
/// Inputs that do not fit each other or are not finite, no rows, parameters out of range, numbers that overflow.
pub fn train(
    data: &Dataset,
    valid: Option<&Dataset>,
    params: &Params,
    objective: &Objective,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Booster, BoosterError> {
    params.check()?;
    objective.check()?;
    data.check(objective.outputs())?;
    let threads = rayon::current_num_threads();
    let features = data.x.features();
    let edges: Vec<Edges> =
        (0..features).into_par_iter().map(|f| Edges::of(data.x.column(f), params.bins_max)).collect();
    let binned = Binned::new(data.x, &edges, threads);
    let mut fit = Fit::new(data, objective)?;
    let mut validation = match valid {
        Some(valid) => {
            valid.check(objective.outputs())?;
            same_size("validation features", valid.x.features(), features)?;
            Some(Validation::new(valid, &edges, objective, &fit.base))
        }
        None => None,
    };
    let mut trees = Vec::new();
    let mut gains = Vec::new();
    let mut grower = Grower::new(&binned, &edges);
    for round in 0..params.rounds {
        let Some((grown, tree)) = fit.round(round, params, &binned, &mut grower)? else {
            // Nothing gains. With other features or rows something may.
            if params.feature_fraction < 1.0 || params.bagging_fraction < 1.0 {
                continue;
            }
            break;
        };
        gains.push(grown.splits.iter().map(|split| (split.feature, split.gain)).collect::<Vec<_>>());
        trees.push(tree);
        let mut stop = false;
        let loss = match (&mut validation, trees.last()) {
            (Some(validation), Some(tree)) => {
                let loss = validation.add(&grown, tree);
                stop = params.patience.is_some_and(|patience| trees.len() - validation.best.0 > patience);
                Some(loss)
            }
            _ => None,
        };
        if progress(&Progress { round: trees.len(), rounds: params.rounds, loss }).is_break() || stop {
            break;
        }
    }
    if let (Some(validation), Some(_)) = (&validation, params.patience) {
        trees.truncate(validation.best.0);
        gains.truncate(validation.best.0);
    }
    let mut by_feature = vec![0.0; features];
    for (feature, gain) in gains.into_iter().flatten() {
        by_feature[feature] += gain;
    }
    Ok(Booster::new(objective.clone(), data.x, fit.base, trees, by_feature))
}

/// Training rows and what is predicted for them so far.
struct Fit<'a> {
    data: &'a Dataset<'a>,
    objective: &'a Objective,
    targets: Targets<'a>,
    rule: Rule,
    base: Vec<f32>,
    /// Rows × outputs.
    predictions: Vec<f32>,
    gradients: Gradients,
    /// Rows the tree is grown of, in the order of its leaves.
    rows: Vec<u32>,
    /// Leaf of every row.
    leaf_of_row: Vec<u16>,
}

impl<'a> Fit<'a> {
    fn new(data: &'a Dataset<'a>, objective: &'a Objective) -> Result<Fit<'a>, BoosterError> {
        let targets = Targets { y: data.y, weights: data.weights };
        let rows = data.x.rows();
        let outputs = objective.outputs();
        let base: Vec<f32> = (0..outputs)
            .into_par_iter()
            .map(|output| targets.value(objective, output, data.offset.unwrap_or(&[]), 0..rows as u32))
            .collect();
        if !base.iter().all(|value| value.is_finite()) {
            return Err(BoosterError::Overflow { round: 0 });
        }
        let predictions = start(data, outputs, &base);
        let fits = |(prediction, y): (&[f32], &f32)| prediction.iter().all(|f| (y - f).is_finite());
        if !predictions.chunks_exact(outputs).zip(data.y).all(fits) {
            return Err(BoosterError::Overflow { round: 0 });
        }
        Ok(Fit {
            data,
            objective,
            targets,
            rule: Rule::new(objective, &base),
            base,
            predictions,
            gradients: Gradients::default(),
            rows: Vec::new(),
            leaf_of_row: vec![0; rows],
        })
    }

    /// Grows one tree and adds it to the predictions. `None` when no split gains anything.
    fn round(
        &mut self,
        round: usize,
        params: &Params,
        binned: &Binned,
        grower: &mut Grower,
    ) -> Result<Option<(Grown, Tree)>, BoosterError> {
        let draw = Draw { seed: params.seed, round: round as u64, fraction: params.bagging_fraction };
        let groups = self.data.groups;
        let bagged = |row: usize| draw.takes(groups.map_or(row as u32, |g| g[row]));
        let units = self.gradients.compute(&self.rule, self.data.y, self.data.weights, &self.predictions, &bagged);
        self.rows.clear();
        self.rows.extend((0..self.data.y.len() as u32).filter(|row| bagged(*row as usize)));
        let curvature: i64 = self.rows.iter().map(|row| i64::from(self.gradients.cells[*row as usize].0[2])).sum();
        let mean_curvature = curvature as f64 * units.0[2] / self.rows.len().max(1) as f64;
        let rules = Rules {
            units,
            leaf_rows_min: params.leaf_rows_min,
            l2: params.leaf_l2 * mean_curvature,
            gain_min: params.gain_min,
        };
        let places = draw_features(binned, params, round as u64);
        let grown = grower.grow(&mut self.rows, &self.gradients.cells, &places, &rules, params.leaves_max);
        if grown.nodes.is_empty() {
            return Ok(None);
        }
        let values_of = |rows: &[u32], leaves: &[Range<usize>]| {
            self.targets.leaf_values(self.objective, &self.predictions, rows, leaves, params.leaf_l2)
        };
        let mut values = if params.honest {
            let (rows, leaves) =
                held_out(&grown, binned, (0..self.data.y.len() as u32).filter(|r| !bagged(*r as usize)));
            values_of(&rows, &leaves)
        } else {
            values_of(&self.rows, &grown.leaves)
        };
        values.iter_mut().for_each(|value| *value *= params.learning_rate as f32);
        self.add(&grown, &values, binned);
        if !values.iter().all(|value| value.is_finite()) {
            return Err(BoosterError::Overflow { round });
        }
        let tree = Tree {
            nodes: grown.nodes.clone(),
            values,
            rows: grown.leaves.iter().map(|leaf| leaf.len() as u32).collect(),
        };
        Ok(Some((grown, tree)))
    }

    fn add(&mut self, grown: &Grown, values: &[f32], binned: &Binned) {
        if self.rows.len() < self.leaf_of_row.len() {
            self.leaf_of_row.par_iter_mut().with_min_len(CHUNK).enumerate().for_each(|(row, leaf)| {
                *leaf = grown.leaf(row as u32, binned) as u16;
            });
        } else {
            for (leaf, range) in grown.leaves.iter().enumerate() {
                for row in &self.rows[range.clone()] {
                    self.leaf_of_row[*row as usize] = leaf as u16;
                }
            }
        }
        let outputs = self.objective.outputs();
        self.predictions.par_chunks_mut(CHUNK * outputs).zip(self.leaf_of_row.par_chunks(CHUNK)).for_each(
            |(predictions, leaves)| {
                for (prediction, leaf) in predictions.chunks_exact_mut(outputs).zip(leaves) {
                    let values = &values[usize::from(*leaf) * outputs..][..outputs];
                    prediction.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                }
            },
        );
    }
}

/// Rows that a tree was not grown of, in the order of its leaves, and which part of them each leaf holds.
fn held_out(grown: &Grown, binned: &Binned, rows: impl Iterator<Item = u32>) -> (Vec<u32>, Vec<Range<usize>>) {
    let mut of_leaf = vec![Vec::new(); grown.leaves.len()];
    for row in rows {
        of_leaf[grown.leaf(row, binned)].push(row);
    }
    let mut end = 0;
    let range = |rows: &Vec<u32>| {
        let start = end;
        end += rows.len();
        start..end
    };
    let leaves = of_leaf.iter().map(range).collect();
    (of_leaf.concat(), leaves)
}

/// Validation rows and what is predicted for them so far.
struct Validation<'a> {
    data: &'a Dataset<'a>,
    objective: &'a Objective,
    binned: Binned,
    predictions: Vec<f32>,
    rounds: usize,
    /// Rounds and loss of the best so far.
    best: (usize, f64),
}

impl<'a> Validation<'a> {
    fn new(data: &'a Dataset<'a>, edges: &[Edges], objective: &'a Objective, base: &[f32]) -> Validation<'a> {
        let predictions = start(data, objective.outputs(), base);
        let loss = mean_loss(data, objective, &predictions);
        Validation { data, objective, binned: Binned::new(data.x, edges, 1), predictions, rounds: 0, best: (0, loss) }
    }

    /// Adds a tree's predictions; the loss after that.
    fn add(&mut self, grown: &Grown, tree: &Tree) -> f64 {
        let outputs = self.objective.outputs();
        self.predictions.par_chunks_mut(outputs).with_min_len(CHUNK).enumerate().for_each(|(row, prediction)| {
            let leaf = grown.leaf(row as u32, &self.binned);
            prediction.iter_mut().zip(&tree.values[leaf * outputs..]).for_each(|(sum, value)| *sum += value);
        });
        self.rounds += 1;
        let loss = mean_loss(self.data, self.objective, &self.predictions);
        if loss < self.best.1 {
            self.best = (self.rounds, loss);
        }
        loss
    }
}

/// Offset and base values, rows × outputs.
fn start(data: &Dataset, outputs: usize, base: &[f32]) -> Vec<f32> {
    let mut predictions = match data.offset {
        Some(offset) => offset.to_vec(),
        None => vec![0.0; data.x.rows() * outputs],
    };
    for prediction in predictions.chunks_exact_mut(outputs) {
        prediction.iter_mut().zip(base).for_each(|(sum, value)| *sum += value);
    }
    predictions
}

/// Mean over rows (by weight) and outputs of the pinball loss or the squared error.
fn mean_loss(data: &Dataset, objective: &Objective, predictions: &[f32]) -> f64 {
    let outputs = objective.outputs();
    // One sum a chunk, then their sum in order: the same for any number of threads.
    let sums: Vec<(f64, f64)> = predictions
        .par_chunks(CHUNK * outputs)
        .zip(data.y.par_chunks(CHUNK))
        .enumerate()
        .map(|(chunk, (predictions, targets))| {
            let (mut losses, mut weights) = (0.0, 0.0);
            for (i, (prediction, y)) in predictions.chunks_exact(outputs).zip(targets).enumerate() {
                let weight = data.weights.map_or(1.0, |w| f64::from(w[chunk * CHUNK + i]));
                losses += weight * row_loss(objective, f64::from(*y), prediction);
                weights += weight;
            }
            (losses, weights)
        })
        .collect();
    let (losses, weights) = sums.iter().fold((0.0, 0.0), |(l, w), (loss, weight)| (l + loss, w + weight));
    losses / weights
}

fn row_loss(objective: &Objective, y: f64, prediction: &[f32]) -> f64 {
    match objective {
        Objective::Squared => prediction.iter().map(|f| (y - f64::from(*f)).powi(2)).sum(),
        Objective::Quantiles(levels) => {
            let losses = prediction.iter().zip(levels).map(|(f, level)| {
                let error = y - f64::from(*f);
                (level * error).max((level - 1.0) * error)
            });
            losses.sum::<f64>() / levels.len() as f64
        }
    }
}

/// Which groups a round's tree is grown of.
#[derive(Clone, Copy)]
struct Draw {
    seed: u64,
    round: u64,
    fraction: f64,
}

impl Draw {
    /// Each group is drawn by itself, by a hash (SplitMix64: Steele et al. 2014) of seed, round and group.
    fn takes(&self, group: u32) -> bool {
        if self.fraction >= 1.0 {
            return true;
        }
        let key = mix(mix(self.seed ^ mix(self.round)) ^ u64::from(group));
        // 53 bits are a f64 exactly.
        ((key >> 11) as f64) < self.fraction * (1_u64 << 53) as f64
    }
}

fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The features that a round's tree may use: places in each block, ascending.
fn draw_features(binned: &Binned, params: &Params, round: u64) -> Vec<Vec<usize>> {
    // Drawn by feature, not by block: blocks depend on the number of threads.
    let mut features: Vec<usize> = binned.blocks.iter().flat_map(|block| block.features.iter().copied()).collect();
    if params.feature_fraction < 1.0 {
        let mut random = ChaCha8Rng::seed_from_u64(params.seed);
        random.set_stream(round);
        let wanted = ((features.len() as f64 * params.feature_fraction).ceil() as usize).min(features.len());
        let mut chosen: Vec<usize> =
            rand::seq::index::sample(&mut random, features.len(), wanted).into_iter().map(|i| features[i]).collect();
        chosen.sort_unstable();
        features = chosen;
    }
    let places = |features_of_block: &[usize]| {
        let place = |(place, feature): (usize, &usize)| features.binary_search(feature).is_ok().then_some(place);
        features_of_block.iter().enumerate().filter_map(place).collect()
    };
    binned.blocks.iter().map(|block| places(&block.features)).collect()
}
