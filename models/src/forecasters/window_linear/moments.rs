//! Sums of products of a series with itself, shifted: all that least squares on windows needs of it.
//!
//! A window that begins one step later has the same products but for those at its ends. So the sums of all windows of a
//! series are found by a recurrence, in (windows + lags) × (lags + steps) instead of windows × lags × (lags + steps)
//! operations, and the choice of a length needs no further look at the series.

use crate::dense::dot;

/// Sums over origins t of x(t−1−i)·x(t−1−j), x(t−1−i)·x(t+h) and x(t+h)², with lags i, j and steps h from 0.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Moments {
    pub lags: usize,
    pub steps: usize,
    /// Origins.
    pub windows: usize,
    // lags × lags, both triangles.
    past: Vec<f64>,
    // lags × steps.
    ahead: Vec<f64>,
    // By step.
    squares: Vec<f64>,
}

impl Moments {
    pub fn zeros(lags: usize, steps: usize) -> Moments {
        Moments {
            lags,
            steps,
            windows: 0,
            past: vec![0.0; lags * lags],
            ahead: vec![0.0; lags * steps],
            squares: vec![0.0; steps],
        }
    }

    /// Adds the windows of `values` whose origins are `from..to`. Origins without all of their lags or steps are left out.
    pub fn add(&mut self, values: &[f64], from: usize, to: usize) {
        let (lags, steps) = (self.lags, self.steps);
        let from = from.max(lags);
        let to = to.min((values.len() + 1).saturating_sub(steps));
        if from >= to || lags == 0 || steps == 0 {
            return;
        }
        let count = to - from;
        self.windows += count;
        // What is before the first value counts as 0: the recurrence below is about any sequence.
        let at = |index: usize, back: usize| index.checked_sub(back).map_or(0.0, |i| values[i]);
        // Σ x(t−1)·x(t−1−j)
        let newest = &values[from - 1..to - 1];
        let first: Vec<f64> = (0..lags).map(|j| dot(newest, &values[from - 1 - j..to - 1 - j])).collect();
        let mut row = first.clone();
        for (j, sum) in row.iter().enumerate() {
            self.past[j] += sum;
        }
        for (i, newest) in first.iter().enumerate().skip(1) {
            // From the row above, shifted: one origin more at the beginning, one less at the end.
            for j in (1..lags).rev() {
                row[j] = row[j - 1] + at(from - 1, i) * at(from - 1, j) - at(to - 1, i) * at(to - 1, j);
            }
            row[0] = *newest;
            for (j, sum) in row.iter().enumerate() {
                self.past[i * lags + j] += sum;
            }
        }
        // Σ x(t)·x(t−1−i), of lags that the other steps come from, too.
        let targets = &values[from..to];
        let mut column: Vec<f64> = (0..lags + steps)
            .map(|i| {
                // Products with what is before the first value are none.
                let missing = (i + 1).saturating_sub(from).min(count);
                dot(&targets[missing..], &values[(from + missing).saturating_sub(i + 1)..(to).saturating_sub(i + 1)])
            })
            .collect();
        for h in 0..steps {
            for (i, sum) in column.iter().take(lags).enumerate() {
                self.ahead[i * steps + h] += sum;
            }
            let squares = &values[from + h..to + h];
            self.squares[h] += dot(squares, squares);
            if h + 1 == steps {
                break;
            }
            for i in 0..lags + steps - h - 1 {
                // Origins one later: one less at the beginning, one more at the end.
                column[i] = column[i + 1] - at(from, i + 2) * values[from + h] + at(to, i + 2) * values[to + h];
            }
        }
    }

