//! Reconciliation from the forecasts of the leaves alone.

use super::error::ReconcileError;
use super::structure::Structure;

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
