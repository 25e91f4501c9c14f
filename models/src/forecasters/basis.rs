//! Rows as linear models meet them: nothing is missing, and lines may bend.

use serde::{Deserialize, Serialize};

use crate::metrics::empirical_quantile;

/// Values of a feature between which the pieces of a line have their knots, as levels of what training saw.
pub(super) const KNOTS: [f64; 6] = [0.05, 0.2, 0.4, 0.6, 0.8, 0.95];

/// What becomes of a row before it meets the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Basis {
    // By feature: what stands for a missing value.
    means: Vec<f32>,
    // Features that are not linear, with their knots.
    knots: Vec<(usize, Vec<f32>)>,
}

impl Basis {
    /// Numbers of a row that is written.
    pub fn width(&self) -> usize {
        self.means.len() + self.knots.iter().map(|(_, knots)| knots.len()).sum::<usize>()
    }

    /// Names of what is written, by those of the features.
    pub fn names(&self, features: &[String]) -> Vec<String> {
        let bent = self.knots.iter().flat_map(|(feature, knots)| {
            let name = features.get(*feature).map_or("", String::as_str);
            knots.iter().map(move |knot| format!("{name} above {knot}"))
        });
        features.iter().cloned().chain(bent).collect()
    }

    /// From rows of so many features; those of `bent`, by their places, get knots.
    pub fn of(rows: &[f32], width: usize, bent: &[usize]) -> Basis {
        let column = |feature: usize| rows.iter().skip(feature).step_by(width).filter(|value| value.is_finite());
        let mean = |feature: usize| {
            let (sum, count) = column(feature).fold((0.0, 0.0), |(s, n), v| (s + f64::from(*v), n + 1.0));
            if count > 0.0 { (sum / count) as f32 } else { 0.0 }
        };
        let knots = |feature: &usize| {
            let mut sorted: Vec<f64> = column(*feature).map(|value| f64::from(*value)).collect();
            sorted.sort_unstable_by(f64::total_cmp);
            let mut knots = KNOTS.map(|level| empirical_quantile(&sorted, level) as f32).to_vec();
            knots.retain(|knot| knot.is_finite());
            knots.dedup();
            (*feature, knots)
        };
        Basis { means: (0..width).map(mean).collect(), knots: bent.iter().map(knots).collect() }
    }

    /// Appends a row as the model meets it.
    pub fn write(&self, row: &[f32], out: &mut Vec<f32>) {
        let start = out.len();
        out.extend(row.iter().zip(&self.means).map(|(value, mean)| if value.is_finite() { *value } else { *mean }));
        for (feature, knots) in &self.knots {
            let value = out.get(start + feature).copied().unwrap_or(0.0);
            out.extend(knots.iter().map(|knot| (value - knot).max(0.0)));
        }
    }
}
