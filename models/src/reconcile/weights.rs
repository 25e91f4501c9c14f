//! How far each node's forecast is to be trusted: variances and covariances of its past errors.

use super::error::ReconcileError;
use super::gram::gram;
use super::structure::Structure;

/// The least shrinkage that leaves the covariance well conditioned with fewer observations than nodes.
const SHRINKAGE_MIN: f64 = 1e-4;
/// Variance of a node that was never off, where that of the median node is 1: small enough to keep its forecast.
const NEVER_OFF: f64 = 1e-6;

/// Variances of the nodes' forecast errors.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorVariances {
    /// One positive variance a node, in the squared unit of the forecasts.
    pub values: Vec<f64>,
    /// Nodes (positions) whose own errors told nothing, so that their variance is assumed.
    pub assumed: Vec<usize>,
}

impl ErrorVariances {
    /// Mean squares of `errors`: for each node its past one-step errors, all equally many, NaN where one is missing.
    ///
    /// Errors are taken as unbiased, as MinT does. A node with fewer than two errors is assumed to be as reliable per
    /// leaf as the median node (structural scaling, Athanasopoulos et al. 2017), and one with none but zeros, such as a
    /// meter of nothing, a million times as reliable as that.
    ///
    /// # Errors
    /// When there is not one list a node, lists have different lengths, or no node at all has two errors.
    pub fn estimate(structure: &Structure, errors: &[Vec<f64>]) -> Result<ErrorVariances, ReconcileError> {
        structure.check_length("past errors", errors.len())?;
        let expected = errors.first().map_or(0, Vec::len);
        if let Some(node) = errors.iter().position(|errors| errors.len() != expected) {
            let found = errors.get(node).map_or(0, Vec::len);
            return Err(ReconcileError::ErrorsLength { node: structure.name(node), found, expected });
        }
        let own: Vec<Option<f64>> = errors.iter().map(|errors| mean_square(errors)).collect();
        let leaf_counts = structure.leaf_counts();
        let mut per_leaf: Vec<f64> =
            own.iter().zip(&leaf_counts).filter_map(|(own, leaves)| own.map(|own| own / *leaves as f64)).collect();
        per_leaf.sort_unstable_by(f64::total_cmp);
        let Some(&median) = per_leaf.get(per_leaf.len() / 2) else { return Err(ReconcileError::NoErrors) };
        let assumed = own.iter().enumerate().filter(|(_, own)| own.is_none()).map(|(node, _)| node).collect();
        let assume =
            |errors: &[f64], leaves: usize| median * leaves as f64 * if is_never_off(errors) { NEVER_OFF } else { 1.0 };
        let nodes = own.iter().zip(errors).zip(&leaf_counts);
        let values = nodes.map(|((own, errors), leaves)| own.unwrap_or_else(|| assume(errors, *leaves))).collect();
        Ok(ErrorVariances { values, assumed })
    }
}

/// Mean of the squares of what is there; `None` with fewer than two values, or where it is 0 or not finite.
fn mean_square(errors: &[f64]) -> Option<f64> {
    let (count, sum) =
        errors.iter().filter(|e| e.is_finite()).fold((0_usize, 0.0), |(count, sum), e| (count + 1, sum + e * e));
    let mean = sum / count as f64;
    (count >= 2 && mean.is_normal()).then_some(mean)
}

/// Whether there are at least two errors, and all of them are 0.
fn is_never_off(errors: &[f64]) -> bool {
    let mut known = errors.iter().filter(|error| error.is_finite());
    known.clone().count() >= 2 && known.all(|error| *error == 0.0)
}

/// Covariance matrix of the nodes' forecast errors, shrunk towards its diagonal (Schäfer and Strimmer 2005):
/// W = λ D + (1 − λ) D^½ Z Zᵀ D^½ / T, with the standardised errors Z (nodes × T) and the variances D.
///
/// Kept as D, Z and λ: nodes × T numbers for T past errors.
#[derive(Debug, Clone, PartialEq)]
pub struct ShrunkCovariance {
    variances: ErrorVariances,
    shrinkage: f64,
    /// For each past time with any error, the standardised errors of all nodes; 0 where one is missing.
    standardised: Vec<Vec<f64>>,
}

