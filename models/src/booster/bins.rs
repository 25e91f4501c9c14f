//! Features as small integers: each value becomes the number of its bin (u8).
//!
//! Bin edges are quantiles of a sample of the rows, so that bins hold about equally many rows; a value that is more
//! frequent than that has a bin to itself. Features are kept in blocks of up to eight, row after row within a block:
//! one read fetches the bins of eight features, which is what makes histograms fast (see [`super::histogram`]).

use rayon::prelude::*;

use super::matrix::Matrix;

/// Bins of values of one feature at most.
pub(super) const BINS_MAX: usize = 255;
/// The bin of missing values.
pub(super) const MISSING: u8 = 255;
/// Features of one block at most.
pub(super) const BLOCK_WIDTH: usize = 8;
/// Values per feature that bin edges are computed from.
const SAMPLE_MAX: usize = 200_000;

/// Where the bins of one feature end. Value v is in the first bin whose edge is not smaller than v, in the last bin
/// when all are.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Edges {
    /// Ascending; one fewer than bins.
    pub edges: Vec<f32>,
    /// Whether a training row misses the feature.
    pub missing: bool,
}

impl Edges {
    pub fn of(column: &[f32], bins_max: usize) -> Edges {
        // A stride that shares no factor with a season would be nicer, but a sample this large shows every phase anyway.
        let step = column.len().div_ceil(SAMPLE_MAX).max(1);
        let mut sample: Vec<f32> =
            column.iter().step_by(step).filter(|v| !v.is_nan()).map(|v| v.clamp(f32::MIN, f32::MAX)).collect();
        sample.sort_unstable_by(f32::total_cmp);
        Edges { edges: edges_of_sorted(&sample, bins_max), missing: column.iter().any(|v| v.is_nan()) }
    }

    /// Bins of values.
    pub fn bins(&self) -> usize {
        self.edges.len() + 1
    }

    /// Whether a split can be made on the feature.
    pub fn divides(&self) -> bool {
        !self.edges.is_empty() || self.missing
    }

    pub fn bin(&self, value: f32) -> u8 {
        if value.is_nan() {
            return MISSING;
        }
        // At most 254 edges, so the bin fits.
        self.edges.partition_point(|edge| *edge < value) as u8
    }

    /// The largest value that a split after `bin` sends left.
    pub fn threshold(&self, bin: u8) -> f32 {
        self.edges.get(usize::from(bin)).copied().unwrap_or(f32::MAX)
    }
}

fn edges_of_sorted(sorted: &[f32], bins_max: usize) -> Vec<f32> {
    let mut distinct: Vec<(f32, usize)> = Vec::new();
    for value in sorted {
        match distinct.last_mut() {
            Some((last, count)) if last == value => *count += 1,
            _ => distinct.push((*value, 1)),
        }
    }
    let mut edges = Vec::new();
    // What is left is spread anew over the bins left after each bin, so that frequent values do not starve the others.
    let (mut in_bin, mut rows_left, mut bins_left) = (0_usize, sorted.len(), bins_max);
    let one_each = distinct.len() <= bins_max;
    for (i, pair) in distinct.windows(2).enumerate() {
        let ((value, count), (next, next_count)) = (pair[0], pair[1]);
        in_bin += count;
        let size = rows_left.div_ceil(bins_left.max(1));
        // A bin also ends where the next value would overshoot its size by more than the bin falls short of it.
        let full = in_bin >= size || (in_bin + next_count).saturating_sub(size) > size - in_bin;
        let must = distinct.len() - 1 - i <= bins_left.saturating_sub(1);
        if bins_left > 1 && (one_each || must || full) {
            edges.push(between(value, next));
            rows_left -= in_bin;
            bins_left -= 1;
            in_bin = 0;
        }
    }
    edges
}

/// A number e with low ≤ e < high, the middle where there is one.
fn between(low: f32, high: f32) -> f32 {
    let middle = ((f64::from(low) + f64::from(high)) / 2.0) as f32;
    if middle >= low && middle < high { middle } else { low }
}

/// Bins of some features of all rows.
#[derive(Debug)]
pub(super) struct Block {
    /// Features of the block; the feature at place i has its bins at place i of each row.
    pub features: Vec<usize>,
    pub rows: Vec<[u8; BLOCK_WIDTH]>,
}

/// Bins of all features on which a split can be made.
#[derive(Debug)]
pub(super) struct Binned {
    pub blocks: Vec<Block>,
    /// Block and place in it, per feature.
    places: Vec<(usize, usize)>,
}

impl Binned {
    /// The number of blocks is a multiple of `threads`, so that all of them have equally much to do; nothing else
    /// depends on it.
    pub fn new(x: &Matrix, edges: &[Edges], threads: usize) -> Binned {
        let used: Vec<usize> = (0..edges.len()).filter(|f| edges[*f].divides()).collect();
        let count = used.len().div_ceil(BLOCK_WIDTH).next_multiple_of(threads.max(1)).min(used.len());
        let mut places = vec![(0, 0); edges.len()];
        let mut groups: Vec<Vec<usize>> = vec![Vec::new(); count];
        for (i, feature) in used.iter().enumerate() {
            let block = i * count / used.len();
            places[*feature] = (block, groups[block].len());
            groups[block].push(*feature);
        }
        let blocks = groups.into_par_iter().map(|features| Block::new(x, edges, features)).collect();
        Binned { blocks, places }
    }

