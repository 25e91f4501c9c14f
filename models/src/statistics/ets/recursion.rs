//! The innovations recursion of additive exponential smoothing, and its best initial state.
//!
//! With additive errors the one-step errors are linear in the initial state, so for given smoothing parameters the
//! level and slope at the start that minimise the squared errors are a regression of two columns, found in the same
//! pass. Only the smoothing parameters are left to a numerical search.

use serde::{Deserialize, Serialize};

/// Smoothing parameters in the notation of Hyndman, Koehler, Ord and Snyder (2008).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Smoothing {
    /// α: share of an error that the level keeps.
    pub alpha: f64,
    /// β: share of an error that the slope keeps, at most α; 0 without a trend.
    pub beta: f64,
    /// γ: share of an error that the phase's index keeps, at most 1 − α; 0 without a season.
    pub gamma: f64,
    /// φ: what is left of the slope after a step; 1 for a trend that goes on, 0 without a trend.
    pub phi: f64,
}

/// Level, slope and seasonal indices at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Level, in the unit of the series.
    pub level: f64,
    /// Slope per step; 0 without a trend.
    pub slope: f64,
    /// Seasonal indices by step modulo the period; empty without a season.
    pub season: Vec<f64>,
}

impl State {
    fn response(level: f64, slope: f64, period: usize) -> State {
        State { level, slope, season: vec![0.0; period] }
    }

    #[inline]
    fn expected(&self, phase: usize, smoothing: &Smoothing) -> f64 {
        self.level + smoothing.phi * self.slope + self.season.get(phase).copied().unwrap_or(0.0)
    }

    #[inline]
    fn advance(&mut self, phase: usize, error: f64, smoothing: &Smoothing) {
        let slope = smoothing.phi * self.slope;
        self.level += slope + smoothing.alpha * error;
        self.slope = slope + smoothing.beta * error;
        if let Some(index) = self.season.get_mut(phase) {
            *index += smoothing.gamma * error;
        }
    }

    fn faded(&self) -> bool {
        self.season.is_empty() && self.level.abs() + self.slope.abs() < 1e-12
    }
}

/// Runs the recursion over `values` and gives `visit` each step, the state before it and its error; a missing value has
/// no error. Returns the state after the last value.
pub fn filter(
    values: &[f64],
    smoothing: &Smoothing,
    mut state: State,
    mut visit: impl FnMut(usize, &State, Option<f64>),
) -> State {
    let period = state.season.len().max(1);
    let mut phase = 0;
    for (step, value) in values.iter().enumerate() {
        let error = value - state.expected(phase, smoothing);
        let error = (!error.is_nan()).then_some(error);
        visit(step, &state, error);
        state.advance(phase, error.unwrap_or(0.0), smoothing);
        phase = if phase + 1 == period { 0 } else { phase + 1 };
    }
    state
}

/// `start` with the level, and with `trend` the slope, that minimise the sum of squared errors over `values`; and that
/// sum.
pub fn best_initial(values: &[f64], smoothing: &Smoothing, start: &State, trend: bool) -> (State, f64) {
    let period = start.season.len();
    let mut state = start.clone();
    // What a unit of level and a unit of slope at the start add to the errors: the recursion over zeros.
    let mut level = State::response(1.0, 0.0, period);
    let mut slope = State::response(0.0, if trend { 1.0 } else { 0.0 }, period);
    let (mut ee, mut ue, mut ve, mut uu, mut uv, mut vv) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
    let mut phase = 0;
    let mut faded = false;
    for value in values {
        let e = value - state.expected(phase, smoothing);
        let missing = e.is_nan();
        let e = if missing { 0.0 } else { e };
        state.advance(phase, e, smoothing);
        ee += e * e;
        if !faded {
            let (mut u, mut v) = (0.0, 0.0);
            if !missing {
                u = -level.expected(phase, smoothing);
                v = -slope.expected(phase, smoothing);
            }
            level.advance(phase, u, smoothing);
            slope.advance(phase, v, smoothing);
            ue += u * e;
            ve += v * e;
            uu += u * u;
            uv += u * v;
            vv += v * v;
            faded = level.faded() && slope.faded();
        }
        phase = if phase + 1 >= period.max(1) { 0 } else { phase + 1 };
    }
    let determinant = uu * vv - uv * uv;
    let (shift, tilt) = if determinant > 1e-10 * uu * vv && determinant > 0.0 {
        ((uv * ve - vv * ue) / determinant, (uv * ue - uu * ve) / determinant)
    } else if uu > 0.0 {
        (-ue / uu, 0.0)
    } else {
        (0.0, 0.0)
    };
    let mut best = start.clone();
    best.level += shift;
    best.slope += tilt;
    (best, (ee + shift * ue + tilt * ve).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::testing::gaussian_noise;

    fn squares(values: &[f64], smoothing: &Smoothing, state: &State) -> f64 {
        let mut sum = 0.0;
        filter(values, smoothing, state.clone(), |_, _, e| sum += e.unwrap_or(0.0).powi(2));
        sum
    }

    #[test]
    fn simple_smoothing_is_a_weighted_mean_of_the_past() {
        let values = [3.0, 5.0, 4.0, 8.0];
        let smoothing = Smoothing { alpha: 0.3, beta: 0.0, gamma: 0.0, phi: 0.0 };
        let end = filter(&values, &smoothing, State { level: 2.0, slope: 0.0, season: vec![] }, |_, _, _| {});
        let weighted: f64 = (0..4).map(|j| 0.3 * 0.7_f64.powi(j) * values[3 - j as usize]).sum();
        assert!((end.level - (weighted + 0.7_f64.powi(4) * 2.0)).abs() < 1e-12);
    }

    #[test]
    fn the_best_initial_state_is_a_minimum_and_its_sum_is_true() {
        let mut values: Vec<f64> =
            gaussian_noise(3, 50).into_iter().enumerate().map(|(t, e)| 7.0 + 0.4 * t as f64 + e).collect();
        values[10] = f64::NAN;
        for (alpha, beta, gamma, phi, period) in
            [(0.2, 0.05, 0.0, 1.0, 0), (0.5, 0.1, 0.2, 0.9, 4), (0.9, 0.0, 0.0, 0.0, 0)]
        {
            let smoothing = Smoothing { alpha, beta, gamma, phi };
            let start = State { level: 5.0, slope: 0.0, season: vec![0.0; period] };
            let (best, sum) = best_initial(&values, &smoothing, &start, phi > 0.0);
            assert!((sum - squares(&values, &smoothing, &best)).abs() < 1e-8 * sum);
            for (level, slope) in [(0.1, 0.0), (-0.1, 0.0), (0.0, 0.01), (0.0, -0.01)] {
                let moved = State { level: best.level + level, slope: best.slope + slope, ..best.clone() };
                assert!(squares(&values, &smoothing, &moved) >= sum - 1e-9);
            }
        }
    }
}