impl ShrunkCovariance {
    /// Estimates variances as [`ErrorVariances::estimate`] does, and λ so that the expected squared error of the
    /// correlations is least: λ = Σ Var(r_ij) / Σ r_ij² over i ≠ j, within [0.0001, 1].
    ///
    /// Both sums over pairs of nodes follow from the T × T products of times: Σ_ij r_ij² = ‖ZᵀZ‖² / T², and
    /// Σ_ij Σ_t z_it² z_jt² = Σ_t (Σ_i z_it²)². A missing error counts as one that is uncorrelated with all others.
    ///
    /// Takes nodes × T numbers and nodes × T² operations: give it the errors of some weeks, not of years.
    ///
    /// # Errors
    /// As [`ErrorVariances::estimate`].
    pub fn estimate(structure: &Structure, errors: &[Vec<f64>]) -> Result<ShrunkCovariance, ReconcileError> {
        let variances = ErrorVariances::estimate(structure, errors)?;
        let times = errors.first().map_or(0, Vec::len);
        let mut known = vec![true; structure.nodes()];
        for &node in &variances.assumed {
            known[node] = false;
        }
        let used: Vec<usize> = (0..times)
            .filter(|t| errors.iter().zip(&known).any(|(errors, known)| *known && errors[*t].is_finite()))
            .collect();
        let scales: Vec<f64> = (errors.iter().zip(&variances.values))
            .map(|(errors, variance)| {
                let present = errors.iter().filter(|e| e.is_finite()).count();
                (used.len() as f64 / present.max(1) as f64 / variance).sqrt()
            })
            .collect();
        let standardise = |t: usize| {
            let nodes = errors.iter().zip(&scales).zip(&known);
            nodes.map(|((e, scale), known)| if *known && e[t].is_finite() { e[t] * scale } else { 0.0 }).collect()
        };
        let standardised: Vec<Vec<f64>> = used.into_iter().map(standardise).collect();
        let shrinkage = shrinkage(&standardised, known.iter().filter(|known| **known).count());
        Ok(ShrunkCovariance { variances, shrinkage, standardised })
    }

    /// λ: 0 is the sample covariance, 1 its diagonal alone.
    pub fn shrinkage(&self) -> f64 {
        self.shrinkage
    }

    /// The diagonal of the matrix.
    pub fn variances(&self) -> &ErrorVariances {
        &self.variances
    }

    /// Marks the node at `position` as one without a forecast of its own: its variance becomes infinite.
    pub fn ignore(&mut self, position: usize) {
        if let Some(variance) = self.variances.values.get_mut(position) {
            *variance = f64::INFINITY;
            for errors in &mut self.standardised {
                errors[position] = 0.0;
            }
        }
    }

    /// Diagonal part λ D.
    pub(super) fn diagonal(&self) -> Vec<f64> {
        self.variances.values.iter().map(|variance| self.shrinkage * variance).collect()
    }

    /// Number of columns of U, where W = λ D + U Uᵀ; none where λ = 1.
    pub(super) fn rank(&self) -> usize {
        if self.shrinkage < 1.0 { self.standardised.len() } else { 0 }
    }

    /// One column of U, over nodes. `column` below [`ShrunkCovariance::rank`].
    pub(super) fn column(&self, column: usize) -> Vec<f64> {
        let weight = (1.0 - self.shrinkage) / self.standardised.len() as f64;
        // A node that is ignored has an infinite variance and no part in what errors have in common.
        let scale = |variance: &f64| if variance.is_finite() { (weight * variance).sqrt() } else { 0.0 };
        self.standardised[column].iter().zip(&self.variances.values).map(|(e, v)| e * scale(v)).collect()
    }
}

/// λ of `known` nodes with any errors, from standardised errors by time.
fn shrinkage(standardised: &[Vec<f64>], known: usize) -> f64 {
    let times = standardised.len() as f64;
    let rows = gram(standardised);
    // The lower triangle holds each pair once, the diagonal each time's own square sum.
    let mut squared_products = 0.0;
    let mut squared_sums = 0.0;
    for (t, row) in rows.iter().enumerate() {
        for (other, product) in row.iter().enumerate() {
            squared_products += if other == t { product * product } else { 2.0 * product * product };
        }
        let sum = row.last().copied().unwrap_or(0.0);
        squared_sums += sum * sum;
    }
    let fourth_powers: f64 = standardised.iter().map(|e| e.iter().map(|z| (z * z) * (z * z)).sum::<f64>()).sum();
    let own_spread = fourth_powers - known as f64 * times;
    let variance = (squared_sums - squared_products / times - own_spread) / (times * (times - 1.0));
    let correlation = squared_products / (times * times) - known as f64;
    let ratio = variance / correlation;
    if correlation > 0.0 && ratio.is_finite() { ratio.clamp(SHRINKAGE_MIN, 1.0) } else { 1.0 }
}