    /// The bins of one feature by row.
    pub fn column(&self, feature: usize) -> impl Fn(u32) -> u8 + Sync + '_ {
        let (block, place) = self.places[feature];
        let rows = &self.blocks[block].rows;
        move |row| rows[row as usize][place]
    }

    /// The bin of one feature of one row.
    pub fn bin(&self, feature: usize, row: u32) -> u8 {
        let (block, place) = self.places[feature];
        self.blocks[block].rows[row as usize][place]
    }
}

impl Block {
    fn new(x: &Matrix, edges: &[Edges], features: Vec<usize>) -> Block {
        const CHUNK: usize = 4096;
        let mut rows = vec![[MISSING; BLOCK_WIDTH]; x.rows()];
        rows.par_chunks_mut(CHUNK).enumerate().for_each(|(i, chunk)| {
            for (place, feature) in features.iter().enumerate() {
                let values = &x.column(*feature)[i * CHUNK..];
                for (row, value) in chunk.iter_mut().zip(values) {
                    row[place] = edges[*feature].bin(*value);
                }
            }
        });
        Block { features, rows }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_distinct_values_have_a_bin_each() {
        let edges = Edges::of(&[3.0, 1.0, 2.0, 1.0, f32::NAN], 255);
        assert_eq!(edges, Edges { edges: vec![1.5, 2.5], missing: true });
        for (value, bin) in [(0.0, 0), (1.0, 0), (1.5, 0), (1.6, 1), (2.0, 1), (9.0, 2), (f32::INFINITY, 2)] {
            assert_eq!(edges.bin(value), bin, "{value}");
        }
        assert_eq!(edges.bin(f32::NAN), MISSING);
        assert_eq!((edges.threshold(0), edges.threshold(2)), (1.5, f32::MAX));
    }

    #[test]
    fn many_values_are_spread_evenly() {
        let column: Vec<f32> = (0..10_000).map(|i| (i * 7919 % 10_000) as f32).collect();
        let edges = Edges::of(&column, 100);
        assert_eq!(edges.bins(), 100);
        let mut counts = vec![0; 100];
        column.iter().for_each(|v| counts[usize::from(edges.bin(*v))] += 1);
        assert!(counts.iter().all(|c| (90..=110).contains(c)), "{counts:?}");
    }

    #[test]
    fn a_frequent_value_has_a_bin_to_itself_and_leaves_enough_bins_to_the_others() {
        let column: Vec<f32> = (0..10_000).map(|i| if i % 2 == 0 { 500.0 } else { i as f32 }).collect();
        let edges = Edges::of(&column, 50);
        assert!((45..=50).contains(&edges.bins()), "{}", edges.bins());
        let bin = edges.bin(500.0);
        let others = column.iter().filter(|v| **v != 500.0 && edges.bin(**v) == bin).count();
        assert!(others <= 200, "{others}");
    }

    #[test]
    fn neighbouring_numbers_are_told_apart() {
        for (low, high) in [(1.0, 1.0_f32.next_up()), (f32::MIN, f32::MAX), (-f32::from_bits(1), 0.0)] {
            let edge = between(low, high);
            assert!(low <= edge && edge < high, "{low} {high} {edge}");
        }
        let edges = Edges::of(&[f32::NEG_INFINITY, f32::INFINITY, 0.0], 255);
        assert_eq!([edges.bin(f32::NEG_INFINITY), edges.bin(0.0), edges.bin(f32::INFINITY)], [0, 1, 2]);
    }

    #[test]
    fn features_that_divide_nothing_are_left_out() {
        for (column, divides) in
            [(vec![], false), (vec![1.0; 5], false), (vec![f32::NAN; 5], true), (vec![1.0, f32::NAN], true)]
        {
            assert_eq!(Edges::of(&column, 255).divides(), divides, "{column:?}");
        }
    }

    #[test]
    fn blocks_hold_the_bins_of_every_feature() {
        let columns: Vec<Vec<f32>> =
            (0..19).map(|f| (0..5000).map(|r| ((r * (f + 3)) % 50) as f32).collect()).collect();
        let x = Matrix::from_columns(&columns).unwrap();
        let edges: Vec<Edges> = columns.iter().map(|c| Edges::of(c, 255)).collect();
        for threads in [1, 2, 16] {
            let binned = Binned::new(&x, &edges, threads);
            assert_eq!(binned.blocks.len() % threads.min(19), 0);
            for f in 0..19 {
                let bin = binned.column(f);
                assert!((0..5000).all(|r| bin(r as u32) == edges[f].bin(columns[f][r])), "{f}");
            }
        }
    }
}
