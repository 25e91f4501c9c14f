//! Growing one tree: always the leaf whose split gains most is split next (best-first, Shi 2007).

use std::ops::Range;

use rayon::prelude::*;

use super::bins::{Binned, Edges};
use super::gradients::{CHUNK, Cell};
use super::histogram::{self, BlockHistogram};
use super::split::{Rules, Split};
use super::tree::Node;

/// The structure of a tree, and where its rows are.
#[derive(Debug, Default)]
pub(super) struct Grown {
    pub nodes: Vec<Node>,
    /// One a node.
    pub splits: Vec<Split>,
    /// Which part of the row numbers each leaf holds.
    pub leaves: Vec<Range<usize>>,
}

/// Memory that trees share, and what they are grown from.
pub(super) struct Grower<'a> {
    binned: &'a Binned,
    edges: &'a [Edges],
    spare: Vec<Vec<BlockHistogram>>,
    /// Cells in the order of a leaf's rows.
    cells: Vec<Cell>,
}

/// A leaf that may still be split.
struct Open {
    rows: Range<usize>,
    total: Cell,
    /// Node and side that lead here.
    parent: Option<(usize, usize)>,
    /// The best split and the histogram, when it can be split.
    best: Option<(Split, Vec<BlockHistogram>)>,
}

impl<'a> Grower<'a> {
    pub fn new(binned: &'a Binned, edges: &'a [Edges]) -> Grower<'a> {
        Grower { binned, edges, spare: Vec::new(), cells: Vec::new() }
    }

    /// Grows a tree of `rows`, which are put in the order of its leaves. `cells` has the gradients of all rows of the
    /// data, `places` the features that may be used: places in each block.
    pub fn grow(
        &mut self,
        rows: &mut [u32],
        cells: &[Cell],
        places: &[Vec<usize>],
        rules: &Rules,
        leaves_max: usize,
    ) -> Grown {
        let mut grown = Grown::default();
        let mut leaves = vec![self.root(rows, cells, places, rules)];
        while leaves.len() < leaves_max {
            let mut next: Option<(usize, f64)> = None;
            for (i, leaf) in leaves.iter().enumerate() {
                let gain = leaf.best.as_ref().map(|(split, _)| split.gain);
                if let Some(gain) = gain.filter(|gain| next.is_none_or(|(_, most)| *gain > most)) {
                    next = Some((i, gain));
                }
            }
            let Some((i, (split, histogram))) = next.and_then(|(i, _)| Some((i, leaves[i].best.take()?))) else {
                break;
            };
            let range = leaves[i].rows.clone();
            let left_rows = partition(&mut rows[range.clone()], &split, self.binned);
            let middle = range.start + left_rows;
            let node = grown.nodes.len();
            if let Some((parent, side)) = leaves[i].parent {
                grown.nodes[parent].children[side] = node as i32;
            }
            grown.nodes.push(Node {
                feature: split.feature as u32,
                threshold: self.edges[split.feature].threshold(split.bin),
                missing_left: split.missing_left,
                children: [!(i as i32), !(leaves.len() as i32)],
            });
            grown.splits.push(split);
            let right = leaves[i].total.minus(&split.left);
            let mut sides = [
                Open { rows: range.start..middle, total: split.left, parent: Some((node, 0)), best: None },
                Open { rows: middle..range.end, total: right, parent: Some((node, 1)), best: None },
            ];
            if leaves.len() + 1 < leaves_max {
                self.find_both(&mut sides, histogram, rows, cells, places, rules);
            } else {
                self.spare.push(histogram);
            }
            let [left, right] = sides;
            leaves[i] = left;
            leaves.push(right);
        }
        for leaf in leaves {
            grown.leaves.push(leaf.rows);
            self.spare.extend(leaf.best.map(|(_, histogram)| histogram));
        }
        grown
    }

    fn root(&mut self, rows: &[u32], cells: &[Cell], places: &[Vec<usize>], rules: &Rules) -> Open {
        let mut total = Cell::default();
        rows.iter().for_each(|row| total.add(&cells[*row as usize]));
        let mut histogram = self.take();
        self.gather(rows, cells);
        let ordered = &self.cells;
        let splits: Vec<Option<Split>> = histogram
            .par_iter_mut()
            .enumerate()
            .map(|(block, histogram)| {
                histogram::fill(histogram, &self.binned.blocks[block], &places[block], rows, ordered);
                self.best(block, histogram, &places[block], &total, rules)
            })
            .collect();
        let best = splits.into_iter().flatten().reduce(|best, split| best.better(Some(split)));
        Open { rows: 0..rows.len(), total, parent: None, best: self.keep(best, histogram) }
    }

    /// Finds the best splits of two leaves that were one, whose histogram is `whole`. Only the smaller one's rows are
    /// looked at.
    fn find_both(
        &mut self,
        sides: &mut [Open; 2],
        mut whole: Vec<BlockHistogram>,
        rows: &[u32],
        cells: &[Cell],
        places: &[Vec<usize>],
        rules: &Rules,
    ) {
        let may_split = |open: &Open| open.rows.len() >= rules.leaf_rows_min.saturating_mul(2);
        if !sides.iter().any(may_split) {
            self.spare.push(whole);
            return;
        }
        let [left, right] = sides;
        let (small, large) = if left.rows.len() <= right.rows.len() { (left, right) } else { (right, left) };
        let mut part = self.take();
        let part_rows = &rows[small.rows.clone()];
        self.gather(part_rows, cells);
        let ordered = &self.cells;
        let (small_may, large_may) = (may_split(small), may_split(large));
        let splits: Vec<(Option<Split>, Option<Split>)> = part
            .par_iter_mut()
            .zip(whole.par_iter_mut())
            .enumerate()
            .map(|(block, (part, whole))| {
                let places = &places[block];
                histogram::fill(part, &self.binned.blocks[block], places, part_rows, ordered);
                histogram::subtract(whole, part, places);
                let find = |may: bool, histogram: &BlockHistogram, total: &Cell| {
                    if may { self.best(block, histogram, places, total, rules) } else { None }
                };
                (find(small_may, part, &small.total), find(large_may, whole, &large.total))
            })
            .collect();
        // In the order of the features, so that equal gains are decided alike by any number of blocks.
        let (of_small, of_large): (Vec<_>, Vec<_>) = splits.into_iter().unzip();
        let first_best = |splits: Vec<Option<Split>>| splits.into_iter().flatten().reduce(|a, b| a.better(Some(b)));
        small.best = self.keep(first_best(of_small), part);
        large.best = self.keep(first_best(of_large), whole);
    }

    fn best(
        &self,
        block: usize,
        histogram: &BlockHistogram,
        places: &[usize],
        total: &Cell,
        rules: &Rules,
    ) -> Option<Split> {
        let mut best: Option<Split> = None;
        for place in places {
            let feature = self.binned.blocks[block].features[*place];
            let bins = self.edges[feature].bins();
            if let Some(split) = rules.best(feature, &histogram[*place], bins, total) {
                best = Some(best.map_or(split, |best| best.better(Some(split))));
            }
        }
        best
    }

    /// Puts the cells of `rows` side by side, as every block will read them.
    fn gather(&mut self, rows: &[u32], cells: &[Cell]) {
        self.cells.resize(rows.len(), Cell::default());
        self.cells.par_chunks_mut(CHUNK).zip(rows.par_chunks(CHUNK)).for_each(|(ordered, rows)| {
            for (to, row) in ordered.iter_mut().zip(rows) {
                *to = cells[*row as usize];
            }
        });
    }

    fn take(&mut self) -> Vec<BlockHistogram> {
        self.spare.pop().unwrap_or_else(|| histogram::empty(&self.binned.blocks))
    }

    fn keep(&mut self, best: Option<Split>, histogram: Vec<BlockHistogram>) -> Option<(Split, Vec<BlockHistogram>)> {
        match best {
            Some(split) => Some((split, histogram)),
            None => {
                self.spare.push(histogram);
                None
            }
        }
    }
}

