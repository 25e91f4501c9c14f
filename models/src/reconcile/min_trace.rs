//! Minimum trace reconciliation.

use rayon::prelude::*;

use super::Range;
use super::bottom_up::check_result;
use super::error::ReconcileError;
use super::gram::gram;
use super::least_squares::LeastSquares;
use super::non_negative::non_negative;
use super::structure::Structure;
use super::weights::ShrunkCovariance;
use crate::dense::{Cholesky, dot};

/// Minimum trace reconciliation, MinT (Wickramasuriya, Athanasopoulos and Hyndman 2019): of all coherent unbiased
/// forecasts that are linear in the base forecasts ŷ, those with the least sum of error variances,
///
/// ỹ = S (SᵀW⁻¹S)⁻¹ SᵀW⁻¹ ŷ,
///
/// where W is the covariance of the base forecasts' errors (up to a factor that may differ from step to step).
///
/// **Diagonal W** is weighted least squares. In a tree it is solved exactly by one pass upward and one downward, in
/// time proportional to the nodes; any other structure by conjugate gradients that solve its largest tree at each
/// iteration.
///
/// **W = A + U Uᵀ** (A diagonal, U nodes × T; a [`ShrunkCovariance`]) is not inverted either. It is the covariance of
/// U c + ε with independent c ~ (0, I) and ε ~ (0, A), so generalised least squares for W is the minimum over b *and*
/// c of (ŷ − S b − U c)ᵀ A⁻¹ (ŷ − S b − U c) + cᵀc. With P the projection that weighted least squares for A makes, and
/// R = I − P, it has c = (I + (R U)ᵀ A⁻¹ (R U))⁻¹ (R U)ᵀ A⁻¹ R ŷ and then S b = P ŷ − (P U) c. (This is the Woodbury
/// identity, arranged so that nothing is subtracted from a nearly equal number.) P U, R U and the Cholesky factor of
/// the T × T matrix are computed once.
#[derive(Debug, Clone)]
pub struct MinTrace<'a> {
    structure: &'a Structure,
    /// Diagonal of A.
    variances: Vec<f64>,
    solver: LeastSquares<'a>,
    low_rank: Option<LowRank>,
}

/// What reconciliation needs of U. One entry a column.
#[derive(Debug, Clone)]
struct LowRank {
    /// A^-½ R U, over nodes.
    residuals: Vec<Vec<f64>>,
    /// Leaves of P U.
    fits: Vec<Vec<f64>>,
    /// Of I + (R U)ᵀ A⁻¹ (R U).
    factor: Cholesky,
}

