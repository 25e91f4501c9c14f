//! Autoregressive errors: a few recent lags and one each season back (Box and Jenkins 1970), kept stationary.

use super::linear::{Gram, aicc};

/// Highest order of the recent lags.
pub const ORDER_MAX: usize = 5;
/// Seasonal lags at most: each doubles the number of regressions.
const SEASONS_MAX: usize = 3;
/// Longest seasonal lag: the test for stationarity takes its square.
const SEASONAL_LAG_MAX: usize = 2_000;
/// Reflection coefficients stay below this, so that the process returns to its mean.
const REFLECTION_MAX: f64 = 0.9995;

/// xₜ = Σ φ xₜ₋ₗₐ₉ + e over a few lags.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Autoregression {
    /// Lags in steps with their coefficients, ascending.
    pub terms: Vec<(usize, f64)>,
}

impl Autoregression {
    /// The lags up to [`ORDER_MAX`], and those of `seasons` (the first three that are longer), that AICc
    /// prefers, by least squares over the steps whose lags are all known (NaN is missing); no term where there are too
    /// few. Coefficients of a process that would not return to zero are shrunk until it does.
    pub fn fit(values: &[f64], seasons: &[usize]) -> Autoregression {
        let usable = |lag: &usize| (ORDER_MAX + 1..=SEASONAL_LAG_MAX).contains(lag) && values.len() / 3 >= *lag;
        let seasons: Vec<usize> = seasons.iter().copied().filter(usable).take(SEASONS_MAX).collect();
        let lags: Vec<usize> = (1..=ORDER_MAX).chain(seasons.iter().copied()).collect();
        let mut gram = Gram::new(lags.len());
        let mut row = vec![0.0; lags.len()];
        let furthest = lags.last().copied().unwrap_or(0);
        for (step, value) in values.iter().enumerate().skip(furthest) {
            row.iter_mut().zip(&lags).for_each(|(x, lag)| *x = values[step - lag]);
            if value.is_finite() && row.iter().all(|x| x.is_finite()) {
                gram.add(&row, *value);
            }
        }
        let mut best = (f64::INFINITY, Autoregression::default());
        for order in 0..=ORDER_MAX {
            for subset in 0..1_usize << seasons.len() {
                let with = (0..seasons.len()).filter(|i| subset >> i & 1 == 1);
                let columns: Vec<usize> = (0..order).chain(with.map(|i| ORDER_MAX + i)).collect();
                let Some(solution) = gram.solve(&columns, &[]) else {
                    continue;
                };
                let criterion = aicc(solution.squares, 0.0, gram.rows(), columns.len() + 1);
                if criterion < best.0 {
                    let terms = columns.iter().map(|c| lags[*c]).zip(solution.coefficients).collect();
                    best = (criterion, Autoregression { terms });
                }
            }
        }
        best.1.stationary()
    }

    /// Largest lag; 0 without a term.
    pub fn furthest(&self) -> usize {
        self.terms.last().map_or(0, |(lag, _)| *lag)
    }

    /// The same process with roots moved towards zero until it is stationary.
    fn stationary(mut self) -> Autoregression {
        let mut shrink = 0.0_f64;
        let original = self.terms.clone();
        while !self.is_stationary() {
            shrink = if shrink == 0.0 { 1e-4 } else { shrink * 2.0 };
            if shrink >= 1.0 {
                return Autoregression::default();
            }
            for ((lag, coefficient), (_, original)) in self.terms.iter_mut().zip(&original) {
                // Multiplies every root of the characteristic polynomial by 1 − shrink.
                *coefficient = original * (*lag as f64 * (-shrink).ln_1p()).exp();
            }
        }
        self
    }

    /// Whether all reflection coefficients are below one in size, by the Levinson recursion backwards.
    fn is_stationary(&self) -> bool {
        let mut coefficients = vec![0.0; self.furthest()];
        for (lag, coefficient) in &self.terms {
            coefficients[lag - 1] = *coefficient;
        }
        while let Some(reflection) = coefficients.pop() {
            if reflection.is_nan() || reflection.abs() >= REFLECTION_MAX {
                return false;
            }
            let order = coefficients.len();
            let scale = 1.0 / (1.0 - reflection * reflection);
            let before = coefficients.clone();
            for (i, coefficient) in coefficients.iter_mut().enumerate() {
                *coefficient = (before[i] + reflection * before[order - 1 - i]) * scale;
            }
        }
        true
    }

