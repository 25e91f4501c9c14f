//! What the linear models promise, against brute force and closed forms.

mod quantiles;
mod ridge;
mod robustness;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Design, Problem, Standardised};

/// Owned rows of a problem.
#[derive(Clone)]
struct Data {
    columns: usize,
    features: Vec<f32>,
    target: Vec<f32>,
    weights: Option<Vec<f32>>,
}

impl Data {
    /// `rows` rows of independent normal features, with targets made by `target` from the features and a normal number.
    fn normal(seed: u64, rows: usize, columns: usize, target: impl Fn(&[f32], f64) -> f64) -> Data {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut data = Data { columns, features: Vec::new(), target: Vec::new(), weights: None };
        for _ in 0..rows {
            let row: Vec<f32> = (0..columns).map(|_| normal(&mut random) as f32).collect();
            data.target.push(target(&row, normal(&mut random)) as f32);
            data.features.extend(row);
        }
        data
    }

    fn with_weights(mut self, weight: impl Fn(usize) -> f32) -> Data {
        self.weights = Some((0..self.target.len()).map(weight).collect());
        self
    }

    fn rows(&self) -> usize {
        self.target.len()
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.features[row * self.columns..(row + 1) * self.columns]
    }

    fn weight(&self, row: usize) -> f64 {
        self.weights.as_ref().map_or(1.0, |weights| f64::from(weights[row]))
    }

    fn problem(&self) -> Problem<'_> {
        let design = Design::new(&self.features, self.columns).unwrap();
        Problem { design, target: &self.target, weights: self.weights.as_deref() }
    }

    fn standardised(&self) -> Standardised {
        Standardised::new(&self.problem()).unwrap()
    }

    fn names(&self) -> Vec<String> {
        (0..self.columns).map(|column| format!("x{column}")).collect()
    }
}

fn normal(random: &mut ChaCha8Rng) -> f64 {
    let (radius, angle): (f64, f64) = (random.random(), random.random());
    (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

/// Gaussian elimination with the largest pivot first; `None` for a singular system.
fn eliminate(mut rows: Vec<Vec<f64>>, mut right: Vec<f64>) -> Option<Vec<f64>> {
    let size = right.len();
    for k in 0..size {
        let pivot = (k..size).max_by(|a, b| rows[*a][k].abs().total_cmp(&rows[*b][k].abs()))?;
        if rows[pivot][k].abs() < 1e-9 {
            return None;
        }
        rows.swap(k, pivot);
        right.swap(k, pivot);
        for i in k + 1..size {
            let pivot = rows[k].clone();
            let factor = rows[i][k] / pivot[k];
            rows[i].iter_mut().zip(&pivot).skip(k).for_each(|(cell, above)| *cell -= factor * above);
            right[i] -= factor * right[k];
        }
    }
    let mut x = vec![0.0; size];
    for k in (0..size).rev() {
        let known: f64 = (k + 1..size).map(|j| rows[k][j] * x[j]).sum();
        x[k] = (right[k] - known) / rows[k][k];
    }
    Some(x)
}