impl<'a> MinTrace<'a> {
    /// All nodes weigh the same (ordinary least squares, Hyndman et al. 2011): for nodes without past errors, whatever
    /// their size.
    pub fn ordinary(structure: &'a Structure) -> MinTrace<'a> {
        MinTrace::diagonal(structure, vec![1.0; structure.nodes()])
    }

    /// Variances in proportion to the number of leaves (structural scaling, Athanasopoulos et al. 2017): without past
    /// errors, where leaves are of about one size.
    pub fn structural(structure: &'a Structure) -> MinTrace<'a> {
        MinTrace::diagonal(structure, structure.leaf_counts().into_iter().map(|count| count as f64).collect())
    }

    /// W is the diagonal of `variances`, in the squared unit of the forecasts, over nodes: positive, and those of
    /// leaves finite. Infinity marks a node without a forecast of its own; its base forecast is not read.
    ///
    /// # Errors
    /// When a variance is missing, or not as described.
    pub fn weighted(structure: &'a Structure, variances: &[f64]) -> Result<MinTrace<'a>, ReconcileError> {
        structure.check_length("error variances", variances.len())?;
        let usable =
            |node: usize, v: f64| v > 0.0 && v.recip().is_finite() && (v.is_finite() || node >= structure.leaves());
        if let Some((node, variance)) = variances.iter().copied().enumerate().find(|(node, v)| !usable(*node, *v)) {
            return Err(ReconcileError::Variance { node: structure.name(node), variance });
        }
        Ok(MinTrace::diagonal(structure, variances.to_vec()))
    }

    /// For variances that are known to be usable.
    fn diagonal(structure: &'a Structure, variances: Vec<f64>) -> MinTrace<'a> {
        let solver = LeastSquares::new(structure, &variances);
        MinTrace { structure, variances, solver, low_rank: None }
    }

    /// W is a covariance matrix shrunk towards its diagonal. Takes nodes × T² operations for T past errors, on all
    /// threads of the current rayon pool.
    ///
    /// # Errors
    /// When the covariance is not that of this structure's nodes, or its variances are too far apart.
    pub fn shrunk(structure: &'a Structure, covariance: &ShrunkCovariance) -> Result<MinTrace<'a>, ReconcileError> {
        let mut reconciler = MinTrace::weighted(structure, &covariance.diagonal())?;
        if covariance.rank() > 0 {
            reconciler.low_rank = Some(LowRank::new(&reconciler, covariance)?);
        }
        Ok(reconciler)
    }

    /// Coherent forecasts of all nodes for one step, from base forecasts over nodes (means; means of sums are sums of
    /// means, which medians are not).
    ///
    /// With [`Range::NonNegative`] no leaf, and so no node, is below 0: where the reconciled values are, they are
    /// replaced by the coherent values that are nearest to them, in units of the nodes' error variances, without
    /// negative ones. For a diagonal W this is the solution of MinT's least squares under that condition
    /// (Wickramasuriya, Turlach and Hyndman 2020), because the unconstrained solution is an orthogonal projection; for
    /// a shrunk W it takes the diagonal for the distance.
    ///
    /// # Errors
    /// When `base` has not one entry a node, one that is read is not finite, or numbers are too far apart to solve.
    pub fn reconcile(&self, base: &[f64], range: Range) -> Result<Vec<f64>, ReconcileError> {
        self.structure.check_length("base forecasts", base.len())?;
        // What is not read must be a number all the same, to be multiplied by 0.
        let read = |node: usize| self.variances.get(node).is_some_and(|v| v.is_finite());
        let y: Vec<f64> = base.iter().enumerate().map(|(node, y)| if read(node) { *y } else { 0.0 }).collect();
        super::bottom_up::check_finite(self.structure, &y)?;

        let mut values = self.solver.fit(&y)?;
        if let Some(low_rank) = &self.low_rank {
            low_rank.correct(self, &y, &mut values);
        }
        values.resize(self.structure.nodes(), 0.0);
        self.structure.sum_up(&mut values);
        let values = check_result(self.structure, values)?;
        match range {
            Range::Any => Ok(values),
            Range::NonNegative => non_negative(self.structure, &self.variances, values),
        }
    }

    /// [`MinTrace::reconcile`] for many steps, in parallel. `base` by step, each over nodes.
    ///
    /// # Errors
    /// Those of the first step that has any.
    pub fn reconcile_steps(&self, base: &[Vec<f64>], range: Range) -> Result<Vec<Vec<f64>>, ReconcileError> {
        // All results first: of several errors, rayon would return any.
        let steps: Vec<Result<Vec<f64>, ReconcileError>> =
            base.par_iter().map(|base| self.reconcile(base, range)).collect();
        steps.into_iter().collect()
    }

    /// A^-½ (y − S b) over nodes, for leaf values b.
    fn scaled_residual(&self, y: &[f64], leaves: &[f64]) -> Vec<f64> {
        let mut values = leaves.to_vec();
        values.resize(self.structure.nodes(), 0.0);
        self.structure.sum_up(&mut values);
        for ((value, y), precision) in values.iter_mut().zip(y).zip(self.solver.precisions()) {
            *value = (y - *value) * precision.sqrt();
        }
        values
    }
}

impl LowRank {
    fn new(reconciler: &MinTrace, covariance: &ShrunkCovariance) -> Result<LowRank, ReconcileError> {
        let project = |column: usize| {
            let u = covariance.column(column);
            let fit = reconciler.solver.fit(&u)?;
            Ok((reconciler.scaled_residual(&u, &fit), fit))
        };
        let columns: Vec<Result<_, ReconcileError>> = (0..covariance.rank()).into_par_iter().map(project).collect();
        let columns: Vec<_> = columns.into_iter().collect::<Result<_, ReconcileError>>()?;
        let (residuals, fits): (Vec<Vec<f64>>, Vec<Vec<f64>>) = columns.into_iter().unzip();
        let mut rows = gram(&residuals);
        for (i, row) in rows.iter_mut().enumerate() {
            row[i] += 1.0;
        }
        // Positive definite by construction unless a number overflowed.
        let node = || reconciler.structure.name(0);
        let factor = Cholesky::new(rows.len(), 0.0, |i, j| rows[i][j])
            .ok_or_else(|| ReconcileError::NotFinite { node: node() })?;
        Ok(LowRank { residuals, fits, factor })
    }

    /// Turns `leaves`, the fit to y for A, into the fit for A + U Uᵀ.
    fn correct(&self, reconciler: &MinTrace, y: &[f64], leaves: &mut [f64]) {
        let residual = reconciler.scaled_residual(y, leaves);
        let mut effects: Vec<f64> = self.residuals.iter().map(|column| dot(column, &residual)).collect();
        self.factor.solve(&mut effects);
        for (effect, fit) in effects.iter().zip(&self.fits) {
            for (leaf, fit) in leaves.iter_mut().zip(fit) {
                *leaf -= effect * fit;
            }
        }
    }
}