    /// What the process makes of `column` at `step`, apart from its expectation: the column minus its weighted lags;
    /// NaN before the furthest lag is known.
    pub fn whiten(&self, column: &[f64], step: usize) -> f64 {
        if step < self.furthest() {
            return f64::NAN;
        }
        self.terms.iter().fold(column[step], |rest, (lag, coefficient)| rest - coefficient * column[step - lag])
    }

    /// Expectation of the `horizon` steps after `values`; a missing value is its own expectation.
    pub fn forecast(&self, values: &[f64], horizon: usize) -> Vec<f64> {
        let mut path = values.to_vec();
        path.resize(values.len() + horizon, f64::NAN);
        for step in 0..path.len() {
            if !path[step].is_finite() {
                let known = self.terms.iter().filter(|(lag, _)| *lag <= step);
                path[step] = known.map(|(lag, coefficient)| coefficient * path[step - lag]).sum();
            }
        }
        path.split_off(values.len())
    }

    /// Response 0, 1, …, `horizon` − 1 steps after a unit error: the ψ weights.
    pub fn psi(&self, horizon: usize) -> Vec<f64> {
        let mut psi: Vec<f64> = Vec::with_capacity(horizon);
        for step in 0..horizon {
            let known = self.terms.iter().filter(|(lag, _)| *lag <= step);
            let response: f64 = known.map(|(lag, coefficient)| coefficient * psi[step - lag]).sum();
            psi.push(if step == 0 { 1.0 } else { response });
        }
        psi
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::testing::gaussian_noise;

    fn simulated(seed: u64, length: usize, terms: &[(usize, f64)]) -> Vec<f64> {
        let mut values = gaussian_noise(seed, length);
        for step in 0..length {
            for (lag, coefficient) in terms {
                if *lag <= step {
                    values[step] += coefficient * values[step - lag];
                }
            }
        }
        values
    }

    #[test]
    fn planted_coefficients_are_found_also_with_gaps() {
        for terms in [vec![(1, 0.7)], vec![(1, 0.5), (2, 0.3)], vec![(1, 0.5), (24, 0.4)]] {
            let mut values = simulated(3, 6_000, &terms);
            values[1000..1010].fill(f64::NAN);
            let found = Autoregression::fit(&values, &[24]);
            let coefficient = |lag: usize| found.terms.iter().find(|(l, _)| *l == lag).map_or(0.0, |(_, c)| *c);
            for (lag, planted) in &terms {
                assert!((coefficient(*lag) - planted).abs() < 0.05, "{terms:?} {found:?}");
            }
        }
    }

    #[test]
    fn responses_and_expectations_of_one_lag_are_powers() {
        let process = Autoregression { terms: vec![(1, 0.5)] };
        assert_eq!(process.psi(4), vec![1.0, 0.5, 0.25, 0.125]);
        assert_eq!(process.forecast(&[3.0, 8.0, f64::NAN], 2), vec![2.0, 1.0]);
        assert_eq!(process.whiten(&[2.0, 3.0], 1), 2.0);
        assert!(process.whiten(&[2.0, 3.0], 0).is_nan());
    }

    #[test]
    fn a_process_that_explodes_is_tamed() {
        let values: Vec<f64> = (0..60).map(|t| 1.2_f64.powi(t)).collect();
        let found = Autoregression::fit(&values, &[]);
        assert!(found.psi(500).iter().all(|p| p.abs() < 10.0), "{found:?}");
        for (terms, stationary) in [
            (vec![(1, 0.9)], true),
            (vec![(1, 1.1)], false),
            (vec![(1, 0.5), (2, 0.6)], false),
            (vec![(1, 1.2), (2, -0.5)], true),
            (vec![(1, 0.7), (24, 0.4)], false),
            (vec![(1, f64::NAN)], false),
        ] {
            assert_eq!(Autoregression { terms: terms.clone() }.is_stationary(), stationary, "{terms:?}");
        }
    }

    #[test]
    fn too_little_gives_no_term() {
        for values in [vec![], vec![1.0; 4], vec![f64::NAN; 50], vec![0.0; 50]] {
            assert_eq!(Autoregression::fit(&values, &[7]).psi(3)[0], 1.0, "{values:?}");
        }
        assert!(Autoregression::fit(&[1.0; 4], &[]).terms.is_empty());
    }
}
