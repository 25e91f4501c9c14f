//! Whether a figure is flat: the straight line through its samples, by least squares.

/// Part of the median that a figure may drift over the whole run and still count as flat.
pub const FLAT: f64 = 0.10;

/// The line through samples of a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// Change a minute.
    pub slope: f64,
    /// Its standard error, as if samples were independent of each other.
    pub error: f64,
    /// The figure where the line begins.
    pub start: f64,
    /// Change from the first to the last sample, along the line.
    pub drift: f64,
    /// The figure's median.
    pub median: f64,
}

impl Trend {
    /// That of samples (minute, figure); `None` for fewer than three, or all at one time.
    pub fn of(samples: &[(f64, f64)]) -> Option<Trend> {
        let n = samples.len() as f64;
        let (first, last) = (samples.first()?.0, samples.last()?.0);
        if samples.len() < 3 || last <= first {
            return None;
        }
        let mean = |pick: fn(&(f64, f64)) -> f64| samples.iter().map(pick).sum::<f64>() / n;
        let (x, y) = (mean(|sample| sample.0), mean(|sample| sample.1));
        let spread: f64 = samples.iter().map(|sample| (sample.0 - x).powi(2)).sum();
        let slope = samples.iter().map(|sample| (sample.0 - x) * (sample.1 - y)).sum::<f64>() / spread;
        let rest: f64 = samples.iter().map(|sample| (sample.1 - y - slope * (sample.0 - x)).powi(2)).sum();
        let mut figures: Vec<f64> = samples.iter().map(|sample| sample.1).collect();
        figures.sort_by(f64::total_cmp);
        Some(Trend {
            slope,
            error: (rest / (n - 2.0) / spread).sqrt(),
            start: y + slope * (first - x),
            drift: slope * (last - first),
            median: figures[figures.len() / 2],
        })
    }

    /// The drift as a part of the median.
    pub fn relative(&self) -> f64 {
        match self.median == 0.0 {
            true if self.drift == 0.0 => 0.0,
            _ => self.drift / self.median.abs(),
        }
    }

    /// Whether it grows by more than [`FLAT`]. That this may be chance is no excuse: a noisy figure fails too.
    pub fn grows(&self) -> bool {
        self.relative() > FLAT
    }

    /// What to call it.
    pub fn verdict(&self) -> &'static str {
        match self.relative() {
            _ if self.grows() => "GROWS",
            drift if drift < -FLAT => "falls",
            _ => "flat",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(slope: f64) -> Trend {
        let samples: Vec<(f64, f64)> =
            (0..=100).map(|i| (f64::from(i) / 5.0, 50.0 + slope * f64::from(i) / 5.0)).collect();
        Trend::of(&samples).unwrap()
    }

    #[test]
    fn growth_is_told_from_none() {
        let verdicts = [(0.0, "flat"), (0.2, "flat"), (-0.2, "flat"), (0.4, "GROWS"), (-0.4, "falls")];
        for (slope, verdict) in verdicts {
            let trend = line(slope);
            assert!((trend.slope - slope).abs() < 1e-9 && (trend.drift - 20.0 * slope).abs() < 1e-9, "{trend:?}");
            assert!(trend.error < 1e-9 && (trend.start - 50.0).abs() < 1e-9, "{trend:?}");
            assert_eq!((trend.verdict(), trend.grows()), (verdict, slope == 0.4), "{slope}: {trend:?}");
        }
        assert_eq!(Trend::of(&[(0.0, 1.0), (0.0, 2.0), (0.0, 3.0)]), None);
    }
}
