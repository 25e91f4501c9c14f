//! Weighted least squares on any structure: exact on a forest, by conjugate gradients otherwise.

use super::error::ReconcileError;
use super::forest::Gains;
use super::structure::Structure;
use crate::dense::dot;

/// Conjugate gradients stop when the remaining error, in units of the errors' standard deviations, is this share of the
/// values.
const TOLERANCE: f64 = 1e-12;
/// Times that conjugate gradients start again from the true residual.
const PASSES_MAX: usize = 4;
/// Iterations allowed in one pass beyond those that exact arithmetic would need.
const SPARE_ITERATIONS: usize = 200;

/// Solver of min over b of (y − S b)ᵀ A⁻¹ (y − S b) with a diagonal A; leaves can be held at 0.
#[derive(Debug, Clone)]
pub(super) struct LeastSquares<'a> {
    structure: &'a Structure,
    /// 1 / variance of each node; 0 for a node without a forecast of its own and for a leaf that is held.
    precisions: Vec<f64>,
    gains: Gains,
    held: Vec<bool>,
}

impl<'a> LeastSquares<'a> {
    /// `variances` over nodes: positive; those of leaves finite.
    pub(super) fn new(structure: &'a Structure, variances: &[f64]) -> LeastSquares<'a> {
        LeastSquares::holding(structure, variances, vec![false; structure.leaves()])
    }

    /// As [`LeastSquares::new`], with some of the leaves held at 0.
    pub(super) fn holding(structure: &'a Structure, variances: &[f64], held: Vec<bool>) -> LeastSquares<'a> {
        let mut variances = variances.to_vec();
        for (variance, held) in variances.iter_mut().zip(&held) {
            if *held {
                *variance = 0.0;
            }
        }
        let gains = structure.forest().gains(&variances);
        let precisions = variances.into_iter().map(|v| if v > 0.0 { v.recip() } else { 0.0 }).collect();
        LeastSquares { structure, precisions, gains, held }
    }

    /// 1 / variance of each node.
    pub(super) fn precisions(&self) -> &[f64] {
        &self.precisions
    }

    /// The leaf values of the minimum. `y` over nodes, finite.
    ///
    /// A forest is solved exactly. With further nodes, the forest's solution is where preconditioned conjugate
    /// gradients (Hestenes and Stiefel 1952) start on SᵀA⁻¹S b = SᵀA⁻¹y, and solving the forest is the preconditioner:
    /// what is left differs from the identity by the rank of the nodes outside, so at most one iteration more than
    /// there are such nodes is needed, and in practice far fewer.
    pub(super) fn fit(&self, y: &[f64]) -> Result<Vec<f64>, ReconcileError> {
        let mut y = y.to_vec();
        self.clear_held(&mut y);
        let mut b = self.structure.forest().fit(&self.gains, &y);
        if self.structure.is_forest() {
            return Ok(b);
        }
        let scale: f64 = self.precisions.iter().zip(&y).map(|(p, y)| p * y * y).sum();
        for _ in 0..PASSES_MAX {
            // The residual that iterations carry along drifts from the true one; each pass starts from the true one.
            if !self.iterate(&y, &mut b, TOLERANCE * TOLERANCE * scale)? {
                break;
            }
        }
        Ok(b)
    }

    /// Conjugate gradients from `b` on, until the squared norm of the residual is at most `enough`. False where it was
    /// from the beginning.
    fn iterate(&self, y: &[f64], b: &mut [f64], enough: f64) -> Result<bool, ReconcileError> {
        let mut residual = self.gradient(y, b);
        let mut direction = self.precondition(&residual);
        let mut norm = dot(&residual, &direction);
        if norm <= enough {
            return Ok(false);
        }
        let iterations = 10 * self.structure.nodes_outside_forest() + SPARE_ITERATIONS;
        for _ in 0..iterations {
            let image = self.normal(&direction);
            let curvature = dot(&direction, &image);
            if norm <= enough || curvature <= 0.0 {
                return Ok(true);
            }
            let length = norm / curvature;
            for (((b, r), d), i) in b.iter_mut().zip(&mut residual).zip(&direction).zip(&image) {
                *b += length * d;
                *r -= length * i;
            }
            let z = self.precondition(&residual);
            let next = dot(&residual, &z);
            let turn = next / norm;
            norm = next;
            for (d, z) in direction.iter_mut().zip(&z) {
                *d = z + turn * *d;
            }
        }
        Err(ReconcileError::NotConverged { iterations })
    }

    /// SᵀA⁻¹(y − S b), over leaves.
    fn gradient(&self, y: &[f64], b: &[f64]) -> Vec<f64> {
        let mut values = self.sums(b);
        for ((value, y), precision) in values.iter_mut().zip(y).zip(&self.precisions) {
            *value = (y - *value) * precision;
        }
        self.collect(values)
    }

    /// SᵀA⁻¹S b, over leaves.
    fn normal(&self, b: &[f64]) -> Vec<f64> {
        let mut values = self.sums(b);
        for (value, precision) in values.iter_mut().zip(&self.precisions) {
            *value *= precision;
        }
        self.collect(values)
    }

    /// The solution x of the forest's SᵀA⁻¹S x = `residual`: the fit to residual × variance at the leaves, 0 above.
    fn precondition(&self, residual: &[f64]) -> Vec<f64> {
        let mut y = vec![0.0; self.structure.nodes()];
        for ((y, r), precision) in y.iter_mut().zip(residual).zip(&self.precisions) {
            if *precision > 0.0 {
                *y = r / precision;
            }
        }
        self.structure.forest().fit(&self.gains, &y)
    }

    /// S b, over nodes.
    fn sums(&self, b: &[f64]) -> Vec<f64> {
        let mut values = b.to_vec();
        values.resize(self.structure.nodes(), 0.0);
        self.structure.sum_up(&mut values);
        values
    }

    /// Sᵀ v at the leaves that are free.
    fn collect(&self, mut values: Vec<f64>) -> Vec<f64> {
        self.structure.sum_down(&mut values);
        values.truncate(self.structure.leaves());
        self.clear_held(&mut values);
        values
    }

    fn clear_held(&self, values: &mut [f64]) {
        for (value, held) in values.iter_mut().zip(&self.held) {
            if *held {
                *value = 0.0;
            }
        }
    }
}
