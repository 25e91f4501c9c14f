//! Quantiles of sums, from quantiles of the leaves and from how their past errors went together.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::distributions::check_quantiles;
use super::error::ReconcileError;
use super::structure::Structure;
use crate::cost::{bracket, interpolate};

/// How the leaves' errors went together: the ranks of their past errors, time by time (an empirical copula).
///
/// Each past time becomes one scenario: every leaf takes the quantile of its forecast at the rank that its error had
/// at that time. Sums of the leaves within a scenario are coherent, and over all scenarios they have the spread that
/// the leaves' dependence gives them: that of the square root where errors are independent, that of the plain sum
/// where they go together (Taieb, Taylor and Hyndman 2021; Jeon, Panagiotelis and Petropoulos 2019). Adding up
/// quantiles instead would always assume the latter, and make a region of a thousand sites look thirty times as
/// uncertain as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankCopula {
    /// For each past time, the rank of each leaf's error at that time, from 0.
    ranks: Vec<Vec<u32>>,
}

impl RankCopula {
    /// Ranks of `errors`: for each leaf its past errors, all equally many (at least two), NaN where one is missing.
    ///
    /// A missing error gets a rank at random, as do equal errors among themselves: they tell nothing about dependence.
    /// Every leaf has every rank once, so its own quantiles are honoured. The same `seed` gives the same ranks.
    ///
    /// # Errors
    /// When there is not one list a leaf, there are fewer than two times, or lists have different lengths.
    pub fn from_errors(structure: &Structure, errors: &[Vec<f64>], seed: u64) -> Result<RankCopula, ReconcileError> {
        check_leaves(structure, "past errors", errors.len())?;
        let times = errors.first().map_or(0, Vec::len);
        if times < 2 {
            return Err(ReconcileError::NoErrors);
        }
        let mut ranks = vec![vec![0_u32; errors.len()]; times];
        for (leaf, errors) in errors.iter().enumerate() {
            if errors.len() != times {
                let node = structure.name(leaf);
                return Err(ReconcileError::ErrorsLength { node, found: errors.len(), expected: times });
            }
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(leaf as u64);
            for (time, rank) in ranks_of(errors, &mut random).into_iter().enumerate() {
                ranks[time][leaf] = rank;
            }
        }
        Ok(RankCopula { ranks })
    }

    /// Quantiles at `levels` of every node, from those of the leaves at the same levels (`leaves` over leaves,
    /// ascending; beyond the outermost levels they continue as [`crate::cost::quantile_at`] does).
    ///
    /// Over nodes: leaves as given, the others from as many scenarios as there are past times, so levels nearer to 0 or
    /// 1 than half a scenario are those of the outermost one. Takes leaves × times operations.
    ///
    /// # Errors
    /// When there is not one entry a leaf, quantiles are not finite or descend, or a sum is not finite.
    pub fn quantiles_of_sums<const L: usize>(
        &self,
        structure: &Structure,
        levels: &[f64; L],
        leaves: &[[f64; L]],
    ) -> Result<Vec<[f64; L]>, ReconcileError> {
        check_leaves(structure, "quantiles", leaves.len())?;
        check_leaves(structure, "past errors", self.ranks.first().map_or(0, Vec::len))?;
        check_quantiles(structure, leaves)?;
        let times = self.ranks.len();
        let places: Vec<(usize, f64)> =
            (0..times).filter_map(|rank| bracket(levels, (rank as f64 + 0.5) / times as f64)).collect();
        let mut samples = vec![Vec::with_capacity(times); structure.bottom_up().len()];
        let mut values = vec![0.0; structure.nodes()];
        for ranks in &self.ranks {
            for ((value, rank), quantiles) in values.iter_mut().zip(ranks).zip(leaves) {
                let place = places.get(*rank as usize);
                *value = place.map_or(f64::NAN, |(lower, weight)| interpolate(quantiles, *lower, *weight));
            }
            structure.sum_up(&mut values);
            for (samples, node) in samples.iter_mut().zip(structure.bottom_up()) {
                samples.push(values[*node]);
            }
        }
        let mut quantiles = leaves.to_vec();
        quantiles.resize(structure.nodes(), [f64::NAN; L]);
        for (samples, &node) in samples.iter_mut().zip(structure.bottom_up()) {
            samples.sort_unstable_by(f64::total_cmp);
            quantiles[node] = levels.map(|level| sample_quantile(samples, level));
            if quantiles[node].iter().any(|q| !q.is_finite()) {
                return Err(ReconcileError::NotFinite { node: structure.name(node) });
            }
        }
        Ok(quantiles)
    }
}

/// Fails unless there is one entry a leaf.
fn check_leaves(structure: &Structure, what: &'static str, found: usize) -> Result<(), ReconcileError> {
    let expected = structure.leaves();
    if found == expected { Ok(()) } else { Err(ReconcileError::Length { what, found, expected }) }
}

/// Rank of each error among all, from 0; missing ones take random ranks, and equal ones change places at random.
fn ranks_of(errors: &[f64], random: &mut ChaCha8Rng) -> Vec<u32> {
    let mut times: Vec<usize> = (0..errors.len()).collect();
    times.shuffle(random);
    let (mut present, missing): (Vec<usize>, Vec<usize>) = times.into_iter().partition(|t| !errors[*t].is_nan());
    // Stable, so that the shuffle decides among equals.
    present.sort_by(|a, b| errors[*a].total_cmp(&errors[*b]));
    let mut free: Vec<u32> = (0..errors.len() as u32).collect();
    free.shuffle(random);
    let mut ranks = vec![0; errors.len()];
    let (random_ranks, rest) = free.split_at_mut(missing.len());
    for (time, rank) in missing.into_iter().zip(random_ranks) {
        ranks[time] = *rank;
    }
    rest.sort_unstable();
    for (time, rank) in present.into_iter().zip(rest) {
        ranks[time] = *rank;
    }
    ranks
}

/// Quantile of equally likely samples, each in the middle of its share of the levels (type 5 of Hyndman and Fan 1996).
fn sample_quantile(sorted: &[f64], level: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let position = (level * sorted.len() as f64 - 0.5).clamp(0.0, last as f64);
    let lower = position.floor() as usize;
    interpolate(sorted, lower, position - lower as f64)
}
