//! The best split of a leaf, from its histogram.

use super::bins::MISSING;
use super::gradients::{Cell, Units};
use super::histogram::FeatureHistogram;

/// What a split must meet, and how its gain is computed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub units: Units,
    pub leaf_rows_min: usize,
    /// Added to each side's curvature.
    pub l2: f64,
    pub gain_min: f64,
}

/// A split of a leaf's rows by one feature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Split {
    pub feature: usize,
    /// Bins up to this one go left.
    pub bin: u8,
    pub missing_left: bool,
    pub gain: f64,
    /// Sums of the rows that go left.
    pub left: Cell,
}

impl Split {
    /// Of two splits the one with the larger gain, the first when they gain the same.
    pub fn better(self, other: Option<Split>) -> Split {
        match other {
            Some(other) if other.gain > self.gain => other,
            _ => self,
        }
    }

    pub fn goes_left(&self, bin: u8) -> bool {
        if bin == MISSING { self.missing_left } else { bin <= self.bin }
    }
}

impl Rules {
    /// Squared sums of gradients, and curvature.
    #[inline(always)]
    fn parts(&self, sums: &Cell) -> (f64, f64) {
        let [first, second, curvature] = std::array::from_fn(|i| f64::from(sums.0[i]) * self.units.0[i]);
        (first * first + second * second, curvature + self.l2)
    }

    /// Second-order reduction of the loss by the best common step, doubled: G²/(H + λ) (Friedman et al. 2000).
    pub fn score(&self, sums: &Cell) -> f64 {
        let (squares, curvature) = self.parts(sums);
        if curvature > 0.0 { squares / curvature } else { 0.0 }
    }

    /// Sum of the scores of two sides, by one division.
    #[inline(always)]
    fn score_of_both(&self, left: &Cell, right: &Cell) -> f64 {
        let ((a, x), (b, y)) = (self.parts(left), self.parts(right));
        let product = x * y;
        if product > 0.0 { (a * y + b * x) / product } else { self.score(left) + self.score(right) }
    }

    /// The best split by `feature`, whose values have `bins` bins; `total` are the sums of the leaf. Missing values go
    /// to the side where they gain more; where the leaf has none, to the side with more rows.
    pub fn best(&self, feature: usize, histogram: &FeatureHistogram, bins: usize, total: &Cell) -> Option<Split> {
        let missing = histogram[usize::from(MISSING)];
        let some_missing = missing.rows() > 0;
        // A gain that is only rounding error is none.
        let floor = self.score(total) * (1.0 + 1e-9) + self.gain_min;
        let mut best: Option<(f64, u8, bool, Cell)> = None;
        let mut values = Cell::default();
        for (bin, cell) in histogram.iter().enumerate().take(bins) {
            if cell.rows() == 0 {
                continue;
            }
            values.add(cell);
            let mut with_missing = values;
            with_missing.add(&missing);
            let sides = [(values, false), (with_missing, true)];
            for (left, missing_left) in sides.into_iter().take(1 + usize::from(some_missing)) {
                let right = total.minus(&left);
                if left.rows() < self.leaf_rows_min || right.rows() < self.leaf_rows_min {
                    continue;
                }
                let score = self.score_of_both(&left, &right);
                if score > best.map_or(floor, |(score, ..)| score) {
                    // The bin is below 255: it is one of `bins`.
                    best = Some((score, bin as u8, missing_left, left));
                }
            }
        }
        best.map(|(score, bin, missing_left, left)| Split {
            feature,
            bin,
            missing_left: if some_missing { missing_left } else { 2 * left.rows() >= total.rows() },
            gain: score - self.score(total),
            left,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: Rules = Rules { units: Units([0.5, 0.25, 1.0]), leaf_rows_min: 2, l2: 1.0, gain_min: 0.0 };

    /// Every partition that a split may make, tried one by one.
    fn exhaustive(rows: &[(u8, [i32; 2])], bins: usize) -> Option<f64> {
        let score = |side: &[[i32; 2]]| {
            let g: f64 = side.iter().map(|g| f64::from(g[0]) * 0.5).sum();
            let s: f64 = side.iter().map(|g| f64::from(g[1]) * 0.25).sum();
            (g * g + s * s) / (side.len() as f64 + 1.0)
        };
        let all: Vec<[i32; 2]> = rows.iter().map(|(_, g)| *g).collect();
        let mut best = None;
        for bin in 0..bins {
            for missing_left in [false, true] {
                let goes_left = |b: u8| if b == MISSING { missing_left } else { usize::from(b) <= bin };
                let (left, right): (Vec<_>, Vec<_>) = rows.iter().partition(|(b, _)| goes_left(*b));
                if left.len() < 2 || right.len() < 2 {
                    continue;
                }
                let side = |side: Vec<(u8, [i32; 2])>| score(&side.into_iter().map(|(_, g)| g).collect::<Vec<_>>());
                let gain = side(left) + side(right) - score(&all);
                if gain > 1e-9 && best.is_none_or(|b| gain > b) {
                    best = Some(gain);
                }
            }
        }
        best
    }

    proptest! {
        #[test]
        fn the_best_split_is_the_best_of_all(
            rows in prop::collection::vec((0_u8..7, -20..20, -20..20), 0..40),
            missing_bin in prop::bool::ANY,
        ) {
            let bins = 6;
            let rows: Vec<(u8, [i32; 2])> = rows.into_iter()
                .filter(|(bin, ..)| missing_bin || *bin < 6)
                .map(|(bin, g, s)| (if bin == 6 { MISSING } else { bin }, [g, s]))
                .collect();
            let mut histogram = [Cell::default(); 256];
            let mut total = Cell::default();
            for (bin, [g, s]) in &rows {
                let cell = Cell([*g, *s, 1, 1]);
                histogram[usize::from(*bin)].add(&cell);
                total.add(&cell);
            }
            let found = RULES.best(3, &histogram, bins, &total);
            match (found, exhaustive(&rows, bins)) {
                (Some(split), Some(gain)) => {
                    prop_assert!((split.gain - gain).abs() < 1e-6 * (1.0 + gain), "{split:?} {gain}");
                    let mut left = Cell::default();
                    for (bin, [g, s]) in rows.iter().filter(|(bin, _)| split.goes_left(*bin)) {
                        prop_assert!(*bin == MISSING || usize::from(*bin) < bins);
                        left.add(&Cell([*g, *s, 1, 1]));
                    }
                    prop_assert_eq!(left, split.left);
                }
                (None, None) => {}
                (Some(split), None) => prop_assert!(split.gain < 1e-6, "{split:?}"),
                (None, Some(gain)) => prop_assert!(gain < 1e-6, "{gain}"),
            }
        }
    }

    #[test]
    fn present_and_missing_values_can_be_told_apart() {
        let mut histogram = [Cell::default(); 256];
        histogram[0] = Cell([10, 0, 5, 5]);
        histogram[usize::from(MISSING)] = Cell([-10, 0, 5, 5]);
        let split = RULES.best(0, &histogram, 1, &Cell([0, 0, 10, 10])).unwrap();
        assert!(split.goes_left(0) && !split.goes_left(MISSING));
        assert_eq!(split.left, Cell([10, 0, 5, 5]));
    }

    #[test]
    fn equal_rows_are_not_split() {
        let mut histogram = [Cell::default(); 256];
        histogram[0] = Cell([7, 3, 7, 7]);
        histogram[1] = Cell([7, 3, 7, 7]);
        let rules = Rules { l2: 0.0, ..RULES };
        assert_eq!(rules.best(0, &histogram, 2, &Cell([14, 6, 14, 14])), None);
    }
}
