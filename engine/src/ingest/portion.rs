//! How much is looked up at a time, where nobody knows beforehand how many rows there are. Pure.

/// Parts that are asked for first: few, to learn how many rows a part has.
const FIRST: usize = 64;
/// A portion is this many times as large as the one before at most: the next parts may have more rows.
const GROWTH: usize = 4;

/// The size of the next portion.
#[derive(Debug, Clone)]
pub struct Portion {
    rows_max: usize,
    parts: usize,
}

impl Portion {
    /// Portions of about so many rows at most.
    pub fn new(rows_max: usize) -> Portion {
        Portion { rows_max, parts: FIRST.min(rows_max).max(1) }
    }

    /// How many parts to ask for.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// So many parts were asked for, and had so many rows.
    pub fn found(&mut self, parts: usize, rows: usize) {
        let each = rows / parts.max(1) + 1;
        self.parts = (self.rows_max / each).min(self.parts.saturating_mul(GROWTH)).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_grow_to_what_fits_and_shrink_at_once() {
        let mut portion = Portion::new(100_000);
        let mut sizes = Vec::new();
        for each in [0, 0, 9, 9, 9, 9, 999, 999, 1_000_000, 0] {
            sizes.push(portion.parts());
            portion.found(portion.parts(), each * portion.parts());
        }
        assert_eq!(sizes, [64, 256, 1024, 4096, 10_000, 10_000, 10_000, 100, 100, 1]);
        assert_eq!(Portion::new(0).parts(), 1);
    }
}
