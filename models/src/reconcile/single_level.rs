//! Reconciliation from the forecasts of one level.

use super::error::ReconcileError;
use super::structure::Structure;

/// Smaller sums than this share of their absolute values come from parts that cancel each other.
const CANCELLATION: f64 = 1e-9;

/// Bottom-up: the leaves stay as they are, every other node becomes the sum of its leaves.
///
/// `base` over nodes; only its leaves are read. Loses nothing where leaves are well forecast, but a region's forecast
/// made of thousands of noisy sites ignores how regular the region is (Hyndman et al. 2011).
///
/// # Errors
/// When `base` has not one entry a node, or a leaf has no finite forecast.
pub fn bottom_up(structure: &Structure, base: &[f64]) -> Result<Vec<f64>, ReconcileError> {
    structure.check_length("base forecasts", base.len())?;
    check_finite(structure, &base[..structure.leaves()])?;
    let mut values = base.to_vec();
    structure.sum_up(&mut values);
    check_result(structure, values)
}

/// Top-down by forecast proportions: the roots stay as they are, and every node's value is shared among its parts in
/// proportion to their base forecasts (Athanasopoulos, Ahmed and Hyndman 2009). Parts that are all zero share evenly.
///
/// `base` over nodes, all finite.
///
/// # Errors
/// When the structure is no tree, a forecast is missing, or parts of opposite signs cancel each other so that there are
/// no proportions.
pub fn top_down(structure: &Structure, base: &[f64]) -> Result<Vec<f64>, ReconcileError> {
    structure.check_length("base forecasts", base.len())?;
    if let Some(node) = structure.shared_node() {
        return Err(ReconcileError::NotATree { node });
    }
    check_finite(structure, base)?;
    let mut values = base.to_vec();
    for &node in structure.bottom_up().iter().rev() {
        let parts = structure.parts(node);
        let sum: f64 = parts.iter().map(|part| base[*part]).sum();
        let absolute: f64 = parts.iter().map(|part| base[*part].abs()).sum();
        if absolute > 0.0 && sum.abs() <= CANCELLATION * absolute {
            return Err(ReconcileError::Proportions { node: structure.name(node) });
        }
        for &part in parts {
            let share = if absolute > 0.0 { base[part] / sum } else { 1.0 / parts.len() as f64 };
            values[part] = values[node] * share;
        }
    }
    // Shares add up to one only within rounding; the sums must be exact.
    structure.sum_up(&mut values);
    check_result(structure, values)
}

/// Fails on the first value that is not finite.
pub(super) fn check_finite(structure: &Structure, values: &[f64]) -> Result<(), ReconcileError> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(node) => Err(ReconcileError::NoForecast { node: structure.name(node) }),
    }
}

/// `values`, unless one of them is not finite.
pub(super) fn check_result(structure: &Structure, values: Vec<f64>) -> Result<Vec<f64>, ReconcileError> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(node) => Err(ReconcileError::NotFinite { node: structure.name(node) }),
    }
}
