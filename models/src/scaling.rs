//! Every window is brought to level 0 and spread 1, so that one model serves meters of every size.

/// Level and spread of a window, in the series' unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// Mean.
    pub level: f32,
    /// Standard deviation, at least a fiftieth of the mean absolute value; never zero.
    pub spread: f32,
}

impl Scale {
    /// Scale of `values`, which hold no missing ones.
    pub fn of(values: &[f32]) -> Scale {
        let n = values.len().max(1) as f64;
        let level = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let variance = values.iter().map(|v| (f64::from(*v) - level).powi(2)).sum::<f64>() / n;
        let size = values.iter().map(|v| f64::from(v.abs())).sum::<f64>() / n;
        Scale { level: level as f32, spread: variance.sqrt().max(0.02 * size).max(1e-6) as f32 }
    }

    /// From the series' unit.
    pub fn normalise(&self, value: f32) -> f32 {
        (value - self.level) / self.spread
    }

    /// Into the series' unit.
    pub fn restore(&self, value: f32) -> f64 {
        f64::from(value) * f64::from(self.spread) + f64::from(self.level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalised_values_are_restored() {
        for values in [vec![1.0, 2.0, 3.0], vec![5.0; 4], vec![0.0; 4], vec![-3e6, 1e6]] {
            let scale = Scale::of(&values);
            for value in values {
                let there_and_back = scale.restore(scale.normalise(value));
                assert!((there_and_back - f64::from(value)).abs() <= 1e-5 * f64::from(value.abs()).max(1.0));
                assert!(scale.normalise(value).is_finite());
            }
        }
    }
}