/// Puts the rows that go left first, both sides in their old order; says how many go left.
fn partition(rows: &mut [u32], split: &Split, binned: &Binned) -> usize {
    let bin = binned.column(split.feature);
    let parts: Vec<(Vec<u32>, usize)> = rows
        .par_chunks(CHUNK)
        .map(|chunk| {
            // Left rows from the front, right rows from the back: no branch that the processor could guess wrong.
            let mut sorted = vec![0; chunk.len()];
            let (mut left, mut right) = (0, chunk.len());
            for row in chunk {
                let goes_left = split.goes_left(bin(*row));
                right -= usize::from(!goes_left);
                sorted[if goes_left { left } else { right }] = *row;
                left += usize::from(goes_left);
            }
            sorted[left..].reverse();
            (sorted, left)
        })
        .collect();
    let all_left: usize = parts.iter().map(|(_, left)| left).sum();
    let (to_left, to_right) = rows.split_at_mut(all_left);
    let (mut lefts, mut rights) = (0, 0);
    for (sorted, left) in &parts {
        to_left[lefts..lefts + left].copy_from_slice(&sorted[..*left]);
        let right = sorted.len() - left;
        to_right[rights..rights + right].copy_from_slice(&sorted[*left..]);
        lefts += left;
        rights += right;
    }
    all_left
}

