//! Quantiles around values that reconciliation moved.

use super::Range;
use super::error::ReconcileError;
use super::structure::Structure;

/// Moves each node's quantiles by as much as reconciliation moved its mean.
///
/// `base` and `reconciled` are means over nodes, `quantiles` over nodes, ascending within each; they stay ascending.
/// With [`Range::NonNegative`] what would fall below 0 becomes 0, which can only lower the pinball loss against actual
/// values that are never negative.
///
/// A node keeps its own spread, at the cost of one addition a quantile. Quantiles do not add up, so there is no sum to
/// honour, and the spread was calibrated on the node's own errors. With the right W reconciliation only ever lessens
/// the variance of a node's error, so a spread that was right is right still, or a little wide. Narrowing it by the
/// ratio of the variances that W promises would trust W for more than it knows: a diagonal W takes errors for
/// independent and promises far too much where they go together. (There, even the moved values can be worse than
/// before; a [`super::ShrunkCovariance`] is the remedy.)
///
/// # Errors
/// When lengths differ, a mean is not finite, or quantiles are not finite or descend. `quantiles` are then unchanged.
pub fn shift_quantiles<const L: usize>(
    structure: &Structure,
    base: &[f64],
    reconciled: &[f64],
    quantiles: &mut [[f64; L]],
    range: Range,
) -> Result<(), ReconcileError> {
    structure.check_length("base means", base.len())?;
    structure.check_length("reconciled means", reconciled.len())?;
    structure.check_length("quantiles", quantiles.len())?;
    super::bottom_up::check_finite(structure, base)?;
    super::bottom_up::check_finite(structure, reconciled)?;
    check_quantiles(structure, quantiles)?;
    for ((base, reconciled), quantiles) in base.iter().zip(reconciled).zip(quantiles) {
        let shift = reconciled - base;
        for quantile in quantiles {
            *quantile += shift;
            if range == Range::NonNegative {
                *quantile = quantile.max(0.0);
            }
        }
    }
    Ok(())
}

/// Fails on the first of `quantiles` (by position of the node) that are not finite or descend.
pub(super) fn check_quantiles<const L: usize>(
    structure: &Structure,
    quantiles: &[[f64; L]],
) -> Result<(), ReconcileError> {
    let wrong = |q: &[f64; L]| q.iter().any(|q| !q.is_finite()) || !q.is_sorted();
    match quantiles.iter().position(wrong) {
        None => Ok(()),
        Some(node) => {
            let reason = "quantiles must be finite and ascending".to_owned();
            Err(ReconcileError::Quantiles { node: structure.name(node), reason })
        }
    }
}
