//! The nearest coherent values without negative ones.

use super::error::ReconcileError;
use super::least_squares::LeastSquares;
use super::structure::Structure;

/// Leaves and slopes count as negative below this share of the largest value.
const TOLERANCE: f64 = 1e-11;
/// Rounds in which all offending leaves change sides although their number did not fall.
const PATIENCE: usize = 3;
/// Rounds before the search for the exact set of leaves at 0 gives up.
const ROUNDS_MAX: usize = 100;

/// The coherent values x ≥ 0 that minimise Σ (x − value)² / variance over nodes, for coherent `values`.
///
/// Block principal pivoting (Portugal, Júdice and Vicente 1994), which Wickramasuriya, Turlach and Hyndman (2020) found
/// best for this problem: leaves are held at 0 or free; each round solves for the free ones, then frees the held leaves
/// that would pull upward and holds the free ones that came out negative, until there are none of either: the optimum.
/// Should that take too long, leaves are only held and never freed any more, which ends soon and is coherent and
/// non-negative, if not quite the nearest.
pub(super) fn non_negative(
    structure: &Structure,
    variances: &[f64],
    values: Vec<f64>,
) -> Result<Vec<f64>, ReconcileError> {
    let leaves = structure.leaves();
    if values.iter().take(leaves).all(|leaf| *leaf >= 0.0) {
        return Ok(values);
    }
    let tolerance = TOLERANCE * values.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    let mut held: Vec<bool> = values.iter().take(leaves).map(|leaf| *leaf < 0.0).collect();
    let (mut fewest, mut patience) = (usize::MAX, PATIENCE);
    for _ in 0..ROUNDS_MAX {
        let candidate = solve(structure, variances, &values, &held)?;
        let slopes = slopes(structure, variances, &values, &candidate);
        let offends =
            |leaf: &usize| if held[*leaf] { slopes[*leaf] < -tolerance } else { candidate[*leaf] < -tolerance };
        let offending: Vec<usize> = (0..leaves).filter(offends).collect();
        if offending.is_empty() {
            return Ok(clipped(structure, candidate));
        }
        if offending.len() < fewest {
            (fewest, patience) = (offending.len(), PATIENCE);
        } else {
            patience = patience.saturating_sub(1);
        }
        // Changing one leaf at a time, always the last, cannot go round in circles (Murty 1974).
        let changing = if patience > 0 { 0 } else { offending.len() - 1 };
        for &leaf in &offending[changing..] {
            held[leaf] = !held[leaf];
        }
    }
    hold_only(structure, variances, &values, held, tolerance)
}

/// Holds negative leaves until none is left; every round holds at least one more.
fn hold_only(
    structure: &Structure,
    variances: &[f64],
    values: &[f64],
    mut held: Vec<bool>,
    tolerance: f64,
) -> Result<Vec<f64>, ReconcileError> {
    loop {
        let candidate = solve(structure, variances, values, &held)?;
        let mut changed = false;
        for (held, value) in held.iter_mut().zip(&candidate) {
            if !*held && *value < -tolerance {
                (*held, changed) = (true, true);
            }
        }
        if !changed {
            return Ok(clipped(structure, candidate));
        }
    }
}

/// The nearest coherent values with the held leaves at 0. Over nodes.
fn solve(structure: &Structure, variances: &[f64], values: &[f64], held: &[bool]) -> Result<Vec<f64>, ReconcileError> {
    let mut solution = LeastSquares::holding(structure, variances, held.to_vec()).fit(values)?;
    solution.resize(structure.nodes(), 0.0);
    structure.sum_up(&mut solution);
    Ok(solution)
}

/// Slope of the distance at each leaf of `candidate`, times the leaf's variance to have the unit of a value. Negative
/// where the distance falls with a larger leaf.
fn slopes(structure: &Structure, variances: &[f64], values: &[f64], candidate: &[f64]) -> Vec<f64> {
    let mut slopes: Vec<f64> =
        candidate.iter().zip(values).zip(variances).map(|((x, value), variance)| (x - value) / variance).collect();
    structure.sum_down(&mut slopes);
    slopes.iter().zip(variances).take(structure.leaves()).map(|(slope, variance)| slope * variance).collect()
}

/// Rounding below 0 becomes 0, and sums are made exact again.
fn clipped(structure: &Structure, mut values: Vec<f64>) -> Vec<f64> {
    for leaf in values.iter_mut().take(structure.leaves()) {
        *leaf = leaf.max(0.0);
    }
    structure.sum_up(&mut values);
    values
}