impl Grown {
    /// The leaf of a row that may not have been among those the tree was grown of.
    pub fn leaf(&self, row: u32, binned: &Binned) -> usize {
        let mut at = 0_i32;
        while at >= 0 {
            let split = &self.splits[at as usize];
            let left = split.goes_left(binned.bin(split.feature, row));
            at = self.nodes[at as usize].children[usize::from(!left)];
        }
        !at as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::booster::gradients::Units;
    use crate::booster::matrix::Matrix;

    fn rules() -> Rules {
        Rules { units: Units([1.0; 3]), leaf_rows_min: 1, l2: 0.0, gain_min: 0.0 }
    }

    /// 2 × 2 fields with their own gradient each: two features, 4 leaves.
    fn fields() -> (Matrix, Vec<Cell>) {
        let first: Vec<f32> = (0..400).map(|r| (r % 20) as f32).collect();
        let second: Vec<f32> = (0..400).map(|r| (r / 20) as f32).collect();
        let cells = first
            .iter()
            .zip(&second)
            .map(|(a, b)| Cell([if *a < 10.0 { 0 } else { 50 } + if *b < 5.0 { 0 } else { 9 }, 0, 1, 1]))
            .collect();
        (Matrix::from_columns(&[first, second]).unwrap(), cells)
    }

    #[test]
    fn leaves_are_the_fields_that_differ_and_growing_stops_there() {
        let (x, cells) = fields();
        let edges: Vec<Edges> = (0..2).map(|f| Edges::of(x.column(f), 255)).collect();
        for threads in [1, 2] {
            let binned = Binned::new(&x, &edges, threads);
            let places: Vec<Vec<usize>> = binned.blocks.iter().map(|b| (0..b.features.len()).collect()).collect();
            let mut rows: Vec<u32> = (0..400).collect();
            let grown = Grower::new(&binned, &edges).grow(&mut rows, &cells, &places, &rules(), 31);
            assert_eq!(grown.leaves.len(), 4);
            assert_eq!((grown.nodes[0].feature, grown.nodes[0].threshold), (0, 9.5));
            for (leaf, range) in grown.leaves.iter().enumerate() {
                let of_leaf = &rows[range.clone()];
                assert!(of_leaf.windows(2).all(|w| w[0] < w[1]), "rows stay in order");
                assert!(of_leaf.iter().all(|row| cells[*row as usize] == cells[of_leaf[0] as usize]));
                assert!(of_leaf.iter().all(|row| grown.leaf(*row, &binned) == leaf));
            }
            assert_eq!(grown.leaves.iter().map(|l| l.len()).sum::<usize>(), 400);
        }
    }

    #[test]
    fn limits_on_leaves_and_rows_are_kept() {
        let (x, cells) = fields();
        let edges: Vec<Edges> = (0..2).map(|f| Edges::of(x.column(f), 255)).collect();
        let binned = Binned::new(&x, &edges, 1);
        for (leaves_max, leaf_rows_min, leaves) in [(3, 1, 3), (31, 101, 2), (31, 201, 1)] {
            let mut rows: Vec<u32> = (0..400).collect();
            let rules = Rules { leaf_rows_min, ..rules() };
            let grown = Grower::new(&binned, &edges).grow(&mut rows, &cells, &[vec![0, 1]], &rules, leaves_max);
            assert_eq!(grown.leaves.len(), leaves, "{leaves_max} {leaf_rows_min}");
            assert!(grown.leaves.iter().all(|l| l.len() >= leaf_rows_min));
        }
    }

    #[test]
    fn long_leaves_are_partitioned_like_short_ones() {
        let column: Vec<f32> = (0..30_000).map(|r| ((r * 31) % 97) as f32).collect();
        let x = Matrix::from_columns(std::slice::from_ref(&column)).unwrap();
        let edges = vec![Edges::of(&column, 255)];
        let binned = Binned::new(&x, &edges, 1);
        let split = Split { feature: 0, bin: 40, missing_left: false, gain: 1.0, left: Cell::default() };
        let mut rows: Vec<u32> = (0..30_000).rev().collect();
        let (mut expected, right): (Vec<u32>, Vec<u32>) = rows.iter().partition(|r| column[**r as usize] <= 40.0);
        let left = partition(&mut rows, &split, &binned);
        assert_eq!(left, expected.len());
        expected.extend(right);
        assert_eq!(rows, expected);
    }
}