    /// Adds those of other windows, as often as `weight` says.
    pub fn merge(&mut self, other: &Moments) {
        self.windows += other.windows;
        let pairs =
            [(&mut self.past, &other.past), (&mut self.ahead, &other.ahead), (&mut self.squares, &other.squares)];
        for (sums, more) in pairs {
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
    }

    /// Those of the newest `lags` alone, of windows and targets from which the mean of those lags is taken.
    pub fn centred(&self, lags: usize) -> Centred {
        let lags = lags.min(self.lags);
        let n = lags as f64;
        let past = |i: usize, j: usize| self.past[i * self.lags + j];
        let rows: Vec<f64> = (0..lags).map(|i| (0..lags).map(|j| past(i, j)).sum::<f64>() / n).collect();
        let all = rows.iter().sum::<f64>() / n;
        let mut gram = Vec::with_capacity(lags * lags);
        for i in 0..lags {
            gram.extend((0..lags).map(|j| past(i, j) - rows[i] - rows[j] + all));
        }
        let mut cross = vec![0.0; self.steps * lags];
        let mut squares = vec![0.0; self.steps];
        for h in 0..self.steps {
            let ahead = |i: usize| self.ahead[i * self.steps + h];
            let mean = (0..lags).map(ahead).sum::<f64>() / n;
            for i in 0..lags {
                cross[h * lags + i] = ahead(i) - mean - rows[i] + all;
            }
            squares[h] = self.squares[h] - 2.0 * mean + all;
        }
        Centred { lags, steps: self.steps, gram, cross, squares }
    }
}

/// Moments of windows that have the mean 0, and of targets relative to it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Centred {
    pub lags: usize,
    pub steps: usize,
    /// lags × lags.
    pub gram: Vec<f64>,
    /// steps × lags.
    pub cross: Vec<f64>,
    /// By step.
    pub squares: Vec<f64>,
}

impl Centred {
    pub fn row(&self, lag: usize) -> &[f64] {
        &self.gram[lag * self.lags..(lag + 1) * self.lags]
    }

    pub fn of_step(&self, step: usize) -> &[f64] {
        &self.cross[step * self.lags..(step + 1) * self.lags]
    }

    /// Sum of the squared errors of a forecast of one step by these coefficients.
    pub fn squared_errors(&self, step: usize, coefficients: &[f64]) -> f64 {
        let quadratic: f64 = coefficients.iter().enumerate().map(|(i, c)| c * dot(self.row(i), coefficients)).sum();
        self.squares[step] - 2.0 * dot(self.of_step(step), coefficients) + quadratic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize) -> Vec<f64> {
        (0..count).map(|i| ((i * 7919) % 101) as f64 / 50.0 - 1.0 + (i as f64 / 9.0).sin()).collect()
    }

    #[test]
    fn the_recurrence_gives_the_sums_of_all_windows() {
        let x = values(120);
        for (lags, steps, from, to) in
            [(5, 3, 0, 1000), (12, 20, 30, 60), (1, 1, 7, 9), (40, 7, 0, 90), (7, 40, 50, 52)]
        {
            let mut found = Moments::zeros(lags, steps);
            found.add(&x, from, to);
            let origins: Vec<usize> = (from.max(lags)..to).filter(|t| t + steps <= x.len()).collect();
            assert_eq!(found.windows, origins.len());
            let sum = |of: &dyn Fn(usize) -> f64| origins.iter().map(|t| of(*t)).sum::<f64>();
            for i in 0..lags {
                for j in 0..lags {
                    let expected = sum(&|t| x[t - 1 - i] * x[t - 1 - j]);
                    assert!((found.past[i * lags + j] - expected).abs() < 1e-9, "{lags} {steps}: {i} {j}");
                }
                for h in 0..steps {
                    let expected = sum(&|t| x[t - 1 - i] * x[t + h]);
                    assert!((found.ahead[i * steps + h] - expected).abs() < 1e-9, "{lags} {steps}: {i} ahead {h}");
                }
            }
            for h in 0..steps {
                assert!((found.squares[h] - sum(&|t| x[t + h] * x[t + h])).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn errors_come_from_the_moments_alone() {
        let x = values(90);
        let (lags, steps) = (6, 4);
        let mut all = Moments::zeros(9, steps);
        all.add(&x, 0, 90);
        let centred = all.centred(lags);
        let coefficients = [0.5, -0.2, 0.1, 0.0, 0.3, -0.4];
        for step in 0..steps {
            let error = |t: usize| {
                let mean = (1..=lags).map(|back| x[t - back]).sum::<f64>() / lags as f64;
                let told: f64 = coefficients.iter().enumerate().map(|(i, c)| c * (x[t - 1 - i] - mean)).sum();
                (x[t + step] - mean - told).powi(2)
            };
            let expected: f64 = (9..=90 - steps).map(error).sum();
            assert!((centred.squared_errors(step, &coefficients) - expected).abs() < 1e-9, "{step}");
        }
    }

    #[test]
    fn nothing_is_added_where_no_window_fits() {
        let mut none = Moments::zeros(10, 5);
        none.add(&values(14), 0, 100);
        none.add(&values(40), 30, 30);
        assert_eq!(none, Moments::zeros(10, 5));
    }
}
